//! The handshake as far as it concerns this hop (RFC 6455 §4): an offer that is one, the headers that carry it on to the
//! agent, the answer to the caller.
//!
//! Extensions are offered to nobody: compressed frames could not be held to the bounds on frames, which say what arrives.

use crate::api::bearer::SUBPROTOCOL;
use crate::api::reply::ApiError;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The name in `Upgrade`.
const WEBSOCKET: &str = "websocket";

/// A caller's offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    key: String,
    protocols: Vec<String>,
}

impl Offer {
    /// The offer in a request; an error names the header that is missing or wrong.
    pub fn read(request: &Parts) -> Result<Self, ApiError> {
        if request.version == Version::HTTP_2 {
            let text = "cannot come by HTTP/2; use HTTP/1.1";
            return Err(ApiError::field("WebSocket", text));
        }
        let headers = &request.headers;
        if !words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(WEBSOCKET)) {
            return Err(ApiError::field("Upgrade", "must be `websocket`"));
        }
        if !words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
            return Err(ApiError::field("Connection", "must be `Upgrade`"));
        }
        // Each may be there again: AWS's SDK hands out the headers of a whole handshake, and libraries send them after their
        // own. A library looks for the answer to its own key, the first; nothing of the others goes anywhere.
        let version = each(headers, &SEC_WEBSOCKET_VERSION, |version| version == "13");
        if version.is_none() {
            return Err(ApiError::field("Sec-WebSocket-Version", "must be `13`"));
        }
        let key = each(headers, &SEC_WEBSOCKET_KEY, is_key)
            .ok_or_else(|| ApiError::field("Sec-WebSocket-Key", "must be 16 bytes in base64"))?;
        let protocols: Vec<String> = words(headers, &SEC_WEBSOCKET_PROTOCOL)
            .map(str::to_owned)
            .collect();
        Ok(Self {
            key: key.to_owned(),
            protocols,
        })
    }

    /// The subprotocols that are the agent's business: not those that carry a token.
    fn for_agent(&self) -> impl Iterator<Item = &str> {
        self.protocols.iter().map(String::as_str).filter(|name| {
            let token = name
                .strip_prefix(SUBPROTOCOL)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            !token
        })
    }

    /// Whether the caller authorizes itself by a subprotocol.
    fn has_bearer(&self) -> bool {
        self.protocols.iter().any(|name| name == SUBPROTOCOL)
    }

    /// What of it goes to the agent.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![
            (UPGRADE.as_str().to_owned(), WEBSOCKET.to_owned()),
            (SEC_WEBSOCKET_VERSION.as_str().to_owned(), "13".to_owned()),
            (SEC_WEBSOCKET_KEY.as_str().to_owned(), self.key.clone()),
        ];
        let protocols: Vec<&str> = self.for_agent().collect();
        if !protocols.is_empty() {
            let name = SEC_WEBSOCKET_PROTOCOL.as_str().to_owned();
            headers.push((name, protocols.join(", ")));
        }
        headers
    }

    /// The answer of this end, with the subprotocol that it speaks.
    #[must_use]
    pub fn accept<B: Default>(&self, protocol: Option<&str>) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        let protocol = if self.has_bearer() {
            Some(SUBPROTOCOL)
        } else {
            protocol
        };
        let said = [
            (SEC_WEBSOCKET_ACCEPT, Some(self.accept_key())),
            (SEC_WEBSOCKET_PROTOCOL, protocol.map(str::to_owned)),
        ];
        for (name, value) in said {
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
        response
    }

    /// The subprotocol in an agent's 101; an error says how that is no answer to this offer.
    pub fn agreed<'a>(
        &self,
        headers: &'a [(String, String)],
    ) -> Result<Option<&'a str>, &'static str> {
        let of = |name: &HeaderName| {
            let mut found = headers.iter().filter(|(found, _)| *found == name.as_str());
            let first = found.next().map(|(_, value)| value.trim());
            (first, found.next().is_some())
        };
        let (upgrade, _) = of(&UPGRADE);
        if !upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(WEBSOCKET)) {
            return Err("its 101 is to another protocol");
        }
        if of(&SEC_WEBSOCKET_ACCEPT) != (Some(self.accept_key().as_str()), false) {
            return Err("its Sec-WebSocket-Accept does not answer the key");
        }
        let (extensions, _) = of(&http::header::SEC_WEBSOCKET_EXTENSIONS);
        if extensions.is_some_and(|extensions| !extensions.is_empty()) {
            return Err("it uses an extension that was not offered");
        }
        match of(&SEC_WEBSOCKET_PROTOCOL) {
            (None, _) => Ok(None),
            (Some(chosen), false) if self.for_agent().any(|offered| offered == chosen) => {
                Ok(Some(chosen))
            }
            (Some(_), _) => Err("it selected a subprotocol that was not offered"),
        }
    }

    fn accept_key(&self) -> String {
        derive_accept_key(self.key.as_bytes())
    }
}

