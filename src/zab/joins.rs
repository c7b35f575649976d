//! How soon a server that cannot be brought into step tries again.
//!
//! Elections go wrong once and are repeated at once. What fails again and again under the same
//! leader has a reason that lasts (this server's disk is full, the leader's stream cannot be read),
//! and each attempt may cost the leader a snapshot.

use std::time::Duration;

use crate::wire::quorum::ServerId;

/// The pause before the second repetition; it doubles up to a tick.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// After so many failures it is told that there is a reason that lasts.
const TOLD_AFTER: u32 = 3;

/// The attempts to join a leader that have failed one after the other.
#[derive(Debug)]
pub(super) struct Joins {
    leader: Option<ServerId>,
    failures: u32,
    random: u64,
}

impl Joins {
    /// None have. `seed` spreads the pauses of an ensemble's servers.
    pub fn new(seed: u64) -> Joins {
        Joins { leader: None, failures: 0, random: seed }
    }

    /// A leader that was reached has not brought this server into step.
    pub fn handle_failed(&mut self, leader: ServerId, reason: &str) {
        if self.leader != Some(leader) {
            (self.leader, self.failures) = (Some(leader), 0);
        }
        self.failures += 1;
        if self.failures == TOLD_AFTER {
            tracing::error!(
                "server {leader} leads, and {TOLD_AFTER} times this server was not brought into \
                 step, at last since {reason}: it goes on trying, with pauses of up to a tick"
            );
        }
    }

    /// This server was in step.
    pub fn handle_joined(&mut self) {
        if self.failures >= TOLD_AFTER {
            tracing::warn!(failures = self.failures, "was in step again");
        }
        (self.leader, self.failures) = (None, 0);
    }

    /// How long to wait before `leader` is dialled: between half of the pause and all of it.
    pub fn pause(&mut self, leader: ServerId, tick: Duration) -> Duration {
        let repeated = match self.leader == Some(leader) {
            true => self.failures.saturating_sub(1),
            false => 0,
        };
        let Some(doubled) = repeated.checked_sub(1) else { return Duration::ZERO };
        let pause = PAUSE_MIN.saturating_mul(1 << doubled.min(16)).min(tick.max(PAUSE_MIN));
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let half = pause.as_nanos() as u64 / 2;
        Duration::from_nanos(half + self.random % (half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(2);
    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);

    fn failed(joins: &mut Joins, leader: ServerId, count: u32) -> Duration {
        (0..count).for_each(|_| joins.handle_failed(leader, "of a test"));
        joins.pause(leader, TICK)
    }

    #[test]
    fn pauses_grow_to_a_tick_and_are_spread() {
        let mut joins = Joins::new(7);
        assert_eq!(joins.pause(A, TICK), Duration::ZERO);
        assert_eq!(failed(&mut joins, A, 1), Duration::ZERO, "an election may go wrong");
        for pause_ms in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = Duration::from_millis(pause_ms);
            let given = failed(&mut joins, A, 1);
            assert!(given >= pause / 2 && given <= pause, "{given:?}, not {pause:?}");
        }
        let spread: Vec<Duration> = (0..8).map(|_| joins.pause(A, TICK)).collect();
        assert!(spread.iter().any(|pause| *pause != spread[0]));
        assert!(failed(&mut joins, A, u32::from(u16::MAX)) <= TICK);
    }

    #[test]
    fn another_leader_or_success_ends_them() {
        let mut joins = Joins::new(7);
        assert!(failed(&mut joins, A, 3) > Duration::ZERO);
        assert_eq!(joins.pause(B, TICK), Duration::ZERO);
        assert_eq!(failed(&mut joins, B, 1), Duration::ZERO);
        assert!(failed(&mut joins, B, 1) > Duration::ZERO);
        joins.handle_joined();
        assert_eq!(joins.pause(B, TICK), Duration::ZERO);
    }
}
