//! A model of a client core: the connections, their reads and watches, and the version served. It
//! follows `server/client.rs` and `server/request.rs`, without their sockets and bounds.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringkeeper::pipeline::auth::{AuthConfig, AuthIds};
use ringkeeper::pipeline::read::Reads;
use ringkeeper::pipeline::{Client, Connect, Notice, Outbox, Published, Reply, Then};
use ringkeeper::tree::Tree;
use ringkeeper::tree::effects::Event;
use ringkeeper::tree::watch::{Watcher, Watches};
use ringkeeper::wire::acl::Id;
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::request::{self, ConnectRequest, Request, XID_PING};
use ringkeeper::wire::response::{self, ReplyHeader};
use ringkeeper::zxid::Zxid;

use crate::network::ConnId;

/// What a core passes to the pipeline.
#[derive(Debug)]
pub enum ToPipeline {
    Connect(Connect),
    Write { client: Client, session: i64, xid: i32, op: OpCode, body: Vec<u8>, ids: Vec<Id> },
    Touch { session: i64 },
    Closed { client: Client },
}

/// What a core does to its connections.
#[derive(Debug)]
pub enum Out {
    Send { conn: ConnId, frame: Vec<u8> },
    Close { conn: ConnId },
}

/// What the pipeline has sent to a core and the core has not taken yet.
#[derive(Debug)]
pub enum FromPipeline {
    Published { through: Zxid, outbox: Outbox, events: Arc<Vec<Event>> },
    Notice(Notice),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Attaching,
    Serving,
    Draining,
}

#[derive(Debug)]
enum Pending {
    Write,
    Read { xid: i32, op: OpCode, body: Vec<u8> },
}

#[derive(Debug)]
struct Connection {
    conn: ConnId,
    phase: Phase,
    session: i64,
    pending: VecDeque<Pending>,
    ids: AuthIds,
}

/// Mistakes that a core can be told to make.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mistakes {
    /// Reads see what is applied and not yet committed.
    pub reads_applied: bool,
    /// Replies go out before the events that they show.
    pub replies_first: bool,
    /// What a client missed before it came back is not made up for.
    pub forgets_missed: bool,
}

/// A client core.
pub struct Core {
    number: u16,
    tree: Arc<Tree>,
    pub version: Zxid,
    connections: BTreeMap<u64, Connection>,
    by_conn: BTreeMap<ConnId, u64>,
    next: u64,
    watches: Watches,
    auth: AuthConfig,
    pub inbox: VecDeque<FromPipeline>,
    pub to_pipeline: Vec<ToPipeline>,
    pub out: Vec<Out>,
    /// Sessions whose clients were answered, and so believe that they live.
    pub answered: Vec<i64>,
    mistakes: Mistakes,
}

impl Core {
    pub fn new(number: u16, tree: Arc<Tree>, version: Zxid, mistakes: Mistakes) -> Core {
        Core {
            number,
            tree,
            version,
            connections: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            next: 1,
            watches: Watches::new(7),
            auth: AuthConfig::default(),
            inbox: VecDeque::new(),
            to_pipeline: Vec::new(),
            out: Vec::new(),
            answered: Vec::new(),
            mistakes,
        }
    }

