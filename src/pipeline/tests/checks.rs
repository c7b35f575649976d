//! Which error comes first where several would do, as clients of Apache's server see it.

use super::*;
use crate::wire::error::ErrorCode::*;

/// A tree with a node for every complaint.
///
/// ```text
/// /open          anybody may do anything       /open/full    has a child
/// /locked        anybody may read it           /locked/in    is open itself
/// /ephemeral     goes with the session         /quota        takes 1 node and 4 bytes
/// ```
fn bench() -> (Bench, i64) {
    let (mut bench, session) = Bench::connected();
    let read_only = [acl(Perms::READ, "world", "anyone")];
    for request in [
        create("/open", PERSISTENT),
        create("/open/full", PERSISTENT),
        create("/open/full/child", PERSISTENT),
        create("/ephemeral", EPHEMERAL),
        create("/locked", PERSISTENT),
        create("/locked/in", PERSISTENT),
        create("/quota", PERSISTENT),
        create("/zookeeper/quota/quota", PERSISTENT),
        create("/zookeeper/quota/quota/zookeeper_limits", PERSISTENT),
        create("/zookeeper/quota/quota/zookeeper_stats", PERSISTENT),
        set(
            "/zookeeper/quota/quota/zookeeper_limits",
            b"count=-1,bytes=-1=;byteHardLimit=4;countHardLimit=1",
            -1,
        ),
        set("/zookeeper/quota/quota/zookeeper_stats", b"count=1,bytes=1", -1),
        set_acl("/locked", &read_only, -1),
    ] {
        bench.done(session, request);
    }
    (bench, session)
}

