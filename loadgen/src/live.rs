//! The live line: how a run goes, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::Progress;

/// Draws nothing where standard error is no terminal.
pub struct Live(ProgressBar);

impl Live {
    pub fn new() -> Live {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is valid"));
        Live(bar)
    }

    pub fn show(&self, progress: &Progress) {
        self.0.set_message(line(progress));
    }

    pub fn end(self) {
        self.0.finish_and_clear();
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

fn line(progress: &Progress) -> String {
    let left = progress
        .left
        .map_or(String::new(), |left| format!(" · {} s left", left.as_secs_f64().round()));
    if !progress.measuring {
        return format!("warming up or draining{left}");
    }
    let troubles = match (progress.errors, progress.disconnects) {
        (0, 0) => "no errors".to_owned(),
        (errors, disconnects) => format!("{errors} errors, {disconnects} disconnects"),
    };
    let Progress { rate_per_second, p50_us, p99_us, .. } = progress;
    format!("{rate_per_second:.0}/s · p50 {p50_us:.0} µs · p99 {p99_us:.0} µs · {troubles}{left}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_line_tells_rate_latency_errors_and_time_left() {
        let progress = Progress {
            measuring: true,
            rate_per_second: 1234.4,
            p50_us: 99.6,
            p99_us: 250.0,
            errors: 2,
            disconnects: 1,
            left: Some(Duration::from_secs(7)),
        };
        let said = "1234/s · p50 100 µs · p99 250 µs · 2 errors, 1 disconnects · 7 s left";
        assert_eq!(line(&progress), said);
    }
}
