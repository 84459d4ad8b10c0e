"""Interactive shells by the AWS SDK's own ShellSession, and by the `websockets` client: shell_calls.py HOST:PORT ARN.

Fails by an assertion. The daemon has limits.shells_per_runtime = 3, the other bounds are the contract's.
"""

import asyncio
import json
import sys
import time
import urllib.parse
import urllib.request
import uuid

from bedrock_agentcore.runtime.shell import ReconnectConfig, ShellChannel, ShellFramer, ShellSession
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

host, arn = sys.argv[1:]
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
SHELL = "X-Amzn-Bedrock-AgentCore-Shell-Id"
base = f"ws://{host}/runtimes/{urllib.parse.quote(arn, safe='')}/ws/shells"
framer = ShellFramer()


class Region:
    """What ShellSession wants of its client, without AWS's host name."""

    region = "us-local-1"

    def connect_shell(self, runtime_arn, session_id=None, endpoint_name=None, shell_id=None):
        return f"{base}?qualifier=DEFAULT&shellId={shell_id}", {SESSION: session_id}


def opened(**more):
    return ShellSession(Region(), arn, **more)


def raw(session, shell=None, query=""):
    url = base + (f"?shellId={shell}" if shell else "?") + query
    return connect(url, additional_headers={SESSION: session}, close_timeout=5, max_size=None)


async def until(frames, wanted):
    """The terminal's output up to `wanted`."""
    said = ""
    async for frame in frames:
        if frame.channel == ShellChannel.STDOUT:
            said += frame.text
            if wanted in said:
                return said
    raise AssertionError(f"{wanted!r} did not come: {said!r}")


async def raw_frame(socket):
    return framer.decode(await asyncio.wait_for(socket.recv(), 20))


async def raw_until(socket, wanted):
    said = ""
    while wanted not in said:
        frame = await raw_frame(socket)
        if frame.channel == ShellChannel.STDOUT:
            said += frame.text
    return said


async def confirmed(socket, reconnected):
    frame = await raw_frame(socket)
    assert frame.channel == ShellChannel.STATUS, frame
    status = frame.json()
    assert status["status"] == "Success" and status["metadata"]["reconnected"] is reconnected, status
    return status["metadata"]["shellId"]


async def closed(socket):
    try:
        while True:
            await asyncio.wait_for(socket.recv(), 20)
    except ConnectionClosed as error:
        assert error.rcvd is not None, "closed without a close frame"
        return error.rcvd.code


async def by_the_sdk():
    session = str(uuid.uuid4())
    async with opened(session_id=session) as shell:
        await shell.send("echo $((6*7)) $0 $COLOUR; tty; pwd; stty size\n")
        said = await until(shell, "24 80")
        assert "42 bash blue" in said and "/dev/pts/" in said and "/app" in said, said
        await shell.resize(220, 50)
        await shell.send("stty size; exit 7\n")
        said, status = "", None
        async for frame in shell:
            if frame.channel == ShellChannel.STDOUT:
                said += frame.text
            elif frame.channel == ShellChannel.STATUS:
                status = frame.json()
        assert "50 220" in said, said
        assert shell.exit_code == 7 and status["reason"] == "NonZeroExitCode", status
    async with opened(session_id=session) as shell:
        await shell.send("exit\n")
        async for _ in shell:
            pass
        assert shell.exit_code == 0
    async with opened(session_id=session) as shell:
        await shell.send("kill -9 $$\n")
        async for _ in shell:
            pass
        assert shell.exit_code == 137


async def reconnected_by_the_sdk():
    session, name = str(uuid.uuid4()), "kept-shell_1"
    again = []
    config = ReconnectConfig(base_delay=0.05, on_reconnect=lambda: again.append(1))
    async with opened(session_id=session, shell_id=name, reconnect_config=config) as shell:
        await shell.send("kept=here; cd /tmp; echo re''ady\n")
        await until(shell, "ready")
        # Cut off without a word, once the shell has what was typed; what it says meanwhile is not lost.
        await shell.send("sleep 0.3; echo mean''while\n")
        await until(shell, "''while")
        shell._ws.transport.abort()
        said = await until(shell, "meanwhile")
        assert again == [1], again
        await shell.send("echo $kept in $PWD; exit\n")
        assert "here in /tmp" in await until(shell, "here in /tmp")


