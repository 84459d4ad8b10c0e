"""R01: resource limits. With canary `limits` equal to what was promised; without, at least not the kernel's defaults."""

import errno
import os
import resource

from registry import group, probe
from verdict import failed, info, judge

FINITE = {
    # name: (resource, largest hard limit that is taken for a limit where none was promised)
    "core": (resource.RLIMIT_CORE, 1),
    "nofile": (resource.RLIMIT_NOFILE, 16_384),
    "nproc": (resource.RLIMIT_NPROC, 16_384),
    "memlock": (resource.RLIMIT_MEMLOCK, 64 << 20),
    "sigpending": (resource.RLIMIT_SIGPENDING, 16_384),
    "msgqueue": (resource.RLIMIT_MSGQUEUE, 819_200),
    "rtprio": (resource.RLIMIT_RTPRIO, 0),
    "nice": (resource.RLIMIT_NICE, 0),
}


@group("R01", FINITE, harmless=True)
def resource_limit(subject, name, row):
    kind, largest = row
    soft, hard = resource.getrlimit(kind)
    promised = subject.limit(name)
    if promised is not None:
        return judge(hard == promised, f"{name} soft {soft} hard {hard}, promised {promised}")
    return judge(hard != resource.RLIM_INFINITY and 0 <= hard <= largest, f"{name} soft {soft} hard {hard}")


@group("R01.raise", FINITE)
def raise_the_limit(_subject, name, row):
    kind, _ = row
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        return failed(f"{name} is unlimited")
    try:
        resource.setrlimit(kind, (soft, hard + 1))
    except (OSError, ValueError) as fault:
        return judge(True, str(fault))
    return failed(f"{name} raised to {hard + 1}")


@group("R01.shown", {"stack": resource.RLIMIT_STACK, "as": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA, "fsize": resource.RLIMIT_FSIZE,
                     "cpu": resource.RLIMIT_CPU})
def other_limit(_subject, name, kind):
    """Memory and time are the cgroup's business: shown."""
    return info(f"{name} {resource.getrlimit(kind)}")


@probe("R01.nofile_works", seconds=30)
def descriptors_give_out(subject):
    """Open /dev/null until refused: the number in getrlimit is also the one that holds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened = 0
    try:
        while opened <= 100_000:
            os.open("/dev/null", os.O_RDONLY)
            opened += 1
    except OSError as fault:
        promised = subject.limit("nofile")
        return judge(fault.errno == errno.EMFILE and opened <= (promised or 16_384), f"{errno.errorcode[fault.errno]} after {opened}")
    return failed(f"{opened} descriptors and no end")
