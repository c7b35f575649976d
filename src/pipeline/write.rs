//! Writes: each takes the next zxid, becomes a transaction, and gets its reply ready.

use crate::pipeline::forward::Attaching;
use crate::pipeline::prepare::{Asker, Checks};
use crate::pipeline::reconfig::CONFIG_PATH;
use crate::pipeline::session::Owner;
use crate::pipeline::{
    Client, Connect, DIGEST_INTERVAL, DIGESTS_MAX, Notice, Outbox, Part, Pipeline, Reply, Room,
    Settings, Then, Write, session,
};
use crate::time::{Time, WallMs};
use crate::tree::writer::Replay;
use crate::wire::error::ErrorCode;
use crate::wire::jute::Write as _;
use crate::wire::opcode::OpCode;
use crate::wire::request::{Op, Request};
use crate::wire::response::{self, ConnectResponse, OpResult, ReplyHeader};
use crate::wire::txn::{self, Txn, TxnHeader};
use crate::zxid::Zxid;

type Result<T> = std::result::Result<T, ErrorCode>;

/// Where a reply in the making begins, to be cut off again when the operation fails.
#[derive(Clone, Copy)]
struct Marks {
    txn: usize,
    body: usize,
}

impl Pipeline {
    /// A connection asks for a new session or for its old one.
    ///
    /// A new session is a transaction, so the answer comes when it is committed; so does that of a
    /// learner, which asks its leader. The others come as a notice, at once
    /// (`ZooKeeperServer.processConnectRequest`, `reopenSession`).
    pub fn handle_connect(&mut self, connect: Connect, now: Time, wall: WallMs) {
        match connect.session {
            _ if self.takes_connect(connect, now) => {}
            _ if !self.part.is_preparing() => self.follow_connect(connect, now),
            0 => {
                let timeout_ms = self.clamp(connect.timeout_ms);
                let session = self.sessions.next_id();
                let attaching = Attaching { connect, timeout_ms, since: now };
                self.begin_session(session, &attaching, now, wall);
            }
            session => self.reopen_session(connect, session, now),
        }
    }

    pub(super) fn begin_session(
        &mut self,
        session: i64,
        attaching: &Attaching,
        now: Time,
        wall: WallMs,
    ) {
        let &Attaching { connect, timeout_ms, .. } = attaching;
        let Some(zxid) = self.next_zxid(Room::SessionsOnly) else {
            self.notices.push_back(Notice::Close { client: connect.client });
            return;
        };
        let header = TxnHeader { session, cxid: 0, zxid, time_ms: wall.0 };
        self.sessions.create(session, timeout_ms, Some(owner(connect.client)), zxid, now);
        self.attached.insert(connect.client, session, timeout_ms);
        self.apply_alone(&header, &Txn::CreateSession { timeout_ms });
        let response = ConnectResponse {
            timeout_ms,
            session,
            password: session::password(session),
            read_only: connect.read_only.map(|_| false),
        };
        let outbox = &mut self.outboxes[usize::from(connect.client.core)];
        response.encode(&mut outbox.bytes);
        outbox.push(connect.client, 0, zxid, Then::Begin { session, timeout_ms }, false);
    }

    pub(super) fn clamp(&self, timeout_ms: i32) -> i32 {
        let Settings { session_timeout_ms_min: min, session_timeout_ms_max: max, .. } =
            self.settings;
        timeout_ms.max(min).min(max)
    }

