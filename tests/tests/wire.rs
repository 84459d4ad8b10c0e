//! The HTTP surface: every status and error of the AWS wire, the local-dev wire and `/v1`, and bad input to each: a clear
//! error that names the field, the right status, nothing changed. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, expect_problem, label, session_name};
use e2e::http::{Request, Response};
use e2e::{Client, Daemon, Options, Result, deploy, ground, puppet};
use proto::api::{Artifact, Page, Runtime, Session, Version};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

fn post(
    client: &Client,
    path: &str,
    session: Option<&str>,
    body: &str,
) -> anyhow::Result<Response> {
    let mut request = Request::post(path, body).header("content-type", "application/json");
    if let Some(session) = session {
        request = request.header(SESSION_HEADER, session);
    }
    client.send(request)
}

#[test]
fn health_routes_and_unknown_paths() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        for path in ["/healthz", "/readyz", "/version"] {
            client
                .send(Request::get(path))?
                .expect(200)
                .with_context(|| path)?;
        }
        let info = client.info()?;
        assert_eq!(info.pid, u32::try_from(daemon.pid())?);
        assert!(info.base.contains_key("python3"), "{:?}", info.base);
        for path in [
            "/",
            "/nothing",
            "/v1",
            "/v1/",
            "/v1/nothing",
            "/v1/runtimes/a/b/c",
        ] {
            expect_problem(client.send(Request::get(path))?, 404, "")?;
        }
        for (method, path) in [
            ("DELETE", "/healthz"),
            ("PATCH", "/v1/runtimes"),
            ("GET", "/invocations"),
        ] {
            let answer = client.send(Request::new(method, path))?.expect(405)?;
            assert!(
                answer.header("allow").is_some(),
                "{method} {path}: a 405 names what is allowed"
            );
        }
        for path in [
            "/healthz",
            "/invocations",
            "/v1/runtimes",
            "/runtimes/a/invocations",
        ] {
            let answer = client.send(Request::new("OPTIONS", path))?.expect(204)?;
            let allowed = answer.header("allow").with_context(|| path)?;
            ensure!(
                allowed.contains("GET") || allowed.contains("POST"),
                "{path}: {allowed}"
            );
        }
        for path in ["/healthz", "/v1/runtimes"] {
            let answer = client.send(Request::new("HEAD", path))?.expect(200)?;
            assert!(answer.bytes()?.is_empty(), "{path}: HEAD has no body");
        }
        let answer = client.send(Request::get("/runtimes/a/invocations"))?;
        assert_eq!(answer.header("allow"), Some("POST"));
        expect_aws_error(answer, 405, "ValidationException", "GET")?;
        expect_problem(client.send(Request::get("/v1/runtimes/%ff"))?, 400, "name")?;
        Ok(())
    })
}

#[test]
fn the_aws_wire_takes_every_form_of_the_arn_and_echoes_session_and_type() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "wire", json!({}))?;
        let session = session_name("arn");
        let body = puppet::payload("answer = 7").to_string();
        let arn = &runtime.arn;
        let encoded = label(arn);
        let forms = [
            encoded.clone(),
            encoded.replace("%3A", ":"),
            encoded.replace("%3A", "%3a").replace("%2F", "%2f"),
            arn.clone(),
            runtime.runtime_id.as_str().to_owned(),
            "wire".to_owned(),
        ];
        for form in forms {
            for query in ["", "?qualifier=DEFAULT", "?accountId=000000000000"] {
                let path = format!("/runtimes/{form}/invocations{query}");
                let answer = post(&client, &path, Some(&session), &body)?
                    .expect(200)
                    .with_context(|| path.clone())?;
                assert_eq!(
                    answer.header(SESSION_HEADER),
                    Some(session.as_str()),
                    "{path}"
                );
                assert_eq!(
                    answer.header("content-type"),
                    Some("application/json"),
                    "{path}"
                );
                assert!(answer.header("x-amzn-requestid").is_some(), "{path}");
                assert_eq!(answer.text()?, "7", "{path}");
            }
        }
        // All of them were one session.
        assert_eq!(client.live_sessions()?.len(), 1);
        Ok(())
    })
}

