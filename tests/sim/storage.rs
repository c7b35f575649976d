//! A server's log on its fake disk: the real appender decides what is written where, and the real
//! scan says what a restart finds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringkeeper::log::BLOCK;
use ringkeeper::log::batch::{self, Header, Kind};
use ringkeeper::log::group::{Appender, GroupWrite, Space, Tail};
use ringkeeper::log::scan::{self, Image, Stop};
use ringkeeper::log::segment::SegmentHeader;
use ringkeeper::zxid::Zxid;

use crate::disk::Disk;

/// Transactions with their zxids.
pub type Txns = Vec<(Zxid, Arc<[u8]>)>;

/// A turn of the history that waits until the log is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Cut(Zxid),
    Reset(Zxid),
}

/// The log's running half.
pub struct Storage {
    appender: Appender,
    /// What the log holds, in memory: what a reader of the files would find.
    pub txns: VecDeque<(Zxid, Arc<[u8]>)>,
    /// The history before `txns` ends here.
    pub starts_after: Zxid,
    write: Option<GroupWrite>,
    turn: Option<Turn>,
    sequence_next: u64,
    identity: u64,
    /// A segment is being made.
    is_preparing: bool,
    /// The bytes of a purged segment, to be made a new one.
    retired: VecDeque<Vec<u8>>,
    /// The highest zxid in each segment that has any.
    highest: BTreeMap<u64, Zxid>,
}

/// What a write or a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Durable(Zxid),
    Turned(Turn),
}

/// What recovery found in the log.
pub struct Found {
    pub storage: Storage,
    pub last: Zxid,
    pub is_empty: bool,
    /// Something durable was lost; the log goes on behind what came before it.
    pub is_damaged: bool,
}

impl Storage {
    fn new(tail: Tail, segment_bytes: u64, sequence_next: u64) -> Storage {
        Storage {
            appender: Appender::new(tail, segment_bytes),
            txns: VecDeque::new(),
            starts_after: tail.last,
            write: None,
            turn: None,
            sequence_next,
            identity: tail.identity,
            is_preparing: false,
            retired: VecDeque::new(),
            highest: BTreeMap::new(),
        }
    }

    pub fn appended(&self) -> Zxid {
        self.appender.appended()
    }

    pub fn set_committed(&mut self, zxid: Zxid) {
        self.appender.set_committed(zxid.min(self.appended()));
    }

    pub fn committed(&self) -> Zxid {
        self.appender.committed()
    }

    pub fn durable(&self) -> Zxid {
        self.appender.durable()
    }

    pub fn append(&mut self, zxid: Zxid, txn: Arc<[u8]>) {
        self.appender.append(zxid, &txn);
        self.txns.push_back((zxid, txn));
    }

    /// Asks for a turn; the outcome comes when it is durable. `Err` where the log does not reach
    /// back far enough.
    pub fn turn(&mut self, turn: Turn) -> Result<(), ()> {
        if let Turn::Cut(to) = turn
            && to < self.starts_after
        {
            return Err(());
        }
        assert!(self.turn.is_none(), "one turn at a time");
        self.turn = Some(turn);
        Ok(())
    }

    /// A turn that is done without a write.
    pub fn poll_turned(&mut self) -> Option<Turn> {
        let turn = self.turn?;
        if !self.appender.is_idle() {
            return None;
        }
        let is_done = match turn {
            Turn::Cut(to) => to == self.appender.appended(),
            Turn::Reset(to) => {
                let is_new = !self.appender.has_batches();
                if is_new {
                    self.appender.reset(to);
                    self.apply_turn(turn);
                }
                is_new
            }
        };
        is_done.then(|| self.turn.take()).flatten()
    }

    /// Mistakes: memory takes the turn, the disk does not.
    pub fn pretend(&mut self, turn: Turn) {
        self.apply_turn(turn);
    }

    fn apply_turn(&mut self, turn: Turn) {
        match turn {
            Turn::Cut(to) => self.txns.retain(|(zxid, _)| *zxid <= to),
            Turn::Reset(to) => {
                self.txns.clear();
                self.starts_after = to;
            }
        }
    }

    /// The next write to start, by its place and bytes; whether `None` for want of anything.
    pub fn poll_write(&mut self) -> bool {
        if self.write.is_some() {
            return false;
        }
        if let Some(turn) = self.turn
            && self.appender.is_idle()
        {
            match turn {
                Turn::Cut(to) => self.appender.cut(to),
                Turn::Reset(to) => self.appender.reset(to),
            }
        }
        self.write = self.appender.poll_write();
        self.write.is_some()
    }

    /// Starts a mark where the log is idle and wants one.
    pub fn poll_mark(&mut self) -> bool {
        if self.write.is_some() || self.turn.is_some() {
            return false;
        }
        self.write = self.appender.mark_if_idle();
        self.write.is_some()
    }

