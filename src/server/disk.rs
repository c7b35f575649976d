//! The log on its ring: what the log says is to be written is written, and it hears how it went.

use std::sync::Arc;
use std::time::Duration;

use crate::io::ring::{Completion, FileToken, IoBuffer, Ring};
use crate::log::append::{Log, Write};
use crate::log::{LogError, WriterKind};
use crate::server::summary::{Percentiles, Summary};
use crate::time::Time;
use crate::zxid::Zxid;

/// The log's operations on the ring; there is one at a time.
const LOG: FileToken = FileToken(1);

/// How long the log is idle before a mark says that its last batch was durable. Long enough that a
/// busy log writes none.
const MARK_AFTER: Duration = Duration::from_millis(20);

/// How often the log's files are asked whether they still have names: a microsecond for each.
const NAMED_EVERY: Duration = Duration::from_millis(500);

/// The log, and its one operation under way.
pub struct Disk {
    pub log: Log,
    /// At home while no write is under way.
    carrier: Option<Box<Carrier>>,
    /// With the mapped writer: the write whose sync is under way.
    syncing: Option<Write>,
    is_busy: bool,
    idle_since: Option<Time>,
    /// Whether something was written that no mark covers.
    is_mark_due: bool,
    started: Time,
    /// When the files' names are looked at next.
    named_due: Time,
    /// From the start of a write to its being durable, in milliseconds.
    pub sync_ms: Percentiles,
    /// Transactions in a batch.
    pub batch_txns: Summary,
    /// Transactions staged since the last batch began.
    staged: u64,
    /// How long the last write took.
    pub durable_nanos: u64,
    pub writes: u64,
    pub bytes: u64,
    /// Writes that took longer than `warn_after`.
    pub slow_syncs: u64,
    pub warn_after: Duration,
}

/// What carries a write to the ring and back: one allocation for all of them.
#[derive(Default)]
struct Carrier(Option<Write>);

impl AsRef<[u8]> for Carrier {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |write| write.buffer.bytes())
    }
}

impl Disk {
    /// Over a recovered log; writes that take longer than `warn_after` are told in the trace.
    pub fn new(log: Log, warn_after: Duration) -> Disk {
        Disk {
            log,
            carrier: None,
            syncing: None,
            is_busy: false,
            idle_since: None,
            is_mark_due: false,
            started: Time::default(),
            named_due: Time::default(),
            sync_ms: Percentiles::default(),
            batch_txns: Summary::default(),
            staged: 0,
            durable_nanos: 0,
            writes: 0,
            bytes: 0,
            slow_syncs: 0,
            warn_after,
        }
    }

    /// Starts the next write, where there is one and none is under way; whether it did.
    ///
    /// # Errors
    /// The disk failed. It is final: the server stops.
    pub fn start(&mut self, ring: &mut Ring, now: Time) -> Result<bool, LogError> {
        if self.is_busy {
            return Ok(false);
        }
        if let Some(write) = self.log.poll_write() {
            self.idle_since = None;
            self.is_mark_due = true;
            self.batch_txns.add(std::mem::take(&mut self.staged));
            self.submit(write, ring, now)?;
            return Ok(true);
        }
        if !self.log.is_idle() {
            return Ok(false);
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        if now.since(idle_since) >= MARK_AFTER && self.is_mark_due {
            self.is_mark_due = false;
            if let Some(mark) = self.log.mark_if_idle() {
                self.submit(mark, ring, now)?;
            }
        }
        Ok(false)
    }

    /// When the log will want to be marked, if it stays idle.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = self.idle_since? + MARK_AFTER;
        (!self.is_busy && self.is_mark_due).then_some(due)
    }

    fn submit(&mut self, write: Write, ring: &mut Ring, now: Time) -> Result<(), LogError> {
        self.is_busy = true;
        self.started = now;
        self.writes += 1;
        self.bytes += write.buffer.bytes().len() as u64;
        let file: Arc<dyn std::os::fd::AsFd> = Arc::clone(&write.file) as _;
        match self.log.writer() {
            WriterKind::Direct => {
                let offset = write.offset;
                let mut carrier = self.carrier.take().unwrap_or_default();
                carrier.0 = Some(write);
                ring.write_file(LOG, file, offset, carrier);
            }
            WriterKind::Mmap => {
                if let Err(error) = write.file.store(write.offset, write.buffer.bytes()) {
                    return self.log.handle_written(write, Err(error)).map(|_| ());
                }
                ring.sync_file(LOG, file);
                self.syncing = Some(write);
            }
        }
        Ok(())
    }

    /// Takes a completion of the log's, if it is one: how far the log is durable.
    ///
    /// # Errors
    /// The disk failed. It is final: the server stops.
    pub fn handle(
        &mut self,
        completion: Completion<'_>,
        now: Time,
    ) -> Result<Option<Zxid>, LogError> {
        let (write, result) = match completion {
            Completion::Written { token: LOG, buffer, result } => (self.take_back(buffer), result),
            Completion::Synced { token: LOG, result } => {
                (self.syncing.take().expect("a sync follows a store"), result)
            }
            _ => return Ok(None),
        };
        self.is_busy = false;
        let duration = now.since(self.started);
        self.sync_ms.add(duration.as_millis() as u64);
        self.durable_nanos = duration.as_nanos() as u64;
        if duration > self.warn_after {
            self.slow_syncs += 1;
            tracing::warn!(
                "a write of the log took {} ms, the bound of fsync.warningthresholdms is {} ms",
                duration.as_millis(),
                self.warn_after.as_millis()
            );
        }
        if now >= self.named_due {
            self.named_due = now + NAMED_EVERY;
            // Before anything in it is acknowledged.
            self.log.check_named()?;
        }
        self.log.handle_written(write, result).map(Some)
    }

    fn take_back(&mut self, buffer: Box<dyn IoBuffer>) -> Write {
        let buffer: Box<dyn std::any::Any> = buffer;
        let carrier: Box<Carrier> =
            buffer.downcast().expect("the log's operation carries its write");
        let carrier = self.carrier.insert(carrier);
        carrier.0.take().expect("it carries a write")
    }

    /// Stages a transaction into the next batch.
    pub fn append(&mut self, zxid: Zxid, txn: &[u8]) {
        self.staged += 1;
        self.log.append(zxid, txn);
    }

    /// Starts the counters again (`srst`), but for the bytes, which snapshots go by.
    pub fn reset_statistics(&mut self) {
        self.writes = 0;
        self.slow_syncs = 0;
        self.sync_ms = Percentiles::default();
        self.batch_txns = Summary::default();
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }
}
