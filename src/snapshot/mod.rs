//! Snapshots: the tree at one version, on disk.
//!
//! A snapshot is a directory. It is made under another name, and gets its own only when everything
//! in it is on the disk: what is called `snapshot.…` was whole once.
//!
//! ```text
//! snapshot.<zxid, 16 hex digits>/
//!   znodes.<nnnn>   frames of schema::Znodes    as many files as there are 16 MiB to be written
//!   acls            frames of schema::Acls      what the znodes' list numbers stand for
//!   sessions        frames of schema::Sessions  ids and timeouts
//!   manifest        one frame of schema::Manifest, written last: zxid, digest, counts, and each
//!                   file's length and checksum
//!
//! file    header 32 │ frame │ frame │ …
//! header  magic "RKSNAP01" 8 │ version u32 │ kind u32 │ zxid i64 │ index u32 │ their crc32c u32
//! frame   length u32 │ crc32c u32 │ offset in the file u64 │ archive │ zeros to a multiple of 16
//! ```
//! The integers are little-endian. A frame's crc32c covers its length, its offset, the file's
//! header and the archive (with length bytes, no zeros): a frame that the disk put elsewhere, and
//! one of another file or snapshot, is known. An archive is rkyv's, and read only through its
//! validation.
//!
//! * **Exact.** Everything is read at one version. The digests of the znodes that were written are
//!   added up, and a snapshot whose sum is not the digest of its zxid is thrown away.
//! * **Bounded.** An archive is as large as a step of writing, a quarter of a MiB, or a single
//!   znode if that is larger. A shard's records are held by reference, not copied.
//! * **Considerate.** The writing thread yields to all others, writes around the page cache in
//!   steps, and pauses after each: the log's writes and the other cores come first.
//!
//! # Sketch
//!
//! A million znodes of 100 bytes are about 220 MB in 14 files. Written at one step of 256 KiB in
//! some 3 ms it takes 2 to 3 s of which the thread works less than one. Loading reads at the page
//! cache's or the disk's speed; checksums and validation pass over memory at GB/s, and what counts
//! is making and inserting the records, some 300 ns each, on all cores.

use std::path::{Path, PathBuf};

use crate::snapshot::frame::Pace;
use crate::tree::builder::BuildError;
use crate::zxid::Zxid;

pub mod schema;

#[expect(clippy::disallowed_types, reason = "snapshots are files")]
pub mod frame;

#[expect(clippy::disallowed_types, reason = "directories are made durable")]
pub mod directory;

pub mod write;

pub mod parse;

pub mod load;

mod verified;

mod java_stream;

#[expect(clippy::disallowed_types, reason = "snapshots are files")]
pub mod java;

#[expect(clippy::disallowed_types, reason = "a backup is a file")]
pub mod backup;

#[expect(clippy::disallowed_types, reason = "logs are files")]
pub mod java_log;

pub mod transfer;

pub mod migrate;

pub mod tool;

#[cfg(test)]
mod tests;

/// The first bytes of every file of a snapshot.
pub const MAGIC: [u8; 8] = *b"RKSNAP01";
/// The version of the format: of the frames and of everything in `schema`.
pub const VERSION: u32 = 1;
/// Bytes of a file's header.
pub const FILE_HEADER_BYTES: usize = 32;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// What archives are aligned to within their file.
pub const FRAME_ALIGN: usize = 16;

const _: () = assert!(FILE_HEADER_BYTES.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGN));

/// A frame's archive is not larger than this: rkyv's pointers reach 2 GiB.
pub const ARCHIVE_BYTES_MAX: usize = i32::MAX as usize;
/// An archive is closed when it has grown to this size. The sum of small archives and of steps of
/// writing costs little, and a quarter of a MiB stays in a core's own cache between the passes.
pub const ARCHIVE_BYTES: usize = 256 << 10;
/// A file of znodes is closed when it has grown to this size: small enough for 14 files of a
/// million znodes to keep all cores busy to the end of loading, large enough for few fsyncs.
pub const FILE_BYTES: u64 = 16 << 20;

/// How many verified snapshots [`purge`] keeps unless the configuration says otherwise.
pub const RETAINED_DEFAULT: usize = 3;

