//! `agentcore invoke`: one payload in, the answer out as it comes.
//!
//! For: the call itself and its failures. How an answer looks on standard output is `answer`. The session id goes to
//! standard error, so that the next call can use it; nothing is remembered between calls.

use super::Desk;
use crate::args::Invoke;
use crate::daemon::{DaemonError, SESSION_HEADER, encode, full};
use crate::failure::{Exit, Failure};
use crate::target;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use proto::api::LogRecord;
use serde::de::IgnoredAny;
use std::io::Read;

pub(super) mod answer;
mod submit;

/// On whose behalf (contract §2.2).
const USER_HEADER: HeaderName = HeaderName::from_static("x-amzn-bedrock-agentcore-runtime-user-id");

/// Log lines that are fetched when an agent failed and its error brought none.
const LAST_WORDS: u32 = 10;

/// Sends the payload and prints the answer.
pub(super) async fn run(desk: &Desk, args: Invoke) -> Result<(), Failure> {
    let payload = payload(&args.payload, args.raw)?;
    if args.submission.background {
        return submit::run(desk, &args, payload).await;
    }
    let limit = args.timeout;
    let work = call(desk, &args, payload);
    let Some(limit) = limit else {
        return work.await;
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::TimedOut,
            format!(
                "no complete answer within {} s; the invocation is cancelled",
                limit.as_secs_f64()
            ),
        )
        .advice("the session is still there: see `agentcore logs`, or allow more with --timeout"))
    })
}

async fn call(desk: &Desk, args: &Invoke, payload: Bytes) -> Result<(), Failure> {
    let runtime = target::runtime(&desk.daemon, args.target.agent.as_deref()).await?;
    let answer = desk
        .daemon
        .send(request(desk, args, &runtime, payload)?)
        .await?;
    let session = answer
        .headers()
        .get(SESSION_HEADER)
        .and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let shown = session.as_deref().filter(|id| {
        args.session_id
            .as_ref()
            .is_none_or(|own| own.as_str() != *id)
    });
    if let Some(id) = shown {
        desk.screen
            .note(format!("session {id} (continue it with -s {id})"));
    }
    if !answer.status().is_success() {
        return Err(refused(desk, &runtime, answer).await);
    }
    answer::print(desk, args.stream, &runtime, session, answer).await
}

fn request(
    desk: &Desk,
    args: &Invoke,
    runtime: &str,
    payload: Bytes,
) -> Result<Request<crate::daemon::Body>, Failure> {
    let path = format!("/runtimes/{}/invocations", encode(runtime));
    let mut request = desk.daemon.request(Method::POST, &path, full(payload));
    let headers = request.headers_mut();
    describe(headers, args)?;
    // Agents that can do both choose by it; what they choose is shown either way.
    let accepted = if args.stream {
        "text/event-stream, application/json"
    } else {
        "application/json, */*;q=0.5"
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accepted));
    Ok(request)
}

/// What the payload is, and whom it is for.
fn describe(headers: &mut HeaderMap, args: &Invoke) -> Result<(), Failure> {
    let kind = if args.raw {
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(id) = &args.session_id {
        let value = HeaderValue::from_str(id.as_str()).expect("session ids are visible ASCII");
        headers.insert(SESSION_HEADER, value);
    }
    if let Some(user) = &args.user_id {
        let value = HeaderValue::from_str(user)
            .map_err(|_| Failure::usage("the user id has a character that no header can hold"))?;
        headers.insert(USER_HEADER, value);
    }
    Ok(())
}

/// The payload's bytes, exactly as given; JSON unless it is `raw`.
pub(super) fn payload(text: &str, raw: bool) -> Result<Bytes, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::usage(format!("cannot read the payload from {what}: {error}"))
    };
    let bytes = match text {
        "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| unreadable("standard input", error))?;
            bytes
        }
        text => match text.strip_prefix('@') {
            Some(file) => std::fs::read(file).map_err(|error| unreadable(file, error))?,
            None => text.as_bytes().to_vec(),
        },
    };
    if !raw && let Err(error) = serde_json::from_slice::<IgnoredAny>(&bytes) {
        return Err(Failure::usage(format!("the payload is not JSON: {error}")).advice(
            "quote it for the shell: '{\"prompt\": \"Hello\"}'; @FILE and - read it from elsewhere, --raw sends \
             anything as it is",
        ));
    }
    Ok(bytes.into())
}

/// The refusal with the agent's last log lines, fetched if they did not come along.
pub(super) async fn refused(desk: &Desk, runtime: &str, answer: Response<Incoming>) -> Failure {
    let mut refusal = desk.daemon.refusal(answer).await;
    if refusal.status == 424
        && refusal.log.is_empty()
        && let Some(session) = refusal.session.clone()
    {
        // Best effort: the error itself must be shown in any case.
        refusal.log = last_words(desk, runtime, &session)
            .await
            .unwrap_or_default();
    }
    refusal.failure()
}

async fn last_words(desk: &Desk, runtime: &str, session: &str) -> Result<Vec<String>, DaemonError> {
    let path = target::session_path(session, "/logs", Some(runtime));
    let path = format!("{path}&tail={LAST_WORDS}");
    let mut request = desk
        .daemon
        .request(Method::GET, &path, crate::daemon::empty());
    let kind = HeaderValue::from_static("application/x-ndjson");
    request.headers_mut().insert(ACCEPT, kind);
    let text = desk.daemon.text(request).await?;
    // As they come with an error: the agent's own lines, and nothing before them.
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str::<LogRecord>(line).ok())
        .filter(|record| record.stream.is_some())
        .map(|record| record.text)
        .collect())
}
