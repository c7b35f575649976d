//! Sessions that only this server knows (`localSessionsEnabled`): no transaction begins or ends
//! them, they expire here, and they own no ephemerals.
//!
//! ```text
//! local ──first ephemeral──► upgrading ──its CreateSession is committed──► global
//!   ▲                            │
//!   └── it was undone, or never asked for ──┘
//! ```
//! A session that is upgrading counts as global for what its client asks, and stays here until
//! the transaction is committed, so that it is never without a home. Sources:
//! `UpgradeableSessionTracker.java`, `QuorumZooKeeperServer.checkUpgradeSession`. Unlike there,
//! local sessions outlive a change of leader, as connections do.

use std::collections::BTreeMap;

use crate::pipeline::forward::Attaching;
use crate::pipeline::session::{self, Owner, Sessions};
use crate::pipeline::write::owner;
use crate::pipeline::{Client, Connect, Notice, Part, Pipeline, Room, Then, Write};
use crate::time::{Time, WallMs};
use crate::wire::error::ErrorCode;
use crate::wire::opcode::OpCode;
use crate::wire::request::{CreateMode, CreateRequest, Op, Request};
use crate::wire::response::{self, ConnectResponse, OpResult, ReplyHeader};
use crate::wire::txn::{Txn, TxnHeader};
use crate::zxid::Zxid;

/// The sessions that only this server knows, and those that are becoming global.
#[derive(Debug)]
pub(super) struct Locals {
    sessions: Sessions,
    /// Those that are becoming global: the transaction that makes them so, once it is there.
    upgrading: BTreeMap<i64, Option<Zxid>>,
}

impl Locals {
    /// No sessions; they expire at ticks of this length.
    pub fn new(tick_ms: u64) -> Locals {
        let tick_ms = u32::try_from(tick_ms).expect("it was one before");
        // It gives no ids: those come from where the global ones do, so that none comes twice.
        Locals { sessions: Sessions::new(tick_ms, 0, 0), upgrading: BTreeMap::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.count() - self.upgrading.len()
    }

    /// The sessions, with those that are becoming global.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The same, to be checked and touched.
    pub fn sessions_mut(&mut self) -> &mut Sessions {
        &mut self.sessions
    }

    /// Whether the session is one of these, or is becoming global.
    pub fn contains(&self, session: i64) -> bool {
        self.sessions.contains(session)
    }

    /// Whether only this server knows the session.
    pub fn is_local(&self, session: i64) -> bool {
        self.sessions.contains(session) && !self.upgrading.contains_key(&session)
    }

    /// Whether the session is becoming global.
    pub fn is_upgrading(&self, session: i64) -> bool {
        self.upgrading.contains_key(&session)
    }

    /// The sessions that are becoming global.
    #[cfg(test)]
    pub fn upgrades(&self) -> impl Iterator<Item = i64> {
        self.upgrading.keys().copied()
    }

    /// A session begins.
    pub fn begin(&mut self, session: i64, timeout_ms: i32, owner: Owner, now: Time) {
        self.sessions.create(session, timeout_ms, Some(owner), Zxid::ZERO, now);
        self.sessions.handle_committed(Zxid::MAX);
    }

    /// A session ends, or is global from here on.
    pub fn end(&mut self, session: i64) {
        self.sessions.close(session, Zxid::ZERO);
        self.sessions.handle_committed(Zxid::MAX);
        self.upgrading.remove(&session);
    }

    pub fn touch(&mut self, session: i64, now: Time) {
        self.sessions.touch(session, now);
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.sessions.poll_timeout()
    }

    /// The transaction that makes the session global, if it is one of these, is `zxid`. It may have
    /// been asked for on a connection that was given up since.
    pub fn set_upgraded(&mut self, session: i64, zxid: Zxid) {
        if self.sessions.contains(session) {
            self.upgrading.insert(session, Some(zxid));
        }
    }

    /// Everything up to `through` is committed.
    pub fn handle_committed(&mut self, through: Zxid) {
        let is_done = |made: &Option<Zxid>| made.is_some_and(|zxid| zxid <= through);
        for session in self.upgrading_where(is_done) {
            self.end(session);
        }
    }

    /// What came after `after` never happened: the sessions that are local again.
    pub fn pop_above(&mut self, after: Zxid) -> Vec<i64> {
        let is_undone = |made: &Option<Zxid>| made.is_some_and(|zxid| zxid > after);
        let undone = self.upgrading_where(is_undone);
        self.upgrading.retain(|session, _| !undone.contains(session));
        undone
    }

    /// Another state has replaced this server's, in which `is_global` sessions exist.
    pub fn handle_replaced(&mut self, is_global: impl Fn(i64) -> bool) {
        for session in self.upgrading_where(|_| true) {
            match is_global(session) {
                true => self.end(session),
                false => drop(self.upgrading.remove(&session)),
            }
        }
    }

    fn upgrading_where(&self, wanted: impl Fn(&Option<Zxid>) -> bool) -> Vec<i64> {
        let found = self.upgrading.iter().filter(|(_, made)| wanted(made));
        found.map(|(session, _)| *session).collect()
    }
}

impl Pipeline {
    /// The sessions that only this server knows, to be asked.
    pub fn local_sessions(&self) -> &Sessions {
        self.locals.sessions()
    }

