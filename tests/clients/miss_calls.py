"""What a signed caller learns of what is not its own, and how fast: miss_calls.py FACTS. Fails by an assertion; prints the times."""

import http.client
import json
import statistics
import sys
import time
import urllib.parse

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

facts = json.loads(sys.argv[1])
netloc = urllib.parse.urlsplit(facts["endpoint"]).netloc
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
ROUNDS = 300
connection = http.client.HTTPConnection(netloc, timeout=60)


def ask(key, runtime, session):
    """What is told, without what was asked for, and the seconds from the request's last byte to the answer's."""
    url = f"{facts['endpoint']}/runtimes/{urllib.parse.quote(runtime, safe='')}/stopruntimesession"
    pair = facts["keys"][key]
    request = AWSRequest(method="POST", url=url, data=b"{}", headers={SESSION: session})
    credentials = Credentials(pair["accessKeyId"], pair["secretAccessKey"])
    botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", "us-local-1").add_auth(request)
    began = time.perf_counter()
    connection.request("POST", urllib.parse.urlsplit(url).path, b"{}", dict(request.headers.items()))
    answer = connection.getresponse()
    text = answer.read().decode()
    took = time.perf_counter() - began
    headers = {name.lower(): value for name, value in answer.getheaders()}
    for name in ("x-amzn-requestid", "date"):
        headers.pop(name)
    # Both are of one length.
    for name in (session, runtime):
        text = text.replace(name, "<asked for>")
        headers = {header: value.replace(name, "<asked for>") for header, value in headers.items()}
    return (answer.status, json.dumps(headers, sort_keys=True), text), took


def alike(what, status, there, nowhere):
    times, told = {"there": [], "nowhere": []}, set()
    ask(*there), ask(*nowhere)
    # In turns, so that whatever else this machine does hits both.
    for _ in range(ROUNDS):
        for name, place in (("there", there), ("nowhere", nowhere)):
            found, took = ask(*place)
            assert found[0] == status, (what, name, found)
            told.add(found)
            times[name].append(took)
    assert len(told) == 1, (what, told)
    there, nowhere = (statistics.median(times[name]) for name in ("there", "nowhere"))
    print(f"{what}: {there * 1e6:.0f} µs, {nowhere * 1e6:.0f} µs")
    # A look in the store, or at every other owner's sessions, would be more than that.
    slow, fast = max(there, nowhere), min(there, nowhere)
    assert slow < fast * 1.5 + 0.0002, (what, there, nowhere)


own, other, nobody = facts["own"], facts["other"], facts["nobody"]
theirs, none = facts["session"], "n" * len(facts["session"])
assert len(other) == len(nobody)
alike("another key's session", 404, ("operator", own, theirs), ("operator", own, none))
alike("another key's session, by a limited key", 404, ("limited", own, theirs), ("limited", own, none))
alike("another runtime, by a limited key", 403, ("limited", other, theirs), ("limited", nobody, theirs))
alike("another action, by a limited key", 403, ("reader", other, theirs), ("reader", nobody, theirs))
