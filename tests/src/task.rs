//! Tasks, and an agent that does what their payload says.

use crate::client::Client;
use crate::http::Request;
use crate::wait;
use proto::api::{Page, Runtime, Task, TaskStatus};
use serde_json::{Value, json};

/// Runs the Python of its payload: that sees `headers` (lower-case names), `payload`, `kept` (lives as long as the process), and
/// leaves `answer`, and `status` if it is another than 200. `stream(kind)` begins an answer of its own, `say(bytes)` goes on.
pub const SOURCE: &str = r#"
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kept = {}

class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.give(200, b'{"status":"Healthy"}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        payload = json.loads(body)
        begun = []

        def stream(kind="text/event-stream", status=200):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            begun.append(True)

        def say(data):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        scope = {
            "payload": payload, "kept": kept, "stream": stream, "say": say, "time": time, "os": os, "sys": sys,
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        exec(payload["code"], scope)
        if begun:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.give(scope.get("status", 200), json.dumps(scope.get("answer")).encode())

ThreadingHTTPServer(("0.0.0.0", 8080), Agent).serve_forever()
"#;

/// Deploys it; `more` is merged into its configuration.
pub fn deploy(client: &Client, name: &str, more: Value) -> anyhow::Result<Runtime> {
    crate::deploy::python(client, name, SOURCE, more)
}

/// A submission of `code`; `query` as `deadline=5&retries=1`.
#[must_use]
pub fn submission(runtime: &str, query: &str, code: &str) -> Request {
    let body = json!({ "code": code }).to_string();
    Request::post(format!("/v1/runtimes/{runtime}/tasks?{query}"), body)
        .header("content-type", "application/json")
}

/// Submits `code`.
pub fn submit(client: &Client, runtime: &str, query: &str, code: &str) -> anyhow::Result<Task> {
    client
        .send(submission(runtime, query, code))?
        .expect(202)?
        .json()
}

/// A task.
pub fn get(client: &Client, task: &Task) -> anyhow::Result<Task> {
    client.get(&format!("/v1/tasks/{}", task.task_id))
}

/// Waits until it is there.
pub fn reaches(client: &Client, task: &Task, status: TaskStatus) -> anyhow::Result<Task> {
    wait::until(
        60,
        &format!("{} of {}", status.as_str(), task.task_id),
        || {
            let task = get(client, task)?;
            anyhow::ensure!(
                task.status == status || !task.status.is_final(),
                "it became {task:?}"
            );
            Ok((task.status == status).then_some(task))
        },
    )
}

/// Its answer.
pub fn result(client: &Client, task: &Task) -> anyhow::Result<Value> {
    client.get(&format!("/v1/tasks/{}/result", task.task_id))
}

/// A page of them.
pub fn list(client: &Client, query: &str) -> anyhow::Result<Page<Task>> {
    client.get(&format!("/v1/tasks?{query}"))
}

/// Its statuses so far, in order, as its events have them.
pub fn statuses(client: &Client, task: &Task) -> anyhow::Result<Vec<String>> {
    let events = client
        .send(Request::get(format!("/v1/tasks/{}/events", task.task_id)))?
        .expect(200)?
        .text()?;
    Ok(events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|event| event["status"].as_str().map(str::to_owned))
        .collect())
}
