//! From a request to a transaction to a reply: the writer's side of the server, as a plain value.
//!
//! ```text
//! handle_connect / handle_request / handle_timeout
//!     └─ check and apply at the next zxid (prepare)
//!          ├─ transaction bytes ──► take_txns ──► the log (and, in an ensemble, the followers)
//!          └─ reply and events, held back until …
//! handle_appended(through)      everything prepared so far travels in one group
//! handle_committed(through) ──► poll_published: the groups that are committed, and nothing else
//! ```
//!
//! In an ensemble only the leader prepares. A learner passes its clients' writes on, and gets their
//! replies ready when it applies the transactions that come back:
//!
//! ```text
//! handle_write ──► poll_to_leader ──► the leader: handle_forwarded ──► take_txns
//!                  handle_proposal ◄── its proposal, also of other servers' clients
//! ```
//! Which of the two it is, or neither, is said by [`Pipeline::handle_role`]; what its clients asked
//! outlives a change of leader, and is never done twice.
//!
//! Nothing but [`Pipeline::handle_committed`] lets a reply out, so "durable before acknowledged"
//! cannot be forgotten. After each call that goes in, the caller drains [`Pipeline::take_txns`],
//! [`Pipeline::poll_notice`], and in an ensemble `poll_to_leader`, `poll_to_learner` and
//! `poll_confirm`.
//!
//! Cost of a set of 100 bytes, as sketched before it was measured: decoding 50 ns, two lookups
//! 200 ns, the new record 150 ns, two CRCs for the digest 60 ns, encoding transaction and reply
//! 80 ns.

pub mod auth;
pub mod session;

pub mod at_rest;

pub mod prepare;
pub mod read;

mod reaper;
mod write;

pub mod publish;

mod emptied;

mod attached;

pub mod forward;

pub mod follow;

pub mod lead;

mod local;

mod read_only;

pub mod reconfig;

pub mod role;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::pipeline::attached::Attached;
use crate::pipeline::auth::AuthConfig;
use crate::pipeline::emptied::Emptied;
use crate::pipeline::forward::Waiting;
use crate::pipeline::lead::Leadership;
use crate::pipeline::local::Locals;
use crate::pipeline::publish::Group;
use crate::pipeline::read_only::ReadOnly;
use crate::pipeline::reaper::Reaper;
use crate::pipeline::reconfig::MembersNow;
use crate::pipeline::role::Part;
use crate::pipeline::session::Sessions;
use crate::time::{Time, WallMs};
use crate::tree::Tree;
use crate::tree::effects::Event;
use crate::tree::writer::Writer;
use crate::wire::acl::Id;
use crate::wire::opcode::OpCode;
use crate::zxid::Zxid;

/// The rules of this server, from its configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TTL nodes exist (`extendedTypesEnabled`).
    pub extended_types: bool,
    /// Quotas of the hard kind are enforced (`enforceQuota`).
    pub enforce_quota: bool,
    /// Nobody needs a permission (`skipACL`).
    pub skip_acl: bool,
    /// A transaction carries the digest of the tree after it (`digest.enabled`).
    pub digest: bool,
    /// A session's end lists the nodes that go with it (`closeSessionTxn.enabled`).
    pub close_session_txn: bool,
    /// How long a transaction may become, in bytes: what a peer takes in one piece.
    pub txn_bytes_max: usize,
    /// Whether the ensemble's members may be changed (`reconfigEnabled`).
    pub reconfig: bool,
    /// An ensemble keeps two voters at least (`standaloneEnabled`).
    pub standalone_enabled: bool,
    /// The bounds of a session's timeout, in milliseconds.
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    /// The ways to authenticate.
    pub auth: AuthConfig,
    /// How often containers and TTL nodes are looked through, in milliseconds.
    pub container_check_interval_ms: u64,
    /// The most of them that are deleted in a minute.
    pub containers_per_minute_max: u64,
    /// How long a container may stand without ever having had a child, in milliseconds; 0: ever.
    pub container_never_used_ms_max: u64,
    /// What a member of an ensemble does for clients besides.
    pub modes: Modes,
}

