//! The files of a host, below a root: the real one's, or a tree that a test has made.
//!
//! Every change is one call here, so that a test can cut the power between any two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// No file of a knob is longer, in bytes; what is longer is something else.
const BYTES_MAX: u64 = 1 << 20;

/// The files that knobs are. Paths start at the root and have no leading slash.
///
/// An error of any method leaves the file as it was.
pub trait System {
    /// A file's first MiB as text; bytes that are none become replacement characters.
    ///
    /// # Errors
    /// It is not there, or may not be read.
    fn read(&self, path: &str) -> io::Result<String>;

    /// The names in a directory, sorted; none where there is no such directory.
    fn names(&self, directory: &str) -> Vec<String>;

    /// Where a path leads once its links are followed; `None` where nothing is.
    fn resolved(&self, path: &str) -> Option<String>;

    /// Writes a value to a file that is there, in one write, as /proc and /sys want it.
    ///
    /// # Errors
    /// The kernel refuses the value, or the file may not be written.
    fn set(&mut self, path: &str, value: &str) -> io::Result<()>;

    /// Makes a file with this content, durably but for its name; what was there goes.
    ///
    /// # Errors
    /// The file system refuses.
    fn stage(&mut self, path: &str, text: &str) -> io::Result<()>;

    /// Gives a file another name, in the place of what has that name.
    ///
    /// # Errors
    /// The file system refuses.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// It is not there, or the file system refuses.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Makes a directory in one that is there.
    ///
    /// # Errors
    /// The file system refuses.
    fn make_directory(&mut self, path: &str) -> io::Result<()>;

    /// Removes a directory that is empty.
    ///
    /// # Errors
    /// It is not empty or not there, or the file system refuses.
    fn remove_directory(&mut self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The file system refuses.
    fn sync_directory(&mut self, path: &str) -> io::Result<()>;
}

/// The host's files below a directory of the real file system.
#[derive(Clone, Debug)]
pub struct Rooted {
    root: PathBuf,
}

impl Rooted {
    /// The files below `root`; `/` is this host.
    pub fn new(root: impl Into<PathBuf>) -> Rooted {
        Rooted { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Keeps every other holder out while the file that is returned is open; `None` where there is
    /// one already.
    ///
    /// # Errors
    /// The directory is not there or cannot be locked.
    pub fn lock(&self, directory: &str) -> io::Result<Option<File>> {
        let directory = File::open(self.at(directory))?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(directory)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl System for Rooted {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.at(path))?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(directory)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    fn resolved(&self, path: &str) -> Option<String> {
        let root = self.root.canonicalize().ok()?;
        let path = self.at(path).canonicalize().ok()?;
        path.strip_prefix(root).ok()?.to_str().map(str::to_owned)
    }

    fn set(&mut self, path: &str, value: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.at(path))?;
        file.write_all(format!("{value}\n").as_bytes())
    }

    fn stage(&mut self, path: &str, text: &str) -> io::Result<()> {
        let mut file = File::create(self.at(path))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        // Who could read the file before can read what takes its place.
        if let Ok(earlier) = fs::metadata(self.at(to)) {
            fs::set_permissions(self.at(from), earlier.permissions())?;
        }
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn make_directory(&mut self, path: &str) -> io::Result<()> {
        fs::create_dir(self.at(path))
    }

    fn remove_directory(&mut self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn sync_directory(&mut self, path: &str) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }
}

/// The directory that a path stands in; empty for the root.
pub fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The last part of a path.
pub fn name_of(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}
