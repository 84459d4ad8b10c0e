"""Looks around from inside a session and reports what it sees; `agentcore doctor` judges it.

It only tries what must be refused in a session, and only there: it is never run anywhere else.
"""

import ctypes
import errno
import os
import socket

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()

CLONE_NEWUSER = 0x10000000
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
READ_ONLY = ("/", "/app", "/usr", "/etc", "/bin", "/lib", "/dev", "/proc", "/var")


def status():
    with open("/proc/self/status", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def namespaces():
    return {name: os.stat("/proc/self/ns/" + name).st_ino for name in NAMESPACES}


def can_write(folder):
    path = os.path.join(folder, ".agentcore-doctor")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    os.unlink(path)
    return True


def size(folder):
    stat = os.statvfs(folder)
    return stat.f_frsize * stat.f_blocks


def new_user_namespace():
    """The errno with which it was refused, or None if it was not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) == 0:
        return None
    return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def uid_map():
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return [[int(number) for number in line.split()] for line in file]


@app.entrypoint
def look(payload):
    own = status()
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "uidMap": uid_map(),
        "capabilities": {
            name: own[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        },
        "noNewPrivs": own["NoNewPrivs"],
        "seccomp": own["Seccomp"],
        "newUserNamespace": new_user_namespace(),
        "namespaces": namespaces(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "writable": [folder for folder in READ_ONLY if os.path.isdir(folder) and can_write(folder)],
        "tmpWritable": can_write("/tmp"),
        "tmpBytes": size("/tmp"),
        "visiblePaths": [path for path in payload["paths"] if os.path.lexists(path)],
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    }


if __name__ == "__main__":
    app.run()
