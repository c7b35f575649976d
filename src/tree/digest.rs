//! Apache's tree digest: a wrapping sum of one CRC-32 per znode.
//!
//! ```text
//! CRC-32 over   path ("" for the root) │ data │ czxid mzxid pzxid ctime mtime, i64 each │
//!               version cversion aversion, i32 each │ ephemeralOwner i64
//! ```
//! Everything below `/zookeeper/` counts for nothing, since quota statistics are each server's own.
//! Source: `DigestCalculator.java`, `NodeHashMapImpl.java`.

use crc32fast::Hasher;

use crate::tree::record::Meta;

/// Whether the znode at `path` counts for the digest.
pub fn counts(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("/zookeeper/")
}

/// The CRC over path and data, which [`node`] goes on from: kept with the record, so that a change
/// of the metadata alone does not read the data again.
pub fn content(path: &str, data: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(if path == "/" { b"" } else { path.as_bytes() });
    hasher.update(data);
    hasher.finalize()
}

/// The digest of the znode with this content and metadata.
pub fn node(content_crc: u32, meta: &Meta) -> u64 {
    let mut bytes = [0; 60];
    let longs =
        [meta.czxid.raw(), meta.mzxid.raw(), meta.pzxid.raw(), meta.ctime_ms, meta.mtime_ms];
    for (chunk, long) in bytes.chunks_exact_mut(8).zip(longs) {
        chunk.copy_from_slice(&long.to_be_bytes());
    }
    bytes[40..44].copy_from_slice(&meta.version.to_be_bytes());
    bytes[44..48].copy_from_slice(&meta.cversion.to_be_bytes());
    bytes[48..52].copy_from_slice(&meta.aversion.to_be_bytes());
    bytes[52..60].copy_from_slice(&meta.owner.to_be_bytes());
    let mut hasher = Hasher::new_with_initial(content_crc);
    hasher.update(&bytes);
    u64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zxid::Zxid;

    #[test]
    fn the_content_crc_goes_on_over_the_metadata() {
        let meta = Meta {
            czxid: Zxid::new(1, 1),
            mzxid: Zxid::new(1, 2),
            pzxid: Zxid::new(1, 3),
            ctime_ms: 4,
            mtime_ms: 5,
            version: 6,
            cversion: 7,
            aversion: -1,
            owner: 9,
            ..Meta::default()
        };
        let mut bytes = b"/adata".to_vec();
        for long in [0x1_0000_0001_i64, 0x1_0000_0002, 0x1_0000_0003, 4, 5] {
            bytes.extend(long.to_be_bytes());
        }
        bytes.extend([0, 0, 0, 6, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(node(content("/a", b"data"), &meta), u64::from(crc32fast::hash(&bytes)));
    }

    #[test]
    fn the_root_counts_by_its_alias_and_what_is_local_does_not() {
        assert_eq!(content("/", b"x"), content("", b"x"));
        assert!(counts("/") && counts("/zookeeper") && counts("/zookeeperx/a"));
        assert!(!counts("/zookeeper/config"));
    }
}
