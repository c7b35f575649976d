//! Small files that must never be seen half written: epochs, and whether this server may vote.
//!
//! A new content is written under another name, synced and renamed, and the directory is synced:
//! a crash leaves the old content or the new one, and perhaps a `.tmp` that nobody reads.

use std::fs::File;
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
    let mut file = File::create(&unfinished).map_err(error("create", &unfinished))?;
    file.write_all(bytes).map_err(error("write", &unfinished))?;
    file.sync_all().map_err(error("sync", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(error("rename", path))?;
    sync_names(path)
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
