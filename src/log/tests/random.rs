//! Random appends and crashes against a model, and random bytes against the scan.

use proptest::prelude::*;

use super::super::batch::Header;
use super::super::scan;
use super::super::{BATCH_VERSION, BATCH_VERSION_OLD};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Stage this many transactions of this many bytes.
    Append(u32, usize),
    /// Perform this many writes.
    Write(u32),
    Mark,
    /// Purge what is this far below the end.
    Purge(u32),
    /// The power goes while a write is in flight: the sectors whose bits are set reach the disk.
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20u32, 0..6000usize).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        1 => (1..2u32, 60_000..100_000usize).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        4 => (1..6u32).prop_map(Step::Write),
        1 => Just(Step::Mark),
        1 => (0..50u32).prop_map(Step::Purge),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Crash(u64::MAX)),
    ]
}

/// What should be in the log.
struct Model {
    /// Bytes of each transaction, by zxid counter, from 1.
    sizes: Vec<usize>,
    acknowledged: usize,
    purged: usize,
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let mut model = Model { sizes: Vec::new(), acknowledged: 0, purged: 0 };
    for step in steps.into_iter().chain([Step::Crash(0)]) {
        prepare_wanted(dir.path(), &mut log);
        match step {
            Step::Append(count, bytes) => {
                for _ in 0..count {
                    model.sizes.push(bytes);
                    let counter = model.sizes.len() as u32;
                    log.append(zxid(counter), &txn(counter, bytes));
                }
            }
            Step::Write(count) => {
                for _ in 0..count {
                    prepare_wanted(dir.path(), &mut log);
                    let Some(write) = log.poll_write() else { break };
                    let result = write.perform_blocking();
                    let durable = log.handle_written(write, result).unwrap();
                    assert!(durable.counter() as usize > model.acknowledged);
                    model.acknowledged = durable.counter() as usize;
                }
            }
            Step::Mark => {
                if let Some(write) = log.mark_if_idle() {
                    let result = write.perform_blocking();
                    log.handle_written(write, result).unwrap();
                }
            }
            Step::Purge(distance) => {
                let below = model.acknowledged.saturating_sub(distance as usize);
                model.purged = model.purged.max(below);
                for retired in log.purge_below(zxid(below as u32)) {
                    segment::remove(dir.path(), &retired).unwrap();
                }
            }
            Step::Crash(sectors) => log = crash(dir.path(), log, &mut model, sectors),
        }
    }
}

fn crash(dir: &Path, mut log: Log, model: &mut Model, sectors: u64) -> Log {
    let mut in_flight = model.acknowledged;
    if let Some(write) = log.poll_write() {
        in_flight = write.through.counter() as usize;
        for (index, sector) in write.buffer.bytes().chunks(512).enumerate() {
            if sectors.rotate_right(index as u32 * 7) & 1 == 1 {
                patch(write.file.path(), write.offset + index as u64 * 512, sector);
            }
        }
    }
    drop(log);
    let recovered = open(dir);
    let last = recovered.last().counter() as usize;
    assert!(
        last == model.acknowledged || last == in_flight,
        "acknowledged {} in flight {in_flight} found {last}",
        model.acknowledged
    );
    model.sizes.truncate(last);
    model.acknowledged = last;
    let from = model.purged.max(1);
    let held = read(&recovered, zxid(from as u32));
    assert_eq!(held.len(), (last + 1).saturating_sub(from));
    for ((found, bytes), counter) in held.iter().zip(from as u32..) {
        assert_eq!(*found, zxid(counter));
        assert_eq!(*bytes, txn(counter, model.sizes[counter as usize - 1]));
    }
    let writer = if sectors & 2 == 0 { WriterKind::Mmap } else { WriterKind::Direct };
    recovered.into_log(writer).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn crashes_lose_nothing_acknowledged(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Random damage, with the header's checksum repaired or not, is a value and never a panic.
    #[test]
    fn no_bytes_make_the_scan_panic(
        blocks in prop::collection::vec(
            (0..8usize, 0..88usize, any::<[u8; 8]>(), any::<bool>()),
            1..8,
        ),
        length in 0..40_000usize,
    ) {
        let mut bytes = small_image(BATCH_VERSION);
        for (block, at, value, repair) in blocks {
            let block = &mut bytes[block * BLOCK..][..BLOCK];
            block[at..at + 8].copy_from_slice(&value);
            if repair {
                let checksum = crc32c::crc32c(&block[..84]);
                block[84..88].copy_from_slice(&checksum.to_le_bytes());
            }
        }
        bytes.truncate(length.max(8));
        if let Ok(history) = scan::scan_image(1, &bytes) {
            assert!(history.segments[0].end <= bytes.len().max(BLOCK) as u64);
        }
    }
}

/// A segment with three batches of two blocks; the second says that the first is committed.
fn small_image(version: u16) -> Vec<u8> {
    use super::super::batch::{Kind, record_header};
    let header = segment::SegmentHeader {
        identity: IDENTITY,
        sequence: 1,
        size: 10 * BLOCK as u64,
        recycled: false,
    };
    let mut bytes = header.encode().to_vec();
    let mut chain = 0;
    for counter in 1..=3 {
        let mut payload = record_header(zxid(counter), 5000).to_vec();
        payload.extend(txn(counter, 5000));
        if version == BATCH_VERSION {
            let committed = if counter == 2 { zxid(1) } else { Zxid::ZERO };
            payload.extend(committed.raw().to_le_bytes());
        }
        let header = Header {
            kind: Kind::Txns,
            version,
            identity: IDENTITY,
            sequence: 1,
            offset: bytes.len() as u64,
            length: payload.len() as u32,
            count: 1,
            first: zxid(counter),
            last: zxid(counter),
            previous: if counter == 1 { Zxid::ZERO } else { zxid(counter - 1) },
            durable: Zxid::ZERO,
            chain,
            payload_crc: crc32c::crc32c(&payload),
        };
        chain = header.checksum();
        bytes.extend(header.encode());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(10 * BLOCK, 0);
    let history = scan::scan_image(1, &bytes).unwrap();
    let committed = if version == BATCH_VERSION { zxid(1) } else { Zxid::ZERO };
    assert_eq!((history.last, history.committed), (zxid(3), committed));
    assert_eq!((history.segments[0].txns, history.segments[0].bytes), (3, 15_000));
    bytes
}

#[test]
fn batches_without_a_committed_zxid_are_read_and_a_newer_version_is_refused() {
    small_image(BATCH_VERSION_OLD);
    let mut bytes = small_image(BATCH_VERSION);
    let header = &mut bytes[BLOCK..BLOCK + 88];
    header[80] = 3;
    let checksum = crc32c::crc32c(&header[..84]);
    header[84..].copy_from_slice(&checksum.to_le_bytes());
    let damage = scan::scan_image(1, &bytes).unwrap_err();
    assert!(damage.is_newer && damage.what.contains("a newer release"), "{}", damage.what);
}
