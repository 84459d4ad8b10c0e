//! The one request head of a proxied connection: `CONNECT host:port`, or an absolute-form request (`GET http://…`).
//!
//! An absolute-form request is rewritten to origin form with `connection: close`, so each connection carries one request
//! to one judged server; whatever else the agent writes goes to that same server.

use session_core::egress::{Target, TargetError};
use std::io;

/// Most bytes of a head.
const MAX_HEAD: usize = 32 * 1024;

/// Bytes read from the agent at once; what follows a head may come with it.
pub(super) const READ: usize = 4096;

/// Most headers.
const MAX_HEADERS: usize = 100;

/// A head, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Where to.
    pub(super) target: Target,
    /// What to write to the server first: the rewritten request, and what came after the head.
    pub(super) forward: Vec<u8>,
    connect: bool,
}

/// Why a head is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("the request head is over {MAX_HEAD} bytes")]
    TooLarge,
    #[error("the request is not HTTP/1.1: {0}")]
    Syntax(#[from] httparse::Error),
    #[error("this proxy takes CONNECT host:port and absolute http:// requests")]
    Form,
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("connection of the agent")]
    Io(#[source] io::Error),
}

impl Head {
    pub(super) fn is_connect(&self) -> bool {
        self.connect
    }
}

/// What has come of a head. The parser begins at the front each time, so it is asked only after the first bytes (nonsense
/// is refused at once) and when the end of a head has come: an agent that sends byte by byte costs no more than another.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// Empty lines that came before.
    skipped: usize,
}

