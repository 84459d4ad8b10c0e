//! Who is asking. Unix socket: peer credentials. TCP without authentication (loopback only): anyone on this machine, but
//! no web page — `Host` must be ours and a foreign `Origin` is refused, so neither DNS rebinding nor a form can reach us.

use super::reply::ApiError;
use crate::broker::Broker;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Request};
use proto::code::ErrorCode;
use std::net::SocketAddr;

/// Where a connection came from; put on each of its requests by the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over the Unix socket, by credentials that the kernel vouches for.
    Unix {
        /// Effective uid.
        uid: u32,
        /// Effective gid.
        gid: u32,
    },
    /// Over TCP.
    Tcp {
        /// Our end.
        local: SocketAddr,
    },
}

/// A caller who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A local user.
    User(u32),
    /// Somebody on this machine, unauthenticated (`--dev`).
    Loopback,
}

/// Identifies the caller of a request, or refuses it.
pub fn caller<B>(broker: &Broker, request: &Request<B>) -> Result<Caller, ApiError> {
    match request.extensions().get::<Peer>() {
        Some(Peer::Unix { uid, gid }) => {
            if broker.access.permits(*uid, *gid) {
                Ok(Caller::User(*uid))
            } else {
                Err(ApiError::new(
                    ErrorCode::AccessDenied,
                    format!(
                        "user {uid} may not use this daemon; become root or a member of group {}",
                        broker.access.group_name()
                    ),
                ))
            }
        }
        Some(Peer::Tcp { local }) => {
            check_host(
                request.headers(),
                request.uri().authority().map(|a| a.as_str()),
                *local,
            )?;
            check_origin(request.headers(), *local)?;
            Ok(Caller::Loopback)
        }
        None => Err(ApiError::new(
            ErrorCode::Internal,
            "a connection without a peer",
        )),
    }
}

fn check_host(
    headers: &HeaderMap,
    authority: Option<&str>,
    local: SocketAddr,
) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(ApiError::field("Host", "is given twice"));
    }
    let host = match (header.map(|value| value.to_str()), authority) {
        (Some(Ok(host)), _) => host,
        // HTTP/2 has the authority in the request line.
        (None, Some(authority)) => authority,
        (Some(Err(_)) | None, _) => {
            return Err(ApiError::field("Host", "is missing or not text"));
        }
    };
    if is_ours(host, local) {
        Ok(())
    } else {
        Err(ApiError::new(
            ErrorCode::MisdirectedRequest,
            format!("Host `{host}` is not this daemon; use 127.0.0.1, localhost or [::1]"),
        ))
    }
}

fn check_origin(headers: &HeaderMap, local: SocketAddr) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let ours = origin
        .to_str()
        .ok()
        .and_then(|origin| {
            origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"))
        })
        .is_some_and(|host| is_ours(host, local));
    if ours {
        Ok(())
    } else {
        Err(ApiError::new(
            ErrorCode::AccessDenied,
            "requests from web pages of other origins are refused",
        ))
    }
}

/// `localhost`, a loopback address or the address that we listen on; any port, since tunnels and proxies change it.
fn is_ours(host: &str, local: SocketAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, after)) if after.is_empty() || port_ok(after) => name,
            Some(_) | None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                name
            }
            Some(_) => return false,
            None => host,
        },
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    name.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback() || address == local.ip())
}

fn port_ok(after: &str) -> bool {
    after
        .strip_prefix(':')
        .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Who may use the Unix socket: root, the daemon's own user, members of its group.
#[derive(Debug, Clone)]
pub struct Access {
    user: u32,
    group: Option<nix::unistd::Group>,
}

impl Access {
    /// For a broker that runs as `user`, with members of `group` if the host has it.
    #[must_use]
    pub fn new(user: u32, group: Option<nix::unistd::Group>) -> Self {
        Self { user, group }
    }

    /// Whether a peer may call. The group's members are those of the group file; a process that has it as its effective
    /// group is a member too.
    #[must_use]
    pub fn permits(&self, uid: u32, gid: u32) -> bool {
        if uid == 0 || uid == self.user {
            return true;
        }
        let Some(group) = &self.group else {
            return false;
        };
        if group.gid.as_raw() == gid {
            return true;
        }
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
            .ok()
            .flatten()
            .is_some_and(|user| group.mem.contains(&user.name) || user.gid == group.gid)
    }

    fn group_name(&self) -> &str {
        self.group
            .as_ref()
            .map_or("agentcore", |group| group.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_are_ours() {
        let local: SocketAddr = "127.0.0.1:8080".parse().expect("addr");
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:99",
            "[::1]:8080",
            "127.8.8.8:1",
        ] {
            assert!(is_ours(host, local), "{host}");
        }
        for host in [
            "evil.com",
            "127.0.0.1.evil",
            "localhost.evil:80",
            "localhost:",
            "localhost:80:80",
            "[::1",
            "[::1]x",
            "",
            "10.0.0.1",
        ] {
            assert!(!is_ours(host, local), "{host}");
        }
    }
}
