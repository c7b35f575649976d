//! What one sync covers, and where it goes: pure, so that the simulator runs it on a fake disk.
//!
//! Transactions are copied once, into the buffer that will be written. The open group takes more
//! until the write in flight ends; then it is closed, given its header and written in its turn.
//! Each group is given its place when it is opened, so that it never outgrows the segment it is in.

use std::collections::VecDeque;

use crate::zxid::Zxid;

use super::batch::{self, Header, Kind};
use super::buffer::AlignedBuffer;
use super::{
    BATCH_HEADER_BYTES, BATCH_TRAILER_BYTES, BATCH_VERSION, BLOCK, GROUP_BYTES_MAX, Position,
    RECORD_HEADER_BYTES,
};

/// Buffers kept to be used again: one in flight, one being filled.
const SPARE_BUFFERS_MAX: usize = 2;
/// A buffer that one huge transaction has grown beyond this is not kept.
const SPARE_BUFFER_BYTES_MAX: usize = 2 * GROUP_BYTES_MAX;
/// From how many bytes on what was staged goes into the checksum: many small pieces cost twice as
/// much as a large one, which should still be in the nearest cache, and not be left for the moment
/// when the disk is waited for.
const SUM_BYTES: usize = 4096;
/// What a buffer starts with: a group of some hundred small transactions.
const BUFFER_BYTES: usize = 64 << 10;

/// A prepared segment, as the appender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The segment.
    pub sequence: u64,
    /// Its size in bytes, with the header block.
    pub size: u64,
}

/// Where an appender goes on: the end of a recovered log, or the start of a new one.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// The log's identity.
    pub identity: u64,
    /// The end of the history.
    pub last: Zxid,
    /// The checksum of the last batch's header; `None` when the log holds no batch.
    pub chain: Option<u32>,
    /// How far it is known to be committed; zero for unknown.
    pub committed: Zxid,
}

/// One batch on its way to the disk.
pub struct GroupWrite {
    /// Where it goes.
    pub place: Position,
    /// Whole blocks: header, payload, padding.
    pub buffer: AlignedBuffer,
    /// What the batch says of itself.
    pub header: Header,
}

struct Group {
    buffer: AlignedBuffer,
    kind: Kind,
    count: u32,
    first: Zxid,
    last: Zxid,
    previous: Zxid,
    payload_crc: u32,
    /// How far into the buffer that goes.
    summed: usize,
    /// `None` while no segment has room for it.
    place: Option<Position>,
    /// The group takes no transaction that would bring it above this many bytes, padded.
    bytes_max: usize,
    open: bool,
}

impl Group {
    /// Takes all that is there into the checksum.
    fn sum(&mut self) {
        let bytes = &self.buffer.bytes()[self.summed..];
        self.payload_crc = crc32c::crc32c_append(self.payload_crc, bytes);
        self.summed = self.buffer.len();
    }

    /// Bytes on disk, if nothing is added.
    fn padded_bytes(&self) -> usize {
        (self.buffer.len() + BATCH_TRAILER_BYTES).next_multiple_of(BLOCK)
    }
}

/// Bytes that a batch with `records` bytes of records takes on disk.
pub const fn batch_bytes(records: usize) -> usize {
    (BATCH_HEADER_BYTES + records + BATCH_TRAILER_BYTES).next_multiple_of(BLOCK)
}

/// Bytes that a transaction of `length` bytes takes on disk at most: in a batch of its own.
pub const fn txn_bytes_max(length: usize) -> u64 {
    batch_bytes(RECORD_HEADER_BYTES + length) as u64
}

/// Forms groups and gives them their places. Knows no file and does no I/O.
pub struct Appender {
    identity: u64,
    segment_bytes: u64,
    /// Where further groups go: the front one from `planned` on, the others from their start.
    spaces: VecDeque<Space>,
    /// Where in the front space the open group stands, or the next one will.
    planned: u64,
    /// Those not yet in flight, oldest first; only the last may be open.
    groups: VecDeque<Group>,
    buffers: Vec<AlignedBuffer>,
    in_flight: Option<Header>,
    /// `None` until a batch has been written.
    chain: Option<u32>,
    appended: Zxid,
    durable: Zxid,
    committed: Zxid,
    /// True when the last batch on disk has nothing behind it that proves it durable.
    mark_due: bool,
}

