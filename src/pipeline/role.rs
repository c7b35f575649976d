//! The server's part in its ensemble: what changes when it begins to lead, to follow or to look.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::pipeline::forward::{Attaching, Entry, State};
use crate::pipeline::{Client, Pipeline, Write};
use crate::time::{Time, WallMs};
use crate::tree::writer::Replay;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::Forwarded;
use crate::zab::output::Role;
use crate::zxid::Zxid;

/// Who decides what a write becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// This server, and its disk commits.
    Alone,
    /// This server, and a quorum commits.
    Leading,
    /// The leader of this epoch.
    Following { epoch: u32 },
    /// Nobody for now.
    Looking,
}

impl Part {
    /// Whether this server makes transactions.
    pub fn is_preparing(self) -> bool {
        matches!(self, Part::Alone | Part::Leading)
    }
}

/// For how long a client is served without a leader: a little less than half of its session's
/// timeout, so that it has the other half to learn that it may have lost what it holds.
fn leaderless_max(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0) * 7 / 16)
}

impl Pipeline {
    /// The server's role has changed. `epoch` is the one whose leader it is or serves under; it is
    /// not looked at where there is none.
    ///
    /// A new leader has its whole history committed, or about to be; a learner has applied what
    /// its leader had at that time. So each request that was passed on in an earlier epoch, and
    /// whose transaction has not come, will never be one, and is passed on again.
    pub fn handle_role(&mut self, role: Role, epoch: u32, now: Time, wall: WallMs) {
        self.waiting.stop_sending();
        self.leadership.clear();
        match role {
            Role::Looking => {
                if self.part != Part::Looking {
                    self.looking = self.looking.max(now);
                }
                self.part = Part::Looking;
                self.sessions.handle_following();
            }
            Role::Leading { epoch } => {
                self.end_read_only();
                self.part = Part::Leading;
                self.epoch_start = Zxid::new(epoch, 0);
                assert!(self.epoch_start > self.prepared, "each leader has its own epoch");
                self.led = self.led.max(now);
                self.sessions.handle_leading(now);
                for (session, timeout_ms) in self.attached.sessions() {
                    self.sessions.touch_for(session, timeout_ms, now);
                }
                if self.refuses_clients() {
                    self.disconnect_all();
                }
                self.lead_what_waits(now, wall);
            }
            Role::Following { .. } | Role::Observing { .. } => {
                self.end_read_only();
                self.part = Part::Following { epoch };
                // A follower that has brought an observer into step may itself be cut off.
                if let Role::Following { .. } = role {
                    self.led = self.led.max(now);
                }
                self.sessions.handle_following();
                // What a state was taken along with has all come by now.
                self.writer.set_replay(Replay::Exact);
                // A new leader knows what timeouts sessions began with, not what was agreed later.
                self.attached.touch_all();
                self.send_what_waits(epoch, now, wall);
            }
        }
    }

    /// A leader that keeps this server's sessions alive was heard of at this time; or, on the
    /// leader, a quorum was.
    pub fn handle_led(&mut self, at: Time) {
        self.led = self.led.max(at);
    }

    /// Does what this server's clients waited for a leader to do.
    fn lead_what_waits(&mut self, now: Time, wall: WallMs) {
        let entries = self.waiting.take_all();
        let attaching: Vec<(i64, Attaching)> = self.waiting.attaching().collect();
        for (session, entry) in entries {
            self.lead_entry(session, entry, now, wall);
        }
        for (session, attaching) in attaching {
            if self.attaches_local(session, attaching, now) {
                continue;
            }
            if attaching.connect.session != 0 && self.waiting.pop_attaching(session).is_some() {
                self.reopen_session(attaching.connect, session, now);
            }
        }
    }

    /// Does what a client of this server has asked before it led, or behind a sync.
    fn lead_entry(&mut self, session: i64, entry: Entry, now: Time, wall: WallMs) {
        let Entry { client, xid, op, state, .. } = entry;
        match state {
            State::Asked { request: Forwarded { body, ids, .. }, .. } => match op {
                OpCode::CreateSession => {
                    if self.lead_upgrade(client, session, now, wall) {
                        // It has no connect request that waits.
                    } else if let Some(attaching) = self.waiting.pop_attaching(session) {
                        self.begin_session(session, &attaching, now, wall);
                    }
                }
                OpCode::CloseSession if !self.attached.contains(client) => {
                    self.end_session(session, xid, None, wall);
                }
                _ if self.attached.contains(client) => {
                    let (body, ids) = (&body[..], &ids[..]);
                    let write = Write { client, session, xid, op, body, ids };
                    self.handle_write(&write, now, wall);
                }
                _ => {}
            },
            State::Done { zxid, frame, then } if self.waiting.has(session) => {
                let write = Write { client, session, xid, op, body: &[], ids: &[] };
                self.waiting.hold(&write, zxid, frame, then);
            }
            State::Done { frame, then, .. } => {
                self.push_frame(client, xid, &frame, then);
            }
        }
    }

    /// Does what waited for a sync of the session, which is answered.
    pub(super) fn lead_held(&mut self, session: i64, now: Time, wall: WallMs) {
        for entry in self.waiting.take_held(session) {
            self.lead_entry(session, entry, now, wall);
        }
    }

