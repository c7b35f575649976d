//! The table that all readers share: shards of a concurrent map from path to newest record.

use std::hash::BuildHasher;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use papaya::{HashMap, LocalGuard};

use crate::tree::record::{PathKey, RecordRef};

/// How many shards the table has: the unit of parallel snapshots and loading, so several times the
/// cores of any machine that this is meant for. A power of two.
pub const SHARD_COUNT: usize = 64;

const _: () = assert!(SHARD_COUNT.is_power_of_two());

type Shard = HashMap<RecordRef, (), SeedableRandomState>;

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
                    .hasher(hasher.clone())
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

    /// The shard of `path`. The map's own index takes the hash's low bits.
    pub fn shard_of(&self, path: &[u8]) -> usize {
        (self.hash(path) >> (u64::BITS - SHARD_COUNT.trailing_zeros())) as usize
    }

    /// The keyed hash of `path`.
    pub fn hash(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(PathKey(path))
    }

    fn shard(&self, path: &[u8]) -> &Shard {
        &self.shards[self.shard_of(path)]
    }

    /// The newest record of `path`.
    pub fn get<'h>(&self, path: &[u8], hold: &'h Hold<'_>) -> Option<&'h RecordRef> {
        self.shard(path).get_key_value(&PathKey(path), &hold.0).map(|(record, ())| record)
    }

    /// Makes `record` the newest of its path. Says whether there was one before.
    pub fn insert(&self, record: RecordRef, hold: &Hold<'_>) -> bool {
        // The map keeps the new key where an equal one stood, and not only its value: a test here
        // holds it to that.
        let shard = self.shard(record.path_bytes());
        shard.insert(record, (), &hold.0).is_some()
    }

    /// Forgets `path`.
    pub fn remove(&self, path: &[u8], hold: &Hold<'_>) {
        self.shard(path).remove(&PathKey(path), &hold.0);
    }

    /// Every record of shard `index`, in no order. A record that is replaced meanwhile is seen as
    /// it was or as it is, once.
    pub fn iterate<'h>(
        &self,
        index: usize,
        hold: &'h Hold<'_>,
    ) -> impl Iterator<Item = &'h RecordRef> {
        self.shards[index].keys(&hold.0)
    }
}

impl<'t> Hold<'t> {
    /// Lets go of what was found, and holds on anew.
    pub fn renew(&mut self) {
        papaya::Guard::refresh(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::children::Children;
    use crate::tree::record::{Meta, Parts};

    fn record(path: &str, version: i32) -> RecordRef {
        let meta = Meta { version, ..Meta::default() };
        let parts = Parts { path, data: None, meta, children: Children::EMPTY, older: None };
        RecordRef::new(parts, &mut Vec::new())
    }

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
        for n in 0..64_000 {
            counts[table.shard_of(format!("/a/{n}").as_bytes())] += 1;
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
