"""What a key with limits may do: limited_calls.py SCENARIO FACTS. Requests are made by hand and signed by botocore, so that every
operation and every path is asked alike. Fails by an assertion. The last line is JSON: the refusals, as `e2e::audit` reads them."""

import base64
import hashlib
import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

scenario, facts = sys.argv[1], json.loads(sys.argv[2])
endpoint, keys = facts["endpoint"], facts["keys"]
netloc = urllib.parse.urlsplit(endpoint).netloc
HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-"
SESSION = {HEADER + "Session-Id": "s" * 40}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"x" * 16).decode(),
}
DENIED = "AccessDeniedException"
refusals = []


def signed(key, method, path, body=b"", service="bedrock-agentcore", **headers):
    pair = keys[key]
    request = AWSRequest(method=method, url=endpoint + path, data=body, headers=headers)
    credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
    signer = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    signer(credentials, service, "us-local-1").add_auth(request)
    return dict(request.headers.items())


def send(key, method, path, body=b"", service="bedrock-agentcore", **headers):
    # What a WebSocket needs is none of a signature's business.
    own = {name: value for name, value in headers.items() if name not in UPGRADE}
    sent = {**headers, **signed(key, method, path, body, service, **own)}
    connection = http.client.HTTPConnection(netloc, timeout=60)
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    text = b"" if answer.status == 101 else answer.read()
    connection.close()
    return answer.status, answer.getheader("x-amzn-errortype"), answer.getheader("x-amzn-requestid"), text


def places(arn, id):
    """Everything that concerns a runtime: its action, how it is asked for, and what who may ask is told."""
    arn = urllib.parse.quote(arn, safe="")
    at, own = f"/runtimes/{arn}/", f"/runtimes/{id}/"
    return [
        ("InvokeAgentRuntime", "POST", at + "invocations", b"{}", SESSION, 200),
        ("InvokeAgentRuntimeCommand", "POST", at + "commands", b'{"command": "true"}', SESSION, 200),
        ("InvokeAgentRuntimeCommandShell", "GET", at + "ws/shells", b"", {**SESSION, **UPGRADE}, 101),
        ("InvokeAgentRuntimeWithWebSocketStream", "GET", at + "ws", b"", {**SESSION, **UPGRADE}, 101),
        ("StopRuntimeSession", "POST", at + "stopruntimesession", b"{}", {HEADER + "Session-Id": "n" * 40}, 404),
        ("GetAgentRuntime", "GET", own, b"", {}, 200),
        ("UpdateAgentRuntime", "PUT", own, b"{}", {}, 400),
        ("ListAgentRuntimeVersions", "POST", own + "versions/", b"", {}, 200),
        ("CreateAgentRuntimeEndpoint", "PUT", own + "runtime-endpoints/", b"{}", {}, 400),
        ("UpdateAgentRuntimeEndpoint", "PUT", own + "runtime-endpoints/none/", b"{}", {}, 404),
        ("GetAgentRuntimeEndpoint", "GET", own + "runtime-endpoints/none/", b"", {}, 404),
        ("ListAgentRuntimeEndpoints", "POST", own + "runtime-endpoints/", b"", {}, 200),
        ("DeleteAgentRuntimeEndpoint", "DELETE", own + "runtime-endpoints/none/", b"", {}, 404),
        ("TagResource", "POST", f"/tags/{arn}", b"{}", {}, 400),
        ("UntagResource", "DELETE", f"/tags/{arn}?tagKeys=a", b"", {}, 204),
        ("ListTagsForResource", "GET", f"/tags/{arn}", b"", {}, 200),
    ]


