//! Requests to replies: a client core and what stands behind it, in one thread, as `server/core.rs`
//! runs them on one executor.
//!
//! ```text
//! frames ─► ClientCore ─► queue ─► Backend (pipeline, log) ─► queue ─► ClientCore ─► ring
//! ```
//! Received bytes are handed in; what is sent goes through a real ring into real sockets, where it
//! is read and checked. So the ring's own code is measured, and the kernel's is not. A measured
//! turn is followed by a second one, in which the ring says that all was sent.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ringkeeper::io::ring::{Completion, Ring, RingConfig, Token, Wait};
use ringkeeper::pipeline::auth::AuthConfig;
use ringkeeper::pipeline::session::Sessions;
use ringkeeper::pipeline::{Client, Modes, Notice, Pipeline, Settings, Write};
use ringkeeper::replica::Replica;
use ringkeeper::server::admission::Admission;
use ringkeeper::server::client::{ClientConfig, ClientCore, Limits, Links};
use ringkeeper::server::four_letter::Words;
use ringkeeper::server::mesh::{Receiver, Sender, link};
use ringkeeper::server::message::{Emptied, Item, ToClients, ToPipeline};
use ringkeeper::server::overload::{Bounds, Overload};
use ringkeeper::time::{Time, WallMs};
use ringkeeper::tree::Tree;
use ringkeeper::tree::writer::Writer;
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::zxid::Zxid;

use super::frames;
use super::log::Log;
use super::tree::{Paths, grown, parent};
use super::{Meter, Row, Run};

/// Connections that have a request each, or requests of one connection, in a turn.
pub const TOGETHER: u32 = 16;
const WATCHERS: u32 = 100;
const PARENTS: usize = 100;
/// How far the clock moves in a turn.
const TURN: Duration = Duration::from_micros(10);

const fn row(name: &'static str, count: u32, per: &'static str, make: fn() -> Run) -> Row {
    Row { name, count, per, make }
}

