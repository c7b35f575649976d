use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const A: Watcher = Watcher(1);
const B: Watcher = Watcher(2);

fn told(watches: &mut Watches, kind: EventKind, path: &str) -> Vec<u64> {
    let mut told = Vec::new();
    let count = watches.trigger(kind, path, |watcher| told.push(watcher.0));
    assert_eq!(count, told.len());
    told
}

/// Adds the watches, then triggers each event and compares who is told.
fn check(adds: &[(&str, Watcher, WatchKind)], events: &[(EventKind, &str, &[u64])]) {
    let mut watches = Watches::new(7);
    for &(path, watcher, kind) in adds {
        watches.add(path, watcher, kind);
    }
    for &(kind, path, expected) in events {
        assert_eq!(told(&mut watches, kind, path), expected, "{kind:?} {path}");
    }
}

use EventKind::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
use WatchKind::{Child, Data, Persistent, PersistentRecursive};

#[test]
fn a_standard_watch_fires_once() {
    check(
        &[("/a", A, Data), ("/a", B, Data), ("/a", A, Data)],
        &[(NodeDataChanged, "/b", &[]), (NodeDataChanged, "/a", &[1, 2]), (NodeDeleted, "/a", &[])],
    );
}

#[test]
fn tables_answer_to_their_own_events() {
    check(
        &[("/a", A, Child), ("/a", B, Data)],
        &[
            (NodeDataChanged, "/a", &[2]),
            (NodeDataChanged, "/a", &[]),
            (NodeChildrenChanged, "/a", &[1]),
            (NodeChildrenChanged, "/a", &[]),
        ],
    );
}

#[test]
fn a_deletion_tells_a_connection_in_both_tables_once() {
    check(
        &[("/a", A, Child), ("/a", A, Data), ("/a", B, Child)],
        &[(NodeDeleted, "/a", &[1, 2]), (NodeDeleted, "/a", &[])],
    );
}

#[test]
fn a_standard_and_a_persistent_watch_are_one_event() {
    check(
        &[("/a", A, Persistent), ("/a", A, Data), ("/a", A, Child)],
        &[
            (NodeDataChanged, "/a", &[1]),
            (NodeChildrenChanged, "/a", &[1]),
            (NodeDeleted, "/a", &[1]),
            (NodeCreated, "/a", &[1]),
            (NodeCreated, "/a/b", &[]),
        ],
    );
}

#[test]
fn a_recursive_watch_sees_all_below_but_never_that_children_changed() {
    check(
        &[("/a", A, PersistentRecursive), ("/", B, PersistentRecursive), ("/a/b", A, Data)],
        &[
            (NodeCreated, "/a/b/c", &[1, 2]),
            (NodeChildrenChanged, "/a/b", &[]),
            (NodeChildrenChanged, "/a", &[]),
            (NodeDataChanged, "/a", &[1, 2]),
            // Its own standard watch on the path and the recursive one above it are one event.
            (NodeDeleted, "/a/b", &[1, 2]),
            (NodeDeleted, "/ab", &[2]),
            (NodeCreated, "/", &[2]),
        ],
    );
}

#[test]
fn removal_by_type_takes_only_that_type() {
    let mut watches = Watches::new(7);
    for kind in [Data, Child, Persistent, PersistentRecursive] {
        watches.add("/a", A, kind);
    }
    for kind in [
        WatcherType::Data,
        WatcherType::Children,
        WatcherType::Persistent,
        WatcherType::PersistentRecursive,
    ] {
        assert!(watches.contains("/a", A, WatcherType::Any));
        assert!(watches.contains("/a", A, kind));
        assert!(!watches.contains("/a", B, kind));
        assert!(watches.remove("/a", A, kind));
        assert!(!watches.remove("/a", A, kind));
        assert!(!watches.contains("/a", A, kind));
    }
    assert!(!watches.contains("/a", A, WatcherType::Any));
    assert_eq!(watches.counts(), WatchCounts::default());
    watches.add("/a", A, Persistent);
    assert!(watches.remove("/a", A, WatcherType::Any));
    assert!(told(&mut watches, NodeDeleted, "/a").is_empty());
}

