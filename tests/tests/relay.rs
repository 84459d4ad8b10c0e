//! One invocation from the caller to the agent and back: framing, cancelling, cutting off, bad answers. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, joined, session_name};
use e2e::http::{Request, Response};
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
fn a_client_that_goes_away_cancels_and_one_that_retries_has_ten_seconds() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "gone", "sdk", json!({}))?;
        let id = session_name("gone");
        client.invoke("gone", &id, &json!({"do": "echo"}))?;
        let idle = |bound, what: &str| {
            wait::until_true(bound, what, || Ok(client.session(&id)?.in_flight == 0))
        };
        let begun = |request: Request| -> anyhow::Result<Response> {
            let mut answer = client.send(request)?.expect(200)?;
            answer.piece()?.context("a first event")?;
            ensure!(client.session(&id)?.in_flight == 1);
            Ok(answer)
        };
        let endless = Client::invocation(
            "gone",
            &id,
            &json!({"do": "stream", "events": -1, "delay": 0.05}),
        );
        drop(begun(endless)?);
        idle(5, "the call of a client that went away to be cancelled")?;
        // With the SDK's invocation id a new attempt may still come.
        let endless = Client::invocation(
            "gone",
            &id,
            &json!({"do": "stream", "events": -1, "delay": 0.05}),
        )
        .header(
            "amz-sdk-invocation-id",
            "11111111-2222-4333-8444-555555555555",
        )
        .header("amz-sdk-request", "attempt=1; max=3");
        let went = Instant::now();
        drop(begun(endless)?);
        idle(20, "the call to be cancelled without a new attempt")?;
        ensure!(
            went.elapsed() > Duration::from_secs(8),
            "cancelled after {:?} already",
            went.elapsed()
        );
        ensure!(client.invoke("gone", &id, &json!({"do": "echo", "value": 1}))?["echo"] == 1);
        Ok(())
    })
}

#[test]
fn a_truncated_answer_never_looks_complete() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "cut", "sdk", json!({}))?;
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
        Options::quick().config("[limits]\nmax_invocations_per_session = 4"),
        |daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "many", "sdk", json!({}))?;
            let id = session_name("many");
            client.invoke("many", &id, &json!({"do": "echo"}))?;
            let held: Vec<_> = (0..4)
                .map(|_| client.in_background("many", &id, &json!({"do": "sleep", "seconds": 3})))
                .collect();
            wait::until_true(10, "four calls in flight", || {
                Ok(client.session(&id)?.in_flight == 4)
            })?;
            let answer = client.send(Client::invocation("many", &id, &json!({"do": "echo"})))?;
            expect_aws_error(answer, 429, "ThrottlingException", "")?;
            for call in held {
                joined(call)?.expect(200)?;
            }
            client.invoke("many", &id, &json!({"do": "echo"}))?;
            Ok(())
        },
    )
}

#[test]
fn an_answer_that_is_no_http_is_424_and_the_session_survives() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let source = r#"
import socket, threading
def serve(client):
    with client:
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(65536)
            if not more: return
            head += more
        if head.startswith(b"GET"):
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"status":"Healthy"}')
            return
        mode = head.split(b"x-amzn-bedrock-agentcore-runtime-custom-mode: ".lower())[-1].split(b"\r\n")[0] if b"custom-mode" in head.lower() else b""
        low = head.lower()
        mode = low.split(b"custom-mode: ")[1].split(b"\r\n")[0]
        answers = {
            b"garbage": b"\x00\x01\x02 not http at all\r\n\r\n",
            b"empty": b"",
            b"half-head": b"HTTP/1.1 200 OK\r\nContent-Ty",
            b"split": b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
            b"huge-head": b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 200000 + b"\r\n\r\n",
            b"many-headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 5000 + b"\r\n",
            b"bad-status": b"HTTP/1.1 999999 OK\r\nContent-Length: 0\r\n\r\n",
            b"two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"good": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        }
        client.sendall(answers[mode])
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;
        e2e::deploy::python(&client, "rude", source, json!({}))?;
        let id = session_name("rude");
        let send = |mode: &str| {
            client.send(
                Client::invocation("rude", &id, &json!({}))
                    .header("X-Amzn-Bedrock-AgentCore-Runtime-Custom-Mode", mode),
            )
        };
        assert_eq!(send("good")?.expect(200)?.text()?, "good");
        for mode in [
            "garbage",
            "empty",
            "half-head",
            "huge-head",
            "many-headers",
            "bad-status",
            "two-lengths",
            "split",
        ] {
            let answer = send(mode)?;
            expect_aws_error(answer, 424, "RuntimeClientError", "").with_context(|| mode)?;
            assert_eq!(
                send("good")?.expect(200).with_context(|| mode)?.text()?,
                "good"
            );
        }
        assert_eq!(only_session(&client)?.in_flight, 0);
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
