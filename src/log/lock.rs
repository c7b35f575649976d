//! One process at a time writes a log.

use std::fs::File;
use std::path::Path;

use super::LogError;

/// The lock on a log's directory, held as long as it lives.
pub struct DirLock {
    _dir: File,
}

impl DirLock {
    /// Takes it, and does not wait for it.
    pub(super) fn take(dir: &Path) -> Result<DirLock, LogError> {
        let file = File::open(dir).map_err(|e| LogError::io("open", dir, 0, e))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _dir: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(LogError::InUse { dir: dir.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => Err(LogError::io("lock", dir, 0, e)),
        }
    }
}
