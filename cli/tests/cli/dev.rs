//! `dev`.

use crate::fake::{Fake, Script};
use crate::ran::{Heard, eventually, finished, signal};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

const SESSION: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

/// A running `agentcore dev`.
struct Dev {
    child: Child,
    said: Heard,
    address: String,
}

impl Dev {
    fn start(fake: &Fake) -> Self {
        fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"a.py\"\n");
        fake.write("a.py", "1");
        let mut child = fake
            .command(&["dev", "--json", "-p", "0", "--env", "MODE=dev"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let said = Heard::from(child.stderr.take().expect("piped"));
        let line = Heard::from(child.stdout.take().expect("piped")).until("\n");
        let first: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(first["runtime"], "shop_dev");
        let address = first["url"]
            .as_str()
            .expect("a URL")
            .trim_start_matches("http://")
            .to_owned();
        Self {
            child,
            said,
            address,
        }
    }

    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    }

    /// Status line, headers and body of one exchange.
    fn call(&self, request: &str) -> (u16, String) {
        let mut text = String::new();
        self.connect(request)
            .read_to_string(&mut text)
            .expect("an answer");
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status.expect("a status"), body.expect("a body"))
    }

    fn post(&self, body: &str, headers: &str) -> (u16, String) {
        self.call(&post(body, headers))
    }

    /// Ends it and gives everything that it said.
    fn stop(self) -> String {
        signal(&self.child, Signal::INT);
        finished(self.child).exits(0);
        self.said.rest();
        self.said.all()
    }
}

