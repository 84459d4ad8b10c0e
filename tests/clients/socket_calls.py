"""WebSockets and shells as AWS's SDK opens them, and as whoever may not: socket_calls.py SCENARIO FACTS.

The SDK wants an AWS host name and TLS: `opened` does what a name server and a proxy would do for it, and nothing else of what it
made is changed. Fails by an assertion. The last line is JSON: every refusal with its request id, and the reason that the
daemon's audit must have for it."""

import asyncio
import base64
import datetime
import json
import os
import sys
import urllib.parse
import urllib.request
import uuid

scenario, facts = sys.argv[1], json.loads(sys.argv[2])
address, port = facts["address"].rsplit(":", 1)
AWS = f"https://agentcore.amazonaws.com:{port}"
os.environ["BEDROCK_AGENTCORE_DP_ENDPOINT"] = AWS

import boto3
import botocore.auth
import websockets
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from bedrock_agentcore.runtime.agent_core_runtime_client import datetime as sdk_datetime
from bedrock_agentcore.runtime.shell import OAuthAuth, PresignedAuth, ShellChannel
from websockets.exceptions import InvalidStatus

REGION = "us-local-1"
HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-"
SESSION = HEADER + "Session-Id"
SCHEME = "base64UrlBearerAuthorization"
REFUSED = "InvalidSignatureException"
arn, closed = facts["arns"]["talk"], facts["arns"]["closed"]
refusals = []
connect = websockets.connect


def opened(url, **more):
    return connect(url.replace("wss://", "ws://"), host=address, port=int(port), proxy=None, close_timeout=5, **more)


# What ShellSession calls.
websockets.connect = opened


def sdk(key="operator"):
    pair = facts["keys"].get(key, {"accessKeyId": "AKACNOBODY", "secretAccessKey": "x"})
    session = boto3.Session(pair["accessKeyId"], pair["secretAccessKey"], region_name=REGION)
    return AgentCoreRuntimeClient(REGION, session)


