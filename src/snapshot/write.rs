//! Writing: the tree at one version, while the writer of the tree goes on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::snapshot::directory::{self, Unfinished};
use crate::snapshot::frame::{Buffer, FileWriter, Kind, Pace, Place};
use crate::snapshot::schema::{
    Acls, FileEntry, MORE_NAMES, Manifest, NULL_DATA, Session, Sessions, Znode, Znodes,
};
use crate::snapshot::{ARCHIVE_BYTES, FILE_BYTES, Figures, SnapshotError, load};
use crate::tree::Tree;
use crate::tree::acl::{AclId, AclList};
use crate::tree::view::Node;
use crate::zxid::Zxid;

/// How nice the writing thread is: with the highest number it gets about 1.5 % of a core that
/// others want, and this one leaves it a tenth, so that a snapshot ends on a busy machine too.
const NICENESS: i32 = 10;

/// Sessions of one archive: 16 bytes each.
const ARCHIVE_SESSIONS: usize = ARCHIVE_BYTES / 16;

/// Writes the snapshot of `tree` at `zxid`, whose digest is `digest`, with `sessions` (id and
/// timeout in milliseconds) into the directory `dir`, and returns when it is durable.
///
/// The caller, a background thread, has announced the version to the tree's writer
/// (`Writer::reclaim`) and names it there until this returns. The work is done by a thread of its
/// own, of low priority.
///
/// # Errors
/// Whatever it is, nothing of the snapshot is left behind and everything else is as it was.
pub fn write(
    dir: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
) -> Result<Figures, SnapshotError> {
    thread::scope(|scope| {
        let work = || {
            // On Linux this is the calling thread's. A refusal is harmless.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            write_at(dir, tree, zxid, digest, sessions, Pace::Considerate)
        };
        let thread = thread::Builder::new().name("snapshot".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| SnapshotError::io("start a thread for", dir, 0, e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As [`write()`], on the calling thread and at a pace.
///
/// # Errors
/// As for [`write()`].
pub fn write_at(
    dir: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
    pace: Pace,
) -> Result<Figures, SnapshotError> {
    if let Some(figures) = existing(dir, zxid, digest, pace)? {
        return Ok(figures);
    }
    let (unfinished, figures) = write_unfinished(dir, tree, zxid, digest, sessions, pace)?;
    unfinished.publish()?;
    Ok(figures)
}

/// Writes everything of a snapshot but its name.
pub(super) fn write_unfinished(
    dir: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
    pace: Pace,
) -> Result<(Unfinished, Figures), SnapshotError> {
    let unfinished = Unfinished::create(dir, zxid)?;
    let mut writing = Writing {
        dir: unfinished.path(),
        zxid,
        pace,
        entries: Vec::new(),
        buffer: Buffer::new(),
        figures: Figures::default(),
    };
    let mut znodes = ZnodesWriter::new(tree);
    writing.znodes(tree, &mut znodes)?;
    if znodes.digest != digest {
        return Err(SnapshotError::Inexact { zxid, expected: digest, found: znodes.digest });
    }
    writing.acls(&znodes.acls.lists)?;
    writing.sessions(sessions)?;
    let figures = writing.manifest(digest)?;
    Ok((unfinished, figures))
}

/// A sound snapshot of the same version serves as well; a damaged one makes room.
fn existing(
    dir: &Path,
    zxid: Zxid,
    digest: u64,
    pace: Pace,
) -> Result<Option<Figures>, SnapshotError> {
    let path = dir.join(directory::name(zxid));
    if !path.exists() {
        return Ok(None);
    }
    match load::verify(&path, pace) {
        Ok((manifest, figures)) if manifest.digest == digest && !directory::is_fuzzy(&path) => {
            Ok(Some(figures))
        }
        _ => directory::remove(dir, zxid).map(|()| None),
    }
}

/// A snapshot in the making.
struct Writing<'d> {
    dir: &'d Path,
    zxid: Zxid,
    pace: Pace,
    entries: Vec<FileEntry>,
    buffer: Buffer,
    figures: Figures,
}

impl Writing<'_> {
    fn begin(&mut self, kind: Kind) -> Result<FileWriter, SnapshotError> {
        let count = self.entries.iter().filter(|entry| entry.kind == kind as u32).count();
        let index = u32::try_from(count).expect("files of 16 MiB are fewer than 2^32");
        let place = Place { zxid: self.zxid, kind, index };
        FileWriter::create(self.dir, place, self.pace, std::mem::take(&mut self.buffer))
    }

    fn end(&mut self, file: FileWriter) -> Result<(), SnapshotError> {
        let (entry, buffer) = file.finish()?;
        self.figures.files += 1;
        self.figures.bytes += entry.length;
        self.entries.push(entry);
        self.buffer = buffer;
        Ok(())
    }

    fn znodes(&mut self, tree: &Tree, znodes: &mut ZnodesWriter<'_>) -> Result<(), SnapshotError> {
        let mut file = self.begin(Kind::Znodes)?;
        let mut shard: Vec<Node<'static>> = Vec::new();
        for index in 0..tree.shard_count() {
            // The view is held only as long as it takes to refer to the shard's records: what the
            // tree's writer replaces meanwhile cannot be freed.
            tree.view(self.zxid).for_each_in_shard(index, |node| shard.push(node.to_owned()));
            for node in shard.drain(..) {
                znodes.put(&node, &mut file)?;
                if file.length() >= FILE_BYTES {
                    znodes.flush(&mut file)?;
                    self.end(file)?;
                    file = self.begin(Kind::Znodes)?;
                }
            }
        }
        znodes.flush(&mut file)?;
        self.figures.nodes = znodes.count;
        self.end(file)
    }

    fn acls(&mut self, lists: &[Arc<AclList>]) -> Result<(), SnapshotError> {
        let mut file = self.begin(Kind::Acls)?;
        let mut acls = Acls::default();
        for list in lists {
            acls.bytes.extend_from_slice(list.encoded.as_bytes());
            acls.ends.push(length(acls.bytes.len()));
            if acls.bytes.len() >= ARCHIVE_BYTES {
                file.append(&acls)?;
                acls = Acls::default();
            }
        }
        file.append(&acls)?;
        self.figures.acls = lists.len() as u64;
        self.end(file)
    }

    fn sessions(&mut self, sessions: &[(i64, i32)]) -> Result<(), SnapshotError> {
        let mut file = self.begin(Kind::Sessions)?;
        for chunk in sessions.chunks(ARCHIVE_SESSIONS) {
            let session = |&(id, timeout_ms): &(i64, i32)| Session { id, timeout_ms };
            file.append(&Sessions { sessions: chunk.iter().map(session).collect() })?;
        }
        self.figures.sessions = sessions.len() as u64;
        self.end(file)
    }

    fn manifest(mut self, digest: u64) -> Result<Figures, SnapshotError> {
        let manifest = Manifest {
            zxid: self.zxid.raw(),
            digest,
            nodes: self.figures.nodes,
            sessions: self.figures.sessions,
            acls: self.figures.acls,
            files: std::mem::take(&mut self.entries),
        };
        let mut file = self.begin(Kind::Manifest)?;
        file.append(&manifest)?;
        file.finish()?;
        Ok(self.figures)
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("frames bound paths, data and lists")
}

/// Gathers znodes in archives.
struct ZnodesWriter<'t> {
    batch: Znodes,
    acls: AclNumbers<'t>,
    count: u64,
    digest: u64,
}

impl<'t> ZnodesWriter<'t> {
    fn new(tree: &'t Tree) -> ZnodesWriter<'t> {
        let acls = AclNumbers { tree, numbers: HashMap::new(), lists: Vec::new(), last: None };
        ZnodesWriter { batch: Znodes::default(), acls, count: 0, digest: 0 }
    }

    fn put(&mut self, node: &Node<'_>, file: &mut FileWriter) -> Result<(), SnapshotError> {
        self.count += 1;
        self.digest = self.digest.wrapping_add(node.digest());
        let mut znode = Znode::new(node.meta(), self.acls.number(node.acl()));
        match node.data() {
            None => znode.flags |= NULL_DATA,
            Some(data) => {
                self.batch.data.extend_from_slice(data);
                znode.data_length = length(data.len());
            }
        }
        self.batch.text.push_str(node.path());
        znode.path_length = length(node.path().len());
        for name in node.children().iter() {
            if self.is_full() && znode.names_length > 0 {
                znode.flags |= MORE_NAMES;
                self.batch.znodes.push(znode);
                self.flush(file)?;
                znode = Znode { flags: 0, ..Znode::default() };
            }
            self.batch.text.push_str(name);
            self.batch.text.push('/');
            znode.names_length += length(name.len()) + 1;
        }
        self.batch.znodes.push(znode);
        match self.is_full() {
            true => self.flush(file),
            false => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        let Znodes { znodes, text, data } = &self.batch;
        size_of_val(&znodes[..]) + text.len() + data.len() >= ARCHIVE_BYTES
    }

    /// Ends the archive.
    fn flush(&mut self, file: &mut FileWriter) -> Result<(), SnapshotError> {
        if self.batch.znodes.is_empty() {
            return Ok(());
        }
        file.append(&self.batch)?;
        self.batch.znodes.clear();
        self.batch.text.clear();
        self.batch.data.clear();
        Ok(())
    }
}

/// Numbers the lists that are in use at the version, from 0.
struct AclNumbers<'t> {
    tree: &'t Tree,
    numbers: HashMap<AclId, u32>,
    lists: Vec<Arc<AclList>>,
    last: Option<(AclId, u32)>,
}

impl AclNumbers<'_> {
    fn number(&mut self, acl: AclId) -> u32 {
        if let Some((last, number)) = self.last
            && last == acl
        {
            return number;
        }
        let next = length(self.lists.len());
        let number = *self.numbers.entry(acl).or_insert(next);
        if number == next {
            self.lists.push(self.tree.acls().list(acl));
        }
        self.last = Some((acl, number));
        number
    }
}
