//! The command line: words to a [`Plan`], or one sentence that says what is wrong with them.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::plan::{Arrivals, Distribution, End, Plan, Target, WatchMode, Workload};
use crate::{compare, echo, floor, journal, local, verify};

/// Connections from one source address: below the 28,232 ports that Linux hands out by itself.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;

/// Load on any ZooKeeper server: latency percentiles, watch fan-out, CPU per operation.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// New nodes, in one directory or spread over --directories.
    Create(RunFlags),
    /// New values for the nodes of --keys.
    Set(RunFlags),
    /// Reads of the nodes of --keys.
    Get(RunFlags),
    /// Deletes: of --count nodes made beforehand, or each after a create.
    Delete(RunFlags),
    /// Transactions of --multi-size new values.
    Multi(RunFlags),
    /// Reads and new values as --read-percent says.
    Mixed(RunFlags),
    /// Sessions that make --ephemerals nodes each and end, again and again.
    Ephemeral(RunFlags),
    /// Sessions that begin and end: a connect storm.
    Connect(RunFlags),
    /// --watchers sessions watch --keys nodes, the other sessions change them.
    Watch(RunFlags),
    /// The lock recipe: --connections sessions in line for --keys locks.
    Lock(RunFlags),
    /// The queue recipe: half of the sessions put, half take, through --keys queues.
    Queue(RunFlags),
    /// --count new nodes as fast as they go, --fan-out of them in each directory.
    Fill(RunFlags),
    /// What an operation costs the generator, beside a bare TCP echo client.
    Echo(echo::Flags),
    /// What one client's set cannot do without: a TCP round trip, a write of the log.
    Floor(floor::Flags),
    /// Two targets in turn, several rounds: ratios with their spread.
    Compare(compare::Flags),
    /// A throw-away ensemble on this machine, measured.
    Local(local::Flags),
    /// Load whose every acknowledged operation is written down.
    Journal(journal::Flags),
    /// Holds a journal against a server, and lists what is missing or wrong.
    Verify(verify::Flags),
}

impl Command {
    /// The workload and its flags, when the command is one.
    pub fn workload(&self) -> Option<(Workload, &RunFlags)> {
        match self {
            Command::Create(flags) => Some((Workload::Create, flags)),
            Command::Set(flags) => Some((Workload::Set, flags)),
            Command::Get(flags) => Some((Workload::Get, flags)),
            Command::Delete(flags) => Some((Workload::Delete, flags)),
            Command::Multi(flags) => Some((Workload::Multi, flags)),
            Command::Mixed(flags) => Some((Workload::Mixed, flags)),
            Command::Ephemeral(flags) => Some((Workload::Ephemeral, flags)),
            Command::Connect(flags) => Some((Workload::Connect, flags)),
            Command::Watch(flags) => Some((Workload::Watch, flags)),
            Command::Lock(flags) => Some((Workload::Lock, flags)),
            Command::Queue(flags) => Some((Workload::Queue, flags)),
            Command::Fill(flags) => Some((Workload::Fill, flags)),
            Command::Echo(_)
            | Command::Floor(_)
            | Command::Compare(_)
            | Command::Local(_)
            | Command::Journal(_)
            | Command::Verify(_) => None,
        }
    }
}

