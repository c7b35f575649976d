//! How an ensemble begins, goes on, and takes its members back.

use std::sync::Arc;

use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::output::{Event, Role, Standing};
use crate::zab::tests::cluster::{Cluster, Log, Mail, TICK, server, z};
use crate::zxid::Zxid;

/// Three servers of which 3 leads in epoch 1 with so many transactions committed.
fn three(count: usize) -> Cluster {
    let mut cluster = Cluster::started(3, 0, 1);
    assert_eq!(cluster.leader(), Some(3));
    cluster.propose(3, count);
    cluster.settle();
    cluster
}

/// All have been started anew but server 1; the others have gone on by so many transactions, of
/// which their leader holds two in memory.
fn two_of_three(count: usize) -> (Cluster, i64) {
    let mut cluster = three(3);
    cluster.commit_log_count = 2;
    for id in 1..=3 {
        cluster.kill(id);
    }
    cluster.start(2);
    cluster.start(3);
    cluster.settle();
    let leader = cluster.leader().expect("two are a quorum");
    cluster.propose(leader, count);
    cluster.settle();
    (cluster, leader)
}

/// Everything up to the newest is on every server.
fn check_in_step(cluster: &mut Cluster, last: Zxid) {
    cluster.settle();
    for node in cluster.nodes.values() {
        assert_eq!(node.published, last, "{}", node.id);
        assert_eq!(node.disk.log.last(), last, "{}", node.id);
    }
}

#[test]
fn three_servers_elect_the_largest_id_and_broadcast() {
    let mut cluster = three(10);
    assert_eq!(cluster.followers(), [1, 2]);
    check_in_step(&mut cluster, z(1, 10));
    for id in 1..=2 {
        assert_eq!(cluster.node(id).synced_by, Some("DIFF"));
    }
}

#[test]
fn proposals_go_out_before_the_leaders_disk_is_done() {
    let mut cluster = three(0);
    cluster.node_mut(3).disk.is_slow = true;
    cluster.propose(3, 5);
    cluster.quiesce();
    // The followers are a quorum without the leader's disk.
    assert_eq!(cluster.node(3).published, z(1, 5));
    assert_eq!(cluster.node(3).disk.log.last(), Zxid::ZERO);
}

#[test]
fn a_learner_that_missed_little_is_brought_up_from_memory() {
    let mut cluster = three(3);
    cluster.kill(1);
    cluster.propose(3, 4);
    cluster.quiesce();
    cluster.start(1);
    check_in_step(&mut cluster, z(1, 7));
    assert_eq!(cluster.node(1).synced_by, Some("DIFF"));
}

#[test]
fn a_learner_that_missed_more_is_brought_up_from_the_log_under_load() {
    let (mut cluster, leader) = two_of_three(100);
    cluster.start(1);
    cluster.run_until(50, |cluster| cluster.node(1).synced_by.is_some());
    for _ in 0..30 {
        cluster.propose(leader, 1);
        cluster.step();
    }
    check_in_step(&mut cluster, z(2, 130));
    assert_eq!(cluster.node(1).synced_by, Some("DIFF"));
}

#[test]
fn a_learner_behind_the_logs_beginning_gets_a_snapshot() {
    let (mut cluster, leader) = two_of_three(20);
    let log = &mut cluster.node_mut(leader).disk.log;
    *log = Log { base: z(2, 10), txns: log.txns.split_off(13) };
    assert_eq!(log.txns[0].0, z(2, 11));
    cluster.start(1);
    check_in_step(&mut cluster, z(2, 20));
    assert_eq!(cluster.node(1).synced_by, Some("SNAP"));
}

/// A leader that does not know how much of its history is committed, since it has just started,
/// sends all of it: the follower may be one of the quorum that has it.
#[test]
fn a_snapshot_takes_nothing_away() {
    let mut cluster = three(6);
    for id in 1..=3 {
        cluster.kill(id);
    }
    let disk = &mut cluster.node_mut(2).disk;
    disk.log.truncate(z(1, 3));
    disk.state.truncate(3);
    disk.committed = z(1, 3);
    let disk = &mut cluster.node_mut(3).disk;
    disk.committed = Zxid::ZERO;
    disk.log = Log { base: z(1, 5), txns: disk.log.txns.split_off(5) };
    cluster.start(2);
    cluster.start(3);
    cluster.settle();
    assert_eq!(cluster.node(2).synced_by, Some("SNAP"));
    assert_eq!(cluster.node(2).disk.log.base, z(1, 6));
    cluster.start(1);
    check_in_step(&mut cluster, z(1, 6));
}

