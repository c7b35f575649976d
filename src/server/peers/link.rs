//! One connection with another server: bytes in, packets in order, pieces out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::io::ring::Token;
use crate::log::piece::Bookmark;
use crate::server::peers::streams::Feed;
use crate::time::Time;
use crate::wire::quorum::ServerId;
use crate::zab::output::LinkId;
use crate::zxid::Zxid;

/// What one send carries at most, beyond one packet: so that a slow link shows its progress send
/// by send. 256 KiB within ten seconds is a network that no ensemble can live on.
pub const SEND_BYTES: usize = 256 << 10;

/// Bytes behind a SNAP that are kept until it is known what to do with them.
const NAMED_BYTES: usize = 256 << 10;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A learner, which has connected to us.
    Learner,
    /// The leader, which we have connected to.
    Leader,
}

/// How far a link has come.
pub enum Phase {
    /// A learner has connected, and its first packet has not come.
    Greeting,
    /// Packets come and go.
    Open,
    /// The leader has said SNAP: what follows is not taken before it is known what to do with it.
    Named,
    /// A snapshot comes.
    Receiving(Incoming),
    /// A snapshot has come or has failed: what follows is not taken before the caller says so.
    Installing,
    /// What is queued is sent, then the link ends. What comes is dropped.
    Draining,
    /// Everything is sent, and the other end was told; it may close first, until then.
    Lingering(Time),
}

/// A snapshot that comes.
pub struct Incoming {
    pub feed: Feed,
    /// Whether it comes in packets.
    pub is_chunked: bool,
    /// Bytes that have come, where it is chunked.
    pub offset: u64,
}

/// A snapshot that goes out.
pub struct Sending {
    pub pieces: Receiver<Vec<u8>>,
    pub is_chunked: bool,
    /// Bytes passed on, where it is chunked.
    pub offset: u64,
    /// Whether the thread has written all of it. The end of it may still be in `pieces`.
    pub is_written: bool,
}

/// A read of the log that waits for its turn on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogWanted {
    pub link: LinkId,
    /// Transactions later than this are wanted.
    pub after: Zxid,
    /// About so many bytes of them at most.
    pub bytes: usize,
}

/// One connection.
pub struct Link {
    pub id: LinkId,
    pub token: Token,
    pub peer: SocketAddr,
    pub end: End,
    /// Which server it is, once that is known.
    pub server: Option<ServerId>,
    pub phase: Phase,
    pub established: Time,
    /// The beginning of a packet whose end has not come, or what may not be taken so far.
    pub input: Vec<u8>,
    /// Since when there has been the beginning of a packet in `input`.
    pub partial_since: Option<Time>,
    pub out: Outgoing,
    /// Packets behind a bare snapshot that is being sent.
    pub held: Vec<u8>,
    /// When the send in flight began, or bytes last came.
    pub sending_since: Time,
    pub received_at: Time,
    /// Whether it is listed for sending at the end of the turn.
    pub dirty: bool,
    /// Whether something is queued for it that the other end waits for.
    pub is_urgent: bool,
    /// Whether the ring was told to receive nothing.
    pub paused: bool,
    pub sending: Option<Sending>,
    pub log_wanted: Option<LogWanted>,
    /// Where the last read of the log left off.
    pub bookmark: Option<Bookmark>,
    pub packets_received: u64,
    pub packets_sent: u64,
}

impl Link {
    /// A link that has just been made.
    pub fn new(id: LinkId, token: Token, peer: SocketAddr, end: End, now: Time) -> Link {
        let phase = if end == End::Learner { Phase::Greeting } else { Phase::Open };
        Link {
            id,
            token,
            peer,
            end,
            server: None,
            phase,
            established: now,
            input: Vec::new(),
            partial_since: None,
            out: Outgoing::default(),
            held: Vec::new(),
            sending_since: now,
            received_at: now,
            dirty: false,
            is_urgent: false,
            paused: false,
            sending: None,
            log_wanted: None,
            bookmark: None,
            packets_received: 0,
            packets_sent: 0,
        }
    }

    /// Bytes that wait to be in the kernel's hands.
    pub fn queued_bytes(&self) -> usize {
        self.out.bytes() + self.held.len()
    }

    /// Whether the core knows of it and has not given it up.
    pub fn is_announced(&self) -> bool {
        !matches!(self.phase, Phase::Greeting | Phase::Draining | Phase::Lingering(_))
    }

