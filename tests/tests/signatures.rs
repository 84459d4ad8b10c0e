//! Signed requests over TCP (`auth = "sigv4"`): boto3 from PyPI, unmodified, with keys that `agentcore keys create` made.
//! Tier: root; needs PyPI. What boto3 must see is asserted in `tests/clients/signed_calls.py`.

use anyhow::{Context as _, ensure};
use e2e::http::{Request, Target};
use e2e::{Daemon, Options, Result, audit, ground, puppet, venv, wait};
use proto::api::{AccessKey, AuditRecord, NewAccessKey, Page, Phase};
use serde_json::{Value, json};
use std::process::Command;

/// What `agentcore` prints, which must succeed.
fn cli(daemon: &Daemon, words: &[&str]) -> anyhow::Result<String> {
    let out = daemon.cli().args(words).output()?;
    ensure!(
        out.status.success(),
        "agentcore {words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}

fn key(daemon: &Daemon, words: &[&str]) -> anyhow::Result<NewAccessKey> {
    let words = [&["--json", "keys", "create"], words].concat();
    Ok(serde_json::from_str(&cli(daemon, &words)?)?)
}

fn endpoint(daemon: &Daemon) -> anyhow::Result<String> {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    Ok(format!("http://{address}"))
}

fn calls(scenario: &str, facts: &Value) -> Result {
    let words = [scenario, &facts.to_string()];
    venv::run("requirements.txt", "signed_calls.py", &words)?;
    Ok(())
}

fn refusals(daemon: &Daemon) -> anyhow::Result<Vec<AuditRecord>> {
    let page: Page<AuditRecord> = daemon.client().get("/v1/audit?maxResults=1000")?;
    Ok(page.items)
}

/// Two runtimes, every kind of key, and what the script needs to know of them.
fn facts(daemon: &Daemon) -> anyhow::Result<Value> {
    let client = daemon.client();
    let more = json!({"resources": {"memory": "1G"}});
    let one = puppet::deploy(&client, "signed", more)?;
    let other = puppet::deploy(&client, "untouched", json!({}))?;
    puppet::deploy(&client, "spoken", json!({"protocol": "MCP"}))?;
    let operator = key(daemon, &["operator"])?;
    let invoke = "bedrock-agentcore:InvokeAgentRuntime";
    let limited = key(daemon, &["ci", "-a", "signed", "--action", invoke])?;
    let for_user = key(daemon, &["web", "-a", "signed", "--action", "Invoke*"])?;
    let revoked = key(daemon, &["gone"])?;
    cli(daemon, &["keys", "revoke", &revoked.key.access_key_id])?;
    let expired = key(daemon, &["short", "--expires-in", "1"])?;
    let unknown = json!({"accessKeyId": "AKACAAAAAAAAAAAAAAAA", "secretAccessKey": "nothing"});
    Ok(json!({
        "endpoint": endpoint(daemon)?,
        "name": "signed",
        "arn": one.arn,
        "other": other.arn,
        "keys": {
            "operator": operator, "limited": limited, "for_user": for_user, "revoked": revoked,
            "expired": expired, "unknown": unknown,
        },
    }))
}

#[test]
fn who_signs_with_a_key_is_served() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let facts = facts(daemon)?;
        calls("right", &facts)?;
        calls("skewed", &facts)?;
        calls("presigned", &facts)
    })
}

#[test]
fn whoever_signs_goes_on_with_a_stream_also_at_the_next_daemon() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let mut facts = facts(daemon)?;
        let words = ["resumable", &facts.to_string()];
        let told = venv::run("requirements.txt", "signed_calls.py", &words)?;
        let stream: Value = serde_json::from_str(told.lines().last().context("what it read")?)?;
        daemon.kill()?;
        daemon.restart()?;
        facts["stream"] = stream;
        facts["endpoint"] = json!(endpoint(daemon)?);
        calls("resumed", &facts)
    })
}

