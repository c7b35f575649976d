//! Loading: a tree from records, in any order and from several threads.
//!
//! A snapshot's reader gives each record with the names of its children, which are checked: every
//! path is hashed into one sum, and every parent's path with each child's name into another; the
//! keyed sums agree only if each znode but the root is named by its parent and nothing else is.
//! That costs two hashes per znode, where looking each parent up would cost a cache miss or more.

use std::collections::BTreeMap;

use crate::time::Time;
use crate::tree::acl::AclId;
use crate::tree::children::Children;
use crate::tree::digest;
use crate::tree::effects::Totals;
use crate::tree::quota::QuotaNode;
use crate::tree::record::{Meta, Parts, RecordRef};
use crate::tree::spares::Spares;
use crate::tree::table::Hold;
use crate::tree::view::session_path;
use crate::tree::writer::{TreeConfig, Writer, data_size};
use crate::wire::acl::EncodedAcl;
use crate::wire::path;
use crate::wire::stat::Lifetime;
use crate::zxid::Zxid;

/// Why records do not make a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A path that is none.
    #[error("{path:?} is not a path")]
    BadPath { path: String },
    /// Two records of one path.
    #[error("two records of {path}")]
    Repeated { path: String },
    /// An ACL that was not added.
    #[error("{path} names access control list {acl}, which is not there")]
    NoAcl { path: String, acl: u32 },
    /// Names of children that are repeated or out of order.
    #[error("the children of {path} are not in order at {name}")]
    Unordered { path: String, name: String },
    /// A znode whose parent is missing, or does not name it.
    #[error("the parent of {path} is missing or does not name it")]
    Orphan { path: String },
    /// A name of a child that is not there.
    #[error("{path} names a child that is not there: {name}")]
    NoChild { path: String, name: String },
    /// There is no root.
    #[error("no root")]
    NoRoot,
    /// The digest of the records is another one.
    #[error("the digest is {actual:#x} and should be {expected:#x}")]
    Digest { expected: u64, actual: u64 },
}

/// A znode as a snapshot has it. `meta.zxid` is of no account: every reader sees the record.
pub struct Loaded<'a, C> {
    pub path: &'a str,
    pub data: Option<&'a [u8]>,
    pub meta: Meta,
    /// The names of the children in ascending order.
    pub children: C,
}

/// Builds a tree: add the lists, then the records by [`Part`]s, then finish.
pub struct Builder {
    writer: Writer,
}

/// One thread's share of the loading.
pub struct Part<'b> {
    builder: &'b Builder,
    hold: Hold<'b>,
    /// A path in the making.
    scratch: Vec<u8>,
    /// None, since nothing is replaced; records are put together there.
    spares: Spares,
    sums: Sums,
}

/// What a part has added, for [`Builder::finish`].
#[derive(Default)]
pub struct Sums {
    totals: Totals,
    acl_uses: BTreeMap<AclId, usize>,
    /// Hashes of the paths, and of the paths that parents name.
    paths: u64,
    named: u64,
    has_root: bool,
    /// Znodes with an owner: ephemerals, containers, TTL nodes.
    owned: Vec<RecordRef>,
    /// Paths that have a quota.
    quotas: Vec<Box<str>>,
}

impl Builder {
    /// A builder for about `capacity` znodes.
    pub fn new(config: TreeConfig, capacity: usize, now: Time) -> Builder {
        Builder { writer: Writer::empty(config, capacity, now) }
    }

    /// Adds an access control list; records name it by what this returns.
    pub fn add_acl(&mut self, acl: &EncodedAcl<'_>) -> AclId {
        self.writer.acls.intern(acl)
    }

