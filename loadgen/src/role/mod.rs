//! What a connection does: one role for each kind of session.
//!
//! A role is told things by its driver and asks its session to send; it never waits. It is told
//! `joined` whenever its session stands (again), then `start` for each operation that is due, and
//! `reply`, `event`, `lost` for what comes of it.

mod churn;
mod lock;
mod node;
mod prepare;
mod queue;
mod storm;
mod watch;

use crate::clock::Nanos;
use crate::plan::{Plan, Workload};
use crate::session::{Pending, Session, Step};
use crate::shared::Shared;
use crate::tally::{Kind, Tally};
use crate::wire::{self, Frame, Message};

pub use prepare::{Preparation, Preparer};

/// What a role works with while it is called.
pub struct Io<'a> {
    pub shared: &'a Shared<'a>,
    pub session: &'a mut Session,
    pub tally: &'a mut Tally,
    /// For paths under construction.
    pub path: &'a mut Vec<u8>,
    /// Of the connection.
    pub index: usize,
    pub now: Nanos,
    /// Whether load is wanted: false before it starts and while the run drains.
    pub loading: bool,
}

impl<'a> Io<'a> {
    pub fn plan(&self) -> &'a Plan {
        self.shared.plan
    }

    /// Starts a request; the caller fills its body.
    pub fn request(&mut self, opcode: i32, step: Step, intended: Nanos, number: u64) -> Frame<'_> {
        self.request_observed(opcode, step, intended, number, 0)
    }

    pub fn request_observed(
        &mut self,
        opcode: i32,
        step: Step,
        intended: Nanos,
        number: u64,
        id: u64,
    ) -> Frame<'_> {
        let pending = Pending { xid: 0, step, intended, sent: self.now, number, id };
        self.session.request(opcode, pending)
    }

    /// Begins a session's work: behind a sync a follower knows of the nodes that were prepared.
    pub fn sync(&mut self) {
        let now = self.now;
        self.request(wire::SYNC, Step::Ready, now, 0).bytes(b"/").finish();
    }

    pub fn close(&mut self) {
        let now = self.now;
        self.request(wire::CLOSE_SESSION, Step::Close, now, 0).finish();
    }
}

/// Whether a role can take an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Yes,
    /// When one of its own replies or events has come.
    No,
    /// When something has happened elsewhere, so ask again.
    Later,
}

pub trait Role: Send {
    /// Whether its session is opened before the load starts.
    fn opens(&self) -> bool {
        true
    }

    /// The session stands. `fresh` says that nothing of an earlier one is left on the server.
    fn joined(&mut self, io: &mut Io<'_>, fresh: bool);

    /// Whether the load may start.
    fn is_armed(&self) -> bool;

    /// The load starts.
    fn begin(&mut self, _io: &mut Io<'_>) {}

    fn room(&mut self, _io: &mut Io<'_>) -> Room {
        Room::No
    }

    /// Starts one operation, which was due at `intended`. Called after [`Room::Yes`] only.
    fn start(&mut self, _io: &mut Io<'_>, _intended: Nanos) {}

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>);

    fn event(&mut self, _io: &mut Io<'_>, _path: &[u8]) {}

    /// Does what was put off by [`Want::Resume`](crate::session::Want::Resume); false while that
    /// has to wait for other connections, and it is asked again.
    fn resume(&mut self, _io: &mut Io<'_>) -> bool {
        true
    }

    /// The reply to this will not come.
    fn lost(&mut self, _io: &mut Io<'_>, _pending: &Pending) {}

    /// The connection is gone, after `lost` for each request; the driver sees to a new one.
    fn disconnected(&mut self, _io: &mut Io<'_>) {}

    /// Operations that a counted run still wants of it.
    fn remaining(&self) -> u64 {
        0
    }

    /// Whether nothing that matters is under way.
    fn is_done(&self, session: &Session) -> bool {
        session.pending.is_empty()
    }

    /// Whether operations are given to it, so that it is one of those that share a rate.
    fn is_driven(&self) -> bool {
        true
    }
}

/// The role of connection `index`: those from `plan.connections` on watch.
pub fn role(plan: &Plan, index: usize) -> Box<dyn Role> {
    match plan.workload {
        Workload::Watch if index >= plan.connections => Box::new(watch::Watcher::new(plan)),
        Workload::Watch => Box::new(watch::Writer::new(plan, index)),
        Workload::Connect => Box::new(storm::Storm::new()),
        Workload::Ephemeral => Box::new(churn::Churn::new(plan, index)),
        Workload::Lock => Box::new(lock::Contender::new(plan, index)),
        Workload::Queue if index.is_multiple_of(2) => Box::new(queue::Producer::new(plan, index)),
        Workload::Queue => Box::new(queue::Consumer::new(plan, index)),
        _ => Box::new(node::Worker::new(plan, index)),
    }
}

/// Counts an error reply; `false` when there was none.
fn failed(io: &mut Io<'_>, kind: Kind, code: i32) -> bool {
    if code != 0 {
        io.tally.error(kind, code, io.now);
    }
    code != 0
}
