"""The data plane by boto3, held to botocore's own models: data_calls.py PART FACTS, where FACTS is JSON with the endpoint and
the ARNs of runtimes. Fails by an assertion; prints what the test beside it wants to know."""

import http.client
import http.server
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import boto3
import bounds
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

part, facts = sys.argv[1], json.loads(sys.argv[2])
endpoint = facts["endpoint"]
PATH = "/runtimes/{}/{}"

# Every operation of the two models that is here.
DATA = ["GetAgentCard", "InvokeAgentRuntime", "InvokeAgentRuntimeCommand", "StopRuntimeSession"]
CONTROL = [
    "CreateAgentRuntime", "UpdateAgentRuntime", "GetAgentRuntime", "DeleteAgentRuntime", "ListAgentRuntimes",
    "ListAgentRuntimeVersions", "CreateAgentRuntimeEndpoint", "UpdateAgentRuntimeEndpoint", "GetAgentRuntimeEndpoint",
    "DeleteAgentRuntimeEndpoint", "ListAgentRuntimeEndpoints", "TagResource", "UntagResource", "ListTagsForResource",
]  # fmt: skip


def client(service="bedrock-agentcore", url=endpoint, checked=True, **settings):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(parameter_validation=checked, **settings),
    )


def fails(call, kind, status, text="", field=None):
    """The call fails so; botocore knows its class by the model, the rest by what it read."""
    try:
        call()
    except ClientError as error:
        said = error.response
        meta = said["ResponseMetadata"]
        assert type(error).__name__ == kind == said["Error"]["Code"], (type(error), said)
        assert meta["HTTPStatusCode"] == status and meta["RequestId"] and meta["RetryAttempts"] == 0, said
        assert said["Error"]["Message"] and text in said["Error"]["Message"], said
        if field:
            assert [fault["name"] for fault in said["fieldList"]] == [field], said
        return said
    raise AssertionError(f"no {kind}")


def invoke(agentcore, session, code, arn=None, **more):
    words = {"agentRuntimeArn": arn or facts["http"], "runtimeSessionId": session, **more}
    return json.loads(agentcore.invoke_agent_runtime(payload=json.dumps({"code": code}).encode(), **words)["response"].read())


