"""A stand-in for Amazon Bedrock's ConverseStream, for agents under test: standard library only, real framing.

    python converse_stream.py [--host 127.0.0.1] [--port 0] [--log FILE] [--delay SECONDS] [--cert FILE --key FILE]

Prints its port as the first line. An unmodified boto3 uses it through `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`; credentials
may be anything. What it says is made from what it is asked, so that question and answer can be told to belong together:

| the conversation's last message | the answer |
|---|---|
| text that names an offered tool with its input: `NAME {"json": 1}` | a turn that uses this tool with this input |
| any other text | `You said: ` and the text, a word per delta |
| tool results | `The tool said: ` and their text, a word per delta |

With `--log`, each request is one JSON line: method, target, host, model, body (parsed), credential scope, status.
Wire: botocore's `bedrock-runtime` 2023-09-30 model, and the event stream framing of agentcore-contract.md §2.3.
"""

from __future__ import annotations

import argparse
import binascii
import json
import re
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Event = tuple[str, dict[str, Any]]
_TARGET = re.compile(r"/model/([^/]+)/converse-stream")
_MAX_BODY = 25_000_000


def frame(kind: str, payload: dict[str, Any]) -> bytes:
    """One message of an AWS event stream."""
    headers = b"".join(
        _header(name, value)
        for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event"))
    )
    body = json.dumps(payload).encode("utf-8")
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + body
    return message + struct.pack("!I", binascii.crc32(message))


def _header(name: str, value: str) -> bytes:
    # Type 7: a string with a two-byte length.
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()


class InvalidRequest(Exception):
    """The request breaks ConverseStream's rules: ValidationException."""


def answer(request: dict[str, Any]) -> Iterator[Event]:
    """The events that answer a conversation."""
    content = _last_user_content(request)
    words = len(json.dumps(request["messages"]).split())
    yield "messageStart", {"role": "assistant"}
    results = [block["toolResult"] for block in content if "toolResult" in block]
    text = " ".join(block["text"] for block in content if "text" in block)
    use = None if results else _tool_use(text, _tool_names(request))
    if use is not None:
        said, stop = 1, "tool_use"
        name, arguments = use
        yield (
            "contentBlockStart",
            {"start": {"toolUse": {"toolUseId": "tooluse_1", "name": name}}, "contentBlockIndex": 0},
        )
        # In two pieces, as models send it: a client must put them together.
        for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
            yield "contentBlockDelta", {"delta": {"toolUse": {"input": piece}}, "contentBlockIndex": 0}
    else:
        reply = f"The tool said: {_text_of(results)}" if results else f"You said: {text}"
        deltas = re.findall(r"\s*\S+\s*$|\s*\S+", reply)
        said, stop = len(deltas), "end_turn"
        for delta in deltas:
            yield "contentBlockDelta", {"delta": {"text": delta}, "contentBlockIndex": 0}
    yield "contentBlockStop", {"contentBlockIndex": 0}
    yield "messageStop", {"stopReason": stop}
    usage = {"inputTokens": words, "outputTokens": said, "totalTokens": words + said}
    yield "metadata", {"usage": usage, "metrics": {"latencyMs": 1}}


def _last_user_content(request: dict[str, Any]) -> list[dict[str, Any]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or messages[-1].get("role") != "user":
        raise InvalidRequest("messages: the last one must be the user's")
    content: list[dict[str, Any]] = messages[-1].get("content") or []
    used = {
        block["toolUse"]["toolUseId"]
        for message in messages[-2:-1]
        for block in message.get("content", [])
        if "toolUse" in block
    }
    given = {block["toolResult"]["toolUseId"] for block in content if "toolResult" in block}
    # Bedrock refuses a conversation in which a tool's use and its result do not belong together.
    if used != given:
        raise InvalidRequest(f"toolUse and toolResult do not match: {sorted(used)} and {sorted(given)}")
    return content


def _tool_names(request: dict[str, Any]) -> list[str]:
    tools = request.get("toolConfig", {}).get("tools", [])
    return [tool["toolSpec"]["name"] for tool in tools if "toolSpec" in tool]


def _tool_use(text: str, names: list[str]) -> tuple[str, str] | None:
    """The tool that a text names, and its input as the text spells it."""
    for name in names:
        at = text.find(name + " {")
        if at >= 0:
            start = at + len(name) + 1
            try:
                _, end = json.JSONDecoder().raw_decode(text, start)
            except ValueError:
                continue
            return name, text[start:end]
    return None


def _text_of(results: list[dict[str, Any]]) -> str:
    blocks = [block for result in results for block in result.get("content", [])]
    return " ".join(block.get("text") or json.dumps(block.get("json")) for block in blocks)


class Handler(BaseHTTPRequestHandler):
    """One request of the Bedrock runtime's API."""

    protocol_version = "HTTP/1.1"
    server: Standin

    def setup(self) -> None:
        """Send each event when it is made: Nagle's algorithm would hold it back."""
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY

    def do_POST(self) -> None:
        """Answer ConverseStream, and nothing else."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _MAX_BODY))
        found = _TARGET.fullmatch(urlsplit(self.path).path)
        status, request = 200, None
        try:
            if found is None:
                status = 404
                self._refuse(status, "UnknownOperationException", f"POST {self.path} is not ConverseStream")
                return
            try:
                request = json.loads(body)
                events = list(answer(request))
            except (ValueError, KeyError, TypeError, AttributeError, InvalidRequest) as error:
                status = 400
                self._refuse(status, "ValidationException", f"{type(error).__name__}: {error}")
                return
            self._stream(events)
        finally:
            self.server.note(
                {
                    "method": self.command,
                    "target": self.path,
                    "host": self.headers.get("Host"),
                    "model": unquote(found[1]) if found else None,
                    "status": status,
                    "body": request,
                    "credential": _credential(self.headers.get("Authorization") or ""),
                }
            )

    def _stream(self, events: list[Event]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("x-amzn-RequestId", "00000000-0000-4000-8000-000000000000")
        self.end_headers()
        for kind, payload in events:
            message = frame(kind, payload)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(message), message))
            time.sleep(self.server.delay)
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, name: str, message: str) -> None:
        body = json.dumps({"message": message}).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("x-amzn-ErrorType", name)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests go to `--log`; standard error stays for faults."""


class Standin(ThreadingHTTPServer):
    """The server, with its log."""

    daemon_threads = True

    def __init__(self, host: str, port: int, log: str | None, delay: float) -> None:
        super().__init__((host, port), Handler)
        self.delay = delay
        self._log = log
        self._lock = threading.Lock()

    def note(self, entry: dict[str, Any]) -> None:
        """One line of the log, on disk before the next request's."""
        if self._log is not None:
            with self._lock, open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def _credential(authorization: str) -> str | None:
    """`AKID/date/region/service/aws4_request` of a SigV4 header; the signature itself is not checked."""
    found = re.search(r"Credential=([^,\s]+)", authorization)
    return found[1] if found else None


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A stand-in for Amazon Bedrock's ConverseStream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", help="append each request to this file as a JSON line")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds between events")
    parser.add_argument("--cert", help="serve TLS with this certificate")
    parser.add_argument("--key", help="the certificate's private key")
    options = parser.parse_args()
    standin = Standin(options.host, options.port, options.log, options.delay)
    if options.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        standin.socket = context.wrap_socket(standin.socket, server_side=True)
    print(standin.server_address[1], flush=True)
    try:
        standin.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
