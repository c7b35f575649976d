//! A follower that serves observers, so that the leader does not have to (`ObserverMaster.java`).
//!
//! ```text
//! discovery        OBSERVERINFO → LEADERINFO of the leader's epoch → ACKEPOCH
//! synchronisation  DIFF, TRUNC or SNAP up to what is committed here, NEWLEADER, its ACK → UPTODATE
//! broadcast        the leader's COMMIT → INFORM; the leader's PING → PING; what observers ask is
//!                  passed on to the leader, and its answers to who has asked
//! ```
//!
//! Observers are told of what is committed and of nothing else: a follower may have to take back
//! the rest. Pings go out when the leader's come in, so that who hears of this server hears of a
//! leader, too.

use std::sync::Arc;

use crate::time::Time;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zab::handler::{Handler, Stage, packet_name};
use crate::zab::history::Place;
use crate::zab::leader::PROTOCOL;
use crate::zab::master::LearnerMaster;
use crate::zab::output::{Action, Event, LinkId};
use crate::zab::peer::Peer;
use crate::zxid::Zxid;

/// What a follower is to its observers, as long as it follows.
#[derive(Debug)]
pub(super) struct Relay {
    /// The leader's epoch.
    epoch: u32,
    pub handlers: Vec<Handler>,
    /// When learners are looked after next.
    next_heartbeat: Time,
    /// When the leader last gave a sign of life.
    heard: Time,
    /// When observers were pinged last.
    pinged: Time,
    round: u64,
}

impl Relay {
    /// Serves observers from here on.
    pub fn new(peer: &mut Peer, now: Time, epoch: u32) -> Relay {
        peer.perform(Action::AcceptObservers(true));
        let next_heartbeat = now + peer.ensemble.tick / 2;
        Relay { epoch, handlers: Vec::new(), next_heartbeat, heard: now, pinged: now, round: 0 }
    }

    /// Ends everything: closes all connections.
    pub fn shut_down(&mut self, peer: &mut Peer) {
        peer.perform(Action::AcceptObservers(false));
        for handler in self.handlers.drain(..) {
            peer.perform(Action::Close { link: handler.link });
        }
    }

    /// An observer has sent a packet.
    pub fn handle(&mut self, peer: &mut Peer, now: Time, link: LinkId, message: FromLearner) {
        let Some(at) = self.position(link) else { return };
        let name = packet_name(&message);
        let stage = self.handlers[at].stage;
        let fits = match message {
            FromLearner::Info { .. } if stage == Stage::Connected => {
                self.process_info(peer, now, at, &message)
            }
            FromLearner::AckEpoch { last, .. } if stage == Stage::Invited => {
                let handler = &mut self.handlers[at];
                handler.stage = Stage::Acknowledged { last };
                handler.since = now;
                self.bring_up_reached(peer, now);
                true
            }
            FromLearner::Ack { zxid } => self.process_ack(peer, now, at, zxid),
            FromLearner::Ping { touched, .. } if stage == Stage::UpToDate => {
                if !touched.is_empty() {
                    let learner = self.server(at);
                    peer.tell(Event::Touched { learner, sessions: touched });
                }
                self.handlers[at].end_ping()
            }
            asked if stage == Stage::UpToDate => self.pass_on(peer, at, asked),
            _ => false,
        };
        if !fits && let Some(at) = self.position(link) {
            self.reject(peer, now, at, name);
        }
    }

    fn process_info(&mut self, peer: &mut Peer, now: Time, at: usize, info: &FromLearner) -> bool {
        let &FromLearner::Info {
            is_observer,
            server,
            accepted_epoch,
            protocol,
            config_version,
            extensions,
        } = info
        else {
            return false;
        };
        // Whoever has accepted a later epoch has a leader elsewhere, and this server none for long.
        let is_ahead = config_version > peer.ensemble.config_version || accepted_epoch > self.epoch;
        if !is_observer || protocol < PROTOCOL || is_ahead || server == peer.me() {
            tracing::warn!(%server, is_observer, protocol, config_version, "refused an observer");
            return false;
        }
        // An observer that comes again has given its older connection up.
        let link = self.handlers[at].link;
        if let Some(older) = self.handlers.iter().position(|it| it.server == Some(server)) {
            tracing::info!(%server, "an observer has connected again");
            self.drop_handler(peer, now, older);
        }
        let Some(at) = self.position(link) else { return true };
        let extensions = extensions.and(peer.ensemble.extensions);
        let handler = &mut self.handlers[at];
        handler.server = Some(server);
        handler.is_observer = true;
        handler.extensions = extensions;
        handler.stage = Stage::Invited;
        handler.since = now;
        let message = FromLeader::LeaderInfo { epoch: self.epoch, protocol: PROTOCOL, extensions };
        self.send(peer, at, message);
        true
    }

    fn process_ack(&mut self, peer: &mut Peer, now: Time, at: usize, zxid: Zxid) -> bool {
        let is_new_leader = zxid == Zxid::new(self.epoch, 0);
        let handler = &mut self.handlers[at];
        match handler.stage {
            Stage::NewLeader { through } if is_new_leader => {
                handler.stage = Stage::UpToDate;
                handler.since = now;
                handler.proven = now;
                handler.acked = handler.acked.max(through);
                self.send(peer, at, FromLeader::UpToDate { zxid });
                // UPTODATE says nothing of the leader, whose next ping may be half a tick away.
                if now.since(self.heard) <= peer.ensemble.tick / 2 {
                    self.ping_one(peer, now, at);
                }
                true
            }
            // The ACK of UPTODATE; 3.8 also acknowledges what it is brought up by.
            Stage::NewLeader { .. } | Stage::UpToDate => zxid <= peer.last() || is_new_leader,
            Stage::Reading { is_open: true, .. } | Stage::Sending { .. } => zxid <= peer.last(),
            _ => false,
        }
    }

