"""InvokeAgentRuntimeCommand by boto3, unmodified: command_calls.py ENDPOINT ARN SESSION. Fails by an assertion."""

import base64
import sys
import time
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

endpoint, arn, session = sys.argv[1:]
agentcore = boto3.client(
    "bedrock-agentcore",
    endpoint_url=endpoint,
    region_name="us-west-2",
    aws_access_key_id="nobody",
    aws_secret_access_key="nothing",
    config=Config(read_timeout=60),
)


def events(command, session=session, **more):
    body = {"command": command, **more}
    answer = agentcore.invoke_agent_runtime_command(agentRuntimeArn=arn, runtimeSessionId=session, body=body)
    assert answer["statusCode"] == 200, answer
    assert answer["contentType"] == "application/vnd.amazon.eventstream", answer
    assert answer["runtimeSessionId"] == session, answer
    for event in answer["stream"]:
        assert list(event) == ["chunk"], event
        assert len(event["chunk"]) == 1, event
        yield event["chunk"]


def run(command, **more):
    """The whole stream: what came on each output, and how it stopped."""
    first, *rest, last = events(command, **more)
    assert first == {"contentStart": {}}, first
    said = {"stdout": "", "stderr": ""}
    for event in rest:
        for name, text in event["contentDelta"].items():
            assert len(text.encode()) <= 65536, len(text)
            said[name] += text
    stop = last["contentStop"]
    return said["stdout"], said["stderr"], stop["exitCode"], stop["status"]


def plain():
    assert run("echo out; echo err >&2") == ("out\n", "err\n", 0, "COMPLETED")
    assert run("exit 7") == ("", "", 7, "COMPLETED")
    assert run("kill -9 $$") == ("", "", 137, "COMPLETED")
    out, err, code, status = run("no-such-program")
    assert (out, code, status) == ("", 127, "COMPLETED") and "not found" in err, err
    # bash, in the agent's folder, with its environment, as its user; nothing is kept from one to the next.
    assert run("echo $BASH_VERSION | cut -c1; pwd; echo $COLOUR; id -u; export KEPT=1; cd /")[0][1:] == "\n/app\nblue\n1000\n"
    assert run("echo ${KEPT-none}; pwd")[0] == "none\n/app\n"


def traced():
    # Longer than an invocation's may be, up to this operation's own bound.
    given = {"traceId": "Root=1-" + "a" * 1017, "traceParent": "p" * 1024, "traceState": "s" * 512, "baggage": "b" * 8192}
    body = {"command": "true"}
    answer = agentcore.invoke_agent_runtime_command(agentRuntimeArn=arn, runtimeSessionId=session, body=body, **given)
    list(answer["stream"])
    assert {name: answer[name] for name in given} == given, answer
    # An empty one says as much as none.
    answer = agentcore.invoke_agent_runtime_command(agentRuntimeArn=arn, runtimeSessionId=session, body=body, traceId="")
    list(answer["stream"])
    assert answer["traceId"].startswith("Root=1-") and len(answer["traceId"]) == 40, answer


def standard_input_is_at_its_end():
    assert run("cat; echo $?", timeout=20) == ("0\n", "", 0, "COMPLETED")


