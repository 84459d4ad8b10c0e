//! The request as the agent gets it: a checked head and the framing of its body.
//!
//! The broker is trusted more than the agent, but its headers come from a client: what could end a line or frame a body
//! is refused here once more, so that a mistake upstream cannot become a smuggled request.

use super::head::{Asked, is_hop_by_hop};
use proto::shim::{Invoke, MAX_HEAD, MAX_HEADERS};

/// Longest request target.
const MAX_TARGET: usize = 8 * 1024;

/// A request ready to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    /// Request line and headers, blank line included.
    pub(crate) head: Vec<u8>,
    /// How the body is framed.
    pub(crate) framing: RequestFraming,
    /// What decides about the answer's body.
    pub(crate) asked: Asked,
}

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFraming {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// None; bytes flow only once the agent has said 101.
    Upgrade,
}

/// Why an `invoke` cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("method {0:?} is not one that can be relayed")]
    Method(String),
    #[error("target must be a path of visible ASCII, at most {MAX_TARGET} bytes")]
    Target,
    #[error("header {0:?}: not a lower-case name that is passed end to end")]
    Name(String),
    #[error("header {0:?}: its value has a control character")]
    Value(String),
    #[error("more than {MAX_HEADERS} headers")]
    TooMany,
    #[error("the request's head is over {MAX_HEAD} bytes")]
    TooLarge,
}

/// Encodes the head of `invoke` for an agent on `port`.
pub(crate) fn encode(invoke: &Invoke, port: u16) -> Result<Request, RequestError> {
    let method = invoke.method.as_str();
    let token = !method.is_empty() && method.len() <= 32 && method.bytes().all(is_token);
    if !token || method == "CONNECT" {
        return Err(RequestError::Method(method.chars().take(32).collect()));
    }
    let target = invoke.target.as_str();
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !(target.starts_with('/') || target == "*") || !visible || target.len() > MAX_TARGET {
        return Err(RequestError::Target);
    }
    if invoke.headers.len() > MAX_HEADERS {
        return Err(RequestError::TooMany);
    }
    let mut head = Vec::with_capacity(512);
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| head.extend_from_slice(part));
    line([method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    let mut upgrade = false;
    let mut host = false;
    for (name, value) in &invoke.headers {
        check_header(name, value)?;
        upgrade |= name == "upgrade";
        host |= name == "host";
        line([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    if !host {
        line([
            b"host: 127.0.0.1:",
            port.to_string().as_bytes(),
            b"\r\n",
            b"",
        ]);
    }
    let framing = match invoke.content_length {
        _ if upgrade => {
            line([b"connection: Upgrade\r\n", b"", b"", b""]);
            RequestFraming::Upgrade
        }
        // A length of 0 is said only where a body was to be expected (RFC 9110 §8.6).
        Some(0) if !matches!(method, "POST" | "PUT" | "PATCH") => RequestFraming::Length(0),
        Some(length) => {
            line([
                b"content-length: ",
                length.to_string().as_bytes(),
                b"\r\n",
                b"",
            ]);
            RequestFraming::Length(length)
        }
        None => {
            line([b"transfer-encoding: chunked\r\n", b"", b"", b""]);
            RequestFraming::Chunked
        }
    };
    head.extend_from_slice(b"\r\n");
    if head.len() > MAX_HEAD {
        return Err(RequestError::TooLarge);
    }
    Ok(Request {
        head,
        framing,
        asked: Asked {
            head: method == "HEAD",
            upgrade,
        },
    })
}

fn check_header(name: &str, value: &str) -> Result<(), RequestError> {
    let lower = name.bytes().all(|b| is_token(b) && !b.is_ascii_uppercase());
    // `upgrade` is the one hop-by-hop header that means something to this hop.
    let passed = name == "upgrade" || !is_hop_by_hop(name);
    if name.is_empty() || !lower || !passed {
        return Err(RequestError::Name(name.chars().take(64).collect()));
    }
    if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err(RequestError::Value(name.to_owned()));
    }
    Ok(())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
