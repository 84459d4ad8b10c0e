//! `invoke --async` and `task …`.

use crate::fake::{Fake, NEW_SESSION, Stream, task};
use crate::ran::finished;
use crate::terminal::Terminal;
use proto::api::LogRecord;
use proto::shim::LogStream;
use serde_json::{Value, json};
use std::process::Stdio;

const ONE: &str = "t0000000000000000000000001";
const TWO: &str = "t0000000000000000000000002";

fn shop() -> Fake {
    let fake = Fake::start();
    fake.deployed("shop");
    fake
}

/// A shop with a task that runs.
fn running() -> Fake {
    let fake = shop();
    fake.state().tasks.push(task(1, "shop", "RUNNING"));
    fake
}

fn status(id: u64, status: &str) -> Value {
    json!({ "id": id, "at": "2026-01-01T00:00:01.000Z", "attempt": 1, "type": "status", "status": status })
}

fn progress(id: u64, record: &Value) -> Value {
    json!({ "id": id, "at": "2026-01-01T00:00:02.000Z", "attempt": 1, "type": "progress", "progress": record })
}

#[test]
fn a_task_is_submitted_and_its_id_is_the_output() {
    let fake = shop();
    let done = fake.run(&["invoke", "--async", "{\"prompt\": 1}"]).exits(0);
    assert_eq!(done.out, format!("{ONE}\n"));
    let done = done.says(&[
        NEW_SESSION,
        "2026-01-01T08:00:00.000Z",
        "agentcore task wait",
    ]);
    assert!(!done.err.contains("\u{1b}"));
    let seen = fake.last_seen("/v1/runtimes/shop/tasks");
    assert_eq!(
        (seen.query.as_str(), seen.body.as_ref()),
        ("", &b"{\"prompt\": 1}"[..])
    );
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("idempotency-key"), None);
    let quiet = fake.run(&["invoke", "--async", "1", "-q"]).exits(0);
    assert_eq!((quiet.out, quiet.err), (format!("{TWO}\n"), String::new()));
    let document = fake
        .run(&["invoke", "--async", "1", "--json"])
        .exits(0)
        .json();
    assert_eq!(document["status"], "QUEUED");
}

