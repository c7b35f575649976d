//! The watches of one client core: who is told when a path changes.
//!
//! A *watch* is one connection's registration at one path. It carries the modes in which it was
//! asked for, in two tables as Apache has them (`WatchManager.java`, `DataTree.java`):
//!
//! ```text
//! table   modes                               events
//! data    standard, persistent, recursive     NodeCreated, NodeDataChanged, NodeDeleted
//! child   standard, persistent                NodeChildrenChanged, NodeDeleted
//! ```
//! A persistent watch sits in both tables. A recursive one sits in the data table alone, and is
//! matched on every ancestor of the changed path. Standard modes are spent when they fire.
//!
//! Sketch: 1M watches are 1M records of 28 bytes in chunks plus 4 bytes and a control byte
//! each in the table that finds them, so about 40 bytes and no allocation per watch; a path
//! costs another 32 bytes and its text once, however many watch it. Each record is on two lists:
//! its path's, which a trigger walks, and its connection's, which a close walks. The list of a
//! path has its recursive watches first, so that a change below a busy path passes by the others.
//! A trigger on an unwatched path is one lookup, and one per ancestor where any watch is recursive.
//!
//! The table never iterates a hash table: lists and dumps have an order that follows from the
//! calls alone.

mod slab;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::tree::watch::slab::{Index, NIL, Slab};
use crate::wire::path;
use crate::wire::request::{AddWatchMode, WatcherType};
use crate::wire::response::EventKind;
use crate::wire::stat::Stat;
use crate::zxid::Zxid;

/// A connection, as its core numbers it; a number must not be used again while it has watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watcher(pub u64);

/// How a path is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Once, as getData and exists ask for.
    Data,
    /// Once, as getChildren asks for.
    Child,
    /// Data and children, until removed.
    Persistent,
    /// The path and all below it, until removed.
    PersistentRecursive,
}

impl From<AddWatchMode> for WatchKind {
    fn from(mode: AddWatchMode) -> WatchKind {
        match mode {
            AddWatchMode::Persistent => WatchKind::Persistent,
            AddWatchMode::PersistentRecursive => WatchKind::PersistentRecursive,
        }
    }
}

/// How much there is in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Connections that watch something in the data table.
    pub connections: usize,
    /// Paths that somebody watches in the data table.
    pub paths: usize,
    /// Watches in the data table: pairs of the two. What `wchs` shows, as Apache does.
    pub data_watches: usize,
    /// Watches in the child table.
    pub child_watches: usize,
}

/// A set of modes in both tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Modes(u8);

impl Modes {
    const NONE: Modes = Modes(0);
    const DATA_STANDARD: Modes = Modes(1);
    const RECURSIVE: Modes = Modes(4);
    const CHILD_STANDARD: Modes = Modes(8);

    const STANDARD: Modes = Modes(1 | 8);
    /// One bit in each table.
    const PERSISTENT: Modes = Modes(2 | 16);
    const DATA: Modes = Modes(1 | 2 | 4);
    const CHILD: Modes = Modes(8 | 16);
    const ALL: Modes = Modes(31);

    const fn of_kind(kind: WatchKind) -> Modes {
        match kind {
            WatchKind::Data => Modes::DATA_STANDARD,
            WatchKind::Child => Modes::CHILD_STANDARD,
            WatchKind::Persistent => Modes::PERSISTENT,
            WatchKind::PersistentRecursive => Modes::RECURSIVE,
        }
    }

    const fn of_type(kind: WatcherType) -> Modes {
        match kind {
            WatcherType::Children => Modes::CHILD_STANDARD,
            WatcherType::Data => Modes::DATA_STANDARD,
            WatcherType::Any => Modes::ALL,
            WatcherType::Persistent => Modes::PERSISTENT,
            WatcherType::PersistentRecursive => Modes::RECURSIVE,
        }
    }

    /// The table that an event looks at; a deletion looks at both.
    const fn of_event(kind: EventKind) -> Modes {
        match kind {
            EventKind::NodeCreated | EventKind::NodeDataChanged => Modes::DATA,
            EventKind::NodeChildrenChanged => Modes::CHILD,
            EventKind::NodeDeleted => Modes::ALL,
        }
    }

