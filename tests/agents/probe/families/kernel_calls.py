"""S01, S02, S05–S07, S11, S12, S14, S16: which system calls are closed, what they answer, and what must stay open.

The bad-argument method (syscalls.py): a closed call answers EPERM or ENOSYS, an open one whatever the kernel says about
nonsense. Arguments are chosen so that even an open call changes nothing.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct

import syscalls
from registry import group, probe
from syscalls import BAD
from verdict import failed, info, judge, passed, refused

ALL_BITS = -1

# name -> arguments
CLOSED_CALLS = {
    "io_uring_setup": (0, BAD),
    "io_uring_enter": (-1, 0, 0, 0, 0, 0),
    "io_uring_register": (-1, 0, 0, 0),
    "bpf": (9999, 0, 0),
    "userfaultfd": (ALL_BITS,),
    "perf_event_open": (BAD, 0, -1, -1, 0),
    "kexec_load": (0, 0, 0, ALL_BITS),
    "kexec_file_load": (-1, -1, 0, 0, ALL_BITS),
    "init_module": (BAD, 0, BAD),
    "finit_module": (-1, BAD, ALL_BITS),
    "delete_module": (BAD, 0),
    "create_module": (BAD, 0),
    "query_module": (BAD, 0, BAD, 0, BAD),
    "get_kernel_syms": (BAD,),
    "iopl": (99,),
    "ioperm": (-1, 1, 1),
    "swapon": (BAD, ALL_BITS),
    "swapoff": (BAD,),
    "reboot": (0, 0, 0, 0),
    "quotactl": (ALL_BITS, BAD, 0, BAD),
    "quotactl_fd": (-1, ALL_BITS, 0, BAD),
    "acct": (BAD,),
    "settimeofday": (BAD, BAD),
    "clock_settime": (0, BAD),
    "syslog": (10, 0, 0),
    "fanotify_init": (0x200 | 1 << 30, 0),
    "name_to_handle_at": (-1, BAD, BAD, BAD, ALL_BITS),
    "open_by_handle_at": (-1, BAD, 0),
    "setns": (-1, 0),
    "unshare": (ALL_BITS,),
    "process_vm_readv": (-1, 0, 0, 0, 0, ALL_BITS),
    "process_vm_writev": (-1, 0, 0, 0, 0, ALL_BITS),
    "process_madvise": (-1, 0, 0, 0, ALL_BITS),
    "process_mrelease": (-1, ALL_BITS),
    "pidfd_getfd": (-1, -1, 0),
    "kcmp": (-1, -1, 99, 0, 0),
    "keyctl": (9999, 0, 0, 0, 0),
    "add_key": (BAD, BAD, 0, 0, 0),
    "request_key": (BAD, BAD, 0, 0),
    "move_pages": (-1, 0, 0, 0, 0, ALL_BITS),
    "migrate_pages": (-1, 0, 0, 0),
    "mbind": (1, 0, 0, 0, 0, ALL_BITS),
    "set_mempolicy": (99, 0, 0),
    "get_mempolicy": (BAD, 0, 0, 0, ALL_BITS),
    "set_mempolicy_home_node": (1, 1, ALL_BITS, ALL_BITS),
    "modify_ldt": (0, 0, 0),
    "uselib": (BAD,),
    "ustat": (0, 0),
    "sysfs": (99, 0, 0),
    "_sysctl": (BAD,),
    "nfsservctl": (0, 0, 0),
    "lookup_dcookie": (0, 0, 0),
    "statmount": (BAD, BAD, 0, 0),
    "listmount": (BAD, BAD, 0, 0),
    "lsm_set_self_attr": (0, 0, 0, ALL_BITS),
    "map_shadow_stack": (0, 0, ALL_BITS),
    "memfd_secret": (ALL_BITS,),
    "ptrace": (0x4206, -1, 0, 0),
    "sethostname": (BAD, -1),
    "setdomainname": (BAD, -1),
    "rt_tgsigqueueinfo": (-1, -1, 0, BAD),
    "mount": (BAD, BAD, BAD, 0, 0),
    "umount2": (BAD, ALL_BITS),
    "pivot_root": (BAD, BAD),
    "chroot": (BAD,),
    "fsopen": (BAD, ALL_BITS),
    "remap_file_pages": (1, 0, 0, 0, ALL_BITS),
}


@group("S01", CLOSED_CALLS)
def closed_call(_subject, name, arguments):
    return refused(syscalls.call(name, *arguments))


@probe("S01.vhangup")
def hang_up_the_terminal(_subject):
    """In a session of its own, so that there is no terminal to hang up."""
    os.setsid()
    return refused(syscalls.call("vhangup"))


@group("S01", {"personality_exec": 0x0400000, "personality_no_aslr": 0x0040000, "personality_32bit": 0x8000000,
               "personality_mmap_zero": 0x0100000, "personality_sysv": 1})
def personality(_subject, _name, value):
    """An unfiltered personality() just says yes."""
    return refused(syscalls.call("personality", value))


@probe("S01.personality_query")
def personality_query_works(_subject):
    """Reading one's personality is harmless and common (debuggers, sanitizers): shown, not judged."""
    outcome = syscalls.call("personality", 0xFFFFFFFF)
    return info(f"answers {outcome.value:#x}" if outcome.value != -1 else f"refused: {errno.errorcode[outcome.error]}")