#[test]
fn every_wish_is_sent() {
    let fake = shop();
    let session = "s".repeat(33);
    fake.run(&[
        "invoke",
        "--async",
        "-",
        "--raw",
        "-a",
        "shop-AbCdEf1234",
        "-s",
        &session,
        "-u",
        "ann",
        "--deadline",
        "2h",
        "--callback",
        "https://a.test/x?y=z",
        "--retries",
        "3",
        "--backoff",
        "5",
        "--idempotency-key",
        "k 1",
    ])
    .exits(0);
    let seen = fake.last_seen("/v1/runtimes/shop/tasks");
    assert_eq!(
        seen.query,
        "deadline=7200&callback=https%3A%2F%2Fa.test%2Fx%3Fy%3Dz&retries=3&backoff=5"
    );
    assert_eq!(
        seen.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(
        seen.header("x-amzn-bedrock-agentcore-runtime-session-id"),
        Some(&*session)
    );
    assert_eq!(
        seen.header("x-amzn-bedrock-agentcore-runtime-user-id"),
        Some("ann")
    );
    assert_eq!(seen.header("idempotency-key"), Some("k 1"));
}

#[test]
fn what_only_a_task_has_is_no_flag_of_a_call() {
    let fake = shop();
    for flags in [
        &["--deadline", "1h"][..],
        &["--callback", "https://a.test/"],
        &["--retries", "1"],
        &["--idempotency-key", "k"],
        &["--async", "--stream"],
        &["--async", "--timeout", "5"],
        &["--async", "--backoff", "5"],
        &["--async", "--deadline", "soon"],
    ] {
        fake.run(&[&["invoke", "1"], flags].concat()).exits(2);
    }
    assert!(fake.state().seen.is_empty());
}

#[test]
fn waiting_shows_progress_and_prints_the_answer() {
    let fake = running();
    {
        let mut state = fake.state();
        let half = json!({ "fraction": 0.5, "message": "page 1\nof 2", "checkpoint": 1 });
        let events = vec![
            status(1, "RUNNING"),
            progress(2, &half),
            status(3, "SUCCEEDED"),
        ];
        state.streams.push_back(Stream::Ends(events, "SUCCEEDED"));
        state.result = Some(("application/json", "{\"a\":1}"));
    }
    let done = fake.run(&["task", "wait", ONE]).exits(0);
    assert_eq!(done.out, "{\"a\":1}");
    assert_eq!(done.err, "RUNNING\n50% page 1 of 2\nSUCCEEDED\n");
    // And once more for programs.
    fake.state()
        .streams
        .push_back(Stream::Ends(vec![], "SUCCEEDED"));
    fake.state().tasks[0]["result"] = json!({ "status": 200, "bytes": 7, "complete": true });
    let document = fake.run(&["task", "wait", ONE, "--json", "-q"]).exits(0);
    assert_eq!(document.err, "");
    let document = document.json();
    assert_eq!(
        (&document["status"], &document["response"]),
        (&json!("SUCCEEDED"), &json!({ "a": 1 }))
    );
}

#[test]
fn waiting_outlives_the_daemon() {
    let fake = running();
    {
        let mut state = fake.state();
        state.result = Some(("text/plain", "done"));
        let third = json!({ "message": "two" });
        state.streams.extend([
            Stream::Breaks(vec![
                status(1, "RUNNING"),
                progress(4, &json!({ "message": "one" })),
            ]),
            Stream::Refused(503),
            // Stopped in order: the stream ends, the task does not.
            Stream::Ends(vec![progress(5, &third)], "RUNNING"),
            Stream::Ends(vec![status(6, "SUCCEEDED")], "SUCCEEDED"),
        ]);
    }
    let done = fake.run(&["task", "wait", ONE]).exits(0);
    assert_eq!(done.out, "done");
    assert_eq!(
        done.err,
        "RUNNING\none\nthe daemon is away; waiting for it\ntwo\nSUCCEEDED\n"
    );
    let state = fake.state();
    let asked = state
        .seen
        .iter()
        .filter(|seen| seen.path.ends_with("/events"));
    let from: Vec<_> = asked
        .map(|seen| seen.header("last-event-id").map(str::to_owned))
        .collect();
    let four = || Some("4".to_owned());
    assert_eq!(from, [None, four(), four(), Some("5".to_owned())]);
}

#[test]
fn an_outcome_is_an_exit_code() {
    for (outcome, code) in [
        ("FAILED", 1),
        ("LOST", 1),
        ("CANCELLED", 1),
        ("TIMED_OUT", 124),
    ] {
        let fake = running();
        fake.state().tasks[0]["reason"] = json!("because");
        fake.state()
            .streams
            .push_back(Stream::Ends(vec![], outcome));
        let done = fake.run(&["task", "wait", ONE]).exits(code);
        assert_eq!(done.out, "");
        done.says(&[&format!("{outcome}: because")]);
    }
    let fake = running();
    fake.state()
        .streams
        .push_back(Stream::Waits(vec![status(1, "RUNNING")], "SUCCEEDED"));
    fake.run(&["task", "wait", ONE, "--timeout", "0.2"])
        .exits(124)
        .says(&["it goes on", "agentcore task cancel"]);
    fake.run(&["task", "wait", TWO])
        .exits(3)
        .says(&["no such task"]);
    fake.run(&["task", "wait", "../x"]).exits(2);
    // A daemon that was never there is not waited for.
    fake.run(&["task", "wait", ONE, "--endpoint", "unix:/nonexistent"])
        .exits(69);
}

#[test]
fn a_terminal_shows_a_bar() {
    let fake = running();
    let record = json!({ "fraction": 0.25, "message": "half\u{1b}[2J way" });
    let events = vec![status(1, "RUNNING"), progress(2, &record)];
    fake.state()
        .streams
        .push_back(Stream::Waits(events, "SUCCEEDED"));
    fake.state().result = Some(("text/plain", "done"));
    let terminal = Terminal::open(24, 120);
    let mut command = fake.command(&["task", "wait", ONE]);
    command.env("NO_COLOR", "1").env("TERM", "xterm");
    let child = terminal
        .hears(&mut command)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let shown = terminal.shows("half\u{fffd}[2J way");
    assert!(shown.contains("25%"), "{shown:?}");
    assert!(
        !shown.contains("\u{1b}[2m") && !shown.contains("\u{1b}[2J"),
        "{shown:?}"
    );
    fake.go_on.notify_one();
    assert_eq!(finished(child).exits(0).out, "done");
}

#[test]
fn tasks_are_listed_the_newest_of_them() {
    let fake = running();
    {
        let mut state = fake.state();
        state.page = 2;
        let mut second = task(2, "shop", "QUEUED");
        second["progress"] = json!({ "fraction": 0.4, "message": "hi" });
        let mut third = task(3, "other", "FAILED");
        third["reason"] = json!("the agent answered with status 500\nand more");
        state.tasks.extend([second, third]);
    }
    let done = fake.run(&["task", "list"]).exits(0);
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[2].contains("QUEUED") && lines[2].ends_with("40% hi"));
    assert!(lines[3].ends_with("the agent answered with status 500 and more"));
    let few = fake.run(&["task", "list", "-n", "2", "-q"]).exits(0);
    assert_eq!(few.out, format!("{ONE}\n{TWO}\n"));
    fake.run(&["task", "list", "-n", "2"])
        .exits(0)
        .says(&["there are more"]);
    let some = [
        "task",
        "list",
        "-a",
        "shop",
        "--status",
        "queued",
        "-s",
        NEW_SESSION,
        "--json",
    ];
    let some = fake.run(&some).exits(0).json();
    assert_eq!(some.as_array().map(Vec::len), Some(1));
    assert_eq!(some[0]["taskId"], TWO);
    fake.run(&["task", "list", "--status", "done"])
        .exits(2)
        .says(&["timed_out"]);
}

