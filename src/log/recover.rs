//! Recovery: from a directory of segments to a history that can be read and appended to.
//!
//! What the bytes mean is decided by [`super::scan`]; here are the files around it. The order
//! matters: the tail is synced and read around the page cache before it is believed, a torn batch
//! is overwritten and synced before anything is appended, and files are removed newest first.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::zxid::Zxid;

use super::append::{Held, Log, Resume};
use super::batch::Header;
use super::buffer::AlignedBuffer;
use super::bytes::Bytes;
use super::group::{Space, Tail as AppendTail};
use super::lock::DirLock;
use super::read::{FileTransactions, Reader, ReaderSegment};
use super::scan::{Damage, Fault, History, Image, Scanner, SegmentScan, Stop};
use super::segment::{self, SegmentFile, to_usize};
use super::{BLOCK, LogError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, WriterKind};

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A random number, which a log that is new keeps as its identity. It must not be guessable.
    pub identity: u64,
    /// The size of new segments in bytes; rounded up to whole blocks.
    pub segment_bytes: u64,
    /// A zxid that is known to be committed and to be in the log, or zero: a torn batch at or below
    /// it is damage. Not that of a snapshot, which may be ahead of the log.
    pub committed: Zxid,
}

/// What recovery found: figures for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Segments with at least one batch.
    pub segments: u64,
    /// Batches, with marks.
    pub batches: u64,
    /// Transactions.
    pub txns: u64,
    /// Bytes of transactions.
    pub bytes: u64,
    /// Where a torn batch was cut off, and why it is one.
    pub torn: Option<(PathBuf, u64, String)>,
    /// Files that held no segment and were removed.
    pub removed: Vec<PathBuf>,
}

/// A log whose whole content has been checked.
pub struct Recovered {
    dir: PathBuf,
    options: Options,
    lock: DirLock,
    history: History,
    reader: Reader,
    figures: Figures,
}

/// Opens the log in `dir`, which exists: checks every byte of it, cuts a torn tail off, and removes
/// what an interrupted preparation has left.
///
/// # Errors
/// [`LogError::Damaged`] when something that was durable is not there any more.
pub fn open(dir: &Path, options: Options) -> Result<Recovered, LogError> {
    open_by(dir, options, &read_direct)
}

/// Reads bytes from the disk itself: file, offset, length.
pub(super) type ReadDisk<'a> = &'a dyn Fn(&Path, u64, u64) -> Result<AlignedBuffer, LogError>;

/// [`open`], with the disk read by `read_disk`.
pub(super) fn open_by(
    dir: &Path,
    options: Options,
    read_disk: ReadDisk<'_>,
) -> Result<Recovered, LogError> {
    assert!(options.segment_bytes <= SEGMENT_BYTES_MAX);
    let lock = DirLock::take(dir)?;
    let mut figures = Figures::default();
    remove_unfinished(dir, &mut figures)?;
    let files = open_segments(dir)?;
    let history = scan_files(dir, &files, None, options.committed)?;
    let mut history = believe_the_disk(dir, &files, history, options.committed, read_disk)?;
    for scan in &history.segments {
        overwrite_torn(dir, scan, &mut figures)?;
    }
    remove_useless(dir, &mut history, &mut figures)?;
    for scan in &history.segments {
        figures.segments += u64::from(scan.batches > 0);
        figures.batches += scan.batches;
        figures.txns += scan.txns;
        figures.bytes += scan.bytes;
    }
    let segments = history.segments.iter().zip(&files).filter(|(scan, _)| scan.batches > 0);
    let segments = segments.map(|(scan, file)| ReaderSegment {
        file: Arc::clone(file),
        previous: scan.previous,
        end: scan.end,
    });
    let reader = Reader::new(segments.collect(), history.turns.clone(), history.last);
    Ok(Recovered { dir: dir.to_owned(), options, lock, history, reader, figures })
}

