//! Tasks as their users see them: `agentcore invoke --async`, `agentcore task …`, and the Python client. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Target;
use e2e::{Daemon, Options, Result, deploy, ground, places, puppet, wait};
use proto::api::{Task, TaskPage, TaskStatus};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};

/// Runs the command, wants exit code `code`, gives standard output and standard error.
fn expect(daemon: &Daemon, code: i32, words: &[&str]) -> anyhow::Result<(String, String)> {
    let out = daemon.cli().args(words).output()?;
    told(out, code).with_context(|| format!("agentcore {words:?}"))
}

fn told(out: Output, code: i32) -> anyhow::Result<(String, String)> {
    let text = String::from_utf8(out.stdout)?;
    let words = String::from_utf8(out.stderr)?;
    ensure!(
        out.status.code() == Some(code),
        "{}, expected {code}\n{text}{words}",
        out.status
    );
    Ok((text, words))
}

/// Submits a task that runs this Python, and gives its id.
fn submit(daemon: &Daemon, code: &str, more: &[&str]) -> anyhow::Result<String> {
    let payload = puppet::payload(code).to_string();
    let mut words = vec!["invoke", "--async", "-q", &payload];
    words.extend(more);
    let (out, _) = expect(daemon, 0, &words)?;
    Ok(out.trim_end().to_owned())
}

fn task(daemon: &Daemon, id: &str) -> anyhow::Result<Task> {
    daemon.client().get(&format!("/v1/tasks/{id}"))
}

fn awaited(daemon: &Daemon, id: &str, status: TaskStatus) -> anyhow::Result<Task> {
    wait::until(60, "the task's status", || {
        let task = task(daemon, id)?;
        ensure!(task.status == status || !task.status.is_final(), "{task:?}");
        Ok((task.status == status).then_some(task))
    })
}

fn with_puppet(options: Options, test: impl FnOnce(&mut Daemon) -> Result) -> Result {
    Daemon::with(options, |daemon| {
        puppet::deploy(&daemon.client(), "puppet", json!({}))?;
        test(daemon)
    })
}

/// Waits until the test has made this file in the session's scratch, through another invocation of the same session.
const HELD: &str = "
import os, time
while not os.path.exists('/tmp/go-on'):
    time.sleep(0.02)
";

fn let_go(daemon: &Daemon, id: &str) -> Result {
    let session = task(daemon, id)?.session_id;
    let code = "open('/tmp/go-on', 'w').close()\nanswer = 1";
    puppet::run(&daemon.client(), "puppet", session.as_str(), code)?;
    Ok(())
}

#[test]
fn a_task_from_its_submission_to_its_answer() -> Result {
    ground!(Daemon, Python);
    with_puppet(Options::quick(), |daemon| {
        let code = format!(
            "app.report_progress(0.5, 'half way', checkpoint={{'page': 1}}, tokens=7)\n{HELD}
print('said aloud', flush=True)
app.report_progress(0.9)
answer = {{'done': True}}"
        );
        let id = submit(daemon, &code, &[])?;
        let mut waiting = daemon
            .cli()
            .args(["task", "wait", &id])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut shown = BufReader::new(waiting.stderr.take().context("stderr")?);
        let mut line = String::new();
        while !line.contains("50% half way") {
            line.clear();
            ensure!(shown.read_line(&mut line)? > 0, "no progress was shown");
        }
        let running = task(daemon, &id)?;
        ensure!(running.status == TaskStatus::Running);
        let progress = running.progress.context("no progress")?;
        ensure!(
            progress
                == json!({"fraction": 0.5, "message": "half way", "checkpoint": {"page": 1}, "tokens": 7}),
            "{progress}"
        );
        expect(daemon, 4, &["task", "result", &id])?;
        expect(daemon, 124, &["task", "wait", &id, "--timeout", "0.2"])?;
        let (listed, _) = expect(daemon, 0, &["task", "list", "--status", "running"])?;
        ensure!(
            listed.contains(&id) && listed.contains("50% half way"),
            "{listed}"
        );
        let_go(daemon, &id)?;
        let mut rest = String::new();
        shown.read_to_string(&mut rest)?;
        let (answer, _) = told(waiting.wait_with_output()?, 0)?;
        ensure!(
            serde_json::from_str::<Value>(&answer)? == json!({"done": true}),
            "{answer}"
        );
        ensure!(!rest.contains('\u{1b}'), "{rest:?}");

        let done = task(daemon, &id)?;
        let progress = done.progress.context("no progress")?;
        ensure!(progress["fraction"] == 0.9, "{progress}");
        ensure!(
            progress["checkpoint"] == json!({"page": 1}),
            "it stays: {progress}"
        );
        ensure!(expect(daemon, 0, &["task", "result", &id])?.0 == answer);
        let (log, _) = expect(daemon, 0, &["task", "logs", &id])?;
        ensure!(log.contains("said aloud"), "{log}");
        ensure!(
            log.contains("::agentcore-progress:: "),
            "records stay in the log: {log}"
        );
        let (document, _) = expect(daemon, 0, &["--json", "task", "wait", &id])?;
        let document: Value = serde_json::from_str(&document)?;
        ensure!(document["status"] == "SUCCEEDED" && document["response"] == json!({"done": true}));
        let (got, _) = expect(daemon, 0, &["task", "get", &id])?;
        ensure!(serde_json::from_str::<Task>(&got)?.task_id.as_str() == id);
        Ok(())
    })
}

