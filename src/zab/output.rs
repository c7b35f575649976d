//! What agreement asks of its surroundings, and what goes in from there.

use std::sync::Arc;

use crate::wire::election::{Doing, Notification};
use crate::wire::quorum::{Extensions, Forwarded, FromLeader, FromLearner, ServerId};
use crate::zxid::Zxid;

/// One connection between a leader and a learner, named by the shell; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What this server is in its ensemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It knows of no leader that it could serve under.
    Looking,
    /// It leads: requests become proposals. Said when a quorum has the history of the new epoch.
    Leading { epoch: u32 },
    /// It serves under a leader (UPTODATE has come).
    Following { leader: ServerId, link: LinkId },
    /// The same without a vote.
    Observing { leader: ServerId, link: LinkId },
}

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The shell, or the simulator, performs it.
    Perform(Action),
    /// The pipeline hears of it.
    Tell(Event),
}

/// What the shell performs. Where an action has an outcome, the handler that takes it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue a notification for another server; a newer one replaces one that waits.
    Notify { to: ServerId, notification: Notification },
    /// Dial `to`'s quorum port: `handle_connected` or `handle_connect_failed`.
    Connect { to: ServerId },
    /// Dial `to`'s port for observers: as for `Connect`.
    ConnectMaster { to: ServerId },
    /// Accept learners' connections (`true`), or close the listener's queue to them.
    Accept(bool),
    /// The same at the port for observers, which is open while they are accepted.
    AcceptObservers(bool),
    /// Send to the leader.
    ToLeader { link: LinkId, message: FromLearner },
    /// Send to a learner. PROPOSALs for all followers follow one another, so that the shell may
    /// encode them once.
    ToLearner { link: LinkId, message: FromLeader },
    /// Send what is queued, then close the connection. No `handle_disconnected` follows.
    Close { link: LinkId },
    /// Append to the log: `handle_persisted` when it is durable.
    Append { zxid: Zxid, txn: Arc<[u8]> },
    /// Cut the log after `after`; everything appended is durable: `handle_truncated`, in any case.
    Truncate { after: Zxid },
    /// The members `current` are in force, `next` are proposed, and others have said of `heard`
    /// that they are, as texts: connect to all of them. What is in force is to be found again at
    /// the next start. No answer.
    Members { current: Arc<[u8]>, next: Option<Arc<[u8]>>, heard: Option<Arc<[u8]>> },
    /// Make `acceptedEpoch` durable: `handle_accepted_epoch_saved`.
    SaveAcceptedEpoch { epoch: u32 },
    /// Make `currentEpoch` durable: `handle_current_epoch_saved`.
    SaveCurrentEpoch { epoch: u32 },
    /// Stream the state at `zxid`, which the SNAP packet before it has named, to a learner, after
    /// what was sent to it so far: `handle_snapshot_sent`. The state is what is published, or,
    /// before this server's epoch is established, everything that was applied.
    SendSnapshot { link: LinkId, zxid: Zxid, extensions: Extensions },
    /// What comes on the link is the state at `zxid`: `handle_snapshot_received` once it is a
    /// durable snapshot, the log goes on behind it, and it has replaced the tree, or
    /// `handle_snapshot_failed`, after which the state is what it was. One of them follows in any
    /// case, also when the connection is lost or closed meanwhile.
    ReceiveSnapshot { link: LinkId, zxid: Zxid, extensions: Extensions },
    /// Read transactions later than `after` from the log, one at least and about `bytes` of them at
    /// most, when what is queued on the link has mostly been sent: `handle_log_read`. It is a gap
    /// unless the log has `after` itself, or begins right behind it; where `after`'s counter is 0,
    /// it is the place before the first transaction of its epoch or a later one.
    ReadLog { link: LinkId, after: Zxid, bytes: usize },
    /// This server's state has been made whole by a leader: forget that it was damaged or empty,
    /// durably. No answer.
    SaveSound,
    /// What `Zab::resign` was called for is done: no leadership is held any more, and the server
    /// may stop.
    Resigned,
    /// The server must stop with this error: going on would lose or contradict what is committed.
    Stop { reason: String },
}

/// What the pipeline hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The role has changed.
    Role(Role),
    /// Apply this transaction, which a leader has proposed; `Action::Append` of it follows.
    Apply { zxid: Zxid, txn: Arc<[u8]> },
    /// Undo everything after `after`: `Action::Truncate` follows.
    Pop { after: Zxid },
    /// Publish everything up to `through`.
    Commit { through: Zxid },
    /// A learner passes on a client's request (on the leader, or on the learner's observer master,
    /// which asks its own leader: this and the next two).
    Request { learner: ServerId, link: LinkId, request: Forwarded },
    /// A learner asks whether a session lives; answered by `FromLeader::Revalidated`.
    Revalidate { learner: ServerId, link: LinkId, session: i64, timeout_ms: i32 },
    /// A learner has heard of these sessions, with their timeouts in milliseconds.
    Touched { learner: ServerId, sessions: Vec<(i64, i32)> },
    /// A learner is gone.
    LearnerGone { learner: ServerId, link: LinkId },
    /// The leader asks for a sign of life: answer by `FromLearner::Ping` with this zxid.
    Pinged { link: LinkId, zxid: Zxid },
    /// The oldest sync passed on to the leader may be answered.
    Synced,
    /// The leader's answer about a session.
    Revalidated { session: i64, is_valid: bool },
    /// A quorum has confirmed this leadership after `Zab::confirm(token)` was called, and all that
    /// was proposed before is committed.
    Confirmed { token: u64 },
}

/// Transactions as they stand in the log, in order.
pub type Txns = Vec<(Zxid, Arc<[u8]>)>;

/// The log cannot give what was asked for: it does not reach back so far, or part of it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGap;

/// The log, or the tree's journal, does not reach back to where it is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotTruncate;

/// How much this server's state is to be trusted (`Standing::Sound` unless recovery says else).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that it acknowledged is there: it votes.
    Sound,
    /// There is nothing, and no `initialize` file or `db.autocreate=true` vouches for that being
    /// right: it votes only when every voter is seen to be as empty.
    Empty,
    /// Something that it had acknowledged is lost, or its epoch files are damaged: it does not
    /// vote until a leader has made it whole.
    Damaged,
}

/// What the disk held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The end of the log, all of it durable.
    pub last: Zxid,
    /// What is known to be committed for certain: nothing at or below is ever taken back (R10).
    pub committed: Zxid,
    pub accepted_epoch: u32,
    pub current_epoch: u32,
    pub standing: Standing,
}

impl Role {
    /// What notifications say of it.
    pub fn doing(&self) -> Doing {
        match self {
            Role::Looking => Doing::Looking,
            Role::Leading { .. } => Doing::Leading,
            Role::Following { .. } => Doing::Following,
            Role::Observing { .. } => Doing::Observing,
        }
    }
}
