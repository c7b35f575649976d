//! Threads for what no core may wait for: parsing and writing snapshots for peers, reading the
//! log for learners that lag behind.
//!
//! They are started by the server's first thread: a thread started by a pinned core would share
//! that core's processor.

use std::io;
use std::sync::mpsc::{Sender, channel};

/// Snapshots that are sent at once. Each holds a version of the tree and reads all of it; more at
/// once would not make the first learner ready any sooner.
pub const SENDERS: usize = 2;

/// What a thread is given to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// A thread that does its jobs one after the other, and ends when it is dropped.
struct Worker {
    jobs: Sender<Job>,
}

impl Worker {
    fn start(name: &str) -> io::Result<Worker> {
        let (jobs, todo) = channel::<Job>();
        let work = move || todo.into_iter().for_each(|job| job());
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Worker { jobs })
    }

    fn run(&self, job: Job) {
        self.jobs.send(job).map_err(|_| ()).expect("a worker lives as long as its jobs' sender");
    }
}

/// The threads of one quorum port.
pub struct Workers {
    log: Worker,
    receiver: Worker,
    senders: [Worker; SENDERS],
    /// Which of the senders have a job.
    is_sending: [bool; SENDERS],
}

impl Workers {
    /// Starts the threads. They end some time after this value is dropped.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> io::Result<Workers> {
        Ok(Workers {
            log: Worker::start("learner-log")?,
            receiver: Worker::start("snapshot-in")?,
            senders: [Worker::start("snapshot-out-1")?, Worker::start("snapshot-out-2")?],
            is_sending: [false; SENDERS],
        })
    }

    /// Has the log read.
    pub fn read_log(&self, job: Job) {
        self.log.run(job);
    }

    /// Has a snapshot received, after those before it.
    pub fn receive(&self, job: Job) {
        self.receiver.run(job);
    }

    /// The number of a sender that has nothing to do.
    pub fn free_sender(&self) -> Option<usize> {
        self.is_sending.iter().position(|busy| !busy)
    }

    /// Has a snapshot sent by a sender that was free; [`Workers::handle_sent`] frees it again.
    pub fn send(&mut self, sender: usize, job: Job) {
        assert!(!self.is_sending[sender], "a sender has one job");
        self.is_sending[sender] = true;
        self.senders[sender].run(job);
    }

    /// A sender's job is done.
    pub fn handle_sent(&mut self, sender: usize) {
        assert!(self.is_sending[sender], "a sender is done with the job it had");
        self.is_sending[sender] = false;
    }
}
