//! Which members there are, as proposals and commits change them (`QuorumPeer.java`:
//! `setLastSeenQuorumVerifier`, `setQuorumVerifier`, `processReconfig`).
//!
//! ```text
//! PROPOSAL of a reconfiguration, or NEWLEADER ─► proposed: quorums of old and new are wanted
//! its COMMIT, or UPTODATE                     ─► in force
//! TRUNC before it                             ─► forgotten
//! a notification, while looking for a leader  ─► in force: some quorum has committed it
//!                                             ─► heard of: it stands in the sender's log
//! NEWLEADER, or the own leadership            ─► what was heard of is forgotten
//! ```
//!
//! What is heard of changes no quorum ([`Ensemble::heard`]): it lets a server that has not heard of
//! a proposal in time speak with those who cannot do without it, and find the leader that they
//! elect. From that leader it has the proposal, or hears that there is none.
//!
//! What is proposed stands in the log and so in the tree, from where a server that starts has it.

use std::sync::Arc;

use crate::wire::membership::Membership;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::ServerId;
use crate::wire::txn::{self, Txn};
use crate::zab::ensemble::{Ensemble, NextConfig};
use crate::zab::output::Action;
use crate::zab::peer::Peer;
use crate::zxid::Zxid;

/// What so many servers say of proposed members is kept; there are no more members than that.
const SAID_MAX: usize = 256;
/// Where a transaction's type stands: behind session, cxid, zxid and time.
const OP_AT: std::ops::Range<usize> = 28..32;

impl Peer {
    /// A transaction was appended: one that changes the members proposes them. Whether it does.
    pub fn note_proposed(&mut self, zxid: Zxid, txn: &[u8]) -> bool {
        if txn.get(OP_AT) != Some(&OpCode::Reconfig.raw().to_be_bytes()) {
            return false;
        }
        if !self.ensemble.is_dynamic {
            return false;
        }
        let next = match txn::decode(txn) {
            Ok(logged) => match logged.txn {
                Txn::SetData { data: Some(text), .. } => NextConfig::parse(text),
                _ => None,
            },
            Err(_) => None,
        };
        match next {
            // A server that has newer members already hears how they came about.
            Some(next) if next.version <= self.ensemble.config_version => false,
            Some(next) if next.zxid() == zxid => {
                self.propose_config(next);
                true
            }
            _ => {
                tracing::error!(%zxid, "a reconfiguration makes no sense, and changes nothing");
                false
            }
        }
    }

    /// These members are proposed.
    pub fn propose_config(&mut self, next: NextConfig) {
        tracing::info!(version = %next.zxid(), "other members are proposed");
        self.ensemble = Arc::new(self.ensemble.with_next(Some(next)));
        self.tell_members();
    }

    /// Gives members without a version one: the start of this epoch. So they take precedence over
    /// what a server that is about to join has in its own file (ZOOKEEPER-1783).
    pub fn propose_version(&mut self, epoch: u32) {
        let ensemble = &self.ensemble;
        if !ensemble.is_dynamic || ensemble.config_version != 0 || ensemble.next.is_some() {
            return;
        }
        let Ok(mut membership) = Membership::parse(&ensemble.config) else { return };
        membership.version = Zxid::new(epoch, 0).raw();
        if let Some(next) = NextConfig::parse(membership.text().as_bytes()) {
            self.propose_config(next);
        }
    }

    /// A leader has said which members it knows of last.
    pub fn note_leaders_config(&mut self, text: &[u8]) {
        let known = self.ensemble.next.as_ref().map_or(i64::MIN, |next| next.version);
        if self.ensemble.is_dynamic
            && Membership::version_of(text)
                .is_some_and(|version| version > self.ensemble.config_version && version > known)
            && let Some(next) = NextConfig::parse(text)
        {
            self.propose_config(next);
        }
    }

