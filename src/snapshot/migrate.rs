//! Moving a server's data from Apache's files to ours and back, while neither server runs.
//!
//! An import takes Apache's newest snapshot that is sound, replays its logs, and writes our
//! snapshot of what came out. Our log begins with the newest transaction, so that a log that was
//! lost later is told from one that never was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::log::recover::{self, Options};
use crate::log::{LogError, WriterKind, segment};
use crate::snapshot::frame::Pace;
use crate::snapshot::java::{self, Compression, Fuzzy};
use crate::snapshot::java_log::{self, LogReader};
use crate::snapshot::load::{self, LoadOptions};
use crate::snapshot::{Figures, Skipped, SnapshotError, directory, write};
use crate::tree::TreeError;
use crate::tree::writer::{Replay, Writer};
use crate::wire::error::DecodeError;
use crate::wire::txn::{self, Txn};
use crate::zxid::Zxid;

/// Why data cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to be moved.
    #[error("there is no snapshot in {}", dir.display())]
    NoSnapshot { dir: PathBuf },
    /// The log, or a part of it, is somewhere else.
    #[error(
        "no log in {} reaches the snapshot of zxid {snapshot}: --java-log says where Apache's \
         dataLogDir is; --snapshot-alone takes the snapshot for all there is, as a backup is",
        dir.display()
    )]
    NoLog { dir: PathBuf, snapshot: Zxid },
    /// The target has data of its own.
    #[error("{} holds data already", dir.display())]
    NotEmpty { dir: PathBuf },
    /// A transaction in the log is none.
    #[error("transaction {zxid} in the log is none: {source}")]
    Decode { zxid: Zxid, source: DecodeError },
    /// A transaction in the log contradicts the tree.
    #[error("transaction {zxid} in the log does not fit the tree: {source}")]
    Unfit { zxid: Zxid, source: TreeError },
    /// The log goes on later than it should.
    #[error("the log goes on with transaction {zxid} after {last}: what is between is missing")]
    Gap { last: Zxid, zxid: Zxid },
    /// The tree is another one than the server's that wrote the log.
    #[error("at {zxid} the tree's digest is {found:#x}, and the server's was {expected:#x}")]
    Digest { zxid: Zxid, expected: u64, found: u64 },
}

/// Where a server's files are.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The directory of the snapshots; Apache's `dataDir`.
    pub data: &'a Path,
    /// The directory of the log; Apache's `dataLogDir`.
    pub log: &'a Path,
}

/// How to import.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// How the tree is built.
    pub load: LoadOptions,
    /// How our log is made; `committed` is of no account.
    pub log: Options,
    /// Whether digests that contradict the tree end the import.
    pub check_digest: bool,
    /// Whether a snapshot without a log that reaches it is all there is: a backup. A server's own
    /// directory has such a log, and where it is somewhere else acknowledged writes would be lost.
    pub snapshot_alone: bool,
}

/// What was imported.
#[derive(Debug)]
pub struct Imported {
    /// The newest transaction.
    pub zxid: Zxid,
    /// Apache's digest of the tree.
    pub digest: u64,
    /// Of our snapshot.
    pub figures: Figures,
    /// How many transactions were replayed.
    pub replayed: u64,
    /// How many digests of transactions were compared, all equal unless that was not asked for.
    pub digests_checked: u64,
    /// Znodes whose access control list Apache's snapshot did not hold (`java::Fuzzy`).
    pub unknown_lists: u64,
    /// Snapshots that are not sound.
    pub skipped: Vec<Skipped>,
}

/// Imports Apache's data in `theirs` into the empty directories `ours`.
///
/// # Errors
/// Nothing is written to `ours` unless all was read and fits together.
pub fn import(
    theirs: Places<'_>,
    ours: Places<'_>,
    options: &ImportOptions,
) -> Result<Imported, MigrateError> {
    if !directory::list(ours.data)?.is_empty() {
        return Err(MigrateError::NotEmpty { dir: ours.data.to_owned() });
    }
    for dir in [ours.data, ours.log] {
        std::fs::create_dir_all(dir).map_err(|e| SnapshotError::io("create", dir, 0, e))?;
    }
    let log = recover::open(ours.log, options.log)?;
    if log.last() != Zxid::ZERO {
        return Err(MigrateError::NotEmpty { dir: ours.log.to_owned() });
    }
    let (fuzzy, skipped) = newest(theirs.data, &options.load)?;
    let Fuzzy { writer, sessions, digest, unknown_lists } = fuzzy;
    let mut replaying = Replaying::new(writer, sessions);
    replaying.writer.set_replay(Replay::Fuzzy);
    let digests_from = digest.map(|(zxid, _)| zxid);
    let mut newest = None;
    for path in java_log::logs_after(theirs.log, replaying.writer.last_zxid())? {
        let Some(mut log) = LogReader::open(path)? else { continue };
        while let Some(payload) = log.next_payload()? {
            let zxid = zxid_of(payload);
            if zxid <= replaying.writer.last_zxid() {
                newest = (zxid == replaying.writer.last_zxid()).then(|| payload.to_vec());
                continue;
            }
            let checked = options.check_digest && digests_from.is_none_or(|from| zxid >= from);
            replaying.apply(zxid, payload, checked)?;
            newest = Some(payload.to_vec());
        }
    }
    if let Some((zxid, expected)) = digest
        && options.check_digest
        && zxid == replaying.writer.last_zxid()
        && expected != replaying.writer.digest()
    {
        let found = replaying.writer.digest();
        return Err(MigrateError::Digest { zxid, expected, found });
    }
    let Replaying { writer, sessions, replayed, digests_checked } = replaying;
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let sessions: Vec<(i64, i32)> = sessions.into_iter().collect();
    if newest.is_none() && !options.snapshot_alone {
        return Err(MigrateError::NoLog {
            dir: theirs.log.join(java::VERSION_DIR),
            snapshot: zxid,
        });
    }
    begin_log(ours.log, log, zxid, newest.as_deref())?;
    let figures = write::write_at(ours.data, writer.tree(), zxid, digest, &sessions, Pace::Full)?;
    Ok(Imported { zxid, digest, figures, replayed, digests_checked, unknown_lists, skipped })
}

