//! A throw-away ensemble on this machine, measured: `loadgen local --servers 3`.

pub mod ensemble;
pub mod throwaway;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, RunFlags};
use crate::html;
use crate::live::Live;
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::plan::Workload;
use crate::run::{Watching, run as run_plan};
use crate::table::table;
use ensemble::{Ensemble, Kind};

/// What is measured when nobody says what: one in flight and sixteen, reads, writes, events, one
/// client alone, and last what leaves more nodes behind the faster the server is.
pub const STANDARD: [&str; 7] = [
    "get -c 48",
    "set -c 48",
    "get -c 48 -i 16",
    "set -c 48 -i 16",
    "set -c 1",
    "watch -c 1 --watchers 500",
    "create -c 48 --directories 100",
];

/// Nodes that a first warm-up leaves on each side: some five seconds of Apache's.
const WARM_CREATES: u64 = 100_000;

/// What servers started here take, for `local` and for `compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerFlags {
    /// Servers of the ensemble; 1 stands alone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub servers: u8,
    /// Folder for throw-away data: on the disk that is to be measured. [the system's temporary one]
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// A line of zoo.cfg on top of the usual ones; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub setting: Vec<String>,
    /// Heap of Apache's JVM.
    #[arg(long, default_value = "1g")]
    pub heap: String,
}

impl ServerFlags {
    /// Starts the servers of `kind`.
    pub fn start(&self, kind: &Kind) -> Result<Ensemble, String> {
        let command = kind.command(&self.heap)?;
        let data = self.data.clone().unwrap_or_else(std::env::temp_dir);
        Ensemble::start(&command, usize::from(self.servers), &data, &self.setting)
    }
}

/// What each run takes, for `local` and for `compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadFlags {
    /// Measured seconds of each run.
    #[arg(long, short = 's', default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds of load before each run is measured.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Seconds of mixed load before the first run: a JVM compiles what it does often.
    #[arg(long, default_value_t = 10.0)]
    pub first_warm_up: f64,
}

#[derive(clap::Args, Debug)]
pub struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    load: LoadFlags,
    /// Apache's server, of Debian's package (or ZOOKEEPER_CLASSPATH), instead of ours.
    #[arg(long)]
    apache: bool,
    /// Workloads with their flags, each in quotes, such as "set -c 48 -i 16". [seven standard ones]
    workloads: Vec<String>,
    /// The outcomes as JSON, a list, to a file or (as `-`) to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// One self-contained page with plots of all workloads.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command; the error is one sentence for the user.
pub fn run(flags: &Flags) -> Result<ExitCode, String> {
    let workloads = workloads(&flags.workloads)?;
    let kind = if flags.apache { Kind::Apache } else { Kind::Ringkeeper };
    let ensemble = flags.server.start(&kind)?;
    let target = Measured::of(&ensemble);
    target.warm_up(&flags.load)?;
    let to_output = flags.json.as_deref() == Some(std::path::Path::new("-"));
    let mut outcomes = Vec::new();
    for words in workloads {
        let outcome = target.measure(&words, &flags.load)?;
        if !to_output {
            println!("{}", table(&outcome));
        }
        outcomes.push((words, outcome));
    }
    let machine = Machine::here();
    if let Some(path) = &flags.json {
        let only: Vec<&Outcome> = outcomes.iter().map(|(_, outcome)| outcome).collect();
        let text = serde_json::to_string(&only).expect("an outcome can be written as JSON");
        put(path, &format!("{text}\n"))?;
    }
    if let Some(path) = &flags.html {
        let name = if flags.apache { "Apache ZooKeeper" } else { "Ringkeeper" };
        let title = match flags.server.servers {
            1 => format!("{name}, one server"),
            count => format!("{name}, {count} servers"),
        };
        put(path, &html::runs_page(&title, &outcomes, &machine))?;
    }
    if !to_output {
        println!("{}", machine.line());
    }
    let clean = outcomes.iter().all(|(_, outcome)| outcome.is_clean());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes to a file, or to standard output for `-`.
pub fn put(path: &std::path::Path, text: &str) -> Result<(), String> {
    if path == std::path::Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// What was asked for, or the standard; each is checked before anything is started.
pub fn workloads(asked: &[String]) -> Result<Vec<String>, String> {
    let asked: Vec<String> = match asked {
        [] => STANDARD.map(str::to_owned).to_vec(),
        asked => asked.to_vec(),
    };
    for words in &asked {
        let (workload, flags) = parse(&words.split_whitespace().collect::<Vec<_>>())?;
        flags.plan(workload)?;
    }
    Ok(asked)
}

fn parse(words: &[&str]) -> Result<(Workload, RunFlags), String> {
    let all = std::iter::once("loadgen").chain(words.iter().copied());
    let cli = Cli::try_parse_from(all).map_err(|error| {
        let said = error.to_string();
        let first = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
        format!("the workload \"{}\": {first}", words.join(" "))
    })?;
    let (workload, flags) =
        cli.command.workload().ok_or(format!("{} is no workload", words.join(" ")))?;
    Ok((workload, flags.clone()))
}

/// Servers that run, by whomever they were started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// `host:port` of each.
    pub servers: Vec<String>,
    /// Found by themselves where there are none.
    pub pids: Vec<u32>,
}

impl Measured {
    pub fn of(ensemble: &Ensemble) -> Measured {
        let servers = ensemble.addresses.iter().map(ToString::to_string).collect();
        Measured { servers, pids: ensemble.pids.clone() }
    }

    /// Half reads, half writes, and creates: what a JVM shall have compiled. The creates are
    /// counted, so that every server has the same nodes to snapshot while it is measured.
    pub fn warm_up(&self, flags: &LoadFlags) -> Result<(), String> {
        if flags.first_warm_up <= 0.0 {
            return Ok(());
        }
        let time = LoadFlags { seconds: flags.first_warm_up / 2.0, warm_up: 0.0, ..flags.clone() };
        let create = format!("create -c 48 --directories 100 --count {WARM_CREATES}");
        for words in ["mixed -c 48 --read-percent 50 -i 4", &create] {
            self.measure(words, &time)?;
        }
        Ok(())
    }

    /// One run of a workload. Times that its words give go before those of `flags`.
    pub fn measure(&self, words: &str, flags: &LoadFlags) -> Result<Outcome, String> {
        let own: Vec<&str> = words.split_whitespace().collect();
        let has = |names: &[&str]| {
            own.iter().any(|word| names.contains(&word.split('=').next().unwrap_or_default()))
        };
        let mut all = own.clone();
        let (seconds, warm_up) = (flags.seconds.to_string(), flags.warm_up.to_string());
        if !has(&["-s", "--seconds", "--count"]) {
            all.extend(["--seconds", &seconds]);
        }
        if !has(&["--warm-up"]) {
            all.extend(["--warm-up", &warm_up]);
        }
        let servers = self.servers.join(",");
        all.extend(["--servers", &servers]);
        let pids: Vec<String> = self.pids.iter().map(ToString::to_string).collect();
        let pids = pids.join(",");
        if !pids.is_empty() {
            all.extend(["--pid", &pids]);
        }
        let (workload, run_flags) = parse(&all)?;
        let plan = run_flags.plan(workload)?;
        let live = Live::new();
        let watching = Watching { progress: Some(&|progress| live.show(progress)), observer: None };
        let outcome = if run_flags.find_knee {
            crate::knee::find_knee(&plan, run_flags.p99_ms, watching)
        } else {
            run_plan(&plan, watching)
        };
        live.end();
        outcome.map_err(|error| format!("{words}: {error}"))
    }
}
