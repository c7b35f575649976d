//! What servers say to each other on the election port.
//!
//! A notification is a vote and how it came about. It travels in frames on connections of which
//! there is one between any two servers, dialled by the one with the larger id. Whoever dials
//! sends a greeting first.
//!
//! ```text
//! greeting      protocol i64 │ server i64 │ length i32 │ addresses, as text
//!               protocol: -65536 host:port │ -65535 host:port|host:port…
//!               before 3.5: server i64
//! frame         length i32 │ notification
//! notification  state i32 │ leader i64 │ zxid i64 │ round i64          28 bytes: before 3.4
//!               │ peer epoch i64 │ version i32                         40 bytes: before 3.5
//!               │ length i32 │ configuration, as text                  where version > 1
//!               │ mark i32 │ length i32 │ proposed members, as text    ours, where there are some
//! ```
//!
//! Apache's servers read no further than the configuration, by its own length, and skip the rest
//! of the frame; they send nothing there. What does not begin with the mark is skipped here too.
//!
//! Sources: `QuorumCnxManager.java`, `FastLeaderElection.java`.

use crate::wire::error::DecodeError;
use crate::wire::jute::{Reader, Write};
use crate::wire::quorum::ServerId;
use crate::zxid::Zxid;

type Result<T> = std::result::Result<T, DecodeError>;

/// The largest frame, in bytes (`PACKETMAXSIZE`).
pub const FRAME_BYTES_MAX: usize = 512 << 10;

/// The longest list of addresses in a greeting, in bytes (`maxBuffer`).
const ADDRESSES_BYTES_MAX: usize = 2048;

/// The greeting of one address, since 3.5, and of a list, since 3.6.
const ONE_ADDRESS: i64 = -65536;
const SEVERAL_ADDRESSES: i64 = -65535;

/// The id of observers that have none of their own (`QuorumPeer.OBSERVER_ID`).
const NAMELESS: i64 = i64::MAX;

/// The version of notifications that carry a configuration.
pub const VERSION: i32 = 2;

/// The length of a notification from a server of before 3.4, and of before 3.5.
const LENGTH_BEFORE_EPOCHS: usize = 28;
const LENGTH_BEFORE_CONFIG: usize = 40;

/// Before the proposed members: "next".
const PROPOSED: i32 = 0x6e65_7874;

/// In all fields of the vote of one who has none.
const NOT_VOTING: i64 = i64::MIN;

/// What a server is doing, as its notifications say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doing {
    Looking,
    Following,
    Leading,
    Observing,
}

/// For whom a server votes (`Vote.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Who is to lead.
    pub leader: ServerId,
    /// The end of that server's log.
    pub zxid: Zxid,
    /// The epoch of that server's history: its `currentEpoch`.
    pub peer_epoch: u32,
}

/// One message of fast leader election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub doing: Doing,
    /// For whom the sender votes, or whom it follows. `None` from one who has no vote: an
    /// observer, which asks who leads (the wire says `Long.MIN_VALUE`), or a server that does not
    /// trust the nothing it found on its disk (a zxid of -1).
    pub vote: Option<Vote>,
    /// The round of the sender's election (`logicalclock`).
    pub round: i64,
    /// The version of the format: 0 from servers of before 3.5, [`VERSION`] from all that send
    /// `config`.
    pub version: i32,
    /// The sender's configuration of the ensemble, as text; empty where it sends none.
    pub config: Vec<u8>,
    /// The members that stand in the sender's log and may come into force, as text; empty where
    /// there are none, and from Apache's servers. It is sent behind a configuration only.
    pub proposed: Vec<u8>,
}

impl Notification {
    /// Reads the contents of a frame.
    ///
    /// # Errors
    /// The bytes are too few, or say something that no server says. Apache's servers skip such a
    /// notification.
    pub fn decode(bytes: &[u8]) -> Result<Notification> {
        let mut reader = Reader::new(bytes);
        let doing = Doing::decode(reader.i32()?)?;
        let (leader, zxid, round) = (reader.i64()?, reader.i64()?, reader.i64()?);
        let peer_epoch = match bytes.len() {
            LENGTH_BEFORE_EPOCHS => zxid >> 32,
            _ => reader.i64()?,
        };
        let version = match bytes.len() {
            LENGTH_BEFORE_EPOCHS | LENGTH_BEFORE_CONFIG => 0,
            _ => reader.i32()?,
        };
        let config = if version > 1 { reader.buffer()? } else { None };
        let config = config.unwrap_or_default().to_vec();
        let proposed = if version > 1 { decode_proposed(reader) } else { None };
        let proposed = proposed.unwrap_or_default().to_vec();
        let vote = match (leader, zxid) {
            (NOT_VOTING, _) | (_, -1) => None,
            _ => Some(Vote {
                leader: ServerId(leader),
                zxid: match zxid {
                    ..0 => return Err(DecodeError::OutOfRange("zxid")),
                    zxid => Zxid::from_raw(zxid),
                },
                peer_epoch: peer_epoch.try_into().map_err(|_| DecodeError::OutOfRange("epoch"))?,
            }),
        };
        Ok(Notification { doing, vote, round, version, config, proposed })
    }

