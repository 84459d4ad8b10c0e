//! A bundle as it is uploaded: zip or tar.gz.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|packed: &[u8]| fuzz::unpack_and_check(packed));
