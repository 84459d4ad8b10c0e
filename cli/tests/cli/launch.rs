//! `launch`.

use crate::fake::{Fake, Refusal, sha256};
use hyper::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::process::Command;

fn agent(fake: &Fake) {
    fake.write(
        "agent/agentcore.toml",
        "name = \"shop\"\nentrypoint = \"a.py\"\n\n[environment]\nA = \"1\"\n",
    );
    fake.write("agent/a.py", "print('hello')\n");
    fake.write("agent/lib/b.py", "");
    fake.write("agent/.env", "KEY=secret");
}

/// Names and contents of the newest bundle.
fn files(fake: &Fake) -> BTreeMap<String, Vec<u8>> {
    let state = fake.state();
    let newest = state
        .runtimes
        .values()
        .last()
        .and_then(|all| all.last())
        .expect("a runtime");
    let bytes = state.artifacts[newest["artifact"].as_str().expect("an id")].clone();
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).expect("a zip");
    (0..archive.len())
        .map(|index| {
            let mut entry = archive.by_index(index).expect("there");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("read");
            (entry.name().to_owned(), content)
        })
        .collect()
}

#[test]
fn a_folder_becomes_a_version() {
    let fake = Fake::start();
    agent(&fake);
    let done = fake
        .run(&["launch", "-f", "agent", "--env", "B=2"])
        .exits(0);
    let done = done.says(&["Bundling", "Uploading", ".env is left out"]);
    for words in [
        "shop version 1 is READY",
        "runtime/shop-AbCdEf1234",
        "invoke '{\"prompt\": \"Hello\"}' -a shop",
        "curl",
    ] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    assert_eq!(
        files(&fake).keys().collect::<Vec<_>>(),
        ["a.py", "agentcore.toml", "lib/b.py"]
    );
    let state = fake.state();
    let config = &state.runtimes["shop"][0]["config"];
    assert_eq!(config["environment"], json!({ "A": "1", "B": "2" }));
    let (id, bytes) = state.artifacts.iter().next().expect("one");
    assert_eq!(*id, sha256(bytes));
    let text = std::fs::read_to_string(fake.home().join("agent/agentcore.toml")).expect("there");
    assert!(
        !text.contains('B'),
        "--env is for this version, not for the file"
    );
}

#[test]
fn an_unchanged_folder_is_not_uploaded_again() {
    let fake = Fake::start();
    agent(&fake);
    let first = fake
        .run(&["launch", "-f", "agent", "--json"])
        .exits(0)
        .json();
    let again = fake
        .run(&["deploy", "-f", "agent/agentcore.toml", "--json"])
        .exits(0)
        .json();
    assert_eq!(first["uploaded"], true);
    assert_eq!(again["uploaded"], false);
    assert_eq!(first["artifactId"], again["artifactId"]);
    assert_eq!(again["version"], 2);
    assert_eq!(fake.seen(&Method::POST, "/v1/artifacts").len(), 1);
    let keys: Vec<&String> = again.as_object().expect("an object").keys().collect();
    let expected = [
        "arn",
        "artifactBytes",
        "artifactId",
        "files",
        "name",
        "runtimeId",
        "status",
        "uploaded",
        "version",
    ];
    assert_eq!(keys, expected);

    fake.write("agent/lib/b.py", "x = 1");
    let changed = fake
        .run(&["launch", "-f", "agent", "--json"])
        .exits(0)
        .json();
    assert_eq!(changed["uploaded"], true);
    let quiet = fake.run(&["launch", "-f", "agent", "-q"]).exits(0);
    assert_eq!(
        quiet.out,
        format!("{}\n", changed["arn"].as_str().expect("text"))
    );
    assert_eq!(quiet.err, "");
}

#[test]
fn it_waits_until_the_version_is_ready() {
    let fake = Fake::start();
    agent(&fake);
    fake.state().creating = 3;
    let done = fake
        .run(&["launch", "-f", "agent", "--json"])
        .exits(0)
        .json();
    assert_eq!(done["status"], "READY");
    assert_eq!(fake.seen(&Method::GET, "/v1/runtimes/shop").len(), 3);
}

#[test]
fn what_is_wrong_is_named_before_anything_is_sent() {
    let fake = Fake::start();
    fake.run(&["launch"])
        .exits(2)
        .says(&["there is no", "agentcore configure -e"]);
    fake.write(
        "agentcore.toml",
        "name = \"shop\"\nentrypoint = \"a.py\"\nspeed = 3\n",
    );
    fake.run(&["launch"]).exits(2).says(&["line 3", "speed"]);
    fake.write(
        "agentcore.toml",
        "name = \"shop\"\nentrypoint = \"gone.py\"\n",
    );
    fake.run(&["launch"])
        .exits(2)
        .says(&["gone.py is not in the bundle"]);
    fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"run\"\n");
    fake.write("run", "#!/bin/sh\n");
    fake.run(&["launch"])
        .exits(2)
        .says(&["not executable", "chmod +x"]);
    fake.write(
        "agentcore.toml",
        "name = \"shop\"\nentrypoint = \"a.py\"\nrequirements = \"gone.txt\"\n",
    );
    fake.write("a.py", "");
    fake.run(&["launch"]).exits(2).says(&["gone.txt"]);
    std::os::unix::fs::symlink("/etc/passwd", fake.home().join("link")).expect("linked");
    fake.write("agentcore.toml", "name = \"shop\"\nentrypoint = \"a.py\"\n");
    fake.run(&["launch"])
        .exits(2)
        .says(&["link is a link to /etc/passwd", ".agentcoreignore"]);
    assert!(fake.seen(&Method::POST, "/").is_empty() && fake.seen(&Method::PUT, "/").is_empty());
}

