//! When a snapshot is due, and which versions the tree must keep for it.

use std::sync::Arc;

use crate::pipeline::Pipeline;
use crate::server::background::{SnapshotDone, SnapshotJob};
use crate::server::summary::Summary;
use crate::zxid::Zxid;

/// Decides when the next snapshot is taken. At most one is under way.
pub struct Snapshots {
    /// A snapshot after so many transactions, give or take half of it (`snapCount`).
    txns_between: u64,
    /// A snapshot after so many bytes of log (`snapSizeLimitInKb`).
    bytes_between: u64,
    seed: u64,
    /// The zxid and the log's bytes at which the next one is due.
    due: (u64, u64),
    last: Zxid,
    waiting: Option<SnapshotJob>,
    held: Vec<Zxid>,
    released: bool,
    /// From a job's start to its end.
    pub durations_ms: Summary,
    pub taken: u64,
    pub failed: u64,
}

impl Snapshots {
    /// After a snapshot at `last`; `seed` spreads the snapshots of an ensemble's servers.
    pub fn new(last: Zxid, txns_between: u64, bytes_between: u64, seed: u64) -> Snapshots {
        let mut snapshots = Snapshots {
            txns_between,
            bytes_between,
            seed,
            due: (0, 0),
            last,
            waiting: None,
            held: Vec::new(),
            released: false,
            durations_ms: Summary::default(),
            taken: 0,
            failed: 0,
        };
        snapshots.plan(0, 0);
        snapshots
    }

    /// Half of the bounds and a random part of the other half, as Apache spreads them
    /// (`SyncRequestProcessor.resetSnapshotStats`).
    fn plan(&mut self, txns: u64, bytes: u64) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let part = |bound: u64| bound / 2 + (self.seed >> 33) % (bound / 2).max(1);
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
        let txns = pipeline.stats().txns;
        let is_due = txns >= self.due.0 || log_bytes >= self.due.1;
        if is_due && self.held.is_empty() && pipeline.prepared() > self.last {
            self.plan(txns, log_bytes);
            let zxid = pipeline.prepared();
            self.held.push(zxid);
            self.waiting = Some(SnapshotJob {
                tree: Arc::clone(pipeline.writer().tree()),
                zxid,
                digest: pipeline.writer().digest(),
                sessions: pipeline.sessions().iter().collect(),
            });
        }
        let through = pipeline.committed().min(durable);
        self.waiting.take_if(|job| job.zxid <= through)
    }

    /// A snapshot is done. The zxid of the oldest one that is kept, where it succeeded.
    pub fn handle_done(&mut self, done: SnapshotDone) -> Option<Zxid> {
        self.held.clear();
        self.released = true;
        match done.result {
            Ok(oldest) => {
                self.taken += 1;
                self.durations_ms.add(done.took_ms);
                self.last = done.zxid;
                Some(oldest)
            }
            Err(error) => {
                self.failed += 1;
                tracing::error!("no snapshot of zxid {}: {error}", done.zxid);
                None
            }
        }
    }

    /// The state was replaced by a snapshot of `zxid`, which is on disk.
    pub fn handle_replaced(&mut self, zxid: Zxid) {
        self.handle_popped(Zxid::ZERO);
        self.last = zxid;
    }

    /// What is after `zxid` never happened: no snapshot of it is taken.
    pub fn handle_popped(&mut self, zxid: Zxid) {
        if self.waiting.take_if(|job| job.zxid > zxid).is_some() {
            self.held.clear();
            self.released = true;
        }
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