    /// How many sessions only this server knows.
    pub fn local_session_count(&self) -> usize {
        self.locals.count()
    }

    /// Whether a new session begins as a local one.
    pub(super) fn begins_local(&self) -> bool {
        self.settings.modes.local_sessions && self.part != Part::Alone
    }

    /// Whether the session may be a local one of another server: only that one can say. One that
    /// has ended here is not: what its client had sent before comes too late. Java's leader takes
    /// that for a local session's (`LeaderSessionTracker.checkSession`).
    pub(super) fn may_be_elsewhere(&self, session: i64) -> bool {
        self.settings.modes.local_sessions
            && !self.sessions.contains(session)
            && !self.sessions.is_own_id(session)
            && !self.leadership.has_ended(session)
    }

    /// Takes a connect request that concerns local sessions, or that comes while this server is
    /// read-only or leads and serves nobody; whether it was one.
    pub(super) fn takes_connect(&mut self, connect: Connect, now: Time) -> bool {
        if self.part == Part::Alone {
            return false;
        }
        if self.is_read_only() {
            self.connect_read_only(connect, now);
            return true;
        }
        if self.refuses_clients() {
            self.notices.push_back(Notice::Close { client: connect.client });
            return true;
        }
        let timeout_ms = self.clamp(connect.timeout_ms);
        let attaching = Attaching { connect, timeout_ms, since: now };
        let is_local = match connect.session {
            0 => self.begins_local(),
            session => self.locals.is_local(session),
        };
        match is_local {
            true if self.part == Part::Looking => {
                // It waits for a leader, as the others do.
                let session = self.id_for(connect);
                if let Some(previous) = self.waiting.attach(session, attaching) {
                    self.notices.push_back(Notice::Close { client: previous });
                }
            }
            true => {
                let session = self.id_for(connect);
                self.attach_local(session, &attaching, now);
            }
            false => {}
        }
        is_local
    }

    /// A connection has its local session, an old one or one that begins.
    pub(super) fn attach_local(&mut self, session: i64, attaching: &Attaching, now: Time) {
        let &Attaching { connect, timeout_ms, .. } = attaching;
        let (frame, is_right) = self.open_local(session, attaching, false, now);
        let client = connect.client;
        let then = match is_right {
            true => {
                self.attached.insert(client, session, timeout_ms);
                Then::Begin { session, timeout_ms }
            }
            false => Then::Close,
        };
        self.notices.push_back(Notice::Connected { client, frame, then });
    }

    /// The session that a connect request is about, or an id for the one that begins with it.
    pub(super) fn id_for(&mut self, connect: Connect) -> i64 {
        match connect.session {
            0 => self.sessions.next_id(),
            session => session,
        }
    }

    /// Gives a connection its local session, an old one or one that begins: the answer to it, and
    /// whether it may have the session.
    pub(super) fn open_local(
        &mut self,
        session: i64,
        attaching: &Attaching,
        read_only: bool,
        now: Time,
    ) -> (Vec<u8>, bool) {
        let &Attaching { connect, timeout_ms, .. } = attaching;
        let owner = owner(connect.client);
        let is_right = match connect.session {
            0 => {
                self.locals.begin(session, timeout_ms, owner, now);
                true
            }
            _ => {
                // As with global ones: whoever has it loses it before the password is looked at.
                if let Some(previous) = self.attached.holder(session) {
                    self.close(previous);
                }
                self.stats.connections_revalidated += 1;
                let password = connect.password.unwrap_or_default();
                self.locals.sessions.reopen(session, &password, timeout_ms, owner, now)
            }
        };
        let read_only = connect.read_only.map(|_| read_only);
        let password = session::password(session);
        let response = match is_right {
            true => ConnectResponse { timeout_ms, session, password, read_only },
            false => ConnectResponse::refused(read_only),
        };
        let mut frame = Vec::new();
        response.encode(&mut frame);
        (frame, is_right)
    }

    /// Takes a write of a local session where it is answered here, and makes the session global
    /// where the write needs that; whether the write is done with.
    pub(super) fn takes_write(&mut self, write: &Write<'_>, now: Time, wall: WallMs) -> bool {
        let Write { client, session, op, .. } = *write;
        if !self.locals.is_local(session) {
            return false;
        }
        if self.read_only.contains(client) {
            self.end_read_only_session(write);
            return true;
        }
        if self.locals.sessions.check(session, owner(client)).is_err() {
            // Its client has gone to another connection.
            self.close(client);
            return true;
        }
        self.locals.touch(session, now);
        if op == OpCode::CloseSession {
            self.end_local(write);
            return true;
        }
        let Ok(request) = Request::decode(op, write.body) else { return false };
        let Some(at) = first_ephemeral(&request) else { return false };
        if !self.settings.modes.local_sessions_upgrading {
            self.refuse_ephemeral(write, &request, at);
            return true;
        }
        self.upgrade(write.client, session, now, wall);
        false
    }

