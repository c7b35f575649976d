//! The regression gate: how many instructions each hot path takes, held against `counts.txt`.
//!
//! ```text
//! cargo bench --bench gate                        compare; 5 % more in any row fails
//! cargo bench --bench gate -- --write             take the counts of here and now as the baseline
//! cargo bench --bench gate -- --against FILE      compare with another file
//! cargo bench --bench gate -- --profile DIR       leave callgrind's profiles there as well
//! cargo bench --bench gate -- ROW…                only rows whose names contain one of these
//! ```
//!
//! Instructions are counted by valgrind's callgrind, not by the clock: a count is the same on a
//! busy machine as on a quiet one, to 0.1 % in most rows. What it does not see: caches, branches,
//! the kernel, and waiting. Those are for criterion (`benches/paths.rs` times the same rows) and
//! for `loadgen`.
//!
//! The baseline is a file in the repository and not a build of the commit before: a clean checkout
//! may have no other commit, a slow decay of 4 % a commit would pass, and so what a change costs
//! or saves is seen in its diff. The price: another compiler or C library counts differently. The
//! file says which it was made with, and where that differs the comparison is refused;
//! `.ci/run gate` then counts the commit that the file comes from, on this machine.

#![expect(clippy::disallowed_types, reason = "clients of a bench dial with std")]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

use mimalloc::MiMalloc;

mod workloads;

use workloads::{Meter, Row, Run, rows};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counts.txt");

/// A row may take so many hundredths more than the baseline. Repeated runs differ by a tenth of
/// one; a change that moves code about without meaning to differs by one or two.
const TOLERANCE_PERCENT: f64 = 5.0;

/// Runs before the count begins: until buffers have their sizes.
const WARM_RUNS: u32 = 8;

/// At least so many requests, transactions or events are counted.
const COUNTED_MIN: u32 = 256;

/// Callgrind counts each round of a `rep stosb` as an instruction: the C library is to fill and
/// copy large pieces by vectors instead.
const NO_REP: &str = "glibc.cpu.x86_rep_stosb_threshold=1073741824:\
                      glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// The exit code where the baseline was made with other tools.
const OTHER_TOOLS: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    if let [mode, name] = arguments.as_slice()
        && mode == "--row"
    {
        run_row(name);
        return ExitCode::SUCCESS;
    }
    let mut options = Options::default();
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--write" => options.write = true,
            "--against" => options.baseline = words.next().expect("--against FILE").into(),
            "--profile" => options.profiles = Some(words.next().expect("--profile DIR").into()),
            "--output" => options.output = Some(words.next().expect("--output FILE").into()),
            _ => options.rows.push(word),
        }
    }
    gate(&options)
}

struct Options {
    write: bool,
    baseline: PathBuf,
    profiles: Option<PathBuf>,
    /// Where the counts are written in any case.
    output: Option<PathBuf>,
    rows: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        let (write, profiles, output, rows) = (false, None, None, Vec::new());
        Options { write, baseline: BASELINE.into(), profiles, output, rows }
    }
}

// ── One row, under valgrind ──

/// Runs `work`; callgrind collects while this function runs.
#[inline(never)]
fn gate_measured(work: &mut dyn FnMut()) {
    work();
    // Not a tail call: the function is left when the work is done.
    black_box(());
}

struct Unmeasured;

impl Meter for Unmeasured {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        work();
    }
}

struct Counted;

impl Meter for Counted {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        gate_measured(work);
    }
}

/// How often a row runs while it is counted.
fn runs(row: &Row) -> u32 {
    COUNTED_MIN.div_ceil(row.count).max(2)
}

fn run_row(name: &str) {
    let row = rows().into_iter().find(|row| row.name == name).expect("a row of this name");
    let mut run: Run = (row.make)();
    (0..WARM_RUNS).for_each(|_| run(&mut Unmeasured));
    (0..runs(&row)).for_each(|_| run(&mut Counted));
}

// ── All rows, and the verdict ──

fn gate(options: &Options) -> ExitCode {
    let is_wanted = |row: &Row| {
        options.rows.is_empty() || options.rows.iter().any(|part| row.name.contains(part))
    };
    let rows: Vec<Row> = rows().into_iter().filter(is_wanted).collect();
    let tools = tools();
    let baseline = Baseline::read(&options.baseline);
    if !options.write && options.output.is_none() && baseline.tools != tools {
        println!("{} was made with\n  {}", options.baseline.display(), baseline.tools);
        println!("and here there is\n  {tools}");
        println!("so the counts cannot be compared. `.ci/run gate` knows what to do.");
        return ExitCode::from(OTHER_TOOLS);
    }
    let dir = options.profiles.clone().unwrap_or_else(|| std::env::temp_dir().join("rk-gate"));
    fs::create_dir_all(&dir).expect("a directory for profiles");
    let counts = count_all(&rows, &dir);
    if options.profiles.is_none() {
        fs::remove_dir_all(&dir).expect("it was made");
    }
    let verdict = compare(&rows, &counts, &baseline.counts);
    let written = options.output.as_deref().or(options.write.then_some(&*options.baseline));
    if let Some(path) = written {
        let mut all = if options.rows.is_empty() { BTreeMap::new() } else { baseline.counts };
        all.extend(rows.iter().zip(&counts).map(|(row, count)| (row.name.to_owned(), *count)));
        Baseline { tools, counts: all }.write(path);
        println!("written to {}", path.display());
        return ExitCode::SUCCESS;
    }
    verdict
}

