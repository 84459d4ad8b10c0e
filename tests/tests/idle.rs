//! The idle ladder: who is frozen for idleness and who is not, what the next call finds, and what a daemon finds that comes
//! back. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, expect_aws_error, joined, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, deploy, ground, host, puppet, task, wait};
use proto::api::{EndReason, FreezeCause, Page, Phase, Session, UsageRecord};
use serde_json::json;
use std::time::{Duration, Instant};

/// A ladder fast enough for a test.
fn quick(freeze_after: u32) -> Options {
    Options::quick().config(&format!("[defaults]\nfreeze_after = {freeze_after}"))
}

fn asleep(session: &Session) -> bool {
    let idle = [FreezeCause::Idle];
    let frozen = session.frozen.as_ref();
    session.phase == Phase::Frozen && frozen.is_some_and(|frozen| frozen.causes == idle)
}

fn falls_asleep(client: &Client, id: &str) -> anyhow::Result<Session> {
    wait::until(30, "the session to be frozen for idleness", || {
        let session = client.session(id)?;
        Ok(asleep(&session).then_some(session))
    })
}

/// CPU seconds of all of a session's processes.
fn cpu(session: &Session) -> anyhow::Result<f64> {
    let shim = session.pid.context("no pid")?;
    let each = host::processes(shim).into_iter().map(host::cpu_seconds);
    each.sum()
}

/// Counts how often it is asked how it is.
const COUNTS_PINGS: &str = "
from bedrock_agentcore import BedrockAgentCoreApp, PingStatus
app = BedrockAgentCoreApp()
asked = []
@app.ping
def ping():
    asked.append(1)
    return PingStatus.HEALTHY
@app.entrypoint
def invoke(payload):
    return len(asked)
app.run()
";

#[test]
fn an_idle_session_costs_nothing_and_the_next_call_finds_it_as_it_was() -> Result {
    ground!(Daemon, Python);
    Daemon::with(quick(2), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "asked", COUNTS_PINGS, json!({}))?;
        let id = session_name("asked");
        let before = client.start("asked", &id, &json!({}))?;
        let began = Instant::now();
        let frozen = falls_asleep(&client, &id)?;
        ensure!(
            began.elapsed() > Duration::from_millis(1500),
            "frozen early"
        );
        ensure!(frozen.pid == before.pid, "{frozen:?}");
        let listed = daemon.cli().args(["session", "list"]).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        ensure!(listed.contains("frozen"), "{listed}");
        let usage = || -> anyhow::Result<UsageRecord> {
            let page: Page<UsageRecord> = client.get("/v1/usage?by=session")?;
            let mut all = page.items.into_iter();
            all.find(|one| one.id.as_ref().is_some_and(|of| *of == frozen.id))
                .context("no usage")
        };
        // Health checks would be due five times by then.
        let (used, told) = (cpu(&before)?, usage()?);
        std::thread::sleep(Duration::from_secs(5));
        ensure!(cpu(&before)? == used, "it used CPU while frozen");
        let after = usage()?;
        ensure!(
            after.used.cpu_seconds == told.used.cpu_seconds,
            "{told:?} then {after:?}"
        );
        // A call wakes it; its agent was asked nothing meanwhile, and is asked again.
        let asked = |id: &str| -> anyhow::Result<u64> {
            let answer = client.invoke("asked", id, &json!({}))?;
            answer.as_u64().context("a number")
        };
        let awake = Instant::now();
        let count = asked(&id)?;
        ensure!(awake.elapsed() < wait::seconds(2), "{:?}", awake.elapsed());
        let life = began.elapsed().as_secs();
        ensure!(
            count <= life - 3,
            "asked {count} times in {life} s, frozen for five"
        );
        wait::until_true(10, "health checks to go on", || Ok(asked(&id)? > count + 1))?;
        let log = client.logs(&id)?;
        ensure!(
            log.contains("session frozen") && log.contains("session thawed"),
            "{log}"
        );
        falls_asleep(&client, &id)?;
        let metrics = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
        let counted = metrics.lines().find(|line| {
            line.starts_with("agentcore_freezes_total") && line.contains("cause=\"idle\"")
        });
        ensure!(
            counted.is_some_and(|line| line.ends_with(" 2")),
            "{counted:?}"
        );
        // It hears that it ends, and ends for that.
        let ended = client.stop(&id)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        Ok(())
    })
}

/// Computes in a thread of its own, without saying so.
const SPIN: &str = "import threading\n\
    def spin():\n    \
        while not kept.get('stop'): pass\n\
    threading.Thread(target=spin, daemon=True).start()\n\
    answer = 1";

fn offer(path: &str, session: &str) -> Request {
    Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(SESSION_HEADER, session)
}

