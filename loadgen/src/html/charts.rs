//! What an outcome shows as plots; with two sides, both in each plot.

use std::fmt::Write;

use super::format::{bytes, count_tick, escape, micros, micros_tick, number};
use super::plot::{Axis, Line, Merge, Plot, Scale};
use crate::outcome::{CurvePoint, KindOutcome, Outcome};

const WIDE: f64 = 1040.0;
const HALF: f64 = 510.0;
const THIRD: f64 = 334.0;

/// Percentiles that can be pointed at, and their names on the axis.
const NINES: [(f64, &str); 7] = [
    (0.0, "0 %"),
    (50.0, "50 %"),
    (90.0, "90 %"),
    (99.0, "99 %"),
    (99.9, "99.9 %"),
    (99.99, "99.99 %"),
    (99.999, "99.999 %"),
];

/// Colours of the kinds of one side; of two sides, each has a colour of its own.
const COLOURS: [&str; 4] = ["a", "b", "c", "d"];
const DASHED: [&str; 4] = ["a dash", "b dash", "c dash", "d dash"];

/// CPU is counted in hundredths of a second: over less than this it is mostly rounding.
const SAMPLE_SECONDS: f64 = 0.5;

/// One outcome of those that are shown together.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub name: &'a str,
    pub outcome: &'a Outcome,
}

/// A plot in the page, with its heading and legend; nothing where there is nothing to plot.
fn figure(title: &str, note: &str, plot: &Plot) -> String {
    if plot.lines.iter().all(|line| line.points.iter().all(|(_, value)| value.is_none())) {
        return String::new();
    }
    let note = if note.is_empty() { String::new() } else { format!(" <small>{note}</small>") };
    let class = if plot.width > HALF { "wide" } else { "" };
    let (svg, legend) = (plot.svg(), plot.legend());
    format!("<figure class=\"{class}\"><h3>{title}{note}</h3>\n{svg}{legend}</figure>\n")
}

/// How many nines: 0 at 0 %, 1 at 90 %, 2 at 99 %.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// Latency over the share of operations, with as much room for the last 1 % as for the first 90.
pub fn percentiles(sides: &[Side<'_>]) -> String {
    let mut lines = Vec::new();
    let mut hints = Vec::new();
    let mut last = 2.0f64;
    for (side_index, side) in sides.iter().enumerate() {
        let kinds = side.outcome.kinds.iter().filter(|(_, kind)| kind.count > 0);
        for (kind_index, (name, kind)) in kinds.take(4).enumerate() {
            let (class, dot, name) = if sides.len() == 1 {
                (COLOURS[kind_index], COLOURS[kind_index], name.clone())
            } else {
                let styles = if kind_index == 0 { COLOURS } else { DASHED };
                let name = format!("{} {name}", side.name);
                (styles[side_index % 4], COLOURS[side_index % 4], name)
            };
            let points = curve(kind);
            last = last.max(points.last().map_or(0.0, |(x, _)| *x));
            for (percentile, label) in NINES.iter().skip(1) {
                if let Some(point) = point_at(&kind.curve, *percentile) {
                    let what = format!("{name}: {label} within {}", micros(point.value_us));
                    hints.push((nines(point.percentile), point.value_us, dot, what));
                }
            }
            lines.push(Line { name, class, points, merge: Merge::Max });
        }
    }
    let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y));
    let y = Axis::log(values.collect::<Vec<_>>().into_iter(), micros_tick);
    let ticks = NINES.iter().map(|(of, label)| (nines(*of), (*label).to_owned()));
    let ticks = ticks.filter(|(at, _)| *at <= last + 0.01).collect();
    hints.retain(|(at, ..)| *at <= last + 0.001);
    let x = Axis { scale: Scale::Linear(0.0, last), ticks };
    let title = "Latency by percentile".to_owned();
    let plot = Plot { title, width: WIDE, height: 330.0, x, y, lines, marks: Vec::new(), hints };
    let note = "share of operations that took at most so long; both axes logarithmic";
    figure("Latency by percentile", note, &plot)
}

/// The curve on the axis of nines. Its last point, at 100 %, stands where one in `count` does.
fn curve(kind: &KindOutcome) -> Vec<(f64, Option<f64>)> {
    let end = (kind.count.max(2) as f64).log10();
    let place = |point: &CurvePoint| (nines(point.percentile).min(end), Some(point.value_us));
    kind.curve.iter().map(place).collect()
}

