//! Whatever stands in a snapshot behind a checksum that is right: nothing panics, and no more is
//! allocated than the archive's own size calls for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::snapshot::load;

fuzz_target!(|archive: &[u8]| {
    load::check_archive(archive);
});
