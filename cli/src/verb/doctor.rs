//! `agentcore doctor`: what this host offers, and whether a real session is as isolated as it should be.
//!
//! The daemon says what it found (`GET /v1/doctor`). That is not taken on trust: a small agent is deployed, looks around
//! from inside a session ([`inside`] says what it saw and what is wrong with it), and is deleted again.

use super::Desk;
use super::launch::{deploy, withdraw};
use crate::bundle::Selection;
use crate::bundle::pack::pack;
use crate::daemon::{SESSION_HEADER, encode, full, json};
use crate::failure::{Exit, Failure, chain};
use crate::screen::Tone;
use crate::target;
use hyper::Method;
use hyper::header::HeaderValue;
use inside::{Facts, Finding, Outside, judge};
use proto::api::{CheckState, Doctor, Info, Session};
use proto::config::{
    Budgets, Entrypoint, Language, Lifecycle, Network, NetworkMode, Protocol, Resources,
    RuntimeConfig,
};
use proto::ids::RuntimeName;
use proto::units::{MemoryBytes, Seconds};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;

mod inside;

/// The agent that looks around; it runs on the built-in SDK.
const AGENT: &str = include_str!("doctor/agent.py");

/// What the session gets for `/tmp`; whether it gets that, and no more, is one of the checks.
const TMP: MemoryBytes = MemoryBytes::mib(32);

/// Prints every check; 1 if anything is off.
pub(super) async fn run(desk: &Desk) -> Result<ExitCode, Failure> {
    let screen = &desk.screen;
    let host: Doctor = desk.daemon.get("/v1/doctor").await?;
    if !screen.json && !screen.quiet {
        screen.line("Host")?;
        for check in &host.checks {
            let (word, tone) = match check.state {
                CheckState::On => ("on", Tone::Good),
                CheckState::Degraded => ("degraded", Tone::Warn),
                CheckState::Off => ("off", Tone::Bad),
            };
            line(desk, tone, word, &check.name, &check.detail)?;
        }
        screen.line("Inside a session")?;
    }
    let findings = look(desk).await?;
    let well = findings.iter().all(|finding| finding.ok)
        && host
            .checks
            .iter()
            .all(|check| check.state != CheckState::Off);
    if screen.json {
        screen.document(&json!({ "ok": well, "host": host.checks, "session": findings }))?;
    } else {
        for finding in findings
            .iter()
            .filter(|finding| !(screen.quiet && finding.ok))
        {
            let (word, tone) = if finding.ok {
                ("ok", Tone::Good)
            } else {
                ("FAILED", Tone::Bad)
            };
            line(desk, tone, word, finding.name, &finding.detail)?;
        }
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        Exit::Failed.into()
    })
}

fn line(desk: &Desk, tone: Tone, word: &str, name: &str, detail: &str) -> Result<(), Failure> {
    let word = desk.screen.paint(tone, &format!("{word:<8}"));
    desk.screen
        .line(format!("  {word} {name:<24} {detail}").trim_end())
}

/// Deploys the agent, asks it, and deletes it whatever came of it.
async fn look(desk: &Desk) -> Result<Vec<Finding>, Failure> {
    let info: Info = desk.daemon.get("/v1/info").await?;
    if !info.base.contains_key("python3") {
        return Ok(vec![Finding {
            name: "python",
            ok: false,
            detail: "the base has no python3, so nothing could be tested from inside; install it on the daemon's \
                     host and restart the daemon"
                .to_owned(),
        }]);
    }
    let folder = tempfile::tempdir().map_err(|error| local("make a temporary folder", &error))?;
    std::fs::write(folder.path().join("agent.py"), AGENT)
        .map_err(|error| local("write the test agent", &error))?;
    let selection = Selection::of(folder.path(), Language::Python)?;
    let packed = pack(&selection.entries, None, folder.path())?;
    let config = config()?;
    let stage = desk.screen.stage("Testing from inside a session");
    let name = config.name.clone();
    let work = async {
        deploy(desk, &config, &packed).await?;
        ask(desk, &name).await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        // Not the end of this process: what was made must be deleted first.
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
    };
    drop(stage);
    let gone = withdraw(desk, name.as_str(), [&packed.artifact]).await;
    let findings = outcome?;
    gone?;
    Ok(findings)
}

fn config() -> Result<RuntimeConfig, Failure> {
    let tail = uuid::Uuid::new_v4().simple().to_string();
    let name = RuntimeName::parse(format!("agentcore_doctor_{}", &tail[..8]));
    Ok(RuntimeConfig {
        name: name.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
        entrypoint: Entrypoint::File("agent.py".to_owned()),
        description: Some("made and deleted by `agentcore doctor`".to_owned()),
        protocol: Protocol::Http,
        port: None,
        path: None,
        warmup: None,
        request_headers: Vec::new(),
        budget: Budgets::default(),
        allowed_ports: Vec::new(),
        language: Some(Language::Python),
        language_version: None,
        requirements: None,
        storage: Vec::new(),
        environment: BTreeMap::new(),
        lifecycle: Lifecycle {
            // If we are killed before the end, it does not stay for long.
            idle_timeout: Some(Seconds(60)),
            max_lifetime: Some(Seconds(300)),
            start_timeout: None,
            stop_grace: Some(Seconds(2)),
            invocation_timeout: None,
            freeze_after: None,
        },
        resources: Resources {
            memory: None,
            cpus: None,
            pids: None,
            cpu_weight: None,
            tmp_size: Some(TMP),
        },
        network: Network {
            mode: Some(NetworkMode::None),
            allow: None,
        },
        authorizer: None,
        concurrency: proto::config::Concurrency::default(),
        shared: false,
        pool: proto::config::Pool {
            min: Some(0),
            max: Some(0),
        },
    })
}

async fn ask(desk: &Desk, name: &RuntimeName) -> Result<Vec<Finding>, Failure> {
    // A file of ours that a session must not be able to see.
    let canary = tempfile::Builder::new()
        .prefix("agentcore-doctor-")
        .tempfile();
    let canary = canary.map_err(|error| local("make a canary file", &error))?;
    let outside = Outside::here(canary.path(), desk.daemon.endpoint(), TMP)
        .map_err(|error| local("read /proc/self", &error))?;
    let session = uuid::Uuid::new_v4().to_string();
    let path = format!("/runtimes/{}/invocations", encode(name.as_str()));
    let question = serde_json::to_vec(&json!({ "paths": outside.host_paths }));
    let question = question.expect("a list of strings serialises");
    let mut request = desk.daemon.request(Method::POST, &path, full(question));
    json(&mut request);
    let id = HeaderValue::from_str(&session).expect("a UUID is visible ASCII");
    request.headers_mut().insert(SESSION_HEADER, id);
    let answer = desk.daemon.call(request).await?;
    let facts: Facts = desk.daemon.document(Method::POST, &path, answer).await?;
    let path = target::session_path(&session, "", Some(name.as_str()));
    let record: Session = desk.daemon.get(&path).await?;
    Ok(judge(&facts, &outside, &record))
}

fn local(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {what}: {}", chain(error)))
}
