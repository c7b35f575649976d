//! A plot as SVG: axes, grid, lines, a legend. Colours and fonts are the page's, by class.
//!
//! ```text
//! ┌ left ┬──────────── inner ───────────┬ right ┐
//! │ y    │ lines, areas, marks          │       │
//! │ ticks│                              │       │
//! ├──────┴──────────────────────────────┴───────┤
//! │      x ticks                                │
//! └─────────────────────────────────────────────┘
//! ```

use std::fmt::Write;

use super::format::escape;

/// Points of a line beyond which neighbours are merged: more than a screen has columns.
const POINTS_MAX: usize = 900;

const LEFT: f64 = 58.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// From values to positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Linear(f64, f64),
    /// Both ends above 0.
    Log(f64, f64),
}

impl Scale {
    /// 0 to 1 within the scale; `None` for what has no place on it.
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Scale::Linear(low, high) => (value - low) / (high - low),
            Scale::Log(low, high) => (value / low).ln() / (high / low).ln(),
        };
        place.is_finite().then_some(place)
    }
}

pub struct Axis {
    pub scale: Scale,
    /// Where a line of the grid is, and what it is called.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to a round number above `high`.
    pub fn from_zero(high: f64, label: impl Fn(f64) -> String) -> Axis {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let step = round_step(high / 4.0);
        let count = (high / step).ceil().max(1.0) as usize;
        let ticks = (0..=count).map(|index| index as f64 * step);
        Axis {
            scale: Scale::Linear(0.0, count as f64 * step),
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Exactly from `low` to `high`, with round ticks between.
    pub fn span(low: f64, high: f64, label: impl Fn(f64) -> String) -> Axis {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / 6.0);
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|index| index as f64 * step).take_while(|tick| *tick <= high);
        Axis {
            scale: Scale::Linear(low, high),
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Logarithmic over all `values` above 0, ticks at 1, 2 and 5 of each decade.
    pub fn log(values: impl Iterator<Item = f64>, label: impl Fn(f64) -> String) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high <= 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let steps: Vec<f64> = (-4..=10)
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)))
            .collect();
        let below = steps.iter().rev().find(|step| **step <= low).copied();
        let above = steps.iter().find(|step| **step >= high).copied();
        let low = below.unwrap_or(low);
        let high = above.unwrap_or(high).max(low * 2.0);
        let mut ticks: Vec<f64> =
            steps.into_iter().filter(|step| (low..=high).contains(step)).collect();
        if ticks.len() > 9 {
            ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9);
        }
        let ticks = ticks.into_iter().map(|tick| (tick, label(tick))).collect();
        Axis { scale: Scale::Log(low, high), ticks }
    }
}

/// 1, 2 or 5 times a power of ten, and at least `least`.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * decade)
}

/// How a line's points are merged when there are too many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    Mean,
    Max,
}

pub struct Line {
    pub name: String,
    /// Classes of the page's style: a colour, and `thin`, `dash` or `area`.
    pub class: &'static str,
    /// A `None` leaves a gap.
    pub points: Vec<(f64, Option<f64>)>,
    pub merge: Merge,
}

pub struct Plot {
    /// What a screen reader says.
    pub title: String,
    pub width: f64,
    pub height: f64,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    /// Moments on the x axis at which something went wrong, and what.
    pub marks: Vec<(f64, String)>,
    /// Points that say their numbers when they are pointed at.
    pub hints: Vec<(f64, f64, &'static str, String)>,
}

impl Plot {
    fn at_x(&self, value: f64) -> Option<f64> {
        let place = self.x.scale.place(value)?.clamp(-0.01, 1.01);
        Some(LEFT + place * (self.width - LEFT - RIGHT))
    }