class clock:
    """The SDK's idea of now, so many seconds off: of its own signing, and of botocore's."""

    def __init__(self, seconds):
        self.off = datetime.timedelta(seconds=seconds)

    def __enter__(self):
        off, real = self.off, botocore.auth.get_current_datetime
        self.real = real

        class Datetime(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime.now(tz) + off

        class module:
            datetime, timezone = Datetime, datetime.timezone

        import bedrock_agentcore.runtime.agent_core_runtime_client as client

        self.client, client.datetime = client, module
        botocore.auth.get_current_datetime = lambda *words, **more: real(*words, **more) + off

    def __exit__(self, *_):
        self.client.datetime = sdk_datetime
        botocore.auth.get_current_datetime = self.real


async def talk(url, session=None, **more):
    """A word there and back; what the agent saw of the handshake, and the answer to it."""
    async with opened(url, **more) as socket:
        answered = socket.response.headers
        assert session in (None, answered[SESSION]), answered
        await socket.send("hello")
        assert await asyncio.wait_for(socket.recv(), 60) == "hello"
        await socket.send("headers")
        return json.loads(await asyncio.wait_for(socket.recv(), 20)), socket


async def shell(client, **more):
    async with client.open_shell(arn, **more) as shell:
        await shell.send("echo $((6*7)); exit 3\n")
        said = ""
        async for frame in shell:
            if frame.channel == ShellChannel.STDOUT:
                said += frame.text
        assert "42" in said and shell.exit_code == 3, (said, shell.exit_code)


async def raw_shell(url, **more):
    """Opens and ends one."""
    async with opened(url, **more) as socket:
        confirmed = await asyncio.wait_for(socket.recv(), 60)
        assert confirmed[0] == ShellChannel.STATUS, confirmed
        await socket.send(bytes([ShellChannel.CLOSE]))
        return socket


async def refused(url, reason, status=403, code=REFUSED, challenge=None, caller=None, **more):
    """Turned away before the upgrade, without the reason; `challenge` is what WWW-Authenticate must end with."""
    try:
        async with opened(url, **more):
            raise SystemExit(f"opens in spite of: {reason}")
    except InvalidStatus as error:
        answer = error.response
    headers, body = answer.headers, json.loads(answer.body)
    assert (answer.status_code, headers["x-amzn-ErrorType"]) == (status, code), (reason, answer, body)
    assert headers["Content-Type"] == "application/json" and "Date" in headers, headers
    assert "Upgrade" not in headers and SCHEME not in str(headers), headers
    assert reason.lower() not in str(body).lower(), (reason, body)
    said = headers.get("WWW-Authenticate")
    if challenge is None:
        assert said is None, said
    else:
        place = urllib.parse.quote(closed, safe="")
        metadata = f'Bearer resource_metadata="http://agentcore.amazonaws.com:{port}/runtimes/{place}/invocations/.well-known/'
        assert said.startswith(metadata) and said.endswith(f'?qualifier=DEFAULT"{challenge}'), said
    path = urllib.parse.urlsplit(url).path
    record = {"requestId": headers["x-amzn-RequestId"], "status": status, "code": code, "reason": reason, "path": path}
    record["caller"] = caller
    refusals.append(record)
    return body["message"]


def changed(url, *pairs):
    for old, new in pairs:
        assert old in url, (old, url)
        url = url.replace(old, new)
    return url


async def signed():
    client, session = sdk(), str(uuid.uuid4())
    url, headers = client.generate_ws_connection(arn, session)
    seen, _ = await talk(url, session, additional_headers=headers)
    assert seen["session"] == session and "authorization" not in seen["headers"], seen
    url, headers = client.generate_ws_connection(arn, session, endpoint_name="DEFAULT")
    await talk(url, session, additional_headers=headers)
    url = client.generate_presigned_url(arn, session, custom_headers={HEADER + "Custom-Word": "b c"}, expires=60)
    seen, _ = await talk(url, session)
    assert seen["headers"][(HEADER + "Custom-Word").lower()] == "b c", seen
    with clock(-299):
        url = client.generate_presigned_url(arn, session)
    await talk(url, session)
    await shell(client, session_id=session)
    await shell(client, session_id=session, auth=PresignedAuth(expires=60))

    # The same of a runtime that nobody gets to.
    def made(way, seconds=0, key="operator"):
        with clock(seconds):
            return getattr(sdk(key), way)(closed, session)

    messages = set()
    denied = {"code": "AccessDeniedException", "caller": "key:" + facts["keys"]["limited"]["accessKeyId"]}
    for way in ("generate_ws_connection", "connect_shell"):
        for reason, change in [
            ("does not match", lambda url, headers: (url, {**headers, "Host": "other.amazonaws.com"})),
            ("does not match", lambda url, headers: (changed(url, ("agentcore.", "other.")), headers)),
            ("does not match", lambda url, headers: (url + ("&" if "?" in url else "?") + "qualifier=DEFAULT", headers)),
            ("does not match", lambda url, headers: (url + ("&" if "?" in url else "?") + HEADER + "Custom-A=b", headers)),
            ("does not match", lambda url, headers: (changed(url, ("%3Aruntime%2F", "%3Aruntime%2Fx")), headers)),
            ("does not cover x-amz-meta-more", lambda url, headers: (url, {**headers, "X-Amz-Meta-More": "x"})),
            (
                "does not cover " + HEADER.lower() + "user-id",
                lambda url, headers: (url, {**headers, HEADER + "User-Id": "x"}),
            ),
            (
                "X-Amz-Date is missing, or given twice",
                lambda url, headers: (url, {name: value for name, value in headers.items() if name != "X-Amz-Date"}),
            ),
            (
                "not 64 hex digits",
                lambda url, headers: (url, {**headers, "Authorization": headers["Authorization"] + "0"}),
            ),
            ("credential's day", lambda url, headers: (url, {**headers, "X-Amz-Date": "20200101T000000Z"})),
        ]:
            url, headers = change(*made(way))
            messages.add(await refused(url, reason, additional_headers=headers))
        url, headers = made(way, key="unknown")
        messages.add(await refused(url, "there is no access key", additional_headers=headers))
        for seconds in (-901, 960):
            url, headers = made(way, seconds)
            await refused(url, "more than 15 minutes", additional_headers=headers)
        url, headers = made(way, key="limited")
        await refused(url, "does not cover bedrock-agentcore:Invoke", additional_headers=headers, **denied)
    # A shell's session is signed by the SDK.
    url, headers = made("connect_shell")
    messages.add(await refused(url, "does not match", additional_headers={**headers, SESSION: "b" * 36}))
    for way in ("generate_presigned_url", "connect_shell_presigned"):
        url = made(way)
        for reason, pairs in [
            ("does not match", [(session, str(uuid.uuid4()))]),
            ("does not match", [("X-Amz-Expires=300", "X-Amz-Expires=299")]),
            ("does not match", [("agentcore.amazonaws.com", "other.amazonaws.com")]),
            ("does not match", [("X-Amz-Algorithm", "qualifier=DEFAULT&X-Amz-Algorithm")]),
            ("does not match", [("X-Amz-Algorithm", HEADER + "Custom-A=b&X-Amz-Algorithm")]),
            ("does not match", [("/ws", "/invocations")] if "shell" not in way else [("shellId=", "shellId=a")]),
            ("the query lacks a part", [("&X-Amz-SignedHeaders=host", "")]),
            ("not a number of seconds", [("X-Amz-Expires=300", "X-Amz-Expires=soon")]),
            ("is given twice", [("X-Amz-Algorithm", "X-Amz-Expires=300&X-Amz-Algorithm")]),
            ("signed for bedrock-agentcore in us-west-2", [("us-local-1%2F", "us-west-2%2F")]),
        ]:
            messages.add(await refused(changed(url, *pairs), reason))
        # Who was given a URL does not choose.
        for name in ("Session-Id", "User-Id", "Custom-Other"):
            more = {HEADER + name: session}
            reason = "does not cover " + (HEADER + name).lower()
            messages.add(await refused(url, reason, additional_headers=more))
        await refused(made(way, -301), "presigned at")
        await refused(made(way, 960), "more than 15 minutes")
        messages.add(await refused(made(way, key="unknown"), "there is no access key"))
        await refused(made(way, key="limited"), "does not cover bedrock-agentcore:", **denied)
        both = dict(made("generate_ws_connection")[1])
        messages.add(await refused(url, "there are two signatures", additional_headers=both))
    # What is wrong is not told.
    assert len(messages) == 1, messages
    for path in ("ws", "ws/shells"):
        url = f"wss://agentcore.amazonaws.com:{port}/runtimes/{urllib.parse.quote(closed, safe='')}/{path}"
        await refused(url, "without credentials", code="AccessDeniedException")
        reason, more = "takes signed requests only", {"additional_headers": {"Authorization": "Bearer a.b.c"}}
        await refused(url, reason, code="AccessDeniedException", **more)


def mint(**asked):
    claims = {name: value for name, value in asked.items() if name not in ("key", "headers")}
    body = {"key": asked.get("key", "one"), "headers": asked.get("headers", {}), "claims": claims}
    with urllib.request.urlopen(facts["issuer"] + "/mint", json.dumps(body).encode()) as answer:
        return answer.read().decode()


def offer(token):
    return [SCHEME + "." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("="), SCHEME]


async def tokens():
    client, session, now = sdk("unknown"), str(uuid.uuid4()), int(datetime.datetime.now().timestamp())
    token = mint()
    url, headers = client.generate_ws_connection_oauth(arn, token, session)
    seen, _ = await talk(url, session, additional_headers=headers)
    assert seen["session"] == session and token not in str(seen), seen
    # As a browser does it: no headers of its own.
    base = f"wss://agentcore.amazonaws.com:{port}/runtimes/{urllib.parse.quote(arn, safe='')}/"
    seen, socket = await talk(f"{base}ws?{SESSION}={session}", session, subprotocols=offer(mint(key="curve")))
    assert socket.subprotocol == SCHEME, socket.subprotocol
    assert SCHEME not in str(seen) and "sec-websocket-protocol" not in seen["headers"], seen
    await shell(client, session_id=session, auth=OAuthAuth(mint()))
    socket = await raw_shell(base + f"ws/shells?{SESSION}={session}", additional_headers={"Authorization": f"Bearer {token}"})
    socket = await raw_shell(base + f"ws/shells?{SESSION}={session}", subprotocols=offer(token))
    assert socket.subprotocol == SCHEME, socket.subprotocol

    there = f"wss://agentcore.amazonaws.com:{port}/runtimes/{urllib.parse.quote(closed, safe='')}/"
    answer = {"status": 401, "code": "UnauthorizedException"}
    invalid = ', error="invalid_token"'
    messages = set()
    for path in ("ws", "ws/shells"):
        url = there + path
        for reason, bad in [
            ("ExpiredSignature", mint(exp=now - 120)),
            ("InvalidIssuer", mint(iss="http://elsewhere.test")),
            ("ImmatureSignature", mint(nbf=now + 3600)),
            ("the token is for", mint(aud="others")),
            ("has no key \"stranger\"", mint(key="stranger")),
            ("InvalidSignature", mint(key="stranger", headers={"kid": "one"})),
            ("not a token", "a.b.c"),
        ]:
            by_header = {"Authorization": f"Bearer {bad}"}
            messages.add(await refused(url, reason, challenge=invalid, additional_headers=by_header, **answer))
            messages.add(await refused(url, reason, challenge=invalid, subprotocols=offer(bad), **answer))
        messages.add(await refused(url, "no token", challenge="", **answer))
        # The name of the scheme alone, and what is no base64.
        messages.add(await refused(url, "no token", challenge="", subprotocols=[SCHEME], **answer))
        broken = [SCHEME + ".a", SCHEME]
        messages.add(await refused(url, "is not base64url", challenge=invalid, subprotocols=broken, **answer))
        two = {"additional_headers": {"Authorization": f"Bearer {token}"}, "subprotocols": offer(mint(sub="bob"))}
        messages.add(await refused(url, "there are several tokens", challenge=invalid, **two, **answer))
        # Not even with a key that may do everything.
        denied = {"code": "AccessDeniedException"}
        way = "generate_ws_connection" if path == "ws" else "connect_shell"
        signed_url, headers = getattr(sdk(), way)(closed, session)
        await refused(signed_url, "takes bearer tokens only", additional_headers=headers, **denied)
        # Whom it is for, its bearer does not choose.
        named = {"Authorization": f"Bearer {token}", HEADER + "User-Id": "bob"}
        await refused(url, "alice named another user", additional_headers=named, **denied)
        # Where there is no runtime, and where it takes signatures, nothing tells which.
        nowhere = f"wss://agentcore.amazonaws.com:{port}/runtimes/nobody/{path}"
        await refused(nowhere, "a token for a runtime that cannot be called", subprotocols=offer(token), **denied)
    assert len(messages) == 1, messages


asyncio.run(globals()[scenario]())
print(json.dumps(refusals))
