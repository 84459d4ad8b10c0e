//! InvokeAgentRuntimeCommand: what boto3 sees (`tests/clients/command_calls.py`), and what a client leaves behind that goes
//! away. Tier: root; boto3 needs PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Target};
use e2e::{Client, Daemon, Options, Result, ground, host, puppet, venv, wait};
use serde_json::json;

/// A command for a session of runtime `shell`.
fn command(session: &str, command: &str) -> Request {
    let body = json!({"command": command}).to_string();
    Request::post("/runtimes/shell/commands", body).header(SESSION_HEADER, session)
}

/// Whether a process of the session has this in its command line.
fn runs(client: &Client, session: &str, title: &str) -> anyhow::Result<bool> {
    let pid = client.session(session)?.pid.context("pid")?;
    Ok(host::processes(pid)
        .iter()
        .any(|process| host::title(*process).contains(title)))
}

#[test]
fn boto3_reads_the_event_stream() -> Result {
    ground!(Daemon, Python, Registry);
    // The bound on output is the one on bodies.
    let options = Options::default().config("[limits]\nmax_body = 26_000_000");
    Daemon::with(options, |daemon| {
        let more = json!({"environment": {"COLOUR": "blue"}});
        let runtime = puppet::deploy(&daemon.client(), "shell", more)?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let endpoint = format!("http://{address}");
        let session = session_name("command");
        let words = [endpoint.as_str(), &runtime.arn, &session];
        let said = venv::run("requirements.txt", "command_calls.py", &words)?;
        println!("{said}");
        // The commands are in the session's log, their output is not.
        let log = daemon.client().logs(&session)?;
        ensure!(log.contains(": exit 7"), "{log}");
        ensure!(!log.contains("0123456789abcdef\n0123456789abcdef"), "{log}");
        Ok(())
    })
}

#[test]
fn a_client_that_goes_away_takes_its_command_along() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "shell", json!({}))?;
        let session = session_name("gone");
        // While it is silent, while it writes, and while it writes and nobody reads; it does not listen to signals.
        for (script, marker) in [
            (
                "trap '' HUP TERM; echo on; sleep 1111 & sleep 1111",
                "sleep 1111",
            ),
            (
                "trap '' HUP TERM PIPE; while :; do echo 2222; sleep 0.01; done",
                "2222",
            ),
            ("trap '' HUP TERM; echo on; yes 3333", "yes 3333"),
        ] {
            let mut answer = client.send(command(&session, script))?.expect(200)?;
            ensure!(answer.piece()?.is_some(), "the start");
            wait::until_true(20, "the command to run", || runs(&client, &session, marker))?;
            ensure!(client.session(&session)?.in_flight == 1, "it is activity");
            drop(answer);
            wait::until_true(20, "the command to be killed", || {
                Ok(!runs(&client, &session, marker)?)
            })?;
            wait::until_true(20, "the session to be idle", || {
                Ok(client.session(&session)?.in_flight == 0)
            })?;
        }
        // A client that leaves while the session is still being made leaves no command either.
        let session = session_name("early");
        let stream = client.target.connect()?;
        let mut early = stream.try_clone()?;
        std::io::Write::write_all(
            &mut early,
            format!(
                "POST /runtimes/shell/commands HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\ncontent-length: 24\r\n\r\n{{\"command\":\"sleep 4444\"}}"
            )
            .as_bytes(),
        )?;
        wait::until_true(10, "the session", || Ok(client.session(&session).is_ok()))?;
        drop((stream, early));
        wait::until_true(20, "a session without work", || {
            let seen = client.session(&session)?;
            let ready = seen.phase == proto::api::Phase::Ready;
            Ok(ready && seen.in_flight == 0 && !runs(&client, &session, "sleep 4444")?)
        })
    })
}

#[test]
fn what_is_no_command_is_refused_and_changes_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "shell", json!({}))?;
        let session = session_name("bad");
        for (body, field) in [
            ("", "body"),
            ("ls", "body"),
            ("{}", "body.command"),
            (r#"{"command":""}"#, "body.command"),
            (r#"{"command":"ls","timeout":0}"#, "body.timeout"),
            (r#"{"command":"ls","timeout":"1"}"#, "body.timeout"),
            (r#"{"command":"ls","cwd":"/"}"#, "body.cwd"),
        ] {
            let request = Request::post("/runtimes/shell/commands", body)
                .header(SESSION_HEADER, session.as_str());
            let error = expect_aws_error(client.send(request)?, 400, "ValidationException", field)?;
            assert_eq!(error["fieldList"][0]["name"], field, "{body}");
        }
        let short = Request::post("/runtimes/shell/commands", r#"{"command":"ls"}"#)
            .header(SESSION_HEADER, "short");
        expect_aws_error(
            client.send(short)?,
            400,
            "ValidationException",
            "runtimeSessionId",
        )?;
        ensure!(client.sessions("")?.is_empty(), "a session was made");
        let get = client.send(Request::get("/runtimes/shell/commands"))?;
        expect_aws_error(get, 405, "ValidationException", "POST")?;
        // Without a session's id there is a new one, and it is told.
        let body = r#"{"command":"echo $(( 6 * 7 ))"}"#;
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::post("/runtimes/shell/commands", body).header("traceparent", parent);
        let answer = client.send(request)?.expect(200)?;
        assert_eq!(answer.header("traceparent"), Some(parent));
        let root = "Root=1-0af76519-16cd43dd8448eb211c80319c";
        assert_eq!(answer.header("x-amzn-trace-id"), Some(root));
        let made = answer.header(SESSION_HEADER).context("session")?.to_owned();
        let bytes = answer.bytes()?;
        ensure!(String::from_utf8_lossy(&bytes).contains("42\\n"));
        ensure!(client.session(&made)?.session_id.as_str() == made);
        Ok(())
    })
}

#[test]
fn an_agent_card_is_an_a2a_agents_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let source = r#"
import http.server, json
class Agent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        card = {"name": "ü", "session": self.headers.get("x-amzn-bedrock-agentcore-runtime-session-id")}
        known = {"/ping": {"status": "Healthy"}, "/.well-known/agent-card.json": card}
        body = json.dumps(known.get(self.path, "no")).encode()
        self.send_response(200 if self.path in known else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 9000), Agent).serve_forever()
"#;
        e2e::deploy::python(&client, "friend", source, json!({"protocol": "A2A"}))?;
        puppet::deploy(&client, "loner", json!({}))?;
        let path = |runtime: &str| {
            format!("/runtimes/{runtime}/invocations/.well-known/agent-card.json?qualifier=DEFAULT")
        };
        let session = session_name("card");
        let request = Request::get(path("friend")).header(SESSION_HEADER, session.as_str());
        let answer = client.send(request)?.expect(200)?;
        assert_eq!(answer.header(SESSION_HEADER), Some(session.as_str()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json::<serde_json::Value>()?,
            json!({"name": "ü", "session": session})
        );
        let answer = client.send(Request::get(path("friend")))?.expect(200)?;
        let made = answer.header(SESSION_HEADER).context("session")?.to_owned();
        assert_eq!(answer.json::<serde_json::Value>()?["session"], made);
        let answer = client.send(Request::get(path("loner")))?;
        expect_aws_error(answer, 400, "ValidationException", "A2A")?;
        Ok(())
    })
}
