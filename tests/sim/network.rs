//! The network between servers, and between clients and servers.
//!
//! Fault model. A connection is two first-in-first-out pipes: what is sent arrives in order, once,
//! after a delay of its own, or the connection breaks and everything under way is lost (loss on a
//! TCP connection *is* its end). Connections are not ordered among each other. A direction between
//! two machines can be blocked, in one way or both, for any pairs: what is sent waits and arrives
//! after the healing, unless the connection has broken meanwhile. The ends of a broken connection
//! learn of it at different times; where a machine has lost its power, the other end learns of it
//! only when it sends something to the machine's next life (a half-open connection). Only the
//! election port sees a message twice: its last one is sent again after a reconnect.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ringkeeper::wire::election::Notification;
use ringkeeper::wire::quorum::{FromLeader, FromLearner};

use crate::random::Random;

/// A machine: servers first, then clients.
pub type Node = usize;

/// A connection, for as long as the run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Election,
    Quorum,
    Client,
}

/// What travels in one piece.
#[derive(Clone, Debug)]
pub enum Payload {
    Notification(Notification),
    FromLearner(FromLearner),
    FromLeader(FromLeader),
    /// A part of a snapshot that is not the last.
    SnapshotPart,
    /// The last part, with the whole.
    Snapshot(Arc<[u8]>),
    /// A client's or server's frame.
    Frame(Vec<u8>),
    /// The sender has closed its end.
    Fin,
}

/// Which end of a connection: 0 has dialled, 1 has accepted.
pub type Side = usize;

#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<Payload>,
    /// When the last one that was sent arrives.
    last_at: u64,
    /// How many found the way blocked.
    stalled: usize,
}

#[derive(Debug)]
struct Conn {
    port: Port,
    nodes: [Node; 2],
    /// By the receiving side.
    pipes: [Pipe; 2],
    /// An end that is closed hears nothing more.
    is_open: [bool; 2],
    is_broken: bool,
    /// Its machine has lost all memory of it, and has told nobody.
    is_forgotten: [bool; 2],
}

/// What the world is to schedule: at `at`, something for `side` of `conn`.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    Deliver { at: u64, conn: ConnId, side: Side },
    Broken { at: u64, conn: ConnId, side: Side },
}

/// All connections.
#[derive(Debug)]
pub struct Network {
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    blocked: BTreeSet<(Node, Node)>,
    /// One way, in nanoseconds: what most take, and what one in twenty takes.
    delay: (u64, u64),
    delay_slow: (u64, u64),
    random: Random,
    due: Vec<Due>,
}

impl Network {
    pub fn new(delay: (u64, u64), delay_slow: (u64, u64), random: Random) -> Network {
        Network {
            conns: BTreeMap::new(),
            next: 0,
            blocked: BTreeSet::new(),
            delay,
            delay_slow,
            random,
            due: Vec::new(),
        }
    }

