//! WebSockets to agents: what the `websockets` client from PyPI sees (`tests/clients/websocket_calls.py`) of an agent with
//! the built-in SDK and of one with the AWS SDK, and what agents and clients that break the rules bring about. Tier: root;
//! PyPI.

use anyhow::ensure;
use e2e::client::{SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Response, Stream, Target};
use e2e::{Client, Daemon, Options, Result, deploy, ground, places, venv, wait};
use serde_json::json;
use std::io::{BufReader, Read as _, Write as _};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Everything of the script, against a runtime named `name`.
fn calls(daemon: &Daemon, name: &str) -> Result {
    let client = daemon.tcp()?;
    let runtime = client.runtime(name)?;
    let Target::Tcp(address) = client.target else {
        anyhow::bail!("not TCP");
    };
    let said = venv::run(
        "websocket-requirements.txt",
        "websocket_calls.py",
        &[&address.to_string(), &runtime.arn, name],
    )?;
    ensure!(said.contains("an_agent_that_dies"), "{said}");
    wait::until_true(10, "no work to be left", || {
        let sessions = daemon.client().live_sessions()?;
        Ok(sessions.iter().all(|session| session.in_flight == 0))
    })
}

#[test]
fn the_built_in_sdks_agent() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        deploy::agent(&daemon.client(), "websocket", "talk", "agent.py", json!({}))?;
        calls(daemon, "talk")
    })
}

#[test]
fn the_aws_sdks_agent() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let folder = daemon.dir().join("websocket");
        std::fs::create_dir(&folder)?;
        let agent = places::agent("websocket").join("agent.py");
        std::fs::copy(agent, folder.join("agent.py"))?;
        std::fs::write(
            folder.join("requirements.txt"),
            "bedrock-agentcore==1.25.0\n",
        )?;
        for words in [
            &["configure", "-e", "agent.py", "-n", "talk"][..],
            &["launch"],
        ] {
            let out = daemon.cli().current_dir(&folder).args(words).output()?;
            let said = String::from_utf8_lossy(&out.stderr);
            ensure!(out.status.success(), "{words:?}: {said}");
        }
        let state = daemon
            .client()
            .invoke("talk", &session_name("sdk"), &json!({}))?;
        let sdk = state["sdk"].as_str().unwrap_or_default();
        ensure!(sdk.starts_with("/app/"), "not the vendored one: {state}");
        calls(daemon, "talk")
    })
}

/// An offer to switch, at `path`.
fn offer(path: &str, session: &str) -> Request {
    Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .header(SESSION_HEADER, session)
}

/// A connection that has switched.
fn switched(client: &Client, path: &str, session: &str) -> anyhow::Result<BufReader<Stream>> {
    let answer = client.send(offer(path, session))?.expect(101)?;
    assert_eq!(answer.header(SESSION_HEADER), Some(session));
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    Ok(answer.upgraded())
}

/// The next frame: its first byte and its payload.
fn frame(stream: &mut BufReader<Stream>) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; usize::from(head[1])];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

/// The next frame must be a close with this code; its reason.
fn close(stream: &mut BufReader<Stream>, code: u16) -> anyhow::Result<String> {
    let (first, payload) = frame(stream)?;
    ensure!(first == 0x88 && payload.len() >= 2, "{first} {payload:?}");
    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code);
    Ok(String::from_utf8(payload[2..].to_vec())?)
}

/// An agent of sockets alone: what it does with a handshake is in its path's query, and it sends raw bytes.
const RAW: &str = r#"
import base64, hashlib, http.server, time

class Agent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/ping":
            return self.answer(200, b'{"status":"Healthy"}')
        act = self.headers.get("x-amzn-bedrock-agentcore-runtime-custom-act")
        if act == "forbid":
            return self.answer(403, b"not for you", content_type="text/plain")
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.close_connection = True
        self.send_response(101)
        self.send_header("upgrade", "h2c" if act == "other" else "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", accept.lower() if act == "wrong" else accept)
        if act == "extend":
            self.send_header("sec-websocket-extensions", "permessage-deflate")
        self.end_headers()
        said = b"" if act is None else {
            "drop": b"\x81\x02hi",
            "half": b"\x81\x7dnot all of it",
            "masked": b"\x81\x82\0\0\0\0hi",
            "reserved": b"\xc1\x02hi",
            "huge": b"\x82\x7f\0\0\0\0\xff\xff\xff\xff",
            "after": b"\x81\x02hi\x88\x02\x03\xe8\x81\x04more",
            "mute": b"\x81\x02hi",
        }.get(act, b"")
        self.wfile.write(said)
        self.wfile.flush()
        if act == "mute":
            time.sleep(1000)

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Agent).serve_forever()
"#;

