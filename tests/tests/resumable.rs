//! Streams that their client comes back to: after a lost connection, after their end, after a restart of the daemon. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Response, Target};
use e2e::{Client, Daemon, Options, Result, ground, task};
use serde_json::json;

const USER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id";

fn installed() -> Options {
    Options {
        dev: false,
        ..Options::quick()
    }
}

/// An agent's stream of `count` events.
fn events(count: u32, pause: f32) -> String {
    format!(
        "stream()\nfor n in range({count}):\n  say(b'data: %d\\r\\n\\r\\n' % n); time.sleep({pause})"
    )
}

fn request(runtime: &str, resumable: &str, session: &str, code: &str) -> Request {
    let body = json!({ "code": code }).to_string();
    Request::post(format!("/runtimes/{runtime}/invocations{resumable}"), body)
        .header("content-type", "application/json")
        .header(SESSION_HEADER, session)
}

/// An event: its number, and what it says.
type Event = (u64, String);

/// Reads events until there are `most` of them, or the stream ends.
fn read(response: &mut Response, most: usize) -> anyhow::Result<Vec<Event>> {
    let mut text = String::new();
    let mut found = Vec::new();
    while found.len() < most {
        let Some(piece) = response.piece()? else {
            ensure!(text.is_empty(), "{text:?} is left over");
            break;
        };
        text.push_str(std::str::from_utf8(&piece)?);
        while let Some(end) = text.find("\n\r\n") {
            let event: String = text.drain(..end + 3).collect();
            let (data, id) = event
                .trim_end()
                .split_once("\r\nid: ")
                .with_context(|| format!("no number: {event:?}"))?;
            found.push((id.parse()?, data.to_owned()));
        }
    }
    Ok(found)
}

fn says(from: u32, to: u32) -> Vec<String> {
    (from..to).map(|n| format!("data: {n}")).collect()
}

fn data(events: &[Event]) -> Vec<String> {
    events.iter().map(|(_, data)| data.clone()).collect()
}

fn id_of(response: &Response) -> anyhow::Result<String> {
    Ok(response
        .header("x-agentcore-task-id")
        .context("no id")?
        .to_owned())
}

#[test]
fn a_client_that_lost_its_connection_goes_on_where_it_was() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "teller", json!({}))?;
        let session = session_name("mine");
        let begin = |query: &str, code: &str| {
            client.send(request("teller", query, &session, code).header(USER, "ada"))
        };
        let mut first = begin("?resumable=true", &events(20, 0.1))?.expect(200)?;
        ensure!(first.header("content-type") == Some("text/event-stream"));
        let id = id_of(&first)?;
        let seen = read(&mut first, 3)?;
        // Its connection is lost; the agent goes on.
        drop(first);
        let again = format!("?resumable={id}");
        let back = |from: u64, user: &str| -> anyhow::Result<Response> {
            let request = request("teller", &again, &session, "");
            client.send(
                request
                    .header(USER, user)
                    .header("last-event-id", from.to_string()),
            )
        };
        let (last, _) = seen.last().context("events")?;
        let mut second = back(*last, "ada")?.expect(200)?;
        let rest = read(&mut second, usize::MAX)?;
        ensure!(
            [data(&seen), data(&rest)].concat() == says(0, 20),
            "{seen:?} {rest:?}"
        );
        // Also after its end, from any event; and operators by its task.
        for (at, (number, _)) in rest.iter().enumerate().take(5) {
            let mut later = back(*number, "ada")?.expect(200)?;
            ensure!(read(&mut later, usize::MAX)? == rest[at + 1..]);
        }
        let operators = client.send(
            Request::get(format!("/v1/tasks/{id}/result?follow=true"))
                .header("last-event-id", last.to_string()),
        )?;
        ensure!(read(&mut operators.expect(200)?, usize::MAX)? == rest);
        let (end, _) = rest.last().context("events")?;
        back(*end, "ada")?.expect(204)?;
        // Somebody else has no such stream, nor has another runtime; and what is no event is none.
        expect_aws_error(back(0, "eve")?, 404, "ResourceNotFoundException", "")?;
        task::deploy(&client, "other", json!({}))?;
        let elsewhere = client.send(request("other", &again, &session, "").header(USER, "ada"))?;
        expect_aws_error(elsewhere, 404, "ResourceNotFoundException", "")?;
        for bad in [last + 2, end + 2] {
            expect_aws_error(back(bad, "ada")?, 400, "ValidationException", "")?;
        }
        expect_aws_error(
            begin("?resumable=maybe", "")?,
            400,
            "ValidationException",
            "",
        )?;
        // Other clients' bytes are the agent's.
        let plain = begin("", &events(2, 0.0))?.expect(200)?.text()?;
        ensure!(plain == "data: 0\r\n\r\ndata: 1\r\n\r\n", "{plain:?}");
        // What is no stream of events is kept as well, and an agent's error is one.
        let whole = begin("?resumable=true", "answer = 'all'")?.expect(200)?;
        let id = id_of(&whole)?;
        ensure!(whole.text()? == "\"all\"");
        let rest = request("teller", &format!("?resumable={id}"), &session, "")
            .header("range", "bytes=1-");
        ensure!(client.send(rest.header(USER, "ada"))?.expect(206)?.text()? == "all\"");
        expect_aws_error(
            begin("?resumable=true", "status = 500")?,
            424,
            "RuntimeClientError",
            "",
        )?;
        Ok(())
    })
}

