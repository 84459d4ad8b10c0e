//! Session endpoints: requests, streams and WebSockets to ports that servers beside an agent listen on, by the address that
//! an invocation's answer tells. Tier: root; signed calls and tokens need PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Response, Stream, Target};
use e2e::{Daemon, Options, Result, deploy, ground, puppet, venv, wait};
use proto::api::{AuditRecord, NewAccessKey, Page};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};

const ENDPOINT_URL: &str = "x-amzn-bedrock-agentcore-runtime-session-endpoint-url";
const USER: &str = "x-amzn-bedrock-agentcore-runtime-user-id";
const ERROR: &str = "x-amzn-errortype";

/// Large enough for every buffer on the way.
const LARGE: usize = 20 << 20;

fn ports() -> Value {
    json!({"allowed_ports": [8001, "9000-9010"], "lifecycle": {"stop_grace": 2}})
}

fn agent(client: &Client, name: &str, more: Value) -> anyhow::Result<proto::api::Runtime> {
    deploy::agent(client, "ports", name, "agent.py", more)
}

/// Invokes (`{}`), which starts the session; where the answer says that its ports are.
fn told(client: &Client, runtime: &str, session: &str) -> anyhow::Result<Option<String>> {
    let answer = client.send(Client::invocation(runtime, session, &json!({})))?;
    let url = answer.header(ENDPOINT_URL).map(str::to_owned);
    answer.expect(200)?.text()?;
    Ok(url)
}

/// The path of an address that this client's daemon told.
fn path(client: &Client, url: &str) -> anyhow::Result<String> {
    let base = match &client.target {
        Target::Tcp(address) => format!("http://{address}"),
        Target::Unix(_) => String::new(),
    };
    let path = url.strip_prefix(&base).unwrap_or(url);
    let path = match path.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').context("a path")?..],
        None => path,
    };
    Ok(path.to_owned())
}

/// Where the ports of a session are, which is started.
fn started(client: &Client, runtime: &str, session: &str) -> anyhow::Result<String> {
    path(
        client,
        &told(client, runtime, session)?.context("an address")?,
    )
}

