//! The metadata of a znode.

use crate::wire::error::DecodeError;
use crate::wire::jute::Reader;
use crate::zxid::Zxid;

/// The `ephemeralOwner` of a container (`EphemeralType.java`).
pub const CONTAINER_OWNER: i64 = i64::MIN;

/// The `ephemeralOwner` of a TTL node: this mark in the high 16 bits, milliseconds below.
pub const TTL_OWNER_MARK: i64 = 0xff00_u64.cast_signed() << 48;

/// The largest time to live, in milliseconds: 40 bits.
pub const TTL_MS_MAX: i64 = 0xff_ffff_ffff;

/// What a znode's `ephemeralOwner` makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until this session ends.
    Ephemeral(i64),
    /// Until its last child is gone.
    Container,
    /// Until it has had no child and no write for so many milliseconds.
    Ttl(i64),
}

impl Lifetime {
    /// What `owner` says, where TTL nodes exist (`extended` is `extendedTypesEnabled`); otherwise
    /// their owners are sessions like any other.
    pub const fn of_owner(owner: i64, extended: bool) -> Lifetime {
        match owner {
            0 => Lifetime::Persistent,
            CONTAINER_OWNER => Lifetime::Container,
            // Server ids above 254 are refused where extended types are enabled, so the mark is
            // no session's.
            owner if extended && (owner as u64 >> 56) == 0xff => Lifetime::Ttl(owner & TTL_MS_MAX),
            owner => Lifetime::Ephemeral(owner),
        }
    }

    /// The `ephemeralOwner` that says so.
    pub const fn owner(self) -> i64 {
        match self {
            Lifetime::Persistent => 0,
            Lifetime::Ephemeral(session) => session,
            Lifetime::Container => CONTAINER_OWNER,
            Lifetime::Ttl(ms) => TTL_OWNER_MARK | ms,
        }
    }
}

/// The metadata of a znode as a client sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created the node.
    pub czxid: Zxid,
    /// The transaction that last set its data.
    pub mzxid: Zxid,
    /// When it was created, wall clock in milliseconds.
    pub ctime_ms: i64,
    /// When its data was last set, wall clock in milliseconds.
    pub mtime_ms: i64,
    /// How often its data was set.
    pub version: i32,
    /// How often its children changed: creates and deletes both count.
    pub cversion: i32,
    /// How often its ACL was set.
    pub aversion: i32,
    /// The session that owns it, or what else it is (`Lifetime`).
    pub ephemeral_owner: i64,
    /// The length of its data in bytes; 0 for null.
    pub data_length: i32,
    /// How many children it has.
    pub num_children: i32,
    /// The transaction that last created or deleted a child of it.
    pub pzxid: Zxid,
}

impl Stat {
    /// Bytes of an encoded stat.
    pub const SIZE: usize = 68;

    /// Appends the 68 bytes of the stat.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Room is looked for once, and not for each of the fields: nearly every reply has a stat.
        let mut bytes = [0; Stat::SIZE];
        bytes[0..8].copy_from_slice(&self.czxid.raw().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.mzxid.raw().to_be_bytes());
        bytes[16..24].copy_from_slice(&self.ctime_ms.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.mtime_ms.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.version.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        bytes[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        bytes[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        bytes[60..68].copy_from_slice(&self.pzxid.raw().to_be_bytes());
        out.extend_from_slice(&bytes);
    }

    /// The inverse of [`Stat::encode`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Stat, DecodeError> {
        Ok(Stat {
            czxid: Zxid::from_raw(reader.i64()?),
            mzxid: Zxid::from_raw(reader.i64()?),
            ctime_ms: reader.i64()?,
            mtime_ms: reader.i64()?,
            version: reader.i32()?,
            cversion: reader.i32()?,
            aversion: reader.i32()?,
            ephemeral_owner: reader.i64()?,
            data_length: reader.i32()?,
            num_children: reader.i32()?,
            pzxid: Zxid::from_raw(reader.i64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_tell_lifetimes() {
        for lifetime in [
            Lifetime::Persistent,
            Lifetime::Ephemeral(0x0100_0000_1234_0000),
            Lifetime::Container,
            Lifetime::Ttl(1),
            Lifetime::Ttl(TTL_MS_MAX),
        ] {
            assert_eq!(Lifetime::of_owner(lifetime.owner(), true), lifetime);
        }
        let ttl = Lifetime::Ttl(5).owner();
        assert_eq!(Lifetime::of_owner(ttl, false), Lifetime::Ephemeral(ttl));
    }

    #[test]
    fn a_stat_takes_68_bytes_and_comes_back() {
        let stat = Stat { version: 3, pzxid: Zxid::new(1, 2), num_children: 9, ..Stat::default() };
        let mut bytes = Vec::new();
        stat.encode(&mut bytes);
        assert_eq!(bytes.len(), Stat::SIZE);
        assert_eq!(Stat::decode(&mut Reader::new(&bytes)), Ok(stat));
    }
}
