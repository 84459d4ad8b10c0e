"""boto3, unmodified, against a daemon with `auth = "sigv4"`: signed_calls.py SCENARIO FACTS, where FACTS is JSON with the
endpoint, the runtimes' ARNs and the keys. Fails by an assertion; prints what the test beside it wants to know."""

import datetime
import hashlib
import http.client
import json
import subprocess
import sys
import urllib.parse

import boto3
import botocore.auth
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, ReadTimeoutError

scenario, facts = sys.argv[1], json.loads(sys.argv[2])
endpoint, arn, other = facts["endpoint"], facts.get("arn"), facts.get("other")
REGION = "us-local-1"
HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-"
# Retried by boto3 itself they would only take longer.
REFUSED = "InvalidSignatureException"


def client(key="operator", secret=None, region=REGION, **settings):
    pair = facts["keys"][key]
    settings = {"read_timeout": 120, **settings}
    return boto3.client(
        "bedrock-agentcore",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=pair["accessKeyId"],
        aws_secret_access_key=secret or pair["secretAccessKey"],
        config=Config(**settings),
    )


def invoke(agentcore, code="answer = 'ran'", runtime=None, session=None, user=None, **more):
    words = {"agentRuntimeArn": runtime or arn, "payload": json.dumps({"code": code, **more}).encode()}
    if session:
        words["runtimeSessionId"] = session
    if user:
        words["runtimeUserId"] = user
    return agentcore.invoke_agent_runtime(**words)


def said(answer):
    return json.loads(answer["response"].read())


def refused(call, code, status=403):
    try:
        call()
    except ClientError as error:
        found = error.response
        assert found["Error"]["Code"] == code, found
        assert found["ResponseMetadata"]["HTTPStatusCode"] == status, found
        assert found["ResponseMetadata"]["RequestId"], found
        assert found["ResponseMetadata"]["RetryAttempts"] == 0, found
        assert "date" in found["ResponseMetadata"]["HTTPHeaders"], found
        return found["Error"]["Message"]
    raise AssertionError(f"no {code}")


def opened(method, path, key="operator", body=b"", signer=botocore.auth.SigV4Auth, headers=None, change=None, **more):
    """The answer to a request of our own, signed by botocore, not read yet. `change` may alter it afterwards."""
    pair = facts["keys"][key]
    request = AWSRequest(method=method, url=endpoint + path, data=body, headers=headers or {})
    credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
    signer(credentials, more.pop("service", "bedrock-agentcore"), REGION, **more).add_auth(request)
    prepared = request.prepare()
    parts = urllib.parse.urlsplit(prepared.url)
    sent = {"method": method, "target": parts.path + (f"?{parts.query}" if parts.query else ""), "body": body}
    sent["headers"] = {name: value for name, value in prepared.headers.items()}
    if change:
        change(sent)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(sent["method"], sent["target"], sent["body"], sent["headers"])
    return connection.getresponse()


def raw(method, path, *which, **more):
    """What is answered to it."""
    answer = opened(method, path, *which, **more)
    return answer.status, answer.getheader("x-amzn-errortype"), answer.read()


def label(text):
    return urllib.parse.quote(text, safe="")


EVENTS = 100


def events(answer, most):
    """Numbers and data of a stream's next events."""
    found, data = [], None
    while len(found) < most and (line := answer.readline()):
        if line.startswith(b"data: "):
            data = json.loads(line.removeprefix(b"data: "))["n"]
        elif line.startswith(b"id: "):
            found.append((int(line.removeprefix(b"id: ")), data))
    return found


def again(stream, last, **more):
    path = f"/runtimes/{facts['name']}/invocations?resumable={stream}"
    return opened("POST", path, headers={"Last-Event-ID": str(last)}, **{"key": "limited", **more})


