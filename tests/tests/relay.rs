//! One invocation from the caller to the agent and back: framing, cancelling, cutting off, bad answers. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, joined, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, chaos, ground, wait};
use proto::api::{EndReason, Session};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn only_session(client: &Client) -> anyhow::Result<Session> {
    let mut all = client.sessions("")?;
    ensure!(all.len() == 1, "{all:#?}");
    all.pop().context("one")
}

#[test]
fn an_invocation_over_its_time_is_504_and_the_session_stays() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "slow",
            "sdk",
            json!({"lifecycle": {"invocation_timeout": 2}}),
        )?;
        let id = session_name("slow");
        assert_eq!(
            client.invoke("slow", &id, &json!({"do": "count"}))?["count"],
            1
        );
        let began = Instant::now();
        let answer = client.send(Client::invocation(
            "slow",
            &id,
            &json!({"do": "sleep", "seconds": 600}),
        ))?;
        ensure!(answer.status == 504, "{}", answer.status);
        ensure!(began.elapsed() < wait::seconds(6), "{:?}", began.elapsed());
        assert_eq!(
            client.invoke("slow", &id, &json!({"do": "count"}))?["count"],
            2
        );
        wait::until_true(10, "the cancelled call to be over", || {
            Ok(client.session(&id)?.in_flight == 0)
        })
    })
}

#[test]
fn a_client_that_goes_away_cancels_at_once() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "gone", "sdk", json!({}))?;
        let id = session_name("gone");
        client.invoke("gone", &id, &json!({"do": "echo"}))?;
        let endless = Client::invocation(
            "gone",
            &id,
            &json!({"do": "stream", "events": -1, "delay": 0.05}),
        );
        let mut answer = client.send(endless)?.expect(200)?;
        answer.piece()?.context("a first event")?;
        ensure!(client.session(&id)?.in_flight == 1);
        drop(answer);
        wait::until_true(
            5,
            "the call of a client that went away to be cancelled",
            || Ok(client.session(&id)?.in_flight == 0),
        )
    })
}

#[test]
fn a_truncated_answer_never_looks_complete() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "cut",
            "sdk",
            json!({"lifecycle": {"stop_grace": 1}}),
        )?;
        for _ in 0..3 {
            let id = session_name("cut");
            client.invoke("cut", &id, &json!({"do": "echo"}))?;
            let payload = json!({"do": "stream", "events": 50, "bytes": 10_000, "die_after": 20});
            let answer = client
                .send(Client::invocation("cut", &id, &payload))?
                .expect(200)?;
            let mut got = 0;
            let end = answer.drain(|_, piece| {
                got += piece.len();
                Ok(())
            });
            ensure!(
                end.is_err(),
                "a body cut off after {got} bytes looked complete"
            );
            assert_eq!(
                client.ended(&id, 10)?.end_reason,
                Some(EndReason::AgentExited)
            );
            // Killed from outside, too: the stream of a session that is stopped.
            let id = session_name("stopped");
            let endless = Client::invocation(
                "cut",
                &id,
                &json!({"do": "stream", "events": -1, "delay": 0.05}),
            );
            let mut answer = client.send(endless)?.expect(200)?;
            answer.piece()?.context("a first event")?;
            client.stop(&id)?;
            ensure!(
                answer.drain(|_, _| Ok(())).is_err(),
                "the stream of a stopped session looked complete"
            );
        }
        Ok(())
    })
}

