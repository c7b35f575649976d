//! Two targets in turn, several rounds: medians, and ratios with their spread.
//!
//! Both targets run all the time, one of them idle. Of each round's two runs the order alternates,
//! so that what changes slowly on the machine falls on both. A ratio is of two runs that followed
//! one another; its spread over the rounds says how far it can be trusted.

pub mod comparison;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::html;
use crate::local::ensemble::{Ensemble, Kind};
use crate::local::{LoadFlags, Measured, ServerFlags, put, workloads};
use crate::machine::Machine;
use crate::outcome::Outcome;
use comparison::{Comparison, FORMAT, Figure, Row, SideInfo};

#[derive(clap::Args, Debug)]
pub struct Flags {
    /// The first target: `ringkeeper`, `apache`, `NAME=COMMAND...` (takes a zoo.cfg), or running
    /// servers as `host:port[,pid][,host:port[,pid]...]`.
    left: String,
    /// The second one.
    right: String,
    /// Workloads with their flags, each in quotes, such as "set -c 48 -i 16". [seven standard ones]
    workloads: Vec<String>,
    /// Rounds of each workload.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    load: LoadFlags,
    /// All rounds' figures as JSON, to a file or (without one, or as `-`) to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// One self-contained page, both sides in each plot.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// One side as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Started { name: String, kind: Kind },
    Running(Measured),
}

impl Target {
    fn parse(text: &str) -> Result<Target, String> {
        let started = |name: &str, kind| Ok(Target::Started { name: name.to_owned(), kind });
        match text {
            "ringkeeper" => return started(text, Kind::Ringkeeper),
            "apache" => return started(text, Kind::Apache),
            _ => {}
        }
        if let Some((name, command)) = text.split_once('=') {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if name.is_empty() || words.is_empty() {
                return Err(format!("a target's command is NAME=COMMAND, not {text}"));
            }
            return started(name, Kind::Command(words));
        }
        let mut running = Measured { servers: Vec::new(), pids: Vec::new() };
        for part in text.split(',') {
            match part.parse::<u32>() {
                Ok(pid) if !running.servers.is_empty() => running.pids.push(pid),
                Err(_) if part.contains(':') => running.servers.push(part.to_owned()),
                _ => {
                    let what = "a target is ringkeeper, apache, NAME=COMMAND or host:port[,pid]";
                    return Err(format!("{what}, not {text}"));
                }
            }
        }
        if !running.pids.is_empty() && running.pids.len() != running.servers.len() {
            return Err(format!("{text}: each server has a pid, or none has"));
        }
        Ok(Target::Running(running))
    }

    /// What is measured, and what has to be kept for as long.
    fn start(&self, flags: &ServerFlags) -> Result<(Measured, Option<Ensemble>), String> {
        match self {
            Target::Started { kind, .. } => {
                let ensemble = flags.start(kind)?;
                Ok((Measured::of(&ensemble), Some(ensemble)))
            }
            Target::Running(measured) => Ok((measured.clone(), None)),
        }
    }

    fn info(&self, flags: &ServerFlags) -> Result<SideInfo, String> {
        Ok(match self {
            Target::Started { name, kind } => SideInfo {
                name: name.clone(),
                how: format!(
                    "{} × {} zoo.cfg",
                    flags.servers,
                    kind.command(&flags.heap)?.join(" ")
                ),
            },
            Target::Running(Measured { servers, .. }) => {
                SideInfo { name: servers.join(","), how: "was running".to_owned() }
            }
        })
    }
}

