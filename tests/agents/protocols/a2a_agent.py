"""An A2A agent by the SDK's own app: says what it is told back, and how often it was asked; "die" ends it."""

import os

from a2a.server.agent_execution import AgentExecutor
from a2a.utils import new_agent_text_message
from bedrock_agentcore.runtime import serve_a2a


class Echo(AgentExecutor):
    asked = 0

    async def execute(self, context, event_queue):
        words = context.get_user_input()
        if words == "die":
            os._exit(3)
        self.asked += 1
        await event_queue.enqueue_event(new_agent_text_message(f"{self.asked}: {words}"))

    async def cancel(self, context, event_queue):
        raise NotImplementedError


serve_a2a(Echo())
