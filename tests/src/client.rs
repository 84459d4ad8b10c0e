//! Typed calls: `/v1` with the types of `proto::api`, and the two invocation wires.

use crate::http::{Request, Response, Target};
use anyhow::{Context as _, ensure};
use proto::api::{Artifact, Info, Page, Phase, Problem, Runtime, Session, UsageRecord};
use proto::config::RuntimeConfig;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of the header that carries the caller's session id.
pub const SESSION_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id";

/// A caller of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the daemon listens.
    pub target: Target,
}

/// A caller's session id of legal length that no other test uses.
#[must_use]
pub fn session_name(hint: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{hint}-{:0>33}", format!("{}-{number}", std::process::id()))
}

/// Percent-encodes one path label as boto3 does: everything but unreserved characters.
#[must_use]
pub fn label(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Client {
    /// Sends a request.
    pub fn send(&self, request: Request) -> anyhow::Result<Response> {
        self.target.send(request)
    }

    /// `GET` with a 200 and JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(Request::get(path))?
            .expect(200)
            .and_then(Response::json)
            .with_context(|| format!("GET {path}"))
    }

    /// Daemon's facts.
    pub fn info(&self) -> anyhow::Result<Info> {
        self.get("/v1/info")
    }

    /// Uploads a bundle; 201 or 200.
    pub fn upload(&self, bundle: Vec<u8>) -> anyhow::Result<Artifact> {
        let answer = self.send(
            Request::post("/v1/artifacts", bundle)
                .header("content-type", "application/octet-stream"),
        )?;
        ensure_success(answer, "upload")?.json()
    }

    /// Makes a runtime, or its next version.
    pub fn put_runtime(
        &self,
        config: &RuntimeConfig,
        artifact: &Artifact,
    ) -> anyhow::Result<Runtime> {
        let body = serde_json::json!({"artifact": artifact.artifact_id, "config": config});
        let answer = self.send(
            Request::new("PUT", format!("/v1/runtimes/{}", config.name))
                .header("content-type", "application/json")
                .body(body.to_string()),
        )?;
        ensure_success(answer, "put runtime")?.json()
    }

    /// A runtime.
    pub fn runtime(&self, name: &str) -> anyhow::Result<Runtime> {
        self.get(&format!("/v1/runtimes/{name}"))
    }

    /// Every session that the daemon lists (`query` as `runtime=x&phase=y`), all pages.
    pub fn sessions(&self, query: &str) -> anyhow::Result<Vec<Session>> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let next = token
                .as_deref()
                .map(|t| format!("&nextToken={}", label(t)))
                .unwrap_or_default();
            let page: Page<Session> =
                self.get(&format!("/v1/sessions?maxResults=1000&{query}{next}"))?;
            all.extend(page.items);
            token = page.next_token;
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    /// Sessions that are not over.
    pub fn live_sessions(&self) -> anyhow::Result<Vec<Session>> {
        let mut sessions = self.sessions("")?;
        sessions.retain(|s| !matches!(s.phase, Phase::Ended | Phase::Failed));
        Ok(sessions)
    }

    /// A session by our id or the caller's.
    pub fn session(&self, id: &str) -> anyhow::Result<Session> {
        self.get(&format!("/v1/sessions/{}", label(id)))
    }

    /// CPU seconds that the ledger has of a session by our id; of what it used while it was nobody's by the same with a `w` in front.
    pub fn cpu_on_record(&self, id: &str) -> anyhow::Result<f64> {
        let rows: Page<UsageRecord> = self.get("/v1/usage?by=session&maxResults=1000")?;
        let mut rows = rows.items.iter();
        let row = rows.find(|row| row.id.as_ref().is_some_and(|of| of.as_str() == id));
        row.map(|row| row.used.cpu_seconds)
            .with_context(|| format!("no record of {id}"))
    }

    /// Stops a session and waits for its end.
    pub fn stop(&self, id: &str) -> anyhow::Result<Session> {
        self.send(Request::new(
            "DELETE",
            format!("/v1/sessions/{}?wait=true", label(id)),
        ))?
        .expect(200)?
        .json()
    }

    /// Waits until a session is over and gives its last state.
    pub fn ended(&self, id: &str, bound: u64) -> anyhow::Result<Session> {
        crate::wait::until(bound, &format!("the end of session {id}"), || {
            let session = self.session(id)?;
            Ok(matches!(session.phase, Phase::Ended | Phase::Failed).then_some(session))
        })
    }

    /// A session's log lines as text.
    pub fn logs(&self, id: &str) -> anyhow::Result<String> {
        self.send(Request::get(format!(
            "/v1/sessions/{}/logs?tail=1000",
            label(id)
        )))?
        .expect(200)?
        .text()
    }

    /// An invocation on the AWS wire, to be sent.
    #[must_use]
    pub fn invocation(runtime: &str, session: &str, payload: &Value) -> Request {
        Request::post(
            format!("/runtimes/{}/invocations", label(runtime)),
            payload.to_string(),
        )
        .header("content-type", "application/json")
        .header(SESSION_HEADER, session)
    }

    /// Invokes a runtime on the AWS wire; the agent's JSON.
    pub fn invoke(&self, runtime: &str, session: &str, payload: &Value) -> anyhow::Result<Value> {
        self.send(Self::invocation(runtime, session, payload))?
            .expect(200)
            .and_then(Response::json)
            .with_context(|| format!("invoke {runtime} ({session}) with {payload}"))
    }

    /// A call in a thread of its own, whose answer nobody has yet.
    #[must_use]
    pub fn in_background(
        &self,
        runtime: &str,
        session: &str,
        payload: &Value,
    ) -> std::thread::JoinHandle<anyhow::Result<Response>> {
        let request = Self::invocation(runtime, session, payload);
        let client = self.clone();
        std::thread::spawn(move || client.send(request))
    }

    /// Starts a session (by a first invocation with `payload`) and gives what the daemon knows of it.
    pub fn start(&self, runtime: &str, session: &str, payload: &Value) -> anyhow::Result<Session> {
        self.invoke(runtime, session, payload)?;
        self.session(session)
    }
}

