//! `/ping` as the contract has it (§1.2): what keeps a session alive, what does not, and what ends it. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, joined, session_name};
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, wait};
use proto::api::{EndReason, Phase, Session};
use serde_json::json;
use std::time::{Duration, Instant};

/// Seconds; the contract's least is a minute, the operator's default may be shorter.
const IDLE: u64 = 3;

fn options() -> Options {
    Options::quick().config(&format!(
        "[defaults]\nidle_timeout = {IDLE}\nstop_grace = 1"
    ))
}

/// A session of the socket server whose `/ping` is answered in `style` from now on.
fn answering(client: &Client, style: &str) -> anyhow::Result<String> {
    let id = session_name(style.split(':').next().unwrap_or_default());
    let set = client.invoke("raw", &id, &json!({"do": "ping", "as": style}))?;
    ensure!(set["as"] == style, "{set}");
    Ok(id)
}

fn over(session: &Session) -> bool {
    matches!(session.phase, Phase::Ended | Phase::Failed)
}

#[test]
fn the_idle_clock_is_the_daemons_whatever_time_an_agent_stamps() -> Result {
    ground!(Daemon, Python);
    Daemon::with(options(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "raw", "raw", json!({}))?;
        let busy = ["busy", "busy_no_time", "flapping"]
            .map(|style| answering(&client, style))
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
        let busy_since = Instant::now();
        let idle = ["now", "no_time", "future", "past", "huge_time", "text_time"]
            .map(|style| Ok((style, answering(&client, style)?, Instant::now())))
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
        for (style, id, since) in &idle {
            let session = client.ended(id, 3 * IDLE)?;
            ensure!(
                session.end_reason == Some(EndReason::Idle),
                "{style}: {session:?}"
            );
            let after = since.elapsed();
            ensure!(
                after > Duration::from_secs(IDLE) - Duration::from_millis(200),
                "{style}: over after {after:?}"
            );
        }
        // HealthyBusy is activity with a time and without, and each change of health begins the idle time anew.
        wait::until_true(3 * IDLE, "twice the idle timeout", || {
            Ok(busy_since.elapsed() > Duration::from_secs(2 * IDLE))
        })?;
        for id in &busy {
            let session = client.session(id)?;
            ensure!(!over(&session) && session.in_flight == 0, "{session:?}");
            client.invoke("raw", id, &json!({"do": "ping", "as": "no_time"}))?;
        }
        for id in &busy {
            let session = client.ended(id, 3 * IDLE)?;
            ensure!(session.end_reason == Some(EndReason::Idle), "{session:?}");
        }
        Ok(())
    })
}

#[test]
fn a_ping_that_is_no_answer_ends_the_session_and_says_what_was_seen() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let more = json!({"lifecycle": {"stop_grace": 1}});
        chaos::deploy(&client, "raw", "raw", more)?;
        let healthy = answering(&client, "healthy")?;
        let memory = host::rss(daemon.pid())?;
        let sick = [
            ("unknown", "neither Healthy nor HealthyBusy"),
            ("no_status", "neither Healthy nor HealthyBusy"),
            ("array", "no JSON object"),
            ("not_json", "no JSON object"),
            ("empty", "no JSON object"),
            ("deep", "over 16384 bytes"),
            ("huge", "over 16384 bytes"),
            ("endless", "over 16384 bytes"),
            ("status:503", "status 503"),
            ("never", "1000 ms"),
            ("close", "without an answer"),
        ]
        .map(|(style, words)| Ok((style, words, answering(&client, style)?)))
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
        for (style, words, id) in &sick {
            let session = client.ended(id, 20)?;
            ensure!(
                session.end_reason == Some(EndReason::Unhealthy),
                "{style}: {session:?}"
            );
            let detail = session.end_detail.context("end detail")?;
            ensure!(detail.contains(words), "{style}: {detail}");
        }
        let grown = host::rss(daemon.pid())?.saturating_sub(memory);
        ensure!(grown < 16 << 20, "the broker grew by {grown} bytes");
        ensure!(!over(&client.session(&healthy)?));
        Ok(())
    })
}

#[test]
fn an_agent_that_cannot_answer_its_ping_while_it_works_is_not_given_up() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "gil", "sdk", json!({}))?;
        let id = session_name("gil");
        // `Options::quick` gives it up after 3 s without an answer, if nobody waits.
        let held = client.invoke("gil", &id, &json!({"do": "hold_gil", "seconds": 6}))?;
        assert_eq!(held["held"], 6);
        assert_eq!(
            client.invoke("gil", &id, &json!({"do": "count"}))?["count"],
            1
        );
        Ok(())
    })
}

#[test]
fn a_stream_is_activity_also_while_it_is_silent() -> Result {
    ground!(Daemon, Python);
    Daemon::with(options(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "stream", "sdk", json!({}))?;
        let streams = [("silent", 1, 4.5), ("lively", 25, 0.2)].map(|(hint, events, delay)| {
            let id = session_name(hint);
            let payload = json!({"do": "stream", "events": events, "delay": delay});
            let call = client.in_background("stream", &id, &payload);
            let reader = std::thread::spawn(move || {
                let began = Instant::now();
                let text = joined(call)?.expect(200)?.text()?;
                Ok((text.matches("data: ").count(), began.elapsed()))
            });
            (id, events, reader)
        });
        for (id, events, reader) in streams {
            let (seen, took) = joined(reader)?;
            let ended = Instant::now();
            ensure!(seen == events, "{id}: {seen} of {events} events");
            ensure!(took > Duration::from_secs(IDLE + 1), "{id}: {took:?}");
            let session = client.ended(&id, 3 * IDLE)?;
            ensure!(session.end_reason == Some(EndReason::Idle), "{session:?}");
            // Idle time begins with the stream's end, not with its beginning.
            if id.starts_with("silent") {
                let after = ended.elapsed();
                ensure!(
                    after > Duration::from_secs(IDLE - 1),
                    "{id}: over {after:?} after its stream"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn an_agent_that_dies_while_it_serves_is_reported_with_its_last_words() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let more = json!({"environment": {"AGENT_MS": "1500"}});
        chaos::deploy(&client, "mortal", "die_after_n_ms", more)?;
        let id = session_name("mortal");
        let answer = client.send(Client::invocation("mortal", &id, &json!({"do": "never"})))?;
        let error = expect_aws_error(answer, 424, "RuntimeClientError", "exit status 7")?;
        ensure!(error.to_string().contains(chaos::LAST_WORDS), "{error}");
        let session = client.ended(&id, 10)?;
        ensure!(
            session.end_reason == Some(EndReason::AgentExited),
            "{session:?}"
        );
        Ok(())
    })
}
