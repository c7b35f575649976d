//! Single promises of the tree, one test each.

use std::collections::BTreeSet;

use super::*;
use crate::time::WallMs;
use crate::tree::TreeError;
use crate::tree::acl::AclId;
use crate::tree::builder::{BuildError, Builder, Loaded, Part};
use crate::tree::effects::Event;
use crate::tree::quota::Measure;
use crate::tree::record::Meta;
use crate::tree::writer::Replay;
use crate::wire::response::EventKind;

fn apply(writer: &mut Writer, counter: u32, session: i64, txn: &Txn<'_>) -> Vec<Event> {
    writer.apply(&header(counter, session), txn).unwrap().events
}

#[test]
fn a_fresh_tree_is_apaches() {
    let writer = writer();
    assert_eq!(writer.totals().node_count, 5);
    assert_eq!(writer.totals().data_size, 44);
    // The digest of the first transaction that Apache 3.9.5 ever logs, a session's creation.
    assert_eq!(writer.digest(), 1_371_985_504);
    let root = writer.node("/").unwrap().stat();
    assert_eq!((root.cversion, root.num_children), (-1, 1));
    assert!(writer.node("\0").is_none());
    assert!(writer.node("").is_none());
}

#[test]
fn events_come_in_apaches_order_with_the_acls_of_their_time() {
    let mut writer = writer();
    writer.set_watched(true);
    let kinds = |events: Vec<Event>| -> Vec<(EventKind, String)> {
        events.iter().map(|event| (event.kind, event.path().to_string())).collect()
    };
    use EventKind::*;
    let events = apply(&mut writer, 1, 0, &create("/a", b"", PLAIN));
    assert!(events.iter().all(|event| event.zxid == zxid(1)));
    assert_eq!(kinds(events), [(NodeCreated, "/a".into()), (NodeChildrenChanged, "/".into())]);
    let read_only = writer.node("/zookeeper/config").unwrap().acl();
    let acl = writer.tree().acls().list(read_only).encoded.clone();
    assert_eq!(apply(&mut writer, 2, 0, &Txn::SetAcl { path: "/a", acl, version: 1 }), []);
    let multi = Txn::Multi(vec![
        create("/a/b", b"", EPHEMERAL),
        set("/a", b"x", 1),
        delete("/a/b"),
        create("/a/b", b"", EPHEMERAL),
    ]);
    let events = apply(&mut writer, 3, 9, &multi);
    let of_a = events.iter().filter(|event| event.path() == "/a");
    assert!(of_a.clone().all(|event| event.acl() == read_only) && of_a.count() == 4);
    let expected = [
        (NodeCreated, "/a/b"),
        (NodeChildrenChanged, "/a"),
        (NodeDataChanged, "/a"),
        (NodeDeleted, "/a/b"),
        (NodeChildrenChanged, "/a"),
        (NodeCreated, "/a/b"),
        (NodeChildrenChanged, "/a"),
    ];
    assert_eq!(kinds(events), expected.map(|(kind, path)| (kind, path.to_owned())));
    let events = apply(&mut writer, 4, 9, &Txn::CloseSession { paths: Some(vec!["/a/b"]) });
    assert_eq!(kinds(events), [(NodeDeleted, "/a/b".into()), (NodeChildrenChanged, "/a".into())]);
    writer.set_watched(false);
    assert_eq!(apply(&mut writer, 5, 0, &set("/a", b"y", 2)), []);
}

#[test]
fn what_does_not_fit_is_an_error_and_leaves_nothing() {
    let mut writer = writer();
    apply(&mut writer, 1, 0, &create("/a", b"", PLAIN));
    apply(&mut writer, 2, 0, &create("/a/b", b"", PLAIN));
    let (totals, path) = (writer.totals(), |path: &str| path.to_owned());
    let cases = [
        (create("/a", b"", PLAIN), TreeError::NodeExists { path: path("/a") }),
        (create("/", b"", PLAIN), TreeError::NodeExists { path: path("/") }),
        (create("/x/y", b"", PLAIN), TreeError::NoParent { path: path("/x/y") }),
        (delete("/a"), TreeError::NotEmpty { path: path("/a") }),
        (delete("/x"), TreeError::NoNode { path: path("/x") }),
        (delete("/"), TreeError::Root),
        (set("/x", b"", 1), TreeError::NoNode { path: path("/x") }),
    ];
    for (txn, error) in cases {
        assert_eq!(writer.apply(&header(3, 0), &txn), Err(error.clone()));
        let multi = Txn::Multi(vec![set("/a", b"changed", 1), create("/n", b"", EPHEMERAL), txn]);
        assert_eq!(writer.apply(&header(3, 0), &multi), Err(error));
        assert_eq!(writer.totals(), totals);
        assert_eq!(writer.node("/a").unwrap().data(), Some(&b""[..]));
        assert!(writer.node("/n").is_none());
    }
    let late = TreeError::OutOfOrder { zxid: zxid(2), last: zxid(2) };
    assert_eq!(writer.apply(&header(2, 0), &set("/a", b"", 1)), Err(late));
}

