//! Followers that serve observers, and observers that go to them.

use crate::wire::election::{Doing, Notification, Vote};
use crate::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use crate::zab::ensemble::Ensemble;
use crate::zab::output::{Action, Event, LinkId, Output, Role, Standing};
use crate::zab::tests::cluster::{Cluster, Log, Mail, TICK, server, z};
use crate::zab::tests::java::{
    LINK, Solo, UP_TO_DATE, ack, info, leader_info, new_leader, proposal,
};
use crate::zxid::Zxid;

/// An observer's connection.
const OBSERVER: LinkId = LinkId(44);

fn new(voters: i64, observers: i64) -> Cluster {
    let mut cluster = Cluster::new(voters, observers, 1);
    cluster.has_observer_masters = true;
    cluster
}

fn started(voters: i64, observers: i64) -> Cluster {
    let mut cluster = new(voters, observers);
    cluster.start_all();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(voters));
    cluster
}

/// Who serves each observer.
fn masters(cluster: &Cluster, observers: std::ops::RangeInclusive<i64>) -> Vec<i64> {
    let master = |id| cluster.node(id).zab.as_ref().and_then(|zab| zab.master());
    observers.map(|id| master(id).expect("it is up and has one").0).collect()
}

/// Whom a server serves.
fn served(cluster: &Cluster, id: i64) -> Vec<i64> {
    let zab = cluster.node(id).zab.as_ref().expect("it is up");
    zab.learners().filter(|it| it.is_observer && it.is_synced).map(|it| it.server.0).collect()
}

// ── Ensembles ──

#[test]
fn observers_are_served_by_followers_and_not_by_the_leader() {
    let mut cluster = started(3, 4);
    cluster.propose(3, 5);
    cluster.settle();
    assert!(served(&cluster, 3).is_empty());
    let masters = masters(&cluster, 4..=7);
    assert!(masters.contains(&1) && masters.contains(&2), "{masters:?}");
    assert_eq!(served(&cluster, 1).len() + served(&cluster, 2).len(), 4);
    for id in 4..=7 {
        assert!(matches!(cluster.node(id).role, Role::Observing { leader, .. } if leader.0 == 3));
        assert_eq!(cluster.node(id).published, z(1, 5));
    }
    // The leader's pings reach them, and their answers reach whoever serves them.
    cluster.run_for(20);
    assert_eq!(cluster.leader(), Some(3));
    let touched = |id| {
        let events = &cluster.node(id).events;
        let of = |event: &Event| match event {
            Event::Touched { sessions, .. } => sessions.iter().any(|(session, _)| *session > 3),
            _ => false,
        };
        events.iter().any(of)
    };
    assert_eq!([1, 2, 3].map(touched), [true, true, false]);
}

#[test]
fn an_observer_whose_master_is_lost_goes_to_the_next() {
    let mut cluster = started(3, 1);
    let master = masters(&cluster, 4..=4)[0];
    cluster.kill(master);
    cluster.propose(3, 3);
    cluster.settle();
    assert_eq!(masters(&cluster, 4..=4), [3 - master]);
    assert_eq!(cluster.node(4).published, z(1, 3));
    // The last follower goes, too: there is no quorum, and nobody to observe.
    cluster.kill(3 - master);
    cluster.run_for(20);
    assert_eq!(cluster.node(4).role, Role::Looking);
    cluster.start_all();
    let leader = cluster.leader();
    cluster.settle();
    cluster.propose(cluster.leader().unwrap(), 1);
    cluster.settle();
    assert_eq!(cluster.node(4).published.counter(), 1, "{leader:?}");
}

#[test]
fn a_follower_that_loses_its_leader_lets_its_observers_go() {
    let mut cluster = started(3, 2);
    cluster.propose(3, 2);
    cluster.settle();
    cluster.kill(3);
    cluster.run_until(50, |cluster| {
        (4..=5).all(|id| cluster.node(id).role == Role::Looking)
            && [1, 2].iter().all(|id| cluster.node(*id).role == Role::Looking)
    });
    cluster.settle();
    let leader = cluster.leader().unwrap();
    assert_eq!(masters(&cluster, 4..=5), [3 - leader; 2]);
    assert!(!cluster.node(leader).is_accepting_observers);
    assert!(cluster.node(3 - leader).is_accepting_observers);
    cluster.propose(leader, 2);
    cluster.settle();
    assert_eq!(cluster.node(4).published, z(2, 2));
}

