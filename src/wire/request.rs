//! Requests: what clients send.
//!
//! ```text
//! first frame   protocol i32 │ last zxid seen i64 │ timeout i32 │ session i64 │ password buffer │
//!               read-only bool (absent from old clients)
//! others        xid i32 │ opcode i32 │ body by opcode
//! multi         { opcode i32 │ done bool (0) │ error i32 │ body }*, then -1, 1 and -1 likewise
//! ```
//! Everything borrows from the frame; only lists allocate. Bytes after a body are ignored, as
//! Apache ignores them. Source: `zookeeper.jute` (module proto), `MultiOperationRecord.java`.

use crate::wire::acl::EncodedAcl;
use crate::wire::error::DecodeError;
use crate::wire::jute::Reader;
use crate::wire::opcode::OpCode;
use crate::zxid::Zxid;

type Result<T> = std::result::Result<T, DecodeError>;

/// The xid of a watch event.
pub const XID_EVENT: i32 = -1;
/// The xid of a ping and of its reply.
pub const XID_PING: i32 = -2;
/// The xid of an auth packet and of its reply.
pub const XID_AUTH: i32 = -4;
/// The xid of setWatches and of its reply.
pub const XID_SET_WATCHES: i32 = -8;

/// The first frame of a connection: a session is asked for, or one that exists is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// 0 in every client.
    pub protocol_version: i32,
    /// What the client has seen: a server that is behind it must not serve it.
    pub last_zxid_seen: Zxid,
    /// The session timeout that the client would like, in milliseconds.
    pub timeout_ms: i32,
    /// The session that is claimed, or 0 for a new one.
    pub session: i64,
    /// The claimed session's password; 16 bytes where it is right.
    pub password: &'a [u8],
    /// Whether the client will take a read-only server. `None` where the client is so old that it
    /// does not send the byte: the response then omits it too.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    /// Decodes the payload of a connection's first frame.
    pub fn decode(payload: &'a [u8]) -> Result<ConnectRequest<'a>> {
        let mut reader = Reader::new(payload);
        Ok(ConnectRequest {
            protocol_version: reader.i32()?,
            last_zxid_seen: Zxid::from_raw(reader.i64()?),
            timeout_ms: reader.i32()?,
            session: reader.i64()?,
            password: reader.buffer()?.unwrap_or_default(),
            read_only: reader.bool().ok(),
        })
    }
}

/// What every request after the first frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's number of the request, repeated in the reply, or one of the `XID_` constants.
    pub xid: i32,
    /// The opcode as it stands on the wire.
    pub op: i32,
}

impl RequestHeader {
    /// The operation that is asked for. `None` where a client may not ask for it: the reply is
    /// then `Unimplemented` with the zxid -1, and the connection is closed (`Request.isValid`).
    pub fn operation(self) -> Option<OpCode> {
        match OpCode::from_raw(self.op)? {
            OpCode::Check | OpCode::Error => None,
            op => Some(op),
        }
    }
}

/// Splits a frame's payload into header and body.
pub fn decode_header(payload: &[u8]) -> Result<(RequestHeader, &[u8])> {
    let mut reader = Reader::new(payload);
    let header = RequestHeader { xid: reader.i32()?, op: reader.i32()? };
    Ok((header, reader.remaining()))
}

/// A node's creation, for the opcodes 1, 15, 19 and 21.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest<'a> {
    /// One of `Create`, `Create2`, `CreateContainer` and `CreateTtl`. Within a multi it is what
    /// the flags make of it, not always the number that was sent (`Op.java`, `getOpcode`).
    pub op: OpCode,
    pub path: &'a str,
    pub data: Option<&'a [u8]>,
    pub acl: EncodedAcl<'a>,
    /// The create mode as sent, see [`CreateMode::from_flags`].
    pub flags: i32,
    /// The time to live in milliseconds; present where `op` is `CreateTtl`, and unchecked.
    pub ttl_ms: Option<i64>,
}

/// How a node is to be created (`CreateMode.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    Persistent,
    Ephemeral,
    PersistentSequential,
    EphemeralSequential,
    Container,
    PersistentTtl,
    PersistentSequentialTtl,
}

