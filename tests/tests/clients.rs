//! The clients that callers have: boto3 from PyPI, unmodified, and the built-in `agentcore_client`. Tier: root; boto3 needs PyPI.
//!
//! What each must see is asserted in its own language: `tests/clients/*_calls.py`.

use anyhow::ensure;
use e2e::client::session_name;
use e2e::http::Target;
use e2e::{Daemon, Options, Result, ground, places, puppet, venv, wait};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Runs a script of `tests/clients` to its end.
fn calls(python: &Path, script: &str, words: &[&str], env: &[(&str, &str)]) -> Result {
    let out = Command::new(python)
        .arg(places::source().join("tests/clients").join(script))
        .args(words)
        .env("PYTHONPATH", places::source().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(env.iter().copied())
        .output()?;
    ensure!(
        out.status.success(),
        "{script} {words:?} {env:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

#[test]
fn boto3_from_the_registry_unmodified() -> Result {
    ground!(Daemon, Python, Registry);
    let python = venv::bin()?.join("python");
    Daemon::with(Options::default(), |daemon| {
        let runtime = puppet::deploy(&daemon.client(), "boto", json!({}))?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let endpoint = format!("http://{address}");
        let session = session_name("boto3");
        let words = [endpoint.as_str(), &runtime.arn, &session];
        calls(&python, "boto3_calls.py", &words, &[])
    })
}

#[test]
fn the_built_in_client_over_the_socket_and_over_tcp() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "ours", json!({}))?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        for endpoint in [
            format!("unix:{}", daemon.socket().display()),
            format!("http://{address}"),
        ] {
            let env = [("AGENTCORE_ENDPOINT", endpoint.as_str())];
            let python = Path::new("/usr/bin/python3");
            calls(python, "agentcore_client_calls.py", &["ours"], &env)?;
        }
        // Three sessions each time, one after another, and none of them is left to its idle timeout.
        assert_eq!(client.sessions("runtime=ours")?.len(), 6);
        wait::until_true(20, "the stopped sessions to be over", || {
            Ok(client.live_sessions()?.is_empty())
        })
    })
}
