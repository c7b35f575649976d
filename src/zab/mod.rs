//! Agreement: who leads, and in which order transactions happen, as a plain value.
//!
//! In: `handle_*` and `propose`. Out: [`Zab::poll_output`], which is drained after every call that
//! goes in, before the next.
//!
//! Handlers carry the names of the actions of Apache's TLA+ specification
//! (`zookeeper-specifications/protocol-spec/Zab.tla`).
//!
//! The invariant that the whole server stands on: **the tree holds exactly the log**. A
//! transaction is applied when it is appended, on the leader and on learners alike, and published
//! to clients when it is committed; both go back together, and only when a leader says so (TRUNC,
//! SNAP). What was appended and not committed when a leadership ends stays in both, unpublished,
//! until the next leader confirms it or takes it away.

pub mod output;

pub mod ensemble;

pub mod election;

pub mod status;

mod peer;

mod config;

mod history;

mod sync;

mod quorum;

mod handler;

mod master;

mod leader;

mod learner;

mod relay;

mod masters;

mod joins;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::wire::election::{Doing, Notification, Vote};
use crate::wire::membership::Membership;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zxid::Zxid;

use self::election::{Election, ElectionOutput};
use self::ensemble::Ensemble;
use self::joins::Joins;
use self::leader::{Ending, Leader};
use self::learner::Learner;
use self::master::LearnerMaster;
use self::masters::Masters;
use self::output::{
    Action, CannotTruncate, LinkId, LogGap, Output, Recovered, Role, Standing, Txns,
};
use self::peer::Peer;

/// At this counter a leader begins a new epoch: far enough from the end for what is proposed until
/// it has.
const COUNTER_MAX: u32 = u32::MAX - (1 << 16);
/// Notifications of so many senders wait for an election; there is one for each sender.
const WAITING_MAX: usize = 256;
/// Servers notice that their leader is gone at different times: what those that are quicker say of
/// the next election counts for so long. They do not say it again to who has a lesser vote, and
/// would be waited for.
const EARLY_MAX: Duration = Duration::from_millis(500);

/// A leader that was not reached is passed over for so many times as long as it was dialled: long
/// enough for all to give it up and to elect another, which is all that is needed of it; short
/// enough for whoever needs it after all.
const AVOIDED_LIMITS: u32 = 2;

/// A leader that has stood back leaves the election to the others for a tick, and for this long
/// besides: they wait 200 ms for the vote of a server that they can reach.
const REST: Duration = Duration::from_millis(500);

/// One server's part in its ensemble.
///
/// After every call that goes in, drain [`Zab::poll_output`] before the next. After a pause of the
/// whole process call [`Zab::handle_timeout`] before anything else: what has come meanwhile is old.
#[derive(Debug)]
pub struct Zab {
    peer: Peer,
    election: Election,
    state: State,
    /// What others have said of the election that this server is about to join.
    waiting: Vec<Waiting>,
    /// What the election was told last.
    told: (Role, Standing),
    counter_max: u32,
    /// Under whom a reconfiguration has placed this server.
    handover: Option<ServerId>,
    /// Until when it leaves the election to the others: it has stood back.
    rests_until: Option<Time>,
    joins: Joins,
    masters: Masters,
    looking_since: Time,
    election_took: Duration,
}

/// A notification that came a moment too early.
#[derive(Debug)]
struct Waiting {
    from: ServerId,
    at: Time,
    notification: Notification,
}

#[derive(Debug)]
enum State {
    /// The leadership is over; something is still under way to the disk.
    Draining,
    Looking,
    Leading(Box<Leader>),
    Learning(Box<Learner>),
    /// It takes no part any more.
    Left,
}

impl State {
    /// What this server is to its learners, if it may have any.
    fn learner_master(&mut self) -> Option<&mut dyn LearnerMaster> {
        match self {
            State::Leading(leader) => Some(&mut **leader),
            State::Learning(learner) => learner.relay.as_mut().map(|it| it as _),
            State::Draining | State::Looking | State::Left => None,
        }
    }
}

// ── The beginning, and what comes out ──
impl Zab {
    /// A server that has just started, with what its disk held. `seed` spreads out what servers
    /// would otherwise do at the same time.
    pub fn new(ensemble: Ensemble, recovered: Recovered, seed: u64, now: Time) -> Zab {
        let peer = Peer::new(ensemble, recovered);
        let election = Election::new(Arc::clone(&peer.ensemble), recovered.standing, seed);
        let mut zab = Zab {
            told: (peer.role, peer.standing),
            peer,
            election,
            state: State::Draining,
            waiting: Vec::new(),
            counter_max: COUNTER_MAX,
            handover: None,
            rests_until: None,
            joins: Joins::new(seed),
            masters: Masters::new(seed),
            looking_since: now,
            election_took: Duration::ZERO,
        };
        zab.settle(now);
        zab
    }