pub const ROWS: &[Row] = &[
    row("serve/get, alone", 1, "request", || alone(1, 1, Ask::Get)),
    row("serve/get, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::Get)),
    row("serve/get, 16 in flight", TOGETHER, "request", || alone(1, TOGETHER, Ask::Get)),
    row("serve/exists, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::Exists)),
    row("serve/list 10, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::List)),
    row("serve/set, alone", 1, "request", || alone(1, 1, Ask::Set)),
    row("serve/set, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::Set)),
    row("serve/set, 16 in flight", TOGETHER, "request", || alone(1, TOGETHER, Ask::Set)),
    row("serve/multi of 8, alone", 1, "request", || alone(1, 1, Ask::Multi)),
    row("serve/create, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::Create)),
    row("serve/delete, 16 connections", TOGETHER, "request", || alone(TOGETHER, 1, Ask::Delete)),
    row("serve/set told to 100 watchers", WATCHERS, "event", persistent_watch),
    row("serve/watch once and be told", TOGETHER, "watch", one_shot_watch),
];

/// What stands behind a client core.
pub trait Backend {
    /// Takes what the core has passed on, and tells it what has become durable or committed.
    fn turn(&mut self, end: &mut PipelineEnd, now: Time, wall: WallMs);

    fn tree(&self) -> Arc<Tree>;

    fn version(&self) -> Zxid;
}

/// The pipeline's end of the links.
pub struct PipelineEnd {
    from: Receiver<ToPipeline>,
    to: Sender<ToClients>,
    version: Arc<AtomicI64>,
    emptied: Emptied,
}

impl PipelineEnd {
    /// Hands what the core has passed on to `replica`, as `PipelineCore::take_batch` does.
    pub fn take_batch(&mut self, replica: &mut Replica, now: Time, wall: WallMs) -> bool {
        let Some(mut batch) = self.from.receive() else { return false };
        replica.handle_emptied(std::mem::take(&mut batch.emptied));
        for item in batch.items.drain(..) {
            match item {
                Item::Write { connection, session, xid, op, body, ids } => {
                    let client = Client { core: 0, connection: connection.0 };
                    let body = &batch.bytes[body];
                    let write = Write { client, session, xid, op, body, ids: &ids };
                    replica.handle_write(&write, now, wall);
                }
                Item::Connect(connect) => replica.handle_connect(connect, now, wall),
                Item::Closed { connection } => {
                    replica.handle_closed(Client { core: 0, connection: connection.0 });
                }
                Item::Touch { session } => replica.handle_touch(now, session),
                Item::Ask { .. } | Item::Answer { .. } => unreachable!("nobody asks"),
            }
        }
        self.emptied = batch.into_emptied();
        true
    }

    /// Tells what `replica` has published, as `PipelineCore::publish` does.
    pub fn publish(&mut self, replica: &mut Replica) {
        while let Some(mut published) = replica.poll_published() {
            let (through, events) = (published.through, Arc::clone(&published.events));
            for outbox in published.outboxes.drain(..) {
                let (events, emptied) = (Arc::clone(&events), std::mem::take(&mut self.emptied));
                self.tell(ToClients::Published { through, outbox, events, emptied });
            }
            replica.handle_told(published);
        }
        if let Some(epoch) = replica.poll_begun() {
            self.tell(ToClients::Begun { epoch });
        }
        while let Some(notice) = replica.poll_notice() {
            assert!(!matches!(notice, Notice::Replaced { .. }), "nobody is sent a state");
            self.tell(ToClients::Notice(notice));
        }
        let oldest = Zxid::from_raw(self.version.load(Ordering::Acquire));
        replica.reclaim(oldest, &[]);
    }

    fn tell(&mut self, message: ToClients) {
        assert!(self.to.send(message).is_ok(), "the core takes all in each turn");
    }
}

/// A server on its own.
struct Alone {
    replica: Replica,
    log: Log,
}

pub fn settings() -> Settings {
    Settings {
        extended_types: true,
        enforce_quota: true,
        skip_acl: false,
        digest: true,
        close_session_txn: true,
        txn_bytes_max: 1 << 20,
        reconfig: false,
        standalone_enabled: true,
        modes: Modes::default(),
        session_timeout_ms_min: 4000,
        session_timeout_ms_max: 40_000,
        auth: AuthConfig::default(),
        container_check_interval_ms: 60_000,
        containers_per_minute_max: 10_000,
        container_never_used_ms_max: 0,
    }
}

pub fn pipeline(writer: Writer) -> Pipeline {
    Pipeline::new(writer, Sessions::new(2000, 1, 5000), settings(), 1, Time::default())
}

impl Alone {
    fn new() -> Alone {
        let writer = grown(PARENTS);
        let log = Log::new(writer.last_zxid());
        Alone { replica: Replica::alone(pipeline(writer)), log }
    }
}

impl Backend for Alone {
    fn turn(&mut self, end: &mut PipelineEnd, now: Time, wall: WallMs) {
        if self.replica.poll_timeout().is_some_and(|due| due <= now) {
            self.replica.handle_timeout(now, wall);
        }
        while end.take_batch(&mut self.replica, now, wall) {
            let txns = self.replica.take_txns();
            for (zxid, txn) in txns.iter() {
                self.log.append(zxid, txn);
            }
            txns.clear();
        }
        let durable = self.log.write();
        self.replica.handle_appended();
        if let Some(durable) = durable {
            self.replica.handle_persisted(now, durable);
        }
        end.publish(&mut self.replica);
    }

    fn tree(&self) -> Arc<Tree> {
        Arc::clone(self.replica.pipeline().writer().tree())
    }

    fn version(&self) -> Zxid {
        self.replica.pipeline().committed()
    }
}

/// A client core with connections that have sessions.
pub struct Serving<B> {
    backend: B,
    core: ClientCore,
    ring: Ring,
    end: PipelineEnd,
    sockets: Vec<TcpStream>,
    now: Time,
    wall: WallMs,
    received: Vec<u8>,
}

fn client_config() -> ClientConfig {
    let limits = Limits {
        frame_bytes_max: 1 << 20,
        in_flight_max: 1000,
        out_bytes_max: 64 << 20,
        send_timeout: Duration::from_secs(60),
        greeting_timeout: Duration::from_secs(60),
        frame_timeout: Duration::from_secs(60),
        touch_interval: Duration::from_secs(1),
        stall_interval: Duration::from_millis(100),
        skip_acl: false,
        enforced_schemes: Vec::new(),
    };
    ClientConfig { limits, auth: AuthConfig::default(), words: Words::default(), watch_seed: 7 }
}

impl<B: Backend> Serving<B> {
    /// `connections` clients of `backend`, each with a session; `now` is where its clock stands.
    pub fn new(backend: B, connections: u32, now: Time) -> Serving<B> {
        let (to_pipeline, from) = link(None);
        let (to, from_pipeline) = link(None);
        let version = Arc::new(AtomicI64::new(backend.version().raw()));
        let links = Links { to_pipeline, from_pipeline, version: Arc::clone(&version) };
        // The bounds of Apache's defaults.
        let bounds = Bounds {
            requests_max: 1000,
            throttled_requests_max: None,
            large_threshold_bytes: None,
            large_bytes_max: usize::MAX,
        };
        let overload = Overload::new(1, bounds);
        let admission = Arc::new(Admission::new(usize::MAX, 0, overload));
        let (tree, at) = (backend.tree(), backend.version());
        let core = ClientCore::new(0, tree, at, links, client_config(), admission);
        let ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
        let end = PipelineEnd { from, to, version, emptied: Emptied::default() };
        let wall = WallMs(1_700_000_000_000);
        let (sockets, received) = (Vec::new(), Vec::new());
        let mut serving = Serving { backend, core, ring, end, sockets, now, wall, received };
        serving.connect(connections);
        serving
    }

    fn connect(&mut self, connections: u32) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        for _ in 0..connections {
            let socket = TcpStream::connect(address).expect("it listens");
            let (accepted, _) = listener.accept().expect("it was connected");
            socket.set_nonblocking(true).expect("a socket can be");
            self.sockets.push(socket);
            let listener = Token(u64::MAX);
            self.core.handle(Completion::Accepted { listener, socket: accepted.into() });
        }
        // The ring has a connection from the turn's end on.
        self.turn(&[]);
        let hello = frames::connect();
        let inputs: Vec<Vec<u8>> = vec![hello; connections as usize];
        self.exchange(&inputs, &mut Unmeasured);
        self.received.clear();
    }

    /// One turn of the executor; `inputs` are what the connections in turn have received.
    fn turn(&mut self, inputs: &[Vec<u8>]) {
        self.ring.turn(Wait::No).expect("the ring goes on");
        self.now = self.now + TURN;
        self.core.set_time(self.now, self.wall);
        self.core.deliver();
        while let Some(completion) = self.ring.next_completion() {
            self.core.handle(completion);
        }
        for (token, bytes) in inputs.iter().enumerate() {
            if !bytes.is_empty() {
                // Slots are given in order, in their first generation.
                self.core.handle(Completion::Received { token: Token(token as u64), bytes });
            }
        }
        self.core.deliver();
        if self.core.poll_timeout() <= self.now {
            self.core.handle_timeout();
        }
        self.core.send_batch();
        self.backend.turn(&mut self.end, self.now, self.wall);
        self.core.deliver();
        self.core.finish_turn(&mut self.ring);
    }

    /// Takes `inputs` and sends what they lead to, measured; leaves it in `received`.
    fn exchange(&mut self, inputs: &[Vec<u8>], meter: &mut dyn Meter) {
        meter.measure(&mut || {
            self.turn(inputs);
            self.turn(&[]);
        });
        // Whatever the kernel has left for later.
        while !self.core.is_finished() {
            self.turn(&[]);
        }
        let mut buffer = [0; 64 << 10];
        for socket in &mut self.sockets {
            while let Ok(length) = std::io::Read::read(socket, &mut buffer) {
                assert!(length > 0, "the server keeps its connections");
                self.received.extend_from_slice(&buffer[..length]);
            }
        }
    }

    /// The same; there are `count` replies and events, and all say success.
    pub fn ask(&mut self, inputs: &[Vec<u8>], count: u32, meter: &mut dyn Meter) {
        self.exchange(inputs, meter);
        assert_eq!(frames::count_successes(&self.received), count as usize);
        self.received.clear();
    }
}

/// For what prepares a run.
pub struct Unmeasured;

impl Meter for Unmeasured {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        work();
    }
}

/// What the clients of a row ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Get,
    Exists,
    /// A parent of ten children.
    List,
    Set,
    Multi,
    /// Creates measured; the znodes are deleted again, not measured.
    Create,
    /// The other way round.
    Delete,
}

impl Ask {
    fn put(self, out: &mut Vec<u8>, paths: &mut Paths) {
        let xid = 7;
        let path = &paths.take(1)[0];
        match self {
            Ask::Get => frames::get(out, xid, path, false),
            Ask::Exists => frames::read(out, xid, OpCode::Exists, path, false),
            Ask::List => frames::read(out, xid, OpCode::GetChildren, "/list", false),
            Ask::Set => frames::set(out, xid, path),
            Ask::Multi => frames::multi_set(out, xid, &paths.take(8)),
            Ask::Create => frames::create(out, xid, &format!("{path}x")),
            Ask::Delete => frames::delete(out, xid, &format!("{path}x")),
        }
    }
}

fn alone(connections: u32, in_flight: u32, ask: Ask) -> Run {
    let mut serving = Serving::new(Alone::new(), connections, Time::default());
    if ask == Ask::List {
        let paths = (0..11).map(|n| if n == 0 { "/list".into() } else { format!("/list/n{n}") });
        for path in paths {
            serving.ask(&[one(|out| frames::create(out, 1, &path))], 1, &mut Unmeasured);
        }
    }
    run(serving, connections, in_flight, PARENTS, ask)
}

fn one(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes);
    bytes
}

/// Each of `connections` asks for `in_flight` things at a time, of a tree of `parents`.
pub fn run<B: Backend + 'static>(
    mut serving: Serving<B>,
    connections: u32,
    in_flight: u32,
    parents: usize,
    ask: Ask,
) -> Run {
    let mut paths = Paths::new(parents);
    Box::new(move |meter: &mut dyn Meter| {
        let count = connections * in_flight;
        let inputs = |ask: Ask, mut paths: Paths| -> Vec<Vec<u8>> {
            let mut input = || one(|out| (0..in_flight).for_each(|_| ask.put(out, &mut paths)));
            (0..connections).map(|_| input()).collect()
        };
        let asked = inputs(ask, paths);
        match ask {
            Ask::Create => {
                serving.ask(&asked, count, meter);
                serving.ask(&inputs(Ask::Delete, paths), count, &mut Unmeasured);
            }
            Ask::Delete => {
                serving.ask(&inputs(Ask::Create, paths), count, &mut Unmeasured);
                serving.ask(&asked, count, meter);
            }
            _ => serving.ask(&asked, count, meter),
        }
        paths.take(count);
    })
}

