//! What an agent sees of its caller's request: on the AWS wire only what is named, by the contract or by its runtime's
//! `request_headers`; on the local-dev wire what `python my_agent.py` would see, but nothing in the runtime's name. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, expect_problem, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, deploy, ground};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Answers with the headers that it got, and says those of the payload's `say`.
const MIRROR: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Mirror(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body, headers=()):
        self.send_response(200)
        for name, value in dict({"content-type": "application/json"}, **dict(headers)).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b'{"status": "Healthy"}')
    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])) or "{}")
        got = [[name.lower(), value] for name, value in self.headers.items()]
        self.answer(json.dumps({"headers": got, "path": self.path}).encode(), payload.get("say", {}))
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Mirror).serve_forever()
"#;

const OURS: &str = "x-amzn-bedrock-agentcore-runtime-";

/// The headers that the agent got of this request, each name once.
fn got(client: &Client, request: Request) -> anyhow::Result<BTreeMap<String, String>> {
    let answer: Value = client.send(request)?.expect(200)?.json()?;
    let pairs: Vec<(String, String)> = serde_json::from_value(answer["headers"].clone())?;
    let count = pairs.len();
    let map: BTreeMap<_, _> = pairs.into_iter().collect();
    ensure!(map.len() == count, "a name twice: {answer}");
    Ok(map)
}

fn loaded(mut request: Request, headers: &[(&str, &str)]) -> Request {
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request
}

/// Headers that callers send, some of which are none of the agent's business.
const SENT: &[(&str, &str)] = &[
    ("accept", "application/json"),
    ("mcp-protocol-version", "2025-06-18"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    ("tracestate", "a=b"),
    ("baggage", "k=v"),
    ("x-amzn-bedrock-agentcore-runtime-custom-tenant", "acme"),
    ("x-listed", "yes"),
    ("X-Other-Listed", "also"),
    ("x-not-listed", "no"),
    (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=c",
    ),
    ("cookie", "a=b"),
    ("x-amz-date", "20260101T000000Z"),
    ("x-amz-security-token", "secret"),
    (
        "amz-sdk-invocation-id",
        "11111111-2222-4333-8444-555555555555",
    ),
    ("amz-sdk-request", "attempt=1; max=3"),
    ("x-amzn-bedrock-agentcore-runtime-user-id", "u"),
    ("x-amzn-bedrock-agentcore-runtime-request-id", "forged"),
    ("workloadaccesstoken", "forged"),
    ("x-amz-bedrock-agentcore-identity-wat", "forged"),
    ("oauth2callbackurl", "https://forged.test"),
    ("user-agent", "Boto3/1"),
    ("x-forwarded-for", "1.2.3.4"),
];

#[test]
fn a_header_that_is_not_named_never_reaches_the_agent() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let listed = json!({"request_headers": ["X-Listed", "x-other-listed"]});
        deploy::python(&client, "listed", MIRROR, listed)?;
        deploy::python(&client, "plain", MIRROR, json!({}))?;
        for (runtime, own) in [
            ("listed", &["x-listed", "x-other-listed"][..]),
            ("plain", &[]),
        ] {
            let session = session_name("headers");
            let request = loaded(Client::invocation(runtime, &session, &json!({})), SENT);
            let got = got(&client, request)?;
            let mut want: Vec<&str> = vec![
                "accept",
                "baggage",
                "content-type",
                "mcp-protocol-version",
                "traceparent",
                "tracestate",
                "x-amzn-bedrock-agentcore-runtime-custom-tenant",
                "x-amzn-bedrock-agentcore-runtime-request-id",
                "x-amzn-bedrock-agentcore-runtime-session-id",
                "x-amzn-trace-id",
                // Of the hop between shim and agent.
                "host",
                "content-length",
            ];
            want.extend(own);
            want.sort_unstable();
            let names: Vec<&str> = got
                .keys()
                .map(String::as_str)
                .filter(|n| *n != "connection")
                .collect();
            assert_eq!(names, want, "{runtime}");
            assert_eq!(got[&format!("{OURS}session-id")], session);
            ensure!(got[&format!("{OURS}request-id")] != "forged");
            assert_eq!(
                got["x-amzn-trace-id"],
                "Root=1-0af76519-16cd43dd8448eb211c80319c"
            );
        }
        Ok(())
    })
}

