//! One task, from its turn to its outcome or back into the queue: the future that owns it.
//!
//! | between these two | a daemon that is killed leaves | and the next one |
//! |---|---|---|
//! | submitted ▸ STARTING written | QUEUED | runs it |
//! | STARTING ▸ RUNNING written | STARTING, nothing sent | runs it |
//! | RUNNING written ▸ request sent | RUNNING, of which the session's shim knows nothing | LOST, or a retry if that is allowed: whether it was sent is not known |
//! | request sent ▸ head ▸ bytes in the file ▸ answer whole | RUNNING, kept by the shim | goes on from the byte that the file has not |
//! | answer whole ▸ outcome written | RUNNING, kept with its end | reads on, and writes the same outcome |
//! | outcome written ▸ shim told | the outcome | ends what the shim kept: nobody claims it; and the session, if it was made for the task |
//!
//! A session that is gone when the daemon comes back has kept nothing: LOST, or a retry.

mod attempt;
pub(super) mod machine;

use super::answer::Answer;
use super::exchange::{Invocation, Payload};
use super::{Running, dispatch, end, written};
use crate::api::obtain::obtain;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::Owner;
use crate::session::handle::{KeptWork, Purpose, SessionHandle, SessionKey, Work};
use crate::store::{Begun, Inline, Over, TaskKind, TaskRow, Timestamp, Waits};
use attempt::{Attempt, Ran, Start};
use proto::api::TaskStatus;
use proto::code::ErrorCode;
use session_core::task::{Effect, Event, Hindrance, State, Task};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a task that found no room asks again, unless the refusal says more.
const ROOM_AGAIN: Duration = Duration::from_secs(2);

/// The same for one whose session takes no invocation now.
const MOST_OFTEN: Duration = Duration::from_millis(200);

/// How long a deadline is slept towards at a time: civil time can jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Runs a task that was taken out of the queue.
pub(super) async fn queued(broker: Arc<Broker>, running: Arc<Running>) {
    let seq = running.seq;
    let leave = Leave(Arc::clone(&broker), Arc::clone(&running));
    let row = written(&broker, seq, || broker.store.task_at(seq))
        .await
        .flatten();
    let Some(row) = row.filter(|row| row.status == TaskStatus::Queued) else {
        // Cancelled meanwhile.
        return;
    };
    let headers = row.headers.clone();
    drive(leave, row, headers).await;
}

/// Runs a stream's task at once, whose caller is there and which is written down as STARTING; whoever is to hear of it.
pub fn attended(
    broker: &Arc<Broker>,
    row: TaskRow,
    headers: Vec<(String, String)>,
) -> Arc<Running> {
    let running = Running::new(row.seq, row.runtime_id.clone(), false);
    broker.tasks.state().insert(&running);
    let leave = Leave(Arc::clone(broker), Arc::clone(&running));
    tokio::spawn(drive(leave, row, headers));
    running
}

/// Goes on with a task that an earlier daemon sent, and whose session has kept it.
pub(super) fn resumed(
    broker: &Arc<Broker>,
    row: TaskRow,
    handle: Arc<SessionHandle>,
    kept: KeptWork,
) {
    let running = Running::new(row.seq, row.runtime_id.clone(), row.kind == TaskKind::Task);
    broker.tasks.state().insert(&running);
    let leave = Leave(Arc::clone(broker), Arc::clone(&running));
    tokio::spawn(async move {
        let mut run = Run::of(&leave, row, Vec::new());
        let invocation = Invocation {
            link: Arc::clone(&kept.work.link),
            id: kept.kept.id,
        };
        run.task.step(machine::now(), Event::Found { kept: true });
        let start = Start::Kept(kept.kept);
        let done = run.exchange(&handle, kept.work, invocation, start).await;
        if done.is_some() {
            run.again();
        }
    });
}

/// Whatever happens to its future, a task's place is given back.
struct Leave(Arc<Broker>, Arc<Running>);

impl Drop for Leave {
    fn drop(&mut self) {
        let Self(broker, running) = self;
        broker.tasks.state().remove(running);
        if std::thread::panicking() {
            // A defect of this daemon's interrupts a task as its end would.
            let (broker, seq) = (Arc::clone(broker), running.seq);
            tokio::spawn(async move { end::orphan(&broker, seq).await });
        }
        // Nobody waits for an answer that does not come.
        running.cancel("it is over");
        broker.tasks.wake();
    }
}

