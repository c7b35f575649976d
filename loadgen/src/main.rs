//! `loadgen set --servers 127.0.0.1:2181 --connections 32 --seconds 10`
//!
//! Exit codes: 0 all went well; 1 the run was made, but with errors, disconnects or missing events;
//! 2 the command line; 3 the run could not be made.

use std::process::ExitCode;

use clap::Parser;

use ringkeeper_loadgen::cli::{Cli, Command};
use ringkeeper_loadgen::run::{self, Watching};
use ringkeeper_loadgen::{compare, echo, journal, local, verify};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Echo(flags) => echo::run(flags),
        Command::Compare(flags) => compare::run(flags),
        Command::Local(flags) => local::run(flags),
        Command::Journal(flags) => journal::run(flags),
        Command::Verify(flags) => verify::run(flags),
        command => {
            let (workload, flags) = command.workload().expect("all others are workloads");
            flags.plan(workload).and_then(|plan| {
                run::run(&plan, Watching::default())?;
                Ok(ExitCode::SUCCESS)
            })
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("loadgen: {error}");
        ExitCode::from(3)
    })
}
