//! A daemon that dies at every step of a task's run: its outcome is one, its agent ran once, its answer is whole. Tier: root.

use anyhow::ensure;
use e2e::client::{Client, SESSION_HEADER, session_name};
use e2e::{Daemon, Options, Result, daemon, ground, task, wait};
use proto::api::{Task, TaskStatus};
use proto::ids::TaskId;
use serde_json::json;

/// Counts its runs, in the agent's memory; then a stream whose bytes are known.
const CODE: &str = "runs, task = kept.setdefault('runs', {}), headers['x-agentcore-task-id']\nruns[task] = runs.get(task, 0) + 1\nstream()\nfor n in range(30):\n  say(b'data: %d\\n\\n' % n); time.sleep(0.05)";

fn whole() -> String {
    (0..30).map(|n| format!("data: {n}\n\n")).collect()
}

/// How often the agent of a session has run a task.
fn runs(client: &Client, session: &str, id: &TaskId) -> anyhow::Result<u64> {
    let asked = json!({"code": "answer = kept.get('runs', {})"});
    let all = client.invoke("worker", session, &asked)?;
    Ok(all[id.as_str()].as_u64().unwrap_or(0))
}

/// The answer without the numbers that this daemon puts in.
fn answer(client: &Client, task: &Task) -> anyhow::Result<String> {
    let path = format!("/v1/tasks/{}/result", task.task_id);
    let request = e2e::http::Request::get(path).header("range", "bytes=0-");
    client.send(request)?.expect(206)?.text()
}

#[test]
fn whatever_step_a_daemon_dies_at_the_outcome_is_one() -> Result {
    ground!(Daemon, Python);
    let dir = daemon::new_dir()?;
    let fault = dir.join("fault");
    let options = Options {
        dev: false,
        ..Options::quick()
    };
    let options = options
        .faults()
        .env("AGENTCORED_FAIL_STEP", &format!("@{}", fault.display()));
    let outcome = Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("mine");
        // Its session is there, so that no step of a launch is between the task's.
        client.invoke("worker", &session, &json!({"code": "answer = 1"}))?;
        for (step, status, times) in [
            ("task.starting", TaskStatus::Succeeded, 1),
            ("task.running", TaskStatus::Lost, 0),
            ("task.sent", TaskStatus::Succeeded, 1),
            ("task.filed", TaskStatus::Succeeded, 1),
            ("task.answered", TaskStatus::Succeeded, 1),
            ("task.over", TaskStatus::Succeeded, 1),
        ] {
            std::fs::write(&fault, step)?;
            let client = daemon.client();
            let request = task::submission("worker", "", CODE).header(SESSION_HEADER, &session);
            let submitted: Task = client.send(request)?.expect(202)?.json()?;
            daemon.exited(60)?;
            std::fs::remove_file(&fault)?;
            daemon.restart()?;
            let client = daemon.client();
            let done = task::reaches(&client, &submitted, status)?;
            ensure!(done.attempts == 1, "{step}: {done:?}");
            if step == "task.sent" {
                // What is logged of a task is found by it.
                let field = format!("\"task_id\":\"{}\"", submitted.task_id);
                ensure!(daemon.log().contains(&field), "{}", daemon.log());
            }
            let ran = runs(&client, &session, &submitted.task_id)?;
            ensure!(ran == times, "{step}: it ran {ran} times");
            if status == TaskStatus::Succeeded {
                ensure!(answer(&client, &submitted)? == whole(), "{step}");
            }
            let finals = task::statuses(&client, &submitted)?;
            let ends = finals
                .iter()
                .filter(|name| *name == status.as_str())
                .count();
            ensure!(
                ends == 1 && finals.last().is_some_and(|last| last == status.as_str()),
                "{step}: {finals:?}"
            );
        }
        // With a retry, what is not known to have been seen is sent again, and says so.
        std::fs::write(&fault, "task.running")?;
        let client = daemon.client();
        let request = task::submission("worker", "retries=1&backoff=0", CODE);
        let submitted: Task = client
            .send(request.header(SESSION_HEADER, &session))?
            .expect(202)?
            .json()?;
        daemon.exited(60)?;
        std::fs::remove_file(&fault)?;
        daemon.restart()?;
        let client = daemon.client();
        let done = task::reaches(&client, &submitted, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 2, "{done:?}");
        Ok(())
    });
    std::fs::remove_dir_all(&dir)?;
    outcome
}

#[test]
fn tasks_go_on_through_kills_at_any_moment() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        ..Options::quick()
    };
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let mut all: Vec<Task> = Vec::new();
        for round in 0_u64..4 {
            let client = daemon.client();
            for _ in 0..4 {
                all.push(task::submit(&client, "worker", "", CODE)?);
            }
            // Another moment each time: while they start, while they run, while they end.
            std::thread::sleep(std::time::Duration::from_millis(150 + 600 * round));
            daemon.kill()?;
            daemon.restart()?;
        }
        let client = daemon.client();
        let mut lost = 0;
        for submitted in &all {
            let done = wait::until(90, "its outcome", || {
                let task = task::get(&client, submitted)?;
                Ok(task.status.is_final().then_some(task))
            })?;
            ensure!(done.attempts <= 1, "{done:?}");
            match done.status {
                TaskStatus::Succeeded => {
                    ensure!(answer(&client, submitted)? == whole(), "{done:?}")
                }
                // Between RUNNING and the order; or its session was still being made, which is not adopted.
                TaskStatus::Lost => lost += 1,
                _ => ensure!(false, "{done:?}"),
            }
        }
        ensure!(lost <= 2, "{lost} of {} were lost", all.len());
        Ok(())
    })
}
