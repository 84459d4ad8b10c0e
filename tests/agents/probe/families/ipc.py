"""C01–C07, C10–C13: System V and POSIX IPC, keys, clocks and names of the host."""

import ctypes
import errno
import os
import socket
import struct
import time

import mounts
import syscalls
from registry import group, probe
from verdict import CLOSED, attempt, info, judge, passed, refused


def _libc(name, *arguments):
    return syscalls.raising(syscalls.libc(name, *arguments), name)


# --- C01, C02, C10: System V and POSIX queues -------------------------------------------------------------------------

FIND = {
    "shm": lambda key: _libc("shmget", key, 0, 0),
    "sem": lambda key: _libc("semget", key, 0, 0),
    "msg": lambda key: _libc("msgget", key, 0),
}


@group("C01", FIND)
def host_ipc_by_key(subject, _name, find):
    """ENOENT: no such key here. EACCES would mean that it is there."""
    return attempt(lambda: find(subject.canary("sysv_key")), {errno.ENOENT, errno.ENOSYS})


@probe("C01.attach")
def host_shm_by_id(subject):
    """Ids can be guessed: EINVAL says that this namespace has none of that number."""
    attach = lambda: syscalls.raising(  # noqa: E731
        syscalls.libc("shmat", subject.canary("sysv_id"), None, 0o10000, result=ctypes.c_long), "shmat")
    return attempt(attach, {errno.EINVAL, errno.ENOSYS, errno.EIDRM})


# call, command, place of the count of existing objects among the ints of the answer (shm_info.used_ids, seminfo.semusz,
# msginfo.msgpool; see shmctl(2), semctl(2), msgctl(2))
USED = {"shm": ("shmctl", 14, 0), "sem": ("semctl", 19, 7), "msg": ("msgctl", 12, 0)}


@group("C02", USED)
def nothing_there_at_start(_subject, name, row):
    """{shm,sem,msg}_info of a namespace of our own: no object of anybody (also not of this pool member's past)."""
    call, command, place = row
    buffer = (ctypes.c_int * 64)()
    arguments = (0, 0, command, buffer) if name == "sem" else (0, command, buffer)
    outcome = syscalls.libc(call, *arguments)
    if outcome.value == -1:
        return passed(errno.errorcode[outcome.error])
    used = buffer[place]
    return judge(used == 0, f"{used} objects")


@probe("C10")
def host_message_queue(subject):
    name = subject.canary("mq").encode()
    return attempt(lambda: _libc("mq_open", name, os.O_RDONLY), {errno.ENOENT, errno.ENOSYS})


@probe("C10.directory")
def message_queues_listed(_subject):
    try:
        return judge(not os.listdir("/dev/mqueue"), f"/dev/mqueue lists {os.listdir('/dev/mqueue')[:4]}")
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])


# --- C03, C04: keys ---------------------------------------------------------------------------------------------------

_USER_RING, _SESSION_RING, _THREAD_RING, _PROCESS_RING, _USER_SESSION_RING = -4, -3, -1, -2, -5
KEY_CALLS = {
    "get_session": (0, _SESSION_RING, 0), "join": (1, 0), "update": (2, _SESSION_RING, 0, 0),
    "describe": (6, _SESSION_RING, 0, 0), "clear": (7, _THREAD_RING), "link": (8, _USER_RING, _SESSION_RING),
    "read": (11, _SESSION_RING, 0, 0), "read_user": (11, _USER_RING, 0, 0), "persistent": (22, -1, _SESSION_RING),
    "get_user": (0, _USER_RING, 0), "get_process": (0, _PROCESS_RING, 1),
}


@group("C03", KEY_CALLS)
def key_call(_subject, _name, arguments):
    return refused(syscalls.call("keyctl", *arguments))


def _bytes(text):
    return ctypes.create_string_buffer(text.encode())


@probe("C03.add")
def add_a_key(_subject):
    kind, name, value = _bytes("user"), _bytes("agentcore-probe"), _bytes("x")
    return refused(syscalls.call(
        "add_key", ctypes.addressof(kind), ctypes.addressof(name), ctypes.addressof(value), 1, _PROCESS_RING))


@group("C03.search", {"session": _SESSION_RING, "user": _USER_RING, "user_session": _USER_SESSION_RING})
def host_key_by_description(subject, _name, ring):
    """canaries["key"]: the description of a `user` key in the session keyring that the daemon was started with. ENOKEY is
    the session keyring's own doing (seen where the filter is off)."""
    kind, name = _bytes("user"), _bytes(subject.canary("key"))
    found = syscalls.call("keyctl", 10, ring, ctypes.addressof(kind), ctypes.addressof(name), 0)
    return refused(found, CLOSED | {errno.ENOKEY})


