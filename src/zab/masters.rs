//! Which server an observer goes to (`QuorumPeer.findLearnerMaster`).
//!
//! Where `observerMasterPort` is set that is each voter in turn, in an order of this observer's
//! own, so that many observers spread over the followers and each moves on when it loses one. The
//! leader, which serves nobody at that port, is passed over; where it is the only voter, observers
//! go to it as they do without that port.

use crate::wire::quorum::ServerId;
use crate::zab::ensemble::Ensemble;

/// The voters in the order in which they are gone to.
#[derive(Debug)]
pub(super) struct Masters {
    servers: Vec<ServerId>,
    next: usize,
    random: u64,
}

impl Masters {
    /// `seed` spreads an ensemble's observers.
    pub fn new(seed: u64) -> Masters {
        Masters { servers: Vec::new(), next: 0, random: seed }
    }

    /// The server to join under `leader`.
    pub fn next(&mut self, ensemble: &Ensemble, leader: ServerId) -> ServerId {
        if !ensemble.has_observer_masters || !ensemble.is_observer(ensemble.me) {
            return leader;
        }
        self.take_voters(ensemble);
        for _ in 0..self.servers.len() {
            self.next %= self.servers.len();
            let server = self.servers[self.next];
            self.next += 1;
            if server != leader {
                return server;
            }
        }
        leader
    }

    /// Begins anew where others vote than before.
    fn take_voters(&mut self, ensemble: &Ensemble) {
        let is_voter = |member: &&crate::zab::ensemble::Member| !member.is_observer;
        let voters = || ensemble.members.iter().filter(is_voter).map(|voter| voter.id);
        if voters().count() == self.servers.len() && voters().all(|id| self.servers.contains(&id)) {
            return;
        }
        self.servers = voters().collect();
        self.next = 0;
        for last in (1..self.servers.len()).rev() {
            let other = self.random_below(last + 1);
            self.servers.swap(last, other);
        }
    }

    fn random_below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::zab::ensemble::Member;

    const LEADER: ServerId = ServerId(1);

    /// Voters 1 to `voters`, and the observer 9, which is asked.
    fn ensemble(voters: i64, has_observer_masters: bool) -> Ensemble {
        let member = |id| Member { id: ServerId(id), is_observer: id == 9, group: None, weight: 1 };
        let members = (1..=voters).chain([9]).map(member).collect();
        Ensemble { has_observer_masters, ..Ensemble::of_members(ServerId(9), members) }
    }

    #[test]
    fn each_follower_is_gone_to_in_turn() {
        let ensemble = ensemble(5, true);
        let mut masters = Masters::new(7);
        let round: Vec<ServerId> = (0..4).map(|_| masters.next(&ensemble, LEADER)).collect();
        let all: BTreeSet<ServerId> = round.iter().copied().collect();
        assert_eq!(all, (2..=5).map(ServerId).collect());
        let again: Vec<ServerId> = (0..4).map(|_| masters.next(&ensemble, LEADER)).collect();
        assert_eq!(again, round);
    }

    #[test]
    fn observers_spread_over_the_followers() {
        let ensemble = ensemble(5, true);
        let first = |seed| Masters::new(seed).next(&ensemble, LEADER);
        let firsts: BTreeSet<ServerId> = (0..50).map(first).collect();
        assert_eq!(firsts, (2..=5).map(ServerId).collect());
    }

    #[test]
    fn the_leader_is_gone_to_where_nobody_else_can_be() {
        let mut masters = Masters::new(7);
        assert_eq!(masters.next(&ensemble(5, false), LEADER), LEADER);
        assert_eq!(masters.next(&ensemble(1, true), LEADER), LEADER);
        let voter = Ensemble { me: ServerId(2), ..ensemble(5, true) };
        assert_eq!(masters.next(&voter, LEADER), LEADER, "who votes follows the leader itself");
    }

    #[test]
    fn other_voters_are_taken_over() {
        let mut masters = Masters::new(7);
        masters.next(&ensemble(3, true), LEADER);
        let more = ensemble(4, true);
        let round: BTreeSet<ServerId> = (0..3).map(|_| masters.next(&more, LEADER)).collect();
        assert_eq!(round, (2..=4).map(ServerId).collect());
    }
}