#[test]
fn over_http2_and_with_an_unsigned_payload() -> Result {
    ground!(Daemon, Python, Registry, Command("curl"));
    Daemon::with(Options::signed(), |daemon| {
        let facts = facts(daemon)?;
        calls("http2", &facts)?;
        calls("unsigned", &facts)?;
        assert!(daemon.client().sessions("runtime=untouched")?.is_empty());
        let records = audit::records(daemon)?;
        for reason in [
            "the signature does not match",
            "does not cover x-amz-content-sha256",
            "does not cover x-amzn-bedrock-agentcore-runtime-user-id",
        ] {
            ensure!(
                records.iter().any(|record| record.reason.contains(reason)),
                "no record says {reason:?}: {records:#?}"
            );
        }
        Ok(())
    })
}

#[test]
fn websockets_signed_and_presigned_as_the_aws_sdk_does() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let mut facts = facts(daemon)?;
        let client = daemon.client();
        let talk = e2e::deploy::agent(&client, "websocket", "talk", "agent.py", json!({}))?;
        facts["talk"] = json!(talk.arn);
        calls("sockets", &facts)
    })
}

#[test]
fn bodies_to_a_hundred_megabytes_are_verified_before_an_agent_sees_them() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        calls("big", &facts(daemon)?)?;
        // What was tampered with on the way started nothing.
        let client = daemon.client();
        assert!(client.sessions("runtime=untouched")?.is_empty());
        // Not held in memory: the broker has never had as much as one of the bodies.
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .context("VmHWM")?;
        ensure!(peak < 90_000, "the broker had {peak} kB at its peak");
        let spool = daemon.state_dir().join("broker/spool");
        assert_eq!(std::fs::read_dir(spool)?.count(), 0);
        Ok(())
    })
}

#[test]
fn whatever_is_wrong_with_a_signature_is_refused_and_recorded() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let facts = facts(daemon)?;
        wait::until_true(10, "a key to expire", || {
            let keys: Page<AccessKey> = daemon.client().get("/v1/keys")?;
            let now = proto_now();
            let short = keys.items.iter().find(|key| key.name == "short");
            Ok(short.and_then(|key| key.expires_at.clone()) < Some(now))
        })?;
        calls("wrong", &facts)?;
        let records = wait::until(10, "the audit records", || {
            let records = refusals(daemon)?;
            Ok((records.len() >= 14).then_some(records))
        })?;
        for reason in [
            "the signature does not match",
            "there is no access key AKACAAAAAAAAAAAAAAAA",
            "has expired",
            "signed for bedrock-agentcore in us-west-2",
            "without credentials",
            "does not cover x-amzn-bedrock-agentcore-runtime-user-id",
        ] {
            ensure!(
                records.iter().any(|record| record.reason.contains(reason)),
                "no record says {reason:?}: {records:#?}"
            );
        }
        for record in &records {
            ensure!(
                record.status == 403 && record.peer.starts_with("127.0.0.1:"),
                "{record:?}"
            );
            ensure!(
                !record.request_id.is_empty() && record.caller.is_none(),
                "{record:?}"
            );
            ensure!(record.path.starts_with("/runtimes/"), "{record:?}");
        }
        ensure!(
            daemon.log().contains("the signature does not match"),
            "not in the log"
        );
        // None of it has started anything.
        assert!(daemon.client().sessions("runtime=untouched")?.is_empty());
        Ok(())
    })
}

/// Now, as the daemon prints times.
fn proto_now() -> String {
    let out = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"])
        .output();
    out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        .unwrap_or_default()
}

#[test]
fn a_limited_key_does_what_it_may_and_learns_nothing_else() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let facts = facts(daemon)?;
        calls("limited", &facts)?;
        assert!(daemon.client().sessions("runtime=untouched")?.is_empty());
        // Who was denied is known by then.
        let limited = format!(
            "key:{}",
            facts["keys"]["limited"]["accessKeyId"]
                .as_str()
                .context("id")?
        );
        wait::until_true(10, "a record of the limited key", || {
            Ok(refusals(daemon)?.iter().any(|record| {
                record.caller.as_deref() == Some(&limited)
                    && record
                        .reason
                        .contains("does not cover bedrock-agentcore:StopRuntimeSession")
            }))
        })
    })
}

