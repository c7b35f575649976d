//! The clients' port: where it is, its listeners, and how it moves.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use thiserror::Error;

use crate::config::Config;
use crate::config::ensemble::preferred;
use crate::io::listener::{ListenOptions, bind, local_address};

/// What a silent client is probed after, where `clientTcpKeepAlive` asks for it.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Why the port has not moved.
#[derive(Debug, Error)]
pub enum MoveError {
    /// The name has no address.
    #[error("{host} cannot be resolved: {source}")]
    Unresolved {
        /// The name in the server's line.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error("{address} cannot be listened at: {source}")]
    Unbound {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The port where it is now, and a listener there for each client core.
pub type Moved = (ClientPort, Vec<OwnedFd>);

/// Where clients are taken, and how.
#[derive(Clone, Copy, Debug)]
pub struct ClientPort {
    address: SocketAddr,
    options: ListenOptions,
    count: usize,
}

impl ClientPort {
    /// Listens where the configuration says, once for each of the `count` client cores; the kernel
    /// spreads the connections over them.
    ///
    /// # Errors
    /// Those of `bind`; in particular the address may be in use.
    pub fn open(config: &Config, count: usize) -> io::Result<Moved> {
        let options = ListenOptions {
            backlog: config.client_listen_backlog.unwrap_or(ListenOptions::default().backlog),
            reuse_port: count > 1,
            no_delay: true,
            keep_alive: config.client_tcp_keep_alive.then_some(KEEP_ALIVE),
        };
        ClientPort { address: config.client_address, options, count }.listen()
    }

    /// Where it is; the port is the real one, also where any was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens at another address as well, in the same way; `None` where it is there already. It
    /// may ask a name server: not for a core that serves.
    ///
    /// # Errors
    /// The name has no address, or it cannot be listened at.
    pub fn moved(self, host: &str, port: u16) -> Result<Option<Moved>, MoveError> {
        let unresolved = |source| MoveError::Unresolved { host: host.to_owned(), source };
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let found = (plain, port).to_socket_addrs().map_err(unresolved)?;
        let address = preferred(found).ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
        if is_same(address, self.address) {
            return Ok(None);
        }
        let unbound = |source| MoveError::Unbound { address, source };
        ClientPort { address, ..self }.listen().map(Some).map_err(unbound)
    }

    fn listen(mut self) -> io::Result<Moved> {
        let mut listeners = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let listener = bind(self.address, &self.options)?;
            self.address = local_address(&listener)?;
            listeners.push(listener);
        }
        Ok((self, listeners))
    }
}

/// Whether listening at one is listening at the other: all addresses of either family are those of
/// both (`bind`).
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    let are_all = one.ip().is_unspecified() && other.ip().is_unspecified();
    one == other || (are_all && one.port() == other.port())
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "the client's side of these tests is std's")]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn port(count: usize) -> Moved {
        let options = ListenOptions { reuse_port: count > 1, ..ListenOptions::default() };
        ClientPort { address: (Ipv4Addr::LOCALHOST, 0).into(), options, count }.listen().unwrap()
    }

    #[test]
    fn a_moved_port_listens_in_both_places_until_the_old_one_is_closed() {
        let (old, old_listeners) = port(2);
        let (new, listeners) = old.moved("[127.0.0.1]", 0).unwrap().unwrap();
        assert_eq!(listeners.len(), 2);
        assert_ne!(old.address(), new.address());
        TcpStream::connect(old.address()).unwrap();
        TcpStream::connect(new.address()).unwrap();
        drop(old_listeners);
        TcpStream::connect(old.address()).unwrap_err();
        TcpStream::connect(new.address()).unwrap();
    }

    #[test]
    fn a_port_that_is_there_already_is_left_alone() {
        let (here, _listeners) = port(1);
        assert!(here.moved("127.0.0.1", here.address().port()).unwrap().is_none());
        let any = ClientPort { address: (Ipv4Addr::UNSPECIFIED, 0).into(), ..here };
        let (any, _listeners) = any.listen().unwrap();
        assert!(any.moved("0.0.0.0", any.address().port()).unwrap().is_none());
    }

    #[test]
    fn a_port_that_is_taken_or_a_name_without_address_says_so() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap();
        let (old, _listeners) = port(1);
        let error = old.moved("127.0.0.1", taken.port()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{taken} cannot be listened at")), "{error}");
        drop(holder);
        let error = old.moved("no.such.name.invalid", 2181).unwrap_err().to_string();
        assert!(error.starts_with("no.such.name.invalid cannot be resolved"), "{error}");
        TcpStream::connect(old.address()).unwrap();
    }
}
