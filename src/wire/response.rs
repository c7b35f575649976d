//! Responses: what the server sends.
//!
//! ```text
//! frame         length i32 │ payload
//! first reply   protocol i32 (0) │ timeout i32 │ session i64 │ password buffer │
//!               read-only bool (where the client sent one)
//! other replies xid i32 │ zxid i64 │ error i32 │ body (only when error is 0)
//! watch event   xid i32 (-1) │ zxid i64 │ error i32 (0) │ type i32 │ state i32 (3) │ path
//! multi         { opcode i32 │ done bool (0) │ error i32 │ body }*, then -1, 1 and -1 likewise
//! ```
//! Free functions that append to the connection's output: nothing is built to be copied.
//! Source: `zookeeper.jute` (module proto), `MultiResponse.java`, `ProtocolManager.java`.

use crate::wire::acl::EncodedAcl;
use crate::wire::error::ErrorCode;
use crate::wire::jute::Write;
use crate::wire::opcode::OpCode;
use crate::wire::request::XID_EVENT;
use crate::wire::stat::Stat;
use crate::zxid::Zxid;

/// Where a frame begins whose length is not yet known.
#[derive(Debug)]
#[must_use = "the length is written by finish_frame"]
pub struct FrameStart(usize);

/// Begins a frame; end it with [`finish_frame`].
pub fn begin_frame(out: &mut Vec<u8>) -> FrameStart {
    let start = FrameStart(out.len());
    out.put_i32(0);
    start
}

/// Writes the length of what was appended since [`begin_frame`].
pub fn finish_frame(out: &mut [u8], start: FrameStart) {
    let body_at = start.0 + 4;
    let length = i32::try_from(out.len() - body_at).expect("replies are below 2 GiB");
    out[start.0..body_at].copy_from_slice(&length.to_be_bytes());
}

/// The answer to a connection's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The session's timeout in milliseconds; 0 where the session is refused.
    pub timeout_ms: i32,
    /// The session, or 0 where it is refused.
    pub session: i64,
    /// The session's password, or zeros where it is refused.
    pub password: [u8; 16],
    /// Whether the server is in read-only mode; `None` where the client sent no such byte.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The answer to a claim on a session that does not exist or with a wrong password; the
    /// connection is closed after it.
    pub const fn refused(read_only: Option<bool>) -> ConnectResponse {
        ConnectResponse { timeout_ms: 0, session: 0, password: [0; 16], read_only }
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let frame = begin_frame(out);
        out.put_i32(0);
        out.put_i32(self.timeout_ms);
        out.put_i64(self.session);
        out.put_buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            out.put_bool(read_only);
        }
        finish_frame(out, frame);
    }
}

/// What every reply after the first begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's.
    pub xid: i32,
    /// The last transaction that this server had applied, or -1 for an unknown operation.
    pub zxid: Zxid,
    /// An `ErrorCode`'s number; a body follows only where it is 0.
    pub error: i32,
}

impl ReplyHeader {
    /// Bytes of an encoded header.
    pub const SIZE: usize = 16;

    /// Changes the zxid in a whole frame that has a header.
    pub fn set_zxid(frame: &mut [u8], zxid: Zxid) {
        frame[8..16].copy_from_slice(&zxid.raw().to_be_bytes());
    }

    /// Appends the 16 bytes of the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.xid);
        out.put_i64(self.zxid.raw());
        out.put_i32(self.error);
    }
}

/// Appends a whole frame without a body: an error, or success where there is nothing to say.
pub fn put_header_only(out: &mut Vec<u8>, header: &ReplyHeader) {
    let frame = begin_frame(out);
    header.encode(out);
    finish_frame(out, frame);
}

/// Appends a whole frame of success, with what `put_body` appends as its body.
pub fn put_reply(out: &mut Vec<u8>, xid: i32, zxid: Zxid, put_body: impl FnOnce(&mut Vec<u8>)) {
    let frame = begin_frame(out);
    ReplyHeader { xid, zxid, error: ErrorCode::Ok.raw() }.encode(out);
    put_body(out);
    finish_frame(out, frame);
}

/// Appends a whole frame that says why a request failed.
pub fn put_error(out: &mut Vec<u8>, xid: i32, zxid: Zxid, error: ErrorCode) {
    put_header_only(out, &ReplyHeader { xid, zxid, error: error.raw() });
}

// ── Bodies ──

/// exists, setData, setACL: a stat.
pub fn put_stat(out: &mut Vec<u8>, stat: &Stat) {
    stat.encode(out);
}

/// getData, reconfig: data, null or not, and stat.
pub fn put_data(out: &mut Vec<u8>, data: Option<&[u8]>, stat: &Stat) {
    out.put_buffer(data);
    stat.encode(out);
}

/// create, sync: a path.
pub fn put_path(out: &mut Vec<u8>, path: &str) {
    out.put_string(path);
}

/// create2, createContainer, createTTL: path and stat.
pub fn put_path_and_stat(out: &mut Vec<u8>, path: &str, stat: &Stat) {
    out.put_string(path);
    stat.encode(out);
}

