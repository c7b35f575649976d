//! Rows of the catalogue of faults, by their ids, and what happens when servers fall silent.

use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::output::Role;
use crate::zab::tests::cluster::{Cluster, Mail, TICK, Work, server, z};

fn three(count: usize) -> Cluster {
    let mut cluster = Cluster::started(3, 0, 1);
    cluster.propose(3, count);
    cluster.settle();
    cluster
}

/// B01, B02 (ZOOKEEPER-4643, 4646): log, then epoch, then ACK, whatever is slow. The oracle checks
/// the order at each ACK; here the disk stops at each point, and the server dies there.
#[test]
fn b01_b02_history_is_durable_before_the_epoch_and_the_epoch_before_the_ack() {
    for works in 0..8 {
        let mut cluster = three(2);
        cluster.kill(1);
        cluster.propose(3, 4);
        cluster.settle();
        // The two that have everything begin a new epoch together with the one that has not.
        cluster.kill(3);
        cluster.kill(2);
        cluster.node_mut(1).disk.is_slow = true;
        cluster.start(1);
        cluster.start(3);
        for _ in 0..works {
            cluster.quiesce();
            cluster.finish_work(server(1));
            cluster.check();
        }
        cluster.quiesce();
        let disk = &cluster.node(1).disk;
        let is_behind = disk.log.last() < z(1, 6);
        assert!(!is_behind || disk.current_epoch == 1, "the epoch of a history it has not");
        cluster.kill(1);
        cluster.kill(3);
        cluster.node_mut(1).disk.is_slow = false;
        // With the other one that was away it may now be a quorum.
        cluster.start(1);
        cluster.start(2);
        cluster.settle();
        assert_eq!(cluster.node(1).published, z(1, 6), "after {works} works");
    }
}

/// B03, B12: transactions are proposed and committed at each step of a learner's synchronisation.
#[test]
fn b03_b12_a_learner_gets_each_transaction_once_and_in_order() {
    for steps in 0..40 {
        let mut cluster = Cluster::started(3, 1, steps);
        cluster.commit_log_count = [0, 500][steps as usize % 2];
        cluster.propose(3, 5);
        cluster.settle();
        cluster.kill(1);
        cluster.kill(4);
        cluster.propose(3, 2);
        cluster.quiesce();
        cluster.start(1);
        cluster.start(4);
        for step in 0..60 {
            if step >= steps && step < steps + 6 {
                cluster.propose(3, 1);
            }
            cluster.step();
        }
        cluster.settle();
        assert_eq!(cluster.leader(), Some(3), "nobody was disturbed");
        assert_eq!(cluster.node(1).published, z(1, 13));
        assert_eq!(cluster.node(4).published, z(1, 13));
    }
}

/// B05: what the disk of a server that has lost its leader still works on stands before anything
/// that the next leader sends.
#[test]
fn b05_a_role_ends_with_the_disks_work() {
    let mut cluster = three(2);
    cluster.node_mut(1).disk.is_slow = true;
    cluster.propose(3, 3);
    cluster.quiesce();
    cluster.kill(3);
    cluster.settle_until_disk(1);
    assert!(!cluster.links.values().any(|link| link.learner == server(1)), "it does not join");
    cluster.node_mut(1).disk.is_slow = false;
    cluster.settle();
    assert_eq!(cluster.node(1).published, z(1, 5));
}

/// B07 (ZOOKEEPER-2845): a transaction that only the old leader has, and a quorum that goes on
/// without it, is never seen again.
#[test]
fn b07_what_only_the_old_leader_has_is_taken_back() {
    let mut cluster = three(2);
    cluster.cut(3, 1);
    cluster.cut(3, 2);
    cluster.propose(3, 3);
    cluster.quiesce();
    assert_eq!(cluster.node(3).published, z(1, 2));
    cluster.run_until(30, |cluster| cluster.leader().is_some_and(|leader| leader != 3));
    let leader = cluster.leader().expect("two go on");
    cluster.propose(leader, 1);
    cluster.heal();
    cluster.settle();
    assert_eq!(cluster.node(3).disk.log.zxids(), [z(1, 1), z(1, 2), z(2, 1)]);
}

