//! What passes between agreement and the pipeline.

use std::sync::Arc;

use crate::pipeline::forward::ToLeader;
use crate::pipeline::reconfig::MembersNow;
use crate::replica::{Replica, StateAt};
use crate::wire::membership::Membership;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::{Forwarded, FromLeader, FromLearner, ServerId};
use crate::zab::Zab;
use crate::zab::ensemble::Ensemble;
use crate::zab::output::{Action, Event, LinkId, Output, Role};
use crate::zab::status::LearnerStatus;
use crate::zxid::Zxid;

impl Replica {
    /// Lets agreement and the pipeline hear of each other until neither has anything to say.
    pub(super) fn settle(&mut self) {
        loop {
            self.hear_zab();
            if !self.hear_pipeline() {
                break;
            }
        }
    }

    fn hear_zab(&mut self) {
        while let Some(output) = self.zab.as_mut().and_then(|zab| zab.poll_output()) {
            match output {
                Output::Perform(action) => self.take_action(action),
                Output::Tell(event) => self.take_event(event),
            }
        }
        if let Some(led_at) = self.zab.as_ref().and_then(|zab| zab.led_at()) {
            self.pipeline.handle_led(led_at);
        }
    }

    fn take_action(&mut self, action: Action) {
        match &action {
            Action::SendSnapshot { link, zxid, .. } => {
                let tree = Arc::clone(self.pipeline.writer().tree());
                let sessions = self.pipeline.sessions().at(*zxid);
                let is_committed = self.pipeline.committed() == *zxid;
                let digest = self.pipeline.committed_digest().filter(|_| is_committed);
                self.sending.insert(*link, StateAt { tree, zxid: *zxid, digest, sessions });
            }
            Action::ToLearner { message: FromLeader::Diff { .. }, .. } => {
                self.stats.diffs_sent += 1;
            }
            Action::ToLearner { message: FromLeader::Snap { .. }, .. } => {
                self.stats.snapshots_sent += 1;
            }
            Action::SaveSound => self.pipeline.set_shows_state(true),
            Action::Close { link } => {
                self.sending.remove(link);
            }
            Action::Members { current, .. } => self.pipeline.put_members(current, self.wall),
            Action::Truncate { after } if self.refused_cut.take() == Some(*after) => {
                return self.handle_truncate_failed(self.now);
            }
            _ => {}
        }
        self.actions.push_back(action);
    }

    fn note_role(&mut self, role: Role) {
        match role {
            Role::Looking => self.stats.elections += 1,
            _ => self.election = self.zab.as_ref().map(Zab::election_took),
        }
        let is_leading = matches!(role, Role::Leading { .. });
        self.stats.leading_since = is_leading.then_some(self.now);
    }

    fn take_event(&mut self, event: Event) {
        let (now, wall) = (self.now, self.wall);
        match event {
            // A leadership that is over before it is heard of (the members change with its first
            // commit): what would be prepared under it could not be proposed.
            Event::Role(role @ Role::Leading { .. })
                if self.zab.as_ref().is_some_and(|zab| zab.role() != role) => {}
            Event::Role(role) => {
                self.note_role(role);
                self.role = role;
                self.links.clear();
                let serves = self.zab.as_ref().is_some_and(Zab::is_observer_master);
                self.askers.begin(serves && matches!(role, Role::Following { .. }));
                let epoch = self.zab.as_ref().and_then(Zab::epoch).unwrap_or(0);
                self.begun = (role != Role::Looking).then_some(Zxid::new(epoch, 0));
                self.pipeline.handle_role(role, epoch, now, wall);
            }
            Event::Apply { zxid, txn } => self.apply(zxid, &txn),
            Event::Pop { after } => {
                if !self.pipeline.pop_above(after, now) {
                    self.refused_cut = Some(after);
                }
            }
            Event::Commit { through } => self.commit(through),
            Event::Request { .. } | Event::Revalidate { .. } | Event::Touched { .. }
                if !self.is_leading() =>
            {
                self.take_observers(event);
            }
            Event::Request { learner, link, request } => {
                self.links.insert(learner, link);
                self.take_request(learner, link, &request);
            }
            Event::Revalidate { learner, link, session, timeout_ms } => {
                self.links.insert(learner, link);
                let is_valid = self.pipeline.handle_revalidate(learner, session, timeout_ms, now);
                let message = FromLeader::Revalidated { session, is_valid };
                self.actions.push_back(Action::ToLearner { link, message });
            }
            Event::Touched { learner, sessions } => {
                self.pipeline.handle_touched(learner, &sessions, now);
            }
            Event::LearnerGone { learner, link } => {
                if self.links.get(&learner) == Some(&link) {
                    self.links.remove(&learner);
                }
            }
            Event::Pinged { link, zxid } => {
                let touched = self.pipeline.take_touched();
                let message = FromLearner::Ping { zxid, touched };
                self.actions.push_back(Action::ToLeader { link, message });
            }
            Event::Synced => self.take_synced(),
            Event::Revalidated { session, is_valid } => self.take_revalidated(session, is_valid),
            Event::Confirmed { token } => {
                self.pipeline.handle_confirmed(token, now, wall);
                // Before the commits behind it.
                self.tell_learners();
            }
        }
    }

