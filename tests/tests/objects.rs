//! Whose objects of the S3 subset are, and how much room one caller has: boto3 from PyPI, unmodified, with keys that
//! `agentcore keys create` made. Tier: root; needs PyPI. What boto3 must see is asserted in `tests/clients/object_calls.py`.

use anyhow::ensure;
use e2e::http::Target;
use e2e::{Daemon, Options, Result, ground, venv};
use proto::api::{AuditRecord, NewAccessKey, Page};
use serde_json::{Map, Value, json};

fn options(more: &str) -> Options {
    Options {
        dev: false,
        ..Options::default()
    }
    .config(&format!(
        "listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"\n{more}"
    ))
}

/// What `agentcore` prints.
fn cli(daemon: &Daemon, words: &[&str]) -> anyhow::Result<String> {
    let out = daemon.cli().args(words).output()?;
    ensure!(out.status.success(), "agentcore {words:?}: {out:?}");
    Ok(String::from_utf8(out.stdout)?)
}

const KEYS: &[&[&str]] = &[
    &["operator"],
    &["ci", "-a", "ci_agent", "--object", "builds/ci/*"],
    &[
        "rotated",
        "-a",
        "ci_agent",
        "--object",
        "arn:aws:s3:::builds/ci/*",
    ],
    &["reader", "--action", "s3:GetObject", "--object", "builds/*"],
    &["agent", "-a", "ci_agent"],
    &["deployer", "--action", "CreateAgentRuntime"],
];

/// A key of each kind.
fn keys(daemon: &Daemon) -> anyhow::Result<Value> {
    let own = [
        "--action",
        "s3:*",
        "--action",
        "CreateAgentRuntime",
        "--action",
        "GetAgentRuntime",
    ];
    let one = [&["one"][..], &own].concat();
    let two = [&["two"][..], &own].concat();
    let mut keys = Map::new();
    for words in KEYS.iter().copied().chain([&one[..], &two[..]]) {
        let made = cli(daemon, &[&["--json", "keys", "create"], words].concat())?;
        let key: NewAccessKey = serde_json::from_str(&made)?;
        keys.insert(words[0].to_owned(), json!(key));
    }
    Ok(keys.into())
}

fn calls(daemon: &Daemon, scenario: &str, keys: &Value) -> Result {
    let Target::Tcp(address) = daemon.tcp()?.target else {
        anyhow::bail!("not TCP");
    };
    let version = daemon.client().info()?.base["python3"].clone();
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let facts = json!({
        "endpoint": format!("http://{address}"), "python": minor.join("."), "keys": keys,
    });
    let words = [scenario, &facts.to_string()];
    venv::run("requirements.txt", "object_calls.py", &words)?;
    Ok(())
}

#[test]
fn a_key_limited_to_a_prefix_uploads_and_deploys_there_and_nowhere_else() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(options(""), |daemon| {
        let keys = keys(daemon)?;
        calls(daemon, "prefix", &keys)?;
        // Whoever was turned away is in the record, with what it wanted.
        let page: Page<AuditRecord> = daemon.client().get("/v1/audit?maxResults=1000")?;
        let ci = keys["ci"]["accessKeyId"].as_str().unwrap_or_default();
        for wanted in ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] {
            let told = |record: &AuditRecord| {
                record.reason.contains(wanted)
                    && record.reason.contains("s3://builds/prod/app.zip")
                    && record
                        .caller
                        .as_ref()
                        .is_some_and(|caller| caller.contains(ci))
                    && record.status == 403
            };
            ensure!(
                page.items.iter().any(told),
                "no {wanted}: {:#?}",
                page.items
            );
        }
        let listed = cli(daemon, &["keys", "list"])?;
        let row = |name: &str| {
            listed
                .lines()
                .find(|line| line.contains(name))
                .unwrap_or("")
        };
        ensure!(listed.contains("OBJECTS"), "{listed}");
        ensure!(row(" ci ").contains("builds/ci/*"), "{listed}");
        ensure!(row(" rotated ").contains("builds/ci/*"), "{listed}");
        ensure!(row(" one ").contains("its own"), "{listed}");
        ensure!(row(" agent ").contains("none"), "{listed}");
        for (bad, why) in [
            ("builds", "BUCKET/KEY"),
            ("B/x", "no bucket"),
            ("builds/a*b", "at its end"),
        ] {
            let out = daemon
                .cli()
                .args(["keys", "create", "x", "--object", bad])
                .output()?;
            let told = String::from_utf8_lossy(&out.stderr);
            ensure!(!out.status.success() && told.contains(why), "{bad}: {told}");
        }
        Ok(())
    })
}

#[test]
fn an_object_is_its_makers() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(options(""), |daemon| {
        let keys = keys(daemon)?;
        calls(daemon, "makers", &keys)?;
        let page: Page<AuditRecord> = daemon.client().get("/v1/audit?maxResults=1000")?;
        let told = |record: &AuditRecord| record.reason.contains("another caller's object");
        ensure!(page.items.iter().any(told), "{:#?}", page.items);
        Ok(())
    })
}

#[test]
fn one_caller_has_a_share_of_the_room_for_objects() -> Result {
    ground!(Daemon, Python, Registry);
    let limits = "[limits]\nobjects = \"2100K\"\nobjects_per_caller = \"1M\"\n";
    Daemon::with(options(limits), |daemon| {
        let keys = keys(daemon)?;
        calls(daemon, "share", &keys)?;
        daemon.terminate()?;
        daemon.restart()?;
        calls(daemon, "still", &keys)
    })
}
