"""boto3, unmodified: whose objects are. object_calls.py SCENARIO FACTS, where FACTS is JSON with the endpoint, the version of
Python and the keys. Fails by an assertion."""

import io
import json
import os
import sys
import time
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

scenario, facts = sys.argv[1], json.loads(sys.argv[2])
endpoint = facts["endpoint"]
ROLE = "arn:aws:iam::000000000000:role/any"
AGENT = b"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Agent(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "Healthy"}')
    do_GET = do_POST = answer
HTTPServer(("127.0.0.1", 8080), Agent).serve_forever()
"""


def client(service, key, path=""):
    pair = facts["keys"][key]
    return boto3.client(
        service,
        endpoint_url=endpoint + path,
        region_name="us-local-1",
        aws_access_key_id=pair["accessKeyId"],
        aws_secret_access_key=pair["secretAccessKey"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def s3(key):
    return client("s3", key, "/s3")


def control(key):
    return client("bedrock-agentcore-control", key)


def bundle():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("main.py", AGENT)
    return packed.getvalue()


def code(key, bucket="builds"):
    place = {"s3": {"bucket": bucket, "prefix": key}}
    return {"codeConfiguration": {"code": place, "runtime": "PYTHON_" + facts["python"].replace(".", "_"), "entryPoint": ["main.py"]}}


def create(key, name, place):
    return control(key).create_agent_runtime(
        agentRuntimeName=name, agentRuntimeArtifact=place, roleArn=ROLE, networkConfiguration={"networkMode": "PUBLIC"}
    )


def ready(key, id):
    until = time.time() + 60
    while True:
        found = control(key).get_agent_runtime(agentRuntimeId=id)
        if found["status"] not in ("CREATING", "UPDATING"):
            assert found["status"] == "READY", found
            return
        assert time.time() < until, found
        time.sleep(0.05)


def fails(call, error, status, *words):
    try:
        call()
    except ClientError as found:
        said = found.response
        assert (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]) == (error, status), said
        for word in words:
            assert word in said["Error"]["Message"], said
        return said["Error"]["Message"]
    raise AssertionError(f"no {error}")


def denied(call, *words):
    return fails(call, "AccessDenied", 403, *words)


def prefix():
    """A key that uploads and deploys below its own prefix."""
    ci = s3("ci")
    s3("operator").put_object(Bucket="builds", Key="prod/app.zip", Body=bundle())
    ci.head_bucket(Bucket="builds")
    ci.put_object(Bucket="builds", Key="ci/app.zip", Body=bundle())
    large = os.urandom(9_000_000)
    ci.upload_fileobj(io.BytesIO(large), "builds", "ci/large.bin")
    back = io.BytesIO()
    ci.download_fileobj("builds", "ci/large.bin", back)
    assert back.getvalue() == large
    listed = lambda **more: [found["Key"] for found in ci.list_objects_v2(Bucket="builds", **more)["Contents"]]
    assert listed(Prefix="ci/") == ["ci/app.zip", "ci/large.bin"]
    # It deploys what it may read, as what it may deploy.
    made = create("ci", "ci_agent", code("ci/app.zip"))
    ready("ci", made["agentRuntimeId"])
    update = lambda key: control("ci").update_agent_runtime(
        agentRuntimeId=made["agentRuntimeId"], agentRuntimeArtifact=code(key), roleArn=ROLE, networkConfiguration={"networkMode": "PUBLIC"}
    )
    fails(lambda: update("prod/app.zip"), "AccessDeniedException", 403, "s3:GetObject", "s3://builds/prod/app.zip")
    assert control("ci").get_agent_runtime(agentRuntimeId=made["agentRuntimeId"])["agentRuntimeVersion"] == "1"
    update("ci/app.zip")
    ready("ci", made["agentRuntimeId"])
    fails(lambda: create("ci", "other_agent", code("ci/app.zip")), "AccessDeniedException", 403)
    fails(lambda: create("ci", "ci_agent", code("ci/none.zip")), "ValidationException", 400, "not there")

    # Beside it there is nothing, whether or not there is.
    for key in ("prod/app.zip", "prod/none.zip", "ci", "cicd/app.zip"):
        where = f"s3://builds/{key}"
        denied(lambda: ci.get_object(Bucket="builds", Key=key), "s3:GetObject", where)
        fails(lambda: ci.head_object(Bucket="builds", Key=key), "403", 403)
        denied(lambda: ci.put_object(Bucket="builds", Key=key, Body=b"x"), "s3:PutObject", where)
        denied(lambda: ci.delete_object(Bucket="builds", Key=key), "s3:DeleteObject", where)
        denied(lambda: ci.create_multipart_upload(Bucket="builds", Key=key), "s3:PutObject", where)
        fails(lambda: create("ci", "ci_agent", code(key)), "AccessDeniedException", 403, "s3:GetObject", where)
    denied(lambda: ci.list_objects_v2(Bucket="builds"), "s3:ListBucket")
    denied(lambda: ci.list_objects_v2(Bucket="builds", Prefix="c"), "s3:ListBucket")
    denied(lambda: ci.list_objects_v2(Bucket="elsewhere", Prefix="ci/"), "s3:ListBucket")
    denied(lambda: ci.put_object(Bucket="elsewhere", Key="ci/app.zip", Body=b"x"))
    denied(lambda: ci.create_bucket(Bucket="elsewhere"))
    fails(lambda: ci.head_bucket(Bucket="elsewhere"), "403", 403)
    assert s3("operator").get_object(Bucket="builds", Key="prod/app.zip")["Body"].read()

    # Whoever holds the prefix next goes on with what is there.
    rotated = s3("rotated")
    assert rotated.get_object(Bucket="builds", Key="ci/large.bin")["ContentLength"] == len(large)
    rotated.put_object(Bucket="builds", Key="ci/app.zip", Body=b"replaced")
    assert ci.get_object(Bucket="builds", Key="ci/app.zip")["Body"].read() == b"replaced"
    rotated.delete_object(Bucket="builds", Key="ci/large.bin")
    fails(lambda: ci.get_object(Bucket="builds", Key="ci/large.bin"), "NoSuchKey", 404)

    # One that may read only, and those that objects are no business of.
    reader = s3("reader")
    assert reader.get_object(Bucket="builds", Key="ci/app.zip")["Body"].read() == b"replaced"
    denied(lambda: reader.put_object(Bucket="builds", Key="ci/app.zip", Body=b"x"))
    denied(lambda: reader.delete_object(Bucket="builds", Key="ci/app.zip"))
    denied(lambda: reader.list_objects_v2(Bucket="builds", Prefix="ci/"))
    for key in ("agent", "deployer"):
        for call in (
            lambda: s3(key).get_object(Bucket="builds", Key="ci/app.zip"),
            lambda: s3(key).put_object(Bucket="builds", Key="mine.zip", Body=b"x"),
            lambda: s3(key).list_objects_v2(Bucket="builds"),
        ):
            denied(call)
    fails(lambda: create("deployer", "deployed", code("ci/app.zip")), "AccessDeniedException", 403, "s3:GetObject")
    fails(lambda: create("agent", "ci_agent", code("ci/app.zip")), "AccessDeniedException", 403, "s3:GetObject")


def makers():
    """Keys that no objects are named for have their own."""
    one, two, operator = s3("one"), s3("two"), s3("operator")
    one.put_object(Bucket="builds", Key="one.zip", Body=bundle())
    two.put_object(Bucket="builds", Key="two.zip", Body=bundle())
    operator.put_object(Bucket="builds", Key="zero.zip", Body=bundle())
    listed = lambda who: [found["Key"] for found in who.list_objects_v2(Bucket="builds").get("Contents", [])]
    assert (listed(one), listed(two)) == (["one.zip"], ["two.zip"]), (listed(one), listed(two))
    assert listed(operator) == ["one.zip", "two.zip", "zero.zip"], listed(operator)
    # Another's is as one that is not there.
    gone = fails(lambda: two.get_object(Bucket="builds", Key="none.zip"), "NoSuchKey", 404)
    for key in ("one.zip", "zero.zip"):
        said = fails(lambda: two.get_object(Bucket="builds", Key=key), "NoSuchKey", 404)
        assert said == gone.replace("none.zip", key), said
        fails(lambda: two.head_object(Bucket="builds", Key=key), "404", 404)
        denied(lambda: two.put_object(Bucket="builds", Key=key, Body=b"x"), "another caller's")
        denied(lambda: two.delete_object(Bucket="builds", Key=key), "another caller's")
        fails(lambda: create("two", "two_agent", code(key)), "ValidationException", 400, "not there")
    upload = one.create_multipart_upload(Bucket="builds", Key="parts")["UploadId"]
    named = {"Bucket": "builds", "Key": "parts", "UploadId": upload}
    etag = one.upload_part(**named, PartNumber=1, Body=b"one")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    fails(lambda: two.upload_part(**named, PartNumber=1, Body=b"two"), "NoSuchUpload", 404)
    fails(lambda: two.complete_multipart_upload(**named, MultipartUpload=parts), "NoSuchUpload", 404)
    fails(lambda: two.abort_multipart_upload(**named), "NoSuchUpload", 404)
    # A name that somebody took meanwhile is theirs.
    two.put_object(Bucket="builds", Key="parts", Body=b"two")
    denied(lambda: one.complete_multipart_upload(**named, MultipartUpload=parts), "another caller's")
    two.delete_object(Bucket="builds", Key="parts")
    one.complete_multipart_upload(**named, MultipartUpload=parts)
    assert one.get_object(Bucket="builds", Key="parts")["Body"].read() == b"one"
    # Its own it may replace, deploy and delete.
    one.put_object(Bucket="builds", Key="one.zip", Body=bundle())
    made = create("one", "one_agent", code("one.zip"))
    ready("one", made["agentRuntimeId"])
    one.delete_object(Bucket="builds", Key="one.zip")
    two.put_object(Bucket="builds", Key="one.zip", Body=b"two's now")
    # An operator may do anything with any of them; what it puts is an operator's.
    operator.put_object(Bucket="builds", Key="two.zip", Body=b"zero's now")
    fails(lambda: two.get_object(Bucket="builds", Key="two.zip"), "NoSuchKey", 404)
    operator.delete_object(Bucket="builds", Key="one.zip")
    assert listed(two) == []


def share():
    """limits.objects is 2,100 KiB here, limits.objects_per_caller 1 MiB."""
    full = lambda who, key, size, limit: fails(lambda: who.put_object(Bucket="builds", Key=key, Body=b"x" * size), "QuotaExceeded", 402, limit)
    one, two, operator = s3("one"), s3("two"), s3("operator")
    one.put_object(Bucket="builds", Key="a", Body=b"x" * 600_000)
    full(one, "b", 600_000, "limits.objects_per_caller")
    fails(lambda: one.head_object(Bucket="builds", Key="b"), "404", 404)
    one.put_object(Bucket="builds", Key="b", Body=b"x" * 400_000)
    # Bytes on their way count.
    upload = {"Bucket": "builds", "Key": "c", "UploadId": one.create_multipart_upload(Bucket="builds", Key="c")["UploadId"]}
    fails(lambda: one.upload_part(**upload, PartNumber=1, Body=b"x" * 100_000), "QuotaExceeded", 402, "limits.objects_per_caller")
    one.abort_multipart_upload(**upload)
    # Others have theirs, until all is taken.
    two.put_object(Bucket="builds", Key="two", Body=b"x" * 900_000)
    full(operator, "zero", 600_000, "limits.objects)")
    operator.put_object(Bucket="builds", Key="zero", Body=b"x" * 100_000)
    # What is deleted or replaced is given back to whoever made it.
    one.delete_object(Bucket="builds", Key="a")
    one.put_object(Bucket="builds", Key="a", Body=b"x" * 200_000)
    operator.put_object(Bucket="builds", Key="a", Body=b"x")
    one.put_object(Bucket="builds", Key="d", Body=b"x" * 600_000)
    for _ in range(16):
        one.create_multipart_upload(Bucket="builds", Key="many")
    fails(lambda: one.create_multipart_upload(Bucket="builds", Key="many"), "QuotaExceeded", 402, "16 uploads")
    two.create_multipart_upload(Bucket="builds", Key="two")


def still():
    """The daemon was started anew: what was there counts."""
    one = s3("one")
    fails(lambda: one.put_object(Bucket="builds", Key="e", Body=b"x" * 100_000), "QuotaExceeded", 402, "limits.objects_per_caller")
    one.delete_object(Bucket="builds", Key="d")
    one.put_object(Bucket="builds", Key="e", Body=b"x" * 100_000)


globals()[scenario]()