#[test]
fn a_session_of_thousands_of_ephemerals_closes_in_one_step() {
    let mut writer = writer();
    apply(&mut writer, 1, 0, &create("/e", b"", PLAIN));
    writer.begin(&header(2, 7)).unwrap();
    for n in 0..30_000 {
        writer.apply_op(&create(&format!("/e/{n:06}"), b"", EPHEMERAL)).unwrap();
    }
    writer.finish();
    assert_eq!(writer.owners().collect::<Vec<_>>(), [(7, 30_000)]);
    assert_eq!(writer.tree().view(zxid(2)).ephemerals(7).len(), 30_000);
    apply(&mut writer, 3, 7, &Txn::CloseSession { paths: None });
    assert_eq!(writer.node("/e").unwrap().child_count(), 0);
    assert_eq!((writer.totals().ephemeral_count, writer.owners().count()), (0, 0));
    assert_eq!(writer.tree().view(zxid(2)).node("/e").unwrap().child_count(), 30_000);
    while writer.reclaim(zxid(3), &[]) {}
    assert_eq!(writer.journal_len(), 0);
    let table_len: usize = (0..writer.tree().shard_count())
        .map(|shard| writer.tree().table.iterate(shard, &writer.tree().table.hold()).count())
        .sum();
    // The living, and the tombstones that stay for their slots' sake.
    assert_eq!(table_len, 5 + 8192);
}

#[test]
fn a_deep_path_is_counted_without_recursion() {
    let mut builder = Builder::new(CONFIG, 0, Time::default());
    assert_eq!(builder.add_acl(&EncodedAcl::OPEN), AclId::OPEN);
    // As deep as a path of 6 kB goes; deeper only takes more memory for the paths.
    let depth = 3000;
    let mut part = builder.part();
    let mut path = String::new();
    add(&mut part, "/", &["a"]);
    for level in 1..=depth {
        path.push_str("/a");
        add(&mut part, &path, if level == depth { &[] } else { &["a"] });
    }
    let sums = part.finish();
    let deep = builder.finish([sums], zxid(1), None).unwrap();
    assert_eq!(deep.tree().view(Zxid::MAX).all_children_count("/"), Some(depth));
    assert_eq!(deep.tree().view(Zxid::MAX).all_children_count("/none"), None);
}

fn add(part: &mut Part<'_>, path: &str, names: &[&str]) {
    add_checked(part, path, names).unwrap();
}

fn add_checked(part: &mut Part<'_>, path: &str, names: &[&str]) -> Result<(), BuildError> {
    let children = names.iter().copied();
    part.add(Loaded { path, data: Some(b"x"), meta: Meta::default(), children })
}

#[test]
fn hard_limits_are_reported_and_statistics_follow_undoing() {
    let mut writer = writer();
    let txns = [
        create("/a", b"123", PLAIN),
        create("/zookeeper/quota/a", b"", PLAIN),
        create("/zookeeper/quota/a/zookeeper_limits", b"count=9,bytes=5=;countHardLimit=2", PLAIN),
        create("/zookeeper/quota/a/zookeeper_stats", b"", PLAIN),
    ];
    for (n, txn) in txns.iter().enumerate() {
        apply(&mut writer, n as u32 + 1, 0, txn);
    }
    let stats = |writer: &Writer| {
        let node = writer.node("/zookeeper/quota/a/zookeeper_stats").unwrap();
        String::from_utf8(node.data().unwrap().to_vec()).unwrap()
    };
    assert_eq!(stats(&writer), "count=1,bytes=3");
    assert_eq!(writer.check_quota("/a/b", 2, 1), []);
    apply(&mut writer, 5, 0, &create("/a/b", b"45", PLAIN));
    assert_eq!(stats(&writer), "count=2,bytes=5");
    let excess = writer.check_quota("/a/c", 1, 1);
    assert_eq!((excess[0].hard, excess[0].measure), (true, Measure::Count));
    assert_eq!((excess[1].hard, excess[1].measure), (false, Measure::Bytes));
    assert_eq!(writer.check_quota("/b", 100, 100), []);
    writer.pop_above(zxid(4));
    assert_eq!(stats(&writer), "count=1,bytes=3");
    writer.pop_above(zxid(2));
    assert_eq!(writer.check_quota("/a/c", 100, 100), []);
}