    pub(super) fn reopen_session(&mut self, connect: Connect, session: i64, now: Time) {
        // Whoever holds the session's connection loses it before the password is looked at, as
        // Apache does it.
        if let Some(previous) = self.attached.holder(session)
            && previous != connect.client
        {
            self.close(previous);
        }
        self.stats.connections_revalidated += 1;
        let timeout_ms = self.clamp(connect.timeout_ms);
        let password = connect.password.unwrap_or_default();
        let owner = owner(connect.client);
        let is_right = self.sessions.reopen(session, &password, timeout_ms, owner, now);
        let read_only = connect.read_only.map(|_| false);
        let (response, then) = match is_right {
            true => {
                self.attached.insert(connect.client, session, timeout_ms);
                let response = ConnectResponse { timeout_ms, session, password, read_only };
                (response, Then::Begin { session, timeout_ms })
            }
            false => (ConnectResponse::refused(read_only), Then::Close),
        };
        let mut frame = Vec::new();
        response.encode(&mut frame);
        self.notices.push_back(Notice::Connected { client: connect.client, frame, then });
    }

    /// A write of a client, or its session's end.
    pub fn handle_write(&mut self, write: &Write<'_>, now: Time, wall: WallMs) {
        if self.attached.is_cut(write.client) {
            // Something before it was not done.
            self.notices.push_back(Notice::Close { client: write.client });
            return;
        }
        match self.part.is_preparing() {
            true if self.waiting.is_held(write.session, write.op) => self.hold_write(write, now),
            _ if self.takes_write(write, now, wall) => {}
            true => self.prepare_own(write, now, wall),
            false => self.follow_write(write),
        }
    }

    /// Keeps a write of a leader's client until a sync before it is answered.
    fn hold_write(&mut self, write: &Write<'_>, now: Time) {
        self.sessions.touch(write.session, now);
        match self.waiting.has_room(write.body.len()) {
            true => drop(self.waiting.ask(write)),
            false => self.close(write.client),
        }
    }

    fn prepare_own(&mut self, write: &Write<'_>, now: Time, wall: WallMs) {
        self.writer.set_now(now);
        // One that is becoming global is not yet known to all.
        let is_local =
            self.locals.contains(write.session) && !self.sessions.contains(write.session);
        let sessions = match is_local {
            true => self.locals.sessions_mut(),
            false => &mut self.sessions,
        };
        match sessions.hear(write.session, owner(write.client), now) {
            Ok(()) => {}
            // The client has gone to another connection: this one ends without an answer, so that
            // it cannot take the error for its session's.
            Err(ErrorCode::SessionMoved) => return self.close(write.client),
            Err(error) => return self.reply_error(write, self.prepared, error),
        }
        if write.op == OpCode::CloseSession {
            if !self.end_session(write.session, write.xid, Some(write.client), wall) {
                self.close(write.client);
            }
            return;
        }
        let Ok(request) = Request::decode(write.op, write.body) else {
            return self.reply_error(write, self.prepared, ErrorCode::MarshallingError);
        };
        if let Request::Reconfig(_) = request
            && self.part == Part::Alone
        {
            return self.reply_error(write, self.prepared, self.reconfig_error());
        }
        if let Request::Sync { path } = request {
            return match self.part {
                Part::Alone => self.reply_sync(write, path),
                _ => self.lead_sync(write),
            };
        }
        let Some(zxid) = self.next_zxid(Room::Plenty) else {
            self.stats.refused_no_room += 1;
            return self.reply_error(write, self.prepared, ErrorCode::SystemError);
        };
        let header = TxnHeader { session: write.session, cxid: write.xid, zxid, time_ms: wall.0 };
        let core = usize::from(write.client.core);
        let mut reply = std::mem::take(&mut self.outboxes[core].bytes);
        let asker = Asker { session: write.session, ids: write.ids };
        self.apply_request(&header, write.op, asker, request, &mut reply);
        self.outboxes[core].bytes = reply;
        self.push_reply(write, zxid);
    }

    /// A server on its own has no members to change.
    fn reconfig_error(&self) -> ErrorCode {
        match self.settings.reconfig {
            true => ErrorCode::Unimplemented,
            false => ErrorCode::ReconfigDisabled,
        }
    }

