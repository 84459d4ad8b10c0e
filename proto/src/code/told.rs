//! How an error is told by protocols that have words of their own for it (contract §1.6–1.8).

use super::ErrorCode;

impl ErrorCode {
    /// MCP: the code of a JSON-RPC error, and the HTTP status that it comes with.
    #[must_use]
    pub const fn mcp(self) -> (i32, u16) {
        match self {
            Self::Unauthorized => (-32001, 401),
            Self::AccessDenied | Self::InvalidSignature => (-32002, 403),
            Self::Throttled | Self::TooManyInvocations | Self::QuotaExceeded => (-32003, 200),
            Self::NotFound => (-32004, 200),
            Self::Conflict | Self::RetryableConflict => (-32005, 200),
            Self::Validation
            | Self::MethodNotAllowed
            | Self::PayloadTooLarge
            | Self::MisdirectedRequest => (-32006, 200),
            Self::AgentFailed
            | Self::AgentTimeout
            | Self::AgentUnreachable
            | Self::AgentProtocol
            | Self::AgentClosed
            | Self::Cancelled => (-32010, 200),
            Self::NotAcceptable => (-32011, 406),
            Self::Internal
            | Self::Unavailable
            | Self::StorageFull
            | Self::BadOrder
            | Self::NoSuchMethod => (-32603, 200),
        }
    }

    /// A2A: the code of a JSON-RPC error, and the HTTP status, which stays the real one. `None`: plain HTTP.
    #[must_use]
    pub const fn a2a(self) -> Option<(i32, u16)> {
        Some(match self {
            Self::Unauthorized | Self::AccessDenied | Self::InvalidSignature => return None,
            Self::NotFound => (-32051, 404),
            Self::Validation => (-32052, 400),
            Self::MethodNotAllowed => (-32052, 405),
            Self::NotAcceptable => (-32052, 406),
            Self::PayloadTooLarge => (-32052, 413),
            Self::MisdirectedRequest => (-32052, 421),
            Self::Throttled | Self::TooManyInvocations | Self::QuotaExceeded => (-32053, 429),
            Self::Conflict | Self::RetryableConflict => (-32054, 409),
            Self::AgentTimeout => (-32055, 504),
            Self::AgentFailed
            | Self::AgentUnreachable
            | Self::AgentProtocol
            | Self::AgentClosed
            | Self::Cancelled => (-32055, 424),
            Self::Unavailable => (-32603, 503),
            Self::StorageFull => (-32603, 507),
            Self::Internal | Self::BadOrder | Self::NoSuchMethod => (-32603, 500),
        })
    }

    /// AG-UI: the code of a `RUN_ERROR` event, and the HTTP status.
    #[must_use]
    pub const fn agui(self) -> (&'static str, u16) {
        match self {
            Self::Unauthorized => ("UNAUTHORIZED", 401),
            Self::AccessDenied | Self::InvalidSignature => ("ACCESS_DENIED", 403),
            // The contract has no word for it.
            Self::NotFound => ("RESOURCE_NOT_FOUND", 404),
            Self::Validation
            | Self::MethodNotAllowed
            | Self::NotAcceptable
            | Self::PayloadTooLarge
            | Self::MisdirectedRequest => ("VALIDATION_ERROR", 400),
            Self::Throttled | Self::TooManyInvocations => ("RATE_LIMIT_EXCEEDED", 429),
            Self::QuotaExceeded => ("SERVICE_QUOTA_EXCEEDED", 429),
            Self::Conflict | Self::RetryableConflict => ("SESSION_BUSY", 409),
            Self::AgentFailed
            | Self::AgentTimeout
            | Self::AgentUnreachable
            | Self::AgentProtocol
            | Self::AgentClosed
            | Self::Cancelled => ("AGENT_ERROR", 200),
            Self::Internal
            | Self::Unavailable
            | Self::StorageFull
            | Self::BadOrder
            | Self::NoSuchMethod => ("INTERNAL_ERROR", 500),
        }
    }
}
