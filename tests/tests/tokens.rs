//! Bearer tokens (`auth = "jwt"`): a runtime with an authorizer, an issuer of the test's own (`tests/fixtures/issuer.py`), callers
//! from PyPI. Tier: root; needs PyPI. What callers must see is asserted in `tests/clients/token_calls.py`.

use anyhow::ensure;
use e2e::client::{Client, expect_aws_error, session_name};
use e2e::http::Target;
use e2e::issuer::{Issuer, authorizer};
use e2e::{Daemon, Options, Result, audit, ground, puppet, venv, wait};
use proto::api::{AuditRecord, NewAccessKey, NewAccessKeyRequest, Page};
use serde_json::{Value, json};

/// Issuers that misbehave, and what the audit says of each.
const FAILING: &[(&str, &str)] = &[
    ("oversized", "has more than 65536 bytes"),
    ("large", "has more than 262144 bytes"),
    ("many", "has more than 100 keys"),
    ("redirect", "answered with status 302"),
    ("garbled", "is not an issuer's metadata"),
    ("slow", "did not answer within 5 s"),
    ("inward", "is without TLS"),
    ("elsewhere", "InvalidIssuer"),
];

/// A runtime that takes tokens, one that takes signatures, one that wants much, and those whose issuers fail.
fn facts(daemon: &Daemon, issuer: &Issuer) -> anyhow::Result<Value> {
    let client = daemon.client();
    let mut arns = serde_json::Map::new();
    let mut deploy = |name: &str, more: Value| -> Result {
        let runtime = puppet::deploy(&client, name, more)?;
        arns.insert(name.to_owned(), json!(runtime.arn));
        Ok(())
    };
    deploy("tokened", authorizer(&issuer.url("")))?;
    deploy("signed", json!({}))?;
    deploy(
        "strict",
        json!({"authorizer": {
            "discovery_url": issuer.url(""), "allowed_scopes": ["call"], "allowed_clients": ["web"],
            "custom_claims": [{"name": "groups", "value_type": "STRING_ARRAY", "operator": "CONTAINS_ANY", "value": ["a", "b"]}],
        }}),
    )?;
    // On ports that nobody listens on, and at addresses where no issuer may be.
    deploy(
        "down",
        authorizer("http://127.0.0.1:1/.well-known/openid-configuration"),
    )?;
    deploy(
        "plain",
        authorizer("http://example.com/.well-known/openid-configuration"),
    )?;
    deploy(
        "private",
        authorizer("https://10.0.0.1/.well-known/openid-configuration"),
    )?;
    let mut failing = vec!["down", "plain", "private"];
    for (folder, _) in FAILING {
        deploy(folder, authorizer(&issuer.url(folder)))?;
        failing.push(*folder);
    }
    let request = NewAccessKeyRequest {
        name: "operator".to_owned(),
        runtimes: None,
        actions: None,
        objects: None,
        expires_in: None,
    };
    let made = e2e::http::Request::post("/v1/keys", serde_json::to_vec(&request)?);
    let key: NewAccessKey = client.send(made)?.expect(201)?.json()?;
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let version = client.info()?.base["python3"].clone();
    let minor: Vec<&str> = version.split('.').take(2).collect();
    Ok(json!({
        "python": format!("PYTHON_{}", minor.join("_")),
        "endpoint": format!("http://{address}"), "issuer": format!("http://127.0.0.1:{}", issuer.port),
        "pem": issuer.pem, "arns": arns, "failing": failing, "key": key,
    }))
}

fn calls(scenario: &str, facts: &Value) -> Result {
    let words = [scenario, &facts.to_string()];
    venv::run("requirements.txt", "token_calls.py", &words)?;
    Ok(())
}

/// Waits until the audit has a record with each of these reasons.
fn recorded(daemon: &Daemon, reasons: &[&str]) -> Result {
    for reason in reasons {
        let found = wait::until(10, &format!("a record that says {reason:?}"), || {
            let page: Page<AuditRecord> = daemon.client().get("/v1/audit?maxResults=1000")?;
            let found = page
                .items
                .into_iter()
                .find(|record| record.reason.contains(reason));
            Ok(found)
        })?;
        ensure!(found.status == 401 || found.status == 403, "{found:?}");
    }
    Ok(())
}

