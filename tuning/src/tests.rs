//! The engine and every family, on a host that a test makes.

mod fake;
mod families;
mod known;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use crate::change::{self, Outcome, Step, Wish};
use crate::host::Host;
use crate::knobs;
use crate::state::{self, State, StateError};
use crate::system::{Rooted, System};
use fake::{Fake, STATE};

fn wish(only: &[&str], persist: bool) -> Wish {
    Wish { only: only.iter().map(|id| (*id).to_owned()).collect(), persist, dry_run: false }
}

fn apply(fake: &mut Fake, wish: &Wish) -> Result<Vec<Step>, StateError> {
    let host = fake.host();
    change::apply(fake, &host, STATE, wish)
}

fn revert(fake: &mut Fake) -> Vec<Step> {
    change::revert(fake, STATE, false, false).unwrap()
}

/// Wishes that between them touch every kind of file.
fn wishes() -> Vec<Wish> {
    let named = ["disk", "unit.file", "seccomp.profile", "nic", "cpu", "vm.dirty", "net.core"];
    vec![wish(&[], false), wish(&[], true), wish(&named, true), wish(&["disk.scheduler"], false)]
}

fn outcome_of<'a>(steps: &'a [Step], id: &str) -> &'a Outcome {
    &steps.iter().find(|step| step.knob == id).unwrap_or_else(|| panic!("no step {id}")).outcome
}

fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>, case: &str) {
    for name in left.keys().chain(right.keys()) {
        assert_eq!(left.get(name), right.get(name), "{name}, {case}");
    }
}

#[test]
fn what_is_applied_is_there_and_goes_back() {
    for wish in wishes() {
        let mut fake = Fake::new();
        let before = fake.all();
        let steps = apply(&mut fake, &wish).unwrap();
        let done: Vec<&Step> = steps.iter().filter(|it| it.outcome == Outcome::Done).collect();
        assert!(!done.is_empty());
        for step in done {
            let value = crate::judge::read(&fake, &step.path, step.form).unwrap().0;
            assert_eq!(Some(&value), step.to.as_ref(), "{}", step.path);
            assert_ne!(step.from, step.to);
        }
        // A preference may be back already, since it goes along with the governor.
        let back = |step: &Step| matches!(step.outcome, Outcome::Done | Outcome::Same);
        assert!(revert(&mut fake).iter().all(back));
        assert_same(&fake.all(), &before, "after the revert");
        assert_eq!(revert(&mut fake), [], "a second revert has nothing to do");
        assert!(fake.names(STATE).is_empty());
    }
}

#[test]
fn everything_can_be_turned_where_it_should_be() {
    let mut fake = Fake::new();
    let ids: Vec<&str> = knobs().map(|knob| knob.id).collect();
    apply(&mut fake, &wish(&ids, true)).unwrap();
    let left = crate::judge::findings(&fake, &fake.host());
    for finding in left {
        assert_eq!(finding.target(), None, "{} {}", finding.knob.id, finding.path);
    }
}

#[test]
fn a_dry_run_and_a_check_change_nothing() {
    let mut fake = Fake::new();
    let before = fake.all();
    for mut wish in wishes() {
        wish.dry_run = true;
        let planned = apply(&mut fake, &wish).unwrap();
        assert!(planned.iter().any(|step| step.outcome == Outcome::Planned));
        wish.dry_run = false;
        let mut other = Fake::new();
        let done = apply(&mut other, &wish).unwrap();
        assert_eq!(planned.len(), done.len());
        change::revert(&mut other, STATE, false, true).unwrap();
        assert_eq!(outcome_of(&revert(&mut other), &done[0].knob), &Outcome::Done);
    }
    crate::report::table(&crate::judge::findings(&fake, &fake.host()));
    assert_eq!(fake.changes, 0);
    assert_same(&fake.all(), &before, "after dry runs");
}

/// Runs `story` with the power going before each of its changes in turn, then puts everything back.
fn cut_at_each_change(story: impl Fn(&mut Fake), after: impl Fn(&mut Fake)) {
    let mut whole = Fake::new();
    let before = whole.all();
    story(&mut whole);
    assert!(whole.changes > 3, "a story of {} changes", whole.changes);
    for power in 0..whole.changes {
        let mut fake = Fake::new();
        fake.power = Some(power);
        story(&mut fake);
        fake.restart();
        after(&mut fake);
        let steps = revert(&mut fake);
        let case = format!("with the power gone before change {power}: {steps:?}");
        assert!(!steps.iter().any(Step::is_trouble), "{case}");
        assert_same(&fake.all(), &before, &case);
        assert!(fake.names(STATE).is_empty(), "the state is left, {case}");
    }
}

