//! One io_uring whose operations own all that the kernel may touch. The only `unsafe` of `io/`.
//!
//! An [`Operation`] is moved in, with its file and its bytes, and stays here until the kernel has
//! reported its last completion; only then is it handed back, or dropped. So nobody outside can
//! free, change or reuse memory that the kernel reads, and no descriptor is closed, and its number
//! given to another socket, under an operation's feet. The one thing that the kernel writes to, the
//! pool of receive buffers, is reached by reference only at the buffer that is *leased*: the bytes
//! of the event that was taken last.
//!
//! A *quick* send has no completion when it succeeds: the kernel takes all of its bytes while it is
//! submitted, or refuses (`MSG_DONTWAIT`, and io_uring then tries no more), and reports the refusal
//! at once. So all of them are over when the system call has returned that took the last entry of
//! the submission queue, and those of which nothing was reported by then are sent.
//!
//! What follows from a completion (arming again, giving up, telling somebody) is decided in
//! `ring.rs`, in safe code.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::slab::{Key, Slab};

/// `user_data` of cancellations, whose own results nobody waits for. No [`Key`] has these bits.
const CANCELLATION: u64 = u64::MAX;

/// The low half of a quick send's `user_data`; its place among the quick ones is the high half. No
/// [`Key`] has this index, and a cancellation has another high half.
const QUICK: u64 = u32::MAX as u64;

/// The number of our only group of receive buffers.
const BUFFER_GROUP: u16 = 0;

/// The most that one send or write asks for: the kernel takes 2 GiB less a page at once. The rest
/// follows when this much is done.
const OPERATION_BYTES_MAX: usize = 1 << 30;

/// How often a ring that is dropped waits a second without a completion, before it gives up and
/// leaks what the kernel still holds.
const DROP_SECONDS_MAX: u32 = 10;

/// Bytes that a file is written from, of whatever type: `Box<dyn Any>::downcast` finds it again
/// when they come back.
pub trait IoBuffer: AsRef<[u8]> + Any {}

impl<T: AsRef<[u8]> + Any> IoBuffer for T {}

impl fmt::Debug for dyn IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.as_ref().len())
    }
}

/// Bytes to send.
#[derive(Debug)]
pub(super) enum Payload {
    Own(Vec<u8>),
    /// The same for many connections.
    Shared(Arc<[u8]>),
}

impl Payload {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Payload::Own(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    /// The buffer, to be used again; an empty one if it was shared.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        match self {
            Payload::Own(bytes) => bytes,
            Payload::Shared(_) => Vec::new(),
        }
    }
}

/// How large a ring is. Counts are powers of two; the kernel raises those that are not.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Places in the submission queue: how many operations one system call can start.
    pub submissions: u32,
    /// Places in the completion queue. What does not fit waits in the kernel.
    pub completions: u32,
    /// Receive buffers, a power of two, 32,768 at most. All connections share them.
    pub receive_buffers: u16,
    /// Bytes in each receive buffer: the most that one `Received` carries.
    pub receive_buffer_bytes: u32,
}

impl Default for RingConfig {
    /// 4 MiB of receive buffers; a turn's batch of requests from 256 busy clients fits.
    fn default() -> RingConfig {
        RingConfig {
            submissions: 1024,
            completions: 4096,
            receive_buffers: 256,
            receive_buffer_bytes: 16 * 1024,
        }
    }
}

/// Work for the kernel, with all that it touches.
pub(super) enum Operation {
    /// Accepts connections until it is cancelled or fails.
    Accept { listener: Rc<OwnedFd> },
    /// Reports each write to an eventfd until it is cancelled. The counter is never read: the
    /// poll is triggered by the write, not by the level.
    Poll { eventfd: Arc<dyn AsFd> },
    /// Receives into the pool's buffers until the stream ends or fails, or the buffers run out.
    Receive { socket: Rc<OwnedFd> },
    /// Sends `payload` from `sent` on.
    Send { socket: Rc<OwnedFd>, payload: Payload, sent: usize },
    /// Writes `buffer` from `written` on to its place at `offset` (that of its first byte).
    Write { file: Arc<dyn AsFd>, buffer: Box<dyn IoBuffer>, offset: u64, written: usize },
    /// `fdatasync`.
    Sync { file: Arc<dyn AsFd> },
}