impl Recovered {
    /// The end of the history; zero when there is none. When a snapshot reaches further, the
    /// caller lets the log go on behind it by [`Log::reset_after`], or the next append leaves a gap
    /// that nobody sees.
    pub fn last(&self) -> Zxid {
        self.history.last
    }

    /// How far the log's own marks prove it durable; all of it is once it is recovered.
    pub fn durable_mark(&self) -> Zxid {
        self.history.durable_mark
    }

    /// How far the log knows itself to be committed: not beyond its end, and zero for unknown.
    pub fn committed(&self) -> Zxid {
        self.history.committed
    }

    /// Where the history before what the log holds ends: at zero, or at a snapshot.
    pub fn starts_after(&self) -> Zxid {
        self.reader.starts_after()
    }

    /// True when there is no segment at all, not even an empty one.
    pub fn has_no_segment(&self) -> bool {
        self.history.segments.is_empty()
    }

    /// True when the log holds no batch at all.
    pub fn is_empty(&self) -> bool {
        self.history.chain.is_none()
    }

    /// What was found.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The transactions from `zxid` on; see [`Reader::read_from`]. Their checksums were checked
    /// when the log was opened.
    ///
    /// # Errors
    /// As for [`Reader::read_from`].
    pub fn read_from(&self, zxid: Zxid) -> Result<FileTransactions<'_>, LogError> {
        self.reader.read_checked_from(zxid)
    }

    /// Goes on behind the tail, writing by `writer`. The log then wants a mark, since nothing
    /// proves the tail durable yet.
    ///
    /// # Errors
    /// When the last segment cannot be opened to be written.
    pub fn into_log(self, writer: WriterKind) -> Result<Log, LogError> {
        let Recovered { dir, options, lock, history, reader, .. } = self;
        // Pages in the cache slow direct writes to the same file down.
        drop(reader);
        let tail = history.tail_index();
        let mut segments = VecDeque::with_capacity(history.segments.len());
        let mut current = None;
        let mut spares = Vec::new();
        for (index, scan) in history.segments.iter().enumerate() {
            let path = dir.join(segment::name(scan.sequence));
            let length = file_length(&path)?;
            let space = Space { sequence: scan.sequence, size: length };
            let ahead = tail.is_none_or(|tail| index >= tail) && scan.whole;
            let file = if ahead {
                SegmentFile::open_to_write(path, scan.sequence, length, writer)?
            } else {
                SegmentFile::open_to_read(path, scan.sequence, length)?
            };
            segment::forget_pages(file.fd());
            segments.push_back(Held {
                file: Arc::new(file),
                previous: scan.previous,
                highest: scan.highest,
                end: if scan.batches > 0 { scan.end } else { 0 },
            });
            match ahead {
                true if tail == Some(index) => current = Some((space, scan.end)),
                true => spares.push(space),
                false => {}
            }
        }
        let sequence_next = history.segments.last().map_or(1, |last| last.sequence + 1);
        let segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        Ok(Log::new(Resume {
            tail: AppendTail {
                identity: history.identity.unwrap_or(options.identity),
                last: history.last,
                chain: history.chain,
                committed: history.committed,
            },
            writer,
            segment_bytes: segment_bytes.next_multiple_of(BLOCK as u64),
            segments,
            current,
            spares,
            turns: history.turns,
            sequence_next,
            lock,
        }))
    }
}

