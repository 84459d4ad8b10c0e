//! A task of the `streaming` example outlives its daemon, however that goes away in the middle of it: the same agent goes on, and
//! its answer is fetched afterwards, whole. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, host, places, task};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{Task, TaskStatus};
use serde_json::json;

/// Enough of them that no daemon is killed too late.
const WORDS: usize = 400;

/// What the example says of its prompt, as the SDK frames it.
fn whole() -> String {
    let words = (0..WORDS).map(|n| format!("data: {{\"text\": \"w{n} \"}}\n\n"));
    let end = format!("data: {{\"done\": true, \"words\": {WORDS}}}\n\n");
    words.chain([end]).collect()
}

fn launch(daemon: &Daemon) -> Result {
    let folder = daemon.dir().join("agents/streaming");
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(places::example("streaming"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    let out = daemon.cli().current_dir(&folder).arg("launch").output()?;
    ensure!(
        out.status.success(),
        "launch: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// The answer so far, as the agent gave it: without the numbers of its events.
fn answer(daemon: &Daemon, task: &Task) -> anyhow::Result<String> {
    let path = format!("/v1/tasks/{}/result", task.task_id);
    let request = Request::get(path).header("range", "bytes=0-");
    daemon.client().send(request)?.expect(206)?.text()
}

#[test]
fn a_task_of_the_streaming_example_survives_its_daemon() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed();
    Daemon::with(options, |daemon| {
        launch(daemon)?;
        let prompt: Vec<String> = (0..WORDS).map(|n| format!("w{n}")).collect();
        let payload = json!({"prompt": prompt.join(" "), "delay": 0.05});
        let request = Request::post("/v1/runtimes/streaming/tasks", payload.to_string())
            .header("content-type", "application/json");
        let submitted: Task = daemon.client().send(request)?.expect(202)?.json()?;
        let begun = task::reaches(&daemon.client(), &submitted, TaskStatus::Running)?;
        let session = begun.session_id;
        let processes = |daemon: &Daemon| -> anyhow::Result<Vec<_>> {
            let shim = daemon.client().session(session.as_str())?.pid;
            let tree = host::processes(shim.context("no pid")?).into_iter();
            let mut all: Vec<_> = tree.map(|pid| (pid, host::start_time(pid))).collect();
            all.sort_unstable();
            Ok(all)
        };
        let before = processes(daemon)?;
        ensure!(before.len() >= 2, "shim and agent: {before:?}");
        for way in ["broker", "launcher", "both"] {
            if way != "broker" {
                kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            }
            match way {
                "launcher" => drop(daemon.exited(20)?),
                // It may have noticed, and gone already.
                "both" => daemon.kill().or_else(|_| daemon.exited(20).map(|_| ()))?,
                _ => daemon.kill()?,
            }
            daemon.restart()?;
            let now = task::get(&daemon.client(), &submitted)?;
            ensure!(now.status == TaskStatus::Running, "{way}: {now:?}");
            ensure!(
                processes(daemon)? == before,
                "{way}: its processes are others"
            );
        }
        let done = task::reaches(&daemon.client(), &submitted, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 1, "{done:?}");
        let answer = answer(daemon, &submitted)?;
        ensure!(answer == whole(), "{} bytes: {answer}", answer.len());
        ensure!(processes(daemon)? == before);
        // It outlives this test as well, if it is not told.
        daemon.client().stop(session.as_str())?;
        daemon.client().ended(session.as_str(), 20)?;
        Ok(())
    })
}
