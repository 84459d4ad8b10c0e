"""The AWS SDK's AgentCoreRuntimeClient, unmodified, on the data plane: sdk_calls.py FACTS, where FACTS is JSON with the endpoint, the
issuer (tests/fixtures/issuer.py), a key and ARNs. Fails by an assertion.

Its calls go where AWS_ENDPOINT_URL_* says. Its addresses of WebSockets must be https and below amazonaws.com: a name that leads
nowhere, here. Each socket is this script's own, to the daemon; the address keeps its host, because that is signed.
"""

import http.client
import json
import os
import socket
import sys
import urllib.parse
import uuid

facts = json.loads(sys.argv[1])
endpoint = facts["endpoint"]
port = urllib.parse.urlsplit(endpoint).port
HOST = f"agentcore.test.amazonaws.com:{port}"
os.environ.update({
    "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": endpoint, "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": endpoint,
    "BEDROCK_AGENTCORE_DP_ENDPOINT": f"https://{HOST}",
    "AWS_ACCESS_KEY_ID": facts["key"]["accessKeyId"], "AWS_SECRET_ACCESS_KEY": facts["key"]["secretAccessKey"],
})  # fmt: skip

from bedrock_agentcore.runtime import AgentCoreRuntimeClient  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
# The handshake's own, which the client makes itself.
HOP = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "user-agent")
client = AgentCoreRuntimeClient(region="us-local-1")


def mint(**claims):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(facts["issuer"]).netloc, timeout=60)
    connection.request("POST", "/mint", json.dumps({"key": "one", "alg": None, "claims": claims, "headers": {}}))
    return connection.getresponse().read().decode()


def opened(url, headers=None):
    assert url.startswith(f"wss://{HOST}/"), url
    headers = {name: value for name, value in (headers or {}).items() if name.lower() not in HOP}
    return connect(
        "ws" + url.removeprefix("wss"),
        sock=socket.create_connection(("127.0.0.1", port), timeout=30),
        additional_headers=headers,
        user_agent_header=None,
        proxy=None,
        close_timeout=5,
    )


def talks(session, url, headers=None):
    """The socket is of that session, or of one that was made up; what the agent was told of it."""
    with opened(url, headers) as talk:
        named = talk.response.headers[SESSION]
        assert named == session or session is None, (named, session)
        talk.send("ü")
        assert talk.recv(timeout=20) == "ü"
        talk.send(b"\0\xff")
        assert talk.recv(timeout=20) == b"\0\xff"
        talk.send("headers")
        told = json.loads(talk.recv(timeout=20))
        assert told["session"] == named, told
        return told["headers"]


def refused(status, code, url, headers=None):
    try:
        opened(url, headers).close()
    except InvalidStatus as error:
        answer = error.response
        assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (status, code), answer
        return answer
    raise AssertionError(f"taken: {url}")


def calls():
    session = str(uuid.uuid4())
    payload = json.dumps({"code": "answer = [payload['a'], app is not None]", "a": 41})
    answer = client.invoke_agent_runtime(agentRuntimeArn=facts["plain"], runtimeSessionId=session, payload=payload)
    assert json.loads(answer["response"].read()) == [41, True] and answer["runtimeSessionId"] == session, answer
    # Names as Python has them are the SDK's own doing.
    answer = client.invoke_agent_runtime(agent_runtime_arn=facts["plain"], runtime_session_id=session, payload=payload, qualifier="DEFAULT")
    assert json.loads(answer["response"].read())[0] == 41, answer
    code = "def events():\n    for n in range(3):\n        yield {'n': n}\nanswer = events()"
    answer = client.invoke_agent_runtime(agentRuntimeArn=facts["plain"], runtimeSessionId=session, payload=json.dumps({"code": code}))
    assert [line for line in answer["response"].iter_lines() if line] == [b'data: {"n": %d}' % n for n in range(3)]
    assert client.stop_runtime_session(agentRuntimeArn=facts["plain"], runtimeSessionId=session)["statusCode"] == 200
    try:
        client.stop_runtime_session(agent_runtime_arn=facts["plain"], runtime_session_id=session)
    except client.dp_client.exceptions.ResourceNotFoundException as error:
        assert "no live session" in str(error), error
    else:
        raise AssertionError("stopped twice")
    try:
        client.invoke_agent_runtime(agentRuntimeArn=facts["tokened"], payload=b"{}")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDeniedException", error.response
    else:
        raise AssertionError("signed where tokens are")
    status = client.get_aggregated_status(facts["plain"].split("/")[-1])
    assert status["runtime"]["status"] == status["endpoint"]["status"] == "READY", status


def signed():
    session = str(uuid.uuid4())
    talks(session, *client.generate_ws_connection(facts["talk"], session))
    talks(session, *client.generate_ws_connection(facts["talk"], session, endpoint_name="DEFAULT"))
    talks(None, *client.generate_ws_connection(facts["talk"]))
    url, headers = client.generate_ws_connection(facts["talk"], session)
    refused(403, "InvalidSignatureException", url + "?qualifier=DEFAULT", headers)
    refused(404, "ResourceNotFoundException", *client.generate_ws_connection(facts["talk"], session, endpoint_name="nowhere"))
    answer = refused(403, "AccessDeniedException", *client.generate_ws_connection(facts["talk_tokened"], session))
    assert b"Authorization method mismatch" in answer.body, answer


def presigned():
    session, custom = str(uuid.uuid4()), "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Colour"
    talks(session, client.generate_presigned_url(facts["talk"], session))
    url = client.generate_presigned_url(facts["talk"], session, endpoint_name="DEFAULT", custom_headers={custom: "deep blue"}, expires=60)
    assert talks(session, url)[custom.lower()] == "deep blue"
    # Twice: it is an address, not a ticket. Changed, it is nobody's.
    talks(session, url)
    talks(None, client.generate_presigned_url(facts["talk"]))
    refused(403, "InvalidSignatureException", url.replace(session, str(uuid.uuid4())))
    refused(403, "InvalidSignatureException", url.replace("Expires=60", "Expires=300"))


def oauth():
    session = str(uuid.uuid4())
    talks(session, *client.generate_ws_connection_oauth(facts["talk_tokened"], mint(), session))
    talks(None, *client.generate_ws_connection_oauth(facts["talk_tokened"], mint(), endpoint_name="DEFAULT"))
    answer = refused(401, "UnauthorizedException", *client.generate_ws_connection_oauth(facts["talk_tokened"], mint(aud="others"), session))
    assert f"resource_metadata=\"http://{HOST}/runtimes/" in answer.headers["WWW-Authenticate"], answer
    refused(403, "AccessDeniedException", *client.generate_ws_connection_oauth(facts["talk"], mint(), session))


for check in (calls, signed, presigned, oauth):
    check()
    print(check.__name__, flush=True)
