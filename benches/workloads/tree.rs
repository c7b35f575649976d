//! The tree: reads at a version, and transactions applied to it.

use std::hint::black_box;
use std::sync::Arc;

use ringkeeper::time::Time;
use ringkeeper::tree::builder::{Builder, Loaded};
use ringkeeper::tree::record::Meta;
use ringkeeper::tree::watch::{WatchKind, Watcher, Watches};
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::response::EventKind;
use ringkeeper::wire::txn::{CreateKind, CreateTxn, Txn, TxnHeader};
use ringkeeper::zxid::Zxid;

use super::frames::DATA;
use super::{Meter, Row, Run};

pub const CONFIG: TreeConfig = TreeConfig { seed: 1, extended_types: true };
pub const PER_PARENT: usize = 1000;
/// How many transactions are committed together, and then reclaimed.
const BATCH: u32 = 64;
/// Connections that watch one znode.
const WATCHERS: u32 = 10_000;

pub const ROWS: &[Row] = &[
    Row { name: "tree/get", count: BATCH, per: "read", make: get },
    Row { name: "tree/list 1000 children", count: 1, per: "read", make: list },
    Row { name: "tree/apply set", count: BATCH, per: "txn", make: set },
    Row { name: "tree/apply create and delete", count: BATCH, per: "pair", make: create },
    Row { name: "tree/apply multi of 8", count: BATCH, per: "txn", make: multi },
    Row { name: "watch/tell 10000", count: WATCHERS, per: "event", make: tell_all },
    Row { name: "watch/add and tell once", count: BATCH, per: "watch", make: tell_once },
    Row { name: "watch/tell nobody", count: BATCH, per: "event", make: tell_nobody },
];

pub fn parent(n: usize) -> String {
    format!("/p{n:06}")
}

pub fn child(n: usize) -> String {
    format!("n{n:010}")
}

/// A tree of `parents` parents with a thousand children each, as it is after a start.
pub fn grown(parents: usize) -> Writer {
    let count = parents * (PER_PARENT + 1) + 4;
    let mut builder = Builder::new(CONFIG, count, Time::default());
    let meta = Meta { acl: builder.add_acl(&EncodedAcl::OPEN), ..Meta::default() };
    let names: Vec<String> = (0..PER_PARENT).map(child).collect();
    let tops: Vec<String> = (0..parents).map(|n| parent(n)[1..].to_owned()).collect();
    let mut part = builder.part();
    let mut add = |path: &str, children: &[&str]| {
        let children = children.iter().copied();
        part.add(Loaded { path, data: Some(&DATA), meta, children }).expect("paths differ");
    };
    let tops: Vec<&str> = tops.iter().map(String::as_str).chain(["zookeeper"]).collect();
    add("/", &tops);
    add("/zookeeper", &["config", "quota"]);
    add("/zookeeper/config", &[]);
    add("/zookeeper/quota", &[]);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for parent in (0..parents).map(parent) {
        add(&parent, &names);
        names.iter().for_each(|name| add(&format!("{parent}/{name}"), &[]));
    }
    let sums = [part.finish()];
    builder.finish(sums, Zxid::new(1, 0), None).expect("children are named")
}

/// Znodes in no order that a cache knows.
#[derive(Clone, Copy)]
pub struct Paths {
    parents: usize,
    n: usize,
}

impl Paths {
    pub fn new(parents: usize) -> Paths {
        Paths { parents, n: 0 }
    }

    pub fn take(&mut self, count: u32) -> Vec<String> {
        (0..count).map(|_| self.next_path()).collect()
    }

    fn next_path(&mut self) -> String {
        self.n = (self.n + 61_803) % (self.parents * PER_PARENT);
        format!("{}/{}", parent(self.n / PER_PARENT), child(self.n % PER_PARENT))
    }
}

const PARENTS: usize = 100;

/// A writer and the number of its last transaction.
struct Applying {
    writer: Writer,
    counter: u32,
}

impl Applying {
    fn new() -> Applying {
        let mut writer = grown(PARENTS);
        writer.set_watched(true);
        Applying { writer, counter: 0 }
    }

    fn apply(&mut self, txn: &Txn<'_>) {
        self.counter += 1;
        let zxid = Zxid::new(1, self.counter);
        let header = TxnHeader { session: 1, cxid: 1, zxid, time_ms: 1 };
        black_box(self.writer.apply(&header, txn)).expect("the transaction fits");
    }

    /// What a server does when a group is committed and read by all.
    fn reclaim(&mut self) {
        while self.writer.reclaim(Zxid::new(1, self.counter), &[]) {}
    }
}