/// What a member of an ensemble does for clients besides; a server on its own does none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// New sessions are known to this server only (`localSessionsEnabled`).
    pub local_sessions: bool,
    /// They become known to all with their first ephemeral node (`localSessionsUpgradingEnabled`).
    pub local_sessions_upgrading: bool,
    /// Reads are served without a leader too (`readonlymode.enabled`).
    pub read_only: bool,
    /// A leader serves clients (`leaderServes`).
    pub leader_serves: bool,
}

impl Default for Modes {
    fn default() -> Modes {
        Modes {
            local_sessions: false,
            local_sessions_upgrading: false,
            read_only: false,
            leader_serves: true,
        }
    }
}

/// A client's connection: the core that has it, and that core's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    pub core: u16,
    pub connection: u64,
}

/// A connection asks for a session, or for its old one.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    pub client: Client,
    pub timeout_ms: i32,
    /// 0 for a new session.
    pub session: i64,
    /// What the client claims to be the session's; `None` when it is not even 16 bytes long.
    pub password: Option<[u8; 16]>,
    /// Whether the client takes a server that is read-only; `None` where it does not say, and its
    /// reply has no byte that says so either.
    pub read_only: Option<bool>,
}

/// A write, a sync, or the end of a session, as a client's core passes it on.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    pub client: Client,
    pub session: i64,
    pub xid: i32,
    pub op: OpCode,
    pub body: &'a [u8],
    /// What the connection had shown of itself when it sent the request.
    pub ids: &'a [Id],
}

/// Whether the log takes another transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Any.
    Plenty,
    /// Only the beginnings and ends of sessions: what is left is kept for them.
    SessionsOnly,
    /// None.
    Full,
}

/// What becomes of a connection along with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on.
    Serve,
    /// Its session is set up, with this timeout in milliseconds.
    Begin { session: i64, timeout_ms: i32 },
    /// The same, until there is a leader, for reads only.
    BeginReadOnly { session: i64, timeout_ms: i32 },
    /// It ends as soon as the reply is sent.
    Close,
}

/// One reply in an [`Outbox`].
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub connection: u64,
    /// The request's xid.
    pub xid: i32,
    /// The version at which it was true: everything up to here is told before it.
    pub zxid: Zxid,
    /// Its end in the outbox's bytes; it begins where the one before it ends.
    pub end: usize,
    pub then: Then,
    /// Whether it answers a request, or sets up a session.
    pub answers: bool,
}

/// Replies to the connections of one core, in the order of their zxids.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    pub bytes: Vec<u8>,
    pub replies: Vec<Reply>,
}

impl Outbox {
    /// Forgets what is in it, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.replies.clear();
    }
}

/// Transactions that were committed together, with all that they caused.
#[derive(Debug)]
pub struct Published {
    /// The version that readers may move to.
    pub through: Zxid,
    /// By client core.
    pub outboxes: Vec<Outbox>,
    /// What watchers are told, in the order of their zxids.
    pub events: Arc<Vec<Event>>,
}

/// What a client's core is told at once, without waiting for the disk.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The answer to a connect request that made no transaction: a session found, or refused.
    Connected { client: Client, frame: Vec<u8>, then: Then },
    /// The connection ends, unanswered: its session has moved, or there is no room, or nobody
    /// knows what became of its requests.
    Close { client: Client },
    /// A leader's state has replaced everything: the core serves this tree from here on, at this
    /// version, which may be an older one, and all its clients' connections end.
    Replaced { core: u16, tree: Arc<Tree>, version: Zxid },
}

impl Notice {
    /// The core that it is for.
    pub fn core(&self) -> u16 {
        match self {
            Notice::Connected { client, .. } | Notice::Close { client } => client.core,
            Notice::Replaced { core, .. } => *core,
        }
    }
}

/// Transactions encoded and not yet taken by the log.
#[derive(Debug, Default)]
pub struct Txns {
    bytes: Vec<u8>,
    /// The zxid of each, and where it ends.
    ends: Vec<(Zxid, usize)>,
}

