//! Leading, following and looking for a leader, one story each.

use super::ensemble::sync;
use super::world::World;
use super::*;
use crate::pipeline::follow::ProposalError;
use crate::pipeline::forward::ToLeader;
use crate::tree::writer::Replay;
use crate::wire::quorum::{Forwarded, FromLeader, ServerId};
use crate::wire::txn::TxnHeader;
use crate::zab::output::{LinkId, Role};

const LEADER: Role = Role::Following { leader: ServerId(9), link: LinkId(1) };

impl Bench {
    /// A bench that follows a leader in epoch 1, with a session of `A` that is known to it.
    fn following() -> (Bench, i64) {
        let mut bench = Bench::new();
        bench.take_role(LEADER, 1);
        bench.ask_session(A, 0, None);
        let Some(ToLeader::Request(asked)) = bench.pipeline.poll_to_leader() else { panic!() };
        let txn = Txn::CreateSession { timeout_ms: 10_000 };
        bench.propose(asked.session, 0, &txn).unwrap();
        bench.let_out();
        assert_eq!(bench.answers.pop().unwrap().client, A);
        (bench, asked.session)
    }

    /// A bench that leads epoch 1, with a session that speaks through the server 2.
    fn leading() -> (Bench, i64) {
        let mut bench = Bench::new();
        bench.take_role(Role::Leading { epoch: 1 }, 1);
        let session = 0x200_0000_0000_0001;
        bench.forward(OpCode::CreateSession.raw(), session, 0, &10_000_i32.to_be_bytes());
        assert_eq!(bench.next_txn(), format!("{:?}", Txn::CreateSession { timeout_ms: 10_000 }));
        (bench, session)
    }

    fn take_role(&mut self, role: Role, epoch: u32) {
        self.pipeline.handle_role(role, epoch, self.now, self.wall);
    }

    /// The leader proposes the next transaction.
    fn propose(&mut self, session: i64, cxid: i32, txn: &Txn<'_>) -> Result<(), ProposalError> {
        let prepared = self.pipeline.prepared().max(Zxid::new(1, 0));
        let zxid = prepared.next().unwrap();
        let header = TxnHeader { session, cxid, zxid, time_ms: self.wall.0 };
        let mut bytes = Vec::new();
        txn::encode(&header, txn, None, &mut bytes);
        self.pipeline.handle_proposal(zxid, &bytes, self.now)
    }

    /// Everything that was proposed is committed.
    fn let_out(&mut self) {
        self.pipeline.handle_committed(self.pipeline.prepared());
        self.drain();
    }

    /// The server 2 passes a request on.
    fn forward(&mut self, op: i32, session: i64, cxid: i32, body: &[u8]) -> bool {
        self.forward_from(ServerId(2), op, session, cxid, body)
    }

    fn forward_from(
        &mut self,
        learner: ServerId,
        op: i32,
        session: i64,
        cxid: i32,
        body: &[u8],
    ) -> bool {
        let (body, ids) = (body.to_vec(), self.ids.clone());
        let request = Forwarded { session, cxid, op, body, ids };
        self.pipeline.handle_forwarded(learner, &request, self.now, self.wall)
    }

    /// The only transaction since the last call.
    fn next_txn(&mut self) -> String {
        let count = self.logged.len();
        self.append();
        assert_eq!(self.logged.len(), count + 1, "exactly one");
        self.last_txn().to_owned()
    }

    fn closes(&mut self) -> Vec<Client> {
        self.drain();
        let close = |notice: Notice| match notice {
            Notice::Close { client } => Some(client),
            _ => None,
        };
        self.notices.drain(..).filter_map(close).collect()
    }
}

// ── A learner ──

#[test]
fn a_learner_passes_writes_on_as_they_came_and_answers_when_they_are_committed() {
    let (mut bench, session) = Bench::following();
    let (op, body) = create("/a", PERSISTENT);
    let xid = bench.send(A, session, &(op, body.clone()));
    let ids = bench.ids.clone();
    let passed_on = Forwarded { session, cxid: xid, op: op.raw(), body, ids };
    assert_eq!(bench.pipeline.poll_to_leader(), Some(ToLeader::Request(passed_on)));
    assert_eq!(bench.pipeline.poll_to_leader(), None);
    assert!(bench.pipeline.take_txns().iter().next().is_none(), "only a leader prepares");
    let error = Txn::Error { code: ErrorCode::NoAuth.raw() };
    bench.propose(session, xid, &error).unwrap();
    bench.drain();
    assert!(bench.answers.is_empty(), "it is not committed");
    bench.let_out();
    let answer = bench.answers.pop().unwrap();
    assert_eq!((answer.xid, answer.error), (xid, ErrorCode::NoAuth.raw()));
    assert_eq!(answer.zxid, Zxid::new(1, 2));
}

