//! Test builds only (`fault-injection`): leave hardening measures out, or make one step fail, by environment variable.
//!
//! | variable | |
//! |---|---|
//! | `AGENTCORED_ABLATE` | names to leave out, separated by commas: of the plan ([`crate::plan::Plan::names`]), `agent.<stage>` of [`crate::agent`], `shim.capabilities`, `refusal.<call>` |
//! | `AGENTCORED_FAIL_STEP` | name of the plan that fails with `EIO`, or a place of the supervisor's that panics |
//!
//! In an ordinary build the functions below are constants, and the variables are never read. Which measure shows in
//! which probe is `tests/agents/measures.md`.

#[cfg(feature = "fault-injection")]
mod variables {
    use nix::errno::Errno;
    use std::ffi::CString;
    use std::io;

    const ABLATE: &str = "AGENTCORED_ABLATE";
    const FAIL: &str = "AGENTCORED_FAIL_STEP";

    /// Whether `measure` is to be left out.
    #[must_use]
    pub fn is_off(measure: &str) -> bool {
        std::env::var(ABLATE).is_ok_and(|list| list.split(',').any(|name| name == measure))
    }

    /// Fails if `step` is to fail.
    pub(crate) fn strike(step: &str) -> io::Result<()> {
        if std::env::var(FAIL).is_ok_and(|name| name == step) {
            return Err(Errno::EIO.into());
        }
        Ok(())
    }

    /// Panics if this place is to: the daemon's own defects are faults too.
    pub fn panic_at(place: &str) {
        assert!(strike(place).is_ok(), "fault injection at {place}");
    }

    /// The shim's environment: it has its part of the measures, and is started without one otherwise.
    pub(crate) fn shim_environment() -> Vec<CString> {
        [ABLATE, FAIL]
            .into_iter()
            .filter_map(|name| CString::new(format!("{name}={}", std::env::var(name).ok()?)).ok())
            .collect()
    }
}

#[cfg(not(feature = "fault-injection"))]
mod variables {
    use std::ffi::CString;
    use std::io;

    /// Nothing is left out.
    #[must_use]
    pub const fn is_off(_measure: &str) -> bool {
        false
    }

    #[expect(clippy::unnecessary_wraps, reason = "the other build's signature")]
    pub(crate) const fn strike(_step: &str) -> io::Result<()> {
        Ok(())
    }

    /// Goes on.
    pub const fn panic_at(_place: &str) {}

    pub(crate) const fn shim_environment() -> Vec<CString> {
        Vec::new()
    }
}

pub use variables::{is_off, panic_at};
pub(crate) use variables::{shim_environment, strike};
