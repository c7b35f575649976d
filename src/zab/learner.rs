//! A learner's side of agreement (`Learner.java`, `Follower.java`, `Observer.java`).
//!
//! ```text
//! discovery        FOLLOWERINFO → LEADERINFO → own acceptedEpoch durable → ACKEPOCH
//! synchronisation  DIFF │ TRUNC, the log cut │ SNAP, the state replaced; what is lacking
//!                  NEWLEADER → log durable → own currentEpoch durable → ACK
//! broadcast        UPTODATE → ACK, serves; PROPOSAL → log durable → ACK; COMMIT, INFORM
//! ```
//!
//! A COMMIT before UPTODATE is only noted: an Apache leader says it of its whole history before a
//! quorum has that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use crate::zab::handler::Handler;
use crate::zab::history::follows;
use crate::zab::leader::PROTOCOL;
use crate::zab::master::LearnerMaster;
use crate::zab::output::{Action, CannotTruncate, Event, LinkId, Role, Standing};
use crate::zab::peer::Peer;
use crate::zab::relay::Relay;
use crate::zxid::Zxid;

/// A leader that has been elected a moment ago may not listen yet: the first pause before it is
/// dialled again, which doubles up to the second.
const REDIAL_MIN: Duration = Duration::from_millis(2);
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// A leader that has not been reached for so long, or for a tick if that is more, is given up.
const REACH_MIN: Duration = Duration::from_secs(1);
/// What comes while the log is being cut waits, at most so many bytes of it.
const DEFERRED_BYTES_MAX: usize = 64 << 20;

/// How far a learner has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Something is under way to the disk; then the leader is dialled.
    Draining,
    /// The leader is being dialled.
    Dialling,
    /// It is dialled again at this time.
    Redialling(Time),
    /// LEADERINFO is awaited.
    Registering,
    /// The own `acceptedEpoch` is being saved.
    Accepting,
    /// DIFF, TRUNC or SNAP is awaited.
    Acknowledged,
    /// The log is being cut.
    Truncating {
        after: Zxid,
    },
    /// The snapshot at `zxid` comes.
    Receiving {
        zxid: Zxid,
    },
    /// What is lacking comes, then NEWLEADER.
    Synchronizing,
    /// NEWLEADER has come; everything up to `through` is to be durable, then the own
    /// `currentEpoch`.
    Persisting {
        through: Zxid,
    },
    /// NEWLEADER is acknowledged; UPTODATE is awaited.
    InStep,
    UpToDate,
}

/// A server under the leader that it has elected or found.
#[derive(Debug)]
pub(super) struct Learner {
    pub leader: ServerId,
    /// Where it connects to: the leader, or a follower that serves observers.
    pub master: ServerId,
    /// What it is to its observers, while it follows.
    pub relay: Option<Relay>,
    /// It says OBSERVERINFO: it has no vote, or does not trust its own state.
    is_observer: bool,
    link: Option<LinkId>,
    stage: Stage,
    /// The leader's epoch, once it is known.
    epoch: u32,
    /// What the leader has agreed to; nothing, if it is a Java server.
    extensions: Extensions,
    /// Its ACKEPOCH counts towards the epoch's quorum.
    vouches: bool,
    /// It claims an empty log, since it cannot cut its own where the leader wants it cut.
    claims_nothing: bool,
    /// What ACKEPOCH said of the end of the log.
    claimed: Zxid,
    /// Up to where the leader has said that it is committed.
    committed: Zxid,
    /// The state came as a snapshot; what it already holds may come again.
    snapshot: Option<Zxid>,
    /// Up to where ACKs were sent.
    acked: Zxid,
    /// When the leader was last heard of, or this server itself came further.
    heard: Time,
    /// When a follower has last passed on something of the leader's.
    passed_on: Option<Time>,
    redial: Duration,
    deferred: VecDeque<FromLeader>,
    deferred_bytes: usize,
    /// Who leads from here on, where a reconfiguration has ended this.
    pub successor: Option<ServerId>,
    /// Set when this has ended, to why.
    pub over: Option<&'static str>,
    /// It has ended because nothing answers where the leader should be.
    pub is_out_of_reach: bool,
    pub began: Time,
    pub up_to_date: Option<Time>,
}

