//! `logs`.

use crate::fake::Fake;
use crate::ran::{Heard, eventually, finished, signal};
use proto::api::LogRecord;
use proto::shim::LogStream;
use serde_json::{Value, json};
use std::process::Stdio;

fn record(second: u32, text: &str) -> LogRecord {
    LogRecord {
        at: format!("2026-01-01T00:00:{second:02}.000Z"),
        stream: (!text.starts_with("note")).then_some(LogStream::Stdout),
        text: text.into(),
    }
}

fn shop() -> Fake {
    let fake = Fake::start();
    fake.deployed("shop");
    fake.session("sess1", "shop", "ready");
    fake.state().logs.insert(
        "sess1".into(),
        vec![record(1, "one"), record(3, "three"), record(5, "note five")],
    );
    fake
}

#[test]
fn one_session_is_shown_plainly_and_several_by_time_with_their_ids() {
    let fake = shop();
    assert_eq!(
        fake.run(&["logs"]).exits(0).out,
        "one\nthree\n-- note five\n"
    );
    assert_eq!(
        fake.run(&["logs", "--tail", "1"]).exits(0).out,
        "-- note five\n"
    );
    fake.session("sess2", "shop", "ended");
    fake.state()
        .logs
        .insert("sess2".into(), vec![record(2, "two"), record(4, "four")]);
    let both = fake.run(&["logs", "-a", "shop"]).exits(0).out;
    assert_eq!(
        both,
        "sess1 one\nsess2 two\nsess1 three\nsess2 four\nsess1 -- note five\n"
    );
    assert_eq!(
        fake.run(&["logs", "-s", "sess2"]).exits(0).out,
        "two\nfour\n"
    );
    fake.run(&["logs", "-s", "gone"])
        .exits(3)
        .says(&["there is no session gone", "session list"]);
    fake.run(&["logs", "-a", "gone"])
        .exits(3)
        .says(&["no such runtime"]);
}

#[test]
fn records_are_lines_of_json() {
    let fake = shop();
    let out = fake.run(&["logs", "--json"]).exits(0).out;
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    let session = fake.state().sessions[0]["sessionId"].clone();
    assert_eq!(
        lines[0],
        json!({ "session": "sess1", "sessionId": session, "at": "2026-01-01T00:00:01.000Z", "stream": "stdout", "text": "one" })
    );
    assert_eq!(lines[2].get("stream"), None, "the daemon's own note");
}

#[test]
fn following_one_session_ends_with_it() {
    let fake = shop();
    let mut child = fake
        .command(&["logs", "-f", "-s", "sess1", "--tail", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let out = Heard::from(child.stdout.take().expect("piped"));
    let next = || {
        out.until(
            "
",
        )
        .trim_end()
        .to_owned()
    };
    assert_eq!(next(), "-- note five");
    fake.state()
        .logs
        .get_mut("sess1")
        .expect("there")
        .push(record(6, "six"));
    assert_eq!(next(), "six", "while it is followed");
    fake.state().sessions[0]["phase"] = json!("ended");
    finished(child).exits(0);
}

#[test]
fn following_a_runtime_takes_new_sessions_in() {
    let fake = shop();
    fake.session("sess0", "shop", "ended");
    fake.state()
        .logs
        .insert("sess0".into(), vec![record(0, "past")]);
    let mut child = fake
        .command(&["logs", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let out = Heard::from(child.stdout.take().expect("piped"));
    let next = || {
        out.until(
            "
",
        )
        .trim_end()
        .to_owned()
    };
    assert_eq!(
        [next(), next(), next()],
        ["sess1 one", "sess1 three", "sess1 -- note five"]
    );
    fake.state()
        .logs
        .insert("sess9".into(), vec![record(9, "nine")]);
    fake.session("sess9", "shop", "ready");
    assert_eq!(next(), "sess9 nine");
    signal(&child, rustix::process::Signal::INT);
    eventually("it ends", || child.try_wait().expect("waited"));
}