    /// Passes on what waits, to the leader of `epoch`.
    fn send_what_waits(&mut self, epoch: u32, now: Time, wall: WallMs) {
        let entries = self.waiting.take_all();
        // Passed on to this very leader over an earlier connection: it may still become a
        // transaction, or may be lost. Some requests may be repeated; of the others the outcome is
        // unknown, and nothing that came behind them is done.
        let is_unknown = |entry: &Entry| {
            let may_repeat =
                matches!(entry.op, OpCode::Sync | OpCode::CreateSession | OpCode::CloseSession);
            matches!(entry.state, State::Asked { sent, .. } if sent == Some(epoch)) && !may_repeat
        };
        let unknown = entries.iter().map(|(_, entry)| entry).filter(|entry| is_unknown(entry));
        let unknown: BTreeSet<Client> = unknown.map(|entry| entry.client).collect();
        for client in unknown {
            if self.attached.contains(client) {
                self.stats.connections_given_up += 1;
                self.close(client);
            }
        }
        for (session, mut entry) in entries {
            let is_asked = matches!(entry.state, State::Asked { .. });
            let is_awaited = match entry.op {
                OpCode::CreateSession => {
                    self.waiting.is_attaching(session) || self.locals.is_upgrading(session)
                }
                OpCode::CloseSession if is_asked => !self.attached.is_cut(entry.client),
                _ => self.attached.contains(entry.client),
            };
            if !is_awaited {
                continue;
            }
            if is_asked && entry.op != OpCode::CreateSession && self.locals.is_local(session) {
                self.ask_again(session, entry, now, wall);
                continue;
            }
            if let State::Asked { sent, .. } = &mut entry.state {
                *sent = None;
            }
            self.waiting.put_back(session, entry);
            match is_asked {
                true => self.waiting.send(session, epoch),
                // What it waited for may have been dropped.
                false => self.release_done(session),
            }
        }
        let attaching: Vec<(i64, Attaching)> = self.waiting.attaching().collect();
        for (session, attaching) in attaching {
            if !self.attaches_local(session, attaching, now) && attaching.connect.session != 0 {
                self.waiting.revalidate(session, attaching.timeout_ms);
            }
        }
    }

    /// Takes once more what the client of a local session has asked: while this server led it may
    /// have waited for a sync, and nobody has looked whether it can be answered here or needs a
    /// session that all know.
    fn ask_again(&mut self, session: i64, entry: Entry, now: Time, wall: WallMs) {
        let Entry { client, xid, op, state, .. } = entry;
        if !self.attached.contains(client) {
            // What was kept of one that is gone is the session's end.
            return self.locals.end(session);
        }
        let State::Asked { request: Forwarded { body, ids, .. }, .. } = state else { return };
        self.handle_write(&Write { client, session, xid, op, body: &body, ids: &ids }, now, wall);
    }

    /// Answers a connection that waited for a local session; whether it did.
    fn attaches_local(&mut self, session: i64, attaching: Attaching, now: Time) -> bool {
        let is_local = match attaching.connect.session {
            0 => !self.waiting.has_op(session, OpCode::CreateSession) && self.begins_local(),
            session => self.locals.is_local(session),
        };
        if is_local && self.waiting.pop_attaching(session).is_some() {
            self.attach_local(session, &attaching, now);
        }
        is_local
    }

    /// Leaves this server's clients to the others.
    fn disconnect_all(&mut self) {
        let waiting = self.waiting.attaching().map(|(_, it)| it.connect.client);
        let clients: Vec<Client> = self.attached.clients().chain(waiting).collect();
        for client in clients {
            self.close(client);
        }
    }

    /// When something of [`Pipeline::handle_role_timeout`] is due.
    pub(super) fn poll_role_timeout(&self) -> Option<Time> {
        if self.part == Part::Alone {
            return None;
        }
        let urgent = self.attached.most_urgent();
        let urgent = urgent.map(|(timeout_ms, _)| self.led + leaderless_max(timeout_ms));
        let attaching = self.attaching_due();
        let parked = self.leadership.is_parked(self.room).then_some(Time::default());
        [urgent, attaching, parked, self.read_only_due()].into_iter().flatten().min()
    }

    /// When the first connection that asks for a session has waited for a leader for long enough.
    fn attaching_due(&self) -> Option<Time> {
        if self.part != Part::Looking {
            return None;
        }
        let (since, _) = self.waiting.first_attaching()?;
        Some(since.max(self.looking) + self.attaching_max())
    }

    /// For how long a connection waits for a session while there is no leader: a tick, or until
    /// reads are served without one.
    fn attaching_max(&self) -> Duration {
        let tick = Duration::from_millis(self.sessions.tick_ms());
        self.read_only_grace().unwrap_or(tick)
    }

    pub(super) fn handle_role_timeout(&mut self, now: Time, wall: WallMs) {
        if self.part == Part::Alone {
            return;
        }
        while let Some((timeout_ms, client)) = self.attached.most_urgent() {
            if self.led + leaderless_max(timeout_ms) > now {
                break;
            }
            self.stats.connections_given_up += 1;
            self.close(client);
        }
        if self.read_only_due().is_some_and(|due| due <= now) {
            self.begin_read_only(now);
        }
        while self.attaching_due().is_some_and(|due| due <= now) {
            let (_, client) = self.waiting.first_attaching().expect("somebody is due");
            self.close(client);
        }
        self.prepare_parked(now, wall);
    }
}
