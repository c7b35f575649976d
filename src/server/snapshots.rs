//! When a snapshot is due, and which versions the tree must keep for it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::pipeline::Pipeline;
use crate::server::background::{SnapshotDone, SnapshotJob};
use crate::server::recover::Behind;
use crate::server::summary::Summary;
use crate::snapshot::SnapshotError;
use crate::snapshot::backup::Backup;
use crate::zxid::Zxid;

/// The first snapshot of a start comes in the second half of the bounds, so that an ensemble's
/// servers do not all take theirs at once. Apache spreads every one so
/// (`SyncRequestProcessor.resetSnapshotStats`), which is a third more snapshots.
const FIRST_SPREAD: u64 = 2;

/// Later ones come in the last eighth: servers that are apart stay apart.
const SPREAD: u64 = 8;

/// Decides when the next snapshot is taken. At most one is under way.
pub struct Snapshots {
    /// A snapshot after so many transactions at most (`snapCount`).
    txns_between: u64,
    /// A snapshot after so many bytes of log at most (`snapSizeLimitInKb`).
    bytes_between: u64,
    seed: u64,
    /// The zxid and the log's bytes at which the next one is due.
    due: (u64, u64),
    last: Zxid,
    /// The one whose version is not committed or not durable, and how often the pipeline had taken
    /// something back when it was fixed.
    waiting: Option<(u64, SnapshotJob)>,
    /// Somebody wants a snapshot for himself.
    backups: VecDeque<oneshot::Sender<Result<Backup, SnapshotError>>>,
    held: Vec<Zxid>,
    released: bool,
    /// From a job's start to its end.
    pub durations_ms: Summary,
    pub taken: u64,
    pub failed: u64,
}

impl Snapshots {
    /// After a snapshot at `last`, behind which the log has `behind` already: those count as well,
    /// or a server that is started often enough would never take one. `seed` spreads the snapshots
    /// of an ensemble's servers.
    pub fn new(
        last: Zxid,
        behind: Behind,
        txns_between: u64,
        bytes_between: u64,
        seed: u64,
    ) -> Snapshots {
        let mut snapshots = Snapshots {
            txns_between,
            bytes_between,
            seed,
            due: (0, 0),
            last,
            waiting: None,
            backups: VecDeque::new(),
            held: Vec::new(),
            released: false,
            durations_ms: Summary::default(),
            taken: 0,
            failed: 0,
        };
        snapshots.plan(0, 0, FIRST_SPREAD);
        let (txns, bytes) = snapshots.due;
        snapshots.due = (txns.saturating_sub(behind.txns), bytes.saturating_sub(behind.bytes));
        snapshots
    }

