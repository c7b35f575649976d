//! Apache's formats: written and read back, cut off and damaged, and imported with a log.

use std::fs;
use std::path::Path;

use super::{CONFIG, OPTIONS, PLAIN, SESSIONS, acl, apply, check_same, content, sample, write_now};
use crate::log::recover::Options;
use crate::snapshot::java::{self, Compression, JavaFile};
use crate::snapshot::migrate::{self, ImportOptions, MigrateError, Places};
use crate::snapshot::{SnapshotError, load};
use crate::time::Time;
use crate::tree::writer::Writer;
use crate::wire::txn::{self, CreateKind, CreateTxn, Txn, TxnHeader};
use crate::zxid::Zxid;

const IMPORT: ImportOptions = ImportOptions {
    load: OPTIONS,
    log: Options { identity: 1, segment_bytes: 1 << 16, committed: Zxid::ZERO },
    check_digest: true,
    snapshot_alone: false,
};

fn write(dir: &Path, writer: &Writer, compression: Compression) -> JavaFile {
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let path = java::write(dir, writer.tree(), zxid, digest, &SESSIONS, compression).unwrap();
    assert_eq!(java::snapshots(dir).unwrap()[0].path, path);
    JavaFile { zxid, path }
}

#[test]
fn an_exported_snapshot_reads_back_in_every_compression() {
    let writer = sample();
    for compression in [Compression::None, Compression::Gzip, Compression::Snappy] {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), &writer, compression);
        let fuzzy = java::read(&file, &OPTIONS).unwrap();
        assert_eq!(fuzzy.sessions.into_iter().collect::<Vec<_>>(), {
            let mut sessions = SESSIONS;
            sessions.sort_unstable();
            sessions
        });
        assert_eq!(fuzzy.digest, Some((writer.last_zxid(), writer.digest())));
        assert_eq!(fuzzy.unknown_lists, 0);
        assert_eq!(fuzzy.writer.totals(), writer.totals());
        let expected = content(writer.tree(), Zxid::MAX);
        assert!(content(fuzzy.writer.tree(), Zxid::MAX) == expected, "{compression:?}");
    }
}

#[test]
fn an_older_version_is_exported_as_it_was() {
    let mut writer = sample();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let expected = content(writer.tree(), zxid);
    apply(&mut writer, &Txn::SetAcl { path: "/big", acl: acl("later"), version: 1 });
    apply(&mut writer, &Txn::Delete { path: "/e", by_reaper: false });
    let dir = tempfile::tempdir().unwrap();
    let write =
        |digest| java::write(dir.path(), writer.tree(), zxid, digest, &[], Compression::None);
    let path = write(digest).unwrap();
    let read = java::read(&JavaFile { zxid, path }, &OPTIONS).unwrap();
    assert!(content(read.writer.tree(), Zxid::MAX) == expected);
    fs::remove_dir_all(dir.path().join(java::VERSION_DIR)).unwrap();
    let error = write(digest ^ 1).unwrap_err();
    assert!(matches!(error, SnapshotError::Inexact { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path().join(java::VERSION_DIR)).unwrap().count(), 0);
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_java_snapshot_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(CONFIG, Time::default());
    super::create(&mut writer, "/a", Some(b"data"), PLAIN);
    let file = write(dir.path(), &writer, Compression::None);
    let sound = fs::read(&file.path).unwrap();
    // Digest and its seal, 33 bytes, are missing in old files: a cut before them is no damage.
    let old = sound.len() - 33;
    for end in (0..sound.len()).filter(|end| *end != old) {
        fs::write(&file.path, &sound[..end]).unwrap();
        assert!(java::read(&file, &OPTIONS).is_err(), "cut at {end}");
    }
    for at in 0..sound.len() {
        // Apache does not look at the database id, but the checksum does.
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&file.path, &bytes).unwrap();
        // The text behind the last seal is neither covered nor looked at, here as by Apache.
        let free = at == sound.len() - 1;
        assert_eq!(java::read(&file, &OPTIONS).is_ok(), free, "byte {at} of {}", sound.len());
    }
}