fn point_at(curve: &[CurvePoint], percentile: f64) -> Option<&CurvePoint> {
    curve.iter().find(|point| point.percentile >= percentile - 1e-9)
}

/// How much of the series is of the measured time: what drains after it is no load.
fn measured(outcome: &Outcome) -> usize {
    let end = outcome.summary.seconds * 1.001;
    let at = &outcome.series.at_seconds;
    at.iter().position(|at| *at > end).unwrap_or(at.len()).max(1).min(at.len())
}

fn end_of(sides: &[Side<'_>]) -> f64 {
    let ends = sides
        .iter()
        .filter_map(|side| side.outcome.series.at_seconds[..measured(side.outcome)].last());
    ends.fold(0.0, |end, at| end.max(*at))
}

fn seconds_axis(sides: &[Side<'_>]) -> Axis {
    Axis::span(0.0, end_of(sides), |tick| format!("{} s", count_tick(tick)))
}

/// Of a list that may be shorter than its times; 0 is "nothing was done" where `gaps` says so.
fn over_time(at: &[f64], values: &[f64], gaps: bool) -> Vec<(f64, Option<f64>)> {
    let value = |value: f64| (!gaps || value > 0.0).then_some(value);
    at.iter().zip(values).map(|(at, of)| (*at, value(*of))).collect()
}

pub fn latency_over_time(sides: &[Side<'_>]) -> String {
    let mut lines = Vec::new();
    for (index, side) in sides.iter().enumerate() {
        let series = &side.outcome.series;
        let line = |name: &str, class, values: &[f64], merge| Line {
            name: if sides.len() == 1 { name.to_owned() } else { format!("{} {name}", side.name) },
            class,
            points: over_time(&series.at_seconds[..measured(side.outcome)], values, true),
            merge,
        };
        if sides.len() == 1 {
            lines.push(line("max", "mute thin", &series.max_us, Merge::Max));
            lines.push(line("p99", "b", &series.p99_us, Merge::Max));
            lines.push(line("p50", "a", &series.p50_us, Merge::Mean));
        } else {
            lines.push(line("p99", DASHED[index % 4], &series.p99_us, Merge::Max));
            lines.push(line("p50", COLOURS[index % 4], &series.p50_us, Merge::Mean));
        }
    }
    let values: Vec<f64> =
        lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y)).collect();
    let plot = Plot {
        title: "Latency over time".to_owned(),
        width: HALF,
        height: 250.0,
        x: seconds_axis(sides),
        y: Axis::log(values.into_iter(), micros_tick),
        lines,
        marks: marks(sides),
        hints: Vec::new(),
    };
    figure("Latency over time", "logarithmic", &plot)
}

pub fn rate_over_time(sides: &[Side<'_>]) -> String {
    let line = |(index, side): (usize, &Side<'_>)| {
        let series = &side.outcome.series;
        let one = sides.len() == 1;
        Line {
            name: if one { String::new() } else { side.name.to_owned() },
            class: if one { "a area" } else { COLOURS[index % 4] },
            points: over_time(
                &series.at_seconds[..measured(side.outcome)],
                &series.rate_per_second,
                false,
            ),
            merge: Merge::Mean,
        }
    };
    let lines: Vec<Line> = sides.iter().enumerate().map(line).collect();
    let unit = sides.first().map_or("operation", |side| &side.outcome.summary.unit);
    let title = format!("{}s a second", capital(unit));
    let plot = Plot {
        title: title.clone(),
        width: HALF,
        height: 250.0,
        x: seconds_axis(sides),
        y: Axis::from_zero(highest(&lines), count_tick),
        lines,
        marks: marks(sides),
        hints: Vec::new(),
    };
    figure(&escape(&title), "", &plot)
}

fn highest(lines: &[Line]) -> f64 {
    let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y));
    values.fold(0.0, f64::max)
}

