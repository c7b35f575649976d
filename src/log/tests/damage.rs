//! Every byte of a log cut, flipped or put elsewhere: a torn tail is dropped, damage is named.

use super::super::batch::Header;
use super::super::scan::{self, Damage, History, Image, Stop};
use super::*;

/// The first segment's bytes after `counters` commits of two blocks each, marked or not, with the
/// offset of each batch.
fn image(counters: u32, marked: bool) -> (Vec<u8>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=counters {
        commit(dir.path(), &mut log, counter, 5000);
    }
    if marked {
        mark(&mut log);
    }
    let bytes = std::fs::read(path(dir.path(), 1)).unwrap();
    let offsets = batch_offsets(&bytes);
    assert_eq!(offsets.len(), counters as usize + usize::from(marked));
    (bytes, offsets)
}

fn batch_offsets(bytes: &[u8]) -> Vec<u64> {
    let mut offsets = Vec::new();
    let mut offset = BLOCK as u64;
    while let Ok(header) = Header::decode(&bytes[to_usize(offset)..]) {
        offsets.push(offset);
        offset += header.padded_bytes();
    }
    offsets
}

fn scan(bytes: &[u8]) -> Result<History, Damage> {
    scan::scan_image(1, bytes)
}

fn check_damage(bytes: &[u8], offset: u64, last_good: u32, context: usize) {
    let damage = scan(bytes).expect_err(&format!("byte {context} is damaged"));
    assert_eq!((damage.place.sequence, damage.place.offset), (1, offset), "byte {context}");
    let last_good = if last_good == 0 { Zxid::ZERO } else { zxid(last_good) };
    assert_eq!(damage.last_good, last_good, "byte {context}");
}

#[test]
fn a_cut_at_every_byte_of_the_last_batch_loses_only_that_batch() {
    let (bytes, offsets) = image(4, false);
    let start = to_usize(offsets[3]);
    let end = start + 2 * BLOCK;
    let used = start + 88 + 12 + 5000;
    for cut in start..end {
        let mut zeroed = bytes.clone();
        zeroed[cut..end].fill(0);
        let mut garbled = bytes.clone();
        garbled[cut..end].fill(0xa5);
        for (what, image) in [("short", &bytes[..cut]), ("zero", &zeroed), ("garbled", &garbled)] {
            let history = scan(image).unwrap_or_else(|it| panic!("{what} at {cut}: {it:?}"));
            // A cut behind the last byte that is not zero leaves the batch as it was.
            let whole = what == "zero" && zeroed == bytes;
            assert!(!whole || cut >= used - 4, "{cut}");
            let last = if whole { 4 } else { 3 };
            assert_eq!(history.last, zxid(last), "{what} at {cut}");
        }
    }
}

#[test]
fn a_cut_file_recovers_and_the_next_appends_are_not_confused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=4 {
        commit(dir.path(), &mut log, counter, 5000);
    }
    drop(log);
    let copy = copy_of(dir.path());
    let first = path(dir.path(), 1);
    let start = *batch_offsets(&copy[&first]).last().unwrap();
    let end = start + 2 * BLOCK as u64;
    for cut in (start..end).step_by(397) {
        for shorten in [true, false] {
            put_back(dir.path(), &copy);
            if shorten {
                let file = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
                file.set_len(cut).unwrap();
            } else {
                patch(&first, cut, &vec![0; to_usize(end - cut)]);
            }
            let recovered = open(dir.path());
            let last = recovered.last().counter();
            assert!(last == 3 || (last == 4 && cut > start + 5000), "at {cut}: {last}");
            let mut log = recovered.into_log(WriterKind::Mmap).unwrap();
            for counter in last + 1..=last + 3 {
                commit(dir.path(), &mut log, counter, 100 * counter as usize);
            }
            drop(log);
            let recovered = check_holds(dir.path(), last + 3);
            assert_eq!(recovered.figures().torn, None);
        }
    }
}

