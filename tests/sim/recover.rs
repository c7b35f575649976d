//! A server's start: from what its disk holds to a running process. It follows `server/recover.rs`,
//! `server/epochs.rs` and `server/standing.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringkeeper::pipeline::at_rest::SessionsAtRest;
use ringkeeper::pipeline::auth::AuthConfig;
use ringkeeper::pipeline::reconfig::CONFIG_PATH;
use ringkeeper::pipeline::session::Sessions;
use ringkeeper::pipeline::{Modes, Pipeline, Settings};
use ringkeeper::replica::Replica;
use ringkeeper::time::{Time, WallMs};
use ringkeeper::tree::writer::Writer;
use ringkeeper::wire::quorum::{Extensions, ServerId};
use ringkeeper::wire::txn;
use ringkeeper::zab::Zab;
use ringkeeper::zab::ensemble::{Ensemble, Member, NextConfig};
use ringkeeper::zab::output::{Recovered, Role, Standing};
use ringkeeper::zxid::Zxid;

use crate::checker::history::describe;
use crate::core::Core;
use crate::disk::{Disk, Small, Unsound};
use crate::knobs::{Knobs, MS};
use crate::nemesis::members_text;
use crate::process::{Process, TREE};
use crate::snapshot::{self, State};
use crate::storage::{self, Storage, Turn};
use crate::world::{Event, Own, World};

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

fn settings(knobs: &Knobs) -> Settings {
    Settings {
        extended_types: true,
        enforce_quota: false,
        skip_acl: knobs.is_dynamic,
        digest: true,
        close_session_txn: true,
        txn_bytes_max: 1 << 20,
        reconfig: knobs.is_dynamic,
        standalone_enabled: true,
        session_timeout_ms_min: 100,
        session_timeout_ms_max: 60_000,
        modes: Modes {
            local_sessions: knobs.has_modes,
            local_sessions_upgrading: knobs.has_modes,
            read_only: knobs.has_modes,
            leader_serves: true,
        },
        auth: AuthConfig::default(),
        container_check_interval_ms: 500,
        containers_per_minute_max: 10_000,
        container_never_used_ms_max: 0,
    }
}

fn ensemble(knobs: &Knobs, me: ServerId, disk: &Disk) -> Ensemble {
    let member = |index: usize| {
        let is_observer = index >= knobs.voters;
        let group = (knobs.is_hierarchical && !is_observer).then_some((index % 3) as i64);
        let weight = if knobs.is_hierarchical { 1 + (index as u64 % 2) } else { 1 };
        Member { id: ServerId(index as i64 + 1), is_observer, group, weight }
    };
    let ensemble = Ensemble {
        me,
        members: (0..knobs.servers()).map(member).collect(),
        config: Arc::from(&b"version=0"[..]),
        config_version: 0,
        next: None,
        heard: None,
        is_dynamic: knobs.is_dynamic,
        tick: Duration::from_millis(knobs.tick_ms),
        init_limit_ticks: knobs.init_limit,
        sync_limit_ticks: knobs.sync_limit,
        commit_log_count: knobs.commit_log_count,
        commit_log_bytes_max: 1 << 20,
        extensions: Extensions { cumulative: knobs.is_cumulative(me), ..Extensions::ALL },
        has_observer_masters: knobs.has_observer_masters,
    };
    if !knobs.is_dynamic {
        return ensemble;
    }
    let role = |index| Some(if index < knobs.voters { "participant" } else { "observer" });
    let roles: Vec<_> = (0..knobs.servers()).map(role).collect();
    let first = format!("{}\nversion=0", members_text(&roles));
    let text = disk.members.as_deref().unwrap_or(first.as_bytes());
    ensemble.under(NextConfig::parse(text).expect("servers keep what makes sense"))
}

