//! The mapping of a segment: the one file of the log with `unsafe`.
//!
//! A mapped file is memory that others may change. Three things keep it sound here, and none of
//! them can be seen by the compiler:
//!
//! * The log's directory is locked, and nothing of ours truncates a segment or writes to it other
//!   than by the one write in flight. Another program that does so all the same breaks this.
//! * A slice is only made of bytes that are final: those below the durable end, or a whole segment
//!   during recovery, when nobody writes. A recycled segment is written again only when no reader
//!   holds its file.
//! * A latent read error of the disk, or a file that was truncated by somebody else, is a SIGBUS.
//!   Lengths are checked against the file when it is mapped; what happens later cannot be.

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A segment, mapped.
pub struct Map {
    raw: MmapRaw,
    writable: bool,
}

impl Map {
    /// Maps the first `length` bytes of `file` to be read.
    ///
    /// # Errors
    /// The operating system's, and `UnexpectedEof` when the file is shorter.
    pub fn read_only(file: &impl AsFd, length: usize) -> std::io::Result<Map> {
        check_length(file, length)?;
        let raw = MmapOptions::new().len(length).map_raw_read_only(file.as_fd().as_raw_fd())?;
        // Recovery and a learner's DIFF read forward. It is a hint, its refusal harmless.
        let _ = raw.advise(Advice::Sequential);
        Ok(Map { raw, writable: false })
    }

    /// Maps the first `length` bytes of `file` to be read and written, and touches every page, so
    /// that no store waits for a page to be read.
    ///
    /// # Errors
    /// As for [`Map::read_only`].
    pub fn writable(file: &impl AsFd, length: usize) -> std::io::Result<Map> {
        check_length(file, length)?;
        let mut options = MmapOptions::new();
        let raw = options.len(length).populate().map_raw(file.as_fd().as_raw_fd())?;
        Ok(Map { raw, writable: true })
    }

    /// The bytes in `range`, which must be final (see the module).
    ///
    /// # Panics
    /// If the range reaches outside of the mapping.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end);
        assert!(range.end <= self.raw.len());
        // SAFETY: the range is inside of the mapping, which lives as long as `self`. That nobody
        // changes the bytes meanwhile is the module's promise, not the compiler's.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(range.start), range.len()) }
    }

    /// Stores `bytes` at `offset`. They are durable after the file's next `fdatasync`.
    ///
    /// # Panics
    /// If the mapping is read-only or the range reaches outside of it.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(self.writable);
        let end = offset.checked_add(bytes.len()).expect("an offset in a segment");
        assert!(end <= self.raw.len());
        // SAFETY: the range is inside of the mapping, which is writable and lives as `self` does;
        // `bytes` is a slice of other memory, since slices of a mapping end below the durable end
        // and the one write in flight starts there.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.raw.as_mut_ptr().add(offset),
                bytes.len(),
            );
        }
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// True for a mapping of nothing, which cannot be made.
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }
}

/// Refuses to map beyond the end of the file: touching such a page is a SIGBUS.
fn check_length(file: &impl AsFd, length: usize) -> std::io::Result<()> {
    let stat = rustix::fs::fstat(file.as_fd())?;
    if u64::try_from(stat.st_size).is_ok_and(|size| size >= length as u64) {
        return Ok(());
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}
