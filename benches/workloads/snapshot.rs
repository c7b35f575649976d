//! A snapshot of 10,000 znodes, written to a temporary directory and loaded from it. What the
//! kernel does is not counted; how long a large one takes is `benches/snapshot.rs`.

use std::sync::Arc;

use ringkeeper::snapshot::directory;
use ringkeeper::snapshot::frame::Pace;
use ringkeeper::snapshot::load::{LoadOptions, load_newest};
use ringkeeper::snapshot::write::write_at;
use ringkeeper::time::Time;

use super::tree::{CONFIG, PER_PARENT, grown};
use super::{Meter, Row, Run};

const PARENTS: usize = 10;
const ZNODES: u32 = (PARENTS * PER_PARENT) as u32;
const OPTIONS: LoadOptions = LoadOptions { tree: CONFIG, now: Time::from_nanos(0), threads: 1 };

pub const ROWS: &[Row] = &[
    Row { name: "snapshot/write", count: ZNODES, per: "znode", make: write },
    Row { name: "snapshot/load", count: ZNODES, per: "znode", make: load },
];

fn write() -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let writer = grown(PARENTS);
    let (tree, zxid, digest) = (Arc::clone(writer.tree()), writer.last_zxid(), writer.digest());
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || {
            write_at(dir.path(), &tree, zxid, digest, &[], Pace::Full).expect("there is space");
        });
        directory::remove(dir.path(), zxid).expect("it is there");
    })
}

fn load() -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let writer = grown(PARENTS);
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    write_at(dir.path(), writer.tree(), zxid, digest, &[], Pace::Full).expect("there is space");
    Box::new(move |meter: &mut dyn Meter| {
        let mut loaded = None;
        meter.measure(&mut || {
            loaded = load_newest(dir.path(), &OPTIONS).expect("it is sound");
        });
        assert_eq!(loaded.map(|it| it.digest), Some(digest));
    })
}
