//! The unprivileged half of the daemon: everything that parses strangers' bytes, and the shell around `session-core`.
//!
//! [`Broker`] is what all its tasks share. It holds no decision of its own; it knows where things are.

use crate::api::attempts::Attempts;
use crate::api::identify::Access;
use crate::api::reply::ApiError;
use crate::artifacts::Library;
use crate::catalogue::{Catalogue, RuntimeVersion};
use crate::config::Config;
use crate::egress::Egress;
use crate::exits::Exits;
use crate::gate::Gate;
use crate::launcher::client::{Launched, LauncherClient};
use crate::registry::Registry;
use crate::session::handle::SessionHandle;
use crate::slots::Slots;
use crate::store::{self, NewSession, SessionEnd, Store, StoreError, UidBlock};
use crate::time::Clock;
use crate::usage::Readings;
use nix::sys::resource::{Resource, getrlimit};
use proto::api::{FieldFault, Info, PutRuntime, Runtime, Session, Usage};
use proto::config::{Language, RuntimeConfig};
use proto::ids::{InstanceId, RuntimeId, SessionId};
use session_core::spec::{HostPolicy, Interpreters, RuntimeSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;
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
    /// Deployed runtimes.
    pub catalogue: Catalogue,
    /// Live sessions.
    pub registry: Registry,
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
    /// SDK calls that may be tried again.
    pub attempts: Attempts,
    /// Work that may be in flight at once, whoever's it is: each piece holds descriptors, and a daemon without any left
    /// can end no session in order.
    pub work_places: Arc<Semaphore>,
    /// Time for decisions.
    pub clock: Clock,
    /// Fences daemons that came before.
    pub epoch: u64,
    config: RwLock<Arc<Config>>,
    draining: CancellationToken,
    /// WebSockets and shells, which a stopping daemon says goodbye to.
    pub open: TaskTracker,
    started_at: SystemTime,
}

/// Between two attempts to write down an end.
const RECORD_PAUSE: Duration = Duration::from_secs(2);