// ── Finding the leader ──
impl Learner {
    /// When the leader was last heard of, once this server serves under it. By way of a follower
    /// that is when it passed on something of the leader's: what it says of itself, as when it
    /// brings this server into step, it also says while it is cut off.
    pub fn led_at(&self) -> Option<Time> {
        match self.has_master() {
            true => self.passed_on,
            false => self.up_to_date.map(|_| self.heard),
        }
    }

    /// Dials `master`, which is `leader` or one of its followers, after `pause`.
    pub fn new(
        peer: &mut Peer,
        now: Time,
        (leader, master): (ServerId, ServerId),
        pause: Duration,
    ) -> Learner {
        let mut learner = Learner {
            leader,
            master,
            relay: None,
            is_observer: false,
            link: None,
            stage: Stage::Draining,
            epoch: 0,
            extensions: Extensions::default(),
            vouches: false,
            claims_nothing: false,
            claimed: Zxid::ZERO,
            committed: Zxid::ZERO,
            snapshot: None,
            acked: Zxid::ZERO,
            heard: now,
            passed_on: None,
            redial: REDIAL_MIN,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            successor: None,
            over: None,
            is_out_of_reach: false,
            began: now,
            up_to_date: None,
        };
        match pause {
            Duration::ZERO => learner.dial_when_settled(peer),
            pause => {
                learner.heard = now + pause;
                learner.stage = Stage::Redialling(now + pause);
            }
        }
        learner
    }

    /// Whether the leader has not been reached yet.
    pub fn is_dialling(&self) -> bool {
        matches!(self.stage, Stage::Draining | Stage::Dialling | Stage::Redialling(_))
    }

    /// Whether it is an observer that a follower serves.
    pub fn has_master(&self) -> bool {
        self.master != self.leader
    }

    /// The leader's epoch, once it is known.
    pub fn epoch(&self) -> Option<u32> {
        (self.epoch > 0).then_some(self.epoch)
    }

    fn dial_when_settled(&mut self, peer: &mut Peer) {
        if self.stage == Stage::Draining && peer.is_settled_on_disk() {
            // Who is not listed follows without a vote: it may be about to get one.
            let is_observer = peer.ensemble.is_observer(peer.me());
            self.is_observer = is_observer || peer.standing != Standing::Sound;
            self.stage = Stage::Dialling;
            let to = self.master;
            peer.perform(match self.has_master() {
                true => Action::ConnectMaster { to },
                false => Action::Connect { to },
            });
        }
    }

    pub fn handle_connected(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if self.stage != Stage::Dialling {
            peer.perform(Action::Close { link });
            return;
        }
        self.link = Some(link);
        self.stage = Stage::Registering;
        self.heard = now;
        let info = FromLearner::Info {
            is_observer: self.is_observer,
            server: peer.me(),
            accepted_epoch: peer.accepted_epoch,
            protocol: PROTOCOL,
            config_version: peer.ensemble.config_version,
            extensions: peer.ensemble.extensions,
        };
        self.send(peer, info);
    }

    pub fn handle_connect_failed(&mut self, now: Time, to: ServerId) {
        if self.stage != Stage::Dialling || to != self.master {
            return;
        }
        if self.has_master() {
            self.over = Some("the observer master cannot be reached");
        } else {
            self.stage = Stage::Redialling(now + self.redial);
            self.redial = (self.redial * 2).min(REDIAL_MAX);
        }
    }

    pub fn handle_disconnected(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if self.link == Some(link) {
            self.link = None;
            self.over = Some("the connection to the leader is lost");
        } else if let Some(relay) = &mut self.relay {
            relay.handle_disconnected(peer, now, link);
        }
    }

