//! The command itself: what it says, where it writes, how it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

use ringkeeper_loadgen::fake::{Behaviour, Fake};
use ringkeeper_loadgen::outcome::Outcome;

fn loadgen(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(words.split(' ')).output().unwrap()
}

/// What it says of a wrong command line: one sentence, and code 2.
fn refusal(words: &str) -> String {
    let output = loadgen(words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}: {said}");
    assert!(output.stdout.is_empty(), "{words}");
    said
}

#[test]
fn a_wrong_option_gets_one_clear_sentence() {
    assert_eq!(refusal("get --threads 0"), "loadgen: --threads starts at 1\n");
    assert_eq!(refusal("fill"), "loadgen: fill wants --count\n");
    let said = refusal("get --rate -1");
    assert!(said.contains("--rate is a number from 0.001 on, not -1"), "{said}");
    let said = refusal("get --conections 5");
    assert!(said.contains("--conections") && said.contains("--connections"), "{said}");
}

#[test]
fn json_goes_where_it_is_wanted_and_can_be_read_back() {
    let fake = Fake::start(Behaviour::default()).unwrap();
    let directory = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (json, hgrm) = (directory.join("outcome.json"), directory.join("curve.hgrm"));
    let words = format!("get --servers {} --seconds 0.3 --warm-up 0", fake.address);
    let output = loadgen(&format!("{words} --json"));
    let outcome: Outcome = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && outcome.summary.operations > 0);
    assert!(output.stderr.is_empty(), "no live line where there is no terminal");
    let words = format!("{words} --json {} --hgrm {}", json.display(), hgrm.display());
    let table = String::from_utf8(loadgen(&words).stdout).unwrap();
    assert!(table.contains("p99.99") && table.contains("\nget "), "{table}");
    let outcome: Outcome = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(outcome.config.keys, 1000);
    let curve = std::fs::read_to_string(&hgrm).unwrap();
    assert!(curve.contains("1/(1-Percentile)") && curve.contains("#[Max"), "{curve}");
    std::fs::remove_dir_all(&directory).unwrap();
    fake.stop().unwrap();
}
