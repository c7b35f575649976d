//! What the threads and the sampler have seen, as an [`Outcome`].

use std::collections::BTreeMap;

use crate::clock::{Nanos, SECOND};
use crate::histogram::Latencies;
use crate::outcome::{
    FORMAT, FanOut, Generator, GeneratorThread, KindOutcome, Outcome, Series, ServerOutcome,
    Summary, ThreadCpu,
};
use crate::plan::{Plan, Workload};
use crate::process::OwnUse;
use crate::sample::Sampler;
use crate::tally::{Kind, Slice, Tally};

/// Above these the generator, and not the server, may be what is measured.
const BUSY_MAX: f64 = 0.9;
const WAITING_MAX: f64 = 0.3;
const SEND_LAG_P99_MAX_US: f64 = 1000.0;

/// A run as it was seen.
pub struct Performed {
    pub tally: Tally,
    /// The measured time.
    pub measured: Nanos,
    /// Of each thread of the generator, in the measured time.
    pub own: Vec<OwnUse>,
    pub slices: BTreeMap<u64, Slice>,
    pub sampler: Option<Sampler>,
    pub started_unix_ms: u64,
}

pub fn assemble(plan: &Plan, performed: Performed) -> Outcome {
    let Performed { tally, measured, own, slices, sampler, started_unix_ms } = performed;
    let seconds = (measured.max(1)) as f64 / SECOND as f64;
    let count = |kind: Kind| tally.latencies(kind).map_or(0, Latencies::count);
    let units: u64 =
        Kind::ALL.into_iter().filter(|kind| kind.is_unit_of(plan.workload)).map(count).sum();
    let mut config = plan.config();
    config.pids = sampler.as_ref().map(Sampler::pids).unwrap_or_default();
    let servers = sampler.map(|sampler| sampler.finish(units)).unwrap_or_default();
    let generator = generator(&tally, &own, measured, units);
    Outcome {
        summary: summary(plan, &tally, seconds, units, &servers, &generator),
        format: FORMAT,
        started_unix_ms,
        config,
        kinds: kinds(&tally, seconds),
        series: series(plan, &slices),
        servers,
        generator,
        disturbances: tally.disturbances,
        fan_out: (plan.workload == Workload::Watch).then(|| fan_out(&tally)),
        knee: None,
    }
}

/// Whether `kind` counts as an operation of the workload; an event or a lock's release does not.
fn is_operation(kind: Kind, workload: Workload) -> bool {
    match kind {
        Kind::Connect => workload == Workload::Connect,
        Kind::Put => true,
        Kind::Event => false,
        Kind::Set => true,
        kind => kind.is_unit_of(workload),
    }
}

fn summary(
    plan: &Plan,
    tally: &Tally,
    seconds: f64,
    units: u64,
    servers: &[ServerOutcome],
    generator: &Generator,
) -> Summary {
    let count = |kind: Kind| tally.latencies(kind).map_or(0, Latencies::count);
    let operations: u64 =
        Kind::ALL.into_iter().filter(|kind| is_operation(*kind, plan.workload)).map(count).sum();
    let events = count(Kind::Event);
    let each = |seconds: f64| if units == 0 { 0.0 } else { seconds * 1e6 / units as f64 };
    let user: f64 = servers.iter().map(|server| server.cpu_user_seconds).sum();
    let system: f64 = servers.iter().map(|server| server.cpu_system_seconds).sum();
    let mut errors = BTreeMap::new();
    for ((_, code), count) in &tally.errors {
        *errors.entry(code.to_string()).or_default() += count;
    }
    Summary {
        workload: plan.workload.name().to_owned(),
        connections: plan.connections,
        watchers: plan.watchers,
        in_flight: plan.in_flight,
        value_bytes: plan.value.len(),
        seconds,
        operations,
        operations_per_second: operations as f64 / seconds,
        events,
        events_per_second: events as f64 / seconds,
        unit: plan.workload.unit().to_owned(),
        units,
        server_cpu_us: each(user + system),
        server_cpu_user_us: each(user),
        server_cpu_system_us: each(system),
        server_resident_bytes: servers.iter().map(|server| server.resident_bytes).sum(),
        loadgen_cpu_us: generator.cpu_us_per_unit,
        latency_us: classes(tally),
        server_threads: threads(servers),
        errors,
        events_missing: events_missing(plan, tally),
    }
}

/// `read`, `write` and `event`, each over its kinds.
fn classes(tally: &Tally) -> BTreeMap<String, crate::outcome::Percentiles> {
    let mut classes: BTreeMap<&str, Latencies> = BTreeMap::new();
    for kind in Kind::ALL {
        if let (Some(class), Some(latencies)) = (kind.class(), tally.latencies(kind)) {
            classes.entry(class).or_insert_with(Latencies::fine).merge(latencies);
        }
    }
    classes.into_iter().map(|(class, all)| (class.to_owned(), all.percentiles())).collect()
}

