//! Device rules of a cgroup v2: a small BPF program that the kernel asks at each open and mknod.
//! <https://man7.org/linux/man-pages/man2/bpf.2.html>,
//! <https://docs.kernel.org/bpf/libbpf/program_types.html> (`cgroup/dev`)

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// The beginning of the kernel's `union bpf_attr` for `BPF_PROG_LOAD`; what is not passed counts as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads `program` (instructions as the kernel encodes them) and sets it on the cgroup and all below it, in place of the
/// one that was set there before. It stays until the cgroup is removed.
pub fn set(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let name = b"agentcore_dev";
    load.prog_name[..name.len()].copy_from_slice(name);
    // SAFETY: `load` is a valid prefix of bpf_attr of the size given; its pointers are to `program`, of which the kernel
    // reads `insn_cnt` words, and to a C string, both alive until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<Load>(),
        )
    };
    let fd = i32::try_from(super::check(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target_fd: number(cgroup.as_raw_fd())?,
        attach_bpf_fd: number(program.as_raw_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        // 0: exactly one program here, replaced by the next, and none below may replace it.
        attach_flags: 0,
    };
    // SAFETY: `attach` is a valid prefix of bpf_attr of the size given, without pointers.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    })?;
    Ok(())
}

fn number(fd: i32) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}
