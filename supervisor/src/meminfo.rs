//! What the host says of its memory: `/proc/meminfo`, proc_meminfo(5).

/// Bytes; `None` where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meminfo {
    /// All of it.
    pub total: Option<u64>,
    /// What of it is available without swapping.
    pub available: Option<u64>,
    /// Swap.
    pub swap: Option<u64>,
    /// What of it is free.
    pub swap_free: Option<u64>,
}

impl Meminfo {
    /// As it is now. A host that cannot be asked says nothing.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let of = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            kilobytes.checked_mul(1024)
        };
        Self {
            total: of("MemTotal:"),
            available: of("MemAvailable:"),
            swap: of("SwapTotal:"),
            swap_free: of("SwapFree:"),
        }
    }

    /// For the decision to give frozen sessions' memory back; `by_cgroup`: there is a way to.
    #[must_use]
    pub fn for_reclaim(self, by_cgroup: bool) -> session_core::reclaim::Host {
        session_core::reclaim::Host {
            swap: self.swap.unwrap_or(0),
            swap_free: self.swap_free.unwrap_or(0),
            by_cgroup,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood_and_what_it_does_not_is_unknown() {
        let text = "MemTotal:       24684228 kB\nMemFree:          821000 kB\nMemAvailable:   22959104 kB\n\
            SwapCached:  1 kB\nSwapTotal:   2048 kB\nSwapFree: 1024 kB\n";
        let found = Meminfo::parse(text);
        assert_eq!(found.total, Some(24_684_228 << 10));
        assert_eq!(found.available, Some(22_959_104 << 10));
        let host = found.for_reclaim(true);
        assert_eq!((host.swap, host.swap_free), (2 << 20, 1 << 20));
        assert_eq!(Meminfo::parse("MemTotal: many kB"), Meminfo::default());
        assert_eq!(Meminfo::default().for_reclaim(true).swap, 0);
    }
}
