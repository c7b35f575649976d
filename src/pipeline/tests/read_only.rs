//! Read-only mode, and a leader that serves nobody.

use super::*;
use crate::wire::quorum::ServerId;
use crate::wire::txn::TxnHeader;
use crate::zab::output::{LinkId, Role};

const LEADING: Role = Role::Leading { epoch: 1 };
const FOLLOWING: Role = Role::Following { leader: ServerId(9), link: LinkId(1) };

/// A server that may be read-only, with this role.
fn bench(role: Role) -> Bench {
    let modes = Modes { read_only: true, ..Modes::default() };
    let mut bench = Bench::with(Settings { modes, ..settings() });
    bench.take_part(role);
    bench
}

/// One that has been read-only for a moment.
fn lonely() -> Bench {
    let mut bench = bench(Role::Looking);
    bench.pass(TICK_MS);
    assert!(bench.pipeline.is_read_only());
    bench
}

impl Bench {
    fn take_part(&mut self, role: Role) {
        self.pipeline.handle_role(role, 1, self.now, self.wall);
        self.drain();
    }

    /// Lets time pass without a leader's word.
    fn pass(&mut self, ms: u64) {
        self.advance(ms);
        if self.pipeline.poll_timeout().is_some_and(|due| due <= self.now) {
            self.pipeline.handle_timeout(self.now, self.wall);
        }
        self.drain();
    }

    fn connect_with(&mut self, client: Client, session: i64, read_only: Option<bool>) {
        let password = Some(session::password(session));
        let connect = Connect { client, timeout_ms: 10_000, session, password, read_only };
        self.pipeline.handle_connect(connect, self.now, self.wall);
        self.drain();
    }

    /// What came as notices since the last call: the connect answer's last byte, and what follows.
    fn told(&mut self) -> Vec<(Client, Option<u8>, Then)> {
        let told = |notice| match notice {
            Notice::Connected { client, frame, then } => (client, frame.last().copied(), then),
            Notice::Close { client } => (client, None, Then::Close),
            Notice::Replaced { .. } => unreachable!("no leader sends a state"),
        };
        self.notices.drain(..).map(told).collect()
    }

    /// A read-only session of this client.
    fn begin_reading(&mut self, client: Client) -> i64 {
        self.connect_with(client, 0, Some(true));
        let told = self.told();
        let [(of, Some(1), Then::BeginReadOnly { session, timeout_ms: 10_000 })] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(of, client);
        session
    }
}

const CLOSED: (Option<u8>, Then) = (None, Then::Close);

#[test]
fn reads_are_served_once_there_was_no_leader_for_long_enough() {
    for (tick_ms, grace_ms) in [(500, 2000), (2000, 2000), (3000, 3000)] {
        let now = Time::from_nanos(0);
        let mut bench = bench(Role::Looking);
        let settings = bench.pipeline.settings.clone();
        let sessions = Sessions::new(tick_ms, 1, 5000);
        bench.pipeline = Pipeline::new(Writer::new(TREE, now), sessions, settings, 2, now);
        bench.take_part(Role::Looking);
        bench.pass(grace_ms - 1);
        assert!(!bench.pipeline.is_read_only());
        // To look again is no beginning.
        bench.take_part(Role::Looking);
        bench.pass(1);
        assert!(bench.pipeline.is_read_only(), "{tick_ms}");
    }
    let mut never = Bench::new();
    never.take_part(Role::Looking);
    never.pass(100_000);
    assert!(!never.pipeline.is_read_only());
}

#[test]
fn only_clients_that_take_it_are_served() {
    let mut bench = lonely();
    for refused in [Some(false), None] {
        bench.connect_with(A, 0, refused);
        assert_eq!(bench.told(), [(A, CLOSED.0, CLOSED.1)]);
    }
    let session = bench.begin_reading(A);
    assert_eq!(bench.pipeline.sessions().count(), 0);
    assert_eq!(bench.pipeline.local_session_count(), 1);
    // It comes back, through another connection.
    bench.connect_with(B, session, Some(true));
    let begun = Then::BeginReadOnly { session, timeout_ms: 10_000 };
    assert_eq!(bench.told(), [(A, None, Then::Close), (B, Some(1), begun)]);
    // A wrong password is no reason to doubt the session.
    let connect = Connect {
        client: A,
        timeout_ms: 10_000,
        session,
        password: Some([7; 16]),
        read_only: Some(true),
    };
    bench.pipeline.handle_connect(connect, bench.now, bench.wall);
    bench.drain();
    assert_eq!(bench.told()[1..], [(A, Some(1), Then::Close)]);
}

#[test]
fn nobody_is_told_that_a_session_is_over() {
    let mut bench = bench(FOLLOWING);
    let header = TxnHeader { session: 5, cxid: 0, zxid: Zxid::new(1, 1), time_ms: 0 };
    let mut txn = Vec::new();
    txn::encode(&header, &Txn::CreateSession { timeout_ms: 10_000 }, None, &mut txn);
    bench.pipeline.handle_proposal(header.zxid, &txn, bench.now).unwrap();
    bench.pipeline.handle_committed(header.zxid);
    bench.take_part(Role::Looking);
    bench.pass(TICK_MS);
    assert!(bench.pipeline.is_read_only());
    // The first is known here, the other perhaps to the rest of the ensemble.
    for session in [5, 6] {
        bench.connect_with(A, session, Some(true));
        assert_eq!(bench.told(), [(A, None, Then::Close)]);
    }
}

