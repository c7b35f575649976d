//! How far the log's files went, kept beside the snapshots: what tells a log that lost its newest
//! files, or all of them, from one that never had them.
//!
//! ```text
//! dataDir/version-2/logreach           ringlog.0000000002 1f0e3dad
//! ```
//! A segment's name, and the crc32c of that as eight hexadecimal digits. It is written when a
//! segment stands ready and before the first batch goes into it, so a segment that it names was
//! there; and a log gives its oldest segments up, never its newest. That the files from the oldest
//! one on have no gap is the log's own business.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::log::{LogError, recover, segment};
use crate::server::small_file::{self, FileError};

const NAME: &str = "logreach";

/// The file that says how far the log's files went.
#[derive(Clone, Debug)]
pub struct Reach {
    path: PathBuf,
}

/// Files of the log that were there and are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "log files are missing in {}: the log went on to {}, and {}",
    dir.display(), segment::name(*reached), there(*newest)
)]
pub struct Missing {
    pub dir: PathBuf,
    /// The newest segment that there was.
    pub reached: u64,
    /// The newest one that there is.
    pub newest: Option<u64>,
}

fn there(newest: Option<u64>) -> String {
    match newest {
        Some(newest) => format!("the newest file there is {}", segment::name(newest)),
        None => "none is there".to_owned(),
    }
}

/// What stands in the directories cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Reach {
    /// The one in `dir`, which is dataDir's `version-2`.
    pub fn new(dir: &Path) -> Reach {
        Reach { path: dir.join(NAME) }
    }

    /// What the log in `log_dir`, which was not opened yet, has lost of its newest files.
    ///
    /// # Errors
    /// A directory or the file cannot be read.
    pub fn missing(&self, log_dir: &Path) -> Result<Option<Missing>, ReachError> {
        let newest = recover::newest_segment(log_dir)?;
        let missing = self.load()?.filter(|reached| newest.is_none_or(|newest| newest < *reached));
        let dir = log_dir.to_owned();
        Ok(missing.map(|reached| Missing { dir, reached, newest }))
    }

    /// The newest segment that there was; `None` where nothing was ever written down.
    fn load(&self) -> Result<Option<u64>, FileError> {
        let Some(bytes) = small_file::read(&self.path)? else { return Ok(None) };
        // There was a log, whatever became of the rest.
        Ok(Some(decode(&bytes).unwrap_or(1)))
    }

    /// Takes what stands in `log_dir` for all that there is: the log was opened and is served.
    ///
    /// # Errors
    /// A directory or the file cannot be read.
    pub fn settle(&self, log_dir: &Path) -> Result<(), ReachError> {
        let newest = recover::newest_segment(log_dir)?;
        if self.load()? != newest {
            match newest {
                Some(newest) => self.save(newest),
                None => small_file::remove(&self.path)?,
            }
        }
        Ok(())
    }

    /// Makes it durable that the segment `sequence` stands ready. On a volume that is full, or that
    /// refuses for another reason, what was written before stays, with a line in the trace: a log
    /// on another volume goes on.
    pub fn save(&self, sequence: u64) {
        let name = segment::name(sequence);
        let line = format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes()));
        if let Err(error) = small_file::replace(&self.path, line.as_bytes()) {
            tracing::warn!("if {name} is lost, that will go unnoticed: {error}");
        }
    }
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let (name, crc) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let is_sound = u32::from_str_radix(crc, 16) == Ok(crc32c::crc32c(name.as_bytes()));
    is_sound.then(|| segment::sequence_of(OsStr::new(name)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_what_was_there() {
        let (data, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let reach = Reach::new(data.path());
        let segment = |sequence| log.path().join(segment::name(sequence));
        let missing = || reach.missing(log.path()).unwrap().map(|it| (it.reached, it.newest));
        reach.settle(log.path()).unwrap();
        assert_eq!(missing(), None);
        for sequence in 1..=2 {
            std::fs::write(segment(sequence), b"").unwrap();
            assert_eq!(missing(), None);
            reach.save(sequence);
            assert_eq!(missing(), None);
        }
        // A purge takes the oldest.
        std::fs::remove_file(segment(1)).unwrap();
        assert_eq!(missing(), None);
        std::fs::write(segment(1), b"").unwrap();
        std::fs::remove_file(segment(2)).unwrap();
        assert_eq!(missing(), Some((2, Some(1))));
        std::fs::remove_file(segment(1)).unwrap();
        assert_eq!(missing(), Some((2, None)));
        let said = reach.missing(log.path()).unwrap().unwrap().to_string();
        assert!(said.contains("the log went on to ringlog.0000000002, and none is"), "{said}");
        // Whoever goes on without them is not asked again.
        reach.settle(log.path()).unwrap();
        assert_eq!(missing(), None);
        std::fs::write(segment(7), b"").unwrap();
        reach.settle(log.path()).unwrap();
        std::fs::remove_file(segment(7)).unwrap();
        assert_eq!(missing(), Some((7, None)));
    }

    #[test]
    fn a25_whatever_the_file_holds_there_was_a_log() {
        let (data, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let reach = Reach::new(data.path());
        reach.save(1 << 40);
        let good = std::fs::read(&reach.path).unwrap();
        assert_eq!(reach.load().unwrap(), Some(1 << 40));
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            std::fs::write(&reach.path, &bytes[..at]).unwrap();
            assert_eq!(reach.missing(log.path()).unwrap().unwrap().reached, 1, "{at}");
            std::fs::write(&reach.path, &bytes).unwrap();
            assert_eq!(reach.missing(log.path()).unwrap().unwrap().reached, 1, "{at}");
        }
        std::fs::write(log.path().join(segment::name(1)), b"").unwrap();
        assert_eq!(reach.missing(log.path()).unwrap(), None);
    }
}
