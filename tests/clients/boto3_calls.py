"""boto3, unmodified, against a daemon of the test's own: boto3_calls.py ENDPOINT ARN SESSION. Fails by an assertion."""

import json
import sys
import time

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, arn, session = sys.argv[1:]


def client(**settings):
    return boto3.client(
        "bedrock-agentcore",
        endpoint_url=endpoint,
        region_name="us-west-2",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(**settings),
    )


def invoke(agentcore, code, runtime=arn, **more):
    payload = json.dumps({"code": code, **more}).encode()
    return agentcore.invoke_agent_runtime(agentRuntimeArn=runtime, runtimeSessionId=session, payload=payload)


def fails(call, kind, status):
    try:
        call()
    except ClientError as error:
        said = error.response
        assert isinstance(error, kind), (type(error), said)
        assert said["Error"]["Code"] == kind.__name__, said
        assert said["ResponseMetadata"]["HTTPStatusCode"] == status, said
        assert said["ResponseMetadata"]["RequestId"], said
        assert said["ResponseMetadata"]["RetryAttempts"] == 0, said
        return said
    raise AssertionError(f"no {kind.__name__}")


def plain():
    # Whoever signs and whoever does not is served: on loopback of a developer's daemon nobody looks at signatures.
    for agentcore in (client(), client(signature_version=UNSIGNED)):
        answer = invoke(agentcore, "answer = {'sum': payload['a'] + 1, 'ü': None}", a=41)
        assert answer["statusCode"] == 200 and answer["runtimeSessionId"] == session, answer
        assert answer["contentType"].startswith("application/json"), answer
        assert json.loads(answer["response"].read()) == {"sum": 42, "ü": None}


def streamed():
    code = "import time\ndef events():\n    for n in range(4):\n        yield {'n': n}\n        time.sleep(0.3)\nanswer = events()"
    answer = invoke(client(), code)
    assert answer["contentType"].startswith("text/event-stream"), answer
    seen = []
    for line in answer["response"].iter_lines(chunk_size=1):
        if line:
            assert line.startswith(b"data: "), line
            seen.append((json.loads(line[len(b"data: ") :]), time.monotonic()))
    assert [event for event, _ in seen] == [{"n": n} for n in range(4)], seen
    assert seen[-1][1] - seen[0][1] > 0.6, f"not as they come: {seen}"


def errors():
    agentcore = client()
    kinds = agentcore.exceptions
    said = fails(lambda: invoke(agentcore, "raise RuntimeError('boom')"), kinds.RuntimeClientError, 424)
    assert "500" in said["Error"]["Message"], said
    fails(lambda: invoke(agentcore, "", runtime="nobody"), kinds.ResourceNotFoundException, 404)
    unknown = {"agentRuntimeArn": arn, "qualifier": "nowhere", "payload": b"{}"}
    fails(lambda: agentcore.invoke_agent_runtime(**unknown), kinds.ResourceNotFoundException, 404)


def stop():
    agentcore = client()
    birth = "import time\nanswer = kept.setdefault('born', time.time())"
    born = json.loads(invoke(agentcore, birth)["response"].read())
    assert born == json.loads(invoke(agentcore, birth)["response"].read())
    stopped = agentcore.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)
    assert stopped["statusCode"] == 200 and stopped["runtimeSessionId"] == session, stopped
    # The same id afterwards is a clean session.
    assert born != json.loads(invoke(agentcore, birth)["response"].read())
    # A death in the middle of a call is the agent's failure too, with its reason.
    said = fails(
        lambda: invoke(agentcore, "import os\nos._exit(3)"),
        agentcore.exceptions.RuntimeClientError,
        424,
    )
    assert "exit status 3" in said["Error"]["Message"], said


plain()
streamed()
errors()
stop()
