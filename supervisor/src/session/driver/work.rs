//! Work of a session: begun for somebody, or found kept by its shim; in flight until whoever has it drops it.

use super::super::handle::{KeptWork, NoWork, Work};
use super::Driver;
use proto::config::Concurrency;
use proto::shim::Kept;
use session_core::lifecycle::{Event, Refusal};
use session_core::moment::Moment;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Resolves when one work has ended, with the moment up to which it held the session.
#[derive(Debug)]
pub(super) struct InFlight {
    ended: oneshot::Receiver<()>,
    hold: Option<Moment>,
}

impl Future for InFlight {
    type Output = Option<Moment>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Moment>> {
        let hold = self.hold;
        Pin::new(&mut self.ended).poll(cx).map(|_dropped| hold)
    }
}

impl Driver {
    /// Begins work, for as long as the caller has the value.
    pub(super) fn begin_work(
        &mut self,
        place: Option<OwnedSemaphorePermit>,
        hold: Option<Duration>,
    ) -> Result<Work, NoWork> {
        self.touched = true;
        if self.handle.template.is_some() {
            // What is left behind in it would be in every fork.
            return Err(NoWork::Refused(Refusal::Ending));
        }
        let place = match place {
            Some(place) => place,
            None => Arc::clone(&self.broker.work_places)
                .try_acquire_owned()
                .map_err(|_none| NoWork::NoPlace)?,
        };
        let link = self.link.clone();
        let now = self.broker.clock.now();
        let begun = self.session.begin_work(now);
        if begun == Err(Refusal::Asleep) {
            self.wake();
        }
        let effects = begun.map_err(NoWork::Refused)?;
        // Live without a link cannot be; the caller is told to wait for the phase.
        let link = link.ok_or(NoWork::Refused(Refusal::NotReady))?;
        let hold = hold.map(|most| now + most);
        if let Some(until) = hold {
            self.session.hold(until);
        }
        let (ends, ended) = oneshot::channel();
        self.work.push(InFlight { ended, hold });
        self.perform(effects);
        Ok(Work {
            link,
            _ends: ends,
            place,
            turn: None,
            seat: None,
            metered: None,
            charge: None,
        })
    }

    pub(super) fn work_ended(&mut self, hold: Option<Moment>) {
        self.first_call = None;
        if let Some(until) = hold {
            self.session.release(until);
        }
        self.step(Event::WorkEnds);
    }

    /// Counts what the shim has kept as work in flight, with a seat and a turn for each, until somebody claims it. The deadline
    /// that the shim tells is believed only so far: whoever claims it ends it by its own.
    pub(super) fn keep(&mut self, kept: &[Kept]) {
        for one in kept {
            let left = Duration::from_millis(one.left_ms);
            let Ok(mut work) = self.begin_work(None, Some(left)) else {
                if let Some(link) = &self.link {
                    tracing::warn!(
                        session_id = %self.handle.id,
                        invocation_id = one.id.0,
                        "an invocation was kept and is given up: there is no place for it"
                    );
                    link.cancel_kept(one.id);
                    link.settle(one.id);
                }
                continue;
            };
            // A shim may keep more than it could be given; those without a seat are in nobody's way for long.
            work.seat = Arc::clone(&self.handle.exchanges).try_acquire_owned().ok();
            let in_turn = match self.handle.version.spec.concurrency {
                Concurrency::Parallel => false,
                Concurrency::Reject | Concurrency::Serial => !one.ended,
            };
            if in_turn {
                work.turn = Arc::clone(&self.handle.turns).try_acquire_owned().ok();
            }
            work.charge = Some(self.handle.account.charge());
            self.kept.push(KeptWork { kept: *one, work });
        }
    }
}