# --- S02, S11: which refusal ------------------------------------------------------------------------------------------


@group("S02", {str(number): number for number in (480, 512, 600, 1000, 4096, 100_000)})
def unknown_number(_subject, _name, number):
    """libc falls back on ENOSYS only: EPERM for a call from the future breaks programs."""
    return refused(syscalls.call(number, -1, -1, -1, -1, -1, -1), {errno.ENOSYS})


# Known to every kernel of the floor and up, and needed by no agent: open, they answer something else than ENOSYS, so
# ENOSYS here is the allow-list's own default.
UNLISTED = {
    "io_setup": (0, BAD),
    "io_destroy": (0,),
    "io_submit": (0, -1, 0),
    "io_getevents": (0, 1, 0, 0, 0),
    "io_cancel": (0, BAD, BAD),
    "clone3": (0, 0),
}


@group("S02.unlisted", UNLISTED)
def not_on_the_list(_subject, name, arguments):
    return refused(syscalls.call(name, *arguments), {errno.ENOSYS})


FORBIDDEN = (
    "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "userfaultfd",
    "perf_event_open", "ptrace", "process_vm_readv", "process_vm_writev", "setns", "mount", "umount2",
    "open_by_handle_at", "unshare", "sysfs", "ustat", "syslog", "memfd_secret", "fanotify_init",
)


@group("S11", {name: CLOSED_CALLS[name] for name in FORBIDDEN})
def forbidden_answers_eperm(_subject, name, arguments):
    """The forbidden set says EPERM by name: ENOSYS would mean that only the allow-list's default stands behind it."""
    return refused(syscalls.call(name, *arguments), {errno.EPERM})


# --- S05, S06: terminals ----------------------------------------------------------------------------------------------

TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD = 0x5412, 0x541C, 0x541D, 0x5423


def _ioctl(request):
    reader, writer = os.pipe()
    try:
        return refused(syscalls.call("ioctl", reader, request, BAD), {errno.EPERM})
    finally:
        os.close(reader)
        os.close(writer)


@group("S05", {
    "tiocsti": TIOCSTI, "tioclinux": TIOCLINUX,
    # CVE-2019-10063: the kernel reads 32 bits of the request, so must the filter.
    "tiocsti_high_bit": 1 << 32 | TIOCSTI, "tioclinux_high_bit": 1 << 32 | TIOCLINUX,
    "tioccons": TIOCCONS, "tiocsetd": TIOCSETD, "tiocsti_all_high": 0xFFFFFFFF << 32 | TIOCSTI, "tiocsti_sign": 1 << 63 | TIOCSTI,
})
def terminal_injection(_subject, _name, request):
    """On a pipe an open ioctl answers ENOTTY."""
    return _ioctl(request)