#[test]
fn agents_that_break_the_rules() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "raw", RAW, json!({}))?;
        let session = session_name("raw");
        let path = |act: &str| {
            format!("/runtimes/raw/ws?X-Amzn-Bedrock-AgentCore-Runtime-Custom-Act={act}")
        };
        let asked =
            |act: &str| -> anyhow::Result<Response> { client.send(offer(&path(act), &session)) };

        let error = expect_aws_error(asked("forbid")?, 424, "RuntimeClientError", "not for you")?;
        assert_eq!(error["agentStatus"], 403);
        for (act, text) in [
            ("other", "another protocol"),
            ("wrong", "Sec-WebSocket-Accept"),
            ("extend", "extension"),
        ] {
            expect_aws_error(asked(act)?, 424, "RuntimeClientError", text)?;
        }
        let open = |act: &str| switched(&client, &path(act), &session);
        let hi = (0x81, b"hi".to_vec());

        let mut socket = open("drop")?;
        assert_eq!(frame(&mut socket)?, hi);
        assert_eq!(close(&mut socket, 1011)?, "the agent closed the connection");
        // In the middle of a frame no close can be said.
        let mut rest = Vec::new();
        open("half")?.read_to_end(&mut rest)?;
        assert_eq!(rest, b"\x81\x7dnot all of it");
        for (act, code, text) in [
            ("masked", 1011, "mask"),
            ("reserved", 1011, "reserved"),
            ("huge", 1009, "4294967295"),
        ] {
            let reason = close(&mut open(act)?, code)?;
            ensure!(reason.contains(text), "{act}: {reason}");
        }
        // What comes after a close is not passed on.
        let mut socket = open("after")?;
        assert_eq!(frame(&mut socket)?, hi);
        assert_eq!(close(&mut socket, 1000)?, "");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "{rest:?}");
        // An agent that says nothing more: the stop of its session ends the connection, with the reason.
        let mut socket = open("mute")?;
        assert_eq!(frame(&mut socket)?, hi);
        wait::until_true(20, "this one to be the only work", || {
            Ok(client.session(&session)?.in_flight == 1)
        })?;
        client.stop(&session)?;
        let reason = close(&mut socket, 1001)?;
        ensure!(reason.contains("session ended"), "{reason}");
        Ok(())
    })
}

#[test]
fn a_hundred_at_fifty_frames_a_second_lose_nothing() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let binary = std::fs::read(places::binaries().join("native-agent"))?;
        let file = deploy::BundleFile {
            path: "native-agent",
            bytes: &binary,
            mode: 0o755,
        };
        let config = deploy::config("native", "native-agent", json!({"language": "binary"}))?;
        deploy::bundle(&client, deploy::zip(&[file])?, &config)?;
        let (mut echoes, mut worst) = (0, std::time::Duration::ZERO);
        let trip = |trip| {
            echoes += 1;
            worst = worst.max(trip);
        };
        e2e::sockets::echo(&client, "native", (2, 50), 500, trip, || Ok(()))?;
        ensure!(echoes == 100 * 500, "{echoes} echoes");
        println!("the slowest of {echoes} frames took {worst:?}");
        Ok(())
    })
}

#[test]
fn what_is_no_handshake_is_refused_and_starts_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::agent(&client, "websocket", "talk", "agent.py", json!({}))?;
        let session = session_name("bad");
        for path in ["/runtimes/talk/ws", "/ws"] {
            let plain = Request::get(path).header(SESSION_HEADER, session.as_str());
            expect_aws_error(client.send(plain)?, 400, "ValidationException", "Upgrade")?;
            let old = offer(path, &session).header("sec-websocket-version", "8");
            expect_aws_error(
                client.send(old)?,
                400,
                "ValidationException",
                "Sec-WebSocket-Version",
            )?;
            let other = offer(path, &session).header("sec-websocket-key", "none");
            expect_aws_error(
                client.send(other)?,
                400,
                "ValidationException",
                "Sec-WebSocket-Key",
            )?;
        }
        let post = client.send(Request::post("/runtimes/talk/ws", ""))?;
        expect_aws_error(post, 405, "ValidationException", "GET")?;
        ensure!(client.sessions("")?.is_empty(), "a session was made");
        Ok(())
    })
}

#[test]
fn the_local_wire_and_a_daemon_that_stops() -> Result {
    ground!(Daemon, Python);
    let options =
        Options::default().config("[limits]\nwebsocket_frame = 2048\nwebsocket_duration = 2");
    let mut daemon = Daemon::start(options)?;
    let client = daemon.client();
    deploy::agent(&client, "websocket", "talk", "agent.py", json!({}))?;
    let session = session_name("local");
    // Headers of any name pass on this wire, and subprotocols would be the agent's.
    let request = offer("/ws", &session).header("x-anything", "goes");
    let answer = client.send(request)?.expect(101)?;
    let mut socket = answer.upgraded();
    socket.get_mut().write_all(b"\x81\x87\0\0\0\0headers")?;
    let mut head = [0; 4];
    socket.read_exact(&mut head)?;
    assert_eq!(head[..2], [0x81, 126]);
    let mut text = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    socket.read_exact(&mut text)?;
    let seen: serde_json::Value = serde_json::from_slice(&text)?;
    assert_eq!(seen["headers"]["x-anything"], "goes");
    // The configured bounds: of frames, and of age.
    let mut other = switched(&client, "/ws", &session)?;
    other.get_mut().write_all(b"\x82\xfe\x08\x01\0\0\0\0")?;
    ensure!(close(&mut other, 1009)?.contains("2048"));
    let reason = close(&mut socket, 1001)?;
    ensure!(reason.contains("limits.websocket_duration"), "{reason}");
    let mut last = switched(&client, "/ws", &session)?;
    let status = daemon.terminate()?;
    ensure!(status.success(), "{status}");
    ensure!(close(&mut last, 1001)?.contains("stopping"));
    let log = daemon.log();
    ensure!(!log.contains("panic"), "{log}");
    Ok(())
}
