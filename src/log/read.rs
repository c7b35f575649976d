//! Reading transactions back: replay after a start, and the history that a learner lacks.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::zxid::Zxid;

use super::batch::{self, Header, Kind, PayloadFault};
use super::bytes::{Bytes, SegmentBytes};
use super::scan::{History, Image, Turn};
use super::segment::{SegmentFile, to_usize};
use super::{BATCH_HEADER_BYTES, BLOCK, LogError, Position, RECORD_HEADER_BYTES};

/// What errors name where there is no file.
const IMAGE: &str = "(an image)";

pub(super) struct ReaderSegment {
    pub file: Arc<SegmentFile>,
    /// The end of the history before its first batch.
    pub previous: Zxid,
    /// Where its last durable batch ends.
    pub end: u64,
}

impl ReaderSegment {
    /// What is durable of it.
    pub fn bytes(&self) -> SegmentBytes<'_> {
        self.file.bytes_to(self.end)
    }
}

/// The durable part of a log at one moment. Later appends are not seen through it.
pub struct Reader {
    pub(super) segments: Vec<ReaderSegment>,
    pub(super) turns: Vec<Turn>,
    /// Where the history ends when there is no segment.
    base: Zxid,
}

impl Reader {
    pub(super) fn new(segments: Vec<ReaderSegment>, turns: Vec<Turn>, base: Zxid) -> Reader {
        Reader { segments, turns, base }
    }

    /// The transactions from `zxid` on (it need not exist itself), in order, without a gap. Each
    /// batch's checksum is checked on the way.
    ///
    /// # Errors
    /// [`LogError::Gap`] when something after `zxid` may be missing: for the history after a
    /// snapshot at `s`, ask for `s + 1`. Later errors come out of the reading, which then ends.
    pub fn read_from(&self, zxid: Zxid) -> Result<FileTransactions<'_>, LogError> {
        self.read(zxid, true)
    }

    /// [`Reader::read_from`] by a caller who has just checked every payload.
    pub(super) fn read_checked_from(&self, zxid: Zxid) -> Result<FileTransactions<'_>, LogError> {
        self.read(zxid, false)
    }

    fn read(&self, zxid: Zxid, check: bool) -> Result<FileTransactions<'_>, LogError> {
        // Zero is no transaction: everything comes after it.
        let zxid = zxid.max(Zxid::from_raw(1));
        let start = self.start(zxid)?;
        let mut views = Vec::with_capacity(self.segments.len() - start);
        for segment in &self.segments[start..] {
            let bytes = segment.bytes();
            let path = segment.file.path();
            views.push(View { sequence: segment.file.sequence(), bytes, path });
        }
        let last_good = self.segments.get(start).map_or(Zxid::ZERO, |segment| segment.previous);
        let reading = Transactions { from: zxid, check, ..Transactions::new(views, &self.turns) };
        Ok(Transactions { last_good, ..reading })
    }

    fn last_reset(&self) -> Option<&Turn> {
        self.turns.iter().rfind(|turn| turn.reset)
    }

    /// Where the history before what can be read ends.
    pub(super) fn starts_after(&self) -> Zxid {
        let first = self.segments.first().map_or(self.base, |first| first.previous);
        self.last_reset().map_or(first, |turn| turn.to)
    }

    /// The segment to start in: the last one that the history had not yet reached `zxid` before.
    pub(super) fn start(&self, zxid: Zxid) -> Result<usize, LogError> {
        let starts_after = self.starts_after();
        let mut oldest = 0;
        if let Some(turn) = self.last_reset() {
            oldest = self.segments.partition_point(|it| it.file.sequence() < turn.place.sequence);
        }
        if starts_after >= zxid {
            return Err(LogError::Gap { asked: zxid, starts_after });
        }
        let newer = self.segments.get(oldest..).unwrap_or_default();
        let index = newer.iter().rposition(|segment| segment.previous < zxid);
        Ok(oldest + index.unwrap_or(0))
    }
}

/// All transactions of the log in `images`, of which `history` is the scan: what [`Reader`] gives
/// of the same bytes in files. Every checksum is checked again.
pub fn read_images<'a>(images: &[Image<'a>], history: &'a History) -> Transactions<'a, &'a [u8]> {
    let mut views = Vec::with_capacity(images.len());
    for (image, scan) in images.iter().zip(&history.segments) {
        assert_eq!(image.sequence, scan.sequence);
        let end = if scan.batches > 0 { to_usize(scan.end) } else { 0 };
        views.push(View {
            sequence: image.sequence,
            bytes: &image.bytes[..end],
            path: Path::new(IMAGE),
        });
    }
    Transactions::new(views, &history.turns)
}

struct View<'a, B> {
    sequence: u64,
    bytes: B,
    path: &'a Path,
}

/// Those in a log's files.
pub type FileTransactions<'a> = Transactions<'a, SegmentBytes<'a>>;

