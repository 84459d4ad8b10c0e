//! An answer's body as it comes from the agent, its beginning kept, for one reader at a time.
//!
//! The reader of the newest attempt reads on at the agent's end; what has come before it reads from the tape. An earlier
//! attempt's reader, whose client is gone or about to be, finds its body broken. Without a reader a task reads on, until
//! the tape is full: then the agent waits, so that nothing is lost for the attempt to come.

use super::run::{Attendance, Run};
use super::table::Table;
use crate::api::answer::AnswerBody;
use crate::api::reply::ApiError;
use crate::relay::exchange::{BodyError, CHUNK};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use proto::code::ErrorCode;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

/// See the module.
#[derive(Debug)]
pub(super) struct Tape {
    state: Mutex<State>,
    table: Arc<Table>,
    /// Most bytes kept of this answer, and of all.
    most: u64,
    most_of_all: u64,
}

#[derive(Debug)]
struct State {
    flow: Flow,
    /// The answer from its start, while all of it that has come is here.
    kept: Vec<u8>,
    /// More has come than is kept.
    lost: bool,
    /// Bytes that have come.
    passed: u64,
    /// Memory taken for it.
    held: u64,
    /// Changes whenever somebody else reads at the agent's end: a reader, or the task that reads on.
    turn: u64,
    /// Whether anybody does.
    driven: bool,
    /// The newest attempt that reads.
    newest: u32,
    /// Of whose turn it is.
    waker: Option<Waker>,
}

/// How reading on for nobody ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unattended {
    /// All of the answer has come.
    Complete,
    /// It broke off.
    Broken,
    /// An attempt reads it now.
    TakenOver,
}

/// The agent's end of it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in each run, and most of its life it is the large one"
)]
enum Flow {
    /// There is no answer yet.
    Awaited,
    /// It comes.
    Live(AnswerBody),
    /// All of it has come.
    Complete,
    /// It broke off.
    Broken,
}

impl Tape {
    pub(super) fn new(table: Arc<Table>, most: u64, most_of_all: u64) -> Self {
        Self {
            state: Mutex::new(State {
                flow: Flow::Awaited,
                kept: Vec::new(),
                lost: false,
                passed: 0,
                held: 0,
                turn: 0,
                driven: false,
                newest: 0,
                waker: None,
            }),
            table,
            most,
            most_of_all,
        }
    }

    /// The answer has begun.
    pub(super) fn load(&self, body: AnswerBody) {
        let mut state = self.state();
        state.flow = if body.is_end_stream() {
            Flow::Complete
        } else {
            Flow::Live(body)
        };
    }

    /// Whether all of it has come.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state().flow, Flow::Complete)
    }

    /// Whether all of it has come and is here.
    pub(super) fn is_whole(&self) -> bool {
        let state = self.state();
        matches!(state.flow, Flow::Complete) && !state.lost
    }

    /// Counts memory that the answer costs beside its body.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut state = self.state();
        let taken = self.table.take(bytes, self.most_of_all);
        if taken {
            state.held += bytes;
            state.kept.shrink_to_fit();
        }
        taken
    }

    /// Ends the exchange.
    pub(super) fn drop_flow(&self) {
        let mut state = self.state();
        if matches!(state.flow, Flow::Live(_) | Flow::Awaited) {
            state.flow = Flow::Broken;
        }
    }

    /// Ends the exchange, unless somebody has taken over since this turn.
    pub(super) fn drop_flow_at(&self, turn: u64) -> bool {
        let mut state = self.state();
        if state.turn != turn || !matches!(state.flow, Flow::Live(_)) {
            return false;
        }
        state.flow = Flow::Broken;
        true
    }

    /// A turn for somebody who reads on, if there is an answer that nobody reads.
    pub(super) fn orphaned(&self) -> Option<u64> {
        let mut state = self.state();
        let orphaned = !state.driven && matches!(state.flow, Flow::Live(_));
        orphaned.then(|| state.next_turn())
    }

    /// Reads on for nobody, as far as it can all be kept.
    pub(super) fn poll_unattended(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Unattended> {
        let mut state = self.state();
        loop {
            if state.turn != turn {
                return Poll::Ready(Unattended::TakenOver);
            }
            match state.flow {
                Flow::Live(_) => {}
                Flow::Complete => return Poll::Ready(Unattended::Complete),
                Flow::Awaited | Flow::Broken => return Poll::Ready(Unattended::Broken),
            }
            state.waker = Some(cx.waker().clone());
            let room = self.most.saturating_sub(state.passed);
            if state.lost || room < u64::try_from(CHUNK).unwrap_or(u64::MAX) {
                return Poll::Pending;
            }
            ready!(self.poll_flow(&mut state, cx));
        }
    }

    /// Takes the next piece off the agent's end: `None` when there is no more.
    fn poll_flow(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Flow::Live(body) = &mut state.flow else {
            return Poll::Ready(None);
        };
        let piece = loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => break data,
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    state.flow = Flow::Broken;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    state.flow = Flow::Complete;
                    return Poll::Ready(None);
                }
            }
        };
        let complete = body.is_end_stream();
        self.keep(state, &piece);
        if complete {
            state.flow = Flow::Complete;
        }
        Poll::Ready(Some(Ok(piece)))
    }

    fn keep(&self, state: &mut State, piece: &[u8]) {
        let size = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        state.passed = state.passed.saturating_add(size);
        if state.lost {
            return;
        }
        if state.passed <= self.most && self.table.take(size, self.most_of_all) {
            state.kept.extend_from_slice(piece);
            state.held += size;
        } else {
            state.lost = true;
            state.kept = Vec::new();
            self.table.give_back(std::mem::take(&mut state.held));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panics while it holds the lock is a reader whose call has failed; what is here is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.driven = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.turn
    }
}

