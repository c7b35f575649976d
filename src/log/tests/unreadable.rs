//! Bytes that cannot be read: bad sectors, and files that somebody cuts short under their reader.

use std::io::ErrorKind;

use rustix::io::Errno;

use super::super::bytes::{Bytes, WINDOW_BYTES};
use super::super::scan::{Fault, Scanner};
use super::super::segment::SegmentFile;
use super::*;

/// An image with a bad sector at `bad`.
struct Disk<'a> {
    bytes: &'a [u8],
    bad: u64,
}

impl Bytes for Disk<'_> {
    type Error = u64;

    fn count(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn at(&mut self, offset: u64, count: u64) -> Result<&[u8], u64> {
        match (offset..offset + count).contains(&self.bad) {
            true => Err(offset),
            false => Ok(&self.bytes[to_usize(offset)..to_usize(offset + count)]),
        }
    }
}

#[test]
fn a19_a_sector_that_cannot_be_read_is_told_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=4 {
        commit(dir.path(), &mut log, counter, 5000);
    }
    drop(log);
    let bytes = std::fs::read(path(dir.path(), 1)).unwrap();
    for bad in (0..SEGMENT).step_by(BLOCK) {
        let mut scanner = Scanner::default();
        let result = scanner.read_segment(1, &mut Disk { bytes: &bytes, bad });
        let Err(Fault::Unreadable { last_good, error }) = result else {
            panic!("{bad}: {result:?}");
        };
        // A header's block, four batches of two blocks, and what nobody wrote.
        let batch = (bad / BLOCK as u64).saturating_sub(1) / 2;
        assert_eq!(u64::from(last_good.counter()), batch.min(4));
        assert!(error <= bad);
        assert!(batch >= 4 || bad - error <= BLOCK as u64);
    }
}

#[test]
fn a19_a_bad_sector_is_damage_and_says_what_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=3 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    drop(log);
    for (errno, is_damage) in [(Errno::IO, true), (Errno::NODATA, true), (Errno::NOMEM, false)] {
        let disk = |path: &Path, offset, _| Err(LogError::io("read", path, offset, errno));
        let error = recover::open_by(dir.path(), options(), &disk).err().unwrap();
        match error {
            LogError::Damaged { file, offset, last_good_zxid, what } if is_damage => {
                assert_eq!(file, path(dir.path(), 1));
                assert_eq!((offset, last_good_zxid), (3 * BLOCK as u64, zxid(2)));
                assert!(what.contains("cannot read"), "{what}");
            }
            LogError::Io { offset, .. } if !is_damage => assert_eq!(offset, 3 * BLOCK as u64),
            error => panic!("{errno}: {error}"),
        }
    }
    // Nothing was changed by that.
    check_holds(dir.path(), 3);
}

#[test]
fn a19_a_file_that_is_cut_short_under_its_reader_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=60 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    drop(log);
    let recovered = open(dir.path());
    let mut transactions = recovered.read_from(zxid(1)).unwrap();
    assert_eq!(transactions.next_txn().unwrap().unwrap().0, zxid(1));
    let second = path(dir.path(), 2);
    let file = std::fs::OpenOptions::new().write(true).open(&second).unwrap();
    file.set_len(3 * BLOCK as u64).unwrap();
    let mut last = zxid(1);
    let error = loop {
        match transactions.next_txn().expect("no end before the error") {
            Ok((zxid, _)) => last = zxid,
            Err(error) => break error,
        }
    };
    assert!(transactions.next_txn().is_none());
    let LogError::Io { file, offset, source, .. } = error else { panic!("{error}") };
    // What stands before the cut was read: the file's first block is its header's.
    let before = SEGMENT / BLOCK as u64 - 1 + 2;
    assert_eq!((file, offset), (second, 3 * BLOCK as u64));
    assert_eq!(u64::from(last.counter()), before);
    assert_eq!(source.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_window_gives_the_same_bytes_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bytes");
    let count = 3 * WINDOW_BYTES + 100;
    let bytes: Vec<u8> = (0..count).map(|at| (at * 7 + (at >> 9)) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = SegmentFile::open_to_read(path.clone(), 1, count).unwrap();
    let block = BLOCK as u64;
    for end in [count, count - 200, 2 * WINDOW_BYTES] {
        let mut window = file.bytes_to(end);
        let mut places = vec![(0, 0), (0, 1), (0, end), (block, 2 * WINDOW_BYTES - block)];
        places.extend((0..end / block).map(|it| (it * block, block.min(end - it * block))));
        places.extend((0..end / block).rev().map(|it| (it * block, (end - it * block).min(77))));
        for (offset, length) in places {
            let expected = &bytes[to_usize(offset)..to_usize(offset + length)];
            assert!(window.at(offset, length).unwrap() == expected, "{offset} {length} of {end}");
        }
    }
    // What cannot be read behind what is wanted does not matter.
    let longer = SegmentFile::open_to_read(path, 1, count + block).unwrap();
    let mut window = longer.bytes_to(count + block);
    let last = 3 * WINDOW_BYTES - block;
    assert!(window.at(last, block).unwrap() == &bytes[to_usize(last)..][..BLOCK]);
    assert!(window.at(last, block + 200).is_err());
    assert!(window.at(last, block).is_ok());
}
