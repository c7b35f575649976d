//! A learner's side: its clients' writes go to the leader, and come back as transactions.
//!
//! Sources: `FollowerRequestProcessor.java`, `CommitProcessor.java`, `Learner.java`. As there, the
//! session is checked by the leader; unlike there, a request that cannot be decoded is refused
//! here, since a Java leader would make it a transaction with a zxid that is taken.

use crate::pipeline::forward::{Attaching, Entry, State, ToLeader};
use crate::pipeline::{Connect, Notice, Part, Pipeline, Then, Write, session};
use crate::time::Time;
use crate::tree::TreeError;
use crate::tree::writer::Replay;
use crate::wire::error::{DecodeError, ErrorCode};
use crate::wire::jute::Write as _;
use crate::wire::opcode::OpCode;
use crate::wire::request::Request;
use crate::wire::response::{self, ConnectResponse, OpResult, ReplyHeader};
use crate::wire::txn::{self, Txn, TxnHeader};
use crate::zxid::Zxid;

/// Why a leader's transaction cannot be taken: this server's state is not the leader's, and it
/// must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    #[error("it cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("it says that it is {found}")]
    Zxid { found: Zxid },
    #[error("it does not fit the tree: {0}")]
    Tree(#[from] TreeError),
    #[error("the tree's digest after it is {found:#x}, the leader's is {expected:#x}")]
    Digest { expected: u64, found: u64 },
}

impl Pipeline {
    // ── From clients ──

    /// A connection of a learner asks for a session.
    pub(super) fn follow_connect(&mut self, connect: Connect, now: Time) {
        let timeout_ms = self.clamp(connect.timeout_ms);
        let attaching = Attaching { connect, timeout_ms, since: now };
        if connect.session == 0 {
            let session = self.sessions.next_id();
            self.waiting.attach(session, attaching);
            let body = &timeout_ms.to_be_bytes()[..];
            let client = connect.client;
            let op = OpCode::CreateSession;
            self.ask(&Write { client, session, xid: 0, op, body, ids: &[] });
            return;
        }
        let session = connect.session;
        if let Some(previous) = self.attached.holder(session) {
            self.close(previous);
        }
        self.stats.connections_revalidated += 1;
        let is_right = connect.password.is_some_and(|given| session::is_password(session, &given));
        if !is_right {
            return self.answer_connect(&attaching, session, false);
        }
        if let Some(previous) = self.waiting.attach(session, attaching) {
            self.notices.push_back(Notice::Close { client: previous });
        }
        if let Part::Following { .. } = self.part {
            self.waiting.revalidate(session, timeout_ms);
        }
    }

    /// A write of a learner's client, or its session's end.
    pub(super) fn follow_write(&mut self, write: &Write<'_>) {
        let Write { client, session, .. } = *write;
        if self.attached.holder(session) != Some(client) {
            // Its session has come back through another connection of this server.
            return self.close(client);
        }
        self.attached.touch(session);
        let is_readable =
            write.op == OpCode::CloseSession || Request::decode(write.op, write.body).is_ok();
        if !is_readable {
            return self.reply_error(write, self.prepared, ErrorCode::MarshallingError);
        }
        if !self.waiting.has_room(write.body.len()) {
            self.stats.connections_given_up += 1;
            return self.close(client);
        }
        self.ask(write);
    }

    /// Keeps a request for the leader, and passes it on where there is one.
    pub(super) fn ask(&mut self, write: &Write<'_>) {
        self.waiting.ask(write);
        if let Part::Following { epoch } = self.part {
            self.stats.forwarded += 1;
            self.waiting.send(write.session, epoch);
        }
    }

    /// What goes to the leader next; to be drained after whatever goes in.
    pub fn poll_to_leader(&mut self) -> Option<ToLeader> {
        self.waiting.poll_to_leader()
    }

    /// The sessions of this server's clients that were heard of since the last call, with their
    /// timeouts in milliseconds: what the answer to a leader's PING tells.
    pub fn take_touched(&mut self) -> Vec<(i64, i32)> {
        let mut touched = self.attached.take_touched();
        touched.retain(|(session, _)| !self.locals.is_local(*session));
        touched
    }

    /// Sessions of an observer's clients, with their timeouts in milliseconds: the next answer to
    /// the leader tells of them, too.
    pub fn handle_passed_on(&mut self, sessions: &[(i64, i32)]) {
        self.attached.pass_on(sessions);
    }

