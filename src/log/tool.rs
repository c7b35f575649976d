//! What an operator sees of a log: its batches, and where it is damaged. Nothing is changed, and a
//! log in use may be looked at: its newest batch then looks torn while it is being written.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::zxid::Zxid;

use super::batch::{self, Header};
use super::bytes::{Bytes, SegmentBytes};
use super::recover::{damaged, file_length, list, read_segment};
use super::scan::{Scanner, SegmentScan, Stop};
use super::segment::{self, SegmentFile};
use super::{BLOCK, LogError};

/// Prints every segment of the log in the directory `path` (or the one segment at `path`) with
/// each of its batches, and the verdict.
///
/// # Errors
/// [`LogError::Damaged`] for a damaged log, after all before the damage was printed.
pub fn dump(path: &Path, out: &mut dyn Write) -> Result<(), LogError> {
    walk(path, out, true)
}

/// Prints each segment's figures and the verdict.
///
/// # Errors
/// As for [`dump`].
pub fn verify(path: &Path, out: &mut dyn Write) -> Result<(), LogError> {
    walk(path, out, false)
}

fn walk(path: &Path, out: &mut dyn Write, batches: bool) -> Result<(), LogError> {
    let mut scanner = Scanner::default();
    for (sequence, path) in segments(path)? {
        let length = file_length(&path)?;
        let file = SegmentFile::open_to_read(path.clone(), sequence, length)?;
        print(out, format_args!("{}", path.display()))?;
        if batches {
            print_batches(out, &mut file.bytes_to(length))?;
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        match read_segment(dir, &file, &mut scanner) {
            Ok(scan) => print_segment(out, scan)?,
            Err(error) => return refuse(out, error),
        }
    }
    match scanner.finish(Zxid::ZERO) {
        Ok(history) => {
            print(out, format_args!("sound through zxid {}", history.last))?;
            print(out, format_args!("marked durable through zxid {}", history.durable_mark))
        }
        Err(damage) => refuse(out, damaged(path.parent().unwrap_or(Path::new("")), damage)),
    }
}

/// The segments below `path`, or the one that it is.
fn segments(path: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    match path.file_name().and_then(segment::sequence_of) {
        Some(sequence) if !path.is_dir() => Ok(vec![(sequence, path.to_owned())]),
        _ => list(path),
    }
}

fn refuse(out: &mut dyn Write, error: LogError) -> Result<(), LogError> {
    print(out, format_args!("DAMAGED: {error}"))?;
    Err(error)
}

/// Each batch as its header tells it, up to the first place without one.
fn print_batches(out: &mut dyn Write, bytes: &mut SegmentBytes<'_>) -> Result<(), LogError> {
    let mut offset = BLOCK as u64;
    while offset < bytes.count()
        && let left = bytes.count() - offset
        && let Ok(header) = Header::decode(bytes.at(offset, left.min(BLOCK as u64))?)
        && header.offset == offset
    {
        let Header { kind, first, last, previous, durable, count, length, .. } = header;
        let batch = bytes.at(offset, header.padded_bytes().min(left))?;
        let fault = match batch::check_payload(&header, batch) {
            Ok(records) => format!(" committed {}", records.committed()),
            Err(fault) => format!(" BAD: {fault}"),
        };
        print(
            out,
            format_args!(
                "  {offset:>10} {kind:?} segment {} first {first} last {last} after {previous} \
                 txns {count} bytes {length} durable {durable}{fault}",
                header.sequence
            ),
        )?;
        offset = offset.saturating_add(header.padded_bytes());
    }
    Ok(())
}

fn print_segment(out: &mut dyn Write, scan: &SegmentScan) -> Result<(), LogError> {
    let SegmentScan { batches, txns, bytes, previous, highest, end, .. } = scan;
    print(
        out,
        format_args!(
            "  batches {batches} txns {txns} bytes {bytes} after {previous} through {highest} \
             end {end}"
        ),
    )?;
    match (&scan.stop, &scan.header) {
        (_, None) => print(out, format_args!("  no segment header: never used")),
        (Stop::Torn { why, .. }, _) => print(out, format_args!("  torn tail at {end}: {why}")),
        (Stop::Leftover, _) => print(out, format_args!("  then an older segment's leftovers")),
        (Stop::Zeros | Stop::End, _) => Ok(()),
    }
}

fn print(out: &mut dyn Write, line: std::fmt::Arguments<'_>) -> Result<(), LogError> {
    writeln!(out, "{line}").map_err(|e| LogError::io("print", Path::new("the output"), 0, e))
}
