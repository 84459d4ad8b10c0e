//! Who may open a WebSocket or a shell: signed, presigned and with a token, as AWS's own SDK does it, and everybody who may not,
//! refused before the upgrade and with a record. Tier: root; needs PyPI. What callers must see is asserted in
//! `tests/clients/socket_calls.py`.

use anyhow::{Context as _, ensure};
use e2e::http::{Request, Target};
use e2e::issuer::{Issuer, authorizer};
use e2e::{Daemon, Options, Result, audit, deploy, ground, venv};
use serde_json::{Value, json};

/// Two runtimes of one agent: one for those who may, one for those who may not.
fn deployed(daemon: &Daemon, more: &Value) -> anyhow::Result<Value> {
    let client = daemon.client();
    let mut arns = json!({});
    for name in ["talk", "closed"] {
        let runtime = deploy::agent(&client, "websocket", name, "agent.py", more.clone())?;
        arns[name] = json!(runtime.arn);
    }
    let key = |name: &str, limits: Value| -> anyhow::Result<Value> {
        let mut body = json!({ "name": name });
        for (field, value) in limits.as_object().context("an object")? {
            body[field] = value.clone();
        }
        let made = client.send(Request::post("/v1/keys", body.to_string()))?;
        made.expect(201)?.json()
    };
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    Ok(json!({
        "address": address.to_string(),
        "arns": arns,
        "keys": {
            "operator": key("operator", json!({}))?,
            "limited": key("limited", json!({"actions": ["InvokeAgentRuntime"]}))?,
        },
    }))
}

/// Runs the script; every refusal that it saw has its record, and none of them started anything.
fn calls(daemon: &Daemon, scenario: &str, facts: &Value) -> Result {
    let facts = facts.to_string();
    let said = venv::run(
        "websocket-requirements.txt",
        "socket_calls.py",
        &[scenario, &facts],
    )?;
    let last = said.lines().last().context("no last line")?;
    let refusals: Vec<audit::Refused> = serde_json::from_str(last)?;
    ensure!(refusals.len() > 30, "{} refusals", refusals.len());
    audit::expect(daemon, &refusals)?;
    let sessions = daemon.client().sessions("runtime=closed")?;
    ensure!(sessions.is_empty(), "{sessions:#?}");
    Ok(())
}

#[test]
fn signed_and_presigned_by_awss_sdk() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        calls(daemon, "signed", &deployed(daemon, &json!({}))?)
    })
}

#[test]
fn with_a_token_in_a_header_or_a_subprotocol() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        let mut facts = deployed(daemon, &authorizer(&issuer.url("")))?;
        facts["issuer"] = json!(format!("http://127.0.0.1:{}", issuer.port));
        calls(daemon, "tokens", &facts)
    })
}
