"""Output that a log reader must survive: too much, too long, not text."""

import os
import time

KINDS = {
    "text": lambda number, size: f"flood {number} ".encode().ljust(size, b"x"),
    "nul": lambda number, size: f"nul {number} ".encode().ljust(size, b"\0"),
    "invalid_utf8": lambda number, size: f"bad {number} ".encode().ljust(size, b"\xff\xc3\x28"[:1]) + b"\xc3\x28\xed\xa0\x80",
    "ansi": lambda number, size: f"\x1b[31m\x1b]0;title {number}\x07\x1b[2J".encode().ljust(size, b"\x1b"),
    "carriage": lambda number, size: f"\rover {number}\r".encode().ljust(size, b"\r"),
    "json": lambda number, size: b'{"level":"ERROR","message":"forged %d","session":"another"}' % number,
    "unicode": lambda number, size: ("\u2028\u202e\U0001f600" * (size // 10 + 1)).encode(),
}


def log(payload):
    """`lines` (or for `seconds`) of about `bytes` each, at `rate` lines a second (0: as fast as it goes), `to` stdout or stderr."""
    make = KINDS[payload.get("kind", "text")]
    size, rate = payload.get("bytes", 100), payload.get("rate", 0)
    lines, until = payload.get("lines"), time.monotonic() + payload.get("seconds", 1e9)
    end = b"" if payload.get("no_newline") else b"\n"
    descriptor = 2 if payload.get("to") == "stderr" else 1
    begin, written, number = time.monotonic(), 0, 0
    while (lines is None or number < lines) and time.monotonic() < until:
        written += _all(descriptor, make(number, size) + end)
        number += 1
        if rate:
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
    return {"lines": number, "bytes": written, "seconds": time.monotonic() - begin}


def log_line(payload):
    """One line of `bytes` (1 GiB) in pieces, its newline only at the end (or not at all)."""
    left, piece = payload.get("bytes", 1 << 30), b"L" * 65536
    descriptor = 2 if payload.get("to") == "stderr" else 1
    written = 0
    while written < left:
        written += _all(descriptor, piece[: left - written])
    if not payload.get("no_newline"):
        _all(descriptor, b"\n")
    return {"bytes": written}


def close_output(_payload):
    """Close stdout and stderr and go on serving: the end of the log is not the end of the agent."""
    os.close(1)
    os.close(2)
    # Something must be there, or the next socket becomes "stdout".
    os.open("/dev/null", os.O_WRONLY)
    os.open("/dev/null", os.O_WRONLY)
    return {"closed": [1, 2]}


def _all(descriptor, data):
    total = len(data)
    while data:
        data = data[os.write(descriptor, data):]
    return total


ACTIONS = {"log": log, "log_line": log_line, "close_output": close_output}