impl Appender {
    /// An appender that continues after `tail` and has no space until it is offered some.
    /// `segment_bytes` is the size of a segment that it will ask for.
    pub fn new(tail: Tail, segment_bytes: u64) -> Appender {
        assert!(segment_bytes.is_multiple_of(BLOCK as u64));
        assert!(segment_bytes >= super::SEGMENT_BYTES_MIN);
        Appender {
            identity: tail.identity,
            segment_bytes,
            spaces: VecDeque::new(),
            planned: BLOCK as u64,
            groups: VecDeque::new(),
            buffers: Vec::new(),
            in_flight: None,
            chain: tail.chain,
            appended: tail.last,
            durable: tail.last,
            committed: tail.committed,
            mark_due: tail.chain.is_some(),
        }
    }

    /// The last transaction staged.
    pub fn appended(&self) -> Zxid {
        self.appended
    }

    /// The last transaction on disk.
    pub fn durable(&self) -> Zxid {
        self.durable
    }

    /// How far the history is known to be committed, for certain.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// Takes in that the history is committed up to `zxid`: later batches say so.
    pub fn set_committed(&mut self, zxid: Zxid) {
        self.committed = self.committed.max(zxid);
    }

    /// True when nothing is staged and nothing in flight.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.in_flight.is_none()
    }

    /// True when a group has no place on disk.
    pub fn is_starved(&self) -> bool {
        self.groups.iter().any(|group| group.place.is_none())
    }

    /// Bytes that wait in memory for their write, roughly.
    pub fn staged_bytes(&self) -> usize {
        self.groups.iter().map(|group| group.buffer.len()).sum()
    }

    /// True once a batch was written, by this appender or before it.
    pub fn has_batches(&self) -> bool {
        self.chain.is_some()
    }

    /// Stages a transaction behind all others. It waits in memory when there is no space.
    pub fn append(&mut self, zxid: Zxid, txn: &[u8]) {
        assert!(zxid > self.appended, "{zxid} does not come after {}", self.appended);
        let length = u32::try_from(txn.len()).expect("a transaction is shorter than 4 GiB");
        let record = RECORD_HEADER_BYTES + txn.len();
        let fits = |group: &Group| {
            let bytes = group.buffer.len() + record + BATCH_TRAILER_BYTES;
            group.open && bytes.next_multiple_of(BLOCK) <= group.bytes_max
        };
        if !self.groups.back().is_some_and(fits) {
            self.close_open_group();
            self.open_group(Kind::Txns, batch_bytes(record));
        }
        let group = self.groups.back_mut().expect("a group is open");
        let head = batch::record_header(zxid, length);
        group.buffer.extend(&head);
        group.buffer.extend(txn);
        if group.buffer.len() - group.summed >= SUM_BYTES {
            group.sum();
        }
        if group.count == 0 {
            group.first = zxid;
        }
        group.last = zxid;
        group.count += 1;
        self.appended = zxid;
    }

    /// Stages the end of the history at `zxid`; what stands after it in the log is void.
    /// Only while idle.
    pub fn cut(&mut self, zxid: Zxid) {
        assert!(self.is_idle(), "what is under way must end before the history is cut");
        assert!(zxid <= self.appended);
        self.committed = self.committed.min(zxid);
        self.stage_turn(Kind::Cut, zxid);
    }

    /// Stages a new start of the history after `zxid`, a snapshot's, which may not be committed
    /// yet; all that the log holds is void. Only while idle.
    pub fn reset(&mut self, zxid: Zxid) {
        assert!(self.is_idle(), "what is under way must end before the history starts anew");
        self.committed = self.committed.min(zxid);
        if self.chain.is_none() {
            // Nothing is on disk that would have to be declared void.
            self.appended = zxid;
            self.durable = zxid;
            return;
        }
        self.stage_turn(Kind::Reset, zxid);
    }

    /// As [`Appender::reset`], and written also where the log is empty: it is on the disk then that
    /// the history goes on after `zxid`, before there is anything behind it.
    pub fn begin_after(&mut self, zxid: Zxid) {
        assert!(self.is_idle(), "what is under way must end before the history starts anew");
        self.committed = self.committed.min(zxid);
        self.stage_turn(Kind::Reset, zxid);
    }

    fn stage_turn(&mut self, kind: Kind, zxid: Zxid) {
        self.appended = zxid;
        self.open_group(kind, batch_bytes(0));
    }

    /// The next batch to write, if one may be written: one at a time, and only into a segment.
    pub fn poll_write(&mut self) -> Option<GroupWrite> {
        if self.in_flight.is_some() {
            return None;
        }
        let place = self.groups.front()?.place?;
        if self.groups.len() == 1 {
            self.close_open_group();
        }
        let group = self.groups.pop_front().expect("there is a group");
        Some(self.seal(group, place))
    }

    /// A mark, when the log is idle and the last batch has nothing behind it.
    pub fn mark_if_idle(&mut self) -> Option<GroupWrite> {
        if !self.is_idle() || !self.mark_due {
            return None;
        }
        let place = self.place_for(batch_bytes(0))?;
        self.planned += BLOCK as u64;
        let group = self.new_group(Kind::Mark, Some(place), BLOCK);
        Some(self.seal(group, place))
    }

    /// Closes the group under its header. Everything before it is durable, since one batch is in
    /// flight at a time.
    fn seal(&mut self, mut group: Group, place: Position) -> GroupWrite {
        let end = if group.kind == Kind::Txns { group.last } else { group.previous };
        let trailer = self.committed.min(end).raw().to_le_bytes();
        group.buffer.extend(&trailer);
        group.sum();
        let payload = group.buffer.len() - BATCH_HEADER_BYTES;
        let header = Header {
            kind: group.kind,
            version: BATCH_VERSION,
            identity: self.identity,
            sequence: place.sequence,
            offset: place.offset,
            length: u32::try_from(payload).expect("a batch is shorter than a segment"),
            count: group.count,
            first: group.first,
            last: group.last,
            previous: group.previous,
            durable: self.durable,
            chain: self.chain.unwrap_or(0),
            payload_crc: group.payload_crc,
        };
        let encoded = header.encode();
        group.buffer.bytes_mut()[..BATCH_HEADER_BYTES].copy_from_slice(&encoded);
        group.buffer.pad_to_block();
        assert_eq!(group.buffer.len() as u64, header.padded_bytes());
        self.chain = Some(batch::checksum_of(&encoded));
        self.in_flight = Some(header);
        GroupWrite { place, buffer: group.buffer, header }
    }

    /// The write in flight is on disk. Gives what is durable by it.
    pub fn handle_written(&mut self, write: GroupWrite) -> Zxid {
        let header = self.in_flight.take().expect("a write is in flight");
        assert_eq!(header, write.header, "only the write in flight can end");
        self.durable = header.history_end();
        self.mark_due = header.kind != Kind::Mark;
        if self.buffers.len() < SPARE_BUFFERS_MAX
            && write.buffer.capacity() <= SPARE_BUFFER_BYTES_MAX
        {
            self.buffers.push(write.buffer);
        }
        assert!(header.kind != Kind::Txns || self.durable <= self.appended);
        self.durable
    }

    /// Goes on in `space` from `offset` on: the rest of a recovered segment.
    pub fn resume(&mut self, space: Space, offset: u64) {
        assert!(self.spaces.is_empty() && self.is_idle());
        assert!(offset.is_multiple_of(BLOCK as u64) && offset >= BLOCK as u64);
        self.spaces.push_back(space);
        self.planned = offset;
    }

    /// Takes a prepared segment, behind those that it has.
    pub fn offer(&mut self, space: Space) {
        assert!(space.size.is_multiple_of(BLOCK as u64));
        assert!(self.spaces.back().is_none_or(|it| it.sequence < space.sequence));
        if self.spaces.is_empty() {
            self.planned = BLOCK as u64;
        }
        self.spaces.push_back(space);
        self.place_waiting();
    }

    /// The size in bytes of the segment that should be prepared, if one should: what waits needs
    /// it, or the current one is half full and there is no other.
    pub fn wanted_space(&self) -> Option<u64> {
        if let Some(group) = self.groups.iter().find(|group| group.place.is_none()) {
            let need = BLOCK + group.padded_bytes();
            return Some(self.segment_bytes.max(need as u64));
        }
        let half_full = self.spaces.front().is_none_or(|it| self.planned_end() >= it.size / 2);
        (self.spaces.len() <= 1 && half_full).then_some(self.segment_bytes)
    }

    /// Bytes free for further batches: in all, and in the segment with the most.
    pub fn free(&self) -> (u64, u64) {
        let mut total = 0;
        let mut largest = 0;
        for (index, space) in self.spaces.iter().enumerate() {
            let start = if index == 0 { self.planned_end() } else { BLOCK as u64 };
            let free = space.size.saturating_sub(start);
            total += free;
            largest = largest.max(free);
        }
        let waiting = self.groups.iter().filter(|group| group.place.is_none());
        let waiting: usize = waiting.map(Group::padded_bytes).sum();
        (total.saturating_sub(waiting as u64), largest)
    }

    /// Where in the front space the next group would start if the open one were closed.
    fn planned_end(&self) -> u64 {
        match self.groups.back() {
            Some(group) if group.open && group.place.is_some() => {
                self.planned + group.padded_bytes() as u64
            }
            _ => self.planned,
        }
    }

    fn close_open_group(&mut self) {
        let end = self.planned_end();
        if let Some(group) = self.groups.back_mut()
            && group.open
        {
            group.open = false;
            self.planned = end;
        }
    }

    /// Opens a group that will hold at least `need` bytes, padded. A turn of the history (cut,
    /// reset) takes no transaction and is closed at once.
    fn open_group(&mut self, kind: Kind, need: usize) {
        let waiting = self.groups.back().is_some_and(|group| group.place.is_none());
        let place = if waiting { None } else { self.place_for(need) };
        let bytes_max = self.bytes_max(place, need);
        let group = self.new_group(kind, place, bytes_max);
        self.groups.push_back(group);
        if kind != Kind::Txns {
            self.close_open_group();
        }
    }

    fn new_group(&mut self, kind: Kind, place: Option<Position>, bytes_max: usize) -> Group {
        let mut buffer =
            self.buffers.pop().unwrap_or_else(|| AlignedBuffer::with_capacity(BUFFER_BYTES));
        buffer.clear();
        buffer.extend_zeros(BATCH_HEADER_BYTES);
        Group {
            buffer,
            kind,
            count: 0,
            first: Zxid::ZERO,
            last: Zxid::ZERO,
            previous: self.appended,
            payload_crc: 0,
            summed: BATCH_HEADER_BYTES,
            place,
            bytes_max,
            open: true,
        }
    }

    /// How large a group at `place` may become.
    fn bytes_max(&self, place: Option<Position>, need: usize) -> usize {
        let free = match (place, self.spaces.front()) {
            (Some(place), Some(space)) => space.size - place.offset,
            _ => self.segment_bytes - BLOCK as u64,
        };
        let free = usize::try_from(free).expect("a segment fits the address space");
        GROUP_BYTES_MAX.max(need).min(free.max(need))
    }

    /// The first place with `need` bytes; leaves segments that are too small for good, but only
    /// when there is one that is not.
    fn place_for(&mut self, need: usize) -> Option<Position> {
        let start = |index, planned| if index == 0 { planned } else { BLOCK as u64 };
        let index =
            self.spaces.iter().enumerate().position(|(index, space)| {
                start(index, self.planned) + need as u64 <= space.size
            })?;
        self.planned = start(index, self.planned);
        self.spaces.drain(..index);
        let space = self.spaces.front().expect("a space was found");
        Some(Position { sequence: space.sequence, offset: self.planned })
    }

    /// Gives groups that wait for a segment their places, in order, as far as there is room.
    fn place_waiting(&mut self) {
        for index in 0..self.groups.len() {
            if self.groups[index].place.is_some() {
                continue;
            }
            let need = self.groups[index].padded_bytes();
            let Some(place) = self.place_for(need) else { return };
            let bytes_max = self.bytes_max(Some(place), need);
            let group = &mut self.groups[index];
            group.place = Some(place);
            group.bytes_max = bytes_max;
            if !group.open {
                self.planned += need as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn appender(sizes: &[u64]) -> Appender {
        let tail = Tail { identity: 1, last: Zxid::ZERO, chain: None, committed: Zxid::ZERO };
        let mut appender = Appender::new(tail, SEGMENT);
        for (size, sequence) in sizes.iter().zip(1..) {
            appender.offer(Space { sequence, size: *size });
        }
        appender
    }

    fn zxid(counter: u32) -> Zxid {
        Zxid::new(1, counter)
    }

    /// Stages transactions of these lengths and gives where each group went: segment, offset,
    /// bytes, first and last counter.
    fn check(appender: &mut Appender, lengths: &[usize], want: &[(u64, u64, usize, u32, u32)]) {
        for length in lengths {
            let next = appender.appended().next().unwrap();
            let next = if next.epoch() == 0 { zxid(1) } else { next };
            appender.append(next, &vec![1; *length]);
        }
        let mut found = Vec::new();
        while let Some(write) = appender.poll_write() {
            assert!(appender.poll_write().is_none(), "one write is in flight at a time");
            let GroupWrite { place, header, .. } = &write;
            let (first, last) = (header.first.counter(), header.last.counter());
            found.push((place.sequence, place.offset, write.buffer.len(), first, last));
            let through = header.last;
            assert_eq!(appender.handle_written(write), through);
        }
        assert_eq!(found, want);
    }

    #[test]
    fn a_group_is_all_that_arrived_and_ends_at_its_bound() {
        let mut appender = appender(&[SEGMENT]);
        check(&mut appender, &[10, 10, 10], &[(1, 4096, 4096, 1, 3)]);
        // One byte less than the bound, padded, then a group of its own for the next.
        let overhead = BATCH_HEADER_BYTES + BATCH_TRAILER_BYTES + RECORD_HEADER_BYTES;
        let full = GROUP_BYTES_MAX - overhead;
        let (start, group) = (8192, GROUP_BYTES_MAX);
        let next = start + group as u64;
        check(&mut appender, &[full, 1, 1], &[(1, start, group, 4, 4), (1, next, 4096, 5, 6)]);
        // A larger transaction stands alone.
        let large = (1, next + 4096, GROUP_BYTES_MAX + 4096, 7, 7);
        check(&mut appender, &[full + 1], &[large]);
    }

    #[test]
    fn a_group_ends_with_its_segment() {
        let mut appender = appender(&[4 * 4096, 8 * 4096]);
        let two_blocks = 4097;
        // Three blocks are free in the first: a group of two transactions of 1.5 blocks.
        check(
            &mut appender,
            &[6000, 6000, 6000, 10],
            &[(1, 4096, 3 * 4096, 1, 2), (2, 4096, 2 * 4096, 3, 4)],
        );
        check(&mut appender, &[two_blocks], &[(2, 3 * 4096, 2 * 4096, 5, 5)]);
    }

    #[test]
    fn what_has_no_room_waits_in_order_and_says_what_it_needs() {
        let mut appender = appender(&[4 * 4096]);
        check(&mut appender, &[20_000_000, 4000], &[]);
        assert_eq!(appender.appended(), zxid(2));
        assert_eq!(appender.durable(), Zxid::ZERO);
        let need = appender.wanted_space().unwrap();
        assert_eq!(need, 4096 + batch_bytes(RECORD_HEADER_BYTES + 20_000_000) as u64);
        assert_eq!(appender.free().0, 0, "what waits has taken all there is");
        // A segment that is too small for the first leaves both waiting.
        appender.offer(Space { sequence: 2, size: SEGMENT });
        assert!(appender.poll_write().is_none());
        appender.offer(Space { sequence: 3, size: need });
        let large = (3, 4096, to_bytes(need) - 4096, 1, 1);
        check(&mut appender, &[], &[large]);
        assert!(appender.poll_write().is_none(), "the second had no room left there");
        appender.offer(Space { sequence: 4, size: SEGMENT });
        check(&mut appender, &[10], &[(4, 4096, 2 * 4096, 2, 3)]);
    }

    fn to_bytes(size: u64) -> usize {
        usize::try_from(size).unwrap()
    }

    #[test]
    fn a_segment_is_wanted_when_the_last_one_is_half_full() {
        let mut appender = appender(&[SEGMENT]);
        assert_eq!(appender.wanted_space(), None);
        let half = to_bytes(SEGMENT / 2) - BLOCK;
        let overhead = BATCH_HEADER_BYTES + BATCH_TRAILER_BYTES + RECORD_HEADER_BYTES;
        appender.append(zxid(1), &vec![0; half - overhead - BLOCK]);
        assert_eq!(appender.wanted_space(), None);
        appender.append(zxid(2), &[0; BLOCK]);
        assert_eq!(appender.wanted_space(), Some(SEGMENT));
        appender.offer(Space { sequence: 2, size: SEGMENT });
        assert_eq!(appender.wanted_space(), None);
        assert_eq!(appender.free(), (SEGMENT / 2 + SEGMENT - 2 * 4096, SEGMENT - 4096));
    }

    #[test]
    fn a_mark_is_due_once_after_each_batch() {
        let mut appender = appender(&[4 * 4096]);
        assert!(appender.mark_if_idle().is_none(), "there is nothing to mark");
        appender.append(zxid(1), b"one");
        assert!(appender.mark_if_idle().is_none(), "not while something is staged");
        let write = appender.poll_write().unwrap();
        assert!(appender.mark_if_idle().is_none(), "nor in flight");
        let chain = write.header.checksum();
        appender.handle_written(write);
        let mark = appender.mark_if_idle().unwrap();
        assert_eq!(mark.header.kind, Kind::Mark);
        assert_eq!((mark.header.durable, mark.header.chain), (zxid(1), chain));
        assert_eq!(appender.handle_written(mark), zxid(1));
        assert!(appender.mark_if_idle().is_none(), "once");
    }

    #[test]
    #[should_panic(expected = "does not come after")]
    fn zxids_only_rise() {
        let mut appender = appender(&[SEGMENT]);
        appender.append(zxid(2), b"");
        appender.append(zxid(2), b"");
    }
}
