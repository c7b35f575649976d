//! Loading: the newest snapshot that is sound, built by all cores.
//!
//! A file of znodes is a piece of work: each thread takes the next one, and checks, parses and
//! inserts frame by frame.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rkyv::util::AlignedVec;

use crate::snapshot::frame::{FileReader, Kind, Pace, Place};
use crate::snapshot::parse::{self, Names, ParseError, ZnodeParser};
use crate::snapshot::schema::{ArchivedZnode, FileEntry, Manifest};
use crate::snapshot::{FRAME_ALIGN, Figures, Skipped, SnapshotError, directory};
use crate::time::Time;
use crate::tree::acl::AclId;
use crate::tree::builder::{BuildError, Builder, Loaded as LoadedZnode, Sums};
use crate::tree::digest;
use crate::tree::writer::{TreeConfig, Writer};
use crate::wire::acl::EncodedAcl;
use crate::zxid::Zxid;

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How the tree is set up.
    pub tree: TreeConfig,
    /// The moment from which containers and TTL znodes age.
    pub now: Time,
    /// How many threads build the tree; 0 for as many as there are cores.
    pub threads: usize,
}

/// A tree, as it was at the snapshot's zxid, and what was stored with it.
pub struct Loaded {
    /// The sole writer of the tree.
    pub writer: Writer,
    /// The sessions: id, and timeout in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    /// The snapshot's version: the log is replayed from the next zxid on.
    pub zxid: Zxid,
    /// Apache's digest of the tree, which has been checked.
    pub digest: u64,
    pub figures: Figures,
    /// Whether it holds parts of transactions after its zxid: the replay of the log behind it is
    /// `Replay::Fuzzy`, and digests tell from where on the tree is exact.
    pub is_fuzzy: bool,
    /// Whether it came from a leader and the log may not yet go on behind it.
    pub is_pending: bool,
    /// Newer snapshots that are not sound, the newest first. The caller reports them.
    pub skipped: Vec<Skipped>,
}

/// Loads the newest snapshot in `dir` that is sound; `None` when there is none at all.
///
/// What it means that there is none, while there is a log, is for the caller to decide.
///
/// # Errors
/// [`SnapshotError::NoneSound`] when there are some and none can be loaded, and otherwise when the
/// directory cannot be read.
pub fn load_newest(dir: &Path, options: &LoadOptions) -> Result<Option<Loaded>, SnapshotError> {
    let mut skipped = Vec::new();
    for (zxid, path) in directory::list(dir)? {
        match load(&path, zxid, options) {
            Ok(loaded) => return Ok(Some(Loaded { skipped, ..loaded })),
            Err(error) => skipped.push(Skipped { path, error }),
        }
    }
    match skipped.is_empty() {
        true => Ok(None),
        false => Err(SnapshotError::NoneSound { dir: dir.to_owned(), skipped }),
    }
}

/// Loads the snapshot at `path`, which is named after `zxid`.
///
/// # Errors
/// It is not sound, or cannot be read.
pub fn load(path: &Path, zxid: Zxid, options: &LoadOptions) -> Result<Loaded, SnapshotError> {
    let reading = Reading::open(path, zxid)?;
    let (manifest, figures) = (&reading.manifest, reading.figures);
    let mut builder = Builder::new(options.tree, reading.capacity(), options.now);
    let mut acls = Vec::new();
    reading.acls(|acl| acls.push(builder.add_acl(&acl)))?;
    let mut sessions = Vec::new();
    reading.sessions(|id, timeout_ms| sessions.push((id, timeout_ms)))?;
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let sums = build(&reading, &builder, &acls, threads)?;
    let nodes: u64 = sums.iter().map(|(_, nodes)| nodes).sum();
    reading.check_count("znodes", nodes, manifest.nodes)?;
    let sums = sums.into_iter().map(|(sums, _)| sums);
    let writer = builder
        .finish(sums, zxid, Some(manifest.digest))
        .map_err(|source| SnapshotError::NoTree { dir: path.to_owned(), source })?;
    Ok(Loaded {
        writer,
        sessions,
        zxid,
        digest: manifest.digest,
        figures,
        is_fuzzy: directory::is_fuzzy(path),
        is_pending: directory::is_pending(path),
        skipped: Vec::new(),
    })
}

