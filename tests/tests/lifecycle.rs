//! From the first answer to the end of a session, whatever the agent does. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, joined, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, leaks, wait};
use proto::api::{EndReason, Phase};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_session_idle_for_its_timeout_ends_and_activity_defers_it() -> Result {
    ground!(Daemon, Python);
    // The contract's least idle timeout is a minute; the operator's default may be shorter.
    let options = Options::quick().config("[defaults]\nidle_timeout = 3");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let idle = 3;
        chaos::deploy(&client, "idle", "sdk", json!({}))?;
        let before = leaks::Snapshot::steady(daemon)?;
        // Used once a second for longer than the timeout.
        let used = session_name("used");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2 * idle) {
            client.invoke("idle", &used, &json!({"do": "echo"}))?;
            std::thread::sleep(Duration::from_secs(1));
        }
        // HealthyBusy is activity, however long nobody calls.
        let busy = session_name("busy");
        client.invoke("idle", &busy, &json!({"do": "busy"}))?;
        // So is a call in flight that says nothing.
        let silent = session_name("silent");
        let call = client.in_background(
            "idle",
            &silent,
            &json!({"do": "sleep", "seconds": 2 * idle}),
        );
        let ended = client.ended(&used, 3 * idle)?;
        assert_eq!(ended.end_reason, Some(EndReason::Idle));
        joined(call)?.expect(200)?;
        let still = client.session(&busy)?;
        ensure!(
            matches!(still.phase, Phase::Busy),
            "HealthyBusy ended by idleness: {still:?}"
        );
        client.invoke("idle", &busy, &json!({"do": "busy", "on": false}))?;
        for id in [&busy, &silent] {
            assert_eq!(
                client.ended(id, 4 * idle)?.end_reason,
                Some(EndReason::Idle)
            );
        }
        before.settle(daemon)
    })
}

#[test]
fn a_session_ends_at_its_max_lifetime_even_while_it_works() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config(
        "[defaults]
idle_timeout = 4
max_lifetime = 4
stop_grace = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "old", "sdk", json!({}))?;
        let id = session_name("old");
        client.invoke("old", &id, &json!({"do": "echo"}))?;
        let answer = client.send(Client::invocation("old", &id, &json!({"do": "never"})))?;
        let error = expect_aws_error(answer, 424, "RuntimeClientError", "")?.to_string();
        ensure!(
            error.contains("lifetime"),
            "the caller is not told why: {error}"
        );
        assert_eq!(
            client.ended(&id, 10)?.end_reason,
            Some(EndReason::MaxLifetime)
        );
        Ok(())
    })
}

#[test]
fn stop_is_term_then_grace_then_kill() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        for (how, grace, least, most, words) in [
            ("tell", 10, 0, 5, "got TERM"),
            ("slow", 10, 2, 6, "got TERM"),
            ("ignore", 2, 2, 4, ""),
        ] {
            let more = json!({"environment": {"AGENT_ON_TERM": how, "AGENT_SECONDS": "2"}, "lifecycle": {"stop_grace": grace}});
            chaos::deploy(&client, how, "sdk", more)?;
            let id = session_name(how);
            client.invoke(how, &id, &json!({"do": "echo"}))?;
            if how == "ignore" {
                client.invoke(how, &id, &json!({"do": "stray", "count": 3}))?;
            }
            let began = Instant::now();
            let session = client.stop(&id)?;
            let took = began.elapsed();
            assert_eq!(session.end_reason, Some(EndReason::Stopped), "{how}");
            ensure!(
                took >= Duration::from_secs(least),
                "{how}: over after {took:?}, before its grace"
            );
            ensure!(took <= wait::seconds(most), "{how}: took {took:?}");
            let log = client.logs(&id)?;
            ensure!(log.contains(words), "{how}: {log}");
        }
        before.settle(daemon)
    })
}

