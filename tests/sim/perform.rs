//! What the core says, action by action, and what becomes of it.

use std::sync::Arc;

use ringkeeper::wire::election::{Doing, Notification};
use ringkeeper::wire::quorum::{FromLeader, FromLearner, ServerId};
use ringkeeper::zab::output::{Action, LinkId, Role};
use ringkeeper::zxid::Zxid;

use crate::checker::servers::{acks_are_durable, votes_are_durable};
use crate::core::{FromPipeline, split};
use crate::knobs::MS;
use crate::network::Payload;
use crate::process::{Process, Receiving};
use crate::snapshot;
use crate::storage::Turn;
use crate::world::{Own, World};

/// How long a connect that is answered by nobody takes.
const DIAL_MS: u64 = 400;
/// How long the log is idle before it is marked.
const MARK_MS: u64 = 20;

impl World {
    // ── What the core says ──

    /// Performs what the core has asked for, until it asks for nothing more.
    pub fn drain(&mut self, server: usize, process: &mut Process) {
        if process.is_over {
            return;
        }
        while let Some(action) = process.replica.poll_action() {
            self.perform(server, process, action);
            if process.is_over {
                return;
            }
        }
        self.note_role(server, process);
        self.publish(server, process);
        self.drive_disk(server, process);
        self.arm_timer(server, process);
    }

    fn note_role(&mut self, server: usize, process: &mut Process) {
        let role = process.replica.role();
        if role == process.role {
            return;
        }
        process.role = role;
        self.trace.step([self.now, 5, server as u64, role_code(role)]);
        let last = process.log.appended();
        self.trace.keep(self.now, format!("server {server} is {role:?}, its log ends at {last}"));
        let log = &process.log;
        self.checker.servers.handle_role(server, role, log, &mut self.checker.history);
    }

    fn publish(&mut self, server: usize, process: &mut Process) {
        let committed = process.replica.pipeline().committed();
        // Before there is a leader it is the end of the log.
        if process.is_serving() && committed > process.published {
            self.check_published(server, process, committed);
        }
        while let Some(published) = process.replica.poll_published() {
            self.check_published(server, process, published.through);
            for (core, message) in split(published).into_iter().enumerate() {
                self.tell_core(server, process, core, message);
            }
        }
        while let Some(notice) = process.replica.poll_notice() {
            let core = usize::from(notice.core());
            self.tell_core(server, process, core, FromPipeline::Notice(notice));
        }
        process.log.set_committed(process.published);
        let oldest = process.cores.iter().map(|core| core.version).min();
        let held: Vec<Zxid> = process.saving.iter().map(|state| state.zxid).collect();
        process.replica.reclaim(oldest.unwrap_or(process.published), &held);
    }

    fn tell_core(
        &mut self,
        server: usize,
        process: &mut Process,
        core: usize,
        message: FromPipeline,
    ) {
        process.cores[core].inbox.push_back(message);
        let delay = self.random.below(self.knobs.core_lag);
        self.own_after(server, delay, Own::Core { core });
    }

    /// Holds what a server publishes against the history.
    fn check_published(&mut self, server: usize, process: &mut Process, through: Zxid) {
        let start = process.log.txns.partition_point(|(zxid, _)| *zxid <= process.published);
        for (zxid, txn) in process.log.txns.range(start..) {
            if *zxid > through {
                break;
            }
            self.checker.history.handle_published(server, *zxid, txn);
        }
        let slack = self.lock_slack();
        for session in std::mem::take(&mut self.checker.history.expired) {
            let history = &self.checker.history;
            self.checker.clients.locks_are_lost_in_time(session, self.now, slack, history);
        }
        process.published = process.published.max(through);
    }

    fn drive_disk(&mut self, server: usize, process: &mut Process) {
        if let Some(turn) = process.log.poll_turned() {
            self.own_after(server, 0, Own::Turned(turn));
        }
        if !process.is_writing && process.log.poll_write() {
            process.is_writing = true;
            let after = self.disk_time(server);
            self.own_after(server, after, Own::Written);
            self.own_after(server, after + MARK_MS * MS, Own::Mark);
        }
        if let Some(size) = process.log.poll_segment() {
            let after = self.disk_time(server);
            self.own_after(server, after, Own::Segment { size });
        }
    }

