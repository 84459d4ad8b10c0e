//! Freeze and thaw, as the driver performs them: written down before it is done, and taken back after it is undone, so that the
//! next daemon knows of a session that cannot answer it. One after another, however quickly they are asked for.

use super::super::handle::{NotFrozen, NotThawed};
use super::{Completion, Driver, FoundFrozen, Running};
use crate::broker::Broker;
use crate::fault::chain;
use crate::relay::link::Link;
use crate::store::{FrozenNote, StoreError, Timestamp};
use crate::time::since_boot;
use proto::api::{FreezeCause, Phase};
use proto::ids::SessionId;
use proto::shim::{ClockGap, Shutdown};
use session_core::lifecycle::freeze::{Holds, NoFreeze, NoThaw};
use session_core::lifecycle::{Effect, Event};
use session_core::moment::Moment;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a shim that has just been thawed may take to shake hands, or to take what it is told. It answers at once, on a
/// host that is not starved.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// What has come of a freeze or a thaw.
#[derive(Debug)]
pub enum Switched {
    /// All of it stands still; or it runs, and why.
    Froze(Result<(), String>),
    /// It runs, with its link if it had none; or why it cannot be used any more.
    Thawed(Result<Option<Box<Running>>, String>),
    /// Who holds it is written down.
    Noted,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    /// When it was frozen, by the clock on the wall and by ours, and why.
    since: Option<(Timestamp, Moment)>,
    reason: Option<String>,
    /// Whoever waits.
    freezes: Vec<oneshot::Sender<Result<(), NotFrozen>>>,
    thaws: Vec<oneshot::Sender<Result<(), NotThawed>>>,
    /// The last order, and how many are not over.
    last: Option<JoinHandle<()>>,
    under_way: u32,
    /// Why the last freeze failed.
    fault: Option<String>,
    /// Of a session that was found frozen: for the handshake, and since when somebody holds it, which is no idle time.
    found: Option<(String, Option<Moment>)>,
    /// It is to be told to end once it has a link.
    shutdown: Option<Duration>,
}

impl Freezer {
    /// To be told to end, with this grace, as soon as it can hear.
    pub(super) fn shutdown_then(&mut self, grace: Duration) {
        self.shutdown = Some(grace);
    }
}

impl Driver {
    pub(super) fn freeze(
        &mut self,
        cause: FreezeCause,
        reason: Option<String>,
        answer: oneshot::Sender<Result<(), NotFrozen>>,
    ) {
        let now = self.broker.clock.now();
        match self.session.freeze(now, cause) {
            Ok(mut effects) => {
                let since = (Timestamp::now(), now);
                self.freezer.since.get_or_insert(since);
                if let Some((_, held)) = &mut self.freezer.found {
                    held.get_or_insert(now);
                }
                if reason.is_some() && self.freezer.reason != reason {
                    self.freezer.reason = reason;
                    if effects.is_empty() {
                        // Held as it was, for another reason.
                        effects = vec![Effect::Publish, Effect::NoteHolds];
                    }
                }
                self.freezer.freezes.push(answer);
                self.perform(effects);
                self.settle();
            }
            // A caller that is gone needs no answer.
            Err(why) => drop(answer.send(Err(NotFrozen::Refused(why)))),
        }
    }

    pub(super) fn thaw(
        &mut self,
        cause: FreezeCause,
        answer: oneshot::Sender<Result<(), NotThawed>>,
    ) {
        match self.session.thaw(self.broker.clock.now(), cause) {
            Ok(effects) => {
                self.freezer.thaws.push(answer);
                self.perform(effects);
                self.settle();
            }
            Err(why) => drop(answer.send(Err(NotThawed::Refused(why)))),
        }
    }

    /// Somebody wants a session that was frozen for idleness.
    pub(super) fn wake(&mut self) {
        let now = self.broker.clock.now();
        if let Ok(effects) = self.session.thaw(now, FreezeCause::Idle) {
            self.perform(effects);
        }
    }

    /// It has been idle for long: freezes it, if it has been at rest, too.
    pub(super) fn weigh(&mut self) {
        let now = self.broker.clock.now();
        let quiet = self.handle.account.quiet();
        let effects = self.session.step(now, Event::Weighed(quiet));
        if effects.contains(&Effect::Freeze) {
            self.freezer.since.get_or_insert((Timestamp::now(), now));
        }
        self.perform(effects);
    }

