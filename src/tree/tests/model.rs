//! Random histories against a model that keeps a whole map of the tree for every version.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::TreeError;
use crate::tree::view::View;
use crate::wire::path;
use crate::wire::stat::Stat;

const SESSIONS: [i64; 2] = [0x100, 0x200];

#[derive(Clone, Debug)]
enum Op {
    Create(usize, usize, usize),
    Delete(usize),
    Set(usize, usize),
    SetAcl(usize, usize),
    Close,
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction of these operations; those that do not fit are left out, or abort it.
    Apply {
        ops: Vec<Op>,
        session: usize,
        strict: bool,
        abort: bool,
    },
    /// Undo so many uncommitted transactions.
    Pop(usize),
    /// Commit all but so many.
    Commit(usize),
    /// Take a snapshot at the committed version, or end the oldest.
    Snapshot,
    EndSnapshot(usize),
    /// Move the readers so far towards the committed version, and reclaim.
    Reclaim(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..PATHS.len(), 0..40usize, 0..4usize).prop_map(|(p, d, k)| Op::Create(p, d, k)),
        2 => (0..PATHS.len()).prop_map(Op::Delete),
        3 => (0..PATHS.len(), 0..40usize).prop_map(|(p, d)| Op::Set(p, d)),
        1 => (0..PATHS.len(), 0..4usize).prop_map(|(p, a)| Op::SetAcl(p, a)),
        1 => Just(Op::Close),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = prop::collection::vec(op(), 1..6);
    prop_oneof![
        12 => (ops, 0..2usize, any::<bool>(), prop::bool::weighted(0.15)).prop_map(
            |(ops, session, strict, abort)| Step::Apply { ops, session, strict, abort }
        ),
        1 => (0..6usize).prop_map(Step::Pop),
        2 => (0..4usize).prop_map(Step::Commit),
        1 => Just(Step::Snapshot),
        1 => (0..4usize).prop_map(Step::EndSnapshot),
        2 => (0..6usize).prop_map(Step::Reclaim),
    ]
}

const PATHS: [&str; 12] = [
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/c",
    "/a/\u{fc}",
    "/b",
    "/b/a",
    "/b/b",
    "/c",
    "/zookeeper/quota/a",
    "/zookeeper/quota/a/zookeeper_limits",
    "/zookeeper/quota/a/zookeeper_stats",
];

fn acl(index: usize) -> EncodedAcl<'static> {
    use crate::wire::acl::{Acl, Id, Perms};
    let id = Id { scheme: "ip".into(), id: format!("10.0.0.{index}") };
    match index {
        0 => EncodedAcl::OPEN,
        _ => EncodedAcl::from_list(&[Acl { perms: Perms(3), id }]),
    }
}

/// A znode of the model.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    data: Vec<u8>,
    stat: Stat,
    cversion: i32,
    acl: EncodedAcl<'static>,
}

type Map = BTreeMap<String, Plain>;

struct Model {
    writer: Writer,
    /// The tree after each transaction that some version may need.
    history: BTreeMap<Zxid, Map>,
    counter: u32,
    committed: Zxid,
    oldest: Zxid,
    snapshots: Vec<Zxid>,
}