/// B11 (ZOOKEEPER-335, 1367): all die right after LEADERINFO, again and again.
#[test]
fn b11_epochs_are_never_used_again() {
    let mut cluster = Cluster::new(3, 0, 1);
    let mut highest = 0;
    for round in 0..20 {
        cluster.holds = Some(|mail| matches!(mail, Mail::Learner(FromLearner::Ack { .. })));
        cluster.start_all();
        let invited =
            |cluster: &Cluster| cluster.links.values().any(|link| link.checker.epoch > highest);
        cluster.run_until(50, invited);
        let epochs = cluster.links.values().map(|link| link.checker.epoch);
        let epoch = epochs.max().expect("somebody was invited");
        assert!(epoch > highest, "epoch {epoch} after {highest}");
        highest = epoch;
        for id in 1..=3 {
            if round % 3 + 1 != id {
                cluster.kill(id);
            }
        }
        cluster.kill(round % 3 + 1);
    }
    cluster.holds = None;
    cluster.start_all();
    cluster.settle();
    let leader = cluster.leader().expect("it has settled");
    assert!(cluster.node(leader).disk.current_epoch > highest);
}

/// B14, `testHighestZxidJoinLate`: who comes late with a longer log, of which nothing was committed
/// that the others lack, follows.
#[test]
fn b14_the_highest_zxid_joins_late() {
    let mut cluster = three(2);
    cluster.holds = Some(|mail| matches!(mail, Mail::Leader(FromLeader::Proposal { .. })));
    cluster.propose(3, 4);
    cluster.quiesce();
    cluster.lose_mail();
    cluster.kill(3);
    cluster.holds = None;
    cluster.kill(1);
    cluster.kill(2);
    cluster.start(1);
    cluster.start(2);
    cluster.settle();
    cluster.start(3);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.node(3).disk.log.last(), z(1, 2));
}

/// B14, `testElectionFraud`, disloyal voters: an elected leader whose voters have gone elsewhere
/// looks again before `initLimit` has passed.
#[test]
fn b14_a_leader_whose_voters_look_again_does_so_too() {
    let mut cluster = Cluster::new(3, 0, 1);
    cluster.start_all();
    cluster.run_until(5, |cluster| cluster.node(3).is_accepting);
    // Nobody that dials it arrives.
    cluster.holds = Some(|mail| matches!(mail, Mail::Connect { .. }));
    cluster.quiesce();
    let at = cluster.now;
    cluster.kill(1);
    cluster.kill(2);
    cluster.start(1);
    cluster.start(2);
    cluster.run_until(8, |cluster| !cluster.node(3).is_accepting);
    assert!(cluster.now.since(at) < TICK * 8);
    cluster.holds = None;
    cluster.settle();
}

/// B17: an isolated leader stops leading within `syncLimit`, commits nothing, confirms nothing.
#[test]
fn b17_an_isolated_leader_steps_down_on_its_own_clock() {
    let mut cluster = three(2);
    let at = cluster.now;
    cluster.cut(3, 1);
    cluster.cut(3, 2);
    cluster.propose(3, 1);
    cluster.confirm(3);
    cluster.run_until(20, |cluster| cluster.node(3).role == Role::Looking);
    let took = cluster.now.since(at);
    assert!(took >= TICK * 4 && took <= TICK * 6, "{took:?}");
    assert!(cluster.node(3).confirmed.is_empty());
    cluster.run_until(30, |cluster| cluster.leader().is_some());
    cluster.heal();
    cluster.settle();
    assert_eq!(cluster.node(3).published, z(1, 2));
}

/// The same while it still hears of one follower, of five: also when some still follow it.
#[test]
fn b17_a_leader_without_a_quorum_steps_down_though_some_hear_it() {
    let mut cluster = Cluster::started(5, 0, 1);
    let at = cluster.now;
    for id in 1..=3 {
        cluster.cut(5, id);
    }
    cluster.run_until(20, |cluster| cluster.node(5).role == Role::Looking);
    assert!(cluster.now.since(at) <= TICK * 6);
}

