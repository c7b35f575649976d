//! One self-contained page: no script, no file beside it, light or dark as its reader likes it.
//!
//! ```text
//! format   numbers and text      plot    axes, lines, legend as SVG
//! charts   outcomes to plots     here    the page around them
//! ```

mod charts;
mod format;
mod plot;

use std::fmt::Write;

use crate::compare::comparison::{Comparison, Figure, Row};
use crate::machine::Machine;
use crate::outcome::{Outcome, Percentiles};
use charts::Side;
use format::{bytes, date, escape, micros};

pub use format::number;

const STYLE: &str = include_str!("html/style.css");

/// Threads of a server that the table of costs names.
const THREADS_MAX: usize = 8;

/// One page of several runs of one target, each with its name.
pub fn runs_page(title: &str, runs: &[(String, Outcome)], machine: &Machine) -> String {
    let mut body = head(title, "", machine);
    for (name, outcome) in runs {
        body += &format!("<h2>{}</h2>\n", escape(name));
        body += &run_sections(outcome);
    }
    page(title, &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title>\n<style>{STYLE}</style></head>\n<body><main>\n{body}</main></body>\
         </html>\n",
        escape(title)
    )
}

fn head(title: &str, line: &str, machine: &Machine) -> String {
    let line = if line.is_empty() { String::new() } else { format!("<p>{}</p>", escape(line)) };
    let machine = escape(&machine.line());
    format!("<header><h1>{}</h1>{line}<p>{machine}</p></header>\n", escape(title))
}

/// The page of one run.
pub fn run_page(outcome: &Outcome, machine: &Machine) -> String {
    let title = run_title(outcome);
    let servers = outcome.config.servers.join(", ");
    let line = format!("{} · {servers}", date(outcome.started_unix_ms));
    let body = head(&title, &line, machine) + &run_sections(outcome) + &configuration(outcome);
    page(&title, &body)
}

fn run_title(outcome: &Outcome) -> String {
    let config = &outcome.config;
    let load = match config.rate {
        Some(rate) => format!("{} a second", number(rate)),
        None => format!("{} in flight", config.in_flight),
    };
    let sessions = if config.watchers > 0 {
        format!("{} writing, {} watching", config.connections, config.watchers)
    } else {
        format!("{} connections", config.connections)
    };
    format!("{}: {sessions}, {load}", config.workload)
}

/// Everything that one run showed, from the tiles to the tables.
fn run_sections(outcome: &Outcome) -> String {
    let sides = [Side { name: "", outcome }];
    let mut out = tiles(outcome);
    for warning in &outcome.generator.limited_by {
        let what = format!("The generator may have been the limit: {}", escape(warning));
        out += &format!("<p class=\"warn\">{what}</p>\n");
    }
    out += "<div class=\"plots\">\n";
    out += &charts::knee(outcome);
    out += &charts::percentiles(&sides);
    out += &charts::latency_over_time(&sides);
    out += &charts::rate_over_time(&sides);
    out += &charts::servers(&sides);
    out += "</div>\n";
    out + "<h2>Latency</h2>\n" + &latencies(outcome) + "<h2>Cost</h2>\n" + &costs(outcome)
}

/// The figure that a unit of the workload is judged by: its kind's latency.
fn main_latency(outcome: &Outcome) -> Percentiles {
    let of = &outcome.summary.latency_us;
    let named = ["event", "write", "read"].iter().find_map(|name| of.get(*name));
    named.or(of.values().next()).copied().unwrap_or_default()
}

fn tiles(outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let latency = main_latency(outcome);
    let unit = escape(&summary.unit);
    let rate = if summary.seconds > 0.0 { summary.units as f64 / summary.seconds } else { 0.0 };
    let mut tiles = vec![
        (number(rate), format!("{unit}s a second")),
        (micros(latency.p50), "p50".to_owned()),
        (micros(latency.p99), "p99".to_owned()),
        (micros(latency.p99_9), "p99.9".to_owned()),
    ];
    if summary.server_cpu_us > 0.0 {
        tiles.push((micros(summary.server_cpu_us), format!("servers’ CPU for each {unit}")));
        tiles.push((bytes(summary.server_resident_bytes as f64), "servers’ memory".to_owned()));
    }
    let errors: u64 = summary.errors.values().sum();
    let trouble = &outcome.disturbances;
    if errors + trouble.disconnects > 0 {
        tiles.push((number(errors as f64), "error replies".to_owned()));
        tiles.push((number(trouble.disconnects as f64), "disconnects".to_owned()));
    }
    let mut out = String::from("<div class=\"tiles\">");
    for (value, name) in tiles {
        write!(out, "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>")
            .expect("a string takes everything");
    }
    out + "</div>\n"
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = head.iter().map(|name| format!("<th>{}</th>", escape(name)));
    let mut out = format!(
        "<div class=\"table\"><table><thead><tr>{}</tr></thead><tbody>\n",
        cells.collect::<String>()
    );
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        out += &format!("<tr>{cells}</tr>\n");
    }
    out + "</tbody></table></div>\n"
}

