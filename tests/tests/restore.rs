//! Sessions that outlive their daemon: it is killed, or stopped, or its launcher is, and the next one adopts them. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, host, puppet, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, Phase, Session};
use serde_json::json;
use std::process::Command;

/// A session's processes, each with its start time: what must be the same afterwards.
fn processes(session: &Session) -> anyhow::Result<Vec<(i32, Option<u64>)>> {
    let shim = session.pid.context("no pid")?;
    let mut all: Vec<_> = host::processes(shim)
        .into_iter()
        .map(|pid| (pid, host::start_time(pid)))
        .collect();
    all.sort_unstable();
    ensure!(all.len() >= 2, "shim and agent: {all:?}");
    Ok(all)
}

/// How a daemon goes away.
#[derive(Debug, Clone, Copy)]
enum Way {
    BrokerKilled,
    LauncherKilled,
    BothKilled,
    Told,
}

fn go(daemon: &mut Daemon, way: Way) -> Result {
    match way {
        Way::BrokerKilled => daemon.kill(),
        Way::LauncherKilled => {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            // The broker sees it and ends: the service manager starts both anew.
            let status = daemon.exited(20)?;
            ensure!(status.code() == Some(1), "{status}");
            Ok(())
        }
        Way::BothKilled => {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            // It may have noticed and gone already.
            daemon.kill().or_else(|_| daemon.exited(20).map(|_| ()))
        }
        Way::Told => {
            let status = daemon.terminate()?;
            ensure!(status.code() == Some(0), "{status}");
            Ok(())
        }
    }
}

/// Counts in the agent's memory.
fn count(client: &Client, runtime: &str, id: &str) -> anyhow::Result<u64> {
    let code = "kept['n'] = kept.get('n', 0) + 1\nprint('count', kept['n'], flush=True)\nanswer = kept['n']";
    let answer = puppet::run(client, runtime, id, code)?;
    answer.as_u64().context("a count")
}

#[test]
fn sessions_outlive_every_way_in_which_a_daemon_goes() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        puppet::deploy(&daemon.client(), "stays", json!({}))?;
        let id = session_name("stays");
        ensure!(count(&daemon.client(), "stays", &id)? == 1);
        let before = daemon.client().session(&id)?;
        let processes_before = processes(&before)?;
        // A newer version is served meanwhile; a session stays with its own.
        puppet::deploy(
            &daemon.client(),
            "stays",
            json!({"environment": {"NEWER": "1"}}),
        )?;
        let ways = [
            Way::BrokerKilled,
            Way::LauncherKilled,
            Way::BothKilled,
            Way::Told,
        ];
        for (round, way) in (2_u64..).zip(ways) {
            go(daemon, way)?;
            ensure!(
                processes(&before)? == processes_before,
                "{way:?}: its processes are others"
            );
            daemon.restart()?;
            let client = daemon.client();
            let after = client.session(&id)?;
            ensure!(
                (
                    &after.id,
                    after.pid,
                    after.uid_base,
                    after.version,
                    &after.owner,
                    &after.created_at
                ) == (
                    &before.id,
                    before.pid,
                    before.uid_base,
                    before.version,
                    &before.owner,
                    &before.created_at
                ),
                "{way:?}: {before:?} became {after:?}"
            );
            ensure!(after.phase == Phase::Ready, "{way:?}: {after:?}");
            ensure!(
                count(&client, "stays", &id)? == round,
                "{way:?}: memory lost"
            );
            ensure!(processes(&after)? == processes_before, "{way:?}");
            wait::until_true(10, "its log to go on", || {
                let log = client.logs(&id)?;
                Ok((1..=round).all(|n| log.contains(&format!("count {n}"))))
            })?;
        }
        let client = daemon.client();
        client.stop(&id)?;
        let ended = client.ended(&id, 20)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        ensure!(ended.usage.cpu_seconds > 0.0, "{ended:?}");
        ensure!(
            count(&client, "stays", &id)? == 1,
            "the next one of this id is new"
        );
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn clocks_and_states_go_on() -> Result {
    ground!(Daemon, Python);
    // The contract's least idle timeout is a minute; the operator's default may be shorter.
    let options = Options::installed().config("[defaults]\nidle_timeout = 8\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "idles", json!({}))?;
        puppet::deploy(&client, "works", json!({}))?;
        let (quiet, busy) = (session_name("quiet"), session_name("busy"));
        puppet::run(
            &client,
            "works",
            &busy,
            "kept['task'] = app.add_async_task('long')",
        )?;
        wait::until_true(10, "HealthyBusy", || {
            Ok(client.session(&busy)?.phase == Phase::Busy)
        })?;
        count(&client, "idles", &quiet)?;
        let before = client.session(&quiet)?;
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let restarted = client.info()?.started_at;
        let after = client.session(&quiet)?;
        // The same moment, as far as two clocks can tell; in any case not the restart's.
        ensure!(
            after.last_activity_at < restarted,
            "idle since {}, was {}, restarted {restarted}",
            after.last_activity_at,
            before.last_activity_at
        );
        let ended = client.ended(&quiet, 20)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        let still = client.session(&busy)?;
        ensure!(still.phase == Phase::Busy, "{still:?}");
        puppet::run(
            &client,
            "works",
            &busy,
            "app.complete_async_task(kept['task'])",
        )?;
        wait::until_true(20, "its work to end", || {
            Ok(client.session(&busy)?.phase == Phase::Ready)
        })?;
        client.stop(&busy)?;
        Ok(())
    })
}

