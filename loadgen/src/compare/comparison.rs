//! What a comparison has shown: figures of every round, medians, and ratios with their spread.

use serde::Serialize;

use crate::machine::Machine;
use crate::outcome::{Outcome, Percentiles};

/// Raised when a field changes its meaning, not when one is added.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub format: u32,
    pub started_unix_ms: u64,
    pub command: Vec<String>,
    pub machine: Machine,
    pub rounds: usize,
    pub sides: [SideInfo; 2],
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct SideInfo {
    pub name: String,
    /// What was measured: a command, or the servers' addresses.
    pub how: String,
}

/// One workload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// As the user wrote it.
    pub name: String,
    pub figures: Vec<Figure>,
    /// What went wrong in which round, in words.
    pub troubles: Vec<String>,
    /// The outcomes of the round in the middle, for the plots.
    #[serde(skip)]
    pub shown: Option<(Outcome, Outcome)>,
}

/// One figure of both sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    /// `us`, `bytes`, `per_second` or `count`.
    pub unit: String,
    pub more_is_better: bool,
    /// Whether it stands in the chart of ratios.
    pub headline: bool,
    /// By round.
    pub left: Vec<f64>,
    pub right: Vec<f64>,
    pub left_median: f64,
    pub right_median: f64,
    /// Left to right; `None` where a side has no such figure.
    pub ratio: Option<Ratio>,
}

/// Of the rounds' own ratios, each of two runs that followed one another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figure {
    /// How many times better the left side is: least, median, most.
    pub fn times_better(&self) -> Option<(f64, f64, f64)> {
        let Ratio { median, min, max } = self.ratio?;
        Some(if self.more_is_better {
            (min, median, max)
        } else {
            (1.0 / max, 1.0 / median, 1.0 / min)
        })
    }
}

impl Row {
    /// From the rounds' outcomes, left and right of each.
    pub fn new(name: &str, rounds: &[(Outcome, Outcome)]) -> Row {
        let mut figures: Vec<Figure> = Vec::new();
        for (left, right) in rounds {
            for (kind, left, right) in pairs(left, right) {
                let at = figures.iter().position(|figure| figure.name == kind.name);
                let at = at.unwrap_or_else(|| {
                    figures.push(kind.figure());
                    figures.len() - 1
                });
                figures[at].left.push(left);
                figures[at].right.push(right);
            }
        }
        for figure in &mut figures {
            figure.left_median = median(&figure.left);
            figure.right_median = median(&figure.right);
            let ratios = figure.left.iter().zip(&figure.right).map(|(left, right)| left / right);
            let ratios: Vec<f64> = ratios.filter(|of| of.is_finite() && *of > 0.0).collect();
            let all = ratios.len() == figure.left.len() && !ratios.is_empty();
            figure.ratio = all.then(|| Ratio {
                median: median(&ratios),
                min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
                max: ratios.iter().copied().fold(0.0, f64::max),
            });
        }
        let shown = middle(rounds).cloned();
        Row { name: name.to_owned(), figures, troubles: troubles(rounds), shown }
    }
}

/// The round whose left rate is the median: the one that the plots show.
fn middle(rounds: &[(Outcome, Outcome)]) -> Option<&(Outcome, Outcome)> {
    let mut order: Vec<&(Outcome, Outcome)> = rounds.iter().collect();
    order.sort_by(|one, two| rate(&one.0).total_cmp(&rate(&two.0)));
    order.get(order.len().saturating_sub(1) / 2).copied()
}

fn left_of(round: &(Outcome, Outcome)) -> &Outcome {
    &round.0
}

fn right_of(round: &(Outcome, Outcome)) -> &Outcome {
    &round.1
}

fn troubles(rounds: &[(Outcome, Outcome)]) -> Vec<String> {
    let mut troubles = Vec::new();
    for (round, (left, right)) in rounds.iter().enumerate() {
        for (side, outcome) in [("left", left), ("right", right)] {
            let mut say =
                |what: String| troubles.push(format!("round {}, {side}: {what}", round + 1));
            for (code, count) in &outcome.summary.errors {
                say(format!("error {code}, {count} times"));
            }
            if outcome.disturbances.disconnects > 0 {
                say(format!("{} disconnects", outcome.disturbances.disconnects));
            }
            if outcome.summary.events_missing.unwrap_or(0) > 0 {
                say(format!("{} events missing", outcome.summary.events_missing.unwrap_or(0)));
            }
        }
    }
    for (side, of) in [("left", left_of as fn(&_) -> &_), ("right", right_of)] {
        let limits = rounds.iter().filter_map(|round| of(round).generator.limited_by.first());
        let limits: Vec<&String> = limits.collect();
        if let Some(first) = limits.first() {
            let (count, all) = (limits.len(), rounds.len());
            let often =
                format!("{side}: the generator may have been the limit in {count} of {all}");
            troubles.push(format!("{often} rounds: {first}"));
        }
    }
    troubles
}

/// The name of a figure, and what it is measured in.
struct FigureKind {
    name: String,
    unit: &'static str,
    more_is_better: bool,
    headline: bool,
}

impl FigureKind {
    fn figure(&self) -> Figure {
        Figure {
            name: self.name.clone(),
            unit: self.unit.to_owned(),
            more_is_better: self.more_is_better,
            headline: self.headline,
            ..Figure::default()
        }
    }
}

