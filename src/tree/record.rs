//! A znode at one version: an immutable record in a single allocation.
//!
//! ```text
//! ThinArc   count 8 │ RecordHeader 96 │ length 8 │ path │ data
//! ```
//! A record links to the one that it replaced, so a path's records are a chain, newest first. One
//! with 20 bytes of path and 100 of data takes 232 bytes, which is a 256-byte block of mimalloc.

use std::mem::{self, ManuallyDrop};
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapAny;
use triomphe::{Arc, ThinArc};

use crate::tree::acl::AclId;
use crate::tree::children::Children;
use crate::tree::digest;
use crate::tree::spares::Spares;
use crate::wire::stat::{Lifetime, Stat};
use crate::zxid::Zxid;

/// What is stored of a znode beside path, data and children: Apache's `StatPersisted`, the ACL, and
/// the transaction that made this record of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The transaction that made this record.
    pub zxid: Zxid,
    pub czxid: Zxid,
    pub mzxid: Zxid,
    pub pzxid: Zxid,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    /// The `ephemeralOwner` (`Lifetime`).
    pub owner: i64,
    pub version: i32,
    /// How many children were ever created: stored, and not what a client sees.
    pub cversion: i32,
    pub aversion: i32,
    pub acl: AclId,
}

/// The data is null, which is not the same as empty.
const NULL_DATA: u32 = 1 << 31;
/// The znode is deleted at this version.
const TOMBSTONE: u32 = 1 << 30;
/// The znode counts for no digest.
const UNDIGESTED: u32 = 1 << 29;
/// The data is in the branch.
const SHARED_DATA: u32 = 1 << 28;
/// The record may link to the one that it replaced. Only the writer takes it away, after the link.
const LINKED: u32 = 1 << 27;
/// What is left of the word: the path's length.
const LENGTH_MASK: u32 = LINKED - 1;

/// Data of a znode with children is shared among its records from this size on: each child's
/// creation makes a record of the parent, and must not copy a megabyte for it.
const SHARED_DATA_MIN: usize = 1024;

type Link = ArcSwapAny<Option<ThinArc<RecordHeader, u8>>>;

/// The fixed part of a record.
pub struct RecordHeader {
    meta: Meta,
    /// CRC-32 of path and data, where the digest's own CRC goes on from.
    content_crc: u32,
    /// The path's length and the flags.
    word: AtomicU32,
    /// Empty without [`LINKED`], and then not dropped: an `ArcSwap` looks through the debts of all
    /// threads for whoever reads nothing.
    older: ManuallyDrop<Link>,
    branch: Option<Arc<Branch>>,
}

const _: () = assert!(mem::size_of::<RecordHeader>() == 96);

/// What only znodes with children have.
#[derive(Clone)]
struct Branch {
    children: Children,
    data: Option<Arc<[u8]>>,
}

impl RecordHeader {
    fn new(
        (meta, content_crc, word): (Meta, u32, u32),
        older: Option<RecordRef>,
        branch: Option<Arc<Branch>>,
    ) -> RecordHeader {
        let word = AtomicU32::new(if older.is_some() { word | LINKED } else { word & !LINKED });
        let older = ManuallyDrop::new(Link::new(older.map(|record| record.0)));
        RecordHeader { meta, content_crc, word, older, branch }
    }

    fn word(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    /// Takes the link away, and says where it led.
    fn unlink(&self) -> Option<RecordRef> {
        let word = self.word();
        if word & LINKED == 0 {
            return None;
        }
        let older = self.older.swap(None);
        self.word.store(word & !LINKED, Ordering::Relaxed);
        older.map(RecordRef)
    }
}

impl Drop for RecordHeader {
    /// Frees a chain link by link: a recursion as deep as the chain could exhaust the stack.
    fn drop(&mut self) {
        let mut next = self.unlink();
        while let Some(record) = next {
            next = match record.is_shared() {
                false => record.unlink(),
                true => None,
            };
        }
    }
}

/// A record, ordered by its path.
#[derive(Clone)]
pub struct RecordRef(ThinArc<RecordHeader, u8>);

/// What a record is made of.
pub struct Parts<'a> {
    pub path: &'a str,
    pub data: Option<&'a [u8]>,
    pub meta: Meta,
    pub children: Children,
    /// The record that this one replaces, while some version may need it.
    pub older: Option<RecordRef>,
}

