//! One server's whole core as a value: the pipeline, agreement, and what passes between them.
//!
//! ```text
//! clients' cores ─► handle_connect, handle_write ─► Pipeline ─ transactions ─► Zab ─► Action
//! peers, disk ─► handle_from_…, handle_persisted ─► Zab ─ Event ─► Pipeline ─► poll_published
//! ```
//!
//! The shell and the simulator both drive this and nothing below it. After what goes in, drain
//! [`Replica::poll_action`], then [`Replica::poll_published`] and [`Replica::poll_notice`]. Many
//! requests of clients may go in before one draining: they travel together.
//!
//! A server on its own has no agreement to reach: what is durable is committed, and its shell takes
//! transactions straight from the pipeline ([`Replica::take_txns`]), which saves a copy of each.

pub mod stats;

mod askers;
mod exchange;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::{self, Client, Connect, Notice, Outbox, Pipeline, Published, Room, Write};
use crate::replica::askers::Askers;
use crate::replica::stats::Stats;
use crate::time::{Time, WallMs};
use crate::tree::Tree;
use crate::tree::writer::Writer;
use crate::wire::election::Notification;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zab::Zab;
use crate::zab::output::{Action, LinkId, LogGap, Role, Standing, Txns};
use crate::zxid::Zxid;

/// The state that a learner is sent: the tree, to be read at `zxid`, and the sessions of then.
#[derive(Clone)]
pub struct StateAt {
    pub tree: Arc<Tree>,
    pub zxid: Zxid,
    /// Of the tree at `zxid`, where it is known.
    pub digest: Option<u64>,
    /// Each with its timeout in milliseconds.
    pub sessions: Vec<(i64, i32)>,
}

/// The state that a leader has sent, durable and ready to be served.
pub struct ReceivedState {
    pub writer: Writer,
    /// Each with its timeout in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    pub zxid: Zxid,
}

/// The core of a server.
pub struct Replica {
    pipeline: Pipeline,
    /// `None` for a server on its own.
    zab: Option<Zab>,
    role: Role,
    actions: VecDeque<Action>,
    /// Learners whose requests this leader has, by the link that they came on.
    links: BTreeMap<ServerId, LinkId>,
    /// Who on this server's way has asked its leader.
    askers: Askers,
    /// States that are being sent: their versions are kept readable.
    sending: BTreeMap<LinkId, StateAt>,
    stats: Stats,
    /// How long an election took that has just ended.
    election: Option<Duration>,
    /// The start of an epoch that this server has begun to serve in.
    begun: Option<Zxid>,
    /// A cut of the log that must not be made: the tree could not be cut with it.
    refused_cut: Option<Zxid>,
    now: Time,
    wall: WallMs,
}

impl Replica {
    /// A server on its own.
    pub fn alone(pipeline: Pipeline) -> Replica {
        Replica::new(pipeline, None)
    }

    /// A member of an ensemble.
    pub fn member(pipeline: Pipeline, zab: Zab) -> Replica {
        let mut replica = Replica::new(pipeline, Some(zab));
        let (now, wall) = (Time::default(), WallMs::default());
        replica.pipeline.handle_role(Role::Looking, 0, now, wall);
        let standing = replica.zab.as_ref().map(Zab::standing);
        replica.pipeline.set_shows_state(standing == Some(Standing::Sound));
        replica
    }

    fn new(pipeline: Pipeline, zab: Option<Zab>) -> Replica {
        Replica {
            pipeline,
            zab,
            role: Role::Looking,
            actions: VecDeque::new(),
            links: BTreeMap::new(),
            askers: Askers::default(),
            sending: BTreeMap::new(),
            stats: Stats::default(),
            election: None,
            begun: None,
            refused_cut: None,
            now: Time::default(),
            wall: WallMs::default(),
        }
    }

    /// The pipeline, to be asked.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Agreement, to be asked; `None` for a server on its own.
    pub fn zab(&self) -> Option<&Zab> {
        self.zab.as_ref()
    }

    /// The learner asks for more than there is room for: its connection ends, and it comes back.
    fn drop_learner(&mut self, link: LinkId) {
        self.actions.push_back(Action::Close { link });
        self.handle_disconnected(self.now, link);
    }

