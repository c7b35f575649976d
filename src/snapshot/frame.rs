//! The files of a snapshot: a header and checksummed frames, written and read in order.
//!
//! Files are read and not mapped. A frame is validated and used up while it is in the cache of the
//! core that read it, so a mapping would save one copy of each byte; and an error of the disk is an
//! error here, where with a mapping it is a SIGBUS.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkyv::api::high::HighSerializer;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

use crate::snapshot::schema::FileEntry;
use crate::snapshot::{
    ARCHIVE_BYTES, ARCHIVE_BYTES_MAX, FILE_HEADER_BYTES, FRAME_ALIGN, FRAME_HEADER_BYTES, MAGIC,
    SnapshotError, VERSION,
};
use crate::zxid::Zxid;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    Manifest = 1,
    Znodes = 2,
    Acls = 3,
    Sessions = 4,
}

impl Kind {
    /// The kind with this number.
    pub fn from_raw(raw: u32) -> Option<Kind> {
        [Kind::Manifest, Kind::Znodes, Kind::Acls, Kind::Sessions]
            .into_iter()
            .find(|kind| *kind as u32 == raw)
    }

    /// The name of the file number `index` of this kind.
    pub fn file_name(self, index: u32) -> String {
        match self {
            Kind::Manifest => "manifest".into(),
            Kind::Znodes => format!("znodes.{index:04}"),
            Kind::Acls => "acls".into(),
            Kind::Sessions => "sessions".into(),
        }
    }
}

/// Which file of which snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub zxid: Zxid,
    pub kind: Kind,
    pub index: u32,
}

/// What `O_DIRECT` wants buffers, offsets and lengths to be multiples of, on every disk.
const BLOCK: usize = 4096;
/// How much is written at once.
const STEP_BYTES: usize = ARCHIVE_BYTES;

const _: () = assert!(STEP_BYTES.is_multiple_of(BLOCK));

/// How the writing of a snapshot gives way to the rest of the server.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// It pauses after each step.
    Considerate,
    /// It does not: nobody else is there.
    Full,
}

/// How long a considerate writer pauses after each step. With 256 KiB a step this bounds it to
/// 128 MB/s, half of which a disk that does 200 MB/s has left for the log.
const PAUSE: Duration = Duration::from_millis(2);

impl Pace {
    pub(super) fn pause(self) {
        if let Pace::Considerate = self {
            #[expect(clippy::disallowed_methods, reason = "a thread of its own, not a core's")]
            std::thread::sleep(PAUSE);
        }
    }
}

/// The buffer of a file being written: kept from file to file.
pub type Buffer = AlignedVec<BLOCK>;

/// Puts archives into such a buffer.
type Serializer<'a> = HighSerializer<Buffer, ArenaHandle<'a>, rancor::Error>;

/// A file being written.
pub struct FileWriter {
    file: File,
    path: PathBuf,
    place: Place,
    header: [u8; FILE_HEADER_BYTES],
    pace: Pace,
    /// What is not written yet; it starts at `written` in the file.
    buffer: Buffer,
    written: u64,
    crc: u32,
}

/// The header of a file.
fn header(place: Place) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(place.kind as u32).to_le_bytes());
    header[16..24].copy_from_slice(&place.zxid.raw().to_le_bytes());
    header[24..28].copy_from_slice(&place.index.to_le_bytes());
    let crc = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The checksum of a frame.
fn frame_crc(file_header: &[u8], length: u32, offset: u64, archive: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&length.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc = crc32c::crc32c_append(crc, file_header);
    crc32c::crc32c_append(crc, archive)
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(FRAME_ALIGN) - length
}

