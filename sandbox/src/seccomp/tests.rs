//! The tables, and the compiled programs run in an interpreter over every number. (In the kernel: `tests/session`.)

use super::*;
use seccompiler::sock_filter;

/// What the kernel hands to a filter.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

const NATIVE: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;

fn call(number: libc::c_long, args: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    Call {
        number: u32::try_from(number).expect("a number"),
        arch: NATIVE,
        args: all,
    }
}

impl Call {
    /// 32 bits at an offset of `struct seccomp_data`.
    fn load(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            _ => {
                let argument = self.args[usize::try_from((offset - 16) / 8).expect("small")];
                let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
                u32::try_from(argument >> shift & 0xFFFF_FFFF).expect("masked")
            }
        }
    }
}

/// A machine for the few instructions that filters are made of.
fn run(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut a) = (0, 0u32);
    loop {
        let line = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { line.jt } else { line.jf });
        match line.code {
            0x20 => a = call.load(line.k),
            0x54 => a &= line.k,
            0x05 => at += usize::try_from(line.k).expect("small"),
            0x15 => at += jump(a == line.k),
            0x25 => at += jump(a > line.k),
            0x35 => at += jump(a >= line.k),
            0x45 => at += jump(a & line.k != 0),
            0x06 => return line.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// Not carried out, and told to have succeeded.
    Done,
    NotPermitted,
    NotImplemented,
}

/// What the kernel makes of both: the stricter one, of equals the newer.
fn verdict(call: &Call) -> Verdict {
    let filters = filters().expect("filters");
    let (allowed, forbidden) = (run(&filters.allowed, call), run(&filters.forbidden, call));
    let refuse = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    match [forbidden, allowed]
        .into_iter()
        .find(|answer| *answer != libc::SECCOMP_RET_ALLOW)
    {
        None => Verdict::Allowed,
        Some(answer) if answer == refuse(0) => Verdict::Done,
        Some(answer) if answer == refuse(libc::EPERM) => Verdict::NotPermitted,
        Some(answer) if answer == refuse(libc::ENOSYS) => Verdict::NotImplemented,
        Some(answer) => panic!("answer {answer:#x}"),
    }
}

#[test]
fn both_filters_compile_and_fit() {
    let filters = filters().expect("filters");
    // The kernel takes at most 4096 instructions.
    assert!(filters.allowed.len() < 4096 && filters.forbidden.len() < 4096);
}

#[test]
fn no_call_is_on_both_lists_and_none_twice() {
    let mut seen = BTreeMap::new();
    let groups = allowed::GROUPS.iter().chain(allowed::DONE);
    for group in groups.chain(forbidden::GROUPS) {
        for call in group.calls {
            assert_eq!(seen.insert(*call, group.reason), None, "call {call}");
        }
    }
    for (call, reason) in argument_refusals() {
        assert!(why_allowed(call).is_some(), "{reason}: refused twice");
    }
}

#[test]
fn every_number_has_the_verdict_of_the_tables() {
    // Arguments that no refusal by argument matches: clone with no flag, socket(AF_UNIX, SOCK_STREAM), …
    for number in 0..1024 {
        let expected = if why_forbidden(number).is_some() {
            Verdict::NotPermitted
        } else if why_done(number).is_some() {
            Verdict::Done
        } else if why_allowed(number).is_some() {
            Verdict::Allowed
        } else {
            Verdict::NotImplemented
        };
        let first = if number == libc::SYS_socket || number == libc::SYS_socketpair {
            1
        } else {
            0
        };
        assert_eq!(verdict(&call(number, &[first, 1])), expected, "{number}");
    }
}

/// Who answers each call of six arguments of -1, as runs of numbers: a change of the filter is a change of this text, and the
/// isolation suite holds a session to it (probe S08).
#[test]
fn the_table_is_the_one_that_was_read_and_agreed_to() {
    let mut runs: Vec<(i64, i64, &str)> = Vec::new();
    for number in 0..=600 {
        let answer = match verdict(&call(number, &[u64::MAX; 6])) {
            Verdict::Allowed => "kernel",
            Verdict::Done => "ok",
            Verdict::NotPermitted => "EPERM",
            Verdict::NotImplemented => "ENOSYS",
        };
        match runs.last_mut() {
            Some((_, last, same)) if *same == answer => *last = number,
            _ => runs.push((number, number, answer)),
        }
    }
    let lines = runs.iter().map(|(first, last, answer)| match last {
        last if last == first => format!("{first} {answer}\n"),
        last => format!("{first}-{last} {answer}\n"),
    });
    let table: String = lines.collect();
    assert!(table == include_str!("golden.txt"), "it is now:\n{table}");
}

#[test]
fn numbers_of_other_tables_do_not_exist() {
    for number in 0..1024 {
        let mut foreign = call(number, &[]);
        foreign.arch = I386;
        assert_eq!(verdict(&foreign), Verdict::NotImplemented, "i386 {number}");
        let mut x32 = call(number, &[]);
        x32.number |= 0x4000_0000;
        assert_eq!(verdict(&x32), Verdict::NotImplemented, "x32 {number}");
    }
    let mut none = call(0, &[]);
    none.number = u32::MAX;
    assert_eq!(verdict(&none), Verdict::NotImplemented);
}