def resumable():
    """Begins a stream with a key that may do no more, and goes on with it once."""
    code = f"import time\ndef events():\n    for n in range({EVENTS}):\n        yield {{'n': n}}\n        time.sleep(0.1)\nanswer = events()"
    session = {HEADER + "Session-Id": "a-session-that-is-gone-on-with-" + "x" * 10}
    path = f"/runtimes/{facts['name']}/invocations?resumable=true"
    first = opened("POST", path, key="limited", body=json.dumps({"code": code}).encode(), headers=session)
    assert first.status == 200, (first.status, first.read())
    stream = first.getheader("x-agentcore-task-id")
    seen = events(first, 3)
    first.close()
    second = again(stream, seen[-1][0])
    assert second.status == 200, (second.status, second.read())
    seen += events(second, 3)
    second.close()
    assert [data for _, data in seen] == list(range(6)), seen
    # To another key there is no such stream; which stream, and from where, is signed.
    assert again(stream, 0, key="operator").status == 404
    other = "t" + "0" * 25
    changed = lambda sent: sent.update(target=sent["target"].replace(stream, other))
    assert again(stream, 0, change=changed).status == 403
    assert again(stream, 0, change=lambda sent: sent["headers"].pop("Authorization")).status == 403
    print(json.dumps({"id": stream, "last": seen[-1][0]}))


def resumed():
    """Goes on with it to its end."""
    answer = again(facts["stream"]["id"], facts["stream"]["last"])
    assert answer.status == 200, (answer.status, answer.read())
    rest = [data for _, data in events(answer, EVENTS)]
    assert rest == list(range(6, EVENTS)), rest


class clock:
    """botocore's idea of now, so many seconds off."""

    def __init__(self, seconds):
        self.off = datetime.timedelta(seconds=seconds)

    def __enter__(self):
        self.real = botocore.auth.get_current_datetime
        botocore.auth.get_current_datetime = lambda *words, **more: self.real(*words, **more) + self.off

    def __exit__(self, *_):
        botocore.auth.get_current_datetime = self.real


