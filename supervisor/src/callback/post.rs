//! One attempt to tell somebody: resolve, judge, dial, send, hear a status.

use super::policy::{CallbackPolicy, Refused};
use super::signature::Secret;
use super::url::CallbackUrl;
use crate::egress::own_addresses::OwnAddresses;
use crate::fault::chain;
use crate::tokens::lookups::Lookups;
use crate::trust::Trust;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

/// Longest head of an answer.
const MAX_HEAD: usize = 64 * 1024;

/// What somebody is told.
#[derive(Debug)]
pub struct Message<'a> {
    /// The same for every attempt: receivers know by it that they have heard it before.
    pub id: &'a str,
    /// JSON.
    pub body: Bytes,
    /// Signs it.
    pub secret: &'a Secret,
}

/// Why an attempt failed, in words that follow the receiver's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It may not be called. Another attempt may find another address, or another configuration.
    #[error("may not be called: {0}")]
    Refused(#[from] Refused),
    /// It does not want to hear of it any more.
    #[error("answered with status 410 (Gone)")]
    Gone,
    /// It said something else than 2xx.
    #[error("answered with status {0}")]
    Status(u16),
    /// Redirects are not followed: where they lead was not judged, and whom they tell not meant.
    #[error("answered with status {0}, a redirect, which is not followed")]
    Redirect(u16),
    /// It did not answer in time.
    #[error("did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It could not be called.
    #[error("{0}")]
    Unreachable(String),
}

impl Failed {
    /// Whether another attempt would be of no use.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Gone)
    }
}

/// Makes attempts.
#[derive(Debug, Default)]
pub struct Post {
    own: OwnAddresses,
    lookups: Lookups,
    trust: Trust,
}

impl Post {
    /// Tells it, in at most `timeout`.
    pub async fn tell(
        &self,
        url: &CallbackUrl,
        message: &Message<'_>,
        policy: &CallbackPolicy,
        timeout: Duration,
    ) -> Result<(), Failed> {
        let told = tokio::time::timeout(timeout, self.attempt(url, message, policy)).await;
        told.unwrap_or(Err(Failed::Late(timeout)))
    }

    async fn attempt(
        &self,
        url: &CallbackUrl,
        message: &Message<'_>,
        policy: &CallbackPolicy,
    ) -> Result<(), Failed> {
        let unreachable = Failed::Unreachable;
        let addresses = self.addresses(url, policy).await?;
        // Exactly those that were judged; the name is not asked for again.
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream =
            stream.map_err(|error| unreachable(format!("could not be reached: {error}")))?;
        let request = request(url, message, SystemTime::now())
            .map_err(|error| unreachable(format!("cannot be called: {error}")))?;
        let status = if url.secure {
            let name = ServerName::try_from(url.target.host.clone())
                .map_err(|_| unreachable("names a host that no certificate can name".to_owned()))?;
            let config = self.trust.config().await.map_err(unreachable)?;
            let stream = TlsConnector::from(config).connect(name, stream).await;
            exchange(
                stream.map_err(|error| unreachable(format!("TLS: {error}")))?,
                request,
            )
            .await
        } else {
            exchange(stream, request).await
        };
        judge(status.map_err(unreachable)?)
    }

    async fn addresses(
        &self,
        url: &CallbackUrl,
        policy: &CallbackPolicy,
    ) -> Result<Vec<SocketAddr>, Failed> {
        let target = &url.target;
        let resolved = match target.address() {
            Some(address) => vec![(address, target.port).into()],
            None => self
                .lookups
                .resolve(url.as_str(), target)
                .await
                .map_err(Failed::Unreachable)?,
        };
        let own = self.own.now().map_err(|error| {
            Failed::Unreachable(format!("this host's own addresses are not known: {error}"))
        })?;
        Ok(policy.may_dial(url, &resolved, &own)?)
    }
}

fn judge(status: StatusCode) -> Result<(), Failed> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::GONE => Err(Failed::Gone),
        status if status.is_redirection() => Err(Failed::Redirect(status.as_u16())),
        status => Err(Failed::Status(status.as_u16())),
    }
}

fn request(
    url: &CallbackUrl,
    message: &Message<'_>,
    now: SystemTime,
) -> http::Result<Request<Full<Bytes>>> {
    let timestamp = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Request::post(url.path.clone())
        .header(HOST, &url.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(
            USER_AGENT,
            concat!("agentcored/", env!("CARGO_PKG_VERSION")),
        )
        .header("webhook-id", message.id)
        .header("webhook-timestamp", timestamp)
        .header(
            "webhook-signature",
            message.secret.sign(message.id, timestamp, &message.body),
        )
        .body(Full::new(message.body.clone()))
}

/// The answer's status. Whatever else it would like to say ends with the connection.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    let handshake = builder
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = handshake.map_err(|error| chain(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await;
    answer
        .map(|answer| answer.status())
        .map_err(|error| format!("broke off: {}", chain(&error)))
}

#[cfg(test)]
mod tests;