#[test]
fn nothing_that_is_in_use_or_computes_is_frozen() -> Result {
    ground!(Daemon, Python);
    Daemon::with(quick(1), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "puppet", json!({}))?;
        puppet::deploy(&client, "never", json!({"lifecycle": {"freeze_after": 0}}))?;
        deploy::agent(&client, "websocket", "talk", "agent.py", json!({}))?;
        task::deploy(&client, "tasks", json!({}))?;
        let names = [
            "works", "busy", "spins", "exec", "shell", "socket", "idle", "never",
        ];
        let [works, busy, spins, exec, shell, socket, idle, never] = names.map(session_name);
        client.start("puppet", &works, &puppet::payload("answer = 1"))?;
        let long = puppet::payload("import time; time.sleep(12); answer = 'done'");
        let call = client.in_background("puppet", &works, &long);
        let says = "kept['task'] = app.add_async_task('long'); answer = 1";
        client.start("puppet", &busy, &puppet::payload(says))?;
        client.start("puppet", &spins, &puppet::payload(SPIN))?;
        client.start("puppet", &exec, &puppet::payload("answer = 1"))?;
        let mut beside = daemon
            .cli()
            .args(["exec", "-s", &exec, "--", "sleep", "600"])
            .stdin(std::process::Stdio::null())
            .spawn()?;
        let typed = client.send(offer("/runtimes/puppet/ws/shells?shellId=a", &shell))?;
        let typed = typed.expect(101)?.upgraded();
        let talk = client.send(offer("/runtimes/talk/ws", &socket))?;
        let talk = talk.expect(101)?.upgraded();
        let work = task::submit(
            &client,
            "tasks",
            "",
            "import time; time.sleep(12); answer = 1",
        )?;
        client.start("puppet", &idle, &puppet::payload("answer = 1"))?;
        client.start("never", &never, &puppet::payload("answer = 1"))?;
        falls_asleep(&client, &idle)?;
        std::thread::sleep(Duration::from_secs(5));
        let asleep: Vec<_> = client.live_sessions()?.into_iter().filter(asleep).collect();
        ensure!(
            asleep.len() == 1 && asleep[0].session_id.as_str() == idle,
            "frozen: {asleep:?}"
        );
        // And when that is over, each of them is.
        let answer = joined(call)?.expect(200)?.text()?;
        ensure!(answer.contains("done"), "{answer}");
        task::reaches(&client, &work, proto::api::TaskStatus::Succeeded)?;
        puppet::run(&client, "puppet", &spins, "kept['stop'] = True")?;
        let done = "app.complete_async_task(kept['task'])";
        puppet::run(&client, "puppet", &busy, done)?;
        beside.kill()?;
        beside.wait()?;
        drop((typed, talk));
        for id in [&works, &busy, &spins, &exec, &socket] {
            falls_asleep(&client, id)?;
        }
        // A shell outlives its connection, and is in use as long as it is there.
        ensure!(client.session(&shell)?.phase == Phase::Busy);
        ensure!(client.session(&never)?.phase == Phase::Ready);
        Ok(())
    })
}

#[test]
fn its_idle_time_goes_on_while_it_is_frozen() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick()
        .config("[defaults]\nfreeze_after = 1\nidle_timeout = 8\nmax_lifetime = 600");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "idles", json!({}))?;
        let id = session_name("idles");
        client.start("idles", &id, &puppet::payload("answer = 1"))?;
        let idle = Instant::now();
        falls_asleep(&client, &id)?;
        let ended = client.ended(&id, 30)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        ensure!(
            idle.elapsed() > Duration::from_secs(7),
            "{:?}",
            idle.elapsed()
        );
        Ok(())
    })
}

#[test]
fn an_operator_holds_what_idleness_has_frozen() -> Result {
    ground!(Daemon, Python);
    Daemon::with(quick(1), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "held", json!({}))?;
        let id = session_name("held");
        client.start("held", &id, &puppet::payload("answer = 1"))?;
        falls_asleep(&client, &id)?;
        let switch = |what: &str| -> anyhow::Result<Session> {
            let path = format!("/v1/sessions/{id}/{what}");
            client.send(Request::post(path, ""))?.expect(200)?.json()
        };
        let held = switch("freeze?reason=look")?;
        let causes = held.frozen.context("frozen")?.causes;
        ensure!(causes == [FreezeCause::Operator], "{causes:?}");
        let call = || Client::invocation("held", &id, &puppet::payload("answer = 2"));
        let refused = client.send(call())?;
        expect_aws_error(refused, 409, "ConflictException", "look")?;
        let thawed = switch("thaw")?;
        ensure!(thawed.phase == Phase::Ready, "{thawed:?}");
        falls_asleep(&client, &id)?;
        client.send(call())?.expect(200)?;
        // An operator's thaw is a reason to run, too.
        falls_asleep(&client, &id)?;
        ensure!(switch("thaw")?.phase == Phase::Ready);
        Ok(())
    })
}