#[test]
fn a_crash_at_any_change_of_an_apply_is_reverted() {
    for wish in wishes() {
        cut_at_each_change(
            |fake| {
                apply(fake, &wish).ok();
            },
            |_| {},
        );
    }
}

#[test]
fn a_crash_at_any_change_of_an_apply_is_applied_over_and_reverted() {
    for wish in wishes() {
        cut_at_each_change(
            |fake| {
                apply(fake, &wish).ok();
            },
            |fake| {
                apply(fake, &wish).unwrap();
            },
        );
    }
}

#[test]
fn a_crash_at_any_change_of_a_revert_is_reverted() {
    for wish in wishes() {
        let story = |fake: &mut Fake| {
            apply(fake, &wish).ok();
            change::revert(fake, STATE, false, false).ok();
        };
        cut_at_each_change(story, |_| {});
        cut_at_each_change(story, |fake| {
            apply(fake, &wish).unwrap();
        });
    }
}

#[test]
fn what_somebody_has_changed_since_is_left() {
    let mut fake = Fake::new();
    let before = fake.all();
    let wish = wish(&["net.core.somaxconn", "vm.stat_interval", "unit.file"], false);
    apply(&mut fake, &wish).unwrap();
    fake.put("proc/sys/net/core/somaxconn", "9999\n");
    fake.put("etc/systemd/system/ringkeeper.service", "mine\n");
    for _ in 0..2 {
        let steps = revert(&mut fake);
        let left = Outcome::Foreign("9999".to_owned());
        assert_eq!(outcome_of(&steps, "net.core.somaxconn"), &left);
        assert!(outcome_of(&steps, "unit.file") == &Outcome::Foreign("mine\n".to_owned()));
        assert_eq!(fake.text("proc/sys/net/core/somaxconn"), "9999\n");
        assert_eq!(fake.text("proc/sys/vm/stat_interval"), "1\n");
    }
    change::revert(&mut fake, STATE, true, false).unwrap();
    assert_same(&fake.all(), &before, "after a forced revert");
    assert_eq!(revert(&mut fake), []);
}

#[test]
fn what_somebody_has_put_back_or_taken_out_is_no_trouble() {
    let mut fake = Fake::new();
    apply(&mut fake, &wish(&["net.core.somaxconn", "nic.irq_affinity"], false)).unwrap();
    fake.put("proc/sys/net/core/somaxconn", "128\n");
    fake.delete("proc/irq/40/smp_affinity_list");
    let steps = revert(&mut fake);
    assert_eq!(outcome_of(&steps, "net.core.somaxconn"), &Outcome::Same);
    let outcomes: Vec<&Outcome> = steps.iter().map(|step| &step.outcome).collect();
    assert!(outcomes.contains(&&Outcome::Gone), "{outcomes:?}");
    assert_eq!(revert(&mut fake), []);
}

#[test]
fn a_value_that_was_changed_between_two_applies_is_what_comes_back() {
    let mut fake = Fake::new();
    let wish = wish(&["net.core.somaxconn"], false);
    apply(&mut fake, &wish).unwrap();
    // It is as it should be: the second apply has nothing to do, and forgets nothing.
    assert_eq!(outcome_of(&apply(&mut fake, &wish).unwrap(), "net.core.somaxconn"), &Outcome::Same);
    fake.put("proc/sys/net/core/somaxconn", "7\n");
    apply(&mut fake, &wish).unwrap();
    assert_eq!(fake.text("proc/sys/net/core/somaxconn"), "1024\n");
    revert(&mut fake);
    assert_eq!(fake.text("proc/sys/net/core/somaxconn"), "7\n");
}

#[test]
fn another_wish_for_the_same_knob_keeps_what_was_there_first() {
    let mut fake = Fake::new();
    apply(&mut fake, &wish(&["net.core.somaxconn"], false)).unwrap();
    let mut host = fake.host();
    host.served.backlog = 5000;
    change::apply(&mut fake, &host, STATE, &wish(&["net.core.somaxconn"], false)).unwrap();
    assert_eq!(fake.text("proc/sys/net/core/somaxconn"), "5000\n");
    revert(&mut fake);
    assert_eq!(fake.text("proc/sys/net/core/somaxconn"), "128\n");
}

