//! The tree's hot paths at a million znodes: get, set, create, and loading; bytes per znode.
//!
//! Znodes have 20 bytes of path and 100 of data, 1000 to a parent, and what is written is committed
//! and reclaimed as a server does it, a batch at a time.

#![expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use mimalloc::MiMalloc;
use ringkeeper::time::Time;
use ringkeeper::tree::builder::{Builder, Loaded};
use ringkeeper::tree::record::Meta;
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::txn::{CreateKind, CreateTxn, Txn, TxnHeader};
use ringkeeper::zxid::Zxid;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CONFIG: TreeConfig = TreeConfig { seed: 1, extended_types: true };
const PARENTS: usize = 1000;
const PER_PARENT: usize = 1000;
const DATA: [u8; 100] = [7; 100];

/// How many transactions are committed together.
const BATCH: u64 = 64;

struct Bench {
    writer: Writer,
    counter: u64,
}

impl Bench {
    fn apply(&mut self, txn: &Txn<'_>) {
        self.counter += 1;
        let zxid = Zxid::from_raw(1 << 32 | self.counter as i64);
        let header = TxnHeader { session: 1, cxid: 1, zxid, time_ms: 1 };
        black_box(self.writer.apply(&header, txn)).expect("the transaction fits");
        if self.counter.is_multiple_of(BATCH) {
            self.writer.reclaim(zxid, &[]);
        }
    }

    fn create(&mut self, path: &str) {
        let (data, acl) = (Some(&DATA[..]), EncodedAcl::OPEN);
        let kind = CreateKind::Plain { ephemeral: false, with_stat: false };
        self.apply(&Txn::Create(CreateTxn { path, data, acl, parent_cversion: -1, kind }));
    }
}

impl Bench {
    /// Makes a directory of so many children, ten apart.
    fn fill(&mut self, top: &str, count: usize) {
        self.create(top);
        for n in 0..count {
            self.create(&format!("{top}/{}", child(n * 10)));
        }
    }
}

fn parent(n: usize) -> String {
    format!("/p{n:06}")
}

fn child(n: usize) -> String {
    format!("n{n:010}")
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.expect("statm has it second") * 4096
}

/// The CPU time of the process.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

/// Loads a million znodes in `threads` threads.
fn load(paths: &[(String, Vec<String>)], threads: usize) -> Writer {
    let builder = Builder::new(CONFIG, PARENTS * PER_PARENT, Time::default());
    let system = [
        ("/", vec!["zookeeper"]),
        ("/zookeeper", vec!["config", "quota"]),
        ("/zookeeper/quota", vec![]),
        ("/zookeeper/config", vec![]),
    ];
    let mut part = builder.part();
    for (path, names) in system {
        // Parents' names sort before "zookeeper".
        let tops = paths.iter().filter(|_| path == "/").map(|(path, _)| &path[1..]);
        let children = tops.chain(names);
        let meta = Meta::default();
        part.add(Loaded { path, data: Some(b""), meta, children }).expect("a tree");
    }
    let first = part.finish();
    let add = |paths: &[(String, Vec<String>)]| {
        let mut part = builder.part();
        let mut path = String::new();
        for (parent, names) in paths {
            let children = names.iter().map(String::as_str);
            let (data, meta) = (Some(&b""[..]), Meta::default());
            part.add(Loaded { path: parent, data, meta, children }).expect("a tree");
            for name in names {
                path.clear();
                path.extend([parent, "/", name]);
                let (data, children) = (Some(&DATA[..]), std::iter::empty());
                part.add(Loaded { path: &path, data, meta, children }).expect("a tree");
            }
        }
        part.finish()
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let chunks = paths.chunks(paths.len().div_ceil(threads));
        let running: Vec<_> = chunks.map(|chunk| scope.spawn(|| add(chunk))).collect();
        running.into_iter().map(|thread| thread.join().expect("it loads")).collect()
    });
    builder.finish(parts.into_iter().chain([first]), Zxid::new(1, 0), None).expect("a tree")
}

