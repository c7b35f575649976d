//! Sessions with ephemeral nodes: each makes some, ends, and takes them with it.

use crate::clock::Nanos;
use crate::plan::Plan;
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, Session, State, Step, Want};
use crate::tally::Kind;
use crate::wire::{self, Message};

pub struct Churn {
    joined: bool,
    /// Number of the next node: no two sessions make the same.
    next: u64,
    stride: u64,
    /// Of the session that stands.
    sent: u64,
    answered: u64,
}

impl Churn {
    pub fn new(plan: &Plan, index: usize) -> Churn {
        let (next, stride) = (plan.first + index as u64, plan.connections as u64);
        Churn { joined: false, next, stride, sent: 0, answered: 0 }
    }

    fn close_when_full(&self, io: &mut Io<'_>) {
        if self.answered == io.plan().ephemerals {
            io.close();
        }
    }
}

impl Role for Churn {
    fn joined(&mut self, io: &mut Io<'_>, fresh: bool) {
        if fresh {
            (self.sent, self.answered) = (0, 0);
            if self.joined {
                io.tally.record(Kind::Connect, io.session.connect_started, io.now);
            }
        }
        self.joined = true;
        self.close_when_full(io);
    }

    fn is_armed(&self) -> bool {
        self.joined
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let plan = io.plan();
        let room = io.session.state == State::Live
            && self.sent < plan.ephemerals
            && io.session.pending.len() < plan.in_flight;
        if room { Room::Yes } else { Room::No }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        let plan = io.plan();
        let number = self.next;
        self.next += self.stride;
        self.sent += 1;
        plan.made_path(io.path, number);
        let path = std::mem::take(io.path);
        let frame = io.request(wire::CREATE, Step::Create, intended, number);
        frame.bytes(&path).bytes(&plan.value).open_acl().int(wire::EPHEMERAL).finish();
        *io.path = path;
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        match pending.step {
            Step::Create => {
                if !failed(io, Kind::Create, message.error) {
                    io.tally.record(Kind::Create, pending.intended, io.now);
                }
                self.answered += 1;
                self.close_when_full(io);
            }
            Step::Close => {
                if !failed(io, Kind::Close, message.error) {
                    io.tally.record(Kind::Close, pending.intended, io.now);
                }
                io.session.want = if io.loading { Want::Open } else { Want::Park };
            }
            _ => {}
        }
    }

    fn lost(&mut self, io: &mut Io<'_>, pending: &Pending) {
        match pending.step {
            Step::Create => self.answered += 1,
            Step::Close => io.session.want = if io.loading { Want::Open } else { Want::Park },
            _ => {}
        }
    }

    fn is_done(&self, session: &Session) -> bool {
        session.pending.is_empty()
    }
}
