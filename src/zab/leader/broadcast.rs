//! Broadcast: proposals, their commits, and the question whether the leader still leads.

use std::sync::Arc;

use super::{Confirm, Ending, Leader};
use crate::time::Time;
use crate::wire::quorum::{FromLeader, ServerId};
use crate::zab::handler::{Handler, Stage};
use crate::zab::history::Place;
use crate::zab::output::{Action, Event, Role};
use crate::zab::peer::Peer;
use crate::zab::quorum::Quorum;
use crate::zxid::Zxid;
impl Leader {
    /// `LeaderProcessRequest`: to the followers first, whose disks then work while this one's does.
    pub fn propose(&mut self, peer: &mut Peer, now: Time, zxid: Zxid, txn: Arc<[u8]>) {
        assert!(self.is_established(), "only a leader that is established proposes");
        assert_eq!(zxid.epoch(), self.epoch, "a leader proposes in its epoch");
        peer.history.push(zxid, Arc::clone(&txn));
        if peer.note_proposed(zxid, &txn) {
            self.take_members(peer);
        }
        self.proposals += 1;
        for handler in &self.handlers {
            if handler.is_live() && !handler.is_observer {
                let message = FromLeader::Proposal { zxid, txn: Arc::clone(&txn) };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
        }
        peer.perform(Action::Append { zxid, txn });
        if zxid.counter() >= self.counter_max {
            self.end(peer, now, Ending::NewEpoch);
        }
    }

    /// The own disk has done its part.
    pub fn handle_persisted(&mut self, peer: &mut Peer, now: Time) {
        let is_established = self.is_established();
        if let Some(voter) = self.quorum.index(peer.me()).filter(|_| is_established) {
            self.acks[voter] = peer.persisted;
            self.try_to_commit(peer, now);
        }
    }

    /// Commits what a quorum has on its disks (`LeaderProcessACK`).
    pub(super) fn try_to_commit(&mut self, peer: &mut Peer, now: Time) {
        while self.is_established() && self.over.is_none() && self.successor.is_none() {
            let before = peer.committed.max(self.initial);
            let reached = self.quorum.reached(&self.acks, before);
            if reached <= before {
                return;
            }
            let change = peer.ensemble.next.as_ref().map(|next| next.zxid());
            match change.filter(|zxid| (before..=reached).contains(zxid)) {
                // What comes behind it is for a quorum of the new members alone.
                Some(zxid) => self.commit_members(peer, now, before, zxid),
                None => self.commit_through(peer, now, (before, reached), None),
            }
        }
    }

    /// Sends the commits behind `before` up to `through`; `successor` is who leads from there on,
    /// if `through` changes the members.
    fn commit_through(
        &mut self,
        peer: &mut Peer,
        now: Time,
        (before, through): (Zxid, Zxid),
        successor: Option<ServerId>,
    ) {
        assert!(through <= peer.last(), "{through} was acknowledged and never proposed");
        let Place::Before(first) = peer.history.locate(before) else {
            panic!("what is not committed is in memory")
        };
        let Place::Before(end) = peer.history.locate(through) else {
            panic!("what is not committed is in memory")
        };
        let mut untold = None;
        for index in first..end {
            let entry = peer.history.entry(index).expect("the window has what is committed");
            let (zxid, txn) = (entry.zxid, Arc::clone(&entry.txn));
            let leader = successor.filter(|_| zxid == through);
            let is_asked = self.confirms.front().is_some_and(|confirm| confirm.zxid < zxid);
            if is_asked || leader.is_some() {
                // Who hears that a sync is answered has been told of all that came before it.
                self.tell_committed(peer, untold.take());
                self.answer_confirms_before(peer, zxid);
            }
            for handler in self.handlers.iter().filter(|handler| handler.is_live()) {
                let txn = || Arc::clone(&txn);
                let message = match (handler.is_observer, leader) {
                    (true, None) => FromLeader::Inform { zxid, txn: txn() },
                    (true, Some(designated_leader)) => {
                        FromLeader::InformAndActivate { zxid, designated_leader, txn: txn() }
                    }
                    (false, None) if handler.extensions.cumulative => continue,
                    (false, None) => FromLeader::Commit { zxid },
                    (false, Some(designated_leader)) => {
                        FromLeader::CommitAndActivate { zxid, designated_leader }
                    }
                };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
            untold = leader.is_none().then_some(zxid);
        }
        self.tell_committed(peer, untold);
        peer.commit(through, self.handlers.iter().any(Handler::catches_up));
        self.answer_confirms(peer, now);
        self.finish_ending(peer);
    }

    /// Tells those who take one COMMIT for all before it.
    fn tell_committed(&self, peer: &mut Peer, through: Option<Zxid>) {
        let Some(zxid) = through else { return };
        for handler in self.handlers.iter().filter(|handler| handler.is_live()) {
            if !handler.is_observer && handler.extensions.cumulative {
                let message = FromLeader::Commit { zxid };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
        }
    }

    /// Commits a change of the members. A leader that votes no more, or elsewhere, hands over to
    /// the new voter that has most of what it proposed (`Leader.tryToCommit`).
    fn commit_members(&mut self, peer: &mut Peer, now: Time, before: Zxid, zxid: Zxid) {
        let me = peer.me();
        let successor = if peer.may_lead_next(me) { me } else { self.successor(peer, zxid) };
        self.commit_through(peer, now, (before, zxid), Some(successor));
        self.take_members(peer);
        if successor != me {
            self.successor = Some(successor);
            // What the pipeline has prepared before it hears of this is still to be proposed: the
            // leadership ends with the next timeout, which is due at once.
            self.ending = Some(match self.ending {
                Some((Ending::Resign, _)) => (Ending::Resign, now),
                _ => (Ending::Handover, now),
            });
            peer.set_role(Role::Looking);
        }
    }

    /// Who of the new voters has acknowledged most, and `zxid` at least.
    fn successor(&self, peer: &Peer, zxid: Zxid) -> ServerId {
        let next = peer.ensemble.next.iter().flat_map(|next| &next.members);
        let voters: Vec<ServerId> =
            next.filter(|member| !member.is_observer).map(|member| member.id).collect();
        let able = self.handlers.iter().filter_map(|handler| {
            let server = handler.server.filter(|server| voters.contains(server))?;
            let is_able = handler.stage == Stage::UpToDate && handler.acked >= zxid;
            is_able.then_some((handler.acked, server))
        });
        able.max().map_or(peer.me(), |(_, server)| server)
    }

    /// Counts for the members that there are from here on.
    pub(super) fn take_members(&mut self, peer: &Peer) {
        self.quorum = Quorum::new(&peer.ensemble);
        self.acks = vec![Zxid::ZERO; self.quorum.len()];
        for handler in &mut self.handlers {
            let server = handler.server.filter(|_| !handler.is_observer);
            handler.voter = server.and_then(|server| self.quorum.index(server));
            if let Some(voter) = handler.voter
                && handler.stage >= Stage::InStep
            {
                self.acks[voter] = handler.acked;
            }
        }
        if let Some(voter) = self.quorum.index(peer.me()) {
            self.acks[voter] = peer.persisted;
        }
    }

    /// Asks a quorum whether it still follows. All who ask while a ping is on its way share the
    /// next one.
    pub fn confirm(&mut self, peer: &mut Peer, now: Time, token: u64) {
        if self.is_established() {
            let confirm = Confirm { token, round: self.round + 1, zxid: peer.last() };
            self.confirms.push_back(confirm);
            self.answer_confirms(peer, now);
        }
    }

    /// A quorum has acknowledged `zxid`: that proves the leadership to all who asked before it was
    /// proposed. They hear it before the commit: an Apache follower that learns of a commit first
    /// never answers the sync before it, nor anything behind that (`CommitProcessor.java`).
    fn answer_confirms_before(&mut self, peer: &mut Peer, zxid: Zxid) {
        while let Some(Confirm { token, .. }) =
            self.confirms.pop_front_if(|confirm| confirm.zxid < zxid)
        {
            peer.tell(Event::Confirmed { token });
        }
    }

    pub(super) fn is_confirmed(&self, peer: &Peer, round: u64) -> bool {
        self.is_quorum(peer, |handler| {
            handler.stage == Stage::UpToDate && handler.round_answered >= round
        })
    }

    pub(super) fn answer_confirms(&mut self, peer: &mut Peer, now: Time) {
        while let Some(&Confirm { token, round, zxid }) = self.confirms.front() {
            if round > self.round {
                self.ping(peer, now);
            }
            let is_committed = zxid <= peer.committed.max(self.initial);
            if !self.is_confirmed(peer, round) || !is_committed {
                break;
            }
            self.confirms.pop_front();
            peer.tell(Event::Confirmed { token });
        }
    }

    pub(super) fn ping(&mut self, peer: &mut Peer, now: Time) {
        self.round += 1;
        let zxid = peer.last();
        for handler in &mut self.handlers {
            if handler.stage == Stage::UpToDate && handler.begin_ping(self.round, now) {
                let message = FromLeader::Ping { zxid };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
        }
    }
}