    /// The observers that this server serves.
    pub fn observers(&self) -> &[Handler] {
        self.relay.as_ref().map_or(&[], |relay| &relay.handlers)
    }

    /// One of them has sent a packet.
    pub fn handle_from_observer(
        &mut self,
        peer: &mut Peer,
        now: Time,
        link: LinkId,
        message: FromLearner,
    ) {
        if let Some(relay) = &mut self.relay {
            relay.handle(peer, now, link, message);
        }
    }

    /// Ends everything: closes the connection, and lets the observers go.
    pub fn shut_down(&mut self, peer: &mut Peer) {
        if let Some(mut relay) = self.relay.take() {
            relay.shut_down(peer);
        }
        if let Some(link) = self.link.take() {
            peer.perform(Action::Close { link });
        }
    }

    /// Gives this connection up and dials the leader again.
    fn join_again(&mut self, peer: &mut Peer, now: Time) {
        self.shut_down(peer);
        self.stage = Stage::Draining;
        self.heard = now;
        self.snapshot = None;
        self.committed = Zxid::ZERO;
        self.acked = Zxid::ZERO;
        self.redial = REDIAL_MIN;
        self.deferred.clear();
        self.deferred_bytes = 0;
        self.dial_when_settled(peer);
    }

    fn send(&self, peer: &mut Peer, message: FromLearner) {
        let link = self.link.expect("who has something to say to its leader is connected");
        peer.perform(Action::ToLeader { link, message });
    }
}

// ── What the leader says ──
impl Learner {
    pub fn handle(&mut self, peer: &mut Peer, now: Time, link: LinkId, message: FromLeader) {
        if self.link != Some(link) {
            return;
        }
        self.heard = now;
        if self.stage == Stage::UpToDate {
            self.passed_on = Some(now);
        }
        if matches!(self.stage, Stage::Truncating { .. } | Stage::Receiving { .. }) {
            self.defer(message);
            return;
        }
        let name = packet_name(&message);
        if !self.process(peer, now, message) {
            tracing::warn!(
                leader = self.leader.0,
                packet = name,
                stage = ?self.stage,
                "closed the connection to the leader",
            );
            self.over = Some("the leader has sent a packet that does not fit");
        }
    }

    /// Keeps what comes while the state is being cut or replaced.
    fn defer(&mut self, message: FromLeader) {
        self.deferred_bytes += 64;
        if let FromLeader::Proposal { txn, .. } | FromLeader::Inform { txn, .. } = &message {
            self.deferred_bytes += txn.len();
        }
        self.deferred.push_back(message);
        if self.deferred_bytes > DEFERRED_BYTES_MAX {
            self.over = Some("too much came while the log was being cut");
        }
    }

    fn process_deferred(&mut self, peer: &mut Peer, now: Time) {
        self.deferred_bytes = 0;
        let deferred = std::mem::take(&mut self.deferred);
        for message in deferred {
            let Some(link) = self.link.filter(|_| self.over.is_none()) else { break };
            self.handle(peer, now, link, message);
        }
    }

    /// Takes a packet; false if it does not fit.
    fn process(&mut self, peer: &mut Peer, now: Time, message: FromLeader) -> bool {
        match (self.stage, message) {
            (Stage::Registering, FromLeader::LeaderInfo { epoch, protocol, extensions }) => {
                self.extensions = extensions.and(peer.ensemble.extensions);
                self.process_leader_info(peer, epoch, protocol)
            }
            (Stage::UpToDate, FromLeader::Ping { zxid }) => {
                let link = self.link.expect("a packet comes on a connection");
                peer.tell(Event::Pinged { link, zxid });
                if let Some(relay) = &mut self.relay {
                    relay.ping(peer, now);
                }
                true
            }
            // Not answered before UPTODATE: Apache's leaders expect nothing but ACKs there.
            (_, FromLeader::Ping { .. }) => true,
            (Stage::Acknowledged, message) => self.process_opening(peer, message),
            (
                Stage::Synchronizing | Stage::Persisting { .. } | Stage::InStep | Stage::UpToDate,
                message,
            ) => self.process_history(peer, now, message),
            _ => false,
        }
    }

