//! `doctor`, against a session that the test describes. That the agent reports the truth is for the end-to-end tests.

use crate::fake::{Fake, Refusal, Script};
use crate::ran::{finished, signal};
use hyper::Method;
use proto::api::{Check, CheckState};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Cursor, Read};
use std::process::{Command, Stdio};

fn isolated() -> Value {
    json!({
        "uid": 1000, "gid": 1000, "groups": [], "uidMap": [[0, 2_000_000, 65_536]],
        "capabilities": { "CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
            "CapBnd": "0000000000000000", "CapAmb": "0000000000000000" },
        "noNewPrivs": "1", "seccomp": "2", "newUserNamespace": "EPERM",
        "namespaces": { "user": 1, "mnt": 2, "pid": 3, "net": 4, "ipc": 5, "uts": 6, "cgroup": 7 },
        "interfaces": ["lo"], "writable": [], "tmpWritable": true, "tmpBytes": 33_554_432,
        "visiblePaths": [], "processes": 1,
    })
}

fn sees(fake: &Fake, facts: &Value) {
    let kind = ("content-type", "application/json");
    fake.state().script = Script::Answer(200, vec![kind], facts.to_string());
}

#[test]
fn it_tests_a_real_session_and_leaves_nothing() {
    let fake = Fake::start();
    sees(&fake, &isolated());
    let done = fake.run(&["doctor"]).exits(0);
    assert!(
        done.out.contains("on       seccomp") && !done.out.contains("FAILED"),
        "{}",
        done.out
    );
    for check in [
        "identity",
        "uid_range",
        "capabilities",
        "no_new_privs",
        "namespaces",
        "network",
        "host_files",
    ] {
        assert!(
            done.out.contains(&format!("ok       {check}")),
            "{check}: {}",
            done.out
        );
    }
    let asked: Value = serde_json::from_slice(&fake.invocations()[0].body).expect("JSON");
    let canary = &asked["paths"][0];
    assert!(
        canary
            .as_str()
            .is_some_and(|path| path.contains("agentcore-doctor-")),
        "{canary}"
    );
    let state = fake.state();
    assert!(
        state.runtimes.is_empty() && state.artifacts.is_empty() && state.sessions.is_empty(),
        "{state:?}"
    );
}

#[test]
fn a_weakness_inside_is_exit_1_and_named() {
    let fake = Fake::start();
    let mut weak = isolated();
    weak["interfaces"] = json!(["lo", "eth0"]);
    sees(&fake, &weak);
    let done = fake.run(&["doctor"]).exits(1);
    assert!(
        done.out.contains("FAILED   network") && done.out.contains("eth0"),
        "{}",
        done.out
    );
    let json = fake.run(&["doctor", "--json"]).exits(1).json();
    assert_eq!(json["ok"], false);
    let red: Vec<&Value> = json["session"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|each| each["ok"] == false)
        .collect();
    assert_eq!(red.len(), 1);
    assert_eq!(red[0]["name"], "network");
    assert_eq!(json["host"][0], json!({ "name": "seccomp", "state": "on" }));
}

#[test]
fn what_the_host_lacks_is_exit_1_too() {
    let fake = Fake::start();
    sees(&fake, &isolated());
    let check = |state| Check {
        name: "cgroup.io".into(),
        state,
        detail: "no io controller".into(),
    };
    fake.state().checks.push(check(CheckState::Degraded));
    fake.run(&["doctor"]).exits(0);
    fake.state().checks.push(check(CheckState::Off));
    let done = fake.run(&["doctor"]).exits(1);
    assert!(
        done.out.contains("off      cgroup.io") && done.out.contains("no io controller"),
        "{}",
        done.out
    );
}

#[test]
fn a_session_that_does_not_start_is_cleaned_up_too() {
    let fake = Fake::start();
    let body =
        json!({ "message": "the agent could not start", "agentLog": ["bind: no such device"] });
    fake.state().script = Script::Answer(424, vec![], body.to_string());
    fake.run(&["doctor"])
        .exits(1)
        .says(&["could not start", "bind: no such device"]);
    assert!(fake.state().runtimes.is_empty() && fake.state().artifacts.is_empty());

    fake.state().python = None;
    let done = fake.run(&["doctor"]).exits(1);
    assert!(done.out.contains("no python3"), "{}", done.out);
}

#[test]
fn an_interrupt_leaves_nothing_either() {
    let fake = Fake::start();
    fake.state().script = Script::Hang;
    let child = fake
        .command(&["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    fake.await_invocations(1);
    signal(&child, Signal::INT);
    finished(child).exits(1).says(&["interrupted"]);
    let state = fake.state();
    assert!(state.runtimes.is_empty() && state.artifacts.is_empty());
}

#[test]
fn the_embedded_agent_is_python_and_asks_for_the_built_in_sdk() {
    let fake = Fake::start();
    // Keep what it uploads: a deletion that is refused leaves it there.
    let refusal = Refusal::problem(
        Method::DELETE,
        "/v1/artifacts",
        409,
        "ConflictException",
        "in use",
    );
    fake.state().refusal = Some(refusal);
    sees(&fake, &isolated());
    fake.run(&["doctor"]).exits(0);
    let bytes = fake
        .state()
        .artifacts
        .values()
        .next()
        .expect("kept")
        .clone();
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).expect("a zip");
    let mut agent = String::new();
    archive
        .by_name("agent.py")
        .expect("there")
        .read_to_string(&mut agent)
        .expect("text");
    assert!(agent.contains("from bedrock_agentcore import BedrockAgentCoreApp"));
    let path = fake.write("agent.py", &agent);
    let check = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    let parsed = Command::new("python3")
        .args(["-c", check])
        .arg(path)
        .status()
        .expect("python3");
    assert!(parsed.success());
}