    /// A session that was there already, and cannot answer.
    pub(super) fn found_frozen(&mut self, found: FoundFrozen) {
        let holds = Holds::of(&found.note.causes);
        let frozen_for = match found.note.since_boot {
            Some(then) => since_boot().saturating_sub(then),
            None => SystemTime::now()
                .duration_since(found.note.at.system_time())
                .unwrap_or_default(),
        };
        let since = self.broker.clock.now().before(frozen_for);
        self.freezer.since = Some((found.note.at, since));
        self.freezer.reason = found.note.reason;
        // Idle time of one that nobody holds goes on.
        let (held, idle) = match holds.is_none() {
            true => (None, frozen_for),
            false => (Some(since), Duration::ZERO),
        };
        self.freezer.found = Some((found.token, held));
        self.step(Event::FoundFrozen { holds, idle });
    }

    /// What is to be known of it while it is frozen.
    pub(super) fn frozen_note(&self) -> Option<FrozenNote> {
        let holds = self.session.frozen_by()?;
        let now = self.broker.clock.now();
        let (at, since) = self.freezer.since.unwrap_or((Timestamp::now(), now));
        Some(FrozenNote {
            causes: holds.causes(),
            at,
            since_boot: Some(since_boot().saturating_sub(now - since)),
            reason: self.freezer.reason.clone(),
        })
    }

    pub(super) fn order_freeze(&mut self) {
        let (broker, id, note) = self.order();
        self.after_the_last(async move {
            let froze = freeze(&broker, &id, note).await;
            if froze.is_err() {
                forget(&broker, &id).await;
            }
            Switched::Froze(froze)
        });
    }

    pub(super) fn order_thaw(&mut self) {
        let (broker, id, _) = self.order();
        let now = broker.clock.now();
        let gap = self
            .freezer
            .since
            .map_or(Duration::ZERO, |(_, at)| now - at);
        let link = self.link.clone();
        let token = match (&link, &self.freezer.found) {
            (None, Some((token, _))) => Some(token.clone()),
            (Some(_) | None, _) => None,
        };
        let done = self.completions.0.clone();
        self.in_order(async move {
            let began = std::time::Instant::now();
            let thawed = thaw(&broker, &id, link, gap, token).await;
            if thawed.is_ok() {
                broker.metrics.thawed(began.elapsed());
            }
            // Whoever waits for it does not wait for the disk. A daemon that finds the note of one that runs believes its eyes.
            let _ = done
                .send(Completion::Switched(Switched::Thawed(thawed)))
                .await;
            forget(&broker, &id).await;
        });
    }

    pub(super) fn note_holds(&mut self) {
        let (broker, id, note) = self.order();
        self.after_the_last(async move {
            if let Err(error) = broker.store.session_frozen(&id, note).await {
                tracing::error!(session_id = %id, error = %chain(&error), "who freezes a session is not recorded");
            }
            Switched::Noted
        });
    }

    fn order(&self) -> (Arc<Broker>, SessionId, Option<FrozenNote>) {
        let id = self.handle.id.clone();
        (Arc::clone(&self.broker), id, self.frozen_note())
    }

    fn after_the_last(&mut self, order: impl Future<Output = Switched> + Send + 'static) {
        let done = self.completions.0.clone();
        self.in_order(async move {
            let switched = order.await;
            // The driver waits for it, or is gone.
            let _ = done.send(Completion::Switched(switched)).await;
        });
    }

    /// Carries an order out, and tells of it, when every earlier one is through.
    fn in_order(&mut self, order: impl Future<Output = ()> + Send + 'static) {
        let last = self.freezer.last.take();
        self.freezer.under_way += 1;
        self.freezer.last = Some(tokio::spawn(async move {
            if let Some(last) = last {
                let _ = last.await;
            }
            order.await;
        }));
    }

