//! Reading the log piece by piece while it is being appended to: the history that a learner lacks.
//!
//! A bad sector is an error of this one reading, and the caller falls back to a snapshot. The file
//! is written around the page cache and read around it, too: none of its pages stay there.

use std::sync::Arc;

use crate::zxid::Zxid;

use super::batch::{self, Header, Kind};
use super::bytes::{Bytes, SegmentBytes};
use super::read::{Reader, ReaderSegment, limit_at};
use super::{BLOCK, LogError, Position, RECORD_HEADER_BYTES};

/// Where a reading left off, for the next one to go on without searching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// The last transaction that was read.
    after: Zxid,
    /// The batch that the next one may be in.
    place: Position,
}

/// A part of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The history's last zxid that is not later than the one that was asked for. If it is another
    /// one, the one that was asked for is not of this history: who has it must first go back to
    /// this one.
    pub previous: Zxid,
    /// What follows, in order and without a gap.
    pub txns: Vec<(Zxid, Arc<[u8]>)>,
    /// Whether that is all there is.
    pub is_end: bool,
    /// For the next piece, after the last of `txns`.
    pub bookmark: Bookmark,
}

impl Reader {
    /// The transactions after `after`: about `bytes_max` bytes of them, and at least one if there
    /// is one. Blocks; every byte is checked. `bookmark` is that of the piece before, from this
    /// reader or an earlier one; without it the segment is searched from its start.
    ///
    /// # Errors
    /// [`LogError::Gap`] when something after `after` may be missing; the disk's; and
    /// [`LogError::Damaged`]. A snapshot helps in each case, and the log goes on.
    pub fn read_piece(
        &self,
        after: Zxid,
        bytes_max: usize,
        bookmark: Option<Bookmark>,
    ) -> Result<Piece, LogError> {
        let marked = bookmark.filter(|bookmark| bookmark.after == after);
        let marked = marked.and_then(|bookmark| self.find(bookmark.place));
        let (index, offset) = match marked {
            Some(found) => found,
            None => (self.start(Zxid::from_raw(after.raw().saturating_add(1)))?, BLOCK as u64),
        };
        let mut reading = Reading {
            reader: self,
            index,
            offset,
            bytes: self.segments.get(index).map(ReaderSegment::bytes),
            piece: Piece {
                previous: after,
                txns: Vec::new(),
                is_end: false,
                bookmark: Bookmark { after, place: Position { sequence: 0, offset: 0 } },
            },
            after,
            taken: 0,
            bytes_max,
        };
        if marked.is_none() {
            reading.piece.previous = self.segments.get(index).map_or(after, |it| it.previous);
        }
        while reading.next_batch()? {}
        Ok(reading.piece)
    }

    /// The segment, by index, that has `place`, if it is still there.
    fn find(&self, place: Position) -> Option<(usize, u64)> {
        let index = self.segments.iter().position(|it| it.file.sequence() == place.sequence)?;
        (place.offset <= self.segments[index].end).then_some((index, place.offset))
    }
}

struct Reading<'r> {
    reader: &'r Reader,
    /// The segment, and where the next batch starts in it.
    index: usize,
    offset: u64,
    bytes: Option<SegmentBytes<'r>>,
    piece: Piece,
    after: Zxid,
    taken: usize,
    bytes_max: usize,
}

impl Reading<'_> {
    /// Takes what is wanted of the next batch; false when that was the last one that is.
    fn next_batch(&mut self) -> Result<bool, LogError> {
        let reader = self.reader;
        while let Some(segment) = reader.segments.get(self.index)
            && self.offset >= segment.end
            && self.index + 1 < reader.segments.len()
        {
            (self.index, self.offset) = (self.index + 1, BLOCK as u64);
            self.bytes = reader.segments.get(self.index).map(ReaderSegment::bytes);
        }
        let (Some(segment), Some(bytes)) = (reader.segments.get(self.index), &mut self.bytes)
        else {
            self.piece.is_end = true;
            return Ok(false);
        };
        let place = Position { sequence: segment.file.sequence(), offset: self.offset };
        self.piece.bookmark.place = place;
        if self.offset >= segment.end {
            self.piece.is_end = true;
            return Ok(false);
        }
        if self.taken >= self.bytes_max && !self.piece.txns.is_empty() {
            return Ok(false);
        }
        let last_good = self.piece.txns.last().map_or(self.piece.previous, |(zxid, _)| *zxid);
        let damaged = |what: String| LogError::Damaged {
            file: segment.file.path().to_owned(),
            offset: place.offset,
            last_good_zxid: last_good,
            what,
        };
        let head = bytes.at(place.offset, BLOCK as u64)?;
        let header = Header::decode(head).map_err(|fault| damaged(fault.to_string()))?;
        if (header.sequence, header.offset) != (place.sequence, place.offset) {
            return Err(damaged("a batch that belongs elsewhere".to_owned()));
        }
        let length = header.padded_bytes();
        if length > segment.end - place.offset {
            return Err(damaged("the batch reaches beyond the durable end".to_owned()));
        }
        let limit = limit_at(&reader.turns, place);
        if header.kind != Kind::Txns || header.last <= self.after {
            let end = header.history_end().min(limit);
            if end <= self.after && self.piece.txns.is_empty() {
                self.piece.previous = end;
            }
            self.offset += length;
            return Ok(true);
        }
        let batch = bytes.at(place.offset, length)?;
        let records =
            batch::check_payload(&header, batch).map_err(|fault| damaged(fault.to_string()))?;
        for (zxid, txn) in records.filter(|(zxid, _)| *zxid <= limit) {
            if zxid <= self.after {
                self.piece.previous = zxid;
                continue;
            }
            if self.taken >= self.bytes_max && !self.piece.txns.is_empty() {
                return Ok(false);
            }
            self.taken += RECORD_HEADER_BYTES + txn.len();
            self.piece.txns.push((zxid, txn.into()));
            self.piece.bookmark.after = zxid;
        }
        self.after = self.piece.bookmark.after;
        self.offset += length;
        Ok(true)
    }
}