    /// What is to be scheduled since the last call.
    pub fn take_due(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.due)
    }

    pub fn delay(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.between(self.delay_slow),
            _ => self.random.between(self.delay),
        }
    }

    /// Whether what `from` sends reaches `to`.
    pub fn passes(&self, from: Node, to: Node) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Whether a connection can be made between the two.
    pub fn connects(&self, a: Node, b: Node) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    pub fn block(&mut self, from: Node, to: Node) {
        self.blocked.insert((from, to));
    }

    /// Opens all ways; what was stalled goes on.
    pub fn heal(&mut self, now: u64) {
        self.blocked.clear();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in ids {
            for side in 0..2 {
                let pipe = &mut self.conns.get_mut(&conn).expect("it is listed").pipes[side];
                let stalled = std::mem::take(&mut pipe.stalled);
                for _ in 0..stalled {
                    let delay = self.delay();
                    self.arrive(now + delay, conn, side);
                }
            }
        }
    }

    /// A new connection, dialled by `from`.
    pub fn open(&mut self, port: Port, from: Node, to: Node) -> ConnId {
        let id = ConnId(self.next);
        self.next += 1;
        let conn = Conn {
            port,
            nodes: [from, to],
            pipes: Default::default(),
            is_open: [true; 2],
            is_broken: false,
            is_forgotten: [false; 2],
        };
        self.conns.insert(id, conn);
        id
    }

    pub fn port(&self, conn: ConnId) -> Option<Port> {
        self.conns.get(&conn).map(|conn| conn.port)
    }

    /// The machine at an end.
    pub fn node(&self, conn: ConnId, side: Side) -> Option<Node> {
        self.conns.get(&conn).map(|conn| conn.nodes[side])
    }

    /// Sends from an end. Nothing arrives once the connection is broken.
    pub fn send(&mut self, now: u64, id: ConnId, from: Side, payload: Payload) {
        let delay = self.delay();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.is_broken || !conn.is_open[from] {
            return;
        }
        let to = 1 - from;
        if conn.is_forgotten[to] {
            // The machine's next life answers with a reset, if there is one yet and it is reached.
            let (here, there) = (conn.nodes[from], conn.nodes[to]);
            if self.connects(here, there) {
                self.due.push(Due::Broken { at: now + delay, conn: id, side: from });
            }
            return;
        }
        conn.pipes[to].queue.push_back(payload);
        self.arrive(now + delay, id, to);
    }

    fn arrive(&mut self, at: u64, id: ConnId, side: Side) {
        let pipe = &mut self.conns.get_mut(&id).expect("the caller has it").pipes[side];
        pipe.last_at = at.max(pipe.last_at + 1);
        self.due.push(Due::Deliver { at: pipe.last_at, conn: id, side });
    }

    /// What arrives at an end, when its moment has come.
    pub fn deliver(&mut self, id: ConnId, side: Side) -> Option<Payload> {
        let conn = self.conns.get_mut(&id)?;
        if conn.is_broken || conn.is_forgotten[side] {
            return None;
        }
        if self.blocked.contains(&(conn.nodes[1 - side], conn.nodes[side])) {
            conn.pipes[side].stalled += 1;
            return None;
        }
        let payload = conn.pipes[side].queue.pop_front()?;
        if matches!(payload, Payload::Fin) {
            let was_open = conn.is_open[side];
            self.conns.remove(&id);
            return was_open.then_some(Payload::Fin);
        }
        conn.is_open[side].then_some(payload)
    }

    /// Whether the end still wants to hear that the connection is broken.
    pub fn is_told(&mut self, id: ConnId, side: Side) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.is_broken = true;
        let is_told = conn.is_open[side] && !conn.is_forgotten[side];
        conn.is_open[side] = false;
        if !conn.is_open.contains(&true) {
            self.conns.remove(&id);
        }
        is_told
    }

    /// An end closes: what it has sent still arrives, and then the other end hears of it.
    pub fn close(&mut self, now: u64, id: ConnId, side: Side) {
        self.send(now, id, side, Payload::Fin);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.is_open[side] = false;
        if conn.is_broken && !conn.is_open.contains(&true) {
            self.conns.remove(&id);
        }
    }

    /// Breaks a connection: each end hears of it when it does.
    pub fn sever(&mut self, now: u64, id: ConnId) {
        let delays = [self.delay(), self.delay()];
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.is_broken {
            return;
        }
        conn.is_broken = true;
        for (side, delay) in delays.into_iter().enumerate() {
            if conn.is_open[side] && !conn.is_forgotten[side] {
                self.due.push(Due::Broken { at: now + delay, conn: id, side });
            }
        }
    }

    /// The process on `node` is gone. Its kernel says so to the others (`is_quiet` false), or the
    /// whole machine is gone and says nothing.
    pub fn forget(&mut self, now: u64, node: Node, is_quiet: bool) {
        let of_node = |conn: &Conn| conn.nodes.iter().position(|it| *it == node);
        let mine: Vec<(ConnId, Side)> = self
            .conns
            .iter()
            .filter_map(|(id, conn)| of_node(conn).map(|side| (*id, side)))
            .collect();
        for (id, side) in mine {
            let conn = self.conns.get_mut(&id).expect("it is listed");
            conn.is_forgotten[side] = true;
            conn.is_open[side] = false;
            if !is_quiet {
                self.sever(now, id);
            }
        }
    }

    /// Connections that are whole, in the order of their ids.
    pub fn open_conns(&self) -> Vec<ConnId> {
        let whole = |conn: &Conn| !conn.is_broken && conn.is_open == [true; 2];
        self.conns.iter().filter(|(_, conn)| whole(conn)).map(|(id, _)| *id).collect()
    }
}