#[test]
fn what_is_not_committed_is_not_told() {
    let mut cluster = started(3, 1);
    cluster.holds = Some(|mail| matches!(mail, Mail::Learner(FromLearner::Ack { .. })));
    cluster.node_mut(3).disk.is_slow = true;
    cluster.propose(3, 4);
    cluster.quiesce();
    let master = masters(&cluster, 4..=4)[0];
    assert_eq!(cluster.node(master).disk.log.last(), z(1, 4));
    assert_eq!(cluster.node(4).tree.len(), 0);
    cluster.holds = None;
    cluster.quiesce();
    assert_eq!(cluster.node(4).published, z(1, 4));
}

#[test]
fn an_observer_that_comes_back_is_brought_up_by_a_follower() {
    for (commit_log_count, base, expected) in [(500, 0, "DIFF"), (0, 0, "DIFF"), (0, 6, "SNAP")] {
        let mut cluster = started(3, 1);
        cluster.commit_log_count = commit_log_count;
        cluster.kill(1);
        cluster.kill(2);
        cluster.start_all();
        cluster.settle();
        let leader = cluster.leader().unwrap();
        cluster.propose(leader, 3);
        cluster.settle();
        cluster.kill(4);
        cluster.propose(leader, 20);
        cluster.quiesce();
        for id in 1..=3 {
            // Older segments of the log are gone.
            let log = &mut cluster.node_mut(id).disk.log;
            let kept = log.txns.split_off(base);
            if let Some((zxid, _)) = log.txns.last() {
                *log = Log { base: *zxid, txns: kept };
            } else {
                log.txns = kept;
            }
        }
        cluster.start(4);
        cluster.settle();
        let last = cluster.node(leader).published;
        assert_eq!((cluster.node(4).published, cluster.node(4).synced_by), (last, Some(expected)));
        assert!(served(&cluster, leader).is_empty());
    }
}

#[test]
fn observers_go_to_the_leader_where_followers_serve_none() {
    let mut cluster = Cluster::started(3, 2, 1);
    assert_eq!(masters(&cluster, 4..=5), [3, 3]);
    assert_eq!(served(&cluster, 3), [4, 5]);
    cluster.settle();
}

#[test]
fn members_change_for_observers_of_followers_as_well() {
    let mut cluster = new(3, 2);
    cluster.is_dynamic = true;
    cluster.start_all();
    cluster.settle();
    // Server 2 votes no more, and serves nobody; 4 gets a vote and follows the leader.
    let roles = [(1, true), (2, false), (3, true), (4, true), (5, false)];
    let zxid = cluster.propose_members(3, &roles);
    cluster.settle();
    for node in cluster.nodes.values_mut() {
        assert_eq!(node.zab().ensemble().config_version, zxid.raw());
    }
    assert!(matches!(cluster.node(4).role, Role::Following { .. }));
    let observers = [2, 5].map(|id| masters(&cluster, id..=id)[0]);
    assert!(observers.iter().all(|id| [1, 4].contains(id)), "{observers:?}");
    cluster.propose(3, 1);
    cluster.settle();
    assert_eq!(cluster.node(5).published, zxid.next().unwrap());
}

// ── One follower ──

fn ensemble(me: i64) -> Ensemble {
    let mut cluster = Cluster::new(3, 1, 1);
    cluster.has_observer_masters = true;
    cluster.ensemble(server(me))
}

/// Server 1, with (2, 1) to (2, `committed`) of the leader's epoch 2 committed.
fn master(committed: u32) -> Solo {
    let mut solo = Solo::of(ensemble(1), z(1, 9), Standing::Sound);
    solo.elect(3, z(1, 9));
    solo.zab.handle_connected(solo.now, LINK);
    solo.drain();
    solo.hear(leader_info(2));
    solo.hear(FromLeader::Diff { through: z(1, 9) });
    solo.hear(new_leader(2));
    solo.hear(UP_TO_DATE);
    assert!(solo.take().contains(&Output::Perform(Action::AcceptObservers(true))));
    commit(&mut solo, 1..=committed);
    solo
}

fn commit(solo: &mut Solo, counters: std::ops::RangeInclusive<u32>) {
    for counter in counters {
        solo.hear(proposal(z(2, counter)));
        solo.hear(FromLeader::Commit { zxid: z(2, counter) });
    }
}

