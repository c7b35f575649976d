//! What threads do for links: snapshots both ways, and reads of the log.

use std::fmt::Display;
use std::io::BufRead;
use std::sync::mpsc::{TryRecvError, sync_channel};

use crate::log::piece::{Bookmark, Piece};
use crate::log::read::Reader;
use crate::server::peers::link::{End, Incoming, Link, LogWanted, Phase, Sending};
use crate::server::peers::streams::{PIECE_BYTES, PIECES_MAX, PieceWriter, SnapshotReader, feed};
use crate::server::peers::workers::Job;
use crate::wire::quorum::Extensions;
use crate::wire::quorum::codec::{CHUNK_BYTES_MAX, encode_chunk};
use crate::zab::output::LinkId;

use super::{LogUnread, Outcome, PeerEvent, QUEUED_LOW_BYTES, QuorumPort};

const _: () = assert!(PIECE_BYTES <= CHUNK_BYTES_MAX);

/// A snapshot that waits for a sender.
pub(super) struct SendJob {
    link: LinkId,
    /// Makes the thread's job for the sender with this number.
    job: Box<dyn FnOnce(usize) -> Job + Send>,
}

impl<R: Send + 'static> QuorumPort<R> {
    /// Performs `Action::SendSnapshot`: what `write` writes goes to the learner, behind what is
    /// queued for it; what is queued later goes behind it. `write` runs on a thread, when one is
    /// free. `SnapshotSent` or `SnapshotFailed` follows, always one of them, once `write` and all
    /// that it holds is gone.
    pub fn send_snapshot<E: Display>(
        &mut self,
        link: LinkId,
        extensions: Extensions,
        write: impl FnOnce(&mut PieceWriter) -> Result<(), E> + Send + 'static,
    ) {
        let Some(it) = self.links.get_mut(&link).filter(|it| !it.is_leaving()) else {
            return self.snapshot_failed(link, LINK_GONE.to_owned());
        };
        assert_eq!(it.end, End::Learner, "a leader is sent no snapshot");
        assert!(it.sending.is_none(), "a link has one snapshot at a time");
        let (to_core, pieces) = sync_channel(PIECES_MAX);
        let is_chunked = extensions.chunked_snapshot;
        it.sending = Some(Sending { pieces, is_chunked, offset: 0, is_written: false });
        let mut writer = PieceWriter::new(to_core, self.waker.clone());
        let (outcomes, waker) = (self.to_core.clone(), self.waker.clone());
        let job = move |sender: usize| -> Job {
            Box::new(move || {
                let written = write(&mut writer).map_err(|error| error.to_string());
                let result =
                    written.and_then(|()| writer.finish().map_err(|error| error.to_string()));
                // The core may be gone already when the server stops.
                if outcomes.send(Outcome::Sent { link, sender, result }).is_ok() {
                    waker.wake();
                }
            })
        };
        self.send_jobs.push_back(SendJob { link, job: Box::new(job) });
        self.start_sending();
    }

    /// Gives waiting snapshots to the senders that are free.
    fn start_sending(&mut self) {
        while !self.send_jobs.is_empty()
            && let Some(sender) = self.workers.free_sender()
            && let Some(SendJob { job, .. }) = self.send_jobs.pop_front()
        {
            self.workers.send(sender, job(sender));
        }
    }

    /// A link is gone: its snapshot, where it waits for a sender, is not made.
    pub(super) fn forget_send_job(&mut self, link: LinkId) {
        if let Some(index) = self.send_jobs.iter().position(|it| it.link == link) {
            self.send_jobs.remove(index);
            self.snapshot_failed(link, LINK_GONE.to_owned());
        }
    }

    /// Performs `Action::ReceiveSnapshot`: the bytes that come on the link go to `parse`, which
    /// runs on a thread and must consume what belongs to the snapshot and no more (it reads by
    /// [`std::io::BufRead`], and what it leaves is taken for packets). `SnapshotReceived` or
    /// `SnapshotFailed` follows, always one of them, also when the link is lost or closed.
    pub fn receive_snapshot<E: Display>(
        &mut self,
        link: LinkId,
        extensions: Extensions,
        parse: impl FnOnce(&mut SnapshotReader) -> Result<R, E> + Send + 'static,
    ) {
        let Some(it) = self.links.get_mut(&link).filter(|it| !it.is_leaving()) else {
            return self.snapshot_failed(link, LINK_GONE.to_owned());
        };
        assert!(matches!(it.phase, Phase::Named), "a snapshot is received behind a SNAP");
        let (feed, mut reader) = feed(self.waker.clone());
        let is_chunked = extensions.chunked_snapshot;
        it.phase = Phase::Receiving(Incoming { feed, is_chunked, offset: 0 });
        let (outcomes, waker) = (self.to_core.clone(), self.waker.clone());
        self.workers.receive(Box::new(move || {
            let parsed = parse(&mut reader).map_err(|error| error.to_string());
            let result = match is_chunked {
                true => parsed.and_then(|received| at_end(&mut reader).map(|()| received)),
                false => parsed,
            };
            if outcomes.send(Outcome::Received { link, result, reader }).is_ok() {
                waker.wake();
            }
        }));
        self.take_input(link);
    }

    /// The read of the log that is due on some link, to be answered by [`QuorumPort::read_log`]
    /// with a reader made at this moment.
    pub fn poll_log_wanted(&mut self) -> Option<LogWanted> {
        let mut links = self.links.values_mut();
        let due =
            links.find(|it| it.log_wanted.is_some() && it.queued_bytes() < QUEUED_LOW_BYTES)?;
        due.log_wanted.take()
    }

    /// Reads the log for a link on a thread. `LogRead` follows, unless the link is lost.
    pub fn read_log(&mut self, wanted: LogWanted, reader: Reader) {
        let link = wanted.link;
        let bookmark = self.links.get_mut(&link).and_then(|it| it.bookmark.take());
        self.stats.log_reads += 1;
        let (outcomes, waker) = (self.to_core.clone(), self.waker.clone());
        self.workers.read_log(Box::new(move || {
            let result = read(&reader, wanted, bookmark);
            // The segments it holds can be purged again when the core hears.
            drop(reader);
            if outcomes.send(Outcome::LogRead { link, result }).is_ok() {
                waker.wake();
            }
        }));
    }

    pub(super) fn take_outcome(&mut self, outcome: Outcome<R>) {
        match outcome {
            Outcome::LogRead { link, result } => self.take_log(link, result),
            Outcome::Sent { link, sender, result } => {
                self.workers.handle_sent(sender);
                self.start_sending();
                self.take_sent(link, result);
            }
            Outcome::Received { link, result, reader } => self.take_received(link, result, reader),
        }
    }

    fn take_log(&mut self, link: LinkId, result: Result<Piece, LogUnread>) {
        let Some(it) = self.links.get_mut(&link).filter(|it| !it.is_leaving()) else {
            return;
        };
        let result = result.map(|Piece { txns, bookmark, .. }| {
            it.bookmark = Some(bookmark);
            txns
        });
        self.events.push_back(PeerEvent::LogRead { link, result });
    }

    fn take_sent(&mut self, link: LinkId, result: Result<(), String>) {
        let sending = self.links.get_mut(&link).and_then(|it| it.sending.as_mut());
        match (sending, result) {
            // The last pieces may still be on their way to the link.
            (Some(sending), Ok(())) => sending.is_written = true,
            (Some(_), Err(reason)) => {
                self.warn(link, &format!("the snapshot for it was not made: {reason}"));
                self.snapshot_failed(link, reason);
            }
            (None, _) => self.snapshot_failed(link, LINK_GONE.to_owned()),
        }
    }

    fn take_received(&mut self, link: LinkId, result: Result<R, String>, reader: SnapshotReader) {
        let is_failed = result.is_err();
        match result {
            Ok(received) => {
                self.stats.snapshots_received += 1;
                self.events.push_back(PeerEvent::SnapshotReceived { link, received });
            }
            Err(reason) => {
                self.warn(link, &format!("the snapshot on it is of no use: {reason}"));
                self.snapshot_failed(link, reason);
            }
        }
        let Some(it) = self.links.get_mut(&link).filter(|it| !it.is_leaving()) else {
            return;
        };
        assert!(matches!(it.phase, Phase::Receiving(_) | Phase::Installing));
        it.phase = Phase::Installing;
        it.partial_since = None;
        // What a bare stream is followed by has gone the same way as the stream.
        let rest = reader.into_rest();
        assert!(rest.is_empty() || it.input.is_empty(), "all bytes went one way");
        if is_failed {
            it.input = Vec::new();
        } else if !rest.is_empty() {
            it.input = rest;
        }
        self.regulate(link);
    }

    fn snapshot_failed(&mut self, link: LinkId, reason: String) {
        self.stats.snapshots_failed += 1;
        self.events.push_back(PeerEvent::SnapshotFailed { link, reason });
    }

    /// Takes what the threads have made of snapshots, and reads sockets again that were left
    /// alone.
    pub(super) fn move_streams(&mut self) {
        let moving = |it: &Link| it.sending.is_some() || matches!(it.phase, Phase::Receiving(_));
        let links = self.links.values().filter(|it| moving(it)).map(|it| it.id);
        let links: Vec<LinkId> = links.collect();
        for link in links {
            self.move_stream(link);
            self.regulate(link);
        }
    }

    /// Takes pieces of the snapshot that is sent on a link, as long as there is room.
    pub(super) fn move_stream(&mut self, link: LinkId) {
        let Some(it) = self.links.get_mut(&link) else {
            return;
        };
        let Some(sending) = &mut it.sending else {
            return;
        };
        let mut is_whole = false;
        while it.out.bytes() < QUEUED_LOW_BYTES {
            match sending.pieces.try_recv() {
                Ok(piece) if sending.is_chunked => {
                    let offset = sending.offset;
                    sending.offset += piece.len() as u64;
                    it.out.append(|out| encode_chunk(offset, &piece, out));
                }
                Ok(piece) => it.out.append_piece(piece),
                Err(TryRecvError::Empty) => break,
                // The outcome is on its way where it has not come.
                Err(TryRecvError::Disconnected) => {
                    is_whole = sending.is_written;
                    break;
                }
            }
        }
        if is_whole {
            if sending.is_chunked {
                let offset = sending.offset;
                it.out.append(|out| encode_chunk(offset, &[], out));
            }
            it.sending = None;
            it.out.append_piece(std::mem::take(&mut it.held));
            self.stats.snapshots_sent += 1;
            self.events.push_back(PeerEvent::SnapshotSent { link });
        }
        self.mark_dirty(link);
    }
}

/// Why a snapshot was not sent.
const LINK_GONE: &str = "the link is gone";

/// Checks that chunks hold the snapshot and nothing more; waits for the last one.
fn at_end(reader: &mut SnapshotReader) -> Result<(), String> {
    match reader.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) => Err("there is more in its chunks than the snapshot".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The transactions later than `after`: one at least where there are any, and about `bytes` of
/// them.
///
/// # Errors
/// The log does not continue a history that ends with `after`. An epoch's start has no
/// transaction: it is where the epoch begins.
fn read(
    reader: &Reader,
    LogWanted { after, bytes, .. }: LogWanted,
    bookmark: Option<Bookmark>,
) -> Result<Piece, LogUnread> {
    let piece = reader.read_piece(after, bytes, bookmark)?;
    if piece.previous != after && after.counter() != 0 {
        return Err(LogUnread::Foreign(after));
    }
    assert!(piece.txns.first().is_none_or(|(zxid, _)| *zxid > after));
    Ok(piece)
}