#[test]
fn other_servers_transactions_answer_nobody_here() {
    let (mut bench, session) = Bench::following();
    let xid = bench.send(A, session, &create("/a", PERSISTENT));
    let error = Txn::Error { code: ErrorCode::NoAuth.raw() };
    bench.propose(session + 1, xid, &error).unwrap();
    bench.propose(session, xid + 1, &error).unwrap();
    bench.propose(session, xid, &Txn::CheckVersion { path: "/", version: 0 }).unwrap();
    bench.let_out();
    assert!(bench.answers.is_empty());
}

/// A client may count its requests anew on each connection: what it asks here for the first time
/// is not what it had asked on another server.
#[test]
fn what_was_not_passed_on_is_not_answered() {
    let (mut bench, session) = Bench::following();
    bench.take_role(Role::Looking, 0);
    let xid = bench.send(A, session, &set("/", b"1", -1));
    let change = Txn::SetData { path: "/", data: None, version: 1 };
    bench.propose(session, xid, &change).unwrap();
    bench.let_out();
    assert!(bench.answers.is_empty());
    bench.take_role(LEADER, 2);
    let Some(ToLeader::Request(request)) = bench.pipeline.poll_to_leader() else { panic!() };
    assert_eq!(request.cxid, xid);
}

/// The older connection's sync is not asked again, and holds nothing up.
#[test]
fn what_waits_behind_something_dropped_is_let_out() {
    let (mut bench, session) = Bench::following();
    bench.send(A, session, &sync());
    bench.ask_session(B, session, Some(session::password(session)));
    bench.pipeline.handle_revalidated(session, true, bench.now);
    let xid = bench.send(B, session, &(OpCode::Create, Vec::new()));
    bench.let_out();
    assert!(bench.answers.is_empty());
    bench.take_role(Role::Looking, 0);
    bench.take_role(LEADER, 2);
    bench.let_out();
    assert_eq!(bench.answers.iter().map(|it| it.xid).collect::<Vec<i32>>(), [xid]);
}

#[test]
fn what_cannot_be_read_is_refused_in_its_turn_and_not_passed_on() {
    let (mut bench, session) = Bench::following();
    let first = bench.send(A, session, &create("/a", PERSISTENT));
    bench.send(A, session, &(OpCode::Create, vec![1]));
    assert!(bench.pipeline.poll_to_leader().is_some());
    assert_eq!(bench.pipeline.poll_to_leader(), None);
    bench.let_out();
    assert!(bench.answers.is_empty());
    bench.propose(session, first, &Txn::Error { code: -101 }).unwrap();
    bench.let_out();
    let errors: Vec<i32> = bench.answers.iter().map(|answer| answer.error).collect();
    assert_eq!(errors, [-101, ErrorCode::MarshallingError.raw()]);
}

/// A commit that reaches into what was proposed lets out what it covers, and nothing else.
#[test]
fn a_learner_publishes_zxid_by_zxid() {
    let (mut bench, session) = Bench::following();
    for _ in 0..3 {
        let xid = bench.send(A, session, &set("/", b"x", -1));
        let change = Txn::SetData { path: "/", data: Some(b"x"), version: xid };
        bench.propose(session, xid, &change).unwrap();
    }
    bench.pipeline.handle_appended();
    for count in 1..=3 {
        let through = Zxid::new(1, 1 + count);
        bench.pipeline.handle_committed(through);
        let published = bench.pipeline.poll_published().unwrap();
        assert_eq!(published.through, through);
        assert_eq!(published.outboxes[0].replies.len(), 1);
        assert_eq!(published.outboxes[0].replies[0].end, published.outboxes[0].bytes.len());
        assert_eq!(published.events.len(), 1);
        assert!(bench.pipeline.poll_published().is_none());
    }
}