    /// Whether there is no ensemble.
    pub fn is_alone(&self) -> bool {
        self.zab.is_none()
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How long the election took that has ended since the last call.
    pub fn poll_election(&mut self) -> Option<Duration> {
        self.election.take()
    }

    /// The start of the epoch that this server has begun to serve in since the last call: it has
    /// shown everything from before it, once [`Replica::poll_published`] is drained. It is no
    /// transaction, but Apache's servers show it to clients as what they have processed.
    pub fn poll_begun(&mut self) -> Option<Zxid> {
        self.begun.take()
    }

    /// What this member is; a server on its own is never asked.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes in the time of what follows.
    pub fn set_time(&mut self, now: Time, wall: WallMs) {
        (self.now, self.wall) = (now, wall);
    }

    // ── From clients ──

    /// Says how much the log still takes; holds until it is said again.
    pub fn set_room(&mut self, room: Room) {
        self.pipeline.set_room(room);
    }

    /// A connection asks for a session.
    pub fn handle_connect(&mut self, connect: Connect, now: Time, wall: WallMs) {
        self.set_time(now, wall);
        self.pipeline.handle_connect(connect, now, wall);
    }

    /// A client's write, or its session's end.
    pub fn handle_write(&mut self, write: &Write<'_>, now: Time, wall: WallMs) {
        self.set_time(now, wall);
        self.tell_members(write.op.raw());
        self.pipeline.handle_write(write, now, wall);
    }

    /// A connection that had asked for a session is gone.
    pub fn handle_closed(&mut self, client: Client) {
        self.pipeline.handle_closed(client);
    }

    /// A session was heard of.
    pub fn handle_touch(&mut self, now: Time, session: i64) {
        self.pipeline.handle_touch(now, session);
    }

    // ── From peers ──

    /// A notification came from another server.
    pub fn handle_notification(&mut self, now: Time, from: ServerId, notification: Notification) {
        self.zab_at(now).handle_notification(now, from, notification);
    }

    /// The connection to another server's election port came up, or was lost or refused.
    pub fn handle_reachable(&mut self, now: Time, peer: ServerId, is_reachable: bool) {
        self.zab_at(now).handle_reachable(now, peer, is_reachable);
    }

    /// A learner has connected.
    pub fn handle_accepted(&mut self, now: Time, link: LinkId) {
        self.zab_at(now).handle_accepted(now, link);
    }

    /// The leader has taken our connection.
    pub fn handle_connected(&mut self, now: Time, link: LinkId) {
        self.zab_at(now).handle_connected(now, link);
    }

    /// The leader cannot be reached.
    pub fn handle_connect_failed(&mut self, now: Time, to: ServerId) {
        self.zab_at(now).handle_connect_failed(now, to);
    }

    /// A learner has said something.
    pub fn handle_from_learner(
        &mut self,
        now: Time,
        wall: WallMs,
        link: LinkId,
        message: FromLearner,
    ) {
        self.wall = wall;
        self.zab_at(now).handle_from_learner(now, link, message);
    }

    /// The leader has said something.
    pub fn handle_from_leader(
        &mut self,
        now: Time,
        wall: WallMs,
        link: LinkId,
        message: FromLeader,
    ) {
        self.wall = wall;
        self.zab_at(now).handle_from_leader(now, link, message);
    }

    /// A connection with a leader or learner has ended.
    pub fn handle_disconnected(&mut self, now: Time, link: LinkId) {
        self.sending.remove(&link);
        self.zab_at(now).handle_disconnected(now, link);
    }

    // ── From the disk ──

    /// The log is durable up to `through`.
    pub fn handle_persisted(&mut self, now: Time, through: Zxid) {
        self.now = now;
        match &mut self.zab {
            Some(zab) => zab.handle_persisted(now, through),
            None => self.pipeline.handle_committed(through),
        }
    }

    /// The log ends at `after`, durably.
    pub fn handle_truncated(&mut self, now: Time, after: Zxid) {
        self.zab_at(now).handle_truncated(now, Ok(after));
    }

    /// The log does not reach back far enough to be cut there.
    pub fn handle_truncate_failed(&mut self, now: Time) {
        self.zab_at(now).handle_truncated(now, Err(crate::zab::output::CannotTruncate));
    }

    /// `acceptedEpoch` is on disk.
    pub fn handle_accepted_epoch_saved(&mut self, now: Time, epoch: u32) {
        self.zab_at(now).handle_accepted_epoch_saved(now, epoch);
    }

    /// `currentEpoch` is on disk.
    pub fn handle_current_epoch_saved(&mut self, now: Time, epoch: u32) {
        self.zab_at(now).handle_current_epoch_saved(now, epoch);
    }

    /// A learner has been sent all of the state.
    pub fn handle_snapshot_sent(&mut self, now: Time, link: LinkId) {
        self.sending.remove(&link);
        self.zab_at(now).handle_snapshot_sent(now, link);
    }

    /// The state that the leader sent is durable, and the log goes on behind it: it replaces what
    /// this server has.
    pub fn handle_snapshot_received(&mut self, now: Time, link: LinkId, state: ReceivedState) {
        let ReceivedState { writer, sessions, zxid } = state;
        assert_eq!(writer.last_zxid(), zxid, "a state is that of its zxid");
        self.pipeline.handle_replaced(writer, sessions, now);
        if let Some(zab) = self.zab.as_ref().filter(|zab| zab.ensemble().is_dynamic) {
            self.pipeline.put_members(&zab.ensemble().config, self.wall);
        }
        self.zab_at(now).handle_snapshot_received(now, link, zxid);
    }

    /// What the leader sent was no whole state, or could not be kept.
    pub fn handle_snapshot_failed(&mut self, now: Time, link: LinkId) {
        self.sending.remove(&link);
        self.zab_at(now).handle_snapshot_failed(now, link);
    }

    /// Bytes have come or gone on a link.
    pub fn handle_progress(&mut self, now: Time, link: LinkId) {
        self.zab_at(now).handle_progress(now, link);
    }

    /// What was asked of the log has been read.
    pub fn handle_log_read(&mut self, now: Time, link: LinkId, txns: Result<Txns, LogGap>) {
        self.zab_at(now).handle_log_read(now, link, txns);
    }

    // ── Time, and the end ──

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Time, wall: WallMs) {
        self.set_time(now, wall);
        if let Some(zab) = &mut self.zab {
            zab.handle_timeout(now);
        }
        if self.pipeline.poll_timeout().is_some_and(|due| due <= now) {
            self.pipeline.handle_timeout(now, wall);
        }
    }

