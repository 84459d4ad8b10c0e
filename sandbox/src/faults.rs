//! Test builds only (`fault-injection`): leave hardening measures out, or make one step fail, by environment variable.
//!
//! | variable | |
//! |---|---|
//! | `AGENTCORED_ABLATE` | names to leave out, separated by commas: of the plan ([`crate::plan::Plan::names`]), limits of [`crate::cgroup::Step`], `agent.<stage>` of [`crate::agent`], `shim.capabilities`, `refusal.<call>`, `idmap.session_range` (all sessions have the first one's range), `env.clear` and `shim.env` (shim and agent inherit the daemon's environment) |
//! | `AGENTCORED_FAIL_STEP` | name of [`crate::steps`] that fails with `EIO`, or a place of the supervisor's that panics or aborts; `@` and a path: a file that holds such a name, read anew at each step |
//!
//! In an ordinary build the functions below are constants, and the variables are never read. Which measure shows in
//! which probe is `tests/agents/measures.md`.

#[cfg(feature = "fault-injection")]
mod variables {
    use nix::errno::Errno;
    use std::ffi::CString;
    use std::io;
    use std::sync::OnceLock;

    const ABLATE: &str = "AGENTCORED_ABLATE";
    const FAIL: &str = "AGENTCORED_FAIL_STEP";

    /// Whether `measure` is to be left out.
    #[must_use]
    pub fn is_off(measure: &str) -> bool {
        std::env::var(ABLATE).is_ok_and(|list| list.split(',').any(|name| name == measure))
    }

    /// What the file said when this process last could read it. See [`settle`].
    static SETTLED: OnceLock<Option<String>> = OnceLock::new();

    /// Reads the file for the last time: a process on its way into a session is soon out of its reach.
    pub(crate) fn settle() {
        SETTLED.get_or_init(to_fail);
    }

    /// The step that is to fail.
    fn to_fail() -> Option<String> {
        let given = std::env::var(FAIL).ok()?;
        let Some(path) = given.strip_prefix('@') else {
            return Some(given);
        };
        match SETTLED.get() {
            Some(settled) => settled.clone(),
            // No file: nothing fails.
            None => Some(std::fs::read_to_string(path).ok()?.trim().to_owned()),
        }
    }

    /// Fails if `step` is to fail.
    pub(crate) fn strike(step: &str) -> io::Result<()> {
        if to_fail().is_some_and(|name| name == step) {
            return Err(Errno::EIO.into());
        }
        Ok(())
    }

    /// Panics if this place is to: the daemon's own defects are faults too.
    pub fn panic_at(place: &str) {
        assert!(strike(place).is_ok(), "fault injection at {place}");
    }

    /// Ends this process at once, as a kill would, if this place is to.
    pub fn abort_at(place: &str) {
        if strike(place).is_err() {
            std::process::abort();
        }
    }

    /// What an agent inherits of its shim's environment: nothing.
    pub(crate) fn inherited() -> Vec<String> {
        if !is_off("shim.env") {
            return Vec::new();
        }
        std::env::vars()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    /// The shim's environment: it has its part of the measures, and is started without one otherwise.
    pub(crate) fn shim_environment() -> Vec<CString> {
        if is_off("env.clear") {
            return std::env::vars()
                .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
                .collect();
        }
        [(ABLATE, std::env::var(ABLATE).ok()), (FAIL, to_fail())]
            .into_iter()
            .filter_map(|(name, value)| CString::new(format!("{name}={}", value?)).ok())
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

    /// Goes on.
    pub const fn abort_at(_place: &str) {}

    pub(crate) const fn settle() {}

    pub(crate) const fn inherited() -> Vec<String> {
        Vec::new()
    }

    pub(crate) const fn shim_environment() -> Vec<CString> {
        Vec::new()
    }
}

pub use variables::{abort_at, is_off, panic_at};
pub(crate) use variables::{inherited, settle, shim_environment, strike};
