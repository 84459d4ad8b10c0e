//! Where the daemon listens: `unix:PATH` or `http://HOST:PORT`.
//!
//! For: reading `--endpoint` and opening one connection. Not for: HTTP (`daemon`).

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The socket that a daemon with default settings has.
pub(crate) const DEFAULT: &str = "unix:/run/agentcore/api.sock";

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Why an endpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// Neither form.
    #[error("write unix:/path/to/api.sock or http://host:port")]
    Form,
    /// TLS is somebody else's work.
    #[error(
        "https is not spoken here; put a TLS proxy or `ssh -L` in between and use http://host:port"
    )]
    Tls,
    /// A path or query after the port.
    #[error("nothing may follow the port in http://host:port")]
    Tail,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        // A variable that is set to nothing says nothing.
        let text = if text.is_empty() { DEFAULT } else { text };
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is how other tools write `unix:/run/x`.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(EndpointError::Form)
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if text.starts_with("https:") {
            return Err(EndpointError::Tls);
        }
        let address = text.strip_prefix("http://").ok_or(EndpointError::Form)?;
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains(['/', '?', '#']) {
            return Err(EndpointError::Tail);
        }
        let authority: hyper::http::uri::Authority =
            address.parse().map_err(|_| EndpointError::Form)?;
        match authority.port_u16() {
            Some(_) => Ok(Self::Tcp(address.to_owned())),
            None if authority.as_str().contains('@') || authority.host().is_empty() => {
                Err(EndpointError::Form)
            }
            None => Ok(Self::Tcp(format!("{address}:80"))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

impl Endpoint {
    /// The `Host` header for it.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Tcp(address) => address,
        }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> std::io::Result<Connection> {
        match self {
            Self::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path).await?)),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
        }
    }
}

/// An open connection of either kind.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_printed() {
        for (text, printed) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("http://box", "http://box:80"),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), printed);
        }
    }

    #[test]
    fn other_forms_are_refused_with_the_reason() {
        for (text, error) in [
            ("unix:", EndpointError::Form),
            ("/run/a.sock", EndpointError::Form),
            ("https://a:1", EndpointError::Tls),
            ("http://a:1/v1", EndpointError::Tail),
            ("http://", EndpointError::Form),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }
}
