//! `cargo xtask demo`: the main job on this machine, for a person to watch. Exits 1 when two sessions share a namespace, a
//! uid or a writable file, or when anything is left behind.

use crate::{build, setup};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::sharing::Footprint;
use e2e::{Client, Daemon, Options};
use proto::api::Session;
use serde_json::json;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The debug build instead of the optimised one.
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        e2e::ground::missing(&[e2e::ground::Ground::Root]).is_none(),
        "the daemon's launcher makes namespaces and cgroups: run this as root"
    );
    step("set up and build");
    setup::for_demo()?;
    build::all(!args.debug, false)?;

    step("start a daemon of its own");
    let options = Options {
        binaries: build::directory(!args.debug),
        // Of the two agents, the one that `/invocations` speaks to.
        config: "default_runtime = \"echo\"\n".to_owned(),
        ..Options::default()
    };
    Daemon::with(options, |daemon| {
        println!("agentcored {} in {}", daemon.pid(), daemon.dir().display());
        let runtimes = deploy(daemon)?;
        invoke(daemon, &runtimes)?;
        isolation(daemon)?;
        step("stop everything");
        Ok(())
    })?;
    println!("stopped; no process, cgroup, mount or socket is left");
    Ok(())
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn cli(daemon: &Daemon, folder: &Path, words: &[&str]) -> anyhow::Result<String> {
    println!("$ agentcore {}", words.join(" "));
    let output = daemon
        .cli()
        .current_dir(folder)
        .args(words)
        .output()
        .context("start agentcore")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    ensure!(
        output.status.success(),
        "agentcore {} ended with {}: {}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// As a user would: copies of the examples, `agentcore launch` in each.
fn deploy(daemon: &Daemon) -> anyhow::Result<std::path::PathBuf> {
    step("deploy two agents");
    let folder = daemon.dir().join("agents");
    for name in ["echo", "streaming"] {
        let to = folder.join(name);
        std::fs::create_dir_all(&to)?;
        for entry in std::fs::read_dir(e2e::places::example(name))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        cli(daemon, &to, &["launch"])?;
    }
    Ok(folder)
}

fn invoke(daemon: &Daemon, folder: &Path) -> anyhow::Result<()> {
    step("invoke: the command");
    let answer = cli(
        daemon,
        &folder.join("echo"),
        &["invoke", r#"{"prompt": "Hello!"}"#],
    )?;
    ensure!(
        answer.contains("Hello!"),
        "the agent did not echo: {answer}"
    );

    step("invoke: curl, on the wire of `python my_agent.py`");
    let tcp = daemon.tcp()?;
    let e2e::http::Target::Tcp(address) = tcp.target else {
        anyhow::bail!("not a TCP address");
    };
    let url = format!("http://{address}/invocations");
    let words = [
        "-sS",
        "--fail-with-body",
        "-X",
        "POST",
        &url,
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"prompt": "Hello!"}"#,
    ];
    println!("$ curl {}", words.join(" "));
    let output = Command::new("curl")
        .args(words)
        .output()
        .context("start curl")?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{answer}");
    ensure!(
        output.status.success() && answer.contains("Hello!"),
        "curl: {}",
        output.status
    );

    step("invoke: streamed");
    let answer = cli(
        daemon,
        &folder.join("streaming"),
        &["invoke", "--stream", r#"{"prompt": "one two three"}"#],
    )?;
    ensure!(answer.contains("three"), "nothing was streamed: {answer}");
    Ok(())
}

/// Two sessions of one agent, compared from the host.
fn isolation(daemon: &Daemon) -> anyhow::Result<()> {
    step("two sessions of one agent, seen from the host");
    let client = daemon.client();
    let sessions = [started(&client, "first")?, started(&client, "second")?];
    let mut footprints = Vec::new();
    for session in &sessions {
        let pid = session.pid.context("the session has no pid")?;
        let base = session.uid_base.context("the session has no uids")?;
        // The agent's uid is the one that most of the session's processes but PID 1 have.
        let agent = e2e::host::children(pid)
            .into_iter()
            .find_map(|child| e2e::host::uid(child).ok())
            .unwrap_or(base);
        let footprint = Footprint::of(pid, agent)?;
        println!(
            "{}: PID 1 is {pid}, agent's uid {agent}, {} writable files\n  {}",
            session.id,
            footprint.files.len(),
            footprint
                .namespaces
                .iter()
                .map(|(kind, inode)| format!("{kind}:{inode}"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        ensure!(
            !footprint.files.is_empty(),
            "found no writable file: the comparison would say nothing"
        );
        let host = footprint.shared_with_host()?;
        ensure!(host.is_empty(), "shared with the host: {host:#?}");
        footprints.push(footprint);
    }
    let shared = footprints[0].shared(&footprints[1]);
    ensure!(shared.is_empty(), "the two sessions share: {shared:#?}");
    println!("they share no namespace, uid, cgroup, writable mount or writable file");
    for session in &sessions {
        client.stop(session.id.as_str())?;
    }
    Ok(())
}

fn started(client: &Client, hint: &str) -> anyhow::Result<Session> {
    let id = session_name(hint);
    let request = Request::post(
        "/runtimes/echo/invocations",
        json!({"prompt": hint}).to_string(),
    )
    .header("content-type", "application/json")
    .header(SESSION_HEADER, id.clone());
    client.send(request)?.expect(200)?;
    client.session(&id)
}
