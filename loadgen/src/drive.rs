//! The closed loop: a thread with its connections, where each reply sends the next request.
//!
//! One wait gives all sockets that are ready; of each, all replies are taken with one read and all
//! new requests go out with one write.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::client::{self, Connection, InFlight, Message};
use crate::histogram::Latencies;
use crate::plan::{self, End, Plan, Random, WatchMode, Workload};
use crate::process::Usage;

/// Sends of one node whose times are kept: more than a writer ever has in flight on it.
const SENDS_KEPT: u64 = 1 << 12;

/// An idle watcher's session is kept alive this often, and the clock is looked at no less often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What one thread, or all of them, have seen in the measured time.
pub struct Tally {
    pub reads: Latencies,
    pub writes: Latencies,
    pub events: Latencies,
    /// How often the server answered with each error.
    pub errors: BTreeMap<i32, u64>,
    pub seconds: f64,
    /// Over the whole run, warm-up included: what was written, and what watchers heard of it.
    pub writes_all: u64,
    pub events_all: u64,
    pub server_before: Usage,
    pub server_after: Usage,
    pub own_cpu_seconds: f64,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            reads: Latencies::new(),
            writes: Latencies::new(),
            events: Latencies::new(),
            errors: BTreeMap::new(),
            seconds: 0.0,
            writes_all: 0,
            events_all: 0,
            server_before: Usage::default(),
            server_after: Usage::default(),
            own_cpu_seconds: 0.0,
        }
    }

    pub fn merge(&mut self, other: &Tally) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.events.merge(&other.events);
        self.seconds = self.seconds.max(other.seconds);
        self.writes_all += other.writes_all;
        self.events_all += other.events_all;
        for (error, count) in &other.errors {
            *self.errors.entry(*error).or_default() += count;
        }
    }

    pub fn operations(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }
}

/// When each write of each key was sent, for the watchers that hear of it, maybe on other threads.
pub struct SendTimes {
    start: Instant,
    nanos: Vec<AtomicU64>,
}

impl SendTimes {
    pub fn new(plan: &Plan) -> SendTimes {
        let keys = if plan.workload == Workload::Watch { plan.keys } else { 0 };
        let nanos = (0..keys * SENDS_KEPT).map(|_| AtomicU64::new(0)).collect();
        SendTimes { start: Instant::now(), nanos }
    }

    fn slot(&self, key: u64, version: u64) -> &AtomicU64 {
        &self.nanos[(key * SENDS_KEPT + version % SENDS_KEPT) as usize]
    }

    fn sent(&self, key: u64, version: u64, now: Instant) {
        let nanos = now.duration_since(self.start).as_nanos() as u64;
        self.slot(key, version).store(nanos, Ordering::Relaxed);
    }

    fn since(&self, key: u64, version: u64, now: Instant) -> Duration {
        let sent = Duration::from_nanos(self.slot(key, version).load(Ordering::Relaxed));
        now.duration_since(self.start).saturating_sub(sent)
    }
}

/// What a request was, for when its reply comes.
#[derive(Clone, Copy)]
enum Tag {
    /// The sync before the load.
    Ready,
    Read,
    Write,
    /// A watch of this key was asked for.
    Arm(u64),
}

enum Role {
    Worker {
        random: Random,
        /// Requests still to be sent, when the run is counted.
        remaining: u64,
        /// What this worker makes or sets next: a node's number, or how many writes came before.
        next: u64,
    },
    /// By key, the version that the next event tells of.
    Watcher { versions: Vec<u64> },
}

struct Lane {
    connection: Connection<Tag>,
    role: Role,
    index: usize,
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Watchers are armed, nobody writes.
    Arming,
    WarmUp,
    Measuring,
    /// Nothing more is sent; what is under way is awaited.
    Draining,
    /// Each watcher's ping is awaited, behind which no event can be.
    Flushing,
    Done,
}

