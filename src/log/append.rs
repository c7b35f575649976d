//! [`Log`]: the appender over the segments' files. It says what to write, and into which file; the
//! caller performs it and says how it went.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::zxid::Zxid;

use super::batch::{Header, Kind};
use super::buffer::AlignedBuffer;
use super::group::{Appender, GroupWrite, Space, Tail, txn_bytes_max};
use super::lock::DirLock;
use super::read::{Reader, ReaderSegment};
use super::scan::Turn;
use super::segment::{PreparedSegment, RetiredSegment, SegmentFile, SegmentRequest};
use super::{LogError, Position, SPARE_SEGMENTS_MAX, WriterKind};

/// How long after a refusal for want of space a segment is asked for again: long enough not to
/// busy the disk, short enough that service is back soon after space is.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The reserve is this part of a segment: 4 MiB of 64 MiB hold a thousand batches of sessions.
const RESERVE_DIVISOR: u64 = 16;

/// One write to perform. At most one is in flight.
///
/// With [`WriterKind::Direct`]: write `buffer` at `offset` to `file.fd()`, all of it. With
/// [`WriterKind::Mmap`]: `file.store(offset, buffer.bytes())`, then `fdatasync` of `file.fd()`.
/// Then hand it back by [`Log::handle_written`].
#[must_use = "the log waits until the write is handed back"]
pub struct Write {
    /// The segment.
    pub file: Arc<SegmentFile>,
    /// Where in it, in bytes: a multiple of the block.
    pub offset: u64,
    /// Whole blocks, aligned.
    pub buffer: AlignedBuffer,
    /// What will be durable.
    pub through: Zxid,
    header: Header,
}

impl Write {
    /// Performs the write and waits for it: for tools and tests.
    ///
    /// # Errors
    /// The operating system's; hand it to [`Log::handle_written`] as it is.
    pub fn perform_blocking(&self) -> std::io::Result<()> {
        self.file.write_blocking(self.offset, self.buffer.bytes())
    }
}

/// What may still be appended without a further segment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free in all segments at hand, counted as if every transaction were a batch of its own.
    pub bytes: u64,
    /// Free in the segment with the most: a transaction must fit into one.
    pub largest: u64,
    /// Of `bytes`, kept back for sessions' beginnings and ends.
    pub reserve: u64,
}

impl Room {
    /// True when a client's write of `length` bytes may be prepared, with `prepared` bytes
    /// ([`txn_bytes_max`] of each) prepared before it and not yet appended.
    pub fn admits(&self, length: usize, prepared: u64) -> bool {
        self.admits_session(length, prepared.saturating_add(self.reserve))
    }

    /// The same for the beginning or end of a session, which may use the reserve. An end that is
    /// not admitted is appended all the same and waits in memory.
    pub fn admits_session(&self, length: usize, prepared: u64) -> bool {
        let need = txn_bytes_max(length);
        need <= self.largest && need.saturating_add(prepared) <= self.bytes
    }
}

/// A segment with the log's knowledge of it.
pub(super) struct Held {
    pub file: Arc<SegmentFile>,
    /// The end of the history before its first batch.
    pub previous: Zxid,
    /// The largest zxid in it.
    pub highest: Zxid,
    /// Where its last durable batch ends; 0 when it has none.
    pub end: u64,
}

/// The transaction log, open for appending.
///
/// After each call that changes it, drain [`Log::poll_write`] and [`Log::wanted_segment`].
pub struct Log {
    appender: Appender,
    writer: WriterKind,
    segment_bytes: u64,
    /// Oldest first, prepared ones last.
    segments: VecDeque<Held>,
    turns: Vec<Turn>,
    retired: VecDeque<RetiredSegment>,
    identity: u64,
    sequence_next: u64,
    requested: bool,
    retry_at: Option<Time>,
    failed: bool,
    /// Keeps every other process out.
    _lock: DirLock,
}

/// What recovery hands over.
pub(super) struct Resume {
    pub tail: Tail,
    pub writer: WriterKind,
    pub segment_bytes: u64,
    pub segments: VecDeque<Held>,
    /// The segment to go on in, and where; `None` when it must be a new one.
    pub current: Option<(Space, u64)>,
    /// Prepared segments behind it.
    pub spares: Vec<Space>,
    pub turns: Vec<Turn>,
    pub sequence_next: u64,
    pub lock: DirLock,
}

impl Log {
    pub(super) fn new(resume: Resume) -> Log {
        let mut appender = Appender::new(resume.tail, resume.segment_bytes);
        if let Some((space, offset)) = resume.current {
            appender.resume(space, offset);
        }
        for space in resume.spares {
            appender.offer(space);
        }
        Log {
            appender,
            writer: resume.writer,
            segment_bytes: resume.segment_bytes,
            segments: resume.segments,
            turns: resume.turns,
            retired: VecDeque::new(),
            identity: resume.tail.identity,
            sequence_next: resume.sequence_next,
            requested: false,
            retry_at: None,
            failed: false,
            _lock: resume.lock,
        }
    }

