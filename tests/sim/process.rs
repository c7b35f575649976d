//! A server's process: the real core between a fake disk, fake sockets and a fake clock. It follows
//! `server/writer.rs`, and performs what the core asks for, action by action.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringkeeper::pipeline::auth::AuthConfig;
use ringkeeper::pipeline::session::Sessions;
use ringkeeper::pipeline::{Notice, Pipeline, Settings, Write};
use ringkeeper::replica::{ReceivedState, Replica};
use ringkeeper::time::{Time, WallMs};
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::election::Notification;
use ringkeeper::wire::quorum::{FromLeader, FromLearner, ServerId};
use ringkeeper::wire::txn::{self, Txn};
use ringkeeper::zab::Zab;
use ringkeeper::zab::ensemble::{Ensemble, Member};
use ringkeeper::zab::output::{Action, LinkId, LogGap, Recovered, Role, Standing};
use ringkeeper::zxid::Zxid;

use crate::checker::history::describe;
use crate::checker::servers::{acks_are_durable, votes_are_durable};
use crate::core::{Core, FromPipeline, Out, ToPipeline, split};
use crate::disk::{Disk, Small, Unsound};
use crate::knobs::{Knobs, MS};
use crate::network::{ConnId, Payload, Port, Side};
use crate::snapshot::{self, State};
use crate::storage::{self, Storage, Turn, Written};
use crate::world::{Own, World};

pub const TREE: TreeConfig = TreeConfig { seed: 7, extended_types: true };

/// How long a connect that is answered by nobody takes.
const DIAL_MS: u64 = 400;
/// How long the log is idle before it is marked.
const MARK_MS: u64 = 20;
/// Snapshots that are kept.
const SNAPSHOTS_MAX: usize = 3;

/// A snapshot that a leader is sending.
#[derive(Debug, Default)]
struct Receiving {
    /// All of it is here, and on its way to the disk and into memory.
    bytes: Option<Arc<[u8]>>,
    /// What came behind it waits.
    held: VecDeque<Payload>,
    /// The connection is gone.
    is_lost: bool,
}