    /// `FollowerProcessLEADERINFO`.
    fn process_leader_info(&mut self, peer: &mut Peer, epoch: u32, protocol: i32) -> bool {
        if protocol < PROTOCOL || epoch > i32::MAX as u32 {
            return false;
        }
        if epoch < peer.accepted_epoch {
            tracing::warn!(leader = self.leader.0, epoch, accepted = peer.accepted_epoch, "stale");
            return false;
        }
        self.epoch = epoch;
        // A promise that was made before does not count again. Nor does that of a server that is
        // not sure of what it has acknowledged: it does not help to elect anybody.
        self.vouches = epoch > peer.accepted_epoch && peer.standing == Standing::Sound;
        if epoch > peer.accepted_epoch_saved {
            self.stage = Stage::Accepting;
            peer.save_accepted_epoch(epoch);
        } else {
            self.acknowledge_epoch(peer);
        }
        true
    }

    pub fn handle_accepted_epoch_saved(&mut self, peer: &mut Peer) {
        if self.stage == Stage::Accepting && peer.accepted_epoch == self.epoch {
            self.acknowledge_epoch(peer);
        }
        self.dial_when_settled(peer);
    }

    fn acknowledge_epoch(&mut self, peer: &mut Peer) {
        assert!(peer.is_settled_on_disk(), "ACKEPOCH speaks of what is durable");
        self.claimed = if self.claims_nothing { Zxid::ZERO } else { peer.last() };
        self.stage = Stage::Acknowledged;
        let current_epoch = self.vouches.then_some(peer.current_epoch);
        self.send(peer, FromLearner::AckEpoch { last: self.claimed, current_epoch });
    }

    /// `FollowerProcessSyncMessage`.
    fn process_opening(&mut self, peer: &mut Peer, message: FromLeader) -> bool {
        match message {
            FromLeader::Diff { through } => {
                if self.claimed != peer.last() {
                    // It goes on from what was claimed, which is not what this server has.
                    return false;
                }
                self.committed = through;
                self.stage = Stage::Synchronizing;
                true
            }
            FromLeader::Trunc { after } => {
                if self.is_certain_beyond(peer, after) {
                    return true;
                }
                self.committed = after;
                if after >= peer.last() {
                    // There is nothing to cut.
                    self.stage = Stage::Synchronizing;
                    return after == peer.last();
                }
                self.stage = Stage::Truncating { after };
                peer.is_truncating = true;
                peer.tell(Event::Pop { after });
                peer.perform(Action::Truncate { after });
                true
            }
            FromLeader::Snap { zxid } => {
                if self.is_certain_beyond(peer, zxid) {
                    return true;
                }
                self.committed = zxid;
                self.stage = Stage::Receiving { zxid };
                peer.is_receiving = true;
                let link = self.link.expect("a packet comes on a connection");
                let extensions = self.extensions;
                peer.perform(Action::ReceiveSnapshot { link, zxid, extensions });
                true
            }
            _ => false,
        }
    }

    /// A leader that would take away what is committed has forgotten it (R10).
    fn is_certain_beyond(&mut self, peer: &mut Peer, end: Zxid) -> bool {
        if end >= peer.certain {
            return false;
        }
        if self.has_master() {
            self.over = Some("the observer master is behind this server");
            return true;
        }
        peer.stop(format!(
            "the leader, server {}, would take this server back to {end}, but everything up to {} \
             is committed: the ensemble has lost data that this server still has",
            self.leader, peer.certain
        ));
        self.over = Some("the leader would take back what is committed");
        true
    }

