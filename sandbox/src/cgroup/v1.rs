//! Limits and counters on cgroup v1, and the freezer where no v2 hierarchy is mounted.
//! <https://docs.kernel.org/admin-guide/cgroup-v1/>
//!
//! Differences that show: an OOM kills one process only (the supervisor ends the session when it sees one counted); a
//! process must be moved into each hierarchy; and **a frozen cgroup ignores SIGKILL until it is thawed**, so the order is
//! freeze ▸ kill ▸ thaw ▸ wait. Freezing first makes the process numbers safe: who is frozen can neither fork nor make
//! room for another process of its number.

use super::device;
use super::dir::Dir;
use super::hierarchy::V1Mount;
use super::v2::{self, CPU_PERIOD_US};
use super::{Branch, CgroupError, Counters, IoLimits, Limits, Result, Step, descend, open_or_make};
use crate::faults;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The instance's directory in one v1 hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    controllers: Vec<String>,
    pub(super) branch: Branch,
}

/// How often a cgroup that does not freeze is killed over again.
const ROUNDS: usize = 20;

/// The hierarchy of a controller.
pub(super) fn of<'a>(hierarchies: &'a [Hierarchy], controller: &str) -> Result<&'a Hierarchy> {
    find(hierarchies, controller).ok_or_else(|| CgroupError::MissingController {
        controller: controller.to_owned(),
        detail: "no v1 hierarchy has it".to_owned(),
    })
}

/// The hierarchy of a controller that a host may lack.
pub(super) fn find<'a>(hierarchies: &'a [Hierarchy], controller: &str) -> Option<&'a Hierarchy> {
    hierarchies
        .iter()
        .find(|h| h.controllers.iter().any(|c| c == controller))
}

/// Makes the instance's directory in one hierarchy.
pub(super) fn plant(mount: &V1Mount, parent: Option<&str>, name: &str) -> Result<Hierarchy> {
    let cpuset = mount.controllers.iter().any(|c| c == "cpuset");
    let enter = |above: Option<&Dir>, dir: &Dir| match above {
        Some(above) if cpuset => inherit_cpuset(above, dir),
        Some(_) | None => Ok(()),
    };
    let parent = descend(Dir::open(&mount.path)?, parent, enter)?;
    let dir = open_or_make(&parent, name)?;
    enter(Some(&parent), &dir)?;
    if cpuset {
        // Sessions start with our processors; without the flag a new cpuset is empty and takes no process.
        dir.write("cgroup.clone_children", "1")?;
    }
    let has_devices = mount.controllers.iter().any(|c| c == "devices");
    if has_devices && !faults::is_off(Step::Devices.name()) && dir.has("devices.list") {
        match device_list(&dir, "") {
            // There are sessions already, of a daemon before this one. Whose list is not as it should be writes its own.
            Err(fault) if fault.is_errno(libc::EINVAL) => {}
            other => other?,
        }
    }
    Ok(Hierarchy {
        controllers: mount.controllers.clone(),
        branch: Branch { parent, dir },
    })
}

fn inherit_cpuset(parent: &Dir, dir: &Dir) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if dir.read(file)?.trim().is_empty() {
            dir.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}

