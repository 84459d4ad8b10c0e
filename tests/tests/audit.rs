//! Everybody who is turned away leaves a record, wherever that happens; the reason is in it, and not in the answer. Tier: root.
//!
//! Signatures and tokens of every wrong kind are in `signatures.rs`, `tokens.rs`, `socket_auth.rs` and `limited_keys.rs`.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::{Request, Response};
use e2e::{Client, Daemon, Options, Result, audit, deploy, ground, puppet};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// What is asked for, and how it is refused.
struct Row {
    request: Request,
    path: &'static str,
    status: u16,
    code: &'static str,
    /// In the record.
    reason: &'static str,
    /// Where the answer says what the record does, because it helps whoever made a mistake and nobody else.
    told: bool,
}

fn upgrade(request: Request) -> Request {
    request
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

fn of(answer: &Response, name: &str) -> anyhow::Result<String> {
    let found = answer.header(name).map(str::to_owned);
    found.with_context(|| format!("no {name}"))
}

/// Sends each, and looks for its record.
fn refused(daemon: &Daemon, client: &Client, rows: Vec<Row>) -> Result {
    let mut refusals = Vec::new();
    for row in rows {
        let what = format!("{} {:?}", row.path, row.reason);
        let answer = client.send(row.request)?;
        ensure!(answer.status == row.status, "{what}: {}", answer.status);
        let code = of(&answer, "x-amzn-errortype")?;
        ensure!(code == row.code, "{what}: {code}");
        let request_id = of(&answer, "x-amzn-requestid")?;
        let kind = of(&answer, "content-type")?;
        let expected = match row.path {
            path if path.starts_with("/v1") || path == "/metrics" => "application/problem+json",
            path if path.starts_with("/s3") => "application/xml",
            _ => "application/json",
        };
        ensure!(kind == expected, "{what}: {kind}");
        let text = answer.text()?;
        ensure!(text.contains(row.reason) == row.told, "{what}: {text}");
        refusals.push(audit::Refused {
            request_id,
            status: row.status,
            code,
            reason: row.reason.to_owned(),
            path: row.path.to_owned(),
            caller: None,
        });
    }
    audit::expect(daemon, &refusals)?;
    let sessions = daemon.client().sessions("")?;
    ensure!(sessions.is_empty(), "{sessions:#?}");
    Ok(())
}

/// Paths of every area, with a request for each.
fn areas() -> Vec<(&'static str, Request)> {
    let post = |path: &str| Request::post(path, "{}");
    vec![
        ("/v1/info", Request::get("/v1/info")),
        ("/v1/keys", post("/v1/keys")),
        ("/v1/nothing", Request::get("/v1/nothing")),
        ("/metrics", Request::get("/metrics")),
        ("/s3/bucket/key", Request::get("/s3/bucket/key")),
        ("/runtimes/", post("/runtimes/")),
        ("/tags/x", Request::get("/tags/x")),
        (
            "/runtimes/own/invocations",
            post("/runtimes/own/invocations"),
        ),
        ("/runtimes/own/commands", post("/runtimes/own/commands")),
        (
            "/runtimes/own/stopruntimesession",
            post("/runtimes/own/stopruntimesession"),
        ),
        (
            "/runtimes/own/ws",
            upgrade(Request::get("/runtimes/own/ws")),
        ),
        (
            "/runtimes/own/ws/shells",
            upgrade(Request::get("/runtimes/own/ws/shells")),
        ),
        ("/invocations", post("/invocations")),
        ("/ping", Request::get("/ping")),
        ("/ws", upgrade(Request::get("/ws"))),
    ]
}

#[test]
fn web_pages_and_other_hosts() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        puppet::deploy(&daemon.client(), "own", json!({}))?;
        let tcp = daemon.tcp()?;
        let page = "requests from web pages of other origins are refused";
        let mut rows = Vec::new();
        for (name, value, status, code, reason) in [
            (
                "origin",
                "http://evil.test",
                403,
                "AccessDeniedException",
                page,
            ),
            ("origin", "null", 403, "AccessDeniedException", page),
            (
                "sec-fetch-site",
                "cross-site",
                403,
                "AccessDeniedException",
                page,
            ),
            (
                "host",
                "evil.test:8080",
                421,
                "ValidationException",
                "Host `evil.test:8080` is not this daemon",
            ),
        ] {
            for (path, request) in areas() {
                let request = request.header(name, value);
                rows.push(Row {
                    request,
                    path,
                    status,
                    code,
                    reason,
                    told: true,
                });
            }
        }
        refused(daemon, &tcp, rows)?;
        // The same without it, so that it was that: the record of a page is no record of everybody.
        tcp.send(Request::get("/v1/info"))?.expect(200)?;
        Ok(())
    })
}

