//! Members that come, go and change their part.

use crate::time::Time;
use crate::wire::election::{Doing, Notification};
use crate::zab::Zab;
use crate::zab::output::{Action, Output, Recovered, Role, Standing};
use crate::zab::tests::cluster::{Cluster, members_text, server, z};
use crate::zxid::Zxid;

/// So many voters and observers; the largest voter leads in epoch 1, and nothing is proposed yet.
fn dynamic(voters: i64, observers: i64) -> Cluster {
    let mut cluster = Cluster::new(voters, observers, 1);
    cluster.is_dynamic = true;
    cluster.start_all();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(voters));
    cluster
}

/// What each server that is up has in force: its version.
fn versions(cluster: &mut Cluster) -> Vec<i64> {
    let up = cluster.nodes.values_mut().filter(|node| node.is_up());
    up.map(|node| node.zab().ensemble().config_version).collect()
}

fn is_changing(cluster: &mut Cluster, id: i64) -> bool {
    cluster.node_mut(id).zab().ensemble().next.is_some()
}

#[test]
fn the_first_leader_gives_the_members_a_version() {
    let mut cluster = dynamic(3, 1);
    assert_eq!(versions(&mut cluster), [z(1, 0).raw(); 4]);
    assert!(!is_changing(&mut cluster, 1));
}

#[test]
fn a_change_wants_a_quorum_of_the_old_and_of_the_new() {
    let mut cluster = dynamic(5, 0);
    for id in 1..=2 {
        cluster.node_mut(id).disk.is_slow = true;
    }
    let zxid = cluster.propose_members(5, &[(1, true), (2, true), (5, true)]);
    cluster.propose(5, 1);
    cluster.quiesce();
    // Three of the old five have it, and one of the new three.
    assert_eq!(cluster.node(5).published, z(0, 0));
    assert!(is_changing(&mut cluster, 5) && is_changing(&mut cluster, 1));
    cluster.node_mut(1).disk.is_slow = false;
    cluster.run_until(50, |cluster| cluster.node(5).published == zxid.next().unwrap());
    cluster.node_mut(2).disk.is_slow = false;
    cluster.settle();
    assert_eq!(versions(&mut cluster), [zxid.raw(); 5]);
    // From here on two of three are enough.
    for id in 2..=4 {
        cluster.kill(id);
    }
    cluster.settle();
    let leader = cluster.leader().expect("1 and 5 are a quorum of three");
    cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(cluster.node(1).published, cluster.node(leader).published);
}

#[test]
fn a_leader_that_is_removed_hands_over_without_an_election() {
    let mut cluster = dynamic(3, 0);
    cluster.node_mut(1).disk.is_slow = true;
    cluster.propose_members(3, &[(1, true), (2, true)]);
    cluster.quiesce();
    cluster.node_mut(1).disk.is_slow = false;
    cluster.settle();
    let leader = cluster.leader().expect("one of the two that are left");
    assert!(leader < 3);
    assert!(matches!(cluster.node(leader).role, Role::Leading { epoch: 2 }));
    let votes = cluster.trace.iter().filter(|line| line.contains("Notify")).count();
    let before = Cluster::started(3, 0, 1).trace;
    let before = before.iter().filter(|line| line.contains("Notify")).count();
    assert!(votes <= before, "{votes} notifications, {before} of them for the first election");
    // It follows without a vote, and is in step.
    assert!(matches!(cluster.node(3).role, Role::Following { .. }));
    cluster.propose(leader, 3);
    cluster.settle();
    assert_eq!(cluster.node(3).published, cluster.node(leader).published);
}

#[test]
fn observers_and_voters_change_places() {
    let mut cluster = dynamic(3, 1);
    let roles = [(1, false), (2, true), (3, true), (4, true)];
    let zxid = cluster.propose_members(3, &roles);
    cluster.settle();
    assert_eq!(versions(&mut cluster), [zxid.raw(); 4]);
    assert!(matches!(cluster.node(1).role, Role::Observing { .. }));
    assert!(matches!(cluster.node(4).role, Role::Following { .. }));
    // The new voter's word counts.
    cluster.kill(2);
    cluster.propose(3, 1);
    cluster.settle();
    assert_eq!(cluster.node(3).published, zxid.next().unwrap());
}

#[test]
fn who_was_away_hears_of_the_members_while_it_looks_for_a_leader() {
    let mut cluster = dynamic(3, 1);
    cluster.kill(1);
    let zxid = cluster.propose_members(3, &[(2, true), (3, true), (4, true)]);
    cluster.settle();
    cluster.start(1);
    cluster.settle();
    assert_eq!(versions(&mut cluster), [zxid.raw(); 4]);
    assert!(matches!(cluster.node(1).role, Role::Following { .. }));
    assert!(!cluster.node_mut(1).zab().ensemble().is_voter(server(1)));
}