    fn arm_timer(&mut self, server: usize, process: &mut Process) {
        let Some(due) = process.replica.poll_timeout() else { return };
        let at = self.moment(server, due).max(self.now + 1000);
        if at < process.timer_at {
            process.timer_at = at;
            self.own_after(server, at - self.now, Own::Timer);
        }
    }

    /// Does what an action asks for.
    fn perform(&mut self, server: usize, process: &mut Process, action: Action) {
        self.trace.say(self.now, || format!("{server} does {action:?}"));
        match action {
            Action::Notify { to, notification } => self.notify(server, process, to, notification),
            Action::Connect { to } | Action::ConnectMaster { to } => {
                let is_for_observers = matches!(action, Action::ConnectMaster { .. });
                let there = to.0 as usize - 1;
                let after = match self.network.connects(server, there) {
                    true => self.network.delay() + self.network.delay(),
                    false => DIAL_MS * MS,
                };
                self.own_after(server, after, Own::Dialled { to, is_for_observers });
            }
            Action::Accept(is_accepting) => process.is_accepting = is_accepting,
            Action::AcceptObservers(is_accepting) => {
                process.is_accepting_observers = is_accepting;
            }
            Action::ToLeader { link, message } => {
                self.send_to_leader(server, process, link, message)
            }
            Action::ToLearner { link, message } => {
                self.send_to_learner(server, process, link, message)
            }
            Action::Close { link } => self.close_link(server, process, link),
            Action::Append { zxid, txn } => self.append(server, process, zxid, txn),
            Action::Truncate { after } => self.truncate(server, process, after),
            Action::SaveAcceptedEpoch { epoch } => {
                let after = self.disk_time(server);
                self.own_after(server, after, Own::AcceptedSaved(epoch));
            }
            Action::SaveCurrentEpoch { epoch } => {
                let after = self.disk_time(server);
                self.own_after(server, after, Own::CurrentSaved(epoch));
            }
            Action::SendSnapshot { link, zxid, .. } => {
                self.send_snapshot(server, process, link, zxid);
            }
            Action::ReceiveSnapshot { link, .. } => {
                process.receiving.insert(link, Receiving::default());
            }
            Action::ReadLog { link, after, bytes } => {
                let delay = self.disk_time(server);
                self.own_after(server, delay, Own::LogRead { link, after, bytes });
            }
            Action::SaveSound => {
                let after = self.disk_time(server);
                self.own_after(server, after, Own::SoundSaved);
            }
            Action::Members { current, .. } => {
                let after = self.disk_time(server);
                self.own_after(server, after, Own::MembersSaved(current));
            }
            Action::Resigned => {
                process.is_over = true;
                let after = self.random.between((5, 500)) * MS;
                self.start_after(server, after);
            }
            Action::Stop { reason } => {
                self.trace.keep(self.now, format!("server {server} stops: {reason}"));
                assert!(self.may_stop, "NobodyStops: server {server} stops: {reason}");
                self.stops.push((server, reason));
                process.is_over = true;
            }
        }
    }

    fn notify(
        &mut self,
        server: usize,
        process: &mut Process,
        to: ServerId,
        notification: Notification,
    ) {
        let peer = to.0 as usize - 1;
        if let Some(vote) = &notification.vote
            && !self.knobs.tampering.acks_early
        {
            // Others may still vote for what a leader has taken back from it. It does not vote so
            // itself, but repeats what they have decided; their ACKEPOCH shows if they are ahead.
            let durable = match notification.doing {
                Doing::Looking => process.log.durable(),
                _ => process.log.durable().max(process.highest),
            };
            votes_are_durable(server, vote.leader, vote.zxid, durable);
        }
        if let Some(&(conn, side)) = process.peers.get(&peer) {
            let payload = Payload::Notification(notification.clone());
            self.network.send(self.now, conn, side, payload);
        }
        process.said.insert(peer, notification);
    }

