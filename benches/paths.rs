//! The hot paths that the gate counts instructions of, timed: codec, tree, watches, log, snapshot,
//! queue, requests to replies, three servers.
//!
//! `cargo bench --bench paths -- serve/get` times those rows. On a shared machine a difference of
//! a tenth says nothing; the gate's counts do.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads the clock, and its clients dial with std"
)]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mimalloc::MiMalloc;

mod workloads;

use workloads::{Meter, rows};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The time of what is measured.
#[derive(Default)]
struct Stopwatch {
    spent: Duration,
}

impl Meter for Stopwatch {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        let start = Instant::now();
        work();
        self.spent += start.elapsed();
    }
}

fn paths(c: &mut Criterion) {
    for row in rows() {
        let (family, name) = row.name.split_once('/').expect("rows have families");
        let mut group = c.benchmark_group(family);
        group.throughput(Throughput::Elements(u64::from(row.count)));
        // Built when it is its turn, and only if it is asked for.
        let mut run = None;
        group.bench_function(format!("{name}, {} of a {}", row.count, row.per), |b| {
            let run = run.get_or_insert_with(row.make);
            b.iter_custom(|iterations| {
                let mut stopwatch = Stopwatch::default();
                (0..iterations).for_each(|_| run(&mut stopwatch));
                stopwatch.spent
            });
        });
        group.finish();
    }
}

criterion_group!(benches, paths);
criterion_main!(benches);
