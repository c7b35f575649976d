//! What an operator sees of snapshots. Nothing is changed.

use std::fmt::Arguments;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::snapshot::frame::{Kind, Pace};
use crate::snapshot::load::{self, Reading};
use crate::snapshot::{Figures, SnapshotError, directory, parse};
use crate::tree::acl::AclId;
use crate::tree::builder::Loaded;
use crate::zxid::Zxid;

/// Prints the snapshot at `path`, or every one in the directory `path`, with all access control
/// lists, sessions and znodes: a line each, in the order of the files.
///
/// # Errors
/// A damaged snapshot, after all before the damage was printed.
pub fn dump(path: &Path, out: &mut dyn Write) -> Result<(), SnapshotError> {
    for (zxid, path) in snapshots(path)? {
        let reading = Reading::open(&path, zxid)?;
        print_summary(out, &path, &reading)?;
        let acl_count = print_lists(out, &reading)?;
        print_znodes(out, &reading, acl_count)?;
    }
    Ok(())
}

/// Prints the figures and the verdict of the snapshot at `path`, or of every one in the directory
/// `path`.
///
/// # Errors
/// The first damaged snapshot, after all were looked at.
pub fn verify(path: &Path, out: &mut dyn Write) -> Result<(), SnapshotError> {
    let mut first = Ok(());
    for (_, path) in snapshots(path)? {
        match load::verify(&path, Pace::Full) {
            Ok((manifest, figures)) => {
                let Figures { nodes, sessions, bytes, .. } = figures;
                let (path, digest) = (path.display(), manifest.digest);
                print(
                    out,
                    format_args!(
                        "{path}: sound: znodes {nodes} sessions {sessions} bytes {bytes} digest \
                         {digest:#018x}"
                    ),
                )?;
            }
            Err(error) => {
                print(out, format_args!("{}: DAMAGED: {error}", path.display()))?;
                first = first.and(Err(error));
            }
        }
    }
    first
}

/// The snapshot that `path` is, or those in it.
fn snapshots(path: &Path) -> Result<Vec<(Zxid, PathBuf)>, SnapshotError> {
    match path.file_name().and_then(|name| directory::zxid_of(name.to_str()?)) {
        Some(zxid) => Ok(vec![(zxid, path.to_owned())]),
        None => directory::list(path),
    }
}

fn print_summary(out: &mut dyn Write, path: &Path, reading: &Reading) -> Result<(), SnapshotError> {
    let Figures { nodes, sessions, acls, files, bytes } = reading.figures;
    print(out, format_args!("{}", path.display()))?;
    print(
        out,
        format_args!(
            "  znodes {nodes} sessions {sessions} acls {acls} files {files} bytes {bytes} digest \
             {:#018x}",
            reading.manifest.digest
        ),
    )?;
    for entry in &reading.manifest.files {
        let file = reading.open_file(entry)?;
        let name = file.path().file_name().unwrap_or_default().display();
        print(out, format_args!("  {name} bytes {} crc32c {:#010x}", entry.length, entry.crc))?;
    }
    Ok(())
}

/// Prints lists and sessions; returns how many lists there are.
fn print_lists(out: &mut dyn Write, reading: &Reading) -> Result<u32, SnapshotError> {
    let mut lines = Vec::new();
    let mut number = 0_u32;
    for entry in reading.entries(Kind::Acls) {
        reading.archives(entry, |archive| {
            parse::acls(archive, |acl| {
                lines.push(format!("  acl {number} {}", acl_text(&acl)));
                number += 1;
            })
        })?;
    }
    for entry in reading.entries(Kind::Sessions) {
        reading.archives(entry, |archive| {
            parse::sessions(archive, |id, timeout_ms| {
                lines.push(format!("  session {id:#018x} timeout {timeout_ms} ms"));
            })
        })?;
    }
    lines.iter().try_for_each(|line| print(out, format_args!("{line}")))?;
    Ok(number)
}

fn acl_text(acl: &crate::wire::acl::EncodedAcl<'_>) -> String {
    let entries = acl.to_list();
    let text = entries.iter().map(|acl| format!("{}:{}:{}", acl.id.scheme, acl.id.id, acl.perms.0));
    text.collect::<Vec<_>>().join(",")
}

fn print_znodes(
    out: &mut dyn Write,
    reading: &Reading,
    acl_count: u32,
) -> Result<(), SnapshotError> {
    // A list's number is printed, and the list's own line says what it is.
    let acls: Vec<AclId> = (0..acl_count).map(AclId).collect();
    for entry in reading.entries(Kind::Znodes) {
        let mut printed = Ok(());
        reading.znodes(entry, &acls, Pace::Full, |znode| {
            if printed.is_ok() {
                printed = print_znode(out, znode);
            }
            Ok(())
        })?;
        printed?;
    }
    Ok(())
}

fn print_znode<'a>(
    out: &mut dyn Write,
    znode: Loaded<'a, impl Iterator<Item = &'a str>>,
) -> Result<(), SnapshotError> {
    let Loaded { path, data, meta, children } = znode;
    let (data, children) = (data.map(<[u8]>::len), children.count());
    print(
        out,
        format_args!(
            "  {path:?} data {} children {children} acl {} czxid {} mzxid {} pzxid {} ctime {} \
             mtime {} version {} cversion {} aversion {} owner {:#x}",
            data.map_or("null".into(), |length| length.to_string()),
            meta.acl.0,
            meta.czxid,
            meta.mzxid,
            meta.pzxid,
            meta.ctime_ms,
            meta.mtime_ms,
            meta.version,
            meta.cversion,
            meta.aversion,
            meta.owner,
        ),
    )
}

fn print(out: &mut dyn Write, line: Arguments<'_>) -> Result<(), SnapshotError> {
    writeln!(out, "{line}").map_err(|e| SnapshotError::io("print", Path::new("the output"), 0, e))
}
