//! The head of an agent's answer: bytes ▸ status, headers, framing. Strict, because every byte is the agent's.
//!
//! RFC 9112 leaves room that has been used for smuggling; here there is none: obsolete line folding, more than one
//! `content-length`, `content-length` beside `transfer-encoding`, and any coding but `chunked` are refused. Framing and
//! hop-by-hop headers end here; what goes on is end-to-end.
//!
//! Header values on the wire are bytes, in our protocol they are text. A value that is UTF-8 is passed as it is; any
//! other is read as ISO-8859-1 (what HTTP/1.0 meant by those bytes), so nothing is lost either way.

use proto::shim::{MAX_HEAD, MAX_HEADERS};

/// A final answer's head, or an interim one (1xx) that has no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// 100–999.
    pub status: u16,
    /// End-to-end headers, names in lower case, in the agent's order.
    pub headers: Vec<(String, String)>,
    /// How the body ends.
    pub framing: Framing,
    /// What `content-length` said, also where no body follows (answers to HEAD).
    pub content_length: Option<u64>,
    /// The connection may serve another request afterwards.
    pub keep_alive: bool,
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
    /// There is no HTTP any more: raw bytes both ways (101).
    Upgraded,
}

/// What of the request decides about the answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The method was HEAD: no body, whatever the headers say.
    pub head: bool,
    /// The request offered an upgrade: 101 is an answer.
    pub upgrade: bool,
}

/// Why bytes are not an answer's head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Over [`MAX_HEAD`].
    #[error("the head of the answer is over {MAX_HEAD} bytes")]
    TooLarge,
    /// Over [`MAX_HEADERS`].
    #[error("the answer has more than {MAX_HEADERS} headers")]
    TooMany,
    /// Not HTTP/1.
    #[error("the answer is not HTTP/1: {0}")]
    NotHttp(String),
    /// HTTP, but how its body ends is not clear.
    #[error("the answer's framing is ambiguous: {0}")]
    Framing(&'static str),
    /// Switching protocols without having been asked.
    #[error("the answer is 101, but no upgrade was offered")]
    Upgrade,
}

/// Where the head ends (exclusive), if its blank line is there. `from` is how much was searched before.
#[must_use]
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let rest = &bytes[from..];
    let newline = |at: usize| rest[at] == b'\n';
    (0..rest.len()).filter(|&at| newline(at)).find_map(|at| {
        match (rest.get(at + 1), rest.get(at + 2)) {
            (Some(b'\n'), _) => Some(from + at + 2),
            (Some(b'\r'), Some(b'\n')) => Some(from + at + 3),
            _ => None,
        }
    })
}

/// Judges an incomplete head, so that garbage is refused at its first bytes and not at the invocation's timeout.
pub fn plausible(bytes: &[u8]) -> Result<(), HeadError> {
    const START: &[u8] = b"HTTP/1.";
    let n = bytes.len().min(START.len());
    if bytes[..n] != START[..n] {
        return Err(HeadError::NotHttp(seen(bytes)));
    }
    if bytes.len() > MAX_HEAD {
        return Err(HeadError::TooLarge);
    }
    Ok(())
}

/// Parses a whole head, its blank line included.
pub fn parse(bytes: &[u8], asked: Asked) -> Result<Head, HeadError> {
    plausible(bytes)?;
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut slots);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadError::NotHttp(seen(bytes))),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooMany),
        Err(error) => return Err(HeadError::NotHttp(format!("{error} in {}", seen(bytes)))),
    }
    let status = response.code.unwrap_or(0);
    if status < 100 {
        return Err(HeadError::NotHttp(format!("status {status}")));
    }
    let raw = &*response.headers;
    let content_length = content_length(raw)?;
    let chunked = chunked(raw)?;
    let http_1_1 = response.version == Some(1);
    if chunked && content_length.is_some() {
        return Err(HeadError::Framing("content-length and transfer-encoding"));
    }
    if chunked && !http_1_1 {
        return Err(HeadError::Framing("transfer-encoding in HTTP/1.0"));
    }
    if status == 101 && !asked.upgrade {
        return Err(HeadError::Upgrade);
    }
    let bodiless = asked.head || status < 200 || status == 204 || status == 304;
    let framing = match (status, content_length) {
        (101, _) => Framing::Upgraded,
        _ if bodiless => Framing::Length(0),
        (_, Some(length)) => Framing::Length(length),
        (_, None) if chunked => Framing::Chunked,
        (_, None) => Framing::UntilClose,
    };
    let close = !http_1_1 || names_in(raw, "connection").any(|n| n == "close");
    Ok(Head {
        status,
        headers: end_to_end(raw, status),
        framing,
        content_length,
        keep_alive: !close && !matches!(framing, Framing::UntilClose | Framing::Upgraded),
    })
}

fn content_length(raw: &[httparse::Header<'_>]) -> Result<Option<u64>, HeadError> {
    let mut found = None;
    for header in raw {
        if !header.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        let digits = header.value.trim_ascii();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let value = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse::<u64>().ok())
            .filter(|_| plain)
            .ok_or(HeadError::Framing("content-length is not a number"))?;
        if found.replace(value).is_some() {
            return Err(HeadError::Framing("more than one content-length"));
        }
    }
    Ok(found)
}

fn chunked(raw: &[httparse::Header<'_>]) -> Result<bool, HeadError> {
    let mut found = false;
    for header in raw {
        if !header.name.eq_ignore_ascii_case("transfer-encoding") {
            continue;
        }
        if found || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Framing("a transfer-encoding other than chunked"));
        }
        found = true;
    }
    Ok(found)
}

/// Comma-separated names in all headers called `name`, lower-cased.
fn names_in<'a>(
    raw: &'a [httparse::Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = String> + 'a {
    raw.iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|&b| b == b','))
        .map(|part| String::from_utf8_lossy(part.trim_ascii()).to_ascii_lowercase())
}

/// Whether a header belongs to one connection only (RFC 9110 §7.6.1) or to the framing that ends here.
#[must_use]
pub fn is_hop_by_hop(lower_name: &str) -> bool {
    matches!(
        lower_name,
        "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn end_to_end(raw: &[httparse::Header<'_>], status: u16) -> Vec<(String, String)> {
    let named: Vec<String> = names_in(raw, "connection").collect();
    raw.iter()
        .filter_map(|header| {
            let name = header.name.to_ascii_lowercase();
            // `upgrade` is what a 101 is about; without it the far end could not finish the handshake.
            let dropped = if name == "upgrade" {
                status != 101
            } else {
                is_hop_by_hop(&name) || named.contains(&name)
            };
            (!dropped).then(|| (name, text(header.value)))
        })
        .collect()
}

fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// The first bytes of something unexpected, for a person.
fn seen(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(60)].escape_ascii())
}
