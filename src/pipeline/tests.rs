//! The pipeline driven as a value. Every transaction that comes out of it is decoded and applied
//! to a second tree, whose digest must follow the first one's: all tests check the replay too.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::pipeline::auth::{AuthIds, DigestAlgorithm};
use crate::tree::writer::TreeConfig;
use crate::wire::acl::{Acl, EncodedAcl, Perms};
use crate::wire::error::ErrorCode;
use crate::wire::jute::{Reader, Write as _};
use crate::wire::stat::Stat;
use crate::wire::txn::{self, Txn};

mod checks;
mod multi;
mod publish;
mod reaping;
mod replay;
mod sessions;
mod world;

mod ensemble;
mod leaders;
mod local;
mod members;
mod read_only;
mod roles;

pub(crate) const TREE: TreeConfig = TreeConfig { seed: 7, extended_types: true };
const TICK_MS: u64 = 2000;
const SUPER: &str = "super:secret";
const A: Client = Client { core: 0, connection: 1 };
const B: Client = Client { core: 1, connection: 1 };

const PERSISTENT: i32 = 0;
const EPHEMERAL: i32 = 1;
const SEQUENTIAL: i32 = 2;

pub(crate) fn settings() -> Settings {
    Settings {
        extended_types: true,
        enforce_quota: true,
        skip_acl: false,
        digest: true,
        close_session_txn: true,
        txn_bytes_max: 1 << 20,
        reconfig: false,
        standalone_enabled: true,
        session_timeout_ms_min: 4000,
        session_timeout_ms_max: 40_000,
        modes: Modes::default(),
        auth: AuthConfig {
            super_digest: Some(DigestAlgorithm::Sha1.id(SUPER)),
            ..AuthConfig::default()
        },
        container_check_interval_ms: 60_000,
        containers_per_minute_max: 10_000,
        container_never_used_ms_max: 0,
    }
}

/// A reply, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    client: Client,
    xid: i32,
    zxid: Zxid,
    error: i32,
    body: Vec<u8>,
    then: Then,
}

/// A transaction as it went to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Logged {
    zxid: Zxid,
    session: i64,
    /// As `Debug` shows it.
    txn: String,
}

