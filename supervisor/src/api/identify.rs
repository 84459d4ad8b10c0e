//! Who is asking. Unix socket: peer credentials. TCP without authentication (loopback only): anyone on this machine, but
//! no web page — `Host` must be ours and a foreign `Origin` is refused, so neither DNS rebinding nor a form can reach us.
//! TCP with authentication: a stranger, until the request says more (`super::authenticate`, `super::authorize`).

use super::reply::ApiError;
use crate::broker::Broker;
use crate::config::TcpAuth;
use crate::keys::AccessKey;
use crate::owner::{Owner, Principal, USER_ID, UserId};
use crate::tokens::TokenCaller;
use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use nix::unistd::{Gid, Group, Uid, User};
use proto::code::ErrorCode;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Says of what page a browser's request is (Fetch Metadata); no page can set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long the word of the host's user database counts: whoever is taken out of the group is refused after this at the
/// latest, without a restart.
const MEMBERSHIP_KEPT: Duration = Duration::from_secs(30);

/// Users remembered before those that nobody waits for are forgotten; they are looked up again.
const USERS_KNOWN: usize = 1024;

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
        /// Theirs.
        remote: SocketAddr,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, .. } => write!(f, "unix:uid={uid}"),
            Self::Tcp { remote, .. } => remote.fmt(f),
        }
    }
}

/// A caller who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A local user.
    User(u32),
    /// Somebody on this machine, unauthenticated (`--dev`).
    Loopback,
    /// Whoever holds an access key; the request was signed with it.
    Key(Arc<AccessKey>),
    /// Whom a token was issued for; its issuer is that of the runtime that is called.
    Token(Arc<TokenCaller>),
    /// Nobody we know.
    Stranger,
}

impl Caller {
    /// As whom it is known. Where TCP callers come unauthenticated, nobody on this machine can be told from anybody else.
    /// A stranger is known as nobody.
    #[must_use]
    pub fn principal(&self, broker: &Broker) -> Option<Principal> {
        match self {
            Self::User(uid) if broker.config().auth != TcpAuth::None => Some(Principal::user(*uid)),
            Self::User(_) | Self::Loopback => Some(Principal::local()),
            Self::Key(key) => Some(Principal::key(&key.id)),
            Self::Token(token) => Some(Principal::token(token)),
            Self::Stranger => None,
        }
    }

    /// Whose its sessions are.
    pub fn owner(&self, broker: &Broker, headers: &HeaderMap) -> Result<Owner, ApiError> {
        let principal = self.principal(broker).ok_or_else(|| {
            ApiError::refused(
                ErrorCode::AccessDenied,
                "this needs credentials",
                "a stranger came as far as to a session",
            )
        })?;
        Ok(Owner {
            principal,
            user: user_id(headers)?,
        })
    }
}

fn user_id(headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
    let fault = |text: String| ApiError::field("runtimeUserId", text);
    let mut values = headers.get_all(USER_ID).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != value) {
        return Err(fault(
            "is given more than once, each time another one".to_owned(),
        ));
    }
    let text =
        std::str::from_utf8(value.as_bytes()).map_err(|_| fault("must be UTF-8".to_owned()))?;
    UserId::parse(text)
        .map(Some)
        .map_err(|error| fault(error.to_string()))
}

