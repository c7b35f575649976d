//! The transaction log: opaque transactions, keyed by zxid, that survive whatever the machine does.
//!
//! It never decodes a transaction, never reads a clock, never waits and starts no thread. [`Log`]
//! says what to write and is told how the write went; the caller performs it. Preparing a segment,
//! recovery, the probe and the tools do block: they run at start or on a background thread.
//!
//! # Files
//!
//! A log is a directory of *segments*, `ringlog.0000000001` and so on without a gap. A segment is
//! allocated and filled with zeros (or taken over from a purged one, leftovers and all) and synced,
//! file and directory, before it takes its name; it is never truncated and never grows. An append
//! is therefore one aligned write of whole blocks that changes no metadata.
//!
//! ```text
//! segment:  | header block | batch | batch | … | batch | zeros, or an older segment's leftovers |
//!           0            4096
//! ```
//!
//! All integers are little-endian. The header block is zero after its last field.
//!
//! ```text
//! segment header                        batch header
//!  0  u8×8 magic "RKSEGMT1"              0  u8×8 magic "RKBATCH1"
//!  8  u64  identity of the log           8  u64  identity of the log
//! 16  u64  sequence                     16  u64  sequence of the segment
//! 24  u64  size of the file in bytes    24  u64  offset in the segment
//! 32  u16  version, u16 zero            32  u32  payload bytes
//! 36  u32  crc32c of bytes 0..36        36  u32  transactions
//!                                       40  i64  first zxid     (0 without transactions)
//!                                       48  i64  last zxid      (0 without transactions)
//!                                       56  i64  previous zxid: the history's end before this
//!                                       64  i64  durable through, when this was written
//!                                       72  u32  chain: the crc at 84 of the batch before this
//! record                                76  u32  crc32c of the payload
//!  0  i64  zxid                         80  u16  version
//!  8  u32  length                       82  u16  kind: 1 txns, 2 mark, 3 cut, 4 reset
//! 12       the transaction's bytes      84  u32  crc32c of bytes 0..84
//!                                       88       the payload, then zeros to the next block
//! payload
//!          the records
//!          i64  committed through, as far as was known when this was written, and not beyond
//!               the history's end after it; 0 for unknown; batches of version 1 have none
//! ```
//!
//! # What the bytes prove
//!
//! * One write is in flight at a time and is exactly one batch, which is never rewritten. So a
//!   torn write can only spoil the last batch, which nobody was told about; and *anything written
//!   after a bad batch proves that the bad one was durable once*: that is damage, not a torn tail.
//! * When the log falls idle a *mark* is written behind the last batch, so that the last one that
//!   was acknowledged has something after it too.
//! * A batch carries its segment and offset, so that one which the disk put elsewhere, or which a
//!   recycled segment still holds, is known; and the crc of the batch before it, so that a batch
//!   that vanished is missed. The log's identity is random and secret: no client can write a value
//!   that looks like a batch.
//! * A segment that was passed over because a large transaction did not fit is empty; the chain
//!   across it proves that it always was.
//!
//! # Sketch
//!
//! A transaction of 200 bytes costs one copy and one crc32c (some 30 ns) on its way in. A write of
//! 4 KiB takes about 100 µs on the disks measured, one of 64 KiB about the same: at 100,000
//! transactions a second a group holds some ten. Recovery reads 4 KiB for each batch at a few GB/s.

use std::convert::Infallible;
use std::path::PathBuf;

use crate::zxid::Zxid;

pub mod append;
#[expect(clippy::disallowed_types, reason = "segments are files")]
pub mod aside;
pub mod batch;
pub mod buffer;
pub mod bytes;
pub mod group;
#[expect(clippy::disallowed_types, reason = "the directory is locked")]
pub mod lock;
#[expect(unsafe_code, reason = "memory mapping; see the module")]
pub mod map;
pub mod piece;
#[expect(clippy::disallowed_types, reason = "measures the volume with files of its own")]
pub mod probe;
pub mod read;
pub mod recover;
pub mod scan;
#[expect(clippy::disallowed_types, reason = "segments are files")]
pub mod segment;
pub mod tool;

#[cfg(test)]
mod tests;

