//! What a client core does with each frame, and with each message of the pipeline.

use std::sync::Arc;

use crate::io::ring::Token;
use crate::pipeline::read::{Reads, may_read};
use crate::pipeline::{Client, Connect, Notice, Outbox, Reply, Then};
use crate::server::client::ClientCore;
use crate::server::connection::{Connection, Front, Pending, Phase, front};
use crate::server::message::{Item, ToClients};
use crate::tree::effects::Event;
use crate::wire::error::ErrorCode;
use crate::wire::opcode::OpCode;
use crate::wire::request::{self, ConnectRequest, Request, XID_PING};
use crate::wire::response::{self, ReplyHeader};
use crate::zxid::Zxid;

impl ClientCore {
    /// Takes a connection's first frame, or its four-letter word: how many bytes it was, or `None`
    /// when more must come.
    pub(super) fn greet(&mut self, token: Token, bytes: &[u8]) -> Option<usize> {
        if let Some(taken) = self.four_letter_word(token, bytes) {
            return taken;
        }
        match front(bytes, self.limits.frame_bytes_max) {
            Front::Partial => None,
            Front::Frame(payload, length) => {
                self.connect(token, payload);
                Some(length)
            }
            Front::Refused(length) => {
                self.stats.frames_refused += 1;
                let reason = format!("its first frame declares {length} bytes");
                self.close_loudly(token, &reason);
                Some(bytes.len())
            }
        }
    }

    fn connect(&mut self, token: Token, payload: &[u8]) {
        let Ok(request) = ConnectRequest::decode(payload) else {
            self.stats.frames_refused += 1;
            self.close_loudly(token, "its first frame is no connect request");
            return;
        };
        if request.last_zxid_seen > self.version.max(self.begun) {
            // Another server is further; here the client would see time run backward.
            self.stats.clients_ahead += 1;
            let reason = format!(
                "it has seen zxid {}, this server has {}",
                request.last_zxid_seen, self.version
            );
            self.close_loudly(token, &reason);
            return;
        }
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        connection.frames += 1;
        connection.partial_watched = false;
        connection.phase = Phase::Attaching;
        connection.session = request.session;
        connection.stats.received += 1;
        self.stats.packets_received += 1;
        self.stats.connect_requests += 1;
        self.batch.items.push(Item::Connect(Connect {
            client: Client { core: self.number, connection: token.0 },
            timeout_ms: request.timeout_ms,
            session: request.session,
            password: request.password.try_into().ok(),
            read_only: request.read_only,
        }));
    }

    /// Takes a request of an established session.
    pub(super) fn request(&mut self, token: Token, payload: &[u8]) {
        let Ok((header, body)) = request::decode_header(payload) else {
            self.stats.frames_refused += 1;
            self.close_loudly(token, "its request has no header");
            return;
        };
        self.touch(token);
        let Some(op) = header.operation() else {
            return self.refuse_operation(token, header.xid);
        };
        match op {
            OpCode::Auth => return self.authenticate(token, header.xid, body),
            OpCode::Sasl => return self.answer_sasl(token, header.xid, body),
            OpCode::CreateSession => return self.refuse_operation(token, header.xid),
            _ => {}
        }
        if self.lacks_scheme(token) {
            return self.demand_authentication(token, header.xid);
        }
        // A sync goes the way of writes: what was acknowledged to others on another core before it
        // was sent is here when its reply is.
        if op.is_write() || op == OpCode::Sync {
            if op != OpCode::CloseSession && self.refuses_write(token, header.xid, op) {
                return;
            }
            return self.pass_on(token, header.xid, op, body);
        }
        let now = self.now;
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if connection.pending.is_empty() {
            self.answer(token, header.xid, op, body, now);
        } else {
            let body = body.into();
            self.enqueue(token, Pending::Read { xid: header.xid, op, body, received: now });
        }
    }

