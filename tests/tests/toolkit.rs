//! AWS's own command lines, unmodified, pointed here by their environment (contract §7.1): the starter toolkit's `agentcore` and
//! the `aws` command. Tier: root; both come from PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Target;
use e2e::{Daemon, Options, Result, ground, puppet, venv};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const REGION: &str = "us-local-1";

/// One of their commands, with what points it at the daemon.
fn command(daemon: &Daemon, program: &str, dir: &Path) -> anyhow::Result<Command> {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let mut command = Command::new(venv::of("toolkit-requirements.txt")?.join(program));
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("AWS_REGION", REGION)
        .env("AWS_DEFAULT_REGION", REGION)
        .env("AWS_ACCESS_KEY_ID", "any")
        .env("AWS_SECRET_ACCESS_KEY", "any")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AGENTCORE_SUPPRESS_RECOMMENDATION", "1");
    for name in [
        "BEDROCK_AGENTCORE_DP_ENDPOINT",
        "BEDROCK_AGENTCORE_CP_ENDPOINT",
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE",
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL",
    ] {
        command.env(name, format!("http://{address}"));
    }
    Ok(command)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(out.status.success(), "{command:?}: {text}");
    Ok(text)
}

#[test]
fn the_starter_toolkit_invokes_looks_and_stops() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "tk", json!({}))?;
        let dir = daemon.dir().join("project");
        fs::create_dir(&dir)?;
        // What its `configure` and `deploy` would have written.
        let project = format!(
            "default_agent: tk\nagents:\n  tk:\n    name: tk\n    entrypoint: agent.py\n    platform: linux/arm64\n    \
             container_runtime: none\n    aws:\n      execution_role: arn:aws:iam::000000000000:role/any\n      \
             account: '000000000000'\n      region: {REGION}\n      network_configuration: {{network_mode: PUBLIC}}\n      \
             protocol_configuration: {{server_protocol: HTTP}}\n      observability: {{enabled: false}}\n    \
             bedrock_agentcore: {{agent_id: {}, agent_arn: '{}'}}\n",
            runtime.runtime_id, runtime.arn
        );
        fs::write(dir.join(".bedrock_agentcore.yaml"), project)?;
        let session = session_name("toolkit");
        let payload = puppet::payload("answer = 6 * 7").to_string();
        let answer = output(command(daemon, "agentcore", &dir)?.args([
            "invoke",
            &payload,
            "--session-id",
            &session,
        ]))?;
        ensure!(answer.contains("42"), "{answer}");
        ensure!(client.live_sessions()?.len() == 1, "one session");
        let status = output(command(daemon, "agentcore", &dir)?.arg("status"))?;
        ensure!(
            status.contains("READY") || status.contains("Ready"),
            "{status}"
        );
        output(command(daemon, "agentcore", &dir)?.args([
            "stop-session",
            "--session-id",
            &session,
        ]))?;
        let ended = client.ended(&session, 20)?;
        ensure!(
            ended.end_reason == Some(proto::api::EndReason::Stopped),
            "{ended:?}"
        );
        Ok(())
    })
}

#[test]
fn the_aws_command_invokes_and_lists() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let runtime = puppet::deploy(&daemon.client(), "cli", json!({}))?;
        let dir = daemon.dir().join("aws");
        fs::create_dir(&dir)?;
        let payload = puppet::payload("answer = 'by aws'").to_string();
        let told = output(command(daemon, "aws", &dir)?.args([
            "bedrock-agentcore",
            "invoke-agent-runtime",
            "--agent-runtime-arn",
            &runtime.arn,
            "--payload",
            &payload,
            "answer.json",
        ]))?;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(told["statusCode"] == 200, "{told}");
        let answer = fs::read_to_string(dir.join("answer.json"))?;
        ensure!(answer.contains("by aws"), "{answer}");
        let list = output(
            command(daemon, "aws", &dir)?
                .args(["bedrock-agentcore-control", "list-agent-runtimes"]),
        )?;
        let list: Value = serde_json::from_str(&list)?;
        ensure!(
            list["agentRuntimes"][0]["agentRuntimeArn"] == runtime.arn.as_str(),
            "{list}"
        );
        Ok(())
    })
}
