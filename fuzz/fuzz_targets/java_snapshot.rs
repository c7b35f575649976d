//! Whatever stands in a snapshot of Apache's, behind seals that are right: it is read or refused.
//! What was read can be written as ours, as an import does.
//!
//! The first byte says how the rest is compressed: 1 by snappy, 2 by gzip, anything else not at
//! all. Of what is not compressed the seals are made, since a fuzzer would find few of them.
#![no_main]

mod again;
mod scratch;

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use ringkeeper::snapshot::SnapshotError;
use ringkeeper::snapshot::java::{self, JavaFile};
use ringkeeper::snapshot::load::LoadOptions;
use ringkeeper::time::Time;
use ringkeeper::tree::writer::TreeConfig;
use ringkeeper::zxid::Zxid;

const ZXID: Zxid = Zxid::from_raw(0x1_0000_0007);
const OPTIONS: LoadOptions = LoadOptions {
    tree: TreeConfig { seed: 7, extended_types: true },
    now: Time::from_nanos(0),
    threads: 1,
};
/// A snapshot has at most three.
const SEALS_MAX: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, bytes)) = bytes.split_first() else { return };
    let compressed = match mode {
        1 => Some("snapshot.snappy"),
        2 => Some("snapshot.gz"),
        _ => None,
    };
    let path = PathBuf::from(compressed.unwrap_or("snapshot"));
    let file = JavaFile { zxid: ZXID, path };
    if compressed.is_some() {
        let _ = java::read_stream(bytes, &file, &OPTIONS);
        return;
    }
    let mut bytes = bytes.to_vec();
    for _ in 0..=SEALS_MAX {
        match java::read_stream(&bytes[..], &file, &OPTIONS) {
            Ok(fuzzy) => {
                let sessions: Vec<(i64, i32)> = fuzzy.sessions.into_iter().collect();
                return again::check(&fuzzy.writer, &sessions, &OPTIONS);
            }
            Err(SnapshotError::Damaged { offset, what, .. }) if what.contains("checksum") => {
                if !mend(&mut bytes, offset as usize) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
});

/// Makes the seal that was found wrong when `end` bytes were read; false when it was right.
fn mend(bytes: &mut [u8], end: usize) -> bool {
    // The upper half alone was read if it is not zero; else the lower one, too, and a string.
    for start in (end.saturating_sub(4096)..end.saturating_sub(3)).rev() {
        let Some(sealed) = bytes.get(..start) else { continue };
        let seal = i64::from(adler2::adler32_slice(sealed)).to_be_bytes();
        let is_upper = start + 4 == end && bytes[start..end] != [0; 4];
        let text_length = || -> Option<usize> {
            let length = bytes.get(start + 8..start + 12)?;
            let length = i32::from_be_bytes(length.try_into().ok()?);
            Some(usize::try_from(length).unwrap_or(0))
        };
        let is_whole = bytes[start..].starts_with(&[0; 4])
            && text_length().is_some_and(|length| start + 12 + length == end);
        if (is_upper || is_whole) && start + 8 <= bytes.len() {
            let changed = bytes[start..start + 8] != seal;
            bytes[start..start + 8].copy_from_slice(&seal);
            return changed;
        }
    }
    false
}
