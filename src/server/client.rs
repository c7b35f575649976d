//! A client core: the connections that it owns, their reads and watches, and the version it serves.
//!
//! ```text
//! ring ─► handle (completion) ─► frames ─┬─ reads, pings: answered here, at this core's version
//!                                        └─ writes ─► batch ─► pipeline
//! pipeline ─► deliver ─► events, then replies, zxid by zxid; the version moves along with them
//! finish_turn ─► one send per connection, one batch to the pipeline
//! ```
//!
//! The version moves only here, together with the replies and events up to it: so a session never
//! sees time run backward, and an event comes before any reply that shows what it announces.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::io::ring::{Completion, Ring, Token};
use crate::pipeline::auth::AuthConfig;
use crate::server::admission::{Admission, Refusal};
use crate::server::connection::{Connection, Front, Pending, Phase, front};
use crate::server::four_letter::Words;
use crate::server::mesh::{Receiver, Sender};
use crate::server::message::{Emptied, Item, ToClients, ToPipeline};
use crate::server::report::ClientStats;
use crate::server::slots::Slots;
use crate::server::stages::{Stage, Stages};
use crate::server::word::Gathering;
use crate::time::{Time, WallMs};
use crate::tree::Tree;
use crate::tree::watch::{Watcher, Watches};
use crate::zxid::Zxid;

/// The bounds within which connections are served.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame that is read (`jute.maxbuffer`).
    pub frame_bytes_max: usize,
    /// Requests of one connection that may wait for their replies.
    pub in_flight_max: usize,
    /// Bytes that may wait to be sent before the connection is dropped: its client does not read.
    pub out_bytes_max: usize,
    /// How long a send may take before the connection is dropped.
    pub send_timeout: Duration,
    /// How long a connection may take to say what it wants.
    pub greeting_timeout: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_timeout: Duration,
    /// How often the pipeline hears which sessions are alive.
    pub touch_interval: Duration,
    /// How soon a connection that waits for others' requests to end is looked at again.
    pub stall_interval: Duration,
    pub skip_acl: bool,
    /// A client must have shown one of these before its first request; empty for none.
    pub enforced_schemes: Vec<String>,
}

/// What a client core is told of the configuration.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub limits: Limits,
    pub auth: AuthConfig,
    /// The four-letter words that are answered.
    pub words: Words,
    /// Keys the hashes of watched paths.
    pub watch_seed: u64,
}

/// What a client core tells its ring at the end of a turn.
#[derive(Debug)]
pub(super) enum Command {
    Attach(Token, OwnedFd),
    Close(Token),
    Pause(Token),
    Resume(Token),
}

/// How a client core is connected to the rest of the server.
pub struct Links {
    pub to_pipeline: Sender<ToPipeline>,
    pub from_pipeline: Receiver<ToClients>,
    /// The version that this core serves, for the pipeline to see what it may reclaim.
    pub version: Arc<AtomicI64>,
}

