//! Archives to values. The bytes may be anything: rkyv validates the archive, and what the types
//! cannot say is checked here.

use rkyv::rancor;

use crate::snapshot::schema::{
    ArchivedAcls, ArchivedManifest, ArchivedSessions, ArchivedZnode, ArchivedZnodes, MORE_NAMES,
    Manifest, NULL_DATA,
};
use crate::tree::acl::AclId;
use crate::tree::builder::{BuildError, Loaded};
use crate::tree::record::Meta;
use crate::wire::acl::EncodedAcl;
use crate::wire::error::DecodeError;
use crate::wire::jute::Reader;

/// Why an archive is not what a snapshot writes.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// rkyv's validation refused it.
    #[error("the archive is not valid: {0}")]
    Invalid(#[from] rancor::Error),
    /// Its lengths or flags contradict each other.
    #[error("{0}")]
    Misfit(&'static str),
    /// A znode's list number is that of none.
    #[error("{path} has the access control list {acl}, which is not there")]
    NoAcl { path: String, acl: u32 },
    /// An access control list is not well formed.
    #[error("an access control list is not well formed: {0}")]
    BadAcl(#[from] DecodeError),
    /// The znode cannot stand in the tree.
    #[error("{0}")]
    Build(#[from] BuildError),
}

/// The names of a znode's children.
pub type Names<'a> = std::str::SplitTerminator<'a, char>;

/// A znode with so many children that it goes on in further entries.
struct Pending {
    path: String,
    data: Option<Vec<u8>>,
    meta: Meta,
    names: String,
}

/// Reads the archives of one file of znodes in their order.
pub struct ZnodeParser<'a> {
    /// The tree's ids of the snapshot's lists.
    acls: &'a [AclId],
    pending: Option<Pending>,
}

impl<'a> ZnodeParser<'a> {
    /// A parser of znodes that name lists of `acls` by their index.
    pub fn new(acls: &'a [AclId]) -> ZnodeParser<'a> {
        ZnodeParser { acls, pending: None }
    }

    /// Calls `visit` for each znode that ends in this archive.
    pub fn archive(
        &mut self,
        bytes: &[u8],
        mut visit: impl for<'z> FnMut(Loaded<'z, Names<'z>>) -> Result<(), BuildError>,
    ) -> Result<(), ParseError> {
        let archived = rkyv::access::<ArchivedZnodes, rancor::Error>(bytes)?;
        let (mut text, mut data) = (archived.text.as_str(), archived.data.as_slice());
        for znode in archived.znodes.iter() {
            let columns = Columns::split(znode, &mut text, &mut data)?;
            if let Some(pending) = &mut self.pending {
                if !columns.path.is_empty() || columns.data.is_none_or(|data| !data.is_empty()) {
                    return Err(ParseError::Misfit("more names come with a path or data"));
                }
                pending.names.push_str(columns.names);
                if !columns.more {
                    let Pending { path, data, meta, names } = &*pending;
                    let (data, children) = (data.as_deref(), names.split_terminator('/'));
                    visit(Loaded { path, data, meta: *meta, children })?;
                    self.pending = None;
                }
                continue;
            }
            let Columns { path, data, names, more } = columns;
            let acl = znode.acl.to_native();
            let acl = self
                .acls
                .get(acl as usize)
                .ok_or_else(|| ParseError::NoAcl { path: path.to_owned(), acl })?;
            let meta = znode.meta(*acl);
            if more {
                let (path, names) = (path.to_owned(), names.to_owned());
                let data = data.map(<[u8]>::to_vec);
                self.pending = Some(Pending { path, data, meta, names });
                continue;
            }
            visit(Loaded { path, data, meta, children: names.split_terminator('/') })?;
        }
        match text.is_empty() && data.is_empty() {
            true => Ok(()),
            false => Err(ParseError::Misfit("text or data belongs to no znode")),
        }
    }

    /// Checks that the last znode was whole.
    pub fn finish(&self) -> Result<(), ParseError> {
        match self.pending {
            None => Ok(()),
            Some(_) => Err(ParseError::Misfit("the last znode's names are cut off")),
        }
    }
}

/// What the columns hold of one entry.
struct Columns<'a> {
    path: &'a str,
    names: &'a str,
    data: Option<&'a [u8]>,
    more: bool,
}

impl<'a> Columns<'a> {
    fn split(
        znode: &ArchivedZnode,
        text: &mut &'a str,
        data: &mut &'a [u8],
    ) -> Result<Columns<'a>, ParseError> {
        let mut take = |length: u32| -> Result<&'a str, ParseError> {
            let taken = text.split_at_checked(length as usize);
            let (taken, rest) = taken.ok_or(ParseError::Misfit("text is cut off"))?;
            *text = rest;
            Ok(taken)
        };
        let path = take(znode.path_length.to_native())?;
        let names = take(znode.names_length.to_native())?;
        if !names.is_empty() && !names.ends_with('/') {
            return Err(ParseError::Misfit("a name does not end"));
        }
        let taken = data.split_at_checked(znode.data_length.to_native() as usize);
        let (taken, rest) = taken.ok_or(ParseError::Misfit("data is cut off"))?;
        *data = rest;
        let flags = znode.flags.to_native();
        if flags & !(NULL_DATA | MORE_NAMES) != 0 {
            return Err(ParseError::Misfit("a flag is not known"));
        }
        let data = match flags & NULL_DATA {
            0 => Some(taken),
            _ if taken.is_empty() => None,
            _ => return Err(ParseError::Misfit("null data has a length")),
        };
        Ok(Columns { path, names, data, more: flags & MORE_NAMES != 0 })
    }
}

/// Calls `visit` for each access control list.
pub fn acls(bytes: &[u8], mut visit: impl FnMut(EncodedAcl<'_>)) -> Result<(), ParseError> {
    let archived = rkyv::access::<ArchivedAcls, rancor::Error>(bytes)?;
    let (lists, mut start) = (archived.bytes.as_slice(), 0);
    for end in archived.ends.iter() {
        let end = end.to_native() as usize;
        let list = lists.get(start..end).ok_or(ParseError::Misfit("a list is cut off"))?;
        let mut reader = Reader::new(list);
        let acl = EncodedAcl::decode(&mut reader)?;
        if !reader.is_empty() {
            return Err(ParseError::Misfit("a list has more behind it"));
        }
        visit(acl);
        start = end;
    }
    match start == lists.len() {
        true => Ok(()),
        false => Err(ParseError::Misfit("bytes belong to no list")),
    }
}

/// Calls `visit` with the id and the timeout, in milliseconds, of each session.
pub fn sessions(bytes: &[u8], mut visit: impl FnMut(i64, i32)) -> Result<(), ParseError> {
    let archived = rkyv::access::<ArchivedSessions, rancor::Error>(bytes)?;
    for session in archived.sessions.iter() {
        visit(session.id.to_native(), session.timeout_ms.to_native());
    }
    Ok(())
}

/// The manifest.
pub fn manifest(bytes: &[u8]) -> Result<Manifest, ParseError> {
    let archived = rkyv::access::<ArchivedManifest, rancor::Error>(bytes)?;
    Ok(rkyv::deserialize::<Manifest, rancor::Error>(archived)?)
}
