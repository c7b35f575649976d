//! One thread's share of a run: its connections, and the loop that serves them.
//!
//! One wait gives all sockets that are ready; of each, all replies are taken with one read and all
//! new requests go out with one write. In a closed loop each reply makes room for the next
//! operation; in an open loop a schedule says when operations are due, and whoever has room takes
//! them. A lost connection is tried again, ever more slowly, at the next server.
//!
//! This file has the phases of a run and its timers, `lanes` what happens to one connection.

mod lanes;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags};

use crate::clock::{MILLISECOND, Nanos, SECOND, nanos};
use crate::plan::End;
use crate::process::OwnUse;
use crate::role::Role;
use crate::schedule::Schedule;
use crate::session::Session;
use crate::shared::Shared;
use crate::tally::{Slice, Tally, Window};

/// Connections that are being made at once: a listening socket's backlog is short.
const CONNECTING_MAX: usize = 64;

/// All lanes are looked at once in this time, a share of them each [`BEAT`]: pings, dead servers.
const ROUND: Nanos = SECOND;
const BEAT: Nanos = 50 * MILLISECOND;

/// The longest wait, and the longest beside lanes that wait for other lanes.
const WAIT_MAX: Nanos = 20 * MILLISECOND;
const WAIT_STARVED: Nanos = MILLISECOND / 2;

/// How often is looked whether the load, or the draining, is over.
const LOOK: Nanos = MILLISECOND;

const EVENTS_MAX: usize = 512;
const BUFFER_BYTES: usize = 256 << 10;

/// How long sessions may take to end.
const CLOSE_MAX: Nanos = 3 * SECOND;

/// What a driver tells the thread that started it.
pub enum Report {
    /// All its sessions stand; it waits for the start.
    Armed,
    /// Why it cannot go on.
    Failed(String),
    /// The measured time is over.
    Loaded,
    Slice(Slice),
}

/// What a driver has seen.
pub struct Finished {
    pub tally: Tally,
    /// From the measured time's start to its end.
    pub measured: Nanos,
    pub own: OwnUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Arming,
    Loading,
    /// Nothing more is begun; what is under way is awaited.
    Draining,
    /// Each watcher's ping is awaited, behind which no event can be.
    Flushing,
    Closing,
    Done,
}

struct Lane {
    session: Session,
    role: Box<dyn Role>,
    /// Of the connection, over all threads.
    index: usize,
    /// Counts sockets, so that what was said of an earlier one is not taken for this one's.
    generation: u32,
    /// Whether epoll waits for room to write.
    full: bool,
    /// Whether it stands in `free` or in `starved`.
    listed: bool,
}

pub struct Driver<'a> {
    shared: &'a Shared<'a>,
    reports: Sender<Report>,
    lanes: Vec<Lane>,
    epoll: OwnedFd,
    phase: Phase,
    window: Window,
    schedule: Option<Schedule>,
    /// Whether operations come from a schedule.
    is_open: bool,
    /// This thread's share of a rate, and where in a period it begins (both 0 to 1).
    share: f64,
    stagger: f64,
    /// Lanes that may have room, in an open loop.
    free: VecDeque<usize>,
    /// Lanes that wait for what other lanes do.
    starved: Vec<usize>,
    /// Lanes that have put something off.
    put_off: VecDeque<usize>,
    /// Lanes that have something to write.
    touched: Vec<usize>,
    unopened: VecDeque<usize>,
    connecting: usize,
    retries: BinaryHeap<Reverse<(Nanos, usize)>>,
    /// Since when due operations find a lane with room.
    roomy_since: Nanos,
    next_beat: Nanos,
    beat_lane: usize,
    next_look: Nanos,
    deadline: Nanos,
    /// Whether it has said that it is armed.
    armed: bool,
    last_failure: String,
    path: Vec<u8>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
    tally: Tally,
}