/// What the kernel reported. `armed` says that the operation goes on; `owner` is what it was
/// started with.
pub(super) enum Event {
    Accepted {
        owner: u64,
        socket: io::Result<OwnedFd>,
        armed: bool,
    },
    Polled {
        armed: bool,
    },
    /// [`Uring::leased`] has the bytes until the next event is taken.
    Received {
        owner: u64,
        length: io::Result<usize>,
        armed: bool,
    },
    /// A send, write or sync is done as far as `result` says, and back with all that it owned.
    Finished {
        owner: u64,
        operation: Operation,
        result: io::Result<usize>,
    },
}

struct Running {
    owner: u64,
    operation: Operation,
}

/// A send that was or will be taken, or refused, while it is submitted.
pub(super) struct QuickSend {
    pub(super) owner: u64,
    pub(super) socket: Rc<OwnedFd>,
    pub(super) payload: Payload,
    /// How many bytes were sent.
    pub(super) result: io::Result<usize>,
}

/// The bytes of the event that was taken last.
struct Lease {
    buffer: u16,
    length: usize,
}

/// How long a busy ring waits for more completions than one: short beside a write of the log or a
/// client's round trip.
const GATHER_MICROS: u32 = 40;

/// How many completions a busy ring waits for at most, beside those of its sends.
const GATHER_MAX: usize = 32;

/// See the module. It belongs to the thread that made it.
pub(super) struct Uring {
    ring: IoUring,
    /// What the kernel works at, or will: a key here is the `user_data` of its completions.
    operations: Slab<Running>,
    /// Entries that did not fit in the submission queue, in order.
    backlog: VecDeque<Entry>,
    /// Completions that were collected together; those before `taken` are done with.
    batch: Vec<cqueue::Entry>,
    taken: usize,
    lease: Option<Lease>,
    /// Whether the kernel can wait for several completions for a bounded time (Linux 6.12).
    can_gather: bool,
    /// Quick sends since the last turn whose entries were all taken.
    quick: Vec<QuickSend>,
    /// Those that are over, and not told so far.
    settled: VecDeque<QuickSend>,
    /// Sends started since the last wait: most complete while they are submitted.
    started_short: usize,
    /// Events since the last wait that were not of sends.
    came: usize,
    /// After `ring`, so that it is freed after it.
    pool: ReceivePool,
    /// `SINGLE_ISSUER`: the kernel refuses every other thread.
    not_send: PhantomData<*const ()>,
}