/// The names of the segments in `dir`, by sequence.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| LogError::io("list", dir, 0, e))? {
        let entry = entry.map_err(|e| LogError::io("list", dir, 0, e))?;
        if let Some(sequence) = segment::sequence_of(&entry.file_name()) {
            found.push((sequence, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The largest sequence of a segment in `dir`, empty ones included; `None` without any.
///
/// # Errors
/// The directory cannot be listed.
pub fn newest_segment(dir: &Path) -> Result<Option<u64>, LogError> {
    Ok(list(dir)?.last().map(|(sequence, _)| *sequence))
}

fn remove_unfinished(dir: &Path, figures: &mut Figures) -> Result<(), LogError> {
    for entry in std::fs::read_dir(dir).map_err(|e| LogError::io("list", dir, 0, e))? {
        let entry = entry.map_err(|e| LogError::io("list", dir, 0, e))?;
        if segment::is_unfinished(&entry.file_name()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| LogError::io("remove", &path, 0, e))?;
            figures.removed.push(path);
        }
    }
    Ok(())
}

pub(super) fn file_length(path: &Path) -> Result<u64, LogError> {
    let metadata = std::fs::metadata(path).map_err(|e| LogError::io("stat", path, 0, e))?;
    Ok(metadata.len())
}

fn open_segments(dir: &Path) -> Result<Vec<Arc<SegmentFile>>, LogError> {
    let mut files = Vec::new();
    for (sequence, path) in list(dir)? {
        let length = file_length(&path)?;
        if length > SEGMENT_BYTES_MAX {
            return Err(LogError::Damaged {
                file: path,
                offset: SEGMENT_BYTES_MAX,
                last_good_zxid: Zxid::ZERO,
                what: format!("the file has {length} bytes, more than any segment"),
            });
        }
        files.push(Arc::new(SegmentFile::open_to_read(path, sequence, length)?));
    }
    // What the last process wrote may still be on its way; what it says must not depend on that.
    for file in files.iter().rev().take(2) {
        rustix::fs::fdatasync(file.fd()).map_err(|e| LogError::io("sync", file.path(), 0, e))?;
    }
    Ok(files)
}

/// Judges the files' bytes, with those of one file taken from `instead`.
fn scan_files(
    dir: &Path,
    files: &[Arc<SegmentFile>],
    instead: Option<(usize, &[u8])>,
    committed: Zxid,
) -> Result<History, LogError> {
    let mut scanner = Scanner::default();
    for (index, file) in files.iter().enumerate() {
        let sequence = file.sequence();
        match instead {
            Some((replaced, bytes)) if replaced == index => {
                let image = Image { sequence, bytes };
                scanner.segment(&image).map_err(|damage| damaged(dir, damage))?;
            }
            _ => read_segment(dir, file, &mut scanner).map(|_| ())?,
        }
    }
    scanner.finish(committed).map_err(|damage| damaged(dir, damage))
}

/// Scans one file. What its disk cannot read any more is damage.
pub(super) fn read_segment<'s>(
    dir: &Path,
    file: &SegmentFile,
    scanner: &'s mut Scanner,
) -> Result<&'s SegmentScan, LogError> {
    let scan = scanner.read_segment(file.sequence(), &mut file.bytes_to(file.size()));
    scan.map_err(|fault| match fault {
        Fault::Damage(damage) => damaged(dir, damage),
        Fault::Unreadable { last_good, error } => unreadable(error, last_good),
    })
}

/// A bad sector is damage to what stands in it; other errors are no word about the file.
fn unreadable(error: LogError, last_good: Zxid) -> LogError {
    match error {
        LogError::Io { file, offset, source, .. } if is_bad_sector(&source) => LogError::Damaged {
            file,
            offset,
            last_good_zxid: last_good,
            what: format!("the disk cannot read it ({source})"),
        },
        error => error,
    }
}

/// What Linux's disks and file systems answer for a place that cannot be read, or whose own
/// checksum is wrong.
fn is_bad_sector(error: &std::io::Error) -> bool {
    let told = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::UCLEAN, Errno::BADMSG];
    told.iter().any(|it| error.raw_os_error() == Some(it.raw_os_error()))
}

pub(super) fn damaged(dir: &Path, damage: Damage) -> LogError {
    let file = dir.join(segment::name(damage.place.sequence));
    let offset = damage.place.offset;
    if damage.is_newer {
        return LogError::Newer { file, offset };
    }
    LogError::Damaged { file, offset, last_good_zxid: damage.last_good, what: damage.what }
}

