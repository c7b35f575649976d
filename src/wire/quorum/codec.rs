//! The quorum port's packets as bytes (`Leader.java`, `LearnerHandler.java`, `Learner.java`).
//!
//! ```text
//!  no. name               zxid                  data (null unless said)
//! from a learner
//!   1  REQUEST            -1                    session i64 │ cxid i32 │ op i32 │ body; authinfo
//!   3  ACK                what is durable
//!   5  PING               as in the leader's    (session i64 │ timeout i32)…
//!   6  REVALIDATE         -1                    session i64 │ timeout i32
//!  11  FOLLOWERINFO       acceptedEpoch << 32   server i64 │ protocol i32 │ config version i64
//!  16  OBSERVERINFO       the same
//!  18  ACKEPOCH           the log's end         currentEpoch i32, or -1
//! from a leader
//!   2  PROPOSAL           the transaction's     transaction
//!   4  COMMIT             the transaction's
//!   5  PING               the last proposed
//!   6  REVALIDATE         -1                    session i64 │ is_valid bool
//!   7  SYNC               0
//!   8  INFORM             the transaction's     transaction
//!   9  COMMITANDACTIVATE  the transaction's     designated leader i64
//!  10  NEWLEADER          epoch << 32           configuration as text
//!  12  UPTODATE           -1
//!  13  DIFF, 14 TRUNC, 15 SNAP                  where the learner will stand
//!  17  LEADERINFO         epoch << 32           protocol i32
//!  19  INFORMANDACTIVATE  the transaction's     designated leader i64 │ transaction
//! 100  CHUNK (ours)       offset in bytes       crc32c of the bytes u32 │ bytes
//! ```
//!
//! Apache's servers skip what follows a field list's end, and so does this. They look at authinfo
//! in REQUEST only.

use std::sync::Arc;

use crate::wire::acl::Id;
use crate::wire::error::DecodeError;
use crate::wire::jute::{Reader, Write};
use crate::wire::quorum::{Extensions, Forwarded, FromLeader, FromLearner, ServerId};
use crate::zxid::Zxid;

type Result<T> = std::result::Result<T, DecodeError>;

const REQUEST: i32 = 1;
const PROPOSAL: i32 = 2;
const ACK: i32 = 3;
const COMMIT: i32 = 4;
const PING: i32 = 5;
const REVALIDATE: i32 = 6;
const SYNC: i32 = 7;
const INFORM: i32 = 8;
const COMMIT_AND_ACTIVATE: i32 = 9;
const NEW_LEADER: i32 = 10;
const FOLLOWER_INFO: i32 = 11;
const UP_TO_DATE: i32 = 12;
const DIFF: i32 = 13;
const TRUNC: i32 = 14;
const SNAP: i32 = 15;
const OBSERVER_INFO: i32 = 16;
const LEADER_INFO: i32 = 17;
const ACK_EPOCH: i32 = 18;
const INFORM_AND_ACTIVATE: i32 = 19;
/// Not Apache's, and far from what Apache may add.
const CHUNK: i32 = 100;

/// The most bytes of a snapshot in one [`FromLeader::Chunk`]: a packet that heartbeats behind it
/// do not have to wait for long.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// What a packet has besides its data and its authinfo's entries, in bytes.
pub const PACKET_OVERHEAD: usize = 20;

/// The protocol of a learner that does not say (`LearnerHandler.version`).
const PROTOCOL_UNSAID: i32 = 1;

/// The scheme of the authinfo entry that names [`Extensions`].
const EXTENSIONS_SCHEME: &str = "ringkeeper";
const CHUNKED_SNAPSHOT: &str = "chunked_snapshot";
const CUMULATIVE: &str = "cumulative";

/// The least bytes of an encoded id: two empty strings.
const ID_BYTES_MIN: usize = 8;

