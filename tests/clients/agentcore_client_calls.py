"""The built-in client against a daemon of the test's own: agentcore_client_calls.py RUNTIME, with AGENTCORE_ENDPOINT set."""

import sys
import time

from agentcore_client import AgentCoreError, AgentFailedError, RuntimeClient

name = sys.argv[1]
EVENTS = """
import time
def events():
    for item in ({'n': 0}, 'text', [2], None):
        yield item
        time.sleep(0.3)
answer = events()
"""
FOREVER = """
import time
def events():
    try:
        while True:
            yield {'n': 0}
            time.sleep(0.05)
    finally:
        kept['cancelled'] = True
answer = events()
"""


def fails(call, kind, **facts):
    try:
        call()
    except kind as error:
        found = {fact: getattr(error, fact) for fact in facts}
        assert found == facts, (found, str(error))
        assert error.request_id, str(error)
        return error
    raise AssertionError(f"no {kind.__name__}")


with RuntimeClient(name) as client:
    # One client is one session, and what the agent answers is what the caller gets.
    assert client.invoke({"code": "answer = kept.setdefault('n', 7)"}) == 7
    assert client.invoke({"code": "answer = {'kept': kept['n'], 'ü': [None]}"}) == {"kept": 7, "ü": [None]}
    events, times = [], []
    for event in client.invoke_stream({"code": EVENTS}):
        events.append(event)
        times.append(time.monotonic())
    assert events == [{"n": 0}, {"text": "text"}, {"data": [2]}, {"data": None}], events
    assert times[-1] - times[0] > 0.6, f"not as they come: {times}"
    # Dropping a stream cancels it.
    stream = client.invoke_stream({"code": FOREVER})
    assert next(stream) == {"n": 0}
    stream.close()
    until = time.monotonic() + 20
    while not client.invoke({"code": "answer = kept.get('cancelled', False)"}):
        assert time.monotonic() < until, "a dropped stream goes on"
        time.sleep(0.05)

    error = fails(lambda: client.invoke({"code": "raise RuntimeError('boom')"}), AgentFailedError, status=424, agent_status=500)
    assert "boom" in (error.agent_body or ""), error.agent_body
    client.stop_session()
    assert client.invoke({"code": "answer = kept.get('n')"}) is None
    error = fails(
        lambda: client.invoke({"code": "import os\nprint('the reason', flush=True)\nos._exit(3)"}),
        AgentFailedError,
        status=424,
        agent_status=None,
    )
    assert "exit status 3" in error.message and "the reason" in "\n".join(error.agent_log), (error.message, error.agent_log)
    client.invoke({"code": "answer = 1"})
    client.stop_session()

stranger = RuntimeClient("nobody")
for call in (stranger.invoke, stranger.invoke_stream):
    error = fails(lambda call=call: call({}), AgentCoreError, status=404, error="ResourceNotFoundException")
    assert not isinstance(error, AgentFailedError) and "nobody" in error.message, error