    fn end_local(&mut self, write: &Write<'_>) {
        self.locals.end(write.session);
        self.attached.release(write.session);
        let zxid = self.prepared;
        let header = ReplyHeader { xid: write.xid, zxid, error: 0 };
        let outbox = &mut self.outboxes[usize::from(write.client.core)];
        response::put_header_only(&mut outbox.bytes, &header);
        self.push_last_reply(write, zxid, Then::Close);
    }

    /// Asks for the session's transaction, which makes it global; what it has asked for goes
    /// behind that.
    pub(super) fn upgrade(&mut self, client: Client, session: i64, now: Time, wall: WallMs) {
        let timeout_ms = self.locals.sessions.timeout_ms(session).expect("it is a local session");
        self.locals.upgrading.insert(session, None);
        if self.part.is_preparing() {
            self.make_global(client, session, timeout_ms, now, wall);
            return;
        }
        let body = &timeout_ms.to_be_bytes()[..];
        let op = OpCode::CreateSession;
        self.ask(&Write { client, session, xid: 0, op, body, ids: &[] });
    }

    /// The same on the leader.
    fn make_global(
        &mut self,
        client: Client,
        session: i64,
        timeout_ms: i32,
        now: Time,
        wall: WallMs,
    ) {
        let Some(zxid) = self.next_zxid(Room::SessionsOnly) else {
            // What it asked for finds no room either.
            self.locals.upgrading.remove(&session);
            return;
        };
        self.sessions.create(session, timeout_ms, Some(owner(client)), zxid, now);
        let header = TxnHeader { session, cxid: 0, zxid, time_ms: wall.0 };
        self.apply_alone(&header, &Txn::CreateSession { timeout_ms });
        self.locals.set_upgraded(session, zxid);
    }

    /// Goes on with an upgrade that another server was to lead; whether there is one.
    pub(super) fn lead_upgrade(
        &mut self,
        client: Client,
        session: i64,
        now: Time,
        wall: WallMs,
    ) -> bool {
        if self.locals.upgrading.get(&session) != Some(&None) {
            return false;
        }
        let timeout_ms = self.locals.sessions.timeout_ms(session).expect("it is among them");
        self.make_global(client, session, timeout_ms, now, wall);
        true
    }

    /// A local session may own no ephemerals, and may not become global either.
    fn refuse_ephemeral(&mut self, write: &Write<'_>, request: &Request<'_>, at: usize) {
        let (zxid, error) = (self.prepared, ErrorCode::EphemeralOnLocalSession);
        let Request::Multi(ops) = request else {
            return self.reply_error(write, zxid, error);
        };
        let outbox = &mut self.outboxes[usize::from(write.client.core)];
        response::put_reply(&mut outbox.bytes, write.xid, zxid, |out| {
            for index in 0..ops.len() {
                let error = match index.cmp(&at) {
                    std::cmp::Ordering::Less => ErrorCode::Ok,
                    std::cmp::Ordering::Equal => error,
                    std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency,
                };
                response::put_op_result(out, &OpResult::Error(error.raw()));
            }
            response::put_multi_end(out);
        });
        self.push_last_reply(write, zxid, Then::Serve);
    }

    /// A connection's requests were dropped: where its session's upgrade was among them, the
    /// session stays local.
    pub(super) fn keep_local(&mut self, session: i64) {
        if self.locals.upgrading.get(&session) == Some(&None)
            && !self.waiting.has_op(session, OpCode::CreateSession)
        {
            self.locals.upgrading.remove(&session);
        }
    }

    /// Ends local sessions that were not heard of for too long.
    pub(super) fn expire_locals(&mut self, now: Time) {
        for session in self.locals.sessions.poll_expired(now) {
            if self.locals.is_upgrading(session) {
                // The leader ends it.
                self.locals.sessions.handle_close_refused(session, now);
                continue;
            }
            self.stats.sessions_expired += 1;
            self.locals.end(session);
            if let Some(holder) = self.attached.holder(session) {
                self.close(holder);
            }
        }
    }
}

/// The first operation that creates an ephemeral node, by its place.
fn first_ephemeral(request: &Request<'_>) -> Option<usize> {
    let is_ephemeral = |create: &CreateRequest<'_>| {
        CreateMode::from_flags(create.flags).is_some_and(CreateMode::is_ephemeral)
    };
    match request {
        Request::Create(create) => is_ephemeral(create).then_some(0),
        Request::Multi(ops) => {
            ops.iter().position(|op| matches!(op, Op::Create(create) if is_ephemeral(create)))
        }
        _ => None,
    }
}

/// Whether a request needs a session that all servers know.
pub(super) fn needs_global(request: &Request<'_>) -> bool {
    first_ephemeral(request).is_some()
}
