//! Latencies of one kind of operation: recorded in nanoseconds, told in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Anything slower counts as this slow: a minute is past every session's patience.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// The quantiles that a report names, with the names it gives them.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Three significant digits over 1 ns to 60 s.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("the bounds are valid"))
    }

    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        self.0.saturating_record(nanos);
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Microseconds at `quantile` (0 to 1).
    pub fn micros_at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn micros_max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut latencies = Latencies::new();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros));
        }
        assert_eq!(latencies.count(), 1000);
        assert!((latencies.micros_at(0.5) - 500.0).abs() <= 0.5);
        assert!((latencies.micros_at(0.99) - 990.0).abs() <= 1.0);
        assert!((latencies.micros_max() - 1000.0).abs() <= 1.0);
    }

    #[test]
    fn a_stall_past_the_bound_is_kept_at_the_bound() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(3600));
        assert!(latencies.micros_max() >= 59e6);
    }
}
