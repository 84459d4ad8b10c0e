//! A bearer token as callers present it: in `Authorization`, or, where a browser cannot set that, as a WebSocket subprotocol
//! (contract §2.6 c, d).

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

/// What the subprotocol is called; the server selects it, without the token.
pub const SUBPROTOCOL: &str = "base64UrlBearerAuthorization";

/// The token, if there is one; an error says why what is there is none.
pub fn token(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let mut tokens = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| "Authorization is not text")?;
        if let Some((scheme, rest)) = value.split_once(' ')
            && scheme.eq_ignore_ascii_case("bearer")
        {
            tokens.push(rest.trim().to_owned());
        }
    }
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offers = offers.filter_map(|value| value.to_str().ok());
    for offer in offers.flat_map(|value| value.split(',')) {
        let encoded = offer.trim().strip_prefix(SUBPROTOCOL);
        if let Some(encoded) = encoded.and_then(|rest| rest.strip_prefix('.')) {
            let decoded = URL_SAFE_NO_PAD
                .decode(encoded)
                .or_else(|_| URL_SAFE.decode(encoded))
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or("the subprotocol's token is not base64url of a text")?;
            tokens.push(decoded);
        }
    }
    tokens.dedup();
    match tokens.len() {
        0 => Ok(None),
        1 => Ok(tokens.pop()),
        _ => Err("there are several tokens"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("value"));
        }
        token(&headers)
    }

    #[test]
    fn a_token_comes_by_header_or_by_subprotocol() {
        let offer = |text: &str| {
            format!(
                "{SUBPROTOCOL}.{}, {SUBPROTOCOL}",
                URL_SAFE_NO_PAD.encode(text)
            )
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(
            of(&[("authorization", "Bearer a.b.c")]),
            Ok(Some("a.b.c".to_owned()))
        );
        assert_eq!(
            of(&[("authorization", "bearer  a.b.c ")]),
            Ok(Some("a.b.c".to_owned()))
        );
        assert_eq!(
            of(&[("authorization", "AWS4-HMAC-SHA256 Credential=x")]),
            Ok(None)
        );
        let browser = offer("a.b.c");
        assert_eq!(
            of(&[("sec-websocket-protocol", &browser)]),
            Ok(Some("a.b.c".to_owned()))
        );
        let padded = format!("chat, {SUBPROTOCOL}.YS5iLmM=");
        assert_eq!(
            of(&[("sec-websocket-protocol", &padded)]),
            Ok(Some("a.b.c".to_owned()))
        );
        assert_eq!(of(&[("sec-websocket-protocol", SUBPROTOCOL)]), Ok(None));
        let both = [
            ("authorization", "Bearer a.b.c"),
            ("sec-websocket-protocol", browser.as_str()),
        ];
        assert_eq!(of(&both), Ok(Some("a.b.c".to_owned())));
        for bad in [
            &[
                ("authorization", "Bearer x"),
                ("sec-websocket-protocol", browser.as_str()),
            ][..],
            &[("authorization", "Bearer x"), ("authorization", "Bearer y")],
            &[("sec-websocket-protocol", "base64UrlBearerAuthorization.%%")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