    fn at_y(&self, value: f64) -> Option<f64> {
        let place = self.y.scale.place(value)?.clamp(-0.01, 1.01);
        Some(self.height - BOTTOM - place * (self.height - TOP - BOTTOM))
    }

    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            self.width,
            self.height,
            escape(&self.title),
        );
        self.grid(&mut out);
        for (at, what) in &self.marks {
            if let Some(x) = self.at_x(*at) {
                let (top, bottom) = (TOP, self.height - BOTTOM);
                put(
                    &mut out,
                    format_args!(
                        "<path class=\"mark\" d=\"M{x:.1} {top}V{bottom}\">\
                         <title>{}</title></path>",
                        escape(what)
                    ),
                );
            }
        }
        for line in &self.lines {
            self.line(&mut out, line);
        }
        for (x, y, class, what) in &self.hints {
            if let (Some(x), Some(y)) = (self.at_x(*x), self.at_y(*y)) {
                put(
                    &mut out,
                    format_args!(
                        "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\">\
                         <title>{}</title></circle>",
                        escape(what)
                    ),
                );
            }
        }
        out.push_str("</svg>\n");
        out
    }

    fn grid(&self, out: &mut String) {
        let (right, bottom) = (self.width - RIGHT, self.height - BOTTOM);
        let mut path = String::new();
        for (value, label) in &self.y.ticks {
            let Some(y) = self.at_y(*value) else { continue };
            write!(path, "M{LEFT} {y:.1}H{right}").expect("a string takes everything");
            put(
                out,
                format_args!(
                    "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                    LEFT - 8.0,
                    y + 4.0,
                    escape(label)
                ),
            );
        }
        for (value, label) in &self.x.ticks {
            let Some(x) = self.at_x(*value) else { continue };
            write!(path, "M{x:.1} {bottom}v5").expect("a string takes everything");
            put(
                out,
                format_args!(
                    "<text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                    bottom + 19.0,
                    escape(label)
                ),
            );
        }
        put(out, format_args!("<path class=\"grid\" d=\"{path}\"/>"));
    }

    fn line(&self, out: &mut String, line: &Line) {
        let (mut path, mut pen_down) = (String::new(), false);
        let bottom = self.height - BOTTOM;
        let mut last_x = LEFT;
        for (x, y) in merged(line) {
            let place = y.and_then(|y| Some((self.at_x(x)?, self.at_y(y)?)));
            let Some((x, y)) = place else {
                if pen_down && line.class.contains("area") {
                    write!(path, "V{bottom}Z").expect("a string takes everything");
                }
                pen_down = false;
                continue;
            };
            let step = if pen_down {
                write!(path, "L{x:.1} {y:.1}")
            } else if line.class.contains("area") {
                write!(path, "M{x:.1} {bottom}L{x:.1} {y:.1}")
            } else {
                write!(path, "M{x:.1} {y:.1}")
            };
            step.expect("a string takes everything");
            (pen_down, last_x) = (true, x);
        }
        if pen_down && line.class.contains("area") {
            write!(path, "L{last_x:.1} {bottom}Z").expect("a string takes everything");
        }
        put(out, format_args!("<path class=\"line {}\" d=\"{path}\"/>", line.class));
    }

    /// The names of the lines with their colours.
    pub fn legend(&self) -> String {
        let mut out = String::from("<p class=\"legend\">");
        for line in self.lines.iter().filter(|line| !line.name.is_empty()) {
            let (class, name) = (line.class, escape(&line.name));
            put(
                &mut out,
                format_args!(
                    "<span><svg class=\"key\" viewBox=\"0 0 22 8\"><path class=\"line {class}\" \
                     d=\"M1 4H21\"/></svg>{name}</span>"
                ),
            );
        }
        if !self.marks.is_empty() {
            out.push_str(
                "<span><svg class=\"key\" viewBox=\"0 0 22 8\"><path class=\"mark\" \
                 d=\"M11 0V8\"/></svg>errors or disconnects</span>",
            );
        }
        out.push_str("</p>\n");
        out
    }
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(out, "{what}").expect("a string takes everything");
}

/// The line's points, neighbours merged until there are not too many.
fn merged(line: &Line) -> Vec<(f64, Option<f64>)> {
    let size = line.points.len().div_ceil(POINTS_MAX).max(1);
    let merge = |points: &[(f64, Option<f64>)]| {
        let values = points.iter().filter_map(|(_, value)| *value);
        let count = values.clone().count();
        let value = match line.merge {
            Merge::Mean => values.sum::<f64>() / count as f64,
            Merge::Max => values.fold(f64::MIN, f64::max),
        };
        (points[points.len() - 1].0, (count > 0).then_some(value))
    };
    line.points.chunks(size).map(merge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        let axis = Axis::from_zero(187_000.0, |tick| tick.to_string());
        assert_eq!(axis.scale, Scale::Linear(0.0, 200_000.0));
        assert_eq!(axis.ticks.len(), 5);
        let axis = Axis::log([90.0, 45_000.0].into_iter(), |tick| tick.to_string());
        assert_eq!(axis.scale, Scale::Log(50.0, 50_000.0));
        let axis = Axis::log(std::iter::empty(), |tick| tick.to_string());
        assert_eq!(axis.scale, Scale::Log(1.0, 10.0));
        let axis = Axis::from_zero(0.0, |tick| tick.to_string());
        assert!(axis.ticks.len() > 1);
    }

    #[test]
    fn a_long_line_keeps_its_peak_and_its_gaps() {
        let mut points: Vec<(f64, Option<f64>)> =
            (0..9000).map(|index| (f64::from(index), Some(1.0))).collect();
        points[4321].1 = Some(99.0);
        points[100..200].iter_mut().for_each(|point| point.1 = None);
        let line = Line { name: String::new(), class: "", points, merge: Merge::Max };
        let short = merged(&line);
        assert!(short.len() <= POINTS_MAX);
        assert_eq!(short.iter().filter(|(_, value)| *value == Some(99.0)).count(), 1);
        assert_eq!(short.iter().filter(|(_, value)| value.is_none()).count(), 10);
    }

    #[test]
    fn what_has_no_place_on_a_log_scale_is_a_gap() {
        let plot = Plot {
            title: "a <b>".to_owned(),
            width: 400.0,
            height: 200.0,
            x: Axis::span(0.0, 3.0, |tick| tick.to_string()),
            y: Axis::log([10.0, 100.0].into_iter(), |tick| tick.to_string()),
            lines: vec![Line {
                name: "p50".to_owned(),
                class: "a",
                points: vec![(0.0, Some(10.0)), (1.0, Some(0.0)), (2.0, Some(20.0))],
                merge: Merge::Mean,
            }],
            marks: vec![(1.0, "2 disconnects".to_owned())],
            hints: Vec::new(),
        };
        let svg = plot.svg();
        assert_eq!(svg.matches("class=\"line").count(), 1);
        let path = svg.split("class=\"line a\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"));
    }
}
