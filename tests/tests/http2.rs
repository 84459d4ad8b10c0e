//! HTTP/2 without TLS and by prior knowledge (h2c), over TCP and over the socket, with curl. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Target;
use e2e::{Client, Daemon, Options, Result, chaos, ground, wait};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// curl on one of the daemon's listeners; it fails where HTTP/2 is not spoken.
fn curl(client: &Client, path: &str, session: &str, payload: &Value) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-N", "--http2-prior-knowledge", "--max-time", "60"]);
    let origin = match &client.target {
        Target::Tcp(address) => format!("http://{address}"),
        Target::Unix(socket) => {
            curl.arg("--unix-socket").arg(socket);
            "http://localhost".to_owned()
        }
    };
    curl.args(["-H", &format!("{SESSION_HEADER}: {session}")])
        .args(["-H", "content-type: application/json"])
        // After the body: what came, for `answered`.
        .args([
            "-w",
            "\n%{http_version} %{http_code} %header{x-amzn-errortype}",
        ])
        .args(["--data-binary", &payload.to_string()])
        .arg(format!("{origin}{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    curl
}

/// Body, and `version status error`.
fn answered(out: &Output) -> anyhow::Result<(String, String)> {
    let text = String::from_utf8(out.stdout.clone())?;
    ensure!(
        out.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let (body, facts) = text.rsplit_once('\n').context("no last line")?;
    Ok((body.to_owned(), facts.trim().to_owned()))
}

#[test]
fn invocations_errors_and_large_bodies_over_http2() -> Result {
    ground!(Daemon, Python, Command("curl"));
    Daemon::with(Options::quick(), |daemon| {
        chaos::deploy(&daemon.client(), "h2", "sdk", json!({}))?;
        for client in [daemon.client(), daemon.tcp()?] {
            let id = session_name("h2");
            let call = |path: &str, payload: Value| -> anyhow::Result<(String, String)> {
                answered(&curl(&client, path, &id, &payload).output()?)
            };
            let path = "/runtimes/h2/invocations";
            let (body, facts) = call(path, json!({"do": "echo", "value": "ü"}))?;
            assert_eq!(facts, "2 200");
            assert_eq!(serde_json::from_str::<Value>(&body)?, json!({"echo": "ü"}));
            // Beyond the first window, both ways.
            let filler = "x".repeat(100_000);
            let (body, facts) = call(path, json!({"do": "echo", "value": filler}))?;
            assert_eq!(facts, "2 200");
            assert_eq!(body.len(), filler.len() + r#"{"echo": ""}"#.len());
            let (body, facts) = call(path, json!({"do": "big", "bytes": 5_000_000}))?;
            assert_eq!((body.len(), facts.as_str()), (5_000_002, "2 200"));
            // The only runtime, on the local wire.
            let (body, facts) = call("/invocations", json!({"do": "echo", "value": 1}))?;
            assert_eq!((body.as_str(), facts.as_str()), (r#"{"echo": 1}"#, "2 200"));
            // Answered before the body is read, which some clients still send then: none may lose the answer.
            for round in 0..40 {
                let (_, facts) = call(
                    "/runtimes/nobody/invocations",
                    json!({"pad": "x".repeat(1000 * round)}),
                )?;
                assert_eq!(facts, "2 404 ResourceNotFoundException");
            }
            let (_, facts) = call(path, json!({"do": "exit", "code": 3}))?;
            assert_eq!(facts, "2 424 RuntimeClientError");
        }
        // What keeps web pages out is the authority here.
        let out = curl(
            &daemon.tcp()?,
            "/invocations",
            &session_name("host"),
            &json!({}),
        )
        .args(["-H", "host: evil.example"])
        .output()?;
        let (_, facts) = answered(&out)?;
        ensure!(facts.starts_with("2 421"), "{facts}");
        Ok(())
    })
}

#[test]
fn streams_over_http2_come_one_by_one_break_visibly_and_cancel() -> Result {
    ground!(Daemon, Python, Command("curl"));
    Daemon::with(Options::quick(), |daemon| {
        chaos::deploy(&daemon.client(), "h2", "sdk", json!({}))?;
        let path = "/runtimes/h2/invocations";
        for client in [daemon.client(), daemon.tcp()?] {
            let id = session_name("stream");
            let payload = json!({"do": "stream", "events": 4, "delay": 0.3});
            let mut child = curl(&client, path, &id, &payload).spawn()?;
            let out = BufReader::new(child.stdout.take().context("stdout")?);
            let mut times = Vec::new();
            for line in out.lines() {
                if line?.starts_with("data: ") {
                    times.push(Instant::now());
                }
            }
            ensure!(child.wait()?.success());
            ensure!(times.len() == 4, "{} events", times.len());
            ensure!(
                times[3] - times[0] > Duration::from_millis(600),
                "buffered: {times:?}"
            );
            // Whoever hangs up cancels.
            let payload = json!({"do": "stream", "events": -1, "delay": 0.05});
            let mut child = curl(&client, path, &id, &payload).spawn()?;
            let mut out = BufReader::new(child.stdout.take().context("stdout")?);
            out.read_line(&mut String::new())?;
            ensure!(client.session(&id)?.in_flight == 1);
            child.kill()?;
            child.wait()?;
            wait::until_true(
                5,
                "the call of a client that went away to be cancelled",
                || Ok(client.session(&id)?.in_flight == 0),
            )?;
            // An answer that breaks off is a broken stream, never a short answer.
            let payload = json!({"do": "stream", "events": 50, "die_after": 20});
            let out = curl(&client, path, &id, &payload).output()?;
            ensure!(
                !out.status.success(),
                "a cut answer looked complete: {out:?}"
            );
        }
        Ok(())
    })
}
