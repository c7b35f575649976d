//! What the threads of a run have in common: the plan, the clock, and how writes reach watchers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::clock::{Clock, Nanos, SECOND};
use crate::observer::Observer;
use crate::plan::{Plan, WatchMode, Workload};

/// Writes of one node whose times are kept; a writer that is this far ahead of its watchers waits.
const WRITES_KEPT_MAX: u64 = 1 << 12;
const WRITES_KEPT_MIN: u64 = 1 << 4;

/// Slots of all nodes together: 48 bytes each.
const SLOTS_MAX: u64 = 1 << 20;

/// A write whose watchers are not all told after so long is given up, where a disconnect can be
/// the cause and where it cannot.
const GIVE_UP_DISTURBED: Nanos = 2 * SECOND;
const GIVE_UP: Nanos = 60 * SECOND;

pub struct Shared<'a> {
    pub plan: &'a Plan,
    pub clock: Clock,
    pub observer: Option<&'a dyn Observer>,
    pub fan_out: FanOutTable,
    /// Items under way in each queue.
    pub depths: Vec<AtomicU64>,
    /// Tells this run's items from those that a run before has left.
    pub run_id: u64,
    /// When the load starts; `Nanos::MAX` until all threads are ready.
    pub start: AtomicU64,
    /// The run is given up.
    pub abort: AtomicBool,
}

impl<'a> Shared<'a> {
    pub fn new(plan: &'a Plan, observer: Option<&'a dyn Observer>) -> Shared<'a> {
        let queues = if plan.workload == Workload::Queue { plan.keys } else { 0 };
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Shared {
            plan,
            clock: Clock::start(),
            observer,
            fan_out: FanOutTable::new(plan),
            depths: (0..queues).map(|_| AtomicU64::new(0)).collect(),
            run_id: crate::clock::nanos(since),
            start: AtomicU64::new(Nanos::MAX),
            abort: AtomicBool::new(false),
        }
    }
}

/// By node, the last writes: when each was sent, and how many watchers have yet to hear of it.
pub struct FanOutTable {
    mode: WatchMode,
    paced: bool,
    watchers: u64,
    kept: u64,
    slots: Vec<Slot>,
    /// Watchers that stand, by key; of one-shot watches those that are armed.
    standing: Vec<AtomicU64>,
    disturbed: AtomicBool,
}

#[derive(Default)]
struct Slot {
    version: AtomicU64,
    sent: AtomicU64,
    replied: AtomicU64,
    first_event: AtomicU64,
    last_event: AtomicU64,
    due: AtomicU32,
    /// Events still to come, and one for the reply; 0 is a write that is complete or given up.
    left: AtomicU32,
}

/// A write that every watcher has heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    pub sent: Nanos,
    pub replied: Nanos,
    pub first_event: Nanos,
    pub last_event: Nanos,
}

impl FanOutTable {
    fn new(plan: &Plan) -> FanOutTable {
        let keys = if plan.workload == Workload::Watch { plan.keys } else { 0 };
        let kept = (SLOTS_MAX / keys.max(1)).clamp(WRITES_KEPT_MIN, WRITES_KEPT_MAX);
        FanOutTable {
            mode: plan.watch_mode,
            paced: plan.paced,
            watchers: plan.watchers as u64,
            kept,
            slots: (0..keys * kept).map(|_| Slot::default()).collect(),
            standing: (0..keys).map(|_| AtomicU64::new(0)).collect(),
            disturbed: AtomicBool::new(false),
        }
    }

    fn slot(&self, key: u64, version: u64) -> &Slot {
        &self.slots[(key * self.kept + version % self.kept) as usize]
    }