    const fn intersects(self, other: Modes) -> bool {
        self.0 & other.0 != 0
    }

    const fn with(self, other: Modes) -> Modes {
        Modes(self.0 | other.0)
    }

    const fn without(self, other: Modes) -> Modes {
        Modes(self.0 & !other.0)
    }
}

/// The lists that a watch is on.
#[derive(Clone, Copy)]
enum List {
    Path = 0,
    Connection = 1,
}

#[derive(Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

/// One connection at one path.
struct Watch {
    /// Who and where: indices, by `List`.
    of: [u32; 2],
    links: [Links; 2],
    modes: Modes,
}

/// A list of watches: the first and the last of them.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NIL, last: NIL };

struct PathEntry {
    path: Box<str>,
    watches: Ends,
    /// How many watches have a mode in the data table.
    data_count: u32,
}

struct Connection {
    watcher: Watcher,
    /// The number of the last trigger that told it, or `CLOSED`.
    told_by: u64,
    watches: Ends,
    /// How many watches have a mode in the data table.
    data_count: u32,
}

/// Later than every trigger: a closed connection is never told anything.
const CLOSED: u64 = u64::MAX;

/// How many watches of closed connections each call removes besides its own work. More than one,
/// so that they are gone before as many new ones have come.
const CLEAN_COUNT: usize = 4;

/// How many watches a close removes at once: a few milliseconds' work.
pub const CLEAN_COUNT_MAX: usize = 4096;

/// All watches of one client core.
pub struct Watches {
    /// Keys the hashes, so that clients cannot choose paths that collide.
    seed: u64,
    watches: Slab<Watch>,
    paths: Slab<PathEntry>,
    connections: Slab<Connection>,
    /// Connections that are closed and not yet rid of their watches.
    closed: Vec<u32>,
    path_index: Index,
    connection_index: Index,
    /// Finds a watch by its connection and path.
    watch_index: Index,
    recursive_count: usize,
    trigger_count: u64,
    counts: WatchCounts,
}

impl Watches {
    /// No watches; `seed` should be random in production.
    pub fn new(seed: u64) -> Watches {
        Watches {
            seed,
            watches: Slab::new(),
            paths: Slab::new(),
            connections: Slab::new(),
            closed: Vec::new(),
            path_index: Index::new(),
            connection_index: Index::new(),
            watch_index: Index::new(),
            recursive_count: 0,
            trigger_count: 0,
            counts: WatchCounts { connections: 0, paths: 0, data_watches: 0, child_watches: 0 },
        }
    }

    /// How much there is.
    pub const fn counts(&self) -> WatchCounts {
        self.counts
    }

    /// Lets `watcher` watch `path` in `kind`, besides what it watches already.
    pub fn add(&mut self, path: &str, watcher: Watcher, kind: WatchKind) {
        self.clean(CLEAN_COUNT);
        let path = self.path_or_insert(path);
        let connection = self.connection_or_insert(watcher);
        let index = match self.find_watch(path, connection) {
            Some(index) => index,
            None => self.insert_watch(path, connection),
        };
        let modes = self.watches[index].modes.with(Modes::of_kind(kind));
        self.set_modes(index, modes);
    }

    /// Whether `watcher` has a watch of the type at `path`: checkWatches, `NoWatcher` if not.
    ///
    /// For `Persistent` the data table alone decides, as in Apache; the tables agree anyway.
    pub fn contains(&self, path: &str, watcher: Watcher, kind: WatcherType) -> bool {
        self.find(path, watcher)
            .is_some_and(|index| self.watches[index].modes.intersects(Modes::of_type(kind)))
    }

    /// Removes `watcher`'s watches of the type at `path`. Whether there were any: removeWatches,
    /// `NoWatcher` if not.
    pub fn remove(&mut self, path: &str, watcher: Watcher, kind: WatcherType) -> bool {
        let Some(index) = self.find(path, watcher) else { return false };
        let modes = self.watches[index].modes;
        let left = modes.without(Modes::of_type(kind));
        self.set_modes(index, left);
        left != modes
    }