    // ── From the leader ──

    /// Applies a transaction that the leader has proposed, and gets the reply ready where it was a
    /// client of this server that asked for it.
    ///
    /// # Errors
    /// This server's state differs from the leader's: it must not go on.
    pub fn handle_proposal(
        &mut self,
        zxid: Zxid,
        txn: &[u8],
        now: Time,
    ) -> Result<(), ProposalError> {
        assert!(!self.part.is_preparing(), "only a learner takes another server's proposals");
        let logged = txn::decode(txn)?;
        let header = logged.header;
        if header.zxid != zxid {
            return Err(ProposalError::Zxid { found: header.zxid });
        }
        self.writer.set_now(now);
        let asked = self.waiting.find(&logged);
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        self.writer.begin(&header)?;
        if let Err(error) = self.apply_proposed(&logged.txn, asked.map(|_| &mut body)) {
            self.writer.abort();
            return Err(error.into());
        }
        self.writer.finish_into(&mut self.events);
        self.prepared = zxid;
        self.stats.txns += 1;
        let found = self.writer.digest();
        if let Some(expected) = logged.digest
            && expected != found
            && self.settings.digest
            && self.writer.replay() == Replay::Exact
        {
            return Err(ProposalError::Digest { expected, found });
        }
        self.note_digest(zxid);
        if let Txn::CreateSession { timeout_ms } = logged.txn {
            self.sessions.create(header.session, timeout_ms, None, zxid, now);
            self.locals.set_upgraded(header.session, zxid);
        }
        let asker = asked.map(|index| self.waiting.entry(header.session, index).client);
        if let Some(index) = asked {
            self.answer_asked(index, &header, &logged.txn, &body);
        }
        if let Txn::CloseSession { .. } = logged.txn {
            self.sessions.close(header.session, zxid);
            self.locals.end(header.session);
            let holder = self.attached.holder(header.session);
            self.attached.release(header.session);
            // Whoever asked for it has its answer. Anybody else is answered nothing more, whether
            // this end is committed by this leader or by a later one.
            if let Some(holder) = holder.filter(|_| holder != asker) {
                self.close(holder);
            }
        }
        self.scratch = body;
        Ok(())
    }

    fn apply_proposed(
        &mut self,
        change: &Txn<'_>,
        mut body: Option<&mut Vec<u8>>,
    ) -> Result<(), TreeError> {
        let Txn::Multi(changes) = change else {
            self.writer.apply_op(change)?;
            if let Some(body) = body {
                self.put_result(change, body);
            }
            return Ok(());
        };
        // One that failed is logged with its errors, and changes nothing.
        let has_failed = changes.iter().any(|change| matches!(change, Txn::Error { .. }));
        let mut before_failure = true;
        for change in changes {
            if !has_failed {
                self.writer.apply_op(change)?;
            }
            let Some(body) = body.as_deref_mut() else { continue };
            let error = match change {
                Txn::Error { code } => {
                    before_failure = false;
                    *code
                }
                change if !has_failed => {
                    self.put_multi_result(change, body);
                    continue;
                }
                _ if before_failure => ErrorCode::Ok.raw(),
                _ => ErrorCode::RuntimeInconsistency.raw(),
            };
            response::put_op_result(body, &OpResult::Error(error));
        }
        if let Some(body) = body {
            response::put_multi_end(body);
        }
        Ok(())
    }

