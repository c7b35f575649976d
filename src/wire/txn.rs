//! Transactions: what is logged, replicated and replayed, byte for byte as Apache's proposals.
//!
//! ```text
//! TxnHeader   client_id i64 │ cxid i32 │ zxid i64 │ time_ms i64 │ type i32
//! record      by type, see Txn
//! TxnDigest   version i32 (2) │ tree digest i64            absent in old logs
//! ```
//! Source: `zookeeper.jute` (module txn) and `SerializeUtils.java` in Apache's server.

use crate::wire::acl::EncodedAcl;
use crate::wire::error::DecodeError;
use crate::wire::jute::{Reader, Write};
use crate::wire::opcode::OpCode;
use crate::wire::path;
use crate::zxid::Zxid;

/// The version of the digest that Apache 3.9 and this server compute (`DigestCalculator.java`).
pub const DIGEST_VERSION: i32 = 2;

/// Bytes of an encoded digest.
const DIGEST_SIZE: usize = 12;

/// Who asked for a transaction, its place in the order, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnHeader {
    /// The session that asked.
    pub session: i64,
    /// The session's own number of the request.
    pub cxid: i32,
    /// The transaction's place in the order.
    pub zxid: Zxid,
    /// The leader's wall clock, in milliseconds.
    pub time_ms: i64,
}

/// What kind of node a create makes. The wire has one record each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKind {
    /// Type 1, or 15 where the client asked for the stat: persistent or ephemeral.
    Plain { ephemeral: bool, with_stat: bool },
    /// Type 19.
    Container,
    /// Type 21, with the time to live in milliseconds.
    Ttl(i64),
}

/// A node's creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTxn<'a> {
    pub path: &'a str,
    pub data: Option<&'a [u8]>,
    pub acl: EncodedAcl<'a>,
    /// The parent's stored cversion from here on; -1 in very old logs: one more than it is.
    pub parent_cversion: i32,
    pub kind: CreateKind,
}

