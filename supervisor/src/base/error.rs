//! Why there is no base.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The host has no Debian packages to take a base from.
    #[error(
        "this host has no dpkg, so no base root file system can be made from its packages. Prepare one (for example \
         unpack a container image) and name it in the configuration: base = \"/path/to/it\""
    )]
    NoDpkg,
    /// A package without which nothing runs is not installed.
    #[error(
        "package `{package}` is not installed, which the base root file system needs; install it (apt-get install \
         {package}), or prepare a base and name it in the configuration: base = \"/path/to/it\""
    )]
    NoPackage {
        /// Which.
        package: &'static str,
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
    /// A program that helps to build could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program that helps to build failed.
    #[error("{program} failed ({status}): {said}")]
    Command {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The operator's base cannot be used.
    #[error("{} cannot be the base of sessions: {}", root.display(), problems.join("; "))]
    Given {
        /// Its root.
        root: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
    /// What was built is not usable.
    #[error("{detail}; delete it, and it is built again at the next start")]
    Broken {
        /// What and where.
        detail: String,
    },
}
