//! `/v1`, as far as the command uses it.

use super::{Body, Seen, State, bytes, document, problem, sha256};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::{Method, Response};
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const NOW: &str = "2026-01-01T00:00:00.000Z";

pub(super) fn runtime(name: &str, version: u32, config: &Value, artifact: &str) -> Value {
    json!({
        "runtimeId": format!("{name}-AbCdEf1234"),
        "arn": format!("arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/{name}-AbCdEf1234"),
        "name": name, "version": version, "status": "READY", "config": config, "artifact": artifact,
        "sessions": 0, "createdAt": NOW, "updatedAt": NOW,
    })
}

pub(super) fn session(id: &str, client: &str, runtime: &str, phase: &str) -> Value {
    json!({
        "id": id, "sessionId": client, "runtime": runtime, "version": 1, "phase": phase, "inFlight": 0,
        "createdAt": NOW, "lastActivityAt": NOW, "uidBase": 2_000_000,
        "usage": { "cpuSeconds": 1.25, "memoryBytes": 1_572_864, "memoryPeakBytes": 2_097_152, "pids": 2, "oomKills": 0 },
        "egressRefused": 0, "logLinesDropped": 0,
    })
}

/// The scripted refusal, if it is for this request.
pub(super) fn refused(state: &Mutex<State>, seen: &Seen) -> Option<Response<Body>> {
    let state = state.lock().expect("sound");
    let refusal = state.refusal.as_ref()?;
    if seen.method != refusal.method || !seen.path.starts_with(refusal.path) {
        return None;
    }
    let mut response = document(refusal.status, &refusal.body);
    let headers = response.headers_mut();
    for (name, value) in &refusal.headers {
        headers.insert(*name, value.parse().expect("a header"));
    }
    Some(response)
}

pub(super) async fn answer(
    state: Arc<Mutex<State>>,
    go_on: Arc<Notify>,
    seen: &Seen,
) -> Response<Body> {
    let parts: Vec<String> = seen
        .path
        .trim_start_matches('/')
        .split('/')
        .map(decode)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if let (&Method::GET, ["v1", "sessions", id, "logs"]) = (&seen.method, parts.as_slice()) {
        return logs(state, go_on, id, seen);
    }
    let mut state = state.lock().expect("sound");
    match (&seen.method, parts.as_slice()) {
        (&Method::GET, ["v1", "info"]) => info(&state),
        (&Method::GET, ["v1", "doctor"]) => document(200, &json!({ "checks": state.checks })),
        (&Method::POST, ["v1", "artifacts"]) => {
            let id = sha256(&seen.body);
            let status = if state
                .artifacts
                .insert(id.clone(), seen.body.to_vec())
                .is_some()
            {
                200
            } else {
                201
            };
            document(status, &artifact(&id, seen.body.len()))
        }
        (&Method::GET, ["v1", "artifacts", id]) => match state.artifacts.get(*id) {
            Some(found) => document(200, &artifact(id, found.len())),
            None => problem(404, "ResourceNotFoundException", "no such artifact"),
        },
        (&Method::DELETE, ["v1", "artifacts", id]) => delete_artifact(&mut state, id),
        (&Method::GET, ["v1", "runtimes"]) => {
            let newest = state
                .runtimes
                .values()
                .filter_map(|all| all.last().cloned())
                .collect();
            page(&state, newest, &seen.query)
        }
        (&Method::PUT, ["v1", "runtimes", name]) => put_runtime(&mut state, name, seen),
        (&Method::GET, ["v1", "runtimes", name]) => get_runtime(&mut state, name),
        (&Method::DELETE, ["v1", "runtimes", name]) => match state.runtimes.remove(*name) {
            Some(_) => {
                state.sessions.retain(|session| session["runtime"] != *name);
                bytes(204, Bytes::new())
            }
            None => problem(404, "ResourceNotFoundException", "no such runtime"),
        },
        (&Method::GET, ["v1", "runtimes", name, "versions"]) => match state.runtimes.get(*name) {
            Some(all) => page(&state, all.clone(), &seen.query),
            None => problem(404, "ResourceNotFoundException", "no such runtime"),
        },
        (&Method::GET, ["v1", "runtimes", name, "versions", number]) => {
            let all = state.runtimes.get(*name);
            let found = all.and_then(|all| {
                let number: u64 = number.parse().ok()?;
                all.iter().find(|version| version["version"] == number)
            });
            match found {
                Some(version) => document(200, version),
                None => problem(404, "ResourceNotFoundException", "no such version"),
            }
        }
        (&Method::GET, ["v1", "sessions"]) => {
            let of = parameter(&seen.query, "runtime");
            let all = state
                .sessions
                .iter()
                .filter(|each| of.as_ref().is_none_or(|of| each["runtime"] == *of));
            page(&state, all.cloned().collect(), &seen.query)
        }
        (&Method::GET, ["v1", "sessions", id]) => match find(&mut state, id, &seen.query) {
            Some(session) => document(200, session),
            None => problem(404, "ResourceNotFoundException", "no such session"),
        },
        (&Method::DELETE, ["v1", "sessions", id]) => match find(&mut state, id, &seen.query) {
            Some(session) => {
                session["phase"] = json!("ended");
                session["endReason"] = json!("stopped");
                document(200, session)
            }
            None => problem(404, "ResourceNotFoundException", "no such session"),
        },
        (method, _) => panic!("the fake has no {method} {}", seen.path),
    }
}