#[test]
fn events_arrive_one_by_one_and_byte_for_byte() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "sse", "sdk", json!({}))?;
        for client in [daemon.client(), daemon.tcp()?] {
            let id = session_name("sse");
            let began = Instant::now();
            let payload = json!({"do": "stream", "events": 5, "delay": 0.3});
            let mut answer = client
                .send(
                    Client::invocation("sse", &id, &payload).header("accept", "text/event-stream"),
                )?
                .expect(200)?;
            ensure!(
                answer
                    .header("content-type")
                    .is_some_and(|v| v.starts_with("text/event-stream"))
            );
            ensure!(answer.header("content-length").is_none());
            let (mut all, mut times) = (Vec::new(), Vec::new());
            while let Some(piece) = answer.piece()? {
                all.extend_from_slice(&piece);
                times.push(began.elapsed());
            }
            let expected: String = (0..5)
                .map(|n| format!("data: {{\"event\": {n}, \"filler\": \"\"}}\n\n"))
                .collect();
            assert_eq!(String::from_utf8(all)?, expected);
            let spread = *times.last().context("last")? - times[0];
            ensure!(
                times.len() >= 5 && spread > Duration::from_millis(900),
                "buffered: pieces at {times:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn many_invocations_of_one_session_at_once_and_too_many_are_429() -> Result {
    ground!(Daemon, Python);
    Daemon::with(
        Options::quick().config("[limits]\nmax_invocations_per_session = 4\nadmission_wait = 1"),
        |daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "many", "sdk", json!({}))?;
            let id = session_name("many");
            client.invoke("many", &id, &json!({"do": "echo"}))?;
            let held: Vec<_> = (0..4)
                .map(|_| client.in_background("many", &id, &json!({"do": "sleep", "seconds": 6})))
                .collect();
            wait::until_true(10, "four calls in flight", || {
                Ok(client.session(&id)?.in_flight == 4)
            })?;
            let answer = client.send(Client::invocation("many", &id, &json!({"do": "echo"})))?;
            let limit = "limits.max_invocations_per_session";
            expect_aws_error(answer, 429, "ThrottlingException", limit)?;
            for call in held {
                joined(call)?.expect(200)?;
            }
            client.invoke("many", &id, &json!({"do": "echo"}))?;
            Ok(())
        },
    )
}

/// What a caller must see of a wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// 424: nothing of it can be believed.
    Fail,
    /// The head may have been passed on, but the body must not look whole; or 424.
    NotWhole,
    /// It is in order, if odd.
    Pass,
    /// Parsers may differ; but two readings, a hang or a 5xx of ours are wrong.
    Either,
}

/// Cases of `chaos/wrong_answers.py`. Those that never end are in `answers_without_end`.
const WRONG: &[(Must, &[&str])] = &[
    (
        Must::Fail,
        &[
            "no_answer",
            "half_head",
            "huge_header",
            "many_headers",
            "length_negative",
            "length_text",
            "length_huge",
            "length_differs",
            "length_and_chunked",
            "encoding_unknown",
            "garbage",
            "http09",
            "http2",
            "version",
            "status_text",
            "status_long",
            "nul_in_header",
        ],
    ),
    (
        Must::NotWhole,
        &[
            "truncated",
            "truncated_reset",
            "chunked_cut",
            "chunk_short",
            "chunked_no_body",
            "chunk_bad_size",
            "chunk_negative",
            "chunk_huge_size",
            "chunk_no_end",
        ],
    ),
    (
        Must::Pass,
        &[
            "until_close",
            "big",
            "tiny_chunks",
            "trailers",
            "extra",
            "half_close",
            "no_type",
            "hop_by_hop",
            "cookies",
        ],
    ),
    (
        Must::Either,
        &[
            "length_plus",
            "length_list",
            "encoding_twice",
            "status_0",
            "status_999",
            "no_content_with_body",
            "not_modified",
            "redirect",
            "folded",
            "bare_newlines",
            "bare_return",
            "space_before_colon",
            "no_colon",
            "high_bytes",
            "empty_name",
            "chunk_extension",
            "informational",
        ],
    ),
];

#[test]
fn wrong_answers_are_told_and_harm_neither_session_nor_daemon() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "rude", "raw", json!({}))?;
        let id = session_name("rude");
        client.invoke("rude", &id, &json!({"do": "echo"}))?;
        let memory = e2e::host::rss(daemon.pid())?;
        let mut faults = Vec::new();
        for (must, cases) in WRONG {
            for case in *cases {
                let mut payload = json!({"do": "http", "case": case, "count": 100});
                if *must == Must::Pass {
                    payload["bytes"] = json!(1000);
                }
                let answer = client
                    .send(Client::invocation("rude", &id, &payload))
                    .context(*case)?;
                let status = answer.status;
                let hop = [
                    "keep-alive",
                    "proxy-authenticate",
                    "te",
                    "upgrade",
                    "x-secret",
                ]
                .into_iter()
                .find(|name| answer.header(name).is_some());
                let whole = answer.drain(|_, _| Ok(()));
                let right = hop.is_none()
                    && match must {
                        Must::Fail => status == 424,
                        Must::NotWhole => status == 424 || whole.is_err(),
                        Must::Pass => status == 200 && whole.is_ok(),
                        Must::Either => status < 500,
                    };
                if !right {
                    faults.push(format!("{case} ({must:?}): {status} {whole:?} {hop:?}"));
                }
                // The next call gets its own answer and not what the last one left.
                let next = client.invoke("rude", &id, &json!({"do": "echo", "value": case}));
                if !next.as_ref().is_ok_and(|n| n["echo"] == *case) {
                    faults.push(format!("after {case}: {next:?}"));
                }
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        wait::until_true(5, "the last of them to be over", || {
            Ok(only_session(&client)?.in_flight == 0)
        })?;
        let grown = e2e::host::rss(daemon.pid())?.saturating_sub(memory);
        ensure!(grown < 16 << 20, "the broker grew by {grown} bytes");
        Ok(())
    })
}

