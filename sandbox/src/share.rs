//! What all sessions below one template have in common because the kernel counts it against the owner of their user namespaces,
//! who is the template, and the share of it that each may have so that nobody can take another's.
//!
//! ```text
//! host: fs.inotify.max_user_instances = 128 ─▶ template: 128 together ─┬▶ session: 128 / SESSIONS
//!                                                                      └▶ session …, of which there are SESSIONS at most
//! ```
//!
//! Not for: what a cgroup counts, and what the kernel counts per uid (each session has its own). Locked memory, message queues and
//! signals that wait are counted along the same way, but against the limits of whoever made the namespace: the daemon's unit has none.

use std::fs;

/// Sessions below one template at a time.
pub const SESSIONS: u32 = 128;

/// Bytes that a living fork may keep charged to its template: what it has written to of the template's memory, and what the kernel has
/// made for it, before it was moved into its session's cgroup; charges stay where they were made.
pub const LEFT_BY_A_FORK: u64 = 8 << 20;

/// Beside what its version may have: of all that may be below a template at a time.
pub const LEFT_BY_ALL: u64 = LEFT_BY_A_FORK * SESSIONS as u64;

/// With fewer inotify instances than this, programs that watch files may miss them.
const ENOUGH: u32 = 16;

/// Of inotify, of one session below a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Open instances.
    pub instances: u32,
    /// Watches of all of them.
    pub watches: u32,
}

impl Shares {
    /// Of what this host gives each owner now. Where it does not say, the least.
    #[must_use]
    pub fn of_host() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"));
            text.ok().and_then(|text| text.trim().parse().ok())
        };
        Self::of(
            read("max_user_instances").unwrap_or(0),
            read("max_user_watches").unwrap_or(0),
        )
    }

    /// Of so many instances and watches of one owner.
    #[must_use]
    pub const fn of(instances: u32, watches: u32) -> Self {
        // Not `Ord::max`, which is not const.
        const fn share(all: u32) -> u32 {
            let share = all / SESSIONS;
            if share == 0 { 1 } else { share }
        }
        Self {
            instances: share(instances),
            watches: share(watches),
        }
    }

    /// Whether programs can be expected to get by with it.
    #[must_use]
    pub const fn is_enough(self) -> bool {
        self.instances >= ENOUGH
    }

    /// What the host's limit of instances would have to be for that.
    #[must_use]
    pub const fn limit_for_enough() -> u32 {
        ENOUGH * SESSIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_are_no_more_than_there_is() {
        for (limit, share) in [(128, 1), (255, 1), (256, 2), (16_384, 128)] {
            let shares = Shares::of(limit, limit);
            assert_eq!((shares.instances, shares.watches), (share, share));
            assert!(share * SESSIONS <= limit);
        }
        // Nothing could be watched at all with none.
        assert_eq!(Shares::of(0, 5), Shares::of(128, 128));
        assert!(!Shares::of(128, 128).is_enough());
        assert!(Shares::of(Shares::limit_for_enough(), 0).is_enough());
    }
}