    /// The write under way is on the disk; or `is_lost`, and taken for written.
    pub fn handle_written(&mut self, disk: &mut Disk, is_lost: bool) -> Written {
        let write = self.write.take().expect("a write is under way");
        if !is_lost {
            disk.write(write.place.sequence, write.place.offset, write.buffer.bytes());
        }
        let header = write.header;
        let highest = self.highest.entry(write.place.sequence).or_insert(header.previous);
        *highest = (*highest).max(header.history_end());
        let durable = self.appender.handle_written(write);
        if matches!(header.kind, Kind::Cut | Kind::Reset) {
            let turn = self.turn.take().expect("a turn was asked for");
            self.apply_turn(turn);
            return Written::Turned(turn);
        }
        Written::Durable(durable)
    }

    /// What is under way when the power fails: place and bytes.
    pub fn take_write(&mut self) -> Option<(u64, u64, Vec<u8>)> {
        let write = self.write.take()?;
        Some((write.place.sequence, write.place.offset, write.buffer.bytes().to_vec()))
    }

    /// Bytes of the segment to be made, where one is wanted.
    pub fn poll_segment(&mut self) -> Option<u64> {
        if self.is_preparing {
            return None;
        }
        let size = self.appender.wanted_space()?;
        self.is_preparing = true;
        Some(size)
    }

    /// The segment that was wanted stands ready.
    pub fn handle_segment(&mut self, disk: &mut Disk, size: u64) {
        self.is_preparing = false;
        let sequence = self.sequence_next;
        self.sequence_next += 1;
        let length = usize::try_from(size).expect("segments are small here");
        let recycled = self.retired.pop_front().filter(|bytes| bytes.len() == length);
        let is_recycled = recycled.is_some();
        let mut bytes = recycled.unwrap_or_else(|| vec![0; length]);
        let header =
            SegmentHeader { identity: self.identity, sequence, size, recycled: is_recycled };
        bytes[..BLOCK].copy_from_slice(&header.encode());
        disk.segments.insert(sequence, bytes);
        self.appender.offer(Space { sequence, size });
    }

    /// Lets go of segments that hold nothing above `zxid`, but for the last with a batch.
    pub fn purge_through(&mut self, disk: &mut Disk, zxid: Zxid) {
        let sequences: Vec<u64> = self.highest.keys().copied().collect();
        let mut dropped = Zxid::ZERO;
        for pair in sequences.windows(2) {
            if self.highest[&pair[0]] > zxid {
                break;
            }
            // Segments between, which were passed over, go with those before them.
            let gone: Vec<u64> = disk.segments.range(..pair[1]).map(|(it, _)| *it).collect();
            for sequence in gone {
                self.retired.extend(disk.segments.remove(&sequence));
            }
            dropped = self.highest.remove(&pair[0]).expect("it is listed");
            self.retired.truncate(2);
        }
        if dropped > self.starts_after {
            self.txns.retain(|(zxid, _)| *zxid > dropped);
            self.starts_after = dropped;
        }
    }

    /// Transactions later than `after`, about `bytes` of them; `None` where they do not all stand
    /// in the log.
    pub fn read_after(&self, after: Zxid, bytes: usize) -> Option<Txns> {
        if after < self.starts_after {
            return None;
        }
        let start = self.txns.partition_point(|(zxid, _)| *zxid <= after);
        let before = start.checked_sub(1).map_or(self.starts_after, |last| self.txns[last].0);
        if before != after && after.counter() != 0 {
            return None;
        }
        let mut left = bytes.max(1);
        let mut read = Vec::new();
        for (zxid, txn) in self.txns.range(start..) {
            if left == 0 || *zxid > self.durable() {
                break;
            }
            left = left.saturating_sub(txn.len());
            read.push((*zxid, Arc::clone(txn)));
        }
        Some(read)
    }
}

/// Finds out what the log on `disk` holds, repairs its tail, and goes on behind it.
pub fn recover(disk: &mut Disk, segment_bytes: u64, committed: Zxid) -> Found {
    let (sequences, bytes): (Vec<u64>, Vec<Vec<u8>>) =
        disk.segments.iter().map(|(sequence, bytes)| (*sequence, bytes.clone())).unzip();
    let images: Vec<Image<'_>> = sequences
        .iter()
        .zip(&bytes)
        .map(|(sequence, bytes)| Image { sequence: *sequence, bytes })
        .collect();
    match scan::scan(&images, committed) {
        Ok(history) => resume(disk, &images, &history, segment_bytes),
        Err(damage) => start_over(disk, &images, &damage, segment_bytes),
    }
}

