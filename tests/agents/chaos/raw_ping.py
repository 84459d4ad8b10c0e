"""How the raw server answers `/ping`: set by AGENT_PING or, while it runs, by `{"do": "ping", "as": …}`."""

import json
import socket
import threading
import time

_STARTED = int(time.time())


class Ping:
    """One answer per style; each gets the connection and what follows the colon (`status:500`, `slow:3`)."""

    def __init__(self, style):
        self.style = style
        self.asked = 0  # polls so far, for tests of the polling itself

    def answer(self, client):
        self.asked += 1
        name, _, figure = self.style.partition(":")
        STYLES[name](self, client, figure)


def _send(client, body, status="200 OK", kind="application/json"):
    if not isinstance(body, (bytes, bytearray)):
        body = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def _status(text, stamp=None):
    body = {"status": text}
    if stamp is not None:
        body["time_of_last_update"] = stamp
    return body


def _slow(ping, client, figure):
    time.sleep(float(figure or 5))
    _send(client, _status("Healthy", _STARTED))


def _flapping(ping, client, figure):
    _send(client, _status("HealthyBusy" if ping.asked % 2 else "Healthy", int(time.time())))


def _close(client):
    # Not close(): the reader of the requests holds the connection as well.
    client.shutdown(socket.SHUT_RDWR)


def _endless(client):
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        client.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")


STYLES = {
    "healthy": lambda ping, client, figure: _send(client, _status("Healthy", _STARTED)),
    "busy": lambda ping, client, figure: _send(client, _status("HealthyBusy", _STARTED)),
    # Stamped anew each time: never idle by the letter of the stamp.
    "now": lambda ping, client, figure: _send(client, _status("Healthy", int(time.time()))),
    "no_time": lambda ping, client, figure: _send(client, _status("Healthy")),
    "busy_no_time": lambda ping, client, figure: _send(client, _status("HealthyBusy")),
    "future": lambda ping, client, figure: _send(client, _status("Healthy", int(time.time()) + 10**6)),
    "past": lambda ping, client, figure: _send(client, _status("Healthy", -1)),
    "huge_time": lambda ping, client, figure: _send(client, _status("Healthy", 10**30)),
    "text_time": lambda ping, client, figure: _send(client, _status("Healthy", "yesterday")),
    "unknown": lambda ping, client, figure: _send(client, _status("Sick", _STARTED)),
    "no_status": lambda ping, client, figure: _send(client, {"time_of_last_update": _STARTED}),
    "array": lambda ping, client, figure: _send(client, ["Healthy"]),
    "not_json": lambda ping, client, figure: _send(client, b"{status: Healthy"),
    "deep": lambda ping, client, figure: _send(client, b"[" * 100_000),
    "empty": lambda ping, client, figure: _send(client, b""),
    "huge": lambda ping, client, figure: _send(client, json.dumps(_status("Healthy")).encode() + b" " * int(figure or 64 << 20)),
    "endless": lambda ping, client, figure: _endless(client),
    "status": lambda ping, client, figure: _send(client, _status("Healthy", _STARTED), status=f"{figure or 500} Chaos"),
    "slow": _slow,
    "flapping": _flapping,
    "never": lambda ping, client, figure: threading.Event().wait(),
    "close": lambda ping, client, figure: _close(client),
}