/// A packet that is there as a whole.
struct Packet<'a> {
    kind: i32,
    zxid: i64,
    data: Option<&'a [u8]>,
    /// The entries behind their count, their lengths checked.
    authinfo: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the front of `bytes` and its length, or `None` where bytes are missing.
    fn read(bytes: &'a [u8], limit: usize) -> Result<Option<(Packet<'a>, usize)>> {
        let mut reader = Reader::new(bytes);
        let Some((kind, zxid)) = there((reader.i32(), reader.i64()))? else { return Ok(None) };
        let limit = if kind == CHUNK { CHUNK_BYTES_MAX + 4 } else { limit };
        let Some(data) = bounded(&mut reader, limit)? else { return Ok(None) };
        let authinfo = reader.remaining();
        let Some(length) = authinfo_length(authinfo, limit)? else { return Ok(None) };
        let consumed = bytes.len() - authinfo.len() + length;
        Ok(Some((Packet { kind, zxid, data, authinfo: &authinfo[..length] }, consumed)))
    }

    /// The zxid, where it says how far a history goes.
    fn position(&self) -> Result<Zxid> {
        if self.zxid < 0 { Err(DecodeError::OutOfRange("zxid")) } else { Ok(self.raw_zxid()) }
    }

    /// The zxid, whatever it is.
    fn raw_zxid(&self) -> Zxid {
        Zxid::from_raw(self.zxid)
    }

    fn epoch(&self) -> Result<u32> {
        Ok(self.position()?.epoch())
    }

    fn data(&self) -> Result<&'a [u8]> {
        self.data.ok_or(DecodeError::Truncated)
    }

    fn fields(&self) -> Result<Reader<'a>> {
        Ok(Reader::new(self.data()?))
    }

    /// Who authinfo names. What is not UTF-8 (Apache's servers write surrogates each for itself) is
    /// left out: that gives a client less than it is due, where an error would cost the link.
    fn ids(&self) -> Result<Vec<Id>> {
        let mut reader = Reader::new(self.authinfo);
        let mut ids = Vec::new();
        for _ in 0..reader.count(ID_BYTES_MIN)? {
            let (scheme, id) = (reader.buffer()?, reader.buffer()?);
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().into());
            if let (Ok(scheme), Ok(id)) = (text(scheme), text(id)) {
                ids.push(Id { scheme, id });
            }
        }
        Ok(ids)
    }

    fn extensions(&self) -> Result<Extensions> {
        let ids = self.ids()?;
        let ours = ids.iter().filter(|id| id.scheme == EXTENSIONS_SCHEME);
        let mut extensions = Extensions::default();
        for name in ours.flat_map(|id| id.id.split(',')) {
            extensions.chunked_snapshot |= name == CHUNKED_SNAPSHOT;
            extensions.cumulative |= name == CUMULATIVE;
        }
        Ok(extensions)
    }
}

/// What was read, or `None` where it ended too early.
fn there<A, B>((first, second): (Result<A>, Result<B>)) -> Result<Option<(A, B)>> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(Some((first, second))),
        (Err(DecodeError::Truncated), _) | (_, Err(DecodeError::Truncated)) => Ok(None),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// A buffer of at most `limit` bytes, or `None` where bytes are missing.
