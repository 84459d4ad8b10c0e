//! Where a port of a session is, on this daemon:
//!
//! ```text
//!  /runtimes/{runtime}[/endpoints/{endpoint}]/sessions/{session}/ports/{port}{path}[?{query}]
//!  └──────────── what an invocation's answer tells ───────────────┘
//! ```
//!
//! AWS's own scheme is not public. This one is a path, so that it needs no names in the DNS and works with any client, by
//! TCP and by the Unix socket; it names what the caller knows, so that it can be written by hand; and the port is not part
//! of what is told, because a session may have many. Path and query after the port are the server's and pass as they are.

use crate::session::handle::SessionKey;
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use proto::ids::{EndpointName, RuntimeName};

/// What signers leave as it is (RFC 3986 §2.3): a session's id may hold anything visible.
const LABEL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Begins like this (in any letter case): a parameter of the query that is the signature's, and not the server's business.
const SIGNATURE: &[u8] = b"x-amz-";

/// What a request line means; nothing of it is known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api::aws) struct Address {
    /// The runtime: an ARN, an id or a name.
    pub(super) label: String,
    /// Its endpoint, if it is said.
    pub(super) endpoint: Option<String>,
    /// The session, as its caller names it.
    pub(super) session: String,
    /// The port.
    pub(super) port: u16,
    /// Path and query for the server behind it.
    pub(super) target: String,
}

impl Address {
    /// Reads it; `None` if this is not the address of a session's port. What it would be is split before it is decoded, and
    /// the first that fits counts: what follows is the server's, whatever it looks like.
    pub(in crate::api::aws) fn of(uri: &Uri) -> Option<Self> {
        let rest = uri.path().strip_prefix("/runtimes/")?;
        let (before, rest) = rest.split_once("/sessions/")?;
        let (session, rest) = rest.split_once('/')?;
        let rest = rest.strip_prefix("ports/")?;
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (label, endpoint) = match before.rsplit_once("/endpoints/") {
            Some((label, endpoint)) if !endpoint.contains('/') => (label, Some(endpoint)),
            Some(_) | None => (before, None),
        };
        let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self {
            label: decoded(label).filter(|label| !label.is_empty())?,
            endpoint: match endpoint {
                Some(endpoint) => Some(decoded(endpoint)?),
                None => None,
            },
            session: decoded(session).filter(|session| !session.is_empty())?,
            port: port.parse().ok().filter(|_| digits)?,
            target: target(path, uri.query()),
        })
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// What the server is asked for. What of the query is the signature's stays here: it opens other doors.
fn target(path: &str, query: Option<&str>) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let Some(query) = query else {
        return path.to_owned();
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !is_signature(pair))
        .collect();
    if kept.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", kept.join("&"))
}

fn is_signature(pair: &str) -> bool {
    let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
    let begin: Vec<u8> = percent_decode_str(name)
        .take(SIGNATURE.len())
        .map(|byte| byte.to_ascii_lowercase())
        .collect();
    begin == SIGNATURE
}