impl Model {
    fn new() -> Model {
        let writer = writer();
        let mut map = Map::new();
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            let node = writer.node(path).unwrap();
            let acl = writer.tree().acls().list(node.acl()).encoded.clone();
            let stat = node.stat();
            map.insert(path.into(), Plain { data: vec![], stat, cversion: 0, acl });
        }
        Model {
            writer,
            history: BTreeMap::from([(Zxid::ZERO, map)]),
            counter: 0,
            committed: Zxid::ZERO,
            oldest: Zxid::ZERO,
            snapshots: vec![],
        }
    }

    fn newest(&self) -> &Map {
        self.history.last_key_value().unwrap().1
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Apply { ops, session, strict, abort } => {
                self.apply(ops, SESSIONS[*session], *strict, *abort);
            }
            Step::Pop(count) => {
                let above: Vec<Zxid> = self.uncommitted();
                let Some(first) = above.iter().rev().take(*count).next_back() else { return };
                let to = *self.history.range(..*first).next_back().unwrap().0;
                self.writer.pop_above(to);
                self.history.retain(|zxid, _| *zxid <= to);
            }
            Step::Commit(but) => {
                let above = self.uncommitted();
                if let Some(zxid) = above.iter().rev().nth(*but) {
                    self.committed = *zxid;
                }
            }
            Step::Snapshot => self.snapshots.push(self.committed),
            Step::EndSnapshot(index) => {
                if *index < self.snapshots.len() {
                    self.snapshots.remove(*index);
                }
            }
            Step::Reclaim(behind) => self.reclaim(*behind),
        }
    }

    fn uncommitted(&self) -> Vec<Zxid> {
        self.history.keys().copied().filter(|zxid| *zxid > self.committed).collect()
    }

    fn reclaim(&mut self, behind: usize) {
        let zxids: Vec<Zxid> =
            self.history.keys().copied().filter(|zxid| *zxid <= self.committed).collect();
        let oldest = zxids.iter().rev().nth(behind).copied().unwrap_or(self.oldest);
        self.oldest = self.oldest.max(oldest);
        while self.writer.reclaim(self.oldest, &self.snapshots) {}
        let (oldest, snapshots) = (self.oldest, self.snapshots.clone());
        self.history.retain(|zxid, _| *zxid >= oldest || snapshots.contains(zxid));
    }

    fn apply(&mut self, ops: &[Op], session: i64, strict: bool, abort: bool) {
        self.counter += 1;
        let header = header(self.counter, session);
        let mut map = self.newest().clone();
        self.writer.begin(&header).unwrap();
        let mut failed = abort;
        for op in ops {
            let accepted = apply_op(&mut self.writer, &header, &map, op);
            match accepted {
                Ok(()) => change(&mut map, &header, op),
                // A failed operation ends its transaction; outside of strictness it is not tried.
                Err(_) if strict => failed = true,
                Err(_) => {}
            }
        }
        match failed {
            true => self.writer.abort(),
            false => {
                self.writer.finish();
                self.history.insert(header.zxid, map);
            }
        }
    }

    /// Every version that a reader may be at shows what the model has.
    fn check(&self) {
        for (version, map) in &self.history {
            if *version >= self.oldest || self.snapshots.contains(version) {
                check_view(&self.writer.tree().view(*version), map, &self.writer);
            }
        }
        let map = self.newest();
        let totals = self.writer.totals();
        assert_eq!(totals.digest, self.writer.tree().view(Zxid::MAX).compute_digest());
        assert_eq!(totals.node_count, map.len() as u64 + 1);
        let size = |(path, node): (&String, &Plain)| path.chars().count() + node.data.len();
        assert_eq!(totals.data_size, map.iter().map(size).sum::<usize>() as u64);
        let ephemeral = map.values().filter(|node| SESSIONS.contains(&node.stat.ephemeral_owner));
        assert_eq!(totals.ephemeral_count, ephemeral.count() as u64);
        let of = |lifetime: fn(i64) -> bool| -> Vec<&str> {
            let lives = move |node: &Plain| lifetime(node.stat.ephemeral_owner);
            map.iter().filter(|(_, node)| lives(node)).map(|(path, _)| path.as_str()).collect()
        };
        let containers: Vec<&str> =
            self.writer.reapable().containers().map(|(path, _)| path).collect();
        assert_eq!(containers, of(|owner| owner == i64::MIN));
        let ttls: Vec<&str> = self.writer.reapable().ttl_nodes().map(|(path, _)| path).collect();
        assert_eq!(ttls, of(|owner| owner as u64 >> 56 == 0xff));
    }
}

