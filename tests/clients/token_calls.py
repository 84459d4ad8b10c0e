"""Callers with bearer tokens: token_calls.py SCENARIO FACTS, where FACTS is JSON with the endpoint, the runtimes' ARNs, a key
and the issuer (tests/fixtures/issuer.py). Fails by an assertion."""

import base64
import hashlib
import hmac
import http.client
import io
import json
import sys
import time
import urllib.parse
import zipfile

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

scenario, facts = sys.argv[1], json.loads(sys.argv[2])
endpoint, issuer, arns = facts["endpoint"], facts["issuer"], facts["arns"]
HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-"


def http_call(base, method, path, body=b"", headers=None):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer, answer.read()


def mint(key="one", alg=None, headers=None, **claims):
    asked = {"key": key, "alg": alg, "claims": claims, "headers": headers or {}}
    return http_call(issuer, "POST", "/mint", json.dumps(asked))[1].decode()


def publish(*names):
    http_call(issuer, "POST", "/publish", json.dumps(names))


def path(runtime="tokened", operation="invocations"):
    return f"/runtimes/{urllib.parse.quote(arns[runtime], safe='')}/{operation}"


def call(token, runtime="tokened", code="answer = 'ran'", operation="invocations", session=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if session:
        headers[HEADER + "Session-Id"] = session
    body = json.dumps({"code": code} if operation == "invocations" else {})
    answer, text = http_call(endpoint, "POST", path(runtime, operation), body, headers)
    return answer.status, answer.getheader("x-amzn-errortype"), text, answer.getheader("www-authenticate")


def refused(found, status=401, code="UnauthorizedException"):
    assert found[:2] == (status, code), found
    if status == 401:
        assert found[3].startswith("Bearer resource_metadata="), found
    return json.loads(found[2])["message"]


def good():
    for token in [mint(), mint("curve"), mint("edward"), mint(aud=["x", "agents"])]:
        assert call(token)[:3:2] == (200, b'"ran"')
    # As AWS's documentation has boto3 do it.
    agentcore = boto3.client(
        "bedrock-agentcore", endpoint_url=endpoint, region_name="us-local-1", config=Config(signature_version=UNSIGNED)
    )
    agentcore.meta.events.register_first(
        "before-sign.bedrock-agentcore.*", lambda request, **_: request.headers.add_header("Authorization", f"Bearer {mint()}")
    )
    words = {"agentRuntimeArn": arns["tokened"], "payload": b'{"code": "answer = 3"}'}
    answer = agentcore.invoke_agent_runtime(**words)
    assert json.loads(answer["response"].read()) == 3, answer
    stopped = agentcore.stop_runtime_session(
        agentRuntimeArn=arns["tokened"], runtimeSessionId=answer["runtimeSessionId"]
    )
    assert stopped["statusCode"] == 200, stopped
    # As a browser's WebSocket carries it.
    encoded = base64.urlsafe_b64encode(mint().encode()).decode().rstrip("=")
    offer = {"Sec_WebSocket_Protocol": f"base64UrlBearerAuthorization.{encoded}, base64UrlBearerAuthorization"}
    assert call(None, **offer)[0] == 200


def metadata():
    found = call(None)
    refused(found)
    url = found[3].split('resource_metadata="')[1].split('"')[0]
    assert url.startswith(endpoint) and ", error" not in found[3], found
    parts = urllib.parse.urlsplit(url)
    answer, body = http_call(endpoint, "GET", f"{parts.path}?{parts.query}")
    document = json.loads(body)
    assert answer.status == 200, body
    assert document["authorization_servers"] == [issuer] and document["resource"] + "/.well-known" in url, document
    for other in ["signed", "nobody"]:
        there = path(other) if other in arns else "/runtimes/nobody/invocations"
        answer, body = http_call(endpoint, "GET", there + "/.well-known/oauth-protected-resource")
        assert answer.status == 404 and b"takes bearer tokens" in body, (other, body)


def bad():
    now = int(time.time())
    messages = set()
    pieces = mint().split(".")

    def crafted(header, claims=None):
        encode = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        return f"{encode(header)}.{encode(claims) if claims else pieces[1]}"

    confused = crafted({"alg": "HS256", "kid": "one", "typ": "JWT"})
    secret = hmac.new(facts["pem"].encode(), confused.encode(), hashlib.sha256).digest()
    confused += "." + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    for token in [
        mint(exp=now - 120),
        mint(exp=None),
        mint(nbf=now + 3600),
        mint(iss="http://elsewhere.test"),
        mint(iss=None),
        mint(aud="others"),
        mint(aud=None),
        mint(sub=None),
        mint("stranger"),
        mint("stranger", headers={"kid": "one"}),
        mint("one", headers={"kid": "curve"}),
        mint("one", "RS512", headers={"kid": "edward"}),
        mint("small"),
        crafted({"alg": "none", "kid": "one"}) + ".",
        confused,
        f"{pieces[0]}.{pieces[1]}x.{pieces[2]}",
        ".".join(pieces[:2]) + ".",
        "a.b.c",
        "x",
        "x" * 20_000,
    ]:
        found = call(token)
        messages.add(refused(found))
        assert 'error="invalid_token"' in found[3], found
    assert len(messages) == 1, messages
    found = call(mint(scope="other", client_id="web"), "strict")
    refused(found, 403, "AccessDeniedException")
    assert 'error="insufficient_scope", scope="call"' in found[3], found
    refused(call(mint(scope="call", groups=["c"], client_id="web"), "strict"), 403, "AccessDeniedException")
    refused(call(mint(scope="call", groups=["a"], client_id="x"), "strict"))
    assert call(mint(scope="x call", groups=["a"], client_id="web"), "strict")[0] == 200
    # Never both: tokens where requests are signed, signatures where tokens are.
    mismatch = refused(call(mint(), "signed"), 403, "AccessDeniedException")
    assert "Authorization method mismatch" in mismatch, mismatch
    signing = boto3.client(
        "bedrock-agentcore", endpoint_url=endpoint, region_name="us-local-1",
        aws_access_key_id=facts["key"]["accessKeyId"], aws_secret_access_key=facts["key"]["secretAccessKey"],
    )  # fmt: skip
    signing.invoke_agent_runtime(agentRuntimeArn=arns["signed"], payload=b'{"code": "answer = 1"}')["response"].read()
    try:
        signing.invoke_agent_runtime(agentRuntimeArn=arns["tokened"], payload=b"{}")
        raise SystemExit("signed where tokens are")
    except ClientError as error:
        assert error.response["Error"] == {"Code": "AccessDeniedException", "Message": mismatch}, error.response
    # A token opens its runtime's operations and nothing of ours; whom it is for, its bearer does not choose.
    for place in ["/v1/info", "/v1/sessions", "/version"]:
        answer, _ = http_call(endpoint, "GET", place, headers={"Authorization": f"Bearer {mint()}"})
        assert answer.status == 403, place
    refused(call(mint(), **{HEADER + "User-Id": "bob"}), 403, "AccessDeniedException")
    assert call(mint(), **{HEADER + "User-Id": "alice"})[0] == 200


def rotated():
    def fetched(document="/keys"):
        return json.loads(http_call(issuer, "GET", "/counts")[1]).get(document, 0)

    # Asked once, however many tokens and runtimes there are.
    for _ in range(10):
        assert call(mint())[0] == call(mint("curve"))[0] == 200
        refused(call(mint(aud="others")))
    assert call(mint(scope="call", groups=["a"], client_id="web"), "strict")[0] == 200
    assert fetched() == fetched("/.well-known/openid-configuration") == 1, fetched()
    publish("two", "curve")
    assert call(mint("two"))[0] == 200, "a new key"
    refused(call(mint("one")))
    before = fetched()
    for number in range(60):
        refused(call(mint("stranger", headers={"kid": f"made-up-{number}"})))
    assert fetched() - before <= 3, (before, fetched())
    assert call(mint("curve"))[0] == 200


AGENT = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send({"status": "Healthy"})
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send(dict(self.headers.items()))
    def send(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Agent).serve_forever()
"""


def made():
    """An authorizer as boto3 makes it: created, called, taken away."""

    def client(service, path=""):
        return boto3.client(
            service, endpoint_url=endpoint + path, region_name="us-local-1",
            aws_access_key_id=facts["key"]["accessKeyId"], aws_secret_access_key=facts["key"]["secretAccessKey"],
        )  # fmt: skip

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("agent.py", AGENT)
    client("s3", "/s3").put_object(Bucket="code", Key="agent.zip", Body=packed.getvalue())
    control, signing = client("bedrock-agentcore-control"), client("bedrock-agentcore")
    words = {
        "agentRuntimeArtifact": {
            "codeConfiguration": {
                "code": {"s3": {"bucket": "code", "prefix": "agent.zip"}},
                "runtime": facts["python"],
                "entryPoint": ["agent.py"],
            }
        },
        "roleArn": "arn:aws:iam::123456789012:role/agent",
        "networkConfiguration": {"networkMode": "PUBLIC"},
    }
    jwt = {"discoveryUrl": issuer + "/.well-known/openid-configuration", "allowedAudience": ["agents"]}
    authorizer = {"authorizerConfiguration": {"customJWTAuthorizer": jwt}}
    listed = {"requestHeaderConfiguration": {"requestHeaderAllowlist": ["Authorization"]}}

    def ready(found):
        until = time.monotonic() + 60
        while found["status"] in ("CREATING", "UPDATING"):
            assert time.monotonic() < until, found
            time.sleep(0.05)
            found = control.get_agent_runtime(agentRuntimeId=id)
        assert found["status"] == "READY", found

    def update(**more):
        ready(control.update_agent_runtime(agentRuntimeId=id, **words, **more))

    def seen(token):
        status, _, text, _ = call(token, "made")
        assert status == 200, text
        return {name.lower(): value for name, value in json.loads(text).items()}

    def signed():
        answer = signing.invoke_agent_runtime(agentRuntimeArn=arns["made"], payload=b"{}")
        return {name.lower(): value for name, value in json.loads(answer["response"].read()).items()}

    def mismatched(call):
        try:
            call()
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDeniedException", error.response
            assert "Authorization method mismatch" in error.response["Error"]["Message"], error.response
        else:
            raise AssertionError("signed where tokens are")

    created = control.create_agent_runtime(agentRuntimeName="made", **words, **authorizer)
    id, arns["made"] = created["agentRuntimeId"], created["agentRuntimeArn"]
    ready(created)
    assert control.get_agent_runtime(agentRuntimeId=id)["authorizerConfiguration"]["customJWTAuthorizer"] == jwt
    # The token stays here, as it is not listed.
    assert "authorization" not in seen(mint())
    refused(call(None, "made"))
    refused(call(mint(aud="others"), "made"))
    mismatched(signed)
    update(**authorizer, **listed)
    token = mint()
    assert seen(token)["authorization"] == f"Bearer {token}"
    # Without an authorizer it would be a signature, and an agent's to use.
    try:
        update(**listed)
    except ClientError as error:
        found = error.response
        assert found["Error"]["Code"] == "ValidationException", found
        assert found["fieldList"][0]["name"] == "requestHeaderConfiguration.requestHeaderAllowlist[0]", found
    else:
        raise AssertionError("a signature would be passed on")
    assert seen(token)["authorization"] == f"Bearer {token}"
    update()
    assert "authorization" not in signed()
    refused(call(token, "made"), 403, "AccessDeniedException")
    update(**authorizer)
    assert "authorization" not in seen(token)
    mismatched(signed)


def unavailable():
    messages = set()
    for runtime in facts["failing"]:
        begun = time.monotonic()
        messages.add(refused(call(mint(iss=f"{issuer}/{runtime}"), runtime)))
        assert time.monotonic() - begun < 8, runtime
        begun = time.monotonic()
        refused(call(mint(iss=f"{issuer}/{runtime}"), runtime))
        assert time.monotonic() - begun < 2, f"{runtime}: asked again at once"
    assert len(messages) == 1, messages


def owned():
    session, birth = "a-session-id-that-both-callers-choose-1", "import time\nanswer = kept.setdefault('born', time.time())"
    born = {sub: call(mint(sub=sub), code=birth, session=session)[2] for sub in ("alice", "bob")}
    assert born["alice"] != born["bob"], born
    # Another token of the same subject is the same caller; the same subject of another issuer would not be.
    assert call(mint("curve", sub="alice"), code=birth, session=session)[2] == born["alice"]

    def stop(sub):
        return call(mint(sub=sub), operation="stopruntimesession", session=session)

    there, never = stop("carol"), call(mint(), operation="stopruntimesession", session="b" * 40)
    assert there[:2] == never[:2] == (404, "ResourceNotFoundException"), (there, never)
    assert there[2].replace(session.encode(), b"") == never[2].replace(b"b" * 40, b""), (there, never)
    assert stop("bob")[0] == 200
    assert call(mint(sub="alice"), code=birth, session=session)[2] == born["alice"]
    assert call(mint(sub="bob"), code=birth, session=session)[2] not in born.values()


globals()[scenario]()
