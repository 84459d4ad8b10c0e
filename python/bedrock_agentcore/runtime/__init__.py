"""The runtime half of the SDK, under the module path that the AWS SDK gives it.

Nothing here imports what only a running server needs (sockets, JSON, logging, asyncio): `app.run()` loads
the first two after its port listens, and the others come with the first request that uses them.
"""

from bedrock_agentcore.runtime.app import BedrockAgentCoreApp
from bedrock_agentcore.runtime.context import BedrockAgentCoreContext, RequestContext
from bedrock_agentcore.runtime.models import PingStatus

__all__ = [
    "BedrockAgentCoreApp",
    "BedrockAgentCoreContext",
    "PingStatus",
    "RequestContext",
]
