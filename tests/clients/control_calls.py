"""The control plane with boto3, unmodified: control_calls.py ENDPOINT PART. Fails by an assertion.

Each part runs against the same daemon and leaves nothing that another part would see.
"""

import io
import json
import os
import random
import string
import sys
import tempfile
import time
import urllib.request
import uuid
import zipfile

import boto3
import bounds
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, part = sys.argv[1:3]
python = f"PYTHON_{sys.argv[3].replace('.', '_')}" if len(sys.argv) > 3 else "PYTHON_3_11"
ROLE = bounds.ROLE

AGENT = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
PATH = os.environ.get("SERVED", "/invocations")
class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send(200, {"status": "Healthy"})
    def do_POST(self):
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        if self.path == "/warm":
            return self.send(int(os.environ.get("WARM", "200")), {"warm": True})
        if self.path != PATH:
            return self.send(404, {"path": self.path})
        kept = os.environ.get("KEPT")
        if kept:
            with open(kept, "a+") as file:
                file.write("again ")
                file.seek(0)
                kept = file.read().split()
        held = b"x" * (json.loads(body or b"{}").get("hold", 0) << 20)
        self.send(200, {"env": dict(os.environ), "version": VERSION, "headers": {k.lower(): v for k, v in self.headers.items()}, "path": self.path, "held": len(held), "kept": kept})
    def send(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Agent).serve_forever()
