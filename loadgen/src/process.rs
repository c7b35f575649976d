//! What a process has used, from `/proc`: CPU by thread, memory, disk writes, context switches.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::clock::Nanos;

/// `/proc` counts CPU in hundredths of a second on every Linux of today (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// What a process had used at one moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub name: String,
    pub cpu: Cpu,
    pub resident_bytes: u64,
    /// What it made the disk write; 0 where the kernel does not let us see it.
    pub disk_write_bytes: u64,
}

impl Usage {
    /// `None` when there is no such process.
    pub fn of(pid: u32) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, cpu) = parse_stat(&stat)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Some(Usage {
            name,
            cpu,
            resident_bytes: field(&status, "VmRSS:").unwrap_or(0) * 1024,
            disk_write_bytes: field(&io, "write_bytes:").unwrap_or(0),
        })
    }
}

/// What a process's threads had used at one moment: dearer to ask for than [`Usage`].
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// CPU seconds by thread id, with the thread's name.
    cpu: BTreeMap<u32, (String, f64)>,
    pub context_switches: u64,
}

impl Threads {
    pub fn of(pid: u32) -> Threads {
        let mut threads = Threads::default();
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return threads };
        for task in tasks.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            if let Some((name, cpu)) = parse_stat(&read("stat")) {
                threads.cpu.insert(id, (name, cpu.total()));
            }
            let status = read("status");
            for switches in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
                threads.context_switches += field(&status, switches).unwrap_or(0);
            }
        }
        threads
    }

    /// CPU seconds by thread name since `earlier`, the busiest first; idle threads are left out.
    pub fn since(&self, earlier: &Threads) -> Vec<(String, f64)> {
        let mut by_name: BTreeMap<&str, f64> = BTreeMap::new();
        for (id, (name, total)) in &self.cpu {
            let before = earlier.cpu.get(id).map_or(0.0, |(_, total)| *total);
            *by_name.entry(name).or_default() += total - before;
        }
        let mut rows: Vec<(String, f64)> =
            by_name.into_iter().map(|(name, used)| (name.to_owned(), used)).collect();
        rows.retain(|(_, used)| *used > 0.0);
        rows.sort_by(|left, right| right.1.total_cmp(&left.1));
        rows
    }
}

/// What the calling thread has used, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnUse {
    /// On a core.
    pub running: Nanos,
    /// Ready to run while others had the core.
    pub waiting: Nanos,
}

impl OwnUse {
    pub fn now() -> OwnUse {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0));
        let mut next = || fields.next().unwrap_or(0);
        OwnUse { running: next(), waiting: next() }
    }

    pub fn since(self, earlier: OwnUse) -> OwnUse {
        OwnUse {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// The process that listens on `address`, where that is on this machine and may be looked at.
pub fn listener(address: SocketAddr) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| sockets(&table, address.port()))
        .collect();
    if inodes.is_empty() || !is_local(address) {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| holds(*pid, &inodes))
}

/// Only an address of this machine can be bound here.
fn is_local(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}

fn holds(pid: u32, inodes: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let target = |path: &Path| fs::read_link(path).ok();
    files.flatten().any(|file| {
        let target = target(&file.path());
        let target = target.as_deref().and_then(Path::to_str);
        target.is_some_and(|target| inodes.iter().any(|inode| inode == target))
    })
}

/// The sockets of `/proc/net/tcp` that listen on `port`, as links to them are read.
fn sockets(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let listens = u16::from_str_radix(hex, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        Some(format!("socket:[{}]", fields.get(9)?)).filter(|_| listens)
    });
    rows.collect()
}

/// The name in parentheses (which may itself hold spaces and parentheses) and fields 14 and 15.
fn parse_stat(stat: &str) -> Option<(String, Cpu)> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some((name.to_owned(), Cpu { user: seconds()?, system: seconds()? }))
}

/// The first number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_parentheses() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 3 0 99 1 2";
        let (name, cpu) = parse_stat(stat).unwrap();
        assert_eq!(name, "a (b) c");
        assert_eq!(cpu, Cpu { user: 1.5, system: 0.25 });
        assert_eq!(parse_stat("77 (short) S 1"), None);
    }

    /// Each thread's CPU and the process's are cut to whole ticks apart from each other: one may
    /// have grown by a tick and the others not. All must have after ten ticks of one thread.
    #[test]
    fn our_own_process_is_seen() {
        let pid = std::process::id();
        let (before, threads) = (Usage::of(pid).unwrap(), Threads::of(pid));
        let (own, started) = (OwnUse::now(), Instant::now());
        assert!(before.resident_bytes > 100_000);
        let mut sum = 0u64;
        while OwnUse::now().since(own).running < 100_000_000 {
            sum = (0..1_000_000).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
            assert!(started.elapsed() < Duration::from_secs(60), "no CPU counted: {sum}");
        }
        assert!(Usage::of(pid).unwrap().cpu.total() > before.cpu.total(), "{sum}");
        assert!(!Threads::of(pid).since(&threads).is_empty(), "{sum}");
        assert!(Usage::of(u32::MAX).is_none());
    }

    #[test]
    fn who_listens_is_found_by_port() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(socket.local_addr().unwrap()), Some(std::process::id()));
        let mut elsewhere = socket.local_addr().unwrap();
        elsewhere.set_ip([192, 0, 2, 1].into());
        assert_eq!(listener(elsewhere), None);
    }
}