#[test]
fn a_call_without_a_session_id_gets_one_of_its_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "wire", json!({}))?;
        let body = puppet::payload(puppet::COUNT).to_string();
        let mut seen = Vec::new();
        for path in ["/runtimes/wire/invocations", "/invocations"] {
            for _ in 0..2 {
                let answer = post(&client, path, None, &body)?.expect(200)?;
                let id = answer
                    .header(SESSION_HEADER)
                    .context("no session id in the answer")?
                    .to_owned();
                ensure!((33..=256).contains(&id.len()), "{id:?}");
                assert_eq!(answer.text()?, "1", "a session of its own is a new one");
                // And it can be used again.
                let again = post(&client, path, Some(&id), &body)?.expect(200)?;
                assert_eq!(again.text()?, "2");
                seen.push(id);
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 4);
        Ok(())
    })
}

#[test]
fn bad_session_ids_arns_and_queries_name_the_field_and_start_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "wire", json!({}))?;
        let good = session_name("good");
        let send = |path: &str, session: &str| post(&client, path, Some(session), "{}");
        let aws = "/runtimes/wire/invocations";
        for id in [
            "a".repeat(32),
            "a".repeat(257),
            "x".repeat(4096),
            format!("{} space", "a".repeat(33)),
            String::new(),
        ] {
            let answer = send(aws, &id)?;
            expect_aws_error(answer, 400, "ValidationException", "runtimeSessionId")
                .or_else(|_| {
                    expect_aws_error(send(aws, &id)?, 400, "ValidationException", "Session-Id")
                })
                .with_context(|| format!("{} characters", id.len()))?;
        }
        // Two different ids in one request cannot both be meant.
        let doubled = Request::post(aws, "{}")
            .header(SESSION_HEADER, good.clone())
            .header(SESSION_HEADER, session_name("other"));
        client.send(doubled)?.expect(400)?;

        let unknown = [
            "nobody".to_owned(),
            "nobody-AbCdEf1234".to_owned(),
            label(&runtime.arn.replace("runtime/wire", "runtime/nobody")),
            label(&runtime.arn.replace("us-local-1", "eu-west-1")),
            label(&runtime.arn.replace("000000000000", "123456789012")),
        ];
        for id in unknown {
            let answer = send(&format!("/runtimes/{id}/invocations"), &good)?;
            expect_aws_error(answer, 404, "ResourceNotFoundException", "").with_context(|| id)?;
        }
        for id in [
            "arn%3Aaws%3Anonsense",
            "..%2F..%2Fetc",
            "%00",
            "a%2Fb",
            "9name",
            "with-hyphen",
            "%ff%fe",
        ] {
            let answer = send(&format!("/runtimes/{id}/invocations"), &good)?;
            let status = answer.status;
            ensure!(
                status == 400 || status == 404,
                "{id}: {status} {}",
                answer.text()?
            );
        }
        let answer = send("/runtimes/wire/invocations?qualifier=nobody", &good)?;
        expect_aws_error(answer, 404, "ResourceNotFoundException", "nobody")?;
        let answer = send("/runtimes/wire/invocations?accountId=12", &good)?;
        expect_aws_error(answer, 400, "ValidationException", "accountId")?;
        assert!(
            client.sessions("")?.is_empty(),
            "a refused call started a session"
        );
        Ok(())
    })
}

#[test]
fn an_agents_error_is_424_on_the_aws_wire_and_its_own_on_the_local_one() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "wire", json!({}))?;
        let session = session_name("error");
        let body = puppet::payload(
            "print('last words of the agent', flush=True)\nraise ValueError('it broke here')",
        )
        .to_string();
        let answer = post(&client, "/runtimes/wire/invocations", Some(&session), &body)?;
        let error = expect_aws_error(
            answer,
            424,
            "RuntimeClientError",
            "Received error (500) from runtime",
        )?;
        let text = error.to_string();
        ensure!(
            text.contains("it broke here"),
            "the agent's body is not there: {text}"
        );
        let local = post(&client, "/invocations", Some(&session), &body)?.expect(500)?;
        ensure!(local.text()?.contains("it broke here"));
        // Not JSON is the agent's own business, too.
        let local = post(&client, "/invocations", Some(&session), "{not json")?.expect(400)?;
        ensure!(local.text()?.contains("Invalid JSON"));
        expect_aws_error(
            post(
                &client,
                "/runtimes/wire/invocations",
                Some(&session),
                "{not json",
            )?,
            424,
            "RuntimeClientError",
            "(400)",
        )?;
        assert_eq!(
            client.live_sessions()?.len(),
            1,
            "an error does not end the session"
        );
        Ok(())
    })
}

