//! Asynchronous tasks: on disk before they are answered, one outcome each, whatever happens to agent, session or daemon. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_problem, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, ground, task, wait};
use proto::api::{Phase, Task, TaskStatus};
use serde_json::{Value, json};

/// A daemon as it is installed; what it leaves when it is told to stop is nothing.
fn installed() -> Options {
    Options {
        dev: false,
        ..Options::quick()
    }
}

const FOR_EVER: &str = "time.sleep(600)";

fn cancel(client: &Client, task: &Task) -> anyhow::Result<Task> {
    client
        .send(Request::post(
            format!("/v1/tasks/{}/cancel", task.task_id),
            "",
        ))?
        .expect(200)?
        .json()
}

#[test]
fn a_task_runs_and_its_answer_is_kept() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("mine");
        let code = "answer = {h: headers.get(h) for h in ('x-agentcore-task-id', 'x-agentcore-task-attempt', 'x-agentcore-task-checkpoint', 'x-amzn-bedrock-agentcore-runtime-session-id', 'x-amzn-bedrock-agentcore-runtime-custom-a')}";
        let answer = client.send(
            task::submission("worker", "", code)
                .header(SESSION_HEADER, &session)
                .header("X-Amzn-Bedrock-AgentCore-Runtime-Custom-A", "mine")
                .header("X-Amzn-Bedrock-AgentCore-Runtime-User-Id", "ada"),
        )?;
        let place = answer.header("location").map(str::to_owned);
        let submitted: Task = answer.expect(202)?.json()?;
        ensure!(
            place == Some(format!("/v1/tasks/{}", submitted.task_id)),
            "{place:?}"
        );
        ensure!(submitted.status == TaskStatus::Queued, "{submitted:?}");
        ensure!(submitted.session_id.as_str() == session);
        let done = task::reaches(&client, &submitted, TaskStatus::Succeeded)?;
        ensure!(
            done.attempts == 1 && done.user_id.as_deref() == Some("ada"),
            "{done:?}"
        );
        ensure!(
            done.started_at.is_some() && done.finished_at.is_some() && done.expires_at.is_some(),
            "{done:?}"
        );
        let result = done.result.context("a result")?;
        ensure!(
            result.status == 200 && result.complete && result.bytes > 0,
            "{result:?}"
        );
        ensure!(
            result.content_type.as_deref() == Some("application/json"),
            "{result:?}"
        );
        let seen = task::result(&client, &submitted)?;
        ensure!(
            seen["x-agentcore-task-id"] == submitted.task_id.as_str(),
            "{seen}"
        );
        ensure!(
            seen["x-agentcore-task-attempt"] == "1"
                && seen["x-agentcore-task-checkpoint"].is_null(),
            "{seen}"
        );
        ensure!(
            seen["x-amzn-bedrock-agentcore-runtime-session-id"] == session.as_str(),
            "{seen}"
        );
        ensure!(
            seen["x-amzn-bedrock-agentcore-runtime-custom-a"] == "mine",
            "{seen}"
        );
        ensure!(
            task::statuses(&client, &submitted)? == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
        );
        // It ran in the caller's session, which stays.
        ensure!(client.session(&session)?.phase == Phase::Ready);
        // Large both ways, through files.
        let code = "answer = len(payload['filling']) * 'y'";
        let body = json!({ "code": code, "filling": "x".repeat(300_000) }).to_string();
        let large: Task = client
            .send(
                Request::post("/v1/runtimes/worker/tasks", body).header(SESSION_HEADER, &session),
            )?
            .expect(202)?
            .json()?;
        task::reaches(&client, &large, TaskStatus::Succeeded)?;
        let text = task::result(&client, &large)?;
        ensure!(text.as_str().is_some_and(|text| text.len() == 300_000));
        let rest = client.send(
            Request::get(format!("/v1/tasks/{}/result", large.task_id))
                .header("range", "bytes=299990-"),
        )?;
        ensure!(
            rest.header("content-range") == Some("bytes 299990-300001/300002"),
            "{:?}",
            rest.header("content-range")
        );
        ensure!(rest.expect(206)?.bytes()? == b"yyyyyyyyyyy\"");
        Ok(())
    })
}

