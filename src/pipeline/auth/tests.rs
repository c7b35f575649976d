use super::*;

/// The documented digest of the superuser's password "test".
const SUPER_DIGEST: &str = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

fn id(scheme: &str, id: &str) -> Id {
    Id { scheme: scheme.into(), id: id.into() }
}

fn acl(perms: Perms, scheme: &str, name: &str) -> Acl {
    Acl { perms, id: id(scheme, name) }
}

fn connection() -> AuthIds {
    AuthIds::new("10.1.2.3".parse().unwrap())
}

fn config() -> AuthConfig {
    AuthConfig { super_digest: Some(SUPER_DIGEST.into()), ..AuthConfig::default() }
}

/// Hashes from `MessageDigest` on a JVM.
#[test]
fn digest_ids_are_those_of_java() {
    let sha1 = |credentials| DigestAlgorithm::Sha1.id(credentials);
    assert_eq!(sha1("super:test"), SUPER_DIGEST);
    assert_eq!(sha1("u:p"), "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=");
    assert_eq!(sha1("a:b:c"), "a:cLzgnoJ6mP5qz3w+mwvPE2vDgu0=");
    assert_eq!(sha1("nopass"), "nopass:lzMveuimm4pmrQTpblPb5NTiZUY=");
    assert_eq!(DigestAlgorithm::Sha256.id("u:p"), "u:/Y8xRBngpX5duYn15uUqIRaIaCviy5TEwSk419hCwuA=");
    assert_eq!(DigestAlgorithm::Sha512.id("u:p").len(), "u:".len() + 88);
    assert_eq!(DigestAlgorithm::Sha3.id("u:p"), "u:3+U94Pf1dSrKR/q5qu/huTFf1Fha6TtpdtpSdhWvIS0=");
}

