//! Broadcast: proposals, their commits, and the question whether the leader still leads.

use std::sync::Arc;

use super::{Confirm, Ending, Leader};
use crate::time::Time;
use crate::wire::quorum::FromLeader;
use crate::zab::handler::{Handler, Stage};
use crate::zab::history::Place;
use crate::zab::output::{Action, Event};
use crate::zab::peer::Peer;
use crate::zxid::Zxid;
impl Leader {
    /// `LeaderProcessRequest`: to the followers first, whose disks then work while this one's does.
    pub fn propose(&mut self, peer: &mut Peer, now: Time, zxid: Zxid, txn: Arc<[u8]>) {
        assert!(self.is_established(), "only a leader that is established proposes");
        assert_eq!(zxid.epoch(), self.epoch, "a leader proposes in its epoch");
        peer.history.push(zxid, Arc::clone(&txn));
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
        let before = peer.committed.max(self.initial);
        let through = self.quorum.reached(&self.acks, before);
        if !self.is_established() || through <= before {
            return;
        }
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
            if self.confirms.front().is_some_and(|confirm| confirm.zxid < zxid) {
                // Who hears that a sync is answered has been told of all that came before it.
                self.tell_committed(peer, untold.take());
                self.answer_confirms_before(peer, zxid);
            }
            for handler in self.handlers.iter().filter(|handler| handler.is_live()) {
                let message = match (handler.is_observer, handler.extensions.cumulative) {
                    (true, _) => FromLeader::Inform { zxid, txn: Arc::clone(&txn) },
                    (false, true) => continue,
                    (false, false) => FromLeader::Commit { zxid },
                };
                peer.perform(Action::ToLearner { link: handler.link, message });
            }
            untold = Some(zxid);
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