    /// Removes all watches of a connection that is closed; it is told nothing from here on.
    ///
    /// Beyond [`CLEAN_COUNT_MAX`] watches the rest is removed by and by, with the calls that
    /// follow, so that nobody waits for it; until then it is counted.
    pub fn remove_connection(&mut self, watcher: Watcher) {
        let Some(connection) = self.find_connection(watcher) else { return };
        self.connection_index.remove(self.hash(watcher), connection);
        self.connections[connection].told_by = CLOSED;
        self.closed.push(connection);
        self.clean(CLEAN_COUNT_MAX);
    }

    /// Removes up to so many watches of closed connections. Whether there are more.
    pub fn clean(&mut self, watch_count_max: usize) -> bool {
        for _ in 0..watch_count_max {
            let Some(&connection) = self.closed.last() else { break };
            let first = self.connections[connection].watches.first;
            if first != NIL {
                self.set_modes(first, Modes::NONE);
                continue;
            }
            self.closed.pop();
            self.connections.remove(connection);
            if self.watch_index.is_empty() {
                self.release();
            }
        }
        !self.closed.is_empty()
    }

    /// Calls `tell` for each connection that is to be told of `kind` at `path`, once each and in
    /// a fixed order, and spends the standard watches that fired. Returns how many were told.
    ///
    /// A transaction triggers, in this order: create `NodeCreated` at the path and
    /// `NodeChildrenChanged` at its parent; delete `NodeDeleted` and the same; setData
    /// `NodeDataChanged`. Whether a connection may read the node is for `tell` to say: its watch
    /// is spent either way.
    pub fn trigger(&mut self, kind: EventKind, path: &str, mut tell: impl FnMut(Watcher)) -> usize {
        if self.watch_index.is_empty() {
            return 0;
        }
        self.clean(CLEAN_COUNT);
        self.trigger_count += 1;
        let mut told = match self.find_path(path) {
            Some(index) => self.trigger_at(index, Modes::of_event(kind), &mut tell),
            None => 0,
        };
        // A recursive watch is told of its children themselves, not that there are others.
        if self.recursive_count > 0 && kind != EventKind::NodeChildrenChanged {
            for ancestor in path::ancestors(path) {
                if let Some(index) = self.find_path(ancestor) {
                    told += self.trigger_recursive(index, &mut tell);
                }
            }
        }
        told
    }

    /// The watches of the data table among `count` places from `start` on, for whoever cannot wait
    /// for all of them; `None` where there are no more places. What comes and goes between two
    /// calls may be in or not.
    pub fn part(
        &self,
        start: usize,
        count: usize,
    ) -> Option<impl Iterator<Item = (&str, Watcher)>> {
        self.watches.get(start)?;
        let watches = (start..start + count).map_while(|index| self.watches.get(index));
        let watches = watches.filter(|watch| watch.modes.intersects(Modes::DATA));
        Some(watches.filter_map(|watch| {
            let [path, connection] = watch.of;
            let connection = &self.connections[connection];
            let is_open = connection.told_by != CLOSED;
            is_open.then(|| (&*self.paths[path].path, connection.watcher))
        }))
    }

    fn trigger_at(&mut self, path: u32, table: Modes, tell: &mut impl FnMut(Watcher)) -> usize {
        let mut told = 0;
        let mut at = self.paths[path].watches.first;
        while at != NIL {
            let watch = &self.watches[at];
            let (next, modes) = (watch.links[List::Path as usize].next, watch.modes);
            if modes.intersects(table) {
                told += self.tell_once(watch.of[List::Connection as usize], tell);
                let spent = Modes(Modes::STANDARD.0 & table.0);
                self.set_modes(at, modes.without(spent));
            }
            at = next;
        }
        told
    }

    fn trigger_recursive(&mut self, path: u32, tell: &mut impl FnMut(Watcher)) -> usize {
        let mut told = 0;
        let mut at = self.paths[path].watches.first;
        while at != NIL && self.watches[at].modes.intersects(Modes::RECURSIVE) {
            let watch = &self.watches[at];
            let next = watch.links[List::Path as usize].next;
            told += self.tell_once(watch.of[List::Connection as usize], tell);
            at = next;
        }
        told
    }