/// Reconfiguration and a crash of everything, at each step (`ReconfigRecoveryTest`).
#[test]
fn a_change_survives_a_restart_of_all_at_each_step() {
    for step in 0..40 {
        let mut cluster = dynamic(3, 1);
        cluster.propose(3, 2);
        cluster.settle();
        cluster.propose_members(3, &[(1, true), (3, false), (4, true)]);
        for _ in 0..step {
            cluster.step();
        }
        let is_done = cluster.nodes.values().any(|node| node.published >= z(1, 3));
        for id in 1..=4 {
            cluster.kill(id);
        }
        cluster.start_all();
        cluster.settle();
        let leader = cluster.leader().expect("all are there");
        cluster.propose(leader, 1);
        cluster.settle();
        let versions = versions(&mut cluster);
        assert!(versions.iter().all(|it| *it == versions[0]), "{versions:x?} after {step}");
        assert!(!is_done || versions[0] == z(1, 3).raw(), "{versions:x?} after {step}");
        assert!(!is_changing(&mut cluster, leader), "after {step}");
    }
}

#[test]
fn a_change_that_nobody_else_has_is_forgotten() {
    let mut cluster = dynamic(3, 0);
    cluster.cut(3, 1);
    cluster.cut(3, 2);
    cluster.propose_members(3, &[(2, true), (3, true)]);
    cluster.quiesce();
    assert!(is_changing(&mut cluster, 3));
    cluster.kill(3);
    cluster.heal();
    cluster.settle();
    let leader = cluster.leader().expect("1 and 2 are a quorum");
    cluster.propose(leader, 1);
    cluster.settle();
    cluster.start(3);
    cluster.settle();
    assert_eq!(versions(&mut cluster), [z(1, 0).raw(); 3]);
    assert!(!is_changing(&mut cluster, 3));
}

/// Five voters become 1, 2 and 5, which leads; 3 and 4 follow without votes. Then 5 proposes that 3
/// and 4 are to vote alone, is heard by `heard_by` only, and is gone before that is committed. 5
/// comes back or not, and everybody hears everybody again.
fn a_leader_lost_as_it_proposes(heard_by: &[i64], comes_back: bool) -> (Cluster, Zxid) {
    let mut cluster = dynamic(5, 0);
    cluster.propose_members(5, &[(1, true), (2, true), (5, true)]);
    cluster.settle();
    let roles = [(1, false), (2, false), (3, true), (4, true), (5, false)];
    cluster.node_mut(5).disk.is_slow = true;
    for id in 1..=4 {
        if !heard_by.contains(&id) {
            cluster.cut(5, id);
        }
    }
    let zxid = cluster.propose_members(5, &roles);
    cluster.quiesce();
    assert!(heard_by.iter().all(|id| is_changing(&mut cluster, *id)));
    assert!(cluster.nodes.values().all(|node| node.published < zxid), "it is not committed");
    cluster.kill(5);
    cluster.node_mut(5).disk.is_slow = false;
    if comes_back {
        cluster.start(5);
    }
    cluster.heal();
    (cluster, zxid)
}

fn nothing_is_heard_of(cluster: &Cluster) {
    for zab in cluster.nodes.values().filter_map(|node| node.zab.as_ref()) {
        assert_eq!(zab.ensemble().heard, None, "on {}", zab.ensemble().me);
    }
}

/// Whoever of 1 to 4 has not heard of the proposal, as a voter in force (2) or as a server that is
/// none and whose vote the proposed members need (4): 4 leads, as who else has most, and completes
/// it.
#[test]
fn who_has_not_heard_of_a_proposal_takes_part_in_the_election_that_needs_it() {
    for heard_by in [&[1, 3, 4][..], &[2, 3, 4], &[1, 2, 3], &[1, 2, 4]] {
        let (mut cluster, zxid) = a_leader_lost_as_it_proposes(heard_by, false);
        cluster.settle();
        assert_eq!(versions(&mut cluster), [zxid.raw(); 4], "{heard_by:?}");
        let leader = cluster.leader().expect("3 and 4 are there");
        assert!(leader == 3 || leader == 4, "{leader} of {heard_by:?}");
        cluster.propose(leader, 1);
        cluster.settle();
        nothing_is_heard_of(&cluster);
        cluster.start(5);
        cluster.settle();
        assert_eq!(versions(&mut cluster), [zxid.raw(); 5], "{heard_by:?}");
    }
}

/// What no voter in force has is asked of nobody: 1 and 2 are a quorum of three, whatever 3 says,
/// and whether or not 4 is there.
#[test]
fn voters_in_force_do_not_wait_for_members_that_they_only_hear_of() {
    for is_there in [true, false] {
        let (mut cluster, zxid) = a_leader_lost_as_it_proposes(&[3], false);
        if !is_there {
            cluster.kill(4);
        }
        cluster.settle();
        let leader = cluster.leader().expect("1 and 2 are a quorum");
        assert!(leader < 3, "{leader}");
        cluster.propose(leader, 1);
        cluster.settle();
        assert!(versions(&mut cluster).iter().all(|version| *version < zxid.raw()));
        assert!(!is_changing(&mut cluster, 3));
        nothing_is_heard_of(&cluster);
    }
}

