//! What the bytes of a log mean: pure, over bytes from anywhere, so that it runs under a fuzzer and
//! a simulator.
//!
//! The scan walks the batches from the oldest segment on. Where those of a segment stop, the blocks
//! after that place are searched for a batch that was written for this segment: there is none after
//! a torn tail, and one is proof of damage. Across segments the chain decides.

use std::ops::Range;

use crate::zxid::Zxid;

use super::batch::{self, Header, HeaderFault, Kind, PayloadFault};
use super::bytes::{Bytes, WINDOW_BYTES};
use super::segment::SegmentHeader;
use super::{BLOCK, Position};

/// A segment's bytes, under the sequence that its name carries.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// The sequence in the file's name.
    pub sequence: u64,
    /// All of the file.
    pub bytes: &'a [u8],
}

/// Something that no crash can leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the first bad batch starts; offset 0 for a segment's header or a missing segment.
    pub place: Position,
    /// The last transaction before it.
    pub last_good: Zxid,
    /// What was found.
    pub what: String,
    /// True when it is no damage: a newer release wrote it.
    pub is_newer: bool,
}

/// Why a scan goes no further.
#[derive(Debug)]
pub enum Fault<E> {
    /// The bytes are not what the log wrote.
    Damage(Damage),
    /// There is no telling what they are.
    Unreadable {
        /// The last transaction before them.
        last_good: Zxid,
        /// Why they cannot be read.
        error: E,
    },
}

impl<E> From<Damage> for Fault<E> {
    fn from(damage: Damage) -> Fault<E> {
        Fault::Damage(damage)
    }
}

/// Why a segment's batches stop where they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The segment is full to its last byte.
    End,
    /// Zeros: nothing was ever written there.
    Zeros,
    /// What a recycled segment held before.
    Leftover,
    /// A batch that did not reach the disk whole; `bytes` is its size where its header tells.
    Torn {
        /// Bytes on disk that the batch would have, from the stop on.
        bytes: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// A turn of the history that is not an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Where it stands: what stands before it is subject to it.
    pub place: Position,
    /// Where the history goes on.
    pub to: Zxid,
    /// True when all before is void, false when only what is later than `to` is.
    pub reset: bool,
}

/// What one segment holds.
#[derive(Clone, Debug)]
pub struct SegmentScan {
    /// The segment.
    pub sequence: u64,
    /// Its header, when there is a sound one.
    pub header: Option<SegmentHeader>,
    /// True when the header is sound and the file has the size that it says.
    pub whole: bool,
    /// The end of the history before the segment's first batch.
    pub previous: Zxid,
    /// The largest zxid in it, void or not; `previous` without transactions.
    pub highest: Zxid,
    /// Where the last good batch starts; `None` when there is none.
    pub last_batch: Option<u64>,
    /// Where the last good batch ends, in bytes.
    pub end: u64,
    /// Why the batches end there.
    pub stop: Stop,
    /// Good batches, with marks and turns.
    pub batches: u64,
    /// Transactions.
    pub txns: u64,
    /// Bytes of transactions, without any header.
    pub bytes: u64,
}

/// What a whole log holds.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The log's identity; `None` when no segment tells.
    pub identity: Option<u64>,
    /// The checksum of the last batch's header; `None` when there is no batch.
    pub chain: Option<u32>,
    /// The end of the history.
    pub last: Zxid,
    /// How far the last batch proves the log durable.
    pub durable_mark: Zxid,
    /// How far it is known to be committed, by what its batches say; not beyond `last`, and zero
    /// for unknown.
    pub committed: Zxid,
    /// All segments, oldest first.
    pub segments: Vec<SegmentScan>,
    /// Cuts and resets, oldest first.
    pub turns: Vec<Turn>,
}

impl History {
    /// The index of the segment with the last batch.
    pub fn tail_index(&self) -> Option<usize> {
        self.segments.iter().rposition(|segment| segment.batches > 0)
    }
}