#[test]
fn values_out_of_bounds_name_their_field_and_start_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(
            &client,
            "bounds",
            MIRROR,
            json!({"request_headers": ["x-listed"]}),
        )?;
        let session = session_name("bounds");
        let send = |name: &str, value: &str| {
            let request = Request::post("/runtimes/bounds/invocations", "{}")
                .header(SESSION_HEADER, session.clone())
                .header(name, value);
            client.send(request)
        };
        let limits = [
            ("content-type", "contentType", 256),
            ("accept", "accept", 256),
            ("mcp-session-id", "mcpSessionId", 1024),
            ("mcp-protocol-version", "mcpProtocolVersion", 1024),
            ("mcp-method", "mcpMethod", 1024),
            ("mcp-name", "mcpName", 1024),
            ("x-amzn-trace-id", "traceId", 128),
            ("traceparent", "traceParent", 128),
            ("tracestate", "traceState", 512),
            ("baggage", "baggage", 8192),
            ("x-listed", "x-listed", 4096),
            (
                "x-amzn-bedrock-agentcore-runtime-custom-a",
                "x-amzn-bedrock-agentcore-runtime-custom-a",
                4096,
            ),
        ];
        for (name, field, most) in limits {
            let answer = send(name, &"a".repeat(most + 1))?;
            let body = expect_aws_error(answer, 400, "ValidationException", field)
                .with_context(|| name)?;
            assert_eq!(body["fieldList"][0]["name"], field, "{body}");
            let answer = send(name, "ü")?;
            expect_aws_error(answer, 400, "ValidationException", field).with_context(|| name)?;
        }
        assert_eq!(client.live_sessions()?.len(), 0);
        for (name, _, most) in limits {
            send(name, &"a".repeat(most))?
                .expect(200)
                .with_context(|| name)?;
        }
        // And lists that no runtime may have.
        for name in [
            "Authorization",
            "x-amz-date",
            "X-Amzn-RequestId",
            "Host",
            "a b",
        ] {
            let config = json!({"artifact": "sha256:0", "config": {
                "name": "bad", "entrypoint": "agent.py", "request_headers": ["x-fine", name],
            }});
            let answer = client.send(
                Request::new("PUT", "/v1/runtimes/bad")
                    .header("content-type", "application/json")
                    .body(config.to_string()),
            )?;
            expect_problem(answer, 400, "").with_context(|| name)?;
        }
        Ok(())
    })
}

#[test]
fn the_trace_of_a_call_stands_on_its_answer() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "trace", MIRROR, json!({}))?;
        let session = session_name("trace");
        let call = |say: Value| Client::invocation("trace", &session, &json!({ "say": say }));
        let context = [
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            ),
            ("tracestate", "a=b"),
            ("baggage", "k=v"),
            (
                "x-amzn-trace-id",
                "Root=1-00000000-aaaaaaaaaaaaaaaaaaaaaaaa;Sampled=0",
            ),
        ];
        let answer = client
            .send(loaded(call(json!({})), &context))?
            .expect(200)?;
        for (name, value) in context {
            assert_eq!(answer.header(name), Some(value), "{name} of the call");
        }
        // What the agent says comes before it; what it may not say does not come at all.
        let said = json!({
            "traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
            "x-amzn-errortype": "Forged",
            "x-amzn-requestid": "forged",
            "set-cookie": "a=b",
        });
        let answer = client
            .send(loaded(call(said.clone()), &context))?
            .expect(200)?;
        assert_eq!(answer.header("traceparent"), said["traceparent"].as_str());
        assert_eq!(answer.header("tracestate"), Some("a=b"));
        assert_eq!(answer.header("x-amzn-errortype"), None);
        assert_eq!(answer.header("set-cookie"), None);
        ensure!(answer.header("x-amzn-requestid") != Some("forged"));
        // Without one the call gets an id, the same in its answer and at its agent, another one each time.
        let mut seen = Vec::new();
        for _ in 0..2 {
            let answer = client.send(call(json!({})))?.expect(200)?;
            let id = answer
                .header("x-amzn-trace-id")
                .context("an id")?
                .to_owned();
            assert_eq!(answer.header("traceparent"), None);
            let body: Value = answer.json()?;
            let at_agent = json!(["x-amzn-trace-id", id]);
            ensure!(
                body["headers"]
                    .as_array()
                    .is_some_and(|all| all.contains(&at_agent)),
                "{id} {body}"
            );
            seen.push(id);
        }
        assert_ne!(seen[0], seen[1]);
        Ok(())
    })
}

#[test]
fn the_local_wire_passes_what_a_plain_server_would_see_but_nothing_in_our_name() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "local", MIRROR, json!({}))?;
        let session = session_name("local");
        let request = Request::post("/invocations", "{}").header(SESSION_HEADER, session.clone());
        let got = got(&client, loaded(request, SENT))?;
        for (name, value) in SENT {
            let name = name.to_ascii_lowercase();
            let found = got.get(&name).map(String::as_str);
            let forged = *value == "forged" || name.ends_with("user-id");
            match forged {
                true => ensure!(found != Some(value), "{name}: {found:?}"),
                false => ensure!(found == Some(value), "{name}: {found:?}"),
            }
        }
        assert_eq!(got[&format!("{OURS}session-id")], session);
        Ok(())
    })
}
