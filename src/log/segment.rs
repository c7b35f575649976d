//! Segments: their names and headers, and the files behind them. Everything here that touches a
//! file blocks; only [`SegmentFile::fd`] and [`SegmentFile::store`] are for the commit path.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use super::batch::{is_zero, u16_at, u32_at, u64_at};
use super::buffer::AlignedBuffer;
use super::map::Map;
use super::{
    BLOCK, LogError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC,
    SEGMENT_VERSION, WriterKind,
};

/// What every segment's name starts with.
const NAME_PREFIX: &str = "ringlog.";
/// No log comes near it: a name with a larger number is not a segment's, so that none overflows.
const SEQUENCE_MAX: u64 = 1 << 62;
/// What the name of a segment that is being made ends with.
const UNFINISHED_SUFFIX: &str = ".new";
/// Zeros are written this many at a time: large enough for full throughput, small enough that the
/// log's own writes on the same disk do not wait long behind one.
const FILL_BYTES: usize = 1 << 20;

/// The name of the segment `sequence`.
pub fn name(sequence: u64) -> String {
    format!("{NAME_PREFIX}{sequence:010}")
}

/// The sequence of a segment's file name; `None` for any other name.
pub fn sequence_of(file_name: &OsStr) -> Option<u64> {
    let sequence = file_name.to_str()?.strip_prefix(NAME_PREFIX)?.parse().ok()?;
    (sequence <= SEQUENCE_MAX && name(sequence).as_str() == file_name).then_some(sequence)
}

/// True for the name of a segment whose making was interrupted.
pub fn is_unfinished(file_name: &OsStr) -> bool {
    let stem = file_name.to_str().and_then(|it| it.strip_suffix(UNFINISHED_SUFFIX));
    stem.is_some_and(|stem| sequence_of(OsStr::new(stem)).is_some())
}

/// What the segment at `path` is called while it is being made.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    name.into()
}

/// The head of a segment, which checks itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that it belongs to.
    pub identity: u64,
    /// Its place among the segments.
    pub sequence: u64,
    /// The file's size in bytes.
    pub size: u64,
    /// True when the file was another segment before and may hold what is left of that.
    pub recycled: bool,
}

impl SegmentHeader {
    /// The header block.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..16].copy_from_slice(&self.identity.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.size.to_le_bytes());
        bytes[32..34].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[34..36].copy_from_slice(&u16::from(self.recycled).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..36]);
        bytes[36..SEGMENT_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header that `bytes` start with; `None` when there is no sound one.
    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let block = bytes.first_chunk::<BLOCK>()?;
        let sound = block[..8] == SEGMENT_MAGIC
            && crc32c::crc32c(&block[..36]) == u32_at(block, 36)
            && is_zero(&block[SEGMENT_HEADER_BYTES..])
            && u16_at(block, 32) == SEGMENT_VERSION;
        sound.then(|| SegmentHeader {
            identity: u64_at(block, 8),
            sequence: u64_at(block, 16),
            size: u64_at(block, 24),
            recycled: u16_at(block, 34) != 0,
        })
    }
}

/// A segment to be made.
#[derive(Debug)]
pub struct SegmentRequest {
    /// The log's identity.
    pub identity: u64,
    /// The sequence that it will have.
    pub sequence: u64,
    /// Bytes, in whole blocks.
    pub size: u64,
    /// How it will be written.
    pub writer: WriterKind,
    /// A purged segment to be made it instead of a new file.
    pub recycle: Option<RetiredSegment>,
}

/// A segment that holds nothing anyone needs. Nobody has it mapped.
#[derive(Debug)]
pub struct RetiredSegment {
    /// Its file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub size: u64,
}

/// A segment that stands ready under its final name: all metadata is durable.
pub struct PreparedSegment {
    /// The file, open for the log's writes.
    pub file: Arc<SegmentFile>,
}

/// An open segment.
pub struct SegmentFile {
    path: PathBuf,
    sequence: u64,
    size: u64,
    file: File,
    /// The mapping through which the `mmap` writer stores.
    stores: Option<Map>,
}

