//! The sole writer of a tree: begins, ends and undoes transactions, and keeps what goes along.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::time::{Time, WallMs};
use crate::tree::acl::{AclId, AclInterner};
use crate::tree::children::Children;
use crate::tree::effects::{Effects, Event, Totals};
use crate::tree::index::Reapable;
use crate::tree::journal::{Change, Journal};
use crate::tree::quota::{QuotaNode, QuotaPaths};
use crate::tree::recent::Recent;
use crate::tree::record::{Meta, Parts, RecordRef};
use crate::tree::spares::Spares;
use crate::tree::table::Table;
use crate::tree::view::Node;
use crate::tree::{Tree, TreeError};
use crate::wire::acl::{Acl, EncodedAcl, Id, Perms};
use crate::wire::response::EventKind;
use crate::wire::stat::Lifetime;
use crate::wire::txn::{Txn, TxnHeader};
use crate::zxid::Zxid;

/// How many records one call of [`Writer::reclaim`] looks at: a few hundred microseconds.
const RECLAIM_MAX: usize = 2048;

/// How many tombstones that nobody needs stay in the table. The map never uses a removed entry's
/// slot again, so a path that is deleted and created over and over would have its shard rebuilt
/// every 75 times; its tombstone's slot is used again. Each takes some 170 bytes.
const GRAVES_MAX: usize = 8192;

/// How a tree is set up.
#[derive(Clone, Copy, Debug)]
pub struct TreeConfig {
    /// Keys the hash of paths: random in production.
    pub seed: u64,
    /// Whether there are TTL znodes (`extendedTypesEnabled`).
    pub extended_types: bool,
}

/// How exactly the transactions fit the state that they are applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// They were made for exactly this state: what does not fit is damage.
    Exact,
    /// The state is a fuzzy snapshot of Apache's, which holds some of their changes already: what
    /// does not fit is passed over as `DataTree.java` does.
    Fuzzy,
}

/// The sole writer of a [`Tree`].
///
/// Either [`Writer::apply`], or [`Writer::begin`], any number of [`Writer::apply_op`], and then
/// [`Writer::finish`] or [`Writer::abort`]. What is applied is visible to readers at that version
/// at once: whoever publishes versions keeps readers from it until it is committed.
pub struct Writer {
    pub(super) tree: Arc<Tree>,
    pub(super) acls: AclInterner,
    pub(super) totals: Totals,
    pub(super) last_zxid: Zxid,
    pub(super) open: Option<TxnHeader>,
    pub(super) journal: Journal,
    /// Everything up to here may have been reclaimed, so it cannot be undone.
    reclaimed: Zxid,
    /// Tombstones that nobody needs, oldest first; some have been replaced.
    graves: VecDeque<RecordRef>,
    pub(super) quotas: QuotaPaths,
    pub(super) reapable: Reapable,
    /// How many ephemeral znodes each session owns.
    pub(super) owners: BTreeMap<i64, u64>,
    pub(super) now: Time,
    pub(super) events: Option<Vec<Event>>,
    pub(super) spares: Spares,
    recent: Recent,
    pub(super) extended: bool,
    pub(super) replay: Replay,
}

impl Writer {
    /// An empty tree as Apache begins one: the root, `/zookeeper`, and below it `quota` and
    /// `config`.
    pub fn new(config: TreeConfig, now: Time) -> Writer {
        let mut writer = Writer::empty(config, 0, now);
        writer.put_system_nodes();
        writer.totals.node_count += 1;
        writer
    }

    /// A tree of nothing, which takes `capacity` records before it grows.
    pub(super) fn empty(config: TreeConfig, capacity: usize, now: Time) -> Writer {
        let acls = AclInterner::new();
        let table = Table::new(capacity, config.seed);
        Writer {
            tree: Arc::new(Tree { table, acls: acls.shared() }),
            acls,
            totals: Totals::default(),
            last_zxid: Zxid::ZERO,
            open: None,
            journal: Journal::default(),
            reclaimed: Zxid::ZERO,
            graves: VecDeque::new(),
            quotas: QuotaPaths::default(),
            reapable: Reapable::default(),
            owners: BTreeMap::new(),
            now,
            events: None,
            spares: Spares::default(),
            recent: Recent::default(),
            extended: config.extended_types,
            replay: Replay::Exact,
        }
    }

    fn put_system_nodes(&mut self) {
        self.put_initial("/", &["zookeeper"], Meta::default());
        self.put_initial("/zookeeper", &["config", "quota"], Meta::default());
        self.put_initial("/zookeeper/quota", &[], Meta::default());
        let config = self.config_meta();
        self.put_initial("/zookeeper/config", &[], config);
    }

