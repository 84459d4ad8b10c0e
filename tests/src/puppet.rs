//! The puppet: an agent that runs the Python of its payload, inside its session. `inv(code)` of the security bar.
//!
//! What a test wants of an agent stands in the test, not in a folder elsewhere. The code sees `payload` and leaves its
//! answer in `answer`; its own standard output is the session's log.

use crate::client::{Client, session_name};
use anyhow::{Context as _, ensure};
use proto::api::{Runtime, Session};
use serde_json::{Value, json};

/// With the built-in SDK.
pub const SOURCE: &str = r#"
from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()
kept = {}  # lives as long as the session

@app.entrypoint
def invoke(payload):
    scope = {"payload": payload, "kept": kept, "app": app}
    exec(payload["code"], scope)
    return scope.get("answer")

app.run()
"#;

/// How often this agent was called, itself included.
pub const COUNT: &str = "kept['n'] = kept.get('n', 0) + 1\nanswer = kept['n']";

/// Deploys it; `more` is merged into its configuration.
pub fn deploy(client: &Client, name: &str, more: Value) -> anyhow::Result<Runtime> {
    crate::deploy::python(client, name, SOURCE, more)
}

/// Payload of an invocation that runs `code`.
#[must_use]
pub fn payload(code: &str) -> Value {
    json!({ "code": code })
}

/// Runs code in a session and gives its `answer`.
pub fn run(client: &Client, runtime: &str, session: &str, code: &str) -> anyhow::Result<Value> {
    client
        .invoke(runtime, session, &payload(code))
        .with_context(|| format!("in session {session}: {code}"))
}

/// Begins a session by a call, in which nobody was before.
pub fn begin(client: &Client, runtime: &str) -> anyhow::Result<(String, Session)> {
    let id = session_name(runtime);
    let count = run(client, runtime, &id, COUNT)?;
    ensure!(count == json!(1), "somebody was there before: {count}");
    let session = client.session(&id)?;
    Ok((id, session))
}
