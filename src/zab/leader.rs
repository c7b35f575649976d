//! The leader's side of agreement (`Leader.java`, `LearnerHandler.java`).
//!
//! ```text
//! discovery        FOLLOWERINFO from a quorum → epoch chosen, acceptedEpoch durable → LEADERINFO
//!                  ACKEPOCH from a quorum → own currentEpoch durable
//! synchronisation  each learner: DIFF, TRUNC or SNAP, what it lacks, NEWLEADER, its ACK
//!                  ACK of NEWLEADER from a quorum → the history is committed, UPTODATE
//! broadcast        PROPOSAL → ACK from a quorum → COMMIT, INFORM
//! ```
//!
//! A learner's place in the history is a *cursor*; nothing is copied for it. In the step in which
//! the cursor comes to the end of what is committed, the learner is sent NEWLEADER and *goes live*:
//! what is not committed follows at once, and everything later as it happens. What is not
//! committed comes behind NEWLEADER, since 3.8.0 acknowledges too early, and fails on the COMMIT
//! of, what comes before (ZOOKEEPER-4685, ZOOKEEPER-4394).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zab::handler::{Handler, Stage, packet_name};
use crate::zab::master::LearnerMaster;
use crate::zab::output::{Action, Event, LinkId, Role};
use crate::zab::peer::Peer;
use crate::zab::quorum::Quorum;
use crate::zxid::Zxid;

mod broadcast;

/// The only protocol version that is spoken.
pub(super) const PROTOCOL: i32 = 0x10000;
/// Epochs stay below the sign bit of a zxid.
const EPOCH_MAX: u32 = i32::MAX as u32;

/// How far the leadership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// FOLLOWERINFO of a quorum is awaited.
    Connecting,
    /// The own `acceptedEpoch` is being saved.
    Accepting,
    /// ACKEPOCH of a quorum is awaited.
    Electing,
    /// The ACKs of NEWLEADER by a quorum are awaited.
    Synchronization,
    Broadcast,
}

/// Why a leadership is brought to its end in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server is to stop.
    Resign,
    /// The epoch's counter is nearly used up.
    NewEpoch,
    /// A reconfiguration has named another leader: nothing is committed any more.
    Handover,
    /// The disk does not keep up, or has no room.
    StandBack,
}

/// A question whether this server still leads.
#[derive(Clone, Copy, Debug)]
struct Confirm {
    token: u64,
    /// The ping that a quorum has to answer.
    round: u64,
    /// What has to be committed.
    zxid: Zxid,
}

/// A leadership, from the election to its end.
#[derive(Debug)]
pub(super) struct Leader {
    phase: Phase,
    /// The epoch; before it is chosen the highest that anybody has accepted.
    epoch: u32,
    /// The end of the history that the leadership begins with.
    initial: Zxid,
    /// Within which `currentEpoch` that history was.
    initial_epoch: u32,
    /// The own `currentEpoch` is durable: the own ACK of NEWLEADER.
    is_in_step: bool,
    pub handlers: Vec<Handler>,
    quorum: Quorum,
    /// Up to where each voter's log is durable, in `quorum`'s order.
    acks: Vec<Zxid>,
    /// When something last went forward, until broadcast.
    since: Time,
    next_heartbeat: Time,
    round: u64,
    confirms: VecDeque<Confirm>,
    /// Who has elected this server and was heard to look for a leader again.
    pub disloyal: BTreeSet<ServerId>,
    ending: Option<(Ending, Time)>,
    /// Who leads from here on, where a reconfiguration has ended the leadership.
    pub successor: Option<ServerId>,
    /// Set when the leadership has ended, to why.
    pub over: Option<&'static str>,
    pub proposals: u64,
    pub began: Time,
    /// When a quorum had the history.
    pub established: Option<Time>,
    /// At this counter the epoch ends.
    counter_max: u32,
}

