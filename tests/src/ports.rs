//! An agent with servers of its own beside it (`tests/agents/ports`), and where an invocation says that they are.

use crate::client::Client;
use crate::deploy;
use crate::http::{Request, Response, Target};
use anyhow::{Context as _, ensure};
use proto::api::Runtime;
use serde_json::{Value, json};

/// Tells where a session's ports are.
pub const ENDPOINT_URL: &str = "x-amzn-bedrock-agentcore-runtime-session-endpoint-url";

/// On errors of the daemon's own.
pub const ERROR: &str = "x-amzn-errortype";

/// Offers two of its three ports.
#[must_use]
pub fn offered() -> Value {
    json!({"allowed_ports": [8001, "9000-9010"], "lifecycle": {"stop_grace": 2}})
}

/// Deploys it.
pub fn agent(client: &Client, name: &str, more: Value) -> anyhow::Result<Runtime> {
    deploy::agent(client, "ports", name, "agent.py", more)
}

/// Invokes, which starts the session; where the answer says that its ports are.
pub fn told(client: &Client, runtime: &str, session: &str) -> anyhow::Result<Option<String>> {
    let answer = client.send(Client::invocation(runtime, session, &json!({})))?;
    let url = answer.header(ENDPOINT_URL).map(str::to_owned);
    answer.expect(200)?.text()?;
    Ok(url)
}

/// The path of an address that a daemon told.
pub fn path(url: &str) -> anyhow::Result<String> {
    let path = match url.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').context("a path")?..],
        None => url,
    };
    Ok(path.to_owned())
}

/// The path of the ports of a session, which is started.
pub fn started(client: &Client, runtime: &str, session: &str) -> anyhow::Result<String> {
    path(&told(client, runtime, session)?.context("an address")?)
}

/// A refusal has a name and nothing else.
pub fn refused(answer: Response, status: u16, name: &str) -> anyhow::Result<()> {
    ensure!(
        answer.header(ERROR) == Some(name),
        "{status} {:?}, not {name}",
        answer.header(ERROR)
    );
    ensure!(answer.header("x-amzn-requestid").is_some(), "no request id");
    let said = answer.expect(status)?.text()?;
    ensure!(said.is_empty(), "a body: {said}");
    Ok(())
}

/// An offer to become a WebSocket.
#[must_use]
pub fn offer(path: &str) -> Request {
    Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Where a client's daemon listens on TCP, for programs that are told so.
pub fn endpoint(client: &Client) -> anyhow::Result<String> {
    match &client.target {
        Target::Tcp(address) => Ok(format!("http://{address}")),
        Target::Unix(_) => anyhow::bail!("not TCP"),
    }
}
