"""The agent under chaos: says what it did, so that the books can be balanced."""

import json
import time

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()
eaten = []


def events(count, pause):
    for number in range(count):
        yield {"n": number}
        time.sleep(pause)


@app.entrypoint
def invoke(payload):
    what = payload["do"]
    if what == "echo":
        return {"echo": payload["value"]}
    if what == "stream":
        return events(payload["events"], payload["ms"] / 1000)
    if what == "eat":
        while True:
            eaten.append(bytearray(1 << 20))
    if what == "task":
        # Counted at the end: a task that may not be repeated has run once at most.
        print(f"ran {payload['name']}.", flush=True)
        steps = payload["steps"]
        for step in range(steps):
            time.sleep(payload["ms"] / 1000)
            record = {"fraction": (step + 1) / steps, "message": f"step {step + 1} of {steps}"}
            print("::agentcore-progress:: " + json.dumps(record), flush=True)
        return {"task": payload["name"]}
    raise ValueError(what)


app.run()