// ── Beginning ──
impl Leader {
    pub fn new(peer: &mut Peer, now: Time, counter_max: u32) -> Leader {
        let quorum = Quorum::new(&peer.ensemble);
        let mut leader = Leader {
            phase: Phase::Connecting,
            epoch: peer.accepted_epoch,
            initial: peer.last(),
            initial_epoch: peer.current_epoch,
            is_in_step: false,
            handlers: Vec::new(),
            acks: vec![Zxid::ZERO; quorum.len()],
            quorum,
            since: now,
            next_heartbeat: now + peer.ensemble.tick / 2,
            round: 0,
            confirms: VecDeque::new(),
            disloyal: BTreeSet::new(),
            ending: None,
            successor: None,
            over: None,
            proposals: 0,
            began: now,
            established: None,
            counter_max,
        };
        peer.perform(Action::Accept(true));
        leader.choose_epoch(peer, now);
        leader
    }

    pub fn is_established(&self) -> bool {
        self.phase == Phase::Broadcast
    }

    /// Up to when a quorum is known to have followed, once the leadership is established.
    pub fn led_at(&self, peer: &Peer) -> Option<Time> {
        let established = self.established?;
        let has_followed =
            |at: Time| self.is_quorum(peer, |it| it.stage == Stage::UpToDate && it.proven >= at);
        let proven = self.handlers.iter().map(|handler| handler.proven);
        // The only voter needs nobody's word.
        let proven = proven.chain([self.next_heartbeat]).filter(|&at| has_followed(at)).max();
        Some(proven.map_or(established, |proven| proven.max(established)))
    }

    /// The epoch, once it is chosen.
    pub fn epoch(&self) -> Option<u32> {
        (self.phase > Phase::Connecting).then_some(self.epoch)
    }

    /// Whether this server and the voters for which `counts` holds are a quorum.
    fn is_quorum(&self, peer: &Peer, counts: impl Fn(&Handler) -> bool) -> bool {
        self.quorum.contains(|voter| {
            self.quorum.is(voter, peer.me())
                || self
                    .handlers
                    .iter()
                    .any(|handler| handler.voter == Some(voter) && counts(handler))
        })
    }

    /// Ends everything: closes all connections.
    pub fn shut_down(&mut self, peer: &mut Peer) {
        peer.perform(Action::Accept(false));
        for handler in self.handlers.drain(..) {
            peer.perform(Action::Close { link: handler.link });
        }
    }
}

// ── What learners say ──
impl Leader {
    pub fn handle(&mut self, peer: &mut Peer, now: Time, link: LinkId, message: FromLearner) {
        let Some(at) = self.position(link) else { return };
        let name = packet_name(&message);
        let stage = self.handlers[at].stage;
        let fits = match message {
            FromLearner::Ack { zxid } => self.process_ack(peer, now, at, zxid),
            FromLearner::Info { .. } if stage == Stage::Connected => {
                self.process_info(peer, now, at, &message)
            }
            FromLearner::AckEpoch { last, current_epoch } if stage == Stage::Invited => {
                self.process_ack_epoch(peer, now, at, last, current_epoch);
                true
            }
            FromLearner::Ping { touched, .. } if stage == Stage::UpToDate => {
                self.process_ping(peer, now, at, touched)
            }
            asked if stage == Stage::UpToDate => self.pass_on(peer, at, asked),
            _ => false,
        };
        if !fits && let Some(at) = self.position(link) {
            self.reject(peer, now, at, name);
        }
    }

    fn process_info(&mut self, peer: &mut Peer, now: Time, at: usize, info: &FromLearner) -> bool {
        let FromLearner::Info {
            is_observer, server, accepted_epoch, protocol, config_version, ..
        } = *info
        else {
            return false;
        };
        let FromLearner::Info { extensions, .. } = *info else { return false };
        let extensions = extensions.and(peer.ensemble.extensions);
        let is_ahead = config_version > peer.ensemble.config_version;
        if protocol < PROTOCOL || is_ahead || accepted_epoch >= EPOCH_MAX {
            tracing::warn!(%server, protocol, config_version, accepted_epoch, "refused a learner");
            return false;
        }
        if server == peer.me() {
            tracing::warn!(%server, "another server has this server's id");
            return false;
        }
        // A learner that comes again has given its older connection up.
        let older = self.handlers.iter().position(|handler| handler.server == Some(server));
        let link = self.handlers[at].link;
        if let Some(older) = older {
            tracing::info!(%server, "a learner has connected again");
            self.drop_handler(peer, now, older);
        }
        let Some(at) = self.position(link) else { return true };
        let handler = &mut self.handlers[at];
        handler.server = Some(server);
        handler.is_observer = is_observer;
        let counts = !is_observer || peer.ensemble.is_new_voter(server);
        handler.voter = self.quorum.index(server).filter(|_| counts);
        handler.extensions = extensions;
        handler.stage = Stage::Informed;
        handler.since = now;
        if self.phase == Phase::Connecting {
            self.epoch = self.epoch.max(accepted_epoch);
            self.choose_epoch(peer, now);
        } else if self.phase > Phase::Accepting {
            self.invite(peer, now, at);
        }
        true
    }

