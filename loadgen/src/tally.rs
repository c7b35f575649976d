//! What one thread has seen: latencies by kind of operation, errors, and a slice for each interval.

use std::collections::BTreeMap;

use crate::clock::Nanos;
use crate::histogram::Latencies;
use crate::outcome::Disturbances;
use crate::plan::Workload;

/// What is told as an operation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Create,
    Set,
    Get,
    Delete,
    Multi,
    /// A watch event, from the sending of its write.
    Event,
    /// The first watcher's event, from the sending of the write.
    FirstEvent,
    /// The last watcher's event, from the sending of the write.
    LastEvent,
    /// The same from the write's reply.
    LastEventAfterReply,
    /// A session, from the start of its TCP connection to the server's answer.
    Connect,
    Close,
    /// From the wish for a lock to the having of it.
    Lock,
    Unlock,
    Put,
    Take,
    /// An item's way through a queue, from its put's sending to its take's reply.
    Item,
    /// Nodes and watches that a run needs, outside of its load.
    Preparation,
}

impl Kind {
    pub const ALL: [Kind; 17] = [
        Kind::Create,
        Kind::Set,
        Kind::Get,
        Kind::Delete,
        Kind::Multi,
        Kind::Event,
        Kind::FirstEvent,
        Kind::LastEvent,
        Kind::LastEventAfterReply,
        Kind::Connect,
        Kind::Close,
        Kind::Lock,
        Kind::Unlock,
        Kind::Put,
        Kind::Take,
        Kind::Item,
        Kind::Preparation,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Set => "set",
            Kind::Get => "get",
            Kind::Delete => "delete",
            Kind::Multi => "multi",
            Kind::Event => "event",
            Kind::FirstEvent => "first_event",
            Kind::LastEvent => "last_event",
            Kind::LastEventAfterReply => "last_event_after_reply",
            Kind::Connect => "connect",
            Kind::Close => "close",
            Kind::Lock => "lock",
            Kind::Unlock => "unlock",
            Kind::Put => "put",
            Kind::Take => "take",
            Kind::Item => "item",
            Kind::Preparation => "preparation",
        }
    }

    /// `read`, `write` or `event`: the summary's coarser classes.
    pub fn class(self) -> Option<&'static str> {
        match self {
            Kind::Get => Some("read"),
            Kind::Event => Some("event"),
            Kind::FirstEvent | Kind::LastEvent | Kind::LastEventAfterReply => None,
            Kind::Item | Kind::Preparation => None,
            _ => Some("write"),
        }
    }

    /// Whether it is what `workload`'s work is counted in.
    pub fn is_unit_of(self, workload: Workload) -> bool {
        match workload {
            Workload::Watch => self == Kind::Event,
            Workload::Lock => self == Kind::Lock,
            Workload::Queue => self == Kind::Take,
            Workload::Connect => self == Kind::Connect,
            Workload::Ephemeral => self == Kind::Create,
            _ => {
                let nodes = [Kind::Create, Kind::Set, Kind::Get, Kind::Delete, Kind::Multi];
                nodes.contains(&self)
            }
        }
    }
}

/// One thread's share of one interval of the time series.
#[derive(Clone)]
pub struct Slice {
    /// Which interval, counted from the measured time's start.
    pub index: u64,
    pub latencies: Latencies,
    pub errors: u64,
    pub disconnects: u64,
}

impl Slice {
    pub fn new(index: u64) -> Slice {
        Slice { index, latencies: Latencies::coarse(), errors: 0, disconnects: 0 }
    }

    pub fn merge(&mut self, other: &Slice) {
        self.latencies.merge(&other.latencies);
        self.errors += other.errors;
        self.disconnects += other.disconnects;
    }
}

/// When the measured time begins and ends; an operation belongs to it by its intended sending.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: Nanos,
    pub to: Nanos,
}

pub struct Tally {
    workload: Workload,
    window: Window,
    interval: Nanos,
    /// By [`Kind`]; there from its first operation on.
    kinds: [Option<Latencies>; Kind::ALL.len()],
    pub errors: BTreeMap<(Kind, i32), u64>,
    pub disturbances: Disturbances,
    /// How late an open loop sent what it could have sent.
    pub send_lag: Latencies,
    /// Events over the whole run, the warm-up included, and how many there should have been.
    pub events_all: u64,
    pub events_due: u64,
    pub fan_outs_incomplete: u64,
    slice: Slice,
    slice_end: Nanos,
    finished: Vec<Slice>,
}

impl Tally {
    pub fn new(workload: Workload, interval: Nanos) -> Tally {
        Tally {
            workload,
            window: Window { from: Nanos::MAX, to: Nanos::MAX },
            interval,
            kinds: Default::default(),
            errors: BTreeMap::new(),
            disturbances: Disturbances::default(),
            send_lag: Latencies::fine(),
            events_all: 0,
            events_due: 0,
            fan_outs_incomplete: 0,
            slice: Slice::new(0),
            slice_end: Nanos::MAX,
            finished: Vec::new(),
        }
    }