fn bounded<'a>(reader: &mut Reader<'a>, limit: usize) -> Result<Option<Option<&'a [u8]>>> {
    let declared = reader.clone().i32();
    if let Ok(length @ 0..) = declared
        && length as usize > limit
    {
        return Err(DecodeError::TooLong { length: length as usize, limit });
    }
    match reader.buffer() {
        Ok(buffer) => Ok(Some(buffer)),
        Err(DecodeError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long the authinfo at the front of `bytes` is; `None` where bytes are
/// missing. All of it together is at most `limit` bytes and the count.
fn authinfo_length(bytes: &[u8], limit: usize) -> Result<Option<usize>> {
    let mut reader = Reader::new(bytes);
    let count = match reader.i32() {
        Err(_) => return Ok(None),
        Ok(-1) => 0,
        Ok(count) => usize::try_from(count).map_err(|_| DecodeError::NegativeLength)?,
    };
    let least = count.saturating_mul(ID_BYTES_MIN);
    if least > limit {
        return Err(DecodeError::TooLong { length: least, limit });
    }
    for _ in 0..count * 2 {
        // The count's four bytes are not counted, those of this string's length are.
        let left = limit.saturating_sub(bytes.len() - reader.remaining().len());
        if bounded(&mut reader, left)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(bytes.len() - reader.remaining().len()))
}

impl FromLearner {
    /// The packet at the front of `bytes` and how many bytes it takes; `None` where more bytes are
    /// needed. `limit` is the most bytes of its data, and of its authinfo: `jute.maxbuffer` and
    /// what a request may have beyond it.
    ///
    /// # Errors
    /// The bytes are no packet of a learner, or larger than the limit, which shows as soon as a
    /// length is there. Nothing can be read after it.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Option<(FromLearner, usize)>> {
        match Packet::read(bytes, limit)? {
            Some((packet, consumed)) => Ok(Some((from_learner(&packet)?, consumed))),
            None => Ok(None),
        }
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FromLearner::Info {
                is_observer,
                server,
                accepted_epoch,
                protocol,
                config_version,
                extensions,
            } => {
                let kind = if *is_observer { OBSERVER_INFO } else { FOLLOWER_INFO };
                put_head(out, kind, Zxid::new(*accepted_epoch, 0).raw(), 20);
                out.put_i64(server.0);
                out.put_i32(*protocol);
                out.put_i64(*config_version);
                put_extensions(out, *extensions);
            }
            FromLearner::AckEpoch { last, current_epoch } => {
                put_head(out, ACK_EPOCH, last.raw(), 4);
                out.put_i32(current_epoch.map_or(-1, |epoch| epoch as i32));
                put_nobody(out);
            }
            FromLearner::Ack { zxid } => put_bare(out, ACK, zxid.raw()),
            FromLearner::Ping { zxid, touched } => {
                put_head(out, PING, zxid.raw(), touched.len() * 12);
                for &(session, timeout_ms) in touched {
                    out.put_i64(session);
                    out.put_i32(timeout_ms);
                }
                put_nobody(out);
            }
            FromLearner::Request(request) => put_request(out, request),
            FromLearner::Revalidate { session, timeout_ms } => {
                put_head(out, REVALIDATE, -1, 12);
                out.put_i64(*session);
                out.put_i32(*timeout_ms);
                put_nobody(out);
            }
        }
    }
}

fn from_learner(packet: &Packet<'_>) -> Result<FromLearner> {
    Ok(match packet.kind {
        FOLLOWER_INFO | OBSERVER_INFO => info(packet)?,
        ACK_EPOCH => FromLearner::AckEpoch {
            // -1: a server that found nothing on its disk and does not trust that.
            last: if packet.zxid == -1 { Zxid::ZERO } else { packet.position()? },
            current_epoch: match packet.fields()?.i32()? {
                -1 => None,
                epoch => Some(epoch.try_into().map_err(|_| DecodeError::OutOfRange("epoch"))?),
            },
        },
        ACK => FromLearner::Ack { zxid: packet.position()? },
        PING => {
            let mut fields = Reader::new(packet.data.unwrap_or_default());
            let mut touched = Vec::with_capacity(fields.remaining().len() / 12);
            while !fields.is_empty() {
                touched.push((fields.i64()?, fields.i32()?));
            }
            FromLearner::Ping { zxid: packet.raw_zxid(), touched }
        }
        REQUEST => {
            let mut fields = packet.fields()?;
            FromLearner::Request(Forwarded {
                session: fields.i64()?,
                cxid: fields.i32()?,
                op: fields.i32()?,
                body: fields.remaining().to_vec(),
                ids: packet.ids()?,
            })
        }
        REVALIDATE => {
            let mut fields = packet.fields()?;
            FromLearner::Revalidate { session: fields.i64()?, timeout_ms: fields.i32()? }
        }
        kind => return Err(DecodeError::UnexpectedType(kind)),
    })
}

/// A learner's first packet. Old ones end after the server's id, or after the protocol.
fn info(packet: &Packet<'_>) -> Result<FromLearner> {
    let mut fields = packet.fields()?;
    Ok(FromLearner::Info {
        is_observer: packet.kind == OBSERVER_INFO,
        server: ServerId(fields.i64()?),
        accepted_epoch: packet.epoch()?,
        protocol: fields.i32().unwrap_or(PROTOCOL_UNSAID),
        config_version: fields.i64().unwrap_or(0),
        extensions: packet.extensions()?,
    })
}

