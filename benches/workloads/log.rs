//! The log without a disk: groups formed and sealed, segments scanned, a restart's replay.

use std::hint::black_box;

use ringkeeper::log::group::{Appender, Space, Tail};
use ringkeeper::log::read::read_images;
use ringkeeper::log::scan::{self, Image};
use ringkeeper::log::segment::SegmentHeader;
use ringkeeper::tree::writer::Writer;
use ringkeeper::wire::txn::{self, Txn, TxnHeader};
use ringkeeper::zxid::Zxid;

use super::frames::DATA;
use super::tree::{Paths, grown};
use super::{Meter, Row, Run};

pub const SEGMENT_BYTES: u64 = 64 << 20;
const IDENTITY: u64 = 7;
/// A typical transaction: a set of a hundred bytes with its header, path and digest.
const TXN_BYTES: usize = 200;
/// Transactions that arrive during one write at 100,000 a second.
const GROUP: u32 = 64;
/// Transactions of the segment that is scanned and replayed.
const SCANNED: u32 = 4096;
const PARENTS: usize = 20;

pub const ROWS: &[Row] = &[
    Row { name: "log/append, groups of 1", count: GROUP, per: "txn", make: || append(1) },
    Row { name: "log/append, groups of 64", count: GROUP, per: "txn", make: || append(GROUP) },
    Row { name: "log/scan, groups of 1", count: SCANNED, per: "txn", make: || scan(1) },
    Row { name: "log/scan, groups of 64", count: SCANNED, per: "txn", make: || scan(GROUP) },
    Row { name: "log/replay", count: SCANNED, per: "txn", make: replay },
];

/// An appender whose segments cost nothing.
pub struct Log {
    appender: Appender,
    sequence: u64,
}

impl Log {
    /// A log whose history begins after `last`.
    pub fn new(last: Zxid) -> Log {
        let committed = last;
        let tail = Tail { identity: IDENTITY, last, chain: None, committed };
        let mut log = Log { appender: Appender::new(tail, SEGMENT_BYTES), sequence: 0 };
        log.offer();
        log
    }

    fn offer(&mut self) {
        self.sequence += 1;
        self.appender.offer(Space { sequence: self.sequence, size: SEGMENT_BYTES });
    }

    pub fn append(&mut self, zxid: Zxid, txn: &[u8]) {
        self.appender.append(zxid, txn);
    }

    /// Writes one group, if there is one: how far the log is durable.
    pub fn write(&mut self) -> Option<Zxid> {
        while self.appender.wanted_space().is_some() {
            self.offer();
        }
        let write = self.appender.poll_write()?;
        black_box(write.buffer.bytes());
        Some(self.appender.handle_written(write))
    }
}

fn append(group: u32) -> Run {
    let mut log = Log::new(Zxid::ZERO);
    let mut counter = 0;
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || {
            for _ in 0..GROUP / group {
                for _ in 0..group {
                    counter += 1;
                    log.append(Zxid::new(1, counter), black_box(&[0x5a; TXN_BYTES]));
                }
                assert!(log.write().is_some());
            }
        });
    })
}

/// A segment that begins with these transactions, in groups of `group`.
fn segment(txns: &[Vec<u8>], group: usize) -> Vec<u8> {
    let header =
        SegmentHeader { identity: IDENTITY, sequence: 1, size: SEGMENT_BYTES, recycled: false };
    let mut bytes = header.encode().to_vec();
    let mut log = Log::new(Zxid::ZERO);
    let mut counter = 0;
    for txns in txns.chunks(group) {
        for txn in txns {
            counter += 1;
            log.append(Zxid::new(1, counter), txn);
        }
        let write = log.appender.poll_write().expect("a segment holds all");
        bytes.extend_from_slice(write.buffer.bytes());
        log.appender.handle_written(write);
    }
    bytes.resize(SEGMENT_BYTES as usize, 0);
    bytes
}

fn scan(group: u32) -> Run {
    let txns = vec![vec![0x5a; TXN_BYTES]; SCANNED as usize];
    let mut bytes = segment(&txns, group as usize);
    // The search behind the last batch is of all that is left: not of 64 MiB here.
    bytes.truncate(bytes.iter().rposition(|it| *it != 0).expect("it is written") + 1);
    bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || {
            let history = scan::scan_image(1, black_box(&bytes)).expect("the segment is sound");
            assert_eq!(history.last, Zxid::new(1, SCANNED));
        });
    })
}

/// Sets of a tree's znodes, with the digests that they lead to.
fn sets(mut writer: Writer) -> Vec<Vec<u8>> {
    let mut paths = Paths::new(PARENTS);
    let txn = |n: u32| {
        let path = &paths.take(1)[0];
        let set = Txn::SetData { path, data: Some(&DATA), version: 1 };
        let header = TxnHeader { session: 1, cxid: 1, zxid: Zxid::new(1, n), time_ms: 1 };
        writer.apply(&header, &set).expect("the transaction fits");
        let mut bytes = Vec::new();
        txn::encode(&header, &set, Some(writer.digest()), &mut bytes);
        bytes
    };
    (1..=SCANNED).map(txn).collect()
}

/// Scanned, read, decoded, applied, and the digest compared. The tree is another one each time.
fn replay() -> Run {
    let bytes = segment(&sets(grown(PARENTS)), GROUP as usize);
    let history = scan::scan_image(1, &bytes).expect("the segment is sound");
    Box::new(move |meter: &mut dyn Meter| {
        let mut writer = grown(PARENTS);
        let images = [Image { sequence: 1, bytes: &bytes }];
        meter.measure(&mut || {
            let mut txns = read_images(&images, &history);
            while let Some(txn) = txns.next_txn() {
                let (zxid, txn) = txn.expect("it is sound");
                let logged = txn::decode(txn).expect("it is whole");
                writer.apply(&logged.header, &logged.txn).expect("the transaction fits");
                assert_eq!(logged.digest, Some(writer.digest()));
                if zxid.counter().is_multiple_of(GROUP) {
                    while writer.reclaim(zxid, &[]) {}
                }
            }
        });
    })
}
