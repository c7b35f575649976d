//! The journal's file while it is written: many workers' lines, one sync for all that wait.
//!
//! A worker that waits for its line either does the write and the sync itself, for everybody's
//! lines, or waits for the one who does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex};

use super::record::{Header, Record};

/// Lines appended by [`Journal::note`], durable after [`Journal::sync`].
pub struct Journal {
    state: Mutex<State>,
    synced: Condvar,
    syncs: bool,
}

struct State {
    /// Taken out while somebody writes and syncs.
    file: Option<File>,
    waiting: Vec<u8>,
    /// Bytes ever appended, and how many of them are on disk.
    appended: u64,
    durable: u64,
    failed: bool,
}

const POISONED: &str = "no worker panics while it holds the journal";

impl Journal {
    /// A new file; one that exists is refused, since it may be all that is known of a run.
    pub fn create(path: &Path, header: &Header, syncs: bool) -> io::Result<Journal> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        writeln!(file, "{header}")?;
        file.sync_all()?;
        if let Some(folder) = path.canonicalize()?.parent() {
            File::open(folder)?.sync_all()?;
        }
        let state =
            State { file: Some(file), waiting: Vec::new(), appended: 0, durable: 0, failed: false };
        Ok(Journal { state: Mutex::new(state), synced: Condvar::new(), syncs })
    }

    /// Appends a line in memory. It is in the file when the next [`Journal::sync`] returns.
    pub fn note(&self, record: &Record) {
        let mut state = self.state.lock().expect(POISONED);
        let before = state.waiting.len();
        writeln!(state.waiting, "{record}").expect("a vector takes everything");
        state.appended += (state.waiting.len() - before) as u64;
    }

    /// Returns when every line noted before is on disk (in the page cache with `--no-sync`).
    /// After one failed sync the journal is of no more use, and every call fails.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().expect(POISONED);
        let goal = state.appended;
        loop {
            if state.failed {
                return Err(io::Error::other("the journal could not be written"));
            }
            if state.durable >= goal {
                return Ok(());
            }
            let Some(mut file) = state.file.take() else {
                state = self.synced.wait(state).expect(POISONED);
                continue;
            };
            let bytes = std::mem::take(&mut state.waiting);
            drop(state);
            let mut done = file.write_all(&bytes);
            if self.syncs && done.is_ok() {
                done = file.sync_data();
            }
            state = self.state.lock().expect(POISONED);
            state.file = Some(file);
            match done {
                Ok(()) => state.durable += bytes.len() as u64,
                Err(_) => state.failed = true,
            }
            self.synced.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::record::{Id, Outcome};
    use super::*;

    #[test]
    fn what_was_synced_is_in_the_file_in_each_workers_order() {
        let path = std::env::temp_dir().join(format!("journal-file-{}", std::process::id()));
        let header = Header {
            run: "r".to_owned(),
            root: "/j/r".to_owned(),
            session_timeout_ms: 10_000,
            value_bytes: 0,
        };
        let journal = Journal::create(&path, &header, true).unwrap();
        thread::scope(|scope| {
            for worker in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    for number in 1..=50 {
                        let id = Id { worker, number };
                        journal.note(&Record::Outcome { id, outcome: Outcome::Unknown });
                        journal.sync().unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(Journal::create(&path, &header, true).is_err(), "a journal is never overwritten");
        std::fs::remove_file(&path).unwrap();
        for worker in 0..4 {
            let own: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&format!("unknown {worker} ")))
                .map(|number| number.parse::<u64>().unwrap())
                .collect();
            assert_eq!(own, (1..=50).collect::<Vec<_>>());
        }
    }
}