    /// The metadata that `/zookeeper/config` begins with: everybody may read it, and only the
    /// super-user may write it.
    pub(super) fn config_meta(&mut self) -> Meta {
        let id = Id { scheme: "world".into(), id: "anyone".into() };
        let acl = self.acls.intern(&EncodedAcl::from_list(&[Acl { perms: Perms::READ, id }]));
        Meta { aversion: -1, acl, ..Meta::default() }
    }

    /// Puts a record with empty data in the table, of before all transactions.
    pub(super) fn put_initial(&mut self, path: &str, names: &[&str], meta: Meta) {
        let children = Children::from_sorted(names.iter().copied()).expect("names are sorted");
        let parts = Parts { path, data: Some(b""), meta, children, older: None };
        let record = RecordRef::new(parts, &mut self.spares);
        self.account(None, Some(&record), Zxid::ZERO);
        self.replace(record);
    }

    /// Makes `record` the newest of its path, outside of transactions.
    pub(super) fn replace(&mut self, record: RecordRef) {
        self.recent.clear();
        self.tree.table.insert(record, &self.tree.table.hold());
    }

    /// Puts the ensemble's configuration in `/zookeeper/config`: every member keeps its own there,
    /// so no transaction says it and no digest counts it (`ZKDatabase.initConfigInZKDatabase`).
    /// `version` is the configuration's. To be called while nobody reads.
    pub fn put_config(&mut self, text: &[u8], version: Zxid, wall: WallMs) {
        let Some(old) = self.live("/zookeeper/config") else { return };
        let meta = Meta { mzxid: version, mtime_ms: wall.0, version: -1, ..*old.meta() };
        let (children, older) = (old.children().clone(), old.older());
        let parts = Parts { path: old.path(), data: Some(text), meta, children, older };
        let new = RecordRef::new(parts, &mut self.spares);
        let before = self.totals.data_size;
        self.account(Some(&old), Some(&new), self.last_zxid);
        self.journal.resize(before, self.totals.data_size);
        self.replace(new);
    }