#[test]
fn the_daemons_faults_are_shown_field_by_field() {
    let fake = Fake::start();
    agent(&fake);
    let code = "ValidationException";
    let mut refusal = Refusal::problem(
        Method::PUT,
        "/v1/runtimes",
        400,
        code,
        "the configuration breaks 2 rules",
    );
    refusal.body["errors"] = json!([
        { "name": "resources.memory", "message": "at most 4G here" },
        { "name": "lifecycle.idle_timeout", "message": "60 to 1209600" },
    ]);
    fake.state().refusal = Some(refusal);
    fake.run(&["launch", "-f", "agent"]).exits(2).says(&[
        "breaks 2 rules",
        "resources.memory: at most 4G here",
        "lifecycle.idle_timeout: 60 to 1209600",
    ]);
    let refusal = Refusal::problem(Method::POST, "/v1/artifacts", 413, code, "more than 250 MB");
    fake.state().refusal = Some(refusal);
    fake.write("agent/a.py", "other");
    fake.run(&["launch", "-f", "agent"])
        .exits(1)
        .says(&["more than 250 MB"]);
}

/// A wheel of one module, so that pip has something to install without a network.
fn wheel(fake: &Fake) {
    let info = "hello_agentcore-1.0.dist-info";
    let files = [
        (
            "hello_agentcore/__init__.py".to_owned(),
            "GREETING = 'hello'\n",
        ),
        (
            format!("{info}/METADATA"),
            "Metadata-Version: 2.1\nName: hello-agentcore\nVersion: 1.0\n",
        ),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            format!("{info}/entry_points.txt"),
            "[console_scripts]\nhello = hello_agentcore:main\n",
        ),
        (format!("{info}/RECORD"), ""),
    ];
    let path = fake.write("agent/wheels/hello_agentcore-1.0-py3-none-any.whl", "");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).expect("made"));
    for (name, text) in files {
        writer
            .start_file(name, zip::write::SimpleFileOptions::default())
            .expect("begun");
        writer.write_all(text.as_bytes()).expect("written");
    }
    writer.finish().expect("finished");
}

/// The Python whose pip this test uses; `None` (said aloud) where there is none.
fn python() -> Option<String> {
    let question = "import sys, pip; print('%d.%d.%d' % sys.version_info[:3])";
    let output = Command::new("python3").args(["-c", question]).output();
    let version = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| output.stdout);
    if version.is_none() {
        eprintln!("SKIPPED: no python3 with pip on this machine");
    }
    Some(String::from_utf8(version?).expect("text").trim().to_owned())
}

#[test]
fn requirements_are_vendored_compiled_and_cached() {
    let Some(version) = python() else { return };
    let fake = Fake::start();
    fake.state().python = Some(version);
    agent(&fake);
    wheel(&fake);
    fake.write(
        "agent/agentcore.toml",
        "name = \"shop\"\nentrypoint = \"a.py\"\nrequirements = \"requirements.txt\"\n",
    );
    let wheels = fake.home().join("agent/wheels");
    let lines = format!(
        "--no-index\n--find-links={}\nhello-agentcore==1.0\n",
        wheels.display()
    );
    fake.write("agent/requirements.txt", &lines);
    fake.write("agent/.agentcoreignore", "wheels/\n");

    let first = fake
        .run(&["launch", "-f", "agent", "--json"])
        .exits(0)
        .says(&["Installing agent/requirements.txt"]);
    let bundle = files(&fake);
    assert_eq!(
        bundle["hello_agentcore/__init__.py"],
        b"GREETING = 'hello'\n"
    );
    let compiled: Vec<&String> = bundle
        .keys()
        .filter(|name| name.ends_with(".pyc"))
        .collect();
    assert!(
        compiled
            .iter()
            .any(|name| name.starts_with("hello_agentcore/__pycache__/__init__.")),
        "{compiled:?}"
    );
    let script = std::str::from_utf8(&bundle["bin/hello"]).expect("text");
    assert!(script.starts_with("#!/usr/bin/env python3\n"), "{script}");
    // PEP 552: flags 0b01 is hash-based, unchecked; so no time stamp is in it.
    assert_eq!(bundle[compiled[0]][4..8], [1, 0, 0, 0]);
    assert!(bundle.contains_key("a.py") && !bundle.keys().any(|name| name.starts_with("wheels")));

    let again = fake
        .run(&["launch", "-f", "agent", "--json"])
        .exits(0)
        .says(&["from the cache"]);
    assert_eq!(first.json()["artifactId"], again.json()["artifactId"]);
    let forced = fake
        .run(&["launch", "-f", "agent", "--json", "--force-rebuild-deps"])
        .exits(0);
    let forced = forced.says(&["Installing"]);
    assert_eq!(
        first.json()["artifactId"],
        forced.json()["artifactId"],
        "installed anew, and the same bytes"
    );

    fake.write("agent/requirements.txt", &lines.replace("1.0", "2.0"));
    fake.run(&["launch", "-f", "agent"])
        .exits(1)
        .says(&["could not install", "hello-agentcore==2.0"]);
}