#[test]
fn who_has_a_token_of_the_runtimes_issuer_is_served() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        let facts = facts(daemon, &issuer)?;
        calls("good", &facts)?;
        calls("metadata", &facts)?;
        calls("owned", &facts)?;
        let sessions = daemon.client().sessions("runtime=tokened")?;
        let owner = json!([
            issuer.url(""),
            format!("http://127.0.0.1:{}", issuer.port),
            "sub",
            "alice"
        ]);
        let owner = format!("token:{owner}");
        ensure!(
            sessions
                .iter()
                .any(|session| session.owner.as_deref() == Some(&owner)),
            "{sessions:#?}"
        );
        // The Unix socket is an operator's: no token is needed there, and one that is there counts.
        let client = daemon.client();
        client.invoke(
            "tokened",
            &session_name("local"),
            &puppet::payload("answer = 1"),
        )?;
        let request = Client::invocation("tokened", &session_name("local"), &puppet::payload(""));
        let answer = client.send(request.header("authorization", "Bearer x"))?;
        expect_aws_error(answer, 401, "UnauthorizedException", "was not accepted")?;
        Ok(())
    })
}

#[test]
fn whatever_is_wrong_with_a_token_is_refused_and_recorded() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        calls("bad", &facts(daemon, &issuer)?)?;
        recorded(
            daemon,
            &[
                "ExpiredSignature",
                "InvalidSignature",
                "InvalidIssuer",
                "ImmatureSignature",
                "algorithm HS256 is symmetric",
                "is not for algorithm",
                "the issuer has no key \"stranger\"",
                "the token is for [\"others\"]",
                "the token has scopes [\"other\"]",
                "claim \"groups\" does not fit",
                "the token was issued to client [\"x\"]",
                "takes signed requests only",
                "takes bearer tokens only",
                "named another user",
                "neither for whom",
            ],
        )
    })
}

#[test]
fn keys_are_rotated_and_strangers_cannot_make_us_ask_all_the_time() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        calls("rotated", &facts(daemon, &issuer)?)
    })
}

#[test]
fn issuers_that_fail_or_may_not_be_asked_let_nobody_in() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("\"jwt\""), |daemon| {
        calls("unavailable", &facts(daemon, &issuer)?)?;
        let reasons: Vec<&str> = FAILING.iter().map(|(_, reason)| *reason).collect();
        recorded(daemon, &reasons)?;
        recorded(
            daemon,
            &[
                "127.0.0.1:1/.well-known/openid-configuration: could not be reached",
                "example.com/.well-known/openid-configuration: is without TLS",
                "10.0.0.1 is a private address",
            ],
        )?;
        assert!(daemon.client().live_sessions()?.is_empty());
        Ok(())
    })
}

#[test]
fn what_boto3_made_takes_tokens() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("[\"jwt\", \"sigv4\"]"), |daemon| {
        calls("made", &facts(daemon, &issuer)?)?;
        recorded(
            daemon,
            &["takes bearer tokens only", "takes signed requests only"],
        )
    })
}

#[test]
fn an_issuer_that_claims_anothers_name_gets_nobodys_sessions() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("\"jwt\""), |daemon| {
        let (client, tcp) = (daemon.client(), daemon.tcp()?);
        let session = session_name("chosen-by-all");
        let birth = puppet::payload("import time\nanswer = kept.setdefault('born', time.time())");
        let born = |claims: Value| -> anyhow::Result<Value> {
            let token = issuer.mint(claims)?;
            let request = Client::invocation("own", &session, &birth);
            let request = request.header("authorization", format!("Bearer {token}"));
            tcp.send(request)?.expect(200)?.json()
        };
        let (alice, client_alice) = (json!({}), json!({"sub": null, "client_id": "alice"}));
        puppet::deploy(&client, "own", authorizer(&issuer.url("")))?;
        let first = born(alice.clone())?;
        let as_client = born(client_alice.clone())?;
        assert_ne!(first, as_client, "a user and a client of one name are two");
        // The same keys and the same name, from another place.
        puppet::deploy(&client, "own", authorizer(&issuer.url("twin")))?;
        let (twin, twin_client) = (born(alice.clone())?, born(client_alice)?);
        for other in [&twin, &twin_client] {
            assert!(
                *other != first && *other != as_client,
                "shared with the twin"
            );
        }
        puppet::deploy(&client, "own", authorizer(&issuer.url("")))?;
        assert_eq!(born(alice)?, first);
        Ok(())
    })
}

