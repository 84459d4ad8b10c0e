//! One document from an issuer: bounded in size and time, no redirects, and only from where the operator lets it come.
//!
//! Whoever deploys a runtime names its issuer, so the URL is a stranger's: it is judged as an agent's outbound connection is
//! (`crate::egress`), address by address after resolving. Private addresses and plain HTTP need an entry of the operator's.

use super::lookups::Lookups;
use crate::egress::own_addresses::OwnAddresses;
use crate::egress::policy::may_dial;
use crate::fault::chain;
use crate::trust::Trust;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use session_core::egress::{AllowList, Target};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

/// From resolving to the last byte.
const TIME: Duration = Duration::from_secs(5);

/// Where issuers may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IssuerPolicy {
    /// Only these, if given.
    pub issuers: Option<AllowList>,
    /// These may be at private addresses, and without TLS.
    pub allow_private: AllowList,
}

/// Fetches documents.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    own: OwnAddresses,
    lookups: Lookups,
    trust: Trust,
}

/// A document that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Where it is.
    pub(super) url: &'a str,
    /// Where the metadata of the issuer is that says so: it answers for the host as well, whichever it names.
    pub(super) issuer: &'a str,
    /// Most bytes of it.
    pub(super) max: usize,
}

impl Fetcher {
    /// The document; why not, for the audit.
    pub(super) async fn get(
        &self,
        wanted: Wanted<'_>,
        policy: &IssuerPolicy,
    ) -> Result<Bytes, String> {
        let fetched = tokio::time::timeout(TIME, self.fetch(wanted, policy)).await;
        fetched
            .unwrap_or_else(|_| Err(format!("did not answer within {} s", TIME.as_secs())))
            .map_err(|fault| format!("{}: {fault}", wanted.url))
    }

    async fn fetch(&self, wanted: Wanted<'_>, policy: &IssuerPolicy) -> Result<Bytes, String> {
        let Wanted { url, issuer, max } = wanted;
        let uri: Uri = url.parse().map_err(|_| "is not a URL".to_owned())?;
        let (secure, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err("is neither https nor http".to_owned()),
        };
        let authority = uri.authority().ok_or("names no host")?.as_str();
        let target = Target::parse(authority, port).map_err(|error| error.to_string())?;
        if policy
            .issuers
            .as_ref()
            .is_some_and(|list| !list.permits(&target))
        {
            return Err("is not one of the operator's (tokens.issuers)".to_owned());
        }
        if !secure && !policy.allow_private.permits(&target) {
            return Err(
                "is without TLS (tokens.allow_private opens exactly one host and port)".to_owned(),
            );
        }
        let stream = self.dial(&target, issuer, policy).await?;
        let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, authority)
            .header(ACCEPT, "application/json")
            .header(
                USER_AGENT,
                concat!("agentcored/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|_| "is not a URL".to_owned())?;
        if !secure {
            return exchange(stream, request, max).await;
        }
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| "names a host that no certificate can name".to_owned())?;
        let stream = TlsConnector::from(self.trust.config().await?)
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS: {error}"))?;
        exchange(stream, request, max).await
    }

    async fn dial(
        &self,
        target: &Target,
        issuer: &str,
        policy: &IssuerPolicy,
    ) -> Result<TcpStream, String> {
        let resolved = match target.address() {
            Some(address) => vec![(address, target.port).into()],
            None => self.lookups.resolve(issuer, target).await?,
        };
        let own = self
            .own
            .now()
            .map_err(|error| format!("this host's own addresses are not known: {error}"))?;
        let dialled = may_dial(&policy.allow_private, target, &resolved, &own)
            .map_err(|refused| format!("may not be asked ({refused}; for issuers: [tokens])"))?;
        TcpStream::connect(dialled.as_slice())
            .await
            .map_err(|error| format!("could not be reached: {error}"))
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>, max: usize) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| chain(&error))?;
    // Ends with this exchange, whatever the issuer would still like to send.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| chain(&error))?;
    if answer.status() != StatusCode::OK {
        // A redirect too: where the keys are is the operator's and the metadata's word.
        return Err(format!("answered with status {}", answer.status()));
    }
    Limited::new(answer.into_body(), max)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(
            |error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
                Some(_) => format!("has more than {max} bytes"),
                None => format!("broke off: {error}"),
            },
        )
}
