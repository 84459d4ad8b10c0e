//! Every error that a caller of an MCP, A2A or AG-UI runtime may get, really provoked, in the form that its protocol has for it
//! (contract §1.6–1.8); read raw, and by the protocols' own clients where they let errors through. Tier: root; the clients need
//! PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, label, session_name};
use e2e::http::{Request, Response, Target};
use e2e::{Client, Daemon, Options, Result, deploy, ground, places, venv, wait};
use proto::api::NewAccessKey;
use serde_json::{Value, json};

const USER_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id";

/// A protocol with errors of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Mcp,
    A2a,
    AgUi,
}

const WIRES: [Wire; 3] = [Wire::Mcp, Wire::A2a, Wire::AgUi];

/// How each of [`WIRES`] tells an error: code and status. `null`: as the AWS wire does.
type Told = [(Value, u16); 3];

impl Wire {
    const fn name(self) -> &'static str {
        match self {
            Self::Mcp => "MCP",
            Self::A2a => "A2A",
            Self::AgUi => "AGUI",
        }
    }

    /// The name of a runtime that speaks it.
    fn runtime(self, kind: &str) -> String {
        format!("{}_{kind}", self.name().to_lowercase())
    }

    fn deploy(self, client: &Client, kind: &str, more: Value) -> anyhow::Result<String> {
        let source = std::fs::read_to_string(places::agent("protocols").join("speaker.py"))?;
        let mut all = json!({"protocol": self.name()});
        e2e::chaos::merge(&mut all, more);
        Ok(deploy::python(client, &self.runtime(kind), &source, all)?.arn)
    }

    /// A body that asks the agent for `told`.
    fn body(self, told: &Value) -> String {
        match self {
            Self::Mcp | Self::A2a => {
                json!({"jsonrpc": "2.0", "id": "mine", "method": "x", "params": told})
            }
            Self::AgUi => json!({"threadId": "t", "runId": "r", "forwardedProps": told}),
        }
        .to_string()
    }

    /// A call in a session.
    fn call(self, runtime: &str, session: &str, told: &Value) -> Request {
        let path = format!("/runtimes/{}/invocations", label(runtime));
        self.in_session(Request::post(path, self.body(told)), session)
    }

    fn in_session(self, request: Request, session: &str) -> Request {
        let request = request.header("content-type", "application/json");
        match self {
            Self::Mcp => request.header("Mcp-Session-Id", session),
            Self::A2a | Self::AgUi => request.header(SESSION_HEADER, session),
        }
    }

    /// The answer is an error in this protocol's form, to the request of this id.
    fn failed(self, answer: Response, told: &Told, text: &str, id: &Value) -> Result {
        let (code, status) = &told[self as usize];
        let kind = answer.header("content-type").map(str::to_owned);
        let name = answer.header("x-amzn-errortype").map(str::to_owned);
        ensure!(name.is_some() && answer.header("x-amzn-requestid").is_some());
        let found = answer.status;
        let body = answer.text()?;
        ensure!(
            found == *status,
            "{self:?} {text:?}: {found}, not {status}: {body}"
        );
        let said = |body: &str| {
            serde_json::from_str::<Value>(body).with_context(|| format!("{self:?}: {body}"))
        };
        let said = match self {
            Self::AgUi if !code.is_null() => {
                ensure!(kind.as_deref() == Some("text/event-stream"), "{kind:?}");
                let event = body
                    .strip_prefix("data: ")
                    .and_then(|body| body.strip_suffix("\n\n"));
                let event = said(event.with_context(|| body.clone())?)?;
                ensure!(
                    event["type"] == "RUN_ERROR" && event["code"] == *code,
                    "{event}"
                );
                event
            }
            Self::Mcp | Self::A2a if !code.is_null() => {
                ensure!(kind.as_deref() == Some("application/json"), "{kind:?}");
                let error = said(&body)?;
                ensure!(
                    error["jsonrpc"] == "2.0" && error["error"]["code"] == *code,
                    "{error}"
                );
                ensure!(
                    error["id"] == *id && error.get("id").is_some(),
                    "id {id}: {error}"
                );
                ensure!(
                    error["error"]["data"]["type"] == name.unwrap_or_default(),
                    "{error}"
                );
                // Where botocore looks for it, which knows an error by its status.
                let beside = error.get("message") == Some(&error["error"]["message"]);
                ensure!(beside == (*status >= 400), "{error}");
                error["error"].clone()
            }
            Self::Mcp | Self::A2a | Self::AgUi => said(&body)?,
        };
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains(text),
            "{self:?} does not say {text:?}: {said}"
        );
        Ok(())
    }

    /// A call of this session that goes on until the connection is dropped.
    fn hold(
        self,
        client: &Client,
        runtime: &str,
        session: &str,
    ) -> anyhow::Result<e2e::http::Stream> {
        use std::io::Write as _;
        let told = json!({"hold": 1});
        let body = self.body(&told);
        let header = if self == Self::Mcp {
            "Mcp-Session-Id"
        } else {
            SESSION_HEADER
        };
        let mut stream = client.target.connect()?;
        write!(
            stream,
            "POST /runtimes/{runtime}/invocations HTTP/1.1\r\nhost: localhost\r\n{header}: {session}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        wait::until_true(30, "the session to be busy", || {
            let live = client.live_sessions()?;
            Ok(live
                .iter()
                .any(|live| live.session_id.as_str() == session && live.in_flight == 1))
        })?;
        Ok(stream)
    }
}