#[test]
fn keys_are_made_listed_and_revoked_and_outlive_the_daemon() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "signed", json!({}))?;
        let made = key(daemon, &["me", "--expires-in", "30d"])?;
        let (id, secret) = (&made.key.access_key_id, &made.secret_access_key);
        let text = cli(daemon, &["keys", "create", "shell"])?;
        ensure!(
            text.lines().count() == 4
                && text.starts_with("AWS_ACCESS_KEY_ID=AKAC")
                && text.ends_with("\nAWS_REGION=us-local-1\nAWS_DEFAULT_REGION=us-local-1\n"),
            "not lines of an environment file: {text}"
        );
        let listed = cli(daemon, &["keys", "list"])?;
        ensure!(
            listed.contains(id.as_str()) && !listed.contains(secret.as_str()),
            "{listed}"
        );
        let facts = json!({
            "endpoint": endpoint(daemon)?, "name": "signed", "arn": runtime.arn, "other": runtime.arn,
            "keys": {"operator": made},
        });
        calls("right", &facts)?;

        // A copy of the database is not enough to sign.
        let state = daemon.state_dir().join("broker");
        for entry in std::fs::read_dir(&state)?.flatten() {
            if entry.file_type()?.is_file() && entry.file_name() != "keys.seal" {
                let bytes = std::fs::read(entry.path())?;
                let found = bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes());
                ensure!(!found, "{} has the secret", entry.path().display());
            }
        }
        daemon.kill()?;
        daemon.restart()?;
        let mut facts = facts;
        facts["endpoint"] = json!(endpoint(daemon)?);
        calls("right", &facts)?;
        cli(daemon, &["keys", "revoke", id])?;
        let error = calls("right", &facts).expect_err("revoked").to_string();
        ensure!(error.contains("InvalidSignatureException"), "{error}");
        let again = daemon.cli().args(["keys", "revoke", id]).output()?;
        assert_eq!(again.status.code(), Some(3), "not found");
        ensure!(
            cli(daemon, &["keys", "list", "--all"])?.contains("revoked"),
            "not listed"
        );

        for (body, field) in [
            (json!({"name": ""}), "name"),
            (json!({"name": "a", "actions": ["Fly"]}), "actions"),
            (json!({"name": "a", "actions": []}), "actions"),
            (json!({"name": "a", "runtimes": ["no name!"]}), "runtimes"),
            (json!({"name": "a", "expiresIn": 0}), "expiresIn"),
            (json!({"name": "a", "admin": true}), "admin"),
        ] {
            let answer = client.send(Request::post("/v1/keys", body.to_string()))?;
            e2e::client::expect_problem(answer, 400, field)?;
        }
        let live = client.sessions("runtime=signed")?;
        ensure!(
            live.iter().all(
                |session| session.owner.as_deref() == Some(&format!("key:{id}"))
                    || matches!(session.phase, Phase::Failed)
            ),
            "{live:#?}"
        );
        Ok(())
    })
}

/// Says how long a body was, or reads none and answers when everybody has gone.
const READER: &str = r#"
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Reader(BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b'{"status": "Healthy"}')
    def do_POST(self):
        if "DEAF" in os.environ:
            time.sleep(60)
        left = int(self.headers["content-length"])
        self.answer(str(len(self.rfile.read(left))).encode())
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Reader).serve_forever()
"#;

#[test]
fn whose_agent_does_not_read_keeps_half_of_the_spool_and_no_more() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(
        Options::signed().config("[limits]\nspool = \"64M\"\nretry_linger = 1"),
        |daemon| {
            let client = daemon.client();
            let deaf = json!({"environment": {"DEAF": "1"}});
            let deaf = e2e::deploy::python(&client, "deaf", READER, deaf)?;
            let heard = e2e::deploy::python(&client, "heard", READER, json!({}))?;
            let facts = json!({
                "endpoint": endpoint(daemon)?, "deaf": deaf.arn, "heard": heard.arn,
                "keys": {"one": key(daemon, &["one"])?, "two": key(daemon, &["two"])?},
            });
            calls("shares", &facts)
        },
    )
}
