//! Clients: each keeps a session, asks for one thing or several at a time, and moves to another
//! server when its own is silent. What they are told goes to the checkers as it comes.

use std::collections::{BTreeMap, VecDeque};

use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::jute::{Reader, Write as _};
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::request::{XID_EVENT, XID_PING, XID_SET_WATCHES};
use ringkeeper::zxid::Zxid;

use crate::network::ConnId;
use crate::random::Random;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Create {
        path: String,
        flags: i32,
        with_stat: bool,
        value: Vec<u8>,
    },
    Container {
        path: String,
    },
    Set {
        path: String,
        value: Vec<u8>,
        version: i32,
    },
    Delete {
        path: String,
    },
    /// Sets both of the pair, or, with an impossible condition, neither.
    SetPair {
        value: Vec<u8>,
        fails: bool,
    },
    /// Other members for the ensemble.
    Reconfig {
        members: String,
    },
    Sync,
    Get {
        path: String,
        watch: bool,
    },
    Exists {
        path: String,
        watch: bool,
    },
    Children {
        path: String,
        watch: bool,
    },
    GetPair,
    AddWatch {
        path: String,
        is_recursive: bool,
    },
    SetWatches(Kept),
    Ping,
    Close,
}

/// What a client watches at a path, as its library keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    pub data: bool,
    pub exist: bool,
    pub child: bool,
    pub persistent: bool,
    pub recursive: bool,
}

/// The watches to be set again after a move, and what the client had seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub seen: Zxid,
    pub paths: BTreeMap<String, Modes>,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub xid: i32,
    pub ask: Ask,
    /// The newest write that anybody had an answer to when this was sent.
    pub floor: Zxid,
}

/// A connection of a client.
#[derive(Debug)]
pub struct Link {
    pub conn: ConnId,
    pub server: usize,
    /// The how many-th of this client.
    pub number: u64,
    pub is_ready: bool,
    pub heard_at: u64,
    pub pinged_at: u64,
    pub outstanding: VecDeque<Sent>,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    pub index: usize,
    pub random: Random,
    /// 0 before there is one.
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    /// The session's timeout that it asks for.
    pub wanted_ms: i32,
    pub seen: Zxid,
    pub xid: i32,
    pub link: Option<Link>,
    /// A dial is under way.
    pub is_dialling: bool,
    pub links: u64,
    pub watches: BTreeMap<String, Modes>,
    pub in_flight_max: usize,
    /// Writes that were answered.
    pub acknowledged: u64,
    /// A request's answer that the end of the run waits for.
    pub is_quiet: bool,
}

/// What stands in the tree that clients work on.
const PLAIN: [&str; 6] = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/c"];
pub const PAIR: [&str; 2] = ["/m0", "/m1"];
const PARENT: &str = "/q";

impl Client {
    pub fn new(index: usize, mut random: Random, wanted_ms: i32) -> Client {
        let in_flight_max = 1 + random.index(8);
        Client {
            index,
            random,
            session: 0,
            password: vec![0; 16],
            timeout_ms: wanted_ms,
            wanted_ms,
            seen: Zxid::ZERO,
            xid: 0,
            link: None,
            is_dialling: false,
            links: 0,
            watches: BTreeMap::new(),
            in_flight_max,
            acknowledged: 0,
            is_quiet: false,
        }
    }

    /// The session is over: a new one is wanted, with nothing left of the old.
    pub fn forget_session(&mut self) {
        self.session = 0;
        self.password = vec![0; 16];
        self.seen = Zxid::ZERO;
        self.watches.clear();
        self.xid = 0;
    }

