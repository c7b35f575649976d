//! What this server's clients have asked and somebody else has to answer: the leader, or a quorum.
//!
//! ```text
//!                         ┌ Asked ── its transaction, SYNC or a quorum ──► reply
//! by session, in order ──►│ Asked
//!                         └ Done: a reply that is ready, and must not overtake what is before it
//! ```
//! A request is kept until its outcome is known, so that it can be passed on again to the leader
//! of a later epoch: what has not become a transaction when an epoch's history is closed never
//! will. Within one epoch nothing is passed on twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::pipeline::{Client, Connect, Then, Write};
use crate::time::Time;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::Forwarded;
use crate::wire::txn::{Logged, Txn};
use crate::zxid::Zxid;

/// How many requests may wait: some 100 bytes each beside their bodies. A client that asks for
/// more is disconnected, as one whose server cannot go on.
const COUNT_MAX: usize = 200_000;

/// How many bytes their bodies may take.
const BYTES_MAX: usize = 128 << 20;

/// What goes to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToLeader {
    Request(Forwarded),
    /// May this session's client come back through this server?
    Revalidate {
        session: i64,
        timeout_ms: i32,
    },
}

/// Something that waits in a session's queue.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its place among everything that this server was asked.
    pub order: u64,
    pub client: Client,
    pub xid: i32,
    pub op: OpCode,
    pub state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// It has no answer yet.
    Asked {
        request: Forwarded,
        /// The epoch to whose leader it was passed on last.
        sent: Option<u32>,
    },
    /// Its answer is ready: the transaction that it tells of, the frame, and what follows.
    Done { zxid: Zxid, frame: Vec<u8>, then: Then },
}

impl Entry {
    fn size(&self) -> usize {
        match &self.state {
            State::Asked { request, .. } => request.body.len(),
            State::Done { frame, .. } => frame.len(),
        }
    }

    fn is_unsent(&self) -> bool {
        matches!(self.state, State::Asked { sent: None, .. })
    }

    /// Whether a request for `op` that comes behind it may go on. Behind a sync that has no answer
    /// only other syncs may: the reads that its client has sent behind it wait for the answer, and
    /// must not show what the client has asked for after them.
    fn lets_go(&self, op: OpCode) -> bool {
        match self.state {
            State::Done { .. } => true,
            State::Asked { sent: None, .. } => false,
            State::Asked { sent: Some(_), .. } => self.op != OpCode::Sync || op == OpCode::Sync,
        }
    }
}

/// A connection that has asked for a session and has no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attaching {
    pub connect: Connect,
    /// The session's timeout as it will be, in milliseconds.
    pub timeout_ms: i32,
    pub since: Time,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_session: BTreeMap<i64, VecDeque<Entry>>,
    /// By the session that they will have.
    attaching: BTreeMap<i64, Attaching>,
    /// The same, by the connection that asks.
    attaching_by_client: BTreeMap<Client, i64>,
    /// The same, those first that have waited longest.
    attaching_since: BTreeSet<(Time, i64)>,
    /// Syncs that were passed on, by session and order: they are answered in this order.
    syncs: VecDeque<(i64, u64)>,
    outgoing: VecDeque<ToLeader>,
    order: u64,
    count: usize,
    bytes: usize,
}

