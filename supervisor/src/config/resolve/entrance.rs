//! Keys of the entrance: where callers come in, how they are told apart, and what the daemon calls itself to them.

use super::Resolver;
use crate::config::check::{self, plain_path};
use crate::config::{AuthMethods, TcpAuth};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the developer mode listens if nobody says.
const DEV_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Longest path of a Unix socket (`sun_path`, unix(7)), its NUL apart.
const MAX_SOCKET_PATH: usize = 107;

/// What the launcher puts below the runtime directory: `/sessions/`, a session's name of at most 26 bytes, `.sock`.
const SESSION_SOCKET_ROOM: usize = "/sessions/".len() + 26 + ".sock".len();

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthWord {
    None,
    Sigv4,
    Jwt,
}

#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"none\", \"sigv4\", \"jwt\" or a list of the last two"
)]
enum AuthWords {
    One(AuthWord),
    Several(Vec<AuthWord>),
}

impl Resolver<'_> {
    pub(super) fn socket(&mut self, runtime_dir: &Path) -> PathBuf {
        let room = MAX_SOCKET_PATH - SESSION_SOCKET_ROOM;
        let length = runtime_dir.as_os_str().len();
        if length > room {
            self.fault(
                "runtime_dir",
                format!("must be at most {room} bytes long, because socket paths below it are bounded; is {length}"),
            );
        }
        self.checked("socket", runtime_dir.join("api.sock"), |path| {
            plain_path(path)?;
            match path.as_os_str().len() {
                0..=MAX_SOCKET_PATH => Ok(()),
                found => Err(format!(
                    "must be at most {MAX_SOCKET_PATH} bytes long, is {found}"
                )),
            }
        })
    }

    pub(super) fn listen(&mut self, dev: bool) -> Vec<SocketAddr> {
        match self.take::<Vec<SocketAddr>>("listen") {
            Some(listen) => listen,
            None if dev => vec![DEV_LISTEN],
            None => Vec::new(),
        }
    }

    pub(super) fn auth(&mut self, dev: bool, listen: &[SocketAddr]) -> TcpAuth {
        let words = match self.take::<AuthWords>("auth") {
            None => Vec::new(),
            Some(AuthWords::One(word)) => vec![word],
            Some(AuthWords::Several(words)) => {
                if words.is_empty() || (words.contains(&AuthWord::None) && words.len() > 1) {
                    self.fault(
                        "auth",
                        "must be \"none\", \"sigv4\", \"jwt\" or [\"sigv4\", \"jwt\"]",
                    );
                }
                words
            }
        };
        let methods = AuthMethods {
            sigv4: words.contains(&AuthWord::Sigv4),
            jwt: words.contains(&AuthWord::Jwt),
        };
        match (words.first(), listen) {
            (_, []) => TcpAuth::NoListener,
            _ if methods.sigv4 || methods.jwt => TcpAuth::Checked(methods),
            (None, [first, ..]) if !dev => {
                self.fault("listen", format!("offers TCP on {first}, but nothing says how callers are identified: set `auth`, or use the Unix socket only"));
                TcpAuth::NoListener
            }
            (_, _) => {
                for open in listen.iter().filter(|address| !address.ip().is_loopback()) {
                    self.fault("listen", format!("offers {open} to other machines without authentication; only loopback addresses may go without"));
                }
                TcpAuth::None
            }
        }
    }

    pub(super) fn public_url(&mut self) -> Option<String> {
        let url: String = self.take("public_url")?;
        if let Err(message) = check::base_url(&url) {
            self.fault("public_url", message);
        }
        Some(url.trim_end_matches('/').to_owned())
    }
}
