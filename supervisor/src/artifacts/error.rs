//! Why a bundle was refused: which entry, which rule; and what else can go wrong.

use crate::store::StoreError;
use proto::code::ErrorCode;
use proto::ids::ArtifactId;
use std::io;
use std::path::{Path, PathBuf};

/// Why a call failed. Nothing of the bundle is left then.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bundle breaks a rule.
    #[error("{}{rule}", .entry.as_ref().map(|e| format!("entry {e}: ")).unwrap_or_default())]
    Refused {
        /// The entry, quoted and bounded; absent if it is the bundle as a whole.
        entry: Option<String>,
        /// The rule.
        rule: Refusal,
    },
    /// No such bundle.
    #[error("there is no artifact {0}")]
    NotFound(ArtifactId),
    /// The same bytes had been uploaded before, and were deleted while they came again.
    #[error("artifact {0} was deleted while it was uploaded; upload it again")]
    Deleted(ArtifactId),
    /// The upload broke off: its sender went away.
    #[error("the upload was not completed")]
    Interrupted,
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The rules of bundles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither of the two formats.
    #[error("the bundle is neither a zip nor a tar.gz file")]
    Format,
    /// Too many packed bytes.
    #[error("the bundle is larger than {0} bytes")]
    Packed(u64),
    /// Too many bytes of files.
    #[error("the bundle's files take more than {0} bytes")]
    Unpacked(u64),
    /// It expands too much.
    #[error("the bundle expands to more than {0} times its packed size")]
    Ratio(u64),
    /// Too many entries.
    #[error("the bundle has more than {0} entries")]
    Entries(u64),
    /// It took too long.
    #[error("unpacking took longer than {0} s")]
    Time(u64),
    /// It came too slowly.
    #[error(
        "the upload stood still, or came with less than {0} bytes per second; others wait for its place"
    )]
    Pace(u64),
    /// There is nothing to run.
    #[error("the bundle holds no files")]
    Empty,
    /// A name leads out of the bundle, or is not plain.
    #[error("its path {0}")]
    Path(&'static str),
    /// A path is given twice.
    #[error("its path is given twice, or is both a file and a directory")]
    Duplicate,
    /// A path goes through a link or a file.
    #[error("its path is, or goes through, a link or a file of the bundle")]
    ThroughLink,
    /// A link's target leads out, or is not plain.
    #[error("its link target {0}")]
    Target(&'static str),
    /// A hard link to what is not an earlier file.
    #[error("it is a hard link to something that is not an earlier file of the bundle")]
    HardLink,
    /// Neither file, directory nor link.
    #[error("it is a {0}; only files, directories and links are taken")]
    Kind(&'static str),
    /// setuid or setgid.
    #[error("it has the setuid or setgid bit")]
    SetId,
    /// Its content is not what was announced.
    #[error("its content {0}")]
    Content(&'static str),
    /// The archive contradicts itself or the format.
    #[error("the archive is malformed: {0}")]
    Malformed(&'static str),
    /// A feature that is not taken.
    #[error("it uses {0}, which is not supported")]
    Unsupported(&'static str),
    /// Bytes that belong to no entry.
    #[error("the archive has bytes {0} that belong to no entry")]
    Stray(&'static str),
}

impl Refusal {
    /// Of the bundle as a whole.
    pub(super) fn whole(self) -> ArtifactError {
        ArtifactError::Refused {
            entry: None,
            rule: self,
        }
    }

    /// Of one entry.
    pub(super) fn of(self, name: &[u8]) -> ArtifactError {
        ArtifactError::Refused {
            entry: Some(shown(name)),
            rule: self,
        }
    }
}

impl ArtifactError {
    /// A failed file operation.
    pub(super) fn io(verb: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            verb,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// Names the entry if no one has yet.
    #[must_use]
    pub(super) fn at(self, name: &[u8]) -> Self {
        match self {
            // Bounds are about the bundle, not about the entry at which they were hit.
            Self::Refused {
                entry: None,
                rule:
                    rule @ (Refusal::Unpacked(_)
                    | Refusal::Packed(_)
                    | Refusal::Ratio(_)
                    | Refusal::Entries(_)
                    | Refusal::Time(_)
                    | Refusal::Pace(_)),
            } => rule.whole(),
            Self::Refused { entry: None, rule } => rule.of(name),
            other => other,
        }
    }

    /// How the failure is told to callers.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused {
                rule: Refusal::Packed(_),
                ..
            } => ErrorCode::PayloadTooLarge,
            Self::Refused { .. } | Self::Interrupted => ErrorCode::Validation,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Deleted(_) => ErrorCode::RetryableConflict,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem => ErrorCode::StorageFull,
                _ => ErrorCode::Internal,
            },
            Self::Store(error) => error.code(),
        }
    }
}

/// A stranger's name as it may stand in a message: quoted, escaped, bounded.
fn shown(name: &[u8]) -> String {
    const MOST: usize = 200;
    let cut = &name[..name.len().min(MOST)];
    let more = if cut.len() < name.len() { "…" } else { "" };
    format!("\"{}\"{more}", cut.escape_ascii())
}