impl CreateMode {
    /// The mode of a request's flags, or `None` where there is none: `BadArguments`.
    pub const fn from_flags(flags: i32) -> Option<CreateMode> {
        Some(match flags {
            0 => CreateMode::Persistent,
            1 => CreateMode::Ephemeral,
            2 => CreateMode::PersistentSequential,
            3 => CreateMode::EphemeralSequential,
            4 => CreateMode::Container,
            5 => CreateMode::PersistentTtl,
            6 => CreateMode::PersistentSequentialTtl,
            _ => return None,
        })
    }

    /// Whether a time to live belongs to the mode.
    pub const fn is_ttl(self) -> bool {
        matches!(self, CreateMode::PersistentTtl | CreateMode::PersistentSequentialTtl)
    }

    /// Whether the node goes with its session.
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, CreateMode::Ephemeral | CreateMode::EphemeralSequential)
    }

    /// Whether the parent's counter is appended to the name.
    pub const fn is_sequential(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentSequential
                | CreateMode::EphemeralSequential
                | CreateMode::PersistentSequentialTtl
        )
    }
}

/// A change of the ensemble's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconfigRequest<'a> {
    /// `server.N=…` entries, comma separated; `None` where null.
    pub joining: Option<&'a str>,
    /// Server ids, comma separated.
    pub leaving: Option<&'a str>,
    /// All members anew, instead of the two lists.
    pub members: Option<&'a str>,
    /// The configuration's version that this one shall follow, or -1 for any.
    pub current_config: i64,
}

/// What a client watches, told to the server that it has moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetWatches<'a> {
    /// What the client has seen: later changes become events.
    pub relative_zxid: Zxid,
    pub data: Vec<&'a str>,
    pub exist: Vec<&'a str>,
    pub child: Vec<&'a str>,
    /// Empty in opcode 101.
    pub persistent: Vec<&'a str>,
    /// Empty in opcode 101.
    pub persistent_recursive: Vec<&'a str>,
}

/// How an addWatch watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddWatchMode {
    /// One path, its data and children, until removed.
    Persistent,
    /// A path and all below it, until removed.
    PersistentRecursive,
}

impl AddWatchMode {
    /// The mode of a number.
    pub const fn from_raw(raw: i32) -> Result<AddWatchMode> {
        match raw {
            0 => Ok(AddWatchMode::Persistent),
            1 => Ok(AddWatchMode::PersistentRecursive),
            _ => Err(DecodeError::OutOfRange("addWatch mode")),
        }
    }
}

/// Which watches a checkWatches or removeWatches is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatcherType {
    Children,
    Data,
    Any,
    Persistent,
    PersistentRecursive,
}

impl WatcherType {
    /// The type of a number.
    pub const fn from_raw(raw: i32) -> Result<WatcherType> {
        match raw {
            1 => Ok(WatcherType::Children),
            2 => Ok(WatcherType::Data),
            3 => Ok(WatcherType::Any),
            4 => Ok(WatcherType::Persistent),
            5 => Ok(WatcherType::PersistentRecursive),
            _ => Err(DecodeError::OutOfRange("watcher type")),
        }
    }
}