#[test]
fn a_program_of_any_language_reports_with_a_line() -> Result {
    ground!(Daemon, Python);
    with_puppet(Options::quick(), |daemon| {
        // As docs/tasks.md has it, without the task's id, and after output that has no line end.
        let code = r#"
import subprocess
line = """printf half-a-line; echo '::agentcore-progress:: {"fraction": 0.4, "message": "page 2 of 5"}'"""
subprocess.run(["sh", "-c", line], check=True)
answer = 1"#;
        let id = submit(daemon, code, &[])?;
        let (_, shown) = expect(daemon, 0, &["task", "wait", &id])?;
        ensure!(shown.contains("40% page 2 of 5"), "{shown}");
        let (log, _) = expect(daemon, 0, &["task", "logs", &id])?;
        ensure!(log.contains("half-a-line::agentcore-progress::"), "{log}");
        Ok(())
    })
}

#[test]
fn every_outcome_is_an_exit_code() -> Result {
    ground!(Daemon, Python);
    with_puppet(Options::quick(), |daemon| {
        let failed = submit(daemon, "raise ValueError('no luck')", &[])?;
        let (out, words) = expect(daemon, 1, &["task", "wait", &failed])?;
        ensure!(out.is_empty() && words.contains("FAILED"), "{out}{words}");
        let late = submit(daemon, HELD, &["--deadline", "1"])?;
        let (_, words) = expect(daemon, 124, &["task", "wait", &late])?;
        ensure!(words.contains("TIMED_OUT"), "{words}");
        let cancelled = submit(daemon, HELD, &[])?;
        awaited(daemon, &cancelled, TaskStatus::Running)?;
        expect(daemon, 0, &["task", "cancel", &cancelled])?;
        let (_, words) = expect(daemon, 1, &["task", "wait", &cancelled])?;
        ensure!(words.contains("CANCELLED"), "{words}");
        expect(daemon, 3, &["task", "wait", &format!("t{:025}", 7)])?;
        let (out, _) = expect(
            daemon,
            0,
            &["--json", "task", "list", "-a", "puppet", "-n", "0"],
        )?;
        let all: Vec<Task> = serde_json::from_str(&out)?;
        let mut outcomes: Vec<_> = all.iter().map(|task| task.status.as_str()).collect();
        outcomes.sort_unstable();
        ensure!(
            outcomes == ["CANCELLED", "FAILED", "TIMED_OUT"],
            "{outcomes:?}"
        );
        Ok(())
    })
}

