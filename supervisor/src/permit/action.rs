//! Things that can be permitted, named as AWS names actions (contract §3.6): `bedrock-agentcore:InvokeAgentRuntime`,
//! `s3:PutObject`.

use std::fmt;

/// Whose action it is: what stands before the colon, as in IAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Both planes of AgentCore.
    AgentCore,
    /// The S3 subset.
    S3,
}

impl Service {
    const ALL: [Self; 2] = [Self::AgentCore, Self::S3];

    const fn name(self) -> &'static str {
        match self {
            Self::AgentCore => "bedrock-agentcore",
            Self::S3 => "s3",
        }
    }
}

/// Something that can be permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Action(Service, &'static str);

macro_rules! actions {
    ($($service:ident { $($(#[$doc:meta])* $name:ident = $text:literal;)* })*) => {
        impl Action {
            $($($(#[$doc])* pub const $name: Self = Self(Service::$service, $text);)*)*

            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name),*),*];
        }
    };
}

actions! {
    AgentCore {
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
    }
    S3 {
        /// Uploads an object, in the place of one of its name.
        PUT_OBJECT = "PutObject";
        /// Reads an object; deploys it, with the action on the runtime.
        GET_OBJECT = "GetObject";
        /// Deletes an object.
        DELETE_OBJECT = "DeleteObject";
        /// Lists objects.
        LIST_BUCKET = "ListBucket";
    }
}

impl Action {
    /// Its name, without the service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.1
    }

    /// Its service.
    #[must_use]
    pub const fn service(self) -> Service {
        self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.name(), self.1)
    }
}

/// Actions by name, `*` for any rest of it: `bedrock-agentcore:Invoke*`, `s3:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// `None`: of any.
    service: Option<Service>,
    text: String,
}

impl Pattern {
    /// Reads `Action` or `service:Action`, either with a `*` at its end. One that fits no action is a mistake. Without a
    /// service it means all that it fits; where that is one service's, it is told with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (service, name) = match text.split_once(':') {
            None => (None, text),
            Some((prefix, name)) => {
                let known = Service::ALL.into_iter().find(|s| s.name() == prefix);
                let service = known.ok_or_else(|| {
                    let names = Service::ALL.map(Service::name).join(", ");
                    format!("names the service `{prefix}`; there are {names}")
                })?;
                (Some(service), name)
            }
        };
        let mut pattern = Self {
            service,
            text: name.to_owned(),
        };
        let fitting = || Action::ALL.iter().filter(|action| pattern.fits(**action));
        let Some(first) = fitting().next().map(|action| action.service()) else {
            let known: Vec<_> = Action::ALL.iter().map(ToString::to_string).collect();
            return Err(format!(
                "names no action; there are {} (a `*` at the end stands for any rest)",
                known.join(", ")
            ));
        };
        if fitting().all(|action| action.service() == first) {
            pattern.service = Some(first);
        }
        Ok(pattern)
    }

    /// Whether an action is one of them.
    #[must_use]
    pub fn fits(&self, action: Action) -> bool {
        let Action(service, name) = action;
        let named = match self.text.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == self.text,
        };
        named && self.service.is_none_or(|only| only == service)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            Some(service) => write!(f, "{}:{}", service.name(), self.text),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_fits_nothing_is_a_mistake() {
        for text in [
            "",
            "InvokeAgentRuntimes",
            "s3:InvokeAgentRuntime",
            "bedrock-agentcore:PutObject",
            "invoke*",
            "**",
            "*Agent",
            "bedrock:*",
            "s3:",
            ":*",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for (text, told) in [
            ("*", "*"),
            ("Get*", "Get*"),
            ("bedrock-agentcore:*", "bedrock-agentcore:*"),
            ("GetAgentCard", "bedrock-agentcore:GetAgentCard"),
            ("PutObject", "s3:PutObject"),
            ("s3:*", "s3:*"),
            ("Put*", "s3:Put*"),
        ] {
            let pattern = Pattern::parse(text).expect(text);
            assert_eq!(pattern.to_string(), told);
            assert_eq!(Pattern::parse(told), Ok(pattern), "{told}");
        }
    }

    #[test]
    fn a_service_keeps_a_pattern_from_the_others_actions() {
        let fits = |text: &str, action| Pattern::parse(text).expect(text).fits(action);
        assert!(fits("*", Action::PUT_OBJECT) && fits("*", Action::INVOKE));
        assert!(fits("s3:*", Action::PUT_OBJECT) && !fits("s3:*", Action::INVOKE));
        assert!(!fits("bedrock-agentcore:*", Action::PUT_OBJECT));
        assert!(fits("Get*", Action::GET_OBJECT) && fits("Get*", Action::GET_RUNTIME));
        assert!(!fits("bedrock-agentcore:Get*", Action::GET_OBJECT));
    }
}
