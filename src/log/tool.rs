//! What an operator sees of a log: its batches, and where it is damaged. Nothing is changed, and a
//! log in use may be looked at: its newest batch then looks torn while it is being written.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::zxid::Zxid;

use super::batch::{self, Header};
use super::recover::list;
use super::scan::{Damage, Image, Scanner, SegmentScan, Stop};
use super::segment::{self, to_usize};
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
    for (sequence, file) in segments(path)? {
        let bytes = std::fs::read(&file).map_err(|e| LogError::io("read", &file, 0, e))?;
        let image = Image { sequence, bytes: &bytes };
        print(out, format_args!("{}", file.display()))?;
        if batches {
            print_batches(out, &bytes)?;
        }
        match scanner.segment(&image) {
            Ok(scan) => print_segment(out, scan)?,
            Err(damage) => return refuse(out, &file, damage),
        }
    }
    match scanner.finish(Zxid::ZERO) {
        Ok(history) => {
            print(out, format_args!("sound through zxid {}", history.last))?;
            print(out, format_args!("marked durable through zxid {}", history.durable_mark))
        }
        Err(damage) => refuse(out, path, damage),
    }
}

/// The segments below `path`, or the one that it is.
fn segments(path: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    match path.file_name().and_then(segment::sequence_of) {
        Some(sequence) if !path.is_dir() => Ok(vec![(sequence, path.to_owned())]),
        _ => list(path),
    }
}

fn refuse(out: &mut dyn Write, file: &Path, damage: Damage) -> Result<(), LogError> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let error = super::recover::damaged(dir, damage);
    print(out, format_args!("DAMAGED: {error}"))?;
    Err(error)
}

/// Each batch as its header tells it, up to the first place without one.
fn print_batches(out: &mut dyn Write, bytes: &[u8]) -> Result<(), LogError> {
    let mut offset = BLOCK;
    while let Some(rest) = bytes.get(offset..)
        && let Ok(header) = Header::decode(rest)
        && header.offset == offset as u64
    {
        let Header { kind, first, last, previous, durable, count, length, .. } = header;
        let fault = match batch::check_payload(&header, rest) {
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
        offset = offset.saturating_add(to_usize(header.padded_bytes()));
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
