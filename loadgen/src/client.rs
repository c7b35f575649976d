//! A ZooKeeper client of the generator's own: just the frames it sends and the fields it reads.
//!
//! ```text
//! frame    length i32 | payload                       (big endian, length of the payload alone)
//! request  xid i32 | opcode i32 | body
//! reply    xid i32 | zxid i64 | error i32 | body      (body only when error is 0)
//! ```
//!
//! It shares the machine with the server it measures, so a connection costs one read and one write
//! for all that is ready, however many operations that is.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const CREATE: i32 = 1;
pub const GET_DATA: i32 = 4;
pub const SET_DATA: i32 = 5;
pub const SYNC: i32 = 9;
pub const PING: i32 = 11;
pub const ADD_WATCH: i32 = 106;
const CLOSE_SESSION: i32 = -11;

pub const XID_EVENT: i32 = -1;
pub const XID_PING: i32 = -2;

pub const ERROR_NODE_EXISTS: i32 = -110;

/// Bytes of `Stat` on the wire, and where `version` stands in it.
const STAT_BYTES: usize = 68;
const STAT_VERSION_OFFSET: usize = 32;

/// A frame longer than this is taken for garbage: four times what `jute.maxbuffer` allows.
const FRAME_BYTES_MAX: usize = 4 << 20;

const INBOX_BYTES: usize = 256 << 10;

/// Appends one frame to `out`; the length is filled in when the frame is finished.
pub struct Frame<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Frame<'a> {
    pub fn request(out: &'a mut Vec<u8>, xid: i32, opcode: i32) -> Frame<'a> {
        Frame::raw(out).int(xid).int(opcode)
    }

    /// A frame without the header that requests have: the one that opens a session.
    pub fn raw(out: &'a mut Vec<u8>) -> Frame<'a> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Frame { out, start }
    }

    pub fn int(self, value: i32) -> Frame<'a> {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn long(self, value: i64) -> Frame<'a> {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn bool(self, value: bool) -> Frame<'a> {
        self.out.push(u8::from(value));
        self
    }

    /// A buffer or a string: both are a length and the bytes.
    pub fn bytes(self, value: &[u8]) -> Frame<'a> {
        let length = i32::try_from(value.len()).expect("values are smaller than 2 GiB");
        let frame = self.int(length);
        frame.out.extend_from_slice(value);
        frame
    }

    /// The access list that lets anyone do anything.
    pub fn open_acl(self) -> Frame<'a> {
        self.int(1).int(31).bytes(b"world").bytes(b"anyone")
    }

    pub fn finish(self) {
        let length = i32::try_from(self.out.len() - self.start - 4).expect("frames are small");
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A frame from the server: a reply, or an event when `xid` is [`XID_EVENT`].
pub struct Message<'a> {
    pub xid: i32,
    pub error: i32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// `Stat.version` of a reply to getData or setData, whose last 68 bytes are the stat.
    pub fn version(&self) -> Option<i32> {
        let stat = self.body.len().checked_sub(STAT_BYTES)?;
        int_at(self.body, stat + STAT_VERSION_OFFSET)
    }

    /// The path of an event: after its type and the session's state.
    pub fn event_path(&self) -> Option<&[u8]> {
        let length = usize::try_from(int_at(self.body, 8)?).ok()?;
        self.body.get(12..)?.get(..length)
    }
}

fn int_at(bytes: &[u8], at: usize) -> Option<i32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_be_bytes(field.try_into().expect("four bytes were taken")))
}

/// Bytes received and not yet looked at.
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn new() -> Inbox {
        Inbox { bytes: vec![0; INBOX_BYTES], start: 0, end: 0 }
    }

    /// The next whole frame, or `None` until more has been received.
    pub fn next_message(&mut self) -> io::Result<Option<Message<'_>>> {
        let ready = &self.bytes[self.start..self.end];
        let Some(length) = int_at(ready, 0) else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| bad("a frame's length is negative or huge"))?;
        if ready.len() < 4 + length {
            self.make_room(4 + length);
            return Ok(None);
        }
        let payload = self.start + 4..self.start + 4 + length;
        self.start = payload.end;
        let payload = &self.bytes[payload];
        let (Some(xid), Some(error)) = (int_at(payload, 0), int_at(payload, 12)) else {
            return Err(bad("a reply is shorter than its header"));
        };
        Ok(Some(Message { xid, error, body: &payload[16..] }))
    }

    /// Moves what is left to the front, and makes sure that a frame of `bytes` has room.
    fn make_room(&mut self, bytes: usize) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
        }
    }

    /// Reads once; `false` says that nothing was there.
    fn receive(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.bytes.len() {
            self.make_room(0);
        }
        match stream.read(&mut self.bytes[self.end..]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// A request that waits for its reply.
pub struct InFlight<T> {
    pub xid: i32,
    pub sent: Instant,
    /// What the caller wants to know again when the reply comes.
    pub tag: T,
}

/// One session. Replies come in the order of the requests, so what is in flight is a queue.
pub struct Connection<T> {
    pub stream: TcpStream,
    pub inbox: Inbox,
    pub in_flight: VecDeque<InFlight<T>>,
    outbox: Vec<u8>,
    outbox_sent: usize,
    last_xid: i32,
}

impl<T> Connection<T> {
    /// Connects and opens a session; from then on nothing blocks.
    pub fn open(server: SocketAddr, session_timeout_ms: i32) -> io::Result<Connection<T>> {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut outbox = Vec::new();
        let frame = Frame::raw(&mut outbox).int(0).long(0).int(session_timeout_ms);
        frame.long(0).bytes(&[0; 16]).bool(false).finish();
        stream.write_all(&outbox)?;
        let mut response = [0; 41];
        stream.read_exact(&mut response)?;
        if int_at(&response, 0) != Some(37) || int_at(&response, 8) == Some(0) {
            return Err(bad("the server refused a new session"));
        }
        stream.set_nonblocking(true)?;
        outbox.clear();
        let in_flight = VecDeque::new();
        Ok(Connection {
            stream,
            inbox: Inbox::new(),
            in_flight,
            outbox,
            outbox_sent: 0,
            last_xid: 0,
        })
    }

    /// Starts a request and notes it as in flight since `now`; the caller fills its body.
    pub fn request(&mut self, opcode: i32, now: Instant, tag: T) -> Frame<'_> {
        self.last_xid += 1;
        self.in_flight.push_back(InFlight { xid: self.last_xid, sent: now, tag });
        Frame::request(&mut self.outbox, self.last_xid, opcode)
    }

    /// A ping keeps the session alive, and its reply comes after every event that is under way.
    pub fn ping(&mut self) {
        Frame::request(&mut self.outbox, XID_PING, PING).finish();
    }

    /// Reads once; `false` says that nothing was there.
    pub fn receive(&mut self) -> io::Result<bool> {
        self.inbox.receive(&mut self.stream)
    }

    /// Writes what waits; `false` says that the socket is full and the rest waits on.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.outbox_sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.outbox_sent..]) {
                Ok(count) => self.outbox_sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.outbox_sent = 0;
        Ok(true)
    }

    /// Ends the session. A server that is already gone is no error.
    pub fn close(mut self) {
        self.last_xid += 1;
        Frame::request(&mut self.outbox, self.last_xid, CLOSE_SESSION).finish();
        let quiet = self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
            && self.flush().is_ok();
        while quiet && matches!(self.stream.read(&mut self.inbox.bytes), Ok(1..)) {}
    }
}
