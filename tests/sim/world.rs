//! The world: what happens when. One queue of events in simulated time; whatever happens at the
//! same moment happens in the order in which it was arranged, so a seed says everything.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use ringkeeper::wire::quorum::ServerId;
use ringkeeper::zab::output::LinkId;
use ringkeeper::zxid::Zxid;

use crate::checker::Checker;
use crate::checker::clients::Clients;
use crate::checker::history::History;
use crate::checker::servers::Servers;
use crate::client::Client;
use crate::disk::Disk;
use crate::knobs::{Knobs, MS};
use crate::network::{ConnId, Due, Network, Port, Side};
use crate::process::Process;
use crate::random::Random;
use crate::storage::Turn;
use crate::trace::Trace;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    Deliver {
        conn: ConnId,
        side: Side,
    },
    Broken {
        conn: ConnId,
        side: Side,
    },
    /// Servers `a` and `b`, of which neither has the other on the election port, try again.
    Meet {
        a: usize,
        b: usize,
    },
    /// A process's own: void when the process is gone.
    Of {
        server: usize,
        life: u64,
        what: Own,
    },
    Start {
        server: usize,
    },
    Thaw {
        server: usize,
    },
    Act {
        client: usize,
    },
    /// A client's dial has come to an end.
    Reached {
        client: usize,
        server: usize,
    },
    Fault {
        kind: usize,
    },
    Heal,
}

/// What a process waits for.
#[derive(Clone, Debug)]
pub enum Own {
    Timer,
    Written,
    Segment {
        size: u64,
    },
    Mark,
    Turned(Turn),
    AcceptedSaved(u32),
    CurrentSaved(u32),
    SoundSaved,
    MembersSaved(std::sync::Arc<[u8]>),
    LogRead {
        link: LinkId,
        after: Zxid,
        bytes: usize,
    },
    SnapshotSent {
        link: LinkId,
    },
    /// The state that a learner is sent has been read; one for this server's own disk.
    Encoded {
        link: LinkId,
    },
    Saved,
    /// A snapshot that a leader sent has reached the disk.
    Received {
        link: LinkId,
    },
    Dialled {
        to: ServerId,
        is_for_observers: bool,
    },
    /// A learner's connection has come out of the listener's queue; a client's.
    Accepted {
        conn: ConnId,
    },
    Admitted {
        conn: ConnId,
    },
    Core {
        core: usize,
    },
    Snapshot,
}

struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A machine with a server.
pub struct Server {
    pub disk: Disk,
    pub process: Option<Box<Process>>,
    pub life: u64,
    /// Its process stands still, and what has come for it waits.
    pub is_frozen: bool,
    pub backlog: Vec<Event>,
    /// A start is on its way.
    pub is_starting: bool,
    /// The monotonic clock's lead, in nanoseconds, and how much faster it runs, in parts per
    /// million.
    pub lead: u64,
    pub ppm: u64,
    /// The wall clock's error in milliseconds.
    pub wall_error_ms: i64,
    /// Writes take so many times longer.
    pub slowness: u64,
    pub fails_next_write: bool,
    /// It has decayed or been wiped, and no leader has made it whole.
    pub is_hurt: bool,
    /// It did not run undisturbed since then, in simulated nanoseconds.
    pub disturbed_at: u64,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Chaos,
    /// Nothing strikes any more: by `until` everything works.
    Settling {
        since: u64,
    },
    Done,
}

/// Everything.
pub struct World {
    pub now: u64,
    pub knobs: Knobs,
    pub random: Random,
    queue: BinaryHeap<Queued>,
    number: u64,
    pub trace: Trace,
    pub network: Network,
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    pub checker: Checker,
    /// The election port's connections, by the pair of servers, the lower first.
    pub met: BTreeMap<(usize, usize), ConnId>,
    pub stage: Stage,
    /// Processes that ended themselves with `Action::Stop`, and why.
    pub stops: Vec<(usize, String)>,
    pub may_stop: bool,
}

impl World {
    pub fn new(seed: u64, knobs: Knobs, is_printed: bool) -> World {
        let mut random = Random::new(seed);
        let network = Network::new(knobs.delay, knobs.delay_slow, random.fork());
        let mut world = World {
            now: 0,
            random,
            queue: BinaryHeap::new(),
            number: 0,
            trace: Trace::new(is_printed),
            network,
            servers: Vec::new(),
            clients: Vec::new(),
            checker: Checker {
                history: History::new(crate::recover::initial_state(&knobs).writer),
                servers: Servers::default(),
                clients: Clients::default(),
            },
            met: BTreeMap::new(),
            stage: Stage::Chaos,
            stops: Vec::new(),
            may_stop: false,
            knobs,
        };
        world.place();
        world
    }

