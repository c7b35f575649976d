use super::*;
use crate::compare::comparison::{FORMAT, SideInfo};
use crate::outcome::{CurvePoint, KindOutcome, ServerOutcome, ThreadCpu};

/// A run with a shape: latencies rise towards the end, one second is lost, one server is sampled.
pub fn sample(base_us: f64, cores: f64) -> Outcome {
    let mut outcome = Outcome { started_unix_ms: 1_795_351_980_000, ..Outcome::default() };
    let latency = Percentiles {
        p50: base_us,
        p90: base_us * 1.4,
        p99: base_us * 3.0,
        p99_9: base_us * 9.0,
        p99_99: base_us * 20.0,
        max: base_us * 40.0,
        mean: base_us * 1.1,
        stddev: base_us,
    };
    let curve = |index: u32| {
        let nines = f64::from(index) / 20.0;
        let percentile = if index == 100 { 100.0 } else { 100.0 * (1.0 - 10f64.powf(-nines)) };
        let value_us = base_us * (0.6 + nines.powf(1.8) / 2.0 + nines * 0.3);
        CurvePoint { percentile, value_us, count: 100_000 }
    };
    let kind = KindOutcome {
        count: 100_000,
        per_second: 10_000.0,
        latency_us: latency,
        curve: (0..=100).map(curve).collect(),
        ..KindOutcome::default()
    };
    outcome.kinds.insert("set".to_owned(), kind);
    outcome.summary.latency_us.insert("write".to_owned(), latency);
    outcome.summary.workload = "set".to_owned();
    outcome.summary.unit = "operation".to_owned();
    outcome.summary.units = 100_000;
    outcome.summary.seconds = 10.0;
    outcome.summary.server_cpu_us = cores * 100.0;
    outcome.summary.server_resident_bytes = 200 << 20;
    outcome.config.workload = "set".to_owned();
    outcome.config.command = vec!["loadgen".to_owned(), "set".to_owned(), "<x>".to_owned()];
    let mut server = ServerOutcome {
        name: "127.0.0.1:2181".to_owned(),
        source: "proc".to_owned(),
        program: "ringkeeper".to_owned(),
        cpu_us_per_unit: cores * 100.0,
        threads: vec![ThreadCpu { name: "core-<0>".to_owned(), cpu_us: 3.0 }],
        ..ServerOutcome::default()
    };
    for step in 1..=100u32 {
        let at = f64::from(step) / 10.0;
        let wave = 1.0 + (at * 1.7).sin() * 0.12;
        let lost = (40..50).contains(&step);
        let series = &mut outcome.series;
        series.at_seconds.push(at);
        series.rate_per_second.push(if lost { 0.0 } else { 10_000.0 * wave });
        series.p50_us.push(if lost { 0.0 } else { base_us / wave });
        series.p99_us.push(if lost { 0.0 } else { base_us * 3.0 / wave });
        series.max_us.push(if lost { 0.0 } else { base_us * 20.0 / wave / wave });
        series.errors.push(0);
        series.disconnects.push(u64::from(step == 40) * 32);
        server.series.at_seconds.push(at);
        server.series.cpu_user.push(cores * 0.4 * wave);
        server.series.cpu_system.push(cores * 0.6 * wave);
        server.series.resident_bytes.push((180 << 20) + (u64::from(step) << 18));
    }
    outcome.servers.push(server);
    outcome
}

/// Asserts what holds for every page: whole, self-contained, and without a number that is none.
fn check(page: &str) {
    for bad in ["<script", "NaN", "inf ", "src=", "href=", "url(", "<x>", "core-<0>"] {
        assert!(!page.contains(bad), "{bad}");
    }
    for (open, close) in [("<svg", "</svg>"), ("<figure", "</figure>"), ("<table", "</table>")] {
        assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
    }
    assert!(page.ends_with("</html>\n") && page.contains("prefers-color-scheme:dark"));
}

#[test]
fn a_runs_page_has_its_plots_and_tables() {
    let page = run_page(&sample(200.0, 0.8), &Machine::here());
    check(&page);
    for part in [
        "Latency by percentile",
        "Latency over time",
        "Operations a second",
        "CPU of 127.0.0.1:2181",
        "Memory of 127.0.0.1:2181",
        "32 disconnects",
        "&lt;x&gt;",
        "10,000",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.len() < 100_000, "{} bytes", page.len());
}

#[test]
fn a_run_in_which_nothing_happened_has_a_page() {
    check(&run_page(&Outcome::default(), &Machine::default()));
}

#[test]
fn a_comparisons_page_overlays_both_sides() {
    let rounds = [
        (sample(200.0, 0.2), sample(700.0, 0.9)),
        (sample(210.0, 0.25), sample(800.0, 0.9)),
        (sample(190.0, 0.2), sample(650.0, 0.8)),
    ];
    let side = |name: &str| SideInfo { name: name.to_owned(), how: "a command".to_owned() };
    let comparison = Comparison {
        format: FORMAT,
        started_unix_ms: 1_795_351_980_000,
        command: vec!["loadgen".to_owned(), "compare".to_owned()],
        machine: Machine::here(),
        rounds: 3,
        sides: [side("ringkeeper"), side("apache")],
        rows: vec![Row::new("set", &rounds), Row::new("set -i <16>", &rounds)],
    };
    let page = comparison_page(&comparison);
    check(&page);
    assert!(page.contains("How many times better ringkeeper is"));
    assert!(page.contains("set -i &lt;16&gt;") && page.contains("apache p99"));
    assert!(page.len() < 200_000, "{} bytes", page.len());
    if let Ok(folder) = std::env::var("LOADGEN_PAGES") {
        std::fs::write(format!("{folder}/comparison.html"), &page).unwrap();
        let page = run_page(&sample(200.0, 0.8), &Machine::here());
        std::fs::write(format!("{folder}/run.html"), &page).unwrap();
    }
}
