//! What a snapshot's archives hold: types of their own, so that the tree's may change.
//!
//! Znodes are stored by columns. An archive then has three pointers to be validated instead of
//! three for each znode, the strings are checked for UTF-8 in one pass, and serializing is three
//! copies. A change of any type here is a new `VERSION`.

use rkyv::{Archive, Deserialize, Serialize};

use crate::tree::acl::AclId;
use crate::tree::record::Meta;
use crate::zxid::Zxid;

/// Some znodes, in no order.
#[derive(Archive, Serialize, Default)]
pub struct Znodes {
    /// The fixed parts.
    pub znodes: Vec<Znode>,
    /// For each znode its path, and behind it the names of its children in ascending order, each
    /// with a `/` behind it.
    pub text: String,
    /// The znodes' data, one after another.
    pub data: Vec<u8>,
}

/// The fixed part of a znode.
#[derive(Archive, Serialize, Clone, Copy, Default)]
pub struct Znode {
    pub czxid: i64,
    pub mzxid: i64,
    pub pzxid: i64,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    /// The `ephemeralOwner`.
    pub owner: i64,
    pub version: i32,
    /// As stored, which is not as clients see it.
    pub cversion: i32,
    pub aversion: i32,
    /// The index of the access control list in the file `acls`.
    pub acl: u32,
    /// Bytes of `text` that are the path.
    pub path_length: u32,
    /// Bytes of `text` that are names.
    pub names_length: u32,
    /// Bytes of `data`.
    pub data_length: u32,
    /// `NULL_DATA`, `MORE_NAMES`.
    pub flags: u32,
}

/// The data is null, which is not the same as empty.
pub const NULL_DATA: u32 = 1;
/// The next entry of the file, perhaps in its next archive, is not another znode but has more
/// names of this one's children, and neither path nor data.
pub const MORE_NAMES: u32 = 2;

impl Znode {
    /// The fixed part of a znode with `meta`, whose ACL is the list number `acl`.
    pub fn new(meta: &Meta, acl: u32) -> Znode {
        Znode {
            czxid: meta.czxid.raw(),
            mzxid: meta.mzxid.raw(),
            pzxid: meta.pzxid.raw(),
            ctime_ms: meta.ctime_ms,
            mtime_ms: meta.mtime_ms,
            owner: meta.owner,
            version: meta.version,
            cversion: meta.cversion,
            aversion: meta.aversion,
            acl,
            ..Znode::default()
        }
    }
}

impl ArchivedZnode {
    /// The metadata, with `acl` as the tree that is being built numbers it.
    pub fn meta(&self, acl: AclId) -> Meta {
        Meta {
            zxid: Zxid::ZERO,
            czxid: Zxid::from_raw(self.czxid.to_native()),
            mzxid: Zxid::from_raw(self.mzxid.to_native()),
            pzxid: Zxid::from_raw(self.pzxid.to_native()),
            ctime_ms: self.ctime_ms.to_native(),
            mtime_ms: self.mtime_ms.to_native(),
            owner: self.owner.to_native(),
            version: self.version.to_native(),
            cversion: self.cversion.to_native(),
            aversion: self.aversion.to_native(),
            acl,
        }
    }
}

/// Access control lists. The first of the file has the number 0.
#[derive(Archive, Serialize, Default)]
pub struct Acls {
    /// Where each list ends in `bytes`.
    pub ends: Vec<u32>,
    /// The lists in jute's encoding.
    pub bytes: Vec<u8>,
}

/// Sessions.
#[derive(Archive, Serialize, Default)]
pub struct Sessions {
    pub sessions: Vec<Session>,
}

/// A session.
#[derive(Archive, Serialize, Clone, Copy)]
pub struct Session {
    pub id: i64,
    pub timeout_ms: i32,
}

/// What the snapshot is of, and what belongs to it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub zxid: i64,
    /// Apache's digest of the tree.
    pub digest: u64,
    pub nodes: u64,
    pub sessions: u64,
    pub acls: u64,
    pub files: Vec<FileEntry>,
}

/// A file of the snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// A `frame::Kind`.
    pub kind: u32,
    /// The file's number among those of its kind.
    pub index: u32,
    /// Bytes.
    pub length: u64,
    /// Crc32c of all bytes.
    pub crc: u32,
}