#[test]
fn an_issuer_that_the_operator_closes_is_believed_no_more() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("\"jwt\""), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "own", authorizer(&issuer.url("")))?;
        let (tcp, token) = (daemon.tcp()?, issuer.mint(json!({}))?);
        let asked = || {
            let session = session_name("closed");
            let request = Client::invocation("own", &session, &puppet::payload("answer = 1"));
            tcp.send(request.header("authorization", format!("Bearer {token}")))
        };
        asked()?.expect(200)?;
        // Its keys are known, and fresh.
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?;
        let open = format!("\"127.0.0.1:{}\"", issuer.port);
        ensure!(text.contains(&open), "{text}");
        std::fs::write(&file, text.replace(&open, "\"127.0.0.1:2\""))?;
        daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
        wait::until_true(20, "the token to be refused", || Ok(asked()?.status == 401))?;
        recorded(daemon, &["is without TLS (tokens.allow_private"])
    })
}

#[test]
fn each_protocol_says_in_its_words_that_a_token_is_wanted() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    Daemon::with(issuer.options("\"jwt\""), |daemon| {
        let mut refusals = Vec::new();
        for (name, protocol, words) in [
            ("plain", "HTTP", "\"message\":"),
            ("tools", "MCP", "\"jsonrpc\":\"2.0\""),
            // A2A has no code of its own for it.
            ("agents", "A2A", "\"message\":"),
            ("events", "AGUI", "\"type\":\"RUN_ERROR\""),
        ] {
            let mut config = authorizer(&issuer.url(""));
            config["protocol"] = json!(protocol);
            puppet::deploy(&daemon.client(), name, config)?;
            for (token, reason) in [
                (None, "no token"),
                (
                    Some(issuer.mint(json!({"aud": "others"}))?),
                    "the token is for",
                ),
            ] {
                let path = format!("/runtimes/{name}/invocations");
                let mut request = e2e::http::Request::post(&path, "{\"id\":1}");
                if let Some(token) = token {
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                let answer = daemon.tcp()?.send(request)?.expect(401)?;
                let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
                let challenge = header("www-authenticate");
                ensure!(
                    challenge.contains("resource_metadata="),
                    "{name}: {challenge}"
                );
                let (request_id, code) = (header("x-amzn-requestid"), header("x-amzn-errortype"));
                assert_eq!(code, "UnauthorizedException", "{name}");
                let text = answer.text()?;
                ensure!(
                    text.contains(words) && !text.contains(reason),
                    "{name}: {text}"
                );
                refusals.push(audit::Refused {
                    request_id,
                    status: 401,
                    code,
                    reason: reason.to_owned(),
                    path,
                    caller: None,
                });
            }
        }
        audit::expect(daemon, &refusals)?;
        assert!(daemon.client().sessions("")?.is_empty());
        Ok(())
    })
}

#[test]
fn a_developers_daemon_wants_the_token_too() -> Result {
    ground!(Daemon, Python, Registry);
    let issuer = Issuer::start()?;
    let tokens = format!("[tokens]\nallow_private = [\"127.0.0.1:{}\"]", issuer.port);
    Daemon::with(Options::default().config(&tokens), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "tokened", authorizer(&issuer.url("")))?;
        let payload = puppet::payload("answer = 1");
        let tcp = daemon.tcp()?;
        let request = Client::invocation("tokened", &session_name("dev"), &payload);
        let answer = tcp.send(request)?;
        let challenge = answer
            .header("www-authenticate")
            .unwrap_or_default()
            .to_owned();
        ensure!(challenge.contains("resource_metadata"), "{challenge}");
        expect_aws_error(answer, 401, "UnauthorizedException", "token")?;
        let local = e2e::http::Request::post("/invocations", payload.to_string());
        tcp.send(local)?.expect(401)?;
        client.invoke("tokened", &session_name("dev"), &payload)?;
        Ok(())
    })
}
