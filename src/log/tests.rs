//! The log as a whole, on real files: what a crash, a bad disk and a purge leave behind.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::time::Time;
use crate::zxid::Zxid;

use super::append::Log;
use super::read::FileTransactions;
use super::recover::{self, Options, Recovered};
use super::segment::{self, to_usize};
use super::tool;
use super::{BLOCK, LogError, WriterKind};

mod damage;
mod piece;
mod random;
mod unreadable;

const SEGMENT: u64 = 64 << 10;
const IDENTITY: u64 = 0x1dea_11f7_0bad_cafe;

fn options() -> Options {
    Options { identity: IDENTITY, segment_bytes: SEGMENT, committed: Zxid::ZERO }
}

fn zxid(counter: u32) -> Zxid {
    Zxid::new(1, counter)
}

/// A transaction that is recognisable by its zxid.
fn txn(counter: u32, length: usize) -> Vec<u8> {
    let mut bytes = counter.to_le_bytes().repeat(length.div_ceil(4));
    bytes.truncate(length);
    bytes
}

fn open(dir: &Path) -> Recovered {
    recover::open(dir, options()).unwrap()
}

fn open_log(dir: &Path) -> Log {
    open(dir).into_log(WriterKind::Mmap).unwrap()
}

/// Prepares each segment that the log asks for.
fn prepare_wanted(dir: &Path, log: &mut Log) {
    while let Some(request) = log.wanted_segment(Time::default()) {
        log.offer_segment(segment::prepare(dir, request).unwrap());
    }
}

/// Performs every write that there is.
fn drain(dir: &Path, log: &mut Log) {
    prepare_wanted(dir, log);
    while let Some(write) = log.poll_write() {
        let result = write.perform_blocking();
        log.handle_written(write, result).unwrap();
        prepare_wanted(dir, log);
    }
    assert_eq!(log.durable(), log.appended());
}

/// Appends one transaction as a batch of its own and waits until it is durable.
fn commit(dir: &Path, log: &mut Log, counter: u32, length: usize) {
    log.append(zxid(counter), &txn(counter, length));
    drain(dir, log);
}

fn mark(log: &mut Log) {
    let write = log.mark_if_idle().expect("a mark is due");
    let result = write.perform_blocking();
    log.handle_written(write, result).unwrap();
}

/// All that can be read from `from` on.
fn read(recovered: &Recovered, from: Zxid) -> Vec<(Zxid, Vec<u8>)> {
    all(recovered.read_from(from).unwrap())
}

fn all(mut transactions: FileTransactions<'_>) -> Vec<(Zxid, Vec<u8>)> {
    std::iter::from_fn(|| Some(transactions.next_txn()?.map(|(zxid, txn)| (zxid, txn.to_vec()))))
        .map(|it| it.unwrap())
        .collect()
}

fn zxids(recovered: &Recovered, from: Zxid) -> Vec<u32> {
    read(recovered, from).iter().map(|(zxid, _)| zxid.counter()).collect()
}

/// Opens the log in `dir` and checks that it holds exactly the transactions `1..=last`.
fn check_holds(dir: &Path, last: u32) -> Recovered {
    let recovered = open(dir);
    assert_eq!(read(&recovered, Zxid::ZERO), read(&recovered, zxid(1)));
    assert_eq!(recovered.last(), if last == 0 { Zxid::ZERO } else { zxid(last) });
    assert_eq!(zxids(&recovered, zxid(1)), (1..=last).collect::<Vec<_>>());
    recovered
}

fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(segment::name(sequence))
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// A copy of every file of a log.
fn copy_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

