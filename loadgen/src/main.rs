//! `loadgen`: closed-loop load on a ZooKeeper server, on any ZooKeeper server.
//!
//! ```text
//! loadgen set --servers 127.0.0.1:2181 --pid 4711 --connections 32 --in-flight 1 --seconds 10
//! ```
//!
//! It tells commit latency as percentiles, watch fan-out, and the CPU that the server used for each
//! operation, which is what counts when generator and server share a machine.

mod client;
mod drive;
mod histogram;
#[expect(dead_code, reason = "the engine that fills it follows")]
mod observer;
#[expect(dead_code, reason = "the engine that fills it follows")]
mod outcome;
mod plan;
mod process;
mod report;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use client::{Connection, ERROR_NODE_EXISTS, Frame};
use drive::{Driver, SendTimes, Tally};
use plan::{Directory, End, Plan, WatchMode, Workload};
use report::Report;

/// Closed-loop load on a ZooKeeper server.
#[derive(Parser)]
#[command(version)]
struct Flags {
    workload: Workload,
    /// host:port of each server; connections go round them.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2181")]
    servers: Vec<String>,
    /// Process of each server, to measure CPU and memory.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests that each connection keeps under way (64 for fill).
    #[arg(long)]
    in_flight: Option<usize>,
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Measured time, after the warm-up.
    #[arg(long, default_value_t = 10.0, conflicts_with = "count")]
    seconds: f64,
    /// Operations instead of a time; without a warm-up.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds of load before the measuring starts.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Nodes that get, set, mixed and watch touch (1 for watch).
    #[arg(long)]
    keys: Option<u64>,
    /// Directories over which create spreads its nodes.
    #[arg(long, default_value_t = 1)]
    directories: u64,
    /// Nodes in each directory that fill makes; 0 puts all into one.
    #[arg(long, default_value_t = 0)]
    fan_out: u64,
    /// Number of the first node that create and fill make.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Reads of a hundred operations, for mixed.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Sessions that watch, for watch.
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    #[arg(long, value_enum, default_value = "persistent")]
    watch: WatchMode,
    /// Directory that holds all the run's nodes.
    #[arg(long, default_value = "/loadgen")]
    root: String,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, default_value_t = 30_000)]
    session_timeout_ms: i32,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let run = plan_of(&flags).and_then(|plan| {
        let tally = prepare(&plan).and_then(|()| load(&plan))?;
        Ok((plan, tally))
    });
    let (plan, tally) = match run {
        Ok(run) => run,
        Err(error) => {
            eprintln!("loadgen: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = Report::new(&plan, &tally);
    if flags.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    let clean = tally.errors.is_empty() && report.events_missing().unwrap_or(0) == 0;
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan_of(flags: &Flags) -> io::Result<Plan> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let watching = flags.workload == Workload::Watch;
    let filling = flags.workload == Workload::Fill;
    let keys = flags.keys.unwrap_or(if watching { 1 } else { 1000 });
    if flags.connections == 0 || flags.threads == 0 || keys == 0 || flags.in_flight == Some(0) {
        return refuse("connections, threads, keys and in-flight start at 1");
    }
    if watching && (flags.connections as u64 > keys || flags.in_flight.unwrap_or(1) > 1024) {
        return refuse("watch wants a key for each writing connection, and 1024 in flight at most");
    }
    if filling && flags.count.is_none() {
        return refuse("fill wants --count");
    }
    let directories = match (filling, flags.fan_out) {
        (false, _) => flags.directories,
        (true, 0) => 1,
        (true, fan_out) => flags.count.unwrap_or(0).div_ceil(fan_out),
    };
    let mut servers: Vec<SocketAddr> = Vec::new();
    for server in &flags.servers {
        servers.extend(server.to_socket_addrs()?.next());
    }
    if servers.is_empty() {
        return refuse("no server has an address");
    }
    Ok(Plan {
        workload: flags.workload,
        servers,
        session_timeout_ms: flags.session_timeout_ms,
        connections: flags.connections,
        watchers: if watching { flags.watchers } else { 0 },
        watch_mode: flags.watch,
        in_flight: flags.in_flight.unwrap_or(if filling { 64 } else { 1 }),
        threads: flags.threads,
        value: (0..flags.value_bytes).map(|index| (index * 37 % 251) as u8).collect(),
        root: run_root(flags),
        keys,
        directories,
        first: flags.first,
        read_percent: flags.read_percent,
        end: flags.count.map_or(End::After(Duration::from_secs_f64(flags.seconds)), End::Count),
        warm_up: Duration::from_secs_f64(flags.warm_up),
        server_pids: flags.pid.clone(),
    })
}

/// Watchers count versions from 0, so each such run has nodes of its own.
fn run_root(flags: &Flags) -> String {
    let root = flags.root.trim_end_matches('/');
    if flags.workload != Workload::Watch {
        return root.to_owned();
    }
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{root}/{}", since.as_nanos())
}

/// Makes the directories and keys that the run needs. Those that are there already are left.
fn prepare(plan: &Plan) -> io::Result<()> {
    let server = plan.servers[0];
    let (directory, count) = if plan.makes_nodes() {
        (Directory::Made, plan.directories)
    } else {
        (Directory::Keys, plan.keys)
    };
    let path = format!("{}{}", plan.root, directory.suffix());
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    let mut connection: Connection<()> = Connection::open(server, plan.session_timeout_ms)?;
    for end in ends {
        let frame = connection.request(client::CREATE, Instant::now(), ());
        create_empty(frame, &path[..end]);
        while !connection.flush()? {}
        wait_for_reply(&mut connection)?;
    }
    connection.close();
    let preparation = plan.preparation(directory, count);
    let tally = load(&preparation)?;
    match tally.errors.iter().find(|(error, _)| **error != ERROR_NODE_EXISTS) {
        Some((error, _)) => Err(io::Error::other(format!("preparing failed: error {error}"))),
        None => Ok(()),
    }
}

fn create_empty(frame: Frame<'_>, path: &str) {
    frame.bytes(path.as_bytes()).bytes(&[]).open_acl().int(0).finish();
}

fn wait_for_reply(connection: &mut Connection<()>) -> io::Result<()> {
    loop {
        if let Some(message) = connection.inbox.next_message()? {
            return match message.error {
                0 | ERROR_NODE_EXISTS => Ok(()),
                error => Err(io::Error::other(format!("preparing failed: error {error}"))),
            };
        }
        if !connection.receive()? {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs the plan on its threads, this one among them.
fn load(plan: &Plan) -> io::Result<Tally> {
    let send_times = SendTimes::new(plan);
    let connections = plan.connections + plan.watchers;
    let threads = plan.threads.min(connections);
    let mut drivers = Vec::new();
    for thread in 0..threads {
        let indexes = (thread..connections).step_by(threads);
        let mut driver = Driver::new(plan, &send_times, indexes, thread == 0)?;
        driver.arm()?;
        drivers.push(driver);
    }
    thread::scope(|scope| {
        let first = drivers.remove(0);
        let others: Vec<_> =
            drivers.into_iter().map(|driver| scope.spawn(|| driver.run())).collect();
        let mut tally = first.run()?;
        for other in others {
            tally.merge(&other.join().expect("a driver reports its errors as values")?);
        }
        Ok(tally)
    })
}
