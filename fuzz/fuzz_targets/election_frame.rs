//! Whatever comes to the election port, in any pieces: a greeting, then notifications in frames.
//! Each is waited for, refused, or written and read again as itself.
//!
//! ```text
//! input    0 │ a stream as it comes        1 │ a frame's contents
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::wire::election::{Greeting, Notification, decode_frame};

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, stream)) = bytes.split_first() else { return };
    if kind != 0 {
        check(stream);
        return;
    }
    let Ok(Some((greeting, length))) = Greeting::decode(stream) else { return };
    assert_eq!(Greeting::decode(&stream[..length - 1]), Ok(None));
    // One without an address is of a server of before 3.5, whose greeting is not written here.
    if !greeting.addresses.is_empty() {
        let mut written = Vec::new();
        greeting.encode(&mut written);
        let length = written.len();
        assert_eq!(Greeting::decode(&written), Ok(Some((greeting, length))));
    }
    let mut rest = &stream[length..];
    while let Ok(Some((contents, length))) = decode_frame(rest) {
        assert_eq!(decode_frame(&rest[..length - 1]), Ok(None));
        check(contents);
        rest = &rest[length..];
    }
});

fn check(contents: &[u8]) {
    let Ok(notification) = Notification::decode(contents) else { return };
    assert!(notification.config.len() <= contents.len());
    let mut written = Vec::new();
    notification.encode(&mut written);
    let (again, length) = decode_frame(&written).expect("a length").expect("all of it");
    assert_eq!(length, written.len());
    let again = Notification::decode(again).expect("what was written can be read");
    if notification.version > 1 {
        assert_eq!(again, notification);
    } else {
        // Without a configuration the version is not read.
        assert_eq!(again, Notification { version: 0, ..notification });
    }
}
