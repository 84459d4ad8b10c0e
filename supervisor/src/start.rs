//! Start-up, in the order that privilege demands:
//!
//! configuration ▸ locks, directories, uid block ▸ base ▸ sockets bound ▸ **launcher forked** (no thread exists yet) ▸
//! locks and sockets stay with the broker ▸ **privileges dropped** ▸ tokio.
//!
//! Exit codes: 0, 2 usage or configuration, 75 another daemon holds the directories, 1 anything else.

use crate::api::identify::Access;
use crate::base;
use crate::broker::Ground;
use crate::config::{self, Args, Base as BaseChoice, Config, MAX_PREPARED};
use crate::daemon_log::{self, LogLevel};
use crate::fault::chain;
use crate::instance::{self, Instance, InstanceError, Where};
use crate::launcher::message::Limits;
use crate::launcher::{self, LauncherSetup, StorageSetup};
use crate::manual;
use crate::run::{self, Start};
use crate::store::UidBlock;
use crate::systemd::{Origin, Sockets};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proto::units::MemoryBytes;
use sandbox::plan::{self, SessionSpec};
use sandbox::sys::{close_range, heap};
use sandbox::uid_block::{self, BLOCK_SIZE, UIDS_PER_SESSION};
use sandbox::{privileges, seccomp};
use session_core::spec::Interpreters;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the shim is installed if it is not beside the daemon.
const SHIM_DIRECTORY: &str = "/usr/lib/agentcore";

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("root file system of sessions")]
    Base(#[from] base::BaseError),
    #[error("cannot {verb} {what}")]
    Io {
        verb: &'static str,
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "agentcore-shim is neither beside this program nor in {SHIM_DIRECTORY}; build it with `cargo build --release`, or install the package"
    )]
    NoShim,
    #[error("start of the launcher")]
    Launcher(#[from] launcher::StartError),
    #[error("drop of privileges")]
    Privileges(#[from] privileges::PrivilegeError),
    #[error(transparent)]
    Run(#[from] run::RunError),
}

/// Everything that `main` does.
pub fn main(args: Args) -> ExitCode {
    if args.print_plan {
        return print_plan();
    }
    if args.print_manual {
        return match manual::print(&mut std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("print the manual page: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    let config = match config::load(&args) {
        Ok(config) => config,
        Err(faults) => {
            complain(&faults.to_string());
            return ExitCode::from(2);
        }
    };
    if args.check_config {
        say("the configuration is sound");
        return ExitCode::SUCCESS;
    }
    let log_level = daemon_log::begin(&config.log);
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    match start(args, config, log_level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(&error));
            match error {
                StartError::Instance(error) => ExitCode::from(error.exit_code()),
                StartError::Base(_)
                | StartError::Io { .. }
                | StartError::NoShim
                | StartError::Launcher(_)
                | StartError::Privileges(_)
                | StartError::Run(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// The soft limit is a default for programs that cannot take more; sessions get limits of their own.
fn open_files_to_the_limit() -> std::io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

fn start(args: Args, config: Config, log_level: LogLevel) -> Result<(), StartError> {
    // What a careless parent left open must be in reach of neither half of the daemon. Nothing of ours is open yet; the
    // configuration, which may have come by such a descriptor, has been read.
    let mut sockets = Sockets::inherited().map_err(io("take over", "a socket that was passed"))?;
    daemon_log::away_from(|| close_range::close_all_except(&sockets.descriptors()))
        .map_err(io("close", "inherited descriptors"))?;
    // Sessions, connections and invocations are descriptors here, and select(2) is not used.
    open_files_to_the_limit().map_err(|source| StartError::Io {
        verb: "raise",
        what: "the limit of open files".to_owned(),
        source,
    })?;
    let instance = Instance::open(Where {
        state_dir: &config.state_dir,
        runtime_dir: &config.runtime_dir,
        broker_user: &config.broker_user,
        uid_registry: Path::new(uid_block::REGISTRY),
    })?;
    let layout = &instance.layout;
    let chosen = match &config.base {
        BaseChoice::Host => None,
        BaseChoice::Directory(path) => Some(path.as_path()),
    };
    let base = base::prepare(&layout.state_dir, chosen)?;
    for note in &base.notes {
        tracing::warn!("{note}");
    }
    let unix = match sockets.take_unix(&config.socket) {
        Some(passed) => {
            let passed = instance::receive_api_socket(passed, &config.socket)?;
            (passed, Origin::Passed)
        }
        None => (instance.bind_api_socket(&config.socket)?, Origin::Own),
    };
    let tcp = bind_tcp(&config, &mut sockets)?;
    for address in sockets.left() {
        tracing::warn!(
            address,
            "a socket that was passed is none of this daemon's (socket, listen); it is closed"
        );
    }
    drop(sockets);
    let mut listen = vec![format!("unix:{}", config.socket.display())];
    for (listener, _) in &tcp {
        let address = listener
            .local_addr()
            .map_err(io("ask the address of", "a listener"))?;
        listen.push(format!("http://{address}"));
    }
    let no_storage = sandbox::storage::unavailable();
    let ground = Ground {
        instance: layout.id.clone(),
        directory: layout.broker_dir.path().to_path_buf(),
        sessions: layout.sessions.path().to_path_buf(),
        uids: UidBlock {
            // The block's first range is the broker's.
            first: layout.uids.range().start + UIDS_PER_SESSION,
            width: UIDS_PER_SESSION,
            ranges: BLOCK_SIZE / UIDS_PER_SESSION - 1,
        },
        interpreters: interpreters(&base.root, &base.versions),
        base: base.versions.clone(),
        boot_id: boot_id()?,
        no_storage: no_storage.clone(),
        access: Access::new(layout.broker.uid, access_group(layout.broker.api_gid)),
        listen,
    };
    let broker = layout.broker.clone();
    let setup = LauncherSetup {
        instance: layout.id.clone(),
        runtime_dir: layout.runtime_dir.clone(),
        state_dir: layout.state_dir.clone(),
        base_root: base.root,
        shim: shim()?,
        broker_uid: broker.uid,
        broker_gid: broker.gid,
        uid_block: layout.uids.range(),
        cgroup_parent: config.cgroup_parent.clone(),
        ceilings: ceilings(&config),
        session_read_bps: config.limits.session_read_rate.map(|rate| rate.0),
        storage: no_storage.is_none().then(|| StorageSetup {
            directory: layout.state_dir.join("storage"),
            max_bytes: config.storage.max_size.0,
            total_bytes: config.storage.total.0,
            caller_bytes: config.storage.per_caller.0,
            keep: config.storage.keep,
        }),
        // Those that wait give way to callers' sessions, which must not wait for that. A template that was replaced stays while a
        // fork of it lives.
        max_sessions: usize::try_from(
            config.limits.max_sessions + config.pool.total + 2 * config.template.total,
        )
        .unwrap_or(usize::MAX),
        max_prepared: MAX_PREPARED,
    };
    let launcher = launcher::start(setup)?;
    let launcher_pid = launcher.pid;
    privileges::become_broker(broker.uid, broker.gid)?;
    limit_heaps()?;
    // From here on nothing runs with privilege in this process, and threads may exist.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("agentcored")
        .build()
        .map_err(io("start", "the runtime"))?;
    let start = Start {
        args,
        config,
        log_level,
        ground,
        launcher: launcher.link,
        unix,
        tcp,
    };
    let outcome = runtime.block_on(run::run(start));
    // A blocking task that hangs (a resolver, say) must not keep the daemon from ending.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    // Its link went with the runtime. The locks are held until it has ended: the next daemon finds either all of this
    // instance's cgroups or none.
    launcher::wait_for_end(launcher_pid);
    drop(instance);
    Ok(outcome?)
}

/// What a thread used for a moment (a sweep of ten thousand logs, a crowd's requests) stays with the heap that it was taken from, and
/// by default there may be eight of those for each processor, which threads that come and go fill one after the other.
fn limit_heaps() -> Result<(), StartError> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = i32::try_from(processors + 1).unwrap_or(i32::MAX);
    heap::limit_arenas(most).map_err(io("limit", "the number of heaps"))
}

fn bind_tcp(
    config: &Config,
    passed: &mut Sockets,
) -> Result<Vec<(TcpListener, Origin)>, StartError> {
    let listener = |address: &SocketAddr| match passed.take_tcp(*address) {
        Some(passed) => Ok((passed, Origin::Passed)),
        None => match TcpListener::bind(address) {
            Ok(bound) => Ok((bound, Origin::Own)),
            Err(error) => Err(io("listen on", &address.to_string())(error)),
        },
    };
    config.listen.iter().map(listener).collect()
}

fn ceilings(config: &Config) -> Limits {
    Limits {
        memory_bytes: config.ceilings.memory.0,
        cpu_millis: config.ceilings.cpus.0,
        pids: config.ceilings.pids,
        cpu_weight: config.ceilings.cpu_weight,
        tmp_bytes: config.ceilings.tmp_size.0,
        nofile: config.open_files,
    }
}

/// What of the base can run agents.
fn interpreters(base: &Path, versions: &BTreeMap<String, String>) -> Interpreters {
    let there = |path: &str| {
        base.join(path.trim_start_matches('/'))
            .symlink_metadata()
            .is_ok()
            .then(|| path.to_owned())
    };
    Interpreters {
        python: there("/usr/bin/python3"),
        node: there("/usr/bin/node"),
        python_version: versions.get("python3").cloned(),
        node_version: versions
            .get("node")
            .map(|version| version.trim_start_matches('v').to_owned()),
    }
}

fn boot_id() -> Result<String, StartError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    Ok(text.trim().to_owned())
}

/// Group whose members may use the API socket.
fn access_group(gid: u32) -> Option<nix::unistd::Group> {
    nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid))
        .ok()
        .flatten()
}

/// Beside this program, then where packages put it.
fn shim() -> Result<PathBuf, StartError> {
    let beside = std::env::current_exe().ok().and_then(|program| {
        program
            .parent()
            .map(|directory| directory.join("agentcore-shim"))
    });
    beside
        .into_iter()
        .chain([Path::new(SHIM_DIRECTORY).join("agentcore-shim")])
        .find(|path| path.is_file())
        .ok_or(StartError::NoShim)
}

/// When and name of each step, one a line: what the fail-closed suite iterates over.
fn print_plan() -> ExitCode {
    let plan = seccomp::filters()
        .map_err(|error| chain(&error))
        .and_then(|filters| {
            plan::compile(&SessionSpec {
                uid_base: uid_block::FIRST_UID,
                tmp_bytes: MemoryBytes::mib(64).0,
                nofile: 4096,
                nproc: 256,
                staging: PathBuf::from("/run/agentcore/staging"),
                storage: true,
                core_is_piped: false,
                filters,
                lineage: sandbox::plan::Lineage::Host,
            })
            .map_err(|error| chain(&error))
        });
    match plan {
        Ok(plan) => {
            for (part, name) in sandbox::steps::all(&plan) {
                say(&format!("{}\t{name}", part.name()));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn io(verb: &'static str, what: &str) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.to_owned();
    move |source| StartError::Io { verb, what, source }
}

fn say(text: &str) {
    // Standard output that is closed has no reader to miss it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "agentcored: {text}");
}