fn latencies(outcome: &Outcome) -> String {
    let row = |name: &str, count: String, of: &Percentiles| {
        let values = [of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max].map(micros);
        [vec![escape(name), count], values.to_vec()].concat()
    };
    let mut rows: Vec<Vec<String>> = outcome
        .kinds
        .iter()
        .map(|(name, kind)| row(name, number(kind.count as f64), &kind.latency_us))
        .collect();
    if let Some(fan_out) = &outcome.fan_out {
        let count = number(fan_out.complete as f64);
        rows.push(row("last event of a write", count.clone(), &fan_out.last_event_us));
        let after = &fan_out.last_event_after_reply_us;
        rows.push(row("last event after the reply", count, after));
    }
    table(&["kind", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"], &rows)
}

fn costs(outcome: &Outcome) -> String {
    let unit = &outcome.summary.unit;
    let units = outcome.summary.units.max(1) as f64;
    let mut rows = Vec::new();
    for server in &outcome.servers {
        let program = if server.program.is_empty() {
            String::new()
        } else {
            format!(" <i>{}</i>", escape(&server.program))
        };
        let each = |seconds: f64| micros(seconds * 1e6 / units);
        let switches = if server.source == "proc" {
            number(server.context_switches_per_unit)
        } else {
            "–".to_owned()
        };
        rows.push(vec![
            escape(&server.name) + &program,
            micros(server.cpu_us_per_unit),
            each(server.cpu_user_seconds),
            each(server.cpu_system_seconds),
            switches,
            bytes(server.disk_write_bytes_per_unit),
            bytes(server.resident_bytes_max as f64),
        ]);
        for thread in server.threads.iter().take(THREADS_MAX) {
            let name = format!("<i>&emsp;{}</i>", escape(&thread.name));
            let mut row = vec![name, format!("<i>{}</i>", micros(thread.cpu_us))];
            row.resize(7, String::new());
            rows.push(row);
        }
    }
    let mut own = vec!["loadgen".to_owned(), micros(outcome.generator.cpu_us_per_unit)];
    own.resize(7, String::new());
    rows.push(own);
    let cpu = format!("CPU for each {unit}");
    let head =
        ["process", &cpu, "user", "system", "context switches", "written to disk", "most memory"];
    table(&head, &rows)
}

fn configuration(outcome: &Outcome) -> String {
    let config = &outcome.config;
    let end = match (config.seconds, config.count) {
        (Some(seconds), _) => {
            format!("{} s after {} s", number(seconds), number(config.warm_up_seconds))
        }
        (None, Some(count)) => format!("{} operations", number(count as f64)),
        (None, None) => String::new(),
    };
    let load = match config.rate {
        Some(rate) => format!("open loop, {} a second, {}", number(rate), config.arrivals),
        None => format!("closed loop, {} in flight each", config.in_flight),
    };
    let errors = outcome.summary.errors.iter().map(|(code, count)| format!("{code}: {count}"));
    let errors: Vec<String> = errors.collect();
    let of = &outcome.disturbances;
    let trouble = format!(
        "{} disconnects, {} sessions expired, {} operations in doubt; errors {}",
        of.disconnects,
        of.sessions_expired,
        of.in_doubt,
        if errors.is_empty() { "none".to_owned() } else { errors.join(", ") },
    );
    let rows = [
        ("load", load),
        ("measured", end),
        ("connections", format!("{} on {} threads", config.connections, config.threads)),
        ("value", format!("{} bytes", config.value_bytes)),
        ("keys", format!("{}, {}", config.keys, config.distribution)),
        ("session timeout", format!("{} ms", config.session_timeout_ms)),
        ("disturbances", trouble),
    ];
    let mut out = String::from("<h2>Configuration</h2>\n<dl>");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        out += &format!("<dt>{name}</dt><dd>{}</dd>", escape(value));
    }
    let command = escape(&config.command.join(" "));
    out + &format!("<dt>command</dt><dd><code>{command}</code></dd></dl>\n")
}

/// The page of a comparison, both sides in each plot.
pub fn comparison_page(comparison: &Comparison) -> String {
    let [left, right] = &comparison.sides;
    let title = format!("{} and {}", left.name, right.name);
    let line = format!(
        "{} · {} rounds, sides in turn; medians, and the spread of the rounds’ ratios",
        date(comparison.started_unix_ms),
        comparison.rounds,
    );
    let mut body = head(&title, &line, &comparison.machine);
    body += &format!("<h2>How many times better {} is</h2>\n", escape(&left.name));
    body += "<div class=\"plots\">\n";
    let mut names: Vec<&str> = Vec::new();
    for figure in comparison.rows.iter().flat_map(|row| &row.figures) {
        if figure.headline && !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    for name in names {
        body += &ratio_figure(comparison, name);
    }
    body += "</div>\n<h2>Figures</h2>\n";
    body += &comparison_table(comparison);
    for row in &comparison.rows {
        body += &row_section(comparison, row);
    }
    body += "<h2>How</h2>\n<dl>";
    for side in &comparison.sides {
        let (name, how) = (escape(&side.name), escape(&side.how));
        body += &format!("<dt>{name}</dt><dd>{how}</dd>");
    }
    let command = escape(&comparison.command.join(" "));
    body += &format!("<dt>command</dt><dd><code>{command}</code></dd></dl>\n");
    page(&title, &body)
}

fn ratio_figure(comparison: &Comparison, name: &str) -> String {
    let mut rows = Vec::new();
    for row in &comparison.rows {
        for figure in row.figures.iter().filter(|figure| figure.name == name) {
            if let Some((low, middle, high)) = figure.times_better() {
                rows.push((row.name.clone(), low, middle, high));
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let svg = charts::ratios(&rows);
    format!("<figure class=\"wide\"><h3>{}</h3>\n{svg}</figure>\n", escape(&charts::capital(name)))
}

fn comparison_table(comparison: &Comparison) -> String {
    let [left, right] = &comparison.sides;
    let mut out = format!(
        "<div class=\"table\"><table><thead><tr><th></th><th></th><th>{}</th><th>{}</th>\
         <th>ratio</th><th>spread</th></tr></thead><tbody>\n",
        escape(&left.name),
        escape(&right.name),
    );
    for row in &comparison.rows {
        for (index, figure) in row.figures.iter().enumerate() {
            let name = if index == 0 { escape(&row.name) } else { String::new() };
            let (ratio, spread) = match figure.ratio {
                Some(ratio) => {
                    (number(ratio.median), format!("{} … {}", number(ratio.min), number(ratio.max)))
                }
                None => ("–".to_owned(), String::new()),
            };
            let class = match figure.times_better() {
                Some((low, _, _)) if low > 1.0 => " class=\"good\"",
                Some((_, _, high)) if high < 1.0 => " class=\"bad\"",
                _ => "",
            };
            out += &format!(
                "<tr><td>{name}</td><td class=\"name\">{}</td><td>{}</td><td>{}</td>\
                 <td{class}>{ratio}</td>\
                 <td><i>{spread}</i></td></tr>\n",
                escape(&figure.name),
                amount(figure, figure.left_median),
                amount(figure, figure.right_median),
            );
        }
    }
    out + "</tbody></table></div>\n"
}

/// A figure's value with its unit.
pub fn amount(figure: &Figure, value: f64) -> String {
    match figure.unit.as_str() {
        "us" => micros(value),
        "bytes" => bytes(value),
        _ => number(value),
    }
}

fn row_section(comparison: &Comparison, row: &Row) -> String {
    let Some(outcomes) = &row.shown else { return String::new() };
    let [left, right] = &comparison.sides;
    let sides = [
        Side { name: &left.name, outcome: &outcomes.0 },
        Side { name: &right.name, outcome: &outcomes.1 },
    ];
    let mut out = format!("<h2>{} <small>one round</small></h2>\n", escape(&row.name));
    out += "<div class=\"plots\">\n";
    out += &charts::percentiles(&sides);
    out += &charts::latency_over_time(&sides);
    out += &charts::rate_over_time(&sides);
    out += &charts::servers(&sides);
    out + "</div>\n"
}

#[cfg(test)]
mod tests;
