//! An SDK that tries again does not run an agent twice: later attempts join the run, or get the answer that it gave; what is
//! kept for that is bounded in time and size. Tier: root; boto3 needs PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, joined, session_name};
use e2e::http::{Request, Response, Target};
use e2e::{Client, Daemon, Options, Result, deploy, ground, places, puppet, venv, wait};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// An attempt of the call `id`.
fn attempt(runtime: &str, session: &str, id: &str, payload: &Value) -> Request {
    Client::invocation(runtime, session, payload).header(INVOCATION_ID, id)
}

/// An id as SDKs make them.
fn call_id(number: u32) -> String {
    format!("11111111-2222-4333-8444-{number:012}")
}

/// Code that counts its runs in its session, then does `then`.
fn counted(then: &str) -> Value {
    puppet::payload(&format!(
        "kept['runs'] = kept.get('runs', 0) + 1\nimport time\n{then}"
    ))
}

fn runs(client: &Client, runtime: &str, session: &str) -> anyhow::Result<Value> {
    puppet::run(client, runtime, session, "answer = kept.get('runs', 0)")
}

/// Sends a call and goes away without waiting for its answer, once `arrived` says that it is there.
fn abandon(
    client: &Client,
    session: &str,
    id: &str,
    payload: &Value,
    arrived: impl Fn() -> anyhow::Result<bool>,
) -> Result {
    let body = payload.to_string();
    let head = format!(
        "POST /runtimes/again/invocations HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\n\
         {INVOCATION_ID}: {id}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = client.target.connect()?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    wait::until_true(20, "the call to be under way", arrived)?;
    drop(stream);
    Ok(())
}

fn boto3(daemon: &Daemon, arn: &str, session: &str, seconds: u32) -> anyhow::Result<u32> {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let out = Command::new(venv::bin()?.join("python"))
        .arg(places::source().join("tests/clients/retry_calls.py"))
        .args([&format!("http://{address}"), arn, session])
        .arg(seconds.to_string())
        .output()?;
    ensure!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

#[test]
fn boto3_with_a_short_read_timeout_runs_its_agent_once_and_has_the_answer() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("warm");
        puppet::run(&client, "again", &session, "answer = 1")?;
        let retries = boto3(daemon, &runtime.arn, &session, 5)?;
        ensure!(
            (2..=3).contains(&retries),
            "{retries} retries of 2 s in 5 s"
        );
        // And one whose first attempts are over before its session has started.
        let slow = format!("import time\ntime.sleep(3)\n{}", puppet::SOURCE);
        let runtime = deploy::python(&client, "slow", &slow, json!({}))?;
        let retries = boto3(daemon, &runtime.arn, &session_name("cold"), 2)?;
        ensure!(
            (2..=4).contains(&retries),
            "{retries} retries of 2 s in 5 s"
        );
        Ok(())
    })
}

