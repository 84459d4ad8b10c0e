//! The AWS control plane with boto3 from PyPI, unmodified: every operation, every error, every bound of the model; and its
//! S3 subset with boto3's own s3 client. Tier: root; needs PyPI.
//!
//! What must hold is asserted in the clients' own language: `tests/clients/control_calls.py`, one function a test.

use anyhow::ensure;
use e2e::http::{Request, Target};
use e2e::{Daemon, Options, Result, ground, places, puppet, venv};
use serde_json::{Value, json};
use std::process::Command;

/// Runs one part of the script against a daemon.
fn script(daemon: &Daemon, part: &str, more: &[&str], env: &[(&str, &str)]) -> Result {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let version = daemon.client().info()?.base["python3"].clone();
    let minor: Vec<&str> = version.split('.').take(2).collect();
    // The SDK brings much that nothing else here wants.
    let list = match part {
        "sdk" => "sdk-requirements.txt",
        _ => "requirements.txt",
    };
    let out = Command::new(venv::of(list)?.join("python"))
        .arg(places::source().join("tests/clients/control_calls.py"))
        .args([&format!("http://{address}"), part, &minor.join(".")])
        .args(more)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(env.iter().copied())
        .output()?;
    ensure!(
        out.status.success(),
        "{part}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// Runs one part against a daemon of its own.
fn part(name: &str) -> Result {
    Daemon::with(Options::default(), |daemon| script(daemon, name, &[], &[]))
}

macro_rules! parts {
    ($($test:ident: $part:literal,)*) => {$(
        #[test]
        fn $test() -> Result {
            ground!(Daemon, Python, Registry);
            part($part)
        }
    )*};
}

parts! {
    runtimes_are_made_replaced_and_deleted: "lifecycle",
    default_follows_and_named_endpoints_stay: "endpoints",
    tags_of_runtimes_and_endpoints: "tags",
    the_same_token_does_nothing_twice: "idempotent",
    lists_come_in_pages: "pages",
    what_cannot_run_says_why_and_what_ran_goes_on: "failures",
    nothing_changes_while_a_version_is_made: "conflicts",
    what_a_runtime_is_told_takes_effect: "fields",
    a_session_ends_after_its_runtimes_idle_time: "idle",
    session_storage_outlives_its_session: "storage",
    the_sdks_client_makes_and_waits: "sdk",
    what_is_not_offered_is_refused_with_its_field: "refused",
    every_bound_of_the_model_is_kept: "validation",
    objects_are_uploaded_as_to_s3: "artifacts",
}

/// A version that was being made when the daemon stopped is made by the next one.
#[test]
fn endpoints_and_versions_outlive_the_daemon() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "kept", json!({"environment": {"N": "1"}}))?;
        let put = |version: u32| {
            client.send(
                Request::new("PUT", "/v1/runtimes/kept/endpoints/prod".to_owned())
                    .header("content-type", "application/json")
                    .body(json!({"version": version, "description": "x"}).to_string()),
            )
        };
        put(1)?.expect(201)?;
        puppet::deploy(&client, "kept", json!({"environment": {"N": "2"}}))?;
        put(7)?.expect(404)?;
        let look = || -> anyhow::Result<(Value, Value)> {
            let ask = |qualifier: &str| -> anyhow::Result<Value> {
                let session = e2e::client::session_name(qualifier);
                let code = puppet::payload("import os; answer = os.environ['N']");
                client
                    .send(
                        Request::post(
                            format!("/runtimes/kept/invocations?qualifier={qualifier}"),
                            code.to_string(),
                        )
                        .header(e2e::client::SESSION_HEADER, &session),
                    )?
                    .expect(200)?
                    .json()
            };
            Ok((ask("prod")?, ask("DEFAULT")?))
        };
        assert_eq!(look()?, (json!("1"), json!("2")));
        daemon.terminate()?;
        daemon.restart()?;
        assert_eq!(look()?, (json!("1"), json!("2")));
        let page: Value = client.get("/v1/runtimes/kept/endpoints")?;
        assert_eq!(page["items"][1]["version"], 1, "{page}");
        // The version that an endpoint leads to stays.
        let delete = |path: &str| client.send(Request::new("DELETE", path.to_owned()));
        delete("/v1/runtimes/kept/versions/1")?.expect(409)?;
        delete("/v1/runtimes/kept/endpoints/prod")?.expect(204)?;
        delete("/v1/runtimes/kept/endpoints/DEFAULT")?.expect(409)?;
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        delete("/v1/runtimes/kept/versions/1")?.expect(204)?;
        delete("/v1/runtimes/kept/versions/2")?.expect(409)?;
        Ok(())
    })
}

/// Access keys reach as far as they say, on the control plane and the S3 subset too.
#[test]
fn who_signs_may_do_what_its_key_says() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options {
        dev: false,
        ..Options::default()
    }
    .config("listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let mine = puppet::deploy(&client, "mine", json!({}))?;
        let other = puppet::deploy(&client, "other", json!({}))?;
        let key = |words: &[&str]| -> anyhow::Result<Value> {
            let out = daemon
                .cli()
                .args(["--json", "keys", "create"])
                .args(words)
                .output()?;
            ensure!(out.status.success(), "{out:?}");
            Ok(serde_json::from_slice(&out.stdout)?)
        };
        let run = |key: &Value, part: &str, more: &[&str]| {
            let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
            let (id, secret) = (text("accessKeyId"), text("secretAccessKey"));
            let env = [
                ("KEY_ID", id.as_str()),
                ("KEY_SECRET", secret.as_str()),
                ("REGION", "us-local-1"),
            ];
            script(daemon, part, more, &env)
        };
        run(&key(&["all"])?, "signed", &[])?;
        let limited = key(&["few", "-a", "mine", "--action", "GetAgentRuntime"])?;
        let ids = [mine.runtime_id.as_str(), other.runtime_id.as_str()];
        run(&limited, "limited", &ids)
    })
}
