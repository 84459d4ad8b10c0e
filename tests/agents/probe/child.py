"""Run something dangerous in a forked child with a time limit, and bring its answer home.

Every probe runs like this, so that one that is killed, hangs or breaks its own process cannot take the agent down.
The fork comes straight from the agent's thread: an exec would reset what must be measured (capabilities, securebits).
"""

import json
import os
import select
import signal
import sys
import time
import traceback

import at_start


class Death(Exception):
    """The child ended without an answer: `signal` number, or exit status."""

    def __init__(self, by_signal, status):
        self.by_signal = by_signal
        self.status = status
        super().__init__(f"killed by {signal_name(by_signal)}" if by_signal else f"exit status {status}")


class Overrun(Exception):
    """The child did not answer within its time."""


class Broken(Exception):
    """The child raised; the text is its last traceback line and place."""


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run(action, seconds=10.0, *arguments):
    """`action(*arguments)` in a child; its JSON-able value, or Death, Overrun, Broken."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_the_child(action, arguments, writer, seconds)
    os.close(writer)
    try:
        answer = _read_answer(reader, time.monotonic() + seconds)
    except Overrun:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reader)
    if answer is None:
        _, status = os.waitpid(pid, 0)
        raise Death(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, os.waitstatus_to_exitcode(status))
    # It has answered; what it left running (a stopped thread, a child of its own) must not hold us up.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if "broken" in answer:
        raise Broken(answer["broken"])
    return answer["value"]


def _be_the_child(action, arguments, writer, seconds):
    """Never returns: whatever happens, this process must not run on into the agent's code."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
            _default(number)
        # A second lock should the parent be gone: unblocked, default action, kills.
        signal.alarm(int(seconds) + 5)
        at_start.be_seen()
        try:
            answer = {"value": action(*arguments)}
        except BaseException as fault:  # even SystemExit: the child answers, it does not unwind
            place = traceback.extract_tb(fault.__traceback__)[-1]
            answer = {"broken": f"{type(fault).__name__}: {fault} ({os.path.basename(place.filename)}:{place.lineno})"}
        text = json.dumps(answer).encode() + b"\n"
        while text:
            text = text[os.write(writer, text):]
    except BaseException:
        os._exit(125)
    finally:
        os._exit(0)


def _default(number):
    """signal.signal works in the main thread only; in a fork of a worker thread that thread *is* the main one."""
    try:
        signal.signal(number, signal.SIG_DFL)
    except ValueError:
        print(f"probe: {signal_name(number)} kept its handler", file=sys.stderr)


def _read_answer(reader, deadline):
    """The line the child wrote, or None when it closed without one. Not read to the end of file: a grandchild may hold it open."""
    text = b""
    while not text.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            raise Overrun()
        piece = os.read(reader, 65536)
        if not piece:
            return None
        text += piece
    return json.loads(text)
