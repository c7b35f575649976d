//! The port for observers: open and closed, and dialed.

use super::*;

/// An address at which nobody listens.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A server with such a port, which is closed.
fn server(address: SocketAddr) -> Side {
    Side::new(QuorumSettings { listen_for_observers: vec![address], ..settings(&[]) })
}

fn observer(address: SocketAddr, id: i64) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(&learner_packets(&[info(id)])).unwrap();
    socket
}

#[test]
fn observers_are_taken_while_they_are_wanted() {
    let address = free_address();
    let mut server = server(address);
    server.turns(3);
    assert!(TcpStream::connect(address).is_err(), "it does not follow");

    // A second time is no different.
    for id in [2, 3] {
        server.perform(Action::AcceptObservers(true));
        server.turns(3);
        let mut known = observer(address, id);
        server.until(|server| server.heard_learner() == [info(id)]);
        let Some(link) = server.accepted() else { panic!("{:?}", server.events) };
        server.take();
        let mut nameless = TcpStream::connect(address).unwrap();
        nameless.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        server.until(|server| server.port.links.len() == 2);

        server.perform(Action::AcceptObservers(false));
        server.turns(3);
        assert_eq!(nameless.read(&mut [0; 8]).unwrap(), 0, "it has not said who it is");
        assert!(TcpStream::connect(address).is_err());
        assert!(server.port.links.contains_key(&link), "agreement closes the others");
        server.perform(Action::Close { link });
        server.until(|server| server.port.queued_bytes(link) == 0);
        server.turns(3);
        assert_eq!(known.read(&mut [0; 8]).unwrap(), 0);
        drop(known);
        server.until(|server| server.port.links.is_empty());
        assert!(server.take().is_empty());
    }
}

/// A server that leads may have left the address to this one a moment ago.
#[test]
fn an_address_that_is_taken_is_tried_again() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let mut server = server(address);
    server.perform(Action::AcceptObservers(true));
    server.turns(3);
    assert_eq!(server.port.door.open().count(), 0);
    drop(taken);
    server.turns(3);
    assert_eq!(server.port.door.open().count(), 0, "not in each turn");
    server.ahead += Duration::from_secs(1);
    server.until(|server| server.port.door.open().count() == 1);
    server.turns(3);
    let _socket = observer(address, 2);
    server.until(|server| server.heard_learner() == [info(2)]);
}

#[test]
fn an_observer_dials_that_port_of_the_servers_host_once() {
    let address = free_address();
    let mut master = server(address);
    let peers = settings(&[(1, free_address().port())]);
    let mut observer = Side::new(QuorumSettings { observer_port: Some(address.port()), ..peers });
    observer.perform(Action::ConnectMaster { to: ServerId(1) });
    let is_failure = |event: &Event| matches!(event, PeerEvent::ConnectFailed { to: ServerId(1) });
    let begun = clock::now();
    observer.until(|observer| observer.events.iter().any(is_failure));
    assert!(clock::now().since(begun) < Duration::from_millis(300), "others may be there");

    observer.take();
    master.perform(Action::AcceptObservers(true));
    master.turns(3);
    observer.perform(Action::ConnectMaster { to: ServerId(1) });
    observer.until(|observer| observer.connected().is_some());
    let up = observer.connected().unwrap();
    observer.tell_leader(up, info(4));
    until(&mut master, &mut observer, |master, _| master.heard_learner() == [info(4)]);
}
