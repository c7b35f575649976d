//! What to send: a workload and its numbers, and the paths that it touches.
//!
//! ```text
//! ROOT/k/00000042              the nodes that get, set, mixed, multi and watch use (`--keys`)
//! ROOT/d/00000007/00000042     the nodes that create, fill, delete and ephemeral make:
//!                              number N in directory N mod D
//! ROOT/l/00000003/…            the places in the line of lock 3
//! ROOT/q/00000003/…            the items of queue 3
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use crate::outcome;

/// Digits of a number in a path.
const DIGITS: usize = 8;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Create,
    Set,
    Get,
    Delete,
    Multi,
    Mixed,
    Ephemeral,
    Connect,
    Watch,
    Lock,
    Queue,
    Fill,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Create => "create",
            Workload::Set => "set",
            Workload::Get => "get",
            Workload::Delete => "delete",
            Workload::Multi => "multi",
            Workload::Mixed => "mixed",
            Workload::Ephemeral => "ephemeral",
            Workload::Connect => "connect",
            Workload::Watch => "watch",
            Workload::Lock => "lock",
            Workload::Queue => "queue",
            Workload::Fill => "fill",
        }
    }

    /// What one unit of the workload's work is called: what CPU is divided by.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::Watch => "event",
            Workload::Lock => "lock",
            Workload::Queue => "item",
            Workload::Connect => "session",
            _ => "operation",
        }
    }
}

/// How a watcher learns of the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WatchMode {
    /// getData with a watch, armed again when all have heard of a write; the next one waits for it.
    OneShot,
    /// addWatch on each node: an event for each change.
    Persistent,
    /// One recursive addWatch on the directory of the nodes.
    Recursive,
}

impl WatchMode {
    pub fn name(self) -> &'static str {
        match self {
            WatchMode::OneShot => "one-shot",
            WatchMode::Persistent => "persistent",
            WatchMode::Recursive => "recursive",
        }
    }
}

/// When the operations of an open loop are meant to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// The same time between any two.
    Even,
    /// As many independent clients would send: the times between are exponential.
    Poisson,
}

/// Which keys are touched how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    Uniform,
    /// Key K as often as 1 / (K + 1) to this power.
    Zipf(f64),
}

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// So long after the warm-up.
    After(Duration),
    /// When so many operations are done, over all connections; there is no warm-up.
    Count(u64),
}

/// One server, with the name that the user gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
}

/// One run, decided. [`crate::run::run`] performs it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    /// Connection N begins with server N mod their count, and goes round them when one is lost.
    pub servers: Vec<Target>,
    /// Processes to sample. Where there are none, those of servers on this machine are found.
    pub server_pids: Vec<u32>,
    pub session_timeout_ms: i32,
    /// Sessions that send operations; watchers come on top.
    pub connections: usize,
    pub watchers: usize,
    pub watch_mode: WatchMode,
    pub paced: bool,
    pub in_flight: usize,
    pub threads: usize,
    pub value: Vec<u8>,
    pub root: String,
    pub keys: u64,
    pub distribution: Distribution,
    pub directories: u64,
    /// Number of the first node that is made.
    pub first: u64,
    pub read_percent: u8,
    /// Changes in each multi.
    pub multi_size: usize,
    /// Ephemeral nodes that a session makes before it ends.
    pub ephemerals: u64,
    /// Items that may wait in a queue before its producers do.
    pub queue_depth: u64,
    pub end: End,
    pub warm_up: Duration,
    /// Operations a second of an open loop, over all connections.
    pub rate: Option<f64>,
    pub arrivals: Arrivals,
    /// Of the time series.
    pub interval: Duration,
    /// How long replies are awaited after the measured time.
    pub drain: Duration,
    /// How long the first connections may take before the run is given up.
    pub connect_patience: Duration,
    /// Source addresses 127.0.0.1, 127.0.0.2, … so many: each gives some 28,000 connections.
    pub source_addresses: u8,
    pub seed: u64,
    /// The command line, for the outcome.
    pub command: Vec<String>,
}

/// The directories below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    Keys,
    Made,
    Locks,
    Queues,
}