#[test]
fn a_session_that_moved_ends_the_connection_and_what_came_behind() {
    let (mut bench, session) = Bench::following();
    let moved = Txn::Error { code: ErrorCode::SessionMoved.raw() };
    let first = bench.send(A, session, &set("/", b"1", -1));
    let second = bench.send(A, session, &multi(&[set("/", b"1", -1)]));
    bench.propose(session, first, &moved).unwrap();
    assert_eq!(bench.closes(), [A]);
    bench.send(A, session, &set("/", b"1", -1));
    assert_eq!(bench.closes(), [A], "what it still sends is not taken");
    bench.propose(session, second, &Txn::Multi(vec![moved])).unwrap();
    bench.let_out();
    assert!(bench.answers.is_empty());
}

#[test]
fn a_transaction_that_does_not_fit_is_an_error() {
    let (mut bench, session) = Bench::following();
    let zxid = Zxid::new(1, 2);
    let taken = bench.pipeline.handle_proposal(zxid, b"nonsense", bench.now);
    assert!(matches!(taken, Err(ProposalError::Decode(_))));
    let header = TxnHeader { session, cxid: 7, zxid, time_ms: 1 };
    let encode = |txn: &Txn<'_>, digest| {
        let mut bytes = Vec::new();
        txn::encode(&header, txn, digest, &mut bytes);
        bytes
    };
    let error = encode(&Txn::Error { code: 0 }, None);
    let later = zxid.next().unwrap();
    let taken = bench.pipeline.handle_proposal(later, &error, bench.now);
    assert_eq!(taken, Err(ProposalError::Zxid { found: zxid }));
    let delete = encode(&Txn::Delete { path: "/no", by_reaper: false }, None);
    let taken = bench.pipeline.handle_proposal(zxid, &delete, bench.now);
    assert!(matches!(taken, Err(ProposalError::Tree(_))));
    assert_eq!(bench.pipeline.prepared(), Zxid::new(1, 1), "nothing of it is applied");
    let digest = bench.pipeline.writer().digest();
    let wrong = encode(&Txn::Error { code: 0 }, Some(digest + 1));
    let taken = bench.pipeline.handle_proposal(zxid, &wrong, bench.now);
    assert_eq!(taken, Err(ProposalError::Digest { expected: digest + 1, found: digest }));
}

/// A Java leader's state is followed by what it holds already; that ends when the learner is in
/// step.
#[test]
fn digests_are_checked_from_when_a_learner_is_in_step() {
    let mut bench = Bench::new();
    bench.take_role(Role::Looking, 0);
    let mut writer = Writer::new(TREE, bench.now);
    writer.set_replay(Replay::Fuzzy);
    bench.pipeline.handle_replaced(writer, vec![(5, 4000)], bench.now);
    let propose = |bench: &mut Bench, counter| {
        let zxid = Zxid::new(1, counter);
        let header = TxnHeader { session: 5, cxid: 1, zxid, time_ms: 1 };
        let mut bytes = Vec::new();
        txn::encode(&header, &Txn::Delete { path: "/gone", by_reaper: false }, Some(1), &mut bytes);
        bench.pipeline.handle_proposal(zxid, &bytes, bench.now)
    };
    assert_eq!(propose(&mut bench, 1), Ok(()));
    bench.take_role(LEADER, 1);
    assert!(matches!(propose(&mut bench, 2), Err(ProposalError::Tree(_))));
    assert!(bench.pipeline.sessions().contains(5));
}

/// Others compare them, and between a Java leader's state and being in step there are none that
/// others have.
#[test]
fn digests_are_kept_from_when_a_learner_is_in_step() {
    let mut bench = Bench::new();
    bench.take_role(Role::Looking, 0);
    let mut writer = Writer::new(TREE, bench.now);
    writer.set_replay(Replay::Fuzzy);
    bench.pipeline.handle_replaced(writer, Vec::new(), bench.now);
    for (counter, kept) in [(DIGEST_INTERVAL, 0), (2 * DIGEST_INTERVAL, 1)] {
        let zxid = Zxid::new(1, counter);
        let header = TxnHeader { session: 5, cxid: 1, zxid, time_ms: 1 };
        let mut bytes = Vec::new();
        txn::encode(&header, &Txn::Error { code: 0 }, None, &mut bytes);
        bench.pipeline.handle_proposal(zxid, &bytes, bench.now).unwrap();
        assert_eq!(bench.pipeline.digests().count(), kept);
        bench.take_role(LEADER, 1);
    }
}

