//! Operations on nodes: create, fill, set, get, delete, multi and mixed.

use std::collections::VecDeque;

use crate::clock::Nanos;
use crate::keys::{Keys, Random};
use crate::observer::{Acknowledgement, Change, Operation};
use crate::plan::{End, Plan, Workload};
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, State, Step};
use crate::tally::Kind;
use crate::wire::{self, Message};

/// Where an operation's id has its connection.
const ID_CONNECTION_SHIFT: u32 = 40;

pub struct Worker {
    synced: bool,
    random: Random,
    keys: Keys,
    /// Operations still to be sent, when the run is counted.
    remaining: u64,
    /// How many were sent.
    turn: u64,
    /// Nodes that were made and not yet deleted.
    made: VecDeque<u64>,
    /// The plan's value, with the operation's id at its front when there is an observer.
    value: Vec<u8>,
}

impl Worker {
    pub fn new(plan: &Plan, index: usize) -> Worker {
        Worker {
            synced: false,
            random: Random::new(plan.seed.wrapping_mul(1 << 20) + index as u64 + 1),
            keys: Keys::new(plan.distribution, plan.keys),
            remaining: match plan.end {
                End::After(_) => u64::MAX,
                End::Count(count) => plan.share_of(index, count),
            },
            turn: 0,
            made: VecDeque::new(),
            value: plan.value.clone(),
        }
    }

    /// What the next operation is, and on which key or node.
    fn choose(&mut self, plan: &Plan, index: usize, turn: u64) -> (Step, u64) {
        let number = plan.first + turn * plan.connections as u64 + index as u64;
        match plan.workload {
            Workload::Create | Workload::Fill => (Step::Create, number),
            Workload::Delete => match plan.end {
                End::Count(_) => (Step::Delete, number),
                End::After(_) => match self.made.pop_front() {
                    Some(made) => (Step::Delete, made),
                    None => (Step::Create, number),
                },
            },
            Workload::Get => (Step::Get, self.keys.next(&mut self.random)),
            // The keys of a multi follow from one seed: they are known when its reply comes.
            Workload::Multi => (Step::Multi, self.random.draw()),
            Workload::Mixed if self.random.below(100) < u64::from(plan.read_percent) => {
                (Step::Get, self.keys.next(&mut self.random))
            }
            _ => (Step::Set, self.keys.next(&mut self.random)),
        }
    }

    fn send(&mut self, io: &mut Io<'_>, step: Step, intended: Nanos, number: u64, id: u64) {
        let plan = io.plan();
        let mut path = std::mem::take(io.path);
        match step {
            Step::Create | Step::Delete => plan.made_path(&mut path, number),
            _ => plan.key_path(&mut path, number),
        }
        match step {
            Step::Create => {
                let frame = io.request_observed(wire::CREATE, step, intended, number, id);
                frame.bytes(&path).bytes(&self.value).open_acl().int(wire::PERSISTENT).finish();
            }
            Step::Delete => {
                let frame = io.request_observed(wire::DELETE, step, intended, number, id);
                frame.bytes(&path).int(-1).finish();
            }
            Step::Get => {
                let frame = io.request_observed(wire::GET_DATA, step, intended, number, id);
                frame.bytes(&path).bool(false).finish();
            }
            _ => {
                let frame = io.request_observed(wire::SET_DATA, step, intended, number, id);
                frame.bytes(&path).bytes(&self.value).int(-1).finish();
            }
        }
        *io.path = path;
    }

    fn send_multi(&mut self, io: &mut Io<'_>, intended: Nanos, seed: u64, id: u64) {
        let plan = io.plan();
        let mut path = std::mem::take(io.path);
        let mut random = Random::new(seed);
        let mut frame = io.request_observed(wire::MULTI, Step::Multi, intended, seed, id);
        for _ in 0..plan.multi_size {
            plan.key_path(&mut path, self.keys.next(&mut random));
            frame = frame.int(wire::SET_DATA).bool(false).int(-1);
            frame = frame.bytes(&path).bytes(&self.value).int(-1);
        }
        frame.int(-1).bool(true).int(-1).finish();
        *io.path = path;
    }