/// An observer connects, with a log that ends with `last`; what it is sent after LEADERINFO.
fn come(solo: &mut Solo, last: Zxid) -> Vec<FromLeader> {
    solo.zab.handle_accepted(solo.now, OBSERVER);
    solo.drain();
    solo.hear_from(OBSERVER, observer_info(1, 0));
    assert_eq!(solo.sent_to(OBSERVER), [leader_info(2)]);
    solo.hear_from(OBSERVER, FromLearner::AckEpoch { last, current_epoch: Some(1) });
    solo.sent_to(OBSERVER)
}

fn observer_info(accepted_epoch: u32, config_version: i64) -> FromLearner {
    FromLearner::Info {
        is_observer: true,
        server: server(4),
        accepted_epoch,
        protocol: 0x10000,
        config_version,
        extensions: Extensions::default(),
    }
}

#[test]
fn an_observer_hears_what_apaches_would_send() {
    let mut solo = master(2);
    let config = solo.zab.ensemble().config.clone();
    let through = z(2, 2);
    let mut expected = vec![FromLeader::Diff { through }, proposal(z(2, 2))];
    expected.push(FromLeader::Commit { zxid: z(2, 2) });
    expected.push(FromLeader::NewLeader { zxid: z(2, 0), config });
    assert_eq!(come(&mut solo, z(2, 1)), expected);
    // What is committed meanwhile is told at once, what is proposed is not.
    commit(&mut solo, 3..=3);
    solo.hear(proposal(z(2, 4)));
    let inform = |counter| {
        let FromLeader::Proposal { zxid, txn } = proposal(z(2, counter)) else { unreachable!() };
        FromLeader::Inform { zxid, txn }
    };
    assert_eq!(solo.sent_to(OBSERVER), [inform(3)]);
    solo.hear_from(OBSERVER, ack(z(2, 0)));
    // The leader was heard of a moment ago, and that is passed on, too.
    let ping = FromLeader::Ping { zxid: z(2, 3) };
    assert_eq!(solo.sent_to(OBSERVER), [FromLeader::UpToDate { zxid: z(2, 0) }, ping]);
    solo.hear_from(OBSERVER, ack(z(2, 0)));
    solo.hear(FromLeader::Commit { zxid: z(2, 4) });
    assert_eq!(solo.sent_to(OBSERVER), [inform(4)]);
}

#[test]
fn an_observer_hears_who_leads_where_members_change() {
    let mut solo = master(1);
    come(&mut solo, z(2, 1));
    let (zxid, designated_leader) = (z(2, 3), server(3));
    solo.hear(proposal(z(2, 2)));
    solo.hear(proposal(zxid));
    // One packet that commits both changes the members by the second.
    solo.hear(FromLeader::CommitAndActivate { zxid, designated_leader });
    let told = solo.sent_to(OBSERVER);
    let FromLeader::Proposal { txn, .. } = proposal(zxid) else { unreachable!() };
    let before = FromLeader::Inform { zxid: z(2, 2), txn: txn.clone() };
    assert_eq!(told, [before, FromLeader::InformAndActivate { zxid, designated_leader, txn }]);
}

#[test]
fn what_an_observer_asks_goes_to_the_leader() {
    let mut solo = master(1);
    come(&mut solo, z(2, 1));
    solo.hear_from(OBSERVER, ack(z(2, 0)));
    solo.take();
    let revalidate = FromLearner::Revalidate { session: 9, timeout_ms: 400 };
    solo.hear_from(OBSERVER, revalidate);
    let event =
        Event::Revalidate { learner: server(4), link: OBSERVER, session: 9, timeout_ms: 400 };
    assert!(solo.take().contains(&Output::Tell(event)));
}

