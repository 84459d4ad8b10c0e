"""Raw system calls by number (x86_64), past libc's own checks.

The bad-argument method: call with arguments that the kernel itself would refuse with EFAULT, EBADF or EINVAL. A filtered
call answers EPERM or ENOSYS instead, and an unfiltered one harms nobody.
"""

import ctypes
import os
from typing import NamedTuple

NR = {
    "read": 0, "mmap": 9, "mprotect": 10, "ioctl": 16, "msync": 26, "pause": 34, "fork": 57, "fsync": 74, "fdatasync": 75, "vfork": 58, "clone": 56, "kill": 62,
    "ptrace": 101, "syslog": 103, "setuid": 105, "setgid": 106, "setpgid": 109, "setreuid": 113, "setregid": 114,
    "getgroups": 115, "setgroups": 116, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
    "capget": 125, "capset": 126, "rt_sigqueueinfo": 129, "mknod": 133, "uselib": 134, "personality": 135, "ustat": 136,
    "sysfs": 139, "sched_setparam": 142, "sched_setscheduler": 144, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "_sysctl": 156, "prctl": 157, "arch_prctl": 158, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "tkill": 200, "io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209, "io_cancel": 210, "lookup_dcookie": 212, "remap_file_pages": 216, "clock_settime": 227, "tgkill": 234, "mbind": 237,
    "set_mempolicy": 238, "get_mempolicy": 239, "mq_open": 240, "mq_unlink": 241, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "ioprio_set": 251, "ioprio_get": 252, "inotify_add_watch": 254, "migrate_pages": 256, "mknodat": 259,
    "unshare": 272, "sync_file_range": 277, "move_pages": 279, "inotify_init1": 294, "rt_tgsigqueueinfo": 297, "perf_event_open": 298,
    "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
    "sched_setattr": 314, "seccomp": 317, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "landlock_create_ruleset": 444, "memfd_secret": 447, "process_mrelease": 448, "set_mempolicy_home_node": 450,
    "cachestat": 451, "map_shadow_stack": 453, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460, "open_tree_attr": 467, "file_setattr": 469,
}

# An address that is never mapped and is not NULL: some calls read NULL as "nothing given".
BAD = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Outcome(NamedTuple):
    value: int
    error: int


def call(number, *arguments):
    """`arguments` are ints (pointers as addresses); returns (value, errno)."""
    number = NR[number] if isinstance(number, str) else number
    ctypes.set_errno(0)
    value = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return Outcome(value, ctypes.get_errno() if value == -1 else 0)


def libc(name, *arguments, result=ctypes.c_int):
    """A libc function by name, for what has no plain system call to it (shmat, mq_open)."""
    function = getattr(_libc, name)
    function.restype = result
    ctypes.set_errno(0)
    value = function(*arguments)
    return Outcome(-1 if value is None else value, ctypes.get_errno())


def raising(outcome, what):
    """The value, or the OSError that libc would have made of it."""
    if outcome.value == -1:
        raise OSError(outcome.error, os.strerror(outcome.error), what)
    return outcome.value


def address(buffer):
    return ctypes.addressof(buffer)
