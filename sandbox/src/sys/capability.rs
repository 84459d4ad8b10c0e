//! Capability sets of the calling thread: [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html),
//! [capset(2)](https://man7.org/linux/man-pages/man2/capset.2.html).
//!
//! The `caps` crate names the capabilities and reads sets for reports; here they are bit masks, because these calls run
//! between fork and exec, where a hash set has no business and the errno must survive.

use super::check;
use caps::Capability;
use std::io;

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapMask(pub u64);

/// The three sets that `capset` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapSets {
    /// What the thread may use now.
    pub effective: CapMask,
    /// What it may make effective.
    pub permitted: CapMask,
    /// What an exec may keep, together with the file's.
    pub inheritable: CapMask,
}

impl CapMask {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// These ones.
    #[must_use]
    pub fn of(capabilities: &[Capability]) -> Self {
        Self(
            capabilities
                .iter()
                .fold(0, |mask, capability| mask | capability.bitmask()),
        )
    }

    /// Bit numbers in the set.
    pub fn bits(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |bit| self.0 >> bit & 1 == 1)
    }
}

impl std::ops::BitOr for CapMask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two words.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Reads effective, permitted and inheritable set.
pub fn get() -> io::Result<CapSets> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut words = [Word::default(); 2];
    // SAFETY: version 3 makes the kernel write exactly two `Word`s, which `words` has room for.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| CapMask(u64::from(high) << 32 | u64::from(low));
    Ok(CapSets {
        effective: join(words[0].effective, words[1].effective),
        permitted: join(words[0].permitted, words[1].permitted),
        inheritable: join(words[0].inheritable, words[1].inheritable),
    })
}

/// Writes effective, permitted and inheritable set.
pub fn set(sets: CapSets) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "splits 64 bits into two words"
    )]
    let word = |shift: u32| Word {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.permitted.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: version 3 makes the kernel read exactly two `Word`s.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })?;
    Ok(())
}

fn prctl(
    option: libc::c_int,
    two: libc::c_ulong,
    three: libc::c_ulong,
) -> io::Result<libc::c_long> {
    // SAFETY: the options used in this file take plain numbers, no pointers.
    check(libc::c_long::from(unsafe {
        libc::prctl(option, two, three, 0, 0)
    }))
}

/// Whether the bounding set holds capability number `bit`; `None` if the kernel has no such capability.
pub fn bounding_has(bit: u32) -> Option<bool> {
    prctl(libc::PR_CAPBSET_READ, bit.into(), 0)
        .ok()
        .map(|held| held == 1)
}

/// Takes all but `keep` out of the bounding set: no later exec, file capability or set-uid bit can bring one back. Needs
/// `CAP_SETPCAP`.
pub fn limit_bounding(keep: CapMask) -> io::Result<()> {
    for bit in 0..64 {
        match bounding_has(bit) {
            Some(true) if keep.0 >> bit & 1 == 0 => {
                prctl(libc::PR_CAPBSET_DROP, bit.into(), 0)?;
            }
            Some(_) => {}
            // Past the kernel's last capability.
            None => break,
        }
    }
    Ok(())
}

/// Adds capabilities to the ambient set. They must be permitted and inheritable already.
pub fn raise_ambient(mask: CapMask) -> io::Result<()> {
    for bit in mask.bits() {
        prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            bit.into(),
        )?;
    }
    Ok(())
}

/// Empties the ambient set.
pub fn clear_ambient() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        0,
    )?;
    Ok(())
}

/// The ambient set.
pub fn ambient() -> io::Result<CapMask> {
    let mut mask = 0;
    for bit in 0..64u32 {
        match prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong,
            bit.into(),
        ) {
            Ok(1) => mask |= 1 << bit,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(CapMask(mask))
}

/// Sets the securebits (`SECBIT_*` of `<linux/securebits.h>`). Needs `CAP_SETPCAP`.
pub fn set_securebits(bits: u32) -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, bits.into(), 0)?;
    Ok(())
}

/// Whether the calling thread holds no capability in any of the five sets.
pub fn all_empty() -> io::Result<bool> {
    let sets = get()?;
    Ok(
        (sets.effective.0 | sets.permitted.0 | sets.inheritable.0 | ambient()?.0) == 0
            && (0..64).all(|bit| bounding_has(bit) != Some(true)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_caps_crate() {
        let sets = get().expect("capget");
        let theirs = caps::read(None, caps::CapSet::Permitted).expect("caps");
        let theirs: Vec<Capability> = theirs.into_iter().collect();
        assert_eq!(sets.permitted, CapMask::of(&theirs));
        assert_eq!(ambient().expect("prctl"), CapMask::EMPTY);
        assert_eq!(
            bounding_has(Capability::CAP_CHOWN.index().into()),
            caps::has_cap(None, caps::CapSet::Bounding, Capability::CAP_CHOWN).ok()
        );
        assert_eq!(bounding_has(63), None);
    }
}
