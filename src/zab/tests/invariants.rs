//! What must hold in every run, named after the invariants of Apache's TLA+ where they are theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::wire::election::Doing;
use crate::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use crate::zab::ensemble::Ensemble;
use crate::zab::history::follows;
use crate::zab::output::{Action, Event, LinkId, Role, Standing};
use crate::zab::tests::cluster::{Link, Node, Work};
use crate::zxid::Zxid;

/// What is known of the whole ensemble.
#[derive(Default)]
pub struct Oracle {
    /// Who was established in an epoch.
    leaders: BTreeMap<u32, ServerId>,
    /// Everything that anybody has published.
    pub committed: BTreeMap<Zxid, Arc<[u8]>>,
    /// Everything that anybody has proposed.
    proposed: BTreeMap<Zxid, Arc<[u8]>>,
}

impl Oracle {
    pub fn check_event(&mut self, node: &Node, event: &Event) {
        match event {
            Event::Role(Role::Leading { epoch }) => self.leadership(node, *epoch),
            Event::Commit { through } => self.prefix_consistency(node, *through),
            Event::Pop { after } => {
                // Others may have committed more of it meanwhile: see `durability`.
                assert!(node.published <= *after, "{} takes back {}", node.id, node.published);
            }
            _ => {}
        }
    }

    /// What is committed is on the disks of a quorum, as long as nobody has lost its disk.
    pub fn durability(&self, nodes: &BTreeMap<ServerId, Node>, ensemble: &Ensemble) {
        let Some(last) = self.committed.keys().next_back() else { return };
        if nodes.values().any(|node| node.disk.standing != Standing::Sound) {
            return;
        }
        let has = |node: &&Node| {
            let mut newest = node.disk.state.iter().rev().map(|(zxid, _)| zxid);
            newest.find(|zxid| *zxid <= last) == Some(last)
        };
        let holders = nodes.values().filter(has).map(|node| node.id);
        assert!(ensemble.contains_quorum(holders), "{last} is committed and not on a quorum");
    }

    /// At most one server is established in an epoch, and it has everything that was committed.
    fn leadership(&mut self, node: &Node, epoch: u32) {
        let leader = *self.leaders.entry(epoch).or_insert(node.id);
        assert_eq!(leader, node.id, "two leaders of epoch {epoch}");
        assert_eq!(node.disk.current_epoch, epoch, "the leader's own epoch is durable");
        for (zxid, txn) in &self.committed {
            let has = node.tree.iter().any(|(has, same)| has == zxid && same == txn);
            assert!(
                has,
                "the leader {} of epoch {epoch} lacks {zxid}, which is committed",
                node.id
            );
        }
    }

    /// What two servers have published, they have in the same order.
    fn prefix_consistency(&mut self, node: &Node, through: Zxid) {
        let tree = node.tree.iter().filter(|(zxid, _)| *zxid <= through);
        for (zxid, txn) in tree.clone() {
            let agreed = self.committed.entry(*zxid).or_insert_with(|| Arc::clone(txn));
            assert_eq!(agreed, txn, "{} has published another {zxid}", node.id);
        }
        let count = self.committed.range(..=through).count();
        assert_eq!(
            tree.count(),
            count,
            "{} has published less than others up to {through}",
            node.id
        );
    }