/// What went wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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
    /// The volume is full. What was written of the snapshot is removed again; nothing else is
    /// harmed, and asking again later may succeed.
    #[error("no space left for the snapshot: {op} {}", file.display())]
    Full {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory.
        file: PathBuf,
    },
    /// A file is not what was written.
    #[error("{} is damaged at offset {offset}: {what}", file.display())]
    Damaged {
        /// The file, or the snapshot's directory.
        file: PathBuf,
        /// The start of the bad frame, in bytes; 0 for the whole file.
        offset: u64,
        /// What was found there.
        what: String,
    },
    /// A file of a version that this server does not know.
    #[error("{} has the format version {version}, and only {VERSION} is known", file.display())]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The files are sound, but they make no tree, or not the one with the manifest's digest.
    #[error("{} makes no tree: {source}", dir.display())]
    NoTree {
        /// The snapshot's directory.
        dir: PathBuf,
        /// What does not fit.
        source: BuildError,
    },
    /// What was read of the tree is not the tree at that version; no snapshot was made.
    #[error("the znodes at {zxid} have the digest {found:#x}, and it should be {expected:#x}")]
    Inexact {
        /// The version.
        zxid: Zxid,
        /// The digest of the version.
        expected: u64,
        /// The digest of the znodes that were found.
        found: u64,
    },
    /// A leader sends a state from before one that is known to be committed.
    #[error("a snapshot of zxid {zxid} is offered, and there is a sound one of zxid {newer}")]
    Older {
        /// What is offered.
        zxid: Zxid,
        /// What is there.
        newer: Zxid,
    },
    /// There are snapshots, and none is sound. Starting without would be starting empty.
    #[error("no snapshot in {} is sound:{}", dir.display(), Skipped::lines(skipped))]
    NoneSound {
        /// The directory of snapshots.
        dir: PathBuf,
        /// Why each was passed over, the newest first.
        skipped: Vec<Skipped>,
    },
}

/// A snapshot that was passed over.
#[derive(Debug)]
pub struct Skipped {
    /// The snapshot's directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: SnapshotError,
}

impl Skipped {
    fn lines(skipped: &[Skipped]) -> String {
        skipped.iter().map(|skipped| format!("\n  {}", skipped.error)).collect()
    }
}

impl SnapshotError {
    /// Wraps an operating system's error, telling a full volume apart.
    fn io(
        op: &'static str,
        file: &Path,
        offset: u64,
        source: impl Into<std::io::Error>,
    ) -> SnapshotError {
        let (source, file) = (source.into(), file.to_owned());
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                SnapshotError::Full { op, file }
            }
            _ => SnapshotError::Io { op, file, offset, source },
        }
    }

    fn damaged(file: &Path, offset: u64, what: impl ToString) -> SnapshotError {
        SnapshotError::Damaged { file: file.to_owned(), offset, what: what.to_string() }
    }
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Znodes; the root counts once.
    pub nodes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Different access control lists.
    pub acls: u64,
    /// Files, without the manifest.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
}

/// Keeps the newest `retained_count` snapshots in `dir` that are sound, deletes those before them
/// and what crashes have left, and returns the zxid of the oldest sound one that is kept. The log
/// after that zxid is needed: with zero, which stands for none, all of it.
///
/// Sound is what was read back from the disk, once in this process's life. Damaged snapshots count
/// for nothing; one goes when it is older than all that are kept. As long as there are fewer sound
/// ones than wanted, nothing is deleted. At least one is kept.
///
/// # Errors
/// The directory cannot be read or something in it cannot be deleted.
pub fn purge(dir: &Path, retained_count: usize) -> Result<Zxid, SnapshotError> {
    directory::remove_leftovers(dir)?;
    let (mut sound, mut oldest) = (0, Zxid::ZERO);
    for (zxid, path) in directory::list(dir)? {
        if sound == retained_count.max(1) {
            verified::forget(&path);
            directory::remove(dir, zxid)?;
        } else if verified::is_sound(&path, Pace::Considerate) {
            (sound, oldest) = (sound + 1, zxid);
        }
    }
    Ok(oldest)
}
