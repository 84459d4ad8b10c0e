//! Why a daemon could not take its place on this host.

use sandbox::uid_block::UidBlockError;
use std::io;
use std::path::PathBuf;

/// Why not. Every text says what to do where that is not obvious.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Not started by root.
    #[error(
        "agentcored must be started by root: it makes namespaces, cgroups and uid ranges. It drops to an unprivileged user \
         itself before it reads a byte from a client"
    )]
    NotRoot,
    /// Another daemon has the directory.
    #[error(
        "{} is in use by another agentcored, process {pid}; stop that one, or give this one directories of its own \
         (--state-dir, --runtime-dir)", path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other's process, 0 if it could not be told.
        pid: u32,
    },
    /// A file or directory operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path leads through a symbolic link.
    #[error(
        "{} leads through a symbolic link, which is not followed (whoever may change the link would choose the directory); \
         give the real path", path.display()
    )]
    Link {
        /// The path.
        path: PathBuf,
    },
    /// A path has the wrong owner.
    #[error(
        "{} belongs to uid {found}, must belong to uid {wanted}; if it is yours to give: chown {wanted} {}",
        path.display(), path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// Who should be.
        wanted: u32,
    },
    /// Others could replace what is in a directory on the way.
    #[error(
        "{} can be written by everybody, so that anybody could replace what is in it; choose a directory elsewhere or \
         take the permission away (chmod o-w)", path.display()
    )]
    Replaceable {
        /// The directory on the way.
        path: PathBuf,
    },
    /// The broker could not reach a directory.
    #[error(
        "{} cannot be entered by other users, but the daemon's unprivileged half and its clients have to pass through it; \
         choose a directory elsewhere, for example below /var/lib or /run", path.display()
    )]
    Unreachable {
        /// The directory on the way.
        path: PathBuf,
    },
    /// Something else is where a file of ours should be.
    #[error("{} {detail}", path.display())]
    Foreign {
        /// What is in the way.
        path: PathBuf,
        /// What is wrong with it and what to do.
        detail: String,
    },
    /// No block of uids.
    #[error(transparent)]
    Uids(#[from] UidBlockError),
}

impl InstanceError {
    /// The daemon's exit code: 75 ("try again later", sysexits) where another daemon is in the way.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked { .. } | Self::Uids(UidBlockError::Running { .. }) => 75,
            Self::NotRoot
            | Self::Io { .. }
            | Self::Link { .. }
            | Self::Owner { .. }
            | Self::Replaceable { .. }
            | Self::Unreachable { .. }
            | Self::Foreign { .. }
            | Self::Uids(_) => 1,
        }
    }
}