    pub fn check_action(&mut self, node: &Node, action: &Action, links: &BTreeMap<LinkId, Link>) {
        let disk = &node.disk;
        match action {
            Action::ToLeader { link, message } => {
                self.only_what_is_durable_is_acknowledged(node, message, &links[link].checker);
            }
            Action::ToLearner { message: FromLeader::LeaderInfo { epoch, .. }, .. } => {
                assert_eq!(disk.accepted_epoch, *epoch, "LEADERINFO before the own acceptedEpoch");
            }
            Action::Notify { notification, .. } if notification.doing == Doing::Looking => {
                let Some(vote) = notification.vote.filter(|vote| vote.leader == node.id) else {
                    return;
                };
                let appends = disk.works.iter().any(|work| !matches!(work, Work::Sound));
                assert!(!appends, "{} votes before its disk is done", node.id);
                assert_eq!(vote.zxid, disk.log.last());
                assert_eq!(vote.peer_epoch, disk.current_epoch);
            }
            Action::Append { zxid, txn } => {
                let same = self.proposed.entry(*zxid).or_insert_with(|| Arc::clone(txn));
                assert_eq!(same, txn, "{zxid} was proposed twice");
            }
            Action::SaveCurrentEpoch { epoch } => assert!(*epoch <= disk.accepted_epoch),
            Action::SaveAcceptedEpoch { epoch } => {
                // What is damaged is written anew.
                let is_again = disk.standing == Standing::Damaged && *epoch == disk.accepted_epoch;
                assert!(*epoch > disk.accepted_epoch || is_again, "{} {epoch}", node.id);
            }
            _ => {}
        }
    }

    fn only_what_is_durable_is_acknowledged(
        &self,
        node: &Node,
        message: &FromLearner,
        checker: &LinkChecker,
    ) {
        let disk = &node.disk;
        match message {
            FromLearner::AckEpoch { last, .. } => {
                assert_eq!(disk.accepted_epoch, checker.epoch, "ACKEPOCH before acceptedEpoch");
                assert!(*last == disk.log.last() || *last == Zxid::ZERO);
            }
            FromLearner::Ack { zxid } if zxid.counter() == 0 => {
                assert_eq!(
                    disk.current_epoch,
                    zxid.epoch(),
                    "ACK of NEWLEADER before currentEpoch"
                );
                let (durable, wanted) = (disk.log.last(), checker.last_at_new_leader);
                assert!(durable >= wanted, "ACK of NEWLEADER at {durable}, before {wanted}");
            }
            FromLearner::Ack { zxid } => {
                assert!(disk.log.last() >= *zxid, "{} acknowledges {zxid} too early", node.id);
            }
            _ => {}
        }
    }

    pub fn check_node(&self, node: &Node) {
        let disk = &node.disk;
        let zxids = std::iter::once(disk.log.base).chain(disk.log.zxids());
        for (last, next) in zxids.clone().zip(zxids.skip(1)) {
            assert!(follows(last, next), "{} has a gap behind {last}: {next}", node.id);
        }
        if disk.works.iter().any(|work| matches!(work, Work::Truncate(_) | Work::Replace { .. })) {
            return;
        }
        let Some(zab) = &node.zab else { return };
        // The tree is what the log will be.
        let appends = disk.works.iter().filter_map(|work| match work {
            Work::Append(txn) => Some(txn),
            _ => None,
        });
        let log: Vec<_> = disk.state.iter().chain(appends).collect();
        assert!(log.iter().copied().eq(node.tree.iter()), "{}: the tree is not the log", node.id);
        assert_eq!(zab.last(), log.last().map_or(disk.log.base, |txn| txn.0).max(disk.log.base));
        assert_eq!(zab.persisted(), disk.log.last());
        assert!(zab.committed() >= node.published || node.published == Zxid::ZERO);
    }
}

/// What Apache's servers expect on a connection, in which order.
#[derive(Default)]
pub struct LinkChecker {
    is_observer: bool,
    /// The epoch of LEADERINFO.
    pub epoch: u32,
    /// What both ends have agreed on, from the same packet.
    extensions: Extensions,
    /// The same, as the leader has sent it.
    agreed: Extensions,
    is_open: bool,
    has_new_leader: bool,
    has_acked: bool,
    is_up_to_date: bool,
    /// PROPOSALs without their COMMIT.
    proposals: std::collections::VecDeque<Zxid>,
    /// The end of what was sent.
    last: Option<Zxid>,
    last_acked: Zxid,
    /// What the learner must have to acknowledge NEWLEADER.
    pub last_at_new_leader: Zxid,
}