    pub fn stand(&self, key: u64) {
        self.standing[key as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn fall(&self, key: u64) {
        self.standing[key as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// A watcher was disconnected: writes may stay incomplete.
    pub fn disturb(&self) {
        self.disturbed.store(true, Ordering::Relaxed);
    }

    /// Whether the write that makes `version` of `key` may be sent: `None` says later, else how
    /// many writes before it were given up for it.
    pub fn turn(&self, key: u64, version: u64, now: Nanos) -> Option<u64> {
        let mut given_up = self.release(self.slot(key, version), now)?;
        let before = self.slot(key, version.wrapping_sub(1));
        if self.paced && before.version.load(Ordering::Acquire) + 1 == version {
            given_up += self.release(before, now)?;
            let armed = self.standing[key as usize].load(Ordering::Relaxed);
            let age = now.saturating_sub(before.sent.load(Ordering::Relaxed));
            if self.mode == WatchMode::OneShot && armed < self.watchers && age < self.patience() {
                return None;
            }
        }
        Some(given_up)
    }

    /// Whether nothing more is expected of a write.
    pub fn is_over(&self, key: u64, version: u64) -> bool {
        let slot = self.slot(key, version);
        slot.version.load(Ordering::Acquire) != version || slot.left.load(Ordering::Acquire) == 0
    }

    /// Whether a slot is free, or is by now: 1 when a write had to be given up for that.
    fn release(&self, slot: &Slot, now: Nanos) -> Option<u64> {
        if slot.left.load(Ordering::Acquire) == 0 {
            return Some(0);
        }
        let age = now.saturating_sub(slot.sent.load(Ordering::Relaxed));
        (age >= self.patience() && slot.left.swap(0, Ordering::AcqRel) > 0).then_some(1)
    }

    fn patience(&self) -> Nanos {
        if self.disturbed.load(Ordering::Relaxed) { GIVE_UP_DISTURBED } else { GIVE_UP }
    }

    /// Notes that the write of `version` goes out, meant to at `sent`.
    pub fn begin(&self, key: u64, version: u64, sent: Nanos) {
        let slot = self.slot(key, version);
        let due = self.standing[key as usize].load(Ordering::Relaxed) as u32;
        slot.sent.store(sent, Ordering::Relaxed);
        slot.replied.store(0, Ordering::Relaxed);
        slot.first_event.store(Nanos::MAX, Ordering::Relaxed);
        slot.last_event.store(0, Ordering::Relaxed);
        slot.due.store(due, Ordering::Relaxed);
        slot.left.store(due + 1, Ordering::Release);
        slot.version.store(version, Ordering::Release);
    }

    /// Notes the write's reply; gives the events that it makes, and the write when all have come.
    pub fn replied(&self, key: u64, version: u64, now: Nanos) -> (u64, Option<Complete>) {
        let slot = self.slot(key, version);
        if slot.version.load(Ordering::Acquire) != version {
            return (0, None);
        }
        slot.replied.store(now, Ordering::Relaxed);
        (u64::from(slot.due.load(Ordering::Relaxed)), slot.one_less())
    }

    /// The write has failed, or nobody will ever know.
    pub fn abandon(&self, key: u64, version: u64) {
        let slot = self.slot(key, version);
        if slot.version.load(Ordering::Acquire) == version {
            slot.left.store(0, Ordering::Release);
        }
    }

    /// Notes a watcher's event; gives when its write was sent, and the write when it was the last.
    pub fn event(&self, key: u64, version: u64, now: Nanos) -> Option<(Nanos, Option<Complete>)> {
        let slot = self.slot(key, version);
        if slot.version.load(Ordering::Acquire) != version {
            return None;
        }
        let sent = slot.sent.load(Ordering::Relaxed);
        slot.first_event.fetch_min(now, Ordering::Relaxed);
        slot.last_event.fetch_max(now, Ordering::Relaxed);
        Some((sent, slot.one_less()))
    }
}

impl Slot {
    fn one_less(&self) -> Option<Complete> {
        let less = |left: u32| left.checked_sub(1);
        let before = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok()?;
        (before == 1).then(|| Complete {
            sent: self.sent.load(Ordering::Relaxed),
            replied: self.replied.load(Ordering::Relaxed),
            first_event: self.first_event.load(Ordering::Relaxed),
            last_event: self.last_event.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunFlags;

    /// Of one key with two watchers that stand.
    fn table(words: &str) -> FanOutTable {
        let words: Vec<&str> = ["loadgen", "watch"].into_iter().chain(words.split(' ')).collect();
        let plan = RunFlags::of(&words).and_then(|flags| flags.plan(Workload::Watch)).unwrap();
        let table = FanOutTable::new(&plan);
        (0..2).for_each(|_| table.stand(0));
        table
    }

    #[test]
    fn a_write_is_complete_with_its_reply_and_every_watchers_event_in_any_order() {
        let table = table("-c 1 --watchers 2");
        table.begin(0, 1, 100);
        assert_eq!(table.event(0, 1, 150), Some((100, None)));
        assert_eq!(table.replied(0, 1, 160), (2, None));
        let complete = Complete { sent: 100, replied: 160, first_event: 150, last_event: 170 };
        assert_eq!(table.event(0, 1, 170), Some((100, Some(complete))));
        // One event too many completes nothing again, and another write's is not this one's.
        assert_eq!(table.event(0, 1, 180), Some((100, None)));
        assert_eq!(table.event(0, 2, 190), None);
    }

    #[test]
    fn a_write_is_over_when_everybody_knows_of_it_or_nobody_will() {
        let table = table("-c 1 --watchers 2");
        assert!(table.is_over(0, 1));
        table.begin(0, 1, 100);
        table.event(0, 1, 150);
        table.replied(0, 1, 160);
        assert!(!table.is_over(0, 1) && table.is_over(0, 2));
        table.event(0, 1, 170);
        assert!(table.is_over(0, 1));
        table.begin(0, 2, 200);
        assert!(!table.is_over(0, 2));
        table.abandon(0, 2);
        assert!(table.is_over(0, 2));
    }

    #[test]
    fn a_paced_write_waits_for_the_one_before_until_that_is_given_up() {
        let table = table("-c 1 --watchers 2 --paced");
        assert_eq!(table.turn(0, 1, 0), Some(0));
        table.begin(0, 1, 0);
        assert_eq!(table.turn(0, 2, SECOND), None);
        table.disturb();
        assert_eq!(table.turn(0, 2, GIVE_UP_DISTURBED), Some(1));
        assert_eq!(table.turn(0, 2, GIVE_UP_DISTURBED), Some(0), "it is given up once");
        table.begin(0, 2, GIVE_UP_DISTURBED);
        table.abandon(0, 2);
        assert_eq!(table.turn(0, 3, GIVE_UP_DISTURBED), Some(0));
    }

    #[test]
    fn a_writer_waits_before_it_takes_the_slot_of_an_unfinished_write() {
        let table = table("-c 1 --watchers 2");
        table.begin(0, 1, 0);
        assert_eq!(table.turn(0, 2, 1), Some(0));
        assert_eq!(table.turn(0, 1 + WRITES_KEPT_MAX, 1), None);
    }

    #[test]
    fn a_one_shot_write_waits_until_all_are_armed_again() {
        let table = table("-c 1 --watchers 2 --watch one-shot");
        table.begin(0, 1, 0);
        for at in 1..=2 {
            table.fall(0);
            table.event(0, 1, at);
        }
        table.replied(0, 1, 3);
        assert_eq!(table.turn(0, 2, 4), None);
        (0..2).for_each(|_| table.stand(0));
        assert_eq!(table.turn(0, 2, 5), Some(0));
    }
}