    pub(super) fn switched(&mut self, switched: Switched) {
        self.freezer.under_way = self.freezer.under_way.saturating_sub(1);
        match switched {
            Switched::Noted => {}
            Switched::Froze(Ok(())) => {
                self.handle.log.note("session frozen");
                if let Some(holds) = self.session.frozen_by() {
                    self.broker.metrics.froze(&holds.causes());
                }
                self.step(Event::Froze);
                let asleep = self.session.frozen_by().is_some_and(Holds::is_none);
                if asleep && self.session.stands_still() {
                    let (broker, handle) = (Arc::clone(&self.broker), Arc::clone(&self.handle));
                    tokio::spawn(super::reclaim::reclaim(broker, handle));
                }
            }
            Switched::Froze(Err(fault)) => {
                tracing::warn!(session_id = %self.handle.id, fault, "a session could not be frozen");
                self.freezer.fault = Some(fault);
                self.step(Event::FreezeFailed);
            }
            Switched::Thawed(Ok(None)) => {
                self.handle.log.note("session thawed");
                self.step(Event::Thawed);
            }
            Switched::Thawed(Ok(Some(running))) => {
                self.handle.log.note("session thawed");
                let held = self.freezer.found.take().and_then(|(_, held)| held);
                let now = self.broker.clock.now();
                let stood = held.map_or(Duration::ZERO, |since| now - since);
                self.found(*running, stood);
                let handle = Arc::clone(&self.handle);
                let broker = Arc::clone(&self.broker);
                tokio::spawn(async move { crate::tasks::thawed(&broker, &handle).await });
                if let (Some(grace), Some(link)) = (self.freezer.shutdown.take(), self.link.clone())
                {
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    tokio::spawn(async move { link.shutdown(Shutdown { grace_ms }).await });
                }
            }
            Switched::Thawed(Err(fault)) => {
                self.notes.fault.get_or_insert(fault);
                self.step(Event::ProtocolFault);
            }
        }
        if self.session.frozen_by().is_none() {
            self.freezer.since = None;
            self.freezer.reason = None;
        }
        self.settle();
    }

    /// Answers those who wait, once every order is over.
    fn settle(&mut self) {
        if self.freezer.under_way > 0 {
            return;
        }
        let frozen = if self.session.stands_still() {
            Ok(())
        } else if self.session.end_reason().is_some() {
            Err(NotFrozen::Refused(NoFreeze::Ending))
        } else {
            let why = self.freezer.fault.take();
            Err(NotFrozen::Failed(
                why.unwrap_or_else(|| "it was thawed at once".to_owned()),
            ))
        };
        for answer in self.freezer.freezes.drain(..) {
            let _ = answer.send(frozen.clone());
        }
        let thawed = match self.session.end_reason() {
            Some(_) => Err(NotThawed::Refused(NoThaw::Ending)),
            None => Ok(()),
        };
        for answer in self.freezer.thaws.drain(..) {
            let _ = answer.send(thawed.clone());
        }
        debug_assert!(self.session.phase() != Phase::Frozen || self.freezer.since.is_some());
    }
}

async fn freeze(broker: &Broker, id: &SessionId, note: Option<FrozenNote>) -> Result<(), String> {
    // Names before things.
    let noted = broker.store.session_frozen(id, note).await;
    noted.map_err(|error| format!("it cannot be recorded: {}", chain(&error)))?;
    let frozen = broker.launcher.freeze(id.clone()).await;
    frozen.map_err(|fault| chain(&fault))
}

/// Thaws; shakes hands with a shim that nobody has spoken to; then tells it for how long.
async fn thaw(
    broker: &Broker,
    id: &SessionId,
    link: Option<Arc<Link>>,
    gap: Duration,
    token: Option<String>,
) -> Result<Option<Box<Running>>, String> {
    let thawed = broker.launcher.thaw(id.clone()).await;
    thawed.map_err(|fault| format!("it cannot be thawed: {}", chain(&fault)))?;
    let (link, found) = match (link, token) {
        (Some(link), _) => (link, None),
        (None, Some(token)) => {
            let running = shakes_hands(broker, id, &token).await?;
            (Arc::clone(&running.link), Some(Box::new(running)))
        }
        (None, None) => return Ok(None),
    };
    let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
    // One that does not read is not told, and is the worse for it.
    let _ = tokio::time::timeout(HANDSHAKE, link.clock_gap(ClockGap { gap_ms })).await;
    Ok(found)
}

async fn shakes_hands(broker: &Broker, id: &SessionId, token: &str) -> Result<Running, String> {
    let socket = broker.shim_socket(id);
    let attach = Link::attach(&socket, token, broker.epoch);
    match tokio::time::timeout(HANDSHAKE, attach).await {
        Ok(Ok((link, attached, events))) => Ok(Running {
            link,
            attached,
            events,
            early: Vec::new(),
        }),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_late) => Err("its shim does not answer after it was thawed".to_owned()),
    }
}

/// It is frozen no more.
async fn forget(broker: &Broker, id: &SessionId) {
    match broker.store.session_frozen(id, None).await {
        // It may have ended meanwhile.
        Ok(()) | Err(StoreError::NotFound(_)) => {}
        // The next daemon looks at its cgroup, and believes that.
        Err(error) => {
            tracing::error!(session_id = %id, error = %chain(&error), "thaw not recorded");
        }
    }
}
