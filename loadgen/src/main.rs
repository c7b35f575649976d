//! `loadgen set --servers 127.0.0.1:2181 --connections 32 --seconds 10`
//!
//! Exit codes: 0 all went well; 1 the run was made, but with errors, disconnects or missing events;
//! 2 the command line; 3 the run could not be made.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use ringkeeper_loadgen::cli::{Cli, Command, RunFlags};
use ringkeeper_loadgen::hgrm::hgrm;
use ringkeeper_loadgen::html;
use ringkeeper_loadgen::knee::find_knee;
use ringkeeper_loadgen::live::Live;
use ringkeeper_loadgen::machine::Machine;
use ringkeeper_loadgen::outcome::Outcome;
use ringkeeper_loadgen::plan::Workload;
use ringkeeper_loadgen::run::{Watching, run};
use ringkeeper_loadgen::table::table;
use ringkeeper_loadgen::{compare, echo, floor, journal, local, verify};

const COMMAND_LINE: u8 = 2;
const NOT_MADE: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Echo(flags) => echo::measure(flags),
        Command::Floor(flags) => floor::measure(flags),
        Command::Compare(flags) => compare::run(flags),
        Command::Local(flags) => local::run(flags),
        Command::Journal(flags) => journal::run(flags),
        Command::Verify(flags) => verify::run(flags),
        command => {
            let (workload, flags) = command.workload().expect("all others are workloads");
            return load(workload, flags);
        }
    };
    done.unwrap_or_else(|error| fail(NOT_MADE, &error))
}

fn fail(code: u8, error: &str) -> ExitCode {
    eprintln!("loadgen: {error}");
    ExitCode::from(code)
}

fn load(workload: Workload, flags: &RunFlags) -> ExitCode {
    let plan = match flags.plan(workload) {
        Ok(plan) => plan,
        Err(error) => return fail(COMMAND_LINE, &error),
    };
    let live = Live::new();
    let watching = Watching { progress: Some(&|progress| live.show(progress)), observer: None };
    let outcome = if flags.find_knee {
        find_knee(&plan, flags.p99_ms, watching)
    } else {
        run(&plan, watching)
    };
    live.end();
    match outcome.and_then(|outcome| write(flags, &outcome).map(|()| outcome)) {
        Ok(outcome) if outcome.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(NOT_MADE, &error),
    }
}

/// Writes what was asked for; the table too, unless JSON goes to where it would.
fn write(flags: &RunFlags, outcome: &Outcome) -> Result<(), String> {
    let to_output = Path::new("-");
    if let Some(path) = &flags.json {
        let json = serde_json::to_string(outcome).expect("an outcome can be written as JSON");
        put(path, &format!("{json}\n"))?;
    }
    if let Some(path) = &flags.hgrm {
        let unit = outcome.main_kind().ok_or("there is no latency for --hgrm")?;
        put(path, &hgrm(unit))?;
    }
    if let Some(path) = &flags.html {
        put(path, &html::run_page(outcome, &Machine::here()))?;
    }
    if [&flags.json, &flags.hgrm, &flags.html].iter().all(|path| path.as_deref() != Some(to_output))
    {
        put(to_output, &table(outcome))?;
    }
    Ok(())
}

/// Writes to a file, or to standard output for `-`.
fn put(path: &Path, text: &str) -> Result<(), String> {
    let done = if path == Path::new("-") {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::fs::write(path, text)
    };
    done.map_err(|error| format!("{}: {error}", path.display()))
}
