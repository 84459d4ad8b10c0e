//! What of a request reaches the server behind a port: as by any proxy, what is not of this hop, not a credential of this
//! daemon's, and not in the runtime's name.

use crate::api::invoke::{REQUEST_ID, SESSION_ID};
use crate::api::local::{NOT_PASSED, checks};
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::session::handle::SessionHandle;
use axum::extract::Request;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Version};
use proto::shim::{MAX_HEAD, MAX_HEADERS};

/// Begins like this: a header of the signature or of the SDK.
const SIGNERS: &str = "x-amz-";

/// Begins like this: a header of the contract's. Of these only the caller's own pass.
const RUNTIMES: &str = "x-amzn-bedrock-agentcore-";
const CUSTOM: &str = super::super::headers::CUSTOM_PREFIX;

/// What an offer to switch says itself.
const OFFERS: &str = "sec-websocket-";

/// Longest method that the shim takes.
const MAX_METHOD: usize = 32;

/// Longest request target that the shim takes.
const MAX_TARGET: usize = 8 * 1024;

/// Room for what is added on the way: the request line, host, framing, the offer of a WebSocket.
const ADDED_HEADERS: usize = 8;
const ADDED_BYTES: usize = 1024;

/// The caller's headers for the server, with what the runtime adds.
pub(super) fn headers_in(
    broker: &Broker,
    handle: &SessionHandle,
    called: &RuntimeVersion,
    head: &Parts,
    id: &str,
) -> Result<Vec<(String, String)>, ApiError> {
    let version = &handle.version;
    let listed = |name: &str| {
        version
            .spec
            .request_headers
            .iter()
            .any(|listed| listed == name)
    };
    // The token was for the version that is called now; the session may be of an older one.
    let authorization = match checks(broker, version) || checks(broker, called) {
        false => Authorization::Passes,
        true if listed(AUTHORIZATION.as_str()) => Authorization::Passes,
        true => Authorization::Stays,
    };
    let mut passed = passing(&head.headers, authorization)?;
    passed.push((
        SESSION_ID.as_str().to_owned(),
        handle.key.client.as_str().to_owned(),
    ));
    passed.push((REQUEST_ID.to_owned(), id.to_owned()));
    Ok(passed)
}

/// Whether `Authorization` is the server's business. A signature never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authorization {
    Passes,
    Stays,
}

fn passing(
    headers: &HeaderMap,
    authorization: Authorization,
) -> Result<Vec<(String, String)>, ApiError> {
    let of_this_hop = named(headers);
    let mut passed: Vec<(String, String)> = Vec::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let name = name.as_str();
        let runtimes = name.starts_with(RUNTIMES) && !name.starts_with(CUSTOM);
        let credentials = name == AUTHORIZATION.as_str()
            && (authorization == Authorization::Stays || value.as_bytes().starts_with(b"AWS4-"));
        if credentials
            || runtimes
            || NOT_PASSED.contains(&name)
            || name.starts_with(SIGNERS)
            || name.starts_with("proxy-")
            || name.starts_with(OFFERS)
            || of_this_hop.iter().any(|named| named == name)
        {
            continue;
        }
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| ApiError::field(name, "must be UTF-8"))?;
        // HTTP/2 splits what is one line in HTTP/1.1 (RFC 9113 §8.2.3).
        if name == COOKIE.as_str()
            && let Some((_, line)) = passed.iter_mut().find(|(name, _)| name == COOKIE.as_str())
        {
            line.push_str("; ");
            line.push_str(value);
            continue;
        }
        passed.push((name.to_owned(), value.to_owned()));
    }
    Ok(passed)
}

/// Headers that `Connection` says are of this hop (RFC 9110 §7.6.1).
fn named(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

/// Refuses what the shim would not send on.
pub(super) fn fits(
    method: &Method,
    target: &str,
    headers: &[(String, String)],
) -> Result<(), ApiError> {
    if method.as_str().len() > MAX_METHOD || method == Method::CONNECT {
        return Err(ApiError::field(
            "method",
            format!("must be at most {MAX_METHOD} characters, and not CONNECT"),
        ));
    }
    if target.len() > MAX_TARGET || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::field(
            "path",
            format!("must be visible ASCII, at most {MAX_TARGET} bytes with its query"),
        ));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + ": \r\n".len())
        .sum();
    if headers.len() + ADDED_HEADERS > MAX_HEADERS || target.len() + bytes + ADDED_BYTES > MAX_HEAD
    {
        return Err(ApiError::field(
            "headers",
            format!(
                "must be at most {} of {} bytes in all with the path",
                MAX_HEADERS - ADDED_HEADERS,
                MAX_HEAD - ADDED_BYTES
            ),
        ));
    }
    Ok(())
}

