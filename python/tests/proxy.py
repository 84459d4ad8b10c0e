"""An HTTP proxy as a session's is: CONNECT, and requests in absolute form; each is one line on standard output.

python proxy.py PORT
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
    print(method, target, flush=True)
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        upstream_reader, upstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        parts = urlsplit(target)
        upstream_reader, upstream = await asyncio.open_connection(parts.hostname, parts.port or 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # One request per connection is enough for a test, and lets the rest be copied blindly.
        upstream.write(head.replace(target.encode("latin-1"), path.encode("latin-1"), 1))
    await asyncio.gather(copy(reader, upstream), copy(upstream_reader, writer), return_exceptions=True)


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    async with server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