/// Apache's newest snapshot that is sound.
fn newest(data_dir: &Path, options: &LoadOptions) -> Result<(Fuzzy, Vec<Skipped>), MigrateError> {
    let mut skipped = Vec::new();
    for file in java::snapshots(data_dir)? {
        match java::read(&file, options) {
            Ok(fuzzy) => return Ok((fuzzy, skipped)),
            Err(error) => skipped.push(Skipped { path: file.path, error }),
        }
    }
    let dir = data_dir.join(java::VERSION_DIR);
    match skipped.is_empty() {
        true => Err(MigrateError::NoSnapshot { dir }),
        false => Err(SnapshotError::NoneSound { dir, skipped }.into()),
    }
}

/// The zxid in a transaction's header, or zero.
fn zxid_of(payload: &[u8]) -> Zxid {
    let raw = payload.get(12..20).and_then(|bytes| bytes.try_into().ok());
    Zxid::from_raw(i64::from_be_bytes(raw.unwrap_or_default()))
}

/// A tree and its sessions, to which transactions are applied.
struct Replaying {
    writer: Writer,
    sessions: BTreeMap<i64, i32>,
    replayed: u64,
    digests_checked: u64,
}

impl Replaying {
    fn new(writer: Writer, sessions: BTreeMap<i64, i32>) -> Replaying {
        Replaying { writer, sessions, replayed: 0, digests_checked: 0 }
    }

    fn apply(&mut self, zxid: Zxid, bytes: &[u8], check: bool) -> Result<(), MigrateError> {
        let last = self.writer.last_zxid();
        // Within an epoch each number is given once. A new one begins wherever it does.
        if zxid.epoch() == last.epoch() && last.next() != Some(zxid) {
            return Err(MigrateError::Gap { last, zxid });
        }
        let logged = txn::decode(bytes).map_err(|source| MigrateError::Decode { zxid, source })?;
        let effects = self
            .writer
            .apply(&logged.header, &logged.txn)
            .map_err(|source| MigrateError::Unfit { zxid, source })?;
        match logged.txn {
            Txn::CreateSession { timeout_ms } => {
                self.sessions.insert(logged.header.session, timeout_ms);
            }
            Txn::CloseSession { .. } => {
                self.sessions.remove(&logged.header.session);
            }
            _ => {}
        }
        if let Some(expected) = logged.digest.filter(|_| check) {
            let found = effects.totals.digest;
            if expected != found {
                return Err(MigrateError::Digest { zxid, expected, found });
            }
            self.digests_checked += 1;
        }
        self.replayed += 1;
        // Nobody reads yet: no older version is needed by anyone.
        self.writer.reclaim(zxid, &[]);
        Ok(())
    }
}

/// Makes `payload`, the transaction at `zxid`, the first one of the new log in `dir`. Without one
/// (a snapshot alone, as a backup is) the log says that it goes on after `zxid`.
fn begin_log(
    dir: &Path,
    log: recover::Recovered,
    zxid: Zxid,
    payload: Option<&[u8]>,
) -> Result<(), LogError> {
    let mut log = log.into_log(WriterKind::Mmap)?;
    match payload {
        Some(payload) => {
            log.reset_after(Zxid::from_raw(zxid.raw() - 1));
            log.append(zxid, payload);
        }
        None => log.begin_after(zxid),
    }
    while !log.is_idle() {
        while let Some(request) = log.wanted_segment(crate::time::Time::default()) {
            log.offer_segment(segment::prepare(dir, request)?);
        }
        let write = log.poll_write().expect("a segment is there");
        let result = write.perform_blocking();
        log.handle_written(write, result)?;
    }
    Ok(())
}

/// Exports our data in `ours` as a snapshot of Apache's below `java_data_dir`; returns its path.
///
/// # Errors
/// Our data cannot be read, or the snapshot cannot be written.
pub fn export(
    ours: Places<'_>,
    java_data_dir: &Path,
    options: &ImportOptions,
    compression: Compression,
) -> Result<PathBuf, MigrateError> {
    let Some(loaded) = load::load_newest(ours.data, &options.load)? else {
        return Err(MigrateError::NoSnapshot { dir: ours.data.to_owned() });
    };
    let mut replaying = Replaying::new(loaded.writer, loaded.sessions.into_iter().collect());
    let log = recover::open(ours.log, options.log)?;
    if let Some(first) = loaded.zxid.next().filter(|first| log.last() >= *first) {
        let mut transactions = log.read_from(first)?;
        while let Some(logged) = transactions.next_txn() {
            let (zxid, bytes) = logged?;
            replaying.apply(zxid, bytes, options.check_digest)?;
        }
    }
    let Replaying { writer, sessions, .. } = replaying;
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let sessions: Vec<(i64, i32)> = sessions.into_iter().collect();
    Ok(java::write(java_data_dir, writer.tree(), zxid, digest, &sessions, compression)?)
}