fn put_request(out: &mut Vec<u8>, request: &Forwarded) {
    put_head(out, REQUEST, -1, 16 + request.body.len());
    out.put_i64(request.session);
    out.put_i32(request.cxid);
    out.put_i32(request.op);
    out.extend_from_slice(&request.body);
    // A server's own requests (createSession, closeSession) carry null. For a client's, Apache's
    // leader walks the list without looking whether it is there.
    if request.ids.is_empty() && request.op < 0 {
        return put_nobody(out);
    }
    out.put_length(request.ids.len());
    for id in &request.ids {
        out.put_string(&id.scheme);
        out.put_string(&id.id);
    }
}

impl FromLeader {
    /// The packet at the front of `bytes` and how many bytes it takes; `None` where more bytes are
    /// needed. `limit` is the most bytes of its data, as in [`FromLearner::decode`]. After
    /// [`FromLeader::Snap`] what follows is the snapshot, unless chunks were agreed on.
    ///
    /// # Errors
    /// The bytes are no packet of a leader, or larger than the limit, or a chunk is damaged.
    /// Nothing can be read after it.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Option<(FromLeader, usize)>> {
        match Packet::read(bytes, limit)? {
            Some((packet, consumed)) => Ok(Some((from_leader(&packet)?, consumed))),
            None => Ok(None),
        }
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FromLeader::LeaderInfo { epoch, protocol, extensions } => {
                put_head(out, LEADER_INFO, Zxid::new(*epoch, 0).raw(), 4);
                out.put_i32(*protocol);
                put_extensions(out, *extensions);
            }
            FromLeader::Diff { through } => put_bare(out, DIFF, through.raw()),
            FromLeader::Trunc { after } => put_bare(out, TRUNC, after.raw()),
            FromLeader::Snap { zxid } => put_bare(out, SNAP, zxid.raw()),
            FromLeader::NewLeader { zxid, config } => {
                put_whole(out, NEW_LEADER, *zxid, &[config]);
            }
            FromLeader::UpToDate { zxid } => put_bare(out, UP_TO_DATE, zxid.raw()),
            FromLeader::Proposal { zxid, txn } => encode_proposal(*zxid, txn, out),
            FromLeader::Commit { zxid } => encode_commit(*zxid, out),
            FromLeader::CommitAndActivate { zxid, designated_leader } => {
                put_whole(out, COMMIT_AND_ACTIVATE, *zxid, &[&designated_leader.0.to_be_bytes()]);
            }
            FromLeader::Inform { zxid, txn } => encode_inform(*zxid, txn, out),
            FromLeader::InformAndActivate { zxid, designated_leader, txn } => {
                let leader = designated_leader.0.to_be_bytes();
                put_whole(out, INFORM_AND_ACTIVATE, *zxid, &[&leader, txn]);
            }
            FromLeader::Ping { zxid } => put_bare(out, PING, zxid.raw()),
            FromLeader::Sync => put_bare(out, SYNC, 0),
            FromLeader::Revalidated { session, is_valid } => {
                put_head(out, REVALIDATE, -1, 9);
                out.put_i64(*session);
                out.put_bool(*is_valid);
                put_nobody(out);
            }
            FromLeader::Chunk { offset, bytes } => encode_chunk(*offset, bytes, out),
        }
    }
}

fn from_leader(packet: &Packet<'_>) -> Result<FromLeader> {
    Ok(match packet.kind {
        LEADER_INFO => FromLeader::LeaderInfo {
            epoch: packet.epoch()?,
            protocol: packet.fields()?.i32()?,
            extensions: packet.extensions()?,
        },
        DIFF => FromLeader::Diff { through: packet.position()? },
        TRUNC => FromLeader::Trunc { after: packet.position()? },
        SNAP => FromLeader::Snap { zxid: packet.position()? },
        NEW_LEADER => FromLeader::NewLeader {
            zxid: packet.position()?,
            config: packet.data.unwrap_or_default().into(),
        },
        UP_TO_DATE => FromLeader::UpToDate { zxid: packet.raw_zxid() },
        PROPOSAL => FromLeader::Proposal { zxid: packet.position()?, txn: packet.data()?.into() },
        COMMIT => FromLeader::Commit { zxid: packet.position()? },
        COMMIT_AND_ACTIVATE => FromLeader::CommitAndActivate {
            zxid: packet.position()?,
            designated_leader: ServerId(packet.fields()?.i64()?),
        },
        INFORM => FromLeader::Inform { zxid: packet.position()?, txn: packet.data()?.into() },
        INFORM_AND_ACTIVATE => {
            let mut fields = packet.fields()?;
            FromLeader::InformAndActivate {
                zxid: packet.position()?,
                designated_leader: ServerId(fields.i64()?),
                txn: fields.remaining().into(),
            }
        }
        PING => FromLeader::Ping { zxid: packet.raw_zxid() },
        SYNC => FromLeader::Sync,
        REVALIDATE => {
            let mut fields = packet.fields()?;
            FromLeader::Revalidated { session: fields.i64()?, is_valid: fields.bool()? }
        }
        CHUNK => chunk(packet)?,
        kind => return Err(DecodeError::UnexpectedType(kind)),
    })
}