impl Uring {
    pub(super) fn new(config: RingConfig) -> io::Result<Uring> {
        // Completion work runs when we ask for completions, in batches, and never interrupts us;
        // the kernel raises a flag when there is some, so that a turn that does not wait and has
        // nothing to submit needs no system call.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.completions)
            .build(config.submissions)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(Errno::INVAL.into());
        }
        let pool = ReceivePool::new(config.receive_buffers, config.receive_buffer_bytes as usize);
        let address = pool.entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, `count` of them, and freed only after the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, pool.count, BUFFER_GROUP, 0)?;
        }
        Ok(Uring {
            batch: Vec::with_capacity(ring.params().cq_entries() as usize),
            operations: Slab::new(),
            backlog: VecDeque::new(),
            taken: 0,
            lease: None,
            can_gather: ring.params().is_feature_min_timeout(),
            ring,
            quick: Vec::new(),
            settled: VecDeque::new(),
            started_short: 0,
            came: 0,
            pool,
            not_send: PhantomData,
        })
    }

    /// Hands an operation to the kernel with the next [`Uring::enter`]. Its events carry `owner`.
    pub(super) fn start(&mut self, owner: u64, operation: Operation) -> Key {
        self.started_short += usize::from(matches!(operation, Operation::Send { .. }));
        let key = self.operations.insert(Running { owner, operation });
        let running = self.operations.get_mut(key).expect("it has just been put there");
        let entry = entry_of(&running.operation).user_data(key.to_bits());
        self.push(entry);
        key
    }

    /// Sends `payload`, or as much of it as the kernel takes without waiting, with the next
    /// [`Uring::enter`], whose wait this does not end: [`Uring::next_quick`] tells of it afterwards.
    pub(super) fn start_quick(&mut self, owner: u64, socket: Rc<OwnedFd>, payload: Payload) {
        let (address, length) = rest(payload.bytes());
        let whole = payload.bytes().len();
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), address, length)
            .flags((send_flags() | SendFlags::DONTWAIT.bits()) as i32)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data((self.quick.len() as u64) << 32 | QUICK);
        assert!(whole <= OPERATION_BYTES_MAX, "what the kernel leaves out is reported");
        self.quick.push(QuickSend { owner, socket, payload, result: Ok(whole) });
        self.push(entry);
    }

    /// The next quick send that is over.
    pub(super) fn next_quick(&mut self) -> Option<QuickSend> {
        self.settled.pop_front()
    }

    /// Tells the quick sends that were refused from those that were taken, once all are submitted.
    fn settle(&mut self) -> io::Result<()> {
        if self.quick.is_empty() || !self.backlog.is_empty() {
            return Ok(());
        }
        if !self.ring.submission().is_empty() {
            return Ok(());
        }
        // What did not fit in the completion queue may be a refusal.
        while self.ring.submission().cq_overflow() {
            if let Err(error) = self.ring.submit()
                && !passing(&error)
            {
                return Err(error);
            }
            self.batch.extend(self.ring.completion());
        }
        for completion in &self.batch {
            if let Some(index) = quick_index(completion.user_data()) {
                self.quick[index].result = result_of(completion.result());
            }
        }
        self.settled.extend(self.quick.drain(..));
        Ok(())
    }

    /// Asks the kernel to end an operation. Its last event comes in any case, and may still be
    /// of success.
    pub(super) fn cancel(&mut self, key: Key) {
        self.push_cancellation(CancelBuilder::user_data(key.to_bits()));
    }

    /// True when each event of the last [`Uring::enter`] was taken.
    pub(super) fn is_drained(&self) -> bool {
        self.taken == self.batch.len() && self.settled.is_empty()
    }

    /// Submits what was started and collects what is completed; with `wait`, waits until something
    /// is, or `timeout` has passed. Call it only when the last events are drained.
    ///
    /// A busy ring gathers: it goes on waiting for as many completions as are soon to be expected,
    /// for [`GATHER_MICROS`] at most, since each wake costs as much as serving a request.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        assert!(self.is_drained(), "events are taken before the next are collected");
        self.end_lease();
        while !self.backlog.is_empty() {
            let progress = self.ring.submit();
            self.push_backlog();
            match progress {
                Err(error) if passing(&error) => break,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let entered = match timeout {
            // Work that is left over must not wait for a completion that it would cause.
            _ if !self.backlog.is_empty() || !wait => self.enter_without_waiting(),
            timeout => {
                let timeout = timeout.map(Timespec::from);
                let mut arguments = SubmitArgs::new();
                if let Some(timeout) = &timeout {
                    arguments = arguments.timespec(timeout);
                }
                let expected = self.expected();
                if expected > 1 {
                    arguments = arguments.min_wait_usec(GATHER_MICROS);
                }
                self.ring.submitter().submit_with_args(expected, &arguments)
            }
        };
        self.started_short = 0;
        if wait {
            self.came = 0;
        }
        if let Err(error) = entered
            && !passing(&error)
        {
            return Err(error);
        }
        self.batch.clear();
        self.batch.extend(self.ring.completion());
        self.taken = 0;
        self.settle()
    }

    /// How many completions are worth waiting for: the short operations just started, which mostly
    /// complete while they are submitted, and some of what came by itself the last time.
    fn expected(&self) -> usize {
        if !self.can_gather {
            return 1;
        }
        self.started_short + (self.came * 3 / 4).clamp(1, GATHER_MAX)
    }

    /// Whether sends wait for the next [`Uring::enter`], and so little comes that its wait would
    /// end by their completions alone.
    pub(super) fn is_quiet_after_sends(&self) -> bool {
        self.started_short > 0 && self.came * 3 / 4 <= 1
    }

    fn enter_without_waiting(&mut self) -> io::Result<usize> {
        let queue = self.ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(0);
        }
        drop(queue);
        self.ring.submit()
    }

    /// The next event of those that were collected, in the order of their completion. It ends the
    /// lease of the event before it.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.end_lease();
        while let Some(completion) = self.batch.get(self.taken) {
            self.taken += 1;
            let user_data = completion.user_data();
            if user_data & QUICK != QUICK {
                let (result, flags) = (completion.result(), completion.flags());
                return Some(self.event(Key::from_bits(user_data), result, flags));
            }
        }
        None
    }

    fn event(&mut self, key: Key, result: i32, flags: u32) -> Event {
        let armed = cqueue::more(flags);
        let length = result_of(result);
        if let Some(buffer) = cqueue::buffer_select(flags) {
            let length = *length.as_ref().unwrap_or(&0);
            assert!(buffer < self.pool.count, "the kernel fills buffers that it was given");
            assert!(length <= self.pool.buffer_bytes, "the kernel fills no more than a buffer");
            self.lease = Some(Lease { buffer, length });
        }
        let running = self.operations.get_mut(key).expect("each operation stays to its last event");
        let owner = running.owner;
        self.came += usize::from(!matches!(running.operation, Operation::Send { .. }));
        let event = match running.operation {
            Operation::Accept { .. } => {
                let socket = length.map(|_| {
                    // SAFETY: a successful accept's result is a descriptor that was opened for
                    // this completion alone, and each completion is taken once.
                    unsafe { OwnedFd::from_raw_fd(result) }
                });
                Event::Accepted { owner, socket, armed }
            }
            Operation::Poll { .. } => Event::Polled { armed },
            Operation::Receive { .. } => Event::Received { owner, length, armed },
            Operation::Send { .. } | Operation::Write { .. } | Operation::Sync { .. } => {
                assert!(!armed, "it completes once");
                let Running { owner, operation } = self.operations.remove(key).expect("seen above");
                return Event::Finished { owner, operation, result: length };
            }
        };
        if !armed {
            self.operations.remove(key);
        }
        event
    }

    /// The bytes of the event that was taken last; none if it was not a receive.
    pub(super) fn leased(&self) -> &[u8] {
        self.lease.as_ref().map_or(&[], |lease| self.pool.filled(lease))
    }

    /// Gives the buffer of the last event back to the kernel.
    fn end_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.pool.give(lease.buffer);
        }
    }

    /// How many operations the kernel may still be at, or have to begin.
    fn held(&self) -> usize {
        self.operations.len() + self.quick.len()
    }

    /// Drops the events of the last [`Uring::enter`].
    fn drain(&mut self) {
        self.settled.clear();
        while self.next().is_some() {}
    }

    fn push_cancellation(&mut self, which: CancelBuilder) {
        let entry = opcode::AsyncCancel2::new(which).build().user_data(CANCELLATION);
        self.push(entry);
    }

    fn push(&mut self, entry: Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        // The queue is full: let the kernel take it. What it refuses, and why, the next `enter`
        // sees again.
        self.backlog.push_back(entry);
        if self.ring.submit().is_ok() {
            self.push_backlog();
        }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the entry is a cancellation, which points nowhere, or was made by `entry_of` from
        // an operation in `operations`, or is of a send in `quick`. These keep its descriptor open
        // and its bytes in place and unchanged until its last completion, or until the kernel has
        // taken the entry and is done with it; dropping the ring waits for that.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }
}

