//! Executes a [`Plan`]: what the launcher does ahead, and the half that runs in the stager, a one-shot process that is root
//! and sits in the session's cgroup already. The other half, in the new process, is [`child`].
//!
//! ```text
//! Staged::prepare   launcher, before the stager is forked: what does not depend on the session
//! Staged::settle    stager, before there is an order: its network ([`place`])
//! Staged::launch    stager: clone3 ─▶ maps ─▶ "go" ─▶ wait for a fault or for exec
//! ```
//!
//! A fault anywhere means: the new process is dead (it is PID 1, so everything in the session is), all mounts were detached
//! or its own and are gone with it. What remains for the launcher to clean are cgroup, socket and exit record.

mod child;
mod dev;
mod place;
mod usher;

pub use usher::TemplateNamespaces;

use crate::faults;
use crate::plan::{AheadAct, Attr, Fault, FsOption, MapAct, OrderAct, PlaceAct, Plan, Step};
use crate::sys::capability::{self, CapSets};
use crate::sys::errno_of;
use crate::sys::fork::{Clone3, Cloned};
use crate::sys::mount::{self, FsContext, MountAttrs};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, Uid, pipe2, seteuid};
use procfs::process::Process;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What every launch of this daemon needs, opened once.
#[derive(Debug)]
pub struct Host {
    /// The base root file system's directory.
    pub base: OwnedFd,
    /// The sealed copy of the shim.
    pub shim: OwnedFd,
}

/// What the order brings along.
#[derive(Debug)]
pub struct OrderFds {
    /// The bundle's directory.
    pub bundle: OwnedFd,
    /// The shim's descriptors, from 3 up.
    pub shim: [OwnedFd; 3],
    /// The detached mount of its storage, where it has one.
    pub storage: Option<OwnedFd>,
    /// The template that it goes below, if its plan says so.
    pub template: Option<TemplateNamespaces>,
}

/// What can be made without an order.
#[derive(Debug)]
pub struct Staged {
    base: OwnedFd,
    dev: OwnedFd,
    /// It is in a network of its own, by [`Self::settle`].
    settled: bool,
}

/// A session that runs its shim.
#[derive(Debug)]
pub struct Launched {
    /// Its PID 1, as the launcher sees it.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// When it began, clock ticks since boot: with the number, its identity.
    pub start_time: u64,
    /// Where the time went.
    pub times: Times,
}

/// How long each part of a launch took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// clone3 with seven namespaces.
    pub clone: Duration,
    /// Maps written.
    pub maps: Duration,
    /// From "go" to the shim's exec.
    pub child: Duration,
}

/// The new process's word that all steps but exec are done. No errno begins with this byte: they are below 4096.
const EXECUTING: u8 = 0xFF;

/// The stager's own steps, beside the plan's.
pub(crate) const STEPS: [&str; 3] = ["clone", "go", "report"];

