"""Leave a secret in every place that two sessions could share by mistake, and keep it there for the session's life.

What it answers is what another session's `hunt` needs as `peer` (families/crossing.py).
"""

import ctypes
import fcntl
import os
import socket
import threading
import zlib

import syscalls
from watches import add as watch

# Held for the life of the agent: descriptors that close would take the planted thing away.
_held = []
_instances = []


def plant(tag, secret, inotify=512, watches=1 << 14, pipes=64):
    """Everything planted is called after `tag`, holds `secret`, and is reported by place; a refusal is reported as such."""
    name = f"plant-{tag}"
    key = zlib.crc32(tag.encode()) & 0x7FFFFFFF
    report = {"tag": tag, "secret": secret, "inside_pid": os.getpid(), "inside_uid": os.getuid(), "home": os.environ.get("HOME", "")}
    plants = {
        "tmp_file": lambda: _file(f"/tmp/{name}", secret),
        "home_file": lambda: _file(f"{os.environ['HOME']}/{name}", secret),
        "shm_file": lambda: _file(f"/dev/shm/{name}", secret),
        "fifo": lambda: _fifo(f"/tmp/{name}.fifo"),
        "unix_path": lambda: _listen(socket.AF_UNIX, f"/tmp/{name}.sock", secret),
        "abstract": lambda: _listen(socket.AF_UNIX, f"\0{name}", secret).lstrip("\0"),
        "tcp_port": lambda: _listen(socket.AF_INET, ("0.0.0.0", 0), secret)[1],
        "tcp6_port": lambda: _listen(socket.AF_INET6, ("::", 0), secret)[1],
        "udp_port": lambda: _datagrams(secret),
        "sysv_id": lambda: _shared_memory(key, secret),
        "sysv_msg": lambda: _libc("msgget", key, 0o1666),
        "sysv_sem": lambda: _libc("semget", key, 1, 0o1666),
        "mq": lambda: _queue(f"/{name}"),
        "key": lambda: _key(name, secret),
        "inotify": lambda: len(_inotify(inotify)),
        "watches": lambda: watch(_instances, watches),
        "pipes": lambda: _pipes(pipes),
        "process": lambda: _process(name),
        "lock": lambda: _lock(f"/tmp/{name}.lock"),
    }
    report["sysv_key"] = key
    report["refused"] = {}
    for place, act in plants.items():
        try:
            report[place] = act()
        except OSError as fault:
            report["refused"][place] = os.strerror(fault.errno)
    return report


def _file(path, secret):
    with open(path, "w", encoding="utf-8") as file:
        file.write(secret)
    os.chmod(path, 0o666)
    return path


def _fifo(path):
    os.mkfifo(path, 0o666)
    _held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    return path


def _listen(family, address, secret):
    """A listener that tells the secret to whoever connects."""
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen(8)
    _held.append(listener)

    def serve():
        while True:
            client, _ = listener.accept()
            with client:
                client.sendall(secret.encode())

    threading.Thread(target=serve, daemon=True).start()
    bound = listener.getsockname()
    return bound.decode() if isinstance(bound, bytes) else bound


def _datagrams(secret):
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("0.0.0.0", 0))
    _held.append(here)

    def serve():
        while True:
            _, sender = here.recvfrom(64)
            here.sendto(secret.encode(), sender)

    threading.Thread(target=serve, daemon=True).start()
    return here.getsockname()[1]


def _libc(name, *arguments):
    return syscalls.raising(syscalls.libc(name, *arguments), name)


def _shared_memory(key, secret):
    number = _libc("shmget", key, 4096, 0o1666)
    place = syscalls.libc("shmat", number, None, 0, result=ctypes.c_void_p)
    ctypes.memmove(ctypes.c_void_p(syscalls.raising(place, "shmat")), secret.encode() + b"\0", min(len(secret) + 1, 4096))
    return number


def _queue(name):
    _held.append(_libc("mq_open", name.encode(), os.O_RDWR | os.O_CREAT, 0o666, None))
    return name


def _key(name, secret):
    """Refused in a session (C03); planted all the same where the filter is off, to see whether the keyring keeps it apart."""
    kind, description, value = (ctypes.create_string_buffer(text.encode()) for text in ("user", name, secret))
    outcome = syscalls.call("add_key", *map(ctypes.addressof, (kind, description, value)), len(secret), -4)
    syscalls.raising(outcome, "add_key")
    return name


def _inotify(count):
    """All that can be had, which is 128 where the host has the kernel's default: counted against the owner of the user namespace."""
    while len(_instances) < count and (outcome := syscalls.call("inotify_init1", os.O_CLOEXEC)).value != -1:
        _instances.append(outcome.value)
    return _instances


def _pipes(count):
    """1 MiB pipes: 64 of them are the pages that one host uid gets (pipe-user-pages-soft)."""
    made = 0
    for _ in range(count):
        reader, writer = os.pipe()
        _held.extend((reader, writer))
        try:
            fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ
        except OSError:
            break
        made += 1
    return made


def _process(name):
    """A child with a telling command line, waiting for the end of the session."""
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sleep", [name, "infinity"])
    return pid


def _lock(path):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held.append(descriptor)
    return path