#[test]
fn a_fuzzy_replay_passes_over_what_the_snapshot_holds() {
    let mut writer = writer();
    apply(&mut writer, 1, 0, &create("/a", b"", PLAIN));
    apply(&mut writer, 2, 0, &create("/a/b", b"kept", PLAIN));
    writer.set_replay(Replay::Fuzzy);
    let again = |kind| {
        let (data, acl) = (Some(&b"again"[..]), EncodedAcl::OPEN);
        Txn::Create(CreateTxn { path: "/a/b", data, acl, parent_cversion: 5, kind })
    };
    // Only the plainest creation raises the parent's numbers.
    let with_stat = CreateKind::Plain { ephemeral: false, with_stat: true };
    apply(&mut writer, 3, 0, &again(with_stat));
    let cversion = |writer: &Writer| writer.node("/a").unwrap().meta().cversion;
    assert_eq!(cversion(&writer), 1);
    apply(&mut writer, 4, 0, &again(PLAIN));
    assert_eq!((cversion(&writer), writer.node("/a").unwrap().meta().pzxid), (5, zxid(4)));
    assert_eq!(writer.node("/a/b").unwrap().data(), Some(&b"kept"[..]));
    // A deletion of what is gone still moves the parent.
    apply(&mut writer, 5, 0, &delete("/a/x"));
    assert_eq!(writer.node("/a").unwrap().meta().pzxid, zxid(5));
    for txn in [set("/x", b"", 1), create("/x/y", b"", PLAIN), delete("/x/y")] {
        let next = writer.last_zxid().counter() + 1;
        apply(&mut writer, next, 0, &txn);
    }
    assert_eq!(writer.digest(), writer.tree().view(Zxid::MAX).compute_digest());
}

#[test]
fn large_data_is_shared_by_its_parents_records() {
    let mut writer = writer();
    let (large, other) = (vec![1; 100_000], vec![2; 2000]);
    apply(&mut writer, 1, 0, &create("/a", &large, PLAIN));
    apply(&mut writer, 2, 0, &create("/a/b", b"", PLAIN));
    let data = |writer: &Writer, version: Zxid| -> (*const u8, Vec<u8>) {
        let view = writer.tree().view(version);
        let node = view.node("/a").unwrap();
        (node.data().unwrap().as_ptr(), node.data().unwrap().to_vec())
    };
    let first = data(&writer, zxid(2));
    assert_eq!(first.1, large);
    apply(&mut writer, 3, 0, &create("/a/c", b"", PLAIN));
    assert_eq!(data(&writer, zxid(3)), first);
    apply(&mut writer, 4, 0, &set("/a", &other, 1));
    assert_eq!(data(&writer, zxid(4)).1, other);
    apply(&mut writer, 5, 0, &delete("/a/c"));
    apply(&mut writer, 6, 0, &delete("/a/b"));
    assert_eq!(data(&writer, zxid(6)).1, other);
    assert_eq!(data(&writer, zxid(3)), first);
    assert_eq!(writer.digest(), writer.tree().view(Zxid::MAX).compute_digest());
}