    fn tell_once(&mut self, connection: u32, tell: &mut impl FnMut(Watcher)) -> usize {
        let connection = &mut self.connections[connection];
        if connection.told_by >= self.trigger_count {
            return 0;
        }
        connection.told_by = self.trigger_count;
        tell(connection.watcher);
        1
    }

    /// Gives a watch its modes, and removes it when none is left: the only place that changes
    /// them, so that counts and order hold.
    fn set_modes(&mut self, index: u32, modes: Modes) {
        let watch = &mut self.watches[index];
        let [path, connection] = watch.of;
        let before = std::mem::replace(&mut watch.modes, modes);
        let (was, is) = (before.intersects(Modes::DATA), modes.intersects(Modes::DATA));
        if was != is {
            let paths = &mut self.paths[path].data_count;
            count(is, paths, &mut self.counts.paths);
            let connections = &mut self.connections[connection].data_count;
            count(is, connections, &mut self.counts.connections);
            step(is, &mut self.counts.data_watches);
        }
        let (was, is) = (before.intersects(Modes::CHILD), modes.intersects(Modes::CHILD));
        if was != is {
            step(is, &mut self.counts.child_watches);
        }
        let (was, is) = (before.intersects(Modes::RECURSIVE), modes.intersects(Modes::RECURSIVE));
        if was != is {
            step(is, &mut self.recursive_count);
        }
        if modes == Modes::NONE {
            self.remove_watch(index);
        } else if was != is {
            self.unlink(index, List::Path);
            self.link(index, List::Path, is);
        }
    }

    fn insert_watch(&mut self, path: u32, connection: u32) -> u32 {
        let alone = Links { previous: NIL, next: NIL };
        let watch = Watch { of: [path, connection], links: [alone; 2], modes: Modes::NONE };
        let index = self.watches.insert(watch);
        self.link(index, List::Path, false);
        self.link(index, List::Connection, false);
        let (seed, watches) = (self.seed, &self.watches);
        let hash_of = |index: u32| hash(seed, watches[index].of);
        self.watch_index.insert(hash(seed, [path, connection]), index, hash_of);
        index
    }

    fn remove_watch(&mut self, index: u32) {
        self.unlink(index, List::Path);
        self.unlink(index, List::Connection);
        let of = self.watches[index].of;
        self.watch_index.remove(self.hash(of), index);
        self.watches.remove(index);
        let [path, _] = of;
        if self.paths[path].watches.first == NIL {
            let name = std::mem::take(&mut self.paths[path].path);
            self.path_index.remove(self.hash(&*name), path);
            self.paths.remove(path);
        }
    }

    fn find(&self, path: &str, watcher: Watcher) -> Option<u32> {
        self.find_watch(self.find_path(path)?, self.find_connection(watcher)?)
    }

    fn find_watch(&self, path: u32, connection: u32) -> Option<u32> {
        let of = [path, connection];
        self.watch_index.find(self.hash(of), |index| self.watches[index].of == of)
    }

    fn find_path(&self, path: &str) -> Option<u32> {
        let is_it = |index: u32| *self.paths[index].path == *path;
        self.path_index.find(self.hash(path), is_it)
    }

    fn find_connection(&self, watcher: Watcher) -> Option<u32> {
        let is_it = |index: u32| self.connections[index].watcher == watcher;
        self.connection_index.find(self.hash(watcher), is_it)
    }

    fn path_or_insert(&mut self, path: &str) -> u32 {
        if let Some(index) = self.find_path(path) {
            return index;
        }
        let entry = PathEntry { path: path.into(), watches: EMPTY, data_count: 0 };
        let index = self.paths.insert(entry);
        let (seed, paths) = (self.seed, &self.paths);
        let hash_of = |index: u32| hash(seed, &*paths[index].path);
        self.path_index.insert(hash(seed, path), index, hash_of);
        index
    }

    fn connection_or_insert(&mut self, watcher: Watcher) -> u32 {
        if let Some(index) = self.find_connection(watcher) {
            return index;
        }
        let entry = Connection { watcher, told_by: 0, watches: EMPTY, data_count: 0 };
        let index = self.connections.insert(entry);
        let (seed, connections) = (self.seed, &self.connections);
        let hash_of = |index: u32| hash(seed, connections[index].watcher);
        self.connection_index.insert(hash(seed, watcher), index, hash_of);
        index
    }