pub fn capital(text: &str) -> String {
    if text.chars().nth(1).is_none_or(|second| second.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// When errors and disconnects were seen.
fn marks(sides: &[Side<'_>]) -> Vec<(f64, String)> {
    let mut marks = Vec::new();
    for side in sides {
        let series = &side.outcome.series;
        let counts = series.errors.iter().zip(&series.disconnects);
        for (at, (errors, disconnects)) in series.at_seconds.iter().zip(counts) {
            if errors + disconnects > 0 {
                let what = format!("{at:.1} s: {errors} errors, {disconnects} disconnects");
                marks.push((*at, what));
            }
        }
    }
    marks.truncate(200);
    marks
}

/// CPU and memory of each server over time, one plot for the Nth server of every side.
pub fn servers(sides: &[Side<'_>]) -> String {
    let count = sides.iter().map(|side| side.outcome.servers.len()).max().unwrap_or(0);
    let mut out = String::new();
    for index in 0..count {
        let name = match sides {
            [side] => side.outcome.servers[index].name.clone(),
            _ => format!("server {}", index + 1),
        };
        let name = escape(&name);
        out += &figure(
            &format!("CPU of {name}"),
            "cores busy",
            &server_plot(sides, index, format!("CPU of {name}"), Measure::Cpu),
        );
        out += &figure(
            &format!("Memory of {name}"),
            "resident",
            &server_plot(sides, index, format!("Memory of {name}"), Measure::Memory),
        );
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Cpu,
    Memory,
}

fn server_plot(sides: &[Side<'_>], index: usize, title: String, measure: Measure) -> Plot {
    let mut lines = Vec::new();
    for (side_index, side) in sides.iter().enumerate() {
        let Some(server) = side.outcome.servers.get(index) else { continue };
        let series = &server.series;
        let both = series.cpu_user.iter().zip(&series.cpu_system);
        let busy: Vec<f64> = both.map(|(user, system)| user + system).collect();
        let memory: Vec<f64> = series.resident_bytes.iter().map(|bytes| *bytes as f64).collect();
        let mut line = |name: &str, class, values: &[f64]| {
            let points = smooth(&series.at_seconds, values);
            lines.push(Line { name: name.to_owned(), class, points, merge: Merge::Mean });
        };
        match (sides.len(), measure) {
            (1, Measure::Cpu) => {
                line("user and system", "a area", &busy);
                line("system alone", "b area", &series.cpu_system);
            }
            (1, Measure::Memory) => line("", "c area", &memory),
            (_, Measure::Cpu) => line(side.name, COLOURS[side_index % 4], &busy),
            (_, Measure::Memory) => line(side.name, COLOURS[side_index % 4], &memory),
        }
    }
    let high = highest(&lines);
    let y = match measure {
        Measure::Cpu => Axis::from_zero(high, count_tick),
        Measure::Memory => {
            // Round in the unit that is shown, not in bytes.
            let unit = 1024f64.powf((high.max(1.0).ln() / 1024f64.ln()).floor());
            let mut axis = Axis::from_zero(high / unit, |tick| bytes_tick(tick * unit));
            axis.scale = match axis.scale {
                Scale::Linear(low, high) => Scale::Linear(low * unit, high * unit),
                scale => scale,
            };
            axis.ticks.iter_mut().for_each(|(tick, _)| *tick *= unit);
            axis
        }
    };
    let (width, marks) = (HALF, marks(sides));
    Plot { title, width, height: 200.0, x: seconds_axis(sides), y, lines, marks, hints: vec![] }
}

/// Means over windows of [`SAMPLE_SECONDS`] at least; a shorter rest at the end is left out.
fn smooth(at: &[f64], values: &[f64]) -> Vec<(f64, Option<f64>)> {
    let (mut points, mut before, mut time, mut sum) = (Vec::new(), 0.0, 0.0, 0.0);
    for (at, value) in at.iter().zip(values) {
        let step = (at - before).max(0.0);
        (before, time, sum) = (*at, time + step, sum + value * step);
        if time > SAMPLE_SECONDS * 0.99 {
            points.push((*at, Some(sum / time)));
            (time, sum) = (0.0, 0.0);
        }
    }
    points
}

fn bytes_tick(value: f64) -> String {
    let text = bytes(value);
    let Some((amount, unit)) = text.split_once(' ') else { return text };
    let trimmed = if amount.contains('.') {
        amount.trim_end_matches('0').trim_end_matches('.')
    } else {
        amount
    };
    format!("{trimmed} {unit}")
}

/// The search for the knee: p99 over the rate.
pub fn knee(outcome: &Outcome) -> String {
    let Some(knee) = &outcome.knee else { return String::new() };
    let mut steps = knee.steps.clone();
    steps.sort_by(|left, right| left.rate.total_cmp(&right.rate));
    let line = |name: &str, class, value: fn(&crate::outcome::KneeStep) -> f64| Line {
        name: name.to_owned(),
        class,
        points: steps.iter().map(|step| (step.rate, Some(value(step)))).collect(),
        merge: Merge::Max,
    };
    let bound = knee.p99_bound_us;
    let ends = [steps.first(), steps.last()].into_iter().flatten();
    let bound_line = Line {
        name: format!("bound, {}", micros(bound)),
        class: "mute dash",
        points: ends.map(|step| (step.rate, Some(bound))).collect(),
        merge: Merge::Mean,
    };
    let lines = vec![
        bound_line,
        line("p99", "b", |step| step.p99_us),
        line("p50", "a", |step| step.p50_us),
    ];
    let hints = steps.iter().map(|step| {
        let (kept, class) = if step.kept { ("kept", "a") } else { ("broken", "b") };
        let what = format!("{}/s: p99 {}, {kept}", number(step.rate), micros(step.p99_us));
        (step.rate, step.p99_us, class, what)
    });
    let values = steps.iter().flat_map(|step| [step.p50_us, step.p99_us]).chain([bound]);
    let plot = Plot {
        title: "Latency over the rate".to_owned(),
        width: WIDE,
        height: 260.0,
        x: Axis::from_zero(steps.last().map_or(0.0, |step| step.rate), count_tick),
        y: Axis::log(values, micros_tick),
        hints: hints.collect(),
        lines,
        marks: Vec::new(),
    };
    let note = format!("the bound holds up to {} a second", number(knee.rate));
    figure("Latency over the rate", &note, &plot)
}

/// How many times better the first side is, with the rounds' spread: a row of `rows` for each
/// figure, 1 in the middle of the eye.
pub fn ratios(rows: &[(String, f64, f64, f64)]) -> String {
    let reach = rows.iter().flat_map(|(_, low, _, high)| [1.0 / low, *high]);
    let reach = reach.filter(|of| of.is_finite()).fold(2.0, f64::max) * 1.15;
    let (left, width, row) = (THIRD * 0.75, WIDE, 24.0);
    let height = rows.len() as f64 * row + 30.0;
    let at = |ratio: f64| {
        let place = (ratio.max(1e-6).ln() / reach.ln() + 1.0) / 2.0;
        left + place.clamp(0.0, 1.0) * (width - left - 90.0)
    };
    let mut out = format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Ratios\">\n\
         <path class=\"grid strong\" d=\"M{0:.1} 4V{1:.1}\"/>\n",
        at(1.0),
        height - 22.0,
    );
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];
    let steps = steps.iter().filter(|step| **step <= reach);
    for ratio in steps.flat_map(|step| [1.0 / step, *step]) {
        let label = if ratio < 1.0 {
            format!("1/{}", count_tick(1.0 / ratio))
        } else {
            format!("{}×", count_tick(ratio))
        };
        let (x, y) = (at(ratio), height - 6.0);
        writeln!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} 4V{:.1}\"/><text class=\"x\" x=\"{x:.1}\" \
             y=\"{y:.1}\">{label}</text>",
            height - 22.0,
        )
        .expect("a string takes everything");
    }
    for (index, (name, low, middle, high)) in rows.iter().enumerate() {
        let y = index as f64 * row + 18.0;
        let class = if *middle >= 1.0 { "better" } else { "worse" };
        let name = escape(name);
        writeln!(
            out,
            "<text class=\"name\" x=\"0\" y=\"{0:.1}\">{name}</text>\
             <path class=\"bar {class}\" d=\"M{1:.1} {y:.1}H{2:.1}\"/>\
             <path class=\"spread {class}\" d=\"M{3:.1} {y:.1}H{4:.1}\"/>\
             <circle class=\"dot {class}\" cx=\"{2:.1}\" cy=\"{y:.1}\" r=\"4.5\">\
             <title>{name}: {5} ({6} to {7})</title></circle>\
             <text class=\"value\" x=\"{width}\" y=\"{0:.1}\">{5}×</text>",
            y + 4.0,
            at(1.0),
            at(*middle),
            at(*low),
            at(*high),
            number(*middle),
            number(*low),
            number(*high),
        )
        .expect("a string takes everything");
    }
    out.push_str("</svg>\n");
    out
}
