//! The multi-version znode tree: one writer, many readers.
//!
//! Every znode is a chain of immutable records, newest first, each stamped with the zxid that made
//! it. A *version* is a zxid: a reader at version v takes the newest record with zxid ≤ v. The
//! [`Writer`](writer::Writer) applies transactions on top of everything before them, whether
//! committed or not; readers hold a version and see nothing beyond it. So a transaction is seen
//! whole or not at all, a snapshot is exact while writes go on, and `Writer::pop_above` undoes a
//! lost leadership.
//!
//! ```text
//! Table   64 shards of path → newest record        shared by all cores, written by one
//! record  header │ path │ data, link to the older  one allocation
//! names   a persistent B-tree per parent           shared between a parent's records
//! Journal changes, oldest first                    undone from the back, reclaimed from the front
//! ```
//! What a session owns is kept as the children of a record of its own, at a path that no client can
//! name: versions, undoing and reclaiming then hold for it as for everything else.
//!
//! The core never asks for the time, and a version that some reader is at is never reclaimed: both
//! are told by the caller.

pub mod names;

pub mod children;

pub mod acl;

pub mod digest;

pub mod record;

pub mod spares;

pub mod table;

pub mod view;

pub mod effects;

pub mod quota;

pub mod index;

pub mod journal;

pub mod recent;

pub mod writer;

mod apply;

mod quota_stats;

pub mod builder;

pub mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::tree::acl::Acls;
use crate::tree::table::{SHARD_COUNT, Table};
use crate::tree::view::View;
use crate::zxid::Zxid;

/// What all cores share of the tree.
pub struct Tree {
    table: Table,
    acls: Arc<Acls>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").finish_non_exhaustive()
    }
}

impl Tree {
    /// The tree as it was after the transaction `version`; `Zxid::MAX` is the newest state, with
    /// everything that is not committed.
    ///
    /// The caller answers for it that the writer does not reclaim what the version needs, and that
    /// the view is short-lived: nothing that is replaced meanwhile is freed before it is dropped.
    pub fn view(&self, version: Zxid) -> View<'_> {
        View::new(self, version)
    }

    /// The access control lists.
    pub fn acls(&self) -> &Acls {
        &self.acls
    }

    /// How many shards [`View::for_each_in_shard`] takes.
    pub const fn shard_count(&self) -> usize {
        SHARD_COUNT
    }
}

/// Why a transaction cannot be applied. The leader checked it, so the state is not what it was when
/// the transaction was made: the tree or the log is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A change of a znode that is not there.
    #[error("no znode {path}")]
    NoNode { path: String },
    /// A creation below a znode that is not there.
    #[error("{path} has no parent")]
    NoParent { path: String },
    /// A creation of a znode that is there.
    #[error("znode {path} exists")]
    NodeExists { path: String },
    /// A deletion of a znode that has children.
    #[error("znode {path} has children")]
    NotEmpty { path: String },
    /// The root cannot be deleted.
    #[error("the root is not deleted")]
    Root,
    /// A transaction that is not newer than what was applied.
    #[error("transaction {zxid} after {last}")]
    OutOfOrder { zxid: Zxid, last: Zxid },
    /// A part of a multi that is none.
    #[error("a transaction inside of another")]
    Nested,
}
