//! Bytes to values and back: requests and replies, transactions, what peers say.

use std::hint::black_box;
use std::sync::Arc;

use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::quorum::{FromLeader, FromLearner};
use ringkeeper::wire::request::{self, Request};
use ringkeeper::wire::response::{self, EventKind};
use ringkeeper::wire::stat::Stat;
use ringkeeper::wire::txn::{self, Txn, TxnHeader};
use ringkeeper::zxid::Zxid;

use super::frames::{self, DATA};
use super::{Meter, Row, Run};

/// Frames that one run takes: enough that the loop's own cost is none.
const COUNT: u32 = 256;
const PATH: &str = "/app/config/item-0000012345";
const ZXID: Zxid = Zxid::new(3, 12_345);
const HEADER: TxnHeader =
    TxnHeader { session: 0x100_0000_0000_0001, cxid: 7, zxid: ZXID, time_ms: 1_700_000_000_000 };
/// What a peer takes in one piece, in bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;

const fn row(name: &'static str, per: &'static str, make: fn() -> Run) -> Row {
    Row { name, count: COUNT, per, make }
}

pub const ROWS: &[Row] = &[
    row("codec/decode get", "request", || decode(|out| frames::get(out, 1, PATH, false))),
    row("codec/decode set", "request", || decode(|out| frames::set(out, 1, PATH))),
    row("codec/decode create", "request", || decode(|out| frames::create(out, 1, PATH))),
    row("codec/decode multi of 8", "request", || {
        let paths: Vec<String> = (0..8).map(|n| format!("{PATH}-{n}")).collect();
        decode(move |out| frames::multi_set(out, 1, &paths))
    }),
    row("codec/encode reply to get", "reply", || {
        encode(|out, n| {
            response::put_reply(out, n, ZXID, |out| {
                response::put_data(out, Some(&DATA), &Stat::default());
            });
        })
    }),
    row("codec/encode event", "event", || {
        encode(|out, _| response::put_event(out, EventKind::NodeDataChanged, ZXID, PATH))
    }),
    row("codec/encode txn", "txn", || {
        encode(|out, n| {
            let txn = Txn::SetData { path: PATH, data: Some(&DATA), version: n };
            txn::encode(&HEADER, &txn, Some(0x1234_5678_9abc), out);
        })
    }),
    row("codec/decode txn", "txn", || {
        let mut bytes = Vec::new();
        let txn = Txn::SetData { path: PATH, data: Some(&DATA), version: 7 };
        txn::encode(&HEADER, &txn, Some(0x1234_5678_9abc), &mut bytes);
        repeat(move || {
            black_box(txn::decode(black_box(&bytes)).expect("it is whole"));
        })
    }),
    row("codec/encode proposal", "packet", || {
        let message = FromLeader::Proposal { zxid: ZXID, txn: Arc::from([7; 200]) };
        encode(move |out, _| message.encode(out))
    }),
    row("codec/decode proposal", "packet", || {
        let mut bytes = Vec::new();
        FromLeader::Proposal { zxid: ZXID, txn: Arc::from([7; 200]) }.encode(&mut bytes);
        repeat(move || {
            let decoded = FromLeader::decode(black_box(&bytes), PACKET_BYTES_MAX);
            assert!(black_box(decoded).is_ok_and(|message| message.is_some()));
        })
    }),
    row("codec/decode ack", "packet", || {
        let mut bytes = Vec::new();
        FromLearner::Ack { zxid: ZXID }.encode(&mut bytes);
        repeat(move || {
            let decoded = FromLearner::decode(black_box(&bytes), PACKET_BYTES_MAX);
            assert!(black_box(decoded).is_ok_and(|message| message.is_some()));
        })
    }),
];

fn repeat(mut work: impl FnMut() + 'static) -> Run {
    Box::new(move |meter: &mut dyn Meter| meter.measure(&mut || (0..COUNT).for_each(|_| work())))
}

fn decode(put: impl FnOnce(&mut Vec<u8>)) -> Run {
    let mut frame = Vec::new();
    put(&mut frame);
    repeat(move || {
        let (header, body) = request::decode_header(black_box(&frame[4..])).expect("a header");
        let op: OpCode = header.operation().expect("an operation");
        black_box(Request::decode(op, body).expect("a request"));
    })
}

fn encode(mut put: impl FnMut(&mut Vec<u8>, i32) + 'static) -> Run {
    let mut out = Vec::new();
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || {
            out.clear();
            (0..COUNT as i32).for_each(|n| put(black_box(&mut out), n));
        });
    })
}
