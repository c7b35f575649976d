//! The metrics, by Apache's names: one list that `mntr` and the Prometheus endpoint write out.
//!
//! Only what is measured is named. What Apache counts about its own processors, queues and caches
//! has no counterpart here and is absent rather than zero; `docs/metrics.md` lists these names.
//! Gauges come first: collectd reads no further than 4 KiB into `mntr`'s answer.

use crate::server::report::{
    ClientStats, EnsembleReport, LeaderReport, LogCounters, Mode, PipelineCounters, ServerReport,
    StartupReport, WatchCounts,
};
use crate::server::stages::{Stage, StageReport};
use crate::server::summary::{Percentiles, Sizes, Summary};

/// The percentiles of an advanced summary that `mntr` gives, and what their names begin with.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];

/// A metric's value, with what it means to sum or to rate it.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A level, whole.
    Gauge(u64),
    /// A level with a fraction.
    GaugeReal(f64),
    /// A number that only grows until `srst`.
    Counter(u64),
    /// How much of something there was each time.
    Basic(&'a Summary),
    /// The same, with percentiles.
    Advanced(&'a Percentiles),
}

/// Takes one metric after another: its name without prefix, and its value.
pub type Sink<'s> = dyn FnMut(&str, Value<'_>) + 's;

/// Names every metric that `report` has a value for, gauges first.
pub fn visit(report: &ServerReport, sink: &mut Sink<'_>) {
    let stats = report.stats();
    gauges(report, &stats, sink);
    if let Some(ensemble) = &report.ensemble {
        ensemble_gauges(ensemble, sink);
    }
    client_counters(&stats, sink);
    pipeline_counters(&report.pipeline, sink);
    if let Some(ensemble) = &report.ensemble {
        ensemble_counters(ensemble, sink);
    }
    log_summaries(&report.log, sink);
    sink("snapshottime", Value::Basic(&report.pipeline.snapshot_time_ms));
    if let Some(startup) = &report.startup {
        startup_summaries(startup, sink);
    }
    if let Some(ensemble) = &report.ensemble {
        sink("election_time", Value::Basic(&ensemble.election_ms));
    }
    sink("updatelatency", Value::Advanced(&stats.update_latency_ms));
    sink("readlatency", Value::Advanced(&stats.read_latency_ms));
    own_metrics(report, &stats, sink);
    stage_metrics(&report.stages(), sink);
}

/// What `peer_state` says of a member that serves requests; `None` outside an ensemble.
pub const fn peer_state(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Leader => Some("leading - broadcast"),
        Mode::Follower => Some("following - broadcast"),
        Mode::Observer => Some("observing - broadcast"),
        Mode::Standalone | Mode::ReadOnly => None,
    }
}

/// The levels, in the order in which Apache's 3.9.5 happens to list them.
fn gauges(report: &ServerReport, stats: &ClientStats, sink: &mut Sink<'_>) {
    let WatchCounts { watches, .. } = report.watch_counts();
    sink("ephemerals_count", Value::Gauge(report.ephemerals_count as u64));
    sink("num_alive_connections", Value::Gauge(report.connections() as u64));
    sink("avg_latency", Value::GaugeReal(stats.latency_ms.average()));
    sink("outstanding_requests", Value::Gauge(report.outstanding() as u64));
    sink("znode_count", Value::Gauge(report.node_count as u64));
    sink("global_sessions", Value::Gauge(report.global_sessions as u64));
    sink("packets_sent", Value::Gauge(stats.packets_sent));
    sink("packets_received", Value::Gauge(stats.packets_received));
    sizes("client_response_size", &stats.response_sizes, sink);
    sink("watch_count", Value::Gauge(watches as u64));
    sink("auth_failed_count", Value::Gauge(stats.auth_failed));
    sink("min_latency", Value::Gauge(stats.latency_ms.min()));
    if let Some(count) = report.max_file_descriptors {
        sink("max_file_descriptor_count", Value::Gauge(count));
    }
    sink("approximate_data_size", Value::Gauge(report.approximate_data_size));
    if let Some(count) = report.open_file_descriptors {
        sink("open_file_descriptor_count", Value::Gauge(count));
    }
    sink("local_sessions", Value::Gauge(report.local_sessions as u64));
    sink("uptime", Value::Gauge(report.uptime_ms));
    sink("max_latency", Value::Gauge(stats.latency_ms.max()));
}

