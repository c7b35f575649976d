//! Reading transactions back: replay after a start, and the history that a learner lacks.

use std::path::Path;
use std::sync::Arc;

use crate::zxid::Zxid;

use super::batch::{self, Header, Kind, PayloadFault, Records};
use super::scan::{History, Image, Turn};
use super::segment::{SegmentFile, to_usize};
use super::{BLOCK, LogError, Position};

/// What errors name where there is no file.
const IMAGE: &str = "(an image)";

pub(super) struct ReaderSegment {
    pub file: Arc<SegmentFile>,
    /// The end of the history before its first batch.
    pub previous: Zxid,
    /// Where its last durable batch ends.
    pub end: u64,
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

    /// The transactions from `zxid` on (it need not exist itself), in order, without a gap. The
    /// bytes are those of the mapped file; each batch's checksum is checked on the way.
    ///
    /// # Errors
    /// [`LogError::Gap`] when something after `zxid` may be missing: for the history after a
    /// snapshot at `s`, ask for `s + 1`. Later errors come out of the iterator, which then ends.
    pub fn read_from(&self, zxid: Zxid) -> Result<Transactions<'_>, LogError> {
        self.read(zxid, true)
    }

    /// [`Reader::read_from`] by a caller who has just checked every payload.
    pub(super) fn read_checked_from(&self, zxid: Zxid) -> Result<Transactions<'_>, LogError> {
        self.read(zxid, false)
    }

    fn read(&self, zxid: Zxid, check: bool) -> Result<Transactions<'_>, LogError> {
        // Zero is no transaction: everything comes after it.
        let zxid = zxid.max(Zxid::from_raw(1));
        let start = self.start(zxid)?;
        let mut views = Vec::with_capacity(self.segments.len() - start);
        for segment in &self.segments[start..] {
            let bytes = segment.file.bytes_to(segment.end)?;
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
pub fn read_images<'a>(images: &[Image<'a>], history: &'a History) -> Transactions<'a> {
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

struct View<'a> {
    sequence: u64,
    bytes: &'a [u8],
    path: &'a Path,
}

/// Transactions in order: zxid and bytes. Ends after the first error.
pub struct Transactions<'a> {
    from: Zxid,
    /// True when payloads are checked on the way.
    check: bool,
    turns: &'a [Turn],
    views: std::vec::IntoIter<View<'a>>,
    view: Option<View<'a>>,
    /// The next batch in `view`.
    offset: usize,
    /// What is later than this and stands here is void, because of a turn further on.
    limit: Zxid,
    records: Records<'a>,
    /// The end of the history before `offset`.
    last_good: Zxid,
    failed: bool,
}

impl<'a> Iterator for Transactions<'a> {
    type Item = Result<(Zxid, &'a [u8]), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for (zxid, txn) in self.records.by_ref() {
                if zxid >= self.from && zxid <= self.limit {
                    return Some(Ok((zxid, txn)));
                }
            }
            if self.failed {
                return None;
            }
            if let Err(error) = self.next_batch()? {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}

impl<'a> Transactions<'a> {
    /// All of those in `views`, which begin with the oldest.
    fn new(views: Vec<View<'a>>, turns: &'a [Turn]) -> Transactions<'a> {
        let mut views = views.into_iter();
        Transactions {
            from: Zxid::from_raw(1),
            check: true,
            turns,
            view: views.next(),
            views,
            offset: BLOCK,
            limit: Zxid::MAX,
            records: Records::default(),
            last_good: Zxid::ZERO,
            failed: false,
        }
    }

    fn next_view(&mut self) {
        self.view = self.views.next();
        self.offset = BLOCK;
    }

    /// Goes to the next batch; `None` at the end of the log.
    fn next_batch(&mut self) -> Option<Result<(), LogError>> {
        while self.view.as_ref()?.bytes.len() <= self.offset {
            self.next_view();
        }
        let view = self.view.as_ref()?;
        let rest = &view.bytes[self.offset..];
        let place = Position { sequence: view.sequence, offset: self.offset as u64 };
        let damaged = |what: String| {
            Some(Err(LogError::Damaged {
                file: view.path.to_owned(),
                offset: place.offset,
                last_good_zxid: self.last_good,
                what,
            }))
        };
        let header = match Header::decode(rest) {
            Ok(header) => header,
            Err(fault) => return damaged(fault.to_string()),
        };
        if (header.sequence, header.offset) != (place.sequence, place.offset) {
            return damaged("a batch that belongs elsewhere".to_owned());
        }
        // A batch that ends before what is wanted needs no check: nobody sees its bytes.
        if header.kind == Kind::Txns && header.last >= self.from {
            let records = match self.check {
                true => batch::check_payload(&header, rest),
                false => batch::records(&header, rest).ok_or(PayloadFault::Short),
            };
            match records {
                Ok(records) => self.records = records,
                Err(fault) => return damaged(fault.to_string()),
            }
            self.limit = limit_at(self.turns, place);
        }
        self.last_good = header.history_end();
        self.offset += to_usize(header.padded_bytes());
        Some(Ok(()))
    }
}

/// The last zxid that is not void at `place`.
pub(super) fn limit_at(turns: &[Turn], place: Position) -> Zxid {
    let later = turns.iter().filter(|turn| turn.place > place);
    later.map(|turn| if turn.reset { Zxid::ZERO } else { turn.to }).min().unwrap_or(Zxid::MAX)
}
