//! What a run has shown: a table for people, or one JSON object.

use std::fmt::Write;

use crate::drive::Tally;
use crate::histogram::{Latencies, QUANTILES};
use crate::plan::{Plan, WatchMode, Workload};

/// The figures of one run, with the units in their names.
pub struct Report<'a> {
    plan: &'a Plan,
    tally: &'a Tally,
    /// What CPU is divided by: events when watching, else operations.
    unit_count: u64,
}

impl<'a> Report<'a> {
    pub fn new(plan: &'a Plan, tally: &'a Tally) -> Report<'a> {
        let watching = plan.workload == Workload::Watch;
        let unit_count = if watching { tally.events.count() } else { tally.operations() };
        Report { plan, tally, unit_count }
    }

    fn name(&self) -> &'static str {
        match self.plan.workload {
            Workload::Create => "create",
            Workload::Set => "set",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Watch => "watch",
            Workload::Fill => "fill",
        }
    }

    fn latencies(&self) -> impl Iterator<Item = (&'static str, &'a Latencies)> {
        let tally = self.tally;
        [("read", &tally.reads), ("write", &tally.writes), ("event", &tally.events)]
            .into_iter()
            .filter(|(_, latencies)| latencies.count() > 0)
    }

    fn micros_each(&self, cpu_seconds: f64) -> f64 {
        if self.unit_count == 0 { 0.0 } else { cpu_seconds * 1e6 / self.unit_count as f64 }
    }

    /// Events that a watcher should have had and has not: known when each change makes one.
    pub fn events_missing(&self) -> Option<i64> {
        if self.plan.workload != Workload::Watch || self.plan.watch_mode == WatchMode::OneShot {
            return None;
        }
        let expected = self.tally.writes_all * self.plan.watchers as u64;
        Some(expected as i64 - self.tally.events_all as i64)
    }

    pub fn table(&self) -> String {
        let (plan, tally) = (self.plan, self.tally);
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(out, "{text}").expect("a string takes everything");
        };
        line(format_args!(
            "{} · {} connections, {} in flight each · {} bytes · {:.1} s",
            self.name(),
            plan.connections,
            plan.in_flight,
            plan.value.len(),
            tally.seconds
        ));
        line(format_args!(
            "{:8}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}  µs",
            "", "count", "per second", "p50", "p90", "p99", "p99.9", "max"
        ));
        for (kind, latencies) in self.latencies() {
            let count = latencies.count();
            let mut row = format!("{kind:8}{count:>12}{:>12.0}", count as f64 / tally.seconds);
            for (_, quantile) in QUANTILES {
                row.push_str(&format!("{:>10.0}", latencies.micros_at(quantile)));
            }
            line(format_args!("{row}{:>10.0}", latencies.micros_max()));
        }
        if !plan.server_pids.is_empty() {
            let cpu = tally.server_after.cpu - tally.server_before.cpu;
            line(format_args!(
                "server  {:.2} µs CPU each (user {:.2}, system {:.2}), {:.1} MiB resident",
                self.micros_each(cpu.total()),
                self.micros_each(cpu.user),
                self.micros_each(cpu.system),
                tally.server_after.resident_bytes as f64 / f64::from(1 << 20)
            ));
            for (name, used) in tally.server_after.threads_since(&tally.server_before) {
                line(format_args!("  {:8.2} µs  {name}", self.micros_each(used)));
            }
        }
        let own = self.micros_each(tally.own_cpu_seconds);
        let share = tally.own_cpu_seconds / tally.seconds * 100.0;
        line(format_args!("loadgen {own:.2} µs CPU each, {share:.0} % of a core"));
        for (error, count) in &tally.errors {
            line(format_args!("ERROR {error}: {count} times"));
        }
        if let Some(missing) = self.events_missing().filter(|missing| *missing != 0) {
            line(format_args!("ERROR {missing} events missing of {}", tally.events_all));
        }
        out
    }

    pub fn json(&self) -> String {
        let (plan, tally) = (self.plan, self.tally);
        let cpu = tally.server_after.cpu - tally.server_before.cpu;
        let mut fields = vec![
            format!("\"workload\":\"{}\"", self.name()),
            format!("\"connections\":{}", plan.connections),
            format!("\"watchers\":{}", plan.watchers),
            format!("\"in_flight\":{}", plan.in_flight),
            format!("\"value_bytes\":{}", plan.value.len()),
            format!("\"seconds\":{:.3}", tally.seconds),
            format!("\"operations\":{}", tally.operations()),
            format!("\"operations_per_second\":{:.1}", tally.operations() as f64 / tally.seconds),
            format!("\"events\":{}", tally.events.count()),
            format!("\"events_per_second\":{:.1}", tally.events.count() as f64 / tally.seconds),
            format!("\"server_cpu_us\":{:.3}", self.micros_each(cpu.total())),
            format!("\"server_cpu_user_us\":{:.3}", self.micros_each(cpu.user)),
            format!("\"server_cpu_system_us\":{:.3}", self.micros_each(cpu.system)),
            format!("\"server_resident_bytes\":{}", tally.server_after.resident_bytes),
            format!("\"loadgen_cpu_us\":{:.3}", self.micros_each(tally.own_cpu_seconds)),
        ];
        let latencies = self.latencies().map(|(kind, of)| format!("\"{kind}\":{}", quantiles(of)));
        fields.push(format!("\"latency_us\":{{{}}}", latencies.collect::<Vec<_>>().join(",")));
        let threads = tally.server_after.threads_since(&tally.server_before);
        let threads = threads.iter().map(|(name, used)| {
            format!("{{\"name\":{},\"cpu_us\":{:.3}}}", quoted(name), self.micros_each(*used))
        });
        fields.push(format!("\"server_threads\":[{}]", threads.collect::<Vec<_>>().join(",")));
        let errors = tally.errors.iter().map(|(error, count)| format!("\"{error}\":{count}"));
        fields.push(format!("\"errors\":{{{}}}", errors.collect::<Vec<_>>().join(",")));
        if let Some(missing) = self.events_missing() {
            fields.push(format!("\"events_missing\":{missing}"));
        }
        format!("{{{}}}", fields.join(","))
    }
}

fn quantiles(latencies: &Latencies) -> String {
    let mut fields: Vec<String> = QUANTILES
        .iter()
        .map(|(name, quantile)| format!("\"{name}\":{:.1}", latencies.micros_at(*quantile)))
        .collect();
    fields.push(format!("\"max\":{:.1}", latencies.micros_max()));
    format!("{{{}}}", fields.join(","))
}

/// A JSON string: a thread may be named anything.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push('?'),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_string() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c?d\"");
    }
}
