//! What each kind of transaction does to the tree, as Apache's `DataTree.java` does it.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::TreeError;
use crate::tree::children::Children;
use crate::tree::record::{Meta, Parts, RecordRef};
use crate::tree::view::session_path;
use crate::tree::writer::{Replay, Writer};
use crate::wire::acl::EncodedAcl;
use crate::wire::path;
use crate::wire::response::EventKind;
use crate::wire::stat::Lifetime;
use crate::wire::txn::{CreateKind, CreateTxn, Txn};

impl Writer {
    /// Applies a part of the open transaction: anything but a multi.
    ///
    /// # Errors
    /// It does not fit the tree; the caller aborts the transaction.
    pub fn apply_op(&mut self, txn: &Txn<'_>) -> Result<(), TreeError> {
        match txn {
            Txn::Create(create) => self.create(create),
            Txn::Delete { path, .. } => self.delete(path),
            Txn::SetData { path, data, version } => self.set_data(path, *data, *version),
            Txn::SetAcl { path, acl, version } => self.set_acl(path, acl, *version),
            Txn::CloseSession { paths } => self.close_session(paths.as_deref()),
            Txn::CheckVersion { .. } | Txn::CreateSession { .. } | Txn::Error { .. } => Ok(()),
            Txn::Multi(_) => Err(TreeError::Nested),
        }
    }

    /// An error for which a fuzzy replay passes over the transaction.
    fn unfit(&self, error: TreeError) -> Result<(), TreeError> {
        match self.replay {
            Replay::Exact => Err(error),
            Replay::Fuzzy => Ok(()),
        }
    }

    fn create(&mut self, create: &CreateTxn<'_>) -> Result<(), TreeError> {
        let header = self.header();
        let path = create.path;
        let exists = || TreeError::NodeExists { path: path.to_owned() };
        let Some((parent_path, name)) = path::split(path) else { return Err(exists()) };
        let Some(parent) = self.find_live(parent_path) else {
            return self.unfit(TreeError::NoParent { path: path.to_owned() });
        };
        let old = self.find_newest(path);
        if let Some(existing) = old.as_ref().filter(|old| !old.is_tombstone()) {
            self.unfit(exists())?;
            self.create_again(&parent, existing.clone(), create);
            return Ok(());
        }
        let owner = match create.kind {
            CreateKind::Plain { ephemeral: true, .. } => header.session,
            CreateKind::Plain { ephemeral: false, .. } => 0,
            CreateKind::Container => Lifetime::Container.owner(),
            CreateKind::Ttl(ms) => Lifetime::Ttl(ms).owner(),
        };
        let meta = Meta {
            zxid: header.zxid,
            czxid: header.zxid,
            mzxid: header.zxid,
            pzxid: header.zxid,
            ctime_ms: header.time_ms,
            mtime_ms: header.time_ms,
            owner,
            acl: self.acls.intern(&create.acl),
            ..Meta::default()
        };
        let older = self.link_to(old.as_ref());
        let parts = Parts { path, data: create.data, meta, children: Children::EMPTY, older };
        let child = RecordRef::new(parts, &mut self.spares);
        self.put(old, child.clone());
        let mut children = parent.children().clone();
        children.insert(name);
        let meta = self.raised(&parent, create.parent_cversion);
        self.put_with(&parent, meta, children);
        if let Lifetime::Ephemeral(session) = Lifetime::of_owner(owner, self.extended) {
            self.set_owned(session, path, true);
        }
        self.count_created(path, create.data);
        self.event(EventKind::NodeCreated, &child);
        self.event(EventKind::NodeChildrenChanged, &parent);
        Ok(())
    }

