"""/proc/self/mountinfo, parsed (proc_pid_mountinfo(5))."""

import re
from typing import NamedTuple


class Mount(NamedTuple):
    root: str  # which part of its file system is mounted here
    point: str
    flags: frozenset  # per mount: ro, nosuid, nodev, noexec …
    propagation: tuple  # shared:N, master:N …
    kind: str
    source: str
    options: frozenset  # per file system: size=…, hidepid=… …

    def has(self, flag):
        """Either the mount or its file system may carry ro, noexec …"""
        return flag in self.flags or flag in self.options

    def option(self, name):
        """The value of `name=value` among the file system's options, or None."""
        for option in self.options:
            key, _, value = option.partition("=")
            if key == name:
                return value
        return None


def parse(text):
    return [_line(line) for line in text.splitlines() if line]


def read():
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def at(point, mounts=None):
    """The topmost mount at exactly this place, or None."""
    found = [mount for mount in (read() if mounts is None else mounts) if mount.point == point]
    return found[-1] if found else None


def holding(path, mounts=None):
    """The mount that `path` (absolute, no links) lies on."""
    best = None
    for mount in read() if mounts is None else mounts:
        below = mount.point.rstrip("/") + "/"
        if (path == mount.point or path.startswith(below)) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _line(line):
    fields = line.split(" ")
    dash = fields.index("-", 6)
    return Mount(
        root=_plain(fields[3]),
        point=_plain(fields[4]),
        flags=frozenset(fields[5].split(",")),
        propagation=tuple(fields[6:dash]),
        kind=fields[dash + 1],
        source=_plain(fields[dash + 2]),
        options=frozenset(fields[dash + 3].split(",")),
    )


def _plain(text):
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