/// A step's name and what went wrong, before it has to be owned.
pub(crate) type StepResult<T> = Result<T, (&'static str, io::Error)>;

/// Runs one named act.
pub(crate) fn step<T>(name: &'static str, act: impl FnOnce() -> io::Result<T>) -> StepResult<T> {
    faults::strike(name)
        .and_then(|()| act())
        .map_err(|error| (name, error))
}

pub(crate) fn fault((stage, error): (&'static str, io::Error)) -> Fault {
    Fault {
        stage: stage.to_owned(),
        errno: errno_of(&error),
    }
}

impl Staged {
    /// Performs the plan's `ahead` steps.
    pub fn prepare(steps: &[Step<AheadAct>], host: &Host) -> Result<Self, Fault> {
        prepare(steps, host).map_err(fault)
    }

    /// Performs the plan's `place` steps. A stager that does not know yet what for does so, too; there are none if it is known to
    /// be for a session below a template, which has a network of its own.
    pub fn settle(&mut self, steps: &[Step<PlaceAct>]) -> Result<(), Fault> {
        place::make(steps).map_err(fault)?;
        self.settled = steps.iter().any(|step| step.act == PlaceAct::Network);
        Ok(())
    }

    /// What it holds: whoever closes all else must spare these.
    #[must_use]
    pub fn mounts(&self) -> [BorrowedFd<'_>; 2] {
        [self.base.as_fd(), self.dev.as_fd()]
    }

    /// Makes the session: the caller becomes the elder sibling of its PID 1.
    pub fn launch(self, plan: &Plan, host: &Host, order: &OrderFds) -> Result<Launched, Fault> {
        faults::settle();
        refuse_dangerous_ablations(plan)?;
        // The session would be in the host's network.
        if let Some(first) = plan.place.first().filter(|_| !self.settled) {
            return Err(fault((first.name, Errno::EINVAL.into())));
        }
        let bundle = follow_order(&plan.order, order.bundle.as_fd()).map_err(fault)?;
        let pipes = Pipes::new().map_err(|error| fault(("clone", error)))?;
        let Pipes {
            go: (go_read, go_write),
            report: (report_read, report_write),
        } = pipes;
        let began = Instant::now();
        // The closure owns the child's ends by reference only: both processes must close the other's.
        let mut ends = Some((go_read, go_write, report_read, report_write));
        let resources = child::Resources {
            base: self.base.as_fd(),
            dev: self.dev.as_fd(),
            bundle: bundle.as_fd(),
            program: host.shim.as_fd(),
            storage: order.storage.as_ref().map(AsFd::as_fd),
            descriptors: order.shim.each_ref().map(AsFd::as_fd),
        };
        let clone = Clone3 {
            namespaces: plan.namespaces.iter().fold(0, |flags, ns| flags | ns.act),
            sibling: true,
            cgroup: None,
        };
        for namespace in &plan.namespaces {
            step(namespace.name, || Ok(())).map_err(fault)?;
        }
        let child = || {
            // Without our copies of the stager's ends, its death is an end of file here.
            let Some((go, go_write, report_read, report)) = ends.take() else {
                return 127;
            };
            drop((go_write, report_read));
            child::run(&plan.child, &resources, File::from(go), &report)
        };
        let cloned = match (plan.usher.is_empty(), &order.template) {
            (true, _) => clone.spawn(child).map_err(|error| ("clone", error)),
            (false, Some(template)) => {
                usher::clone_below(&plan.usher, &plan.maps, template, &clone, child)
            }
            (false, None) => Err(("plan", Errno::EINVAL.into())),
        }
        .map_err(fault)?;
        // What follows is root's to do. Leaving 0 was only for the clone; the real and saved ids never changed.
        seteuid(Uid::from_raw(0)).map_err(|error| fault(("clone", error.into())))?;
        let Some((go_read, go, report, report_write)) = ends else {
            return Err(fault(("clone", Errno::EIO.into())));
        };
        drop((go_read, report_write));
        let cloned_at = Instant::now();
        // The process waits for "go", so it is there to be looked at.
        let start_time = step("clone", || start_time(cloned.pid)).map_err(fault)?;
        let storage = order.storage.as_ref().map(AsFd::as_fd);
        self.finish(plan, &cloned, storage, (go, report), (began, cloned_at))
            .map(|times| Launched {
                pid: cloned.pid,
                pidfd: cloned.pidfd,
                start_time,
                times,
            })
    }

    /// Maps, "go", and what the new process says.
    fn finish(
        &self,
        plan: &Plan,
        cloned: &Cloned,
        storage: Option<BorrowedFd<'_>>,
        (go, report): (OwnedFd, OwnedFd),
        (began, cloned_at): (Instant, Instant),
    ) -> Result<Times, Fault> {
        // On a fault `go` is dropped without a word: the new process reads end of file and exits.
        let ushered = !plan.usher.is_empty();
        let maps = plan.maps.iter().filter(|map| match &map.act {
            MapAct::Write { .. } => !ushered,
            MapAct::MapBaseOwners | MapAct::MapStorageOwners => true,
        });
        write_maps(maps, cloned.pid, (self.base.as_fd(), storage)).map_err(fault)?;
        let mapped_at = Instant::now();
        step("go", || File::from(go).write_all(&[1])).map_err(fault)?;
        let mut answer = Vec::new();
        step("report", || File::from(report).read_to_end(&mut answer)).map_err(fault)?;
        let (executing, fault) = match answer.split_first() {
            Some((&EXECUTING, rest)) => (true, rest),
            Some(_) | None => (false, &answer[..]),
        };
        match fault.split_first_chunk::<4>() {
            // exec has closed the pipe.
            None if executing => Ok(Times {
                clone: cloned_at - began,
                maps: mapped_at - cloned_at,
                child: mapped_at.elapsed(),
            }),
            // Killed on the way, by the OOM killer for one.
            None => Err(Fault {
                stage: "report".to_owned(),
                errno: Errno::ECHILD as i32,
            }),
            Some((errno, name)) => Err(Fault {
                stage: String::from_utf8_lossy(name).into_owned(),
                errno: i32::from_le_bytes(*errno),
            }),
        }
    }
}

/// Test builds can leave out a namespace, and two of those would let a session loose on the host.
fn refuse_dangerous_ablations(plan: &Plan) -> Result<(), Fault> {
    let has = |name| plan.namespaces.iter().any(|ns| ns.name == name);
    // Its mounts and its pivot_root would be the host's; its kill(-1) would reach every process there is.
    if has("ns.mnt") && (has("ns.user") || has("ns.pid")) {
        return Ok(());
    }
    Err(fault(("clone", Errno::EPERM.into())))
}

fn start_time(pid: Pid) -> io::Result<u64> {
    Process::new(pid.as_raw())
        .and_then(|process| process.stat())
        .map(|stat| stat.starttime)
        .map_err(io::Error::other)
}

/// "Go" to the new process, and its report back.
struct Pipes {
    go: (OwnedFd, OwnedFd),
    report: (OwnedFd, OwnedFd),
}

impl Pipes {
    fn new() -> io::Result<Self> {
        Ok(Self {
            go: pipe2(OFlag::O_CLOEXEC)?,
            report: pipe2(OFlag::O_CLOEXEC)?,
        })
    }
}

fn prepare(steps: &[Step<AheadAct>], host: &Host) -> StepResult<Staged> {
    let (mut base, mut dev) = (None, None);
    for Step { name, act } in steps {
        match act {
            AheadAct::CloneBase(attrs) => {
                base = Some(clone_with(name, attrs, host.base.as_fd())?);
            }
            AheadAct::MakeDev {
                options,
                nodes,
                attrs,
            } => dev = Some(dev::make(name, options, nodes, attrs)?),
            #[cfg(feature = "fault-injection")]
            AheadAct::BindHostDev(attrs) => {
                let host = step(name, || File::open("/dev"))?;
                dev = Some(clone_with(name, attrs, host.as_fd())?);
            }
        }
    }
    match (base, dev) {
        (Some(base), Some(dev)) => Ok(Staged {
            base,
            dev,
            settled: false,
        }),
        _ => Err(("plan", Errno::EINVAL.into())),
    }
}

fn follow_order(steps: &[Step<OrderAct>], bundle: BorrowedFd<'_>) -> StepResult<OwnedFd> {
    let mut made = None;
    for Step { name, act } in steps {
        match act {
            OrderAct::OomScore(score) => step(name, || {
                std::fs::write("/proc/self/oom_score_adj", score.to_string())
            })?,
            OrderAct::CloneBundle(attrs) => made = Some(clone_with(name, attrs, bundle)?),
            OrderAct::Own(uid) => step(name, || take_effective_uid(*uid))?,
        }
    }
    made.ok_or(("plan", Errno::EINVAL.into()))
}

/// Another effective uid, with every capability that the process may have: a change away from 0 empties the effective set.
fn take_effective_uid(uid: u32) -> io::Result<()> {
    seteuid(Uid::from_raw(uid))?;
    let sets = capability::get()?;
    capability::set(CapSets {
        effective: sets.permitted,
        ..sets
    })
}

/// A detached clone of a mount, with attributes that are on it before anyone can reach it.
fn clone_with(name: &'static str, attrs: &[Attr], of: BorrowedFd<'_>) -> StepResult<OwnedFd> {
    let mount = step(name, || mount::clone_tree(of))?;
    add_attrs(name, attrs, mount.as_fd())?;
    Ok(mount)
}

fn add_attrs(name: &'static str, attrs: &[Attr], mount: BorrowedFd<'_>) -> StepResult<()> {
    let all = union(attrs)?;
    step(name, || mount::add_attrs(mount, all))
}

fn union(attrs: &[Attr]) -> StepResult<MountAttrs> {
    attrs.iter().try_fold(MountAttrs::default(), |all, one| {
        step(one.name, || Ok(all | one.attr))
    })
}

/// Makes a file system: each option by its own name, the rest by the step's.
fn make_fs(
    name: &'static str,
    fstype: &std::ffi::CStr,
    options: &[FsOption],
    attrs: &[Attr],
) -> StepResult<OwnedFd> {
    make_fs_of(name, fstype, None, options, attrs)
}

/// The same of a device.
pub(crate) fn make_fs_of(
    name: &'static str,
    fstype: &std::ffi::CStr,
    device: Option<&std::ffi::CStr>,
    options: &[FsOption],
    attrs: &[Attr],
) -> StepResult<OwnedFd> {
    let attrs = union(attrs)?;
    let context = step(name, || FsContext::open(fstype))?;
    if let Some(device) = device {
        step(name, || context.option(c"source", device))?;
    }
    for option in options {
        step(option.name, || match &option.value {
            Some(value) => context.option(&option.key, value),
            None => context.flag(&option.key),
        })?;
    }
    step(name, || context.mount(attrs))
}

fn write_maps<'a>(
    steps: impl Iterator<Item = &'a Step<MapAct>>,
    pid: Pid,
    (base, storage): (BorrowedFd<'_>, Option<BorrowedFd<'_>>),
) -> StepResult<()> {
    let map_ids = |mount| {
        let userns = File::open(format!("/proc/{pid}/ns/user"))?;
        mount::map_ids(mount, userns.as_fd())
    };
    for Step { name, act } in steps {
        step(name, || match act {
            // The process is our own unreaped sibling, so its number cannot have been reused.
            MapAct::Write { file, content } => {
                std::fs::write(format!("/proc/{pid}/{file}"), content)
            }
            MapAct::MapBaseOwners => map_ids(base),
            MapAct::MapStorageOwners => map_ids(storage.ok_or(Errno::EINVAL)?),
        })?;
    }
    Ok(())
}
