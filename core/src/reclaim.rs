//! Whether the memory of a frozen session is given back to the host, and how much of it next.
//!
//! A session that stands still needs none of its memory. Where the host has swap, compressed in memory (zswap, zram) or on a
//! disk, the kernel takes it piece by piece, so that nobody waits for long, and the session finds it again page by page when it
//! runs. Without swap there is nowhere to put it. Some swap is left for those who run.

/// What the host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host {
    /// Swap, bytes.
    pub swap: u64,
    /// What of it is free.
    pub swap_free: u64,
    /// Sessions' cgroups can be asked for it: `memory.reclaim` of v2, or a v1 that counts memory and swap together.
    pub by_cgroup: bool,
}

/// Why memory of frozen sessions stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// There is nowhere to put it.
    NoSwap,
    /// Their cgroups cannot be asked for it.
    NoReclaim,
}

/// What one session holds, and how it went so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that it holds.
    pub held: u64,
    /// Pieces in a row of which (almost) nothing came.
    pub futile: u32,
}

/// The largest piece: some milliseconds of the kernel's time.
pub const PIECE: u64 = 4 << 20;

/// What a session keeps: page tables, and what its processes stand on.
const KEEPS: u64 = 1 << 20;

/// After so many pieces in a row of which nothing came there is nothing to be had.
const FUTILE: u32 = 3;

/// The part of the swap that is left alone.
const LEFT: u64 = 4;

/// Whether it is given back here at all.
pub fn possible(host: &Host) -> Result<(), Stays> {
    if host.swap == 0 {
        Err(Stays::NoSwap)
    } else if !host.by_cgroup {
        Err(Stays::NoReclaim)
    } else {
        Ok(())
    }
}

/// How many bytes to ask for next; `None`: that was all.
#[must_use]
pub fn next(host: &Host, progress: Progress) -> Option<u64> {
    let room = host.swap_free.saturating_sub(host.swap / LEFT);
    let wanted = progress.held.saturating_sub(KEEPS).min(PIECE).min(room);
    (possible(host).is_ok() && wanted > 0 && progress.futile < FUTILE).then_some(wanted)
}

/// As it went on: it holds so much now.
#[must_use]
pub fn went_on(before: Progress, held: u64) -> Progress {
    let gave = before.held.saturating_sub(held);
    Progress {
        held,
        // A page or two come and go by themselves.
        futile: if gave < PIECE / 64 {
            before.futile + 1
        } else {
            0
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn host() -> Host {
        Host {
            swap: 1024 * MIB,
            swap_free: 1024 * MIB,
            by_cgroup: true,
        }
    }

    #[test]
    fn without_swap_or_a_way_to_it_memory_stays() {
        let held = Progress {
            held: 100 * MIB,
            futile: 0,
        };
        let without = Host::default();
        assert_eq!(possible(&without), Err(Stays::NoSwap));
        assert_eq!(next(&without, held), None);
        let v1 = Host {
            by_cgroup: false,
            ..host()
        };
        assert_eq!(possible(&v1), Err(Stays::NoReclaim));
        assert_eq!(next(&v1, held), None);
        assert_eq!(possible(&host()), Ok(()));
        assert_eq!(next(&host(), held), Some(PIECE));
    }

    #[test]
    fn a_quarter_of_the_swap_is_for_those_who_run() {
        let held = Progress {
            held: 100 * MIB,
            futile: 0,
        };
        let of = |free| Host {
            swap_free: free * MIB,
            ..host()
        };
        assert_eq!(next(&of(256), held), None);
        assert_eq!(next(&of(258), held), Some(2 * MIB));
    }

    proptest! {
        #[test]
        fn it_comes_to_an_end(held in 0_u64..512, gives in prop::collection::vec(0_u64..5, 0..200)) {
            let mut host = host();
            let mut progress = Progress { held: held * MIB, futile: 0 };
            let mut gives = gives.into_iter();
            let mut pieces = 0;
            while let Some(piece) = next(&host, progress) {
                prop_assert!(piece <= PIECE && progress.held - piece >= KEEPS);
                let given = (gives.next().unwrap_or(0) * MIB).min(piece);
                host.swap_free -= given;
                progress = went_on(progress, progress.held - given);
                pieces += 1;
                prop_assert!(pieces < 1000);
            }
            prop_assert!(host.swap_free >= host.swap / LEFT);
        }
    }
}