    /// A share for the calling thread.
    pub fn part(&self) -> Part<'_> {
        let hold = self.writer.tree.table.hold();
        Part {
            builder: self,
            hold,
            scratch: Vec::new(),
            spares: Spares::default(),
            sums: Sums::default(),
        }
    }

    /// The writer of the tree, at `last_zxid`.
    ///
    /// # Errors
    /// The records make no tree, or not the one with the digest `expected`.
    pub fn finish(
        mut self,
        parts: impl IntoIterator<Item = Sums>,
        last_zxid: Zxid,
        expected: Option<u64>,
    ) -> Result<Writer, BuildError> {
        let sums = self.add_up(parts)?;
        if sums.named != sums.paths {
            return Err(self.find_misfit());
        }
        self.complete(sums, last_zxid, expected)
    }

    /// As [`Builder::finish`], where the records came without their children's names: Apache's
    /// snapshots have none.
    pub fn finish_deriving(
        mut self,
        parts: impl IntoIterator<Item = Sums>,
        last_zxid: Zxid,
        expected: Option<u64>,
    ) -> Result<Writer, BuildError> {
        let sums = self.add_up(parts)?;
        self.derive_children()?;
        let mut writer = self.complete(sums, last_zxid, expected)?;
        // Statistics of a fuzzy snapshot are of no moment in particular (`DataTree.setupQuota`).
        writer.recount_quotas();
        Ok(writer)
    }

    fn add_up(&mut self, parts: impl IntoIterator<Item = Sums>) -> Result<Sums, BuildError> {
        let mut all = Sums::default();
        for part in parts {
            all.totals.digest = all.totals.digest.wrapping_add(part.totals.digest);
            all.totals.node_count += part.totals.node_count;
            all.totals.data_size += part.totals.data_size;
            all.paths = all.paths.wrapping_add(part.paths);
            all.named = all.named.wrapping_add(part.named);
            all.has_root |= part.has_root;
            all.owned.extend(part.owned);
            all.quotas.extend(part.quotas);
            for (acl, count) in part.acl_uses {
                self.writer.acls.retain(acl, count);
            }
        }
        if all.has_root { Ok(all) } else { Err(BuildError::NoRoot) }
    }

    fn complete(
        mut self,
        sums: Sums,
        last_zxid: Zxid,
        expected: Option<u64>,
    ) -> Result<Writer, BuildError> {
        let writer = &mut self.writer;
        // The root's alias "" is one more.
        writer.totals = Totals { node_count: sums.totals.node_count + 1, ..sums.totals };
        writer.last_zxid = last_zxid;
        for prefix in &sums.quotas {
            writer.quotas.set(prefix, true);
        }
        self.index_owned(sums.owned);
        self.add_config_node();
        let actual = self.writer.totals.digest;
        match expected {
            Some(expected) if expected != actual => Err(BuildError::Digest { expected, actual }),
            _ => Ok(self.writer),
        }
    }

    fn index_owned(&mut self, mut owned: Vec<RecordRef>) {
        let writer = &mut self.writer;
        let mut sessions: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        owned.sort_unstable();
        for record in &owned {
            writer.reapable.change(None, Some(record), writer.extended, writer.now);
            let owner = record.meta().owner;
            if let Lifetime::Ephemeral(session) = Lifetime::of_owner(owner, writer.extended) {
                sessions.entry(session).or_default().push(record.path());
            }
        }
        let hold = writer.tree.table.hold();
        for (session, paths) in sessions {
            writer.owners.insert(session, paths.len() as u64);
            writer.totals.ephemeral_count += paths.len() as u64;
            let children = Children::from_sorted(paths.into_iter()).expect("paths are sorted");
            let path = &session_path(session);
            let meta = Meta::default();
            let parts = Parts { path, data: None, meta, children, older: None };
            writer.tree.table.insert(RecordRef::new(parts, &mut writer.spares), &hold);
        }
    }

    /// Servers before 3.5 had no `/zookeeper/config`; Apache adds it when it loads
    /// (`DataTree.java`, `addConfigNode`).
    fn add_config_node(&mut self) {
        let writer = &mut self.writer;
        let Some(parent) = writer.live("/zookeeper") else { return };
        if writer.live("/zookeeper/config").is_some() {
            return;
        }
        let mut children = parent.children().clone();
        children.insert("config");
        let new = parent.with(*parent.meta(), children, None, &mut writer.spares);
        writer.replace(new);
        let meta = writer.config_meta();
        writer.put_initial("/zookeeper/config", &[], meta);
    }

    /// Gives every parent the names of its children.
    fn derive_children(&mut self) -> Result<(), BuildError> {
        let writer = &mut self.writer;
        let hold = writer.tree.table.hold();
        let mut paths: Vec<RecordRef> = Vec::new();
        for shard in 0..writer.tree.shard_count() {
            paths.extend(writer.tree.table.iterate(shard, &hold).cloned());
        }
        // By parent, then by name: the names of one parent stand together, in order.
        let by_parent = |record: &RecordRef| path::split(record.path()).map(own);
        paths.sort_by_cached_key(by_parent);
        let below_root = paths.iter().filter_map(|record| path::split(record.path()));
        let mut rest = below_root.peekable();
        while let Some((parent_path, first)) = rest.next() {
            let mut names = vec![first];
            while let Some((_, name)) = rest.next_if(|(parent, _)| *parent == parent_path) {
                names.push(name);
            }
            let Some(parent) = writer.tree.table.get(parent_path.as_bytes(), &hold) else {
                let path = format!("{}/{first}", if parent_path == "/" { "" } else { parent_path });
                return Err(BuildError::Orphan { path });
            };
            let children = Children::from_sorted(names.into_iter()).expect("paths differ");
            let new = parent.with(*parent.meta(), children, None, &mut writer.spares);
            writer.tree.table.insert(new, &hold);
        }
        Ok(())
    }

    /// The first znode, in no order, that is not what its parent says.
    fn find_misfit(&self) -> BuildError {
        let view = self.writer.tree.view(Zxid::MAX);
        let mut misfit = None;
        for shard in 0..self.writer.tree.shard_count() {
            view.for_each_in_shard(shard, |node| {
                let path = node.path();
                if let Some((parent, name)) = path::split(path) {
                    let parent = view.node(parent);
                    if !parent.is_some_and(|parent| parent.children().contains(name)) {
                        misfit = Some(BuildError::Orphan { path: path.to_owned() });
                    }
                }
                for name in node.children().iter() {
                    let child = format!("{}/{name}", if path == "/" { "" } else { path });
                    if view.node(&child).is_none() {
                        let (path, name) = (path.to_owned(), name.to_owned());
                        misfit = Some(BuildError::NoChild { path, name });
                    }
                }
            });
        }
        misfit.expect("sums differ because something does")
    }
}

