//! What cores say to each other: batches, one per loop turn and direction.

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use crate::io::ring::Token;
use crate::pipeline::{Connect, Notice, Outbox};
use crate::server::report::{ClientReport, Question};
use crate::tree::Tree;
use crate::tree::effects::Event;
use crate::wire::acl::Id;
use crate::wire::opcode::OpCode;
use crate::zxid::Zxid;

/// Room that a batch gets at once, at most.
const LIKE_THE_LAST_BYTES_MAX: usize = 16 << 10;
const LIKE_THE_LAST_ITEMS_MAX: usize = 128;

/// A loop turn's worth of what one client core passes to the pipeline, in order.
#[derive(Debug, Default)]
pub struct ToPipeline {
    /// The bodies of the writes.
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
}

impl ToPipeline {
    /// Takes everything out, and leaves room for as much again: a turn is mostly like the last.
    pub fn take(&mut self) -> ToPipeline {
        let bytes = Vec::with_capacity(self.bytes.len().min(LIKE_THE_LAST_BYTES_MAX));
        let items = Vec::with_capacity(self.items.len().min(LIKE_THE_LAST_ITEMS_MAX));
        mem::replace(self, ToPipeline { bytes, items })
    }
}

/// One thing that a client core passes to the pipeline.
#[derive(Debug)]
pub enum Item {
    /// A connection asks for a session.
    Connect(Connect),
    /// A write, or a session's end; `body` is a range of the batch's bytes.
    Write {
        connection: Token,
        session: i64,
        xid: i32,
        op: OpCode,
        body: Range<usize>,
        ids: Arc<[Id]>,
    },
    /// A session was heard of.
    Touch { session: i64 },
    /// A connection that had asked for a session is closed.
    Closed { connection: Token },
    /// A connection asks about the whole server.
    Ask { connection: Token, question: Question },
    /// This core's part of the answer to a question of that number.
    Answer { number: u64, report: Box<ClientReport> },
}

/// What the pipeline passes to one client core.
#[derive(Debug)]
pub enum ToClients {
    /// Transactions are durable: the replies to this core's connections, and all events.
    Published { through: Zxid, outbox: Outbox, events: Arc<[Event]> },
    /// What waited for no commit; never that the tree is replaced.
    Notice(Notice),
    /// Everything from before this start of an epoch has been told: a client that has seen it, at
    /// an Apache server, is not ahead.
    Begun { epoch: Zxid },
    /// Serve this tree at this version, publish in `shared` the version that is served, and end
    /// all clients' connections: what they knew may never have happened.
    Replaced { tree: Arc<Tree>, version: Zxid, shared: Arc<AtomicI64> },
    /// Answer this question.
    Report { number: u64, question: Question },
    /// The answer to a question that this connection asked.
    Reported { connection: Token, chunks: Vec<Vec<u8>> },
    /// Accept nobody any more, finish what was accepted, then stop. `answers_come` is false where
    /// no leader will answer what waits for one: its outcome is unknown, and nobody waits for it.
    Stop { answers_come: bool },
}
