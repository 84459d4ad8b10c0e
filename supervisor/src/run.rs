//! The broker's life: open what it owns, serve, reload on SIGHUP, drain on SIGTERM.

use crate::api::listener::{self, Listeners};
use crate::artifacts::{Bounds, Library};
use crate::broker::{Broker, Ground, Kept};
use crate::callback;
use crate::callback::signature::Secrets;
use crate::config::{Args, Config};
use crate::daemon_log::LogLevel;
use crate::fault::chain;
use crate::gate::Gate;
use crate::launcher::client::LauncherClient;
use crate::ledger::{self, Ledger};
use crate::objects::Objects;
use crate::pool;
use crate::recovery;
use crate::session::{log_retention, memo};
use crate::slots;
use crate::store::{self, Names, Reserve, Store};
use crate::systemd::{self, Origin};
use crate::tasks::{self, Tasks};
use crate::templates;
use proto::api::EndReason;
use sandbox::seqpacket::Seqpacket;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long synchronous calls may take to finish once the daemon is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long WebSockets and shells may take to be closed, once that is told to them.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// How the broker's life ended; `main` makes an exit code of it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part could not be opened.
    #[error("{0}")]
    Open(String),
    /// The launcher is gone: the service manager starts both anew.
    #[error("the launcher has ended; the daemon cannot go on without it")]
    LauncherGone,
    /// The database can no longer be used.
    #[error("the store failed: {0}")]
    Store(String),
}

/// What the broker starts with: all of it made before privileges were dropped.
#[derive(Debug)]
pub struct Start {
    /// The command line, for reloading.
    pub args: Args,
    /// The configuration.
    pub config: Config,
    /// What is logged.
    pub log_level: LogLevel,
    /// Facts.
    pub ground: Ground,
    /// To the launcher.
    pub launcher: Seqpacket,
    /// The API socket, bound.
    pub unix: (std::os::unix::net::UnixListener, Origin),
    /// TCP addresses, bound.
    pub tcp: Vec<(std::net::TcpListener, Origin)>,
}

