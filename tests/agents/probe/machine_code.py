"""Small stubs of x86_64 machine code in a page of our own, for what libc cannot do: `int 0x80` (the i386 table),
children that share our memory and so may not touch the stack, and vfork without returning twice through it.

Call these in a forked child only.
"""

import ctypes
import mmap

# eax=edi ebx=esi ecx=edx edx=ecx esi=r8d, int 0x80
_INT80 = bytes.fromhex("53" "89f8" "89f3" "4189d1" "89ca" "4489c9" "4489c6" "cd80" "5b" "c3")
# eax=<nr>; syscall; in the child: exit(0) at once; in the parent (or on error): return rax
_FORK = "b8{nr}000000" "0f05" "85c0" "7509" "b83c000000" "31ff" "0f05" "c3"
# clone(CLONE_VM|SIGCHLD, 0, 0, 0, 0); the child only ever pauses: it has no stack of its own
_PAUSER = bytes.fromhex(
    "bf11010000" "31f6" "31d2" "4d31d2" "4d31c0" "b838000000" "0f05" "85c0" "7509" "b822000000" "0f05" "ebf7" "c3"
)


def _load(code, result, *arguments):
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(result, *arguments)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # lives as long as the function does
    return function


def int80(number, first=0, second=0, third=0, fourth=0):
    """An i386 system call: its result, negative errno on failure."""
    function = _load(_INT80, ctypes.c_int, *[ctypes.c_uint32] * 5)
    return function(*(value & 0xFFFFFFFF for value in (number, first, second, third, fourth)))


def forking(number):
    """fork (57) or vfork (58) whose child exits at once: the child's pid, or negative errno."""
    return _load(bytes.fromhex(_FORK.format(nr=f"{number:02x}")), ctypes.c_long)()


def pausers():
    """A function that starts one more child which costs next to no memory: its pid, or negative errno."""
    return _load(_PAUSER, ctypes.c_long)