#[test]
fn what_is_read_only_is_said_and_not_recorded() {
    let mut fake = Fake::new();
    let before = fake.all();
    fake.read_only = vec!["proc/sys/net/core/somaxconn", "proc/sys/vm/dirty_bytes"];
    let steps = apply(&mut fake, &wish(&[], false)).unwrap();
    for id in ["net.core.somaxconn", "vm.dirty"] {
        let Outcome::Failed(sentence) = outcome_of(&steps, id) else { panic!("{id} was done") };
        assert!(sentence.contains("container"), "{sentence}");
    }
    assert_eq!(outcome_of(&steps, "vm.stat_interval"), &Outcome::Done);
    let state = State::load(&fake, STATE).unwrap();
    assert!(state.record("proc/sys/net/core/somaxconn").is_none());
    assert!(!revert(&mut fake).iter().any(Step::is_trouble));
    assert_same(&fake.all(), &before, "after the revert");
}

#[test]
fn what_cannot_be_put_back_stays_written_down() {
    let mut fake = Fake::new();
    apply(&mut fake, &wish(&["vm.stat_interval", "vm.swappiness"], false)).unwrap();
    fake.read_only = vec!["proc/sys/vm/swappiness"];
    for _ in 0..2 {
        assert!(matches!(outcome_of(&revert(&mut fake), "vm.swappiness"), Outcome::Failed(_)));
    }
    fake.read_only.clear();
    assert_eq!(outcome_of(&revert(&mut fake), "vm.swappiness"), &Outcome::Done);
    assert_eq!(fake.text("proc/sys/vm/swappiness"), "60\n");
}

#[test]
fn what_the_kernel_made_of_a_value_is_ours_too() {
    let mut fake = Fake::new();
    fake.read_ahead_step = 100;
    let before = fake.all();
    let steps = apply(&mut fake, &wish(&["disk.read_ahead"], false)).unwrap();
    let step = steps.iter().find(|step| step.outcome == Outcome::Done).unwrap();
    assert_eq!(step.to.as_deref(), Some("100"), "it says what is there, not what was asked for");
    fake.read_ahead_step = 1;
    assert_eq!(outcome_of(&revert(&mut fake), "disk.read_ahead"), &Outcome::Done);
    assert_same(&fake.all(), &before, "after the revert");
    // A kernel that takes a value and stays as it was has not been changed.
    fake.read_ahead_step = 65;
    fake.put("sys/block/sda/queue/read_ahead_kb", "65\n");
    let steps = apply(&mut fake, &wish(&["disk.read_ahead"], false)).unwrap();
    assert!(matches!(outcome_of(&steps, "disk.read_ahead"), Outcome::Failed(_)), "{steps:?}");
    assert_eq!(revert(&mut fake), []);
}

#[test]
fn a_damaged_state_stops_everything() {
    let mut fake = Fake::new();
    apply(&mut fake, &wish(&["vm.stat_interval"], false)).unwrap();
    let state = format!("{STATE}/state");
    fake.put(&state, &fake.text(&state).replace("old 1", "old 2"));
    let before = fake.all();
    let damaged = |outcome| matches!(outcome, Err(StateError::Damaged { .. }));
    assert!(damaged(apply(&mut fake, &wish(&[], false))));
    assert!(damaged(change::revert(&mut fake, STATE, true, false)));
    assert_same(&fake.all(), &before, "with a damaged state");
}

#[test]
fn files_of_others_are_left_alone() {
    let mut fake = Fake::new();
    fake.put("etc/sysctl.d/90-ringkeeper.conf", "vm.swappiness = 7\n");
    fake.put("etc/systemd/system/ringkeeper.service", "[Unit]\n");
    let before = fake.all();
    let steps = apply(&mut fake, &wish(&["vm.stat_interval", "unit.file"], true)).unwrap();
    for id in ["persist", "unit.file"] {
        assert!(matches!(outcome_of(&steps, id), Outcome::Failed(_)), "{id}");
    }
    assert_eq!(fake.text("etc/sysctl.d/90-ringkeeper.conf"), "vm.swappiness = 7\n");
    revert(&mut fake);
    assert_same(&fake.all(), &before, "after the revert");
}

#[test]
fn what_a_family_does_not_turn_is_passed_over() {
    let mut fake = Fake::new();
    let steps = apply(&mut fake, &wish(&["mount", "cpu.guest_halt_poll"], false)).unwrap();
    assert!(!steps.is_empty());
    assert!(steps.iter().all(|step| matches!(step.outcome, Outcome::Skipped(_))), "{steps:?}");
    let steps = apply(&mut fake, &wish(&["mount.barrier"], false)).unwrap();
    assert!(matches!(outcome_of(&steps, "mount.barrier"), Outcome::Failed(_)));
    assert_eq!(fake.changes, 0);
}

