//! Signatures on requests over TCP, with the keys that `agentcore keys create` makes (contract §7.2).
//!
//! For: finding credentials where AWS's tools find them (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`) and
//! signing one request. Not for: Unix sockets, whose peers the kernel names. A daemon that asks for no signature does
//! not look at one.

use crate::bundle::pack::hex;
use crate::daemon::{Body, full};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Body as _;
use hyper::header::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use std::time::SystemTime;

/// The service that both planes and `/v1` are signed for.
const SERVICE: &str = "bedrock-agentcore";

/// A daemon's region unless it is configured.
const REGION: &str = "us-local-1";

/// How a signer says the payload's hash, or that it is not covered.
pub(crate) const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What is said of a payload that is not covered.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Largest body that is read into memory for its hash. Of larger ones, and of streams, the signature covers the head only.
const MAX_HASHED: u64 = 8 << 20;

/// Who signs, and for where.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    credentials: Credentials,
    region: String,
}

/// Why a request could not be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The body broke off while it was read.
    #[error("cannot read what is to be sent")]
    Body(#[source] std::io::Error),
    /// Not a request that has a signature.
    #[error("cannot sign the request: {0}")]
    Request(String),
}

impl Signer {
    /// With the variables that `read` knows; `None` unless both halves of a key are there.
    pub(crate) fn from_environment(read: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name| read(name).filter(|value| !value.is_empty());
        let (id, secret) = (set("AWS_ACCESS_KEY_ID")?, set("AWS_SECRET_ACCESS_KEY")?);
        // No session token: keys of a daemon are not temporary.
        let credentials = Credentials::new(id, secret, None, None, "environment");
        let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"));
        Some(Self {
            credentials,
            region: region.unwrap_or_else(|| REGION.to_owned()),
        })
    }

    /// What to say with a refusal.
    pub(crate) fn described(&self) -> String {
        let id = self.credentials.access_key_id();
        format!("key {id} in {}", self.region)
    }

    /// The request with its signature, made at `now`. The payload is covered if its hash is said in [`CONTENT_SHA256`], or
    /// if it is small.
    pub(crate) async fn signed(
        &self,
        request: Request<Body>,
        now: SystemTime,
    ) -> Result<Request<Body>, SignError> {
        let (mut head, body) = request.into_parts();
        let (body, payload) = match head.headers.get(&CONTENT_SHA256) {
            Some(said) => (body, said.to_str().unwrap_or_default().to_owned()),
            None if body
                .size_hint()
                .upper()
                .is_some_and(|most| most <= MAX_HASHED) =>
            {
                let bytes = body.collect().await.map_err(SignError::Body)?.to_bytes();
                let hash = hex(&Sha256::digest(&bytes));
                (full(bytes), hash)
            }
            None => {
                let unsigned = HeaderValue::from_static(UNSIGNED);
                head.headers.insert(CONTENT_SHA256, unsigned);
                (body, UNSIGNED.to_owned())
            }
        };
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(refused)?
            .into();
        // What is not text is not covered; nothing that must be covered is not text.
        let headers = head.headers.iter();
        let headers =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let (method, uri) = (head.method.as_str(), head.uri.to_string());
        let payload = SignableBody::Precomputed(payload);
        let signable = SignableRequest::new(method, uri, headers, payload).map_err(refused)?;
        let (instructions, _) = sign(signable, &params).map_err(refused)?.into_parts();
        let mut request = Request::from_parts(head, body);
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

fn refused(error: impl std::error::Error) -> SignError {
    SignError::Request(crate::failure::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{Daemon, empty};
    use hyper::Method;

    fn signer(variables: &[(&str, &str)]) -> Option<Signer> {
        Signer::from_environment(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn request(body: Body) -> Request<Body> {
        let endpoint = "http://127.0.0.1:1".parse().expect("an endpoint");
        Daemon::at(endpoint, None).request(Method::POST, "/v1/artifacts", body)
    }

    const KEY: [(&str, &str); 2] = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ];

    #[test]
    fn half_a_key_is_none() {
        for half in KEY {
            assert!(signer(&[half]).is_none());
            assert!(
                signer(&[half, (if half == KEY[0] { KEY[1].0 } else { KEY[0].0 }, "")]).is_none()
            );
        }
        assert!(signer(&KEY).is_some());
    }

    #[test]
    fn the_region_is_the_first_that_is_said() {
        for (more, region) in [
            (&[][..], "us-local-1"),
            (&[("AWS_DEFAULT_REGION", "eu-1")][..], "eu-1"),
            (
                &[("AWS_DEFAULT_REGION", "eu-1"), ("AWS_REGION", "eu-2")][..],
                "eu-2",
            ),
        ] {
            let signer = signer(&[&KEY[..], more].concat()).expect("a key");
            assert_eq!(signer.described(), format!("key AKID in {region}"));
        }
    }

    #[tokio::test]
    async fn payloads_are_covered_where_their_hash_is_known() {
        let signer = signer(&KEY).expect("a key");
        let now = SystemTime::UNIX_EPOCH;
        let said = |request: &Request<Body>| {
            let said = request.headers().get(CONTENT_SHA256)?;
            Some(said.to_str().expect("text").to_owned())
        };
        let small = signer
            .signed(request(full("{}")), now)
            .await
            .expect("signed");
        assert_eq!(said(&small), None);
        let authorization = &small.headers()[hyper::header::AUTHORIZATION];
        let authorization = authorization.to_str().expect("text");
        assert!(
            authorization.starts_with(
                "AWS4-HMAC-SHA256 Credential=AKID/19700101/us-local-1/bedrock-agentcore/aws4_request"
            ),
            "{authorization}"
        );
        let other = signer
            .signed(request(full("[]")), now)
            .await
            .expect("signed");
        assert_ne!(other.headers()[hyper::header::AUTHORIZATION], authorization);
        let (_, stream) = http_body_util::channel::Channel::<bytes::Bytes, std::io::Error>::new(1);
        let stream = request(stream.boxed());
        let stream = signer.signed(stream, now).await.expect("signed");
        assert_eq!(said(&stream).as_deref(), Some(UNSIGNED));
        let mut known = request(empty());
        let hash = HeaderValue::from_static("00");
        known.headers_mut().insert(CONTENT_SHA256, hash);
        let known = signer.signed(known, now).await.expect("signed");
        assert_eq!(said(&known).as_deref(), Some("00"));
    }
}
