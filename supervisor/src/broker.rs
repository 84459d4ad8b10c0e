//! The unprivileged half of the daemon: everything that parses strangers' bytes, and the shell around `session-core`.
//!
//! [`Broker`] is what all its tasks share. It holds no decision of its own; it knows where things are.

use crate::admission::Admission;
use crate::api::attempts::Attempts;
use crate::api::identify::Access;
use crate::api::shell::registry::Shells;
use crate::api::stops::Stops;
use crate::artifacts::Library;
use crate::callback::Courier;
use crate::callback::signature::Secrets;
use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::egress::Egress;
use crate::exits::Exits;
use crate::gate::Gate;
use crate::host::Host;
use crate::launcher::client::{Launched, LauncherClient};
use crate::launcher::message::OrderFault;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pool::Pool;
use crate::rates::Rates;
use crate::registry::Registry;
use crate::room::Room;
use crate::session::handle::SessionHandle;
use crate::session::journal::SessionJournal;
use crate::slots::Slots;
use crate::store::{self, NewSession, SessionEnd, Store, StoreError, UidBlock};
use crate::tasks::Tasks;
use crate::time::Clock;
use crate::usage::Readings;
use nix::sys::resource::{Resource, getrlimit};
use proto::api::{Info, Session, Usage};
use proto::ids::{InstanceId, RuntimeId, SessionId};
use session_core::spec::{HostPolicy, Interpreters};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Uid and gid of agents inside their session.
const AGENT_UID: u32 = 1000;

/// What start-up found out about this host and this instance.
#[derive(Debug, Clone)]
pub struct Ground {
    /// This daemon.
    pub instance: InstanceId,
    /// The broker's own directory: database, artifacts, logs.
    pub directory: PathBuf,
    /// Where the launcher binds shim sockets.
    pub sessions: PathBuf,
    /// Uid ranges for sessions.
    pub uids: UidBlock,
    /// What the base holds: name ▸ version.
    pub base: BTreeMap<String, String>,
    /// Interpreters in the base.
    pub interpreters: Interpreters,
    /// This boot of the host.
    pub boot_id: String,
    /// Who may use the API socket.
    pub access: Access,
    /// Where it listens, for people.
    pub listen: Vec<String>,
    /// Why this host has no session storage, if it has none.
    pub no_storage: Option<String>,
}

/// What outlives the daemon.
#[derive(Debug)]
pub struct Kept {
    /// The database.
    pub store: Store,
    /// Bundles.
    pub artifacts: Library,
    /// Files that the control plane takes bundles from.
    pub objects: Objects,
    /// What callbacks are signed with.
    pub callback_secrets: Secrets,
    /// Asynchronous tasks.
    pub tasks: Tasks,
    /// What everybody used.
    pub ledger: Ledger,
}

/// See the module.
#[derive(Debug)]
pub struct Broker {
    /// Facts of start-up.
    pub ground: Ground,
    /// Who may use the API socket.
    pub access: Access,
    /// The privileged half.
    pub launcher: LauncherClient,
    /// What outlives the daemon.
    pub store: Store,
    /// Bundles.
    pub artifacts: Library,
    /// Files that the control plane takes bundles from.
    pub objects: Objects,
    /// Asynchronous tasks.
    pub tasks: Arc<Tasks>,
    /// What everybody used.
    pub ledger: Ledger,
    /// Deployed runtimes.
    pub catalogue: Catalogue,
    /// Held while the catalogue is brought up to what the store says.
    pub catalogue_step: tokio::sync::Mutex<()>,
    /// Live sessions.
    pub registry: Registry,
    /// Who may begin one.
    pub admission: Admission,
    /// What the host has left.
    pub host: Arc<Host>,
    /// How fast callers may call.
    pub rates: Rates,
    /// Sessions that wait for whoever comes.
    pub pool: Pool,
    /// Places for sessions to come.
    pub slots: Slots,
    /// Exit notices.
    pub exits: Exits,
    /// The way out for sessions.
    pub egress: Egress,
    /// What live sessions use, as last read.
    pub usage: Readings,
    /// Keys, signatures, audit.
    pub gate: Gate,
    /// Tells tasks' outcomes.
    pub callbacks: Courier,
    /// Interactive shells.
    pub shells: Shells,
    /// SDK calls that may be tried again.
    pub attempts: Attempts,
    /// Stops that may be asked for again.
    pub stops: Stops,
    /// Work that may be in flight at once, whoever's it is: each piece holds descriptors, and a daemon without any left
    /// can end no session in order.
    pub work_places: Arc<Semaphore>,
    /// What was found at the start where only this instance's things are, and is not known to be its own.
    pub strangers: std::sync::OnceLock<Vec<String>>,
    /// Held while a backup is made and handed over.
    pub backups: Arc<tokio::sync::Mutex<()>>,
    /// Memory for bodies on their way to agents.
    pub bodies: Arc<Room>,
    /// Where what agents write is copied to, if the operator wants it.
    pub journal: Option<SessionJournal>,
    /// Figures.
    pub metrics: Metrics,
    /// Time for decisions.
    pub clock: Clock,
    /// Fences daemons that came before.
    pub epoch: u64,
    config: RwLock<Arc<Config>>,
    draining: CancellationToken,
    over: AtomicBool,
    /// WebSockets and shells, which a stopping daemon says goodbye to.
    pub open: TaskTracker,
    started_at: SystemTime,
}

