//! From a plan to what it showed: prepares the nodes, starts the threads, samples the servers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::assemble::{Performed, assemble};
use crate::clock::{MILLISECOND, Nanos, nanos};
use crate::driver::{Driver, Finished, Report};
use crate::limits;
use crate::observer::Observer;
use crate::outcome::Outcome;
use crate::plan::{End, Plan, Workload};
use crate::role::{self, Preparation, Preparer, Role};
use crate::sample::Sampler;
use crate::shared::Shared;
use crate::tally::{Slice, Tally};

/// From the last thread's readiness to the start: longer than any thread's wait.
const START_DELAY: Nanos = 30 * MILLISECOND;

/// The longest wait for the threads' reports.
const TICK: Duration = Duration::from_millis(100);

/// What the live line shows, about once for each interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Warming up, or draining, when not.
    pub measuring: bool,
    pub rate_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Since the measured time's start.
    pub errors: u64,
    pub disconnects: u64,
    /// `None` when the run ends by count.
    pub left: Option<Duration>,
}

/// Who looks on while a run goes.
#[derive(Clone, Copy, Default)]
pub struct Watching<'a> {
    /// Told of every operation.
    pub observer: Option<&'a dyn Observer>,
    /// Told how it goes.
    pub progress: Option<&'a dyn Fn(&Progress)>,
}

/// Prepares the nodes, runs the load, and gives what was seen. Errors, disconnects and restarts of
/// servers are part of the outcome; what is an error here kept the run from starting, in one
/// sentence for the user.
pub fn run(plan: &Plan, watching: Watching<'_>) -> Result<Outcome, String> {
    limits::allow_connections(plan.sessions())?;
    if watching.observer.is_some() && plan.value.len() < 8 {
        return Err("an observed run wants values of 8 bytes at least".to_owned());
    }
    prepare(plan)?;
    let shared = Shared::new(plan, watching.observer);
    let sampler = Some(Sampler::new(plan));
    let threads = plan.threads.min(plan.sessions());
    let make = |index| role::role(plan, index);
    let coordinator = Coordinator { shared: &shared, sampler, progress: watching.progress };
    let performed = coordinator.perform(threads, plan.sessions(), &make)?;
    Ok(assemble(plan, performed))
}

/// Makes what the run needs. Nodes that are there already are left.
fn prepare(plan: &Plan) -> Result<(), String> {
    let preparation = Plan {
        workload: Workload::Create,
        connections: 1,
        watchers: 0,
        threads: 1,
        end: End::Count(0),
        warm_up: Duration::ZERO,
        rate: None,
        ..plan.clone()
    };
    let shared = Shared::new(&preparation, None);
    // What is to be made follows from the plan itself.
    let make = |_| Box::new(Preparer::new(Preparation::of(plan))) as Box<dyn Role>;
    let performed =
        Coordinator { shared: &shared, sampler: None, progress: None }.perform(1, 1, &make)?;
    match performed.tally.errors.keys().next() {
        Some((_, code)) => Err(format!("{} could not be made: error {code}", plan.root)),
        None => Ok(()),
    }
}

/// The thread that starts the others and looks on.
struct Coordinator<'a> {
    shared: &'a Shared<'a>,
    sampler: Option<Sampler>,
    progress: Option<&'a dyn Fn(&Progress)>,
}

impl Coordinator<'_> {
    /// Runs `sessions` roles on `threads`; returns when all is over.
    fn perform(
        self,
        threads: usize,
        sessions: usize,
        make: &(dyn Fn(usize) -> Box<dyn Role> + Sync),
    ) -> Result<Performed, String> {
        let shared = self.shared;
        let (sender, reports) = mpsc::channel();
        let driven = (0..sessions).filter(|index| make(*index).is_driven()).count();
        thread::scope(|scope| {
            let mut handles = Vec::new();
            for thread in 0..threads {
                let sender = sender.clone();
                handles.push(scope.spawn(move || {
                    limits::sharpen_timers();
                    let indexes = (thread..sessions).step_by(threads);
                    let roles: Vec<_> = indexes.map(|index| (index, make(index))).collect();
                    let own = roles.iter().filter(|(_, role)| role.is_driven()).count();
                    let share = own as f64 / driven.max(1) as f64;
                    let stagger = thread as f64 / threads as f64;
                    match Driver::new(shared, roles, share, stagger, sender.clone()) {
                        Ok(driver) => driver.run(),
                        Err(error) => {
                            let said = format!("epoll is refused: {error}");
                            let _ = sender.send(Report::Failed(said));
                            None
                        }
                    }
                }));
            }
            drop(sender);
            let observed = self.observe(threads, &reports);
            let finished: Vec<Option<Finished>> = handles
                .into_iter()
                .map(|handle| handle.join().expect("a driver reports its errors as values"))
                .collect();
            let (slices, sampler) = observed?;
            let finished: Option<Vec<Finished>> = finished.into_iter().collect();
            Ok(gather(shared, finished.ok_or("the run was given up")?, slices, sampler))
        })
    }

    /// Listens to the threads until all are done; an error stops them.
    fn observe(
        self,
        threads: usize,
        reports: &Receiver<Report>,
    ) -> Result<(BTreeMap<u64, Slice>, Option<Sampler>), String> {
        let (shared, plan) = (self.shared, self.shared.plan);
        let mut watch = Watch {
            coordinator: self,
            threads,
            armed: 0,
            loaded: 0,
            from: Nanos::MAX,
            next_sample: Nanos::MAX,
            slices: BTreeMap::new(),
            reported: BTreeMap::new(),
        };
        loop {
            let now = shared.clock.now();
            let wait = Duration::from_nanos(watch.next_sample.saturating_sub(now)).min(TICK);
            match reports.recv_timeout(wait) {
                Ok(Report::Failed(why)) => {
                    shared.abort.store(true, Ordering::Relaxed);
                    return Err(why);
                }
                Ok(Report::Armed) => watch.armed(),
                Ok(Report::Loaded) => watch.loaded(),
                Ok(Report::Slice(slice)) => watch.slice(slice),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok((watch.slices, watch.coordinator.sampler));
                }
            }
            watch.sample(nanos(plan.interval));
        }
    }
}

