//! A server's vote as another one counts it.

use std::collections::BTreeMap;

use crate::wire::election::{Doing, Notification, Vote};
use crate::wire::quorum::ServerId;
use crate::zab::ensemble::Ensemble;

/// The votes that are counted together, by who cast them.
pub(super) type Ballots = BTreeMap<ServerId, Ballot>;

/// A vote with how it came about (`Vote.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ballot {
    pub vote: Vote,
    pub round: i64,
    pub doing: Doing,
    /// That of the notification's format.
    pub version: i32,
}

impl Ballot {
    /// The ballot of a server that looks for a leader.
    pub fn looking(vote: Vote, round: i64) -> Ballot {
        // Apache keeps no version with the votes of the running election.
        Ballot { vote, round, doing: Doing::Looking, version: 0 }
    }

    /// What `notification` says, if it says for whom.
    pub fn of(notification: &Notification) -> Option<Ballot> {
        Some(Ballot {
            vote: notification.vote?,
            round: notification.round,
            doing: notification.doing,
            version: notification.version,
        })
    }

    /// Whether both are for the same leadership (`Vote.equals`).
    ///
    /// Between servers that are past their elections, zxid and round are passed over: those that
    /// joined late report others than those that took part. Formats from before and after
    /// ZOOKEEPER-1732 differ in the epoch that they report as well.
    pub fn agrees(&self, other: &Ballot) -> bool {
        if self.doing == Doing::Looking || other.doing == Doing::Looking {
            return self.vote == other.vote && self.round == other.round;
        }
        let same_format = (self.version > 0) == (other.version > 0);
        self.vote.leader == other.vote.leader
            && (!same_format || self.vote.peer_epoch == other.vote.peer_epoch)
    }

    /// Who of `ballots` agrees with this one.
    pub fn supporters(&self, ballots: &Ballots) -> impl Iterator<Item = ServerId> + Clone {
        ballots.iter().filter(|(_, ballot)| self.agrees(ballot)).map(|(&id, _)| id)
    }
}

/// Whether the vote `new` is to be preferred to `old`: the later epoch, then the longer log, then
/// the larger id. A server without weight is never preferred (`totalOrderPredicate`).
pub(super) fn supersedes(ensemble: &Ensemble, new: &Vote, old: &Vote) -> bool {
    let rank = |vote: &Vote| (vote.peer_epoch, vote.zxid, vote.leader);
    ensemble.weight(new.leader) > 0 && rank(new) > rank(old)
}