#[test]
fn a_call_whose_client_goes_away_is_found_by_its_next_attempt_and_only_by_that() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("found");
        puppet::run(&client, "again", &session, "answer = 1")?;
        let work = counted("time.sleep(2); answer = ['done', kept['runs']]");
        let under_way = || Ok(client.session(&session)?.in_flight == 1);
        abandon(&client, &session, &call_id(1), &work, under_way)?;
        // Meanwhile others: another id, another body, another user's session of the same name, and one without an id.
        let begun = Instant::now();
        let send = |request: Request| {
            let client = client.clone();
            std::thread::spawn(move || client.send(request))
        };
        let other_body = counted("answer = ['other', kept['runs']]");
        let others = [
            send(attempt("again", &session, &call_id(2), &work)),
            send(attempt("again", &session, &call_id(1), &other_body)),
            send(Client::invocation("again", &session, &work)),
        ];
        let stranger = attempt("again", &session, &call_id(1), &work)
            .header("X-Amzn-Bedrock-AgentCore-Runtime-User-Id", "somebody");
        let stranger = send(stranger);
        let mine = client.send(attempt("again", &session, &call_id(1), &work))?;
        let mine: Value = mine.expect(200)?.json()?;
        assert_eq!(mine[0], "done");
        for other in others {
            joined(other)?.expect(200)?;
        }
        assert_eq!(
            joined(stranger)?.expect(200)?.json::<Value>()?,
            json!(["done", 1]),
            "a session of its own"
        );
        ensure!(begun.elapsed() < Duration::from_secs(30));
        assert_eq!(runs(&client, "again", &session)?, json!(4));
        // The finished answer too, headers and all, as often as it is asked for.
        for _ in 0..3 {
            let again = client.send(attempt("again", &session, &call_id(1), &work))?;
            let again = again.expect(200)?;
            assert_eq!(again.header("content-type"), Some("application/json"));
            assert_eq!(again.header(SESSION_HEADER), Some(session.as_str()));
            assert_eq!(again.json::<Value>()?, mine);
        }
        assert_eq!(runs(&client, "again", &session)?, json!(4));
        Ok(())
    })
}

#[test]
fn a_stream_is_joined_from_its_start_and_the_latest_attempt_has_it() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("stream");
        let events = counted(
            "def events():\n    for n in range(30):\n        yield {'n': n}\n        time.sleep(0.1)\nanswer = events()",
        );
        let begin = || -> anyhow::Result<Response> {
            let mut answer = client
                .send(attempt("again", &session, &call_id(1), &events))?
                .expect(200)?;
            answer.piece()?.context("a first event")?;
            Ok(answer)
        };
        drop(begin()?);
        // This one's client does not go away: its stream breaks when the next attempt takes over.
        let second = begin()?;
        let mut third = client.send(attempt("again", &session, &call_id(1), &events))?;
        let first = third.piece()?.context("the first event")?;
        ensure!(first.starts_with(b"data: {\"n\": 0}"), "{first:?}");
        let broken = second.drain(|_, _| Ok(())).expect_err("taken over");
        ensure!(format!("{broken:#}").contains("cut off"), "{broken:#}");
        let mut text = String::from_utf8(first)?;
        text.push_str(&third.text()?);
        let want: String = (0..30)
            .map(|n| format!("data: {{\"n\": {n}}}\n\n"))
            .collect();
        assert_eq!(text, want);
        assert_eq!(runs(&client, "again", &session)?, json!(1));
        Ok(())
    })
}

#[test]
fn an_agents_error_is_kept_and_a_refusal_is_not() -> Result {
    ground!(Daemon, Python);
    let options =
        Options::default().config("[limits]\nmax_invocations_per_session = 1\nadmission_wait = 1");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let session = session_name("errors");
        puppet::deploy(&client, "puppet", json!({}))?;
        let fail = counted("raise RuntimeError('boom')");
        for _ in 0..2 {
            let answer = client.send(attempt("puppet", &session, &call_id(1), &fail))?;
            expect_aws_error(answer, 424, "RuntimeClientError", "boom")?;
        }
        assert_eq!(runs(&client, "puppet", &session)?, json!(1));
        // A refusal for load: the same call runs as soon as there is room.
        let busy = client.in_background("puppet", &session, &counted("time.sleep(6)"));
        wait::until_true(10, "the session to be busy", || {
            Ok(client.session(&session)?.in_flight == 1)
        })?;
        let work = counted("answer = 'ran'");
        let refused = client.send(attempt("puppet", &session, &call_id(2), &work))?;
        expect_aws_error(
            refused,
            429,
            "ThrottlingException",
            "max_invocations_per_session",
        )?;
        joined(busy)?.expect(200)?;
        let answer = client.send(attempt("puppet", &session, &call_id(2), &work))?;
        assert_eq!(answer.expect(200)?.json::<Value>()?, "ran");
        Ok(())
    })
}

