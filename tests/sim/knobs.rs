//! What differs from run to run: drawn from the seed, or fixed by a scenario.

use crate::core::Mistakes;
use crate::random::Random;
use ringkeeper::wire::quorum::ServerId;

pub const MS: u64 = 1_000_000;

/// Mistakes that a server's shell can be told to make: each undoes the fix of a historic bug.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tampering {
    /// What is appended is reported durable at once.
    pub acks_early: bool,
    /// `acceptedEpoch` is reported saved and is not.
    pub forgets_accepted: bool,
    /// `currentEpoch` is reported saved and is not.
    pub forgets_current: bool,
    /// `currentEpoch` reaches the disk as soon as a leader is met, before the log does.
    pub epoch_before_log: bool,
    /// The log is not cut when a leader asks for it.
    pub ignores_truncation: bool,
    /// The log is not begun anew behind a snapshot that a leader sent.
    pub keeps_log_behind_snapshot: bool,
    /// An empty disk is taken for a new server's.
    pub trusts_empty: bool,
    /// What is left of a damaged log is taken for all of it.
    pub trusts_damaged: bool,
    /// A failed write is taken for a good one.
    pub retries_writes: bool,
    /// Snapshots hold what is applied, not what is committed.
    pub snapshots_applied: bool,
    /// A leader takes its own pings for their answers.
    pub answers_own_pings: bool,
    /// Learners do not say which sessions they have heard of.
    pub forgets_touches: bool,
    /// A learner passes requests on twice.
    pub forwards_twice: bool,
    pub core: Mistakes,
}

/// How often each fault strikes: the mean time between two, in milliseconds; 0 is never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub crash: u64,
    pub power_cut: u64,
    pub freeze: u64,
    pub freeze_all: u64,
    pub wipe: u64,
    pub decay: u64,
    pub epoch_decay: u64,
    pub snapshot_decay: u64,
    pub write_error: u64,
    pub partition: u64,
    pub break_conn: u64,
    pub clock_jump: u64,
    pub resign: u64,
    pub slow_disk: u64,
    pub reconfig: u64,
}

/// A run's shape.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub voters: usize,
    pub observers: usize,
    /// Members may change.
    pub is_dynamic: bool,
    /// Quorums by groups and weights.
    pub is_hierarchical: bool,
    pub clients: usize,
    pub cores: usize,
    pub tick_ms: u64,
    pub init_limit: u32,
    pub sync_limit: u32,
    pub commit_log_count: usize,
    pub session_timeout_ms: i32,
    /// One way, in nanoseconds, and what one message in twenty takes.
    pub delay: (u64, u64),
    pub delay_slow: (u64, u64),
    /// How long a core's messages from the pipeline take at most, in nanoseconds.
    pub core_lag: u64,
    /// A write of the log, in nanoseconds.
    pub disk: (u64, u64),
    pub segment_bytes: u64,
    /// The mean time between two snapshots of a server, in milliseconds.
    pub snapshot_ms: u64,
    /// The mean time between two requests of a client, in milliseconds.
    pub think_ms: u64,
    /// While faults strike clients only say that they are there.
    pub are_idle: bool,
    /// How long faults strike.
    pub chaos_ms: u64,
    /// Within this time after the healing everything works again.
    pub settle_ms: u64,
    pub faults: Faults,
    /// The counter of the last transaction that all servers begin with; 0 for empty servers.
    pub counter: u32,
    /// How often a read of the log fails, in a thousand.
    pub read_error_per_mille: u64,
    /// How fast clocks may run apart, in parts per million.
    pub drift_ppm: u64,
    /// Servers, one bit each, that acknowledge and commit each transaction by itself, as Apache's
    /// do.
    pub one_by_one: u64,
    /// Sessions begin as local ones, and reads go on without a leader.
    pub has_modes: bool,
    /// Followers serve observers.
    pub has_observer_masters: bool,
    pub tampering: Tampering,
}

impl Knobs {
    /// No faults at all: what scenarios begin with.
    pub fn quiet() -> Knobs {
        Knobs {
            voters: 3,
            observers: 0,
            is_dynamic: false,
            is_hierarchical: false,
            clients: 3,
            cores: 1,
            tick_ms: 200,
            init_limit: 10,
            sync_limit: 5,
            commit_log_count: 100,
            session_timeout_ms: 4000,
            delay: (20_000, 200_000),
            delay_slow: (200_000, 2 * MS),
            core_lag: 200_000,
            disk: (80_000, 400_000),
            segment_bytes: 256 << 10,
            snapshot_ms: 4000,
            think_ms: 20,
            are_idle: false,
            chaos_ms: 4000,
            settle_ms: 30_000,
            faults: Faults::default(),
            counter: 0,
            read_error_per_mille: 0,
            drift_ppm: 0,
            one_by_one: 0,
            has_modes: false,
            has_observer_masters: false,
            tampering: Tampering::default(),
        }
    }

