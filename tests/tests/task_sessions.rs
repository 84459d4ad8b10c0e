//! Sessions of tasks over the loss of their daemon: those that were made for one end with it, frozen ones keep theirs, and turns
//! stay turns. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, daemon, ground, puppet, task, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, Phase, Session, Task, TaskStatus};
use serde_json::{Value, json};

fn switch(client: &Client, id: &str, what: &str) -> anyhow::Result<Session> {
    let path = format!("/v1/sessions/{id}/{what}");
    client.send(Request::post(path, ""))?.expect(200)?.json()
}

fn submit_in(client: &Client, runtime: &str, session: &str, code: &str) -> anyhow::Result<Task> {
    let request = task::submission(runtime, "", code).header(SESSION_HEADER, session);
    client.send(request)?.expect(202)?.json()
}

/// Waits until the agent of a session has printed this.
fn says(client: &Client, session: &str, word: &str) -> Result {
    wait::until_true(20, word, || {
        Ok(client.logs(session).is_ok_and(|log| log.contains(word)))
    })
}

#[test]
fn a_session_that_was_made_for_a_task_ends_with_it_whenever_its_daemon_dies() -> Result {
    ground!(Daemon, Python);
    let dir = daemon::new_dir()?;
    let fault = dir.join("fault");
    let options = Options::installed()
        .faults()
        .env("AGENTCORED_FAIL_STEP", &format!("@{}", fault.display()));
    let outcome = Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        puppet::deploy(&client, "workson", json!({}))?;
        // Ends at this step.
        let dies = |daemon: &mut Daemon, step: &str, request: Request| -> anyhow::Result<Task> {
            std::fs::write(&fault, step)?;
            let submitted = daemon.client().send(request)?.expect(202)?.json()?;
            daemon.exited(60)?;
            std::fs::remove_file(&fault)?;
            daemon.restart()?;
            Ok(submitted)
        };
        // An agent that goes on working by itself is left to it.
        let code = "app.add_async_task('long')\nanswer = 1";
        let request = Request::post(
            "/v1/runtimes/workson/tasks",
            puppet::payload(code).to_string(),
        );
        let request = request.header("content-type", "application/json");
        let busy = dies(daemon, "task.over", request)?;
        for (step, status) in [
            ("task.running", TaskStatus::Lost),
            ("task.answered", TaskStatus::Succeeded),
            ("task.over", TaskStatus::Succeeded),
        ] {
            let request = task::submission("worker", "", "answer = 1");
            let submitted = dies(daemon, step, request)?;
            let client = daemon.client();
            task::reaches(&client, &submitted, status)?;
            let ended = client.ended(submitted.session_id.as_str(), 20);
            let ended = ended.with_context(|| format!("{step}: its session stays"))?;
            ensure!(
                ended.end_reason == Some(EndReason::Idle),
                "{step}: {ended:?}"
            );
        }
        let client = daemon.client();
        let still = client.session(busy.session_id.as_str())?;
        ensure!(still.phase == Phase::Busy, "{still:?}");
        client.stop(busy.session_id.as_str())?;
        Ok(())
    });
    std::fs::remove_dir_all(&dir)?;
    outcome
}

#[test]
fn a_session_that_was_being_made_for_a_task_which_is_cancelled_ends() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        let slow = format!("import time\ntime.sleep(3)\n{}", task::SOURCE);
        e2e::deploy::python(&client, "slow", &slow, json!({}))?;
        let submitted = task::submit(&client, "slow", "", "answer = 1")?;
        wait::until_true(10, "its session to start", || {
            Ok(client
                .session(submitted.session_id.as_str())
                .is_ok_and(|session| session.phase == Phase::Starting))
        })?;
        let cancel = format!("/v1/tasks/{}/cancel", submitted.task_id);
        client.send(Request::post(cancel, ""))?.expect(200)?;
        let ended = client.ended(submitted.session_id.as_str(), 20)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        Ok(())
    })
}

/// Counts its runs, in the agent's memory; then a stream whose bytes are known.
const STREAM: &str = "kept['runs'] = kept.get('runs', 0) + 1\nprint('begun', flush=True)\nstream()\nfor n in range(60):\n  say(b'data: %d\\n\\n' % n); time.sleep(0.05)";