/// A change of the tree or of the sessions, as decided by the leader: applying it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Txn<'a> {
    Create(CreateTxn<'a>),
    /// Type 2, or 20 where the reaper of containers and TTL nodes asked.
    Delete {
        path: &'a str,
        by_reaper: bool,
    },
    /// `version` is the node's version from here on.
    SetData {
        path: &'a str,
        data: Option<&'a [u8]>,
        version: i32,
    },
    /// `version` is the node's aversion from here on.
    SetAcl {
        path: &'a str,
        acl: EncodedAcl<'a>,
        version: i32,
    },
    /// A condition that held; only inside of a multi.
    CheckVersion {
        path: &'a str,
        version: i32,
    },
    CreateSession {
        timeout_ms: i32,
    },
    /// The session's ephemerals at its end; `None` in old logs: all that it owns.
    CloseSession {
        paths: Option<Vec<&'a str>>,
    },
    /// A write that failed: it consumes a zxid and changes nothing.
    Error {
        code: i32,
    },
    /// All or nothing, under one zxid.
    Multi(Vec<Txn<'a>>),
}

impl Txn<'_> {
    /// The number of the record's type.
    pub fn op(&self) -> OpCode {
        match self {
            Txn::Create(create) => match create.kind {
                CreateKind::Plain { with_stat: false, .. } => OpCode::Create,
                CreateKind::Plain { with_stat: true, .. } => OpCode::Create2,
                CreateKind::Container => OpCode::CreateContainer,
                CreateKind::Ttl(_) => OpCode::CreateTtl,
            },
            Txn::Delete { by_reaper: false, .. } => OpCode::Delete,
            Txn::Delete { by_reaper: true, .. } => OpCode::DeleteContainer,
            Txn::SetData { .. } => OpCode::SetData,
            Txn::SetAcl { .. } => OpCode::SetAcl,
            Txn::CheckVersion { .. } => OpCode::Check,
            Txn::CreateSession { .. } => OpCode::CreateSession,
            Txn::CloseSession { .. } => OpCode::CloseSession,
            Txn::Error { .. } => OpCode::Error,
            Txn::Multi(_) => OpCode::Multi,
        }
    }

    /// Appends the record, without its type.
    pub fn encode_record(&self, out: &mut Vec<u8>) {
        match self {
            Txn::Create(create) => encode_create(create, out),
            Txn::Delete { path, .. } => out.put_string(path),
            Txn::SetData { path, data, version } => {
                out.put_string(path);
                out.put_buffer(*data);
                out.put_i32(*version);
            }
            Txn::SetAcl { path, acl, version } => {
                out.put_string(path);
                out.extend_from_slice(acl.as_bytes());
                out.put_i32(*version);
            }
            Txn::CheckVersion { path, version } => {
                out.put_string(path);
                out.put_i32(*version);
            }
            Txn::CreateSession { timeout_ms } => out.put_i32(*timeout_ms),
            Txn::CloseSession { paths: None } => {}
            Txn::CloseSession { paths: Some(paths) } => {
                out.put_length(paths.len());
                paths.iter().for_each(|path| out.put_string(path));
            }
            Txn::Error { code } => out.put_i32(*code),
            Txn::Multi(txns) => {
                out.put_length(txns.len());
                txns.iter().for_each(|txn| txn.encode_in_multi(out));
            }
        }
    }

    /// Appends the type and the record behind its length, as a multi holds it.
    pub fn encode_in_multi(&self, out: &mut Vec<u8>) {
        out.put_i32(self.op().raw());
        let length_at = out.len();
        out.put_i32(0);
        self.encode_record(out);
        let length = i32::try_from(out.len() - length_at - 4).expect("frames are below 2 GiB");
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn encode_create(create: &CreateTxn<'_>, out: &mut Vec<u8>) {
    out.put_string(create.path);
    out.put_buffer(create.data);
    out.extend_from_slice(create.acl.as_bytes());
    if let CreateKind::Plain { ephemeral, .. } = create.kind {
        out.put_bool(ephemeral);
    }
    out.put_i32(create.parent_cversion);
    if let CreateKind::Ttl(ttl_ms) = create.kind {
        out.put_i64(ttl_ms);
    }
}

/// Appends a transaction's header with the type `op`; the record and the digest follow it.
pub fn encode_header(header: &TxnHeader, op: OpCode, out: &mut Vec<u8>) {
    out.put_i64(header.session);
    out.put_i32(header.cxid);
    out.put_i64(header.zxid.raw());
    out.put_i64(header.time_ms);
    out.put_i32(op.raw());
}

/// Appends the tree's digest after the transaction.
pub fn encode_digest(digest: u64, out: &mut Vec<u8>) {
    out.put_i32(DIGEST_VERSION);
    out.put_i64(digest.cast_signed());
}

/// Appends a whole transaction.
pub fn encode(header: &TxnHeader, txn: &Txn<'_>, digest: Option<u64>, out: &mut Vec<u8>) {
    encode_header(header, txn.op(), out);
    txn.encode_record(out);
    if let Some(digest) = digest {
        encode_digest(digest, out);
    }
}

/// A transaction as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged<'a> {
    pub header: TxnHeader,
    pub txn: Txn<'a>,
    /// The digest of the whole tree after the transaction, where its writer computed one of our
    /// version.
    pub digest: Option<u64>,
}

/// Decodes a whole transaction: the inverse of [`encode`].
///
/// # Errors
/// `DecodeError` when the bytes are not one transaction and nothing else.
pub fn decode(bytes: &[u8]) -> Result<Logged<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let header = TxnHeader {
        session: reader.i64()?,
        cxid: reader.i32()?,
        zxid: read_zxid(&mut reader)?,
        time_ms: reader.i64()?,
    };
    let op = reader.i32()?;
    let txn = decode_record(op, &mut reader, Place::Top)?;
    let digest = match reader.is_empty() {
        true => None,
        false => {
            let version = reader.i32()?;
            let digest = reader.i64()?.cast_unsigned();
            (version == DIGEST_VERSION).then_some(digest)
        }
    };
    match reader.remaining().len() {
        0 => Ok(Logged { header, txn, digest }),
        count => Err(DecodeError::TrailingBytes(count)),
    }
}

/// No reader's version is after [`Zxid::MAX`]: nobody would see what such a transaction did.
fn read_zxid(reader: &mut Reader<'_>) -> Result<Zxid, DecodeError> {
    let zxid = Zxid::from_raw(reader.i64()?);
    if zxid <= Zxid::MAX { Ok(zxid) } else { Err(DecodeError::OutOfRange("zxid")) }
}

/// The path of a znode that comes or goes: its parent must be found by it.
fn read_path<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let path = reader.string()?;
    if path::is_well_formed(path) { Ok(path) } else { Err(DecodeError::OutOfRange("path")) }
}

/// Where a record stands: a multi holds no multi, so decoding does not recurse further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    InMulti,
}

