//! Whatever a learner sends, in any pieces: it is waited for, refused, or a message that is written
//! and read again as itself, and no larger than its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::wire::quorum::FromLearner;

/// Small, so that the fuzzer finds it.
const LIMIT: usize = 1024;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((message, length))) = FromLearner::decode(rest, LIMIT) {
        // A learner that waits for the rest of a packet takes no beginning of it for a packet.
        for end in [length / 3, length / 2, length - 1] {
            assert_eq!(FromLearner::decode(&rest[..end], LIMIT), Ok(None));
        }
        match &message {
            FromLearner::Request(request) => {
                assert!(request.body.len() <= LIMIT);
                assert!(request.ids.len() <= LIMIT / 8);
            }
            FromLearner::Ping { touched, .. } => assert!(touched.len() <= LIMIT / 12),
            _ => {}
        }
        let mut written = Vec::new();
        message.encode(&mut written);
        let length_again = written.len();
        // Names may be written longer than they came: null as empty.
        assert_eq!(FromLearner::decode(&written, 2 * LIMIT), Ok(Some((message, length_again))));
        rest = &rest[length..];
    }
});