/// A refusal has a name and nothing else.
fn refused(answer: Response, status: u16, name: &str) -> Result {
    assert_eq!(answer.header(ERROR), Some(name));
    ensure!(answer.header("x-amzn-requestid").is_some(), "no request id");
    assert_eq!(answer.expect(status)?.text()?, "");
    Ok(())
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

fn refusals(daemon: &Daemon) -> anyhow::Result<Vec<AuditRecord>> {
    let page: Page<AuditRecord> = daemon.client().get("/v1/audit?maxResults=1000")?;
    Ok(page.items)
}

#[test]
fn a_request_arrives_as_it_was_sent_and_the_servers_answer_as_it_is() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        agent(&daemon.client(), "ports", ports())?;
        for client in [daemon.client(), daemon.tcp()?] {
            let session = session_name("plain");
            let ports = started(&client, "ports", &session)?;
            assert_eq!(ports, format!("/runtimes/ports/sessions/{session}/ports"));
            for (port, method, rest, body) in [
                (8001, "GET", "", ""),
                (8001, "GET", "/a//b/../c%2Fd;e?x=1&y=%20&&z", ""),
                (8001, "POST", "/invocations", "a body"),
                (9005, "PUT", "/ws/shells?shellId=1", "another"),
                (9005, "PATCH", "/sessions/x/ports/8002/y", "1"),
                (8001, "DELETE", "/x?X-Amz-Signature=s&a=b", ""),
                (8001, "OPTIONS", "/", ""),
                (8001, "PURGE", "/cache", ""),
                (8001, "POST", "/empty", ""),
            ] {
                let mut request = Request::new(method, format!("{ports}/{port}{rest}"))
                    .header("x-own", "one")
                    .header("cookie", "a=b")
                    .header("connection", "close, x-hop")
                    .header("x-hop", "1")
                    .header("x-amz-date", "20260101T000000Z")
                    .header("authorization", "AWS4-HMAC-SHA256 Credential=a/b");
                if !body.is_empty() {
                    request = request.body(body);
                }
                let answer = client.send(request)?.expect(200)?;
                assert_eq!(answer.header(ERROR), None);
                let said: Value = answer.json()?;
                let target = match rest {
                    "" => "/",
                    "/x?X-Amz-Signature=s&a=b" => "/x?a=b",
                    rest => rest,
                };
                assert_eq!(said["port"], port);
                assert_eq!(said["method"], method);
                assert_eq!(said["target"], target, "{rest}");
                let sum = crc32(body.as_bytes());
                assert_eq!(
                    (&said["length"], &said["crc32"]),
                    (&json!(body.len()), &json!(sum))
                );
                let pairs: Vec<(String, String)> = serde_json::from_value(said["headers"].clone())?;
                let got: BTreeMap<_, _> = pairs.into_iter().collect();
                assert_eq!(got["x-own"], "one");
                assert_eq!(got["cookie"], "a=b");
                assert_eq!(got["host"], format!("127.0.0.1:{port}"));
                assert_eq!(got[&SESSION_HEADER.to_ascii_lowercase()], session);
                for name in ["x-hop", "x-amz-date", "authorization"] {
                    ensure!(!got.contains_key(name), "{name} has reached the server");
                }
            }
            // Credentials that nobody checks here are the server's.
            let basic = Request::get(format!("{ports}/8001/")).header("authorization", "Basic x");
            let said = client.send(basic)?.expect(200)?.text()?;
            ensure!(said.contains("Basic x"), "{said}");
            // Its own status, its own words; never in the daemon's name, and nobody's page.
            for status in [201, 404, 418, 424, 500, 503] {
                let say =
                    "x-amzn-ErrorType:Forged,x-amzn-RequestId:forged,set-cookie:a=b,location:/x";
                let request = Request::get(format!("{ports}/8001/echo?status={status}&say={say}"));
                let answer = client.send(request)?.expect(status)?;
                assert_eq!(answer.header(ERROR), None, "{status}");
                ensure!(answer.header("x-amzn-requestid") != Some("forged"));
                assert_eq!(answer.header("set-cookie"), Some("a=b"));
                assert_eq!(answer.header("location"), Some("/x"));
                let policy = answer.header("content-security-policy").unwrap_or_default();
                ensure!(
                    policy.starts_with("sandbox") && !policy.contains("same-origin"),
                    "{policy}"
                );
                let said: Value = answer.json()?;
                assert_eq!(said["method"], "GET");
            }
            let head = client
                .send(Request::new("HEAD", format!("{ports}/8001/echo")))?
                .expect(200)?;
            let length: u64 = head.header("content-length").context("a length")?.parse()?;
            ensure!(length > 100, "{length}");
            assert_eq!(head.text()?, "");
            let nothing = Request::post(format!("{ports}/8001/turn"), "x");
            assert_eq!(client.send(nothing)?.expect(204)?.text()?, "");
        }
        Ok(())
    })
}

