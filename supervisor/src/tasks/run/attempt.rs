//! One attempt: the request goes to the agent, the answer is kept as it comes, and what it comes to is an event of the task's.

use super::super::answer::{Answer, blocking};
use super::super::exchange::{Exchange, Invocation, Payload, SendError};
use super::super::{Running, written};
use crate::api::evidence::{AgentEvidence, BODY_BYTES};
use crate::api::invoke::{self, AgentErrors, Call, REQUEST_ID, SESSION_ID};
use crate::broker::Broker;
use crate::owner::Principal;
use crate::relay::kept::{Outcome, Piece};
use crate::relay::link::CallError;
use crate::session::handle::SessionHandle;
use crate::store::{Head, TaskRow, Timestamp};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use proto::api::{
    EndReason, MAX_CHECKPOINT, TASK_ATTEMPT_HEADER, TASK_CHECKPOINT_HEADER, TASK_ID_HEADER,
};
use proto::code::ErrorCode;
use proto::ids::{InvocationId, TaskId};
use proto::shim::{Invoke, Kept};
use serde_json::{Map, Value, json};
use session_core::task::{Cause, Event};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Progress records of one task are written down no more often than this; the newest wins.
const BETWEEN_RECORDS: Duration = Duration::from_millis(500);

/// When a request that certainly reached no agent is sent again.
const SEND_AGAIN: Duration = Duration::from_secs(1);

/// Room for an answer is taken in pieces of this size.
const PIECE: u64 = 256 * 1024;

/// How long a link's end waits for the reason of its session's.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub broker: Arc<Broker>,
    pub running: Arc<Running>,
    pub handle: Arc<SessionHandle>,
    pub row: TaskRow,
    pub number: u32,
    pub headers: Vec<(String, String)>,
}

/// What an attempt came to.
pub(super) struct Ran {
    pub event: Event,
    pub reason: Option<String>,
    /// Bytes that its answer takes.
    pub charged: u64,
}

/// Counts what there is of an answer whose attempt ends from outside: what the attempt itself has counted goes with it.
pub(super) fn charged(broker: &Broker, running: &Running, whose: &Principal) -> u64 {
    let answer = running.answer.borrow();
    let bytes = answer.as_ref().map_or(0, |answer| answer.told().bytes);
    broker.tasks.stored.found(whose, bytes);
    bytes
}

/// Where an attempt begins.
#[derive(Debug)]
pub(super) enum Start {
    /// With its request.
    Fresh,
    /// In the middle: its session's shim has kept it.
    Kept(Kept),
}

