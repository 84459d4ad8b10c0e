"""The MCP client against a server in a session: mcp_calls.py ENDPOINT ARN stateless|stateful. Fails by an assertion. Prints the
session's id."""

import asyncio
import sys
from urllib.parse import quote

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError

endpoint, arn, kind = sys.argv[1:]
url = f"{endpoint}/runtimes/{quote(arn, safe='')}/invocations?qualifier=DEFAULT"


async def number(session, tool, **arguments):
    result = await session.call_tool(tool, arguments)
    assert not result.isError, result
    return result.structuredContent["result"] if tool == "add" else result.structuredContent


async def main():
    async with streamablehttp_client(url) as (read, write, session_id), ClientSession(read, write) as session:
        begun = await session.initialize()
        assert begun.serverInfo.name == "counter", begun
        ours = session_id()
        assert ours and len(ours) == 36, ours
        tools = await session.list_tools()
        assert {tool.name for tool in tools.tools} == {"add", "told", "die"}, tools
        # One process counts: every call went to the same session.
        assert [await number(session, "add", number=n) for n in (1, 2, 3)] == [1, 3, 6]
        told = await number(session, "told")
        assert told["x-amzn-bedrock-agentcore-runtime-session-id"] == ours, told
        if kind == "stateless":
            assert told["mcp-session-id"] == ours, told
        else:
            # Its own, which the client never sees.
            assert told["mcp-session-id"] != ours, told
        assert told["mcp-protocol-version"] == begun.protocolVersion, told
        assert session_id() == ours

        # Another client is another session, which knows nothing of this one.
        async with streamablehttp_client(url) as (r, w, other_id), ClientSession(r, w) as other:
            await other.initialize()
            assert other_id() != ours
            assert await number(other, "add", number=10) == 10
            # And one that ends in the middle of a call is an error of that call, at once, with the reason.
            try:
                await other.call_tool("die", {})
                raise AssertionError("no error")
            except McpError as error:
                assert error.error.code == -32010, error.error
                assert "ended before it was complete" in error.error.message, error.error
        assert await number(session, "add", number=1) == 7
        print(ours)


asyncio.run(asyncio.wait_for(main(), 120))
