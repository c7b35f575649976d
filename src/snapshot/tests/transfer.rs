//! Snapshots between servers: Apache's own bytes, ours and back, cut off, hostile and refused.

use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;

use super::{OPTIONS, SESSIONS, apply, check_same, content, load_newest, sample, write_now};
use crate::snapshot::transfer::{Form, Incoming, Received, receive, send};
use crate::snapshot::{SnapshotError, directory};
use crate::tree::writer::Writer;
use crate::wire::stat::Lifetime;
use crate::wire::txn::{self, Txn};
use crate::zxid::Zxid;

/// What a leader of 3.8.0 and one of 3.9.5 sent an observer, and the transaction that came next.
const CAPTURED: [(&[u8], &[u8]); 2] = [
    (
        include_bytes!("../../../tests/golden/stream-3.8.0.bin"),
        include_bytes!("../../../tests/golden/stream-3.8.0-next.bin"),
    ),
    (
        include_bytes!("../../../tests/golden/stream-3.9.5.bin"),
        include_bytes!("../../../tests/golden/stream-3.9.5-next.bin"),
    ),
];
/// What their SNAP packets said.
const CAPTURED_AT: Zxid = Zxid::new(1, 0x15);

fn incoming(dir: &Path, zxid: Zxid, form: Form) -> Incoming<'_> {
    Incoming { dir, zxid, form, load: OPTIONS }
}

fn sent(writer: &Writer, form: Form) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    send(writer.tree(), zxid, Some(digest), &SESSIONS, form, &mut bytes).unwrap();
    bytes
}

/// Whether nothing at all stands in `dir`.
fn is_bare(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn what_apaches_leaders_send_is_read_and_goes_on() {
    for (stream, next) in CAPTURED {
        let dir = tempfile::tempdir().unwrap();
        let incoming = incoming(dir.path(), CAPTURED_AT, Form::Java);
        let Received { mut writer, sessions, bytes, .. } = receive(stream, &incoming).unwrap();
        assert_eq!(bytes, stream.len() as u64);
        assert_eq!(sessions.iter().map(|it| it.1).collect::<Vec<_>>(), [40_000, 30_000]);
        let tree = content(writer.tree(), Zxid::MAX);
        let children = |path: &str| tree[path].3.clone();
        let data = |path: &str| tree[path].0.as_deref();
        let lifetime = |path: &str| Lifetime::of_owner(tree[path].1.owner, true);
        let below = ["container", "empty", "null", "plain", "readable", "secret", "ttl"];
        assert_eq!(children("/"), [&below[..], &["zookeeper"]].concat());
        assert_eq!(children("/plain"), ["e", "f", "s-0000000003", "\u{e9}\u{4e2d}"]);
        assert_eq!((data("/plain"), data("/null")), (Some(&b"data two"[..]), None));
        assert_eq!(lifetime("/plain/e"), Lifetime::Ephemeral(sessions[1].0));
        assert_eq!(lifetime("/plain/f"), Lifetime::Ephemeral(sessions[0].0));
        assert_eq!(lifetime("/container"), Lifetime::Container);
        assert_eq!(lifetime("/ttl"), Lifetime::Ttl(3_600_000));
        let secret = [&b"\0\0\0\x02\0\0\0\x1f\0\0\0\x06digest"[..], b"\0\0\0\x21user:smGaoVKd"];
        assert!(tree["/secret"].2.starts_with(&secret.concat()));
        assert_eq!(writer.totals().ephemeral_count, 3);
        // The durable snapshot is the same, and says that its leader was Apache's.
        let loaded = load_newest(dir.path());
        assert!(loaded.is_fuzzy);
        assert_eq!(loaded.sessions, sessions);
        check_same(&loaded, &writer);
        // The digest that came with the next transaction proves every znode's every field.
        let next = txn::decode(next).unwrap();
        let effects = writer.apply(&next.header, &next.txn).unwrap();
        assert_eq!(Some(effects.totals.digest), next.digest);
    }
}

#[test]
fn a_tree_goes_over_and_the_bytes_behind_it_stay() {
    let writer = sample();
    for form in [Form::Java, Form::Checked] {
        let dir = tempfile::tempdir().unwrap();
        let stream = [&sent(&writer, form)[..], b"the next packet"].concat();
        let mut input = BufReader::with_capacity(100, &stream[..]);
        let incoming = incoming(dir.path(), writer.last_zxid(), form);
        let received = receive(&mut input, &incoming).unwrap();
        let mut rest = String::new();
        input.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "the next packet");
        assert_eq!(received.bytes, stream.len() as u64 - 15);
        assert_eq!(received.digest, writer.digest());
        assert_eq!(received.is_fuzzy, form == Form::Java);
        let loaded = load_newest(dir.path());
        check_same(&loaded, &writer);
        assert_eq!(loaded.is_fuzzy, form == Form::Java);
        let expected = content(writer.tree(), Zxid::MAX);
        assert!(content(received.writer.tree(), Zxid::MAX) == expected);
    }
}

