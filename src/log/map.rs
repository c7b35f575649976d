//! The mapping of a segment that the `mmap` writer stores through: the one file of the log with
//! `unsafe`.
//!
//! A mapped file is memory that others may change. Nothing is ever read through this mapping: no
//! slice of it is made, so that no change by others can be seen in one. What remains is that a page
//! which cannot be read when it is stored to, or that somebody cut off, is a SIGBUS. So the kernel
//! is asked for the pages, writable, before each store: where it has none to give it says so.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A segment, mapped to be written.
pub struct Map {
    raw: MmapRaw,
}

impl Map {
    /// Maps the first `length` bytes of `file`, which is open to be read and written, and touches
    /// every page, so that no store waits for a page to be read.
    ///
    /// # Errors
    /// The operating system's, and `UnexpectedEof` when the file is shorter.
    pub fn writable(file: &impl AsFd, length: usize) -> std::io::Result<Map> {
        check_length(file, length)?;
        let mut options = MmapOptions::new();
        let raw = options.len(length).populate().map_raw(file.as_fd().as_raw_fd())?;
        Ok(Map { raw })
    }

    /// Stores `bytes` at `offset`. They are durable after the file's next `fdatasync`.
    ///
    /// # Errors
    /// Their pages cannot be had: the disk does not read them, the volume has no room for them, or
    /// the file was cut short. Nothing is stored.
    ///
    /// # Panics
    /// If the range reaches outside of the mapping.
    pub fn store(&self, offset: usize, bytes: &[u8]) -> std::io::Result<()> {
        let end = offset.checked_add(bytes.len()).expect("an offset in a segment");
        assert!(end <= self.raw.len());
        self.raw.advise_range(Advice::PopulateWrite, offset, bytes.len())?;
        // SAFETY: the range is inside of the mapping, which is writable and lives as `self` does;
        // `bytes` is a slice of other memory, since nobody makes slices of a mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.raw.as_mut_ptr().add(offset),
                bytes.len(),
            );
        }
        Ok(())
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

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "a mapping is of a file")]
mod tests {
    use std::fs::File;

    use super::*;

    /// A22: a SIGBUS would end the process without a word.
    #[test]
    fn a22_a_store_to_what_was_cut_off_is_an_error() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::options().read(true).write(true).open(path.path()).unwrap();
        file.set_len(64 << 10).unwrap();
        let map = Map::writable(&file, 64 << 10).unwrap();
        map.store(4096, &[7; 4096]).unwrap();
        file.set_len(8192).unwrap();
        map.store(4096, &[8; 4096]).unwrap();
        assert!(map.store(8192, &[9; 4096]).is_err());
        assert!(map.store(4096, &[9; 8192]).is_err());
        assert_eq!(std::fs::read(path.path()).unwrap()[4096..], [8; 4096]);
    }
}