fn put_back(dir: &Path, copy: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in copy_of(dir).keys().filter(|path| !copy.contains_key(*path)) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in copy {
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn what_was_acknowledged_is_read_back() {
    for writer in [WriterKind::Direct, WriterKind::Mmap] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).into_log(writer).unwrap();
        for counter in 1..=200 {
            log.append(zxid(counter), &txn(counter, counter as usize * 7));
            if counter % 3 == 0 {
                drain(dir.path(), &mut log);
            }
        }
        drain(dir.path(), &mut log);
        assert_eq!(all(log.reader().read_from(zxid(150)).unwrap()).len(), 51);
        drop(log);
        let recovered = check_holds(dir.path(), 200);
        for (zxid, bytes) in read(&recovered, zxid(1)) {
            assert_eq!(bytes, txn(zxid.counter(), zxid.counter() as usize * 7));
        }
        assert_eq!(recovered.figures().txns, 200);
        assert!(recovered.figures().segments > 2, "{:?}", recovered.figures());
        assert_eq!(recovered.figures().torn, None);
    }
}

#[test]
fn nothing_is_durable_before_its_own_write_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    prepare_wanted(dir.path(), &mut log);
    log.append(zxid(1), b"one");
    let first = log.poll_write().unwrap();
    // What arrives meanwhile is the next group's, and waits for its turn.
    log.append(zxid(2), b"two");
    log.append(zxid(3), b"three");
    assert!(log.poll_write().is_none());
    assert_eq!((log.durable(), log.appended()), (Zxid::ZERO, zxid(3)));
    assert_eq!(first.through, zxid(1));
    let result = first.perform_blocking();
    assert_eq!(log.handle_written(first, result).unwrap(), zxid(1));
    let second = log.poll_write().unwrap();
    assert_eq!((second.through, log.durable()), (zxid(3), zxid(1)));
    let result = second.perform_blocking();
    assert_eq!(log.handle_written(second, result).unwrap(), zxid(3));
    assert!(log.is_idle());
}

#[test]
fn a_failed_write_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    prepare_wanted(dir.path(), &mut log);
    log.append(zxid(1), b"one");
    let write = log.poll_write().unwrap();
    let failure = std::io::Error::from_raw_os_error(5);
    let error = log.handle_written(write, Err(failure)).unwrap_err();
    assert!(matches!(&error, LogError::Io { offset, .. } if *offset == BLOCK as u64), "{error}");
    log.append(zxid(2), b"two");
    assert!(log.poll_write().is_none());
    assert!(log.mark_if_idle().is_none());
    assert!(log.wanted_segment(Time::default()).is_none());
    assert!(!log.room().admits_session(1, 0));
    assert_eq!(log.durable(), Zxid::ZERO);
}

#[test]
fn a_full_volume_refuses_in_time_and_is_asked_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    prepare_wanted(dir.path(), &mut log);
    let mut counter = 0;
    let mut refusals = 0;
    while log.room().admits(1000, 0) {
        counter += 1;
        commit_refusing(&mut log, counter, &mut refusals);
    }
    assert_eq!(refusals, 1, "asked once, and again only after a while");
    let ordinary = counter;
    while log.room().admits_session(1000, 0) {
        counter += 1;
        commit_refusing(&mut log, counter, &mut refusals);
    }
    assert!(counter > ordinary, "the reserve is for sessions");
    assert_eq!(u64::from(counter), SEGMENT / BLOCK as u64 - 1, "to the last block");
    let later = log.retry_at().unwrap();
    let request = log.wanted_segment(later).expect("space may be back");
    log.offer_segment(segment::prepare(dir.path(), request).unwrap());
    assert!(log.room().admits(1000, 0));
    commit(dir.path(), &mut log, counter + 1, 1000);
    drop(log);
    check_holds(dir.path(), counter + 1);
}

/// Commits one transaction on a volume that has no room for a further segment.
fn commit_refusing(log: &mut Log, counter: u32, refusals: &mut u32) {
    log.append(zxid(counter), &txn(counter, 1000));
    let write = log.poll_write().expect("what was admitted has room");
    let result = write.perform_blocking();
    log.handle_written(write, result).unwrap();
    if let Some(request) = log.wanted_segment(Time::default()) {
        let full = LogError::Full { file: "x".into(), size: request.size };
        log.handle_segment_refused(Time::default(), full).unwrap();
        *refusals += 1;
    }
}