/// What a thread of [`Client::in_background`] found.
pub fn joined<T>(thread: std::thread::JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("a caller panicked"))?
}

fn ensure_success(answer: Response, what: &str) -> anyhow::Result<Response> {
    if answer.status / 100 == 2 {
        return Ok(answer);
    }
    let status = answer.status;
    anyhow::bail!("{what}: {status} {}", answer.text()?)
}

/// The answer must be a problem of ours (RFC 9457) with this status, and one of its texts must name `field`.
pub fn expect_problem(answer: Response, status: u16, field: &str) -> anyhow::Result<Problem> {
    let kind = answer.header("content-type").unwrap_or_default().to_owned();
    let answer = answer.expect(status)?;
    ensure!(
        kind.starts_with("application/problem+json"),
        "a problem of ours is application/problem+json, this is {kind:?}"
    );
    let problem: Problem = answer.json()?;
    ensure!(problem.status == status, "{problem:?}");
    ensure!(!problem.request_id.is_empty(), "no request id: {problem:?}");
    let named = problem.detail.contains(field)
        || problem
            .errors
            .iter()
            .any(|e| e.name.contains(field) || e.message.contains(field));
    ensure!(named, "the problem does not name {field:?}: {problem:?}");
    Ok(problem)
}

/// The answer must be an error of the AWS wire: status, `x-amzn-ErrorType`, a message that contains `text`, a request id.
pub fn expect_aws_error(
    answer: Response,
    status: u16,
    name: &str,
    text: &str,
) -> anyhow::Result<Value> {
    let kind = answer.header("x-amzn-errortype").map(str::to_owned);
    let request = answer.header("x-amzn-requestid").map(str::to_owned);
    let body: Value = answer.expect(status)?.json()?;
    ensure!(
        kind.as_deref() == Some(name),
        "x-amzn-ErrorType is {kind:?}, not {name}: {body}"
    );
    ensure!(
        request.is_some_and(|r| !r.is_empty()),
        "no x-amzn-RequestId: {body}"
    );
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains(text),
        "the message does not say {text:?}: {body}"
    );
    Ok(body)
}