impl FileWriter {
    /// Makes the file in `dir`, where it must not be yet. `buffer` comes back from
    /// [`FileWriter::finish`].
    pub fn create(
        dir: &Path,
        place: Place,
        pace: Pace,
        mut buffer: Buffer,
    ) -> Result<FileWriter, SnapshotError> {
        let path = dir.join(place.kind.file_name(place.index));
        let file = create(&path).map_err(|e| SnapshotError::io("create", &path, 0, e))?;
        let header = header(place);
        buffer.clear();
        buffer.extend_from_slice(&header);
        Ok(FileWriter { file, path, place, header, pace, buffer, written: 0, crc: 0 })
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends a frame.
    pub fn append(
        &mut self,
        archive: &impl for<'a> rkyv::Serialize<Serializer<'a>>,
    ) -> Result<(), SnapshotError> {
        let (start, offset) = (self.buffer.len(), self.length());
        self.buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer = rkyv::api::high::to_bytes_in(archive, buffer)
            .map_err(|e| SnapshotError::io("serialize", &self.path, offset, io_error(e)))?;
        let archive = &self.buffer[start + FRAME_HEADER_BYTES..];
        if archive.len() > ARCHIVE_BYTES_MAX {
            let error = io_error("an archive is too large");
            return Err(SnapshotError::io("serialize", &self.path, offset, error));
        }
        let length = archive.len() as u32;
        let crc = frame_crc(&self.header, length, offset, archive);
        let padding = padding(archive.len());
        let frame = &mut self.buffer.as_mut_slice()[start..];
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        frame[8..16].copy_from_slice(&offset.to_le_bytes());
        self.buffer.extend_from_slice(&[0; FRAME_ALIGN][..padding]);
        self.write_steps()
    }

    /// Writes what makes whole steps.
    fn write_steps(&mut self) -> Result<(), SnapshotError> {
        let whole = self.buffer.len() / STEP_BYTES * STEP_BYTES;
        for at in (0..whole).step_by(STEP_BYTES) {
            self.write(at..at + STEP_BYTES)?;
            self.pace.pause();
        }
        let rest = self.buffer.len() - whole;
        self.buffer.as_mut_slice().copy_within(whole.., 0);
        self.buffer.resize(rest, 0);
        Ok(())
    }

    fn write(&mut self, range: std::ops::Range<usize>) -> Result<(), SnapshotError> {
        let bytes = &self.buffer[range];
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|e| SnapshotError::io("write", &self.path, self.written, e))?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is left, and makes the file durable.
    pub fn finish(mut self) -> Result<(FileEntry, Buffer), SnapshotError> {
        let length = self.length();
        let rest = self.buffer.len();
        let crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.resize(rest.next_multiple_of(BLOCK), 0);
        self.write(0..self.buffer.len())?;
        self.file
            .set_len(length)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| SnapshotError::io("sync", &self.path, length, e))?;
        self.pace.pause();
        let Place { kind, index, .. } = self.place;
        Ok((FileEntry { kind: kind as u32, index, length, crc }, self.buffer))
    }
}

fn io_error(error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

/// Opens a new file to be written around the page cache, where the file system can do that.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let direct = rustix::fs::OFlags::DIRECT.bits();
    match options.clone().custom_flags(direct as i32).open(path) {
        // The file may have been made before the flag was refused.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            options.create_new(false).create(true).open(path)
        }
        opened => opened,
    }
}

/// A file being read.
pub struct FileReader {
    file: File,
    path: PathBuf,
    header: [u8; FILE_HEADER_BYTES],
    offset: u64,
    length: u64,
    crc: u32,
    /// The frame that was read last, perhaps with more behind it.
    buffer: AlignedVec<FRAME_ALIGN>,
}

/// A frame whose checksum is right.
pub struct Frame<'r> {
    /// Where it starts in the file.
    pub offset: u64,
    pub archive: &'r [u8],
}

