//! Sockets as the server wants them: bound, with their options set once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// What a listening socket is like. Linux hands `no_delay` and `keep_alive` down to the
/// connections that it accepts, so that they cost no system call each.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// Several sockets (one for each core) listen at one address and share its connections.
    pub reuse_port: bool,
    /// Send small segments at once: replies are complete when they are sent.
    pub no_delay: bool,
    /// Probe a silent peer after this long, and as often; never, if there is none.
    pub keep_alive: Option<Duration>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { backlog: 1024, reuse_port: false, no_delay: true, keep_alive: None }
    }
}

/// Binds and listens. An unspecified address, of either family, takes connections of both where the
/// host has IPv6, as Java's sockets do.
///
/// # Errors
///
/// Those of `socket`, `bind` and `listen`; in particular the address may be in use.
pub fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    if !address.ip().is_unspecified() {
        return bind_to(address, options);
    }
    let (any_v6, any_v4) = (Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    match bind_to((any_v6, address.port()).into(), options) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            bind_to((any_v4, address.port()).into(), options)
        }
        bound => bound,
    }
}

fn bind_to(address: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restarted server takes its port while connections of the former one are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    tune(&socket, options.no_delay, options.keep_alive)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Sets a connection's or listener's options.
///
/// # Errors
///
/// Those of `setsockopt`: the connection may be gone already.
pub fn tune(socket: &impl AsFd, no_delay: bool, keep_alive: Option<Duration>) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(no_delay)?;
    match keep_alive {
        None => socket.set_keepalive(false),
        Some(period) => {
            let probes = TcpKeepalive::new().with_time(period).with_interval(period);
            socket.set_tcp_keepalive(&probes)
        }
    }
}

/// Fails a connection whose other end has not acknowledged what was sent for so long
/// (`TCP_USER_TIMEOUT`).
///
/// # Errors
///
/// Those of `setsockopt`: the connection may be gone already.
pub fn limit_unacknowledged(socket: &impl AsFd, time: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(time))
}

/// Where a listener is bound, or our side of a connection.
///
/// # Errors
///
/// Those of `getsockname`, or that the socket is not of TCP.
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    SockRef::from(socket).local_addr()?.as_socket().ok_or_else(not_tcp)
}

/// The other side of a connection; an IPv4 address as such, whatever the socket's family.
///
/// # Errors
///
/// Those of `getpeername`: the connection may be gone already.
pub fn peer_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).peer_addr()?.as_socket().ok_or_else(not_tcp)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn not_tcp() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the socket has no TCP address")
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "the client's side of these tests is std's")]
mod tests {
    use std::net::{IpAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_inherit_the_options() {
        let period = Duration::from_secs(30);
        let options = ListenOptions { keep_alive: Some(period), ..ListenOptions::default() };
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
        let address = local_address(&listener).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = TcpListener::from(listener).accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        let accepted_socket = SockRef::from(&accepted);
        assert!(accepted_socket.keepalive().unwrap());
        assert_eq!(accepted_socket.tcp_keepalive_time().unwrap(), period);
        assert_eq!(peer_address(&accepted).unwrap(), client.local_addr().unwrap());
    }

    #[test]
    fn one_port_has_one_listener_or_several_that_agreed() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let address = local_address(&first).unwrap();
        let error = bind(address, &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = bind((Ipv4Addr::LOCALHOST, 0).into(), &shared).unwrap();
        bind(local_address(&first).unwrap(), &shared).unwrap();
    }

    #[test]
    fn an_unspecified_address_takes_both_families() {
        let has_v6 = bind((Ipv6Addr::LOCALHOST, 0).into(), &ListenOptions::default()).is_ok();
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            let listener = bind((any, 0).into(), &ListenOptions::default()).unwrap();
            let port = local_address(&listener).unwrap().port();
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let listener = TcpListener::from(listener);
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(peer_address(&accepted).unwrap(), client.local_addr().unwrap());
            if has_v6 {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
            }
            // The port is taken for who asks for one family of it as well.
            let again = bind((any, port).into(), &ListenOptions::default()).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