/// Applies an operation, or says why it does not fit: exactly those do not that the model expects.
fn apply_op(writer: &mut Writer, header: &TxnHeader, map: &Map, op: &Op) -> Result<(), TreeError> {
    let txn = match op {
        Op::Create(path, size, kind) => {
            let kind = [EPHEMERAL, PLAIN, CreateKind::Container, CreateKind::Ttl(9)][*kind];
            let parent = path::split(PATHS[*path]).unwrap().0;
            let owner = map.get(parent).map_or(0, |parent| parent.stat.ephemeral_owner);
            // The pipeline refuses children of ephemerals before they are transactions.
            if SESSIONS.contains(&owner) {
                return Err(TreeError::Root);
            }
            create(PATHS[*path], &[7; 40][..*size], kind)
        }
        Op::Delete(path) => delete(PATHS[*path]),
        Op::Set(path, size) => set(PATHS[*path], &[8; 40][..*size], *size as i32),
        Op::SetAcl(path, index) => {
            Txn::SetAcl { path: PATHS[*path], acl: acl(*index), version: *index as i32 }
        }
        Op::Close => Txn::CloseSession { paths: None },
    };
    let result = writer.apply_op(&txn);
    let fits = fits(map, op);
    assert_eq!(result.is_ok(), fits, "{op:?} of {header:?}");
    result
}

fn fits(map: &Map, op: &Op) -> bool {
    let has_child =
        |path: &str| map.keys().any(|other| path::split(other).is_some_and(|s| s.0 == path));
    match op {
        Op::Create(path, ..) => {
            !map.contains_key(PATHS[*path])
                && map.contains_key(path::split(PATHS[*path]).unwrap().0)
        }
        Op::Delete(path) => map.contains_key(PATHS[*path]) && !has_child(PATHS[*path]),
        Op::Set(path, _) | Op::SetAcl(path, _) => map.contains_key(PATHS[*path]),
        Op::Close => true,
    }
}

/// The operation on the model.
fn change(map: &mut Map, header: &TxnHeader, op: &Op) {
    let (zxid, time_ms) = (header.zxid, header.time_ms);
    match op {
        Op::Create(path, size, kind) => {
            let path = PATHS[*path];
            let owner = [header.session, 0, i64::MIN, (0xff00_u64 << 48 | 9).cast_signed()][*kind];
            let stat = Stat {
                czxid: zxid,
                mzxid: zxid,
                pzxid: zxid,
                ctime_ms: time_ms,
                mtime_ms: time_ms,
                ephemeral_owner: owner,
                ..Stat::default()
            };
            let data = vec![7; *size];
            map.insert(path.into(), Plain { data, stat, cversion: 0, acl: EncodedAcl::OPEN });
            let parent = map.get_mut(path::split(path).unwrap().0).unwrap();
            parent.cversion += 1;
            parent.stat.pzxid = zxid;
            if path.ends_with("stats") {
                count_anew(map);
            }
            count(map, path, 1, *size as i64);
        }
        Op::Delete(path) => remove(map, PATHS[*path], zxid),
        Op::Set(path, size) => {
            let node = map.get_mut(PATHS[*path]).unwrap();
            let delta = *size as i64 - node.data.len() as i64;
            node.data = vec![8; *size];
            node.stat.mzxid = zxid;
            node.stat.mtime_ms = time_ms;
            node.stat.version = *size as i32;
            count(map, PATHS[*path], 0, delta);
        }
        Op::SetAcl(path, index) => {
            let node = map.get_mut(PATHS[*path]).unwrap();
            node.acl = acl(*index);
            node.stat.aversion = *index as i32;
        }
        Op::Close => {
            let owned = |(_, node): &(&String, &Plain)| node.stat.ephemeral_owner == header.session;
            let paths: Vec<String> =
                map.iter().filter(owned).map(|(path, _)| path.clone()).collect();
            paths.iter().for_each(|path| remove(map, path, zxid));
        }
    }
}

