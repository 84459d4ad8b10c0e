//! One run of an agent for one call, and those who wait for its answer.

use super::Key;
use super::fingerprint::{Fingerprint, Print};
use super::table::Table;
use super::tape::{self, Reading, Tape, Unattended};
use crate::api::answer::AnswerBody;
use crate::api::invoke::Answer;
use crate::api::reply::ApiError;
use crate::config::Limits;
use http::HeaderMap;
use proto::code::ErrorCode;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// What a run costs beside its texts: its places in maps, its parts; generously.
const OVERHEAD: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) key: Arc<Key>,
    table: Arc<Table>,
    state: watch::Sender<State>,
    /// Told by the body's hash, if it is not part of the key.
    print: watch::Sender<Option<Print>>,
    pub(super) tape: Tape,
    linger: Duration,
    window: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Attempts whose clients wait, or read.
    attending: usize,
    /// Attempts that ever came.
    arrived: u32,
    /// The beginning of the answer.
    outcome: Option<Outcome>,
}

type Outcome = Result<Arc<Head>, ApiError>;

/// An answer without its body.
#[derive(Debug)]
struct Head {
    status: u16,
    headers: HeaderMap,
    streamed: bool,
}

/// One attempt whose client is there.
#[derive(Debug)]
pub(super) struct Attendance {
    run: Arc<Run>,
    ordinal: u32,
}

impl Attendance {
    /// Its number, from 1.
    pub(super) fn ordinal(&self) -> u32 {
        self.ordinal
    }

    pub(super) fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.run.state.send_modify(|state| state.attending -= 1);
        self.run.read_on();
    }
}

impl Run {
    pub(super) fn new(table: Arc<Table>, key: Arc<Key>, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            key,
            state: watch::Sender::default(),
            print: watch::Sender::new(None),
            tape: Tape::new(
                Arc::clone(&table),
                limits.retry_answer.0,
                limits.retry_memory.0,
            ),
            table,
            linger: limits.retry_linger,
            window: limits.retry_window,
        })
    }

    /// For the body on its way to the agent.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::new(self.print.clone())
    }

    /// Of the body that went to the agent, once that is known.
    pub(super) async fn print(&self) -> Print {
        let mut print = self.print.subscribe();
        let seen = print.wait_for(Option::is_some).await;
        // The sender is `self`'s.
        seen.ok().and_then(|print| *print).unwrap_or(Print::Unread)
    }

    /// One more attempt.
    pub(super) fn attend(self: &Arc<Self>) -> Attendance {
        let mut ordinal = 0;
        self.state.send_modify(|state| {
            state.attending += 1;
            state.arrived += 1;
            ordinal = state.arrived;
        });
        Attendance {
            run: Arc::clone(self),
            ordinal,
        }
    }

    /// The answer, for one attempt: its head as soon as that is there, its body from the start.
    pub(super) async fn answer(&self, attendance: Attendance) -> Result<Answer, ApiError> {
        let mut state = self.state.subscribe();
        let outcome = match state.wait_for(|state| state.outcome.is_some()).await {
            Ok(state) => state.outcome.clone(),
            // The sender is `self`'s.
            Err(_closed) => None,
        };
        let head = outcome.unwrap_or_else(|| Err(given_up()))?;
        let body = Reading::begin(attendance)?;
        Ok(Answer {
            status: head.status,
            headers: head.headers.clone(),
            streamed: head.streamed,
            body: AnswerBody::shared(body),
        })
    }

    /// The run has come so far that there is an answer, or a reason why there is none.
    fn settle(self: &Arc<Self>, outcome: Result<Answer, ApiError>) {
        let outcome = match outcome {
            Ok(answer) => {
                let Answer {
                    status,
                    headers,
                    streamed,
                    body,
                } = answer;
                self.tape.load(body);
                Ok(Arc::new(Head {
                    status,
                    headers,
                    streamed,
                }))
            }
            Err(error) => {
                self.tape.load(AnswerBody::none());
                Err(error)
            }
        };
        let keeps = match &outcome {
            Ok(_) => true,
            Err(error) => keeps(error),
        };
        // Before anybody hears of it: the next attempt must not find what is not to be found.
        if !keeps {
            self.forget();
        }
        self.state
            .send_modify(|state| state.outcome = Some(outcome));
        if keeps && self.tape.is_complete() {
            self.keep();
        }
    }

    /// The answer is complete, and may be wanted again.
    pub(super) fn keep(self: &Arc<Self>) {
        if self.window.is_zero() || !self.tape.is_whole() || !self.tape.take(self.weight()) {
            return self.forget();
        }
        self.table.keep(self, self.window);
    }

    /// Bytes that it costs to keep this beside the answer's body.
    fn weight(&self) -> u64 {
        let Key {
            session, attempt, ..
        } = &*self.key;
        let user = attempt.caller.user.as_ref();
        // The user is named by the session too, unless that is shared.
        let user = 2 * user.map_or(0, |user| user.as_str().len());
        let names = session.client.as_str().len() + user + attempt.invocation.len();
        let said = match &self.state.borrow().outcome {
            None => 0,
            Some(Ok(head)) => head
                .headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + 64)
                .sum(),
            Some(Err(error)) => error.weight(),
        };
        u64::try_from(OVERHEAD + names + said).unwrap_or(u64::MAX)
    }

    /// The next attempt begins anew.
    pub(super) fn forget(&self) {
        self.table.forget(self);
    }

    /// Nobody came back: whatever is under way is dropped, which cancels it.
    fn give_up(&self) {
        tracing::debug!(
            invocation_id = self.key.attempt.invocation,
            "a call is given up: no attempt came for it in time"
        );
        self.forget();
        self.state.send_modify(|state| {
            state.outcome.get_or_insert_with(|| Err(given_up()));
        });
    }

    /// Resolves when no attempt has attended for the linger time.
    async fn deserted(&self) {
        let mut state = self.state.subscribe();
        loop {
            let arrived = match state.wait_for(|state| state.attending == 0).await {
                Ok(state) => state.arrived,
                Err(_closed) => return,
            };
            let next = state.wait_for(|state| state.attending > 0 || state.arrived != arrived);
            if tokio::time::timeout(self.linger, next).await.is_err() {
                return;
            }
        }
    }

    /// Reads an answer on that has no reader, for the attempt to come.
    fn read_on(self: &Arc<Self>) {
        let Some(turn) = self.tape.orphaned() else {
            return;
        };
        // Without a runtime the daemon is ending, and every call with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.tape.drop_flow();
        };
        let Some(place) = self.table.desert() else {
            self.tape.drop_flow();
            return self.give_up();
        };
        let run = Arc::clone(self);
        runtime.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                end = std::future::poll_fn(|cx| run.tape.poll_unattended(turn, cx)) => match end {
                    Unattended::Complete => run.keep(),
                    Unattended::Broken => run.forget(),
                    Unattended::TakenOver => {}
                },
                () = run.deserted() => {
                    if run.tape.drop_flow_at(turn) {
                        run.give_up();
                    }
                }
            }
        });
    }
}

