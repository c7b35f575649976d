//! Who the servers of an ensemble are, and which sets of them are a quorum.
//!
//! A set of voters is a quorum when it is more than half of them. Where the configuration has
//! groups, it is one when it has more than half of the weight in more than half of the groups;
//! groups without weight are no groups (`QuorumHierarchical.java`). Either way any two quorums
//! have a voter in common, which is what agreement stands on.
//!
//! `QuorumOracleMaj`, where a file outside decides which of two servers may go on alone, is not
//! offered: two such files can say yes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::quorum::{Extensions, ServerId};

/// One server of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: ServerId,
    /// It follows and never counts.
    pub is_observer: bool,
    /// Its group, where quorums are hierarchical; then every voter has one.
    pub group: Option<i64>,
    /// Its weight in its group. It means nothing without groups, where every voter weighs 1.
    pub weight: u64,
}

/// The configuration of an ensemble, as one of its servers knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensemble {
    /// This server.
    pub me: ServerId,
    /// Every server, this one among them, each id once.
    pub members: Vec<Member>,
    /// The configuration as text, as notifications and NEWLEADER carry it.
    pub config: Arc<[u8]>,
    /// The version that the text ends with.
    pub config_version: i64,
    /// The unit of the limits.
    pub tick: Duration,
    /// Within so many ticks a learner is in step with its leader.
    pub init_limit_ticks: u32,
    /// So many ticks without a word, and the other end is given up.
    pub sync_limit_ticks: u32,
    /// At most so many committed transactions are kept in memory for learners that come back.
    pub commit_log_count: usize,
    /// At most so many bytes of them.
    pub commit_log_bytes_max: usize,
    /// What this server offers its peers beyond Apache's protocol.
    pub extensions: Extensions,
}