    /// Says which time is measured. Nothing is recorded before.
    pub fn measure(&mut self, window: Window) {
        self.window = window;
        self.slice_end = window.from + self.interval;
    }

    /// Notes that what was to be sent at `intended` was done at `now`.
    pub fn record(&mut self, kind: Kind, intended: Nanos, now: Nanos) {
        if intended < self.window.from || intended >= self.window.to {
            return;
        }
        let latency = now.saturating_sub(intended);
        self.record_latency(kind, latency);
        if kind.is_unit_of(self.workload) {
            self.roll(now);
            self.slice.latencies.record(latency);
        }
    }

    /// The same of an operation whose time is known otherwise, outside of the time series.
    pub fn record_latency(&mut self, kind: Kind, latency: Nanos) {
        self.kinds[kind as usize].get_or_insert_with(Latencies::fine).record(latency);
    }

    pub fn is_measured(&self, intended: Nanos) -> bool {
        intended >= self.window.from && intended < self.window.to
    }

    pub fn error(&mut self, kind: Kind, code: i32, now: Nanos) {
        *self.errors.entry((kind, code)).or_default() += 1;
        if now >= self.window.from {
            self.roll(now);
            self.slice.errors += 1;
        }
    }

    pub fn disconnect(&mut self, now: Nanos) {
        self.disturbances.disconnects += 1;
        if now >= self.window.from {
            self.roll(now);
            self.slice.disconnects += 1;
        }
    }

    /// Ends the slices that are over at `now`.
    pub fn roll(&mut self, now: Nanos) {
        if now < self.slice_end {
            return;
        }
        let index = (now - self.window.from) / self.interval;
        self.slice_end = self.window.from + (index + 1) * self.interval;
        let finished = std::mem::replace(&mut self.slice, Slice::new(index));
        self.finished.push(finished);
    }

    /// The slices that have ended since this was asked before.
    pub fn take_slices(&mut self) -> Vec<Slice> {
        std::mem::take(&mut self.finished)
    }

    /// The slice that was under way when the run ended.
    pub fn last_slice(&self) -> Slice {
        self.slice.clone()
    }

    pub fn latencies(&self, kind: Kind) -> Option<&Latencies> {
        self.kinds[kind as usize].as_ref()
    }

    /// Adds another thread's; the slices are reported on their own.
    pub fn merge(&mut self, other: &Tally) {
        for kind in Kind::ALL {
            if let Some(theirs) = other.latencies(kind) {
                self.kinds[kind as usize].get_or_insert_with(Latencies::fine).merge(theirs);
            }
        }
        for (key, count) in &other.errors {
            *self.errors.entry(*key).or_default() += count;
        }
        let (ours, theirs) = (&mut self.disturbances, &other.disturbances);
        ours.disconnects += theirs.disconnects;
        ours.connects_failed += theirs.connects_failed;
        ours.reattached += theirs.reattached;
        ours.sessions_expired += theirs.sessions_expired;
        ours.in_doubt += theirs.in_doubt;
        ours.never_sent += theirs.never_sent;
        self.send_lag.merge(&other.send_lag);
        self.events_all += other.events_all;
        self.events_due += other.events_due;
        self.fan_outs_incomplete += other.fan_outs_incomplete;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn an_operation_counts_by_its_intended_time_and_shows_where_it_ended() {
        let mut tally = Tally::new(Workload::Get, SECOND);
        tally.record(Kind::Get, 1, 2);
        tally.measure(Window { from: 10 * SECOND, to: 12 * SECOND });
        tally.record(Kind::Get, 10 * SECOND - 1, 10 * SECOND);
        tally.record(Kind::Get, 10 * SECOND, 10 * SECOND + 5);
        tally.record(Kind::Get, 12 * SECOND - 1, 13 * SECOND + 1);
        tally.record(Kind::Get, 12 * SECOND, 12 * SECOND + 1);
        assert_eq!(tally.latencies(Kind::Get).unwrap().count(), 2);
        let slices: Vec<(u64, u64)> = tally
            .take_slices()
            .iter()
            .chain([&tally.last_slice()])
            .map(|slice| (slice.index, slice.latencies.count()))
            .collect();
        assert_eq!(slices, [(0, 1), (3, 1)]);
    }

    #[test]
    fn what_two_threads_saw_adds_up() {
        let mut tallies = [0, 1].map(|_| Tally::new(Workload::Set, SECOND));
        for tally in &mut tallies {
            tally.measure(Window { from: 0, to: SECOND });
            tally.record(Kind::Set, 0, 7000);
            tally.error(Kind::Set, -101, 5);
            tally.disconnect(6);
        }
        let [mut first, second] = tallies;
        first.merge(&second);
        assert_eq!(first.latencies(Kind::Set).unwrap().count(), 2);
        assert_eq!(first.errors[&(Kind::Set, -101)], 2);
        assert_eq!(first.disturbances.disconnects, 2);
    }
}