/// Who hears of this server hears of a leader: a follower that is cut off keeps nobody.
#[test]
fn an_observer_is_pinged_when_the_leader_pings() {
    let mut solo = master(1);
    come(&mut solo, z(2, 1));
    solo.hear_from(OBSERVER, ack(z(2, 0)));
    solo.take();
    let is_ping = |message: &FromLeader| matches!(message, FromLeader::Ping { .. });
    for _ in 0..4 {
        solo.now = solo.now + TICK / 2;
        solo.zab.handle_timeout(solo.now);
        solo.drain();
        assert!(!solo.sent_to(OBSERVER).iter().any(is_ping), "nobody has pinged this server");
    }
    solo.hear(FromLeader::Ping { zxid: z(2, 1) });
    assert_eq!(solo.sent_to(OBSERVER), [FromLeader::Ping { zxid: z(2, 1) }]);
    let touched = vec![(9, 400)];
    solo.hear_from(OBSERVER, FromLearner::Ping { zxid: z(2, 1), touched: touched.clone() });
    let event = Event::Touched { learner: server(4), sessions: touched };
    assert!(solo.take().contains(&Output::Tell(event)));
    // One that does not answer is given up.
    outlast_silence(&mut solo);
    assert!(solo.has_closed(OBSERVER));
}

/// The leader goes on, and the observer says nothing for longer than it may.
fn outlast_silence(solo: &mut Solo) {
    for _ in 0..14 {
        solo.now = solo.now + TICK / 2;
        solo.hear(FromLeader::Ping { zxid: z(2, 1) });
        solo.zab.handle_timeout(solo.now);
        solo.drain();
    }
}

/// Its clients' sessions may end before it hears of a leader again.
#[test]
fn a_follower_that_is_cut_off_does_not_say_that_there_is_a_leader() {
    let mut solo = master(1);
    solo.now = solo.now + TICK;
    come(&mut solo, z(2, 1));
    solo.hear_from(OBSERVER, ack(z(2, 0)));
    assert_eq!(solo.sent_to(OBSERVER), [FromLeader::UpToDate { zxid: z(2, 0) }]);
    solo.hear(FromLeader::Ping { zxid: z(2, 1) });
    assert_eq!(solo.sent_to(OBSERVER), [FromLeader::Ping { zxid: z(2, 1) }]);
}

/// There is nothing to tell the observers, and nothing to count from later.
#[test]
fn a_commit_of_what_is_no_transaction_ends_the_connection() {
    let mut solo = master(0);
    come(&mut solo, z(1, 9));
    solo.hear(proposal(z(2, 1)));
    solo.take();
    solo.hear(FromLeader::Commit { zxid: z(1, 12) });
    let outputs = solo.take();
    assert!(outputs.contains(&Output::Perform(Action::Close { link: LINK })));
    let commits = |output: &Output| matches!(output, Output::Tell(Event::Commit { .. }));
    assert!(!outputs.iter().any(commits));
}

/// Apache's cuts off what another master has told.
#[test]
fn an_observer_that_is_ahead_is_waited_for() {
    let mut solo = master(1);
    assert_eq!(come(&mut solo, z(2, 3)), []);
    commit(&mut solo, 2..=2);
    assert_eq!(solo.sent_to(OBSERVER), []);
    commit(&mut solo, 3..=3);
    assert_eq!(solo.sent_to(OBSERVER)[0], FromLeader::Diff { through: z(2, 3) });
}

#[test]
fn an_observer_that_is_too_far_ahead_is_sent_on() {
    let mut solo = master(1);
    assert_eq!(come(&mut solo, z(2, 3)), []);
    outlast_silence(&mut solo);
    assert!(solo.has_closed(OBSERVER));
}

/// What it has of an older epoch and this one has not is committed nowhere.
#[test]
fn an_observer_with_another_past_is_cut() {
    let mut solo = master(0);
    assert_eq!(come(&mut solo, z(1, 12))[0], FromLeader::Trunc { after: z(1, 9) });
}

#[test]
fn who_is_no_observer_or_knows_of_more_is_sent_away() {
    let voter = info(2, 1);
    for greeting in [voter, observer_info(3, 0), observer_info(1, 5), ack(z(2, 1))] {
        let mut solo = master(1);
        solo.zab.handle_accepted(solo.now, OBSERVER);
        solo.hear_from(OBSERVER, greeting.clone());
        assert!(solo.has_closed(OBSERVER), "{greeting:?}");
    }
}

#[test]
fn observers_go_with_the_leader() {
    let mut solo = master(1);
    come(&mut solo, z(2, 1));
    solo.zab.handle_disconnected(solo.now, LINK);
    solo.drain();
    let outputs = solo.take();
    assert!(outputs.contains(&Output::Perform(Action::Close { link: OBSERVER })));
    assert!(outputs.contains(&Output::Perform(Action::AcceptObservers(false))));
}