fn decode_record<'a>(
    op: i32,
    reader: &mut Reader<'a>,
    place: Place,
) -> Result<Txn<'a>, DecodeError> {
    let unexpected = DecodeError::UnexpectedType(op);
    Ok(match OpCode::from_raw(op).ok_or(unexpected)? {
        op @ (OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl) => {
            Txn::Create(decode_create(op, reader)?)
        }
        op @ (OpCode::Delete | OpCode::DeleteContainer) => {
            Txn::Delete { path: read_path(reader)?, by_reaper: op == OpCode::DeleteContainer }
        }
        OpCode::SetData | OpCode::Reconfig => {
            Txn::SetData { path: reader.string()?, data: reader.buffer()?, version: reader.i32()? }
        }
        OpCode::SetAcl => Txn::SetAcl {
            path: reader.string()?,
            acl: EncodedAcl::decode(reader)?,
            version: reader.i32()?,
        },
        OpCode::Check => Txn::CheckVersion { path: reader.string()?, version: reader.i32()? },
        OpCode::Error => Txn::Error { code: reader.i32()? },
        OpCode::CreateSession if place == Place::Top => {
            Txn::CreateSession { timeout_ms: reader.i32()? }
        }
        // Old logs have no list, and neither have those of servers that are told not to write it
        // (`closeSessionTxn.enabled`); a digest may follow either form.
        OpCode::CloseSession if place == Place::Top => Txn::CloseSession {
            paths: match reader.is_empty() || is_digest(reader.remaining()) {
                true => None,
                false => Some(read_paths(reader)?),
            },
        },
        OpCode::Multi if place == Place::Top => Txn::Multi(decode_multi(reader)?),
        _ => return Err(unexpected),
    })
}

/// The paths of znodes that go with their session.
fn read_paths<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, DecodeError> {
    let count = reader.count(4)?;
    (0..count).map(|_| read_path(reader)).collect()
}

/// Whether nothing but a digest is left. A list of as many paths as the digest's version says, 2,
/// takes more bytes than a digest does, since no path is empty.
fn is_digest(bytes: &[u8]) -> bool {
    bytes.len() == DIGEST_SIZE && bytes.starts_with(&DIGEST_VERSION.to_be_bytes())
}

fn decode_create<'a>(op: OpCode, reader: &mut Reader<'a>) -> Result<CreateTxn<'a>, DecodeError> {
    let (path, data) = (read_path(reader)?, reader.buffer()?);
    let acl = EncodedAcl::decode(reader)?;
    let ephemeral = match op {
        OpCode::Create | OpCode::Create2 => Some(reader.bool()?),
        _ => None,
    };
    let parent_cversion = reader.i32()?;
    let kind = match (op, ephemeral) {
        (op, Some(ephemeral)) => CreateKind::Plain { ephemeral, with_stat: op == OpCode::Create2 },
        (OpCode::CreateTtl, None) => CreateKind::Ttl(reader.i64()?),
        (_, None) => CreateKind::Container,
    };
    Ok(CreateTxn { path, data, acl, parent_cversion, kind })
}