async fn drive(leave: Leave, row: TaskRow, headers: Vec<(String, String)>) {
    let mut run = Run::of(&leave, row, headers);
    // Somebody else has changed it, or this daemon stops: either way it is not this run's any more.
    if run.attempt().await.is_some() {
        run.again();
    }
}

struct Run {
    broker: Arc<Broker>,
    running: Arc<Running>,
    row: TaskRow,
    task: Task,
    headers: Vec<(String, String)>,
    /// Bytes that the attempt's answer takes.
    charged: u64,
}

/// What is to be written with an event.
#[derive(Default)]
struct Note {
    reason: Option<String>,
    begun: Option<Begun>,
    answer: Option<Arc<Answer>>,
    complete: bool,
}

impl Note {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::default()
        }
    }
}

/// Why a task is ended from outside.
struct Ended(Event, String);

impl Run {
    fn of(leave: &Leave, row: TaskRow, headers: Vec<(String, String)>) -> Self {
        let Leave(broker, running) = leave;
        let _ = running.id.set(row.id.clone());
        running.reported(&row);
        Self {
            broker: Arc::clone(broker),
            running: Arc::clone(running),
            task: machine::of(&row),
            row,
            headers,
            charged: 0,
        }
    }

    /// Back into the queue, if it waits.
    fn again(&self) {
        if let State::Queued { .. } = self.task.state() {
            dispatch::again(&self.broker, &self.task, self.row.seq, &self.running);
        }
    }

    /// One attempt: until the task has its outcome, or waits again.
    async fn attempt(&mut self) -> Option<()> {
        if self.task.state() != State::Starting {
            self.event(Event::Turn, Note::because(end::TOO_LATE))
                .await?;
        }
        if self.task.state() != State::Starting {
            return Some(());
        }
        sandbox::faults::abort_at("task.starting");
        let (handle, work) = match self.obtain().await {
            Ok(obtained) => obtained,
            Err(Ended(event, reason)) => {
                self.event(event, Note::because(reason)).await?;
                return Some(());
            }
        };
        let invocation = Invocation {
            link: Arc::clone(&work.link),
            id: work.link.kept_id(),
        };
        let begun = Begun {
            attempt: self.task.attempts() + 1,
            session: handle.id.clone(),
            invocation: invocation.id.0,
        };
        let note = Note {
            begun: Some(begun),
            ..Note::default()
        };
        let effects = self.event(Event::Obtained, note).await?;
        if effects.last() != Some(&Effect::Send) {
            return Some(());
        }
        sandbox::faults::abort_at("task.running");
        self.exchange(&handle, work, invocation, Start::Fresh).await
    }

    /// A session, and work on it.
    async fn obtain(&mut self) -> Result<(Arc<SessionHandle>, Work), Ended> {
        let version = self.version()?;
        let owner = match version.config.shared {
            true => Owner::everybody(),
            false => self.row.owner.clone(),
        };
        let key = SessionKey {
            runtime: self.row.runtime_id.clone(),
            endpoint: self.row.endpoint.clone(),
            client: self.row.client_id.clone(),
            owner,
        };
        let left = self.row.deadline_at.0.saturating_sub(Timestamp::now().0);
        let purpose = Purpose::Kept(Duration::from_millis(u64::try_from(left).unwrap_or(0)));
        let obtaining = pin!(obtain(&self.broker, &key, &version, purpose));
        match until_ended(&self.running, &self.task, obtaining).await {
            Ok(Ok(obtained)) => Ok(obtained),
            Ok(Err(error)) => Err(not_obtained(&error)),
            Err(ended) => Err(ended),
        }
    }

    /// What its endpoint leads to now.
    fn version(&self) -> Result<Arc<RuntimeVersion>, Ended> {
        let deployed = self.broker.catalogue.by_id(&self.row.runtime_id);
        let Some(deployed) = deployed else {
            return Err(Ended(Event::Cancel, end::DELETED.to_owned()));
        };
        let endpoint = &self.row.endpoint;
        match deployed.endpoint(endpoint) {
            None => Err(Ended(
                Event::Cancel,
                format!("endpoint {endpoint} was deleted"),
            )),
            Some(None) => Err(Ended(
                Event::NotObtained(Hindrance::Busy { again: ROOM_AGAIN }),
                format!("endpoint {endpoint} has no version that can take calls now"),
            )),
            Some(Some(version)) => Ok(version),
        }
    }

