//! What one run has shown: the JSON that `--json` writes, and that `compare` and the report read.
//!
//! ```text
//! Outcome   Summary's fields at the top | config | kinds | series | servers | generator | …
//! ```
//!
//! Units stand in the names: `_us` microseconds, `_bytes`, `_per_second`; CPU is in seconds, or in
//! microseconds for each unit of work. A time series has one entry for each interval of
//! [`Series::interval_seconds`], the first beginning with the measured time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of [`Outcome::format`]: raised when a field changes its meaning, not when one is added.
pub const FORMAT: u32 = 1;

/// One run: how it was configured, and what was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its fields stand at the top level of the JSON.
    #[serde(flatten)]
    pub summary: Summary,
    pub format: u32,
    /// Wall time at which the measured time began.
    pub started_unix_ms: u64,
    pub config: Config,
    /// By kind of operation: `set`, `get`, `event`, `last_event`, `connect`, …
    pub kinds: BTreeMap<String, KindOutcome>,
    pub series: Series,
    /// One for each server of `config.servers`, or each of `config.pids` where those are given.
    pub servers: Vec<ServerOutcome>,
    pub generator: Generator,
    pub disturbances: Disturbances,
    /// Only of `watch`.
    pub fan_out: Option<FanOut>,
    /// Only with `--find-knee`; the rest of the outcome is that of the knee's own step.
    pub knee: Option<Knee>,
}

impl Outcome {
    /// Whether nothing went wrong: no error, no disconnect, no answer and no event missing.
    pub fn is_clean(&self) -> bool {
        let told = &self.disturbances;
        self.summary.errors.is_empty()
            && told.disconnects == 0
            && told.sessions_expired == 0
            && told.in_doubt == 0
            && self.summary.events_missing.unwrap_or(0) == 0
    }

    /// The kind that the workload is about: what it is named after, else the most frequent one.
    pub fn main_kind(&self) -> Option<&KindOutcome> {
        let name = match &self.summary.workload[..] {
            "watch" => "event",
            "queue" => "item",
            "fill" | "ephemeral" => "create",
            name => name,
        };
        self.kinds.get(name).or_else(|| self.kinds.values().max_by_key(|kind| kind.count))
    }
}

/// The figures that scripts ask for most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub workload: String,
    pub connections: usize,
    pub watchers: usize,
    pub in_flight: usize,
    pub value_bytes: usize,
    /// Measured time.
    pub seconds: f64,
    /// Operations that were acknowledged, of those meant to be sent in the measured time.
    pub operations: u64,
    pub operations_per_second: f64,
    /// Watch events of writes of the measured time.
    pub events: u64,
    pub events_per_second: f64,
    /// What CPU is divided by: `operation`, `event`, `lock`, `item` or `session`.
    pub unit: String,
    pub units: u64,
    /// CPU of all servers for each unit, in microseconds; 0 when no server was sampled.
    pub server_cpu_us: f64,
    pub server_cpu_user_us: f64,
    pub server_cpu_system_us: f64,
    /// Resident memory of all servers at the end.
    pub server_resident_bytes: u64,
    /// The generator's own CPU for each unit, in microseconds.
    pub loadgen_cpu_us: f64,
    /// `read`, `write` and `event`, each over all kinds of its class.
    pub latency_us: BTreeMap<String, Percentiles>,
    /// All servers' threads by name, the busiest first.
    pub server_threads: Vec<ThreadCpu>,
    /// How often a server answered with each error code, over all kinds and the whole run.
    pub errors: BTreeMap<String, u64>,
    /// Events that watchers should have had and have not; `None` where that cannot be known:
    /// other workloads than `watch`, and runs in which a session was disconnected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_missing: Option<i64>,
}

/// The run as it was, defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `host:port` as connected to.
    pub servers: Vec<String>,
    pub pids: Vec<u32>,
    pub workload: String,
    pub connections: usize,
    pub in_flight: usize,
    pub threads: usize,
    /// Seconds asked for; `None` when `count` was given.
    pub seconds: Option<f64>,
    pub count: Option<u64>,
    pub warm_up_seconds: f64,
    /// Operations a second of an open loop, over all connections; `None` is a closed loop.
    pub rate: Option<f64>,
    /// `even` or `poisson`.
    pub arrivals: String,
    pub value_bytes: usize,
    pub keys: u64,
    /// `uniform`, or `zipf:` and the exponent.
    pub distribution: String,
    pub directories: u64,
    pub read_percent: u8,
    pub multi_size: usize,
    pub watchers: usize,
    /// `one-shot`, `persistent` or `recursive`.
    pub watch: String,
    /// Whether a write waits for the last event of the one before.
    pub paced: bool,
    pub session_timeout_ms: i32,
    pub root: String,
    pub seed: u64,
    /// The command line, for who wants to repeat it.
    pub command: Vec<String>,
}

/// One kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KindOutcome {
    /// Acknowledged, of those meant to be sent in the measured time.
    pub count: u64,
    pub per_second: f64,
    /// Answered with an error over the whole run, by code.
    pub errors: BTreeMap<String, u64>,
    pub latency_us: Percentiles,
    /// The percentile curve, from the least to the most.
    pub curve: Vec<CurvePoint>,
}