#[test]
fn a_last_zxid_stands_behind_the_digest_or_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &sample(), Compression::None);
    let whole = fs::read(&file.path).unwrap();
    // The digest, 20 bytes, and its seal go.
    for (kept, digest) in [(whole.len(), true), (whole.len() - 33, false)] {
        let mut bytes = [&whole[..kept], &file.zxid.raw().to_be_bytes()].concat();
        let seal = i64::from(adler2::adler32_slice(&bytes)).to_be_bytes();
        bytes.extend([&seal[..], b"\0\0\0\x01/"].concat());
        fs::write(&file.path, &bytes).unwrap();
        assert_eq!(java::read(&file, &OPTIONS).unwrap().digest.is_some(), digest);
        bytes[kept] ^= 1;
        fs::write(&file.path, &bytes).unwrap();
        assert!(java::read(&file, &OPTIONS).is_err());
    }
}

/// By its seals such a snapshot is whole. Imported, it would make a tree whose own snapshot could
/// not be loaded.
#[test]
fn a_path_with_an_empty_element_is_refused_under_a_seal_that_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(CONFIG, Time::default());
    super::create(&mut writer, "/ab", Some(b"data"), PLAIN);
    let file = write(dir.path(), &writer, Compression::None);
    let mut bytes = fs::read(&file.path).unwrap();
    let at = bytes.windows(3).position(|it| it == b"/ab").unwrap();
    bytes[at + 1] = b'/';
    // The digest, 20 bytes, goes with its seal, 13 bytes; that of the znodes stands before it.
    bytes.truncate(bytes.len() - 33 - 13);
    bytes.extend(i64::from(adler2::adler32_slice(&bytes)).to_be_bytes());
    bytes.extend(b"\0\0\0\x01/");
    let error = java::read_stream(&bytes[..], &file, &OPTIONS).err().unwrap();
    assert!(error.to_string().contains("\"//b\" is not a path"), "{error}");
}

/// A log of Apache's, in its directory.
fn write_log(dir: &Path, first: Zxid, payloads: &[Vec<u8>]) -> std::path::PathBuf {
    let mut bytes = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    for payload in payloads {
        bytes.extend(i64::from(adler2::adler32_slice(payload)).to_be_bytes());
        bytes.extend(i32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes.push(b'B');
    }
    let path = dir.join(java::VERSION_DIR).join(format!("log.{:x}", first.raw()));
    fs::write(&path, bytes).unwrap();
    path
}

/// Ten transactions and the tree after each, as a server would have logged them.
fn history(writer: &mut Writer) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for n in 0..10_i32 {
        let zxid = Zxid::from_raw(writer.last_zxid().raw() + 1);
        let header = TxnHeader { session: 70 + i64::from(n % 2), cxid: n, zxid, time_ms: 5 };
        let path = format!("/h{n}");
        let txn = match n {
            0 => Txn::CreateSession { timeout_ms: 700 },
            1 => Txn::CreateSession { timeout_ms: 701 },
            8 => Txn::CloseSession { paths: Some(vec!["/h2"]) },
            _ => Txn::Create(CreateTxn {
                path: &path,
                data: Some(b"h"),
                acl: acl(&path),
                parent_cversion: n + 10,
                kind: CreateKind::Plain { ephemeral: n == 2 || n == 3, with_stat: false },
            }),
        };
        let effects = writer.apply(&header, &txn).unwrap();
        let mut bytes = Vec::new();
        txn::encode(&header, &txn, Some(effects.totals.digest), &mut bytes);
        payloads.push(bytes);
    }
    payloads
}

