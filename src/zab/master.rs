//! What a leader and an observer master have in common (`LearnerMaster.java`): bringing learners
//! into step, and giving them up.
//!
//! What a learner lacks comes from memory, from the log in pieces, or as a snapshot. Snapshots are
//! throttled: each is a copy of everything through one connection, and beside many of them nobody
//! would be served (`LearnerSyncThrottler`).

use std::sync::Arc;

use crate::time::Time;
use crate::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use crate::zab::handler::{Handler, Stage};
use crate::zab::history::{Place, follows};
use crate::zab::output::{Action, Event, LinkId, LogGap, Txns};
use crate::zab::peer::Peer;
use crate::zab::sync::{Opening, choose};
use crate::zxid::Zxid;

/// So many snapshots are on their way at once; others wait.
const SNAPSHOTS_MAX: usize = 2;
/// About so many bytes of the log are read for a learner at a time.
const READ_BYTES: usize = 1 << 20;
/// So many connections may not have said whose they are; a further one closes the oldest.
const NAMELESS_MAX: usize = 256;

/// A server that has learners: a leader, or a follower that serves observers.
pub(super) trait LearnerMaster {
    /// The learners' ends.
    fn handlers(&self) -> &[Handler];

    /// The same, to be changed.
    fn handlers_mut(&mut self) -> &mut Vec<Handler>;

    /// Up to where learners are brought before NEWLEADER.
    fn through(&self, peer: &Peer) -> Zxid;

    /// NEWLEADER, which follows that.
    fn new_leader(&self, peer: &Peer) -> FromLeader;

    /// A learner has come further.
    fn note_progress(&mut self, now: Time);

    /// The learner's connection is gone: takes its handler out.
    fn forget(&mut self, peer: &mut Peer, now: Time, at: usize);

    fn position(&self, link: LinkId) -> Option<usize> {
        self.handlers().iter().position(|handler| handler.link == link)
    }

    /// Who a learner that has said so is.
    fn server(&self, at: usize) -> ServerId {
        self.handlers()[at].server.expect("a learner past its first packet has said who it is")
    }

    /// What a learner's client has asked goes on to whoever knows; whether it was that.
    fn pass_on(&self, peer: &mut Peer, at: usize, asked: FromLearner) -> bool {
        let (learner, link) = (self.server(at), self.handlers()[at].link);
        peer.tell(match asked {
            FromLearner::Request(request) => Event::Request { learner, link, request },
            FromLearner::Revalidate { session, timeout_ms } => {
                Event::Revalidate { learner, link, session, timeout_ms }
            }
            _ => return false,
        });
        true
    }

    fn handle_accepted(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        let is_nameless = |handler: &Handler| handler.server.is_none();
        let nameless = self.handlers().iter().filter(|handler| is_nameless(handler)).count();
        if nameless >= NAMELESS_MAX
            && let Some(oldest) = self.handlers().iter().position(is_nameless)
        {
            self.reject(peer, now, oldest, "no FOLLOWERINFO");
        }
        self.handlers_mut().push(Handler::new(link, now));
    }

    /// A packet that does not fit: nothing that comes after it can be trusted.
    fn reject(&mut self, peer: &mut Peer, now: Time, at: usize, packet: &str) {
        let handler = &self.handlers()[at];
        let server = handler.server.map_or(-1, |server| server.0);
        tracing::warn!(server, packet, stage = ?handler.stage, "closed a learner's connection");
        self.drop_handler(peer, now, at);
    }

    fn drop_handler(&mut self, peer: &mut Peer, now: Time, at: usize) {
        peer.perform(Action::Close { link: self.handlers()[at].link });
        self.forget(peer, now, at);
    }

    /// A learner's connection is gone.
    fn handle_disconnected(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if let Some(at) = self.position(link) {
            self.forget(peer, now, at);
        }
    }

    /// Gives up learners that have not been heard of for too long.
    fn close_silent(&mut self, peer: &mut Peer, now: Time) {
        let (init_limit, sync_limit) = (peer.init_limit(), peer.sync_limit());
        let mut at = 0;
        while at < self.handlers().len() {
            let handler = &self.handlers()[at];
            let is_silent = match handler.stage {
                Stage::UpToDate => now.since(handler.proven) > sync_limit,
                _ if handler.waits_for_leader() => false,
                _ => now.since(handler.since) > init_limit,
            };
            if is_silent {
                self.reject(peer, now, at, "silence");
            } else {
                at += 1;
            }
        }
    }

    /// Lets those that wait for this server know that it lives. Apache's learners would not
    /// understand it there.
    fn keep_waiting_learners(&self, peer: &mut Peer) {
        let zxid = peer.last();
        for handler in self.handlers().iter().filter(|handler| {
            let is_quiet = handler.waits_for_leader() || handler.catches_up();
            let is_sending = matches!(handler.stage, Stage::Sending { .. });
            handler.extensions != Extensions::default() && is_quiet && !is_sending
        }) {
            let message = FromLeader::Ping { zxid };
            peer.perform(Action::ToLearner { link: handler.link, message });
        }
    }