/// Server 3 leads, and has proposals on its own disk that nobody else has heard of when it dies;
/// the others go on without it.
fn with_foreign_tail() -> Cluster {
    let mut cluster = three(3);
    cluster.holds = Some(|mail| matches!(mail, Mail::Leader(FromLeader::Proposal { .. })));
    cluster.propose(3, 2);
    cluster.quiesce();
    assert_eq!(cluster.node(3).disk.log.last(), z(1, 5));
    cluster.lose_mail();
    cluster.kill(3);
    cluster.holds = None;
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    cluster
}

#[test]
fn a_tail_that_nobody_else_has_is_cut_off() {
    let mut cluster = with_foreign_tail();
    cluster.propose(2, 2);
    cluster.settle();
    cluster.start(3);
    check_in_step(&mut cluster, z(2, 2));
    assert_eq!(cluster.node(3).synced_by, Some("TRUNC"));
    assert!(cluster.node(3).events.contains(&Event::Pop { after: z(1, 3) }));
}

#[test]
fn who_cannot_cut_its_log_gets_a_snapshot() {
    let mut cluster = with_foreign_tail();
    cluster.propose(2, 2);
    cluster.settle();
    cluster.start(3);
    cluster.node_mut(3).journal_floor = z(1, 4);
    check_in_step(&mut cluster, z(2, 2));
    assert_eq!(cluster.node(3).synced_by, Some("SNAP"));
}

#[test]
fn a_tail_that_a_quorum_has_survives_its_leader() {
    let mut cluster = three(3);
    cluster.holds = Some(|mail| matches!(mail, Mail::Learner(FromLearner::Ack { .. })));
    cluster.propose(3, 4);
    cluster.quiesce();
    assert_eq!(cluster.node(3).published, z(1, 3));
    cluster.lose_mail();
    cluster.kill(3);
    cluster.holds = None;
    cluster.settle();
    cluster.start(3);
    check_in_step(&mut cluster, z(1, 7));
}

/// A leader dies at each step of its beginning, in every order that these seeds give.
#[test]
fn a_leader_may_die_at_each_step_of_discovery_and_sync() {
    for seed in 0..4 {
        for steps in 0..60 {
            let mut cluster = Cluster::new(3, 0, seed);
            cluster.start_all();
            for _ in 0..steps {
                cluster.step();
            }
            let elected = |id: &i64| cluster.node(*id).is_accepting;
            let leader = (1..=3).rev().find(elected).unwrap_or(3);
            let accepted = cluster.node(leader).disk.accepted_epoch;
            cluster.kill(leader);
            cluster.settle();
            let next = cluster.leader().expect("it has settled");
            // Epochs are never used again (ZOOKEEPER-335), even those in which nothing happened.
            let epoch = cluster.node(next).disk.current_epoch;
            let promised = cluster.nodes.values().map(|node| node.disk.accepted_epoch).max();
            assert_eq!(Some(epoch), promised);
            cluster.propose(next, 2);
            cluster.start(leader);
            check_in_step(&mut cluster, z(epoch, 2));
            assert!(epoch >= accepted);
        }
    }
}

/// The same under load, with some transactions at each stage of their way.
#[test]
fn a_leader_may_die_at_each_step_of_broadcast() {
    for steps in 0..50 {
        let mut cluster = Cluster::started(3, 1, steps);
        cluster.propose(3, 5);
        for _ in 0..steps {
            cluster.step();
        }
        cluster.kill(3);
        cluster.settle();
        let next = cluster.leader().expect("it has settled");
        cluster.propose(next, 1);
        cluster.start(3);
        let last = z(cluster.node(next).disk.current_epoch, 1);
        check_in_step(&mut cluster, last);
    }
}

#[test]
fn a_follower_may_die_at_each_step_of_its_return() {
    for steps in 0..60 {
        let mut cluster = with_foreign_tail();
        cluster.propose(2, 2);
        cluster.settle();
        cluster.start(3);
        for _ in 0..steps {
            cluster.step();
        }
        cluster.kill(3);
        cluster.settle();
        cluster.start(3);
        check_in_step(&mut cluster, z(2, 2));
    }
}

