//! The two seccomp filters that every process of a session runs under, and that of the broker ([`broker_filter`]).
//!
//! 1. The **allow-list** ([`allowed`]): a number that is not on it answers `ENOSYS`, as on a kernel that does not have
//!    it, so that libraries fall back to older calls (clone3 is such a one: its flags are in memory, where a filter cannot
//!    look). It compares numbers only, which (but for `msync`) lets the kernel answer from its bitmap without running the program.
//!    A few calls are answered here with success, without being carried out.
//! 2. The **refusals** ([`forbidden`]): calls, or arguments of allowed calls, that answer `EPERM`, so that a program says
//!    "not permitted" instead of looking for another way. Installed last: of two refusals the newer filter's is told.
//!
//! Calls from the i386 and x32 tables answer `ENOSYS` in both (the numbers mean other calls there).
//! The agent may add filters of its own; it cannot remove these.

mod allowed;
mod broker;
mod forbidden;
mod tree;

pub use broker::broker_filter;

use crate::faults;
use crate::plan::Filters;
use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Some calls and why they are on their list.
struct Group {
    /// Why.
    reason: &'static str,
    /// Which.
    calls: &'static [libc::c_long],
}

/// Calls that are refused for some arguments only, and why.
struct Refusal {
    /// Stable: `refusal.` and the call.
    name: &'static str,
    /// Why.
    reason: &'static str,
    /// Which.
    call: libc::c_long,
    /// Refused if any of these applies.
    rules: Vec<SeccompRule>,
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Why a filter could not be made. Says that a table here is wrong; a test makes both filters.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The compiler refused it.
    #[error("seccomp filter does not compile")]
    Backend(#[from] seccompiler::BackendError),
}

/// Compiles both filters; once per daemon, they are the same for all sessions.
pub fn filters() -> Result<Filters, FilterError> {
    Ok(Filters {
        allowed: Arc::new(allow_list()),
        forbidden: Arc::new(refusals()?),
    })
}

/// The same for a template and everything that is forked from it, but that they may call `setns`: a fork joins its session's
/// namespaces by it, and installs [`without_setns`] at once after.
pub fn template_filters() -> Result<Filters, FilterError> {
    let joining = |call: &libc::c_long| *call == libc::SYS_setns;
    let allowed = numbers(allowed::GROUPS).chain([libc::SYS_setns]);
    let forbidden = numbers(forbidden::GROUPS).filter(|call| !joining(call));
    Ok(Filters {
        allowed: Arc::new(allow_list_of(allowed)),
        forbidden: Arc::new(refusals_of(forbidden)?),
    })
}

/// What makes the filters of a template those of every other session.
#[must_use]
pub fn without_setns() -> BpfProgram {
    let mut program = foreign_tables();
    program.extend(tree::search([libc::SYS_setns], errno(Errno::EPERM)));
    program.push(tree::filter(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

/// A program as the kernel reads it: `struct sock_filter` one after the other.
#[must_use]
pub fn to_bytes(program: &[seccompiler::sock_filter]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|line| {
            let [code0, code1] = line.code.to_ne_bytes();
            let [k0, k1, k2, k3] = line.k.to_ne_bytes();
            [code0, code1, line.jt, line.jf, k0, k1, k2, k3]
        })
        .collect()
}

/// Why `call` is allowed, or `None`.
#[must_use]
pub fn why_allowed(call: libc::c_long) -> Option<&'static str> {
    reason(allowed::GROUPS, call)
}

/// Why `call` is answered with success and not carried out, or `None`.
#[must_use]
pub fn why_done(call: libc::c_long) -> Option<&'static str> {
    reason(allowed::DONE, call)
}

/// Why `call` is refused whatever its arguments, or `None`.
#[must_use]
pub fn why_forbidden(call: libc::c_long) -> Option<&'static str> {
    reason(forbidden::GROUPS, call)
}

/// Calls that are refused for some arguments, with the reason.
#[must_use]
pub fn argument_refusals() -> Vec<(libc::c_long, &'static str)> {
    forbidden::refusals()
        .map(|refusals| refusals.iter().map(|r| (r.call, r.reason)).collect())
        .unwrap_or_default()
}