/// What the coordinator knows while a run goes.
struct Watch<'a> {
    coordinator: Coordinator<'a>,
    threads: usize,
    armed: usize,
    loaded: usize,
    /// The measured time's start.
    from: Nanos,
    next_sample: Nanos,
    slices: BTreeMap<u64, Slice>,
    /// How many threads have told of each slice.
    reported: BTreeMap<u64, usize>,
}

impl Watch<'_> {
    fn armed(&mut self) {
        self.armed += 1;
        if self.armed == self.threads {
            let shared = self.coordinator.shared;
            let start = shared.clock.now() + START_DELAY;
            self.from = start + nanos(shared.plan.warm_up);
            self.next_sample = self.from;
            shared.start.store(start, Ordering::Release);
            self.tell(Progress { left: self.left(), ..Progress::default() });
        }
    }

    fn loaded(&mut self) {
        self.loaded += 1;
        if self.loaded == self.threads {
            let now = self.coordinator.shared.clock.now();
            if let Some(sampler) = &mut self.coordinator.sampler {
                sampler.end(now);
            }
            self.next_sample = Nanos::MAX;
        }
    }

    /// Samples the servers when it is time.
    fn sample(&mut self, interval: Nanos) {
        let now = self.coordinator.shared.clock.now();
        if now < self.next_sample {
            return;
        }
        let first = self.next_sample == self.from;
        if let Some(sampler) = &mut self.coordinator.sampler {
            if first { sampler.begin(now) } else { sampler.sample(now) }
        }
        self.next_sample = self.from + ((now - self.from) / interval + 1) * interval;
    }

    fn slice(&mut self, slice: Slice) {
        let index = slice.index;
        match self.slices.get_mut(&index) {
            Some(merged) => merged.merge(&slice),
            None => {
                self.slices.insert(index, slice);
            }
        }
        let reported = self.reported.entry(index).or_default();
        *reported += 1;
        if *reported == self.threads {
            let slice = &self.slices[&index];
            let interval = self.coordinator.shared.plan.interval.as_secs_f64();
            self.tell(Progress {
                measuring: self.loaded < self.threads,
                rate_per_second: slice.latencies.count() as f64 / interval,
                p50_us: slice.latencies.micros_at(0.5),
                p99_us: slice.latencies.micros_at(0.99),
                errors: self.slices.values().map(|slice| slice.errors).sum(),
                disconnects: self.slices.values().map(|slice| slice.disconnects).sum(),
                left: self.left(),
            });
        }
    }

    fn left(&self) -> Option<Duration> {
        let End::After(time) = self.coordinator.shared.plan.end else { return None };
        let end = self.from.saturating_add(nanos(time));
        Some(Duration::from_nanos(end.saturating_sub(self.coordinator.shared.clock.now())))
    }

    fn tell(&self, progress: Progress) {
        if let Some(tell) = self.coordinator.progress {
            tell(&progress);
        }
    }
}

fn gather(
    shared: &Shared<'_>,
    finished: Vec<Finished>,
    slices: BTreeMap<u64, Slice>,
    sampler: Option<Sampler>,
) -> Performed {
    let plan = shared.plan;
    let mut tally = Tally::new(plan.workload, nanos(plan.interval));
    for finished in &finished {
        tally.merge(&finished.tally);
    }
    let measured = finished.iter().map(|finished| finished.measured).max().unwrap_or(0);
    // The run's wall time of starting is that of the end less what has passed since.
    let since = shared
        .clock
        .now()
        .saturating_sub(shared.start.load(Ordering::Acquire).saturating_add(nanos(plan.warm_up)));
    let now = nanos(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
    Performed {
        tally,
        measured,
        own: finished.iter().map(|finished| finished.own).collect(),
        slices,
        sampler,
        started_unix_ms: now.saturating_sub(since) / MILLISECOND,
    }
}
