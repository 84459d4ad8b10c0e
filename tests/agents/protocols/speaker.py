"""Speaks enough HTTP for a runtime of any protocol, and fails as its request tells it to (`params` of JSON-RPC, `forwardedProps` of
AG-UI): `status`, `die`, `hold` (until the invocation is cancelled), `stream` (an event, `then` one of the others)."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Speaker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, b'{"status": "Healthy"}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/warm":
            return self.answer(500, b"cold")
        try:
            request = json.loads(body)
            told = request.get("params") or request.get("forwardedProps") or {}
        except (ValueError, AttributeError):
            told = {}
        if "stream" in told:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(f"data: {json.dumps(told['stream'])}\n\n".encode())
            told = {told["then"]: 1}
        if "die" in told:
            print("the reason", flush=True)
            os._exit(3)
        if "hold" in told:
            self.connection.recv(1)  # ends with the invocation
            self.close_connection = True
            return
        self.answer(told.get("status", 200), json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Speaker).serve_forever()
