"""The puppet (runs the Python of its payload), with servers of its own beside it: on 8001 and 9005, and on 8002, which no
test's runtime offers. What they do with a request is in its path."""

import base64
import hashlib
import json
import threading
import urllib.parse
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()
kept = {}
turns = threading.Semaphore(0)


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name):
        # Whatever the method is.
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        act = getattr(self, "on_" + url.path.strip("/").split("/")[0], self.on_echo)
        act(query)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def pieces(self):
        """The request's body as it comes."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("content-length") or 0)
            while left:
                piece = self.rfile.read1(min(left, 65536))
                if not piece:
                    raise ConnectionError("cut")
                left -= len(piece)
                yield piece

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def chunked(self, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def on_echo(self, query):
        """What came, with the status and the headers that the query wants."""
        crc, length = 0, 0
        for piece in self.pieces():
            crc = zlib.crc32(piece, crc)
            length += len(piece)
        said = {
            "port": self.server.server_port,
            "method": self.command,
            "target": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "length": length,
            "crc32": crc,
        }
        headers = [pair.split(":", 1) for pair in query.get("say", "").split(",") if pair]
        self.answer(int(query.get("status", 200)), json.dumps(said).encode(), [("content-type", "application/json"), *headers])

    def on_bytes(self, query):
        """So many bytes, without saying how many."""
        self.chunked("application/octet-stream")
        left = int(query["n"])
        while left:
            piece = b"b" * min(left, 65536)
            left -= len(piece)
            self.chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def on_mirror(self, query):
        """Each piece of the body as it comes."""
        self.chunked("application/octet-stream")
        for piece in self.pieces():
            self.chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def on_events(self, query):
        """An event for each POST to /turn."""
        self.chunked("text/event-stream")
        for n in range(int(query["n"])):
            turns.acquire()
            self.chunk(b"data: %d\n\n" % n)
        self.wfile.write(b"0\r\n\r\n")

    def on_turn(self, query):
        turns.release()
        self.answer(204, b"")

    def on_cut(self, query):
        """Less than it says."""
        if query.get("how") == "chunks":
            self.chunked("text/plain")
            self.chunk(b"some")
        else:
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"some")
        self.close_connection = True

    def on_socket(self, query):
        """Gives back each frame, unmasked; refuses without the word."""
        if query.get("word", "yes") != "yes":
            return self.answer(403, b"not with this word", [("x-why", "word")])
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        first = [self.path, [[name.lower(), value] for name, value in self.headers.items()]]
        self.frame(0x81, json.dumps(first).encode())
        while head := self.rfile.read(2):
            size = head[1] & 127
            if size == 126:
                size = int.from_bytes(self.rfile.read(2), "big")
            mask = self.rfile.read(4)
            payload = bytes(b ^ mask[n % 4] for n, b in enumerate(self.rfile.read(size)))
            self.frame(head[0], payload)
            if head[0] & 15 == 8:
                break
        self.close_connection = True

    def frame(self, first, payload):
        size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
        self.wfile.write(bytes([first]) + size + payload)

    def log_message(self, *words):
        pass


for host, port in [("0.0.0.0", 8001), ("127.0.0.1", 8002), ("127.0.0.1", 9005)]:
    server = ThreadingHTTPServer((host, port), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()


@app.entrypoint
def invoke(payload):
    scope = {"payload": payload, "kept": kept, "app": app}
    exec(payload.get("code", ""), scope)
    return scope.get("answer")


app.run()
