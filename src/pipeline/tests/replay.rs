//! Random requests: the logged bytes make the same tree elsewhere, whatever was asked.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What happens next on the bench.
#[derive(Clone, Debug)]
enum Step {
    /// By the session of the client with this number.
    Write(usize, (OpCode, Vec<u8>)),
    Connect(usize),
    Close(usize),
    Wait(u64),
    Append,
    Settle,
    Room(Room),
    Reclaim,
}

/// Few paths, so that requests meet: two levels, and some that are not valid.
fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..4).prop_map(|a| format!("/n{a}")),
        8 => (0..4, 0..4).prop_map(|(a, b)| format!("/n{a}/m{b}")),
        1 => "/zookeeper/quota(/n[0-3](/zookeeper_(limits|stats))?)?".prop_map(String::from),
        1 => prop_oneof![Just("/"), Just(""), Just("/n0/"), Just("n0"), Just("/n0/..")]
            .prop_map(String::from),
    ]
}

fn list() -> impl Strategy<Value = Vec<Acl>> {
    prop_oneof![
        6 => Just(vec![acl(Perms::ALL, "world", "anyone")]),
        1 => Just(vec![acl(Perms::READ, "world", "anyone")]),
        1 => Just(vec![acl(Perms::ALL, "auth", "")]),
        1 => Just(vec![acl(Perms::ALL, "ip", "127.0.0.1"), acl(Perms::READ, "ip", "::1")]),
        1 => Just(vec![]),
    ]
}

fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        Just(None),
        vec(any::<u8>(), 0..20).prop_map(Some),
        Just(Some(b"count=3,bytes=9=;byteHardLimit=30;countHardLimit=3".to_vec())),
    ]
}

fn in_multi() -> impl Strategy<Value = (OpCode, Vec<u8>)> {
    let op = prop_oneof![
        4 => Just(OpCode::Create),
        2 => Just(OpCode::Create2),
        1 => Just(OpCode::CreateContainer),
        1 => Just(OpCode::CreateTtl),
    ];
    let create = (op, path(), data(), list(), 0..8, -1..100_000_i64).prop_map(
        |(op, path, data, list, flags, ttl_ms)| {
            let list = EncodedAcl::from_list(&list);
            let flags = if op == OpCode::CreateTtl { 5 + flags % 2 } else { flags };
            let mut body = put_create(&path, data.as_deref(), &list, flags);
            if op == OpCode::CreateTtl {
                body.put_i64(ttl_ms);
            }
            (op, body)
        },
    );
    prop_oneof![
        6 => create,
        3 => (path(), -1..3).prop_map(|(path, version)| delete(&path, version)),
        3 => (path(), data(), -1..3).prop_map(|(path, data, version)| {
            set(&path, data.as_deref().unwrap_or_default(), version)
        }),
    ]
}

fn request() -> impl Strategy<Value = (OpCode, Vec<u8>)> {
    let op = prop_oneof![
        6 => in_multi(),
        1 => (path(), -1..2).prop_map(|(path, version)| check(&path, version)),
    ];
    prop_oneof![
        8 => in_multi(),
        1 => (path(), list(), -1..2).prop_map(|(path, list, version)| {
            set_acl(&path, &list, version)
        }),
        3 => vec(op, 0..6).prop_map(|ops| multi(&ops)),
        1 => path().prop_map(|path| {
            let mut body = Vec::new();
            body.put_string(&path);
            (OpCode::DeleteContainer, body)
        }),
        1 => (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(op, body)| {
            let writes: Vec<_> = OpCode::ALL.into_iter().filter(|op| op.is_write()).collect();
            (writes[usize::from(op) % writes.len()], body)
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..4_usize, request()).prop_map(|(of, request)| Step::Write(of, request)),
        2 => (0..4_usize).prop_map(Step::Connect),
        1 => (0..4_usize).prop_map(Step::Close),
        1 => (1..50_000_u64).prop_map(Step::Wait),
        2 => Just(Step::Append),
        2 => Just(Step::Settle),
        1 => prop_oneof![
            3 => Just(Room::Plenty),
            1 => Just(Room::SessionsOnly),
            1 => Just(Room::Full),
        ].prop_map(Step::Room),
        1 => Just(Step::Reclaim),
    ]
}

/// The connection that the client with this number opens as its `count`th.
fn client(index: usize, count: u64) -> Client {
    Client { core: (index % 2) as u16, connection: index as u64 + 4 * count }
}

fn run(steps: &[Step]) {
    let mut bench = Bench::new();
    bench.authenticate("user:password");
    // The first request of each comes before its session: an unknown one.
    let mut sessions = [77; 4];
    let mut clients: [Client; 4] = std::array::from_fn(|index| client(index, 0));
    let mut connects = 0;
    let mut asked = 0;
    // Connections that ended unasked, with their sessions.
    let mut expired = 0;
    for step in steps {
        match step {
            Step::Write(of, request) => {
                bench.send(clients[*of], sessions[*of], request);
                asked += 1;
            }
            Step::Connect(of) if bench.pipeline.room != Room::Full => {
                connects += 1;
                clients[*of] = client(*of, connects);
                sessions[*of] = bench.connect(clients[*of]);
                asked += 1;
            }
            Step::Connect(_) => {}
            Step::Close(of) => {
                bench.send(clients[*of], sessions[*of], &CLOSE);
                asked += 1;
            }
            Step::Wait(ms) => {
                bench.drain();
                let before = bench.notices.len();
                bench.wait(*ms);
                expired += bench.notices.len() - before;
            }
            Step::Append => bench.append(),
            Step::Settle => bench.settle(),
            Step::Room(room) => bench.pipeline.set_room(*room),
            Step::Reclaim => {
                bench.settle();
                bench.pipeline.reclaim(bench.pipeline.committed(), &[]);
            }
        }
    }
    bench.settle();
    let durable = bench.pipeline.committed();
    while bench.pipeline.reclaim(durable, &[]) {}
    while bench.replica.reclaim(durable, &[]) {}
    check_same(&bench);
    let closed = bench.notices.len() - expired;
    assert_eq!(bench.answers.len() + closed, asked, "each is answered or closed");
}

/// Everything that the digest does not cover.
fn check_same(bench: &Bench) {
    let (live, replica) = (bench.pipeline.writer(), &bench.replica);
    assert_eq!(live.totals(), replica.totals());
    assert_eq!(live.last_zxid(), replica.last_zxid());
    assert_eq!(live.acl_count(), replica.acl_count());
    assert!(live.owners().eq(replica.owners()));
    let view = live.tree().view(Zxid::MAX);
    assert_eq!(view.compute_digest(), live.digest());
    let other = replica.tree().view(Zxid::MAX);
    view.for_each_below("/", |node| {
        let path = std::str::from_utf8(node.path_bytes()).unwrap();
        let twin = other.node(path).expect("both have it");
        assert_eq!((node.stat(), node.data()), (twin.stat(), twin.data()), "{path}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn replay_equals_live(steps in vec(step(), 1..120)) {
        run(&steps);
    }
}
