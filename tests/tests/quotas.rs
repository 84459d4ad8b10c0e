//! Every bound on how much and how long (`limits.*`, contract §6), each provoked with a small value: it waits before it refuses,
//! its refusal names it and says when to try again, and the next call works when there is room. Tier: root.
//!
//! Bounds with suites of their own: bodies (`bodies.rs`), WebSockets and shells (`websocket.rs`, `shell.rs`), retries
//! (`retries.rs`), turns and sessions (`concurrency.rs`), bundles (`archives.rs`), storage (`storage.rs`).

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, joined, session_name};
use e2e::http::{Request, Response};
use e2e::{Client, Daemon, Options, Result, deploy, ground, puppet, wait};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Whatever keeps a bound used up; each thing is dropped, or done, when there is to be room.
type Holding = Box<dyn FnOnce(&Client) -> Result>;

/// A bound on how much there may be at once.
struct Bound {
    /// Its key.
    limit: &'static str,
    /// What it is set to.
    config: &'static str,
    /// How its refusal is told.
    status: u16,
    name: &'static str,
    /// Whether room is waited for; of some things nobody can expect it.
    waits: bool,
    /// Uses it up.
    fill: fn(&Client) -> anyhow::Result<Holding>,
    /// The call for which there is no room, and how it ends when there is.
    call: fn(&Client) -> anyhow::Result<Request>,
    success: u16,
}

const QUOTA: (u16, &str) = (402, "ServiceQuotaExceededException");
const LOAD: (u16, &str) = (429, "ThrottlingException");