#[test]
fn stopping_a_session_on_the_aws_wire() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "wire", json!({}))?;
        let session = session_name("stop");
        puppet::run(&client, "wire", &session, "answer = 1")?;
        let path = "/runtimes/wire/stopruntimesession";
        let token = json!({"clientToken": "c".repeat(40)}).to_string();
        let answer = post(&client, path, Some(&session), &token)?.expect(200)?;
        assert_eq!(answer.header(SESSION_HEADER), Some(session.as_str()));
        assert_eq!(answer.json::<Value>()?, json!({}));
        client.ended(&session, 20)?;
        // The same request again is answered as the first was; another one finds nothing to stop.
        post(&client, path, Some(&session), &token)?.expect(200)?;
        let other = json!({"clientToken": "d".repeat(40)}).to_string();
        expect_aws_error(
            post(&client, path, Some(&session), &other)?,
            404,
            "ResourceNotFoundException",
            "",
        )?;
        expect_aws_error(
            post(&client, path, Some(&session_name("never")), "")?,
            404,
            "ResourceNotFoundException",
            "",
        )?;
        expect_aws_error(
            post(&client, path, Some("short"), "")?,
            400,
            "ValidationException",
            "ession",
        )?;
        expect_aws_error(
            post(&client, path, None, "")?,
            400,
            "ValidationException",
            "ession",
        )?;
        Ok(())
    })
}

#[test]
fn the_local_wire_goes_to_the_default_runtime_or_says_which_there_are() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let none = post(&client, "/invocations", None, "{}")?;
        ensure!(
            none.status == 404 || none.status == 409,
            "without any runtime: {}",
            none.status
        );
        puppet::deploy(&client, "first", json!({}))?;
        let body = puppet::payload("answer = 'first'").to_string();
        assert_eq!(
            post(&client, "/invocations", None, &body)?
                .expect(200)?
                .text()?,
            "\"first\""
        );
        let ping: Value = client.send(Request::get("/ping"))?.expect(200)?.json()?;
        ensure!(ping["status"] == "Healthy", "{ping}");
        puppet::deploy(&client, "second", json!({}))?;
        let answer = post(&client, "/invocations", None, &body)?
            .expect(409)?
            .text()?;
        ensure!(
            answer.contains("first") && answer.contains("second"),
            "names are not listed: {answer}"
        );
        Ok(())
    })?;
    Daemon::with(
        Options::default().config("default_runtime = \"second\""),
        |daemon| {
            let client = daemon.client();
            for name in ["first", "second"] {
                puppet::deploy(&client, name, json!({}))?;
            }
            let body = puppet::payload("import os; answer = os.environ['AGENTCORE_RUNTIME_NAME']")
                .to_string();
            assert_eq!(
                post(&client, "/invocations", None, &body)?
                    .expect(200)?
                    .text()?,
                "\"second\""
            );
            Ok(())
        },
    )
}

#[test]
fn a_web_page_cannot_reach_the_loopback_port() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.tcp()?;
        puppet::deploy(&client, "wire", json!({}))?;
        let body = puppet::payload("answer = 1").to_string();
        let ask = |headers: &[(&str, &str)]| {
            let mut request =
                Request::post("/invocations", body.clone()).header("content-type", "text/plain");
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            client.send(request)
        };
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example:8080",
            "",
        ] {
            let answer = ask(&[("host", host)])?;
            ensure!(
                matches!(answer.status, 400 | 421),
                "Host {host:?}: {}",
                answer.status
            );
        }
        for origin in [
            "http://evil.example",
            "https://localhost.evil.example",
            "null",
        ] {
            let answer = ask(&[("origin", origin)])?;
            ensure!(answer.status == 403, "Origin {origin:?}: {}", answer.status);
            ensure!(answer.header("access-control-allow-origin").is_none());
        }
        assert!(client.sessions("")?.is_empty(), "a page started a session");
        for host in ["localhost", "127.0.0.1", "[::1]", "localhost:1234"] {
            ask(&[("host", host)])?.expect(200).with_context(|| host)?;
        }
        // An unknown signature is ignored, not refused.
        let signed = ask(&[(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=X/20260101/us-east-1/bedrock-agentcore/aws4_request, SignedHeaders=host, Signature=00",
        )])?;
        signed.expect(200)?;
        Ok(())
    })
}