/// A client core.
pub struct ClientCore {
    pub(super) number: u16,
    pub(super) tree: Arc<Tree>,
    pub(super) version: Zxid,
    /// The start of the epoch that the server serves in: no version of the tree.
    pub(super) begun: Zxid,
    pub(super) links: Links,
    pub(super) limits: Limits,
    pub(super) auth: AuthConfig,
    pub(super) admission: Arc<Admission>,
    /// Requests under way on all connections of this core, and on those of the others.
    pub(super) in_flight: usize,
    in_flight_elsewhere: usize,
    pub(super) connections: Slots<Connection>,
    pub(super) watches: Watches,
    watch_seed: u64,
    pub(super) batch: ToPipeline,
    /// What is left of an earlier batch, for the next one.
    pub(super) emptied: Emptied,
    pub(super) commands: Vec<Command>,
    /// Connections with something to send.
    pub(super) dirty: Vec<Token>,
    /// Connections with an event to send and nothing else, in the order in which they are served.
    pub(super) told: VecDeque<Token>,
    /// Connections whose sessions were heard of since the pipeline was last told.
    pub(super) touched: Vec<Token>,
    pub(super) touch_due: Time,
    /// Connections that may have to wait no longer than until then for their first frame.
    pub(super) greetings: VecDeque<(Time, Token)>,
    /// Partial frames, by their number on the connection, and when they must be whole.
    pub(super) partials: VecDeque<(Time, Token, u64)>,
    /// Connections that hold whole frames back until the pipeline takes batches again.
    pub(super) stalled: Vec<Token>,
    pub(super) sweep_due: Time,
    pub(super) scratch: Vec<u8>,
    pub(super) fired: Vec<Watcher>,
    pub(super) now: Time,
    pub(super) wall: WallMs,
    pub(super) stats: ClientStats,
    pub(super) stages: Stages,
    pub(super) words: Words,
    /// Answers that are being gathered.
    pub(super) gathering: VecDeque<Gathering>,
    /// Where clients are taken from now on, until the ring has it.
    pub(super) moved_to: Option<OwnedFd>,
    pub(super) stopping: bool,
    /// Whether what waits for the pipeline will be answered before the server stops.
    pub(super) answers_come: bool,
}

/// Bytes that may wait to be sent on a connection before no more requests are taken from it: so
/// that a client that asks faster than it reads is held back, and only events can pile up.
const OUT_BYTES_HIGH: usize = 1 << 20;

/// Connections that are told of events in one turn: some half a millisecond, for which the others'
/// requests wait.
const TOLD_MAX: usize = 128;

/// Whether a connection is done for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The next frame may be taken.
    Next,
    /// No frame is taken until something has happened; the connection is told when.
    Hold,
    /// The connection is gone.
    Gone,
}

impl ClientCore {
    /// A core that serves `tree` at `version`, and nobody so far.
    pub fn new(
        number: u16,
        tree: Arc<Tree>,
        version: Zxid,
        links: Links,
        config: ClientConfig,
        admission: Arc<Admission>,
    ) -> ClientCore {
        let ClientConfig { limits, auth, words, watch_seed } = config;
        ClientCore {
            number,
            tree,
            version,
            begun: Zxid::ZERO,
            links,
            limits,
            auth,
            admission,
            in_flight: 0,
            in_flight_elsewhere: 0,
            connections: Slots::default(),
            watches: Watches::new(watch_seed),
            watch_seed,
            batch: ToPipeline::default(),
            emptied: Emptied::default(),
            commands: Vec::new(),
            dirty: Vec::new(),
            told: VecDeque::new(),
            touched: Vec::new(),
            touch_due: Time::default(),
            greetings: VecDeque::new(),
            partials: VecDeque::new(),
            stalled: Vec::new(),
            sweep_due: Time::default(),
            scratch: Vec::new(),
            fired: Vec::new(),
            now: Time::default(),
            wall: WallMs::default(),
            stats: ClientStats::default(),
            stages: Stages::new(),
            words,
            gathering: VecDeque::new(),
            moved_to: None,
            stopping: false,
            answers_come: true,
        }
    }

