#!/usr/bin/python3
"""Makes the seed corpus anew: small, sound inputs of every kind that a target knows. Run it after a format has changed."""

import contextlib
import gzip
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "supervisor/src/artifacts/tests"))
import reference  # noqa: E402

SEEDS = HERE / "seeds"


def write(target, name, content):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def packet(name, **fields):
    write("packet", name, json.dumps({"jsonrpc": "2.0", **fields}, separators=(",", ":")))


def packets():
    token = "ab" * 32
    packet("attach", id=1, method="attach", params={"token": token, "epoch": 3, "generation": 1})
    attached = {"generation": 1, "session": "s0123456789", "health": {"status": "healthy", "time_of_last_update": 5}, "exited": None, "uptime_ms": 12}
    packet("attached", id=1, result=attached)
    invoke = {"id": 7, "method": "POST", "target": "/invocations?a=b", "headers": [["content-type", "application/json"]], "content_length": 2}
    packet("invoke", id=2, method="invoke", params=invoke)
    packet("head", id=2, result={"status": 200, "headers": [["content-type", "text/event-stream"]], "content_length": None})
    packet("body_end", method="body.end", params={"id": 7, "bytes": 100000000})
    packet("cancel", method="cancel", params={"id": 7})
    run = {"id": 1, "argv": ["sh", "-c", "id"], "env": {"A": "B"}, "cwd": "/tmp", "tty": {"rows": 24, "cols": 80}}
    packet("exec", id=3, method="exec", params=run)
    packet("execed", id=3, result={"pid": 12})
    packet("resize", method="resize", params={"id": 1, "size": {"rows": 1, "cols": 2}})
    packet("signal", id=4, method="signal", params={"id": None, "signal": 15})
    packet("shutdown", method="shutdown", params={"grace_ms": 15000})
    unhealthy = {"status": {"unhealthy": {"failures": 3, "detail": "timed out"}}, "time_of_last_update": None}
    packet("health", method="health", params=unhealthy)
    line = {"stream": "stderr", "at_ms": 5, "text": "hello \u00e4 \\u0000"}
    packet("log", method="log", params={"lines": [line, dict(line, stream="stdout")], "dropped": 9})
    packet("agent_exited", method="agent.exited", params={"status": {"Ok": {"code": 1}}})
    packet("exec_exited", method="exec.exited", params={"id": 1, "status": {"signal": 9}})
    packet("egress", method="egress", params={"connection": 1})
    packet("fault", method="fault", params={"detail": "x"})
    packet("error", id=2, error={"code": -32021, "message": "the agent's answer is not HTTP"})
    packet("record", id=9, result={"cause": "agent_exited", "agent": {"status": {"Err": "not found"}}})


def bundles():
    """The smallest of what the reference writer makes in each dialect."""
    with tempfile.TemporaryDirectory() as directory:
        made = sorted(reference.make(directory), key=lambda path: pathlib.Path(path).stat().st_size)
        zips = [p for p in made if p.endswith(".zip")][:12]
        tars = [p for p in made if p.endswith(".gz")][:12]
        for number, path in enumerate(zips + tars[:4]):
            write("bundle", f"{number}", pathlib.Path(path).read_bytes())
        for number, path in enumerate(tars):
            # Without the end mark, which the target adds.
            write("tar", f"{number}", gzip.decompress(pathlib.Path(path).read_bytes()).rstrip(b"\0"))


def configurations():
    full = """name = "my_agent"
entrypoint = ["my_agent.py", "--flag"]
description = "x"
protocol = "MCP"
language = "python"
requirements = "requirements.txt"
[environment]
KEY = "value"
[lifecycle]
idle_timeout = 900
max_lifetime = 28800
start_timeout = 120
stop_grace = 15
invocation_timeout = 900
[resources]
memory = "512M"
cpus = 0.5
pids = 64
tmp_size = "64M"
[network]
mode = "outbound"
allow = ["api.example.com", "*.example.org:8443", "[2001:db8::1]:*"]
"""
    write("runtime_config", "full.toml", full)
    write("runtime_config", "small.toml", 'name = "a"\nentrypoint = "a.js"\n')
    write("runtime_config", "full.json", json.dumps(tomllib.loads(full)))
    example = (HERE.parent / "docs/agentcored.toml").read_text()
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") and "=" in line else line
        for line in example.splitlines()
        if not line.startswith("# ") and line not in ("", "#")
    )
    write("daemon_config", "all.toml", uncommented + "\n")
    write("daemon_config", "faults.toml", "dev = 'maybe'\nsokcet = 1\nlisten = ['0.0.0.0:80']\n[limits]\nmax_sessions = 0\n")


def heads():
    write("answer", "length", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    write("answer", "chunked", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX: y\r\n\r\n2;a=b\r\nhi\r\n0\r\nT: x\r\n\r\n")
    write("answer", "close", b"HTTP/1.0 404 Not Found\r\n\r\nuntil the end")
    write("answer", "upgrade", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x00")
    write("answer", "interim", b"HTTP/1.1 103 Early Hints\nlink: <a>\n\nHTTP/1.1 204 No Content\n\n")
    write("proxy_head", "connect", b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\nhello")
    write("proxy_head", "absolute", b"POST http://u:p@models.test:8080/a?b=c HTTP/1.1\r\nHost: x\r\nProxy-Connection: keep-alive\r\n\r\n{}")
    for number, text in enumerate(["[2001:db8::1]:443", "::ffff:127.0.0.1", "*.example.com:*", "2130706433", "a" * 64, "my_agent"]):
        write("proxy_head", f"name{number}", text)


def frames():
    mask = b"\x01\x02\x03\x04"
    write("websocket", "client", b"\x00\x03\x81\x82" + mask + b"hi\x89\x80" + mask + b"\x88\x82" + mask + b"\x02\xea")
    write("websocket", "server", b"\x01\x02\x01\x02hi\x00\x00\x80\x7e\x00\x7e" + bytes(126) + b"\x88\x00")
    write("websocket", "long", b"\x01\x05\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00")


def main():
    for target in ("packet", "bundle", "tar", "runtime_config", "daemon_config", "answer", "proxy_head", "order", "database", "websocket"):
        shutil.rmtree(SEEDS / target, ignore_errors=True)
    packets()
    bundles()
    configurations()
    heads()
    frames()
    subprocess.run(["cargo", "run", "--quiet", "--release", "--bin", "seeds", str(SEEDS)], cwd=HERE, check=True)
    # Small pages: the fuzzer takes 64 KiB at most, and every table has one.
    with contextlib.closing(sqlite3.connect(SEEDS / "database" / "filled")) as database:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA page_size = 512", "VACUUM"):
            database.execute(statement)
    for path in sorted(SEEDS.glob("*/*")):
        if path.stat().st_size > 65536:
            raise SystemExit(f"{path} is too large to be used")


if __name__ == "__main__":
    main()
