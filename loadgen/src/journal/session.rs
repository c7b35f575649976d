//! A session that outlives its connections: one request at a time, to whichever server answers.
//!
//! A request whose answer does not come is [`Lost`]: it may have been done, or not. The session is
//! then taken up again with its id and password, and with the newest zxid that it has seen, so that
//! no server that is behind serves it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wire::{self, Frame};

/// A reply longer than this is taken for garbage. A directory of 100,000 names fits.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// What is waited between two attempts to reach a server.
const RETRY: Duration = Duration::from_millis(20);

/// How long one server may take to answer a connect request.
const CONNECT: Duration = Duration::from_secs(5);

/// No answer came: the request may have been done, or not.
#[derive(Debug)]
pub struct Lost;

/// What [`Session::connect`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Connected {
    Opened,
    Resumed,
    /// The servers have ended the session with this id; the next connect opens a new one.
    Expired(i64),
    /// Nobody answered in time.
    Nobody,
}

pub struct Reply {
    pub zxid: i64,
    /// 0, or ZooKeeper's error code.
    pub error: i32,
    pub body: Vec<u8>,
}

pub struct Session {
    servers: Vec<SocketAddr>,
    next_server: usize,
    timeout_ms: i32,
    link: Option<TcpStream>,
    /// 0 when there is no session to take up again.
    pub id: i64,
    password: [u8; 16],
    zxid_seen: i64,
    last_xid: i32,
    out: Vec<u8>,
}

impl Session {
    /// Nothing is sent before [`Session::connect`]. `first` says which server is tried first.
    pub fn new(servers: &[SocketAddr], first: usize, timeout_ms: i32) -> Session {
        Session {
            servers: servers.to_vec(),
            next_server: first,
            timeout_ms,
            link: None,
            id: 0,
            password: [0; 16],
            zxid_seen: 0,
            last_xid: 0,
            out: Vec::new(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Tries the servers in turn until one answers, or `deadline` has passed.
    pub fn connect(&mut self, deadline: Instant) -> Connected {
        let had_session = self.id != 0;
        loop {
            match self.try_connect() {
                Ok(true) if had_session => return Connected::Resumed,
                Ok(true) => return Connected::Opened,
                Ok(false) if had_session => {
                    self.password = [0; 16];
                    return Connected::Expired(std::mem::take(&mut self.id));
                }
                Ok(false) | Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Connected::Nobody;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// One attempt at the next server; `false` says that the session is not known any more.
    fn try_connect(&mut self) -> io::Result<bool> {
        let server = self.servers[self.next_server % self.servers.len()];
        self.next_server += 1;
        let mut link = TcpStream::connect_timeout(&server, CONNECT)?;
        link.set_nodelay(true)?;
        link.set_read_timeout(Some(CONNECT))?;
        self.out.clear();
        let frame = Frame::raw(&mut self.out).int(0).long(self.zxid_seen).int(self.timeout_ms);
        frame.long(self.id).bytes(&self.password).bool(false).finish();
        link.write_all(&self.out)?;
        let answer = read_frame(&mut link)?;
        let mut fields = Fields(&answer);
        let (_, timeout_ms) = (fields.int()?, fields.int()?);
        let (id, password) = (fields.long()?, fields.bytes()?);
        if timeout_ms <= 0 {
            return Ok(false);
        }
        self.id = id;
        self.password = password.try_into().map_err(|_| bad("a password of another size"))?;
        let patience = Duration::from_millis(timeout_ms.unsigned_abs().into());
        link.set_read_timeout(Some(patience))?;
        link.set_write_timeout(Some(patience))?;
        self.link = Some(link);
        Ok(true)
    }

    /// Sends one request and waits for its reply.
    pub fn call(
        &mut self,
        opcode: i32,
        body: impl FnOnce(Frame<'_>) -> Frame<'_>,
    ) -> Result<Reply, Lost> {
        self.last_xid += 1;
        let (xid, Some(link)) = (self.last_xid, &mut self.link) else { return Err(Lost) };
        self.out.clear();
        body(Frame::request(&mut self.out, xid, opcode)).finish();
        let reply = link.write_all(&self.out).and_then(|()| read_reply(link, xid));
        match reply {
            Ok(reply) => {
                self.zxid_seen = self.zxid_seen.max(reply.zxid);
                Ok(reply)
            }
            Err(_) => {
                self.link = None;
                Err(Lost)
            }
        }
    }

    /// Gives the connection up, for instance because the session has moved to another.
    pub fn disconnect(&mut self) {
        self.link = None;
    }

    /// Ends the session; `true` when the server has said that it did.
    pub fn close(&mut self) -> bool {
        let closed =
            self.call(wire::CLOSE_SESSION, |frame| frame).is_ok_and(|reply| reply.error == 0);
        self.link = None;
        if closed {
            self.id = 0;
        }
        closed
    }
}

/// The reply to `xid`; events are passed over.
fn read_reply(link: &mut TcpStream, xid: i32) -> io::Result<Reply> {
    loop {
        let frame = read_frame(link)?;
        let mut fields = Fields(&frame);
        let (found, zxid, error) = (fields.int()?, fields.long()?, fields.int()?);
        if found == xid {
            return Ok(Reply { zxid, error, body: fields.0.to_vec() });
        }
        if found >= 0 {
            return Err(bad("a reply out of order"));
        }
    }
}

fn read_frame(link: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    link.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok();
    let length = length.filter(|length| *length <= REPLY_BYTES_MAX);
    let length = length.ok_or_else(|| bad("a frame's length is negative or huge"))?;
    let mut frame = Vec::new();
    // Grows with what arrives, so a lie about the length costs nothing.
    link.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up"));
    }
    Ok(frame)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Fields of a reply, taken from the front; each checks what is there.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| bad("a reply ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn bool(&mut self) -> io::Result<bool> {
        Ok(self.take(1)?[0] != 0)
    }

    pub fn int(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    pub fn long(&mut self) -> io::Result<i64> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    /// A buffer or a string; a null one is empty.
    pub fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    pub fn text(&mut self) -> io::Result<String> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| bad("a path that is not UTF-8"))
    }

    pub fn stat(&mut self) -> io::Result<Stat> {
        let (_, modified_zxid) = (self.long()?, self.long()?);
        self.take(16)?;
        let version = self.int()?;
        self.take(8)?;
        let owner = self.long()?;
        self.take(16)?;
        Ok(Stat { modified_zxid, version, owner })
    }
}

/// What the journal looks at of a node's `Stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub modified_zxid: i64,
    pub version: i32,
    /// The session of an ephemeral node, else 0.
    pub owner: i64,
}
