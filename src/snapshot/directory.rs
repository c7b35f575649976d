//! The directories that hold snapshots: how one appears, and how it goes.
//!
//! ```text
//! snapshot.<zxid>             whole when it got this name
//! unfinished.snapshot.<zxid>  being written, or left by a crash
//! removed.snapshot.<zxid>     being deleted, or left by a crash
//! snapshot.<zxid>/fuzzy       an empty file: it holds parts of transactions after its zxid
//! snapshot.<zxid>/pending     an empty file: it came from a leader, and the log may not yet go on
//!                             behind it
//! ```
//! A rename is all or nothing, so neither a part of a snapshot is seen nor what a deletion left.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::snapshot::SnapshotError;
use crate::zxid::Zxid;

const PREFIX: &str = "snapshot.";
const UNFINISHED: &str = "unfinished.";
const REMOVED: &str = "removed.";
const FUZZY: &str = "fuzzy";
const PENDING: &str = "pending";

/// The name of the snapshot at `zxid`.
pub fn name(zxid: Zxid) -> String {
    format!("{PREFIX}{:016x}", zxid.raw())
}

/// The zxid of the snapshot called `name`, if it is called like one.
pub fn zxid_of(name: &str) -> Option<Zxid> {
    let zxid = i64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok().map(Zxid::from_raw)?;
    (self::name(zxid) == name).then_some(zxid)
}

/// The snapshots in `dir`, the newest first. None if there is no such directory.
pub fn list(dir: &Path) -> Result<Vec<(Zxid, PathBuf)>, SnapshotError> {
    let mut snapshots: Vec<_> = subdirectories(dir)?
        .into_iter()
        .filter_map(|name| Some((zxid_of(&name)?, dir.join(name))))
        .collect();
    snapshots.sort_unstable();
    snapshots.reverse();
    Ok(snapshots)
}

/// Whether the snapshot at `path` holds parts of transactions after its zxid: one that a leader of
/// Apache's sent. The log's replay makes the tree exact.
pub fn is_fuzzy(path: &Path) -> bool {
    path.join(FUZZY).exists()
}

/// Whether the snapshot at `path` came from a leader, and nobody has said since that the log goes
/// on behind it: what the log holds beyond it may be of another history.
pub fn is_pending(path: &Path) -> bool {
    path.join(PENDING).exists()
}

/// The log goes on behind the snapshot at `zxid`, durably.
pub fn settle(dir: &Path, zxid: Zxid) -> Result<(), SnapshotError> {
    unmark(&dir.join(name(zxid)), PENDING)
}

/// The snapshot at `zxid` has turned out to hold no part of anything later.
pub fn settle_exact(dir: &Path, zxid: Zxid) -> Result<(), SnapshotError> {
    unmark(&dir.join(name(zxid)), FUZZY)
}

fn unmark(path: &Path, mark: &str) -> Result<(), SnapshotError> {
    let mark = path.join(mark);
    match std::fs::remove_file(&mark) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(|e| SnapshotError::io("remove", &mark, 0, e)).and_then(|()| sync(path))
        }
    }
}

