//! `status`, `runtime`, `session`, `destroy`.

use crate::fake::{Fake, Refusal};
use hyper::Method;
use serde_json::json;

#[test]
fn status_shows_the_runtime_its_sessions_and_how_to_call_it() {
    let fake = Fake::start();
    fake.deployed("shop");
    fake.session("sess1", "shop", "busy");
    fake.session("sess2", "shop", "ended");
    fake.session("sess3", "other", "ready");
    let done = fake.run(&["status"]).exits(0);
    for words in [
        "shop",
        "READY",
        "sess1",
        "agentcore",
        "invoke",
        "curl",
        "--unix-socket",
        "boto3",
        "http://127.0.0.1:18080",
    ] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    assert!(
        !done.out.contains("sess2") && !done.out.contains("sess3"),
        "{}",
        done.out
    );
    let json = fake
        .run(&["status", "-a", "shop", "--json"])
        .exits(0)
        .json();
    assert_eq!(json["runtime"]["name"], "shop");
    assert_eq!(json["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(fake.run(&["status", "-q"]).exits(0).out, "shop\n");
    fake.run(&["status", "-a", "gone"])
        .exits(3)
        .says(&["no such runtime"]);
}

#[test]
fn which_runtime_is_asked_when_there_are_several() {
    let fake = Fake::start();
    fake.run(&["status"])
        .exits(3)
        .says(&["no runtime yet", "agentcore launch"]);
    fake.deployed("one");
    fake.deployed("two");
    fake.run(&["status"])
        .exits(2)
        .says(&["which runtime?", "-a NAME", "one, two"]);
    fake.write("agentcore.toml", "name = \"two\"\nentrypoint = \"a.py\"\n");
    assert!(fake.run(&["status"]).exits(0).out.contains("runtime/two-"));
}

#[test]
fn lists_page_to_the_end() {
    let fake = Fake::start();
    fake.state().page = 2;
    for name in ["a", "b", "c", "d", "e"] {
        fake.deployed(name);
    }
    assert_eq!(
        fake.run(&["runtime", "list", "-q"]).exits(0).out,
        "a\nb\nc\nd\ne\n"
    );
    assert_eq!(fake.seen(&Method::GET, "/v1/runtimes").len(), 3);
    let json = fake.run(&["runtime", "list", "--json"]).exits(0).json();
    assert_eq!(json.as_array().map(Vec::len), Some(5));
    assert_eq!(json[4]["runtimeId"], "e-AbCdEf1234");
}

#[test]
fn runtimes_are_listed_and_inspected() {
    let fake = Fake::start();
    fake.deployed("shop");
    let table = fake.run(&["runtime", "list"]).exits(0).out;
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(
        head,
        ["NAME", "VERSION", "STATUS", "SESSIONS", "UPDATED", "ID"]
    );
    assert!(lines.next().expect("a row").starts_with("shop"));
    let json = fake.run(&["runtime", "inspect", "shop"]).exits(0).json();
    assert_eq!(json["status"], "READY");
    // By id and by ARN too.
    let arn = json["arn"].as_str().expect("an ARN");
    assert_eq!(fake.run(&["runtime", "inspect", arn]).exits(0).json(), json);
    let versions = fake
        .run(&["runtime", "versions", "shop", "--json"])
        .exits(0)
        .json();
    assert_eq!(versions[0]["version"], 1);
    assert_eq!(
        fake.run(&["runtime", "versions", "shop", "-q"])
            .exits(0)
            .out,
        "1\n"
    );
    fake.run(&["runtime", "versions", "gone"]).exits(3);
}

#[test]
fn a_rollback_deploys_an_earlier_version_anew() {
    let fake = Fake::start();
    fake.deployed("shop");
    fake.run(&["runtime", "rollback", "shop"])
        .exits(3)
        .says(&["no version before the newest", "runtime versions"]);
    {
        let mut state = fake.state();
        state.artifacts.insert("0".repeat(64), Vec::new());
        let versions = state.runtimes.get_mut("shop").expect("deployed");
        let mut second = versions[0].clone();
        second["version"] = json!(2);
        second["config"]["entrypoint"] = json!("b.py");
        versions.push(second);
    }
    let done = fake.run(&["runtime", "rollback", "shop"]).exits(0);
    assert_eq!(
        done.out,
        "shop version 3 is READY, and is version 1 again\n"
    );
    assert_eq!(
        fake.state().runtimes["shop"][2]["config"]["entrypoint"],
        "a.py"
    );
    let done = fake.run(&["runtime", "rollback", "shop", "--to", "2", "-q"]);
    assert_eq!(done.exits(0).out, "4\n");
    fake.run(&["runtime", "rollback", "shop", "--to", "9"])
        .exits(3);
    fake.run(&["runtime", "rollback", "shop", "--to", "0"])
        .exits(2);
    assert_eq!(fake.state().runtimes["shop"].len(), 4);
}

#[test]
fn deleting_wants_a_yes() {
    let fake = Fake::start();
    for verb in [
        &["runtime", "delete", "shop"][..],
        &["destroy", "-a", "shop"],
        &["destroy"],
    ] {
        fake.deployed("shop");
        fake.session("sess1", "shop", "ready");
        fake.run(verb)
            .exits(2)
            .says(&["stop its 1 sessions?", "--yes"]);
        assert!(fake.state().runtimes.contains_key("shop"));
        let done = fake.run(&[verb, &["--yes"]].concat()).exits(0);
        assert_eq!(done.out, "Deleted shop\n");
        assert!(fake.state().runtimes.is_empty());
    }
    fake.run(&["runtime", "delete", "shop", "--yes"]).exits(3);
    fake.deployed("shop");
    let json = fake.run(&["destroy", "--yes", "--json"]).exits(0).json();
    assert_eq!(json, json!({ "deleted": "shop" }));
}

#[test]
fn sessions_are_listed_live_or_all() {
    let fake = Fake::start();
    fake.session("sess1", "shop", "ready");
    fake.session("sess2", "shop", "ended");
    fake.session("sess3", "other", "busy");
    assert_eq!(
        fake.run(&["session", "list", "-q"]).exits(0).out,
        "sess1\nsess3\n"
    );
    assert_eq!(
        fake.run(&["session", "list", "-q", "--all"]).exits(0).out,
        "sess1\nsess2\nsess3\n"
    );
    assert_eq!(
        fake.run(&["session", "list", "-q", "-a", "shop"])
            .exits(0)
            .out,
        "sess1\n"
    );
    let table = fake.run(&["session", "list"]).exits(0).out;
    assert!(table.contains("1.2s") || table.contains("1.3s"), "{table}");
    assert!(
        table.contains("1.5 MiB") && table.contains("busy"),
        "{table}"
    );
    let json = fake.run(&["session", "list", "--json"]).exits(0).json();
    assert_eq!(json[1]["phase"], "busy");
    // What waits in pools is told from what it is forked from; what has ended has no origin.
    for (session, origin) in fake
        .state()
        .sessions
        .iter_mut()
        .zip(["template", "", "waiting"])
    {
        if !origin.is_empty() {
            session["origin"] = json!(origin);
        }
    }
    let table = fake.run(&["session", "list", "--all", "--pool"]);
    let table = table.exits(0).out;
    let column = table.find("ORIGIN").expect("a column");
    let origins = table.lines().skip(1).map(|line| &line[column..]);
    let origins = origins.map(|rest| rest.split(' ').next().unwrap_or_default());
    assert_eq!(
        origins.collect::<Vec<_>>(),
        ["template", "-", "waiting"],
        "{table}"
    );
    let inspected = fake.run(&["session", "inspect", "sess2"]).exits(0).json();
    assert_eq!(inspected["usage"]["memoryPeakBytes"], 2_097_152);
    fake.run(&["session", "inspect", "gone"]).exits(3);
}

#[test]
fn sessions_are_stopped_and_waited_for() {
    let fake = Fake::start();
    for id in ["sess1", "sess2", "sess3"] {
        fake.session(id, "shop", "ready");
    }
    let client = fake.state().sessions[0]["sessionId"]
        .as_str()
        .expect("text")
        .to_owned();
    let done = fake.run(&["session", "stop", &client]).exits(0);
    assert_eq!(done.out, format!("{client} of shop: stopped\n"));
    let asked = fake.seen(&Method::DELETE, "/v1/sessions/");
    assert_eq!(asked[0].query, "wait=true");

    // One that is not there fails the call, but not the others.
    let done = fake
        .run(&["session", "stop", "gone", "sess2", "-q"])
        .exits(3)
        .says(&["cannot stop gone"]);
    assert_eq!(done.out, "sess2\n");

    let json = fake
        .run(&["session", "stop", "--all", "--json"])
        .exits(0)
        .json();
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
    assert_eq!(json[0]["id"], "sess3");
    assert_eq!(json[0]["endReason"], "stopped");
    fake.run(&["session", "stop", "--all"])
        .exits(0)
        .says(&["no session is running"]);
}

#[test]
fn refusals_become_exit_codes_and_advice() {
    let fake = Fake::start();
    let cases = [
        (
            403,
            "AccessDeniedException",
            5,
            "root and the group `agentcore`",
        ),
        (404, "ResourceNotFoundException", 3, "because"),
        (409, "ConflictException", 4, "because"),
        (409, "RetryableConflictException", 75, "try again in 4 s"),
        (429, "ThrottlingException", 75, "try again in 4 s"),
        (503, "ServiceUnavailableException", 75, "try again in 4 s"),
        (504, "RuntimeClientError", 124, "invocation_timeout"),
        (500, "InternalServerException", 1, "request id req-7"),
    ];
    for (status, code, exit, words) in cases {
        let mut refusal = Refusal::problem(Method::GET, "/v1/runtimes", status, code, "because");
        refusal.headers.push(("retry-after", "4"));
        fake.state().refusal = Some(refusal);
        fake.run(&["runtime", "list"])
            .exits(exit)
            .says(&["because", words]);
    }
}

#[test]
fn there_is_no_colour_off_a_terminal() {
    let fake = Fake::start();
    fake.deployed("shop");
    let done = fake.run(&["status"]).exits(0);
    assert!(!done.out.contains('\x1b') && !done.err.contains('\x1b'));
    let failed = fake.run(&["status", "-a", "gone"]).exits(3);
    assert!(failed.err.starts_with("error: "), "{failed:?}");
}