    /// Sets up the machines, and lets all of them start.
    fn place(&mut self) {
        let (servers, clients) = (self.knobs.servers(), self.knobs.clients);
        for index in 0..servers {
            let mut disk = Disk { identity_next: index as u64 * 1_000_000, ..Disk::default() };
            crate::recover::prepare_disk(&mut disk, &self.knobs);
            self.servers.push(Server {
                disk,
                process: None,
                life: 0,
                is_frozen: false,
                backlog: Vec::new(),
                is_starting: false,
                lead: self.random.below(1000) * MS,
                ppm: match self.knobs.drift_ppm {
                    0 => 0,
                    ppm => self.random.below(ppm),
                },
                wall_error_ms: self.random.below(2000) as i64 - 1000,
                slowness: 1,
                fails_next_write: false,
                is_hurt: false,
                disturbed_at: 0,
            });
            let after = self.random.below(100) * MS;
            self.start_after(index, after);
        }
        for index in 0..clients {
            let random = self.random.fork();
            self.clients.push(Client::new(index, random, self.knobs.session_timeout_ms));
            let after = self.random.below(50) * MS;
            self.after(after, Event::Act { client: index });
        }
        for a in 0..servers {
            for b in a + 1..servers {
                self.after(MS, Event::Meet { a, b });
            }
        }
    }

    pub fn start_after(&mut self, server: usize, after: u64) {
        if !std::mem::replace(&mut self.servers[server].is_starting, true) {
            self.after(after, Event::Start { server });
        }
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        let number = self.number;
        self.queue.push(Queued { at: at.max(self.now), number, event });
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Arranges something for a process.
    pub fn own_after(&mut self, server: usize, delay: u64, what: Own) {
        let life = self.servers[server].life;
        self.after(delay, Event::Of { server, life, what });
    }

    /// Passes what the network has arranged to the queue.
    pub fn pump(&mut self) {
        for due in self.network.take_due() {
            match due {
                Due::Deliver { at, conn, side } => self.at(at, Event::Deliver { conn, side }),
                Due::Broken { at, conn, side } => self.at(at, Event::Broken { conn, side }),
            }
        }
    }

    /// The next event happens; false when nothing is left to happen before `until`.
    pub fn step(&mut self, until: u64) -> bool {
        if self.queue.peek().is_none_or(|next| next.at > until) {
            self.now = self.now.max(until);
            return false;
        }
        let Queued { at, event, .. } = self.queue.pop().expect("it was seen");
        self.now = at;
        self.checker.history.now = at;
        self.handle(event);
        self.pump();
        true
    }

    /// Lets the world go on for so many milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        let until = self.now + ms * MS;
        while self.step(until) {}
    }

    /// Lets the world go on until `is_done`, for so many milliseconds at most; whether it was.
    pub fn run_until(&mut self, ms: u64, mut is_done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + ms * MS;
        while !is_done(self) {
            if !self.step(until) {
                return is_done(self);
            }
        }
        true
    }