/// After a failed write the page cache still shows what never reached the disk. Only the last write
/// of a process can have failed, so the last batch is read again around the cache; when the disk
/// holds something else, the disk is right, and the whole segment is read and judged once more.
fn believe_the_disk(
    dir: &Path,
    files: &[Arc<SegmentFile>],
    history: History,
    committed: Zxid,
    read_disk: ReadDisk<'_>,
) -> Result<History, LogError> {
    let Some(tail) = history.tail_index() else { return Ok(history) };
    let scan = &history.segments[tail];
    let start = scan.last_batch.expect("the tail segment has a batch");
    let file = &files[tail];
    let mut cached = file.bytes_to(file.size());
    let last_batch = cached.at(start, scan.end - start)?;
    // Whoever wrote it wrote all before it first.
    let before = Header::decode(last_batch).map_or(Zxid::ZERO, |header| header.previous);
    let from_disk = read_disk(file.path(), start, scan.end - start);
    let from_disk = from_disk.map_err(|error| unreadable(error, before))?;
    if from_disk.bytes() == last_batch {
        return Ok(history);
    }
    let whole = file.size() / BLOCK as u64 * BLOCK as u64;
    let mut from_disk = read_disk(file.path(), 0, whole)?;
    // A file that was cut short ends inside a block, which cannot be read around the cache.
    from_disk.extend(cached.at(whole, file.size() - whole)?);
    segment::forget_pages(file.fd());
    let believed = scan.end;
    let mut history = scan_files(dir, files, Some((tail, from_disk.bytes())), committed)?;
    let scan = &mut history.segments[tail];
    if scan.end <= start {
        // The cache may go on showing the batch: it is overwritten whatever the disk has there.
        let why = "the disk does not hold what the page cache shows".to_owned();
        scan.stop = Stop::Torn { bytes: believed - scan.end, why };
    }
    Ok(history)
}

/// Reads whole blocks around the page cache, where the file system can.
pub(super) fn read_direct(
    path: &Path,
    offset: u64,
    length: u64,
) -> Result<AlignedBuffer, LogError> {
    let file = segment::open_direct(OpenOptions::new().read(true), path)?;
    let mut buffer = AlignedBuffer::with_capacity(to_usize(length));
    buffer.extend_zeros(to_usize(length));
    file.read_exact_at(buffer.bytes_mut(), offset)
        .map_err(|e| LogError::io("read", path, offset, e))?;
    Ok(buffer)
}

/// Overwrites a torn batch with zeros, so that nothing of it can be taken for a batch later.
fn overwrite_torn(dir: &Path, scan: &SegmentScan, figures: &mut Figures) -> Result<(), LogError> {
    let Stop::Torn { bytes, why } = &scan.stop else { return Ok(()) };
    let path = dir.join(segment::name(scan.sequence));
    figures.torn = Some((path.clone(), scan.end, why.clone()));
    // Through the page cache, so that cache and disk agree, and to the last byte of a file that was
    // cut short inside a block.
    let end = (scan.end + bytes).min(file_length(&path)?);
    let zeros = vec![0; to_usize(end.saturating_sub(scan.end))];
    let file = OpenOptions::new().write(true).open(&path);
    let file = file.map_err(|e| LogError::io("open", &path, 0, e))?;
    file.write_all_at(&zeros, scan.end)
        .map_err(|e| LogError::io("overwrite", &path, scan.end, e))?;
    file.sync_all().map_err(|e| LogError::io("sync", &path, scan.end, e))
}

/// Removes what stands behind the tail and can take no batch, with all behind it: newest first, so
/// that no gap can appear.
fn remove_useless(
    dir: &Path,
    history: &mut History,
    figures: &mut Figures,
) -> Result<(), LogError> {
    let behind = history.tail_index().map_or(0, |tail| tail + 1);
    let useless = history.segments[behind..].iter().position(|scan| !scan.whole);
    let Some(useless) = useless else { return Ok(()) };
    while history.segments.len() > behind + useless {
        let scan = history.segments.pop().expect("there is one more");
        let path = dir.join(segment::name(scan.sequence));
        std::fs::remove_file(&path).map_err(|e| LogError::io("remove", &path, 0, e))?;
        segment::sync_dir(dir)?;
        figures.removed.push(path);
    }
    Ok(())
}