#[test]
fn a_flipped_byte_of_a_batch_with_a_later_one_is_damage() {
    // The last acknowledged batch is batch 4, and the mark stands behind it.
    let (bytes, offsets) = image(4, true);
    for batch in 0..4 {
        for index in offsets[batch]..offsets[batch + 1] {
            let index = to_usize(index);
            let mut bytes = bytes.clone();
            bytes[index] ^= 1 << (index % 8);
            check_damage(&bytes, offsets[batch], batch as u32, index);
        }
    }
}

#[test]
fn a_flipped_byte_of_the_mark_loses_nothing() {
    let (bytes, offsets) = image(4, true);
    for index in to_usize(offsets[4])..to_usize(offsets[4]) + BLOCK {
        let mut bytes = bytes.clone();
        bytes[index] ^= 0x10;
        assert_eq!(scan(&bytes).unwrap().last, zxid(4), "byte {index}");
    }
}

#[test]
fn a_flipped_byte_of_an_unmarked_last_batch_is_a_torn_tail_unless_it_is_known_committed() {
    let (bytes, offsets) = image(4, false);
    for index in to_usize(offsets[3])..to_usize(offsets[3]) + 2 * BLOCK {
        let mut bytes = bytes.clone();
        bytes[index] ^= 0x10;
        let history = scan(&bytes).unwrap();
        assert_eq!(history.last, zxid(3), "byte {index}");
        assert!(matches!(history.segments[0].stop, Stop::Torn { .. }), "byte {index}");
        if index % 61 != 0 {
            continue;
        }
        let images = [Image { sequence: 1, bytes: &bytes }];
        assert_eq!(scan::scan(&images, zxid(3)).unwrap().last, zxid(3));
        let damage = scan::scan(&images, zxid(4)).unwrap_err();
        assert_eq!((damage.place.offset, damage.last_good), (offsets[3], zxid(3)));
    }
}

#[test]
fn a_flipped_byte_of_a_segment_header_is_damage() {
    let (bytes, _) = image(2, true);
    for index in 0..BLOCK {
        let mut bytes = bytes.clone();
        bytes[index] ^= 0x01;
        check_damage(&bytes, 0, 0, index);
    }
}

