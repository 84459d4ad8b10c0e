//! A callback's URL, read once, at submission.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use session_core::egress::Target;
use std::fmt;

/// Longest URL.
pub const MAX_URL: usize = 2048;

/// `https://HOST[:PORT]/PATH?QUERY`, or `http` where the operator allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackUrl {
    text: String,
    /// Whether it is told over TLS.
    pub(crate) secure: bool,
    /// The host and port as written, for `Host`.
    pub(crate) authority: String,
    /// Whom.
    pub(crate) target: Target,
    /// Where there.
    pub(crate) path: PathAndQuery,
}

/// Why a text is not the URL of a callback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Too long.
    #[error("must have at most {MAX_URL} characters, has {0}")]
    Long(usize),
    /// Not a URL.
    #[error("must be an absolute URL, such as https://hooks.example.com/done")]
    Form,
    /// Not one of HTTP.
    #[error("must begin with https:// (or http://, where callbacks.allow_private opens the host)")]
    Scheme,
    /// A secret in an address, which would be in logs.
    #[error("must not hold a user or password: calls are signed instead")]
    User,
    /// Never sent.
    #[error("must not hold a fragment (#…), which is never sent")]
    Fragment,
    /// Not a host that can be judged.
    #[error("must name a host: {0}")]
    Host(String),
}

impl CallbackUrl {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Long(text.chars().count()));
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let (secure, port) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => (true, 443),
            Some(scheme) if *scheme == Scheme::HTTP => (false, 80),
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::Form),
        };
        let authority = uri.authority().ok_or(UrlError::Form)?.as_str();
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let target =
            Target::parse(authority, port).map_err(|error| UrlError::Host(error.to_string()))?;
        let path = uri.path_and_query().cloned();
        Ok(Self {
            text: text.to_owned(),
            secure,
            authority: authority.to_owned(),
            target,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whom it tells: what is at one host and port is one receiver.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl fmt::Display for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_receivers_are_read() {
        for (text, secure, host, port, path) in [
            ("https://hooks.test", true, "hooks.test", 443, "/"),
            (
                "https://Hooks.TEST:8443/a?b=c",
                true,
                "hooks.test",
                8443,
                "/a?b=c",
            ),
            ("HTTP://10.0.0.5/x", false, "10.0.0.5", 80, "/x"),
            ("https://[::1]:9/", true, "::1", 9, "/"),
        ] {
            let url = CallbackUrl::parse(text).expect(text);
            assert_eq!(url.secure, secure, "{text}");
            assert_eq!(
                url.target,
                Target {
                    host: host.into(),
                    port
                },
                "{text}"
            );
            assert_eq!(url.path.as_str(), path, "{text}");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_reason() {
        let long = format!("https://a.test/{}", "x".repeat(MAX_URL));
        for (text, told) in [
            ("", "absolute"),
            ("/done", "absolute"),
            ("hooks.test", "absolute"),
            ("https://", "absolute"),
            ("https://a.test/\n", "absolute"),
            ("https://a b.test/", "absolute"),
            ("ftp://a.test/", "https://"),
            ("file:///etc/passwd", "absolute"),
            ("https://user:word@a.test/", "password"),
            ("https://a.test/#x", "fragment"),
            ("https://2130706433/", "host"),
            ("https://0x7f000001/", "host"),
            ("https://127.1/", "host"),
            ("https://a..test/", "host"),
            ("https://a.test:0/", "host"),
            (&long, "2048"),
        ] {
            let error = CallbackUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
