//! Why a control group could not be made, changed or read.

use std::io;
use std::path::PathBuf;

/// Why a control group could not be made, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`, …
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A controller that sessions need is not there.
    #[error("cgroup controller `{controller}` is missing: {detail}")]
    MissingController {
        /// Which.
        controller: String,
        /// Where it was looked for, and what to do.
        detail: String,
    },
    /// A cgroup v2 directory holds processes, so that controllers cannot be enabled below it.
    #[error(
        "{} holds processes ({pids}), so no controller can be enabled below it; move them into a cgroup of their own \
         below it, or name another parent",
        path.display()
    )]
    InternalProcesses {
        /// The directory.
        path: PathBuf,
        /// Some of the processes.
        pids: String,
    },
    /// The cgroup is there already and is in use.
    #[error("cgroup {} is already there and {why}; it is not reused", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What makes it unusable.
        why: &'static str,
    },
    /// A name that is not safe as a path component.
    #[error(
        "`{0}` is no name for a cgroup: it must be 1 to 64 of a-z A-Z 0-9 _ + - . and not begin with a dot"
    )]
    Name(String),
    /// A limit that the kernel would refuse or round.
    #[error("limit `{limit}` must be {rule}, is {found}")]
    Limit {
        /// Which.
        limit: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What was asked.
        found: u64,
    },
    /// No such session.
    #[error("no cgroup of the name `{0}`")]
    Unknown(String),
    /// A control file has content that is not understood.
    #[error("{} has no usable {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A memory limit below what is in use and cannot be given back.
    #[error("{} uses {used} bytes that cannot be given back", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Bytes in use now.
        used: u64,
    },
    /// A CPU quota for all below what one may have.
    #[error(
        "session {session} may have {has} thousandths of a CPU, and all together are to have {asked}"
    )]
    Above {
        /// The one.
        session: String,
        /// What it may have.
        has: u32,
        /// What all were to have.
        asked: u32,
    },
    /// Something took too long.
    #[error("{} did not become {what} in time", path.display())]
    Late {
        /// The directory.
        path: PathBuf,
        /// The state waited for.
        what: &'static str,
    },
}

impl CgroupError {
    /// The error number that fits best, for callers that pass errors on as a number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::MissingController { .. } => libc::ENODEV,
            Self::InternalProcesses { .. } | Self::InUse { .. } => libc::EBUSY,
            Self::Occupied { .. } => libc::EEXIST,
            Self::Name(_) | Self::Limit { .. } | Self::Above { .. } => libc::EINVAL,
            Self::Unknown(_) => libc::ENOENT,
            Self::Content { .. } => libc::EPROTO,
            Self::Late { .. } => libc::ETIMEDOUT,
        }
    }

    /// Whether the kernel said busy: what was tried may succeed in a moment.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_errno(libc::EBUSY)
    }

    pub(super) fn is_errno(&self, wanted: i32) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(wanted))
    }
}