    /// Appends the frame: the notification behind its length. The configuration is left out where
    /// the version is one that has none; the proposed members with it, and where the frame would
    /// be longer than anybody takes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let has_config = self.version > 1;
        let config_length = if has_config { 4 + self.config.len() } else { 0 };
        let length = LENGTH_BEFORE_CONFIG + config_length;
        let with_proposed = length + 8 + self.proposed.len();
        let has_proposed =
            has_config && !self.proposed.is_empty() && with_proposed <= FRAME_BYTES_MAX;
        out.put_length(if has_proposed { with_proposed } else { length });
        out.put_i32(self.doing.raw());
        let (leader, zxid, peer_epoch) =
            self.vote.map_or((NOT_VOTING, NOT_VOTING, NOT_VOTING), |vote| {
                (vote.leader.0, vote.zxid.raw(), i64::from(vote.peer_epoch))
            });
        out.put_i64(leader);
        out.put_i64(zxid);
        out.put_i64(self.round);
        out.put_i64(peer_epoch);
        out.put_i32(self.version);
        if has_config {
            out.put_buffer(Some(&self.config));
        }
        if has_proposed {
            out.put_i32(PROPOSED);
            out.put_buffer(Some(&self.proposed));
        }
    }
}

/// The proposed members in what follows the configuration, if that is what it is.
fn decode_proposed(mut rest: Reader<'_>) -> Option<&[u8]> {
    if rest.i32() != Ok(PROPOSED) {
        return None;
    }
    rest.buffer().ok().flatten()
}

impl Doing {
    fn decode(raw: i32) -> Result<Doing> {
        match raw {
            0 => Ok(Doing::Looking),
            1 => Ok(Doing::Following),
            2 => Ok(Doing::Leading),
            3 => Ok(Doing::Observing),
            _ => Err(DecodeError::OutOfRange("state")),
        }
    }

    fn raw(self) -> i32 {
        match self {
            Doing::Looking => 0,
            Doing::Following => 1,
            Doing::Leading => 2,
            Doing::Observing => 3,
        }
    }
}

/// The contents of the frame at the front of `bytes`, and how many bytes the whole of it takes;
/// `None` where more are needed.
///
/// # Errors
/// The length is none, or beyond [`FRAME_BYTES_MAX`]. Nothing can be read after it.
pub fn decode_frame(bytes: &[u8]) -> Result<Option<(&[u8], usize)>> {
    let mut reader = Reader::new(bytes);
    let Ok(length) = reader.i32() else { return Ok(None) };
    let length = match usize::try_from(length) {
        Err(_) => return Err(DecodeError::NegativeLength),
        Ok(0) => return Err(DecodeError::Truncated),
        Ok(length) if length > FRAME_BYTES_MAX => {
            return Err(DecodeError::TooLong { length, limit: FRAME_BYTES_MAX });
        }
        Ok(length) => length,
    };
    Ok(reader.take(length).ok().map(|contents| (contents, 4 + length)))
}

/// What the server that dialled says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who it is; `None` from an observer without an id of its own.
    pub server: Option<ServerId>,
    /// Where its election port can be reached: hosts, without brackets, and ports. There is none
    /// from servers of before 3.5, and addresses that stand for all of a host's are left out.
    pub addresses: Vec<(String, u16)>,
}

impl Greeting {
    /// The greeting at the front of `bytes` and how many bytes it takes; `None` where more are
    /// needed.
    ///
    /// # Errors
    /// It is none. Nothing can be read after it.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Greeting, usize)>> {
        let mut reader = Reader::new(bytes);
        let Ok(protocol) = reader.i64() else { return Ok(None) };
        if protocol >= 0 {
            return Ok(Some((Greeting { server: named(protocol), addresses: Vec::new() }, 8)));
        }
        if protocol != ONE_ADDRESS && protocol != SEVERAL_ADDRESSES {
            return Err(DecodeError::OutOfRange("protocol"));
        }
        let (Ok(server), Ok(length)) = (reader.i64(), reader.i32()) else { return Ok(None) };
        if server < 0 {
            return Err(DecodeError::OutOfRange("server"));
        }
        let length = usize::try_from(length).map_err(|_| DecodeError::NegativeLength)?;
        if length > ADDRESSES_BYTES_MAX {
            return Err(DecodeError::TooLong { length, limit: ADDRESSES_BYTES_MAX });
        }
        let Ok(text) = reader.take(length) else { return Ok(None) };
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)?;
        let mut addresses = Vec::new();
        for address in text.split('|') {
            let address = parse_address(address).ok_or(DecodeError::OutOfRange("address"))?;
            if !matches!(&address.0[..], "0.0.0.0" | "::" | "0:0:0:0:0:0:0:0") {
                addresses.push(address);
            }
        }
        let consumed = bytes.len() - reader.remaining().len();
        Ok(Some((Greeting { server: named(server), addresses }, consumed)))
    }

    /// Appends the greeting. Several addresses need a receiver of 3.6 or later.
    ///
    /// # Panics
    /// If there is no address, or more than a greeting may hold: the configuration saw to that.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = self.addresses.iter().map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        let text = text.collect::<Vec<_>>().join("|");
        assert!(!text.is_empty(), "a server has an address");
        assert!(text.len() <= ADDRESSES_BYTES_MAX, "nobody takes a longer greeting");
        out.put_i64(if self.addresses.len() > 1 { SEVERAL_ADDRESSES } else { ONE_ADDRESS });
        out.put_i64(self.server.map_or(NAMELESS, |server| server.0));
        out.put_string(&text);
    }
}

fn named(raw: i64) -> Option<ServerId> {
    (raw != NAMELESS).then_some(ServerId(raw))
}

/// `host:port` or `[host]:port` (`ConfigUtils.getHostAndPort`).
fn parse_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => text.split_once(':')?,
    };
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests;