#[test]
fn the_address_is_told_where_it_leads_somewhere() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let (client, tcp) = (daemon.client(), daemon.tcp()?);
        let Target::Tcp(address) = tcp.target else {
            anyhow::bail!("not TCP");
        };
        agent(&client, "closed", json!({}))?;
        assert_eq!(told(&client, "closed", &session_name("closed"))?, None);
        agent(&client, "ports", ports())?;
        let put = Request::new("PUT", "/v1/runtimes/ports/endpoints/prod")
            .header("content-type", "application/json")
            .body(json!({"version": 1}).to_string());
        client.send(put)?.expect(201)?;
        // The id may hold anything visible, and the endpoint is part of what a session is.
        let odd = format!("{}/../?a=b&c#d%2F\"+", session_name("odd"));
        for endpoint in ["DEFAULT", "prod"] {
            let invoke = Request::post(
                format!("/runtimes/ports/invocations?qualifier={endpoint}"),
                json!({"code": format!("kept['at'] = '{endpoint}'")}).to_string(),
            );
            let answer = client
                .send(invoke.header(SESSION_HEADER, odd.clone()))?
                .expect(200)?;
            let url = answer
                .header(ENDPOINT_URL)
                .context("an address")?
                .to_owned();
            answer.text()?;
            let part = match endpoint {
                "DEFAULT" => String::new(),
                other => format!("/endpoints/{other}"),
            };
            ensure!(
                url.starts_with(&format!("http://{address}/runtimes/ports{part}/sessions/")),
                "{url}"
            );
            let ports = path(&client, &url)?;
            let said: Value = client
                .send(Request::get(format!("{ports}/8001/")))?
                .expect(200)?
                .json()?;
            let pairs: Vec<(String, String)> = serde_json::from_value(said["headers"].clone())?;
            let sent = pairs
                .iter()
                .find(|(name, _)| *name == SESSION_HEADER.to_ascii_lowercase());
            assert_eq!(sent.map(|(_, id)| id.as_str()), Some(odd.as_str()));
        }
        assert_eq!(client.live_sessions()?.len(), 3);
        // A session goes on with the ports that it was made with; the next one has the new ones.
        let before = session_name("before");
        let ports = started(&client, "ports", &before)?;
        agent(&client, "ports", json!({"allowed_ports": [8002]}))?;
        let after = session_name("after");
        let later = started(&client, "ports", &after)?;
        assert_eq!(started(&client, "ports", &before)?, ports);
        for (ports, port, status) in [
            (&ports, 8001, 200),
            (&ports, 8002, 403),
            (&later, 8001, 403),
            (&later, 8002, 200),
        ] {
            client
                .send(Request::get(format!("{ports}/{port}/")))?
                .expect(status)?;
        }
        Ok(())
    })
}

#[test]
fn what_is_not_offered_not_live_or_not_listening_is_told_apart_and_starts_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        agent(&client, "ports", ports())?;
        agent(&client, "closed", json!({}))?;
        let session = session_name("there");
        let ports = started(&client, "ports", &session)?;
        // Something listens on the first two all the same: the server nobody offers, and the agent itself.
        for port in [8002, 8080, 8999, 9011, 22, 1, 65535] {
            let answer = client.send(Request::post(format!("{ports}/{port}/x"), "body"))?;
            refused(answer, 403, "AccessDenied")?;
        }
        let bare = session_name("bare");
        assert_eq!(told(&client, "closed", &bare)?, None);
        let at = format!("/runtimes/closed/sessions/{bare}/ports/8001/");
        refused(client.send(Request::get(&at))?, 403, "AccessDenied")?;
        let answer = client.send(Request::get(format!("{ports}/9000/x")))?;
        expect_aws_error(
            answer,
            424,
            "RuntimeClientError",
            "nothing listens on port 9000",
        )?;
        let live = client.live_sessions()?.len();
        let gone = |runtime: &str, session: &str| -> Result {
            let at = format!("/runtimes/{runtime}/sessions/{session}/ports/8001/");
            let answer = client.send(Request::get(&at))?;
            expect_aws_error(answer, 404, "ResourceNotFoundException", "")?;
            Ok(())
        };
        gone("ports", &session_name("never"))?;
        gone("closed", &session)?;
        gone("nobody", &session)?;
        gone("ports/endpoints/nowhere", &session)?;
        let answer = client.send(Request::get("/runtimes/ports/sessions/short/ports/8001/"))?;
        let said = expect_aws_error(answer, 400, "ValidationException", "")?;
        assert_eq!(said["fieldList"][0]["name"], "runtimeSessionId");
        // Another user of the same caller has no such session.
        let request = Request::get(format!("{ports}/8001/")).header(USER, "somebody");
        expect_aws_error(client.send(request)?, 404, "ResourceNotFoundException", "")?;
        assert_eq!(client.live_sessions()?.len(), live);
        let name = |n: usize| format!("{ports}/8001/{}", "x".repeat(n));
        let answer = client.send(Request::get(name(9000)))?;
        expect_aws_error(answer, 400, "ValidationException", "path")?;
        let answer = client.send(Request::get(name(1)).header("x-long", "y".repeat(40 << 10)))?;
        expect_aws_error(answer, 400, "ValidationException", "headers")?;
        // Pages of others are turned away as everywhere, and so is a page that a server behind the port has shown.
        for (header, value) in [
            ("origin", "https://evil.test"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let tcp = daemon.tcp()?;
            let answer = tcp.send(Request::get(name(1)).header(header, value))?;
            expect_aws_error(answer, 403, "AccessDeniedException", "web pages")?;
        }
        client.stop(&session)?;
        client.ended(&session, 20)?;
        gone("ports", &session)?;
        let records = refusals(daemon)?;
        let outside = records
            .iter()
            .filter(|record| record.reason.contains("is not among the allowed ports"));
        assert_eq!(outside.count(), 8, "{records:#?}");
        Ok(())
    })
}