/// A server while it runs.
pub struct Process {
    pub id: ServerId,
    pub replica: Replica,
    pub log: Storage,
    pub cores: Vec<Core>,
    links: BTreeMap<LinkId, (ConnId, Side)>,
    by_conn: BTreeMap<ConnId, LinkId>,
    next_link: u64,
    is_accepting: bool,
    receiving: BTreeMap<LinkId, Receiving>,
    /// The link whose snapshot the log is being begun anew behind.
    installing: Option<LinkId>,
    peers: BTreeMap<usize, (ConnId, Side)>,
    /// What was last said to each peer, and what it was last told of each.
    said: BTreeMap<usize, Notification>,
    reachable: BTreeMap<usize, bool>,
    timer_at: u64,
    pub role: Role,
    pub published: Zxid,
    /// Which core has a client's connection.
    client_conns: BTreeMap<ConnId, usize>,
    is_writing: bool,
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

/// The state that all servers of a run begin with.
pub fn initial_state(knobs: &Knobs) -> State {
    let zxid = match knobs.counter {
        0 => Zxid::ZERO,
        counter => Zxid::new(1, counter),
    };
    let bytes = {
        let writer = Writer::new(TREE, Time::default());
        snapshot::encode(writer.tree(), zxid, &[], false)
    };
    // A tree whose last transaction is this one is made by loading it.
    snapshot::decode(&bytes, TREE, Time::default()).expect("it was just encoded")
}

/// A disk as a run begins with it.
pub fn prepare_disk(disk: &mut Disk, knobs: &Knobs) {
    if knobs.counter > 0 {
        let state = initial_state(knobs);
        let bytes = snapshot::encode(state.writer.tree(), state.zxid, &[], false);
        disk.snapshots.insert(state.zxid, bytes);
        disk.accepted_epoch = Small::Holds(1);
        disk.current_epoch = Small::Holds(1);
    }
}

fn settings() -> Settings {
    Settings {
        extended_types: true,
        enforce_quota: false,
        skip_acl: false,
        digest: true,
        close_session_txn: true,
        txn_bytes_max: 1 << 20,
        reconfig: false,
        session_timeout_ms_min: 100,
        session_timeout_ms_max: 60_000,
        auth: AuthConfig::default(),
        container_check_interval_ms: 500,
        containers_per_minute_max: 10_000,
        container_never_used_ms_max: 0,
    }
}

fn ensemble(knobs: &Knobs, me: ServerId) -> Ensemble {
    let member = |index: usize| {
        let is_observer = index >= knobs.voters;
        let group = (knobs.is_hierarchical && !is_observer).then_some((index % 3) as i64);
        let weight = if knobs.is_hierarchical { 1 + (index as u64 % 2) } else { 1 };
        Member { id: ServerId(index as i64 + 1), is_observer, group, weight }
    };
    Ensemble {
        me,
        members: (0..knobs.servers()).map(member).collect(),
        config: Arc::from(&b"version=0"[..]),
        config_version: 0,
        tick: Duration::from_millis(knobs.tick_ms),
        init_limit_ticks: knobs.init_limit,
        sync_limit_ticks: knobs.sync_limit,
        commit_log_count: knobs.commit_log_count,
        commit_log_bytes_max: 1 << 20,
    }
}

/// What a start finds on the disk, all of it repaired as far as it can be.
struct Started {
    writer: Writer,
    sessions: BTreeMap<i64, i32>,
    log: Storage,
    recovered: Recovered,
    /// The log is to be begun anew behind the snapshot.
    is_behind: bool,
}

fn recover(disk: &mut Disk, knobs: &Knobs, now: Time) -> Started {
    let tampering = knobs.tampering;
    let mut is_damaged = false;
    let mut state = None;
    for (_, bytes) in disk.snapshots.iter().rev() {
        state = snapshot::decode(bytes, TREE, now);
        if state.is_some() {
            break;
        }
        is_damaged = true;
    }
    disk.snapshots.retain(|_, bytes| snapshot::decode(bytes, TREE, now).is_some());
    let is_blank = state.is_none() && !is_damaged && disk.segments.is_empty();
    let State { mut writer, sessions, zxid: snapshot } = state.unwrap_or_else(|| State {
        writer: Writer::new(TREE, now),
        sessions: Vec::new(),
        zxid: Zxid::ZERO,
    });
    let found = storage::recover(disk, knobs.segment_bytes, Zxid::ZERO);
    // An older snapshot will do where the log reaches back to it.
    is_damaged = found.is_damaged || is_damaged && found.storage.starts_after > snapshot;
    let mut sessions: BTreeMap<i64, i32> = sessions.into_iter().collect();
    let is_continued = found.storage.starts_after <= snapshot;
    if found.last > snapshot && is_continued {
        replay(&found.storage, snapshot, &mut writer, &mut sessions);
    }
    is_damaged |= found.last > snapshot && !is_continued;
    let is_behind = writer.last_zxid() != found.last;
    let last = writer.last_zxid();
    let is_empty = is_blank
        && !is_damaged
        && found.is_empty
        && disk.accepted_epoch == Small::Missing
        && disk.current_epoch == Small::Missing
        && !disk.initialize;
    let (accepted_epoch, current_epoch) = epochs(disk, last, &mut is_damaged);
    if is_damaged && !tampering.trusts_damaged {
        disk.unsound = Some(Unsound::Damaged);
    } else if is_empty && !tampering.trusts_empty {
        disk.unsound.get_or_insert(Unsound::Empty);
    }
    let standing = match disk.unsound {
        None => Standing::Sound,
        Some(Unsound::Empty) => Standing::Empty,
        Some(Unsound::Damaged) => Standing::Damaged,
    };
    let recovered =
        Recovered { last, committed: snapshot, accepted_epoch, current_epoch, standing };
    Started { writer, sessions, log: found.storage, recovered, is_behind }
}

/// The two epochs, completed as `server/epochs.rs` does it.
fn epochs(disk: &mut Disk, last: Zxid, is_damaged: &mut bool) -> (u32, u32) {
    let of_log = last.epoch();
    let (accepted, current) = (disk.accepted_epoch, disk.current_epoch);
    *is_damaged |= match (accepted, current) {
        (Small::Damaged, _) | (_, Small::Damaged) => true,
        (Small::Missing, Small::Holds(other)) => other != of_log,
        (Small::Holds(other), Small::Missing) => other != of_log,
        (Small::Holds(accepted), Small::Holds(current)) => current > accepted || of_log > accepted,
        (Small::Missing, Small::Missing) => false,
    };
    if *is_damaged {
        let highest = accepted.value().max(current.value()).max(of_log);
        let lowest = match current {
            Small::Holds(current) => current.min(of_log),
            _ => of_log,
        };
        return (highest, lowest);
    }
    let accepted = if accepted == Small::Missing { of_log } else { accepted.value() };
    let current = if current == Small::Missing { of_log } else { current.value().max(of_log) };
    disk.accepted_epoch = Small::Holds(accepted);
    disk.current_epoch = Small::Holds(current);
    (accepted, current)
}

fn replay(log: &Storage, after: Zxid, writer: &mut Writer, sessions: &mut BTreeMap<i64, i32>) {
    for (zxid, bytes) in log.txns.iter().filter(|(zxid, _)| *zxid > after) {
        let logged = txn::decode(bytes).expect("what is logged can be read");
        if let Err(error) = writer.apply(&logged.header, &logged.txn) {
            panic!("ReplayFits: {zxid} of the log does not fit: {error}: {}", describe(bytes));
        }
        match logged.txn {
            Txn::CreateSession { timeout_ms } => {
                sessions.insert(logged.header.session, timeout_ms);
            }
            Txn::CloseSession { .. } => {
                sessions.remove(&logged.header.session);
            }
            _ => {}
        }
        let fits = logged.digest.is_none_or(|digest| digest == writer.digest());
        assert!(fits, "ReplayFits: after {zxid} the digest is another one");
        writer.reclaim(*zxid, &[]);
    }
}

impl World {
    /// The monotonic clock of a server.
    pub fn clock(&self, server: usize) -> Time {
        let it = &self.servers[server];
        Time::from_nanos(it.lead + self.now + self.now / 1_000_000 * it.ppm)
    }

