"""What one probe found: PASS (the attack was refused, the limit is there), FAIL (it is not) or INFO (nothing to judge)."""

import errno
from typing import NamedTuple

# What a closed door answers. Everything else means that the call got past the door: EFAULT, EBADF and EINVAL come from
# the kernel's own reading of arguments that were bad on purpose.
CLOSED = frozenset({errno.EPERM, errno.ENOSYS})
# A path or an object that is not there, or that the file system's own rules guard.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV})
GUARDED = CLOSED | frozenset({errno.EACCES, errno.EROFS})


class Result(NamedTuple):
    verdict: str
    detail: str


def passed(detail):
    return Result("PASS", detail)


def failed(detail):
    return Result("FAIL", detail)


def info(detail):
    return Result("INFO", detail)


def judge(fine, detail):
    """PASS or FAIL by a condition; the detail must read well in both cases (say what was seen, not what was hoped for)."""
    return passed(detail) if fine else failed(detail)


def name_of(number):
    return errno.errorcode.get(number, f"errno {number}")


def refused(outcome, accept=CLOSED):
    """Judge a raw system call: refused with one of `accept`, or it reached something."""
    if outcome.value != -1:
        return failed(f"succeeded with {outcome.value}")
    seen = name_of(outcome.error)
    return passed(seen) if outcome.error in accept else failed(_unexpected(seen, accept))


def attempt(action, accept=None):
    """Run `action`, which raises OSError when refused. `accept` narrows which errors count; None takes any."""
    try:
        value = action()
    except OSError as fault:
        seen = name_of(fault.errno)
        return passed(seen) if accept is None or fault.errno in accept else failed(_unexpected(seen, accept))
    return failed(f"succeeded: {value!r}"[:200])


def _unexpected(seen, accept):
    return f"{seen}, a refusal would be {' or '.join(sorted(name_of(number) for number in accept))}"


def all_of(results):
    """One verdict for several tries under one id: the first failure speaks, else all details in a row."""
    results = list(results)
    for label, result in results:
        if result.verdict == "FAIL":
            return failed(f"{label}: {result.detail}")
    return passed("; ".join(f"{label}: {result.detail}" for label, result in results)[:400])