#[test]
fn what_outlives_a_boot_is_what_was_applied() {
    let mut fake = Fake::new();
    let ids = ["vm.dirty", "vm.dirty_background", "net.ipv4.tcp_rmem", "disk.scheduler"];
    apply(&mut fake, &wish(&ids, true)).unwrap();
    let lines = |path: &str| {
        let text = fake.text(path);
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        lines("etc/sysctl.d/90-ringkeeper.conf"),
        [
            "net.ipv4.tcp_rmem = 4096 131072 4194304",
            "vm.dirty_background_bytes = 67108864",
            "vm.dirty_bytes = 536870912",
        ]
    );
    let write = "w /sys/block/sda/queue/scheduler - - - - none";
    assert_eq!(lines("etc/tmpfiles.d/ringkeeper.conf"), [write]);
    // A later wish adds to it.
    apply(&mut fake, &wish(&["vm.stat_interval"], true)).unwrap();
    assert!(fake.text("etc/sysctl.d/90-ringkeeper.conf").contains("vm.stat_interval = 10\n"));
    assert!(fake.text("etc/sysctl.d/90-ringkeeper.conf").contains("vm.dirty_bytes"));
    revert(&mut fake);
    assert_eq!(fake.resolved("etc/sysctl.d"), None);
}

#[test]
fn a_file_is_replaced_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Rooted::new(directory.path());
    for text in ["one", "two"] {
        state::make_directories(&mut files, "a/b").unwrap();
        state::replace(&mut files, "a/b/c", text).unwrap();
        assert_eq!(files.read("a/b/c").unwrap(), text);
        if text == "one" {
            let private = Permissions::from_mode(0o600);
            std::fs::set_permissions(directory.path().join("a/b/c"), private).unwrap();
        }
    }
    let mode = directory.path().join("a/b/c").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "who could not read the old one cannot read the new one");
    assert_eq!(files.names("a/b"), ["c"]);
    assert!(files.set("a/b/d", "1").is_err(), "a setting that is not there is not made");
    state::remove(&mut files, "a/b/c").unwrap();
    state::remove(&mut files, "a/b/c").unwrap();
    assert!(files.names("a/b").is_empty());
}

#[test]
fn the_same_holds_for_real_files() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    fake.write_to(directory.path());
    let mut files = Rooted::new(directory.path());
    let host = Host::look(&files, fake::served());
    assert_eq!(host, fake.host());
    let wish = wish(&["net.core", "nic.irq_affinity", "disk.read_ahead", "unit.file"], true);
    let steps = change::apply(&mut files, &host, STATE, &wish).unwrap();
    assert!(steps.iter().filter(|step| step.outcome == Outcome::Done).count() > 6);
    assert_eq!(files.read("sys/devices/pci/block/sda/queue/read_ahead_kb").unwrap(), "128\n");
    assert!(files.read("etc/systemd/system/ringkeeper.service").unwrap().contains("ExecStart"));
    assert!(!change::revert(&mut files, STATE, false, false).unwrap().iter().any(Step::is_trouble));
    for path in fake.paths() {
        assert_eq!(files.read(path).unwrap(), fake.text(path), "{path}");
    }
    assert_eq!(files.names("etc"), ["sysctl.conf"]);
    assert!(files.names(STATE).is_empty());
}

#[test]
fn one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let files = Rooted::new(directory.path());
    let held = files.lock("").unwrap();
    assert!(held.is_some());
    assert!(files.lock("").unwrap().is_none());
    drop(held);
    assert!(files.lock("").unwrap().is_some());
    assert!(files.lock("nowhere").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any wishes, one after the other, with any starting values, the power going at any change of
    /// any of them, and a host that forgets some of them as a boot does: a revert is exact.
    #[test]
    fn every_history_is_reverted(
        history in prop::collection::vec(
            (prop::collection::vec(any::<prop::sample::Index>(), 0..6), any::<bool>(), 0..60usize),
            1..4,
        ),
        starts in prop::collection::vec((any::<prop::sample::Index>(), 0..100_000u64), 0..8),
    ) {
        let mut fake = Fake::new();
        let numbers = ["net/core/somaxconn", "vm/swappiness", "vm/stat_interval", "fs/file-max"];
        for (which, value) in starts {
            fake.put(&format!("proc/sys/{}", which.get(&numbers)), &format!("{value}\n"));
        }
        let before = fake.all();
        let ids: Vec<&str> = knobs().map(|knob| knob.id).collect();
        for (which, persist, power) in history {
            let only: Vec<&str> = which.iter().map(|index| *index.get(&ids)).collect();
            // Half of them have the power to end.
            fake.power = (power < 30).then_some(power);
            apply(&mut fake, &wish(&only, persist)).ok();
            fake.restart();
        }
        let steps = revert(&mut fake);
        prop_assert!(!steps.iter().any(Step::is_trouble), "{:?}", steps);
        prop_assert_eq!(fake.all(), before);
    }
}