fn told(mcp: (i32, u16), a2a: (i32, u16), agui: (&str, u16)) -> Told {
    [
        (json!(mcp.0), mcp.1),
        (json!(a2a.0), a2a.1),
        (json!(agui.0), agui.1),
    ]
}

fn validation(mcp: u16, a2a: u16) -> Told {
    told((-32006, mcp), (-32052, a2a), ("VALIDATION_ERROR", 400))
}

fn agent_failed() -> Told {
    told((-32010, 200), (-32055, 424), ("AGENT_ERROR", 200))
}

fn not_found() -> Told {
    told((-32004, 200), (-32051, 404), ("RESOURCE_NOT_FOUND", 404))
}

fn conflict() -> Told {
    told((-32005, 200), (-32054, 409), ("SESSION_BUSY", 409))
}

fn quota() -> Told {
    told(
        (-32003, 200),
        (-32053, 429),
        ("SERVICE_QUOTA_EXCEEDED", 429),
    )
}

fn throttled() -> Told {
    told((-32003, 200), (-32053, 429), ("RATE_LIMIT_EXCEEDED", 429))
}

#[test]
fn what_breaks_a_rule_or_goes_nowhere() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config("[limits]\nmax_body = 100000");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        for wire in WIRES {
            wire.deploy(&client, "plain", json!({}))?;
            // Its only version never becomes READY.
            wire.deploy(&client, "unready", json!({"warmup": "/warm"}))
                .expect_err("no success");
            let mine = json!("mine");
            let id = if wire == Wire::AgUi {
                &Value::Null
            } else {
                &mine
            };
            let runtime = wire.runtime("plain");
            let path = format!("/runtimes/{runtime}/invocations");
            let session = session_name("rules");
            let post = |query: &str| {
                wire.in_session(
                    Request::post(format!("{path}{query}"), wire.body(&json!({}))),
                    &session,
                )
            };
            let failed = |request: Request, told: Told, text: &str, id: &Value| {
                let context = format!("{wire:?}: {text}");
                wire.failed(client.send(request)?, &told, text, id)
                    .context(context)
            };
            failed(
                post("?qualifier=nosuch"),
                not_found(),
                "has no endpoint nosuch",
                id,
            )?;
            failed(
                post("?qualifier=no%20name"),
                validation(200, 400),
                "qualifier",
                id,
            )?;
            failed(
                post("?qualifier=a&qualifier=b"),
                validation(200, 400),
                "more than once",
                id,
            )?;
            failed(post("?accountId=1"), validation(200, 400), "accountId", id)?;
            let user = post("").header(USER_HEADER, "u".repeat(1025));
            failed(user, validation(200, 400), "runtimeUserId", id)?;
            let short = wire.call(&runtime, "short", &json!({}));
            failed(short, validation(200, 400), "essionId", id)?;
            let large = json!({"large": "x".repeat(100_000)});
            let large = wire.call(&runtime, &session, &large);
            failed(large, validation(200, 413), "limits.max_body", &Value::Null)?;
            let answer = client.send(Request::get(&path))?;
            ensure!(wire == Wire::AgUi || answer.header("allow") == Some("POST"));
            wire.failed(answer, &validation(405, 405), "not a GET", &Value::Null)?;
            let unready = wire.call(&wire.runtime("unready"), &session, &json!({}));
            failed(unready, conflict(), "no version that can take calls", id)?;
            // Where nobody is, nobody speaks anything.
            let nobody = wire.call("nobody", &session, &json!({}));
            e2e::client::expect_aws_error(
                client.send(nobody)?,
                404,
                "ResourceNotFoundException",
                "nobody",
            )?;
        }
        assert_eq!(client.live_sessions()?.len(), 0);
        Ok(())
    })
}

