//! The percentile curve in the text form of HdrHistogram's tools (`.hgrm`), values in microseconds.

use std::fmt::{self, Write};

use crate::outcome::KindOutcome;

/// One kind's curve.
pub fn hgrm(kind: &KindOutcome) -> String {
    let mut out = String::new();
    write_curve(&mut out, kind).expect("a string takes everything");
    out
}

fn write_curve(out: &mut String, kind: &KindOutcome) -> fmt::Result {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    for point in &kind.curve {
        let share = point.percentile / 100.0;
        write!(out, "{:12.3} {share:14.12} {:10}", point.value_us, point.count)?;
        if share < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - share))?;
        }
        writeln!(out)?;
    }
    let latency = &kind.latency_us;
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", latency.mean, latency.stddev)?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", latency.max, kind.count)?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", BUCKETS, SUB_BUCKETS)
}

/// Of [`crate::histogram::Latencies::fine`]: three digits need 2048 steps, 60 s 26 doublings.
const BUCKETS: u32 = 26;
const SUB_BUCKETS: u32 = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Latencies;

    #[test]
    fn a_curve_ends_at_the_maximum_with_the_whole_count() {
        let mut latencies = Latencies::fine();
        (1..=1000).for_each(|micros| latencies.record(micros * 1000));
        let kind = KindOutcome {
            count: latencies.count(),
            latency_us: latencies.percentiles(),
            curve: latencies.curve(),
            ..KindOutcome::default()
        };
        let text = hgrm(&kind);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
            .collect();
        let last = rows.last().unwrap();
        assert!((last[0] - 1000.0).abs() < 1.0 && last[1] == 1.0 && last[2] == 1000.0, "{last:?}");
        assert_eq!(last.len(), 3);
        let half = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((half[0] - 500.0).abs() < 1.0 && (half[3] - 2.0).abs() < 1e-9, "{half:?}");
    }
}
