//! Connecting to a peer that may have several addresses. It blocks, so no core may call it.
//!
//! The addresses are tried as RFC 8305 ("happy eyeballs") says: each gets a head start over the
//! next, and the first that answers wins. So one that drops packets costs a fraction of a second,
//! not the whole timeout.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::clock;
use crate::time::Time;

/// How much earlier an address is tried than the next one (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers within `timeout`. The socket sends small
/// segments at once and is non-blocking.
///
/// # Errors
///
/// None answered: the last refusal, or `TimedOut`.
pub fn connect(addresses: &[SocketAddr], timeout: Duration) -> io::Result<OwnedFd> {
    let started = clock::now();
    let deadline = started + timeout;
    let mut waiting: Vec<Socket> = Vec::new();
    let mut untried = addresses.iter();
    let mut next_start = started;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    loop {
        let now = clock::now();
        if now >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        if waiting.is_empty() || now >= next_start {
            if let Some(&address) = untried.next() {
                match begin(address) {
                    Ok(socket) => waiting.push(socket),
                    Err(error) => failure = error,
                }
                next_start = now + HEAD_START;
            } else if waiting.is_empty() {
                return Err(failure);
            }
        }
        let has_more = untried.len() > 0;
        let until = if has_more { next_start.min(deadline) } else { deadline };
        for index in settled(&waiting, until - now)?.into_iter().rev() {
            let socket = waiting.swap_remove(index);
            match outcome(&socket) {
                Ok(()) => return Ok(socket.into()),
                Err(error) => {
                    failure = error;
                    // The next one need not wait for what has failed.
                    next_start = Time::default();
                }
            }
        }
    }
}

fn begin(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Which sockets have an outcome, in ascending order, after `time` at most.
fn settled(sockets: &[Socket], time: Duration) -> io::Result<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> =
        sockets.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    let time = Timespec::try_from(time).expect("a timeout is short");
    match poll(&mut polled, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = polled.iter().enumerate().filter(|(_, it)| !it.revents().is_empty());
    Ok(ready.map(|(index, _)| index).collect())
}

fn outcome(socket: &Socket) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // A port of this host that nobody listens on can be picked as the connection's own port, and
    // TCP then connects the socket with itself.
    let socket = SockRef::from(socket);
    if socket.local_addr()?.as_socket() == socket.peer_addr()?.as_socket() {
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::io::listener::{ListenOptions, bind, local_address, peer_address};

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn listener() -> (OwnedFd, SocketAddr) {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let address = local_address(&socket).unwrap();
        (socket, address)
    }

    /// An address that refuses: it was free a moment ago.
    fn refusing() -> SocketAddr {
        listener().1
    }

    #[test]
    fn the_first_that_answers_wins() {
        let (_listener, address) = listener();
        let socket = connect(&[refusing(), refusing(), address], TIMEOUT).unwrap();
        assert_eq!(peer_address(&socket).unwrap(), address);
    }

    #[test]
    fn a_refusal_is_told_at_once_and_so_is_nothing_to_try() {
        let started = clock::now();
        let error = connect(&[refusing(), refusing()], TIMEOUT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&[], TIMEOUT).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(clock::now() - started < TIMEOUT / 2);
    }

    /// A listener whose queue is full drops what comes, as a host that is gone does.
    #[test]
    fn one_that_drops_packets_does_not_hold_up_the_next() {
        let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
        let silent = bind((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
        let silent_address = local_address(&silent).unwrap();
        let short = Duration::from_millis(300);
        let mut held = Vec::new();
        let error = loop {
            match connect(&[silent_address], short) {
                Ok(socket) => held.push(socket),
                Err(error) => break error,
            }
            assert!(held.len() < 10, "the queue has one place");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (_listener, address) = listener();
        let socket = connect(&[silent_address, address], TIMEOUT).unwrap();
        assert_eq!(peer_address(&socket).unwrap(), address);
    }
}
