//! Every error of the AWS wire as botocore reads it, each really provoked: class, code, status, request id, message, the fields of a
//! ValidationException, and whether boto3 tries again, and when. Tier: root; boto3 needs PyPI.
//!
//! What needs credentials (401, and 403 for a caller who may not) is with the tests of authentication.

use anyhow::{Context as _, ensure};
use e2e::client::{joined, session_name};
use e2e::http::Target;
use e2e::{Daemon, Options, Result, ground, places, puppet, venv, wait};
use proto::api::Phase;
use serde_json::{Value, json};
use std::process::Command;

/// Makes a call by boto3 and gives what came of it.
fn call(daemon: &Daemon, call: &Value) -> anyhow::Result<Value> {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let out = Command::new(venv::bin()?.join("python"))
        .arg(places::source().join("tests/clients/error_calls.py"))
        .args([format!("http://{address}"), call.to_string()])
        .output()?;
    ensure!(
        out.status.success(),
        "{call}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Arguments of an invocation.
fn invoke(arn: &str, session: &str) -> Value {
    json!({"agentRuntimeArn": arn, "runtimeSessionId": session, "payload": ""})
}

struct Expected<'a> {
    name: &'a str,
    status: u16,
    /// In the message.
    text: &'a str,
    /// How often boto3 tried again.
    retries: u32,
}

/// The call failed so. botocore knows the class by the model, the rest by what it read.
fn failed(said: &Value, expected: &Expected<'_>) -> Result {
    let Expected {
        name,
        status,
        text,
        retries,
    } = *expected;
    let error = &said["Error"];
    let meta = &said["ResponseMetadata"];
    ensure!(error["Code"] == name, "code: {said}");
    ensure!(
        said["kind"] == name && said["named"] == true,
        "class: {said}"
    );
    ensure!(meta["HTTPStatusCode"] == status, "status: {said}");
    ensure!(
        error["Message"]
            .as_str()
            .is_some_and(|message| message.contains(text)),
        "{text:?}: {said}"
    );
    ensure!(
        meta["RequestId"].as_str().is_some_and(|id| id.len() == 36),
        "request id: {said}"
    );
    ensure!(meta["RetryAttempts"] == retries, "retries: {said}");
    Ok(())
}

#[test]
fn bad_requests_unknown_runtimes_and_foreign_pages() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options::default().config("[limits]\nmax_body = 2048");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "errors", json!({}))?;
        let session = session_name("errors");
        let mut bad = invoke(&runtime.arn, &session);
        bad["qualifier"] = json!("no such name!");
        let said = call(daemon, &json!({"arguments": bad}))?;
        let expected = Expected {
            name: "ValidationException",
            status: 400,
            text: "qualifier",
            retries: 0,
        };
        failed(&said, &expected)?;
        ensure!(said["reason"] == "FieldValidationFailed", "{said}");
        ensure!(said["fieldList"][0]["name"] == "qualifier", "{said}");
        ensure!(said["fieldList"][0]["message"].is_string(), "{said}");

        let large = json!({"arguments": invoke(&runtime.arn, &session), "code": "#".repeat(5000)});
        let expected = Expected {
            name: "ValidationException",
            status: 413,
            text: "limits.max_body",
            retries: 0,
        };
        failed(&call(daemon, &large)?, &expected)?;

        let unknown = runtime.arn.replace("runtime/errors", "runtime/nobody");
        let expected = Expected {
            name: "ResourceNotFoundException",
            status: 404,
            text: "nobody",
            retries: 0,
        };
        failed(
            &call(daemon, &json!({"arguments": invoke(&unknown, &session)}))?,
            &expected,
        )?;
        let stop = json!({
            "operation": "stop_runtime_session",
            "arguments": {"agentRuntimeArn": runtime.arn, "runtimeSessionId": session},
        });
        let expected = Expected {
            text: "no live session",
            ..expected
        };
        failed(&call(daemon, &stop)?, &expected)?;

        let page = json!({
            "arguments": invoke(&runtime.arn, &session),
            "headers": {"Origin": "http://evil.test"},
        });
        let expected = Expected {
            name: "AccessDeniedException",
            status: 403,
            text: "origins",
            retries: 0,
        };
        failed(&call(daemon, &page)?, &expected)?;
        assert_eq!(
            client.sessions("")?.len(),
            0,
            "none of them starts anything"
        );
        Ok(())
    })
}