def long_ones():
    # As an argument, by standard input, and each character four bytes long: 256 KiB.
    for count in (1_000, 65_530 // 2, 65_530):
        word = "x" * count
        assert run(f"echo {word}", timeout=60)[0] == word + "\n", count
    word = "🙂" * 65_530
    out, err, code, _ = run(f"echo {word}", timeout=60)
    assert (out, err, code) == (word + "\n", "", 0)
    many = "\n".join(["true"] * 13_000) + "\ncat; exit 3"
    assert run(many, timeout=60) == ("", "", 3, "COMPLETED")


def as_it_comes():
    # The second command lets the first go on: they run side by side, and output does not wait for the end.
    mark = f"/tmp/{uuid.uuid4()}"
    stream = events(f"echo one; while ! [ -e {mark} ]; do sleep 0.05; done; echo two >&2; while [ -e {mark} ]; do sleep 0.05; done; echo three")
    assert next(stream) == {"contentStart": {}}
    assert next(stream) == {"contentDelta": {"stdout": "one\n"}}
    assert run(f"touch {mark}")[2] == 0
    assert next(stream) == {"contentDelta": {"stderr": "two\n"}}
    assert run(f"rm {mark}")[2] == 0
    assert next(stream) == {"contentDelta": {"stdout": "three\n"}}
    assert next(stream) == {"contentStop": {"exitCode": 0, "status": "COMPLETED"}}
    assert list(stream) == []


def any_bytes():
    # A character in two writes is one; what is no UTF-8 is replaced; base64 carries everything.
    assert run(r"printf '\303'; sleep 0.3; printf '\274'")[0] == "ü"
    out = run(r"printf 'a\377\000\001b\342\202'; printf 'c\200d' >&2")
    assert out[:2] == ("a\ufffd\0\x01b\ufffd", "c\ufffdd"), out
    data = base64.b64decode(run("head -c 300000 /dev/urandom | tee /tmp/random | base64 -w0")[0])
    assert len(data) == 300_000
    import hashlib

    assert run("sha256sum < /tmp/random")[0].split()[0] == hashlib.sha256(data).hexdigest()


def large():
    began = time.monotonic()
    out, err, code, _ = run("head -c 20000000 /dev/zero | tr '\\0' x; head -c 5000000 /dev/zero | tr '\\0' '\\1' >&2")
    assert (len(out), len(err), code) == (20_000_000, 5_000_000, 0)
    print(f"25 MB in {time.monotonic() - began:.1f} s")


def too_large():
    try:
        run("yes 0123456789abcdef")
    except EventStreamError as error:
        assert error.response["Error"]["Code"] == "serviceQuotaExceededException", error.response
        assert "limits.max_body" in error.response["Error"]["Message"], error.response
    else:
        raise AssertionError("endless output ended by itself")
    assert run("pgrep -x yes || echo none")[0] == "none\n"


def in_time():
    began = time.monotonic()
    out, err, code, status = run("echo first; trap '' TERM HUP; sleep 1000 & sleep 1000", timeout=1)
    assert (out, err, code, status) == ("first\n", "", -1, "TIMED_OUT")
    assert 1 <= time.monotonic() - began < 8
    assert run("pgrep -x sleep || echo none")[0] == "none\n", "its process group is killed"


def refused():
    def fails(**request):
        request = {"agentRuntimeArn": arn, "runtimeSessionId": session, **request}
        try:
            agentcore.invoke_agent_runtime_command(**request)
        except ClientError as error:
            return error.response
        raise AssertionError(f"taken: {request}")

    for body, field in (
        ({"command": "x" * 65_537}, "body.command"),
        ({"command": "x", "timeout": 3601}, "body.timeout"),
        ({"command": "a\0"}, "body.command"),
    ):
        said = fails(body=body)
        assert said["Error"]["Code"] == "ValidationException", said
        assert said["reason"] == "FieldValidationFailed", said
        assert [fault["name"] for fault in said["fieldList"]] == [field], said
    said = fails(body={"command": "x"}, agentRuntimeArn="none")
    assert said["Error"]["Code"] == "ResourceNotFoundException", said


def a_new_session():
    fresh = str(uuid.uuid4())
    assert run("echo made", session=fresh)[0] == "made\n"
    agentcore.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=fresh)


def the_session_ends():
    fresh = str(uuid.uuid4())
    stream = events("echo on; sleep 1000", session=fresh)
    assert next(stream) == {"contentStart": {}}
    assert next(stream) == {"contentDelta": {"stdout": "on\n"}}
    agentcore.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=fresh)
    try:
        rest = list(stream)
    except EventStreamError as error:
        assert error.response["Error"]["Code"] == "runtimeClientError", error.response
        assert "the session ended" in error.response["Error"]["Message"], error.response
    else:
        # The command was told first, by the session's own end.
        assert rest[-1]["contentStop"]["exitCode"] in (137, 143), rest


for check in (
    plain,
    traced,
    standard_input_is_at_its_end,
    long_ones,
    as_it_comes,
    any_bytes,
    large,
    too_large,
    in_time,
    refused,
    a_new_session,
    the_session_ends,
):
    check()
    print(check.__name__, flush=True)