    /// Whether it has been given up.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Lingering(_))
    }

    /// Whether its socket should be left alone for a while.
    pub fn should_pause(&self) -> bool {
        match &self.phase {
            Phase::Receiving(incoming) if self.paused => !incoming.feed.wants_more(),
            Phase::Receiving(incoming) => incoming.feed.is_full(),
            Phase::Named => self.input.len() > NAMED_BYTES,
            Phase::Installing => true,
            _ => false,
        }
    }

    /// When it is closed unless something happens before, and why.
    pub fn deadline(&self, limits: &Deadlines) -> Option<(Time, &'static str)> {
        let greeting = match self.phase {
            Phase::Greeting => {
                Some((self.established + limits.greeting, "it has not said who it is in time"))
            }
            Phase::Lingering(until) => Some((until, "it lingers")),
            Phase::Receiving(ref incoming) if !self.paused => {
                incoming.feed.starved_since().map(|since| {
                    let due = since.max(self.received_at) + limits.packet;
                    (due, "the rest of its snapshot does not come")
                })
            }
            _ => None,
        };
        let partial = self.partial_since.filter(|_| !self.paused).map(|since| {
            let due = since.max(self.received_at) + limits.packet;
            (due, "the rest of its packet does not come")
        });
        let sending = self.out.is_sending().then(|| {
            let due = self.sending_since + limits.send;
            (due, "it does not read what it is sent")
        });
        [greeting, partial, sending].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}

/// How long a link may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From its beginning to its first packet.
    pub greeting: Duration,
    /// Between two bytes of a packet.
    pub packet: Duration,
    /// For one send.
    pub send: Duration,
}

/// What waits to be sent: pieces, of which the ring has one at a time.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes in `pieces`.
    queued: usize,
    /// Bytes that the ring has.
    in_flight: usize,
    /// An empty buffer to use again.
    spare: Vec<u8>,
}

impl Outgoing {
    /// Bytes that wait or are on their way.
    pub fn bytes(&self) -> usize {
        self.queued + self.in_flight
    }

    /// Whether the ring has a piece.
    pub fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether there is nothing to send and nothing on its way.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Appends what `write` writes.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pieces.back().is_none_or(|last| last.len() >= SEND_BYTES) {
            self.pieces.push_back(std::mem::take(&mut self.spare));
        }
        let piece = self.pieces.back_mut().expect("there is one, or it was just made");
        let before = piece.len();
        write(piece);
        assert!(piece.len() >= before, "writing appends");
        self.queued += piece.len() - before;
    }

    /// Appends a buffer without copying it.
    pub fn append_piece(&mut self, piece: Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        self.queued += piece.len();
        self.pieces.push_back(piece);
    }

    /// The next piece for the ring, when it has none.
    pub fn start(&mut self) -> Option<Vec<u8>> {
        if self.in_flight > 0 || self.queued == 0 {
            return None;
        }
        let mut piece = self.pieces.pop_front().expect("queued bytes are in a piece");
        while piece.is_empty() {
            piece = self.pieces.pop_front().expect("queued bytes are in a piece");
        }
        self.queued -= piece.len();
        self.in_flight = piece.len();
        Some(piece)
    }

    /// The ring has sent the piece it had.
    pub fn handle_sent(&mut self, mut buffer: Vec<u8>) {
        assert_eq!(buffer.len(), self.in_flight, "the buffer comes back as it was given");
        self.in_flight = 0;
        if buffer.capacity() <= 2 * SEND_BYTES && buffer.capacity() > self.spare.capacity() {
            buffer.clear();
            self.spare = buffer;
        }
    }

    /// Drops what the ring does not have.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.queued = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_in_order_and_one_at_a_time() {
        let mut out = Outgoing::default();
        assert_eq!(out.start(), None);
        out.append(|piece| piece.extend_from_slice(b"ab"));
        out.append(|piece| piece.extend_from_slice(b"c"));
        out.append_piece(b"de".to_vec());
        out.append(|piece| piece.extend_from_slice(&[7; SEND_BYTES]));
        out.append(|piece| piece.extend_from_slice(b"f"));
        assert_eq!(out.bytes(), 6 + SEND_BYTES);
        let first = out.start().unwrap();
        assert_eq!(first, b"abc");
        assert_eq!(out.start(), None, "one at a time");
        assert_eq!(out.bytes(), 6 + SEND_BYTES);
        out.handle_sent(first);
        let second = out.start().unwrap();
        assert_eq!((&second[..2], second.len()), (&b"de"[..], 2 + SEND_BYTES));
        out.handle_sent(second);
        let third = out.start().unwrap();
        assert_eq!(third, b"f");
        assert!(!out.is_empty());
        out.handle_sent(third);
        assert!(out.is_empty());
    }

    #[test]
    fn a_small_buffer_is_used_again_and_a_large_one_is_not() {
        let mut out = Outgoing::default();
        out.append(|piece| piece.extend_from_slice(b"ab"));
        let piece = out.start().unwrap();
        let address = piece.as_ptr();
        out.handle_sent(piece);
        out.append(|piece| piece.push(1));
        let piece = out.start().unwrap();
        assert_eq!(piece.as_ptr(), address);
        out.handle_sent(piece);
        out.append_piece(vec![0; 4 * SEND_BYTES]);
        let piece = out.start().unwrap();
        out.handle_sent(piece);
        assert!(out.spare.capacity() <= 2 * SEND_BYTES);
    }
}
