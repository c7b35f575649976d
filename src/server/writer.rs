//! The pipeline's core: takes the client cores' batches through `pipeline` and the log, and
//! publishes what has become durable.
//!
//! A turn: hear the background, take batches, do what is due, hand transactions to the log and
//! start its next write, publish what is durable, tell. Group commit needs no timer: while a write
//! is under way the next group gathers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::io::clock;
use crate::io::ring::{Completion, Ring};
use crate::log::LogError;
use crate::pipeline::{Client, Notice, Room, Write};
use crate::replica::Replica;
use crate::server::answer::TRACE_MASK_DEFAULT;
use crate::server::answering::Answered;
use crate::server::background::{Background, Done, Errand, SegmentJob};
use crate::server::client_port::ClientPort;
use crate::server::disk::Disk;
use crate::server::member::Member;
use crate::server::mesh::{Receiver, Sender};
use crate::server::message::{Emptied, Item, ToClients, ToPipeline};
use crate::server::questions::{Asker, Questions};
use crate::server::report::{Question, StartupReport};
use crate::server::snapshots::Snapshots;
use crate::server::stages::{Stage, Stages};
use crate::server::summary::Summary;
use crate::time::{Time, WallMs};
use crate::tree::Tree;
use crate::zab::output::Role;
use crate::zxid::Zxid;

/// How long the next write waits, and from how many answers on: see `is_gathering`.
const GATHER: Duration = Duration::from_micros(40);
const GATHER_FROM: usize = 4;
/// How soon a core whose queue was full is tried again: it empties all of it in one turn.
const BACKLOG_RETRY: Duration = Duration::from_micros(100);

/// Transactions whose garbage one step of reclaiming takes with room to spare.
const TXNS_PER_RECLAIM: u64 = 256;

/// Batches taken from one client core before the next one has its turn.
const BATCHES_PER_TURN: usize = 8;

/// What a transaction may have beyond its request, in bytes: header, digest, versions. One that
/// has more (an `auth` that stands for many identities) waits in memory for a segment.
const TXN_OVERHEAD: usize = 64 << 10;

/// The beginning or end of a session with some hundreds of ephemerals, in bytes; a longer end
/// waits in memory for a segment.
const SESSION_TXN_BYTES: usize = 64 << 10;

/// The pipeline's end of the links with one client core.
pub struct ClientEnd {
    pub from: Receiver<ToPipeline>,
    pub to: Sender<ToClients>,
    pub version: Arc<AtomicI64>,
    /// What its queue had no room for. While there is something here nothing more is taken in.
    backlog: VecDeque<ToClients>,
    /// What is left of the last batch, to go back.
    emptied: Emptied,
}

impl ClientEnd {
    /// The links with one client core, which publishes what it serves in `version`.
    pub fn new(
        from: Receiver<ToPipeline>,
        to: Sender<ToClients>,
        version: Arc<AtomicI64>,
    ) -> ClientEnd {
        ClientEnd { from, to, version, backlog: VecDeque::new(), emptied: Emptied::default() }
    }

    pub(super) fn send(&mut self, message: ToClients) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(message);
        } else if let Err(message) = self.to.send(message) {
            self.backlog.push_back(message);
        }
    }

    /// Whether what was held back can follow in the next turn: a core of the same executor takes
    /// what is in its queue in each, and nothing else says that it has.
    fn wants_turn(&self) -> bool {
        !self.backlog.is_empty() && self.to.is_local()
    }

    fn send_backlog(&mut self) {
        while let Some(message) = self.backlog.pop_front() {
            if let Err(message) = self.to.send(message) {
                self.backlog.push_front(message);
                return;
            }
        }
    }
}

/// A member that has so much more in memory than its disk has taken, in bytes, leaves the ensemble
/// until the disk has: some hundred groups, seconds of a slow disk's work.
const STAGED_BYTES_MAX: usize = 64 << 20;