#[test]
fn what_a_client_missed_by_list() {
    let zxid = Zxid::from_raw;
    let stat = Stat { mzxid: zxid(5), pzxid: zxid(6), ..Stat::default() };
    let cases = [
        (CatchUpList::Data, None, 9, CatchUp::Fire(NodeDeleted)),
        (CatchUpList::Data, Some(&stat), 4, CatchUp::Fire(NodeDataChanged)),
        (CatchUpList::Data, Some(&stat), 5, CatchUp::Register(Data)),
        (CatchUpList::Data, Some(&stat), -1, CatchUp::Fire(NodeDataChanged)),
        (CatchUpList::Exist, None, 0, CatchUp::Register(Data)),
        (CatchUpList::Exist, Some(&stat), 9, CatchUp::Fire(NodeCreated)),
        (CatchUpList::Child, None, 9, CatchUp::Fire(NodeDeleted)),
        (CatchUpList::Child, Some(&stat), 5, CatchUp::Fire(NodeChildrenChanged)),
        (CatchUpList::Child, Some(&stat), 6, CatchUp::Register(Child)),
    ];
    for (list, stat, relative, expected) in cases {
        assert_eq!(catch_up(list, stat, zxid(relative)), expected, "{list:?} {relative}");
    }
}

/// 1M watches are held to what the head of the module promises.
#[test]
fn a_watch_takes_28_bytes_and_a_path_32() {
    assert_eq!(size_of::<Watch>(), 28);
    assert!(size_of::<PathEntry>() <= 32);
}

#[test]
fn closing_the_last_connection_gives_memory_back() {
    let mut watches = Watches::new(7);
    for index in 0..10_000 {
        watches.add(&format!("/{index}"), A, Data);
    }
    watches.remove_connection(A);
    while watches.clean(100) {}
    assert_eq!(watches.counts(), WatchCounts::default());
    assert_eq!(watches.watches.capacity(), 0);
    watches.add("/a", A, Data);
    assert_eq!(told(&mut watches, NodeDataChanged, "/a"), [1]);
}

#[test]
fn a_closed_connection_with_many_watches_goes_by_and_by_and_is_told_nothing() {
    let count = CLEAN_COUNT_MAX + 1000;
    let mut watches = Watches::new(7);
    for index in 0..count {
        watches.add(&format!("/{index}"), A, PersistentRecursive);
    }
    watches.remove_connection(A);
    assert_eq!(watches.counts().data_watches, 1000);
    assert!(told(&mut watches, NodeDataChanged, &format!("/{}", count - 1)).is_empty());
    assert_eq!(watches.part(0, 1 << 20).into_iter().flatten().count(), 0);
    // The number may come back, and has nothing of what was.
    watches.add("/b", A, Data);
    assert!(!watches.contains(&format!("/{}", count - 1), A, WatcherType::Any));
    for _ in 0..count {
        told(&mut watches, NodeCreated, "/other");
    }
    let counts = WatchCounts { connections: 1, paths: 1, data_watches: 1, child_watches: 0 };
    assert_eq!(watches.counts(), counts);
    assert!(!watches.clean(1));
}

/// One of Apache's two managers, the slow and obvious way.
#[derive(Default)]
struct Table(BTreeMap<(String, u64), BTreeSet<u8>>);

const STANDARD: u8 = 0;
const PERSISTENT: u8 = 1;
const RECURSIVE: u8 = 2;

impl Table {
    fn add(&mut self, path: &str, watcher: u64, mode: u8) {
        self.0.entry((path.to_owned(), watcher)).or_default().insert(mode);
    }

    fn trigger(&mut self, path: &str) -> BTreeSet<u64> {
        let mut told = BTreeSet::new();
        for ((at, watcher), modes) in &mut self.0 {
            if at == path {
                told.insert(*watcher);
                modes.remove(&STANDARD);
            } else if modes.contains(&RECURSIVE) && path::ancestors(path).any(|above| above == at) {
                told.insert(*watcher);
            }
        }
        self.0.retain(|_, modes| !modes.is_empty());
        told
    }

    fn contains(&self, path: &str, watcher: u64, mode: Option<u8>) -> bool {
        let modes = self.0.get(&(path.to_owned(), watcher));
        modes.is_some_and(|modes| mode.is_none_or(|mode| modes.contains(&mode)))
    }

    fn remove(&mut self, path: &str, watcher: u64, mode: Option<u8>) -> bool {
        let had = self.contains(path, watcher, mode);
        if let Some(modes) = self.0.get_mut(&(path.to_owned(), watcher)) {
            modes.retain(|&other| mode.is_some_and(|mode| mode != other));
        }
        self.0.retain(|_, modes| !modes.is_empty());
        had
    }
}

/// Apache's pair of managers (`DataTree.java`).
#[derive(Default)]
struct Model {
    data: Table,
    child: Table,
}