    /// Calls `tell` with each operation that a request stands for.
    fn observe(&mut self, io: &mut Io<'_>, pending: &Pending, tell: &dyn Fn(&Operation<'_>)) {
        let plan = io.plan();
        let kind = match pending.step {
            Step::Create => Change::Create,
            Step::Delete => Change::Delete,
            Step::Get => Change::Get,
            _ => Change::Set,
        };
        stamp(&mut self.value, pending.id);
        let value: &[u8] =
            if matches!(kind, Change::Create | Change::Set) { &self.value } else { &[] };
        let mut path = std::mem::take(io.path);
        let mut random = Random::new(pending.number);
        let count = if pending.step == Step::Multi { plan.multi_size } else { 1 };
        for _ in 0..count {
            match pending.step {
                Step::Create | Step::Delete => plan.made_path(&mut path, pending.number),
                Step::Multi => plan.key_path(&mut path, self.keys.next(&mut random)),
                _ => plan.key_path(&mut path, pending.number),
            }
            let text = std::str::from_utf8(&path).expect("paths are made of text");
            let (id, connection) = (pending.id, io.index);
            tell(&Operation { id, connection, kind, path: text, value });
        }
        *io.path = path;
    }

    fn observe_reply(
        &mut self,
        io: &mut Io<'_>,
        pending: &Pending,
        message: &Message<'_>,
        code: i32,
    ) {
        let Some(observer) = io.shared.observer else { return };
        if code != 0 {
            self.observe(io, pending, &|operation| observer.refused(operation, code));
            return;
        }
        let acknowledgement = Acknowledgement {
            zxid: message.zxid,
            version: match pending.step {
                Step::Set | Step::Get => message.version(),
                _ => None,
            },
            path: match pending.step {
                Step::Create => message.buffer().and_then(|path| std::str::from_utf8(path).ok()),
                _ => None,
            },
            value: match pending.step {
                Step::Get => message.buffer(),
                _ => None,
            },
            sent_nanos: pending.sent,
            replied_nanos: io.now,
            session: io.session.id,
        };
        self.observe(io, pending, &|operation| observer.acknowledged(operation, &acknowledgement));
    }
}

/// Puts an operation's id at the front of a value that has room for it.
fn stamp(value: &mut [u8], id: u64) {
    if let Some(front) = value.get_mut(..8) {
        front.copy_from_slice(&id.to_be_bytes());
    }
}

fn kind_of(step: Step) -> Option<Kind> {
    match step {
        Step::Create => Some(Kind::Create),
        Step::Set => Some(Kind::Set),
        Step::Get => Some(Kind::Get),
        Step::Delete => Some(Kind::Delete),
        Step::Multi => Some(Kind::Multi),
        _ => None,
    }
}

impl Role for Worker {
    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        if !self.synced {
            io.sync();
        }
    }

    fn is_armed(&self) -> bool {
        self.synced
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let room = io.session.state == State::Live
            && io.session.pending.len() < io.plan().in_flight
            && self.remaining > 0;
        if room { Room::Yes } else { Room::No }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        let turn = self.turn;
        self.turn += 1;
        self.remaining -= 1;
        let (step, number) = self.choose(io.plan(), io.index, turn);
        let id = ((io.index as u64 + 1) << ID_CONNECTION_SHIFT) | turn;
        if let Some(observer) = io.shared.observer {
            let pending = Pending { xid: 0, step, intended, sent: io.now, number, id };
            self.observe(io, &pending, &|operation| observer.sent(operation));
        }
        if step == Step::Multi {
            self.send_multi(io, intended, number, id);
        } else {
            self.send(io, step, intended, number, id);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        let Some(kind) = kind_of(pending.step) else {
            self.synced |= !failed(io, Kind::Preparation, message.error);
            return;
        };
        let code = match (message.error, kind) {
            (0, Kind::Multi) => message.multi_error(),
            (code, _) => code,
        };
        if !failed(io, kind, code) {
            io.tally.record(kind, pending.intended, io.now);
            if kind == Kind::Create && io.plan().workload == Workload::Delete {
                self.made.push_back(pending.number);
            }
        }
        self.observe_reply(io, pending, message, code);
    }

    fn lost(&mut self, io: &mut Io<'_>, pending: &Pending) {
        if let (Some(observer), Some(_)) = (io.shared.observer, kind_of(pending.step)) {
            self.observe(io, pending, &|operation| observer.in_doubt(operation));
        }
    }

    fn remaining(&self) -> u64 {
        self.remaining
    }
}
