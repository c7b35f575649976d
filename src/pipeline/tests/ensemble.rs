//! A leader and two learners: replies are those that one server alone would give.

use proptest::collection::vec;
use proptest::prelude::*;

use super::world::{self, World};
use super::*;
use crate::wire::txn::TxnHeader;

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// On the connection with this number, counted around.
    Ask(usize, (OpCode, Vec<u8>)),
    Connect(usize),
    CarryUp(usize),
    CarryDown(usize),
    Commit,
    Confirm,
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..3).prop_map(|a| format!("/n{a}")),
        (0..3, 0..2).prop_map(|(a, b)| format!("/n{a}/m{b}")),
    ]
}

fn write() -> impl Strategy<Value = (OpCode, Vec<u8>)> {
    let flags = prop_oneof![4 => Just(PERSISTENT), 2 => Just(EPHEMERAL), 1 => Just(SEQUENTIAL)];
    prop_oneof![
        6 => (path(), flags).prop_map(|(path, flags)| create(&path, flags)),
        1 => path().prop_map(|path| (OpCode::Create2, create(&path, 0).1)),
        1 => path().prop_map(|path| create_container(&path)),
        1 => path().prop_map(|path| create_ttl(&path, 5, 1000)),
        3 => (path(), -1..3).prop_map(|(path, version)| delete(&path, version)),
        6 => (path(), any::<u8>(), -1..3).prop_map(|(path, data, version)| {
            set(&path, &[data], version)
        }),
        1 => path().prop_map(|path| {
            set_acl(&path, &[acl(Perms::ALL, "ip", "127.0.0.1")], -1)
        }),
    ]
}

pub fn request() -> impl Strategy<Value = (OpCode, Vec<u8>)> {
    let in_multi = prop_oneof![
        5 => write().prop_filter("a multi has no such part", |(op, _)| *op != OpCode::SetAcl),
        1 => path().prop_map(|path| check(&path, 0)),
    ];
    prop_oneof![
        20 => write(),
        6 => vec(in_multi, 0..4).prop_map(|ops| multi(&ops)),
        3 => Just(sync()),
        1 => Just((OpCode::SetData, vec![0xff; 3])),
        1 => Just(CLOSE),
    ]
}

pub fn sync() -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    body.put_string("/path");
    (OpCode::Sync, body)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..9_usize, request()).prop_map(|(of, request)| Step::Ask(of, request)),
        2 => (0..3_usize).prop_map(Step::Connect),
        8 => (0..3_usize).prop_map(Step::CarryUp),
        12 => (0..3_usize).prop_map(Step::CarryDown),
        4 => Just(Step::Commit),
        1 => Just(Step::Confirm),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Ask(of, request) => {
            let connection = of % world.connections.len();
            world.ask(connection, request);
        }
        Step::Connect(member) => {
            world.connect(*member);
        }
        Step::CarryUp(learner) => {
            world.carry_up(*learner);
        }
        Step::CarryDown(learner) => {
            world.carry_down(*learner);
        }
        Step::Commit => world.commit(),
        Step::Confirm => world.confirm(),
    }
}

/// One server alone does the same in the order of the log: each reply must be the same.
fn check_replies(world: &World) {
    let mut bench = Bench::new();
    bench.pipeline.epoch_start = Zxid::new(1, 0);
    let asked = |session: i64, xid: i32| {
        let mut connections = world.connections.iter().filter(|it| it.session == Some(session));
        connections.find_map(|it| Some((it, it.asked.iter().position(|it| it.xid == xid)?)))
    };
    for (zxid, bytes) in &world.members[world.leader].log {
        let logged = txn::decode(bytes).unwrap();
        let TxnHeader { session, cxid, time_ms, .. } = logged.header;
        bench.wall = WallMs(time_ms);
        let client = A;
        if let Txn::CreateSession { timeout_ms } = logged.txn {
            let connect =
                Connect { client, timeout_ms, session: 0, password: None, read_only: Some(false) };
            let attaching = forward::Attaching { connect, timeout_ms, since: bench.now };
            bench.pipeline.begin_session(session, &attaching, bench.now, bench.wall);
            let greeted = world.connections.iter().find(|it| it.session == Some(session));
            bench.settle();
            let greeting = &bench.answers.last().unwrap().body;
            assert!(greeted.is_none_or(|it| it.greeting.as_ref() == Some(greeting)));
        } else {
            let (connection, index) = asked(session, cxid).expect("somebody asked for it");
            let asked = &connection.asked[index];
            let (op, body) = &world.requests[&asked.xid];
            let write = Write { client, session, xid: cxid, op: *op, body, ids: &bench.ids };
            bench.pipeline.handle_write(&write, bench.now, bench.wall);
            bench.settle();
            let answer = bench.answers.last().unwrap();
            let theirs = &connection.answers[index];
            let in_short = |it: &Answer| (it.xid, it.error, it.body.clone(), it.then);
            assert_eq!(in_short(theirs), in_short(answer), "{op:?}");
            assert!(theirs.zxid == answer.zxid || connection.may_hold());
        }
        assert_eq!(bench.pipeline.prepared(), *zxid);
    }
    assert_eq!(bench.pipeline.writer().totals(), world.members[0].pipeline.writer().totals());
}

fn run(steps: &[Step]) {
    let mut world = World::led();
    for member in 0..3 {
        world.connect(member);
    }
    world.settle();
    steps.iter().for_each(|step| take(&mut world, step));
    world.settle();
    world.check_same();
    world.check_requests();
    assert!(world.connections.iter().all(|it| it.session.is_some()));
    let may_end = |it: &world::Connection| it.asked.iter().any(|it| it.op == OpCode::CloseSession);
    assert!(world.connections.iter().all(|it| !it.is_closed || may_end(it)));
    check_replies(&world);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whoever a client is connected to, and in whatever order messages travel.
    #[test]
    fn an_ensemble_answers_as_one_server(steps in vec(step(), 1..200)) {
        run(&steps);
    }
}
