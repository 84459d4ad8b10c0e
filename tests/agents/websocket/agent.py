"""Speaks WebSocket as its caller asks; the same for the AWS SDK and the built-in one."""

import asyncio
import os

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()
open_now = 0
codes = []


@app.entrypoint
def invoke(payload):
    import bedrock_agentcore

    return {"open": open_now, "codes": codes, "sdk": bedrock_agentcore.__file__}


@app.websocket
async def talk(websocket, context):
    global open_now
    await websocket.accept()
    open_now += 1
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                codes.append(message.get("code"))
                return
            if message.get("bytes") is not None:
                await websocket.send_bytes(message["bytes"])
                continue
            word, _, rest = message["text"].partition(" ")
            if word == "headers":
                await websocket.send_json({"session": context.session_id, "headers": dict(websocket.headers)})
            elif word == "close":
                code, _, why = rest.partition(" ")
                await websocket.close(int(code), why)
                return
            elif word == "die":
                os._exit(3)
            elif word == "send":
                await websocket.send_bytes(bytes(int(rest)))
            elif word == "flood":
                for n in range(int(rest)):
                    await websocket.send_text(str(n))
            elif word == "sleep":
                await asyncio.sleep(float(rest))
            else:
                await websocket.send_text(message["text"])
    finally:
        open_now -= 1


app.run()
