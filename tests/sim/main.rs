//! The simulator: the real core of several servers over a fake network, fake disks and fake clocks,
//! with clients that check what they are told. A seed says everything that happens.
//!
//! ```text
//! cargo test --test sim                          the stories, some seeds, and a few bugs
//! cargo sim --seed N [--print]                   one run exactly, with every step
//! cargo sim --seeds COUNT [--from N] [--jobs J]  many
//! cargo sim --scenario NAME [--seed N] [--print] the stories with this in their names
//! cargo sim --meta [NAME]                        historic bugs, one by one: each is found
//! ```

mod random;
mod trace;

mod knobs;

mod network;

mod disk;
mod snapshot;
mod storage;

mod core;

mod client;

mod checker;

mod world;

mod process;

mod recover;

mod perform;

mod nemesis;
mod people;

mod run;

mod scenarios;

mod meta;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::knobs::Knobs;
use crate::meta::BUGS;
use crate::run::{Failure, Outcome, run};
use crate::scenarios::{SEEDS, Scenario};

/// Seeds of a plain `cargo test`, which is not optimised.
const SEEDS_PLAIN: u64 = 12;
/// Bugs that a plain `cargo test` makes: those that show at once.
const BUG_SEEDS_PLAIN: u64 = 50;
/// Seeds that fail without a bug would make its finding worthless: so many are tried.
const CONTROL_SEEDS: u64 = 20;

/// What is asked for.
#[derive(Debug, Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: u64,
    jobs: u64,
    is_printed: bool,
    scenario: Option<String>,
    meta: Option<String>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!(
            "arguments: --seed N | --seeds COUNT [--from N] [--jobs J] | --scenario NAME | \
             --meta [NAME]; and --print"
        );
        return ExitCode::from(2);
    };
    // A failure is told by its seed; the panics that end runs would only be repeated.
    std::panic::set_hook(Box::new(|_| {}));
    let is_right = match &arguments {
        Arguments { scenario: Some(name), .. } => play_all(name, &arguments),
        Arguments { meta: Some(name), .. } => hunt_all(name, u64::MAX),
        Arguments { seed: Some(seed), .. } => run_one(*seed, arguments.is_printed),
        Arguments { seeds: Some(count), .. } => sweep(arguments.from, *count, arguments.jobs),
        _ => run_plain(&arguments),
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<Arguments> {
    let mut arguments = Arguments { jobs: 2, ..Arguments::default() };
    let mut words = std::env::args().skip(1).peekable();
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse().ok();
        match &word[..] {
            "--seed" => arguments.seed = Some(number()?),
            "--seeds" => arguments.seeds = Some(number()?),
            "--from" => arguments.from = number()?,
            "--jobs" => arguments.jobs = number()?,
            "--print" => arguments.is_printed = true,
            "--scenario" => arguments.scenario = Some(words.next()?),
            "--meta" => {
                let name = words.next_if(|word| !word.starts_with("--"));
                arguments.meta = Some(name.unwrap_or_default());
            }
            // What the test harness's own flags would be.
            "--nocapture" | "--quiet" | "-q" => {}
            _ => return None,
        }
    }
    Some(arguments)
}

/// What `cargo test` runs.
fn run_plain(arguments: &Arguments) -> bool {
    let mut is_right = same_seed_same_trace();
    is_right &= play_all("", arguments);
    is_right &= sweep(0, SEEDS_PLAIN, arguments.jobs);
    is_right & hunt_all("", BUG_SEEDS_PLAIN)
}

/// One line that reproduces a failure, and what led to it.
fn tell(how: &str, failure: &Failure) {
    for line in &failure.kept {
        println!("{line}");
    }
    println!("FAILED: cargo sim {how}    # {}", failure.what);
}

fn run_one(seed: u64, is_printed: bool) -> bool {
    match run(seed, Knobs::of_seed(seed), is_printed) {
        Ok(outcome) => println!("seed {seed}: {outcome:?}"),
        Err(failure) => {
            tell(&format!("--seed {seed}"), &failure);
            return false;
        }
    }
    true
}

