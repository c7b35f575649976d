//! A leader's side: requests that learners pass on, their sessions, and syncs.
//!
//! Each request becomes exactly one transaction with its session and cxid, if need be an error:
//! a learner's client waits for it, and a Java learner answers nobody else before
//! (`CommitProcessor.java`). Sources: `LearnerHandler.java`, `PrepRequestProcessor.java`,
//! `Leader.java` (`revalidateSession`, `processSync`).

use std::collections::{BTreeSet, VecDeque};

use crate::pipeline::prepare::Asker;
use crate::pipeline::session::Owner;
use crate::pipeline::{Part, Pipeline, Room, Write, local};
use crate::time::{Time, WallMs};
use crate::wire::error::ErrorCode;
use crate::wire::jute::Reader;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::{Forwarded, FromLeader, ServerId};
use crate::wire::request::Request;
use crate::wire::txn::{Txn, TxnHeader};

/// How many bytes of learners' requests are kept while the log has no room for them.
const PARKED_BYTES_MAX: usize = 64 << 20;

/// Bytes that a parked request takes beside its body.
const PARKED_OVERHEAD: usize = 256;

/// How many sessions a leader remembers to have ended. A request that was under way when its
/// session ended arrives within the time that a silent learner is given (`syncLimit`); at most so
/// many end in it.
const ENDED_MAX: usize = 1 << 16;

/// Who has asked for a sync.
#[derive(Debug)]
enum Syncer {
    /// A client of this server: its session, and the request's place.
    Own {
        session: i64,
        order: u64,
    },
    Learner(ServerId),
}

/// What a leader keeps beside what it prepares.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    /// Syncs that wait for a quorum, each with the token that will let it out.
    syncs: VecDeque<(u64, Syncer)>,
    /// The last token handed out. Tokens go on when leaderships end: no answer to an earlier one
    /// is taken for an answer to a later one.
    token: u64,
    to_learner: VecDeque<(ServerId, FromLeader)>,
    /// Requests that wait for room in the log, in order.
    parked: VecDeque<(ServerId, Forwarded)>,
    parked_bytes: usize,
    /// The sessions that ended last, where one that is unknown may be local elsewhere.
    ended: Ended,
}

/// The sessions that ended last.
#[derive(Debug, Default)]
struct Ended {
    ids: BTreeSet<i64>,
    in_order: VecDeque<i64>,
}

impl Ended {
    fn insert(&mut self, session: i64) {
        if !self.ids.insert(session) {
            return;
        }
        self.in_order.push_back(session);
        if self.in_order.len() > ENDED_MAX {
            let oldest = self.in_order.pop_front().expect("there are many");
            self.ids.remove(&oldest);
        }
    }
}

impl Leadership {
    /// The leadership has ended, or begins.
    pub fn clear(&mut self) {
        let token = self.token;
        *self = Leadership { token, ..Leadership::default() };
    }

    /// A session has ended for all servers.
    pub fn note_ended(&mut self, session: i64) {
        self.ended.insert(session);
    }

    /// Whether the session was everybody's a while ago, and so is nobody's local one.
    pub fn has_ended(&self, session: i64) -> bool {
        self.ended.ids.contains(&session)
    }

    /// Whether something is parked that the log has room for.
    pub fn is_parked(&self, room: Room) -> bool {
        room != Room::Full && !self.parked.is_empty()
    }
}

impl Pipeline {
    /// A learner passes on a request of one of its clients: it becomes a transaction, or waits for
    /// room in the log.
    ///
    /// Returns false where too much waits already and the request is dropped: the caller closes the
    /// learner's connection, so that it comes back and asks again. For a sync the caller drains
    /// [`Pipeline::take_txns`] and [`Pipeline::poll_confirm`] before anything else goes in, so
    /// that it waits for nothing that comes later.
    pub fn handle_forwarded(
        &mut self,
        learner: ServerId,
        request: &Forwarded,
        now: Time,
        wall: WallMs,
    ) -> bool {
        if self.part != Part::Leading {
            return true;
        }
        self.writer.set_now(now);
        self.prepare_parked(now, wall);
        if self.room == Room::Full || !self.leadership.parked.is_empty() {
            let size = request.body.len() + PARKED_OVERHEAD;
            let leadership = &mut self.leadership;
            if leadership.parked_bytes + size > PARKED_BYTES_MAX {
                return false;
            }
            leadership.parked_bytes += size;
            leadership.parked.push_back((learner, request.clone()));
            return true;
        }
        self.prepare_forwarded(learner, request, now, wall);
        true
    }

    /// Prepares what had no room, now that there is some.
    pub(super) fn prepare_parked(&mut self, now: Time, wall: WallMs) {
        if self.room == Room::Full {
            return;
        }
        while let Some((learner, request)) = self.leadership.parked.pop_front() {
            self.leadership.parked_bytes -= request.body.len() + PARKED_OVERHEAD;
            self.prepare_forwarded(learner, &request, now, wall);
        }
    }