#[test]
fn arguments_are_judged_by_the_bits_that_the_kernel_reads() {
    use Verdict::{Allowed, Done, NotPermitted};
    let int = |n: libc::c_int| u64::from(n.cast_unsigned());
    let high = 1 << 32;
    let stream = int(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let (inet, netlink) = (int(libc::AF_INET), int(libc::AF_NETLINK));
    let cases: &[(&str, libc::c_long, &[u64], Verdict)] = &[
        ("a thread", libc::SYS_clone, &[0x3D_0F00], Allowed),
        ("a process", libc::SYS_clone, &[int(libc::SIGCHLD)], Allowed),
        (
            "user namespace",
            libc::SYS_clone,
            &[int(libc::CLONE_NEWUSER) | 17],
            NotPermitted,
        ),
        (
            "net among others",
            libc::SYS_clone,
            &[int(libc::CLONE_NEWNET) | 0x3D_0F00],
            NotPermitted,
        ),
        ("window size", libc::SYS_ioctl, &[0, 0x5413], Allowed),
        ("TIOCSTI", libc::SYS_ioctl, &[0, 0x5412], NotPermitted),
        (
            "TIOCSTI, high bits",
            libc::SYS_ioctl,
            &[0, 0x5412 | high],
            NotPermitted,
        ),
        ("TIOCLINUX", libc::SYS_ioctl, &[0, 0x541C], NotPermitted),
        ("GETFLAGS", libc::SYS_ioctl, &[0, 0x8008_6601], Allowed),
        ("SETFLAGS", libc::SYS_ioctl, &[0, 0x4008_6602], NotPermitted),
        (
            "SETFLAGS, high bits",
            libc::SYS_ioctl,
            &[0, 0x4008_6602 | high],
            NotPermitted,
        ),
        ("MIGRATE", libc::SYS_ioctl, &[0, 0x6609], NotPermitted),
        ("FIEMAP", libc::SYS_ioctl, &[0, 0xC020_660B], Allowed),
        ("ALLOC_DA_BLKS", libc::SYS_ioctl, &[0, 0x660C], NotPermitted),
        ("MOVE_EXT", libc::SYS_ioctl, &[0, 0xC028_660F], NotPermitted),
        (
            "RESIZE_FS",
            libc::SYS_ioctl,
            &[0, 0x4008_6610],
            NotPermitted,
        ),
        ("SWAP_BOOT", libc::SYS_ioctl, &[0, 0x6611], NotPermitted),
        ("PROCMAP_QUERY", libc::SYS_ioctl, &[0, 0xC068_6611], Allowed),
        (
            "a newer one",
            libc::SYS_ioctl,
            &[0, 0xC0FF_66EE],
            NotPermitted,
        ),
        (
            "ENABLE_VERITY",
            libc::SYS_ioctl,
            &[0, 0x4080_6685],
            NotPermitted,
        ),
        ("FSGETXATTR", libc::SYS_ioctl, &[0, 0x801C_581F], Allowed),
        (
            "FSSETXATTR",
            libc::SYS_ioctl,
            &[0, 0x401C_5820],
            NotPermitted,
        ),
        ("FITRIM", libc::SYS_ioctl, &[0, 0xC018_5879], NotPermitted),
        ("FICLONE", libc::SYS_ioctl, &[0, 0x4004_9409], Allowed),
        (
            "BTRFS_IOC_SYNC",
            libc::SYS_ioctl,
            &[0, 0x9408],
            NotPermitted,
        ),
        (
            "SETVERSION",
            libc::SYS_ioctl,
            &[0, 0x4008_7602],
            NotPermitted,
        ),
        ("FIONREAD", libc::SYS_ioctl, &[0, 0x541B], Allowed),
        ("FIOCLEX", libc::SYS_ioctl, &[0, 0x5451], Allowed),
        ("of an interface", libc::SYS_ioctl, &[0, 0x8912], Allowed),
        ("unix", libc::SYS_socket, &[1, stream, 0], Allowed),
        ("tcp", libc::SYS_socket, &[inet, stream, 6], Allowed),
        (
            "udp6",
            libc::SYS_socket,
            &[int(libc::AF_INET6), 2, 17],
            Allowed,
        ),
        ("raw", libc::SYS_socket, &[inet, 3, 1], NotPermitted),
        (
            "raw, flags",
            libc::SYS_socket,
            &[inet, 3 | int(libc::SOCK_CLOEXEC), 1],
            NotPermitted,
        ),
        (
            "raw, high bits",
            libc::SYS_socket,
            &[inet | high, 3 | high, 1],
            NotPermitted,
        ),
        ("ping", libc::SYS_socket, &[inet, 2, 1], NotPermitted),
        ("mptcp", libc::SYS_socket, &[inet, 1, 262], NotPermitted),
        ("sctp", libc::SYS_socket, &[inet, 1, 132], NotPermitted),
        ("route", libc::SYS_socket, &[netlink, 3, 0], Allowed),
        (
            "netfilter",
            libc::SYS_socket,
            &[netlink, 3, 12],
            NotPermitted,
        ),
        ("alg", libc::SYS_socket, &[38, 5, 0], NotPermitted),
        ("vsock", libc::SYS_socket, &[40, 1, 0], NotPermitted),
        (
            "unix, high bits",
            libc::SYS_socket,
            &[1 | high, 1, 0],
            Allowed,
        ),
        ("pair", libc::SYS_socketpair, &[1, 1, 0], Allowed),
        ("tipc pair", libc::SYS_socketpair, &[30, 1, 0], NotPermitted),
        ("no delay", libc::SYS_setsockopt, &[3, 6, 1], Allowed),
        ("tls", libc::SYS_setsockopt, &[3, 6, 31], NotPermitted),
        (
            "tls, high bits",
            libc::SYS_setsockopt,
            &[3, 6 | high, 31 | high],
            NotPermitted,
        ),
        (
            "31 of SOL_SOCKET",
            libc::SYS_setsockopt,
            &[3, 1, 31],
            Allowed,
        ),
        ("encap", libc::SYS_setsockopt, &[3, 17, 100], NotPermitted),
        ("cork of udp", libc::SYS_setsockopt, &[3, 17, 1], Allowed),
        ("what am I", libc::SYS_personality, &[0xFFFF_FFFF], Allowed),
        ("plain", libc::SYS_personality, &[0], Allowed),
        (
            "no randomisation",
            libc::SYS_personality,
            &[0x004_0000],
            NotPermitted,
        ),
        ("name", libc::SYS_prctl, &[15], Allowed),
        ("set mm", libc::SYS_prctl, &[35], NotPermitted),
        ("fifo", libc::SYS_mknod, &[0, 0o010_666], Allowed),
        ("file", libc::SYS_mknodat, &[0, 0, 0o666], Allowed),
        (
            "character device",
            libc::SYS_mknod,
            &[0, 0o020_666],
            NotPermitted,
        ),
        (
            "block device",
            libc::SYS_mknodat,
            &[0, 0, 0o060_666],
            NotPermitted,
        ),
        ("fsync", libc::SYS_fsync, &[3], Done),
        ("msync, later", libc::SYS_msync, &[0, 4096, 1], Allowed),
        ("msync, now", libc::SYS_msync, &[0, 4096, 4], Done),
        (
            "msync, high bits",
            libc::SYS_msync,
            &[0, 4096, 6 | high],
            Done,
        ),
        ("all bits", libc::SYS_mknod, &[0, u64::MAX], NotPermitted),
    ];
    for (what, number, args, expected) in cases {
        assert_eq!(verdict(&call(*number, args)), *expected, "{what}");
    }
}

/// What interpreters, their garbage collectors and the C library cannot do without.
#[test]
fn what_runtimes_need_is_allowed() {
    for needed in [
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_pkey_alloc,
        libc::SYS_membarrier,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_futex,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_inotify_init1,
        libc::SYS_getrandom,
        libc::SYS_statx,
        libc::SYS_memfd_create,
        libc::SYS_sched_getaffinity,
        libc::SYS_prlimit64,
        libc::SYS_copy_file_range,
        libc::SYS_pidfd_open,
        libc::SYS_close_range,
        libc::SYS_vfork,
        libc::SYS_execve,
        libc::SYS_seccomp,
        libc::SYS_landlock_create_ruleset,
    ] {
        assert_eq!(verdict(&call(needed, &[])), Verdict::Allowed, "{needed}");
    }
}

#[test]
fn a_templates_filters_differ_in_setns_and_a_fork_gives_that_up() {
    let (session, template) = (
        filters().expect("filters"),
        template_filters().expect("filters"),
    );
    let last = without_setns();
    let same = |one: &[sock_filter], other: &[sock_filter], call: &Call| {
        assert_eq!(run(one, call), run(other, call), "{}", call.number);
    };
    let setns = u32::try_from(libc::SYS_setns).expect("number");
    let tables = [(NATIVE, 0), (NATIVE, 0x4000_0000), (I386, 0)];
    for (arch, bit, number) in tables
        .into_iter()
        .flat_map(|(arch, bit)| (0..1024).map(move |number| (arch, bit, number)))
    {
        let call = Call {
            number: number | bit,
            arch,
            args: [0; 6],
        };
        let allowed = libc::SECCOMP_RET_ALLOW;
        if (arch, bit, number) == (NATIVE, 0, setns) {
            assert_eq!(run(&template.allowed, &call), allowed);
            assert_eq!(run(&template.forbidden, &call), allowed);
            // As the kernel tells it of a session's.
            assert_eq!(run(&last, &call), run(&session.forbidden, &call));
            continue;
        }
        same(&template.allowed, &session.allowed, &call);
        same(&template.forbidden, &session.forbidden, &call);
        if (arch, bit) == (NATIVE, 0) {
            assert_eq!(run(&last, &call), allowed, "{number}");
        }
    }
}