/// A pipeline with its log, its disk and its readers' side.
struct Bench {
    pipeline: Pipeline,
    /// The tree that the logged bytes make.
    replica: Writer,
    /// Whether sessions' ends have lists where these are not too long.
    is_listing: bool,
    now: Time,
    wall: WallMs,
    xid: i32,
    ids: Vec<Id>,
    answers: Vec<Answer>,
    notices: Vec<Notice>,
    events: Vec<Event>,
    logged: Vec<Logged>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(settings())
    }

    fn with(settings: Settings) -> Bench {
        let now = Time::from_nanos(0);
        let sessions = Sessions::new(TICK_MS as u32, 1, 5000);
        Bench {
            is_listing: settings.close_session_txn,
            pipeline: Pipeline::new(Writer::new(TREE, now), sessions, settings, 2, now),
            replica: Writer::new(TREE, now),
            now,
            wall: WallMs(1_700_000_000_000),
            xid: 0,
            ids: AuthIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST)).ids().to_vec(),
            answers: Vec::new(),
            notices: Vec::new(),
            events: Vec::new(),
            logged: Vec::new(),
        }
    }

    /// A bench on which `A` has a session.
    fn connected() -> (Bench, i64) {
        let mut bench = Bench::new();
        let session = bench.connect(A);
        (bench, session)
    }

    /// Shows a password for all further requests.
    fn authenticate(&mut self, credentials: &str) {
        self.authenticate_all([credentials.to_owned()]);
    }

    /// Shows several.
    fn authenticate_all(&mut self, all: impl IntoIterator<Item = String>) {
        let mut ids = AuthIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
        for credentials in all {
            ids.handle_auth(&settings().auth, "digest", credentials.as_bytes()).unwrap();
        }
        self.ids = ids.ids().to_vec();
    }

    fn advance(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.wall.0 += ms as i64;
    }

    /// Lets `ms` pass tick by tick, and does what falls due.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.advance(TICK_MS);
            self.pipeline.handle_timeout(self.now, self.wall);
            self.settle();
        }
    }

    /// A new session for `client`, durable.
    fn connect(&mut self, client: Client) -> i64 {
        self.ask_session(client, 0, None);
        self.settle();
        let beginning = |answer: &Answer| match answer.then {
            Then::Begin { session, .. } if answer.client == client => Some(session),
            _ => None,
        };
        self.answers.iter().rev().find_map(beginning).expect("the session has begun")
    }

    fn ask_session(&mut self, client: Client, session: i64, password: Option<[u8; 16]>) {
        let connect =
            Connect { client, timeout_ms: 10_000, session, password, read_only: Some(false) };
        self.pipeline.handle_connect(connect, self.now, self.wall);
    }

    /// Passes a write on, and leaves it on its way. Its xid.
    fn send(&mut self, client: Client, session: i64, (op, body): &(OpCode, Vec<u8>)) -> i32 {
        self.xid += 1;
        let write = Write { client, session, xid: self.xid, op: *op, body, ids: &self.ids };
        self.pipeline.handle_write(&write, self.now, self.wall);
        self.xid
    }

    /// One write of `A`, all the way to its answer.
    fn ask(&mut self, session: i64, request: (OpCode, Vec<u8>)) -> Answer {
        let xid = self.send(A, session, &request);
        self.settle();
        let answer = self.answers.last().expect("each write is answered").clone();
        assert_eq!(answer.xid, xid);
        answer
    }

    /// The error of one write of `A`.
    fn error(&mut self, session: i64, request: (OpCode, Vec<u8>)) -> i32 {
        self.ask(session, request).error
    }

    /// One write of `A` that succeeds.
    fn done(&mut self, session: i64, request: (OpCode, Vec<u8>)) -> Answer {
        let answer = self.ask(session, request);
        assert_eq!(answer.error, 0);
        answer
    }

    /// The log takes everything; the replica applies it.
    fn append(&mut self) {
        let epoch_start = self.pipeline.epoch_start;
        for (zxid, bytes) in self.pipeline.take_txns().iter() {
            let logged = txn::decode(bytes).expect("what is logged can be read");
            assert_eq!(logged.header.zxid, zxid);
            let last = self.replica.last_zxid().max(epoch_start);
            assert_eq!(Some(zxid), last.next(), "zxids have no holes");
            self.replica.apply(&logged.header, &logged.txn).expect("it fits the replica");
            let is_bare = self.is_listing && logged.txn == Txn::CloseSession { paths: None };
            let digest = (!is_bare).then_some(self.replica.digest());
            assert_eq!(logged.digest, digest, "{:?}", logged.txn);
            let mut again = Vec::new();
            txn::encode(&logged.header, &logged.txn, logged.digest, &mut again);
            // A change of the members is read as the setData that it is but for its type.
            let is_change = bytes[28..32] == OpCode::Reconfig.raw().to_be_bytes();
            if is_change {
                again[28..32].copy_from_slice(&bytes[28..32]);
            }
            assert_eq!(again, bytes, "there is one way to write a transaction");
            let txn = format!("{:?}", logged.txn);
            self.logged.push(Logged { zxid, session: logged.header.session, txn });
        }
        self.pipeline.take_txns().clear();
        self.pipeline.handle_appended();
    }

    /// Takes what may be published by now.
    fn drain(&mut self) {
        while let Some(published) = self.pipeline.poll_published() {
            assert!(published.through <= self.pipeline.committed());
            for (core, outbox) in published.outboxes.iter().enumerate() {
                let mut start = 0;
                for reply in &outbox.replies {
                    assert!(reply.zxid <= published.through);
                    let client = Client { core: core as u16, connection: reply.connection };
                    let bytes = &outbox.bytes[start..reply.end];
                    start = reply.end;
                    self.answers.push(take_apart(client, reply, bytes));
                }
                assert_eq!(start, outbox.bytes.len());
            }
            self.events.extend(published.events.iter().cloned());
        }
        self.notices.extend(std::iter::from_fn(|| self.pipeline.poll_notice()));
    }

    /// The disk takes everything, and everything is published.
    fn settle(&mut self) {
        self.append();
        self.pipeline.handle_committed(self.pipeline.prepared());
        self.drain();
        assert_eq!(self.pipeline.writer().digest(), self.replica.digest());
    }

    fn stat(&self, path: &str) -> Option<Stat> {
        self.pipeline.writer().node(path).map(|node| node.stat())
    }

    fn last_txn(&self) -> &str {
        &self.logged.last().expect("something was logged").txn
    }
}

