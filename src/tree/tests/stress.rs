//! One writer and several readers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const KEYS: u32 = 24;
const TXNS: u32 = 6000;
const READERS: usize = 3;

/// What the server's cores tell each other by messages.
struct Published {
    version: AtomicU64,
    /// The version that each reader is at; its own number while it moves is the older one.
    reading: [AtomicU64; READERS],
    done: AtomicBool,
}

fn raw(zxid: Zxid) -> u64 {
    zxid.raw() as u64
}

fn version(number: &AtomicU64) -> Zxid {
    Zxid::from_raw(number.load(Ordering::SeqCst) as i64)
}

/// Each transaction writes its number to every key that is there, and deletes or creates one: a
/// reader at version v must find v in every key, and those keys that their parent names.
#[test]
fn a_multi_is_seen_whole_or_not_at_all() {
    let mut writer = writer();
    writer.apply(&header(1, 0), &create("/d", b"0000000001", PLAIN)).unwrap();
    let published = Published {
        version: AtomicU64::new(raw(zxid(1))),
        reading: std::array::from_fn(|_| AtomicU64::new(raw(zxid(1)))),
        done: AtomicBool::new(false),
    };
    let tree = Arc::clone(writer.tree());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (tree, published) = (&tree, &published);
                scope.spawn(move || read(tree, published, reader))
            })
            .collect();
        for n in 2..TXNS {
            write(&mut writer, n);
            // Some are undone before anybody may see them.
            if n % 7 == 0 {
                writer.pop_above(zxid(n - 1));
                write(&mut writer, n);
            }
            published.version.store(raw(zxid(n)), Ordering::SeqCst);
            let reading = published.reading.iter().map(version).min().unwrap();
            writer.reclaim(reading, &[]);
        }
        published.done.store(true, Ordering::SeqCst);
        let reads: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(reads > READERS);
    });
    while writer.reclaim(zxid(TXNS - 1), &[]) {}
    assert_eq!(writer.journal_len(), 0);
}

fn key(n: u32) -> String {
    format!("/d/{n:03}")
}

fn write(writer: &mut Writer, n: u32) {
    let data = format!("{n:010}");
    let paths: Vec<String> = (0..KEYS).map(key).collect();
    let mut txns = vec![set("/d", data.as_bytes(), 1)];
    for (index, path) in paths.iter().enumerate() {
        match (index as u32 == n % KEYS, writer.node(path).is_some()) {
            (true, true) => txns.push(delete(path)),
            (true, false) => txns.push(create(path, data.as_bytes(), PLAIN)),
            (false, true) => txns.push(set(path, data.as_bytes(), 1)),
            (false, false) => {}
        }
    }
    writer.apply(&header(n, 0), &Txn::Multi(txns)).unwrap();
}

/// Reads until the writer is done; returns how often.
fn read(tree: &crate::tree::Tree, published: &Published, reader: usize) -> usize {
    let mut count = 0;
    while !published.done.load(Ordering::SeqCst) {
        let at = version(&published.version);
        published.reading[reader].store(raw(at), Ordering::SeqCst);
        let view = tree.view(at);
        let expected = format!("{:010}", at.counter());
        let parent = view.node("/d").unwrap();
        assert_eq!(parent.data(), Some(expected.as_bytes()));
        let names: Vec<&str> = parent.children().iter().collect();
        for n in 0..KEYS {
            let path = key(n);
            let node = view.node(&path);
            assert_eq!(node.is_some(), names.contains(&&path[3..]), "{path} at {at}");
            if let Some(node) = node {
                assert_eq!(node.data(), Some(expected.as_bytes()), "{path} at {at}");
            }
        }
        if count % 16 == 0 {
            let mut seen = 0;
            for shard in 0..tree.shard_count() {
                view.for_each_in_shard(shard, |node| seen += u32::from(node.path().len() == 6));
            }
            assert_eq!(seen as usize, names.len());
        }
        count += 1;
    }
    count
}
