//! Who the servers of an ensemble are, and which sets of them are a quorum.
//!
//! A set of voters is a quorum when it is more than half of them. Where the configuration has
//! groups, it is one when it has more than half of the weight in more than half of the groups;
//! groups without weight are no groups (`QuorumHierarchical.java`). Either way any two quorums
//! have a voter in common, which is what agreement stands on.
//!
//! While a change of the members is proposed and not committed, a quorum is one of the old members
//! and one of the new ones, and who votes in either of them votes. So no two quorums miss each
//! other, whoever knows of the change.
//!
//! A server that looks for a leader also hears of members that are proposed in the logs of others
//! ([`Ensemble::heard`]). They make no quorum and break none: they say only whom it tells, whose
//! word it listens to, for whom it may vote and where it finds a leader. Who leads decides by the
//! members in force and by what stands in its own log, here as in all that follows.
//!
//! `QuorumOracleMaj`, where a file outside decides which of two servers may go on alone, is not
//! offered: two such files can say yes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::membership::Membership;
use crate::wire::quorum::{Extensions, ServerId};
use crate::zxid::Zxid;

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
    /// The members that are proposed in their place.
    pub next: Option<Box<NextConfig>>,
    /// The members that others have said are proposed, later than any that this server has, while
    /// it looks for a leader or joins one. No quorum asks for them.
    pub heard: Option<Box<NextConfig>>,
    /// Whether members may change while the ensemble runs (`reconfigEnabled`).
    pub is_dynamic: bool,
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
    /// Whether followers serve observers, and observers go to them (`observerMasterPort`).
    pub has_observer_masters: bool,
}

/// Members that are proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextConfig {
    pub members: Vec<Member>,
    /// The configuration as text.
    pub config: Arc<[u8]>,
    /// The version that the text ends with: the transaction that proposes it, or the start of the
    /// epoch that gives the first members a version.
    pub version: i64,
}

impl NextConfig {
    /// Reads the text of a configuration; `None` if it makes no sense.
    pub fn parse(text: &[u8]) -> Option<NextConfig> {
        let membership = Membership::parse(text).ok()?;
        Some(NextConfig {
            members: members(&membership),
            config: Arc::from(text),
            version: membership.version,
        })
    }

    /// The version, as what it is.
    pub fn zxid(&self) -> Zxid {
        Zxid::from_raw(self.version)
    }
}

/// The members as agreement knows them.
pub fn members(membership: &Membership) -> Vec<Member> {
    let member = |server: &crate::wire::membership::ServerSpec| Member {
        id: ServerId(server.id),
        is_observer: !server.is_voter(),
        group: server.group,
        weight: server.weight,
    };
    membership.servers.iter().map(member).collect()
}

/// Whether `set` holds a quorum of `members`.
pub fn is_quorum_of(members: &[Member], set: &[ServerId]) -> bool {
    let voters = || members.iter().filter(|member| !member.is_observer);
    if voters().any(|voter| voter.group.is_some()) {
        return is_hierarchical_quorum(members, set);
    }
    let present = voters().filter(|voter| set.contains(&voter.id)).count();
    present > voters().count() / 2
}

