//! From method and path to an operation and whom it concerns.
//!
//! The path is split on raw slashes before anything is decoded: the operation is its end, the label what is between. A label
//! may hold slashes of its own, because hand-written clients leave those of an ARN unescaped (contract §2).

use crate::api::reply::ApiError;
use crate::permit::Action;
use http::Method;
use percent_encoding::percent_decode_str;
use proto::code::ErrorCode;

/// An operation of the AWS wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// InvokeAgentRuntime.
    Invoke,
    /// InvokeAgentRuntimeCommand.
    Command,
    /// StopRuntimeSession.
    Stop,
    /// GetAgentCard.
    Card,
    /// InvokeAgentRuntimeWithWebSocketStream.
    WebSocket,
    /// GetRuntimeProtectedResourceMetadata.
    ResourceMetadata,
    /// InvokeAgentRuntimeCommandShell.
    Shell,
}

impl Operation {
    /// What a caller must be permitted to do; `None` is open to anybody.
    pub(super) const fn action(self) -> Option<Action> {
        match self {
            Self::Invoke => Some(Action::INVOKE),
            Self::Command => Some(Action::COMMAND),
            Self::Stop => Some(Action::STOP),
            Self::Card => Some(Action::CARD),
            Self::WebSocket => Some(Action::WEB_SOCKET),
            Self::ResourceMetadata => None,
            Self::Shell => Some(Action::COMMAND_SHELL),
        }
    }
}

/// What the path ends with, and the one method of the operation. An ending that ends with another one comes before it.
const ENDINGS: &[(&str, Method, Operation)] = &[
    (
        "/invocations/.well-known/oauth-protected-resource",
        Method::GET,
        Operation::ResourceMetadata,
    ),
    ("/invocations", Method::POST, Operation::Invoke),
    ("/commands", Method::POST, Operation::Command),
    ("/stopruntimesession", Method::POST, Operation::Stop),
    (
        "/invocations/.well-known/agent-card.json",
        Method::GET,
        Operation::Card,
    ),
    ("/ws", Method::GET, Operation::WebSocket),
    ("/ws/shells", Method::GET, Operation::Shell),
];

/// What a request line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// The operation.
    pub operation: Operation,
    /// Its method.
    pub method: Method,
    /// Whom it concerns, decoded: an ARN, an id or a name.
    pub label: String,
}

/// The operation at a path, whatever the request's method is.
pub(super) fn split(path: &str) -> Result<Asked, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no operation at {path}"));
    let rest = path.strip_prefix("/runtimes/").ok_or_else(unknown)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let found = ENDINGS.iter().find_map(|(ending, method, operation)| {
        let label = rest.strip_suffix(ending)?;
        (!label.is_empty()).then_some((label, method, *operation))
    });
    let (label, method, operation) = found.ok_or_else(unknown)?;
    let label = percent_decode_str(label)
        .decode_utf8()
        .map_err(|_| ApiError::field("agentRuntimeArn", "is not UTF-8 after percent-decoding"))?;
    Ok(Asked {
        operation,
        method: method.clone(),
        label: label.into_owned(),
    })
}

impl Asked {
    /// Refuses another method.
    pub(super) fn require(&self, method: &Method) -> Result<(), ApiError> {
        if *method == self.method {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::MethodNotAllowed,
            format!("this operation is a {}, not a {method}", self.method),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_is_its_operation() {
        for (path, operation, method) in [
            ("invocations", Operation::Invoke, Method::POST),
            ("commands", Operation::Command, Method::POST),
            ("stopruntimesession", Operation::Stop, Method::POST),
            (
                "invocations/.well-known/agent-card.json",
                Operation::Card,
                Method::GET,
            ),
            ("ws", Operation::WebSocket, Method::GET),
            ("ws/shells", Operation::Shell, Method::GET),
        ] {
            let asked = split(&format!("/runtimes/echo/{path}")).expect(path);
            let found = (asked.operation, asked.method, asked.label.as_str());
            assert_eq!(found, (operation, method, "echo"), "{path}");
        }
    }

    #[test]
    fn the_label_survives_every_kind_of_escaping() {
        for path in [
            "/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fecho-AbCdEf1234/invocations",
            "/runtimes/arn%3aaws%3abedrock-agentcore%3aus-local-1%3a000000000000%3aruntime%2fecho-AbCdEf1234/invocations",
            "/runtimes/arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime%2Fecho-AbCdEf1234/invocations",
            "/runtimes/arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-AbCdEf1234/invocations/",
        ] {
            let asked = split(path).expect(path);
            assert_eq!(asked.operation, Operation::Invoke);
            assert_eq!(
                asked.label,
                "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-AbCdEf1234"
            );
        }
        assert!(split("/runtimes/echo").is_err());
        assert!(split("/runtimes/echo/unknown").is_err());
        assert!(split("/runtimes/%ff/invocations").is_err());
    }
}