/// One thread's share of a run.
pub struct Driver<'a> {
    plan: &'a Plan,
    send_times: &'a SendTimes,
    /// The thread that reads the processes' CPU, when the measuring starts and ends.
    samples: bool,
    lanes: Vec<Lane>,
    epoll: OwnedFd,
    phase: Phase,
    measured_since: Instant,
    pings_in_flight: usize,
    path: Vec<u8>,
    tally: Tally,
}

impl<'a> Driver<'a> {
    /// Connects `indexes` of the plan's connections; those from `plan.connections` on watch.
    pub fn new(
        plan: &'a Plan,
        send_times: &'a SendTimes,
        indexes: impl Iterator<Item = usize>,
        samples: bool,
    ) -> io::Result<Driver<'a>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut lanes = Vec::new();
        for index in indexes {
            let server = plan.servers[index % plan.servers.len()];
            let connection = Connection::open(server, plan.session_timeout_ms)?;
            let data = EventData::new_u64(lanes.len() as u64);
            epoll::add(&epoll, &connection.stream, data, EventFlags::IN)?;
            lanes.push(Lane { connection, role: role(plan, index), index, full: false });
        }
        Ok(Driver {
            plan,
            send_times,
            samples,
            lanes,
            epoll,
            phase: Phase::Arming,
            measured_since: Instant::now(),
            pings_in_flight: 0,
            path: Vec::new(),
            tally: Tally::new(),
        })
    }

    /// Returns when every session is up to date and every watch stands.
    pub fn arm(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for index in 0..self.lanes.len() {
            // A follower may not know yet of the nodes that were made through another server.
            let connection = &mut self.lanes[index].connection;
            connection.request(client::SYNC, now, Tag::Ready).bytes(b"/").finish();
            self.arm_lane(index, now);
            self.flush(index)?;
        }
        while self.in_flight() > 0 {
            self.turn()?;
        }
        Ok(())
    }

    /// Runs the load and gives what was seen.
    pub fn run(mut self) -> io::Result<Tally> {
        let start = Instant::now();
        self.phase = Phase::WarmUp;
        if matches!(self.plan.end, End::Count(_)) || self.plan.warm_up.is_zero() {
            self.begin_measuring(start);
        }
        for index in 0..self.lanes.len() {
            self.top_up(index, start);
            self.flush(index)?;
        }
        let mut beat = start;
        while self.phase != Phase::Done {
            let now = self.turn()?;
            self.advance(start, now)?;
            if now.duration_since(beat) >= HEARTBEAT {
                beat = now;
                self.ping_watchers()?;
            }
        }
        for lane in self.lanes {
            lane.connection.close();
        }
        Ok(self.tally)
    }

    /// Moves to the next phase when this one is over.
    fn advance(&mut self, start: Instant, now: Instant) -> io::Result<()> {
        let elapsed = now.duration_since(start);
        match self.phase {
            Phase::WarmUp if elapsed >= self.plan.warm_up => self.begin_measuring(now),
            Phase::Measuring => {
                let over = match self.plan.end {
                    End::After(time) => elapsed >= self.plan.warm_up + time,
                    End::Count(_) => self.in_flight() == 0 && self.remaining() == 0,
                };
                if over {
                    self.end_measuring(now);
                }
            }
            Phase::Draining if self.in_flight() == 0 => {
                self.phase = Phase::Flushing;
                self.ping_watchers()?;
            }
            Phase::Flushing if self.pings_in_flight == 0 => self.phase = Phase::Done,
            _ => {}
        }
        Ok(())
    }

    fn begin_measuring(&mut self, now: Instant) {
        self.phase = Phase::Measuring;
        self.measured_since = now;
        if self.samples {
            self.tally.server_before = Usage::of(&self.plan.server_pids);
            self.tally.own_cpu_seconds = Usage::of(&[std::process::id()]).cpu.total();
        }
    }

    fn end_measuring(&mut self, now: Instant) {
        self.phase = Phase::Draining;
        self.tally.seconds = now.duration_since(self.measured_since).as_secs_f64();
        if self.samples {
            let own = Usage::of(&[std::process::id()]).cpu.total();
            self.tally.own_cpu_seconds = own - self.tally.own_cpu_seconds;
            self.tally.server_after = Usage::of(&self.plan.server_pids);
        }
    }

    fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.connection.in_flight.len()).sum()
    }

    fn remaining(&self) -> u64 {
        let of = |lane: &Lane| match &lane.role {
            Role::Worker { remaining, .. } => *remaining,
            Role::Watcher { .. } => 0,
        };
        self.lanes.iter().map(of).sum()
    }

    fn ping_watchers(&mut self) -> io::Result<()> {
        for index in 0..self.lanes.len() {
            if matches!(self.lanes[index].role, Role::Watcher { .. }) {
                self.lanes[index].connection.ping();
                self.pings_in_flight += 1;
                self.flush(index)?;
            }
        }
        Ok(())
    }

    /// Waits for sockets and serves them; gives the time at which the wait was over.
    fn turn(&mut self) -> io::Result<Instant> {
        let limit = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut ready = Vec::with_capacity(128);
        match epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut now = Instant::now();
        for event in ready {
            let (data, flags) = (event.data, event.flags);
            let index = data.u64() as usize;
            if flags.contains(EventFlags::OUT) {
                self.flush(index)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                now = self.serve(index)?;
            }
        }
        Ok(now)
    }

    /// Takes what one connection has received and sends what follows from it.
    fn serve(&mut self, index: usize) -> io::Result<Instant> {
        let received = self.lanes[index].connection.receive()?;
        let now = Instant::now();
        if received {
            while self.take_message(index, now)? {}
            self.top_up(index, now);
            self.flush(index)?;
        }
        Ok(now)
    }

    /// Takes one message; `false` when there is no whole one.
    fn take_message(&mut self, index: usize, now: Instant) -> io::Result<bool> {
        let Lane { connection, role, .. } = &mut self.lanes[index];
        let Some(message) = connection.inbox.next_message()? else { return Ok(false) };
        if message.xid == client::XID_PING {
            self.pings_in_flight -= 1;
            return Ok(true);
        }
        if message.xid == client::XID_EVENT {
            let path = message.event_path().unwrap_or_default();
            let key = plan::number_of(path).filter(|key| *key < self.plan.keys);
            let key = key.ok_or_else(|| io::Error::other("an event for a path not watched"))?;
            let rearm = self.plan.watch_mode == WatchMode::OneShot;
            self.tally.events_all += 1;
            let Role::Watcher { versions } = role else {
                return Err(io::Error::other("an event for a session without watches"));
            };
            if self.phase == Phase::Measuring {
                let version = versions[key as usize];
                self.tally.events.record(self.send_times.since(key, version, now));
            }
            versions[key as usize] += 1;
            if rearm && self.phase < Phase::Draining {
                self.plan.key_path(&mut self.path, key);
                let frame = connection.request(client::GET_DATA, now, Tag::Arm(key));
                frame.bytes(&self.path).bool(true).finish();
            }
            return Ok(true);
        }
        let request = connection.in_flight.pop_front();
        let request = request.ok_or_else(|| io::Error::other("a reply that nobody asked for"))?;
        if request.xid != message.xid {
            return Err(io::Error::other("a reply out of order"));
        }
        self.tally.reply(&request, &message, role, self.phase, now);
        Ok(true)
    }

    /// Sends until as much is in flight as the plan says.
    fn top_up(&mut self, index: usize, now: Instant) {
        let Lane { connection, role, index, .. } = &mut self.lanes[index];
        let Role::Worker { random, remaining, next } = role else { return };
        let plan = self.plan;
        if !matches!(self.phase, Phase::WarmUp | Phase::Measuring) {
            return;
        }
        while connection.in_flight.len() < plan.in_flight && *remaining > 0 {
            *remaining -= 1;
            let turn = *next;
            *next += 1;
            if plan.makes_nodes() {
                let number = plan.first + turn * plan.connections as u64 + *index as u64;
                let frame = connection.request(client::CREATE, now, Tag::Write);
                plan.create(frame, &mut self.path, number);
                continue;
            }
            let read = match plan.workload {
                Workload::Get => true,
                Workload::Mixed => random.below(100) < u64::from(plan.read_percent),
                _ => false,
            };
            let key = if plan.workload == Workload::Watch {
                let (key, version) = watched_key(plan, *index, turn);
                self.send_times.sent(key, version, now);
                key
            } else {
                random.below(plan.keys)
            };
            plan.key_path(&mut self.path, key);
            if read {
                let frame = connection.request(client::GET_DATA, now, Tag::Read);
                frame.bytes(&self.path).bool(false).finish();
            } else {
                let frame = connection.request(client::SET_DATA, now, Tag::Write);
                frame.bytes(&self.path).bytes(&plan.value).int(-1).finish();
            }
        }
    }

    fn arm_lane(&mut self, index: usize, now: Instant) {
        let plan = self.plan;
        let Lane { connection, role, .. } = &mut self.lanes[index];
        if !matches!(role, Role::Watcher { .. }) {
            return;
        }
        let recursive = plan.watch_mode == WatchMode::Recursive;
        for key in 0..if recursive { 1 } else { plan.keys } {
            plan.key_path(&mut self.path, key);
            if recursive {
                let slash = self.path.iter().rposition(|byte| *byte == b'/');
                self.path.truncate(slash.expect("a key's path has its directory"));
            }
            if plan.watch_mode == WatchMode::OneShot {
                let frame = connection.request(client::GET_DATA, now, Tag::Arm(key));
                frame.bytes(&self.path).bool(true).finish();
            } else {
                let frame = connection.request(client::ADD_WATCH, now, Tag::Arm(key));
                frame.bytes(&self.path).int(i32::from(recursive)).finish();
            }
        }
    }

    /// Writes what waits, and asks to be told when a full socket has room again.
    fn flush(&mut self, index: usize) -> io::Result<()> {
        let lane = &mut self.lanes[index];
        let full = !lane.connection.flush()?;
        if full != lane.full {
            lane.full = full;
            let flags = if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &lane.connection.stream, data, flags)?;
        }
        Ok(())
    }
}

