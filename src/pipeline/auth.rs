//! Who a connection is, and what that lets it do.
//!
//! A connection gathers *ids*: its address at once, and what auth packets prove. An ACL entry
//! grants permissions to ids of its scheme that match its own id.
//!
//! ```text
//! scheme  auth packet      id of a connection              id in an ACL
//! world                                                    anyone
//! ip      anything         its address                     address, or address/bits
//! digest  user:password    user:base64(hash(packet))       the same
//! super                    made by the superuser's digest  none: passes every list
//! auth                                                     any: stands for the creator's ids
//! ```
//! Source: `ZooKeeperServer.java` (checkACL), `PrepRequestProcessor.java` (fixupACL) and the
//! providers in Apache's `server/auth`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};
use sha3::Sha3_256;

use crate::wire::acl::{Acl, EncodedAcl, Id, Perms};
use crate::wire::error::ErrorCode;

/// How many ids one connection may gather. Clients replay theirs after every reconnect, and use
/// one or two; each read is checked against all.
pub const IDS_MAX: usize = 64;

/// How many bytes one connection's ids may take: 64 of a generous length.
pub const IDS_SIZE_MAX: usize = 16 * 1024;

/// What a configuration says of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// `DigestAuthenticationProvider.superDigest`: `super:` and a hash. Whoever proves it passes
    /// every list.
    pub super_digest: Option<String>,
    /// `DigestAuthenticationProvider.enabled`; without it there is no scheme `digest`.
    pub digest_enabled: bool,
    /// `DigestAuthenticationProvider.digestAlg`. All servers of an ensemble must agree on it.
    pub digest_algorithm: DigestAlgorithm,
}

/// The hash of digest ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestAlgorithm {
    #[default]
    Sha1,
    Sha256,
    Sha512,
    /// SHA3-256.
    Sha3,
}

impl DigestAlgorithm {
    /// What Java calls them, in any case.
    pub const NAMES: [(&str, DigestAlgorithm); 6] = [
        ("SHA1", DigestAlgorithm::Sha1),
        ("SHA-1", DigestAlgorithm::Sha1),
        ("SHA", DigestAlgorithm::Sha1),
        ("SHA-256", DigestAlgorithm::Sha256),
        ("SHA-512", DigestAlgorithm::Sha512),
        ("SHA3-256", DigestAlgorithm::Sha3),
    ];

    /// The digest id of `user:password`: the user, and the base64 hash of the whole.
    pub fn id(self, credentials: &str) -> String {
        let user = credentials.split(':').next().unwrap_or_default();
        let hash = match self {
            DigestAlgorithm::Sha1 => BASE64.encode(Sha1::digest(credentials)),
            DigestAlgorithm::Sha256 => BASE64.encode(Sha256::digest(credentials)),
            DigestAlgorithm::Sha512 => BASE64.encode(Sha512::digest(credentials)),
            DigestAlgorithm::Sha3 => BASE64.encode(Sha3_256::digest(credentials)),
        };
        format!("{user}:{hash}")
    }
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig {
            super_digest: None,
            digest_enabled: true,
            digest_algorithm: DigestAlgorithm::Sha1,
        }
    }
}

/// The schemes that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Ip,
    Digest,
}

impl AuthConfig {
    fn scheme(&self, name: &str) -> Option<Scheme> {
        match name {
            "ip" => Some(Scheme::Ip),
            "digest" if self.digest_enabled => Some(Scheme::Digest),
            _ => None,
        }
    }

    /// Whether a connection's ids permit any of `wanted` by `list`; an empty list is open.
    pub fn check_acl(&self, list: &[Acl], wanted: Perms, ids: &[Id]) -> bool {
        if list.is_empty() || ids.iter().any(|id| id.scheme == "super") {
            return true;
        }
        list.iter().filter(|acl| acl.perms.intersects(wanted)).any(|acl| {
            is_anyone(&acl.id)
                || self.scheme(&acl.id.scheme).is_some_and(|scheme| {
                    ids.iter()
                        .any(|id| id.scheme == acl.id.scheme && scheme.matches(&id.id, &acl.id.id))
                })
        })
    }

    /// [`AuthConfig::check_acl`] for a list in bytes; the open list is not decoded.
    pub fn permits(&self, acl: &EncodedAcl<'_>, wanted: Perms, ids: &[Id]) -> bool {
        acl.is_open() || self.check_acl(&acl.to_list(), wanted, ids)
    }

    /// [`AuthConfig::fixup_acl`] for a list in bytes; the open list is not decoded.
    pub fn fixup<'a>(&self, acl: EncodedAcl<'a>, ids: &[Id]) -> Result<EncodedAcl<'a>, ErrorCode> {
        if acl.is_open() { Ok(acl) } else { self.fixup_acl(&acl.to_list(), ids) }
    }

    /// The list that a node gets for the one that a client asks for: without duplicates, and with
    /// the client's own ids for `auth`.
    ///
    /// # Errors
    /// `InvalidAcl` where the list is empty, an entry's scheme is unknown or its id is malformed,
    /// or `auth` stands for nobody.
    pub fn fixup_acl(&self, list: &[Acl], ids: &[Id]) -> Result<EncodedAcl<'static>, ErrorCode> {
        if list.is_empty() {
            return Err(ErrorCode::InvalidAcl);
        }
        let mut seen = HashSet::new();
        let mut fixed = Vec::with_capacity(list.len());
        let mut size = 0;
        for acl in list.iter().filter(|acl| seen.insert(*acl)) {
            let Acl { perms, id } = acl;
            if id.scheme == "auth" {
                let before = fixed.len();
                // An address is no proof of who somebody is.
                let proven =
                    ids.iter().filter(|id| self.scheme(&id.scheme) == Some(Scheme::Digest));
                fixed.extend(proven.map(|id| Acl { perms: *perms, id: id.clone() }));
                let added = fixed[before..].iter().map(|Acl { id, .. }| entry_size(id));
                size += added.sum::<usize>();
                if fixed.len() == before || size > LIST_SIZE_MAX {
                    return Err(ErrorCode::InvalidAcl);
                }
                continue;
            }
            let is_known = self.scheme(&id.scheme).is_some_and(|scheme| scheme.is_valid(&id.id));
            if !is_known && !is_anyone(id) {
                return Err(ErrorCode::InvalidAcl);
            }
            fixed.push(acl.clone());
        }
        Ok(EncodedAcl::from_list(&fixed))
    }
}

