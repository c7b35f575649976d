//! One session over one socket at a time: what waits for replies, what waits to be written.
//!
//! It shares the machine with the server it measures, so a connection costs one read and one write
//! for all that is ready, and an idle one (of a hundred thousand watchers) holds no buffer: bytes
//! are received into the thread's own, and only the beginning of an unfinished frame is kept.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::{MILLISECOND, Nanos};
use crate::wire::{self, Connected, Frame};

/// A lost connection is tried again this soon, then ever later.
const BACKOFF_MIN: Nanos = 5 * MILLISECOND;
const BACKOFF_MAX: Nanos = 1000 * MILLISECOND;

/// An outbox that has grown beyond this is given back when it is empty.
const OUTBOX_KEPT_BYTES: usize = 64 << 10;

/// What a request was, for when its reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sync before the load.
    Ready,
    Prepare,
    Create,
    Set,
    Get,
    Delete,
    Multi,
    /// A watch is asked for, or a version.
    Arm,
    Close,
    LockCreate,
    LockChildren,
    LockWatch,
    Unlock,
    Put,
    Children,
    TakeGet,
    TakeDelete,
}

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub xid: i32,
    pub step: Step,
    /// When it should have been sent: latency counts from here.
    pub intended: Nanos,
    pub sent: Nanos,
    /// A key or a node's number.
    pub number: u64,
    /// The operation's, for an observer.
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No socket, and none wanted.
    Parked,
    /// The next attempt is at a time of the driver's.
    Waiting,
    Connecting,
    /// The connect request is sent.
    Greeting,
    Live,
    /// Told to close; whatever comes, it is over.
    Closing,
}

/// What a role wants of its session, done when the role's call has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Stay,
    /// A new session, from [`State::Parked`] or in place of the one that was just closed.
    Open,
    /// No socket until it is asked for again.
    Park,
    /// To be asked by [`Role::resume`](crate::role::Role::resume) for what it has put off.
    Resume,
}

pub struct Session {
    pub state: State,
    pub want: Want,
    pub stream: Option<TcpStream>,
    /// 0 before there is one.
    pub id: i64,
    password: Vec<u8>,
    pub pending: VecDeque<Pending>,
    outbox: Vec<u8>,
    outbox_sent: usize,
    /// The beginning of a frame whose rest has not come.
    leftover: Vec<u8>,
    last_xid: i32,
    /// Counts attempts, so that each goes to the next server.
    pub attempts: usize,
    backoff: Nanos,
    pub connect_started: Nanos,
    pub last_heard: Nanos,
    pub last_sent: Nanos,
    pub pings_pending: u32,
    pub last_zxid: i64,
}

impl Session {
    pub fn new(attempts: usize) -> Session {
        Session {
            state: State::Parked,
            want: Want::Stay,
            stream: None,
            id: 0,
            password: Vec::new(),
            pending: VecDeque::new(),
            outbox: Vec::new(),
            outbox_sent: 0,
            leftover: Vec::new(),
            last_xid: 0,
            attempts,
            backoff: BACKOFF_MIN,
            connect_started: 0,
            last_heard: 0,
            last_sent: 0,
            pings_pending: 0,
            last_zxid: 0,
        }
    }

