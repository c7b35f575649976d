//! Whatever a leader sends, in any pieces: it is waited for, refused, or a message that is written
//! and read again as itself. Of a chunk the checksum is made right half of the time.
//!
//! ```text
//! input    0 │ packets as they come        1 │ the offset u8 and bytes of a chunk
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::wire::quorum::FromLeader;
use ringkeeper::wire::quorum::codec::encode_chunk;

/// Small, so that the fuzzer finds it.
const LIMIT: usize = 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, stream)) = bytes.split_first() else { return };
    let mut chunk = Vec::new();
    let mut rest = stream;
    if kind != 0 {
        let Some((&offset, bytes)) = stream.split_first() else { return };
        encode_chunk(u64::from(offset), bytes, &mut chunk);
        rest = &chunk;
    }
    while let Ok(Some((message, length))) = FromLeader::decode(rest, LIMIT) {
        for end in [length / 3, length / 2, length - 1] {
            assert_eq!(FromLeader::decode(&rest[..end], LIMIT), Ok(None));
        }
        let mut written = Vec::new();
        message.encode(&mut written);
        let length_again = written.len();
        assert_eq!(FromLeader::decode(&written, LIMIT), Ok(Some((message, length_again))));
        rest = &rest[length..];
    }
    assert!(chunk.is_empty() || rest.is_empty(), "a chunk is taken");
});
