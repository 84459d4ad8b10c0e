//! The daemon as the command sees it: HTTP/1.1 requests, one connection each.
//!
//! For: sending, and turning every way in which that fails into a [`DaemonError`]. Not for: deciding what to ask for.
//! One connection per request costs nothing on a Unix socket, and closing it is how a caller that gives up tells the
//! daemon so.

use crate::endpoint::Endpoint;
use crate::failure::{Exit, Failure, chain};
use crate::signer::{SignError, Signer};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto::api::Page;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::SystemTime;

pub(crate) mod refusal;
pub(crate) use refusal::{Credentials, Refusal};

/// What we send.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Largest document that is read into memory (lists, errors). Agents' answers are streamed, never collected.
const MAX_DOCUMENT: usize = 16 << 20;

/// Header that names the caller's session (contract §2.2).
pub(crate) const SESSION_HEADER: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// These bytes as a body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    endpoint: Endpoint,
    signer: Option<Signer>,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// No connection.
    #[error("no daemon answers at {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// It was not sent.
    #[error(transparent)]
    Unsigned(#[from] SignError),
    /// The connection broke before an answer was complete.
    #[error("the connection to the daemon broke during {method} {path}")]
    Broken {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon, or the agent behind it, said no.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The answer is not what this path answers.
    #[error("{endpoint} does not answer {path} like an AgentCore daemon")]
    Foreign {
        /// Where.
        endpoint: Endpoint,
        /// Of the request.
        path: String,
        /// What could not be read.
        source: serde_json::Error,
    },
}

impl Daemon {
    /// The daemon at `endpoint`; requests over TCP are signed if `signer` is there.
    pub(crate) fn at(endpoint: Endpoint, signer: Option<Signer>) -> Self {
        let signer = signer.filter(|_| matches!(endpoint, Endpoint::Tcp(_)));
        Self { endpoint, signer }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A request for `path` (already percent-encoded, query included).
    pub(crate) fn request(&self, method: Method, path: &str, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path
            .parse()
            .expect("paths are made of constants and percent-encoded parts");
        let host = HeaderValue::from_str(self.endpoint.host());
        request.headers_mut().insert(
            HOST,
            host.expect("an authority holds no character that a header forbids"),
        );
        request.headers_mut().insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("agentcore/", env!("CARGO_PKG_VERSION"))),
        );
        request
    }

    /// Sends `request`; the answer may have any status.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, DaemonError> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let request = match &self.signer {
            Some(signer) => signer.signed(request, SystemTime::now()).await?,
            None => request,
        };
        let connection = self.endpoint.connect().await;
        let connection = connection.map_err(|source| DaemonError::Unreachable {
            endpoint: self.endpoint.clone(),
            source,
        })?;
        let broken = |error: hyper::Error| DaemonError::Broken {
            method: method.clone(),
            path: path.clone(),
            source: error.into(),
        };
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
            .await
            .map_err(broken)?;
        // Ends with the answer's body, or when sender and body are dropped; its errors reach us through those.
        tokio::spawn(driver.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }

    /// Sends `request` and takes any answer that is not 2xx (or 101) as a refusal.
    pub(crate) async fn call(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, DaemonError> {
        let answer = self.send(request).await?;
        if answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            Ok(answer)
        } else {
            Err(DaemonError::Refused(Box::new(self.refusal(answer).await)))
        }
    }

    /// Reads a refusal, and notes what the call was made with.
    pub(crate) async fn refusal(&self, answer: Response<Incoming>) -> Refusal {
        let credentials = match (&self.endpoint, &self.signer) {
            (Endpoint::Unix(_), _) => Credentials::Peer,
            (Endpoint::Tcp(_), None) => Credentials::None,
            (Endpoint::Tcp(_), Some(signer)) => Credentials::Key(signer.described()),
        };
        Refusal::read(answer, credentials).await
    }

    /// The document at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DaemonError> {
        let answer = self.call(self.request(Method::GET, path, empty()));
        self.document(Method::GET, path, answer.await?).await
    }

    /// The document at `path`, or `None` if the daemon does not know it.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, DaemonError> {
        match self.get(path).await {
            Ok(document) => Ok(Some(document)),
            Err(DaemonError::Refused(refusal)) if refusal.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All items of the list at `path`, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Vec<T>, DaemonError> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let next = match &token {
                Some(token) => format!("&nextToken={}", encode(token)),
                None => String::new(),
            };
            let page: Page<T> = self
                .get(&format!("{path}{joint}maxResults=1000{next}"))
                .await?;
            items.extend(page.items);
            token = page.next_token;
            if token.is_none() {
                return Ok(items);
            }
        }
    }

    /// Sends `value` as JSON and reads the answer's document.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<(StatusCode, T), DaemonError> {
        let body = serde_json::to_vec(value).expect("our types have string keys");
        let mut request = self.request(Method::PUT, path, full(body));
        json(&mut request);
        let answer = self.call(request).await?;
        let status = answer.status();
        Ok((status, self.document(Method::PUT, path, answer).await?))
    }

    /// Posts `value` as JSON and reads the answer's document.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, DaemonError> {
        let body = serde_json::to_vec(value).expect("our types have string keys");
        let mut request = self.request(Method::POST, path, full(body));
        json(&mut request);
        let answer = self.call(request).await?;
        self.document(Method::POST, path, answer).await
    }

    /// The (bounded) text that answers `request`.
    pub(crate) async fn text(&self, request: Request<Body>) -> Result<String, DaemonError> {
        let path = request.uri().path().to_owned();
        let answer = self.call(request).await?;
        let bytes = self.collect(&Method::GET, &path, answer).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Deletes what is at `path`; the answer's body, if any, is left unread.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), DaemonError> {
        let answer = self
            .call(self.request(Method::DELETE, path, empty()))
            .await?;
        // Read to the end: a daemon that waits (`?wait=true`) is done only then.
        self.collect(&Method::DELETE, path, answer)
            .await
            .map(|_| ())
    }

    /// Reads a whole (bounded) document.
    pub(crate) async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        answer: Response<Incoming>,
    ) -> Result<T, DaemonError> {
        let bytes = self.collect(&method, path, answer).await?;
        serde_json::from_slice(&bytes).map_err(|source| DaemonError::Foreign {
            endpoint: self.endpoint.clone(),
            path: path.split('?').next().unwrap_or(path).to_owned(),
            source,
        })
    }

    async fn collect(
        &self,
        method: &Method,
        path: &str,
        answer: Response<Incoming>,
    ) -> Result<Bytes, DaemonError> {
        let collected = Limited::new(answer.into_body(), MAX_DOCUMENT)
            .collect()
            .await;
        collected
            .map(http_body_util::Collected::to_bytes)
            .map_err(|source| DaemonError::Broken {
                method: method.clone(),
                path: path.to_owned(),
                source,
            })
    }
}