impl RecordRef {
    /// A record of a live znode, perhaps in the place of a spare one.
    pub fn new(parts: Parts<'_>, spares: &mut Spares) -> RecordRef {
        let Parts { path, data, meta, children, older } = parts;
        let share = !children.is_empty() && data.is_some_and(|data| data.len() >= SHARED_DATA_MIN);
        let mut word = u32::try_from(path.len()).expect("frames bound paths");
        assert!(word <= LENGTH_MASK);
        let own_data = match data {
            None => {
                word |= NULL_DATA;
                &[]
            }
            Some(_) if share => {
                word |= SHARED_DATA;
                &[]
            }
            Some(data) => data,
        };
        let content_crc = match digest::counts(path) {
            true => digest::content(path, data.unwrap_or_default()),
            false => {
                word |= UNDIGESTED;
                0
            }
        };
        let branch = (!children.is_empty()).then(|| {
            let data = data.filter(|_| share).map(Arc::from);
            Arc::new(Branch { children, data })
        });
        let header = RecordHeader::new((meta, content_crc, word), older, branch);
        spares.make(header, path.as_bytes(), own_data)
    }

    /// A record that says: deleted by `zxid`.
    pub fn tombstone(
        path: &str,
        zxid: Zxid,
        older: Option<RecordRef>,
        spares: &mut Spares,
    ) -> RecordRef {
        let word = u32::try_from(path.len()).expect("frames bound paths") | TOMBSTONE | UNDIGESTED;
        let meta = Meta { zxid, ..Meta::default() };
        spares.make(RecordHeader::new((meta, 0, word), older, None), path.as_bytes(), &[])
    }

    /// A record with `bytes`, path and data, behind its header.
    pub(super) fn allocate(header: RecordHeader, bytes: &[u8]) -> RecordRef {
        RecordRef(ThinArc::from_header_and_slice(header, bytes))
    }

    /// Makes another record of this one, which nobody else has and which is as long.
    pub(super) fn write_over(&mut self, header: RecordHeader, path: &[u8], data: &[u8]) {
        self.0.with_arc_mut(|record| {
            let record = Arc::get_mut(record).expect("the caller has seen that nobody else has it");
            *record.header_mut() = header;
            let (own_path, own_data) = record.slice_mut().split_at_mut(path.len());
            own_path.copy_from_slice(path);
            own_data.copy_from_slice(data);
        });
    }

    /// How many bytes stand behind the header.
    pub(super) fn length(&self) -> usize {
        self.0.slice.len()
    }

    /// Whether somebody else has the record.
    pub(super) fn is_shared(&self) -> bool {
        ThinArc::strong_count(&self.0) > 1
    }

    /// Whether it holds nothing but its own bytes.
    pub(super) fn is_bare(&self) -> bool {
        let header = self.header();
        header.word() & LINKED == 0 && header.branch.is_none()
    }

    /// The same path and data with another meta and other children, replacing `older`.
    pub fn with(
        &self,
        meta: Meta,
        children: Children,
        older: Option<RecordRef>,
        spares: &mut Spares,
    ) -> RecordRef {
        let header = self.header();
        let word = header.word();
        // Data moves into the branch with the first child; from then on the branch stays.
        let moves = word & SHARED_DATA == 0 && self.own_data().len() >= SHARED_DATA_MIN;
        if children.is_empty() != header.branch.is_none() || (moves && !children.is_empty()) {
            let parts = Parts { path: self.path(), data: self.data(), meta, children, older };
            return RecordRef::new(parts, spares);
        }
        let branch = header
            .branch
            .as_ref()
            .map(|branch| Arc::new(Branch { children, data: branch.data.clone() }));
        let header = RecordHeader::new((meta, header.content_crc, word), older, branch);
        spares.make(header, self.path_bytes(), self.own_data())
    }

    fn header(&self) -> &RecordHeader {
        &self.0.header.header
    }

    /// The znode's path, as bytes.
    pub fn path_bytes(&self) -> &[u8] {
        &self.0.slice[..(self.header().word() & LENGTH_MASK) as usize]
    }

    /// The znode's path.
    pub fn path(&self) -> &str {
        std::str::from_utf8(self.path_bytes()).expect("the path was a str")
    }

    fn own_data(&self) -> &[u8] {
        &self.0.slice[(self.header().word() & LENGTH_MASK) as usize..]
    }

    /// The data; `None` is null.
    pub fn data(&self) -> Option<&[u8]> {
        let header = self.header();
        match header.word() & (NULL_DATA | SHARED_DATA) {
            0 => Some(self.own_data()),
            SHARED_DATA => header.branch.as_ref().and_then(|branch| branch.data.as_deref()),
            _ => None,
        }
    }

    /// The stored metadata.
    pub fn meta(&self) -> &Meta {
        &self.header().meta
    }

    /// The transaction that made this record.
    pub fn zxid(&self) -> Zxid {
        self.header().meta.zxid
    }

    /// Whether the record says that the znode is deleted.
    pub fn is_tombstone(&self) -> bool {
        self.header().word() & TOMBSTONE != 0
    }

