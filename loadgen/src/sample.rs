//! What the servers use while they are under load: their processes, or what `mntr` tells of them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::clock::{Nanos, SECOND};
use crate::outcome::{ServerOutcome, ServerSeries, ThreadCpu};
use crate::plan::Plan;
use crate::process::{self, Cpu, Threads, Usage};

/// A server that does not answer `mntr` so soon is not asked again in this run.
const MNTR_PATIENCE: Duration = Duration::from_millis(500);

/// What our own servers' `mntr` says of their process.
const MNTR_CPU_MS: &str = "zk_ringkeeper_process_cpu_ms";
const MNTR_RESIDENT_BYTES: &str = "zk_ringkeeper_resident_bytes";

/// All servers of a run.
pub struct Sampler {
    servers: Vec<Server>,
    begun_at: Nanos,
    last_at: Nanos,
}

struct Server {
    name: String,
    /// Where a process that has ended is looked for again.
    address: Option<SocketAddr>,
    pid: Option<u32>,
    last: Usage,
    threads: Threads,
    /// Since the beginning, over all processes that there have been.
    cpu: Cpu,
    disk_write_bytes: u64,
    resident_bytes_max: u64,
    series: ServerSeries,
    mntr: BTreeMap<String, f64>,
}

impl Sampler {
    /// The processes of the plan; where it names none, those that listen at its servers.
    pub fn new(plan: &Plan) -> Sampler {
        let named = |pid: &u32| {
            let found = plan.servers.iter().find(|server| {
                plan.server_pids.len() == 1 && plan.servers.len() == 1
                    || process::listener(server.address) == Some(*pid)
            });
            match found {
                Some(target) => Server::new(target.name.clone(), None, Some(*pid)),
                None => Server::new(format!("pid {pid}"), None, Some(*pid)),
            }
        };
        let mut servers: Vec<Server> = plan.server_pids.iter().map(named).collect();
        if servers.is_empty() {
            for target in &plan.servers {
                let pid = process::listener(target.address);
                servers.push(Server::new(target.name.clone(), Some(target.address), pid));
            }
        }
        Sampler { servers, begun_at: 0, last_at: 0 }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(|server| server.pid).collect()
    }