#[test]
fn a_session_that_was_made_for_a_task_ends_with_it() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let done = task::submit(&client, "worker", "", "answer = 1")?;
        task::reaches(&client, &done, TaskStatus::Succeeded)?;
        client.ended(done.session_id.as_str(), 30)?;
        Ok(())
    })
}

#[test]
fn what_an_agent_does_is_what_its_task_becomes() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let ends: [(&str, &str, TaskStatus, &str); 6] = [
            (
                "",
                "status = 500\nanswer = 'my own words'",
                TaskStatus::Failed,
                "status 500: \"my own words\"",
            ),
            (
                "",
                "print('last words', flush=True); time.sleep(0.2); os._exit(3)",
                TaskStatus::Failed,
                "session ended",
            ),
            (
                "",
                "stream(); say(b'data: 1\\n\\n'); time.sleep(0.2); os._exit(3)",
                TaskStatus::Failed,
                "session ended before the answer was complete",
            ),
            ("deadline=2", FOR_EVER, TaskStatus::TimedOut, "deadline"),
            ("", "x = bytearray(10**9)", TaskStatus::Failed, "memory"),
            (
                "",
                "raise ValueError('not me')",
                TaskStatus::Failed,
                "closed",
            ),
        ];
        let mut tasks = Vec::new();
        for (query, code, status, reason) in ends {
            tasks.push((
                task::submit(&client, "worker", query, code)?,
                status,
                reason,
            ));
        }
        for (submitted, status, reason) in tasks {
            let done = task::reaches(&client, &submitted, status)?;
            let told = done.reason.clone().unwrap_or_default();
            ensure!(told.contains(reason), "{reason:?} is not in {done:?}");
            ensure!(done.attempts == 1, "{done:?}");
            let code = match status {
                TaskStatus::TimedOut => 504,
                _ => 424,
            };
            let asked = Request::get(format!("/v1/tasks/{}/result", done.task_id));
            let problem: Value = client.send(asked)?.expect(code)?.json()?;
            // As a call's error has it: what the agent answered.
            let own = match reason.starts_with("status 500") {
                true => (json!(500), json!("\"my own words\"")),
                false => (Value::Null, Value::Null),
            };
            ensure!(
                (&problem["agentStatus"], &problem["agentBody"]) == (&own.0, &own.1),
                "{problem}"
            );
        }
        // What is larger than the database takes is in a file; and it is told up to its bound.
        let large = "status = 503\nanswer = 'x' * 200_000";
        let large = task::submit(&client, "worker", "", large)?;
        let large = task::reaches(&client, &large, TaskStatus::Failed)?;
        let asked = Request::get(format!("/v1/tasks/{}/result", large.task_id));
        let problem: Value = client.send(asked)?.expect(424)?.json()?;
        let said = problem["agentBody"].as_str().unwrap_or_default();
        ensure!(
            problem["agentStatus"] == 503 && said.len() == 4096,
            "{problem}"
        );
        // The agent's session is not there any more for one whose start fails: that is the agent's failure too.
        e2e::deploy::python(
            &client,
            "broken",
            "import sys\nsys.exit('no such luck')",
            json!({}),
        )?;
        let done = task::submit(&client, "broken", "", "")?;
        let done = task::reaches(&client, &done, TaskStatus::Failed)?;
        ensure!(
            done.reason
                .as_deref()
                .is_some_and(|told| told.contains("could not be started")),
            "{done:?}"
        );
        Ok(())
    })
}