/// A reply to a request; the answer to a connect request has no header.
fn take_apart(client: Client, reply: &Reply, bytes: &[u8]) -> Answer {
    let (xid, zxid, then) = (reply.xid, reply.zxid, reply.then);
    if bytes.is_empty() || matches!(then, Then::Begin { .. }) {
        return Answer { client, xid, zxid, error: 0, body: bytes.to_vec(), then };
    }
    let mut reader = Reader::new(bytes);
    assert_eq!(reader.i32().unwrap() as usize, bytes.len() - 4, "one frame each");
    assert_eq!(reader.i32().unwrap(), xid);
    assert_eq!(Zxid::from_raw(reader.i64().unwrap()), zxid);
    let error = reader.i32().unwrap();
    Answer { client, xid, zxid, error, body: reader.remaining().to_vec(), then }
}

// ── Requests as clients encode them ──

fn put_create(path: &str, data: Option<&[u8]>, acl: &EncodedAcl<'_>, flags: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_buffer(data);
    body.extend_from_slice(acl.as_bytes());
    body.put_i32(flags);
    body
}

fn create(path: &str, flags: i32) -> (OpCode, Vec<u8>) {
    (OpCode::Create, put_create(path, Some(b"x"), &EncodedAcl::OPEN, flags))
}

fn create_with_acl(path: &str, acl: &[Acl]) -> (OpCode, Vec<u8>) {
    let acl = EncodedAcl::from_list(acl);
    (OpCode::Create, put_create(path, None, &acl, PERSISTENT))
}

fn create_ttl(path: &str, flags: i32, ttl_ms: i64) -> (OpCode, Vec<u8>) {
    let mut body = put_create(path, None, &EncodedAcl::OPEN, flags);
    body.put_i64(ttl_ms);
    (OpCode::CreateTtl, body)
}

fn create_container(path: &str) -> (OpCode, Vec<u8>) {
    (OpCode::CreateContainer, put_create(path, None, &EncodedAcl::OPEN, 4))
}

fn delete(path: &str, version: i32) -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_i32(version);
    (OpCode::Delete, body)
}

fn set(path: &str, data: &[u8], version: i32) -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    body.put_string(path);
    body.put_buffer(Some(data));
    body.put_i32(version);
    (OpCode::SetData, body)
}

fn set_acl(path: &str, acl: &[Acl], version: i32) -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    body.put_string(path);
    body.extend_from_slice(EncodedAcl::from_list(acl).as_bytes());
    body.put_i32(version);
    (OpCode::SetAcl, body)
}

/// Only within a multi.
fn check(path: &str, version: i32) -> (OpCode, Vec<u8>) {
    let (_, body) = delete(path, version);
    (OpCode::Check, body)
}

fn multi(ops: &[(OpCode, Vec<u8>)]) -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    for (op, record) in ops {
        body.put_i32(op.raw());
        body.put_bool(false);
        body.put_i32(-1);
        body.extend_from_slice(record);
    }
    body.put_i32(-1);
    body.put_bool(true);
    body.put_i32(-1);
    (OpCode::Multi, body)
}

const CLOSE: (OpCode, Vec<u8>) = (OpCode::CloseSession, Vec::new());

fn acl(perms: Perms, scheme: &str, id: &str) -> Acl {
    Acl { perms, id: Id { scheme: scheme.into(), id: id.into() } }
}

fn path_of(answer: &Answer) -> String {
    Reader::new(&answer.body).string().unwrap().to_owned()
}