impl Attempt {
    /// See the module. Giving it up ends nothing at the agent: see [`Invocation::settled`].
    pub(super) async fn run(self, invocation: Invocation, start: Start, payload: Payload) -> Ran {
        let path = self.broker.tasks.result_path(&self.row.id);
        let filed = match (&start, self.row.result_filed) {
            (Start::Kept(_), true) => match length_of(path.clone()).await {
                Ok(bytes) => Some(bytes),
                Err(error) => {
                    let (cause, told) = self.not_kept(&error);
                    return broke(cause, told);
                }
            },
            (Start::Kept(_) | Start::Fresh, _) => None,
        };
        let sent = match &start {
            Start::Fresh => {
                let left = self.row.deadline_at.0.saturating_sub(Timestamp::now().0);
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0).max(1));
                invocation.begin(left, self.request(), payload).await
            }
            Start::Kept(kept) => invocation.resume(kept, filed.unwrap_or(0), payload).await,
        };
        let mut exchange = match sent {
            Ok(exchange) => exchange,
            Err(error) => return self.not_answered(error).await,
        };
        sandbox::faults::abort_at("task.sent");
        let status = exchange.head().status;
        // A shim lets through only what it was asked for, and is not believed.
        if !(200..600).contains(&status) {
            let told = format!("the agent answered with status {status}");
            return broke(Cause::Agent, told);
        }
        let head = Head {
            status,
            content_type: content_type(&exchange.head().headers),
        };
        let streamed = head
            .content_type
            .as_deref()
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        let answer = match filed {
            Some(_) => Answer::again(path, head).await,
            None => Answer::begin(path, head, streamed).await,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let (cause, told) = self.not_kept(&error);
                return broke(cause, told);
            }
        };
        if streamed && filed.is_none() {
            self.note_head(&answer).await;
        }
        self.running.answer.send_replace(Some(Arc::clone(&answer)));
        self.broker.tasks.tell(self.row.seq);
        self.keep(&mut exchange, &answer).await
    }

    /// Keeps the body as it comes.
    async fn keep(&self, exchange: &mut Exchange, answer: &Arc<Answer>) -> Ran {
        let bounds = self.broker.config().tasks;
        let whose = &self.row.owner.principal;
        let mut charge = self.broker.tasks.stored.charge(whose, 0, u64::MAX);
        let mut room = 0_u64;
        let cut = loop {
            let bytes = match exchange.next().await {
                Ok(Piece::End(Outcome::Complete)) => break None,
                Ok(Piece::End(Outcome::Failed(error))) => {
                    break Some(self.cut_off(&error.message, false).await);
                }
                Err(error) => break Some(self.cut_off(&error.to_string(), true).await),
                Ok(Piece::Data(bytes)) => bytes,
            };
            let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let total = answer.told().bytes.saturating_add(more);
            if total > bounds.max_result.0 {
                let told = format!(
                    "the agent's answer has more than {} bytes, which is the most that is kept (tasks.max_result)",
                    bounds.max_result.0
                );
                break Some((Cause::Agent, told));
            }
            if total > room {
                let piece = (total - room).max(PIECE.min(bounds.max_result.0 - room));
                let taken = charge
                    .as_mut()
                    .is_some_and(|charge| charge.more(piece, bounds.max_stored.0));
                if !taken {
                    let told = "there is no room to keep the agent's answer (tasks.max_stored)";
                    break Some((Cause::Agent, told.to_owned()));
                }
                room += piece;
            }
            if let Err(error) = self.push(answer, bytes).await {
                break Some(self.not_kept(&error));
            }
            if answer.is_filed() {
                exchange.ack(total).await;
                sandbox::faults::abort_at("task.filed");
            }
        };
        // As much as it has, no more.
        let bytes = answer.told().bytes;
        if let Some(charge) = charge {
            let taken = charge.keep();
            let stored = &self.broker.tasks.stored;
            stored.give(whose, taken.saturating_sub(bytes));
        }
        let ran = match cut {
            Some((cause, told)) => broke(cause, told),
            None => self.answered(answer).await,
        };
        Ran {
            charged: bytes,
            ..ran
        }
    }

    async fn push(&self, answer: &Arc<Answer>, bytes: Bytes) -> std::io::Result<()> {
        if answer.outgrows(bytes.len()) {
            answer.file().await?;
            self.note_head(answer).await;
        }
        answer.push(bytes).await
    }

    /// What an answer in a file is, for a daemon that finds it: nothing of it is acknowledged before that is known.
    async fn note_head(&self, answer: &Arc<Answer>) {
        let seq = self.row.seq;
        let store = &self.broker.store;
        written(&self.broker, seq, || {
            store.task_answers(seq, answer.head.clone())
        })
        .await;
    }

    /// The whole answer is here.
    async fn answered(&self, answer: &Arc<Answer>) -> Ran {
        let status = answer.head.status;
        if status < 400 {
            return Ran {
                event: Event::Answered { ok: true },
                reason: None,
                charged: 0,
            };
        }
        self.handle.log.settled().await;
        let most = u64::try_from(BODY_BYTES).unwrap_or(u64::MAX);
        let end = answer.told().bytes.min(most);
        // What cannot be read is not said.
        let begun = match end {
            0 => Bytes::new(),
            _ => answer.read(0, end).await.unwrap_or_default(),
        };
        let evidence = AgentEvidence::answered(status, &begun, self.handle.log.tail());
        let mut reason = format!(
            "the agent answered with status {status}: {}",
            evidence.said()
        );
        if let Some(words) = evidence.last_words() {
            reason.push_str("; its log ends with: ");
            reason.push_str(&words);
        }
        Ran {
            event: Event::Answered { ok: false },
            reason: Some(reason),
            charged: 0,
        }
    }

    /// The request was not sent, or nothing came back.
    async fn not_answered(&self, error: SendError) -> Ran {
        let error = match error {
            SendError::Payload(error) => {
                let told = format!("its payload cannot be read: {error}");
                return broke(Cause::Agent, told);
            }
            SendError::Call(error) => error,
        };
        if let ErrorCode::TooManyInvocations | ErrorCode::Throttled = error.code() {
            let again = SEND_AGAIN;
            return broke(Cause::Unsent { again }, error.to_string());
        }
        let told = invoke::relay_failure(&self.handle, &error).await;
        let cause = match error {
            CallError::LinkClosed | CallError::Remote(_) => self.cause(),
            CallError::Shape(_) | CallError::NoStream(_) | CallError::TooLarge(_) => Cause::Agent,
        };
        broke(cause, told.message)
    }

    /// The answer broke off; whether at the link.
    async fn cut_off(&self, error: &str, link: bool) -> (Cause, String) {
        let ending = tokio::time::timeout(REASON_PATIENCE, self.handle.ending()).await;
        match ending.ok().flatten() {
            Some(end) => {
                let detail = end.detail;
                let told = format!("the session ended before the answer was complete: {detail}");
                (self.cause(), told)
            }
            None if link => (Cause::Interrupted, error.to_owned()),
            None => {
                self.handle.log.settled().await;
                let words = AgentEvidence::logged(self.handle.log.tail()).last_words();
                let words = words.map(|words| format!("; its log ends with: {words}"));
                let told = format!(
                    "the agent's answer ended early: {error}{}",
                    words.unwrap_or_default()
                );
                (Cause::Agent, told)
            }
        }
    }

    /// Whose doing it was.
    fn cause(&self) -> Cause {
        match self.handle.view().end.map(|end| end.reason) {
            Some(EndReason::Stopped) => Cause::Stopped,
            Some(EndReason::DaemonStopped | EndReason::DaemonLost) => Cause::Interrupted,
            Some(
                EndReason::Idle
                | EndReason::Evicted
                | EndReason::MaxLifetime
                | EndReason::Unhealthy
                | EndReason::OutOfMemory
                | EndReason::AgentExited
                | EndReason::ShimDied
                | EndReason::Protocol
                | EndReason::LaunchFailed
                | EndReason::StartTimeout,
            )
            | None => Cause::Agent,
        }
    }

    fn not_kept(&self, error: &std::io::Error) -> (Cause, String) {
        tracing::error!(task_id = %self.row.id, %error, "answer of a task not kept");
        let told = format!("the agent's answer could not be kept: {error}");
        (Cause::Agent, told)
    }

    fn request(&self) -> Invoke {
        let mut headers = self.headers.clone();
        // What is the runtime's to say.
        headers.retain(|(name, _)| !OURS.contains(&name.as_str()));
        headers.push((
            SESSION_ID.as_str().to_owned(),
            self.row.client_id.to_string(),
        ));
        headers.push((REQUEST_ID.to_owned(), self.row.id.to_string()));
        headers.push((TASK_ID_HEADER.to_owned(), self.row.id.to_string()));
        headers.push((TASK_ATTEMPT_HEADER.to_owned(), self.number.to_string()));
        let checkpoint = self.row.progress.as_deref().filter(|_| self.number > 1);
        if let Some(checkpoint) = checkpoint.and_then(checkpoint_header) {
            headers.push((TASK_CHECKPOINT_HEADER.to_owned(), checkpoint));
        }
        let version = &self.handle.version;
        let call = Call {
            key: self.handle.key.clone(),
            version: Arc::clone(version),
            method: "POST".to_owned(),
            target: version.spec.path.clone(),
            headers,
            port: None,
            attempt: None,
            agent_errors: AgentErrors::Explained,
        };
        Invoke {
            id: InvocationId(0),
            headers: invoke::for_agent(&call, &self.handle),
            method: call.method,
            target: call.target,
            content_length: None,
            port: None,
            keep: None,
        }
    }

    /// Writes progress records down as they come, until it is stopped.
    pub(super) fn keep_progress(&self) -> Progress {
        let (broker, running, seq) = (
            Arc::clone(&self.broker),
            Arc::clone(&self.running),
            self.row.seq,
        );
        let over = CancellationToken::new();
        let stopped = over.clone();
        let mut records = running.progress.subscribe();
        let keeping = tokio::spawn(async move {
            let mut pause = Duration::ZERO;
            loop {
                let next = async {
                    tokio::time::sleep(pause).await;
                    records.wait_for(Option::is_some).await.is_ok()
                };
                if stopped.run_until_cancelled(next).await != Some(true) {
                    return;
                }
                // Not given up in the middle: a record that was taken is written.
                write_record(&broker, &running, seq).await;
                pause = BETWEEN_RECORDS;
            }
        });
        Progress {
            over: over.drop_guard(),
            keeping,
        }
    }
}