#[test]
fn containers_age_from_their_last_child_and_ttl_nodes_from_their_last_write() {
    let mut writer = writer();
    let at = |writer: &mut Writer, n: u32, txn: &Txn<'_>| {
        writer.set_now(Time::from_nanos(u64::from(n)));
        apply(writer, n, 0, txn);
    };
    at(&mut writer, 1, &create("/c", b"", CreateKind::Container));
    at(&mut writer, 2, &create("/t", b"", CreateKind::Ttl(5)));
    at(&mut writer, 3, &create("/c/x", b"", PLAIN));
    at(&mut writer, 4, &create("/t/x", b"", PLAIN));
    let ages = |writer: &Writer| -> Vec<(String, u64)> {
        let reapable = writer.reapable();
        let all = reapable.containers().chain(reapable.ttl_nodes());
        all.map(|(path, time)| (path.to_owned(), time.as_nanos())).collect()
    };
    assert_eq!(ages(&writer), [("/c".to_owned(), 1), ("/t".to_owned(), 2)]);
    at(&mut writer, 5, &delete("/c/x"));
    at(&mut writer, 6, &set("/t", b"x", 1));
    assert_eq!(ages(&writer), [("/c".to_owned(), 5), ("/t".to_owned(), 6)]);
    at(&mut writer, 7, &delete("/c"));
    assert_eq!(ages(&writer), [("/t".to_owned(), 6)]);
}

#[test]
fn a_builder_takes_a_tree_apart_and_together() {
    let mut writer = writer();
    let acl = writer.tree().acls().list(writer.node("/zookeeper/config").unwrap().acl());
    let txns = [
        create("/a", b"1", PLAIN),
        create("/a/e", b"", EPHEMERAL),
        create("/a/\u{fc}", b"", CreateKind::Container),
        create("/t", b"", CreateKind::Ttl(5)),
        create("/zookeeper/quota/a", b"", PLAIN),
        create("/zookeeper/quota/a/zookeeper_limits", b"count=1,bytes=1", PLAIN),
        create("/zookeeper/quota/a/zookeeper_stats", b"", PLAIN),
        Txn::SetAcl { path: "/t", acl: acl.encoded.clone(), version: 3 },
        Txn::SetData { path: "/a/e", data: None, version: 1 },
    ];
    for (n, txn) in txns.iter().enumerate() {
        apply(&mut writer, n as u32 + 1, 77, txn);
    }
    for derive in [false, true] {
        let mut builder = Builder::new(CONFIG, 10, Time::default());
        let view = writer.tree().view(Zxid::MAX);
        let lists = writer.tree().acls().all();
        let ids: Vec<_> = lists.iter().map(|(_, list)| builder.add_acl(&list.encoded)).collect();
        let mut parts: Vec<Part<'_>> = (0..3).map(|_| builder.part()).collect();
        for shard in 0..writer.tree().shard_count() {
            view.for_each_in_shard(shard, |node| {
                let index = lists.iter().position(|(id, _)| *id == node.acl()).unwrap();
                let meta = Meta { acl: ids[index], ..*node.meta() };
                let children = node.children().iter().filter(|_| !derive);
                let (path, data) = (node.path(), node.data());
                parts[shard % 3].add(Loaded { path, data, meta, children }).unwrap();
            });
        }
        let sums: Vec<_> = parts.into_iter().map(Part::finish).collect();
        let (last, digest) = (writer.last_zxid(), Some(writer.digest()));
        let mut built = match derive {
            true => builder.finish_deriving(sums, last, digest).unwrap(),
            false => builder.finish(sums, last, digest).unwrap(),
        };
        assert_eq!(built.totals(), writer.totals());
        assert_eq!(built.owners().collect::<Vec<_>>(), [(77, 1)]);
        assert_eq!(built.reapable().containers().count(), 1);
        assert_eq!(built.reapable().ttl_nodes().count(), 1);
        assert_eq!(built.check_quota("/a/x", 0, 1).len(), 1);
        let other = built.tree().view(last);
        for shard in 0..writer.tree().shard_count() {
            view.for_each_in_shard(shard, |node| {
                let found = other.node(node.path()).unwrap();
                assert_eq!((found.stat(), found.data()), (node.stat(), node.data()));
                assert!(found.children().iter().eq(node.children().iter()));
                let list = |writer: &Writer, acl| writer.tree().acls().list(acl);
                assert_eq!(list(&built, found.acl()), list(&writer, node.acl()));
            });
        }
        drop(other);
        let close = Txn::CloseSession { paths: None };
        built.apply(&header(100, 77), &close).unwrap();
        assert!(built.node("/a/e").is_none());
        assert_eq!(built.totals().ephemeral_count, 0);
    }
}

