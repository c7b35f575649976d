//! Values by index, and tables that find an index: both grow in small steps.
//!
//! A vector that doubles copies all it holds, and a hash table that doubles hashes all its keys
//! anew: with a million watches that is a pause of a second on a busy machine. So the values
//! stand in chunks that never move, and the table is 256 tables that grow each on its own.

use hashbrown::HashTable;

/// The index of nothing.
pub const NIL: u32 = u32::MAX;

/// Values in one chunk: some 100 KiB of watches.
const CHUNK: usize = 4096;

/// Tables in an index: 2M entries then rehash 8192 at a time.
const SHARDS: usize = 256;

/// Values by index; an index is used again after its value was removed.
pub struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// No values.
    pub const fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }

    /// Puts a value in, and says where.
    pub fn insert(&mut self, item: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self[index] = item;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        let index = last * CHUNK + self.chunks[last].len();
        self.chunks[last].push(item);
        let index = u32::try_from(index).expect("memory ends before 2^32 watches");
        assert!(index != NIL);
        index
    }

    /// Lets the index be used again; what stands there stays until then.
    pub fn remove(&mut self, index: u32) {
        self.free.push(index);
    }

    /// What stands at `index`, if ever anything did.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// How many values there is room for.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

/// Finds indices by what stands there; never iterated.
pub struct Index {
    shards: Box<[HashTable<u32>]>,
    count: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| HashTable::new()).collect(), count: 0 }
    }

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The index with this hash for which `is_it` holds.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.shards[shard(hash)].find(hash, |&index| is_it(index)).copied()
    }

    /// Adds an index that is not in it; `hash_of` says the hash of any that is.
    pub fn insert(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        self.count += 1;
        self.shards[shard(hash)].insert_unique(hash, index, |&index| hash_of(index));
    }

    /// Removes an index that is in it.
    pub fn remove(&mut self, hash: u64, index: u32) {
        let entry = self.shards[shard(hash)].find_entry(hash, |&other| other == index);
        entry.expect("what is linked is in the index").remove();
        self.count -= 1;
    }
}

/// From bits in the middle: the tables themselves take the lowest and the highest.
const fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}