/// See [`Attempt::keep_progress`].
pub(super) struct Progress {
    over: DropGuard,
    keeping: JoinHandle<()>,
}

impl Progress {
    /// Stops, with the newest record written down.
    pub(super) async fn stop(self, broker: &Broker, running: &Running, seq: i64) {
        drop(self.over);
        let _ = self.keeping.await;
        write_record(broker, running, seq).await;
    }
}

async fn write_record(broker: &Broker, running: &Running, seq: i64) {
    let Some(record) = running.progress.send_replace(None) else {
        return;
    };
    match broker.store.task_progressed(seq, record).await {
        Ok(_) => broker.tasks.tell(seq),
        // The next one says more.
        Err(error) => {
            let id = running.id.get().map(TaskId::as_str);
            tracing::warn!(task_id = id, error = %crate::fault::chain(&error), "progress not written down");
        }
    }
}

/// Bytes of a file.
async fn length_of(path: std::path::PathBuf) -> std::io::Result<u64> {
    blocking(move || Ok(std::fs::metadata(path)?.len())).await
}

/// Headers that a task's request has of this daemon.
const OURS: &[&str] = &[
    "x-amzn-bedrock-agentcore-runtime-session-id",
    REQUEST_ID,
    TASK_ID_HEADER,
    TASK_ATTEMPT_HEADER,
    TASK_CHECKPOINT_HEADER,
];

