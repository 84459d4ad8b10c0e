"""What happens before (or instead of) serving: one function per `AGENT_MODE`.

Figures come from the environment: AGENT_SECONDS, AGENT_MS, AGENT_BYTES, AGENT_PING (raw_ping.py), AGENT_ON_TERM.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time

LAST_WORDS = "chaos: last words before the end"


def start():
    mode = os.environ.get("AGENT_MODE", "sdk")
    try:
        run = MODES[mode]
    except KeyError:
        sys.exit(f"chaos: no mode {mode!r}; known are {', '.join(sorted(MODES))}")
    # Before any thread is there: one that was started earlier would take the signal that the others block.
    _on_term(os.environ.get("AGENT_ON_TERM", "ignore" if mode == "ignore_term" else "tell"))
    run()


def seconds(default):
    return float(os.environ.get("AGENT_SECONDS", default))


def port():
    return int(os.environ.get("PORT", "8080"))


# --- SIGTERM ----------------------------------------------------------------------------------------------------------


def _on_term(how):
    """tell: say so at once, then end as usual. slow: say so, take AGENT_SECONDS, exit 0. ignore: neither. default: untouched."""
    if how == "default":
        return
    if how == "ignore":
        # Blocked, not ignored: a server that installs a handler of its own later would undo the latter. Threads inherit it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return

    told = threading.Event()

    def ended(_number, _frame):
        told.wait(1)
        if how == "slow":
            time.sleep(seconds(5))
        os._exit(0)

    signal.signal(signal.SIGTERM, ended)
    # The wakeup descriptor learns of the signal at once, whoever handles it: the SDK puts a handler of its own in front.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_tell_of_signals, args=(reader, told), daemon=True).start()


def _tell_of_signals(reader, told):
    while numbers := os.read(reader, 64):
        for number in numbers:
            # One write: a line must not be torn by other threads' output.
            os.write(1, f"got {signal.Signals(number).name.removeprefix('SIG')}\n".encode())
        told.set()


# --- serving ----------------------------------------------------------------------------------------------------------


def _sdk():
    import sdk_agent

    sdk_agent.run(port())


def _raw():
    import raw_server

    raw_server.serve(port())


def _raw_with_ping(ping):
    os.environ["AGENT_PING"] = ping
    _raw()


def _slow_start():
    """Not listening for AGENT_SECONDS (10): within the start deadline or beyond it, as the test chooses."""
    print(f"chaos: listening in {seconds(10):g} s", flush=True)
    time.sleep(seconds(10))
    _sdk()


def _log_flood_at_start():
    """AGENT_BYTES (16 MiB) of log before the first request can be answered."""
    line = b"chaos: flood before the start " + b"x" * 98 + b"\n"
    left = int(os.environ.get("AGENT_BYTES", 16 << 20))
    while left > 0:
        left -= os.write(1, line)
    _sdk()


def _die_after():
    """Serves well, then dies AGENT_MS (1000) after its start with exit status 7."""

    def die():
        time.sleep(int(os.environ.get("AGENT_MS", "1000")) / 1000)
        print(LAST_WORDS, file=sys.stderr, flush=True)
        os._exit(7)

    threading.Thread(target=die, daemon=True).start()
    _sdk()


def _fork_then_exit():
    """Turns itself into a background process, as old daemons do: the started process exits 0, its child serves."""
    if os.fork():
        os._exit(0)
    os.setsid()
    _sdk()


def _wrong_port():
    os.environ["PORT"] = "18080"
    import raw_server

    raw_server.serve(18080)


# --- not serving ------------------------------------------------------------------------------------------------------


def _exit(status):
    print(LAST_WORDS, file=sys.stderr, flush=True)
    sys.exit(status)


def _segv():
    print(LAST_WORDS, file=sys.stderr, flush=True)
    ctypes.string_at(0)


def _import_error():
    import a_module_that_nobody_vendored  # noqa: F401


def _no_listen():
    print("chaos: alive and not listening", flush=True)
    threading.Event().wait()


def _eat_at_start():
    from actions import memory

    memory.eat({"kind": "anon", "bytes": int(os.environ.get("AGENT_BYTES", 1 << 40))})


def _accepting(handle):
    """Listen and give every connection to `handle`, each in a thread of its own."""
    with socket.create_server(("", port())) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=handle, args=(client,), daemon=True).start()


def _answer_garbage(client):
    """Reads something, then sends what no HTTP parser likes."""
    with client:
        client.recv(65536)
        client.sendall(bytes(range(256)) * 64)


def _answer_nothing(client):
    """Takes everything, says nothing, keeps the connection."""
    while client.recv(65536):
        pass


MODES = {
    "sdk": _sdk,
    "raw": _raw,
    "slow_start": _slow_start,
    "ignore_term": _sdk,
    "log_flood_at_start": _log_flood_at_start,
    "die_after_n_ms": _die_after,
    "fork_then_exit": _fork_then_exit,
    "wrong_port": _wrong_port,
    "bad_ping": lambda: _raw_with_ping("not_json"),
    "ping_404": lambda: _raw_with_ping("status:404"),
    "ping_500": lambda: _raw_with_ping("status:500"),
    "ping_never": lambda: _raw_with_ping("never"),
    "exit0": lambda: _exit(0),
    "exit1": lambda: _exit(1),
    "segv": _segv,
    "import_error": _import_error,
    "no_listen": _no_listen,
    "eat_at_start": _eat_at_start,
    "garbage": lambda: _accepting(_answer_garbage),
    "silent": lambda: _accepting(_answer_nothing),
    "accept_close": lambda: _accepting(lambda client: client.close()),
}