#[test]
fn a_daemon_that_comes_back_finds_it_asleep_and_a_call_wakes_it() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        end_sessions: false,
        ..quick(1)
    };
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "keeps", json!({}))?;
        let (woken, stopped) = (session_name("woken"), session_name("stopped"));
        for id in [&woken, &stopped] {
            client.start("keeps", id, &puppet::payload("kept['n'] = 7; answer = 1"))?;
        }
        let before = falls_asleep(&client, &woken)?;
        falls_asleep(&client, &stopped)?;
        let used = cpu(&before)?;
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let after = client.session(&woken)?;
        ensure!(asleep(&after) && after.pid == before.pid, "{after:?}");
        ensure!(cpu(&before)? == used, "it ran while no daemon was there");
        let kept = puppet::run(&client, "keeps", &woken, "answer = kept['n']")?;
        ensure!(kept == json!(7), "{kept}");
        falls_asleep(&client, &woken)?;
        client.stop(&woken)?;
        let ended = client.stop(&stopped)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        Ok(())
    })
}

/// How long it was idle is not told by the wall clock, which may be set while no daemon is there to see it.
#[test]
fn a_clock_that_is_set_while_no_daemon_is_there_ends_nobody() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed().config("[defaults]\nfreeze_after = 1\nidle_timeout = 12\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "keeps", json!({}))?;
        let id = session_name("keeps");
        // No idle time is believed beyond a session's age.
        let works = "import time\ntime.sleep(13)\nkept['n'] = 7\nanswer = 1";
        client.start("keeps", &id, &puppet::payload(works))?;
        falls_asleep(&client, &id)?;
        daemon.kill()?;
        daemon.tamper("UPDATE sessions SET frozen_at = frozen_at - 3600000 WHERE frozen_at > 0")?;
        daemon.restart()?;
        let client = daemon.client();
        let kept = puppet::run(&client, "keeps", &id, "answer = kept['n']")?;
        ensure!(kept == json!(7), "{kept}");
        client.stop(&id)?;
        Ok(())
    })
}

/// Agents end just as they are being frozen; others as they are thawed, by a call, while somebody stops them.
#[test]
fn ends_that_meet_a_freeze_are_ends() -> Result {
    ground!(Daemon, Python);
    Daemon::with(quick(1), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "ends", json!({"fork": "off"}))?;
        let mut ids = Vec::new();
        for n in 0..20 {
            // Its clock goes on while it is frozen: what comes late comes with the thaw.
            let delay = 0.9 + 0.1 * f64::from(n);
            let ends = format!(
                "import os, threading\nthreading.Timer({delay}, os._exit, [3]).start()\nanswer = 1"
            );
            let id = session_name(&format!("ends{n}"));
            let session = client.start("ends", &id, &puppet::payload(&ends))?;
            ids.push((id, session.id));
        }
        let (mut ended, mut slept) = (0, 0);
        for (id, ours) in &ids {
            let what = "it to have ended or to be frozen";
            let is_over = wait::until(30, what, || {
                let session = client.session(ours.as_str())?;
                let over = session.phase == Phase::Ended;
                Ok((over || asleep(&session)).then_some(over))
            })?;
            if is_over {
                ended += 1;
                continue;
            }
            slept += 1;
            let call = client.in_background("ends", id, &puppet::payload("answer = 2"));
            let stopped = client.send(Request::new("DELETE", format!("/v1/sessions/{ours}")))?;
            ensure!(
                [200, 202, 204, 404, 409].contains(&stopped.status),
                "a stop was told {}",
                stopped.status
            );
            // Of the one that ends, or of the next one of its name.
            let answer = joined(call)?;
            ensure!(
                [200, 409, 424].contains(&answer.status),
                "a call was told {}",
                answer.status
            );
        }
        println!("{ended} ended by themselves, {slept} were frozen");
        ensure!(slept > 0, "none was frozen");
        for (_, ours) in &ids {
            let session = client.ended(ours.as_str(), 30)?;
            let reasons = [Some(EndReason::AgentExited), Some(EndReason::Stopped)];
            ensure!(reasons.contains(&session.end_reason), "{session:?}");
        }
        Ok(())
    })
}

/// Calls come while it is frozen, just as it is being frozen, and just before: none is lost, and none is told of it.
#[test]
fn calls_that_meet_a_freeze_are_answered() -> Result {
    ground!(Daemon, Python);
    Daemon::with(quick(1), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "meets", json!({}))?;
        let callers: Vec<_> = (0..12_u64)
            .map(|number| {
                let client = daemon.client();
                std::thread::spawn(move || -> anyhow::Result<u64> {
                    let id = session_name("meets");
                    let count = puppet::payload(puppet::COUNT);
                    for call in 1..=8 {
                        let answer = client.invoke("meets", &id, &count)?;
                        ensure!(answer == json!(call), "call {call}: {answer}");
                        // Frozen after some 1.5 to 2.5 s.
                        std::thread::sleep(Duration::from_millis(
                            1300 + (number * 97 + call * 131) % 1200,
                        ));
                    }
                    Ok(1)
                })
            })
            .collect();
        for caller in callers {
            joined(caller)?;
        }
        let metrics = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
        let freezes: u64 = metrics
            .lines()
            .find_map(|line| line.strip_prefix("agentcore_freezes_total{cause=\"idle\"} "))
            .context("no freezes")?
            .parse()?;
        println!("{freezes} freezes under 96 calls");
        ensure!(freezes >= 12, "{freezes}");
        Ok(())
    })
}