fn sizes(name: &str, sizes: &Sizes, sink: &mut Sink<'_>) {
    if let Some(seen) = sizes.seen {
        sink(&format!("last_{name}"), Value::Gauge(seen.last));
        sink(&format!("max_{name}"), Value::Gauge(seen.max));
        sink(&format!("min_{name}"), Value::Gauge(seen.min));
    }
}

fn ensemble_gauges(ensemble: &EnsembleReport, sink: &mut Sink<'_>) {
    sink("quorum_size", Value::Gauge(ensemble.quorum_size as u64));
    if ensemble.is_observer_master {
        sink("synced_observers", Value::Gauge(ensemble.observers.len() as u64));
    }
    if let Some(master) = ensemble.observer_master {
        sink("observer_master_id", Value::Gauge(master.cast_unsigned()));
    }
    let Some(leading) = &ensemble.leading else { return };
    sink("learners", Value::Gauge(leading.learners as u64));
    sink("synced_followers", Value::Gauge(leading.synced_followers as u64));
    let non_voting = leading.synced_non_voting_followers as u64;
    sink("synced_non_voting_followers", Value::Gauge(non_voting));
    sink("synced_observers", Value::Gauge(leading.synced_observers as u64));
    sink("pending_syncs", Value::Gauge(leading.pending_syncs as u64));
    sink("leader_uptime", Value::Gauge(leading.leading_ms));
    sizes("proposal_size", &leading.proposal_sizes, sink);
}

fn client_counters(stats: &ClientStats, sink: &mut Sink<'_>) {
    sink("watch_bytes", Value::Counter(stats.event_bytes_sent));
    sink("large_requests_rejected", Value::Counter(stats.large_requests_rejected));
    sink("request_throttle_wait_count", Value::Counter(stats.throttle_waits));
    sink("connection_rejected", Value::Counter(stats.connections_rejected));
    sink("sessionless_connections_expired", Value::Counter(stats.sessionless_expired));
    sink("connection_drop_count", Value::Counter(stats.connections_closed));
    sink("bytes_received_count", Value::Counter(stats.bytes_received));
    let response_bytes = stats.bytes_sent.saturating_sub(stats.event_bytes_sent);
    sink("response_bytes", Value::Counter(response_bytes));
    sink("connection_request_count", Value::Counter(stats.connect_requests));
}

fn pipeline_counters(pipeline: &PipelineCounters, sink: &mut Sink<'_>) {
    sink("connection_revalidate_count", Value::Counter(pipeline.connections_revalidated));
    sink("digest_mismatches_count", Value::Counter(pipeline.digest_mismatches));
    sink("snapshot_error_count", Value::Counter(pipeline.snapshot_errors));
    sink("stale_sessions_expired", Value::Counter(pipeline.sessions_expired));
}

fn ensemble_counters(ensemble: &EnsembleReport, sink: &mut Sink<'_>) {
    sink("looking_count", Value::Counter(ensemble.elections_begun));
    sink("learner_proposal_received_count", Value::Counter(ensemble.proposals_received));
    sink("learner_commit_received_count", Value::Counter(ensemble.commits_received));
    let Some(LeaderReport { proposals, commits, diffs_sent, snapshots_sent, .. }) =
        ensemble.leading
    else {
        return;
    };
    sink("proposal_count", Value::Counter(proposals));
    sink("commit_count", Value::Counter(commits));
    sink("diff_count", Value::Counter(diffs_sent));
    sink("snap_count", Value::Counter(snapshots_sent));
}

fn log_summaries(log: &LogCounters, sink: &mut Sink<'_>) {
    sink("fsynctime", Value::Basic(&log.sync_ms.summary));
    sink("sync_processor_batch_size", Value::Basic(&log.batch_txns));
}