    /// For tests: a leader begins a new epoch at this counter instead of near its end.
    pub fn limit_counter(&mut self, counter_max: u32) {
        self.counter_max = counter_max;
    }

    /// The next thing that is asked for.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.peer.poll_output()
    }

    /// When [`Zab::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Looking => self.election.poll_timeout(),
            State::Leading(leader) => Some(leader.poll_timeout()),
            State::Learning(learner) => Some(learner.poll_timeout(&self.peer)),
            State::Draining => self.rests_until,
            State::Left => None,
        }
    }
}

// ── The election's port ──
impl Zab {
    /// Takes a notification that `from` has sent on the election port.
    pub fn handle_notification(&mut self, now: Time, from: ServerId, notification: Notification) {
        match &mut self.state {
            State::Left => return,
            State::Draining => {
                self.keep_waiting(now, from, notification);
                return;
            }
            State::Looking => {
                let are_adopted = self.peer.adopt(&notification.config);
                let are_heard = self.peer.hear(from, &notification.proposed);
                self.tell_election();
                if are_adopted {
                    self.look_for_leader(now);
                } else if are_heard {
                    self.election.handle_heard(now);
                }
            }
            State::Leading(leader) => {
                if self.election.looks_again(self.peer.me(), &notification)
                    && is_deserted(&self.peer, &self.election, leader, from)
                {
                    leader.over = Some("its voters have changed their minds");
                }
            }
            State::Learning(learner) => {
                let looks_again = self.election.looks_again(learner.leader, &notification);
                if learner.is_dialling() && learner.leader == from && looks_again {
                    learner.over = Some("the leader looks for a leader itself");
                }
            }
        }
        if self.is_over() {
            self.settle(now);
            self.handle_notification(now, from, notification);
            return;
        }
        self.election.handle_notification(now, from, &notification);
        let is_early = !matches!(self.state, State::Looking)
            && notification.doing == Doing::Looking
            && notification.round > self.election.round();
        if is_early {
            self.keep_waiting(now, from, notification);
        } else {
            self.waiting.retain(|waiting| waiting.from != from);
        }
        self.settle(now);
    }

    fn keep_waiting(&mut self, now: Time, from: ServerId, notification: Notification) {
        self.waiting.retain(|waiting| waiting.from != from);
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(Waiting { from, at: now, notification });
        }
    }

    /// The election port's connection to `server` came up, or was lost or refused.
    pub fn handle_reachable(&mut self, now: Time, server: ServerId, is_reachable: bool) {
        if matches!(self.state, State::Left) {
            return;
        }
        self.election.handle_reachable(now, server, is_reachable);
        if !is_reachable {
            self.peer.said.remove(&server);
        }
        match &mut self.state {
            State::Looking if self.peer.note_heard() => {
                self.tell_election();
                self.election.handle_heard(now);
            }
            State::Leading(leader) if !is_reachable => {
                let is_deserted = is_deserted(&self.peer, &self.election, leader, server);
                leader.over = leader.over.or(is_deserted.then_some("its voters are gone"));
            }
            State::Learning(learner)
                if !is_reachable
                    && learner.is_dialling()
                    && (learner.leader == server || learner.master == server) =>
            {
                learner.over = Some("the leader cannot be reached");
            }
            _ => {}
        }
        self.settle(now);
    }
}

/// Notes that `voter` will not come, and says whether so many of those who elected this leader are
/// gone that it cannot be established (`Leader.reportLookingSid`).
fn is_deserted(peer: &Peer, election: &Election, leader: &mut Leader, voter: ServerId) -> bool {
    if leader.is_established() {
        return false;
    }
    leader.disloyal.insert(voter);
    let is_connected =
        |server: ServerId| leader.handlers.iter().any(|handler| handler.server == Some(server));
    let is_loyal = |voter: &ServerId| !leader.disloyal.contains(voter) || is_connected(*voter);
    !peer.ensemble.contains_quorum(election.supporters().filter(is_loyal))
}

// ── The quorum port ──
impl Zab {
    /// A learner has connected to this server's quorum port.
    pub fn handle_accepted(&mut self, now: Time, link: LinkId) {
        match self.state.learner_master() {
            Some(master) => master.handle_accepted(&mut self.peer, now, link),
            None => self.peer.perform(Action::Close { link }),
        }
        self.settle(now);
    }

