//! One client's connection, as its core keeps it: bytes in, requests in order, bytes out.
//!
//! Replies leave in the order of their requests. A write goes to the pipeline at once; a read is
//! answered at once unless a write of the same connection is still on its way: then it waits in
//! `pending`, and no other session's write can hold it up.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::ring::Token;
use crate::pipeline::auth::AuthIds;
use crate::server::four_letter::Word;
use crate::server::summary::Summary;
use crate::time::Time;
use crate::wire::acl::Id;
use crate::wire::opcode::OpCode;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing whole has been received: a connect request or a four-letter word must come.
    Greeting,
    /// The pipeline has the connect request; nothing more is read until it has answered.
    Attaching,
    /// The session is set up.
    Serving,
    /// What is in `out` and what `pending` waits for is sent, then the connection ends; nothing
    /// more is read.
    Draining,
}

/// A request that has its place in the order of replies but no reply so far.
#[derive(Debug)]
pub enum Pending {
    /// The pipeline has it.
    Write {
        op: OpCode,
        received: Time,
        /// Its bytes, if it is counted as a large request.
        large_bytes: u32,
    },
    /// It waits for the writes before it.
    Read { xid: i32, op: OpCode, body: Box<[u8]>, received: Time },
    /// An operation that is none: its refusal waits for the writes before it, and is the last.
    Refused { xid: i32 },
}

/// What four-letter words and the admin say of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionStats {
    pub received: u64,
    pub sent: u64,
    pub established: Time,
    pub last_op: Option<OpCode>,
    pub last_xid: i32,
    pub last_zxid: i64,
    pub last_response: Option<Time>,
    pub last_latency_ms: u64,
    pub latency_ms: Summary,
}

impl ConnectionStats {
    /// Starts the counters again (`crst`); what was last is kept.
    pub fn reset(&mut self) {
        (self.received, self.sent) = (0, 0);
        self.latency_ms = Summary::default();
    }
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    pub token: Token,
    pub peer: SocketAddr,
    pub phase: Phase,
    /// The session, once the phase is `Serving`; 0 before.
    pub session: i64,
    /// The session's timeout as negotiated, in milliseconds.
    pub timeout_ms: i32,
    /// Whether it is served for reads only, until there is a leader.
    pub is_read_only: bool,
    pub ids: AuthIds,
    /// The same for the pipeline, made anew when they change.
    pub shared_ids: Arc<[Id]>,
    /// The beginning of a frame whose end has not come.
    pub input: Vec<u8>,
    /// Counts whole frames: tells a deadline whether the partial frame it was set for is done.
    pub frames: u64,
    /// An event that the ring has not been given, in the same bytes as others are told it by.
    pub event: Option<Arc<[u8]>>,
    /// Replies and events that the ring has not been given, behind `event`.
    pub out: Vec<u8>,
    /// Whether the ring has a send of this connection.
    pub sending: bool,
    /// Since when that send has been under way.
    pub sending_since: Time,
    /// Whether it is listed for sending at the end of the turn.
    pub dirty: bool,
    /// Whether it is listed among those who are told an event when there is time.
    pub told: bool,
    /// Whether its session is listed among the touched.
    pub touched: bool,
    /// Whether the ring was told to receive nothing.
    pub paused: bool,
    /// Whether a deadline is set for the partial frame in `input`.
    pub partial_watched: bool,
    /// Whether it is listed among those that wait for the pipeline to take batches.
    pub stalled: bool,
    /// What is left to send of the answer to its four-letter word.
    pub answer: Option<Box<std::vec::IntoIter<Vec<u8>>>>,
    /// The four-letter word that it began with.
    pub word: Option<Word>,
    pub pending: VecDeque<Pending>,
    /// Bytes of the bodies in `pending`.
    pub pending_bytes: usize,
    pub stats: ConnectionStats,
}

impl Connection {
    /// A connection just accepted.
    pub fn new(token: Token, peer: SocketAddr, now: Time) -> Connection {
        let ids = AuthIds::new(peer.ip());
        Connection {
            token,
            peer,
            phase: Phase::Greeting,
            session: 0,
            timeout_ms: 0,
            is_read_only: false,
            shared_ids: ids.ids().into(),
            ids,
            input: Vec::new(),
            frames: 0,
            event: None,
            out: Vec::new(),
            sending: false,
            sending_since: now,
            dirty: false,
            told: false,
            touched: false,
            paused: false,
            partial_watched: false,
            stalled: false,
            answer: None,
            word: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            stats: ConnectionStats { established: now, ..ConnectionStats::default() },
        }
    }