    fn send_to_leader(
        &mut self,
        server: usize,
        process: &mut Process,
        link: LinkId,
        mut message: FromLearner,
    ) {
        let Some(&(conn, side)) = process.links.get(&link) else { return };
        let tampering = self.knobs.tampering;
        match &mut message {
            FromLearner::Ack { zxid } if !tampering.acks_early => {
                let epoch = self.servers[server].disk.current_epoch.value();
                if !tampering.forgets_current {
                    acks_are_durable(server, *zxid, process.log.durable(), epoch);
                }
            }
            FromLearner::Ping { touched, .. } if tampering.forgets_touches => touched.clear(),
            FromLearner::Request(_) if tampering.forwards_twice => {
                let payload = Payload::FromLearner(message.clone());
                self.network.send(self.now, conn, side, payload);
            }
            _ => {}
        }
        self.network.send(self.now, conn, side, Payload::FromLearner(message));
    }

    fn send_to_learner(
        &mut self,
        server: usize,
        process: &mut Process,
        link: LinkId,
        message: FromLeader,
    ) {
        let Some(&(conn, side)) = process.links.get(&link) else { return };
        if let FromLeader::Ping { zxid } = message
            && self.knobs.tampering.answers_own_pings
            && process.is_leading()
        {
            let (now, wall) = (self.clock(server), self.wall(server));
            let answer = FromLearner::Ping { zxid, touched: Vec::new() };
            process.replica.handle_from_learner(now, wall, link, answer);
        }
        self.network.send(self.now, conn, side, Payload::FromLeader(message));
    }

    fn close_link(&mut self, server: usize, process: &mut Process, link: LinkId) {
        if let Some((conn, side)) = process.links.remove(&link) {
            process.by_conn.remove(&conn);
            self.network.close(self.now, conn, side);
        }
        self.cut_short(server, process, link);
    }

    fn append(&mut self, server: usize, process: &mut Process, zxid: Zxid, txn: Arc<[u8]>) {
        // The role may have ended in the same turn.
        let leads = matches!(process.replica.role(), Role::Leading { .. });
        if leads || process.is_leading() {
            self.checker.history.handle_proposed(server, zxid, &txn);
        }
        process.log.append(zxid, txn);
        if self.knobs.tampering.acks_early {
            let now = self.clock(server);
            process.replica.handle_persisted(now, zxid);
        }
    }

    fn truncate(&mut self, server: usize, process: &mut Process, after: Zxid) {
        if self.knobs.tampering.ignores_truncation {
            process.log.pretend(Turn::Cut(after));
            self.own_after(server, 0, Own::Turned(Turn::Cut(after)));
        } else if process.log.turn(Turn::Cut(after)).is_err() {
            let now = self.clock(server);
            process.replica.handle_truncate_failed(now);
        }
    }

    /// The state is read while the tree goes on.
    fn send_snapshot(&mut self, server: usize, process: &mut Process, link: LinkId, zxid: Zxid) {
        let state = process.replica.state_to_send(link).expect("it is being sent").clone();
        assert_eq!(state.zxid, zxid);
        process.sending.insert(link, state);
        let after = self.disk_time(server) * 3;
        self.own_after(server, after, Own::Encoded { link });
    }

    /// What was read of the state goes out.
    pub fn send_encoded(&mut self, server: usize, process: &mut Process, link: LinkId) {
        let Some(state) = process.sending.remove(&link) else { return };
        let Some(&(conn, side)) = process.links.get(&link) else { return };
        let applied = self.knobs.tampering.snapshots_applied;
        let bytes = snapshot::encode(&state.tree, state.zxid, &state.sessions, applied);
        for _ in 0..self.random.below(5) {
            self.network.send(self.now, conn, side, Payload::SnapshotPart);
        }
        self.network.send(self.now, conn, side, Payload::Snapshot(bytes));
        let after = self.network.delay() * 3;
        self.own_after(server, after, Own::SnapshotSent { link });
    }
}

fn role_code(role: Role) -> u64 {
    match role {
        Role::Looking => 0,
        Role::Leading { epoch } => 1 + (u64::from(epoch) << 8),
        Role::Following { leader, .. } => 2 + ((leader.0 as u64) << 8),
        Role::Observing { leader, .. } => 3 + ((leader.0 as u64) << 8),
    }
}
