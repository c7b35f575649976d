//! The quorum port: where learners connect when this server leads, and the connection to the
//! leader when it does not.
//!
//! ```text
//! ring ─► handle ─► packets ─► poll_event ─► agreement
//! agreement ─► perform, send_snapshot, receive_snapshot, read_log ─► finish_turn ─► ring
//! threads, dialer ─► deliver ─► poll_event
//! ```
//! After each call that goes in, drain [`QuorumPort::poll_event`]; once a turn, after everything
//! else, [`QuorumPort::poll_log_wanted`] and [`QuorumPort::finish_turn`].
//!
//! Cost on the steady path: a proposal is encoded straight into each follower's out buffer, one
//! copy and no allocation; each link has one send for each turn; an ack is decoded where the ring
//! received it.
//!
//! The port listens from the start, so that a learner that was elected before its leader knows of
//! it finds somebody: for [`EARLY_MAX`] its connection waits, as long as Apache's learner would go
//! on trying (`Learner.connectToLeader`), and is closed if this server does not lead by then.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use thiserror::Error;

use crate::io::listener;
use crate::io::ring::{Completion, Token};
use crate::io::wake::Waker;
use crate::log::LogError;
use crate::log::piece::Piece;
use crate::server::peers::dial::Dialer;
use crate::server::peers::link::{Deadlines, End, Link, LogWanted, Phase};
use crate::server::peers::listen::{self, ListenError};
use crate::server::peers::streams::SnapshotReader;
use crate::server::peers::workers::Workers;
use crate::time::Time;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zab::output::{Action, LinkId};
use crate::zxid::Zxid;

mod connecting;
mod observers;
mod receiving;
mod sending;
mod transfers;

#[cfg(test)]
mod tests;

use connecting::Dialing;
use observers::Door;
use transfers::SendJob;

/// How long a learner that is too early waits for this server to lead.
pub const EARLY_MAX: Duration = Duration::from_millis(500);

/// How long a link that is closed waits for the other end to have read everything.
const LINGER: Duration = Duration::from_millis(500);

/// How long accepting pauses when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Below so many queued bytes the log is read for a learner, and pieces of its snapshot are taken:
/// enough to keep the network busy for the time that the next read takes.
pub const QUEUED_LOW_BYTES: usize = 1 << 20;

/// A link with more queued bytes is closed: its learner gets in step faster by beginning again,
/// from the log, than the network takes what is queued.
pub const QUEUED_MAX_BYTES: usize = 64 << 20;

/// A packet of a learner that has not said who it is: FOLLOWERINFO has 52 bytes.
const GREETING_BYTES_MAX: usize = 4 << 10;

/// The largest input buffer that an idle link keeps, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(QUEUED_LOW_BYTES < QUEUED_MAX_BYTES);

/// What is set once.
#[derive(Clone, Debug)]
pub struct QuorumSettings {
    /// Where to listen: see [`listen::addresses`].
    pub listen: Vec<SocketAddr>,
    /// Where to listen for observers while this server follows.
    pub listen_for_observers: Vec<SocketAddr>,
    /// The port at which other servers' hosts serve observers.
    pub observer_port: Option<u16>,
    /// Each other server's quorum addresses.
    pub peers: Vec<(ServerId, Vec<(String, u16)>)>,
    /// The unit of the limits below.
    pub tick: Duration,
    /// Ticks that a learner may take to connect and to say who it is.
    pub init_limit_ticks: u32,
    /// Ticks without progress after which a link is closed.
    pub sync_limit_ticks: u32,
    /// Ticks that a learner tries to reach its leader; 0 for `init_limit_ticks`.
    pub connect_limit_ticks: u32,
    /// Whether sockets have `SO_KEEPALIVE`.
    pub keep_alive: bool,
    /// The largest packet that is taken from a learner, in bytes: a client's largest request, and
    /// who it is.
    pub from_learner_bytes_max: usize,
    /// The largest packet that is taken from the leader, in bytes: the largest transaction.
    pub from_leader_bytes_max: usize,
    /// Connections in total, and from one address.
    pub links_max: usize,
    /// See `links_max`.
    pub links_per_address_max: usize,
}