    /// The simulated time at which the clock of a server shows `local`.
    fn moment(&self, server: usize, local: Time) -> u64 {
        let it = &self.servers[server];
        let shown = local.as_nanos().saturating_sub(it.lead);
        shown - (shown / (1_000_000 + it.ppm) * it.ppm) + 1
    }

    pub fn wall(&self, server: usize) -> WallMs {
        let ms = (self.now / MS) as i64 + self.servers[server].wall_error_ms;
        WallMs(1_700_000_000_000 + ms)
    }

    /// Starts the server's process.
    pub fn start(&mut self, server: usize) {
        self.servers[server].is_starting = false;
        if self.servers[server].process.is_some() {
            return;
        }
        let now = self.clock(server);
        let wall = self.wall(server);
        let knobs = self.knobs.clone();
        let it = &mut self.servers[server];
        it.life += 1;
        it.is_frozen = false;
        it.backlog.clear();
        it.disturbed_at = self.now;
        let Started { writer, sessions, mut log, recovered, is_behind } =
            recover(&mut it.disk, &knobs, now);
        if is_behind {
            // The start after a crash between a snapshot's arrival and the log's new beginning.
            let turned = log.turn(Turn::Reset(recovered.last));
            turned.expect("a log can always begin anew");
            settle_log(&mut log, &mut it.disk);
        }
        let id = ServerId(server as i64 + 1);
        let mut live = Sessions::new(knobs.tick_ms as u32, id.0 as u8, wall.0 as u64);
        for (session, timeout_ms) in sessions {
            live.create(session, timeout_ms, None, Zxid::ZERO, now);
        }
        live.handle_committed(Zxid::MAX);
        let pipeline = Pipeline::new(writer, live, settings(), knobs.cores, now);
        let seed = self.random.next();
        let zab = Zab::new(ensemble(&knobs, id), recovered, seed, now);
        let tree = Arc::clone(pipeline.writer().tree());
        let version = pipeline.committed();
        let mistakes = knobs.tampering.core;
        let core = |number| Core::new(number as u16, Arc::clone(&tree), version, mistakes);
        let process = Process {
            id,
            replica: Replica::member(pipeline, zab),
            log,
            cores: (0..knobs.cores).map(core).collect(),
            links: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            next_link: 1,
            is_accepting: false,
            receiving: BTreeMap::new(),
            installing: None,
            peers: BTreeMap::new(),
            said: BTreeMap::new(),
            reachable: BTreeMap::new(),
            timer_at: u64::MAX,
            role: Role::Looking,
            published: recovered.committed,
            client_conns: BTreeMap::new(),
            is_writing: false,
            is_over: false,
            since: self.now,
        };
        self.trace.step([self.now, 4, server as u64, recovered.last.raw() as u64]);
        self.trace.keep(self.now, format!("server {server} starts with {recovered:?}"));
        self.servers[server].process = Some(Box::new(process));
        self.with(server, |_, _| {});
        let after = self.random.wait(knobs.snapshot_ms) * MS;
        self.own_after(server, after, Own::Snapshot);
        for other in 0..self.servers.len() {
            let (a, b) = (server.min(other), server.max(other));
            if a != b && !self.met.contains_key(&(a, b)) {
                let after = self.random.between((1, 20)) * MS;
                self.after(after, crate::world::Event::Meet { a, b });
            }
        }
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
                if let Some(receiving) = process.receiving.get_mut(&link) {
                    match receiving.bytes {
                        Some(_) => receiving.is_lost = true,
                        None => drop(process.receiving.remove(&link)),
                    }
                }
                self.trace.say(self.now, || format!("{server} loses {link:?}"));
                process.replica.handle_disconnected(now, link);
            }
            Port::Client => {
                if let Some(core) = process.client_conns.remove(&conn) {
                    process.cores[core].handle_disconnected(conn);
                }
            }
        }
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
                ToPipeline::Touch { session } => {
                    process.replica.handle_touch(now, session);
                    self.note_answered(server, session);
                }
            }
        }
    }

    /// A session's client was answered by a server whose clock can be believed.
    fn note_answered(&mut self, server: usize, session: i64) {
        let undisturbed = self.now - self.servers[server].disturbed_at;
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

    fn disk_time(&mut self, server: usize) -> u64 {
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
            Own::SoundSaved => {
                self.servers[server].disk.unsound = None;
                self.servers[server].is_hurt = false;
            }
            Own::LogRead { link, after, bytes } => {
                let fails = self.random.per_mille(self.knobs.read_error_per_mille);
                let read = match fails {
                    true => None,
                    false => process.log.read_after(after, bytes),
                };
                process.replica.handle_log_read(now, link, read.ok_or(LogGap));
            }
            Own::SnapshotSent { link } => process.replica.handle_snapshot_sent(now, link),
            Own::Received { link } => self.received(server, process, link),
            Own::Dialled { to } => self.dialled(server, process, to),
            Own::Accepted { conn } => {
                let link = process.add_link(conn, 1);
                process.replica.handle_accepted(now, link);
            }
            Own::Admitted { conn } => self.admit(process, conn),
            Own::Core { core } => {
                process.cores[core].deliver();
                self.hand_on(server, process, core, now, wall);
            }
            Own::Snapshot => self.take_snapshot(server, process),
        }
    }

    fn written(&mut self, server: usize, process: &mut Process, now: Time) {
        process.is_writing = false;
        let it = &mut self.servers[server];
        if std::mem::take(&mut it.fails_next_write) && !self.knobs.tampering.retries_writes {
            self.trace.keep(self.now, format!("server {server}: a write fails"));
            process.is_over = true;
            let after = self.random.between((50, 500)) * MS;
            self.start_after(server, after);
            return;
        }
        match process.log.handle_written(&mut it.disk) {
            Written::Durable(durable) => {
                self.trace.say(self.now, || format!("{server} has {durable} on disk"));
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
        self.checker.history.equal_digests(server, zxid, writer.digest());
        process.replica.handle_snapshot_received(
            now,
            link,
            ReceivedState { writer, sessions, zxid },
        );
        process.published = process.published.max(zxid);
        for payload in receiving.held {
            self.drain(server, process);
            if !receiving.is_lost || process.links.contains_key(&link) {
                self.hear_link(server, process, link, payload);
            }
        }
    }

    fn dialled(&mut self, server: usize, process: &mut Process, to: ServerId) {
        let now = self.clock(server);
        let there = to.0 as usize - 1;
        let accepts = |it: &Process| it.is_accepting;
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

    fn take_snapshot(&mut self, server: usize, process: &mut Process) {
        let after = self.random.wait(self.knobs.snapshot_ms) * MS;
        self.own_after(server, after, Own::Snapshot);
        if process.installing.is_some() || !process.receiving.is_empty() || !process.is_serving() {
            return;
        }
        let pipeline = process.replica.pipeline();
        let zxid = pipeline.committed();
        let disk = &mut self.servers[server].disk;
        if zxid == Zxid::ZERO || disk.snapshots.contains_key(&zxid) {
            return;
        }
        let sessions = pipeline.sessions().at(zxid);
        let applied = self.knobs.tampering.snapshots_applied;
        let bytes = snapshot::encode(pipeline.writer().tree(), zxid, &sessions, applied);
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
        self.checker.servers.handle_role(server, role, log, &self.checker.history);
    }

    fn publish(&mut self, server: usize, process: &mut Process) {
        let committed = process.replica.pipeline().committed();
        if committed > process.published {
            self.check_published(server, process, committed);
        }
        while let Some(published) = process.replica.poll_published() {
            self.check_published(server, process, published.through);
            for (core, message) in split(published).into_iter().enumerate() {
                self.tell_core(server, process, core, message);
            }
        }
        while let Some(notice) = process.replica.poll_notice() {
            match notice {
                Notice::Connected { client, .. } | Notice::Close { client } => {
                    let core = usize::from(client.core);
                    self.tell_core(server, process, core, FromPipeline::Notice(notice));
                }
                Notice::Replaced { .. } => {
                    let tree = Arc::clone(process.replica.pipeline().writer().tree());
                    let through = process.replica.pipeline().committed();
                    for core in 0..process.cores.len() {
                        let tree = Arc::clone(&tree);
                        let message = FromPipeline::Replaced { tree, through };
                        self.tell_core(server, process, core, message);
                    }
                }
            }
        }
        let oldest = process.cores.iter().map(|core| core.version).min();
        process.replica.reclaim(oldest.unwrap_or(process.published), &[]);
    }

    fn tell_core(
        &mut self,
        server: usize,
        process: &mut Process,
        core: usize,
        message: FromPipeline,
    ) {
        process.cores[core].inbox.push_back(message);
        let delay = self.random.below(200_000);
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
            Action::Connect { to } => {
                let there = to.0 as usize - 1;
                let after = match self.network.connects(server, there) {
                    true => self.network.delay() + self.network.delay(),
                    false => DIAL_MS * MS,
                };
                self.own_after(server, after, Own::Dialled { to });
            }
            Action::Accept(is_accepting) => process.is_accepting = is_accepting,
            Action::ToLeader { link, message } => self.to_leader(server, process, link, message),
            Action::ToLearner { link, message } => self.to_learner(server, process, link, message),
            Action::Close { link } => self.close_link(process, link),
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
            let durable = process.log.durable();
            votes_are_durable(server, vote.leader, vote.zxid, durable);
        }
        if let Some(&(conn, side)) = process.peers.get(&peer) {
            let payload = Payload::Notification(notification.clone());
            self.network.send(self.now, conn, side, payload);
        }
        process.said.insert(peer, notification);
    }

    fn to_leader(
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

    fn to_learner(
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

    fn close_link(&mut self, process: &mut Process, link: LinkId) {
        if let Some((conn, side)) = process.links.remove(&link) {
            process.by_conn.remove(&conn);
            self.network.close(self.now, conn, side);
        }
        if let Some(receiving) = process.receiving.get_mut(&link) {
            match receiving.bytes {
                Some(_) => receiving.is_lost = true,
                None => drop(process.receiving.remove(&link)),
            }
        }
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

    fn send_snapshot(&mut self, server: usize, process: &mut Process, link: LinkId, zxid: Zxid) {
        let state = process.replica.state_to_send(link).expect("it is being sent");
        assert_eq!(state.zxid, zxid);
        let applied = self.knobs.tampering.snapshots_applied;
        let bytes = snapshot::encode(&state.tree, zxid, &state.sessions, applied);
        if let Some(&(conn, side)) = process.links.get(&link) {
            for _ in 0..self.random.below(5) {
                self.network.send(self.now, conn, side, Payload::SnapshotPart);
            }
            self.network.send(self.now, conn, side, Payload::Snapshot(bytes));
        }
        let after = self.network.delay() * 3;
        self.own_after(server, after, Own::SnapshotSent { link });
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

/// Does all that the log has to do, at once.
fn settle_log(log: &mut Storage, disk: &mut Disk) {
    loop {
        if log.poll_turned().is_some() {
            continue;
        }
        if let Some(size) = log.poll_segment() {
            log.handle_segment(disk, size);
        } else if log.poll_write() {
            log.handle_written(disk);
        } else {
            return;
        }
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