/// A hundred connections have a persistent watch, another one sets.
fn persistent_watch() -> Run {
    let mut serving = Serving::new(Alone::new(), WATCHERS + 1, Time::default());
    let path = parent(7);
    let mut watches = vec![one(|out| frames::add_watch(out, 1, &path)); WATCHERS as usize + 1];
    watches[WATCHERS as usize].clear();
    serving.ask(&watches, WATCHERS, &mut Unmeasured);
    let mut inputs = vec![Vec::new(); WATCHERS as usize + 1];
    inputs[WATCHERS as usize] = one(|out| frames::set(out, 2, &path));
    Box::new(move |meter: &mut dyn Meter| serving.ask(&inputs, WATCHERS + 1, meter))
}

/// Each connection reads a znode and leaves a watch, then one sets it.
fn one_shot_watch() -> Run {
    let mut serving = Serving::new(Alone::new(), TOGETHER, Time::default());
    let path = parent(7);
    let reads = vec![one(|out| frames::get(out, 1, &path, true)); TOGETHER as usize];
    let set = vec![one(|out| frames::set(out, 2, &path))];
    Box::new(move |meter: &mut dyn Meter| {
        serving.ask(&reads, TOGETHER, meter);
        serving.ask(&set, TOGETHER + 1, meter);
    })
}