#[test]
fn an_import_replays_the_log_and_an_export_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (java_dir, ours) = (dir.path().join("java"), dir.path().join("ours"));
    let mut writer = sample();
    let file = write(&java_dir, &writer, Compression::Gzip);
    let start = file.zxid.next().unwrap();
    let payloads = history(&mut writer);
    // The log is in two files, each with a torn or zero-filled end.
    let first = write_log(&java_dir, start, &payloads[..6]);
    let whole = fs::read(&first).unwrap();
    fs::write(&first, [&whole[..], &payloads[6][..20]].concat()).unwrap();
    let second = write_log(&java_dir, Zxid::from_raw(start.raw() + 6), &payloads[6..]);
    let whole = fs::read(&second).unwrap();
    fs::write(&second, [&whole[..], &[0; 5000]].concat()).unwrap();
    // A newer snapshot that is damaged is passed over.
    let damaged = java_dir.join(java::VERSION_DIR).join("snapshot.7fff");
    fs::write(&damaged, b"ZKSN").unwrap();

    let java = Places { data: &java_dir, log: &java_dir };
    let (data, log) = (ours.join("data"), ours.join("log"));
    let ours = Places { data: &data, log: &log };
    let imported = migrate::import(java, ours, &IMPORT).unwrap();
    assert_eq!((imported.zxid, imported.digest), (writer.last_zxid(), writer.digest()));
    assert_eq!((imported.replayed, imported.digests_checked), (10, 10));
    assert_eq!(imported.skipped.len(), 1);
    let loaded = load::load_newest(&data, &OPTIONS).unwrap().unwrap();
    check_same(&loaded, &writer);
    assert_eq!(loaded.sessions, [(9, 4000), (71, 701), (0x1000_0000_0000_0001, 30_000)]);
    let log_held = crate::log::recover::open(&log, IMPORT.log).unwrap();
    assert_eq!(log_held.last(), writer.last_zxid());
    drop(log_held);

    let again = migrate::import(java, ours, &IMPORT).unwrap_err();
    assert!(matches!(again, MigrateError::NotEmpty { .. }), "{again}");
    let back = dir.path().join("back");
    let path = migrate::export(ours, &back, &IMPORT, Compression::None).unwrap();
    let read = java::read(&JavaFile { zxid: writer.last_zxid(), path }, &OPTIONS).unwrap();
    assert!(content(read.writer.tree(), Zxid::MAX) == content(writer.tree(), Zxid::MAX));
}

/// A backup is a snapshot alone; anywhere else a log that does not reach it is somewhere else.
#[test]
fn a_snapshot_without_a_log_is_imported_only_where_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let java_dir = dir.path().join("java");
    let theirs = Places { data: &java_dir, log: &java_dir };
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let ours = Places { data: &data, log: &log };
    let writer = sample();
    write(&java_dir, &writer, Compression::None);
    let refused = migrate::import(theirs, ours, &IMPORT).unwrap_err();
    assert!(matches!(refused, MigrateError::NoLog { .. }), "{refused}");
    let alone = ImportOptions { snapshot_alone: true, ..IMPORT };
    let imported = migrate::import(theirs, ours, &alone).unwrap();
    assert_eq!((imported.zxid, imported.replayed), (writer.last_zxid(), 0));
    let begun = crate::log::recover::open(&log, IMPORT.log).unwrap();
    assert_eq!((begun.last(), begun.starts_after()), (imported.zxid, imported.zxid));
}

#[test]
fn an_import_refuses_gaps_damage_and_other_digests() {
    let dir = tempfile::tempdir().unwrap();
    let java_dir = dir.path().join("java");
    let java = Places { data: &java_dir, log: &java_dir };
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let import = || migrate::import(java, Places { data: &data, log: &log }, &IMPORT).unwrap_err();
    let mut writer = sample();
    let file = write(&java_dir, &writer, Compression::Snappy);
    let start = file.zxid.next().unwrap();
    let payloads = history(&mut writer);

    let gap = [&payloads[..3], &payloads[4..]].concat();
    write_log(&java_dir, start, &gap);
    assert!(matches!(import(), MigrateError::Gap { .. }));

    let path = write_log(&java_dir, start, &payloads);
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = import();
    assert!(error.to_string().contains("log."), "{error}");

    let mut other = payloads.clone();
    let last = other[4].len() - 1;
    other[4][last] ^= 1;
    write_log(&java_dir, start, &other);
    assert!(matches!(import(), MigrateError::Digest { .. }));
    assert!(!data.exists() || fs::read_dir(&data).unwrap().count() == 0);

    fs::remove_dir_all(java_dir.join(java::VERSION_DIR)).unwrap();
    assert!(matches!(import(), MigrateError::NoSnapshot { .. }));
}

#[test]
fn our_own_snapshots_are_none_of_apaches() {
    let dir = tempfile::tempdir().unwrap();
    write_now(&dir.path().join(java::VERSION_DIR), &sample());
    assert!(java::snapshots(dir.path()).unwrap().is_empty());
}
