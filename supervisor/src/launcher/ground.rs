//! What the launcher opens once, at its start: directories, the base, the shim's sealed copy, filters, cgroups.

use super::message::{Limits, Lineage, Slice};
use super::setup::{LauncherSetup, StorageSetup};
use super::stager::StagerOrder;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use sandbox::cgroup::{CgroupRoot, IoLimits};
use sandbox::plan::{self, AheadAct, Filters, PlaceAct, Plan, SessionSpec, Step, StorageAct};
use sandbox::share::Shares;
use sandbox::stager::Host;
use sandbox::storage::Shelf;
use sandbox::uid_block::UIDS_PER_SESSION;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a Unix socket's path, its closing null included.
const MAX_SOCKET_PATH: usize = 108;

/// How long the launcher of a broker that was killed may take to follow it.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Why the launcher cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
pub(super) struct GroundError {
    verb: &'static str,
    path: PathBuf,
    pub(super) source: io::Error,
}

impl GroundError {
    pub(super) fn new(verb: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            verb,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// What stewards need.
#[derive(Debug)]
pub(super) struct Storage {
    /// Where the images are.
    pub(super) shelf: Shelf,
    /// How one is mounted.
    pub(super) steps: Vec<Step<StorageAct>>,
    /// The largest one.
    pub(super) max_bytes: u64,
    /// How long one is kept after its last use.
    pub(super) keep: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ground {
    /// Held as long as this launcher is there.
    _alone: File,
    /// `<runtime-dir>/sessions`.
    pub(super) sessions: PathBuf,
    /// `<runtime-dir>/staging`: empty, where new roots are attached until pivot_root.
    staging: PathBuf,
    /// What stagers need.
    pub(super) host: Host,
    /// What is done ahead of every order.
    pub(super) ahead: Vec<Step<AheadAct>>,
    /// What a stager does then.
    pub(super) place: Vec<Step<PlaceAct>>,
    filters: Filters,
    /// Those of a template and its forks.
    template_filters: Filters,
    core_is_piped: bool,
    /// The instance's cgroup.
    pub(super) cgroups: CgroupRoot,
    /// File system of the state directory.
    pub(super) state_device: u64,
    /// Who the broker is.
    pub(super) broker: (u32, u32),
    /// Uids for sessions.
    pub(super) uid_block: Range<u32>,
    /// Largest limits.
    pub(super) ceilings: Limits,
    /// What all sessions may have together.
    pub(super) all: Slice,
    /// What every session may do on the base's disk.
    pub(super) io: Option<IoLimits>,
    /// Session storage, if there is any here.
    pub(super) storage: Option<Storage>,
    /// Most sessions that are not merely parked.
    pub(super) max_sessions: usize,
    /// Most parked stagers.
    pub(super) max_prepared: usize,
}

impl Ground {
    pub(super) fn open(setup: &LauncherSetup) -> Result<Self, GroundError> {
        own_directory(&setup.runtime_dir, None)?;
        let sessions = setup.runtime_dir.join("sessions");
        let staging = setup.runtime_dir.join("staging");
        // Sockets are reached by who knows their name; nobody but root lists or makes them.
        own_directory(&sessions, Some(Mode::from_bits_truncate(0o711)))?;
        own_directory(&staging, Some(Mode::S_IRWXU))?;
        let alone = alone(&sessions)?;
        let longest = sessions.join(format!("{}.sock", "x".repeat(26)));
        if longest.as_os_str().len() >= MAX_SOCKET_PATH {
            let error = nix::errno::Errno::ENAMETOOLONG;
            return Err(GroundError::new("bind sockets in", &sessions, error));
        }
        let shim = File::open(&setup.shim)
            .and_then(|file| sandbox::memfd::sealed_program(c"agentcore-shim", file))
            .map_err(|error| GroundError::new("copy", &setup.shim, error))?;
        let state = open_directory(&setup.state_dir)?;
        let uncompiled =
            |error| GroundError::new("compile filters for", &setup.shim, io::Error::other(error));
        let filters = sandbox::seccomp::filters().map_err(uncompiled)?;
        let template_filters = sandbox::seccomp::template_filters().map_err(uncompiled)?;
        Ok(Self {
            host: Host {
                base: open_base(&setup.base_root)?,
                shim,
            },
            _alone: alone,
            sessions,
            staging,
            ahead: sandbox::plan::ahead()
                .map_err(|error| GroundError::new("plan", &setup.base_root, error))?,
            place: sandbox::plan::place(),
            filters,
            template_filters,
            core_is_piped: sandbox::host::core_is_piped().map_err(|error| {
                GroundError::new("read", Path::new(sandbox::host::CORE_PATTERN), error)
            })?,
            cgroups: CgroupRoot::open(setup.instance.as_str(), setup.cgroup_parent.as_deref())
                .map_err(|error| {
                    GroundError::new("use cgroups of", &setup.runtime_dir, cgroup_io(error))
                })?,
            state_device: status(&state, &setup.state_dir)?.st_dev,
            broker: (setup.broker_uid, setup.broker_gid),
            uid_block: setup.uid_block.clone(),
            ceilings: setup.ceilings,
            // Until it is ordered: what sessions of an earlier daemon have may not fit, which is no reason not to serve them.
            all: Slice::NONE,
            io: io_limits(setup)?,
            storage: setup.storage.as_ref().map(storage).transpose()?,
            max_sessions: setup.max_sessions,
            max_prepared: setup.max_prepared,
        })
    }

    /// The plan of one session.
    pub(super) fn plan(&self, order: &StagerOrder) -> Result<Plan, std::ffi::NulError> {
        let limits = &order.limits;
        let (lineage, filters) = match order.lineage {
            Lineage::Host => (plan::Lineage::Host, &self.filters),
            Lineage::Template => {
                // All sessions', but not the first range, which may be the broker's.
                let uids = self.uid_block.start + UIDS_PER_SESSION..self.uid_block.end;
                (plan::Lineage::Template { uids }, &self.template_filters)
            }
            Lineage::Fork { .. } => {
                let shares = Shares::of_host();
                (plan::Lineage::Fork { shares }, &self.filters)
            }
        };
        sandbox::plan::compile(&SessionSpec {
            uid_base: order.uid_base,
            tmp_bytes: limits.tmp_bytes,
            nofile: limits.nofile.into(),
            // Nobody outside can raise it later, and the cgroup's limit can be; that is the one that counts.
            nproc: limits.pids.max(self.ceilings.pids).into(),
            staging: self.staging.clone(),
            storage: order.storage,
            core_is_piped: self.core_is_piped,
            filters: filters.clone(),
            lineage,
        })
    }
}

fn storage(setup: &StorageSetup) -> Result<Storage, GroundError> {
    let directory = &setup.directory;
    own_directory(directory, Some(Mode::S_IRWXU))?;
    Ok(Storage {
        shelf: Shelf {
            directory: directory.clone(),
            total: setup.total_bytes,
            per_caller: setup.caller_bytes,
        },
        steps: sandbox::plan::storage()
            .map_err(|error| GroundError::new("plan", directory, error))?,
        max_bytes: setup.max_bytes,
        keep: setup.keep,
    })
}

/// What a session can do to a disk is read the base and its bundle, which are on one file system, and use its storage, which
/// is on the same. What it writes there has no bound but the storage's size.
fn io_limits(setup: &LauncherSetup) -> Result<Option<IoLimits>, GroundError> {
    let Some(read_bps) = setup.session_read_bps else {
        return Ok(None);
    };
    let base = open_directory(&setup.base_root)?;
    let device = status(&base, &setup.base_root)?.st_dev;
    let device = sandbox::host::whole_disk(device)
        .map_err(|error| GroundError::new("find the disk of", &setup.base_root, error))?;
    Ok(Some(IoLimits {
        device,
        read_bps: Some(read_bps),
        ..IoLimits::default()
    }))
}

fn cgroup_io(error: sandbox::cgroup::CgroupError) -> io::Error {
    io::Error::other(error)
}

/// Makes a directory if it is missing, and makes sure that nobody but root can put anything into it.
fn own_directory(path: &Path, mode: Option<Mode>) -> Result<(), GroundError> {
    match nix::unistd::mkdir(path, mode.unwrap_or(Mode::from_bits_truncate(0o755))) {
        Ok(()) if mode.is_none() => {
            let directory = open_directory(path)?;
            // The umask has taken away what the broker needs to reach its sockets.
            fchmod(&directory, Mode::from_bits_truncate(0o755))
                .map_err(|errno| GroundError::new("change the mode of", path, errno))?;
        }
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(GroundError::new("make", path, errno)),
    }
    let directory = open_directory(path)?;
    require_roots(&directory, path)?;
    if let Some(mode) = mode {
        fchmod(&directory, mode)
            .map_err(|errno| GroundError::new("change the mode of", path, errno))?;
    }
    Ok(())
}

/// Waits until no earlier launcher of this instance is there. The one of a broker that was killed follows it only when it has
/// carried out what it was ordered, and what it makes then must be found.
fn alone(sessions: &Path) -> Result<File, GroundError> {
    let directory = File::from(open_directory(sessions)?);
    let until = Instant::now() + PREDECESSOR;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                let text = "an earlier launcher of this instance still holds it";
                let error = io::Error::new(io::ErrorKind::ResourceBusy, text);
                return Err(GroundError::new("take over", sessions, error));
            }
            Err(TryLockError::Error(error)) => {
                return Err(GroundError::new("lock", sessions, error));
            }
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, GroundError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| GroundError::new("open", path, errno))
}

fn open_base(path: &Path) -> Result<OwnedFd, GroundError> {
    let base = open_directory(path)?;
    require_roots(&base, path)?;
    Ok(base)
}

fn status(fd: &OwnedFd, path: &Path) -> Result<FileStat, GroundError> {
    fstat(fd.as_fd()).map_err(|errno| GroundError::new("look at", path, errno))
}

/// The launcher trusts what it finds by name only where nobody else can change names.
fn require_roots(directory: &OwnedFd, path: &Path) -> Result<(), GroundError> {
    let found = status(directory, path)?;
    if found.st_uid == 0 && found.st_mode & 0o022 == 0 {
        Ok(())
    } else {
        let text = "it must belong to root and be writable for root only";
        Err(GroundError::new(
            "trust",
            path,
            io::Error::new(io::ErrorKind::PermissionDenied, text),
        ))
    }
}