    /// What to ask next, from everything that there is.
    pub fn choose(&mut self) -> Ask {
        let value = self.value();
        let random = &mut self.random;
        match random.below(100) {
            0..=24 => {
                let path = (*random.pick(&PLAIN)).to_owned();
                let version = if random.per_mille(900) { -1 } else { random.below(4) as i32 };
                Ask::Set { path, value, version }
            }
            25..=39 => self.choose_create(value),
            40..=45 => Ask::Delete { path: (*random.pick(&PLAIN[2..])).to_owned() },
            46..=51 => Ask::SetPair { value, fails: random.below(5) == 0 },
            52..=56 => Ask::Sync,
            57..=71 => {
                let watch = random.below(4) == 0;
                Ask::Get { path: (*random.pick(&PLAIN)).to_owned(), watch }
            }
            72..=79 => {
                let watch = random.below(2) == 0;
                Ask::Exists { path: (*random.pick(&PLAIN)).to_owned(), watch }
            }
            80..=87 => {
                let watch = random.below(2) == 0;
                let path = *random.pick(&["/", "/a", "/b", PARENT]);
                Ask::Children { path: path.to_owned(), watch }
            }
            88..=93 => Ask::GetPair,
            94..=96 => {
                let path = (*random.pick(&["/a", "/b", PARENT])).to_owned();
                Ask::AddWatch { path, is_recursive: random.flip() }
            }
            97 => match random.below(8) {
                0 => Ask::Close,
                _ => Ask::Container { path: format!("/k{}", random.below(3)) },
            },
            _ => Ask::Create {
                path: (*random.pick(&PAIR)).to_owned(),
                flags: 0,
                with_stat: false,
                value,
            },
        }
    }

    fn choose_create(&mut self, value: Vec<u8>) -> Ask {
        let random = &mut self.random;
        let with_stat = random.flip();
        let (path, flags) = match random.below(6) {
            0 => (PARENT.to_owned(), 0),
            1 => (format!("{PARENT}/s-"), 2),
            2 => (format!("{PARENT}/e-"), 3),
            3 => (format!("/e{}", random.below(4)), 1),
            _ => ((*random.pick(&PLAIN)).to_owned(), 0),
        };
        Ask::Create { path, flags, with_stat, value }
    }

    /// A value that is written once in a run.
    pub fn value(&mut self) -> Vec<u8> {
        let length = match self.random.below(40) {
            0 => 6000,
            _ => 8,
        };
        let mut value = format!("{}-{}-{}", self.index, self.links, self.xid).into_bytes();
        value.resize(length.max(value.len()), b'.');
        value
    }

    /// The first frame of a connection.
    pub fn connect_frame(&self) -> Vec<u8> {
        frame(|out| {
            out.put_i32(0);
            out.put_i64(self.seen.raw());
            out.put_i32(self.wanted_ms);
            out.put_i64(self.session);
            out.put_buffer(Some(&self.password));
            out.put_bool(false);
        })
    }

    /// The xid and frame of a request.
    pub fn request_frame(&mut self, ask: &Ask) -> (i32, Vec<u8>) {
        let xid = match ask {
            Ask::Ping => XID_PING,
            Ask::SetWatches(_) => XID_SET_WATCHES,
            _ => {
                self.xid += 1;
                self.xid
            }
        };
        let bytes = frame(|out| {
            out.put_i32(xid);
            encode(ask, out);
        });
        (xid, bytes)
    }
}

fn frame(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    encode(&mut body);
    let mut out = Vec::with_capacity(body.len() + 4);
    out.put_length(body.len());
    out.extend_from_slice(&body);
    out
}

fn put_create(path: &str, flags: i32, value: &[u8], out: &mut Vec<u8>) {
    out.put_string(path);
    out.put_buffer(Some(value));
    out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
    out.put_i32(flags);
}

fn put_multi_header(op: OpCode, is_done: bool, out: &mut Vec<u8>) {
    out.put_i32(if is_done { -1 } else { op.raw() });
    out.put_bool(is_done);
    out.put_i32(-1);
}