#[test]
fn who_has_lost_its_leader_votes_once_its_disk_is_done() {
    let mut cluster = three(2);
    cluster.node_mut(1).disk.is_slow = true;
    cluster.propose(3, 3);
    cluster.quiesce();
    assert_eq!(cluster.node(1).disk.log.last(), z(1, 2));
    cluster.kill(3);
    cluster.quiesce();
    // The oracle checks each vote; what matters here is that none comes.
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.node(1).role, Role::Looking);
    cluster.node_mut(1).disk.is_slow = false;
    cluster.settle();
    assert_eq!(cluster.node(1).published, z(1, 5));
}

#[test]
fn observers_hear_what_is_committed_and_count_for_nothing() {
    let mut cluster = Cluster::started(3, 2, 1);
    cluster.propose(3, 3);
    cluster.settle();
    assert!(matches!(cluster.node(4).role, Role::Observing { .. }));
    assert_eq!(cluster.node(5).published, z(1, 3));
    cluster.kill(1);
    cluster.kill(2);
    cluster.run_for(1);
    assert_eq!(cluster.leader(), None, "one voter and two observers are no quorum");
    cluster.start(1);
    cluster.settle();
    let leader = cluster.leader().expect("two voters are a quorum");
    cluster.propose(leader, 2);
    cluster.start(2);
    check_in_step(&mut cluster, z(2, 2));
}

/// `Zab` keeps a frozen process from answering what it cannot know.
#[test]
fn a_leader_is_asked_whether_it_leads() {
    let mut cluster = three(2);
    let token = cluster.confirm(3);
    assert!(cluster.node(3).confirmed.is_empty(), "nobody has answered yet");
    cluster.quiesce();
    assert_eq!(cluster.node(3).confirmed, [token]);
    // All that is asked while a ping is on its way shares the next.
    let is_ping = |mail: &Mail| matches!(mail, Mail::Leader(FromLeader::Ping { .. }));
    let tokens: Vec<u64> = (0..20).map(|_| cluster.confirm(3)).collect();
    let pings = |cluster: &Cluster| {
        cluster
            .links
            .values()
            .flat_map(|link| &link.to_learner)
            .filter(|mail| is_ping(mail))
            .count()
    };
    assert_eq!(pings(&cluster), 2);
    cluster.quiesce();
    assert_eq!(cluster.node(3).confirmed[1..], tokens);
}

#[test]
fn a_confirmation_waits_for_what_was_proposed_before() {
    let mut cluster = three(0);
    cluster.holds = Some(|mail| matches!(mail, Mail::Learner(FromLearner::Ack { .. })));
    cluster.propose(3, 1);
    let token = cluster.confirm(3);
    // The answers to the pings stand behind the ACKs.
    cluster.quiesce();
    assert!(cluster.node(3).confirmed.is_empty());
    cluster.holds = None;
    cluster.quiesce();
    assert_eq!(cluster.node(3).confirmed, [token]);
    assert_eq!(cluster.node(3).published, z(1, 1));
}

#[test]
fn a_leader_resigns_once_all_is_committed_and_is_replaced_at_once() {
    let mut cluster = three(2);
    cluster.propose(3, 5);
    let at = cluster.now;
    cluster.with(server(3), |zab, now| zab.resign(now));
    assert_eq!(cluster.node(3).role, Role::Looking, "nothing more is proposed");
    cluster.run_until(1, |cluster| cluster.node(3).has_resigned);
    assert_eq!(cluster.node(3).published, z(1, 7));
    cluster.kill(3);
    cluster.settle();
    assert!(cluster.now.since(at) <= TICK / 20, "{:?}", cluster.now.since(at));
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.node(1).published, z(1, 7));
}

#[test]
fn a_leader_that_resigns_without_answers_waits_a_tick() {
    let mut cluster = three(2);
    cluster.holds = Some(|mail| matches!(mail, Mail::Learner(FromLearner::Ack { .. })));
    cluster.propose(3, 5);
    let at = cluster.now;
    cluster.with(server(3), |zab, now| zab.resign(now));
    cluster.run_until(2, |cluster| cluster.node(3).has_resigned);
    assert_eq!(cluster.now, at + TICK);
}

