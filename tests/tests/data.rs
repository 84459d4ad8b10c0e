//! The data plane by boto3 from PyPI, held to botocore's own models: every bound, every operation that is not here, stops whose
//! answer is lost, agent cards, statuses of ours. Tier: root; needs PyPI.
//!
//! What must hold is asserted in the clients' own language: `tests/clients/data_calls.py`, one function a test.

use anyhow::{Context as _, ensure};
use e2e::http::{Response, Target};
use e2e::{Daemon, Options, Result, deploy, ground, puppet, venv};
use serde_json::{Value, json};
use std::io::Write as _;

/// An A2A agent as far as its card, with `CARD` or without.
const CARDED: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        card = {"name": "carded", "skills": [{"id": "ü"}], "url": os.environ["AGENTCORE_RUNTIME_URL"]}
        served = {"/ping": {"status": "Healthy"}}
        if "CARD" in os.environ:
            served["/.well-known/agent-card.json"] = card
        self.answer(served.get(self.path))

    def do_POST(self):
        self.answer(None)

    def answer(self, value):
        text = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

ThreadingHTTPServer(("0.0.0.0", 9000), Agent).serve_forever()
"#;

/// The address of a daemon, and the plain runtime that most parts call.
fn facts(daemon: &Daemon) -> anyhow::Result<Value> {
    let runtime = puppet::deploy(&daemon.client(), "plain", json!({}))?;
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    Ok(json!({"endpoint": format!("http://{address}"), "name": "plain", "http": runtime.arn}))
}

/// An A2A runtime, with a card or without.
fn a2a(daemon: &Daemon, name: &str, environment: Value) -> anyhow::Result<Value> {
    let more = json!({"protocol": "A2A", "environment": environment});
    let runtime = deploy::python(&daemon.client(), name, CARDED, more)?;
    Ok(json!(runtime.arn))
}

fn part(name: &str, facts: &Value) -> anyhow::Result<String> {
    let words = [name, &facts.to_string()];
    venv::run("requirements.txt", "data_calls.py", &words)
}

#[test]
fn every_bound_of_the_model_is_kept() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let mut facts = facts(daemon)?;
        facts["card"] = a2a(daemon, "carded", json!({"CARD": "1"}))?;
        let tried: u32 = part("validation", &facts)?.trim().parse()?;
        ensure!(tried > 100, "{tried}");
        let client = daemon.client();
        ensure!(client.sessions("")?.is_empty(), "a session was made");
        part("inside", &facts)?;
        Ok(())
    })
}

#[test]
fn every_operation_that_is_not_here_says_so() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let asked: u32 = part("absent", &facts(daemon)?)?.trim().parse()?;
        ensure!(asked > 200, "{asked}");
        Ok(())
    })
}

#[test]
fn a_stop_whose_answer_is_lost_is_answered_again() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        part("stops", &facts(daemon)?)?;
        // Each of the three was ended, and each once.
        let sessions = daemon.client().sessions("")?;
        ensure!(sessions.len() == 3, "{sessions:?}");
        Ok(())
    })
}

#[test]
fn the_card_of_an_a2a_agent() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let mut facts = facts(daemon)?;
        facts["card"] = a2a(daemon, "carded", json!({"CARD": "1"}))?;
        facts["uncarded"] = a2a(daemon, "uncarded", json!({}))?;
        let endpoint = facts["endpoint"].as_str().context("endpoint")?;
        facts["url"] = json!(format!("{endpoint}/runtimes/carded/invocations"));
        part("card", &facts)?;
        Ok(())
    })
}

#[test]
fn without_a_token_botocore_reads_unauthorized() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let mut facts = facts(daemon)?;
        let authorizer = json!({"authorizer": {
            "discovery_url": "https://id.example/.well-known/openid-configuration", "allowed_audience": ["agents"],
        }});
        let tokened = puppet::deploy(&daemon.client(), "tokened", authorizer)?;
        facts["tokened"] = json!(tokened.arn);
        part("unauthorized", &facts)?;
        ensure!(daemon.client().sessions("")?.is_empty());
        Ok(())
    })
}

#[test]
fn statuses_that_aws_has_not_are_read_by_botocore() -> Result {
    ground!(Daemon, Python, Registry, Command("mke2fs"));
    let options = Options::default()
        .config("[storage]\nmax_size = \"32M\"\ntotal = \"33M\"\nper_caller = \"33M\"");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let mut facts = facts(daemon)?;
        let stored = json!({"storage": [{"mount": "/mnt/data", "size": "32M"}]});
        let session = e2e::client::session_name("stored");
        facts["stored"] = json!(puppet::deploy(&client, "stored", stored)?.arn);
        // All the room there is.
        puppet::run(&client, "stored", &session, "answer = 1")?;
        let mcp = json!({"protocol": "MCP"});
        facts["mcp"] = json!(puppet::deploy(&client, "spoken", mcp)?.arn);
        facts["uncarded"] = a2a(daemon, "uncarded", json!({}))?;
        part("statuses", &facts)?;
        Ok(())
    })
}

#[test]
fn the_sdks_client_invokes_and_stops() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let words = ["sdk", &facts(daemon)?.to_string()];
        venv::run("sdk-requirements.txt", "data_calls.py", &words)?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_stops_is_unavailable_to_botocore() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let mut facts = facts(daemon)?;
        facts["pid"] = json!(daemon.pid());
        part("draining", &facts)?;
        Ok(())
    })
}

/// botocore's HTTP client sends a request's head and then its body. A refusal that needs no body may come between the two;
/// that is no reason to close the connection, which the next call would find out.
#[test]
fn a_refusal_before_the_body_leaves_the_connection_open() -> Result {
    ground!(Daemon);
    Daemon::with(Options::quick(), |daemon| {
        let mut stream = daemon.tcp()?.target.connect()?;
        for _ in 0..3 {
            stream.write_all(
                b"POST /runtimes/nobody/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n",
            )?;
            let answer = Response::read(stream.try_clone()?, false)?.expect(404)?;
            ensure!(
                answer.header("connection").is_none(),
                "{:?}",
                answer.headers
            );
            answer.bytes()?;
            stream.write_all(b"{}")?;
        }
        Ok(())
    })
}
