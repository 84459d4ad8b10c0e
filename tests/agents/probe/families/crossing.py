"""Y01–Y09: what another session planted must not be found, read, listed, signalled or connected to.

canaries["peer"] is what the other session's `plant` answered, to which the harness adds what only the host knows:
pid (host), session_id, ns, uid_range.
"""

import ctypes
import errno
import fcntl
import os
import resource
import socket
import stat

import netlink
import syscalls
import watches
from registry import group, probe
from subject import Missing
from verdict import CLOSED, all_of, attempt, failed, judge, passed, refused

_LARGEST = 1 << 20


@group("Y01", {place: place for place in ("tmp_file", "home_file", "shm_file", "fifo", "lock", "unix_path")})
def file_of_the_peer(subject, _name, place):
    path = subject.canary("peer", place)
    return attempt(lambda: os.stat(path, follow_symlinks=False), {errno.ENOENT, errno.EACCES})


@probe("Y02", seconds=60)
def secret_in_any_file(subject):
    secret = subject.canary("peer", "secret").encode()
    found, read = [], 0
    for root in ("/tmp", "/dev/shm", subject.home or "/tmp", "/mnt", "/run", "/var", "/app"):
        for here, _, names in os.walk(root):
            for name in names:
                path = os.path.join(here, name)
                try:
                    if not stat.S_ISREG(os.lstat(path).st_mode):
                        continue
                    with open(path, "rb") as file:
                        read += 1
                        if secret in file.read(_LARGEST):
                            found.append(path)
                except OSError:
                    continue
    return judge(not found, f"{read} files read, the secret in {found[:4]}")


@probe("Y02.proc")
def peer_in_any_process(subject):
    """Names, command lines and environments of every process that can be seen."""
    marks = [subject.canary("peer", "tag").encode(), subject.canary("peer", "secret").encode()]
    mine = os.getpid(), os.getppid()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("comm", "cmdline", "environ", "mountinfo", "cgroup"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    text = file.read(_LARGEST)
            except OSError:
                continue
            if int(pid) not in mine and any(mark in text for mark in marks):
                found.append(f"{pid}/{name}")
    return judge(not found, f"the peer shows in {found[:4]}")


@probe("Y02.session_id")
def session_id_of_the_peer(subject):
    name = subject.canary("peer", "session_id").encode()
    found = []
    for place in ("environ", "mountinfo", "cgroup", "maps", "cmdline"):
        with open(f"/proc/self/{place}", "rb") as file:
            if name in file.read(_LARGEST):
                found.append(place)
    return judge(not found, f"the peer's session id in {found}")


@group("Y03", {"shm": "shmget", "sem": "semget", "msg": "msgget"})
def ipc_of_the_peer(subject, name, call):
    key = subject.canary("peer", "sysv_key")
    arguments = (key, 0) if name == "msg" else (key, 0, 0)
    return attempt(lambda: syscalls.raising(syscalls.libc(call, *arguments), call), {errno.ENOENT, errno.ENOSYS})


@probe("Y03.attach")
def shared_memory_of_the_peer_by_id(subject):
    """The same number may name a segment of our own: what matters is what is in it."""
    place = syscalls.libc("shmat", subject.canary("peer", "sysv_id"), None, 0o10000, result=ctypes.c_void_p)
    if place.value == -1 or place.value == ctypes.c_void_p(-1).value:
        return passed(errno.errorcode.get(place.error, "no such segment"))
    seen = ctypes.string_at(place.value)
    return judge(seen != subject.canary("peer", "secret").encode(), f"attached, holds {seen[:16]!r}")


@probe("Y04")
def message_queue_of_the_peer(subject):
    name = subject.canary("peer", "mq").encode()
    return attempt(lambda: syscalls.raising(syscalls.libc("mq_open", name, os.O_RDONLY), "mq_open"), {errno.ENOENT, errno.ENOSYS})


def _read_from(family, address):
    with socket.socket(family) as client:
        client.settimeout(3)
        client.connect(address)
        return client.recv(64)


@probe("Y05.abstract")
def abstract_socket_of_the_peer(subject):
    return attempt(lambda: _read_from(socket.AF_UNIX, "\0" + subject.canary("peer", "abstract")), {errno.ECONNREFUSED})


@probe("Y05.path")
def socket_file_of_the_peer(subject):
    return attempt(lambda: _read_from(socket.AF_UNIX, subject.canary("peer", "unix_path")), {errno.ENOENT})


def _own_addresses(version):
    mine = {text for _, text in netlink.addresses() if (":" in text) == (version == 6)}
    return sorted(mine | ({"127.0.0.1", "0.0.0.0"} if version == 4 else {"::1", "::"}))


REFUSED = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL}


