//! Whatever stands in a log's segments. The log's own encoder writes a history; the fuzzer then
//! overwrites, cuts, moves and forges bytes of it.
//!
//! What an accident leaves is the history, the history without its tail, or damage: never other
//! transactions, and never a hole that is passed over. What a forger leaves, who can make
//! checksums, is anything that contradicts nothing; still nothing panics.
#![no_main]

mod input;

use std::ops::Range;

use input::Input;
use libfuzzer_sys::fuzz_target;
use ringkeeper::log::batch::{Header, Kind};
use ringkeeper::log::group::{Appender, GroupWrite, Space, Tail};
use ringkeeper::log::scan::{self, Damage, History, Image, SegmentScan, Stop};
use ringkeeper::log::segment::SegmentHeader;
use ringkeeper::log::{BLOCK, read};
use ringkeeper::zxid::Zxid;

const IDENTITY: u64 = 0x1dea_11f7_0bad_cafe;
const SEGMENT: usize = 6 * BLOCK;
const SEGMENTS_MAX: usize = 6;
const STEPS_MAX: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    if input.byte() == 0 {
        return raw(input.0);
    }
    let written = Written::by(&mut input);
    let sound = written.images.clone();
    check(&scan(&images_of(&sound)), &sound);
    written.check_accident(&sound, &scan(&images_of(&sound)), false);
    let mut images = sound;
    let accident = spoil(&mut images, &mut input);
    let result = scan(&images_of(&images));
    check(&result, &images);
    // With a zxid that is known to be committed, a tail that is lost is damage.
    if let Ok(history) = scan::scan(&images_of(&images), written.last()) {
        let torn = |it: &SegmentScan| matches!(it.stop, Stop::Torn { .. });
        assert!(history.last >= written.last() || !history.segments.iter().any(torn));
    }
    if accident.honest {
        written.check_accident(&images, &result, accident.moved);
    }
});

/// Bytes as they come.
fn raw(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        assert!(bytes.starts_with(&header.encode()));
    }
    if let Some(header) = SegmentHeader::decode(bytes) {
        assert!(bytes.starts_with(&header.encode()[..34]));
    }
    let _ = scan::scan_image(1, bytes);
}

fn images_of(images: &[(u64, Vec<u8>)]) -> Vec<Image<'_>> {
    images.iter().map(|(sequence, bytes)| Image { sequence: *sequence, bytes }).collect()
}

