"""boto3 that loses patience: retry_calls.py ENDPOINT ARN SESSION SECONDS. Calls an agent that takes SECONDS with a read timeout
of two, then asks the session how often it ran. Prints how many attempts boto3 made."""

import json
import sys

import boto3
from botocore.config import Config

endpoint, arn, session, seconds = sys.argv[1:]


def client(**settings):
    return boto3.client(
        "bedrock-agentcore",
        endpoint_url=endpoint,
        region_name="us-west-2",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(**settings),
    )


def invoke(agentcore, code):
    payload = json.dumps({"code": code}).encode()
    answer = agentcore.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=payload)
    return answer, json.loads(answer["response"].read())


work = f"""
import os, time
with open('/tmp/runs', 'a') as side: side.write('run\\n')
time.sleep({seconds})
answer = {{'done': os.getpid()}}
"""
impatient = client(read_timeout=2, connect_timeout=2, retries={"mode": "standard", "total_max_attempts": 8})
answer, said = invoke(impatient, work)
assert said["done"] > 0, said
attempts = answer["ResponseMetadata"]["RetryAttempts"]
assert attempts >= 1, answer
runs = invoke(client(), "answer = open('/tmp/runs').read()")[1]
assert runs == "run\n", runs
print(attempts)