/// Whether the request wants to become a WebSocket. Another protocol is offered to nobody: it is a request like any other.
pub(super) fn offers_websocket(request: &Request) -> bool {
    let offered = |value: &HeaderValue| {
        let words = value.to_str().unwrap_or_default().split(',');
        words
            .map(str::trim)
            .any(|word| word.eq_ignore_ascii_case("websocket"))
    };
    request.method() == Method::GET
        && request.version() <= Version::HTTP_11
        && request.headers().get_all(UPGRADE).iter().any(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn passed(sent: &[(&str, &str)], authorization: Authorization) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name = HeaderName::try_from(*name).expect("name");
            headers.append(name, HeaderValue::try_from(*value).expect("value"));
        }
        passing(&headers, authorization).expect("headers")
    }

    #[test]
    fn a_proxy_passes_what_is_the_servers() {
        let sent = [
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("origin", "http://127.0.0.1:8080"),
            ("range", "bytes=0-1"),
            ("x-own", "one"),
            ("x-own", "two"),
            ("x-amzn-trace-id", "Root=1"),
            ("x-amzn-bedrock-agentcore-runtime-custom-a", "b"),
        ];
        let passed = passed(&sent, Authorization::Stays);
        let value = |name: &str| {
            let found = passed.iter().filter(|(found, _)| found == name);
            found.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(value("cookie"), ["a=b; c=d"]);
        assert_eq!(value("x-own"), ["one", "two"]);
        assert_eq!(passed.len(), sent.len() - 1);
    }

    #[test]
    fn nothing_of_this_hop_of_the_daemons_or_in_the_runtimes_name_passes() {
        let sent = [
            ("host", "127.0.0.1:8080"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
            ("authorization", "Bearer x"),
            ("x-amz-date", "20260101T000000Z"),
            ("x-amz-security-token", "t"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-bedrock-agentcore-identity-wat", "forged"),
            ("x-amzn-bedrock-agentcore-runtime-session-id", "forged"),
            ("x-amzn-bedrock-agentcore-runtime-user-id", "u"),
            ("x-amzn-bedrock-agentcore-runtime-request-id", "forged"),
            ("workloadaccesstoken", "forged"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ];
        assert_eq!(passed(&sent, Authorization::Stays), []);
    }

    #[test]
    fn a_signature_stays_where_other_credentials_pass() {
        let of = |value| passed(&[("authorization", value)], Authorization::Passes).len();
        assert_eq!(of("Basic dTpw"), 1);
        assert_eq!(of("AWS4-HMAC-SHA256 Credential=a"), 0);
    }

    #[test]
    fn bounds_hold_at_the_limit() {
        let none: &[(String, String)] = &[];
        let path = |n: usize| "/".repeat(n);
        assert!(fits(&Method::GET, &path(MAX_TARGET), none).is_ok());
        let named = |name: &str| Method::from_bytes(name.as_bytes()).expect("a method");
        assert!(fits(&named(&"M".repeat(MAX_METHOD)), "/", none).is_ok());
        assert!(fits(&named(&"M".repeat(MAX_METHOD + 1)), "/", none).is_err());
        assert!(fits(&Method::CONNECT, "/", none).is_err());
        assert!(fits(&Method::GET, &path(MAX_TARGET + 1), none).is_err());
        assert!(
            fits(&Method::GET, "/ü", none).is_err() && fits(&Method::GET, "/a b", none).is_err()
        );
        let many = |n: usize| vec![("a".to_owned(), "b".to_owned()); n];
        assert!(fits(&Method::GET, "/", &many(MAX_HEADERS - ADDED_HEADERS)).is_ok());
        assert!(fits(&Method::GET, "/", &many(MAX_HEADERS - ADDED_HEADERS + 1)).is_err());
        let large = |n: usize| vec![("a".to_owned(), "b".repeat(n))];
        let most = MAX_HEAD - ADDED_BYTES - "/a: \r\n".len();
        assert!(
            fits(&Method::GET, "/", &large(most)).is_ok()
                && fits(&Method::GET, "/", &large(most + 1)).is_err()
        );
    }
}