impl FileReader {
    /// Opens the file of the snapshot in `dir` and checks its header.
    pub fn open(dir: &Path, place: Place) -> Result<FileReader, SnapshotError> {
        let path = dir.join(place.kind.file_name(place.index));
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => SnapshotError::damaged(&path, 0, "it is not there"),
            _ => SnapshotError::io("open", &path, 0, e),
        })?;
        let length = file.metadata().map_err(|e| SnapshotError::io("stat", &path, 0, e))?.len();
        // It is a hint, its refusal harmless.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let mut reader = FileReader {
            file,
            path,
            header: header(place),
            offset: 0,
            length,
            crc: 0,
            buffer: AlignedVec::new(),
        };
        reader.check_header()?;
        Ok(reader)
    }

    fn check_header(&mut self) -> Result<(), SnapshotError> {
        self.read(FILE_HEADER_BYTES)?;
        let found = &self.buffer[..FILE_HEADER_BYTES];
        let version = u32::from_le_bytes(found[8..12].try_into().expect("four bytes"));
        if found[..8] == MAGIC && version != VERSION {
            return Err(SnapshotError::UnknownVersion { file: self.path.clone(), version });
        }
        if found != self.header {
            return Err(self.damaged(0, "its header is not the one of this place"));
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub fn damaged(&self, offset: u64, what: impl ToString) -> SnapshotError {
        SnapshotError::damaged(&self.path, offset, what)
    }

    /// The next frame, or `None` at the end.
    ///
    /// Lengths are checked against the file before anything is allocated by them.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, SnapshotError> {
        if self.offset == self.length {
            return Ok(None);
        }
        let start = self.offset;
        self.read(FRAME_HEADER_BYTES)?;
        let word = |at: usize| self.buffer[at..at + 4].try_into().expect("four bytes");
        let (length, crc) = (u32::from_le_bytes(word(0)), u32::from_le_bytes(word(4)));
        let offset = u64::from_le_bytes(self.buffer[8..16].try_into().expect("eight bytes"));
        if offset != start || length == 0 {
            return Err(self.damaged(start, "no frame"));
        }
        let count = length as usize;
        if count > ARCHIVE_BYTES_MAX {
            return Err(self.damaged(start, format!("a frame of {length} bytes")));
        }
        self.read(count + padding(count)).map_err(|error| match error {
            SnapshotError::Damaged { .. } => self.damaged(start, "the frame is cut off"),
            error => error,
        })?;
        let (archive, zeros) = self.buffer[..count + padding(count)].split_at(count);
        if frame_crc(&self.header, length, offset, archive) != crc {
            return Err(self.damaged(start, "the frame's checksum is wrong"));
        }
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(self.damaged(start, "the frame's end is not zero"));
        }
        Ok(Some(Frame { offset: start, archive }))
    }

    /// Reads the next `count` bytes into the front of the buffer.
    fn read(&mut self, count: usize) -> Result<(), SnapshotError> {
        if count as u64 > self.length - self.offset {
            return Err(self.damaged(self.offset, "the file is cut off"));
        }
        if self.buffer.len() < count {
            self.buffer.resize(count, 0);
        }
        let bytes = &mut self.buffer.as_mut_slice()[..count];
        self.file
            .read_exact_at(bytes, self.offset)
            .map_err(|e| SnapshotError::io("read", &self.path, self.offset, e))?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.offset += count as u64;
        Ok(())
    }

    /// Checks that the file is as long as the manifest says.
    pub fn check_length(&self, entry: &FileEntry) -> Result<(), SnapshotError> {
        if self.length == entry.length {
            return Ok(());
        }
        let what = format!("{} bytes, and {} were written", self.length, entry.length);
        Err(self.damaged(self.length.min(entry.length), what))
    }

    /// Checks that the whole file was read and is the one that the manifest names.
    pub fn check_whole(&self, entry: &FileEntry) -> Result<(), SnapshotError> {
        self.check_length(entry)?;
        match self.offset == self.length && self.crc == entry.crc {
            true => Ok(()),
            false => Err(self.damaged(0, "the file's checksum is wrong")),
        }
    }
}
