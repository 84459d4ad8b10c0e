"""Errors of the daemon's as the MCP client reads them: mcp_error_calls.py ENDPOINT MCP SITUATIONS, a JSON list of objects with runtime,
session, query, and the code to expect. Fails by an assertion."""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError

endpoint, _, situations = sys.argv[1:]


async def main():
    for situation in json.loads(situations):
        url = f"{endpoint}/runtimes/{situation['runtime']}/invocations{situation['query']}"
        headers = {"Mcp-Session-Id": situation["session"]}
        async with streamablehttp_client(url, headers) as (read, write, _), ClientSession(read, write) as session:
            try:
                await session.initialize()
                raise AssertionError(f"no error: {situation}")
            except McpError as error:
                assert error.error.code == situation["code"], (situation, error.error)
                assert error.error.message and error.error.data["requestId"], error.error


asyncio.run(asyncio.wait_for(main(), 120))
