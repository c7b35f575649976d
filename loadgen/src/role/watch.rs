//! Watch fan-out: writers that change nodes, and watchers that hear of it.
//!
//! An event names its node and not the change, so a watcher counts: it asks for the node's version
//! once its watch stands, and each event is the next one. A writer asks too before it writes, and
//! alone writes its nodes, so it knows the version that each of its writes makes.

use crate::clock::Nanos;
use crate::plan::{self, Directory, Plan, WatchMode};
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, State, Step, Want};
use crate::shared::Complete;
use crate::tally::Kind;
use crate::wire::{self, Message};

/// A version that no write makes: the watcher does not know where it stands.
const UNKNOWN: u64 = u64::MAX;

/// `addWatch`'s modes.
const PERSISTENT: i32 = 0;
const PERSISTENT_RECURSIVE: i32 = 1;

/// Writer W of M writes the keys W, W + M, … in turn.
pub struct Writer {
    keys: Vec<u64>,
    /// By own key, the version that the next write makes.
    versions: Vec<u64>,
    turn: usize,
    /// Versions still to be asked for.
    unknown: usize,
}

impl Writer {
    pub fn new(plan: &Plan, index: usize) -> Writer {
        let keys: Vec<u64> = (index as u64..plan.keys).step_by(plan.connections).collect();
        let (versions, unknown) = (vec![UNKNOWN; keys.len()], keys.len());
        Writer { keys, versions, turn: 0, unknown }
    }

    fn own(&self, key: u64) -> Option<usize> {
        self.keys.binary_search(&key).ok()
    }
}

impl Role for Writer {
    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        io.sync();
        self.unknown = self.keys.len();
        for key in self.keys.clone() {
            ask_version(io, key);
        }
    }

    fn is_armed(&self) -> bool {
        self.unknown == 0
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let session = &io.session;
        if self.unknown > 0
            || session.state != State::Live
            || session.pending.len() >= io.plan().in_flight
        {
            return Room::No;
        }
        let own = self.turn % self.keys.len();
        match io.shared.fan_out.turn(self.keys[own], self.versions[own], io.now) {
            Some(given_up) => {
                io.tally.fan_outs_incomplete += given_up;
                Room::Yes
            }
            None => Room::Later,
        }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        let plan = io.plan();
        let own = self.turn % self.keys.len();
        let (key, version) = (self.keys[own], self.versions[own]);
        self.turn += 1;
        self.versions[own] += 1;
        io.shared.fan_out.begin(key, version, intended);
        plan.key_path(io.path, key);
        let path = std::mem::take(io.path);
        let frame = io.request_observed(wire::SET_DATA, Step::Set, intended, key, version);
        frame.bytes(&path).bytes(&plan.value).int(-1).finish();
        *io.path = path;
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        match pending.step {
            Step::Arm => {
                if failed(io, Kind::Preparation, message.error) {
                    return;
                }
                if let (Some(own), Some(version)) = (self.own(pending.number), message.version()) {
                    self.versions[own] = u64::try_from(version).unwrap_or(0) + 1;
                    self.unknown -= 1;
                }
            }
            Step::Set => {
                let (key, version) = (pending.number, pending.id);
                if failed(io, Kind::Set, message.error) {
                    io.shared.fan_out.abandon(key, version);
                    return;
                }
                io.tally.record(Kind::Set, pending.intended, io.now);
                let (due, complete) = io.shared.fan_out.replied(key, version, io.now);
                io.tally.events_due += due;
                note(io, complete);
            }
            _ => {
                failed(io, Kind::Preparation, message.error);
            }
        }
    }

    fn lost(&mut self, io: &mut Io<'_>, pending: &Pending) {
        if pending.step == Step::Set {
            io.shared.fan_out.abandon(pending.number, pending.id);
        }
    }
}

pub struct Watcher {
    /// By key, the version that the next event tells of.
    versions: Vec<u64>,
    unknown: usize,
    /// Keys to be watched once more when the write of this version is over. A one-shot watch is not
    /// armed before: other watchers' events would wait for the generator.
    to_arm: Vec<(u64, u64)>,
}

impl Watcher {
    pub fn new(plan: &Plan) -> Watcher {
        let (versions, unknown) = (vec![UNKNOWN; plan.keys as usize], plan.keys as usize);
        Watcher { versions, unknown, to_arm: Vec::new() }
    }
}