/// How far the core is in stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// It gives its leadership up.
    Resigning,
    /// The clients' cores have been told.
    Told,
    /// They are finished, and a member has left its ensemble.
    Leaving,
}

/// What the server says of itself and does not change.
pub struct About {
    pub config: Arc<Config>,
    pub port: ClientPort,
    pub startup: StartupReport,
    pub started: Time,
}

/// The pipeline's core.
pub struct PipelineCore {
    pub(super) replica: Replica,
    /// What a member of an ensemble has besides.
    pub(super) member: Option<Member>,
    pub(super) disk: Disk,
    pub(super) clients: Vec<ClientEnd>,
    pub(super) background: Background,
    pub(super) snapshots: Snapshots,
    pub(super) questions: Questions,
    /// The largest transaction that a client's write can become, in bytes.
    txn_bytes_max: usize,
    /// Whether the log's next segment could not be made for now.
    is_full: bool,
    /// Whether a leadership was given up since the volume was last seen to have space.
    has_stood_back: bool,
    stopping: Stopping,
    /// What the log was told last.
    is_read_only: bool,
    published: Zxid,
    /// The start of the epoch that this server serves in.
    begun: Zxid,
    reclaimed: Zxid,
    /// Replies published since the last look at whether to gather.
    answered: usize,
    gathering: bool,
    /// The count of transactions when garbage was last reclaimed.
    txns_reclaimed: u64,
    /// Whether the last reclaiming left something for the next turn.
    has_garbage: bool,
    pub(super) now: Time,
    pub(super) wall: WallMs,
    pub(super) config: Arc<Config>,
    pub(super) port: ClientPort,
    pub(super) startup: StartupReport,
    pub(super) started: Time,
    pub(super) trace_mask: i64,
    pub(super) stages: Stages,
    pub(super) elections_ms: Summary,
}

impl PipelineCore {
    /// Over a recovered pipeline and log.
    pub fn new(
        (replica, member): (Replica, Option<Member>),
        disk: Disk,
        clients: Vec<ClientEnd>,
        background: Background,
        snapshots: Snapshots,
        questions: Questions,
        about: About,
    ) -> PipelineCore {
        let About { config, port, startup, started } = about;
        let published = replica.pipeline().committed();
        PipelineCore {
            replica,
            member,
            disk,
            clients,
            background,
            snapshots,
            questions,
            txn_bytes_max: config.limits.jute_bytes_max as usize + TXN_OVERHEAD,
            config,
            port,
            startup,
            started,
            trace_mask: TRACE_MASK_DEFAULT,
            stages: Stages::new(),
            elections_ms: Summary::default(),
            is_full: false,
            has_stood_back: false,
            stopping: Stopping::No,
            is_read_only: false,
            published,
            begun: Zxid::ZERO,
            reclaimed: Zxid::ZERO,
            answered: 0,
            gathering: false,
            txns_reclaimed: 0,
            has_garbage: false,
            now: Time::default(),
            wall: WallMs::default(),
        }
    }

    /// The version that readers have been told last, or the start of an epoch behind it.
    pub(super) fn last_zxid(&self) -> Zxid {
        self.published.max(self.begun)
    }

    /// Takes in the time of the turn.
    pub fn set_time(&mut self, now: Time, wall: WallMs) {
        (self.now, self.wall) = (now, wall);
    }

    /// Whether a completion is for this core's sockets.
    pub fn owns(&self, completion: &Completion<'_>) -> bool {
        self.member.as_ref().is_some_and(|member| member.owns(completion))
    }

    /// Takes what the ring has for the log, and for a member's ports.
    ///
    /// # Errors
    /// The disk failed: the server stops.
    pub fn handle(&mut self, completion: Completion<'_>) -> Result<(), LogError> {
        if let Some(member) = self.member.as_mut().filter(|member| member.owns(&completion)) {
            member.handle(completion, self.now);
            return Ok(());
        }
        if let Some(durable) = self.disk.handle(completion, self.now)? {
            // A mark of a log that was recovered with nothing new behind it says no more than that.
            let through = durable.min(self.replica.pipeline().prepared());
            self.replica.handle_persisted(self.now, through);
            self.stages.record(Stage::Durable, self.disk.durable_nanos, 1);
        }
        Ok(())
    }