    /// The last transaction on disk: what may be acknowledged.
    pub fn durable(&self) -> Zxid {
        self.appender.durable()
    }

    /// The last transaction staged.
    pub fn appended(&self) -> Zxid {
        self.appender.appended()
    }

    /// How far the history is known to be committed, for certain.
    pub fn committed(&self) -> Zxid {
        self.appender.committed()
    }

    /// Takes in that the history is committed up to `zxid`. Batches that are written later say so,
    /// and so does the mark of a log that falls idle: after a restart it is known again, though
    /// perhaps not the last of it.
    pub fn set_committed(&mut self, zxid: Zxid) {
        self.appender.set_committed(zxid);
    }

    /// True when nothing is staged and nothing in flight.
    pub fn is_idle(&self) -> bool {
        self.appender.is_idle()
    }

    /// True when something staged waits for a segment that is not there.
    pub fn is_starved(&self) -> bool {
        self.appender.is_starved()
    }

    /// Bytes that wait in memory for their write, roughly: the write under way is none of them.
    pub fn staged_bytes(&self) -> usize {
        self.appender.staged_bytes()
    }

    /// How batches are written.
    pub fn writer(&self) -> WriterKind {
        self.writer
    }

    /// Stages a transaction into the pending group.
    ///
    /// # Panics
    /// If `zxid` is not later than all before it.
    pub fn append(&mut self, zxid: Zxid, txn: &[u8]) {
        self.appender.append(zxid, txn);
    }

    /// Stages the truncation of the history after `zxid`; a leader asks for it (TRUNC). It is
    /// durable, and `durable()` is `zxid`, when the write it becomes has been handed back.
    ///
    /// # Errors
    /// [`LogError::Gap`] when the log does not reach back to `zxid`: only a snapshot helps.
    ///
    /// # Panics
    /// If the log is not idle, or `zxid` is later than its end.
    pub fn truncate_after(&mut self, zxid: Zxid) -> Result<(), LogError> {
        if zxid == self.appended() {
            return Ok(());
        }
        let starts_after = self.starts_after();
        if zxid < starts_after {
            return Err(LogError::Gap { asked: zxid, starts_after });
        }
        self.appender.cut(zxid);
        Ok(())
    }

    /// Stages a new start of the history after `zxid`: that of a snapshot which was installed and
    /// does not continue what the log holds.
    ///
    /// # Panics
    /// If the log is not idle.
    pub fn reset_after(&mut self, zxid: Zxid) {
        self.appender.reset(zxid);
    }

    /// As [`Log::reset_after`], and written also where the log is empty: a log that holds nothing
    /// but this ends at `zxid`, where an empty one would have lost what a snapshot holds.
    pub fn begin_after(&mut self, zxid: Zxid) {
        self.appender.begin_after(zxid);
    }

    /// The next write to perform; `None` when nothing is staged, or one is in flight, or there is
    /// no segment with room, or the log has failed.
    pub fn poll_write(&mut self) -> Option<Write> {
        if self.failed {
            return None;
        }
        let write = self.appender.poll_write()?;
        Some(self.address(write))
    }

    /// A mark that proves the last batch durable, when everything is durable and there is no such
    /// mark: the caller asks when the log has been idle for a moment.
    pub fn mark_if_idle(&mut self) -> Option<Write> {
        if self.failed {
            return None;
        }
        let write = self.appender.mark_if_idle()?;
        Some(self.address(write))
    }

    fn address(&self, write: GroupWrite) -> Write {
        let GroupWrite { place, buffer, header } = write;
        let held = self.segments.iter().rfind(|held| held.file.sequence() == place.sequence);
        let file = Arc::clone(&held.expect("a place is in a segment that the log holds").file);
        assert!(place.offset + buffer.len() as u64 <= file.size());
        Write { file, offset: place.offset, buffer, through: header.history_end(), header }
    }

    /// How the write in flight went. Gives what is durable.
    ///
    /// # Errors
    /// Any failure is final: what the disk holds is not known any more, and trying again would
    /// prove nothing. The log then refuses everything, and the server must stop.
    pub fn handle_written(
        &mut self,
        write: Write,
        result: std::io::Result<()>,
    ) -> Result<Zxid, LogError> {
        if self.failed {
            return Err(LogError::Refused);
        }
        let Write { file, offset, buffer, header, .. } = write;
        if let Err(error) = result {
            self.failed = true;
            return Err(LogError::io("write", file.path(), offset, error));
        }
        let place = Position { sequence: file.sequence(), offset };
        let durable = self.appender.handle_written(GroupWrite { place, buffer, header });
        let held = self.segments.iter_mut().rfind(|held| held.file.sequence() == place.sequence);
        let held = held.expect("a write goes to a segment that the log holds");
        if held.end == 0 {
            held.previous = header.previous;
            held.highest = header.previous;
        }
        held.end = place.offset + header.padded_bytes();
        held.highest = held.highest.max(header.last);
        if matches!(header.kind, Kind::Cut | Kind::Reset) {
            let reset = header.kind == Kind::Reset;
            self.turns.push(Turn { place, to: header.previous, reset });
        }
        Ok(durable)
    }

