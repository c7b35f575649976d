//! The thread that keeps a member's small files: its epochs, and whether its state is sound.
//!
//! Each takes a file's sync, a rename and a directory's sync: milliseconds, for which no core may
//! wait, and which must not wait for a segment to be filled either.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::io::wake::Waker;
use crate::server::epochs::EpochFiles;
use crate::server::members_file::MembersFiles;
use crate::server::small_file::FileError;
use crate::server::standing::StandingFile;
use crate::snapshot::directory;
use crate::wire::membership::Membership;
use crate::zxid::Zxid;

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    AcceptedEpoch(u32),
    CurrentEpoch(u32),
    /// The state is whole: it votes from here on.
    Sound,
    /// The log goes on behind the snapshot of this zxid, which a leader has sent.
    Settled(Zxid),
    /// That snapshot holds no part of anything later.
    Exact(Zxid),
    /// The members in force, if they are other ones than were kept last, and what is proposed.
    Members {
        current: Option<Membership>,
        next: Option<Membership>,
    },
}

/// What is kept, durably; or why it is not, which stops the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    AcceptedEpoch(u32),
    CurrentEpoch(u32),
    Failed(String),
}

/// The core's end of the thread, which ends when this is dropped.
pub struct Keeper {
    to_thread: Sender<Keeping>,
    kept: Receiver<Kept>,
}

impl Keeper {
    /// Starts the thread for the files and snapshots in `dir`, which is dataDir's `version-2`, and
    /// for the members' files.
    ///
    /// # Errors
    /// The kernel refuses a thread.
    pub fn start(
        dir: &Path,
        members: Option<MembersFiles>,
        waker: Waker,
    ) -> std::io::Result<Keeper> {
        let files = Files {
            epochs: EpochFiles::new(dir),
            standing: StandingFile::new(dir),
            snapshots: dir.to_owned(),
            members,
        };
        let (to_thread, jobs) = channel();
        let (done, kept) = channel();
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            for job in jobs {
                let ends_election = matches!(job, Keeping::CurrentEpoch(_));
                let outcome = files.keep(job).unwrap_or_else(|error| Some(Kept::Failed(error)));
                // The core may be gone already when the server stops.
                if let Some(outcome) = outcome
                    && done.send(outcome).is_ok()
                {
                    waker.wake();
                }
                if ends_election {
                    files.epochs.keep_room();
                }
            }
        })?;
        Ok(Keeper { to_thread, kept })
    }

    /// Has something kept; in order.
    pub fn keep(&self, keeping: Keeping) {
        self.to_thread.send(keeping).expect("the thread ends after the keeper");
    }

    /// What has been kept.
    pub fn poll(&self) -> Option<Kept> {
        self.kept.try_recv().ok()
    }
}

/// The thread's end.
struct Files {
    epochs: EpochFiles,
    standing: StandingFile,
    snapshots: PathBuf,
    /// `None` for a server that runs without a zoo.cfg.
    members: Option<MembersFiles>,
}

impl Files {
    fn keep(&self, job: Keeping) -> Result<Option<Kept>, String> {
        let text = |error: FileError| error.to_string();
        match job {
            Keeping::AcceptedEpoch(epoch) => {
                self.epochs.save_accepted(epoch).map_err(text)?;
                Ok(Some(Kept::AcceptedEpoch(epoch)))
            }
            Keeping::CurrentEpoch(epoch) => {
                self.epochs.save_current(epoch).map_err(text)?;
                Ok(Some(Kept::CurrentEpoch(epoch)))
            }
            Keeping::Sound => self.standing.save_sound().map_err(text).map(|()| None),
            Keeping::Settled(zxid) => {
                let settled = directory::settle(&self.snapshots, zxid);
                settled.map_err(|error| error.to_string()).map(|()| None)
            }
            Keeping::Members { current, next } => {
                if let Err(error) = self.keep_members(current.as_ref(), next.as_ref()) {
                    tracing::warn!("the next start begins with older members: {error}");
                }
                Ok(None)
            }
            Keeping::Exact(zxid) => {
                let settled = directory::settle_exact(&self.snapshots, zxid);
                settled.map_err(|error| error.to_string()).map(|()| None)
            }
        }
    }

    fn keep_members(
        &self,
        current: Option<&Membership>,
        next: Option<&Membership>,
    ) -> Result<(), FileError> {
        let Some(files) = &self.members else { return Ok(()) };
        if let Some(current) = current {
            files.save(current)?;
        }
        match next {
            Some(next) => files.save_next(next),
            None => files.remove_next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::ring::{Ring, RingConfig};
    use crate::zab::output::Standing;

    #[test]
    fn files_are_kept_in_order_and_told_when_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let standing = StandingFile::new(dir.path());
        standing.save(Standing::Empty, "it is new").unwrap();
        let ring = Ring::new(RingConfig::default()).unwrap();
        let keeper = Keeper::start(dir.path(), None, ring.waker()).unwrap();
        keeper.keep(Keeping::Sound);
        keeper.keep(Keeping::AcceptedEpoch(7));
        keeper.keep(Keeping::CurrentEpoch(7));
        let next = || keeper.kept.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), Kept::AcceptedEpoch(7));
        assert_eq!(next(), Kept::CurrentEpoch(7));
        let epochs = EpochFiles::new(dir.path()).load(Zxid::ZERO).unwrap();
        assert_eq!((epochs.accepted, epochs.current), (7, 7));
        assert_eq!(standing.load().unwrap(), Standing::Sound);
    }

    #[test]
    fn what_cannot_be_kept_is_told_with_its_reason() {
        let ring = Ring::new(RingConfig::default()).unwrap();
        let dir = Path::new("/nonexistent/version-2");
        let keeper = Keeper::start(dir, None, ring.waker()).unwrap();
        keeper.keep(Keeping::CurrentEpoch(1));
        let kept = keeper.kept.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(kept, Kept::Failed(reason) if reason.contains("/nonexistent")));
    }
}
