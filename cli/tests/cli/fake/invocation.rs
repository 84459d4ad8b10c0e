//! What an invocation answers, scripted by the test.

use super::{Body, NEW_SESSION, Seen, State, bytes, document, routes};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const SESSION: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

/// What an invocation does.
#[derive(Debug, Clone, Default)]
pub(crate) enum Script {
    /// Answers with the request's body.
    #[default]
    Echo,
    /// This status, these headers, this body.
    Answer(u16, Vec<(&'static str, &'static str)>, String),
    /// These pieces as an event stream; the next one each time the test says `go_on`.
    Held(Vec<&'static str>),
    /// These bytes of a body, then the connection breaks.
    Cut(&'static str),
    /// No answer at all.
    Hang,
}

/// Tells the state when it goes before it was disarmed.
struct Alarm {
    state: Arc<Mutex<State>>,
    armed: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            self.state.lock().expect("sound").cancelled = true;
        }
    }
}

pub(super) async fn answer(
    state: Arc<Mutex<State>>,
    go_on: Arc<Notify>,
    seen: &Seen,
) -> Response<Body> {
    let named = seen
        .path
        .split('/')
        .nth(2)
        .map(routes::decode)
        .unwrap_or_default();
    let name = named.rsplit_once('/').map_or(named.as_str(), |(_, id)| id);
    let name = name.split_once('-').map_or(name, |(name, _)| name);
    let session = seen.header(SESSION).unwrap_or(NEW_SESSION).to_owned();
    let script = {
        let mut state = state.lock().expect("sound");
        if !state.runtimes.contains_key(name) {
            let mut response = document(404, &json!({ "message": format!("no runtime {name}") }));
            let error = "ResourceNotFoundException".parse().expect("a header");
            response.headers_mut().insert("x-amzn-errortype", error);
            return response;
        }
        if !state
            .sessions
            .iter()
            .any(|each| each["sessionId"] == session.as_str())
        {
            let id = format!("s{}", state.sessions.len() + 100);
            state
                .sessions
                .push(routes::session(&id, &session, name, "ready"));
        }
        state.script.clone()
    };
    let mut response = match script {
        Script::Echo => echo(seen),
        Script::Answer(status, headers, body) => {
            let mut response = bytes(status, body.into());
            for (name, value) in headers {
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("a header"));
            }
            response
        }
        Script::Held(pieces) => held(pieces, state, go_on),
        Script::Cut(text) => cut(text),
        Script::Hang => {
            let _alarm = Alarm { state, armed: true };
            std::future::pending().await
        }
    };
    response
        .headers_mut()
        .insert(SESSION, session.parse().expect("a header"));
    response
}

fn echo(seen: &Seen) -> Response<Body> {
    match serde_json::from_slice::<Value>(&seen.body) {
        Ok(value) => document(200, &json!({ "echo": value })),
        Err(_) => bytes(200, seen.body.clone()),
    }
}

fn held(pieces: Vec<&'static str>, state: Arc<Mutex<State>>, go_on: Arc<Notify>) -> Response<Body> {
    let (mut into, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        let mut alarm = Alarm { state, armed: true };
        for (at, piece) in pieces.into_iter().enumerate() {
            if at > 0 {
                go_on.notified().await;
            }
            if into
                .send_data(Bytes::from_static(piece.as_bytes()))
                .await
                .is_err()
            {
                return;
            }
        }
        alarm.armed = false;
    });
    let mut response = Response::new(body.boxed());
    let kind = "text/event-stream; charset=utf-8"
        .parse()
        .expect("a header");
    response.headers_mut().insert("content-type", kind);
    response
}

fn cut(text: &'static str) -> Response<Body> {
    let (mut into, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        // So that the head and these bytes are on their way before the break.
        let _ = into.send_data(Bytes::from_static(text.as_bytes())).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        into.abort(io::Error::other("cut"));
    });
    Response::new(body.boxed())
}
