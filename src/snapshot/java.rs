//! Apache's snapshots: read into our tree, and written from it.
//!
//! ```text
//! snapshot.<hex zxid>[.gz|.snappy]    jute, compressed as the name says
//!   magic "ZKSN" i32 │ version 2 i32 │ dbid -1 i64
//!   sessions   count i32 │ (id i64 │ timeout i32) …
//!   lists      count i32 │ (number i64 │ ACL vector) …
//!   znodes     (path string │ data buffer │ list i64 │ StatPersisted 68) … │ "/" string
//!   seal       Adler32 of everything before it i64 │ "/" string
//!   digest     zxid i64 │ version 2 i32 │ digest i64 │ seal          from 3.6 on, unless disabled
//!   last zxid  zxid i64 │ seal                                       if its property says so
//! ```
//! The root's path is "", a parent stands before its children, and list -1 is the open one. Such a
//! snapshot is fuzzy: it was written while transactions were applied, and holds parts of those
//! after its zxid. The log's replay from there makes it exact, and the digests in the log prove
//! that it did. Ours are exact, so theirs of ours are, too.
//! Source: `FileSnap.java`, `SnapStream.java`, `DataTree.java`, `ReferenceCountedACLCache.java`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as Level;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::snapshot::SnapshotError;
use crate::snapshot::java_stream::{JuteReader, JuteWriter, SnappyReader, SnappyWriter};
use crate::snapshot::load::LoadOptions;
use crate::tree::Tree;
use crate::tree::acl::AclId;
use crate::tree::builder::{Builder, Loaded as LoadedZnode, Sums};
use crate::tree::record::Meta;
use crate::tree::view::Node;
use crate::tree::writer::Writer;
use crate::wire::acl::{Acl, EncodedAcl, Id, Perms};
use crate::wire::jute::Write as _;
use crate::wire::txn::DIGEST_VERSION;
use crate::zxid::Zxid;

/// "ZKSN".
const MAGIC: i32 = i32::from_be_bytes(*b"ZKSN");
const VERSION: i32 = 2;
const DB_ID: i64 = -1;
/// The open list's number, which stands in no table.
const OPEN_LIST: i64 = -1;
/// The directory below dataDir and dataLogDir that holds the files.
pub const VERSION_DIR: &str = "version-2";

/// How the file is compressed (`zookeeper.snapshot.compression.method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
}

impl Compression {
    fn of_extension(extension: &str) -> Option<Compression> {
        match extension {
            "" => Some(Compression::None),
            "gz" => Some(Compression::Gzip),
            "snappy" => Some(Compression::Snappy),
            _ => None,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }
}

/// A snapshot of Apache's as it stands in its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JavaFile {
    pub zxid: Zxid,
    pub path: PathBuf,
}