impl Directory {
    pub fn suffix(self) -> &'static str {
        match self {
            Directory::Keys => "/k",
            Directory::Made => "/d",
            Directory::Locks => "/l",
            Directory::Queues => "/q",
        }
    }
}

impl Plan {
    /// All sessions: those that send, then those that watch.
    pub fn sessions(&self) -> usize {
        self.connections + self.watchers
    }

    /// The directory that holds the run's nodes, and how many entries it must have to begin with.
    pub fn prepared(&self) -> (Directory, u64) {
        match self.workload {
            Workload::Create | Workload::Fill | Workload::Delete | Workload::Ephemeral => {
                (Directory::Made, self.directories)
            }
            Workload::Lock => (Directory::Locks, self.keys),
            Workload::Queue => (Directory::Queues, self.keys),
            _ => (Directory::Keys, self.keys),
        }
    }

    /// How many of `count` operations connection `index` does.
    pub fn share_of(&self, index: usize, count: u64) -> u64 {
        let (connections, index) = (self.connections as u64, index as u64);
        count / connections + u64::from(index < count % connections)
    }

    /// Writes `ROOT/<directory>/<number>` to `path`, which is cleared first.
    pub fn entry_path(&self, path: &mut Vec<u8>, directory: Directory, number: u64) {
        path.clear();
        path.extend_from_slice(self.root.as_bytes());
        path.extend_from_slice(directory.suffix().as_bytes());
        push_number(path, number);
    }

    /// Writes the path of key `key` to `path`.
    pub fn key_path(&self, path: &mut Vec<u8>, key: u64) {
        self.entry_path(path, Directory::Keys, key);
    }

    /// Writes the path of the made node `number` to `path`.
    pub fn made_path(&self, path: &mut Vec<u8>, number: u64) {
        self.entry_path(path, Directory::Made, number % self.directories);
        push_number(path, number);
    }

    /// The plan as an outcome tells it.
    pub fn config(&self) -> outcome::Config {
        let (seconds, count) = match self.end {
            End::After(time) => (Some(time.as_secs_f64()), None),
            End::Count(count) => (None, Some(count)),
        };
        outcome::Config {
            servers: self.servers.iter().map(|server| server.name.clone()).collect(),
            pids: self.server_pids.clone(),
            workload: self.workload.name().to_owned(),
            connections: self.connections,
            in_flight: self.in_flight,
            threads: self.threads,
            seconds,
            count,
            warm_up_seconds: self.warm_up.as_secs_f64(),
            rate: self.rate,
            arrivals: match self.arrivals {
                Arrivals::Even => "even".to_owned(),
                Arrivals::Poisson => "poisson".to_owned(),
            },
            value_bytes: self.value.len(),
            keys: self.keys,
            distribution: match self.distribution {
                Distribution::Uniform => "uniform".to_owned(),
                Distribution::Zipf(exponent) => format!("zipf:{exponent}"),
            },
            directories: self.directories,
            read_percent: self.read_percent,
            multi_size: self.multi_size,
            watchers: self.watchers,
            watch: self.watch_mode.name().to_owned(),
            paced: self.paced,
            session_timeout_ms: self.session_timeout_ms,
            root: self.root.clone(),
            seed: self.seed,
            command: self.command.clone(),
        }
    }
}

/// Appends `/` and at least eight digits.
pub fn push_number(path: &mut Vec<u8>, number: u64) {
    path.push(b'/');
    let start = path.len();
    let mut rest = number;
    while rest > 0 || path.len() - start < DIGITS {
        path.push(b'0' + (rest % 10) as u8);
        rest /= 10;
    }
    path[start..].reverse();
}

/// The number at the end of a path; `None` when there is none.
pub fn number_of(path: &[u8]) -> Option<u64> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let digits = &path[slash + 1..];
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_into_a_path_and_out_again() {
        for number in [0, 7, 12_345_678, 123_456_789_012] {
            let mut path = b"/load/k".to_vec();
            push_number(&mut path, number);
            assert_eq!(number_of(&path), Some(number));
            assert!(path.len() >= b"/load/k/".len() + DIGITS);
        }
        for path in ["/load/k", "/load/", "", "/1x", "/99999999999999999999999"] {
            assert_eq!(number_of(path.as_bytes()), None, "{path}");
        }
    }
}
