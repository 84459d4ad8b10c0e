//! What a template's agent does with an order to fork, in Rust: joins a session's namespaces, forks, and gives everything up
//! (or, with a `fault`, does not). The Python bootstrap does the same (`python/agentcore_template/_become.py`).
//! Shared with the launcher's tests.

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, dup2_stdin, dup2_stdout, setresgid, setresuid, setsid,
};
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::capability::{self, CapMask, CapSets};
use sandbox::sys::pidfd;
use std::fs::{self, File};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Longer than any test looks.
const A_WHILE: Duration = Duration::from_secs(60);

/// Namespaces in the order in which a fork joins them: the first gives it the right to the others.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// As PID 1 of the session: gives away its namespaces, and what is to be the agent's standard output.
pub(crate) fn give_namespaces(channel: &Seqpacket, output: &impl AsFd) {
    let handles: Vec<OwnedFd> = NAMESPACES
        .iter()
        .map(|(name, _)| {
            File::open(format!("/proc/self/ns/{name}"))
                .expect("namespace")
                .into()
        })
        .collect();
    let (first, rest) = handles.split_at(5);
    let first: Vec<_> = first.iter().map(AsFd::as_fd).collect();
    let mut rest: Vec<_> = rest.iter().map(AsFd::as_fd).collect();
    rest.push(output.as_fd());
    channel.send(b"namespaces", &first).expect("send");
    channel.send(b"namespaces", &rest).expect("send");
}

/// The first fork: joins the session's namespaces, and forks into its pid namespace.
pub(crate) fn join(channel: &Seqpacket, fault: &str, agent: fn()) -> i32 {
    let mut buffer = [0; 64];
    let mut fds = channel.recv(&mut buffer).expect("recv").fds;
    fds.extend(channel.recv(&mut buffer).expect("recv").fds);
    let output = fds.pop().expect("output");
    for ((name, flag), handle) in NAMESPACES.iter().zip(&fds) {
        if fault != format!("no {name}") {
            setns(handle, *flag).expect(name);
        }
    }
    drop(fds);
    let me = pidfd::open(Pid::this()).expect("pidfd");
    // SAFETY: this process has one thread. (`fork_single` would count it in `/proc`, which is the session's now, of whose
    // processes this is none.)
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => return become_agent(channel, &output, me, fault, agent),
        // The parent stays, so that nobody else reaps.
        ForkResult::Parent { .. } if fault == "reaper" => std::thread::sleep(A_WHILE),
        ForkResult::Parent { .. } => {}
    }
    0
}

/// The second fork: gives up what the joining gave it, and says that it is there.
fn become_agent(
    channel: &Seqpacket,
    output: &OwnedFd,
    parent: OwnedFd,
    fault: &str,
    agent: fn(),
) -> i32 {
    let id = if fault == "uid" { 0 } else { 1000 };
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setsid().expect("setsid");
    capability::limit_bounding(CapMask::EMPTY).expect("bounding");
    setresgid(gid, gid, gid).expect("gid");
    setresuid(uid, uid, uid).expect("uid");
    let keep = match fault {
        "capability" => CapMask(1 << 5),
        _ => CapMask::EMPTY,
    };
    capability::clear_ambient().expect("ambient");
    capability::set(CapSets {
        effective: keep,
        permitted: keep,
        inheritable: CapMask::EMPTY,
    })
    .expect("capabilities");
    prctl::set_dumpable(false).expect("dumpable");
    if fault != "filter" {
        sandbox::sys::seccomp::install(&sandbox::seccomp::without_setns()).expect("filter");
    }
    dup2_stdin(File::open("/dev/null").expect("null")).expect("stdin");
    dup2_stdout(output).expect("stdout");
    sandbox::sys::standard_fds::place(3, &[channel.as_fd(), parent.as_fd()]).expect("place");
    drop(parent);
    // SAFETY: both were just put there, and nobody else knows of it.
    let (placed, parent) = unsafe { (OwnedFd::from_raw_fd(3), OwnedFd::from_raw_fd(4)) };
    let channel = Seqpacket::from_fd(placed);
    close_from_5();
    let _extra = (fault == "descriptor").then(|| File::open("/usr").expect("open"));
    if fault == "thread" {
        std::thread::spawn(|| std::thread::sleep(A_WHILE));
    }
    let _shared = (fault == "shared").then(shared);
    if fault == "child" {
        // SAFETY: this process has one thread.
        if let ForkResult::Child = unsafe { nix::unistd::fork() }.expect("fork") {
            std::thread::sleep(A_WHILE);
            return 0;
        }
    }
    // Its parent ends at once, and who looks may look at that.
    while fault != "reaper" && !pidfd::has_ended(parent.as_fd()) {
        std::thread::sleep(Duration::from_micros(100));
    }
    drop(parent);
    let me = std::process::id().to_string();
    channel.send(me.as_bytes(), &[]).expect("send");
    let mut buffer = [0; 8];
    if channel.recv(&mut buffer).expect("recv").len == 0 {
        return 1;
    }
    drop(channel);
    agent();
    0
}

fn close_from_5() {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("list")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in open {
        if number > 4 {
            let _ = nix::unistd::close(number);
        }
    }
}

fn shared() -> std::ptr::NonNull<nix::libc::c_void> {
    let length = std::num::NonZero::new(4096).expect("length");
    let prot = nix::sys::mman::ProtFlags::PROT_READ;
    let flags = nix::sys::mman::MapFlags::MAP_SHARED;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody reads.
    unsafe { nix::sys::mman::mmap_anonymous(None, length, prot, flags) }.expect("mmap")
}