/// A10: with the largest id and all that the others have it would be elected again at once.
#[test]
fn a10_a_leader_that_stands_back_is_replaced_and_follows() {
    let mut cluster = three(2);
    cluster.propose(3, 5);
    cluster.with(server(3), |zab, now| zab.stand_back(now));
    assert_eq!(cluster.node(3).role, Role::Looking, "nothing more is proposed");
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.followers(), [1, 3]);
    cluster.propose(2, 1);
    check_in_step(&mut cluster, z(2, 1));
}

#[test]
fn a_leader_that_stands_back_leads_again_where_nobody_else_can() {
    let mut cluster = three(2);
    cluster.kill(1);
    cluster.settle();
    let at = cluster.now;
    cluster.with(server(3), |zab, now| zab.stand_back(now));
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
    assert!(cluster.now.since(at) < 10 * TICK, "{:?}", cluster.now.since(at));
}

/// It has no vote before all that it has appended is durable.
#[test]
fn a_learner_that_stands_back_waits_for_its_disk() {
    let mut cluster = three(2);
    cluster.node_mut(1).disk.is_slow = true;
    cluster.propose(3, 5);
    cluster.quiesce();
    cluster.with(server(1), |zab, now| zab.stand_back(now));
    cluster.run_for(20);
    assert_eq!(cluster.node(1).role, Role::Looking);
    cluster.propose(3, 5);
    cluster.node_mut(1).disk.is_slow = false;
    check_in_step(&mut cluster, z(1, 12));
}

/// B13: a new epoch before the counter has run out.
#[test]
fn b13_an_epoch_whose_counter_is_used_up_is_followed_by_another() {
    let mut cluster = Cluster::new(3, 0, 1);
    cluster.counter_max = Some(10);
    cluster.start_all();
    cluster.settle();
    let at = cluster.now;
    for _ in 0..5 {
        let leader = cluster.leader().expect("it has settled");
        let before = cluster.node(leader).disk.current_epoch;
        cluster.propose(leader, 30);
        assert_eq!(cluster.node(leader).next_counter, 1, "its role has ended at the tenth");
        cluster.settle();
        let leader = cluster.leader().expect("it has settled");
        assert_eq!(cluster.node(leader).disk.current_epoch, before + 1);
        assert_eq!(cluster.node(leader).published, z(before, 10));
    }
    assert!(cluster.now.since(at) < TICK / 2, "{}", cluster.tail());
}

#[test]
fn a_new_ensemble_of_empty_servers_begins_by_itself() {
    let mut cluster = Cluster::new(3, 0, 1);
    for id in 1..=3 {
        cluster.node_mut(id).disk.standing = Standing::Empty;
    }
    cluster.start(1);
    cluster.start(2);
    cluster.run_for(20);
    assert_eq!(cluster.leader(), None, "the third may have been there before");
    cluster.start(3);
    cluster.settle();
    for node in cluster.nodes.values() {
        assert_eq!(node.disk.standing, Standing::Sound);
    }
}

/// `standing` of server 1 after everything, or half of what it had acknowledged, is lost.
fn lose(cluster: &mut Cluster, id: i64, standing: Standing) {
    let disk = &mut cluster.node_mut(id).disk;
    let keep = if standing == Standing::Empty { 0 } else { disk.log.txns.len() / 2 };
    disk.log.txns.truncate(keep);
    disk.state.truncate(keep);
    disk.committed = disk.committed.min(disk.log.last());
    (disk.accepted_epoch, disk.current_epoch) = (0, 0);
    disk.standing = standing;
}

/// R3, R5: one wiped or damaged server beside a stale one does not forget what is committed.
#[test]
fn who_has_lost_something_does_not_vote() {
    for standing in [Standing::Empty, Standing::Damaged] {
        let mut cluster = three(2);
        cluster.kill(1);
        cluster.propose(3, 4);
        cluster.settle();
        cluster.kill(2);
        cluster.kill(3);
        lose(&mut cluster, 2, standing);
        cluster.start(1);
        cluster.start(2);
        cluster.run_for(50);
        assert_eq!(cluster.leader(), None, "{standing:?}");
        cluster.start(3);
        check_in_step(&mut cluster, z(1, 6));
        assert_eq!(cluster.node(2).disk.standing, Standing::Sound);
        let leader = cluster.leader().expect("it has settled");
        // It has its vote again: with the leader alone it is a quorum.
        let third = (1..=3).find(|id| *id != leader && *id != 2).expect("there are three");
        cluster.kill(third);
        cluster.propose(leader, 1);
        cluster.settle();
        assert!(matches!(cluster.node(2).role, Role::Following { .. } | Role::Leading { .. }));
    }
}