// ── One observer ──

/// Server 4 has found that server 3 leads, and dials its first master: which.
fn observer(last: Zxid) -> (Solo, i64) {
    let mut solo = Solo::of(ensemble(4), last, Standing::Sound);
    let to = find_leader(&mut solo);
    (solo, to)
}

fn find_leader(solo: &mut Solo) -> i64 {
    solo.find_leader();
    let dialled = solo.take().into_iter().find_map(|output| match output {
        Output::Perform(Action::ConnectMaster { to }) => Some(to.0),
        _ => None,
    });
    dialled.expect("it dials an observer master")
}

#[test]
fn a_master_that_cannot_be_reached_is_passed_over() {
    let (mut solo, first) = observer(z(1, 4));
    solo.zab.handle_connect_failed(solo.now, server(first));
    solo.drain();
    assert_eq!(find_leader(&mut solo), 3 - first);
    // A second time it waits, lest it goes round and round.
    solo.zab.handle_connect_failed(solo.now, server(3 - first));
    solo.drain();
    solo.take();
    let vote = Some(Vote { leader: server(3), zxid: z(1, 5), peer_epoch: 1 });
    for (from, doing) in [(2, Doing::Following), (3, Doing::Leading)] {
        let notification = Notification {
            doing,
            vote,
            round: 1,
            version: 2,
            config: Vec::new(),
            proposed: Vec::new(),
        };
        solo.zab.handle_notification(solo.now, server(from), notification);
        solo.drain();
    }
    let dials = |output: &Output| matches!(output, Output::Perform(Action::ConnectMaster { .. }));
    assert!(!solo.take().iter().any(dials));
    solo.now = solo.zab.poll_timeout().expect("it waits for a while");
    solo.zab.handle_timeout(solo.now);
    solo.drain();
    assert!(solo.take().iter().any(dials));
}

/// What a follower says of itself it says while it is cut off, too.
#[test]
fn only_what_is_the_leaders_proves_that_there_is_one() {
    let (mut solo, _) = observer(z(1, 4));
    solo.zab.handle_connected(solo.now, LINK);
    solo.drain();
    solo.hear(leader_info(1));
    solo.hear(FromLeader::Diff { through: z(1, 4) });
    solo.hear(new_leader(1));
    solo.hear(UP_TO_DATE);
    assert!(matches!(solo.zab.role(), Role::Observing { leader: ServerId(3), .. }));
    assert_eq!(solo.zab.led_at(), None);
    solo.now = solo.now + TICK;
    solo.hear(FromLeader::Ping { zxid: z(1, 4) });
    assert_eq!(solo.zab.led_at(), Some(solo.now));
}

/// Apache's followers cut off what they do not know to be committed. Under a leader that would
/// mean that data is lost; a follower is merely behind.
#[test]
fn a_master_that_is_behind_is_passed_over() {
    for opening in [FromLeader::Trunc { after: z(1, 2) }, FromLeader::Snap { zxid: z(1, 2) }] {
        let (mut solo, first) = observer(z(1, 2));
        solo.zab.handle_connected(solo.now, LINK);
        solo.drain();
        solo.hear(leader_info(1));
        solo.hear(FromLeader::Diff { through: z(1, 4) });
        for zxid in [z(1, 3), z(1, 4)] {
            solo.hear(proposal(zxid));
            solo.hear(FromLeader::Commit { zxid });
        }
        solo.hear(new_leader(1));
        solo.persist();
        solo.hear(UP_TO_DATE);
        assert!(matches!(solo.zab.role(), Role::Observing { .. }));
        solo.zab.handle_disconnected(solo.now, LINK);
        solo.drain();
        assert_eq!(find_leader(&mut solo), 3 - first);
        let next = LinkId(8);
        solo.zab.handle_connected(solo.now, next);
        solo.zab.handle_from_leader(solo.now, next, leader_info(1));
        solo.zab.handle_from_leader(solo.now, next, opening);
        solo.drain();
        let outputs = solo.take();
        let stops = |output: &Output| matches!(output, Output::Perform(Action::Stop { .. }));
        assert!(!outputs.iter().any(stops));
        assert!(outputs.contains(&Output::Perform(Action::Close { link: next })));
        assert_eq!(find_leader(&mut solo), first);
    }
}
