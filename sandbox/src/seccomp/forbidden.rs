//! Calls that a session is told it may not make: always, or with some arguments.

use super::{FilterError, Group, Refusal};
use crate::faults;
use libc::*;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{SeccompCmpOp, SeccompCondition, SeccompRule};

pub(super) const GROUPS: &[Group] = &[
    Group {
        reason: "namespaces: a user namespace opens the kernel's privileged half (CVE-2022-0185, nft, tc, xfrm)",
        calls: &[SYS_unshare, SYS_setns],
    },
    Group {
        reason: "mounts, old and new interface (CVE-2022-0185, unmasking, CVE-2025-31133)",
        calls: &[
            SYS_mount,
            SYS_umount2,
            SYS_pivot_root,
            SYS_chroot,
            SYS_fsopen,
            SYS_fsconfig,
            SYS_fsmount,
            SYS_fspick,
            SYS_open_tree,
            SYS_move_mount,
            SYS_mount_setattr,
            NR_STATMOUNT,
            NR_LISTMOUNT,
            NR_OPEN_TREE_ATTR,
        ],
    },
    Group {
        reason: "files by handle reach past the root (\"shocker\")",
        calls: &[SYS_name_to_handle_at, SYS_open_by_handle_at],
    },
    Group {
        reason: "io_uring runs calls that no filter sees, and has been a steady source of escapes",
        calls: &[
            SYS_io_uring_setup,
            SYS_io_uring_enter,
            SYS_io_uring_register,
        ],
    },
    Group {
        reason: "bpf and perf: code and counters in the kernel",
        calls: &[SYS_bpf, SYS_perf_event_open],
    },
    Group {
        reason: "userfaultfd holds the kernel still in the middle of a copy, the exploit writer's pause button",
        calls: &[SYS_userfaultfd],
    },
    Group {
        reason: "keys are counted per uid and outlive processes (security bar T1)",
        calls: &[SYS_add_key, SYS_request_key, SYS_keyctl],
    },
    Group {
        reason: "memory, descriptors and registers of other processes (CVE-2016-9962)",
        calls: &[
            SYS_ptrace,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_process_madvise,
            SYS_process_mrelease,
            SYS_pidfd_getfd,
            SYS_kcmp,
            SYS_rt_tgsigqueueinfo,
        ],
    },
    Group {
        reason: "placement of memory on nodes: nothing that a session owns",
        calls: &[
            SYS_mbind,
            SYS_set_mempolicy,
            SYS_get_mempolicy,
            SYS_move_pages,
            SYS_migrate_pages,
            NR_SET_MEMPOLICY_HOME_NODE,
        ],
    },
    Group {
        reason: "memory that the kernel itself cannot read would hide from any inspection",
        calls: &[SYS_memfd_secret],
    },
    Group {
        reason: "loading code into the kernel",
        calls: &[
            SYS_init_module,
            SYS_finit_module,
            SYS_delete_module,
            SYS_kexec_load,
            NR_KEXEC_FILE_LOAD,
        ],
    },
    Group {
        reason: "the machine as a whole: power, swap, accounting, quotas, log, name, clock",
        calls: &[
            SYS_reboot,
            SYS_swapon,
            SYS_swapoff,
            SYS_acct,
            SYS_quotactl,
            SYS_quotactl_fd,
            SYS_syslog,
            SYS_sethostname,
            SYS_setdomainname,
            SYS_settimeofday,
            SYS_clock_settime,
            SYS_adjtimex,
            SYS_clock_adjtime,
            SYS_vhangup,
        ],
    },
    Group {
        reason: "watching or vetoing what others do with files",
        calls: &[SYS_fanotify_init, SYS_fanotify_mark],
    },
    Group {
        reason: "changing the security module's view of oneself",
        calls: &[NR_LSM_SET_SELF_ATTR],
    },
    Group {
        reason: "shadow stacks are the runtime linker's, set up before the program runs",
        calls: &[NR_MAP_SHADOW_STACK],
    },
    Group {
        reason: "left over from other times",
        calls: &[SYS_lookup_dcookie, SYS_nfsservctl, SYS_remap_file_pages],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "ports, segments and other interfaces that only x86 has",
        calls: &[
            SYS_iopl,
            SYS_ioperm,
            SYS_modify_ldt,
            SYS_uselib,
            SYS_ustat,
            SYS_sysfs,
            SYS__sysctl,
        ],
    },
];