/// Reads the snapshot at `path` as loading does, but for building the tree.
///
/// # Errors
/// As for [`load`].
pub fn verify(path: &Path, pace: Pace) -> Result<(Manifest, Figures), SnapshotError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let zxid = name
        .and_then(directory::zxid_of)
        .ok_or_else(|| SnapshotError::damaged(path, 0, "it is not called like a snapshot"))?;
    verify_as(path, zxid, pace)
}

/// [`verify`], of a directory of any name.
pub(super) fn verify_as(
    path: &Path,
    zxid: Zxid,
    pace: Pace,
) -> Result<(Manifest, Figures), SnapshotError> {
    let reading = Reading::open(path, zxid)?;
    let mut acls = Vec::new();
    reading.acls(|_| acls.push(AclId::OPEN))?;
    reading.sessions(|_, _| {})?;
    let (mut nodes, mut digest) = (0_u64, 0_u64);
    for entry in reading.entries(Kind::Znodes) {
        reading.znodes(entry, &acls, pace, |znode| {
            nodes += 1;
            digest = digest.wrapping_add(digest_of(&znode));
            Ok(())
        })?;
    }
    reading.check_count("znodes", nodes, reading.manifest.nodes)?;
    let expected = reading.manifest.digest;
    match digest == expected {
        true => Ok((reading.manifest, reading.figures)),
        false => {
            let source = BuildError::Digest { expected, actual: digest };
            Err(SnapshotError::NoTree { dir: path.to_owned(), source })
        }
    }
}

/// What a znode adds to the tree's digest.
fn digest_of(znode: &LoadedZnode<'_, Names<'_>>) -> u64 {
    match digest::counts(znode.path) {
        false => 0,
        true => {
            let content = digest::content(znode.path, znode.data.unwrap_or_default());
            digest::node(content, &znode.meta)
        }
    }
}

/// Whether `archive` is one of a snapshot's, as loading sees it. For fuzzing: whatever the bytes
/// are, this returns.
pub fn check_archive(archive: &[u8]) -> bool {
    let mut aligned = AlignedVec::<FRAME_ALIGN>::new();
    aligned.extend_from_slice(archive);
    let mut parser = ZnodeParser::new(&[AclId::OPEN; 4]);
    let znodes = parser.archive(&aligned, |znode| {
        std::hint::black_box(digest_of(&znode));
        std::hint::black_box(znode.children.count());
        Ok(())
    });
    let acls = parse::acls(&aligned, |acl| drop(std::hint::black_box(acl.to_list())));
    let sessions = parse::sessions(&aligned, |_, _| {});
    let manifest = parse::manifest(&aligned);
    znodes.is_ok() || acls.is_ok() || sessions.is_ok() || manifest.is_ok()
}

/// A snapshot whose manifest was read and whose files are as long as they should be.
pub(super) struct Reading {
    path: PathBuf,
    pub manifest: Manifest,
    pub figures: Figures,
}

impl Reading {
    pub fn open(path: &Path, zxid: Zxid) -> Result<Reading, SnapshotError> {
        let place = Place { zxid, kind: Kind::Manifest, index: 0 };
        let mut file = FileReader::open(path, place)?;
        let manifest = match file.next_frame()? {
            Some(frame) => parse::manifest(frame.archive),
            None => Err(ParseError::Misfit("it is empty")),
        };
        let manifest = manifest.map_err(|e| file.damaged(0, e))?;
        if file.next_frame()?.is_some() || manifest.zxid != zxid.raw() {
            return Err(file.damaged(0, "it is not the manifest of this snapshot"));
        }
        let figures = Figures {
            nodes: manifest.nodes,
            sessions: manifest.sessions,
            acls: manifest.acls,
            files: manifest.files.len() as u64,
            bytes: manifest.files.iter().fold(0, |sum, file| sum.saturating_add(file.length)),
        };
        let reading = Reading { path: path.to_owned(), manifest, figures };
        for entry in &reading.manifest.files {
            reading.open_file(entry)?.check_length(entry)?;
        }
        Ok(reading)
    }