#[test]
fn at_most_two_snapshots_are_on_their_way() {
    let mut cluster = Cluster::started(3, 4, 1);
    cluster.propose(3, 5);
    cluster.settle();
    for id in 4..=7 {
        cluster.kill(id);
        lose(&mut cluster, id, Standing::Sound);
        cluster.node_mut(id).disk.log.txns.clear();
        cluster.node_mut(id).disk.state.clear();
        cluster.node_mut(id).disk.committed = Zxid::ZERO;
    }
    cluster.holds = Some(|mail| matches!(mail, Mail::Snapshot(..)));
    for id in 4..=7 {
        cluster.start(id);
    }
    // The two that wait do so for longer than they would for a leader that says nothing.
    for _ in 0..15 {
        let wait = |cluster: &mut Cluster| cluster.run_for(1);
        wait(&mut cluster);
        let links: Vec<_> = cluster.links.iter().filter(|(_, l)| l.is_receiving).collect();
        assert_eq!(links.len(), 2);
        let links: Vec<_> = links.iter().map(|(id, link)| (**id, link.learner)).collect();
        for (link, learner) in links {
            cluster.with(learner, |zab, now| zab.handle_progress(now, link));
            cluster.with(server(3), |zab, now| zab.handle_progress(now, link));
        }
    }
    let connections = cluster.links.len();
    cluster.holds = None;
    cluster.settle();
    assert_eq!(cluster.links.len(), connections, "nobody had to connect again");
    assert!((4..=7).all(|id| cluster.node(id).synced_by == Some("SNAP")));
}

#[test]
fn a_snapshot_without_progress_is_given_up() {
    let mut cluster = three(3);
    cluster.kill(1);
    lose(&mut cluster, 1, Standing::Damaged);
    cluster.node_mut(1).disk.log.txns.clear();
    cluster.node_mut(1).disk.state.clear();
    cluster.node_mut(1).disk.committed = Zxid::ZERO;
    cluster.holds = Some(|mail| matches!(mail, Mail::Snapshot(..)));
    cluster.start(1);
    cluster.run_until(5, |cluster| cluster.links.values().any(|link| link.is_receiving));
    let link = *cluster.links.iter().find(|(_, link)| link.is_receiving).expect("there is").0;
    cluster.run_until(14, |cluster| !cluster.links.contains_key(&link));
    cluster.holds = None;
    check_in_step(&mut cluster, z(1, 3));
}

/// Memory stays bounded: what is committed is kept by count.
#[test]
fn the_history_in_memory_is_bounded() {
    let mut cluster = Cluster::new(3, 0, 1);
    cluster.commit_log_count = 10;
    cluster.start_all();
    cluster.settle();
    for _ in 0..30 {
        cluster.propose(3, 10);
        cluster.quiesce();
    }
    for node in cluster.nodes.values() {
        let history = &node.zab.as_ref().expect("up").peer.history;
        assert!(history.len() <= 20, "{}", history.len());
    }
}

#[test]
fn what_is_asked_about_a_leader_is_answered() {
    let mut cluster = three(2);
    cluster.propose(3, 2);
    let zab = cluster.node_mut(3).zab();
    assert_eq!((zab.proposals(), zab.outstanding(), zab.epoch()), (4, 2, Some(1)));
    assert_eq!(zab.learners().filter(|learner| learner.is_synced).count(), 2);
    cluster.quiesce();
    let zab = cluster.node_mut(3).zab();
    assert_eq!(zab.outstanding(), 0);
    assert!(zab.learners().all(|learner| learner.acked == z(1, 4)));
    assert!(zab.sync_took().is_some());
    assert_eq!(zab.leader(), Some(server(3)));
    assert_eq!(cluster.node_mut(1).zab().leader(), Some(server(3)));
}

#[test]
fn the_payload_arrives_as_it_was_proposed() {
    let mut cluster = three(1);
    let txn: Arc<[u8]> = Arc::from(&b"the bytes of a transaction"[..]);
    cluster.node_mut(3).tree.push((z(1, 2), Arc::clone(&txn)));
    cluster.with(server(3), |zab, now| zab.propose(now, z(1, 2), Arc::clone(&txn)));
    cluster.settle();
    assert_eq!(cluster.node(1).disk.log.txns[1], (z(1, 2), txn));
}
