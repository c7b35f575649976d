//! One clock for all threads of a run: nanoseconds since it began.

use std::time::{Duration, Instant};

/// Nanoseconds since the clock's start.
pub type Nanos = u64;

pub const SECOND: Nanos = 1_000_000_000;
pub const MILLISECOND: Nanos = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn now(self) -> Nanos {
        nanos(self.0.elapsed())
    }
}

/// A duration as nanoseconds, at most 584 years.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