/// Marks a request's body, and the wanted answer, as JSON.
pub(crate) fn json(request: &mut Request<Body>) {
    let value = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, value.clone());
    request.headers_mut().insert(ACCEPT, value);
}

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match &error {
            DaemonError::Unreachable { endpoint, source } => unreachable(endpoint, source),
            DaemonError::Unsigned(error) => Self::new(Exit::Failed, chain(error)),
            DaemonError::Broken { .. } => Self::new(Exit::Failed, chain(&error)).advice(
                "the daemon may have been stopped or have crashed; see `journalctl -u agentcored`",
            ),
            DaemonError::Refused(refusal) => refusal.failure(),
            DaemonError::Foreign { .. } => Self::new(Exit::Unreachable, chain(&error)).advice(
                "check --endpoint (AGENTCORE_ENDPOINT), and that command and daemon are of the same version",
            ),
        }
    }
}

fn unreachable(endpoint: &Endpoint, source: &io::Error) -> Failure {
    let what = format!("no daemon answers at {endpoint}: {source}");
    match source.kind() {
        // The socket is there but not for us.
        io::ErrorKind::PermissionDenied => Failure::new(Exit::NotPermitted, what).advice(
            "the socket is for root and the group `agentcore`: `sudo usermod -aG agentcore $USER`, then log in again",
        ),
        _ => Failure::new(Exit::Unreachable, what).advice(
            "start it with `systemctl start agentcored` (or `agentcored --dev`), or point --endpoint \
             (AGENTCORE_ENDPOINT) at a running one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_become_one_path_segment() {
        assert_eq!(
            encode("arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/a_b-0123456789"),
            "arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fa_b-0123456789"
        );
        assert_eq!(encode("ü~. "), "%C3%BC~.%20");
    }
}