/// Between the first two attempts to write down an end: one that found no room has made some ([`store::Reserve`]).
const FIRST_RECORD_PAUSE: Duration = Duration::from_millis(50);

/// Between two attempts at most.
const RECORD_PAUSE: Duration = Duration::from_secs(2);

/// How often, and at what distance, the launcher is asked to remove a deleted runtime's storage while it is busy.
const FORGET_TRIES: u32 = 60;
const FORGET_PAUSE: Duration = Duration::from_secs(1);

/// An eighth of the files that this daemon may open; an invocation holds two until its head is there, then one.
fn work_places() -> usize {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((FEWEST_FILES, FEWEST_FILES));
    usize::try_from(soft / 8).unwrap_or(Semaphore::MAX_PERMITS)
}

/// A journal that is wanted and cannot be reached is told of, and done without: sessions' own logs have everything.
fn journal(config: &Config) -> Option<SessionJournal> {
    let open = config.log.sessions.then(SessionJournal::open)?;
    open.inspect_err(|error| {
        tracing::warn!(%error, "what agents write is not copied to the journal (log.sessions)");
    })
    .ok()
}

/// What every Unix grants.
const FEWEST_FILES: u64 = 1024;

impl Broker {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        config: Config,
        ground: Ground,
        launcher: LauncherClient,
        kept: Kept,
        gate: Gate,
        epoch: u64,
    ) -> Arc<Self> {
        let broker = Arc::new(Self {
            access: ground.access.clone(),
            ground,
            launcher,
            metrics: Metrics::new(kept.store.commits()),
            store: kept.store,
            artifacts: kept.artifacts,
            objects: kept.objects,
            tasks: Arc::new(kept.tasks),
            ledger: kept.ledger,
            catalogue: Catalogue::default(),
            catalogue_step: tokio::sync::Mutex::default(),
            registry: Registry::default(),
            admission: Admission::new(&config.limits),
            host: Arc::default(),
            rates: Rates::default(),
            pool: Pool::default(),
            slots: Slots::default(),
            exits: Exits::default(),
            egress: Egress::default(),
            usage: Readings::default(),
            gate,
            callbacks: Courier::new(kept.callback_secrets),
            shells: Shells::default(),
            attempts: Attempts::default(),
            stops: Stops::default(),
            work_places: Arc::new(Semaphore::new(work_places())),
            strangers: std::sync::OnceLock::new(),
            backups: Arc::default(),
            bodies: Room::new(config.limits.body_memory.0),
            journal: journal(&config),
            clock: Clock::start(),
            epoch,
            config: RwLock::new(Arc::new(config)),
            draining: CancellationToken::new(),
            over: AtomicBool::new(false),
            open: TaskTracker::new(),
            started_at: SystemTime::now(),
        });
        broker.egress.belong_to(&broker);
        broker
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a reloaded configuration in force. Versions that exist keep what they were compiled with.
    pub fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Invocations, commands and shells that are in flight.
    #[must_use]
    pub fn work_in_flight(&self) -> usize {
        work_places().saturating_sub(self.work_places.available_permits())
    }

    /// Takes no new sessions from now on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether it takes no new sessions.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when this daemon is told to stop.
    pub async fn stopping(&self) {
        self.draining.cancelled().await;
    }

    /// From now on work is broken off wherever it is: nobody knows what came of a request that is still here.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Where callers reach this daemon.
    #[must_use]
    pub fn url(&self, config: &Config) -> Option<String> {
        let first = || {
            let mut listen = self.ground.listen.iter();
            listen
                .find(|address| address.starts_with("http://"))
                .cloned()
        };
        config.public_url.clone().or_else(first)
    }

    /// What the operator grants.
    #[must_use]
    pub fn host_policy(&self) -> HostPolicy {
        let config = self.config();
        HostPolicy {
            defaults: config.defaults,
            ceilings: config.ceilings,
            network: config.network.grant.clone(),
            storage: config.storage.grant(self.ground.no_storage.clone()),
            pool: config.pool.grant(),
            interpreters: self.ground.interpreters.clone(),
            region: config.region.clone(),
            url: self.url(&config),
            agent_uid: AGENT_UID,
            agent_gid: AGENT_UID,
            open_files: config.open_files,
            freeze_after: config.freeze_after,
        }
    }

    /// Live sessions of a runtime.
    #[must_use]
    pub fn sessions_of(&self, runtime: &RuntimeId) -> u32 {
        u32::try_from(self.registry.of_runtime(runtime).len()).unwrap_or(u32::MAX)
    }

    /// Removes the session storage of a runtime that is no more, once its sessions are over; nobody waits for it. What it
    /// misses (a daemon that ends before it, a session that was just being made) goes when it is old enough.
    pub fn forget_storage(self: &Arc<Self>, runtime: RuntimeId) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            for session in broker.registry.of_runtime(&runtime) {
                session.over().await;
            }
            for _ in 0..FORGET_TRIES {
                match broker.launcher.forget_storage(runtime.clone()).await {
                    Ok(()) => return,
                    // Many runtimes are deleted at once.
                    Err(OrderFault::StorageBusy) => tokio::time::sleep(FORGET_PAUSE).await,
                    Err(fault) => {
                        tracing::error!(runtime = %runtime, fault = %fault, "session storage of a deleted runtime not removed");
                        break;
                    }
                }
            }
            tracing::warn!(runtime = %runtime, "session storage of a deleted runtime stays until it is old enough (storage.keep)");
        });
    }

    /// Where a session's log is.
    #[must_use]
    pub fn log_path(&self, session: &SessionId) -> PathBuf {
        self.ground
            .directory
            .join("logs")
            .join(format!("{session}.log"))
    }

    /// Where a session's shim listens.
    #[must_use]
    pub fn shim_socket(&self, session: &SessionId) -> PathBuf {
        self.ground.sessions.join(format!("{session}.sock"))
    }

    /// Writes down a session to come and its uid range: names before things.
    pub async fn reserve(&self, handle: &SessionHandle, token: &str) -> Result<u32, StoreError> {
        let row = self
            .store
            .reserve_session(NewSession {
                id: handle.id.clone(),
                client_id: handle.key.client.clone(),
                runtime: handle.version.name.clone(),
                version: handle.version.number,
                endpoint: handle.key.endpoint.clone(),
                owner: handle.key.owner.clone(),
                boot_id: self.ground.boot_id.clone(),
                token: token.to_owned(),
                uids: self.ground.uids,
            })
            .await?;
        Ok(row.uid_base)
    }

    /// Writes down how a launched session is found again; nobody waits for it. Tries until it is written, while the session is
    /// there: without it the next daemon would not know it.
    pub fn record_launch(self: &Arc<Self>, handle: &SessionHandle, launched: &Launched) {
        let broker = Arc::clone(self);
        let id = handle.id.clone();
        let launched = store::Launched {
            pid: launched.pid,
            start_time: launched.start_time,
            cgroup_inode: launched.cgroup_inode,
        };
        tokio::spawn(async move {
            loop {
                match broker.store.session_launched(&id, launched).await {
                    // It has ended.
                    Ok(()) | Err(StoreError::NotFound(_)) => return,
                    Err(error) => {
                        tracing::error!(session_id = %id, error = %crate::fault::chain(&error), "launch not recorded");
                    }
                }
                if broker.draining() || broker.registry.get(&id).is_none() {
                    return;
                }
                tokio::time::sleep(RECORD_PAUSE).await;
            }
        });
    }

    /// Writes down how a session ended, which frees its uid range. Tries until it is written (a full disk has room again
    /// some time) or this daemon stops: without it the session's id and range would stay taken. Whether it is written.
    pub async fn record_end(&self, handle: &SessionHandle, end: SessionEnd) -> bool {
        let mut pause = FIRST_RECORD_PAUSE;
        loop {
            match self.store.end_session(&handle.id, end.clone()).await {
                // It was never reserved: its launch failed before.
                Ok(_) | Err(StoreError::NotFound(_)) => return true,
                Err(error) => {
                    tracing::error!(session_id = %handle.id, error = %crate::fault::chain(&error), "end not recorded");
                }
            }
            if self.draining() {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RECORD_PAUSE);
        }
    }

    /// A view of a session that the store does not know yet.
    #[must_use]
    pub fn fresh_view(&self, handle: &SessionHandle) -> Session {
        let created_at = crate::time::rfc3339(handle.created_at);
        Session {
            id: handle.id.clone(),
            session_id: handle.key.client.clone(),
            runtime: handle.version.name.clone(),
            version: handle.version.number,
            owner: Some(handle.key.owner.principal.to_string()),
            user_id: handle
                .key
                .owner
                .user
                .as_ref()
                .map(|user| user.as_str().to_owned()),
            phase: handle.view().phase,
            frozen: None,
            in_flight: 0,
            last_activity_at: created_at.clone(),
            created_at,
            ended_at: None,
            end_reason: None,
            end_detail: None,
            pid: None,
            uid_base: None,
            usage: Usage::default(),
            pressure: None,
            egress_refused: 0,
            log_lines_dropped: 0,
        }
    }

    /// `GET /v1/info`.
    #[must_use]
    pub fn info(&self) -> Info {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.ground.instance.clone(),
            pid: std::process::id(),
            region: self.config().region.clone(),
            kernel,
            base: self.ground.base.clone(),
            sessions: u32::try_from(self.registry.len()).unwrap_or(u32::MAX),
            listen: self.ground.listen.clone(),
            auth: self.config().auth.names(),
            started_at: crate::time::rfc3339(self.started_at),
        }
    }
}