fn bound(
    limit: &'static str,
    config: &'static str,
    (status, name): (u16, &'static str),
    fill: fn(&Client) -> anyhow::Result<Holding>,
    call: fn(&Client) -> anyhow::Result<Request>,
) -> Bound {
    Bound {
        limit,
        config,
        status,
        name,
        waits: true,
        fill,
        call,
        success: 200,
    }
}

impl Bound {
    fn at_once(mut self) -> Self {
        self.waits = false;
        self
    }

    fn then(mut self, success: u16) -> Self {
        self.success = success;
        self
    }
}

/// Of 33 characters and more, the same in all of a test's steps.
const FIRST: &str = "first-00000000000000000000000000000000";
const OTHER: &str = "other-00000000000000000000000000000000";

fn answering(session: &str) -> Request {
    Client::invocation("one", session, &puppet::payload("answer = 1"))
}

/// A live session of runtime `one`, which goes when it is stopped.
fn session(client: &Client) -> anyhow::Result<Holding> {
    puppet::deploy(client, "one", json!({}))?;
    client.send(answering(FIRST))?.expect(200)?;
    Ok(Box::new(|client| {
        client.stop(FIRST)?;
        Ok(())
    }))
}

/// A session that works for some seconds.
fn busy(client: &Client, more: Value) -> anyhow::Result<Holding> {
    puppet::deploy(client, "one", more)?;
    client.send(answering(FIRST))?.expect(200)?;
    let long = puppet::payload("import time; time.sleep(6)");
    let works = client.in_background("one", FIRST, &long);
    in_flight(client, 1)?;
    Ok(Box::new(|_| {
        joined(works)?.expect(200)?;
        Ok(())
    }))
}

fn in_flight(client: &Client, count: u32) -> Result {
    wait::until_true(20, "the session to be busy", || {
        Ok(client.session(FIRST)?.in_flight == count)
    })
}

fn upgrade(path: &str) -> Request {
    Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(SESSION_HEADER, FIRST)
}

fn command() -> Request {
    let body = json!({"command": "exec sleep 600"}).to_string();
    Request::post("/runtimes/one/commands", body).header(SESSION_HEADER, FIRST)
}

fn put(path: &str, body: &Value) -> Request {
    Request::new("PUT", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// The puppet as a version of a runtime.
fn version(client: &Client, name: &str, number: u32) -> anyhow::Result<Request> {
    let source = deploy::file("agent.py", puppet::SOURCE.as_bytes());
    let artifact = client.upload(deploy::zip(&[source])?)?.artifact_id;
    let config = json!({
        "name": name, "entrypoint": "agent.py", "environment": {"NUMBER": number.to_string()},
    });
    Ok(put(
        &format!("/v1/runtimes/{name}"),
        &json!({"artifact": artifact, "config": config}),
    ))
}

fn made(client: &Client, name: &str, number: u32) -> Result {
    let answer = client.send(version(client, name, number)?)?;
    ensure!(answer.status / 100 == 2, "{}", answer.text()?);
    Ok(())
}

fn delete(client: &Client, path: &str) -> Result {
    let answer = client.send(Request::new("DELETE", path))?;
    ensure!(answer.status / 100 == 2, "{}", answer.text()?);
    Ok(())
}

fn object(key: &str) -> Request {
    Request::new("PUT", format!("/s3/bucket/{key}")).body(vec![b'x'; 900])
}

fn bounds() -> Vec<Bound> {
    vec![
        bound(
            "limits.max_sessions)",
            "max_sessions = 1",
            LOAD,
            session,
            |_| Ok(answering(OTHER)),
        ),
        bound(
            "limits.max_sessions_per_runtime)",
            "max_sessions_per_runtime = 1",
            QUOTA,
            session,
            |_| Ok(answering(OTHER)),
        ),
        bound(
            "limits.max_sessions_per_caller)",
            "max_sessions_per_caller = 1",
            QUOTA,
            session,
            |_| Ok(answering(OTHER)),
        ),
        bound(
            "limits.max_invocations_per_session)",
            "max_invocations_per_session = 1",
            LOAD,
            |client| busy(client, json!({})),
            |_| Ok(answering(FIRST)),
        ),
        // A WebSocket is one of them.
        bound(
            "limits.max_invocations_per_session)",
            "max_invocations_per_session = 1",
            LOAD,
            |client| busy(client, json!({})),
            |_| Ok(upgrade("/runtimes/one/ws")),
        )
        // The puppet has none to offer, and is asked.
        .then(424),
        bound(
            "limits.max_queue_per_session)",
            "max_queue_per_session = 0",
            LOAD,
            |client| busy(client, json!({"concurrency": "serial"})),
            |_| Ok(answering(FIRST)),
        )
        .at_once(),
        bound(
            "16 processes beside its agent",
            "",
            LOAD,
            |client| {
                puppet::deploy(client, "one", json!({}))?;
                let commands = (0..16).map(|_| client.send(command())?.expect(200));
                let commands: Vec<Response> = commands.collect::<anyhow::Result<_>>()?;
                in_flight(client, 16)?;
                Ok(Box::new(|_| {
                    drop(commands);
                    Ok(())
                }))
            },
            |_| Ok(command()),
        ),
        bound(
            "limits.shells_per_runtime)",
            "shells_per_runtime = 1",
            QUOTA,
            |client| {
                puppet::deploy(client, "one", json!({}))?;
                client
                    .send(upgrade("/runtimes/one/ws/shells?shellId=a"))?
                    .expect(101)?;
                Ok(Box::new(|client| {
                    client.stop(FIRST)?;
                    Ok(())
                }))
            },
            |_| Ok(upgrade("/runtimes/one/ws/shells?shellId=b")),
        )
        .then(101),
        bound(
            "limits.max_runtimes)",
            "max_runtimes = 1",
            QUOTA,
            |client| {
                made(client, "one", 1)?;
                Ok(Box::new(|client| delete(client, "/v1/runtimes/one")))
            },
            |client| version(client, "two", 1),
        )
        .at_once()
        .then(201),
        bound(
            "limits.max_versions)",
            "max_versions = 2",
            QUOTA,
            |client| {
                made(client, "one", 1)?;
                made(client, "one", 2)?;
                Ok(Box::new(|client| {
                    delete(client, "/v1/runtimes/one/versions/1")
                }))
            },
            |client| version(client, "one", 3),
        )
        .at_once(),
        bound(
            "limits.max_endpoints)",
            "max_endpoints = 1",
            QUOTA,
            |client| {
                made(client, "one", 1)?;
                let first = put("/v1/runtimes/one/endpoints/a", &json!({"version": 1}));
                ensure!(client.send(first)?.status / 100 == 2);
                Ok(Box::new(|client| {
                    delete(client, "/v1/runtimes/one/endpoints/a")
                }))
            },
            |_| Ok(put("/v1/runtimes/one/endpoints/b", &json!({"version": 1}))),
        )
        .at_once()
        .then(201),
        bound(
            // An object counts 4 KiB beside its bytes.
            "limits.objects)",
            "objects = 6000\nobjects_per_caller = 6000",
            QUOTA,
            |client| {
                client.send(object("a"))?.expect(200)?;
                Ok(Box::new(|client| delete(client, "/s3/bucket/a")))
            },
            |_| Ok(object("b")),
        )
        .at_once(),
    ]
}

/// The answer refuses its call, names the limit and says when to try again, in seconds and for boto3 in milliseconds.
fn refused(answer: Response, status: u16, name: &str, limit: &str) -> Result {
    let header = |name: &str| -> anyhow::Result<u64> {
        let text = answer.header(name).with_context(|| format!("no {name}"))?;
        Ok(text.parse()?)
    };
    let (seconds, millis) = (header("retry-after")?, header("x-amz-retry-after")?);
    ensure!(
        millis >= 1 && seconds == millis.div_ceil(1000),
        "{seconds} s, {millis} ms"
    );
    assert_eq!(answer.header("x-amzn-errortype"), Some(name));
    let text = answer.expect(status)?.text()?;
    ensure!(text.contains(limit), "{limit} is not named: {text}");
    Ok(())
}

/// Provokes each of them.
fn provoke(bounds: impl Iterator<Item = Bound>) -> Result {
    for bound in bounds {
        let config = format!("[limits]\nadmission_wait = 1\n{}", bound.config);
        let said = format!("{} ({})", bound.limit, bound.config);
        Daemon::with(Options::default().config(&config), |daemon| {
            let client = daemon.client();
            let holding = (bound.fill)(&client)?;
            let begun = Instant::now();
            let answer = client.send((bound.call)(&client)?)?;
            let waited = begun.elapsed();
            refused(answer, bound.status, bound.name, bound.limit)?;
            ensure!(
                !bound.waits || waited >= Duration::from_secs(1),
                "after {waited:?}"
            );
            holding(&client)?;
            let next = || client.send((bound.call)(&client)?);
            wait::until_true(20, "the next call", || Ok(next()?.status == bound.success))
        })
        .context(said)?;
    }
    Ok(())
}

#[test]
fn what_comes_free_is_waited_for_then_refused_by_name_with_when_to_come_again() -> Result {
    ground!(Daemon, Python);
    provoke(bounds().into_iter().filter(|bound| bound.waits))
}

#[test]
fn what_somebody_has_to_make_room_for_is_refused_by_name_with_when_to_come_again() -> Result {
    ground!(Daemon, Python);
    provoke(bounds().into_iter().filter(|bound| !bound.waits))
}

/// The daemon's own places for work are an eighth of the files that it may open.
#[test]
fn work_in_flight_is_bounded_by_the_daemons_open_files_and_waited_for() -> Result {
    ground!(Daemon, Python);
    const FILES: u32 = 256;
    let options = Options {
        wrap: vec!["prlimit".to_owned(), format!("--nofile={FILES}:{FILES}")],
        ..Options::default()
    };
    Daemon::with(
        options.config("[defaults]\nopen_files = 128\n[limits]\nadmission_wait = 1"),
        |daemon| {
            let client = daemon.client();
            puppet::deploy(&client, "one", json!({}))?;
            client.send(answering(FIRST))?.expect(200)?;
            let long = puppet::payload("import time; time.sleep(8)");
            let works = (0..FILES / 8).map(|_| client.in_background("one", FIRST, &long));
            let works: Vec<_> = works.collect();
            in_flight(&client, FILES / 8)?;
            let begun = Instant::now();
            refused(
                client.send(answering(FIRST))?,
                429,
                "ThrottlingException",
                "(LimitNOFILE)",
            )?;
            ensure!(begun.elapsed() >= Duration::from_secs(1), "it waits first");
            for work in works {
                joined(work)?.expect(200)?;
            }
            client.send(answering(FIRST))?.expect(200)?;
            Ok(())
        },
    )
}

/// Eight calls at once, to a daemon that takes one a second and lets callers wait for two.
fn too_fast(client: &Client, limit: &str, call: impl Fn() -> Request + Sync) -> Result {
    let answers = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| client.send(call())))
            .collect();
        let answers = calls.into_iter().map(|call| call.join().expect("no panic"));
        answers.collect::<anyhow::Result<Vec<Response>>>()
    })?;
    let (mut served, mut turned_away) = (0, 0);
    for answer in answers {
        if answer.status == 429 {
            refused(answer, 429, "ThrottlingException", limit)?;
            turned_away += 1;
        } else {
            served += 1;
        }
    }
    // One at once, and one more for each second of patience.
    ensure!(
        served >= 2 && turned_away >= 1,
        "{limit}: {served} served, {turned_away} not"
    );
    wait::until_true(10, "a turn", || Ok(client.send(call())?.status != 429))
}

