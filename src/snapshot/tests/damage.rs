//! Damaged, partial and removed snapshots.

use std::fs;
use std::path::{Path, PathBuf};

use super::{OPTIONS, PLAIN, apply, check_same, create, load_newest, new_writer, write_now};
use crate::snapshot::frame::Pace;
use crate::snapshot::load::{self, check_archive};
use crate::snapshot::write::write_at;
use crate::snapshot::{SnapshotError, directory, purge, tool};
use crate::tree::writer::Writer;
use crate::wire::txn::Txn;
use crate::zxid::Zxid;

/// A tree of some znodes.
fn small() -> Writer {
    let mut writer = new_writer();
    create(&mut writer, "/a", Some(b"one"), PLAIN);
    create(&mut writer, "/a/b", None, PLAIN);
    writer
}

/// The next version of the tree, as a snapshot in `dir`; returns its path.
fn next_snapshot(dir: &Path, writer: &mut Writer) -> PathBuf {
    apply(writer, &Txn::SetData { path: "/a", data: Some(b"more"), version: 1 });
    write_now(dir, writer);
    dir.join(directory::name(writer.last_zxid()))
}

/// Checks that the newest snapshot, at `path`, is passed over because of `file`.
fn check_skipped(dir: &Path, path: &Path, file: &Path, older: Zxid) {
    let loaded = load_newest(dir);
    assert_eq!(loaded.zxid, older);
    assert_eq!(loaded.skipped.len(), 1);
    assert_eq!(loaded.skipped[0].path, path);
    let error = loaded.skipped[0].error.to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error} names {}", file.display());
}

#[test]
fn every_damaged_file_is_named_and_the_older_snapshot_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    write_now(dir.path(), &writer);
    let older = writer.last_zxid();
    let path = next_snapshot(dir.path(), &mut writer);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 4);
    for file in files {
        let sound = fs::read(&file).unwrap();
        // A bit of every byte: of headers, archives and padding.
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            check_skipped(dir.path(), &path, &file, older);
        }
        for length in (0..sound.len()).step_by(7) {
            fs::write(&file, &sound[..length]).unwrap();
            check_skipped(dir.path(), &path, &file, older);
        }
        let longer = [&sound[..], &[0; 16]].concat();
        fs::write(&file, longer).unwrap();
        check_skipped(dir.path(), &path, &file, older);
        fs::remove_file(&file).unwrap();
        check_skipped(dir.path(), &path, &file, older);
        fs::write(&file, &sound).unwrap();
    }
    check_same(&load_newest(dir.path()), &writer);
}

#[test]
fn files_of_another_snapshot_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    let first = next_snapshot(dir.path(), &mut writer);
    let second = next_snapshot(dir.path(), &mut writer);
    let file = second.join("znodes.0000");
    let older = directory::zxid_of(first.file_name().unwrap().to_str().unwrap()).unwrap();
    fs::copy(first.join("znodes.0000"), &file).unwrap();
    check_skipped(dir.path(), &second, &file, older);

    // Another server's of the same zxid, sound in itself and of the same length.
    let other = tempfile::tempdir().unwrap();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    write_at(other.path(), writer.tree(), zxid, digest, &[(1, 1), (2, 2)], Pace::Full).unwrap();
    let other = other.path().join(directory::name(zxid));
    fs::copy(other.join("znodes.0000"), file).unwrap();
    let file = second.join("sessions");
    fs::copy(other.join("sessions"), &file).unwrap();
    check_skipped(dir.path(), &second, &file, older);
}

#[test]
fn a_snapshot_that_was_not_finished_is_never_seen_and_is_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    let path = next_snapshot(dir.path(), &mut writer);
    let name = path.file_name().unwrap().to_str().unwrap();
    for prefix in ["unfinished.", "removed."] {
        fs::rename(&path, dir.path().join(format!("{prefix}{name}"))).unwrap();
        assert!(load::load_newest(dir.path(), &OPTIONS).unwrap().is_none());
        assert_eq!(purge(dir.path(), 1).unwrap(), Zxid::ZERO);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_now(dir.path(), &writer);
    }
    // One that is being written is left alone.
    let unfinished = directory::Unfinished::create(dir.path(), Zxid::new(9, 9)).unwrap();
    assert_eq!(purge(dir.path(), 1).unwrap(), writer.last_zxid());
    assert!(unfinished.path().exists());
    // A directory without a manifest is damage, and never a tree.
    fs::remove_file(path.join("manifest")).unwrap();
    let error = load::load_newest(dir.path(), &OPTIONS).err().unwrap();
    assert!(matches!(&error, SnapshotError::NoneSound { skipped, .. } if skipped.len() == 1));
    assert!(error.to_string().contains("manifest"), "{error}");
}

#[test]
fn purging_counts_only_sound_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    let mut zxids = Vec::new();
    for _ in 0..6 {
        let path = next_snapshot(dir.path(), &mut writer);
        zxids.push(writer.last_zxid());
        // The second, the fourth and the last one are damaged.
        if zxids.len() % 2 == 0 {
            fs::write(path.join("sessions"), b"").unwrap();
        }
    }
    let left = || -> Vec<Zxid> {
        directory::list(dir.path()).unwrap().into_iter().rev().map(|(zxid, _)| zxid).collect()
    };
    // Three sound ones are there: nothing goes.
    assert_eq!(purge(dir.path(), 3).unwrap(), zxids[0]);
    assert_eq!(left(), zxids);
    assert_eq!(purge(dir.path(), 2).unwrap(), zxids[2]);
    assert_eq!(left(), zxids[2..]);
    // At least one stays, and the damaged one after it does not count.
    assert_eq!(purge(dir.path(), 0).unwrap(), zxids[4]);
    assert_eq!(left(), zxids[4..]);
    let mut verdict = Vec::new();
    let error = tool::verify(dir.path(), &mut verdict).unwrap_err();
    assert!(error.to_string().contains("sessions"), "{error}");
    assert_eq!(String::from_utf8(verdict).unwrap().matches(": sound:").count(), 1);
}

#[test]
fn an_unknown_version_is_called_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    let path = next_snapshot(dir.path(), &mut writer);
    let mut bytes = fs::read(path.join("manifest")).unwrap();
    bytes[8] = 2;
    fs::write(path.join("manifest"), bytes).unwrap();
    let error = load::load_newest(dir.path(), &OPTIONS).err().unwrap();
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn no_bytes_make_an_archive_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = small();
    let path = next_snapshot(dir.path(), &mut writer);
    for entry in fs::read_dir(&path).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let length = u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize;
        let sound = &bytes[48..48 + length];
        assert!(check_archive(sound));
        // Checksums do not stand in the way here: every byte becomes every value.
        let mut archive = sound.to_vec();
        for at in 0..length {
            for value in 0..=u8::MAX {
                archive[at] = value;
                check_archive(&archive);
            }
            archive[at] = sound[at];
        }
        for end in 0..length {
            check_archive(&sound[..end]);
        }
    }
}
