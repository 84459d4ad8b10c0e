"""System calls that Python 3.11 has no function for, by ctypes; each raises `OSError`."""

from __future__ import annotations

import ctypes
import os

_C = ctypes.CDLL(None, use_errno=True)
# Declared once: a fork that converts each argument by itself takes two milliseconds for the bounding set alone.
_C.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
# As the shim's own, see `sandbox::plan::compile`.
_SECUREBITS = 0xEB
_MOST_CAPABILITIES = 64


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(what: str, option: int, *args: int) -> None:
    _check(what, _C.prctl(option, *(*args, 0, 0, 0, 0)[:4]))


def setns(fd: int) -> None:
    """Join the namespace that this descriptor is."""
    _check("setns", _C.setns(fd, 0))


def empty_bounding_set() -> None:
    """No exec will ever give a capability."""
    for capability in range(_MOST_CAPABILITIES):
        try:
            _prctl("drop a capability", _PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22:  # EINVAL: there is none of that number, nor of a higher one
                return
            raise


def lock_securebits() -> None:
    """Uid 0 means nothing, for good."""
    _prctl("securebits", _PR_SET_SECUREBITS, _SECUREBITS)


def drop_capabilities() -> None:
    """Effective, permitted, inheritable, ambient: none."""
    _prctl("ambient set", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check("capset", _C.capset(header, (ctypes.c_uint32 * 6)()))


def be_unreadable() -> None:
    """Nobody of the same uid reads this process's memory."""
    _prctl("dumpable", _PR_SET_DUMPABLE, 0)


def install_filter(program: bytes) -> None:
    """A seccomp filter on top of those that are there: `struct sock_filter` one after the other."""
    filter_ = _Program(len(program) // 8, program)
    _prctl("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filter_))


def close_from(first: int) -> None:
    """Close every descriptor from this one up."""
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