#[test]
fn what_ended_while_nobody_looked_is_recorded_with_its_reason() -> Result {
    ground!(Daemon, Python, Command("renice"));
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "ends", json!({"resources": {"memory": "128M"}}))?;
        let (exits, starves, killed) = (
            session_name("exits"),
            session_name("starves"),
            session_name("killed"),
        );
        for id in [&exits, &killed] {
            puppet::run(&client, "ends", id, "answer = 1")?;
        }
        // It starves when its priority is changed, which can be done from outside and be seen from inside.
        let starve = "import os, threading, time\n\
             def later():\n    \
                 while os.getpriority(os.PRIO_PROCESS, os.getpid()) != 7: time.sleep(0.01)\n    \
                 kept['x'] = [bytearray(1 << 20) for _ in range(4096)]\n\
             threading.Thread(target=later, daemon=True).start()\n";
        puppet::run(&client, "ends", &starves, starve)?;
        let shim = |id: &str| client.session(id)?.pid.context("pid");
        let shims = [shim(&exits)?, shim(&starves)?, shim(&killed)?];
        let agent = |shim: i32| host::agent(shim).context("an agent");
        let (exiting, starving) = (agent(shims[0])?, agent(shims[1])?);
        daemon.kill()?;
        kill(Pid::from_raw(exiting), Signal::SIGTERM)?;
        let renice = ["-n", "7", "-p", &starving.to_string()];
        let reniced = Command::new("renice").args(renice).output()?;
        ensure!(reniced.status.success(), "{reniced:?}");
        kill(Pid::from_raw(shims[2]), Signal::SIGKILL)?;
        wait::until_true(30, "all to end", || {
            Ok(!shims.iter().any(|shim| host::alive(*shim)))
        })?;
        daemon.restart()?;
        let client = daemon.client();
        for (id, reason) in [
            (&exits, EndReason::AgentExited),
            (&starves, EndReason::OutOfMemory),
            (&killed, EndReason::ShimDied),
        ] {
            let ended = client.ended(id, 20)?;
            ensure!(ended.end_reason == Some(reason), "{reason:?}: {ended:?}");
        }
        Ok(())
    })
}