/// Runs until told to stop.
pub async fn run(start: Start) -> Result<(), RunError> {
    let Start {
        args,
        config,
        log_level,
        ground,
        launcher,
        unix,
        tcp,
    } = start;
    let open = |error: &dyn std::error::Error| RunError::Open(chain(error));
    let mut signals = Signals::new().map_err(|error| open(&error))?;
    let mut hangups = signal(SignalKind::hangup()).map_err(|error| open(&error))?;
    let (launcher, notices) = LauncherClient::new(launcher).map_err(|error| open(&error))?;
    let names = Names {
        region: config.region.clone(),
        account: config.account.clone(),
    };
    let database = ground.directory.join("agentcore.db");
    let reserve = Reserve::open(&database, config.store.reserve.0);
    let store = Store::open(&database, names).map_err(|error| open(&error))?;
    let store = store.with_reserve(reserve.clone());
    let artifacts = Library::open(
        &ground.directory.join("artifacts"),
        store.clone(),
        Bounds::default(),
    )
    .await
    .map_err(|error| open(&error))?;
    let objects = Objects::open(&ground.directory.join("objects"), store.clone())
        .await
        .map_err(|error| open(&error))?;
    std::fs::create_dir_all(ground.directory.join("logs")).map_err(|error| open(&error))?;
    let epoch = store.next_epoch().await.map_err(|error| open(&error))?;
    let gate = Gate::open(
        &ground.directory,
        &store,
        config.limits.spool,
        config.limits.body_memory,
    )
    .await
    .map_err(|error| open(&error))?;
    let ledger = Ledger::open(&ground.directory, store.clone(), &ground.boot_id)
        .await
        .map_err(|error| open(&error))?;
    let callback_secrets =
        Secrets::open(&ground.directory.join("callback.key")).map_err(|error| open(&error))?;
    let tasks = Tasks::open(&ground.directory, &store)
        .await
        .map_err(|error| open(&error))?;
    let kept = Kept {
        store,
        artifacts,
        objects,
        callback_secrets,
        tasks,
        ledger,
    };
    let broker = Broker::new(config, ground, launcher, kept, gate, epoch);
    // Sessions that are taken over may end at once.
    let exits = Arc::clone(&broker);
    tokio::spawn(async move { exits.exits.route(notices).await });
    limit_all_sessions(&broker).await?;
    recovery::recover(&broker)
        .await
        .map_err(|error| open(&error))?;
    broker
        .load_catalogue()
        .await
        .map_err(|error| open(&error))?;
    tasks::recover(&broker)
        .await
        .map_err(|error| open(&error))?;
    recovery::cancel_unclaimed(&broker).await;

    tokio::spawn(tasks::keep_running(Arc::clone(&broker)));
    tokio::spawn(tasks::keep_swept(Arc::clone(&broker)));
    tokio::spawn(callback::delivery::keep_told(Arc::clone(&broker)));
    tokio::spawn(pool::keep(Arc::clone(&broker)));
    tokio::spawn(templates::keep(Arc::clone(&broker)));
    tokio::spawn(slots::keep_full(Arc::clone(&broker)));
    tokio::spawn(log_retention::keep_swept(Arc::clone(&broker)));
    tokio::spawn(memo::keep_written(Arc::clone(&broker)));
    tokio::spawn(store::keep_tidy(Arc::clone(&broker)));
    tokio::spawn(reserve.keep_looking());
    tokio::spawn(ledger::keep_going(Arc::clone(&broker)));
    let (stop, stopped) = watch::channel(false);
    let listeners = listeners(unix, tcp).map_err(|error| open(&error))?;
    let mut serving = tokio::spawn(listener::serve(Arc::clone(&broker), listeners, stopped));
    tracing::info!(instance = %broker.ground.instance, listen = ?broker.ground.listen, "ready");
    systemd::ready(&broker);
    tokio::spawn(systemd::keep_watchdog_quiet());
    tokio::spawn(systemd::keep_status_told(Arc::clone(&broker)));

    let outcome = loop {
        tokio::select! {
            () = signals.terminate() => break Ok(()),
            _ = hangups.recv() => {
                systemd::reloading();
                reload(&broker, &args, &log_level).await;
                systemd::ready(&broker);
            }
            () = broker.launcher.closed() => break Err(RunError::LauncherGone),
            error = broker.store.failed() => break Err(RunError::Store(chain(&error))),
            _ = &mut serving => break Err(RunError::Open("the listeners have stopped".to_owned())),
        }
    };
    if outcome.is_ok() {
        tracing::info!("stopping");
        systemd::stopping("stopping; calls in flight are finished");
        broker.drain();
        // Nobody waits for the listeners' last request longer than this, nor after a second signal.
        stop.send_replace(true);
        let hurried = tokio::select! {
            _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut serving) => false,
            () = signals.terminate() => true,
        };
        // They have been told, see `Broker::stopping`; most are over by now.
        broker.open.close();
        if !hurried {
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, broker.open.wait()).await;
        }
        broker.pool.close(&broker).await;
        if broker.config().end_sessions_on_exit {
            end_sessions(&broker, &mut signals, hurried).await;
        }
        // Those that sessions live on below are the next daemon's.
        broker.templates.close().await;
        broker.ledger.settle(&broker).await;
        for slot in broker.slots.drain() {
            // A slot that is gone already needs no removal.
            let _ = broker.launcher.remove(slot).await;
        }
        // A launcher that is gone has nothing to retire from.
        let _ = broker.launcher.retire().await;
    }
    broker.end();
    outcome
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn terminate(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn listeners(
    (unix, origin): (std::os::unix::net::UnixListener, Origin),
    tcp: Vec<(std::net::TcpListener, Origin)>,
) -> std::io::Result<Listeners> {
    unix.set_nonblocking(true)?;
    let tcp = tcp
        .into_iter()
        .map(|(listener, origin)| {
            listener.set_nonblocking(true)?;
            Ok((tokio::net::TcpListener::from_std(listener)?, origin))
        })
        .collect::<std::io::Result<_>>()?;
    Ok(Listeners {
        unix: (tokio::net::UnixListener::from_std(unix)?, origin),
        tcp,
    })
}

/// Ends all sessions with their grace; one more signal means now, and another not to wait for that either.
async fn end_sessions(broker: &Arc<Broker>, signals: &mut Signals, hurried: bool) {
    let sessions = broker.registry.all();
    for session in &sessions {
        session.stop(EndReason::DaemonStopped).await;
    }
    let all_over = async {
        for session in &sessions {
            session.over().await;
        }
    };
    tokio::pin!(all_over);
    if !hurried {
        tokio::select! {
            () = &mut all_over => return,
            () = signals.terminate() => {}
        }
    }
    tracing::info!(sessions = sessions.len(), "hurried: sessions are killed");
    for session in &sessions {
        // One that is gone already needs no killing.
        let _ = broker.launcher.kill(session.id.clone()).await;
    }
    tokio::select! {
        () = all_over => {}
        () = signals.terminate() => {}
    }
}

/// Sessions of an earlier daemon may be in the way, which is no reason to leave them alone.
async fn limit_all_sessions(broker: &Broker) -> Result<(), RunError> {
    match broker.limit_all_sessions(&broker.config()).await {
        Ok(()) => Ok(()),
        Err(error) if error.will_pass() => {
            tracing::error!(%error, "what all sessions may have together stays as it was");
            Ok(())
        }
        Err(error) => Err(RunError::Open(chain(&error))),
    }
}

async fn reload(broker: &Broker, args: &Args, log_level: &LogLevel) {
    match broker.config().reload(args) {
        Ok(reloaded) => {
            // What gives way to it comes back, if at all, as the new configuration has it.
            let _held = broker.admission.hold_members();
            if let Err(error) = broker.limit_all_sessions(&reloaded.config).await {
                broker.metrics.reloaded(false);
                tracing::error!(%error, "configuration not reloaded; the old one stays in force");
                return;
            }
            tracing::info!(changed = ?reloaded.changed, "configuration reloaded");
            if !reloaded.needs_restart.is_empty() {
                tracing::warn!(keys = ?reloaded.needs_restart, "these changed keys wait for a restart");
            }
            log_level.set(&reloaded.config.log.level);
            let granted = broker.host_policy();
            broker.set_config(reloaded.config);
            broker.metrics.reloaded(true);
            // Versions that ask for more are not served any more, and those that did are again.
            if granted.ceilings.cpus != broker.host_policy().ceilings.cpus
                && let Err(error) = broker.refresh_catalogue().await
            {
                tracing::error!(error = %chain(&error), "runtimes not looked through again");
            }
        }
        Err(faults) => {
            broker.metrics.reloaded(false);
            tracing::error!(%faults, "configuration not reloaded; the old one stays in force");
        }
    }
}
