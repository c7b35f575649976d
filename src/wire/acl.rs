//! Access control lists, decoded and as the bytes that identify them.

use std::borrow::Cow;

use crate::wire::error::DecodeError;
use crate::wire::jute::{Reader, Write};

/// What an ACL entry permits: a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Perms(pub i32);

impl Perms {
    pub const READ: Perms = Perms(1);
    pub const WRITE: Perms = Perms(2);
    pub const CREATE: Perms = Perms(4);
    pub const DELETE: Perms = Perms(8);
    pub const ADMIN: Perms = Perms(16);
    pub const ALL: Perms = Perms(31);

    /// Whether any bit of `wanted` is in the set.
    pub const fn intersects(self, wanted: Perms) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// Who somebody is: a scheme, and a name within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub scheme: String,
    pub id: String,
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acl {
    pub perms: Perms,
    pub id: Id,
}

/// The least bytes of an encoded entry: permissions and two empty strings.
const ACL_SIZE_MIN: usize = 12;

/// An access control list as jute bytes, known to be well formed.
///
/// Lists are compared and interned by their bytes: nearly every znode has the same few, and their
/// decoding is not worth its time where only equality matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedAcl<'a>(Cow<'a, [u8]>);

/// `world:anyone` with all permissions, the list of nearly every znode.
const OPEN: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";

impl<'a> EncodedAcl<'a> {
    /// `world:anyone` with all permissions (`ZooDefs.Ids.OPEN_ACL_UNSAFE`).
    pub const OPEN: EncodedAcl<'static> = EncodedAcl(Cow::Borrowed(OPEN));

    /// The bytes of `list`.
    pub fn from_list(list: &[Acl]) -> EncodedAcl<'static> {
        let mut bytes = Vec::new();
        bytes.put_length(list.len());
        for acl in list {
            bytes.put_i32(acl.perms.0);
            bytes.put_string(&acl.id.scheme);
            bytes.put_string(&acl.id.id);
        }
        EncodedAcl(Cow::Owned(bytes))
    }

    /// Reads a list, checks that it is well formed, and keeps its bytes.
    pub fn decode(reader: &mut Reader<'a>) -> Result<EncodedAcl<'a>, DecodeError> {
        let start = reader.remaining();
        if start.starts_with(OPEN) {
            reader.take(OPEN.len())?;
            return Ok(EncodedAcl::OPEN);
        }
        for _ in 0..reader.count(ACL_SIZE_MIN)? {
            reader.i32()?;
            reader.string()?;
            reader.string()?;
        }
        let size = start.len() - reader.remaining().len();
        Ok(EncodedAcl(Cow::Borrowed(&start[..size])))
    }

    /// The bytes: an i32 count, then the entries. A null list has the count -1.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the open list.
    pub fn is_open(&self) -> bool {
        self.0.as_ref() == OPEN
    }

    /// The entries.
    pub fn to_list(&self) -> Vec<Acl> {
        let mut reader = Reader::new(&self.0);
        let entry = |reader: &mut Reader<'_>| -> Result<Acl, DecodeError> {
            let perms = Perms(reader.i32()?);
            let (scheme, id) = (reader.string()?.to_owned(), reader.string()?.to_owned());
            Ok(Acl { perms, id: Id { scheme, id } })
        };
        let count = reader.count(ACL_SIZE_MIN).expect("decode checked the bytes");
        (0..count).map(|_| entry(&mut reader).expect("decode checked the bytes")).collect()
    }

    /// The same list, borrowing nothing.
    pub fn into_owned(self) -> EncodedAcl<'static> {
        EncodedAcl(Cow::Owned(self.0.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_list_is_what_its_entries_say() {
        let list = EncodedAcl::OPEN.to_list();
        let id = Id { scheme: "world".into(), id: "anyone".into() };
        assert_eq!(list, [Acl { perms: Perms::ALL, id }]);
        assert_eq!(EncodedAcl::from_list(&list), EncodedAcl::OPEN);
    }

    #[test]
    fn decoding_stops_where_the_list_ends() {
        let list = [Acl { perms: Perms(3), id: Id { scheme: "ip".into(), id: "1.2.3.4".into() } }];
        let mut bytes = EncodedAcl::from_list(&list).as_bytes().to_vec();
        bytes.push(7);
        let mut reader = Reader::new(&bytes);
        let decoded = EncodedAcl::decode(&mut reader).unwrap();
        assert_eq!(decoded.to_list(), list);
        assert_eq!(reader.remaining(), [7]);
    }
}
