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
            Self::Validation | Self::PayloadTooLarge | Self::MisdirectedRequest => (-32006, 200),
            // What the protocol itself asks for where a server offers no stream by GET and no end by DELETE.
            Self::MethodNotAllowed => (-32006, 405),
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

    /// Session endpoints: the name of a refusal that has no body (contract §2.8). `None`: as on the rest of the AWS wire.
    #[must_use]
    pub const fn session_endpoint(self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("AuthenticationRequired"),
            Self::AccessDenied => Some("AccessDenied"),
            Self::Validation
            | Self::InvalidSignature
            | Self::QuotaExceeded
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::RetryableConflict
            | Self::NotAcceptable
            | Self::PayloadTooLarge
            | Self::MisdirectedRequest
            | Self::AgentFailed
            | Self::AgentTimeout
            | Self::Throttled
            | Self::Internal
            | Self::Unavailable
            | Self::StorageFull
            | Self::AgentUnreachable
            | Self::AgentProtocol
            | Self::AgentClosed
            | Self::Cancelled
            | Self::TooManyInvocations
            | Self::BadOrder
            | Self::NoSuchMethod => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract §1.6–1.8 by the names of §2.9: MCP's code and status, A2A's code (whose status stays the error's own), AG-UI's
    /// code and status.
    type Told = (i32, u16, Option<i32>, &'static str, u16);

    const CONTRACT: &[(&str, Told)] = &[
        (
            "ValidationException",
            (-32006, 200, Some(-32052), "VALIDATION_ERROR", 400),
        ),
        (
            "UnauthorizedException",
            (-32001, 401, None, "UNAUTHORIZED", 401),
        ),
        (
            "AccessDeniedException",
            (-32002, 403, None, "ACCESS_DENIED", 403),
        ),
        (
            "InvalidSignatureException",
            (-32002, 403, None, "ACCESS_DENIED", 403),
        ),
        (
            "ServiceQuotaExceededException",
            (-32003, 200, Some(-32053), "SERVICE_QUOTA_EXCEEDED", 429),
        ),
        (
            "ThrottlingException",
            (-32003, 200, Some(-32053), "RATE_LIMIT_EXCEEDED", 429),
        ),
        (
            "ResourceNotFoundException",
            (-32004, 200, Some(-32051), "RESOURCE_NOT_FOUND", 404),
        ),
        (
            "ConflictException",
            (-32005, 200, Some(-32054), "SESSION_BUSY", 409),
        ),
        (
            "RetryableConflictException",
            (-32005, 200, Some(-32054), "SESSION_BUSY", 409),
        ),
        (
            "RuntimeClientError",
            (-32010, 200, Some(-32055), "AGENT_ERROR", 200),
        ),
        (
            "InternalServerException",
            (-32603, 200, Some(-32603), "INTERNAL_ERROR", 500),
        ),
        // Ours; to the contract these are "other".
        (
            "ServiceUnavailableException",
            (-32603, 200, Some(-32603), "INTERNAL_ERROR", 500),
        ),
    ];

    /// Errors that MCP tells in another way than the rest of their name.
    const MCP: &[(ErrorCode, (i32, u16))] = &[
        (ErrorCode::NotAcceptable, (-32011, 406)),
        (ErrorCode::MethodNotAllowed, (-32006, 405)),
    ];

    #[test]
    fn every_error_is_told_as_the_contract_has_it() {
        for code in ErrorCode::ALL {
            let row = code.row();
            let found = CONTRACT.iter().find(|(name, _)| *name == row.aws);
            let (_, (rpc, status, a2a, agui, agui_status)) =
                found.unwrap_or_else(|| panic!("{code:?}: the contract's table lacks {}", row.aws));
            let own = MCP.iter().find(|(special, _)| *special == code);
            let mcp = own.map_or((*rpc, *status), |(_, told)| *told);
            assert_eq!(code.mcp(), mcp, "{code:?}");
            // The one status that A2A has for two names.
            let real = if row.http == 402 { 429 } else { row.http };
            assert_eq!(code.a2a(), a2a.map(|rpc| (rpc, real)), "{code:?}");
            assert_eq!(code.agui(), (*agui, *agui_status), "{code:?}");
        }
    }

    #[test]
    fn every_code_of_the_contract_is_some_errors() {
        let told = |wanted: fn(ErrorCode) -> i32| {
            let mut codes: Vec<i32> = ErrorCode::ALL.into_iter().map(wanted).collect();
            codes.sort_unstable_by_key(|code| std::cmp::Reverse(*code));
            codes.dedup();
            codes
        };
        let mcp = [
            -32001, -32002, -32003, -32004, -32005, -32006, -32010, -32011, -32603,
        ];
        assert_eq!(told(|code| code.mcp().0), mcp);
        let a2a = [0, -32051, -32052, -32053, -32054, -32055, -32603];
        assert_eq!(told(|code| code.a2a().map_or(0, |(rpc, _)| rpc)), a2a);
    }
}