#[test]
fn a_body_that_is_no_request_has_no_id_to_be_answered_to() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        for wire in [Wire::Mcp, Wire::A2a] {
            wire.deploy(&client, "plain", json!({}))?;
            let path = format!("/runtimes/{}/invocations", wire.runtime("plain"));
            for (body, id) in [
                (r#"{"jsonrpc":"2.0","id":17,"method":"x"}"#, json!(17)),
                (
                    r#"[{"jsonrpc":"2.0","id":1,"method":"x"},{"jsonrpc":"2.0","id":2,"method":"y"}]"#,
                    Value::Null,
                ),
                (
                    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
                    Value::Null,
                ),
                (
                    r#"{"jsonrpc":"2.0","id":{"a":1},"method":"x"}"#,
                    Value::Null,
                ),
                ("{\"id\": 1", Value::Null),
                ("rubbish", Value::Null),
                ("\u{0}\u{1}", Value::Null),
                ("", Value::Null),
            ] {
                // Before anything of the runtime is looked at, and by its agent.
                let short = wire.in_session(Request::post(&path, body), "short");
                wire.failed(client.send(short)?, &validation(200, 400), "essionId", &id)?;
                let nowhere = Request::post(format!("{path}?qualifier=nosuch"), body);
                wire.failed(client.send(nowhere)?, &not_found(), "nosuch", &id)?;
            }
            let session = session_name("batch");
            let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"x"}]"#;
            let batch = wire.in_session(Request::post(&path, batch), &session);
            client.send(batch)?.expect(200)?;
        }
        Ok(())
    })
}