#[test]
fn answers_are_kept_for_their_window_and_calls_go_on_for_their_time_and_no_longer() -> Result {
    ground!(Daemon, Python);
    let options = Options::default().config("[limits]\nretry_window = 2\nretry_linger = 3");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("window");
        let work = counted("answer = kept['runs']");
        let ask = || -> anyhow::Result<Value> {
            client
                .send(attempt("again", &session, &call_id(1), &work))?
                .expect(200)?
                .json()
        };
        assert_eq!(ask()?, json!(1));
        let answered = Instant::now();
        assert_eq!(ask()?, json!(1));
        wait::until_true(10, "the answer to be forgotten", || Ok(ask()? == json!(2)))?;
        ensure!(
            answered.elapsed() > Duration::from_millis(1500),
            "forgotten after {:?}",
            answered.elapsed()
        );
        // Nobody comes for this one; the agent is told.
        let endless = counted(
            "kept['ends'] = []\ndef events():\n    try:\n        while True:\n            yield 0\n            time.sleep(0.1)\n    except GeneratorExit:\n        kept['ends'].append('cut')\n        raise\nanswer = events()",
        );
        let mut answer = client.send(attempt("again", &session, &call_id(2), &endless))?;
        answer.piece()?.context("a first event")?;
        drop(answer);
        let went = Instant::now();
        wait::until_true(20, "the call to be given up", || {
            Ok(client.session(&session)?.in_flight == 0)
        })?;
        ensure!(
            went.elapsed() > Duration::from_secs(2),
            "given up after {:?}",
            went.elapsed()
        );
        wait::until_true(5, "the agent to learn of it", || {
            Ok(puppet::run(&client, "again", &session, "answer = kept['ends']")? == json!(["cut"]))
        })
    })
}

#[test]
fn what_is_kept_is_bounded_and_what_is_not_kept_is_not_run_again_behind_the_callers_back() -> Result
{
    ground!(Daemon, Python);
    let options =
        Options::default().config("[limits]\nretry_answer = \"64K\"\nretry_memory = \"256K\"");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("bounds");
        // The oldest answers go for the newer ones, so the first call runs anew, and the last does not.
        let work = counted("answer = [kept['runs'], 'x' * 30000]");
        let ask = |id: u32| -> anyhow::Result<Value> {
            let answer = client.send(attempt("again", &session, &call_id(id), &work))?;
            Ok(answer.expect(200)?.json::<Value>()?[0].clone())
        };
        for id in 1..=20 {
            assert_eq!(ask(id)?, json!(id));
        }
        assert_eq!(ask(20)?, json!(20));
        assert_eq!(ask(1)?, json!(21));
        // An answer over the bound: whole for the first attempt, and refused to the next while it is still coming.
        let large = counted(
            "def events():\n    yield 'begin'\n    time.sleep(1)\n    for n in range(40):\n        yield 'x' * 5000\n    kept['said'] = True\n    time.sleep(2)\n    yield 'end'\nanswer = events()",
        );
        let mut first = client
            .send(attempt("again", &session, &call_id(50), &large))?
            .expect(200)?;
        let mut read = 0;
        while read < 200_000 {
            read += first.piece()?.context("more")?.len();
        }
        let second = client.send(attempt("again", &session, &call_id(50), &large))?;
        expect_aws_error(second, 409, "ConflictException", "retry_answer")?;
        ensure!(first.text()?.ends_with("data: \"end\"\n\n"));
        // Abandoned before it was over the bound (its client goes in the first second), it waits for the next attempt, which
        // gets all of it.
        drop(
            client
                .send(attempt("again", &session, &call_id(51), &large))?
                .expect(200)?,
        );
        let all = client.send(attempt("again", &session, &call_id(51), &large))?;
        let all = all.expect(200)?.text()?;
        assert_eq!(all.matches("data: ").count(), 42);
        assert_eq!(runs(&client, "again", &session)?, json!(23));
        Ok(())
    })
}