fn post(body: &str, headers: &str) -> String {
    format!(
        "POST /invocations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

#[test]
fn it_serves_the_local_wire_in_one_session_and_cleans_up() {
    let fake = Fake::start();
    let dev = Dev::start(&fake);
    assert_eq!(
        fake.state().runtimes["shop_dev"][0]["config"]["environment"],
        json!({ "MODE": "dev" })
    );
    assert_eq!(
        dev.call(&get("/ping", "localhost")),
        (200, "{\"status\":\"Healthy\"}".into())
    );
    assert_eq!(
        dev.post("[1]", "x-mine: 1\r\n"),
        (200, "{\"echo\":[1]}".into())
    );
    dev.post("[2]", "");
    let own = "o".repeat(33);
    dev.post("[3]", &format!("{SESSION}: {own}\r\n"));
    let seen = fake.invocations();
    let ids: Vec<&str> = seen
        .iter()
        .map(|seen| seen.header(SESSION).expect("an id"))
        .collect();
    assert_eq!(ids[0], ids[1], "requests without a header share a session");
    assert_ne!(ids[0], ids[2]);
    assert_eq!(ids[2], own);
    assert_eq!(seen[0].path, "/runtimes/shop_dev/invocations");
    assert_eq!(seen[0].header("x-mine"), Some("1"));
    assert_eq!(seen[0].header("connection"), None);

    // HealthyBusy is the daemon's word for it.
    fake.state().sessions[0]["phase"] = json!("busy");
    assert_eq!(
        dev.call(&get("/ping", "127.0.0.1")).1,
        "{\"status\":\"HealthyBusy\"}"
    );
    assert_eq!(dev.call(&get("/else", "localhost")).0, 404);
    assert_eq!(dev.call(&get("/ping", "evil.example")).0, 421);
    assert_eq!(dev.post("{}", "origin: https://evil.example\r\n").0, 403);
    assert_eq!(fake.invocations().len(), 3, "refused ones go no further");

    dev.stop();
    let state = fake.state();
    assert!(state.runtimes.is_empty() && state.artifacts.is_empty() && state.sessions.is_empty());
}

#[test]
fn answers_stream_and_an_agents_own_error_comes_through() {
    let fake = Fake::start();
    let dev = Dev::start(&fake);
    fake.state().script = Script::Held(vec!["data: 1\n\n", "data: 2\n\n"]);
    let mut stream = dev.connect(&post("{}", ""));
    let mut seen = String::new();
    let mut chunk = [0; 1024];
    while !seen.contains("data: 1") {
        let length = stream.read(&mut chunk).expect("read");
        assert!(length > 0, "ended early: {seen}");
        seen.push_str(std::str::from_utf8(&chunk[..length]).expect("text"));
    }
    assert!(!seen.contains("data: 2"), "the second was not sent yet");
    fake.go_on.notify_one();
    stream.read_to_string(&mut seen).expect("read");
    assert!(
        seen.contains("data: 2") && seen.contains("text/event-stream"),
        "{seen}"
    );

    // A client that goes away cancels its invocation.
    fake.state().script = Script::Hang;
    let gone = dev.connect(&post("{}", ""));
    fake.await_invocations(2);
    drop(gone);
    eventually("cancelled", || fake.state().cancelled.then_some(()));

    let body = json!({ "message": "m", "agentStatus": 418, "agentBody": "{\"error\":\"teapot\"}" });
    fake.state().script = Script::Answer(424, vec![], body.to_string());
    assert_eq!(dev.post("{}", ""), (418, "{\"error\":\"teapot\"}".into()));
    fake.state().script = Script::Answer(
        424,
        vec![],
        json!({ "message": "it died", "agentLog": ["x"] }).to_string(),
    );
    assert_eq!(
        dev.post("{}", ""),
        (424, "{\"error\":\"it died\",\"log\":[\"x\"]}".into())
    );
    dev.said.until("teapot");
    dev.said.until("it died");
    dev.stop();
}

#[test]
fn a_change_reloads_and_begins_a_new_session() {
    let fake = Fake::start();
    let dev = Dev::start(&fake);
    dev.post("{}", "");
    let id = fake.state().sessions[0]["id"]
        .as_str()
        .expect("text")
        .to_owned();
    let line = |text: &str| proto::api::LogRecord {
        at: "2026-01-01T00:00:00.000Z".into(),
        stream: Some(proto::shim::LogStream::Stdout),
        text: text.into(),
    };
    fake.state().logs.insert(id, vec![line("first breath")]);

    dev.said.until("| first breath");

    // A fault in the configuration is shown, and the old version goes on.
    fake.write(
        "agentcore.toml",
        "name = \"shop\"\nentrypoint = \"gone.py\"\n",
    );
    dev.said.until("gone.py is not in the bundle");
    assert_eq!(dev.post("{}", "").0, 200);
    assert_eq!(fake.state().runtimes["shop_dev"].len(), 1);

    fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"a.py\"\n");
    fake.write("a.py", "two");
    eventually("a second version", || {
        (fake.state().runtimes["shop_dev"].len() == 2).then_some(())
    });
    eventually("the old session stopped", || {
        (!fake.seen(&Method::DELETE, "/v1/sessions/").is_empty()).then_some(())
    });
    dev.post("{}", "");
    let seen = fake.invocations();
    let ids: Vec<&str> = seen
        .iter()
        .map(|seen| seen.header(SESSION).expect("an id"))
        .collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2], "the old session is gone");
    let said = dev.stop();
    assert_eq!(said.matches("-- reloaded").count(), 1, "{said}");
    assert!(fake.state().runtimes.is_empty() && fake.state().artifacts.is_empty());
}

#[test]
fn its_own_log_in_the_folder_is_no_change() {
    let fake = Fake::start();
    fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"a.py\"\n");
    fake.write("a.py", "1");
    let log = std::fs::File::create(fake.home().join("dev.log")).expect("made");
    let mut child = fake
        .command(&["dev", "--json", "-p", "0"])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("started");
    Heard::from(child.stdout.take().expect("piped")).until("\n");
    let versions = || fake.state().runtimes["shop_dev"].len();
    fake.write("a.py", "22");
    eventually("the change", || (versions() == 2).then_some(()));
    // The note about it has been written by now; were that a change, the next version would follow within a second.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(versions(), 2);
    signal(&child, Signal::INT);
    finished(child).exits(0);
}

#[test]
fn a_taken_port_is_said() {
    let fake = Fake::start();
    fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"a.py\"\n");
    fake.write("a.py", "1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("bound").port().to_string();
    fake.run(&["dev", "-p", &port]).exits(1).says(&[
        "cannot listen on port",
        &port,
        "leave -p out",
    ]);
    assert!(fake.state().runtimes.is_empty());
}
