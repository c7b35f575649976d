//! `ringkeeper log` and `ringkeeper snapshot`: what the files hold, and whether they are whole.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::{Exit, complain, exit_of_log};
use crate::snapshot::SnapshotError;
use crate::{log, snapshot};

/// `ringkeeper log dump PATH`.
pub fn log_dump(path: &Path) -> Exit {
    told(|out| log::tool::dump(&below(path), out).map_err(|e| (e.to_string(), exit_of_log(&e))))
}

/// `ringkeeper log verify PATH`.
pub fn log_verify(path: &Path) -> Exit {
    told(|out| log::tool::verify(&below(path), out).map_err(|e| (e.to_string(), exit_of_log(&e))))
}

/// `ringkeeper snapshot dump PATH`.
pub fn snapshot_dump(path: &Path) -> Exit {
    told(|out| snapshot::tool::dump(&below(path), out).map_err(|e| (e.to_string(), exit_of(&e))))
}

/// `ringkeeper snapshot verify PATH`.
pub fn snapshot_verify(path: &Path) -> Exit {
    told(|out| snapshot::tool::verify(&below(path), out).map_err(|e| (e.to_string(), exit_of(&e))))
}

/// A dataDir stands for the `version-2` in it, where the files are.
fn below(path: &Path) -> PathBuf {
    let below = path.join("version-2");
    if below.is_dir() { below } else { path.to_owned() }
}

fn exit_of(error: &SnapshotError) -> Exit {
    match error {
        SnapshotError::Io { .. } | SnapshotError::Full { .. } => Exit::Disk,
        _ => Exit::Data,
    }
}

/// Runs a tool with standard output to print to.
fn told(tool: impl FnOnce(&mut dyn Write) -> Result<(), (String, Exit)>) -> Exit {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let outcome = tool(&mut out);
    // A reader that has gone away, as `head` does, is no fault.
    out.flush().ok();
    match outcome {
        Ok(()) => Exit::Ok,
        Err((error, exit)) => {
            complain(&error);
            exit
        }
    }
}
