//! When the operations of an open loop are due, whatever the server does.
//!
//! The backlog is not stored: what is due and not yet sent is what lies between [`Schedule::due`]
//! and the present.

use crate::clock::{Nanos, SECOND};
use crate::keys::Random;
use crate::plan::Arrivals;

pub struct Schedule {
    next: Nanos,
    start: Nanos,
    /// How long after `start` the next operation is due, in nanoseconds: sums of periods that were
    /// cut to whole ones would run ahead.
    offset: f64,
    /// Operations that an even schedule has left behind, and the part of a period it begins with.
    index: u64,
    phase: f64,
    /// Between two operations, on average.
    period: f64,
    end: Nanos,
    /// Of a counted run.
    left: u64,
    poisson: Option<Random>,
}

impl Schedule {
    /// `rate` operations a second from `start` until `end`, the first after `phase` (0 to 1) of a
    /// period.
    pub fn new(rate: f64, arrivals: Arrivals, start: Nanos, end: Nanos, phase: f64) -> Schedule {
        let period = SECOND as f64 / rate;
        let offset = period * phase;
        Schedule {
            next: start + offset.round() as u64,
            start,
            offset,
            index: 0,
            phase,
            period,
            end,
            left: u64::MAX,
            poisson: (arrivals == Arrivals::Poisson)
                .then(|| Random::new(start ^ (phase * 1e9) as u64)),
        }
    }

    pub fn at_most(mut self, count: u64) -> Schedule {
        self.left = count;
        self
    }

    /// When the next operation is due; `None` when there is none any more.
    pub fn due(&self) -> Option<Nanos> {
        (self.next < self.end && self.left > 0).then_some(self.next)
    }

    /// The operation that was due is sent.
    pub fn advance(&mut self) {
        self.index += 1;
        self.left -= 1;
        self.offset = match &mut self.poisson {
            Some(random) => self.offset - random.unit().ln() * self.period,
            None => (self.index as f64 + self.phase) * self.period,
        };
        self.next = self.start.saturating_add(self.offset.round() as u64);
    }

    /// How many are due by `now` (and before the end) and were not sent; ends the schedule.
    pub fn give_up(mut self, now: Nanos) -> u64 {
        let mut count = 0;
        while self.due().is_some_and(|due| due <= now) {
            count += 1;
            self.advance();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rate: f64, arrivals: Arrivals) -> u64 {
        Schedule::new(rate, arrivals, 7, 7 + 10 * SECOND, 0.5).give_up(u64::MAX)
    }

    #[test]
    fn a_schedule_keeps_its_rate_to_the_operation() {
        for rate in [0.7, 3.0, 333.3, 70_001.0] {
            let sent = count(rate, Arrivals::Even);
            assert!((sent as f64 - rate * 10.0).abs() <= 0.5, "{rate}: {sent}");
        }
        let exact = Schedule::new(3000.0, Arrivals::Even, 7, 7 + 2 * SECOND, 0.0);
        assert_eq!(exact.give_up(u64::MAX), 6000);
    }

    #[test]
    fn independent_arrivals_spread_as_such() {
        let mut schedule = Schedule::new(1e4, Arrivals::Poisson, 1, 100 * SECOND, 0.0);
        let mut gaps = Vec::new();
        while let Some(due) = schedule.due() {
            schedule.advance();
            gaps.push(schedule.next as f64 - due as f64);
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e5 - 1.0).abs() < 0.01, "{mean}");
        assert!(
            (square.sqrt() / mean - 1.0).abs() < 0.02,
            "an exponential's deviation is its mean"
        );
    }

    #[test]
    fn a_count_ends_it() {
        let schedule = Schedule::new(1e3, Arrivals::Even, 0, u64::MAX, 0.0).at_most(5);
        assert_eq!(schedule.give_up(u64::MAX), 5);
    }
}