fn scan(images: &[Image<'_>]) -> Result<History, Damage> {
    scan::scan(images, Zxid::ZERO)
}

/// What holds of every log that is taken for sound: it can be read.
fn check(result: &Result<History, Damage>, images: &[(u64, Vec<u8>)]) {
    let Ok(history) = result else { return };
    for (segment, (_, bytes)) in history.segments.iter().zip(images) {
        assert!(segment.end <= bytes.len().max(BLOCK) as u64);
    }
    let mut last = Zxid::ZERO;
    let mut count: u64 = 0;
    let images = images_of(images);
    let mut txns = read::read_images(&images, history);
    while let Some(txn) = txns.next_txn() {
        let (zxid, _) = txn.expect("what was scanned can be read");
        assert!(zxid > last && zxid <= history.last);
        last = zxid;
        count += 1;
    }
    assert!(count <= history.segments.iter().map(|it| it.txns).sum::<u64>());
}

/// A batch as it was written.
struct Batch {
    image: usize,
    range: Range<usize>,
    kind: Kind,
    /// The end of the history after a cut or a reset.
    end: Zxid,
    txns: Vec<(Zxid, Vec<u8>)>,
}

/// A log as its encoder wrote it: segments by sequence, and what is in them.
struct Written {
    images: Vec<(u64, Vec<u8>)>,
    batches: Vec<Batch>,
}

impl Written {
    fn by(input: &mut Input<'_>) -> Written {
        let (last, committed) = (Zxid::ZERO, Zxid::ZERO);
        let tail = Tail { identity: IDENTITY, last, chain: None, committed };
        let mut appender = Appender::new(tail, SEGMENT as u64);
        let mut written = Written { images: Vec::new(), batches: Vec::new() };
        let mut staged = Vec::new();
        for step in 0..usize::from(input.byte()) % STEPS_MAX {
            written.offer(&mut appender, input);
            match input.byte() % 8 {
                0..=3 => {
                    for _ in 0..=input.byte() % 4 {
                        let zxid = Zxid::from_raw(appender.appended().raw() + 1);
                        // The step tells a transaction from one that was cut off at its zxid.
                        let txn = vec![step as u8 + 1; input.number() % 9000];
                        appender.append(zxid, &txn);
                        staged.push((zxid, txn));
                    }
                }
                4 => written.write(appender.mark_if_idle(), &mut appender, &mut staged),
                5 if appender.is_idle() => {
                    let back = i64::from(input.byte() % 8);
                    appender.cut(Zxid::from_raw((appender.appended().raw() - back).max(0)));
                }
                6 if appender.is_idle() => {
                    let further = i64::from(input.byte() % 8);
                    appender.reset(Zxid::from_raw(appender.appended().raw() + further));
                }
                _ => {}
            }
            if input.byte() % 2 == 0 {
                while let Some(write) = appender.poll_write() {
                    written.write(Some(write), &mut appender, &mut staged);
                    written.offer(&mut appender, input);
                }
            }
        }
        written
    }

    /// Prepares a segment when one is wanted, perhaps from the oldest one.
    fn offer(&mut self, appender: &mut Appender, input: &mut Input<'_>) {
        let next = self.images.last().map_or(1, |(sequence, _)| sequence + 1);
        let Some(size) = appender.wanted_space().filter(|_| next <= SEGMENTS_MAX as u64) else {
            return;
        };
        // An idle appender writes to the newest segment only.
        let purged = self.images.len() > 2 && appender.is_idle() && input.byte() % 2 == 0;
        let recycled = purged && size == SEGMENT as u64 && self.images[0].1.len() == SEGMENT;
        let mut bytes = vec![0; size as usize];
        if recycled {
            bytes = self.images.remove(0).1;
            self.batches.retain(|batch| batch.image > 0);
            self.batches.iter_mut().for_each(|batch| batch.image -= 1);
        }
        let header = SegmentHeader { identity: IDENTITY, sequence: next, size, recycled };
        bytes[..BLOCK].copy_from_slice(&header.encode());
        self.images.push((next, bytes));
        appender.offer(Space { sequence: next, size });
    }

    fn write(
        &mut self,
        write: Option<GroupWrite>,
        appender: &mut Appender,
        staged: &mut Vec<(Zxid, Vec<u8>)>,
    ) {
        let Some(write) = write else { return };
        let image = self.images.iter().position(|(it, _)| *it == write.place.sequence);
        let image = image.expect("a batch goes into a segment that is there");
        let start = write.place.offset as usize;
        let range = start..start + write.buffer.len();
        self.images[image].1[range.clone()].copy_from_slice(write.buffer.bytes());
        let (kind, end) = (write.header.kind, write.header.history_end());
        let txns = staged.drain(..write.header.count as usize).collect();
        self.batches.push(Batch { image, range, kind, end, txns });
        appender.handle_written(write);
    }

    fn last(&self) -> Zxid {
        self.batches.last().map_or(Zxid::ZERO, |batch| batch.end)
    }

    /// What a reader should get of these batches.
    fn txns(batches: &[Batch]) -> Vec<(Zxid, &[u8])> {
        let mut txns: Vec<(Zxid, &[u8])> = Vec::new();
        for batch in batches {
            match batch.kind {
                Kind::Txns => txns.extend(batch.txns.iter().map(|(zxid, txn)| (*zxid, &txn[..]))),
                Kind::Mark => {}
                Kind::Cut => txns.retain(|(zxid, _)| *zxid <= batch.end),
                Kind::Reset => txns.clear(),
            }
        }
        txns
    }

    /// Checks what was made of bytes that no forger has touched.
    fn check_accident(
        &self,
        images: &[(u64, Vec<u8>)],
        result: &Result<History, Damage>,
        moved: bool,
    ) {
        let is_intact = |batch: &Batch| {
            let before = &self.images[batch.image].1[batch.range.clone()];
            images.get(batch.image).and_then(|(_, it)| it.get(batch.range.clone())) == Some(before)
        };
        let intact: Vec<bool> = self.batches.iter().map(is_intact).collect();
        let Ok(history) = result else {
            return self.check_damage(images, &intact, moved);
        };
        // The batches that were found follow on each other, from the first of a segment on.
        let count: u64 = history.segments.iter().map(|it| it.batches).sum();
        let image = history.segments.iter().position(|it| it.batches > 0).unwrap_or(0);
        let start = self.batches.iter().position(|it| it.image == image).unwrap_or(0);
        let end = start + count as usize;
        assert!(intact[start..end].iter().all(|it| *it));
        // Nothing sound stands beside them: that would be a hole.
        assert!(!intact[..start].iter().any(|it| *it));
        assert!(!intact[end..].iter().any(|it| *it));
        let found = images_of(images);
        let mut found = read::read_images(&found, history);
        for expected in Written::txns(&self.batches[start..end]) {
            assert!(found.next_txn().is_some_and(|it| it.is_ok_and(|txn| txn == expected)));
        }
        assert!(found.next_txn().is_none());
        let last = self.batches[start..end].last().map_or(Zxid::ZERO, |it| it.end);
        assert_eq!(history.last, last);
    }

    /// A log that is as it was, or whose last batch alone is not, is no damage.
    fn check_damage(&self, images: &[(u64, Vec<u8>)], intact: &[bool], moved: bool) {
        let Some(last) = self.batches.last() else { return assert!(*images != self.images) };
        let mut repaired = images.to_vec();
        if moved || repaired.len() <= last.image {
            return;
        }
        let bytes = &mut repaired[last.image].1;
        if bytes.len() < self.images[last.image].1.len() {
            return;
        }
        bytes[last.range.clone()].copy_from_slice(&self.images[last.image].1[last.range.clone()]);
        assert!(repaired != self.images, "a torn tail is taken for damage: {intact:?}");
    }
}

/// What was done to a log.
struct Accident {
    /// No checksum was made for what is not the log's own.
    honest: bool,
    /// Blocks were put where they do not belong.
    moved: bool,
}

fn spoil(images: &mut Vec<(u64, Vec<u8>)>, input: &mut Input<'_>) -> Accident {
    let mut accident = Accident { honest: true, moved: false };
    while !input.0.is_empty() && !images.is_empty() {
        let operation = input.byte();
        let image = usize::from(input.byte()) % images.len();
        let length = images[image].1.len();
        let at = input.number() * 7 % (length + 1);
        match operation % 8 {
            0 => put(&mut images[image].1, at, input.slice()),
            1 => {
                let end = (at + input.number()).min(length);
                images[image].1[at..end].fill(0);
            }
            2 => images[image].1.truncate(at),
            3 => {
                accident.moved = true;
                let block = at / BLOCK * BLOCK;
                let end = (block + BLOCK).min(length);
                let block = images[image].1[block..end].to_vec();
                let target = usize::from(input.byte()) % images.len();
                let blocks = images[target].1.len() / BLOCK;
                put(
                    &mut images[target].1,
                    usize::from(input.byte()) % (blocks + 1) * BLOCK,
                    &block,
                );
            }
            4 if at < length => images[image].1[at] ^= 1 << (operation / 8 % 8),
            5 => {
                images.truncate(images.len().saturating_sub(1).max(image));
            }
            6 | 7 => {
                accident.honest = false;
                let block = at / BLOCK * BLOCK;
                let field = usize::from(input.byte()) % 84;
                let value = input.take(usize::from(operation / 8 % 9));
                put(&mut images[image].1, block + field, value);
                repair(&mut images[image].1[block..]);
            }
            _ => {}
        }
    }
    accident
}

/// Overwrites what is there of `target` from `at` on.
fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    let Some(target) = target.get_mut(at..) else { return };
    let count = bytes.len().min(target.len());
    target[..count].copy_from_slice(&bytes[..count]);
}

/// Makes the checksums of the header that stands at the start of `bytes`.
fn repair(bytes: &mut [u8]) {
    if bytes.starts_with(&ringkeeper::log::SEGMENT_MAGIC) && bytes.len() >= BLOCK {
        let checksum = crc32c::crc32c(&bytes[..36]);
        return put(bytes, 36, &checksum.to_le_bytes());
    }
    if bytes.len() < 88 {
        return;
    }
    let length = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]) as usize;
    if let Some(payload) = bytes[88..].get(..length) {
        let checksum = crc32c::crc32c(payload);
        put(bytes, 76, &checksum.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[..84]);
    put(bytes, 84, &checksum.to_le_bytes());
}