async def replay_and_replacement():
    session, name = str(uuid.uuid4()), "a"
    async with raw(session, name) as one:
        assert one.response.headers[SESSION] == session
        assert one.response.headers[SHELL] == name
        assert await confirmed(one, False) == name
        await one.send(framer.encode_stdin("for n in $(seq 1 60000); do echo line $n; done; echo la''st\n"))
        await raw_until(one, "last\r\n")
        async with raw(session, name) as two:
            assert await closed(one) == 4000
            assert await confirmed(two, True) == name
            said = await raw_until(two, "last\r\n")
            # The last 256 KiB, and not more.
            assert "line 60000\r\n" in said and "line 1\r\n" not in said
            assert 250 * 1024 < len(said) <= 256 * 1024, len(said)
            # A close of the WebSocket leaves the shell; one by the channel ends it.
        async with raw(session, name) as three:
            await confirmed(three, True)
            await three.send(bytes([ShellChannel.CLOSE]))
            code = await closed(three)
            assert code == 1000, code
        async with raw(session, name) as four:
            assert await confirmed(four, False) == name
            await four.send(framer.encode_stdin("exit\n"))
            assert await closed(four) == 1000


async def the_protocol():
    session = str(uuid.uuid4())
    async with raw(session) as socket:
        name = await confirmed(socket, False)
        assert socket.response.headers[SHELL] == name
        await socket.send(framer.encode_heartbeat())
        while (frame := await raw_frame(socket)).channel != ShellChannel.HEARTBEAT:
            assert frame.channel == ShellChannel.STDOUT, frame
        assert frame.payload == b""
        await (await socket.ping())
        # Channels of newer clients are nothing, a bad size is told.
        await socket.send(b"\x42what")
        await socket.send(b"\x04{}")
        while (frame := await raw_frame(socket)).channel != ShellChannel.STDERR:
            assert frame.channel == ShellChannel.STDOUT, frame
        assert "width" in frame.text, frame.text
        for _ in range(4):
            await socket.send("text")
        await socket.send(framer.encode_stdin("echo still h''ere\n"))
        await raw_until(socket, "still here")
        await socket.send("text")
        assert await closed(socket) == 1003
    # Too big, and a paste that just fits.
    async with raw(session, name) as socket:
        await confirmed(socket, True)
        await socket.send(framer.encode_stdin("stty -echo -icanon; head -c 65000 | wc -c\n"))
        await socket.send(framer.encode_stdin(b"x" * 65_535))
        await raw_until(socket, "65000")
        await socket.send(bytes(65_537))
        assert await closed(socket) == 1009
    async with raw(session, name) as socket:
        await confirmed(socket, True)
        await socket.send(bytes([ShellChannel.CLOSE]))
        assert await closed(socket) == 1000


async def refusals():
    async def refused(status, kind, session, shell, path=None):
        try:
            async with connect(path, additional_headers={SESSION: session}) if path else raw(session, shell):
                raise AssertionError(f"{shell} opens")
        except InvalidStatus as error:
            response = error.response
            assert response.status_code == status, response
            assert response.headers["x-amzn-ErrorType"] == kind, response.headers
            return json.loads(response.body)

    session = str(uuid.uuid4())
    said = await refused(400, "ValidationException", session, "-bad")
    assert said["fieldList"][0]["name"] == "shellId", said
    await refused(404, "ResourceNotFoundException", session, "a", f"ws://{host}/runtimes/none/ws/shells")
    # Three of the runtime, in whichever session.
    other = str(uuid.uuid4())
    async with raw(session, "a") as a, raw(session, "b") as b, raw(other, "a") as c:
        for socket in (a, b, c):
            await confirmed(socket, False)
        said = await refused(402, "ServiceQuotaExceededException", session, "c")
        assert "limits.shells_per_runtime" in said["message"], said
        for socket in (a, b, c):
            await socket.send(bytes([ShellChannel.CLOSE]))
            assert await closed(socket) == 1000


async def the_session_ends():
    session = str(uuid.uuid4())
    async with raw(session, "a") as socket:
        await confirmed(socket, False)
        await socket.send(framer.encode_stdin("echo up''set\n"))
        await raw_until(socket, "upset")
        url = f"http://{host}/runtimes/{urllib.parse.quote(arn, safe='')}/stopruntimesession"
        request = urllib.request.Request(url, b"", {SESSION: session}, method="POST")
        await asyncio.to_thread(lambda: urllib.request.urlopen(request).read())
        channels = []
        try:
            while True:
                frame = await raw_frame(socket)
                channels.append(frame.channel)
                if frame.channel == ShellChannel.STDERR:
                    assert "session ended" in frame.text, frame.text
        except ConnectionClosed as error:
            assert error.rcvd is not None and error.rcvd.code == 1001, error
        assert channels[-2:] == [ShellChannel.STDERR, ShellChannel.CLOSE], channels


async def main():
    for check in (
        by_the_sdk,
        reconnected_by_the_sdk,
        replay_and_replacement,
        the_protocol,
        refusals,
        the_session_ends,
    ):
        began = time.monotonic()
        await asyncio.wait_for(check(), 60)
        print(check.__name__, f"{time.monotonic() - began:.1f} s", flush=True)


asyncio.run(main())