    /// A creation whose znode a fuzzy snapshot holds already: its ACL is set, and only the plainest
    /// creation raises the parent's numbers (`DataTree.java`, `processTxn`).
    fn create_again(&mut self, parent: &RecordRef, existing: RecordRef, create: &CreateTxn<'_>) {
        let zxid = self.header().zxid;
        let acl = self.acls.intern(&create.acl);
        let meta = Meta { zxid, acl, ..*existing.meta() };
        self.put_with(&existing, meta, existing.children().clone());
        if let CreateKind::Plain { with_stat: false, .. } = create.kind {
            let meta = self.raised(parent, create.parent_cversion);
            self.put_with(parent, meta, parent.children().clone());
        }
    }

    /// The metadata of a parent whose child is created: the stored cversion only ever rises, and
    /// pzxid with it.
    fn raised(&self, parent: &RecordRef, parent_cversion: i32) -> Meta {
        let zxid = self.header().zxid;
        let mut meta = Meta { zxid, ..*parent.meta() };
        let cversion = match parent_cversion {
            -1 => meta.cversion.wrapping_add(1),
            cversion => cversion,
        };
        if cversion > meta.cversion {
            meta.cversion = cversion;
            meta.pzxid = zxid;
        }
        meta
    }

    /// Puts a record of the same path and data as `old` in its place.
    fn put_with(&mut self, old: &RecordRef, meta: Meta, children: Children) {
        let older = self.link_to(Some(old));
        let new = old.with(meta, children, older, &mut self.spares);
        self.put(Some(old.clone()), new);
    }

    fn delete(&mut self, path: &str) -> Result<(), TreeError> {
        let (parent_path, name) = path::split(path).ok_or(TreeError::Root)?;
        let Some(parent) = self.find_live(parent_path) else {
            return self.unfit(TreeError::NoParent { path: path.to_owned() });
        };
        let mut children = parent.children().clone();
        children.remove(name);
        let zxid = self.header().zxid;
        let pzxid = parent.meta().pzxid.max(zxid);
        let meta = Meta { zxid, pzxid, ..*parent.meta() };
        let Some(node) = self.find_live(path) else {
            self.unfit(TreeError::NoNode { path: path.to_owned() })?;
            self.put_with(&parent, meta, children);
            return Ok(());
        };
        if !node.children().is_empty() {
            return Err(TreeError::NotEmpty { path: path.to_owned() });
        }
        self.put_with(&parent, meta, children);
        self.bury(&node);
        if let Lifetime::Ephemeral(session) = self.lifetime(&node) {
            self.set_owned(session, path, false);
        }
        self.count_deleted(path, node.data());
        self.event(EventKind::NodeDeleted, &node);
        self.event(EventKind::NodeChildrenChanged, &parent);
        Ok(())
    }

    fn lifetime(&self, record: &RecordRef) -> Lifetime {
        Lifetime::of_owner(record.meta().owner, self.extended)
    }

    /// Puts a tombstone in the place of `node`.
    fn bury(&mut self, node: &RecordRef) {
        let (zxid, older) = (self.header().zxid, self.link_to(Some(node)));
        let tombstone = RecordRef::tombstone(node.path(), zxid, older, &mut self.spares);
        self.put(Some(node.clone()), tombstone);
    }

