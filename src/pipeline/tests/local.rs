//! Sessions that only one server knows.

use super::world::World;
use super::*;
use crate::wire::quorum::{Forwarded, ServerId};
use crate::wire::response::{self, OpResult};
use crate::zab::output::{LinkId, Role};

const LEADING: Role = Role::Leading { epoch: 1 };
const FOLLOWING: Role = Role::Following { leader: ServerId(9), link: LinkId(1) };

fn modes(local_sessions_upgrading: bool) -> Modes {
    Modes { local_sessions: true, local_sessions_upgrading, ..Modes::default() }
}

/// Three servers with local sessions.
fn world() -> World {
    World::led_with(modes(true))
}

fn counts(world: &World, member: usize) -> (usize, usize) {
    let pipeline = &world.members[member].pipeline;
    (pipeline.local_session_count(), pipeline.sessions().count())
}

fn bench(role: Role, upgrading: bool) -> Bench {
    let mut bench = Bench::with(Settings { modes: modes(upgrading), ..settings() });
    bench.pipeline.handle_role(role, 1, bench.now, bench.wall);
    bench
}

impl Bench {
    /// A local session of `A`.
    fn begin_local(&mut self) -> i64 {
        self.ask_session(A, 0, None);
        let Some(Notice::Connected { client: A, then, .. }) = self.pipeline.poll_notice() else {
            panic!("a local session waits for nobody");
        };
        let Then::Begin { session, timeout_ms: 10_000 } = then else { panic!("{then:?}") };
        session
    }
}

#[test]
fn local_sessions_come_and_go_without_transactions() {
    for role in [LEADING, FOLLOWING] {
        let mut bench = bench(role, true);
        let session = bench.begin_local();
        assert_eq!(bench.pipeline.local_session_count(), 1);
        assert_eq!(bench.pipeline.sessions().count(), 0);
        bench.pipeline.handle_touch(bench.now, session);
        assert!(bench.pipeline.take_touched().is_empty(), "no leader keeps it alive");
        let answer = bench.ask(session, CLOSE);
        assert_eq!((answer.error, answer.then), (0, Then::Close));
        assert_eq!(bench.pipeline.local_session_count(), 0);
        assert!(bench.logged.is_empty());
        assert_eq!(bench.pipeline.poll_to_leader(), None);
    }
}

#[test]
fn a_first_ephemeral_makes_a_leaders_session_global() {
    let mut bench = bench(LEADING, true);
    let session = bench.begin_local();
    bench.done(session, create("/plain", PERSISTENT));
    assert_eq!(bench.logged.len(), 1, "a plain node needs no session");
    bench.done(session, create("/e", EPHEMERAL));
    assert_eq!(bench.logged.len(), 3);
    assert_eq!(bench.logged[1].txn, format!("{:?}", Txn::CreateSession { timeout_ms: 10_000 }));
    assert_eq!(bench.logged[1].session, session);
    assert_eq!(bench.pipeline.local_session_count(), 0);
    assert_eq!(bench.pipeline.sessions().iter().collect::<Vec<_>>(), [(session, 10_000)]);
    assert_eq!(bench.stat("/e").unwrap().ephemeral_owner, session);
    bench.done(session, create("/e2", EPHEMERAL));
    assert_eq!(bench.logged.len(), 4, "once is enough");
    bench.done(session, CLOSE);
    assert!(bench.stat("/e").is_none() && bench.stat("/e2").is_none());
}

#[test]
fn a_learner_asks_for_the_session_first() {
    let mut world = world();
    for member in 0..3 {
        let connection = world.connect(member);
        let session = world.connections[connection].session.expect("nobody else is asked");
        let known = counts(&world, 0).1;
        assert_eq!(counts(&world, member), (1, known));
        let op = multi(&[set("/", b"x", -1), create(&format!("/m{member}"), EPHEMERAL)]);
        world.ask(connection, &op);
        world.settle();
        let answer = &world.connections[connection].answers[0];
        assert_eq!(answer.error, 0);
        for other in 0..3 {
            assert!(world.members[other].pipeline.sessions().contains(session));
        }
        assert_eq!(counts(&world, member), (0, known + 1));
        // It is known everywhere, so it goes anywhere.
        let moved = world.reconnect((member + 1) % 3, session);
        world.settle();
        assert_eq!(world.connections[moved].session, Some(session));
    }
    world.check_same();
    world.check_requests();
}

