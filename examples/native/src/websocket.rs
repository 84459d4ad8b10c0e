//! The server's side of a WebSocket, as far as an echo needs it (RFC 6455).

use sha1::{Digest as _, Sha1};

/// What every key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The answer to a handshake with this key.
pub(crate) fn accept(key: &[u8]) -> Vec<u8> {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let accept = data_encoding::BASE64.encode(&digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// A frame to say back.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_close: bool,
}

/// The client's frame that `buffer` begins with, as the server says it, and how long it was; `None` while it is not whole.
/// A runtime lets only whole, masked frames through.
pub(crate) fn unmask(buffer: &mut [u8]) -> Option<(Frame, usize)> {
    let (&[first, second], rest) = buffer.split_first_chunk()?;
    let (length, extended) = match second & 0x7f {
        126 => {
            let length = u16::from_be_bytes(*rest.first_chunk()?);
            (usize::from(length), 2)
        }
        127 => {
            let length = u64::from_be_bytes(*rest.first_chunk()?);
            (usize::try_from(length).ok()?, 8)
        }
        short => (usize::from(short), 0),
    };
    let mask: [u8; 4] = *rest.get(extended..)?.first_chunk()?;
    let head = 2 + extended + 4;
    let size = head.checked_add(length)?;
    let payload = buffer.get_mut(head..size)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let opcode = first & 0x0f;
    let mut bytes = Vec::with_capacity(size);
    if opcode != PONG {
        bytes.push(if opcode == PING { first + 1 } else { first });
        bytes.push(second & 0x7f);
        bytes.extend_from_slice(&buffer[2..2 + extended]);
        bytes.extend_from_slice(&buffer[head..size]);
    }
    let is_close = opcode == CLOSE;
    Some((Frame { bytes, is_close }, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_unmasked_and_pings_as_pongs() {
        let mut text = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        let (frame, size) = unmask(&mut text).expect("the RFC's own example");
        assert_eq!((frame.bytes.as_slice(), size), (&b"\x81\x05Hello"[..], 11));
        assert!(unmask(&mut text[..10]).is_none());
        let mut ping = *b"\x89\x80\0\0\0\0";
        assert_eq!(unmask(&mut ping).expect("a ping").0.bytes, b"\x8a\x00");
        let mut long = [&b"\x82\xfe\x01\x00\0\0\0\0"[..], &[7; 256]].concat();
        let (frame, size) = unmask(&mut long).expect("a longer one");
        assert_eq!((frame.bytes.len(), size), (260, 264));
    }

    #[test]
    fn the_rfcs_own_key() {
        let answer = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        let text = String::from_utf8(answer).expect("text");
        assert!(text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    }
}