#[test]
fn a_builder_refuses_what_is_no_tree() {
    let build = |records: &[(&str, &[&str])]| {
        let builder = Builder::new(CONFIG, 0, Time::default());
        let mut part = builder.part();
        for (path, names) in records {
            add_checked(&mut part, path, names)?;
        }
        let sums = part.finish();
        builder.finish([sums], zxid(1), None).map(|writer| writer.totals().node_count)
    };
    let owned = |text: &str| text.to_owned();
    assert_eq!(build(&[("/a", &["b"]), ("/", &["a"]), ("/a/b", &[])]), Ok(4));
    assert_eq!(build(&[("/a", &[])]), Err(BuildError::NoRoot));
    let repeated = BuildError::Repeated { path: owned("/a") };
    assert_eq!(build(&[("/a", &[]), ("/a", &[])]), Err(repeated));
    let orphan = BuildError::Orphan { path: owned("/b/c") };
    assert_eq!(build(&[("/", &[]), ("/b/c", &[])]), Err(orphan));
    let unnamed = BuildError::Orphan { path: owned("/b") };
    assert_eq!(build(&[("/", &[]), ("/b", &[])]), Err(unnamed));
    let missing = BuildError::NoChild { path: owned("/"), name: owned("x") };
    assert_eq!(build(&[("/", &["x"])]), Err(missing));
    let unordered = BuildError::Unordered { path: owned("/"), name: owned("a") };
    assert_eq!(build(&[("/", &["b", "a"])]), Err(unordered));
    for path in ["", "a", "/a/"] {
        assert_eq!(build(&[(path, &[])]), Err(BuildError::BadPath { path: owned(path) }));
    }
    let builder = Builder::new(CONFIG, 0, Time::default());
    let mut part = builder.part();
    add(&mut part, "/", &[]);
    let sums = part.finish();
    let error = builder.finish([sums], zxid(1), Some(1)).err().unwrap();
    assert!(matches!(error, BuildError::Digest { expected: 1, .. }));
}

#[test]
fn reclaiming_is_bounded_and_keeps_one_record_a_path_for_a_snapshot() {
    let mut writer = writer();
    apply(&mut writer, 1, 0, &create("/a", b"old", PLAIN));
    for n in 2..=10_000 {
        apply(&mut writer, n, 0, &set("/a", b"x", n as i32));
    }
    let mut calls = 1;
    while writer.reclaim(zxid(10_000), &[zxid(1)]) {
        calls += 1;
    }
    assert!(calls > 3);
    let chain: BTreeSet<Zxid> = std::iter::successors(writer.newest("/a"), |record| record.older())
        .map(|record| record.zxid())
        .collect();
    assert_eq!(chain, BTreeSet::from([zxid(1), zxid(10_000)]));
    assert_eq!(writer.tree().view(zxid(1)).node("/a").unwrap().data(), Some(&b"old"[..]));
    while writer.reclaim(zxid(10_000), &[]) {}
    assert!(writer.newest("/a").unwrap().older().is_none());
    assert_eq!(writer.journal_len(), 0);
}

#[test]
fn configuration_is_put_without_a_transaction() {
    let mut writer = writer();
    apply(&mut writer, 1, 0, &create("/a", b"", PLAIN));
    let digest = writer.digest();
    let old = writer.node("/zookeeper/config").unwrap().stat();
    writer.put_config(b"server.1=a:1:2:participant\nversion=0", zxid(0), WallMs(77));
    let node = writer.node("/zookeeper/config").unwrap();
    assert_eq!(node.data(), Some(&b"server.1=a:1:2:participant\nversion=0"[..]));
    let stat = node.stat();
    assert_eq!((stat.version, stat.mtime_ms, stat.aversion), (-1, 77, old.aversion));
    assert_eq!((writer.digest(), writer.last_zxid()), (digest, zxid(1)));
    let is_there = |writer: &Writer| {
        let view = writer.tree().view(Zxid::ZERO);
        view.node("/zookeeper/config").is_some_and(|node| node.data().is_some())
    };
    assert!(is_there(&writer));
    // What was applied before it can still be undone, and what comes after it too.
    apply(&mut writer, 2, 0, &create("/b", b"", PLAIN));
    writer.pop_above(Zxid::ZERO);
    let mut fresh = super::writer();
    fresh.put_config(b"server.1=a:1:2:participant\nversion=0", zxid(0), WallMs(77));
    assert_eq!(writer.totals(), fresh.totals());
    let node = writer.node("/zookeeper/config").unwrap();
    assert_eq!(node.data(), Some(&b"server.1=a:1:2:participant\nversion=0"[..]));
}