    /// What readers share.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The newest znode at `path`, with everything that is applied.
    pub fn node(&self, path: &str) -> Option<Node<'static>> {
        path.starts_with('/').then(|| self.live(path)).flatten().map(Node::of_record)
    }

    /// The same, where more will be done with that znode.
    pub fn find(&mut self, path: &str) -> Option<Node<'static>> {
        path.starts_with('/').then(|| self.find_live(path)).flatten().map(Node::of_record)
    }

    /// The newest transaction that is applied.
    pub fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// The sums over the newest tree.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Apache's digest of the newest tree.
    pub fn digest(&self) -> u64 {
        self.totals.digest
    }

    /// Sets the moment from which what is applied ages.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// Whether events are built: a server without watches has no use for them.
    pub fn set_watched(&mut self, watched: bool) {
        self.events = watched.then(Vec::new);
    }

    /// How exactly the following transactions fit.
    pub fn set_replay(&mut self, replay: Replay) {
        self.replay = replay;
    }

    /// The containers and TTL znodes.
    pub fn reapable(&self) -> &Reapable {
        &self.reapable
    }

    /// The sessions that own ephemeral znodes, and how many.
    pub fn owners(&self) -> impl Iterator<Item = (i64, u64)> {
        self.owners.iter().map(|(session, count)| (*session, *count))
    }

    /// The list's id, for comparing; interning it counts no use.
    pub fn intern_acl(&mut self, acl: &EncodedAcl<'_>) -> AclId {
        self.acls.intern(acl)
    }

    /// How many access control lists there are.
    pub fn acl_count(&self) -> usize {
        self.acls.count()
    }

    /// How many changes wait to be reclaimed.
    pub fn journal_len(&self) -> usize {
        self.journal.pending()
    }

    /// Applies a whole transaction.
    ///
    /// # Errors
    /// The transaction does not fit the tree, and nothing of it is applied.
    pub fn apply(&mut self, header: &TxnHeader, txn: &Txn<'_>) -> Result<Effects, TreeError> {
        self.begin(header)?;
        let applied = match txn {
            Txn::Multi(txns) => self.apply_multi(txns),
            txn => self.apply_op(txn),
        };
        match applied {
            Ok(()) => Ok(self.finish()),
            Err(error) => {
                self.abort();
                Err(error)
            }
        }
    }

    fn apply_multi(&mut self, txns: &[Txn<'_>]) -> Result<(), TreeError> {
        // A multi that failed is logged with its errors, and changes nothing.
        if txns.iter().any(|txn| matches!(txn, Txn::Error { .. })) {
            return Ok(());
        }
        txns.iter().try_for_each(|txn| self.apply_op(txn))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// It is not newer than the last one.
    pub fn begin(&mut self, header: &TxnHeader) -> Result<(), TreeError> {
        assert!(self.open.is_none(), "one transaction at a time");
        let (zxid, last) = (header.zxid, self.last_zxid);
        if zxid <= last {
            return Err(TreeError::OutOfOrder { zxid, last });
        }
        self.journal.begin(zxid, self.totals);
        self.open = Some(*header);
        Ok(())
    }

    /// Ends the transaction.
    pub fn finish(&mut self) -> Effects {
        let mut events = Vec::new();
        self.finish_into(&mut events);
        Effects { zxid: self.last_zxid, events, totals: self.totals }
    }

    /// Ends the transaction and appends its events to `events`.
    pub fn finish_into(&mut self, events: &mut Vec<Event>) {
        let header = self.open.take().expect("a transaction is open");
        self.last_zxid = header.zxid;
        if let Some(built) = &mut self.events {
            events.append(built);
        }
    }

    /// Undoes the open transaction, as if it had never begun.
    pub fn abort(&mut self) {
        self.open.take().expect("a transaction is open");
        self.undo_newest(self.last_zxid);
        self.events.iter_mut().for_each(Vec::clear);
    }

    /// Whether [`Writer::pop_above`] can go back so far: what readers have reached is not undone.
    pub fn reaches_back_to(&self, zxid: Zxid) -> bool {
        zxid >= self.reclaimed
    }

    /// How exactly transactions fit at present.
    pub fn replay(&self) -> Replay {
        self.replay
    }

    /// Undoes every transaction above `zxid`, newest first, of which no reader may know.
    pub fn pop_above(&mut self, zxid: Zxid) {
        assert!(self.open.is_none(), "transactions are undone whole");
        assert!(zxid >= self.reclaimed, "what readers have reached is committed");
        self.last_zxid = self.last_zxid.min(zxid);
        while self.journal.newest().is_some_and(|newest| newest > zxid) {
            self.undo_newest(self.last_zxid);
        }
    }

    /// Undoes the newest transaction; `last` is the newest one that stays.
    fn undo_newest(&mut self, last: Zxid) {
        self.acls.undo_above(last);
        let before = loop {
            match self.journal.pop() {
                Ok(Change { new, old }) => self.undo(last, &new, old),
                Err(before) => break before,
            }
        };
        assert_eq!(self.totals, before, "undoing restores the sums");
    }

    fn undo(&mut self, last: Zxid, new: &RecordRef, old: Option<RecordRef>) {
        self.account(Some(new), old.as_ref(), last);
        self.recent.clear();
        let hold = self.tree.table.hold();
        match old {
            Some(old) => drop(self.tree.table.insert(old, &hold)),
            None => self.tree.table.remove(new.path_bytes(), &hold),
        }
    }

    /// Lets go of what no reader needs: all readers are at `oldest` or later, but for those at
    /// exactly one of `snapshots`, and no transaction up to `oldest` will be undone.
    ///
    /// A snapshot is announced while `oldest` is not beyond it, and named until it is done. The
    /// work of one call is bounded; returns whether there is more.
    pub fn reclaim(&mut self, oldest: Zxid, snapshots: &[Zxid]) -> bool {
        assert!(self.open.is_none(), "not within a transaction");
        let oldest = oldest.min(self.last_zxid).max(self.reclaimed);
        self.reclaimed = oldest;
        let bury = |record| self.graves.push_back(record);
        let more = self.journal.reclaim(oldest, snapshots, RECLAIM_MAX, &mut self.spares, bury);
        self.clear_graves();
        let oldest = snapshots.iter().copied().fold(oldest, Zxid::min);
        self.acls.reclaim(oldest, RECLAIM_MAX);
        more
    }

    fn clear_graves(&mut self) {
        let surplus = self.graves.len().saturating_sub(GRAVES_MAX);
        if surplus == 0 {
            return;
        }
        self.recent.clear();
        let table = &self.tree.table;
        let hold = table.hold();
        for record in self.graves.drain(..surplus) {
            let path = record.path_bytes();
            // Whatever was put above it keeps the path in the table.
            if table.get(path, &hold).is_some_and(|newest| newest.is_same(&record)) {
                table.remove(path, &hold);
            }
        }
    }

    /// The newest record at `path`; it may be a tombstone.
    pub(super) fn newest(&self, path: &str) -> Option<RecordRef> {
        if let Some((_, record)) = self.recent.get(path.as_bytes()) {
            return Some(record.clone());
        }
        let table = &self.tree.table;
        table.get(path.as_bytes(), &table.hold()).cloned()
    }

    /// The newest record at `path`, unless the znode is deleted.
    pub(super) fn live(&self, path: &str) -> Option<RecordRef> {
        self.newest(path).filter(|record| !record.is_tombstone())
    }

    /// The newest record at `path`, which is remembered; it may be a tombstone.
    pub(super) fn find_newest(&mut self, path: &str) -> Option<RecordRef> {
        let path = path.as_bytes();
        if let Some((_, record)) = self.recent.get(path) {
            return Some(record.clone());
        }
        let table = &self.tree.table;
        let hash = table.hash(path);
        let record = table.get_hashed(path, hash, &table.hold()).cloned()?;
        self.recent.keep(hash, record.clone());
        Some(record)
    }

    /// The same, unless the znode is deleted.
    pub(super) fn find_live(&mut self, path: &str) -> Option<RecordRef> {
        self.find_newest(path).filter(|record| !record.is_tombstone())
    }

    /// The record that a new one of the open transaction links to when it replaces `old`: none of
    /// the same transaction, since no reader may see one half of it.
    pub(super) fn link_to(&self, old: Option<&RecordRef>) -> Option<RecordRef> {
        let zxid = self.header().zxid;
        old.and_then(|old| if old.zxid() == zxid { old.older() } else { Some(old.clone()) })
    }

    /// Puts a record of the open transaction in the place of `old`.
    pub(super) fn put(&mut self, old: Option<RecordRef>, new: RecordRef) {
        let zxid = self.header().zxid;
        assert_eq!(new.zxid(), zxid, "a record is stamped with its transaction");
        self.account(old.as_ref(), Some(&new), zxid);
        let table = &self.tree.table;
        let path = new.path_bytes();
        let hash = self.recent.get(path).map_or_else(|| table.hash(path), |(hash, _)| hash);
        table.insert_hashed(new.clone(), Some(hash), &table.hold());
        self.recent.keep(hash, new.clone());
        self.journal.push(Change { new, old });
    }

    /// The header of the open transaction.
    pub(super) fn header(&self) -> TxnHeader {
        self.open.expect("a transaction is open")
    }

    /// Adds an event, if they are built.
    pub(super) fn event(&mut self, kind: EventKind, record: &RecordRef) {
        if let (Some(events), Some(header)) = (&mut self.events, &self.open) {
            events.push(Event::new(kind, header.zxid, record));
        }
    }

    /// Keeps sums, ACL uses and indexes in step with a change from `old` to `new`.
    pub(super) fn account(&mut self, old: Option<&RecordRef>, new: Option<&RecordRef>, zxid: Zxid) {
        let is_counted =
            |record: &&RecordRef| !record.is_tombstone() && record.path_bytes()[0] == b'/';
        let (old, new) = (old.filter(is_counted), new.filter(is_counted));
        let totals = &mut self.totals;
        if let Some(new) = new {
            totals.digest = totals.digest.wrapping_add(new.digest());
            totals.data_size += data_size(new);
        }
        if let Some(old) = old {
            totals.digest = totals.digest.wrapping_sub(old.digest());
            totals.data_size -= data_size(old);
        }
        let acl = |record: &RecordRef| record.meta().acl;
        if old.map(acl) != new.map(acl) {
            new.into_iter().for_each(|new| self.acls.retain(acl(new), 1));
            old.into_iter().for_each(|old| self.acls.release(acl(old), zxid));
        }
        match (old, new) {
            (None, Some(new)) => {
                self.totals.node_count += 1;
                self.count_owner(new, true);
            }
            (Some(old), None) => {
                self.totals.node_count -= 1;
                self.count_owner(old, false);
            }
            _ => {}
        }
        if old.or(new).is_some_and(|record| record.meta().owner != 0) {
            self.reapable.change(old, new, self.extended, self.now);
        }
    }

    /// Counts a znode that comes or goes for its owner, and as a quota's limits.
    fn count_owner(&mut self, record: &RecordRef, comes: bool) {
        if let Some(QuotaNode::Limits(prefix)) = QuotaNode::of_path(record.path()) {
            self.quotas.set(prefix, comes);
        }
        let owner = record.meta().owner;
        let Lifetime::Ephemeral(session) = Lifetime::of_owner(owner, self.extended) else { return };
        let count = self.owners.entry(session).or_default();
        match comes {
            true => {
                *count += 1;
                self.totals.ephemeral_count += 1;
            }
            false => {
                *count -= 1;
                self.totals.ephemeral_count -= 1;
                if *count == 0 {
                    self.owners.remove(&session);
                }
            }
        }
    }
}

/// What a znode adds to the size as Apache estimates it: a path's length is in UTF-16 units, which
/// for valid paths are its characters. The root counts as "/" and as "".
pub(super) fn data_size(record: &RecordRef) -> u64 {
    let path = record.path_bytes();
    let length = match path.is_ascii() {
        true => path.len(),
        false => record.path().chars().count(),
    };
    (length + record.data().map_or(0, <[u8]>::len)) as u64
}
