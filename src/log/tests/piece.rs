//! The log read piece by piece, beside the appending, over turns, and off a bad disk.

use std::sync::mpsc::channel;

use super::super::piece::{Bookmark, Piece};
use super::super::read::Reader;
use super::*;

/// Everything after `after`, in pieces of `bytes_max`, each by a bookmark.
fn pieces(reader: &Reader, after: Zxid, bytes_max: usize) -> Vec<(Zxid, Vec<u8>)> {
    let mut found: Vec<(Zxid, Vec<u8>)> = Vec::new();
    let (mut after, mut bookmark): (Zxid, Option<Bookmark>) = (after, None);
    loop {
        let Piece { txns, is_end, bookmark: next, .. } =
            reader.read_piece(after, bytes_max, bookmark).unwrap();
        assert!(is_end || !txns.is_empty(), "each piece goes on");
        let bytes: usize = txns.iter().map(|(_, txn)| txn.len()).sum();
        assert!(txns.len() <= 1 || bytes < bytes_max.saturating_add(10_000), "{bytes} bytes");
        found.extend(txns.into_iter().map(|(zxid, txn)| (zxid, txn.to_vec())));
        after = found.last().map_or(after, |(zxid, _)| *zxid);
        // Without a bookmark it is the same, and takes longer.
        let searched = reader.read_piece(after, 1, None).unwrap().txns;
        assert_eq!(searched, reader.read_piece(after, 1, Some(next)).unwrap().txns);
        bookmark = Some(next);
        if is_end {
            return found;
        }
    }
}

fn whole(reader: &Reader, from: Zxid) -> Vec<(Zxid, Vec<u8>)> {
    super::all(reader.read_from(from).unwrap())
}

#[test]
fn pieces_are_what_the_whole_history_shows() {
    for writer in [WriterKind::Direct, WriterKind::Mmap] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).into_log(writer).unwrap();
        for counter in 1..=200 {
            log.append(zxid(counter), &txn(counter, counter as usize * 41 % 9000));
            if counter % 7 == 0 {
                drain(dir.path(), &mut log);
            }
        }
        drain(dir.path(), &mut log);
        log.append(zxid(201), &txn(201, 300_000));
        drain(dir.path(), &mut log);
        let reader = log.reader();
        for after in [Zxid::ZERO, zxid(1), zxid(77), zxid(200), zxid(201), Zxid::new(9, 9)] {
            let from = Zxid::from_raw(after.raw() + 1);
            for bytes_max in [0, 1, 20_000, usize::MAX] {
                assert!(pieces(&reader, after, bytes_max) == whole(&reader, from));
            }
        }
        assert_eq!(reader.read_piece(Zxid::MAX, 1, None).unwrap().txns, []);
    }
}

#[test]
fn a_piece_says_where_a_foreign_zxid_branches_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=60 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    log.truncate_after(zxid(33)).unwrap();
    drain(dir.path(), &mut log);
    let second = |counter| Zxid::new(2, counter);
    for counter in 1..=9 {
        log.append(second(counter), &txn(counter, 3000));
        drain(dir.path(), &mut log);
    }
    let check = |after: Zxid, previous: Zxid, next: Option<Zxid>| {
        let piece = log.reader().read_piece(after, 1, None).unwrap();
        assert_eq!(piece.previous, previous, "after {after}");
        assert_eq!(piece.txns.first().map(|(zxid, _)| *zxid), next, "after {after}");
    };
    check(Zxid::ZERO, Zxid::ZERO, Some(zxid(1)));
    check(zxid(32), zxid(32), Some(zxid(33)));
    check(zxid(33), zxid(33), Some(second(1)));
    // What was cut off is as foreign as what never was.
    check(zxid(34), zxid(33), Some(second(1)));
    check(zxid(900), zxid(33), Some(second(1)));
    check(second(8), second(8), Some(second(9)));
    check(second(9), second(9), None);
    check(Zxid::new(7, 7), second(9), None);
    assert_eq!(pieces(&log.reader(), zxid(40), 10_000).len(), 9);
}

