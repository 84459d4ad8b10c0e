//! What an agent answers: head and chunked body. Read the same however the bytes are split, and nothing in what goes on
//! that could end a header line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use worker_shim::invocation::body::Decoder;
use worker_shim::invocation::head::{self, Asked, Framing};

/// The body's plain bytes and whether it is complete, or nothing if it is malformed.
fn decode(framing: Framing, body: &[u8], piece: usize) -> Option<(Vec<u8>, bool)> {
    let mut decoder = Decoder::new(framing);
    let mut plain = Vec::new();
    for chunk in body.chunks(piece) {
        if decoder.is_complete() {
            break;
        }
        let mut chunk = chunk.to_vec();
        let decoded = decoder.decode(&mut chunk).ok()?;
        assert!(decoded.consumed <= chunk.len() && decoded.data.len() <= decoded.consumed);
        plain.extend_from_slice(&chunk[decoded.data]);
    }
    Some((plain, decoder.is_complete()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = head::end(bytes, 0) else {
        let _ = head::plausible(bytes);
        return;
    };
    for from in [0, end / 2, end.saturating_sub(1)] {
        assert_eq!(head::end(bytes, from), Some(end), "the end depends on where the search begins");
    }
    for (is_head, upgrade) in [(false, false), (true, false), (false, true)] {
        let Ok(parsed) = head::parse(&bytes[..end], Asked { head: is_head, upgrade }) else { continue };
        assert!((100..=999).contains(&parsed.status));
        assert!(parsed.status != 101 || upgrade);
        for (name, value) in &parsed.headers {
            assert!(!name.is_empty() && name.bytes().all(|b| b > b' ' && b != b':' && !b.is_ascii_uppercase()));
            assert!(!value.contains(['\r', '\n', '\0']));
            assert!(name != "transfer-encoding" && name != "connection");
        }
        let body = &bytes[end..];
        let whole = decode(parsed.framing, body, body.len().max(1));
        for piece in [1, 2, 7] {
            let split = decode(parsed.framing, body, piece);
            // A malformed body is malformed at some piece; what came before it depends on the pieces.
            assert_eq!(whole, split, "pieces of {piece}");
        }
    }
});
