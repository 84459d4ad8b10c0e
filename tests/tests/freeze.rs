//! Sessions that an operator freezes and thaws: what stands still, what is refused, what goes on, and what a daemon finds that
//! comes back. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_aws_error, expect_problem, joined, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, host, puppet, wait};
use proto::api::{EndReason, FreezeCause, Phase, Session};
use serde_json::json;
use std::time::{Duration, Instant};

fn switch(client: &Client, id: &str, what: &str) -> anyhow::Result<Session> {
    let path = format!("/v1/sessions/{id}/{what}");
    client.send(Request::post(path, ""))?.expect(200)?.json()
}

/// CPU seconds of all of a session's processes.
fn cpu(session: &Session) -> anyhow::Result<f64> {
    let shim = session.pid.context("no pid")?;
    host::processes(shim)
        .into_iter()
        .map(host::cpu_seconds)
        .try_fold(0.0, |sum, one| Ok(sum + one?))
}

/// An agent that never rests, in a thread of its own.
const SPIN: &str = "import threading\n\
    kept['n'] = kept.get('n', 0) + 1\n\
    def spin():\n    \
        while True: kept['turns'] = kept.get('turns', 0) + 1\n\
    threading.Thread(target=spin, daemon=True).start()\n\
    answer = kept['n']";

#[test]
fn a_frozen_session_stands_still_refuses_calls_and_goes_on() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "cold", json!({}))?;
        let id = session_name("cold");
        let before = client.start("cold", &id, &puppet::payload(SPIN))?;
        wait::until_true(10, "it to spin", || Ok(cpu(&before)? > 0.1))?;
        let frozen = switch(&client, &id, "freeze?reason=looking%20at%20it")?;
        ensure!(frozen.phase == Phase::Frozen, "{frozen:?}");
        let how = frozen.frozen.as_ref().context("not said how")?;
        ensure!(
            how.causes == [FreezeCause::Operator] && how.reason.as_deref() == Some("looking at it"),
            "{how:?}"
        );
        let used = cpu(&before)?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(cpu(&before)? == used, "it used CPU while frozen");
        // Health checks would have failed three times by then.
        let patience = Instant::now();
        let invocation = Client::invocation("cold", &id, &puppet::payload("answer = 1"));
        let refused = client.send(invocation)?;
        expect_aws_error(refused, 409, "ConflictException", "looking at it")?;
        let refused = client.send(Client::invocation("cold", &id, &json!({})))?;
        expect_aws_error(refused, 409, "ConflictException", "agentcore session thaw")?;
        let exec = Request::post(
            format!("/v1/sessions/{id}/exec"),
            json!({"argv": ["true"]}).to_string(),
        )
        .header("connection", "upgrade")
        .header("upgrade", "agentcore-exec");
        expect_problem(client.send(exec)?, 409, "frozen")?;
        ensure!(
            patience.elapsed() < wait::seconds(5),
            "it waited before it refused"
        );
        std::thread::sleep(Duration::from_secs(5));
        let still = client.session(&id)?;
        ensure!(
            still.phase == Phase::Frozen && still.pid == before.pid,
            "{still:?}"
        );
        // Once more is the same.
        ensure!(switch(&client, &id, "freeze")?.phase == Phase::Frozen);
        let thawed = switch(&client, &id, "thaw")?;
        ensure!(
            thawed.phase == Phase::Ready && thawed.frozen.is_none(),
            "{thawed:?}"
        );
        ensure!(switch(&client, &id, "thaw")?.phase == Phase::Ready);
        let count = puppet::run(&client, "cold", &id, "answer = kept['n']")?;
        ensure!(count == json!(1), "its memory is lost: {count}");
        wait::until_true(10, "it to spin again", || Ok(cpu(&before)? > used + 0.1))?;
        let log = client.logs(&id)?;
        ensure!(
            log.contains("session frozen") && log.contains("session thawed"),
            "{log}"
        );
        client.stop(&id)?;
        let gone = client.send(Request::post(format!("/v1/sessions/{id}/freeze"), ""))?;
        expect_problem(gone, 404, &id)?;
        Ok(())
    })
}

#[test]
fn work_in_flight_waits_and_is_answered_afterwards() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "works", json!({}))?;
        let id = session_name("works");
        client.start("works", &id, &puppet::payload("answer = 1"))?;
        let code = "import time\nprint('begun', flush=True)\ntime.sleep(0.5)\nanswer = 'done'";
        let call = client.in_background("works", &id, &puppet::payload(code));
        wait::until_true(10, "the call to run", || {
            Ok(client.logs(&id)?.contains("begun"))
        })?;
        let frozen = switch(&client, &id, "freeze")?;
        ensure!(frozen.in_flight == 1, "{frozen:?}");
        std::thread::sleep(Duration::from_secs(1));
        ensure!(!call.is_finished(), "a frozen agent answered");
        switch(&client, &id, "thaw")?;
        let answer = joined(call)?.expect(200)?.text()?;
        ensure!(answer.contains("done"), "{answer}");
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn a_frozen_session_can_be_stopped_and_has_its_grace() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let source = "import signal, sys\n\
            signal.signal(signal.SIGTERM, lambda *_: (print('heard', flush=True), sys.exit(0)))\n";
        let source = format!("{source}{}", puppet::SOURCE);
        e2e::deploy::python(&client, "polite", &source, json!({}))?;
        let id = session_name("polite");
        client.start("polite", &id, &puppet::payload("answer = 1"))?;
        switch(&client, &id, "freeze")?;
        let ended = client.stop(&id)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        ensure!(ended.frozen.is_none(), "{ended:?}");
        let log = client.logs(ended.id.as_str())?;
        ensure!(log.contains("heard"), "its agent heard nothing: {log}");
        Ok(())
    })
}