    pub fn handle_truncated(
        &mut self,
        peer: &mut Peer,
        now: Time,
        after: Result<Zxid, CannotTruncate>,
    ) {
        if let Stage::Truncating { after: wanted } = self.stage {
            match after {
                Ok(after) => {
                    assert_eq!(after, wanted, "the log was cut elsewhere");
                    self.heard = now;
                    self.stage = Stage::Synchronizing;
                    self.process_deferred(peer, now);
                }
                Err(CannotTruncate) => {
                    tracing::info!(after = %wanted, "the log cannot be cut: asks for a snapshot");
                    self.claims_nothing = true;
                    self.join_again(peer, now);
                }
            }
        }
        self.dial_when_settled(peer);
    }

    pub fn handle_snapshot_received(&mut self, peer: &mut Peer, now: Time, zxid: Zxid) {
        if let Stage::Receiving { zxid: wanted } = self.stage {
            assert_eq!(zxid, wanted, "another snapshot was taken in");
            self.heard = now;
            self.claims_nothing = false;
            self.snapshot = Some(zxid);
            self.stage = Stage::Synchronizing;
            self.process_deferred(peer, now);
        }
        self.dial_when_settled(peer);
    }

    pub fn handle_snapshot_failed(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if let Some(relay) = &mut self.relay {
            relay.handle_snapshot_failed(peer, now, link);
        }
        if matches!(self.stage, Stage::Receiving { .. }) {
            self.over = Some("the snapshot did not come whole");
        }
        self.dial_when_settled(peer);
    }

    /// Bytes of a snapshot have come.
    pub fn handle_progress(&mut self, now: Time, link: LinkId) {
        if self.link == Some(link) {
            self.heard = now;
        } else if let Some(relay) = &mut self.relay {
            relay.handle_progress(now, link);
        }
    }
}

// ── The history, and what is new ──
impl Learner {
    fn process_history(&mut self, peer: &mut Peer, now: Time, message: FromLeader) -> bool {
        let is_up_to_date = self.stage == Stage::UpToDate;
        match message {
            FromLeader::Proposal { .. } if is_up_to_date && self.is_observer => {
                tracing::warn!(leader = self.leader.0, "ignored a PROPOSAL to an observer");
                true
            }
            FromLeader::Proposal { zxid, txn } => self.process_proposal(peer, zxid, txn),
            FromLeader::Commit { .. } if is_up_to_date && self.is_observer => {
                tracing::warn!(leader = self.leader.0, "ignored a COMMIT to an observer");
                true
            }
            FromLeader::Commit { zxid } => self.process_commit(peer, now, zxid, None),
            FromLeader::CommitAndActivate { zxid, designated_leader: leader } => {
                self.process_commit(peer, now, zxid, Some(leader))
            }
            FromLeader::Inform { zxid, txn } => {
                self.is_observer
                    && self.process_proposal(peer, zxid, txn)
                    && self.process_commit(peer, now, zxid, None)
            }
            FromLeader::InformAndActivate { zxid, designated_leader: leader, txn } => {
                self.is_observer
                    && self.process_proposal(peer, zxid, txn)
                    && self.process_commit(peer, now, zxid, Some(leader))
            }
            FromLeader::NewLeader { zxid, config } if self.stage == Stage::Synchronizing => {
                peer.note_leaders_config(&config);
                peer.forget_heard();
                self.process_new_leader(peer, zxid)
            }
            FromLeader::UpToDate { .. } if self.stage == Stage::InStep => {
                self.process_up_to_date(peer, now);
                true
            }
            FromLeader::Sync if is_up_to_date => {
                peer.tell(Event::Synced);
                true
            }
            FromLeader::Revalidated { session, is_valid } if is_up_to_date => {
                peer.tell(Event::Revalidated { session, is_valid });
                true
            }
            _ => false,
        }
    }