#[test]
fn bodies_over_the_limit_are_refused_before_they_are_read() -> Result {
    ground!(Daemon, Python);
    Daemon::with(
        Options::default().config("[limits]\nmax_body = 1000000"),
        |daemon| {
            let client = daemon.client();
            puppet::deploy(&client, "wire", json!({}))?;
            let session = session_name("large");
            let path = "/runtimes/wire/invocations";
            // Announced: refused at once, on the head alone.
            let mut stream = client.target.connect()?;
            stream.write_all(
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\ncontent-length: 1000001\r\n\r\n").as_bytes(),
        )?;
            let answer = Response::read(stream, false)?;
            expect_aws_error(answer, 413, "ValidationException", "1000000")?;
            // Not announced: as soon as it is known.
            let endless = std::io::repeat(b' ');
            let request = Request::new("POST", path)
                .header(SESSION_HEADER, session.clone())
                .stream(endless.take(50_000_000), None);
            let answer = client.send(request)?;
            ensure!(answer.status == 413, "{}", answer.status);
            // At the limit it goes through.
            let body = puppet::payload("answer = len(payload['pad'])");
            let mut body = body.as_object().cloned().unwrap_or_default();
            body.insert("pad".into(), json!(""));
            let empty = serde_json::to_string(&body)?.len();
            body.insert("pad".into(), json!("x".repeat(1_000_000 - empty)));
            let body = serde_json::to_string(&body)?;
            assert_eq!(body.len(), 1_000_000);
            post(&client, path, Some(&session), &body)?.expect(200)?;
            Ok(())
        },
    )
}