def right():
    agentcore = client()
    answer = invoke(agentcore, "answer = payload['a'] + 1", a=41)
    assert said(answer) == 42, answer
    session = answer["runtimeSessionId"]
    assert said(invoke(agentcore, "kept['x'] = 1\nanswer = 1", session=session, user="ü & friends")) == 1
    code = "def events():\n    for n in range(3):\n        yield {'n': n}\nanswer = events()"
    lines = [line for line in invoke(agentcore, code)["response"].iter_lines() if line]
    assert lines == [b'data: {"n": %d}' % n for n in range(3)], lines
    assert agentcore.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)["statusCode"] == 200
    # The plain name, escaped in other ways than SDKs do, signed by ourselves.
    for path in [f"/runtimes/{facts['name']}/invocations", f"/runtimes/{arn}/invocations?qualifier=DEFAULT"]:
        status, _, body = raw("POST", path, body=b'{"code": "answer = 7"}')
        assert (status, body) == (200, b"7"), (status, body)
    # What is not here is told to whoever signs, for the service that it would be.
    whoever = "limited" if "limited" in facts["keys"] else "operator"
    for method, path in [("POST", "/memories/create"), ("GET", "/gateways/"), ("PUT", "/resourcepolicy/x")]:
        status, code, body = raw(method, path, whoever, b"{}")
        assert (status, code) == (400, "ValidationException") and b"this daemon has no" in body, body
    # A declared hash, as S3 clients and some gateways send it.
    body = b'{"code": "answer = 8"}'
    declared = {"x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    status, _, answer = raw("POST", f"/runtimes/{facts['name']}/invocations", body=body, headers=declared)
    assert (status, answer) == (200, b"8"), (status, answer)


def big():
    agentcore = client(retries={"total_max_attempts": 1})
    for size in (70_000, 3_000_000, 99_000_000):
        count = said(invoke(agentcore, "answer = [len(payload['fill']), payload['fill'][-3:]]", fill="x" * size + "end"))
        assert count == [size + 3, "end"], count
    # One byte of it is another.
    def tamper(request, **_):
        request.body = request.body[:-50] + b"y" + request.body[-49:]

    agentcore.meta.events.register("before-send.bedrock-agentcore.*", tamper)
    refused(lambda: invoke(agentcore, runtime=other, fill="x" * 5_000_000), REFUSED)


def wrong():
    """Nothing of this may reach an agent: all of it goes to the runtime that has no session yet."""
    messages = {
        refused(lambda: invoke(client(secret="wrong"), runtime=other), REFUSED),
        refused(lambda: invoke(client("unknown"), runtime=other), REFUSED),
        refused(lambda: invoke(client("revoked"), runtime=other), REFUSED),
        refused(lambda: invoke(client("expired"), runtime=other), REFUSED),
        refused(lambda: invoke(client(region="us-west-2"), runtime=other), REFUSED),
        refused(lambda: invoke(client("unknown"), runtime="nobody-AbCdEf1234"), REFUSED),
    }
    def change(header=None, body=None, url=None):
        def tamper(request, **_):
            if header:
                del request.headers[header[0]]
                request.headers[header[0]] = header[1]
            request.body = body or request.body
            if url:
                assert url[0] in request.url, request.url
                request.url = request.url.replace(*url)

        agentcore = client()
        agentcore.meta.events.register("before-send.bedrock-agentcore.*", tamper)
        return agentcore

    for agentcore in [
        change(body=b'{"code": "answer = \'run\'"}'),
        change(header=(HEADER + "Session-Id", "x" * 40)),
        change(header=(HEADER + "User-Id", "somebody else")),
        change(url=("/invocations", "/invocations?qualifier=DEFAULT")),
        change(url=("%3A", ":")),
    ]:
        messages.add(refused(lambda: invoke(agentcore, runtime=other, user="u"), REFUSED))
    # No answer says which of the two, or what was wrong.
    assert len(messages) == 1, messages
    refused(lambda: invoke(client(signature_version=UNSIGNED), runtime=other), "AccessDeniedException")
    refused(lambda: invoke(client(signature_version=UNSIGNED), runtime="nobody-AbCdEf1234"), "AccessDeniedException")
    # A user id beside the signature would be anybody's.
    def add(sent):
        sent["headers"][HEADER + "User-Id"] = "smuggled"

    status, code, _ = raw("POST", f"/runtimes/{label(other)}/invocations", body=b"{}", change=add)
    assert (status, code) == (403, REFUSED), (status, code)


def skewed():
    for seconds in (-16 * 60, 16 * 60):
        with clock(seconds):
            message = refused(lambda: invoke(client(), runtime=other), REFUSED)
        assert "Date" in message, message
    for seconds in (-14 * 60, 14 * 60):
        with clock(seconds):
            assert said(invoke(client())) == "ran"


def presigned():
    path = f"/runtimes/{label(arn)}/invocations?qualifier=DEFAULT"
    sign = {"signer": botocore.auth.SigV4QueryAuth}

    def at(seconds, expires, change=None):
        with clock(seconds):
            status, code, body = raw("POST", path, expires=expires, change=change, **sign)
        return status, code, body

    # Presigned calls have no payload: the agent is asked, and has no use for that.
    assert at(0, 300)[:2] == (424, "RuntimeClientError")
    assert at(-100, 150)[0] == 424
    for seconds, expires in [(-301, 300), (-151, 150), (0, 301), (0, 3600), (1000, 300)]:
        assert at(seconds, expires)[:2] == (403, REFUSED), (seconds, expires)

    def replace(old, new):
        def change(sent):
            assert old in sent["target"], sent
            sent["target"] = sent["target"].replace(old, new)

        return change

    for change in [
        replace("qualifier=DEFAULT", "qualifier=default"),
        replace("X-Amz-Expires=300", "X-Amz-Expires=299"),
        replace("X-Amz-Signature=", "X-Amz-Signature=0"),
        replace("/invocations?", "/stopruntimesession?"),
        replace("&X-Amz-SignedHeaders=host", ""),
        lambda sent: (sent["headers"].pop("Content-Length", None), sent.update(body=b'{"code": "answer = 6"}')),
        lambda sent: sent["headers"].update({HEADER + "Session-Id": "s" * 40}),
    ]:
        found = at(0, 300, change)
        assert found[:2] == (403, REFUSED), found


def unsigned():
    """UNSIGNED-PAYLOAD is the signer's own word, and nobody else's."""
    path, said = f"/runtimes/{label(arn)}/invocations", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}

    def other(sent):
        sent["body"] = b'{"code": "answer = 9"}'
        sent["headers"]["Content-Length"] = str(len(sent["body"]))

    status, _, body = raw("POST", path, body=b'{"code": "answer = 8"}', headers=said)
    assert (status, body) == (200, b"8"), (status, body)
    # So whoever is on the way may change it: that is what the signer has said.
    status, _, body = raw("POST", path, body=b'{"code": "answer = 8"}', headers=said, change=other)
    assert (status, body) == (200, b"9"), (status, body)
    there = f"/runtimes/{label(facts['other'])}/invocations"

    def declare(sent):
        sent["headers"].update(said)

    def also_signed(sent):
        sent["headers"]["X-Amz-Content-SHA256"] = hashlib.sha256(sent["body"]).hexdigest()

    body = b'{"code": "answer = 8"}'
    assert raw("POST", there, body=body, change=declare)[:2] == (403, REFUSED)
    assert raw("POST", there, body=body, headers=said, change=also_signed)[:2] == (403, REFUSED)


