//! The elections of a server that has nothing.
//!
//! An empty server may have been wiped: what it had acknowledged then rests with fewer servers than
//! it must, and its vote could elect a leader that never had it. So it counts for nobody until
//! every voter is seen to be empty too. A vote is never below the voter's own log, so a vote for
//! epoch 0 and zxid 0 says that; but it may be an old one, since Apache's servers send their last
//! notification again on each new connection. What is seen therefore counts in a round only that
//! this server has opened with a number that none could have known.

use std::time::Duration;

use super::ballot::{Ballot, supersedes};
use super::{Election, ElectionOutput, Part, RESEND_MIN, State, looking_of};
use crate::time::Time;
use crate::wire::election::{Doing, Vote};
use crate::zab::output::Standing;
use crate::zxid::Zxid;

/// An empty server waits a random part of this before it opens a round, so that of several empty
/// servers one is answered by all before the next interrupts it.
const FRESH_ROUND_SPREAD: Duration = Duration::from_millis(100);
/// A round that an empty server opens is ahead of the one before by up to so much: nobody carries
/// that number who has not heard of it.
const FRESH_ROUND_JUMP: i64 = 1 << 20;

impl Election {
    /// Lets this server vote, or sets a time to ask all others, where all seem to be empty.
    pub(super) fn consider_emptiness(&mut self, now: Time) {
        if self.part() != Part::Empty {
            return;
        }
        let State::Looking(looking) = &mut self.state else { return };
        let me = self.ensemble.me;
        let is_empty = |ballot: &Ballot| {
            let Vote { leader, zxid, peer_epoch } = ballot.vote;
            // Who follows this server, which does not lead, has had nothing from it yet.
            let is_without_leader = ballot.doing == Doing::Looking
                || (ballot.doing == Doing::Following && leader == me);
            is_without_leader && zxid == Zxid::ZERO && peer_epoch == 0
        };
        let all_are = self
            .ensemble
            .voters()
            .all(|voter| looking.ballots.get(&voter.id).is_some_and(is_empty));
        if !all_are {
            looking.fresh_round_at = None;
        } else if looking.is_round_fresh {
            self.become_sound();
        } else if looking.fresh_round_at.is_none() {
            let nanos = self.random_below(FRESH_ROUND_SPREAD.as_nanos() as i64);
            let at = now + Duration::from_nanos(nanos as u64);
            if let State::Looking(looking) = &mut self.state {
                looking.fresh_round_at = Some(at);
            }
        }
    }

    fn become_sound(&mut self) {
        self.standing = Standing::Sound;
        self.outputs.push_back(ElectionOutput::Sound);
        let mut best = self.own;
        for (from, ballot) in &looking_of(&self.state).ballots {
            if self.ensemble.is_voter(*from) && supersedes(&self.ensemble, &ballot.vote, &best) {
                best = ballot.vote;
            }
        }
        if best != self.own {
            self.propose(Some(best));
        }
    }

    /// Opens a round that nobody can have known of before.
    pub(super) fn open_fresh_round(&mut self, now: Time) {
        let step = self.fresh_round_step();
        self.round = self.round.saturating_add(step);
        let State::Looking(looking) = &mut self.state else { return };
        looking.ballots.clear();
        looking.is_round_fresh = true;
        looking.fresh_round_at = None;
        looking.interval = RESEND_MIN;
        looking.resend_at = now + RESEND_MIN;
        self.propose(Some(self.own));
    }

    /// How far ahead of its last round an empty server opens one.
    pub(super) fn fresh_round_step(&mut self) -> i64 {
        1 + self.random_below(FRESH_ROUND_JUMP)
    }
}
