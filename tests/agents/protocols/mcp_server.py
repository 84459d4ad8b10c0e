"""A FastMCP server, stateless or stateful (environment STATELESS)."""

import os

from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("counter", host="0.0.0.0", port=int(os.environ["PORT"]), stateless_http=os.environ["STATELESS"] == "1")
count = 0


@server.tool()
def add(number: int) -> int:
    """Adds to a counter that lives as long as the server's process."""
    global count
    count += number
    return count


@server.tool()
def told(ctx: Context) -> dict[str, str]:
    """The headers that the server was told."""
    return {name.lower(): value for name, value in ctx.request_context.request.headers.items()}


@server.tool()
def die() -> str:
    """Ends the server in the middle of a call."""
    os._exit(3)


server.run(transport="streamable-http")