    /// When [`Replica::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let zab = self.zab.as_ref().and_then(Zab::poll_timeout);
        [zab, self.pipeline.poll_timeout()].into_iter().flatten().min()
    }

    /// The server is to stop: a leader hands its leadership over first. The pipeline hears of it at
    /// once, so that it prepares nothing more that could not be proposed.
    pub fn resign(&mut self, now: Time) {
        if self.zab.is_some() {
            // What was prepared in this turn is still proposed.
            self.settle();
            self.zab_at(now).resign(now);
            self.settle();
        }
    }

    /// The disk does not keep up, or has no room: see [`Zab::stand_back`].
    pub fn stand_back(&mut self, now: Time) {
        self.settle();
        self.zab_at(now).stand_back(now);
        self.settle();
    }

    // ── Out ──

    /// The transactions of a server on its own: they go to its log, and are cleared.
    pub fn take_txns(&mut self) -> &mut pipeline::Txns {
        assert!(self.is_alone(), "an ensemble's transactions are proposed");
        self.pipeline.take_txns()
    }

    /// What was prepared or applied since the last call is told together once it is committed: a
    /// server on its own says so when its log has taken its transactions, a member once a turn.
    /// Nothing depends on it but the cost of telling.
    pub fn handle_appended(&mut self) {
        self.pipeline.handle_appended();
    }

    /// What the shell performs next.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() && !self.is_alone() {
            self.settle();
        }
        self.actions.pop_front()
    }

    /// The state that `Action::SendSnapshot` of this link asks to send.
    pub fn state_to_send(&self, link: LinkId) -> Option<&StateAt> {
        self.sending.get(&link)
    }

    /// The oldest group that is committed and has not been published.
    pub fn poll_published(&mut self) -> Option<Published> {
        self.pipeline.poll_published()
    }

    /// An outbox that was published comes back, for its memory.
    pub fn handle_emptied(&mut self, outbox: Outbox) {
        self.pipeline.handle_emptied(outbox);
    }

    /// What is left of a group comes back, for its memory: its outboxes were handed out.
    pub fn handle_told(&mut self, told: Published) {
        self.pipeline.handle_told(told);
    }

    /// The oldest message that waits for no commit.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.pipeline.poll_notice()
    }

    /// Gives up records that no reader at or after `oldest_reader`, no snapshot at one of
    /// `snapshots` and no state on its way needs. Whether there is more.
    pub fn reclaim(&mut self, oldest_reader: Zxid, snapshots: &[Zxid]) -> bool {
        if self.sending.is_empty() {
            return self.pipeline.reclaim(oldest_reader, snapshots);
        }
        let sending = self.sending.values().map(|state| state.zxid);
        let mut held: Vec<Zxid> = snapshots.iter().copied().chain(sending).collect();
        held.sort_unstable();
        held.dedup();
        self.pipeline.reclaim(oldest_reader, &held)
    }

    fn zab_at(&mut self, now: Time) -> &mut Zab {
        self.now = now;
        self.zab.as_mut().expect("a server on its own has no peers")
    }
}