fn decode_multi<'a>(reader: &mut Reader<'a>) -> Result<Vec<Txn<'a>>, DecodeError> {
    let count = reader.count(8)?;
    let mut txns = Vec::with_capacity(count);
    for _ in 0..count {
        let op = reader.i32()?;
        let mut record = Reader::new(reader.buffer()?.unwrap_or_default());
        txns.push(decode_record(op, &mut record, Place::InMulti)?);
        if !record.is_empty() {
            return Err(DecodeError::TrailingBytes(record.remaining().len()));
        }
    }
    Ok(txns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: TxnHeader =
        TxnHeader { session: 7, cxid: 3, zxid: Zxid::new(1, 2), time_ms: 1_700_000_000_000 };

    fn create(kind: CreateKind) -> Txn<'static> {
        let acl = EncodedAcl::OPEN;
        let data = Some(&b"x"[..]);
        Txn::Create(CreateTxn { path: "/a", data, acl, parent_cversion: 4, kind })
    }

    fn every_txn() -> Vec<Txn<'static>> {
        let mut txns = vec![
            create(CreateKind::Plain { ephemeral: true, with_stat: false }),
            create(CreateKind::Plain { ephemeral: false, with_stat: true }),
            create(CreateKind::Container),
            create(CreateKind::Ttl(1000)),
            Txn::Delete { path: "/a", by_reaper: false },
            Txn::Delete { path: "/a", by_reaper: true },
            Txn::SetData { path: "/a", data: None, version: 2 },
            Txn::SetAcl { path: "/a", acl: EncodedAcl::OPEN, version: 1 },
            Txn::CheckVersion { path: "/a", version: 9 },
            Txn::Error { code: -101 },
        ];
        let multi = Txn::Multi(txns.clone());
        txns.extend([
            multi,
            Txn::CreateSession { timeout_ms: 4000 },
            Txn::CloseSession { paths: Some(vec!["/a", "/b"]) },
            Txn::CloseSession { paths: Some(vec![]) },
            Txn::CloseSession { paths: None },
        ]);
        txns
    }

    #[test]
    fn every_txn_comes_back_with_and_without_digest() {
        for txn in every_txn() {
            for digest in [None, Some(0xdead_beef_0000_0001)] {
                let mut bytes = Vec::new();
                encode(&HEADER, &txn, digest, &mut bytes);
                assert_eq!(decode(&bytes), Ok(Logged { header: HEADER, txn: txn.clone(), digest }));
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error_and_none_panics() {
        for txn in every_txn() {
            let mut bytes = Vec::new();
            encode(&HEADER, &txn, None, &mut bytes);
            for end in 0..bytes.len() {
                let decoded = decode(&bytes[..end]);
                // A close session without its list, and one with a digest where it would be, are
                // what other servers write.
                if matches!(txn, Txn::CloseSession { .. }) && (end == 32 || end == 44) {
                    let decoded = decoded.map(|logged| logged.txn);
                    assert_eq!(decoded, Ok(Txn::CloseSession { paths: None }), "cut at {end}");
                    continue;
                }
                assert!(decoded.is_err(), "{txn:?} cut at {end}");
            }
        }
    }

    /// Two empty paths would be written as a digest's twelve bytes.
    #[test]
    fn a_list_of_empty_paths_is_not_taken_for_a_digest() {
        let mut bytes = Vec::new();
        encode_header(&HEADER, OpCode::CloseSession, &mut bytes);
        // As a fuzzer found it: the list, and a digest of another version.
        bytes.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 0, 12, 0x74, 0x6b, 0, 0, 0, 0xda, 0x32, 0x33]);
        assert_eq!(decode(&bytes), Err(DecodeError::OutOfRange("path")));
    }

    fn decode_again(header: &TxnHeader, txn: &Txn<'_>) -> Result<(), DecodeError> {
        let mut bytes = Vec::new();
        encode(header, txn, None, &mut bytes);
        decode(&bytes).map(|_| ())
    }

    /// A reader of the newest state would not see it, and the digest would count it.
    #[test]
    fn a_zxid_after_all_versions_is_refused() {
        let txn = Txn::Error { code: -1 };
        let with = |zxid| decode_again(&TxnHeader { zxid, ..HEADER }, &txn);
        assert_eq!(with(Zxid::MAX), Ok(()));
        for raw in [i64::MIN, -1] {
            assert_eq!(with(Zxid::from_raw(raw)), Err(DecodeError::OutOfRange("zxid")));
        }
    }

    /// `//a` names `/` as its parent, which would then have a child `a` that is not there.
    #[test]
    fn what_comes_or_goes_has_a_path_that_falls_apart() {
        let acl = EncodedAcl::OPEN;
        for path in ["//a", "/a/", "/a//b", "a", ""] {
            let kind = CreateKind::Container;
            let acl = acl.clone();
            let create = Txn::Create(CreateTxn { path, data: None, acl, parent_cversion: 1, kind });
            let close = Txn::CloseSession { paths: Some(vec!["/e", path]) };
            assert_eq!(decode_again(&HEADER, &close), Err(DecodeError::OutOfRange("path")));
            let delete = Txn::Delete { path, by_reaper: false };
            for txn in [create, delete] {
                for txn in [txn.clone(), Txn::Multi(vec![txn])] {
                    let refused = Err(DecodeError::OutOfRange("path"));
                    assert_eq!(decode_again(&HEADER, &txn), refused, "{txn:?}");
                }
            }
        }
    }

    #[test]
    fn a_multi_holds_no_multi() {
        let mut bytes = Vec::new();
        encode(&HEADER, &Txn::Multi(vec![Txn::Multi(vec![])]), None, &mut bytes);
        assert_eq!(decode(&bytes), Err(DecodeError::UnexpectedType(OpCode::Multi.raw())));
    }
}