    fn zxid(&self) -> Zxid {
        Zxid::from_raw(self.manifest.zxid)
    }

    /// How many znodes to make room for. The files are there, and each znode takes its part.
    fn capacity(&self) -> usize {
        let most = self.figures.bytes / size_of::<ArchivedZnode>() as u64;
        usize::try_from(self.manifest.nodes.min(most)).unwrap_or(0)
    }

    pub fn entries(&self, kind: Kind) -> impl Iterator<Item = &FileEntry> {
        self.manifest.files.iter().filter(move |entry| entry.kind == kind as u32)
    }

    pub fn open_file(&self, entry: &FileEntry) -> Result<FileReader, SnapshotError> {
        let kind = Kind::from_raw(entry.kind).ok_or_else(|| {
            SnapshotError::damaged(&self.path, 0, "the manifest names a file of no known kind")
        })?;
        FileReader::open(&self.path, Place { zxid: self.zxid(), kind, index: entry.index })
    }

    /// Calls `visit` for each archive of a file.
    pub fn archives(
        &self,
        entry: &FileEntry,
        mut visit: impl FnMut(&[u8]) -> Result<(), ParseError>,
    ) -> Result<FileReader, SnapshotError> {
        let mut file = self.open_file(entry)?;
        while let Some(frame) = file.next_frame()? {
            let offset = frame.offset;
            visit(frame.archive).map_err(|e| file.damaged(offset, e))?;
        }
        file.check_whole(entry)?;
        Ok(file)
    }

    fn acls(&self, mut visit: impl FnMut(EncodedAcl<'_>)) -> Result<(), SnapshotError> {
        let mut count = 0;
        for entry in self.entries(Kind::Acls) {
            self.archives(entry, |archive| {
                parse::acls(archive, |acl| {
                    count += 1;
                    visit(acl);
                })
            })?;
        }
        self.check_count("access control lists", count, self.manifest.acls)
    }

    fn sessions(&self, mut visit: impl FnMut(i64, i32)) -> Result<(), SnapshotError> {
        let mut count = 0;
        for entry in self.entries(Kind::Sessions) {
            self.archives(entry, |archive| {
                parse::sessions(archive, |id, timeout_ms| {
                    count += 1;
                    visit(id, timeout_ms);
                })
            })?;
        }
        self.check_count("sessions", count, self.manifest.sessions)
    }

    pub fn znodes(
        &self,
        entry: &FileEntry,
        acls: &[AclId],
        pace: Pace,
        mut visit: impl for<'z> FnMut(LoadedZnode<'z, Names<'z>>) -> Result<(), BuildError>,
    ) -> Result<(), SnapshotError> {
        let mut parser = ZnodeParser::new(acls);
        let file = self.archives(entry, |archive| {
            pace.pause();
            parser.archive(archive, &mut visit)
        })?;
        parser.finish().map_err(|e| file.damaged(entry.length, e))
    }

    fn check_count(&self, of: &str, found: u64, expected: u64) -> Result<(), SnapshotError> {
        if found == expected {
            return Ok(());
        }
        let what = format!("there are {found} {of}, and the manifest says {expected}");
        Err(SnapshotError::damaged(&self.path, 0, what))
    }
}

/// Builds all znodes by `threads`; each thread's sums, and how many znodes it added.
fn build(
    reading: &Reading,
    builder: &Builder,
    acls: &[AclId],
    threads: usize,
) -> Result<Vec<(Sums, u64)>, SnapshotError> {
    let entries: Vec<&FileEntry> = reading.entries(Kind::Znodes).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let (mut part, mut nodes) = (builder.part(), 0);
        while !failed.load(Ordering::Relaxed) {
            let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let done = reading.znodes(entry, acls, Pace::Full, |znode| {
                nodes += 1;
                part.add(znode)
            });
            if let Err(error) = done {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok((part.finish(), nodes))
    };
    let threads = threads.min(entries.len());
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut sums = vec![work()?];
        for other in others {
            sums.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(sums)
    })
}