fn broke(cause: Cause, reason: String) -> Ran {
    Ran {
        event: Event::Broke(cause),
        reason: Some(reason),
        charged: 0,
    }
}

/// The agent's `Content-Type`, if it is one.
fn content_type(headers: &[(String, String)]) -> Option<String> {
    let (_, value) = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))?;
    let fits = value.len() <= MAX_CONTENT_TYPE && HeaderValue::from_str(value).is_ok();
    fits.then(|| value.clone())
}

/// Longest `Content-Type` that is kept.
const MAX_CONTENT_TYPE: usize = 1024;

/// What a record says to a later attempt: all of it, or its checkpoint alone where that fits and all does not.
fn checkpoint_header(record: &str) -> Option<String> {
    in_ascii(record).or_else(|| {
        let record: Map<String, Value> = serde_json::from_str(record).ok()?;
        let checkpoint = record.get("checkpoint")?;
        in_ascii(&json!({ "checkpoint": checkpoint }).to_string())
    })
}

/// JSON as a header's value: what is not ASCII is escaped.
fn in_ascii(json: &str) -> Option<String> {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_ascii_graphic() || letter == ' ' {
            text.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    (text.len() <= MAX_CHECKPOINT
        && HeaderName::from_bytes(TASK_CHECKPOINT_HEADER.as_bytes()).is_ok())
    .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_the_same_json_in_ascii() {
        let record = r#"{"at":"Zürich 🏔","n":3}"#;
        let text = in_ascii(record).expect("fits");
        assert!(HeaderValue::from_str(&text).is_ok() && text.is_ascii());
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&text), read(record));
        assert_eq!(in_ascii(&"x".repeat(MAX_CHECKPOINT + 1)), None);
        let long = |checkpoint: usize| {
            let record = json!({ "message": "x".repeat(MAX_CHECKPOINT), "checkpoint": "y".repeat(checkpoint) });
            checkpoint_header(&record.to_string())
        };
        assert_eq!(long(2).as_deref(), Some(r#"{"checkpoint":"yy"}"#));
        assert_eq!(long(MAX_CHECKPOINT), None);
    }
}
