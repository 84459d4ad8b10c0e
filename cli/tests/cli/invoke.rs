//! `invoke`.

use crate::fake::{Fake, NEW_SESSION, Script};
use crate::ran::{Heard, eventually, finished};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

const SESSION: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

fn shop() -> Fake {
    let fake = Fake::start();
    fake.deployed("shop");
    fake
}

#[test]
fn the_payload_goes_as_typed_and_the_answer_comes_as_sent() {
    let fake = shop();
    let payload = "{ \"prompt\":\t\"Grüße\" }";
    let done = fake.run(&["invoke", payload]).exits(0);
    assert_eq!(done.out, "{\"echo\":{\"prompt\":\"Grüße\"}}");
    assert_eq!(
        done.err,
        format!("session {NEW_SESSION} (continue it with -s {NEW_SESSION})\n")
    );
    let seen = &fake.invocations()[0];
    assert_eq!(seen.path, "/runtimes/shop/invocations");
    assert_eq!(seen.body, payload.as_bytes());
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("accept"), Some("application/json, */*;q=0.5"));
    assert_eq!(seen.header(SESSION), None);
}

#[test]
fn payloads_come_from_files_and_standard_input() {
    let fake = shop();
    fake.write("p.json", "[1]\n");
    assert_eq!(
        fake.run(&["invoke", "@p.json", "-q"]).exits(0).out,
        "{\"echo\":[1]}"
    );
    let mut child = fake
        .command(&["invoke", "-", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"[2]")
        .expect("written");
    assert_eq!(finished(child).exits(0).out, "{\"echo\":[2]}");
    fake.run(&["invoke", "@gone.json"])
        .exits(2)
        .says(&["gone.json"]);
}

#[test]
fn what_is_no_json_is_refused_unless_raw() {
    let fake = shop();
    for bad in ["hello", "{prompt: 1}", "", "{} {}"] {
        fake.run(&["invoke", bad]).exits(2).says(&[
            "not JSON",
            "'{\"prompt\": \"Hello\"}'",
            "--raw",
        ]);
    }
    assert!(fake.invocations().is_empty(), "nothing was sent");
    let done = fake.run(&["invoke", "hello", "--raw"]).exits(0);
    assert_eq!(done.out, "hello");
    assert_eq!(
        fake.invocations()[0].header("content-type"),
        Some("application/octet-stream")
    );
}

#[test]
fn sessions_and_users_travel_in_their_headers() {
    let fake = shop();
    let id = "a".repeat(33);
    let done = fake.run(&["invoke", "{}", "-s", &id, "-u", "ada"]).exits(0);
    assert_eq!(done.err, "", "the user knows the session");
    let seen = &fake.invocations()[0];
    assert_eq!(seen.header(SESSION), Some(id.as_str()));
    assert_eq!(
        seen.header("x-amzn-bedrock-agentcore-runtime-user-id"),
        Some("ada")
    );
    fake.run(&["invoke", "{}", "--session-id", "short"])
        .exits(2)
        .says(&["33 to 256", "UUID"]);
}

#[test]
fn runtimes_are_named_by_arn_too() {
    let fake = shop();
    let arn = "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/shop-AbCdEf1234";
    fake.run(&["invoke", "{}", "-a", arn]).exits(0);
    let segment =
        "arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fshop-AbCdEf1234";
    assert_eq!(
        fake.invocations()[0].path,
        format!("/runtimes/{segment}/invocations")
    );
    fake.run(&["invoke", "{}", "-a", "gone"])
        .exits(3)
        .says(&["no runtime gone"]);
}

#[test]
fn json_wraps_the_answer() {
    let fake = shop();
    let done = fake.run(&["invoke", "{}", "--json"]).exits(0).json();
    assert_eq!(
        done,
        json!({ "runtime": "shop", "sessionId": NEW_SESSION, "status": 200, "contentType": "application/json",
            "response": { "echo": {} } })
    );
    fake.state().script = Script::Answer(200, vec![("content-type", "text/plain")], "plain".into());
    assert_eq!(
        fake.run(&["invoke", "{}", "--json"]).exits(0).json()["response"],
        "plain"
    );
}

#[test]
fn streams_are_decoded_and_shown_at_once() {
    let fake = shop();
    fake.state().script = Script::Held(vec![
        "data: \"Hel",
        "lo\"\n\n",
        ": comment\r\ndata: \", world\"\r\n\r\n",
        "data: {\"tool\": 1}\n\ndata: \"end\\n\"\n\n",
    ]);
    let mut child = fake
        .command(&["invoke", "{}", "--stream", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let out = Heard::from(child.stdout.take().expect("piped"));
    fake.go_on.notify_one();
    assert_eq!(
        out.until("Hello"),
        "Hello",
        "shown before the next event was sent"
    );
    fake.go_on.notify_one();
    assert_eq!(out.until(", world"), ", world");
    fake.go_on.notify_one();
    assert_eq!(out.rest(), "\n{\"tool\":1}\nend\n");
    finished(child).exits(0);
}

#[test]
fn streams_as_json_are_one_line_each_and_raw_without_the_flag() {
    let fake = shop();
    let stream = "data: \"a\"\n\ndata: {\"b\":\ndata: 1}\n\ndata: not json\n\n";
    let script = Script::Answer(
        200,
        vec![("content-type", "text/event-stream")],
        stream.into(),
    );
    fake.state().script = script;
    let lines = fake
        .run(&["invoke", "{}", "--stream", "--json"])
        .exits(0)
        .out;
    assert_eq!(lines, "\"a\"\n{\"b\":1}\n\"not json\"\n");
    assert_eq!(fake.run(&["invoke", "{}"]).exits(0).out, stream);
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    let fake = shop();
    fake.state().script = Script::Cut("{\"half\":");
    let done = fake
        .run(&["invoke", "{}"])
        .exits(1)
        .says(&["cut off after 8 bytes", "not complete"]);
    assert_eq!(done.out, "{\"half\":", "what came is shown");
    fake.run(&["invoke", "{}", "--json"])
        .exits(1)
        .says(&["cut off after 8 bytes"]);
    fake.state().script = Script::Answer(
        200,
        vec![
            ("content-type", "text/event-stream"),
            ("content-length", "100"),
        ],
        "data: \"a\"\n\n".into(),
    );
    // hyper refuses to send less than it promised: the connection breaks.
    fake.run(&["invoke", "{}", "--stream"]).exits(1);
}

#[test]
fn an_agents_failure_comes_with_its_last_words() {
    let fake = shop();
    let body = json!({ "message": "Received error (500) from runtime.", "agentStatus": 500, "agentBody": "{\"error\":\"boom\"}",
        "agentLog": ["Traceback:", "ValueError: boom"] });
    let error = ("x-amzn-errortype", "RuntimeClientError");
    fake.state().script = Script::Answer(424, vec![error], body.to_string());
    let done = fake.run(&["invoke", "{}"]).exits(1);
    done.says(&[
        "the agent answered with status 500",
        "boom",
        "ValueError: boom",
    ]);
    assert_eq!(
        fake.seen(&hyper::Method::GET, "/v1/sessions/").len(),
        0,
        "nothing had to be fetched"
    );

    // Without lines in the error, they are fetched.
    fake.state().script = Script::Answer(424, vec![error], "{\"message\":\"it died\"}".into());
    fake.state()
        .logs
        .insert(NEW_SESSION.to_owned(), vec![record("last words")]);
    fake.run(&["invoke", "{}"])
        .exits(1)
        .says(&["it died", "\n    last words\n"]);
    let asked = &fake.seen(&hyper::Method::GET, "/v1/sessions/")[0];
    assert_eq!(asked.path, format!("/v1/sessions/{NEW_SESSION}/logs"));
    assert_eq!(asked.query, "runtime=shop&tail=10");
}

fn record(text: &str) -> proto::api::LogRecord {
    proto::api::LogRecord {
        at: "2026-01-01T00:00:00.000Z".into(),
        stream: Some(proto::shim::LogStream::Stderr),
        text: text.into(),
    }
}

#[test]
fn load_and_time_have_exit_codes_of_their_own() {
    let fake = shop();
    let throttled = vec![
        ("x-amzn-errortype", "ThrottlingException"),
        ("retry-after", "3"),
    ];
    fake.state().script = Script::Answer(429, throttled, "{\"message\":\"too many\"}".into());
    fake.run(&["invoke", "{}"])
        .exits(75)
        .says(&["too many", "try again in 3 s"]);
    let late = vec![("x-amzn-errortype", "RuntimeClientError")];
    fake.state().script = Script::Answer(
        504,
        late,
        "{\"message\":\"the agent took too long\"}".into(),
    );
    fake.run(&["invoke", "{}"])
        .exits(124)
        .says(&["took too long"]);
}

#[test]
fn giving_up_cancels_the_invocation() {
    let fake = shop();
    fake.state().script = Script::Hang;
    fake.run(&["invoke", "{}", "--timeout", "0.3"])
        .exits(124)
        .says(&["within 0.3 s", "cancelled"]);
    eventually("the daemon sees the caller go", || {
        fake.state().cancelled.then_some(())
    });

    // Also in the middle of a stream.
    fake.state().cancelled = false;
    fake.state().script = Script::Held(vec![
        "data: \"a\"\n\n",
        "data: \"b\"\n\n",
        "data: \"c\"\n\n",
    ]);
    let done = fake
        .run(&["invoke", "{}", "--stream", "--timeout", "0.5"])
        .exits(124);
    assert_eq!(done.out, "a");
    eventually("the daemon sees the caller go", || {
        fake.go_on.notify_one();
        fake.state().cancelled.then_some(())
    });
    for bad in ["0", "-1", "soon"] {
        fake.run(&["invoke", "{}", &format!("--timeout={bad}")])
            .exits(2);
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let fake = shop();
    fake.state().script = Script::Answer(200, vec![], "x".repeat(1 << 20));
    let mut child = fake
        .command(&["invoke", "{}", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let done = finished(child);
    assert_eq!(done.err, "", "no word about a closed pipe");
}

#[test]
fn bench_calls_new_sessions_and_one_that_is_ready_and_stops_them() {
    let fake = shop();
    let done = fake
        .run(&["bench", "--new", "3", "--calls", "5", "{\"n\": 1}"])
        .exits(0);
    let lines: Vec<&str> = done.out.lines().collect();
    assert!(lines[0].starts_with("CALL OF A"), "{lines:?}");
    let counted = [
        ("new session", "3"),
        ("new session", "3"),
        ("ready session", "5"),
        ("ready session", "5"),
    ];
    assert_eq!(lines.len(), 1 + counted.len());
    for (line, (what, calls)) in lines[1..].iter().zip(counted) {
        assert!(
            line.starts_with(what) && line.split_whitespace().nth(4) == Some(calls),
            "{line}"
        );
    }
    let calls = fake.invocations();
    assert_eq!(calls.len(), 8);
    assert!(calls.iter().all(|call| call.body == b"{\"n\": 1}"[..]));
    assert!(calls[..3].iter().all(|call| call.header(SESSION).is_none()));
    assert!(
        calls[3..]
            .iter()
            .all(|call| call.header(SESSION) == Some(NEW_SESSION))
    );
    let stopped = fake.seen(
        &hyper::Method::DELETE,
        &format!("/v1/sessions/{NEW_SESSION}"),
    );
    assert_eq!(stopped.len(), 3);
    let document = fake
        .run(&["bench", "--new", "1", "--calls", "0", "--json"])
        .exits(0)
        .json();
    assert_eq!(document[0]["what"], "new session");
    assert_eq!(document[0]["samples"].as_array().map(Vec::len), Some(1));
    fake.run(&["bench", "--new", "0"]).exits(2);
}
