//! Access control lists, interned: nearly every znode has one of the same few.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::wire::acl::{Acl, EncodedAcl};
use crate::zxid::Zxid;

/// A list in the table of lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclId(pub u32);

impl AclId {
    /// `world:anyone` with all permissions. A null list counts as this one.
    pub const OPEN: AclId = AclId(0);
}

/// A list, decoded and encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct AclList {
    pub encoded: EncodedAcl<'static>,
    pub entries: Vec<Acl>,
}

impl AclList {
    fn new(encoded: EncodedAcl<'static>) -> AclList {
        let entries = encoded.to_list();
        AclList { encoded, entries }
    }
}

/// The lists by their ids, for readers on any core.
pub struct Acls {
    lists: papaya::HashMap<u32, Arc<AclList>>,
}

impl Acls {
    /// The list of a znode that the caller has found at a version which it may read.
    pub fn list(&self, id: AclId) -> Arc<AclList> {
        Arc::clone(self.lists.pin().get(&id.0).expect("a list stays while a record names it"))
    }

    /// Every list that may be in use, by id.
    pub fn all(&self) -> Vec<(AclId, Arc<AclList>)> {
        let pinned = self.lists.pin();
        let mut lists: Vec<_> =
            pinned.iter().map(|(id, list)| (AclId(*id), Arc::clone(list))).collect();
        lists.sort_unstable_by_key(|(id, _)| *id);
        lists
    }
}

/// The writer's side: finds a list by its bytes, and counts its uses.
pub struct AclInterner {
    shared: Arc<Acls>,
    by_bytes: HashMap<Arc<[u8]>, AclId>,
    /// Ids are numbered here, so nobody can choose colliding ones.
    uses: HashMap<AclId, Use, FixedState>,
    next: u32,
    /// Lists that fell out of use, and by which transaction, oldest first.
    unused: VecDeque<(AclId, Zxid)>,
}

struct Use {
    bytes: Arc<[u8]>,
    count: usize,
    /// The transaction that ended the last use.
    idle_since: Zxid,
}

impl Default for AclInterner {
    fn default() -> AclInterner {
        AclInterner::new()
    }
}

impl AclInterner {
    /// A table of nothing but the open list, which is never dropped.
    pub fn new() -> AclInterner {
        let lists = papaya::HashMap::new();
        let mut interner = AclInterner {
            shared: Arc::new(Acls { lists }),
            by_bytes: HashMap::new(),
            uses: HashMap::default(),
            next: 0,
            unused: VecDeque::new(),
        };
        let open = interner.intern(&EncodedAcl::OPEN);
        assert_eq!(open, AclId::OPEN);
        interner.retain(open, 1);
        interner
    }

    /// What readers share.
    pub fn shared(&self) -> Arc<Acls> {
        Arc::clone(&self.shared)
    }

    /// The id of `acl`, a new one if need be. It counts no use.
    pub fn intern(&mut self, acl: &EncodedAcl<'_>) -> AclId {
        if acl.is_open() && self.next > 0 {
            return AclId::OPEN;
        }
        let bytes = match acl.as_bytes() {
            // A null list is the open one (`ReferenceCountedACLCache.java`).
            [0xff, 0xff, 0xff, 0xff] => EncodedAcl::OPEN.as_bytes().to_vec(),
            bytes => {
                if let Some(id) = self.by_bytes.get(bytes) {
                    return *id;
                }
                bytes.to_vec()
            }
        };
        if let Some(id) = self.by_bytes.get(&bytes[..]) {
            return *id;
        }
        let id = AclId(self.next);
        self.next = self.next.checked_add(1).expect("2^32 different lists");
        let bytes: Arc<[u8]> = bytes.into();
        let list = Arc::new(AclList::new(acl.clone().into_owned()));
        self.shared.lists.pin().insert(id.0, list);
        self.by_bytes.insert(Arc::clone(&bytes), id);
        self.uses.insert(id, Use { bytes, count: 0, idle_since: Zxid::ZERO });
        // Unused until it is retained: a transaction that is undone leaves it so.
        self.unused.push_back((id, Zxid::ZERO));
        id
    }

