//! Who reaches the ports of a session, what its address is, and what everybody else is told. Tier: root; signed calls and
//! tokens need PyPI. What boto3 and botocore must see is asserted in `tests/clients/session_endpoint_calls.py`.

use anyhow::{Context as _, ensure};
use e2e::audit::{self, records};
use e2e::client::{Client, SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Response, Target};
use e2e::issuer::{Issuer, authorizer};
use e2e::ports::{self, ENDPOINT_URL, offer, offered, refused, started};
use e2e::{Daemon, Options, Result, ground, puppet, venv};
use proto::api::NewAccessKey;
use serde_json::{Value, json};

const USER: &str = "x-amzn-bedrock-agentcore-runtime-user-id";

#[test]
fn the_address_is_told_where_it_leads_somewhere() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let (client, tcp) = (daemon.client(), daemon.tcp()?);
        let Target::Tcp(address) = tcp.target else {
            anyhow::bail!("not TCP");
        };
        ports::agent(&client, "closed", json!({}))?;
        assert_eq!(
            ports::told(&client, "closed", &session_name("closed"))?,
            None
        );
        ports::agent(&client, "ports", offered())?;
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
            let at = ports::path(&url)?;
            let said: Value = client
                .send(Request::get(format!("{at}/8001/")))?
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
        let first = started(&client, "ports", &before)?;
        ports::agent(&client, "ports", json!({"allowed_ports": [8002]}))?;
        let after = session_name("after");
        let later = started(&client, "ports", &after)?;
        assert_eq!(started(&client, "ports", &before)?, first);
        for (base, port, status) in [
            (&first, 8001, 200),
            (&first, 8002, 403),
            (&later, 8001, 403),
            (&later, 8002, 200),
        ] {
            client
                .send(Request::get(format!("{base}/{port}/")))?
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
        ports::agent(&client, "ports", offered())?;
        ports::agent(&client, "closed", json!({}))?;
        let session = session_name("there");
        let base = started(&client, "ports", &session)?;
        // Something listens on the first two all the same: the server nobody offers, and the agent itself.
        for port in [8002, 8080, 8999, 9011, 22, 1, 65535] {
            let answer = client.send(Request::post(format!("{base}/{port}/x"), "body"))?;
            refused(answer, 403, "AccessDenied")?;
        }
        let bare = session_name("bare");
        assert_eq!(ports::told(&client, "closed", &bare)?, None);
        let at = format!("/runtimes/closed/sessions/{bare}/ports/8001/");
        refused(client.send(Request::get(&at))?, 403, "AccessDenied")?;
        let answer = client.send(Request::get(format!("{base}/9000/x")))?;
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
        let request = Request::get(format!("{base}/8001/")).header(USER, "somebody");
        expect_aws_error(client.send(request)?, 404, "ResourceNotFoundException", "")?;
        assert_eq!(client.live_sessions()?.len(), live);
        let name = |n: usize| format!("{base}/8001/{}", "x".repeat(n));
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
        let records = records(daemon)?;
        let outside = records
            .iter()
            .filter(|record| record.reason.contains("is not among the allowed ports"));
        assert_eq!(outside.count(), 8, "{records:#?}");
        Ok(())
    })
}

/// A loopback of its own: what listens there is reached by whom the daemon lets, and by nobody else on this machine.
#[test]
fn no_other_session_and_nobody_on_the_host_reaches_the_port() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        ports::agent(&client, "ports", offered())?;
        puppet::deploy(&client, "prober", json!({"allowed_ports": [8001]}))?;
        let session = session_name("target");
        let base = started(&client, "ports", &session)?;
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
            .send(Request::get(format!("{base}/8001/")))?
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
        let runtime = ports::agent(&client, "ports", offered())?;
        let tokens = json!({
            "allowed_ports": [8001],
            "authorizer": {"discovery_url": "https://127.0.0.1:1/.well-known/openid-configuration", "allowed_audience": ["a"]},
        });
        ports::agent(&client, "tokens", tokens)?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        // Over the socket the address is a path: over TCP this caller would be another.
        let mine = session_name("mine");
        let url = ports::told(&client, "ports", &mine)?.context("an address")?;
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
        let refusals: Vec<audit::Refused> = serde_json::from_str(&said)?;
        ensure!(refusals.len() >= 10, "{refusals:#?}");
        audit::expect(daemon, &refusals)?;
        Ok(())
    })
}

#[test]
fn whom_a_token_is_for_reaches_the_ports_of_its_own_sessions() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        let mut config = authorizer(&issuer.url(""));
        config["allowed_ports"] = json!([8001]);
        ports::agent(&daemon.client(), "kept", config.clone())?;
        config["request_headers"] = json!(["Authorization"]);
        ports::agent(&daemon.client(), "passed", config)?;
        let tcp = daemon.tcp()?;
        let (alice, bob) = (issuer.mint(json!({}))?, issuer.mint(json!({"sub": "bob"}))?);
        let with = |token: &str, request: Request| {
            tcp.send(request.header("authorization", format!("Bearer {token}")))
        };
        let session = session_name("tokens");
        for runtime in ["kept", "passed"] {
            let answer =
                with(&alice, Client::invocation(runtime, &session, &json!({})))?.expect(200)?;
            let url = answer
                .header(ENDPOINT_URL)
                .context("an address")?
                .to_owned();
            answer.text()?;
            ensure!(url.starts_with(&ports::endpoint(&tcp)?), "{url}");
            let at = ports::path(&url)?;
            let get = || Request::get(format!("{at}/8001/x"));
            let said: Value = with(&alice, get())?.expect(200)?.json()?;
            // The server gets the token where its runtime has said so, as its agent does.
            assert_eq!(
                said.to_string().contains(&alice),
                runtime == "passed",
                "{said}"
            );
            expect_aws_error(with(&bob, get())?, 404, "ResourceNotFoundException", "")?;
            let challenged = |answer: Response| -> Result {
                let challenge = answer
                    .header("www-authenticate")
                    .unwrap_or_default()
                    .to_owned();
                ensure!(
                    challenge.starts_with("Bearer resource_metadata="),
                    "{challenge}"
                );
                refused(answer, 401, "AuthenticationRequired")
            };
            challenged(tcp.send(get())?)?;
            challenged(with("nonsense", get())?)?;
            challenged(with(&issuer.mint(json!({"aud": "others"}))?, get())?)?;
            refused(
                with(&alice, Request::get(format!("{at}/8002/")))?,
                403,
                "AccessDenied",
            )?;
            // As a browser's WebSocket carries it; the offer that holds it stays here.
            let open = with(&alice, offer(&format!("{at}/8001/socket")))?.expect(101)?;
            drop(open.upgraded());
        }
        // The local user is somebody else, with a token or without.
        let local = daemon.client();
        let at = format!("/runtimes/kept/sessions/{session}/ports/8001/");
        expect_aws_error(
            local.send(Request::get(&at))?,
            404,
            "ResourceNotFoundException",
            "",
        )?;
        let request = Request::get(&at).header("authorization", format!("Bearer {alice}"));
        local.send(request)?.expect(200)?;
        Ok(())
    })
}
