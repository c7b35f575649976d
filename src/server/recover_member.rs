//! From files to a member of an ensemble: what is good is taken, and what is missing or damaged
//! makes the server one without a vote, which a leader makes whole.
//!
//! | what is found | what is done | standing |
//! |---|---|---|
//! | damage in the log | it and what follows is set aside, the rest is replayed | damaged |
//! | a log that does not fit the snapshot, or its own digests | it is set aside | damaged |
//! | a log whose newest files are gone | it goes on behind what is there | damaged |
//! | a log that ends before a snapshot of ours | it goes on behind the snapshot | damaged |
//! | a log that does not yet go on behind a leader's snapshot | it is made to | sound |
//! | no sound snapshot, and there was something | an empty tree, the log set aside | damaged |
//! | a snapshot of parts of later transactions, never proven exact | it is taken | damaged |
//! | epoch files that are damaged or contradict the log | they are left | damaged |
//! | nothing at all, and nobody vouches for that | an empty tree | empty |
//!
//! That the server is not sound is on the disk before anything else is done about it.

use std::path::Path;

use crate::io::clock;
use crate::log::append::Log;
use crate::log::recover::{Options, Recovered as RecoveredLog, open};
use crate::log::{LogError, WriterKind, aside};
use crate::pipeline::at_rest::SessionsAtRest;
use crate::server::epochs::EpochFiles;
use crate::server::reach::Reach;
use crate::server::recover::{
    Behind, Kept, Places, RecoverError, Recovered, Replayed, Replaying, create_directories,
    has_java_files, log_line, replay, snapshot_line,
};
use crate::server::report::StartupReport;
use crate::server::standing::{self, StandingFile};
use crate::snapshot::load::{LoadOptions, Loaded, load_newest};
use crate::snapshot::{SnapshotError, directory, write};
use crate::tree::writer::{Replay, Writer};
use crate::zab::output::{self, Standing};
use crate::zxid::Zxid;

/// So many of the newest transactions can be taken back by a leader after a start, and no more
/// bytes of them: a follower's backlog of a second at full speed is less. With a longer one the
/// leader sends a snapshot.
const KEPT_TXNS_MAX: usize = 10_000;
/// The same in bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// What is before the first damage is good: the second attempt opens it, unless the disk goes on
/// failing.
const ATTEMPTS_MAX: u32 = 4;

/// A member's files, and what the operator has said of them.
pub struct Files<'a> {
    pub places: Places<'a>,
    /// dataDir and dataLogDir, where `initialize` may stand.
    pub homes: [&'a Path; 2],
    /// Whether the configuration says `db.autocreate=true`.
    pub is_autocreate: bool,
}

/// A member of an ensemble as its files have it.
pub struct RecoveredMember {
    pub recovered: Recovered,
    /// What agreement begins with.
    pub zab: output::Recovered,
    /// Before it the tree cannot be read: what was replaced is forgotten.
    pub readable_from: Zxid,
    /// What the log holds is void: [`into_log`] lets it go on behind the tree.
    pub is_reset: bool,
}

/// Reads the files of a member of an ensemble.
///
/// # Errors
/// The operating system's, another process that holds the log, and files of a newer release:
/// nothing that a leader could help with.
pub fn recover(files: &Files<'_>, options: Options) -> Result<RecoveredMember, RecoverError> {
    let places = &files.places;
    create_directories(places)?;
    let standing = StandingFile::new(places.data);
    let reach = Reach::new(places.data);
    let begun = clock::now();
    let mut found =
        Found { places, options, standing: standing.load()?, file: standing, told: Vec::new() };
    if let Some(missing) = reach.missing(places.log)?
        && !places.trust_empty
    {
        found.damage(&missing.to_string())?;
    }
    let log = found.open_log()?;
    found.told.push(log_line(&log, (clock::now() - begun).as_millis()));
    let state = found.load(log, files)?;
    let last = state.writer.last_zxid();
    let epochs = EpochFiles::new(places.data);
    let held = epochs.load(last)?;
    found.told.extend(held.told);
    match &held.damage {
        Some(damage) => found.damage(damage)?,
        None if found.standing != Standing::Sound || held.current == 0 => {}
        // An epoch begins with a log, even if nothing is in it yet.
        None if state.log.has_no_segment() => found.damage("the log's files are gone")?,
        None => {}
    }
    reach.settle(places.log)?;
    if found.standing != Standing::Sound {
        found.told.push(format!("this server has no vote: it is {:?}", found.standing));
    }
    let zab = output::Recovered {
        last,
        // Not the snapshot's: a leader that was not established yet may have sent it, and then it
        // may be taken back.
        committed: state.log.committed().min(last),
        accepted_epoch: held.accepted,
        current_epoch: held.current,
        standing: found.standing,
    };
    let State { writer, sessions, snapshot, behind, log, startup, readable_from, is_reset } = state;
    let told = found.told;
    let recovered = Recovered { writer, sessions, snapshot, behind, log, startup, told };
    Ok(RecoveredMember { recovered, zab, readable_from, is_reset })
}