    /// `Action::Connect` has succeeded.
    pub fn handle_connected(&mut self, now: Time, link: LinkId) {
        match &mut self.state {
            State::Learning(learner) => learner.handle_connected(&mut self.peer, now, link),
            _ => self.peer.perform(Action::Close { link }),
        }
        self.settle(now);
    }

    /// `Action::Connect` has failed.
    pub fn handle_connect_failed(&mut self, now: Time, to: ServerId) {
        if let State::Learning(learner) = &mut self.state {
            learner.handle_connect_failed(now, to);
        }
        self.settle(now);
    }

    /// A learner has sent a packet.
    pub fn handle_from_learner(&mut self, now: Time, link: LinkId, message: FromLearner) {
        match &mut self.state {
            State::Leading(leader) => leader.handle(&mut self.peer, now, link, message),
            State::Learning(learner) => {
                learner.handle_from_observer(&mut self.peer, now, link, message);
            }
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// The leader has sent a packet.
    pub fn handle_from_leader(&mut self, now: Time, link: LinkId, message: FromLeader) {
        if let State::Learning(learner) = &mut self.state {
            learner.handle(&mut self.peer, now, link, message);
        }
        self.settle(now);
    }

    /// A connection is lost, or what comes on it cannot be read.
    pub fn handle_disconnected(&mut self, now: Time, link: LinkId) {
        match &mut self.state {
            State::Leading(leader) => leader.handle_disconnected(&mut self.peer, now, link),
            State::Learning(learner) => learner.handle_disconnected(&mut self.peer, now, link),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// Bytes of a snapshot have been sent or taken in on `link`: to be called now and then while
    /// one is on its way, whose time is bounded by progress alone.
    pub fn handle_progress(&mut self, now: Time, link: LinkId) {
        match &mut self.state {
            State::Leading(leader) => leader.handle_progress(now, link),
            State::Learning(learner) => learner.handle_progress(now, link),
            State::Draining | State::Looking | State::Left => {}
        }
    }
}

// ── The disk ──
impl Zab {
    /// The log is durable up to `through`: the only source of ACKs.
    pub fn handle_persisted(&mut self, now: Time, through: Zxid) {
        assert!(through <= self.peer.last(), "{through} is durable and was never appended");
        self.peer.persisted = self.peer.persisted.max(through);
        match &mut self.state {
            State::Leading(leader) => leader.handle_persisted(&mut self.peer, now),
            State::Learning(learner) => learner.handle_persisted(&mut self.peer, now),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// The log and the tree end with the zxid that `Action::Truncate` named, durably; or they
    /// cannot be cut there, and are what they were.
    pub fn handle_truncated(&mut self, now: Time, after: Result<Zxid, CannotTruncate>) {
        assert!(self.peer.is_truncating, "nobody has asked for the log to be cut");
        self.peer.is_truncating = false;
        if let Ok(after) = after {
            self.peer.truncate(after);
        }
        if let State::Learning(learner) = &mut self.state {
            learner.handle_truncated(&mut self.peer, now, after);
        }
        self.settle(now);
    }

    /// `acceptedEpoch` is durable.
    pub fn handle_accepted_epoch_saved(&mut self, now: Time, epoch: u32) {
        assert_eq!(self.peer.saving_accepted.take(), Some(epoch), "another epoch was saved");
        self.peer.accepted_epoch = epoch;
        self.peer.accepted_epoch_saved = epoch;
        match &mut self.state {
            State::Leading(leader) => leader.handle_accepted_epoch_saved(&mut self.peer, now),
            State::Learning(learner) => learner.handle_accepted_epoch_saved(&mut self.peer),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// `currentEpoch` is durable.
    pub fn handle_current_epoch_saved(&mut self, now: Time, epoch: u32) {
        assert_eq!(self.peer.saving_current.take(), Some(epoch), "another epoch was saved");
        self.peer.is_current_doubtful = false;
        self.peer.current_epoch = epoch;
        match &mut self.state {
            State::Leading(leader) => leader.handle_current_epoch_saved(&mut self.peer, now),
            State::Learning(learner) => learner.handle_current_epoch_saved(&mut self.peer),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// The snapshot that `Action::SendSnapshot` named is on its way, whole.
    pub fn handle_snapshot_sent(&mut self, now: Time, link: LinkId) {
        if let Some(master) = self.state.learner_master() {
            master.handle_snapshot_sent(&mut self.peer, now, link);
        }
        self.settle(now);
    }

    /// The state at `zxid` that came on `link` is durable and has replaced the tree and the log.
    pub fn handle_snapshot_received(&mut self, now: Time, _link: LinkId, zxid: Zxid) {
        assert!(self.peer.is_receiving, "nobody has asked for a snapshot");
        self.peer.is_receiving = false;
        self.peer.replace(zxid);
        if let State::Learning(learner) = &mut self.state {
            learner.handle_snapshot_received(&mut self.peer, now, zxid);
        }
        self.settle(now);
    }

    /// A snapshot could not be sent, or did not come whole; on the learner the state is what it
    /// was.
    pub fn handle_snapshot_failed(&mut self, now: Time, link: LinkId) {
        self.peer.is_receiving = false;
        match &mut self.state {
            State::Leading(leader) => leader.handle_snapshot_failed(&mut self.peer, now, link),
            State::Learning(learner) => learner.handle_snapshot_failed(&mut self.peer, now, link),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// What `Action::ReadLog` asked for.
    pub fn handle_log_read(&mut self, now: Time, link: LinkId, txns: Result<Txns, LogGap>) {
        if let Some(master) = self.state.learner_master() {
            master.handle_log_read(&mut self.peer, now, link, txns);
        }
        self.settle(now);
    }
}

// ── The pipeline, time, and the end ──
impl Zab {
    /// Proposes a transaction, which the pipeline has applied already.
    ///
    /// # Panics
    ///
    /// Unless this server is an established leader and `zxid` the next of its epoch.
    pub fn propose(&mut self, now: Time, zxid: Zxid, txn: Arc<[u8]>) {
        let State::Leading(leader) = &mut self.state else {
            panic!("{zxid} was proposed by a server that does not lead")
        };
        leader.propose(&mut self.peer, now, zxid, txn);
        self.settle(now);
    }

    /// Asks whether this server still leads: `Event::Confirmed` with this token comes once a
    /// quorum has said so after this call and everything proposed before is committed. It never
    /// comes if the leadership ends first.
    pub fn confirm(&mut self, now: Time, token: u64) {
        if let State::Leading(leader) = &mut self.state {
            leader.confirm(&mut self.peer, now, token);
        }
        self.settle(now);
    }

    /// Leaves the ensemble in order: `Action::Resigned` comes soon. A leader first waits, a tick
    /// at most, until everything that it has proposed is committed.
    pub fn resign(&mut self, now: Time) {
        match &mut self.state {
            State::Leading(leader) => leader.end(&mut self.peer, now, Ending::Resign),
            State::Learning(_) | State::Draining | State::Looking => self.leave(),
            State::Left => {}
        }
        self.settle(now);
    }

    /// The disk does not keep up, or has no room: others do better without this server. A leader
    /// ends its leadership, as for [`Zab::resign`], and leaves the next election to the others for
    /// a while; a learner leaves its leader. Either comes back when all that it has appended is
    /// durable, and not before.
    pub fn stand_back(&mut self, now: Time) {
        match &mut self.state {
            State::Leading(leader) => leader.end(&mut self.peer, now, Ending::StandBack),
            State::Learning(learner) => learner.over = Some("its disk does not keep up"),
            State::Draining | State::Looking | State::Left => {}
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.state {
            State::Looking => self.election.handle_timeout(now),
            State::Leading(leader) => leader.handle_timeout(&mut self.peer, now),
            State::Learning(learner) => learner.handle_timeout(&mut self.peer, now),
            State::Draining => self.rests_until = self.rests_until.filter(|until| *until > now),
            State::Left => {}
        }
        self.settle(now);
    }

    fn is_over(&self) -> bool {
        match &self.state {
            State::Leading(leader) => leader.over.is_some(),
            State::Learning(learner) => learner.over.is_some(),
            State::Draining | State::Looking | State::Left => false,
        }
    }

    /// Moves on to the next state as long as there is one.
    fn settle(&mut self, now: Time) {
        loop {
            if self.peer.is_stopped {
                self.shut_down();
                self.state = State::Left;
                return;
            }
            if self.is_over() {
                self.end_leadership(now);
            }
            self.tell_election();
            if matches!(self.state, State::Draining)
                && self.peer.is_settled_on_disk()
                && self.rests_until.is_none_or(|until| until <= now)
            {
                match self.handover.take() {
                    Some(leader) if self.election.may_serve(leader) => self.hand_over(now, leader),
                    _ => self.look_for_leader(now),
                }
            }
            match self.election.poll_output() {
                Some(output) => self.perform_election(now, output),
                None if self.is_over() => {}
                None => return,
            }
        }
    }

    fn end_leadership(&mut self, now: Time) {
        let (reason, is_resigning, handover) = match &self.state {
            State::Leading(leader) => (leader.over, leader.is_resigning(), leader.successor),
            State::Learning(learner) => (learner.over, false, learner.successor),
            State::Draining | State::Looking | State::Left => (None, false, None),
        };
        self.handover = handover;
        let stands_back =
            matches!(&self.state, State::Leading(leader) if leader.is_standing_back());
        self.rests_until = stands_back.then(|| now + self.peer.ensemble.tick + REST);
        tracing::info!(reason, "looks for a leader");
        if is_resigning {
            self.leave();
            return;
        }
        if let State::Learning(learner) = &self.state {
            if learner.is_out_of_reach && !learner.has_master() {
                let until = now + learner::reach_limit(&self.peer) * AVOIDED_LIMITS;
                self.election.avoid(learner.leader, until);
            }
            match learner.up_to_date {
                Some(_) => self.joins.handle_joined(),
                None if learner.is_dialling() && !learner.has_master() => {}
                None => self.joins.handle_failed(learner.leader, reason.unwrap_or_default()),
            }
        }
        self.shut_down();
        self.state = State::Draining;
        self.looking_since = now;
        self.waiting.retain(|waiting| now.since(waiting.at) <= EARLY_MAX);
        self.peer.set_role(Role::Looking);
    }

    fn shut_down(&mut self) {
        match &mut self.state {
            State::Leading(leader) => leader.shut_down(&mut self.peer),
            State::Learning(learner) => learner.shut_down(&mut self.peer),
            State::Draining | State::Looking | State::Left => {}
        }
    }

    fn leave(&mut self) {
        self.shut_down();
        self.state = State::Left;
        self.peer.set_role(Role::Looking);
        self.peer.perform(Action::Resigned);
    }

    /// The vote speaks of what is durable.
    fn look_for_leader(&mut self, now: Time) {
        assert!(self.peer.is_settled_on_disk(), "who votes has everything on its disk");
        self.state = State::Looking;
        let vote = Vote {
            leader: self.peer.me(),
            zxid: self.peer.last(),
            peer_epoch: self.peer.current_epoch,
        };
        let waiting = std::mem::take(&mut self.waiting);
        let newest =
            waiting.iter().max_by_key(|it| Membership::version_of(&it.notification.config));
        if let Some(newest) = newest {
            self.peer.adopt(&newest.notification.config);
        }
        for it in &waiting {
            self.peer.hear(it.from, &it.notification.proposed);
        }
        // Who was lost meanwhile says nothing any more.
        self.peer.note_heard();
        self.tell_election();
        self.election.start(now, vote);
        for waiting in waiting {
            self.election.handle_notification(now, waiting.from, &waiting.notification);
        }
    }

    /// A reconfiguration says who leads from here on: nobody need be elected.
    fn hand_over(&mut self, now: Time, leader: ServerId) {
        assert!(self.peer.is_settled_on_disk(), "who leads or follows has everything on its disk");
        let vote = Vote { leader, zxid: self.peer.last(), peer_epoch: self.peer.current_epoch };
        self.election.appoint(vote);
        self.waiting.clear();
        self.begin(now, leader);
    }

    /// Leads, or joins the leader.
    fn begin(&mut self, now: Time, leader: ServerId) {
        self.state = if leader == self.peer.me() {
            self.peer.forget_heard();
            State::Leading(Box::new(Leader::new(&mut self.peer, now, self.counter_max)))
        } else {
            let pause = self.joins.pause(leader, self.peer.ensemble.tick);
            let master = self.masters.next(&self.peer.ensemble, leader);
            State::Learning(Box::new(Learner::new(&mut self.peer, now, (leader, master), pause)))
        };
    }

    fn perform_election(&mut self, now: Time, output: ElectionOutput) {
        match output {
            ElectionOutput::Notify { to, notification } => {
                self.peer.perform(Action::Notify { to, notification });
            }
            ElectionOutput::Sound => {
                self.peer.standing = Standing::Sound;
                self.peer.perform(Action::SaveSound);
            }
            ElectionOutput::Decided { leader, doing, .. } => {
                assert!(matches!(self.state, State::Looking), "an election decides once");
                self.election_took = now.since(self.looking_since);
                assert_eq!(doing == Doing::Leading, leader == self.peer.me());
                self.begin(now, leader);
            }
        }
    }

    /// Lets the election know what its answers depend on.
    fn tell_election(&mut self) {
        self.election.set_ensemble(&self.peer.ensemble);
        let is = (self.peer.role, self.peer.standing);
        if self.told == is {
            return;
        }
        self.told = is;
        self.election.set_standing(self.peer.standing);
        if self.peer.role != Role::Looking
            && let Some(epoch) = self.epoch()
        {
            self.election.set_epoch(epoch);
        }
    }
}
