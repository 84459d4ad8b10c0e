//! The last frame of a side: a code and a reason (RFC 6455 §7.4).

use super::frames::Side;
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;

/// Longest reason: a control frame carries 125 bytes, two of them the code.
const MAX_REASON: usize = 123;

/// Why a connection is closed, and with which number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// As in RFC 6455 §7.4.1 and the contract (§2.6).
    pub code: CloseCode,
    /// For people.
    pub reason: Cow<'static, str>,
}

/// The codes that this daemon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// All is said.
    Normal = 1000,
    /// This end goes away; come again.
    GoingAway = 1001,
    /// What came is no WebSocket.
    Protocol = 1002,
    /// A kind of message that is not taken.
    Unsupported = 1003,
    /// Over a bound on rates.
    Policy = 1008,
    /// A frame over its bound.
    TooBig = 1009,
    /// The agent failed.
    Error = 1011,
    /// A newer connection has taken this one's place.
    Replaced = 4000,
}

impl Close {
    /// With a reason; what does not fit a control frame is cut off.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }

    /// The reason as far as it fits.
    #[must_use]
    pub fn fitting(&self) -> &str {
        let mut end = self.reason.len().min(MAX_REASON);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        &self.reason[..end]
    }

    /// The frame as a `side` sends it. What a client sends is masked; nothing here needs hiding, so the mask is zero.
    #[must_use]
    pub fn frame(&self, side: Side) -> Bytes {
        let reason = self.fitting().as_bytes();
        let length = u8::try_from(reason.len() + 2).unwrap_or(125);
        let mut frame = BytesMut::with_capacity(reason.len() + 8);
        frame.put_u8(0x88);
        match side {
            Side::Client => {
                frame.put_u8(0x80 | length);
                frame.put_u32(0);
            }
            Side::Server => frame.put_u8(length),
        }
        frame.put_u16(self.code as u16);
        frame.put_slice(reason);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_rfc_has_them() {
        let close = Close::new(CloseCode::TooBig, "no");
        assert_eq!(close.frame(Side::Server)[..], *b"\x88\x04\x03\xf1no");
        assert_eq!(
            close.frame(Side::Client)[..],
            *b"\x88\x84\0\0\0\0\x03\xf1no"
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let close = Close::new(CloseCode::Error, "ü".repeat(100));
        let frame = close.frame(Side::Server);
        assert_eq!(usize::from(frame[1]), frame.len() - 2);
        assert_eq!(close.fitting(), "ü".repeat(61));
    }
}
