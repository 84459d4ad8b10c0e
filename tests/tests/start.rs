//! How a session starts, and how it fails to: the caller always hears why. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, joined, session_name};
use e2e::{Client, Daemon, Options, Result, chaos, ground, leaks, wait};
use proto::api::{EndReason, Phase, Session};
use serde_json::{Value, json};
use std::time::Instant;

fn only_session(client: &Client) -> anyhow::Result<Session> {
    let mut all = client.sessions("")?;
    ensure!(all.len() == 1, "{all:#?}");
    all.pop().context("one")
}

/// One way to fail to start: the caller hears why, at once or at the deadline, with the agent's own last words.
fn fails_to_start(mode: &str, reasons: &[EndReason], words: &str) -> Result {
    fails_to_start_with(mode, json!({}), reasons, words)
}

fn fails_to_start_with(mode: &str, more: Value, reasons: &[EndReason], words: &str) -> Result {
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        let mut all = json!({"lifecycle": {"start_timeout": 4, "stop_grace": 1}});
        chaos::merge(&mut all, more);
        chaos::deploy(&client, "bad", mode, all)?;
        let id = session_name(mode);
        let began = Instant::now();
        let answer = client.send(Client::invocation("bad", &id, &json!({"do": "echo"})))?;
        let error = expect_aws_error(answer, 424, "RuntimeClientError", "")?.to_string();
        ensure!(
            error.contains(words),
            "{mode}: the caller is not told {words:?}: {error}"
        );
        ensure!(
            began.elapsed() < wait::seconds(20),
            "{mode}: told after {:?}",
            began.elapsed()
        );
        let session = client.ended(&id, 10)?;
        ensure!(session.phase == Phase::Failed, "{mode}: {session:?}");
        let reason = session.end_reason.context("no end reason")?;
        ensure!(reasons.contains(&reason), "{mode}: {session:?}");
        before.settle(daemon).with_context(|| mode.to_owned())
    })
}

#[test]
fn an_agent_that_exits_at_start_is_reported_with_its_status_and_last_words() -> Result {
    ground!(Daemon, Python);
    fails_to_start("exit1", &[EndReason::AgentExited], chaos::LAST_WORDS)?;
    fails_to_start("exit1", &[EndReason::AgentExited], "exit status 1")?;
    fails_to_start("exit0", &[EndReason::AgentExited], "exit status 0")
}

#[test]
fn an_agent_that_crashes_at_start_is_reported_with_its_signal_or_traceback() -> Result {
    ground!(Daemon, Python);
    fails_to_start("segv", &[EndReason::AgentExited], "signal 11")?;
    fails_to_start(
        "import_error",
        &[EndReason::AgentExited],
        "No module named 'a_module_that_nobody_vendored'",
    )
}

#[test]
fn an_agent_that_never_listens_fails_at_its_deadline_with_its_log() -> Result {
    ground!(Daemon, Python);
    fails_to_start(
        "no_listen",
        &[EndReason::StartTimeout],
        "alive and not listening",
    )?;
    fails_to_start("no_listen", &[EndReason::StartTimeout], "4 s")
}

#[test]
fn an_agent_that_listens_elsewhere_is_told_that_its_port_never_accepted() -> Result {
    ground!(Daemon, Python);
    fails_to_start(
        "wrong_port",
        &[EndReason::StartTimeout],
        "its port never accepted a connection",
    )
}

#[test]
fn an_agent_that_goes_into_the_background_has_ended_and_so_has_what_it_left() -> Result {
    ground!(Daemon, Python);
    fails_to_start(
        "fork_then_exit",
        &[EndReason::AgentExited],
        "exit status 0 before it was ready",
    )
}

#[test]
fn an_agent_that_starts_beyond_its_memory_is_reported_with_the_limit() -> Result {
    ground!(Daemon, Python);
    fails_to_start_with(
        "eat_at_start",
        json!({"resources": {"memory": "128M"}}),
        &[EndReason::OutOfMemory],
        "out of memory (limit 128M",
    )
}

#[test]
fn an_agent_that_floods_its_log_before_it_listens_starts_all_the_same() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "flood", "log_flood_at_start", json!({}))?;
        let id = session_name("flood");
        let session = client.start("flood", &id, &json!({"do": "echo"}))?;
        ensure!(session.phase == Phase::Ready, "{session:?}");
        // 16 MiB at a burst of 1 MiB: what is kept is the beginning, the rest is counted.
        wait::until_true(10, "dropped lines to be counted", || {
            Ok(client.session(&id)?.log_lines_dropped > 10_000)
        })?;
        ensure!(client.logs(&id)?.contains("flood before the start"));
        Ok(())
    })
}

#[test]
fn an_agent_whose_ping_is_wrong_is_never_ready() -> Result {
    ground!(Daemon, Python);
    let reasons = [EndReason::StartTimeout, EndReason::Unhealthy];
    for (mode, words) in [
        ("garbage", "checks in a row"),
        ("silent", "checks in a row"),
        ("accept_close", "checks in a row"),
        ("ping_500", "500"),
        ("ping_404", "404"),
        ("bad_ping", "checks in a row"),
    ] {
        fails_to_start(mode, &reasons, words).with_context(|| mode)?;
    }
    Ok(())
}

#[test]
fn an_entrypoint_that_cannot_run_is_reported() -> Result {
    ground!(Daemon);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let bundle = e2e::deploy::zip(&[e2e::deploy::file("agent", b"\x7fELFnot really")])?;
        let config = e2e::deploy::config("bad", "agent", json!({"language": "binary"}))?;
        let made = e2e::deploy::bundle(&client, bundle, &config);
        // Refused at once (not executable), or at the first start; either way with the file's name.
        match made {
            Err(error) => ensure!(format!("{error:#}").contains("agent"), "{error:#}"),
            Ok(_) => {
                let answer =
                    client.send(Client::invocation("bad", &session_name("elf"), &json!({})))?;
                let error = expect_aws_error(answer, 424, "RuntimeClientError", "")?.to_string();
                ensure!(error.contains("agent"), "{error}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_second_caller_during_the_start_waits_for_the_same_session() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "slow",
            "slow_start",
            json!({"environment": {"AGENT_SECONDS": "2"}}),
        )?;
        let id = session_name("both");
        let callers: Vec<_> = (0..4)
            .map(|_| client.in_background("slow", &id, &json!({"do": "count"})))
            .collect();
        let mut counts = Vec::new();
        let mut pids = std::collections::BTreeSet::new();
        for caller in callers {
            let answer: Value = joined(caller)?.expect(200)?.json()?;
            counts.push(answer["count"].as_u64().context("count")?);
            pids.insert(answer["pid"].as_u64());
        }
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 3, 4], "one agent answered all, each once");
        assert_eq!(pids.len(), 1);
        only_session(&client)?;
        Ok(())
    })
}