#[test]
fn tasks_are_shown_and_cancelled() {
    let fake = running();
    let shown = fake.run(&["task", "get", ONE]).exits(0).json();
    assert_eq!(shown["taskId"], ONE);
    let done = fake.run(&["task", "cancel", ONE, TWO]).exits(3);
    assert_eq!(done.out, format!("{ONE}: CANCELLED\n"));
    done.says(&["cannot cancel", TWO]);
    fake.run(&["task", "result", ONE])
        .exits(4)
        .says(&["not finished"]);
    fake.state().result = Some(("text/event-stream", "data: 1\n\n"));
    assert_eq!(
        fake.run(&["task", "result", ONE, "-f"]).exits(0).out,
        "data: 1\n\n"
    );
    assert_eq!(
        fake.last_seen("/v1/tasks/").path,
        format!("/v1/tasks/{ONE}")
    );
    let secret = fake.run(&["task", "secret", "-a", "shop"]).exits(0);
    assert_eq!(secret.out, "whsec_shop\n");
}

#[test]
fn a_tasks_log_is_its_sessions_while_it_ran() {
    let fake = running();
    fake.session("s700", "shop", "ready");
    {
        let mut state = fake.state();
        let task = &mut state.tasks[0];
        task["session"] = json!("s700");
        task["createdAt"] = json!("2026-01-01T01:00:00.000Z");
        task["startedAt"] = json!("2026-01-01T01:00:05.000Z");
        task["finishedAt"] = json!("2026-01-01T01:00:09.000Z");
        task["status"] = json!("SUCCEEDED");
        let line = |at: &str, text: &str| LogRecord {
            at: format!("2026-01-01T01:00:{at}Z"),
            stream: Some(LogStream::Stdout),
            text: text.to_owned(),
        };
        let lines = vec![
            line("01.000", "another's"),
            line("04.900", "begun"),
            line("08.000", "done"),
            line("10.000", "the next one's"),
        ];
        state.logs.insert("s700".to_owned(), lines);
    }
    assert_eq!(
        fake.run(&["task", "logs", ONE]).exits(0).out,
        "begun\ndone\n"
    );
    // One that was made for the task says why it did not start.
    fake.state().sessions[0]["createdAt"] = json!("2026-01-01T01:00:00.100Z");
    let own = fake.run(&["task", "logs", ONE]).exits(0).out;
    assert_eq!(own, "another's\nbegun\ndone\n");
    // Followed to the outcome.
    fake.state().tasks[0]["status"] = json!("RUNNING");
    fake.state()
        .streams
        .push_back(Stream::Ends(vec![], "SUCCEEDED"));
    let followed = fake.run(&["task", "logs", "-f", ONE]).exits(0).out;
    assert!(
        followed.starts_with("another's\nbegun\ndone\n"),
        "{followed}"
    );
}