#[test]
fn agents_that_fail_sessions_that_are_busy_and_quotas_that_are_used_up() -> Result {
    ground!(Daemon, Python, Registry);
    let (mcp, agents) = (venv::of("mcp.txt")?, venv::of("agents.txt")?);
    let options = Options::default().config(
        "[limits]\nmax_invocations_per_session = 1\nmax_sessions_per_runtime = 1\nadmission_wait = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        for wire in WIRES {
            let mine = json!("mine");
            let id = if wire == Wire::AgUi {
                &Value::Null
            } else {
                &mine
            };
            wire.deploy(&client, "plain", json!({}))?;
            wire.deploy(&client, "once", json!({"concurrency": "reject"}))?;
            wire.deploy(
                &client,
                "hasty",
                json!({"lifecycle": {"invocation_timeout": 1}}),
            )?;
            let config = json!({"protocol": wire.name()});
            deploy::python(
                &client,
                &wire.runtime("broken"),
                "import nothing_like_it",
                config,
            )?;
            let failed = |kind: &str, session: &str, ask: Value, told: Told, text: &str| {
                let answer = client.send(wire.call(&wire.runtime(kind), session, &ask))?;
                wire.failed(answer, &told, text, id)
            };
            let session = session_name("failing");
            failed(
                "plain",
                &session,
                json!({"status": 500}),
                agent_failed(),
                "error (500)",
            )?;
            failed(
                "plain",
                &session,
                json!({"die": 1}),
                agent_failed(),
                "ends with: the reason",
            )?;
            failed(
                "broken",
                &session_name("broken"),
                json!({}),
                agent_failed(),
                "No module named 'nothing_like_it'",
            )?;
            let late = told((-32010, 200), (-32055, 504), ("AGENT_ERROR", 200));
            failed(
                "hasty",
                &session_name("hasty"),
                json!({"hold": 1}),
                late,
                "invocation_timeout",
            )?;
            client.ended(&session, 30)?;

            let [plain, once] = ["plain", "once"].map(|kind| wire.runtime(kind));
            let [busy, alone] = ["busy", "alone"].map(session_name);
            let holds = [
                wire.hold(&client, &plain, &busy)?,
                wire.hold(&client, &once, &alone)?,
            ];
            let request = wire.call(&plain, &busy, &json!({}));
            let answer = client.send(request)?;
            ensure!(
                answer.header("x-amz-retry-after") == Some("1000"),
                "when to come again"
            );
            wire.failed(
                answer,
                &throttled(),
                "limits.max_invocations_per_session",
                id,
            )?;
            let another = session_name("another");
            failed(
                "plain",
                &another,
                json!({}),
                quota(),
                "limits.max_sessions_per_runtime",
            )?;
            failed("once", &alone, json!({}), conflict(), "concurrency")?;

            // The same by the protocol's own client.
            let situation = |kind: &str, session: &str, query: &str, told: Told| {
                let (code, status) = &told[wire as usize];
                json!({"runtime": wire.runtime(kind), "session": session, "query": query, "code": code, "status": status})
            };
            let situations = json!([
                situation("plain", &busy, "", throttled()),
                situation("plain", &another, "", quota()),
                situation("once", &alone, "", conflict()),
                situation("once", &alone, "?qualifier=nosuch", not_found()),
                situation("once", "short", "", validation(200, 400)),
                situation("broken", &another, "", agent_failed()),
            ]);
            let (venv, script) = match wire {
                Wire::Mcp => (&mcp, "mcp_error_calls.py"),
                Wire::A2a | Wire::AgUi => (&agents, "agent_error_calls.py"),
            };
            let out = std::process::Command::new(venv.join("python"))
                .arg(places::source().join("tests/clients").join(script))
                .args([
                    format!("http://{address}"),
                    wire.name().to_owned(),
                    situations.to_string(),
                ])
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()?;
            ensure!(
                out.status.success(),
                "{script}: {}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
            drop(holds);
        }
        Ok(())
    })
}

