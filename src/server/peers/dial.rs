//! Connecting to other servers, off the core: names are resolved and sockets connected on helper
//! threads, because both may block for seconds.
//!
//! A thread lives as long as its dial, so that a peer that is gone, or a name server that does not
//! answer, holds up nobody else. There is no executor in it: it does nothing but wait. Names are
//! resolved anew for each dial, since a host that comes back may have another address.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::io::clock;
use crate::io::connector::connect;
use crate::io::wake::Waker;
use crate::wire::quorum::ServerId;

/// Dials under way to one port of one server. The second is for a caller that has given up the
/// first, which may hang in a name server.
const PER_PORT_MAX: usize = 2;

/// Dials under way in all: a bound on threads far above what an ensemble needs.
const TOTAL_MAX: usize = 64;

/// What a thread needs, in bytes: `getaddrinfo` has buffers of some KiB on its stack.
const STACK_BYTES: usize = 256 << 10;

/// Which of a server's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    Election,
    Quorum,
}

/// Whom to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    pub server: ServerId,
    pub port_kind: PortKind,
    /// Hosts, as names or addresses without brackets, and ports: the first that answers is taken.
    pub addresses: Vec<(String, u16)>,
    /// For the connection; resolving names is not interrupted, but counts.
    pub timeout: Duration,
    /// The caller's name for this dial, which comes back with the outcome.
    pub number: u64,
}

/// How a dial ended.
#[derive(Debug)]
pub struct Dialed {
    pub number: u64,
    pub server: ServerId,
    pub port_kind: PortKind,
    /// A connected socket that sends small segments at once; `io::listener::tune` sets the rest.
    pub result: io::Result<OwnedFd>,
}

/// Dials for one core. Each `dial` is answered by one `Dialed`, in any order; the waker is used
/// when there is one to poll. What is under way when it is dropped ends by itself.
pub struct Dialer {
    waker: Waker,
    dialed: Receiver<Dialed>,
    to_core: Sender<Dialed>,
    under_way: Vec<(ServerId, PortKind)>,
    /// Outcomes of dials that no thread was started for.
    refused: VecDeque<Dialed>,
}

impl Dialer {
    /// A dialer that wakes its core by `waker`.
    pub fn new(waker: Waker) -> Dialer {
        let (to_core, dialed) = channel();
        Dialer { waker, dialed, to_core, under_way: Vec::new(), refused: VecDeque::new() }
    }

    /// Starts connecting; [`Dialer::poll`] gives the outcome. Where too many dials are under way
    /// it is `WouldBlock`: try again later.
    pub fn dial(&mut self, target: Target) {
        let key = (target.server, target.port_kind);
        let (server, port_kind, number) = (target.server, target.port_kind, target.number);
        let begun = match self.has_room(key) {
            true => self.begin(target),
            false => Err(io::Error::new(io::ErrorKind::WouldBlock, "dials are still under way")),
        };
        match begun {
            Ok(()) => self.under_way.push(key),
            Err(error) => {
                let result = Err(error);
                self.refused.push_back(Dialed { number, server, port_kind, result });
                self.waker.wake();
            }
        }
    }

    /// The next outcome.
    pub fn poll(&mut self) -> Option<Dialed> {
        if let Some(refused) = self.refused.pop_front() {
            return Some(refused);
        }
        let dialed = self.dialed.try_recv().ok()?;
        let key = (dialed.server, dialed.port_kind);
        let place = self.under_way.iter().position(|it| *it == key);
        self.under_way.swap_remove(place.expect("what was dialed was under way"));
        Some(dialed)
    }

    fn has_room(&self, key: (ServerId, PortKind)) -> bool {
        let same = self.under_way.iter().filter(|it| **it == key).count();
        same < PER_PORT_MAX && self.under_way.len() < TOTAL_MAX
    }