    /// Asks by network those whose processes cannot be seen: when the measured time begins, and
    /// when it ends. The threads that make the load do not wait for it.
    fn ask_remote(&mut self) {
        for server in &mut self.servers {
            if let (None, Some(address)) = (server.pid, server.address) {
                let before = std::mem::take(&mut server.mntr);
                server.mntr = mntr(address);
                for (name, value) in &mut server.mntr {
                    if is_counter(name) {
                        *value -= before.get(name).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }

    /// The measured time begins.
    pub fn begin(&mut self, now: Nanos) {
        (self.begun_at, self.last_at) = (now, now);
        self.ask_remote();
        for server in &mut self.servers {
            if let Some(pid) = server.pid {
                server.last = Usage::of(pid).unwrap_or_default();
                server.threads = Threads::of(pid);
            }
        }
    }

    /// Ends an interval of the servers' series.
    pub fn sample(&mut self, now: Nanos) {
        let seconds = now.saturating_sub(self.last_at).max(1) as f64 / SECOND as f64;
        let at = now.saturating_sub(self.begun_at) as f64 / SECOND as f64;
        self.last_at = now;
        for server in &mut self.servers {
            server.sample(at, seconds);
        }
    }

    /// The measured time is over.
    pub fn end(&mut self, now: Nanos) {
        self.sample(now);
        self.ask_remote();
    }

    /// The figures, when `units` of work are done.
    pub fn finish(self, units: u64) -> Vec<ServerOutcome> {
        self.servers.into_iter().map(|server| server.finish(units)).collect()
    }
}

impl Server {
    fn new(name: String, address: Option<SocketAddr>, pid: Option<u32>) -> Server {
        Server {
            name,
            address,
            pid,
            last: Usage::default(),
            threads: Threads::default(),
            cpu: Cpu::default(),
            disk_write_bytes: 0,
            resident_bytes_max: 0,
            series: ServerSeries::default(),
            mntr: BTreeMap::new(),
        }
    }

    fn sample(&mut self, at: f64, seconds: f64) {
        let Some(pid) = self.pid else { return };
        let Some(usage) = Usage::of(pid) else {
            // It has ended. The process that takes its place has used all that it has in this run.
            if let Some(pid) = self.address.and_then(process::listener) {
                self.pid = Some(pid);
                self.last = Usage::default();
                self.threads = Threads::default();
            }
            return;
        };
        let cpu = usage.cpu.since(self.last.cpu);
        let written = usage.disk_write_bytes.saturating_sub(self.last.disk_write_bytes);
        self.cpu.user += cpu.user;
        self.cpu.system += cpu.system;
        self.disk_write_bytes += written;
        self.resident_bytes_max = self.resident_bytes_max.max(usage.resident_bytes);
        self.series.at_seconds.push(at);
        self.series.cpu_user.push(cpu.user / seconds);
        self.series.cpu_system.push(cpu.system / seconds);
        self.series.resident_bytes.push(usage.resident_bytes);
        self.series.disk_write_bytes_per_second.push(written as f64 / seconds);
        self.last = usage;
    }

    fn finish(self, units: u64) -> ServerOutcome {
        let each = |value: f64| if units == 0 { 0.0 } else { value / units as f64 };
        let mut outcome = ServerOutcome {
            name: self.name,
            pid: self.pid,
            mntr: self.mntr,
            ..ServerOutcome::default()
        };
        let Some(pid) = self.pid else {
            outcome.source = if outcome.mntr.is_empty() { "none" } else { "mntr" }.to_owned();
            // The process's CPU is one sum there: it stands as user time.
            let told = |name: &str| outcome.mntr.get(name).copied().unwrap_or(0.0);
            outcome.cpu_user_seconds = told(MNTR_CPU_MS) / 1e3;
            outcome.resident_bytes = told(MNTR_RESIDENT_BYTES) as u64;
            outcome.resident_bytes_max = outcome.resident_bytes;
            outcome.cpu_us_per_unit = each(outcome.cpu_user_seconds * 1e6);
            return outcome;
        };
        let threads = Threads::of(pid);
        outcome.source = "proc".to_owned();
        outcome.program = self.last.name;
        outcome.cpu_user_seconds = self.cpu.user;
        outcome.cpu_system_seconds = self.cpu.system;
        outcome.cpu_us_per_unit = each(self.cpu.total() * 1e6);
        outcome.resident_bytes = self.last.resident_bytes;
        outcome.resident_bytes_max = self.resident_bytes_max;
        outcome.disk_write_bytes = self.disk_write_bytes;
        outcome.disk_write_bytes_per_unit = each(self.disk_write_bytes as f64);
        outcome.context_switches =
            threads.context_switches.saturating_sub(self.threads.context_switches);
        outcome.context_switches_per_unit = each(outcome.context_switches as f64);
        outcome.series = self.series;
        let used = threads.since(&self.threads).into_iter();
        outcome.threads =
            used.map(|(name, seconds)| ThreadCpu { name, cpu_us: each(seconds * 1e6) }).collect();
        outcome
    }
}

/// What a server's `mntr` says, as far as it is numbers; nothing when it does not answer.
fn mntr(address: SocketAddr) -> BTreeMap<String, f64> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, MNTR_PATIENCE).ok()?;
        stream.set_read_timeout(Some(MNTR_PATIENCE)).ok()?;
        stream.write_all(b"mntr").ok()?;
        let mut text = String::new();
        stream.take(1 << 20).read_to_string(&mut text).ok()?;
        Some(text)
    };
    parse_mntr(&ask().unwrap_or_default())
}

fn parse_mntr(text: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Whether a value of `mntr` only grows, so that what counts is by how much.
fn is_counter(name: &str) -> bool {
    const COUNTERS: [&str; 4] =
        ["zk_packets_received", "zk_packets_sent", "zk_uptime", MNTR_CPU_MS];
    const GAUGES: [&str; 5] = [
        "zk_znode_count",
        "zk_watch_count",
        "zk_ephemerals_count",
        "zk_open_file_descriptor_count",
        "zk_max_file_descriptor_count",
    ];
    let sums = ["zk_cnt_", "zk_sum_"].iter().any(|front| name.starts_with(front));
    sums || COUNTERS.contains(&name) || name.ends_with("_count") && !GAUGES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mntrs_numbers_are_taken_and_its_words_left() {
        let told = parse_mntr("zk_version\t3.9.5\nzk_packets_sent\t12\nzk_avg_latency\t0.5\nx\n");
        let told: Vec<(&str, f64)> = told.iter().map(|(name, value)| (&name[..], *value)).collect();
        assert_eq!(told, [("zk_avg_latency", 0.5), ("zk_packets_sent", 12.0)]);
        assert!(is_counter("zk_packets_sent"));
        for gauge in ["zk_znode_count", "zk_open_file_descriptor_count", "zk_avg_latency"] {
            assert!(!is_counter(gauge), "{gauge}");
        }
    }
}