#[test]
fn every_block_written_over_every_other_is_noticed_or_harmless() {
    let (bytes, offsets) = image(4, true);
    let blocks = bytes.len() / BLOCK;
    let (mut refused, mut harmless) = (0, 0);
    for source in 0..blocks {
        for target in (0..blocks).filter(|target| *target != source) {
            let block = bytes[source * BLOCK..][..BLOCK].to_vec();
            let mut bytes = bytes.clone();
            if bytes[target * BLOCK..][..BLOCK] == block {
                continue;
            }
            bytes[target * BLOCK..][..BLOCK].copy_from_slice(&block);
            let offset = (target * BLOCK) as u64;
            let hit = offsets[..5].iter().rposition(|start| *start <= offset);
            match (scan(&bytes), hit) {
                (result, None) => assert_eq!(result.unwrap_err().place.offset, 0),
                // The four batches are durable by the mark.
                (result, Some(batch)) if batch < 4 => {
                    let damage = result.expect_err("a durable batch is gone");
                    assert_eq!(damage.place.offset, offsets[batch], "{source} on {target}");
                    assert_eq!(damage.last_good.counter(), batch as u32);
                    refused += 1;
                }
                // A batch that turns up behind them was meant for elsewhere.
                (result, Some(_)) if offsets.contains(&((source * BLOCK) as u64)) => {
                    result.expect_err("a batch stands where it does not belong");
                    refused += 1;
                }
                (result, Some(_)) => {
                    assert_eq!(result.unwrap().last, zxid(4), "{source} on {target}");
                    harmless += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(harmless > 10, "{harmless}");
}

#[test]
fn a_lost_write_is_noticed_even_where_a_recycled_segment_has_an_old_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let mut before = None;
    for counter in 1..=400 {
        commit(dir.path(), &mut log, counter, 3000);
        log.purge_below(zxid(counter));
        let files = copy_of(dir.path());
        let newest = files.values().last().unwrap();
        let header = segment::SegmentHeader::decode(newest).unwrap();
        if header.recycled && counter % 15 == 7 && before.is_none() {
            before = Some(files);
        }
        if before.is_some() && counter % 15 == 12 {
            break;
        }
    }
    drop(log);
    let before = before.expect("a segment was recycled");
    let after = copy_of(dir.path());
    let (file, old) = before.iter().next().unwrap();
    let new = &after[file];
    let changed: Vec<_> = (0..new.len() / BLOCK)
        .filter(|block| old[block * BLOCK..][..BLOCK] != new[block * BLOCK..][..BLOCK])
        .collect();
    assert!(changed.len() > 2, "{changed:?}");
    // The last of them could be a torn tail; each of the others was acknowledged.
    for block in &changed[..changed.len() - 1] {
        put_back(dir.path(), &after);
        patch(file, (block * BLOCK) as u64, &old[block * BLOCK..][..BLOCK]);
        let error = recover::open(dir.path(), options()).err().expect("a write is missing");
        let LogError::Damaged { offset, .. } = error else { panic!("{error}") };
        assert_eq!(offset, (block * BLOCK) as u64);
    }
}

#[test]
fn a_bad_last_batch_of_a_full_segment_is_damage_when_the_next_segment_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=16 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    drop(log);
    let images = copy_of(dir.path());
    let (first, second) = (&images[&path(dir.path(), 1)], &images[&path(dir.path(), 2)]);
    let start = to_usize(SEGMENT) - BLOCK;
    for index in start..start + BLOCK {
        let mut first = first.clone();
        first[index] ^= 0x04;
        let images = [Image { sequence: 1, bytes: &first }, Image { sequence: 2, bytes: second }];
        let damage = scan::scan(&images, Zxid::ZERO).unwrap_err();
        let place = (damage.place.sequence, damage.place.offset);
        assert_eq!((place, damage.last_good), ((1, start as u64), zxid(14)), "byte {index}");
    }
}

/// A torn batch may stand in the segment after the one where the log goes on. Left there, it would
/// be taken for damage once the log has moved on: its chain is that of another history.
#[test]
fn a_torn_batch_in_the_next_segment_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=13 {
        commit(dir.path(), &mut log, counter, 3000);
    }
    // Too large for the rest of the first segment; only its first block reaches the disk.
    log.append(zxid(14), &txn(14, 20_000));
    let write = log.poll_write().unwrap();
    assert_eq!((write.file.sequence(), write.offset), (2, BLOCK as u64));
    patch(write.file.path(), write.offset, &write.buffer.bytes()[..BLOCK]);
    drop(log);
    let recovered = check_holds(dir.path(), 13);
    let (file, offset, _) = recovered.figures().torn.clone().unwrap();
    assert_eq!((file, offset), (path(dir.path(), 2), BLOCK as u64));
    let mut log = recovered.into_log(WriterKind::Mmap).unwrap();
    commit(dir.path(), &mut log, 14, 10);
    assert_eq!(log.room().bytes, (15 + 1) * BLOCK as u64, "one block in the first, all behind");
    drop(log);
    assert_eq!(check_holds(dir.path(), 14).figures().torn, None);
}

#[test]
fn after_a_failed_write_the_disk_is_believed_and_not_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for counter in 1..=4 {
        commit(dir.path(), &mut log, counter, 5000);
    }
    drop(log);
    let start = *batch_offsets(&copy_of(dir.path())[&path(dir.path(), 1)]).last().unwrap();
    // The write of the last batch has failed: its first block never reached the disk, and files
    // read through the page cache show it all the same.
    let disk = |path: &Path, offset: u64, length: u64| {
        let mut bytes = recover::read_direct(path, offset, length)?;
        if (offset..offset + length).contains(&start) {
            bytes.bytes_mut()[to_usize(start - offset)..][..BLOCK].fill(0);
        }
        Ok(bytes)
    };
    let recovered = recover::open_by(dir.path(), options(), &disk).unwrap();
    assert_eq!(zxids(&recovered, zxid(1)), vec![1, 2, 3]);
    let mut log = recovered.into_log(WriterKind::Direct).unwrap();
    log.append(zxid(4), b"another");
    drain(dir.path(), &mut log);
    drop(log);
    let recovered = check_holds(dir.path(), 4);
    assert_eq!(read(&recovered, zxid(4))[0].1, b"another");
}
