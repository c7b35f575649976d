//! A snapshot on its way from a leader to a learner (SNAP).
//!
//! ```text
//! sessions │ lists │ znodes … "/"     as in Apache's files (see `java`), without head or seal
//! signature "BenWasHere" string
//! zxid i64 │ version 2 i32 │ digest i64 │ Adler32 of everything before it i64 │ "/" string
//!                                     only between servers of ours, who have agreed on that
//! ```
//! Nothing says how long it is: it ends where it ends, and the leader's next packet follows. So the
//! receiver takes exactly the bytes that belong to it.
//!
//! Apache's leader serializes its tree while it applies transactions: what it sends is *fuzzy*, and
//! the transactions that it sends afterwards make it exact, all of them before NEWLEADER. Ours is
//! the tree at one version.
//! Source: `LearnerHandler.java`, `Learner.java` (`syncWithLeader`), `SerializeUtils.java`.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use crate::snapshot::directory;
use crate::snapshot::frame::Pace;
use crate::snapshot::java::{Body, read_body, write_body, write_digest};
use crate::snapshot::java_stream::{JuteReader, JuteWriter};
use crate::snapshot::load::{self, LoadOptions};
use crate::snapshot::{SnapshotError, write};
use crate::tree::Tree;
use crate::tree::builder::{BuildError, Builder};
use crate::tree::writer::{Replay, Writer};
use crate::wire::jute::Write as _;
use crate::wire::txn::DIGEST_VERSION;
use crate::zxid::Zxid;

/// What stands behind the tree.
const SIGNATURE: &str = "BenWasHere";
/// What errors name, since there is no file.
const STREAM: &str = "(the snapshot's stream)";
/// Bytes gathered before the stream is given them.
const BUFFER_BYTES: usize = 64 << 10;

/// What both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Apache's, to and from a server of Apache's. What comes from there is fuzzy.
    Java,
    /// Between two servers of ours: exact, with a digest and a checksum behind it.
    Checked,
}

/// Writes the tree at `zxid`, whose digest is `digest` where that is known, with `sessions` (id and
/// timeout in milliseconds) to `out`, and flushes it.
///
/// `out` may be as slow as it likes: nothing of the tree is held while it waits but the version
/// itself, which the caller has announced to the tree's writer (`Writer::reclaim`) and names there
/// until this returns.
///
/// # Errors
/// Those of `out`; and [`SnapshotError::Inexact`], after which the learner must not be told that
/// the stream is whole: the connection is closed.
pub fn send(
    tree: &Tree,
    zxid: Zxid,
    digest: Option<u64>,
    sessions: &[(i64, i32)],
    form: Form,
    out: &mut dyn Write,
) -> Result<(), SnapshotError> {
    let path = Path::new(STREAM);
    let mut writer = JuteWriter::new(BufWriter::with_capacity(BUFFER_BYTES, out), path);
    let digest = write_body(&mut writer, tree, zxid, digest, sessions)?;
    writer.record(|out| out.put_string(SIGNATURE))?;
    if form == Form::Checked {
        write_digest(&mut writer, zxid, digest)?;
    }
    writer.into_inner().flush().map_err(|e| SnapshotError::io("write", path, 0, e))
}

/// What is to be received.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Where our snapshots are: it becomes one of them.
    pub dir: &'a Path,
    /// What the SNAP packet said.
    pub zxid: Zxid,
    pub form: Form,
    pub load: LoadOptions,
}

/// What was received.
pub struct Received {
    /// The sole writer of the tree, at `zxid`. What comes from a server of Apache's is fuzzy: the
    /// writer then applies as [`Replay::Fuzzy`] until the caller sets it exact, at NEWLEADER.
    pub writer: Writer,
    /// The sessions: id, and timeout in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    pub zxid: Zxid,
    /// Apache's digest of the tree as it was received.
    pub digest: u64,
    /// Whether it holds parts of transactions after `zxid`.
    pub is_fuzzy: bool,
    /// Bytes of the stream.
    pub bytes: u64,
}

/// Reads a tree from `input`, exactly to its end, and makes a durable snapshot of it: written under
/// another name, read back from there, and then renamed. Blocks for as long as that takes.
///
/// The caller then lets the log go on behind it (`Log::reset_after`), and says so by
/// [`directory::settle`] when that is durable; a start in between completes it.
///
/// `input` is read in small pieces: let it be buffered.
///
/// # Errors
/// The stream ends early, is malformed or makes no tree, with the offset in the stream; the disk
/// refuses; or what stands in the directory is newer ([`SnapshotError::Older`]). Nothing of the
/// snapshot is left behind then, and what was there before is as it was.
pub fn receive(input: impl Read, incoming: &Incoming<'_>) -> Result<Received, SnapshotError> {
    let Incoming { dir, zxid, form, load } = *incoming;
    refuse_older(dir, zxid)?;
    let mut reader = JuteReader::new(Box::new(input), Path::new(STREAM));
    let mut builder = Builder::new(load.tree, 0, load.now);
    let Body { sessions, sums, .. } = read_body(&mut reader, &mut builder)?;
    if reader.string()? != SIGNATURE {
        return Err(reader.damaged("the signature is missing behind the tree"));
    }
    let expected = match form {
        Form::Java => None,
        Form::Checked => Some(read_digest(&mut reader, zxid)?),
    };
    let mut writer = builder
        .finish_deriving([sums], zxid, expected)
        .map_err(|source| no_tree(&reader, source))?;
    let is_fuzzy = form == Form::Java;
    if is_fuzzy {
        writer.set_replay(Replay::Fuzzy);
    }
    let sessions: Vec<(i64, i32)> = sessions.into_iter().collect();
    let (tree, digest) = (writer.tree(), writer.digest());
    let (unfinished, _) = write::write_unfinished(dir, tree, zxid, digest, &sessions, Pace::Full)?;
    unfinished.mark_pending()?;
    if is_fuzzy {
        unfinished.mark_fuzzy()?;
    }
    load::verify_as(unfinished.path(), zxid, Pace::Full)?;
    unfinished.publish_over()?;
    Ok(Received { writer, sessions, zxid, digest, is_fuzzy, bytes: reader.offset() })
}

fn no_tree(reader: &JuteReader<'_>, source: BuildError) -> SnapshotError {
    reader.damaged(format!("it makes no tree: {source}"))
}

/// What is older than a sound snapshot of ours would take back what is committed. One that is not
/// sound counts for nothing.
fn refuse_older(dir: &Path, zxid: Zxid) -> Result<(), SnapshotError> {
    let newer = directory::list(dir)?.into_iter().filter(|(newer, _)| *newer > zxid);
    for (newer, path) in newer {
        if load::verify(&path, Pace::Full).is_ok() {
            return Err(SnapshotError::Older { zxid, newer });
        }
    }
    Ok(())
}

/// The digest behind the signature, whose seal and zxid are right.
fn read_digest(reader: &mut JuteReader<'_>, zxid: Zxid) -> Result<u64, SnapshotError> {
    let (at, version) = (Zxid::from_raw(reader.i64()?), reader.i32()?);
    let digest = reader.i64()?.cast_unsigned();
    reader.seal()?;
    match (at, version) == (zxid, DIGEST_VERSION) {
        true => Ok(digest),
        false => Err(reader.damaged(format!("it is the state at {at}, not at {zxid}"))),
    }
}
