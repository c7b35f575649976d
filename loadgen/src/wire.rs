//! A ZooKeeper client's frames: just those that are sent, and the fields that are read.
//!
//! ```text
//! frame     length i32 | payload                       (big endian, length of the payload alone)
//! connect   protocol i32 | zxid i64 | timeout i32 | session i64 | password buffer | read-only bool
//! connected protocol i32 | timeout i32 | session i64 | password buffer | …
//! request   xid i32 | opcode i32 | body
//! reply     xid i32 | zxid i64 | error i32 | body      (body only when error is 0)
//! event     as a reply with xid -1: type i32 | state i32 | path string
//! ```

use std::io::{self, ErrorKind};

pub const CREATE: i32 = 1;
pub const DELETE: i32 = 2;
pub const EXISTS: i32 = 3;
pub const GET_DATA: i32 = 4;
pub const SET_DATA: i32 = 5;
pub const GET_CHILDREN: i32 = 8;
pub const SYNC: i32 = 9;
pub const PING: i32 = 11;
pub const CHECK: i32 = 13;
pub const MULTI: i32 = 14;
pub const CREATE2: i32 = 15;
pub const ADD_WATCH: i32 = 106;
pub const CLOSE_SESSION: i32 = -11;

pub const XID_EVENT: i32 = -1;
pub const XID_PING: i32 = -2;

pub const ERROR_NO_NODE: i32 = -101;
pub const ERROR_NODE_EXISTS: i32 = -110;

/// Flags of a create.
pub const PERSISTENT: i32 = 0;
pub const EPHEMERAL: i32 = 1;
pub const SEQUENTIAL: i32 = 2;

/// Bytes of `Stat` on the wire, and where `version` stands in it.
pub const STAT_BYTES: usize = 68;
const STAT_VERSION_OFFSET: usize = 32;

/// A frame longer than this is taken for garbage: four times what `jute.maxbuffer` allows, since
/// the names of a full directory come in one frame.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Appends one frame to `out`; the length is filled in when the frame is finished.
pub struct Frame<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Frame<'a> {
    pub fn request(out: &'a mut Vec<u8>, xid: i32, opcode: i32) -> Frame<'a> {
        Frame::raw(out).int(xid).int(opcode)
    }

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

    /// Bytes as they are.
    pub fn raw_bytes(self, value: &[u8]) -> Frame<'a> {
        self.out.extend_from_slice(value);
        self
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
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    pub fn parse(payload: &'a [u8]) -> io::Result<Message<'a>> {
        let (Some(xid), Some(zxid), Some(error)) =
            (int_at(payload, 0), long_at(payload, 4), int_at(payload, 12))
        else {
            return Err(bad("a reply is shorter than its header"));
        };
        Ok(Message { xid, zxid, error, body: &payload[16..] })
    }

    /// `Stat.version` of a reply to getData or setData, whose last 68 bytes are the stat.
    pub fn version(&self) -> Option<i32> {
        let stat = self.body.len().checked_sub(STAT_BYTES)?;
        int_at(self.body, stat + STAT_VERSION_OFFSET)
    }

    /// The path of an event: after its type and the session's state.
    pub fn event_path(&self) -> Option<&'a [u8]> {
        buffer_at(self.body, 8)
    }

    /// The path that a create returned, or the data that a getData did.
    pub fn buffer(&self) -> Option<&'a [u8]> {
        buffer_at(self.body, 0)
    }

    /// The names that getChildren returned; ends early where the body does.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        let body = self.body;
        let count = int_at(body, 0).unwrap_or(0).max(0);
        let mut at = 4;
        (0..count).map_while(move |_| {
            let name = buffer_at(body, at)?;
            at += 4 + name.len();
            Some(name)
        })
    }

    /// The first error among a multi's results; 0 when all went well.
    pub fn multi_error(&self) -> i32 {
        // A failed multi's results are all errors: a header of 9 bytes, then the code.
        if int_at(self.body, 0) != Some(-1) || self.body.get(4) == Some(&1) {
            return 0;
        }
        let codes = self.body.chunks_exact(13).map_while(|result| int_at(result, 9));
        codes.into_iter().find(|code| !matches!(code, 0 | -2)).unwrap_or(0)
    }
}