// Newer than the libc crate's tables, or missing there for one of the two architectures; the same number on both where
// it is above 403.
const NR_STATMOUNT: c_long = 457;
const NR_LISTMOUNT: c_long = 458;
const NR_LSM_SET_SELF_ATTR: c_long = 460;
const NR_OPEN_TREE_ATTR: c_long = 467;
const NR_SET_MEMPOLICY_HOME_NODE: c_long = 450;
const NR_MAP_SHADOW_STACK: c_long = 453;
#[cfg(target_arch = "x86_64")]
const NR_KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const NR_KEXEC_FILE_LOAD: c_long = 294;

/// Namespace flags of clone. `CLONE_NEWTIME` is not among them: its bit belongs to the exit signal there.
const NAMESPACES: [c_int; 7] = [
    CLONE_NEWNS,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
];

/// Terminal ioctls: type into the terminal of whoever started us (CVE-2017-5226), paste, take the console, load a line
/// discipline.
const TERMINAL: [u32; 4] = [0x5412, 0x541C, 0x541D, 0x5423];

/// Requests of file systems, by the byte that says whose they are, and those of each that are let through: what a program asks
/// of a file that it may read, and copies that share blocks. Whole families, not a list of their members: new ones come with
/// every kernel, each is code of a file system that nobody without privilege needs, and the disk below the base and `/app` is the
/// host's own.
const FILE_SYSTEMS: [(u32, &[u32]); 3] = [
    // ext4 (MOVE_EXT, MIGRATE, ALLOC_DA_BLKS, SWAP_BOOT, RESIZE_FS, …), flags of files, fscrypt, fs-verity. Left: GETFLAGS,
    // GETVERSION, FIEMAP; of /proc, which has the same byte, PAGEMAP_SCAN and PROCMAP_QUERY.
    (
        0x66,
        &[
            0x8008_6601,
            0x8008_6603,
            0xC020_660B,
            0xC060_6610,
            0xC068_6611,
        ],
    ),
    // xfs, project ids, freezing, trimming, shutting down. Left: FSGETXATTR.
    (0x58, &[0x801C_581F]),
    // btrfs (whose SYNC anyone may ask for), labels. Left: FICLONE, FICLONERANGE, FIDEDUPERANGE, GETFSLABEL.
    (0x94, &[0x4004_9409, 0x4020_940D, 0xC018_9436, 0x8100_9431]),
];

/// Where a request says whose it is.
const FAMILY: u32 = 0xFF00;

/// A request of the same kind with a byte of its own: SETVERSION.
const SET_VERSION: u32 = 0x4008_7602;

/// prctl options: where the kernel believes the program's segments are, core scheduling groups, system calls handled by
/// the process itself (which the filter would judge by the wrong address).
const PRCTL: [c_int; 3] = [PR_SET_MM, 62, 59];

/// Socket options, with their levels, that put another protocol onto a socket: TLS, ESP in TCP, SMC and MPTCP by
/// `TCP_ULP`; ESP, L2TP and GTP by `UDP_ENCAP`.
const SOCKET_LAYERS: [(c_int, c_int); 2] = [(IPPROTO_TCP, 31), (IPPROTO_UDP, 100)];

/// Types of mknod that a program without privilege has use for: regular (0 means that too), FIFO, socket.
const NODE_TYPES: [u32; 4] = [0, S_IFREG, S_IFIFO, S_IFSOCK];

