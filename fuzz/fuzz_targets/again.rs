//! What has been read from anywhere can be written as our snapshot, and loads as itself.

use ringkeeper::snapshot::frame::Pace;
use ringkeeper::snapshot::load::{self, LoadOptions};
use ringkeeper::snapshot::{directory, write};
use ringkeeper::tree::writer::Writer;

use crate::scratch;

pub fn check(writer: &Writer, sessions: &[(i64, i32)], options: &LoadOptions) {
    let (tree, zxid, digest) = (writer.tree(), writer.last_zxid(), writer.digest());
    assert_eq!(tree.view(zxid).compute_digest(), digest);
    let dir = scratch::dir("again");
    let path = dir.join(directory::name(zxid));
    let _ = std::fs::remove_dir_all(&path);
    let figures = write::write_at(&dir, tree, zxid, digest, sessions, Pace::Full);
    let figures = figures.expect("a tree can be written");
    let again = load::load(&path, zxid, options).expect("what was written can be loaded");
    assert_eq!(again.figures, figures);
    assert_eq!(again.sessions, sessions);
    assert_eq!(again.writer.totals(), writer.totals());
    assert!(again.writer.owners().eq(writer.owners()));
}