"""


def client(service, **more):
    return boto3.client(
        service,
        endpoint_url=more.pop("url", endpoint),
        region_name=os.environ.get("REGION", "us-west-2"),
        aws_access_key_id=os.environ.get("KEY_ID", "nobody"),
        aws_secret_access_key=os.environ.get("KEY_SECRET", "nothing"),
        config=Config(parameter_validation=more.pop("checked", True), **more),
    )


control = client("bedrock-agentcore-control")
unchecked = client("bedrock-agentcore-control", checked=False)
data = client("bedrock-agentcore")
s3 = client("s3", url=f"{endpoint}/s3")


def bundle(version, name="main.py", source=AGENT):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr(name, f"VERSION = {version!r}\n{source}")
    return packed.getvalue()


def upload(version, key=None, **more):
    key = key or f"{version}.zip"
    s3.put_object(Bucket="code", Key=key, Body=bundle(version, **more))
    return key


def code(key, runtime=python, entry=("main.py",)):
    return {"codeConfiguration": {"code": {"s3": {"bucket": "code", "prefix": key}}, "runtime": runtime, "entryPoint": list(entry)}}


def name(hint):
    return hint + "_" + "".join(random.choices(string.ascii_lowercase, k=8))


def settled(id, version=None, bound=60):
    until = time.time() + bound
    more = {"agentRuntimeVersion": version} if version else {}
    while True:
        found = control.get_agent_runtime(agentRuntimeId=id, **more)
        if found["status"] not in ("CREATING", "UPDATING"):
            return found
        assert time.time() < until, found
        time.sleep(0.05)


def awaited(call, bound=30):
    """The answer, once there is no conflict any more."""
    until = time.time() + bound
    while True:
        try:
            return call()
        except control.exceptions.ConflictException:
            assert time.time() < until
            time.sleep(0.05)


def create(key, hint="agent", **more):
    made = control.create_agent_runtime(agentRuntimeName=name(hint), agentRuntimeArtifact=more.pop("artifact", None) or code(key), roleArn=ROLE, networkConfiguration={"networkMode": "PUBLIC"}, **more)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202, made
    return made


def ready(key, hint="agent", **more):
    found = settled(create(key, hint, **more)["agentRuntimeId"])
    assert found["status"] == "READY", found
    return found


def invoke(runtime, qualifier=None, session=None, **payload):
    more = {"qualifier": qualifier} if qualifier else {}
    answer = data.invoke_agent_runtime(agentRuntimeArn=runtime["agentRuntimeArn"], runtimeSessionId=session or str(uuid.uuid4()), payload=json.dumps(payload).encode(), **more)
    return json.loads(answer["response"].read())


def fails(call, kind, status, field=None, reason=None):
    try:
        call()
    except ClientError as error:
        said = error.response
        assert type(error).__name__ == kind == said["Error"]["Code"], said
        assert said["ResponseMetadata"]["HTTPStatusCode"] == status, said
        assert said["ResponseMetadata"]["RequestId"] and said["Error"]["Message"], said
        if field:
            assert field in [fault["name"] for fault in said["fieldList"]], (field, said)
        if kind == "ValidationException":
            assert said["reason"], said
        if reason:
            assert said["reason"] == reason, said
        return said
    raise AssertionError(f"no {kind}")


def lifecycle():
    key = upload("one")
    made = create(key, "life", description="Answers", environmentVariables={"COLOUR": "blue"}, tags={"team": "a"})
    assert made["agentRuntimeVersion"] == "1" and made["status"] == "CREATING", made
    assert made["agentRuntimeArn"].endswith(":runtime/" + made["agentRuntimeId"]), made
    assert made["createdAt"].year > 2000, made
    id = made["agentRuntimeId"]
    found = settled(id)
    assert found["status"] == "READY" and "failureReason" not in found, found
    assert found["agentRuntimeArtifact"] == code(key) and found["roleArn"] == ROLE, found
    assert found["description"] == "Answers" and found["environmentVariables"] == {"COLOUR": "blue"}, found
    assert found["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 900, "maxLifetime": 28800}, found
    session = str(uuid.uuid4())
    assert invoke(found, session=session)["version"] == "one"
    fails(lambda: control.create_agent_runtime(agentRuntimeName=found["agentRuntimeName"], agentRuntimeArtifact=code(key), roleArn=ROLE), "ConflictException", 409)
    # Full replacement: what is not said again is gone.
    changed = control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(upload("two")), roleArn=ROLE)
    assert changed["agentRuntimeVersion"] == "2" and changed["status"] == "UPDATING", changed
    assert changed["lastUpdatedAt"] >= changed["createdAt"], changed
    second = settled(id)
    assert second["agentRuntimeVersion"] == "2" and second["status"] == "READY", second
    assert "description" not in second and "environmentVariables" not in second, second
    assert invoke(second)["version"] == "two"
    first = control.get_agent_runtime(agentRuntimeId=id, agentRuntimeVersion="1")
    assert first["agentRuntimeVersion"] == "1" and first["description"] == "Answers", first
    fails(lambda: control.get_agent_runtime(agentRuntimeId=id, agentRuntimeVersion="3"), "ResourceNotFoundException", 404)
    versions = control.list_agent_runtime_versions(agentRuntimeId=id)["agentRuntimes"]
    assert [v["agentRuntimeVersion"] for v in versions] == ["2", "1"], versions
    listed = control.list_agent_runtimes()["agentRuntimes"]
    assert [v["agentRuntimeVersion"] for v in listed if v["agentRuntimeId"] == id] == ["2"], listed
    # A version can go, but not one that calls go to.
    fails(lambda: delete_version(id, "2"), "ConflictException", 409)
    # … nor one that a session still runs.
    said = fails(lambda: delete_version(id, "1"), "ConflictException", 409)
    assert "live sessions" in said["Error"]["Message"], said
    data.stop_runtime_session(agentRuntimeArn=found["agentRuntimeArn"], runtimeSessionId=session)
    gone = awaited(lambda: delete_version(id, "1"))
    assert gone["status"] == "DELETING" and gone["agentRuntimeVersion"] == "1", gone
    fails(lambda: control.get_agent_runtime(agentRuntimeId=id, agentRuntimeVersion="1"), "ResourceNotFoundException", 404)
    deleted = control.delete_agent_runtime(agentRuntimeId=id)
    assert deleted["status"] == "DELETING" and deleted["agentRuntimeId"] == id, deleted
    for call in (
        lambda: control.get_agent_runtime(agentRuntimeId=id),
        lambda: control.delete_agent_runtime(agentRuntimeId=id),
        lambda: control.list_agent_runtime_versions(agentRuntimeId=id),
        lambda: control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(key), roleArn=ROLE),
        lambda: control.list_agent_runtime_endpoints(agentRuntimeId=id),
        lambda: invoke(found),
    ):
        fails(call, "ResourceNotFoundException", 404)


def delete_version(id, version):
    return control.delete_agent_runtime(agentRuntimeId=id, agentRuntimeVersion=version)


def endpoints():
    found = ready(upload("e1"), "ends")
    id = found["agentRuntimeId"]
    made = control.create_agent_runtime_endpoint(agentRuntimeId=id, name="prod", description="For callers", tags={"stage": "prod"})
    assert made["targetVersion"] == "1" and made["endpointName"] == "prod", made
    assert made["agentRuntimeEndpointArn"] == found["agentRuntimeArn"] + "/runtime-endpoint/prod", made
    assert control.list_tags_for_resource(resourceArn=made["agentRuntimeEndpointArn"])["tags"] == {"stage": "prod"}
    fails(lambda: control.create_agent_runtime_endpoint(agentRuntimeId=id, name="prod"), "ConflictException", 409)
    fails(lambda: control.create_agent_runtime_endpoint(agentRuntimeId=id, name="DEFAULT"), "ConflictException", 409)
    fails(lambda: control.create_agent_runtime_endpoint(agentRuntimeId=id, name="other", agentRuntimeVersion="7"), "ResourceNotFoundException", 404)
    control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(upload("e2")), roleArn=ROLE)
    settled(id)
    # DEFAULT has moved, `prod` has not.
    assert invoke(found)["version"] == "e2" and invoke(found, "DEFAULT")["version"] == "e2"
    assert invoke(found, "prod")["version"] == "e1"
    by_arn = dict(found, agentRuntimeArn=made["agentRuntimeEndpointArn"])
    assert invoke(by_arn)["version"] == "e1"
    fails(lambda: invoke(by_arn, "DEFAULT"), "ValidationException", 400, "qualifier")
    fails(lambda: invoke(found, "nowhere"), "ResourceNotFoundException", 404)
    # The same session id at two endpoints is two sessions.
    session = str(uuid.uuid4())
    assert [invoke(found, q, session)["version"] for q in ("prod", "DEFAULT", "prod")] == ["e1", "e2", "e1"]
    seen = control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod")
    assert (seen["liveVersion"], seen["targetVersion"], seen["status"], seen["name"]) == ("1", "1", "READY", "prod"), seen
    assert seen["description"] == "For callers" and seen["id"].startswith("prod-"), seen
    fails(lambda: delete_version(id, "1"), "ConflictException", 409)
    changed = control.update_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod", agentRuntimeVersion="2")
    assert changed["liveVersion"] == "2" and changed["lastUpdatedAt"] > changed["createdAt"], changed
    # A session that lives goes on with its version; a new one runs the new one.
    assert invoke(found, "prod", session)["version"] == "e1" and invoke(found, "prod")["version"] == "e2"
    fails(lambda: control.update_agent_runtime_endpoint(agentRuntimeId=id, endpointName="nowhere", agentRuntimeVersion="2"), "ResourceNotFoundException", 404)
    fails(lambda: control.update_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT", agentRuntimeVersion="1"), "ConflictException", 409)
    names = [e["name"] for e in control.list_agent_runtime_endpoints(agentRuntimeId=id)["runtimeEndpoints"]]
    assert names == ["DEFAULT", "prod"], names
    default = control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT")
    assert (default["liveVersion"], default["status"]) == ("2", "READY"), default
    for n in range(9):
        control.create_agent_runtime_endpoint(agentRuntimeId=id, name=f"e{n}")
    fails(lambda: control.create_agent_runtime_endpoint(agentRuntimeId=id, name="many"), "ServiceQuotaExceededException", 402)
    gone = control.delete_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod")
    assert gone["status"] == "DELETING" and gone["endpointName"] == "prod", gone
    fails(lambda: control.delete_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT"), "ConflictException", 409)
    for call in (
        lambda: control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod"),
        lambda: control.delete_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod"),
        lambda: invoke(found, "prod"),
        lambda: control.list_tags_for_resource(resourceArn=made["agentRuntimeEndpointArn"]),
    ):
        fails(call, "ResourceNotFoundException", 404)
    # One whose name is an operation of the data plane.
    control.create_agent_runtime_endpoint(agentRuntimeId=id, name="invocations")
    assert control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="invocations")["status"] == "READY"
    control.delete_agent_runtime(agentRuntimeId=id)


def tags():
    made = create(upload("t"), "tags", tags={"a": "1", "b": "2"})
    arn = made["agentRuntimeArn"]
    settled(made["agentRuntimeId"])
    read = lambda: control.list_tags_for_resource(resourceArn=arn)["tags"]
    assert read() == {"a": "1", "b": "2"}
    control.tag_resource(resourceArn=arn, tags={"b": "3", "c": ""})
    assert read() == {"a": "1", "b": "3", "c": ""}
    control.untag_resource(resourceArn=arn, tagKeys=["a", "c", "not there"])
    assert read() == {"b": "3"}
    control.tag_resource(resourceArn=arn, tags={f"k{n}": "v" for n in range(49)})
    fails(lambda: control.tag_resource(resourceArn=arn, tags={"one too many": "v"}), "ServiceQuotaExceededException", 402)
    assert len(read()) == 50
    fails(lambda: control.tag_resource(resourceArn=arn, tags={"bad!": "v"}), "ValidationException", 400, "tags.bad!")
    fails(lambda: control.list_tags_for_resource(resourceArn=arn[:-10] + "0123456789"), "ResourceNotFoundException", 404)
    fails(lambda: control.list_tags_for_resource(resourceArn="arn:aws:s3:::bucket/key/of/mine"), "ValidationException", 400, "resourceArn")
    control.delete_agent_runtime(agentRuntimeId=made["agentRuntimeId"])
    fails(read, "ResourceNotFoundException", 404)


def idempotent():
    key, token = upload("i"), str(uuid.uuid4())
    asked = {"agentRuntimeName": name("idem"), "agentRuntimeArtifact": code(key), "roleArn": ROLE, "clientToken": token}
    first = control.create_agent_runtime(**asked)
    id = first["agentRuntimeId"]
    strip = lambda answer: {k: v for k, v in answer.items() if k != "ResponseMetadata"}
    assert strip(control.create_agent_runtime(**asked)) == strip(first)
    settled(id)
    assert strip(control.create_agent_runtime(**asked)) == strip(first), "and when it is ready"
    mismatch = "IdempotentParameterMismatchException"
    fails(lambda: control.create_agent_runtime(**dict(asked, description="other")), "ValidationException", 400, "clientToken", mismatch)
    update = {"agentRuntimeId": id, "agentRuntimeArtifact": code(key), "roleArn": ROLE, "clientToken": token}
    second = control.update_agent_runtime(**update)
    settled(id)
    assert strip(control.update_agent_runtime(**update)) == strip(second)
    assert len(control.list_agent_runtime_versions(agentRuntimeId=id)["agentRuntimes"]) == 2
    endpoint = {"agentRuntimeId": id, "name": "prod", "clientToken": token}
    third = control.create_agent_runtime_endpoint(**endpoint)
    assert strip(control.create_agent_runtime_endpoint(**endpoint)) == strip(third)
    fails(lambda: control.create_agent_runtime_endpoint(**dict(endpoint, name="prod2")), "ValidationException", 400, "clientToken", mismatch)
    for _ in range(2):
        assert control.delete_agent_runtime_endpoint(agentRuntimeId=id, endpointName="prod", clientToken=token)["status"] == "DELETING"
    for _ in range(2):
        assert control.delete_agent_runtime(agentRuntimeId=id, clientToken=token)["status"] == "DELETING"


def pages():
    key = upload("p")
    made = [ready(key, f"page{n}") for n in range(5)]
    ids = {found["agentRuntimeId"] for found in made}

    def walk(call, result, **more):
        seen, token = [], None
        while True:
            page = call(maxResults=2, **more, **({"nextToken": token} if token else {}))
            assert len(page[result]) <= 2, page
            seen += page[result]
            token = page.get("nextToken")
            if not token:
                return seen

    listed = walk(control.list_agent_runtimes, "agentRuntimes")
    assert len([v for v in listed if v["agentRuntimeId"] in ids]) == 5, listed
    id = made[0]["agentRuntimeId"]
    for _ in range(4):
        control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(key), roleArn=ROLE)
        settled(id)
    for n in range(4):
        control.create_agent_runtime_endpoint(agentRuntimeId=id, name=f"E{n}")
    versions = walk(control.list_agent_runtime_versions, "agentRuntimes", agentRuntimeId=id)
    assert [v["agentRuntimeVersion"] for v in versions] == ["5", "4", "3", "2", "1"], versions
    seen = walk(control.list_agent_runtime_endpoints, "runtimeEndpoints", agentRuntimeId=id)
    assert [e["name"] for e in seen] == ["DEFAULT", "E0", "E1", "E2", "E3"], seen
    # botocore's own loops, where it has them.
    for operation, key, more in (
        ("list_agent_runtimes", "agentRuntimes", {}),
        ("list_agent_runtime_versions", "agentRuntimes", {"agentRuntimeId": id}),
        ("list_agent_runtime_endpoints", "runtimeEndpoints", {"agentRuntimeId": id}),
    ):
        pager = control.get_paginator(operation).paginate(PaginationConfig={"PageSize": 2}, **more)
        assert len(pager.build_full_result()[key]) >= 5, operation
    fails(lambda: control.list_agent_runtimes(nextToken="garbage"), "ValidationException", 400, "nextToken")
    fails(lambda: control.list_agent_runtime_versions(agentRuntimeId=id, nextToken="n.x"), "ValidationException", 400, "nextToken")
    for found in made:
        control.delete_agent_runtime(agentRuntimeId=found["agentRuntimeId"])


def failures():
    # What is found out while a version is made ends in CREATE_FAILED or UPDATE_FAILED, with the reason.
    def fails_to_create(said, **more):
        id = create(more.pop("key", None), "fails", **more)["agentRuntimeId"]
        found = settled(id)
        assert found["status"] == "CREATE_FAILED" and said in found["failureReason"], found
        default = control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT")
        assert default["status"] == "CREATE_FAILED" and said in default["failureReason"], default
        assert "liveVersion" not in default, default
        fails(lambda: invoke(found), "ConflictException", 409)
        control.delete_agent_runtime(agentRuntimeId=id)

    key = upload("f")
    lacks = next(v for v in ("PYTHON_3_10", "PYTHON_3_14") if v != python)
    fails_to_create("this host lacks", artifact=code(key, lacks))
    fails_to_create("entrypoint could not be found", artifact=code(key, entry=["other.py"]))
    fails_to_create("bin/opentelemetry-instrument", artifact=code(key, entry=["opentelemetry-instrument", "main.py"]))
    s3.put_object(Bucket="code", Key="not-a.zip", Body=b"hello")
    fails_to_create("could not be unpacked", artifact=code("not-a.zip"))
    warm = {"build": {"warmup": {"action": {"httpPost": {"path": "/warm"}}}}}
    fails_to_create("503", key=key, hooksConfiguration=warm, environmentVariables={"WARM": "503"})
    s3.put_object(Bucket="code", Key="dies.zip", Body=bundle("d", source="raise SystemExit('no such luck')"))
    fails_to_create("warm-up", key="dies.zip", hooksConfiguration=warm)
    # An update that fails leaves what was served.
    found = ready(key, "keeps", hooksConfiguration=warm)
    id = found["agentRuntimeId"]
    control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(upload("g")), roleArn=ROLE, hooksConfiguration=warm, environmentVariables={"WARM": "500"})
    failed = settled(id)
    assert failed["status"] == "UPDATE_FAILED" and "500" in failed["failureReason"], failed
    default = control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT")
    assert (default["liveVersion"], default["targetVersion"], default["status"]) == ("1", "2", "UPDATE_FAILED"), default
    assert invoke(found)["version"] == "f"
    fails(lambda: control.create_agent_runtime_endpoint(agentRuntimeId=id, name="failed", agentRuntimeVersion="2"), "ConflictException", 409)
    delete_version(id, "2")
    assert control.get_agent_runtime(agentRuntimeId=id)["agentRuntimeVersion"] == "1"
    # The number is not given out again.
    assert control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code(key), roleArn=ROLE)["agentRuntimeVersion"] == "3"
    settled(id)
    control.delete_agent_runtime(agentRuntimeId=id)


def conflicts():
    # Nothing about a runtime changes while a version of it is made.
    slow = "import time\ntime.sleep(4)\n" + AGENT
    s3.put_object(Bucket="code", Key="slow.zip", Body=bundle("s", source=slow))
    warm = {"build": {"warmup": {"action": {"httpPost": {"path": "/warm"}}}}}
    id = create("slow.zip", "slow", hooksConfiguration=warm)["agentRuntimeId"]
    update = lambda: control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=code("slow.zip"), roleArn=ROLE)
    fails(update, "ConflictException", 409)
    fails(lambda: control.delete_agent_runtime(agentRuntimeId=id), "ConflictException", 409)
    assert control.get_agent_runtime_endpoint(agentRuntimeId=id, endpointName="DEFAULT")["status"] == "CREATING"
    assert settled(id)["status"] == "READY"
    control.delete_agent_runtime(agentRuntimeId=id)


def fields():
    # What a runtime is told takes effect in its sessions.
    key = upload("x")
    found = ready(
        key,
        "fields",
        environmentVariables={"COLOUR": "blue", "SERVED": "/v1/run", "EMPTY": ""},
        protocolConfiguration={"serverProtocol": "HTTP", "port": 9123, "path": "/v1/run"},
        lifecycleConfiguration={"maxLifetime": 600},
        resourceConfigurations=[{"minimumMemoryInMiB": 700}],
        requestHeaderConfiguration={"requestHeaderAllowlist": ["X-Tenant"]},
        allowedPorts=[{"portRange": {"from": 9120, "to": 9123}}, {"port": 8001}],
    )
    said = invoke(found)
    assert (said["env"]["COLOUR"], said["env"]["EMPTY"], said["env"]["PORT"], said["path"]) == ("blue", "", "9123", "/v1/run"), said
    # PUBLIC: there is a way out.
    assert said["env"]["HTTPS_PROXY"].startswith("http://"), said
    # 700 MiB at least, where the host's default of 512 would not do.
    assert invoke(found, hold=600)["held"] == 600 << 20
    # Headers that are named reach the agent, others do not.
    named = lambda request, **_: request.headers.update({"X-Tenant": "t", "X-Other": "o"})
    data.meta.events.register("before-send.bedrock-agentcore.InvokeAgentRuntime", named)
    headers = invoke(found)["headers"]
    data.meta.events.unregister("before-send.bedrock-agentcore.InvokeAgentRuntime", named)
    assert headers["x-tenant"] == "t" and "x-other" not in headers, headers
    assert found["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 600, "maxLifetime": 600}, found
    for given in ("protocolConfiguration", "resourceConfigurations", "requestHeaderConfiguration", "allowedPorts"):
        assert found[given], given
    # Ports that are allowed are reached by the address that an invocation tells: here the agent's own.
    told = data.invoke_agent_runtime(agentRuntimeArn=found["agentRuntimeArn"], payload=b"{}")["ResponseMetadata"]["HTTPHeaders"]
    ports = told["x-amzn-bedrock-agentcore-runtime-session-endpoint-url"]
    with urllib.request.urlopen(f"{ports}/9123/anything") as answer:
        assert json.load(answer) == {"status": "Healthy"}
    assert found["allowedPorts"] == [{"portRange": {"from": 9120, "to": 9123}}, {"port": 8001}], found
    # Only the idle time: the default lifetime (contract §3.5).
    idle = ready(key, "idle", lifecycleConfiguration={"idleRuntimeSessionTimeout": 120})
    assert idle["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 120, "maxLifetime": 28800}, idle
    fails(lambda: invoke(idle, hold=600), "RuntimeClientError", 424)
    # What this wire cannot say stays as `/v1` has it.
    at = f"{endpoint}/v1/runtimes/{idle['agentRuntimeName']}"
    with urllib.request.urlopen(at) as answer:
        now = json.load(answer)
    put = {"artifact": now["artifact"], "config": {**now["config"], "concurrency": "serial", "shared": True}}
    put = urllib.request.Request(at, json.dumps(put).encode(), {"content-type": "application/json"}, method="PUT")
    urllib.request.urlopen(put).close()
    control.update_agent_runtime(agentRuntimeId=idle["agentRuntimeId"], agentRuntimeArtifact=code(key), roleArn=ROLE, description="again")
    settled(idle["agentRuntimeId"])
    with urllib.request.urlopen(at) as answer:
        kept = json.load(answer)["config"]
    assert (kept["concurrency"], kept["shared"], kept["description"]) == ("serial", True, "again"), kept
    for runtime in (found, idle):
        control.delete_agent_runtime(agentRuntimeId=runtime["agentRuntimeId"])


def idle():
    # A session ends once it was idle for as long as its runtime says; the least that can be said is a minute.
    found = ready(upload("idle"), "idle", lifecycleConfiguration={"idleRuntimeSessionTimeout": 60})
    session, begun = str(uuid.uuid4()), time.time()
    invoke(found, session=session)
    while True:
        with urllib.request.urlopen(f"{endpoint}/v1/sessions/{session}") as answer:
            seen = json.load(answer)
        if seen["phase"] in ("ended", "failed"):
            break
        assert time.time() < begun + 90, seen
        time.sleep(0.5)
    assert seen["endReason"] == "idle" and time.time() > begun + 59, seen
    control.delete_agent_runtime(agentRuntimeId=found["agentRuntimeId"])


def storage():
    # Session storage outlives its session; another session has its own.
    mount = [{"sessionStorage": {"mountPath": "/mnt/data/"}}]
    found = ready(upload("s"), "storage", filesystemConfigurations=mount, environmentVariables={"KEPT": "/mnt/data/log"})
    assert found["filesystemConfigurations"] == mount, found
    session, other = str(uuid.uuid4()), str(uuid.uuid4())
    for times in (1, 2, 3):
        assert invoke(found, session=session)["kept"] == ["again"] * times
        data.stop_runtime_session(agentRuntimeArn=found["agentRuntimeArn"], runtimeSessionId=session)
    assert invoke(found, session=other)["kept"] == ["again"]
    control.delete_agent_runtime(agentRuntimeId=found["agentRuntimeId"])


def sdk():
    # The SDK's own client, unmodified, pointed here as AWS's SDKs are.
    os.environ.update({
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": endpoint, "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
    })
    from bedrock_agentcore._utils.config import WaitConfig
    from bedrock_agentcore.runtime import AgentCoreRuntimeClient

    client, wait = AgentCoreRuntimeClient(region="us-west-2"), WaitConfig(max_wait=60, poll_interval=1)
    made = client.create_agent_runtime_and_wait(wait_config=wait, agent_runtime_name=name("sdk"), agent_runtime_artifact=code(upload("s1")), role_arn=ROLE)
    id = made["agentRuntimeId"]
    assert made["status"] == "READY" and invoke(made)["version"] == "s1", made
    endpoint_made = client.create_agent_runtime_endpoint_and_wait(wait_config=wait, agentRuntimeId=id, name="prod")
    assert endpoint_made["status"] == "READY", endpoint_made
    changed = client.update_agent_runtime_and_wait(wait_config=wait, agentRuntimeId=id, agentRuntimeArtifact=code(upload("s2")), roleArn=ROLE)
    assert changed["agentRuntimeVersion"] == "2" and invoke(made)["version"] == "s2" and invoke(made, "prod")["version"] == "s1"
    client.update_agent_runtime_endpoint_and_wait(wait_config=wait, agentRuntimeId=id, endpointName="prod", agentRuntimeVersion="2")
    assert invoke(made, "prod")["version"] == "s2"
    try:
        client.create_agent_runtime_and_wait(wait_config=wait, agentRuntimeName=name("sdk"), agentRuntimeArtifact=code("s1.zip", entry=["other.py"]), roleArn=ROLE)
    except Exception as error:
        assert "could not be found" in str(error), error
    else:
        raise AssertionError("a runtime without its entrypoint is READY")
    client.delete_agent_runtime_and_wait(wait_config=wait, agentRuntimeId=id)
    fails(lambda: control.get_agent_runtime(agentRuntimeId=id), "ResourceNotFoundException", 404)


def refused():
    # Beyond the model's bounds: rules between fields, and what is not offered.
    key = upload("r")
    sound = {"agentRuntimeName": name("refused"), "agentRuntimeArtifact": code(key), "roleArn": ROLE}
    post = lambda path, **more: {"build": {"warmup": {"action": {"httpPost": {"path": path, **more}}}}}
    http = lambda **more: {"serverProtocol": "HTTP", **more}
    image = {"containerConfiguration": {"containerUri": "123456789012.dkr.ecr.us-west-2.amazonaws.com/agent:1"}}
    at = "agentRuntimeArtifact.codeConfiguration"
    for changed, field in (
        ({"agentRuntimeArtifact": image}, "agentRuntimeArtifact.containerConfiguration"),
        ({"agentRuntimeArtifact": code("missing.zip")}, f"{at}.code.s3"),
        ({"agentRuntimeArtifact": code(key, entry=["main.js"])}, f"{at}.entryPoint"),
        ({"agentRuntimeArtifact": code(key, entry=["wrapper", "main.py"])}, f"{at}.entryPoint[0]"),
        ({"agentRuntimeArtifact": code(key, entry=["../main.py"])}, f"{at}.entryPoint"),
        ({"networkConfiguration": {"networkMode": "VPC", "networkModeConfig": {"subnets": ["subnet-01234567"], "securityGroups": ["sg-01234567"]}}}, "networkConfiguration.networkMode"),
        ({"protocolConfiguration": http(port=8443)}, "protocolConfiguration.port"),
        ({"lifecycleConfiguration": {"idleRuntimeSessionTimeout": 900, "maxLifetime": 600}}, "lifecycleConfiguration.idleRuntimeSessionTimeout"),
        ({"environmentVariables": {"PORT": "1"}}, "environmentVariables.PORT"),
        ({"environmentVariables": {"A=B": "1"}}, "environmentVariables.A=B"),
        ({"requestHeaderConfiguration": {"requestHeaderAllowlist": ["Host"]}}, "requestHeaderConfiguration.requestHeaderAllowlist[0]"),
        ({"hooksConfiguration": post("/ping")}, "hooksConfiguration.build.warmup.action.httpPost.path"),
        ({"hooksConfiguration": post("/warm", port=9999)}, "hooksConfiguration.build.warmup.action.httpPost.port"),
        ({"resourceConfigurations": [{"minimumMemoryInMiB": 1 << 30}]}, "resourceConfigurations[0].minimumMemoryInMiB"),
        ({"resourceConfigurations": [{"minimumMemoryInMiB": -5}]}, "resourceConfigurations[0].minimumMemoryInMiB"),
        ({"filesystemConfigurations": [{"efsAccessPoint": {"accessPointArn": "arn:aws:elasticfilesystem:us-west-2:123456789012:access-point/fsap-01234567", "mountPath": "/mnt/data"}}]}, "filesystemConfigurations[0]"),
        ({"allowedPorts": [{"portRange": {"from": 9000, "to": 12001}}]}, "allowedPorts[0].portRange.to"),
        ({"allowedPorts": [{"port": 9000 + n} for n in range(6)]}, "allowedPorts"),
        ({"allowedPorts": [{"port": 8443}]}, "allowedPorts[0]"),
        ({"allowedPorts": [{"port": 9000}, {"portRange": {"from": 9002, "to": 9001}}]}, "allowedPorts[1]"),
        ({"allowedPorts": [{"portRange": {"from": 9000, "to": 9010}}, {"port": 9005}]}, "allowedPorts[1]"),
        ({"platformVersion": "V2"}, "platformVersion"),
        ({"capacityProviderConfiguration": {"capacityProviderArn": "arn:aws:bedrock-agentcore:us-west-2:123456789012:capacity-provider/a-0123456789"}}, "capacityProviderConfiguration"),
    ):
        fails(lambda: control.create_agent_runtime(**{**sound, **changed}), "ValidationException", 400, field)
    said = fails(lambda: control.create_agent_runtime(**{**sound, "lifecycleConfiguration": {"idleRuntimeSessionTimeout": 900, "maxLifetime": 600}}), "ValidationException", 400)
    assert "idleRuntimeSessionTimeout must be less than or equal to maxLifetime" in said["Error"]["Message"], said
    # All faults at once, and nothing was made.
    said = fails(lambda: control.create_agent_runtime(**{**sound, "platformVersion": "V2", "allowedPorts": [{"port": 8443}]}), "ValidationException", 400)
    assert len(said["fieldList"]) == 2, said
    assert sound["agentRuntimeName"] not in [v["agentRuntimeName"] for v in control.list_agent_runtimes()["agentRuntimes"]]
    fails(lambda: control.get_agent_runtime(agentRuntimeId="nobody-0123456789"), "ResourceNotFoundException", 404)
    fails(lambda: control.put_resource_policy(resourceArn="arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/a-0123456789", policy="{}"), "ValidationException", 400)
    fails(lambda: control.list_capacity_providers(), "ValidationException", 400)
    found = ready(key, "refused")
    update = lambda: control.update_agent_runtime(agentRuntimeId=found["agentRuntimeId"], agentRuntimeArtifact=code(key), roleArn=ROLE, metadataConfiguration={"requireMMDSV2": False})
    fails(update, "ValidationException", 400, "metadataConfiguration.requireMMDSV2")
    control.delete_agent_runtime(agentRuntimeId=found["agentRuntimeId"])


def validation():
    """Every bound of the model: a value outside it is a 400 that names the field."""
    bounds.send_unknown_members()
    model = bounds.Bounds("bedrock-agentcore-control")
    key = upload("v")
    runtime = ready(key, "bounds")
    id = runtime["agentRuntimeId"]
    sound = {
        "CreateAgentRuntime": {"agentRuntimeName": name("bounds"), "agentRuntimeArtifact": code(key), "roleArn": ROLE, "clientToken": "a" * 40},
        "UpdateAgentRuntime": {"agentRuntimeId": id, "agentRuntimeArtifact": code(key), "roleArn": ROLE, "clientToken": "b" * 40},
        "GetAgentRuntime": {"agentRuntimeId": id},
        "DeleteAgentRuntime": {"agentRuntimeId": id, "clientToken": "c" * 40},
        "ListAgentRuntimes": {},
        "ListAgentRuntimeVersions": {"agentRuntimeId": id},
        "CreateAgentRuntimeEndpoint": {"agentRuntimeId": id, "name": "bounds", "clientToken": "d" * 40},
        "UpdateAgentRuntimeEndpoint": {"agentRuntimeId": id, "endpointName": "bounds", "clientToken": "e" * 40},
        "GetAgentRuntimeEndpoint": {"agentRuntimeId": id, "endpointName": "bounds"},
        "DeleteAgentRuntimeEndpoint": {"agentRuntimeId": id, "endpointName": "bounds", "clientToken": "f" * 40},
        "ListAgentRuntimeEndpoints": {"agentRuntimeId": id},
        "TagResource": {"resourceArn": runtime["agentRuntimeArn"], "tags": {}},
        "UntagResource": {"resourceArn": runtime["agentRuntimeArn"], "tagKeys": []},
        "ListTagsForResource": {"resourceArn": runtime["agentRuntimeArn"]},
    }

    tried = bounds.hold(unchecked, model, sound)
    assert tried > 400, tried
    # Nothing of all that was done.
    assert control.get_agent_runtime(agentRuntimeId=id)["agentRuntimeVersion"] == "1"
    assert len(control.list_agent_runtime_endpoints(agentRuntimeId=id)["runtimeEndpoints"]) == 1
    control.delete_agent_runtime(agentRuntimeId=id)
    print(tried, "requests refused")


def artifacts():
    s3.head_bucket(Bucket="some-bucket")
    s3.create_bucket(Bucket="some-bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    body = os.urandom(100_000)
    for algorithm in (None, "CRC32", "SHA256"):
        more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        put = s3.put_object(Bucket="some-bucket", Key="a/b c+\u00fc.bin", Body=body, ContentType="application/x-mine", **more)
    head = s3.head_object(Bucket="some-bucket", Key="a/b c+\u00fc.bin", ExpectedBucketOwner="000000000000")
    assert head["ContentLength"] == len(body) and head["ETag"] == put["ETag"] and head["VersionId"] == put["VersionId"], head
    assert head["ContentType"] == "application/x-mine" and head["LastModified"].year > 2000, head
    get = lambda **more: s3.get_object(Bucket="some-bucket", Key="a/b c+\u00fc.bin", **more)["Body"].read()
    assert get() == body and get(Range="bytes=10-19") == body[10:20] and get(VersionId=put["VersionId"]) == body
    # What is larger than 8 MB goes in parts, several at a time; what comes back, in ranges.
    large = os.urandom(21_000_000)
    s3.upload_fileobj(io.BytesIO(large), "some-bucket", "large.bin")
    back = io.BytesIO()
    s3.download_fileobj("some-bucket", "large.bin", back)
    assert back.getvalue() == large
    with tempfile.NamedTemporaryFile() as file:
        file.write(large)
        file.flush()
        s3.upload_file(file.name, "some-bucket", "file.bin")
    assert s3.head_object(Bucket="some-bucket", Key="file.bin")["ETag"].endswith('-3"')
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="some-bucket")["Contents"]]
    assert keys == ["a/b c+\u00fc.bin", "file.bin", "large.bin"], keys
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket="some-bucket", PaginationConfig={"PageSize": 1})
    assert [found["Key"] for page in listed for found in page["Contents"]] == keys
    assert s3.list_objects_v2(Bucket="some-bucket", Prefix="a/")["KeyCount"] == 1

    def s3_fails(call, error, status):
        try:
            call()
        except ClientError as found:
            said = found.response
            assert (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]) == (error, status), said
            return
        raise AssertionError(f"no {error}")

    bad = lambda **more: s3.put_object(Bucket="some-bucket", Key="bad", Body=b"hello", **more)
    s3_fails(lambda: bad(ChecksumCRC32="AAAAAA=="), "BadDigest", 400)
    s3_fails(lambda: bad(ContentMD5="AAAAAAAAAAAAAAAAAAAAAA=="), "BadDigest", 400)
    s3_fails(lambda: bad(Metadata={"a": "b"}), "NotImplemented", 400)
    s3_fails(lambda: bad(ExpectedBucketOwner="123456789012"), "AccessDenied", 403)
    # A refusal does not spoil the connection that it came on.
    for _ in range(20):
        s3_fails(lambda: bad(Metadata={"a": "b"}), "NotImplemented", 400)
        s3.head_bucket(Bucket="some-bucket")
    s3_fails(lambda: s3.get_object(Bucket="some-bucket", Key="bad"), "NoSuchKey", 404)
    s3_fails(lambda: s3.head_object(Bucket="some-bucket", Key="bad"), "404", 404)
    s3_fails(lambda: s3.get_bucket_acl(Bucket="some-bucket"), "NotImplemented", 400)
    s3_fails(lambda: s3.upload_part(Bucket="some-bucket", Key="a", UploadId="x", PartNumber=1, Body=b""), "NoSuchUpload", 404)
    upload = s3.create_multipart_upload(Bucket="some-bucket", Key="parts")["UploadId"]
    etag = s3.upload_part(Bucket="some-bucket", Key="parts", UploadId=upload, PartNumber=1, Body=b"one")["ETag"]
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"0123"'}]}
    s3_fails(lambda: s3.complete_multipart_upload(Bucket="some-bucket", Key="parts", UploadId=upload, MultipartUpload=wrong), "InvalidPart", 400)
    s3.complete_multipart_upload(Bucket="some-bucket", Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert s3.get_object(Bucket="some-bucket", Key="parts")["Body"].read() == b"one"
    upload = s3.create_multipart_upload(Bucket="some-bucket", Key="parts")["UploadId"]
    s3.abort_multipart_upload(Bucket="some-bucket", Key="parts", UploadId=upload)
    s3_fails(lambda: s3.upload_part(Bucket="some-bucket", Key="parts", UploadId=upload, PartNumber=1, Body=b""), "NoSuchUpload", 404)
    # A version is of the bytes that the object had when it was asked for, and of the object's own version.
    key = "moving.zip"
    old = s3.put_object(Bucket="code", Key=key, Body=bundle("old"))["VersionId"]
    found = ready(key, "moving")
    new = s3.put_object(Bucket="code", Key=key, Body=bundle("new"))["VersionId"]
    assert invoke(found)["version"] == "old"
    named = lambda version: {"codeConfiguration": {**code(key)["codeConfiguration"], "code": {"s3": {"bucket": "code", "prefix": key, "versionId": version}}}}
    id = found["agentRuntimeId"]
    fails(lambda: control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=named(old), roleArn=ROLE), "ValidationException", 400, "agentRuntimeArtifact.codeConfiguration.code.s3.versionId")
    control.update_agent_runtime(agentRuntimeId=id, agentRuntimeArtifact=named(new), roleArn=ROLE)
    assert settled(id)["status"] == "READY" and invoke(found)["version"] == "new"
    control.delete_agent_runtime(agentRuntimeId=id)
    for gone in keys + ["parts"]:
        s3.delete_object(Bucket="some-bucket", Key=gone)
    assert s3.list_objects_v2(Bucket="some-bucket")["KeyCount"] == 0


def signed():
    """With an access key: everything goes; with one limited to a runtime and some actions, only that."""
    found = ready(upload("signed"), "signed")
    assert invoke(found)["version"] == "signed"
    # One with an authorizer takes tokens, and no signatures; its control plane goes on taking those.
    jwt = {"customJWTAuthorizer": {"discoveryUrl": "https://id.example/.well-known/openid-configuration", "allowedAudience": ["a"], "customClaims": [{"inboundTokenClaimName": "role", "inboundTokenClaimValueType": "STRING_ARRAY", "authorizingClaimMatchValue": {"claimMatchValue": {"matchValueStringList": ["x", "y"]}, "claimMatchOperator": "CONTAINS_ANY"}}]}}
    tokens = ready("signed.zip", "tokens", authorizerConfiguration=jwt)
    assert tokens["authorizerConfiguration"] == jwt, tokens
    said = fails(lambda: invoke(tokens), "AccessDeniedException", 403)
    assert "Authorization method mismatch" in said["Error"]["Message"], said
    # What is larger goes in parts, each signed.
    s3.upload_fileobj(io.BytesIO(os.urandom(9_000_000)), "code", "large.bin")
    s3.delete_object(Bucket="code", Key="large.bin")
    wrong = lambda service, **more: boto3.client(service, endpoint_url=more.pop("url", endpoint), region_name=os.environ["REGION"], aws_access_key_id=os.environ["KEY_ID"], aws_secret_access_key="wrong")
    for call in (
        lambda: wrong("bedrock-agentcore-control").list_agent_runtimes(),
        lambda: wrong("s3", url=f"{endpoint}/s3").put_object(Bucket="code", Key="a", Body=b"b"),
    ):
        try:
            call()
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error.response
        else:
            raise AssertionError("a wrong secret was taken")


def limited():
    """With a key for GetAgentRuntime of `mine` only."""
    mine, other = sys.argv[4:6]
    assert control.get_agent_runtime(agentRuntimeId=mine)["status"] == "READY"
    for call in (
        lambda: control.get_agent_runtime(agentRuntimeId=other),
        # One that does not exist looks the same.
        lambda: control.get_agent_runtime(agentRuntimeId="nobody-0123456789"),
        lambda: control.delete_agent_runtime(agentRuntimeId=mine),
        lambda: control.list_agent_runtimes(),
        lambda: control.create_agent_runtime(agentRuntimeName="mine2", agentRuntimeArtifact=code("a"), roleArn=ROLE),
        lambda: control.list_tags_for_resource(resourceArn=f"arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/{mine}"),
    ):
        fails(call, "AccessDeniedException", 403)
    try:
        s3.put_object(Bucket="code", Key="a", Body=b"b")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDenied", error.response
    else:
        raise AssertionError("a limited key may upload")


if __name__ == "__main__":
    globals()[part]()