    fn send(&self, peer: &mut Peer, at: usize, message: FromLeader) {
        peer.perform(Action::ToLearner { link: self.handlers()[at].link, message });
    }

    /// `LeaderSyncFollower`.
    fn bring_up(&mut self, peer: &mut Peer, now: Time, at: usize, last: Zxid) {
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

    fn read_log(&mut self, peer: &mut Peer, at: usize, cursor: Zxid, is_open: bool) {
        let handler = &mut self.handlers_mut()[at];
        handler.stage = Stage::Reading { cursor, is_open };
        peer.perform(Action::ReadLog { link: handler.link, after: cursor, bytes: READ_BYTES });
    }

    /// The learner has everything up to `cursor`: sends the rest if memory has it.
    fn catch_up(&mut self, peer: &mut Peer, now: Time, at: usize, cursor: Zxid) {
        match peer.history.locate(cursor) {
            Place::Before(index) => self.go_live(peer, now, at, index),
            Place::Older => self.read_log(peer, at, cursor, true),
            Place::Foreign { .. } | Place::Newer => self.reject(peer, now, at, "unknown cursor"),
        }
    }

    /// Sends everything from `index` on, and NEWLEADER where it belongs.
    fn go_live(&mut self, peer: &mut Peer, now: Time, at: usize, index: usize) {
        let through = self.through(peer);
        let mut end = index;
        while let Some(entry) = peer.history.entry(end).filter(|entry| entry.zxid <= through) {
            let (zxid, txn) = (entry.zxid, Arc::clone(&entry.txn));
            self.send_committed(peer, at, zxid, txn);
            end += 1;
        }
        let message = self.new_leader(peer);
        self.send(peer, at, message);
        let handler = &mut self.handlers_mut()[at];
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

    fn send_committed(&self, peer: &mut Peer, at: usize, zxid: Zxid, txn: Arc<[u8]>) {
        self.send(peer, at, FromLeader::Proposal { zxid, txn });
        self.send(peer, at, FromLeader::Commit { zxid });
    }

    fn handle_log_read(
        &mut self,
        peer: &mut Peer,
        now: Time,
        link: LinkId,
        txns: Result<Txns, LogGap>,
    ) {
        let Some(at) = self.position(link) else { return };
        let Stage::Reading { cursor, is_open } = self.handlers()[at].stage else { return };
        self.handlers_mut()[at].since = now;
        self.note_progress(now);
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

    fn send_snapshot(&mut self, peer: &mut Peer, now: Time, at: usize) {
        let is_sending = |handler: &&Handler| matches!(handler.stage, Stage::Sending { .. });
        if self.handlers().iter().filter(is_sending).count() >= SNAPSHOTS_MAX {
            self.handlers_mut()[at].stage = Stage::Queued;
            return;
        }
        // What a learner loses by it, it gets back in the same moment: all that a leader begins
        // with may be committed, also what this server does not know to be, and the learner may be
        // one of the quorum that has it.
        let zxid = self.through(peer);
        self.send(peer, at, FromLeader::Snap { zxid });
        let handler = &mut self.handlers_mut()[at];
        handler.stage = Stage::Sending { zxid };
        handler.since = now;
        let (link, extensions) = (handler.link, handler.extensions);
        peer.perform(Action::SendSnapshot { link, zxid, extensions });
    }

    fn send_queued_snapshots(&mut self, peer: &mut Peer, now: Time) {
        if let Some(at) = self.handlers().iter().position(|handler| handler.stage == Stage::Queued)
        {
            self.send_snapshot(peer, now, at);
        }
    }

    fn handle_snapshot_sent(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        let Some(at) = self.position(link) else { return };
        let Stage::Sending { zxid } = self.handlers()[at].stage else { return };
        self.handlers_mut()[at].since = now;
        self.note_progress(now);
        self.catch_up(peer, now, at, zxid);
        self.send_queued_snapshots(peer, now);
    }

    fn handle_snapshot_failed(&mut self, peer: &mut Peer, now: Time, link: LinkId) {
        if let Some(at) = self.position(link) {
            self.reject(peer, now, at, "no snapshot could be sent");
        }
    }

    /// Bytes are still flowing to a learner.
    fn handle_progress(&mut self, now: Time, link: LinkId) {
        if let Some(at) = self.position(link) {
            self.handlers_mut()[at].since = now;
            self.note_progress(now);
        }
    }
}

/// Whether `txns` go on behind `cursor` and there is at least one (R7).
fn is_gapless(cursor: Zxid, txns: &[(Zxid, Arc<[u8]>)]) -> bool {
    let zxids = txns.iter().map(|(zxid, _)| *zxid);
    let before = std::iter::once(cursor).chain(zxids.clone());
    !txns.is_empty() && before.zip(zxids).all(|(last, next)| follows(last, next))
}