#[test]
fn the_same_key_is_the_same_task() -> Result {
    ground!(Daemon, Python);
    with_puppet(Options::quick(), |daemon| {
        let session = session_name("keyed");
        let more = ["--idempotency-key", "order-7", "-s", &session];
        let first = submit(daemon, "answer = 1", &more)?;
        ensure!(submit(daemon, "answer = 1", &more)? == first);
        ensure!(submit(daemon, "answer = 1", &["-s", &session])? != first);
        let all: TaskPage = daemon.client().get("/v1/tasks")?;
        ensure!(all.items.len() == 2);
        ensure!(task(daemon, &first)?.session_id.as_str() == session);
        Ok(())
    })
}

#[test]
fn waiting_outlives_a_daemon_that_is_killed() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed();
    with_puppet(options, |daemon| {
        // Whether its invocation was kept or it had to be repeated is the tasks' own test.
        let code = format!("{HELD}\nanswer = 'survived'");
        let id = submit(daemon, &code, &["--retries", "1", "--backoff", "1"])?;
        awaited(daemon, &id, TaskStatus::Running)?;
        let waiting = daemon
            .cli()
            .args(["task", "wait", &id])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let endpoint = format!("unix:{}", daemon.socket().display());
        let client = calls(&endpoint, &["wait", &id])?;
        // Both have heard of it by now, or hear that nobody is there: then they would have ended.
        wait::until_true(60, "two followers", || Ok(followers(daemon)? >= 2))?;
        daemon.kill()?;
        daemon.restart()?;
        let_go(daemon, &id)?;
        let (out, words) = told(waiting.wait_with_output()?, 0)?;
        ensure!(
            out == "\"survived\"" && words.contains("away"),
            "{out}{words}"
        );
        told(client.wait_with_output()?, 0)?;
        // This daemon's sessions outlive it.
        expect(daemon, 0, &["session", "stop", "--all"])?;
        Ok(())
    })
}

/// Connections to the daemon's socket, by the kernel's table.
fn followers(daemon: &Daemon) -> anyhow::Result<usize> {
    let socket = daemon.socket().display().to_string();
    let table = std::fs::read_to_string("/proc/net/unix")?;
    // Connected (03) ones carry the listener's path at the daemon's end.
    let connected = table
        .lines()
        .filter(|line| line.ends_with(&socket) && line.split_whitespace().nth(5) == Some("03"));
    Ok(connected.count())
}

/// Starts the Python client's script.
fn calls(endpoint: &str, words: &[&str]) -> anyhow::Result<std::process::Child> {
    Ok(Command::new("python3")
        .arg(places::source().join("tests/clients/task_calls.py"))
        .args(words)
        .env("PYTHONPATH", places::source().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AGENTCORE_ENDPOINT", endpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

#[test]
fn the_python_client_over_the_socket_and_over_tcp() -> Result {
    ground!(Daemon, Python);
    with_puppet(Options::quick(), |daemon| {
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        for endpoint in [
            format!("unix:{}", daemon.socket().display()),
            format!("http://{address}"),
        ] {
            let child = calls(&endpoint, &["all"])?;
            told(child.wait_with_output()?, 0)?;
        }
        Ok(())
    })
}

#[test]
fn a_repeated_attempt_goes_on_from_the_last_checkpoint() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let folder = places::example("long_task");
        let source = std::fs::read_to_string(folder.join("my_agent.py"))?;
        // The example, killed once at a page of the test's choice.
        let fatal = r#"import os
_report = app.report_progress
def _report_and_die(fraction, message, checkpoint):
    _report(fraction, message, checkpoint=checkpoint)
    if checkpoint["page"] == 3:
        os._exit(9)
app.report_progress = _report_and_die

if __name__"#;
        let source = source.replacen("if __name__", fatal, 1);
        deploy::python(&client, "long_task", &source, json!({}))?;
        let words = [
            "invoke",
            "--async",
            "-q",
            "--retries",
            "1",
            "--backoff",
            "1",
            "{\"pages\": 5, \"seconds\": 0.05}",
        ];
        let (id, _) = expect(daemon, 0, &words)?;
        let (answer, shown) = expect(daemon, 0, &["task", "wait", id.trim_end()])?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(
            answer == json!({"pages": 5, "words": 1250, "attempt": 2, "went_on_from": 3}),
            "{answer}"
        );
        ensure!(shown.contains("(attempt 2)"), "{shown}");
        Ok(())
    })
}
