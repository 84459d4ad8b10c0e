//! Calls of one session at once, as its runtime's `concurrency` has it, and how many sessions there may be: waiting comes before
//! refusing, and a refusal says when to try again and which limit it was. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, expect_problem, joined, session_name};
use e2e::http::{Request, Response};
use e2e::{Client, Daemon, Options, Result, ground, puppet, wait};
use proto::api::Phase;
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Says when it began and ended, and how many of it ran at most.
const SPAN: &str = "
import threading, time
lock = kept.setdefault('lock', threading.Lock())
with lock:
    kept['now'] = kept.get('now', 0) + 1
    kept['most'] = max(kept.get('most', 0), kept['now'])
time.sleep(payload.get('takes', 0.5))
with lock:
    kept['now'] -= 1
    kept.setdefault('order', []).append(payload['number'])
answer = kept['most']
";

fn span(number: u32, takes: f64) -> Value {
    json!({"code": SPAN, "number": number, "takes": takes})
}

/// The answer refuses its call, names the limit and says when to try again, in seconds and for boto3 in milliseconds.
fn refused(answer: Response, status: u16, name: &str, limit: &str) -> Result {
    let header = |name: &str| -> anyhow::Result<u64> {
        let text = answer
            .header(name)
            .with_context(|| format!("{status} without {name}"))?;
        Ok(text.parse()?)
    };
    let (seconds, millis) = (header("retry-after")?, header("x-amz-retry-after")?);
    ensure!(
        seconds >= 1 && millis >= 1 && millis <= seconds * 1000 + 999,
        "{seconds} s, {millis} ms"
    );
    expect_aws_error(answer, status, name, limit)?;
    Ok(())
}

fn busy(client: &Client, session: &str) -> Result {
    wait::until_true(10, "the session to be busy", || {
        Ok(client.session(session)?.in_flight >= 1)
    })
}

#[test]
fn serial_invocations_run_one_after_another_in_their_order() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config("[limits]\nmax_queue_per_session = 4");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "serial", json!({"concurrency": "serial"}))?;
        let session = session_name("serial");
        // The first starts the session; the others come while it does, and while it runs.
        let mut calls = vec![client.in_background("serial", &session, &span(0, 2.0))];
        wait::until_true(10, "a session", || Ok(client.live_sessions()?.len() == 1))?;
        for number in 1..=4 {
            calls.push(client.in_background("serial", &session, &span(number, 0.2)));
            // So that they come in this order.
            std::thread::sleep(Duration::from_millis(100));
        }
        busy(&client, &session)?;
        let answer = client.send(Client::invocation("serial", &session, &span(9, 0.0)))?;
        refused(
            answer,
            429,
            "ThrottlingException",
            "limits.max_queue_per_session",
        )?;
        for call in calls {
            assert_eq!(joined(call)?.expect(200)?.json::<Value>()?, 1, "at once");
        }
        let order = puppet::run(&client, "serial", &session, "answer = kept['order']")?;
        assert_eq!(order, json!([0, 1, 2, 3, 4]));
        // Callers that go away while they wait leave the queue: it has room for as many again.
        let works = client.in_background("serial", &session, &span(5, 2.0));
        busy(&client, &session)?;
        for number in 10..30 {
            let body = span(number, 0.0).to_string();
            let mut waits = client.target.connect()?;
            write!(
                waits,
                "POST /runtimes/serial/invocations HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        // That they have gone may be heard a moment later.
        let next = wait::until(10, "room in the queue", || {
            let answer = client.send(Client::invocation("serial", &session, &span(6, 0.0)))?;
            Ok((answer.status != 429).then_some(answer))
        })?;
        next.expect(200)?;
        joined(works)?.expect(200)?;
        let order = puppet::run(&client, "serial", &session, "answer = kept['order']")?;
        assert_eq!(
            order.as_array().and_then(|all| all.last()),
            Some(&json!(6)),
            "{order}"
        );
        // Commands do not take turns.
        let works = client.in_background("serial", &session, &span(7, 3.0));
        busy(&client, &session)?;
        let begun = Instant::now();
        let out = daemon
            .cli()
            .args(["exec", "-s", &session, "--", "echo", "beside"])
            .output()?;
        ensure!(
            out.stdout == b"beside\n" && begun.elapsed() < Duration::from_secs(2),
            "{out:?} after {:?}",
            begun.elapsed()
        );
        joined(works)?.expect(200)?;
        Ok(())
    })
}