    /// The epoch is one more than any that a quorum has accepted (`getEpochToPropose`).
    fn choose_epoch(&mut self, peer: &mut Peer, now: Time) {
        if !self.is_quorum(peer, |handler| handler.stage >= Stage::Informed) {
            return;
        }
        if self.epoch >= EPOCH_MAX {
            peer.stop("no epoch is left: zxids are used up".to_string());
            return;
        }
        self.epoch += 1;
        self.phase = Phase::Accepting;
        self.since = now;
        peer.save_accepted_epoch(self.epoch);
    }

    pub fn handle_accepted_epoch_saved(&mut self, peer: &mut Peer, now: Time) {
        if self.phase != Phase::Accepting || peer.accepted_epoch != self.epoch {
            return;
        }
        self.phase = Phase::Electing;
        self.since = now;
        peer.propose_version(self.epoch);
        for at in 0..self.handlers.len() {
            if self.handlers[at].stage == Stage::Informed {
                self.invite(peer, now, at);
            }
        }
        self.finish_election(peer, now);
    }

    fn invite(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let handler = &mut self.handlers[at];
        handler.stage = Stage::Invited;
        handler.since = now;
        let extensions = handler.extensions;
        let message = FromLeader::LeaderInfo { epoch: self.epoch, protocol: PROTOCOL, extensions };
        peer.perform(Action::ToLearner { link: handler.link, message });
    }

    /// `LeaderProcessACKEPOCH`.
    fn process_ack_epoch(
        &mut self,
        peer: &mut Peer,
        now: Time,
        at: usize,
        last: Zxid,
        current_epoch: Option<u32>,
    ) {
        let handler = &mut self.handlers[at];
        handler.since = now;
        handler.stage = Stage::Acknowledged { last };
        if self.phase >= Phase::Synchronization {
            self.bring_up(peer, now, at, last);
            return;
        }
        let Some(current_epoch) = current_epoch else {
            // It had accepted this epoch before: from then on it may have promised it to another.
            handler.voter = None;
            return;
        };
        if (current_epoch, last) > (self.initial_epoch, self.initial) {
            if handler.voter.is_some() {
                self.over = Some("a follower is ahead of its leader");
            } else {
                self.reject(peer, now, at, "ACKEPOCH ahead of the leader's");
            }
            return;
        }
        self.finish_election(peer, now);
    }

    /// A quorum has promised to follow nobody of an earlier epoch.
    fn finish_election(&mut self, peer: &mut Peer, now: Time) {
        let has_quorum =
            self.is_quorum(peer, |handler| matches!(handler.stage, Stage::Acknowledged { .. }));
        if self.phase != Phase::Electing || !has_quorum {
            return;
        }
        self.phase = Phase::Synchronization;
        self.since = now;
        assert!(peer.persisted == self.initial, "who votes has its log on disk");
        peer.save_current_epoch(self.epoch);
        self.restore_votes(peer);
        let links: Vec<_> = self.handlers.iter().map(|handler| handler.link).collect();
        for link in links {
            if let Some(at) = self.position(link)
                && let Stage::Acknowledged { last } = self.handlers[at].stage
            {
                self.bring_up(peer, now, at, last);
            }
        }
    }

    /// Who had accepted the epoch before does not help to elect its leader; once that is elected,
    /// its word counts as everybody's.
    fn restore_votes(&mut self, peer: &Peer) {
        for handler in &mut self.handlers {
            if let Some(server) = handler.server
                && (!handler.is_observer || peer.ensemble.is_new_voter(server))
            {
                handler.voter = self.quorum.index(server);
            }
        }
    }

