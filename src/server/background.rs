//! Work that no hot core may wait for: preparing and removing segments, taking snapshots, writing
//! out what the server says of itself.
//!
//! Three executors, so that a snapshot of seconds does not hold up the next segment, nor an answer.
//! Each runs its jobs one after the other and blocks: nothing else lives there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

use crate::io::clock;
use crate::io::executor::{Core, CoreError, spawn_core};
use crate::io::wake::Waker;
use crate::log::LogError;
use crate::log::segment::{self, PreparedSegment, RetiredSegment, SegmentRequest};
use crate::server::answering::{AnswerJob, Answered};
use crate::server::client_port::{ClientPort, MoveError, Moved};
use crate::server::reach::Reach;
use crate::server::report::{Question, ServerReport};
use crate::snapshot::backup::Backup;
use crate::snapshot::{self, SnapshotError};
use crate::tree::Tree;
use crate::zxid::Zxid;

/// A job for the segments' executor.
pub enum SegmentJob {
    Prepare(SegmentRequest),
    Remove(RetiredSegment),
}

/// The tree and the sessions at one version, to be written.
pub struct SnapshotJob {
    pub tree: Arc<Tree>,
    pub zxid: Zxid,
    pub digest: u64,
    /// Each session with its timeout in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    /// Where it goes instead of to the server's own snapshots.
    pub backup: Option<oneshot::Sender<Result<Backup, SnapshotError>>>,
}

/// What a snapshot came to.
pub struct SnapshotDone {
    pub zxid: Zxid,
    pub took_ms: u64,
    /// The zxid of the oldest snapshot that is kept and was verified.
    pub result: Result<Zxid, SnapshotError>,
}

/// A job for the executor that may wait for files, the kernel and name servers.
pub enum Errand {
    Answer(AnswerJob),
    /// The clients' port is to be opened at another address.
    MovePort {
        from: ClientPort,
        host: String,
        port: u16,
    },
}

impl Errand {
    fn perform(self) -> Option<Done> {
        match self {
            Errand::Answer(job) => job.perform().map(Done::Answered),
            Errand::MovePort { from, host, port } => {
                from.moved(&host, port).transpose().map(Done::Moved)
            }
        }
    }
}

/// What the background has to say to the pipeline.
pub enum Done {
    Prepared(Result<PreparedSegment, LogError>),
    Snapshot(SnapshotDone),
    /// A backup is written, or has failed: its version is no longer needed.
    BackedUp,
    Answered(Answered),
    /// The clients' port at its new address, one listener for each client core.
    Moved(Result<Moved, MoveError>),
    /// A question over HTTP.
    Asked(Question, oneshot::Sender<Box<ServerReport>>),
    /// A backup is asked for over HTTP.
    BackupWanted(oneshot::Sender<Result<Backup, SnapshotError>>),
}

/// Where questions are asked from outside the cores.
#[derive(Clone)]
pub struct Asking {
    done: Sender<Done>,
    waker: Waker,
}

impl Asking {
    /// Asks; the answer comes from the executor that writes answers out. It never comes where the
    /// server stops, or is asked more than it keeps up with.
    pub fn ask(&self, question: Question) -> oneshot::Receiver<Box<ServerReport>> {
        let (reply, answer) = oneshot::channel();
        tell(&self.done, &self.waker, Done::Asked(question, reply));
        answer
    }

    /// Asks for a snapshot of what is committed, in Apache's format.
    pub fn back_up(&self) -> oneshot::Receiver<Result<Backup, SnapshotError>> {
        let (reply, answer) = oneshot::channel();
        tell(&self.done, &self.waker, Done::BackupWanted(reply));
        answer
    }
}

/// The pipeline's end of the background.
pub struct Background {
    pub segments: Sender<SegmentJob>,
    pub snapshots: Sender<SnapshotJob>,
    pub errands: Sender<Errand>,
    pub done: Receiver<Done>,
    pub asking: Asking,
}

/// Where snapshots go, and how many stay.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    pub dir: PathBuf,
    /// `None`: nothing is purged.
    pub retained_count: Option<usize>,
}

/// Starts the executors. They end when the pipeline's end is dropped.
///
/// # Errors
/// The kernel refuses an executor.
pub fn start(
    log_dir: PathBuf,
    snapshots: SnapshotSettings,
    waker: Waker,
) -> Result<(Background, [Core<()>; 3]), CoreError> {
    let (done, from_background) = channel();
    let asking = Asking { done: done.clone(), waker: waker.clone() };
    let (to_segments, segment_jobs) = channel::<SegmentJob>();
    let (to_snapshots, snapshot_jobs) = channel::<SnapshotJob>();
    let (segments_done, segments_waker) = (done.clone(), waker.clone());
    let reach = Reach::new(&snapshots.dir);
    let segments = spawn_core("segments", None, move || async move {
        for job in segment_jobs {
            match job {
                SegmentJob::Prepare(request) => {
                    let sequence = request.sequence;
                    let prepared = segment::prepare(&log_dir, request);
                    if prepared.is_ok() {
                        reach.save(sequence);
                    }
                    tell(&segments_done, &segments_waker, Done::Prepared(prepared));
                }
                SegmentJob::Remove(retired) => {
                    if let Err(error) = segment::remove(&log_dir, &retired) {
                        tracing::warn!("a purged segment stays: {error}");
                    }
                }
            }
        }
    })?;
    let (to_errands, errands) = channel::<Errand>();
    let (answers_done, answers_waker) = (done.clone(), waker.clone());
    let answers = spawn_core("answers", None, move || async move {
        for errand in errands {
            if let Some(done) = errand.perform() {
                tell(&answers_done, &answers_waker, done);
            }
        }
    })?;
    let snapshots = spawn_core("snapshots", None, move || async move {
        for mut job in snapshot_jobs {
            if let Some(reply) = job.backup.take() {
                // Whoever asked may have gone meanwhile.
                let SnapshotJob { tree, zxid, digest, sessions, .. } = &job;
                let backup = Backup::take(&snapshots.dir, tree, *zxid, *digest, sessions);
                reply.send(backup).ok();
                drop(job);
                tell(&done, &waker, Done::BackedUp);
                continue;
            }
            let zxid = job.zxid;
            let begun = clock::now();
            let result = take_snapshot(&snapshots, &job);
            let took_ms = (clock::now() - begun).as_millis() as u64;
            // What the job held is let go before the pipeline hears, so that it can reclaim.
            drop(job);
            tell(&done, &waker, Done::Snapshot(SnapshotDone { zxid, took_ms, result }));
        }
    })?;
    let background = Background {
        segments: to_segments,
        snapshots: to_snapshots,
        errands: to_errands,
        done: from_background,
        asking,
    };
    Ok((background, [segments, snapshots, answers]))
}

fn take_snapshot(settings: &SnapshotSettings, job: &SnapshotJob) -> Result<Zxid, SnapshotError> {
    let figures =
        snapshot::write::write(&settings.dir, &job.tree, job.zxid, job.digest, &job.sessions)?;
    tracing::info!(
        "snapshot of zxid {}: {} znodes, {} sessions, {} bytes",
        job.zxid,
        figures.nodes,
        job.sessions.len(),
        figures.bytes
    );
    match settings.retained_count {
        Some(count) => snapshot::purge(&settings.dir, count),
        // Every snapshot stays, and so does the log from its beginning.
        None => Ok(Zxid::ZERO),
    }
}

fn tell(done: &Sender<Done>, waker: &Waker, message: Done) {
    // The pipeline may be gone already when the server stops.
    if done.send(message).is_ok() {
        waker.wake();
    }
}
