//! A request's head, and what its first bytes ask for.

use std::ops::Range;

/// How a body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`, or none at all: zero.
    Sized(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What of a head this agent needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the buffer that it took.
    pub(crate) length: usize,
    pub(crate) route: Route,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) chunked_answers: bool,
    pub(crate) expects_continue: bool,
    /// Where in the buffer the value of `Content-Type` lies.
    pub(crate) content_type: Option<Range<usize>>,
    /// `Sec-WebSocket-Key`.
    pub(crate) websocket_key: Option<Vec<u8>>,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Ping,
    /// With what the query asks for, if it does.
    Invocation(Option<Order>),
    WebSocket,
    NotFound,
}

/// An answer that is made here rather than echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Events { count: u64, delay_ms: u64 },
    Bytes(u64),
}

/// The longest body that is looked at as an order.
pub(crate) const MAX_ORDER: usize = 256;

impl Head {
    /// `None` while it is incomplete; an error when it never will be one.
    pub(crate) fn parse(buffer: &[u8]) -> Result<Option<Self>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = parsed.parse(buffer)? else {
            return Ok(None);
        };
        let modern = parsed.version == Some(1);
        let mut head = Self {
            length,
            route: Route::of(
                parsed.method.unwrap_or_default(),
                parsed.path.unwrap_or_default(),
            ),
            framing: Framing::Sized(0),
            keep_alive: modern,
            chunked_answers: modern,
            expects_continue: false,
            content_type: None,
            websocket_key: None,
        };
        for header in parsed.headers.iter() {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                head.framing = Framing::Sized(length.ok_or(httparse::Error::HeaderValue)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(httparse::Error::HeaderValue);
                }
                head.framing = Framing::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                head.keep_alive &= !value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case("expect") {
                head.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
            } else if name.eq_ignore_ascii_case("content-type") {
                head.content_type = buffer.element_offset_of(value);
            } else if name.eq_ignore_ascii_case("sec-websocket-key") {
                head.websocket_key = Some(value.to_vec());
            }
        }
        Ok(Some(head))
    }
}

/// Where a slice lies within the slice that it was cut from.
trait OffsetOf {
    fn element_offset_of(&self, part: &[u8]) -> Option<Range<usize>>;
}

impl OffsetOf for [u8] {
    fn element_offset_of(&self, part: &[u8]) -> Option<Range<usize>> {
        let start = (part.as_ptr() as usize).checked_sub(self.as_ptr() as usize)?;
        let end = start.checked_add(part.len())?;
        (end <= self.len()).then_some(start..end)
    }
}

impl Route {
    fn of(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method, path) {
            ("GET", "/ping") => Self::Ping,
            ("GET", "/ws") => Self::WebSocket,
            ("POST", "/invocations") => Self::Invocation(Order::from_query(query)),
            ("GET", "/invocations") => Order::from_query(query)
                .map_or(Self::NotFound, |order| Self::Invocation(Some(order))),
            _ => Self::NotFound,
        }
    }
}

impl Order {
    /// `sse=N&delay_ms=M` or `bytes=N`.
    fn from_query(query: &str) -> Option<Self> {
        let number = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            value.parse().ok()
        };
        let events = number("sse").map(|count| Self::Events {
            count,
            delay_ms: number("delay_ms").unwrap_or(0),
        });
        events.or_else(|| number("bytes").map(Self::Bytes))
    }

    /// `{"sse": N}`, `{"sse": N, "delay_ms": M}` or `{"bytes": N}`, and nothing else.
    pub(crate) fn from_body(body: &[u8]) -> Option<Self> {
        let text: String = std::str::from_utf8(body)
            .ok()?
            .split_ascii_whitespace()
            .collect();
        let members = text.strip_prefix('{')?.strip_suffix('}')?;
        let mut values = members.split(',').map(|member| member.split_once(':'));
        let (first, second, rest) = (values.next()??, values.next(), values.next());
        match (first, second, rest) {
            (("\"bytes\"", count), None, None) => Some(Self::Bytes(count.parse().ok()?)),
            (("\"sse\"", count), second, None) => {
                let delay_ms = match second {
                    None => 0,
                    Some(Some(("\"delay_ms\"", delay))) => delay.parse().ok()?,
                    Some(_) => return None,
                };
                Some(Self::Events {
                    count: count.parse().ok()?,
                    delay_ms,
                })
            }
            _ => None,
        }
    }

    /// Whether bytes to come could still make an order of this beginning; anything else is echoed at once.
    pub(crate) fn may_begin(body: &[u8]) -> bool {
        let written: Vec<u8> = body
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        [b"{\"sse\":".as_slice(), b"{\"bytes\":"]
            .iter()
            .any(|opening| {
                let common = opening.len().min(written.len());
                opening[..common] == written[..common]
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_told_from_bodies_to_echo() {
        let events = |count, delay_ms| Some(Order::Events { count, delay_ms });
        assert_eq!(Order::from_body(br#"{"sse": 3}"#), events(3, 0));
        assert_eq!(
            Order::from_body(b"{ \"sse\":3,\n\"delay_ms\": 20 }"),
            events(3, 20)
        );
        assert_eq!(
            Order::from_body(br#"{"bytes":100}"#),
            Some(Order::Bytes(100))
        );
        for body in [
            "",
            "{}",
            "[1]",
            r#"{"sse": "3"}"#,
            r#"{"sse": 3, "x": 1}"#,
            r#"{"sse": 3} "#.repeat(2).as_str(),
            r#"{"bytes": 1, "delay_ms": 1}"#,
        ] {
            assert_eq!(Order::from_body(body.as_bytes()), None, "{body}");
        }
        assert!(
            Order::may_begin(b"")
                && Order::may_begin(b"{\n\"ss")
                && Order::may_begin(b"{\"sse\": 1")
        );
        assert!(!Order::may_begin(b"{\"prompt\"") && !Order::may_begin(b"\x00"));
    }

    #[test]
    fn a_head_tells_where_its_body_ends() {
        let text =
            b"POST /invocations HTTP/1.1\r\nContent-Type: a/b\r\nContent-Length: 7\r\n\r\nrest";
        let head = Head::parse(text).expect("valid").expect("complete");
        assert_eq!(head.framing, Framing::Sized(7));
        assert_eq!(&text[head.length..], b"rest");
        assert_eq!(&text[head.content_type.expect("there")], b"a/b");
        assert_eq!(Head::parse(&text[..30]).expect("valid so far"), None);
        let chunked = b"POST /invocations?sse=2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = Head::parse(chunked).expect("valid").expect("complete");
        assert_eq!(head.framing, Framing::Chunked);
        assert!(!head.keep_alive && !head.chunked_answers);
        let order = Order::Events {
            count: 2,
            delay_ms: 0,
        };
        assert_eq!(head.route, Route::Invocation(Some(order)));
        assert!(Head::parse(b"GET /ping HTTP/1.1\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