    /// Takes what the ring has for this core. Completions of other roles' are given back.
    pub fn handle(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { socket, .. } => self.accept(socket),
            Completion::Received { token, bytes } => self.receive(token, bytes),
            Completion::Closed { token, error: None } if self.is_asked(token) => {}
            Completion::Closed { token, .. } | Completion::SendFailed { token, .. } => {
                self.close(token, "the client closed it");
            }
            Completion::Sent { token, buffer } => self.sent(token, buffer),
            Completion::AcceptFailed { error, .. } => {
                self.stats.accepts_failed += 1;
                tracing::warn!("accepting connections pauses: {error}");
            }
            Completion::Written { .. } | Completion::Synced { .. } | Completion::Woken => {}
        }
    }

    fn accept(&mut self, socket: std::os::fd::OwnedFd) {
        // A connection that is gone already has no peer, and needs no place.
        let Ok(peer) = crate::io::listener::peer_address(&socket) else {
            return;
        };
        if self.stopping {
            return;
        }
        if let Err(refusal) = self.admission.enter(peer.ip()) {
            self.refuse(peer, refusal);
            return;
        }
        if let Err(error) = crate::io::listener::tune(&socket, true, None) {
            tracing::debug!("{peer}: {error}");
        }
        let now = self.now;
        let token = self.connections.insert(|token| Connection::new(token, peer, now));
        self.greetings.push_back((now + self.limits.greeting_timeout, token));
        self.stats.connections_accepted += 1;
        self.commands.push(Command::Attach(token, socket));
    }

    fn refuse(&mut self, peer: SocketAddr, refusal: Refusal) {
        self.stats.connections_rejected += 1;
        match refusal {
            Refusal::PerAddress => tracing::warn!(
                "{peer} is refused: its address has maxClientCnxns connections already"
            ),
            Refusal::Total => {
                tracing::warn!(
                    "{peer} is refused: there are as many connections as there may be (maxCnxns)"
                );
            }
        }
    }

    fn receive(&mut self, token: Token, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if connection.input.is_empty() {
            let taken = self.take_frames(token, bytes);
            let Some(connection) = self.connections.get_mut(token) else {
                return;
            };
            if taken < bytes.len() {
                connection.input.extend_from_slice(&bytes[taken..]);
                self.watch_partial(token);
            }
        } else {
            connection.input.extend_from_slice(bytes);
            self.resume_input(token);
        }
    }

    /// Takes whole frames from what the connection has received and not been asked for.
    pub(super) fn resume_input(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let mut input = std::mem::take(&mut connection.input);
        let taken = self.take_frames(token, &input);
        if let Some(connection) = self.connections.get_mut(token) {
            input.drain(..taken);
            if input.is_empty() && input.capacity() > super::KEPT_BYTES_MAX {
                input = Vec::new();
            }
            connection.input = input;
            self.watch_partial(token);
        }
    }

    /// Sets a deadline for a partial frame, and lets the socket wait where whole ones are held.
    fn watch_partial(&mut self, token: Token) {
        let frame_bytes_max = self.limits.frame_bytes_max;
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let is_held = connection.phase != Phase::Greeting
            && front(&connection.input, frame_bytes_max) != Front::Partial;
        if is_held != connection.paused {
            connection.paused = is_held;
            let command = if is_held { Command::Pause(token) } else { Command::Resume(token) };
            self.commands.push(command);
        }
        if !is_held && !connection.input.is_empty() && !connection.partial_watched {
            connection.partial_watched = true;
            let due = self.now + self.limits.frame_timeout;
            self.partials.push_back((due, token, connection.frames));
        }
    }

    /// Takes whole frames from the front of `bytes`; how many bytes they were.
    fn take_frames(&mut self, token: Token, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            if self.stopping {
                // What comes now would never end; what was taken before is answered.
                return taken;
            }
            let Some(connection) = self.connections.get_mut(token) else {
                return bytes.len();
            };
            if connection.phase == Phase::Greeting {
                match self.greet(token, &bytes[taken..]) {
                    Some(consumed) => {
                        taken += consumed;
                        continue;
                    }
                    None => return taken,
                }
            }
            if self.flow(token) != Flow::Next {
                return taken;
            }
            match front(&bytes[taken..], self.limits.frame_bytes_max) {
                Front::Partial if self.is_too_large(&bytes[taken..]) => {
                    self.reject_large(token);
                    return bytes.len();
                }
                Front::Partial => return taken,
                Front::Frame(payload, length) => {
                    taken += length;
                    if let Some(connection) = self.connections.get_mut(token) {
                        connection.frames += 1;
                        connection.partial_watched = false;
                        connection.stats.received += 1;
                    }
                    self.stats.packets_received += 1;
                    self.request(token, payload);
                }
                Front::Refused(length) => {
                    self.stats.frames_refused += 1;
                    self.close_loudly(token, &format!("it declared a frame of {length} bytes"));
                    return bytes.len();
                }
            }
        }
    }

    /// Whether the next frame of a connection may be taken.
    fn flow(&mut self, token: Token) -> Flow {
        let Some(connection) = self.connections.get_mut(token) else {
            return Flow::Gone;
        };
        if connection.phase != Phase::Serving
            || connection.pending.len() >= self.limits.in_flight_max
            || connection.pending_bytes >= OUT_BYTES_HIGH
            || connection.out.len() >= OUT_BYTES_HIGH
        {
            return Flow::Hold;
        }
        let in_flight = self.in_flight + self.in_flight_elsewhere;
        if self.admission.overload.is_reached(in_flight) && !connection.pending.is_empty() {
            // Its own next reply lets it go on (`ZooKeeperServer.shouldThrottle`).
            return Flow::Hold;
        }
        let is_throttled = self.admission.overload.is_throttled(in_flight);
        if is_throttled {
            self.stats.throttle_waits += 1;
        }
        if is_throttled || !self.links.to_pipeline.has_room() {
            if !connection.stalled {
                connection.stalled = true;
                self.stalled.push(token);
                self.stats.stalls += 1;
            }
            return Flow::Hold;
        }
        Flow::Next
    }

    /// Whether the frame that `bytes` begin declares a large request that would be too much.
    fn is_too_large(&self, bytes: &[u8]) -> bool {
        let declared = bytes.first_chunk().map_or(0, |length| i32::from_be_bytes(*length));
        usize::try_from(declared).is_ok_and(|it| self.admission.overload.is_too_large(it))
    }

    /// Ends a connection whose large request would be too much.
    pub(super) fn reject_large(&mut self, token: Token) {
        self.stats.large_requests_rejected += 1;
        self.close_loudly(token, "its request is one too many of largeRequestMaxBytes");
    }

    /// Whether connections that wait for the pipeline or for others' requests may go on.
    pub(super) fn may_unstall(&self) -> bool {
        let in_flight = self.in_flight + self.in_flight_elsewhere;
        self.links.to_pipeline.has_room() && !self.admission.overload.is_throttled(in_flight)
    }

    /// Takes in that `pending` of a connection will not be answered any more.
    pub(super) fn forget_pending(&mut self, pending: &VecDeque<Pending>) {
        self.in_flight -= pending.len();
        for pending in pending {
            if let Pending::Write { large_bytes, .. } = pending {
                self.admission.overload.leave(*large_bytes);
            }
        }
    }

    fn sent(&mut self, token: Token, mut buffer: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        connection.sending = false;
        connection.take_chunk();
        if connection.is_silent() {
            if connection.is_drained() {
                self.close(token, "its session ended");
                return;
            }
            let kept = connection.out.capacity();
            if (kept + 1..=super::KEPT_BYTES_MAX).contains(&buffer.capacity()) {
                buffer.clear();
                connection.out = buffer;
            }
        } else {
            self.mark_dirty(token);
        }
        self.unhold(token);
    }

    /// Takes held frames, where there are any and there is room for what they cause.
    pub(super) fn unhold(&mut self, token: Token) {
        if self.connections.get_mut(token).is_some_and(|connection| connection.paused) {
            self.resume_input(token);
        }
    }

    pub(super) fn mark_dirty(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(token);
        }
    }

    /// Lists a connection that has an event to send, behind those that have more.
    pub(super) fn mark_told(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.dirty
            && !connection.told
        {
            connection.told = true;
            self.told.push_back(token);
        }
    }

    /// Ends a connection because of what its client did, and says so.
    pub(super) fn close_loudly(&mut self, token: Token, reason: &str) {
        if let Some(connection) = self.connections.get_mut(token) {
            let (peer, session) = (connection.peer, connection.session);
            tracing::warn!("connection of {peer}, session {session:#x}, is closed: {reason}");
        }
        self.close(token, reason);
    }

    /// Ends a connection.
    pub(super) fn close(&mut self, token: Token, reason: &str) {
        let Some(connection) = self.connections.remove(token) else {
            return;
        };
        tracing::debug!("{} session {:#x}: {reason}", connection.peer, connection.session);
        self.admission.leave(connection.peer.ip());
        self.forget_pending(&connection.pending);
        self.stats.connections_closed += 1;
        self.watches.remove_connection(super::watcher(token));
        self.commands.push(Command::Close(token));
        if connection.phase != Phase::Greeting {
            self.batch.items.push(Item::Closed { connection: token });
        }
    }

    /// Serves another tree, at a version that may be older: whoever has a session, or has asked
    /// for one, is disconnected, and nobody watches any more.
    pub(super) fn replace_tree(&mut self, tree: Arc<Tree>, version: Zxid, shared: Arc<AtomicI64>) {
        let greeted = self.connections.iter().filter(|it| it.phase != Phase::Greeting);
        let greeted: Vec<Token> = greeted.map(|it| it.token).collect();
        for token in greeted {
            self.close(token, "a leader's state has replaced this server's");
        }
        self.watches = Watches::new(self.watch_seed);
        self.tree = tree;
        self.version = version;
        self.links.version = shared;
        self.links.version.store(version.raw(), Ordering::Release);
    }

    /// Performs what the turn decided: at most one send per connection, one batch to the pipeline.
    pub fn finish_turn(&mut self, ring: &mut Ring) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            if let Some(connection) = self.connections.get_mut(token) {
                connection.dirty = false;
                self.send(token, ring);
            }
        }
        self.dirty = dirty;
        for _ in 0..self.told.len().min(TOLD_MAX) {
            let token = self.told.pop_front().expect("there are so many");
            if let Some(connection) = self.connections.get_mut(token) {
                connection.told = false;
                self.send(token, ring);
            }
        }
        for command in self.commands.drain(..) {
            match command {
                Command::Attach(token, socket) => ring.attach(token, socket),
                Command::Close(token) => ring.close(token),
                Command::Pause(token) => ring.pause_receive(token),
                Command::Resume(token) => ring.resume_receive(token),
            }
        }
        // Behind all replies of the turn.
        self.gather();
        self.send_batch();
        self.links.to_pipeline.flush();
    }

    /// Gives the ring what a connection has to send, if it has sent what it was given before.
    fn send(&mut self, token: Token, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if connection.sending {
            if connection.out.len() > self.limits.out_bytes_max {
                self.stats.slow_readers_dropped += 1;
                self.close_loudly(token, "its client does not read what it is sent");
            }
            return;
        }
        connection.take_chunk();
        if connection.is_silent() {
            if connection.is_drained() {
                self.close(token, "its session ended");
            }
            return;
        }
        connection.sending = true;
        connection.sending_since = self.now;
        let is_awaited = connection.is_awaiting_sent();
        match connection.event.take() {
            Some(event) if connection.out.is_empty() && !is_awaited => {
                self.stats.bytes_sent += event.len() as u64;
                ring.send_shared(token, event);
                return;
            }
            Some(event) => drop(connection.out.splice(..0, event.iter().copied())),
            None => {}
        }
        self.stats.bytes_sent += connection.out.len() as u64;
        let out = std::mem::take(&mut connection.out);
        match is_awaited {
            true => ring.send(token, out),
            false => ring.send_quick(token, out),
        }
    }

    /// Passes what has gathered to the pipeline, if that has room.
    pub fn send_batch(&mut self) {
        if !self.batch.items.is_empty() {
            let batch = self.batch.take(std::mem::take(&mut self.emptied));
            if let Err(batch) = self.links.to_pipeline.send(batch) {
                self.batch = batch;
            }
        }
    }

    /// Notes how long a stage of this turn took, for each of its `count` requests.
    pub fn note_stage(&mut self, stage: Stage, nanos: u64, count: u64) {
        if let Some(each) = nanos.checked_div(count) {
            self.stages.record(stage, each, count);
        }
    }

    /// How many packets have come, and how many have been answered, since the statistics began.
    pub fn packet_counts(&self) -> (u64, u64) {
        (self.stats.packets_received, self.stats.packets_sent)
    }

    /// Whether everything that was accepted is answered and sent.
    pub fn is_finished(&self) -> bool {
        self.batch.items.is_empty()
            && self.links.from_pipeline.is_empty()
            && self
                .connections
                .iter()
                .all(|it| !it.sending && it.is_silent() && self.owes_nothing(it))
    }

    fn owes_nothing(&self, connection: &Connection) -> bool {
        connection.pending.is_empty() || !self.answers_come
    }

    /// Publishes the version that this core serves.
    pub(super) fn serve_version(&mut self, version: Zxid) {
        assert!(version >= self.version, "a core's version never goes back");
        self.version = version;
        self.links.version.store(version.raw(), Ordering::Release);
    }

    /// Takes in the time of the turn.
    pub fn set_time(&mut self, now: Time, wall: WallMs) {
        (self.now, self.wall) = (now, wall);
        self.in_flight_elsewhere = self.admission.overload.exchange(self.number, self.in_flight);
    }

    /// Whether the core must be called again although nothing happens in its ring.
    pub fn has_work(&self) -> bool {
        !self.links.from_pipeline.is_empty()
            || self.moved_to.is_some()
            || !self.gathering.is_empty()
            || !self.told.is_empty()
            || (!self.batch.items.is_empty() && self.links.to_pipeline.has_room())
    }

    /// A listener that takes the place of the one that the ring has.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        self.moved_to.take()
    }

    /// When [`ClientCore::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Time {
        let mut due = self.sweep_due;
        if !self.touched.is_empty() {
            due = due.min(self.touch_due);
        }
        if !self.stalled.is_empty() {
            due = due.min(self.now + self.limits.stall_interval);
        }
        if let Some(&(greeting, _)) = self.greetings.front() {
            due = due.min(greeting);
        }
        if let Some(&(partial, ..)) = self.partials.front() {
            due = due.min(partial);
        }
        due
    }

    /// Does what is due: touches to the pipeline, deadlines of greetings, frames and sends.
    pub fn handle_timeout(&mut self) {
        if !self.touched.is_empty() && self.touch_due <= self.now {
            self.touch_due = self.now + self.limits.touch_interval;
            for token in std::mem::take(&mut self.touched) {
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.touched = false;
                    self.batch.items.push(Item::Touch { session: connection.session });
                }
            }
        }
        while let Some((_, token)) = self.greetings.pop_front_if(|(due, _)| *due <= self.now) {
            let phase = self.connections.get_mut(token).map(|connection| connection.phase);
            if phase == Some(Phase::Greeting) {
                self.stats.sessionless_expired += 1;
                self.close_loudly(token, "it has not asked for a session in time");
            }
        }
        while let Some((_, token, frame)) = self.partials.pop_front_if(|(due, ..)| *due <= self.now)
        {
            let connection = self.connections.get_mut(token);
            if connection.is_some_and(|it| it.partial_watched && it.frames == frame) {
                self.stats.partial_frames_expired += 1;
                self.close_loudly(token, "its frame has not ended in time");
            }
        }
        if self.sweep_due <= self.now {
            self.sweep();
        }
    }

    /// Drops clients whose sends have been under way for too long.
    fn sweep(&mut self) {
        let now = self.now;
        self.sweep_due = now + self.limits.send_timeout / 2;
        let limit = self.limits.send_timeout;
        let stuck: Vec<Token> = self
            .connections
            .iter()
            .filter(|it| it.sending && now.since(it.sending_since) > limit)
            .map(|it| it.token)
            .collect();
        for token in stuck {
            self.stats.slow_readers_dropped += 1;
            self.close_loudly(token, "its client does not read what it is sent");
        }
    }

    /// A request that waits for the writes before it.
    pub(super) fn enqueue(&mut self, token: Token, pending: Pending) {
        if let Some(connection) = self.connections.get_mut(token) {
            if let Pending::Read { body, .. } = &pending {
                connection.pending_bytes += body.len();
            }
            connection.pending.push_back(pending);
            self.in_flight += 1;
        }
    }
}