/// An eighth of the files that this daemon may open; an invocation holds two until its head is there, then one.
fn work_places() -> usize {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((FEWEST_FILES, FEWEST_FILES));
    usize::try_from(soft / 8).unwrap_or(Semaphore::MAX_PERMITS)
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
        store: Store,
        artifacts: Library,
        gate: Gate,
        epoch: u64,
    ) -> Arc<Self> {
        let max_sessions = usize::try_from(config.limits.max_sessions).unwrap_or(usize::MAX >> 4);
        let broker = Arc::new(Self {
            access: ground.access.clone(),
            ground,
            launcher,
            store,
            artifacts,
            catalogue: Catalogue::default(),
            registry: Registry::new(max_sessions),
            slots: Slots::default(),
            exits: Exits::default(),
            egress: Egress::default(),
            usage: Readings::default(),
            gate,
            attempts: Attempts::default(),
            work_places: Arc::new(Semaphore::new(work_places())),
            clock: Clock::start(),
            epoch,
            config: RwLock::new(Arc::new(config)),
            draining: CancellationToken::new(),
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

    /// Loads the newest version of every runtime; one whose configuration this host no longer grants is left out, with
    /// the reason in the log.
    pub async fn load_catalogue(&self) -> Result<(), StoreError> {
        let mut token = None;
        loop {
            let page = self
                .store
                .runtimes(store::PageRequest::parse(Some(1000), token.as_deref())?)
                .await?;
            for runtime in page.items {
                let name = runtime.name.clone();
                match self.compile(runtime) {
                    Ok(version) => self.catalogue.put(Arc::new(version)),
                    Err(error) => {
                        tracing::error!(runtime = %name, reason = error.message, "runtime cannot run here now");
                    }
                }
            }
            token = page.next_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Makes a runtime or its next version.
    pub async fn deploy(&self, put: PutRuntime) -> Result<(Runtime, bool), ApiError> {
        // Refused before anything is written.
        let spec =
            RuntimeSpec::resolve(&put.config, &self.host_policy()).map_err(ApiError::fields)?;
        self.artifacts.artifact(&put.artifact).await?;
        let file = self.artifacts.file(&put.artifact, &spec.entry_file).await?;
        let fault = match file {
            None => format!("`{}` could not be found in the artifact", spec.entry_file),
            Some(file) if spec.language == Language::Binary && !file.executable => {
                format!(
                    "`{}` is not executable in the artifact (chmod +x)",
                    spec.entry_file
                )
            }
            Some(_) => String::new(),
        };
        if !fault.is_empty() {
            return Err(ApiError::field("entrypoint", fault));
        }
        let (runtime, created) = self.store.put_runtime(put).await?;
        let version = self.compile(runtime.clone())?;
        self.catalogue.put(Arc::new(version));
        let sessions = self.sessions_of(&runtime.runtime_id);
        tracing::info!(runtime = %runtime.name, version = %runtime.version, "deployed");
        Ok((
            Runtime {
                sessions,
                ..runtime
            },
            created,
        ))
    }

    /// What this host would not run of a configuration, field by field.
    #[must_use]
    pub fn faults(&self, config: &RuntimeConfig) -> Vec<FieldFault> {
        RuntimeSpec::resolve(config, &self.host_policy())
            .err()
            .unwrap_or_default()
    }

    fn compile(&self, runtime: Runtime) -> Result<RuntimeVersion, ApiError> {
        let spec =
            RuntimeSpec::resolve(&runtime.config, &self.host_policy()).map_err(ApiError::fields)?;
        Ok(RuntimeVersion {
            runtime: runtime.runtime_id,
            name: runtime.name,
            number: runtime.version,
            config: runtime.config,
            artifact: runtime.artifact,
            spec,
        })
    }

    fn host_policy(&self) -> HostPolicy {
        let config = self.config();
        HostPolicy {
            defaults: config.defaults,
            ceilings: config.ceilings,
            network: config.network.grant.clone(),
            interpreters: self.ground.interpreters.clone(),
            region: config.region.clone(),
            agent_uid: AGENT_UID,
            agent_gid: AGENT_UID,
            open_files: config.open_files,
        }
    }

    /// Live sessions of a runtime.
    #[must_use]
    pub fn sessions_of(&self, runtime: &RuntimeId) -> u32 {
        u32::try_from(self.registry.of_runtime(runtime).len()).unwrap_or(u32::MAX)
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

    /// Writes down how a launched session is found again; nobody waits for it.
    pub fn record_launch(self: &Arc<Self>, handle: &SessionHandle, launched: &Launched) {
        let broker = Arc::clone(self);
        let id = handle.id.clone();
        let launched = store::Launched {
            pid: launched.pid,
            start_time: launched.start_time,
            cgroup_inode: launched.cgroup_inode,
        };
        tokio::spawn(async move {
            if let Err(error) = broker.store.session_launched(&id, launched).await {
                tracing::error!(session_id = %id, error = %crate::fault::chain(&error), "launch not recorded");
            }
        });
    }

    /// Writes down how a session ended, which frees its uid range. Tries until it is written (a full disk has room again
    /// some time) or this daemon stops: without it the session's id and range would stay taken.
    pub async fn record_end(&self, handle: &SessionHandle, end: SessionEnd) {
        loop {
            match self.store.end_session(&handle.id, end.clone()).await {
                // It was never reserved: its launch failed before.
                Ok(_) | Err(StoreError::NotFound(_)) => return,
                Err(error) => {
                    tracing::error!(session_id = %handle.id, error = %crate::fault::chain(&error), "end not recorded");
                }
            }
            if self.draining() {
                return;
            }
            tokio::time::sleep(RECORD_PAUSE).await;
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
            in_flight: 0,
            last_activity_at: created_at.clone(),
            created_at,
            ended_at: None,
            end_reason: None,
            end_detail: None,
            pid: None,
            uid_base: None,
            usage: Usage::default(),
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
            kernel,
            base: self.ground.base.clone(),
            sessions: u32::try_from(self.registry.len()).unwrap_or(u32::MAX),
            listen: self.ground.listen.clone(),
            started_at: crate::time::rfc3339(self.started_at),
        }
    }
}