    /// What the seed says.
    pub fn of_seed(seed: u64) -> Knobs {
        let mut random = Random::new(seed ^ 0x5eed_0000_0000_0000);
        let random = &mut random;
        let voters = *random.pick(&[3, 3, 3, 5]);
        let delay_max = *random.pick(&[100_000, 500_000, 5 * MS]);
        let disk_max = *random.pick(&[200_000, MS, 20 * MS]);
        let tick_ms = *random.pick(&[100, 200, 500]);
        let timeout_ticks = random.between((4, 20));
        let knobs = Knobs {
            voters,
            observers: *random.pick(&[0, 0, 0, 1, 2]),
            is_dynamic: false,
            is_hierarchical: voters == 5 && random.below(4) == 0,
            clients: random.between((2, 6)) as usize,
            cores: random.between((1, 2)) as usize,
            tick_ms,
            init_limit: random.between((5, 20)) as u32,
            sync_limit: random.between((2, 8)) as u32,
            commit_log_count: *random.pick(&[1, 5, 50, 500]),
            session_timeout_ms: (timeout_ticks * tick_ms) as i32,
            delay: (20_000, delay_max),
            delay_slow: (delay_max, delay_max * random.between((1, 20))),
            core_lag: *random.pick(&[50_000, 200_000, 10 * MS]),
            disk: (50_000, disk_max),
            segment_bytes: *random.pick(&[16 << 10, 64 << 10, 256 << 10]),
            snapshot_ms: *random.pick(&[500, 2000, 10_000]),
            think_ms: *random.pick(&[5, 20, 50]),
            are_idle: false,
            chaos_ms: random.between((3000, 8000)),
            settle_ms: 60_000,
            faults: faults(random),
            counter: if random.below(8) == 0 { u32::MAX - random.below(300) as u32 } else { 0 },
            read_error_per_mille: *random.pick(&[0, 0, 100]),
            drift_ppm: *random.pick(&[0, 100, 5000]),
            one_by_one: *random.pick(&[0, 0, 0b10, u64::MAX]),
            has_modes: random.below(4) == 0,
            has_observer_masters: seed.is_multiple_of(2),
            tampering: Tampering::default(),
        };
        match random.below(4) {
            0 => knobs.with_reconfigurations(random),
            _ => knobs,
        }
    }

    /// Whether a server offers to acknowledge and commit many transactions with one packet.
    pub fn is_cumulative(&self, server: ServerId) -> bool {
        self.one_by_one >> (server.0 % 64) & 1 == 0
    }

    /// Members change as well. What takes a server's state away is left out: whether a majority
    /// stays whole is another question for each set of members.
    fn with_reconfigurations(self, random: &mut Random) -> Knobs {
        let observers = self.observers.max(random.below(3) as usize);
        let faults = Faults {
            wipe: 0,
            decay: 0,
            epoch_decay: 0,
            snapshot_decay: 0,
            reconfig: 200 * random.between((1, 6)),
            ..self.faults
        };
        Knobs { is_dynamic: true, is_hierarchical: false, observers, faults, ..self }
    }

    pub fn servers(&self) -> usize {
        self.voters + self.observers
    }
}

/// Each kind of fault is in some runs and not in others, at its own pace.
fn faults(random: &mut Random) -> Faults {
    let mut pace = |often: u64, per_mille: u64| match random.per_mille(per_mille) {
        true => often * random.between((1, 6)),
        false => 0,
    };
    Faults {
        crash: pace(700, 500),
        power_cut: pace(700, 500),
        freeze: pace(1000, 300),
        freeze_all: pace(6000, 80),
        wipe: pace(2000, 150),
        decay: pace(1500, 200),
        epoch_decay: pace(3000, 100),
        snapshot_decay: pace(2000, 150),
        write_error: pace(2000, 150),
        partition: pace(900, 500),
        break_conn: pace(300, 500),
        clock_jump: pace(1500, 200),
        resign: pace(2000, 150),
        slow_disk: pace(1500, 200),
        reconfig: 0,
    }
}