    fn is_leading(&self) -> bool {
        matches!(self.role, Role::Leading { .. })
    }

    fn apply(&mut self, zxid: Zxid, txn: &[u8]) {
        self.stats.proposals_received += 1;
        if let Err(error) = self.pipeline.handle_proposal(zxid, txn, self.now) {
            let reason = format!("the leader's transaction {zxid} cannot be taken: {error}");
            self.actions.push_back(Action::Stop { reason });
        }
    }

    fn commit(&mut self, through: Zxid) {
        let before = self.pipeline.committed();
        let is_same = before.epoch() == through.epoch();
        let before = if is_same { before.counter() } else { 0 };
        let count = u64::from(through.counter().saturating_sub(before));
        match self.role {
            Role::Leading { .. } => self.stats.commits += count,
            _ => self.stats.commits_received += count,
        }
        self.pipeline.handle_committed(through);
    }

    /// Lets the pipeline know which members there are and who is in step, where the next request
    /// asks for others.
    pub(super) fn tell_members(&mut self, op: i32) {
        if op != OpCode::Reconfig.raw() {
            return;
        }
        let Some(zab) = self.zab.as_ref().filter(|zab| matches!(zab.role(), Role::Leading { .. }))
        else {
            return;
        };
        let ensemble = zab.ensemble();
        let Ok(current) = Membership::parse(&ensemble.config) else { return };
        let in_step = zab.learners().filter(|it| is_follower_in_step(it, ensemble));
        let synced = in_step.map(|it| it.server).chain([ensemble.me]).collect();
        let is_changing = ensemble.next.is_some();
        self.pipeline.handle_members(MembersNow { current, is_changing, synced });
    }

    fn take_request(&mut self, learner: ServerId, link: LinkId, request: &Forwarded) {
        self.tell_members(request.op);
        if !self.pipeline.handle_forwarded(learner, request, self.now, self.wall) {
            self.drop_learner(link);
        }
        if request.op == OpCode::Sync.raw() {
            // It waits for what came before it and for nothing that comes later.
            self.hear_pipeline();
        }
    }

    /// Passes on what the pipeline has to say to learners; whether there was anything.
    fn tell_learners(&mut self) -> bool {
        let mut has_said = false;
        while let Some((learner, message)) = self.pipeline.poll_to_learner() {
            has_said = true;
            // One that is gone has nobody left to tell.
            if let Some(&link) = self.links.get(&learner) {
                self.actions.push_back(Action::ToLearner { link, message });
            }
        }
        has_said
    }

    /// Passes on what the pipeline has to say; whether there was anything.
    fn hear_pipeline(&mut self) -> bool {
        let zab = self.zab.as_mut().expect("a server on its own settles nothing");
        let mut has_said = false;
        let txns = self.pipeline.take_txns();
        for (zxid, txn) in txns.iter() {
            has_said = true;
            self.stats.note_proposal(txn.len() as u64);
            zab.propose(self.now, zxid, Arc::from(txn));
        }
        txns.clear();
        while let Some(token) = self.pipeline.poll_confirm() {
            has_said = true;
            zab.confirm(self.now, token);
        }
        has_said |= self.tell_learners();
        if let Role::Following { link, .. } | Role::Observing { link, .. } = self.role {
            while let Some(message) = self.pipeline.poll_to_leader() {
                has_said = true;
                let message = match message {
                    ToLeader::Request(request) => {
                        if request.op == OpCode::Sync.raw() {
                            self.askers.push_sync(None);
                        }
                        FromLearner::Request(request)
                    }
                    ToLeader::Revalidate { session, timeout_ms } => {
                        self.askers.push_revalidation(session, None);
                        FromLearner::Revalidate { session, timeout_ms }
                    }
                };
                self.actions.push_back(Action::ToLeader { link, message });
            }
        }
        has_said
    }
}

/// Whether the learner counts for the quorum that new members have to have. One whom the members in
/// force have made an observer may not have heard of it yet: it leaves as soon as it does, and an
/// observer that comes back acknowledges nothing, so that members who need it would be proposed for
/// ever, with everything behind them (`Leader.isQuorumSynced` counts it).
pub(super) fn is_follower_in_step(learner: &LearnerStatus, ensemble: &Ensemble) -> bool {
    learner.is_synced && !learner.is_observer && !ensemble.is_observer(learner.server)
}