/// Transactions in order, as they stand in the log.
pub type Txns = Vec<(Zxid, Arc<[u8]>)>;

/// Why a learner cannot be brought into step from the log.
#[derive(Debug, Error)]
pub enum LogUnread {
    /// The learner's history ends with a transaction that this server does not have.
    #[error("the log has no transaction {0}")]
    Foreign(Zxid),
    /// The log does not reach back so far, or cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What has happened. `R` is what a snapshot that was received has become.
#[derive(Debug)]
pub enum PeerEvent<R> {
    /// A learner has connected, and its first packet follows.
    Accepted {
        link: LinkId,
    },
    /// The leader is connected.
    Connected {
        link: LinkId,
        to: ServerId,
    },
    /// The leader cannot be reached.
    ConnectFailed {
        to: ServerId,
    },
    FromLearner {
        link: LinkId,
        message: FromLearner,
    },
    FromLeader {
        link: LinkId,
        message: FromLeader,
    },
    /// The link is gone, and not by `Action::Close`.
    Disconnected {
        link: LinkId,
    },
    /// A snapshot is queued to its last byte, and what it was made of has been let go.
    SnapshotSent {
        link: LinkId,
    },
    /// A snapshot has come and is durable: it takes the place of the tree, also where the link is
    /// gone meanwhile. Nothing more is taken from the link before [`QuorumPort::resume`].
    SnapshotReceived {
        link: LinkId,
        received: R,
    },
    /// A snapshot was not made or not understood, and the link, if it is still there, is of no use.
    /// What one that was to be sent was made of has been let go.
    SnapshotFailed {
        link: LinkId,
        reason: String,
    },
    /// What [`QuorumPort::read_log`] asked for, in order and without a gap; empty where the durable
    /// log ends there. An error is no fault of the link: its learner needs a snapshot.
    LogRead {
        link: LinkId,
        result: Result<Txns, LogUnread>,
    },
}

/// What `mntr` and the admin server say of the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuorumStats {
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub accepted: u64,
    /// Connections that were closed for want of a place, or because this server does not lead.
    pub refused: u64,
    pub connected: u64,
    pub connects_failed: u64,
    /// Links closed because of what they sent.
    pub malformed: u64,
    /// Links closed because of what they did not do in time.
    pub expired: u64,
    /// Links closed because too much was queued.
    pub overfull: u64,
    pub snapshots_sent: u64,
    pub snapshots_received: u64,
    pub snapshots_failed: u64,
    pub log_reads: u64,
}

/// What is said of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub link: LinkId,
    pub peer: SocketAddr,
    pub end: End,
    pub server: Option<ServerId>,
    pub established: Time,
    pub queued_bytes: usize,
    pub packets_received: u64,
    pub packets_sent: u64,
    /// When bytes last came.
    pub received_at: Time,
}

/// What a thread has done.
enum Outcome<R> {
    Sent { link: LinkId, sender: usize, result: Result<(), String> },
    Received { link: LinkId, result: Result<R, String>, reader: SnapshotReader },
    LogRead { link: LinkId, result: Result<Piece, LogUnread> },
}

/// What the ring is told at the end of a turn.
enum Command {
    Listen(Token, OwnedFd),
    ResumeAccept(Token),
    Attach(Token, OwnedFd),
    Pause(Token),
    Resume(Token),
    Close(Token),
}