    /// Sends it, or goes on with it; keeps what comes, and writes down what that means.
    async fn exchange(
        &mut self,
        handle: &Arc<SessionHandle>,
        work: Work,
        invocation: Invocation,
        start: Start,
    ) -> Option<()> {
        let _ = self.running.session.set(handle.id.clone());
        // One that was kept is charged from its adoption on, and for all of its bytes: the daemon before had not told of them.
        let charge = work.charge();
        if let Some(charge) = &charge {
            charge.for_task(&self.row.id.to_string());
            charge.came(usize::try_from(self.row.payload_bytes).unwrap_or(usize::MAX));
        }
        let payload = match self.row.payload_filed {
            true => Payload::Filed(
                self.broker.tasks.payload_path(&self.row.id),
                self.row.payload_bytes,
            ),
            false => {
                let seq = self.row.seq;
                let broker = &self.broker;
                Payload::Here(written(broker, seq, || broker.store.task_payload(seq)).await?)
            }
        };
        let attempt = Attempt {
            broker: Arc::clone(&self.broker),
            running: Arc::clone(&self.running),
            handle: Arc::clone(handle),
            row: self.row.clone(),
            number: self.task.attempts(),
            headers: self.headers.clone(),
        };
        let progress = attempt.keep_progress();
        let mut answering = Box::pin(attempt.run(invocation.clone(), start, payload));
        let ran = until_ended(&self.running, &self.task, answering.as_mut()).await;
        // The last record, and with it where another attempt goes on. An agent that reports once and answers at once has reported.
        match &ran {
            Ok(ran) if matches!(ran.event, Event::Answered { .. }) => {
                invocation.link.output_taken().await;
            }
            // What was said before any other end comes when it comes.
            ran if ran.is_ok() && self.row.retries > 0 || self.running.newest().is_some() => {
                handle.log.settled().await;
            }
            _ => {}
        }
        progress
            .stop(&self.broker, &self.running, self.row.seq)
            .await;
        let Ran {
            event,
            reason,
            charged,
        } = match ran {
            Ok(ran) => ran,
            Err(Ended(event, reason)) => Ran {
                event,
                reason: Some(reason),
                charged: attempt::charged(&self.broker, &self.running, &self.row.owner.principal),
            },
        };
        self.charged = charged;
        if let Some(charge) = &charge {
            charge.went(usize::try_from(charged).unwrap_or(usize::MAX));
        }
        drop(charge);
        let answer = self.running.answer.borrow().clone();
        let complete = matches!(event, Event::Answered { .. });
        let note = Note {
            reason,
            complete,
            answer,
            begun: None,
        };
        sandbox::faults::abort_at("task.answered");
        // While this daemon cannot write it down, the shim has it.
        self.event(event, note).await?;
        sandbox::faults::abort_at("task.over");
        drop(answering);
        invocation.settled(complete);
        drop(work);
        self.after();
        Some(())
    }