impl LinkChecker {
    /// What `LearnerHandler` would fail on.
    pub fn check_from_learner(&mut self, message: &FromLearner) {
        match message {
            FromLearner::Info { is_observer, .. } => self.is_observer = *is_observer,
            FromLearner::AckEpoch { .. } => assert!(self.epoch > 0 && !self.is_open),
            FromLearner::Ack { zxid } if !self.has_acked => {
                assert_eq!(*zxid, Zxid::new(self.epoch, 0), "the first ACK is that of NEWLEADER");
                self.has_acked = true;
                self.last_acked = self.last_at_new_leader;
            }
            FromLearner::Ack { zxid } if zxid.counter() == 0 => {}
            FromLearner::Ack { zxid } => {
                assert!(!self.is_observer, "an observer acknowledges {zxid}");
                let follows = match self.extensions.cumulative {
                    true => self.last_acked < *zxid,
                    false => follows(self.last_acked, *zxid),
                };
                assert!(follows, "{zxid} after {}", self.last_acked);
                self.last_acked = *zxid;
            }
            _ => assert!(self.is_up_to_date, "{message:?} before UPTODATE"),
        }
    }

    /// The learner has taken it from the connection.
    pub fn note_heard(&mut self, message: &FromLeader) {
        if let FromLeader::LeaderInfo { epoch, extensions, .. } = message {
            self.epoch = *epoch;
            self.extensions = *extensions;
        }
    }

    /// What `Learner.syncWithLeader` and `Follower.processPacket` would fail on.
    pub fn check_from_leader(&mut self, message: &FromLeader) {
        match message {
            FromLeader::LeaderInfo { extensions, .. } => self.agreed = *extensions,
            FromLeader::Diff { .. } | FromLeader::Snap { .. } | FromLeader::Trunc { .. } => {
                assert!(!self.is_open, "{message:?} comes second");
                self.is_open = true;
                match message {
                    FromLeader::Diff { through } => self.last_at_new_leader = *through,
                    FromLeader::Snap { zxid } => self.last = Some(*zxid),
                    FromLeader::Trunc { after } => self.last = Some(*after),
                    _ => {}
                }
            }
            FromLeader::Proposal { zxid, .. } => {
                assert!(!(self.is_observer && self.has_new_leader), "PROPOSAL to an observer");
                self.check_next(*zxid);
                self.proposals.push_back(*zxid);
            }
            FromLeader::Commit { zxid } | FromLeader::CommitAndActivate { zxid, .. } => {
                let mut first = self.proposals.pop_front();
                while self.agreed.cumulative && first.is_some_and(|first| first < *zxid) {
                    first = self.proposals.pop_front();
                }
                assert_eq!(first, Some(*zxid), "COMMIT out of order");
            }
            FromLeader::Inform { zxid, .. } | FromLeader::InformAndActivate { zxid, .. } => {
                assert!(self.is_observer && self.has_new_leader);
                self.check_next(*zxid);
            }
            FromLeader::NewLeader { .. } => {
                assert!(self.is_open && !self.has_new_leader);
                // ZOOKEEPER-4394, ZOOKEEPER-4685.
                assert!(self.proposals.is_empty(), "NEWLEADER behind what is not committed");
                self.has_new_leader = true;
                self.last_at_new_leader = self.last.unwrap_or(self.last_at_new_leader);
            }
            FromLeader::UpToDate { .. } => {
                assert!(self.has_new_leader && !self.is_up_to_date);
                self.is_up_to_date = true;
            }
            // Before UPTODATE only those of ours that wait hear it.
            FromLeader::Ping { .. } => {}
            _ => assert!(self.is_up_to_date, "{message:?} before UPTODATE"),
        }
    }

    fn check_next(&mut self, zxid: Zxid) {
        assert!(self.is_open, "{zxid} before DIFF, TRUNC or SNAP");
        if let Some(last) = self.last {
            assert!(follows(last, zxid), "{zxid} behind {last}");
        }
        self.last = Some(zxid);
    }
}