/// See the module.
pub struct QuorumPort<R> {
    settings: QuorumSettings,
    deadlines: Deadlines,
    listeners: Vec<(Token, SocketAddr)>,
    is_accepting: bool,
    door: Door,
    accept_paused_until: Option<Time>,
    /// Learners that connected before this server led.
    early: VecDeque<(Time, SocketAddr, OwnedFd)>,
    links: BTreeMap<LinkId, Box<Link>>,
    link_next: u64,
    dialer: Dialer,
    dialing: Option<Dialing>,
    workers: Workers,
    outcomes: Receiver<Outcome<R>>,
    to_core: Sender<Outcome<R>>,
    waker: Waker,
    /// Snapshots that wait for a sender.
    send_jobs: VecDeque<SendJob>,
    events: VecDeque<PeerEvent<R>>,
    commands: Vec<Command>,
    dirty: Vec<LinkId>,
    now: Time,
    stats: QuorumStats,
}

/// The tokens of this port have these two bits on top of their low half: a client's connection
/// has the number of its slot there, which is never that high, and the clients' listener all ones.
const TOKENS: u64 = 0x8000_0000;
const TOKENS_MASK: u64 = 0xC000_0000;

/// The token of a link or listener with this number.
fn token(number: u64) -> Token {
    Token((number >> 30) << 32 | TOKENS | (number & !TOKENS_MASK & 0xFFFF_FFFF))
}

/// The number of a token of this port.
fn number(token: Token) -> Option<u64> {
    let low = token.0 & 0xFFFF_FFFF;
    (low & TOKENS_MASK == TOKENS).then_some((token.0 >> 32) << 30 | (low & !TOKENS_MASK))
}

