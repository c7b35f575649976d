//! A server's process: the real core between a fake disk, fake sockets and a fake clock. It follows
//! `server/writer.rs` and `server/member.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringkeeper::pipeline::Write;
use ringkeeper::replica::{ReceivedState, Replica, StateAt};
use ringkeeper::time::{Time, WallMs};
use ringkeeper::tree::writer::TreeConfig;
use ringkeeper::wire::election::Notification;
use ringkeeper::wire::quorum::{FromLeader, ServerId};
use ringkeeper::zab::output::{LinkId, LogGap, Role};
use ringkeeper::zxid::Zxid;

use crate::core::{Core, Out, ToPipeline};
use crate::disk::{Disk, Small};
use crate::knobs::MS;
use crate::network::{ConnId, Payload, Port, Side};
use crate::snapshot::{self, State};
use crate::storage::{Storage, Turn, Written};
use crate::world::{Own, World};

pub const TREE: TreeConfig = TreeConfig { seed: 7, extended_types: true };

/// Snapshots that are kept.
const SNAPSHOTS_MAX: usize = 3;

/// A snapshot that a leader is sending.
#[derive(Debug, Default)]
pub struct Receiving {
    /// All of it is here, and on its way to the disk and into memory.
    pub bytes: Option<Arc<[u8]>>,
    /// What came behind it waits.
    pub held: VecDeque<Payload>,
    /// The connection is gone.
    pub is_lost: bool,
}

/// A server while it runs.
pub struct Process {
    pub id: ServerId,
    pub replica: Replica,
    pub log: Storage,
    pub cores: Vec<Core>,
    pub links: BTreeMap<LinkId, (ConnId, Side)>,
    pub by_conn: BTreeMap<ConnId, LinkId>,
    pub next_link: u64,
    pub is_accepting: bool,
    /// The same at the port for observers.
    pub is_accepting_observers: bool,
    pub receiving: BTreeMap<LinkId, Receiving>,
    /// States that learners are to be sent, and one for this server's own disk.
    pub sending: BTreeMap<LinkId, StateAt>,
    pub saving: Option<StateAt>,
    /// The link whose snapshot the log is being begun anew behind.
    pub installing: Option<LinkId>,
    pub peers: BTreeMap<usize, (ConnId, Side)>,
    /// What was last said to each peer, and what it was last told of each.
    pub said: BTreeMap<usize, Notification>,
    pub reachable: BTreeMap<usize, bool>,
    pub timer_at: u64,
    pub role: Role,
    pub published: Zxid,
    /// The highest end that the log has had on disk in this life.
    pub highest: Zxid,
    /// Which core has a client's connection.
    pub client_conns: BTreeMap<ConnId, usize>,
    pub is_writing: bool,
    pub is_over: bool,
    /// When the process began, in simulated nanoseconds.
    pub since: u64,
}

impl Process {
    pub fn is_leading(&self) -> bool {
        matches!(self.role, Role::Leading { .. })
    }

    pub fn is_serving(&self) -> bool {
        self.role != Role::Looking
    }
}

impl World {
    /// The monotonic clock of a server.
    pub fn clock(&self, server: usize) -> Time {
        let it = &self.servers[server];
        Time::from_nanos(it.lead + self.now + self.now / 1_000_000 * it.ppm)
    }

    /// The simulated time at which the clock of a server shows `local`.
    pub fn moment(&self, server: usize, local: Time) -> u64 {
        let it = &self.servers[server];
        let shown = local.as_nanos().saturating_sub(it.lead);
        shown - (shown / (1_000_000 + it.ppm) * it.ppm) + 1
    }

    pub fn wall(&self, server: usize) -> WallMs {
        let ms = (self.now / MS) as i64 + self.servers[server].wall_error_ms;
        WallMs(1_700_000_000_000 + ms)
    }

