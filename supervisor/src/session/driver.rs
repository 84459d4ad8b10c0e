//! The one task that owns a session: event in ▸ `session_core::lifecycle` ▸ effects out.
//!
//! It launches the sandbox, attaches to the shim, feeds what it hears to the state machine and performs the effects;
//! completions come back as events. It decides nothing itself; the words that describe an end are [`super::notes`]'.

use super::boot::{self, LaunchFailure};
use super::handle::{Activity, Command, End, KeptWork, NotFrozen, SessionHandle, View};
use super::notes::Notes;
use super::origin::Path;
use crate::admission::Permit;
use crate::broker::Broker;
use crate::launcher::client::Removed;
use crate::launcher::message::Exited;
use crate::metrics::Stage;
use crate::progress::Scanner;
use crate::relay::link::{Link, ShimEvent};
use crate::slots::{FirstCall, Underway};
use crate::store::SessionEnd;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use proto::api::{EndReason, Phase};
use proto::shim::{
    AgentExited, Attached, ExitRecord, ExitStatus, Health, HealthStatus, Shutdown, TemplateState,
};
use proto::units::MemoryBytes;
use session_core::lifecycle::freeze::NoFreeze;
use session_core::lifecycle::{self, Effect, Event, Session};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use work::InFlight;

mod begin;
mod claim;
mod freezer;
mod reclaim;
mod work;
pub use begin::{
    Begun, Completions, Found, FoundFrozen, Lives, completions, load, reload, resume, spawn, wait,
};
pub use claim::Claimed;

use freezer::{Freezer, Switched};

/// After a link has closed in order, how long PID 1 may take to end.
const EXIT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// At most one launch, one kill, one removal and one freeze or thaw are under way at once, the exit notice, and the end of
/// the link.
const COMPLETIONS: usize = 8;

/// Most events of the shim that are taken before a waiting command or deadline: a shim that floods must not outlive its
/// stop or its lifetime by keeping the queue full.
const IN_A_ROW: u32 = 16;

/// How long a shim is not listened to that says more than its rate lets it. Its queue fills meanwhile, and it waits.
const FLOOD_PAUSE: Duration = Duration::from_millis(50);

/// What comes back from effects, and from the launcher.
#[derive(Debug)]
pub enum Completion {
    /// The launch, up to the handshake.
    Launched(Box<Result<Running, LaunchFailure>>),
    /// A session that waited in a pool is its caller's, or is not to be had.
    Bound(Box<Result<(), LaunchFailure>>),
    /// PID 1 has ended.
    Exited(Exited),
    /// Nothing is left; `Ok(None)`: nothing was. An error means that the launcher is gone, and with it this daemon.
    Removed(Result<Option<Removed>, String>),
    /// The pid is known (before the handshake).
    Pid(i32),
    /// A freeze or a thaw.
    Switched(Switched),
    /// Shim or launcher know that it ends.
    Told,
    /// The shim closed its link a while ago.
    LinkGone,
}

/// A launched and attached session.
#[derive(Debug)]
pub struct Running {
    /// To its shim.
    pub link: Arc<Link>,
    /// What the shim said of itself.
    pub attached: Attached,
    /// What it says from now on.
    pub events: mpsc::Receiver<ShimEvent>,
    /// What it has said already and nobody has heard.
    pub early: Vec<ShimEvent>,
}