/// Identifies the caller of a request, or refuses it.
pub async fn caller(broker: &Broker, request: &Parts) -> Result<Caller, ApiError> {
    match request.extensions.get::<Peer>() {
        Some(Peer::Unix { uid, gid }) => {
            if broker.access.permits(*uid, *gid).await {
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
        Some(Peer::Tcp { .. }) if matches!(broker.config().auth, TcpAuth::Checked(_)) => {
            Ok(Caller::Stranger)
        }
        Some(Peer::Tcp { local, .. }) => {
            check_host(
                &request.headers,
                request.uri.authority().map(|a| a.as_str()),
                *local,
            )?;
            check_origin(&request.headers, *local)?;
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
    // The same once more is what AWS's SDK brings about (`crate::websocket::handshake`), and names no other place.
    if hosts.any(|other| Some(other) != header) {
        let fault = "is given more than once, each time another one";
        return Err(ApiError::field("Host", fault));
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
    // A picture or a link of another page comes without Origin; every browser says where from all the same.
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return Err(foreign_page());
    }
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
    if ours { Ok(()) } else { Err(foreign_page()) }
}

fn foreign_page() -> ApiError {
    ApiError::new(
        ErrorCode::AccessDenied,
        "requests from web pages of other origins are refused",
    )
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
    group: Option<Group>,
    members: Arc<Members>,
}

/// What the host's user database said of a user, and when.
type Verdict = Option<(Instant, bool)>;

/// Who is a member of the group, as last looked up. A look-up blocks, as long as a directory server takes: it happens off
/// the event loop, for all requests of a user once, and one user's does not hold another's.
#[derive(Debug)]
struct Members {
    look_up: fn(Uid, Gid) -> nix::Result<bool>,
    known: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<Verdict>>>>,
}

impl Access {
    /// For a broker that runs as `user`, with members of `group` if the host has it.
    #[must_use]
    pub fn new(user: u32, group: Option<Group>) -> Self {
        Self::with(user, group, is_member)
    }

    fn with(user: u32, group: Option<Group>, look_up: fn(Uid, Gid) -> nix::Result<bool>) -> Self {
        let members = Arc::new(Members {
            look_up,
            known: Mutex::default(),
        });
        Self {
            user,
            group,
            members,
        }
    }

    /// Whether a peer may call. The group's members are those of the host's user database; a process that has it as its
    /// effective group is a member too.
    pub async fn permits(&self, uid: u32, gid: u32) -> bool {
        if uid == 0 || uid == self.user {
            return true;
        }
        let Some(group) = &self.group else {
            return false;
        };
        group.gid.as_raw() == gid || self.members.hold(uid, group.gid).await
    }

    fn group_name(&self) -> &str {
        self.group
            .as_ref()
            .map_or("agentcore", |group| group.name.as_str())
    }
}

impl Members {
    async fn hold(&self, uid: u32, group: Gid) -> bool {
        let entry = self.entry(uid);
        let mut verdict = entry.lock().await;
        if let Some((at, member)) = *verdict
            && at.elapsed() < MEMBERSHIP_KEPT
        {
            return member;
        }
        let look_up = self.look_up;
        let asked = tokio::task::spawn_blocking(move || look_up(Uid::from_raw(uid), group)).await;
        // A database that cannot be asked grants nothing, and is asked again by the next request.
        let member = asked.ok().and_then(Result::ok);
        *verdict = member.map(|member| (Instant::now(), member));
        member.unwrap_or(false)
    }

    fn entry(&self, uid: u32) -> Arc<tokio::sync::Mutex<Verdict>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= USERS_KNOWN && !known.contains_key(&uid) {
            known.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        Arc::clone(known.entry(uid).or_default())
    }
}

/// Asks the host's user database (blocking).
fn is_member(uid: Uid, group: Gid) -> nix::Result<bool> {
    let Some(user) = User::from_uid(uid)? else {
        return Ok(false);
    };
    Ok(user.gid == group
        || Group::from_gid(group)?.is_some_and(|group| group.mem.contains(&user.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    fn access(look_up: fn(Uid, Gid) -> nix::Result<bool>) -> Access {
        let group = Group {
            name: "agentcore".to_owned(),
            passwd: std::ffi::CString::default(),
            gid: Gid::from_raw(900),
            mem: Vec::new(),
        };
        Access::with(901, Some(group), look_up)
    }

    #[tokio::test(start_paused = true)]
    async fn members_are_looked_up_once_and_again_when_that_is_old() {
        static LOOK_UPS: AtomicU32 = AtomicU32::new(0);
        static MEMBER: AtomicBool = AtomicBool::new(true);
        let access = access(|uid, _| {
            LOOK_UPS.fetch_add(1, Ordering::Relaxed);
            Ok(uid.as_raw() == 1000 && MEMBER.load(Ordering::Relaxed))
        });
        for (uid, gid) in [(0, 0), (901, 0), (1000, 900)] {
            assert!(access.permits(uid, gid).await, "{uid} {gid}");
        }
        assert_eq!(LOOK_UPS.load(Ordering::Relaxed), 0);
        let (one, other) = tokio::join!(access.permits(1000, 5), access.permits(1000, 5));
        assert!(one && other && access.permits(1000, 5).await);
        assert_eq!(LOOK_UPS.load(Ordering::Relaxed), 1);
        assert!(!access.permits(1001, 5).await);
        MEMBER.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!access.permits(1000, 5).await, "taken out a minute ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_up_grants_nothing_and_is_not_remembered() {
        static FAILS: AtomicBool = AtomicBool::new(true);
        let access = access(|_, _| {
            if FAILS.load(Ordering::Relaxed) {
                Err(nix::errno::Errno::EIO)
            } else {
                Ok(true)
            }
        });
        assert!(!access.permits(1000, 5).await);
        FAILS.store(false, Ordering::Relaxed);
        assert!(access.permits(1000, 5).await);
    }

    #[test]
    fn a_slow_look_up_holds_no_other_request() {
        let access = access(|uid, _| {
            if uid.as_raw() == 1000 {
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(true)
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let slow = access.permits(1000, 5);
            let quick = async {
                tokio::task::yield_now().await;
                assert!(access.permits(1001, 5).await);
                tokio::time::Instant::now()
            };
            let begun = Instant::now();
            let (_, quick) = tokio::join!(slow, quick);
            assert!(
                quick - begun < Duration::from_secs(1),
                "{:?}",
                quick - begun
            );
        });
    }

    #[test]
    fn no_other_page_is_let_in() {
        let local: SocketAddr = "127.0.0.1:8080".parse().expect("addr");
        let said = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            check_origin(&headers, local).is_ok()
        };
        assert!(check_origin(&HeaderMap::new(), local).is_ok(), "no browser");
        for (name, value) in [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("origin", "http://localhost:8080"),
        ] {
            assert!(said(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
        ] {
            assert!(!said(name, value), "{name}: {value}");
        }
    }

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