impl Drop for Uring {
    /// Ends every operation and waits until the kernel has let go of all memory.
    fn drop(&mut self) {
        self.drain();
        self.push_cancellation(CancelBuilder::any());
        let mut seconds = 0;
        while self.held() > 0 && seconds < DROP_SECONDS_MAX {
            let held = self.held();
            if self.enter(true, Some(Duration::from_secs(1))).is_err() {
                break;
            }
            self.drain();
            if self.held() == held {
                seconds += 1;
            }
        }
        if self.held() > 0 {
            // Memory that is lost is better than memory that the kernel reads or writes later.
            mem::forget(mem::take(&mut self.quick));
            mem::forget(mem::replace(&mut self.operations, Slab::new()));
            self.pool.leak();
        }
    }
}

/// Errors of `io_uring_enter` after which the next call goes on where it left off: the wait timed
/// out, a signal came, or the kernel was short of memory or of completion places.
fn passing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY))
}

fn entry_of(operation: &Operation) -> Entry {
    match operation {
        Operation::Accept { listener } => opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .flags(SocketFlags::CLOEXEC.bits() as i32)
            .build(),
        Operation::Poll { eventfd } => {
            opcode::PollAdd::new(Fd(eventfd.as_fd().as_raw_fd()), PollFlags::IN.bits().into())
                .multi(true)
                .build()
        }
        Operation::Receive { socket } => {
            opcode::RecvMulti::new(Fd(socket.as_raw_fd()), BUFFER_GROUP).build()
        }
        Operation::Send { socket, payload, sent } => {
            let (address, length) = rest(&payload.bytes()[*sent..]);
            opcode::Send::new(Fd(socket.as_raw_fd()), address, length)
                .flags(send_flags() as i32)
                .build()
        }
        Operation::Write { file, buffer, offset, written } => {
            // The borrow that this pointer comes from is good for as long as nobody moves,
            // changes or drops what is in the box, and the box stays untouched in its slab.
            let bytes: &[u8] = (**buffer).as_ref();
            let (address, length) = rest(&bytes[*written..]);
            opcode::Write::new(Fd(file.as_fd().as_raw_fd()), address, length)
                .offset(offset + *written as u64)
                .build()
        }
        Operation::Sync { file } => {
            opcode::Fsync::new(Fd(file.as_fd().as_raw_fd())).flags(FsyncFlags::DATASYNC).build()
        }
    }
}