#[test]
fn a_transaction_larger_than_a_segment_gets_a_segment_of_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    commit(dir.path(), &mut log, 1, 40_000);
    assert!(log.room().bytes > SEGMENT, "a spare stands ready");
    // The spare is too small for it and stays empty for ever.
    commit(dir.path(), &mut log, 2, 300_000);
    commit(dir.path(), &mut log, 3, 10);
    drop(log);
    let recovered = check_holds(dir.path(), 3);
    // The large one has a segment to itself.
    assert_eq!(recovered.figures().segments, 3);
    assert_eq!(read(&recovered, zxid(2))[0].1, txn(2, 300_000));
    let empty = std::fs::read(path(dir.path(), 2)).unwrap();
    assert!(empty[BLOCK..].iter().all(|byte| *byte == 0));
}

#[test]
fn purged_segments_are_used_again_and_their_leftovers_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=400 {
        commit(dir.path(), &mut log, counter, 100 + counter as usize * 13 % 9000);
        if counter % 20 == 0 {
            let removed = log.purge_below(zxid(counter.saturating_sub(10)));
            for retired in removed {
                segment::remove(dir.path(), &retired).unwrap();
            }
        }
        if counter % 50 == 0 {
            drop(log);
            let recovered = open(dir.path());
            assert_eq!(recovered.figures().torn, None);
            let held = zxids(&recovered, zxid(counter - 9));
            assert_eq!(held, (counter - 9..=counter).collect::<Vec<_>>());
            log = recovered.into_log(WriterKind::Mmap).unwrap();
        }
    }
    // What is kept: the current segment, one ahead, those not yet purged and the spares.
    assert!(copy_of(dir.path()).len() <= 12, "{}", copy_of(dir.path()).len());
    let recycled = copy_of(dir.path()).into_values();
    let recycled = recycled.filter(|it| segment::SegmentHeader::decode(it).unwrap().recycled);
    assert!(recycled.count() > 0);
    drop(log);
    let error = open(dir.path()).read_from(zxid(1)).err().unwrap();
    assert!(matches!(error, LogError::Gap { .. }), "{error}");
}

#[test]
fn a_reader_keeps_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=60 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    let reader = log.reader();
    log.purge_below(zxid(50));
    let files = copy_of(dir.path()).len();
    for counter in 61..=90 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    assert!(copy_of(dir.path()).len() > files, "new files, not recycled ones");
    let read: Vec<_> = all(reader.read_from(zxid(1)).unwrap()).into_iter().map(|it| it.0).collect();
    assert_eq!(read, (1..=60).map(zxid).collect::<Vec<_>>());
    drop(reader);
    log.purge_below(zxid(50));
    assert!(log.reader().read_from(zxid(1)).is_err());
}

#[test]
fn a_truncated_history_is_gone_and_goes_on_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=60 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    log.truncate_after(zxid(33)).unwrap();
    drain(dir.path(), &mut log);
    assert_eq!((log.durable(), log.appended()), (zxid(33), zxid(33)));
    drop(log);
    check_holds(dir.path(), 33);
    let mut log = open_log(dir.path());
    let other = Zxid::new(2, 1);
    log.append(other, b"other");
    drain(dir.path(), &mut log);
    let live: Vec<_> =
        all(log.reader().read_from(zxid(30)).unwrap()).into_iter().map(|it| it.0).collect();
    assert_eq!(live, vec![zxid(30), zxid(31), zxid(32), zxid(33), other]);
    drop(log);
    let recovered = open(dir.path());
    assert_eq!(read(&recovered, zxid(40)), vec![(other, b"other".to_vec())]);
    let mut log = recovered.into_log(WriterKind::Mmap).unwrap();
    // A snapshot that does not continue the history makes everything before it void.
    log.reset_after(Zxid::new(1, 20));
    drain(dir.path(), &mut log);
    log.append(Zxid::new(3, 1), b"third");
    drain(dir.path(), &mut log);
    let refused = log.truncate_after(Zxid::new(1, 10)).unwrap_err();
    assert!(matches!(refused, LogError::Gap { .. }), "{refused}");
    drop(log);
    let recovered = open(dir.path());
    assert!(recovered.read_from(zxid(20)).is_err());
    assert_eq!(read(&recovered, zxid(21)), vec![(Zxid::new(3, 1), b"third".to_vec())]);
}

