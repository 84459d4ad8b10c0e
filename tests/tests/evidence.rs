//! What a caller sees of an agent that fails (424): its status, the beginning of its answer, the end of its log, each within its
//! bound and harmless to a terminal, and what botocore shows of it. Tier: root; boto3 needs PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, session_name};
use e2e::http::Target;
use e2e::{Client, Daemon, Options, Result, deploy, ground, places, venv};
use serde_json::{Value, json};
use std::process::Command;

/// Most bytes of `agentBody`, and of all of `agentLog`.
const BODY: usize = 4096;
const LOG: usize = 8192;

/// Most lines of `agentLog`.
const LINES: usize = 40;

/// Writes `lines` times `log` to its log, then dies or answers with `times` times `body`; a byte of those is a character here.
const AGENT: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(200, b'{"status": "Healthy"}')
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        log = told["log"].encode("latin-1")
        for number in range(told.get("lines", 1)):
            os.write(2, log.replace(b"NUMBER", str(number).encode()) + b"\n")
        if "die" in told:
            os._exit(told["die"])
        self.answer(told["status"], told["body"].encode("latin-1") * told.get("times", 1))
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # nobody wants all of it
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Agent).serve_forever()
"#;

/// Bytes, as the agent is told them.
fn bytes(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What the daemon says of an agent that was told to fail so; the message names its status.
fn failed(client: &Client, told: &Value) -> anyhow::Result<Value> {
    let request = Client::invocation("failing", &session_name("failing"), told);
    expect_aws_error(client.send(request)?, 424, "RuntimeClientError", "")
}

/// A caller's terminal does nothing with it: one line, without control characters.
fn harmless(text: &str) -> Result {
    ensure!(
        !text
            .chars()
            .any(|letter| letter.is_control() || letter == '\u{202e}'),
        "{text:?}"
    );
    Ok(())
}

fn text<'a>(error: &'a Value, member: &str) -> anyhow::Result<&'a str> {
    error[member]
        .as_str()
        .with_context(|| format!("no {member}: {error}"))
}

fn lines(error: &Value) -> anyhow::Result<Vec<&str>> {
    let lines = error["agentLog"].as_array().context("agentLog")?;
    lines
        .iter()
        .map(|line| line.as_str().context("a line"))
        .collect()
}