/// The names of the directories in `dir`.
fn subdirectories(dir: &Path) -> Result<Vec<String>, SnapshotError> {
    let error = |e| SnapshotError::io("list", dir, 0, e);
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// A snapshot that is being written. It disappears when it is dropped before it is published.
pub struct Unfinished {
    dir: PathBuf,
    zxid: Zxid,
    path: PathBuf,
    /// Locked, so that nobody takes it for a leftover.
    handle: Option<File>,
}

impl Unfinished {
    /// A place in `dir` for the files of the snapshot at `zxid`.
    pub fn create(dir: &Path, zxid: Zxid) -> Result<Unfinished, SnapshotError> {
        let path = dir.join(format!("{UNFINISHED}{}", name(zxid)));
        remove_leftover(&path)?;
        std::fs::create_dir_all(&path).map_err(|e| SnapshotError::io("create", &path, 0, e))?;
        let mut unfinished = Unfinished { dir: dir.to_owned(), zxid, path, handle: None };
        let path = &unfinished.path;
        let handle = File::open(path).map_err(|e| SnapshotError::io("open", path, 0, e))?;
        lock(&handle).map_err(|e| SnapshotError::io("lock", path, 0, e))?;
        unfinished.handle = Some(handle);
        Ok(unfinished)
    }

    /// Where the files go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that it is fuzzy.
    pub fn mark_fuzzy(&self) -> Result<(), SnapshotError> {
        self.mark(FUZZY)
    }

    /// Says that it came from a leader.
    pub fn mark_pending(&self) -> Result<(), SnapshotError> {
        self.mark(PENDING)
    }

    fn mark(&self, name: &str) -> Result<(), SnapshotError> {
        let path = self.path.join(name);
        let made = File::create(&path).and_then(|file| file.sync_all());
        made.map_err(|e| SnapshotError::io("create", &path, 0, e))
    }

    /// Gives the snapshot its name, now that all of its files are durable.
    pub fn publish(mut self) -> Result<PathBuf, SnapshotError> {
        let path = self.sync()?;
        std::fs::rename(&self.path, &path).map_err(|e| SnapshotError::io("rename", &path, 0, e))?;
        self.handle = None;
        sync(&self.dir)?;
        Ok(path)
    }

    /// As [`Unfinished::publish`], in the place of the snapshot that has the name, if there is one:
    /// at each moment one of the two has it.
    pub fn publish_over(mut self) -> Result<PathBuf, SnapshotError> {
        let path = self.sync()?;
        if !path.exists() {
            return self.publish();
        }
        let error = |e| SnapshotError::io("exchange", &path, 0, e);
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let here = rustix::fs::CWD;
        rustix::fs::renameat_with(here, &self.path, here, &path, exchange).map_err(error)?;
        self.handle = None;
        sync(&self.dir)?;
        // The other one: what cannot be removed here is a leftover for the next purge.
        let _ = std::fs::remove_dir_all(&self.path);
        Ok(path)
    }

    /// Makes the names in it durable; gives the path that it is to have.
    fn sync(&mut self) -> Result<PathBuf, SnapshotError> {
        let handle = self.handle.as_ref().expect("a created snapshot has its handle");
        handle.sync_all().map_err(|e| SnapshotError::io("sync", &self.path, 0, e))?;
        Ok(self.dir.join(name(self.zxid)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.handle.is_some() {
            // What cannot be removed here is a leftover for the next purge.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn lock(handle: &File) -> rustix::io::Result<()> {
    rustix::fs::flock(handle, rustix::fs::FlockOperation::NonBlockingLockExclusive)
}

/// Makes the names in `dir` durable.
fn sync(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| SnapshotError::io("sync", dir, 0, e))
}

/// Deletes the snapshot at `path`.
pub fn remove(dir: &Path, zxid: Zxid) -> Result<(), SnapshotError> {
    let path = dir.join(name(zxid));
    let removed = dir.join(format!("{REMOVED}{}", name(zxid)));
    remove_leftover(&removed)?;
    std::fs::rename(&path, &removed).map_err(|e| SnapshotError::io("rename", &path, 0, e))?;
    remove_leftover(&removed)
}

/// Deletes what crashes have left in `dir`.
pub fn remove_leftovers(dir: &Path) -> Result<(), SnapshotError> {
    for name in subdirectories(dir)? {
        let below = name.strip_prefix(UNFINISHED).or_else(|| name.strip_prefix(REMOVED));
        if below.and_then(zxid_of).is_some() {
            remove_leftover(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Deletes a directory, unless it is not there or somebody is writing it.
fn remove_leftover(path: &Path) -> Result<(), SnapshotError> {
    let Ok(handle) = File::open(path) else { return Ok(()) };
    match lock(&handle) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        locked => locked
            .map_err(std::io::Error::from)
            .and_then(|()| std::fs::remove_dir_all(path))
            .map_err(|e| SnapshotError::io("remove", path, 0, e)),
    }
}
