//! Apache's transaction logs, read.
//!
//! ```text
//! log.<hex zxid>   jute; the zxid is that of the first transaction
//!   magic "ZKLG" i32 │ version 2 i32 │ dbid i64
//!   record   Adler32 of the payload i64 │ payload buffer │ 'B' u8
//!   payload  the transaction, as `wire::txn` draws it
//! ```
//! Files are filled with zeros ahead, so a payload of no bytes ends one. So does a record that is
//! cut off, in any file: after a crash Apache begins the next file. A checksum that is wrong is
//! damage.
//! Source: `FileTxnLog.java`, `Util.java` (`readTxnBytes`).

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::snapshot::SnapshotError;
use crate::snapshot::java::{VERSION_DIR, list};
use crate::zxid::Zxid;

/// "ZKLG".
const MAGIC: [u8; 4] = *b"ZKLG";
const VERSION: [u8; 4] = [0, 0, 0, 2];
const END_OF_RECORD: u8 = b'B';

/// The logs below `log_dir` that may have transactions after `zxid`, the oldest first: those that
/// begin after it, and the last one before.
pub fn logs_after(log_dir: &Path, zxid: Zxid) -> Result<Vec<PathBuf>, SnapshotError> {
    let files = list(&log_dir.join(VERSION_DIR), "log.")?;
    let plain = files.into_iter().filter(|(_, extension)| extension.is_empty());
    let files: Vec<_> = plain.map(|(file, _)| file).collect();
    let first = files.partition_point(|file| file.zxid <= zxid).saturating_sub(1);
    Ok(files.into_iter().skip(first).map(|file| file.path).collect())
}

/// A log being read.
pub struct LogReader<R> {
    stream: R,
    path: PathBuf,
    offset: u64,
    payload: Vec<u8>,
}

impl LogReader<BufReader<File>> {
    /// Opens the log at `path`; `None` if it ends within its header, as a crash may leave it.
    pub fn open(path: PathBuf) -> Result<Option<Self>, SnapshotError> {
        let file = File::open(&path).map_err(|e| SnapshotError::io("open", &path, 0, e))?;
        LogReader::new(BufReader::with_capacity(1 << 18, file), path)
    }
}

impl<R: Read> LogReader<R> {
    /// Reads the log in `stream` as [`LogReader::open`] does that of a file; `path` is what errors
    /// name.
    pub fn new(stream: R, path: PathBuf) -> Result<Option<Self>, SnapshotError> {
        let mut reader = LogReader { stream, path, offset: 0, payload: Vec::new() };
        let Some(header) = reader.array::<16>()? else { return Ok(None) };
        match header[..4] == MAGIC && header[4..8] == VERSION {
            true => {
                reader.offset = 16;
                Ok(Some(reader))
            }
            // A file whose header did not reach the disk before a crash.
            false if header == [0; 16] => Ok(None),
            false => Err(reader.damaged("it is no log of this version")),
        }
    }

    /// An error at the present place.
    pub fn damaged(&self, what: impl ToString) -> SnapshotError {
        SnapshotError::damaged(&self.path, self.offset, what)
    }

    /// The next bytes, unless the file ends.
    fn array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, SnapshotError> {
        let mut bytes = [0; N];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(SnapshotError::io("read", &self.path, self.offset, error)),
        }
    }

    /// The bytes of the next transaction; `None` at the end.
    ///
    /// # Errors
    /// A checksum is wrong, or the file cannot be read.
    pub fn next_payload(&mut self) -> Result<Option<&[u8]>, SnapshotError> {
        let (Some(crc), Some(length)) = (self.array()?, self.array()?) else { return Ok(None) };
        let length = match i32::from_be_bytes(length) {
            0 | -1 => return Ok(None),
            length => {
                u64::try_from(length).map_err(|_| self.damaged(format!("a length of {length}")))?
            }
        };
        self.payload.clear();
        (&mut self.stream)
            .take(length)
            .read_to_end(&mut self.payload)
            .map_err(|e| SnapshotError::io("read", &self.path, self.offset, e))?;
        if self.payload.len() as u64 != length {
            return Ok(None);
        }
        match self.array()? {
            Some([END_OF_RECORD]) => {}
            _ => return Ok(None),
        }
        if i64::from_be_bytes(crc) != i64::from(adler2::adler32_slice(&self.payload)) {
            return Err(self.damaged("the transaction's checksum is wrong"));
        }
        self.offset += 8 + 4 + length + 1;
        Ok(Some(&self.payload))
    }
}