#[test]
fn a_session_comes_back_when_the_leader_says_so() {
    let (mut bench, session) = Bench::following();
    let password = session::password(session);
    for is_valid in [true, false] {
        let client = Client { core: 1, connection: 7 + u64::from(is_valid) };
        bench.ask_session(client, session, Some(password));
        let asked = ToLeader::Revalidate { session, timeout_ms: 10_000 };
        assert_eq!(bench.pipeline.poll_to_leader(), Some(asked));
        bench.drain();
        bench.notices.clear();
        bench.pipeline.handle_revalidated(session, is_valid, bench.now);
        bench.drain();
        let Some(Notice::Connected { client: of, frame, then }) = bench.notices.pop() else {
            panic!("no answer")
        };
        assert_eq!((of, matches!(then, Then::Begin { .. })), (client, is_valid));
        let mut reader = Reader::new(&frame[8..]);
        let answered = (reader.i32().unwrap(), reader.i64().unwrap());
        assert_eq!(answered, if is_valid { (10_000, session) } else { (0, 0) });
        let given = reader.buffer().unwrap().unwrap();
        assert_eq!(given, if is_valid { password } else { [0; 16] });
    }
    // A wrong password is refused here, and the leader is not asked.
    bench.ask_session(B, session, Some([1; 16]));
    assert_eq!(bench.pipeline.poll_to_leader(), None);
    bench.drain();
    let refused = Some(Notice::Connected { client: B, frame: Vec::new(), then: Then::Close });
    let in_short = |notice: &Notice| match notice {
        Notice::Connected { client, then, .. } => (*client, *then),
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.notices.last().map(in_short), refused.as_ref().map(in_short));
}

#[test]
fn a_learner_tells_of_the_sessions_that_it_heard_of() {
    let (mut bench, session) = Bench::following();
    assert_eq!(bench.pipeline.take_touched(), [(session, 10_000)], "it has just begun");
    assert_eq!(bench.pipeline.take_touched(), []);
    bench.pipeline.handle_touch(bench.now, session);
    bench.pipeline.handle_touch(bench.now, session);
    bench.pipeline.handle_touch(bench.now, session + 1);
    assert_eq!(bench.pipeline.take_touched(), [(session, 10_000)]);
    bench.send(A, session, &set("/", b"", -1));
    assert_eq!(bench.pipeline.take_touched(), [(session, 10_000)]);
    // A new leader must learn what timeout a client has agreed on.
    bench.take_role(Role::Looking, 0);
    bench.take_role(LEADER, 2);
    assert_eq!(bench.pipeline.take_touched(), [(session, 10_000)]);
    // Nobody expires here.
    bench.wait(100_000);
    assert!(bench.pipeline.sessions().contains(session));
}

#[test]
fn a_session_that_ends_elsewhere_ends_its_connection() {
    let (mut bench, session) = Bench::following();
    let write = bench.send(A, session, &create("/a", PERSISTENT));
    bench.propose(session, 0, &Txn::CloseSession { paths: None }).unwrap();
    // Before it is committed: the leader may be lost, and the next one commits it.
    bench.pipeline.handle_appended();
    assert_eq!(bench.closes(), [A]);
    assert!(!bench.pipeline.sessions().contains(session));
    bench.propose(session, write, &Txn::Error { code: ErrorCode::SessionExpired.raw() }).unwrap();
    bench.let_out();
    assert_eq!(bench.closes(), []);
    assert_eq!(bench.answers, [], "nothing more is said");
}