impl AsFd for SegmentFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl SegmentFile {
    /// Opens a segment of `size` bytes to be written by `writer`.
    pub(super) fn open_to_write(
        path: PathBuf,
        sequence: u64,
        size: u64,
        writer: WriterKind,
    ) -> Result<SegmentFile, LogError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if writer == WriterKind::Direct {
            options.custom_flags(flags(OFlags::DIRECT | OFlags::DSYNC));
        }
        let file = options.open(&path).map_err(|e| LogError::io("open", &path, 0, e))?;
        let stores = match writer {
            WriterKind::Direct => None,
            WriterKind::Mmap => Some(
                Map::writable(&file, to_usize(size))
                    .map_err(|e| LogError::io("map", &path, 0, e))?,
            ),
        };
        Ok(SegmentFile { path, sequence, size, file, stores })
    }

    /// Opens a segment of `size` bytes to be read only.
    pub(super) fn open_to_read(
        path: PathBuf,
        sequence: u64,
        size: u64,
    ) -> Result<SegmentFile, LogError> {
        let file = File::open(&path).map_err(|e| LogError::io("open", &path, 0, e))?;
        Ok(SegmentFile { path, sequence, size, file, stores: None })
    }

    /// Where the file stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its place among the segments.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How it is written: for `Direct` one write of the batch to [`SegmentFile::fd`] is all; for
    /// `Mmap` it is [`SegmentFile::store`] and then `fdatasync` of the descriptor.
    pub fn writer(&self) -> WriterKind {
        if self.stores.is_some() { WriterKind::Mmap } else { WriterKind::Direct }
    }

    /// Fails when the file has no name any more: what is written to it is lost with its last
    /// descriptor. Reads no disk.
    ///
    /// # Errors
    /// `NotFound`, and the operating system's.
    pub fn check_named(&self) -> Result<(), LogError> {
        let stat =
            rustix::fs::fstat(&self.file).map_err(|e| LogError::io("look at", &self.path, 0, e))?;
        if stat.st_nlink > 0 {
            return Ok(());
        }
        let removed = std::io::Error::new(ErrorKind::NotFound, "the file has been removed");
        Err(LogError::io("write", &self.path, 0, removed))
    }

    /// The descriptor to write to or to sync.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Stores a batch into the mapping of a segment with the `mmap` writer.
    ///
    /// # Errors
    /// The operating system's: nothing is stored.
    ///
    /// # Panics
    /// With another writer, or outside of the segment.
    pub fn store(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let map = self.stores.as_ref().expect("the segment is written through its mapping");
        map.store(to_usize(offset), bytes)
    }

    /// Makes `bytes` durable at `offset`, and waits for it: for tools and tests; the server does
    /// the same through its ring.
    ///
    /// # Errors
    /// The operating system's. After one the log must be told and does nothing more.
    pub fn write_blocking(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        match self.writer() {
            WriterKind::Direct => self.file.write_all_at(bytes, offset),
            WriterKind::Mmap => {
                self.store(offset, bytes)?;
                self.file.sync_data()
            }
        }
    }

    /// Reads the bytes at `offset`, which must be final, into `buffer`: whole blocks or up to the
    /// file's end, and the buffer aligned, since the file may be open around the page cache.
    ///
    /// # Errors
    /// The disk's, also a latent one, and a file that was cut short.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LogError> {
        assert!(offset.is_multiple_of(BLOCK as u64));
        let end = offset + buffer.len() as u64;
        assert!(buffer.len().is_multiple_of(BLOCK) || end == self.size);
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::UnexpectedEof => {
                    std::io::Error::new(error.kind(), "the file was cut short under its reader")
                }
                _ => error,
            };
            LogError::io("read", &self.path, offset, error)
        })
    }
}

/// Makes a segment: allocates and zero-fills a file, or takes over a purged one; syncs it; gives it
/// its name; syncs the directory. Takes seconds on a slow disk: for a background thread.
///
/// # Errors
/// [`LogError::Full`] when the volume or a quota is full, [`LogError::NoDescriptor`] when too many
/// files are open; what was begun is removed, or made anew by the next try.
pub fn prepare(dir: &Path, request: SegmentRequest) -> Result<PreparedSegment, LogError> {
    let path = dir.join(name(request.sequence));
    make(dir, request).map_err(|error| match error {
        LogError::Io { source, .. } if is_out_of_descriptors(&source) => {
            LogError::NoDescriptor { file: path }
        }
        error => error,
    })
}

fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| errno == Errno::MFILE || errno == Errno::NFILE)
}

