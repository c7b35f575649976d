//! Whatever stands in a log of Apache's: it is read and replayed as an import does, or refused.
//!
//! ```text
//! input    0 │ the file as it comes
//!          1 │ (length u16 │ a transaction) …    a file of them, with checksums that are right
//! ```
#![no_main]

mod input;

use std::path::PathBuf;

use input::Input;
use libfuzzer_sys::fuzz_target;
use ringkeeper::snapshot::java_log::LogReader;
use ringkeeper::time::Time;
use ringkeeper::tree::writer::{Replay, TreeConfig, Writer};
use ringkeeper::wire::txn;
use ringkeeper::zxid::Zxid;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    if input.byte() == 0 {
        replay(input.0, Replay::Exact);
        return;
    }
    let mut file = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    let mut count = 0;
    while !input.0.is_empty() {
        let payload = input.slice();
        if payload.is_empty() {
            break;
        }
        file.extend(i64::from(adler2::adler32_slice(payload)).to_be_bytes());
        file.extend((payload.len() as i32).to_be_bytes());
        file.extend_from_slice(payload);
        file.push(b'B');
        count += 1;
    }
    for mode in [Replay::Exact, Replay::Fuzzy] {
        assert_eq!(replay(&file, mode), count);
    }
});

/// Reads all transactions, and applies those that can be; returns how many were read.
fn replay(file: &[u8], mode: Replay) -> usize {
    let Ok(Some(mut log)) = LogReader::new(file, PathBuf::from("log")) else { return 0 };
    let mut writer = Writer::new(TreeConfig { seed: 7, extended_types: true }, Time::default());
    writer.set_replay(mode);
    let mut count = 0;
    while let Ok(Some(payload)) = log.next_payload() {
        count += 1;
        let Ok(logged) = txn::decode(payload) else { continue };
        let (last, totals) = (writer.last_zxid(), writer.totals());
        match writer.apply(&logged.header, &logged.txn) {
            Ok(effects) => assert_eq!(effects.totals, writer.totals()),
            Err(_) => assert_eq!((writer.last_zxid(), writer.totals()), (last, totals)),
        }
        let last = writer.last_zxid();
        writer.reclaim(last, &[]);
    }
    assert_eq!(writer.tree().view(Zxid::MAX).compute_digest(), writer.digest());
    count
}