/// The next leader may commit the end while nobody here hears of it.
#[test]
fn a_session_that_expires_is_answered_nothing_from_then_on() {
    let (mut bench, _) = Bench::leading();
    let session = bench.connect(A);
    bench.answers.clear();
    bench.notices.clear();
    let write = bench.send(A, session, &create("/a", PERSISTENT));
    for _ in 0..6 {
        bench.advance(TICK_MS);
        bench.pipeline.handle_led(bench.now);
        bench.pipeline.handle_timeout(bench.now, bench.wall);
    }
    assert!(!bench.pipeline.sessions().contains(session), "its end is prepared");
    assert_eq!(bench.closes(), [A]);
    bench.send(A, session, &create("/b", PERSISTENT));
    assert_eq!(bench.closes(), [A], "what was on its way is not taken: {write}");
}

/// Its client waits for the answer, but no longer than it may without a leader.
#[test]
fn a_session_whose_end_was_asked_for_is_kept_no_longer_than_others_without_a_leader() {
    let (mut bench, session) = Bench::following();
    bench.pipeline.handle_led(bench.now);
    let xid = bench.send(A, session, &CLOSE);
    bench.propose(session, xid, &Txn::CloseSession { paths: None }).unwrap();
    assert_eq!(bench.closes(), []);
    bench.take_role(Role::Looking, 0);
    bench.advance(4374);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), []);
    bench.advance(1);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), [A]);
}

// ── Without a leader ──

/// Half of the timeout is left for the client to notice.
#[test]
fn a_connection_ends_before_half_of_its_timeout_without_a_leader() {
    let (mut bench, _) = Bench::following();
    bench.pipeline.handle_led(bench.now);
    let due = bench.pipeline.poll_timeout().unwrap();
    assert_eq!(due.as_millis(), 4375);
    bench.advance(4000);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), []);
    bench.pipeline.handle_led(bench.now);
    bench.advance(4374);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), []);
    bench.take_role(Role::Looking, 0);
    bench.advance(1);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), [A]);
    assert_eq!(bench.pipeline.poll_timeout(), None, "nobody is left");
}

/// A follower that is cut off may still bring an observer into step: that proves no leader.
#[test]
fn an_observer_that_is_in_step_has_yet_to_hear_of_a_leader() {
    for (role, closed) in
        [(LEADER, &[][..]), (Role::Observing { leader: ServerId(9), link: LinkId(2) }, &[A][..])]
    {
        let (mut bench, _) = Bench::following();
        bench.pipeline.handle_led(bench.now);
        bench.take_role(Role::Looking, 0);
        bench.advance(4374);
        bench.take_role(role, 1);
        bench.advance(1);
        bench.pipeline.handle_timeout(bench.now, bench.wall);
        assert_eq!(bench.closes(), closed, "{role:?}");
    }
}

#[test]
fn a_connection_waits_a_tick_for_a_leader_to_give_it_a_session() {
    let mut bench = Bench::new();
    bench.take_role(Role::Looking, 0);
    bench.ask_session(A, 0, None);
    bench.advance(1000);
    bench.ask_session(B, 77, Some(session::password(77)));
    assert_eq!(bench.pipeline.poll_timeout(), Some(Time::from_nanos(TICK_MS * 1_000_000)));
    bench.advance(1000);
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    assert_eq!(bench.closes(), [A]);
    bench.take_role(LEADER, 1);
    let asked = ToLeader::Revalidate { session: 77, timeout_ms: 10_000 };
    assert_eq!(bench.pipeline.poll_to_leader(), Some(asked));
    assert_eq!(bench.pipeline.poll_to_leader(), None, "the other one is gone");
}

#[test]
fn a_connection_that_closes_takes_back_what_nobody_was_told_of() {
    let (mut bench, session) = Bench::following();
    bench.take_role(Role::Looking, 0);
    bench.send(A, session, &create("/a", PERSISTENT));
    let xid = bench.send(A, session, &CLOSE);
    bench.pipeline.handle_closed(A);
    bench.take_role(LEADER, 2);
    let Some(ToLeader::Request(request)) = bench.pipeline.poll_to_leader() else { panic!() };
    assert_eq!((request.cxid, request.op), (xid, OpCode::CloseSession.raw()), "but for its end");
    assert_eq!(bench.pipeline.poll_to_leader(), None);
}

#[test]
fn more_than_can_be_kept_ends_the_connection() {
    let (mut bench, session) = Bench::following();
    bench.take_role(Role::Looking, 0);
    let big = set("/", &vec![0; 1 << 20], -1);
    let mut count = 0;
    while bench.closes().is_empty() {
        bench.send(A, session, &big);
        count += 1;
    }
    assert_eq!(count, 128, "so many fit, less what comes along");
    assert!(bench.pipeline.waiting.is_empty(), "what it had asked is let go");
}

