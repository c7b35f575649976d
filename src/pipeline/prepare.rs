//! Check and apply, one step: what a write may do, and the transaction that it becomes.
//!
//! There is no table of outstanding changes: each operation is applied at its zxid on top of
//! everything prepared before it, so the next one's checks see it. The checks stand in the order
//! of Apache's `PrepRequestProcessor.pRequest2Txn`, since clients can tell.

use std::borrow::Cow;

use crate::pipeline::Settings;
use crate::tree::acl::AclId;
use crate::tree::view::Node;
use crate::tree::writer::Writer;
use crate::wire::acl::{EncodedAcl, Id, Perms};
use crate::wire::error::ErrorCode;
use crate::wire::opcode::OpCode;
use crate::wire::path;
use crate::wire::request::{CreateMode, CreateRequest};
use crate::wire::stat::{Lifetime, TTL_MS_MAX};
use crate::wire::txn::{CreateKind, CreateTxn, Txn};

type Result<T> = std::result::Result<T, ErrorCode>;

/// Who asks: the session, and every identity that its connection has shown.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub session: i64,
    pub ids: &'a [Id],
}

/// A create that may happen: with its final path, the list as it will stand, and its kind.
pub struct CheckedCreate<'a> {
    pub(super) path: Cow<'a, str>,
    data: Option<&'a [u8]>,
    acl: EncodedAcl<'a>,
    parent_cversion: i32,
    kind: CreateKind,
}

impl CheckedCreate<'_> {
    /// The transaction that it becomes.
    pub fn txn(&self) -> Txn<'_> {
        Txn::Create(CreateTxn {
            path: &self.path,
            data: self.data,
            acl: self.acl.clone(),
            parent_cversion: self.parent_cversion,
            kind: self.kind,
        })
    }
}

/// Paths that no client may delete (`ZKDatabase.isSpecialPath`).
const SPECIAL_PATHS: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"];

/// The state that a write is checked against, and the rules that hold here.
pub struct Checks<'w> {
    pub writer: &'w mut Writer,
    pub settings: &'w Settings,
    pub asker: Asker<'w>,
}

impl<'w> Checks<'w> {
    /// Whether the asker has one of the permissions `wanted` under the list `acl`.
    pub(super) fn check_acl(&self, acl: AclId, wanted: Perms) -> Result<()> {
        if acl == AclId::OPEN || self.settings.skip_acl {
            return Ok(());
        }
        let list = self.writer.tree().acls().list(acl);
        match self.settings.auth.check_acl(&list.entries, wanted, self.asker.ids) {
            true => Ok(()),
            false => Err(ErrorCode::NoAuth),
        }
    }

