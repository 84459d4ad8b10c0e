//! A packet from the broker to the launcher, and back: read or refused, never more. (What the launcher does with a readable
//! order is for its own tests; here it is about bytes.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::launcher::message::{FromLauncher, Ordered};

fuzz_target!(|packet: &[u8]| {
    if let Ok(order) = postcard::from_bytes::<Ordered>(packet) {
        let written = postcard::to_stdvec(&order).expect("writable");
        assert_eq!(postcard::from_bytes::<Ordered>(&written).expect("readable"), order);
    }
    if let Ok(reply) = postcard::from_bytes::<FromLauncher>(packet) {
        let written = postcard::to_stdvec(&reply).expect("writable");
        assert_eq!(postcard::from_bytes::<FromLauncher>(&written).expect("readable"), reply);
    }
});