/// Transactions in order. Ends after the first error.
pub struct Transactions<'a, B> {
    from: Zxid,
    /// True when payloads are checked on the way.
    check: bool,
    turns: &'a [Turn],
    views: std::vec::IntoIter<View<'a, B>>,
    view: Option<View<'a, B>>,
    /// The next batch in `view`.
    offset: u64,
    /// What is later than this and stands here is void, because of a turn further on.
    limit: Zxid,
    /// Where the records of the batch before `offset` stand that were not given yet.
    records: Range<u64>,
    /// The end of the history before `offset`.
    last_good: Zxid,
    failed: bool,
}

impl<'a, B: Bytes> Transactions<'a, B>
where
    LogError: From<B::Error>,
{
    /// All of those in `views`, which begin with the oldest.
    fn new(views: Vec<View<'a, B>>, turns: &'a [Turn]) -> Transactions<'a, B> {
        let mut views = views.into_iter();
        Transactions {
            from: Zxid::from_raw(1),
            check: true,
            turns,
            view: views.next(),
            views,
            offset: BLOCK as u64,
            limit: Zxid::MAX,
            records: 0..0,
            last_good: Zxid::ZERO,
            failed: false,
        }
    }

    /// The next transaction's zxid and bytes; `None` at the end of the log, and after an error.
    pub fn next_txn(&mut self) -> Option<Result<(Zxid, &[u8]), LogError>> {
        if self.failed {
            return None;
        }
        let found = self.next_record();
        self.failed = found.is_err();
        match found {
            Ok(Some((zxid, place))) => {
                let bytes = &mut self.view.as_mut().expect("the record stands in it").bytes;
                let txn = bytes.at(place.start, place.end - place.start);
                Some(txn.map(|txn| (zxid, txn)).map_err(LogError::from))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The next record that is wanted, and where its transaction stands.
    fn next_record(&mut self) -> Result<Option<(Zxid, Range<u64>)>, LogError> {
        loop {
            while !self.records.is_empty() {
                let (zxid, txn) = self.record()?;
                self.records.start = txn.end;
                if zxid >= self.from && zxid <= self.limit {
                    return Ok(Some((zxid, txn)));
                }
            }
            if !self.next_batch()? {
                return Ok(None);
            }
        }
    }

    /// The first of the records.
    fn record(&mut self) -> Result<(Zxid, Range<u64>), LogError> {
        let Range { start, end } = self.records;
        let view = self.view.as_mut().expect("the record stands in it");
        let head = view.bytes.at(start, (end - start).min(RECORD_HEADER_BYTES as u64))?;
        let txn = start + RECORD_HEADER_BYTES as u64;
        let record = batch::decode_record_header(head).map(|(zxid, it)| (zxid, u64::from(it)));
        // They were found to fill their batch, unless the file has changed since.
        let Some((zxid, length)) = record.filter(|(_, length)| *length <= end - txn) else {
            return Err(LogError::Damaged {
                file: view.path.to_owned(),
                offset: start,
                last_good_zxid: self.last_good,
                what: PayloadFault::Records.to_string(),
            });
        };
        Ok((zxid, txn..txn + length))
    }

    /// Goes to the next batch; false at the end of the log.
    fn next_batch(&mut self) -> Result<bool, LogError> {
        while self.view.as_ref().is_some_and(|view| view.bytes.count() <= self.offset) {
            self.view = self.views.next();
            self.offset = BLOCK as u64;
        }
        let Some(view) = &mut self.view else { return Ok(false) };
        let place = Position { sequence: view.sequence, offset: self.offset };
        let damaged = |what: String| LogError::Damaged {
            file: view.path.to_owned(),
            offset: place.offset,
            last_good_zxid: self.last_good,
            what,
        };
        let left = view.bytes.count() - self.offset;
        let head = view.bytes.at(self.offset, left.min(BLOCK as u64))?;
        let header = Header::decode(head).map_err(|fault| damaged(fault.to_string()))?;
        if (header.sequence, header.offset) != (place.sequence, place.offset) {
            return Err(damaged("a batch that belongs elsewhere".to_owned()));
        }
        // A batch that ends before what is wanted needs no check: nobody sees its bytes.
        if header.kind == Kind::Txns && header.last >= self.from {
            let batch = view.bytes.at(self.offset, header.padded_bytes().min(left))?;
            let records = match self.check {
                true => batch::check_payload(&header, batch),
                false => batch::records(&header, batch).ok_or(PayloadFault::Short),
            };
            let records = records.map_err(|fault| damaged(fault.to_string()))?;
            let start = self.offset + BATCH_HEADER_BYTES as u64;
            self.records = start..start + records.bytes_left() as u64;
            self.limit = limit_at(self.turns, place);
        }
        self.last_good = header.history_end();
        self.offset += header.padded_bytes();
        Ok(true)
    }
}

/// The last zxid that is not void at `place`.
pub(super) fn limit_at(turns: &[Turn], place: Position) -> Zxid {
    let later = turns.iter().filter(|turn| turn.place > place);
    later.map(|turn| if turn.reset { Zxid::ZERO } else { turn.to }).min().unwrap_or(Zxid::MAX)
}
