//! Where this server's ports for its peers are.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use thiserror::Error;

use crate::config::ensemble::preferred;
use crate::io::listener::{self, ListenOptions};

/// Connections that may wait to be accepted: those of all servers, many times over.
const BACKLOG: u32 = 256;

/// Why the port is not open.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The name has no address.
    #[error("the quorum address {host}:{port} of this server cannot be resolved: {source}")]
    Unresolved {
        /// The name in the server's line.
        host: String,
        /// The port in it.
        port: u16,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error(
        "the quorum port cannot listen at {address}: {source} (is the address one of this host, \
         and is no other server running at it? quorumListenOnAllIPs=true listens on all)"
    )]
    Unbound {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The threads beside the port cannot be started.
    #[error("no thread for the quorum port: {0}")]
    Threads(io::Error),
}

/// The addresses to listen at for the server's own `host` and `port` pairs: theirs, or with
/// `on_all` every address of the host, once for each port.
///
/// # Errors
/// A name cannot be resolved.
pub fn addresses(hosts: &[(String, u16)], on_all: bool) -> Result<Vec<SocketAddr>, ListenError> {
    let mut addresses = Vec::new();
    for (host, port) in hosts {
        let address = if on_all {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port)
        } else {
            resolve(host, *port)?
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, ListenError> {
    let unresolved =
        |source: io::Error| ListenError::Unresolved { host: host.to_owned(), port, source };
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let found = (plain, port).to_socket_addrs().map_err(unresolved)?;
    preferred(found).ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))
}

/// Listens at `address`.
///
/// # Errors
/// The address is in use, or none of this host.
pub fn open(address: SocketAddr, keep_alive: Option<Duration>) -> Result<OwnedFd, ListenError> {
    let options = ListenOptions { backlog: BACKLOG, keep_alive, ..ListenOptions::default() };
    listener::bind(address, &options).map_err(|source| ListenError::Unbound { address, source })
}