/// What all workloads take; those that a workload has no use for are ignored by it.
#[derive(Args, Clone, Debug)]
pub struct RunFlags {
    /// host:port of each server; connections go round them.
    #[arg(long, visible_alias = "hosts", value_delimiter = ',', default_value = "127.0.0.1:2181")]
    pub servers: Vec<String>,
    /// Processes of the servers, to sample; found by itself on this machine.
    #[arg(long, value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Sessions that send operations.
    #[arg(long, short = 'c', default_value_t = 32)]
    pub connections: usize,
    /// Requests that each connection keeps under way (64 for fill; 64 at most in an open loop).
    #[arg(long, short = 'i')]
    pub in_flight: Option<usize>,
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Measured time, after the warm-up.
    #[arg(
        long,
        allow_negative_numbers = true,
        short = 's',
        default_value_t = 10.0,
        conflicts_with = "count"
    )]
    pub seconds: f64,
    /// Operations instead of a time; without a warm-up.
    #[arg(long)]
    pub count: Option<u64>,
    /// Seconds of load before the measuring starts.
    #[arg(long, allow_negative_numbers = true, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Open loop: operations a second over all connections, whatever the server can do.
    #[arg(long, allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// How the operations of an open loop are spread in time.
    #[arg(long, value_enum, default_value = "even")]
    pub arrivals: Arrivals,
    /// Raises the rate until p99 breaks --p99-ms, and tells the highest that kept it.
    #[arg(long)]
    pub find_knee: bool,
    /// The bound of --find-knee, in milliseconds.
    #[arg(long, allow_negative_numbers = true, default_value_t = 10.0)]
    pub p99_ms: f64,
    /// Nodes that get, set, mixed, multi and watch touch; locks; queues. (1000, or 1)
    #[arg(long)]
    pub keys: Option<u64>,
    /// Chooses keys after Zipf's law with this exponent; uniform without.
    #[arg(long, allow_negative_numbers = true, value_name = "EXPONENT")]
    pub zipf: Option<f64>,
    /// Directories over which create spreads its nodes.
    #[arg(long, default_value_t = 1)]
    pub directories: u64,
    /// Nodes in each directory that fill makes; 0 puts all into one.
    #[arg(long, default_value_t = 0)]
    pub fan_out: u64,
    /// Number of the first node that is made (0 for fill, else from the clock).
    #[arg(long)]
    pub first: Option<u64>,
    /// Reads of a hundred operations, for mixed.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// Changes in each transaction, for multi.
    #[arg(long, default_value_t = 10)]
    pub multi_size: usize,
    /// Nodes that a session makes before it ends, for ephemeral.
    #[arg(long, default_value_t = 10)]
    pub ephemerals: u64,
    /// Items that may wait in a queue before its producers do.
    #[arg(long, default_value_t = 100)]
    pub queue_depth: u64,
    /// Sessions that watch, for watch.
    #[arg(long, default_value_t = 100)]
    pub watchers: usize,
    /// How they watch.
    #[arg(long, value_enum, default_value = "persistent")]
    pub watch: WatchMode,
    /// A write waits for the last event of the write before it.
    #[arg(long)]
    pub paced: bool,
    /// Directory that holds all the run's nodes.
    #[arg(long, default_value = "/loadgen")]
    pub root: String,
    #[arg(long, short = 't', default_value_t = 1)]
    pub threads: usize,
    #[arg(long, default_value_t = 30_000)]
    pub session_timeout_ms: i32,
    /// How long the first connections may take.
    #[arg(long, allow_negative_numbers = true, default_value_t = 10.0)]
    pub connect_seconds: f64,
    /// Source addresses 127.0.0.1, 127.0.0.2, …; enough for --connections by default.
    #[arg(long)]
    pub source_addresses: Option<u8>,
    /// Seconds of each entry of the time series (1; 0.1 for runs below 10 s).
    #[arg(long, allow_negative_numbers = true)]
    pub interval: Option<f64>,
    /// Of the random numbers that choose keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The outcome as JSON, to a file or (without one, or as `-`) to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// The percentile curve as HdrHistogram's tools plot it; of the unit of work.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// One self-contained page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl RunFlags {
    /// The flags of a whole command line, program and workload first.
    pub fn of(words: &[&str]) -> Result<RunFlags, String> {
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let (_, flags) = cli.command.workload().ok_or("this command is no workload")?;
        Ok(flags.clone())
    }

    /// The plan, or what is wrong with the flags in one sentence.
    pub fn plan(&self, workload: Workload) -> Result<Plan, String> {
        self.check(workload)?;
        let watching = workload == Workload::Watch;
        let filling = workload == Workload::Fill;
        let one_node = matches!(workload, Workload::Watch | Workload::Lock | Workload::Queue);
        let keys = self.keys.unwrap_or(if one_node { 1 } else { 1000 });
        let directories = match (filling, self.fan_out) {
            (false, _) => self.directories,
            (true, 0) => 1,
            (true, fan_out) => self.count.unwrap_or(0).div_ceil(fan_out),
        };
        let mut servers = Vec::new();
        for server in &self.servers {
            servers.push(resolve(server)?);
        }
        let watchers = if watching { self.watchers } else { 0 };
        let sessions = self.connections + watchers;
        let addresses = sessions.div_ceil(CONNECTIONS_PER_ADDRESS).clamp(1, 250) as u8;
        // Sessions that come and go leave ports behind that rest for a minute.
        let addresses = if workload == Workload::Connect { addresses.max(16) } else { addresses };
        let default_in_flight = if filling || self.is_open() { 64 } else { 1 };
        Ok(Plan {
            workload,
            servers,
            server_pids: self.pid.clone(),
            session_timeout_ms: self.session_timeout_ms,
            connections: self.connections,
            watchers,
            watch_mode: self.watch,
            paced: self.paced || (watching && self.watch == WatchMode::OneShot),
            in_flight: self.in_flight.unwrap_or(default_in_flight),
            threads: self.threads,
            value: (0..self.value_bytes).map(|index| (index * 37 % 251) as u8).collect(),
            root: self.root.trim_end_matches('/').to_owned(),
            keys,
            distribution: self.zipf.map_or(Distribution::Uniform, Distribution::Zipf),
            directories,
            first: self.first.unwrap_or_else(|| if filling { 0 } else { unused_number() }),
            read_percent: self.read_percent,
            multi_size: self.multi_size,
            ephemerals: self.ephemerals,
            queue_depth: self.queue_depth,
            end: self.count.map_or(End::After(Duration::from_secs_f64(self.seconds)), End::Count),
            warm_up: match self.count {
                Some(_) => Duration::ZERO,
                None => Duration::from_secs_f64(self.warm_up),
            },
            rate: self.rate,
            arrivals: self.arrivals,
            interval: Duration::from_secs_f64(
                self.interval.unwrap_or(if self.count.is_none() && self.seconds < 10.0 {
                    0.1
                } else {
                    1.0
                }),
            ),
            drain: Duration::from_secs(10),
            connect_patience: Duration::from_secs_f64(self.connect_seconds),
            source_addresses: self.source_addresses.unwrap_or(addresses),
            seed: self.seed,
            command: std::env::args().collect(),
        })
    }

    fn is_open(&self) -> bool {
        self.rate.is_some() || self.find_knee
    }

    fn check(&self, workload: Workload) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        let at_least_one = [
            ("--connections", self.connections as u64),
            ("--threads", self.threads as u64),
            ("--keys", self.keys.unwrap_or(1)),
            ("--in-flight", self.in_flight.unwrap_or(1) as u64),
            ("--directories", self.directories),
            ("--multi-size", self.multi_size as u64),
            ("--ephemerals", self.ephemerals),
            ("--queue-depth", self.queue_depth),
            ("--count", self.count.unwrap_or(1)),
            ("--source-addresses", u64::from(self.source_addresses.unwrap_or(1))),
        ];
        if let Some((flag, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{flag} starts at 1"));
        }
        let seconds = [
            ("--seconds", self.seconds, 0.01),
            ("--warm-up", self.warm_up, 0.0),
            ("--interval", self.interval.unwrap_or(1.0), 0.01),
            ("--connect-seconds", self.connect_seconds, 0.1),
            ("--p99-ms", self.p99_ms, 0.001),
            ("--rate", self.rate.unwrap_or(1.0), 0.001),
            ("--zipf", self.zipf.unwrap_or(1.0), 0.01),
        ];
        for (flag, value, least) in seconds {
            if !(least..=1e8).contains(&value) {
                return Err(format!("{flag} is a number from {least} on, not {value}"));
            }
        }
        if !self.root.starts_with('/') || self.root.contains("//") {
            return refuse("--root is an absolute path, such as /loadgen");
        }
        if self.session_timeout_ms < 100 {
            return refuse("--session-timeout-ms starts at 100");
        }
        self.check_workload(workload)
    }

    fn check_workload(&self, workload: Workload) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        let keys = self.keys.unwrap_or(1);
        let open = self.is_open();
        match workload {
            Workload::Watch if self.connections as u64 > keys => {
                refuse("watch wants a key for each session that writes: raise --keys")
            }
            Workload::Watch if self.watchers == 0 => refuse("--watchers starts at 1"),
            Workload::Watch if self.watchers as u64 * keys > 1 << 28 => {
                refuse("--watchers times --keys is too many watches for this machine")
            }
            Workload::Fill if self.count.is_none() => refuse("fill wants --count"),
            Workload::Fill if open => refuse("fill is as fast as it goes: it takes no --rate"),
            Workload::Queue if self.connections < 2 => {
                refuse("queue wants two sessions at least: one puts, one takes")
            }
            Workload::Queue if self.value_bytes < 16 => {
                refuse("queue wants --value-bytes of 16 at least: an item says when it was put")
            }
            Workload::Queue
            | Workload::Lock
            | Workload::Watch
            | Workload::Connect
            | Workload::Ephemeral
                if self.count.is_some() =>
            {
                refuse("--count goes with operations on nodes: this workload takes --seconds")
            }
            _ if self.find_knee && self.count.is_some() => {
                refuse("--find-knee runs for --seconds at each rate: it takes no --count")
            }
            _ if self.value_bytes > 1 << 20 => refuse("--value-bytes ends at 1048576"),
            _ => Ok(()),
        }
    }
}