#[test]
fn malformed_http_gets_a_clear_end_and_never_two_readings() -> Result {
    ground!(Daemon, Python);
    Daemon::with(
        Options::default().config("[limits]\nhead_timeout = 2"),
        |daemon| {
            let client = daemon.client();
            puppet::deploy(&client, "wire", json!({}))?;
            let huge = format!(
                "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
                "a".repeat(100_000)
            );
            let many = format!(
                "GET /healthz HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
                "x-a: 1\r\n".repeat(200)
            );
            let long = format!(
                "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
                "a".repeat(100_000)
            );
            let cases: Vec<(&str, Vec<u8>)> = vec![
            ("not http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
            ("no version", b"GET /healthz\r\n\r\n".to_vec()),
            ("http 3", b"GET /healthz HTTP/3.0\r\n\r\n".to_vec()),
            ("space before colon", b"GET /healthz HTTP/1.1\r\nhost : localhost\r\n\r\n".to_vec()),
            ("folded header", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\r\n\r\n".to_vec()),
            ("nul in header", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n".to_vec()),
            ("both framings", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n".to_vec()),
            ("two lengths", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd".to_vec()),
            ("negative length", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_vec()),
            ("length overflow", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_vec()),
            ("unknown coding", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_vec()),
            ("bad chunk size", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n".to_vec()),
            ("chunk overflow", b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n".to_vec()),
            ("connect", b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n".to_vec()),
            ("huge header", huge.into_bytes()),
            ("many headers", many.into_bytes()),
            ("long target", long.into_bytes()),
            ("unfinished head", b"GET /healthz HTTP/1.1\r\nhost: local".to_vec()),
        ];
            for (what, bytes) in cases {
                let mut stream = client.target.connect()?;
                stream.set_read_timeout(e2e::wait::seconds(20))?;
                // The server may answer and close before it has taken everything.
                let _ = stream.write_all(&bytes);
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all);
                let text = String::from_utf8_lossy(&all);
                let answers = text.matches("HTTP/1.").count();
                ensure!(answers <= 1, "{what}: {answers} answers: {text}");
                if let Some(status) = text.split(' ').nth(1) {
                    ensure!(
                        status.starts_with('4') || status == "505" || status == "501",
                        "{what}: {text}"
                    );
                }
            }
            client.send(Request::get("/healthz"))?.expect(200)?;
            // With both framings one counts (RFC 9112 §6.3), and then its body is sound; a body that is not is refused
            // before anything is started for it.
            let started = client.sessions("")?.len();
            ensure!(
                started <= 1,
                "{started} sessions were started by malformed requests"
            );
            Ok(())
        },
    )
}

#[test]
fn bad_runtime_bodies_name_their_fields_all_at_once() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let artifact = client.upload(deploy::zip(&[deploy::file(
            "agent.py",
            puppet::SOURCE.as_bytes(),
        )])?)?;
        let put = |name: &str, body: &str| {
            client.send(
                Request::new("PUT", format!("/v1/runtimes/{name}"))
                    .header("content-type", "application/json")
                    .body(body),
            )
        };
        let id = artifact.artifact_id.as_str();
        let with = |more: Value| {
            let mut config = json!({"name": "bad", "entrypoint": "agent.py"});
            if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
                config.extend(more);
            }
            json!({"artifact": id, "config": config}).to_string()
        };
        let cases = [
            ("{", ""),
            ("[]", ""),
            ("{}", "artifact"),
            (&with(json!({"memroy": "1G"})), "memroy"),
            (&with(json!({"resources": {"memory": "lots"}})), "memory"),
            (&with(json!({"resources": {"memory": "1"}})), "memory"),
            (&with(json!({"resources": {"memory": "64T"}})), "memory"),
            (&with(json!({"resources": {"pids": 0}})), "pids"),
            (&with(json!({"resources": {"pids": -1}})), "pids"),
            (&with(json!({"resources": {"cpus": 0}})), "cpus"),
            (
                &with(json!({"lifecycle": {"idle_timeout": 999_999_999}})),
                "idle_timeout",
            ),
            (
                &with(json!({"lifecycle": {"idle_timeout": 900, "max_lifetime": 60}})),
                "idle",
            ),
            (&with(json!({"environment": {"A=B": "x"}})), "environment"),
            (&with(json!({"environment": {"": "x"}})), "environment"),
            (
                &with(json!({"environment": {"A": "nul\u{0}"}})),
                "environment",
            ),
            (&with(json!({"entrypoint": ""})), "entrypoint"),
            (&with(json!({"entrypoint": []})), "entrypoint"),
            (&with(json!({"entrypoint": "/etc/passwd.py"})), "entrypoint"),
            (&with(json!({"entrypoint": "../agent.py"})), "entrypoint"),
            (&with(json!({"entrypoint": "missing.py"})), "entrypoint"),
            (
                &with(json!({"network": {"allow": ["http://x y"]}})),
                "allow",
            ),
            (&with(json!({"protocol": "SMTP"})), "protocol"),
            (&with(json!({"name": "other"})), "name"),
        ];
        for (body, field) in cases {
            expect_problem(put("bad", body)?, 400, field).with_context(|| body.to_owned())?;
        }
        expect_problem(put("9bad", &with(json!({})))?, 400, "name")?;
        expect_problem(put("with-hyphen", &with(json!({})))?, 400, "name")?;
        let unknown = json!({"artifact": "0".repeat(64), "config": {"name": "bad", "entrypoint": "agent.py"}}).to_string();
        let answer = put("bad", &unknown)?;
        ensure!(matches!(answer.status, 400 | 404), "{}", answer.status);
        // Two faults, one answer.
        let two =
            with(json!({"resources": {"pids": 0}, "lifecycle": {"idle_timeout": 999_999_999}}));
        let problem = expect_problem(put("bad", &two)?, 400, "pids")?;
        ensure!(problem.errors.len() >= 2, "all faults at once: {problem:?}");
        // Of type, of range and of the bundle's place alike, each with its path as in agentcore.toml.
        let many = with(
            json!({"entrypoint": "../agent.py", "memroy": "1G", "name": "other",
            "resources": {"pids": -1, "memory": "lots"}, "lifecycle": {"idle_timeout": 999_999_999}}),
        );
        let problem = expect_problem(put("bad", &many)?, 400, "")?;
        let mut named: Vec<_> = problem.errors.iter().map(|e| e.name.as_str()).collect();
        named.sort_unstable();
        // One value may break two rules.
        named.dedup();
        assert_eq!(
            named,
            [
                "entrypoint",
                "lifecycle.idle_timeout",
                "memroy",
                "name",
                "resources.memory",
                "resources.pids"
            ]
        );
        let page: Page<Value> = client.get("/v1/runtimes")?;
        assert!(
            page.items.is_empty(),
            "a refused body made {:?}",
            page.items
        );
        Ok(())
    })
}

#[test]
fn lists_page_and_refuse_bad_tokens() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "wire", json!({}))?;
        let mut ours = Vec::new();
        for n in 0..3 {
            let id = session_name(&format!("page{n}"));
            puppet::run(&client, "wire", &id, "answer = 1")?;
            ours.push(id);
        }
        let mut seen = Vec::new();
        let mut token = String::new();
        for _ in 0..3 {
            let page: Page<Session> = client.get(&format!("/v1/sessions?maxResults=1{token}"))?;
            assert_eq!(page.items.len(), 1);
            seen.extend(page.items.iter().map(|s| s.session_id.as_str().to_owned()));
            token = page
                .next_token
                .map(|t| format!("&nextToken={}", label(&t)))
                .unwrap_or_default();
        }
        assert!(token.is_empty(), "three sessions, three pages");
        seen.sort();
        ours.sort();
        assert_eq!(seen, ours);
        for (query, field) in [
            ("maxResults=0", "maxResults"),
            ("maxResults=1001", "maxResults"),
            ("maxResults=x", "maxResults"),
            ("nextToken=%00garbage", "nextToken"),
            ("phase=dancing", "phase"),
            ("runtime=9bad", "runtime"),
        ] {
            let answer = client.send(Request::get(format!("/v1/sessions?{query}")))?;
            expect_problem(answer, 400, field).with_context(|| query)?;
        }
        assert!(
            client
                .sessions("runtime=nobody")
                .map_or(true, |all| all.is_empty())
        );
        assert_eq!(client.sessions("runtime=wire&phase=ready")?.len(), 3);
        expect_problem(
            client.send(Request::get("/v1/sessions/sunknown0001"))?,
            404,
            "sunknown0001",
        )?;
        expect_problem(
            client.send(Request::new("DELETE", "/v1/sessions/sunknown0001"))?,
            404,
            "sunknown0001",
        )?;
        expect_problem(
            client.send(Request::get("/v1/sessions/..%2F..%2Fetc"))?,
            404,
            "",
        )?;
        Ok(())
    })
}