fn encode(ask: &Ask, out: &mut Vec<u8>) {
    match ask {
        Ask::Create { path, flags, with_stat, value } => {
            let op = if *with_stat { OpCode::Create2 } else { OpCode::Create };
            out.put_i32(op.raw());
            put_create(path, *flags, value, out);
        }
        Ask::Container { path } => {
            out.put_i32(OpCode::CreateContainer.raw());
            put_create(path, 4, b"", out);
        }
        Ask::Set { path, value, version } => {
            out.put_i32(OpCode::SetData.raw());
            out.put_string(path);
            out.put_buffer(Some(value));
            out.put_i32(*version);
        }
        Ask::Delete { path } => {
            out.put_i32(OpCode::Delete.raw());
            out.put_string(path);
            out.put_i32(-1);
        }
        Ask::SetPair { value, fails } => encode_pair(value, *fails, out),
        Ask::Reconfig { members } => {
            out.put_i32(OpCode::Reconfig.raw());
            out.put_buffer(None);
            out.put_buffer(None);
            out.put_string(members);
            out.put_i64(-1);
        }
        Ask::Sync => {
            out.put_i32(OpCode::Sync.raw());
            out.put_string("/a");
        }
        Ask::Get { path, watch } => encode_read(OpCode::GetData, path, *watch, out),
        Ask::Exists { path, watch } => encode_read(OpCode::Exists, path, *watch, out),
        Ask::Children { path, watch } => encode_read(OpCode::GetChildren2, path, *watch, out),
        Ask::GetPair => {
            out.put_i32(OpCode::MultiRead.raw());
            for path in PAIR {
                put_multi_header(OpCode::GetData, false, out);
                out.put_string(path);
                out.put_bool(false);
            }
            put_multi_header(OpCode::Error, true, out);
        }
        Ask::AddWatch { path, is_recursive } => {
            out.put_i32(OpCode::AddWatch.raw());
            out.put_string(path);
            out.put_i32(i32::from(*is_recursive));
        }
        Ask::SetWatches(kept) => encode_set_watches(kept, out),
        Ask::Ping => out.put_i32(OpCode::Ping.raw()),
        Ask::Close => out.put_i32(OpCode::CloseSession.raw()),
    }
}

fn encode_read(op: OpCode, path: &str, watch: bool, out: &mut Vec<u8>) {
    out.put_i32(op.raw());
    out.put_string(path);
    out.put_bool(watch);
}

fn encode_pair(value: &[u8], fails: bool, out: &mut Vec<u8>) {
    out.put_i32(OpCode::Multi.raw());
    for path in PAIR {
        put_multi_header(OpCode::SetData, false, out);
        out.put_string(path);
        out.put_buffer(Some(value));
        out.put_i32(-1);
    }
    if fails {
        put_multi_header(OpCode::Check, false, out);
        out.put_string(PAIR[0]);
        out.put_i32(1 << 30);
    }
    put_multi_header(OpCode::Error, true, out);
}

fn encode_set_watches(kept: &Kept, out: &mut Vec<u8>) {
    out.put_i32(OpCode::SetWatches2.raw());
    out.put_i64(kept.seen.raw());
    let lists: [fn(&Modes) -> bool; 5] =
        [|it| it.data, |it| it.exist, |it| it.child, |it| it.persistent, |it| it.recursive];
    for is_in in lists {
        let paths: Vec<&String> =
            kept.paths.iter().filter(|(_, modes)| is_in(modes)).map(|(path, _)| path).collect();
        out.put_length(paths.len());
        paths.iter().for_each(|path| out.put_string(path));
    }
}

impl Ask {
    /// Whether it is answered with the commit of a transaction of its own.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Ask::Create { .. }
                | Ask::Container { .. }
                | Ask::Set { .. }
                | Ask::Delete { .. }
                | Ask::SetPair { .. }
                | Ask::Reconfig { .. }
        )
    }
}

/// What a server has sent.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    Reply { xid: i32, zxid: Zxid, error: i32, body: &'a [u8] },
    Event { zxid: Zxid, kind: i32, path: &'a str },
}

/// Takes a frame apart.
pub fn decode(frame: &[u8]) -> Told<'_> {
    let mut reader = Reader::new(&frame[4..]);
    let mut take = || -> Result<Told<'_>, ringkeeper::wire::error::DecodeError> {
        let xid = reader.i32()?;
        let zxid = Zxid::from_raw(reader.i64()?);
        let error = reader.i32()?;
        if xid != XID_EVENT {
            return Ok(Told::Reply { xid, zxid, error, body: reader.remaining() });
        }
        let kind = reader.i32()?;
        reader.i32()?;
        Ok(Told::Event { zxid, kind, path: reader.string()? })
    };
    take().expect("servers send what is right")
}