    /// `FollowerProcessPROPOSAL`.
    fn process_proposal(&mut self, peer: &mut Peer, zxid: Zxid, txn: Arc<[u8]>) -> bool {
        if self.snapshot.is_some_and(|snapshot| zxid <= snapshot) && zxid <= peer.last() {
            // Apache's leaders choose what follows a snapshot before they take it.
            return true;
        }
        if !follows(peer.last(), zxid) {
            tracing::warn!(%zxid, last = %peer.last(), "the leader has left a gap");
            return false;
        }
        // Behind NEWLEADER only the leader itself proposes.
        let is_own_epoch = zxid.epoch() == self.epoch;
        if zxid.epoch() > self.epoch || !(self.stage == Stage::Synchronizing || is_own_epoch) {
            return false;
        }
        peer.accept(zxid, txn);
        true
    }

    /// `FollowerProcessCOMMIT`; `leader` is who leads from there on, where the members change.
    fn process_commit(
        &mut self,
        peer: &mut Peer,
        now: Time,
        zxid: Zxid,
        leader: Option<ServerId>,
    ) -> bool {
        if zxid > peer.last() {
            return false;
        }
        self.committed = self.committed.max(zxid);
        if self.stage == Stage::UpToDate {
            match &mut self.relay {
                None => peer.commit(zxid, false),
                Some(relay) => {
                    if !relay.commit(peer, now, zxid, leader) {
                        return false;
                    }
                }
            }
            self.follow_members(peer, leader);
        }
        true
    }

    /// The members may have changed: another may lead, or this server be an observer or none any
    /// more. Then it joins anew, without an election.
    fn follow_members(&mut self, peer: &Peer, leader: Option<ServerId>) {
        let leader = leader.filter(|_| peer.ensemble.is_dynamic).unwrap_or(self.leader);
        let is_observer = peer.ensemble.is_observer(peer.me());
        if leader != self.leader || is_observer != self.is_observer {
            self.successor = Some(leader);
            self.over = Some("a reconfiguration has changed the leader or this server's part");
        }
    }

    /// `FollowerProcessNEWLEADER`.
    fn process_new_leader(&mut self, peer: &mut Peer, zxid: Zxid) -> bool {
        if zxid != Zxid::new(self.epoch, 0) {
            return false;
        }
        self.stage = Stage::Persisting { through: peer.last() };
        self.persist_epoch(peer);
        true
    }

    /// First the history, then the epoch in which it is the right one, then the ACK
    /// (ZOOKEEPER-4643, ZOOKEEPER-4646).
    fn persist_epoch(&mut self, peer: &mut Peer) {
        let Stage::Persisting { through } = self.stage else { return };
        if peer.persisted < through || peer.saving_current.is_some() {
            return;
        }
        if peer.current_epoch != self.epoch || peer.is_current_doubtful {
            peer.save_current_epoch(self.epoch);
            return;
        }
        self.stage = Stage::InStep;
        self.send(peer, FromLearner::Ack { zxid: Zxid::new(self.epoch, 0) });
        self.acked = through;
        self.acknowledge(peer);
    }

    pub fn handle_current_epoch_saved(&mut self, peer: &mut Peer) {
        self.persist_epoch(peer);
        self.dial_when_settled(peer);
    }

    /// The disk has come further: the only source of ACKs.
    pub fn handle_persisted(&mut self, peer: &mut Peer, now: Time) {
        match self.stage {
            Stage::Persisting { .. } => {
                self.heard = now;
                self.persist_epoch(peer);
            }
            Stage::InStep | Stage::UpToDate => self.acknowledge(peer),
            _ => {}
        }
        self.dial_when_settled(peer);
    }

    /// One ACK for each transaction, as Apache's leaders want it, or one for all.
    fn acknowledge(&mut self, peer: &mut Peer) {
        if self.is_observer {
            return;
        }
        if self.extensions.cumulative && self.acked < peer.persisted {
            self.acked = peer.persisted;
            self.send(peer, FromLearner::Ack { zxid: self.acked });
        }
        while self.acked < peer.persisted {
            let next = match self.acked.epoch() == self.epoch {
                true => self.acked.next().expect("what is durable is later"),
                false => Zxid::new(self.epoch, 1),
            };
            self.send(peer, FromLearner::Ack { zxid: next });
            self.acked = next;
        }
    }

