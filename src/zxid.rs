//! The transaction id: what orders everything.

use std::fmt;

/// A transaction id: the leader's epoch in the high 32 bits, a counter in the low 32.
///
/// On the wire it is a signed 64-bit integer; epochs stay far below the sign bit, so order as
/// unsigned and as signed agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(u64);

impl Zxid {
    /// The zxid of an empty history.
    pub const ZERO: Zxid = Zxid(0);
    /// Later than every transaction: what a reader of the newest state uses as its version.
    pub const MAX: Zxid = Zxid(i64::MAX as u64);

    /// The transaction `counter` of `epoch`.
    pub const fn new(epoch: u32, counter: u32) -> Zxid {
        Zxid((epoch as u64) << 32 | counter as u64)
    }

    /// The zxid as it stands on the wire and in files.
    pub const fn from_raw(raw: i64) -> Zxid {
        Zxid(raw as u64)
    }

    /// The inverse of [`Zxid::from_raw`].
    pub const fn raw(self) -> i64 {
        self.0 as i64
    }

    /// The leader's term in which the transaction was proposed.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The transaction's number within its epoch; 0 is the epoch's start and no transaction.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The next transaction of the same epoch, or `None` when the epoch's counter has run out and
    /// a new epoch must begin.
    pub const fn next(self) -> Option<Zxid> {
        match self.counter() {
            u32::MAX => None,
            _ => Some(Zxid(self.0 + 1)),
        }
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_orders_before_counter() {
        assert!(Zxid::new(1, u32::MAX) < Zxid::new(2, 0));
        assert_eq!(Zxid::new(7, 9).epoch(), 7);
        assert_eq!(Zxid::new(7, 9).counter(), 9);
        assert_eq!(Zxid::from_raw(Zxid::new(7, 9).raw()), Zxid::new(7, 9));
    }

    #[test]
    fn counter_never_wraps_into_the_next_epoch() {
        assert_eq!(Zxid::new(1, 4).next(), Some(Zxid::new(1, 5)));
        assert_eq!(Zxid::new(1, u32::MAX).next(), None);
    }
}
