//! Every example, deployed by the command as its README says, and invoked. Tier: root; those with requirements need PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, ground, places};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Copies an example and launches it.
fn launch(daemon: &Daemon, name: &str, words: &[&str]) -> Result {
    let folder = copied(daemon, name)?;
    let out = daemon
        .cli()
        .current_dir(&folder)
        .arg("launch")
        .args(words)
        .output()?;
    ensure!(
        out.status.success(),
        "launch {name}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// Copies an example to a folder of the daemon's.
fn copied(daemon: &Daemon, name: &str) -> anyhow::Result<PathBuf> {
    let folder = daemon.dir().join("agents").join(name);
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(places::example(name))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    if name == "native" {
        std::fs::copy(
            places::binaries().join("native-agent"),
            folder.join("native-agent"),
        )?;
    }
    if name == "typescript_sdk" {
        let out = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefer-offline"])
            .current_dir(&folder)
            .output()
            .context("npm")?;
        ensure!(
            out.status.success(),
            "npm install: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(folder)
}

fn text(client: &Client, runtime: &str, payload: &Value) -> anyhow::Result<String> {
    let id = session_name(runtime);
    client
        .send(Client::invocation(runtime, &id, payload))?
        .expect(200)?
        .text()
}

#[test]
fn every_example_has_a_test_here() -> Result {
    ground!(Files);
    let folders: BTreeSet<_> = std::fs::read_dir(places::source().join("examples"))?
        .flatten()
        .filter(|e| e.path().join("agentcore.toml").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let tested = [
        "aws_sdk",
        "echo",
        "long_task",
        "native",
        "node",
        "strands_agent",
        "strands_tool",
        "streaming",
        "typescript_sdk",
    ];
    assert_eq!(folders, tested.map(str::to_owned).into());
    Ok(())
}

#[test]
fn echo_and_streaming() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        launch(daemon, "echo", &[])?;
        let id = session_name("echo");
        let answer = client.invoke("echo", &id, &json!({"prompt": "hello"}))?;
        assert_eq!(
            answer,
            json!({"echo": {"prompt": "hello"}, "session_id": id})
        );
        launch(daemon, "streaming", &[])?;
        let events = text(&client, "streaming", &json!({"prompt": "a b c"}))?;
        assert_eq!(events.matches("data: ").count(), 4, "{events}");
        ensure!(events.contains(r#"{"done": true, "words": 3}"#), "{events}");
        Ok(())
    })
}

#[test]
fn a_long_task_reports_its_progress() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        launch(daemon, "long_task", &[])?;
        let payload = r#"{"pages": 3, "seconds": 0.1}"#;
        let words = ["invoke", "--async", "-q", "-a", "long_task", payload];
        let id = daemon.cli().args(words).output()?.stdout;
        let id = String::from_utf8(id)?;
        let waited = daemon
            .cli()
            .args(["task", "wait", id.trim_end()])
            .output()?;
        let shown = String::from_utf8_lossy(&waited.stderr).into_owned();
        ensure!(waited.status.success(), "{id}: {shown}");
        let answer: Value = serde_json::from_slice(&waited.stdout)?;
        assert_eq!(
            answer,
            json!({"pages": 3, "words": 750, "attempt": 1, "went_on_from": 0})
        );
        ensure!(shown.contains("page 3 of 3"), "{shown}");
        Ok(())
    })
}

#[test]
fn native_echoes_any_bytes() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        launch(daemon, "native", &[])?;
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let request = Request::post("/runtimes/native/invocations", bytes.clone())
            .header(e2e::client::SESSION_HEADER, session_name("native"));
        assert_eq!(client.send(request)?.expect(200)?.bytes()?, bytes);
        Ok(())
    })
}

#[test]
fn node() -> Result {
    ground!(Daemon, Node);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        launch(daemon, "node", &[])?;
        let id = session_name("node");
        let answer = client.invoke("node", &id, &json!({"prompt": "hello"}))?;
        ensure!(
            answer["echo"]["prompt"] == "hello" && answer["session_id"] == id.as_str(),
            "{answer}"
        );
        let events = client
            .send(
                Client::invocation("node", &id, &json!({"prompt": "a b"}))
                    .header("accept", "text/event-stream"),
            )?
            .expect(200)?
            .text()?;
        assert_eq!(events.matches("data: ").count(), 2, "{events}");
        Ok(())
    })
}

