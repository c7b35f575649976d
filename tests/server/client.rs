//! A client that sends what it is told to and reads when it is told to.

use std::io::{ErrorKind, Read, Write as _};
use std::net::TcpStream;

use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::jute::{Reader, Write as _};
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::stat::Stat;

pub const PERSISTENT: i32 = 0;
pub const EPHEMERAL: i32 = 1;

/// A request without its xid.
pub type Request = (OpCode, Vec<u8>);

/// A reply, taken apart. An event has the xid -1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: Vec<u8>,
}

/// A connection with a session.
pub struct Client {
    pub socket: TcpStream,
    pub session: i64,
    pub password: Vec<u8>,
    xid: i32,
}

/// The first frame of a connection.
pub fn connect_frame(session: i64, password: &[u8], timeout_ms: i32) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_i32(0);
    frame.put_i64(0);
    frame.put_i32(timeout_ms);
    frame.put_i64(session);
    frame.put_buffer(Some(password));
    frame.put_bool(false);
    framed(&frame)
}

/// A payload behind its length.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_buffer(Some(payload));
    frame
}

/// The next frame's payload; `None` when the server has closed the connection.
pub fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    read_or_end(socket, &mut length)?;
    let mut payload = vec![0; i32::from_be_bytes(length) as usize];
    read_or_end(socket, &mut payload)?;
    Some(payload)
}

fn read_or_end(socket: &mut TcpStream, bytes: &mut [u8]) -> Option<()> {
    match socket.read_exact(bytes) {
        Ok(()) => Some(()),
        Err(error) if is_end(error.kind()) => None,
        Err(error) => panic!("reading: {error}"),
    }
}

fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Whether the server ends the connection, whatever it says before.
pub fn is_closed(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return is_end(error.kind()),
        }
    }
}

impl Client {
    /// Asks for a new session over `socket`.
    #[track_caller]
    pub fn connect(socket: TcpStream, timeout_ms: i32) -> Client {
        Client::reconnect(socket, 0, &[0; 16], timeout_ms).expect("a new session is given")
    }

    /// Asks for a session; `None` when it is refused or the connection ends.
    pub fn reconnect(
        mut socket: TcpStream,
        session: i64,
        password: &[u8],
        timeout_ms: i32,
    ) -> Option<Client> {
        socket.write_all(&connect_frame(session, password, timeout_ms)).unwrap();
        let answer = read_frame(&mut socket)?;
        let mut reader = Reader::new(&answer);
        assert_eq!(reader.i32(), Ok(0));
        let given_ms = reader.i32().unwrap();
        let session = reader.i64().unwrap();
        let password = reader.buffer().unwrap().unwrap().to_vec();
        assert_eq!(session != 0, given_ms != 0);
        (session != 0).then_some(Client { socket, session, password, xid: 0 })
    }

    /// A request's frame with the next xid.
    pub fn encode(&mut self, (op, body): &Request) -> Vec<u8> {
        self.xid += 1;
        let mut payload = Vec::new();
        payload.put_i32(self.xid);
        payload.put_i32(op.raw());
        payload.extend_from_slice(body);
        framed(&payload)
    }

    /// Sends a request; its xid.
    pub fn send(&mut self, request: &Request) -> i32 {
        let frame = self.encode(request);
        self.socket.write_all(&frame).unwrap();
        self.xid
    }

    /// The next reply or event; `None` when the connection has ended.
    pub fn try_receive(&mut self) -> Option<Reply> {
        let payload = read_frame(&mut self.socket)?;
        let mut reader = Reader::new(&payload);
        let (xid, zxid) = (reader.i32().unwrap(), reader.i64().unwrap());
        let error = reader.i32().unwrap();
        Some(Reply { xid, zxid, error, body: reader.remaining().to_vec() })
    }

    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        self.try_receive().expect("the connection goes on")
    }

    /// Sends a request and reads its reply, which must be the next thing that comes.
    #[track_caller]
    pub fn call(&mut self, request: &Request) -> Reply {
        let xid = self.send(request);
        let reply = self.receive();
        assert_eq!(reply.xid, xid, "{reply:?}");
        reply
    }

    /// A call that succeeds.
    #[track_caller]
    pub fn done(&mut self, request: &Request) -> Reply {
        let reply = self.call(request);
        assert_eq!(reply.error, 0, "{reply:?}");
        reply
    }

    /// A node's data; `None` when there is no node.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Option<Vec<u8>> {
        let reply = self.call(&get(path, false));
        match reply.error {
            0 => Some(data_of(&reply)),
            -101 => None,
            error => panic!("error {error}"),
        }
    }

    /// A ping's answer.
    #[track_caller]
    pub fn ping(&mut self) {
        let mut payload = Vec::new();
        payload.put_i32(-2);
        payload.put_i32(OpCode::Ping.raw());
        self.socket.write_all(&framed(&payload)).unwrap();
        assert_eq!(self.receive().xid, -2);
    }

    /// Ends the session.
    #[track_caller]
    pub fn close(mut self) {
        let reply = self.call(&CLOSE);
        assert_eq!(reply.error, 0);
        assert!(is_closed(&mut self.socket));
    }
}

pub const CLOSE: Request = (OpCode::CloseSession, Vec::new());

pub fn create(path: &str, data: &[u8], flags: i32) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_buffer(Some(data));
    body.extend_from_slice(EncodedAcl::OPEN.as_bytes());
    body.put_i32(flags);
    (OpCode::Create, body)
}

pub fn set(path: &str, data: &[u8]) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_buffer(Some(data));
    body.put_i32(-1);
    (OpCode::SetData, body)
}

pub fn delete(path: &str) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_i32(-1);
    (OpCode::Delete, body)
}

fn read(op: OpCode, path: &str, watch: bool) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_bool(watch);
    (op, body)
}

pub fn get(path: &str, watch: bool) -> Request {
    read(OpCode::GetData, path, watch)
}

pub fn children(path: &str) -> Request {
    read(OpCode::GetChildren, path, false)
}

pub fn sync(path: &str) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    (OpCode::Sync, body)
}

/// Watches a path and all below it until the connection ends.
pub fn watch_below(path: &str) -> Request {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_i32(1);
    (OpCode::AddWatch, body)
}

/// The data in the answer to a getData.
pub fn data_of(reply: &Reply) -> Vec<u8> {
    Reader::new(&reply.body).buffer().unwrap().unwrap_or_default().to_vec()
}

/// The stat in the answer to a getData.
pub fn stat_of(reply: &Reply) -> Stat {
    let mut reader = Reader::new(&reply.body);
    reader.buffer().unwrap();
    Stat::decode(&mut reader).unwrap()
}

/// The names in the answer to a getChildren, in order.
pub fn names_of(reply: &Reply) -> Vec<String> {
    let mut names: Vec<String> =
        Reader::new(&reply.body).strings().unwrap().into_iter().map(String::from).collect();
    names.sort();
    names
}
