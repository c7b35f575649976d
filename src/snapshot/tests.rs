//! Snapshots of trees that transactions made, whole, damaged, cut off and written beside writes.

mod damage;
mod java;
mod random;
mod transfer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::snapshot::directory;
use crate::snapshot::frame::Pace;
use crate::snapshot::load::{self, LoadOptions, Loaded};
use crate::snapshot::write::{write, write_at};
use crate::snapshot::{Figures, SnapshotError, tool};
use crate::time::Time;
use crate::tree::Tree;
use crate::tree::record::Meta;
use crate::tree::writer::{TreeConfig, Writer};
use crate::wire::acl::{Acl, EncodedAcl, Id, Perms};
use crate::wire::txn::{CreateKind, CreateTxn, Txn, TxnHeader};
use crate::zxid::Zxid;

const CONFIG: TreeConfig = TreeConfig { seed: 7, extended_types: true };
/// Another seed: the shards that a snapshot is loaded into are not those that it was written from.
const OPTIONS: LoadOptions = LoadOptions {
    tree: TreeConfig { seed: 8, extended_types: true },
    now: Time::from_nanos(0),
    threads: 2,
};
const SESSIONS: [(i64, i32); 2] = [(0x1000_0000_0000_0001, 30_000), (9, 4000)];
const PLAIN: CreateKind = CreateKind::Plain { ephemeral: false, with_stat: false };
const EPHEMERAL: CreateKind = CreateKind::Plain { ephemeral: true, with_stat: true };

fn new_writer() -> Writer {
    Writer::new(CONFIG, Time::default())
}

/// Applies `txn` as the next transaction.
fn apply(writer: &mut Writer, txn: &Txn<'_>) {
    let zxid = Zxid::from_raw(writer.last_zxid().raw() + 1);
    let header = TxnHeader { session: 9, cxid: 0, zxid, time_ms: 1_000_000 + zxid.raw() };
    writer.apply(&header, txn).unwrap();
}

fn create(writer: &mut Writer, path: &str, data: Option<&[u8]>, kind: CreateKind) {
    let (acl, parent_cversion) = (EncodedAcl::OPEN, -1);
    apply(writer, &Txn::Create(CreateTxn { path, data, acl, parent_cversion, kind }));
}

fn acl(id: &str) -> EncodedAcl<'static> {
    let id = Id { scheme: "digest".into(), id: id.into() };
    EncodedAcl::from_list(&[Acl { perms: Perms(5), id }])
}

/// A tree with every kind of znode.
fn sample() -> Writer {
    let mut writer = new_writer();
    create(&mut writer, "/null", None, PLAIN);
    create(&mut writer, "/empty", Some(b""), PLAIN);
    create(&mut writer, "/null/\u{e9}\u{4e2d}", Some(b"\0\xff"), PLAIN);
    create(&mut writer, "/big", Some(&vec![7; 1 << 20]), PLAIN);
    create(&mut writer, "/big/below", Some(b"x"), PLAIN);
    create(&mut writer, "/e", Some(b"mine"), EPHEMERAL);
    create(&mut writer, "/container", None, CreateKind::Container);
    create(&mut writer, "/container/ttl", Some(b"t"), CreateKind::Ttl(12_345));
    for (version, id) in ["a", "b", "a"].iter().enumerate() {
        let version = i32::try_from(version).unwrap();
        apply(&mut writer, &Txn::SetAcl { path: "/null", acl: acl(id), version });
    }
    apply(&mut writer, &Txn::SetData { path: "/empty", data: Some(b"set"), version: 1 });
    create(&mut writer, "/gone", Some(b""), PLAIN);
    apply(&mut writer, &Txn::Delete { path: "/gone", by_reaper: false });
    writer
}

/// Everything of a tree that a client may see, and what is stored beside it.
type Content = BTreeMap<String, (Option<Vec<u8>>, Meta, Vec<u8>, Vec<String>)>;

fn content(tree: &Tree, version: Zxid) -> Content {
    let mut content = Content::new();
    let view = tree.view(version);
    for shard in 0..tree.shard_count() {
        view.for_each_in_shard(shard, |node| {
            let meta = Meta { zxid: Zxid::ZERO, acl: Default::default(), ..*node.meta() };
            let acl = tree.acls().list(node.acl()).encoded.as_bytes().to_vec();
            let children = node.children().iter().map(str::to_owned).collect();
            let data = node.data().map(<[u8]>::to_vec);
            content.insert(node.path().to_owned(), (data, meta, acl, children));
        });
    }
    content
}

fn write_now(dir: &Path, writer: &Writer) -> Figures {
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    write_at(dir, writer.tree(), zxid, digest, &SESSIONS, Pace::Full).unwrap()
}

fn load_newest(dir: &Path) -> Loaded {
    load::load_newest(dir, &OPTIONS).unwrap().unwrap()
}

/// Checks that `loaded` is the newest tree of `writer`.
fn check_same(loaded: &Loaded, writer: &Writer) {
    assert_eq!(loaded.zxid, writer.last_zxid());
    assert_eq!(loaded.writer.last_zxid(), writer.last_zxid());
    assert_eq!(loaded.digest, writer.digest());
    assert_eq!(loaded.writer.totals(), writer.totals());
    let owners = |writer: &Writer| writer.owners().collect::<Vec<_>>();
    assert_eq!(owners(&loaded.writer), owners(writer));
    let (found, expected) =
        (content(loaded.writer.tree(), Zxid::MAX), content(writer.tree(), Zxid::MAX));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == expected);
}

