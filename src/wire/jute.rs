//! Jute: big-endian integers, and strings, buffers and vectors behind an i32 length.
//!
//! A length of -1 stands for null, which is not the same as empty. Records stand inline, untagged.
//! Source: `BinaryInputArchive.java` and `BinaryOutputArchive.java` in Apache's zookeeper-jute.

use crate::wire::error::DecodeError;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads jute values from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    /// What has not been read.
    pub const fn remaining(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `count` bytes as they are.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// A byte that is 0 or not.
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.array::<1>()? != [0])
    }

    /// A signed 32-bit integer.
    pub fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// A signed 64-bit integer.
    pub fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length as it stands before a buffer, string or vector: `None` for null.
    fn length(&mut self) -> Result<Option<usize>> {
        match self.i32()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| DecodeError::NegativeLength),
        }
    }

    /// A byte buffer, or `None` for null.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>> {
        match self.length()? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    /// A string. Null reads as empty, which no field of the protocol allows either.
    pub fn string(&mut self) -> Result<&'a str> {
        let bytes = self.buffer()?.unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)
    }

    /// The count of a vector whose elements take at least `element_size_min` bytes each; null
    /// counts as zero.
    ///
    /// # Errors
    /// `Truncated` when so many elements cannot stand in what is left: checked here, before
    /// anybody allocates by the count.
    pub fn count(&mut self, element_size_min: usize) -> Result<usize> {
        let count = self.length()?.unwrap_or(0);
        let size = count.checked_mul(element_size_min).ok_or(DecodeError::Truncated)?;
        if size > self.bytes.len() { Err(DecodeError::Truncated) } else { Ok(count) }
    }

    /// A vector of strings.
    pub fn strings(&mut self) -> Result<Vec<&'a str>> {
        let count = self.count(4)?;
        (0..count).map(|_| self.string()).collect()
    }
}

/// Appends jute values to a byte vector.
pub trait Write {
    /// A byte that is 0 or 1.
    fn put_bool(&mut self, value: bool);
    /// A signed 32-bit integer.
    fn put_i32(&mut self, value: i32);
    /// A signed 64-bit integer.
    fn put_i64(&mut self, value: i64);
    /// A length before a buffer or string, or the count of a vector.
    fn put_length(&mut self, length: usize);
    /// A byte buffer, or null.
    fn put_buffer(&mut self, value: Option<&[u8]>);
    /// A string.
    fn put_string(&mut self, value: &str);
}

impl Write for Vec<u8> {
    fn put_bool(&mut self, value: bool) {
        self.push(u8::from(value));
    }

    fn put_i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_length(&mut self, length: usize) {
        self.put_i32(i32::try_from(length).expect("lengths were bounded where they came in"));
    }

    fn put_buffer(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.put_i32(-1),
            Some(bytes) => {
                self.put_length(bytes.len());
                self.extend_from_slice(bytes);
            }
        }
    }

    fn put_string(&mut self, value: &str) {
        self.put_buffer(Some(value.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_empty() {
        let mut bytes = Vec::new();
        bytes.put_buffer(None);
        bytes.put_buffer(Some(b""));
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.buffer(), Ok(None));
        assert_eq!(reader.buffer(), Ok(Some(&b""[..])));
        assert!(reader.is_empty());
    }

    #[test]
    fn declared_lengths_are_checked_against_what_is_there() {
        assert_eq!(Reader::new(&[0x7f, 0xff, 0xff, 0xff, 1]).buffer(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).count(4), Err(DecodeError::Truncated));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xfe]).buffer(),
            Err(DecodeError::NegativeLength)
        );
        assert_eq!(Reader::new(&[0, 0]).i32(), Err(DecodeError::Truncated));
    }

    #[test]
    fn strings_must_be_utf8() {
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0xff]).string(), Err(DecodeError::NotUtf8));
    }
}