def raw(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.getheader("x-amzn-errortype"), json.loads(answer.read() or b"null")


def validation():
    """Every bound of the model, whatever place of a request it is about."""
    bounds.send_unknown_members()
    model = bounds.Bounds("bedrock-agentcore")
    http, card, session = facts["http"], facts["card"], "s" * 40
    sound = {
        "InvokeAgentRuntime": {"agentRuntimeArn": http, "runtimeSessionId": session, "payload": b"{}"},
        "InvokeAgentRuntimeCommand": {"agentRuntimeArn": http, "runtimeSessionId": session, "body": {"command": "true"}},
        "StopRuntimeSession": {"agentRuntimeArn": http, "runtimeSessionId": session, "clientToken": "t" * 40},
        "GetAgentCard": {"agentRuntimeArn": card, "runtimeSessionId": session},
    }
    assert sorted(sound) == DATA

    def more(operation):
        """What the model leaves to the text beside it."""
        for arn in (
            "no such arn!", "a" * 60, "arn:aws:s3:::bucket", http.replace("runtime/", "memory/"), http.replace("arn:aws", "arn:other"),
            http.replace("000000000000", "00000000000"), http.replace("us-local-1", "US_1"), http + "x",
        ):  # fmt: skip
            yield "agentRuntimeArn", arn, "agentRuntimeArn"
        for qualifier in ("", "no such name!", "1st", "a" * 49):
            yield "qualifier", qualifier, "qualifier"
        for id in ("with a space " + "x" * 40, "tab\t" + "x" * 40):
            yield "runtimeSessionId", id, "runtimeSessionId"
        if operation == "InvokeAgentRuntimeCommand":
            for timeout in (0, 3601, -1, "1", 1.5, True):
                yield "body", {"command": "true", "timeout": timeout}, "body.timeout"
            for command in (1, None, ["true"], "a\0b"):
                yield "body", {"command": command}, "body.command"
        if operation == "StopRuntimeSession":
            for token in (1, ["t" * 40], "-" + "t" * 40, "t" * 40 + "-"):
                yield "clientToken", token, "clientToken"

    large = lambda request, field: 413 if field == "payload" else 400
    tried = bounds.hold(client(checked=False), model, sound, more, large)
    assert tried > 100, tried
    # All that is wrong with the headers, at once.
    for call, words in (("invoke_agent_runtime", {"payload": b"{}"}), ("invoke_agent_runtime_command", {"body": {"command": "true"}})):
        wrong = {"contentType": "c" * 257, "traceId": "t" * 1025, "baggage": "b" * 8193}
        said = fails(lambda: getattr(client(), call)(agentRuntimeArn=http, **words, **wrong), "ValidationException", 400)
        assert sorted(fault["name"] for fault in said["fieldList"]) == sorted(wrong), said
    # What botocore cannot be made to send: members of no operation, and bodies that are no JSON.
    path = PATH.format(facts["name"], "stopruntimesession")
    for body, field in [
        (b'{"noSuchMember": 1}', "noSuchMember"),
        (b'{"clientToken": "%s", "runtimeSessionId": "x"}' % (b"t" * 40), "runtimeSessionId"),
        (b"[]", "body"),
        (b"nothing", "body"),
        (b'{"clientToken": "a", "clientToken": "b"}', "clientToken"),
    ]:
        status, kind, said = raw("POST", path, body, X_Amzn_Bedrock_AgentCore_Runtime_Session_Id=session)
        assert (status, kind) == (400, "ValidationException"), (body, said)
        assert [fault["name"] for fault in said["fieldList"]] == [field], (body, said)
    print(tried)


def inside():
    """Values at the bounds themselves are taken, all at once."""
    model = bounds.Bounds("bedrock-agentcore")
    agentcore = client()
    longest = {}
    for name, described in model.input("InvokeAgentRuntime")["members"].items():
        shape = model.shapes[described["shape"]]
        if described.get("location") == "header" and shape.get("max"):
            longest[name] = "x" * shape["max"]
    assert len(longest) == 12, longest
    for more in (longest, {**longest, "traceId": "", "traceParent": "", "traceState": "", "baggage": "", "runtimeSessionId": "y" * 33}):
        answer = agentcore.invoke_agent_runtime(
            agentRuntimeArn=facts["http"], accountId="0" * 12, qualifier="DEFAULT", payload=b'{"code": "answer = 1"}', **more
        )
        assert json.loads(answer["response"].read()) == 1 and answer["runtimeSessionId"] == more["runtimeSessionId"], answer
        for name in ("traceParent", "traceState", "baggage"):
            assert answer.get(name, "") == more[name], (name, answer)
        assert answer["traceId"] == more["traceId"] or answer["traceId"].startswith("Root=1-"), answer
    for session, user in (("x" * 256, "x" * 1024), ("y" * 33, "x" * 1024)):
        # botocore's model has no user here, and the session is that user's.
        def as_user(request, **_):
            request.headers["X-Amzn-Bedrock-AgentCore-Runtime-User-Id"] = user

        stopping = client()
        stopping.meta.events.register("before-send.bedrock-agentcore.*", as_user)
        stopped = stopping.stop_runtime_session(agentRuntimeArn=facts["http"], runtimeSessionId=session, clientToken="t" * 255 + "1")
        assert stopped["statusCode"] == 200, stopped
        break
    # An account that is not this daemon's has no runtimes here.
    other = lambda: agentcore.invoke_agent_runtime(agentRuntimeArn=facts["name"], accountId="1" * 12, payload=b"{}")
    fails(other, "ResourceNotFoundException", 404, "account")


def absent():
    """Every other operation of both models: one clear answer."""
    asked = 0
    for service, here in (("bedrock-agentcore", DATA), ("bedrock-agentcore-control", CONTROL)):
        model = bounds.Bounds(service)
        agentcore = client(service, checked=False)
        missing = set(here) - set(model.operations)
        assert not missing, missing
        for operation in sorted(set(model.operations) - set(here)):
            call = getattr(agentcore, bounds.snake(operation))
            parameters = model.example(model.input(operation))
            said = fails(lambda: call(**parameters), "ValidationException", 400, "this daemon has no ")
            assert said["fieldList"] == [], said
            asked += 1
    print(asked)


class Losing(http.server.ThreadingHTTPServer):
    """Stands between a client and the daemon; of stops it loses the first `lose` answers: it has them, and closes."""

    daemon_threads = True

    def __init__(self, lose):
        super().__init__(("127.0.0.1", 0), self.Passing)
        self.lose, self.lost = lose, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return "http://127.0.0.1:%d" % self.server_address[1]

    class Passing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc, timeout=60)
            connection.request("POST", self.path, body, dict(self.headers))
            answer = connection.getresponse()
            text = answer.read()
            if self.path.endswith("/stopruntimesession") and len(self.server.lost) < self.server.lose:
                self.server.lost.append((answer.status, json.loads(body)["clientToken"]))
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass


def stops():
    """A stop whose answer is lost is answered again, and done once."""
    born = "import time\nanswer = kept.setdefault('born', time.time())"
    losing, agentcore = Losing(2), client()
    session = str(uuid.uuid4())
    words = {"agentRuntimeArn": facts["http"], "runtimeSessionId": session}
    first = invoke(agentcore, session, born)
    stopped = client(url=losing.url()).stop_runtime_session(**words)
    assert stopped["statusCode"] == 200 and stopped["runtimeSessionId"] == session, stopped
    assert stopped["ResponseMetadata"]["RetryAttempts"] == 2, stopped
    # The daemon had answered each time, to the same token.
    assert [status for status, _ in losing.lost] == [200, 200] and len(set(losing.lost)) == 1, losing.lost
    # With that token again and again; with one of its own it is a new request, of a session that is over.
    token = losing.lost[0][1]
    again = lambda: agentcore.stop_runtime_session(**words, clientToken=token)
    assert again()["statusCode"] == 200
    fails(lambda: agentcore.stop_runtime_session(**words), "ResourceNotFoundException", 404, "no live session")
    # A session that has begun since is not what was to be stopped.
    second = invoke(agentcore, session, born)
    assert second != first
    assert again()["statusCode"] == 200
    assert invoke(agentcore, session, born) == second
    # Nor does a token stop two sessions.
    other = str(uuid.uuid4())
    invoke(agentcore, other, born)
    use = lambda: agentcore.stop_runtime_session(**{**words, "runtimeSessionId": other}, clientToken=token)
    said = fails(use, "ValidationException", 400, "another session", "clientToken")
    assert said["reason"] == "IdempotentParameterMismatchException", said
    # Without a token, with an empty body and with one that says nothing (contract §2.4).
    for body, id in ((b"", session), (b"{}", other)):
        path = PATH.format(facts["name"], "stopruntimesession")
        assert raw("POST", path, body, X_Amzn_Bedrock_AgentCore_Runtime_Session_Id=id) == (200, None, {}), id


def card():
    agentcore = client()
    session = str(uuid.uuid4())
    for words, id in (({"runtimeSessionId": session}, session), ({"runtimeSessionId": session, "qualifier": "DEFAULT"}, session), ({}, None)):
        found = agentcore.get_agent_card(agentRuntimeArn=facts["card"], **words)
        assert found["statusCode"] == 200, found
        assert found["agentCard"] == {"name": "carded", "skills": [{"id": "ü"}], "url": facts["url"]}, found
        assert found["runtimeSessionId"] == id or len(found["runtimeSessionId"]) == 36, found
    get = lambda **more: lambda: agentcore.get_agent_card(**{"agentRuntimeArn": facts["card"], "runtimeSessionId": session, **more})
    fails(get(agentRuntimeArn=facts["http"]), "ValidationException", 400, "A2A", "agentRuntimeArn")
    fails(get(agentRuntimeArn=facts["uncarded"]), "RuntimeClientError", 424, "404")
    fails(get(agentRuntimeArn="nobody"), "ResourceNotFoundException", 404, "nobody")
    fails(get(qualifier="nowhere"), "ResourceNotFoundException", 404, "nowhere")


def unauthorized():
    """A runtime that takes tokens, called without one."""
    agentcore = client()
    words = {"agentRuntimeArn": facts["tokened"], "runtimeSessionId": "s" * 40}
    for call in (
        lambda: agentcore.stop_runtime_session(**words),
        lambda: agentcore.invoke_agent_runtime(**words, payload=b"{}"),
        lambda: agentcore.invoke_agent_runtime_command(**words, body={"command": "true"}),
        lambda: agentcore.get_agent_card(**words),
    ):
        said = fails(call, "UnauthorizedException", 401, "takes bearer tokens")
        challenge = said["ResponseMetadata"]["HTTPHeaders"]["www-authenticate"]
        assert challenge.startswith("Bearer resource_metadata="), said
        try:
            call()
        except agentcore.exceptions.UnauthorizedException:
            pass