fn chunk(packet: &Packet<'_>) -> Result<FromLeader> {
    let offset = u64::try_from(packet.zxid).map_err(|_| DecodeError::OutOfRange("offset"))?;
    let mut fields = packet.fields()?;
    let checksum = fields.i32()? as u32;
    let bytes: Arc<[u8]> = fields.remaining().into();
    if crc32c::crc32c(&bytes) != checksum {
        return Err(DecodeError::Checksum);
    }
    Ok(FromLeader::Chunk { offset, bytes })
}

/// Appends a PROPOSAL: the same bytes for every follower.
pub fn encode_proposal(zxid: Zxid, txn: &[u8], out: &mut Vec<u8>) {
    put_whole(out, PROPOSAL, zxid, &[txn]);
}

/// Appends a COMMIT: the same bytes for every follower.
pub fn encode_commit(zxid: Zxid, out: &mut Vec<u8>) {
    put_bare(out, COMMIT, zxid.raw());
}

/// Appends an INFORM: the same bytes for every observer.
pub fn encode_inform(zxid: Zxid, txn: &[u8], out: &mut Vec<u8>) {
    put_whole(out, INFORM, zxid, &[txn]);
}

/// Appends a piece of a snapshot with its checksum.
///
/// # Panics
/// If the piece is larger than [`CHUNK_BYTES_MAX`]: nobody would take it.
pub fn encode_chunk(offset: u64, bytes: &[u8], out: &mut Vec<u8>) {
    assert!(bytes.len() <= CHUNK_BYTES_MAX, "a chunk is bounded");
    let offset = i64::try_from(offset).expect("a snapshot is smaller than 2^63 bytes");
    put_head(out, CHUNK, offset, 4 + bytes.len());
    out.put_i32(crc32c::crc32c(bytes) as i32);
    out.extend_from_slice(bytes);
    put_nobody(out);
}

/// A packet's head up to its data, of which `data_length` bytes follow.
fn put_head(out: &mut Vec<u8>, kind: i32, zxid: i64, data_length: usize) {
    out.reserve(PACKET_OVERHEAD + data_length);
    out.put_i32(kind);
    out.put_i64(zxid);
    out.put_length(data_length);
}

/// A packet with the parts of its data and nobody's names.
fn put_whole(out: &mut Vec<u8>, kind: i32, zxid: Zxid, parts: &[&[u8]]) {
    put_head(out, kind, zxid.raw(), parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    put_nobody(out);
}

/// A packet that is its type and zxid.
fn put_bare(out: &mut Vec<u8>, kind: i32, zxid: i64) {
    out.reserve(PACKET_OVERHEAD);
    out.put_i32(kind);
    out.put_i64(zxid);
    out.put_buffer(None);
    put_nobody(out);
}

/// The authinfo of all packets that carry none.
fn put_nobody(out: &mut Vec<u8>) {
    out.put_buffer(None);
}

fn put_extensions(out: &mut Vec<u8>, extensions: Extensions) {
    let names = match extensions {
        Extensions { chunked_snapshot: true, cumulative: true } => "chunked_snapshot,cumulative",
        Extensions { chunked_snapshot: true, cumulative: false } => CHUNKED_SNAPSHOT,
        Extensions { chunked_snapshot: false, cumulative: true } => CUMULATIVE,
        Extensions { chunked_snapshot: false, cumulative: false } => return put_nobody(out),
    };
    out.put_length(1);
    out.put_string(EXTENSIONS_SCHEME);
    out.put_string(names);
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