impl Gathered {
    /// Takes what has just come.
    pub(super) fn add(&mut self, fresh: &[u8]) -> Result<Option<Head>, HeadError> {
        let first = self.bytes.is_empty() && self.skipped < MAX_HEAD;
        // Empty lines before a request are ignored (RFC 9112 §2.2); kept, each would look like the end of a head.
        let fresh = if first {
            let blank = fresh.iter().take_while(|byte| is_line_end(**byte)).count();
            self.skipped += blank;
            &fresh[blank..]
        } else {
            fresh
        };
        // The end of a head may have begun in what was there.
        let seen = self.bytes.len().saturating_sub(2);
        self.bytes.extend_from_slice(fresh);
        if first || holds_end(&self.bytes[seen..]) {
            parse(&self.bytes)
        } else if self.skipped + self.bytes.len() >= MAX_HEAD {
            Err(HeadError::TooLarge)
        } else {
            Ok(None)
        }
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Whether an empty line, which ends a head, is among these. The parser takes a bare line feed too.
fn holds_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads a head from what has come so far; `None` if there is more to come.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    #[cfg(test)]
    tests::PARSED.with(|parsed| parsed.set(parsed.get() + bytes.len()));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes)? {
        httparse::Status::Complete(length) if length > MAX_HEAD => {
            return Err(HeadError::TooLarge);
        }
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() >= MAX_HEAD => return Err(HeadError::TooLarge),
        httparse::Status::Partial => return Ok(None),
    };
    let (Some(method), Some(path)) = (request.method, request.path) else {
        return Err(HeadError::Form);
    };
    let rest = &bytes[length..];
    if method.eq_ignore_ascii_case("CONNECT") {
        let target = Target::parse(path, 443)?;
        return Ok(Some(Head {
            target,
            forward: rest.to_vec(),
            connect: true,
        }));
    }
    let after = path
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .map(|_| &path[7..])
        .ok_or(HeadError::Form)?;
    let split = after.find(['/', '?']).unwrap_or(after.len());
    let (authority, origin) = after.split_at(split);
    // Credentials in a URL are for the server, which reads them from a header only.
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let target = Target::parse(authority, 80)?;
    let slash = if origin.starts_with('/') { "" } else { "/" };
    // The host that was judged is the host that is asked, whatever the agent's own header says (RFC 9112 §3.2.2): an
    // allowed server may serve others under the same address.
    let mut forward =
        format!("{method} {slash}{origin} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    for header in request.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        if matches!(name.as_str(), "host" | "connection" | "keep-alive")
            || name.starts_with("proxy-")
        {
            continue;
        }
        forward.extend_from_slice(header.name.as_bytes());
        forward.extend_from_slice(b": ");
        forward.extend_from_slice(header.value);
        forward.extend_from_slice(b"\r\n");
    }
    forward.extend_from_slice(b"connection: close\r\n\r\n");
    forward.extend_from_slice(rest);
    Ok(Some(Head {
        target,
        forward,
        connect: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    std::thread_local! {
        /// Bytes that the parser was given.
        pub(super) static PARSED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn heads_are_parsed_once_however_they_come() {
        let head = [
            b"\r\n\nGET http://x.test/ HTTP/1.1\r\na: ".to_vec(),
            vec![b'x'; MAX_HEAD / 2],
            b"\nb: y\n\r\nrest".to_vec(),
        ]
        .concat();
        let whole = Gathered::default()
            .add(&head)
            .expect("well-formed")
            .expect("complete");
        for pieces in [1, 2, 3, 1000] {
            PARSED.set(0);
            let mut gathered = Gathered::default();
            let found = head
                .chunks(pieces)
                .enumerate()
                .find_map(|(at, piece)| Some((at, gathered.add(piece).expect("well-formed")?)));
            let (at, found) = found.expect("complete");
            assert_eq!(found.target, whole.target);
            assert!(whole.forward.starts_with(&found.forward));
            let end = head.len() - b"rest".len();
            assert_eq!(at, (end - 1) / pieces, "found with its last byte");
            let parsed = PARSED.get();
            assert!(parsed < 2 * head.len(), "{pieces}: {parsed} bytes parsed");
        }
    }

    #[test]
    fn bytes_that_never_end_a_head_cost_what_they_are() {
        for bytes in [
            &b"\n"[..],
            b"\r\n",
            b"x",
            b"G\n",
            b"GET http://x.test/ HTTP/1.1\r\na:b\r\n",
        ] {
            PARSED.set(0);
            let mut gathered = Gathered::default();
            let sent = (0..2 * MAX_HEAD)
                .find(|_| bytes.iter().any(|byte| gathered.add(&[*byte]).is_err()));
            assert!(sent.is_some(), "no end of {bytes:?}");
            let parsed = PARSED.get();
            assert!(
                parsed <= MAX_HEAD + 2 * READ,
                "{parsed} bytes parsed of {sent:?} times {bytes:?}"
            );
        }
    }

    #[test]
    fn connect_keeps_what_follows() {
        let head = parse(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\nhello")
            .expect("well-formed")
            .expect("complete");
        assert!(head.is_connect());
        assert_eq!(
            (head.target.host.as_str(), head.target.port),
            ("api.test", 443)
        );
        assert_eq!(head.forward, b"hello");
    }

    #[test]
    fn absolute_requests_become_origin_requests_on_a_connection_of_their_own() {
        let head = parse(
            b"POST http://u:p@models.test:8080/a?b=c HTTP/1.1\r\nHost: another.test\r\nhost: third.test\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        )
        .expect("well-formed")
        .expect("complete");
        assert!(!head.is_connect());
        assert_eq!(
            (head.target.host.as_str(), head.target.port),
            ("models.test", 8080)
        );
        assert_eq!(
            String::from_utf8(head.forward).expect("text"),
            "POST /a?b=c HTTP/1.1\r\nHost: models.test:8080\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi"
        );
        let bare = parse(b"GET http://models.test HTTP/1.1\r\n\r\n")
            .expect("ok")
            .expect("complete");
        assert!(bare.forward.starts_with(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn other_forms_are_refused_and_partial_heads_wait() {
        for bad in [
            &b"GET /relative HTTP/1.1\r\n\r\n"[..],
            b"GET https://x.test/ HTTP/1.1\r\n\r\n",
            b"CONNECT 0x7f.1:80 HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01 not http",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(
            parse(b"CONNECT api.test:443 HT")
                .expect("partial")
                .is_none()
        );
        let long = [
            b"GET http://x.test/ HTTP/1.1\r\na: ".to_vec(),
            vec![b'x'; MAX_HEAD],
        ]
        .concat();
        assert!(matches!(parse(&long), Err(HeadError::TooLarge)));
    }
}