#[test]
fn a_stream_breaks_with_its_daemon_and_its_session_does_not() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "streams", json!({}))?;
        let id = session_name("streams");
        count(&client, "streams", &id)?;
        let before = processes(&client.session(&id)?)?;
        let code = "import time\ndef events():\n    for n in range(600):\n        yield {'n': n}\n        time.sleep(0.1)\nanswer = events()";
        let call = client.in_background("streams", &id, &puppet::payload(code));
        wait::until_true(10, "the stream to run", || {
            Ok(client.session(&id)?.in_flight == 1)
        })?;
        daemon.kill()?;
        let text = e2e::client::joined(call).and_then(e2e::http::Response::text);
        ensure!(
            text.is_err(),
            "a stream that was cut off looks complete: {text:?}"
        );
        daemon.restart()?;
        let client = daemon.client();
        let after = client.session(&id)?;
        ensure!(after.in_flight == 0, "{after:?}");
        ensure!(processes(&after)? == before);
        ensure!(count(&client, "streams", &id)? == 2);
        let health = client.send(Request::get("/healthz"))?;
        ensure!(health.status == 200);
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn forty_sessions_are_adopted_at_once_and_their_places_count() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed().config("[limits]\nmax_sessions = 41\nadmission_wait = 1\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "many", json!({"resources": {"memory": "64M"}}))?;
        let ids: Vec<String> = (0..40).map(|_| session_name("many")).collect();
        for id in &ids {
            count(&client, "many", id)?;
        }
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        ensure!(client.live_sessions()?.len() == 40);
        // One more is within the limit, two are not.
        let (last, over) = (session_name("last"), session_name("over"));
        count(&client, "many", &last)?;
        let refused = client.send(Client::invocation(
            "many",
            &over,
            &puppet::payload("answer = 1"),
        ))?;
        ensure!(refused.status == 429, "status {}", refused.status);
        for id in &ids {
            ensure!(count(&client, "many", id)? == 2);
            client.stop(id)?;
        }
        for id in &ids {
            client.ended(id, 30)?;
        }
        count(&client, "many", &over)?;
        for id in [&last, &over] {
            client.stop(id)?;
        }
        Ok(())
    })
}

#[test]
fn commands_end_with_their_daemon_and_the_next_ones_are_their_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "runs", json!({}))?;
        let id = session_name("runs");
        count(&client, "runs", &id)?;
        let shim = client.session(&id)?.pid.context("pid")?;
        let sleepers = || {
            let tree = host::processes(shim).into_iter();
            tree.filter(|pid| host::title(*pid).contains("sleep 3600"))
                .count()
        };
        let exec = |daemon: &Daemon, words: &[&str]| {
            let mut command = daemon.cli();
            command.args(["exec", "-s", &id, "--"]).args(words);
            command
        };
        let mut running = exec(daemon, &["/bin/sleep", "3600"]).spawn()?;
        wait::until_true(10, "the command to run", || Ok(sleepers() == 1))?;
        daemon.kill()?;
        ensure!(
            !running.wait()?.success(),
            "it looks as if it had ended well"
        );
        wait::until_true(10, "the command to end with its daemon", || {
            Ok(sleepers() == 0)
        })?;
        daemon.restart()?;
        for _ in 0..3 {
            let out = exec(daemon, &["/bin/echo", "own"]).output()?;
            ensure!(out.status.success() && out.stdout == b"own\n", "{out:?}");
        }
        let client = daemon.client();
        ensure!(count(&client, "runs", &id)? == 2);
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn a_session_that_was_being_stopped_is_not_adopted_as_if_it_were_not() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        // TERM never reaches it, so it takes its whole grace.
        let deaf = "import signal\n\
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n";
        let deaf = format!("{deaf}{}", puppet::SOURCE);
        e2e::deploy::python(&client, "deaf", &deaf, json!({}))?;
        let id = session_name("deaf");
        let before = client.start("deaf", &id, &puppet::payload("answer = 1"))?;
        // Answered once it takes no more work.
        let stop = Request::post("/runtimes/deaf/stopruntimesession", "{}");
        let stop = stop.header("x-amzn-bedrock-agentcore-runtime-session-id", &id);
        client.send(stop)?.expect(200)?;
        ensure!(client.session(&id)?.phase == Phase::Draining);
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        // A call waits for its end, and then begins a new one.
        let after = client.start("deaf", &id, &puppet::payload("answer = 1"))?;
        ensure!(
            after.pid != before.pid && after.id != before.id,
            "{after:?}"
        );
        let all = client.sessions("runtime=deaf")?;
        let first = all.iter().find(|session| session.id == before.id);
        let reason = first.and_then(|session| session.end_reason);
        ensure!(reason == Some(EndReason::Stopped), "{first:?}");
        client.stop(&id)?;
        client.ended(&id, 40)?;
        Ok(())
    })
}