#[test]
fn tasks_in_frozen_sessions_outlive_daemons_and_go_on_when_they_thaw() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let mine = session_name("mine");
        let goes_on = submit_in(&client, "worker", &mine, STREAM)?;
        let cancelled = task::submit(&client, "worker", "", STREAM)?;
        let dies = task::submit(&client, "worker", "", STREAM)?;
        let session = |task: &Task| task.session_id.as_str().to_owned();
        let freeze = |one: &Task| -> Result {
            says(&client, &session(one), "begun")?;
            let frozen = switch(&client, &session(one), "freeze")?;
            ensure!(
                frozen.phase == Phase::Frozen && frozen.in_flight == 1,
                "{frozen:?}"
            );
            Ok(())
        };
        for one in [&goes_on, &cancelled, &dies] {
            freeze(one)?;
        }
        let late = task::submit(&client, "worker", "deadline=20", STREAM)?;
        freeze(&late)?;
        for _ in 0..2 {
            daemon.kill()?;
            daemon.restart()?;
        }
        let client = daemon.client();
        for one in [&goes_on, &cancelled, &dies] {
            let now = task::get(&client, one)?;
            ensure!(now.status == TaskStatus::Running, "{now:?}");
            let now = client.session(&session(one))?;
            ensure!(now.phase == Phase::Frozen, "{now:?}");
        }
        // It goes on where it was: the same attempt of the same agent.
        switch(&client, &mine, "thaw")?;
        let done = task::reaches(&client, &goes_on, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 1, "{done:?}");
        let request = Request::get(format!("/v1/tasks/{}/result", done.task_id));
        let request = request.header("range", "bytes=0-");
        let answer = client.send(request)?.expect(206)?.text()?;
        let whole: String = (0..60).map(|n| format!("data: {n}\n\n")).collect();
        ensure!(answer == whole, "{answer}");
        let runs = client.invoke("worker", &mine, &json!({"code": "answer = kept['runs']"}))?;
        ensure!(runs == 1, "it ran {runs} times");
        // One is ended without being thawed, and its session afterwards, because it was made for it.
        let cancel = format!("/v1/tasks/{}/cancel", cancelled.task_id);
        let row: Task = client
            .send(Request::post(cancel, ""))?
            .expect(200)?
            .json()?;
        ensure!(row.status == TaskStatus::Cancelled, "{row:?}");
        // One has nobody any more.
        let shim = client.session(&session(&dies))?.pid.context("pid")?;
        kill(Pid::from_raw(shim), Signal::SIGKILL)?;
        let lost = task::reaches(&client, &dies, TaskStatus::Lost)?;
        ensure!(lost.attempts == 1, "{lost:?}");
        // A deadline is one, whether or not anybody thaws it.
        task::reaches(&client, &late, TaskStatus::TimedOut)?;
        for one in [&cancelled, &late] {
            let held = client.session(&session(one))?;
            ensure!(held.phase == Phase::Frozen, "{held:?}");
            switch(&client, &session(one), "thaw")?;
            let ended = client.ended(&session(one), 20)?;
            ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        }
        client.stop(&mine)?;
        Ok(())
    })
}

#[test]
fn turns_stay_turns_and_idle_clocks_wait_for_work_that_was_adopted() -> Result {
    ground!(Daemon, Python);
    // Shorter than the work, so that only that it goes on keeps its session.
    let options = Options::installed().config("[defaults]\nidle_timeout = 3\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        for kind in ["serial", "reject"] {
            task::deploy(&client, kind, json!({"concurrency": kind}))?;
        }
        let sessions = [session_name("serial"), session_name("reject")];
        let [serial, reject] = &sessions;
        let work = "order = kept.setdefault('order', [])\norder.append('task')\nprint('begun', flush=True)\ntime.sleep(9)\norder.append('done')";
        let mut tasks = Vec::new();
        for (kind, session) in [("serial", serial), ("reject", reject)] {
            tasks.push(submit_in(&client, kind, session, work)?);
        }
        for session in &sessions {
            says(&client, session, "begun")?;
        }
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let call = json!({"code": "kept['order'].append('call'); answer = kept['order']"});
        let refused = client.send(Client::invocation("reject", reject, &call))?;
        expect_aws_error(
            refused,
            409,
            "ConflictException",
            "concurrency = \"reject\"",
        )?;
        let order = client.invoke("serial", serial, &call)?;
        ensure!(
            order == json!(["task", "done", "call"]),
            "it ran beside it: {order}"
        );
        for one in &tasks {
            let done = task::reaches(&client, one, TaskStatus::Succeeded)?;
            ensure!(done.attempts == 1, "{done:?}");
        }
        // It has its turn back.
        let order: Value = client.invoke("reject", reject, &call)?;
        ensure!(order == json!(["task", "done", "call"]), "{order}");
        for session in &sessions {
            let ended = client.ended(session, 20)?;
            ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        }
        Ok(())
    })
}
