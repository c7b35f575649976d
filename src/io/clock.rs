//! The one place that looks at a clock; everybody else is told the time.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Time, WallMs};

/// The start that [`Time`] counts from: the first look at the clock, the same for all threads.
static START: OnceLock<Instant> = OnceLock::new();

/// The monotonic clock (`CLOCK_MONOTONIC`): it does not jump with the wall clock, and it stands
/// still while the machine is suspended, so that a suspended machine does not expire its sessions.
#[expect(clippy::disallowed_methods, reason = "the clock is looked at here and nowhere else")]
pub fn now() -> Time {
    let instant = Instant::now();
    let since_start = instant.saturating_duration_since(*START.get_or_init(|| instant));
    Time::from_nanos(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock. Clients see it in `ctime` and `mtime`; nothing expires by it.
#[expect(clippy::disallowed_methods, reason = "the clock is looked at here and nowhere else")]
pub fn wall() -> WallMs {
    let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    WallMs(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_goes_on_and_never_back() {
        let first = now();
        let mut last = first;
        while last == first {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        let year_2020_ms = 1_577_836_800_000;
        let year_2100_ms = 4_102_444_800_000;
        assert!((year_2020_ms..year_2100_ms).contains(&wall().0));
    }
}