#[test]
fn an_agents_status_answer_and_log_are_shown_within_their_bounds() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "failing", AGENT, json!({}))?;
        // 1 MiB of answer and 10,000 lines.
        let error = failed(
            &client,
            &json!({
                "status": 500, "body": bytes(b"0123456789abcdef"), "times": 65536,
                "log": bytes(b"line NUMBER of what went wrong"), "lines": 10_000,
            }),
        )?;
        assert_eq!(error["agentStatus"], 500);
        assert_eq!(
            text(&error, "agentBody")?,
            "0123456789abcdef".repeat(BODY / 16)
        );
        let expected: Vec<String> = (10_000 - LINES..10_000)
            .map(|number| format!("line {number} of what went wrong"))
            .collect();
        assert_eq!(lines(&error)?, expected);
        let message = text(&error, "message")?;
        ensure!(
            message.starts_with("Received error (500) from runtime. The agent answered: 0123"),
            "{message}"
        );
        ensure!(
            message.ends_with("its log ends with: line 9999 of what went wrong"),
            "{message}"
        );
        ensure!(message.len() < 700, "{} bytes: {message}", message.len());

        // Neither text nor harmless, and every line about as long as lines get once that is marked.
        let mut log = b"\x1b]0;owned\x07\xff\xfe ".to_vec();
        log.extend([0x80].repeat(5_000));
        let error = failed(
            &client,
            &json!({
                "status": 503, "body": bytes(b"\x1b[2J\xff\r\n\0 ok \xe2\x80\xae"), "log": bytes(&log), "lines": 50,
            }),
        )?;
        assert_eq!(error["agentStatus"], 503);
        assert_eq!(
            text(&error, "agentBody")?,
            "\u{1b}[2J\u{fffd}\r\n\0 ok \u{202e}"
        );
        let shown = lines(&error)?;
        ensure!(!shown.is_empty() && shown.iter().map(|line| line.len()).sum::<usize>() <= LOG);
        ensure!(
            shown
                .iter()
                .all(|line| line.starts_with("\u{1b}]0;owned\u{7}\u{fffd}\u{fffd} "))
        );
        let message = text(&error, "message")?;
        harmless(message)?;
        ensure!(
            message.contains(r"(503) from runtime. The agent answered: \u{1b}[2J"),
            "{message}"
        );
        ensure!(
            message.contains(r"ends with: \u{1b}]0;owned\u{7}"),
            "{message}"
        );
        ensure!(message.chars().count() < 1200, "{message}");

        // All of it not UTF-8: marking that takes more room than was there.
        let error = failed(
            &client,
            &json!({
                "status": 400, "body": bytes(&[0xff]), "times": 1 << 20, "log": "",
            }),
        )?;
        let body = text(&error, "agentBody")?;
        ensure!(
            body.len() <= BODY && body.len() > BODY - 3 && body.chars().all(|c| c == '\u{fffd}')
        );

        // An agent that says nothing.
        let error = failed(
            &client,
            &json!({"status": 418, "body": "", "log": "", "lines": 0}),
        )?;
        assert_eq!(
            (&error["agentStatus"], &error["agentBody"]),
            (&json!(418), &json!(""))
        );
        assert_eq!(error["agentLog"], Value::Null);
        let message = text(&error, "message")?;
        assert_eq!(
            message,
            "Received error (418) from runtime. The agent answered: nothing"
        );

        // And one that answers nothing: its end is the daemon's to tell, the reason its own.
        let error = failed(
            &client,
            &json!({"die": 7, "log": bytes(b"Error: the reason\x1b[0m")}),
        )?;
        assert_eq!(
            (&error["agentStatus"], &error["agentBody"]),
            (&Value::Null, &Value::Null)
        );
        ensure!(
            lines(&error)?.contains(&"Error: the reason\u{1b}[0m"),
            "{error}"
        );
        let message = text(&error, "message")?;
        ensure!(message.contains("exit status 7"), "{message}");
        ensure!(
            message.ends_with(r"its log ends with: Error: the reason\u{1b}[0m"),
            "{message}"
        );
        Ok(())
    })
}

#[test]
fn boto3_shows_the_status_and_the_agents_last_words() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let shown = |runtime: &str, told: &Value| -> anyhow::Result<String> {
            let arguments = json!({
                "agentRuntimeArn": runtime, "runtimeSessionId": session_name("boto"), "payload": told.to_string(),
            });
            let out = Command::new(venv::bin()?.join("python"))
                .arg(places::source().join("tests/clients/error_calls.py"))
                .args([
                    format!("http://{address}"),
                    json!({"arguments": arguments}).to_string(),
                ])
                .output()?;
            ensure!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            let said: Value = serde_json::from_slice(&out.stdout)?;
            ensure!(said["kind"] == "RuntimeClientError", "{said}");
            Ok(text(&said, "text")?.to_owned())
        };
        let arn = deploy::python(&client, "failing", AGENT, json!({}))?.arn;
        let told = json!({
            "status": 500, "body": bytes(br#"{"error": "bad\u0007"}"#), "log": bytes(b"KeyError: 'customer'"),
        });
        assert_eq!(
            shown(&arn, &told)?,
            "An error occurred (RuntimeClientError) when calling the InvokeAgentRuntime operation: \
             Received error (500) from runtime. The agent answered: {\"error\": \"bad\\u0007\"}; \
             its log ends with: KeyError: 'customer'"
        );
        let arn = deploy::python(&client, "broken", "import nothing_like_it", json!({}))?.arn;
        let said = shown(&arn, &json!({}))?;
        harmless(&said)?;
        ensure!(said.contains("exit status 1 before it was ready"), "{said}");
        ensure!(
            said.ends_with(
                "its log ends with: ModuleNotFoundError: No module named 'nothing_like_it'"
            ),
            "{said}"
        );
        Ok(())
    })
}