/// A frozen leader that goes on finds itself replaced: it confirms nothing on the strength of what
/// has come before it was frozen, and steps down at once.
#[test]
fn b17_a_thawed_leader_answers_nothing_old() {
    let mut cluster = three(2);
    // The answers to its pings are on their way when it freezes.
    cluster.now = cluster.now + TICK;
    cluster.with(server(3), |zab, now| zab.handle_timeout(now));
    let links: Vec<_> = cluster.links.keys().copied().collect();
    for link in links {
        cluster.take(super::cluster::Queue::ToLearner(link));
    }
    cluster.now = cluster.now + TICK * 20;
    let token = cluster.confirm(3);
    cluster.with(server(3), |zab, now| zab.handle_timeout(now));
    assert_eq!(cluster.node(3).role, Role::Looking);
    cluster.settle();
    assert!(!cluster.node(3).confirmed.contains(&token));
}

#[test]
fn a_silent_follower_is_closed_and_the_others_go_on() {
    let mut cluster = three(2);
    cluster.cut(3, 1);
    cluster.propose(3, 3);
    cluster.run_for(8);
    assert_eq!(cluster.leader(), Some(3));
    assert_eq!(cluster.node(3).published, z(1, 5));
    assert_eq!(cluster.node_mut(3).zab().learners().count(), 1);
    assert_eq!(cluster.node(1).role, Role::Looking, "it has noticed too");
    cluster.heal();
    cluster.settle();
}

/// B20 and the like are the shell's; a disk that only hangs does not stop heartbeats.
#[test]
fn a_hanging_disk_does_not_hold_up_heartbeats() {
    let mut cluster = three(2);
    cluster.node_mut(1).disk.is_slow = true;
    cluster.propose(3, 3);
    cluster.run_for(20);
    assert_eq!(cluster.followers(), [1, 2]);
    assert_eq!(cluster.node(3).published, z(1, 5));
    assert_eq!(cluster.node(1).disk.log.last(), z(1, 2));
    let waiting = cluster.node(1).disk.works.iter().filter(|work| matches!(work, Work::Append(_)));
    assert_eq!(waiting.count(), 3);
}

/// A20: what is committed without the leader's own disk is in its memory until it is there.
#[test]
fn a20_a_leader_with_a_slow_disk_brings_learners_up() {
    let mut cluster = Cluster::new(5, 0, 1);
    cluster.commit_log_count = 0;
    cluster.start_all();
    cluster.settle();
    cluster.propose(5, 1);
    cluster.settle();
    cluster.kill(1);
    cluster.node_mut(5).disk.is_slow = true;
    cluster.propose(5, 10);
    cluster.quiesce();
    assert_eq!(cluster.node(5).published, z(1, 11));
    cluster.start(1);
    cluster.run_until(20, |cluster| cluster.node(1).published == z(1, 11));
    assert_eq!(cluster.node(1).synced_by, Some("DIFF"));
    assert_eq!(cluster.node(5).disk.log.last(), z(1, 1));
}

/// R10: a leader that has lost committed transactions is refused, loudly.
#[test]
fn r10_what_is_known_to_be_committed_is_not_taken_back() {
    let mut cluster = three(5);
    // Two servers of three lose their disks without noticing it: more than any protocol survives.
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=2 {
        let disk = &mut cluster.node_mut(id).disk;
        disk.log.truncate(z(1, 2));
        disk.state.truncate(2);
        disk.committed = z(1, 2);
    }
    cluster.oracle = Default::default();
    cluster.start(1);
    cluster.start(2);
    cluster.settle();
    cluster.start(3);
    cluster.run_until(30, |cluster| cluster.node(3).stopped.is_some());
    assert_eq!(cluster.node(3).disk.log.last(), z(1, 5), "nothing is cut");
    assert!(cluster.node(3).stopped.as_ref().is_some_and(|reason| reason.contains("committed")));
}
