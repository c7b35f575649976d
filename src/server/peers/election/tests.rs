//! Ports on real sockets, each with a ring of its own, driven by one thread.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::io::clock;
use crate::io::connector;
use crate::io::listener::{ListenOptions, bind, local_address};
use crate::io::ring::{RingConfig, Wait};
use crate::wire::election::{Doing, VERSION};

const FIRST_TOKEN: u64 = 0xC000_0000;

struct Server {
    ring: Ring,
    port: ElectionPort,
    events: Vec<ElectionEvent>,
    /// Bytes that came on a connection that is not the port's.
    other: Vec<u8>,
}

fn listener() -> (OwnedFd, SocketAddr) {
    let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
    let address = local_address(&socket).unwrap();
    (socket, address)
}

fn address_of(address: SocketAddr) -> Addresses {
    vec![("localhost".to_owned(), address.port())]
}

impl Server {
    fn new(id: i64, own: OwnedFd, members: &[(ServerId, Addresses)]) -> Server {
        let ring = Ring::new(RingConfig::default()).unwrap();
        let settings = ElectionSettings {
            me: ServerId(id),
            addresses: members.iter().find(|it| it.0 == ServerId(id)).unwrap().1.clone(),
            connect_timeout: Duration::from_secs(5),
            keep_alive: true,
        };
        let (waker, now) = (ring.waker(), clock::now());
        let port = ElectionPort::new(settings, members, vec![own], FIRST_TOKEN, waker, now);
        Server { ring, port, events: Vec::new(), other: Vec::new() }
    }

    /// One turn, as a core makes it.
    fn turn(&mut self) {
        self.ring.turn(Wait::AtMost(Duration::from_millis(2))).unwrap();
        let now = clock::now();
        while let Some(completion) = self.ring.next_completion() {
            match completion {
                Completion::Woken => {}
                Completion::Received { token, bytes } if !self.port.owns(token) => {
                    self.other.extend_from_slice(bytes);
                }
                Completion::Closed { token, .. } if !self.port.owns(token) => {
                    self.other.push(b'.');
                }
                completion => self.port.handle(completion, now),
            }
        }
        self.port.deliver(now);
        self.port.finish_turn(&mut self.ring, now);
        while let Some(event) = self.port.poll_event() {
            self.events.push(event);
        }
    }
}

fn notification(round: i64) -> Notification {
    let config = b"server.1=a:1:2\nversion=0".to_vec();
    Notification {
        doing: Doing::Looking,
        vote: None,
        round,
        version: VERSION,
        config,
        proposed: Vec::new(),
    }
}

fn heard(from: i64, round: i64) -> ElectionEvent {
    ElectionEvent::Notification { from: ServerId(from), notification: notification(round) }
}

fn reachable(server: i64, is_reachable: bool) -> ElectionEvent {
    ElectionEvent::Reachable(ServerId(server), is_reachable)
}

/// Turns all servers until the condition holds.
fn until(servers: &mut [&mut Server], what: &str, mut holds: impl FnMut(&[&mut Server]) -> bool) {
    let begun = clock::now();
    while !holds(servers) {
        servers.iter_mut().for_each(|server| server.turn());
        assert!(clock::now() - begun < Duration::from_secs(20), "{what}: it does not happen");
    }
}

#[test]
fn two_ports_meet_part_and_meet_again() {
    let ((first, first_address), (second, second_address)) = (listener(), listener());
    let members =
        [(ServerId(1), address_of(first_address)), (ServerId(2), address_of(second_address))];
    let mut one = Server::new(1, first, &members);
    let mut two = Server::new(2, second, &members);
    one.port.notify(ServerId(2), &notification(1), clock::now());
    two.port.notify(ServerId(1), &notification(2), clock::now());
    until(&mut [&mut one, &mut two], "both hear", |servers| {
        servers[0].events.contains(&heard(2, 2)) && servers[1].events.contains(&heard(1, 1))
    });
    assert_eq!(one.events[0], reachable(2, true));
    assert_eq!(two.events[0], reachable(1, true));

    // The second one is gone, and all its sockets with it.
    two.port.close(&mut two.ring);
    drop(two);
    one.events.clear();
    let gone = clock::now();
    until(&mut [&mut one], "the loss is told", |servers| {
        servers[0].events.contains(&reachable(2, false))
    });
    assert!(clock::now() - gone < Duration::from_secs(1), "at once");

    let options = ListenOptions::default();
    let second = bind(second_address, &options).unwrap();
    let mut two = Server::new(2, second, &members);
    until(&mut [&mut one, &mut two], "the last word is repeated", |servers| {
        servers[1].events.contains(&heard(1, 1)) && servers[0].events.contains(&reachable(2, true))
    });
}

#[test]
fn who_is_not_there_is_told_of_and_reached_at_a_second_address() {
    let ((own, own_address), (nobody, dead_address)) = (listener(), listener());
    drop(nobody);
    let (second, second_address) = listener();
    let members = [
        (ServerId(3), address_of(own_address)),
        (ServerId(1), address_of(dead_address)),
        (ServerId(2), [address_of(dead_address), address_of(second_address)].concat()),
    ];
    let mut three = Server::new(3, own, &members);
    let mut two = Server::new(2, second, &members);
    until(&mut [&mut three, &mut two], "both outcomes", |servers| {
        servers[0].events.contains(&reachable(1, false))
            && servers[0].events.contains(&reachable(2, true))
            && servers[1].events.contains(&reachable(3, true))
    });
    assert!(!three.events.contains(&reachable(2, false)));
}

#[test]
fn what_is_no_server_is_closed_and_the_port_lives() {
    let ((own, own_address), (second, second_address)) = (listener(), listener());
    let members =
        [(ServerId(1), address_of(own_address)), (ServerId(2), address_of(second_address))];
    let mut one = Server::new(1, own, &members);
    for (count, garbage) in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0],
    ]
    .into_iter()
    .enumerate()
    {
        let socket = connector::connect(&[own_address], Duration::from_secs(5)).unwrap();
        let token = Token(7 + count as u64);
        one.ring.attach(token, socket);
        one.ring.send(token, garbage.to_vec());
        until(&mut [&mut one], "it is closed", |servers| servers[0].other.len() == count + 1);
        one.ring.close(token);
    }
    assert_eq!(one.other, b"....", "nothing is said to it");
    let mut two = Server::new(2, second, &members);
    two.port.notify(ServerId(1), &notification(9), clock::now());
    until(&mut [&mut one, &mut two], "the other one is heard", |servers| {
        servers[0].events.contains(&heard(2, 9))
    });
}

#[test]
fn tokens_stay_in_their_range() {
    let mut tokens = Tokens::new(0xFFFF_FFFE);
    assert!(!tokens.has_given(Token(0xFFFF_FFFE)));
    let given: Vec<u64> = (0..3).map(|_| tokens.next().0).collect();
    assert_eq!(given, [0xFFFF_FFFE, 0xFFFF_FFFF, 0x1_FFFF_FFFE]);
    assert!(given.iter().all(|&token| tokens.has_given(Token(token))));
    for other in [0, 0xFFFF_FFFD, 0x1_FFFF_FFFD, 0x1_FFFF_FFFF, u64::MAX] {
        assert!(!tokens.has_given(Token(other)), "{other:#x}");
    }
}