/// Runs the command; the error is one sentence for the user.
pub fn run(flags: &Flags) -> Result<ExitCode, String> {
    let workloads = workloads(&flags.workloads)?;
    let targets = [Target::parse(&flags.left)?, Target::parse(&flags.right)?];
    let mut sides = [targets[0].info(&flags.server)?, targets[1].info(&flags.server)?];
    if sides[0].name == sides[1].name {
        sides[1].name += " (again)";
    }
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let (left, _left_kept) = targets[0].start(&flags.server)?;
    let (right, _right_kept) = targets[1].start(&flags.server)?;
    left.warm_up(&flags.load)?;
    right.warm_up(&flags.load)?;
    let to_output = flags.json.as_deref() == Some(Path::new("-"));
    let names = [sides[0].name.clone(), sides[1].name.clone()];
    let mut measured: Vec<Vec<(Outcome, Outcome)>> = vec![Vec::new(); workloads.len()];
    for round in 0..flags.rounds {
        for (words, outcomes) in workloads.iter().zip(&mut measured) {
            let first_left = round % 2 == 0;
            let early = if first_left { &left } else { &right };
            let late = if first_left { &right } else { &left };
            let early = early.measure(words, &flags.load)?;
            let late = late.measure(words, &flags.load)?;
            outcomes.push(if first_left { (early, late) } else { (late, early) });
        }
    }
    let rows = workloads.iter().zip(&measured);
    let comparison = Comparison {
        format: FORMAT,
        started_unix_ms: since.as_millis() as u64,
        command: std::env::args().collect(),
        machine: Machine::here(),
        rounds: usize::from(flags.rounds),
        sides,
        rows: rows.map(|(words, outcomes)| Row::new(words, outcomes)).collect(),
    };
    if let Some(path) = &flags.json {
        let text = serde_json::to_string(&comparison).expect("a comparison is plain values");
        put(path, &format!("{text}\n"))?;
    }
    if let Some(path) = &flags.html {
        put(path, &html::comparison_page(&comparison))?;
    }
    if !to_output {
        print!("{}", tell(&comparison, &names));
    }
    let mut outcomes = measured.iter().flatten();
    let clean = outcomes.all(|(left, right)| left.is_clean() && right.is_clean());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table, in the words of Markdown: it goes into a README as it is.
fn tell(comparison: &Comparison, names: &[String; 2]) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes everything");
    line(format!("| | | {} | {} | ratio | spread |", names[0], names[1]));
    line("|---|---|---:|---:|---:|---|".to_owned());
    for row in &comparison.rows {
        for (index, figure) in row.figures.iter().enumerate() {
            let name = if index == 0 { row.name.as_str() } else { "" };
            let (ratio, spread) = match figure.ratio {
                Some(of) => (digits(of.median), format!("{}..{}", digits(of.min), digits(of.max))),
                None => ("–".to_owned(), String::new()),
            };
            let Figure { name: what, left_median, right_median, .. } = figure;
            let (left, right) =
                (html::amount(figure, *left_median), html::amount(figure, *right_median));
            line(format!("| {name} | {what} | {left} | {right} | {ratio} | {spread} |"));
        }
    }
    line(format!(
        "\nMedians of {} rounds, sides in turn; ratio is {} to {}. {}",
        comparison.rounds,
        names[0],
        names[1],
        comparison.machine.line(),
    ));
    for row in &comparison.rows {
        for trouble in &row.troubles {
            line(format!("{}: {trouble}", row.name));
        }
    }
    out
}

fn digits(value: f64) -> String {
    html::number(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_they_look_like() {
        let running = |servers: &[&str], pids: &[u32]| {
            let servers = servers.iter().map(|server| (*server).to_owned()).collect();
            Target::Running(Measured { servers, pids: pids.to_vec() })
        };
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse("127.0.0.1:2181,47"), running(&["127.0.0.1:2181"], &[47]));
        assert_eq!(parse("a:1,47,b:2,48"), running(&["a:1", "b:2"], &[47, 48]));
        assert_eq!(parse("a:1,b:2"), running(&["a:1", "b:2"], &[]));
        let words = ["./old", "server"].map(str::to_owned).to_vec();
        let old = Target::Started { name: "old".to_owned(), kind: Kind::Command(words) };
        assert_eq!(parse("old=./old server"), old);
        for bad in ["nobody", "47,a:1", "a:1,47,b:2", "=x", "x="] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_workload_is_refused_before_anything_is_started() {
        let refusal = workloads(&["set --nonsense".to_owned()]).unwrap_err();
        assert!(refusal.contains("--nonsense") && refusal.lines().count() == 1, "{refusal}");
        assert!(workloads(&["verify x".to_owned()]).is_err());
        assert!(workloads(&["get -c 0".to_owned()]).is_err());
        assert_eq!(workloads(&[]).unwrap().len(), crate::local::STANDARD.len());
    }
}
