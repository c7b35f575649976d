//! Whatever stands in a log or comes from a peer: nothing panics, and a transaction that was
//! read is written and read again as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::wire::txn;

fuzz_target!(|bytes: &[u8]| {
    let Ok(logged) = txn::decode(bytes) else { return };
    let mut written = Vec::new();
    txn::encode(&logged.header, &logged.txn, logged.digest, &mut written);
    assert_eq!(txn::decode(&written), Ok(logged));
});
