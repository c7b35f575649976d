//! Who may connect: a limit per address and one in total, over all client cores; and with whom
//! they share what may be under way.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use papaya::HashMap;

use crate::server::overload::Overload;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The address has `maxClientCnxns` connections.
    PerAddress,
    /// The server has as many connections as it may have (`maxCnxns`).
    Total,
}

/// The count of connections, shared by all client cores.
#[derive(Debug)]
pub struct Admission {
    total_max: usize,
    /// 0: no limit per address.
    per_address_max: usize,
    total: AtomicUsize,
    per_address: HashMap<IpAddr, usize>,
    pub overload: Overload,
}

impl Admission {
    /// Nobody is connected; at most `total_max` connections, `per_address_max` (0: any number)
    /// from one address.
    pub fn new(total_max: usize, per_address_max: usize, overload: Overload) -> Admission {
        let (total, per_address) = (AtomicUsize::new(0), HashMap::new());
        Admission { total_max, per_address_max, total, per_address, overload }
    }

    /// Counts a connection from `address`, or says why there may be none. What was let in must be
    /// given back by [`Admission::leave`].
    pub fn enter(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.total_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Total);
        }
        let count = *self.per_address.pin().update_or_insert(address, |count| count + 1, 1);
        if self.per_address_max != 0 && count > self.per_address_max {
            self.leave(address);
            return Err(Refusal::PerAddress);
        }
        Ok(())
    }

    /// Gives back a connection that was let in.
    pub fn leave(&self, address: IpAddr) {
        let previous = self.total.fetch_sub(1, Ordering::Relaxed);
        assert!(previous > 0, "more connections left than entered");
        let counts = self.per_address.pin();
        counts.compute(address, |entry| match entry {
            Some((_, &count)) if count > 1 => papaya::Operation::Insert(count - 1),
            Some(_) => papaya::Operation::Remove,
            None => papaya::Operation::Abort(()),
        });
    }

    /// How many connections there are.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::server::overload::Bounds;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
    fn admission(total_max: usize, per_address_max: usize) -> Admission {
        let bounds = Bounds {
            requests_max: 1,
            throttled_requests_max: None,
            large_threshold_bytes: None,
            large_bytes_max: 0,
        };
        Admission::new(total_max, per_address_max, Overload::new(1, bounds))
    }

    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    #[test]
    fn limits_hold_per_address_and_in_total_and_places_come_back() {
        let admission = admission(3, 2);
        assert_eq!(admission.enter(A), Ok(()));
        assert_eq!(admission.enter(A), Ok(()));
        assert_eq!(admission.enter(A), Err(Refusal::PerAddress));
        assert_eq!(admission.enter(B), Ok(()));
        assert_eq!(admission.enter(B), Err(Refusal::Total));
        admission.leave(A);
        assert_eq!(admission.enter(B), Ok(()));
        assert_eq!(admission.total(), 3);
    }

    #[test]
    fn zero_is_no_limit_per_address_and_addresses_are_forgotten() {
        let admission = admission(100, 0);
        for _ in 0..100 {
            assert_eq!(admission.enter(A), Ok(()));
        }
        for _ in 0..100 {
            admission.leave(A);
        }
        assert_eq!(admission.total(), 0);
        assert!(admission.per_address.is_empty());
    }
}
