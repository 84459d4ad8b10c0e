//! Agents of every protocol, called by that protocol's own clients from PyPI through the daemon: MCP, A2A, AG-UI, and HTTP on a
//! port and path of its own. What each client must see is asserted in its language: `tests/clients/*_calls.py`. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::{Request, Response, Target};
use e2e::{Client, Daemon, Options, Result, deploy, ground, places, puppet, venv};
use proto::api::Runtime;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn endpoint(daemon: &Daemon) -> anyhow::Result<String> {
    match daemon.tcp()?.target {
        Target::Tcp(address) => Ok(format!("http://{address}")),
        Target::Unix(_) => anyhow::bail!("not TCP"),
    }
}

/// Deploys an agent of `tests/agents/protocols` with what a virtual environment has installed.
fn vendored(
    client: &Client,
    name: &str,
    venv: &Path,
    agent: &str,
    more: Value,
) -> anyhow::Result<Runtime> {
    let source = std::fs::read(places::agent("protocols").join(agent))?;
    let left_out = ["pip", "setuptools"];
    let packages = venv::packages(venv)?;
    let bundle = deploy::zip_vendored(&packages, &left_out, &[deploy::file(agent, &source)])?;
    let mut all = json!({"resources": {"memory": "1G"}});
    e2e::chaos::merge(&mut all, more);
    deploy::bundle(client, bundle, &deploy::config(name, agent, all)?)
}

fn calls(venv: &Path, script: &str, words: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(venv.join("python"))
        .arg(places::source().join("tests/clients").join(script))
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    ensure!(
        out.status.success(),
        "{script} {words:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

#[test]
fn the_mcp_client_with_a_stateless_and_a_stateful_server() -> Result {
    ground!(Daemon, Python, Registry);
    let venv = venv::of("mcp.txt")?;
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let endpoint = endpoint(daemon)?;
        for (name, flag) in [("stateless", "1"), ("stateful", "0")] {
            let more = json!({"protocol": "MCP", "environment": {"STATELESS": flag}});
            let runtime = vendored(&client, name, &venv, "mcp_server.py", more)?;
            let session = calls(&venv, "mcp_calls.py", &[&endpoint, &runtime.arn, name])?;
            assert_eq!(client.session(&session)?.runtime.as_str(), name);
        }
        Ok(())
    })
}

/// A JSON-RPC request to an MCP runtime, as boto3 sends it.
fn rpc(client: &Client, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
    let body = json!({"jsonrpc": "2.0", "id": 41, "method": "ping"});
    let mut request = Request::post("/runtimes/mcp/invocations", body.to_string());
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    client.send(request)
}

/// Speaks enough HTTP for an MCP runtime: answers with the session that it was told, and says its own if it is asked to.
const RECORDER: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        params = request.get("params", {})
        if "die" in params:
            os._exit(3)
        told = {"session": self.headers.get("mcp-session-id"), "accept": self.headers.get("accept"), "path": self.path}
        body = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "result": told}).encode()
        self.send_response(params.get("status", 200))
        self.send_header("content-type", "application/json")
        if "own" in params:
            self.send_header("mcp-session-id", params["own"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Recorder).serve_forever()
"#;

#[test]
fn an_mcp_session_is_one_id_for_the_client_and_the_servers_own_for_the_server() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "mcp", RECORDER, json!({"protocol": "MCP"}))?;
        let call = |session: Option<&str>, params: Value| -> anyhow::Result<(String, u16, Value)> {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "x", "params": params});
            let mut request = Request::post("/runtimes/mcp/invocations", body.to_string());
            // As SDKs do: made up anew for each call.
            request = request.header(SESSION_HEADER, session_name("made-up"));
            if let Some(session) = session {
                request = request.header("Mcp-Session-Id", session);
            }
            let answer = client.send(request)?;
            let id = answer.header("mcp-session-id").context("an id")?.to_owned();
            assert_eq!(answer.header(SESSION_HEADER), Some(id.as_str()));
            let status = answer.status;
            Ok((id, status, answer.json::<Value>()?["result"].clone()))
        };
        // A server without sessions is told the client's id, once the client has one.
        let (stateless, _, told) = call(None, json!({}))?;
        assert_eq!(told["session"], Value::Null);
        assert_eq!(told["accept"], "application/json, text/event-stream");
        assert_eq!(told["path"], "/mcp");
        let (again, _, told) = call(Some(&stateless), json!({}))?;
        assert_eq!((&again, &told["session"]), (&stateless, &json!(stateless)));
        // One with sessions is told its own, and the client never sees that.
        let (stateful, _, _) = call(None, json!({"own": "of-the-server"}))?;
        ensure!(
            stateful != stateless && stateful != "of-the-server",
            "{stateful}"
        );
        for _ in 0..2 {
            let (again, _, told) = call(Some(&stateful), json!({}))?;
            assert_eq!(
                (&again, &told["session"]),
                (&stateful, &json!("of-the-server"))
            );
        }
        assert_eq!(client.live_sessions()?.len(), 2);
        // The kind of success is the server's.
        assert_eq!(call(Some(&stateful), json!({"status": 202}))?.1, 202);
        Ok(())
    })
}