fn own((parent, name): (&str, &str)) -> (String, String) {
    (parent.to_owned(), name.to_owned())
}

impl<'b> Part<'b> {
    /// Adds a znode.
    ///
    /// # Errors
    /// It can stand in no tree, or its path is taken.
    pub fn add<'a, C>(&mut self, loaded: Loaded<'a, C>) -> Result<(), BuildError>
    where
        C: Iterator<Item = &'a str>,
    {
        let Loaded { path, data, meta, children } = loaded;
        if !path::is_well_formed(path) {
            return Err(BuildError::BadPath { path: path.to_owned() });
        }
        let table = &self.builder.writer.tree.table;
        let children = self.children(path, children)?;
        let meta = Meta { zxid: Zxid::ZERO, ..meta };
        if !self.builder.writer.acls.has(meta.acl) {
            return Err(BuildError::NoAcl { path: path.to_owned(), acl: meta.acl.0 });
        }
        let parts = Parts { path, data, meta, children, older: None };
        let record = RecordRef::new(parts, &mut self.spares);
        let (sums, hash) = (&mut self.sums, table.hash(path.as_bytes()));
        match path {
            "/" => sums.has_root = true,
            _ => sums.paths = sums.paths.wrapping_add(hash),
        }
        sums.totals.node_count += 1;
        sums.totals.data_size += data_size(&record);
        sums.totals.digest = sums.totals.digest.wrapping_add(record.digest());
        *sums.acl_uses.entry(meta.acl).or_default() += 1;
        if meta.owner != 0 {
            sums.owned.push(record.clone());
        }
        if !digest::counts(path)
            && let Some(QuotaNode::Limits(prefix)) = QuotaNode::of_path(path)
        {
            sums.quotas.push(prefix.into());
        }
        match table.insert_hashed(record, Some(hash), &self.hold) {
            false => Ok(()),
            true => Err(BuildError::Repeated { path: path.to_owned() }),
        }
    }

    /// The set of a znode's children, which also goes into the sum of what parents name.
    fn children<'a>(
        &mut self,
        path: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Children, BuildError> {
        let table = &self.builder.writer.tree.table;
        let child_path = &mut self.scratch;
        child_path.clear();
        child_path.extend_from_slice(path.as_bytes());
        if path != "/" {
            child_path.push(b'/');
        }
        let length = child_path.len();
        let named = &mut self.sums.named;
        let summed = names.inspect(|name| {
            child_path.truncate(length);
            child_path.extend_from_slice(name.as_bytes());
            *named = named.wrapping_add(table.hash(child_path));
        });
        Children::from_sorted(summed)
            .map_err(|name| BuildError::Unordered { path: path.to_owned(), name: name.to_owned() })
    }

    /// What this part has added.
    pub fn finish(self) -> Sums {
        self.sums
    }
}
