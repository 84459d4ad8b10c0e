"""The built-in `bedrock_agentcore`: what a session finds when its bundle does not vendor the AWS SDK.

Same names and same wire as the AWS SDK for Python (`bedrock-agentcore` on PyPI) for an agent's side of
the runtime contract, on the standard library alone, so that a cold session answers within milliseconds.
It is not for AWS's services (memory, gateway, identity, …): an agent that needs those lists
`bedrock-agentcore` in its requirements, and that copy then comes first on the path.
"""

from bedrock_agentcore.runtime import (
    BedrockAgentCoreApp,
    BedrockAgentCoreContext,
    PingStatus,
    RequestContext,
)

__all__ = [
    "BedrockAgentCoreApp",
    "BedrockAgentCoreContext",
    "PingStatus",
    "RequestContext",
]