#[test]
fn large_bodies_and_streams_pass_both_ways_as_they_come() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        agent(&daemon.client(), "ports", ports())?;
        for client in [daemon.client(), daemon.tcp()?] {
            let session = session_name("large");
            let ports = started(&client, "ports", &session)?;
            let body: Vec<u8> = (0..251_u8).cycle().take(LARGE).collect();
            let sum = crc32(&body);
            let put = Request::new("PUT", format!("{ports}/8001/file")).body(body.clone());
            let said: Value = client.send(put)?.expect(200)?.json()?;
            assert_eq!(
                (&said["length"], &said["crc32"]),
                (&json!(LARGE), &json!(sum))
            );
            let got = client
                .send(Request::get(format!("{ports}/8001/bytes?n={LARGE}")))?
                .expect(200)?
                .bytes()?;
            ensure!(
                got.len() == LARGE && got.iter().all(|byte| *byte == b'b'),
                "{}",
                got.len()
            );
            // Both at once, without lengths.
            let mirror = Request::new("POST", format!("{ports}/8001/mirror"))
                .stream(std::io::Cursor::new(body.clone()), None);
            let got = client.send(mirror)?.expect(200)?.bytes()?;
            ensure!(got == body, "the mirror gave back {} bytes", got.len());
            // An event is there before the next one is made.
            let mut events = client
                .send(Request::get(format!("{ports}/8001/events?n=3")))?
                .expect(200)?;
            assert_eq!(events.header("content-type"), Some("text/event-stream"));
            for n in 0..3 {
                assert_eq!(client.session(&session)?.in_flight, 1, "a stream is work");
                client
                    .send(Request::post(format!("{ports}/8001/turn"), ""))?
                    .expect(204)?;
                let event = events.piece()?.context("an event")?;
                assert_eq!(event, format!("data: {n}\n\n").as_bytes());
            }
            ensure!(events.piece()?.is_none(), "more than three events");
            // An answer that breaks off never looks complete.
            for how in ["length", "chunks"] {
                let answer = client
                    .send(Request::get(format!("{ports}/8001/cut?how={how}")))?
                    .expect(200)?;
                ensure!(
                    answer.bytes().is_err(),
                    "{how}: a cut answer looked complete"
                );
            }
            wait::until_true(10, "no work to be left", || {
                Ok(client.session(&session)?.in_flight == 0)
            })?;
            client.stop(&session)?;
        }
        Ok(())
    })
}

