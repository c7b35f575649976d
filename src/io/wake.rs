//! How another core wakes one that is parked in its ring.
//!
//! A core is *running*, *parked*, or *notified*. The waker always leaves `NOTIFIED` behind, and
//! writes the eventfd only where it found `PARKED`: so there is at most one write for each time the
//! core parks, and none while it runs. The core parks only by exchanging `RUNNING` for `PARKED`,
//! which fails when somebody notified it since it last looked. Both sides use read-modify-write
//! operations, which see the newest value: a plain load before the exchange ("is it notified
//! already?") could be satisfied before the waker's own queue entry is visible, and lose the wake.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{retry_on_intr, write};

const RUNNING: u8 = 0;
const PARKED: u8 = 1;
const NOTIFIED: u8 = 2;

/// Wakes one ring from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    parking: Arc<Parking>,
}

impl Waker {
    pub(super) fn new(parking: Arc<Parking>) -> Waker {
        Waker { parking }
    }

    /// Makes the ring's current or next wait end and deliver `Completion::Woken`.
    ///
    /// Call it after what the core shall find has been put where it looks. Several calls before the
    /// core looks count as one.
    pub fn wake(&self) {
        if self.parking.state.swap(NOTIFIED, Ordering::AcqRel) == PARKED {
            retry_on_intr(|| write(&self.parking.eventfd, &1u64.to_ne_bytes()))
                .expect("an eventfd takes a one until it was written 2^64 times");
        }
    }
}

/// The core's side: the state that wakers exchange, and the eventfd its ring polls.
#[derive(Debug)]
pub(super) struct Parking {
    state: AtomicU8,
    eventfd: OwnedFd,
}

impl Parking {
    pub(super) fn new() -> std::io::Result<Parking> {
        // Not EFD_NONBLOCK: io_uring would then report EAGAIN instead of waiting.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Parking { state: AtomicU8::new(RUNNING), eventfd })
    }

    /// Says that the core is about to wait. False when it was notified since it last looked: then
    /// it must not wait.
    pub(super) fn park(&self) -> bool {
        self.state.compare_exchange(RUNNING, PARKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Says that the core runs. True when somebody notified it since it last looked.
    pub(super) fn unpark(&self) -> bool {
        // A stale `RUNNING` here only delays the news to the next turn; `park` does not miss it.
        if self.state.load(Ordering::Relaxed) == RUNNING {
            return false;
        }
        self.state.swap(RUNNING, Ordering::AcqRel) == NOTIFIED
    }
}

impl AsFd for Parking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(parking: &Parking) -> bool {
        let mut set = [rustix::event::PollFd::new(parking, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut set, Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_running_core_is_notified_without_a_write() {
        let parking = Arc::new(Parking::new().unwrap());
        Waker::new(parking.clone()).wake();
        assert!(!written(&parking));
        assert!(!parking.park(), "it must look first");
        assert!(parking.unpark());
        assert!(!parking.unpark(), "once");
        assert!(parking.park());
    }

    #[test]
    fn a_parked_core_gets_one_write() {
        let parking = Arc::new(Parking::new().unwrap());
        assert!(parking.park());
        let waker = Waker::new(parking.clone());
        waker.wake();
        waker.clone().wake();
        let mut count = [0; 8];
        assert!(written(&parking));
        rustix::io::read(&parking.eventfd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert!(parking.unpark());
    }
}
