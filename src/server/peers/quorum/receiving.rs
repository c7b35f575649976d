//! Packets in: cut from what the ring received, or from what was kept of it.

use std::collections::VecDeque;

use crate::server::peers::link::{End, Incoming, Link, Phase};
use crate::wire::error::DecodeError;
use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::output::LinkId;

use super::{
    Command, GREETING_BYTES_MAX, KEPT_BYTES_MAX, PeerEvent, QuorumPort, QuorumSettings, QuorumStats,
};

/// Why a link cannot go on: its bytes are at fault.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("a packet that is none: {0}")]
    Packet(#[from] DecodeError),
    #[error("it began without saying who it is")]
    NotGreeted,
    #[error("a chunk of a snapshot where none is due")]
    StrayChunk,
    #[error("a chunk of a snapshot at {found} instead of {expected}")]
    ChunkOffset { expected: u64, found: u64 },
    #[error("a second snapshot within a snapshot")]
    SecondSnapshot,
}

impl<R: Send + 'static> QuorumPort<R> {
    pub(super) fn receive(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.stats.bytes_received += bytes.len() as u64;
        link.received_at = self.now;
        if link.is_leaving() {
            return;
        }
        let mut taking =
            Taking { settings: &self.settings, stats: &mut self.stats, events: &mut self.events };
        let taken = if link.input.is_empty() {
            let taken = taking.take(link, bytes);
            if let Ok(taken) = taken {
                link.input.extend_from_slice(&bytes[taken..]);
            }
            taken
        } else {
            link.input.extend_from_slice(bytes);
            taking.take_kept(link)
        };
        self.finish_taking(id, taken.err());
    }

    /// Takes packets again after a snapshot, which the caller has put in place.
    pub fn resume(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if !matches!(link.phase, Phase::Installing) {
            return;
        }
        link.phase = Phase::Open;
        self.take_input(id);
    }

    /// Takes what can be taken of the bytes that were kept.
    pub(super) fn take_input(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut taking =
            Taking { settings: &self.settings, stats: &mut self.stats, events: &mut self.events };
        let taken = taking.take_kept(link);
        self.finish_taking(id, taken.err());
    }

    fn finish_taking(&mut self, id: LinkId, fault: Option<Fault>) {
        if let Some(fault) = fault {
            let reason = fault.to_string();
            self.stats.malformed += 1;
            self.warn(id, &reason);
            self.lose(id, &reason);
            return;
        }
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let is_waiting_for_bytes = match &link.phase {
            Phase::Greeting | Phase::Open => true,
            Phase::Receiving(incoming) => incoming.is_chunked,
            _ => false,
        };
        link.partial_since = match is_waiting_for_bytes && !link.input.is_empty() {
            true => link.partial_since.or(Some(self.now)),
            false => None,
        };
        self.regulate(id);
    }

    /// Leaves the socket alone, or reads it again.
    pub(super) fn regulate(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let should_pause = link.should_pause();
        if should_pause != link.paused {
            link.paused = should_pause;
            // The time that it was left alone is not the other end's.
            link.received_at = self.now;
            let token = link.token;
            let command = if should_pause { Command::Pause(token) } else { Command::Resume(token) };
            self.commands.push(command);
        }
    }
}

/// What taking packets needs beside the link.
struct Taking<'a, R> {
    settings: &'a QuorumSettings,
    stats: &'a mut QuorumStats,
    events: &'a mut VecDeque<PeerEvent<R>>,
}

impl<R> Taking<'_, R> {
    fn take_kept(&mut self, link: &mut Link) -> Result<usize, Fault> {
        let mut input = std::mem::take(&mut link.input);
        let taken = self.take(link, &input)?;
        input.drain(..taken);
        if input.is_empty() && input.capacity() > KEPT_BYTES_MAX {
            input = Vec::new();
        }
        link.input = input;
        Ok(taken)
    }

    /// Takes packets from the front of `bytes`; how many bytes they were.
    fn take(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let consumed = match (&mut link.phase, link.end) {
                (Phase::Named | Phase::Installing, _) => return Ok(taken),
                (Phase::Draining | Phase::Lingering(_), _) => return Ok(bytes.len()),
                (Phase::Receiving(incoming), _) if !incoming.is_chunked => {
                    incoming.feed.push(rest.to_vec());
                    return Ok(bytes.len());
                }
                (_, End::Learner) => self.take_from_learner(link, rest)?,
                (_, End::Leader) => self.take_from_leader(link, rest)?,
            };
            match consumed {
                Some(consumed) => taken += consumed,
                None => return Ok(taken),
            }
            link.packets_received += 1;
            self.stats.packets_received += 1;
            link.partial_since = None;
        }
        Ok(taken)
    }

    fn take_from_learner(&mut self, link: &mut Link, rest: &[u8]) -> Result<Option<usize>, Fault> {
        let is_greeting = matches!(link.phase, Phase::Greeting);
        let bytes_max =
            if is_greeting { GREETING_BYTES_MAX } else { self.settings.from_learner_bytes_max };
        let Some((message, consumed)) = FromLearner::decode(rest, bytes_max)? else {
            return Ok(None);
        };
        if is_greeting {
            let FromLearner::Info { server, .. } = &message else {
                return Err(Fault::NotGreeted);
            };
            link.server = Some(*server);
            link.phase = Phase::Open;
            self.events.push_back(PeerEvent::Accepted { link: link.id });
        }
        self.events.push_back(PeerEvent::FromLearner { link: link.id, message });
        Ok(Some(consumed))
    }

    fn take_from_leader(&mut self, link: &mut Link, rest: &[u8]) -> Result<Option<usize>, Fault> {
        let bytes_max = self.settings.from_leader_bytes_max;
        let Some((message, consumed)) = FromLeader::decode(rest, bytes_max)? else {
            return Ok(None);
        };
        match (message, &mut link.phase) {
            (FromLeader::Chunk { offset, bytes }, Phase::Receiving(incoming)) => {
                if take_chunk(incoming, offset, &bytes)? {
                    link.phase = Phase::Installing;
                }
            }
            (FromLeader::Chunk { .. }, _) => return Err(Fault::StrayChunk),
            (FromLeader::Snap { .. }, Phase::Receiving(_)) => return Err(Fault::SecondSnapshot),
            (message, phase) => {
                if matches!(message, FromLeader::Snap { .. }) {
                    *phase = Phase::Named;
                }
                self.events.push_back(PeerEvent::FromLeader { link: link.id, message });
            }
        }
        Ok(Some(consumed))
    }
}

/// Passes a chunk on; whether it was the last one.
fn take_chunk(incoming: &mut Incoming, offset: u64, bytes: &[u8]) -> Result<bool, Fault> {
    if offset != incoming.offset {
        return Err(Fault::ChunkOffset { expected: incoming.offset, found: offset });
    }
    incoming.offset += bytes.len() as u64;
    if bytes.is_empty() {
        incoming.feed.end();
        return Ok(true);
    }
    incoming.feed.push(bytes.to_vec());
    Ok(false)
}