/// Where all who have the proposal are gone, the others go on without it; and where 5, whose disk
/// had not got so far, is one of them.
#[test]
fn what_nobody_says_any_more_is_forgotten() {
    let (mut cluster, zxid) = a_leader_lost_as_it_proposes(&[1, 3], true);
    cluster.run_for(1);
    cluster.kill(1);
    cluster.kill(3);
    cluster.settle();
    let leader = cluster.leader().expect("2 and 5 are a quorum");
    cluster.propose(leader, 1);
    cluster.settle();
    assert!(versions(&mut cluster).iter().all(|version| *version < zxid.raw()));
    nothing_is_heard_of(&cluster);
}

/// Server 4, which observes 1 to 3, looks for a leader.
struct Listener {
    zab: Zab,
    is_dynamic: bool,
}

impl Listener {
    fn new(is_dynamic: bool) -> Listener {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.is_dynamic = true;
        let mut ensemble = cluster.ensemble(server(4));
        (ensemble.is_dynamic, ensemble.config_version) = (is_dynamic, z(1, 0).raw());
        let recovered = Recovered {
            last: z(1, 1),
            committed: z(1, 1),
            accepted_epoch: 1,
            current_epoch: 1,
            standing: Standing::Sound,
        };
        let mut listener =
            Listener { zab: Zab::new(ensemble, recovered, 1, Time::from_nanos(1)), is_dynamic };
        listener.drain();
        listener
    }

    /// Hears of `from` that these are to vote, or of none; what is heard of from then on.
    fn hear(&mut self, from: i64, voters: &[i64], version: Zxid) -> Option<Zxid> {
        let roles: Vec<(i64, bool)> = voters.iter().map(|id| (*id, true)).collect();
        let text = if voters.is_empty() { String::new() } else { members_text(&roles, version) };
        let notification = Notification {
            doing: Doing::Looking,
            vote: None,
            round: 1,
            version: 2,
            config: Vec::new(),
            proposed: text.into_bytes(),
        };
        self.zab.handle_notification(Time::from_nanos(1), server(from), notification);
        self.heard()
    }

    fn lose(&mut self, server_id: i64) -> Option<Zxid> {
        self.zab.handle_reachable(Time::from_nanos(1), server(server_id), false);
        self.heard()
    }

    /// What is heard of, as the surroundings are told of it.
    fn heard(&mut self) -> Option<Zxid> {
        self.drain();
        self.zab.ensemble().heard.as_ref().map(|heard| heard.zxid())
    }

    fn drain(&mut self) {
        while let Some(output) = self.zab.poll_output() {
            if let Output::Perform(Action::Members { heard, next, .. }) = output {
                assert!(self.is_dynamic, "members do not change");
                let known = self.zab.ensemble().heard.as_ref();
                assert_eq!(heard.as_deref(), known.map(|it| &*it.config), "it is to be reached");
                assert_eq!(next, None, "it is not in the log");
            }
        }
    }
}

#[test]
fn the_newest_of_what_is_said_is_heard_of_as_long_as_it_is_said() {
    let mut listener = Listener::new(true);
    assert_eq!(listener.hear(1, &[4, 5], z(1, 5)), Some(z(1, 5)));
    assert_eq!(listener.hear(2, &[3, 4, 6], z(1, 9)), Some(z(1, 9)));
    assert_eq!(listener.hear(6, &[3, 4, 6], z(1, 9)), Some(z(1, 9)), "one of the proposed");
    assert!(listener.zab.ensemble().may_vote(server(6)));
    assert_eq!(listener.lose(2), Some(z(1, 9)));
    assert_eq!(listener.hear(6, &[], z(1, 9)), Some(z(1, 5)), "6 has lost it");
    assert!(!listener.zab.ensemble().may_vote(server(6)));
    // It makes no quorum and breaks none.
    assert!(listener.zab.ensemble().contains_quorum([1, 2].map(server)));
    assert!(!listener.zab.ensemble().contains_quorum([1, 4, 5].map(server)));
    assert_eq!(listener.lose(1), None);
}

#[test]
fn what_makes_no_sense_is_not_heard_of() {
    let mut listener = Listener::new(true);
    assert_eq!(listener.hear(1, &[4, 5], z(1, 0)), None, "these are in force, or older");
    assert_eq!(listener.hear(7, &[4, 5], z(1, 5)), None, "it is a stranger in any case");
    let mut notification = Notification {
        doing: Doing::Looking,
        vote: None,
        round: 1,
        version: 2,
        config: Vec::new(),
        proposed: b"server.5=nonsense\nversion=100000009".to_vec(),
    };
    listener.zab.handle_notification(Time::from_nanos(1), server(1), notification.clone());
    assert_eq!(listener.heard(), None);
    notification.proposed = b"version=".to_vec();
    listener.zab.handle_notification(Time::from_nanos(1), server(1), notification);
    assert_eq!(listener.heard(), None);
    assert_eq!(Listener::new(false).hear(1, &[4, 5], z(1, 5)), None, "members do not change");
}