/// A number that no run before this one has reached: a million for each second of the clock.
fn unused_number() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs() % 1_000_000_000 * 1_000_000
}

/// The address of `host:port`, or of `host` at the usual port.
pub fn resolve(server: &str) -> Result<Target, String> {
    let name = if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        server.to_owned()
    } else {
        format!("{server}:2181")
    };
    let address = name.to_socket_addrs().ok().and_then(|mut all| all.next());
    match address {
        Some(address) => Ok(Target { name, address }),
        None => Err(format!("the server {server} has no address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan of a command line, or its refusal.
    fn parse(words: &str) -> Result<Plan, String> {
        let words = std::iter::once("loadgen").chain(words.split(' '));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let (workload, flags) = cli.command.workload().unwrap();
        flags.plan(workload)
    }

    #[test]
    fn flags_become_a_plan() {
        let plan = parse("set --servers 127.0.0.1:1,127.0.0.1:2 --count 9 --json").unwrap();
        assert_eq!((plan.servers.len(), plan.end, plan.in_flight), (2, End::Count(9), 1));
        let plan = parse("fill --count 1000 --fan-out 100").unwrap();
        assert_eq!((plan.directories, plan.in_flight, plan.first), (10, 64, 0));
        let plan = parse("watch --connections 1 --watchers 90000 --watch one-shot").unwrap();
        assert_eq!((plan.source_addresses, plan.paced, plan.keys), (5, true, 1));
        assert_eq!(parse("get --rate 100").unwrap().in_flight, 64);
    }

    #[test]
    fn a_wrong_flag_gets_one_sentence() {
        for (words, said) in [
            ("get --connections 0", "--connections starts at 1"),
            ("get --rate 0", "--rate is a number"),
            ("get --seconds NaN", "--seconds is a number"),
            ("get --root loadgen", "--root is an absolute path"),
            ("watch --connections 2 --keys 1", "raise --keys"),
            ("fill", "fill wants --count"),
            ("queue --connections 1", "two sessions"),
            ("lock --count 3", "takes --seconds"),
            ("get --servers nobody.invalid", "nobody.invalid has no address"),
            ("get --read-percent 101", "101"),
        ] {
            let refusal = parse(words).expect_err(words);
            assert!(refusal.contains(said), "{words}: {refusal}");
        }
    }
}