/// A run is over for everybody.
pub(super) fn give_back(tape: &Tape) {
    let held = std::mem::take(&mut tape.state().held);
    tape.table.give_back(held);
}

/// The body of one attempt's answer.
#[derive(Debug)]
pub struct Reading {
    attendance: Attendance,
    turn: u64,
    /// Bytes read.
    at: u64,
}

impl Reading {
    /// From the start of the answer, if that is still here.
    pub(super) fn begin(attendance: Attendance) -> Result<Self, ApiError> {
        let mut state = attendance.run().tape.state();
        if state.lost {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                "the agent has answered this call already, and the beginning of its answer is not kept \
                 (limits.retry_answer, limits.retry_memory); it is not run again for it: make a new call",
            ));
        }
        // An earlier attempt that comes later reads nothing of a live answer.
        let turn = if attendance.ordinal() > state.newest {
            state.newest = attendance.ordinal();
            state.next_turn()
        } else {
            0
        };
        drop(state);
        Ok(Self {
            attendance,
            turn,
            at: 0,
        })
    }

    fn run(&self) -> &Arc<Run> {
        self.attendance.run()
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let run = Arc::clone(this.run());
        let mut state = run.tape.state();
        if this.at < state.passed {
            if state.lost {
                return Poll::Ready(Some(Err(BodyError::Truncated)));
            }
            let at = usize::try_from(this.at).unwrap_or(usize::MAX);
            let rest = state.kept.get(at..).unwrap_or_default();
            let piece = Bytes::copy_from_slice(&rest[..rest.len().min(CHUNK)]);
            this.at += u64::try_from(piece.len()).unwrap_or(0);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &state.flow {
            Flow::Complete => return Poll::Ready(None),
            Flow::Awaited | Flow::Broken => {
                return Poll::Ready(Some(Err(BodyError::Truncated)));
            }
            // A newer attempt has it.
            Flow::Live(_) if state.turn != this.turn => {
                return Poll::Ready(Some(Err(BodyError::Truncated)));
            }
            Flow::Live(_) => {}
        }
        let Poll::Ready(polled) = run.tape.poll_flow(&mut state, cx) else {
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        this.at = state.passed;
        let (complete, broken) = match &state.flow {
            Flow::Complete => (true, false),
            Flow::Broken => (false, true),
            Flow::Live(_) | Flow::Awaited => (false, false),
        };
        drop(state);
        if complete {
            run.keep();
        }
        if broken {
            run.forget();
        }
        Poll::Ready(polled.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.run().tape.state();
        matches!(state.flow, Flow::Complete) && self.at == state.passed
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.run().tape.state();
        let here = state.passed.saturating_sub(self.at);
        match &state.flow {
            Flow::Live(body) => match body.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(rest.saturating_add(here)),
                None => SizeHint::default(),
            },
            Flow::Complete => SizeHint::with_exact(here),
            Flow::Awaited | Flow::Broken => SizeHint::default(),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.run().tape.state();
        if state.turn == self.turn {
            // Who reads on is seen to when this attempt's attendance ends.
            state.driven = false;
            state.waker = None;
        }
    }
}
