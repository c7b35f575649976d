//! A server's disk.
//!
//! Fault model. The log's segments are blocks of bytes: a write that is under way when the power
//! fails leaves any subset of its blocks, whole or torn in the middle. The small files (epochs,
//! markers) and the snapshots are each replaced in one step, which has happened or has not when the
//! power fails before it was reported. What was reported stays, except for decay: a bit flips in a
//! block, a block goes missing (a lost write), a block stands where another should (a misdirected
//! one), a whole file is damaged. A write can fail; the process must not go on. A read of the log
//! can fail without the file being damaged (a latent error). The nemesis spreads decay and wipes so
//! that a majority of the voters always has a sound disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringkeeper::log::BLOCK;
use ringkeeper::zxid::Zxid;

use crate::random::Random;

/// A file that holds a number, and checks itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Small {
    #[default]
    Missing,
    Holds(u32),
    Damaged,
}

impl Small {
    /// The number; 0 where there is none.
    pub fn value(self) -> u32 {
        match self {
            Small::Holds(value) => value,
            Small::Missing | Small::Damaged => 0,
        }
    }
}

/// Why a server must not vote, as it remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsound {
    Empty,
    Damaged,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The log's segments by their sequence.
    pub segments: BTreeMap<u64, Vec<u8>>,
    /// The number that the next log made here gets as its identity.
    pub identity_next: u64,
    pub accepted_epoch: Small,
    pub current_epoch: Small,
    /// By the zxid in their names.
    pub snapshots: BTreeMap<Zxid, Arc<[u8]>>,
    pub unsound: Option<Unsound>,
    /// The file with the members in force, once they have changed.
    pub members: Option<Arc<[u8]>>,
    /// The operator vouches for it that an empty disk is right.
    pub initialize: bool,
}

/// How the log's bytes decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// A bit of a batch flips.
    Flip,
    /// A batch's first block never reached the disk.
    Lost,
    /// A batch's first block stands where another's should.
    Misdirected,
}

impl Disk {
    /// Writes blocks, all of them.
    pub fn write(&mut self, sequence: u64, offset: u64, bytes: &[u8]) {
        let segment = self.segments.get_mut(&sequence).expect("the segment was made");
        let start = usize::try_from(offset).expect("offsets are small");
        segment[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes what a power failure leaves of a write.
    pub fn tear(&mut self, random: &mut Random, sequence: u64, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).expect("offsets are small");
        let Some(segment) = self.segments.get_mut(&sequence) else { return };
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            let at = start + index * BLOCK;
            match random.below(3) {
                0 => {}
                1 => segment[at..at + block.len()].copy_from_slice(block),
                _ => {
                    let length = random.index(block.len());
                    segment[at..at + length].copy_from_slice(&block[..length]);
                }
            }
        }
    }

    /// Damages a batch that was reported durable and has another behind it, so that it can be
    /// told from one that was torn. Whether there was one.
    pub fn decay(&mut self, random: &mut Random, decay: Decay) -> bool {
        let mut batches: Vec<(u64, usize)> = Vec::new();
        for (sequence, bytes) in &self.segments {
            for (index, block) in bytes.chunks(BLOCK).enumerate().skip(1) {
                if block.starts_with(&ringkeeper::log::BATCH_MAGIC) {
                    batches.push((*sequence, index * BLOCK));
                }
            }
        }
        let Some((last_sequence, last_at)) = batches.pop() else { return false };
        if batches.is_empty() {
            return false;
        }
        let (sequence, at) = *random.pick(&batches);
        let other = self.segments[&last_sequence][last_at..last_at + BLOCK].to_vec();
        let segment = self.segments.get_mut(&sequence).expect("it was listed");
        match decay {
            Decay::Flip => segment[at + random.index(100)] ^= 1 << random.below(8),
            Decay::Lost => segment[at..at + BLOCK].fill(0),
            Decay::Misdirected => segment[at..at + BLOCK].copy_from_slice(&other),
        }
        true
    }

    /// The newest snapshot is damaged; whether there is an older one.
    pub fn damage_snapshot(&mut self, random: &mut Random) -> bool {
        if self.snapshots.len() < 2 {
            return false;
        }
        let (_, bytes) = self.snapshots.iter_mut().next_back().expect("there are two");
        let mut damaged = bytes.to_vec();
        let at = random.index(damaged.len());
        damaged[at] ^= 0x40;
        *bytes = damaged.into();
        true
    }

    /// A new disk in the server's place.
    pub fn wipe(&mut self) {
        *self = Disk { identity_next: self.identity_next, ..Disk::default() };
    }
}