    pub fn accept(&mut self, conn: ConnId) {
        let number = self.next;
        self.next += 1;
        let ids = AuthIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let connection =
            Connection { conn, phase: Phase::Greeting, session: 0, pending: VecDeque::new(), ids };
        self.connections.insert(number, connection);
        self.by_conn.insert(conn, number);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, conn: ConnId) {
        if let Some(number) = self.by_conn.remove(&conn) {
            let client = Client { core: self.number, connection: number };
            self.connections.remove(&number);
            self.to_pipeline.push(ToPipeline::Closed { client });
            self.watches.remove_connection(Watcher(number));
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.connections.get(&number) {
            let conn = connection.conn;
            self.out.push(Out::Close { conn });
            self.handle_disconnected(conn);
        }
    }

    /// A frame came in, with its length.
    pub fn handle_frame(&mut self, conn: ConnId, frame: &[u8]) {
        let Some(&number) = self.by_conn.get(&conn) else { return };
        let payload = &frame[4..];
        match self.connections[&number].phase {
            Phase::Greeting => self.connect(number, payload),
            Phase::Attaching | Phase::Draining => {}
            Phase::Serving => self.request(number, payload),
        }
    }

    fn connect(&mut self, number: u64, payload: &[u8]) {
        let request = ConnectRequest::decode(payload).expect("clients send what is right");
        if request.last_zxid_seen > self.version {
            return self.close(number);
        }
        let connection = self.connections.get_mut(&number).expect("it was looked up");
        connection.phase = Phase::Attaching;
        connection.session = request.session;
        self.to_pipeline.push(ToPipeline::Connect(Connect {
            client: Client { core: self.number, connection: number },
            timeout_ms: request.timeout_ms,
            session: request.session,
            password: request.password.try_into().ok(),
            read_only: request.read_only,
        }));
    }

    fn request(&mut self, number: u64, payload: &[u8]) {
        let (header, body) = request::decode_header(payload).expect("clients send what is right");
        let op = header.operation().expect("clients ask for what there is");
        let connection = self.connections.get_mut(&number).expect("it was looked up");
        let session = connection.session;
        self.to_pipeline.push(ToPipeline::Touch { session });
        if op.is_write() || op == OpCode::Sync {
            connection.pending.push_back(Pending::Write);
            let client = Client { core: self.number, connection: number };
            let (body, ids) = (body.to_vec(), connection.ids.ids().to_vec());
            let write = ToPipeline::Write { client, session, xid: header.xid, op, body, ids };
            self.to_pipeline.push(write);
            return;
        }
        if connection.pending.is_empty() {
            self.answer(number, header.xid, op, body);
        } else {
            let body = body.to_vec();
            connection.pending.push_back(Pending::Read { xid: header.xid, op, body });
        }
    }

    fn answer(&mut self, number: u64, xid: i32, op: OpCode, body: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let version = self.version;
        let mut out = Vec::new();
        if op == OpCode::Ping {
            let header = ReplyHeader { xid: XID_PING, zxid: version, error: 0 };
            response::put_header_only(&mut out, &header);
        } else {
            let seen = if self.mistakes.reads_applied { Zxid::MAX } else { version };
            let view = self.tree.view(seen);
            let mut reads = Reads {
                tree: &self.tree,
                view: &view,
                watches: &mut self.watches,
                watcher: Watcher(number),
                session: connection.session,
                ids: connection.ids.ids(),
                auth: &self.auth,
                skip_acl: false,
            };
            put_reply(&mut reads, (xid, version), op, body, &mut out, self.mistakes);
        }
        self.answered.push(connection.session);
        self.out.push(Out::Send { conn: connection.conn, frame: out });
    }

    /// Takes the oldest message of the pipeline; whether there was one.
    pub fn deliver(&mut self) -> bool {
        match self.inbox.pop_front() {
            None => return false,
            Some(FromPipeline::Published { through, outbox, events }) => {
                self.publish(through, &outbox, &events);
            }
            Some(FromPipeline::Notice(Notice::Connected { client, frame, then })) => {
                if let Some(connection) = self.connections.get(&client.connection) {
                    self.out.push(Out::Send { conn: connection.conn, frame });
                    self.go_on(client.connection, then);
                }
            }
            Some(FromPipeline::Notice(Notice::Close { client })) => self.close(client.connection),
            Some(FromPipeline::Notice(Notice::Replaced { tree, version, .. })) => {
                let all: Vec<u64> = self.connections.keys().copied().collect();
                all.into_iter().for_each(|number| self.close(number));
                self.tree = tree;
                self.version = version;
            }
        }
        true
    }

    fn publish(&mut self, through: Zxid, outbox: &Outbox, events: &[Event]) {
        let mut events = events.iter().peekable();
        let mut start = 0;
        for reply in &outbox.replies {
            while !self.mistakes.replies_first
                && let Some(event) = events.next_if(|event| event.zxid <= reply.zxid)
            {
                self.fire(event);
            }
            self.version = self.version.max(reply.zxid);
            self.reply(reply, &outbox.bytes[start..reply.end]);
            start = reply.end;
        }
        for event in events {
            self.fire(event);
        }
        self.version = self.version.max(through);
    }

    fn fire(&mut self, event: &Event) {
        let mut watchers = Vec::new();
        self.watches.trigger(event.kind, event.path(), |watcher| watchers.push(watcher));
        for Watcher(number) in watchers {
            let Some(connection) = self.connections.get(&number) else { continue };
            let mut frame = Vec::new();
            response::put_event(&mut frame, event.kind, event.zxid, event.path());
            self.out.push(Out::Send { conn: connection.conn, frame });
        }
    }

    fn reply(&mut self, reply: &Reply, frame: &[u8]) {
        let number = reply.connection;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.phase == Phase::Draining {
            return;
        }
        let conn = connection.conn;
        // The answer to its session's end tells a client that it has nothing more.
        if connection.session != 0 && reply.then != Then::Close {
            self.answered.push(connection.session);
        }
        self.out.push(Out::Send { conn, frame: frame.to_vec() });
        if reply.answers {
            let first = connection.pending.pop_front();
            assert!(matches!(first, Some(Pending::Write)), "replies come in the writes' order");
        }
        self.go_on(number, reply.then);
    }

    fn go_on(&mut self, number: u64, then: Then) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match then {
            Then::Serve => self.answer_queued(number),
            Then::Begin { session, .. } | Then::BeginReadOnly { session, .. } => {
                connection.phase = Phase::Serving;
                connection.session = session;
            }
            Then::Close => {
                connection.phase = Phase::Draining;
                self.close(number);
            }
        }
    }

    fn answer_queued(&mut self, number: u64) {
        while let Some(connection) = self.connections.get_mut(&number)
            && let Some(Pending::Read { xid, op, body }) =
                connection.pending.pop_front_if(|it| matches!(it, Pending::Read { .. }))
        {
            self.answer(number, xid, op, &body);
        }
    }
}

/// A published batch for each core.
pub fn split(published: Published) -> Vec<FromPipeline> {
    let Published { through, outboxes, events, .. } = published;
    let one = |outbox| FromPipeline::Published { through, outbox, events: Arc::clone(&events) };
    outboxes.into_iter().map(one).collect()
}

fn put_reply(
    reads: &mut Reads<'_>,
    (xid, version): (i32, Zxid),
    op: OpCode,
    body: &[u8],
    out: &mut Vec<u8>,
    mistakes: Mistakes,
) {
    if mistakes.forgets_missed
        && let Ok(Request::SetWatches(mut set)) = Request::decode(op, body)
    {
        set.relative_zxid = Zxid::MAX;
        reads.set_watches(&set, out);
        response::put_header_only(out, &ReplyHeader { xid, zxid: version, error: 0 });
        return;
    }
    reads.put_reply((xid, version), op, body, out);
}