    /// The next zxid, where the log has the room that `needed` asks for.
    pub(super) fn next_zxid(&mut self, needed: Room) -> Option<Zxid> {
        match (self.room, needed) {
            (Room::Plenty, _) | (Room::SessionsOnly, Room::SessionsOnly) => {}
            _ => return None,
        }
        let last = self.prepared.max(self.epoch_start);
        let zxid = last.next().expect("an epoch is changed before its counter runs out");
        self.prepared = zxid;
        self.stats.txns += 1;
        Some(zxid)
    }

    /// Applies what a client asked for and appends its reply, or the error's.
    pub(super) fn apply_request(
        &mut self,
        header: &TxnHeader,
        op: OpCode,
        asker: Asker<'_>,
        request: Request<'_>,
        reply: &mut Vec<u8>,
    ) {
        let mut txn = std::mem::take(&mut self.txns.bytes);
        let (xid, zxid) = (header.cxid, header.zxid);
        let frame = response::begin_frame(reply);
        ReplyHeader { xid, zxid, error: 0 }.encode(reply);
        let marks = Marks { txn: txn.len(), body: reply.len() };
        self.begin(header);
        txn::encode_header(header, op, &mut txn);
        let outcome = match request {
            Request::Multi(ops) => {
                self.apply_multi(header, asker, ops, &mut txn, reply, marks);
                Ok(())
            }
            request => self.apply_single(asker, request, &mut txn, reply),
        };
        if let Err(error) = outcome {
            self.stats.errors += 1;
            self.writer.abort();
            self.begin(header);
            txn.truncate(marks.txn);
            txn::encode_header(header, OpCode::Error, &mut txn);
            Txn::Error { code: error.raw() }.encode_record(&mut txn);
            reply.truncate(marks.body - ReplyHeader::SIZE);
            ReplyHeader { xid, zxid, error: error.raw() }.encode(reply);
        }
        self.writer.finish_into(&mut self.events);
        response::finish_frame(reply, frame);
        self.txns.bytes = txn;
        self.end_txn(zxid, true);
    }

    fn begin(&mut self, header: &TxnHeader) {
        self.writer.begin(header).expect("each transaction is newer than the one before it");
    }

    /// Ends the encoded transaction, mostly with the digest of the tree after it.
    fn end_txn(&mut self, zxid: Zxid, with_digest: bool) {
        if self.settings.digest && with_digest {
            txn::encode_digest(self.writer.digest(), &mut self.txns.bytes);
        }
        self.txns.ends.push((zxid, self.txns.bytes.len()));
        self.note_digest(zxid);
    }

    /// Keeps the tree's digest after every [`DIGEST_INTERVAL`]th transaction, and in an ensemble
    /// until that is committed. A tree that holds parts of later transactions has none that others
    /// have (`DataTree.processTxn` does not record it either).
    pub(super) fn note_digest(&mut self, zxid: Zxid) {
        if self.part != Part::Alone {
            self.uncommitted_digests.push_back((zxid, self.writer.digest()));
        }
        let is_exact = self.writer.replay() == Replay::Exact;
        if is_exact && zxid.counter().is_multiple_of(DIGEST_INTERVAL) {
            if self.digests.len() == DIGESTS_MAX {
                self.digests.pop_front();
            }
            self.digests.push_back((zxid, self.writer.digest()));
        }
    }

