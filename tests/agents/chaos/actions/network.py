"""Connections: to the egress proxy on the session's own loopback, and to the agent's own port. Never anywhere else."""

import errno
import ipaddress
import os
import socket
import urllib.parse

_held = []


def _proxy():
    """(host, port) of HTTPS_PROXY; refused unless it is loopback."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        if os.environ.get(name):
            parts = urllib.parse.urlsplit(os.environ[name])
            if parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback:
                return parts.hostname, parts.port
            raise ValueError(f"{name} is not on loopback")
    raise LookupError("no proxy in the environment: the network policy is `none`")


def proxy(payload):
    """One CONNECT to `target` (host:port) through the proxy: its status line, and what comes back for `send`."""
    try:
        with socket.create_connection(_proxy(), timeout=payload.get("timeout", 10)) as client:
            target = payload["target"]
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            # What a server says first may come in one piece with the proxy's answer.
            head, _, first = _head(client).partition("\r\n\r\n")
            answer = {"status": head.split("\r\n")[0], "head": head}
            if " 200" in answer["status"] and "send" in payload:
                client.sendall(payload["send"].encode())
                answer["received"] = first + client.recv(65536).decode("utf-8", "replace")
            return answer
    except (OSError, LookupError, ValueError) as fault:
        return {"error": f"{type(fault).__name__}: {fault}"}


def _head(client):
    text = b""
    while b"\r\n\r\n" not in text and len(text) < 65536:
        piece = client.recv(4096)
        if not piece:
            break
        text += piece
    return text.decode("latin-1")


def proxy_raw(payload):
    """Bytes (latin-1) to the proxy as they are, and what it says: malformed requests, forward requests, smuggling."""
    try:
        with socket.create_connection(_proxy(), timeout=payload.get("timeout", 5)) as client:
            client.sendall(payload["send"].encode("latin-1"))
            return {"received": client.recv(65536).decode("latin-1")}
    except (OSError, LookupError, ValueError) as fault:
        return {"error": f"{type(fault).__name__}: {fault}"}


def connect_flood(payload):
    """`count` connections to the proxy (or, `to` "self", to the agent's own port) that say `send` and stay."""
    try:
        address = ("127.0.0.1", int(os.environ.get("PORT", "8080"))) if payload.get("to") == "self" else _proxy()
    except (LookupError, ValueError) as fault:
        return {"error": str(fault)}
    made, stopped = 0, None
    for _ in range(payload.get("count", 1000)):
        try:
            client = socket.create_connection(address, timeout=5)
            client.sendall(payload.get("send", "CONNECT 127.0.0.1:9 HTTP/1.1\r\n").encode())
        except OSError as fault:
            stopped = errno.errorcode.get(fault.errno, str(fault))
            break
        _held.append(client)
        made += 1
    if not payload.get("keep"):
        release_connections({})
    return {"connections": made, "stopped": stopped}


def release_connections(_payload):
    count = len(_held)
    while _held:
        _held.pop().close()
    return {"released": count}


def find_control_sockets(_payload):
    """Knock at everything that listens on the session's loopback, with bytes that a packet parser must refuse."""
    answered = {}
    for port in range(1, 65536):
        with socket.socket() as client:
            client.settimeout(0.2)
            if client.connect_ex(("127.0.0.1", port)) != 0:
                continue
            if client.getsockname() == client.getpeername():
                continue  # the kernel gave it the very port that it knocks at: it has met itself
            try:
                client.sendall(b"\xff" * 64 + b'{"jsonrpc":"2.0","method":"shutdown"}\n')
                answered[port] = client.recv(64).decode("latin-1")
            except OSError as fault:
                answered[port] = type(fault).__name__
    return {"listening": answered}


ACTIONS = {
    "proxy": proxy, "proxy_raw": proxy_raw, "connect_flood": connect_flood, "release_connections": release_connections,
    "find_control_sockets": find_control_sockets,
}
