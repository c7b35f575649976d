//! One worker: a session, nodes that nobody else writes, and a journal line around each operation.
//!
//! Since each node has one writer with one operation under way, what the servers must hold follows
//! from the journal alone.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::file::Journal;
use super::record::{Header, Id, Kind, Operation, Outcome, Record, SessionEvent};
use super::session::{Connected, Fields, Lost, Session};
use crate::keys::Random;
use crate::wire::{
    CHECK, CREATE, CREATE2, DELETE, ERROR_NO_NODE, ERROR_NODE_EXISTS, Frame, MULTI, SET_DATA,
};

const BAD_VERSION: i32 = -103;
const SESSION_EXPIRED: i32 = -112;
const SESSION_MOVED: i32 = -118;

/// Codes after which the change has certainly not happened. Any other may come from a server that
/// does not know: it is journalled as unknown.
const REFUSALS: [i32; 15] = [
    -6,
    -8,
    ERROR_NO_NODE,
    -102,
    BAD_VERSION,
    -108,
    ERROR_NODE_EXISTS,
    -111,
    SESSION_EXPIRED,
    -114,
    -115,
    SESSION_MOVED,
    -119,
    -125,
    -127,
];

/// Ephemeral and sequential nodes that a worker keeps; above that it deletes the oldest.
const EXTRAS_MAX: usize = 32;

/// A version that no node of the journal reaches: its check always fails.
const VERSION_NEVER: i32 = 1_999_999_999;

const FLAG_NONE: i32 = 0;
const FLAG_EPHEMERAL: i32 = 1;
const FLAG_SEQUENTIAL: i32 = 2;

/// What all workers share.
pub struct Job<'a> {
    pub header: &'a Header,
    pub servers: &'a [SocketAddr],
    pub journal: &'a Journal,
    pub keys: u64,
    pub seed: u64,
    pub until: Instant,
    pub stop: &'a AtomicBool,
    /// Operations still to be begun.
    pub remaining: &'a AtomicU64,
}

/// What one worker has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub acknowledged: u64,
    pub refused: BTreeMap<i32, u64>,
    pub unknown: u64,
    pub reconnects: u64,
    pub sessions_expired: u64,
    /// The longest time between two acknowledgements of this worker.
    pub gap: Duration,
    /// Whether the last session was ended, so that its ephemeral nodes must be gone.
    pub closed: bool,
}

impl Seen {
    pub fn merge(&mut self, other: &Seen) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.reconnects += other.reconnects;
        self.sessions_expired += other.sessions_expired;
        self.gap = self.gap.max(other.gap);
        self.closed &= other.closed;
        for (code, count) in &other.refused {
            *self.refused.entry(*code).or_default() += count;
        }
    }
}

/// What a worker believes of a key; it chooses by that, and proves nothing by it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Belief {
    Absent,
    Present(i32),
    Unknown,
}

pub struct Worker<'a> {
    job: &'a Job<'a>,
    index: u32,
    session: Session,
    random: Random,
    number: u64,
    keys: Vec<Belief>,
    /// Paths of ephemeral and sequential nodes, the oldest first.
    extras: VecDeque<String>,
    seen: Seen,
}

