"""The built-in `agentcore_client` and tasks, against a real daemon: `all`, or `wait TASK`."""

import sys

from agentcore_client import AgentCoreError, RuntimeClient, TimedOutError


def code(text):
    return {"code": text}


def wait(client, task_id):
    assert client.wait_task(task_id, timeout=120)["status"] == "SUCCEEDED"
    assert client.get_task_result(task_id) == "survived"


def everything(client):
    # The programs of the users' documentation.
    payload = code("app.report_progress(0.5, 'half', checkpoint=[1])\nimport time; time.sleep(1.2)\nanswer = 'é'")
    response = client.invoke_async(payload)
    task_id = response["taskId"]
    status = client.get_task_status(task_id)
    assert status["status"] in ("QUEUED", "STARTING", "RUNNING", "SUCCEEDED"), status
    assert status["sessionId"] == client.session_id

    heard = []
    task = client.wait_task(task_id, timeout=60, on_progress=heard.append)
    assert task["status"] == "SUCCEEDED" and task["usage"]["runMs"] > 0, task
    assert {"fraction": 0.5, "message": "half", "checkpoint": [1]} in heard, heard
    assert client.get_task_result(task_id) == "é"
    # Heard again from its beginning, by another who waits.
    again = []
    client.wait_task(task_id, on_progress=again.append)
    assert again == heard

    forever = code("import time\nwhile True: time.sleep(0.1)")
    endless = client.invoke_async(forever, deadline=600, idempotency_key=f"once-{client.session_id}")
    same = client.invoke_async(forever, deadline=600, idempotency_key=f"once-{client.session_id}")
    assert same["taskId"] == endless["taskId"]
    try:
        client.wait_task(endless["taskId"], timeout=0.3)
        raise AssertionError("it has an outcome")
    except TimedOutError:
        pass
    client.cancel_task(endless["taskId"])
    assert client.wait_task(endless["taskId"], timeout=60)["status"] == "CANCELLED"
    # An outcome stays.
    assert client.cancel_task(task_id)["status"] == "SUCCEEDED"

    late = client.invoke_async(forever, deadline="1s")
    assert client.wait_task(late["taskId"], timeout=60)["status"] == "TIMED_OUT"

    for wrong in ({"deadline": "soon"}, {"retries": -1}, {"callback": "nowhere"}):
        try:
            client.invoke_async(None, **wrong)
            raise AssertionError(f"{wrong} was taken")
        except AgentCoreError as error:
            assert error.status == 400 and next(iter(wrong)) in str(error), error
    try:
        client.get_task_status("t" + "0" * 25)
        raise AssertionError("there is one")
    except AgentCoreError as error:
        assert error.status == 404, error
    client.stop_session()


with RuntimeClient("puppet") as client:
    if sys.argv[1] == "wait":
        wait(client, sys.argv[2])
    else:
        everything(client)
