//! `/openapi.json` describes `/v1` as it is: the description is valid, and a property-based tester that knows only the description
//! finds no answer that it does not tell, and none of the daemon's own failures. Tier: root; the testers need PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::{Request, Target};
use e2e::{Daemon, Options, Result, ground, puppet, venv};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What is asked of every answer. Not asked: that everything of the right shape is accepted (a token that no list gave out has
/// the right shape too).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,use_after_free";

fn origin(daemon: &Daemon) -> anyhow::Result<String> {
    match daemon.tcp()?.target {
        Target::Tcp(address) => Ok(format!("http://{address}")),
        Target::Unix(_) => anyhow::bail!("not TCP"),
    }
}

/// Runs the tester; says how many cases it made.
fn schemathesis(daemon: &Daemon, config: &str, words: &[&str]) -> anyhow::Result<u64> {
    let dir = daemon.dir().join("schemathesis");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("schemathesis.toml"), config)?;
    let report = dir.join("report.json");
    let out = Command::new(venv::of("openapi-requirements.txt")?.join("schemathesis"))
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(format!("{}/openapi.json", origin(daemon)?))
        .args(["--no-color", "--no-shrink", "--continue-on-failure"])
        .args(["--generation-database", "none", "--request-timeout", "30"])
        .args(["--checks", CHECKS, "--report-json-path"])
        .arg(&report)
        .args(words)
        .current_dir(&dir)
        .output()?;
    ensure!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    let report: Value = serde_json::from_slice(&fs::read(report)?)?;
    let whole = &report["operations"];
    ensure!(
        report["complete"] == true && whole["tested"] == whole["selected"],
        "{whole}"
    );
    report["test_cases"]["generated"].as_u64().context("cases")
}

#[test]
fn the_description_is_valid_and_names_its_operations_once() -> Result {
    ground!(Daemon, Registry);
    Daemon::with(Options::quick(), |daemon| {
        let description = daemon.client().send(Request::get("/openapi.json"))?;
        let text = description.expect(200)?.text()?;
        let file = daemon.dir().join("openapi.json");
        fs::write(&file, &text)?;
        let python = venv::of("openapi-requirements.txt")?.join("python");
        valid(&python, &file)?;
        let api: Value = serde_json::from_str(&text)?;
        let paths = api["paths"].as_object().context("paths")?;
        let ids: Vec<&str> = paths
            .values()
            .filter_map(Value::as_object)
            .flat_map(|operations| operations.values())
            .filter_map(|operation| operation["operationId"].as_str())
            .collect();
        ensure!(ids.len() >= 17, "{ids:?}");
        let distinct: BTreeSet<_> = ids.iter().collect();
        ensure!(distinct.len() == ids.len(), "{ids:?}");
        // What it would say of a description that is not one.
        fs::write(&file, text.replace("\"openapi\"", "\"swagger\""))?;
        ensure!(valid(&python, &file).is_err(), "the validator sees nothing");
        Ok(())
    })
}

fn valid(python: &Path, file: &Path) -> Result {
    let out = Command::new(python)
        .args(["-m", "openapi_spec_validator"])
        .arg(file)
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
    Ok(())
}

#[test]
fn every_operation_answers_as_described_whatever_comes() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let runtime = puppet::deploy(&client, "there", json!({}))?;
        let session = session_name("there");
        puppet::run(&client, "there", &session, "answer = 1")?;
        let anything = schemathesis(daemon, "", &["--max-examples", "110"])?;
        // Things that are there, and what leaves them so.
        puppet::deploy(&client, "there", json!({}))?;
        let config = format!(
            "[parameters]\n\"path.name\" = \"there\"\n\"path.number\" = 1\n\"path.id\" = \"{session}\"\n\
             [[operations]]\ninclude-path = \"/v1/artifacts/{{id}}\"\nparameters = {{ \"path.id\" = \"{}\" }}\n",
            runtime.artifact
        );
        let there = schemathesis(
            daemon,
            &config,
            &["--max-examples", "60", "--include-method", "GET"],
        )?;
        println!("{anything} cases of anything, {there} of what is there");
        ensure!(anything + there >= 2000, "only {anything} and {there}");
        // It has taken no harm.
        puppet::run(&client, "there", &session_name("after"), "answer = 1")?;
        Ok(())
    })
}