    /// A create, a create2, a container or a TTL node.
    pub fn create<'a>(&mut self, create: &CreateRequest<'a>) -> Result<CheckedCreate<'a>> {
        let mode = CreateMode::from_flags(create.flags).ok_or(ErrorCode::BadArguments)?;
        let lifetime = self.check_lifetime(mode, create.ttl_ms.unwrap_or(-1))?;
        if !create.path.contains('/') || create.path.contains('\0') {
            return Err(ErrorCode::BadArguments);
        }
        // The final path is validated below, after the sequence number is known; the parent of an
        // invalid one does not exist.
        let parent_path = create.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent_path = if parent_path.is_empty() { "/" } else { parent_path };
        let acl = self.fixup_acl(create.acl.clone())?;
        let parent = self.writer.find(parent_path).ok_or(ErrorCode::NoNode)?;
        self.check_acl(parent.acl(), Perms::CREATE)?;
        let path = match mode.is_sequential() {
            false => Cow::Borrowed(create.path),
            true => Cow::Owned(format!("{}{:010}", create.path, parent.meta().cversion)),
        };
        if !path::is_valid(&path) {
            return Err(ErrorCode::BadArguments);
        }
        if self.writer.find(&path).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if let Lifetime::Ephemeral(_) = self.lifetime_of(&parent) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        self.check_quota(&path, create.data.map_or(0, <[u8]>::len) as i64, 1)?;
        let kind = match create.op {
            OpCode::CreateContainer => CreateKind::Container,
            OpCode::CreateTtl => CreateKind::Ttl(match lifetime {
                Lifetime::Ttl(ttl_ms) => ttl_ms,
                _ => return Err(ErrorCode::BadArguments),
            }),
            op => CreateKind::Plain {
                ephemeral: mode.is_ephemeral(),
                with_stat: op == OpCode::Create2,
            },
        };
        let parent_cversion = parent.meta().cversion.wrapping_add(1);
        Ok(CheckedCreate { path, data: create.data, acl, parent_cversion, kind })
    }

    /// `EphemeralType.validateTTL`: a time to live goes with the TTL modes and no other.
    fn check_lifetime(&self, mode: CreateMode, ttl_ms: i64) -> Result<Lifetime> {
        if mode.is_ttl() {
            if !self.settings.extended_types {
                return Err(ErrorCode::Unimplemented);
            }
            return match ttl_ms {
                1..=TTL_MS_MAX => Ok(Lifetime::Ttl(ttl_ms)),
                _ => Err(ErrorCode::BadArguments),
            };
        }
        match ttl_ms {
            ..=-1 if mode == CreateMode::Container => Ok(Lifetime::Container),
            ..=-1 => Ok(Lifetime::Persistent),
            _ => Err(ErrorCode::BadArguments),
        }
    }

    fn lifetime_of(&self, node: &Node<'_>) -> Lifetime {
        Lifetime::of_owner(node.owner(), self.settings.extended_types)
    }

    /// The list as it will stand: without duplicates, `auth` expanded, every identity valid.
    fn fixup_acl<'a>(&self, acl: EncodedAcl<'a>) -> Result<EncodedAcl<'a>> {
        self.settings.auth.fixup(acl, self.asker.ids)
    }

    fn check_quota(&self, path: &str, bytes: i64, count: i64) -> Result<()> {
        if !self.settings.enforce_quota {
            return Ok(());
        }
        match self.writer.check_quota(path, bytes, count).iter().any(|excess| excess.hard) {
            true => Err(ErrorCode::QuotaExceeded),
            false => Ok(()),
        }
    }

    /// A client's delete.
    pub fn delete(&mut self, path: &str, version: i32) -> Result<()> {
        let parent = self.writer.find(self.parent_of_deletable(path)?).ok_or(ErrorCode::NoNode)?;
        self.check_acl(parent.acl(), Perms::DELETE)?;
        let node = self.writer.find(path).ok_or(ErrorCode::NoNode)?;
        check_version(node.meta().version, version)?;
        match node.child_count() {
            0 => Ok(()),
            _ => Err(ErrorCode::NotEmpty),
        }
    }

    /// The reaper's delete of a container or TTL node.
    pub fn delete_container(&mut self, path: &str) -> Result<()> {
        let parent = self.parent_of_deletable(path)?;
        let node = self.writer.find(path).ok_or(ErrorCode::NoNode)?;
        if node.child_count() > 0 {
            return Err(ErrorCode::NotEmpty);
        }
        if let Lifetime::Ephemeral(_) = self.lifetime_of(&node) {
            return Err(ErrorCode::BadVersion);
        }
        self.writer.find(parent).map(|_| ()).ok_or(ErrorCode::NoNode)
    }

    fn parent_of_deletable<'p>(&self, path: &'p str) -> Result<&'p str> {
        if path.contains('\0') || SPECIAL_PATHS.contains(&path) {
            return Err(ErrorCode::BadArguments);
        }
        path::split(path).map(|(parent, _)| parent).ok_or(ErrorCode::BadArguments)
    }

    /// A set of data: the node's version from here on.
    pub fn set_data(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<i32> {
        let node = self.valid_node(path)?;
        self.check_acl(node.acl(), Perms::WRITE)?;
        let size = |data: Option<&[u8]>| data.map_or(0, <[u8]>::len) as i64;
        self.check_quota(path, size(data) - size(node.data()), 0)?;
        check_version(node.meta().version, version)
    }

    /// A set of the ACL: the list as it will stand, and the node's aversion from here on.
    pub fn set_acl<'a>(
        &mut self,
        path: &str,
        acl: EncodedAcl<'a>,
        version: i32,
    ) -> Result<(EncodedAcl<'a>, i32)> {
        if !path::is_valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let acl = self.fixup_acl(acl)?;
        let node = self.valid_node(path)?;
        self.check_acl(node.acl(), Perms::ADMIN)?;
        Ok((acl, check_version(node.meta().aversion, version)?))
    }

    /// A multi's condition: the version that its transaction carries.
    pub fn check(&mut self, path: &str, version: i32) -> Result<i32> {
        let node = self.valid_node(path)?;
        self.check_acl(node.acl(), Perms::READ)?;
        check_version(node.meta().version, version)
    }

    /// The znode at `path`, whose path is valid if it is there: nothing else is created.
    fn valid_node(&mut self, path: &str) -> Result<Node<'static>> {
        match self.writer.find(path) {
            Some(node) => Ok(node),
            None if path::is_valid(path) => Err(ErrorCode::NoNode),
            None => Err(ErrorCode::BadArguments),
        }
    }
}

/// The next version, where `wanted` is -1 or the current one.
fn check_version(current: i32, wanted: i32) -> Result<i32> {
    match wanted == -1 || wanted == current {
        true => Ok(current.wrapping_add(1)),
        false => Err(ErrorCode::BadVersion),
    }
}
