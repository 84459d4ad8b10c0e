//! What a caller may do: named as AWS names actions (contract §3.6), limited to runtimes where the caller is.
//!
//! Every wire asks here, with the action of its operation and the runtime that it concerns. Not for: who is asking
//! (`api::identify`), and whose a session is ([`crate::owner`]).

use proto::ids::RuntimeName;
use std::fmt;

/// Service prefix of actions, as in IAM.
const PREFIX: &str = "bedrock-agentcore:";

/// Something that can be permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Action(&'static str);

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Action {
            $($(#[$doc])* pub const $name: Self = Self($text);)*

            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

actions! {
    /// Calls an agent.
    INVOKE = "InvokeAgentRuntime";
    /// Calls an agent for a user that the caller names (`X-Amzn-Bedrock-AgentCore-Runtime-User-Id`).
    INVOKE_FOR_USER = "InvokeAgentRuntimeForUser";
    /// Runs a command in a session.
    COMMAND = "InvokeAgentRuntimeCommand";
    /// Opens a shell in a session.
    COMMAND_SHELL = "InvokeAgentRuntimeCommandShell";
    /// Opens a WebSocket to an agent.
    WEB_SOCKET = "InvokeAgentRuntimeWithWebSocketStream";
    /// Reaches a port of a session.
    PROXY = "InvokeAgentRuntimeProxy";
    /// Ends a session.
    STOP = "StopRuntimeSession";
    /// Reads an A2A agent's card.
    CARD = "GetAgentCard";
    /// Makes a runtime.
    CREATE_RUNTIME = "CreateAgentRuntime";
    /// Makes a runtime's next version.
    UPDATE_RUNTIME = "UpdateAgentRuntime";
    /// Reads a runtime.
    GET_RUNTIME = "GetAgentRuntime";
    /// Lists runtimes.
    LIST_RUNTIMES = "ListAgentRuntimes";
    /// Lists a runtime's versions.
    LIST_VERSIONS = "ListAgentRuntimeVersions";
    /// Deletes a runtime.
    DELETE_RUNTIME = "DeleteAgentRuntime";
    /// Makes an endpoint.
    CREATE_ENDPOINT = "CreateAgentRuntimeEndpoint";
    /// Moves an endpoint to a version.
    UPDATE_ENDPOINT = "UpdateAgentRuntimeEndpoint";
    /// Reads an endpoint.
    GET_ENDPOINT = "GetAgentRuntimeEndpoint";
    /// Lists a runtime's endpoints.
    LIST_ENDPOINTS = "ListAgentRuntimeEndpoints";
    /// Deletes an endpoint.
    DELETE_ENDPOINT = "DeleteAgentRuntimeEndpoint";
    /// Puts tags on a runtime or endpoint.
    TAG = "TagResource";
    /// Takes tags off.
    UNTAG = "UntagResource";
    /// Reads tags.
    LIST_TAGS = "ListTagsForResource";
    /// Uploads a bundle (the S3 subset).
    PUT_OBJECT = "PutObject";
    /// Reads an uploaded bundle (the S3 subset).
    GET_OBJECT = "GetObject";
}

impl Action {
    /// Its name, without the service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

/// Actions by name, `*` for any rest of it: `bedrock-agentcore:Invoke*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// Reads `Action`, `bedrock-agentcore:Action` or either with a `*` at its end. One that fits no action is a mistake.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix(PREFIX).unwrap_or(text);
        let pattern = Self {
            text: name.to_owned(),
        };
        if Action::ALL.iter().any(|action| pattern.fits(*action)) {
            return Ok(pattern);
        }
        let known: Vec<_> = Action::ALL.iter().map(|action| action.0).collect();
        Err(format!(
            "names no action; there are {} (a `*` at the end stands for any rest)",
            known.join(", ")
        ))
    }

    fn fits(&self, action: Action) -> bool {
        match self.text.strip_suffix('*') {
            Some(begin) => action.0.starts_with(begin),
            None => action.0 == self.text,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.text)
    }
}

/// What somebody may do: some actions, on some runtimes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// On these runtimes, which need not exist yet; `None` is any, and what concerns no runtime.
    pub runtimes: Option<Vec<RuntimeName>>,
    /// These actions; `None` is any.
    pub actions: Option<Vec<Pattern>>,
}

impl Grant {
    /// Whether there is no limit: an operator's.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.runtimes.is_none() && self.actions.is_none()
    }

    /// Whether it has an action at all.
    #[must_use]
    pub fn acts(&self, action: Action) -> bool {
        match &self.actions {
            None => true,
            Some(patterns) => patterns.iter().any(|pattern| pattern.fits(action)),
        }
    }

    /// Whether it covers an action on a runtime, or on none in particular.
    #[must_use]
    pub fn covers(&self, action: Action, runtime: Option<&RuntimeName>) -> bool {
        let reaches = match (&self.runtimes, runtime) {
            (None, _) => true,
            (Some(names), Some(name)) => names.contains(name),
            (Some(_), None) => false,
        };
        self.acts(action) && reaches
    }

    /// Whether what it covers tells that there is such a runtime.
    #[must_use]
    pub fn knows(&self, runtime: &RuntimeName) -> bool {
        let mut actions = Action::ALL.iter().copied();
        actions.any(|action| {
            let of_bundles = matches!(action, Action::PUT_OBJECT | Action::GET_OBJECT);
            !of_bundles && self.covers(action, Some(runtime))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RuntimeName {
        RuntimeName::parse(text).expect("name")
    }

    fn grant(runtimes: Option<&[&str]>, actions: Option<&[&str]>) -> Grant {
        Grant {
            runtimes: runtimes.map(|names| names.iter().map(|text| name(text)).collect()),
            actions: actions.map(|texts| {
                let parse = |text: &&str| Pattern::parse(text).expect("pattern");
                texts.iter().map(parse).collect()
            }),
        }
    }

    #[test]
    fn a_grant_covers_what_it_names_and_nothing_else() {
        let (a, b) = (name("a"), name("b"));
        let limited = grant(
            Some(&["a"]),
            Some(&["bedrock-agentcore:InvokeAgentRuntime", "Stop*"]),
        );
        assert!(limited.covers(Action::INVOKE, Some(&a)));
        assert!(limited.covers(Action::STOP, Some(&a)));
        assert!(!limited.covers(Action::INVOKE, Some(&b)));
        assert!(!limited.covers(Action::INVOKE, None));
        // A name that begins like another is another.
        assert!(!limited.covers(Action::INVOKE_FOR_USER, Some(&a)));
        assert!(!limited.covers(Action::COMMAND, Some(&a)));
        let wild = grant(None, Some(&["bedrock-agentcore:Invoke*"]));
        assert!(wild.covers(Action::COMMAND_SHELL, Some(&b)));
        assert!(!wild.covers(Action::STOP, Some(&b)) && !wild.is_unlimited());
        let nothing = grant(Some(&[]), None);
        assert!(!nothing.covers(Action::INVOKE, Some(&a)) && !nothing.is_unlimited());
        assert!(grant(None, Some(&["bedrock-agentcore:*"])).covers(Action::PUT_OBJECT, None));
        assert!(Grant::default().is_unlimited());
    }

    #[test]
    fn who_may_do_something_with_a_runtime_may_know_of_it() {
        let (a, b) = (name("a"), name("b"));
        let limited = grant(Some(&["a"]), Some(&["StopRuntimeSession"]));
        assert!(limited.knows(&a) && !limited.knows(&b));
        assert!(grant(None, Some(&["ListAgentRuntimes"])).knows(&a));
        assert!(!grant(None, Some(&["PutObject", "GetObject"])).knows(&a));
        assert!(Grant::default().knows(&a));
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_a_mistake() {
        for text in [
            "",
            "InvokeAgentRuntimes",
            "s3:PutObject",
            "invoke*",
            "**",
            "*Agent",
            "bedrock:*",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for text in ["*", "bedrock-agentcore:*", "Get*", "GetAgentCard"] {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }
}