    /// What is left of a process that is gone: its disk. Where the machine is gone with it, nobody
    /// is told.
    pub fn bury(&mut self, server: usize, mut process: Process, is_quiet: bool) {
        let it = &mut self.servers[server];
        it.is_frozen = false;
        it.backlog.clear();
        if let Some((sequence, offset, bytes)) = process.log.take_write() {
            it.disk.tear(&mut self.random, sequence, offset, &bytes);
        }
        // Whatever else was on its way has come to its end or not.
        for receiving in process.receiving.values() {
            if let Some(bytes) = &receiving.bytes
                && self.random.flip()
            {
                keep_snapshot(&mut it.disk, bytes);
            }
        }
        it.disturbed_at = self.now;
        let conns: Vec<ConnId> = process.peers.values().map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.part(server, conn);
        }
        self.network.forget(self.now, server, is_quiet);
    }

    /// The process of a server is gone, or all of its machine.
    pub fn crash(&mut self, server: usize, is_quiet: bool) -> bool {
        let Some(process) = self.servers[server].process.take() else { return false };
        let what = if is_quiet { "loses its power" } else { "is killed" };
        self.trace.keep(self.now, format!("server {server} {what}"));
        self.bury(server, *process, is_quiet);
        true
    }

    // ── Peers and clients ──

    /// The election port's connection to `peer` is there, or it cannot be had.
    pub fn met(&mut self, process: &mut Process, peer: usize, conn: Option<(ConnId, Side)>) {
        let here = process.id.0 as usize - 1;
        let now = self.clock(here);
        let id = ServerId(peer as i64 + 1);
        if let Some(conn) = conn {
            process.peers.insert(peer, conn);
            // The last thing that was said may not have arrived: it is said again.
            if let Some(last) = process.said.get(&peer) {
                self.network.send(self.now, conn.0, conn.1, Payload::Notification(last.clone()));
            }
        }
        if process.reachable.insert(peer, conn.is_some()) != Some(conn.is_some()) {
            process.replica.handle_reachable(now, id, conn.is_some());
        }
    }

    /// Something has arrived at a server.
    pub fn hear(
        &mut self,
        server: usize,
        process: &mut Process,
        (conn, side, port): (ConnId, Side, Port),
        payload: Payload,
    ) {
        let (now, wall) = (self.clock(server), self.wall(server));
        if matches!(payload, Payload::Fin) {
            return self.lose(server, process, conn, port);
        }
        match port {
            Port::Election => {
                let Payload::Notification(notification) = payload else { return };
                let Some(peer) = self.network.node(conn, 1 - side) else { return };
                let from = ServerId(peer as i64 + 1);
                self.trace.say(self.now, || format!("{from} -> {server}: {notification:?}"));
                process.replica.handle_notification(now, from, notification);
            }
            Port::Quorum => {
                let link = match process.by_conn.get(&conn) {
                    Some(link) => *link,
                    None => return,
                };
                self.hear_link(server, process, link, payload);
            }
            Port::Client => {
                let Payload::Frame(frame) = payload else { return };
                let core = process.client_conns.get(&conn).copied();
                if let Some(core) = core {
                    process.cores[core].handle_frame(conn, &frame);
                    self.hand_on(server, process, core, now, wall);
                }
            }
        }
    }

    fn hear_link(&mut self, server: usize, process: &mut Process, link: LinkId, payload: Payload) {
        let (now, wall) = (self.clock(server), self.wall(server));
        if let Some(receiving) = process.receiving.get_mut(&link) {
            match payload {
                Payload::SnapshotPart if receiving.bytes.is_none() => {}
                Payload::Snapshot(bytes) if receiving.bytes.is_none() => {
                    receiving.bytes = Some(bytes);
                    let after = self.disk_time(server) * 3;
                    self.own_after(server, after, Own::Received { link });
                }
                // One socket is read in order: what comes next waits.
                payload => receiving.held.push_back(payload),
            }
            return;
        }
        match payload {
            Payload::FromLearner(message) => {
                self.trace.say(self.now, || format!("{server} hears {link:?} {message:?}"));
                process.replica.handle_from_learner(now, wall, link, message);
            }
            Payload::FromLeader(message) => {
                self.trace.say(self.now, || format!("{server} hears {link:?} {message:?}"));
                self.epoch_too_early(server, process, &message);
                process.replica.handle_from_leader(now, wall, link, message);
            }
            _ => {}
        }
    }

    /// B01's mistake: `currentEpoch` goes to the disk when the leader is met.
    fn epoch_too_early(&mut self, server: usize, process: &Process, message: &FromLeader) {
        let FromLeader::LeaderInfo { epoch, .. } = message else { return };
        if self.knobs.tampering.epoch_before_log && !process.is_serving() {
            let disk = &mut self.servers[server].disk;
            disk.accepted_epoch = Small::Holds(disk.accepted_epoch.value().max(*epoch));
            disk.current_epoch = Small::Holds(disk.current_epoch.value().max(*epoch));
        }
    }

    /// A connection of a server is over.
    pub fn lose(&mut self, server: usize, process: &mut Process, conn: ConnId, port: Port) {
        let now = self.clock(server);
        match port {
            Port::Election => {
                let peer = process.peers.iter().find(|(_, it)| it.0 == conn).map(|(peer, _)| *peer);
                if let Some(peer) = peer {
                    process.peers.remove(&peer);
                    process.reachable.insert(peer, false);
                    process.replica.handle_reachable(now, ServerId(peer as i64 + 1), false);
                    self.part(server, conn);
                }
            }
            Port::Quorum => {
                let Some(link) = process.by_conn.remove(&conn) else { return };
                process.links.remove(&link);
                self.trace.say(self.now, || format!("{server} loses {link:?}"));
                process.replica.handle_disconnected(now, link);
                self.cut_short(server, process, link);
            }
            Port::Client => {
                if let Some(core) = process.client_conns.remove(&conn) {
                    process.cores[core].handle_disconnected(conn);
                    let wall = self.wall(server);
                    self.hand_on(server, process, core, now, wall);
                }
            }
        }
    }

    /// What is still to come on a link does not come: a snapshot that is not all here has failed.
    pub fn cut_short(&mut self, server: usize, process: &mut Process, link: LinkId) {
        let Some(receiving) = process.receiving.get_mut(&link) else { return };
        if receiving.bytes.is_some() {
            receiving.is_lost = true;
            return;
        }
        process.receiving.remove(&link);
        let now = self.clock(server);
        process.replica.handle_snapshot_failed(now, link);
    }

    /// A client has dialled the server, which is there.
    fn admit(&mut self, process: &mut Process, conn: ConnId) {
        let core = self.random.index(process.cores.len());
        process.client_conns.insert(conn, core);
        process.cores[core].accept(conn);
    }

    /// Passes on what a core has for the pipeline and for its connections.
    fn hand_on(
        &mut self,
        server: usize,
        process: &mut Process,
        core: usize,
        now: Time,
        wall: WallMs,
    ) {
        for out in std::mem::take(&mut process.cores[core].out) {
            match out {
                Out::Send { conn, frame } => {
                    self.network.send(self.now, conn, 1, Payload::Frame(frame));
                }
                Out::Close { conn } => {
                    process.client_conns.remove(&conn);
                    self.network.close(self.now, conn, 1);
                }
            }
        }
        for item in std::mem::take(&mut process.cores[core].to_pipeline) {
            match item {
                ToPipeline::Connect(connect) => process.replica.handle_connect(connect, now, wall),
                ToPipeline::Write { client, session, xid, op, body, ids } => {
                    let (body, ids) = (&body[..], &ids[..]);
                    let write = Write { client, session, xid, op, body, ids };
                    process.replica.handle_write(&write, now, wall);
                }
                ToPipeline::Closed { client } => process.replica.handle_closed(client),
                ToPipeline::Touch { session } => process.replica.handle_touch(now, session),
            }
        }
        for session in std::mem::take(&mut process.cores[core].answered) {
            self.note_answered(server, session);
        }
    }

    /// A session's client was answered by a server whose clock can be believed.
    fn note_answered(&mut self, server: usize, session: i64) {
        let undisturbed = self.now.saturating_sub(self.servers[server].disturbed_at);
        let timeout = self.knobs.session_timeout_ms as u64 * MS;
        if undisturbed > timeout {
            let slack = self.lock_slack();
            self.checker.clients.handle_answered(session, self.now);
            let history = &self.checker.history;
            if let Some(life) = history.sessions.get(&session)
                && life.closed.is_some()
                && self.now > life.closed_at + slack
            {
                let since_ms = (self.now - life.closed_at) / MS;
                panic!(
                    "LocksAreLostInTime: server {server} serves {session:#x}, \
                     which has ended {since_ms} ms ago"
                );
            }
        }
    }

    /// What clocks that run apart, a tick's rounding and messages under way amount to.
    pub fn lock_slack(&self) -> u64 {
        let tick = self.knobs.tick_ms * MS;
        let drift = self.knobs.session_timeout_ms as u64 * self.knobs.drift_ppm;
        3 * tick + 4 * self.knobs.delay_slow.1 + drift + 10 * MS
    }

    // ── What the process waits for ──

    pub fn disk_time(&mut self, server: usize) -> u64 {
        self.random.between(self.knobs.disk) * self.servers[server].slowness
    }

    pub fn own(&mut self, server: usize, process: &mut Process, what: Own) {
        let (now, wall) = (self.clock(server), self.wall(server));
        match what {
            Own::Timer => {
                process.timer_at = u64::MAX;
                if process.replica.poll_timeout().is_some_and(|due| due <= now) {
                    process.replica.handle_timeout(now, wall);
                }
            }
            Own::Written => self.written(server, process, now),
            Own::Segment { size } => {
                process.log.handle_segment(&mut self.servers[server].disk, size);
            }
            Own::Mark => {
                if !process.is_writing && process.log.poll_mark() {
                    process.is_writing = true;
                    let after = self.disk_time(server);
                    self.own_after(server, after, Own::Written);
                }
            }
            Own::Turned(turn) => self.turned(server, process, turn),
            Own::AcceptedSaved(epoch) => {
                if !self.knobs.tampering.forgets_accepted {
                    self.servers[server].disk.accepted_epoch = Small::Holds(epoch);
                }
                process.replica.handle_accepted_epoch_saved(now, epoch);
            }
            Own::CurrentSaved(epoch) => {
                if !self.knobs.tampering.forgets_current {
                    self.servers[server].disk.current_epoch = Small::Holds(epoch);
                }
                process.replica.handle_current_epoch_saved(now, epoch);
            }
            Own::MembersSaved(text) => self.servers[server].disk.members = Some(text),
            Own::SoundSaved => {
                self.servers[server].disk.unsound = None;
                self.servers[server].is_hurt = false;
            }
            Own::LogRead { link, after, bytes } => {
                // A leader that is not established yet has no newer snapshot to fall back on than
                // what it knows to be committed, and its learner refuses that, loudly (R10).
                let may_fail = process.is_leading();
                let fails = self.random.per_mille(self.knobs.read_error_per_mille) && may_fail;
                let read = match fails {
                    true => None,
                    false => process.log.read_after(after, bytes),
                };
                process.replica.handle_log_read(now, link, read.ok_or(LogGap));
            }
            Own::SnapshotSent { link } => process.replica.handle_snapshot_sent(now, link),
            Own::Received { link } => self.received(server, process, link),
            Own::Dialled { to, is_for_observers } => {
                self.dialled(server, process, to, is_for_observers);
            }
            Own::Accepted { conn } => {
                let link = process.add_link(conn, 1);
                process.replica.handle_accepted(now, link);
            }
            Own::Admitted { conn } => self.admit(process, conn),
            Own::Core { core } => {
                process.cores[core].deliver();
                self.hand_on(server, process, core, now, wall);
            }
            Own::Snapshot => self.begin_snapshot(server, process),
            Own::Saved => self.save_snapshot(server, process),
            Own::Encoded { link } => self.send_encoded(server, process, link),
        }
    }

    fn written(&mut self, server: usize, process: &mut Process, now: Time) {
        process.is_writing = false;
        let it = &mut self.servers[server];
        let fails = std::mem::take(&mut it.fails_next_write);
        if fails && !self.knobs.tampering.retries_writes {
            self.trace.keep(self.now, format!("server {server}: a write fails"));
            process.is_over = true;
            let after = self.random.between((50, 500)) * MS;
            self.start_after(server, after);
            return;
        }
        match process.log.handle_written(&mut it.disk, fails) {
            Written::Durable(durable) => {
                self.trace.say(self.now, || format!("{server} has {durable} on disk"));
                process.highest = process.highest.max(durable);
                if !self.knobs.tampering.acks_early {
                    process.replica.handle_persisted(now, durable);
                }
            }
            Written::Turned(turn) => self.turned(server, process, turn),
        }
    }

    fn turned(&mut self, server: usize, process: &mut Process, turn: Turn) {
        let now = self.clock(server);
        self.trace.say(self.now, || format!("{server} has made {turn:?}"));
        match turn {
            Turn::Cut(after) => process.replica.handle_truncated(now, after),
            Turn::Reset(_) => self.install(server, process),
        }
    }

    /// A snapshot from the leader is on the disk: the log begins anew behind it.
    fn received(&mut self, server: usize, process: &mut Process, link: LinkId) {
        let receiving = process.receiving.get(&link).expect("it is being received");
        let bytes = receiving.bytes.clone().expect("all of it has come");
        let zxid = keep_snapshot(&mut self.servers[server].disk, &bytes);
        process.installing = Some(link);
        if self.knobs.tampering.keeps_log_behind_snapshot {
            process.log.pretend(Turn::Reset(zxid));
            return self.install(server, process);
        }
        process.log.turn(Turn::Reset(zxid)).expect("a log can always begin anew");
    }

    /// The log goes on behind the snapshot: it replaces the tree.
    fn install(&mut self, server: usize, process: &mut Process) {
        let now = self.clock(server);
        let link = process.installing.take().expect("a snapshot is being installed");
        let receiving = process.receiving.remove(&link).expect("it was received");
        let bytes = receiving.bytes.expect("all of it has come");
        let state = snapshot::decode(&bytes, TREE, now).expect("a snapshot arrives whole");
        let State { writer, sessions, zxid } = state;
        self.trace.keep(self.now, format!("server {server} has the snapshot of {zxid}"));
        // A leader that is not established sends all that it has, committed or not.
        let is_committed = zxid <= self.checker.history.last;
        if is_committed {
            self.checker.history.equal_digests(server, zxid, writer.digest());
        }
        process.replica.handle_snapshot_received(
            now,
            link,
            ReceivedState { writer, sessions, zxid },
        );
        if is_committed {
            process.published = process.published.max(zxid);
        }
        for payload in receiving.held {
            self.drain(server, process);
            if !receiving.is_lost || process.links.contains_key(&link) {
                self.hear_link(server, process, link, payload);
            }
        }
    }

    fn dialled(
        &mut self,
        server: usize,
        process: &mut Process,
        to: ServerId,
        is_for_observers: bool,
    ) {
        let now = self.clock(server);
        let there = to.0 as usize - 1;
        let accepts = |it: &Process| match is_for_observers {
            true => it.is_accepting_observers,
            false => it.is_accepting,
        };
        let is_there = self.servers[there].process.as_deref().is_some_and(accepts);
        if !is_there || !self.network.connects(server, there) {
            process.replica.handle_connect_failed(now, to);
            return;
        }
        let conn = self.network.open(Port::Quorum, server, there);
        self.own_after(there, 0, Own::Accepted { conn });
        let link = process.add_link(conn, 0);
        process.replica.handle_connected(now, link);
    }

    /// A snapshot for this server's own disk begins: it is read while the tree goes on.
    fn begin_snapshot(&mut self, server: usize, process: &mut Process) {
        let after = self.random.wait(self.knobs.snapshot_ms) * MS;
        self.own_after(server, after, Own::Snapshot);
        let pipeline = process.replica.pipeline();
        let zxid = pipeline.committed();
        let is_needless =
            zxid == Zxid::ZERO || self.servers[server].disk.snapshots.contains_key(&zxid);
        let is_replaced = process.installing.is_some() || !process.receiving.is_empty();
        if is_needless || is_replaced || !process.is_serving() || process.saving.is_some() {
            return;
        }
        let sessions = pipeline.sessions().at(zxid);
        let tree = Arc::clone(pipeline.writer().tree());
        process.saving = Some(StateAt { tree, zxid, digest: None, sessions });
        let after = self.disk_time(server) * 5;
        self.own_after(server, after, Own::Saved);
    }

    fn save_snapshot(&mut self, server: usize, process: &mut Process) {
        let Some(StateAt { tree, zxid, sessions, .. }) = process.saving.take() else { return };
        let disk = &mut self.servers[server].disk;
        let applied = self.knobs.tampering.snapshots_applied;
        let bytes = snapshot::encode(&tree, zxid, &sessions, applied);
        disk.snapshots.insert(zxid, bytes);
        while disk.snapshots.len() > SNAPSHOTS_MAX {
            disk.snapshots.pop_first();
        }
        let oldest = *disk.snapshots.keys().next().expect("there is one");
        process.log.purge_through(disk, oldest);
        if !applied {
            let state = snapshot::decode(&disk.snapshots[&zxid], TREE, Time::default());
            let digest = state.expect("it was just encoded").writer.digest();
            self.checker.history.equal_digests(server, zxid, digest);
        }
    }
}

impl Process {
    fn add_link(&mut self, conn: ConnId, side: Side) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(link, (conn, side));
        self.by_conn.insert(conn, link);
        link
    }
}

fn keep_snapshot(disk: &mut Disk, bytes: &Arc<[u8]>) -> Zxid {
    let state = snapshot::decode(bytes, TREE, Time::default()).expect("a snapshot arrives whole");
    disk.snapshots.insert(state.zxid, Arc::clone(bytes));
    state.zxid
}
