//! Packets out: each is encoded where it will be sent from.

use crate::io::ring::Ring;
use crate::server::peers::link::{End, Phase};
use crate::time::Time;
use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::output::LinkId;

use super::{Command, LINGER, QUEUED_MAX_BYTES, QuorumPort};

impl<R: Send + 'static> QuorumPort<R> {
    pub(super) fn send_to_leader(&mut self, link: LinkId, message: &FromLearner) {
        self.queue(link, End::Leader, false, |out| message.encode(out));
    }

    pub(super) fn send_to_learner(&mut self, link: LinkId, message: &FromLeader) {
        let is_ping = matches!(message, FromLeader::Ping { .. });
        self.queue(link, End::Learner, is_ping, |out| message.encode(out));
    }

    /// Queues a packet. Behind a snapshot it is held, unless it may go between two chunks.
    fn queue(
        &mut self,
        link: LinkId,
        end: End,
        may_overtake: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
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
        let may_go = it.sending.as_ref().is_none_or(|it| it.is_chunked && may_overtake);
        if may_go {
            it.out.append(encode);
        } else {
            encode(&mut it.held);
        }
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

    /// Performs what the turn has decided: at most one send for each link.
    pub fn finish_turn(&mut self, ring: &mut Ring, now: Time) {
        self.now = now;
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
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            let Some(it) = self.links.get_mut(&link) else {
                continue;
            };
            it.dirty = false;
            if let Some(piece) = it.out.start() {
                it.sending_since = now;
                ring.send(it.token, piece);
            } else if it.out.is_empty() && matches!(it.phase, Phase::Draining) {
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
}