#[test]
fn a_new_log_may_start_after_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    log.reset_after(zxid(500));
    commit(dir.path(), &mut log, 501, 10);
    drop(log);
    let recovered = open(dir.path());
    assert_eq!(zxids(&recovered, zxid(501)), vec![501]);
    let error = recovered.read_from(zxid(500)).err().unwrap();
    assert!(matches!(error, LogError::Gap { starts_after, .. } if starts_after == zxid(500)));
}

#[test]
fn files_whose_creation_was_cut_short_are_skipped() {
    let header =
        segment::SegmentHeader { identity: IDENTITY, sequence: 3, size: SEGMENT, recycled: false };
    let header = header.encode();
    let zeros = vec![0; to_usize(SEGMENT)];
    for partial in [&[][..], &header[..8], &header[..], &zeros, &zeros[..100]] {
        // Alone, and behind a log of two segments.
        for committed in [0, 16] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open_log(dir.path());
            for counter in 1..=committed {
                commit(dir.path(), &mut log, counter, 3000);
            }
            drop(log);
            let sequence = copy_of(dir.path()).len() as u64 + 1;
            let unfinished = dir.path().join(segment::name(sequence + 1) + ".new");
            std::fs::write(path(dir.path(), sequence), partial).unwrap();
            std::fs::write(&unfinished, partial).unwrap();
            if partial == &header[..] && sequence != 3 {
                let error = recover::open(dir.path(), options()).err().unwrap();
                assert!(matches!(error, LogError::Damaged { offset: 0, .. }), "{error}");
                continue;
            }
            let recovered = check_holds(dir.path(), committed);
            assert!(!unfinished.exists());
            let mut log = recovered.into_log(WriterKind::Mmap).unwrap();
            for counter in committed + 1..=committed + 40 {
                commit(dir.path(), &mut log, counter, 3000);
            }
            drop(log);
            check_holds(dir.path(), committed + 40);
        }
    }
}

#[test]
fn an_empty_file_in_the_middle_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    commit(dir.path(), &mut log, 1, 40_000);
    commit(dir.path(), &mut log, 2, 300_000);
    drop(log);
    // Segment 2 was passed over: it never held anything.
    for partial in [&[][..], &[0; 8], &[0; 5000]] {
        std::fs::write(path(dir.path(), 2), partial).unwrap();
        check_holds(dir.path(), 2);
    }
    // Segment 1 did.
    std::fs::write(path(dir.path(), 1), []).unwrap();
    let recovered = open(dir.path());
    assert!(matches!(recovered.read_from(zxid(1)), Err(LogError::Gap { .. })));
}

#[test]
fn damage_that_appears_while_the_log_is_open_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=3 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    patch(&path(dir.path(), 1), 2 * BLOCK as u64 + 300, b"rot");
    let reader = log.reader();
    let mut transactions = reader.read_from(zxid(1)).unwrap();
    assert_eq!(transactions.next_txn().unwrap().unwrap().0, zxid(1));
    let error = transactions.next_txn().unwrap().unwrap_err();
    let LogError::Damaged { offset, last_good_zxid, .. } = error else { panic!("{error}") };
    assert_eq!((offset, last_good_zxid), (8192, zxid(1)));
    assert!(transactions.next_txn().is_none());
}

