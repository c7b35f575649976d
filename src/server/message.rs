//! What cores say to each other: batches, one per loop turn and direction.

use std::mem;
use std::ops::Range;
use std::os::fd::OwnedFd;
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

/// What one large batch has grown beyond this is not used again.
const KEPT_BYTES_MAX: usize = 64 << 10;
const KEPT_ITEMS_MAX: usize = 1024;

/// A loop turn's worth of what one client core passes to the pipeline, in order.
#[derive(Debug, Default)]
pub struct ToPipeline {
    /// The bodies of the writes.
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
    /// An outbox that the core is done with comes back for its memory, as batches do
    /// ([`Emptied`]): so a turn's messages need no allocation.
    pub emptied: Outbox,
}

/// What is left of a batch, on its way back to the core that filled it.
#[derive(Debug, Default)]
pub struct Emptied {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl ToPipeline {
    /// Takes everything out, and goes on with what is left of an earlier batch.
    pub fn take(&mut self, Emptied { bytes, items }: Emptied) -> ToPipeline {
        mem::replace(self, ToPipeline { bytes, items, emptied: Outbox::default() })
    }

    /// What is left when everything was taken in.
    pub fn into_emptied(self) -> Emptied {
        let ToPipeline { mut bytes, mut items, .. } = self;
        if bytes.capacity() > KEPT_BYTES_MAX || items.capacity() > KEPT_ITEMS_MAX {
            return Emptied::default();
        }
        bytes.clear();
        items.clear();
        Emptied { bytes, items }
    }
}

impl Emptied {
    /// Whether there is no memory in it.
    pub fn is_nothing(&self) -> bool {
        self.items.capacity() == 0
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
    Published { through: Zxid, outbox: Outbox, events: Arc<Vec<Event>>, emptied: Emptied },
    /// What waited for no commit; never that the tree is replaced.
    Notice(Notice),
    /// Everything from before this start of an epoch has been told: a client that has seen it, at
    /// an Apache server, is not ahead.
    Begun { epoch: Zxid },
    /// Serve this tree at this version, publish in `shared` the version that is served, and end
    /// all clients' connections: what they knew may never have happened.
    Replaced { tree: Arc<Tree>, version: Zxid, shared: Arc<AtomicI64> },
    /// Clients are taken here from now on, and nowhere else; connections stay.
    Listen { listener: OwnedFd },
    /// Answer this question.
    Report { number: u64, question: Question },
    /// The answer to a question that this connection asked.
    Reported { connection: Token, chunks: Vec<Vec<u8>> },
    /// Accept nobody any more, finish what was accepted, then stop. `answers_come` is false where
    /// no leader will answer what waits for one: its outcome is unknown, and nobody waits for it.
    Stop { answers_come: bool },
}
