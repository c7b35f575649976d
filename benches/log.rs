//! The log's hot paths: staging and sealing groups, scanning segments (both without a disk), groups
//! made durable by both writers, and a restart from files.

#![expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringkeeper::log::group::{Appender, Space, Tail};
use ringkeeper::log::recover::{self, Options, Recovered};
use ringkeeper::log::segment::{self, SegmentHeader};
use ringkeeper::log::{WriterKind, scan};
use ringkeeper::time::Time;
use ringkeeper::zxid::Zxid;

/// A typical transaction: a set of a hundred bytes with its header, path and digest.
const TXN_BYTES: usize = 200;
/// Transactions that arrive during one write at 100,000 a second.
const GROUP: u32 = 64;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Transactions in the log that a restart is measured on.
const RECOVER_TXNS: u32 = 1_000_000;
const IDENTITY: u64 = 7;

fn appender() -> Appender {
    let mut appender = Appender::new(
        Tail { identity: IDENTITY, last: Zxid::ZERO, chain: None, committed: Zxid::ZERO },
        SEGMENT_BYTES,
    );
    appender.offer(Space { sequence: 1, size: SEGMENT_BYTES });
    appender
}

fn append_group(appender: &mut Appender, counter: &mut u32, txn: &[u8], count: u32) {
    for _ in 0..count {
        *counter += 1;
        appender.append(Zxid::new(1, *counter), txn);
    }
}

fn append(c: &mut Criterion) {
    let txn = [0x5a; TXN_BYTES];
    let mut group = c.benchmark_group("append");
    for count in [1, GROUP, 1024] {
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("group of {count}"), |b| {
            let mut appender = appender();
            let mut sequence = 1;
            let mut counter = 0;
            b.iter(|| {
                append_group(&mut appender, &mut counter, &txn, count);
                while appender.wanted_space().is_some() {
                    sequence += 1;
                    appender.offer(Space { sequence, size: SEGMENT_BYTES });
                }
                let write = appender.poll_write().expect("there is space");
                black_box(appender.handle_written(write));
            });
        });
    }
    group.finish();
}

/// A full segment of groups of `count` transactions, and how many it holds.
fn full_segment(count: u32) -> (Vec<u8>, u32) {
    let header =
        SegmentHeader { identity: IDENTITY, sequence: 1, size: SEGMENT_BYTES, recycled: false };
    let mut bytes = header.encode().to_vec();
    let mut appender = appender();
    let mut counter = 0;
    let txn = [0x5a; TXN_BYTES];
    loop {
        append_group(&mut appender, &mut counter, &txn, count);
        let Some(write) = appender.poll_write() else { break };
        bytes.extend_from_slice(write.buffer.bytes());
        appender.handle_written(write);
    }
    bytes.resize(SEGMENT_BYTES as usize, 0);
    (bytes, appender.durable().counter())
}

/// A log of a million transactions in real files, written in large groups.
fn write_log(dir: &Path) {
    let mut log = open(dir).into_log(WriterKind::Direct).expect("the log opens");
    let txn = [0x5a; TXN_BYTES];
    for counter in 1..=RECOVER_TXNS {
        log.append(Zxid::new(1, counter), &txn);
        if counter % 1024 == 0 || counter == RECOVER_TXNS {
            while let Some(request) = log.wanted_segment(Time::default()) {
                log.offer_segment(segment::prepare(dir, request).expect("there is space"));
            }
            while let Some(write) = log.poll_write() {
                let result = write.perform_blocking();
                log.handle_written(write, result).expect("the disk works");
            }
        }
    }
}

fn open(dir: &Path) -> Recovered {
    let committed = Zxid::ZERO;
    let options = Options { identity: IDENTITY, segment_bytes: SEGMENT_BYTES, committed };
    recover::open(dir, options).expect("the log is sound")
}

fn recover(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan a segment");
    group.sample_size(20);
    for count in [1, GROUP, 1024] {
        let (bytes, txns) = full_segment(count);
        let last = scan::scan_image(1, &bytes).expect("the segment is sound").last;
        assert_eq!(last, Zxid::new(1, txns));
        group.throughput(Throughput::Elements(u64::from(txns)));
        group.bench_function(format!("groups of {count}"), |b| {
            b.iter(|| black_box(scan::scan_image(1, black_box(&bytes))));
        });
    }
    group.finish();

    let dir = tempfile::tempdir().expect("a directory");
    write_log(dir.path());
    let mut group = c.benchmark_group("restart");
    group.sample_size(10);
    group.throughput(Throughput::Elements(u64::from(RECOVER_TXNS)));
    group.bench_function("open and check", |b| b.iter(|| black_box(open(dir.path()).last())));
    group.bench_function("open, check and read", |b| {
        b.iter(|| {
            let recovered = open(dir.path());
            let mut transactions = recovered.read_from(Zxid::new(1, 1)).expect("no gap");
            let mut count = 0;
            while let Some(txn) = transactions.next_txn() {
                black_box(txn.expect("sound"));
                count += 1;
            }
            assert_eq!(count, RECOVER_TXNS);
        });
    });
    group.finish();
}

/// Groups of several sizes made durable by both writers, one after another. Where the temporary
/// directory is in memory `TMPDIR` names another.
fn durable(c: &mut Criterion) {
    let txn = [0x5a; TXN_BYTES];
    for (writer, name) in [(WriterKind::Direct, "direct"), (WriterKind::Mmap, "mmap")] {
        let mut group = c.benchmark_group(format!("durable, {name}"));
        group.sample_size(10);
        for count in [1, GROUP, 1024] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut log = open(dir.path()).into_log(writer).expect("the log opens");
            let mut counter = 0;
            group.throughput(Throughput::Elements(u64::from(count)));
            group.bench_function(format!("group of {count}"), |b| {
                b.iter_custom(|iterations| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..iterations {
                        while let Some(request) = log.wanted_segment(Time::default()) {
                            let segment = segment::prepare(dir.path(), request);
                            log.offer_segment(segment.expect("there is space"));
                        }
                        let start = Instant::now();
                        for _ in 0..count {
                            counter += 1;
                            log.append(Zxid::new(1, counter), &txn);
                        }
                        while let Some(write) = log.poll_write() {
                            let result = write.perform_blocking();
                            log.handle_written(write, result).expect("the disk works");
                        }
                        spent += start.elapsed();
                        // As after a snapshot: what is old makes room.
                        let retired = log.purge_below(Zxid::new(1, counter));
                        let remove = |it| segment::remove(dir.path(), it).expect("it is there");
                        retired.iter().for_each(remove);
                    }
                    spent
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, append, durable, recover);
criterion_main!(benches);
