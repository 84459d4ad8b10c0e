"""Call agents of a self-hosted AgentCore Runtime, over its Unix socket or HTTP; standard library only.

    from agentcore_client import RuntimeClient

    client = RuntimeClient("my_agent")
    print(client.invoke({"prompt": "Hello!"}))
    for chunk in client.invoke_stream({"prompt": "Tell me a story"}):
        print(chunk["text"], end="")

One client is one session: its calls reach the same agent process until `stop_session()`. For the AWS side of the same
runtime (signed requests, the control plane) use boto3 with `endpoint_url`.
"""

from agentcore_client.client import RuntimeClient
from agentcore_client.errors import (
    AgentCoreError,
    AgentFailedError,
    TimedOutError,
    TruncatedAnswerError,
    UnreachableError,
)

__all__ = [
    "AgentCoreError",
    "AgentFailedError",
    "RuntimeClient",
    "TimedOutError",
    "TruncatedAnswerError",
    "UnreachableError",
]
