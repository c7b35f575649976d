//! What changed, transaction by transaction: undone from the back, reclaimed from the front.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use crate::tree::effects::Totals;
use crate::tree::record::RecordRef;
use crate::tree::spares::Spares;
use crate::zxid::Zxid;

/// A record put into the table.
pub struct Change {
    pub new: RecordRef,
    /// What stood there before: perhaps a record of the same transaction, or a tombstone.
    pub old: Option<RecordRef>,
}

/// A transaction's place in the journal.
struct Mark {
    zxid: Zxid,
    count: usize,
    before: Totals,
}

/// The changes that may have to be undone, or whose replaced records may be needed.
#[derive(Default)]
pub struct Journal {
    marks: VecDeque<Mark>,
    changes: VecDeque<Change>,
    /// Newest reclaimed record of each path whose older records a snapshot needs.
    held: BTreeSet<RecordRef>,
    /// The snapshots that `held` was last gone through for.
    snapshots: Vec<Zxid>,
    /// Where that pass has got to, while it is not through.
    pass: Option<RecordRef>,
}

/// What can be done with a record whose transaction every reader has reached.
enum Pruned {
    /// Nothing older is kept.
    Bare,
    /// A snapshot needs something older.
    Held,
}

impl Journal {
    /// Begins a transaction before which the sums were `before`.
    pub fn begin(&mut self, zxid: Zxid, before: Totals) {
        assert!(self.marks.back().is_none_or(|mark| mark.zxid < zxid));
        self.marks.push_back(Mark { zxid, count: 0, before });
    }

    /// Says that the data of the tree became `bytes` from `before` without a transaction, as if it
    /// had been so before all of them: undoing brings back the sums with it.
    pub fn resize(&mut self, before: u64, bytes: u64) {
        for mark in &mut self.marks {
            mark.before.data_size = mark.before.data_size + bytes - before;
        }
    }

    /// Adds a change to the newest transaction.
    pub fn push(&mut self, change: Change) {
        self.marks.back_mut().expect("a transaction is open").count += 1;
        self.changes.push_back(change);
    }

    /// The newest transaction that can be undone.
    pub fn newest(&self) -> Option<Zxid> {
        self.marks.back().map(|mark| mark.zxid)
    }

    /// Takes the newest change of the newest transaction out; once there is none, the transaction,
    /// and says what the sums were before it.
    pub fn pop(&mut self) -> Result<Change, Totals> {
        let mark = self.marks.back_mut().expect("a transaction is there");
        if mark.count > 0 {
            mark.count -= 1;
            return Ok(self.changes.pop_back().expect("marks count the changes"));
        }
        Err(self.marks.pop_back().expect("it was there").before)
    }

    /// Lets go of records that no active version needs; `bury` is called with each tombstone below
    /// which nothing is needed, though it may have been replaced. What is let go of may be written
    /// over later (`spares`). At most `budget` records are looked at.
    ///
    /// Returns whether something was left to be done.
    pub fn reclaim(
        &mut self,
        oldest: Zxid,
        snapshots: &[Zxid],
        budget: usize,
        spares: &mut Spares,
        mut bury: impl FnMut(RecordRef),
    ) -> bool {
        let mut left = self.reclaim_changes(oldest, snapshots, budget, spares, &mut bury);
        if self.snapshots != snapshots {
            self.snapshots = snapshots.to_vec();
            self.pass = self.held.first().cloned();
        }
        while let Some(from) = self.pass.take() {
            if left == 0 {
                self.pass = Some(from);
                return true;
            }
            left -= 1;
            let mut rest = self.held.range((Bound::Included(&from), Bound::Unbounded)).cloned();
            let (Some(record), next) = (rest.next(), rest.next()) else { break };
            drop(rest);
            if let Pruned::Bare = prune(&record, snapshots) {
                self.held.remove(&record);
                if record.is_tombstone() {
                    bury(record);
                }
            }
            self.pass = next;
        }
        self.marks.front().is_some_and(|mark| mark.zxid <= oldest)
    }

    /// Goes through the changes in their order; returns what is left of the budget.
    fn reclaim_changes(
        &mut self,
        oldest: Zxid,
        snapshots: &[Zxid],
        budget: usize,
        spares: &mut Spares,
        bury: &mut impl FnMut(RecordRef),
    ) -> usize {
        let mut left = budget;
        while let Some(mark) = self.marks.front_mut().filter(|mark| mark.zxid <= oldest) {
            if mark.count == 0 {
                self.marks.pop_front();
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            mark.count -= 1;
            let Change { new, old } = self.changes.pop_front().expect("marks count the changes");
            drop(old);
            if snapshots.is_empty() && self.held.is_empty() {
                new.unlink().into_iter().for_each(|older| spares.keep(older));
                if new.is_tombstone() {
                    bury(new);
                }
                continue;
            }
            match prune(&new, snapshots) {
                Pruned::Held => drop(self.held.replace(new)),
                Pruned::Bare => {
                    // An earlier record of the path needs no looking after any more.
                    self.held.remove(&new);
                    if new.is_tombstone() {
                        bury(new);
                    }
                }
            }
        }
        left
    }

    /// How many changes and held records there are.
    pub fn pending(&self) -> usize {
        self.changes.len() + self.held.len()
    }
}

/// Takes records out of the chain below `record` that no snapshot needs. Every reader that is not a
/// snapshot takes `record` or a newer one.
fn prune(record: &RecordRef, snapshots: &[Zxid]) -> Pruned {
    let mut newer = record.clone();
    let mut pruned = Pruned::Bare;
    while let Some(older) = newer.older() {
        let versions = older.zxid()..newer.zxid();
        match snapshots.iter().any(|snapshot| versions.contains(snapshot)) {
            true => {
                newer = older;
                pruned = Pruned::Held;
            }
            false => newer.skip_older(&older),
        }
    }
    pruned
}
