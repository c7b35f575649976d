//! Jute over streams, with the running Adler32 of Apache's files, and xerial's framing of snappy.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use adler2::Adler32;

use crate::snapshot::SnapshotError;
use crate::wire::jute::Write as _;

/// Reads jute from a stream of any length and content.
pub struct JuteReader<'p> {
    stream: Box<dyn Read + 'p>,
    path: &'p Path,
    /// Of everything that was read.
    adler: Adler32,
    offset: u64,
    /// A byte that was read to see whether there is one.
    ahead: Option<u8>,
}

impl<'p> JuteReader<'p> {
    /// A reader of `stream`; `path` is what errors name.
    pub fn new(stream: Box<dyn Read + 'p>, path: &'p Path) -> JuteReader<'p> {
        JuteReader { stream, path, adler: Adler32::new(), offset: 0, ahead: None }
    }

    /// An error at the present place; its offset is that in the uncompressed stream.
    pub fn damaged(&self, what: impl ToString) -> SnapshotError {
        SnapshotError::damaged(self.path, self.offset, what)
    }

    fn error(&self, error: std::io::Error) -> SnapshotError {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.damaged("it is cut off"),
            // What a decompressor says of its input.
            ErrorKind::InvalidData | ErrorKind::InvalidInput => self.damaged(error),
            _ => SnapshotError::io("read", self.path, self.offset, error),
        }
    }

    fn took(&mut self, bytes: &[u8]) {
        self.adler.write_slice(bytes);
        self.offset += bytes.len() as u64;
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        let start = usize::from(self.ahead.is_some());
        if let Some(ahead) = self.ahead.take() {
            bytes[0] = ahead;
        }
        self.stream.read_exact(&mut bytes[start..]).map_err(|e| self.error(e))?;
        self.took(&bytes);
        Ok(bytes)
    }

    /// Whether nothing follows.
    pub fn is_at_end(&mut self) -> Result<bool, SnapshotError> {
        let mut byte = [0];
        match self.stream.read_exact(&mut byte) {
            Ok(()) => {
                self.ahead = Some(byte[0]);
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(self.error(error)),
        }
    }

    /// A signed 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, SnapshotError> {
        self.array().map(i32::from_be_bytes)
    }

    /// A signed 64-bit integer.
    pub fn i64(&mut self) -> Result<i64, SnapshotError> {
        self.array().map(i64::from_be_bytes)
    }

    /// The count of a table. Nothing may be allocated by it.
    pub fn count(&mut self) -> Result<u32, SnapshotError> {
        let count = self.i32()?;
        u32::try_from(count).map_err(|_| self.damaged(format!("a count of {count}")))
    }

    /// A byte buffer, or `None` for null. Memory grows with what is there, whatever its length
    /// says.
    pub fn buffer(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let length = match self.i32()? {
            -1 => return Ok(None),
            length => length,
        };
        let wanted = u64::try_from(length).map_err(|_| self.damaged("a negative length"))?;
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(wanted).read_to_end(&mut bytes);
        read.map_err(|e| self.error(e))?;
        if bytes.len() as u64 != wanted {
            return Err(self.damaged("it is cut off"));
        }
        self.took(&bytes);
        Ok(Some(bytes))
    }

    /// A string; null is empty.
    pub fn string(&mut self) -> Result<String, SnapshotError> {
        let bytes = self.buffer()?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| self.damaged("a string is not UTF-8"))
    }

    /// Bytes read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adler32 of everything that was read.
    pub fn checksum(&self) -> u32 {
        self.adler.checksum()
    }

    /// Reads a seal and checks it.
    pub fn seal(&mut self) -> Result<(), SnapshotError> {
        let expected = self.checksum();
        match self.i32()? {
            0 => self.finish_seal(expected),
            _ => Err(self.damaged("the checksum is wrong")),
        }
    }

    /// Reads what follows the upper half, which is zero, of a seal that should be `expected`.
    pub fn finish_seal(&mut self, expected: u32) -> Result<(), SnapshotError> {
        let found = self.i32()?.cast_unsigned();
        // Apache ignores what the string says.
        self.string()?;
        match found == expected {
            true => Ok(()),
            false => Err(self.damaged("the checksum is wrong")),
        }
    }
}

/// Writes jute to a stream.
pub struct JuteWriter<'p, W> {
    stream: W,
    path: &'p Path,
    adler: Adler32,
    buffer: Vec<u8>,
}

