//! The canonical request: what both sides hash (AWS, "Create a signed AWS API request", step 1).

use super::Refused;
use http::HeaderMap;
use http::header::{HOST, HeaderName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Everything but unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path encoded once more: slashes stay.
const PATH: &AsciiSet = &RESERVED.remove(b'/');

/// A path that is encoded already.
const ENCODED_PATH: &AsciiSet = &PATH.remove(b'%');

/// How a service wants its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathForm {
    /// The path of the request line is encoded once more: every service but S3.
    pub(super) twice: bool,
    /// Empty, `.` and `..` segments are taken out first: every service but S3.
    pub(super) normal: bool,
}

/// Line 2.
pub(super) fn path(raw: &str, form: PathForm) -> String {
    let normal = if form.normal {
        normalized(raw)
    } else {
        raw.to_owned()
    };
    let set = if form.twice { PATH } else { ENCODED_PATH };
    percent_encode(normal.as_bytes(), set).to_string()
}

/// Without empty, `.` and `..` segments (RFC 3986 §5.2.4, and the empty ones too, as SDKs do).
pub(super) fn normalized(raw: &str) -> String {
    let mut kept = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let end = if raw.ends_with('/') && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", kept.join("/"))
}

/// Name of the one parameter that cannot be signed.
pub(super) const SIGNATURE: &str = "X-Amz-Signature";

/// Line 3: decoded, encoded strictly, sorted.
pub(super) fn query(raw: &str) -> Result<String, Refused> {
    // Some readers take it for a space, others for itself: what was signed would not be what is read.
    if raw.contains('+') {
        return Err(Refused::Malformed("the query holds a raw `+`"));
    }
    let encoded = |text: &str| {
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        percent_encode(&decoded, RESERVED).to_string()
    };
    let mut pairs: Vec<(String, String)> = raw
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encoded(name), encoded(value))
        })
        .filter(|(name, _)| name != SIGNATURE)
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(pairs.join("&"))
}

/// How the host is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// As the request has it.
    AsSent,
    /// AWS's Python SDK signs its WebSocket URLs so, as AWS has but one port.
    WithoutPort,
}

impl Host {
    fn of(self, text: &[u8]) -> &[u8] {
        let end = match self {
            Self::AsSent => None,
            Self::WithoutPort => text.iter().rposition(|byte| *byte == b':'),
        };
        match end.and_then(|end| text.split_at_checked(end)) {
            Some((name, port)) if port.iter().skip(1).all(u8::is_ascii_digit) => name,
            Some(_) | None => text,
        }
    }
}

/// Lines 4 and on: the signed headers, in their order. `authority` stands for the host where the request line has it.
pub(super) fn headers(
    signed: &[HeaderName],
    headers: &HeaderMap,
    authority: Option<&str>,
    host: Host,
) -> Result<Vec<u8>, Refused> {
    let mut lines = Vec::new();
    for name in signed {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.push(b':');
        let all = headers.get_all(name);
        let first = all.iter().next();
        // The same host once more is what AWS's SDK brings about (`crate::websocket::handshake`): it has signed one.
        let one_host = name == HOST && all.iter().all(|other| Some(other) == first);
        let most = if one_host { 1 } else { usize::MAX };
        let mut values = all.iter().take(most).peekable();
        if values.peek().is_none() {
            match authority {
                Some(authority) if name == HOST => {
                    lines.extend_from_slice(host.of(authority.as_bytes()));
                }
                Some(_) | None => return Err(Refused::Malformed("a signed header is not there")),
            }
        }
        for (at, value) in values.enumerate() {
            if at > 0 {
                lines.push(b',');
            }
            let value = value.as_bytes();
            let value = if name == HOST { host.of(value) } else { value };
            collapsed(value, &mut lines);
        }
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Trimmed, each run of blanks one space.
fn collapsed(value: &[u8], into: &mut Vec<u8>) {
    let words = value
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        if at > 0 {
            into.push(b' ');
        }
        into.extend_from_slice(word);
    }
}