    /// The names of the children.
    pub fn children(&self) -> &Children {
        static NONE: Children = Children::EMPTY;
        self.header().branch.as_ref().map_or(&NONE, |branch| &branch.children)
    }

    /// What the record adds to the tree's digest.
    pub fn digest(&self) -> u64 {
        let header = self.header();
        match header.word() & UNDIGESTED {
            0 => digest::node(header.content_crc, &header.meta),
            _ => 0,
        }
    }

    /// The metadata as a client sees it: its cversion counts deletions too (`DataNode.java`).
    pub fn stat(&self) -> Stat {
        let meta = self.meta();
        let num_children = i32::try_from(self.children().len()).unwrap_or(i32::MAX);
        let data_length = self.data().map_or(0, <[u8]>::len);
        Stat {
            czxid: meta.czxid,
            mzxid: meta.mzxid,
            ctime_ms: meta.ctime_ms,
            mtime_ms: meta.mtime_ms,
            version: meta.version,
            cversion: meta.cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion: meta.aversion,
            ephemeral_owner: shown_owner(meta.owner),
            data_length: i32::try_from(data_length).expect("frames bound data"),
            num_children,
            pzxid: meta.pzxid,
        }
    }

    /// The record that this one replaced, while some version may need it.
    pub fn older(&self) -> Option<RecordRef> {
        let header = self.header();
        match header.word() & LINKED {
            0 => None,
            _ => header.older.load_full().map(RecordRef),
        }
    }

    /// Links past the next older record. Only the writer does.
    pub(super) fn skip_older(&self, past: &RecordRef) {
        match past.older() {
            Some(older) => self.header().older.store(Some(older.0)),
            None => drop(self.unlink()),
        }
    }

    /// Takes the link away, and says where it led. Only the writer does.
    pub(super) fn unlink(&self) -> Option<RecordRef> {
        self.header().unlink()
    }

    /// Whether both are the same allocation.
    pub fn is_same(&self, other: &RecordRef) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }
}

/// The `ephemeralOwner` that clients see: of sessions only, not the marks of containers and TTL
/// znodes (`DataNode.getClientEphemeralOwner`).
fn shown_owner(owner: i64) -> i64 {
    match Lifetime::of_owner(owner, true) {
        Lifetime::Ephemeral(session) => session,
        Lifetime::Persistent | Lifetime::Container | Lifetime::Ttl(_) => 0,
    }
}

impl PartialEq for RecordRef {
    fn eq(&self, other: &RecordRef) -> bool {
        self.path_bytes() == other.path_bytes()
    }
}

impl Eq for RecordRef {}

impl PartialOrd for RecordRef {
    fn partial_cmp(&self, other: &RecordRef) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RecordRef {
    fn cmp(&self, other: &RecordRef) -> std::cmp::Ordering {
        self.path_bytes().cmp(other.path_bytes())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A version of a znode without anything.
    pub fn record(path: &str, version: i32) -> RecordRef {
        after(None, path, version)
    }

    fn after(older: Option<RecordRef>, path: &str, version: i32) -> RecordRef {
        let meta = Meta { version, ..Meta::default() };
        let parts = Parts { path, data: None, meta, children: Children::EMPTY, older };
        RecordRef::new(parts, &mut Spares::default())
    }

    #[test]
    fn a_long_chain_is_freed_without_recursion() {
        let mut newest = record("/a", 0);
        let oldest = newest.clone();
        for _ in 0..200_000 {
            newest = after(Some(newest), "/a", 0);
        }
        drop(newest);
        assert_eq!(ThinArc::strong_count(&oldest.0), 1);
    }

    #[test]
    fn data_is_null_or_empty_or_there_and_so_with_children() {
        let large = vec![7; SHARED_DATA_MIN];
        for data in [None, Some(&b""[..]), Some(b"x"), Some(&large[..])] {
            let (meta, children) = (Meta::default(), Children::EMPTY);
            let parts = Parts { path: "/\u{fc}", data, meta, children, older: None };
            let mut spares = Spares::default();
            let bare = RecordRef::new(parts, &mut spares);
            let names = Children::from_sorted(["a"].into_iter()).expect("one is sorted");
            let parent = bare.with(meta, names.clone(), None, &mut spares);
            let again = parent.with(meta, names, None, &mut spares);
            let bare_again = again.with(meta, Children::EMPTY, None, &mut spares);
            for record in [&bare, &parent, &again, &bare_again] {
                assert_eq!(record.data(), data);
                assert_eq!(record.path(), "/\u{fc}");
                assert_eq!(record.digest(), bare.digest());
            }
            assert_eq!((parent.children().len(), bare_again.children().len()), (1, 0));
        }
    }
}
