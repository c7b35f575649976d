//! Multis: all or nothing, under one zxid.

use super::*;
use crate::wire::error::ErrorCode::*;

/// Each result's type, error, and what follows of it.
fn results(answer: &Answer) -> Vec<(i32, i32, String)> {
    let mut reader = Reader::new(&answer.body);
    let mut results = Vec::new();
    loop {
        let (op, done, error) =
            (reader.i32().unwrap(), reader.bool().unwrap(), reader.i32().unwrap());
        if done {
            assert_eq!((op, error), (-1, -1));
            assert!(reader.is_empty());
            return results;
        }
        let body = match OpCode::from_raw(op).unwrap() {
            OpCode::Create => reader.string().unwrap().to_owned(),
            OpCode::Create2 => format!("{} {}", reader.string().unwrap(), version_of(&mut reader)),
            OpCode::SetData => version_of(&mut reader).to_string(),
            OpCode::Error => reader.i32().unwrap().to_string(),
            OpCode::Delete | OpCode::Check => String::new(),
            op => panic!("{op:?} is no result"),
        };
        results.push((op, error, body));
    }
}

fn version_of(reader: &mut Reader<'_>) -> i32 {
    Stat::decode(reader).unwrap().version
}

fn result(op: i32, error: i32, body: &str) -> (i32, i32, String) {
    (op, error, body.to_owned())
}

#[test]
fn later_operations_see_earlier_ones_under_one_zxid() {
    let (mut bench, session) = Bench::connected();
    let before = bench.pipeline.prepared();
    let (_, create2) = create("/m/two", EPHEMERAL);
    let answer = bench.done(
        session,
        multi(&[
            create("/m", PERSISTENT),
            create("/m/s-", SEQUENTIAL),
            create("/m/s-", SEQUENTIAL),
            (OpCode::Create2, create2),
            set("/m", b"new", 0),
            check("/m", 1),
            delete("/m/s-0000000000", 0),
            create_container("/m/c"),
        ]),
    );
    let expected = [
        result(1, 0, "/m"),
        result(1, 0, "/m/s-0000000000"),
        result(1, 0, "/m/s-0000000001"),
        result(15, 0, "/m/two 0"),
        result(5, 0, "1"),
        result(13, 0, ""),
        result(2, 0, ""),
        result(15, 0, "/m/c 0"),
    ];
    assert_eq!(results(&answer), expected);
    assert_eq!(Some(answer.zxid), before.next());
    assert_eq!(bench.pipeline.prepared(), answer.zxid);
    let stat = bench.stat("/m").unwrap();
    assert_eq!((stat.czxid, stat.mzxid, stat.pzxid), (answer.zxid, answer.zxid, answer.zxid));
    assert_eq!(stat.num_children, 3);
    assert!(bench.events.iter().all(|event| event.zxid == answer.zxid));
}

#[test]
fn a_failed_multi_changes_nothing_and_says_where_it_failed() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create("/a", PERSISTENT));
    bench.events.clear();
    let (digest, stat) = (bench.pipeline.writer().digest(), bench.stat("/a"));
    let totals = bench.pipeline.writer().totals();
    let answer = bench.ask(
        session,
        multi(&[
            create("/a/b", EPHEMERAL),
            set("/a", b"other", 0),
            delete("/none", -1),
            create("/a/c", PERSISTENT),
            set("/none", b"", -1),
        ]),
    );
    assert_eq!(answer.error, 0, "the header says nothing of it");
    let inconsistency = RuntimeInconsistency.raw();
    let expected = [
        result(-1, 0, "0"),
        result(-1, 0, "0"),
        result(-1, NoNode.raw(), &NoNode.raw().to_string()),
        result(-1, inconsistency, &inconsistency.to_string()),
        result(-1, inconsistency, &inconsistency.to_string()),
    ];
    assert_eq!(results(&answer), expected);
    assert_eq!(bench.pipeline.writer().digest(), digest);
    assert_eq!(bench.pipeline.writer().totals(), totals);
    assert_eq!(bench.stat("/a"), stat);
    assert_eq!(bench.stat("/a/b"), None);
    assert_eq!(bench.pipeline.writer().owners().count(), 0);
    assert!(bench.events.is_empty(), "nobody is told of what did not happen");
    // It has its zxid all the same, and the log its marks.
    assert_eq!(bench.logged.last().unwrap().zxid, answer.zxid);
    assert!(bench.last_txn().starts_with("Multi(["));
    let error = Txn::Error { code: NoNode.raw() };
    assert!(bench.last_txn().contains(&format!("{error:?}")));
}

