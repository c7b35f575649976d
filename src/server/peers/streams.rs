//! A snapshot's bytes between a link and the thread that takes or makes them.
//!
//! ```text
//! receiving   ring ─► Feed ─► SnapshotReader ─► the tree        the socket is paused at a bound
//! sending     the tree ─► PieceWriter ─► pieces ─► link's out   the thread waits at a bound
//! ```
//! A bare stream has no length: only whoever parses it knows where it ends. So the reader comes
//! back to the core with what it has not consumed, which is the beginning of the next packets.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, SyncSender, channel};

use crate::io::clock;
use crate::io::wake::Waker;
use crate::time::Time;

/// Bytes that may wait for the thread before the socket is left alone: a thread that waits for
/// the disk for some tens of milliseconds does not hold the network up.
pub const WINDOW_BYTES: usize = 4 << 20;

/// When so few wait, the socket is read again.
const REFILL_BYTES: usize = WINDOW_BYTES / 2;

/// The size of the pieces that a snapshot is sent in.
pub const PIECE_BYTES: usize = 64 << 10;

/// Pieces that may wait for the core: a MiB, so that the thread is ahead of the network.
pub const PIECES_MAX: usize = 16;

const _: () = assert!(REFILL_BYTES < WINDOW_BYTES);

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// What both ends of a feed see.
#[derive(Default)]
struct Shared {
    /// Bytes that wait for the thread.
    queued: AtomicUsize,
    /// Since when the thread has been waiting for bytes, in nanoseconds; 0 while it is not.
    starved_since: AtomicU64,
}

/// The core's end of a snapshot that is received.
pub struct Feed {
    pieces: Sender<Piece>,
    shared: Arc<Shared>,
}

/// The thread's end of a snapshot that is received: the bytes in order.
///
/// At the end that was declared it reads nothing more; where the link is gone before, it is an
/// error of the kind `ConnectionAborted`.
pub struct SnapshotReader {
    pieces: Receiver<Piece>,
    shared: Arc<Shared>,
    waker: Waker,
    current: Vec<u8>,
    consumed: usize,
    is_ended: bool,
}

/// A feed and its reader, which wakes the core when there is room again.
pub fn feed(waker: Waker) -> (Feed, SnapshotReader) {
    let (sender, pieces) = channel();
    let shared = Arc::new(Shared::default());
    let feed = Feed { pieces: sender, shared: Arc::clone(&shared) };
    let current = Vec::new();
    (feed, SnapshotReader { pieces, shared, waker, current, consumed: 0, is_ended: false })
}

impl Feed {
    /// Passes bytes on, which are at last what a socket delivers after it was paused.
    pub fn push(&self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.shared.queued.fetch_add(bytes.len(), Ordering::AcqRel);
        // A reader that is gone has failed, and its outcome says so.
        self.pieces.send(Piece::Bytes(bytes)).ok();
    }

    /// Says that the stream is whole.
    pub fn end(&self) {
        self.pieces.send(Piece::End).ok();
    }

    /// Whether the socket should be left alone.
    pub fn is_full(&self) -> bool {
        self.shared.queued.load(Ordering::Acquire) > WINDOW_BYTES
    }

    /// Since when the thread has been waiting for bytes, if it is.
    pub fn starved_since(&self) -> Option<Time> {
        match self.shared.starved_since.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Time::from_nanos(nanos)),
        }
    }

    /// Whether the socket should be read again.
    pub fn wants_more(&self) -> bool {
        self.shared.queued.load(Ordering::Acquire) <= REFILL_BYTES
    }
}

impl SnapshotReader {
    /// What was not consumed, of all that was passed on.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.current.drain(..self.consumed);
        let mut rest = self.current;
        for piece in self.pieces.try_iter() {
            if let Piece::Bytes(bytes) = piece {
                rest.extend_from_slice(&bytes);
            }
        }
        rest
    }

    fn wait(&self) -> Result<Piece, RecvError> {
        if let Ok(piece) = self.pieces.try_recv() {
            return Ok(piece);
        }
        let since = clock::now().as_nanos().max(1);
        self.shared.starved_since.store(since, Ordering::Release);
        let piece = self.pieces.recv();
        self.shared.starved_since.store(0, Ordering::Release);
        piece
    }

    fn next_piece(&mut self) -> io::Result<()> {
        match self.wait() {
            Ok(Piece::Bytes(bytes)) => {
                let before = self.shared.queued.fetch_sub(bytes.len(), Ordering::AcqRel);
                if before > REFILL_BYTES && before - bytes.len() <= REFILL_BYTES {
                    self.waker.wake();
                }
                self.current = bytes;
                self.consumed = 0;
                Ok(())
            }
            Ok(Piece::End) => {
                self.is_ended = true;
                Ok(())
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection ended before the snapshot did",
            )),
        }
    }
}

impl BufRead for SnapshotReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.current.len() && !self.is_ended {
            self.next_piece()?;
        }
        Ok(&self.current[self.consumed..])
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
        assert!(self.consumed <= self.current.len(), "what is consumed was shown before");
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The thread's end of a snapshot that is sent. A write waits where the core has not taken
/// [`PIECES_MAX`] pieces, and fails (`BrokenPipe`) when the link is gone.
pub struct PieceWriter {
    pieces: SyncSender<Vec<u8>>,
    waker: Waker,
    buffer: Vec<u8>,
}

impl PieceWriter {
    /// Writes to `pieces`, and wakes the core that takes them.
    pub fn new(pieces: SyncSender<Vec<u8>>, waker: Waker) -> PieceWriter {
        PieceWriter { pieces, waker, buffer: Vec::with_capacity(PIECE_BYTES) }
    }

    /// Passes on what is left of the last piece.
    ///
    /// # Errors
    /// The link is gone.
    pub fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.pieces.send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.waker.wake();
        Ok(())
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    /// Nothing: a piece leaves when it is full, and the last one by [`PieceWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
