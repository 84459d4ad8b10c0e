//! `agentcore invoke --async`: the payload becomes a task, and its id is all that is waited for.

use super::super::Desk;
use super::describe;
use crate::args::Invoke;
use crate::daemon::{encode, full};
use crate::failure::Failure;
use crate::target;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use proto::api::{IDEMPOTENCY_KEY, Task};

/// Submits the task and prints its id.
pub(super) async fn run(desk: &Desk, args: &Invoke, payload: Bytes) -> Result<(), Failure> {
    let runtime = target::runtime(&desk.daemon, args.target.agent.as_deref()).await?;
    let path = path(args, &runtime);
    let mut request = desk.daemon.request(Method::POST, &path, full(payload));
    let headers = request.headers_mut();
    describe(headers, args)?;
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(key) = &args.submission.idempotency_key {
        let value = HeaderValue::from_str(key).map_err(|_| {
            Failure::usage("the idempotency key has a character that no header can hold")
        })?;
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), value);
    }
    let answer = desk.daemon.call(request).await?;
    let task: Task = desk.daemon.document(Method::POST, &path, answer).await?;
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&task);
    }
    // The id alone, for scripts; what to do with it is for people.
    screen.line(task.task_id.as_str())?;
    screen.note(format!(
        "task of {} in session {}, until {}; its answer: agentcore task wait {}",
        task.runtime, task.session_id, task.deadline_at, task.task_id
    ));
    Ok(())
}

fn path(args: &Invoke, runtime: &str) -> String {
    let wishes = &args.submission;
    let mut query = Vec::new();
    let mut wish = |name: &str, value: Option<String>| {
        query.extend(value.map(|value| format!("{name}={}", encode(&value))));
    };
    wish(
        "deadline",
        wishes.deadline.map(|seconds| seconds.to_string()),
    );
    wish("callback", wishes.callback.clone());
    wish("retries", wishes.retries.map(|number| number.to_string()));
    wish("backoff", wishes.backoff.map(|seconds| seconds.to_string()));
    let name = encode(target::plain_name(runtime));
    let path = format!("/v1/runtimes/{name}/tasks?{}", query.join("&"));
    path.trim_end_matches('?').to_owned()
}