#[test]
fn answers_without_end_are_bounded_and_cancelled_with_their_caller() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "rude",
            "raw",
            json!({"lifecycle": {"invocation_timeout": 3}}),
        )?;
        let id = session_name("endless");
        client.invoke("rude", &id, &json!({"do": "echo"}))?;
        let memory = e2e::host::rss(daemon.pid())?;
        for case in [
            "endless_head",
            "endless_header",
            "half_head_hang",
            "continue_only",
            "slow_head",
        ] {
            let payload = json!({"do": "http", "case": case, "delay": 1, "count": -1});
            let answer = client.send(Client::invocation("rude", &id, &payload))?;
            ensure!(
                matches!(answer.status, 424 | 504),
                "{case}: {}",
                answer.status
            );
        }
        for case in [
            "endless_body",
            "endless_until_close",
            "sse",
            "sse_silent",
            "truncated_hang",
        ] {
            let payload = json!({"do": "http", "case": case, "events": -1, "delay": 0.01});
            let mut answer = client
                .send(Client::invocation("rude", &id, &payload))?
                .expect(200)
                .context(case)?;
            if case != "sse_silent" {
                answer.piece().context(case)?.context("a first piece")?;
            }
            drop(answer);
        }
        wait::until_true(15, "all of them to be cancelled", || {
            Ok(only_session(&client)?.in_flight == 0)
        })?;
        let grown = e2e::host::rss(daemon.pid())?.saturating_sub(memory);
        ensure!(grown < 16 << 20, "the broker grew by {grown} bytes");
        client.invoke("rude", &id, &json!({"do": "echo"}))?;
        Ok(())
    })
}

#[test]
fn a_caller_who_takes_no_bytes_keeps_a_session_busy_no_longer_than_an_invocation_may_take() -> Result
{
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "unread",
            "raw",
            json!({"lifecycle": {"invocation_timeout": 3}}),
        )?;
        let id = session_name("unread");
        let payload = json!({"do": "http", "case": "endless_body"});
        let mut answer = client
            .send(Client::invocation("unread", &id, &payload))?
            .expect(200)?;
        answer.piece()?.context("a first piece")?;
        ensure!(client.session(&id)?.in_flight == 1);
        wait::until_true(15, "the answer that nobody reads to be given up", || {
            Ok(client.session(&id)?.in_flight == 0)
        })?;
        // What had left the agent may still come; then the connection breaks instead of ending.
        let broken = loop {
            match answer.piece() {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        ensure!(broken, "a cut answer looked complete");
        client.invoke("unread", &id, &json!({"do": "echo"}))?;
        Ok(())
    })
}

#[test]
fn a_session_header_is_all_that_makes_a_session_sticky() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "one", "sdk", json!({}))?;
        chaos::deploy(&client, "two", "sdk", json!({}))?;
        let id = session_name("sticky");
        for expected in 1..=3 {
            assert_eq!(
                client.invoke("one", &id, &json!({"do": "count"}))?["count"],
                expected
            );
        }
        // The same id at another runtime is another session.
        assert_eq!(
            client.invoke("two", &id, &json!({"do": "count"}))?["count"],
            1
        );
        assert_eq!(client.live_sessions()?.len(), 2);
        // Ambiguous by the caller's id alone.
        let answer = client.send(Request::get(format!("/v1/sessions/{id}")))?;
        ensure!(matches!(answer.status, 400 | 409), "{}", answer.status);
        let one: Session = client.get(&format!("/v1/sessions/{id}?runtime=one"))?;
        assert_eq!(one.runtime.as_str(), "one");
        let mut request = Request::post(
            "/runtimes/one/invocations",
            json!({"do": "session"}).to_string(),
        );
        request = request
            .header("content-type", "application/json")
            .header(&SESSION_HEADER.to_ascii_lowercase(), id.clone());
        let seen: Value = client.send(request)?.expect(200)?.json()?;
        assert_eq!(seen["session_id"], json!(id));
        Ok(())
    })
}