#[test]
fn a_turn_comes_back_however_its_call_ends() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let more = json!({"concurrency": "serial", "lifecycle": {"invocation_timeout": 2}});
        puppet::deploy(&client, "serial", more)?;
        let session = session_name("turn");
        let run = |code: &str| puppet::run(&client, "serial", &session, code);
        run("answer = 1")?;
        // An error, a time-out, a client that leaves a stream, the death of the agent.
        let fail = puppet::payload("raise RuntimeError('boom')");
        client
            .send(Client::invocation("serial", &session, &fail))?
            .expect(424)?;
        run("answer = 1")?;
        let slow = puppet::payload("import time; time.sleep(4)");
        client
            .send(Client::invocation("serial", &session, &slow))?
            .expect(504)?;
        run("answer = 1")?;
        let events = "import time\ndef events():\n    while True:\n        yield 1\n        time.sleep(0.05)\nanswer = events()";
        let stream = Client::invocation("serial", &session, &puppet::payload(events));
        let mut stream = client.send(stream)?.expect(200)?;
        stream.piece()?.context("an event")?;
        drop(stream);
        run("answer = 1")?;
        let die = puppet::payload("import os; os._exit(3)");
        let dying = client.in_background("serial", &session, &die);
        joined(dying)?.expect(424)?;
        // The session of this id is a new one.
        assert_eq!(run("answer = kept")?, json!({}));
        Ok(())
    })
}

#[test]
fn a_runtime_that_rejects_answers_409_while_it_works_and_a_parallel_one_does_neither() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "rejects", json!({"concurrency": "reject"}))?;
        puppet::deploy(&client, "parallel", json!({}))?;
        let session = session_name("once");
        puppet::run(&client, "rejects", &session, "answer = 1")?;
        let works = client.in_background("rejects", &session, &span(0, 2.0));
        busy(&client, &session)?;
        let answer = client.send(Client::invocation("rejects", &session, &span(1, 0.0)))?;
        refused(answer, 409, "ConflictException", "concurrency = \"reject\"")?;
        // Another session of it is not concerned.
        puppet::run(&client, "rejects", &session_name("other"), "answer = 1")?;
        joined(works)?.expect(200)?;
        puppet::run(&client, "rejects", &session, "answer = 1")?;

        let both: Vec<_> = (0..2)
            .map(|number| client.in_background("parallel", &session, &span(number, 2.0)))
            .collect();
        let most: Vec<Value> = both
            .into_iter()
            .map(|call| joined(call)?.expect(200)?.json())
            .collect::<anyhow::Result<_>>()?;
        ensure!(most.contains(&json!(2)), "{most:?}");
        let bad = json!({"artifact": "x", "config": {
            "name": "bad", "entrypoint": "agent.py", "concurrency": "sometimes",
        }});
        let put = Request::new("PUT", "/v1/runtimes/bad")
            .header("content-type", "application/json")
            .body(bad.to_string());
        expect_problem(client.send(put)?, 400, "concurrency")?;
        Ok(())
    })
}

#[test]
fn sessions_are_bounded_by_runtime_and_by_caller_and_a_place_is_waited_for() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config(
        "[limits]\nmax_sessions_per_runtime = 2\nmax_sessions_per_caller = 3\nadmission_wait = 2",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        for name in ["a", "b"] {
            puppet::deploy(&client, name, json!({}))?;
        }
        let [first, second, third] = ["first", "second", "third"].map(session_name);
        let new = |runtime: &str, session: &str| {
            client.send(Client::invocation(
                runtime,
                session,
                &puppet::payload("answer = 1"),
            ))
        };
        new("a", &first)?.expect(200)?;
        new("a", &second)?.expect(200)?;
        let begun = Instant::now();
        refused(
            new("a", &third)?,
            402,
            "ServiceQuotaExceededException",
            "limits.max_sessions_per_runtime",
        )?;
        ensure!(begun.elapsed() >= Duration::from_secs(2), "it waits first");
        // Another runtime has places of its own, the caller has not.
        new("b", &third)?.expect(200)?;
        refused(
            new("b", &session_name("fourth"))?,
            402,
            "ServiceQuotaExceededException",
            "limits.max_sessions_per_caller",
        )?;
        // Sessions that are there are not concerned; a place that comes free is taken by who waits.
        new("a", &second)?.expect(200)?;
        let waiting = client.in_background("a", &third, &puppet::payload("answer = 1"));
        client.stop(&first)?;
        joined(waiting)?.expect(200)?;
        Ok(())
    })
}