#[test]
fn a_fault_of_ours() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::default()
        .faults()
        .env("AGENTCORED_FAIL_STEP", "cgroup.memory");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        for wire in WIRES {
            wire.deploy(&client, "plain", json!({}))?;
            let mine = json!("mine");
            let id = if wire == Wire::AgUi {
                &Value::Null
            } else {
                &mine
            };
            let request = wire.call(&wire.runtime("plain"), &session_name("fault"), &json!({}));
            let ours = told((-32603, 200), (-32603, 500), ("INTERNAL_ERROR", 500));
            wire.failed(client.send(request)?, &ours, "could not be started", id)?;
        }
        Ok(())
    })
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_event_that_says_so() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        for wire in WIRES {
            wire.deploy(&client, "plain", json!({}))?;
            for then in ["die", "hold"] {
                let session = session_name("stream");
                let first = json!({"type": "RUN_STARTED", "threadId": "t", "runId": "r"});
                let ask = json!({"stream": first, "then": then});
                let mut answer = client
                    .send(wire.call(&wire.runtime("plain"), &session, &ask))?
                    .expect(200)?;
                assert_eq!(answer.header("content-type"), Some("text/event-stream"));
                let mut text = String::new();
                let mut more = |text: &mut String| -> anyhow::Result<bool> {
                    let piece = answer.piece()?;
                    text.push_str(&String::from_utf8_lossy(
                        piece.as_deref().unwrap_or_default(),
                    ));
                    Ok(piece.is_some())
                };
                while !text.contains("\n\n") {
                    ensure!(more(&mut text)?, "no event: {text}");
                }
                if then == "hold" {
                    client.stop(&session)?;
                }
                let end = loop {
                    match more(&mut text) {
                        Ok(true) => {}
                        end => break end,
                    }
                };
                if wire == Wire::A2a {
                    // It has no word for this: the connection breaks, so that the answer does not look complete.
                    ensure!(end.is_err(), "a complete answer: {text}");
                    continue;
                }
                end.context("the stream's end")?;
                let events: Vec<Value> = text
                    .split_terminator("\n\n")
                    .map(|event| {
                        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                        serde_json::from_str(data.context("data")?).context(event.to_owned())
                    })
                    .collect::<anyhow::Result<_>>()?;
                let [begun, last] = &events[..] else {
                    anyhow::bail!("{wire:?}: not two events: {text}");
                };
                assert_eq!(begun, &first);
                match wire {
                    Wire::AgUi => {
                        ensure!(
                            last["type"] == "RUN_ERROR" && last["code"] == "AGENT_ERROR",
                            "{last}"
                        );
                        ensure!(
                            last["message"].as_str().is_some_and(|m| !m.is_empty()),
                            "{last}"
                        );
                    }
                    Wire::Mcp | Wire::A2a => {
                        ensure!(
                            last["id"] == "mine" && last["error"]["code"] == -32010,
                            "{last}"
                        );
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn who_may_not_know_of_a_runtime_is_not_told_in_its_protocols_words() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options {
        dev: false,
        ..Options::default()
    }
    .config("listen = [\"127.0.0.1:0\"]\nauth = [\"sigv4\", \"jwt\"]\n[tokens]\nallow_private = [\"127.0.0.1:1\"]");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let key = |words: &[&str]| -> anyhow::Result<NewAccessKey> {
            let out = daemon
                .cli()
                .args(["--json", "keys", "create"])
                .args(words)
                .output()?;
            ensure!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            Ok(serde_json::from_slice(&out.stdout)?)
        };
        deploy::python(&client, "other", "", json!({}))?;
        let stop = ["--action", "StopRuntimeSession"];
        let mut facts = json!({
            "endpoint": format!("http://{address}"),
            "keys": {"operator": key(&["operator"])?, "stranger": key(&["stranger", "-a", "other"])?},
        });
        let tokens = json!({"authorizer": {
            "discovery_url": "http://127.0.0.1:1/.well-known/openid-configuration", "allowed_audience": ["a"],
        }});
        for wire in WIRES {
            wire.deploy(&client, "plain", json!({}))?;
            wire.deploy(&client, "tokened", tokens.clone())?;
            let (plain, tokened) = (wire.runtime("plain"), wire.runtime("tokened"));
            let words = [&["insider", "-a", &plain, "-a", &tokened], &stop[..]].concat();
            facts["keys"][format!("insider_{}", wire.name())] = json!(key(&words)?);
        }
        venv::run(
            "requirements.txt",
            "protocol_refusals.py",
            &[&facts.to_string()],
        )?;
        assert!(client.live_sessions()?.is_empty());
        Ok(())
    })
}