#[test]
fn strangers() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        ..Options::default()
    };
    let options = options.config("listen = [\"127.0.0.1:0\"]\nauth = [\"sigv4\", \"jwt\"]");
    Daemon::with(options, |daemon| {
        puppet::deploy(&daemon.client(), "own", json!({}))?;
        let tcp = daemon.tcp()?;
        let mut rows = Vec::new();
        let denied = |path: &'static str, request: Request, reason: &'static str| Row {
            request,
            path,
            status: 403,
            code: "AccessDeniedException",
            reason,
            told: false,
        };
        for (path, request) in areas() {
            let operators = path.starts_with("/v1") || path == "/metrics";
            let none = if operators {
                "no credentials, or a token where none is taken"
            } else {
                "without credentials"
            };
            rows.push(denied(path, request, none));
        }
        for (path, request) in areas() {
            let request = request.header("authorization", "Bearer a.b.c");
            let reason = match path {
                path if path.starts_with("/v1") || path == "/metrics" => {
                    "no credentials, or a token where none is taken"
                }
                "/s3/bucket/key" | "/runtimes/" | "/tags/x" => "without credentials",
                _ => "takes signed requests only",
            };
            rows.push(denied(path, request, reason));
        }
        for (path, request) in areas() {
            let request = request.header("authorization", "AWS4-HMAC-SHA256 Credential=x");
            rows.push(Row {
                request,
                path,
                status: 403,
                code: "InvalidSignatureException",
                reason: "malformed signature: Authorization lacks a part",
                told: false,
            });
        }
        refused(daemon, &tcp, rows)
    })
}

#[test]
fn peers_of_the_socket_who_are_no_members() -> Result {
    ground!(Daemon, Python, Command("setpriv"), Command("curl"));
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::python(&client, "own", puppet::SOURCE, json!({}))?;
        // As an operator may have it, by accident or with a list of users of the file system's.
        for path in [daemon.runtime_dir(), daemon.socket()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        let mut refusals = Vec::new();
        for (path, _) in areas() {
            let out = Command::new("setpriv")
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .args(["curl", "-sS", "-i", "-H"])
                .arg(format!("{SESSION_HEADER}: {}", session_name("nobody")))
                .arg("--unix-socket")
                .arg(daemon.socket())
                .arg(format!("http://localhost{path}"))
                .output()?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            ensure!(text.starts_with("HTTP/1.1 403 "), "{path}: {out:?}");
            ensure!(
                text.contains("user 65534 may not use this daemon"),
                "{text}"
            );
            let head = text.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("x-amzn-requestid")
                    .then_some(value)
            });
            refusals.push(audit::Refused {
                request_id: head.context("a request id")?.trim().to_owned(),
                status: 403,
                code: "AccessDeniedException".to_owned(),
                reason: "user 65534 may not use this daemon".to_owned(),
                path: path.to_owned(),
                caller: None,
            });
        }
        audit::expect(daemon, &refusals)?;
        let records = audit::records(daemon)?;
        ensure!(
            records.iter().all(|record| record.peer == "unix:uid=65534"),
            "{records:#?}"
        );
        // A member who wants what is not there is a member all the same, and named.
        let other =
            Request::get("/s3/bucket/key").header("x-amz-expected-bucket-owner", "999999999999");
        let answer = client.send(other)?.expect(403)?;
        let refusal = audit::Refused {
            request_id: of(&answer, "x-amzn-requestid")?,
            status: 403,
            code: "AccessDeniedException".to_owned(),
            reason: "buckets here belong to account".to_owned(),
            path: "/s3/bucket/key".to_owned(),
            caller: Some("local".to_owned()),
        };
        audit::expect(daemon, &[refusal])?;
        assert!(client.sessions("")?.is_empty());
        Ok(())
    })
}
