//! A daemon that the test serves: HTTP over a Unix socket, with the state that the real one keeps.

use crate::ran::{Ran, agentcore, eventually, ran};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto::api::{Check, CheckState, ExecRequest, LogRecord};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::Notify;

mod exec;
mod invocation;
mod routes;
mod tasks;

pub(crate) use invocation::Script;
pub(crate) use tasks::{Stream, task};

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// The session id of callers that bring none, as the daemon would make it.
pub(crate) const NEW_SESSION: &str = "11111111-2222-4333-8444-555555555555";

/// A served daemon and a home directory for the command.
#[derive(Debug)]
pub(crate) struct Fake {
    home: TempDir,
    state: Arc<Mutex<State>>,
    /// Lets a held answer go on (`Script::Held`).
    pub(crate) go_on: Arc<Notify>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What the daemon knows, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Bytes by their SHA-256.
    pub(crate) artifacts: BTreeMap<String, Vec<u8>>,
    /// `/v1/runtimes`: the record, and every version's.
    pub(crate) runtimes: BTreeMap<String, Vec<Value>>,
    /// `/v1/sessions`.
    pub(crate) sessions: Vec<Value>,
    /// By the session's id.
    pub(crate) logs: BTreeMap<String, Vec<LogRecord>>,
    /// Everything that was asked.
    pub(crate) seen: Vec<Seen>,
    /// What an invocation does.
    pub(crate) script: Script,
    /// Answered to some calls instead of the right answer.
    pub(crate) refusal: Option<Refusal>,
    /// Items of one page.
    pub(crate) page: usize,
    /// How often a runtime is CREATING before it is READY.
    pub(crate) creating: usize,
    /// `/v1/doctor`.
    pub(crate) checks: Vec<Check>,
    /// `/v1/info` `base.python3`.
    pub(crate) python: Option<String>,
    /// An invocation's caller went away before its answer was complete.
    pub(crate) cancelled: bool,
    /// What execs were ordered.
    pub(crate) execs: Vec<ExecRequest>,
    /// `/v1/tasks`.
    pub(crate) tasks: Vec<Value>,
    /// What is said to those who follow a task, one after another.
    pub(crate) streams: VecDeque<Stream>,
    /// The answer of every task that has one.
    pub(crate) result: Option<(&'static str, &'static str)>,
}

/// A refusal of every call of this method whose path begins so.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Value,
}

impl Refusal {
    /// With an RFC 9457 problem.
    pub(crate) fn problem(
        method: Method,
        path: &'static str,
        status: u16,
        code: &str,
        detail: &str,
    ) -> Self {
        let body = json!({
            "title": "T", "status": status, "detail": detail, "code": code, "requestId": "req-7",
        });
        Self {
            method,
            path,
            status,
            headers: Vec::new(),
            body,
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Fake {
    /// Serves an empty daemon.
    pub(crate) fn start() -> Self {
        // Short: a socket's path has at most 108 bytes.
        let home = tempfile::Builder::new()
            .prefix("ac-")
            .tempdir_in("/tmp")
            .expect("a home");
        let state = State {
            page: 100,
            python: Some("3.11.2".to_owned()),
            checks: vec![Check {
                name: "seccomp".to_owned(),
                state: CheckState::On,
                detail: String::new(),
            }],
            ..State::default()
        };
        let fake = Self {
            state: Arc::new(Mutex::new(state)),
            go_on: Arc::new(Notify::new()),
            runtime: Some(
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("a runtime"),
            ),
            home,
        };
        fake.serve();
        fake
    }

    fn serve(&self) {
        let runtime = self.runtime.as_ref().expect("running");
        let _guard = runtime.enter();
        let listener = UnixListener::bind(self.socket()).expect("bound");
        let (state, go_on) = (Arc::clone(&self.state), Arc::clone(&self.go_on));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (state, go_on) = (Arc::clone(&state), Arc::clone(&go_on));
                let service = service_fn(move |request| {
                    let (state, go_on) = (Arc::clone(&state), Arc::clone(&go_on));
                    async move { answer(state, go_on, request).await }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                // Scripts that cut an answer off end it with an error: that is the point of them.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds it")
    }

    /// The command, not yet run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let endpoint = format!("unix:{}", self.socket().display());
        let mut command = agentcore(&endpoint, self.home.path());
        command.args(args);
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Writes a file below the home.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Makes a runtime known.
    pub(crate) fn deployed(&self, name: &str) {
        let config = json!({ "name": name, "entrypoint": "a.py", "protocol": "HTTP" });
        let record = routes::runtime(name, 1, &config, &"0".repeat(64));
        self.state().runtimes.insert(name.to_owned(), vec![record]);
    }

    /// Makes a session known.
    pub(crate) fn session(&self, id: &str, runtime: &str, phase: &str) {
        let record = routes::session(
            id,
            &format!("caller-of-{id}-{}", "x".repeat(30)),
            runtime,
            phase,
        );
        self.state().sessions.push(record);
    }

    /// Requests of this method whose path begins so.
    pub(crate) fn seen(&self, method: &Method, path: &str) -> Vec<Seen> {
        let state = self.state();
        let seen = state.seen.iter();
        seen.filter(|seen| seen.method == method && seen.path.starts_with(path))
            .cloned()
            .collect()
    }

    /// The invocations that came in.
    pub(crate) fn last_seen(&self, path: &str) -> Seen {
        let state = self.state();
        let seen = state.seen.iter().rfind(|seen| seen.path.starts_with(path));
        seen.expect("such a request").clone()
    }

    pub(crate) fn invocations(&self) -> Vec<Seen> {
        let all = self.seen(&Method::POST, "/runtimes/");
        all.into_iter()
            .filter(|seen| seen.path.ends_with("/invocations"))
            .collect()
    }

    /// Waits until `n` invocations have come in.
    pub(crate) fn await_invocations(&self, n: usize) {
        eventually("an invocation", || {
            (self.invocations().len() >= n).then_some(())
        });
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    go_on: Arc<Notify>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    // A body that breaks off is one that the client did not want to complete.
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let seen = Seen {
        method: head.method,
        query: head.uri.query().unwrap_or("").to_owned(),
        headers: head.headers,
        path,
        body,
    };
    state.lock().expect("sound").seen.push(seen.clone());
    if let Some(refused) = routes::refused(&state, &seen) {
        return Ok(refused);
    }
    if seen.path.starts_with("/runtimes/") && seen.path.ends_with("/invocations") {
        return Ok(invocation::answer(state, go_on, &seen).await);
    }
    if let Some(answered) = tasks::answer(&state, &go_on, &seen) {
        return Ok(answered);
    }
    if seen.method == Method::POST && seen.path.ends_with("/exec") {
        return Ok(exec::answer(&state, &seen, upgrade));
    }
    Ok(routes::answer(state, go_on, &seen).await)
}

pub(crate) fn document(status: u16, value: &Value) -> Response<Body> {
    let mut response = bytes(status, value.to_string().into());
    let kind = "application/json".parse().expect("a header");
    response.headers_mut().insert("content-type", kind);
    response
}

pub(crate) fn bytes(status: u16, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// RFC 9457.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Response<Body> {
    let value = json!({ "title": "t", "status": status, "detail": detail, "code": code, "requestId": "req-1" });
    document(status, &value)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