    pub fn handle_current_epoch_saved(&mut self, peer: &mut Peer, now: Time) {
        if self.phase == Phase::Synchronization && peer.current_epoch == self.epoch {
            self.is_in_step = true;
            self.establish(peer, now);
        }
    }

    fn process_ping(
        &mut self,
        peer: &mut Peer,
        now: Time,
        at: usize,
        touched: Vec<(i64, i32)>,
    ) -> bool {
        if !self.handlers[at].end_ping() {
            return false;
        }
        if !touched.is_empty() {
            let learner = self.server(at);
            peer.tell(Event::Touched { learner, sessions: touched });
        }
        self.answer_confirms(peer, now);
        true
    }

    /// `LeaderProcessACK`, and for NEWLEADER `LeaderProcessACKLD`.
    fn process_ack(&mut self, peer: &mut Peer, now: Time, at: usize, zxid: Zxid) -> bool {
        let handler = &mut self.handlers[at];
        let is_new_leader = zxid == Zxid::new(self.epoch, 0);
        match handler.stage {
            Stage::NewLeader { through } if is_new_leader => {
                handler.stage = Stage::InStep;
                handler.since = now;
                handler.acked = handler.acked.max(through);
                if let Some(voter) = handler.voter {
                    self.acks[voter] = self.acks[voter].max(handler.acked);
                }
                self.welcome(peer, now, at);
                true
            }
            // The ACK of UPTODATE.
            Stage::InStep | Stage::UpToDate if is_new_leader => true,
            // 3.8 acknowledges what it is brought up by (ZOOKEEPER-4685).
            Stage::NewLeader { .. } | Stage::InStep | Stage::UpToDate => {
                if zxid > peer.last() {
                    return false;
                }
                handler.acked = handler.acked.max(zxid);
                if !matches!(handler.stage, Stage::NewLeader { .. })
                    && let Some(voter) = handler.voter
                    && self.acks[voter] < zxid
                {
                    self.acks[voter] = zxid;
                    self.try_to_commit(peer, now);
                }
                true
            }
            Stage::Reading { is_open: true, .. } | Stage::Sending { .. } => zxid <= peer.last(),
            _ => false,
        }
    }

    /// A learner is in step: it serves, or waits for a quorum that is.
    fn welcome(&mut self, peer: &mut Peer, now: Time, at: usize) {
        if self.is_established() {
            self.send_up_to_date(peer, now, at);
            self.try_to_commit(peer, now);
        } else {
            self.since = now;
            self.establish(peer, now);
        }
    }

    fn send_up_to_date(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let zxid = Zxid::new(self.epoch, 0);
        let handler = &mut self.handlers[at];
        handler.stage = Stage::UpToDate;
        handler.proven = now;
        peer.perform(Action::ToLearner {
            link: handler.link,
            message: FromLeader::UpToDate { zxid },
        });
    }

    /// A quorum has the history: it is committed, and the epoch is established.
    fn establish(&mut self, peer: &mut Peer, now: Time) {
        let has_quorum = self.is_quorum(peer, |handler| handler.stage >= Stage::InStep);
        if !self.is_in_step || !has_quorum {
            return;
        }
        self.phase = Phase::Broadcast;
        self.established = Some(now);
        if let Some(voter) = self.quorum.index(peer.me()) {
            self.acks[voter] = peer.persisted;
        }
        peer.commit(self.initial, self.handlers.iter().any(Handler::catches_up));
        // What the members were proposed to be is part of the history.
        peer.activate(Zxid::new(self.epoch, 0));
        self.take_members(peer);
        let is_voter = peer.ensemble.is_voter(peer.me());
        if is_voter {
            peer.set_role(Role::Leading { epoch: self.epoch });
        }
        for at in 0..self.handlers.len() {
            if self.handlers[at].stage == Stage::InStep {
                self.send_up_to_date(peer, now, at);
            }
        }
        self.next_heartbeat = now;
        if !is_voter {
            self.over = Some("it votes no more");
        }
    }