def everywhere():
    card = f"/runtimes/{urllib.parse.quote(facts['carded']['arn'], safe='')}/invocations/.well-known/agent-card.json"
    yield from places(**facts["talk"])
    yield "GetAgentCard", "GET", card, b"", SESSION, 200
    yield "DeleteAgentRuntime", "DELETE", "/runtimes/nobody-AbCdEf1234/", b"", {}, 404
    yield "ListAgentRuntimes", "POST", "/runtimes/", b"", {}, 200
    yield "CreateAgentRuntime", "PUT", "/runtimes/", b"{}", {}, 400
    # The local wire's default runtime is one of them.
    yield "InvokeAgentRuntime", "POST", "/invocations", b"{}", SESSION, 200
    yield "InvokeAgentRuntime", "GET", "/ping", b"", {}, 200
    yield "InvokeAgentRuntimeWithWebSocketStream", "GET", "/ws", b"", {**SESSION, **UPGRADE}, 101
    yield "PutObject", "PUT", "/s3/bucket/key", b"x", {}, 200
    yield "GetObject", "GET", "/s3/bucket/none", b"", {}, 404
    # Operators' only.
    for method, path, body in [
        ("GET", "/v1/info", b""),
        ("GET", "/v1/keys", b""),
        ("POST", "/v1/keys", b'{"name": "made by a key with limits"}'),
        ("GET", "/v1/sessions", b""),
        ("DELETE", "/v1/sessions/" + "s" * 40, b""),
        ("POST", "/v1/artifacts", b"x" * 200_000),
        ("GET", "/v1/audit", b""),
        ("GET", "/v1/nothing", b""),
        ("GET", "/metrics", b""),
        ("GET", "/version", b""),
        ("GET", "/openapi.json", b""),
    ]:
        yield None, method, path, body, {}, None


def actions():
    """Each key has one action."""
    for key, pair in keys.items():
        allowed = 0
        for action, method, path, body, headers, status in everywhere():
            service = "s3" if path.startswith("/s3") else "bedrock-agentcore"
            found, code, id, text = send(key, method, path, body, service, **headers)
            if action and key in ("all", action):
                allowed += 1
                assert found == status, (key, method, path, found, text)
                continue
            assert (found, code) == (403, DENIED), (key, method, path, found, text)
            reason = f"does not cover {service}:{action}" if action else "is limited"
            assert reason.encode() not in text, text
            # Where nobody waited for the body, nobody is named as its sender but in the reason.
            unread = body and path.startswith(("/v1/", "/s3/"))
            caller = None if unread else f"key:{pair['accessKeyId']}"
            reason = f"{pair['accessKeyId']} {reason}" if unread else reason
            record = {"requestId": id, "status": 403, "code": code, "reason": reason, "caller": caller}
            refusals.append({**record, "path": path.partition("?")[0]})
        assert allowed or key == "InvokeAgentRuntimeForUser", key
    # A user id needs the action for it beside the operation's own.
    path, more = places(**facts["talk"])[0][2], {**SESSION, HEADER + "User-Id": "u"}
    for key, lacking in [("InvokeAgentRuntime", "InvokeAgentRuntimeForUser"), ("InvokeAgentRuntimeForUser", "InvokeAgentRuntime")]:
        found, code, id, text = send(key, "POST", path, b"{}", **more)
        assert (found, code) == (403, DENIED), text
        reason, caller = f"does not cover bedrock-agentcore:{lacking} ", f"key:{keys[key]['accessKeyId']}"
        refusals.append({"requestId": id, "status": 403, "code": code, "reason": reason, "caller": caller, "path": path})
    assert send("all", "POST", path, b"{}", **more)[0] == 200