#[test]
fn a_reader_says_goodbye_without_a_commit() {
    let mut bench = bench(FOLLOWING);
    // Something is not committed: nothing that waits for it would be answered.
    let header = TxnHeader { session: 5, cxid: 1, zxid: Zxid::new(1, 1), time_ms: 0 };
    let mut txn = Vec::new();
    txn::encode(&header, &Txn::Error { code: -1 }, None, &mut txn);
    bench.pipeline.handle_proposal(header.zxid, &txn, bench.now).unwrap();
    bench.take_part(Role::Looking);
    bench.pass(TICK_MS);
    let session = bench.begin_reading(A);
    let xid = bench.send(A, session, &CLOSE);
    bench.drain();
    let [Notice::Connected { client: A, frame, then: Then::Close }] = &bench.notices[..] else {
        panic!("{:?}", bench.notices);
    };
    let mut reader = Reader::new(frame);
    assert_eq!(reader.i32(), Ok(16));
    assert_eq!((reader.i32(), reader.i64(), reader.i32()), (Ok(xid), Ok(0), Ok(0)));
    assert_eq!(bench.pipeline.local_session_count(), 0);
}

#[test]
fn readers_are_disconnected_when_there_is_a_leader() {
    for role in [LEADING, FOLLOWING] {
        let mut bench = lonely();
        let session = bench.begin_reading(A);
        bench.take_part(role);
        assert!(!bench.pipeline.is_read_only());
        assert_eq!(bench.told(), [(A, None, Then::Close)]);
        assert_eq!(bench.pipeline.local_session_count(), 0);
        // On its way when it was disconnected.
        bench.send(A, session, &create("/late", PERSISTENT));
        bench.drain();
        assert_eq!(bench.told(), [(A, None, Then::Close)]);
        assert!(bench.stat("/late").is_none());
        assert_eq!(bench.pipeline.poll_to_leader(), None);
    }
}

#[test]
fn who_waits_for_a_leader_reads_instead() {
    let mut bench = bench(Role::Looking);
    bench.connect_with(A, 0, Some(true));
    bench.connect_with(B, 0, Some(false));
    assert!(bench.told().is_empty());
    bench.pass(TICK_MS);
    let told = bench.told();
    assert!(matches!(told[0], (A, Some(1), Then::BeginReadOnly { .. })), "{told:?}");
    assert_eq!(told[1..], [(B, None, Then::Close)]);
    assert!(bench.pipeline.waiting.is_empty(), "no leader is asked for their sessions");
}

#[test]
fn connections_from_before_go_on_for_as_long_as_they_would() {
    let mut bench = bench(LEADING);
    let session = bench.connect(A);
    bench.notices.clear();
    bench.take_part(Role::Looking);
    bench.pass(TICK_MS);
    assert!(bench.pipeline.is_read_only());
    let reader = bench.begin_reading(B);
    bench.send(A, session, &create("/waits", PERSISTENT));
    bench.pass(TICK_MS);
    bench.pipeline.handle_touch(bench.now, reader);
    assert!(bench.told().is_empty());
    // 7/16 of ten seconds; readers have nothing that they could lose.
    bench.pass(375);
    assert_eq!(bench.told(), [(A, None, Then::Close)]);
    bench.pass(TICK_MS);
    assert!(bench.told().is_empty());
}

#[test]
fn readers_sessions_expire() {
    let mut bench = lonely();
    bench.begin_reading(A);
    for _ in 0..6 {
        bench.pass(TICK_MS);
    }
    assert_eq!(bench.told(), [(A, None, Then::Close)]);
    assert_eq!(bench.pipeline.local_session_count(), 0);
}

#[test]
fn a_server_that_is_not_whole_shows_nothing() {
    let mut bench = bench(Role::Looking);
    bench.pipeline.set_shows_state(false);
    bench.pass(10 * TICK_MS);
    assert!(!bench.pipeline.is_read_only());
    bench.pipeline.set_shows_state(true);
    bench.pass(0);
    assert!(bench.pipeline.is_read_only());
}

#[test]
fn a_leader_may_leave_clients_to_the_others() {
    let modes = Modes { leader_serves: false, ..Modes::default() };
    let mut bench = Bench::with(Settings { modes, ..settings() });
    bench.take_part(FOLLOWING);
    bench.connect_with(A, 0, Some(false));
    bench.take_part(LEADING);
    assert_eq!(bench.told(), [(A, None, Then::Close)]);
    bench.connect_with(B, 0, Some(false));
    assert_eq!(bench.told(), [(B, None, Then::Close)]);
    bench.append();
    assert!(bench.logged.is_empty(), "nobody's session began");
    bench.take_part(Role::Looking);
    bench.take_part(FOLLOWING);
    bench.connect_with(B, 0, Some(false));
    assert!(bench.told().is_empty(), "a follower serves");
}