#[test]
fn a_key_means_one_task() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        task::deploy(&client, "other", json!({}))?;
        let keyed = |runtime: &str, query: &str, code: &str, key: &str| {
            task::submission(runtime, query, code).header("Idempotency-Key", key)
        };
        let first: Task = client
            .send(keyed("worker", "", "answer = 1", "k"))?
            .expect(202)?
            .json()?;
        let again: Task = client
            .send(keyed("worker", "", "answer = 1", "k"))?
            .expect(200)?
            .json()?;
        ensure!(first.task_id == again.task_id);
        for (query, code) in [("", "answer = 2"), ("deadline=99", "answer = 1")] {
            expect_problem(client.send(keyed("worker", query, code, "k"))?, 409, "")?;
        }
        let elsewhere: Task = client
            .send(keyed("other", "", "answer = 1", "k"))?
            .expect(202)?
            .json()?;
        ensure!(elsewhere.task_id != first.task_id);
        task::reaches(&client, &first, TaskStatus::Succeeded)?;
        // With a body that waits in a file.
        let large = format!("#{}\nanswer = 1", "x".repeat(100_000));
        let first: Task = client
            .send(keyed("worker", "", &large, "large"))?
            .expect(202)?
            .json()?;
        let again: Task = client
            .send(keyed("worker", "", &large, "large"))?
            .expect(200)?
            .json()?;
        ensure!(first.task_id == again.task_id);
        task::reaches(&client, &first, TaskStatus::Succeeded)?;
        wait::until_true(10, "no payload to be left in a file", || {
            Ok(std::fs::read_dir(daemon.state_dir().join("broker/tasks"))?
                .next()
                .is_none())
        })?;
        for bad in ["", "with space", &"x".repeat(256)] {
            expect_problem(
                client.send(keyed("worker", "", "answer = 1", bad))?,
                400,
                "Idempotency-Key",
            )?;
        }
        Ok(())
    })
}

#[test]
fn what_breaks_a_rule_is_refused_by_name() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        for (query, field) in [
            ("deadline=0", "deadline"),
            ("deadline=soon", "deadline"),
            ("deadline=99999d", "deadline"),
            ("retries=-1", "retries"),
            ("retries=101", "retries"),
            ("backoff=2h", "backoff"),
            ("callback=ftp://a/", "callback"),
            ("qualifier=%20", "qualifier"),
        ] {
            expect_problem(
                client.send(task::submission("worker", query, "answer = 1"))?,
                400,
                field,
            )?;
        }
        for (path, status, field) in [
            ("/v1/tasks?status=DONE", 400, "status"),
            ("/v1/tasks?runtime=-", 400, "runtime"),
            ("/v1/tasks?session=x", 400, "session"),
            ("/v1/tasks?maxResults=0", 400, "maxResults"),
            ("/v1/tasks/t", 404, ""),
            ("/v1/tasks/t0000000000000000000000000", 404, ""),
            ("/v1/tasks/t0000000000000000000000000/result", 404, ""),
            ("/v1/tasks/t0000000000000000000000000/events", 404, ""),
        ] {
            expect_problem(client.send(Request::get(path))?, status, field)?;
        }
        expect_problem(client.send(task::submission("nobody", "", "1"))?, 404, "")?;
        expect_problem(
            client.send(task::submission("worker", "qualifier=none", "1"))?,
            404,
            "",
        )?;
        ensure!(task::list(&client, "")?.items.is_empty());
        Ok(())
    })
}

