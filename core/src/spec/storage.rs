//! Session storage of a runtime (contract §3.2, `filesystemConfigurations.sessionStorage`).

use super::StorageGrant;
use super::command::shown;
use super::faults::Faults;
use proto::config::StorageMount;
use proto::units::MemoryBytes;

/// Below it a file system and its journal do not fit.
const MIN_SIZE: MemoryBytes = MemoryBytes::mib(16);

/// Longest and shortest path (contract §3.2).
const LENGTH: std::ops::RangeInclusive<usize> = 6..=200;

/// A directory of a session that outlives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStorage {
    /// Its name in `/mnt`.
    pub name: String,
    /// Its size.
    pub size: MemoryBytes,
}

/// The storage; worthless after a fault.
pub(super) fn resolve(
    asked: &[StorageMount],
    grant: &StorageGrant,
    faults: &mut Faults,
) -> Option<SessionStorage> {
    let first = asked.first()?;
    if let Some(reason) = &grant.unavailable {
        faults.add(
            "storage",
            format!("asks for session storage, which this host cannot give: {reason}"),
        );
    }
    if asked.len() > 1 {
        faults.add(
            "storage",
            format!(
                "has {} entries; a session has one storage at most",
                asked.len()
            ),
        );
    }
    let name = name(&first.mount);
    if name.is_none() {
        faults.add(
            "storage[0].mount",
            format!(
                "must be /mnt/<name> of {} to {} characters, the name of letters, digits, `.`, `_` and `-`, not `.`, `..` or `lost+found`; is {}",
                LENGTH.start(),
                LENGTH.end(),
                shown(&first.mount)
            ),
        );
    }
    let size = first.size.unwrap_or(grant.max_size);
    if size < MIN_SIZE {
        faults.add(
            "storage[0].size",
            format!("must be at least {MIN_SIZE}, is {size}"),
        );
    } else if size > grant.max_size {
        let ceiling = grant.max_size;
        faults.add(
            "storage[0].size",
            format!("must be at most {ceiling}, which is this host's ceiling, is {size}"),
        );
    }
    Some(SessionStorage {
        name: name.unwrap_or_default().to_owned(),
        size,
    })
}

fn name(mount: &str) -> Option<&str> {
    if !LENGTH.contains(&mount.chars().count()) {
        return None;
    }
    let name = mount.strip_prefix("/mnt/")?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good =
        !name.is_empty() && name.chars().all(plain) && !matches!(name, "." | ".." | "lost+found");
    good.then_some(name)
}
