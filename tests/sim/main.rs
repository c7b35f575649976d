//! The simulator: the real core of several servers over a fake network, fake disks and fake clocks,
//! with clients that check what they are told. A seed says everything that happens.
//!
//! ```text
//! cargo test --test sim                          scenarios, the re-introduced bugs, some seeds
//! cargo sim --seed N [--print]                   one run exactly, with every step
//! cargo sim --seeds COUNT [--from N] [--jobs J]  many
//! cargo sim --scenario NAME [--print]
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

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::knobs::Knobs;
use crate::run::{Failure, Outcome};

/// What is asked for.
#[derive(Debug, Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: u64,
    jobs: u64,
    is_printed: bool,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("arguments: --seed N | --seeds COUNT [--from N] [--jobs J], and --print");
        return ExitCode::from(2);
    };
    // A failure is told by its seed; the panics that end runs would only be repeated.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.seed {
        let run = run::run(seed, Knobs::of_seed(seed), arguments.is_printed);
        return match run {
            Ok(outcome) => {
                println!("seed {seed}: {outcome:?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                tell(seed, &failure);
                ExitCode::FAILURE
            }
        };
    }
    sweep(&arguments)
}

fn arguments() -> Option<Arguments> {
    let mut arguments = Arguments { jobs: 2, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse().ok();
        match &word[..] {
            "--seed" => arguments.seed = Some(number()?),
            "--seeds" => arguments.seeds = Some(number()?),
            "--from" => arguments.from = number()?,
            "--jobs" => arguments.jobs = number()?,
            "--print" => arguments.is_printed = true,
            // What the test harness's own flags would be.
            "--nocapture" | "--quiet" | "-q" => {}
            _ => return None,
        }
    }
    Some(arguments)
}

/// One line that reproduces a failure, and what led to it.
fn tell(seed: u64, failure: &Failure) {
    for line in &failure.kept {
        println!("{line}");
    }
    println!("FAILED: cargo sim --seed {seed}    # {}", failure.what);
}

/// Runs many seeds, on several threads; a seed's run knows nothing of the others.
fn sweep(arguments: &Arguments) -> ExitCode {
    let count = arguments.seeds.unwrap_or(30);
    let (next, end) = (AtomicU64::new(arguments.from), arguments.from + count);
    let (sender, receiver) = mpsc::channel::<(u64, Result<Outcome, Failure>)>();
    let mut failed = Vec::new();
    let mut sum = (0, 0, 0, 0, 0, 0);
    let mut settled_ms = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let run = run::run(seed, Knobs::of_seed(seed), false);
                    sender.send((seed, run)).expect("the main thread waits");
                }
            });
        }
        drop(sender);
        for (seed, run) in receiver {
            match run {
                Ok(it) => {
                    sum.0 += it.steps;
                    sum.1 += it.txns;
                    sum.2 += it.elections;
                    sum.3 += it.reads;
                    sum.4 += it.events;
                    sum.5 += it.simulated_ms;
                    settled_ms.push(it.settled_ms);
                }
                Err(failure) => {
                    println!("FAILED: cargo sim --seed {seed}    # {}", failure.what);
                    failed.push(seed);
                }
            }
        }
    });
    settled_ms.sort_unstable();
    let median = settled_ms.get(settled_ms.len() / 2).copied().unwrap_or(0);
    let longest = settled_ms.last().copied().unwrap_or(0);
    let (steps, txns, elections, reads, events, ms) = sum;
    println!(
        "{count} seeds, {} failed: {steps} steps, {} simulated seconds, {txns} transactions, \
         {elections} elections, {reads} reads, {events} watch events; after the healing \
         everything works in {median} ms (median), {longest} ms (longest)",
        failed.len(),
        ms / 1000,
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