    /// The proposed members are in force if they are of `through` or before. Whether they are.
    pub fn activate(&mut self, through: Zxid) -> bool {
        let Some(next) = self.ensemble.next.as_ref().filter(|next| next.zxid() <= through) else {
            return false;
        };
        tracing::info!(version = %next.zxid(), "the proposed members are in force");
        self.ensemble = Arc::new(self.ensemble.under(NextConfig::clone(next)));
        self.tell_members();
        true
    }

    /// Takes over newer members that another server says are in force. Whether they are newer.
    pub fn adopt(&mut self, text: &[u8]) -> bool {
        if !self.ensemble.is_dynamic
            || Membership::version_of(text).is_none_or(|it| it <= self.ensemble.config_version)
        {
            return false;
        }
        let Some(config) = NextConfig::parse(text) else { return false };
        if config.members.iter().all(|member| member.is_observer) {
            return false;
        }
        tracing::info!(version = %config.zxid(), "other servers have newer members");
        self.ensemble = Arc::new(self.ensemble.under(config));
        self.tell_members();
        true
    }

    /// What was proposed after `end` is no more.
    pub fn forget_config_after(&mut self, end: Zxid) {
        if self.ensemble.next.as_ref().is_some_and(|next| next.zxid() > end) {
            self.ensemble = Arc::new(self.ensemble.with_next(None));
            self.tell_members();
        }
    }

    /// Takes in which members stand in the log of `from`, which says so in each notification, or
    /// says nothing of any. Whether other members are heard of from here on.
    pub fn hear(&mut self, from: ServerId, proposed: &[u8]) -> bool {
        let said = Membership::version_of(proposed)
            .filter(|version| self.ensemble.is_dynamic && *version > self.ensemble.newest())
            .and_then(|_| NextConfig::parse(proposed))
            // A stranger that would be one among them too has nothing to do with this ensemble.
            .filter(|said| self.ensemble.with_heard(Some(said.clone())).may_vote(from));
        match said {
            Some(said) if self.said.len() < SAID_MAX || self.said.contains_key(&from) => {
                self.said.insert(from, said);
            }
            _ => {
                self.said.remove(&from);
            }
        }
        self.note_heard()
    }

    /// The newest of what is said is what is heard of: where all who have a proposal are gone, so
    /// is what was heard of it. Whether other members are heard of from here on.
    pub fn note_heard(&mut self) -> bool {
        let newest = self.said.values().max_by_key(|said| said.version).cloned();
        let ensemble = self.ensemble.with_heard(newest);
        if ensemble.heard == self.ensemble.heard {
            return false;
        }
        let version = ensemble.heard.as_ref().map(|heard| heard.zxid());
        tracing::info!(?version, "hears of members that are proposed");
        self.ensemble = Arc::new(ensemble);
        self.tell_members();
        true
    }

    /// What was heard of is no more: this server leads, or its leader has said what there is.
    pub fn forget_heard(&mut self) {
        self.said.clear();
        self.note_heard();
    }

    fn tell_members(&mut self) {
        let text = |config: &Option<Box<NextConfig>>| config.as_ref().map(|it| it.config.clone());
        let Ensemble { config, next, heard, .. } = &*self.ensemble;
        let (current, next, heard) = (Arc::clone(config), text(next), text(heard));
        self.perform(Action::Members { current, next, heard });
    }

    /// Whether `leader` votes in the proposed members, at the quorum addresses that it has.
    pub fn may_lead_next(&self, leader: ServerId) -> bool {
        let Some(next) = &self.ensemble.next else { return true };
        let ports = |text: &[u8]| {
            let membership = Membership::parse(text).ok()?;
            let server = membership.server(leader.0)?;
            let mut ports: Vec<(String, u16)> =
                server.addresses.iter().map(|it| (it.host.clone(), it.quorum_port)).collect();
            ports.sort();
            Some(ports)
        };
        let is_voter = |it: &crate::zab::ensemble::Member| it.id == leader && !it.is_observer;
        let now = ports(&self.ensemble.config);
        next.members.iter().any(is_voter) && (now.is_none() || now == ports(&next.config))
    }
}