    /// One turn.
    ///
    /// # Errors
    /// The disk failed: the server stops.
    pub fn turn(&mut self, ring: &mut Ring) -> Result<(), LogError> {
        self.hear_background()?;
        self.clients.iter_mut().for_each(ClientEnd::send_backlog);
        self.ask_for_segment();
        let begun = clock::now();
        let txns = self.replica.pipeline().stats().txns;
        // Before all that waits in the sockets: after a pause of the whole process it is old.
        if self.replica.poll_timeout().is_some_and(|due| due <= self.now) {
            self.replica.handle_timeout(self.now, self.wall);
        }
        self.perform_all();
        self.hear_peers();
        self.take_batches();
        let taken = clock::now();
        let prepared = self.replica.pipeline().stats().txns - txns;
        self.note(Stage::Prepare, begun, taken, prepared);
        if self.replica.poll_timeout().is_some_and(|due| due <= self.now) {
            self.replica.handle_timeout(self.now, self.wall);
        }
        self.perform_all();
        self.watch_disk();
        self.advance_turn()?;
        self.publish();
        let publishing = clock::now();
        self.note(Stage::Publish, taken, publishing, self.answered as u64);
        self.append(ring)?;
        self.note(Stage::Append, publishing, clock::now(), prepared);
        self.publish();
        self.take_snapshot();
        for client in &mut self.clients {
            client.to.flush();
        }
        Ok(())
    }

    /// Sends other servers what is left: to be called behind the turn, and behind the replies to
    /// clients of the same executor.
    pub fn finish_turn(&mut self, ring: &mut Ring) {
        self.finish_peers(ring);
    }

    /// Notes how long a stage took, for each of its `count` requests.
    fn note(&mut self, stage: Stage, begun: Time, ended: Time, count: u64) {
        let nanos = (ended - begun).as_nanos() as u64;
        if let Some(each) = nanos.checked_div(count) {
            self.stages.record(stage, each, count);
        }
    }