/// Whether the next attempt of a call that failed so should get the same answer: the agent ran, or may have.
fn keeps(error: &ApiError) -> bool {
    match error.code {
        ErrorCode::AgentFailed
        | ErrorCode::AgentTimeout
        | ErrorCode::AgentProtocol
        | ErrorCode::AgentClosed => true,
        // Nothing ran, or what came of it is unknown: the caller's SDK tries again because it should.
        ErrorCode::Validation
        | ErrorCode::Unauthorized
        | ErrorCode::InvalidSignature
        | ErrorCode::AccessDenied
        | ErrorCode::QuotaExceeded
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Conflict
        | ErrorCode::RetryableConflict
        | ErrorCode::PayloadTooLarge
        | ErrorCode::MisdirectedRequest
        | ErrorCode::Throttled
        | ErrorCode::Internal
        | ErrorCode::Unavailable
        | ErrorCode::StorageFull
        | ErrorCode::AgentUnreachable
        | ErrorCode::Cancelled
        | ErrorCode::TooManyInvocations
        | ErrorCode::BadOrder
        | ErrorCode::NoSuchMethod
        | ErrorCode::NotAcceptable => false,
    }
}

fn given_up() -> ApiError {
    ApiError::new(
        ErrorCode::RetryableConflict,
        "the invocation was given up, because its caller had gone for longer than limits.retry_linger",
    )
}

/// Drives a run to the beginning of its answer. If the future is dropped before, because the client went away, a task
/// goes on with it for as long as another attempt may come.
pub(super) async fn drive<F>(run: &Arc<Run>, work: Pin<Box<F>>)
where
    F: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    let outcome = Driven {
        run,
        work: Some(work),
    }
    .await;
    run.settle(outcome);
}

struct Driven<'a, F>
where
    F: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    run: &'a Arc<Run>,
    /// `None` once it is done.
    work: Option<Pin<Box<F>>>,
}

impl<F> Future for Driven<'_, F>
where
    F: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let outcome = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(outcome)
    }
}

impl<F> Drop for Driven<'_, F>
where
    F: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take() else {
            return;
        };
        let runtime = tokio::runtime::Handle::try_current();
        let (Ok(runtime), Some(place), false) =
            (runtime, self.run.table.desert(), std::thread::panicking())
        else {
            return self.run.give_up();
        };
        let run = Arc::clone(self.run);
        runtime.spawn(async move {
            let _settles = Settles(Arc::clone(&run));
            let mut work = pin!(work);
            let outcome = tokio::select! {
                outcome = &mut work => Some(outcome),
                () = run.deserted() => None,
            };
            drop(place);
            match outcome {
                Some(outcome) => {
                    run.settle(outcome);
                    run.read_on();
                }
                None => run.give_up(),
            }
        });
    }
}

/// Whoever waits for a run hears of its end, even of one by a defect.
struct Settles(Arc<Run>);

impl Drop for Settles {
    fn drop(&mut self) {
        if self.0.state.borrow().outcome.is_none() {
            self.0.give_up();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        tape::give_back(&self.tape);
    }
}