    /// Whether there is such a list.
    pub fn has(&self, id: AclId) -> bool {
        self.uses.contains_key(&id)
    }

    /// Counts `count` more uses.
    pub fn retain(&mut self, id: AclId, count: usize) {
        self.uses.get_mut(&id).expect("retained ids are interned").count += count;
    }

    /// Counts one use less, by the transaction `zxid`.
    pub fn release(&mut self, id: AclId, zxid: Zxid) {
        let uses = self.uses.get_mut(&id).expect("released ids are interned");
        uses.count -= 1;
        if uses.count == 0 {
            uses.idle_since = zxid;
            self.unused.push_back((id, zxid));
        }
    }

    /// Says of uses that ended above `last` that they ended there: the caller is undoing what is
    /// above it.
    pub fn undo_above(&mut self, last: Zxid) {
        for (id, zxid) in self.unused.iter_mut().filter(|(_, zxid)| *zxid > last) {
            *zxid = last;
            if let Some(uses) = self.uses.get_mut(id) {
                uses.idle_since = uses.idle_since.min(last);
            }
        }
    }

    /// Drops lists that no version from `oldest` on needs; at most `budget` are looked at.
    pub fn reclaim(&mut self, oldest: Zxid, budget: usize) {
        for _ in 0..budget {
            match self.unused.front() {
                Some((_, zxid)) if *zxid <= oldest => {}
                _ => return,
            }
            let (id, zxid) = self.unused.pop_front().expect("looked at just before");
            // It may be in use again, or have been and fallen out of it later.
            let idle = |uses: &&Use| uses.count == 0 && uses.idle_since == zxid;
            let Some(uses) = self.uses.get(&id).filter(idle) else { continue };
            self.by_bytes.remove(&uses.bytes);
            self.uses.remove(&id);
            self.shared.lists.pin().remove(&id.0);
        }
    }

    /// How many lists there are.
    pub fn count(&self) -> usize {
        self.uses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::acl::{Id, Perms};

    fn acl(name: &str) -> EncodedAcl<'static> {
        let id = Id { scheme: "ip".into(), id: name.into() };
        EncodedAcl::from_list(&[Acl { perms: Perms::READ, id }])
    }

    #[test]
    fn lists_are_shared_and_null_is_open() {
        let mut acls = AclInterner::new();
        assert_eq!(acls.intern(&EncodedAcl::OPEN), AclId::OPEN);
        let null = EncodedAcl::decode(&mut crate::wire::jute::Reader::new(&[0xff; 4])).unwrap();
        assert_eq!(acls.intern(&null), AclId::OPEN);
        let id = acls.intern(&acl("a"));
        assert_eq!(acls.intern(&acl("a")), id);
        assert_ne!(acls.intern(&acl("b")), id);
        assert_eq!(acls.shared().list(id).encoded, acl("a"));
    }

    #[test]
    fn a_list_goes_when_no_version_needs_it() {
        let zxid = Zxid::from_raw;
        let mut acls = AclInterner::new();
        let (a, b) = (acls.intern(&acl("a")), acls.intern(&acl("b")));
        acls.retain(a, 1);
        acls.retain(b, 1);
        acls.release(a, zxid(5));
        acls.reclaim(zxid(4), 10);
        assert_eq!(acls.count(), 3);
        // It is in use again, and the first end of its use is of no account.
        acls.retain(a, 1);
        acls.release(a, zxid(7));
        acls.reclaim(zxid(6), 10);
        assert_eq!(acls.count(), 3);
        // What is undone moves to where the history ends, and waits for nothing later.
        acls.release(b, zxid(9));
        acls.undo_above(zxid(6));
        acls.reclaim(zxid(6), 10);
        assert_eq!(acls.count(), 1);
        assert!(acls.has(AclId::OPEN));
    }
}