    fn ends(&mut self, list: List, of: [u32; 2]) -> &mut Ends {
        match list {
            List::Path => &mut self.paths[of[0]].watches,
            List::Connection => &mut self.connections[of[1]].watches,
        }
    }

    fn link(&mut self, index: u32, list: List, at_front: bool) {
        let of = self.watches[index].of;
        let ends = *self.ends(list, of);
        let (previous, next) = match at_front {
            true => (NIL, ends.first),
            false => (ends.last, NIL),
        };
        self.watches[index].links[list as usize] = Links { previous, next };
        self.join(list, of, previous, index);
        self.join(list, of, index, next);
    }

    fn unlink(&mut self, index: u32, list: List) {
        let watch = &self.watches[index];
        let (of, Links { previous, next }) = (watch.of, watch.links[list as usize]);
        self.join(list, of, previous, next);
    }

    /// Lets `next` follow `previous`; `NIL` stands for the list's ends.
    fn join(&mut self, list: List, of: [u32; 2], previous: u32, next: u32) {
        match previous {
            NIL => self.ends(list, of).first = next,
            previous => self.watches[previous].links[list as usize].next = next,
        }
        match next {
            NIL => self.ends(list, of).last = previous,
            next => self.watches[next].links[list as usize].previous = previous,
        }
    }

    /// Gives memory back that many watches once took. The connections are few, and stay.
    fn release(&mut self) {
        assert_eq!(self.counts, WatchCounts::default());
        self.watches = Slab::new();
        self.paths = Slab::new();
        self.watch_index = Index::new();
        self.path_index = Index::new();
    }

    fn hash<T: Hash>(&self, value: T) -> u64 {
        hash(self.seed, value)
    }
}

fn hash<T: Hash>(seed: u64, value: T) -> u64 {
    // A SipHash with fixed keys, so that a run can be repeated; the seed is what clients cannot
    // know.
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    value.hash(&mut hasher);
    hasher.finish()
}

/// One more or one less in `members`, and in `groups` when they are the first or the last.
fn count(up: bool, members: &mut u32, groups: &mut usize) {
    match up {
        true => *members += 1,
        false => *members -= 1,
    }
    if *members == u32::from(up) {
        step(up, groups);
    }
}

const fn step(up: bool, count: &mut usize) {
    match up {
        true => *count += 1,
        false => *count -= 1,
    }
}

/// The lists of a setWatches that may owe events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUpList {
    /// Set by getData, or by exists on a node that was there.
    Data,
    /// Set by exists on a node that was not there.
    Exist,
    /// Set by getChildren.
    Child,
}

/// What to do for one path of a setWatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The watch would have fired already: tell the connection, register nothing.
    Fire(EventKind),
    /// Nothing was missed: watch on.
    Register(WatchKind),
}

/// What a client that has seen `relative_zxid` missed at a path whose stat is `stat`, or `None`
/// where no node is (`DataTree.java`, `setWatches`).
///
/// Persistent and recursive watches are registered again without any catching up.
pub fn catch_up(list: CatchUpList, stat: Option<&Stat>, relative_zxid: Zxid) -> CatchUp {
    // Signed, since the client may say anything.
    let is_new = |zxid: Zxid| zxid.raw() > relative_zxid.raw();
    match (list, stat) {
        (CatchUpList::Exist, Some(_)) => CatchUp::Fire(EventKind::NodeCreated),
        (CatchUpList::Exist, None) => CatchUp::Register(WatchKind::Data),
        (_, None) => CatchUp::Fire(EventKind::NodeDeleted),
        (CatchUpList::Data, Some(stat)) if is_new(stat.mzxid) => {
            CatchUp::Fire(EventKind::NodeDataChanged)
        }
        (CatchUpList::Data, Some(_)) => CatchUp::Register(WatchKind::Data),
        (CatchUpList::Child, Some(stat)) if is_new(stat.pzxid) => {
            CatchUp::Fire(EventKind::NodeChildrenChanged)
        }
        (CatchUpList::Child, Some(_)) => CatchUp::Register(WatchKind::Child),
    }
}

#[cfg(test)]
mod tests;