@probe("C03.request")
def host_key_by_request(subject):
    kind, name = _bytes("user"), _bytes(subject.canary("key"))
    return refused(syscalls.call("request_key", ctypes.addressof(kind), ctypes.addressof(name), 0, 0), CLOSED | {errno.ENOKEY})


@group("C04", {"keys": "keys", "key_users": "key-users"})
def keys_listed(_subject, _name, name):
    try:
        with open(f"/proc/{name}", encoding="ascii", errors="replace") as file:
            return judge(not file.read(), f"/proc/{name} shows keys")
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])


# --- C05, C06, C12: names and clocks ----------------------------------------------------------------------------------


@group("C05", {"sethostname": "sethostname", "setdomainname": "setdomainname"})
def set_a_name(_subject, _name, call):
    """With a length that the kernel refuses: nothing changes even where it is allowed."""
    return refused(syscalls.call(call, syscalls.BAD, -1))


@probe("C12")
def host_name_of_the_host(subject):
    own = os.uname().nodename
    return judge(own != subject.canary("hostname"), f"host name {own!r}")


@probe("C12.domain")
def domain_name_of_the_host(_subject):
    with open("/proc/self/status", encoding="ascii"):
        pass  # /proc must be readable for the rest of this family to mean anything
    buffer = ctypes.create_string_buffer(65 * 6)
    syscalls.call(63, ctypes.addressof(buffer))
    domain = buffer.raw[65 * 5:].split(b"\0")[0].decode()
    return judge(domain in ("", "(none)", "localdomain"), f"domain name {domain!r}")


@group("C06", {
    "clock_settime": ("clock_settime", (0, syscalls.BAD)),
    "settimeofday": ("settimeofday", (syscalls.BAD, 0)),
})
def set_the_clock(_subject, _name, row):
    return refused(syscalls.call(row[0], *row[1]))


@group("C06", {"adjtimex": "adjtimex", "clock_adjtime": "clock_adjtime"})
def adjust_the_clock(_subject, _name, call):
    """ADJ_TICK with a tick of 0: EPERM without the capability, EINVAL with it; never changes anything."""
    record = ctypes.create_string_buffer(struct.pack("=I", 0x4000), 256)
    arguments = (ctypes.addressof(record),) if call == "adjtimex" else (0, ctypes.addressof(record))
    return refused(syscalls.call(call, *arguments))


@probe("C06.alarm")
def wake_the_machine(_subject):
    """CLOCK_REALTIME_ALARM needs CAP_WAKE_ALARM."""
    timer = ctypes.c_int()
    return attempt(lambda: syscalls.raising(syscalls.call(222, 8, 0, ctypes.addressof(timer)), "timer_create"),
                   CLOSED | {errno.EOPNOTSUPP, errno.EINVAL})


@probe("C06.reading", must_work=True)
def reading_clocks_works(_subject):
    return judge(time.time() > 1.6e9 and time.monotonic() > 0, f"time {time.time():.0f}")


# --- C07, C11, C13 ----------------------------------------------------------------------------------------------------


@probe("C07")
def shm_is_an_own_mount(_subject):
    mount = mounts.at("/dev/shm")
    return judge(mount is not None and mount.kind == "tmpfs", f"/dev/shm: {mount.kind if mount else 'no mount'}")


@probe("C07.empty")
def shm_is_empty_of_others(_subject):
    mine = os.getuid()
    found = [entry.name for entry in os.scandir("/dev/shm") if entry.stat(follow_symlinks=False).st_uid != mine]
    return judge(not found, f"files of others in /dev/shm: {found[:4]}")


@probe("C13")
def host_shm_file(subject):
    return attempt(lambda: os.stat(f"/dev/shm/{subject.canary('shm_name')}"), {errno.ENOENT})


@group("C11", {"system_bus": "/run/dbus/system_bus_socket", "session_bus": "/run/user/1000/bus", "journal": "/run/systemd/journal/socket",
               "notify": "/run/systemd/notify", "docker": "/var/run/docker.sock", "udev": "/run/udev/control", "nscd": "/var/run/nscd/socket"})
def host_service_socket(_subject, _name, path):
    def connect():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    return attempt(connect, {errno.ENOENT, errno.EACCES, errno.ENOTDIR})


@probe("C14")
def own_ipc_works(_subject):
    """Whether System V shared memory is allowed at all is policy (databases want it): shown."""
    outcome = syscalls.libc("shmget", 0, 4096, 0o600 | 0o1000)
    if outcome.value == -1:
        return info(f"refused: {errno.errorcode[outcome.error]}")
    syscalls.libc("shmctl", outcome.value, 0, None)
    return info("allowed")


