//! The generator's figures, held against a server that knows what it did.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ringkeeper_loadgen::cli::RunFlags;
use ringkeeper_loadgen::fake::{Behaviour, Fake, Seen};
use ringkeeper_loadgen::observer::{Acknowledgement, Observer, Operation};
use ringkeeper_loadgen::outcome::Outcome;
use ringkeeper_loadgen::plan::{Plan, Target, Workload};
use ringkeeper_loadgen::run::{Watching, run};

/// Runs `words` against a server of this behaviour; gives what each saw.
fn against(behaviour: Behaviour, words: &str) -> (Outcome, Seen) {
    observed(behaviour, words, None)
}

fn observed(behaviour: Behaviour, words: &str, observer: Option<&dyn Observer>) -> (Outcome, Seen) {
    let fake = Fake::start(Behaviour { value_bytes: 100, ..behaviour }).unwrap();
    let target = Target { name: fake.address.to_string(), address: fake.address };
    let words: Vec<&str> = ["loadgen"].into_iter().chain(words.split(' ')).collect();
    let workload = if words[1] == "set" { Workload::Set } else { Workload::Get };
    let plan = RunFlags::of(&words).and_then(|flags| flags.plan(workload)).unwrap();
    let watching = Watching { observer, progress: None };
    let outcome = run(&Plan { servers: vec![target], ..plan }, watching).unwrap();
    (outcome, fake.stop().unwrap())
}

fn check_near(what: &str, value: f64, due: f64, tolerance: f64) {
    assert!((value / due - 1.0).abs() <= tolerance, "{what}: {value} not {due} (± {tolerance})");
}

/// The server says how long it held each reply back: 5 % is what the two may differ by, and the
/// way there and back is in that.
#[test]
fn latency_is_what_the_server_took() {
    let behaviour = Behaviour { delay: Duration::from_millis(150), ..Behaviour::default() };
    let words = "get --connections 40 --seconds 2 --warm-up 0 --threads 2";
    let (outcome, seen) = against(behaviour, words);
    let (ours, theirs) = (outcome.kinds["get"].latency_us, seen.held.percentiles());
    assert!(ours.p50 >= 150_000.0, "{ours:?}");
    check_near("p50", ours.p50, theirs.p50, 0.05);
    check_near("p90", ours.p90, theirs.p90, 0.05);
    check_near("mean", ours.mean, theirs.mean, 0.05);
    // The curve tells of the same operations.
    let last = outcome.kinds["get"].curve.last().copied().unwrap();
    assert_eq!((last.count, last.percentile), (outcome.summary.operations, 100.0));
}

#[test]
fn every_operation_is_counted_once() {
    let (outcome, seen) = against(Behaviour::default(), "get --count 5000 --in-flight 7");
    assert_eq!((outcome.summary.operations, seen.answered), (5000, 5000));
    let (outcome, seen) = against(Behaviour::default(), "set --rate 500 --seconds 1 --warm-up 0");
    assert_eq!((outcome.summary.operations, seen.answered), (500, 500));
    let counted: f64 = outcome.series.rate_per_second.iter().sum();
    let counted = counted * outcome.series.interval_seconds;
    assert_eq!(counted.round(), 500.0, "the series tells of every operation");
}

/// A stall of half a second in two: of an open loop's operations those that were due meanwhile wait
/// for its end, the first of them all of it, whether they were sent or not.
#[test]
fn a_stall_shows_in_an_open_loop_for_all_who_met_it() {
    let stall = Some((Duration::from_millis(700), Duration::from_millis(500)));
    let words = "get --connections 50 --in-flight 1 --rate 400 --seconds 2 --warm-up 0";
    let (outcome, _) = against(Behaviour { stall, ..Behaviour::default() }, words);
    let latency = outcome.kinds["get"].latency_us;
    assert_eq!(outcome.summary.operations, 800);
    // 200 of 800 wait, from 500 ms down to none: a tenth of all waits for 300 ms and more.
    check_near("p90", latency.p90, 300_000.0, 0.15);
    check_near("p99.9", latency.p99_9, 500_000.0, 0.1);
    // A closed loop does not send meanwhile: its two operations that met the stall are all it saw.
    let words = "get --connections 2 --seconds 2 --warm-up 0";
    let (outcome, _) = against(Behaviour { stall, ..Behaviour::default() }, words);
    assert!(outcome.kinds["get"].latency_us.p90 < 100_000.0);
    assert!(outcome.kinds["get"].latency_us.max >= 500_000.0);
}