# --- S16: what a file system is asked to do -----------------------------------------------------------------------------

# Requests by name. On a pipe an open one answers ENOTTY, or EFAULT for its argument; FREEZE and THAW ask for a capability first.
FILE_REQUESTS = {
    "setflags": 0x40086602, "setversion": 0x40087602, "ext4_setversion": 0x40086604, "ext4_setrsvsz": 0x40086606,
    "ext4_group_extend": 0x40086607, "ext4_group_add": 0x40286608, "ext4_migrate": 0x6609, "ext4_alloc_da_blks": 0x660C,
    "ext4_move_ext": 0xC028660F, "ext4_resize_fs": 0x40086610, "ext4_swap_boot": 0x6611, "ext4_precache_extents": 0x6612,
    "ext4_clear_es_cache": 0x6628, "ext4_get_es_cache": 0xC020662A, "ext4_checkpoint": 0x4004662B, "ext4_setfsuuid": 0x4008662C,
    "ext4_set_tune_sb": 0x4000662E, "ext4_shutdown": 0x8004587D, "set_encryption_policy": 0x800C6613,
    "get_encryption_pwsalt": 0x40106614, "add_encryption_key": 0xC0506617, "remove_encryption_key": 0xC0406618,
    "enable_verity": 0x40806685, "measure_verity": 0xC0046686, "fssetxattr": 0x401C5820, "fitrim": 0xC0185879,
    "fifreeze": 0xC0045877, "fithaw": 0xC0045878, "xfs_geometry": 0x8100587E, "btrfs_sync": 0x9408, "btrfs_defrag": 0x50009402,
    "setfslabel": 0x41009432,
    # The kernel reads 32 bits of the request.
    "setflags_high_bit": 1 << 32 | 0x40086602, "ext4_migrate_high_bit": 1 << 32 | 0x6609, "ext4_move_ext_sign": 1 << 63 | 0xC028660F,
}


@group("S16", FILE_REQUESTS)
def requests_of_file_systems(_subject, _name, request):
    return _ioctl(request)


ASKED_OF_FILES = {"getflags": 0x80086601, "fiemap": 0xC020660B, "fsgetxattr": 0x801C581F, "ficlone": 0x40049409, "procmap_query": 0xC0686611}


@group("S07.file", ASKED_OF_FILES, must_work=True)
def what_programs_ask_of_files(_subject, _name, request):
    """What cp, lsattr and filefrag do; the kernel answers that a pipe is none."""
    reader, writer = os.pipe()
    try:
        outcome = syscalls.call("ioctl", reader, request, BAD)
    finally:
        os.close(reader)
        os.close(writer)
    return judge(outcome.error not in (0, errno.EPERM, errno.ENOSYS), str(outcome))


@probe("S05.own_terminal")
def injection_into_an_own_terminal(_subject):
    """The real thing: a pseudo terminal of our own made the controlling one, a byte pushed into its input."""
    try:
        main, side = os.openpty()
    except OSError as fault:
        return info(f"no pseudo terminal ({errno.errorcode[fault.errno]})")
    os.setsid()
    fcntl.ioctl(side, 0x540E, 0)  # TIOCSCTTY
    byte = ctypes.create_string_buffer(b"x")
    return refused(syscalls.call("ioctl", side, TIOCSTI, ctypes.addressof(byte)), {errno.EPERM})


@probe("S06")
def no_controlling_terminal(_subject):
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return failed("/dev/tty opened")


@probe("S06.stat")
def no_terminal_number(_subject):
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        number = int(file.read().rpartition(")")[2].split()[4])
    return judge(number == 0, f"tty_nr {number}")


# --- S07: what must stay open -----------------------------------------------------------------------------------------


def _filter(*instructions):
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    held = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(instructions), ctypes.addressof(held)))
    return held, program


