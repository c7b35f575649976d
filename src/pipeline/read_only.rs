//! Read-only mode: a member that has had no leader for a while serves reads to clients that take
//! that (`readonlymode.enabled`; `ReadOnlyZooKeeperServer.java`).
//!
//! Those clients' sessions are known to nobody else, and they are all disconnected when there is a
//! leader. Connections from before stay what they are: their writes wait for a leader, until each
//! client must learn that it may have lost what it holds. What is read is the version that was
//! shown last; a client's core answers, and refuses the writes itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::pipeline::forward::Attaching;
use crate::pipeline::{Client, Connect, Notice, Part, Pipeline, Then, Write};
use crate::time::Time;
use crate::wire::opcode::OpCode;
use crate::wire::response::{self, ReplyHeader};

/// For how long there must have been no leader, if a tick is not longer (`QuorumPeer.java`).
const GRACE: Duration = Duration::from_secs(2);

/// Who is served for reads only.
#[derive(Debug, Default)]
pub(super) struct ReadOnly {
    is_on: bool,
    /// Whether this server must not show what it has.
    is_hidden: bool,
    clients: BTreeSet<Client>,
    /// The sessions that began so, and end so.
    sessions: BTreeSet<i64>,
}

impl ReadOnly {
    /// The connection is closed.
    pub fn forget(&mut self, client: Client) {
        self.clients.remove(&client);
    }

    /// Whether the connection is served for reads only.
    pub fn contains(&self, client: Client) -> bool {
        self.clients.contains(&client)
    }
}

impl Pipeline {
    /// Whether this server has no leader and serves reads.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_on
    }

    /// This server's state is not whole, or is again: without a leader it shows nobody what it has.
    pub fn set_shows_state(&mut self, shows_state: bool) {
        self.read_only.is_hidden = !shows_state;
    }

    /// For how long a server looks for a leader before it serves reads.
    pub(super) fn read_only_grace(&self) -> Option<Duration> {
        let tick = Duration::from_millis(self.sessions.tick_ms());
        self.settings.modes.read_only.then(|| tick.max(GRACE))
    }

    pub(super) fn read_only_due(&self) -> Option<Time> {
        let is_looking = self.part == Part::Looking && !self.read_only.is_on;
        let grace = self.read_only_grace().filter(|_| is_looking && !self.read_only.is_hidden)?;
        Some(self.looking + grace)
    }

    /// There was no leader for long enough: who takes that is served for reads only, others that
    /// ask for a session are disconnected.
    pub(super) fn begin_read_only(&mut self, now: Time) {
        self.read_only.is_on = true;
        let attaching: Vec<Attaching> = self.waiting.attaching().map(|(_, it)| it).collect();
        for Attaching { connect, .. } in attaching {
            self.waiting.forget_connect(connect.client);
            self.connect_read_only(connect, now);
        }
    }

    /// There is a leader: whoever was served for reads only is disconnected, and comes back.
    pub(super) fn end_read_only(&mut self) {
        self.read_only.is_on = false;
        for client in std::mem::take(&mut self.read_only.clients) {
            self.close(client);
        }
        for session in std::mem::take(&mut self.read_only.sessions) {
            self.locals.end(session);
        }
    }

    /// A connection asks for a session while this server is read-only.
    ///
    /// Nothing is said of a session that is not this server's own: whether it lives is for a
    /// leader to say (`ReadOnlyZooKeeperServer.validateSession`).
    pub(super) fn connect_read_only(&mut self, connect: Connect, now: Time) {
        let client = connect.client;
        let is_ours = connect.session == 0 || self.locals.is_local(connect.session);
        if connect.read_only != Some(true) || !is_ours {
            self.notices.push_back(Notice::Close { client });
            return;
        }
        let timeout_ms = self.clamp(connect.timeout_ms);
        let attaching = Attaching { connect, timeout_ms, since: now };
        let session = self.id_for(connect);
        let (frame, is_right) = self.open_local(session, &attaching, true, now);
        let then = match is_right {
            true => {
                if connect.session == 0 {
                    self.read_only.sessions.insert(session);
                }
                self.read_only.clients.insert(client);
                self.attached.insert_unhurried(client, session, timeout_ms);
                Then::BeginReadOnly { session, timeout_ms }
            }
            false => Then::Close,
        };
        self.notices.push_back(Notice::Connected { client, frame, then });
    }

    /// The end of a session, or a write that its client's core should have refused: of a client
    /// that is served for reads only. It waits for no commit, since there is none.
    pub(super) fn end_read_only_session(&mut self, write: &Write<'_>) {
        let Write { client, session, xid, .. } = *write;
        if write.op != OpCode::CloseSession {
            return self.close(client);
        }
        self.locals.end(session);
        self.read_only.sessions.remove(&session);
        self.attached.release(session);
        let mut frame = Vec::new();
        let header = ReplyHeader { xid, zxid: self.published, error: 0 };
        response::put_header_only(&mut frame, &header);
        self.notices.push_back(Notice::Connected { client, frame, then: Then::Close });
    }

    /// Whether this server leads, and leaves clients to the others.
    pub(super) fn refuses_clients(&self) -> bool {
        self.part == Part::Leading && !self.settings.modes.leader_serves
    }
}