    /// Brings up those whose logs are no further than what is committed here. What another server
    /// has told them of this epoch comes here, too: to cut it off would take back what is
    /// committed.
    fn bring_up_reached(&mut self, peer: &mut Peer, now: Time) {
        let committed = peer.committed;
        let epoch = self.epoch;
        let is_reached = |handler: &Handler| match handler.stage {
            Stage::Acknowledged { last } => last <= committed || last.epoch() < epoch,
            _ => false,
        };
        while let Some(at) = self.handlers.iter().position(is_reached) {
            let Stage::Acknowledged { last } = self.handlers[at].stage else { return };
            self.bring_up(peer, now, at, last);
        }
    }

    /// Everything up to `through` is committed; `leader` is who leads from there on, if `through`
    /// changes the members. False if no transaction is called that.
    pub fn commit(
        &mut self,
        peer: &mut Peer,
        now: Time,
        through: Zxid,
        leader: Option<ServerId>,
    ) -> bool {
        if !self.inform(peer, through, leader) {
            return false;
        }
        peer.commit(through, self.handlers.iter().any(Handler::catches_up));
        let is_waiting = |handler: &Handler| matches!(handler.stage, Stage::Acknowledged { .. });
        if self.handlers.iter().any(is_waiting) {
            self.bring_up_reached(peer, now);
        }
        true
    }

    /// Passes on what is committed behind `peer.committed`; false if it ends with no transaction.
    fn inform(&self, peer: &mut Peer, through: Zxid, leader: Option<ServerId>) -> bool {
        if through <= peer.committed || !self.handlers.iter().any(Handler::is_live) {
            return true;
        }
        let (Place::Before(first), Place::Before(end)) =
            (peer.history.locate(peer.committed), peer.history.locate(through))
        else {
            return false;
        };
        for index in first..end {
            let entry = peer.history.entry(index).expect("the window has what is committed");
            let (zxid, txn) = (entry.zxid, Arc::clone(&entry.txn));
            let leader = leader.filter(|_| zxid == through);
            for handler in self.handlers.iter().filter(|handler| handler.is_live()) {
                let txn = Arc::clone(&txn);
                let message = match leader {
                    None => FromLeader::Inform { zxid, txn },
                    Some(designated_leader) => {
                        FromLeader::InformAndActivate { zxid, designated_leader, txn }
                    }
                };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
        }
        true
    }

    /// The leader has pinged: it lives, and so may the observers hear.
    pub fn ping(&mut self, peer: &mut Peer, now: Time) {
        self.heard = now;
        // Leaders ping more often than for a sign of life.
        if now.since(self.pinged) < peer.ensemble.tick / 4 {
            return;
        }
        self.pinged = now;
        self.round += 1;
        for at in 0..self.handlers.len() {
            if self.handlers[at].stage == Stage::UpToDate {
                self.ping_one(peer, now, at);
            }
        }
        self.keep_waiting_learners(peer);
    }

    fn ping_one(&mut self, peer: &mut Peer, now: Time, at: usize) {
        if self.handlers[at].begin_ping(self.round, now) {
            let zxid = peer.committed;
            self.send(peer, at, FromLeader::Ping { zxid });
        }
    }

    pub fn poll_timeout(&self) -> Time {
        self.next_heartbeat
    }

    pub fn handle_timeout(&mut self, peer: &mut Peer, now: Time) {
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + peer.ensemble.tick / 2;
            self.close_unreached(peer, now);
            self.close_silent(peer, now);
        }
    }

    /// Sends those away that this server does not come to in time: others may be further.
    fn close_unreached(&mut self, peer: &mut Peer, now: Time) {
        let limit = peer.sync_limit();
        let is_late = |handler: &Handler| {
            matches!(handler.stage, Stage::Acknowledged { .. }) && now.since(handler.since) > limit
        };
        while let Some(at) = self.handlers.iter().position(is_late) {
            self.reject(peer, now, at, "it is ahead of this server");
        }
    }
}

impl LearnerMaster for Relay {
    fn handlers(&self) -> &[Handler] {
        &self.handlers
    }

    fn handlers_mut(&mut self) -> &mut Vec<Handler> {
        &mut self.handlers
    }

    fn through(&self, peer: &Peer) -> Zxid {
        peer.committed
    }

    fn new_leader(&self, peer: &Peer) -> FromLeader {
        // Of members that are proposed an observer hears with their commit.
        let config = Arc::clone(&peer.ensemble.config);
        FromLeader::NewLeader { zxid: Zxid::new(self.epoch, 0), config }
    }

    fn note_progress(&mut self, _now: Time) {}

    fn forget(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let handler = self.handlers.remove(at);
        if let Some(learner) = handler.server
            && handler.stage == Stage::UpToDate
        {
            peer.tell(Event::LearnerGone { learner, link: handler.link });
        }
        if matches!(handler.stage, Stage::Sending { .. }) {
            self.send_queued_snapshots(peer, now);
        }
    }
}
