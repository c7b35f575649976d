//! Latencies: recorded in nanoseconds, told in microseconds.

use hdrhistogram::Histogram;

use crate::clock::Nanos;
use crate::outcome::{CurvePoint, Percentiles};

/// Anything slower counts as this slow: a minute is past every session's patience.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Points of the curve between one halving of the distance to 100 % and the next, as in
/// HdrHistogram's own logs.
const TICKS_PER_HALF: u32 = 5;

/// Over 1 ns to 60 s.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Three significant digits: for what is told at the end (220 KiB).
    pub fn fine() -> Latencies {
        Latencies(Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("the bounds are valid"))
    }

    /// Two digits: for one interval of a time series (34 KiB).
    pub fn coarse() -> Latencies {
        Latencies(Histogram::new_with_max(LATENCY_NS_MAX, 2).expect("the bounds are valid"))
    }

    pub fn record(&mut self, latency: Nanos) {
        self.0.saturating_record(latency);
    }

    /// Adds all of `other`, which may be of the other precision.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms reach equally far");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Microseconds at `quantile` (0 to 1); 0 when nothing was recorded.
    pub fn micros_at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn percentiles(&self) -> Percentiles {
        if self.count() == 0 {
            return Percentiles::default();
        }
        Percentiles {
            p50: self.micros_at(0.5),
            p90: self.micros_at(0.9),
            p99: self.micros_at(0.99),
            p99_9: self.micros_at(0.999),
            p99_99: self.micros_at(0.9999),
            max: self.0.max() as f64 / 1e3,
            mean: self.0.mean() / 1e3,
            stddev: self.0.stdev() / 1e3,
        }
    }

    pub fn max_micros(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    pub fn curve(&self) -> Vec<CurvePoint> {
        let mut count = 0;
        let points = self.0.iter_quantiles(TICKS_PER_HALF).map(|step| {
            count += step.count_since_last_iteration();
            CurvePoint {
                percentile: step.quantile_iterated_to() * 100.0,
                value_us: step.value_iterated_to() as f64 / 1e3,
                count,
            }
        });
        points.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut latencies = Latencies::fine();
        for micros in 1..=1000 {
            latencies.record(micros * 1000);
        }
        assert_eq!(latencies.count(), 1000);
        let told = latencies.percentiles();
        for (value, due) in [(told.p50, 500.0), (told.p99, 990.0), (told.max, 1000.0)] {
            assert!((value / due - 1.0f64).abs() <= 0.002, "{value} not {due}");
        }
        let curve = latencies.curve();
        let last = curve.last().unwrap();
        assert_eq!((last.percentile, last.count), (100.0, 1000));
        assert!(curve.is_sorted_by(|a, b| a.value_us <= b.value_us && a.count <= b.count));
    }

    #[test]
    fn a_stall_past_the_bound_is_kept_at_the_bound() {
        let mut latencies = Latencies::fine();
        latencies.record(3_600_000_000_000);
        assert!(latencies.percentiles().max >= 59e6);
    }

    #[test]
    fn both_precisions_add_up() {
        let (mut fine, mut coarse) = (Latencies::fine(), Latencies::coarse());
        coarse.record(123_456_789);
        fine.merge(&coarse);
        assert!((fine.micros_at(0.5) / 123_456.789 - 1.0).abs() < 0.02);
    }
}