/// Every page of a list, one item a page.
fn pages<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Vec<T>> {
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page: Page<T> = client.get(&format!("{path}?maxResults=1{token}"))?;
        ensure!(
            page.items.len() == 1,
            "{path}: a page of {}",
            page.items.len()
        );
        seen.extend(page.items);
        let Some(next) = page.next_token else {
            return Ok(seen);
        };
        ensure!(seen.len() < 100, "{path}: pages without end");
        token = format!("&nextToken={}", label(&next));
    }
}

#[test]
fn runtimes_versions_and_artifacts_page_too() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let put = |name: &str, source: &str| deploy::python(&client, name, source, json!({}));
        let sources = ["1", "2", "3"];
        let mut artifacts = BTreeSet::new();
        for source in sources {
            artifacts.insert(put("beta", source)?.artifact);
        }
        for name in ["alpha", "gamma"] {
            put(name, "1")?;
        }
        let names: Vec<_> = pages::<Runtime>(&client, "/v1/runtimes")?
            .into_iter()
            .map(|runtime| runtime.name.as_str().to_owned())
            .collect();
        assert_eq!(names, ["alpha", "beta", "gamma"]);
        let mut versions: Vec<_> = pages::<Version>(&client, "/v1/runtimes/beta/versions")?
            .into_iter()
            .map(|version| version.version.0)
            .collect();
        versions.sort_unstable();
        assert_eq!(versions, [1, 2, 3]);
        let listed: Vec<_> = pages::<Artifact>(&client, "/v1/artifacts")?
            .into_iter()
            .map(|artifact| artifact.artifact_id)
            .collect();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), artifacts);
        // All at once fits one page, which says that there is no other.
        let all: Page<Runtime> = client.get("/v1/runtimes?maxResults=3")?;
        ensure!(all.items.len() == 3 && all.next_token.is_none());
        for path in [
            "/v1/runtimes",
            "/v1/runtimes/beta/versions",
            "/v1/artifacts",
        ] {
            for (query, field) in [
                ("maxResults=0", "maxResults"),
                ("maxResults=1001", "maxResults"),
                ("nextToken=%00garbage", "nextToken"),
            ] {
                let answer = client.send(Request::get(format!("{path}?{query}")))?;
                expect_problem(answer, 400, field).with_context(|| format!("{path}?{query}"))?;
            }
        }
        expect_problem(
            client.send(Request::get("/v1/runtimes/nobody/versions"))?,
            404,
            "nobody",
        )?;
        Ok(())
    })
}

