"""Session endpoints as a program for AWS uses them: session_endpoint_calls.py FACTS, against a daemon with
`auth = ["sigv4", "jwt"]`. boto3 invokes and reads the address; requests to it are signed by botocore. Fails by an assertion;
prints what was refused, and what the audit must say of it, as JSON."""

import http.client
import json
import sys
import urllib.parse

import boto3
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from websockets.sync.client import connect

facts = json.loads(sys.argv[1])
endpoint, arn, SESSION = facts["endpoint"], facts["arn"], facts["session"]
REGION, SERVICE = "us-local-1", "bedrock-agentcore"
USER = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id"


def credentials(key):
    pair = facts["keys"][key]
    return Credentials(pair["accessKeyId"], pair["secretAccessKey"])


def invoke(key, **more):
    pair = facts["keys"][key]
    client = boto3.client(
        "bedrock-agentcore",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=pair["accessKeyId"],
        aws_secret_access_key=pair["secretAccessKey"],
        config=Config(read_timeout=120),
    )
    answer = client.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=SESSION, payload=b"{}", **more)
    answer["response"].read()
    return answer


def send(method, url, body=b"", headers=None, key=None, change=None, at=None, signer=botocore.auth.SigV4Auth, **more):
    headers = dict(headers or {})
    if key:
        request = AWSRequest(method=method, url=url, data=body, headers=headers)
        signer(credentials(key), SERVICE, REGION, **more).add_auth(request)
        prepared = request.prepare()
        url, headers = prepared.url, dict(prepared.headers.items())
    if change:
        headers = change(headers)
    url = at or url
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    target = url[len(f"http://{parts.netloc}"):]
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    return answer, answer.read()


refusals = []


def refused(status, name, *words, empty=True, reason=None, **more):
    answer, body = send(*words, **more)
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (status, name), (answer.status, dict(answer.headers), body)
    assert answer.headers["x-amzn-RequestId"], dict(answer.headers)
    assert not empty or body == b"", body
    if reason:
        path = urllib.parse.urlsplit(more.get("at") or words[1]).path
        told = {"requestId": answer.headers["x-amzn-RequestId"], "status": status, "code": name, "reason": reason, "path": path}
        refusals.append(told)
    return answer


answer = invoke("one")
[(_, url)] = [pair for pair in answer.items() if "EndpointUrl" in pair[0] or "endpointUrl" in pair[0]]
assert url == answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-bedrock-agentcore-runtime-session-endpoint-url"]
assert url == f"{endpoint}/runtimes/ports/sessions/{SESSION}/ports" and len(url) <= 128, url

# Signed in the header, by a body that is covered; nothing of the signature reaches the server.
for method, rest, body in [
    ("GET", "/8001/", b""),
    ("GET", "/8001/a%2Fb/c?x=1&y=%20", b""),
    ("POST", "/9005/echo", b"x" * (3 << 20)),
    ("DELETE", "/8001/thing", b""),
]:
    answer, got = send(method, url + rest, body, {"X-Own": "mine", "cookie": "a=b"}, key="one")
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (200, None), (answer.status, got)
    said = json.loads(got)
    assert said["method"] == method and said["length"] == len(body) and said["target"] == rest[5:], said
    names = [name for name, _ in said["headers"]]
    assert ["x-own", "mine"] in said["headers"] and ["cookie", "a=b"] in said["headers"], said
    assert "authorization" not in names and not any(name.startswith("x-amz-") for name in names), said
assert send("GET", f"{url}/8001/echo?status=418", key="one")[0].status == 418

# Presigned: whoever is given the address reaches this one thing.
presign = {"signer": botocore.auth.SigV4QueryAuth, "expires": 60}
answer, got = send("GET", f"{url}/8001/file?a=b", key="one", **presign)
assert answer.status == 200 and json.loads(got)["target"] == "/file?a=b", got

