//! What a run did, as one number that two runs of a seed must share, and as lines for whoever
//! looks for the cause of a failure.

use std::collections::VecDeque;

/// Lines kept for a failure's report where the run is not printed.
const KEPT_MAX: usize = 60;

/// A run's trace.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    pub steps: u64,
    /// Whether every line is printed as it comes.
    pub is_printed: bool,
    /// The last lines, where they are kept at all.
    kept: VecDeque<String>,
}

impl Trace {
    pub fn new(is_printed: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, steps: 0, is_printed, kept: VecDeque::new() }
    }

    /// Notes a step by numbers that tell it from others.
    pub fn step(&mut self, words: [u64; 4]) {
        self.steps += 1;
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// The run so far, as a number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A line, built only where somebody reads it.
    pub fn say(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.is_printed {
            eprintln!("{:>11.6} {}", now as f64 / 1e9, without_bytes(&line()));
        }
    }

    /// A line that is kept for the report in any case: faults, roles, crashes.
    pub fn keep(&mut self, now: u64, line: String) {
        if self.is_printed {
            eprintln!("{:>11.6} {line}", now as f64 / 1e9);
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(format!("{:>11.6} {line}", now as f64 / 1e9));
    }

    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(String::as_str)
    }
}

/// The line without lists of numbers, which nobody reads.
fn without_bytes(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('[') {
        let (before, list) = rest.split_at(start);
        let end = list.find(']').map_or(list.len(), |end| end + 1);
        let is_bytes = list[..end].chars().all(|it| it.is_ascii_digit() || "[], ".contains(it));
        out += before;
        out += if is_bytes && end > 8 { "[…]" } else { &list[..end] };
        rest = &list[end..];
    }
    out + rest
}