impl<'a> Worker<'a> {
    pub fn new(job: &'a Job<'a>, index: u32) -> Worker<'a> {
        let first = index as usize;
        Worker {
            job,
            index,
            session: Session::new(job.servers, first, job.header.session_timeout_ms),
            random: Random::new(job.seed.wrapping_add(u64::from(index) << 32)),
            number: 0,
            keys: vec![Belief::Absent; job.keys as usize],
            extras: VecDeque::new(),
            seen: Seen::default(),
        }
    }

    /// Works until the job is over. Fails only when the journal cannot be written.
    pub fn run(mut self) -> io::Result<Seen> {
        let mut last = Instant::now();
        while self.goes_on() {
            if !self.session.is_connected() && !self.connect()? {
                continue;
            }
            let taken = self.job.remaining.fetch_update(
                Ordering::Relaxed,
                Ordering::Relaxed,
                |remaining| remaining.checked_sub(1),
            );
            if taken.is_err() {
                break;
            }
            let operations = self.choose();
            let acknowledged = self.perform(&operations)?;
            let now = Instant::now();
            if acknowledged {
                self.seen.gap = self.seen.gap.max(now.duration_since(last));
                last = now;
            }
        }
        self.end()?;
        Ok(self.seen)
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.job.until && !self.job.stop.load(Ordering::Relaxed)
    }

    /// `false` when nobody answered for a moment, or the session was found to be over.
    fn connect(&mut self) -> io::Result<bool> {
        let patience = Instant::now() + Duration::from_millis(200);
        let (event, id) = match self.session.connect(patience.min(self.job.until)) {
            Connected::Opened => (SessionEvent::Opened, self.session.id),
            Connected::Resumed => {
                self.seen.reconnects += 1;
                (SessionEvent::Resumed, self.session.id)
            }
            Connected::Expired(id) => {
                self.seen.sessions_expired += 1;
                (SessionEvent::Expired, id)
            }
            Connected::Nobody => return Ok(false),
        };
        self.note_session(event, id)?;
        Ok(event != SessionEvent::Expired)
    }

    fn note_session(&mut self, event: SessionEvent, session: i64) -> io::Result<()> {
        self.job.journal.note(&Record::Session { worker: self.index, event, session });
        self.job.journal.sync()
    }

    /// Ends the session. When no server answers it is left to expire.
    fn end(&mut self) -> io::Result<()> {
        if !self.session.is_connected() {
            self.connect()?;
        }
        let id = self.session.id;
        self.seen.closed = id == 0 || self.session.close();
        if self.seen.closed && id != 0 {
            self.note_session(SessionEvent::Closed, id)?;
        }
        self.job.journal.sync()
    }

    fn key_path(&self, key: u64) -> String {
        format!("{}/w{}/{key:08}", self.job.header.root, self.index)
    }

    /// What comes next: mostly changes that should work, some that must not.
    fn choose(&mut self) -> Vec<Operation> {
        let key = self.random.below(self.job.keys);
        let belief = self.keys[key as usize];
        let one = |kind, path| vec![Operation { kind, path }];
        if self.extras.len() > EXTRAS_MAX {
            let path = self.extras.pop_front().expect("the queue is not empty");
            return one(Kind::Delete, path);
        }
        let (root, index, number) = (&self.job.header.root, self.index, self.number + 1);
        match self.random.below(100) {
            0..8 => one(Kind::Sequential, format!("{root}/queue/n-")),
            8..16 => one(Kind::Ephemeral, format!("{root}/w{index}/e-{number:08}")),
            16..32 => self.choose_multi(key),
            32..35 => one(Kind::Create, self.key_path(key)),
            35..38 => one(Kind::Set, self.key_path(key)),
            38..62 if belief != Belief::Absent => one(Kind::Delete, self.key_path(key)),
            _ if belief == Belief::Absent => one(Kind::Create, self.key_path(key)),
            _ => one(Kind::Set, self.key_path(key)),
        }
    }

    /// A change of two neighbours, under a condition where the version is known. One in eight has
    /// a condition that fails, and must change nothing.
    fn choose_multi(&mut self, key: u64) -> Vec<Operation> {
        let mut operations = Vec::new();
        for key in [key, (key + 1) % self.job.keys] {
            let path = self.key_path(key);
            let kind = match self.keys[key as usize] {
                Belief::Absent => Kind::Create,
                _ if self.random.below(3) == 0 => Kind::Delete,
                Belief::Present(version) => {
                    operations.push(Operation { kind: Kind::Check(version), path: path.clone() });
                    Kind::Set
                }
                Belief::Unknown => Kind::Set,
            };
            operations.push(Operation { kind, path });
            if self.job.keys == 1 {
                break;
            }
        }
        if self.random.below(8) == 0 {
            let path = self.job.header.root.clone();
            operations.push(Operation { kind: Kind::Check(VERSION_NEVER), path });
        }
        operations
    }

    /// Journals, sends, journals. `true` when it was acknowledged.
    fn perform(&mut self, operations: &[Operation]) -> io::Result<bool> {
        self.number += 1;
        let id = Id { worker: self.index, number: self.number };
        let operations = operations.to_vec();
        self.job.journal.note(&Record::Ask { id, operations: operations.clone() });
        // The answer to the operation before is on disk with this, too.
        self.job.journal.sync()?;
        let value = self.job.header.value(id);
        let outcome = match self.send(&operations, value.as_bytes()) {
            Ok(outcome) => outcome,
            Err(Lost) => {
                self.session.disconnect();
                Outcome::Unknown
            }
        };
        self.learn(&operations, &outcome);
        let acknowledged = matches!(outcome, Outcome::Ok { .. });
        self.job.journal.note(&Record::Outcome { id, outcome });
        self.seen.acknowledged += u64::from(acknowledged);
        Ok(acknowledged)
    }

    fn send(&mut self, operations: &[Operation], value: &[u8]) -> Result<Outcome, Lost> {
        let reply = if let [operation] = operations {
            let opcode = opcode(operation.kind);
            self.session.call(opcode, |frame| body(frame, operation, value))?
        } else {
            self.session.call(MULTI, |mut frame| {
                for operation in operations {
                    frame = frame.int(opcode(operation.kind)).bool(false).int(-1);
                    frame = body(frame, operation, value);
                }
                frame.int(-1).bool(true).int(-1)
            })?
        };
        let (code, index) = if reply.error != 0 {
            (reply.error, 0)
        } else {
            let read = if operations.len() == 1 { read_one } else { read_multi };
            match read(operations, reply.zxid, &reply.body).map_err(|_| Lost)? {
                Outcome::Failed { code, index } => (code, index),
                outcome => return Ok(outcome),
            }
        };
        if matches!(code, SESSION_EXPIRED | SESSION_MOVED) {
            self.session.disconnect();
        }
        if REFUSALS.contains(&code) { Ok(Outcome::Failed { code, index }) } else { Err(Lost) }
    }

    /// Adjusts what is believed, and counts.
    fn learn(&mut self, operations: &[Operation], outcome: &Outcome) {
        match outcome {
            Outcome::Ok { .. } => {}
            Outcome::Failed { code, .. } => *self.seen.refused.entry(*code).or_default() += 1,
            Outcome::Unknown => self.seen.unknown += 1,
        }
        for (at, Operation { kind, path }) in operations.iter().enumerate() {
            let result = match outcome {
                Outcome::Ok { results, .. } => Some(results[at].as_str()),
                _ => None,
            };
            match (kind, result) {
                (Kind::Sequential, Some(path)) => self.extras.push_back(path.to_owned()),
                (Kind::Ephemeral, Some(_)) => self.extras.push_back(path.clone()),
                (Kind::Create | Kind::Set | Kind::Delete, _) => {
                    let key = crate::plan::number_of(path.as_bytes());
                    let key = key.and_then(|key| self.keys.get_mut(key as usize));
                    if let Some(belief) = key {
                        *belief = believe(*belief, *kind, result, outcome, at);
                    }
                }
                _ => {}
            }
        }
    }
}