#[test]
fn a_task_is_cancelled_wherever_it_is() -> Result {
    ground!(Daemon, Python);
    let options = installed().config("[tasks]\nconcurrency_per_runtime = 1");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("mine");
        let code = "stream(); say(b'data: 1\\n\\n')\ntry:\n  while True: time.sleep(0.1); say(b': \\n\\n')\nexcept OSError: kept['gone'] = True; raise";
        let running: Task = client
            .send(task::submission("worker", "", code).header(SESSION_HEADER, &session))?
            .expect(202)?
            .json()?;
        let waiting = task::submit(&client, "worker", "", "answer = 1")?;
        task::reaches(&client, &running, TaskStatus::Running)?;
        // Its place is taken.
        ensure!(task::get(&client, &waiting)?.status == TaskStatus::Queued);
        expect_problem(
            client.send(Request::get(format!(
                "/v1/tasks/{}/result",
                waiting.task_id
            )))?,
            409,
            "",
        )?;
        let cancelled = cancel(&client, &waiting)?;
        ensure!(
            cancelled.status == TaskStatus::Cancelled && cancelled.attempts == 0,
            "{cancelled:?}"
        );
        let cancelled = cancel(&client, &running)?;
        ensure!(
            cancelled.status == TaskStatus::Cancelled && cancelled.attempts == 1,
            "{cancelled:?}"
        );
        // Once more changes nothing.
        ensure!(cancel(&client, &running)?.finished_at == cancelled.finished_at);
        // The agent has felt it, its session goes on.
        wait::until_true(20, "the agent to feel it", || {
            let gone = client.invoke(
                "worker",
                &session,
                &json!({"code": "answer = kept.get('gone')"}),
            )?;
            Ok(gone == true)
        })?;
        ensure!(task::statuses(&client, &waiting)? == ["QUEUED", "CANCELLED"]);
        // Nor is one that is done.
        let done = task::submit(&client, "worker", "", "answer = 1")?;
        task::reaches(&client, &done, TaskStatus::Succeeded)?;
        ensure!(cancel(&client, &done)?.status == TaskStatus::Succeeded);
        // Whose session is stopped, and whose runtime is deleted.
        let stopped = task::submit(&client, "worker", "retries=3", FOR_EVER)?;
        let queued = task::submit(&client, "worker", "", "answer = 1")?;
        task::reaches(&client, &stopped, TaskStatus::Running)?;
        client
            .send(Request::new("DELETE", "/v1/runtimes/worker?wait=true"))?
            .expect(204)?;
        task::reaches(&client, &stopped, TaskStatus::Cancelled)?;
        let queued = task::reaches(&client, &queued, TaskStatus::Cancelled)?;
        ensure!(
            queued
                .reason
                .as_deref()
                .is_some_and(|why| why.contains("deleted")),
            "{queued:?}"
        );
        Ok(())
    })
}

#[test]
fn only_what_is_safe_to_repeat_is_tried_again() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("mine");
        let code = "kept['seen'] = kept.get('seen', []) + [headers['x-agentcore-task-attempt']]\nstatus = 500 if len(kept['seen']) < 3 else 200\nanswer = kept['seen']";
        let retried: Task = client
            .send(
                task::submission("worker", "retries=5&backoff=0", code)
                    .header(SESSION_HEADER, &session),
            )?
            .expect(202)?
            .json()?;
        let done = task::reaches(&client, &retried, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 3, "{done:?}");
        ensure!(task::result(&client, &retried)? == json!(["1", "2", "3"]));
        let once = task::submit(&client, "worker", "", "status = 500")?;
        ensure!(task::reaches(&client, &once, TaskStatus::Failed)?.attempts == 1);
        let used_up = task::submit(&client, "worker", "retries=1&backoff=0", "status = 503")?;
        ensure!(task::reaches(&client, &used_up, TaskStatus::Failed)?.attempts == 2);
        let waits = task::submit(&client, "worker", "retries=1&backoff=1h", "status = 503")?;
        let waits = wait::until(30, "its retry to be planned", || {
            let task = task::get(&client, &waits)?;
            Ok(task.next_attempt_at.is_some().then_some(task))
        })?;
        ensure!(
            waits.status == TaskStatus::Queued && waits.reason.is_some(),
            "{waits:?}"
        );
        ensure!(cancel(&client, &waits)?.status == TaskStatus::Cancelled);
        Ok(())
    })
}