fn reads_and_writes(c: &mut Criterion, bench: &mut Bench) {
    let count = PARENTS * PER_PARENT;
    let mut n = 0_usize;
    // A fixed stride visits the znodes in no order that a cache knows.
    let mut next = move || {
        n = (n + 618_033) % count;
        format!("{}/{}", parent(n / PER_PARENT), child(n % PER_PARENT))
    };
    let tree = Arc::clone(bench.writer.tree());
    c.bench_function("get, cold, of 1M", |b| {
        b.iter_batched(
            &mut next,
            |path| black_box(tree.view(Zxid::MAX).node(&path).map(|node| node.stat())),
            BatchSize::SmallInput,
        )
    });
    let path = format!("{}/{}", parent(1), child(1));
    c.bench_function("get, warm", |b| {
        b.iter(|| black_box(tree.view(Zxid::MAX).node(&path).map(|node| node.stat())))
    });
    let view = tree.view(Zxid::MAX);
    c.bench_function("get, warm, one view", |b| {
        b.iter(|| black_box(view.node(&path).map(|node| node.stat())))
    });
    drop(view);
    c.bench_function("set, cold, of 1M", |b| {
        b.iter_batched(
            &mut next,
            |path| bench.apply(&Txn::SetData { path: &path, data: Some(&DATA), version: 1 }),
            BatchSize::SmallInput,
        )
    });
}

/// Creates and deletes children of a directory of `count`; `bench` has a million znodes in all.
fn directory(c: &mut Criterion, bench: &mut Bench, top: &str, count: usize) {
    let mut n = count * 10;
    c.bench_function(&format!("create, ascending, beside {count}"), |b| {
        b.iter_custom(|iterations| {
            let paths: Vec<String> =
                (0..iterations).map(|i| format!("{top}/{}", child(n + i as usize))).collect();
            n += iterations as usize;
            let mut spent = Duration::ZERO;
            // Deleted again in between, so that the directory keeps its size.
            for paths in paths.chunks(64) {
                let start = Instant::now();
                paths.iter().for_each(|path| bench.create(path));
                spent += start.elapsed();
                for path in paths {
                    bench.apply(&Txn::Delete { path, by_reaper: false });
                }
            }
            spent
        })
    });
    let mut n = 0_usize;
    c.bench_function(&format!("create and delete, random, beside {count}"), |b| {
        b.iter_batched(
            || {
                n = (n + 618_033) % count;
                format!("{top}/{}", child(n * 10 + 5))
            },
            |path| {
                bench.create(&path);
                bench.apply(&Txn::Delete { path: &path, by_reaper: false });
            },
            BatchSize::SmallInput,
        )
    });
}

fn main() {
    let paths: Vec<(String, Vec<String>)> =
        (0..PARENTS).map(|n| (parent(n), (0..PER_PARENT).map(child).collect())).collect();
    let resident = resident_bytes();
    let (start, cpu) = (Instant::now(), cpu_time());
    let writer = load(&paths, 2);
    println!("load 1M in 2 threads: {:?}, CPU {:?}", start.elapsed(), cpu_time() - cpu);
    let bytes = resident_bytes() - resident;
    println!("bytes a znode after loading: {}", bytes / (PARENTS * PER_PARENT));
    let start = Instant::now();
    drop(load(&paths, 1));
    println!("load 1M in 1 thread and drop: {:?}", start.elapsed());
    drop(writer);
    let mut bench = Bench { writer: Writer::new(CONFIG, Time::default()), counter: 0 };
    let resident = resident_bytes();
    let start = Instant::now();
    for (parent, names) in &paths {
        bench.create(parent);
        for name in names {
            bench.create(&format!("{parent}/{name}"));
        }
    }
    let each = start.elapsed() / (PARENTS * PER_PARENT) as u32;
    println!("create 1M, 1000 to a parent: {each:?} each");
    let bytes = resident_bytes().saturating_sub(resident);
    println!("bytes a znode, beyond what loading left: {}", bytes / (PARENTS * PER_PARENT));
    drop(paths);
    let mut criterion = Criterion::default().configure_from_args();
    reads_and_writes(&mut criterion, &mut bench);
    bench.fill("/small", 100);
    directory(&mut criterion, &mut bench, "/small", 100);
    bench = Bench { writer: Writer::new(CONFIG, Time::default()), counter: 0 };
    bench.fill("/large", 1_000_000);
    directory(&mut criterion, &mut bench, "/large", 1_000_000);
    criterion.final_summary();
}
