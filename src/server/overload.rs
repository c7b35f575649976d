//! Bounds on the requests of all connections together: Apache's `globalOutstandingLimit`,
//! `request_throttle_max_requests` and `largeRequest…`.
//!
//! Every client core counts its own requests and tells the others once a turn; a bound is thus
//! overrun by what one turn takes in, never by more. Large requests are rare and counted at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The bounds, over all client cores.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// With more requests under way a connection may have one and no more.
    pub requests_max: usize,
    /// With so many under way nobody's are taken.
    pub throttled_requests_max: Option<usize>,
    /// A request of more bytes is a large one; `None` when no request is.
    pub large_threshold_bytes: Option<usize>,
    /// Bytes of large requests under way.
    pub large_bytes_max: usize,
}

/// What is under way, over all client cores.
#[derive(Debug)]
pub struct Overload {
    bounds: Bounds,
    cores: Box<[Count]>,
    large_bytes: AtomicUsize,
}

/// One core's requests; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicUsize);

/// The bytes of a large request were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Overload {
    /// Nothing is under way on any of `core_count` client cores.
    pub fn new(core_count: usize, bounds: Bounds) -> Overload {
        let cores = (0..core_count).map(|_| Count::default()).collect();
        Overload { bounds, cores, large_bytes: AtomicUsize::new(0) }
    }

    /// Tells the others how many requests the core `number` has under way; how many they have.
    pub fn exchange(&self, number: u16, count: usize) -> usize {
        let own = usize::from(number);
        if self.cores.len() > 1 {
            self.cores[own].0.store(count, Ordering::Relaxed);
        }
        let others = self.cores.iter().enumerate().filter(|(index, _)| *index != own);
        others.map(|(_, count)| count.0.load(Ordering::Relaxed)).sum()
    }

    /// Whether so many requests are under way that a connection may have only one.
    pub fn is_reached(&self, requests: usize) -> bool {
        requests > self.bounds.requests_max
    }

    /// Whether so many requests are under way that none more is taken.
    pub fn is_throttled(&self, requests: usize) -> bool {
        self.bounds.throttled_requests_max.is_some_and(|max| requests >= max)
    }

    /// Whether a request of `length` bytes is large and would be too much; it is not taken yet.
    pub fn is_too_large(&self, length: usize) -> bool {
        let is_large = self.bounds.large_threshold_bytes.is_some_and(|it| length > it);
        is_large && self.large_bytes.load(Ordering::Relaxed) + length > self.bounds.large_bytes_max
    }

    /// Takes a request of `length` bytes: how many of them are a large one's, to be given back by
    /// [`Overload::leave`].
    pub fn enter(&self, length: usize) -> Result<u32, TooLarge> {
        match self.bounds.large_threshold_bytes {
            Some(threshold) if length > threshold => {
                let before = self.large_bytes.fetch_add(length, Ordering::Relaxed);
                if before + length > self.bounds.large_bytes_max {
                    self.large_bytes.fetch_sub(length, Ordering::Relaxed);
                    return Err(TooLarge);
                }
                Ok(u32::try_from(length).expect("a frame's length is an int"))
            }
            _ => Ok(0),
        }
    }

    /// Gives back what [`Overload::enter`] took.
    pub fn leave(&self, large_bytes: u32) {
        if large_bytes > 0 {
            let before = self.large_bytes.fetch_sub(large_bytes as usize, Ordering::Relaxed);
            assert!(before >= large_bytes as usize, "more bytes left than entered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        requests_max: 10,
        throttled_requests_max: Some(20),
        large_threshold_bytes: Some(100),
        large_bytes_max: 300,
    };

    #[test]
    fn the_cores_requests_are_counted_together() {
        let overload = Overload::new(3, BOUNDS);
        assert_eq!(overload.exchange(0, 7), 0);
        assert_eq!(overload.exchange(1, 4), 7);
        assert_eq!(overload.exchange(0, 1), 4);
        assert_eq!(overload.exchange(2, 0), 5);
        assert!(!overload.is_reached(10) && overload.is_reached(11));
        assert!(!overload.is_throttled(19) && overload.is_throttled(20));
        let unbounded = Bounds { throttled_requests_max: None, ..BOUNDS };
        assert!(!Overload::new(1, unbounded).is_throttled(usize::MAX));
    }

    #[test]
    fn large_requests_are_bounded_together_and_small_ones_are_not_counted() {
        let overload = Overload::new(1, BOUNDS);
        assert_eq!(overload.enter(100), Ok(0));
        assert_eq!(overload.enter(150), Ok(150));
        assert!(!overload.is_too_large(150) && overload.is_too_large(151));
        assert_eq!(overload.enter(151), Err(TooLarge));
        assert_eq!(overload.enter(150), Ok(150));
        assert!(overload.is_too_large(101) && !overload.is_too_large(100));
        overload.leave(150);
        overload.leave(0);
        assert_eq!(overload.enter(150), Ok(150));
        let off = Overload::new(1, Bounds { large_threshold_bytes: None, ..BOUNDS });
        assert_eq!(off.enter(1 << 20), Ok(0));
        assert!(!off.is_too_large(1 << 20));
    }
}