/// The device block: what a batch is aligned and padded to, in bytes.
///
/// 4096 is the page, ext4's and XFS's block and the largest logical block of today's disks.
pub const BLOCK: usize = 4096;
/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 88;
/// Bytes of a payload behind its records: the committed zxid.
pub const BATCH_TRAILER_BYTES: usize = 8;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 12;
/// Bytes of a segment's header, without the rest of its block.
pub const SEGMENT_HEADER_BYTES: usize = 40;
/// The first bytes of a batch.
pub const BATCH_MAGIC: [u8; 8] = *b"RKBATCH1";
/// The version of a batch.
pub const BATCH_VERSION: u16 = 2;
/// The version before, without the committed zxid: read, and not written.
pub const BATCH_VERSION_OLD: u16 = 1;
/// The first bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RKSEGMT1";
/// The version of a segment.
pub const SEGMENT_VERSION: u16 = 1;

const _: () = assert!(BLOCK.is_power_of_two());
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(8));
const _: () = assert!(BATCH_HEADER_BYTES + RECORD_HEADER_BYTES + BATCH_TRAILER_BYTES <= BLOCK);
const _: () = assert!(SEGMENT_HEADER_BYTES <= BLOCK);

/// The size of a segment unless the configuration says otherwise: Apache's `preAllocSize`.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// The smallest segment: a header block and room for some batches.
pub const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK as u64;
/// The largest segment; offsets and payload lengths stay far from their types' ends.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;
/// A group's size is bounded by this unless a single transaction is larger.
///
/// 4 MiB takes a few milliseconds on the disks measured; a larger group makes the first
/// transaction in it wait for no gain in throughput.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// Purged segments that are kept to be used again.
pub const SPARE_SEGMENTS_MAX: usize = 2;

const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK as u64));
const _: () = assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64);
const _: () = assert!(GROUP_BYTES_MAX.is_multiple_of(BLOCK));

/// How a batch reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterKind {
    /// One write around the page cache, to a file opened `O_DIRECT` and `O_DSYNC`.
    Direct,
    /// A store into the mapped file, then `fdatasync`.
    Mmap,
}

impl std::fmt::Display for WriterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WriterKind::Direct => "direct",
            WriterKind::Mmap => "mmap",
        })
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub sequence: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// What went wrong with the disk, or with what it holds.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused or failed an operation.
    #[error("{op} {} at offset {offset}: {source}", file.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// Where in the file, in bytes; 0 when the operation is on the whole file.
        offset: u64,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The volume is full: nothing was harmed, and asking again later may succeed.
    #[error("no space left for a log segment of {size} bytes at {}", file.display())]
    Full {
        /// The segment that could not be made.
        file: PathBuf,
        /// The size it should have had, in bytes.
        size: u64,
    },
    /// The process has no descriptor left: nothing was harmed, and asking again later may succeed.
    #[error("no descriptor is left for a log segment at {}; raise `ulimit -n`", file.display())]
    NoDescriptor {
        /// The segment that could not be made.
        file: PathBuf,
    },
    /// The log holds something that no crash can have left behind.
    #[error(
        "{} is damaged at offset {offset}: {what}; the log is good through zxid {last_good_zxid}",
        file.display()
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the first bad batch starts, in bytes; 0 for the segment's header.
        offset: u64,
        /// The last transaction before the damage.
        last_good_zxid: Zxid,
        /// What was found there.
        what: String,
    },
    /// A newer release has written this.
    #[error("{} has at offset {offset} a batch of an unknown version: a newer release wrote it",
        file.display())]
    Newer {
        /// The segment.
        file: PathBuf,
        /// Where the batch starts, in bytes.
        offset: u64,
    },
    /// The log does not hold an unbroken history from the zxid that was asked for.
    #[error("the log starts after zxid {starts_after} and cannot be read from {asked}")]
    Gap {
        /// The zxid that was asked for.
        asked: Zxid,
        /// The history before the log's first transaction ends here.
        starts_after: Zxid,
    },
    /// Another process has the log open.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// An earlier write failed; the log refuses all further work for good.
    #[error("the log has failed before and refuses all further work")]
    Refused,
}

impl From<Infallible> for LogError {
    fn from(never: Infallible) -> LogError {
        match never {}
    }
}

impl LogError {
    /// Wraps an operating system's error, telling a full volume apart.
    pub(crate) fn io(
        op: &'static str,
        file: &std::path::Path,
        offset: u64,
        source: impl Into<std::io::Error>,
    ) -> LogError {
        LogError::Io { op, file: file.to_owned(), offset, source: source.into() }
    }

    /// Whether nothing was harmed, and asking again later may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, LogError::Full { .. } | LogError::NoDescriptor { .. })
    }
}