/// An offer to switch.
fn offer(path: &str) -> Request {
    Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// The next frame of a server: its first byte and its payload.
fn frame(stream: &mut BufReader<Stream>) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let size = match head[1] {
        126 => {
            let mut size = [0; 2];
            stream.read_exact(&mut size)?;
            u16::from_be_bytes(size)
        }
        size => u16::from(size),
    };
    let mut payload = vec![0; usize::from(size)];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

#[test]
fn a_websocket_to_a_port_is_open_as_long_as_its_session() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        agent(&client, "ports", ports())?;
        let session = session_name("socket");
        let ports = started(&client, "ports", &session)?;
        let mut open = client
            .send(offer(&format!("{ports}/8001/socket/a?b=c")))?
            .expect(101)?
            .upgraded();
        let (first, said) = frame(&mut open)?;
        let said: Value = serde_json::from_slice(&said)?;
        assert_eq!((first, &said[0]), (0x81, &json!("/socket/a?b=c")));
        ensure!(!said.to_string().contains("extensions"), "{said}");
        // Masked with zeros.
        for payload in [&b"hello"[..], &[0, 255, 1]] {
            let mut sent = vec![0x82, 0x80 | u8::try_from(payload.len())?, 0, 0, 0, 0];
            sent.extend(payload);
            open.get_mut().write_all(&sent)?;
            assert_eq!(frame(&mut open)?, (0x82, payload.to_vec()));
        }
        assert_eq!(client.session(&session)?.in_flight, 1);
        // A server that refuses says so in its own words; a port that is not offered is one for no protocol.
        let answer = client
            .send(offer(&format!("{ports}/8001/socket?word=no")))?
            .expect(403)?;
        assert_eq!(
            (answer.header(ERROR), answer.header("x-why")),
            (None, Some("word"))
        );
        assert_eq!(answer.text()?, "not with this word");
        refused(
            client.send(offer(&format!("{ports}/8002/socket")))?,
            403,
            "AccessDenied",
        )?;
        let answer = client.send(offer(&format!("{ports}/9000/socket")))?;
        expect_aws_error(answer, 424, "RuntimeClientError", "nothing listens")?;
        // Another protocol is offered to nobody.
        let other = Request::get(format!("{ports}/8001/x"))
            .header("connection", "upgrade")
            .header("upgrade", "h2c");
        let said: Value = client.send(other)?.expect(200)?.json()?;
        ensure!(!said["headers"].to_string().contains("h2c"), "{said}");
        client.stop(&session)?;
        let (first, said) = frame(&mut open)?;
        assert_eq!((first, &said[..2]), (0x88, &1001_u16.to_be_bytes()[..]));
        Ok(())
    })
}

#[test]
fn requests_to_a_port_keep_their_session_from_idling_and_nothing_else_does() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[defaults]\nidle_timeout = 4");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        agent(&client, "ports", ports())?;
        let (used, held, left) = (
            session_name("used"),
            session_name("held"),
            session_name("left"),
        );
        let mut at = BTreeMap::new();
        for session in [&used, &held, &left] {
            at.insert(session.clone(), started(&client, "ports", session)?);
        }
        let mut events = client
            .send(Request::get(format!("{}/8001/events?n=1", at[&held])))?
            .expect(200)?;
        let mut begun = 0;
        let end = wait::until(30, "the session that nobody uses to end", || {
            client
                .send(Request::get(format!("{}/8001/", at[&used])))?
                .expect(200)?;
            begun += 1;
            let session = client.session(&left)?;
            Ok(session.end_reason)
        })?;
        assert_eq!(end, proto::api::EndReason::Idle);
        ensure!(begun > 4, "{begun} requests are no test");
        assert_eq!(client.session(&held)?.in_flight, 1);
        client
            .send(Request::post(format!("{}/8001/turn", at[&held]), ""))?
            .expect(204)?;
        assert_eq!(events.piece()?.as_deref(), Some(&b"data: 0\n\n"[..]));
        for session in [&used, &held] {
            let ended = client.ended(session, 20)?;
            assert_eq!(ended.end_reason, Some(proto::api::EndReason::Idle));
            let gone = client.send(Request::get(format!("{}/8001/", at[session])))?;
            expect_aws_error(gone, 404, "ResourceNotFoundException", "")?;
        }
        assert_eq!(client.live_sessions()?.len(), 0);
        Ok(())
    })
}

/// A loopback of its own: what listens there is reached by whom the daemon lets, and by nobody else on this machine.
#[test]
fn no_other_session_and_nobody_on_the_host_reaches_the_port() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        agent(&client, "ports", ports())?;
        puppet::deploy(&client, "prober", json!({"allowed_ports": [8001]}))?;
        let session = session_name("target");
        let ports = started(&client, "ports", &session)?;
        let probe = r#"
import socket
answer = {}
for host in ["127.0.0.1", "0.0.0.0", "127.0.0.53", "::1", "localhost"]:
    for port in [8001, 8002, 9005]:
        try:
            socket.create_connection((host, port), timeout=5).close()
            answer[f"{host} {port}"] = "open"
        except OSError as error:
            answer[f"{host} {port}"] = error.errno