    fn set_data(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<(), TreeError> {
        let header = self.header();
        let Some(old) = self.find_live(path) else {
            return self.unfit(TreeError::NoNode { path: path.to_owned() });
        };
        let meta = Meta {
            zxid: header.zxid,
            mzxid: header.zxid,
            mtime_ms: header.time_ms,
            version,
            ..*old.meta()
        };
        let new = self.put_data(path, &old, meta, data);
        self.count_set(path, old.data(), data);
        self.event(EventKind::NodeDataChanged, &new);
        Ok(())
    }

    /// Puts a record with other data in the place of `old`, which is that of `path`.
    pub(super) fn put_data(
        &mut self,
        path: &str,
        old: &RecordRef,
        meta: Meta,
        data: Option<&[u8]>,
    ) -> RecordRef {
        let older = self.link_to(Some(old));
        let parts = Parts { path, data, meta, children: old.children().clone(), older };
        let new = RecordRef::new(parts, &mut self.spares);
        self.put(Some(old.clone()), new.clone());
        new
    }

    fn set_acl(&mut self, path: &str, acl: &EncodedAcl<'_>, version: i32) -> Result<(), TreeError> {
        let zxid = self.header().zxid;
        let Some(old) = self.find_live(path) else {
            return self.unfit(TreeError::NoNode { path: path.to_owned() });
        };
        let acl = self.acls.intern(acl);
        let meta = Meta { zxid, acl, aversion: version, ..*old.meta() };
        self.put_with(&old, meta, old.children().clone());
        Ok(())
    }

    /// Notes that `session` owns the znode at `path`, or that it does not.
    fn set_owned(&mut self, session: i64, path: &str, owned: bool) {
        let key = session_path(session);
        let old = self.find_newest(&key);
        let live = old.as_ref().filter(|old| !old.is_tombstone());
        let mut children = live.map_or(Children::EMPTY, |live| live.children().clone());
        match owned {
            true => children.insert(path),
            false => children.remove(path),
        };
        self.put_owned(&key, old, children);
    }

    fn put_owned(&mut self, key: &str, old: Option<RecordRef>, children: Children) {
        let (zxid, older) = (self.header().zxid, self.link_to(old.as_ref()));
        let new = match children.is_empty() {
            true => RecordRef::tombstone(key, zxid, older, &mut self.spares),
            false => {
                let meta = Meta { zxid, ..Meta::default() };
                let parts = Parts { path: key, data: None, meta, children, older };
                RecordRef::new(parts, &mut self.spares)
            }
        };
        self.put(old, new);
    }

    /// Deletes the listed znodes and whatever else the session owns. A parent is changed once,
    /// however many of its children go.
    fn close_session(&mut self, listed: Option<&[&str]>) -> Result<(), TreeError> {
        let session = self.header().session;
        let key = session_path(session);
        let old = self.find_newest(&key);
        let owned = old.as_ref().filter(|old| !old.is_tombstone());
        let owned = owned.map_or(Children::EMPTY, |owned| owned.children().clone());
        let listed = listed.unwrap_or_default();
        let known: BTreeSet<&str> = listed.iter().copied().collect();
        let others = owned.iter().filter(|path| !known.contains(path));
        let mut parents: BTreeMap<&str, (RecordRef, Children)> = BTreeMap::new();
        for path in listed.iter().copied().chain(others) {
            // Apache warns of what is gone already, and goes on.
            let Some((parent_path, name)) = path::split(path) else { continue };
            let Some(node) = self.find_live(path) else { continue };
            if !node.children().is_empty() {
                return Err(TreeError::NotEmpty { path: path.to_owned() });
            }
            if !parents.contains_key(parent_path) {
                let parent = self.find_live(parent_path).expect("a znode has its parent");
                let children = parent.children().clone();
                parents.insert(parent_path, (parent, children));
            }
            let (parent, children) = parents.get_mut(parent_path).expect("it was put there");
            children.remove(name);
            let parent = parent.clone();
            self.bury(&node);
            match self.lifetime(&node) {
                Lifetime::Ephemeral(owner) if owner != session => {
                    self.set_owned(owner, path, false);
                }
                _ => {}
            }
            self.count_deleted(path, node.data());
            self.event(EventKind::NodeDeleted, &node);
            self.event(EventKind::NodeChildrenChanged, &parent);
        }
        let zxid = self.header().zxid;
        for (path, (_, children)) in parents {
            // Looked up again, because it may be a quota's statistics and counted meanwhile.
            let parent = self.find_live(path).expect("a parent outlives its children");
            let meta = Meta { zxid, pzxid: parent.meta().pzxid.max(zxid), ..*parent.meta() };
            self.put_with(&parent, meta, children);
        }
        if !owned.is_empty() {
            self.put_owned(&key, old, Children::EMPTY);
        }
        Ok(())
    }
}