impl Txns {
    /// Each transaction with its zxid, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Zxid, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).map(|(start, &(zxid, end))| (zxid, &self.bytes[start..end]))
    }

    /// Forgets those after `zxid`.
    fn pop_above(&mut self, zxid: Zxid) {
        self.ends.truncate(self.ends.partition_point(|(of, _)| *of <= zxid));
        self.bytes.truncate(self.ends.last().map_or(0, |(_, end)| *end));
    }

    /// Forgets them, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// How many transactions lie between two digests that are kept (`DataTree.java`).
const DIGEST_INTERVAL: u32 = 128;

/// How many digests are kept.
const DIGESTS_MAX: usize = 1024;

/// Counters for `mntr`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PipelineStats {
    pub txns: u64,
    pub errors: u64,
    pub refused_no_room: u64,
    pub sessions_expired: u64,
    pub connections_revalidated: u64,
    /// Requests of this server's clients that were passed on to a leader.
    pub forwarded: u64,
    /// Connections closed because no leader was heard of for too long, or because nobody knows
    /// what became of their requests.
    pub connections_given_up: u64,
}

/// The writer's side of the server.
pub struct Pipeline {
    writer: Writer,
    sessions: Sessions,
    /// The sessions that only this server knows.
    locals: Locals,
    settings: Settings,
    reaper: Reaper,
    part: Part,
    /// The zxid of the last transaction, on a leader and on a learner.
    prepared: Zxid,
    /// The start of the epoch that this server leads: no transaction, but the next is after it.
    epoch_start: Zxid,
    committed: Zxid,
    /// The version that readers were told last.
    published: Zxid,
    room: Room,
    txns: Txns,
    outboxes: Vec<Outbox>,
    events: Vec<Event>,
    /// Groups on their way to being committed, oldest first.
    sealed: VecDeque<Group>,
    emptied: Emptied,
    notices: VecDeque<Notice>,
    /// The connections of this server's clients.
    attached: Attached,
    /// What its clients wait for, from a leader or from a quorum.
    waiting: Waiting,
    leadership: Leadership,
    read_only: ReadOnly,
    /// What a request for other members is checked against.
    members: Option<MembersNow>,
    /// When a leader, or a quorum, was last heard of.
    led: Time,
    /// Since when there has been no leader.
    looking: Time,
    /// The tree's digest now and then, oldest first.
    digests: VecDeque<(Zxid, u64)>,
    /// The digest after each transaction that is not committed, oldest first.
    uncommitted_digests: VecDeque<(Zxid, u64)>,
    /// The digest of what is committed, where it is known.
    committed_digest: Option<u64>,
    /// A reply in the making that goes to nobody here, or not at once.
    scratch: Vec<u8>,
    rewinds: u64,
    stats: PipelineStats,
}

impl Pipeline {
    /// A pipeline over the recovered tree and sessions, for `client_cores` cores.
    pub fn new(
        mut writer: Writer,
        sessions: Sessions,
        settings: Settings,
        client_cores: usize,
        now: Time,
    ) -> Pipeline {
        writer.set_watched(true);
        let prepared = writer.last_zxid();
        Pipeline {
            reaper: Reaper::new(&settings, now),
            locals: Locals::new(sessions.tick_ms()),
            writer,
            sessions,
            settings,
            part: Part::Alone,
            prepared,
            epoch_start: Zxid::ZERO,
            committed: prepared,
            published: prepared,
            room: Room::Plenty,
            txns: Txns::default(),
            outboxes: vec![Outbox::default(); client_cores],
            events: Vec::new(),
            sealed: VecDeque::new(),
            emptied: Emptied::default(),
            notices: VecDeque::new(),
            attached: Attached::default(),
            waiting: Waiting::default(),
            leadership: Leadership::default(),
            read_only: ReadOnly::default(),
            members: None,
            led: now,
            looking: now,
            digests: VecDeque::new(),
            uncommitted_digests: VecDeque::new(),
            committed_digest: None,
            scratch: Vec::new(),
            rewinds: 0,
            stats: PipelineStats::default(),
        }
    }

    /// The tree's writer, to be asked.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The sessions, to be asked.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What was counted.
    pub fn stats(&self) -> PipelineStats {
        self.stats
    }

    /// The tree's digest after every [`DIGEST_INTERVAL`]th transaction, oldest first.
    pub fn digests(&self) -> impl Iterator<Item = (Zxid, u64)> {
        self.digests.iter().copied()
    }