impl Model {
    fn add(&mut self, path: &str, watcher: u64, kind: WatchKind) {
        match kind {
            Data => self.data.add(path, watcher, STANDARD),
            Child => self.child.add(path, watcher, STANDARD),
            Persistent => {
                self.data.add(path, watcher, PERSISTENT);
                self.child.add(path, watcher, PERSISTENT);
            }
            PersistentRecursive => self.data.add(path, watcher, RECURSIVE),
        }
    }

    fn trigger(&mut self, kind: EventKind, path: &str) -> BTreeSet<u64> {
        match kind {
            NodeCreated | NodeDataChanged => self.data.trigger(path),
            NodeChildrenChanged => self.child.trigger(path),
            NodeDeleted => &self.data.trigger(path) | &self.child.trigger(path),
        }
    }

    fn remove(&mut self, path: &str, watcher: u64, kind: WatcherType) -> bool {
        match kind {
            WatcherType::Children => self.child.remove(path, watcher, Some(STANDARD)),
            WatcherType::Data => self.data.remove(path, watcher, Some(STANDARD)),
            WatcherType::PersistentRecursive => self.data.remove(path, watcher, Some(RECURSIVE)),
            WatcherType::Persistent => {
                let data = self.data.remove(path, watcher, Some(PERSISTENT));
                self.child.remove(path, watcher, Some(PERSISTENT)) || data
            }
            WatcherType::Any => {
                let data = self.data.remove(path, watcher, None);
                self.child.remove(path, watcher, None) || data
            }
        }
    }

    fn counts(&self) -> WatchCounts {
        let keys = || self.data.0.keys();
        WatchCounts {
            connections: keys().map(|(_, watcher)| watcher).collect::<BTreeSet<_>>().len(),
            paths: keys().map(|(path, _)| path).collect::<BTreeSet<_>>().len(),
            data_watches: keys().len(),
            child_watches: self.child.0.len(),
        }
    }

    fn by_path(&self) -> BTreeSet<(String, u64)> {
        self.data.0.keys().cloned().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(&'static str, u64, WatchKind),
    Remove(&'static str, u64, WatcherType),
    Trigger(EventKind, &'static str),
    Close(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/c"]);
    let kind = prop::sample::select(vec![Data, Child, Persistent, PersistentRecursive]);
    let event =
        prop::sample::select(vec![NodeCreated, NodeDeleted, NodeDataChanged, NodeChildrenChanged]);
    let watcher_type = prop::sample::select(vec![
        WatcherType::Children,
        WatcherType::Data,
        WatcherType::Any,
        WatcherType::Persistent,
        WatcherType::PersistentRecursive,
    ]);
    prop_oneof![
        6 => (path(), 0..4_u64, kind)
            .prop_map(|(path, watcher, kind)| Step::Add(path, watcher, kind)),
        2 => (path(), 0..4_u64, watcher_type)
            .prop_map(|(path, watcher, kind)| Step::Remove(path, watcher, kind)),
        4 => (event, path()).prop_map(|(event, path)| Step::Trigger(event, path)),
        1 => (0..4_u64).prop_map(Step::Close),
    ]
}

proptest! {
    #[test]
    fn the_table_does_as_apaches_two_managers(steps in prop::collection::vec(step(), 0..120)) {
        let mut watches = Watches::new(7);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Add(path, watcher, kind) => {
                    watches.add(path, Watcher(watcher), kind);
                    model.add(path, watcher, kind);
                }
                Step::Remove(path, watcher, kind) => {
                    let contained = watches.contains(path, Watcher(watcher), kind);
                    prop_assert_eq!(contained, model.remove(path, watcher, kind));
                    prop_assert_eq!(watches.remove(path, Watcher(watcher), kind), contained);
                }
                Step::Trigger(kind, path) => {
                    let told = told(&mut watches, kind, path);
                    let set: BTreeSet<u64> = told.iter().copied().collect();
                    prop_assert_eq!(set.len(), told.len());
                    prop_assert_eq!(set, model.trigger(kind, path));
                }
                Step::Close(watcher) => {
                    watches.remove_connection(Watcher(watcher));
                    model.data.0.retain(|(_, other), _| *other != watcher);
                    model.child.0.retain(|(_, other), _| *other != watcher);
                }
            }
            prop_assert_eq!(watches.counts(), model.counts());
            let mut parts = BTreeSet::new();
            for start in (0..).step_by(3) {
                let Some(part) = watches.part(start, 3) else { break };
                parts.extend(part.map(|(path, watcher)| (path.to_owned(), watcher.0)));
            }
            prop_assert_eq!(parts, model.by_path());
        }
    }
}
