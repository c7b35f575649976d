//! What a transaction did, beside the tree: events for watches, and totals.

use std::sync::Arc;

use crate::tree::acl::AclId;
use crate::wire::response::EventKind;
use crate::zxid::Zxid;

/// A change that a watch may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub path: Arc<str>,
    pub zxid: Zxid,
    /// The ACL that the znode at `path` has, or had when it was deleted: who may not read it is not
    /// told of it.
    pub acl: AclId,
}

/// Sums over the whole tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Apache's digest of the tree.
    pub digest: u64,
    /// How many znodes there are as Apache counts: the root's alias "" is one of them.
    pub node_count: u64,
    /// The lengths of all paths, in UTF-16 units, and of all data, in bytes.
    pub data_size: u64,
    /// How many znodes are ephemeral.
    pub ephemeral_count: u64,
}

/// What one transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub zxid: Zxid,
    /// In Apache's order. Empty unless the writer was told to build them.
    pub events: Vec<Event>,
    /// The sums after the transaction.
    pub totals: Totals,
}
