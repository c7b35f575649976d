//! Reading: the tree at one version.

use std::ops::Deref;

use crate::tree::Tree;
use crate::tree::acl::AclId;
use crate::tree::children::Children;
use crate::tree::record::{Meta, RecordRef};
use crate::tree::table::Hold;
use crate::wire::stat::Stat;
use crate::zxid::Zxid;

/// The path of the record whose children are the paths that `session` owns.
pub(super) fn session_path(session: i64) -> String {
    format!("\0{session:016x}")
}

/// The tree at one version. It belongs to the thread that made it, and should not live long.
pub struct View<'t> {
    tree: &'t Tree,
    hold: Hold<'t>,
    version: Zxid,
}

/// A znode at a version.
pub struct Node<'v>(Found<'v>);

enum Found<'v> {
    Newest(&'v RecordRef),
    Older(RecordRef),
}

impl<'t> View<'t> {
    pub(super) fn new(tree: &'t Tree, version: Zxid) -> View<'t> {
        View { tree, hold: tree.table.hold(), version }
    }

    /// The version that is read.
    pub fn version(&self) -> Zxid {
        self.version
    }

    /// The znode at `path`.
    pub fn node(&self, path: &str) -> Option<Node<'_>> {
        // Records at other paths are the tree's own.
        path.starts_with('/').then(|| self.find(path)).flatten()
    }

    fn find(&self, path: &str) -> Option<Node<'_>> {
        let newest = self.tree.table.get(path.as_bytes(), &self.hold)?;
        visible(newest, self.version)
    }

    /// The paths of the ephemeral znodes of `session`, in order.
    pub fn ephemerals(&self, session: i64) -> Children {
        self.find(&session_path(session)).map_or(Children::EMPTY, |node| node.children().clone())
    }

    /// How many znodes are below `path`, or `None` without a znode there.
    ///
    /// The cost is a look-up for each. For the root, `Totals::node_count` less 2 is Apache's answer
    /// at none.
    pub fn all_children_count(&self, path: &str) -> Option<u64> {
        self.node(path)?;
        let mut count = 0;
        self.for_each_below(path, |_| count += 1);
        Some(count)
    }

    /// Calls `visit` for every znode below `path`, each after its parent.
    pub fn for_each_below(&self, path: &str, mut visit: impl FnMut(&Node<'_>)) {
        // Only znodes with children wait here, so a path's depth costs nothing.
        let mut parents = vec![path.to_owned()];
        let mut child_path = String::new();
        while let Some(path) = parents.pop() {
            let Some(parent) = self.node(&path) else { continue };
            for name in parent.children().iter() {
                child_path.clear();
                child_path.push_str(if path == "/" { "" } else { &path });
                child_path.push('/');
                child_path.push_str(name);
                let Some(child) = self.node(&child_path) else { continue };
                visit(&child);
                if !child.children().is_empty() {
                    parents.push(child_path.clone());
                }
            }
        }
    }

    /// Calls `visit` for every znode in shard `index`, in no order: exact at this version, while
    /// the writer goes on.
    pub fn for_each_in_shard(&self, index: usize, mut visit: impl FnMut(&Node<'_>)) {
        for newest in self.tree.table.iterate(index, &self.hold) {
            if newest.path_bytes().first() != Some(&b'/') {
                continue;
            }
            if let Some(node) = visible(newest, self.version) {
                visit(&node);
            }
        }
    }

    /// The digest of the tree, added up anew from every znode.
    pub fn compute_digest(&self) -> u64 {
        let mut digest: u64 = 0;
        for index in 0..self.tree.shard_count() {
            self.for_each_in_shard(index, |node| digest = digest.wrapping_add(node.digest()));
        }
        digest
    }
}

/// The record of a chain that a reader at `version` takes, unless it says: deleted.
fn visible(newest: &RecordRef, version: Zxid) -> Option<Node<'_>> {
    let found = match newest.zxid() <= version {
        true => Found::Newest(newest),
        false => {
            let mut record = newest.older()?;
            while record.zxid() > version {
                record = record.older()?;
            }
            Found::Older(record)
        }
    };
    let node = Node(found);
    (!node.is_tombstone()).then_some(node)
}

impl Deref for Node<'_> {
    type Target = RecordRef;

    fn deref(&self) -> &RecordRef {
        match &self.0 {
            Found::Newest(record) => record,
            Found::Older(record) => record,
        }
    }
}

impl Node<'_> {
    /// The record, beyond the view's life.
    pub fn to_owned(&self) -> Node<'static> {
        Node(Found::Older(RecordRef::clone(self)))
    }

    pub(super) fn of_record(record: RecordRef) -> Node<'static> {
        Node(Found::Older(record))
    }

    /// The data; `None` is null.
    pub fn data(&self) -> Option<&[u8]> {
        RecordRef::data(self)
    }

    /// The metadata as a client sees it.
    pub fn stat(&self) -> Stat {
        RecordRef::stat(self)
    }

    /// The metadata as it is stored.
    pub fn meta(&self) -> &Meta {
        RecordRef::meta(self)
    }

    /// The access control list; `Acls::list` has it.
    pub fn acl(&self) -> AclId {
        self.meta().acl
    }

    /// The `ephemeralOwner` (`Lifetime`).
    pub fn owner(&self) -> i64 {
        self.meta().owner
    }

    /// The names of the children, in order.
    pub fn children(&self) -> &Children {
        RecordRef::children(self)
    }

    /// How many children there are.
    pub fn child_count(&self) -> usize {
        self.children().len()
    }
}
