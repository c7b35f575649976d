//! The table that all readers share: shards of a concurrent map from path to newest record.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use papaya::{Equivalent, HashMap, LocalGuard, ResizeMode};

use crate::tree::record::RecordRef;

/// How many shards the table has: the unit of parallel snapshots and loading, so several times the
/// cores of any machine that this is meant for. A power of two.
pub const SHARD_COUNT: usize = 64;

const _: () = assert!(SHARD_COUNT.is_power_of_two());

/// How many slots each write moves while a shard is resized. All shards fill alike, so they resize
/// at about the same time: a small step keeps that time's writes from costing ten times as much,
/// and is still through long before the next resize.
const RESIZE_STEP: usize = 8;

type Shard = HashMap<Entry, (), BuildHasherDefault<Keep>>;

/// A record beside its path's hash: a resize then reads no records, and an operation hashes once.
struct Entry {
    hash: u64,
    record: RecordRef,
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.hash == other.hash && self.record.path_bytes() == other.record.path_bytes()
    }
}

impl Eq for Entry {}

/// A path to look for.
struct Key<'a> {
    hash: u64,
    path: &'a [u8],
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Entry> for Key<'_> {
    fn equivalent(&self, entry: &Entry) -> bool {
        self.hash == entry.hash && self.path == entry.record.path_bytes()
    }
}

/// The hasher of what is a hash already.
#[derive(Default)]
struct Keep(u64);

impl Hasher for Keep {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Path to newest record. One thread writes, any number read.
pub struct Table {
    shards: Box<[Shard]>,
    hasher: SeedableRandomState,
}

/// A reader's hold on the table: what it has found stays valid until the hold is dropped.
///
/// One hold serves all shards. While it lasts, nothing that is replaced is freed.
pub struct Hold<'t>(LocalGuard<'t>);

impl Table {
    /// An empty table that takes `capacity` records before it grows.
    ///
    /// `seed` keys the hash, so that clients cannot choose paths that collide: it must be random
    /// in production.
    pub fn new(capacity: usize, seed: u64) -> Table {
        // The hasher wants its constants for as long as the process lives; 48 bytes per tree.
        let shared: &'static SharedSeed = Box::leak(Box::new(SharedSeed::from_u64(seed)));
        let hasher = SeedableRandomState::with_seed(seed.rotate_left(32), shared);
        // One collector for all shards lets one hold serve them all.
        let collector = std::sync::Arc::default();
        let shards = (0..SHARD_COUNT)
            .map(|_| {
                HashMap::builder()
                    .capacity(capacity / SHARD_COUNT)
                    .hasher(BuildHasherDefault::default())
                    .resize_mode(ResizeMode::Incremental(RESIZE_STEP))
                    .shared_collector(std::sync::Arc::clone(&collector))
                    .build()
            })
            .collect();
        Table { shards, hasher }
    }

    /// A hold for reading; it belongs to the calling thread.
    pub fn hold(&self) -> Hold<'_> {
        Hold(self.shards[0].guard())
    }

    /// The keyed hash of `path`.
    pub fn hash(&self, path: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(path);
        hasher.finish()
    }

    /// The shard of a hash: by its high bits, since the map's own index takes the low ones.
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> (u64::BITS - SHARD_COUNT.trailing_zeros())) as usize]
    }

    /// The newest record of `path`.
    pub fn get<'h>(&self, path: &[u8], hold: &'h Hold<'_>) -> Option<&'h RecordRef> {
        self.get_hashed(path, self.hash(path), hold)
    }

    /// The same, where the caller has the hash of `path`.
    pub fn get_hashed<'h>(
        &self,
        path: &[u8],
        hash: u64,
        hold: &'h Hold<'_>,
    ) -> Option<&'h RecordRef> {
        let found = self.shard(hash).get_key_value(&Key { hash, path }, &hold.0);
        found.map(|(entry, ())| &entry.record)
    }

    /// Makes `record` the newest of its path. Says whether there was one before.
    pub fn insert(&self, record: RecordRef, hold: &Hold<'_>) -> bool {
        self.insert_hashed(record, None, hold)
    }

    /// The same, where the caller has the hash of the record's path.
    pub fn insert_hashed(&self, record: RecordRef, hash: Option<u64>, hold: &Hold<'_>) -> bool {
        let hash = hash.unwrap_or_else(|| self.hash(record.path_bytes()));
        // The map keeps the new key where an equal one stood, and not only its value: a test here
        // holds it to that.
        self.shard(hash).insert(Entry { hash, record }, (), &hold.0).is_some()
    }

    /// Forgets `path`.
    pub fn remove(&self, path: &[u8], hold: &Hold<'_>) {
        let hash = self.hash(path);
        self.shard(hash).remove(&Key { hash, path }, &hold.0);
    }

    /// Every record of shard `index`, in no order. A record that is replaced meanwhile is seen as
    /// it was or as it is, once.
    pub fn iterate<'h>(
        &self,
        index: usize,
        hold: &'h Hold<'_>,
    ) -> impl Iterator<Item = &'h RecordRef> {
        self.shards[index].keys(&hold.0).map(|entry| &entry.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::record::tests::record;

    #[test]
    fn an_insert_puts_the_new_record_in_the_place_of_the_equal_one() {
        let table = Table::new(0, 1);
        let hold = table.hold();
        assert!(!table.insert(record("/a", 1), &hold));
        assert!(table.insert(record("/a", 2), &hold));
        assert_eq!(table.get(b"/a", &hold).unwrap().meta().version, 2);
        table.remove(b"/a", &hold);
        assert!(table.get(b"/a", &hold).is_none());
    }

    #[test]
    fn paths_spread_over_the_shards() {
        let table = Table::new(0, 7);
        let mut counts = [0; SHARD_COUNT];
        let hold = table.hold();
        for n in 0..64_000 {
            table.insert(record(&format!("/a/{n}"), 0), &hold);
        }
        for (shard, count) in counts.iter_mut().enumerate() {
            *count = table.iterate(shard, &hold).count();
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn iterating_all_shards_sees_each_record_once() {
        let table = Table::new(0, 3);
        let hold = table.hold();
        for n in 0..5000 {
            table.insert(record(&format!("/{n}"), n), &hold);
        }
        let mut seen: Vec<i32> = (0..SHARD_COUNT)
            .flat_map(|shard| table.iterate(shard, &hold).map(|record| record.meta().version))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..5000).collect::<Vec<_>>());
    }
}
