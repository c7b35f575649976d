//! A directory in memory for what a target must have in files.

use std::path::{Path, PathBuf};

/// The directory `name` of this process.
pub fn dir(name: &str) -> PathBuf {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let dir = base.join(format!("ringkeeper-fuzz-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    dir
}
