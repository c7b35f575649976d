//! What to send: a workload and its numbers, and the paths that it touches.
//!
//! ```text
//! ROOT/k/00000042              the nodes that get, set, mixed and watch use (`--keys`)
//! ROOT/d/00000007/00000042     the nodes that create and fill make: number N in directory N mod D
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::Frame;

/// Digits of a number in a path.
const DIGITS: usize = 8;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// New nodes, in one directory or spread over `--directories`.
    Create,
    /// New values for the nodes of `--keys`, at random.
    Set,
    /// Reads of the nodes of `--keys`, at random.
    Get,
    /// Reads and writes as `--read-percent` says.
    Mixed,
    /// `--watchers` connections watch all of `--keys`, the others set them in turn.
    Watch,
    /// `--count` new nodes as fast as they go, `--fan-out` of them in each directory.
    Fill,
}

/// How a watcher learns of the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WatchMode {
    /// getData with a watch, armed again after each event. Changes in between are not seen.
    OneShot,
    /// addWatch on each node: an event for each change.
    Persistent,
    /// One recursive addWatch on the directory of the nodes.
    Recursive,
}

/// One run, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub servers: Vec<SocketAddr>,
    pub session_timeout_ms: i32,
    /// Sessions that send operations; watchers come on top.
    pub connections: usize,
    pub watchers: usize,
    pub watch_mode: WatchMode,
    pub in_flight: usize,
    pub threads: usize,
    pub value: Vec<u8>,
    pub root: String,
    pub keys: u64,
    pub directories: u64,
    /// Number of the first node that is made.
    pub first: u64,
    pub read_percent: u8,
    pub end: End,
    pub warm_up: Duration,
    pub server_pids: Vec<u32>,
}

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// So long after the warm-up.
    After(Duration),
    /// When so many operations are done, over all connections; there is no warm-up.
    Count(u64),
}

impl Plan {
    /// The same servers and root, but `count` empty nodes made in `directory` on one connection.
    pub fn preparation(&self, directory: Directory, count: u64) -> Plan {
        Plan {
            workload: Workload::Create,
            connections: 1,
            watchers: 0,
            in_flight: 256,
            threads: 1,
            value: if directory == Directory::Keys { self.value.clone() } else { Vec::new() },
            root: format!("{}{}", self.root, directory.suffix()),
            directories: 0,
            first: 0,
            end: End::Count(count),
            warm_up: Duration::ZERO,
            server_pids: Vec::new(),
            ..self.clone()
        }
    }

    pub fn makes_nodes(&self) -> bool {
        matches!(self.workload, Workload::Create | Workload::Fill)
    }

    /// How many of `count` operations connection `index` does.
    pub fn share_of(&self, index: usize, count: u64) -> u64 {
        let (connections, index) = (self.connections as u64, index as u64);
        count / connections + u64::from(index < count % connections)
    }

    /// Finishes a create of node `number`. With no directories it stands in the root itself.
    pub fn create(&self, frame: Frame<'_>, path: &mut Vec<u8>, number: u64) {
        path.clear();
        path.extend_from_slice(self.root.as_bytes());
        if self.directories > 0 {
            path.extend_from_slice(Directory::Made.suffix().as_bytes());
            push_number(path, number % self.directories);
        }
        push_number(path, number);
        frame.bytes(path).bytes(&self.value).open_acl().int(0).finish();
    }

    /// Writes the path of key `key` to `path`.
    pub fn key_path(&self, path: &mut Vec<u8>, key: u64) {
        path.clear();
        path.extend_from_slice(self.root.as_bytes());
        path.extend_from_slice(Directory::Keys.suffix().as_bytes());
        push_number(path, key);
    }
}

/// The directories below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    Keys,
    Made,
}

impl Directory {
    pub fn suffix(self) -> &'static str {
        match self {
            Directory::Keys => "/k",
            Directory::Made => "/d",
        }
    }
}

/// Appends `/` and at least eight digits.
fn push_number(path: &mut Vec<u8>, number: u64) {
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
    std::str::from_utf8(&path[slash + 1..]).ok()?.parse().ok()
}

/// A small generator for choosing keys (xorshift64*): quality matters less than cost here.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (high * bound) >> 32
    }
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
        assert_eq!(number_of(b"/load/k"), None);
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(3);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}
