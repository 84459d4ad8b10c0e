//! As an agent of the session: tells on standard output what it is and what the kernel lets it do.

use std::fs;

pub(crate) fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("report") => report(),
        Some("calls") => calls(),
        Some("tty") => tty(),
        Some("template") => super::template::interpreter(),
        other => panic!("{other:?}"),
    }
}

/// Names in a directory, sorted.
pub(crate) fn list(path: &str) -> String {
    let Ok(entries) = fs::read_dir(path) else {
        return "none".to_owned();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.join(",")
}

pub(crate) fn report() {
    println!("fds {}", list("/proc/self/fd"));
    println!(
        "processes {}",
        list("/proc").contains(",1,") || list("/proc").starts_with("1,")
    );
    println!(
        "{}",
        fs::read_to_string("/proc/self/status").expect("status")
    );
    println!("cwd {}", std::env::current_dir().expect("cwd").display());
    println!("env {:?}", std::env::vars().collect::<Vec<_>>());
    let leader = nix::unistd::getsid(None).expect("sid") == nix::unistd::getpid();
    println!("leader {leader}");
    println!("deathsig {:?}", nix::sys::prctl::get_pdeathsig());
    let shim = nix::unistd::Pid::from_raw(1);
    println!(
        "kill {:?}",
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL)
    );
    println!(
        "tmp {:?}",
        fs::write("/tmp/mine", "x").map_err(|e| e.raw_os_error())
    );
    println!(
        "home {:?}",
        fs::write("/home/agent/mine", "x").map_err(|e| e.raw_os_error())
    );
}

fn tty() {
    let own = fs::File::open("/dev/tty").is_ok();
    println!("controlling {own}");
}

/// One system call with arguments that an unfiltered kernel answers differently.
fn errno(number: libc::c_long, args: [libc::c_long; 5]) -> i32 {
    let [a, b, c, d, e] = args;
    // SAFETY: every call below fails before it touches memory: by the filter, or by a bad descriptor, flag or address.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    }
}

pub(crate) fn calls() {
    const X32: libc::c_long = 0x4000_0000;
    let cases: [(&str, libc::c_long, [libc::c_long; 5]); 27] = [
        ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0]),
        (
            "clone_newuser",
            libc::SYS_clone,
            [0x1000_0000 | 17, 0, 0, 0, 0],
        ),
        ("mount", libc::SYS_mount, [0, 0, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [0, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [16, 1, 0, 0, 0]),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [1, 0, 0, 0, 0],
        ),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            [0, 0, -1, -1, 0],
        ),
        ("tiocsti", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0]),
        ("tiocsti_high", libc::SYS_ioctl, [0, 0x1_0000_5412, 0, 0, 0]),
        ("alg", libc::SYS_socket, [38, 5, 0, 0, 0]),
        ("raw", libc::SYS_socket, [2, 3, 1, 0, 0]),
        ("netfilter", libc::SYS_socket, [16, 3, 12, 0, 0]),
        (
            "personality",
            libc::SYS_personality,
            [0x0040_0000, 0, 0, 0, 0],
        ),
        ("x32_getpid", libc::SYS_getpid | X32, [0, 0, 0, 0, 0]),
        ("ulp", libc::SYS_setsockopt, [-1, 6, 31, 0, 0]),
        ("fsync", libc::SYS_fsync, [-1, 0, 0, 0, 0]),
        ("msync", libc::SYS_msync, [1, 1, 4, 0, 0]),
        ("unknown", 1000, [0, 0, 0, 0, 0]),
        ("getpid", libc::SYS_getpid, [0, 0, 0, 0, 0]),
        ("inet", libc::SYS_socket, [2, 1, 0, 0, 0]),
    ];
    for (name, number, args) in cases {
        println!("{name} {}", errno(number, args));
    }
}