    /// Adds an event, whose frame is `frame`, to what is to be sent.
    pub fn tell(&mut self, frame: &Arc<[u8]>) {
        if self.out.is_empty() && self.event.is_none() {
            self.event = Some(Arc::clone(frame));
        } else {
            self.out.extend_from_slice(frame);
        }
    }

    /// Whether there is nothing that the ring has to be given.
    pub fn is_silent(&self) -> bool {
        self.event.is_none() && self.out.is_empty()
    }

    /// Whether something is to be done as soon as the ring has sent what it is given: else nobody
    /// has to be woken for that.
    pub fn is_awaiting_sent(&self) -> bool {
        self.phase != Phase::Serving || self.answer.is_some() || self.paused
    }

    /// Whether it has nothing left to say.
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.pending.is_empty() && self.answer.is_none()
    }

    /// Takes the next chunk of a long answer, where nothing else is to be sent before it.
    pub fn take_chunk(&mut self) {
        if self.is_silent()
            && let Some(answer) = &mut self.answer
        {
            match answer.next() {
                Some(chunk) => self.out = chunk,
                None => self.answer = None,
            }
        }
    }

    /// Takes away the oldest pending write, whose reply is there: what it was, since when, and how
    /// many bytes of a large request.
    pub fn complete_write(&mut self) -> (OpCode, Time, u32) {
        match self.pending.pop_front() {
            Some(Pending::Write { op, received, large_bytes }) => (op, received, large_bytes),
            other => panic!("a reply belongs to the oldest write, not to {other:?}"),
        }
    }
}

/// What the front of a connection's input is.
#[derive(Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// A whole frame's payload, and how many bytes it took with its length.
    Frame(&'a [u8], usize),
    /// More bytes are needed.
    Partial,
    /// A declared length that is negative or above the bound: the connection ends.
    Refused(i32),
}

/// Looks at the front of `input`, with frames of at most `frame_bytes_max` bytes.
///
/// Nothing is allocated by the declared length: a partial frame grows as its bytes come.
pub fn front(input: &[u8], frame_bytes_max: usize) -> Front<'_> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Front::Partial;
    };
    let declared = i32::from_be_bytes(*length);
    match usize::try_from(declared) {
        Ok(length) if length <= frame_bytes_max => match rest.get(..length) {
            Some(payload) => Front::Frame(payload, 4 + length),
            None => Front::Partial,
        },
        _ => Front::Refused(declared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_shared_until_something_is_said_behind_it() {
        let mut connection =
            Connection::new(Token(0), SocketAddr::from(([127, 0, 0, 1], 1)), Time::default());
        let frame: Arc<[u8]> = Arc::from(&b"event"[..]);
        assert!(connection.is_silent());
        connection.tell(&frame);
        assert!(!connection.is_silent() && connection.out.is_empty());
        assert_eq!(Arc::strong_count(&frame), 2);
        connection.tell(&frame);
        assert_eq!(connection.out, b"event", "it comes behind the first");
        assert_eq!(Arc::strong_count(&frame), 2);
    }

    #[test]
    fn frames_are_cut_from_the_front() {
        let bytes = [0, 0, 0, 2, 7, 8, 0, 0];
        assert_eq!(front(&bytes, 100), Front::Frame(&[7, 8], 6));
        assert_eq!(front(&bytes[6..], 100), Front::Partial);
        assert_eq!(front(&bytes[..5], 100), Front::Partial);
        assert_eq!(front(&[0, 0, 0, 0], 100), Front::Frame(&[], 4));
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_their_bytes_come() {
        assert_eq!(front(&[0, 0, 0, 101], 100), Front::Refused(101));
        assert_eq!(front(&[0xff, 0xff, 0xff, 0xff], 100), Front::Refused(-1));
        assert_eq!(front(&[0x7f, 0xff, 0xff, 0xff], 100), Front::Refused(i32::MAX));
    }
}
