//! The service manager: sockets that it holds while no daemon is there, and what it wants to be told.
//!
//! Sockets are passed as sd_listen_fds(3) has it, words as sd_notify(3). Without a service manager, or under another one that
//! knows neither, nothing here does anything.

use crate::broker::Broker;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether the status is another: a person reads it.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Whose a listening socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This daemon's: it goes with it.
    Own,
    /// The service manager's: it is there for the next daemon.
    Passed,
}

/// Sockets that came with the program's start, listening already.
#[derive(Debug, Default)]
pub struct Sockets {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Takes them, first thing: they are the only descriptors that a start wants. What is neither kind is an error.
    pub fn inherited() -> std::io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..given.len() {
            match given.take_unix_listener(index) {
                Ok(Some(unix)) => sockets.unix.push(unix),
                Ok(None) => {}
                Err(_not_unix) => sockets.tcp.extend(given.take_tcp_listener(index)?),
            }
        }
        Ok(sockets)
    }

    /// What must stay open when everything else that was inherited is closed.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let unix = self.unix.iter().map(AsFd::as_fd);
        unix.chain(self.tcp.iter().map(AsFd::as_fd)).collect()
    }

    /// The one that is bound to `path`.
    pub fn take_unix(&mut self, path: &Path) -> Option<UnixListener> {
        // Not by its spelling: `/var/run` is `/run`.
        let file = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let wanted = file(path)?;
        let bound = |unix: &UnixListener| {
            let address = unix.local_addr().ok()?;
            Some(file(address.as_pathname()?)? == wanted)
        };
        let at = self
            .unix
            .iter()
            .position(|unix| bound(unix) == Some(true))?;
        Some(self.unix.remove(at))
    }

    /// The one that is bound to `address`.
    pub fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let bound = |tcp: &TcpListener| tcp.local_addr().ok() == Some(address);
        let at = self.tcp.iter().position(bound)?;
        Some(self.tcp.remove(at))
    }

    /// Addresses of those that nobody has taken.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let unix = self.unix.iter().map(|unix| match unix.local_addr() {
            Ok(address) => format!("{address:?}"),
            Err(error) => error.to_string(),
        });
        let tcp = self.tcp.iter().map(|tcp| match tcp.local_addr() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        });
        unix.chain(tcp).collect()
    }
}

/// Callers are served.
pub fn ready(broker: &Broker) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(broker))]);
}

/// What there is, for `systemctl status`.
fn status(broker: &Broker) -> String {
    let sessions = broker.registry.len();
    let calls = broker.work_in_flight();
    let (running, queued) = (broker.tasks.running(), broker.tasks.queued());
    format!(
        "serving; sessions: {sessions}, calls in flight: {calls}, tasks: {running} running, {queued} queued"
    )
}

/// Tells what there is whenever it is something else, until the daemon stops.
pub async fn keep_status_told(broker: Arc<Broker>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut told = String::new();
    let mut ticks = tokio::time::interval(STATUS_PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping() => return,
        }
        let now = status(&broker);
        if now != told {
            tell(&[NotifyState::Status(&now)]);
            told = now;
        }
    }
}

/// The configuration is being read anew; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_no_clock) => tell(&[NotifyState::Reloading]),
    }
}

/// No new work is taken.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Shows for ever that this program's tasks get their turn, if somebody wants to know.
pub async fn keep_watchdog_quiet() {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((within / 3).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