/// The address of a session's ports: with `/` and the port after it, that of one. Without a base it is a path only.
pub(super) fn url(base: Option<&str>, runtime: &RuntimeName, key: &SessionKey) -> String {
    let base = base.unwrap_or_default().trim_end_matches('/');
    let endpoint = match key.endpoint == EndpointName::default_endpoint() {
        true => String::new(),
        false => format!("/endpoints/{}", key.endpoint),
    };
    let session = utf8_percent_encode(key.client.as_str(), LABEL);
    format!("{base}/runtimes/{runtime}{endpoint}/sessions/{session}/ports")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use proto::ids::{ClientSessionId, RuntimeId};

    const SESSION: &str = "0123456789-0123456789-0123456789-0123";

    fn of(path: &str) -> Option<Address> {
        Address::of(&path.parse().expect(path))
    }

    #[test]
    fn what_is_told_is_read_again() {
        for endpoint in ["DEFAULT", "prod"] {
            for client in ["", "a/b?c=d#e%2Fports/1/../\"\\{}|^`+&;<>'"] {
                let client = format!("{client}{SESSION}");
                let key = SessionKey {
                    runtime: RuntimeId::parse("agent-0123456789").expect("id"),
                    endpoint: EndpointName::parse(endpoint).expect("name"),
                    client: ClientSessionId::parse(client.clone()).expect("visible"),
                    owner: Owner::everybody(),
                };
                let name = RuntimeName::parse("agent").expect("name");
                let url = url(Some("http://127.0.0.1:8080/"), &name, &key);
                let uri: Uri = format!("{url}/8001/a//b%2F?x=1&y").parse().expect(&url);
                let address = Address::of(&uri).expect(&url);
                assert_eq!(
                    address,
                    Address {
                        label: "agent".to_owned(),
                        endpoint: (endpoint != "DEFAULT").then(|| endpoint.to_owned()),
                        session: client,
                        port: 8001,
                        target: "/a//b%2F?x=1&y".to_owned(),
                    }
                );
            }
        }
    }

    #[test]
    fn without_a_base_it_is_a_path() {
        let key = SessionKey {
            runtime: RuntimeId::parse("agent-0123456789").expect("id"),
            endpoint: EndpointName::default_endpoint(),
            client: ClientSessionId::parse(SESSION).expect("visible"),
            owner: Owner::everybody(),
        };
        let name = RuntimeName::parse("agent").expect("name");
        assert_eq!(
            url(None, &name, &key),
            format!("/runtimes/agent/sessions/{SESSION}/ports")
        );
        // The model says at most 128 (contract §2.2; botocore does not check): so is it with an id that SDKs make up.
        let long = RuntimeName::parse("n".repeat(40)).expect("name");
        let key = SessionKey {
            client: ClientSessionId::parse("11111111-2222-4333-8444-555555555555").expect("id"),
            ..key
        };
        assert!(url(Some("http://10.0.0.1:8080"), &long, &key).len() <= 128);
    }

    #[test]
    fn what_follows_the_port_is_the_servers() {
        let base = format!("/runtimes/a/sessions/{SESSION}/ports/8001");
        for (rest, target) in [
            ("", "/"),
            ("/", "/"),
            ("?", "/?"),
            ("?a=b", "/?a=b"),
            ("/invocations", "/invocations"),
            ("/ws/shells", "/ws/shells"),
            ("/../..", "/../.."),
            ("/sessions/x/ports/9/y", "/sessions/x/ports/9/y"),
            ("/endpoints/x", "/endpoints/x"),
            ("/a%2fb;c=d?%3f+x", "/a%2fb;c=d?%3f+x"),
        ] {
            let address = of(&format!("{base}{rest}")).expect(rest);
            assert_eq!((address.port, address.target.as_str()), (8001, target));
            assert_eq!((address.label.as_str(), address.endpoint), ("a", None));
        }
    }

    #[test]
    fn a_signature_in_the_query_stays_here() {
        let base = format!("/runtimes/a/sessions/{SESSION}/ports/8001/x");
        for (query, target) in [
            ("X-Amz-Signature=s", "/x"),
            ("a=1&X-Amz-Signature=s&b=2", "/x?a=1&b=2"),
            (
                "x-amz-credential=s&%58-Amz-Date=d&X%2DAmz-Security-Token",
                "/x",
            ),
            ("a&&b&", "/x?a&&b&"),
            ("y=X-Amz-Signature", "/x?y=X-Amz-Signature"),
            ("xX-Amz-Date=1", "/x?xX-Amz-Date=1"),
        ] {
            let address = of(&format!("{base}?{query}")).expect(query);
            assert_eq!(address.target, target, "{query}");
        }
    }

    #[test]
    fn a_runtime_may_be_an_arn_in_any_spelling() {
        let arn = "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-AbCdEf1234";
        for label in [arn.to_owned(), arn.replace('/', "%2F").replace(':', "%3A")] {
            let address = of(&format!(
                "/runtimes/{label}/sessions/{SESSION}/ports/9000/a"
            ));
            assert_eq!(address.map(|address| address.label), Some(arn.to_owned()));
            let address = of(&format!(
                "/runtimes/{label}/endpoints/prod/sessions/{SESSION}/ports/9000/a"
            ));
            let address = address.expect("an address");
            assert_eq!(address.label, arn);
            assert_eq!(address.endpoint.as_deref(), Some("prod"));
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for path in [
            "/runtimes/a/invocations",
            "/runtimes/a/sessions/s/ports",
            "/runtimes/a/sessions/s/ports/",
            "/runtimes/a/sessions//ports/8001",
            "/runtimes/a/sessions/s/t/ports/8001",
            "/runtimes/a/sessions/s/ports/x",
            "/runtimes/a/sessions/s/ports/+1",
            "/runtimes/a/sessions/s/ports/08001",
            "/runtimes/a/sessions/s/ports/65536",
            "/runtimes/a/sessions/%ff/ports/8001",
            "/runtimes//sessions/s/ports/8001",
            "/runtimes/sessions/s/ports/8001",
            "/runtimes/a%2Fsessions%2Fs%2Fports%2F8001",
            "/x/runtimes/a/sessions/s/ports/8001",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