impl Tally {
    fn reply(
        &mut self,
        request: &InFlight<Tag>,
        message: &Message<'_>,
        role: &mut Role,
        phase: Phase,
        now: Instant,
    ) {
        if message.error != 0 {
            *self.errors.entry(message.error).or_default() += 1;
            return;
        }
        match request.tag {
            Tag::Arm(key) => {
                // A persistent watch's reply has no stat: its events count up from the start.
                if let (Role::Watcher { versions }, Some(version)) = (role, message.version()) {
                    versions[key as usize] = u64::try_from(version).unwrap_or(0) + 1;
                }
            }
            Tag::Write => {
                self.writes_all += 1;
                if phase == Phase::Measuring {
                    self.writes.record(now.duration_since(request.sent));
                }
            }
            Tag::Read if phase == Phase::Measuring => {
                self.reads.record(now.duration_since(request.sent));
            }
            Tag::Read | Tag::Ready => {}
        }
    }
}

fn role(plan: &Plan, index: usize) -> Role {
    if index >= plan.connections {
        return Role::Watcher { versions: vec![1; plan.keys as usize] };
    }
    let remaining = match plan.end {
        End::After(_) => u64::MAX,
        End::Count(count) => plan.share_of(index, count),
    };
    Role::Worker { random: Random::new(index as u64 + 1), remaining, next: 0 }
}

/// The key of a writer's `turn`, and the version that this write makes: writer W of M alone writes
/// the keys W, W + M, … in turn, so the versions are known without being asked for.
fn watched_key(plan: &Plan, writer: usize, turn: u64) -> (u64, u64) {
    let (writer, writers) = (writer as u64, plan.connections as u64);
    let own = (plan.keys - writer).div_ceil(writers);
    (writer + turn % own * writers, turn / own + 1)
}
