//! Whatever stands in a snapshot's files, behind checksums that are right: it loads or is refused,
//! and what has loaded can be written and loaded again as itself. `snapshot_archive` is the same
//! for one archive without files.
//!
//! ```text
//! input    0 │ the bytes behind a file's header: frames, whose checksums are made
//!          1 │ (length u16 │ archive of access control lists) │ (length u16 │ of sessions) │
//!            (length u16 │ of znodes) …
//! ```
#![no_main]

mod again;
mod input;
mod scratch;

use std::path::Path;

use input::Input;
use libfuzzer_sys::fuzz_target;
use ringkeeper::snapshot::frame::{FileReader, Kind, Place};
use ringkeeper::snapshot::load::{self, LoadOptions};
use ringkeeper::snapshot::parse::{self, ZnodeParser};
use ringkeeper::snapshot::schema::{FileEntry, Manifest};
use ringkeeper::snapshot::{FRAME_ALIGN, FRAME_HEADER_BYTES, SnapshotError, directory};
use ringkeeper::snapshot::{MAGIC, VERSION};
use ringkeeper::time::Time;
use ringkeeper::tree::acl::AclId;
use ringkeeper::tree::builder::BuildError;
use ringkeeper::tree::writer::TreeConfig;
use ringkeeper::zxid::Zxid;
use rkyv::util::AlignedVec;

const ZXID: Zxid = Zxid::from_raw(0x1_0000_0007);
const OPTIONS: LoadOptions = LoadOptions {
    tree: TreeConfig { seed: 7, extended_types: true },
    now: Time::from_nanos(0),
    threads: 1,
};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    match input.byte() {
        0 => frames(input.0),
        _ => snapshot(&mut input),
    }
});

/// Frames as they come, but for their checksums.
fn frames(bytes: &[u8]) {
    let place = Place { zxid: ZXID, kind: Kind::Znodes, index: 0 };
    let mut file = header(place);
    file.extend_from_slice(bytes);
    let mut at = header(place).len();
    while let Some(frame) = file.get(at..).filter(|it| it.len() > FRAME_HEADER_BYTES) {
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let Some(archive) = frame[FRAME_HEADER_BYTES..].get(..length) else { break };
        let crc = checksum(place, at as u64, archive);
        file[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += FRAME_HEADER_BYTES + length.next_multiple_of(FRAME_ALIGN);
    }
    let dir = scratch::dir("frames");
    std::fs::write(dir.join(place.kind.file_name(0)), &file).expect("the file can be written");
    let mut reader = FileReader::open(&dir, place).expect("the header is right");
    let mut found = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        assert!(frame.offset as usize >= found);
        found = frame.offset as usize + FRAME_HEADER_BYTES + frame.archive.len();
        assert!(found <= file.len());
        load::check_archive(frame.archive);
    }
}

/// A whole snapshot of these archives, under a manifest that fits them.
fn snapshot(input: &mut Input<'_>) {
    let dir = scratch::dir("given");
    let path = dir.join(directory::name(ZXID));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a directory can be made");
    let (acls, sessions) = (input.slice(), input.slice());
    let mut znodes = Vec::new();
    while !input.0.is_empty() {
        znodes.push(input.slice());
    }
    let files = vec![
        put(&path, Kind::Acls, &[acls]),
        put(&path, Kind::Sessions, &[sessions]),
        put(&path, Kind::Znodes, &znodes),
    ];
    let mut manifest =
        Manifest { zxid: ZXID.raw(), digest: 0, nodes: 0, sessions: 0, acls: 0, files };
    count(&mut manifest, acls, sessions, &znodes);
    put_manifest(&path, &manifest);
    let result = match load::load(&path, ZXID, &OPTIONS) {
        Err(SnapshotError::NoTree { source: BuildError::Digest { actual, .. }, .. }) => {
            manifest.digest = actual;
            put_manifest(&path, &manifest);
            Ok(load::load(&path, ZXID, &OPTIONS).expect("the digest alone was wrong"))
        }
        result => result,
    };
    if let Ok(loaded) = result {
        assert_eq!(loaded.writer.digest(), loaded.digest);
        again::check(&loaded.writer, &loaded.sessions, &OPTIONS);
    }
}

/// Counts what the archives hold, as far as they can be read.
fn count(manifest: &mut Manifest, acls: &[u8], sessions: &[u8], znodes: &[&[u8]]) {
    let aligned = |bytes: &[u8]| {
        let mut aligned = AlignedVec::<FRAME_ALIGN>::new();
        aligned.extend_from_slice(bytes);
        aligned
    };
    let _ = parse::acls(&aligned(acls), |_| manifest.acls += 1);
    let _ = parse::sessions(&aligned(sessions), |_, _| manifest.sessions += 1);
    let ids = vec![AclId::OPEN; manifest.acls as usize];
    let mut parser = ZnodeParser::new(&ids);
    for archive in znodes {
        let _ = parser.archive(&aligned(archive), |_| {
            manifest.nodes += 1;
            Ok(())
        });
    }
}

fn put_manifest(path: &Path, manifest: &Manifest) {
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(manifest).expect("it can be archived");
    put(path, Kind::Manifest, &[&archive]);
}

/// Writes a file of these archives, as `snapshot/mod.rs` draws it.
fn put(path: &Path, kind: Kind, archives: &[&[u8]]) -> FileEntry {
    let place = Place { zxid: ZXID, kind, index: 0 };
    let mut file = header(place);
    for archive in archives.iter().filter(|archive| !archive.is_empty()) {
        let offset = file.len() as u64;
        file.extend((archive.len() as u32).to_le_bytes());
        file.extend(checksum(place, offset, archive).to_le_bytes());
        file.extend(offset.to_le_bytes());
        file.extend_from_slice(archive);
        file.resize(file.len().next_multiple_of(FRAME_ALIGN), 0);
    }
    std::fs::write(path.join(kind.file_name(0)), &file).expect("the file can be written");
    let (length, crc) = (file.len() as u64, crc32c::crc32c(&file));
    FileEntry { kind: kind as u32, index: 0, length, crc }
}

fn header(place: Place) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((place.kind as u32).to_le_bytes());
    header.extend(place.zxid.raw().to_le_bytes());
    header.extend(place.index.to_le_bytes());
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

fn checksum(place: Place, offset: u64, archive: &[u8]) -> u32 {
    let mut covered = (archive.len() as u32).to_le_bytes().to_vec();
    covered.extend(offset.to_le_bytes());
    covered.extend(header(place));
    covered.extend_from_slice(archive);
    crc32c::crc32c(&covered)
}