fn make(dir: &Path, request: SegmentRequest) -> Result<PreparedSegment, LogError> {
    assert!((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&request.size));
    assert!(request.size.is_multiple_of(BLOCK as u64));
    let path = dir.join(name(request.sequence));
    let unfinished = unfinished(&path);
    let header = SegmentHeader {
        identity: request.identity,
        sequence: request.sequence,
        size: request.recycle.as_ref().map_or(request.size, |retired| retired.size),
        recycled: request.recycle.is_some(),
    };
    let made = match &request.recycle {
        Some(retired) => recycle(&retired.path, &unfinished, &header),
        None => fill(&unfinished, &header),
    };
    if let Err(error) = made {
        // Whatever is left is removed when the log is next opened, if not here.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    std::fs::rename(&unfinished, &path).map_err(|e| LogError::io("rename", &unfinished, 0, e))?;
    sync_dir(dir)?;
    let file = SegmentFile::open_to_write(path, header.sequence, header.size, request.writer)?;
    Ok(PreparedSegment { file: Arc::new(file) })
}

/// Removes a purged segment. The caller removes the oldest first, so that no gap can appear.
///
/// # Errors
/// The operating system's; then the later ones must stay too.
pub fn remove(dir: &Path, retired: &RetiredSegment) -> Result<(), LogError> {
    std::fs::remove_file(&retired.path).map_err(|e| LogError::io("remove", &retired.path, 0, e))?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    let file = File::open(dir).map_err(|e| LogError::io("open", dir, 0, e))?;
    file.sync_all().map_err(|e| LogError::io("sync", dir, 0, e))
}

/// Opens `path` around the page cache where the file system can, else through it.
pub(super) fn open_direct(options: &mut OpenOptions, path: &Path) -> Result<File, LogError> {
    options.custom_flags(flags(OFlags::DIRECT));
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            options.custom_flags(0);
            options.open(path).map_err(|e| LogError::io("open", path, 0, e))
        }
        opened => opened.map_err(|e| LogError::io("open", path, 0, e)),
    }
}

fn fill(path: &Path, header: &SegmentHeader) -> Result<(), LogError> {
    let mut options = OpenOptions::new();
    let file = open_direct(options.read(true).write(true).create(true).truncate(true), path)?;
    // Allocating first gives a clean answer about space and one extent where there is one.
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, header.size) {
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(refused("allocate", path, header.size, 0, error.into())),
    }
    let mut buffer = AlignedBuffer::with_capacity(FILL_BYTES);
    buffer.extend(&header.encode());
    let mut offset = 0;
    while offset < header.size {
        let length = (header.size - offset).min(FILL_BYTES as u64);
        let more = to_usize(length) - buffer.len();
        buffer.extend_zeros(more);
        file.write_all_at(buffer.bytes(), offset)
            .map_err(|e| refused("fill", path, header.size, offset, e))?;
        offset += length;
        buffer.clear();
    }
    sync_and_forget(&file, path, header.size)
}

fn recycle(from: &Path, path: &Path, header: &SegmentHeader) -> Result<(), LogError> {
    std::fs::rename(from, path).map_err(|e| LogError::io("rename", from, 0, e))?;
    let file = open_direct(OpenOptions::new().read(true).write(true), path)?;
    let mut buffer = AlignedBuffer::with_capacity(BLOCK);
    buffer.extend(&header.encode());
    file.write_all_at(buffer.bytes(), 0).map_err(|e| refused("write", path, header.size, 0, e))?;
    sync_and_forget(&file, path, header.size)
}

/// Syncs a file and lets its pages go: pages in the cache make direct writes to the file slower.
fn sync_and_forget(file: &File, path: &Path, size: u64) -> Result<(), LogError> {
    file.sync_all().map_err(|e| refused("sync", path, size, 0, e))?;
    forget_pages(file);
    Ok(())
}

/// Drops the clean pages that the cache holds of a file. Advice: nothing depends on it.
pub(super) fn forget_pages(file: impl AsFd) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// A failed operation in the making of a segment: on a full volume it is worth another try.
fn refused(
    op: &'static str,
    path: &Path,
    size: u64,
    offset: u64,
    error: std::io::Error,
) -> LogError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            LogError::Full { file: path.to_owned(), size }
        }
        _ => LogError::io(op, path, offset, error),
    }
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("open flags are small")
}

pub(super) fn to_usize(size: u64) -> usize {
    usize::try_from(size).expect("a segment fits the address space")
}
