//! The end of this server's log in memory: what learners that come back are brought up by.
//!
//! A window of transactions without a gap (R7): within an epoch each counter is one more than that
//! before it, and a new epoch begins at counter 1. The window holds everything that is not
//! committed, and of what is committed as much as its bounds allow.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::zxid::Zxid;

/// While learners are being brought up from the log, so many bytes are kept for them instead of
/// the configured bound: a second or so of the heaviest load, so that who reads the log faster
/// than it grows comes to the window's beginning before that has moved on.
const CATCH_UP_BYTES_MAX: usize = 64 << 20;

/// Whether `next` may stand right behind `last` in a log.
pub fn follows(last: Zxid, next: Zxid) -> bool {
    if next.epoch() == last.epoch() {
        last.next() == Some(next)
    } else {
        next.epoch() > last.epoch() && next.counter() == 1
    }
}

/// A transaction as it stands in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub zxid: Zxid,
    pub txn: Arc<[u8]>,
}

/// Where a zxid stands in relation to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is in it, or is its base, or an epoch's start within; the entry behind it has this
    /// index.
    Before(usize),
    /// The log does not have it; `branch` is the last that both may have in common.
    Foreign { branch: Zxid },
    /// It is earlier than all that the window knows.
    Older,
    /// It is later than the last.
    Newer,
}

/// The transactions of one epoch within the window.
#[derive(Clone, Copy, Debug)]
struct Run {
    epoch: u32,
    /// The counter of its first entry.
    first: u32,
    /// That entry's position; positions count on when the window moves.
    position: u64,
}

/// The window.
#[derive(Debug)]
pub struct History {
    /// What stands right before the first entry.
    base: Zxid,
    entries: VecDeque<Entry>,
    runs: VecDeque<Run>,
    /// The position of the first entry.
    front: u64,
    bytes: usize,
}

impl History {
    /// The empty window behind `base`.
    pub fn new(base: Zxid) -> History {
        History { base, entries: VecDeque::new(), runs: VecDeque::new(), front: 0, bytes: 0 }
    }

    /// What stands right before the window.
    #[cfg(test)]
    pub fn base(&self) -> Zxid {
        self.base
    }

    /// The end of the log.
    pub fn last(&self) -> Zxid {
        self.entries.back().map_or(self.base, |entry| entry.zxid)
    }

    /// How many transactions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes the transactions have.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entries from `index` on.
    #[cfg(test)]
    pub fn from(&self, index: usize) -> impl Iterator<Item = &Entry> {
        self.entries.range(index.min(self.entries.len())..)
    }

    /// The entry at `index`.
    pub fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Appends a transaction.
    ///
    /// # Panics
    ///
    /// If it leaves a gap: who calls has checked that.
    pub fn push(&mut self, zxid: Zxid, txn: Arc<[u8]>) {
        let last = self.last();
        assert!(follows(last, zxid), "{zxid} does not follow {last}");
        if self.runs.back().is_none_or(|run| run.epoch != zxid.epoch()) {
            let position = self.front + self.entries.len() as u64;
            self.runs.push_back(Run { epoch: zxid.epoch(), first: zxid.counter(), position });
        }
        self.bytes += txn.len();
        self.entries.push_back(Entry { zxid, txn });
    }