/// Writes every limit of session `name`.
pub(super) fn apply(hierarchies: &[Hierarchy], name: &str, limits: &Limits) -> Result<()> {
    let file = |file: &str| format!("{name}/{file}");
    let dir = |controller| of(hierarchies, controller).map(|h| &h.branch.dir);
    Step::Memory.take(|| {
        memory(dir("memory")?, name, limits.memory_bytes)?;
        socket_memory(dir("memory")?, name, limits.memory_bytes)
    })?;
    Step::Cpu.take(|| {
        let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
        let cpu = dir("cpu")?;
        cpu.write(&file("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
        cpu.write(&file("cpu.cfs_quota_us"), &quota.to_string())?;
        let shares = super::limits::shares_of(limits.cpu_weight);
        cpu.write(&file("cpu.shares"), &shares.to_string())
    })?;
    Step::Pids.take(|| dir("pids")?.write(&file("pids.max"), &limits.pids.to_string()))?;
    Step::Devices.take(|| {
        // A session has the instance's from its first moment; that it does is looked at.
        find(hierarchies, "devices").map_or(Ok(()), |h| device_list(&h.branch.dir, &file("")))
    })?;
    Step::Io.take(|| {
        let Some(io) = &limits.io else {
            return Ok(());
        };
        let blkio = dir("blkio")?;
        let (major, minor) = io.device;
        throttles(io).into_iter().try_for_each(|(control, value)| {
            // 0 takes a rule away.
            let line = format!("{major}:{minor} {}", value.unwrap_or(0));
            blkio.write(&file(control), &line)
        })
    })
}

/// The list of devices, unless it is there; `at`: nothing, or a directory below and a slash.
fn device_list(dir: &Dir, at: &str) -> Result<()> {
    let file = |file: &str| format!("{at}{file}");
    let rules: Vec<String> = device::v1_rules().collect();
    // Where an agent is already it must not be without devices in between.
    let list = dir.read(&file("devices.list")).unwrap_or_default();
    if list.lines().eq(rules.iter().map(String::as_str)) {
        return Ok(());
    }
    dir.write(&file("devices.deny"), "a")?;
    let mut rules = rules.iter();
    rules.try_for_each(|rule| dir.write(&file("devices.allow"), rule))
}

fn throttles(io: &IoLimits) -> [(&'static str, Option<u64>); 4] {
    [
        ("blkio.throttle.read_bps_device", io.read_bps),
        ("blkio.throttle.write_bps_device", io.write_bps),
        ("blkio.throttle.read_iops_device", io.read_iops),
        ("blkio.throttle.write_iops_device", io.write_iops),
    ]
}

/// Memory, and memory plus swap to the same value: no swap on top. The kernel holds `limit <= memsw` at every moment, so
/// the order depends on the direction.
pub(super) fn memory(dir: &Dir, name: &str, bytes: u64) -> Result<()> {
    let limit = format!("{name}/memory.limit_in_bytes");
    let with_swap = format!("{name}/memory.memsw.limit_in_bytes");
    let text = bytes.to_string();
    if !dir.has(&with_swap) {
        return dir.write(&limit, &text);
    }
    if bytes > dir.number(&with_swap)? {
        dir.write(&with_swap, &text)?;
        dir.write(&limit, &text)
    } else {
        dir.write(&limit, &text)?;
        dir.write(&with_swap, &text)
    }
}

/// Takes the limits of [`memory`] and [`socket_memory`] away.
pub(super) fn no_memory_limit(dir: &Dir, name: &str) -> Result<()> {
    // The kernel takes any larger number for none.
    memory(dir, name, u64::MAX)?;
    let sockets = format!("{name}/memory.kmem.tcp.limit_in_bytes");
    match dir.has(&sockets) {
        true => dir.write(&sockets, "-1"),
        false => Ok(()),
    }
}

/// Buffers of TCP and UDP sockets. v1 counts them beside the rest, and only in a cgroup that has been given a limit for
/// them; without one a session's buffers are the host's (`net.ipv4.tcp_mem` is one for all). A session may have as much
/// of them as of memory, so up to twice its limit. Where the file is missing, the kernel counts no memory of its own.
pub(super) fn socket_memory(dir: &Dir, name: &str, bytes: u64) -> Result<()> {
    /// The kernel rounds down to a page, of which the largest that there are have this many bytes.
    const PAGE: u64 = 64 << 10;
    let limit = format!("{name}/memory.kmem.tcp.limit_in_bytes");
    if !dir.has(&limit) {
        return Ok(());
    }
    dir.write(&limit, &bytes.to_string())?;
    let found = dir.number(&limit)?;
    if found > bytes || bytes - found >= PAGE {
        return Err(dir.unusable(&limit, "limit: it is not what was written"));
    }
    Ok(())
}

/// Reads every counter of session `name`.
pub(super) fn counters(
    hierarchies: &[Hierarchy],
    unified: Option<&Dir>,
    name: &str,
) -> Result<Counters> {
    let file = |file: &str| format!("{name}/{file}");
    let memory = &of(hierarchies, "memory")?.branch.dir;
    let pids = &of(hierarchies, "pids")?.branch.dir;
    Ok(Counters {
        cpu_us: cpu_us(hierarchies, unified, name)?,
        memory_bytes: memory.number(&file("memory.usage_in_bytes"))?,
        memory_peak_bytes: memory.number(&file("memory.max_usage_in_bytes"))?,
        pids: pids.number(&file("pids.current"))?,
        oom_kills: oom_kills(hierarchies, name)?,
    })
}

/// The counter of its name.
pub(super) fn oom_kills(hierarchies: &[Hierarchy], name: &str) -> Result<u64> {
    let memory = &of(hierarchies, "memory")?.branch.dir;
    memory.keyed(&format!("{name}/memory.oom_control"), "oom_kill")
}

/// cpuacct, or the v2 hierarchy's `cpu.stat`, which is there without the controller.
fn cpu_us(hierarchies: &[Hierarchy], unified: Option<&Dir>, name: &str) -> Result<u64> {
    if let Some(cpuacct) = find(hierarchies, "cpuacct") {
        let nanos = cpuacct
            .branch
            .dir
            .number(&format!("{name}/cpuacct.usage"))?;
        return Ok(nanos / 1000);
    }
    let missing = || CgroupError::MissingController {
        controller: "cpuacct".to_owned(),
        detail: "no hierarchy counts CPU time".to_owned(),
    };
    let dir = unified.ok_or_else(missing)?;
    v2::cpu_us(&dir.read(&format!("{name}/cpu.stat"))?).ok_or_else(missing)
}

/// An eventfd that the kernel adds to when the memory limit is hit.
pub(super) fn oom_event(hierarchies: &[Hierarchy], name: &str) -> io::Result<OwnedFd> {
    let dir = &of(hierarchies, "memory")
        .map_err(io::Error::other)?
        .branch
        .dir;
    let control = dir
        .open_file(&format!("{name}/memory.oom_control"), OFlag::O_RDONLY)
        .map_err(io::Error::other)?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let event = OwnedFd::from(event);
    // The kernel keeps its own reference to the event; `control` may close.
    let order = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    dir.write(&format!("{name}/cgroup.event_control"), &order)
        .map_err(io::Error::other)?;
    Ok(event)
}

/// Kills all. With `alone` (no v2 hierarchy) by number, frozen; else only thaws what someone froze on v1.
pub(super) fn kill(hierarchies: &[Hierarchy], name: &str, alone: bool) -> Result<()> {
    let Some(freezer) = find(hierarchies, "freezer") else {
        return Ok(());
    };
    let dir = &freezer.branch.dir;
    if !dir.has(name) {
        return Ok(());
    }
    if !alone {
        return set_thawed(dir, name);
    }
    let frozen = set_frozen(dir, name, Instant::now() + Duration::from_millis(200));
    let mut killed = kill_by_number(dir, name);
    set_thawed(dir, name)?;
    if frozen.is_err() {
        // A process in uninterruptible sleep keeps the whole from freezing, so others may have forked while we killed.
        // Each round leaves fewer; the limit on processes bounds them.
        for _ in 0..ROUNDS {
            killed = kill_by_number(dir, name);
        }
    }
    killed
}

fn kill_by_number(dir: &Dir, name: &str) -> Result<()> {
    for pid in members(dir, name)? {
        match send_signal(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => return Err(dir.error("kill processes of", name, errno.into())),
        }
    }
    Ok(())
}

/// Processes of a session. 0 stands for one outside our pid namespace; signalling that would hit ourselves.
fn members(dir: &Dir, name: &str) -> Result<Vec<i32>> {
    let text = dir.read(&format!("{name}/cgroup.procs"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

/// Freezes with the v1 freezer.
pub(super) fn freeze(hierarchies: &[Hierarchy], name: &str, deadline: Instant) -> Result<()> {
    let dir = &of(hierarchies, "freezer")?.branch.dir;
    set_frozen(dir, name, deadline).inspect_err(|_| {
        // Best effort on the way out; the caller hears why freezing failed.
        let _ = set_thawed(dir, name);
    })
}

/// Freezes with the v1 freezer as far as it goes at once; whether all are frozen.
pub(super) fn try_freeze(hierarchies: &[Hierarchy], name: &str) -> Result<bool> {
    let dir = &of(hierarchies, "freezer")?.branch.dir;
    let state = format!("{name}/freezer.state");
    // Written again each time: that is what makes the kernel look at processes forked meanwhile.
    dir.write(&state, "FROZEN")?;
    Ok(dir.read(&state)?.trim() == "FROZEN")
}

/// Whether session `name` was told to freeze, by the v1 freezer.
pub(super) fn session_is_frozen(hierarchies: &[Hierarchy], name: &str) -> Result<bool> {
    match find(hierarchies, "freezer") {
        Some(freezer) if freezer.branch.dir.has(name) => {
            is_frozen(&freezer.branch.dir.open_child(name)?)
        }
        Some(_) | None => Ok(false),
    }
}

/// Thaws the v1 freezer, if there is one and the session is in it.
pub(super) fn thaw(hierarchies: &[Hierarchy], name: &str) -> Result<()> {
    match find(hierarchies, "freezer") {
        Some(freezer) if freezer.branch.dir.has(name) => set_thawed(&freezer.branch.dir, name),
        Some(_) | None => Ok(()),
    }
}

/// Whether a directory of the freezer hierarchy is frozen.
pub(super) fn is_frozen(dir: &Dir) -> Result<bool> {
    Ok(dir
        .read_if_there("freezer.state")?
        .is_some_and(|text| text.trim() != "THAWED"))
}

fn set_frozen(dir: &Dir, name: &str, deadline: Instant) -> Result<()> {
    let state = format!("{name}/freezer.state");
    loop {
        dir.write(&state, "FROZEN")?;
        if dir.read(&state)?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::Late {
                path: dir.path().join(name),
                what: "frozen",
            });
        }
        // v1 has no event for this.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn set_thawed(dir: &Dir, name: &str) -> Result<()> {
    dir.write(&format!("{name}/freezer.state"), "THAWED")
}

/// Waits until no process is left.
pub(super) fn wait_empty(hierarchies: &[Hierarchy], name: &str, deadline: Instant) -> Result<()> {
    let dir = &of(hierarchies, "freezer")?.branch.dir;
    if !dir.has(name) {
        return Ok(());
    }
    let mut pause = Duration::from_micros(200);
    loop {
        if members(dir, name)?.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::Late {
                path: dir.path().join(name),
                what: "empty",
            });
        }
        // v1 has no event for this that does not run a program as root (release_agent).
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
