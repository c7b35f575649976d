//! What is known of the knobs is whole, and the pages and answers made of it are sound.

use std::collections::BTreeSet;

use super::fake::Fake;
use super::{apply, wish};
use crate::change::{Wish, selects};
use crate::judge::findings;
use crate::knob::{Effect, Hand, Impact, Persist, Source};
use crate::{knobs, report};

#[test]
fn each_knob_says_everything() {
    let mut ids = BTreeSet::new();
    for knob in knobs() {
        assert!(ids.insert(knob.id), "{} stands twice", knob.id);
        let effect = match knob.effect {
            Effect::Measured(said) | Effect::Unseen(said) | Effect::Unmeasured(said) => said,
        };
        let texts = [knob.what, knob.why, knob.default, knob.wanted, effect, knob.undo, knob.risk];
        for text in texts {
            assert!(!text.is_empty(), "{} leaves something out", knob.id);
            assert!(!text.contains(['\n', '\t']) && !text.contains("  "), "{}: {text}", knob.id);
            assert!(!text.starts_with("to be "), "{}: {text}", knob.id);
        }
        assert!(knob.what.ends_with('.') && knob.why.ends_with('.'), "{}", knob.id);
    }
    assert!(ids.len() > 50);
}

#[test]
fn what_is_turned_is_what_can_be_turned_and_kept() {
    for knob in knobs() {
        let is_fact = matches!(knob.source, Source::Fact(_));
        if is_fact {
            assert!(matches!(knob.hand, Hand::Yours(_)), "{} cannot be written", knob.id);
        }
        let is_sysctl = matches!(knob.source, Source::Sysctl(_) | Source::Dirty(_));
        assert_eq!(is_sysctl, knob.persist == Persist::Sysctl, "{}", knob.id);
        if matches!(knob.source, Source::Text(..)) {
            assert_eq!((knob.hand, knob.persist), (Hand::Named, Persist::ByItself), "{}", knob.id);
        }
    }
}

#[test]
fn ids_and_their_beginnings_name_knobs() {
    let named = |only: &str| knobs().filter(|knob| selects(only, knob)).count();
    assert_eq!(named("disk.scheduler"), 1);
    assert!(named("disk") > 5);
    assert_eq!(named("disk."), named("disk"));
    assert_eq!(named("dis"), 0);
    let wish = Wish { only: vec!["vm".into(), "nothing.here".into()], ..Wish::default() };
    assert_eq!(wish.unknown(), ["nothing.here"]);
}

#[test]
fn the_page_is_what_is_known() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tuning.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, printed) = page.split_once("-->\n").expect("the page has its mark");
    let how = "sed -i '/-->$/q' docs/tuning.md && ringkeeper tune --explain >> docs/tuning.md";
    assert!(printed == report::page(&[]), "docs/tuning.md is old; {how}");
}

#[test]
fn the_page_of_one_knob_is_a_part_of_the_whole() {
    let whole = report::page(&[]);
    let one = report::page(&["disk.fua".to_owned()]);
    assert!(one.contains("### `disk.fua`") && !one.contains("disk.scheduler"));
    assert!(whole.contains(one.split_once("###").unwrap().1.trim_end()));
}

#[test]
fn what_matters_most_stands_first() {
    let mut fake = Fake::new();
    let mut host = fake.host();
    host.served.ring = Err("not permitted".to_owned());
    fake.put("proc/sys/kernel/io_uring_disabled", "2\n");
    let findings = findings(&fake, &host);
    let matters = report::matters(&findings);
    assert!(matters.is_sorted_by_key(|knob| knob.impact));
    assert_eq!(matters[0].impact, Impact::Start);
    assert!(!matters.iter().any(|knob| matches!(knob.source, Source::Text(..))));
    let ids: BTreeSet<&str> = matters.iter().map(|knob| knob.id).collect();
    assert_eq!(ids.len(), matters.len());
    assert!(ids.contains("mount.barrier") && ids.contains("limit.memlock"));
    let table = report::table(&findings);
    let list = table.split_once("What matters most").unwrap().1;
    assert!(list.contains(&format!("1. {}", matters[0].id)), "{table}");
    assert!(list.contains("of less effect"));
    assert!(report::stops(&findings));
}

#[test]
fn files_that_say_the_same_share_a_line() {
    let fake = Fake::new();
    let table = report::table(&findings(&fake, &fake.host()));
    let line = table.lines().find(|line| line.contains("cpu.governor")).unwrap();
    assert!(line.contains("change") && line.ends_with("(in 3 files)"), "{line}");
}

#[test]
fn answers_for_programs_are_json() {
    let mut fake = Fake::new();
    fake.put("proc/sys/net/core/somaxconn", "\"\\\u{1}\n");
    let found = findings(&fake, &fake.host());
    let json: serde_json::Value = serde_json::from_str(&report::findings_json(&found)).unwrap();
    let all = json["knobs"].as_array().unwrap();
    assert_eq!(all.len(), found.len());
    let odd = all.iter().find(|it| it["id"] == "net.core.somaxconn").unwrap();
    assert_eq!(odd["value"], "\"\\\u{1}");
    assert_eq!(odd["verdict"], "change");
    assert_eq!(odd["wanted"], "1024");
    assert_eq!(json["matters"][0], report::matters(&found)[0].id);
    let steps = apply(&mut fake, &wish(&["vm", "unit.file", "cpu.isolation"], false)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&report::steps_json(&steps)).unwrap();
    let all = json["steps"].as_array().unwrap();
    assert_eq!(all.len(), steps.len());
    let dirty = all.iter().find(|it| it["id"] == "vm.dirty").unwrap();
    assert_eq!(dirty["path"], "/proc/sys/vm/dirty_{bytes,ratio}");
    assert_eq!((&dirty["from"], &dirty["outcome"]), (&"20 %".into(), &"done".into()));
}

#[test]
fn the_table_of_steps_has_a_line_for_each() {
    let mut fake = Fake::new();
    fake.read_only = vec!["proc/sys/vm/swappiness"];
    let steps = apply(&mut fake, &wish(&["vm.swappiness", "vm.stat_interval"], false)).unwrap();
    let expected = "  FAILED vm.swappiness     /proc/sys/vm/swappiness  60: read-only here, as \
                    in a container: set it on the host\n";
    let table = report::steps_table(&steps);
    assert_eq!(table.lines().count(), 2);
    assert!(table.contains(expected), "{table}");
    assert!(table.contains("  done   vm.stat_interval  /proc/sys/vm/stat_interval  1 -> 10\n"));
}