// ── A leader ──

#[test]
fn the_first_transaction_of_an_epoch_is_its_first() {
    let (mut bench, session) = Bench::connected();
    let before = bench.pipeline.prepared();
    bench.take_role(Role::Looking, 0);
    bench.take_role(Role::Leading { epoch: 3 }, 3);
    // Clients are not told of a version that no transaction made.
    assert_eq!(bench.pipeline.prepared(), before);
    let answer = bench.ask(session, (OpCode::Create, Vec::new()));
    assert_eq!(answer.zxid, before);
    assert_eq!(bench.done(session, create("/a", PERSISTENT)).zxid, Zxid::new(3, 1));
    bench.pipeline.handle_committed(Zxid::new(4, 0));
    assert_eq!(bench.pipeline.committed(), Zxid::new(3, 1), "an epoch's start is no transaction");
}

/// Whatever is wrong with it: somebody waits for exactly one transaction.
#[test]
fn every_forwarded_request_becomes_one_transaction() {
    let (mut bench, session) = Bench::leading();
    let error = |error: ErrorCode| format!("{:?}", Txn::Error { code: error.raw() });
    let set = set("/", b"1", -1);
    let op = set.0.raw();
    bench.forward(op, session, 1, &set.1);
    assert!(bench.next_txn().starts_with("SetData"));
    assert_eq!(bench.logged.last().unwrap().session, session);
    bench.forward(op, session, 2, &[1]);
    assert_eq!(bench.next_txn(), error(ErrorCode::MarshallingError));
    bench.forward(OpCode::GetData.raw(), session, 3, &set.1);
    assert_eq!(bench.next_txn(), error(ErrorCode::Unimplemented));
    bench.forward(12345, session, 4, &[]);
    assert_eq!(bench.next_txn(), error(ErrorCode::Unimplemented));
    bench.forward(op, session + 1, 5, &set.1);
    assert_eq!(bench.next_txn(), error(ErrorCode::SessionExpired));
    bench.forward_from(ServerId(3), op, session, 6, &set.1);
    assert_eq!(bench.next_txn(), error(ErrorCode::SessionMoved));
    bench.forward(OpCode::CreateSession.raw(), session + 2, 0, &[1]);
    assert_eq!(bench.next_txn(), error(ErrorCode::MarshallingError));
    let mut body = Vec::new();
    (0..3).for_each(|_| body.put_string("server.1=a:1:2"));
    body.put_i64(-1);
    bench.forward(OpCode::Reconfig.raw(), session, 7, &body);
    assert_eq!(bench.next_txn(), error(ErrorCode::ReconfigDisabled));
    bench.pipeline.set_room(Room::SessionsOnly);
    bench.forward(op, session, 8, &set.1);
    assert_eq!(bench.next_txn(), error(ErrorCode::SystemError));
    bench.forward_from(ServerId(3), OpCode::CloseSession.raw(), session, 9, &[]);
    assert!(bench.next_txn().starts_with("CloseSession"), "it is the last that it asks");
    bench.settle();
    assert!(bench.answers.is_empty() && bench.notices.is_empty(), "nobody here has asked");
}

#[test]
fn forwarded_requests_are_allowed_what_their_clients_have_shown() {
    let (mut bench, session) = Bench::leading();
    let (op, body) = create_with_acl("/mine", &[acl(Perms::ALL, "ip", "10.1.2.3")]);
    bench.forward(op.raw(), session, 1, &body);
    bench.next_txn();
    let set = set("/mine", b"1", -1);
    bench.forward(set.0.raw(), session, 2, &set.1);
    assert_eq!(bench.next_txn(), format!("{:?}", Txn::Error { code: ErrorCode::NoAuth.raw() }));
    bench.ids = AuthIds::new(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))).ids().to_vec();
    bench.forward(set.0.raw(), session, 3, &set.1);
    assert!(bench.next_txn().starts_with("SetData"));
}