fn reason(groups: &[Group], call: libc::c_long) -> Option<&'static str> {
    groups
        .iter()
        .find(|group| group.calls.contains(&call))
        .map(|group| group.reason)
}

/// The verdict that answers with this errno.
fn errno(errno: Errno) -> u32 {
    libc::SECCOMP_RET_ERRNO | (errno as i32).cast_unsigned()
}

fn allow_list() -> BpfProgram {
    allow_list_of(numbers(allowed::GROUPS))
}

fn allow_list_of(allowed: impl Iterator<Item = libc::c_long>) -> BpfProgram {
    let mut program = foreign_tables();
    if !faults::is_off("refusal.sync") {
        program.extend(waiting_msync());
        program.extend(tree::search(numbers(allowed::DONE), DONE));
    }
    program.extend(tree::search(allowed, libc::SECCOMP_RET_ALLOW));
    program.push(tree::filter(BPF_RET | BPF_K, 0, 0, errno(Errno::ENOSYS)));
    program
}

fn refusals() -> Result<BpfProgram, FilterError> {
    refusals_of(numbers(forbidden::GROUPS))
}

fn refusals_of(forbidden: impl Iterator<Item = libc::c_long>) -> Result<BpfProgram, FilterError> {
    let mut program = foreign_tables();
    program.extend(tree::search(forbidden, errno(Errno::EPERM)));
    program.extend(by_argument()?);
    Ok(program)
}

/// Refuses calls by their arguments and allows the rest.
fn by_argument() -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    for refusal in forbidden::refusals()? {
        rules.entry(refusal.call).or_default().extend(refusal.rules);
    }
    let refuse = SeccompAction::Errno((Errno::EPERM as i32).cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCH)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// The verdict that answers with success: the errno 0.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

/// `msync` with `MS_SYNC` is done; anything else goes on, with its number in the accumulator.
fn waiting_msync() -> BpfProgram {
    /// The lower half of the third argument, in `struct seccomp_data`: flags.
    const FLAGS: u32 = 32;
    const NUMBER: u32 = 0;
    let msync = u32::try_from(libc::SYS_msync).unwrap_or(u32::MAX);
    vec![
        tree::filter(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, msync),
        tree::filter(BPF_LD | BPF_W | BPF_ABS, 0, 0, FLAGS),
        tree::filter(
            BPF_JMP | BPF_JSET | BPF_K,
            0,
            1,
            libc::MS_SYNC.cast_unsigned(),
        ),
        tree::filter(BPF_RET | BPF_K, 0, 0, DONE),
        tree::filter(BPF_LD | BPF_W | BPF_ABS, 0, 0, NUMBER),
    ]
}

fn numbers(groups: &[Group]) -> impl Iterator<Item = libc::c_long> {
    groups.iter().flat_map(|group| group.calls).copied()
}

/// `ENOSYS` for calls through another table than the one that the numbers below belong to; leaves the number in the
/// accumulator. The library's own check of the architecture would kill the process, which a program that merely asks does
/// not deserve.
fn foreign_tables() -> BpfProgram {
    #[cfg(target_arch = "x86_64")]
    const AUDIT_ARCH: u32 = 0xC000_003E;
    #[cfg(target_arch = "aarch64")]
    const AUDIT_ARCH: u32 = 0xC000_00B7;
    /// Bit of the x32 table's numbers, which share the architecture with x86-64.
    const X32_BIT: u32 = 0x4000_0000;
    /// Offsets in `struct seccomp_data`.
    const NR: u32 = 0;
    const ARCH: u32 = 4;
    let refuse = if faults::is_off("refusal.foreign_tables") {
        libc::SECCOMP_RET_ALLOW
    } else {
        errno(Errno::ENOSYS)
    };
    vec![
        tree::filter(BPF_LD | BPF_W | BPF_ABS, 0, 0, ARCH),
        tree::filter(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, AUDIT_ARCH),
        tree::filter(BPF_LD | BPF_W | BPF_ABS, 0, 0, NR),
        tree::filter(BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT),
        tree::filter(BPF_RET | BPF_K, 0, 0, refuse),
    ]
}

#[cfg(test)]
mod tests;