    fn server_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Deliver { conn, side } | Event::Broken { conn, side } => {
                let node = self.network.node(*conn, *side)?;
                (node < self.servers.len()).then_some(node)
            }
            Event::Of { server, .. } => Some(*server),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(server) = self.server_of(&event)
            && self.servers[server].is_frozen
        {
            self.servers[server].backlog.push(event);
            return;
        }
        match event {
            Event::Deliver { conn, side } => self.deliver(conn, side),
            Event::Broken { conn, side } => self.break_at(conn, side),
            Event::Meet { a, b } => self.meet(a, b),
            Event::Of { server, life, what } => {
                if self.servers[server].life == life && self.servers[server].process.is_some() {
                    self.trace.step([self.now, 1, server as u64, code(&what)]);
                    self.with(server, |world, process| world.own(server, process, what));
                }
            }
            Event::Start { server } => self.start(server),
            Event::Thaw { server } => self.thaw(server),
            Event::Act { client } => self.act(client),
            Event::Reached { client, server } => self.reached(client, server),
            Event::Fault { kind } => self.strike(kind),
            Event::Heal => self.network.heal(self.now),
        }
    }

    /// Runs `call` with the process of a server, and then does what the process wants done.
    pub fn with(&mut self, server: usize, call: impl FnOnce(&mut World, &mut Process)) {
        let Some(mut process) = self.servers[server].process.take() else { return };
        call(self, &mut process);
        self.drain(server, &mut process);
        if process.is_over {
            self.trace.keep(self.now, format!("server {server} ends"));
            self.bury(server, *process, false);
        } else {
            self.servers[server].process = Some(process);
        }
    }

    fn deliver(&mut self, conn: ConnId, side: Side) {
        let (node, port) = (self.network.node(conn, side), self.network.port(conn));
        let (Some(node), Some(port)) = (node, port) else { return };
        let Some(payload) = self.network.deliver(conn, side) else { return };
        self.trace.step([self.now, 2, node as u64, conn.0]);
        match node < self.servers.len() {
            true => self.with(node, |world, process| {
                world.hear(node, process, (conn, side, port), payload);
            }),
            false => self.client_hears(node - self.servers.len(), conn, payload),
        }
    }

    fn break_at(&mut self, conn: ConnId, side: Side) {
        let (node, port) = (self.network.node(conn, side), self.network.port(conn));
        let (Some(node), Some(port)) = (node, port) else { return };
        if !self.network.is_told(conn, side) {
            return;
        }
        self.trace.step([self.now, 3, node as u64, conn.0]);
        match node < self.servers.len() {
            true => self.with(node, |world, process| {
                world.lose(node, process, conn, port);
            }),
            false => self.client_loses(node - self.servers.len(), conn),
        }
    }

    fn thaw(&mut self, server: usize) {
        if !std::mem::replace(&mut self.servers[server].is_frozen, false) {
            return;
        }
        self.trace.keep(self.now, format!("server {server} goes on"));
        self.servers[server].disturbed_at = self.now;
        // What is due comes before what has come meanwhile.
        self.own_after(server, 0, Own::Timer);
        for event in std::mem::take(&mut self.servers[server].backlog) {
            self.after(0, event);
        }
    }

    /// Where two servers have no connection on the election port, they try to have one.
    fn meet(&mut self, a: usize, b: usize) {
        if self.met.contains_key(&(a, b)) {
            return;
        }
        let runs = |it: &Server| it.process.is_some() && !it.is_frozen;
        let both = runs(&self.servers[a]) && runs(&self.servers[b]);
        if both && self.network.connects(a, b) {
            // The one with the larger number dials.
            let conn = self.network.open(Port::Election, b, a);
            self.met.insert((a, b), conn);
            self.with(a, |world, process| world.met(process, b, Some((conn, 1))));
            self.with(b, |world, process| world.met(process, a, Some((conn, 0))));
            return;
        }
        for (here, there) in [(a, b), (b, a)] {
            if runs(&self.servers[here]) {
                self.with(here, |world, process| world.met(process, there, None));
            }
        }
        let after = self.random.between((20, 100)) * MS;
        self.after(after, Event::Meet { a, b });
    }

    /// The connection of two servers on the election port is over.
    pub fn part(&mut self, server: usize, conn: ConnId) {
        let pair = self.met.iter().find(|(_, it)| **it == conn).map(|(pair, _)| *pair);
        if let Some((a, b)) = pair {
            assert!(a == server || b == server);
            self.met.remove(&(a, b));
            let after = self.random.between((1, 50)) * MS;
            self.after(after, Event::Meet { a, b });
        }
    }

    /// Whether `server` serves its clients: it leads, or is in step with who does.
    pub fn is_serving(&self, server: usize) -> bool {
        let process = self.servers[server].process.as_ref();
        process.is_some_and(|process| process.is_serving())
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |server: &usize| {
            let process = self.servers[*server].process.as_ref();
            process.is_some_and(|it| it.is_leading()) && !self.servers[*server].is_frozen
        };
        (0..self.servers.len()).find(leads)
    }
}

fn code(what: &Own) -> u64 {
    match what {
        Own::Timer => 0,
        Own::Written => 1,
        Own::Segment { .. } => 2,
        Own::Mark => 3,
        Own::Turned(_) => 4,
        Own::AcceptedSaved(epoch) => 5 + (u64::from(*epoch) << 8),
        Own::CurrentSaved(epoch) => 6 + (u64::from(*epoch) << 8),
        Own::SoundSaved => 7,
        Own::MembersSaved(text) => 18 + ((text.len() as u64) << 8),
        Own::LogRead { after, .. } => 8 + ((after.raw() as u64) << 8),
        Own::SnapshotSent { link } => 9 + (link.0 << 8),
        Own::Received { link } => 10 + (link.0 << 8),
        Own::Dialled { to, is_for_observers } => {
            11 + ((to.0 as u64) << 8) + (u64::from(*is_for_observers) << 40)
        }
        Own::Core { core } => 12 + ((*core as u64) << 8),
        Own::Snapshot => 13,
        Own::Encoded { link } => 16 + (link.0 << 8),
        Own::Saved => 17,
        Own::Accepted { conn } => 14 + (conn.0 << 8),
        Own::Admitted { conn } => 15 + (conn.0 << 8),
    }
}