#[test]
fn new_sessions_come_at_their_rate_and_existing_ones_at_any() -> Result {
    ground!(Daemon, Python);
    let options = Options::default()
        .config("[limits]\nnew_session_rate = 1\nnew_session_burst = 2\nadmission_wait = 3");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "pace", json!({}))?;
        let begun = Instant::now();
        let sessions: Vec<String> = (0..9).map(|_| session_name("pace")).collect();
        let calls: Vec<_> = sessions
            .iter()
            .map(|session| client.in_background("pace", session, &puppet::payload("answer = 1")))
            .collect();
        let mut refusals = 0;
        for call in calls {
            let answer = joined(call)?;
            if answer.status == 200 {
                continue;
            }
            refusals += 1;
            refused(
                answer,
                429,
                "ThrottlingException",
                "limits.new_session_rate",
            )?;
        }
        // Two at once, and one more for each second of patience.
        ensure!((3..=4).contains(&refusals), "{refusals} of 9 are refused");
        ensure!(
            begun.elapsed() >= Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
        let live = client.live_sessions()?;
        let known = live
            .first()
            .context("a session")?
            .session_id
            .as_str()
            .to_owned();
        let begun = Instant::now();
        for _ in 0..20 {
            puppet::run(&client, "pace", &known, "answer = 1")?;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        Ok(())
    })
}

#[test]
fn agents_that_never_come_up_leave_starts_to_others() -> Result {
    ground!(Daemon, Python);
    // The runtime that never comes up gets one of them beside its own, and nobody the other: the next one has its own.
    let options =
        Options::default().config("[limits]\nmax_starting_sessions = 2\nadmission_wait = 2");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let cold = || json!({"fork": "off", "pool": {"max": 0}});
        let never = "import time\ntime.sleep(600)\n";
        e2e::deploy::python(&client, "never", never, cold())?;
        puppet::deploy(&client, "well", cold())?;
        let starting = |most: usize| {
            wait::until_true(20, "sessions that start", || {
                let live = client.live_sessions()?;
                let starting = live.iter().filter(|one| one.phase == Phase::Starting);
                Ok(starting.count() == most)
            })
        };
        let stuck = [session_name("never"), session_name("never")];
        let calls = stuck
            .each_ref()
            .map(|id| client.in_background("never", id, &json!({})));
        starting(2)?;
        refused(
            client.send(Client::invocation(
                "never",
                &session_name("never"),
                &json!({}),
            ))?,
            429,
            "ThrottlingException",
            "limits.max_starting_sessions",
        )?;
        // More than there are places: each gives its own back when it is ready.
        for _ in 0..5 {
            puppet::run(&client, "well", &session_name("well"), "answer = 1")?;
        }
        // So does one that ends.
        let next = session_name("next");
        let waits = client.in_background("never", &next, &json!({}));
        client.stop(&stuck[0])?;
        starting(2)?;
        client.session(&next)?;
        for id in [&stuck[1], &next] {
            client.stop(id)?;
        }
        for call in calls.into_iter().chain([waits]) {
            ensure!(joined(call)?.status != 200);
        }
        Ok(())
    })
}

#[test]
fn whoever_waits_in_a_session_that_ends_goes_on_in_the_next_one() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "serial", json!({"concurrency": "serial"}))?;
        let session = session_name("ends");
        client.invoke("serial", &session, &span(0, 0.0))?;
        let first = client.in_background("serial", &session, &span(1, 60.0));
        busy(&client, &session)?;
        let before = client.session(&session)?;
        let waiting: Vec<_> = (2..4)
            .map(|number| client.in_background("serial", &session, &span(number, 0.0)))
            .collect();
        let began = Instant::now();
        client.stop(&session)?;
        joined(first)?.expect(424)?;
        for call in waiting {
            joined(call)?.expect(200)?;
        }
        // Far from the turn's own patience.
        ensure!(began.elapsed() < wait::seconds(40), "{:?}", began.elapsed());
        let live = client.live_sessions()?;
        let [next] = live.as_slice() else {
            anyhow::bail!("{live:?}");
        };
        ensure!(next.id != before.id && next.session_id == before.session_id);
        Ok(())
    })
}

#[test]
fn first_calls_of_one_session_take_one_place() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config("[limits]\nmax_sessions_per_runtime = 1");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "one", json!({}))?;
        let session = session_name("one");
        let began = Instant::now();
        let calls: Vec<_> = (0..8)
            .map(|number| client.in_background("one", &session, &span(number, 0.0)))
            .collect();
        for call in calls {
            joined(call)?.expect(200)?;
        }
        // None of them has waited for a place that its own session had.
        ensure!(began.elapsed() < wait::seconds(9), "{:?}", began.elapsed());
        ensure!(client.live_sessions()?.len() == 1);
        Ok(())
    })
}
