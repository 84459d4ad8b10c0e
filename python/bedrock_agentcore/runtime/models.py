"""Names of the contract: ping statuses, header names, and which headers an agent may see.

Sources: agentcore-contract.md §1.2, §1.3 and `runtime/models.py` of the AWS SDK 1.25.0.
"""

from enum import Enum


class PingStatus(str, Enum):
    """What `/ping` says: ready and idle, or ready with background work going on (do not reap)."""

    HEALTHY = "Healthy"
    HEALTHY_BUSY = "HealthyBusy"


SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
REQUEST_ID_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id"
ACCESS_TOKEN_HEADER = "WorkloadAccessToken"
IDENTITY_WAT_HEADER = "X-Amz-Bedrock-AgentCore-Identity-WAT"
OAUTH2_CALLBACK_URL_HEADER = "OAuth2CallbackUrl"
AUTHORIZATION_HEADER = "Authorization"
CUSTOM_HEADER_PREFIX = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-"

# This runtime's own: which task a request is of, which attempt at it, and what an earlier attempt reported last.
TASK_ID_HEADER = "X-AgentCore-Task-Id"
TASK_ATTEMPT_HEADER = "X-AgentCore-Task-Attempt"
TASK_CHECKPOINT_HEADER = "X-AgentCore-Task-Checkpoint"

BAGGAGE_KEY_EXPERIMENT_ARN = "aws.agentcore.gateway.routing_experiment_arn"
BAGGAGE_KEY_EXPERIMENT_VARIANT = "aws.agentcore.gateway.routing_experiment_variant_name"

TASK_ACTION_PING_STATUS = "ping_status"
TASK_ACTION_JOB_STATUS = "job_status"
TASK_ACTION_FORCE_HEALTHY = "force_healthy"
TASK_ACTION_FORCE_BUSY = "force_busy"
TASK_ACTION_CLEAR_FORCED_STATUS = "clear_forced_status"

# Headers that describe one hop, the client's browser or a proxy: never the agent's business. The runtime
# enforces a version's own allow-list before a request gets here; this is the SDK's part of the rule.
RESTRICTED_HEADERS = frozenset(
    """
    proxy-authorization www-authenticate
    accept accept-charset accept-encoding accept-language
    content-type content-length content-encoding content-language content-location content-range
    cache-control etag expires if-match if-modified-since if-none-match if-range if-unmodified-since
    last-modified pragma vary
    connection keep-alive proxy-connection upgrade
    host user-agent referer from
    range accept-ranges transfer-encoding te trailer
    server date location retry-after
    set-cookie cookie
    content-security-policy content-security-policy-report-only strict-transport-security
    x-content-type-options x-frame-options x-xss-protection referrer-policy permissions-policy
    cross-origin-embedder-policy cross-origin-opener-policy cross-origin-resource-policy
    access-control-allow-origin access-control-allow-methods access-control-allow-headers
    access-control-allow-credentials access-control-expose-headers access-control-max-age
    access-control-request-method access-control-request-headers origin
    accept-ch accept-ch-lifetime dpr width viewport-width downlink ect rtt save-data
    clear-site-data feature-policy expect-ct public-key-pins public-key-pins-report-only
    via forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip x-requested-with
    x-csrf-token
    true-client-ip x-client-ip x-cluster-client-ip x-originating-ip x-source-ip x-original-url
    x-original-host x-rewrite-url
    cf-ray cf-connecting-ip x-amz-cf-id x-cache x-served-by
    :method :path :scheme :authority :status
    link
    sec-websocket-key sec-websocket-accept sec-websocket-version sec-websocket-protocol
    sec-websocket-extensions
    """.split()
)

_CUSTOM_PREFIX = CUSTOM_HEADER_PREFIX.lower()
_IDENTITY_WAT = IDENTITY_WAT_HEADER.lower()


def is_forwardable_header(header_name: str) -> bool:
    """Whether an agent may see this request header (contract §1.3)."""
    name = header_name.lower()
    if name in RESTRICTED_HEADERS:
        return False
    if name.startswith("x-amz-"):
        return name == _IDENTITY_WAT
    return not name.startswith("x-amzn-") or name.startswith(_CUSTOM_PREFIX)