#[test]
fn what_an_agent_does_wrong_is_told_in_its_own_words_and_not_tried_again() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let more = json!({"lifecycle": {"invocation_timeout": 1}});
        let runtime = puppet::deploy(&client, "errors", more)?;
        let session = session_name("errors");
        let counted = |then: &str| {
            let code = format!("kept['runs'] = kept.get('runs', 0) + 1\n{then}");
            json!({"arguments": invoke(&runtime.arn, &session), "code": code})
        };
        let expected = |status, text, retries| Expected {
            name: "RuntimeClientError",
            status,
            text,
            retries,
        };
        let said = call(daemon, &counted("raise RuntimeError('boom')"))?;
        failed(
            &said,
            &expected(424, "Received error (500) from runtime", 0),
        )?;
        failed(&said, &expected(424, "boom", 0))?;
        // boto3 tries a 504 again. It gets the same one, and the agent has run once.
        let said = call(daemon, &counted("import time; time.sleep(3)"))?;
        failed(&said, &expected(504, "lifecycle.invocation_timeout", 2))?;
        wait::until_true(10, "the agent to be done", || {
            Ok(client.session(&session)?.in_flight == 0)
        })?;
        let runs = puppet::run(&client, "errors", &session, "answer = kept['runs']")?;
        assert_eq!(runs, json!(2));
        let said = call(daemon, &counted("import os; os._exit(7)"))?;
        failed(&said, &expected(424, "exit status 7", 0))?;
        e2e::deploy::python(&client, "broken", "import nothing_like_it", json!({}))?;
        let broken = json!({"arguments": invoke("broken", &session_name("broken"))});
        let said = call(daemon, &broken)?;
        failed(
            &said,
            &expected(424, "exit status 1 before it was ready", 0),
        )
    })
}

#[test]
fn quotas_load_and_conflicts_and_when_boto3_comes_again() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options::default().config(
        "[limits]\nmax_invocations_per_session = 1\nmax_sessions_per_runtime = 1\nadmission_wait = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let plain = puppet::deploy(&client, "plain", json!({}))?;
        let once = puppet::deploy(&client, "once", json!({"concurrency": "reject"}))?;
        let session = session_name("busy");
        puppet::run(&client, "plain", &session, "answer = 1")?;
        puppet::run(&client, "once", &session, "answer = 1")?;
        let long = puppet::payload("import time; time.sleep(12)");
        let works = ["plain", "once"].map(|name| client.in_background(name, &session, &long));
        wait::until_true(10, "both to be busy", || {
            let live = client.live_sessions()?;
            Ok(live.iter().filter(|session| session.in_flight == 1).count() == 2)
        })?;
        let said = call(
            daemon,
            &json!({"arguments": invoke(&plain.arn, &session_name("more"))}),
        )?;
        let expected = Expected {
            name: "ServiceQuotaExceededException",
            status: 402,
            text: "limits.max_sessions_per_runtime",
            retries: 0,
        };
        failed(&said, &expected)?;
        let said = call(daemon, &json!({"arguments": invoke(&once.arn, &session)}))?;
        let expected = Expected {
            name: "ConflictException",
            status: 409,
            text: "concurrency",
            retries: 0,
        };
        failed(&said, &expected)?;
        // Load is tried again, not before the answer's own time: one second, twice.
        let said = call(daemon, &json!({"arguments": invoke(&plain.arn, &session)}))?;
        let expected = Expected {
            name: "ThrottlingException",
            status: 429,
            text: "limits.max_invocations_per_session",
            retries: 2,
        };
        failed(&said, &expected)?;
        let headers = &said["ResponseMetadata"]["HTTPHeaders"];
        ensure!(headers["x-amz-retry-after"] == "1000", "{said}");
        ensure!(headers["retry-after"] == "1", "{said}");
        let seconds = said["seconds"].as_f64().context("seconds")?;
        ensure!(
            seconds >= 2.0,
            "boto3 waits as long as it is asked to: {said}"
        );
        for work in works {
            joined(work)?.expect(200)?;
        }
        Ok(())
    })
}

#[test]
fn a_session_that_is_stopped_while_it_starts_is_a_conflict_that_boto3_tries_again() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        // Takes its time for the first start only.
        let slow = format!("import time\ntime.sleep(5)\n{}", puppet::SOURCE);
        let runtime = e2e::deploy::python(&client, "slow", &slow, json!({}))?;
        for (attempts, retries) in [(1, 0), (3, 1)] {
            let session = session_name("stopped");
            let wanted = json!({
                "arguments": invoke(&runtime.arn, &session),
                "code": "answer = 'ran'",
                "attempts": attempts,
            });
            let said = std::thread::scope(|scope| {
                let caller = scope.spawn(|| call(daemon, &wanted));
                wait::until_true(20, "the session to start", || {
                    Ok(client
                        .sessions("")?
                        .iter()
                        .any(|s| s.session_id.as_str() == session && s.phase == Phase::Starting))
                })?;
                client.stop(&session)?;
                caller.join().expect("no panic")
            })?;
            if retries == 0 {
                let expected = Expected {
                    name: "RetryableConflictException",
                    status: 409,
                    text: "could not be started",
                    retries,
                };
                failed(&said, &expected)?;
                let again = &said["ResponseMetadata"]["HTTPHeaders"]["x-amz-retry-after"];
                ensure!(again.is_string(), "{said}");
            } else {
                ensure!(said["answer"] == "ran", "{said}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_fault_of_ours_is_500_and_is_tried_again() -> Result {
    ground!(Daemon, Faults, Python, Registry);
    let options = Options::default()
        .faults()
        .env("AGENTCORED_FAIL_STEP", "cgroup.memory");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "errors", json!({}))?;
        let session = session_name("errors");
        let said = call(
            daemon,
            &json!({"arguments": invoke(&runtime.arn, &session)}),
        )?;
        let expected = Expected {
            name: "InternalServerException",
            status: 500,
            text: "could not be started",
            retries: 2,
        };
        failed(&said, &expected)
    })
}