fn threads(servers: &[ServerOutcome]) -> Vec<ThreadCpu> {
    let mut by_name: BTreeMap<&str, f64> = BTreeMap::new();
    for thread in servers.iter().flat_map(|server| &server.threads) {
        *by_name.entry(&thread.name).or_default() += thread.cpu_us;
    }
    let rows = by_name.into_iter();
    let mut rows: Vec<ThreadCpu> =
        rows.map(|(name, cpu_us)| ThreadCpu { name: name.to_owned(), cpu_us }).collect();
    rows.sort_by(|left, right| right.cpu_us.total_cmp(&left.cpu_us));
    rows
}

fn events_missing(plan: &Plan, tally: &Tally) -> Option<i64> {
    let known = plan.workload == Workload::Watch
        && tally.disturbances.disconnects == 0
        && tally.disturbances.in_doubt == 0;
    known.then(|| tally.events_due as i64 - tally.events_all as i64)
}

fn kinds(tally: &Tally, seconds: f64) -> BTreeMap<String, KindOutcome> {
    let mut kinds = BTreeMap::new();
    for kind in Kind::ALL {
        let errors: BTreeMap<String, u64> = tally
            .errors
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|((_, code), count)| (code.to_string(), *count))
            .collect();
        let latencies = tally.latencies(kind);
        if latencies.is_none() && errors.is_empty() {
            continue;
        }
        let count = latencies.map_or(0, Latencies::count);
        kinds.insert(
            kind.name().to_owned(),
            KindOutcome {
                count,
                per_second: count as f64 / seconds,
                errors,
                latency_us: latencies.map(Latencies::percentiles).unwrap_or_default(),
                curve: latencies.map(Latencies::curve).unwrap_or_default(),
            },
        );
    }
    kinds
}

fn series(plan: &Plan, slices: &BTreeMap<u64, Slice>) -> Series {
    let interval = plan.interval.as_secs_f64();
    let mut series = Series { interval_seconds: interval, ..Series::default() };
    // An interval in which nothing happened has no slice: it is there all the same.
    let last = slices.keys().next_back().map_or(0, |last| last + 1);
    let empty = Slice::new(0);
    for index in 0..last {
        let slice = slices.get(&index).unwrap_or(&empty);
        series.at_seconds.push((index + 1) as f64 * interval);
        series.rate_per_second.push(slice.latencies.count() as f64 / interval);
        series.p50_us.push(slice.latencies.micros_at(0.5));
        series.p99_us.push(slice.latencies.micros_at(0.99));
        series.max_us.push(slice.latencies.max_micros());
        series.errors.push(slice.errors);
        series.disconnects.push(slice.disconnects);
    }
    series
}

fn generator(tally: &Tally, own: &[OwnUse], measured: Nanos, units: u64) -> Generator {
    let share = |nanos: Nanos| nanos as f64 / measured.max(1) as f64;
    let threads: Vec<GeneratorThread> = own
        .iter()
        .map(|own| GeneratorThread { busy: share(own.running), waiting: share(own.waiting) })
        .collect();
    let cpu_seconds = own.iter().map(|own| own.running).sum::<Nanos>() as f64 / SECOND as f64;
    let send_lag_us = tally.send_lag.percentiles();
    let mut limited_by = Vec::new();
    let most = |of: fn(&GeneratorThread) -> f64| threads.iter().map(of).fold(0.0, f64::max);
    let (busy, waiting) = (most(|thread| thread.busy), most(|thread| thread.waiting));
    if busy > BUSY_MAX {
        let percent = busy * 100.0;
        limited_by.push(format!("a thread of it was busy {percent:.0} % of the time: --threads"));
    }
    if waiting > WAITING_MAX {
        let percent = waiting * 100.0;
        limited_by.push(format!("a thread of it waited {percent:.0} % of the time for a core"));
    }
    if send_lag_us.p99 > SEND_LAG_P99_MAX_US {
        let lag = send_lag_us.p99 / 1e3;
        limited_by.push(format!("it sent operations late: by {lag:.1} ms at p99"));
    }
    Generator {
        cpu_seconds,
        cpu_us_per_unit: if units == 0 { 0.0 } else { cpu_seconds * 1e6 / units as f64 },
        threads,
        send_lag_us,
        limited_by,
    }
}

fn fan_out(tally: &Tally) -> FanOut {
    let percentiles =
        |kind: Kind| tally.latencies(kind).map(Latencies::percentiles).unwrap_or_default();
    FanOut {
        complete: tally.latencies(Kind::LastEvent).map_or(0, Latencies::count),
        incomplete: tally.fan_outs_incomplete,
        first_event_us: percentiles(Kind::FirstEvent),
        last_event_us: percentiles(Kind::LastEvent),
        last_event_after_reply_us: percentiles(Kind::LastEventAfterReply),
    }
}
