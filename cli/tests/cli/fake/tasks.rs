//! `/v1/tasks`: kept as the daemon keeps them; what their followers hear is scripted by the test.

use super::routes::{page, parameter};
use super::{Body, NEW_SESSION, Seen, State, bytes, document, problem};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::{Method, Response};
use proto::api::{Task, TaskEvent};
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const SESSION: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

/// What one follower hears.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    /// These events, and then the end: the task has this status.
    Ends(Vec<Value>, &'static str),
    /// These events, and then the daemon is gone.
    Breaks(Vec<Value>),
    /// These events; then, when the test says `go_on`, as with `Ends`.
    Waits(Vec<Value>, &'static str),
    /// Nobody is there.
    Refused(u16),
}

/// A task's record.
pub(crate) fn task(number: u32, runtime: &str, status: &str) -> Value {
    let record = json!({
        "taskId": format!("t{number:025}"), "runtime": runtime, "qualifier": "DEFAULT", "status": status,
        "sessionId": NEW_SESSION, "owner": "unix:0", "attempts": 1, "retries": 0,
        "createdAt": "2026-01-01T00:00:00.000Z", "deadlineAt": "2026-01-01T08:00:00.000Z",
        "usage": { "runMs": 1, "bytesIn": 2, "bytesOut": 3 },
    });
    // The real type: what the command is told must be what the daemon tells.
    serde_json::from_value::<Task>(record.clone()).expect("a task");
    record
}

pub(super) fn answer(
    state: &Arc<Mutex<State>>,
    go_on: &Arc<Notify>,
    seen: &Seen,
) -> Option<Response<Body>> {
    let parts: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
    let mut locked = state.lock().expect("sound");
    let answered = match (&seen.method, parts.as_slice()) {
        (&Method::POST, ["v1", "runtimes", name, "tasks"]) => submit(&mut locked, name, seen),
        (&Method::GET, ["v1", "runtimes", name, "callback-secret"]) => {
            document(200, &json!({ "secret": format!("whsec_{name}") }))
        }
        (&Method::GET, ["v1", "tasks"]) => {
            let only = |name: &str, field: &str, each: &Value| {
                parameter(&seen.query, name).is_none_or(|value| each[field] == value)
            };
            let items = locked.tasks.iter().filter(|each| {
                only("runtime", "runtime", each)
                    && only("status", "status", each)
                    && only("session", "sessionId", each)
            });
            let items = items.cloned().collect();
            page(&locked, items, &seen.query)
        }
        (method, ["v1", "tasks", id, tail @ ..]) => {
            let Some(at) = locked.tasks.iter().position(|each| each["taskId"] == *id) else {
                return Some(problem(404, "ResourceNotFoundException", "no such task"));
            };
            match (method, tail) {
                (&Method::GET, []) => document(200, &locked.tasks[at]),
                (&Method::POST, ["cancel"]) => {
                    locked.tasks[at]["status"] = json!("CANCELLED");
                    document(202, &locked.tasks[at])
                }
                (&Method::GET, ["result"]) => match locked.result {
                    Some((kind, body)) => {
                        let mut response = bytes(200, body.into());
                        let kind = kind.parse().expect("a header");
                        response.headers_mut().insert("content-type", kind);
                        response
                    }
                    None => problem(409, "ConflictException", "the task is not finished"),
                },
                (&Method::GET, ["events"]) => {
                    let stream = locked
                        .streams
                        .pop_front()
                        .expect("as many as are asked for");
                    events(state, go_on, at, stream)
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(answered)
}

fn submit(state: &mut State, name: &str, seen: &Seen) -> Response<Body> {
    if !state.runtimes.contains_key(name) {
        return problem(404, "ResourceNotFoundException", "no such runtime");
    }
    let number = u32::try_from(state.tasks.len() + 1).expect("few");
    let mut record = task(number, name, "QUEUED");
    if let Some(session) = seen.header(SESSION) {
        record["sessionId"] = json!(session);
    }
    state.tasks.push(record.clone());
    document(202, &record)
}

fn events(
    state: &Arc<Mutex<State>>,
    go_on: &Arc<Notify>,
    at: usize,
    stream: Stream,
) -> Response<Body> {
    let (events, status, waits) = match stream {
        Stream::Ends(events, status) => (events, Some(status), false),
        Stream::Breaks(events) => (events, None, false),
        Stream::Waits(events, status) => (events, Some(status), true),
        Stream::Refused(status) => {
            return problem(status, "ServiceUnavailableException", "starting");
        }
    };
    let (state, go_on) = (Arc::clone(state), Arc::clone(go_on));
    let (mut into, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        for event in events {
            let known: TaskEvent = serde_json::from_value(event.clone()).expect("an event");
            let (id, name) = (known.id, known.kind.name());
            let text = format!("id: {id}\nevent: {name}\ndata: {event}\n\n");
            if into.send_data(text.into()).await.is_err() {
                return;
            }
        }
        if waits {
            go_on.notified().await;
        }
        match status {
            Some(status) => {
                state.lock().expect("sound").tasks[at]["status"] = json!(status);
            }
            None => {
                // So that the events are on their way before the break.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                into.abort(io::Error::other("killed"));
            }
        }
    });
    let mut response = Response::new(body.boxed());
    let kind = "text/event-stream".parse().expect("a header");
    response.headers_mut().insert("content-type", kind);
    response
}
