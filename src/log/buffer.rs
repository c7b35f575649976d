//! A byte buffer whose content starts on a device block and can be padded to whole blocks: what
//! `O_DIRECT` wants, in safe code.

use super::BLOCK;

/// Bytes that start at an address divisible by [`BLOCK`].
///
/// The allocation is one block larger than its capacity and the content starts at the first
/// aligned byte of it. Moving the value does not move the bytes, so a write in flight may own one.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer that holds `capacity` bytes (rounded up to whole blocks) before it grows.
    pub fn with_capacity(capacity: usize) -> AlignedBuffer {
        let capacity = capacity.next_multiple_of(BLOCK).max(BLOCK);
        let bytes = vec![0; capacity + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        // `align_offset` may decline to answer; a buffer that is not aligned must not exist.
        assert!(start < BLOCK, "a byte pointer can always be aligned to a block");
        AlignedBuffer { bytes, start, len: 0 }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The content, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// Bytes of content.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without content.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit without a further allocation.
    pub fn capacity(&self) -> usize {
        self.bytes.len() - BLOCK
    }

    /// Appends `more`, growing to at least twice the size when it does not fit.
    pub fn extend(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        self.reserve_to(end);
        self.bytes[self.start + self.len..self.start + end].copy_from_slice(more);
        self.len = end;
    }

    /// Appends zeros until the content is whole blocks.
    pub fn pad_to_block(&mut self) {
        self.extend_zeros(self.len.next_multiple_of(BLOCK) - self.len);
        assert!(self.len.is_multiple_of(BLOCK));
    }

    /// Appends `count` zeros.
    pub fn extend_zeros(&mut self, count: usize) {
        let end = self.len + count;
        self.reserve_to(end);
        // A buffer that is used again holds what stood there before.
        self.bytes[self.start + self.len..self.start + end].fill(0);
        self.len = end;
    }

    /// Makes the content `len` bytes long, whatever they are: to be read into.
    pub(super) fn set_len(&mut self, len: usize) {
        self.reserve_to(len);
        self.len = len;
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn reserve_to(&mut self, end: usize) {
        if end <= self.capacity() {
            return;
        }
        let mut larger = AlignedBuffer::with_capacity(end.max(2 * self.capacity()));
        larger.len = self.len;
        larger.bytes_mut().copy_from_slice(self.bytes());
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_aligned(buffer: &AlignedBuffer) {
        assert_eq!(buffer.bytes().as_ptr() as usize % BLOCK, 0);
    }

    #[test]
    fn stays_aligned_and_whole_while_it_grows_and_moves() {
        let mut buffer = AlignedBuffer::with_capacity(1);
        check_aligned(&buffer);
        let mut want = Vec::new();
        for round in 0..3000u32 {
            buffer.extend(&round.to_le_bytes());
            want.extend_from_slice(&round.to_le_bytes());
        }
        let moved = Box::new(buffer);
        check_aligned(&moved);
        assert_eq!(moved.bytes(), want);
    }

    #[test]
    fn padding_is_zeros_even_over_earlier_content() {
        let mut buffer = AlignedBuffer::with_capacity(BLOCK);
        buffer.extend(&[0xff; BLOCK]);
        buffer.clear();
        buffer.extend(b"abc");
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK);
        assert_eq!(&buffer.bytes()[..3], b"abc");
        assert!(buffer.bytes()[3..].iter().all(|byte| *byte == 0));
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK);
    }
}