impl<'p, W: Write> JuteWriter<'p, W> {
    /// A writer to `stream`; `path` is what errors name.
    pub fn new(stream: W, path: &'p Path) -> JuteWriter<'p, W> {
        JuteWriter { stream, path, adler: Adler32::new(), buffer: Vec::new() }
    }

    /// Writes what `encode` appends.
    pub fn record(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), SnapshotError> {
        self.buffer.clear();
        encode(&mut self.buffer);
        self.adler.write_slice(&self.buffer);
        self.stream.write_all(&self.buffer).map_err(|e| SnapshotError::io("write", self.path, 0, e))
    }

    /// Writes the checksum of everything before it.
    pub fn seal(&mut self) -> Result<(), SnapshotError> {
        let adler = i64::from(self.adler.checksum());
        self.record(|out| {
            out.put_i64(adler);
            out.put_string("/");
        })
    }

    /// The stream.
    pub fn into_inner(self) -> W {
        self.stream
    }
}

/// What a stream of `SnappyOutputStream` begins with: magic, version 1, compatible with 1.
///
/// ```text
/// header 16 │ (length i32 │ a raw snappy block) …      integers big-endian
/// ```
const SNAPPY_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Uncompressed bytes of a block as xerial's stream writes them.
const SNAPPY_BLOCK: usize = 32 << 10;
/// A block is not larger than this, either way: xerial's own blocks are configurable up to
/// half a gigabyte, and nobody makes them so.
const SNAPPY_BLOCK_MAX: usize = 64 << 20;

/// Decompresses what xerial's `SnappyOutputStream` wrote.
pub struct SnappyReader<R> {
    inner: R,
    begun: bool,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> SnappyReader<R> {
    /// A reader of what `inner` holds.
    pub fn new(inner: R) -> SnappyReader<R> {
        SnappyReader { inner, begun: false, block: Vec::new(), at: 0 }
    }

    /// The next block; none at the end.
    fn next_block(&mut self) -> std::io::Result<()> {
        let invalid = |what: &str| std::io::Error::new(ErrorKind::InvalidData, what);
        if !self.begun {
            let mut header = [0; SNAPPY_HEADER.len()];
            self.inner.read_exact(&mut header)?;
            if header[..8] != SNAPPY_HEADER[..8] {
                return Err(invalid("it is not compressed by snappy"));
            }
            self.begun = true;
        }
        self.block.clear();
        self.at = 0;
        let mut length = Vec::new();
        (&mut self.inner).take(4).read_to_end(&mut length)?;
        if length.is_empty() {
            return Ok(());
        }
        let length = length.try_into().map_err(|_| ErrorKind::UnexpectedEof)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > SNAPPY_BLOCK_MAX {
            return Err(invalid("a compressed block is too large"));
        }
        let mut compressed = Vec::new();
        (&mut self.inner).take(length as u64).read_to_end(&mut compressed)?;
        if compressed.len() != length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let size = snap::raw::decompress_len(&compressed).map_err(|e| invalid(&e.to_string()))?;
        if size > SNAPPY_BLOCK_MAX {
            return Err(invalid("a block is too large"));
        }
        self.block = snap::raw::Decoder::new()
            .decompress_vec(&compressed)
            .map_err(|e| invalid(&e.to_string()))?;
        match self.block.is_empty() {
            true => Err(invalid("an empty block")),
            false => Ok(()),
        }
    }
}

impl<R: Read> Read for SnappyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() {
            self.next_block()?;
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Compresses as xerial's `SnappyOutputStream` does.
pub struct SnappyWriter<W> {
    inner: W,
    block: Vec<u8>,
}

impl<W: Write> SnappyWriter<W> {
    /// A writer to `inner`, which gets the header at once.
    pub fn new(mut inner: W) -> std::io::Result<SnappyWriter<W>> {
        inner.write_all(&SNAPPY_HEADER)?;
        Ok(SnappyWriter { inner, block: Vec::with_capacity(SNAPPY_BLOCK) })
    }

    fn end_block(&mut self) -> std::io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let compressed = snap::raw::Encoder::new().compress_vec(&self.block)?;
        let length = u32::try_from(compressed.len()).expect("a block of 32 KiB");
        self.inner.write_all(&length.to_be_bytes())?;
        self.inner.write_all(&compressed)?;
        self.block.clear();
        Ok(())
    }

    /// Ends the last block.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.end_block()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for SnappyWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(SNAPPY_BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == SNAPPY_BLOCK {
            self.end_block()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