#[test]
fn idle_time_stands_still_and_a_lifetime_does_not() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[defaults]\nidle_timeout = 4\nmax_lifetime = 12\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "clocks", json!({}))?;
        let (thaws, ages) = (session_name("thaws"), session_name("ages"));
        for id in [&thaws, &ages] {
            client.start("clocks", id, &puppet::payload("answer = 1"))?;
            switch(&client, id, "freeze")?;
        }
        std::thread::sleep(wait::seconds(5));
        for id in [&thaws, &ages] {
            let session = client.session(id)?;
            ensure!(
                session.phase == Phase::Frozen,
                "ended for idleness: {session:?}"
            );
        }
        switch(&client, &thaws, "thaw")?;
        puppet::run(&client, "clocks", &thaws, "answer = 1")?;
        let ended = client.ended(&ages, 30)?;
        ensure!(
            ended.end_reason == Some(EndReason::MaxLifetime),
            "{ended:?}"
        );
        let ended = client.ended(&thaws, 30)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        Ok(())
    })
}

/// Neither daemon nor shim counts the time in which it stood still, whichever of the two has to say how long it was idle.
#[test]
fn time_frozen_is_no_idle_time_for_the_next_daemon_either() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed().config("[defaults]\nfreeze_after = 0\nidle_timeout = 6\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "rests", json!({}))?;
        let id = session_name("rests");
        client.start("rests", &id, &puppet::payload("kept['n'] = 1; answer = 1"))?;
        for another_meanwhile in [false, true] {
            switch(&daemon.client(), &id, "freeze")?;
            if another_meanwhile {
                daemon.kill()?;
                daemon.restart()?;
            }
            std::thread::sleep(wait::seconds(8));
            switch(&daemon.client(), &id, "thaw")?;
            daemon.kill()?;
            daemon.restart()?;
            let count = puppet::run(&daemon.client(), "rests", &id, "answer = kept['n']")?;
            ensure!(count == json!(1), "{count}");
        }
        daemon.client().stop(&id)?;
        Ok(())
    })
}

#[test]
fn a_frozen_session_outlives_its_daemon_and_thaws_for_the_next() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "keeps", json!({}))?;
        let (kept, stopped) = (session_name("kept"), session_name("stopped"));
        let before = client.start("keeps", &kept, &puppet::payload(SPIN))?;
        client.start("keeps", &stopped, &puppet::payload("answer = 1"))?;
        let shim = before.pid.context("pid")?;
        let started = host::start_time(shim);
        switch(&client, &kept, "freeze?reason=overnight")?;
        switch(&client, &stopped, "freeze")?;
        let used = cpu(&before)?;
        for _ in 0..2 {
            daemon.kill()?;
            daemon.restart()?;
        }
        let client = daemon.client();
        let after = client.session(&kept)?;
        ensure!(
            after.phase == Phase::Frozen && after.pid == before.pid,
            "{after:?}"
        );
        let how = after.frozen.context("not said how")?;
        ensure!(how.reason.as_deref() == Some("overnight"), "{how:?}");
        ensure!(cpu(&before)? == used, "it ran while no daemon was there");
        let refused = client.send(Client::invocation("keeps", &kept, &json!({})))?;
        expect_aws_error(refused, 409, "ConflictException", "overnight")?;
        let thawed = switch(&client, &kept, "thaw")?;
        ensure!(thawed.phase == Phase::Ready, "{thawed:?}");
        let count = puppet::run(&client, "keeps", &kept, "answer = kept['n']")?;
        ensure!(count == json!(1), "{count}");
        ensure!(host::start_time(shim) == started);
        // Nothing of its first life is left: it freezes, outlives a daemon, and thaws once more.
        switch(&client, &kept, "freeze")?;
        switch(&client, &kept, "thaw")?;
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        ensure!(client.session(&kept)?.phase == Phase::Ready);
        client.stop(&kept)?;
        // One that nobody has thawed ends in order.
        let ended = client.stop(&stopped)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        Ok(())
    })
}

#[test]
fn the_command_freezes_and_thaws() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "told", json!({}))?;
        let id = session_name("told");
        client.start("told", &id, &puppet::payload("answer = 1"))?;
        let cli = |words: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
            let out = daemon.cli().args(words).output()?;
            let text = [out.stdout, out.stderr].concat();
            Ok((
                out.status.code(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        };
        let (code, text) = cli(&["session", "freeze", &id, "--reason", "a look"])?;
        ensure!(
            code == Some(0) && text.contains("frozen (by an operator)"),
            "{text}"
        );
        let (_, text) = cli(&["session", "list"])?;
        ensure!(text.contains("frozen"), "{text}");
        let (code, text) = cli(&["invoke", "{}", "-a", "told", "-s", &id])?;
        ensure!(
            code == Some(4) && text.contains("a look"),
            "{code:?} {text}"
        );
        let (code, text) = cli(&["session", "thaw", &id])?;
        ensure!(code == Some(0) && text.contains("ready"), "{text}");
        let (code, text) = cli(&[
            "session",
            "freeze",
            "nobody-of-this-name-is-there-at-all-1234",
        ])?;
        ensure!(code == Some(3), "{code:?} {text}");
        client.stop(&id)?;
        Ok(())
    })
}
