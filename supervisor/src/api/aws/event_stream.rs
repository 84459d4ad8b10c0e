//! `application/vnd.amazon.eventstream`: the framing of answers that are a stream of typed messages (contract §2.3).
//!
//! ```text
//! total length u32 · headers' length u32 · CRC-32 of these 8 bytes
//! headers: name's length u8 · name · 7 (a string) · value's length u16 · value
//! payload
//! CRC-32 of everything before
//! ```
//!
//! All numbers are big-endian. Only strings are needed as headers here, and nothing is ever read in this format: sixty
//! lines, where the AWS crate for it would bring ten others along. Its reader in the tests is botocore.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

/// Of answers in this format.
pub(super) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Of a header whose value is a string.
const STRING: u8 = 7;

/// Two lengths and their CRC.
const PRELUDE: usize = 12;

/// One event of the one kind that answers of ours have.
#[must_use]
pub fn event(payload: &Value) -> Bytes {
    message(
        &[
            (":message-type", "event"),
            (":event-type", "chunk"),
            (":content-type", "application/json"),
        ],
        payload.to_string().as_bytes(),
    )
}

/// The end of a stream that failed; `kind` is an AWS error's name as a member of the model (`runtimeClientError`).
pub(super) fn exception(kind: &str, text: &str) -> Bytes {
    message(
        &[
            (":message-type", "exception"),
            (":exception-type", kind),
            (":content-type", "application/json"),
        ],
        json!({"message": text}).to_string().as_bytes(),
    )
}

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let of_headers: usize = headers
        .iter()
        .map(|(name, value)| 4 + name.len() + value.len())
        .sum();
    let total = PRELUDE + of_headers + payload.len() + 4;
    let mut out = BytesMut::with_capacity(total);
    // Payloads are pieces of bounded size, headers are named above.
    out.put_u32(u32::try_from(total).unwrap_or(u32::MAX));
    out.put_u32(u32::try_from(of_headers).unwrap_or(u32::MAX));
    out.put_u32(crc32fast::hash(&out));
    for (name, value) in headers {
        out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.put_slice(name.as_bytes());
        out.put_u8(STRING);
        out.put_u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        out.put_slice(value.as_bytes());
    }
    out.put_slice(payload);
    out.put_u32(crc32fast::hash(&out));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the format's specification: a message without headers and payload, and one with both.
    #[test]
    fn the_messages_of_the_specification() {
        let empty = [
            0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
        ];
        assert_eq!(message(&[], b"")[..], empty);
        let with = message(&[("event-type", "a")], b"{}");
        assert_eq!(with.len(), 12 + 15 + 2 + 4);
        assert_eq!(&with[..8], [0, 0, 0, 33, 0, 0, 0, 15]);
        assert_eq!(&with[12..27], b"\x0aevent-type\x07\x00\x01a");
        assert_eq!(&with[27..29], b"{}");
    }

    #[test]
    fn both_checksums_cover_what_is_before_them() {
        for bytes in [
            event(&json!({"contentStart": {}})),
            exception("runtimeClientError", "gone"),
        ] {
            let crc = |end: usize| crc32fast::hash(&bytes[..end]).to_be_bytes();
            assert_eq!(bytes[8..12], crc(8));
            let last = bytes.len() - 4;
            assert_eq!(bytes[last..], crc(last));
            assert_eq!(
                u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize,
                bytes.len()
            );
        }
    }
}