    /// Takes an event, and writes down what it changes. `None` if the task is not this run's any more.
    async fn event(&mut self, event: Event, note: Note) -> Option<&'static [Effect]> {
        let before = machine::status(self.task.state());
        let effects = self.task.step(machine::now(), event);
        if effects.first() != Some(&Effect::Record) {
            return Some(effects);
        }
        let store = &self.broker.store;
        let seq = self.row.seq;
        let done = match self.task.state() {
            State::Starting => written(&self.broker, seq, || store.task_starts(seq)).await?,
            State::Running => {
                let begun = note.begun?;
                written(&self.broker, seq, || store.task_runs(seq, begun.clone())).await?
            }
            State::Queued { not_before } => {
                let waits = Waits {
                    from: before,
                    attempts: self.task.attempts(),
                    retried: self.task.retried(),
                    not_before: machine::civil(not_before),
                    reason: note.reason,
                };
                written(&self.broker, seq, || store.task_waits(seq, waits.clone())).await?
            }
            State::Ended(_) => return self.end(before, note).await.then_some(effects),
        };
        self.broker.tasks.tell(seq);
        done.then_some(effects)
    }

    /// Writes the outcome down, with the answer.
    async fn end(&mut self, from: TaskStatus, note: Note) -> bool {
        let (seq, id) = (self.row.seq, &self.row.id);
        let body = match &note.answer {
            Some(answer) => {
                // Complete answers only are promised; of the others what there is.
                let settled = written(&self.broker, seq, || async {
                    let settled = answer.settle().await;
                    Ok(settled.map_err(
                        |error| tracing::error!(task_id = %id, %error, "answer not synced yet"),
                    ))
                });
                match settled.await {
                    Some(Ok(Some(bytes))) => Some(Inline::Here(bytes)),
                    Some(Ok(None)) => Some(Inline::Filed),
                    // A disk that does not sync has no promise to keep: the task is as it was.
                    Some(Err(())) | None => return false,
                }
            }
            None => None,
        };
        let over = Over {
            from,
            outcome: machine::status(self.task.state()),
            attempts: self.task.attempts(),
            reason: note.reason,
            head: note.answer.as_ref().map(|answer| answer.head.clone()),
            bytes: note.answer.as_ref().map_or(0, |answer| answer.told().bytes),
            complete: note.complete && note.answer.is_some(),
            keep: end::keep(&self.broker, &self.row),
            body,
        };
        let filed = matches!(over.body, Some(Inline::Filed));
        let store = &self.broker.store;
        let done = written(&self.broker, seq, || store.task_over(seq, over.clone())).await;
        if done != Some(true) {
            return false;
        }
        if let Some(answer) = &note.answer {
            answer.over(over.complete);
        }
        // Its bytes stay taken until it is forgotten.
        self.charged = 0;
        end::ended(
            &self.broker,
            &self.row,
            if filed { over.bytes.max(1) } else { 0 },
        )
        .await;
        true
    }

    /// What an attempt leaves behind.
    fn after(&mut self) {
        if self.charged > 0 {
            let whose = &self.row.owner.principal;
            self.broker.tasks.stored.give(whose, self.charged);
            self.charged = 0;
        }
        match self.task.state() {
            // Whoever follows it hears that this answer is none.
            State::Queued { .. } => {
                if let Some(answer) = self.running.answer.send_replace(None) {
                    answer.over(false);
                }
            }
            State::Ended(_) | State::Starting | State::Running => {}
        }
    }
}

/// Waits for something, unless the task is cancelled or over before.
async fn until_ended<T>(
    running: &Running,
    task: &Task,
    mut work: impl Future<Output = T> + Unpin,
) -> Result<T, Ended> {
    let deadline = machine::civil(task.terms().deadline);
    loop {
        let ahead = deadline.0.saturating_sub(Timestamp::now().0);
        let Some(ahead) = u64::try_from(ahead).ok().filter(|ahead| *ahead > 0) else {
            return Err(Ended(Event::Deadline, end::NOT_DONE.to_owned()));
        };
        let sleep = Duration::from_millis(ahead).min(LONGEST_SLEEP);
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = running.cancelled.cancelled() => {
                let why = running.why.get().cloned().unwrap_or_default();
                return Err(Ended(Event::Cancel, why));
            }
            () = tokio::time::sleep_until(Instant::now() + sleep) => {}
        }
    }
}

/// What a session that was not obtained means for its task.
fn not_obtained(error: &ApiError) -> Ended {
    let again = error.retry_after.unwrap_or(ROOM_AGAIN).max(MOST_OFTEN);
    let hindrance = match error.code {
        ErrorCode::QuotaExceeded
        | ErrorCode::Conflict
        | ErrorCode::RetryableConflict
        | ErrorCode::Throttled
        | ErrorCode::Unavailable
        | ErrorCode::StorageFull
        | ErrorCode::TooManyInvocations
        | ErrorCode::Cancelled => Hindrance::Busy { again },
        ErrorCode::Validation
        | ErrorCode::Unauthorized
        | ErrorCode::InvalidSignature
        | ErrorCode::AccessDenied
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::NotAcceptable
        | ErrorCode::PayloadTooLarge
        | ErrorCode::MisdirectedRequest
        | ErrorCode::AgentFailed
        | ErrorCode::AgentTimeout
        | ErrorCode::Internal
        | ErrorCode::AgentUnreachable
        | ErrorCode::AgentProtocol
        | ErrorCode::AgentClosed
        | ErrorCode::BadOrder
        | ErrorCode::NoSuchMethod => Hindrance::Agent,
    };
    Ended(Event::NotObtained(hindrance), error.message.clone())
}