    /// Begins to connect; the socket becomes writable when that is done, well or not.
    pub fn connect(&mut self, server: SocketAddr, source: u8, now: Nanos) -> io::Result<()> {
        self.connect_started = now;
        self.last_heard = now;
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if source > 0 && server.ip().is_loopback() && server.is_ipv4() {
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, source));
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.stream = Some(socket.into());
        self.state = State::Connecting;
        Ok(())
    }

    /// Whether the connection stands; an error says why it never will.
    pub fn is_connected(&self) -> io::Result<bool> {
        let stream = self.stream.as_ref().expect("a connecting session has a socket");
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream.peer_addr().is_ok()),
        }
    }

    /// Sends the connect request: for the session that there was, or for a new one.
    pub fn greet(&mut self, timeout_ms: i32, now: Nanos) {
        self.state = State::Greeting;
        self.last_sent = now;
        let frame = Frame::raw(&mut self.outbox).int(0).long(self.last_zxid).int(timeout_ms);
        let frame = frame.long(self.id);
        if self.id == 0 {
            frame.bytes(&[0; 16]).bool(false).finish();
        } else {
            frame.bytes(&self.password).bool(false).finish();
        }
    }

    /// Takes the answer; `true` says that the session is a new one.
    pub fn greeted(&mut self, connected: Connected, now: Nanos) -> bool {
        let fresh = self.id != connected.session;
        self.id = connected.session;
        self.password = connected.password;
        self.state = State::Live;
        self.last_heard = now;
        self.backoff = BACKOFF_MIN;
        fresh
    }

    /// Drops the socket, and what was under way with it: the requests whose reply will not come.
    pub fn disconnect(&mut self, state: State) -> VecDeque<Pending> {
        if let Some(stream) = self.stream.take() {
            // A reset leaves no port behind that rests for a minute.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        self.state = state;
        self.want = Want::Stay;
        self.outbox.clear();
        self.outbox_sent = 0;
        self.leftover = Vec::new();
        self.pings_pending = 0;
        std::mem::take(&mut self.pending)
    }

    /// The next connection is for a new session.
    pub fn forget(&mut self) {
        self.id = 0;
        self.last_zxid = 0;
    }

    /// How long to wait before the next attempt; longer each time, until one succeeds.
    pub fn next_backoff(&mut self) -> Nanos {
        let backoff = self.backoff;
        self.backoff = (backoff * 2).min(BACKOFF_MAX);
        backoff
    }

    /// Starts a request and notes it as under way; the caller fills its body.
    pub fn request(&mut self, opcode: i32, mut pending: Pending) -> Frame<'_> {
        self.last_xid = if self.last_xid == i32::MAX { 1 } else { self.last_xid + 1 };
        pending.xid = self.last_xid;
        self.pending.push_back(pending);
        self.last_sent = pending.sent;
        Frame::request(&mut self.outbox, self.last_xid, opcode)
    }

    /// A ping keeps the session alive, and its reply comes after every event that is under way.
    pub fn ping(&mut self, now: Nanos) {
        self.pings_pending += 1;
        self.last_sent = now;
        Frame::request(&mut self.outbox, wire::XID_PING, wire::PING).finish();
    }

    /// Reads once, behind what was left over; gives the bytes that `buffer` then holds, or `None`
    /// when nothing was there.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let kept = self.leftover.len();
        let need = match wire::next_frame(&self.leftover)? {
            Err(need) if kept > 0 => need,
            _ => 0,
        };
        if buffer.len() < need.max(kept + 1) {
            buffer.resize(need.max(kept + 1), 0);
        }
        buffer[..kept].copy_from_slice(&self.leftover);
        let Some(stream) = &mut self.stream else { return Ok(None) };
        match stream.read(&mut buffer[kept..]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")),
            Ok(count) => {
                self.leftover.clear();
                Ok(Some(kept + count))
            }
            Err(error) if is_not_now(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the beginning of a frame until its rest comes.
    pub fn keep(&mut self, rest: &[u8]) {
        self.leftover.extend_from_slice(rest);
    }

    /// Writes what waits; `false` says that the socket is full and the rest waits on.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(true) };
        while self.outbox_sent < self.outbox.len() {
            match stream.write(&self.outbox[self.outbox_sent..]) {
                Ok(count) => self.outbox_sent += count,
                Err(error) if is_not_now(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.outbox_sent = 0;
        if self.outbox.capacity() > OUTBOX_KEPT_BYTES {
            self.outbox = Vec::new();
        }
        Ok(true)
    }
}

/// Linux's number for a connect that goes on in the background.
const EINPROGRESS: i32 = 115;

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