#[test]
fn disconnects_are_counted_and_ridden_out() {
    for (forgets, threads) in [(false, 1), (true, 2)] {
        let cut = Some(Duration::from_millis(500));
        let words = format!("get --connections 8 --seconds 1.5 --warm-up 0 --threads {threads}");
        let (outcome, _) = against(Behaviour { cut, forgets, ..Behaviour::default() }, &words);
        let told = outcome.disturbances;
        assert_eq!(told.disconnects, 8, "{told:?}");
        let again = if forgets { told.sessions_expired } else { told.reattached };
        assert_eq!(again, 8, "{told:?}");
        assert_eq!(outcome.series.disconnects.iter().sum::<u64>(), 8);
        assert!(!outcome.is_clean());
        // It went on afterwards.
        let rates = &outcome.series.rate_per_second;
        assert!(rates[10..15].iter().all(|rate| *rate > 0.0), "{rates:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_one_sentence() {
    let words = ["loadgen", "get", "--servers", "127.0.0.1:1", "--connect-seconds", "0.3"];
    let plan = RunFlags::of(&words).and_then(|flags| flags.plan(Workload::Get)).unwrap();
    let refusal = run(&plan, Watching::default()).unwrap_err();
    assert!(refusal.contains("127.0.0.1:1") && refusal.contains("refused"), "{refusal}");
    assert_eq!(refusal.lines().count(), 1);
}

/// Counts what it is told, by operation id.
#[derive(Default)]
struct Journal(Mutex<BTreeMap<u64, Vec<&'static str>>>);

impl Journal {
    fn note(&self, operation: &Operation<'_>, what: &'static str) {
        assert_eq!(operation.value[..8], operation.id.to_be_bytes(), "values tell their operation");
        assert!(operation.path.starts_with("/loadgen/k/"), "{}", operation.path);
        self.0.lock().unwrap().entry(operation.id).or_default().push(what);
    }
}

impl Observer for Journal {
    fn sent(&self, operation: &Operation<'_>) {
        self.note(operation, "sent");
    }

    fn acknowledged(&self, operation: &Operation<'_>, told: &Acknowledgement<'_>) {
        assert!(told.sent_nanos <= told.replied_nanos && told.zxid > 0 && told.session != 0);
        self.note(operation, "acknowledged");
    }

    fn refused(&self, operation: &Operation<'_>, _code: i32) {
        self.note(operation, "refused");
    }

    fn in_doubt(&self, operation: &Operation<'_>) {
        self.note(operation, "in doubt");
    }
}

#[test]
fn an_observer_is_told_of_each_operation_and_of_its_end() {
    let journal = Journal::default();
    let cut = Some(Duration::from_millis(200));
    let words = "set --connections 4 --seconds 0.5 --warm-up 0 --in-flight 8";
    let behaviour = Behaviour { cut, delay: Duration::from_millis(5), ..Behaviour::default() };
    let (outcome, _) = observed(behaviour, words, Some(&journal));
    let entries = journal.0.into_inner().unwrap();
    let ended_as = |end: &str| entries.values().filter(|told| **told == ["sent", end]).count();
    let (acknowledged, in_doubt) = (ended_as("acknowledged"), ended_as("in doubt"));
    assert_eq!(acknowledged + in_doubt, entries.len(), "each is sent once and ends once");
    assert_eq!(acknowledged as u64, outcome.summary.operations);
    assert_eq!(in_doubt as u64, outcome.disturbances.in_doubt);
    assert!(in_doubt > 0 && acknowledged > in_doubt);
}
