//! Packets out: each is encoded where it will be sent from.

use crate::io::ring::Ring;
use crate::server::peers::link::{End, Link, Phase};
use crate::time::Time;
use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::output::LinkId;

use super::{Command, LINGER, QUEUED_MAX_BYTES, QuorumPort};

impl<R: Send + 'static> QuorumPort<R> {
    pub(super) fn send_to_leader(&mut self, link: LinkId, message: &FromLearner) {
        let means = Means { may_overtake: false, is_urgent: true };
        self.queue(link, End::Leader, means, |out| message.encode(out));
    }

    pub(super) fn send_to_learner(&mut self, link: LinkId, message: &FromLeader) {
        let means = Means {
            may_overtake: matches!(message, FromLeader::Ping { .. }),
            // A learner's clients wait for it, and no disk.
            is_urgent: !matches!(message, FromLeader::Commit { .. } | FromLeader::Inform { .. }),
        };
        self.queue(link, End::Learner, means, |out| message.encode(out));
    }

    /// Queues a packet. Behind a snapshot it is held, unless it may go between two chunks.
    fn queue(&mut self, link: LinkId, end: End, means: Means, encode: impl FnOnce(&mut Vec<u8>)) {
        // A link may be gone while the core still speaks to it: `Disconnected` is on its way.
        let Some(it) = self.links.get_mut(&link) else {
            return;
        };
        assert_eq!(
            it.end, end,
            "a learner is not spoken to as a leader, nor a leader as a learner"
        );
        if it.is_leaving() {
            return;
        }
        let may_go = it.sending.as_ref().is_none_or(|it| it.is_chunked && means.may_overtake);
        if may_go {
            it.out.append(encode);
        } else {
            encode(&mut it.held);
        }
        it.is_urgent |= means.is_urgent;
        it.packets_sent += 1;
        self.stats.packets_sent += 1;
        if it.queued_bytes() > QUEUED_MAX_BYTES {
            self.stats.overfull += 1;
            self.warn(link, "more is queued for it than it takes");
            self.lose(link, "more is queued for it than it takes");
        } else {
            self.mark_dirty(link);
        }
    }

    pub(super) fn mark_dirty(&mut self, link: LinkId) {
        if let Some(it) = self.links.get_mut(&link)
            && !it.dirty
        {
            it.dirty = true;
            self.dirty.push(link);
        }
    }

    /// The ring has sent a piece.
    pub(super) fn sent(&mut self, link: LinkId, buffer: Vec<u8>) {
        let Some(it) = self.links.get_mut(&link) else {
            return;
        };
        self.stats.bytes_sent += buffer.len() as u64;
        it.out.handle_sent(buffer);
        self.move_stream(link);
        self.mark_dirty(link);
    }

    /// Sends at once, before the turn is over, on the links with something that the other end
    /// waits for: a follower's disk works from then on, a client's reply goes out behind it.
    pub fn send_urgent(&mut self, ring: &mut Ring, now: Time) {
        self.now = now;
        self.perform_commands(ring);
        for link in &self.dirty {
            if let Some(it) = self.links.get_mut(link).filter(|it| it.is_urgent) {
                start_send(it, ring, now);
            }
        }
    }

    /// Performs what the turn has decided: at most one send for each link.
    pub fn finish_turn(&mut self, ring: &mut Ring, now: Time) {
        self.now = now;
        self.perform_commands(ring);
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            let Some(it) = self.links.get_mut(&link) else {
                continue;
            };
            it.dirty = false;
            start_send(it, ring, now);
            if it.out.is_empty() && matches!(it.phase, Phase::Draining) {
                // Closing at once could reset the connection, and the other end would lose what
                // it has not read.
                it.phase = Phase::Lingering(now + LINGER);
                if ring.shutdown_write(it.token).is_err() {
                    ring.close(it.token);
                    self.links.remove(&link);
                }
            }
        }
        self.dirty = dirty;
    }

    fn perform_commands(&mut self, ring: &mut Ring) {
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Listen(token, socket) => ring.listen(token, socket),
                Command::ResumeAccept(token) => ring.resume_accept(token),
                Command::Attach(token, socket) => ring.attach(token, socket),
                Command::Pause(token) => ring.pause_receive(token),
                Command::Resume(token) => ring.resume_receive(token),
                Command::Close(token) => ring.close(token),
            }
        }
    }
}

/// What becomes of a packet on its way.
struct Means {
    /// Whether it may go between two chunks of a snapshot.
    may_overtake: bool,
    is_urgent: bool,
}

/// Hands the next piece to the ring, where there is one and it has none.
fn start_send(link: &mut Link, ring: &mut Ring, now: Time) {
    if let Some(piece) = link.out.start() {
        link.is_urgent = false;
        link.sending_since = now;
        ring.send(link.token, piece);
    }
}
