//! Limits and counters on cgroup v2. <https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers>

use super::dir::{Dir, keyed};
use super::{
    Branch, CgroupError, Counters, IoLimits, Limits, Result, Step, default_parent, descend,
    open_or_make,
};
use std::path::Path;

/// Period of the CPU quota: the kernel's default, 100 ms.
pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// Makes the instance's directory, with the controllers enabled on the way down and for the sessions below it.
pub(super) fn plant(mount: &Path, parent: Option<&str>, name: &str) -> Result<Branch> {
    let parent = descend(
        Dir::open(mount)?,
        parent.or_else(|| default_parent(mount)),
        |_, dir| enable(dir),
    )?;
    let dir = open_or_make(&parent, name)?;
    enable(&dir)?;
    Ok(Branch { parent, dir })
}

/// Enables the controllers for the children of `dir`. io is optional; any other that is missing is an error.
fn enable(dir: &Dir) -> Result<()> {
    const SUBTREE: &str = "cgroup.subtree_control";
    let available = dir.read("cgroup.controllers")?;
    let enabled = dir.read(SUBTREE)?;
    let has = |text: &str, wanted: &str| text.split_whitespace().any(|c| c == wanted);
    for (controller, required) in [
        ("memory", true),
        ("cpu", true),
        ("pids", true),
        ("io", false),
    ] {
        if has(&enabled, controller) {
            continue;
        }
        if !has(&available, controller) {
            if required {
                return Err(CgroupError::MissingController {
                    controller: controller.to_owned(),
                    detail: format!(
                        "{} does not offer it; enable it in the parent's cgroup.subtree_control \
                         (with systemd: Delegate=yes)",
                        dir.path().display()
                    ),
                });
            }
            continue;
        }
        match dir.write(SUBTREE, &format!("+{controller}")) {
            Ok(()) => {}
            // "No internal processes": only the true root may have both processes and enabled controllers.
            Err(fault) if fault.is_errno(libc::EBUSY) => {
                let pids = dir.read("cgroup.procs").unwrap_or_default();
                return Err(CgroupError::InternalProcesses {
                    path: dir.path().to_owned(),
                    pids: pids
                        .split_whitespace()
                        .take(5)
                        .collect::<Vec<_>>()
                        .join(", "),
                });
            }
            Err(_) if !required => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// The session is not ended as a whole when it is out of memory: its PID 1 goes on.
pub(super) fn spare(dir: &Dir, name: &str) -> Result<()> {
    Step::Memory.take(|| dir.write(&format!("{name}/memory.oom.group"), "0"))
}

/// Writes every limit of session `name` below `dir`.
pub(super) fn apply(dir: &Dir, name: &str, limits: &Limits) -> Result<()> {
    let file = |file: &str| format!("{name}/{file}");
    Step::Memory.take(|| {
        dir.write(&file("memory.max"), &limits.memory_bytes.to_string())?;
        // Absent where the kernel counts no swap; capabilities() says so.
        if dir.has(&file("memory.swap.max")) {
            dir.write(&file("memory.swap.max"), "0")?;
        }
        // No memory.high: below the limit it would throttle an agent to a crawl, where an end with a reason is wanted.
        // The kernel ends a session as a whole, so nobody has to watch for its out-of-memory events (see `oom_event`).
        dir.write(&file("memory.oom.group"), "1")
    })?;
    Step::Cpu.take(|| {
        let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
        dir.write(&file("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
        dir.write(&file("cpu.weight"), &limits.cpu_weight.to_string())
    })?;
    Step::Pids.take(|| dir.write(&file("pids.max"), &limits.pids.to_string()))?;
    Step::Devices.take(|| Ok(()))?;
    Step::Io.take(|| match &limits.io {
        Some(io) => dir.write(&file("io.max"), &io_line(io)),
        None => Ok(()),
    })
}

fn io_line(io: &IoLimits) -> String {
    let (major, minor) = io.device;
    let value = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |n| n.to_string());
    format!(
        "{major}:{minor} rbps={} wbps={} riops={} wiops={}",
        value(io.read_bps),
        value(io.write_bps),
        value(io.read_iops),
        value(io.write_iops)
    )
}

/// Reads every counter of session `name` below `dir`.
pub(super) fn counters(dir: &Dir, name: &str) -> Result<Counters> {
    let file = |file: &str| format!("{name}/{file}");
    let memory_bytes = dir.number(&file("memory.current"))?;
    Ok(Counters {
        cpu_us: dir.keyed(&file("cpu.stat"), "usage_usec")?,
        memory_bytes,
        // Linux 5.19; the kernel floor has it.
        memory_peak_bytes: dir.number(&file("memory.peak"))?,
        pids: dir.number(&file("pids.current"))?,
        oom_kills: oom_kills(dir, name)?,
    })
}

/// The counter of its name.
pub(super) fn oom_kills(dir: &Dir, name: &str) -> Result<u64> {
    dir.keyed(&format!("{name}/memory.events"), "oom_kill")
}

/// CPU time of a cgroup from the text of its `cpu.stat`, microseconds.
pub(super) fn cpu_us(stat: &str) -> Option<u64> {
    keyed(stat, "usage_usec")
}