#[test]
fn a_stream_survives_its_daemon() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "teller", json!({}))?;
        let session = session_name("mine");
        let begun = client.send(request(
            "teller",
            "?resumable=true",
            &session,
            &events(100, 0.1),
        ))?;
        let mut first = begun.expect(200)?;
        let id = id_of(&first)?;
        let seen = read(&mut first, 5)?;
        daemon.kill()?;
        ensure!(
            read(&mut first, usize::MAX).is_err(),
            "its connection is gone"
        );
        daemon.restart()?;
        let client: Client = daemon.client();
        let (last, _) = seen.last().context("events")?;
        let again = request("teller", &format!("?resumable={id}"), &session, "");
        let mut second = client
            .send(again.header("last-event-id", last.to_string()))?
            .expect(200)?;
        let rest = read(&mut second, usize::MAX)?;
        ensure!(
            [data(&seen), data(&rest)].concat() == says(0, 100),
            "{seen:?} {rest:?}"
        );
        Ok(())
    })
}

#[test]
fn the_local_wire_has_streams_to_come_back_to() -> Result {
    ground!(Daemon, Python);
    // Over TCP, as a developer's browser or script comes.
    Daemon::with(Options::quick(), |daemon| {
        task::deploy(&daemon.client(), "teller", json!({}))?;
        let call = |daemon: &Daemon, query: &str, code: &str| -> anyhow::Result<Request> {
            let body = json!({ "code": code }).to_string();
            ensure!(matches!(daemon.tcp()?.target, Target::Tcp(_)));
            Ok(
                Request::post(format!("/invocations?resumable={query}"), body)
                    .header("content-type", "application/json"),
            )
        };
        let request = call(daemon, "true", &events(100, 0.1))?;
        let mut first = daemon.tcp()?.send(request)?.expect(200)?;
        let id = id_of(&first)?;
        let session = first.header(SESSION_HEADER).context("no session")?;
        let session = session.to_owned();
        let seen = read(&mut first, 3)?;
        drop(first);
        let back = |daemon: &Daemon, from: u64| -> anyhow::Result<Response> {
            let request = call(daemon, &id, "")?.header("last-event-id", from.to_string());
            daemon.tcp()?.send(request)
        };
        let (last, _) = seen.last().context("events")?;
        let mut second = back(daemon, *last)?.expect(200)?;
        ensure!(second.header(SESSION_HEADER) == Some(session.as_str()));
        let more = read(&mut second, 3)?;
        daemon.kill()?;
        daemon.restart()?;
        let (last, _) = more.last().context("events")?;
        let rest = read(&mut back(daemon, *last)?.expect(200)?, usize::MAX)?;
        ensure!(
            [data(&seen), data(&more), data(&rest)].concat() == says(0, 100),
            "{seen:?} {more:?} {rest:?}"
        );
        let (end, _) = rest.last().context("events")?;
        back(daemon, *end)?.expect(204)?;
        // Without it a stream is the agent's to the byte.
        let plain = call(daemon, "false", &events(2, 0.0))?;
        let plain = daemon.tcp()?.send(plain)?.expect(200)?.text()?;
        ensure!(plain == "data: 0\r\n\r\ndata: 1\r\n\r\n", "{plain:?}");
        // An agent's error is told with its words, which are not an answer that could be gone on with.
        let failed = daemon
            .tcp()?
            .send(call(daemon, "true", "status = 418\nanswer = 'tea'")?)?;
        let told = expect_aws_error(failed, 424, "RuntimeClientError", "tea")?;
        ensure!(
            told["agentStatus"] == 418 && told["agentBody"] == "\"tea\"",
            "{told}"
        );
        Ok(())
    })
}