#[test]
fn lists_are_filtered_and_paged() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "first", json!({}))?;
        task::deploy(&client, "second", json!({}))?;
        let session = session_name("mine");
        let mut mine = Vec::new();
        for n in 0..5 {
            let code = format!("answer = {n}");
            let request = task::submission("first", "", &code).header(SESSION_HEADER, &session);
            mine.push(client.send(request)?.expect(202)?.json::<Task>()?);
        }
        let other = task::submit(&client, "second", "", "status = 500")?;
        for task in &mine {
            task::reaches(&client, task, TaskStatus::Succeeded)?;
        }
        task::reaches(&client, &other, TaskStatus::Failed)?;
        let ids = |query: &str| -> anyhow::Result<Vec<String>> {
            let page = task::list(&client, query)?;
            Ok(page
                .items
                .iter()
                .map(|task| task.task_id.to_string())
                .collect())
        };
        let newest_first: Vec<String> = mine
            .iter()
            .rev()
            .map(|task| task.task_id.to_string())
            .collect();
        ensure!(ids("runtime=first")? == newest_first);
        ensure!(ids(&format!("session={session}&status=SUCCEEDED"))? == newest_first);
        ensure!(ids("status=FAILED,LOST")? == [other.task_id.to_string()]);
        ensure!(
            ids("status=RUNNING,QUEUED")?.is_empty()
                && ids("runtime=second&status=SUCCEEDED")?.is_empty()
        );
        let mut paged = Vec::new();
        let mut token = String::new();
        loop {
            let page = task::list(&client, &format!("runtime=first&maxResults=2{token}"))?;
            ensure!(page.items.len() <= 2);
            paged.extend(page.items.into_iter().map(|task| task.task_id.to_string()));
            match page.next_token {
                Some(next) => token = format!("&nextToken={next}"),
                None => break,
            }
        }
        ensure!(paged == newest_first);
        Ok(())
    })
}

#[test]
fn bounds_hold_and_say_which_they_are() -> Result {
    ground!(Daemon, Python);
    let options = installed().config(
        "[tasks]\nmax_queued = 2\nconcurrency = 1\nmax_result = \"100K\"\nmax_stored = \"2M\"\nkeep = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("mine");
        let running: Task = client
            .send(task::submission("worker", "", FOR_EVER).header(SESSION_HEADER, &session))?
            .expect(202)?
            .json()?;
        let waiting = task::submit(&client, "worker", "", "answer = 1")?;
        let refused = client.send(task::submission("worker", "", "answer = 1"))?;
        ensure!(refused.header("retry-after").is_some());
        let problem = expect_problem(refused, 429, "")?;
        ensure!(problem.detail.contains("tasks.max_queued"), "{problem:?}");
        cancel(&client, &running)?;
        task::reaches(&client, &waiting, TaskStatus::Succeeded)?;
        let large = task::submit(&client, "worker", "", "answer = 'x' * 200_000")?;
        let large = task::reaches(&client, &large, TaskStatus::Failed)?;
        ensure!(
            large
                .reason
                .as_deref()
                .is_some_and(|why| why.contains("tasks.max_result")),
            "{large:?}"
        );
        let body = json!({"code": "", "filling": "x".repeat(3_000_000)}).to_string();
        let refused = client.send(Request::post("/v1/runtimes/worker/tasks", body))?;
        let problem = expect_problem(refused, 507, "")?;
        ensure!(problem.detail.contains("tasks.max_stored"), "{problem:?}");
        // Forgotten in time, and there is room again.
        for task in [&running, &waiting, &large] {
            wait::until_true(40, "an old task to be forgotten", || {
                let answer = client.send(Request::get(format!("/v1/tasks/{}", task.task_id)))?;
                Ok(answer.status == 404)
            })?;
        }
        let left = std::fs::read_dir(daemon.state_dir().join("broker/tasks"))?.count();
        ensure!(left == 0, "{left} files are left");
        Ok(())
    })
}

