//! The bytes of a segment, read as they are wanted.
//!
//! Files are read and not mapped: a bad sector, or a file that somebody cuts short, is an error
//! that names its place, where under a mapping it is a signal that ends the process. A copy costs
//! no more than the page faults that it saves.

use std::convert::Infallible;

use super::buffer::AlignedBuffer;
use super::segment::{SegmentFile, to_usize};
use super::{BLOCK, LogError};

/// Bytes read at once, unless more is wanted: a read of this size costs little more than one of a
/// block, and it stays in the core's cache until it is used up.
pub const WINDOW_BYTES: u64 = 256 << 10;
const _: () = assert!(WINDOW_BYTES.is_multiple_of(BLOCK as u64));

/// Bytes that do not change while they are looked at, wherever they stand.
pub trait Bytes {
    /// Why some cannot be read.
    type Error;

    /// How many there are.
    fn count(&self) -> u64;

    /// `count` of them from `offset` on, which are all there.
    ///
    /// # Errors
    /// Those that are asked for cannot be read.
    fn at(&mut self, offset: u64, count: u64) -> Result<&[u8], Self::Error>;
}

impl Bytes for &[u8] {
    type Error = Infallible;

    fn count(&self) -> u64 {
        self.len() as u64
    }

    fn at(&mut self, offset: u64, count: u64) -> Result<&[u8], Infallible> {
        Ok(&self[to_usize(offset)..to_usize(offset + count)])
    }
}

/// The first bytes of a segment's file, through a window that moves over it.
pub struct SegmentBytes<'f> {
    file: &'f SegmentFile,
    count: u64,
    /// Where the window starts in the file.
    start: u64,
    window: Option<AlignedBuffer>,
}

impl SegmentFile {
    /// The bytes from the segment's start to `end`, which must be final.
    pub(super) fn bytes_to(&self, end: u64) -> SegmentBytes<'_> {
        assert!(end <= self.size());
        SegmentBytes { file: self, count: end, start: 0, window: None }
    }
}

impl SegmentBytes<'_> {
    /// Moves the window to `offset`, a block's, and reads `count` bytes and what follows them.
    fn move_to(&mut self, offset: u64, count: u64) -> Result<(), LogError> {
        let left = self.count - offset;
        let window =
            self.window.get_or_insert_with(|| AlignedBuffer::with_capacity(to_usize(WINDOW_BYTES)));
        // The last block counts whole, where the file has it: it may be open around the cache.
        let whole =
            |count: u64| count.next_multiple_of(BLOCK as u64).min(self.file.size() - offset);
        window.set_len(to_usize(whole(count.max(WINDOW_BYTES).min(left))));
        self.start = offset;
        let mut read = self.file.read_at(offset, window.bytes_mut());
        if read.is_err() && count < WINDOW_BYTES {
            // What cannot be read may stand behind what is wanted.
            window.set_len(to_usize(whole(count)));
            read = self.file.read_at(offset, window.bytes_mut());
        }
        if read.is_err() {
            window.clear();
        }
        read
    }
}

impl Bytes for SegmentBytes<'_> {
    type Error = LogError;

    fn count(&self) -> u64 {
        self.count
    }

    fn at(&mut self, offset: u64, count: u64) -> Result<&[u8], LogError> {
        assert!(offset <= self.count);
        assert!(count <= self.count - offset);
        let held = self.window.as_ref().map_or(0, AlignedBuffer::len) as u64;
        if offset < self.start || offset + count > self.start + held {
            self.move_to(offset, count)?;
        }
        let at = to_usize(offset - self.start);
        let window = self.window.as_ref().map_or(&[][..], AlignedBuffer::bytes);
        Ok(&window[at..at + to_usize(count)])
    }
}
