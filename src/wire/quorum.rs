//! What a leader and its learners say to each other on the quorum port.
//!
//! ```text
//! packet    type i32 │ zxid i64 │ data buffer │ authinfo vector<Id>      no outer length
//! ```
//!
//! What the fields hold for each type of packet stands in [`codec`].

pub mod codec;

use std::fmt;
use std::sync::Arc;

use crate::wire::acl::Id;
use crate::zxid::Zxid;

/// A server's number in its ensemble: its `myid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub i64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What both ends can do beyond Apache's protocol. It travels in a packet's `authinfo`, which
/// Apache's servers do not look at there, and a server answers in kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// A snapshot comes in checked chunks, each a packet, instead of a bare stream.
    pub chunked_snapshot: bool,
    /// An ACK and a COMMIT speak for everything before their zxid too. Apache's servers want one
    /// of each for each transaction.
    pub cumulative: bool,
}

impl Extensions {
    /// Everything that this version can do.
    pub const ALL: Extensions = Extensions { chunked_snapshot: true, cumulative: true };

    /// What both can do.
    #[must_use]
    pub fn and(self, other: Extensions) -> Extensions {
        Extensions {
            chunked_snapshot: self.chunked_snapshot && other.chunked_snapshot,
            cumulative: self.cumulative && other.cumulative,
        }
    }
}

/// A request that a learner passes on to its leader for one of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub session: i64,
    pub cxid: i32,
    /// The raw opcode: of a client's request, or `createSession` (-10) and `closeSession` (-11).
    pub op: i32,
    pub body: Vec<u8>,
    /// Who the client has shown to be.
    pub ids: Vec<Id>,
}

/// From a learner to its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromLearner {
    /// FOLLOWERINFO, OBSERVERINFO: the first packet.
    Info {
        is_observer: bool,
        server: ServerId,
        accepted_epoch: u32,
        /// 0x10000; lower ones are not spoken any more.
        protocol: i32,
        config_version: i64,
        extensions: Extensions,
    },
    /// ACKEPOCH: the end of the learner's log, and its `currentEpoch`; `None` (-1 on the wire)
    /// when it had accepted the epoch before, so that this does not count.
    AckEpoch { last: Zxid, current_epoch: Option<u32> },
    /// ACK: everything up to `zxid` is on the learner's disk.
    Ack { zxid: Zxid },
    /// PING's answer: the zxid that the ping carried, and the sessions that were heard of since
    /// the last one, with their timeouts in milliseconds.
    Ping { zxid: Zxid, touched: Vec<(i64, i32)> },
    /// REQUEST.
    Request(Forwarded),
    /// REVALIDATE: may this session's client come back through the learner?
    Revalidate { session: i64, timeout_ms: i32 },
}

/// From a leader to one of its learners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromLeader {
    /// LEADERINFO: the epoch that begins.
    LeaderInfo { epoch: u32, protocol: i32, extensions: Extensions },
    /// DIFF: transactions follow, up to `through`.
    Diff { through: Zxid },
    /// TRUNC: what comes after `after` never happened.
    Trunc { after: Zxid },
    /// SNAP: the state at `zxid` follows.
    Snap { zxid: Zxid },
    /// NEWLEADER: the learner is in step once what came before is on its disk.
    NewLeader { zxid: Zxid, config: Arc<[u8]> },
    /// UPTODATE: the learner may serve.
    UpToDate { zxid: Zxid },
    /// PROPOSAL: the bytes of a transaction as they stand in the log.
    Proposal { zxid: Zxid, txn: Arc<[u8]> },
    /// COMMIT.
    Commit { zxid: Zxid },
    /// COMMITANDACTIVATE: the commit of a reconfiguration.
    CommitAndActivate { zxid: Zxid, designated_leader: ServerId },
    /// INFORM: a committed transaction, for an observer.
    Inform { zxid: Zxid, txn: Arc<[u8]> },
    /// INFORMANDACTIVATE: a committed reconfiguration, for an observer.
    InformAndActivate { zxid: Zxid, designated_leader: ServerId, txn: Arc<[u8]> },
    /// PING.
    Ping { zxid: Zxid },
    /// SYNC: the learner's oldest sync that waits may be answered.
    Sync,
    /// REVALIDATE's answer.
    Revalidated { session: i64, is_valid: bool },
    /// A piece of a snapshot, between servers that have agreed on [`Extensions::chunked_snapshot`]:
    /// `offset` counts the bytes before it; the last piece is empty.
    Chunk { offset: u64, bytes: Arc<[u8]> },
}
