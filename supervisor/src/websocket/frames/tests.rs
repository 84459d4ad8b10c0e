//! Frames, one rule at a time, and any bytes in any pieces.

use super::*;
use proptest::prelude::*;

const MOST: u64 = 1000;

/// A frame of `side` with this first byte.
fn frame(side: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = if side == Side::Client { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(mask | u8::try_from(short).expect("short")),
        middle @ 126..0x1_0000 => {
            bytes.push(mask | 126);
            bytes.extend(u16::try_from(middle).expect("middle").to_be_bytes());
        }
        long => {
            bytes.push(mask | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    if mask != 0 {
        bytes.extend([1, 2, 3, 4]);
    }
    bytes.extend(payload);
    bytes
}

fn judged(side: Side, bytes: &[u8]) -> Judged {
    Frames::new(side, MOST).judge(bytes, u32::MAX)
}

#[test]
fn good_frames_pass_whole() {
    for side in [Side::Client, Side::Server] {
        let all = [
            frame(side, 0x81, b"text"),
            frame(side, 0x82, &[0; 126]),
            frame(side, 0x82, &[0; 1000]),
            frame(side, 0x01, b"one "),
            frame(side, 0x89, b"ping between"),
            frame(side, 0x00, b"two "),
            frame(side, 0x80, b""),
            frame(side, 0x8a, &[0; 125]),
            frame(side, 0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let mut frames = Frames::new(side, MOST);
        let whole = frames.judge(&all, 9);
        assert_eq!((whole.pass, whole.frames), (all.len(), 9));
        assert_eq!(whole.violation, None);
        assert!(frames.at_boundary() && frames.is_closed());
        // What comes after the close is nobody's.
        let after = frames.judge(&frame(side, 0x81, b"more"), 9);
        assert_eq!((after.pass, after.violation), (0, None));
    }
}

#[test]
fn each_rule_of_the_protocol_is_kept() {
    let server = |first, payload: &[u8]| frame(Side::Server, first, payload);
    let cases: &[(&str, Vec<u8>)] = &[
        ("reserved bit 1", server(0xc1, b"")),
        ("reserved bit 3", server(0x91, b"")),
        ("opcode 3", server(0x83, b"")),
        ("opcode 11", server(0x8b, b"")),
        ("opcode 15", server(0x8f, b"")),
        ("masked", frame(Side::Client, 0x81, b"")),
        ("continuation of nothing", server(0x80, b"")),
        (
            "text within text",
            [server(0x01, b""), server(0x81, b"")].concat(),
        ),
        ("ping in pieces", server(0x09, b"")),
        ("long ping", server(0x89, &[0; 126])),
        ("half a code", server(0x88, b"\x03")),
        ("long way to say 125", b"\x82\x7e\x00\x7d".to_vec()),
        (
            "longer way to say 65535",
            b"\x82\x7f\0\0\0\0\0\0\xff\xff".to_vec(),
        ),
        ("2^63", b"\x82\x7f\x80\0\0\0\0\0\0\0".to_vec()),
    ];
    for (name, bytes) in cases {
        let found = judged(Side::Server, bytes);
        assert!(
            matches!(found.violation, Some(Violation::Protocol(_))),
            "{name}: {found:?}"
        );
    }
    let unmasked = judged(Side::Client, &server(0x81, b""));
    assert!(matches!(unmasked.violation, Some(Violation::Protocol(_))));
}

#[test]
fn bounds_hold_at_the_limit_before_a_byte_of_the_frame_passes() {
    let fits = frame(Side::Client, 0x82, &[0; 1000]);
    let over = frame(Side::Client, 0x82, &[0; 1001]);
    let both = [&fits[..], &over].concat();
    let found = judged(Side::Client, &both);
    assert_eq!(found.pass, fits.len());
    let too_big = Violation::TooBig {
        length: 1001,
        most: MOST,
    };
    assert_eq!(found.violation, Some(too_big));
    // Known from the head alone.
    let head = judged(Side::Client, &over[..8]);
    assert_eq!((head.pass, head.violation), (0, Some(too_big)));

    let three = frame(Side::Client, 0x81, b"x").repeat(3);
    let found = Frames::new(Side::Client, MOST).judge(&three, 2);
    assert_eq!((found.pass, found.frames), (three.len() / 3 * 2, 2));
    assert_eq!(found.violation, Some(Violation::TooMany));
}

/// Everything that passes when `bytes` come in pieces of `size`, as a reader would do it.
fn in_pieces(side: Side, bytes: &[u8], size: usize) -> (usize, u32, Option<Violation>) {
    let mut frames = Frames::new(side, MOST);
    let (mut held, mut passed, mut begun) = (Vec::new(), 0, 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let judged = frames.judge(&held, u32::MAX);
        held.drain(..judged.pass);
        passed += judged.pass;
        begun += judged.frames;
        if judged.violation.is_some() || frames.is_closed() {
            return (passed, begun, judged.violation);
        }
        assert!(held.len() < 14, "only a head is ever held");
    }
    (passed, begun, None)
}

fn any_frame(side: Side) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => Just(0x82_u8), 2 => Just(0x89), 1 => Just(0x02), 1 => Just(0x80), 1 => any::<u8>()
    ];
    (first, proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(move |(first, payload)| frame(side, first, &payload))
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        frames in proptest::collection::vec(any_frame(Side::Client), 0..8),
        noise in proptest::collection::vec(any::<u8>(), 0..20),
        size in 1_usize..40,
    ) {
        let mut bytes = frames.concat();
        bytes.extend(noise);
        let whole = judged(Side::Client, &bytes);
        prop_assert!(whole.pass <= bytes.len());
        let pieces = in_pieces(Side::Client, &bytes, size);
        prop_assert_eq!(pieces, (whole.pass, whole.frames, whole.violation));
    }
}
