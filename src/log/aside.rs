//! Setting damaged segments aside: a member of an ensemble goes on with what is good before the
//! damage, and fetches the rest. Nothing is deleted: the files stand in `damaged.<n>` below the
//! log's directory until the operator takes them away.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::lock::DirLock;
use super::recover::list;
use super::segment::{self, SegmentHeader};
use super::{BLOCK, LogError};

const PREFIX: &str = "damaged.";
/// So many times a log is set aside before somebody has to look.
const COUNT_MAX: u32 = 1000;

/// Sets the segments of the log in `dir` aside from the one at `file` on, and leaves of that one
/// what stands before `offset`, which is good. Gives where they are.
///
/// A crash on the way leaves less of the log, never more: the caller has made it durable before
/// that this server's log is not whole.
///
/// # Errors
/// The operating system's.
pub fn set_aside_from(dir: &Path, file: &Path, offset: u64) -> Result<PathBuf, LogError> {
    let _lock = DirLock::take(dir)?;
    let first = file.file_name().and_then(segment::sequence_of).unwrap_or(0);
    let segments: Vec<_> = list(dir)?.into_iter().filter(|(it, _)| *it >= first).collect();
    let kept = match segments.first() {
        Some((sequence, path)) if *sequence == first => keep(path, offset)?,
        _ => None,
    };
    let aside = make_directory(dir)?;
    // The newest goes first, so that what stays is never a log with a gap.
    for (_, path) in segments.iter().rev() {
        let name = path.file_name().expect("a segment has a name");
        std::fs::rename(path, aside.join(name)).map_err(|e| LogError::io("rename", path, 0, e))?;
        segment::sync_dir(dir)?;
    }
    segment::sync_dir(&aside)?;
    if let Some(kept) = kept {
        std::fs::rename(&kept, file).map_err(|e| LogError::io("rename", &kept, 0, e))?;
        segment::sync_dir(dir)?;
    }
    Ok(aside)
}

/// Sets all segments of the log in `dir` aside.
///
/// # Errors
/// As for [`set_aside_from`].
pub fn set_aside_all(dir: &Path) -> Result<PathBuf, LogError> {
    set_aside_from(dir, &dir.join(segment::name(0)), 0)
}

/// A copy of what stands before `offset` in the segment at `path`, with zeros behind it, under the
/// name of one that is being made; `None` when there is nothing worth it.
fn keep(path: &Path, offset: u64) -> Result<Option<PathBuf>, LogError> {
    let error = |e| LogError::io("read", path, 0, e);
    let mut source = File::open(path).map_err(error)?;
    let length = source.metadata().map_err(error)?.len();
    if offset <= BLOCK as u64 || offset > length {
        return Ok(None);
    }
    let mut head = vec![0; BLOCK];
    source.read_exact(&mut head).map_err(error)?;
    let Some(header) = SegmentHeader::decode(&head) else { return Ok(None) };
    let offset = offset.min(header.size);
    let target = segment::unfinished(path);
    let error = |e| LogError::io("write", &target, 0, e);
    let mut file = File::create(&target).map_err(error)?;
    file.write_all(&head).map_err(error)?;
    std::io::copy(&mut source.take(offset - BLOCK as u64), &mut file).map_err(error)?;
    let mut zeros = std::io::repeat(0).take(header.size - offset);
    std::io::copy(&mut zeros, &mut file).map_err(error)?;
    file.sync_all().map_err(error)?;
    Ok(Some(target))
}

/// Makes the first directory whose name is free.
fn make_directory(dir: &Path) -> Result<PathBuf, LogError> {
    let mut number = 1;
    loop {
        let path = dir.join(format!("{PREFIX}{number}"));
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && number < COUNT_MAX => {
                number += 1;
            }
            made => {
                made.map_err(|e| LogError::io("create", &path, 0, e))?;
                return Ok(path);
            }
        }
    }
}
