//! The one table: internal error ▸ JSON-RPC code ▸ HTTP status ▸ AWS error name (contract §2.9).
//!
//! No other place chooses a status. A new kind of failure is a new row here, and in [`told`] for the protocols that have
//! words of their own.

mod told;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Every way in which a call can fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];
        }
    };
}

codes! {
    /// The caller's request breaks a rule; the message names the field.
    Validation,
    /// No or wrong credentials.
    Unauthorized,
    /// A signature that is not believed.
    InvalidSignature,
    /// Known caller, not allowed.
    AccessDenied,
    /// A quota is used up.
    QuotaExceeded,
    /// Unknown runtime, version, artifact or session.
    NotFound,
    /// The method is not offered at this path.
    MethodNotAllowed,
    /// The thing exists already, or its state forbids the call.
    Conflict,
    /// The session is just being started or torn down: try again.
    RetryableConflict,
    /// The caller takes no form in which its agent can answer (MCP).
    NotAcceptable,
    /// A body over its limit.
    PayloadTooLarge,
    /// Right host expected (a web page must not reach loopback).
    MisdirectedRequest,
    /// The agent failed: non-2xx, died, could not start, broke the protocol.
    AgentFailed,
    /// The agent did not answer within the invocation timeout.
    AgentTimeout,
    /// Load: wait and try again.
    Throttled,
    /// Our fault.
    Internal,
    /// Starting or draining.
    Unavailable,
    /// The disk is full.
    StorageFull,
    /// Shim: the agent's port did not accept the connection.
    AgentUnreachable,
    /// Shim: what the agent sent is not HTTP, or its head is over the limit.
    AgentProtocol,
    /// Shim: the agent closed the connection before its answer was complete.
    AgentClosed,
    /// Shim: `cancel` came first.
    Cancelled,
    /// Shim: more invocations in flight than the session may have.
    TooManyInvocations,
    /// Shim: parameters out of range, or descriptors missing or not due.
    BadOrder,
    /// JSON-RPC: no such method.
    NoSuchMethod,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// JSON-RPC error code.
    pub rpc: i32,
    /// HTTP status.
    pub http: u16,
    /// AWS error name (`x-amzn-ErrorType`).
    pub aws: &'static str,
    /// Title of the RFC 9457 problem.
    pub title: &'static str,
}

impl ErrorCode {
    /// The code's row.
    #[must_use]
    pub const fn row(self) -> Row {
        const fn row(rpc: i32, http: u16, aws: &'static str, title: &'static str) -> Row {
            Row {
                rpc,
                http,
                aws,
                title,
            }
        }
        match self {
            Self::Validation => row(-32602, 400, "ValidationException", "Invalid request"),
            Self::Unauthorized => row(-32001, 401, "UnauthorizedException", "Not authenticated"),
            Self::InvalidSignature => row(
                -32027,
                403,
                "InvalidSignatureException",
                "Signature not accepted",
            ),
            Self::AccessDenied => row(-32002, 403, "AccessDeniedException", "Not permitted"),
            Self::QuotaExceeded => row(
                -32003,
                402,
                "ServiceQuotaExceededException",
                "Quota exceeded",
            ),
            Self::NotFound => row(-32004, 404, "ResourceNotFoundException", "Not found"),
            Self::MethodNotAllowed => row(-32005, 405, "ValidationException", "Method not allowed"),
            Self::Conflict => row(-32006, 409, "ConflictException", "Conflict"),
            Self::RetryableConflict => row(
                -32007,
                409,
                "RetryableConflictException",
                "Session operation in progress",
            ),
            Self::NotAcceptable => row(-32026, 406, "ValidationException", "Not acceptable"),
            Self::PayloadTooLarge => row(-32008, 413, "ValidationException", "Payload too large"),
            Self::MisdirectedRequest => row(-32009, 421, "ValidationException", "Wrong host"),
            Self::AgentFailed => row(-32010, 424, "RuntimeClientError", "The agent failed"),
            Self::AgentTimeout => row(-32011, 504, "RuntimeClientError", "The agent took too long"),
            Self::Throttled => row(-32012, 429, "ThrottlingException", "Too many requests"),
            Self::Internal => row(-32603, 500, "InternalServerException", "Internal error"),
            Self::Unavailable => row(
                -32013,
                503,
                "ServiceUnavailableException",
                "Not available now",
            ),
            Self::StorageFull => row(-32014, 507, "InternalServerException", "The disk is full"),
            Self::AgentUnreachable => row(
                -32020,
                424,
                "RuntimeClientError",
                "The agent does not accept connections",
            ),
            Self::AgentProtocol => row(
                -32021,
                424,
                "RuntimeClientError",
                "The agent's answer is not HTTP",
            ),
            Self::AgentClosed => row(
                -32022,
                424,
                "RuntimeClientError",
                "The agent closed the connection early",
            ),
            Self::Cancelled => row(
                -32023,
                424,
                "RuntimeClientError",
                "The invocation was cancelled",
            ),
            Self::TooManyInvocations => row(
                -32024,
                429,
                "ThrottlingException",
                "Too many invocations of this session",
            ),
            Self::BadOrder => row(-32025, 500, "InternalServerException", "Internal error"),
            Self::NoSuchMethod => row(-32601, 500, "InternalServerException", "Internal error"),
        }
    }

    /// When a caller who is refused so may come again, in seconds, unless more is known; `None`: not by waiting. Load passes;
    /// room that somebody has to make takes a while.
    #[must_use]
    pub const fn again(self) -> Option<u64> {
        match self {
            Self::Throttled
            | Self::TooManyInvocations
            | Self::RetryableConflict
            | Self::Unavailable => Some(1),
            Self::QuotaExceeded | Self::StorageFull => Some(60),
            Self::Validation
            | Self::Unauthorized
            | Self::InvalidSignature
            | Self::AccessDenied
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::NotAcceptable
            | Self::PayloadTooLarge
            | Self::MisdirectedRequest
            | Self::AgentFailed
            | Self::AgentTimeout
            | Self::Internal
            | Self::AgentUnreachable
            | Self::AgentProtocol
            | Self::AgentClosed
            | Self::Cancelled
            | Self::BadOrder
            | Self::NoSuchMethod => None,
        }
    }

    /// The code of a JSON-RPC error; an unknown number is [`ErrorCode::Internal`].
    #[must_use]
    pub fn from_rpc(rpc: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.row().rpc == rpc)
            .unwrap_or(Self::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_rpc_codes_are_unique_and_round_trip() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_rpc(code.row().rpc), code);
        }
    }
}
