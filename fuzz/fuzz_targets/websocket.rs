//! Frames of a WebSocket, from either side: never a panic, and the same judgement for any split into reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::websocket::frames::{Frames, Side, Violation};

const MOST: u64 = 4096;

/// All that passes, as a reader finds it that gets `size` bytes at a time.
fn judged(side: Side, bytes: &[u8], size: usize) -> (usize, u32, Option<Violation>) {
    let mut frames = Frames::new(side, MOST);
    let (mut held, mut passed, mut begun) = (Vec::new(), 0, 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let judged = frames.judge(&held, u32::MAX);
        assert!(judged.pass <= held.len());
        assert!(frames.left() <= MOST, "a frame over the bound passes");
        held.drain(..judged.pass);
        passed += judged.pass;
        begun += judged.frames;
        if judged.violation.is_some() || frames.is_closed() {
            return (passed, begun, judged.violation);
        }
        assert!(held.len() < 14, "more than a head is held");
    }
    (passed, begun, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[side, size], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let side = if side % 2 == 0 { Side::Client } else { Side::Server };
    let whole = judged(side, bytes, bytes.len().max(1));
    assert_eq!(judged(side, bytes, usize::from(size).max(1)), whole);
});