    /// How often transactions were taken back, or everything was replaced.
    pub fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// The zxid of the last transaction that was prepared here, or applied as a learner.
    pub fn prepared(&self) -> Zxid {
        self.prepared
    }

    /// The pipeline of a member of an ensemble, whose log goes further than what is known to be
    /// committed.
    pub fn set_committed(&mut self, committed: Zxid) {
        assert!(committed <= self.prepared, "what is committed is in the log");
        assert!(self.published == self.prepared, "nothing has happened so far");
        (self.committed, self.published) = (committed, committed);
        let digest = self.writer.digest();
        if committed == self.prepared {
            self.committed_digest = Some(digest);
        } else {
            self.uncommitted_digests.push_back((self.prepared, digest));
        }
    }

    /// The digest of the tree at [`Pipeline::committed`], in an ensemble and where it is known.
    pub fn committed_digest(&self) -> Option<u64> {
        self.committed_digest
    }

    /// How far everything is committed.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// Says how much the log still takes; holds until it is said again.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// The transactions prepared since the last call of [`Txns::clear`]: the caller hands them to
    /// the log, in order, and clears them.
    pub fn take_txns(&mut self) -> &mut Txns {
        &mut self.txns
    }

    /// The oldest message that waits for no commit.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Gives up records that no reader at or after `oldest_reader` and no snapshot at one of
    /// `snapshots` needs. Its work is bounded: whether there is more.
    pub fn reclaim(&mut self, oldest_reader: Zxid, snapshots: &[Zxid]) -> bool {
        self.writer.reclaim(oldest_reader.min(self.committed), snapshots)
    }

    /// When [`Pipeline::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let is_preparing = self.part.is_preparing();
        let expiry = is_preparing.then(|| self.sessions.poll_timeout()).flatten();
        let reaping = is_preparing.then(|| self.reaper.due());
        let local = self.locals.poll_timeout();
        [expiry, reaping, local, self.poll_role_timeout()].into_iter().flatten().min()
    }

    /// Where this server prepares transactions: ends sessions that were not heard of for too long,
    /// and deletes containers and TTL nodes that have had their time. In an ensemble: closes the
    /// connections of clients that must learn in time that nobody keeps their sessions alive.
    pub fn handle_timeout(&mut self, now: Time, wall: WallMs) {
        self.writer.set_now(now);
        self.handle_role_timeout(now, wall);
        self.expire_locals(now);
        if !self.part.is_preparing() {
            return;
        }
        if self.room != Room::Full {
            for session in self.sessions.poll_expired(now) {
                self.stats.sessions_expired += 1;
                if !self.end_session(session, 0, None, wall) {
                    self.sessions.handle_close_refused(session, now);
                }
            }
        }
        if self.room == Room::Plenty && self.reaper.due() <= now {
            for path in self.reaper.candidates(now, &self.writer, &self.settings) {
                self.reap(&path, wall);
            }
        }
    }

    /// A session was heard of, by a connection of this server.
    pub fn handle_touch(&mut self, now: Time, session: i64) {
        self.locals.touch(session, now);
        match self.part.is_preparing() {
            true => {
                self.sessions.touch(session, now);
            }
            false => self.attached.touch(session),
        }
    }

    /// A connection that had asked for a session is gone: nothing is heard of it any more.
    pub fn handle_closed(&mut self, client: Client) {
        self.read_only.forget(client);
        match self.attached.remove(client) {
            Some(session) => self.forget(session, client, true),
            None => self.waiting.forget_connect(client),
        }
    }

    /// Ends a connection without an answer. What it has sent and nobody has prepared is not done;
    /// what it still sends is not taken.
    fn close(&mut self, client: Client) {
        self.read_only.forget(client);
        self.notices.push_back(Notice::Close { client });
        match self.attached.cut(client) {
            Some(session) => self.forget(session, client, false),
            None => self.waiting.forget_connect(client),
        }
    }

    /// Drops what a connection waits for, and lets out what another one waited for behind it.
    fn forget(&mut self, session: i64, client: Client, keeps_close: bool) {
        self.waiting.forget_unsent(session, client, keeps_close);
        self.keep_local(session);
        self.release_done(session);
    }
}
