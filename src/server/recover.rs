//! From files to a tree: the newest good snapshot, then the log behind it, each step timed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::io::clock;
use crate::log::LogError;
use crate::log::append::Log;
use crate::log::recover::{Options, Recovered as RecoveredLog, open};
use crate::pipeline::at_rest::SessionsAtRest;
use crate::server::reach::{Missing, Reach, ReachError};
use crate::server::report::StartupReport;
use crate::server::small_file::FileError;
use crate::snapshot::load::{LoadOptions, Loaded};
use crate::snapshot::{self, SnapshotError, java, java_log};
use crate::time::Time;
use crate::tree::TreeError;
use crate::tree::writer::{Replay, TreeConfig, Writer};
use crate::wire::error::DecodeError;
use crate::wire::txn;
use crate::zxid::Zxid;

/// Why the data on disk cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}. Put them back; or set snapshot.trust.empty=true to go on from what is there")]
    Missing(Missing),
    #[error("{op} {}: {source}", path.display())]
    Io { op: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "there is a log up to zxid {last} in {}, but no snapshot in {}: snapshot files are \
         missing. Put them back; or set snapshot.trust.empty=true to start from the log alone",
        log.display(), data.display()
    )]
    NoSnapshot { last: Zxid, log: PathBuf, data: PathBuf },
    #[error(
        "the log in {} ends at zxid {last}, before the snapshot at zxid {snapshot}: log files are \
         missing. Put them back; or set snapshot.trust.empty=true to go on from the snapshot alone",
        log.display()
    )]
    LogBehind { last: Zxid, snapshot: Zxid, log: PathBuf },
    #[error(
        "{} holds the data of an Apache server, which is not read, and none of this server's. \
         Take it over with `ringkeeper import --java-data DIR --data DIR`, move it away, or set \
         snapshot.trust.empty=true to begin with nothing",
        dir.display()
    )]
    Apache { dir: PathBuf },
    #[error("transaction {zxid} in the log is none: {error}")]
    Decode { zxid: Zxid, error: DecodeError },
    #[error("transaction {zxid} in the log does not fit the tree: {error}")]
    Replay { zxid: Zxid, error: TreeError },
    #[error("after transaction {zxid} the tree's digest is {found:#x}, the log says {logged:#x}")]
    Digest { zxid: Zxid, found: u64, logged: u64 },
}

impl From<ReachError> for RecoverError {
    fn from(error: ReachError) -> RecoverError {
        match error {
            ReachError::File(error) => error.into(),
            ReachError::Log(error) => error.into(),
        }
    }
}

/// What the files held.
pub struct Recovered {
    pub writer: Writer,
    pub sessions: SessionsAtRest,
    /// The newest snapshot's.
    pub snapshot: Zxid,
    /// What was replayed behind it.
    pub behind: Behind,
    pub log: RecoveredLog,
    pub startup: StartupReport,
    /// Lines that say what was found and how long it took.
    pub told: Vec<String>,
}

/// What the log holds behind the newest snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    pub txns: u64,
    pub bytes: u64,
}

/// Where the files are, and what the operator vouches for.
pub struct Places<'a> {
    pub data: &'a Path,
    pub log: &'a Path,
    pub trust_empty: bool,
    pub check_digest: bool,
    pub tree: TreeConfig,
}

/// Whether a server of Apache's has left its data in `dir`, a `version-2`.
pub fn has_java_files(dir: &Path) -> Result<bool, SnapshotError> {
    let Some(parent) = dir.parent() else { return Ok(false) };
    Ok(!java::snapshots(parent)?.is_empty()
        || !java_log::logs_after(parent, Zxid::ZERO)?.is_empty())
}

