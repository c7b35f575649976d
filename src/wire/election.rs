//! What servers say to each other on the election port.
//!
//! A notification is a vote and how it came about. It travels in frames on connections of which
//! there is one between any two servers, dialled by the one with the larger id.

use crate::wire::quorum::ServerId;
use crate::zxid::Zxid;

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
    /// observer, which asks who leads (the wire says `Long.MIN_VALUE`).
    pub vote: Option<Vote>,
    /// The round of the sender's election (`logicalclock`).
    pub round: i64,
    /// The version of the format: 0 from servers of before 3.4, 2 from all that send `config`.
    pub version: i32,
    /// The sender's configuration of the ensemble, as text; empty where it sends none.
    pub config: Vec<u8>,
}
