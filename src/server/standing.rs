//! Whether this server's state is to be trusted, over restarts.
//!
//! ```text
//! dataDir/version-2/unsound            it is there: the server has no vote
//! damaged                              or `empty`: why
//! …                                    a line for the operator
//! dataDir/initialize                   Apache's: an empty server may vote; taken away once used
//! ```
//! The file is written before anything else is done about what is wrong, and goes when a leader
//! has made the server whole. That it is there is what counts, whatever became of its content.

use std::path::{Path, PathBuf};

use crate::server::small_file::{self, FileError};
use crate::zab::output::Standing;

const UNSOUND: &str = "unsound";
const INITIALIZE: &str = "initialize";

/// The file that says that this server is not sound.
#[derive(Clone, Debug)]
pub struct StandingFile {
    path: PathBuf,
}

impl StandingFile {
    /// The one in `dir`, which is dataDir's `version-2`.
    pub fn new(dir: &Path) -> StandingFile {
        StandingFile { path: dir.join(UNSOUND) }
    }

    /// What it says: `Sound` when it is not there.
    ///
    /// # Errors
    /// It cannot be read: the server cannot start.
    pub fn load(&self) -> Result<Standing, FileError> {
        let Some(bytes) = small_file::read(&self.path)? else { return Ok(Standing::Sound) };
        match bytes.starts_with(b"empty\n") {
            true => Ok(Standing::Empty),
            false => Ok(Standing::Damaged),
        }
    }

    /// Makes it durable that the server is not sound, and why. What is damaged stays damaged.
    ///
    /// # Errors
    /// Nothing more may be done then: the server stops.
    pub fn save(&self, standing: Standing, why: &str) -> Result<(), FileError> {
        let word = match standing {
            Standing::Sound => return self.save_sound(),
            Standing::Empty if self.load()? == Standing::Damaged => return Ok(()),
            Standing::Empty => "empty",
            Standing::Damaged => "damaged",
        };
        small_file::replace(&self.path, format!("{word}\n{why}\n").as_bytes())
    }

    /// Makes it durable that a leader has made the server whole.
    ///
    /// # Errors
    /// The server stops, since it would vote now and not after a restart.
    pub fn save_sound(&self) -> Result<(), FileError> {
        small_file::remove(&self.path)
    }
}

/// Whether one of `dirs` (dataDir and dataLogDir) has the file `initialize`.
pub fn is_initialized(dirs: &[&Path]) -> bool {
    dirs.iter().any(|dir| dir.join(INITIALIZE).exists())
}

/// Takes it away.
///
/// # Errors
/// It is still there, and would vouch for the next empty start.
pub fn take_initialize(dirs: &[&Path]) -> Result<(), FileError> {
    dirs.iter().try_for_each(|dir| small_file::remove(&dir.join(INITIALIZE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsound_stays_so_until_it_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = StandingFile::new(dir.path());
        assert_eq!(file.load().unwrap(), Standing::Sound);
        file.save(Standing::Empty, "nothing is here").unwrap();
        assert_eq!(file.load().unwrap(), Standing::Empty);
        file.save(Standing::Damaged, "the log is bad").unwrap();
        file.save(Standing::Empty, "nothing is here").unwrap();
        assert_eq!(file.load().unwrap(), Standing::Damaged);
        file.save_sound().unwrap();
        file.save_sound().unwrap();
        assert_eq!(file.load().unwrap(), Standing::Sound);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a25_whatever_the_file_holds_the_server_is_not_sound() {
        let dir = tempfile::tempdir().unwrap();
        let file = StandingFile::new(dir.path());
        for bytes in [&b""[..], b"sound", b"\0\0\0\0", b"empt", b"emptY\n"] {
            std::fs::write(&file.path, bytes).unwrap();
            assert_eq!(file.load().unwrap(), Standing::Damaged);
        }
    }

    #[test]
    fn the_initialize_file_is_found_in_either_directory_and_used_once() {
        let (data, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [data.path(), log.path()];
        assert!(!is_initialized(&dirs));
        for dir in dirs {
            std::fs::write(dir.join("initialize"), b"").unwrap();
            assert!(is_initialized(&dirs));
            take_initialize(&dirs).unwrap();
            assert!(!is_initialized(&dirs));
        }
        take_initialize(&dirs).unwrap();
    }
}
