//! Apache 3.9.5 wrote `tests/golden/apache-3.9.5.log`, with its digest after each transaction:
//! creations of every kind, null data, ACLs, quotas, sequences, ephemerals and their session's end,
//! multis that held and one that failed, refused writes, names beyond ASCII.

use super::*;
use crate::tree::effects::Totals;
use crate::wire::stat::Stat;
use crate::wire::txn;

const LOG: &[u8] = include_bytes!("../../../tests/golden/apache-3.9.5.log");

/// The transactions' bytes: behind a header of 16, each has a checksum of 8, a length of 4, its
/// bytes, and an end mark.
fn records(log: &[u8]) -> Vec<&[u8]> {
    let mut rest = &log[16..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        records.push(&rest[12..12 + length]);
        assert_eq!(rest[12 + length], 0x42);
        rest = &rest[13 + length..];
    }
    records
}

#[test]
fn the_digest_after_each_of_apaches_transactions_is_apaches() {
    let mut writer = writer();
    let records = records(LOG);
    assert!(records.len() > 50);
    let mut before = Vec::new();
    for bytes in &records {
        let logged = txn::decode(bytes).unwrap();
        let totals = writer.totals();
        before.push((writer.last_zxid(), totals));
        if matches!(logged.txn, Txn::Delete { by_reaper: true, .. }) {
            // What `mntr` said at that time.
            assert_eq!((totals.node_count, totals.data_size), (30, 349));
            assert_eq!(totals.ephemeral_count, 0);
        }
        let effects = writer.apply(&logged.header, &logged.txn).unwrap();
        // A refused write changes nothing and is logged without a digest.
        let refused = matches!(logged.txn, Txn::Error { .. });
        assert_eq!(logged.digest.is_none(), refused);
        let expected = logged.digest.unwrap_or(effects.totals.digest);
        assert_eq!(effects.totals.digest, expected, "{:?}", logged);
        assert_eq!(writer.tree().view(Zxid::MAX).compute_digest(), expected);
    }
    undo_all(writer, before);
}

fn undo_all(mut writer: Writer, before: Vec<(Zxid, Totals)>) {
    for (zxid, totals) in before.into_iter().rev() {
        writer.pop_above(zxid);
        assert_eq!(writer.totals(), totals);
        assert_eq!(writer.tree().view(Zxid::MAX).compute_digest(), totals.digest);
    }
}

#[test]
fn the_stats_are_what_a_client_of_apache_saw() {
    let mut writer = writer();
    for bytes in records(LOG) {
        let logged = txn::decode(bytes).unwrap();
        // The client had closed before the reaper took the container.
        if matches!(logged.txn, Txn::Delete { by_reaper: true, .. }) {
            break;
        }
        writer.apply(&logged.header, &logged.txn).unwrap();
        if logged.header.zxid == Zxid::from_raw(48) {
            let stats = writer.node("/zookeeper/quota/a/zookeeper_stats").unwrap();
            assert_eq!(stats.data(), Some(&b"count=4,bytes=54"[..]));
        }
    }
    let check = |path: &str, zxids: [i64; 3], numbers: [i32; 5]| {
        let stat = writer.node(path).unwrap().stat();
        assert_eq!([stat.czxid, stat.mzxid, stat.pzxid].map(Zxid::raw), zxids, "{path}");
        let Stat { version, cversion, aversion, data_length, num_children, .. } = stat;
        assert_eq!([version, cversion, aversion, data_length, num_children], numbers, "{path}");
    };
    check("/", [0, 7, 59], [1, 15, 1, 4, 9]);
    check("/a", [2, 5, 40], [1, 4, 1, 3, 2]);
    check("/seq", [9, 26, 57], [1, 22, 0, 0, 12]);
    check("/m", [49, 49, 49], [1, 4, 0, 2, 2]);
    check("/zookeeper", [0, 0, 0], [0, -2, 0, 0, 2]);
    check("/ttl", [31, 32, 31], [1, 0, 0, 2, 0]);
    check("/cont", [28, 28, 30], [0, 2, 0, 1, 0]);
    check("/zookeeper/config", [0, 0, 0], [0, 0, -1, 0, 0]);
    assert_eq!(writer.node("/seq").unwrap().data(), None);
    assert_eq!(writer.reapable().containers().count(), 1);
    assert_eq!(writer.reapable().ttl_nodes().count(), 1);
}