/// getChildren, getEphemerals: a list of names or paths. Returns how many there were.
pub fn put_strings<S: AsRef<str>>(
    out: &mut Vec<u8>,
    strings: impl IntoIterator<Item = S>,
) -> usize {
    let count_at = out.len();
    out.put_i32(0);
    let mut count = 0_i32;
    for string in strings {
        out.put_string(string.as_ref());
        count += 1;
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
    count as usize
}

/// getChildren2: names and the parent's stat.
pub fn put_children_and_stat<S: AsRef<str>>(
    out: &mut Vec<u8>,
    names: impl IntoIterator<Item = S>,
    stat: &Stat,
) {
    put_strings(out, names);
    stat.encode(out);
}

/// getACL: the list and the stat.
pub fn put_acl(out: &mut Vec<u8>, acl: &EncodedAcl<'_>, stat: &Stat) {
    out.extend_from_slice(acl.as_bytes());
    stat.encode(out);
}

/// getAllChildrenNumber: how many nodes are below.
pub fn put_count(out: &mut Vec<u8>, count: i32) {
    out.put_i32(count);
}

/// addWatch: an `ErrorResponse` of 0, though the header says so already.
pub fn put_watch_added(out: &mut Vec<u8>) {
    out.put_i32(ErrorCode::Ok.raw());
}

/// sasl: the next token, or null.
pub fn put_sasl_token(out: &mut Vec<u8>, token: Option<&[u8]>) {
    out.put_buffer(token);
}

/// whoAmI: schemes and users.
pub fn put_identities<'a>(
    out: &mut Vec<u8>,
    identities: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) {
    out.put_length(identities.len());
    for (scheme, user) in identities {
        out.put_string(scheme);
        out.put_string(user);
    }
}

/// The result of one operation of a multi or multiRead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpResult<'a> {
    /// Opcode 1.
    Created {
        path: &'a str,
    },
    /// Opcodes 15, 19 and 21.
    CreatedWithStat {
        path: &'a str,
        stat: &'a Stat,
    },
    Deleted,
    DataSet {
        stat: &'a Stat,
    },
    Checked,
    /// In a multi that failed: 0 before the operation at fault, its error, and then
    /// `RuntimeInconsistency`. In a multiRead the operation's own.
    Error(i32),
    Data {
        data: Option<&'a [u8]>,
        stat: &'a Stat,
    },
}

/// multi, multiRead: appends one result. End the body with [`put_multi_end`].
pub fn put_op_result(out: &mut Vec<u8>, result: &OpResult<'_>) {
    match *result {
        OpResult::Created { path } => {
            put_multi_header(out, OpCode::Create, 0);
            out.put_string(path);
        }
        OpResult::CreatedWithStat { path, stat } => {
            put_multi_header(out, OpCode::Create2, 0);
            put_path_and_stat(out, path, stat);
        }
        OpResult::Deleted => put_multi_header(out, OpCode::Delete, 0),
        OpResult::DataSet { stat } => {
            put_multi_header(out, OpCode::SetData, 0);
            stat.encode(out);
        }
        OpResult::Checked => put_multi_header(out, OpCode::Check, 0),
        OpResult::Error(error) => {
            put_multi_header(out, OpCode::Error, error);
            out.put_i32(error);
        }
        OpResult::Data { data, stat } => {
            put_multi_header(out, OpCode::GetData, 0);
            put_data(out, data, stat);
        }
    }
}

/// multiRead: appends the result of a getChildren.
pub fn put_children_result<S: AsRef<str>>(out: &mut Vec<u8>, names: impl IntoIterator<Item = S>) {
    put_multi_header(out, OpCode::GetChildren, 0);
    put_strings(out, names);
}

/// multi, multiRead: ends the body.
pub fn put_multi_end(out: &mut Vec<u8>) {
    out.put_i32(-1);
    out.put_bool(true);
    out.put_i32(-1);
}

fn put_multi_header(out: &mut Vec<u8>, op: OpCode, error: i32) {
    out.put_i32(op.raw());
    out.put_bool(false);
    out.put_i32(error);
}

// ── Events ──

/// What happened to a watched node (`Watcher.java`, `EventType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum EventKind {
    NodeCreated = 1,
    NodeDeleted = 2,
    NodeDataChanged = 3,
    NodeChildrenChanged = 4,
}

/// What an event says of the client's connection: it is connected (`KeeperState`).
const STATE_SYNC_CONNECTED: i32 = 3;

/// The zxid of events that setWatches replays: no single transaction fired them.
pub const ZXID_REPLAYED: Zxid = Zxid::from_raw(-1);

/// Appends a whole frame that tells of a change at `path` by the transaction `zxid`.
pub fn put_event(out: &mut Vec<u8>, kind: EventKind, zxid: Zxid, path: &str) {
    put_reply(out, XID_EVENT, zxid, |out| {
        out.put_i32(kind as i32);
        out.put_i32(STATE_SYNC_CONNECTED);
        out.put_string(path);
    });
}

#[cfg(test)]
mod tests;