/// Loads the newest good snapshot and replays the log behind it.
///
/// # Errors
/// Anything that would make the server serve less than it acknowledged.
pub fn recover(places: &Places<'_>, options: Options) -> Result<Recovered, RecoverError> {
    create_directories(places)?;
    let mut told = Vec::new();
    let reach = Reach::new(places.data);
    if let Some(missing) = reach.missing(places.log)?
        && !places.trust_empty
    {
        return Err(RecoverError::Missing(missing));
    }
    let start = clock::now();
    let log = open(places.log, options)?;
    let opened = clock::now();
    told.push(log_line(&log, (opened - start).as_millis()));
    let loaded = snapshot::load::load_newest(
        places.data,
        &LoadOptions { tree: places.tree, now: opened, threads: 0 },
    )?;
    let is_fuzzy = loaded.as_ref().is_some_and(|loaded| loaded.is_fuzzy);
    let (mut writer, mut sessions, snapshot) = match loaded {
        Some(loaded) => {
            told.push(snapshot_line(&loaded, opened));
            (loaded.writer, SessionsAtRest::new(loaded.sessions), loaded.zxid)
        }
        None if log.is_empty() || places.trust_empty => {
            for dir in [places.data, places.log] {
                if !places.trust_empty && has_java_files(dir)? {
                    return Err(RecoverError::Apache { dir: dir.to_owned() });
                }
            }
            let writer = Writer::new(places.tree, opened);
            snapshot::write::write(places.data, writer.tree(), Zxid::ZERO, writer.digest(), &[])?;
            told.push("no snapshot and no log: an empty tree".to_owned());
            (writer, SessionsAtRest::new(Vec::new()), Zxid::ZERO)
        }
        None => {
            return Err(RecoverError::NoSnapshot {
                last: log.last(),
                log: places.log.to_owned(),
                data: places.data.to_owned(),
            });
        }
    };
    if log.last() < snapshot && !places.trust_empty {
        let log_dir = places.log.to_owned();
        return Err(RecoverError::LogBehind { last: log.last(), snapshot, log: log_dir });
    }
    if is_fuzzy {
        writer.set_replay(Replay::Fuzzy);
    }
    let replaying = clock::now();
    let check_digest = places.check_digest;
    let kept = Kept::nothing();
    let how = Replaying { after: snapshot, is_fuzzy, check_digest, kept };
    let behind = replay(&log, how, &mut writer, &mut sessions)?.behind;
    writer.set_replay(Replay::Exact);
    reach.settle(places.log)?;
    let took_ms = (clock::now() - replaying).as_millis();
    let (count, last) = (behind.txns, log.last());
    told.push(format!("{count} transactions replayed up to zxid {last}, in {took_ms} ms"));
    let startup = StartupReport {
        snapshot_load_ms: (replaying - opened).as_millis() as u64,
        txns_loaded: count,
        txns_load_ms: took_ms as u64,
    };
    Ok(Recovered { writer, sessions, snapshot, behind, log, startup, told })
}

pub(super) fn create_directories(places: &Places<'_>) -> Result<(), RecoverError> {
    [places.data, places.log].into_iter().try_for_each(|path| {
        std::fs::create_dir_all(path).map_err(|source| RecoverError::Io {
            op: "create",
            path: path.to_owned(),
            source,
        })
    })
}

pub(super) fn snapshot_line(loaded: &Loaded, begun: Time) -> String {
    for skipped in &loaded.skipped {
        tracing::error!("{} is passed over: {}", skipped.path.display(), skipped.error);
    }
    format!(
        "snapshot of zxid {}: {} znodes, {} sessions, in {} ms",
        loaded.zxid,
        loaded.figures.nodes,
        loaded.sessions.len(),
        (clock::now() - begun).as_millis()
    )
}

pub(super) fn log_line(log: &RecoveredLog, took_ms: u128) -> String {
    let figures = log.figures();
    if let Some((path, offset, why)) = &figures.torn {
        tracing::warn!(
            "{} at offset {offset}: a torn, never acknowledged batch was cut off ({why})",
            path.display()
        );
    }
    format!(
        "log: {} segments, {} batches, {} transactions of {} bytes up to zxid {}, in {took_ms} ms",
        figures.segments,
        figures.batches,
        figures.txns,
        figures.bytes,
        log.last()
    )
}