impl Ensemble {
    /// Whether `id` is a voter; false for observers and strangers.
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.voters().any(|voter| voter.id == id)
    }

    /// The servers that vote, in the configuration's order.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_observer)
    }

    /// The weight of `id`'s vote: 1 for every voter where there are no groups, and 0 for who has
    /// no vote.
    pub fn weight(&self, id: ServerId) -> u64 {
        match self.voters().find(|voter| voter.id == id) {
            Some(voter) if self.is_hierarchical() => voter.weight,
            Some(_) => 1,
            None => 0,
        }
    }

    /// Whether `set` holds a quorum. Who is named twice counts once; observers and strangers do
    /// not count.
    pub fn contains_quorum(&self, set: impl IntoIterator<Item = ServerId>) -> bool {
        let set: Vec<ServerId> = set.into_iter().collect();
        if self.is_hierarchical() {
            return self.contains_hierarchical_quorum(&set);
        }
        let (mut voters, mut present) = (0_usize, 0_usize);
        for voter in self.voters() {
            voters += 1;
            present += usize::from(set.contains(&voter.id));
        }
        present > voters / 2
    }

    fn is_hierarchical(&self) -> bool {
        self.voters().any(|voter| voter.group.is_some())
    }

    fn contains_hierarchical_quorum(&self, set: &[ServerId]) -> bool {
        // Weight of the group, weight of those present. Sums of 64-bit weights fit in 128 bits.
        let mut groups: BTreeMap<i64, (u128, u128)> = BTreeMap::new();
        for voter in self.voters() {
            let Some(group) = voter.group else { continue };
            let (whole, present) = groups.entry(group).or_default();
            *whole += u128::from(voter.weight);
            if set.contains(&voter.id) {
                *present += u128::from(voter.weight);
            }
        }
        groups.retain(|_, (whole, _)| *whole > 0);
        let won = groups.values().filter(|(whole, present)| *present > *whole / 2).count();
        won > groups.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensemble(members: Vec<Member>) -> Ensemble {
        Ensemble {
            me: ServerId(1),
            members,
            config: Arc::from(&b""[..]),
            config_version: 0,
            tick: Duration::from_secs(2),
            init_limit_ticks: 10,
            sync_limit_ticks: 5,
            commit_log_count: 500,
            commit_log_bytes_max: 1 << 20,
            extensions: Extensions::ALL,
        }
    }

    fn voter(id: i64) -> Member {
        Member { id: ServerId(id), is_observer: false, group: None, weight: 1 }
    }

    fn grouped(id: i64, group: i64, weight: u64) -> Member {
        Member { group: Some(group), weight, ..voter(id) }
    }

    fn check(ensemble: &Ensemble, set: &[i64], is_quorum: bool) {
        let set = set.iter().copied().map(ServerId);
        assert_eq!(ensemble.contains_quorum(set.clone()), is_quorum, "{set:?}");
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_voters() {
        let mut members: Vec<Member> = (1..=4).map(voter).collect();
        members.push(Member { is_observer: true, ..voter(9) });
        let ensemble = ensemble(members);
        check(&ensemble, &[], false);
        check(&ensemble, &[1, 2], false);
        check(&ensemble, &[1, 2, 3], true);
        check(&ensemble, &[1, 2, 2], false);
        check(&ensemble, &[1, 2, 9], false);
        check(&ensemble, &[1, 2, 77], false);
        assert!(ensemble.is_voter(ServerId(4)));
        assert!(!ensemble.is_voter(ServerId(9)));
        assert_eq!(ensemble.weight(ServerId(4)), 1);
        assert_eq!(ensemble.weight(ServerId(9)), 0);
    }

    #[test]
    fn weights_without_groups_mean_nothing() {
        let heavy = Member { weight: 50, ..voter(1) };
        let ensemble = ensemble(vec![heavy, voter(2), voter(3)]);
        check(&ensemble, &[1], false);
        check(&ensemble, &[2, 3], true);
        assert_eq!(ensemble.weight(ServerId(1)), 1);
    }

    /// The configuration of Apache's `HierarchicalQuorumTest`: three groups, one without weight.
    #[test]
    fn a_group_without_weight_is_no_group() {
        let members = (1..=9).map(|id| grouped(id, (id + 2) / 3, u64::from(id <= 6))).collect();
        let ensemble = ensemble(members);
        check(&ensemble, &[1, 2, 4, 5], true);
        check(&ensemble, &[1, 2, 3, 4], false);
        check(&ensemble, &[1, 2, 7, 8, 9], false);
        assert_eq!(ensemble.weight(ServerId(7)), 0);
    }

    #[test]
    fn a_majority_of_groups_wants_a_majority_of_weight_in_each() {
        let mut members = vec![grouped(1, 1, 3), grouped(2, 1, 1), grouped(3, 1, 1)];
        members.extend([grouped(4, 2, 1), grouped(5, 2, 1)]);
        members.extend([grouped(6, 3, 1), Member { is_observer: true, ..grouped(7, 3, 9) }]);
        let ensemble = ensemble(members);
        check(&ensemble, &[1, 6], true);
        check(&ensemble, &[2, 3, 6], false);
        check(&ensemble, &[1, 4], false);
        check(&ensemble, &[1, 4, 5], true);
        check(&ensemble, &[4, 5, 7], false);
    }

    /// Any two quorums meet, in a majority and in a hierarchy of every shape that is tried.
    #[test]
    fn two_quorums_have_a_voter_in_common() {
        let shapes: [Vec<Member>; 3] = [
            (0..6).map(voter).collect(),
            (0..7).map(|id| grouped(id, id / 3, id as u64 % 3)).collect(),
            (0..8).map(|id| grouped(id, id % 4, 1 + id as u64 / 2)).collect(),
        ];
        for members in shapes {
            let ids: Vec<ServerId> = members.iter().map(|member| member.id).collect();
            let ensemble = ensemble(members);
            let pick = |bits: u32| ids.iter().filter(move |id| bits >> id.0 & 1 == 1).copied();
            for bits in 0..1_u32 << ids.len() {
                let rest = !bits;
                let both = ensemble.contains_quorum(pick(bits));
                assert!(!(both && ensemble.contains_quorum(pick(rest))), "{bits:b} of {ids:?}");
            }
        }
    }
}
