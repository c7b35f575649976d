//! A snapshot of a million znodes of 100 bytes, and one of a directory with a million children:
//! how long it takes to write and to load, how much memory beside the tree, and what a log on the
//! same volume notices of it.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads the clock, waits and writes files of its own"
)]

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use mimalloc::MiMalloc;
use ringkeeper::snapshot::frame::Pace;
use ringkeeper::snapshot::load::{LoadOptions, load_newest};
use ringkeeper::snapshot::purge;
use ringkeeper::snapshot::write::{write, write_at};
use ringkeeper::time::Time;
use ringkeeper::tree::builder::{Builder, Loaded};
use ringkeeper::tree::record::Meta;
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::zxid::Zxid;
use rkyv::util::AlignedVec;
use rustix::fs::OFlags;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CONFIG: TreeConfig = TreeConfig { seed: 1, extended_types: true };
const OPTIONS: LoadOptions = LoadOptions { tree: CONFIG, now: Time::from_nanos(0), threads: 0 };
const DATA: [u8; 100] = [7; 100];
const ZXID: Zxid = Zxid::new(1, 7);
const ZNODES: usize = 1_000_000;

/// A tree of a million znodes below `parents` parents.
fn tree(parents: usize) -> Writer {
    let mut builder = Builder::new(CONFIG, ZNODES, Time::default());
    let meta = Meta { acl: builder.add_acl(&EncodedAcl::OPEN), ..Meta::default() };
    let parent_names: Vec<String> = (0..parents).map(|n| format!("p{n:06}")).collect();
    let names: Vec<String> = (0..ZNODES / parents).map(|n| format!("n{n:010}")).collect();
    let mut part = builder.part();
    let mut add = |path: &str, children: &[String]| {
        let children = children.iter().map(String::as_str);
        part.add(Loaded { path, data: Some(&DATA), meta, children }).expect("paths differ");
    };
    add("/", &parent_names);
    for parent in parent_names.iter().map(|name| format!("/{name}")) {
        add(&parent, &names);
        names.iter().for_each(|name| add(&format!("{parent}/{name}"), &[]));
    }
    let sums = [part.finish()];
    builder.finish(sums, ZXID, None).expect("children are named")
}

/// A field of the process's status, in KiB.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(field)).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Runs `work` and returns how long it took, and by how many KiB memory grew at its highest.
fn measure<T>(work: impl FnOnce() -> T) -> (T, Duration, u64) {
    // Makes the highest size the present one.
    fs::write("/proc/self/clear_refs", "5").expect("one's own may be reset");
    let (before, start) = (status("VmRSS"), Instant::now());
    let result = work();
    (result, start.elapsed(), status("VmHWM").saturating_sub(before))
}

/// How long one write of 4 KiB takes to be durable while `work` is done, in the way of the log:
/// around the page cache, to a file filled before. Prints the median and the slowest of a thousand.
fn beside_log<T>(what: &str, file: &Path, work: impl FnOnce() -> T) -> T {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 4096;
    fs::write(file, vec![0; (BLOCK * BLOCKS) as usize]).expect("filled");
    fs::File::open(file).and_then(|file| file.sync_all()).expect("synced");
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    let log = fs::OpenOptions::new().write(true).custom_flags(flags).open(file).expect("opened");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appends = scope.spawn(|| {
            let mut block = AlignedVec::<4096>::new();
            block.resize(BLOCK as usize, 1);
            let mut times = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let at = times.len() as u64 % BLOCKS * BLOCK;
                let start = Instant::now();
                log.write_all_at(&block, at).expect("written");
                times.push(start.elapsed());
            }
            times.sort_unstable();
            times
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let times = appends.join().expect("no panic");
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        println!("  log {what}: {} writes, p50 {p50:?} p99 {p99:?} p99.9 {p999:?}", times.len());
        result
    })
}

fn report(dir: &Path, parents: usize) {
    let writer = tree(parents);
    let digest = writer.digest();
    let sessions: Vec<(i64, i32)> = (0..10_000).map(|n| (n, 30_000)).collect();
    let (figures, time, grown) = measure(|| {
        write_at(dir, writer.tree(), ZXID, digest, &sessions, Pace::Full).expect("written")
    });
    println!("{parents} parents: {figures:?}");
    println!("  written at full pace in {time:?}, memory {grown} KiB more");
    let (oldest, time, grown) = measure(|| purge(dir, 3).expect("purged"));
    assert_eq!(oldest, ZXID);
    println!("  read back considerately in {time:?}, memory {grown} KiB more");
    fs::remove_dir_all(dir).expect("removed");
    let (_, time, grown) =
        measure(|| write(dir, writer.tree(), ZXID, digest, &sessions).expect("written"));
    println!("  written considerately in {time:?}, memory {grown} KiB more");
    let log = &dir.with_extension("log");
    for _ in 0..3 {
        beside_log("quiet", log, || std::thread::sleep(Duration::from_secs(3)));
        fs::remove_dir_all(dir).expect("removed");
        beside_log("beside a snapshot at full pace", log, || {
            write_at(dir, writer.tree(), ZXID, digest, &sessions, Pace::Full).expect("written")
        });
        fs::remove_dir_all(dir).expect("removed");
        beside_log("beside a considerate snapshot", log, || {
            write(dir, writer.tree(), ZXID, digest, &sessions).expect("written")
        });
    }
    drop(writer);
    for run in ["the disk", "the page cache"] {
        let load = || load_newest(dir, &OPTIONS).expect("sound").expect("there");
        let (loaded, time, grown) = measure(load);
        assert_eq!(loaded.digest, digest);
        println!("  loaded from {run} in {time:?}, memory {grown} KiB in all");
    }
}

fn main() {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    for parents in [1, 1000] {
        let dir = dir.path().join(parents.to_string());
        report(&dir, parents);
        let mut criterion = Criterion::default()
            .sample_size(10)
            .measurement_time(Duration::from_secs(8))
            .configure_from_args();
        criterion.bench_function(&format!("load a million znodes, {parents} parents"), |bencher| {
            bencher.iter_with_large_drop(|| load_newest(&dir, &OPTIONS).expect("sound"));
        });
    }
}
