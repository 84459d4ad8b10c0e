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
            | "proxy-authenticate"
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Asked = Asked {
        head: false,
        upgrade: false,
    };

    fn parsed(text: &str) -> Result<Head, HeadError> {
        let bytes = text.replace('\n', "\r\n");
        parse(bytes.as_bytes(), PLAIN)
    }

    fn framing(text: &str) -> Result<Framing, HeadError> {
        parsed(text).map(|head| head.framing)
    }

    #[test]
    fn each_framing() {
        let cases = [
            ("HTTP/1.1 200 OK\ncontent-length: 5\n\n", Framing::Length(5)),
            (
                "HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n",
                Framing::Chunked,
            ),
            ("HTTP/1.1 200 OK\n\n", Framing::UntilClose),
            ("HTTP/1.1 200\n\n", Framing::UntilClose),
            ("HTTP/1.0 500 \ncontent-length: 0\n\n", Framing::Length(0)),
            ("HTTP/1.1 204 No\n\n", Framing::Length(0)),
            (
                "HTTP/1.1 304 Not\ncontent-length: 7\n\n",
                Framing::Length(0),
            ),
            ("HTTP/1.1 100 Go on\n\n", Framing::Length(0)),
        ];
        for (text, wanted) in cases {
            assert_eq!(framing(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\ncontent-length: 5\ncontent-length: 5\n\n",
            "HTTP/1.1 200 OK\ncontent-length: 5, 5\n\n",
            "HTTP/1.1 200 OK\ncontent-length: +5\n\n",
            "HTTP/1.1 200 OK\ncontent-length: -1\n\n",
            "HTTP/1.1 200 OK\ncontent-length: 0x5\n\n",
            "HTTP/1.1 200 OK\ncontent-length:\n\n",
            "HTTP/1.1 200 OK\ncontent-length: 99999999999999999999\n\n",
            "HTTP/1.1 200 OK\ncontent-length: 5\ntransfer-encoding: chunked\n\n",
            "HTTP/1.1 200 OK\ntransfer-encoding: gzip, chunked\n\n",
            "HTTP/1.1 200 OK\ntransfer-encoding: identity\n\n",
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\ntransfer-encoding: chunked\n\n",
            "HTTP/1.0 200 OK\ntransfer-encoding: chunked\n\n",
        ] {
            assert!(
                matches!(framing(text), Err(HeadError::Framing(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "HTTP/2 200 OK\n\n",
            "HTTP/1.1 20 OK\n\n",
            "HTTP/1.1 099 OK\n\n",
            "HTTP/1.1 200 OK\nno colon\n\n",
            "HTTP/1.1 200 OK\nname : value\n\n",
            "HTTP/1.1 200 OK\na: 1\n folded\n\n",
            "HTTP/1.1 200 OK\na: \0\n\n",
            "HTTP/1.1 200 OK\n: nameless\n\n",
        ] {
            assert!(matches!(parsed(text), Err(HeadError::NotHttp(_))), "{text}");
        }
        assert!(plausible(b"HTT").is_ok() && plausible(b"").is_ok());
        assert!(plausible(b"SSH").is_err() && plausible(b"\r\nHTTP/1.1").is_err());
    }

    #[test]
    fn the_method_and_the_upgrade_decide_about_the_body() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let head = Asked {
            head: true,
            upgrade: false,
        };
        let answer = parse(text, head).expect("head");
        assert_eq!(answer.framing, Framing::Length(0));
        assert_eq!(answer.content_length, Some(5));
        let text = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(parse(text, PLAIN), Err(HeadError::Upgrade));
        let upgrade = Asked {
            head: false,
            upgrade: true,
        };
        let answer = parse(text, upgrade).expect("head");
        assert_eq!(answer.framing, Framing::Upgraded);
        assert_eq!(
            answer.headers,
            [("upgrade".to_owned(), "websocket".to_owned())]
        );
        assert!(!answer.keep_alive);
    }

    #[test]
    fn hop_by_hop_headers_stay_here() {
        let head = parsed(
            "HTTP/1.1 200 OK\nConnection: Keep-Alive, X-Mine\nKeep-Alive: 5\nX-Mine: 1\nTE: a\n\
             Trailer: b\nUpgrade: c\nContent-Length: 0\nX-Other: 2\nx-other: 3\n\n",
        )
        .expect("head");
        let other = |value: &str| ("x-other".to_owned(), value.to_owned());
        assert_eq!(head.headers, [other("2"), other("3")]);
        assert!(head.keep_alive);
        for closing in [
            "HTTP/1.1 200 OK\nconnection: CLOSE\ncontent-length: 0\n\n",
            "HTTP/1.0 200 OK\ncontent-length: 0\n\n",
            "HTTP/1.1 200 OK\n\n",
        ] {
            assert!(!parsed(closing).expect("head").keep_alive, "{closing}");
        }
    }

    #[test]
    fn values_keep_their_meaning() {
        let value = |raw: &[u8]| {
            let text = [b"HTTP/1.1 200 OK\r\nv: ", raw, b"\r\n\r\n"].concat();
            parse(&text, PLAIN).map(|head| head.headers[0].1.clone())
        };
        assert_eq!(value("grün".as_bytes()), Ok("grün".to_owned()));
        assert_eq!(value(b"gr\xFCn"), Ok("grün".to_owned()));
        assert_eq!(value(b"a\tb"), Ok("a\tb".to_owned()));
        assert!(value(b"a\x07b").is_err());
    }

    #[test]
    fn bounds_hold_at_the_limit() {
        let sized = |size: usize| {
            let frame = "HTTP/1.1 200 OK\nv: \n\n".replace('\n', "\r\n").len();
            parsed(&format!(
                "HTTP/1.1 200 OK\nv: {}\n\n",
                "x".repeat(size - frame)
            ))
        };
        assert!(sized(MAX_HEAD).is_ok());
        assert_eq!(sized(MAX_HEAD + 1), Err(HeadError::TooLarge));
        let many = |n: usize| parsed(&format!("HTTP/1.1 200 OK\n{}\n", "a: b\n".repeat(n)));
        assert!(many(MAX_HEADERS).is_ok());
        assert_eq!(many(MAX_HEADERS + 1), Err(HeadError::TooMany));
    }

    /// What [`end`] finds, said differently.
    fn end_by_definition(bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len())
            .find(|&to| bytes[..to].ends_with(b"\n\n") || bytes[..to].ends_with(b"\n\r\n"))
    }

    proptest! {
        #[test]
        fn the_end_is_found_in_any_split(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x')], 0..40),
            cut in 0usize..40,
        ) {
            let whole = end_by_definition(&bytes);
            prop_assert_eq!(end(&bytes, 0), whole);
            let cut = cut.min(bytes.len());
            let found = end(&bytes[..cut], 0).or_else(|| end(&bytes, cut));
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn arbitrary_bytes_never_inject_a_line(
            tail in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nv: ".to_vec();
            bytes.extend_from_slice(&tail);
            bytes.extend_from_slice(b"\r\n\r\n");
            let whole = end(&bytes, 0).expect("it has one");
            if let Ok(head) = parse(&bytes[..whole], PLAIN) {
                for (name, value) in head.headers {
                    prop_assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
                    prop_assert!(!value.contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}