/// How the log is replayed.
pub(super) struct Replaying {
    /// The snapshot's zxid.
    pub after: Zxid,
    /// Whether the snapshot holds parts of later transactions.
    pub is_fuzzy: bool,
    pub check_digest: bool,
    pub kept: Kept,
}

/// The newest transactions, which stay undoable: a leader may take those back that it does not
/// have.
pub(super) struct Kept {
    /// What is known to be committed is never taken back.
    committed: Zxid,
    txns_max: usize,
    bytes_max: usize,
    /// Each with its length in bytes.
    txns: VecDeque<(Zxid, usize)>,
    bytes: usize,
}

impl Kept {
    /// None: nobody takes anything back.
    pub fn nothing() -> Kept {
        Kept::after(Zxid::MAX, 0, 0)
    }

    /// Those after `committed`, and of these the newest so many.
    pub fn after(committed: Zxid, txns_max: usize, bytes_max: usize) -> Kept {
        Kept { committed, txns_max, bytes_max, txns: VecDeque::new(), bytes: 0 }
    }

    /// Takes in that `zxid` was applied; gives the newest one that need not be undoable any more.
    pub fn push(&mut self, zxid: Zxid, bytes: usize) -> Option<Zxid> {
        if zxid <= self.committed {
            return Some(zxid);
        }
        self.txns.push_back((zxid, bytes));
        self.bytes += bytes;
        let mut given_up = None;
        while self.txns.len() > self.txns_max || self.bytes > self.bytes_max {
            let (zxid, bytes) = self.txns.pop_front().expect("one was just pushed");
            self.bytes -= bytes;
            given_up = Some(zxid);
        }
        given_up
    }
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    pub behind: Behind,
    /// The newest transaction that cannot be undone any more.
    pub needless: Zxid,
    /// Whether the last digest in the log is that of the tree there.
    pub is_proven: bool,
}

/// Applies what stands in the log behind the snapshot. A tree that is fuzzy becomes exact somewhere
/// on the way: digests are not checked before the first that is right.
pub(super) fn replay(
    log: &RecoveredLog,
    replaying: Replaying,
    writer: &mut Writer,
    sessions: &mut SessionsAtRest,
) -> Result<Replayed, RecoverError> {
    let Replaying { after, mut is_fuzzy, check_digest, mut kept } = replaying;
    let mut replayed = Replayed::default();
    if log.last() <= after {
        return Ok(replayed);
    }
    // Behind the last of an epoch this is the start of the next one, where no transaction is.
    let first = Zxid::from_raw(after.raw() + 1);
    let mut transactions = log.read_from(first)?;
    while let Some(logged) = transactions.next_txn() {
        let (zxid, bytes) = logged?;
        let logged = txn::decode(bytes).map_err(|error| RecoverError::Decode { zxid, error })?;
        writer
            .apply(&logged.header, &logged.txn)
            .map_err(|error| RecoverError::Replay { zxid, error })?;
        sessions.apply(&logged.header, &logged.txn, zxid <= kept.committed);
        if let Some(expected) = logged.digest {
            let found = writer.digest();
            replayed.is_proven = expected == found;
            is_fuzzy &= !replayed.is_proven;
            if !replayed.is_proven && !is_fuzzy && check_digest {
                return Err(RecoverError::Digest { zxid, found, logged: expected });
            }
        }
        replayed.behind.txns += 1;
        replayed.behind.bytes += bytes.len() as u64;
        if let Some(needless) = kept.push(zxid, bytes.len()) {
            // Nobody reads yet: no older version is needed by anyone.
            writer.reclaim(needless, &[]);
            replayed.needless = needless;
        }
    }
    Ok(replayed)
}

/// The log, open for appending behind what the tree holds.
///
/// # Errors
/// The operating system's.
pub fn into_log(
    log: RecoveredLog,
    kind: crate::log::WriterKind,
    tree_at: Zxid,
) -> Result<Log, LogError> {
    let mut log = log.into_log(kind)?;
    if log.appended() < tree_at {
        log.reset_after(tree_at);
    }
    Ok(log)
}
