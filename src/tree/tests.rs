//! The tree as a whole: against Apache's log, against a model, and under concurrent readers.

mod apache;
mod model;
mod scenarios;
mod stress;

use crate::time::Time;
use crate::tree::writer::{TreeConfig, Writer};
use crate::wire::acl::EncodedAcl;
use crate::wire::txn::{CreateKind, CreateTxn, Txn, TxnHeader};
use crate::zxid::Zxid;

const CONFIG: TreeConfig = TreeConfig { seed: 42, extended_types: true };

fn writer() -> Writer {
    Writer::new(CONFIG, Time::from_nanos(0))
}

fn zxid(counter: u32) -> Zxid {
    Zxid::new(1, counter)
}

fn header(counter: u32, session: i64) -> TxnHeader {
    let time_ms = 1_700_000_000_000 + i64::from(counter);
    TxnHeader { session, cxid: 0, zxid: zxid(counter), time_ms }
}

const PLAIN: CreateKind = CreateKind::Plain { ephemeral: false, with_stat: false };
const EPHEMERAL: CreateKind = CreateKind::Plain { ephemeral: true, with_stat: false };

fn create<'a>(path: &'a str, data: &'a [u8], kind: CreateKind) -> Txn<'a> {
    let acl = EncodedAcl::OPEN;
    Txn::Create(CreateTxn { path, data: Some(data), acl, parent_cversion: -1, kind })
}

fn set<'a>(path: &'a str, data: &'a [u8], version: i32) -> Txn<'a> {
    Txn::SetData { path, data: Some(data), version }
}

fn delete(path: &str) -> Txn<'_> {
    Txn::Delete { path, by_reaper: false }
}