#[test]
fn an_agents_own_headers_arrive_but_never_those_of_the_hop() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let source = r#"
import http.server
class Agent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b'{"status":"Healthy"}')
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        seen = {k.lower(): v for k, v in self.headers.items()}
        import json
        self.answer(json.dumps(seen).encode())
    def answer(self, body):
        self.send_response(200)
        for name, value in [("Content-Type", "application/json"), ("X-Own", "kept"), ("Set-Cookie", "a=b"),
                ("Keep-Alive", "timeout=5"), ("Proxy-Authenticate", "Basic"), ("Connection", "X-Hop"), ("X-Hop", "1"),
                ("x-amzn-ErrorType", "Forged"), ("x-amzn-RequestId", "forged")]:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Agent).serve_forever()
"#;
        deploy::python(&client, "headers", source, json!({}))?;
        let session = session_name("headers");
        let request = Client::invocation("headers", &session, &json!({}))
            .header("X-Amzn-Bedrock-AgentCore-Runtime-Custom-Color", "blue")
            .header("X-Amzn-Bedrock-AgentCore-Runtime-User-Id", "alice")
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            );
        // The AWS wire passes on what its contract names; the local one is the agent's own.
        let local = Request::post("/invocations", "{}")
            .header("content-type", "application/json")
            .header(SESSION_HEADER, session.clone());
        let local = client.send(local)?.expect(200)?;
        assert_eq!(local.header("x-own"), Some("kept"));
        for hop in ["keep-alive", "proxy-authenticate", "x-hop"] {
            assert_eq!(local.header(hop), None, "{hop}");
        }
        let answer = client.send(request)?.expect(200)?;
        assert_eq!(answer.header("x-own"), None);
        for hop in ["keep-alive", "proxy-authenticate", "x-hop"] {
            assert_eq!(answer.header(hop), None, "{hop}");
        }
        assert_eq!(
            answer.header("x-amzn-errortype"),
            None,
            "an agent must not forge an error of ours"
        );
        assert_ne!(answer.header("x-amzn-requestid"), Some("forged"));
        let seen: Value = answer.json()?;
        assert_eq!(
            seen["x-amzn-bedrock-agentcore-runtime-session-id"],
            json!(session)
        );
        assert_eq!(
            seen["x-amzn-bedrock-agentcore-runtime-custom-color"],
            "blue"
        );
        ensure!(seen["traceparent"].is_string(), "{seen}");
        ensure!(
            seen["x-amzn-bedrock-agentcore-runtime-request-id"].is_string(),
            "{seen}"
        );
        // Not on any allow-list: the runtime, not the SDK, must hold them back (contract §1.3).
        ensure!(seen["authorization"].is_null(), "{seen}");
        ensure!(
            seen["x-amzn-bedrock-agentcore-runtime-user-id"].is_null(),
            "{seen}"
        );
        Ok(())
    })
}