#[test]
fn a_local_session_is_known_nowhere_else() {
    let mut world = world();
    for member in 0..3 {
        let connection = world.connect(member);
        let session = world.connections[connection].session.unwrap();
        let elsewhere = world.reconnect((member + 1) % 3, session);
        world.settle();
        assert!(world.connections[elsewhere].is_closed);
        assert_eq!(world.connections[elsewhere].session, None);
        // Here it comes back, and its old connection ends.
        let again = world.reconnect(member, session);
        assert_eq!(world.connections[again].session, Some(session));
        assert!(world.connections[connection].is_closed);
    }
}

#[test]
fn a_learners_local_session_may_write_what_needs_no_session() {
    let mut world = world();
    let leader = world.leader;
    let learner = (leader + 1) % 3;
    let connection = world.connect(learner);
    world.ask(connection, &create("/a", PERSISTENT));
    world.settle();
    assert_eq!(world.connections[connection].answers[0].error, 0);
    assert_eq!(counts(&world, learner), (1, 0));
    // One that claims an ephemeral without having asked for the session is an expired one.
    let session = world.connections[connection].session.unwrap();
    let (op, body) = create("/e", EPHEMERAL);
    let request = Forwarded { session, cxid: 77, op: op.raw(), body, ids: Vec::new() };
    let (now, wall) = (world.now, world.wall);
    let id = ServerId(learner as i64 + 1);
    world.members[leader].pipeline.handle_forwarded(id, &request, now, wall);
    world.pump(leader);
    let (_, txn) = world.members[leader].log.last().unwrap();
    let expired = Txn::Error { code: ErrorCode::SessionExpired.raw() };
    assert_eq!(txn::decode(txn).unwrap().txn, expired);
}

/// A write that was under way when its session ended: its client may have been told of the end, and
/// of what others did behind it.
#[test]
fn what_comes_late_from_an_ended_session_is_not_a_local_ones() {
    let mut world = world();
    let leader = world.leader;
    let learner = (leader + 1) % 3;
    let connection = world.connect(learner);
    world.ask(connection, &create("/e", EPHEMERAL));
    world.settle();
    assert_eq!(counts(&world, leader), (0, 1));
    let session = world.connections[connection].session.unwrap();
    let (now, wall) = (world.now, world.wall);
    let id = ServerId(learner as i64 + 1);
    for (cxid, (op, body)) in
        [(0, (OpCode::CloseSession, Vec::new())), (77, create("/late", PERSISTENT))]
    {
        let request = Forwarded { session, cxid, op: op.raw(), body, ids: Vec::new() };
        world.members[leader].pipeline.handle_forwarded(id, &request, now, wall);
        world.pump(leader);
    }
    let (_, txn) = world.members[leader].log.last().unwrap();
    let expired = Txn::Error { code: ErrorCode::SessionExpired.raw() };
    assert_eq!(txn::decode(txn).unwrap().txn, expired);
}

#[test]
fn without_upgrades_an_ephemeral_is_refused() {
    for role in [LEADING, FOLLOWING] {
        let mut bench = bench(role, false);
        let session = bench.begin_local();
        let refused = ErrorCode::EphemeralOnLocalSession.raw();
        assert_eq!(bench.error(session, create("/e", EPHEMERAL)), refused);
        let ops = [set("/", b"x", -1), create("/e", EPHEMERAL), set("/", b"x", -1)];
        let answer = bench.ask(session, multi(&ops));
        let mut expected = Vec::new();
        for error in [0, refused, ErrorCode::RuntimeInconsistency.raw()] {
            response::put_op_result(&mut expected, &OpResult::Error(error));
        }
        response::put_multi_end(&mut expected);
        assert_eq!((answer.error, answer.body), (0, expected));
        assert!(bench.logged.is_empty());
        assert_eq!(bench.pipeline.poll_to_leader(), None, "the leader is not asked");
        assert_eq!(bench.pipeline.local_session_count(), 1);
    }
}