fn info(state: &State) -> Response<Body> {
    let base = match &state.python {
        Some(version) => json!({ "python3": version, "bash": "5.2" }),
        None => json!({ "bash": "5.2" }),
    };
    document(
        200,
        &json!({
            "version": "9.9.9", "instance": "inst1", "pid": 1, "kernel": "6.18.0", "base": base, "sessions": 0,
            "listen": ["unix:/run/agentcore/api.sock", "127.0.0.1:18080"], "startedAt": NOW,
        }),
    )
}

fn artifact(id: &str, length: usize) -> Value {
    json!({ "artifactId": id, "packedBytes": length, "unpackedBytes": length, "entries": 1, "createdAt": NOW })
}

fn delete_artifact(state: &mut State, id: &str) -> Response<Body> {
    let used = state
        .runtimes
        .values()
        .flatten()
        .any(|version| version["artifact"] == id);
    if used {
        return problem(409, "ConflictException", "a version uses it");
    }
    match state.artifacts.remove(id) {
        Some(_) => bytes(204, Bytes::new()),
        None => problem(404, "ResourceNotFoundException", "no such artifact"),
    }
}

fn put_runtime(state: &mut State, name: &str, seen: &Seen) -> Response<Body> {
    let order: Value = serde_json::from_slice(&seen.body).expect("JSON");
    // The real type: what the command sends must be what the daemon reads.
    serde_json::from_value::<proto::api::PutRuntime>(order.clone()).expect("a PutRuntime");
    let id = order["artifact"].as_str().expect("an id").to_owned();
    if !state.artifacts.contains_key(&id) {
        return problem(404, "ResourceNotFoundException", "no such artifact");
    }
    let versions = state.runtimes.entry(name.to_owned()).or_default();
    let number = u32::try_from(versions.len() + 1).expect("few");
    let mut record = runtime(name, number, &order["config"], &id);
    if state.creating > 0 {
        record["status"] = json!("CREATING");
    }
    versions.push(record.clone());
    document(if number == 1 { 201 } else { 200 }, &record)
}

fn get_runtime(state: &mut State, name: &str) -> Response<Body> {
    let sessions = state
        .sessions
        .iter()
        .filter(|each| each["runtime"] == name && each["phase"] != "ended");
    let live = sessions.count();
    let creating = state.creating > 1;
    state.creating = state.creating.saturating_sub(1);
    match state.runtimes.get_mut(name).and_then(|all| all.last_mut()) {
        Some(record) => {
            record["sessions"] = json!(live);
            record["status"] = json!(if creating { "CREATING" } else { "READY" });
            document(200, record)
        }
        None => problem(404, "ResourceNotFoundException", "no such runtime"),
    }
}

fn find<'a>(state: &'a mut State, id: &str, query: &str) -> Option<&'a mut Value> {
    let of = parameter(query, "runtime");
    state.sessions.iter_mut().find(|each| {
        (each["id"] == id || each["sessionId"] == id)
            && of.as_ref().is_none_or(|of| each["runtime"] == *of)
    })
}

pub(super) fn page(state: &State, items: Vec<Value>, query: &str) -> Response<Body> {
    let at: usize =
        parameter(query, "nextToken").map_or(0, |token| token.parse().expect("our token"));
    let end = (at + state.page).min(items.len());
    let mut page = json!({ "items": items[at..end] });
    if end < items.len() {
        page["nextToken"] = json!(end.to_string());
    }
    document(200, &page)
}

/// Records as NDJSON; with `follow`, another one after each `go_on`, and the end when the session has ended.
fn logs(state: Arc<Mutex<State>>, go_on: Arc<Notify>, id: &str, seen: &Seen) -> Response<Body> {
    let query = &seen.query;
    let ndjson = seen.header("accept") == Some("application/x-ndjson");
    let id = id.to_owned();
    let records = state
        .lock()
        .expect("sound")
        .logs
        .get(&id)
        .cloned()
        .unwrap_or_default();
    let tail = parameter(query, "tail").map(|tail| tail.parse::<usize>().expect("a number"));
    let skip = tail.map_or(0, |tail| records.len().saturating_sub(tail));
    let follow = parameter(query, "follow").is_some();
    let (mut into, body) = Channel::<Bytes, io::Error>::new(16);
    tokio::spawn(async move {
        let mut sent = records.len();
        let lines = move |records: &[proto::api::LogRecord]| {
            let lines = records.iter().map(|record| {
                if ndjson {
                    serde_json::to_string(record).expect("JSON") + "\n"
                } else {
                    format!("{}\n", record.text)
                }
            });
            Bytes::from(lines.collect::<String>())
        };
        if into.send_data(lines(&records[skip..])).await.is_err() {
            return;
        }
        if !follow {
            return;
        }
        loop {
            let ended = {
                let state = state.lock().expect("sound");
                let session = state.sessions.iter().find(|each| each["id"] == id);
                session.is_none_or(|session| session["phase"] == "ended")
            };
            let now = state
                .lock()
                .expect("sound")
                .logs
                .get(&id)
                .cloned()
                .unwrap_or_default();
            if now.len() > sent {
                if into.send_data(lines(&now[sent..])).await.is_err() {
                    return;
                }
                sent = now.len();
            }
            if ended {
                return;
            }
            tokio::select! {
                () = go_on.notified() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
        }
    });
    Response::new(body.boxed())
}

pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
        .next()
}

pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(&tail[..2]).expect("hex");
            bytes.push(u8::from_str_radix(digits, 16).expect("hex"));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
