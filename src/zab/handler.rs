//! What a leader knows of one of its learners (`LearnerHandler.java`).

use std::collections::VecDeque;

use crate::time::Time;
use crate::wire::quorum::{Extensions, FromLearner, ServerId};
use crate::zab::output::LinkId;
use crate::zxid::Zxid;

/// So many pings may be unanswered on one link; a learner that is further behind gets no more of
/// them until it answers, or is given up.
const PINGS_MAX: usize = 256;

/// How far a learner has come. Later stages are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its FOLLOWERINFO or OBSERVERINFO is awaited.
    Connected,
    /// It waits for the epoch to be chosen.
    Informed,
    /// It was sent LEADERINFO; its ACKEPOCH is awaited.
    Invited,
    /// Its log ends with `last`; it waits until a quorum has accepted the epoch.
    Acknowledged { last: Zxid },
    /// It waits for its turn to be sent a snapshot.
    Queued,
    /// The log is being read for it, behind `cursor`. Once it `is_open` it was told how it is
    /// brought into step.
    Reading { cursor: Zxid, is_open: bool },
    /// The snapshot at `zxid` is on its way.
    Sending { zxid: Zxid },
    /// It has everything up to NEWLEADER and gets what is new; its ACK of NEWLEADER is awaited.
    NewLeader { through: Zxid },
    /// It is in step and waits until a quorum is.
    InStep,
    /// It serves.
    UpToDate,
}

/// One learner's end of a connection.
#[derive(Clone, Debug)]
pub struct Handler {
    pub link: LinkId,
    /// Who it is, once it has said so.
    pub server: Option<ServerId>,
    pub is_observer: bool,
    /// Its place among the leader's voters, if its word counts.
    pub voter: Option<usize>,
    pub stage: Stage,
    pub extensions: Extensions,
    /// When it last came further, while it is being brought into step.
    pub since: Time,
    /// It was surely following at this time: the newest ping that it has answered was sent then.
    pub proven: Time,
    /// The round of that ping.
    pub round_answered: u64,
    /// Up to where it has said that its log is durable.
    pub acked: Zxid,
    /// The pings that it has not answered, oldest first: round and time.
    pings: VecDeque<(u64, Time)>,
}

impl Handler {
    pub fn new(link: LinkId, now: Time) -> Handler {
        Handler {
            link,
            server: None,
            is_observer: false,
            voter: None,
            stage: Stage::Connected,
            extensions: Extensions::default(),
            since: now,
            proven: now,
            round_answered: 0,
            acked: Zxid::ZERO,
            pings: VecDeque::new(),
        }
    }

    /// Whether what is proposed from here on is sent to it.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::NewLeader { .. } | Stage::InStep | Stage::UpToDate)
    }

    /// Whether it is being brought up to where live ones are.
    pub fn catches_up(&self) -> bool {
        matches!(self.stage, Stage::Queued | Stage::Reading { .. } | Stage::Sending { .. })
    }

    /// Whether it is the leader's turn: it is no fault of the learner's that it is not further.
    pub fn waits_for_leader(&self) -> bool {
        let is_waiting = matches!(self.stage, Stage::Informed | Stage::Acknowledged { .. });
        is_waiting || matches!(self.stage, Stage::Queued | Stage::InStep)
    }

    /// Whether a ping may be sent in `round`, which counts it if so.
    pub fn begin_ping(&mut self, round: u64, now: Time) -> bool {
        if self.pings.len() >= PINGS_MAX {
            return false;
        }
        self.pings.push_back((round, now));
        true
    }

    /// Takes the answer to the oldest ping; false if there is none.
    pub fn end_ping(&mut self) -> bool {
        let Some((round, at)) = self.pings.pop_front() else { return false };
        self.round_answered = round;
        self.proven = self.proven.max(at);
        true
    }
}

/// What a message is called on the wire.
pub fn packet_name(message: &FromLearner) -> &'static str {
    match message {
        FromLearner::Info { is_observer: false, .. } => "FOLLOWERINFO",
        FromLearner::Info { is_observer: true, .. } => "OBSERVERINFO",
        FromLearner::AckEpoch { .. } => "ACKEPOCH",
        FromLearner::Ack { .. } => "ACK",
        FromLearner::Ping { .. } => "PING",
        FromLearner::Request(_) => "REQUEST",
        FromLearner::Revalidate { .. } => "REVALIDATE",
    }
}