#[test]
fn a_piece_that_the_log_does_not_reach_back_to_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let gap = |log: &Log, after: Zxid| {
        let error = log.reader().read_piece(after, 1, None).err()?;
        assert!(matches!(error, LogError::Gap { .. }), "{error}");
        Some(())
    };
    // A log without a batch, behind a snapshot.
    log.reset_after(zxid(500));
    assert_eq!(gap(&log, zxid(499)), Some(()));
    assert_eq!(gap(&log, zxid(500)), None);
    for counter in 501..=560 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    assert_eq!(gap(&log, zxid(499)), Some(()));
    assert_eq!(gap(&log, zxid(500)), None);
    log.purge_below(zxid(540));
    assert_eq!(gap(&log, zxid(500)), Some(()));
    assert_eq!(gap(&log, zxid(540)), None);
}

#[test]
fn a_learner_is_fed_by_another_thread_while_the_log_grows() {
    const LAST: u32 = 400;
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).into_log(WriterKind::Direct).unwrap();
    let (readers, from_log) = channel::<Reader>();
    let (wants, to_log) = channel::<()>();
    std::thread::scope(|scope| {
        let learner = scope.spawn(move || {
            let (mut last, mut bookmark) = (Zxid::ZERO, None);
            while last < zxid(LAST) {
                wants.send(()).unwrap();
                let reader = from_log.recv().unwrap();
                let piece = reader.read_piece(last, 20_000, bookmark).unwrap();
                for (zxid, bytes) in &piece.txns {
                    assert_eq!(*zxid, last.next().unwrap_or(Zxid::ZERO).max(super::zxid(1)));
                    assert_eq!(bytes[..], txn(zxid.counter(), 2000)[..]);
                    last = *zxid;
                }
                bookmark = Some(piece.bookmark);
            }
        });
        let mut counter = 0;
        while !learner.is_finished() {
            if counter < LAST {
                counter += 1;
                log.append(zxid(counter), &txn(counter, 2000));
                prepare_wanted(dir.path(), &mut log);
                if let Some(write) = log.poll_write() {
                    // The learner reads while the write is on its way.
                    if to_log.try_recv().is_ok() {
                        readers.send(log.reader()).unwrap();
                    }
                    let result = write.perform_blocking();
                    log.handle_written(write, result).unwrap();
                }
            } else {
                drain(dir.path(), &mut log);
                if to_log.recv_timeout(std::time::Duration::from_millis(1)).is_ok() {
                    readers.send(log.reader()).unwrap();
                }
            }
        }
        learner.join().unwrap();
    });
}

/// A19: what the disk does not give is an error of the one who reads; the log goes on.
#[test]
fn a19_what_cannot_be_read_is_an_error_and_no_signal() {
    for writer in [WriterKind::Direct, WriterKind::Mmap] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).into_log(writer).unwrap();
        for counter in 1..=60 {
            commit(dir.path(), &mut log, counter, 3000);
        }
        // As far as a process can make a sector go away: the file's end is gone.
        let file = std::fs::OpenOptions::new().write(true).open(path(dir.path(), 1)).unwrap();
        file.set_len(3 * BLOCK as u64).unwrap();
        let error = log.reader().read_piece(zxid(1), usize::MAX, None).err().unwrap();
        assert!(matches!(&error, LogError::Io { op: "read", .. }), "{error}");
        commit(dir.path(), &mut log, 61, 3000);
        // A later segment is whole.
        let piece = log.reader().read_piece(zxid(50), usize::MAX, None).unwrap();
        assert_eq!(piece.txns.last().unwrap().0, zxid(61));
        // A bit that has turned is found too.
        let second = path(dir.path(), 3);
        patch(&second, 3 * BLOCK as u64 + 1000, b"\xff\xff");
        let error = log.reader().read_piece(zxid(31), usize::MAX, None).err().unwrap();
        assert!(matches!(&error, LogError::Damaged { .. }), "{error}");
    }
}
