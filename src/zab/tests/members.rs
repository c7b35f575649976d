//! Members that come, go and change their part.

use crate::zab::output::Role;
use crate::zab::tests::cluster::{Cluster, server, z};

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
