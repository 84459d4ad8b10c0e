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
    /// Saying it twice is as good as saying it once (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
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

/// Encodes the head of `invoke` for a server on `port`.
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
        idempotent: matches!(
            method,
            "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
        ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ids::InvocationId;

    fn invoke() -> Invoke {
        Invoke {
            id: InvocationId(1),
            method: "POST".to_owned(),
            target: "/invocations?a=b".to_owned(),
            headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
            content_length: Some(3),
            port: None,
            keep: None,
        }
    }

    fn changed(change: impl FnOnce(&mut Invoke)) -> Result<Request, RequestError> {
        let mut invoke = invoke();
        change(&mut invoke);
        encode(&invoke, 8080)
    }

    fn head(request: Result<Request, RequestError>) -> String {
        String::from_utf8(request.expect("request").head).expect("text")
    }

    #[test]
    fn the_head_is_framed_by_the_shim() {
        assert_eq!(
            head(changed(|_| {})),
            "POST /invocations?a=b HTTP/1.1\r\ncontent-type: text/plain\r\n\
             host: 127.0.0.1:8080\r\ncontent-length: 3\r\n\r\n"
        );
        let chunked = changed(|i| i.content_length = None);
        assert!(head(chunked).contains("transfer-encoding: chunked\r\n"));
        assert!(head(changed(|i| i.content_length = Some(0))).contains("content-length: 0\r\n"));
        let get = head(changed(|i| {
            i.method = "GET".to_owned();
            i.content_length = Some(0);
            i.headers.push(("host".to_owned(), "agent".to_owned()));
        }));
        assert!(!get.contains("content-length") && get.contains("host: agent\r\n"));
        assert!(!get.contains("127.0.0.1"));
        let upgrade = changed(|i| {
            i.headers = vec![("upgrade".to_owned(), "websocket".to_owned())];
            i.content_length = None;
        })
        .expect("request");
        assert!(upgrade.asked.upgrade && upgrade.framing == RequestFraming::Upgrade);
        let text = String::from_utf8(upgrade.head).expect("text");
        assert!(text.contains("connection: Upgrade\r\n") && !text.contains("chunked"));
    }

    #[test]
    fn what_could_smuggle_is_refused() {
        let header = |name: &str, value: &str| {
            changed(|i| i.headers.push((name.to_owned(), value.to_owned()))).err()
        };
        for name in [
            "",
            "A",
            "a b",
            "a:",
            "a\r\nb",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "keep-alive",
        ] {
            let error = header(name, "1");
            assert!(matches!(error, Some(RequestError::Name(_))), "{name:?}");
        }
        for value in ["a\r\nb: c", "a\nb", "\0", "\x7f"] {
            let error = header("x", value);
            assert!(matches!(error, Some(RequestError::Value(_))), "{value:?}");
        }
        assert_eq!(header("x", "ü\t!").map(|e| e.to_string()), None);
        for method in ["", "GET /", "P\r\n", "CONNECT"] {
            let error = changed(|i| i.method = method.to_owned()).err();
            assert!(matches!(error, Some(RequestError::Method(_))), "{method:?}");
        }
        for target in ["", "a", "http://x/", "/a b", "/\r\n", "/ü"] {
            let error = changed(|i| i.target = target.to_owned()).err();
            assert_eq!(error, Some(RequestError::Target), "{target:?}");
        }
    }

    #[test]
    fn bounds_hold_at_the_limit() {
        let target = |n: usize| changed(|i| i.target = format!("/{}", "x".repeat(n - 1)));
        assert!(target(MAX_TARGET).is_ok());
        assert_eq!(target(MAX_TARGET + 1).err(), Some(RequestError::Target));
        let headers = |n: usize| {
            changed(|i| i.headers = vec![("a".to_owned(), String::new()); n]).map(|_| ())
        };
        assert_eq!(headers(MAX_HEADERS), Ok(()));
        assert_eq!(headers(MAX_HEADERS + 1), Err(RequestError::TooMany));
        let fill = MAX_HEAD - head(changed(|_| {})).len() - "x: \r\n".len();
        let large =
            |n: usize| changed(|i| i.headers.push(("x".to_owned(), "v".repeat(n)))).map(|_| ());
        assert_eq!(large(fill), Ok(()));
        assert_eq!(large(fill + 1), Err(RequestError::TooLarge));
    }
}
