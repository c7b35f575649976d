//! What agreement is asked about itself.

use std::time::Duration;

use crate::time::Time;
use crate::wire::election::Doing;
use crate::wire::quorum::ServerId;
use crate::zab::ensemble::Ensemble;
use crate::zab::handler::Stage;
use crate::zab::history::Place;
use crate::zab::output::{LinkId, Role, Standing};
use crate::zab::{State, Zab};
use crate::zxid::Zxid;

/// One learner as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnerStatus {
    pub server: ServerId,
    pub link: LinkId,
    pub is_observer: bool,
    /// It serves: everything is proposed to it, and it answers in time.
    pub is_synced: bool,
    /// It is being brought into step by a snapshot.
    pub is_in_snapshot: bool,
    /// Up to where it has said that its log is durable.
    pub acked: Zxid,
}

impl Zab {
    /// What this server is in its ensemble.
    pub fn role(&self) -> Role {
        self.peer.role
    }

    /// What notifications say that it does: also of a leadership that is not established yet.
    pub fn doing(&self) -> Doing {
        match &self.state {
            State::Draining | State::Looking | State::Left => Doing::Looking,
            State::Leading(_) | State::Learning(_) => self.election.doing(),
        }
    }

    /// The leader that this server leads as, follows or has elected.
    pub fn leader(&self) -> Option<ServerId> {
        match &self.state {
            State::Leading(_) => Some(self.peer.me()),
            State::Learning(learner) => Some(learner.leader),
            State::Draining | State::Looking | State::Left => None,
        }
    }

    /// Whether this server is a follower that serves observers.
    pub fn is_observer_master(&self) -> bool {
        matches!(&self.state, State::Learning(learner) if learner.relay.is_some())
    }

    /// The server that a learner is connected to or about to be: its leader or an observer master.
    pub fn master(&self) -> Option<ServerId> {
        match &self.state {
            State::Learning(learner) => Some(learner.master),
            State::Leading(_) | State::Draining | State::Looking | State::Left => None,
        }
    }

    /// The epoch of the leadership that this server is part of, once it is known.
    pub fn epoch(&self) -> Option<u32> {
        match &self.state {
            State::Leading(leader) => leader.epoch(),
            State::Learning(learner) => learner.epoch(),
            State::Draining | State::Looking | State::Left => None,
        }
    }

    /// When a leadership that keeps this server's sessions alive was last proven: on a leader, that
    /// a quorum still follows it; on a learner, that its leader was heard of. `None` without a
    /// role.
    pub fn led_at(&self) -> Option<Time> {
        match &self.state {
            State::Leading(leader) => leader.led_at(&self.peer),
            State::Learning(learner) => learner.led_at(),
            State::Draining | State::Looking | State::Left => None,
        }
    }

    /// How far the state is published.
    pub fn committed(&self) -> Zxid {
        self.peer.committed
    }

    /// The end of the log.
    pub fn last(&self) -> Zxid {
        self.peer.last()
    }

    /// How far the log is durable.
    pub fn persisted(&self) -> Zxid {
        self.peer.persisted
    }

    /// The highest epoch that this server has promised to.
    pub fn accepted_epoch(&self) -> u32 {
        self.peer.accepted_epoch
    }

    /// The epoch whose history this server has.
    pub fn current_epoch(&self) -> u32 {
        self.peer.current_epoch
    }

    /// How much its state is to be trusted.
    pub fn standing(&self) -> Standing {
        self.peer.standing
    }

    /// The ensemble that it is part of.
    pub fn ensemble(&self) -> &Ensemble {
        &self.peer.ensemble
    }

    /// The learners of a leader, or of a follower that serves observers, that have said who they
    /// are, in the order in which they came.
    pub fn learners(&self) -> impl Iterator<Item = LearnerStatus> {
        let handlers = match &self.state {
            State::Leading(leader) => leader.handlers.as_slice(),
            State::Learning(learner) => learner.observers(),
            State::Draining | State::Looking | State::Left => &[],
        };
        handlers.iter().filter_map(|handler| {
            Some(LearnerStatus {
                server: handler.server?,
                link: handler.link,
                is_observer: handler.is_observer,
                is_synced: handler.stage == Stage::UpToDate,
                is_in_snapshot: matches!(handler.stage, Stage::Sending { .. }),
                acked: handler.acked,
            })
        })
    }

    /// How many transactions are proposed and not committed.
    pub fn outstanding(&self) -> usize {
        let committed = self.peer.committed;
        match self.peer.history.locate(committed) {
            Place::Before(index) => self.peer.history.len() - index,
            _ => self.peer.history.len(),
        }
    }

    /// How many transactions this leadership has proposed.
    pub fn proposals(&self) -> u64 {
        match &self.state {
            State::Leading(leader) => leader.proposals,
            _ => 0,
        }
    }

    /// How long the last election took.
    pub fn election_took(&self) -> Duration {
        self.election_took
    }

    /// How long it took from the end of the election until this server served.
    pub fn sync_took(&self) -> Option<Duration> {
        match &self.state {
            State::Leading(leader) => leader.established.map(|at| at.since(leader.began)),
            State::Learning(learner) => learner.up_to_date.map(|at| at.since(learner.began)),
            State::Draining | State::Looking | State::Left => None,
        }
    }
}