pub fn rate(outcome: &Outcome) -> f64 {
    let summary = &outcome.summary;
    if summary.seconds > 0.0 { summary.units as f64 / summary.seconds } else { 0.0 }
}

/// The latency of the workload's unit: of events when watching, else of writes where there are.
pub fn latency(outcome: &Outcome) -> Percentiles {
    let of = &outcome.summary.latency_us;
    let named = ["event", "write", "read"].iter().find_map(|name| of.get(*name));
    named.or(of.values().next()).copied().unwrap_or_default()
}

/// Every figure of one round.
fn pairs(left: &Outcome, right: &Outcome) -> Vec<(FigureKind, f64, f64)> {
    let kind = |name: &str, unit, more_is_better, headline| FigureKind {
        name: name.to_owned(),
        unit,
        more_is_better,
        headline,
    };
    let (a, b) = (latency(left), latency(right));
    let unit = &left.summary.unit;
    let of = |outcome: &Outcome, each: fn(&crate::outcome::ServerOutcome) -> f64| {
        outcome.servers.iter().map(each).sum::<f64>()
    };
    let mut all = vec![
        (
            kind(&format!("servers’ CPU for each {unit}"), "us", false, true),
            left.summary.server_cpu_us,
            right.summary.server_cpu_us,
        ),
        (kind(&format!("{unit}s a second"), "per_second", true, true), rate(left), rate(right)),
        (kind("p50", "us", false, true), a.p50, b.p50),
        (kind("p99", "us", false, false), a.p99, b.p99),
        (kind("p99.9", "us", false, true), a.p99_9, b.p99_9),
        (kind("max", "us", false, false), a.max, b.max),
    ];
    if let (Some(a), Some(b)) = (&left.fan_out, &right.fan_out) {
        let (a, b) = (a.last_event_us, b.last_event_us);
        all.push((kind("last event of a write, p50", "us", false, false), a.p50, b.p50));
        all.push((kind("last event of a write, p99", "us", false, false), a.p99, b.p99));
    }
    let memory = |outcome: &Outcome| outcome.summary.server_resident_bytes as f64;
    all.push((kind("servers’ memory", "bytes", false, false), memory(left), memory(right)));
    let switches = kind(&format!("context switches for each {unit}"), "count", false, false);
    let each = |server: &crate::outcome::ServerOutcome| server.context_switches_per_unit;
    all.push((switches, of(left, each), of(right, each)));
    let disk = kind(&format!("written to disk for each {unit}"), "bytes", false, false);
    let each = |server: &crate::outcome::ServerOutcome| server.disk_write_bytes_per_unit;
    all.push((disk, of(left, each), of(right, each)));
    all.retain(|(_, left, right)| *left > 0.0 || *right > 0.0);
    all
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (count, half) if count % 2 == 1 => values[half],
        (_, half) => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(units: u64, cpu_us: f64, p50: f64) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.summary.unit = "operation".to_owned();
        outcome.summary.seconds = 2.0;
        outcome.summary.units = units;
        outcome.summary.server_cpu_us = cpu_us;
        let latency = Percentiles { p50, ..Percentiles::default() };
        outcome.summary.latency_us.insert("read".to_owned(), latency);
        outcome
    }

    #[test]
    fn ratios_are_of_the_rounds_and_medians_of_the_sides() {
        let rounds = [
            (outcome(200, 2.0, 50.0), outcome(100, 8.0, 100.0)),
            (outcome(400, 4.0, 60.0), outcome(100, 8.0, 100.0)),
            (outcome(600, 2.0, 70.0), outcome(200, 10.0, 100.0)),
        ];
        let row = Row::new("get", &rounds);
        let rate = row.figures.iter().find(|of| of.name == "operations a second").unwrap();
        assert_eq!((rate.left_median, rate.right_median), (200.0, 50.0));
        assert_eq!(rate.ratio, Some(Ratio { median: 3.0, min: 2.0, max: 4.0 }));
        assert_eq!(rate.times_better(), Some((2.0, 3.0, 4.0)));
        let cpu = &row.figures[0];
        assert_eq!(cpu.ratio, Some(Ratio { median: 0.25, min: 0.2, max: 0.5 }));
        assert_eq!(cpu.times_better(), Some((2.0, 4.0, 5.0)));
        assert_eq!(row.shown.unwrap().0.summary.units, 400);
        assert!(row.figures.iter().all(|figure| figure.name != "servers’ memory"));
    }

    #[test]
    fn a_side_that_was_not_sampled_has_no_ratio() {
        let row = Row::new("get", &[(outcome(200, 2.0, 50.0), outcome(100, 0.0, 100.0))]);
        assert_eq!(row.figures[0].ratio, None);
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[1.0, 4.0]), 2.5);
    }

    #[test]
    fn errors_of_a_round_are_told() {
        let mut bad = outcome(1, 1.0, 1.0);
        bad.summary.errors.insert("-4".to_owned(), 3);
        let row = Row::new("get", &[(outcome(1, 1.0, 1.0), bad)]);
        assert_eq!(row.troubles, ["round 1, right: error -4, 3 times"]);
        let mut late = outcome(1, 1.0, 1.0);
        late.generator.limited_by.push("it was late".to_owned());
        let rounds = [(late.clone(), outcome(1, 1.0, 1.0)), (late, outcome(1, 1.0, 1.0))];
        let told = Row::new("get", &rounds).troubles;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("left: ") && told[0].contains("2 of 2 rounds: it was late"));
    }
}