#[test]
fn an_older_version_is_sent_as_it_was() {
    let mut writer = sample();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let expected = content(writer.tree(), zxid);
    apply(&mut writer, &Txn::Delete { path: "/e", by_reaper: false });
    let mut stream = Vec::new();
    send(writer.tree(), zxid, Some(digest), &[], Form::Checked, &mut stream).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let received = receive(&stream[..], &incoming(dir.path(), zxid, Form::Checked)).unwrap();
    assert!(content(received.writer.tree(), Zxid::MAX) == expected);
    let error =
        send(writer.tree(), zxid, Some(digest ^ 1), &[], Form::Java, &mut stream).unwrap_err();
    assert!(matches!(error, SnapshotError::Inexact { .. }), "{error}");
}

/// A13: a stream that ends early leaves what was there, and nothing else.
#[test]
fn a13_a_stream_that_is_cut_anywhere_never_becomes_visible() {
    let (java, _) = CAPTURED[1];
    let mut small = super::new_writer();
    super::create(&mut small, "/a", Some(b"data"), super::PLAIN);
    let checked = sent(&small, Form::Checked);
    for (stream, zxid, form) in
        [(java, CAPTURED_AT, Form::Java), (&checked, small.last_zxid(), Form::Checked)]
    {
        let dir = tempfile::tempdir().unwrap();
        for end in 0..stream.len() {
            let incoming = incoming(dir.path(), zxid, form);
            let error = receive(&stream[..end], &incoming).err().unwrap();
            assert!(matches!(error, SnapshotError::Damaged { .. }), "cut at {end}: {error}");
            assert!(error.to_string().contains("at offset"), "{error}");
            assert!(is_bare(dir.path()), "cut at {end}");
        }
    }
}

/// A13: whatever a crash before the rename leaves, the older snapshot is what a restart finds, and
/// the next one makes room for itself.
#[test]
fn a13_what_is_not_renamed_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let older = sample();
    write_now(dir.path(), &older);
    let mut newer = sample();
    apply(&mut newer, &Txn::Delete { path: "/e", by_reaper: false });
    let zxid = newer.last_zxid();
    write_now(dir.path(), &newer);
    let name = directory::name(zxid);
    let unfinished = dir.path().join(format!("unfinished.{name}"));
    fs::rename(dir.path().join(name), &unfinished).unwrap();
    assert_eq!(load_newest(dir.path()).zxid, older.last_zxid());
    let stream = sent(&newer, Form::Checked);
    receive(&stream[..], &incoming(dir.path(), zxid, Form::Checked)).unwrap();
    assert!(!unfinished.exists());
    check_same(&load_newest(dir.path()), &newer);
}

#[test]
fn every_flipped_bit_of_a_checked_stream_is_an_error() {
    let mut small = super::new_writer();
    super::create(&mut small, "/a", Some(b"data"), super::PLAIN);
    let sound = sent(&small, Form::Checked);
    let dir = tempfile::tempdir().unwrap();
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        // The text behind the last seal is neither covered nor looked at.
        let free = at == sound.len() - 1;
        let incoming = incoming(dir.path(), small.last_zxid(), Form::Checked);
        assert_eq!(receive(&bytes[..], &incoming).is_ok(), free, "byte {at} of {}", sound.len());
    }
}