    /// Notes that a connection's session was heard of.
    fn touch(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(token);
        }
    }

    /// An operation that is none: the answer is `Unimplemented` with the zxid -1, and the
    /// connection ends (`UnimplementedRequestProcessor.java`).
    fn refuse_operation(&mut self, token: Token, xid: i32) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.phase = Phase::Draining;
            self.enqueue(token, Pending::Refused { xid });
            self.answer_queued(token);
        }
    }

    /// Whether a connection has yet to show one of the schemes that are demanded.
    fn lacks_scheme(&mut self, token: Token) -> bool {
        let demanded = &self.limits.enforced_schemes;
        if demanded.is_empty() {
            return false;
        }
        let Some(connection) = self.connections.get_mut(token) else {
            return false;
        };
        !connection.ids.ids().iter().any(|id| demanded.contains(&id.scheme))
    }

    /// Ends the connection of a client that has not authenticated (`AuthenticationHelper.java`).
    fn demand_authentication(&mut self, token: Token, xid: i32) {
        if let Some(connection) = self.connections.get_mut(token) {
            let error = ErrorCode::SessionClosedRequireSaslAuth;
            response::put_error(&mut connection.out, xid, Zxid::ZERO, error);
            connection.phase = Phase::Draining;
            self.stats.auth_failed += 1;
            tracing::warn!("{}: a request before authenticating", connection.peer);
            self.mark_dirty(token);
        }
    }

    /// Refuses a write, or a sync, of a client that is served for reads only; whether it is one
    /// (`ReadOnlyRequestProcessor.java`).
    fn refuses_write(&mut self, token: Token, xid: i32, op: OpCode) -> bool {
        let (version, now) = (self.version, self.now);
        let connection = self.connections.get_mut(token);
        let Some(connection) = connection.filter(|it| it.is_read_only) else { return false };
        response::put_error(&mut connection.out, xid, version, ErrorCode::NotReadOnly);
        let latency_ms = count_reply(connection, op, xid, version, now, now);
        self.stats.count_reply(op, latency_ms);
        self.mark_dirty(token);
        true
    }

    /// Passes a write to the pipeline, at once and whatever else is on its way.
    fn pass_on(&mut self, token: Token, xid: i32, op: OpCode, body: &[u8]) {
        let Ok(large_bytes) = self.admission.overload.enter(body.len()) else {
            return self.reject_large(token);
        };
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(body);
        let body = start..self.batch.bytes.len();
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let (session, ids) = (connection.session, Arc::clone(&connection.shared_ids));
        let received = self.now;
        self.enqueue(token, Pending::Write { op, received, large_bytes });
        self.batch.items.push(Item::Write { connection: token, session, xid, op, body, ids });
    }

    /// The answer to an auth packet comes at once, before those of requests that are on their way.
    fn authenticate(&mut self, token: Token, xid: i32, body: &[u8]) {
        let decoded = Request::decode(OpCode::Auth, body);
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let outcome = match decoded {
            Ok(Request::Auth { scheme, auth }) => {
                connection.ids.handle_auth(&self.auth, scheme, auth)
            }
            _ => Err(ErrorCode::AuthFailed),
        };
        connection.shared_ids = connection.ids.ids().into();
        let error = outcome.err().unwrap_or(ErrorCode::Ok);
        response::put_error(&mut connection.out, xid, Zxid::ZERO, error);
        if error != ErrorCode::Ok {
            self.stats.auth_failed += 1;
            tracing::warn!("{}: authentication failed", connection.peer);
            connection.phase = Phase::Draining;
        }
        self.mark_dirty(token);
    }

    /// What a server without a SASL login answers: success, and no token
    /// (`ZooKeeperServer.processSasl`).
    fn answer_sasl(&mut self, token: Token, xid: i32, body: &[u8]) {
        let is_sasl = Request::decode(OpCode::Sasl, body).is_ok();
        if !is_sasl {
            self.close_loudly(token, "its sasl request is none");
        } else if let Some(connection) = self.connections.get_mut(token) {
            response::put_reply(&mut connection.out, xid, Zxid::ZERO, |out| {
                response::put_sasl_token(out, None);
            });
            self.mark_dirty(token);
        }
    }

    /// Answers a read at the version that the core serves.
    fn answer(
        &mut self,
        token: Token,
        xid: i32,
        op: OpCode,
        body: &[u8],
        received: crate::time::Time,
    ) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let version = self.version;
        let mut out = std::mem::take(&mut connection.out);
        if op == OpCode::Ping {
            let header = ReplyHeader { xid: XID_PING, zxid: version, error: 0 };
            response::put_header_only(&mut out, &header);
        } else {
            let view = self.tree.view(version);
            let mut reads = Reads {
                tree: &self.tree,
                view: &view,
                watches: &mut self.watches,
                watcher: super::watcher(token),
                session: connection.session,
                ids: connection.ids.ids(),
                auth: &self.auth,
                skip_acl: self.limits.skip_acl,
            };
            reads.put_reply((xid, version), op, body, &mut out);
        }
        connection.out = out;
        let latency_ms = count_reply(connection, op, xid, version, received, self.now);
        self.stats.count_reply(op, latency_ms);
        self.mark_dirty(token);
    }

    /// Takes what the pipeline has sent.
    pub fn deliver(&mut self) {
        while let Some(message) = self.links.from_pipeline.receive() {
            match message {
                ToClients::Published { through, mut outbox, events, emptied } => {
                    self.publish(through, &outbox, &events);
                    // Back to the pipeline with the next batch.
                    if outbox.bytes.capacity() > 0 {
                        outbox.clear();
                        self.batch.emptied = outbox;
                    }
                    if !emptied.is_nothing() {
                        self.emptied = emptied;
                    }
                }
                ToClients::Notice(notice) => self.take_notice(notice),
                ToClients::Begun { epoch } => self.begun = epoch,
                ToClients::Replaced { tree, version, shared } => {
                    self.replace_tree(tree, version, shared);
                }
                ToClients::Listen { listener } => self.moved_to = Some(listener),
                ToClients::Report { number, question } => {
                    self.begin_report(number, question);
                }
                ToClients::Reported { connection, chunks } => {
                    self.answer_word(connection, chunks);
                }
                ToClients::Stop { answers_come } => {
                    (self.stopping, self.answers_come) = (true, answers_come);
                }
            }
        }
        if !self.stalled.is_empty() && self.may_unstall() {
            for token in std::mem::take(&mut self.stalled) {
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.stalled = false;
                }
                self.unhold(token);
            }
        }
    }

    /// Moves to version `through`, telling events and replies on the way, zxid by zxid.
    fn publish(&mut self, through: Zxid, outbox: &Outbox, events: &[Event]) {
        let mut events = events.iter().peekable();
        let mut start = 0;
        for reply in &outbox.replies {
            while let Some(event) = events.next_if(|event| event.zxid <= reply.zxid) {
                self.fire(event);
            }
            self.serve_version(self.version.max(reply.zxid));
            self.reply(reply, &outbox.bytes[start..reply.end]);
            start = reply.end;
        }
        for event in events {
            self.fire(event);
        }
        self.serve_version(self.version.max(through));
    }

    /// Tells an event to those who watch for it and may read the node that it is about.
    fn fire(&mut self, event: &Event) {
        let mut watchers = std::mem::take(&mut self.fired);
        let kind = event.kind;
        let path = event.path();
        self.watches.trigger(kind, path, |watcher| watchers.push(watcher));
        if watchers.is_empty() {
            self.fired = watchers;
            return;
        }
        self.scratch.clear();
        response::put_event(&mut self.scratch, kind, event.zxid, path);
        let frame: Arc<[u8]> = Arc::from(&self.scratch[..]);
        for watcher in watchers.drain(..) {
            let token = super::token(watcher);
            let Some(connection) = self.connections.get_mut(token) else {
                continue;
            };
            let ids = connection.ids.ids();
            if !self.limits.skip_acl && !may_read(&self.tree, event.acl(), ids, &self.auth) {
                continue;
            }
            connection.tell(&frame);
            connection.stats.sent += 1;
            self.stats.count_event(frame.len() as u64);
            self.mark_told(token);
        }
        self.fired = watchers;
    }

    /// Appends a reply of the pipeline to its connection, and answers the reads behind it.
    fn reply(&mut self, reply: &Reply, frame: &[u8]) {
        let token = Token(reply.connection);
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if connection.is_drained() {
            // The session has ended in this very batch: what the client sent behind its end, or
            // before it heard of it, is not answered.
            return;
        }
        connection.out.extend_from_slice(frame);
        if reply.answers {
            let (op, received, large_bytes) = connection.complete_write();
            self.in_flight -= 1;
            self.admission.overload.leave(large_bytes);
            let latency_ms = count_reply(connection, op, reply.xid, reply.zxid, received, self.now);
            self.stats.count_reply(op, latency_ms);
        }
        self.mark_dirty(token);
        self.go_on(token, reply.then);
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { client, frame, then } => {
                let token = Token(client.connection);
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.out.extend_from_slice(&frame);
                    self.mark_dirty(token);
                    self.go_on(token, then);
                }
            }
            Notice::Close { client } => {
                self.close(Token(client.connection), "its session is elsewhere");
            }
            Notice::Replaced { .. } => unreachable!("the pipeline's core says it in another way"),
        }
    }

    /// What becomes of a connection after a reply.
    fn go_on(&mut self, token: Token, then: Then) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        match then {
            Then::Serve => self.answer_queued(token),
            Then::Begin { session, timeout_ms } | Then::BeginReadOnly { session, timeout_ms } => {
                connection.is_read_only = matches!(then, Then::BeginReadOnly { .. });
                connection.phase = Phase::Serving;
                connection.session = session;
                connection.timeout_ms = timeout_ms;
                connection.stats.sent += 1;
                self.stats.packets_sent += 1;
            }
            Then::Close => {
                connection.phase = Phase::Draining;
                let pending = std::mem::take(&mut connection.pending);
                self.forget_pending(&pending);
            }
        }
        self.unhold(token);
    }

    /// Answers what waited for the writes before it.
    fn answer_queued(&mut self, token: Token) {
        while let Some(connection) = self.connections.get_mut(token)
            && let Some(pending) =
                connection.pending.pop_front_if(|it| !matches!(it, Pending::Write { .. }))
        {
            self.in_flight -= 1;
            match pending {
                Pending::Write { .. } => unreachable!("a write stays until its reply comes"),
                Pending::Read { xid, op, body, received } => {
                    connection.pending_bytes -= body.len();
                    self.answer(token, xid, op, &body, received);
                }
                Pending::Refused { xid } => {
                    let zxid = Zxid::from_raw(-1);
                    response::put_error(&mut connection.out, xid, zxid, ErrorCode::Unimplemented);
                    self.mark_dirty(token);
                }
            }
        }
    }
}

/// Counts a reply on its connection; the latency in milliseconds.
fn count_reply(
    connection: &mut Connection,
    op: OpCode,
    xid: i32,
    zxid: Zxid,
    received: crate::time::Time,
    now: crate::time::Time,
) -> u64 {
    let latency = now.since(received);
    let latency_ms = latency.as_millis() as u64;
    let stats = &mut connection.stats;
    stats.sent += 1;
    stats.last_op = Some(op);
    if xid >= 0 {
        stats.last_xid = xid;
    }
    stats.last_zxid = zxid.raw();
    stats.last_response = Some(now);
    stats.last_latency_ms = latency_ms;
    stats.latency_ms.add(latency_ms);
    latency_ms
}
