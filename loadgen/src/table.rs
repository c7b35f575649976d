//! What a run has shown, for people.

use std::fmt::{self, Write};

use crate::outcome::{Outcome, Percentiles, ServerOutcome};

/// The figures of one run as a table of a few lines.
pub fn table(outcome: &Outcome) -> String {
    let mut out = String::new();
    write_table(&mut out, outcome).expect("a string takes everything");
    out
}

fn write_table(out: &mut String, outcome: &Outcome) -> fmt::Result {
    write_head(out, outcome)?;
    writeln!(
        out,
        "{:22}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
        "latency in µs", "count", "per second", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )?;
    for (name, kind) in &outcome.kinds {
        if kind.count > 0 {
            write!(out, "{name:22}{:>11}{:>11.0}", kind.count, kind.per_second)?;
            write_percentiles(out, &kind.latency_us)?;
        }
    }
    if outcome.config.rate.is_some() {
        write!(out, "{:22}{:>11}{:>11}", "(send lag)", "", "")?;
        write_percentiles(out, &outcome.generator.send_lag_us)?;
    }
    write_cost(out, outcome)?;
    write_disturbances(out, outcome)?;
    write_knee(out, outcome)
}

fn write_head(out: &mut String, outcome: &Outcome) -> fmt::Result {
    let summary = &outcome.summary;
    write!(out, "{} · {} connections", summary.workload, summary.connections)?;
    if summary.watchers > 0 {
        write!(out, ", {} {} watchers", summary.watchers, outcome.config.watch)?;
    }
    match outcome.config.rate {
        Some(rate) => write!(out, " · open loop at {rate:.0}/s, latency from intended sending")?,
        None => write!(out, " · {} in flight each", summary.in_flight)?,
    }
    writeln!(out, " · {} bytes · {:.1} s", summary.value_bytes, summary.seconds)
}

fn write_percentiles(out: &mut String, latency: &Percentiles) -> fmt::Result {
    for value in [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.p99_99] {
        write!(out, "{value:>9.0}")?;
    }
    writeln!(out, "{:>10.0}", latency.max)
}

fn write_cost(out: &mut String, outcome: &Outcome) -> fmt::Result {
    let summary = &outcome.summary;
    let unit = &summary.unit;
    for server in &outcome.servers {
        write_server(out, server, unit)?;
    }
    if outcome.servers.len() > 1 {
        writeln!(out, "all servers: {:.2} µs CPU per {unit}", summary.server_cpu_us)?;
    }
    for thread in summary.server_threads.iter().filter(|thread| thread.cpu_us >= 0.005).take(8) {
        writeln!(out, "  {:9.2} µs  {}", thread.cpu_us, thread.name)?;
    }
    let busy = outcome.generator.threads.iter().map(|thread| format!("{:.0}", thread.busy * 100.0));
    let busy = busy.collect::<Vec<_>>().join(", ");
    let own = summary.loadgen_cpu_us;
    writeln!(out, "loadgen: {own:.2} µs CPU per {unit}; its threads were busy {busy} %")?;
    for reason in &outcome.generator.limited_by {
        writeln!(out, "LIMIT the generator may be what was measured: {reason}")?;
    }
    Ok(())
}

fn write_server(out: &mut String, server: &ServerOutcome, unit: &str) -> fmt::Result {
    let name = &server.name;
    match (&server.source[..], server.pid) {
        ("proc", Some(pid)) => {
            let (user, system) = (server.cpu_user_seconds, server.cpu_system_seconds);
            let share = user / (user + system).max(1e-9) * 100.0;
            write!(out, "{name} ({}, {pid}): ", server.program)?;
            write!(out, "{:.2} µs CPU per {unit} ({share:.0} % user), ", server.cpu_us_per_unit)?;
            write!(out, "{:.1} MiB, ", mebibytes(server.resident_bytes))?;
            write!(out, "{:.0} B to disk and ", server.disk_write_bytes_per_unit)?;
            writeln!(out, "{:.2} context switches per {unit}", server.context_switches_per_unit)
        }
        ("mntr", _) if server.cpu_user_seconds > 0.0 => {
            write!(out, "{name} (mntr): {:.2} µs CPU per {unit}, ", server.cpu_us_per_unit)?;
            writeln!(out, "{:.1} MiB", mebibytes(server.resident_bytes))
        }
        ("mntr", _) => writeln!(out, "{name} (mntr): {} counters in the JSON", server.mntr.len()),
        _ => writeln!(out, "{name}: not sampled; --pid names its process, or allow mntr there"),
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn write_disturbances(out: &mut String, outcome: &Outcome) -> fmt::Result {
    for (name, kind) in &outcome.kinds {
        for (code, count) in &kind.errors {
            writeln!(out, "ERROR {name}: {count} times {code}{}", error_name(code))?;
        }
    }
    let told = &outcome.disturbances;
    for (count, what) in [
        (told.disconnects, "connections lost"),
        (told.connects_failed, "attempts to connect failed"),
        (told.reattached, "sessions attached again"),
        (told.sessions_expired, "sessions expired"),
        (told.in_doubt, "operations without an answer"),
        (told.never_sent, "operations were due and never sent: the percentiles lack them"),
    ] {
        if count > 0 {
            writeln!(out, "DISTURBED {count} {what}")?;
        }
    }
    if let Some(fan_out) = outcome.fan_out.filter(|fan_out| fan_out.incomplete > 0) {
        writeln!(out, "DISTURBED {} writes did not reach every watcher", fan_out.incomplete)?;
    }
    match outcome.summary.events_missing {
        Some(missing) if missing != 0 => writeln!(out, "ERROR {missing} events are missing"),
        _ => Ok(()),
    }
}

fn write_knee(out: &mut String, outcome: &Outcome) -> fmt::Result {
    let Some(knee) = &outcome.knee else { return Ok(()) };
    let bound = knee.p99_bound_us / 1e3;
    writeln!(out, "{:>12}{:>12}{:>11}{:>11}", "rate", "achieved", "p50 µs", "p99 µs")?;
    for step in &knee.steps {
        write!(out, "{:>12.0}{:>12.0}", step.rate, step.achieved)?;
        write!(out, "{:>11.0}{:>11.0}", step.p50_us, step.p99_us)?;
        let limited = if step.generator_limited { " (the generator may be the limit)" } else { "" };
        writeln!(out, "  {}{limited}", if step.kept { "kept" } else { "broken" })?;
    }
    if knee.rate > 0.0 {
        writeln!(out, "KNEE {:.0} a second with p99 within {bound} ms", knee.rate)
    } else {
        writeln!(out, "KNEE no rate kept p99 within {bound} ms")
    }
}

fn error_name(code: &str) -> &'static str {
    match code {
        "-1" => " (SYSTEMERROR)",
        "-4" => " (CONNECTIONLOSS)",
        "-5" => " (MARSHALLINGERROR)",
        "-6" => " (UNIMPLEMENTED)",
        "-101" => " (NONODE)",
        "-102" => " (NOAUTH)",
        "-103" => " (BADVERSION)",
        "-110" => " (NODEEXISTS)",
        "-111" => " (NOTEMPTY)",
        "-112" => " (SESSIONEXPIRED)",
        "-125" => " (QUOTAEXCEEDED)",
        "-127" => " (THROTTLEDOP)",
        _ => "",
    }
}