@probe("Y06.tcp")
def port_of_the_peer(subject):
    """On every address that this session has; all are loopback (N01), or they are not tried."""
    port = subject.canary("peer", "tcp_port")
    return all_of((address, _port_at(socket.AF_INET, address, port)) for address in _own_addresses(4))


@probe("Y06.tcp6")
def ipv6_port_of_the_peer(subject):
    port = subject.canary("peer", "tcp6_port")
    return all_of((address, _port_at(socket.AF_INET6, address, port)) for address in _own_addresses(6))


def _port_at(family, address, port):
    if not (address.startswith("127.") or address in ("0.0.0.0", "::", "::1")):
        return failed("not a loopback address: the session has a network that it should not have")
    return attempt(lambda: _read_from(family, (address, port)), REFUSED)


@probe("Y06.udp")
def datagrams_to_the_peer(subject):
    def ask():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect(("127.0.0.1", subject.canary("peer", "udp_port")))
            client.send(b"?")
            return client.recv(64)

    try:
        return attempt(ask, {errno.ECONNREFUSED})
    except TimeoutError:
        return passed("no answer")


@group("Y07", {"session": -3, "user": -4, "user_session": -5})
def key_of_the_peer(subject, _name, ring):
    """By the name that the peer gave or would have given its key."""
    kind = ctypes.create_string_buffer(b"user")
    name = ctypes.create_string_buffer(f"plant-{subject.canary('peer', 'tag')}".encode())
    return refused(syscalls.call("keyctl", 10, ring, ctypes.addressof(kind), ctypes.addressof(name), 0), CLOSED | {errno.ENOKEY})


ON_THE_PEER = {
    "kill": lambda pid: os.kill(pid, 0),
    "pidfd": os.pidfd_open,
    "proc": lambda pid: os.stat(f"/proc/{pid}"),
    "priority": lambda pid: os.getpriority(os.PRIO_PROCESS, pid),
    "prlimit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
    "ptrace": lambda pid: syscalls.raising(syscalls.call("ptrace", 0x4206, pid, 0, 0), "ptrace"),
    "memory": lambda pid: syscalls.raising(syscalls.call("process_vm_readv", pid, 0, 0, 0, 0, 0), "process_vm_readv"),
}


@group("Y08", ON_THE_PEER)
def process_of_the_peer(subject, _name, act):
    """By its number on the host, the only one that could mean it here."""
    return attempt(lambda: act(subject.canary("peer", "pid")), CLOSED | {errno.ESRCH, errno.ENOENT})


@group("Y09", {"inotify": "uid", "inotify_share": "template"})
def inotify_instances_are_our_own(subject, _name, _of):
    """The peer holds all that it can get; what this session was promised is there all the same."""
    taken = subject.canary("peer", "inotify")
    promised = subject.limit("inotify")
    if promised is None:
        raise Missing("no limit inotify")
    held = []
    while len(held) < promised and (outcome := syscalls.call("inotify_init1", os.O_CLOEXEC)).value != -1:
        held.append(outcome.value)
    # Each is a descriptor, too. Where this process may have no more of those, it had as many as it can have.
    full = _is_full_of_descriptors()
    for descriptor in held:
        os.close(descriptor)
    return judge(len(held) >= promised or full, f"{len(held)} instances of {promised}, the peer took {taken}")


@probe("Y09.watches")
def inotify_watches_are_our_own(subject):
    """The peer holds all that it can get; some of what this session was promised is there all the same."""
    taken = subject.canary("peer", "watches")
    promised = subject.limit("watches")
    if promised is None:
        raise Missing("no limit watches")
    instance = syscalls.raising(syscalls.call("inotify_init1", os.O_CLOEXEC), "inotify_init1")
    try:
        held = watches.add([instance], promised)
    finally:
        os.close(instance)
    return judge(held >= promised, f"{held} watches of {promised}, the peer took {taken}")


def _is_full_of_descriptors():
    try:
        os.close(os.dup(0))
    except OSError as fault:
        return fault.errno == errno.EMFILE
    return False


@probe("Y09.pipes")
def pipe_pages_are_our_own(subject):
    taken = subject.canary("peer", "pipes")
    reader, writer = os.pipe()
    try:
        size = fcntl.fcntl(writer, 1031, 1 << 20)
    except OSError as fault:
        return failed(f"F_SETPIPE_SZ: {errno.errorcode[fault.errno]} after the peer took {taken}")
    finally:
        os.close(reader)
    return judge(size >= 1 << 20, f"pipe of {size} bytes")