    fn begin(&self, target: Target) -> io::Result<()> {
        let (to_core, waker) = (self.to_core.clone(), self.waker.clone());
        let run = move || {
            let result = resolve_and_connect(&target);
            let Target { number, server, port_kind, .. } = target;
            // The core may be gone already when the server stops.
            if to_core.send(Dialed { number, server, port_kind, result }).is_ok() {
                waker.wake();
            }
        };
        thread::Builder::new().name("dial".to_owned()).stack_size(STACK_BYTES).spawn(run)?;
        Ok(())
    }
}

fn resolve_and_connect(target: &Target) -> io::Result<OwnedFd> {
    let begun = clock::now();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut failure = None;
    for (host, port) in &target.addresses {
        match (host.as_str(), *port).to_socket_addrs() {
            Ok(resolved) => addresses.extend(resolved),
            Err(error) => {
                let text = format!("{host} cannot be resolved: {error}");
                failure = Some(io::Error::new(io::ErrorKind::NotFound, text));
            }
        }
    }
    match failure {
        Some(failure) if addresses.is_empty() => Err(failure),
        _ => connect(&addresses, target.timeout.saturating_sub(clock::now() - begun)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::io::listener::{ListenOptions, bind, local_address, peer_address};
    use crate::io::ring::{Ring, RingConfig, Wait};

    fn target(number: u64, host: &str, port: u16) -> Target {
        Target {
            server: ServerId(7),
            port_kind: PortKind::Quorum,
            addresses: vec![(host.to_owned(), port)],
            timeout: Duration::from_secs(20),
            number,
        }
    }

    /// Waits in the ring, as a core does, for the next outcome.
    fn next(ring: &mut Ring, dialer: &mut Dialer) -> Dialed {
        for _ in 0..50 {
            if let Some(dialed) = dialer.poll() {
                return dialed;
            }
            ring.turn(Wait::AtMost(Duration::from_secs(1))).unwrap();
            while ring.next_completion().is_some() {}
        }
        panic!("no outcome");
    }

    #[test]
    fn a_listener_is_reached_by_name_and_a_free_port_refuses() {
        let mut ring = Ring::new(RingConfig::default()).unwrap();
        let mut dialer = Dialer::new(ring.waker());
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let address = local_address(&listener).unwrap();
        dialer.dial(target(1, "localhost", address.port()));
        let dialed = next(&mut ring, &mut dialer);
        assert_eq!((dialed.number, dialed.server), (1, ServerId(7)));
        assert_eq!(peer_address(&dialed.result.unwrap()).unwrap(), address);

        drop(listener);
        dialer.dial(target(2, "127.0.0.1", address.port()));
        let dialed = next(&mut ring, &mut dialer);
        assert_eq!(dialed.number, 2);
        assert_eq!(dialed.result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error_that_says_so() {
        let mut ring = Ring::new(RingConfig::default()).unwrap();
        let mut dialer = Dialer::new(ring.waker());
        dialer.dial(target(3, "no such host", 1));
        let error = next(&mut ring, &mut dialer).result.unwrap_err();
        assert!(error.to_string().contains("no such host"), "{error}");
    }

    #[test]
    fn dials_to_one_port_are_bounded_and_their_places_come_back() {
        let mut ring = Ring::new(RingConfig::default()).unwrap();
        let mut dialer = Dialer::new(ring.waker());
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let port = local_address(&listener).unwrap().port();
        // Outcomes free their places only when they are polled.
        for number in 0..=PER_PORT_MAX as u64 {
            dialer.dial(target(number, "127.0.0.1", port));
        }
        let refused = next(&mut ring, &mut dialer);
        assert_eq!(refused.number, PER_PORT_MAX as u64);
        assert_eq!(refused.result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for _ in 0..PER_PORT_MAX {
            next(&mut ring, &mut dialer).result.unwrap();
        }
        dialer.dial(target(9, "127.0.0.1", port));
        assert_eq!(next(&mut ring, &mut dialer).number, 9);
    }
}