#[test]
fn large_bodies_are_told_apart_too() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        let session = session_name("large");
        let body = |fill: &str| {
            let mut payload =
                counted("time.sleep(1); answer = [kept['runs'], payload['fill'][-1]]");
            payload["fill"] = json!(fill.repeat(1_000_000));
            payload
        };
        let send = |fill: &str| client.send(attempt("again", &session, &call_id(1), &body(fill)));
        let both = client.in_background("again", &session, &json!({"code": "answer = 1"}));
        joined(both)?.expect(200)?;
        // Two at once, then one that comes late, and one of the same length with other bytes.
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| send("a"));
            let other = scope.spawn(|| send("a"));
            (
                one.join().expect("no panic"),
                other.join().expect("no panic"),
            )
        });
        for answer in [one?, other?, send("a")?] {
            assert_eq!(answer.expect(200)?.json::<Value>()?, json!([1, "a"]));
        }
        expect_aws_error(send("b")?, 409, "ConflictException", INVOCATION_ID)?;
        assert_eq!(send("cc")?.expect(200)?.json::<Value>()?, json!([2, "c"]));
        assert_eq!(runs(&client, "again", &session)?, json!(2));
        // An upload that breaks off is no run: the next attempt is.
        let half = body("d").to_string();
        let head = format!(
            "POST /runtimes/again/invocations HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\n\
             {INVOCATION_ID}: {}\r\ncontent-length: {}\r\n\r\n",
            call_id(2),
            half.len()
        );
        let mut stream = client.target.connect()?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(&half.as_bytes()[..500_000])?;
        wait::until_true(10, "the call to be under way", || {
            Ok(client.session(&session)?.in_flight == 1)
        })?;
        drop(stream);
        let answer = client.send(attempt("again", &session, &call_id(2), &body("d")))?;
        assert_eq!(answer.expect(200)?.json::<Value>()?, json!([3, "d"]));
        Ok(())
    })
}

#[test]
fn attempts_that_come_and_go_in_any_order_run_their_call_once_and_leave_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", json!({}))?;
        // Every second call is a stream; each runs for half a second, and its clients leave after less, or more, than that.
        let callers: Vec<_> = (0..24_u32)
            .map(|number| {
                let client = client.clone();
                std::thread::spawn(move || -> anyhow::Result<String> {
                    let session = session_name("storm");
                    let then = match number % 2 {
                        0 => "time.sleep(0.5); answer = kept['runs']",
                        _ => "def events():\n    for n in range(10):\n        time.sleep(0.05)\n        yield kept['runs']\nanswer = events()",
                    };
                    let work = counted(then).to_string();
                    let request = format!(
                        "POST /runtimes/again/invocations HTTP/1.1\r\nhost: localhost\r\n{SESSION_HEADER}: {session}\r\n\
                         {INVOCATION_ID}: {}\r\ncontent-length: {}\r\n\r\n{work}",
                        call_id(number),
                        work.len()
                    );
                    for step in 0..12_u32 {
                        let mut stream = client.target.connect()?;
                        stream.write_all(request.as_bytes())?;
                        let patience = u64::from((number * 7 + step * 13) % 90);
                        std::thread::sleep(Duration::from_millis(patience));
                    }
                    let last = Client::invocation("again", &session, &serde_json::from_str(&work)?);
                    let last = client.send(last.header(INVOCATION_ID, call_id(number)))?;
                    let said = last.expect(200)?.text()?;
                    let want = match number % 2 {
                        0 => "1".to_owned(),
                        _ => "data: 1\n\n".repeat(10),
                    };
                    ensure!(said == want, "{number}: {said:?}");
                    assert_eq!(runs(&client, "again", &session)?, json!(1), "{number}");
                    Ok(session)
                })
            })
            .collect();
        for caller in callers {
            let session = joined(caller)?;
            ensure!(client.session(&session)?.in_flight == 0);
        }
        Ok(())
    })
}
