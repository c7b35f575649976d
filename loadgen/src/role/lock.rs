//! The lock recipe: an ephemeral sequential node is a place in the line, and each in the line
//! watches the one before it.
//!
//! ```text
//! start → create ROOT/l/K/w<connection>-<attempt>-<sequence> → children ─ first in line: locked,
//!           ↑ own place is gone                                ↑  │        delete own → unlocked
//!           └──────────────────────────────────────────────────┤  └ else exists(one before, watch)
//!                                                              └──── it is gone, or its event
//! ```

use crate::clock::Nanos;
use crate::keys::{Keys, Random};
use crate::plan::{Directory, Plan};
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, Session, State, Step};
use crate::tally::Kind;
use crate::wire::{self, Message};

/// Digits that a server appends to a sequential node's name.
const SEQUENCE_DIGITS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Creating,
    /// The line is asked for, or the watch on the one before is.
    Looking,
    Waiting,
    Unlocking,
}

pub struct Contender {
    synced: bool,
    random: Random,
    keys: Keys,
    stage: Stage,
    lock: u64,
    since: Nanos,
    attempt: u64,
    /// The own place's name without its sequence.
    prefix: String,
    /// Name of the own place, once it was seen in the line.
    place: Vec<u8>,
}

impl Contender {
    pub fn new(plan: &Plan, index: usize) -> Contender {
        Contender {
            synced: false,
            random: Random::new(plan.seed.wrapping_mul(1 << 20) + index as u64 + 1),
            keys: Keys::new(plan.distribution, plan.keys),
            stage: Stage::Idle,
            lock: 0,
            since: 0,
            attempt: 0,
            prefix: String::new(),
            place: Vec::new(),
        }
    }

    fn create(&mut self, io: &mut Io<'_>) {
        self.stage = Stage::Creating;
        let path = self.path(io, self.prefix.as_bytes());
        let now = io.now;
        let frame = io.request(wire::CREATE, Step::LockCreate, now, self.lock);
        let flags = wire::EPHEMERAL | wire::SEQUENTIAL;
        frame.bytes(&path).bytes(&[]).open_acl().int(flags).finish();
    }

    fn look(&mut self, io: &mut Io<'_>) {
        self.stage = Stage::Looking;
        let path = self.path(io, b"");
        let now = io.now;
        let frame = io.request(wire::GET_CHILDREN, Step::LockChildren, now, self.lock);
        frame.bytes(&path).bool(false).finish();
    }

    /// The path of a name in the lock's directory, or of the directory itself.
    fn path(&self, io: &mut Io<'_>, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(64);
        io.plan().entry_path(&mut path, Directory::Locks, self.lock);
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// Finds the own place in the line, and does what follows from it.
    fn take_line(&mut self, io: &mut Io<'_>, message: &Message<'_>) {
        let own = message.names().find(|name| name.starts_with(self.prefix.as_bytes()));
        let Some(own) = own else { return self.create(io) };
        let before = message
            .names()
            .filter(|name| sequence(name) < sequence(own))
            .max_by_key(|name| sequence(name));
        self.place = own.to_vec();
        let now = io.now;
        if let Some(before) = before {
            let path = self.path(io, before);
            let frame = io.request(wire::EXISTS, Step::LockWatch, now, self.lock);
            frame.bytes(&path).bool(true).finish();
            return;
        }
        io.tally.record(Kind::Lock, self.since, now);
        self.stage = Stage::Unlocking;
        let path = self.path(io, own);
        io.request(wire::DELETE, Step::Unlock, now, self.lock).bytes(&path).int(-1).finish();
    }
}

/// The number at the end of a sequential node's name.
fn sequence(name: &[u8]) -> &[u8] {
    &name[name.len().saturating_sub(SEQUENCE_DIGITS)..]
}

impl Role for Contender {
    fn joined(&mut self, io: &mut Io<'_>, fresh: bool) {
        if !self.synced {
            io.sync();
        }
        match self.stage {
            Stage::Idle => {}
            // The old session's place goes with it, unless the lock was about to be let go.
            Stage::Unlocking if fresh => self.stage = Stage::Idle,
            _ if fresh => self.create(io),
            Stage::Unlocking => {
                let path = self.path(io, &self.place);
                let now = io.now;
                let frame = io.request(wire::DELETE, Step::Unlock, now, self.lock);
                frame.bytes(&path).int(-1).finish();
            }
            _ => self.look(io),
        }
    }

    fn is_armed(&self) -> bool {
        self.synced
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let room = io.session.state == State::Live && self.stage == Stage::Idle && self.synced;
        if room { Room::Yes } else { Room::No }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        self.lock = self.keys.next(&mut self.random);
        self.since = intended;
        self.attempt += 1;
        self.prefix = format!("w{}-{}-", io.index, self.attempt);
        self.create(io);
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        match pending.step {
            Step::LockCreate | Step::LockChildren => {
                if failed(io, Kind::Lock, message.error) {
                    self.stage = Stage::Idle;
                } else if pending.step == Step::LockCreate {
                    self.look(io);
                } else {
                    self.take_line(io, message);
                }
            }
            Step::LockWatch => match message.error {
                0 if self.stage == Stage::Looking => self.stage = Stage::Waiting,
                _ => self.look(io),
            },
            Step::Unlock => {
                if !failed(io, Kind::Unlock, message.error) {
                    io.tally.record(Kind::Unlock, pending.intended, io.now);
                }
                self.stage = Stage::Idle;
            }
            _ => self.synced |= !failed(io, Kind::Preparation, message.error),
        }
    }

    fn event(&mut self, io: &mut Io<'_>, _path: &[u8]) {
        if self.stage == Stage::Waiting {
            self.look(io);
        }
    }

    fn is_done(&self, session: &Session) -> bool {
        self.stage == Stage::Idle && session.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_in_the_order_of_the_sequence_and_not_of_the_names() {
        let mut line = [&b"w9-1-0000000002"[..], b"w10-7-0000000001", b"w1-1-0000000010"];
        line.sort_by_key(|name| sequence(name));
        assert_eq!(line, [&b"w10-7-0000000001"[..], b"w9-1-0000000002", b"w1-1-0000000010"]);
    }
}