    /// Forgets everything after `after`; where the window does not reach back so far, it is empty
    /// then.
    pub fn truncate(&mut self, after: Zxid) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.zxid > after) {
            self.bytes -= entry.txn.len();
        }
        let end = self.front + self.entries.len() as u64;
        while self.runs.pop_back_if(|run| run.position >= end).is_some() {}
        if self.entries.is_empty() {
            *self = History::new(after.min(self.base));
        }
    }

    /// Drops committed entries from the front until at most `count` of them with at most
    /// `bytes_max` bytes are left; while somebody `catches_up`, only what exceeds a larger bound.
    pub fn prune(&mut self, committed: Zxid, count: usize, bytes_max: usize, catches_up: bool) {
        let bytes_max = if catches_up { CATCH_UP_BYTES_MAX.max(bytes_max) } else { bytes_max };
        while let Some(first) = self.entries.front() {
            let is_wanted = (catches_up || self.entries.len() <= count) && self.bytes <= bytes_max;
            if is_wanted || first.zxid > committed {
                break;
            }
            self.base = first.zxid;
            self.bytes -= first.txn.len();
            self.entries.pop_front();
            self.front += 1;
            let front = self.front;
            if self.runs.get(1).is_some_and(|run| run.position <= front) {
                self.runs.pop_front();
            }
            if let Some(run) = self.runs.front_mut() {
                run.first += (front - run.position) as u32;
                run.position = front;
            }
            if self.entries.is_empty() {
                self.runs.clear();
            }
        }
    }

    /// Where `zxid` stands.
    pub fn locate(&self, zxid: Zxid) -> Place {
        if zxid == self.base {
            return Place::Before(0);
        }
        if zxid < self.base {
            return Place::Older;
        }
        if zxid > self.last() {
            return Place::Newer;
        }
        // The last run that begins at or before `zxid`, the newest ones being asked for most.
        let run = self.runs.iter().rposition(|run| Zxid::new(run.epoch, run.first) <= zxid);
        let Some(at) = run else {
            return match zxid.counter() {
                0 => Place::Before(0),
                _ => Place::Foreign { branch: self.base },
            };
        };
        let run = self.runs[at];
        let end = self.runs.get(at + 1).map_or(self.front + self.len() as u64, |run| run.position);
        let offset = u64::from(zxid.counter()).wrapping_sub(u64::from(run.first));
        if run.epoch == zxid.epoch() && offset < end - run.position {
            return Place::Before((run.position - self.front + offset) as usize + 1);
        }
        let next = (end - self.front) as usize;
        match zxid.counter() {
            0 => Place::Before(next),
            _ => Place::Foreign { branch: self.entries[next - 1].zxid },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn z(epoch: u32, counter: u32) -> Zxid {
        Zxid::new(epoch, counter)
    }

    fn history(base: Zxid, zxids: &[Zxid]) -> History {
        let mut history = History::new(base);
        for &zxid in zxids {
            history.push(zxid, Arc::from(&[0_u8; 10][..]));
        }
        history
    }

    /// Asks both the window and a plain list where `zxid` stands.
    fn check(history: &History, zxid: Zxid) {
        let list: Vec<Zxid> = history.from(0).map(|entry| entry.zxid).collect();
        let next = list.iter().position(|&entry| entry > zxid).unwrap_or(list.len());
        let before = if next == 0 { history.base() } else { list[next - 1] };
        let expected = if zxid < history.base() {
            Place::Older
        } else if zxid > history.last() {
            Place::Newer
        } else if before == zxid || zxid.counter() == 0 {
            Place::Before(next)
        } else {
            Place::Foreign { branch: before }
        };
        assert_eq!(history.locate(zxid), expected, "{zxid} in {list:?}");
    }

    fn check_all(history: &History) {
        for epoch in 0..8 {
            for counter in 0..8 {
                check(history, z(epoch, counter));
            }
        }
    }

    #[test]
    fn only_the_next_counter_or_a_new_epochs_first_follows() {
        assert!(follows(Zxid::ZERO, z(1, 1)));
        assert!(follows(z(1, 1), z(1, 2)));
        assert!(follows(z(1, 7), z(3, 1)));
        assert!(follows(z(2, 0), z(2, 1)));
        assert!(!follows(z(1, 1), z(1, 3)));
        assert!(!follows(z(1, 1), z(1, 1)));
        assert!(!follows(z(1, 1), z(2, 2)));
        assert!(!follows(z(1, 1), z(2, 0)));
        assert!(!follows(z(2, 1), z(1, 2)));
        assert!(!follows(z(1, u32::MAX), z(1, 0)));
    }

    #[test]
    fn every_zxid_is_found_in_its_place() {
        let mut window = history(z(1, 2), &[z(1, 3), z(1, 4), z(3, 1), z(3, 2), z(4, 1), z(6, 1)]);
        check_all(&window);
        while !window.is_empty() {
            window.prune(z(9, 0), window.len() - 1, usize::MAX, false);
            check_all(&window);
        }
        assert_eq!((window.base(), window.last()), (z(6, 1), z(6, 1)));
        window.push(z(6, 2), Arc::from(&[][..]));
        check_all(&window);
    }

    #[test]
    fn truncation_leaves_what_is_not_later() {
        let zxids = [z(1, 3), z(1, 4), z(3, 1), z(3, 2), z(4, 1)];
        for epoch in 0..6 {
            for counter in 0..6 {
                let mut window = history(z(1, 2), &zxids);
                window.truncate(z(epoch, counter));
                let left = zxids.iter().filter(|&&zxid| zxid <= z(epoch, counter)).count();
                assert_eq!(window.len(), left);
                assert_eq!(window.bytes(), 10 * left);
                check_all(&window);
            }
        }
        let mut window = history(z(1, 2), &zxids);
        window.truncate(z(1, 1));
        assert_eq!((window.base(), window.last()), (z(1, 1), z(1, 1)));
    }

    #[test]
    fn what_is_not_committed_stays() {
        let mut window = history(Zxid::ZERO, &[z(1, 1), z(1, 2), z(1, 3), z(1, 4)]);
        window.prune(z(1, 2), 0, 0, false);
        assert_eq!((window.base(), window.len(), window.bytes()), (z(1, 2), 2, 20));
        window.prune(z(1, 4), 100, 10, false);
        assert_eq!((window.base(), window.len()), (z(1, 3), 1));
        window.prune(z(1, 4), 0, 0, true);
        assert_eq!(window.len(), 1, "somebody needs it");
    }
}