    /// Any write but a multi: appends the record to `txn` and the reply's body to `body`.
    fn apply_single(
        &mut self,
        asker: Asker<'_>,
        request: Request<'_>,
        txn: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<()> {
        let mut checks = self.checks(asker);
        match request {
            Request::Create(create) => {
                let checked = checks.create(&create)?;
                self.apply(&checked.txn(), txn, body);
            }
            Request::Delete { path, version } => {
                checks.delete(path, version)?;
                self.apply(&Txn::Delete { path, by_reaper: false }, txn, body);
            }
            Request::DeleteContainer { path } => {
                checks.delete_container(path)?;
                self.apply(&Txn::Delete { path, by_reaper: true }, txn, body);
            }
            Request::SetData { path, data, version } => {
                let version = checks.set_data(path, data, version)?;
                self.apply(&Txn::SetData { path, data, version }, txn, body);
            }
            Request::SetAcl { path, acl, version } => {
                let (acl, version) = checks.set_acl(path, acl, version)?;
                self.apply(&Txn::SetAcl { path, acl, version }, txn, body);
            }
            Request::Reconfig(request) => {
                let text = self.check_reconfig(asker, &request)?;
                let data = Some(text.as_bytes());
                body.put_buffer(data);
                let change = Txn::SetData { path: CONFIG_PATH, data, version: -1 };
                self.apply(&change, txn, body);
            }
            _ => return Err(ErrorCode::Unimplemented),
        }
        Ok(())
    }

    pub(super) fn checks<'w>(&'w mut self, asker: Asker<'w>) -> Checks<'w> {
        Checks { writer: &mut self.writer, settings: &self.settings, asker }
    }

    fn apply(&mut self, change: &Txn<'_>, txn: &mut Vec<u8>, body: &mut Vec<u8>) {
        change.encode_record(txn);
        self.apply_checked(change);
        self.put_result(change, body);
    }

    fn apply_checked(&mut self, change: &Txn<'_>) {
        self.writer
            .apply_op(change)
            .expect("what was checked against the newest state applies to it");
    }

    /// Appends what the reply to a request says of the change that was just applied for it.
    pub(super) fn put_result(&self, change: &Txn<'_>, body: &mut Vec<u8>) {
        match change {
            Txn::Create(create) => {
                body.put_string(create.path);
                if change.op() != OpCode::Create {
                    self.stat_of(create.path).encode(body);
                }
            }
            Txn::SetData { path, .. } | Txn::SetAcl { path, .. } => {
                self.stat_of(path).encode(body);
            }
            _ => {}
        }
    }

    /// The same for one change of a multi.
    pub(super) fn put_multi_result(&self, change: &Txn<'_>, body: &mut Vec<u8>) {
        match change {
            Txn::Create(create) => {
                let path = create.path;
                let stat = self.stat_of(path);
                let result = match change.op() {
                    OpCode::Create => OpResult::Created { path },
                    _ => OpResult::CreatedWithStat { path, stat: &stat },
                };
                response::put_op_result(body, &result);
            }
            Txn::SetData { path, .. } => {
                let stat = self.stat_of(path);
                response::put_op_result(body, &OpResult::DataSet { stat: &stat });
            }
            Txn::CheckVersion { .. } => response::put_op_result(body, &OpResult::Checked),
            _ => response::put_op_result(body, &OpResult::Deleted),
        }
    }

    fn stat_of(&self, path: &str) -> crate::wire::stat::Stat {
        self.writer.node(path).expect("the node was just written").stat()
    }

    /// All of `ops` or none, under one zxid.
    ///
    /// The transaction of a failed multi keeps what came before the failure and marks the rest as
    /// errors, as Apache's does; who applies it sees the error and changes nothing.
    fn apply_multi(
        &mut self,
        header: &TxnHeader,
        asker: Asker<'_>,
        ops: Vec<Op<'_>>,
        txn: &mut Vec<u8>,
        body: &mut Vec<u8>,
        marks: Marks,
    ) {
        txn.put_length(ops.len());
        let mut failed_at = None;
        for (index, op) in ops.iter().enumerate() {
            let outcome = match failed_at {
                // Each `auth` in a list may stand for many identities: a small multi can ask for a
                // transaction that no peer takes.
                None if txn.len() - marks.txn > self.settings.txn_bytes_max => {
                    Err(ErrorCode::BadArguments)
                }
                None => self.apply_in_multi(asker, op, txn, body),
                Some(_) => Err(ErrorCode::RuntimeInconsistency),
            };
            if let Err(error) = outcome {
                Txn::Error { code: error.raw() }.encode_in_multi(txn);
                failed_at.get_or_insert((index, error));
            }
        }
        if let Some((failed_at, error)) = failed_at {
            self.stats.errors += 1;
            self.writer.abort();
            self.begin(header);
            body.truncate(marks.body);
            for index in 0..ops.len() {
                let error = match index.cmp(&failed_at) {
                    std::cmp::Ordering::Less => ErrorCode::Ok,
                    std::cmp::Ordering::Equal => error,
                    std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency,
                };
                response::put_op_result(body, &OpResult::Error(error.raw()));
            }
        }
        response::put_multi_end(body);
    }

    fn apply_in_multi(
        &mut self,
        asker: Asker<'_>,
        op: &Op<'_>,
        txn: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<()> {
        let mut checks = Checks { writer: &mut self.writer, settings: &self.settings, asker };
        let checked;
        let change = match op {
            Op::Create(create) => {
                checked = checks.create(create)?;
                checked.txn()
            }
            Op::Delete { path, version } => {
                checks.delete(path, *version)?;
                Txn::Delete { path, by_reaper: false }
            }
            Op::SetData { path, data, version } => {
                let version = checks.set_data(path, *data, *version)?;
                Txn::SetData { path, data: *data, version }
            }
            Op::Check { path, version } => {
                let version = checks.check(path, *version)?;
                Txn::CheckVersion { path, version }
            }
        };
        change.encode_in_multi(txn);
        self.apply_checked(&change);
        self.put_multi_result(&change, body);
        Ok(())
    }

    /// Ends a session and deletes its ephemerals, in one transaction; whether the log took it.
    ///
    /// `asker` is the connection that asked and gets the answer, when it is committed; without one
    /// (the session has expired) the connection that has the session is closed at once.
    pub(super) fn end_session(
        &mut self,
        session: i64,
        cxid: i32,
        asker: Option<Client>,
        wall: WallMs,
    ) -> bool {
        let Some(zxid) = self.next_zxid(Room::SessionsOnly) else {
            return false;
        };
        let header = TxnHeader { session, cxid, zxid, time_ms: wall.0 };
        let owned = self.writer.tree().view(Zxid::MAX).ephemerals(session);
        let paths: Vec<&str> = owned.iter().collect();
        // A list that is missing says "all that it owns" to whoever replays it, and one that is
        // longer than a peer would take must be missing.
        let size = 4 + paths.iter().map(|path| 4 + path.len()).sum::<usize>();
        let is_listed = self.settings.close_session_txn && size <= self.settings.txn_bytes_max;
        let change = Txn::CloseSession { paths: is_listed.then_some(paths) };
        self.apply_alone(&header, &change);
        if self.sessions.close(session, zxid) && self.settings.modes.local_sessions {
            self.leadership.note_ended(session);
        }
        self.locals.end(session);
        let holder = self.attached.holder(session);
        self.attached.release(session);
        match (asker, holder) {
            (Some(asker), _) => {
                let outbox = &mut self.outboxes[usize::from(asker.core)];
                let header = ReplyHeader { xid: cxid, zxid, error: 0 };
                response::put_header_only(&mut outbox.bytes, &header);
                outbox.push(asker, cxid, zxid, Then::Close, true);
                self.hold_back(asker, session, OpCode::CloseSession);
            }
            // A later leader may commit this end without another word to this server: a client that
            // goes on being answered would believe that it has its locks.
            (None, Some(holder)) => self.close(holder),
            (None, None) => {}
        }
        true
    }

    /// Deletes a container or TTL node that has had its time, if it still may be deleted.
    pub(super) fn reap(&mut self, path: &str, wall: WallMs) {
        let asker = Asker { session: 0, ids: &[] };
        let mut checks = Checks { writer: &mut self.writer, settings: &self.settings, asker };
        if checks.delete_container(path).is_err() {
            return;
        }
        let Some(zxid) = self.next_zxid(Room::Plenty) else {
            return;
        };
        let header = TxnHeader { session: 0, cxid: 0, zxid, time_ms: wall.0 };
        self.apply_alone(&header, &Txn::Delete { path, by_reaper: true });
    }

    /// Applies and encodes a transaction that no connection waits for, or that cannot fail.
    pub(super) fn apply_alone(&mut self, header: &TxnHeader, change: &Txn<'_>) {
        self.begin(header);
        self.apply_checked(change);
        self.writer.finish_into(&mut self.events);
        txn::encode(header, change, None, &mut self.txns.bytes);
        // A server that expects a list takes a digest for one; where nothing follows, it knows
        // that there is no list (`SerializeUtils.deserializeTxn`).
        let is_unlisted = matches!(change, Txn::CloseSession { paths: None });
        self.end_txn(header.zxid, !is_unlisted || !self.settings.close_session_txn);
    }

    /// A sync is no transaction, and takes no room: its reply waits for the writes before it.
    fn reply_sync(&mut self, write: &Write<'_>, path: &str) {
        let zxid = self.prepared;
        let outbox = &mut self.outboxes[usize::from(write.client.core)];
        response::put_reply(&mut outbox.bytes, write.xid, zxid, |out| {
            response::put_path(out, path);
        });
        self.push_reply(write, zxid);
    }

    pub(super) fn reply_error(&mut self, write: &Write<'_>, zxid: Zxid, error: ErrorCode) {
        let outbox = &mut self.outboxes[usize::from(write.client.core)];
        response::put_error(&mut outbox.bytes, write.xid, zxid, error);
        self.push_reply(write, zxid);
    }

    /// Adds the reply whose frame was appended to the outbox; it is held back behind what the
    /// session waits for.
    fn push_reply(&mut self, write: &Write<'_>, zxid: Zxid) {
        self.push_last_reply(write, zxid, Then::Serve);
    }

    /// The same, with what becomes of the connection.
    pub(super) fn push_last_reply(&mut self, write: &Write<'_>, zxid: Zxid, then: Then) {
        let outbox = &mut self.outboxes[usize::from(write.client.core)];
        outbox.push(write.client, write.xid, zxid, then, true);
        if !self.waiting.is_empty() {
            self.hold_back(write.client, write.session, write.op);
        }
    }

    /// Takes the newest reply out of the outbox again where something of its session waits.
    fn hold_back(&mut self, client: Client, session: i64, op: OpCode) {
        if !self.waiting.has(session) {
            return;
        }
        let outbox = &mut self.outboxes[usize::from(client.core)];
        let reply = outbox.replies.pop().expect("it was just pushed");
        let start = outbox.replies.last().map_or(0, |before| before.end);
        let frame = outbox.bytes.split_off(start);
        let write = Write { client, session, xid: reply.xid, op, body: &[], ids: &[] };
        self.waiting.hold(&write, reply.zxid, frame, reply.then);
    }

    /// Adds a reply that is ready, behind everything prepared so far.
    pub(super) fn push_frame(&mut self, client: Client, xid: i32, frame: &[u8], then: Then) {
        if self.attached.is_cut(client) {
            // Something before it may be missing.
            return;
        }
        let zxid = self.prepared;
        let answers = !matches!(then, Then::Begin { .. });
        let outbox = &mut self.outboxes[usize::from(client.core)];
        let start = outbox.bytes.len();
        outbox.bytes.extend_from_slice(frame);
        if answers {
            // Where it was held back, the client may have been told of more than its transaction:
            // it must not take an older server for one that is up to date.
            ReplyHeader::set_zxid(&mut outbox.bytes[start..], zxid);
        }
        outbox.push(client, xid, zxid, then, answers);
    }
}

impl Outbox {
    /// Adds the reply whose frame was appended to the bytes.
    fn push(&mut self, client: Client, xid: i32, zxid: Zxid, then: Then, answers: bool) {
        let (connection, end) = (client.connection, self.bytes.len());
        self.replies.push(Reply { connection, xid, zxid, end, then, answers });
    }
}

pub(super) fn owner(client: Client) -> Owner {
    Owner::Connection { core: client.core, connection: client.connection }
}