/// A request, its error, and why that one.
type Case = ((OpCode, Vec<u8>), ErrorCode, &'static str);

#[track_caller]
fn check_all(bench: &mut Bench, session: i64, cases: Vec<Case>) {
    for (request, expected, why) in cases {
        let digest = bench.pipeline.writer().digest();
        let answer = bench.ask(session, request);
        assert_eq!(answer.error, expected.raw(), "{why}");
        assert!(answer.body.is_empty());
        assert_eq!(bench.last_txn(), format!("{:?}", Txn::Error { code: expected.raw() }));
        assert_eq!(bench.pipeline.writer().digest(), digest, "nothing changed");
    }
}

fn create_as(path: &str, list: &[Acl], flags: i32) -> (OpCode, Vec<u8>) {
    (OpCode::Create, put_create(path, Some(b"x"), &EncodedAcl::from_list(list), flags))
}

#[test]
fn a_create_is_checked_in_apaches_order() {
    let (mut bench, session) = bench();
    let cases = vec![
        (create_as("/none/x", &[], 7), BadArguments, "the flags come before the list"),
        (create_as("/none/x", &[], -1), BadArguments, "flags are not negative"),
        (create_ttl("/none/x", 5, 0), BadArguments, "a time to live is positive"),
        (create_ttl("/none/x", 5, 1 << 40), BadArguments, "and below 2^40"),
        (create_ttl("/none/x", PERSISTENT, 9), BadArguments, "and of TTL modes only"),
        (create_as("x", &[], 0), BadArguments, "the path comes before the list"),
        (create_as("/none/\0", &[], 0), BadArguments, "so does a NUL in it"),
        (create_as("/none/x", &[], 0), InvalidAcl, "the list comes before the parent"),
        (create("/none/..", 0), NoNode, "the parent comes before the rest of the path"),
        (create("/locked/..", 0), NoAuth, "so does the permission"),
        (create("/locked/in", 0), NoAuth, "and it comes before the node"),
        (create("/open/..", 0), BadArguments, "dots are no name"),
        (create("/open/", 0), BadArguments, "nor is nothing"),
        (create("/open/\u{1}", 0), BadArguments, "nor a control character"),
        (create("/open", 0), NodeExists, "it is there"),
        (create("/", 0), NodeExists, "so is the root"),
        (create("/ephemeral/x", 0), NoChildrenForEphemerals, "ephemerals have no children"),
        (create("/quota/x", 0), QuotaExceeded, "two nodes are one too many"),
    ];
    check_all(&mut bench, session, cases);
}

#[test]
fn without_extended_types_there_are_no_ttl_nodes() {
    let mut bench = Bench::with(Settings { extended_types: false, ..settings() });
    let session = bench.connect(A);
    let cases = vec![
        (create_ttl("bad", 5, 0), Unimplemented, "this comes first of all"),
        (create_ttl("/a", 6, 1000), Unimplemented, "sequential ones are none either"),
    ];
    check_all(&mut bench, session, cases);
}

#[test]
fn a_delete_is_checked_in_apaches_order() {
    let (mut bench, session) = bench();
    let cases = vec![
        (delete("/", -1), BadArguments, "the root stays"),
        (delete("/zookeeper", -1), BadArguments, "so does the system's"),
        (delete("/zookeeper/quota", 9), BadArguments, "whatever the version"),
        (delete("/zookeeper/config", -1), BadArguments, "all of it"),
        (delete("nothing", -1), BadArguments, "a path has a slash"),
        (delete("/none/x", 9), NoNode, "without parent there is no node"),
        (delete("/locked/none", 9), NoAuth, "the parent's list comes before the node"),
        (delete("/open/none", 9), NoNode, "the node comes before its version"),
        (delete("/open/full", 9), BadVersion, "the version comes before the children"),
        (delete("/open/full", 0), NotEmpty, "children keep their parent"),
    ];
    check_all(&mut bench, session, cases);
    bench.done(session, delete("/open/full/child", 0));
    bench.done(session, delete("/open/full", -1));
    assert_eq!(bench.stat("/open/full"), None);
}

#[test]
fn a_set_is_checked_in_apaches_order() {
    let (mut bench, session) = bench();
    let cases = vec![
        (set("/none/", b"", 9), BadArguments, "the path comes before the node"),
        (set("/none", b"", 9), NoNode, "the node comes before its version"),
        (set("/locked", b"", 9), NoAuth, "the permission comes before the version"),
        (set("/quota", b"12345", 9), QuotaExceeded, "so does the quota"),
        (set("/quota", b"1234", 9), BadVersion, "then the version"),
        (set("/open", b"", 1), BadVersion, "a version is exact"),
        (set("/open", b"", -2), BadVersion, "only -1 is any"),
    ];
    check_all(&mut bench, session, cases);
    let answer = bench.done(session, set("/quota", b"1234", 0));
    let stat = Stat::decode(&mut Reader::new(&answer.body)).unwrap();
    assert_eq!((stat.version, stat.data_length, stat.mzxid), (1, 4, answer.zxid));
}

#[test]
fn a_set_of_the_acl_is_checked_in_apaches_order() {
    let (mut bench, session) = bench();
    let world = [acl(Perms::ALL, "world", "anyone")];
    let cases = vec![
        (set_acl("/none/", &[], 9), BadArguments, "the path comes before the list"),
        (set_acl("/none", &[], 9), InvalidAcl, "the list comes before the node"),
        (set_acl("/none", &world, 9), NoNode, "the node comes before its version"),
        (set_acl("/locked", &world, 9), NoAuth, "the permission comes before the version"),
        (set_acl("/open", &world, 1), BadVersion, "then the version"),
    ];
    check_all(&mut bench, session, cases);
    // The version of the data is another one.
    bench.done(session, set("/open", b"", -1));
    let before = bench.stat("/open").unwrap();
    bench.done(session, set_acl("/open", &world, 0));
    let stat = bench.stat("/open").unwrap();
    assert_eq!(stat, Stat { aversion: 1, ..before }, "nothing else changed");
}

#[test]
fn without_enforcement_a_hard_quota_is_a_soft_one() {
    let mut bench = Bench::with(Settings { enforce_quota: false, ..settings() });
    let session = bench.connect(A);
    for request in [
        create("/q", PERSISTENT),
        create("/zookeeper/quota/q", PERSISTENT),
        create("/zookeeper/quota/q/zookeeper_limits", PERSISTENT),
        set("/zookeeper/quota/q/zookeeper_limits", b"count=1,bytes=1=;countHardLimit=1", -1),
        create("/q/x", PERSISTENT),
    ] {
        bench.done(session, request);
    }
}

#[test]
fn auth_stands_for_what_the_connection_has_proven() {
    let (mut bench, session) = Bench::connected();
    let creator = [acl(Perms::ALL, "auth", "")];
    // An address proves nothing.
    assert_eq!(bench.error(session, create_with_acl("/a", &creator)), InvalidAcl.raw());

    bench.authenticate("user:password");
    let mine = acl(Perms::ALL, "digest", &DigestAlgorithm::Sha1.id("user:password"));
    let readers = acl(Perms::READ, "ip", "127.0.0.0/8");
    let list = [creator[0].clone(), readers.clone(), readers.clone()];
    bench.done(session, create_with_acl("/a", &list));
    let node = bench.pipeline.writer().node("/a").unwrap();
    let stored = bench.pipeline.writer().tree().acls().list(node.acl());
    assert_eq!(stored.entries[..], [mine, readers]);
    bench.done(session, set("/a", b"1", -1));

    for bad in [
        acl(Perms::ALL, "world", "someone"),
        acl(Perms::ALL, "digest", "nohash"),
        acl(Perms::ALL, "ip", "127.0.0.1/33"),
        acl(Perms::ALL, "no-scheme", "x"),
    ] {
        assert_eq!(bench.error(session, create_with_acl("/b", &[bad])), InvalidAcl.raw());
    }

    bench.authenticate("user:other");
    assert_eq!(bench.error(session, set("/a", b"2", -1)), NoAuth.raw());
    bench.authenticate(SUPER);
    bench.done(session, set("/a", b"2", -1));
}

#[test]
fn with_acls_skipped_nobody_needs_a_permission() {
    let mut bench = Bench::with(Settings { skip_acl: true, ..settings() });
    let session = bench.connect(A);
    bench.done(session, create_with_acl("/a", &[acl(Perms(0), "world", "anyone")]));
    bench.done(session, create("/a/b", PERSISTENT));
    bench.done(session, set("/a", b"", -1));
    bench.done(session, delete("/a/b", -1));
    // A list is looked at all the same.
    assert_eq!(bench.error(session, create_with_acl("/b", &[])), InvalidAcl.raw());
}

#[test]
fn sequential_names_count_creations() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create("/d", PERSISTENT));
    let name = |bench: &mut Bench, path| {
        path_of(&bench.done(session, create(path, SEQUENTIAL | EPHEMERAL)))
    };
    assert_eq!(name(&mut bench, "/d/n-"), "/d/n-0000000000");
    assert_eq!(name(&mut bench, "/d/n-"), "/d/n-0000000001");
    bench.done(session, delete("/d/n-0000000001", -1));
    assert_eq!(name(&mut bench, "/d/n-"), "/d/n-0000000002", "deletes do not count");
    assert_eq!(name(&mut bench, "/d/"), "/d/0000000003", "an empty name has its number");
    bench.done(session, create("/d/plain", PERSISTENT));
    assert_eq!(name(&mut bench, "/d/n-"), "/d/n-0000000005", "any child counts");
    assert_eq!(bench.error(session, create("/d", SEQUENTIAL)), 0, "the number makes it new");
}

