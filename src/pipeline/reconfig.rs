//! Changes of the ensemble's members, as its leader prepares them.
//!
//! The checks stand in the order of `PrepRequestProcessor.pRequest2Txn`, since clients can tell.
//! The transaction is a setData of `/zookeeper/config` under another type; the members are in force
//! once a quorum of the old and one of the new members have it.

use crate::pipeline::Pipeline;
use crate::pipeline::prepare::Asker;
use crate::wire::acl::Perms;
use crate::wire::error::ErrorCode;
use crate::wire::membership::{ChangeError, Membership};
use crate::wire::quorum::ServerId;
use crate::wire::request::ReconfigRequest;
use crate::zab::ensemble::{is_quorum_of, members};

/// Where clients read the members.
pub const CONFIG_PATH: &str = "/zookeeper/config";

/// The ensemble as its leader knows it when it is asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersNow {
    /// The members in force.
    pub current: Membership,
    /// Whether others are proposed.
    pub is_changing: bool,
    /// This server and the followers that are in step, whether they vote or not.
    pub synced: Vec<ServerId>,
}

impl From<ChangeError> for ErrorCode {
    /// Apache answers an unreadable number as it does an unreadable request.
    fn from(error: ChangeError) -> ErrorCode {
        match error {
            ChangeError::Bad(_) => ErrorCode::BadArguments,
            ChangeError::Unreadable => ErrorCode::MarshallingError,
        }
    }
}

impl Pipeline {
    /// Says what a request for other members is checked against; to be called before each.
    pub fn handle_members(&mut self, members: MembersNow) {
        self.members = Some(members);
    }

    /// Puts the members in force where clients read them, unless a transaction has done so.
    pub fn put_members(&mut self, text: &[u8], wall: crate::time::WallMs) {
        let is_there = |node: &crate::tree::view::Node<'_>| {
            let stored = node.data().and_then(Membership::version_of);
            stored >= Membership::version_of(text)
        };
        if !self.writer.node(CONFIG_PATH).as_ref().is_some_and(is_there) {
            let version = Membership::version_of(text).unwrap_or(0);
            self.writer.put_config(text, crate::zxid::Zxid::from_raw(version), wall);
        }
    }

    /// The text of the members that a request asks for, at the version of the transaction that is
    /// being prepared.
    ///
    /// # Errors
    /// Apache's.
    pub(super) fn check_reconfig(
        &mut self,
        asker: Asker<'_>,
        request: &ReconfigRequest<'_>,
    ) -> Result<String, ErrorCode> {
        if !self.settings.reconfig {
            return Err(ErrorCode::ReconfigDisabled);
        }
        let Some(now) = &self.members else { return Err(ErrorCode::Unimplemented) };
        let node = self.writer.node(CONFIG_PATH).ok_or(ErrorCode::NoNode)?;
        // What was prepared a moment ago stands in the tree, and nowhere else yet.
        let seen = node.data().and_then(Membership::version_of);
        if now.is_changing || seen.is_some_and(|version| version > now.current.version) {
            return Err(ErrorCode::ReconfigInProgress);
        }
        if request.current_config != -1 && request.current_config != now.current.version {
            return Err(ErrorCode::BadVersion);
        }
        let is_standalone = self.settings.standalone_enabled;
        let mut next = match request.members {
            Some(members) => now.current.replaced(members, is_standalone)?,
            None => now.current.changed(request.joining, request.leaving)?,
        };
        next.version = self.prepared.raw();
        let voters_min = if is_standalone { 2 } else { 1 };
        if next.voter_count() < voters_min {
            return Err(ErrorCode::BadArguments);
        }
        if !is_quorum_of(&members(&next), &now.synced) {
            return Err(ErrorCode::NewConfigNoQuorum);
        }
        self.checks(asker).check_acl(node.acl(), Perms::WRITE)?;
        Ok(next.text())
    }
}