def reach():
    """A key of one runtime: of another it learns what it learns of one that is not there, whatever it asks for."""
    other, nobody = facts["carded"], {"arn": facts["carded"]["arn"].replace("carded-", "nobody-"), "id": "nobody-AbCdEf1234"}
    for (action, method, path, body, headers, _), there, nowhere in zip(
        places(**facts["talk"]), places(**other), places(**nobody), strict=True
    ):
        assert send("one", method, path, body, **headers)[0] != 403, (action, path)
        told = []
        for _, method, path, body, headers, _ in (there, nowhere):
            found, code, id, text = send("one", method, path, body, **headers)
            assert (found, code) == (403, DENIED), (action, path, found, text)
            told.append(text.replace(b"nobody", b"carded"))
            caller = f"key:{keys['one']['accessKeyId']}"
            record = {"requestId": id, "status": 403, "code": code, "reason": f"does not cover bedrock-agentcore:{action} "}
            refusals.append({**record, "caller": caller, "path": path.partition("?")[0]})
        assert told[0] == told[1], told


def begun(key, method, path, body, service="bedrock-agentcore", **more):
    """A connection with a signed request's head, and nothing of its body yet."""
    headers = signed(key, method, path, body, service, **more)
    headers |= {"Host": netloc, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    host, port = netloc.split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall("\r\n".join(lines).encode())
    return connection


def answered(connection):
    with connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer, answer.read()


def unread():
    """Nobody waits for the body of whoever may not go there: it never comes."""
    body = bytes(50_000_000)
    for method, path, service in [("POST", "/v1/artifacts", "bedrock-agentcore"), ("PUT", "/s3/bucket/key", "s3")]:
        for declared in (None, "0" * 64, "UNSIGNED-PAYLOAD"):
            more = {"X-Amz-Content-SHA256": declared} if declared else {}
            began = time.monotonic()
            answer, text = answered(begun("one", method, path, body, service, **more))
            assert (answer.status, answer.getheader("x-amzn-errortype")) == (403, DENIED), (path, declared, text)
            print(f"{path} {declared}: {time.monotonic() - began:.3f} s")
            reason = "is limited" if path.startswith("/v1") else "does not cover s3:PutObject"
            record = {"requestId": answer.getheader("x-amzn-requestid"), "status": 403, "code": DENIED}
            refusals.append({**record, "reason": reason, "path": path})
    # With a wrong signature it is no better off.
    keys["forged"] = {**keys["one"], "secretAccessKey": "wrong"}
    found, code, id, _ = send("forged", "GET", "/v1/info")
    assert (found, code) == (403, "InvalidSignatureException"), (found, code)
    refusals.append({"requestId": id, "status": 403, "code": code, "reason": "does not match", "path": "/v1/info"})


def spooled():
    """Whether the daemon has a body in its spool."""
    for name in os.listdir(f"/proc/{facts['pid']}/fd"):
        try:
            if "/spool/" in os.readlink(f"/proc/{facts['pid']}/fd/{name}"):
                return True
        except FileNotFoundError:
            continue
    return False


def until(there):
    end = time.monotonic() + 20
    while spooled() != there:
        assert time.monotonic() < end, f"in the spool: {not there}"
        time.sleep(0.01)


def meanwhile():
    """A key that ends while a body is on its way: all of the body is right, and nothing of it is believed."""
    path = places(**facts["talk"])[0][2]
    body = json.dumps({"fill": "x" * 200_000}).encode()
    declared = {"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()}
    for key, more in [("kept", {}), ("kept", declared), ("ends", {}), ("ends too", declared)]:
        until(False)
        connection = begun(key, "POST", path, body, **SESSION, **more)
        connection.sendall(body[:100_000])
        # Then its head has been looked at.
        until(True)
        if key != "kept":
            status, *_ = send("operator", "DELETE", f"/v1/keys/{keys[key]['accessKeyId']}")
            assert status == 204, status
        connection.sendall(body[100_000:])
        answer, text = answered(connection)
        if key == "kept":
            assert answer.status == 200, text
            continue
        code = answer.getheader("x-amzn-errortype")
        assert (answer.status, code) == (403, "InvalidSignatureException"), text
        record = {"requestId": answer.getheader("x-amzn-requestid"), "status": 403, "code": code, "path": path}
        refusals.append({**record, "reason": "there is no access key"})


globals()[scenario]()
print(json.dumps(refusals))