def http2():
    """HTTP/2 by prior knowledge, with curl: the host that was signed is its authority."""
    target = f"{endpoint}/runtimes/{label(arn)}/invocations"
    closed = f"{endpoint}/runtimes/{label(facts['other'])}/invocations"

    def curl(url, body, sent=None, change=None, to=None):
        pair = facts["keys"]["operator"]
        request = AWSRequest(method="POST", url=url, data=body, headers={HEADER + "Session-Id": "h" * 40})
        credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
        headers = {**dict(request.headers.items()), **(change or {})}
        words = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", "60", "--data-binary", "@-"]
        for name, value in {"Content-Type": "application/json", **headers}.items():
            words += ["-H", f"{name}: {value}"]
        words += ["-w", "\n%{http_version} %{http_code} %header{x-amzn-errortype}", to or url]
        out = subprocess.run(words, input=sent or body, capture_output=True, check=True)
        text, _, facts_of_it = out.stdout.rpartition(b"\n")
        return text, facts_of_it.decode().strip()

    big = json.dumps({"code": "answer = len(payload['fill'])", "fill": "x" * 300_000}).encode()
    assert curl(target, big) == (b"300000", "2 200")
    refused = f"2 403 {REFUSED}"
    for more in [
        {"sent": big[:-50] + b"y" + big[-49:]},
        {"to": closed + "?qualifier=DEFAULT"},
        {"change": {HEADER + "Session-Id": "i" * 40}},
        {"change": {HEADER + "User-Id": "somebody"}},
        {"change": {"Host": "other.amazonaws.com"}},
    ]:
        text, found = curl(closed, big, **more)
        assert found == refused, (list(more), text, found)


def limited():
    agentcore = client("limited")
    answer = invoke(agentcore)
    assert said(answer) == "ran"
    denied = "AccessDeniedException"
    there = refused(lambda: invoke(agentcore, runtime=other), denied)
    assert there == refused(lambda: invoke(agentcore, runtime="nobody-AbCdEf1234"), denied)
    assert there == refused(lambda: invoke(agentcore, runtime=other.replace("0000", "0001", 1)), denied)
    # Nor by the words of its protocol.
    path = "/runtimes/{}/invocations"
    assert raw("POST", path.format("spoken"), "limited", b"{}") == raw("POST", path.format("nobody"), "limited", b"{}")
    stop = {"agentRuntimeArn": arn, "runtimeSessionId": answer["runtimeSessionId"]}
    refused(lambda: agentcore.stop_runtime_session(**stop), denied)
    message = refused(lambda: invoke(agentcore, user="u"), denied)
    assert "InvokeAgentRuntimeForUser" in message, message
    assert said(invoke(client("for_user"), user="u")) == "ran"
    # `/v1` is operators'.
    for key, expected in [("limited", 403), ("for_user", 403), ("operator", 200)]:
        for path in ["/v1/info", "/v1/keys", "/v1/audit?maxResults=1", "/version"]:
            status, _, body = raw("GET", path, key)
            assert status == expected, (key, path, status, body)
    status, _, body = raw("POST", "/v1/keys", body=b'{"name": "made over TCP"}')
    made = json.loads(body)
    assert status == 201 and len(made["secretAccessKey"]) == 40, body
    status, _, _ = raw("DELETE", f"/v1/keys/{made['accessKeyId']}")
    assert status == 204
    # A signature for objects is none for anything else, and the other way round.
    assert raw("GET", "/v1/info", service="s3")[:2] == (403, REFUSED)
    assert raw("GET", "/bucket/key")[:2] == (403, REFUSED)
    # Without any credentials there is health, and nothing else.
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc)
    for path, expected in [("/healthz", 200), ("/readyz", 200), ("/v1/info", 403), ("/version", 403), ("/ping", 403), ("/memories/m/details", 403)]:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == expected, (path, answer.status)