    /// Without a quorum nothing can be committed, and a learner that has lost its leader comes
    /// back through an election only, which this server would hold up.
    fn check_quorum(&mut self, peer: &Peer) {
        let is_served = |handler: &Handler| handler.stage == Stage::UpToDate;
        if self.is_established() && !self.is_quorum(peer, is_served) {
            self.over = Some("no quorum of followers is left");
        }
    }
}

impl LearnerMaster for Leader {
    fn handlers(&self) -> &[Handler] {
        &self.handlers
    }

    fn handlers_mut(&mut self) -> &mut Vec<Handler> {
        &mut self.handlers
    }

    fn through(&self, peer: &Peer) -> Zxid {
        if self.is_established() { peer.committed } else { self.initial }
    }

    fn new_leader(&self, peer: &Peer) -> FromLeader {
        // What a new leader begins with it completes; what it proposes itself comes as a proposal.
        let config = match self.is_established() {
            true => Arc::clone(&peer.ensemble.config),
            false => Arc::clone(peer.ensemble.last_seen()),
        };
        FromLeader::NewLeader { zxid: Zxid::new(self.epoch, 0), config }
    }

    fn note_progress(&mut self, now: Time) {
        self.since = now;
    }

    fn forget(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let handler = self.handlers.remove(at);
        if let Some(voter) = handler.voter {
            self.acks[voter] = Zxid::ZERO;
        }
        if let Some(learner) = handler.server
            && handler.stage == Stage::UpToDate
        {
            peer.tell(Event::LearnerGone { learner, link: handler.link });
        }
        if matches!(handler.stage, Stage::Sending { .. }) {
            self.send_queued_snapshots(peer, now);
        }
        self.check_quorum(peer);
    }
}

// ── Time, and the end ──
impl Leader {
    pub fn poll_timeout(&self) -> Time {
        match self.ending {
            Some((_, at)) => at.min(self.next_heartbeat),
            None => self.next_heartbeat,
        }
    }

    pub fn handle_timeout(&mut self, peer: &mut Peer, now: Time) {
        if let Some((_, at)) = self.ending
            && at <= now
        {
            self.over = Some(match self.successor {
                Some(_) => "a reconfiguration has named another leader",
                None => "the last proposals were not acknowledged in time",
            });
            return;
        }
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + peer.ensemble.tick / 2;
        self.close_silent(peer, now);
        if self.over.is_some() {
            return;
        }
        if self.is_established() {
            self.ping(peer, now);
            self.answer_confirms(peer, now);
        } else if now.since(self.since) > peer.init_limit() {
            self.over = Some("no quorum of followers came into step in time");
        }
        self.keep_waiting_learners(peer);
    }

    /// Whether the server is to stop when this leadership is over.
    pub fn is_resigning(&self) -> bool {
        matches!(self.ending, Some((Ending::Resign, _)))
    }

    /// Whether the others are to elect the next leader.
    pub fn is_standing_back(&self) -> bool {
        matches!(self.ending, Some((Ending::StandBack, _)))
    }

    /// Brings the leadership to its end: nothing is proposed from here on, and once everything is
    /// committed a quorum is in step, of which the next leader will be.
    pub fn end(&mut self, peer: &mut Peer, now: Time, ending: Ending) {
        if self.is_established() && self.ending.is_none() {
            self.ending = Some((ending, now + grace(peer)));
            // The pipeline proposes nothing without a role.
            peer.set_role(Role::Looking);
        }
        if ending == Ending::Resign {
            self.ending = Some((ending, self.ending.map_or(now, |(_, at)| at)));
        }
        self.finish_ending(peer);
    }

    fn finish_ending(&mut self, peer: &Peer) {
        let is_done = !self.is_established() || peer.committed.max(self.initial) == peer.last();
        if let Some((ending, _)) = self.ending
            && is_done
        {
            self.over = Some(match ending {
                Ending::Resign => "this server is to stop",
                Ending::NewEpoch => "the epoch's counter is used up",
                Ending::Handover => "a reconfiguration has named another leader",
                Ending::StandBack => "its disk does not keep up",
            });
        }
    }
}

/// How long the last proposals of a leadership are waited for.
fn grace(peer: &Peer) -> Duration {
    peer.ensemble.tick
}