/// What a start finds on the disk, all of it repaired as far as it can be.
struct Started {
    writer: Writer,
    sessions: SessionsAtRest,
    log: Storage,
    recovered: Recovered,
    /// The oldest version that can be read.
    readable_from: Zxid,
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
    let mut sessions = SessionsAtRest::new(sessions);
    let is_continued = found.storage.starts_after <= snapshot;
    if found.last > snapshot && is_continued {
        let committed = found.storage.committed();
        replay(&found.storage, (snapshot, committed), &mut writer, &mut sessions);
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
    let committed = found.storage.committed().min(last);
    let readable_from = snapshot.max(committed);
    let recovered = Recovered { last, committed, accepted_epoch, current_epoch, standing };
    Started { writer, sessions, log: found.storage, recovered, readable_from, is_behind }
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

fn replay(
    log: &Storage,
    (after, committed): (Zxid, Zxid),
    writer: &mut Writer,
    sessions: &mut SessionsAtRest,
) {
    for (zxid, bytes) in log.txns.iter().filter(|(zxid, _)| *zxid > after) {
        let logged = txn::decode(bytes).expect("what is logged can be read");
        if let Err(error) = writer.apply(&logged.header, &logged.txn) {
            panic!("ReplayFits: {zxid} of the log does not fit: {error}: {}", describe(bytes));
        }
        sessions.apply(&logged.header, &logged.txn, *zxid <= committed);
        let fits = logged.digest.is_none_or(|digest| digest == writer.digest());
        assert!(fits, "ReplayFits: after {zxid} the digest is another one");
        // What a leader may take back stays undoable.
        writer.reclaim((*zxid).min(committed), &[]);
    }
}

impl World {
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
        let Started { writer, sessions, mut log, recovered, readable_from, is_behind } =
            recover(&mut it.disk, &knobs, now);
        if is_behind {
            // The start after a crash between a snapshot's arrival and the log's new beginning.
            let turned = log.turn(Turn::Reset(recovered.last));
            turned.expect("a log can always begin anew");
            settle_log(&mut log, &mut it.disk);
        }
        let id = ServerId(server as i64 + 1);
        let mut live = Sessions::new(knobs.tick_ms as u32, id.0 as u8, wall.0 as u64);
        sessions.revive(&mut live, now);
        let mut pipeline = Pipeline::new(writer, live, settings(&knobs), knobs.cores, now);
        pipeline.set_committed(readable_from);
        let seed = self.random.next();
        let ensemble = ensemble(&knobs, id, &self.servers[server].disk);
        let ensemble = members_of(ensemble, &mut pipeline, recovered.committed, wall);
        let zab = Zab::new(ensemble, recovered, seed, now);
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
            is_accepting_observers: false,
            receiving: BTreeMap::new(),
            installing: None,
            sending: BTreeMap::new(),
            saving: None,
            peers: BTreeMap::new(),
            said: BTreeMap::new(),
            reachable: BTreeMap::new(),
            timer_at: u64::MAX,
            role: Role::Looking,
            published: readable_from,
            highest: recovered.last,
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
        self.look_for_peers(server);
    }

    /// The others are dialled, or dial.
    fn look_for_peers(&mut self, server: usize) {
        for other in 0..self.servers.len() {
            let (a, b) = (server.min(other), server.max(other));
            if a != b && !self.met.contains_key(&(a, b)) {
                let after = self.random.between((1, 20)) * MS;
                self.after(after, Event::Meet { a, b });
            }
        }
    }
}

/// What is known of the members: from the file, or from the tree where that has newer ones.
fn members_of(
    ensemble: Ensemble,
    pipeline: &mut Pipeline,
    committed: Zxid,
    wall: WallMs,
) -> Ensemble {
    let node = pipeline.writer().node(CONFIG_PATH);
    let stored = node.as_ref().and_then(|node| node.data());
    let ensemble = ensemble.in_tree(stored, committed);
    if ensemble.is_dynamic {
        pipeline.put_members(&ensemble.config, wall);
    }
    ensemble
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
            log.handle_written(disk, false);
        } else {
            return;
        }
    }
}
