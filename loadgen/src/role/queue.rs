//! The queue recipe: producers put sequential nodes, consumers take the first of those they see.
//!
//! ```text
//! value    run u64 | put nanos u64 | …     an item of another run is taken, but its way is unknown
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Nanos;
use crate::plan::{Directory, Plan};
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, Session, State, Step};
use crate::tally::Kind;
use crate::wire::{self, Message};

/// The queue of connection `index`: a producer and the consumer after it share one.
fn queue_of(plan: &Plan, index: usize) -> u64 {
    (index as u64 / 2) % plan.keys
}

pub struct Producer {
    synced: bool,
    queue: u64,
    value: Vec<u8>,
}

impl Producer {
    pub fn new(plan: &Plan, index: usize) -> Producer {
        Producer { synced: false, queue: queue_of(plan, index), value: plan.value.clone() }
    }

    fn depth<'a>(&self, io: &Io<'a>) -> &'a AtomicU64 {
        &io.shared.depths[self.queue as usize]
    }
}

impl Role for Producer {
    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        if !self.synced {
            io.sync();
        }
    }

    fn is_armed(&self) -> bool {
        self.synced
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        if io.session.state != State::Live || io.session.pending.len() >= io.plan().in_flight {
            return Room::No;
        }
        let full = self.depth(io).load(Ordering::Relaxed) >= io.plan().queue_depth;
        if full { Room::Later } else { Room::Yes }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        self.depth(io).fetch_add(1, Ordering::Relaxed);
        let mut path = Vec::with_capacity(64);
        io.plan().entry_path(&mut path, Directory::Queues, self.queue);
        path.extend_from_slice(b"/item-");
        self.value[..8].copy_from_slice(&io.shared.run_id.to_be_bytes());
        self.value[8..16].copy_from_slice(&intended.to_be_bytes());
        let frame = io.request(wire::CREATE, Step::Put, intended, self.queue);
        frame.bytes(&path).bytes(&self.value).open_acl().int(wire::SEQUENTIAL).finish();
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        if pending.step != Step::Put {
            self.synced |= !failed(io, Kind::Preparation, message.error);
        } else if failed(io, Kind::Put, message.error) {
            less(self.depth(io));
        } else {
            io.tally.record(Kind::Put, pending.intended, io.now);
        }
    }

    /// Whether it was put will never be known, so a bounded queue must not wait for its taking.
    fn lost(&mut self, io: &mut Io<'_>, pending: &Pending) {
        if pending.step == Step::Put {
            less(self.depth(io));
        }
    }
}

fn less(depth: &AtomicU64) {
    let less = |depth: u64| Some(depth.saturating_sub(1));
    depth.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).expect("never refused");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Listing,
    /// For the event of an empty queue's next item.
    Waiting,
    Taking,
}

pub struct Consumer {
    synced: bool,
    queue: u64,
    stage: Stage,
    /// Names that were listed and not yet tried.
    items: VecDeque<Vec<u8>>,
    /// The item that is being taken, and when that began.
    item: Vec<u8>,
    since: Nanos,
    /// When it was put, if by this run.
    put: Option<Nanos>,
}

impl Consumer {
    pub fn new(plan: &Plan, index: usize) -> Consumer {
        Consumer {
            synced: false,
            queue: queue_of(plan, index),
            stage: Stage::Idle,
            items: VecDeque::new(),
            item: Vec::new(),
            since: 0,
            put: None,
        }
    }

    fn path(&self, io: &Io<'_>, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(64);
        io.plan().entry_path(&mut path, Directory::Queues, self.queue);
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// Takes the next item; when none is known, asks for them.
    fn next(&mut self, io: &mut Io<'_>) {
        if !io.loading {
            self.stage = Stage::Idle;
            return;
        }
        let now = io.now;
        let Some(item) = self.items.pop_front() else {
            self.stage = Stage::Listing;
            let path = self.path(io, b"");
            let frame = io.request(wire::GET_CHILDREN, Step::Children, now, self.queue);
            return frame.bytes(&path).bool(true).finish();
        };
        self.stage = Stage::Taking;
        self.since = now;
        let path = self.path(io, &item);
        self.item = item;
        let frame = io.request(wire::GET_DATA, Step::TakeGet, now, self.queue);
        frame.bytes(&path).bool(false).finish();
    }

    fn list(&mut self, io: &mut Io<'_>, message: &Message<'_>) {
        self.items = message.names().map(<[u8]>::to_vec).collect();
        self.items.make_contiguous().sort_unstable();
        if self.items.is_empty() {
            self.stage = Stage::Waiting;
        } else {
            self.next(io);
        }
    }

    fn delete(&mut self, io: &mut Io<'_>, message: &Message<'_>) {
        let value = message.buffer().unwrap_or_default();
        let ours = wire::long_at(value, 0) == Some(io.shared.run_id as i64);
        self.put = wire::long_at(value, 8).filter(|_| ours).map(|nanos| nanos as u64);
        let (path, now) = (self.path(io, &self.item), io.now);
        let frame = io.request(wire::DELETE, Step::TakeDelete, now, self.queue);
        frame.bytes(&path).int(-1).finish();
    }

    fn taken(&mut self, io: &mut Io<'_>) {
        io.tally.record(Kind::Take, self.since, io.now);
        if let Some(put) = self.put {
            io.tally.record(Kind::Item, put, io.now);
            less(&io.shared.depths[self.queue as usize]);
        }
    }
}

impl Role for Consumer {
    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        if !self.synced {
            io.sync();
        }
        if self.stage != Stage::Idle || io.loading {
            self.items.clear();
            self.next(io);
        }
    }

    fn is_armed(&self) -> bool {
        self.synced
    }

    fn begin(&mut self, io: &mut Io<'_>) {
        if self.stage == Stage::Idle && io.session.state == State::Live {
            self.next(io);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        match (pending.step, message.error) {
            (Step::Children, 0) => self.list(io, message),
            (Step::TakeGet, 0) => self.delete(io, message),
            (Step::TakeDelete, 0) => {
                self.taken(io);
                self.next(io);
            }
            // Another consumer was faster, as the recipe has it.
            (Step::TakeGet | Step::TakeDelete, wire::ERROR_NO_NODE) => self.next(io),
            (Step::Ready, code) => self.synced |= !failed(io, Kind::Preparation, code),
            (_, code) => {
                failed(io, Kind::Take, code);
                self.next(io);
            }
        }
    }

    fn event(&mut self, io: &mut Io<'_>, _path: &[u8]) {
        if self.stage == Stage::Waiting {
            self.next(io);
        }
    }

    fn is_done(&self, session: &Session) -> bool {
        session.pending.is_empty()
    }

    fn is_driven(&self) -> bool {
        false
    }
}