fn resume(
    disk: &mut Disk,
    images: &[Image<'_>],
    history: &scan::History,
    segment_bytes: u64,
) -> Found {
    let identity = history.identity.unwrap_or_else(|| new_identity(disk));
    let tail =
        Tail { identity, last: history.last, chain: history.chain, committed: history.committed };
    let tail_index = history.tail_index();
    let behind = tail_index.map_or(0, |tail| tail + 1);
    let useless = history.segments[behind..].iter().position(|scan| !scan.whole);
    let kept = useless.map_or(history.segments.len(), |useless| behind + useless);
    for scan in &history.segments[kept..] {
        disk.segments.remove(&scan.sequence);
    }
    let sequence_next = history.segments[..kept].last().map_or(1, |last| last.sequence + 1);
    let mut storage = Storage::new(tail, segment_bytes, sequence_next);
    let mut is_resumed = false;
    for (index, scan) in history.segments[..kept].iter().enumerate() {
        if let Stop::Torn { bytes, .. } = scan.stop {
            let segment = disk.segments.get_mut(&scan.sequence).expect("it was scanned");
            let start = usize::try_from(scan.end).expect("segments are small here");
            let end = segment.len().min(start + usize::try_from(bytes).expect("so are batches"));
            segment[start..end].fill(0);
        }
        if scan.batches > 0 {
            storage.highest.insert(scan.sequence, scan.highest);
        }
        let space = Space { sequence: scan.sequence, size: images[index].bytes.len() as u64 };
        if scan.whole && tail_index == Some(index) {
            storage.appender.resume(space, scan.end);
            is_resumed = true;
        } else if scan.whole && index >= behind {
            assert!(is_resumed || tail_index.is_none() || behind > 0);
            storage.appender.offer(space);
        }
    }
    let found = replay(images, history.identity, usize::MAX);
    storage.starts_after = found.0;
    storage.txns = found.1.into();
    Found { storage, last: history.last, is_empty: history.chain.is_none(), is_damaged: false }
}

/// After damage: what came before it is kept in a log of its own, behind which nothing is missing.
fn start_over(
    disk: &mut Disk,
    images: &[Image<'_>],
    damage: &scan::Damage,
    segment_bytes: u64,
) -> Found {
    let identity = images.iter().find_map(|image| SegmentHeader::decode(image.bytes));
    let identity = identity.map(|header| header.identity);
    let (starts_after, mut txns) = replay(images, identity, usize::MAX);
    txns.retain(|(zxid, _)| *zxid <= damage.last_good);
    let last = txns.last().map_or(starts_after.min(damage.last_good), |(zxid, _)| *zxid);
    disk.segments.clear();
    let tail = Tail {
        identity: new_identity(disk),
        last: starts_after.min(last),
        chain: None,
        committed: Zxid::ZERO,
    };
    let mut storage = Storage::new(tail, segment_bytes, 1);
    // Written out at once: recovery is not interrupted here.
    for (zxid, txn) in txns {
        storage.append(zxid, txn);
    }
    while let Some(size) = storage.poll_segment() {
        storage.handle_segment(disk, size);
        if !storage.appender.is_starved() {
            break;
        }
    }
    while storage.poll_write() {
        storage.handle_written(disk, false);
        while storage.appender.is_starved()
            && let Some(size) = storage.poll_segment()
        {
            storage.handle_segment(disk, size);
        }
    }
    Found { storage, last, is_empty: false, is_damaged: true }
}

fn new_identity(disk: &mut Disk) -> u64 {
    disk.identity_next += 1;
    disk.identity_next
}

/// The history that good batches make, batch by batch until one is bad: where it starts, and what
/// it holds.
fn replay(images: &[Image<'_>], identity: Option<u64>, batches_max: usize) -> (Zxid, Txns) {
    let mut starts_after = None;
    let mut txns: Txns = Vec::new();
    let mut count = 0;
    let mut chain = None;
    for image in images {
        let mut offset = BLOCK;
        while let Some(rest) = image.bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            let Ok(header) = Header::decode(rest) else { break };
            let is_here = header.sequence == image.sequence && header.offset == offset as u64;
            let follows = chain.is_none_or(|chain| chain == header.chain);
            if Some(header.identity) != identity || !is_here || !follows || count == batches_max {
                break;
            }
            let Ok(records) = batch::check_payload(&header, rest) else { break };
            starts_after.get_or_insert(header.previous);
            match header.kind {
                Kind::Txns => {
                    txns.extend(records.map(|(zxid, txn)| (zxid, Arc::from(txn))));
                }
                Kind::Mark => {}
                Kind::Cut => txns.retain(|(zxid, _)| *zxid <= header.previous),
                Kind::Reset => {
                    txns.clear();
                    starts_after = Some(header.previous);
                }
            }
            chain = Some(header.checksum());
            count += 1;
            offset += usize::try_from(header.padded_bytes()).expect("batches are small here");
        }
    }
    (starts_after.unwrap_or(Zxid::ZERO), txns)
}
