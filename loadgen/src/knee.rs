//! The search for the knee: the highest rate whose p99 stays within a bound.
//!
//! The rate grows by half until a step breaks, then the gap between the last that kept and the
//! first that broke is halved (in proportion) until it is below a twentieth.

use std::time::Duration;

use crate::outcome::{Knee, KneeStep, Outcome};
use crate::plan::Plan;
use crate::run::{Watching, run};

/// Where the search begins when no rate is given.
const RATE_FIRST: f64 = 1000.0;

/// A step below so many operations says nothing of a p99: the search ends there.
const OPERATIONS_MIN: f64 = 20.0;

const GROWTH: f64 = 1.5;

/// The gap at which the search ends, as a ratio.
const GAP: f64 = 1.05;

/// A step keeps its rate when it achieves this share of it.
const ACHIEVED_MIN: f64 = 0.97;

/// Replies are awaited so long after each step: one that needs longer has broken any bound.
const DRAIN: Duration = Duration::from_secs(2);

/// More steps than any search needs: 40 growths are a factor of ten million.
const STEPS_MAX: usize = 60;

/// What the search knows: the highest rate that kept and the lowest that broke.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Search {
    kept: f64,
    broken: f64,
    first: f64,
    /// Below this the search has found that nothing keeps the bound.
    least: f64,
}

impl Search {
    /// The next rate to try; `None` when the knee is known.
    fn next(&self) -> Option<f64> {
        if self.kept == 0.0 && self.broken.is_infinite() {
            Some(self.first)
        } else if self.broken.is_infinite() {
            Some(self.kept * GROWTH)
        } else if self.kept == 0.0 {
            // Not even the first rate: look far below it.
            Some(self.broken / 4.0).filter(|rate| *rate >= self.least)
        } else {
            (self.broken / self.kept > GAP).then(|| (self.kept * self.broken).sqrt())
        }
    }

    fn learn(&mut self, rate: f64, kept: bool) {
        if kept {
            self.kept = self.kept.max(rate);
        } else {
            self.broken = self.broken.min(rate);
        }
    }
}

/// Runs the plan at one rate after the other; gives the knee's own outcome, or the last one's where
/// no rate kept the bound.
pub fn find_knee(plan: &Plan, p99_ms: f64, watching: Watching<'_>) -> Result<Outcome, String> {
    let first = plan.rate.unwrap_or(RATE_FIRST);
    let seconds = plan.config().seconds.unwrap_or(1.0);
    let least = OPERATIONS_MIN / seconds;
    let mut search = Search { kept: 0.0, broken: f64::INFINITY, first, least };
    let mut knee = Knee { p99_bound_us: p99_ms * 1e3, ..Knee::default() };
    let mut best: Option<Outcome> = None;
    let mut last: Option<Outcome> = None;
    while let Some(rate) = search.next().filter(|_| knee.steps.len() < STEPS_MAX) {
        let plan =
            Plan { rate: Some(rate), drain: DRAIN, first: first_of(plan, &knee), ..plan.clone() };
        let outcome = run(&plan, watching)?;
        let step = step_of(&outcome, rate, knee.p99_bound_us);
        search.learn(rate, step.kept);
        if step.kept && rate > knee.rate {
            knee.rate = rate;
            best = Some(outcome);
        } else {
            last = Some(outcome);
        }
        knee.steps.push(step);
    }
    let mut outcome = best.or(last).expect("a search makes one step at least");
    outcome.knee = Some(knee);
    Ok(outcome)
}

/// Steps that make nodes make different ones.
fn first_of(plan: &Plan, knee: &Knee) -> u64 {
    const NODES_OF_A_STEP: u64 = 1_000_000_000;
    plan.first + knee.steps.len() as u64 * NODES_OF_A_STEP
}

fn step_of(outcome: &Outcome, rate: f64, bound_us: f64) -> KneeStep {
    let of_class = |class: &str| outcome.summary.latency_us.get(class).copied();
    let latencies: Vec<_> = ["read", "write"].into_iter().filter_map(of_class).collect();
    let most =
        |of: fn(&crate::outcome::Percentiles) -> f64| latencies.iter().map(of).fold(0.0, f64::max);
    let p99_us = most(|latency| latency.p99);
    let achieved = outcome.summary.operations_per_second;
    let all_sent = outcome.disturbances.never_sent == 0 && outcome.disturbances.in_doubt == 0;
    KneeStep {
        rate,
        achieved,
        p50_us: most(|latency| latency.p50),
        p99_us,
        kept: all_sent && p99_us <= bound_us && achieved >= rate * ACHIEVED_MIN,
        generator_limited: !outcome.generator.limited_by.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate that a search finds for a server that keeps its bound up to `capacity`.
    fn found(capacity: f64) -> (f64, usize) {
        let (broken, first) = (f64::INFINITY, RATE_FIRST);
        let mut search = Search { kept: 0.0, broken, first, least: 0.1 };
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.learn(rate, rate <= capacity);
            steps += 1;
            assert!(steps <= STEPS_MAX, "{search:?}");
        }
        (search.kept, steps)
    }

    #[test]
    fn the_knee_is_found_within_a_twentieth() {
        for capacity in [3.0, 900.0, 1000.0, 45_678.0, 3e6] {
            let (rate, steps) = found(capacity);
            assert!(rate <= capacity && rate * GAP >= capacity, "{capacity}: {rate}");
            assert!(steps < 35, "{capacity}: {steps} steps");
        }
    }
}