#[test]
fn one_callers_calls_come_at_their_rate_on_each_plane() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config(
        "[limits]\nadmission_wait = 2\ndata_plane_rate = 1\ncontrol_mutation_rate = 1\n\
         control_get_rate = 1\ncontrol_list_rate = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "one", json!({}))?;
        client.send(answering(FIRST))?.expect(200)?;
        let arn = e2e::client::label(&runtime.arn);
        // Operations of the data plane have one rate together.
        let data = "limits.data_plane_rate)";
        too_fast(&client, data, || answering(FIRST))?;
        too_fast(&client, data, || {
            let payload = puppet::payload("answer = 1").to_string();
            Request::post("/invocations", payload).header(SESSION_HEADER, FIRST)
        })?;
        for path in ["commands", "stopruntimesession"] {
            too_fast(&client, data, || {
                Request::post(format!("/runtimes/one/{path}"), "{}")
            })?;
        }
        too_fast(&client, data, || upgrade("/runtimes/one/ws"))?;
        too_fast(&client, data, || {
            upgrade("/runtimes/one/ws/shells?shellId=-")
        })?;
        too_fast(&client, "limits.control_mutation_rate)", || {
            Request::post(
                format!("/tags/{arn}"),
                json!({"tags": {"a": "b"}}).to_string(),
            )
        })?;
        let id = &runtime.runtime_id;
        too_fast(&client, "limits.control_get_rate)", || {
            Request::get(format!("/runtimes/{id}/"))
        })?;
        too_fast(&client, "limits.control_list_rate)", || {
            Request::post("/runtimes/", "")
        })?;
        // A client of JSON-RPC knows the refusal by the id of its call.
        deploy::python(&client, "mcp", ENDLESS, json!({"protocol": "MCP"}))?;
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "x"}).to_string();
        let refusal = wait::until(10, "a refusal", || {
            let waiting: Vec<_> = (0..8)
                .map(|_| client.in_background("one", FIRST, &puppet::payload("answer = 1")))
                .collect();
            // One has its turn at once and the next after a second: whoever else has an answer was refused, and so will this be.
            wait::until_true(5, "somebody to be refused", || {
                Ok(waiting.iter().filter(|call| call.is_finished()).count() >= 2)
            })?;
            let answer = client.send(Request::post("/runtimes/mcp/invocations", call.as_str()))?;
            let refused = answer.header("x-amz-retry-after").is_some();
            for call in waiting {
                joined(call)?;
            }
            Ok(if refused {
                Some(answer.json::<Value>()?)
            } else {
                None
            })
        })?;
        assert_eq!(
            (&refusal["id"], &refusal["error"]["code"]),
            (&json!(7), &json!(-32003))
        );
        // What is the operators' own has no such rate.
        for _ in 0..50 {
            client.info()?;
        }
        Ok(())
    })
}