impl<R: Send + 'static> QuorumPort<R> {
    /// Opens the port and starts its threads. Call it on the server's first thread; `waker` is
    /// that of the ring that the port will live on.
    ///
    /// # Errors
    /// An address is taken, or is none of this host.
    pub fn open(settings: QuorumSettings, waker: Waker) -> Result<QuorumPort<R>, ListenError> {
        let keep_alive = settings.keep_alive.then_some(KEEP_ALIVE);
        let mut listeners = Vec::new();
        let mut commands = Vec::new();
        let mut link_next = 0;
        for address in &settings.listen {
            let socket = listen::open(*address, keep_alive)?;
            let bound = listener::local_address(&socket).unwrap_or(*address);
            warn_of_exposure(bound);
            listeners.push((token(link_next), bound));
            commands.push(Command::Listen(token(link_next), socket));
            link_next += 1;
        }
        let workers = Workers::start().map_err(ListenError::Threads)?;
        let (to_core, outcomes) = channel();
        let sync_limit = settings.tick * settings.sync_limit_ticks.max(1);
        let init_limit = settings.tick * settings.init_limit_ticks.max(1);
        let deadlines = Deadlines {
            greeting: init_limit.min(GREETING_MAX),
            packet: sync_limit,
            send: sync_limit,
        };
        Ok(QuorumPort {
            settings,
            deadlines,
            listeners,
            is_accepting: false,
            door: Door::default(),
            accept_paused_until: None,
            early: VecDeque::new(),
            links: BTreeMap::new(),
            link_next,
            dialer: Dialer::new(waker.clone()),
            dialing: None,
            workers,
            outcomes,
            to_core,
            waker,
            send_jobs: VecDeque::new(),
            events: VecDeque::new(),
            commands,
            dirty: Vec::new(),
            now: Time::default(),
            stats: QuorumStats::default(),
        })
    }

    /// The ensemble has other members, with these quorum addresses.
    pub fn handle_members(&mut self, peers: Vec<(ServerId, Vec<(String, u16)>)>) {
        self.settings.peers = peers;
    }

    /// Whether a completion is for this port.
    pub fn owns(&self, completion: &Completion<'_>) -> bool {
        match completion {
            Completion::Accepted { listener: token, .. }
            | Completion::AcceptFailed { listener: token, .. }
            | Completion::Received { token, .. }
            | Completion::Closed { token, .. }
            | Completion::Sent { token, .. }
            | Completion::SendFailed { token, .. } => number(*token).is_some(),
            Completion::Written { .. } | Completion::Synced { .. } | Completion::Woken => false,
        }
    }

    /// Where the port listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address)
    }

    /// What has happened next, in order.
    pub fn poll_event(&mut self) -> Option<PeerEvent<R>> {
        self.events.pop_front()
    }

    /// Performs what agreement asks for of this port. What is not for the port, or needs more than
    /// it has, is given back: `SendSnapshot` ([`QuorumPort::send_snapshot`]) and
    /// `ReceiveSnapshot` ([`QuorumPort::receive_snapshot`]) among them.
    pub fn perform(&mut self, action: Action, now: Time) -> Option<Action> {
        self.now = now;
        match action {
            Action::Connect { to } => self.connect(to, false),
            Action::ConnectMaster { to } => self.connect(to, true),
            Action::Accept(is_accepting) => self.set_accepting(is_accepting),
            Action::AcceptObservers(is_accepting) => self.set_accepting_observers(is_accepting),
            Action::ToLeader { link, message } => self.send_to_leader(link, &message),
            Action::ToLearner { link, message } => self.send_to_learner(link, &message),
            Action::Close { link } => self.close(link),
            Action::ReadLog { link, after, bytes } => {
                if let Some(it) = self.links.get_mut(&link) {
                    it.log_wanted = Some(LogWanted { link, after, bytes });
                }
            }
            other => return Some(other),
        }
        None
    }

    /// Takes a completion that [`QuorumPort::owns`].
    pub fn handle(&mut self, completion: Completion<'_>, now: Time) {
        self.now = now;
        match completion {
            Completion::Accepted { listener, socket, .. } => self.accept(listener, socket),
            Completion::AcceptFailed { error, .. } => {
                tracing::warn!("the quorum port pauses accepting connections: {error}");
                self.accept_paused_until = Some(now + ACCEPT_PAUSE);
            }
            Completion::Received { token, bytes } => self.receive(link_id(token), bytes),
            Completion::Closed { token, error } => {
                let reason = error.map_or("it was closed".to_owned(), |it| it.to_string());
                self.lose(link_id(token), &reason);
            }
            Completion::SendFailed { token, error } => {
                self.lose(link_id(token), &error.to_string());
            }
            Completion::Sent { token, buffer } => self.sent(link_id(token), buffer),
            Completion::Written { .. } | Completion::Synced { .. } | Completion::Woken => {}
        }
    }

    /// Takes what threads have done. Call it once a turn.
    pub fn deliver(&mut self, now: Time) {
        self.now = now;
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.take_outcome(outcome);
        }
        while let Some(dialed) = self.dialer.poll() {
            self.dialed(dialed);
        }
        self.move_streams();
    }

    /// When [`QuorumPort::handle_timeout`] is due, or an event waits: a core waits no longer.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.events.is_empty() {
            // Something said it at the end of a turn: nobody waits before it is heard.
            return Some(Time::default());
        }
        let links = self.links.values().filter_map(|it| it.deadline(&self.deadlines));
        let links = links.map(|(due, _)| due).min();
        let early = self.early.front().map(|(due, ..)| *due);
        let dialing = self.dialing.as_ref().and_then(|it| it.retry_at);
        [links, early, dialing, self.accept_paused_until, self.door.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        if self.accept_paused_until.is_some_and(|until| until <= now) {
            self.accept_paused_until = None;
            let resume = |(token, _): &(Token, SocketAddr)| Command::ResumeAccept(*token);
            self.commands.extend(self.listeners.iter().chain(self.door.open()).map(resume));
        }
        while let Some((_, peer, _)) = self.early.pop_front_if(|(due, ..)| *due <= now) {
            self.stats.refused += 1;
            tracing::info!("{peer} is sent away from the quorum port: this server does not lead");
        }
        self.redial();
        self.retry_door();
        let due = |it: &Link| it.deadline(&self.deadlines).filter(|(due, _)| *due <= now);
        let late = self.links.values().filter_map(|it| Some((it.id, due(it)?.1)));
        let late: Vec<(LinkId, &str)> = late.collect();
        for (link, reason) in late {
            if !self.links.get(&link).is_some_and(|it| it.is_leaving()) {
                self.stats.expired += 1;
                self.warn(link, reason);
            }
            self.lose(link, reason);
        }
    }

    /// The figures of the port.
    pub fn stats(&self) -> QuorumStats {
        self.stats
    }

    /// What is said of each link, in the order of their making.
    pub fn links(&self) -> impl Iterator<Item = LinkInfo> {
        self.links.values().map(|it| LinkInfo {
            link: it.id,
            peer: it.peer,
            end: it.end,
            server: it.server,
            established: it.established,
            queued_bytes: it.queued_bytes(),
            packets_received: it.packets_received,
            packets_sent: it.packets_sent,
            received_at: it.received_at,
        })
    }

    /// Bytes that wait to be sent on a link; 0 when it is gone.
    pub fn queued_bytes(&self, link: LinkId) -> usize {
        self.links.get(&link).map_or(0, |it| it.queued_bytes())
    }

    /// Closes the port and, once what is queued is sent, every link: the server stops.
    pub fn stop(&mut self, now: Time) {
        self.now = now;
        self.set_accepting(false);
        self.set_accepting_observers(false);
        self.dialing = None;
        for (token, _) in std::mem::take(&mut self.listeners) {
            self.commands.push(Command::Close(token));
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.close(link));
    }

    /// Whether everything that was queued has been sent.
    pub fn is_finished(&self) -> bool {
        self.links.values().all(|it| it.queued_bytes() == 0)
    }

    /// Says why a link is closed.
    fn warn(&self, link: LinkId, reason: &str) {
        let Some(it) = self.links.get(&link) else {
            return;
        };
        let peer = it.peer;
        match (it.end, it.server) {
            (End::Leader, Some(server)) => {
                tracing::warn!("the link to leader {server} at {peer} is closed: {reason}");
            }
            (_, Some(server)) => {
                tracing::warn!("the link of learner {server} at {peer} is closed: {reason}");
            }
            (_, None) => tracing::warn!("the quorum port closes {peer}: {reason}"),
        }
    }

    /// Ends a link at once. The core hears of it, unless it has given the link up or never knew it.
    fn lose(&mut self, link: LinkId, reason: &str) {
        let Some(it) = self.links.remove(&link) else {
            return;
        };
        tracing::debug!("link {} with {}: {reason}", link.0, it.peer);
        self.commands.push(Command::Close(it.token));
        if it.is_announced() {
            self.events.push_back(PeerEvent::Disconnected { link });
        }
        self.forget_send_job(link);
    }

    /// Sends what is queued, then ends the link. The core hears no more of it.
    fn close(&mut self, link: LinkId) {
        let Some(it) = self.links.get_mut(&link) else {
            return;
        };
        if it.is_leaving() {
            return;
        }
        // A part of a snapshot is of no use, nor is what was to follow it.
        if it.sending.take().is_some() {
            it.out.clear();
        }
        it.held = Vec::new();
        it.input = Vec::new();
        it.partial_since = None;
        it.log_wanted = None;
        it.phase = Phase::Draining;
        if std::mem::take(&mut it.paused) {
            self.commands.push(Command::Resume(it.token));
        }
        self.forget_send_job(link);
        self.mark_dirty(link);
    }
}

/// The time without a sign of life after which the kernel probes the other end.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a learner may take for its first packet, however long `initLimit` is.
const GREETING_MAX: Duration = Duration::from_secs(10);

/// The link that a token of this port stands for.
fn link_id(token: Token) -> LinkId {
    LinkId(number(token).expect("the caller asked whose it is"))
}

/// Tells the operator that whoever reaches the port is believed.
fn warn_of_exposure(address: SocketAddr) {
    if is_exposed(address) {
        tracing::warn!(
            "the quorum port {address} has neither TLS nor authentication: whoever reaches it can \
             read and change all data; let only the servers of the ensemble reach it"
        );
    }
}

/// Whether other hosts may reach an address.
fn is_exposed(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}