"#;
        let other = session_name("prober");
        let found = puppet::run(&client, "prober", &other, probe)?;
        let found = found.as_object().context("what the probe found")?;
        ensure!(
            found.len() == 15 && found.values().all(|how| how != "open"),
            "{found:?}"
        );
        // Its own port is its own: the address of one session leads to no other.
        let at = format!("/runtimes/prober/sessions/{other}/ports/8001/");
        let answer = client.send(Request::get(&at))?;
        expect_aws_error(answer, 424, "RuntimeClientError", "nothing listens")?;
        for port in [8001_u16, 9005] {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            if let Ok(stream) = std::net::TcpStream::connect(address) {
                // Somebody else's on this host, perhaps: but not the session's.
                drop(stream);
                let answer = Client {
                    target: Target::Tcp(address),
                }
                .send(Request::get("/"));
                let said = answer.and_then(Response::text).unwrap_or_default();
                ensure!(
                    !said.contains("\"crc32\""),
                    "the host reaches the session's port: {said}"
                );
            }
        }
        client
            .send(Request::get(format!("{ports}/8001/")))?
            .expect(200)?;
        Ok(())
    })
}

fn key(daemon: &Daemon, words: &[&str]) -> anyhow::Result<NewAccessKey> {
    let out = daemon
        .cli()
        .args(["--json", "keys", "create"])
        .args(words)
        .output()?;
    ensure!(out.status.success(), "{words:?}: {out:?}");
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// boto3 reads the address, botocore signs requests to it; who may not is told so without a body.
#[test]
fn who_signs_reaches_the_ports_of_its_own_sessions() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options {
        dev: false,
        ..Options::default()
    };
    let options = options.config("listen = [\"127.0.0.1:0\"]\nauth = [\"sigv4\", \"jwt\"]");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let runtime = agent(&client, "ports", ports())?;
        let tokens = json!({
            "allowed_ports": [8001],
            "authorizer": {"discovery_url": "https://127.0.0.1:1/.well-known/openid-configuration", "allowed_audience": ["a"]},
        });
        agent(&client, "tokens", tokens)?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        // Over the socket the address is a path: over TCP this caller would be another.
        let mine = session_name("mine");
        let url = told(&client, "ports", &mine)?.context("an address")?;
        assert_eq!(url, format!("/runtimes/ports/sessions/{mine}/ports"));
        client
            .send(Request::get(format!("{url}/8001/")))?
            .expect(200)?;
        let facts = json!({
            "endpoint": format!("http://{address}"), "arn": runtime.arn, "session": session_name("signed"), "local": mine,
            "keys": {
                "one": key(daemon, &["one"])?,
                "two": key(daemon, &["two"])?,
                "invokes": key(daemon, &["invokes", "--action", "InvokeAgentRuntime"])?,
                "proxies": key(daemon, &["proxies", "-a", "ports", "--action", "InvokeAgentRuntimeProxy"])?,
                "elsewhere": key(daemon, &["elsewhere", "-a", "tokens"])?,
            },
        });
        let said = venv::run(
            "requirements.txt",
            "session_endpoint_calls.py",
            &[&facts.to_string()],
        )?;
        ensure!(said.contains("all is well"), "{said}");
        let records = wait::until(10, "the audit records", || {
            let records = refusals(daemon)?;
            Ok((records.len() >= 8).then_some(records))
        })?;
        for reason in [
            "bedrock-agentcore:InvokeAgentRuntimeProxy without credentials",
            "does not cover bedrock-agentcore:InvokeAgentRuntimeProxy",
            "port 8002 is not among the allowed ports of runtime ports",
            "the signature does not match",
            "no token",
            "takes bearer tokens only",
        ] {
            ensure!(
                records.iter().any(|record| record.reason.contains(reason)),
                "no record says {reason:?}: {records:#?}"
            );
        }
        ensure!(
            records.iter().all(|record| record.path.contains("/ports/")),
            "{records:#?}"
        );
        Ok(())
    })
}
