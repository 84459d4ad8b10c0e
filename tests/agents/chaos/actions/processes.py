"""Processes and threads without end, and ones that do not want to go."""

import errno
import os
import signal
import threading
import time

_threads = threading.Event()


def let_go():
    """In a child that lives on: the agent's sockets are not its business, only stdin, stdout and stderr are kept."""
    os.closerange(3, 65536)


def fork_bomb(payload):
    """Every process forks as fast as it can for `seconds`. The first one counts; all end with the time.

    With `wait` false it answers at once and the bomb goes on."""
    until = time.monotonic() + payload.get("seconds", 3)
    first = os.fork()
    if first == 0:
        _explode(until)
    if not payload.get("wait", True):
        return {"bomb": first}
    status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    # Whether the kernel refused at least once: exit status 1 of the first process.
    return {"refused": status == 1, "status": status}


def _explode(until):
    let_go()
    refused = 0
    first = os.getpid()
    while time.monotonic() < until:
        try:
            if os.fork() == 0:
                first = 0
        except OSError:
            refused = 1
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
    os._exit(refused if first else 0)


def thread_bomb(payload):
    """Threads until refused (or `count`); they stay until `release_threads`."""
    started, stopped = 0, None
    threading.stack_size(65536)
    try:
        while started < payload.get("count", 1_000_000):
            threading.Thread(target=_threads.wait, daemon=True).start()
            started += 1
    except (RuntimeError, OSError, MemoryError) as fault:
        stopped = str(fault)
    finally:
        threading.stack_size(0)
    return {"threads": started, "stopped": stopped}


def release_threads(_payload):
    _threads.set()
    return {"released": True}


def orphans(payload):
    """`count` (2,000) processes whose parent ends before them and which then end too: PID 1 must reap them all."""
    count = payload.get("count", 2000)
    middle = os.fork()
    if middle == 0:
        made = 0
        for _ in range(count):
            try:
                if os.fork() == 0:
                    os._exit(0)
                made += 1
            except OSError:
                break
        os._exit(0 if made == count else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1])
    return {"asked": count, "all_forked": status == 0, "zombies": _zombies()}


def zombies(_payload):
    """Processes of our own uid that are zombies now."""
    return {"zombies": _zombies()}


def _zombies():
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                count += file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
    return count


def stray(payload):
    """`count` processes that are hard to end: forked twice, a session of their own, every signal blocked, stdout held open.

    `stopped`: SIGSTOP themselves too."""
    reader, writer = os.pipe()
    for _ in range(payload.get("count", 1)):
        middle = os.fork()
        if middle == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.write(writer, f"{os.getpid()} ".encode())
            let_go()
            if payload.get("stopped"):
                os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                time.sleep(3600)
        os.waitpid(middle, 0)
    os.close(writer)
    pids = b""
    while pids.count(b" ") < payload.get("count", 1):
        pids += os.read(reader, 4096)
    os.close(reader)
    return {"pids": [int(pid) for pid in pids.split()]}


def ignore_signals(_payload):
    """From now on this agent ignores everything that can be ignored, TERM first."""
    import ctypes

    # signal.signal works in the main thread only; sigaction is the process's.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    ignored = []
    for number in range(1, 32):
        if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV):
            continue
        if libc.signal(number, 1) != ctypes.c_void_p(-1).value:
            ignored.append(number)
    return {"ignored": ignored}


def pid_race(payload):
    """Fork and reap for `seconds`, so that process numbers go round: for tests of a remembered number."""
    until, forks = time.monotonic() + payload.get("seconds", 2), 0
    while time.monotonic() < until:
        try:
            pid = os.fork()
        except OSError as fault:
            return {"forks": forks, "stopped": errno.errorcode[fault.errno]}
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        forks += 1
    return {"forks": forks, "last": pid}


ACTIONS = {
    "fork_bomb": fork_bomb, "thread_bomb": thread_bomb, "release_threads": release_threads, "orphans": orphans, "zombies": zombies,
    "stray": stray, "ignore_signals": ignore_signals, "pid_race": pid_race,
}