impl Role for Watcher {
    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        io.sync();
        let plan = io.plan();
        if plan.watch_mode == WatchMode::Recursive {
            let path = format!("{}{}", plan.root, Directory::Keys.suffix());
            add_watch(io, path.as_bytes(), PERSISTENT_RECURSIVE);
        }
        for key in 0..plan.keys {
            if plan.watch_mode == WatchMode::OneShot {
                arm_once(io, key);
                continue;
            }
            if plan.watch_mode == WatchMode::Persistent {
                plan.key_path(io.path, key);
                let path = std::mem::take(io.path);
                add_watch(io, &path, PERSISTENT);
                *io.path = path;
            }
            ask_version(io, key);
        }
    }

    fn is_armed(&self) -> bool {
        self.unknown == 0
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        if failed(io, Kind::Preparation, message.error) || pending.step != Step::Arm {
            return;
        }
        let (key, version) = (pending.number, message.version().unwrap_or(0));
        let next = &mut self.versions[key as usize];
        if *next == UNKNOWN {
            self.unknown -= 1;
            io.shared.fan_out.stand(key);
        }
        *next = u64::try_from(version).unwrap_or(0) + 1;
    }

    fn event(&mut self, io: &mut Io<'_>, path: &[u8]) {
        let Some(key) = plan::number_of(path).filter(|key| *key < io.plan().keys) else { return };
        io.tally.events_all += 1;
        let version = self.versions[key as usize];
        if version == UNKNOWN {
            return;
        }
        if io.plan().watch_mode == WatchMode::OneShot {
            self.versions[key as usize] = UNKNOWN;
            self.unknown += 1;
            io.shared.fan_out.fall(key);
            self.to_arm.push((key, version));
            io.session.want = Want::Resume;
        } else {
            self.versions[key as usize] = version + 1;
        }
        if let Some((sent, complete)) = io.shared.fan_out.event(key, version, io.now) {
            io.tally.record(Kind::Event, sent, io.now);
            note(io, complete);
        }
    }

    fn resume(&mut self, io: &mut Io<'_>) -> bool {
        let fan_out = &io.shared.fan_out;
        while let Some((key, _)) =
            self.to_arm.pop_if(|&mut (key, version)| fan_out.is_over(key, version))
        {
            if io.loading {
                arm_once(io, key);
            }
        }
        self.to_arm.is_empty()
    }

    fn disconnected(&mut self, io: &mut Io<'_>) {
        io.shared.fan_out.disturb();
        // All are watched again when the session stands again.
        self.to_arm.clear();
        for (key, version) in self.versions.iter_mut().enumerate() {
            if *version != UNKNOWN {
                *version = UNKNOWN;
                self.unknown += 1;
                io.shared.fan_out.fall(key as u64);
            }
        }
    }

    fn is_driven(&self) -> bool {
        false
    }
}

/// Records a write that everyone has heard of.
fn note(io: &mut Io<'_>, complete: Option<Complete>) {
    let Some(complete) = complete else { return };
    if complete.last_event == 0 {
        // Nobody was watching.
        return;
    }
    io.tally.record(Kind::FirstEvent, complete.sent, complete.first_event);
    io.tally.record(Kind::LastEvent, complete.sent, complete.last_event);
    if io.tally.is_measured(complete.sent) {
        let after = complete.last_event.saturating_sub(complete.replied);
        io.tally.record_latency(Kind::LastEventAfterReply, after);
    }
}

fn add_watch(io: &mut Io<'_>, path: &[u8], mode: i32) {
    let now = io.now;
    io.request(wire::ADD_WATCH, Step::Prepare, now, 0).bytes(path).int(mode).finish();
}

/// `exists` without a watch: its reply is the stat alone.
fn ask_version(io: &mut Io<'_>, key: u64) {
    ask(io, key, wire::EXISTS, false);
}

/// `getData` with a watch, as applications do it.
fn arm_once(io: &mut Io<'_>, key: u64) {
    ask(io, key, wire::GET_DATA, true);
}

fn ask(io: &mut Io<'_>, key: u64, opcode: i32, watch: bool) {
    io.plan().key_path(io.path, key);
    let path = std::mem::take(io.path);
    let now = io.now;
    io.request(opcode, Step::Arm, now, key).bytes(&path).bool(watch).finish();
    *io.path = path;
}