#[test]
fn a_checked_stream_is_of_the_zxid_that_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let writer = sample();
    let stream = sent(&writer, Form::Checked);
    let other = writer.last_zxid().next().unwrap();
    let error = receive(&stream[..], &incoming(dir.path(), other, Form::Checked)).err().unwrap();
    assert!(error.to_string().contains("it is the state at"), "{error}");
    assert!(is_bare(dir.path()));
}

#[test]
fn hostile_counts_and_lengths_are_errors_and_allocate_nothing() {
    let negative = (-2_i32).to_be_bytes();
    let huge = i32::MAX.to_be_bytes();
    let none = 0_i32.to_be_bytes();
    let streams: [Vec<u8>; 6] = [
        negative.to_vec(),
        huge.to_vec(),
        [&none[..], &huge].concat(),
        [&none[..], &none, &huge, b"short"].concat(),
        [&none[..], &none, &negative].concat(),
        // No root, and the end at once.
        [&none[..], &none, b"\0\0\0\x01/\0\0\0\x0aBenWasHere"].concat(),
    ];
    let dir = tempfile::tempdir().unwrap();
    for stream in streams {
        let incoming = incoming(dir.path(), CAPTURED_AT, Form::Java);
        let error = receive(&stream[..], &incoming).err().unwrap();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
        assert!(is_bare(dir.path()));
    }
    // Another signature than Apache's, at its place.
    let mut stream = CAPTURED[0].0.to_vec();
    *stream.last_mut().unwrap() = b'E';
    let incoming = incoming(dir.path(), CAPTURED_AT, Form::Java);
    let error = receive(&stream[..], &incoming).err().unwrap();
    assert!(error.to_string().contains("signature"), "{error}");
}

#[test]
fn what_is_older_than_a_sound_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let older = sample();
    let mut newer = sample();
    apply(&mut newer, &Txn::Delete { path: "/e", by_reaper: false });
    write_now(dir.path(), &newer);
    let stream = sent(&older, Form::Java);
    let incoming = incoming(dir.path(), older.last_zxid(), Form::Java);
    let error = receive(&stream[..], &incoming).err().unwrap();
    assert!(matches!(error, SnapshotError::Older { .. }), "{error}");
    // One that is not sound counts for nothing.
    let path = dir.path().join(directory::name(newer.last_zxid()));
    fs::write(path.join("manifest"), b"damaged").unwrap();
    receive(&stream[..], &incoming).unwrap();
    assert_eq!(load_newest(dir.path()).zxid, older.last_zxid());
}

#[test]
fn a_snapshot_of_the_same_zxid_makes_room_and_an_exact_one_replaces_a_fuzzy_one() {
    let dir = tempfile::tempdir().unwrap();
    let writer = sample();
    let mut other = sample();
    let last = other.last_zxid();
    let zxid = writer.last_zxid();
    assert_eq!(zxid, last);
    apply(&mut other, &Txn::Delete { path: "/e", by_reaper: false });
    // A leader's fuzzy state at the same zxid holds a later change.
    let mut stream = Vec::new();
    send(other.tree(), other.last_zxid(), Some(other.digest()), &[], Form::Java, &mut stream)
        .unwrap();
    write_now(dir.path(), &writer);
    receive(&stream[..], &incoming(dir.path(), zxid, Form::Java)).unwrap();
    let loaded = load_newest(dir.path());
    assert_eq!((loaded.digest, loaded.is_fuzzy), (other.digest(), true));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the other one is gone");
    // A snapshot of ours at that version is exact.
    write_now(dir.path(), &writer);
    let loaded = load_newest(dir.path());
    assert_eq!((loaded.digest, loaded.is_fuzzy), (writer.digest(), false));
}
