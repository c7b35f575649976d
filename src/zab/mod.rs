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

pub mod ensemble;

pub mod election;

pub mod output;

/// STUB
pub struct Zab;
pub struct CannotTruncate;
use crate::time::Time;
use crate::wire::election::Notification;
use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zxid::Zxid;
use std::sync::Arc;
use output::{LinkId, LogGap, Output, Recovered};
impl Zab {
    pub fn new(_: ensemble::Ensemble, _: Recovered, _: u64, _: Time) -> Zab { Zab }
    pub fn handle_notification(&mut self, _: Time, _: ServerId, _: Notification) {}
    pub fn handle_reachable(&mut self, _: Time, _: ServerId, _: bool) {}
    pub fn handle_accepted(&mut self, _: Time, _: LinkId) {}
    pub fn handle_connected(&mut self, _: Time, _: LinkId) {}
    pub fn handle_connect_failed(&mut self, _: Time, _: ServerId) {}
    pub fn handle_from_learner(&mut self, _: Time, _: LinkId, _: FromLearner) {}
    pub fn handle_from_leader(&mut self, _: Time, _: LinkId, _: FromLeader) {}
    pub fn handle_disconnected(&mut self, _: Time, _: LinkId) {}
    pub fn handle_persisted(&mut self, _: Time, _: Zxid) {}
    pub fn handle_truncated(&mut self, _: Time, _: Result<Zxid, CannotTruncate>) {}
    pub fn handle_accepted_epoch_saved(&mut self, _: Time, _: u32) {}
    pub fn handle_current_epoch_saved(&mut self, _: Time, _: u32) {}
    pub fn handle_snapshot_sent(&mut self, _: Time, _: LinkId) {}
    pub fn handle_snapshot_received(&mut self, _: Time, _: LinkId, _: Zxid) {}
    pub fn handle_snapshot_failed(&mut self, _: Time, _: LinkId) {}
    pub fn handle_log_read(&mut self, _: Time, _: LinkId, _: Result<Vec<(Zxid, Arc<[u8]>)>, LogGap>) {}
    pub fn handle_timeout(&mut self, _: Time) {}
    pub fn poll_timeout(&self) -> Option<Time> { None }
    pub fn propose(&mut self, _: Time, _: Zxid, _: Arc<[u8]>) {}
    pub fn confirm(&mut self, _: Time, _: u64) {}
    pub fn resign(&mut self, _: Time) {}
    pub fn poll_output(&mut self) -> Option<Output> { None }
    pub fn led_at(&self) -> Option<Time> { None }
    pub fn epoch(&self) -> u32 { 0 }
}