fn remove(map: &mut Map, path: &str, zxid: Zxid) {
    let node = map.remove(path).unwrap();
    map.get_mut(path::split(path).unwrap().0).unwrap().stat.pzxid = zxid;
    count(map, path, -1, -(node.data.len() as i64));
}

const STATS: &str = "/zookeeper/quota/a/zookeeper_stats";

fn below_a(path: &str) -> bool {
    path == "/a" || path.starts_with("/a/")
}

fn count_anew(map: &mut Map) {
    let nodes = map.iter().filter(|(path, _)| below_a(path));
    let (count, bytes) = nodes.fold((0, 0), |(c, b), (_, node)| (c + 1, b + node.data.len()));
    map.get_mut(STATS).unwrap().data = format!("count={count},bytes={bytes}").into_bytes();
}

/// The only quota that the paths allow is on `/a`.
fn count(map: &mut Map, path: &str, count_delta: i64, bytes_delta: i64) {
    let limited = map.contains_key("/zookeeper/quota/a/zookeeper_limits");
    let Some(stats) = map.get_mut(STATS).filter(|_| limited && below_a(path)) else { return };
    let text = String::from_utf8_lossy(&stats.data).into_owned();
    let number = |name: &str| -> i64 {
        let mut pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map_or(-1, |(_, number)| number.parse().unwrap())
    };
    let (count, bytes) = (number("count") + count_delta, number("bytes") + bytes_delta);
    stats.data = format!("count={count},bytes={bytes}").into_bytes();
}

fn check_view(view: &View<'_>, map: &Map, writer: &Writer) {
    let mut seen = Map::new();
    for shard in 0..writer.tree().shard_count() {
        view.for_each_in_shard(shard, |node| {
            let acl = writer.tree().acls().list(node.acl()).encoded.clone();
            let data = node.data().unwrap().to_vec();
            let owner = node.owner();
            let shown = if SESSIONS.contains(&owner) { owner } else { 0 };
            assert_eq!(node.stat().ephemeral_owner, shown);
            let stat = Stat { ephemeral_owner: owner, ..node.stat() };
            let plain = Plain { data, stat, cversion: node.meta().cversion, acl };
            assert!(seen.insert(node.path().to_owned(), plain).is_none());
            let found = view.node(node.path()).unwrap();
            assert!(found.is_same(node));
            let names: Vec<&str> = node.children().iter().collect();
            let below = |path: &'_ String| path::split(path).is_some_and(|s| s.0 == node.path());
            let expected: Vec<&str> = map
                .keys()
                .filter(|path| below(path))
                .map(|path| path::split(path).unwrap().1)
                .collect();
            assert_eq!(names, expected);
        });
    }
    let mut expected = map.clone();
    for (path, node) in &mut expected {
        let below = |other: &&String| path::split(other).is_some_and(|s| s.0 == path);
        let count = map.keys().filter(below).count() as i32;
        node.stat.num_children = count;
        node.stat.cversion = 2 * node.cversion - count;
        node.stat.data_length = node.data.len() as i32;
    }
    assert_eq!(seen, expected, "at {}", view.version());
    for session in SESSIONS {
        let children = view.ephemerals(session);
        let owned: Vec<&str> = children.iter().collect();
        let is_owned = |(_, node): &(&String, &Plain)| node.stat.ephemeral_owner == session;
        let expected: Vec<&str> = map.iter().filter(is_owned).map(|(path, _)| &**path).collect();
        assert_eq!(owned, expected);
    }
    assert_eq!(view.all_children_count("/"), Some(map.len() as u64 - 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_active_version_shows_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
            model.check();
        }
        // With nothing left to need it, everything old goes.
        model.committed = *model.history.last_key_value().unwrap().0;
        model.snapshots.clear();
        model.reclaim(0);
        model.check();
        prop_assert_eq!(model.writer.journal_len(), 0);
        let lists: std::collections::BTreeSet<&[u8]> =
            model.newest().values().map(|node| node.acl.as_bytes()).collect();
        prop_assert!(model.writer.acl_count() <= lists.len() + 1);
    }
}
