//! Small files that must never be seen half written: epochs, and whether this server may vote.
//!
//! A new content is written under another name, synced and renamed, and the directory is synced:
//! a crash leaves the old content or the new one, and perhaps a `.tmp` that nobody reads.
//!
//! What must be written on a full volume too has its room there beforehand: a `.tmp` with a block
//! of its own, which the next content is written into.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Such a file is not longer, in bytes; what is longer is something else.
const BYTES_MAX: u64 = 4096;

/// The operating system refused or failed an operation.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried, as a verb.
    pub op: &'static str,
    pub path: PathBuf,
    pub source: std::io::Error,
}

fn error<'a>(op: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> FileError + 'a {
    move |source| FileError { op, path: path.to_owned(), source }
}

/// The content of the file at `path`, or its first 4 KiB; `None` when there is none.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(error("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(error("read", path))?;
    Ok(Some(bytes))
}

/// Makes `bytes` the content of the file at `path`, durably.
///
/// # Errors
/// The content is then the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let unfinished = unfinished(path);
    let mut options = OpenOptions::new();
    // Its block stays its own, where it has one.
    options.write(true).create(true).truncate(false);
    let mut file = options.open(&unfinished).map_err(error("create", &unfinished))?;
    file.write_all(bytes).map_err(error("write", &unfinished))?;
    file.set_len(bytes.len() as u64).map_err(error("cut", &unfinished))?;
    file.sync_all().map_err(error("sync", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(error("rename", path))?;
    sync_names(path)
}

/// Takes room on the volume for the next [`replace`] of `path`.
///
/// # Errors
/// There may be none: the next replacement then needs what the volume has left.
pub fn keep_room(path: &Path) -> Result<(), FileError> {
    let unfinished = unfinished(path);
    let mut file = File::create(&unfinished).map_err(error("create", &unfinished))?;
    // Blocks are allocated when what is in them is written, not before.
    file.write_all(b"room\n").map_err(error("write", &unfinished))?;
    file.sync_all().map_err(error("sync", &unfinished))
}

/// Removes the file at `path`, durably; it need not be there.
///
/// # Errors
/// It is still there, or may be after a power cut.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(error("remove", path))?;
            sync_names(path)
        }
    }
}

/// Removes what an interrupted [`replace`] of `path` has left.
///
/// # Errors
/// As for [`remove`].
pub fn remove_unfinished(path: &Path) -> Result<(), FileError> {
    remove(&unfinished(path))
}

/// Apache's name for it (`AtomicFileOutputStream.java`).
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Makes the names in the directory of `path` durable.
fn sync_names(path: &Path) -> Result<(), FileError> {
    let dir = path.parent().expect("a file stands in a directory");
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(error("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The room that was kept is what the next content is written into: nothing is allocated.
    #[test]
    fn a_replacement_takes_the_room_that_was_kept() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch");
        replace(&path, b"1").unwrap();
        keep_room(&path).unwrap();
        let kept = std::fs::metadata(unfinished(&path)).unwrap();
        assert!(kept.blocks() > 0, "it has a block");
        for content in [&b"22"[..], b"longer than what stands there", b""] {
            replace(&path, content).unwrap();
            assert_eq!(read(&path).unwrap().unwrap(), content);
        }
        keep_room(&path).unwrap();
        let kept = std::fs::metadata(unfinished(&path)).unwrap();
        replace(&path, b"3").unwrap();
        let replaced = std::fs::metadata(&path).unwrap();
        assert_eq!((replaced.ino(), replaced.blocks()), (kept.ino(), kept.blocks()));
        assert_eq!(read(&path).unwrap().unwrap(), b"3");
        assert!(!unfinished(&path).exists());
    }
}