/// The files in `dir` whose names begin with `prefix` and go on with a zxid in hexadecimal digits,
/// the oldest first, each with what follows its zxid. A missing directory has none.
pub(super) fn list(dir: &Path, prefix: &str) -> Result<Vec<(JavaFile, String)>, SnapshotError> {
    let error = |e| SnapshotError::io("list", dir, 0, e);
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let (hex, extension) = rest.split_once('.').unwrap_or((rest, ""));
        let Ok(raw) = i64::from_str_radix(hex, 16) else { continue };
        if raw >= 0 && entry.file_type().map_err(error)?.is_file() {
            let file = JavaFile { zxid: Zxid::from_raw(raw), path: entry.path() };
            files.push((file, extension.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// Apache's snapshots below `data_dir`, the newest first.
pub fn snapshots(data_dir: &Path) -> Result<Vec<JavaFile>, SnapshotError> {
    let files = list(&data_dir.join(VERSION_DIR), "snapshot.")?;
    let known =
        |(_, extension): &(JavaFile, String)| Compression::of_extension(extension).is_some();
    Ok(files.into_iter().rev().filter(known).map(|(file, _)| file).collect())
}

/// A tree as a fuzzy snapshot has it.
pub struct Fuzzy {
    /// The sole writer of the tree, at the zxid of the snapshot's name.
    pub writer: Writer,
    /// Sessions by id, with their timeouts in milliseconds.
    pub sessions: BTreeMap<i64, i32>,
    /// A zxid not before the end of the fuzziness, and the digest there, where the file has them.
    pub digest: Option<(Zxid, u64)>,
    /// How many znodes name a list that is not in the table: lists that transactions made while
    /// the snapshot was written. Such a znode permits nothing to anybody until the replay sets its
    /// list.
    pub unknown_lists: u64,
}

/// Reads the snapshot `file`.
///
/// # Errors
/// It is damaged or cut off, or cannot be read.
pub fn read(file: &JavaFile, options: &LoadOptions) -> Result<Fuzzy, SnapshotError> {
    let path = &file.path;
    let opened = File::open(path).map_err(|e| SnapshotError::io("open", path, 0, e))?;
    read_stream(BufReader::new(opened), file, options)
}

/// As [`read`], of the file's bytes in `stream`.
///
/// # Errors
/// As for [`read`].
pub fn read_stream<'f>(
    stream: impl Read + 'f,
    file: &'f JavaFile,
    options: &LoadOptions,
) -> Result<Fuzzy, SnapshotError> {
    let path = &file.path;
    let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
    let stream: Box<dyn Read + 'f> = match extension {
        "gz" => Box::new(BufReader::new(MultiGzDecoder::new(stream))),
        "snappy" => Box::new(SnappyReader::new(stream)),
        _ => Box::new(stream),
    };
    let mut reader = JuteReader::new(stream, path);
    let mut builder = Builder::new(options.tree, 0, options.now);
    let header = (reader.i32()?, reader.i32()?, reader.i64()?);
    if (header.0, header.1) != (MAGIC, VERSION) {
        return Err(reader.damaged("it is no snapshot of this version"));
    }
    let Body { sessions, sums, unknown_lists } = read_body(&mut reader, &mut builder)?;
    reader.seal()?;
    let digest = read_trailers(&mut reader, file.zxid)?;
    let writer = builder
        .finish_deriving([sums], file.zxid, None)
        .map_err(|source| SnapshotError::NoTree { dir: path.clone(), source })?;
    Ok(Fuzzy { writer, sessions, digest, unknown_lists })
}

/// What files and streams between servers have in common.
pub(super) struct Body {
    pub sessions: BTreeMap<i64, i32>,
    /// What was added to the builder.
    pub sums: Sums,
    /// As in [`Fuzzy`].
    pub unknown_lists: u64,
}

/// Reads sessions, lists and znodes, and adds them to `builder`.
pub(super) fn read_body(
    reader: &mut JuteReader<'_>,
    builder: &mut Builder,
) -> Result<Body, SnapshotError> {
    let sessions = read_sessions(reader)?;
    let lists = Lists::read(reader, builder)?;
    let mut part = builder.part();
    let unknown_lists = read_znodes(reader, &lists, |znode| part.add(znode))?;
    Ok(Body { sessions, sums: part.finish(), unknown_lists })
}

fn read_sessions(reader: &mut JuteReader<'_>) -> Result<BTreeMap<i64, i32>, SnapshotError> {
    let mut sessions = BTreeMap::new();
    for _ in 0..reader.count()? {
        sessions.insert(reader.i64()?, reader.i32()?);
    }
    Ok(sessions)
}

/// The table of access control lists.
struct Lists {
    ids: BTreeMap<i64, AclId>,
    /// For a znode whose list is not in the table.
    nobody: AclId,
}

impl Lists {
    fn read(reader: &mut JuteReader<'_>, builder: &mut Builder) -> Result<Lists, SnapshotError> {
        let id = Id { scheme: "world".into(), id: "anyone".into() };
        let nobody = EncodedAcl::from_list(&[Acl { perms: Perms(0), id }]);
        let mut lists = Lists { ids: BTreeMap::new(), nobody: builder.add_acl(&nobody) };
        lists.ids.insert(OPEN_LIST, AclId::OPEN);
        for _ in 0..reader.count()? {
            let number = reader.i64()?;
            let mut list = Vec::new();
            for _ in 0..reader.count()? {
                let perms = Perms(reader.i32()?);
                let id = Id { scheme: reader.string()?, id: reader.string()? };
                list.push(Acl { perms, id });
            }
            lists.ids.insert(number, builder.add_acl(&EncodedAcl::from_list(&list)));
        }
        Ok(lists)
    }
}

/// Adds all znodes; returns how many have a list that is not there.
fn read_znodes(
    reader: &mut JuteReader<'_>,
    lists: &Lists,
    mut add: impl FnMut(
        LoadedZnode<'_, std::iter::Empty<&'static str>>,
    ) -> Result<(), crate::tree::builder::BuildError>,
) -> Result<u64, SnapshotError> {
    let mut unknown = 0;
    loop {
        let path = reader.string()?;
        if path == "/" {
            return Ok(unknown);
        }
        let path = if path.is_empty() { "/" } else { &path };
        let data = reader.buffer()?;
        let acl = match lists.ids.get(&reader.i64()?) {
            Some(acl) => *acl,
            None => {
                unknown += 1;
                lists.nobody
            }
        };
        let meta = read_meta(reader, acl)?;
        let (data, children) = (data.as_deref(), std::iter::empty());
        add(LoadedZnode { path, data, meta, children }).map_err(|e| reader.damaged(e))?;
    }
}

fn read_meta(reader: &mut JuteReader<'_>, acl: AclId) -> Result<Meta, SnapshotError> {
    Ok(Meta {
        zxid: Zxid::ZERO,
        czxid: Zxid::from_raw(reader.i64()?),
        mzxid: Zxid::from_raw(reader.i64()?),
        ctime_ms: reader.i64()?,
        mtime_ms: reader.i64()?,
        version: reader.i32()?,
        cversion: reader.i32()?,
        aversion: reader.i32()?,
        owner: reader.i64()?,
        pzxid: Zxid::from_raw(reader.i64()?),
        acl,
    })
}

/// The digest, if the file has one that can be compared, and the last zxid, if it has that.
fn read_trailers(
    reader: &mut JuteReader<'_>,
    zxid: Zxid,
) -> Result<Option<(Zxid, u64)>, SnapshotError> {
    if reader.is_at_end()? {
        return Ok(None);
    }
    let at = Zxid::from_raw(reader.i64()?);
    let adler = reader.checksum();
    let version = reader.i32()?;
    if version == 0 {
        // Not a digest's version but the upper half of a seal: without digests, the last zxid
        // stands alone.
        reader.finish_seal(adler)?;
        return Ok(None);
    }
    if version < DIGEST_VERSION {
        // The first digests were hexadecimal text over other fields.
        reader.string()?;
        reader.seal()?;
        return Ok(None);
    }
    let digest = reader.i64()?.cast_unsigned();
    reader.seal()?;
    if !reader.is_at_end()? {
        reader.i64()?;
        reader.seal()?;
    }
    // A digest from before the snapshot's zxid is of another epoch's end, and zero is of nothing.
    let comparable = version == DIGEST_VERSION && at >= zxid && at > Zxid::ZERO;
    Ok(comparable.then_some((at, digest)))
}

/// Writes the tree at `zxid`, whose digest is `digest`, as a snapshot of Apache's below `data_dir`,
/// and returns its path when it is durable.
///
/// # Errors
/// Whatever it is, no file is left behind that Apache would take for a snapshot.
pub fn write(
    data_dir: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
    compression: Compression,
) -> Result<PathBuf, SnapshotError> {
    let dir = data_dir.join(VERSION_DIR);
    std::fs::create_dir_all(&dir).map_err(|e| SnapshotError::io("create", &dir, 0, e))?;
    let name = format!("snapshot.{:x}{}", zxid.raw(), compression.extension());
    let (path, unfinished) = (dir.join(&name), dir.join(format!("unfinished.{name}")));
    let written =
        write_file(&unfinished, tree, zxid, digest, sessions, compression).and_then(|()| {
            std::fs::rename(&unfinished, &path)
                .and_then(|()| File::open(&dir)?.sync_all())
                .map_err(|e| SnapshotError::io("rename", &path, 0, e))
        });
    if let Err(error) = written {
        // What cannot be removed does not carry a snapshot's name.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(path)
}

fn write_file(
    path: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
    compression: Compression,
) -> Result<(), SnapshotError> {
    let error = |e| SnapshotError::io("write", path, 0, e);
    let file = File::create(path).map_err(error)?;
    let buffered = BufWriter::with_capacity(1 << 18, &file);
    match compression {
        Compression::None => {
            write_stream(buffered, path, tree, zxid, digest, sessions)?.flush().map_err(error)?;
        }
        Compression::Gzip => {
            let stream = GzEncoder::new(buffered, Level::fast());
            let stream = write_stream(stream, path, tree, zxid, digest, sessions)?;
            stream.finish().and_then(|mut buffered| buffered.flush()).map_err(error)?;
        }
        Compression::Snappy => {
            let stream = SnappyWriter::new(buffered).map_err(error)?;
            let stream = write_stream(stream, path, tree, zxid, digest, sessions)?;
            stream.finish().and_then(|mut buffered| buffered.flush()).map_err(error)?;
        }
    }
    file.sync_all().map_err(error)
}

fn write_stream<W: Write>(
    stream: W,
    path: &Path,
    tree: &Tree,
    zxid: Zxid,
    digest: u64,
    sessions: &[(i64, i32)],
) -> Result<W, SnapshotError> {
    let mut writer = JuteWriter::new(stream, path);
    writer.record(|out| {
        out.put_i32(MAGIC);
        out.put_i32(VERSION);
        out.put_i64(DB_ID);
    })?;
    write_body(&mut writer, tree, zxid, Some(digest), sessions)?;
    writer.seal()?;
    write_digest(&mut writer, zxid, digest)?;
    Ok(writer.into_inner())
}

/// Writes sessions, lists and znodes: what files and streams between servers have in common. Their
/// digest.
///
/// # Errors
/// The stream's, and [`SnapshotError::Inexact`] when the znodes do not have the digest.
pub(super) fn write_body<W: Write>(
    writer: &mut JuteWriter<'_, W>,
    tree: &Tree,
    zxid: Zxid,
    digest: Option<u64>,
    sessions: &[(i64, i32)],
) -> Result<u64, SnapshotError> {
    writer.record(|out| out.put_length(sessions.len()))?;
    for &(id, timeout_ms) in sessions {
        writer.record(|out| {
            out.put_i64(id);
            out.put_i32(timeout_ms);
        })?;
    }
    write_lists(writer, tree, zxid)?;
    let mut found: u64 = 0;
    for_each_znode(tree, zxid, |path, node| {
        found = found.wrapping_add(node.digest());
        writer.record(|out| put_znode(out, path, node))
    })?;
    if let Some(expected) = digest
        && found != expected
    {
        return Err(SnapshotError::Inexact { zxid, expected, found });
    }
    writer.record(|out| out.put_string("/"))?;
    Ok(found)
}

/// Writes the digest with its seal.
pub(super) fn write_digest<W: Write>(
    writer: &mut JuteWriter<'_, W>,
    zxid: Zxid,
    digest: u64,
) -> Result<(), SnapshotError> {
    writer.record(|out| {
        out.put_i64(zxid.raw());
        out.put_i32(DIGEST_VERSION);
        out.put_i64(digest.cast_signed());
    })?;
    writer.seal()
}

/// Calls `visit` with every znode, each after its parent, the root first and as "".
///
/// `visit` may wait for a disk or a peer: no view is held meanwhile, and of the tree only the
/// znodes with children that wait for their turn.
fn for_each_znode(
    tree: &Tree,
    zxid: Zxid,
    mut visit: impl FnMut(&str, &Node<'static>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let node = |path: &str| tree.view(zxid).node(path).map(|node| node.to_owned());
    let root = node("/").expect("a tree has its root");
    visit("", &root)?;
    let mut parents = vec![root];
    let mut path = String::new();
    while let Some(parent) = parents.pop() {
        for name in parent.children().iter() {
            path.clear();
            path.push_str(parent.path().trim_end_matches('/'));
            path.push('/');
            path.push_str(name);
            let Some(child) = node(&path) else { continue };
            visit(&path, &child)?;
            if !child.children().is_empty() {
                parents.push(child);
            }
        }
    }
    Ok(())
}

/// The number under which a list stands in Apache's table.
fn list_number(acl: AclId) -> i64 {
    match acl {
        AclId::OPEN => OPEN_LIST,
        acl => i64::from(acl.0),
    }
}

fn write_lists<W: Write>(
    writer: &mut JuteWriter<'_, W>,
    tree: &Tree,
    zxid: Zxid,
) -> Result<(), SnapshotError> {
    let mut used = BTreeSet::new();
    for index in 0..tree.shard_count() {
        tree.view(zxid).for_each_in_shard(index, |node| {
            used.insert(node.acl());
        });
    }
    used.remove(&AclId::OPEN);
    writer.record(|out| out.put_length(used.len()))?;
    for acl in used {
        let list = tree.acls().list(acl);
        writer.record(|out| {
            out.put_i64(list_number(acl));
            out.extend_from_slice(list.encoded.as_bytes());
        })?;
    }
    Ok(())
}

fn put_znode(out: &mut Vec<u8>, path: &str, node: &Node<'_>) {
    let meta = node.meta();
    out.put_string(path);
    out.put_buffer(node.data());
    out.put_i64(list_number(meta.acl));
    out.put_i64(meta.czxid.raw());
    out.put_i64(meta.mzxid.raw());
    out.put_i64(meta.ctime_ms);
    out.put_i64(meta.mtime_ms);
    out.put_i32(meta.version);
    out.put_i32(meta.cversion);
    out.put_i32(meta.aversion);
    out.put_i64(meta.owner);
    out.put_i64(meta.pzxid.raw());
}