#[test]
fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=60 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    drop(log);
    std::fs::remove_file(path(dir.path(), 2)).unwrap();
    let error = recover::open(dir.path(), options()).err().unwrap();
    let LogError::Damaged { file, last_good_zxid, .. } = error else { panic!("{error}") };
    assert_eq!((file, last_good_zxid), (path(dir.path(), 2), zxid(15)));
}

#[test]
fn a_log_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let error = recover::open(dir.path(), options()).err().unwrap();
    assert!(matches!(error, LogError::InUse { .. }), "{error}");
    drop(log);
    open(dir.path());
}

#[test]
fn the_tools_say_what_is_there_and_what_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=5 {
        commit(dir.path(), &mut log, counter, 5000);
    }
    mark(&mut log);
    let print = |tool: fn(&Path, &mut dyn std::io::Write) -> Result<(), LogError>, path: &Path| {
        let mut out = Vec::new();
        let result = tool(path, &mut out);
        (String::from_utf8(out).unwrap(), result)
    };
    // The log is in use, and may be looked at.
    let (text, result) = print(tool::dump, dir.path());
    result.unwrap();
    assert!(text.contains("Txns segment 1 first 0x100000003 last 0x100000003"), "{text}");
    assert!(text.contains("Mark"), "{text}");
    assert!(text.contains("marked durable through zxid 0x100000005"), "{text}");
    let (text, result) = print(tool::verify, &path(dir.path(), 1));
    result.unwrap();
    assert!(text.contains("batches 6 txns 5 bytes 25000"), "{text}");
    patch(&path(dir.path(), 1), 3 * BLOCK as u64 + 700, b"damage");
    for tool in [tool::dump, tool::verify] {
        let (text, result) = print(tool, dir.path());
        assert!(text.contains("damaged at offset 12288"), "{text}");
        assert!(text.contains("good through zxid 0x100000001"), "{text}");
        assert!(matches!(result, Err(LogError::Damaged { offset: 12288, .. })));
    }
}

#[test]
fn only_the_names_of_segments_are_taken_for_segments() {
    let check = |text: &str, want| {
        assert_eq!(segment::sequence_of(std::ffi::OsStr::new(text)), want, "{text}");
    };
    check("ringlog.0000000001", Some(1));
    check("ringlog.12345678901", Some(12_345_678_901));
    check("ringlog.1", None);
    check("ringlog.+000000001", None);
    check("ringlog.18446744073709551615", None);
    check("ringlog.0000000001.new", None);
    check("log.0000000001", None);
    assert!(segment::is_unfinished(std::ffi::OsStr::new("ringlog.0000000001.new")));
    assert!(!segment::is_unfinished(std::ffi::OsStr::new("other.new")));
}

/// R10: what is known to be committed is known again after a restart.
#[test]
fn r10_the_committed_zxid_stands_in_later_batches_and_in_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    commit(dir.path(), &mut log, 1, 10);
    log.set_committed(zxid(1));
    commit(dir.path(), &mut log, 2, 10);
    // A leader may know of more than this log has; a later word of less changes nothing.
    log.set_committed(zxid(7));
    log.set_committed(zxid(2));
    assert_eq!(log.committed(), zxid(7));
    drop(log);
    let recovered = open(dir.path());
    assert_eq!(recovered.committed(), zxid(1));
    let mut log = recovered.into_log(WriterKind::Mmap).unwrap();
    assert_eq!(log.committed(), zxid(1));
    log.set_committed(zxid(7));
    mark(&mut log);
    drop(log);
    assert_eq!(open(dir.path()).committed(), zxid(2), "not beyond the log's end");
    // A snapshot that a leader sent need not be of what is committed.
    let mut log = open_log(dir.path());
    log.reset_after(Zxid::new(2, 9));
    drain(dir.path(), &mut log);
    drop(log);
    assert_eq!(open(dir.path()).committed(), zxid(2));
    let mut log = open_log(dir.path());
    log.append(Zxid::new(2, 10), b"ten");
    drain(dir.path(), &mut log);
    drop(log);
    assert_eq!(open(dir.path()).committed(), zxid(2));
}