/// One argument compared as 32 bits: the kernel reads these as `int`, so the upper half must not matter
/// (CVE-2019-10063, security bar T6).
fn when(
    argument: u8,
    operator: SeccompCmpOp,
    value: impl Into<i64>,
) -> Result<SeccompCondition, FilterError> {
    let value = value.into().cast_unsigned() & 0xFFFF_FFFF;
    Ok(SeccompCondition::new(argument, Dword, operator, value)?)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, FilterError> {
    Ok(SeccompRule::new(conditions)?)
}

/// Every refusal that depends on arguments.
pub(super) fn refusals() -> Result<Vec<Refusal>, FilterError> {
    let mut refusals = all()?;
    refusals.retain(|refusal| !faults::is_off(refusal.name));
    Ok(refusals)
}

fn all() -> Result<Vec<Refusal>, FilterError> {
    let mut refusals = vec![
        Refusal {
            name: "refusal.clone",
            reason: "clone with a namespace flag",
            call: SYS_clone,
            rules: NAMESPACES
                .into_iter()
                .map(|flag| {
                    let bit = u64::from(flag.cast_unsigned());
                    rule(vec![when(0, MaskedEq(bit), flag)?])
                })
                .collect::<Result<_, _>>()?,
        },
        Refusal {
            name: "refusal.ioctl",
            reason: "terminal injection and line disciplines",
            call: SYS_ioctl,
            rules: TERMINAL
                .into_iter()
                .map(|request| rule(vec![when(1, Eq, request)?]))
                .collect::<Result<_, _>>()?,
        },
        Refusal {
            name: "refusal.ioctl_files",
            reason: "changing what a file system is, and its files beyond what calls do",
            call: SYS_ioctl,
            rules: file_systems()?,
        },
        Refusal {
            name: "refusal.prctl",
            reason: "options that change what the kernel believes about the process",
            call: SYS_prctl,
            rules: PRCTL
                .into_iter()
                .map(|option| rule(vec![when(0, Eq, option)?]))
                .collect::<Result<_, _>>()?,
        },
        Refusal {
            name: "refusal.personality",
            reason: "other personalities weaken address space randomisation and memory protection",
            call: SYS_personality,
            rules: vec![rule(vec![when(0, Ne, 0)?, when(0, Ne, 0xFFFF_FFFFu32)?])?],
        },
        Refusal {
            name: "refusal.socket",
            reason: "families and protocols without use here, each a kernel subsystem of its own (T11, T12)",
            call: SYS_socket,
            rules: sockets()?,
        },
        Refusal {
            name: "refusal.socketpair",
            reason: "pairs of other families than UNIX",
            call: SYS_socketpair,
            rules: vec![rule(vec![when(0, Ne, AF_UNIX)?])?],
        },
        Refusal {
            name: "refusal.setsockopt",
            reason: "protocols on top of TCP and UDP sockets, each a kernel subsystem of its own (T11)",
            call: SYS_setsockopt,
            rules: SOCKET_LAYERS
                .into_iter()
                .map(|(level, option)| rule(vec![when(1, Eq, level)?, when(2, Eq, option)?]))
                .collect::<Result<_, _>>()?,
        },
        Refusal {
            name: "refusal.mknodat",
            reason: "device nodes",
            call: SYS_mknodat,
            rules: nodes(2)?,
        },
    ];
    #[cfg(target_arch = "x86_64")]
    refusals.push(Refusal {
        name: "refusal.mknod",
        reason: "device nodes",
        call: SYS_mknod,
        rules: nodes(1)?,
    });
    Ok(refusals)
}

fn sockets() -> Result<Vec<SeccompRule>, FilterError> {
    let mut rules = vec![
        // Any family but these four.
        rule(vec![
            when(0, Ne, AF_UNIX)?,
            when(0, Ne, AF_INET)?,
            when(0, Ne, AF_INET6)?,
            when(0, Ne, AF_NETLINK)?,
        ])?,
        // Of NETLINK only ROUTE, which getifaddrs(3) reads.
        rule(vec![when(0, Eq, AF_NETLINK)?, when(2, Ne, NETLINK_ROUTE)?])?,
    ];
    for family in [AF_INET, AF_INET6] {
        // Of INET only streams and datagrams (not raw, packet, SCTP's, DCCP's) …
        rules.push(rule(vec![
            when(0, Eq, family)?,
            when(1, Ne, SOCK_STREAM)?,
            when(1, Ne, SOCK_STREAM | SOCK_CLOEXEC)?,
            when(1, Ne, SOCK_STREAM | SOCK_NONBLOCK)?,
            when(1, Ne, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)?,
            when(1, Ne, SOCK_DGRAM)?,
            when(1, Ne, SOCK_DGRAM | SOCK_CLOEXEC)?,
            when(1, Ne, SOCK_DGRAM | SOCK_NONBLOCK)?,
            when(1, Ne, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)?,
        ])?);
        // … and of those TCP and UDP (not SCTP, SMC, UDP-Lite, MPTCP, ping).
        rules.push(rule(vec![
            when(0, Eq, family)?,
            when(2, Ne, 0)?,
            when(2, Ne, IPPROTO_TCP)?,
            when(2, Ne, IPPROTO_UDP)?,
        ])?);
    }
    Ok(rules)
}

fn file_systems() -> Result<Vec<SeccompRule>, FilterError> {
    let mut rules = vec![rule(vec![when(1, Eq, SET_VERSION)?])?];
    for (family, left) in FILE_SYSTEMS {
        let mut conditions = vec![when(1, MaskedEq(u64::from(FAMILY)), family << 8)?];
        for request in left {
            conditions.push(when(1, Ne, *request)?);
        }
        rules.push(rule(conditions)?);
    }
    Ok(rules)
}

fn nodes(mode_argument: u8) -> Result<Vec<SeccompRule>, FilterError> {
    (0..16u32)
        .map(|kind| kind << 12)
        .filter(|kind| !NODE_TYPES.contains(kind))
        .map(|kind| {
            let mask = MaskedEq(u64::from(S_IFMT));
            rule(vec![when(mode_argument, mask, kind)?])
        })
        .collect()
}