#[test]
fn errors_of_an_mcp_runtime_are_json_rpcs_with_the_requests_id() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "mcp", RECORDER, json!({"protocol": "MCP"}))?;
        let failed = |answer: Response, status: u16, code: i32| -> anyhow::Result<Value> {
            ensure!(answer.header("x-amzn-requestid").is_some());
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body: Value = answer.expect(status)?.json()?;
            assert_eq!(body["jsonrpc"], "2.0", "{body}");
            assert_eq!(body["error"]["code"], code, "{body}");
            Ok(body)
        };
        let answer = rpc(&client, &[("mcp-session-id", "short")])?;
        let body = failed(answer, 200, -32006)?;
        assert_eq!(body["id"], 41);
        ensure!(
            body["error"]["message"]
                .as_str()
                .is_some_and(|m| m.contains("mcpSessionId")),
            "{body}"
        );
        let answer = rpc(&client, &[("accept", "text/plain")])?;
        assert_eq!(failed(answer, 406, -32011)?["id"], 41);
        assert_eq!(client.live_sessions()?.len(), 0);
        // The server's own failure, with its status and words, and its death.
        for (params, code) in [
            (json!({"status": 500}), -32010),
            (json!({"die": 1}), -32010),
        ] {
            let body = json!({"jsonrpc": "2.0", "id": "x", "method": "y", "params": params});
            let request = Request::post("/runtimes/mcp/invocations", body.to_string());
            let answer = client.send(request)?;
            ensure!(
                answer.header("mcp-session-id").is_some(),
                "the session's id"
            );
            assert_eq!(failed(answer, 200, code)?["id"], "x");
        }
        // A body that is no JSON-RPC has no id to be answered to.
        let request = Request::post("/runtimes/mcp/invocations", "rubbish").header("accept", "a/b");
        assert_eq!(
            failed(client.send(request)?, 406, -32011)?["id"],
            Value::Null
        );
        Ok(())
    })
}

#[test]
fn the_a2a_client_with_an_agent_of_the_sdk() -> Result {
    ground!(Daemon, Python, Registry);
    let venv = venv::of("agents.txt")?;
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let endpoint = endpoint(daemon)?;
        let runtime = vendored(
            &client,
            "a2a",
            &venv,
            "a2a_agent.py",
            json!({"protocol": "A2A"}),
        )?;
        calls(&venv, "a2a_calls.py", &[&endpoint, &runtime.arn])?;
        Ok(())
    })
}

#[test]
fn an_a2a_agent_is_told_its_url() -> Result {
    ground!(Daemon, Python);
    let source = puppet::SOURCE.replace("app.run()", "app.run(port=9000)");
    let more = json!({"protocol": "A2A", "path": "/invocations"});
    let url = "import os; answer = [os.environ['AGENTCORE_RUNTIME_URL'], os.environ['A2A_PORT']]";
    for public in [None, Some("https://agents.example.com/")] {
        let options = match public {
            None => Options::default(),
            Some(url) => Options::default().config(&format!("public_url = \"{url}\"")),
        };
        Daemon::with(options, |daemon| {
            let client = daemon.client();
            deploy::python(&client, "card", &source, more.clone())?;
            let told = puppet::run(&client, "card", &session_name("url"), url)?;
            let base = match public {
                None => endpoint(daemon)?,
                Some(_) => "https://agents.example.com".to_owned(),
            };
            assert_eq!(
                told,
                json!([format!("{base}/runtimes/card/invocations"), "9000"])
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn ag_ui_events_and_errors_are_the_protocols_own() -> Result {
    ground!(Daemon, Python, Registry);
    let venv = venv::of("agents.txt")?;
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let endpoint = endpoint(daemon)?;
        let runtime = vendored(
            &client,
            "agui",
            &venv,
            "agui_agent.py",
            json!({"protocol": "AGUI"}),
        )?;
        calls(&venv, "agui_calls.py", &[&endpoint, &runtime.arn])?;
        Ok(())
    })
}

#[test]
fn an_agent_on_a_port_and_path_of_its_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let source = RECORDER.replace(
            "    def do_POST",
            "    def do_GET(self):\n        self.send_response(200)\n        self.send_header('content-length', '21')\n        self.end_headers()\n        self.wfile.write(b'{\"status\": \"Healthy\"}')\n    def do_POST",
        );
        let own = json!({"port": 11999, "path": "/v2/run"});
        deploy::python(&client, "own", &source, own)?;
        let session = session_name("own");
        let answer = client.invoke("own", &session, &json!({"id": 1}))?;
        assert_eq!(answer["result"]["path"], "/v2/run");
        Ok(())
    })
}