    /// What may be appended without a further segment.
    pub fn room(&self) -> Room {
        let reserve = self.segment_bytes / RESERVE_DIVISOR;
        if self.failed {
            return Room { bytes: 0, largest: 0, reserve };
        }
        let (bytes, largest) = self.appender.free();
        Room { bytes, largest, reserve }
    }

    /// The segment to prepare in the background, when one is needed soon; one at a time. The caller
    /// answers by [`Log::offer_segment`] or [`Log::handle_segment_refused`].
    pub fn wanted_segment(&mut self, now: Time) -> Option<SegmentRequest> {
        if self.failed || self.requested || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let size = self.appender.wanted_space()?;
        self.requested = true;
        self.retry_at = None;
        let fits = self.retired.front().is_some_and(|retired| retired.size >= size);
        let recycle = if fits { self.retired.pop_front() } else { None };
        Some(SegmentRequest {
            identity: self.identity,
            sequence: self.sequence_next,
            size,
            writer: self.writer,
            recycle,
        })
    }

    /// When to ask [`Log::wanted_segment`] again after a refusal.
    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Takes the segment that was asked for.
    pub fn offer_segment(&mut self, segment: PreparedSegment) {
        assert!(self.requested, "a segment is offered when it was asked for");
        assert_eq!(segment.file.sequence(), self.sequence_next);
        self.requested = false;
        self.sequence_next += 1;
        let space = Space { sequence: segment.file.sequence(), size: segment.file.size() };
        let end = self.appended();
        self.segments.push_back(Held { file: segment.file, previous: end, highest: end, end: 0 });
        self.appender.offer(space);
    }

    /// The segment that was asked for could not be made.
    ///
    /// # Errors
    /// What may pass is waited out (a full volume): the segment is wanted again later, and
    /// [`Log::room`] says meanwhile what is left. Any other error is final and comes back.
    pub fn handle_segment_refused(&mut self, now: Time, error: LogError) -> Result<(), LogError> {
        assert!(self.requested, "a segment is refused when it was asked for");
        self.requested = false;
        if error.may_pass() {
            self.retry_at = Some(now + RETRY_AFTER);
            return Ok(());
        }
        self.failed = true;
        Err(error)
    }

    /// Lets go of the segments that hold only transactions below `zxid`. Some are kept to be used
    /// again; those returned are to be removed by [`super::segment::remove`], in this order and
    /// before any segment that is asked for later is made. A segment that a [`Reader`] holds stays,
    /// and so do those behind it, until the next call.
    pub fn purge_below(&mut self, zxid: Zxid) -> Vec<RetiredSegment> {
        // The segment of the last durable batch, and all behind it, are in use.
        let Some(current) = self.segments.iter().rposition(|held| held.end > 0) else {
            return Vec::new();
        };
        for _ in 0..current {
            let front = self.segments.front().expect("the current segment is behind it");
            if front.highest >= zxid || Arc::strong_count(&front.file) > 1 {
                break;
            }
            let held = self.segments.pop_front().expect("there is a front segment");
            self.retired.push_back(RetiredSegment {
                path: held.file.path().to_owned(),
                size: held.file.size(),
            });
        }
        let oldest = self.segments.front().map_or(0, |held| held.file.sequence());
        self.turns.retain(|turn| turn.place.sequence >= oldest);
        let surplus = self.retired.len().saturating_sub(SPARE_SEGMENTS_MAX);
        self.retired.drain(..surplus).collect()
    }

    /// Fails when a segment's file has no name any more: what it holds would be missed by the next
    /// start. A system call for each segment; reads no disk.
    ///
    /// # Errors
    /// `NotFound`, and the operating system's.
    pub fn check_named(&self) -> Result<(), LogError> {
        self.segments.iter().try_for_each(|held| held.file.check_named())
    }

    /// A reader of everything that is durable at this moment. It may go to another core while the
    /// log is appended to; the segments it holds are not purged while it lives.
    ///
    /// For a learner's history: [`Reader::read_piece`] there, by a new reader for each piece.
    pub fn reader(&self) -> Reader {
        let segments = self.segments.iter().filter(|held| held.end > 0);
        let segments = segments.map(|held| ReaderSegment {
            file: Arc::clone(&held.file),
            previous: held.previous,
            end: held.end,
        });
        Reader::new(segments.collect(), self.turns.clone(), self.durable())
    }

    /// The history before what the log holds ends here.
    fn starts_after(&self) -> Zxid {
        match self.turns.iter().rfind(|turn| turn.reset) {
            Some(turn) => turn.to,
            None => {
                let first = self.segments.iter().find(|held| held.end > 0);
                first.map_or(self.appended(), |held| held.previous)
            }
        }
    }
}