def sockets():
    """As the AWS SDK's AgentCoreRuntimeClient makes them (generate_ws_connection, generate_presigned_url), but for its hosts."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    authority = urllib.parse.urlsplit(endpoint).netloc
    url = f"{endpoint}/runtimes/{label(facts['talk'])}/ws"

    def signed(key="operator", **more):
        pair = facts["keys"][key]
        now = datetime.datetime.now(datetime.timezone.utc)
        headers = {"host": authority, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
        request = AWSRequest(method="GET", url=url, headers=headers)
        credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
        found = {name: request.headers[name] for name in ("X-Amz-Date", "Authorization")}
        return url, {**found, HEADER + "Session-Id": "a" * 40, **more}

    def presigned(key="operator", seconds=0, query="qualifier=DEFAULT", **more):
        pair = facts["keys"][key]
        given = f"{url}?{query}&{HEADER}Session-Id={'a' * 40}&{HEADER}Custom-Word=b%20c"
        host = urllib.parse.urlsplit(url).hostname
        request = AWSRequest(method="GET", url=given, headers={"host": host})
        credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
        with clock(seconds):
            botocore.auth.SigV4QueryAuth(credentials, "bedrock-agentcore", REGION, expires=300).add_auth(request)
        return request.url, more

    def talk(url, headers):
        with connect(url.replace("http://", "ws://"), additional_headers=headers, close_timeout=5) as socket:
            assert socket.response.headers[HEADER + "Session-Id"] == "a" * 40
            socket.send("hello")
            assert socket.recv(timeout=20) == "hello"

    def turned_away(url, headers, code=REFUSED):
        try:
            talk(url, headers)
        except InvalidStatus as error:
            answer = error.response
            assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (403, code), answer
        else:
            raise AssertionError("not refused")

    talk(*signed())
    talk(*presigned())
    talk(*presigned(seconds=-299))
    turned_away(*presigned(seconds=-301))
    turned_away(*signed("unknown"))
    turned_away(*presigned("revoked"))
    turned_away(*signed("limited"), code="AccessDeniedException")
    turned_away(url, {}, code="AccessDeniedException")
    fresh, _ = presigned()
    for old, new in [("a" * 40, "b" * 40), ("b%20c", "b%20d"), ("DEFAULT", "default")]:
        assert old in fresh
        turned_away(fresh.replace(old, new), {})
    # Who was given a URL does not choose the session or the user.
    for name in ["Session-Id", "User-Id", "Custom-Other"]:
        turned_away(fresh, {HEADER + name: "a" * 40})


def shares():
    """One key's bodies lie where its agent does not read them: it is told to wait, another key is served meanwhile."""
    import concurrent.futures
    import time

    body = bytes(16 << 20)
    deaf, heard = facts["deaf"], facts["heard"]

    def send(key, runtime, seconds):
        settings = {"retries": {"total_max_attempts": 1}, "read_timeout": seconds}
        try:
            words = {"agentRuntimeArn": runtime, "payload": body, "runtimeSessionId": key + "-" * 33}
            answer = client(key, **settings).invoke_agent_runtime(**words)
            return answer["response"].read()
        except ClientError as error:
            return error.response
        except ReadTimeoutError:
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # The agent answers after a minute, and the room is half of 64 MiB for one of them.
        kept = [pool.submit(send, "one", deaf, 40) for _ in range(6)]
        told = []
        while len(told) < 4:
            assert not any(call.done() and call.result() is None for call in kept), kept
            told = [call.result() for call in kept if call.done()]
            # Others are not concerned, before and after those are told.
            said = send("two", heard, 60)
            assert said == b"16777216", said
            time.sleep(1)
        for answer in told:
            assert answer["Error"]["Code"] == "ThrottlingException", answer
            assert "limits.spool" in answer["Error"]["Message"], answer
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            assert int(headers["retry-after"]) >= 1 and int(headers["x-amz-retry-after"]) >= 1, headers
        # Gone, they leave room.
        assert [call.result() for call in kept if call not in told].count(None) == 2, kept
    while (said := send("one", heard, 60)) != b"16777216":
        assert said["Error"]["Code"] == "ThrottlingException", said


globals()[scenario]()