/// WAITALL: the kernel itself goes on after a part was sent; where it must not wait either, it
/// counts that as a failure, which is reported.
fn send_flags() -> u32 {
    SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits()
}

fn quick_index(user_data: u64) -> Option<usize> {
    (user_data != CANCELLATION && user_data & QUICK == QUICK).then_some((user_data >> 32) as usize)
}

fn result_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn rest(bytes: &[u8]) -> (*const u8, u32) {
    (bytes.as_ptr(), bytes.len().min(OPERATION_BYTES_MAX) as u32)
}

/// Buffers that the kernel picks one of for each receive, and the ring by which it gets them back.
///
/// ```text
/// entries: count × { address: u64, length: u32, number: u16, – : u16 }
///          the last field of the first entry is the ring's tail, which only we write
/// bytes:   count × buffer_bytes
/// ```
///
/// A buffer belongs to the kernel from `give` until a completion names it.
struct ReceivePool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    count: u16,
    buffer_bytes: usize,
    /// Buffers given so far, modulo 2^16.
    tail: u16,
    /// The kernel may still hold some: they are never freed.
    leaked: bool,
}

/// The kernel wants the entries on a page of their own.
const PAGE_BYTES: usize = 4096;

impl ReceivePool {
    fn new(count: u16, buffer_bytes: usize) -> ReceivePool {
        assert!(count.is_power_of_two(), "the kernel masks the tail by the count");
        assert!(count <= 1 << 15, "the kernel's limit");
        assert!(buffer_bytes > 0);
        assert!(u32::try_from(buffer_bytes).is_ok());
        let mut pool = ReceivePool {
            entries: allocate(Self::entries_layout(count)).cast(),
            bytes: allocate(Self::bytes_layout(count, buffer_bytes)),
            count,
            buffer_bytes,
            tail: 0,
            leaked: false,
        };
        for buffer in 0..count {
            pool.give(buffer);
        }
        pool
    }