/// The count of each row; two at a time, since the machine has two cores at least.
fn count_all(rows: &[Row], dir: &Path) -> Vec<u64> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counts = Vec::new();
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            counts.push((row.name, count(row, dir)));
        }
        counts
    };
    let counts: BTreeMap<&str, u64> = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let own = work();
        own.into_iter().chain(other.join().expect("it counts")).collect()
    });
    rows.iter().map(|row| counts[row.name]).collect()
}

/// Instructions of one request, transaction or event of a row.
fn count(row: &Row, dir: &Path) -> u64 {
    let file = dir.join(format!("callgrind.{}", row.name.replace(['/', ' ', ','], "-")));
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "-q", "--toggle-collect=*gate_measured*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().expect("a running program has a file"))
        .args(["--row", row.name])
        // The environment lies on the stack, and moves what follows it.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // The allocator gives memory back after a time that valgrind would stretch.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .env("GLIBC_TUNABLES", NO_REP)
        .output()
        .expect("valgrind is installed: `.ci/run tools` does it");
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{} under valgrind: {complaint}", row.name);
    let profile = fs::read_to_string(&file).expect("callgrind writes its profile");
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.and_then(|it| it.trim().parse().ok()).expect("a profile has a total");
    assert!(total > 0, "{}: nothing was counted", row.name);
    let count = u64::from(runs(row)) * u64::from(row.count);
    (total + count / 2) / count
}

/// Prints the table; fails where a row takes too many more, or is not in the baseline.
fn compare(rows: &[Row], counts: &[u64], baseline: &BTreeMap<String, u64>) -> ExitCode {
    println!("{:42} {:8} {:>12} {:>12} {:>8}", "instructions", "per", "baseline", "now", "change");
    let mut failed = Vec::new();
    for (row, &count) in rows.iter().zip(counts) {
        let Some(&before) = baseline.get(row.name) else {
            println!("{:42} {:8} {:>12} {count:>12}      new", row.name, row.per, "");
            failed.push(format!("{} is not in the baseline", row.name));
            continue;
        };
        let percent = (count as f64 / before as f64 - 1.0) * 100.0;
        let is_slower = percent > TOLERANCE_PERCENT;
        let mark = if is_slower { "  SLOWER" } else { "" };
        println!("{:42} {:8} {before:>12} {count:>12} {percent:>+7.1}%{mark}", row.name, row.per);
        if is_slower {
            failed.push(format!("{} takes {percent:.1} % more instructions", row.name));
        }
    }
    if failed.is_empty() {
        println!("no row takes more than {TOLERANCE_PERCENT} % more");
        return ExitCode::SUCCESS;
    }
    failed.iter().for_each(|line| println!("FAILED: {line}"));
    println!("If that is meant: `cargo bench --bench gate -- --write`, and say why in the commit.");
    ExitCode::FAILURE
}

// ── The baseline ──

/// ```text
/// tools TAB what the counts were made with
/// row   TAB instructions
/// ```
struct Baseline {
    tools: String,
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    fn read(path: &Path) -> Baseline {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
        let tools = lines.next().map_or(String::new(), |(_, tools)| tools.to_owned());
        let count = |(name, count): (&str, &str)| (name.to_owned(), count.parse().expect("count"));
        Baseline { tools, counts: lines.map(count).collect() }
    }

    fn write(&self, path: &Path) {
        let lines = self.counts.iter().map(|(name, count)| format!("{name}\t{count}\n"));
        let text: String =
            std::iter::once(format!("tools\t{}\n", self.tools)).chain(lines).collect();
        fs::write(path, text).expect("the baseline can be written");
    }
}

/// What decides the counts besides the code: compiler, C library, valgrind, machine.
fn tools() -> String {
    let first_line = |command: &str, argument: &str| {
        let out = Command::new(command).arg(argument).output();
        let out = out.unwrap_or_else(|error| panic!("{command}: {error}"));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let parts = [
        first_line("rustc", "--version"),
        first_line("getconf", "GNU_LIBC_VERSION"),
        first_line("valgrind", "--version"),
        std::env::consts::ARCH.to_owned(),
    ];
    parts.join(", ")
}
