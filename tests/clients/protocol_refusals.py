"""Who is turned away from a runtime of each protocol, and how: protocol_refusals.py FACTS, JSON with the endpoint and the keys. Requests
are signed by botocore. Fails by an assertion."""

import http.client
import json
import sys
import urllib.parse

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

facts = json.loads(sys.argv[1])
BODY = b'{"jsonrpc": "2.0", "id": 9, "method": "x"}'


def send(runtime, key=None, secret=None, headers=None, method="POST", query=""):
    """Status, what kind of answer it is, and its body without what differs from call to call."""
    url = f"{facts['endpoint']}/runtimes/{runtime}/invocations{query}"
    request = AWSRequest(method=method, url=url, data=BODY, headers=headers or {})
    if key:
        pair = facts["keys"][key]
        credentials = Credentials(pair["accessKeyId"], secret or pair["secretAccessKey"])
        SigV4Auth(credentials, "bedrock-agentcore", "us-local-1").add_auth(request)
    prepared = request.prepare()
    parts = urllib.parse.urlsplit(prepared.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), BODY, dict(prepared.headers))
    answer = connection.getresponse()
    told = {
        name.lower(): value
        for name, value in answer.getheaders()
        if name.lower() not in ("date", "x-amzn-requestid", "content-length")
    }
    return answer.status, told, answer.read()


for protocol in ("MCP", "A2A", "AGUI"):
    plain, tokened = f"{protocol.lower()}_plain", f"{protocol.lower()}_tokened"
    token = {"Authorization": "Bearer a.b.c"}
    user = {"X-Amzn-Bedrock-AgentCore-Runtime-User-Id": "u" * 2000}
    # To whoever may not know of it, it is like one that is not there, whatever is wrong beside.
    for more in (
        {},
        {"headers": token},
        {"headers": user},
        {"key": "operator", "secret": "wrong"},
        {"key": "stranger"},
        {"key": "stranger", "headers": user},
    ):
        for rest in ({}, {"query": "?qualifier=nosuch"}, {"query": "?qualifier=no%20name"}, {"method": "GET"}):
            there, nowhere = send(plain, **more, **rest), send("nobody", **more, **rest)
            assert there == nowhere, (more, rest, there, nowhere)
            assert there[0] in (400, 403, 405) and "message" in json.loads(there[2]), there
    for rest in ({}, {"query": "?qualifier=nosuch"}):
        assert send(tokened, key="stranger", **rest) == send("nobody", key="stranger", **rest)

    def refused(answer, status, code, name):
        found, headers, body = answer
        assert (found, headers["x-amzn-errortype"]) == (status, name), answer
        if protocol == "AGUI":
            assert headers["content-type"] == "text/event-stream", answer
            event = json.loads(body.removeprefix(b"data: "))
            assert (event["type"], event["code"]) == ("RUN_ERROR", code["AGUI"]), event
        elif protocol == "MCP":
            error = json.loads(body)
            assert (error["jsonrpc"], error["error"]["code"]) == ("2.0", code["MCP"]), error
        else:
            assert json.loads(body)["message"], body
        return headers

    # Whoever may do something else with it.
    denied = {"MCP": -32002, "AGUI": "ACCESS_DENIED"}
    insider = f"insider_{protocol}"
    refused(send(plain, key=insider), 403, denied, "AccessDeniedException")
    refused(send(tokened, key="operator"), 403, denied, "AccessDeniedException")
    # That a runtime takes tokens anybody may know.
    unauthorized = {"MCP": -32001, "AGUI": "UNAUTHORIZED"}
    for headers in ({}, token):
        for query in ("", "?qualifier=nosuch"):
            answer = send(tokened, headers=headers, query=query)
            told = refused(answer, 401, unauthorized, "UnauthorizedException")
            assert "resource_metadata" in told["www-authenticate"], answer
    # And whoever may call it is told what is wrong.
    for query, status, name in (
        ("?qualifier=nosuch", {"MCP": 200, "A2A": 404, "AGUI": 404}, "ResourceNotFoundException"),
        ("?qualifier=no%20name", {"MCP": 200, "A2A": 400, "AGUI": 400}, "ValidationException"),
    ):
        found, told, body = send(plain, key="operator", query=query)
        assert (found, told["x-amzn-errortype"]) == (status[protocol], name), body
        if protocol == "AGUI":
            assert b"RUN_ERROR" in body, body
        else:
            assert json.loads(body)["id"] == 9, body
