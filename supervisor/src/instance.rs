//! What one daemon has on this host, made by root before the fork: its directories, its locks, its id, its uids, its API
//! socket.
//!
//! ```text
//! <state>                     root    0711   sessions and other users pass through, nobody lists
//!   lock                      root    0600   held while the daemon runs: a second one exits 75
//!   instance                  root    0644   the instance's id, made once
//!   uids                      root    0644   the block of uids it had last (sandbox::uid_block)
//!   bases/                    root    0755   root file systems (base.rs); a session sees them, the broker cannot change them
//!   storage/                  root    0700   session storage: the launcher's (sandbox::storage)
//!   broker/                   broker  0700   database, artifacts, logs: everything that the broker writes
//! <runtime>                   root    0755
//!   lock                      root    0600
//!   api.sock                  broker  0660   the group is that of the broker's user
//!   sessions/                 root    0711   the launcher's: one entry per live session, its name first
//! ```
//!
//! Directories are opened one below the other, never through a symbolic link, and must have the owner above. **Root never
//! uses a name inside `broker/`** once the broker runs; the one exception is here, before it does: when the broker's uid
//! has changed, its files are given to the new one ([`broker::hand_over`]).
//!
//! Not for: what is in those directories; dropping privilege.

mod api_socket;
mod broker;
mod directory;
mod error;
mod identity;
mod lock;

pub use api_socket::receive as receive_api_socket;
pub use broker::BrokerUser;
pub use directory::Directory;
pub use error::InstanceError;

use lock::Lock;
use proto::ids::InstanceId;
use sandbox::uid_block::{self, UidBlock, UidRange};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, InstanceError>;

/// What the operator says about where.
#[derive(Debug, Clone, Copy)]
pub struct Where<'a> {
    /// State directory; made if missing.
    pub state_dir: &'a Path,
    /// Runtime directory; made if missing.
    pub runtime_dir: &'a Path,
    /// User that the broker becomes, where the host has it.
    pub broker_user: &'a str,
    /// Registry of uid blocks; [`uid_block::REGISTRY`] but in tests.
    pub uid_registry: &'a Path,
}

/// A daemon's hold on its directories. One per pair of directories and host; ends with the last process that has it.
#[derive(Debug)]
pub struct Instance {
    /// Everything but the locks.
    pub layout: Layout,
    uids: UidBlock,
    state_lock: Lock,
    runtime_lock: Lock,
}

/// Where things are and to whom they belong.
#[derive(Debug)]
pub struct Layout {
    /// The instance's id: part of its cgroups' names.
    pub id: InstanceId,
    /// Numbers of its block of uids.
    pub uids: UidRange,
    /// Whom the broker becomes.
    pub broker: BrokerUser,
    /// State directory, absolute, no symbolic link in it.
    pub state_dir: PathBuf,
    /// Runtime directory, likewise.
    pub runtime_dir: PathBuf,
    /// `<state>/broker`.
    pub broker_dir: Directory,
    /// `<state>/bases`.
    pub bases: Directory,
    /// `<runtime>/sessions`.
    pub sessions: Directory,
}

impl Instance {
    /// Locks, makes and checks everything. Must run as root, before the fork and before there are threads.
    ///
    /// If another daemon has either directory, nothing on disk has been changed when this fails.
    pub fn open(places: Where<'_>) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(InstanceError::NotRoot);
        }
        let state = Directory::open_or_make_path(places.state_dir)?;
        let state_lock = Lock::take(&state)?;
        let runtime = Directory::open_or_make_path(places.runtime_dir)?;
        let runtime_lock = Lock::take(&runtime)?;
        state.set_mode(0o711)?;
        runtime.set_mode(0o755)?;

        let id = identity::of(&state)?;
        let uids = uid_block::claim_in(places.uid_registry, id.as_str(), state.path())?;
        let broker = BrokerUser::find(places.broker_user, &uids)?;
        let layout = Layout {
            id,
            uids: *uids,
            bases: state.make(Path::new("bases"), 0o755, directory::ROOT)?,
            broker_dir: broker::directory(&state, &broker)?,
            sessions: runtime.make(Path::new("sessions"), 0o711, directory::ROOT)?,
            state_dir: state.path().to_owned(),
            runtime_dir: runtime.path().to_owned(),
            broker,
        };
        Ok(Self {
            layout,
            uids,
            state_lock,
            runtime_lock,
        })
    }

    /// Binds the API's socket and lets the broker and its group connect. A dead socket of ours is replaced; anything else
    /// of that name is refused and left alone.
    pub fn bind_api_socket(&self, path: &Path) -> Result<UnixListener> {
        api_socket::bind(path, &self.layout.broker)
    }

    /// For the launcher, after the fork: closes its copies of the locks, so that a launcher that takes its time to end
    /// does not keep the next daemon from starting. The broker's copies go on holding them.
    #[must_use]
    pub fn into_layout(self) -> Layout {
        let Self {
            layout,
            uids,
            state_lock,
            runtime_lock,
        } = self;
        drop((uids, state_lock, runtime_lock));
        layout
    }
}

#[cfg(test)]
mod tests;
