//! Ports on real loopback sockets, each with its ring, all on one thread.

#![expect(clippy::disallowed_types, reason = "hostile and slow ends are std's sockets")]

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::io::clock;
use crate::io::ring::{Ring, RingConfig, Wait};
use crate::server::peers::streams::PieceWriter;
use crate::wire::quorum::Extensions;

mod hostile;
mod links;
mod observers;
mod snapshots;

/// What snapshots become in these tests: their bytes.
type Port = QuorumPort<Vec<u8>>;
type Event = PeerEvent<Vec<u8>>;

const TICK: Duration = Duration::from_millis(2000);

/// A server: its ring, its port, and what the port has told.
struct Side {
    ring: Ring,
    port: Port,
    events: Vec<Event>,
    /// How far its clock is ahead.
    ahead: Duration,
}

fn settings(peers: &[(i64, u16)]) -> QuorumSettings {
    let host = |port: u16| vec![("127.0.0.1".to_owned(), port)];
    QuorumSettings {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        listen_for_observers: Vec::new(),
        observer_port: None,
        peers: peers.iter().map(|(id, port)| (ServerId(*id), host(*port))).collect(),
        tick: TICK,
        init_limit_ticks: 10,
        sync_limit_ticks: 5,
        connect_limit_ticks: 0,
        keep_alive: true,
        from_learner_bytes_max: 2 << 20,
        from_leader_bytes_max: 4 << 20,
        links_max: 20,
        links_per_address_max: 10,
    }
}

impl Side {
    fn new(settings: QuorumSettings) -> Side {
        let config = RingConfig {
            submissions: 16,
            completions: 64,
            receive_buffers: 8,
            receive_buffer_bytes: 4096,
        };
        let mut ring = Ring::new(config).unwrap();
        let mut port = Port::open(settings, ring.waker()).unwrap();
        port.finish_turn(&mut ring, clock::now());
        Side { ring, port, events: Vec::new(), ahead: Duration::ZERO }
    }

    fn leading() -> Side {
        let mut side = Side::new(settings(&[]));
        side.perform(Action::Accept(true));
        side
    }

    fn address(&self) -> SocketAddr {
        self.port.addresses().next().unwrap()
    }

    fn now(&self) -> Time {
        clock::now() + self.ahead
    }

    fn perform(&mut self, action: Action) {
        let now = self.now();
        assert_eq!(self.port.perform(action, now), None);
    }

    fn tell_learner(&mut self, link: LinkId, message: FromLeader) {
        self.perform(Action::ToLearner { link, message });
    }

    fn tell_leader(&mut self, link: LinkId, message: FromLearner) {
        self.perform(Action::ToLeader { link, message });
    }

    /// One turn of a core that has nothing but the port.
    fn turn(&mut self) {
        self.ring.turn(Wait::AtMost(Duration::from_millis(1))).unwrap();
        let now = self.now();
        while let Some(completion) = self.ring.next_completion() {
            if self.port.owns(&completion) {
                self.port.handle(completion, now);
            }
        }
        self.port.deliver(now);
        if self.port.poll_timeout().is_some_and(|due| due <= now) {
            self.port.handle_timeout(now);
        }
        while let Some(event) = self.port.poll_event() {
            self.events.push(event);
        }
        self.port.finish_turn(&mut self.ring, now);
    }

    /// Takes the events so far.
    fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The learner link that was accepted.
    fn accepted(&self) -> Option<LinkId> {
        self.events.iter().find_map(|event| match event {
            PeerEvent::Accepted { link } => Some(*link),
            _ => None,
        })
    }

    fn connected(&self) -> Option<LinkId> {
        self.events.iter().find_map(|event| match event {
            PeerEvent::Connected { link, .. } => Some(*link),
            _ => None,
        })
    }

    fn heard_leader(&self) -> Vec<FromLeader> {
        let message = |event: &Event| match event {
            PeerEvent::FromLeader { message, .. } => Some(message.clone()),
            _ => None,
        };
        self.events.iter().filter_map(message).collect()
    }

    fn heard_learner(&self) -> Vec<FromLearner> {
        let message = |event: &Event| match event {
            PeerEvent::FromLearner { message, .. } => Some(message.clone()),
            _ => None,
        };
        self.events.iter().filter_map(message).collect()
    }

    fn is_disconnected(&self) -> bool {
        self.events.iter().any(|event| matches!(event, PeerEvent::Disconnected { .. }))
    }

    /// Turns until `done`, and fails when that takes long.
    fn until(&mut self, mut done: impl FnMut(&mut Side) -> bool) {
        let begun = clock::now();
        while !done(self) {
            self.turn();
            assert!(clock::now().since(begun) < Duration::from_secs(20), "{:?}", self.events);
        }
    }

    fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }
}

/// Turns both until `done`.
fn until(a: &mut Side, b: &mut Side, mut done: impl FnMut(&mut Side, &mut Side) -> bool) {
    let begun = clock::now();
    while !done(a, b) {
        a.turn();
        b.turn();
        let is_late = clock::now().since(begun) > Duration::from_secs(30);
        assert!(!is_late, "nothing more happens: {:?}\n{:?}", a.events, b.events);
    }
}

fn info(server: i64) -> FromLearner {
    FromLearner::Info {
        is_observer: false,
        server: ServerId(server),
        accepted_epoch: 3,
        protocol: 0x10000,
        config_version: 0,
        extensions: Extensions::default(),
    }
}

fn proposal(counter: u32, length: usize) -> FromLeader {
    let txn = counter.to_le_bytes().repeat(length.div_ceil(4));
    FromLeader::Proposal { zxid: Zxid::new(1, counter), txn: txn.into() }
}

/// A leader and a learner that have met, with the link on each side. Nothing else has been told.
fn pair() -> (Side, LinkId, Side, LinkId) {
    let mut leader = Side::leading();
    let mut learner = Side::new(settings(&[(1, leader.address().port())]));
    learner.perform(Action::Connect { to: ServerId(1) });
    learner.until(|learner| learner.connected().is_some());
    let up = learner.connected().unwrap();
    learner.tell_leader(up, info(2));
    until(&mut leader, &mut learner, |leader, _| leader.heard_learner().len() == 1);
    let down = leader.accepted().unwrap();
    leader.take();
    learner.take();
    (leader, down, learner, up)
}

/// Encoded packets of a leader.
fn packets(messages: &[FromLeader]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

fn learner_packets(messages: &[FromLearner]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

/// A learner that is a plain socket.
fn raw_learner(leader: &Side) -> TcpStream {
    let socket = TcpStream::connect(leader.address()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// A learner's port connected to a leader that is a plain socket.
fn raw_leader() -> (TcpStream, Side, LinkId) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut learner = Side::new(settings(&[(1, port)]));
    learner.perform(Action::Connect { to: ServerId(1) });
    learner.until(|learner| learner.connected().is_some());
    let link = learner.connected().unwrap();
    learner.take();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (socket, learner, link)
}
