//! Refused connections in the log: each, as long as they are few.

use std::time::Duration;

use crate::time::Time;

/// Lines in one period; what comes beyond is counted. Whoever floods the port does not flood the
/// log.
const LINES_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);

/// How many were told of lately.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: Time,
    count: u32,
}

impl Refusals {
    /// Says that the connection from `address` was closed, and why.
    pub(super) fn warn(&mut self, address: &str, reason: &str, now: Time) {
        if self.admits(now) {
            tracing::warn!("{address} is refused at the election port: {reason}");
        }
    }

    fn admits(&mut self, now: Time) -> bool {
        if now.since(self.since) >= PERIOD {
            let silent = self.count.saturating_sub(LINES_MAX);
            if silent > 0 {
                tracing::warn!("{silent} more were refused at the election port");
            }
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_in_few_lines() {
        let mut refusals = Refusals::default();
        let start = Time::from_nanos(1_000_000_000_000);
        let told = (0..1000).filter(|_| refusals.admits(start)).count();
        assert_eq!(told, LINES_MAX as usize);
        assert!(!refusals.admits(start + PERIOD / 2));
        assert!(refusals.admits(start + PERIOD));
    }
}