#[test]
fn every_kind_of_znode_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let writer = sample();
    let figures =
        write(dir.path(), writer.tree(), writer.last_zxid(), writer.digest(), &SESSIONS).unwrap();
    // The root's alias counts in the totals, and here it does not. Two lists are in use beside the
    // one of the config znode.
    assert_eq!(figures.nodes + 1, writer.totals().node_count);
    assert_eq!((figures.sessions, figures.acls), (2, 3));
    let loaded = load_newest(dir.path());
    check_same(&loaded, &writer);
    assert_eq!(loaded.sessions, SESSIONS);
    assert_eq!(loaded.figures, figures);
    assert!(loaded.skipped.is_empty());
    let view = loaded.writer.tree().view(Zxid::MAX);
    assert_eq!(view.ephemerals(9).iter().collect::<Vec<_>>(), ["/e"]);
    assert_eq!(loaded.writer.reapable().containers().count(), 1);
    assert_eq!(loaded.writer.reapable().ttl_nodes().count(), 1);
}

#[test]
fn a_fresh_tree_comes_back_and_the_same_zxid_is_not_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = new_writer();
    let figures = write_now(dir.path(), &writer);
    assert_eq!(write_now(dir.path(), &writer), figures);
    assert_eq!(load_newest(dir.path()).figures, figures);
    // Transactions that change no znode move the zxid all the same.
    apply(&mut writer, &Txn::CreateSession { timeout_ms: 5 });
    write_now(dir.path(), &writer);
    check_same(&load_newest(dir.path()), &writer);
}

#[test]
fn children_and_files_larger_than_one_archive_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = new_writer();
    create(&mut writer, "/dir", Some(b"kept"), PLAIN);
    let tail = "x".repeat(500);
    for n in 0..2000 {
        // A million bytes of names, and twenty million of data: several archives, several files.
        create(&mut writer, &format!("/dir/{n:05}{tail}"), Some(&[1; 10_000]), PLAIN);
    }
    let figures = write_now(dir.path(), &writer);
    assert!(figures.files > 3, "{figures:?}");
    check_same(&load_newest(dir.path()), &writer);
}

#[test]
fn a_snapshot_is_exact_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = new_writer();
    for n in 0..3000 {
        create(&mut writer, &format!("/{n}"), Some(&[0; 100]), PLAIN);
    }
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let expected = content(writer.tree(), zxid);
    let tree = std::sync::Arc::clone(writer.tree());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let snapshot = scope.spawn(|| {
            let written = write(dir.path(), &tree, zxid, digest, &SESSIONS);
            done.store(true, Ordering::Release);
            written.unwrap()
        });
        let mut n = 0;
        while !done.load(Ordering::Acquire) {
            // All or nothing across shards: one is deleted and made anew, others made and set.
            let old = format!("/{}", n % 3000);
            let data: &[u8] = &[1; 200];
            let made = CreateTxn {
                path: &format!("/new{n}"),
                data: Some(data),
                acl: acl(&n.to_string()),
                parent_cversion: -1,
                kind: EPHEMERAL,
            };
            let multi = Txn::Multi(vec![
                Txn::Delete { path: &old, by_reaper: false },
                Txn::Create(CreateTxn { path: &old, acl: acl("x"), kind: PLAIN, ..made.clone() }),
                Txn::Create(made),
                Txn::SetData { path: "/", data: Some(b"changed"), version: n },
            ]);
            apply(&mut writer, &multi);
            writer.reclaim(writer.last_zxid(), &[zxid]);
            n += 1;
        }
        assert!(n > 0);
        assert_eq!(snapshot.join().unwrap().nodes, 3000 + 4);
    });
    let loaded = load_newest(dir.path());
    assert_eq!((loaded.zxid, loaded.digest), (zxid, digest));
    assert!(content(loaded.writer.tree(), Zxid::MAX) == expected);
}

#[test]
fn what_is_not_the_tree_of_that_digest_is_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let writer = sample();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let written = write(dir.path(), writer.tree(), zxid, digest + 1, &[]);
    assert!(matches!(written, Err(SnapshotError::Inexact { .. })), "{written:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_empty_or_missing_directory_holds_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load::load_newest(dir.path(), &OPTIONS).unwrap().is_none());
    assert!(load::load_newest(&dir.path().join("none"), &OPTIONS).unwrap().is_none());
}

#[test]
fn a_full_volume_is_told_apart() {
    let full = rustix::io::Errno::NOSPC;
    let error = SnapshotError::io("write", Path::new("/f"), 5, full);
    assert!(matches!(error, SnapshotError::Full { .. }), "{error}");
}

#[test]
fn names_tell_the_zxid_and_order_by_it() {
    assert_eq!(directory::name(Zxid::new(1, 0xab)), "snapshot.00000001000000ab");
    assert_eq!(directory::zxid_of("snapshot.00000001000000ab"), Some(Zxid::new(1, 0xab)));
    // Apache's own names are no snapshots of ours.
    for name in ["snapshot.1000000ab", "snapshot.", "snapshot.00000001000000AB", "manifest"] {
        assert_eq!(directory::zxid_of(name), None, "{name}");
    }
}

#[test]
fn tools_print_every_znode_and_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let writer = sample();
    write_now(dir.path(), &writer);
    let (mut dump, mut verdict) = (Vec::new(), Vec::new());
    tool::dump(dir.path(), &mut dump).unwrap();
    tool::verify(dir.path(), &mut verdict).unwrap();
    let (dump, verdict) = (String::from_utf8(dump).unwrap(), String::from_utf8(verdict).unwrap());
    for line in ["\"/null\" data null children 1 acl", "digest:a:5", "timeout 30000 ms"] {
        assert!(dump.contains(line), "{line} in {dump}");
    }
    assert_eq!(dump.lines().filter(|line| line.starts_with("  \"/")).count(), 12);
    assert!(verdict.contains("sound: znodes 12 sessions 2"), "{verdict}");
}
