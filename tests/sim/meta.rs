//! Whether the simulator sees: historic bugs are made again, one by one, in the interpreter of what
//! the core asks for, and each must be found within so many seeds.
//!
//! Most show within ten seeds. `cargo sim --meta` prints how many each took, and what was seen.

use crate::knobs::{Faults, Knobs, Tampering};
use crate::run::run;

/// A bug: its name, where it once was, and how it is made.
pub struct Bug {
    pub name: &'static str,
    pub source: &'static str,
    /// Within so many seeds it must be found.
    pub seeds_max: u64,
    make: fn(&mut Tampering),
    /// What makes it likely to matter.
    stress: fn(&mut Knobs),
}

/// Faults that take no state away, at a pace that leaves some time between them.
fn crashes(knobs: &mut Knobs) {
    knobs.faults = Faults { crash: 500, power_cut: 600, break_conn: 400, ..Faults::default() };
    knobs.disk = (2_000_000, 40_000_000);
    knobs.commit_log_count = 50;
    knobs.counter = 0;
}

fn partitions(knobs: &mut Knobs) {
    crashes(knobs);
    knobs.faults.partition = 700;
}

fn damage(knobs: &mut Knobs) {
    crashes(knobs);
    knobs.faults.wipe = 900;
    knobs.faults.decay = 900;
}

fn nothing(_knobs: &mut Knobs) {}

/// Clients that only say that they are there.
fn idle(knobs: &mut Knobs) {
    *knobs = Knobs { are_idle: true, chaos_ms: 12_000, tick_ms: 100, ..Knobs::quiet() };
}

fn write_errors(knobs: &mut Knobs) {
    crashes(knobs);
    knobs.faults.write_error = 100;
    knobs.faults.power_cut = 300;
}

pub const BUGS: [Bug; 16] = [
    Bug {
        name: "acks before the disk",
        source: "ZOOKEEPER-4646, 3911, 3023",
        seeds_max: 100,
        make: |it| it.acks_early = true,
        stress: crashes,
    },
    Bug {
        name: "currentEpoch before the log",
        source: "ZOOKEEPER-4643",
        seeds_max: 2000,
        make: |it| it.epoch_before_log = true,
        stress: crashes,
    },
    Bug {
        name: "acceptedEpoch is not kept",
        source: "ZOOKEEPER-335, 1367",
        seeds_max: 100,
        make: |it| it.forgets_accepted = true,
        stress: crashes,
    },
    Bug {
        name: "currentEpoch is not kept",
        source: "ZOOKEEPER-1653",
        seeds_max: 2000,
        make: |it| it.forgets_current = true,
        stress: crashes,
    },
    Bug {
        name: "the log is not cut",
        source: "ZOOKEEPER-5094, 1549",
        seeds_max: 400,
        make: |it| it.ignores_truncation = true,
        stress: partitions,
    },
    Bug {
        name: "the old log stays behind a snapshot",
        source: "ZOOKEEPER-2872, 3642",
        seeds_max: 100,
        make: |it| it.keeps_log_behind_snapshot = true,
        stress: damage,
    },
    Bug {
        name: "an empty server votes",
        source: "ZOOKEEPER-261",
        seeds_max: 400,
        make: |it| it.trusts_empty = true,
        stress: damage,
    },
    Bug {
        name: "a damaged server votes",
        source: "R3, FAST'18",
        seeds_max: 400,
        make: |it| it.trusts_damaged = true,
        stress: damage,
    },
    Bug {
        name: "a failed write is tried again",
        source: "ZOOKEEPER-4882, 3701",
        seeds_max: 2000,
        make: |it| it.retries_writes = true,
        stress: write_errors,
    },
    Bug {
        name: "a snapshot of what is not committed",
        source: "ZOOKEEPER-1549, 2845",
        seeds_max: 100,
        make: |it| it.snapshots_applied = true,
        stress: crashes,
    },
    Bug {
        name: "a leader that nobody hears answers sync",
        source: "Alquraan 2018, a thawed leader",
        seeds_max: 200,
        make: |it| it.answers_own_pings = true,
        stress: partitions,
    },
    Bug {
        name: "learners' sessions are not touched",
        source: "LearnerHandler's PING",
        seeds_max: 50,
        make: |it| it.forgets_touches = true,
        stress: idle,
    },
    Bug {
        name: "a request is passed on twice",
        source: "ZOOKEEPER-2355's kind",
        seeds_max: 20,
        make: |it| it.forwards_twice = true,
        stress: nothing,
    },
    Bug {
        name: "reads see what is not committed",
        source: "ZOOKEEPER-2845",
        seeds_max: 20,
        make: |it| it.core.reads_applied = true,
        stress: nothing,
    },
    Bug {
        name: "a reply comes before the event that it shows",
        source: "ZOOKEEPER-1505's kind",
        seeds_max: 20,
        make: |it| it.core.replies_first = true,
        stress: nothing,
    },
    Bug {
        name: "missed changes are not made up for",
        source: "ZOOKEEPER-1412, 4475",
        seeds_max: 50,
        make: |it| it.core.forgets_missed = true,
        stress: crashes,
    },
];

/// A bug's run of a seed: what is found, if anything is.
fn find(bug: &Bug, seed: u64) -> Option<String> {
    let mut knobs = Knobs::of_seed(seed);
    (bug.stress)(&mut knobs);
    (bug.make)(&mut knobs.tampering);
    run(seed, knobs, false).err().map(|failure| failure.what)
}

/// Makes the bug, and looks for it: after how many seeds it was found, and what was seen.
pub fn hunt(bug: &Bug) -> Option<(u64, String)> {
    (0..bug.seeds_max).find_map(|seed| find(bug, seed).map(|what| (seed + 1, what)))
}

/// Without the bug, the same seeds find nothing: so what was found is the bug.
pub fn control(bug: &Bug, seeds: u64) -> Result<(), String> {
    for seed in 0..seeds {
        let mut knobs = Knobs::of_seed(seed);
        (bug.stress)(&mut knobs);
        if let Err(failure) = run(seed, knobs, false) {
            return Err(format!("seed {seed} fails without the bug: {}", failure.what));
        }
    }
    Ok(())
}