/// Of latencies in microseconds. In an open loop they count from the intended time of sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    #[serde(rename = "p99.99")]
    pub p99_99: f64,
    pub max: f64,
    pub mean: f64,
    pub stddev: f64,
}

/// `count` operations (of all) took `value_us` at most; `percentile` is 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    pub percentile: f64,
    pub value_us: f64,
    pub count: u64,
}

/// What happened in each interval of the measured time, and of the draining after it.
///
/// An operation counts where its reply came. All lists are equally long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub interval_seconds: f64,
    /// End of each interval, in seconds since the measured time began.
    pub at_seconds: Vec<f64>,
    /// Units of [`Summary::unit`] done.
    pub rate_per_second: Vec<f64>,
    /// Latency of the unit, in microseconds; 0 where nothing was done.
    pub p50_us: Vec<f64>,
    pub p99_us: Vec<f64>,
    pub max_us: Vec<f64>,
    pub errors: Vec<u64>,
    pub disconnects: Vec<u64>,
}

/// What one server's process has used in the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerOutcome {
    /// `host:port`, or `pid N`.
    pub name: String,
    /// `None` where only `mntr` could be asked.
    pub pid: Option<u32>,
    /// Whether the figures are of the process (`proc`), of `mntr`, or there are none (`none`).
    pub source: String,
    /// The process's own name, or `mntr`'s version.
    pub program: String,
    pub cpu_user_seconds: f64,
    pub cpu_system_seconds: f64,
    /// For each unit of the whole run's work, in microseconds.
    pub cpu_us_per_unit: f64,
    pub resident_bytes: u64,
    pub resident_bytes_max: u64,
    /// What the process made the disk write.
    pub disk_write_bytes: u64,
    pub disk_write_bytes_per_unit: f64,
    pub context_switches: u64,
    pub context_switches_per_unit: f64,
    pub threads: Vec<ThreadCpu>,
    pub series: ServerSeries,
    /// What counters of `mntr` have grown by, and its gauges at the end; empty unless asked.
    pub mntr: BTreeMap<String, f64>,
}

/// Sampled at the end of each of its own intervals; all lists are equally long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSeries {
    pub at_seconds: Vec<f64>,
    /// Cores busy since the sample before: 1.0 is one whole core.
    pub cpu_user: Vec<f64>,
    pub cpu_system: Vec<f64>,
    pub resident_bytes: Vec<u64>,
    pub disk_write_bytes_per_second: Vec<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadCpu {
    pub name: String,
    /// For each unit, in microseconds.
    pub cpu_us: f64,
}

/// The generator's own cost, and whether it was the limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    pub cpu_seconds: f64,
    pub cpu_us_per_unit: f64,
    pub threads: Vec<GeneratorThread>,
    /// How late operations of an open loop were sent though a connection was free for them.
    pub send_lag_us: Percentiles,
    /// Why the generator, and not the server, may have been the limit; empty when it was not.
    pub limited_by: Vec<String>,
}

/// Shares of the measured time, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorThread {
    /// On a core.
    pub busy: f64,
    /// Ready to run while others had the core.
    pub waiting: f64,
}

/// What went wrong on the way and was ridden out, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Disturbances {
    /// Connections that were lost after they had stood.
    pub disconnects: u64,
    /// Attempts to connect that failed.
    pub connects_failed: u64,
    /// Sessions attached again after a disconnect.
    pub reattached: u64,
    /// Sessions that had expired and were replaced.
    pub sessions_expired: u64,
    /// Operations whose reply never came: they may have happened or not.
    pub in_doubt: u64,
    /// Operations of an open loop that were due and could not be sent before the run was over.
    pub never_sent: u64,
}

/// How writes spread to all watchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FanOut {
    /// Writes whose last event came.
    pub complete: u64,
    /// Writes given up on, since watchers were disconnected.
    pub incomplete: u64,
    /// From the sending of the write to the first watcher's event: the commit was before it.
    pub first_event_us: Percentiles,
    /// From the sending of the write to the last watcher's event.
    pub last_event_us: Percentiles,
    /// From the write's reply to the last watcher's event; 0 where that came first.
    pub last_event_after_reply_us: Percentiles,
}

/// The search for the highest rate whose p99 stays within a bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    pub p99_bound_us: f64,
    /// The highest rate that kept the bound; 0 when none did.
    pub rate: f64,
    /// In the order in which they were run.
    pub steps: Vec<KneeStep>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KneeStep {
    pub rate: f64,
    /// Operations a second that were done.
    pub achieved: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Whether the bound held and the rate was reached.
    pub kept: bool,
    /// Whether the generator may have been the limit.
    pub generator_limited: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_back_as_written_with_the_summary_at_the_top() {
        let mut outcome = Outcome { format: FORMAT, ..Outcome::default() };
        outcome.summary.operations = 7;
        outcome.summary.errors.insert("-110".to_owned(), 2);
        outcome.summary.latency_us.insert("read".to_owned(), Percentiles::default());
        outcome.kinds.insert("get".to_owned(), KindOutcome { count: 7, ..Default::default() });
        let text = serde_json::to_string(&outcome).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["operations"], 7);
        assert_eq!(value["latency_us"]["read"]["p99.9"], 0.0);
        assert_eq!(value["kinds"]["get"]["count"], 7);
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
    }
}