#[test]
fn what_finds_no_room_waits_in_its_order_and_no_more_of_it_than_fits() {
    let (mut bench, session) = Bench::leading();
    bench.pipeline.set_room(Room::Full);
    let big = set("/", &vec![0; 1 << 20], -1);
    let mut count = 0;
    while bench.forward(big.0.raw(), session, 1 + count, &big.1) {
        count += 1;
    }
    assert_eq!(count, 63);
    bench.append();
    let logged = bench.logged.len();
    bench.pipeline.set_room(Room::Plenty);
    assert_eq!(bench.pipeline.poll_timeout(), Some(Time::default()), "it is due");
    bench.pipeline.handle_timeout(bench.now, bench.wall);
    bench.append();
    assert_eq!(bench.logged.len(), logged + 63);
    assert!(bench.forward(big.0.raw(), session, 100, &big.1));
}

#[test]
fn a_leader_keeps_the_sessions_of_learners_alive_and_expires_the_silent() {
    let (mut bench, touched) = Bench::leading();
    let silent = touched + 1;
    bench.forward(OpCode::CreateSession.raw(), silent, 0, &4000_i32.to_be_bytes());
    for _ in 0..10 {
        bench.pipeline.handle_touched(ServerId(2), &[(touched, 10_000)], bench.now);
        bench.pipeline.handle_led(bench.now);
        bench.wait(TICK_MS);
    }
    assert!(bench.pipeline.sessions().contains(touched));
    assert!(!bench.pipeline.sessions().contains(silent));
}

#[test]
fn a_session_moves_to_the_learner_that_asks_for_it() {
    let (mut bench, session) = Bench::leading();
    let set = set("/", b"1", -1);
    assert!(!bench.pipeline.handle_revalidate(ServerId(3), session + 1, 10_000, bench.now));
    assert!(bench.pipeline.handle_revalidate(ServerId(3), session, 10_000, bench.now));
    bench.forward(set.0.raw(), session, 1, &set.1);
    let moved = Txn::Error { code: ErrorCode::SessionMoved.raw() };
    assert_eq!(bench.next_txn(), format!("{moved:?}"));
    bench.forward_from(ServerId(3), set.0.raw(), session, 2, &set.1);
    assert!(bench.next_txn().starts_with("SetData"));
    // And to the leader itself.
    bench.ask_session(A, session, Some(session::password(session)));
    bench.forward_from(ServerId(3), set.0.raw(), session, 3, &set.1);
    assert_eq!(bench.next_txn(), format!("{moved:?}"));
}

#[test]
fn a_sync_is_answered_when_a_quorum_has_confirmed_and_nothing_overtakes_it() {
    let (mut bench, _) = Bench::leading();
    let session = bench.connect(A);
    bench.answers.clear();
    let first = bench.send(A, session, &sync());
    let second = bench.send(A, session, &create("/a", PERSISTENT));
    let third = bench.send(A, session, &(OpCode::Create, Vec::new()));
    assert!(bench.forward(OpCode::Sync.raw(), session, 9, &sync().1));
    let token = bench.pipeline.poll_confirm().unwrap();
    assert_eq!(bench.pipeline.poll_confirm(), None, "one round for all");
    let late = bench.send(A, session, &sync());
    assert_eq!(bench.pipeline.poll_confirm(), None, "it is behind writes that wait");
    bench.settle();
    assert!(bench.answers.is_empty());
    assert_eq!(bench.pipeline.poll_to_learner(), None);
    bench.pipeline.handle_confirmed(token, bench.now, bench.wall);
    assert_eq!(bench.pipeline.poll_to_learner(), Some((ServerId(2), FromLeader::Sync)));
    bench.settle();
    let xids = |bench: &Bench| bench.answers.iter().map(|it| it.xid).collect::<Vec<i32>>();
    assert_eq!(xids(&bench), [first, second, third]);
    assert_eq!(bench.pipeline.poll_confirm(), Some(token + 1));
    bench.pipeline.handle_confirmed(token + 1, bench.now, bench.wall);
    bench.settle();
    assert_eq!(xids(&bench), [first, second, third, late]);
}

