//! The half of a plan that runs in the new process, between clone3 and exec.
//!
//! System calls on things made before the clone; the first that fails is reported home as (errno, name) and the process
//! ends. Everything it has done by then dies with it: its mount namespace, its tmpfs, its network.

use super::{StepResult, make_fs, step};
use crate::plan::{ChildAct, FsMount, Step};
use crate::sys::capability::{self, CapMask, CapSets};
use crate::sys::exec::{CStringArray, execve_fd};
use crate::sys::{close_range, errno_of, keyring, loopback, mount, seccomp, signal, standard_fds};
use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::prctl;
use nix::sys::resource::{getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, fchdir, pivot_root, sethostname, setresgid, setresuid, setsid};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What the stager made for it.
#[derive(Clone, Copy)]
pub(super) struct Resources<'a> {
    /// Detached mount of the base.
    pub(super) base: BorrowedFd<'a>,
    /// Detached mount of `/dev`.
    pub(super) dev: BorrowedFd<'a>,
    /// Detached mount of the bundle.
    pub(super) bundle: BorrowedFd<'a>,
    /// Detached mount of the storage.
    pub(super) storage: Option<BorrowedFd<'a>>,
    /// The sealed shim.
    pub(super) program: BorrowedFd<'a>,
    /// The shim's descriptors, from 3 up.
    pub(super) descriptors: [BorrowedFd<'a>; 3],
}

/// Exit status of a process that could not become a session.
const FAILED: i32 = 127;

/// Waits for "go", performs the steps, and returns only if one failed.
pub(super) fn run(
    steps: &[Step<ChildAct>],
    resources: &Resources<'_>,
    mut go: File,
    report: &OwnedFd,
) -> i32 {
    // End of file instead of a byte: the stager has failed or died, and has said so itself.
    if go.read_exact(&mut [0]).is_err() {
        return FAILED;
    }
    // Placing the shim's descriptors overwrites low numbers.
    let aside = |fd: BorrowedFd<'_>| standard_fds::out_of_the_way(fd);
    let (Ok(report), Ok(program)) = (aside(report.as_fd()), aside(resources.program)) else {
        return FAILED;
    };
    let mut report = File::from(report);
    let resources = &Resources {
        program: program.as_fd(),
        ..*resources
    };
    for Step { name, act } in steps {
        if matches!(act, ChildAct::Exec { .. }) && report.write_all(&[super::EXECUTING]).is_err() {
            return FAILED;
        }
        if let Err((stage, error)) = perform(name, act, resources) {
            let mut message = [0; 68];
            let name = &stage.as_bytes()[..stage.len().min(64)];
            message[..4].copy_from_slice(&errno_of(&error).to_le_bytes());
            message[4..4 + name.len()].copy_from_slice(name);
            // A stager that is gone cannot be told; its launcher sees this process end.
            let _ = report.write_all(&message[..4 + name.len()]);
            return FAILED;
        }
    }
    // A plan that does not end in exec.
    FAILED
}

fn perform(name: &'static str, act: &ChildAct, with: &Resources<'_>) -> StepResult<()> {
    if let ChildAct::Mount(fs) = act {
        return mount_fs(name, fs, with.base);
    }
    step(name, || simple(act, with))
}