#[test]
fn the_aws_sdk_for_typescript_from_the_registry_unmodified() -> Result {
    ground!(Daemon, Node, Registry, Command("npm"));
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        launch(daemon, "typescript_sdk", &[])?;
        let id = session_name("ts");
        let call = |payload: Value| Client::invocation("typescript_sdk", &id, &payload);
        let header = "x-amzn-bedrock-agentcore-runtime-custom-tenant";
        let answer: Value = client
            .send(call(json!({"prompt": "hello"})).header(header, "acme"))?
            .expect(200)?
            .json()?;
        ensure!(
            answer["echo"]["prompt"] == "hello"
                && answer["session_id"] == id.as_str()
                && answer["headers"][header] == "acme",
            "{answer}"
        );
        let stream = json!({"prompt": "a b c", "stream": true});
        let events = client
            .send(call(stream.clone()).header("accept", "text/event-stream"))?
            .expect(200)?
            .text()?;
        assert_eq!(events.matches("data: ").count(), 3, "{events}");
        // It streams to those only who accept a stream, and says so itself.
        let refused = client.send(call(stream))?.expect(424)?.text()?;
        ensure!(refused.contains("406"), "{refused}");
        Ok(())
    })
}

#[test]
fn the_aws_sdk_from_the_registry_unmodified() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        launch(daemon, "aws_sdk", &[])?;
        let id = session_name("sdk");
        let answer = client.invoke("aws_sdk", &id, &json!({"x": 1}))?;
        ensure!(
            answer["echo"]["x"] == 1 && answer["session_id"] == id.as_str(),
            "{answer}"
        );
        ensure!(
            answer["sdk"].as_str().is_some_and(|v| v.starts_with("1.")),
            "not the real SDK: {answer}"
        );
        // Its background work shows as HealthyBusy.
        client.invoke("aws_sdk", &id, &json!({"background": 6}))?;
        e2e::wait::until_true(10, "HealthyBusy", || {
            Ok(client.session(&id)?.phase == proto::api::Phase::Busy)
        })?;
        e2e::wait::until_true(20, "Healthy again", || {
            Ok(client.session(&id)?.phase == proto::api::Phase::Ready)
        })
    })
}

/// The ConverseStream stand-in of `tests/standin`, on loopback.
struct StandIn {
    child: Child,
    port: u16,
}

impl StandIn {
    fn start() -> anyhow::Result<Self> {
        let script = places::source().join("tests/standin/converse_stream.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(Path::new(&script))
            .args(["--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| script.display().to_string())?;
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let port = line
            .trim()
            .rsplit([':', ' ', '/'])
            .find_map(|w| w.parse().ok())
            .with_context(|| format!("the stand-in said {line:?}"))?;
        Ok(Self { child, port })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_model(name: &str, test: impl FnOnce(&Client, &StandIn) -> Result) -> Result {
    let model = StandIn::start()?;
    let options = Options::default().config(&format!(
        "[network]\nallow_private = [\"127.0.0.1:{}\"]",
        model.port
    ));
    Daemon::with(options, |daemon| {
        let endpoint = format!(
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:{}",
            model.port
        );
        let words = [
            "--env",
            &endpoint,
            "--env",
            "AWS_ACCESS_KEY_ID=test",
            "--env",
            "AWS_SECRET_ACCESS_KEY=test",
            "--env",
            "AWS_REGION=us-west-2",
        ];
        launch(daemon, name, &words)?;
        test(&daemon.client(), &model)
    })
}

#[test]
fn the_seeds_first_program_byte_for_byte_answers_through_a_model() -> Result {
    ground!(Daemon, Python, Registry);
    with_model("strands_agent", |client, _| {
        let answer = client.invoke(
            "strands_agent",
            &session_name("strands"),
            &json!({"prompt": "What is the weather?"}),
        )?;
        ensure!(answer["result"]["role"] == "assistant", "{answer}");
        ensure!(
            answer["result"]["content"][0]["text"]
                .as_str()
                .is_some_and(|t| !t.is_empty()),
            "{answer}"
        );
        Ok(())
    })
}

#[test]
fn a_model_calls_a_tool() -> Result {
    ground!(Daemon, Python, Registry);
    with_model("strands_tool", |client, _| {
        let events = text(
            client,
            "strands_tool",
            // The stand-in calls the tool that it is told to call.
            &json!({"prompt": r#"Use letter_count {"word": "strawberry", "letter": "r"}"#}),
        )?;
        ensure!(
            events.contains(r#""tool": "3""#),
            "the tool was not called: {events}"
        );
        Ok(())
    })
}