fn is_hierarchical_quorum(members: &[Member], set: &[ServerId]) -> bool {
    // Weight of the group, weight of those present. Sums of 64-bit weights fit in 128 bits.
    let mut groups: BTreeMap<i64, (u128, u128)> = BTreeMap::new();
    for voter in members.iter().filter(|member| !member.is_observer) {
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

impl Ensemble {
    /// Whether `id` is a voter; false for observers and strangers.
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.voters().any(|voter| voter.id == id)
    }

    /// Whether `id` votes among the proposed members only: it may not know of them, and come as an
    /// observer. A voter in force that does so has lost something.
    pub fn is_new_voter(&self, id: ServerId) -> bool {
        let votes = |member: &Member| member.id == id && !member.is_observer;
        !self.members.iter().any(votes) && self.is_voter(id)
    }

    /// Whether `id` votes, or does by what others have said.
    pub fn may_vote(&self, id: ServerId) -> bool {
        self.electors().any(|voter| voter.id == id)
    }

    /// Whether `id` is listed, and votes nowhere.
    pub fn is_observer(&self, id: ServerId) -> bool {
        !self.is_voter(id) && self.members.iter().any(|member| member.id == id)
    }

    /// The servers that vote, in the configuration's order; then those that the proposed members
    /// add.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        let next = self.next.iter().flat_map(|next| &next.members);
        let votes =
            |id: ServerId| self.members.iter().any(|member| member.id == id && !member.is_observer);
        let added = next.filter(move |member| !votes(member.id));
        self.members.iter().chain(added).filter(|member| !member.is_observer)
    }

    /// The voters; then those that vote by what others have said.
    pub fn electors(&self) -> impl Iterator<Item = &Member> {
        let heard = self.heard.iter().flat_map(|heard| &heard.members);
        let added = heard.filter(|member| !member.is_observer && !self.is_voter(member.id));
        self.voters().chain(added)
    }

    /// The weight of `id`'s vote: 1 for every voter where there are no groups, and 0 for who has
    /// no vote.
    pub fn weight(&self, id: ServerId) -> u64 {
        match self.electors().find(|voter| voter.id == id) {
            Some(voter) if self.is_hierarchical() => voter.weight,
            Some(_) => 1,
            None => 0,
        }
    }

    /// Whether `set` holds a quorum, of the proposed members too if there are such. Who is named
    /// twice counts once; observers and strangers do not count.
    pub fn contains_quorum(&self, set: impl IntoIterator<Item = ServerId>) -> bool {
        let set: Vec<ServerId> = set.into_iter().collect();
        is_quorum_of(&self.members, &set)
            && self.next.iter().all(|next| is_quorum_of(&next.members, &set))
    }

    fn is_hierarchical(&self) -> bool {
        self.voters().any(|voter| voter.group.is_some())
    }

    /// The same with these members proposed, or none.
    pub fn with_next(&self, next: Option<NextConfig>) -> Ensemble {
        Ensemble { next: next.map(Box::new), ..self.clone() }.without_old_hearsay()
    }

    /// The same with these members said to be proposed, or none.
    pub fn with_heard(&self, heard: Option<NextConfig>) -> Ensemble {
        Ensemble { heard: heard.map(Box::new), ..self.clone() }.without_old_hearsay()
    }

    fn without_old_hearsay(mut self) -> Ensemble {
        let newest = self.newest();
        self.heard = self.heard.filter(|heard| heard.version > newest);
        self
    }

    /// The same under these members.
    pub fn under(&self, config: NextConfig) -> Ensemble {
        let NextConfig { members, config, version } = config;
        let next = self.next.clone().filter(|next| next.version > version);
        let ensemble = Ensemble { members, config, config_version: version, next, ..self.clone() };
        ensemble.without_old_hearsay()
    }

    /// The same with what the tree of a server that starts says of its members, where that is
    /// newer: in force if it is `committed`, and otherwise proposed.
    pub fn in_tree(self, text: Option<&[u8]>, committed: Zxid) -> Ensemble {
        let seen = text.filter(|_| self.is_dynamic).and_then(NextConfig::parse);
        match seen.filter(|seen| seen.version > self.config_version) {
            Some(seen) if seen.zxid() <= committed => self.under(seen),
            Some(seen) => self.with_next(Some(seen)),
            None => self,
        }
    }

    /// The version of the newest members that are in force here or in this server's log.
    pub fn newest(&self) -> i64 {
        self.next.as_ref().map_or(self.config_version, |next| next.version)
    }

    /// The text of the newest members that it knows of.
    pub fn last_seen(&self) -> &Arc<[u8]> {
        self.next.as_ref().map_or(&self.config, |next| &next.config)
    }
}

#[cfg(test)]
impl Ensemble {
    /// What tests begin with: these members in force, as server `me` knows them.
    pub(crate) fn of_members(me: ServerId, members: Vec<Member>) -> Ensemble {
        Ensemble {
            me,
            members,
            config: Arc::from(&b"version=0"[..]),
            config_version: 0,
            next: None,
            heard: None,
            is_dynamic: false,
            tick: Duration::from_secs(2),
            init_limit_ticks: 10,
            sync_limit_ticks: 5,
            commit_log_count: 500,
            commit_log_bytes_max: 1 << 20,
            extensions: Extensions::ALL,
            has_observer_masters: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensemble(members: Vec<Member>) -> Ensemble {
        Ensemble::of_members(ServerId(1), members)
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

    #[test]
    fn a_quorum_of_both_is_wanted_while_members_change() {
        let old = ensemble((1..=3).map(voter).collect());
        let mut members: Vec<Member> = (3..=5).map(voter).collect();
        members.push(Member { is_observer: true, ..voter(2) });
        let next = NextConfig { members, config: Arc::from(&b""[..]), version: 7 };
        let joint = old.with_next(Some(next.clone()));
        check(&joint, &[1, 2], false);
        check(&joint, &[4, 5], false);
        check(&joint, &[1, 2, 3], false);
        check(&joint, &[1, 3, 4], true);
        check(&joint, &[1, 2, 4, 5], true);
        let ids: Vec<i64> = joint.voters().map(|voter| voter.id.0).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        assert!(joint.is_voter(ServerId(5)) && !joint.is_observer(ServerId(2)));
        let new = joint.under(next);
        assert_eq!((new.config_version, &new.next), (7, &None));
        assert!(new.is_observer(ServerId(2)) && !new.is_voter(ServerId(1)));
        check(&new, &[4, 5], true);
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