fn simple(act: &ChildAct, with: &Resources<'_>) -> io::Result<()> {
    match act {
        ChildAct::NonDumpable => prctl::set_dumpable(false)?,
        ChildAct::Setsid => {
            setsid()?;
        }
        ChildAct::ResetSignals => signal::reset_all()?,
        ChildAct::OwnShare { file, limit } => {
            let file = open(
                file.as_c_str(),
                OFlag::O_WRONLY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            File::from(file).write_all(limit.to_string().as_bytes())?;
        }
        ChildAct::PrivateMounts => propagate_nothing()?,
        ChildAct::AttachBase { staging } => attach_base(staging, with.base)?,
        ChildAct::BecomeShim => {
            let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)?;
        }
        // Has options of its own, see `perform`.
        ChildAct::Mount(_) => {}
        ChildAct::AttachDev(target) => attach(with.dev, with.base, target)?,
        ChildAct::AttachBundle(target) => attach(with.bundle, with.base, target)?,
        ChildAct::AttachStorage(target) => {
            attach(with.storage.ok_or(Errno::EINVAL)?, with.base, target)?;
        }
        #[cfg(feature = "fault-injection")]
        ChildAct::BindHost { source, target } => bind_host(source, target, with.base)?,
        #[cfg(feature = "fault-injection")]
        ChildAct::Chroot => nix::unistd::chroot(".")?,
        ChildAct::PivotRoot => pivot_root(".", ".")?,
        // The old root lies on top of the new one: "." names the topmost mount there.
        ChildAct::DetachOldRoot => {
            umount2(".", MntFlags::MNT_DETACH)?;
        }
        ChildAct::RequireEmpty(path) => require_empty(path)?,
        ChildAct::Hostname(name) => sethostname(std::ffi::OsStr::from_bytes(name.to_bytes()))?,
        ChildAct::Loopback => loopback::up()?,
        ChildAct::Rlimit { resource, limit } => {
            // Root without CAP_SYS_RESOURCE cannot raise a hard limit.
            let (_, hard) = getrlimit(*resource)?;
            let limit = (*limit).min(hard);
            setrlimit(*resource, limit, limit)?;
        }
        ChildAct::NewKeyring => keyring::join_new_session()?,
        ChildAct::LimitCaps { keep } => {
            let drops_the_rest = *keep | CapMask::of(&[Capability::CAP_SETPCAP]);
            capability::set(CapSets {
                effective: drops_the_rest,
                permitted: drops_the_rest,
                inheritable: *keep,
            })?;
        }
        ChildAct::RaiseAmbient { keep } => capability::raise_ambient(*keep)?,
        ChildAct::Securebits(bits) => capability::set_securebits(*bits)?,
        ChildAct::NoNewPrivs => prctl::set_no_new_privs()?,
        ChildAct::EmptyBounding => capability::limit_bounding(CapMask::EMPTY)?,
        ChildAct::FinalCaps { keep } => final_caps(*keep)?,
        ChildAct::Umask(mask) => {
            umask(Mode::from_bits_truncate(*mask));
        }
        ChildAct::Chdir(path) => chdir(path.as_c_str())?,
        ChildAct::OwnDescriptors { null } => own_descriptors(null.as_deref(), &with.descriptors)?,
        ChildAct::CloseRange { first } => close_range::cloexec_from(*first)?,
        ChildAct::Seccomp(program) => seccomp::install(program)?,
        ChildAct::Exec { argv, env } => {
            let (argv, env) = (
                CStringArray::new(argv.clone()),
                CStringArray::new(env.clone()),
            );
            return Err(execve_fd(with.program, &argv, &env));
        }
    }
    Ok(())
}

/// `mount --make-rprivate /`: neither the host nor another session ever sees a mount made here, nor the reverse.
fn propagate_nothing() -> io::Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        flags,
        None::<&str>,
    )?)
}

/// pivot_root wants the new root to be a mount point of this namespace, so the base goes on a directory first.
fn attach_base(staging: &CStr, base: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(staging, flags, Mode::empty())?;
    mount::attach(base, directory.as_fd())?;
    Ok(fchdir(base)?)
}

/// Attaches below the new root, by a name that is resolved without links and without leaving it.
fn attach(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    let target = mount::open_beneath(root, target)?;
    mount::attach(mount, target.as_fd())
}

fn mount_fs(name: &'static str, fs: &FsMount, root: BorrowedFd<'_>) -> StepResult<()> {
    let mount = make_fs(name, &fs.fstype, &fs.options, &fs.attrs)?;
    step(name, || attach(mount.as_fd(), root, &fs.target))
}

fn require_empty(path: &CStr) -> io::Result<()> {
    let directory = nix::dir::Dir::open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let mut directory = match directory {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let own_entries = |name: &CStr| name == c"." || name == c"..";
    for entry in directory.iter() {
        if !own_entries(entry?.file_name()) {
            return Err(Errno::ENOTEMPTY.into());
        }
    }
    Ok(())
}

/// Exactly `keep`, and looked at: nothing but these survives the coming exec.
fn final_caps(keep: CapMask) -> io::Result<()> {
    let sets = CapSets {
        effective: keep,
        permitted: keep,
        inheritable: keep,
    };
    capability::set(sets)?;
    if capability::get()? == sets && capability::ambient()? == keep {
        Ok(())
    } else {
        Err(Errno::EPERM.into())
    }
}

#[cfg(feature = "fault-injection")]
fn bind_host(source: &CStr, target: &CStr, root: BorrowedFd<'_>) -> io::Result<()> {
    let source = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    attach(
        mount::clone_whole_tree(source.as_fd())?.as_fd(),
        root,
        target,
    )
}

fn own_descriptors(null: Option<&CStr>, shim: &[BorrowedFd<'_>; 3]) -> io::Result<()> {
    let Some(null) = null else {
        return standard_fds::place(3, shim);
    };
    let null = open(null, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let null = null.as_fd();
    let [boot, listener, record] = *shim;
    standard_fds::place(0, &[null, null, null, boot, listener, record])
}