/// An agent without an SDK, of any protocol: a stream of events without end, each a JSON-RPC message.
const ENDLESS: &str = r#"
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "21")
        self.end_headers()
        self.wfile.write(b'{"status": "Healthy"}')
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        while True:
            self.wfile.write(b'data: {"jsonrpc": "2.0", "method": "notifications/progress"}\n\n')
            self.wfile.flush()
            time.sleep(0.05)
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Endless).serve_forever()
"#;

/// What comes of a stream until it ends, and whether its end looked complete.
fn to_its_end(mut answer: Response) -> anyhow::Result<(String, bool)> {
    let mut all = Vec::new();
    loop {
        match answer.piece() {
            Ok(Some(piece)) => all.extend(piece),
            Ok(None) => return Ok((String::from_utf8(all)?, true)),
            Err(_cut_off) => return Ok((String::from_utf8(all)?, false)),
        }
    }
}

#[test]
fn a_stream_ends_at_its_time_as_its_protocol_ends_one() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config("[limits]\nstream_duration = 3");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        for protocol in ["HTTP", "MCP", "AGUI"] {
            let name = protocol.to_lowercase();
            // The time for an answer is another one, longer or shorter.
            let timeout = if protocol == "HTTP" { 1 } else { 60 };
            let more = json!({"protocol": protocol, "lifecycle": {"invocation_timeout": timeout}});
            deploy::python(&client, &name, ENDLESS, more)?;
            let session = session_name(&name);
            let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call"});
            let request = Request::post(format!("/runtimes/{name}/invocations"), call.to_string())
                .header("accept", "application/json, text/event-stream")
                .header("mcp-session-id", session.as_str())
                .header(SESSION_HEADER, session.as_str());
            let answer = client.send(request)?.expect(200)?;
            let begun = Instant::now();
            let (text, complete) = to_its_end(answer)?;
            let took = begun.elapsed();
            ensure!(
                (Duration::from_millis(2500)..Duration::from_secs(20)).contains(&took),
                "{name}: {took:?}"
            );
            let last = text.trim_end().rsplit("data: ").next().unwrap_or_default();
            let last: Option<Value> = serde_json::from_str(last).ok();
            match protocol {
                "HTTP" => ensure!(!complete, "looked complete: {text}"),
                "MCP" => {
                    let last = last.context("an event")?;
                    assert_eq!((&last["id"], complete), (&json!(7), true), "{last}");
                    let said = last["error"]["message"].as_str().unwrap_or_default();
                    ensure!(said.contains("limits.stream_duration"), "{last}");
                }
                _ => {
                    let last = last.context("an event")?;
                    assert_eq!((&last["type"], complete), (&json!("RUN_ERROR"), true));
                    let said = last["message"].as_str().unwrap_or_default();
                    ensure!(said.contains("limits.stream_duration"), "{last}");
                }
            }
            // The session stays, is not busy, and has written down why.
            wait::until_true(10, "the log to say why", || {
                Ok(client.logs(&session)?.contains("limits.stream_duration"))
            })?;
            assert_eq!(client.session(&session)?.in_flight, 0);
        }
        Ok(())
    })
}