@probe("S07.filter", must_work=True)
def agent_may_add_a_filter(_subject):
    """Browsers and build tools sandbox themselves: a filter that makes getpgrp fail with EXDEV, seen to work."""
    held, program = _filter(
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, 111),  # getpgrp?
        (0x06, 0, 0, 0x00050000 | errno.EXDEV),
        (0x06, 0, 0, 0x7FFF0000),
    )
    outcome = syscalls.call("seccomp", 1, 0, ctypes.addressof(program))
    if outcome.value != 0:
        return failed(f"refused: {errno.errorcode[outcome.error]}")
    seen = syscalls.call(111)
    del held
    return judge(seen.error == errno.EXDEV, f"getpgrp under the own filter: {seen}")


@probe("S07.prctl", must_work=True)
def agent_may_add_a_filter_by_prctl(_subject):
    held, program = _filter((0x06, 0, 0, 0x7FFF0000))
    outcome = syscalls.call("prctl", 22, 2, ctypes.addressof(program), 0, 0)
    del held
    return judge(outcome.value == 0, f"PR_SET_SECCOMP: {outcome}")


@probe("S07.landlock", must_work=True)
def agent_may_use_landlock(_subject):
    """The kernel itself may lack Landlock (ENOSYS) or have it off (EOPNOTSUPP); EPERM could only be the filter."""
    outcome = syscalls.call("landlock_create_ruleset", 0, 0, 1)
    if outcome.value > 0:
        return passed(f"version {outcome.value}")
    if outcome.error == errno.EOPNOTSUPP:
        return passed("off in this kernel")
    return info("ENOSYS: not in this kernel, or filtered") if outcome.error == errno.ENOSYS else failed(str(outcome))


def _threads():
    import threading

    seen = []
    thread = threading.Thread(target=lambda: seen.append(1))
    thread.start()
    thread.join()
    return seen == [1]


def _subprocess():
    import subprocess

    return subprocess.run(["/bin/true"], check=False).returncode == 0


def _memory_file():
    descriptor = os.memfd_create("probe")
    return os.write(descriptor, b"x") == 1


def _watch():
    return syscalls.raising(syscalls.call("inotify_init1", 0), "inotify_init1") >= 0


def _loopback():
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.connect(listener.getsockname())
        return True


def _shared_semaphore():
    import multiprocessing

    return multiprocessing.get_context("fork").Lock().acquire()


NEEDED = {
    "threads": _threads, "subprocess": _subprocess, "memfd": _memory_file, "inotify": _watch, "loopback": _loopback,
    "semaphores": _shared_semaphore,
}


@group("S07.needs", NEEDED, must_work=True)
def ordinary_programs_work(_subject, name, action):
    """A session in which nothing works passes every other probe: these are what agents need every day."""
    try:
        return judge(bool(action()), name)
    except OSError as fault:
        return failed(f"{name}: {fault}")


@group("S14", {"mknod": ("mknod", (BAD, 0o020600, 0x103)), "mknodat": ("mknodat", (-1, BAD, 0o060600, 0x700))})
def device_nodes_by_the_filter(_subject, _name, row):
    """With a bad path, so that the missing capability has no chance to answer first: open, it is EFAULT."""
    return refused(syscalls.call(row[0], *row[1]), {errno.EPERM})


# --- S15 ---------------------------------------------------------------------------------------------------------


@group("S15", {"fsync": (-1,), "fdatasync": (-1,), "sync_file_range": (-1, 0, 0, 0), "msync": (1, 1, 4)})
def answered_without_a_disk(_subject, name, arguments):
    """Of a descriptor (or an address) that is none: carried out, it would be EBADF (EINVAL)."""
    outcome = syscalls.call(name, *arguments)
    return judge(outcome == (0, 0), f"{name} answered {outcome}")


# --- S12 ---------------------------------------------------------------------------------------------------------


@probe("S12")
def filter_with_a_listener(_subject):
    """A listener descriptor for one's own children is no way out; which descriptors are open is L01's business."""
    held, program = _filter((0x06, 0, 0, 0x7FFF0000))
    outcome = syscalls.call("seccomp", 1, 8, ctypes.addressof(program))
    del held
    return info("allowed" if outcome.value >= 0 else f"refused: {errno.errorcode[outcome.error]}")