#[test]
fn each_create_answers_what_its_opcode_promises() {
    let (mut bench, session) = Bench::connected();
    let answer = bench.done(session, create("/a", EPHEMERAL));
    let mut reader = Reader::new(&answer.body);
    assert_eq!(reader.string().unwrap(), "/a");
    assert!(reader.is_empty(), "opcode 1 has no stat");
    let (_, body) = create("/b", EPHEMERAL);
    for (request, path, owner, stored) in [
        ((OpCode::Create2, body), "/b", session, session),
        (create_container("/c"), "/c", 0, i64::MIN),
        (create_ttl("/t", 5, 77), "/t", 0, (0xff00_u64 << 48).cast_signed() | 77),
        ((OpCode::Create2, create("/f", 4).1), "/f", 0, 0),
    ] {
        let answer = bench.done(session, request);
        let mut reader = Reader::new(&answer.body);
        assert_eq!(reader.string().unwrap(), path);
        let stat = Stat::decode(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!(stat.ephemeral_owner, owner, "clients see the sessions among owners");
        assert_eq!(bench.pipeline.writer().node(path).unwrap().owner(), stored);
        assert_eq!([stat.czxid, stat.mzxid, stat.pzxid], [answer.zxid; 3]);
        assert_eq!([stat.ctime_ms, stat.mtime_ms], [bench.wall.0; 2]);
    }
}

#[test]
fn a_standalone_server_has_no_members_to_change() {
    for (reconfig, error) in [(false, ReconfigDisabled), (true, Unimplemented)] {
        let mut bench = Bench::with(Settings { reconfig, ..settings() });
        let session = bench.connect(A);
        let mut body = Vec::new();
        for _ in 0..3 {
            body.put_buffer(None);
        }
        body.put_i64(-1);
        assert_eq!(bench.error(session, (OpCode::Reconfig, body)), error.raw());
    }
}
