"""Filling the scratch places, and leaving files in them that a careless reader or remover would trip over."""

import errno
import os


def _place(payload):
    return {"tmp": "/tmp", "shm": "/dev/shm", "home": os.environ.get("HOME", "/tmp")}.get(payload.get("place", "tmp"), payload.get("place"))


def fill(payload):
    """Write one file until refused (or `bytes`); it stays unless `keep` is false."""
    path, wanted = f"{_place(payload)}/filler-{os.getpid()}", payload.get("bytes", 1 << 40)
    piece, written, stopped = b"\1" * (1 << 20), 0, None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while written < wanted:
            written += os.write(descriptor, piece[: wanted - written])
    except OSError as fault:
        stopped = errno.errorcode[fault.errno]
    finally:
        os.close(descriptor)
    if not payload.get("keep", True):
        os.unlink(path)
    return {"path": path, "bytes": written, "stopped": stopped}


def fill_inodes(payload):
    """Empty files until refused (or `count`)."""
    place, wanted = f"{_place(payload)}/inodes-{os.getpid()}", payload.get("count", 10_000_000)
    os.makedirs(place, exist_ok=True)
    made, stopped = 0, None
    try:
        while made < wanted:
            os.close(os.open(f"{place}/{made}", os.O_WRONLY | os.O_CREAT, 0o600))
            made += 1
    except OSError as fault:
        stopped = errno.errorcode[fault.errno]
    if not payload.get("keep", True):
        for number in range(made):
            os.unlink(f"{place}/{number}")
        os.rmdir(place)
    return {"place": place, "files": made, "stopped": stopped}


def hostile_files(payload):
    """Links to the host's files, a FIFO, a socket, a sparse giant, names of every byte, a deep tree: whoever reads or removes
    what a session wrote must refuse or bear them. `depth` directories (5,000)."""
    import socket

    place = f"{_place(payload)}/hostile"
    os.makedirs(place, exist_ok=True)
    made = {}

    def do(name, act):
        try:
            act()
            made[name] = "made"
        except OSError as fault:
            made[name] = errno.errorcode[fault.errno]

    do("link_shadow", lambda: os.symlink("/etc/shadow", f"{place}/out.json"))
    do("link_environ", lambda: os.symlink("/proc/1/environ", f"{place}/log"))
    do("link_root", lambda: os.symlink("/", f"{place}/directory"))
    do("link_loop", lambda: os.symlink("loop", f"{place}/loop"))
    do("fifo", lambda: os.mkfifo(f"{place}/fifo.json"))
    do("socket", lambda: socket.socket(socket.AF_UNIX).bind(f"{place}/socket.json"))
    do("sparse", lambda: _sparse(f"{place}/sparse.json"))
    do("newline", lambda: _touch(f"{place}/a\nb"))
    do("escape", lambda: _touch(f"{place}/\x1b[31mred"))
    do("invalid_utf8", lambda: _touch(os.fsencode(place) + b"/\xff\xfe"))
    do("long_name", lambda: _touch(f"{place}/" + "n" * 255))
    do("unreadable", lambda: (_touch(f"{place}/unreadable"), os.chmod(f"{place}/unreadable", 0)))
    do("setuid", lambda: (_touch(f"{place}/setuid"), os.chmod(f"{place}/setuid", 0o4755)))
    do("hard_link", lambda: os.link("/usr/bin/python3", f"{place}/linked"))
    do("deep", lambda: _deep(place, payload.get("depth", 5000)))
    return {"place": place, "made": made}


def _touch(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _sparse(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, 2**63 - 1)
    finally:
        os.close(descriptor)


def _deep(place, depth):
    """Step by step from descriptors: the whole path would be too long to name."""
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(depth):
            os.mkdir("deep", dir_fd=here)
            below = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)


def write(payload):
    """`path` gets `text`: a marker that another invocation, session or the host looks for."""
    with open(payload.get("path", "/tmp/marker"), "w", encoding="utf-8") as file:
        file.write(payload.get("text", "marker"))
    return {"path": payload.get("path", "/tmp/marker")}


def read(payload):
    try:
        with open(payload.get("path", "/tmp/marker"), encoding="utf-8", errors="replace") as file:
            return {"text": file.read(1 << 20)}
    except OSError as fault:
        return {"error": errno.errorcode[fault.errno]}


ACTIONS = {"fill": fill, "fill_inodes": fill_inodes, "hostile_files": hostile_files, "write": write, "read": read}