#[test]
fn the_same_session_id_afterwards_starts_a_clean_one() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "again", "sdk", json!({}))?;
        let id = session_name("again");
        client.invoke("again", &id, &json!({"do": "write", "path": "/tmp/marker"}))?;
        assert_eq!(
            client.invoke("again", &id, &json!({"do": "count"}))?["count"],
            1
        );
        let first = client.session(&id)?;
        client.stop(&id)?;
        assert_eq!(
            client.invoke("again", &id, &json!({"do": "read", "path": "/tmp/marker"}))?["error"],
            "ENOENT"
        );
        assert_eq!(
            client.invoke("again", &id, &json!({"do": "count"}))?["count"],
            1
        );
        let second = client.session(&id)?;
        assert_ne!(first.id, second.id);
        // Calls that meet the stop wait for the new one, or are told to try again; never an answer of the dying one.
        for _ in 0..5 {
            let stop = {
                let (client, id) = (client.clone(), id.clone());
                std::thread::spawn(move || client.stop(&id))
            };
            let answer = client.send(Client::invocation(
                "again",
                &id,
                &json!({"do": "echo", "value": 5}),
            ))?;
            match answer.status {
                200 => assert_eq!(answer.json::<Value>()?["echo"], 5),
                409 => {
                    ensure!(
                        answer.header("x-amz-retry-after").is_some(),
                        "a 409 says when to try again"
                    );
                    expect_aws_error(answer, 409, "RetryableConflictException", "")?;
                }
                424 => {}
                other => anyhow::bail!("{other}: {}", answer.text()?),
            }
            joined(stop).or_else(|e| {
                if format!("{e:#}").contains("404") {
                    Ok(second.clone())
                } else {
                    Err(e)
                }
            })?;
            client.invoke("again", &id, &json!({"do": "echo"}))?;
        }
        Ok(())
    })
}

#[test]
fn running_sessions_keep_their_version() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let agent = |n: u32| {
            format!(
                "from bedrock_agentcore import BedrockAgentCoreApp\napp = BedrockAgentCoreApp()\n@app.entrypoint\ndef f(p):\n    return {{'version': {n}, 'file': open('/app/agent.py').read().count('version')}}\napp.run()\n"
            )
        };
        let old = session_name("old");
        for n in 1..=2 {
            let made = e2e::deploy::python(&client, "versions", &agent(n), json!({}))?;
            assert_eq!(made.version.0, n);
            if n == 1 {
                assert_eq!(client.invoke("versions", &old, &json!({}))?["version"], 1);
            }
        }
        let new = session_name("new");
        assert_eq!(client.invoke("versions", &new, &json!({}))?["version"], 2);
        assert_eq!(client.invoke("versions", &old, &json!({}))?["version"], 1);
        assert_eq!(
            (
                client.session(&old)?.version.0,
                client.session(&new)?.version.0
            ),
            (1, 2)
        );
        client.stop(&old)?;
        assert_eq!(client.invoke("versions", &old, &json!({}))?["version"], 2);
        client
            .send(Request::new("DELETE", "/v1/runtimes/versions"))?
            .expect(204)?;
        for id in [&old, &new] {
            client.ended(id, 30)?;
        }
        Ok(())
    })
}

#[test]
fn every_end_of_an_agent_has_one_reason_and_its_caller_gets_it() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        chaos::deploy(
            &client,
            "chaos",
            "sdk",
            json!({"resources": {"memory": "128M"}, "lifecycle": {"stop_grace": 1}}),
        )?;
        for (payload, reason, words) in [
            (
                json!({"do": "exit", "code": 0}),
                EndReason::AgentExited,
                "exit status 0",
            ),
            (
                json!({"do": "exit", "code": 3}),
                EndReason::AgentExited,
                "exit status 3",
            ),
            (json!({"do": "segv"}), EndReason::AgentExited, "signal 11"),
            (json!({"do": "abort"}), EndReason::AgentExited, "signal 6"),
            (
                json!({"do": "kill_self"}),
                EndReason::AgentExited,
                "signal 9",
            ),
            (
                json!({"do": "kill_all"}),
                EndReason::AgentExited,
                "signal 9",
            ),
            (
                json!({"do": "leave"}),
                EndReason::AgentExited,
                "exit status 0",
            ),
            (
                json!({"do": "eat", "bytes": 1u64 << 30}),
                EndReason::OutOfMemory,
                "memory",
            ),
        ] {
            let id = session_name("ends");
            client.invoke("chaos", &id, &json!({"do": "stray"}))?;
            let answer = client.send(Client::invocation("chaos", &id, &payload))?;
            let error = expect_aws_error(answer, 424, "RuntimeClientError", "")
                .with_context(|| payload.to_string())?;
            ensure!(
                error.to_string().contains(words),
                "{payload}: the caller is not told {words:?}: {error}"
            );
            let session = client.ended(&id, 20)?;
            ensure!(session.end_reason == Some(reason), "{payload}: {session:?}");
            if reason == EndReason::OutOfMemory {
                ensure!(session.usage.oom_kills > 0, "{session:?}");
            }
        }
        before.settle(daemon)
    })
}