/// Whether this is 16 bytes in base64: 22 digits and the padding.
fn is_key(key: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix("==")
        .is_some_and(|digits| digits.len() == 22 && digits.bytes().all(digit))
}

/// The comma-separated words of all headers of a name.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The first value of a header of which all are good.
fn each<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    good: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let text = |value: &'a HeaderValue| value.to_str().ok().map(str::trim);
    let values = headers.get_all(name);
    let all = values.iter().all(|value| text(value).is_some_and(&good));
    all.then(|| values.iter().next().and_then(text))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn offer(change: &[(&str, Option<&str>)]) -> Result<Offer, ApiError> {
        let mut request = http::Request::new(());
        let headers = request.headers_mut();
        for (name, value) in [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in change {
            let name = HeaderName::try_from(*name).expect("name");
            match value {
                Some(value) => {
                    headers.append(name, HeaderValue::from_str(value).expect("value"));
                }
                None => {
                    headers.remove(name);
                }
            }
        }
        Offer::read(&request.into_parts().0)
    }

    #[test]
    fn the_rfcs_own_key_is_answered() {
        let response: Response<()> = offer(&[]).expect("an offer").accept(Some("chat"));
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], ACCEPT);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    }

    #[test]
    fn of_several_keys_the_first_is_answered() {
        let again = [
            ("upgrade", Some("websocket")),
            ("connection", Some("Upgrade")),
            ("sec-websocket-version", Some("13")),
            ("sec-websocket-key", Some("AAAAAAAAAAAAAAAAAAAAAA==")),
        ];
        let offer = offer(&again).expect("an offer");
        let response: Response<()> = offer.accept(None);
        assert_eq!(response.headers()["sec-websocket-accept"], ACCEPT);
        let keys = offer.headers().into_iter();
        let keys: Vec<_> = keys
            .filter(|(name, _)| name == "sec-websocket-key")
            .collect();
        assert_eq!(keys, [("sec-websocket-key".to_owned(), KEY.to_owned())]);
    }

    #[test]
    fn what_is_no_offer_names_its_header() {
        for (change, field) in [
            (("upgrade", None), "Upgrade"),
            (("connection", None), "Connection"),
            (("sec-websocket-version", None), "Sec-WebSocket-Version"),
            (
                ("sec-websocket-version", Some("8")),
                "Sec-WebSocket-Version",
            ),
            (("sec-websocket-key", None), "Sec-WebSocket-Key"),
            (("sec-websocket-key", Some("no key")), "Sec-WebSocket-Key"),
        ] {
            let error = offer(&[change]).expect_err(field);
            assert_eq!(error.fields[0].name, field);
        }
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25j\u{7f}Q==",
        ] {
            assert!(!is_key(key), "{key:?}");
        }
    }

    #[test]
    fn a_token_in_a_subprotocol_stays_here() {
        let token = format!("{SUBPROTOCOL}.c2VjcmV0, chat , {SUBPROTOCOL}");
        let offer = offer(&[("sec-websocket-protocol", Some(&token))]).expect("an offer");
        let headers = offer.headers();
        let told = headers
            .iter()
            .find(|(name, _)| name == "sec-websocket-protocol");
        assert_eq!(told.map(|(_, value)| value.as_str()), Some("chat"));
        assert!(!format!("{headers:?}").contains("c2VjcmV0"));
        let response: Response<()> = offer.accept(Some("chat"));
        assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    }

    #[test]
    fn an_agents_answer_is_to_this_offer_or_none() {
        let offer = offer(&[("sec-websocket-protocol", Some("a, b"))]).expect("an offer");
        let answer = |more: &[(&str, &str)]| {
            let all = [("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)];
            all.iter()
                .filter(|(name, _)| !more.iter().any(|(other, _)| other == name))
                .chain(more)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(offer.agreed(&answer(&[])), Ok(None));
        assert_eq!(
            offer.agreed(&answer(&[("sec-websocket-protocol", "b")])),
            Ok(Some("b"))
        );
        for wrong in [
            ("upgrade", "h2c"),
            ("sec-websocket-accept", "AAAALMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "c"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ] {
            assert!(offer.agreed(&answer(&[wrong])).is_err(), "{wrong:?}");
        }
    }
}