    /// The next one comes a random part of `1 / spread` of the bounds before they are reached.
    fn plan(&mut self, txns: u64, bytes: u64, spread: u64) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let random = self.seed >> 33;
        let part = |bound: u64| bound - random % (bound / spread).max(1);
        self.due = (txns + part(self.txns_between), bytes.saturating_add(part(self.bytes_between)));
    }

    /// The snapshot to take now. Its version is fixed when it falls due, and it is taken once that
    /// version is committed and in this server's log: a snapshot holds nothing that might yet be
    /// taken back, and never reaches further than the log.
    pub fn poll_job(
        &mut self,
        pipeline: &Pipeline,
        durable: Zxid,
        log_bytes: u64,
    ) -> Option<SnapshotJob> {
        let rewinds = pipeline.rewinds();
        if self.waiting.take_if(|(of, _)| *of != rewinds).is_some() {
            // Its version may never have been, and the number of it is passed by later epochs'.
            self.held.clear();
            self.released = true;
        }
        let txns = pipeline.stats().txns;
        let is_due =
            (txns >= self.due.0 || log_bytes >= self.due.1) && pipeline.prepared() > self.last;
        if self.held.is_empty() && (is_due || !self.backups.is_empty()) {
            let backup = self.backups.pop_front();
            if backup.is_none() {
                self.plan(txns, log_bytes, SPREAD);
            }
            let zxid = pipeline.prepared();
            self.held.push(zxid);
            let job = SnapshotJob {
                tree: Arc::clone(pipeline.writer().tree()),
                zxid,
                digest: pipeline.writer().digest(),
                sessions: pipeline.sessions().iter().collect(),
                backup,
            };
            self.waiting = Some((rewinds, job));
        }
        let through = pipeline.committed().min(durable);
        self.waiting.take_if(|(_, job)| job.zxid <= through).map(|(_, job)| job)
    }

    /// A snapshot is done. The zxid of the oldest one that is kept, where it succeeded.
    pub fn handle_done(&mut self, done: SnapshotDone) -> Option<Zxid> {
        self.held.clear();
        self.released = true;
        match done.result {
            Ok(oldest) => {
                self.taken += 1;
                self.durations_ms.add(done.took_ms);
                // A leader's state may have come meanwhile.
                self.last = self.last.max(done.zxid);
                Some(oldest)
            }
            Err(error) => {
                self.failed += 1;
                tracing::error!("no snapshot of zxid {}: {error}", done.zxid);
                None
            }
        }
    }

    /// Somebody wants a snapshot for himself; he is told when it is written. Where its version
    /// turns out never to have been committed he hears nothing more.
    pub fn want_backup(&mut self, reply: oneshot::Sender<Result<Backup, SnapshotError>>) {
        self.backups.push_back(reply);
    }

    /// A backup is done.
    pub fn handle_backed_up(&mut self) {
        self.held.clear();
        self.released = true;
    }

    /// The state was replaced by a snapshot of `zxid`, which is on disk.
    pub fn handle_replaced(&mut self, zxid: Zxid) {
        self.last = zxid;
    }

    /// The versions that the tree must keep.
    pub fn held(&self) -> &[Zxid] {
        &self.held
    }

    /// Whether versions were let go since the last call.
    pub fn is_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// The zxid of the last snapshot.
    pub fn last(&self) -> Zxid {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::session::Sessions;
    use crate::pipeline::tests::{TREE, settings};
    use crate::pipeline::{Client, Connect};
    use crate::time::{Time, WallMs};
    use crate::tree::writer::Writer;
    use crate::zab::output::Role;

    use super::*;

    const NOW: Time = Time::from_nanos(0);

    fn begin_leading(pipeline: &mut Pipeline, epoch: u32) {
        pipeline.handle_role(Role::Looking, 0, NOW, WallMs(0));
        pipeline.handle_role(Role::Leading { epoch }, epoch, NOW, WallMs(0));
    }

    /// One transaction, the beginning of a session. It is not committed.
    fn prepare(pipeline: &mut Pipeline, connection: u64) {
        let client = Client { core: 0, connection };
        let (timeout_ms, session, password) = (10_000, 0, None);
        let connect = Connect { client, timeout_ms, session, password, read_only: Some(false) };
        pipeline.handle_connect(connect, NOW, WallMs(0));
    }

    /// A snapshot is fixed before its version is committed. Where that is taken back, it never was,
    /// though later epochs' numbers pass it.
    #[test]
    fn no_snapshot_is_taken_of_what_was_taken_back() {
        let writer = Writer::new(TREE, NOW);
        let sessions = Sessions::new(2000, 1, 5000);
        let mut pipeline = Pipeline::new(writer, sessions, settings(), 1, NOW);
        let mut snapshots = Snapshots::new(Zxid::ZERO, Behind::default(), 1, u64::MAX, 0);
        begin_leading(&mut pipeline, 1);
        prepare(&mut pipeline, 1);
        assert!(snapshots.poll_job(&pipeline, Zxid::MAX, 0).is_none());
        assert_eq!(snapshots.held(), [Zxid::new(1, 1)]);

        assert!(pipeline.pop_above(Zxid::ZERO, NOW));
        begin_leading(&mut pipeline, 2);
        prepare(&mut pipeline, 2);
        assert!(snapshots.poll_job(&pipeline, Zxid::MAX, 0).is_none());
        assert!(snapshots.is_released(), "what it held can be given up");
        assert_eq!(snapshots.held(), [Zxid::new(2, 1)]);
        pipeline.handle_committed(Zxid::new(2, 1));
        let job = snapshots.poll_job(&pipeline, Zxid::MAX, 0).unwrap();
        assert_eq!((job.zxid, job.digest), (Zxid::new(2, 1), pipeline.writer().digest()));
        assert_eq!(job.sessions, pipeline.sessions().iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_first_snapshots_are_spread_further_than_the_others() {
        for seed in 0..500 {
            let mut snapshots = Snapshots::new(Zxid::ZERO, Behind::default(), 1000, u64::MAX, seed);
            assert!((501..=1000).contains(&snapshots.due.0), "{:?}", snapshots.due);
            assert!(snapshots.due.1 > u64::MAX / 2);
            snapshots.plan(5000, 70, SPREAD);
            assert!((5876..=6000).contains(&snapshots.due.0), "{:?}", snapshots.due);
            assert!(snapshots.due.1 > u64::MAX - u64::MAX / 8);
        }
        let firsts =
            (0..500).map(|seed| Snapshots::new(Zxid::ZERO, Behind::default(), 1000, 9, seed).due.0);
        assert!(firsts.collect::<std::collections::BTreeSet<_>>().len() > 200, "they are spread");
    }

    #[test]
    fn what_a_start_has_replayed_counts_towards_the_next_snapshot() {
        for seed in 0..100 {
            let due = |txns, bytes| {
                Snapshots::new(Zxid::ZERO, Behind { txns, bytes }, 1000, 9000, seed).due
            };
            let (txns, bytes) = due(0, 0);
            assert_eq!(due(400, 100), (txns - 400, bytes - 100));
            assert_eq!((due(1000, 0).0, due(0, 9000).1), (0, 0));
        }
    }

    /// A snapshot that was under way when a leader's state came is the older one of the two.
    #[test]
    fn a_snapshot_that_ends_late_is_not_the_last() {
        let mut snapshots = Snapshots::new(Zxid::ZERO, Behind::default(), 1, u64::MAX, 0);
        snapshots.handle_replaced(Zxid::new(2, 9));
        let oldest = Zxid::new(1, 4);
        let done = SnapshotDone { zxid: Zxid::new(1, 5), took_ms: 1, result: Ok(oldest) };
        assert_eq!(snapshots.handle_done(done), Some(oldest));
        assert_eq!(snapshots.last(), Zxid::new(2, 9));
    }
}