/// One operation of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    Create(CreateRequest<'a>),
    Delete { path: &'a str, version: i32 },
    SetData { path: &'a str, data: Option<&'a [u8]>, version: i32 },
    Check { path: &'a str, version: i32 },
}

/// One operation of a multiRead. It never sets a watch, whatever its request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOp<'a> {
    GetData { path: &'a str },
    GetChildren { path: &'a str },
}

/// What a client asks for, by opcode. Versions of -1 mean any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Opcodes 1, 15, 19 and 21.
    Create(CreateRequest<'a>),
    Delete {
        path: &'a str,
        version: i32,
    },
    Exists {
        path: &'a str,
        watch: bool,
    },
    GetData {
        path: &'a str,
        watch: bool,
    },
    SetData {
        path: &'a str,
        data: Option<&'a [u8]>,
        version: i32,
    },
    GetAcl {
        path: &'a str,
    },
    SetAcl {
        path: &'a str,
        acl: EncodedAcl<'a>,
        version: i32,
    },
    GetChildren {
        path: &'a str,
        watch: bool,
    },
    Sync {
        path: &'a str,
    },
    Ping,
    GetChildren2 {
        path: &'a str,
        watch: bool,
    },
    Multi(Vec<Op<'a>>),
    Reconfig(ReconfigRequest<'a>),
    CheckWatches {
        path: &'a str,
        kind: WatcherType,
    },
    RemoveWatches {
        path: &'a str,
        kind: WatcherType,
    },
    DeleteContainer {
        path: &'a str,
    },
    MultiRead(Vec<ReadOp<'a>>),
    /// Who the client says that it is; handled outside of the pipeline.
    Auth {
        scheme: &'a str,
        auth: &'a [u8],
    },
    /// Opcodes 101 and 105.
    SetWatches(SetWatches<'a>),
    Sasl {
        token: Option<&'a [u8]>,
    },
    /// A null prefix reads as empty, which means the same.
    GetEphemerals {
        prefix: &'a str,
    },
    GetAllChildrenNumber {
        path: &'a str,
    },
    AddWatch {
        path: &'a str,
        mode: AddWatchMode,
    },
    WhoAmI,
    /// Sent by servers on behalf of a connecting client, to the leader.
    CreateSession {
        timeout_ms: i32,
    },
    CloseSession,
}

impl<'a> Request<'a> {
    /// Decodes the body of a request for `op`; bytes after it are ignored.
    ///
    /// # Errors
    /// Any of them is `MarshallingError` to the client. `UnexpectedType` for `Check` and `Error`,
    /// which nobody may ask for (see [`RequestHeader::operation`]), and for an operation that does
    /// not belong into a multi.
    pub fn decode(op: OpCode, body: &'a [u8]) -> Result<Request<'a>> {
        let mut body = Reader::new(body);
        let reader = &mut body;
        Ok(match op {
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Request::Create(decode_create(op, reader)?)
            }
            OpCode::Delete => Request::Delete { path: reader.string()?, version: reader.i32()? },
            OpCode::Exists => Request::Exists { path: reader.string()?, watch: reader.bool()? },
            OpCode::GetData => Request::GetData { path: reader.string()?, watch: reader.bool()? },
            OpCode::SetData => Request::SetData {
                path: reader.string()?,
                data: reader.buffer()?,
                version: reader.i32()?,
            },
            OpCode::GetAcl => Request::GetAcl { path: reader.string()? },
            OpCode::SetAcl => Request::SetAcl {
                path: reader.string()?,
                acl: EncodedAcl::decode(reader)?,
                version: reader.i32()?,
            },
            OpCode::GetChildren => {
                Request::GetChildren { path: reader.string()?, watch: reader.bool()? }
            }
            OpCode::Sync => Request::Sync { path: reader.string()? },
            OpCode::Ping => Request::Ping,
            OpCode::GetChildren2 => {
                Request::GetChildren2 { path: reader.string()?, watch: reader.bool()? }
            }
            OpCode::Multi => Request::Multi(decode_multi(reader)?),
            OpCode::MultiRead => Request::MultiRead(decode_multi_read(reader)?),
            op => decode_rare(op, reader)?,
        })
    }
}

/// The operations that clients send seldom.
fn decode_rare<'a>(op: OpCode, reader: &mut Reader<'a>) -> Result<Request<'a>> {
    Ok(match op {
        OpCode::Reconfig => Request::Reconfig(ReconfigRequest {
            joining: decode_nullable(reader)?,
            leaving: decode_nullable(reader)?,
            members: decode_nullable(reader)?,
            current_config: reader.i64()?,
        }),
        OpCode::CheckWatches => Request::CheckWatches {
            path: reader.string()?,
            kind: WatcherType::from_raw(reader.i32()?)?,
        },
        OpCode::RemoveWatches => Request::RemoveWatches {
            path: reader.string()?,
            kind: WatcherType::from_raw(reader.i32()?)?,
        },
        OpCode::DeleteContainer => Request::DeleteContainer { path: reader.string()? },
        OpCode::Auth => {
            // The packet's own type: always 0 and never looked at.
            reader.i32()?;
            let scheme = reader.string()?;
            Request::Auth { scheme, auth: reader.buffer()?.unwrap_or_default() }
        }
        OpCode::SetWatches | OpCode::SetWatches2 => {
            Request::SetWatches(decode_set_watches(op, reader)?)
        }
        OpCode::Sasl => Request::Sasl { token: reader.buffer()? },
        OpCode::GetEphemerals => Request::GetEphemerals { prefix: reader.string()? },
        OpCode::GetAllChildrenNumber => Request::GetAllChildrenNumber { path: reader.string()? },
        OpCode::AddWatch => Request::AddWatch {
            path: reader.string()?,
            mode: AddWatchMode::from_raw(reader.i32()?)?,
        },
        OpCode::WhoAmI => Request::WhoAmI,
        OpCode::CreateSession => Request::CreateSession { timeout_ms: reader.i32()? },
        OpCode::CloseSession => Request::CloseSession,
        op => return Err(DecodeError::UnexpectedType(op.raw())),
    })
}

fn decode_nullable<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>> {
    let bytes = reader.buffer()?;
    bytes.map(std::str::from_utf8).transpose().map_err(|_| DecodeError::NotUtf8)
}

fn decode_create<'a>(op: OpCode, reader: &mut Reader<'a>) -> Result<CreateRequest<'a>> {
    Ok(CreateRequest {
        op,
        path: reader.string()?,
        data: reader.buffer()?,
        acl: EncodedAcl::decode(reader)?,
        flags: reader.i32()?,
        ttl_ms: if op == OpCode::CreateTtl { Some(reader.i64()?) } else { None },
    })
}

fn decode_set_watches<'a>(op: OpCode, reader: &mut Reader<'a>) -> Result<SetWatches<'a>> {
    let mut watches = SetWatches {
        relative_zxid: Zxid::from_raw(reader.i64()?),
        data: reader.strings()?,
        exist: reader.strings()?,
        child: reader.strings()?,
        persistent: Vec::new(),
        persistent_recursive: Vec::new(),
    };
    if op == OpCode::SetWatches2 {
        watches.persistent = reader.strings()?;
        watches.persistent_recursive = reader.strings()?;
    }
    Ok(watches)
}