#[test]
fn an_agent_that_stands_still_ends_once_nobody_waits_for_it() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "still",
            "sdk",
            json!({"lifecycle": {"invocation_timeout": 5, "stop_grace": 1}}),
        )?;
        let id = session_name("still");
        client.invoke("still", &id, &json!({"do": "echo"}))?;
        // A server that blocks while it works fails its /ping too: for as long as its caller waits, it is not given up.
        let answer = client.send(Client::invocation(
            "still",
            &id,
            &json!({"do": "stop_self"}),
        ))?;
        ensure!(answer.status == 504, "{}", answer.status);
        let session = client.ended(&id, 20)?;
        ensure!(
            session.end_reason == Some(EndReason::Unhealthy)
                && session
                    .end_detail
                    .as_deref()
                    .unwrap_or_default()
                    .contains("/ping"),
            "{session:?}"
        );
        Ok(())
    })
}

#[test]
fn the_death_of_the_shim_ends_its_session_and_no_other() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        chaos::deploy(&client, "chaos", "sdk", json!({}))?;
        let other = session_name("other");
        client.invoke("chaos", &other, &json!({"do": "count"}))?;
        // Any other signal to a PID 1 is ignored by the kernel.
        for signal in [nix::sys::signal::Signal::SIGKILL; 3] {
            let id = session_name("shim");
            client.invoke("chaos", &id, &json!({"do": "stray", "count": 2}))?;
            let session = client.session(&id)?;
            let pid = session.pid.context("pid")?;
            ensure!(host::title(pid).contains("shim"), "{}", host::title(pid));
            let call = client.in_background("chaos", &id, &json!({"do": "never"}));
            wait::until_true(10, "the call to be in flight", || {
                Ok(client.session(&id)?.in_flight == 1)
            })?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)?;
            let error = expect_aws_error(joined(call)?, 424, "RuntimeClientError", "")?;
            let ended = client.ended(&id, 10)?;
            ensure!(
                ended.end_reason == Some(EndReason::ShimDied),
                "{ended:?} {error}"
            );
        }
        assert_eq!(
            client.invoke("chaos", &other, &json!({"do": "count"}))?["count"],
            2
        );
        client.stop(&other)?;
        before.settle(daemon)
    })
}

#[test]
fn max_sessions_is_held_and_given_back() -> Result {
    ground!(Daemon, Python);
    Daemon::with(
        Options::quick().config("[limits]\nmax_sessions = 2"),
        |daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "quota", "sdk", json!({}))?;
            let ids: Vec<_> = (0..2).map(|_| session_name("quota")).collect();
            for id in &ids {
                client.invoke("quota", id, &json!({"do": "echo"}))?;
            }
            let answer = client.send(Client::invocation(
                "quota",
                &session_name("third"),
                &json!({"do": "echo"}),
            ))?;
            ensure!(matches!(answer.status, 402 | 429), "{}", answer.status);
            client.stop(&ids[0])?;
            client.invoke("quota", &session_name("fourth"), &json!({"do": "echo"}))?;
            Ok(())
        },
    )
}