# A key that may do nothing else; its own sessions only, which it can have none of.
refused(404, "ResourceNotFoundException", "GET", f"{url}/8001/", key="proxies", empty=False)
# Somebody else's session, and one that never was, are told alike.
other = refused(404, "ResourceNotFoundException", "GET", f"{url}/8001/", key="two", empty=False)
never = refused(404, "ResourceNotFoundException", "GET", f"{url.replace(SESSION, 'n' * 40)}/8001/", key="one", empty=False)
local = refused(404, "ResourceNotFoundException", "GET", f"{url.replace(SESSION, facts['local'])}/8001/", key="one", empty=False)
kept = lambda found: sorted((k, v) for k, v in found.headers.items() if k.lower() not in ("date", "x-amzn-requestid", "content-length"))
assert kept(other) == kept(never) == kept(local)

# Its user is part of whose it is.
answer = invoke("one", runtimeUserId="alice")
assert answer["runtimeSessionId"] == SESSION
send("POST", f"{url}/8001/turn", key="one", headers={USER: "alice"})
assert send("GET", f"{url}/8001/events?n=1", key="one", headers={USER: "alice"})[1] == b"data: 0\n\n"
refused(404, "ResourceNotFoundException", "GET", f"{url}/8001/", key="one", headers={USER: "bob"}, empty=False)

# Without credentials, without permission, at a port that is not offered: a name and no body.
proxy = "bedrock-agentcore:InvokeAgentRuntimeProxy"
refused(403, "AccessDenied", "GET", f"{url}/8001/", reason=f"{proxy} without credentials")
refused(403, "AccessDenied", "POST", f"{url}/8001/", b"body", reason=f"{proxy} without credentials")
for key in ("invokes", "elsewhere"):
    refused(403, "AccessDenied", "GET", f"{url}/8001/", key=key, reason=f"does not cover {proxy} on")
refused(403, "AccessDenied", "GET", f"{url}/8002/", key="one", reason="port 8002 is not among the allowed ports of runtime ports, version 1")
bearer = {"Authorization": "Bearer x"}
refused(403, "AccessDenied", "GET", f"{url}/8001/", headers=bearer, reason="runtime ports takes signed requests only")
tokens = f"{endpoint}/runtimes/tokens/sessions/{SESSION}/ports/8001/"
answer = refused(401, "AuthenticationRequired", "GET", tokens, reason="no token")
assert answer.headers["WWW-Authenticate"].startswith("Bearer resource_metadata="), dict(answer.headers)
refused(403, "AccessDenied", "GET", tokens, key="one", reason="runtime tokens takes bearer tokens only")
# Signed for another path, port or user.
for tampered, reason in (
    ({"at": f"{url}/8001/b"}, "the signature does not match"),
    ({"at": f"{url}/9005/a"}, "the signature does not match"),
    ({"change": lambda headers: {**headers, USER: "alice"}}, f"does not cover {USER.lower()}"),
):
    refused(403, "InvalidSignatureException", "GET", f"{url}/8001/a", key="one", empty=False, reason=reason, **tampered)

# A WebSocket, signed in the header and presigned.
def signed(where):
    request = AWSRequest(method="GET", url=where)
    botocore.auth.SigV4Auth(credentials("one"), SERVICE, REGION).add_auth(request)
    return where, {name: request.headers[name] for name in ("X-Amz-Date", "Authorization")}


def presigned(where):
    request = AWSRequest(method="GET", url=where)
    botocore.auth.SigV4QueryAuth(credentials("one"), SERVICE, REGION, expires=60).add_auth(request)
    return request.url, {}


for sign in (signed, presigned):
    where, headers = sign(f"{url}/8001/socket/x?y=z")
    with connect(where.replace("http://", "ws://"), additional_headers=headers, close_timeout=5) as socket:
        path, names = json.loads(socket.recv(timeout=20))
        assert path == "/socket/x?y=z", path
        assert not any(name.startswith("x-amz-") or name == "authorization" for name, _ in names), names
        for text in ("hello", "x" * 60_000):
            socket.send(text)
            assert socket.recv(timeout=20) == text
        socket.ping().wait(20)

print(json.dumps(refusals))