#[test]
fn a_connection_is_its_address_as_java_writes_it() {
    for (address, expected) in [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("2001:db8::ff00:42:8329", "2001:db8:0:0:0:ff00:42:8329"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
    ] {
        assert_eq!(AuthIds::new(address.parse().unwrap()).ids(), [id("ip", expected)]);
    }
}

#[test]
fn auth_packets_add_ids_once() {
    let mut ids = connection();
    assert_eq!(ids.handle_auth(&config(), "digest", b"u:p"), Ok(()));
    assert_eq!(ids.handle_auth(&config(), "digest", b"u:p"), Ok(()));
    assert_eq!(ids.handle_auth(&config(), "ip", b"6.6.6.6"), Ok(()));
    let expected = [id("ip", "10.1.2.3"), id("digest", "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=")];
    assert_eq!(ids.ids(), expected);
    let shown: Vec<_> = identities(ids.ids()).collect();
    assert_eq!(shown, [("ip", "10.1.2.3"), ("digest", "u")]);
    for scheme in ["nope", "world", "auth", "super", ""] {
        let refused = ids.handle_auth(&config(), scheme, b"");
        assert_eq!(refused, Err(ErrorCode::AuthFailed), "{scheme}");
    }
    assert_eq!(ids.ids(), expected);
}

#[test]
fn only_the_superusers_digest_makes_a_superuser() {
    let is_super = |config: &AuthConfig, auth: &[u8]| {
        let mut ids = connection();
        ids.handle_auth(config, "digest", auth).unwrap();
        ids.ids().iter().any(|id| id.scheme == "super")
    };
    assert!(is_super(&config(), b"super:test"));
    assert!(!is_super(&config(), b"super:tess"));
    assert!(!is_super(&AuthConfig::default(), b"super:test"));
}

#[test]
fn a_disabled_digest_is_an_unknown_scheme() {
    let config = AuthConfig { digest_enabled: false, ..config() };
    let refused = connection().handle_auth(&config, "digest", b"super:test");
    assert_eq!(refused, Err(ErrorCode::AuthFailed));
    let list = [acl(Perms::ALL, "digest", "u:h")];
    assert!(!config.check_acl(&list, Perms::READ, &[id("digest", "u:h")]));
    assert_eq!(config.fixup_acl(&list, &[]), Err(ErrorCode::InvalidAcl));
}

#[test]
fn a_connection_gathers_no_more_than_its_bounds() {
    let mut ids = connection();
    let accepted = (0..1000)
        .map_while(|user| ids.handle_auth(&config(), "digest", format!("{user}:p").as_bytes()).ok())
        .count();
    assert_eq!(accepted, IDS_MAX - 1);
    let mut ids = connection();
    let long = [b'u'; IDS_SIZE_MAX];
    assert_eq!(ids.handle_auth(&config(), "digest", &long), Err(ErrorCode::AuthFailed));
    assert_eq!(ids.ids().len(), 1);
}

#[test]
fn permissions_follow_from_list_and_ids() {
    let user = [id("ip", "10.1.2.3"), id("digest", "u:h")];
    let permits = |list: &[Acl], ids: &[Id]| config().check_acl(list, Perms::READ, ids);
    assert!(permits(&[], &user));
    assert!(permits(&[acl(Perms::ALL, "world", "anyone")], &[]));
    assert!(!permits(&[acl(Perms::WRITE, "world", "anyone")], &user));
    assert!(!permits(&[acl(Perms::ALL, "world", "someone")], &user));
    assert!(permits(&[acl(Perms::READ, "digest", "u:h")], &user));
    assert!(!permits(&[acl(Perms::READ, "digest", "u:x")], &user));
    // Neither a beginning of the other, nor the other way round.
    assert!(!permits(&[acl(Perms::READ, "digest", "u:ha")], &user));
    assert!(!permits(&[acl(Perms::READ, "digest", "u:")], &user));
    assert!(!permits(&[acl(Perms::WRITE, "digest", "u:h")], &user));
    // The schemes must agree, and be known.
    assert!(!permits(&[acl(Perms::READ, "ip", "u:h")], &user));
    assert!(!permits(&[acl(Perms::READ, "sasl", "u")], &[id("sasl", "u")]));
    assert!(permits(&[acl(Perms(0), "digest", "x:y")], &[id("super", "")]));
    // Any of the wanted permissions will do: getACL asks for READ or ADMIN.
    let wanted = Perms(Perms::READ.0 | Perms::ADMIN.0);
    assert!(config().check_acl(&[acl(Perms::ADMIN, "digest", "u:h")], wanted, &user));
}

#[test]
fn addresses_match_networks() {
    let matches = |network: &str, address: &str| Scheme::Ip.matches(address, network);
    for (network, address) in [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.255/24", "10.1.2.3"),
        ("0.0.0.0/0", "10.1.2.3"),
        ("255.255.255.255/0", "10.1.2.3"),
        ("10.1.2.2/31", "10.1.2.3"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("2001:db8::/32", "2001:db8:0:0:0:ff00:42:8329"),
        ("::/0", "0:0:0:0:0:0:0:1"),
    ] {
        assert!(matches(network, address), "{network} {address}");
    }
    for (network, address) in [
        ("10.1.2.3", "10.1.2.4"),
        ("10.1.2.0/31", "10.1.2.3"),
        ("10.1.2.3/33", "10.1.2.3"),
        ("::/0", "10.1.2.3"),
        ("0.0.0.0/0", "0:0:0:0:0:0:0:1"),
        ("2001:db9::/32", "2001:db8:0:0:0:ff00:42:8329"),
        ("::1/129", "0:0:0:0:0:0:0:1"),
        ("10.1.2", "10.1.2.3"),
        ("", "10.1.2.3"),
    ] {
        assert!(!matches(network, address), "{network} {address}");
    }
}

/// Digest ids by Java's `split(":")`, addresses by `IPAuthenticationProvider.isValid`.
#[test]
fn ids_of_lists_are_well_formed_or_refused() {
    for valid in ["a:b", ":b", "a:b:", ":a:"] {
        assert!(Scheme::Digest.is_valid(valid), "{valid}");
    }
    for invalid in ["a:", ":", "a", "", "a:b:c", "a::", "::a"] {
        assert!(!Scheme::Digest.is_valid(invalid), "{invalid}");
    }
    for valid in ["1.2.3.4", "01.2.3.4", "1.2.3.4/0", "1.2.3.4/32", "::", "1::/128"] {
        assert!(Scheme::Ip.is_valid(valid), "{valid}");
    }
    for invalid in [
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "1.2.3.4/",
        "1.2.3.4/33",
        "1.2.3.4/-1",
        "x",
        "::1.2.3.4",
    ] {
        assert!(!Scheme::Ip.is_valid(invalid), "{invalid}");
    }
}

#[test]
fn lists_are_fixed_up() {
    let fixup = |list: &[Acl], ids: &[Id]| config().fixup_acl(list, ids).map(|acl| acl.to_list());
    let user = [id("ip", "10.1.2.3"), id("digest", "u:h"), id("super", ""), id("digest", "v:h")];
    let open = acl(Perms::ALL, "world", "anyone");
    assert_eq!(fixup(&[open.clone(), open.clone()], &[]), Ok(vec![open.clone()]));
    // `auth` is whoever has proven who they are: neither the address nor the superuser.
    assert_eq!(
        fixup(&[open.clone(), acl(Perms::READ, "auth", "ignored")], &user),
        Ok(vec![open, acl(Perms::READ, "digest", "u:h"), acl(Perms::READ, "digest", "v:h")])
    );
    let listed = vec![acl(Perms::READ, "ip", "10.0.0.0/8"), acl(Perms::WRITE, "digest", "a:b")];
    assert_eq!(fixup(&listed, &[]), Ok(listed.clone()));
    for invalid in [
        acl(Perms::ALL, "auth", ""),
        acl(Perms::ALL, "world", "someone"),
        acl(Perms::ALL, "digest", "a"),
        acl(Perms::ALL, "ip", "10"),
        acl(Perms::ALL, "super", ""),
        acl(Perms::ALL, "sasl", "u"),
    ] {
        let list = [acl(Perms::ALL, "world", "anyone"), invalid];
        assert_eq!(fixup(&list, &user[..1]), Err(ErrorCode::InvalidAcl), "{list:?}");
    }
    assert_eq!(fixup(&[], &user), Err(ErrorCode::InvalidAcl));
}

#[test]
fn a_list_does_not_grow_without_bound() {
    let ids: Vec<Id> = (0..IDS_MAX).map(|user| id("digest", &format!("{user}:h"))).collect();
    let list: Vec<Acl> = (0..80_000).map(|perms| acl(Perms(perms), "auth", "")).collect();
    assert_eq!(config().fixup_acl(&list, &ids), Err(ErrorCode::InvalidAcl));
    assert!(config().fixup_acl(&list[..100], &ids).is_ok());
}

#[test]
fn lists_in_bytes_mean_what_decoded_ones_do() {
    let list = [acl(Perms::READ, "digest", "u:h"), acl(Perms::READ, "digest", "u:h")];
    let encoded = EncodedAcl::from_list(&list);
    let user = [id("digest", "u:h")];
    assert!(config().permits(&encoded, Perms::READ, &user));
    assert!(!config().permits(&encoded, Perms::WRITE, &user));
    assert!(config().permits(&EncodedAcl::OPEN, Perms::WRITE, &[]));
    assert_eq!(config().fixup(encoded, &user), Ok(EncodedAcl::from_list(&list[..1])));
    assert_eq!(config().fixup(EncodedAcl::OPEN, &[]), Ok(EncodedAcl::OPEN));
    let empty = EncodedAcl::from_list(&[]);
    assert!(config().permits(&empty, Perms::READ, &[]));
    assert_eq!(config().fixup(empty, &[]), Err(ErrorCode::InvalidAcl));
}

#[test]
fn hashes_are_masked_and_nothing_else() {
    let list = [
        acl(Perms::READ, "digest", "u:hash:more"),
        acl(Perms::READ, "digest", "bare"),
        acl(Perms::ALL, "ip", "2001:db8::1"),
    ];
    let masked = mask_digests(&list).to_list();
    assert_eq!(masked[0], acl(Perms::READ, "digest", "u:x"));
    assert_eq!(masked[1..], list[1..]);
}
