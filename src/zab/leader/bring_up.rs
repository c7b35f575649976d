//! Bringing learners into step with their leader.
//!
//! What a learner lacks comes from memory, from the log in pieces, or as a snapshot. Snapshots are
//! throttled: each is a copy of everything through one connection, and beside many of them nobody
//! would be served (`LearnerSyncThrottler`).

use std::sync::Arc;

use super::Leader;
use crate::time::Time;
use crate::wire::quorum::FromLeader;
use crate::zab::handler::{Handler, Stage};
use crate::zab::history::{Place, follows};
use crate::zab::output::{Action, LinkId, LogGap, Txns};
use crate::zab::peer::Peer;
use crate::zab::sync::{Opening, choose};
use crate::zxid::Zxid;

/// So many snapshots are on their way at once; others wait.
const SNAPSHOTS_MAX: usize = 2;
/// About so many bytes of the log are read for a learner at a time.
const READ_BYTES: usize = 1 << 20;
impl Leader {
    pub(super) fn send(&self, peer: &mut Peer, at: usize, message: FromLeader) {
        peer.perform(Action::ToLearner { link: self.handlers[at].link, message });
    }

    /// `LeaderSyncFollower`.
    pub(super) fn bring_up(&mut self, peer: &mut Peer, now: Time, at: usize, last: Zxid) {
        let through = self.through(peer);
        match choose(&peer.history, through, last) {
            Opening::Diff => {
                self.send(peer, at, FromLeader::Diff { through });
                self.catch_up(peer, now, at, last);
            }
            Opening::Trunc { after } => {
                self.send(peer, at, FromLeader::Trunc { after });
                self.catch_up(peer, now, at, after);
            }
            Opening::Log => self.read_log(peer, at, last, false),
            Opening::Snap => self.send_snapshot(peer, now, at),
        }
    }

    pub(super) fn read_log(&mut self, peer: &mut Peer, at: usize, cursor: Zxid, is_open: bool) {
        let handler = &mut self.handlers[at];
        handler.stage = Stage::Reading { cursor, is_open };
        peer.perform(Action::ReadLog { link: handler.link, after: cursor, bytes: READ_BYTES });
    }

    /// The learner has everything up to `cursor`: sends the rest if memory has it.
    pub(super) fn catch_up(&mut self, peer: &mut Peer, now: Time, at: usize, cursor: Zxid) {
        match peer.history.locate(cursor) {
            Place::Before(index) => self.go_live(peer, now, at, index),
            Place::Older => self.read_log(peer, at, cursor, true),
            Place::Foreign { .. } | Place::Newer => self.reject(peer, now, at, "unknown cursor"),
        }
    }

    /// Sends everything from `index` on, and NEWLEADER where it belongs.
    pub(super) fn go_live(&mut self, peer: &mut Peer, now: Time, at: usize, index: usize) {
        let through = self.through(peer);
        let mut end = index;
        while let Some(entry) = peer.history.entry(end).filter(|entry| entry.zxid <= through) {
            let (zxid, txn) = (entry.zxid, Arc::clone(&entry.txn));
            self.send_committed(peer, at, zxid, txn);
            end += 1;
        }
        let zxid = Zxid::new(self.epoch, 0);
        // What a new leader begins with it completes; what it proposes itself comes as a proposal.
        let config = match self.is_established() {
            true => Arc::clone(&peer.ensemble.config),
            false => Arc::clone(peer.ensemble.last_seen()),
        };
        self.send(peer, at, FromLeader::NewLeader { zxid, config });
        let handler = &mut self.handlers[at];
        handler.stage = Stage::NewLeader { through };
        handler.since = now;
        if handler.is_observer {
            return;
        }
        while let Some(entry) = peer.history.entry(end) {
            let (zxid, txn) = (entry.zxid, Arc::clone(&entry.txn));
            self.send(peer, at, FromLeader::Proposal { zxid, txn });
            end += 1;
        }
    }

    pub(super) fn send_committed(&self, peer: &mut Peer, at: usize, zxid: Zxid, txn: Arc<[u8]>) {
        self.send(peer, at, FromLeader::Proposal { zxid, txn });
        self.send(peer, at, FromLeader::Commit { zxid });
    }

    pub fn handle_log_read(
        &mut self,
        peer: &mut Peer,
        now: Time,
        link: LinkId,
        txns: Result<Txns, LogGap>,
    ) {
        let Some(at) = self.position(link) else { return };
        let Stage::Reading { cursor, is_open } = self.handlers[at].stage else { return };
        self.handlers[at].since = now;
        self.since = now;
        let through = self.through(peer);
        let txns = txns.unwrap_or_default();
        let is_gapless = is_gapless(cursor, &txns);
        let mut reached = cursor;
        if is_gapless && !is_open {
            self.send(peer, at, FromLeader::Diff { through });
        }
        for (zxid, txn) in txns {
            if !is_gapless || zxid > through {
                break;
            }
            self.send_committed(peer, at, zxid, txn);
            reached = zxid;
        }
        if is_gapless {
            self.catch_up(peer, now, at, reached);
        } else if is_open {
            self.reject(peer, now, at, "a gap in the log");
        } else {
            self.send_snapshot(peer, now, at);
        }
    }

    pub(super) fn send_snapshot(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let is_sending = |handler: &&Handler| matches!(handler.stage, Stage::Sending { .. });
        if self.handlers.iter().filter(is_sending).count() >= SNAPSHOTS_MAX {
            self.handlers[at].stage = Stage::Queued;
            return;
        }
        // What a learner loses by it, it gets back in the same moment: all that a leader begins
        // with may be committed, also what this server does not know to be, and the learner may be
        // one of the quorum that has it.
        let zxid = self.through(peer);
        self.send(peer, at, FromLeader::Snap { zxid });
        let handler = &mut self.handlers[at];
        handler.stage = Stage::Sending { zxid };
        handler.since = now;
        let (link, extensions) = (handler.link, handler.extensions);
        peer.perform(Action::SendSnapshot { link, zxid, extensions });
    }

    pub(super) fn send_queued_snapshots(&mut self, peer: &mut Peer, now: Time) {
        if let Some(at) = self.handlers.iter().position(|handler| handler.stage == Stage::Queued) {
            self.send_snapshot(peer, now, at);
        }
    }

    pub fn handle_snapshot_sent(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        let Some(at) = self.position(link) else { return };
        let Stage::Sending { zxid } = self.handlers[at].stage else { return };
        self.handlers[at].since = now;
        self.since = now;
        self.catch_up(peer, now, at, zxid);
        self.send_queued_snapshots(peer, now);
    }

    pub fn handle_snapshot_failed(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if let Some(at) = self.position(link) {
            self.reject(peer, now, at, "no snapshot could be sent");
        }
    }

    /// Bytes are still flowing to a learner.
    pub fn handle_progress(&mut self, now: Time, link: LinkId) {
        if let Some(at) = self.position(link) {
            self.handlers[at].since = now;
            self.since = now;
        }
    }
}

/// Whether `txns` go on behind `cursor` and there is at least one (R7).
fn is_gapless(cursor: Zxid, txns: &[(Zxid, Arc<[u8]>)]) -> bool {
    let zxids = txns.iter().map(|(zxid, _)| *zxid);
    let before = std::iter::once(cursor).chain(zxids.clone());
    !txns.is_empty() && before.zip(zxids).all(|(last, next)| follows(last, next))
}
