//! Access keys with limits: each action and no other, each runtime and no other, nothing of the operators', and a record of every
//! refusal. Tier: root; needs PyPI. What callers must see is asserted in `tests/clients/limited_calls.py`.

use anyhow::{Context as _, ensure};
use e2e::http::{Request, Target};
use e2e::{Daemon, Options, Result, audit, deploy, ground, venv};
use serde_json::{Value, json};

/// Actions that an operation here needs; `PROXY` is not among them, as there is none.
const ACTIONS: &[&str] = &[
    "InvokeAgentRuntime",
    "InvokeAgentRuntimeForUser",
    "InvokeAgentRuntimeCommand",
    "InvokeAgentRuntimeCommandShell",
    "InvokeAgentRuntimeWithWebSocketStream",
    "StopRuntimeSession",
    "GetAgentCard",
    "CreateAgentRuntime",
    "UpdateAgentRuntime",
    "GetAgentRuntime",
    "ListAgentRuntimes",
    "ListAgentRuntimeVersions",
    "DeleteAgentRuntime",
    "CreateAgentRuntimeEndpoint",
    "UpdateAgentRuntimeEndpoint",
    "GetAgentRuntimeEndpoint",
    "ListAgentRuntimeEndpoints",
    "DeleteAgentRuntimeEndpoint",
    "TagResource",
    "UntagResource",
    "ListTagsForResource",
    "PutObject",
    "GetObject",
];

/// An agent with a card.
const CARDED: &str = r#"
import http.server, os

class Agent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        # Its card, and its health.
        body = b'{"name":"carded","status":"Healthy"}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Agent).serve_forever()
"#;

/// A daemon whose TCP callers sign, two runtimes, and the keys that `keys` makes of an operator's client.
fn with(test: impl FnOnce(&Daemon, &mut Value) -> Result) -> Result {
    let options = Options {
        dev: false,
        ..Options::default()
    };
    let config = "listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"\ndefault_runtime = \"talk\"";
    Daemon::with(options.config(config), |daemon| {
        let client = daemon.client();
        let talk = deploy::agent(&client, "websocket", "talk", "agent.py", json!({}))?;
        let carded = deploy::python(&client, "carded", CARDED, json!({"protocol": "A2A"}))?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let mut facts = json!({
            "endpoint": format!("http://{address}"),
            "talk": {"arn": talk.arn, "id": talk.runtime_id},
            "carded": {"arn": carded.arn, "id": carded.runtime_id},
            "keys": {},
            "pid": daemon.pid(),
        });
        test(daemon, &mut facts)
    })
}

fn key(daemon: &Daemon, facts: &mut Value, name: &str, limits: Value) -> Result {
    let mut body = json!({ "name": name });
    for (field, value) in limits.as_object().context("an object")? {
        body[field] = value.clone();
    }
    let made = daemon
        .client()
        .send(Request::post("/v1/keys", body.to_string()))?;
    facts["keys"][name] = made.expect(201)?.json()?;
    Ok(())
}

/// Runs the script, and looks for the record of each refusal that it saw.
fn calls(daemon: &Daemon, scenario: &str, facts: &Value, least: usize) -> Result {
    let facts = facts.to_string();
    let said = venv::run("requirements.txt", "limited_calls.py", &[scenario, &facts])?;
    let last = said.lines().last().context("no last line")?;
    let refusals: Vec<audit::Refused> = serde_json::from_str(last)?;
    ensure!(refusals.len() >= least, "{} refusals", refusals.len());
    audit::expect(daemon, &refusals)
}

#[test]
fn a_key_of_one_action_does_that_and_nothing_else() -> Result {
    ground!(Daemon, Python, Registry);
    with(|daemon, facts| {
        for action in ACTIONS {
            key(daemon, facts, action, json!({"actions": [action]}))?;
        }
        // What it puts is there already, and another key's.
        let all = json!({"actions": ["*"], "objects": ["bucket/*"]});
        key(daemon, facts, "all", all)?;
        calls(daemon, "actions", facts, ACTIONS.len() * 25)?;
        // The one that may do everything which has a name is no operator: nothing has been made or stopped over `/v1`.
        let keys: Value = daemon.client().get("/v1/keys?maxResults=100")?;
        let names = keys["items"].as_array().context("items")?.iter();
        ensure!(
            !names
                .into_iter()
                .any(|key| key["name"] == "made by a key with limits"),
            "{keys}"
        );
        Ok(())
    })
}

#[test]
fn a_key_of_one_runtime_does_not_see_the_others() -> Result {
    ground!(Daemon, Python, Registry);
    with(|daemon, facts| {
        key(daemon, facts, "one", json!({"runtimes": ["talk"]}))?;
        calls(daemon, "reach", facts, 30)?;
        let sessions = daemon.client().sessions("runtime=carded")?;
        ensure!(sessions.is_empty(), "{sessions:#?}");
        Ok(())
    })
}

#[test]
fn nobody_waits_for_the_body_of_a_key_that_may_not_go_there() -> Result {
    ground!(Daemon, Python, Registry);
    with(|daemon, facts| {
        key(daemon, facts, "one", json!({"runtimes": ["talk"]}))?;
        calls(daemon, "unread", facts, 7)
    })
}

#[test]
fn a_key_that_ends_while_a_body_is_on_its_way_has_ended() -> Result {
    ground!(Daemon, Python, Registry);
    with(|daemon, facts| {
        for name in ["operator", "kept", "ends", "ends too"] {
            key(daemon, facts, name, json!({}))?;
        }
        calls(daemon, "meanwhile", facts, 2)?;
        let gone = format!(
            "key:{}",
            facts["keys"]["ends"]["accessKeyId"]
                .as_str()
                .context("id")?
        );
        let sessions = daemon.client().sessions("")?;
        ensure!(
            sessions
                .iter()
                .all(|session| session.owner.as_deref() != Some(&gone)),
            "{sessions:#?}"
        );
        Ok(())
    })
}