def statuses():
    """Statuses that AWS's table does not have: botocore reads a class that it knows, and does not try again."""

    def changed(change):
        agentcore = client()
        agentcore.meta.events.register("before-send.bedrock-agentcore.*", lambda request, **_: change(request))
        return agentcore

    def method(request):
        request.method = "PUT"

    def host(request):
        request.headers["Host"] = "agents.example"

    words = {"agentRuntimeArn": facts["http"], "runtimeSessionId": "s" * 40, "payload": b"{}"}
    call = lambda agentcore, **more: lambda: agentcore.invoke_agent_runtime(**{**words, **more})
    fails(call(changed(method)), "ValidationException", 405, "POST")
    fails(call(changed(host)), "ValidationException", 421, "agents.example")
    fails(call(client(), agentRuntimeArn=facts["mcp"], accept="text/plain"), "ValidationException", 406, "Accept")
    fails(call(client(), agentRuntimeArn=facts["stored"]), "InternalServerException", 507, "storage.per_caller")
    # An agent's failure in the words of its protocol, with a status that is an error to botocore too.
    fails(call(client(), agentRuntimeArn=facts["uncarded"]), "RuntimeClientError", 424, "from runtime")


def draining():
    """A daemon that stops while a call's body is on its way: 503, which botocore reads, and tries again if it may."""

    class Payload:
        """1 KB, and so much more once the daemon takes no calls any more: a body that is read whole before anything is begun."""

        SIZE = 2_000

        def __init__(self):
            self.at = 0

        def read(self, size):
            if self.at == 0:
                self.at = self.SIZE // 2
            elif self.at < self.SIZE:
                os.kill(facts["pid"], signal.SIGTERM)
                self.stops()
                self.at = self.SIZE
            else:
                return b""
            return b" " * (self.SIZE // 2)

        def seek(self, at, whence=0):
            self.at = at + (self.SIZE if whence == 2 else 0)

        def tell(self):
            return self.at

        def stops(self):
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    urllib.request.urlopen(endpoint + "/readyz", timeout=5).close()
                except urllib.error.HTTPError as told:
                    assert told.code == 503, told
                    return
                time.sleep(0.02)
            raise AssertionError("the daemon goes on")

    agentcore = client(signature_version=UNSIGNED, retries={"mode": "standard", "total_max_attempts": 1})
    call = lambda: agentcore.invoke_agent_runtime(agentRuntimeArn=facts["http"], runtimeSessionId="s" * 40, payload=Payload())
    said = fails(call, "ServiceUnavailableException", 503, "is stopping")
    assert said["ResponseMetadata"]["HTTPHeaders"]["x-amz-retry-after"] == "1000", said


def sdk():
    """The AWS SDK's AgentCoreRuntimeClient, unmodified, pointed here as AWS's SDKs are. Its sockets: socket_calls.py."""
    os.environ.update({
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": endpoint, "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
    })  # fmt: skip
    from bedrock_agentcore.runtime import AgentCoreRuntimeClient

    agentcore, session = AgentCoreRuntimeClient(region="us-local-1"), str(uuid.uuid4())
    assert invoke(agentcore, session, "answer = 41") == 41
    # Names as Python has them are the SDK's own doing.
    words = {"agent_runtime_arn": facts["http"], "runtime_session_id": session}
    code = "def events():\n    for n in range(3):\n        yield {'n': n}\nanswer = events()"
    answer = agentcore.invoke_agent_runtime(**words, payload=json.dumps({"code": code}), qualifier="DEFAULT")
    assert [line for line in answer["response"].iter_lines() if line] == [b'data: {"n": %d}' % n for n in range(3)]
    stop = lambda: agentcore.stop_runtime_session(**words)
    assert stop()["statusCode"] == 200
    fails(stop, "ResourceNotFoundException", 404, "no live session")
    fails(lambda: invoke(agentcore, session, "raise RuntimeError('boom')"), "RuntimeClientError", 424, "500")
    status = agentcore.get_aggregated_status(facts["http"].split("/")[-1])
    assert status["runtime"]["status"] == status["endpoint"]["status"] == "READY", status


globals()[part]()