/// How many bytes a list may take after `auth` is expanded in it: Apache's default bound of a
/// frame. Without it, a frame full of `auth` entries, each standing for many ids, would become a
/// transaction that no replica reads.
const LIST_SIZE_MAX: usize = 0xfffff;

/// Bytes of an encoded entry.
fn entry_size(id: &Id) -> usize {
    12 + id.scheme.len() + id.id.len()
}

fn is_anyone(id: &Id) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

impl Scheme {
    /// Whether an ACL may hold the id.
    fn is_valid(self, id: &str) -> bool {
        match self {
            Scheme::Ip => Network::parse(id).is_some(),
            Scheme::Digest => {
                // Java's `split` drops empty strings at the end, but not at the start.
                let mut parts = id.trim_end_matches(':').split(':');
                parts.next().is_some() && parts.next().is_some() && parts.next().is_none()
            }
        }
    }

    /// Whether a connection's id is meant by that of an ACL.
    fn matches(self, id: &str, of_acl: &str) -> bool {
        match self {
            Scheme::Ip => Network::parse(of_acl)
                .is_some_and(|network| parse_address(id).is_some_and(|id| network.contains(id))),
            Scheme::Digest => is_same(id.as_bytes(), of_acl.as_bytes()),
        }
    }
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// Addresses that share their first bits.
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            None => (parse_address(text)?, None),
            Some((address, bits)) => (parse_address(address)?, Some(bits)),
        };
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => bits_max,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max)?,
        };
        Some(Network { address, bits })
    }

    /// An IPv4 network holds no IPv6 address, whatever that one maps.
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// An address as Apache reads one: it takes leading zeros in IPv4, which Rust does not, and no
/// IPv4 tail in IPv6, which Rust does.
fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let address = text.parse::<Ipv6Addr>().ok().filter(|_| !text.contains('.'))?;
        return Some(IpAddr::V6(address));
    }
    let mut bytes = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut bytes {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(bytes)))
}

/// An address as Java writes it: IPv6 with all its eight groups, and IPv4 where it is mapped.
fn address_id(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:x}")).join(":"),
    }
}

/// The ids that a connection has gathered.
#[derive(Clone, Debug)]
pub struct AuthIds {
    address: IpAddr,
    ids: Vec<Id>,
    /// Bytes of all schemes and ids.
    size: usize,
}

impl AuthIds {
    /// A connection from `address`, which is its first id.
    pub fn new(address: IpAddr) -> AuthIds {
        let mut ids = AuthIds { address, ids: Vec::new(), size: 0 };
        ids.add("ip", address_id(address)).expect("one address is within bounds");
        ids
    }

    /// The ids, in the order in which they came.
    pub fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// Takes an auth packet.
    ///
    /// # Errors
    /// `AuthFailed` where the scheme is unknown or the connection has gathered too much: the
    /// reply says so, and the connection is closed.
    pub fn handle_auth(
        &mut self,
        config: &AuthConfig,
        scheme: &str,
        auth: &[u8],
    ) -> Result<(), ErrorCode> {
        match config.scheme(scheme).ok_or(ErrorCode::AuthFailed)? {
            Scheme::Ip => self.add("ip", address_id(self.address)),
            Scheme::Digest => {
                // Java reads what is not UTF-8 with replacement characters.
                let id = config.digest_algorithm.id(&String::from_utf8_lossy(auth));
                let super_digest = config.super_digest.as_ref();
                if super_digest.is_some_and(|digest| is_same(digest.as_bytes(), id.as_bytes())) {
                    self.add("super", String::new())?;
                }
                self.add("digest", id)
            }
        }
    }

    fn add(&mut self, scheme: &str, id: String) -> Result<(), ErrorCode> {
        let id = Id { scheme: scheme.to_owned(), id };
        if self.ids.contains(&id) {
            return Ok(());
        }
        let size = self.size + id.scheme.len() + id.id.len();
        if self.ids.len() >= IDS_MAX || size > IDS_SIZE_MAX {
            return Err(ErrorCode::AuthFailed);
        }
        self.size = size;
        self.ids.push(id);
        Ok(())
    }
}

/// What whoAmI shows of ids: the scheme, and a user without the proof.
pub fn identities(ids: &[Id]) -> impl ExactSizeIterator<Item = (&str, &str)> {
    ids.iter().map(|Id { scheme, id }| {
        let user = match scheme.as_str() {
            "digest" => id.split(':').next().unwrap_or_default(),
            _ => id.as_str(),
        };
        (scheme.as_str(), user)
    })
}

/// What getACL shows to whoever has no ADMIN permission: users without their hashes.
pub fn mask_digests(list: &[Acl]) -> EncodedAcl<'static> {
    let masked = list.iter().map(|Acl { perms, id }| {
        let user = id.id.split_once(':').filter(|_| id.scheme == "digest");
        let masked = match user {
            Some((user, _)) => format!("{user}:x"),
            None => id.id.clone(),
        };
        Acl { perms: *perms, id: Id { scheme: id.scheme.clone(), id: masked } }
    });
    EncodedAcl::from_list(&masked.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