impl<'a> Driver<'a> {
    /// Of the connections `lanes`, of which `share` (0 to 1) of all that share a rate.
    pub fn new(
        shared: &'a Shared<'a>,
        roles: Vec<(usize, Box<dyn Role>)>,
        share: f64,
        stagger: f64,
        reports: Sender<Report>,
    ) -> io::Result<Driver<'a>> {
        let lane = |(index, role): (usize, Box<dyn Role>)| {
            let session = Session::new(index);
            Lane { session, role, index, generation: 0, full: false, listed: false }
        };
        let lanes: Vec<Lane> = roles.into_iter().map(lane).collect();
        let opens = (0..lanes.len()).filter(|index| lanes[*index].role.opens()).collect();
        let plan = shared.plan;
        Ok(Driver {
            shared,
            reports,
            lanes,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            phase: Phase::Arming,
            window: Window { from: Nanos::MAX, to: Nanos::MAX },
            schedule: None,
            is_open: false,
            share,
            stagger,
            free: VecDeque::new(),
            starved: Vec::new(),
            put_off: VecDeque::new(),
            touched: Vec::new(),
            unopened: opens,
            connecting: 0,
            retries: BinaryHeap::new(),
            roomy_since: 0,
            next_beat: 0,
            beat_lane: 0,
            next_look: 0,
            deadline: shared.clock.now() + nanos(plan.connect_patience),
            armed: false,
            last_failure: "no answer".to_owned(),
            path: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            events: Vec::with_capacity(EVENTS_MAX),
            tally: Tally::new(plan.workload, nanos(plan.interval)),
        })
    }

    /// Runs the load and gives what was seen; `None` when the run was given up.
    pub fn run(mut self) -> Option<Finished> {
        let mut began: Option<OwnUse> = None;
        let mut measured = (0, OwnUse::default());
        while self.phase != Phase::Done {
            let now = match self.turn() {
                Ok(now) => now,
                Err(error) => {
                    self.report(Report::Failed(format!("waiting for sockets failed: {error}")));
                    return None;
                }
            };
            if self.shared.abort.load(Ordering::Relaxed) {
                return None;
            }
            let before = self.phase;
            self.advance(now);
            if now >= self.window.from && began.is_none() {
                began = Some(OwnUse::now());
            }
            if before == Phase::Loading && self.phase > Phase::Loading {
                let from = began.unwrap_or_default();
                self.report(Report::Loaded);
                measured = (self.window.to - self.window.from, OwnUse::now().since(from));
            }
        }
        self.report(Report::Slice(self.tally.last_slice()));
        let (measured, own) = measured;
        Some(Finished { tally: self.tally, measured, own })
    }

    /// A coordinator that is gone has given the run up and will say so by `abort`.
    fn report(&self, report: Report) {
        let _ = self.reports.send(report);
    }

    /// Moves to the next phase when this one is over.
    fn advance(&mut self, now: Nanos) {
        self.tally.roll(now);
        for slice in self.tally.take_slices() {
            self.report(Report::Slice(slice));
        }
        let phase = self.phase;
        match phase {
            Phase::Arming => self.advance_arming(now),
            Phase::Loading => {
                let over = match self.shared.plan.end {
                    End::After(_) => now >= self.window.to,
                    End::Count(_) => self.look(now) && self.is_exhausted(),
                };
                if over {
                    self.phase = Phase::Draining;
                    self.deadline = now + nanos(self.shared.plan.drain);
                    self.window.to = self.window.to.min(now);
                }
            }
            Phase::Draining if self.look(now) && (self.is_drained() || now >= self.deadline) => {
                self.end_draining(now);
            }
            Phase::Flushing if self.look(now) => {
                let pings = |lane: &Lane| lane.session.pings_pending > 0;
                if now >= self.deadline || !self.lanes.iter().any(pings) {
                    self.close_all(now);
                }
            }
            Phase::Closing if self.look(now) => {
                let open = |lane: &Lane| lane.session.stream.is_some();
                if now >= self.deadline || !self.lanes.iter().any(open) {
                    self.phase = Phase::Done;
                }
            }
            _ => {}
        }
    }

    /// Whether it is time to look at all lanes again.
    fn look(&mut self, now: Nanos) -> bool {
        let due = now >= self.next_look;
        if due {
            self.next_look = now + LOOK;
        }
        due
    }

    fn advance_arming(&mut self, now: Nanos) {
        let start = self.shared.start.load(Ordering::Acquire);
        if start == Nanos::MAX && self.look(now) {
            if self.lanes.iter().all(|lane| lane.role.is_armed()) {
                if !std::mem::replace(&mut self.armed, true) {
                    self.report(Report::Armed);
                }
            } else if now >= self.deadline {
                let armed = self.lanes.iter().filter(|lane| lane.role.is_armed()).count();
                let (all, why) = (self.lanes.len(), &self.last_failure);
                let said = format!("{armed} of {all} sessions stand, the others do not: {why}");
                self.report(Report::Failed(said));
                self.deadline = Nanos::MAX;
            }
        }
        if now >= start {
            self.begin_loading(start, now);
        }
    }
    fn begin_loading(&mut self, start: Nanos, now: Nanos) {
        let plan = self.shared.plan;
        self.phase = Phase::Loading;
        self.window.from = start + nanos(plan.warm_up);
        self.window.to = match plan.end {
            End::After(time) => self.window.from + nanos(time),
            End::Count(_) => Nanos::MAX,
        };
        self.tally.measure(self.window);
        self.roomy_since = start;
        if let Some(rate) = plan.rate.filter(|_| self.share > 0.0) {
            let rate = rate * self.share;
            let schedule = Schedule::new(rate, plan.arrivals, start, self.window.to, self.stagger);
            self.is_open = true;
            self.schedule = Some(match plan.end {
                End::After(_) => schedule,
                End::Count(_) => schedule.at_most(self.remaining()),
            });
        }
        for lane in 0..self.lanes.len() {
            self.begin_lane(lane, now);
        }
    }

    /// What a counted run has yet to send.
    fn remaining(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.role.remaining()).sum()
    }

    /// Whether a counted run has nothing more to do.
    fn is_exhausted(&self) -> bool {
        self.remaining() == 0 && self.is_drained()
    }

    fn is_drained(&self) -> bool {
        let waits = self.phase == Phase::Draining
            && self.schedule.as_ref().is_some_and(|schedule| schedule.due().is_some());
        !waits && self.lanes.iter().all(|lane| lane.role.is_done(&lane.session))
    }

    fn end_draining(&mut self, now: Nanos) {
        let disturbances = &mut self.tally.disturbances;
        if let Some(schedule) = self.schedule.take() {
            disturbances.never_sent += schedule.give_up(now);
        }
        let pending = |lane: &Lane| lane.session.pending.len() as u64;
        disturbances.in_doubt += self.lanes.iter().map(pending).sum::<u64>();
        self.phase = Phase::Flushing;
        self.deadline = now + CLOSE_MAX;
        for lane in 0..self.lanes.len() {
            if !self.lanes[lane].role.is_driven() {
                self.ping(lane, now);
            }
        }
    }

    /// Waits for sockets and serves them; gives the time at which the wait was over.
    fn turn(&mut self) -> io::Result<Nanos> {
        let limit = self.next_wait();
        let limit = Timespec { tv_sec: (limit / SECOND) as i64, tv_nsec: (limit % SECOND) as i64 };
        let mut ready = std::mem::take(&mut self.events);
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = self.shared.clock.now();
        for event in &ready {
            let (data, flags) = (event.data, event.flags);
            self.ready(data.u64(), flags, now);
        }
        self.events = ready;
        self.serve_timers(now);
        self.feed(now);
        Ok(now)
    }

    /// How long nothing happens by itself.
    fn next_wait(&self) -> Nanos {
        let now = self.shared.clock.now();
        let is_starved = !self.starved.is_empty() || !self.put_off.is_empty();
        let mut next = now + if is_starved { WAIT_STARVED } else { WAIT_MAX };
        next = next.min(self.next_beat);
        if let Some(Reverse((at, _))) = self.retries.peek() {
            next = next.min(*at);
        }
        let due = self.schedule.as_ref().and_then(Schedule::due);
        if let Some(due) = due.filter(|_| self.feeds() && !self.free.is_empty()) {
            next = next.min(due);
        }
        if self.phase >= Phase::Loading {
            next = next.min(match self.phase {
                Phase::Loading if now < self.window.from => self.window.from,
                Phase::Loading if self.window.to < Nanos::MAX => self.window.to,
                _ => now + LOOK,
            });
        } else {
            next = next.min(self.shared.start.load(Ordering::Acquire));
        }
        next.saturating_sub(now)
    }

    /// Whether operations that are due are begun: late ones of an open loop in the draining too.
    fn feeds(&self) -> bool {
        match self.phase {
            Phase::Loading => true,
            Phase::Draining => self.is_open,
            _ => false,
        }
    }

    fn serve_timers(&mut self, now: Nanos) {
        while self.connecting < CONNECTING_MAX
            && let Some(lane) = self.unopened.pop_front()
        {
            self.connect(lane, now);
        }
        while let Some(Reverse((at, lane))) = self.retries.peek().copied()
            && at <= now
        {
            self.retries.pop();
            self.retry(lane, now);
        }
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            let count = self.lanes.len().div_ceil((ROUND / BEAT) as usize);
            for _ in 0..count {
                self.beat_lane = (self.beat_lane + 1) % self.lanes.len();
                self.beat(self.beat_lane, now);
            }
        }
    }

    /// Begins what is due: an open loop's operations, and what waited for other lanes.
    fn feed(&mut self, now: Nanos) {
        if !self.feeds() {
            return;
        }
        self.resume(now);
        for lane in std::mem::take(&mut self.starved) {
            self.lanes[lane].listed = false;
            self.top_up(lane, now);
            self.flush(lane, now);
        }
        let Some(mut schedule) = self.schedule.take() else { return };
        while let Some(due) = schedule.due().filter(|due| *due <= now) {
            let Some(lane) = self.next_free(now) else {
                self.roomy_since = now;
                break;
            };
            // An operation that waited for room says nothing of the generator.
            if due >= self.roomy_since && self.tally.is_measured(due) {
                self.tally.send_lag.record(now - due);
            }
            schedule.advance();
            self.start(lane, due, now);
            self.top_up(lane, now);
            self.touched.push(lane);
        }
        self.schedule = Some(schedule);
        while let Some(lane) = self.touched.pop() {
            self.flush(lane, now);
        }
    }
}
