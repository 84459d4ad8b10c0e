//! glibc's heap: [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html).

use nix::errno::Errno;
use std::io;

/// Lets at most so many arenas be made; those that are there stay. To be called before there are threads, each of which would
/// have one of its own.
pub fn limit_arenas(most: i32) -> io::Result<()> {
    // SAFETY: changes a number of the allocator's own, under its own lock.
    match unsafe { libc::mallopt(libc::M_ARENA_MAX, most) } {
        1 => Ok(()),
        // It sets no errno.
        _ => Err(Errno::EINVAL.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// Those of threads, each of which begins at a multiple of its greatest size.
    fn arenas() -> usize {
        let maps = procfs::process::Process::myself().and_then(|me| me.maps());
        let begins = |map: &procfs::process::MemoryMap| map.address.0.is_multiple_of(64 << 20);
        maps.expect("maps").into_iter().filter(begins).count()
    }

    #[test]
    fn threads_share_what_there_may_be() {
        let before = arenas();
        limit_arenas(2).expect("set");
        let all = Barrier::new(9);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let used = std::hint::black_box(vec![1_u8; 1000]);
                    all.wait();
                    all.wait();
                    drop(used);
                });
            }
            all.wait();
            let now = arenas();
            all.wait();
            assert!(now <= before.max(2), "{now}, before {before}");
        });
    }
}