    /// `FollowerProcessUPTODATE`: what the leader has said is committed is, since a quorum has it.
    fn process_up_to_date(&mut self, peer: &mut Peer, now: Time) {
        let link = self.link.expect("a packet comes on a connection");
        self.send(peer, FromLearner::Ack { zxid: Zxid::new(self.epoch, 0) });
        peer.commit(self.committed.min(peer.last()), false);
        // What the leader began with it has completed, also where no transaction says it.
        peer.activate(self.committed.max(Zxid::new(self.epoch, 0)));
        if peer.standing != Standing::Sound {
            // A leader has made it whole, and that is durable: it has its vote again.
            peer.standing = Standing::Sound;
            peer.perform(Action::SaveSound);
            if !peer.ensemble.is_observer(peer.me()) {
                self.join_again(peer, now);
                return;
            }
        }
        self.stage = Stage::UpToDate;
        self.up_to_date = Some(now);
        self.follow_members(peer, None);
        if self.over.is_some() {
            return;
        }
        let leader = self.leader;
        peer.set_role(match self.is_observer {
            true => Role::Observing { leader, link },
            false => Role::Following { leader, link },
        });
        if peer.ensemble.has_observer_masters && !self.is_observer {
            self.relay = Some(Relay::new(peer, now, self.epoch));
        }
    }
}

// ── Time ──
impl Learner {
    pub fn poll_timeout(&self, peer: &Peer) -> Time {
        let limit = self.heard + self.limit(peer);
        match (self.stage, &self.relay) {
            (Stage::Redialling(at), _) => at.min(limit),
            (_, Some(relay)) => relay.poll_timeout().min(limit),
            _ => limit,
        }
    }

    fn limit(&self, peer: &Peer) -> Duration {
        match self.stage {
            Stage::UpToDate => peer.sync_limit(),
            _ if self.is_dialling() => reach_limit(peer),
            _ => peer.init_limit(),
        }
    }

    pub fn handle_timeout(&mut self, peer: &mut Peer, now: Time) {
        if now >= self.heard + self.limit(peer) {
            self.is_out_of_reach = self.is_dialling();
            self.over = Some(match self.is_out_of_reach {
                true => "the leader's quorum port does not answer",
                false => "the leader is silent",
            });
        } else if let Stage::Redialling(at) = self.stage
            && at <= now
        {
            self.stage = Stage::Draining;
            self.dial_when_settled(peer);
        } else if let Some(relay) = &mut self.relay {
            relay.handle_timeout(peer, now);
        }
    }
}

/// How long a leader that was elected is dialled.
pub(super) fn reach_limit(peer: &Peer) -> Duration {
    peer.ensemble.tick.max(REACH_MIN).min(peer.init_limit())
}

/// What a message is called on the wire.
fn packet_name(message: &FromLeader) -> &'static str {
    match message {
        FromLeader::LeaderInfo { .. } => "LEADERINFO",
        FromLeader::Diff { .. } => "DIFF",
        FromLeader::Trunc { .. } => "TRUNC",
        FromLeader::Snap { .. } => "SNAP",
        FromLeader::NewLeader { .. } => "NEWLEADER",
        FromLeader::UpToDate { .. } => "UPTODATE",
        FromLeader::Proposal { .. } => "PROPOSAL",
        FromLeader::Commit { .. } => "COMMIT",
        FromLeader::CommitAndActivate { .. } => "COMMITANDACTIVATE",
        FromLeader::Inform { .. } => "INFORM",
        FromLeader::InformAndActivate { .. } => "INFORMANDACTIVATE",
        FromLeader::Ping { .. } => "PING",
        FromLeader::Sync => "SYNC",
        FromLeader::Revalidated { .. } => "REVALIDATE",
        FromLeader::Chunk { .. } => "a snapshot's chunk",
    }
}
