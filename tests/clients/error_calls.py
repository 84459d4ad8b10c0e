"""One call by boto3, and what botocore makes of its answer: error_calls.py ENDPOINT CALL. CALL is a JSON object: `operation`
(invoke_agent_runtime), `arguments`, `code` (for the puppet), `attempts` (boto3's own number if absent), `headers` (added before it is
sent). Prints a JSON object."""

import json
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, call = sys.argv[1], json.loads(sys.argv[2])
settings = {"read_timeout": 60}
if "attempts" in call:
    settings["retries"] = {"mode": "standard", "total_max_attempts": call["attempts"]}
agentcore = boto3.client(
    "bedrock-agentcore",
    endpoint_url=endpoint,
    region_name="us-west-2",
    aws_access_key_id="nobody",
    aws_secret_access_key="nothing",
    config=Config(**settings),
)


def add_headers(request, **_):
    for name, value in call.get("headers", {}).items():
        request.headers[name] = value


agentcore.meta.events.register("before-send.bedrock-agentcore", add_headers)
arguments = call["arguments"]
if "code" in call:
    arguments["payload"] = json.dumps({"code": call["code"]}).encode()
begun = time.monotonic()
try:
    answer = getattr(agentcore, call.get("operation", "invoke_agent_runtime"))(**arguments)
    said = {"answer": json.loads(answer["response"].read()) if "response" in answer else None}
except ClientError as error:
    said = error.response
    kind = type(error).__name__
    # The class that a caller's `except` names, not only the text.
    named = getattr(agentcore.exceptions, said["Error"]["Code"], None)
    said = {"kind": kind, "named": named is not None and isinstance(error, named), "text": str(error), **said}
said["seconds"] = time.monotonic() - begun
print(json.dumps(said, default=str))