impl Waiting {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }

    /// Whether something of the session waits.
    pub fn has(&self, session: i64) -> bool {
        self.by_session.contains_key(&session)
    }

    /// Whether such a request of the session waits.
    pub fn has_op(&self, session: i64, op: OpCode) -> bool {
        let queue = self.by_session.get(&session);
        queue.is_some_and(|queue| queue.iter().any(|entry| entry.op == op))
    }

    /// Whether another request with a body of so many bytes can be kept.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.count < COUNT_MAX && self.bytes + bytes <= BYTES_MAX
    }

    /// Keeps a request; it is not passed on yet. Its place in the order.
    pub fn ask(&mut self, write: &Write<'_>) -> u64 {
        let request = Forwarded {
            session: write.session,
            cxid: write.xid,
            op: write.op.raw(),
            body: write.body.to_vec(),
            ids: write.ids.to_vec(),
        };
        let state = State::Asked { request, sent: None };
        self.push(write.session, write.client, write.xid, write.op, state)
    }

    /// Keeps a reply that must not overtake what waits already.
    pub fn hold(&mut self, write: &Write<'_>, zxid: Zxid, frame: Vec<u8>, then: Then) {
        let state = State::Done { zxid, frame, then };
        self.push(write.session, write.client, write.xid, write.op, state);
    }

    fn push(&mut self, session: i64, client: Client, xid: i32, op: OpCode, state: State) -> u64 {
        self.put_back(session, Entry { order: 0, client, xid, op, state });
        self.order
    }

    /// Puts an entry that was taken out behind everything that was put in until now.
    pub fn put_back(&mut self, session: i64, mut entry: Entry) {
        self.order += 1;
        entry.order = self.order;
        self.count += 1;
        self.bytes += entry.size();
        self.by_session.entry(session).or_default().push_back(entry);
    }

    /// Passes on the session's requests that may go on, to the leader of `epoch`.
    pub fn send(&mut self, session: i64, epoch: u32) {
        let Some(queue) = self.by_session.get_mut(&session) else { return };
        while let Some(index) = queue.iter().position(Entry::is_unsent) {
            let op = queue[index].op;
            if !queue.iter().take(index).all(|before| before.lets_go(op)) {
                return;
            }
            let entry = &mut queue[index];
            let State::Asked { request, sent } = &mut entry.state else {
                unreachable!("what is done is not unsent");
            };
            *sent = Some(epoch);
            if op == OpCode::Sync {
                self.syncs.push_back((session, entry.order));
            }
            self.outgoing.push_back(ToLeader::Request(request.clone()));
        }
    }

    /// Whether a request of the session waits until a sync before it is answered.
    pub fn is_held(&self, session: i64, op: OpCode) -> bool {
        let queue = self.by_session.get(&session);
        queue.is_some_and(|queue| !queue.iter().all(|before| before.lets_go(op)))
    }

    /// The session's newest request is led by this server, in `epoch`.
    pub fn set_led(&mut self, session: i64, epoch: u32) {
        let newest = self.by_session.get_mut(&session).and_then(VecDeque::back_mut);
        let newest = newest.expect("it was just asked");
        if let State::Asked { sent, .. } = &mut newest.state {
            *sent = Some(epoch);
        }
    }

    /// Takes out what waited for a sync of the session and what is behind it, in its order.
    pub fn take_held(&mut self, session: i64) -> Vec<Entry> {
        let queue = self.by_session.get(&session);
        let Some(first) = queue.and_then(|queue| queue.iter().position(Entry::is_unsent)) else {
            return Vec::new();
        };
        let mut held = Vec::new();
        while let Some(entry) = self.remove(session, first) {
            held.push(entry);
        }
        held
    }

    /// Asks the leader whether a session lives.
    pub fn revalidate(&mut self, session: i64, timeout_ms: i32) {
        self.outgoing.push_back(ToLeader::Revalidate { session, timeout_ms });
    }

    /// What goes to the leader next.
    pub fn poll_to_leader(&mut self) -> Option<ToLeader> {
        self.outgoing.pop_front()
    }

    /// The leader is gone: what was not handed out yet is not.
    pub fn stop_sending(&mut self) {
        self.outgoing.clear();
        self.syncs.clear();
    }

    /// The request that a transaction answers: its place in its session's queue.
    pub fn find(&self, logged: &Logged<'_>) -> Option<usize> {
        let queue = self.by_session.get(&logged.header.session)?;
        queue.iter().position(|entry| {
            let State::Asked { sent: Some(_), .. } = &entry.state else { return false };
            let is_type = match (&logged.txn, entry.op) {
                (Txn::Error { .. }, op) => op != OpCode::Sync,
                (Txn::SetData { .. }, OpCode::Reconfig) => true,
                (txn, op) => txn.op() == op,
            };
            is_type && entry.xid == logged.header.cxid
        })
    }

    /// The entry at a place in the session's queue.
    pub fn entry(&self, session: i64, index: usize) -> &Entry {
        &self.by_session[&session][index]
    }

    /// The oldest sync that was passed on.
    pub fn pop_sync(&mut self) -> Option<(i64, u64)> {
        self.syncs.pop_front()
    }

    /// The place of the entry with that order in the session's queue.
    pub fn position(&self, session: i64, order: u64) -> Option<usize> {
        self.by_session.get(&session)?.iter().position(|entry| entry.order == order)
    }

    /// Takes out the entry at a place in the session's queue.
    pub fn remove(&mut self, session: i64, index: usize) -> Option<Entry> {
        let queue = self.by_session.get_mut(&session)?;
        let entry = queue.remove(index)?;
        if queue.is_empty() {
            self.by_session.remove(&session);
        }
        self.count -= 1;
        self.bytes -= entry.size();
        Some(entry)
    }

    /// Takes out the session's oldest entry if its answer is ready.
    pub fn pop_done(&mut self, session: i64) -> Option<Entry> {
        let entry = self.by_session.get(&session)?.front()?;
        matches!(entry.state, State::Done { .. }).then(|| self.remove(session, 0)).flatten()
    }

    /// The answer to the entry at this place is ready, though not its turn.
    pub fn set_done(&mut self, session: i64, index: usize, state: State) {
        let queue = self.by_session.get_mut(&session).expect("the caller found it");
        let entry = &mut queue[index];
        self.bytes -= entry.size();
        entry.state = state;
        self.bytes += entry.size();
    }

    /// Takes everything out, in the order in which it was asked.
    pub fn take_all(&mut self) -> Vec<(i64, Entry)> {
        let queues = std::mem::take(&mut self.by_session).into_iter();
        let mut all: Vec<(i64, Entry)> = queues
            .flat_map(|(session, queue)| queue.into_iter().map(move |entry| (session, entry)))
            .collect();
        all.sort_unstable_by_key(|(_, entry)| entry.order);
        (self.count, self.bytes) = (0, 0);
        all
    }

    /// Drops what a connection that ends has asked and nobody was told of, and the answers that it
    /// will not get. The end of a session is kept where `keeps_close` says so: its client has said
    /// all that it wanted.
    pub fn forget_unsent(&mut self, session: i64, client: Client, keeps_close: bool) {
        let Some(mut queue) = self.by_session.remove(&session) else { return };
        queue.retain(|entry| {
            let is_sent = matches!(entry.state, State::Asked { sent: Some(_), .. });
            let is_close = keeps_close && entry.is_unsent() && entry.op == OpCode::CloseSession;
            let is_kept = entry.client != client || is_sent || is_close;
            if !is_kept {
                self.count -= 1;
                self.bytes -= entry.size();
            }
            is_kept
        });
        if !queue.is_empty() {
            self.by_session.insert(session, queue);
        }
    }

    /// Drops answers that tell of transactions after `zxid`; whose they were goes to `lost`.
    pub fn pop_above(&mut self, zxid: Zxid, lost: &mut Vec<Client>) {
        for entry in self.by_session.values().flatten() {
            if matches!(entry.state, State::Done { zxid: of, .. } if of > zxid) {
                lost.push(entry.client);
            }
        }
    }

    // ── Connections that ask for sessions ──

    /// A connection waits for this session; the one that waited for it before.
    pub fn attach(&mut self, session: i64, attaching: Attaching) -> Option<Client> {
        let previous = self.pop_attaching(session);
        self.attaching_by_client.insert(attaching.connect.client, session);
        self.attaching_since.insert((attaching.since, session));
        self.attaching.insert(session, attaching);
        previous.map(|previous| previous.connect.client)
    }

    /// The connection that waits for this session waits no more.
    pub fn pop_attaching(&mut self, session: i64) -> Option<Attaching> {
        let attaching = self.attaching.remove(&session)?;
        self.attaching_by_client.remove(&attaching.connect.client);
        self.attaching_since.remove(&(attaching.since, session));
        Some(attaching)
    }

    /// A connection is gone that may have waited for a session.
    pub fn forget_connect(&mut self, client: Client) {
        if let Some(&session) = self.attaching_by_client.get(&client) {
            self.pop_attaching(session);
            self.forget_unsent(session, client, false);
        }
    }

    /// Whether a connection waits for this session.
    pub fn is_attaching(&self, session: i64) -> bool {
        self.attaching.contains_key(&session)
    }

    /// Those who wait for sessions, in the sessions' order.
    pub fn attaching(&self) -> impl Iterator<Item = (i64, Attaching)> {
        self.attaching.iter().map(|(session, attaching)| (*session, *attaching))
    }

    /// The one who has waited longest, and since when.
    pub fn first_attaching(&self) -> Option<(Time, Client)> {
        let &(since, session) = self.attaching_since.first()?;
        Some((since, self.attaching[&session].connect.client))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let order = self.order;
        *self = Waiting { order, ..Waiting::default() };
    }
}
