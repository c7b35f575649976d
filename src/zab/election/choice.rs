//! Which of the votes that are told a voter takes over.
//!
//! ```text
//! the best of    its own vote
//!                what others vote for in this round, but for
//!                  this server, with another log than it has
//!                  a server that itself votes for less: it has lost what is said of it
//!                  a server that is avoided
//! ```
//! "Others" are the voters, of the members in force and of those proposed in the own log. A server
//! that votes only by what is heard of (`Ensemble::heard`) may be voted for, once one of them does:
//! that one has the proposal, and will not have another leader. Its own word is not enough: where
//! no voter in force has the proposal, they need not wait for the proposed ones.
//!
//! A vote only grows in a round, unless it turns out to be one of the last two.

use crate::time::Time;
use crate::wire::election::{Doing, Vote};
use crate::wire::quorum::ServerId;
use crate::zab::election::ballot::{Ballot, supersedes};
use crate::zab::election::{Election, Part, State, looking_of};

impl Election {
    /// Takes `server` for none that could lead, until then: it was elected, and its quorum port
    /// does not answer. A server that is heard and hears nobody has the best vote, again and again.
    ///
    /// What it has is no reason to wait for it: whatever is committed is on a quorum's disks. It is
    /// passed over only as long as the voters that can be reached are a quorum without it. Reports
    /// of a leadership that is established are believed whoever leads.
    pub fn avoid(&mut self, server: ServerId, until: Time) {
        if server != self.ensemble.me {
            self.avoided.insert(server, until);
        }
    }

    pub(super) fn is_avoided(&self, now: Time, server: ServerId) -> bool {
        let is_due = |server: &ServerId| self.avoided.get(server).is_some_and(|until| *until > now);
        let others = self.ensemble.voters().map(|voter| voter.id);
        let others = others.filter(|id| !is_due(id) && !self.unreachable.contains(id));
        is_due(&server) && self.ensemble.contains_quorum(others)
    }

    /// Those who have been avoided for long enough may lead again.
    pub(super) fn end_avoidance(&mut self, now: Time) {
        let count = self.avoided.len();
        self.avoided.retain(|_, until| *until > now);
        if self.avoided.len() < count && self.is_looking() {
            self.choose(now);
            self.tally(now);
        }
    }

    /// Takes over the best vote of this round, where it is better than this server's, or that
    /// cannot be kept.
    pub(super) fn choose(&mut self, now: Time) {
        if self.part() != Part::Voter {
            return;
        }
        let vote = self.vote.expect("a voter that looks for a leader has a vote");
        let best = self.best_vote(now);
        if supersedes(&self.ensemble, &best, &vote) || !self.is_acceptable(now, &vote) {
            self.propose(Some(best));
        }
    }

    fn best_vote(&self, now: Time) -> Vote {
        let ballots = looking_of(&self.state).ballots.iter();
        let counts = |(from, ballot): &(&ServerId, &Ballot)| {
            ballot.doing == Doing::Looking && self.ensemble.is_voter(**from)
        };
        let said = ballots.filter(counts).map(|(_, ballot)| ballot.vote);
        said.fold(self.own, |best, vote| {
            let is_better = supersedes(&self.ensemble, &vote, &best);
            if is_better && self.is_acceptable(now, &vote) { vote } else { best }
        })
    }

    /// Whether a vote of this round may be this server's.
    fn is_acceptable(&self, now: Time, vote: &Vote) -> bool {
        let State::Looking(looking) = &self.state else { return true };
        let leader = vote.leader;
        if leader == self.ensemble.me {
            return *vote == self.own;
        }
        // What a lost connection has said last may be old.
        let said = looking.ballots.get(&leader).filter(|_| !self.unreachable.contains(&leader));
        let is_refuted = said.is_some_and(|said| {
            said.doing == Doing::Looking && supersedes(&self.ensemble, vote, &said.vote)
        });
        !is_refuted && !self.is_avoided(now, leader) && self.ensemble.may_vote(leader)
    }
}