/// The opcode of a multi's next entry, or `None` at its end.
fn decode_multi_header(reader: &mut Reader<'_>) -> Result<Option<i32>> {
    let op = reader.i32()?;
    let done = reader.bool()?;
    reader.i32()?;
    Ok((!done).then_some(op))
}

/// Each entry takes bytes of the frame, so the list is bounded by the frame.
fn decode_multi<'a>(reader: &mut Reader<'a>) -> Result<Vec<Op<'a>>> {
    let mut ops = Vec::new();
    while let Some(raw) = decode_multi_header(reader)? {
        ops.push(match OpCode::from_raw(raw) {
            Some(
                op @ (OpCode::Create
                | OpCode::Create2
                | OpCode::CreateContainer
                | OpCode::CreateTtl),
            ) => Op::Create(create_in_multi(decode_create(op, reader)?)?),
            Some(OpCode::Delete) => Op::Delete { path: reader.string()?, version: reader.i32()? },
            Some(OpCode::SetData) => Op::SetData {
                path: reader.string()?,
                data: reader.buffer()?,
                version: reader.i32()?,
            },
            Some(OpCode::Check) => Op::Check { path: reader.string()?, version: reader.i32()? },
            _ => return Err(DecodeError::UnexpectedType(raw)),
        });
    }
    Ok(ops)
}

/// What a create within a multi is taken for (`MultiOperationRecord.java`, `Op.java`): the flags
/// decide over the opcode, and flags that need a time to live are refused where none was sent.
fn create_in_multi(mut create: CreateRequest<'_>) -> Result<CreateRequest<'_>> {
    let mode = CreateMode::from_flags(create.flags);
    if create.op == OpCode::CreateTtl {
        // Flags that are no mode stay, and fail the operation when it is prepared.
        if mode.is_none_or(|mode| !mode.is_ttl()) {
            create.op = OpCode::Create;
            create.ttl_ms = None;
        }
    } else if mode.is_none_or(CreateMode::is_ttl) {
        return Err(DecodeError::OutOfRange("create mode in a multi"));
    }
    if mode == Some(CreateMode::Container) {
        create.op = OpCode::CreateContainer;
    }
    Ok(create)
}

fn decode_multi_read<'a>(reader: &mut Reader<'a>) -> Result<Vec<ReadOp<'a>>> {
    let mut ops = Vec::new();
    while let Some(raw) = decode_multi_header(reader)? {
        let op = match OpCode::from_raw(raw) {
            Some(OpCode::GetData) => ReadOp::GetData { path: reader.string()? },
            Some(OpCode::GetChildren) => ReadOp::GetChildren { path: reader.string()? },
            _ => return Err(DecodeError::UnexpectedType(raw)),
        };
        // The watch flag.
        reader.bool()?;
        ops.push(op);
    }
    Ok(ops)
}

#[cfg(test)]
mod tests;