struct Driver {
    broker: Arc<Broker>,
    handle: Arc<SessionHandle>,
    session: Session,
    view: watch::Sender<View>,
    link: Option<Arc<Link>>,
    /// When the link was there.
    linked_at: Option<Instant>,
    events: Option<mpsc::Receiver<ShimEvent>>,
    /// What came before `events` was ours, in its order.
    early: VecDeque<ShimEvent>,
    work: FuturesUnordered<InFlight>,
    /// Invocations of an earlier daemon that nobody has claimed yet.
    kept: Vec<KeptWork>,
    notes: Notes,
    /// Finds what the agent says of its tasks' progress.
    progress: Scanner,
    freezer: Freezer,
    completions: Completions,
    permit: Permit,
    /// Until it is ready, or over.
    underway: Option<Underway>,
    /// From then on until somebody's first call is over.
    first_call: Option<FirstCall>,
    /// The launch, while it may still give its order.
    launching: Option<JoinHandle<()>>,
    /// Somebody has done something with it, beside looking.
    touched: bool,
    /// Of a session that is being bound to its caller.
    unheard: Option<mpsc::Receiver<ShimEvent>>,
    /// What it drove is another driver's.
    handed_over: bool,
    /// Events of the shim taken since anybody else had a turn.
    in_a_row: u32,
    /// Its removal has failed.
    remains: bool,
    /// The shim floods, and is not listened to until then.
    unheard_until: Option<tokio::time::Instant>,
    over: bool,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, found: Option<Lives>) {
        // A session is never without an owner, not even by a defect in here: its processes and its id would stay for ever.
        let driven = AssertUnwindSafe(self.drive(&mut commands, found))
            .catch_unwind()
            .await;
        let phase = match driven {
            Ok(()) => self.session.phase(),
            Err(_panic) => {
                // Whoever waits for an answer gets none, at once.
                drop(commands);
                self.bury().await
            }
        };
        if !self.handed_over {
            self.release(phase).await;
        }
    }

    /// Until the session is over.
    async fn drive(&mut self, commands: &mut mpsc::Receiver<Command>, found: Option<Lives>) {
        // The launcher's exit notice finds its way here by the session's name.
        self.broker
            .exits
            .register(self.handle.id.clone(), self.completions.0.clone());
        self.publish();
        match found {
            None => self.launch(),
            Some(Lives::Runs(running)) => self.found(running, Duration::ZERO),
            Some(Lives::Frozen(frozen)) => self.found_frozen(frozen),
            Some(Lives::Unbound(unbound)) => self.bind(*unbound),
        }
        while !self.over {
            let deadline = self
                .session
                .deadline()
                .map(|at| self.broker.clock.instant(at));
            tokio::select! {
                // In order: what has happened is taken before anybody's new wish.
                biased;
                Some(completion) = self.completions.1.recv() => self.complete(completion).await,
                event = next(&mut self.early, &mut self.events, self.unheard_until), if self.in_a_row < IN_A_ROW => {
                    self.in_a_row += 1;
                    self.shim_said(event).await;
                }
                Some(hold) = self.work.next(), if !self.work.is_empty() => self.work_ended(hold),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    // Every handle is gone: cannot happen while we hold one; treated as a stop all the same.
                    None => self.step(Event::Stop(EndReason::Stopped)),
                },
                () = sleep_until(deadline) => self.step(Event::Tick),
                // Everybody else has been asked: the shim may go on.
                () = std::future::ready(()), if self.in_a_row >= IN_A_ROW => self.in_a_row = 0,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Begin {
                place,
                hold,
                answer,
            } => {
                // A caller that is gone drops its work, which ends it.
                let _ = answer.send(self.begin_work(place, hold));
            }
            Command::HandOver(answer) => {
                // Nobody there any more: then it goes on waiting.
                let _ = answer.send(self.hand_over());
            }
            Command::TakeKept(answer) => {
                let _ = answer.send(std::mem::take(&mut self.kept));
            }
            // Those below it would end with it.
            Command::Stop(_) if self.has_forks() => {
                if let Some(template) = &self.handle.template {
                    template.leave();
                }
            }
            Command::Stop(reason) => {
                sandbox::faults::panic_at("driver.stop");
                self.step(Event::Stop(reason));
            }
            // It reaps the agents of those below it.
            Command::Freeze { answer, .. } if self.handle.template.is_some() => {
                let _ = answer.send(Err(NotFrozen::Refused(NoFreeze::NotReady)));
            }
            Command::Freeze {
                cause,
                reason,
                answer,
            } => {
                self.touched = true;
                self.freeze(cause, reason, answer);
            }
            Command::Thaw { cause, answer } => self.thaw(cause, answer),
            // It is asked by its keeper alone.
            Command::Evict(answer) if self.handle.template.is_some() => {
                let _ = answer.send(false);
            }
            Command::Evict(answer) => {
                let effects = self.session.evict(self.broker.clock.now());
                let _ = answer.send(effects.is_some());
                self.perform(effects.unwrap_or_default());
            }
            Command::Inspect(answer) => {
                let idle = self.broker.clock.now() - self.session.last_activity();
                let _ = answer.send(Activity {
                    phase: self.session.phase(),
                    says_busy: self.session.says_busy(),
                    in_flight: self.session.in_flight(),
                    idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
                });
            }
        }
    }

    async fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Pid(pid) => {
                self.view.send_modify(|view| view.pid = Some(pid));
                // Its kill came before there was anything to kill.
                if self.session.end_reason().is_some() {
                    self.kill();
                }
            }
            Completion::Switched(switched) => self.switched(switched),
            Completion::Told => self.view.send_modify(|view| view.told = true),
            Completion::LinkGone => {
                self.notes
                    .fault
                    .get_or_insert_with(|| "it closed its link and lives on".to_owned());
                self.step(Event::ProtocolFault);
            }
            Completion::Launched(outcome) => match *outcome {
                Ok(running) => self.attached(running, |_| Event::Attached),
                Err(failure) => self.not_launched(failure),
            },
            Completion::Bound(outcome) => {
                self.events = self.unheard.take();
                match *outcome {
                    Ok(()) => self.step(Event::Health(lifecycle::Health::Healthy)),
                    Err(failure) => self.not_launched(failure),
                }
            }
            Completion::Exited(exited) => {
                if exited.oom_kills > 0 {
                    self.step(Event::OutOfMemory);
                } else if self.session.end_reason().is_none() {
                    self.notes.fault.get_or_insert_with(|| match exited.code {
                        Some(code) => format!("the session's PID 1 ended with status {code}"),
                        None => "the session's PID 1 ended".to_owned(),
                    });
                }
                self.step(Event::Gone);
            }
            Completion::Removed(outcome) => {
                self.note_removed(outcome);
                self.step(Event::TornDown);
            }
        }
    }

    fn not_launched(&mut self, LaunchFailure { detail, code }: LaunchFailure) {
        self.notes.fault = Some(detail);
        self.notes.code = code;
        self.step(Event::LaunchFailed);
    }

    /// A session that was there already, and of its idle time `stood` still. Whether its agent was ever healthy is not on
    /// record; one that could have been for longer than its start may take has been.
    fn found(&mut self, running: Running, stood: Duration) {
        let start = self.handle.version.spec.timeouts.start;
        let ending = running.attached.ending && running.attached.exited.is_none();
        let kept = running.attached.kept.clone();
        let was_ready = self
            .handle
            .was_ready
            .load(std::sync::atomic::Ordering::Relaxed);
        let template = self.handle.template.is_some();
        self.attached(running, |attached| {
            let was_healthy = match attached.health.as_ref().map(|health| &health.status) {
                Some(HealthStatus::Healthy | HealthStatus::HealthyBusy) => true,
                Some(HealthStatus::Unhealthy { .. }) => {
                    Duration::from_millis(attached.uptime_ms) > start
                }
                None => false,
            };
            // Nothing begins in a session that has not been healthy.
            // A template is none that anything begins in, and waits for no agent.
            if was_healthy || was_ready || template || !attached.kept.is_empty() {
                let idle = Duration::from_millis(attached.idle_ms);
                Event::Found {
                    idle: idle.saturating_sub(stood),
                }
            } else {
                Event::Attached
            }
        });
        self.keep(&kept);
        if ending {
            // Whoever asked for that is gone with the daemon that was told.
            self.step(Event::Stop(EndReason::Stopped));
        }
    }

    fn attached(&mut self, running: Running, event: impl FnOnce(&Attached) -> Event) {
        self.link = Some(running.link);
        self.linked_at = Some(Instant::now());
        self.events = Some(running.events);
        self.early.extend(running.early);
        self.step(event(&running.attached));
        if let Some(health) = running.attached.health {
            self.health(health);
        }
        // That the agent has ended already is said again on the link, after its last words.
    }

    async fn shim_said(&mut self, event: ShimEvent) {
        match event {
            ShimEvent::Health(health) => self.health(health),
            ShimEvent::Log(log) => {
                let records = self.progress.scan(&log.lines);
                if !records.is_empty() {
                    self.broker.tasks.progress(&self.handle.id, records);
                }
                let within = self.handle.log.append(log, Instant::now());
                self.pace(within);
                if let Some(link) = &self.link {
                    link.took_output();
                }
            }
            // It says itself what that means, and its session goes on for those below it.
            ShimEvent::AgentExited(_) if self.handle.template.is_some() => {}
            ShimEvent::AgentExited(exited) => self.agent_exited(exited).await,
            // Nothing of it goes out: what it reads would be every caller's. The connection is closed.
            ShimEvent::Egress(..) if self.handle.template.is_some() => {}
            ShimEvent::Egress(_, stream) => {
                self.broker.egress.serve(stream, Arc::clone(&self.handle));
            }
            ShimEvent::Template(state) => self.template_says(state),
            // Said again to a daemon that has not seen this fork being made: its start takes its time, and ends.
            ShimEvent::Forked(_) => {}
            ShimEvent::Fault(fault) => {
                let text = format!("session fault: {}", fault.detail);
                let within = self.handle.log.report(&text, Instant::now());
                self.pace(within);
            }
            ShimEvent::Closed(outcome) => {
                self.events = None;
                if let Err(fault) = outcome {
                    self.notes.fault = Some(crate::fault::chain(&fault));
                    self.step(Event::ProtocolFault);
                }
                // A link that closed in order is followed by the exit notice. Without a link nobody can be answered, so a
                // session is not left that way.
                let done = self.completions.0.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(EXIT_PATIENCE).await;
                    let _ = done.send(Completion::LinkGone).await;
                });
            }
        }
    }

    /// Listens on at once to a shim that is `within` its rate, else later.
    fn pace(&mut self, within: bool) {
        self.unheard_until = (!within).then(|| tokio::time::Instant::now() + FLOOD_PAUSE);
    }

    async fn agent_exited(&mut self, exited: AgentExited) {
        // A kill is looked at twice: the cgroup knows whether it was for want of memory.
        let killed = matches!(exited.status, Ok(ExitStatus::Signal(9)));
        self.notes.exited = Some(exited);
        let starved = killed
            && self.session.end_reason().is_none()
            && self
                .broker
                .launcher
                .usage(self.handle.id.clone())
                .await
                .is_ok_and(|counters| counters.oom_kills > 0);
        self.step(if starved {
            Event::OutOfMemory
        } else {
            Event::AgentExited
        });
    }

    /// Whether others are below it, or may be soon.
    fn has_forks(&self) -> bool {
        let template = self.handle.template.as_ref();
        template.is_some_and(|template| template.leases() > 0)
    }

    fn template_says(&mut self, state: TemplateState) {
        let Some(template) = &self.handle.template else {
            self.notes.fault = Some("it says that it is a template".to_owned());
            return self.step(Event::ProtocolFault);
        };
        let starts = self.session.phase() == Phase::Starting;
        let refusal = match &state {
            TemplateState::Ready => None,
            TemplateState::Refused { reason } => Some(reason.clone()),
        };
        template.says(state, self.link.as_ref());
        match refusal {
            None => self.step(Event::Health(lifecycle::Health::Healthy)),
            Some(reason) if starts => self.not_launched(reason.into()),
            // Those below it live on, and it with them.
            Some(_) => {}
        }
    }

    fn health(&mut self, health: Health) {
        let event = match health.status {
            HealthStatus::Healthy => lifecycle::Health::Healthy,
            HealthStatus::HealthyBusy => lifecycle::Health::HealthyBusy,
            HealthStatus::Unhealthy { detail, failures } => {
                self.notes.unhealthy = Some(format!("{detail} ({failures} checks in a row)"));
                lifecycle::Health::Unhealthy
            }
        };
        self.step(Event::Health(event));
    }

    fn step(&mut self, event: Event) {
        let effects = self.session.step(self.broker.clock.now(), event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish => self.publish(),
                Effect::Shutdown(grace) => self.shutdown(grace),
                Effect::Freeze => self.order_freeze(),
                Effect::Thaw => self.order_thaw(),
                Effect::NoteHolds => self.note_holds(),
                Effect::Weigh => self.weigh(),
                Effect::WeighAnew => self.handle.account.weigh_anew(),
                Effect::Kill => self.kill(),
                Effect::Remove => self.remove(),
                Effect::Release => self.over = true,
            }
        }
    }

    fn publish(&mut self) {
        let phase = self.session.phase();
        if !matches!(phase, Phase::Requested | Phase::Launching | Phase::Starting) {
            let starting = self.underway.take();
            self.permit.settled();
            if starting.is_some()
                && matches!(phase, Phase::Ready | Phase::Busy)
                && !self.handle.path.is_nobodys()
            {
                self.first_call = starting.map(Underway::ready);
                let took = self.handle.created_at.elapsed().unwrap_or_default();
                let (meters, path) = (&self.handle.meters, self.handle.origin());
                self.broker.metrics.started(meters, path, took);
                if let Some(linked) = self.linked_at {
                    self.broker.metrics.stage(Stage::Ready, linked.elapsed());
                }
            }
        }
        let end = self.session.end_reason().map(|reason| End {
            reason,
            detail: match (reason, self.handle.path) {
                (EndReason::Idle, Path::Waiting) => {
                    "nobody needed it: its pool is smaller now, it waited for too long, or another took its place"
                        .to_owned()
                }
                (EndReason::Idle, Path::Template) => {
                    "nothing is forked from it any more".to_owned()
                }
                (EndReason::StartTimeout, Path::Template) => {
                    let policy = self.handle.version.template_policy(&self.broker.config());
                    let seconds = policy.start_timeout.as_secs();
                    format!("it was not ready to be forked within {seconds} s")
                }
                _ => self.notes.describe(
                    reason,
                    self.session.was_live(),
                    &self.handle.version.spec,
                    self.handle.limited(),
                    self.broker
                        .config()
                        .limits
                        .all_sessions
                        .memory_bytes
                        .map(MemoryBytes),
                ),
            },
            log_tail: self.handle.log.tail(),
            was_live: self.session.was_live(),
            code: self.notes.code,
        });
        if let Some(end) = &end
            && self.view.borrow().end.is_none()
        {
            self.handle
                .log
                .note(&format!("session ends: {}", end.detail));
            tracing::info!(
                session_id = %self.handle.id,
                runtime = %self.handle.version.name,
                reason = ?end.reason,
                detail = end.detail,
                "session ends"
            );
        }
        let frozen = self.frozen_note();
        let idle_since = self.session.idle_since();
        if phase == Phase::Ready {
            self.handle.account.weigh_anew();
        }
        self.handle.account.phase(self.broker.clock.now(), phase);
        self.view.send_modify(|view| {
            view.frozen = frozen;
            view.idle_since = idle_since;
            // The last phase is told when the end is on record, see `release`.
            if !matches!(phase, Phase::Ended | Phase::Failed) {
                view.phase = phase;
            }
            // The first description stays: a later one knows less about the cause.
            if view.end.is_none() {
                view.end = end;
            }
        });
    }

    fn launch(&mut self) {
        let broker = Arc::clone(&self.broker);
        let handle = Arc::clone(&self.handle);
        let done = self.completions.0.clone();
        self.launching = Some(tokio::spawn(async move {
            let outcome = boot::launch(&broker, &handle, &done).await;
            // The driver outlives its launch, see `remove`.
            let _ = done.send(Completion::Launched(Box::new(outcome))).await;
        }));
    }

    fn shutdown(&mut self, grace: std::time::Duration) {
        let Some(link) = self.link.clone() else {
            // One that was found frozen has none before it is thawed.
            self.freezer.shutdown_then(grace);
            return;
        };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let done = self.completions.0.clone();
        tokio::spawn(async move {
            link.shutdown(Shutdown { grace_ms }).await;
            let _ = done.send(Completion::Told).await;
        });
    }

    fn kill(&self) {
        let broker = Arc::clone(&self.broker);
        let id = self.handle.id.clone();
        let done = self.completions.0.clone();
        tokio::spawn(async move {
            // Not launched yet, or gone already: removal will see to it.
            if let Err(fault) = broker.launcher.kill(id.clone()).await {
                tracing::debug!(session_id = %id, fault = %fault, "kill");
            }
            let _ = done.send(Completion::Told).await;
        });
    }

    /// Ends what this task can drive no longer, without the state machine, which may be of two minds. Callers find the end at
    /// once, and the id free when nothing is left.
    async fn bury(&mut self) -> Phase {
        tracing::error!(session_id = %self.handle.id, "a defect ended the task that owns this session; the session ends");
        self.work.clear();
        self.kept.clear();
        self.early.clear();
        self.events = None;
        let log_tail = self.handle.log.tail();
        self.view.send_modify(|view| {
            view.end.get_or_insert(End {
                reason: EndReason::DaemonLost,
                detail: "a defect of the daemon ended it (a panic; the daemon's log has it)"
                    .to_owned(),
                log_tail,
                code: None,
                was_live: !matches!(
                    view.phase,
                    Phase::Requested | Phase::Launching | Phase::Starting
                ),
            });
        });
        self.remove();
        while let Some(completion) = self.completions.1.recv().await {
            if let Completion::Removed(outcome) = completion {
                self.note_removed(outcome);
                break;
            }
        }
        Phase::Ended
    }

    fn note_removed(&mut self, outcome: Result<Option<Removed>, String>) {
        match outcome {
            Ok(Some(Removed { usage, record })) => {
                self.notes.usage = Some(usage);
                self.notes.record =
                    record.and_then(|(cause, agent)| ExitRecord::from_numbers(cause, agent));
            }
            Ok(None) => {}
            Err(fault) => {
                tracing::error!(session_id = %self.handle.id, fault, "removing the session's remains failed");
                self.remains = true;
            }
        }
    }

    fn remove(&mut self) {
        self.link = None;
        let broker = Arc::clone(&self.broker);
        let id = self.handle.id.clone();
        let done = self.completions.0.clone();
        let launching = self.launching.take();
        tokio::spawn(async move {
            // A launch that has not given its order by now must not give it after the removal: the session would be
            // nobody's. One that has is undone by the removal, which the launcher hears after it.
            if let Some(launching) = launching {
                launching.abort();
                let _ = launching.await;
            }
            let outcome = broker
                .launcher
                .remove_to_the_end(id)
                .await
                .map_err(|fault| crate::fault::chain(&fault));
            let _ = done.send(Completion::Removed(outcome)).await;
        });
    }

    /// Records the end, then tells watchers, then gives the permit back: whoever sees the end may use the id again.
    async fn release(self, phase: Phase) {
        let view = self.view.borrow().clone();
        let reason = view
            .end
            .as_ref()
            .map_or(EndReason::Stopped, |end| end.reason);
        let reason = self.notes.recorded(reason);
        let last = self.notes.usage.unwrap_or_default();
        let account = &self.handle.account;
        let record = self
            .broker
            .ledger
            .close(account, self.broker.clock.now(), last, reason);
        let end = SessionEnd {
            reason,
            was_ready: self.session.was_live(),
            detail: view.end.map(|end| end.detail),
            usage: last.to_api(),
            egress_refused: self
                .handle
                .egress_refused
                .load(std::sync::atomic::Ordering::Relaxed),
            log_lines_dropped: self.handle.log.dropped(),
            record: Some(record),
        };
        let used = account.untold(self.broker.clock.now());
        self.broker.metrics.used(&self.handle.meters, &used);
        if !self.handle.path.is_nobodys() {
            self.broker.metrics.ended(
                &self.handle.meters,
                end.reason,
                end.usage.oom_kills,
                end.egress_refused,
            );
        }
        // While anything of it may be alive its uids are nobody else's: its row stays, and the next daemon ends it.
        if !self.remains && self.broker.record_end(&self.handle, end).await {
            let forgotten = self.broker.launcher.forget(self.handle.id.clone()).await;
            if let Err(fault) = forgotten {
                tracing::debug!(session_id = %self.handle.id, fault = %fault, "last word not forgotten");
            }
        }
        if !self.remains {
            self.handle.rise();
        }
        self.broker.registry.remove(&self.handle);
        self.broker.exits.forget(&self.handle.id);
        drop(self.permit);
        self.view.send_modify(|view| view.phase = phase);
    }
}

async fn next(
    early: &mut VecDeque<ShimEvent>,
    events: &mut Option<mpsc::Receiver<ShimEvent>>,
    unheard_until: Option<tokio::time::Instant>,
) -> ShimEvent {
    if unheard_until.is_some() {
        sleep_until(unheard_until).await;
    }
    if let Some(event) = early.pop_front() {
        return event;
    }
    match events {
        Some(events) => match events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