/// The log, open for appending behind what the tree holds. If it is not idle, what is staged is
/// that what it holds is void; it need not be durable before anything but the next append.
///
/// # Errors
/// The operating system's.
pub fn into_log(
    log: RecoveredLog,
    kind: WriterKind,
    zab: &output::Recovered,
    is_reset: bool,
) -> Result<Log, LogError> {
    let mut log = log.into_log(kind)?;
    if is_reset || log.appended() != zab.last {
        log.reset_after(zab.last);
    }
    log.set_committed(zab.committed);
    Ok(log)
}

/// The tree with what goes with it.
struct State {
    writer: Writer,
    sessions: SessionsAtRest,
    snapshot: Zxid,
    behind: Behind,
    log: RecoveredLog,
    startup: StartupReport,
    readable_from: Zxid,
    is_reset: bool,
}

/// What was found so far.
struct Found<'a> {
    places: &'a Places<'a>,
    options: Options,
    standing: Standing,
    file: StandingFile,
    told: Vec<String>,
}

impl Found<'_> {
    /// Makes it durable that the server is damaged, and says so.
    fn damage(&mut self, why: &str) -> Result<(), RecoverError> {
        tracing::error!("{why}. This server has no vote until a leader has made it whole");
        self.standing = Standing::Damaged;
        self.file.save(Standing::Damaged, why)?;
        Ok(())
    }

    /// Opens the log, without what is damaged.
    fn open_log(&mut self) -> Result<RecoveredLog, RecoverError> {
        for attempt in 1.. {
            let error = match open(self.places.log, self.options) {
                Err(error @ LogError::Damaged { .. }) => error,
                opened => return Ok(opened?),
            };
            self.damage(&error.to_string())?;
            let aside = match error {
                LogError::Damaged { file, offset, .. } if attempt < ATTEMPTS_MAX => {
                    aside::set_aside_from(self.places.log, &file, offset)?
                }
                _ => aside::set_aside_all(self.places.log)?,
            };
            self.told.push(format!("what is damaged in the log is kept in {}", aside.display()));
        }
        unreachable!("an empty log is not damaged")
    }

    /// Sets all of the log aside, and gives an empty one.
    fn give_up_log(&mut self, log: RecoveredLog, why: &str) -> Result<RecoveredLog, RecoverError> {
        self.damage(why)?;
        let is_empty = log.is_empty();
        drop(log);
        if !is_empty {
            let aside = aside::set_aside_all(self.places.log)?;
            self.told.push(format!("the log is kept in {}", aside.display()));
        }
        Ok(open(self.places.log, self.options)?)
    }

    fn load_snapshot(&mut self) -> Result<Option<Loaded>, RecoverError> {
        let now = clock::now();
        let options = LoadOptions { tree: self.places.tree, now, threads: 0 };
        match load_newest(self.places.data, &options) {
            Ok(Some(loaded)) => {
                self.told.push(snapshot_line(&loaded, now));
                Ok(Some(loaded))
            }
            Err(error @ SnapshotError::NoneSound { .. }) => {
                self.damage(&error.to_string())?;
                Ok(None)
            }
            loaded => Ok(loaded?),
        }
    }

    fn load(&mut self, log: RecoveredLog, files: &Files<'_>) -> Result<State, RecoverError> {
        let begun = clock::now();
        let loaded = self.load_snapshot()?;
        let replaying = clock::now();
        let mut state = match loaded {
            Some(loaded) => self.go_on_from(loaded, log)?,
            None => self.begin(log, files)?,
        };
        standing::take_initialize(&files.homes)?;
        state.startup.snapshot_load_ms = (replaying - begun).as_millis() as u64;
        state.startup.txns_load_ms = (clock::now() - replaying).as_millis() as u64;
        self.told.push(format!(
            "{} transactions replayed up to zxid {}, in {} ms",
            state.startup.txns_loaded,
            state.writer.last_zxid(),
            state.startup.txns_load_ms
        ));
        Ok(state)
    }

    /// A tree of nothing: new, wiped, or damaged beyond that.
    fn begin(&mut self, log: RecoveredLog, files: &Files<'_>) -> Result<State, RecoverError> {
        let Places { data, log: log_dir, tree, .. } = *self.places;
        let log = if !log.is_empty() && !self.places.trust_empty {
            let why = format!("there is a log up to zxid {}, but no snapshot", log.last());
            self.give_up_log(log, &why)?
        } else {
            log
        };
        let is_java = has_java_files(data)? || has_java_files(log_dir)?;
        let is_vouched = standing::is_initialized(&files.homes) || files.is_autocreate;
        let is_new = self.standing == Standing::Sound && log.is_empty();
        if is_new && is_java {
            // Not `Empty`: servers that all stand beside such files are no new ensemble.
            let why = "the files of Apache's here are not read: a leader sends the state";
            self.told.push(why.to_owned());
            self.damage(why)?;
        } else if is_new && !is_vouched {
            let why = "nothing is here, and nobody vouches for that";
            self.told.push(why.to_owned());
            self.standing = Standing::Empty;
            self.file.save(Standing::Empty, why)?;
        }
        let now = clock::now();
        if self.standing != Standing::Damaged {
            // Written last: it is what says that this server has begun.
            let writer = Writer::new(tree, now);
            write::write(data, writer.tree(), Zxid::ZERO, writer.digest(), &[])?;
        }
        let from = From {
            writer: Writer::new(tree, now),
            sessions: Vec::new(),
            snapshot: Zxid::ZERO,
            is_fuzzy: false,
        };
        self.replay(from, log, false)
    }

    fn go_on_from(&mut self, loaded: Loaded, mut log: RecoveredLog) -> Result<State, RecoverError> {
        let Loaded { writer, sessions, zxid, is_fuzzy, is_pending, .. } = loaded;
        let mut is_reset = false;
        if log.starts_after() > zxid {
            let why = format!(
                "the log begins after zxid {}, and the newest sound snapshot is of {zxid}",
                log.starts_after()
            );
            log = self.give_up_log(log, &why)?;
            is_reset = true;
        } else if is_pending && log.starts_after() == zxid && !log.is_empty() {
            directory::settle(self.places.data, zxid)?;
        } else if is_pending {
            let last = log.last();
            self.told.push(format!(
                "the snapshot of zxid {zxid} came from a leader: the log, which ends at zxid \
                 {last}, goes on behind it"
            ));
            is_reset = true;
        } else if log.last() < zxid {
            let why = format!("the log ends at zxid {}, before the snapshot of {zxid}", log.last());
            if !self.places.trust_empty {
                self.damage(&why)?;
            }
            is_reset = true;
        }
        let from = From { writer, sessions, snapshot: zxid, is_fuzzy };
        self.replay(from, log, is_reset)
    }

    fn replay(
        &mut self,
        from: From,
        log: RecoveredLog,
        is_reset: bool,
    ) -> Result<State, RecoverError> {
        let From { mut writer, sessions, snapshot, is_fuzzy } = from;
        let mut at_rest = SessionsAtRest::new(sessions);
        let kept = Kept::after(log.committed(), KEPT_TXNS_MAX, KEPT_BYTES_MAX);
        let check_digest = self.places.check_digest;
        let how = Replaying { after: snapshot, is_fuzzy, check_digest, kept };
        if is_fuzzy {
            writer.set_replay(Replay::Fuzzy);
        }
        let replayed = match is_reset {
            true => Ok(Replayed::default()),
            false => replay(&log, how, &mut writer, &mut at_rest),
        };
        writer.set_replay(Replay::Exact);
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error @ (RecoverError::Io { .. } | RecoverError::File(_))) => return Err(error),
            Err(error) => return self.start_over(log, &error),
        };
        if is_fuzzy && !replayed.is_proven {
            let why = format!(
                "the snapshot of zxid {snapshot} holds parts of later transactions, and nothing \
                 in the log proves that the tree is exact"
            );
            self.damage(&why)?;
        }
        Ok(State {
            writer,
            sessions: at_rest,
            snapshot,
            behind: replayed.behind,
            startup: StartupReport {
                txns_loaded: replayed.behind.txns,
                ..StartupReport::default()
            },
            log,
            readable_from: replayed.needless.max(snapshot),
            is_reset,
        })
    }

    /// The log cannot be replayed: the tree is the snapshot's again.
    fn start_over(
        &mut self,
        log: RecoveredLog,
        error: &RecoverError,
    ) -> Result<State, RecoverError> {
        let log = self.give_up_log(log, &error.to_string())?;
        let now = clock::now();
        let from = match self.load_snapshot()? {
            Some(Loaded { writer, sessions, zxid, is_fuzzy, .. }) => {
                From { writer, sessions, snapshot: zxid, is_fuzzy }
            }
            None => From {
                writer: Writer::new(self.places.tree, now),
                sessions: Vec::new(),
                snapshot: Zxid::ZERO,
                is_fuzzy: false,
            },
        };
        // The log is empty: there is nothing that could fail again.
        self.replay(from, log, true)
    }
}

/// What the log is replayed onto.
struct From {
    writer: Writer,
    sessions: Vec<(i64, i32)>,
    snapshot: Zxid,
    is_fuzzy: bool,
}

#[cfg(test)]
mod tests;