#[test]
fn events_go_on_where_their_reader_was() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let submitted = task::submit(&client, "worker", "", "time.sleep(1); answer = 1")?;
        let path = format!("/v1/tasks/{}/events", submitted.task_id);
        let all = client.send(Request::get(&path))?;
        ensure!(all.header("content-type") == Some("text/event-stream"));
        let all = all.expect(200)?.text()?;
        ensure!(all.starts_with("id: 1\nevent: status\ndata: {"), "{all}");
        ensure!(all.contains("SUCCEEDED"), "{all}");
        let after = client
            .send(Request::get(&path).header("last-event-id", "2"))?
            .expect(200)?
            .text()?;
        ensure!(
            all.ends_with(&after) && after.starts_with("id: 3\n"),
            "{after}"
        );
        client
            .send(Request::get(&path).header("last-event-id", "4"))?
            .expect(204)?;
        expect_problem(
            client.send(Request::get(&path).header("last-event-id", "x"))?,
            400,
            "Last-Event-ID",
        )?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed_forgets_nothing_and_repeats_nothing() -> Result {
    ground!(Daemon, Python);
    let options = installed().config("[tasks]\nconcurrency_per_runtime = 2");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let marked = |n: u32| format!("print('ran {n}', flush=True); time.sleep(20); answer = {n}");
        let session = session_name("mine");
        let mut submitted = Vec::new();
        for (n, query) in [(0, ""), (1, "retries=1&backoff=0")] {
            let request =
                task::submission("worker", query, &marked(n)).header(SESSION_HEADER, &session);
            submitted.push(client.send(request)?.expect(202)?.json::<Task>()?);
        }
        let queued = task::submit(&client, "worker", "", "answer = 'later'")?;
        for task in &submitted {
            task::reaches(&client, task, TaskStatus::Running)?;
        }
        wait::until_true(20, "both to be at work", || {
            let log = client.logs(&session)?;
            Ok(log.contains("ran 0") && log.contains("ran 1"))
        })?;
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let first = task::get(&client, &submitted[0])?;
        ensure!(
            matches!(first.status, TaskStatus::Lost | TaskStatus::Running),
            "{first:?}"
        );
        let later = task::reaches(&client, &queued, TaskStatus::Succeeded)?;
        ensure!(later.attempts == 1, "{later:?}");
        let retried = task::reaches(&client, &submitted[1], TaskStatus::Succeeded)?;
        let log = client.logs(&session)?;
        let runs = |n: u32| log.matches(&format!("ran {n}")).count();
        ensure!(runs(0) == 1, "repeated: {log}");
        ensure!(
            runs(1) == usize::try_from(retried.attempts)?,
            "{retried:?}: {log}"
        );
        Ok(())
    })
}

#[test]
fn a_retry_is_told_what_the_attempt_before_it_reported() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let code = "if headers['x-agentcore-task-attempt'] == '1':\n  print('::agentcore-progress:: {\"checkpoint\": {\"page\": 7}}', flush=True); time.sleep(1.5)\n  print('::agentcore-progress:: {\"message\": \"Zürich\"}', flush=True); time.sleep(1.5)\n  status = 500\nelse:\n  answer = headers.get('x-agentcore-task-checkpoint')";
        let submitted = task::submit(&client, "worker", "retries=1&backoff=0", code)?;
        let seen = wait::until(30, "progress", || {
            Ok(task::get(&client, &submitted)?.progress)
        })?;
        ensure!(seen["checkpoint"]["page"] == 7, "{seen}");
        let done = task::reaches(&client, &submitted, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 2, "{done:?}");
        let told = task::result(&client, &submitted)?;
        let told: serde_json::Value = serde_json::from_str(told.as_str().context("a checkpoint")?)?;
        // A checkpoint stays until there is another one.
        ensure!(
            told == json!({"checkpoint": {"page": 7}, "message": "Zürich"}),
            "{told}"
        );
        let events = client
            .send(Request::get(format!(
                "/v1/tasks/{}/events",
                submitted.task_id
            )))?
            .expect(200)?
            .text()?;
        ensure!(events.contains("event: progress\n"), "{events}");
        Ok(())
    })
}

#[test]
fn a_task_may_take_longer_than_an_invocation() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        let short = json!({"lifecycle": {"invocation_timeout": 1}});
        task::deploy(&client, "worker", short)?;
        let submitted = task::submit(&client, "worker", "", "time.sleep(4); answer = 'late'")?;
        task::reaches(&client, &submitted, TaskStatus::Succeeded)?;
        ensure!(task::result(&client, &submitted)? == "late");
        Ok(())
    })
}
