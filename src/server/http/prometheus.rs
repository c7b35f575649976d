//! The metrics as a page for Prometheus (text format 0.0.4): Apache's names, without a prefix.

use std::fmt::Write;

use crate::server::metrics::{self, Value};
use crate::server::report::ServerReport;
use crate::server::summary::Summary;

/// The page's content type.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The quantiles that Apache exports of a summary with percentiles.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// The page.
pub(super) fn page(report: &ServerReport) -> String {
    let mut page = String::new();
    metrics::visit(report, &mut |name, value| {
        put(&mut page, name, value).expect("a string takes all that is written");
    });
    page
}

fn put(page: &mut String, name: &str, value: Value<'_>) -> std::fmt::Result {
    let kind = match value {
        Value::Gauge(_) | Value::GaugeReal(_) => "gauge",
        Value::Counter(_) => "counter",
        Value::Basic(_) | Value::Advanced(_) => "summary",
    };
    writeln!(page, "# HELP {name} {name}\n# TYPE {name} {kind}")?;
    match value {
        Value::Gauge(value) | Value::Counter(value) => writeln!(page, "{name} {value}"),
        Value::GaugeReal(value) => writeln!(page, "{name} {value}"),
        Value::Basic(summary) => put_totals(page, name, summary),
        Value::Advanced(percentiles) => {
            for quantile in QUANTILES {
                let value = percentiles.quantile(quantile);
                writeln!(page, "{name}{{quantile=\"{quantile}\"}} {value}")?;
            }
            put_totals(page, name, &percentiles.summary)
        }
    }
}

fn put_totals(page: &mut String, name: &str, summary: &Summary) -> std::fmt::Result {
    writeln!(page, "{name}_count {}\n{name}_sum {}", summary.count, summary.sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::summary::Percentiles;

    fn put_one(name: &str, value: Value<'_>) -> String {
        let mut page = String::new();
        put(&mut page, name, value).unwrap();
        page
    }

    #[test]
    fn each_kind_has_its_lines() {
        let gauge = "# HELP watch_count watch_count\n# TYPE watch_count gauge\nwatch_count 7\n";
        assert_eq!(put_one("watch_count", Value::Gauge(7)), gauge);
        assert!(put_one("avg_latency", Value::GaugeReal(0.25)).ends_with("\navg_latency 0.25\n"));
        assert!(put_one("commit_count", Value::Counter(3)).contains("commit_count counter\n"));
        let mut summary = Summary::default();
        summary.add(4);
        summary.add(6);
        let basic = put_one("fsynctime", Value::Basic(&summary));
        assert!(basic.ends_with(" summary\nfsynctime_count 2\nfsynctime_sum 10\n"), "{basic}");
    }

    #[test]
    fn percentiles_have_apaches_quantiles() {
        let mut times = Percentiles::default();
        (1..=100).for_each(|time| times.add(time));
        let page = put_one("readlatency", Value::Advanced(&times));
        for line in ["{quantile=\"0.5\"} 50", "{quantile=\"0.9\"} 90", "{quantile=\"0.99\"} 99"] {
            assert!(page.contains(&format!("readlatency{line}\n")), "{page}");
        }
        assert!(page.ends_with("readlatency_count 100\nreadlatency_sum 5050\n"), "{page}");
    }
}
