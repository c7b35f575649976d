//! What a transaction did, beside the tree: events for watches, and totals.

use std::fmt;

use crate::tree::acl::AclId;
use crate::tree::record::RecordRef;
use crate::wire::response::EventKind;
use crate::zxid::Zxid;

/// A change that a watch may wait for.
#[derive(Clone)]
pub struct Event {
    pub kind: EventKind,
    pub zxid: Zxid,
    /// The znode as it is, or as it was when it was deleted. A copy of its path for each event
    /// would be an allocation for each write.
    record: RecordRef,
}

impl Event {
    /// What became of `record` in the transaction `zxid`.
    pub fn new(kind: EventKind, zxid: Zxid, record: &RecordRef) -> Event {
        Event { kind, zxid, record: record.clone() }
    }

    /// The znode's path.
    pub fn path(&self) -> &str {
        self.record.path()
    }

    /// The ACL that the znode has, or had when it was deleted: who may not read it is not told of
    /// it.
    pub fn acl(&self) -> AclId {
        self.record.meta().acl
    }

    fn told(&self) -> (EventKind, &str, Zxid, AclId) {
        (self.kind, self.path(), self.zxid, self.acl())
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.told() == other.told()
    }
}

impl Eq for Event {}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event{:?}", self.told())
    }
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
