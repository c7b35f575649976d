//! What a process has used, from `/proc`: CPU by thread, and resident memory.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;

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
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// What some processes had used at one moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub cpu: Cpu,
    /// CPU seconds by thread id, with the thread's name.
    threads: BTreeMap<u32, (String, f64)>,
    pub resident_bytes: u64,
}

impl Usage {
    /// Of all `pids` together. A process that is not there counts nothing.
    pub fn of(pids: &[u32]) -> Usage {
        let mut usage = Usage::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let cpu = parse_stat(&stat).unwrap_or_default().1;
            usage.cpu.user += cpu.user;
            usage.cpu.system += cpu.system;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            usage.resident_bytes += parse_resident_bytes(&status).unwrap_or(0);
            usage.add_threads(*pid);
        }
        usage
    }

    fn add_threads(&mut self, pid: u32) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
        for task in tasks.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            if let Some((name, cpu)) = parse_stat(&stat) {
                self.threads.insert(id, (name, cpu.total()));
            }
        }
    }

    /// CPU seconds by thread name since `earlier`, the busiest first; idle threads are left out.
    pub fn threads_since(&self, earlier: &Usage) -> Vec<(String, f64)> {
        let mut by_name: BTreeMap<&str, f64> = BTreeMap::new();
        for (id, (name, total)) in &self.threads {
            let before = earlier.threads.get(id).map_or(0.0, |(_, total)| *total);
            *by_name.entry(name).or_default() += total - before;
        }
        let mut rows: Vec<(String, f64)> =
            by_name.into_iter().map(|(name, used)| (name.to_owned(), used)).collect();
        rows.retain(|(_, used)| *used > 0.0);
        rows.sort_by(|left, right| right.1.total_cmp(&left.1));
        rows
    }
}

/// The name in parentheses (which may itself hold spaces and parentheses) and fields 14 and 15.
fn parse_stat(stat: &str) -> Option<(String, Cpu)> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some((name.to_owned(), Cpu { user: seconds()?, system: seconds()? }))
}

fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_parentheses() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 3 0 99 1 2";
        let (name, cpu) = parse_stat(stat).unwrap();
        assert_eq!(name, "a (b) c");
        assert_eq!(cpu, Cpu { user: 1.5, system: 0.25 });
        assert_eq!(parse_stat("77 (short) S 1"), None);
    }

    #[test]
    fn our_own_process_is_seen() {
        let before = Usage::of(&[std::process::id()]);
        assert!(before.resident_bytes > 100_000);
        let mut sum = 0u64;
        while Usage::of(&[std::process::id()]).cpu.total() <= before.cpu.total() {
            sum = (0..1_000_000).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        let after = Usage::of(&[std::process::id()]);
        assert!(!after.threads_since(&before).is_empty(), "{sum}");
    }
}