    /// The transaction answers a request of a client of this server, at this place of its session's
    /// queue.
    fn answer_asked(&mut self, index: usize, header: &TxnHeader, change: &Txn<'_>, body: &[u8]) {
        let TxnHeader { session, zxid, .. } = *header;
        let &Entry { client, xid, op, .. } = self.waiting.entry(session, index);
        let moved = ErrorCode::SessionMoved.raw();
        let is_moved = |change: &Txn<'_>| matches!(change, Txn::Error { code } if *code == moved);
        let has_moved = match change {
            Txn::Multi(changes) => changes.iter().any(is_moved),
            change => is_moved(change),
        };
        let mut frame = Vec::new();
        let then = match (change, op) {
            (Txn::CreateSession { .. }, _) if self.locals.is_upgrading(session) => {
                self.waiting.remove(session, index);
                return self.release_done(session);
            }
            (Txn::CreateSession { .. }, _) => {
                let attaching = self.waiting.pop_attaching(session);
                attaching.map(|attaching| self.begin_attached(session, &attaching, &mut frame))
            }
            _ if has_moved || op == OpCode::CreateSession => None,
            (Txn::Error { code }, _) => {
                response::put_header_only(&mut frame, &ReplyHeader { xid, zxid, error: *code });
                Some(Then::Serve)
            }
            _ => {
                let start = response::begin_frame(&mut frame);
                ReplyHeader { xid, zxid, error: 0 }.encode(&mut frame);
                if let (OpCode::Reconfig, Txn::SetData { data, .. }) = (op, change) {
                    frame.put_buffer(*data);
                }
                frame.extend_from_slice(body);
                response::finish_frame(&mut frame, start);
                Some(if op == OpCode::CloseSession { Then::Close } else { Then::Serve })
            }
        };
        match then {
            Some(then) if index == 0 => {
                self.waiting.remove(session, index);
                self.push_frame(client, xid, &frame, then);
            }
            Some(then) => {
                self.waiting.set_done(session, index, State::Done { zxid, frame, then });
            }
            None => {
                // The outcome is that there is nobody to tell: a connection that lost its session
                // to another one must not take the error for its session's.
                self.waiting.remove(session, index);
                self.close(client);
            }
        }
        self.release_done(session);
    }

    /// Lets out the answers at the front of a session's queue.
    pub(super) fn release_done(&mut self, session: i64) {
        while let Some(Entry { client, xid, state, .. }) = self.waiting.pop_done(session) {
            if let State::Done { frame, then, .. } = state {
                self.push_frame(client, xid, &frame, then);
            }
        }
    }

    /// The leader has answered the oldest sync that was passed on.
    pub fn handle_synced(&mut self) {
        if let Some((session, order)) = self.waiting.pop_sync() {
            self.answer_sync(session, order);
        }
    }

    /// The answer to the sync with that order is ready: everything that was committed when it was
    /// asked is here.
    pub(super) fn answer_sync(&mut self, session: i64, order: u64) {
        let Some(index) = self.waiting.position(session, order) else { return };
        let &Entry { xid, op, ref state, .. } = self.waiting.entry(session, index);
        let State::Asked { request, .. } = state else { return };
        let Ok(Request::Sync { path }) = Request::decode(op, &request.body) else {
            unreachable!("what cannot be read is not passed on");
        };
        let zxid = self.prepared;
        let mut frame = Vec::new();
        response::put_reply(&mut frame, xid, zxid, |out| response::put_path(out, path));
        let then = Then::Serve;
        self.waiting.set_done(session, index, State::Done { zxid, frame, then });
        self.release_done(session);
        if let Part::Following { epoch } = self.part {
            self.waiting.send(session, epoch);
        }
    }

    /// The leader says whether a session may go on through this server.
    pub fn handle_revalidated(&mut self, session: i64, is_valid: bool, _now: Time) {
        // One that has asked again meanwhile has taken the place of the first.
        if let Some(attaching) = self.waiting.pop_attaching(session) {
            self.answer_connect(&attaching, session, is_valid);
        }
    }

    /// Answers a connection that has asked for its old session.
    fn answer_connect(&mut self, attaching: &Attaching, session: i64, is_valid: bool) {
        let client = attaching.connect.client;
        let mut frame = Vec::new();
        let then = match is_valid {
            true => self.begin_attached(session, attaching, &mut frame),
            false => {
                let read_only = attaching.connect.read_only.map(|_| false);
                ConnectResponse::refused(read_only).encode(&mut frame);
                Then::Close
            }
        };
        self.notices.push_back(Notice::Connected { client, frame, then });
    }

    /// The connection has its session; appends what it is told.
    fn begin_attached(&mut self, session: i64, attaching: &Attaching, frame: &mut Vec<u8>) -> Then {
        let &Attaching { connect, timeout_ms, .. } = attaching;
        self.attached.insert(connect.client, session, timeout_ms);
        let response = ConnectResponse {
            timeout_ms,
            session,
            password: session::password(session),
            read_only: connect.read_only.map(|_| false),
        };
        response.encode(frame);
        Then::Begin { session, timeout_ms }
    }
}