/// What a server says to a connect request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// 0 says that the session has expired, or was refused.
    pub timeout_ms: i32,
    pub session: i64,
    pub password: Vec<u8>,
}

impl Connected {
    pub fn parse(payload: &[u8]) -> io::Result<Connected> {
        let (Some(timeout_ms), Some(session), Some(password)) =
            (int_at(payload, 4), long_at(payload, 8), buffer_at(payload, 16))
        else {
            return Err(bad("the answer to the connect request is too short"));
        };
        Ok(Connected { timeout_ms, session, password: password.to_vec() })
    }
}

/// The payload of the first whole frame in `bytes`.
///
/// `Err` when its length cannot be one; `Ok(Err(n))` when it needs `n` bytes, head included.
pub fn next_frame(bytes: &[u8]) -> io::Result<Result<&[u8], usize>> {
    let Some(length) = int_at(bytes, 0) else { return Ok(Err(4)) };
    let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| bad("a frame's length is negative or huge"))?;
    Ok(bytes.get(4..4 + length).ok_or(4 + length))
}

pub fn int_at(bytes: &[u8], at: usize) -> Option<i32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_be_bytes(field.try_into().expect("four bytes were taken")))
}

pub fn long_at(bytes: &[u8], at: usize) -> Option<i64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(i64::from_be_bytes(field.try_into().expect("eight bytes were taken")))
}

pub fn buffer_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::try_from(int_at(bytes, at)?).ok()?;
    bytes.get(at + 4..)?.get(..length)
}

pub fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_what_was_received() {
        let mut out = Vec::new();
        Frame::request(&mut out, 7, GET_DATA).bytes(b"/a").finish();
        assert_eq!(next_frame(&out).unwrap().unwrap(), &out[4..]);
        assert_eq!(next_frame(&out[..3]).unwrap(), Err(4));
        assert_eq!(next_frame(&out[..out.len() - 1]).unwrap(), Err(out.len()));
        assert!(next_frame(&[0xff; 8]).is_err());
        assert!(next_frame(&i32::MAX.to_be_bytes()).is_err());
    }

    #[test]
    fn fields_that_lie_about_their_length_are_refused() {
        let body = |length: i32| [&[0; 8], &length.to_be_bytes()[..], b"/a"].concat();
        for (length, path) in [(2, Some(&b"/a"[..])), (3, None), (-1, None), (i32::MAX, None)] {
            let body = body(length);
            let event = Message { xid: XID_EVENT, zxid: 0, error: 0, body: &body };
            assert_eq!(event.event_path(), path, "{length}");
        }
        assert!(Message::parse(&[0; 15]).is_err());
        assert!(Connected::parse(&[0; 19]).is_err());
        let names = [&2i32.to_be_bytes()[..], &1i32.to_be_bytes(), b"a"].concat();
        let children = Message { xid: 1, zxid: 0, error: 0, body: &names };
        assert_eq!(children.names().collect::<Vec<_>>(), [b"a"]);
    }

    #[test]
    fn a_multis_error_is_that_of_the_operation_that_failed() {
        let mut body = Vec::new();
        for code in [0i32, -101, -2] {
            body.extend_from_slice(
                &[&(-1i32).to_be_bytes()[..], &[0], &code.to_be_bytes()].concat(),
            );
            body.extend_from_slice(&code.to_be_bytes());
        }
        body.extend_from_slice(&[&(-1i32).to_be_bytes()[..], &[1], &[0xff; 4]].concat());
        let reply = Message { xid: 1, zxid: 0, error: 0, body: &body };
        assert_eq!(reply.multi_error(), -101);
        let fine = [&5i32.to_be_bytes()[..], &[0; 5]].concat();
        assert_eq!(Message { body: &fine, ..reply }.multi_error(), 0);
    }
}