/// What is believed of a node after part `at` of an operation has touched it, or not.
fn believe(
    before: Belief,
    kind: Kind,
    result: Option<&str>,
    outcome: &Outcome,
    at: usize,
) -> Belief {
    match (outcome, result) {
        (Outcome::Ok { .. }, _) if kind == Kind::Delete => Belief::Absent,
        (Outcome::Ok { .. }, Some(version)) => {
            version.parse().map_or(Belief::Unknown, Belief::Present)
        }
        (Outcome::Failed { code: ERROR_NO_NODE, index }, _) if *index == at => Belief::Absent,
        (Outcome::Failed { code: ERROR_NODE_EXISTS, index }, _) if *index == at => match before {
            Belief::Present(version) => Belief::Present(version),
            _ => Belief::Unknown,
        },
        (Outcome::Failed { .. }, _) => before,
        _ => Belief::Unknown,
    }
}

fn opcode(kind: Kind) -> i32 {
    match kind {
        Kind::Create | Kind::Ephemeral | Kind::Sequential => CREATE2,
        Kind::Set => SET_DATA,
        Kind::Delete => DELETE,
        Kind::Check(_) => CHECK,
    }
}

fn body<'a>(frame: Frame<'a>, operation: &Operation, value: &[u8]) -> Frame<'a> {
    let frame = frame.bytes(operation.path.as_bytes());
    match operation.kind {
        Kind::Create => frame.bytes(value).open_acl().int(FLAG_NONE),
        Kind::Ephemeral => frame.bytes(value).open_acl().int(FLAG_EPHEMERAL),
        Kind::Sequential => frame.bytes(value).open_acl().int(FLAG_SEQUENTIAL),
        Kind::Set => frame.bytes(value).int(-1),
        Kind::Delete => frame.int(-1),
        Kind::Check(version) => frame.int(version),
    }
}

fn read_one(operations: &[Operation], zxid: i64, bytes: &[u8]) -> io::Result<Outcome> {
    let mut zxid = zxid;
    let result = read_result(&operations[0], &mut Fields(bytes), &mut zxid)?;
    Ok(Outcome::Ok { zxid, results: vec![result] })
}

fn read_multi(operations: &[Operation], zxid: i64, bytes: &[u8]) -> io::Result<Outcome> {
    let (mut fields, mut zxid, mut results) = (Fields(bytes), zxid, Vec::new());
    for (index, operation) in operations.iter().enumerate() {
        let (kind, _, _) = (fields.int()?, fields.bool()?, fields.int()?);
        if kind != -1 {
            // Apache's server answers a create2 within a multi as a create: without a stat.
            results.push(if kind == CREATE {
                fields.text()?;
                "0".to_owned()
            } else {
                read_result(operation, &mut fields, &mut zxid)?
            });
            continue;
        }
        // Parts before the refused one are told as 0, those after it as "runtime inconsistency".
        let code = fields.int()?;
        if code != 0 {
            return Ok(Outcome::Failed { code, index });
        }
    }
    if results.len() < operations.len() {
        return Err(io::Error::other("a multi that neither failed nor succeeded"));
    }
    Ok(Outcome::Ok { zxid, results })
}

/// The word that the journal keeps of one result; the stat's zxid is the change's own.
fn read_result(
    operation: &Operation,
    fields: &mut Fields<'_>,
    zxid: &mut i64,
) -> io::Result<String> {
    Ok(match operation.kind {
        Kind::Delete | Kind::Check(_) => "-".to_owned(),
        Kind::Set => {
            let stat = fields.stat()?;
            *zxid = stat.modified_zxid;
            stat.version.to_string()
        }
        Kind::Create | Kind::Ephemeral | Kind::Sequential => {
            let path = fields.text()?;
            let stat = fields.stat()?;
            *zxid = stat.modified_zxid;
            match operation.kind {
                Kind::Sequential => path,
                _ => stat.version.to_string(),
            }
        }
    })
}