/// A write behind a sync waits for it, here and under a leader: a read between the two would show
/// it otherwise.
#[test]
fn a_write_behind_a_sync_is_done_after_it() {
    let (mut bench, _) = Bench::leading();
    let session = bench.connect(A);
    let before = bench.pipeline.prepared();
    bench.send(A, session, &sync());
    bench.send(A, session, &create("/behind", PERSISTENT));
    assert_eq!(bench.pipeline.prepared(), before);
    let token = bench.pipeline.poll_confirm().unwrap();
    bench.pipeline.handle_confirmed(token, bench.now, bench.wall);
    assert_eq!(bench.pipeline.prepared(), before.next().unwrap());
    let mut world = World::led();
    let connection = world.connect(1);
    world.settle();
    world.ask(connection, &sync());
    world.ask(connection, &create("/behind", PERSISTENT));
    assert_eq!(world.carried_up(1), 1, "the sync alone has gone out");
    world.settle();
    world.check_same();
    world.check_requests();
}

// ── Undone and replaced ──

/// What a leader prepared and another one takes away never happened.
#[test]
fn what_is_undone_disconnects_those_who_were_to_be_told() {
    let mut world = World::led();
    let [lost, kept] = [world.connect(0), world.connect(0)];
    world.settle();
    let end = world.end(0);
    // The other two go on without the leader, which has prepared something that nobody got.
    world.ask(lost, &create("/lost", EPHEMERAL));
    world.connect(0);
    world.elect([1, 2]);
    world.join(0);
    world.settle();
    world.check_same();
    world.check_requests();
    assert_eq!(world.end(0), end);
    assert_eq!(world.members[0].replaced, 0);
    let closed: Vec<bool> = world.connections.iter().map(|it| it.is_closed).collect();
    assert_eq!(closed, [true, false, true]);
    assert_eq!(world.members[0].pipeline.sessions().count(), 2);
    world.ask(kept, &create("/kept", PERSISTENT));
    world.settle();
    world.check_requests();
    assert_eq!(world.connections[kept].answers.len(), 1);
}

#[test]
fn what_readers_have_reached_is_not_undone() {
    let (mut bench, session) = Bench::following();
    for version in 1..4 {
        let change = Txn::SetData { path: "/", data: None, version };
        bench.propose(session, version, &change).unwrap();
    }
    bench.pipeline.handle_committed(Zxid::new(1, 3));
    assert!(!bench.pipeline.pop_above(Zxid::new(1, 2), bench.now));
    assert_eq!(bench.pipeline.prepared(), Zxid::new(1, 4));
    assert!(bench.pipeline.pop_above(Zxid::new(1, 3), bench.now));
    assert_eq!(bench.pipeline.prepared(), Zxid::new(1, 3));
    assert_eq!(bench.stat("/").unwrap().version, 2);
}

#[test]
fn a_state_that_replaces_everything_disconnects_everybody() {
    let mut world = World::led();
    let connection = world.connect(2);
    world.settle();
    world.ask(connection, &create("/asked", PERSISTENT));
    world.lose_leader(2);
    let mut session = world.connections[connection].session.unwrap();
    world.send_state(0, 2);
    assert!(world.connections[connection].is_closed);
    assert_eq!(world.members[2].replaced, 1);
    world.settle();
    world.check_same();
    world.check_requests();
    // The session itself goes on.
    let again = world.reconnect(2, session);
    world.settle();
    session = world.connections[again].session.unwrap();
    world.ask(again, &create("/again", EPHEMERAL));
    world.settle();
    world.check_same();
    let owners: Vec<(i64, u64)> = world.members[1].pipeline.writer().owners().collect();
    assert_eq!(owners, [(session, 1)]);
}

/// What comes from a connection that is being ended came behind something that was not done.
#[test]
fn nothing_is_taken_from_connections_that_were_ended() {
    let (mut bench, session) = Bench::following();
    let writer = Writer::new(TREE, bench.now);
    bench.take_role(Role::Looking, 0);
    bench.pipeline.handle_replaced(writer, vec![(session, 10_000)], bench.now);
    bench.take_role(Role::Leading { epoch: 2 }, 2);
    bench.send(A, session, &create("/late", PERSISTENT));
    assert_eq!(bench.closes(), [A]);
    assert_eq!(bench.pipeline.prepared(), Zxid::ZERO);
    bench.pipeline.handle_closed(A);
    assert!(!bench.pipeline.attached.is_cut(A), "it is not remembered for ever");
}