fn get() -> Run {
    let writer = grown(PARENTS);
    let tree = Arc::clone(writer.tree());
    let mut paths = Paths::new(PARENTS);
    Box::new(move |meter: &mut dyn Meter| {
        let _ = &writer;
        let paths = paths.take(BATCH);
        meter.measure(&mut || {
            for path in &paths {
                let view = tree.view(Zxid::MAX);
                black_box(view.node(path).map(|node| node.stat())).expect("it is there");
            }
        });
    })
}

fn list() -> Run {
    let writer = grown(PARENTS);
    let tree = Arc::clone(writer.tree());
    Box::new(move |meter: &mut dyn Meter| {
        let _ = &writer;
        meter.measure(&mut || {
            let view = tree.view(Zxid::MAX);
            let node = view.node("/p000050").expect("it is there");
            let bytes: usize = node.children().iter().map(str::len).sum();
            assert_eq!(bytes, PER_PARENT * child(0).len());
        });
    })
}

fn set() -> Run {
    let mut applying = Applying::new();
    let mut paths = Paths::new(PARENTS);
    Box::new(move |meter: &mut dyn Meter| {
        let paths = paths.take(BATCH);
        meter.measure(&mut || {
            for path in &paths {
                applying.apply(&Txn::SetData { path, data: Some(&DATA), version: 1 });
            }
            applying.reclaim();
        });
    })
}

fn create() -> Run {
    let mut applying = Applying::new();
    let mut paths = Paths::new(PARENTS);
    Box::new(move |meter: &mut dyn Meter| {
        let paths: Vec<String> = paths.take(BATCH).iter().map(|it| format!("{it}x")).collect();
        meter.measure(&mut || {
            for path in &paths {
                let (data, acl) = (Some(&DATA[..]), EncodedAcl::OPEN);
                let kind = CreateKind::Plain { ephemeral: false, with_stat: false };
                let create = CreateTxn { path, data, acl, parent_cversion: -1, kind };
                applying.apply(&Txn::Create(create));
            }
            applying.reclaim();
            for path in &paths {
                applying.apply(&Txn::Delete { path, by_reaper: false });
            }
            applying.reclaim();
        });
    })
}

fn multi() -> Run {
    let mut applying = Applying::new();
    let mut paths = Paths::new(PARENTS);
    Box::new(move |meter: &mut dyn Meter| {
        let paths = paths.take(BATCH * 8);
        let txns: Vec<Txn<'_>> = paths.chunks(8).map(|paths| Txn::Multi(sets(paths))).collect();
        meter.measure(&mut || {
            txns.iter().for_each(|txn| applying.apply(txn));
            applying.reclaim();
        });
    })
}

fn sets(paths: &[String]) -> Vec<Txn<'_>> {
    paths.iter().map(|path| Txn::SetData { path, data: Some(&DATA), version: 1 }).collect()
}

/// Tells of a change of `path`; how many were told.
fn tell(watches: &mut Watches, path: &str) -> u32 {
    let mut told = 0;
    watches.trigger(EventKind::NodeDataChanged, path, |watcher| {
        black_box(watcher);
        told += 1;
    });
    told
}

fn tell_all() -> Run {
    let mut watches = Watches::new(7);
    for watcher in 0..WATCHERS {
        watches.add("/watched", Watcher(u64::from(watcher)), WatchKind::Persistent);
    }
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || assert_eq!(tell(&mut watches, "/watched"), WATCHERS));
    })
}

fn tell_once() -> Run {
    let mut watches = Watches::new(7);
    let mut paths = Paths::new(PARENTS);
    Box::new(move |meter: &mut dyn Meter| {
        let paths = paths.take(BATCH);
        meter.measure(&mut || {
            paths.iter().for_each(|path| watches.add(path, Watcher(1), WatchKind::Data));
            assert_eq!(paths.iter().map(|path| tell(&mut watches, path)).sum::<u32>(), BATCH);
        });
    })
}

/// Most changes are of znodes that nobody watches, while others are watched.
fn tell_nobody() -> Run {
    let mut watches = Watches::new(7);
    for path in Paths::new(PARENTS).take(1000) {
        watches.add(&path, Watcher(1), WatchKind::Data);
    }
    Box::new(move |meter: &mut dyn Meter| {
        let paths: Vec<String> =
            (0..BATCH).map(|n| format!("/elsewhere/{}", child(n as usize))).collect();
        meter.measure(&mut || {
            assert_eq!(paths.iter().map(|path| tell(&mut watches, path)).sum::<u32>(), 0);
        });
    })
}
