//! Running figures of one quantity: how many, how much, the least, the most, and percentiles.

use hdrhistogram::Histogram;

/// Count, sum, least and most of a quantity; the unit is its owner's.
///
/// Apache's "basic" summary (`AvgMinMaxCounter`): nothing seen reads as zero everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub count: u64,
    pub sum: u64,
    min: u64,
    max: u64,
}

impl Summary {
    /// Takes one value in.
    pub fn add(&mut self, value: u64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Takes in all that `other` has seen.
    pub fn merge(&mut self, other: &Summary) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The least value seen; 0 when none was.
    pub const fn min(&self) -> u64 {
        self.min
    }

    /// The greatest value seen; 0 when none was.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The mean, rounded to four places as Apache rounds it; 0 when nothing was seen.
    pub fn average(&self) -> f64 {
        match self.count {
            0 => 0.0,
            count => (self.sum as f64 / count as f64 * 10_000.0).round() / 10_000.0,
        }
    }
}

/// A [`Summary`] that also knows percentiles: Apache's "advanced" summary.
///
/// Values are kept to two significant digits up to [`Percentiles::VALUE_MAX`], above which they
/// count as that.
#[derive(Clone, Debug)]
pub struct Percentiles {
    pub summary: Summary,
    histogram: Histogram<u64>,
}

impl Percentiles {
    /// The greatest value told apart: with milliseconds a minute, which no request survives.
    pub const VALUE_MAX: u64 = 60_000;

    /// Takes one value in.
    pub fn add(&mut self, value: u64) {
        self.summary.add(value);
        self.histogram.saturating_record(value);
    }

    /// Takes in all that `other` has seen.
    pub fn merge(&mut self, other: &Percentiles) {
        self.summary.merge(&other.summary);
        self.histogram.add(&other.histogram).expect("both histograms have the same bounds");
    }

    /// The value that `quantile` (0 to 1) of all values do not exceed; 0 when none was seen.
    pub fn quantile(&self, quantile: f64) -> u64 {
        // A bucket's upper edge may lie above every value that was seen.
        self.histogram.value_at_quantile(quantile).min(self.summary.max())
    }
}

impl Default for Percentiles {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, Self::VALUE_MAX, 2).expect("the bounds are valid");
        Percentiles { summary: Summary::default(), histogram }
    }
}

/// The last, least and greatest size of something, in bytes (`BufferStats`); `None` before the
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub seen: Option<SizesSeen>,
}

/// What [`Sizes`] has seen, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizesSeen {
    pub last: u64,
    pub min: u64,
    pub max: u64,
}

impl Sizes {
    /// Takes one size in.
    pub fn add(&mut self, size: u64) {
        self.seen = Some(match self.seen {
            None => SizesSeen { last: size, min: size, max: size },
            Some(seen) => {
                SizesSeen { last: size, min: seen.min.min(size), max: seen.max.max(size) }
            }
        });
    }

    /// Takes in what another core has seen; its last size counts as the later one.
    pub fn merge(&mut self, other: &Sizes) {
        let Some(theirs) = other.seen else { return };
        self.seen = Some(match self.seen {
            None => theirs,
            Some(ours) => SizesSeen {
                last: theirs.last,
                min: ours.min.min(theirs.min),
                max: ours.max.max(theirs.max),
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_nothing_is_zero() {
        let nothing = Summary::default();
        assert_eq!((nothing.min(), nothing.max(), nothing.average()), (0, 0, 0.0));
    }

    #[test]
    fn merged_summaries_equal_one_that_saw_everything() {
        let (mut left, mut right, mut whole) = Default::default();
        for value in [7, 3, 9] {
            Summary::add(&mut left, value);
            Summary::add(&mut whole, value);
        }
        for value in [4, 12] {
            Summary::add(&mut right, value);
            Summary::add(&mut whole, value);
        }
        left.merge(&right);
        left.merge(&Summary::default());
        assert_eq!(left, whole);
        assert_eq!((left.min(), left.max(), left.count, left.sum), (3, 12, 5, 35));
        let mut empty = Summary::default();
        empty.merge(&right);
        assert_eq!(empty, right);
    }

    #[test]
    fn average_has_four_places() {
        let mut thirds = Summary::default();
        for value in [0, 0, 1] {
            thirds.add(value);
        }
        assert_eq!(thirds.average(), 0.3333);
    }

    #[test]
    fn percentiles_saturate_and_never_exceed_the_maximum() {
        let mut values = Percentiles::default();
        for value in 0..1000 {
            values.add(value);
        }
        let median = values.quantile(0.5);
        assert!((495..=505).contains(&median), "{median}");
        assert_eq!(values.quantile(1.0), 999);
        values.add(u64::MAX);
        assert_eq!(values.summary.count, 1001);
        assert!(values.quantile(1.0) >= Percentiles::VALUE_MAX);
    }

    #[test]
    fn sizes_keep_last_least_and_greatest() {
        let mut sizes = Sizes::default();
        let mut other = Sizes::default();
        sizes.merge(&other);
        assert_eq!(sizes.seen, None);
        for size in [5, 2, 4] {
            sizes.add(size);
        }
        other.add(9);
        sizes.merge(&other);
        assert_eq!(sizes.seen, Some(SizesSeen { last: 9, min: 2, max: 9 }));
    }
}