    fn prepare_forwarded(
        &mut self,
        learner: ServerId,
        request: &Forwarded,
        now: Time,
        wall: WallMs,
    ) {
        let Forwarded { session, cxid, op, .. } = *request;
        let owner = Owner::Learner(learner);
        match OpCode::from_raw(op) {
            Some(OpCode::Sync) => {
                let token = self.leadership.token + 1;
                self.leadership.syncs.push_back((token, Syncer::Learner(learner)));
            }
            // Whoever asks for it: the session is over, as its client or the expiry says.
            Some(OpCode::CloseSession) => {
                self.end_session(session, cxid, None, wall);
            }
            Some(OpCode::CreateSession) => match Reader::new(&request.body).i32() {
                Ok(timeout_ms) => {
                    let zxid = self.next_zxid(Room::SessionsOnly).expect("the log has room");
                    self.sessions.create(session, timeout_ms, Some(owner), zxid, now);
                    self.sessions.set_owner(session, owner);
                    let header = TxnHeader { session, cxid, zxid, time_ms: wall.0 };
                    self.apply_alone(&header, &Txn::CreateSession { timeout_ms });
                }
                Err(_) => self.refuse_forwarded(request, ErrorCode::MarshallingError, wall),
            },
            Some(op) if op.is_write() => {
                if let Err(error) = self.prepare_write(learner, request, op, now, wall) {
                    self.refuse_forwarded(request, error, wall);
                }
            }
            _ => self.refuse_forwarded(request, ErrorCode::Unimplemented, wall),
        }
    }

    /// # Errors
    /// Why it takes no zxid of its own: it becomes an error's transaction.
    fn prepare_write(
        &mut self,
        learner: ServerId,
        forwarded: &Forwarded,
        op: OpCode,
        now: Time,
        wall: WallMs,
    ) -> Result<(), ErrorCode> {
        let session = forwarded.session;
        let is_elsewhere = self.may_be_elsewhere(session);
        if !is_elsewhere {
            self.sessions.hear(session, Owner::Learner(learner), now)?;
        }
        let request = Request::decode(op, &forwarded.body);
        let request = request.map_err(|_| ErrorCode::MarshallingError)?;
        if is_elsewhere && local::needs_global(&request) {
            return Err(ErrorCode::SessionExpired);
        }
        let zxid = self.next_zxid(Room::Plenty).ok_or_else(|| {
            self.stats.refused_no_room += 1;
            ErrorCode::SystemError
        })?;
        let header = TxnHeader { session, cxid: forwarded.cxid, zxid, time_ms: wall.0 };
        let asker = Asker { session, ids: &forwarded.ids };
        // The learner makes the reply from the transaction.
        let mut reply = std::mem::take(&mut self.scratch);
        self.apply_request(&header, op, asker, request, &mut reply);
        reply.clear();
        self.scratch = reply;
        Ok(())
    }

    fn refuse_forwarded(&mut self, request: &Forwarded, error: ErrorCode, wall: WallMs) {
        let zxid = self.next_zxid(Room::SessionsOnly).expect("the log has room");
        let Forwarded { session, cxid, .. } = *request;
        self.stats.errors += 1;
        let header = TxnHeader { session, cxid, zxid, time_ms: wall.0 };
        self.apply_alone(&header, &Txn::Error { code: error.raw() });
    }

    /// A learner asks whether a session's client may come back through it, with this timeout in
    /// milliseconds. Whether it may.
    pub fn handle_revalidate(
        &mut self,
        learner: ServerId,
        session: i64,
        timeout_ms: i32,
        now: Time,
    ) -> bool {
        self.part == Part::Leading
            && self.sessions.touch_for(session, timeout_ms, now)
            && self.sessions.set_owner(session, Owner::Learner(learner))
    }

    /// A learner has heard of these sessions, with their timeouts in milliseconds.
    pub fn handle_touched(&mut self, _learner: ServerId, sessions: &[(i64, i32)], now: Time) {
        if self.part == Part::Leading {
            for &(session, timeout_ms) in sessions {
                self.sessions.touch_for(session, timeout_ms, now);
            }
        }
    }

    // ── Syncs ──

    /// A sync of a client of this leader waits for a quorum, and later replies wait for it.
    pub(super) fn lead_sync(&mut self, write: &Write<'_>) {
        let order = self.waiting.ask(write);
        self.waiting.set_led(write.session, self.epoch_start.epoch());
        let syncer = Syncer::Own { session: write.session, order };
        self.leadership.syncs.push_back((self.leadership.token + 1, syncer));
    }

    /// How many syncs wait for a quorum.
    pub fn pending_syncs(&self) -> usize {
        self.leadership.syncs.len()
    }

    /// A token for which a quorum is to confirm, from now on, that this server still leads, and
    /// that everything prepared so far is committed: [`Pipeline::handle_confirmed`].
    pub fn poll_confirm(&mut self) -> Option<u64> {
        let leadership = &mut self.leadership;
        let &(newest, _) = leadership.syncs.back()?;
        (newest > leadership.token).then(|| {
            leadership.token = newest;
            newest
        })
    }

    /// A quorum has confirmed this token and so all before it: the syncs that wait for it are
    /// answered, and what their clients have asked behind them is done.
    pub fn handle_confirmed(&mut self, token: u64, now: Time, wall: WallMs) {
        while let Some((_, syncer)) =
            self.leadership.syncs.pop_front_if(|(waits_for, _)| *waits_for <= token)
        {
            match syncer {
                Syncer::Own { session, order } => {
                    self.answer_sync(session, order);
                    self.lead_held(session, now, wall);
                }
                Syncer::Learner(learner) => {
                    self.leadership.to_learner.push_back((learner, FromLeader::Sync));
                }
            }
        }
    }

    /// What is sent to a learner next. The caller sends it before any commit of what was prepared
    /// after the sync that it answers: a Java follower takes its answers in that order, and would
    /// take a commit that comes too early for another server's.
    pub fn poll_to_learner(&mut self) -> Option<(ServerId, FromLeader)> {
        self.leadership.to_learner.pop_front()
    }
}
