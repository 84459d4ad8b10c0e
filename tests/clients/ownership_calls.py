"""Two keys that choose the same session id: ownership_calls.py FACTS. Fails by an assertion; prints what each was told."""

import json
import sys

import boto3
from botocore.exceptions import ClientError

facts = json.loads(sys.argv[1])
SESSION = facts["session"]
BIRTH = "import time\nanswer = kept.setdefault('born', time.time())"


def client(pair):
    return boto3.client(
        "bedrock-agentcore",
        endpoint_url=facts["endpoint"],
        region_name="us-local-1",
        aws_access_key_id=pair["accessKeyId"],
        aws_secret_access_key=pair["secretAccessKey"],
    )


def born(agentcore, arn, user=None):
    words = {"runtimeUserId": user} if user else {}
    payload = json.dumps({"code": BIRTH}).encode()
    answer = agentcore.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=SESSION, payload=payload, **words)
    assert answer["runtimeSessionId"] == SESSION, answer
    return json.loads(answer["response"].read())


def stop(agentcore, arn, session=SESSION):
    """None if there was something to stop, else what was told, without what was asked for."""
    try:
        agentcore.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)
    except ClientError as error:
        said = error.response
        assert said["ResponseMetadata"]["HTTPStatusCode"] == 404, said
        headers = dict(said["ResponseMetadata"]["HTTPHeaders"])
        for name in ["x-amzn-requestid", "date", "content-length"]:
            headers.pop(name)
        return json.dumps([said["Error"], headers]).replace(session, "<session>")


one, two = client(facts["one"]), client(facts["two"])
own, shared = facts["own"], facts["shared"]

# The same id is another session for another key, and for another user of the same key.
births = [born(one, own), born(two, own), born(one, own, "alice"), born(one, own, "bob"), born(two, own, "alice")]
assert len(set(births)) == 5, births
assert born(one, own) == births[0] and born(one, own, "alice") == births[2], births

# Who may not see it is told what everybody is told of a session that never was.
third = client(facts["three"])
told = {stop(third, own), stop(third, own, "n" * 40), stop(one, own, "n" * 40)}
assert len(told) == 1 and None not in told, told
# Stopping is one's own session's only: the header names no user here, so alice's and bob's live on.
assert stop(one, own) is None
assert born(two, own) == births[1] and born(one, own, "alice") == births[2] and born(one, own, "bob") == births[3]
assert born(one, own) not in births

# A shared runtime's session is everybody's.
births = {born(one, shared), born(two, shared), born(one, shared, "alice"), born(two, shared, "bob")}
assert len(births) == 1, births
assert stop(two, shared) is None and born(one, shared) not in births
print(json.dumps({"told": told.pop()}))