    fn entries_layout(count: u16) -> Layout {
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, PAGE_BYTES).expect("half a MiB at most")
    }

    fn bytes_layout(count: u16, buffer_bytes: usize) -> Layout {
        let bytes = usize::from(count).checked_mul(buffer_bytes).expect("it fits the memory");
        Layout::from_size_align(bytes, 16).expect("it fits the memory")
    }

    /// Hands a buffer that nobody refers to any more to the kernel.
    fn give(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `index` is below `count`, so the entry is in our allocation; the kernel reads it
        // only once the tail says that it is there. `buffer` is below `count` too, so its address
        // is in `bytes`. The tail lies in the first entry, is aligned, and is written by us
        // alone; the kernel reads it with an acquire that pairs with this release.
        unsafe {
            let address = self.bytes.add(usize::from(buffer) * self.buffer_bytes);
            let entry = self.entries.add(index).as_mut();
            entry.set_addr(address.as_ptr() as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(buffer);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn filled(&self, lease: &Lease) -> &[u8] {
        // SAFETY: whoever made the lease checked that the buffer and the length exist. All bytes
        // were zeroed or received, and the kernel does not touch a buffer between the completion
        // that names it and `give`, which takes `&mut self`.
        unsafe {
            let address = self.bytes.add(usize::from(lease.buffer) * self.buffer_bytes);
            std::slice::from_raw_parts(address.as_ptr(), lease.length)
        }
    }

    fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for ReceivePool {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: both were allocated with these layouts. The ring that knew them is closed, and
        // no receive was left when it was.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            let layout = Self::bytes_layout(self.count, self.buffer_bytes);
            dealloc(self.bytes.as_ptr(), layout);
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0);
    // SAFETY: the size is not zero.
    let address = unsafe { alloc_zeroed(layout) };
    NonNull::new(address).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after a submission that the kernel refused for want of memory.
    #[test]
    fn a_backlog_longer_than_the_queue_is_submitted_whole() {
        const COUNT: u64 = 100;
        let config = RingConfig { submissions: 8, ..RingConfig::default() };
        let mut uring = Uring::new(config).unwrap();
        let file: Arc<dyn AsFd> = Arc::new(tempfile::tempfile().unwrap());
        for owner in 0..COUNT {
            let operation = Operation::Write {
                file: file.clone(),
                buffer: Box::new([owner as u8]),
                offset: owner,
                written: 0,
            };
            let entry = entry_of(&operation);
            let key = uring.operations.insert(Running { owner, operation });
            uring.backlog.push_back(entry.user_data(key.to_bits()));
        }
        // One more goes behind them.
        uring.start(COUNT, Operation::Sync { file });
        let mut finished = 0;
        while finished <= COUNT {
            uring.enter(true, Some(Duration::from_secs(20))).unwrap();
            assert!(!uring.is_drained(), "nothing happens");
            while let Some(event) = uring.next() {
                assert!(matches!(event, Event::Finished { result: Ok(_), .. }));
                finished += 1;
            }
        }
        assert_eq!(uring.operations.len(), 0);
        assert!(uring.backlog.is_empty());
    }
}