/// A start happens once, so each of these has one value.
fn startup_summaries(startup: &StartupReport, sink: &mut Sink<'_>) {
    let StartupReport { snapshot_load_ms, txns_loaded, txns_load_ms } = *startup;
    for (name, value) in [
        ("startup_txns_load_time", txns_load_ms),
        ("startup_txns_loaded", txns_loaded),
        ("startup_snap_load_time", snapshot_load_ms),
        ("dbinittime", snapshot_load_ms + txns_load_ms),
    ] {
        let mut once = Summary::default();
        once.add(value);
        sink(name, Value::Basic(&once));
    }
}

/// What Apache has no name for.
fn own_metrics(report: &ServerReport, stats: &ClientStats, sink: &mut Sink<'_>) {
    let ServerReport { pipeline, log, .. } = report;
    for (name, count) in [
        ("connections_accepted", stats.connections_accepted),
        ("accepts_failed", stats.accepts_failed),
        ("partial_frames_expired", stats.partial_frames_expired),
        ("frames_refused", stats.frames_refused),
        ("stalls", stats.stalls),
        ("slow_readers_dropped", stats.slow_readers_dropped),
        ("clients_ahead", stats.clients_ahead),
        ("events_sent", stats.events_sent),
        ("txns", pipeline.txns),
        ("errors", pipeline.errors),
        ("refused_no_room", pipeline.refused_no_room),
        ("snapshots_taken", pipeline.snapshots_taken),
        ("log_batches", log.writes),
        ("log_bytes", log.bytes),
    ] {
        sink(&format!("ringkeeper_{name}"), Value::Counter(count));
    }
    sink("ringkeeper_log_sync_ms", Value::Advanced(&log.sync_ms));
    if let Some(millis) = report.process_cpu_ms {
        sink("ringkeeper_process_cpu_ms", Value::Gauge(millis));
    }
    if let Some(bytes) = report.resident_bytes {
        sink("ringkeeper_resident_bytes", Value::Gauge(bytes));
    }
}

fn stage_metrics(stages: &StageReport, sink: &mut Sink<'_>) {
    for stage in Stage::ALL {
        let Some(figures) = stages.figures(stage) else { continue };
        let name = stage.name();
        for (figure, value) in [
            ("p50", Value::Gauge(figures.p50)),
            ("p99", Value::Gauge(figures.p99)),
            ("p999", Value::Gauge(figures.p999)),
            ("max", Value::Gauge(figures.max)),
            ("cnt", Value::Counter(figures.count)),
        ] {
            sink(&format!("ringkeeper_stage_{name}_ns_{figure}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice_and_none_without_a_value() {
        let names = |report: &ServerReport| {
            let mut names = Vec::new();
            visit(report, &mut |name, _| names.push(name.to_owned()));
            names
        };
        let mut report = ServerReport::default();
        let bare = names(&report);
        for absent in ["quorum_size", "last_client_response_size", "dbinittime"] {
            assert!(!bare.iter().any(|name| name == absent), "{absent}");
        }
        let leading = Some(LeaderReport::default());
        report.ensemble = Some(EnsembleReport { leading, ..EnsembleReport::default() });
        report.startup = Some(StartupReport::default());
        let full = names(&report);
        let mut unique = full.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), full.len());
        assert!(full.len() > bare.len() + 12, "{} {}", full.len(), bare.len());
    }

    #[test]
    fn events_are_no_part_of_the_response_bytes() {
        let mut report = ServerReport::default();
        let mut client = crate::server::report::ClientReport::default();
        client.stats.bytes_sent = 100;
        client.stats.count_event(30);
        report.clients.push(client);
        let mut seen = Vec::new();
        visit(&report, &mut |name, value| {
            if let ("response_bytes" | "watch_bytes", Value::Counter(bytes)) = (name, value) {
                seen.push((name.to_owned(), bytes));
            }
        });
        assert_eq!(seen, [("watch_bytes".to_owned(), 30), ("response_bytes".to_owned(), 70)]);
    }
}