#[test]
fn local_sessions_expire_where_they_are() {
    for role in [LEADING, FOLLOWING] {
        let mut bench = bench(role, true);
        let session = bench.begin_local();
        for _ in 0..4 {
            bench.pipeline.handle_led(bench.now);
            bench.wait(TICK_MS);
            bench.pipeline.handle_touch(bench.now, session);
        }
        for _ in 0..5 {
            bench.pipeline.handle_led(bench.now);
            bench.wait(TICK_MS);
        }
        assert_eq!(bench.pipeline.local_session_count(), 1, "it was heard of");
        bench.pipeline.handle_led(bench.now);
        bench.wait(TICK_MS);
        assert_eq!(bench.pipeline.local_session_count(), 0);
        assert!(matches!(bench.notices[..], [Notice::Close { client: A }]), "{:?}", bench.notices);
        assert!(bench.logged.is_empty());
    }
}

#[test]
fn an_upgrade_that_is_undone_leaves_the_session_local() {
    let mut world = world();
    let connection = world.connect(0);
    let session = world.connections[connection].session.unwrap();
    assert_eq!(world.leader, 0);
    // The leader alone has the upgrade, and the others elect another.
    world.ask(connection, &create("/e", EPHEMERAL));
    assert_eq!(counts(&world, 0), (0, 1));
    world.elect([1, 2]);
    world.join(0);
    world.settle();
    assert_eq!(counts(&world, 0), (1, 0));
    assert!(world.connections[connection].is_closed, "nobody knows what became of its request");
    let again = world.reconnect(0, session);
    world.ask(again, &create("/e", EPHEMERAL));
    world.settle();
    assert_eq!(world.connections[again].answers[0].error, 0);
    assert_eq!(counts(&world, 0), (0, 1));
    world.check_same();
}

/// What waits behind a sync is looked at when its turn comes, whoever leads by then: an ephemeral
/// asks for its session first, and the session's end goes to nobody else.
#[test]
fn what_waited_behind_a_leaders_sync_is_asked_for_as_a_learner() {
    let close = (OpCode::CloseSession, Vec::new());
    for (last, expected) in [(create("/e", EPHEMERAL), (0, 1)), (close, (0, 0))] {
        let mut world = world();
        assert_eq!(world.leader, 0);
        let connection = world.connect(0);
        for request in [super::ensemble::sync(), last] {
            world.ask(connection, &request);
        }
        assert_eq!(counts(&world, 0), (1, 0), "they wait");
        world.elect([1, 2]);
        world.join(0);
        world.settle();
        let errors: Vec<i32> =
            world.connections[connection].answers.iter().map(|answer| answer.error).collect();
        assert_eq!(errors, [0, 0]);
        assert_eq!(counts(&world, 0), expected);
        let is_end = |txn: &[u8]| matches!(txn::decode(txn).unwrap().txn, Txn::CloseSession { .. });
        assert!(!world.members[0].log.iter().any(|(_, txn)| is_end(txn)));
        world.check_same();
    }
}

#[test]
fn local_sessions_outlive_their_leader() {
    let mut world = world();
    let connection = world.connect(2);
    world.lose_leader(2);
    world.ask(connection, &create("/e", EPHEMERAL));
    // One that comes while there is no leader waits for it.
    let late = world.connect(2);
    assert_eq!(world.connections[late].session, None);
    world.elect([1, 2]);
    world.settle();
    assert_eq!(world.connections[connection].answers[0].error, 0);
    assert!(world.connections[late].session.is_some());
    assert_eq!(counts(&world, 2), (1, 1));
    world.check_same();
    world.check_requests();
}

#[test]
fn a_server_on_its_own_has_no_local_sessions() {
    let mut bench = Bench::with(Settings { modes: modes(true), ..settings() });
    let session = bench.connect(A);
    assert!(bench.pipeline.sessions().contains(session));
    assert_eq!(bench.pipeline.local_session_count(), 0);
}
