//! Random histories: a snapshot at any point, and the transactions after it, make the same tree.

use proptest::prelude::*;

use super::{OPTIONS, SESSIONS, acl, check_same, new_writer};
use crate::snapshot::frame::Pace;
use crate::snapshot::load;
use crate::snapshot::write::write_at;
use crate::wire::acl::EncodedAcl;
use crate::wire::stat::Lifetime;
use crate::wire::txn::{self, CreateKind, CreateTxn, Txn, TxnHeader};
use crate::zxid::Zxid;

/// What may be tried on a small set of paths; what does not fit the tree is left out.
#[derive(Clone, Debug)]
enum Step {
    Create { path: usize, kind: u8, session: i64, size: usize },
    Delete { path: usize },
    Set { path: usize, size: usize },
    SetAcl { path: usize, id: u8 },
    Close { session: i64 },
}

fn path(index: usize) -> String {
    let names = ["a", "b", "\u{e9}"];
    let (first, second, third) = (index % 3, index / 3 % 4, index / 12 % 4);
    let mut path = format!("/{}", names[first]);
    for level in [second, third] {
        if level > 0 {
            path = format!("{path}/{}", names[level - 1]);
        }
    }
    path
}

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..48_usize;
    let size = || prop_oneof![Just(0), 1..40_usize, Just(3000)];
    prop_oneof![
        6 => (path(), 0..5_u8, 1..4_i64, size())
            .prop_map(|(path, kind, session, size)| Step::Create { path, kind, session, size }),
        2 => path().prop_map(|path| Step::Delete { path }),
        3 => (path(), size()).prop_map(|(path, size)| Step::Set { path, size }),
        1 => (path(), 0..3_u8).prop_map(|(path, id)| Step::SetAcl { path, id }),
        1 => (1..4_i64).prop_map(|session| Step::Close { session }),
    ]
}

/// The step as a transaction's bytes, if the tree takes it.
fn logged(step: &Step, zxid: Zxid, writer: &crate::tree::writer::Writer) -> Option<Vec<u8>> {
    let (text, data) = match step {
        Step::Create { path: index, size, .. } | Step::Set { path: index, size } => {
            (path(*index), Some(vec![b'd'; *size]))
        }
        Step::Delete { path: index } | Step::SetAcl { path: index, .. } => (path(*index), None),
        Step::Close { .. } => (String::new(), None),
    };
    let data = data.as_deref();
    let (mut session, node) = (0, writer.node(&text));
    let txn = match step {
        Step::Create { kind, session: owner, .. } => {
            let (parent, _) = crate::wire::path::split(&text).unwrap();
            let parent = writer.node(parent)?;
            let lifetime = Lifetime::of_owner(parent.owner(), true);
            if node.is_some() || matches!(lifetime, Lifetime::Ephemeral(_)) {
                return None;
            }
            session = *owner;
            let plain = |ephemeral| CreateKind::Plain { ephemeral, with_stat: *kind == 0 };
            let (kind, data) = match kind {
                0 | 1 => (plain(false), data),
                2 => (plain(true), None),
                3 => (CreateKind::Container, data),
                _ => (CreateKind::Ttl(9), data),
            };
            let parent_cversion = parent.meta().cversion + 1;
            let acl = EncodedAcl::OPEN;
            Txn::Create(CreateTxn { path: &text, data, acl, parent_cversion, kind })
        }
        Step::Delete { .. } => {
            node.filter(|node| node.child_count() == 0)?;
            Txn::Delete { path: &text, by_reaper: false }
        }
        Step::Set { .. } => Txn::SetData { path: &text, data, version: node?.meta().version + 1 },
        Step::SetAcl { id, .. } => {
            let version = node?.meta().aversion + 1;
            Txn::SetAcl { path: &text, acl: acl(&id.to_string()), version }
        }
        Step::Close { session: ended } => {
            session = *ended;
            Txn::CloseSession { paths: None }
        }
    };
    let mut bytes = Vec::new();
    let time_ms = 5_000 + zxid.raw();
    txn::encode(&TxnHeader { session, cxid: 1, zxid, time_ms }, &txn, None, &mut bytes);
    Some(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_at_any_point_and_the_rest_of_the_log_make_the_live_tree(
        steps in prop::collection::vec(step(), 1..80),
        cut in 0..80_usize,
    ) {
        let mut live = new_writer();
        let (mut log, mut digests) = (Vec::new(), vec![live.digest()]);
        for step in &steps {
            let zxid = Zxid::from_raw(live.last_zxid().raw() + 1);
            if let Some(bytes) = logged(step, zxid, &live) {
                let logged = txn::decode(&bytes).unwrap();
                live.apply(&logged.header, &logged.txn).unwrap();
                log.push(bytes);
                digests.push(live.digest());
            }
        }
        let cut = cut.min(log.len());
        let dir = tempfile::tempdir().unwrap();
        let zxid = Zxid::from_raw(cut as i64);
        // The version lies in the past of the tree: nothing was reclaimed.
        write_at(dir.path(), live.tree(), zxid, digests[cut], &SESSIONS, Pace::Full).unwrap();
        let mut loaded = load::load_newest(dir.path(), &OPTIONS).unwrap().unwrap();
        prop_assert_eq!(loaded.zxid, zxid);
        for (bytes, digest) in log[cut..].iter().zip(&digests[cut + 1..]) {
            let logged = txn::decode(bytes).unwrap();
            let effects = loaded.writer.apply(&logged.header, &logged.txn).unwrap();
            prop_assert_eq!(effects.totals.digest, *digest);
        }
        loaded.zxid = live.last_zxid();
        loaded.digest = loaded.writer.digest();
        check_same(&loaded, &live);
    }
}