/// A seed that is run twice does the same, step by step; another seed does not.
fn same_seed_same_trace() -> bool {
    let hash = |seed| run(seed, Knobs::of_seed(seed), false).map(|it| (it.hash, it.steps));
    for seed in 0..3 {
        let (Ok(first), Ok(second), Ok(other)) = (hash(seed), hash(seed), hash(seed + 1)) else {
            println!("FAILED: cargo sim --seeds 4    # a seed that should pass");
            return false;
        };
        if first != second || first == other {
            println!("FAILED: seed {seed} has the traces {first:?} and {second:?}, not {other:?}");
            return false;
        }
    }
    println!("a seed run twice gives the same trace");
    true
}

/// Plays the stories with `name` in their names.
fn play_all(name: &str, arguments: &Arguments) -> bool {
    let wanted: Vec<&Scenario> = scenarios::all().filter(|it| it.name.contains(name)).collect();
    let seeds = arguments.seed.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut failed = 0;
    for scenario in &wanted {
        for seed in seeds.clone() {
            if let Err(failure) = scenarios::play(scenario, seed, arguments.is_printed) {
                tell(&format!("--scenario {} --seed {seed}", scenario.name), &failure);
                failed += 1;
            }
        }
    }
    println!("{} stories, each with {} seeds: {failed} failed", wanted.len(), seeds.count());
    failed == 0 && !wanted.is_empty()
}

/// Makes the bugs with `name` in their names that are found within so many seeds.
fn hunt_all(name: &str, seeds_max: u64) -> bool {
    let mut is_right = true;
    let wanted = BUGS.iter().filter(|it| it.name.contains(name) && it.seeds_max <= seeds_max);
    for bug in wanted {
        if let Err(what) = meta::control(bug, CONTROL_SEEDS.min(seeds_max / 10)) {
            println!("FAILED: {}: {what}", bug.name);
            is_right = false;
            continue;
        }
        match meta::hunt(bug) {
            Some((seeds, what)) => {
                let what: String = what.chars().take(90).collect();
                println!("found after {seeds:>4} seeds: {} ({}): {what}", bug.name, bug.source);
            }
            None => {
                println!("FAILED: not found in {} seeds: {}", bug.seeds_max, bug.name);
                is_right = false;
            }
        }
    }
    is_right
}

/// The sums over many runs.
#[derive(Debug, Default)]
struct Sums {
    steps: u64,
    txns: usize,
    elections: u64,
    reads: u64,
    events: u64,
    simulated_ms: u64,
    settled_ms: Vec<u64>,
    failed: Vec<u64>,
}

impl Sums {
    fn add(&mut self, seed: u64, run: Result<Outcome, Failure>) {
        match run {
            Ok(it) => {
                self.steps += it.steps;
                self.txns += it.txns;
                self.elections += it.elections;
                self.reads += it.reads;
                self.events += it.events;
                self.simulated_ms += it.simulated_ms;
                self.settled_ms.push(it.settled_ms);
            }
            Err(failure) => {
                println!("FAILED: cargo sim --seed {seed}    # {}", failure.what);
                self.failed.push(seed);
            }
        }
    }

    fn tell(&mut self, count: u64) {
        self.settled_ms.sort_unstable();
        let median = self.settled_ms.get(self.settled_ms.len() / 2).copied().unwrap_or(0);
        let longest = self.settled_ms.last().copied().unwrap_or(0);
        println!(
            "{count} seeds, {} failed: {} steps, {} simulated seconds, {} transactions, \
             {} elections, {} reads, {} watch events; after the healing everything works in \
             {median} ms (median), {longest} ms (longest)",
            self.failed.len(),
            self.steps,
            self.simulated_ms / 1000,
            self.txns,
            self.elections,
            self.reads,
            self.events,
        );
    }
}

/// Runs many seeds, on several threads; a seed's run knows nothing of the others.
fn sweep(from: u64, count: u64, jobs: u64) -> bool {
    let (next, end) = (AtomicU64::new(from), from + count);
    let (sender, receiver) = mpsc::channel::<(u64, Result<Outcome, Failure>)>();
    let mut sums = Sums::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let run = run(seed, Knobs::of_seed(seed), false);
                    sender.send((seed, run)).expect("the main thread waits");
                }
            });
        }
        drop(sender);
        for (seed, run) in receiver {
            sums.add(seed, run);
        }
    });
    sums.tell(count);
    sums.failed.is_empty()
}