/// Scans one segment's image on its own, as the first of a log: what a fuzzer calls.
///
/// # Errors
/// As for [`scan`].
pub fn scan_image(sequence: u64, bytes: &[u8]) -> Result<History, Damage> {
    scan(&[Image { sequence, bytes }], Zxid::ZERO)
}

/// Scans a log from its segments' images, which stand in order of their sequences.
///
/// `committed` is a zxid known from elsewhere to be committed, or zero: a torn batch that follows
/// on less than that is damage.
///
/// # Errors
/// The first damage.
pub fn scan(images: &[Image<'_>], committed: Zxid) -> Result<History, Damage> {
    let mut scanner = Scanner::default();
    for image in images {
        scanner.segment(image)?;
    }
    scanner.finish(committed)
}

/// Scans a log segment by segment, for those who do not hold all of it at once.
#[derive(Default)]
pub struct Scanner {
    history: History,
    /// A torn batch with a sound header that stands before any good batch.
    torn_first: Option<Position>,
    /// Where the batches of the last segment with any end.
    stopped: Option<Position>,
}

impl Scanner {
    fn damage(&self, sequence: u64, offset: u64, what: impl Into<String>) -> Damage {
        let place = Position { sequence, offset };
        Damage { place, last_good: self.history.last, what: what.into(), is_newer: false }
    }

    /// Scans the next segment and gives what it holds.
    ///
    /// # Errors
    /// The first damage; nothing more can be scanned then.
    pub fn segment(&mut self, image: &Image<'_>) -> Result<&SegmentScan, Damage> {
        let mut bytes = image.bytes;
        match self.read_segment(image.sequence, &mut bytes) {
            Ok(scan) => Ok(scan),
            Err(Fault::Damage(damage)) => Err(damage),
            Err(Fault::Unreadable { error, .. }) => match error {},
        }
    }

    /// [`Scanner::segment`] of the segment `sequence`, whose file holds `bytes`. They are read from
    /// the first to the last, and hardly any twice.
    ///
    /// # Errors
    /// The first damage, or that something cannot be read; nothing more can be scanned then.
    pub fn read_segment<B: Bytes>(
        &mut self,
        sequence: u64,
        bytes: &mut B,
    ) -> Result<&SegmentScan, Fault<B::Error>> {
        if let Some(previous) = self.history.segments.last()
            && previous.sequence.checked_add(1) != Some(sequence)
        {
            let missing = previous.sequence.saturating_add(1);
            return Err(self.damage(missing, 0, "the segment is missing").into());
        }
        let header = self.segment_header(sequence, bytes)?;
        let size = header.map_or(u64::MAX, |header| header.size);
        let mut scan = SegmentScan {
            sequence,
            header,
            whole: size == bytes.count() && size.is_multiple_of(BLOCK as u64),
            previous: self.history.last,
            highest: self.history.last,
            last_batch: None,
            end: BLOCK as u64,
            stop: Stop::Zeros,
            batches: 0,
            txns: 0,
            bytes: 0,
        };
        // What stands behind the segment's end is nobody's.
        let count = size.min(bytes.count());
        if header.is_some() {
            scan.stop = self.batches(bytes, count, &mut scan)?;
        }
        self.refuse_evidence_after(bytes, count, &scan)?;
        if scan.batches > 0 {
            let offset = scan.end;
            self.stopped = Some(Position { sequence, offset });
        } else if self.history.chain.is_none() && matches!(scan.stop, Stop::Torn { .. }) {
            self.torn_first.get_or_insert(Position { sequence, offset: scan.end });
        }
        self.history.segments.push(scan);
        Ok(self.history.segments.last().expect("one was just pushed"))
    }

    fn at<'b, B: Bytes>(
        &self,
        bytes: &'b mut B,
        offset: u64,
        count: u64,
    ) -> Result<&'b [u8], Fault<B::Error>> {
        let last_good = self.history.last;
        bytes.at(offset, count).map_err(|error| Fault::Unreadable { last_good, error })
    }

    /// The segment's header, or `None` for a file whose creation was cut short.
    fn segment_header<B: Bytes>(
        &mut self,
        sequence: u64,
        bytes: &mut B,
    ) -> Result<Option<SegmentHeader>, Fault<B::Error>> {
        let first = self.at(bytes, 0, bytes.count().min(BLOCK as u64))?;
        let Some(header) = SegmentHeader::decode(first) else { return Ok(None) };
        if header.sequence != sequence {
            let what = format!("its header is that of segment {}", header.sequence);
            return Err(self.damage(sequence, 0, what).into());
        }
        match self.history.identity {
            Some(identity) if identity != header.identity => {
                Err(self.damage(sequence, 0, "it belongs to another log").into())
            }
            _ => {
                self.history.identity = Some(header.identity);
                Ok(Some(header))
            }
        }
    }

    /// Walks the batches in the first `count` bytes of a segment until they stop.
    fn batches<B: Bytes>(
        &mut self,
        bytes: &mut B,
        count: u64,
        scan: &mut SegmentScan,
    ) -> Result<Stop, Fault<B::Error>> {
        let sequence = scan.sequence;
        loop {
            let left = count.saturating_sub(scan.end);
            if left == 0 {
                return Ok(Stop::End);
            }
            let header = match Header::decode(self.at(bytes, scan.end, left.min(BLOCK as u64))?) {
                Ok(header) => header,
                Err(HeaderFault::Zeros) => return Ok(Stop::Zeros),
                Err(HeaderFault::Unknown) => {
                    let what = "a batch of an unknown version: a newer release wrote it";
                    let damage = self.damage(sequence, scan.end, what);
                    return Err(Damage { is_newer: true, ..damage }.into());
                }
                Err(HeaderFault::Magic) if scan.header.is_some_and(|it| it.recycled) => {
                    return Ok(Stop::Leftover);
                }
                Err(fault) => return Ok(torn(BLOCK as u64, fault.to_string())),
            };
            if self.history.identity != Some(header.identity) {
                return Ok(torn(BLOCK as u64, "a batch of another log".to_owned()));
            }
            if header.sequence < sequence {
                return Ok(Stop::Leftover);
            }
            self.check_place(&header, scan)?;
            let batch = self.at(bytes, scan.end, header.padded_bytes().min(left))?;
            match batch::check_payload(&header, batch).map(|records| records.committed()) {
                Ok(committed) => self.accept(&header, committed, scan),
                Err(fault @ PayloadFault::Records) => {
                    return Err(self.damage(sequence, scan.end, fault.to_string()).into());
                }
                Err(fault) => return Ok(torn(header.padded_bytes(), fault.to_string())),
            }
        }
    }

    /// A sound header must be the one that belongs here, whatever became of its payload.
    fn check_place(&self, header: &Header, scan: &SegmentScan) -> Result<(), Damage> {
        if header.sequence != scan.sequence || header.offset != scan.end {
            let what = misdirected(header);
            return Err(self.damage(scan.sequence, scan.end, what));
        }
        let Some(chain) = self.history.chain else {
            // The first batch there is: what it says of the history before it is the base. But
            // a batch that is torn ahead of it was durable.
            return match self.torn_first {
                Some(torn) => Err(self.damage(torn.sequence, torn.offset, WRITTEN_AFTER)),
                None => Ok(()),
            };
        };
        // With batches before it in this segment the break is here, else where those of the
        // segment before stop.
        let here = Position { sequence: scan.sequence, offset: scan.end };
        let place = if scan.batches > 0 { here } else { self.stopped.unwrap_or(here) };
        if header.chain != chain {
            let what = "the batch that the next one refers to is not here";
            return Err(self.damage(place.sequence, place.offset, what));
        }
        let continues = match header.kind {
            Kind::Txns | Kind::Mark => header.previous == self.history.last,
            Kind::Cut => header.previous <= self.history.last,
            Kind::Reset => true,
        };
        if !continues {
            let what = format!("the history goes on after {}", header.previous);
            return Err(self.damage(here.sequence, here.offset, what));
        }
        Ok(())
    }

    fn accept(&mut self, header: &Header, committed: Zxid, scan: &mut SegmentScan) {
        let history = &mut self.history;
        if scan.batches == 0 {
            scan.previous = header.previous;
            scan.highest = header.previous;
        }
        if matches!(header.kind, Kind::Cut | Kind::Reset) {
            history.turns.push(Turn {
                place: Position { sequence: scan.sequence, offset: scan.end },
                to: header.previous,
                reset: header.kind == Kind::Reset,
            });
        }
        let headers = u64::from(header.count) * super::RECORD_HEADER_BYTES as u64
            + header.trailer_bytes() as u64;
        history.last = header.history_end();
        history.chain = Some(header.checksum());
        history.durable_mark = header.durable;
        history.committed = history.committed.max(committed).min(history.last);
        scan.highest = scan.highest.max(header.last);
        scan.last_batch = Some(scan.end);
        scan.end += header.padded_bytes();
        scan.batches += 1;
        scan.txns += u64::from(header.count);
        scan.bytes += u64::from(header.length) - headers;
    }

    /// A batch that was written for this segment behind the place where its batches stop proves
    /// that there was a durable one at that place.
    fn refuse_evidence_after<B: Bytes>(
        &self,
        bytes: &mut B,
        count: u64,
        scan: &SegmentScan,
    ) -> Result<(), Fault<B::Error>> {
        let from = match (&scan.stop, scan.header) {
            (_, None) => BLOCK as u64,
            (Stop::End, _) => return Ok(()),
            _ => scan.end + BLOCK as u64,
        };
        let Some((offset, header)) = self.batch_after(bytes, from..count, scan.sequence)? else {
            return Ok(());
        };
        if scan.header.is_none() {
            return Err(self
                .damage(scan.sequence, 0, "its header is unreadable, its batches not")
                .into());
        }
        if header.offset != offset || header.sequence != scan.sequence {
            let what = format!("at offset {offset}: {}", misdirected(&header));
            return Err(self.damage(scan.sequence, scan.end, what).into());
        }
        let what = match &scan.stop {
            Stop::Torn { why, .. } => format!("{why}, and {WRITTEN_AFTER} (at {offset})"),
            _ => format!("no batch is here, and {WRITTEN_AFTER} (at {offset})"),
        };
        Err(self.damage(scan.sequence, scan.end, what).into())
    }

    /// The first sound header in `range`, at any block of it, that is not of an older segment.
    fn batch_after<B: Bytes>(
        &self,
        bytes: &mut B,
        range: Range<u64>,
        sequence: u64,
    ) -> Result<Option<(u64, Header)>, Fault<B::Error>> {
        for start in range.clone().step_by(WINDOW_BYTES as usize) {
            let window = self.at(bytes, start, WINDOW_BYTES.min(range.end - start))?;
            for (offset, block) in (start..).step_by(BLOCK).zip(window.chunks(BLOCK)) {
                // Eight bytes of each block are looked at, unless they are the magic number.
                if !block.starts_with(&super::BATCH_MAGIC) {
                    continue;
                }
                let Ok(header) = Header::decode(block) else { continue };
                let ours = self.history.identity.is_none_or(|it| it == header.identity);
                if ours && header.sequence >= sequence {
                    return Ok(Some((offset, header)));
                }
            }
        }
        Ok(None)
    }

    /// The whole log's history, when all segments were scanned; see [`scan`].
    ///
    /// # Errors
    /// When the log ends in a torn batch before `committed`.
    pub fn finish(self, committed: Zxid) -> Result<History, Damage> {
        if self.history.last < committed
            && let Some(torn) = self.history.segments.iter().rfind(|it| is_torn(it))
        {
            let what = format!("a torn batch, and zxid {committed} is known to be committed");
            return Err(self.damage(torn.sequence, torn.end, what));
        }
        Ok(self.history)
    }
}

const WRITTEN_AFTER: &str = "a later batch proves that it was durable";

fn torn(bytes: u64, why: String) -> Stop {
    Stop::Torn { bytes, why }
}

fn is_torn(scan: &SegmentScan) -> bool {
    matches!(scan.stop, Stop::Torn { .. })
}

fn misdirected(header: &Header) -> String {
    format!("a batch that belongs to segment {} offset {}", header.sequence, header.offset)
}