    fn hear_background(&mut self) -> Result<(), LogError> {
        while let Ok(done) = self.background.done.try_recv() {
            match done {
                Done::Prepared(Ok(segment)) => {
                    self.has_stood_back = false;
                    if std::mem::take(&mut self.is_full) {
                        tracing::warn!("the log has room again: writes are taken");
                    }
                    self.disk.log.offer_segment(segment);
                }
                Done::Prepared(Err(error)) => {
                    if !std::mem::replace(&mut self.is_full, true) {
                        tracing::error!("{error}: writes are refused when the log's room is used");
                    }
                    self.disk.log.handle_segment_refused(self.now, error)?;
                }
                Done::Answered(Answered { core, connection, chunks }) => {
                    let reported = ToClients::Reported { connection, chunks };
                    self.clients[usize::from(core)].send(reported);
                }
                Done::Moved(moved) => self.hear_moved(moved),
                Done::BackupWanted(reply) => self.snapshots.want_backup(reply),
                Done::BackedUp => self.snapshots.handle_backed_up(),
                Done::Asked(question, reply) => self.ask(Asker::Http(reply), question),
                Done::Snapshot(done) => {
                    if let Some(oldest) = self.snapshots.handle_done(done) {
                        // The oldest snapshot that is kept holds what is up to its zxid.
                        let needed = oldest.next().unwrap_or(oldest);
                        for retired in self.disk.log.purge_below(needed) {
                            self.tell_segments(SegmentJob::Remove(retired));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn ask_for_segment(&mut self) {
        if let Some(request) = self.disk.log.wanted_segment(self.now) {
            self.tell_segments(SegmentJob::Prepare(request));
        }
    }

    fn tell_segments(&self, job: SegmentJob) {
        self.background.segments.send(job).expect("the background ends after the pipeline");
    }

    /// What the log takes: all, or, when its volume is full, only sessions or nothing.
    ///
    /// `None` when what is staged waits for a segment that is being prepared: that is no reason to
    /// refuse anything, only to take in nothing more.
    fn room(&self) -> Option<Room> {
        if !self.is_full {
            return (!self.disk.log.is_starved()).then_some(Room::Plenty);
        }
        let room = self.disk.log.room();
        Some(match room.admits_session(SESSION_TXN_BYTES, 0) {
            true if room.admits(self.txn_bytes_max, 0) => Room::Plenty,
            true => Room::SessionsOnly,
            false => Room::Full,
        })
    }

    /// A member stands back where its disk holds the others up or its memory would grow without
    /// bound; a leader also where there is no room for what clients write, once: where no other has
    /// room either, the next leader refuses writes, and the rest goes on.
    fn watch_disk(&mut self) {
        if self.member.is_none() {
            return;
        }
        let is_behind = self.disk.log.staged_bytes() > STAGED_BYTES_MAX;
        let lacks_room = self.is_full
            && !self.has_stood_back
            && matches!(self.replica.role(), Role::Leading { .. })
            && self.room() != Some(Room::Plenty);
        if is_behind || lacks_room {
            self.has_stood_back |= lacks_room;
            self.replica.stand_back(self.now);
            self.perform_all();
        }
    }

    fn take_batches(&mut self) {
        for index in 0..self.clients.len() {
            for _ in 0..BATCHES_PER_TURN {
                let Some(room) = self.room() else {
                    return;
                };
                self.replica.set_room(room);
                self.clients[index].send_backlog();
                if !self.clients[index].backlog.is_empty() {
                    break;
                }
                let Some(batch) = self.clients[index].from.receive() else {
                    break;
                };
                self.take_batch(index, batch);
                self.hand_to_log();
            }
        }
    }

    fn take_batch(&mut self, index: usize, mut batch: ToPipeline) {
        let core = u16::try_from(index).expect("client cores are few");
        self.replica.handle_emptied(std::mem::take(&mut batch.emptied));
        for item in batch.items.drain(..) {
            match item {
                Item::Write { connection, session, xid, op, body, ids } => {
                    let client = Client { core, connection: connection.0 };
                    let body = &batch.bytes[body];
                    let write = Write { client, session, xid, op, body, ids: &ids };
                    self.replica.handle_write(&write, self.now, self.wall);
                }
                Item::Connect(connect) => {
                    self.replica.handle_connect(connect, self.now, self.wall);
                }
                Item::Closed { connection } => {
                    self.replica.handle_closed(Client { core, connection: connection.0 });
                }
                Item::Touch { session } => self.replica.handle_touch(self.now, session),
                Item::Ask { connection, question } => {
                    self.ask(Asker::Connection { core, connection }, question);
                }
                Item::Answer { number, report } => self.take_answer(number, *report),
            }
        }
        self.clients[index].emptied = batch.into_emptied();
    }

    /// Stages what was prepared.
    fn hand_to_log(&mut self) {
        if !self.replica.is_alone() {
            return self.perform_all();
        }
        let txns = self.replica.take_txns();
        for (zxid, txn) in txns.iter() {
            self.disk.append(zxid, txn);
        }
        txns.clear();
    }

    /// Starts the next write, with all that was prepared meanwhile.
    fn append(&mut self, ring: &mut Ring) -> Result<(), LogError> {
        self.hand_to_log();
        let is_alone = self.replica.is_alone();
        if !is_alone {
            self.replica.handle_appended();
            // Other servers' disks are to work while this one's does.
            self.send_to_peers(ring);
        }
        if self.is_gathering() {
            return Ok(());
        }
        if !is_alone {
            self.disk.log.set_committed(self.replica.pipeline().committed());
        }
        let is_started = self.disk.start(ring, self.now)?;
        if is_alone && (is_started || self.disk.log.is_idle()) {
            self.replica.handle_appended();
        }
        Ok(())
    }

    /// Whether the next write waits for one turn: the last one has just answered several clients,
    /// whose next requests are as good as here. It halves the writes where many clients have one
    /// request under way each, and costs those that wait already [`GATHER`] at most.
    fn is_gathering(&mut self) -> bool {
        let answered = std::mem::take(&mut self.answered);
        self.gathering = answered >= GATHER_FROM && !self.gathering;
        self.gathering
    }

    fn publish(&mut self) {
        while let Some(mut published) = self.replica.poll_published() {
            self.published = published.through;
            self.answered += published.outboxes.iter().map(|it| it.replies.len()).sum::<usize>();
            for (client, outbox) in self.clients.iter_mut().zip(published.outboxes.drain(..)) {
                let events = Arc::clone(&published.events);
                let through = published.through;
                let emptied = std::mem::take(&mut client.emptied);
                client.send(ToClients::Published { through, outbox, events, emptied });
            }
            self.replica.handle_told(published);
        }
        if self.replica.pipeline().is_read_only() != self.is_read_only {
            self.is_read_only = !self.is_read_only;
            match self.is_read_only {
                true => tracing::warn!("no leader: read-only, for clients that take that"),
                false => tracing::info!("there is a leader: no longer read-only"),
            }
        }
        if let Some(epoch) = self.replica.poll_begun() {
            self.begun = epoch;
            self.clients.iter_mut().for_each(|client| client.send(ToClients::Begun { epoch }));
        }
        while let Some(notice) = self.replica.poll_notice() {
            let core = usize::from(notice.core());
            match notice {
                Notice::Replaced { tree, version, .. } => self.replace_tree(core, tree, version),
                notice => self.clients[core].send(ToClients::Notice(notice)),
            }
        }
        let oldest = self
            .clients
            .iter()
            .map(|client| Zxid::from_raw(client.version.load(Ordering::Acquire)))
            .min()
            .unwrap_or(self.published);
        self.has_garbage |= oldest > self.reclaimed || self.snapshots.is_released();
        self.reclaimed = oldest;
        // A busy turn makes more garbage than one step takes: keep up with it.
        let txns = self.replica.pipeline().stats().txns;
        let steps = 1 + (txns - self.txns_reclaimed) / TXNS_PER_RECLAIM;
        self.txns_reclaimed = txns;
        for _ in 0..steps {
            if !self.has_garbage {
                break;
            }
            self.has_garbage = self.replica.reclaim(oldest, self.snapshots.held());
        }
    }

    /// Tells a client core of another tree. The version that the core has published is one of the
    /// old tree's: from here on another number counts, which holds back what the new tree may
    /// give up until the core serves it.
    fn replace_tree(&mut self, core: usize, tree: Arc<Tree>, version: Zxid) {
        let shared = Arc::new(AtomicI64::new(version.raw()));
        self.clients[core].version = Arc::clone(&shared);
        self.clients[core].send(ToClients::Replaced { tree, version, shared });
        self.published = version;
        self.reclaimed = Zxid::ZERO;
    }

    fn take_snapshot(&mut self) {
        if let Some(job) = self.snapshots.poll_job(
            self.replica.pipeline(),
            self.disk.log.durable(),
            self.disk.bytes,
        ) {
            self.background.snapshots.send(job).expect("the background ends after the pipeline");
        }
    }

    /// Asks every client core for its part of an answer.
    fn ask(&mut self, asker: Asker, question: Question) {
        let number = self.questions.ask(asker, question, self.clients.len());
        for client in &mut self.clients {
            client.send(ToClients::Report { number, question });
        }
    }

    fn take_answer(&mut self, number: u64, report: crate::server::report::ClientReport) {
        let Some(answered) = self.questions.answer(number, report) else {
            return;
        };
        let job = self.answer_job(answered);
        let job = Errand::Answer(job);
        self.background.errands.send(job).expect("the background ends after the pipeline");
    }

    /// Begins to stop: a leader hands its leadership over first, then every client core is told to
    /// finish. A learner stays in step until its clients have the answers that are on their way.
    /// See [`PipelineCore::is_finished`].
    pub fn stop(&mut self) {
        self.stopping = Stopping::Resigning;
        match (&self.member, self.replica.role()) {
            (None, _) | (_, Role::Following { .. } | Role::Observing { .. }) => {
                self.stop_clients(true);
            }
            (Some(_), Role::Leading { .. }) => self.replica.resign(self.now),
            (Some(_), Role::Looking) => self.stop_clients(false),
        }
    }

    /// To be called while the server stops: a learner whose clients are finished leaves, so that
    /// its log comes to rest.
    pub fn leave_behind(&mut self, are_own_clients_finished: bool) {
        if self.stopping == Stopping::Told
            && are_own_clients_finished
            && self.clients.iter().all(|it| it.to.is_local() || it.from.is_abandoned())
        {
            self.stopping = Stopping::Leaving;
            self.replica.resign(self.now);
        }
    }

    /// Tells every client core to finish; see [`ToClients::Stop`].
    pub(super) fn stop_clients(&mut self, answers_come: bool) {
        if self.stopping != Stopping::Resigning {
            return;
        }
        self.stopping = Stopping::Told;
        tracing::debug!("{} changes to reclaim", self.replica.pipeline().writer().journal_len());
        for client in &mut self.clients {
            client.send(ToClients::Stop { answers_come });
            client.to.flush();
        }
    }

    /// Whether everything that was taken in is durable and told, and nothing more can come: cores
    /// of clients end before this one, since they have answers to wait for.
    pub fn is_finished(&self) -> bool {
        self.stopping == Stopping::Leaving
            && self.clients.iter().all(|it| it.to.is_local() || it.from.is_abandoned())
            && self.disk.log.is_idle()
            && !self.disk.is_busy()
            && self.clients.iter().all(|it| it.backlog.is_empty() && it.from.is_empty())
    }

    /// Whether the core must be called again although nothing happens in its ring.
    pub fn has_work(&self) -> bool {
        let has_batch = |client: &ClientEnd| client.backlog.is_empty() && !client.from.is_empty();
        self.has_garbage
            || self.clients.iter().any(ClientEnd::wants_turn)
            || (self.clients.iter().any(has_batch) && self.room().is_some())
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.gathering {
            return Some(self.now + GATHER);
        }
        // Nobody says that another core has made room in its queue.
        let is_held = self.clients.iter().any(|client| !client.backlog.is_empty());
        [
            is_held.then(|| self.now + BACKLOG_RETRY),
            self.replica.poll_timeout(),
            self.disk.poll_timeout(),
            self.disk.log.retry_at(),
            self.member.as_ref().and_then(Member::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::mesh::link;

    fn begun(counter: u32) -> ToClients {
        ToClients::Begun { epoch: Zxid::new(counter, 0) }
    }

    /// What a full queue holds back is sent on without anything happening meanwhile, in order.
    #[test]
    fn what_a_full_queue_holds_back_wants_another_turn() {
        let (to, mut from_pipeline) = link(None);
        let (_to_pipeline, from) = link(None);
        let mut client = ClientEnd::new(from, to, Arc::default());
        let mut sent = 0;
        while !client.wants_turn() {
            sent += 1;
            client.send(begun(sent));
            assert!(sent < 10_000, "the queue is bounded");
        }
        client.send(begun(sent + 1));
        let mut epochs = Vec::new();
        while !from_pipeline.is_empty() {
            let message = std::iter::from_fn(|| from_pipeline.receive());
            epochs.extend(message.map(|message| match message {
                ToClients::Begun { epoch } => epoch.epoch(),
                _ => 0,
            }));
            client.send_backlog();
        }
        assert_eq!(epochs, (1..=sent + 1).collect::<Vec<_>>());
        assert!(!client.wants_turn());
    }
}