/// Whoever comes after a failed multi finds the numbers as they were before.
#[test]
fn a_failed_multi_counts_no_children() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create("/d", PERSISTENT));
    bench.ask(session, multi(&[create("/d/s-", SEQUENTIAL), check("/d", 5)]));
    let answer = bench.done(session, create("/d/s-", SEQUENTIAL));
    assert_eq!(path_of(&answer), "/d/s-0000000000");
}

#[test]
fn each_operation_fails_with_its_own_error() {
    let (mut bench, session) = Bench::connected();
    let locked = [acl(Perms::READ, "world", "anyone")];
    bench.done(session, create("/a", PERSISTENT));
    bench.done(session, create("/a/b", PERSISTENT));
    bench.done(session, create("/locked", PERSISTENT));
    bench.done(session, set_acl("/locked", &locked, -1));
    bench.done(session, create_with_acl("/secret", &[acl(Perms::WRITE, "world", "anyone")]));
    for (op, error) in [
        (create("/a", PERSISTENT), NodeExists),
        (create("/locked/x", PERSISTENT), NoAuth),
        (create("/a//", PERSISTENT), NoNode),
        (delete("/a", -1), NotEmpty),
        (delete("/a/b", 3), BadVersion),
        (set("/locked", b"", -1), NoAuth),
        (check("/none", -1), NoNode),
        (check("/a", 3), BadVersion),
        (check("/secret", -1), NoAuth),
        (check("/a/", -1), BadArguments),
    ] {
        let answer = bench.done(session, multi(&[check("/", -1), op.clone()]));
        let of_second = &results(&answer)[1];
        assert_eq!(of_second.1, error.raw(), "{op:?}");
    }
}

/// Each `auth` of a small request may stand for many identities.
#[test]
fn a_multi_does_not_become_longer_than_a_peer_takes() {
    let mut bench = Bench::with(Settings { txn_bytes_max: 20_000, ..settings() });
    let session = bench.connect(A);
    bench.authenticate_all((0..60).map(|number| format!("user{number}:password")));
    let before = bench.pipeline.writer().digest();
    let ops: Vec<_> = (0..100)
        .map(|number| create_with_acl(&format!("/n{number}"), &[acl(Perms::ALL, "auth", "")]))
        .collect();
    let xid = bench.send(A, session, &multi(&ops));
    let size: usize = bench.pipeline.take_txns().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(size < 30_000, "{size} bytes");
    bench.settle();
    let answer = bench.answers.last().unwrap().clone();
    assert_eq!(answer.xid, xid);
    let failed = results(&answer).into_iter().find(|(_, error, _)| *error != 0);
    assert_eq!(failed.unwrap().1, BadArguments.raw());
    assert_eq!(bench.pipeline.writer().digest(), before);
    // One of them is fine.
    let answer = bench.done(session, multi(&ops[..1]));
    assert_eq!(results(&answer)[0].1, 0);
}

#[test]
fn an_empty_multi_is_legal() {
    let (mut bench, session) = Bench::connected();
    let answer = bench.done(session, multi(&[]));
    assert_eq!(results(&answer), []);
    assert_eq!(bench.last_txn(), "Multi([])");
}

#[test]
fn what_does_not_belong_into_a_multi_takes_no_zxid() {
    let (mut bench, session) = Bench::connected();
    let before = bench.pipeline.prepared();
    for op in [(OpCode::GetData, Vec::new()), multi(&[]), set_acl("/", &[], -1), create("/x", 5)] {
        let error = bench.error(session, multi(&[create("/y", PERSISTENT), op]));
        assert_eq!(error, MarshallingError.raw());
    }
    assert_eq!(bench.pipeline.prepared(), before);
    assert_eq!(bench.stat("/y"), None);
}
