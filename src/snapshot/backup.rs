//! A snapshot in Apache's format for somebody outside, who reads it once.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::snapshot::SnapshotError;
use crate::snapshot::java::{self, Compression};
use crate::tree::Tree;
use crate::zxid::Zxid;

/// The directory that a backup is written in: no snapshot's name.
const PLACE: &str = "unfinished.backup";

/// A snapshot in a file that has no name any more: it is gone when it is closed.
pub struct Backup {
    file: File,
    /// Its length.
    pub bytes: u64,
    /// The version that it is of.
    pub zxid: Zxid,
}

impl Backup {
    /// Writes the tree at `zxid`, whose digest is `digest`, beside the snapshots in `dir`.
    ///
    /// # Errors
    /// It cannot be written; nothing of it stays.
    pub fn take(
        dir: &Path,
        tree: &Tree,
        zxid: Zxid,
        digest: u64,
        sessions: &[(i64, i32)],
    ) -> Result<Backup, SnapshotError> {
        let place = dir.join(PLACE);
        let error = |error| SnapshotError::io("use", &place, 0, error);
        let clear = || match std::fs::remove_dir_all(&place) {
            Err(failure) if failure.kind() != ErrorKind::NotFound => Err(failure),
            _ => Ok(()),
        };
        // A backup that the server did not survive.
        clear().map_err(error)?;
        let written = java::write(&place, tree, zxid, digest, sessions, Compression::None);
        let opened = written.and_then(|path| File::open(path).map_err(error));
        clear().map_err(error)?;
        let file = opened?;
        let bytes = file.metadata().map_err(error)?.len();
        Ok(Backup { file, bytes, zxid })
    }

    /// The next piece of at most `bytes_max` bytes; empty at the end.
    ///
    /// # Errors
    /// The disk does not give it.
    pub fn read_piece(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(bytes_max);
        (&mut self.file).take(bytes_max as u64).read_to_end(&mut piece)?;
        Ok(piece)
    }
}
