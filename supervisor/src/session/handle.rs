//! What the rest of the broker knows of a session: its names, its phase to watch, and a mailbox.

use crate::ask::ask;
use crate::config::Limits;
use crate::launcher::message::Enforced;
use crate::ledger::{Account, Charge};
use crate::metrics::{InFlight, OfAgent};
use crate::owner::Owner;
use crate::relay::link::Link;
use crate::session::driver::Claimed;
use crate::session::log::{SessionLog, Tail};
use crate::session::origin::Path;
use crate::store::FrozenNote;
use crate::templates::{Lease, Template};
use proto::api::{EndReason, FreezeCause, Phase};
use proto::code::ErrorCode;
use proto::config::Concurrency;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, SessionId};
use proto::shim::Kept;
use proto::units::{CpuMillis, MemoryBytes};
use session_core::lifecycle::Refusal;
use session_core::lifecycle::freeze::{Holds, NoFreeze, NoThaw};
use session_core::meter::Allocated;
use session_core::moment::Moment;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Commands on their way to a driver. Each is answered at once, so the queue only fills when a driver is busy with a
/// burst of new callers; they then wait their turn.
pub(super) const MAILBOX: usize = 64;

/// What a session is on the wire: one runtime, one endpoint, one id of the caller's (contract §0), one owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Which runtime.
    pub runtime: RuntimeId,
    /// Through which endpoint.
    pub endpoint: EndpointName,
    /// The caller's name for it.
    pub client: ClientSessionId,
    /// Whose it is.
    pub owner: Owner,
}

/// What watchers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where it is.
    pub phase: Phase,
    /// Set as soon as it starts to end.
    pub end: Option<End>,
    /// Whether shim or launcher have been told of that: from then on it ends whatever becomes of this daemon.
    pub told: bool,
    /// While it is frozen.
    pub frozen: Option<FrozenNote>,
    /// While it is idle, and nobody holds it frozen.
    pub idle_since: Option<Moment>,
    /// Host pid of PID 1, once launched.
    pub pid: Option<i32>,
}

/// How long a stop is answered later because its session cannot be told of it.
const TOLD_PATIENCE: Duration = Duration::from_secs(5);

/// How a session ends or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The one reason.
    pub reason: EndReason,
    /// For people: what happened, in a sentence.
    pub detail: String,
    /// The end of the agent's output.
    pub log_tail: Tail,
    /// Whether it had been healthy before.
    pub was_live: bool,
    /// What a launch that failed is for the caller, where the reason alone does not say.
    pub code: Option<ErrorCode>,
}

impl End {
    /// Whether nobody has asked for it.
    #[must_use]
    pub fn by_itself(&self) -> bool {
        match self.reason {
            EndReason::Stopped
            | EndReason::Idle
            | EndReason::Evicted
            | EndReason::MaxLifetime
            | EndReason::DaemonStopped => false,
            EndReason::Unhealthy
            | EndReason::OutOfMemory
            | EndReason::AgentExited
            | EndReason::ShimDied
            | EndReason::Protocol
            | EndReason::LaunchFailed
            | EndReason::StartTimeout
            | EndReason::DaemonLost => true,
        }
    }
}

impl End {
    /// What a caller is told who wants the session.
    fn unusable(self) -> Unusable {
        // A session that was live and is ending is simply not the caller's any more.
        if self.was_live {
            Unusable::Ending
        } else {
            Unusable::Failed(self)
        }
    }
}

/// Numbers of a live session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Where it is.
    pub phase: Phase,
    /// Whether its agent said `HealthyBusy` last.
    pub says_busy: bool,
    /// Invocations, streams and execs in flight.
    pub in_flight: u32,
    /// Milliseconds since the last begin or end of work.
    pub idle_ms: u64,
}

/// To the driver.
#[derive(Debug)]
pub(super) enum Command {
    /// An invocation, stream or exec wants to begin.
    Begin {
        /// One of the daemon's places for work, if the caller had to wait for it.
        place: Option<OwnedSemaphorePermit>,
        /// For how long it may put the session's lifetime off.
        hold: Option<Duration>,
        /// The work.
        answer: oneshot::Sender<Result<Work, NoWork>>,
    },
    /// Hand over what is driven, if nobody was ever there.
    HandOver(oneshot::Sender<Option<Claimed>>),
    /// Hand over the invocations of an earlier daemon that its shim has kept.
    TakeKept(oneshot::Sender<Vec<KeptWork>>),
    /// End it.
    Stop(EndReason),
    /// Freeze it.
    Freeze {
        /// Why.
        cause: FreezeCause,
        /// In words.
        reason: Option<String>,
        /// When all of it stands still.
        answer: oneshot::Sender<Result<(), NotFrozen>>,
    },
    /// Let go of a freeze.
    Thaw {
        /// Whose.
        cause: FreezeCause,
        /// When it runs, or whoever else holds it is noted.
        answer: oneshot::Sender<Result<(), NotThawed>>,
    },
    /// End it if it is idle, for others to have its place; whether it was.
    Evict(oneshot::Sender<bool>),
    /// Tell the numbers.
    Inspect(oneshot::Sender<Activity>),
}

/// Why a session is not frozen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFrozen {
    /// Its state forbids it.
    #[error("{}", match .0 {
        NoFreeze::NotReady => "the session is not ready yet; try again when it is",
        NoFreeze::Working => "the session is not idle",
        NoFreeze::Ending => "the session is ending",
    })]
    Refused(NoFreeze),
    /// It was tried.
    #[error("the session could not be frozen, and runs: {0}")]
    Failed(String),
}

/// Why a session is not thawed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThawed {
    /// Its state forbids it.
    #[error("{}", match .0 {
        NoThaw::Held(_) => "the session is frozen because a budget is used up; raise or approve that, and it goes on",
        NoThaw::Ending => "the session is ending",
    })]
    Refused(NoThaw),
}

/// Why work does not begin.
#[derive(Debug)]
pub(super) enum NoWork {
    /// The session is not there for it.
    Refused(Refusal),
    /// The daemon has no place for it.
    NoPlace,
}

/// What work is for, as far as its bounds are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An invocation, in its turn as its runtime's `concurrency` has it.
    Invocation,
    /// One that is kept ([`crate::relay::kept`]), for at most so long: it waits for its turn up to then, and from its beginning
    /// the session's lifetime does not cut it off before.
    Kept(Duration),
    /// Another exchange with the agent: a WebSocket, its card.
    Exchange,
    /// A process beside the agent: a command, a shell, an exec.
    Process,
}

/// The right to use a session's link. While it lives the session counts as busy; dropping it ends the work.
#[derive(Debug)]
pub struct Work {
    /// The link to relay over.
    pub link: Arc<Link>,
    /// Closing it tells the driver; nothing is ever sent.
    pub(super) _ends: oneshot::Sender<()>,
    /// One of the daemon's places for work.
    pub(super) place: OwnedSemaphorePermit,
    /// The session's one turn, if its invocations take turns.
    pub(super) turn: Option<OwnedSemaphorePermit>,
    /// One of the session's seats.
    pub(super) seat: Option<OwnedSemaphorePermit>,
    /// Counts it while it lives, if it is an invocation.
    pub(super) metered: Option<InFlight>,
    /// What it is charged by, from when it has its turn.
    pub(super) charge: Option<Arc<Charge>>,
}

impl Work {
    /// What it is charged by: for who knows its bytes.
    #[must_use]
    pub fn charge(&self) -> Option<Arc<Charge>> {
        self.charge.clone()
    }

    /// Ends the work, for the session and its idle clock; what is left of its answer keeps its place among the daemon's.
    pub fn end(self) -> OwnedSemaphorePermit {
        self.place
    }
}

/// An invocation of an earlier daemon that the shim of an adopted session has kept.
#[derive(Debug)]
pub struct KeptWork {
    /// What the shim says of it. Its counts fit each other, which is all that is known of them.
    pub kept: Kept,
    /// In flight, in its seat and its turn.
    pub work: Work,
}

impl KeptWork {
    /// Ends it: nobody wants it.
    pub fn cancel(self) {
        self.work.link.cancel_kept(self.kept.id);
        self.work.link.settle(self.kept.id);
    }
}

/// Why a session cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unusable {
    /// It never became ready, or it ended while the caller waited for it to.
    #[error("the session ended before it was ready: {}", .0.detail)]
    Failed(End),
    /// It was ending when the caller came: the same id afterwards starts a new one.
    #[error("the session is ending")]
    Ending,
    /// It is frozen, and the caller cannot thaw it by calling.
    #[error("{}", .0.told)]
    Frozen(Hold),
    /// It, or the daemon, has as much work as it may have.
    #[error("{0}; try again when some of it has ended")]
    Full(&'static str),
}

/// Why a session stays frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// A budget is used up, beside whatever else.
    pub by_budget: bool,
    /// For the caller: what it is and who can change it.
    told: String,
}

impl Hold {
    fn of(id: &SessionId, holds: Holds, reason: Option<&str>) -> Self {
        let reason = reason.map(|reason| format!(" ({reason})"));
        let reason = reason.unwrap_or_default();
        let told = if holds.budget {
            format!(
                "the session is frozen because a budget is used up{reason}; it goes on when that is raised or approved"
            )
        } else {
            format!(
                "the session is frozen by an operator{reason}; `agentcore session thaw {id}` lets it go on"
            )
        };
        Self {
            by_budget: holds.budget,
            told,
        }
    }
}

/// One of `all`, in time.
async fn in_time(all: &Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    let wanted = Arc::clone(all).acquire_owned();
    tokio::time::timeout(patience, wanted).await.ok()?.ok()
}

/// A place among those that wait.
struct Queued<'a>(&'a AtomicU32);

impl<'a> Queued<'a> {
    fn enter(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let one_more = |waiting: u32| (waiting < most).then_some(waiting + 1);
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an invocation does not begin.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoTurn {
    /// Another one has the turn, and nobody waits for it here.
    #[error(
        "the session works on another invocation, and its runtime takes one at a time (concurrency = \"reject\")"
    )]
    Busy,
    /// The session cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// What a session weighs for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// What it may use, or holds, bytes.
    pub committed: u64,
    /// It is frozen.
    pub frozen: bool,
    /// Since when, if it is idle and nobody holds it.
    pub idle_since: Option<Moment>,
    /// It is ending.
    pub leaving: bool,
}

/// What a session may have; see [`SessionHandle::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Memory.
    pub memory: MemoryBytes,
    /// CPU.
    pub cpus: CpuMillis,
    /// Processes and threads.
    pub pids: u32,
    /// Share of the processors.
    pub cpu_weight: u32,
}

impl Limited {
    /// Those of a version.
    #[must_use]
    pub fn of(limits: &session_core::spec::Limits) -> Self {
        Self {
            memory: limits.memory,
            cpus: limits.cpus,
            pids: limits.pids,
            cpu_weight: limits.cpu_weight,
        }
    }
}

/// A session, to everyone but its driver.
#[derive(Debug)]
pub struct SessionHandle {
    /// Our name.
    pub id: SessionId,
    /// Its key on the wire.
    pub key: SessionKey,
    /// What it runs.
    pub version: Arc<crate::catalogue::RuntimeVersion>,
    /// Its output.
    pub log: Arc<SessionLog>,
    /// What it uses.
    pub account: Arc<Account>,
    /// First host uid, once reserved.
    pub uid_base: std::sync::OnceLock<u32>,
    /// Memory, CPU and processes that it may have now: those of its version, unless they were changed since. The kernel has
    /// the truth; this is for who must not ask it.
    pub limits: Mutex<Limited>,
    /// Its runtime's figures.
    pub meters: Arc<OfAgent>,
    /// When it was asked for.
    pub created_at: std::time::SystemTime,
    /// When this daemon had it; of one that was claimed, when it was launched.
    pub since: tokio::time::Instant,
    /// How it came to be, or was to; see [`Self::origin`].
    pub path: Path,
    /// If it is a template: that.
    pub template: Option<Arc<Template>>,
    /// If its agent is a fork: of which template.
    pub(super) lease: Mutex<Option<Lease>>,
    /// Outbound connections refused by policy.
    pub egress_refused: std::sync::atomic::AtomicU64,
    /// Outbound connections that it may still open.
    pub egress_places: Arc<tokio::sync::Semaphore>,
    /// Names that it may still have resolved at the same time.
    pub lookups: Arc<tokio::sync::Semaphore>,
    /// Whose turn it is, if its invocations take turns.
    pub(super) turns: Arc<Semaphore>,
    /// Invocations that wait for it.
    pub(super) queue: AtomicU32,
    /// Exchanges with the agent that may still begin, and processes beside it: each costs this daemon descriptors, and a
    /// shim that bounds them too is not believed.
    pub(super) exchanges: Arc<Semaphore>,
    /// See `exchanges`.
    pub(super) processes: Arc<Semaphore>,
    /// The daemon's places for work.
    pub(super) places: Arc<Semaphore>,
    /// Its agent was healthy once, as far as anybody has looked.
    pub(super) was_ready: AtomicBool,
    /// The id that an MCP server gave a session of its own: what it is to be told.
    pub(super) mcp: Mutex<Option<String>>,
    pub(super) mailbox: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<View>,
}

impl SessionHandle {
    /// What it may have now.
    #[must_use]
    pub fn limited(&self) -> Limited {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel has these limits now, and they are charged from now on; whether that is news.
    pub fn note_limits(&self, enforced: Enforced, now: Moment) -> bool {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *limits;
        *limits = Limited {
            memory: enforced.memory_bytes.map_or(before.memory, MemoryBytes),
            cpus: enforced.cpu_millis.map_or(before.cpus, CpuMillis),
            pids: enforced.pids.unwrap_or(before.pids),
            cpu_weight: enforced.cpu_weight,
        };
        let news = *limits != before;
        if news {
            let allocated = Allocated {
                memory_bytes: limits.memory.0,
                cpu_millis: limits.cpus.0,
            };
            self.account.allocate(now, allocated);
        }
        news
    }

    /// The phase now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What its MCP server calls its own session.
    #[must_use]
    pub fn mcp_session(&self) -> Option<String> {
        let id = self.mcp.lock().unwrap_or_else(PoisonError::into_inner);
        id.clone()
    }

    /// Its MCP server has begun a session of its own, or another one.
    pub fn set_mcp_session(&self, id: &str) {
        let mut known = self.mcp.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(id) {
            *known = Some(id.to_owned());
        }
    }

    /// Waits until it is ready, then begins work on it: in its turn, on a seat of its own, both of them waited for, as long as
    /// the session is there to give them.
    pub async fn begin(&self, purpose: Purpose, limits: &Limits) -> Result<Work, NoTurn> {
        if let Some(end) = self.view().end {
            return Err(end.unusable().into());
        }
        tokio::select! {
            biased;
            begun = self.begin_in_turn(purpose, limits) => begun,
            Some(end) = self.ending() => Err(end.unusable().into()),
        }
    }

    async fn begin_in_turn(&self, purpose: Purpose, limits: &Limits) -> Result<Work, NoTurn> {
        let queue = limits.max_queue_per_session;
        let (turn, hold) = match purpose {
            Purpose::Invocation => {
                let patience = self.version.spec.timeouts.invocation;
                (self.turn(queue, patience).await?, None)
            }
            Purpose::Kept(most) => {
                let before = Instant::now();
                let turn = self.turn(queue, most).await?;
                (turn, Some(most.saturating_sub(before.elapsed())))
            }
            Purpose::Exchange | Purpose::Process => (None, None),
        };
        let (seats, bound) = match purpose {
            Purpose::Invocation | Purpose::Kept(_) | Purpose::Exchange => (
                &self.exchanges,
                "the session has its highest number of invocations in flight (limits.max_invocations_per_session)",
            ),
            Purpose::Process => (
                &self.processes,
                "the session has 16 processes beside its agent (commands, shells, execs), which is as many as may be",
            ),
        };
        let seat = in_time(seats, limits.admission_wait).await;
        let seat = seat.ok_or(Unusable::Full(bound))?;
        let mut work = self.when_ready(limits.admission_wait, hold).await?;
        work.turn = turn;
        work.seat = Some(seat);
        work.metered = match purpose {
            Purpose::Invocation | Purpose::Kept(_) => Some(self.meters.begin()),
            Purpose::Exchange | Purpose::Process => None,
        };
        work.charge = Some(self.account.charge());
        Ok(work)
    }

    async fn turn(
        &self,
        queue: u32,
        patience: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, NoTurn> {
        let turns = || Arc::clone(&self.turns);
        match self.version.spec.concurrency {
            Concurrency::Parallel => Ok(None),
            Concurrency::Reject => match turns().try_acquire_owned() {
                Ok(turn) => Ok(Some(turn)),
                Err(_taken) => Err(NoTurn::Busy),
            },
            Concurrency::Serial => {
                if let Ok(turn) = turns().try_acquire_owned() {
                    return Ok(Some(turn));
                }
                let _place = Queued::enter(&self.queue, queue).ok_or(Unusable::Full(
                    "as many invocations wait for their turn in this session as may (limits.max_queue_per_session)",
                ))?;
                match tokio::time::timeout(patience, turns().acquire_owned()).await {
                    Ok(Ok(turn)) => Ok(Some(turn)),
                    Ok(Err(_)) | Err(_) => Err(Unusable::Full(
                        "the invocation did not get its turn within its time (lifecycle.invocation_timeout)",
                    )
                    .into()),
                }
            }
        }
    }

    async fn when_ready(
        &self,
        patience: Duration,
        hold: Option<Duration>,
    ) -> Result<Work, Unusable> {
        let mut view = self.view.clone();
        let mut place = None;
        loop {
            {
                let seen = view.borrow_and_update();
                if let Some(end) = &seen.end {
                    return Err(end.clone().unusable());
                }
            }
            let place_now = place.take();
            let begin = |answer| Command::Begin {
                place: place_now,
                hold,
                answer,
            };
            match ask(&self.mailbox, begin).await {
                Some(Ok(work)) => return Ok(work),
                Some(Err(NoWork::NoPlace)) => {
                    let found = in_time(&self.places, patience).await;
                    place = Some(found.ok_or(Unusable::Full(
                        "this daemon relays as much as its limit of open files allows (LimitNOFILE)",
                    ))?);
                }
                Some(Err(NoWork::Refused(Refusal::Frozen(holds)))) => {
                    let frozen = self.view().frozen;
                    let reason = frozen.and_then(|frozen| frozen.reason);
                    let hold = Hold::of(&self.id, holds, reason.as_deref());
                    return Err(Unusable::Frozen(hold));
                }
                // The driver has begun to thaw one that was asleep.
                Some(Err(NoWork::Refused(Refusal::NotReady | Refusal::Asleep))) => {
                    if view.changed().await.is_err() {
                        return Err(Unusable::Ending);
                    }
                }
                // The view says which of the two kinds of end it is.
                Some(Err(NoWork::Refused(Refusal::Ending))) | None => {
                    let seen = self.view();
                    return Err(match seen.end {
                        Some(end) if !end.was_live => Unusable::Failed(end),
                        Some(_) | None => Unusable::Ending,
                    });
                }
            }
        }
    }

    /// Takes over what its shim has kept of an earlier daemon's invocations, all that nobody has taken yet. Of a session that
    /// this daemon launched, or that has ended, there is none.
    pub async fn take_kept(&self) -> Vec<KeptWork> {
        let kept = ask(&self.mailbox, Command::TakeKept).await;
        kept.unwrap_or_default()
    }

    /// Takes what waits in a pool out of the hands of its driver, if it is ready and nobody was ever there: then this handle leads
    /// nowhere any more.
    pub async fn hand_over(&self) -> Option<Claimed> {
        ask(&self.mailbox, Command::HandOver).await.flatten()
    }

    /// The template that its agent is a fork of.
    #[must_use]
    pub fn below(&self) -> Option<Arc<Template>> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().map(|lease| Arc::clone(lease.template()))
    }

    /// It is below no template (any more).
    pub(super) fn rise(&self) {
        // Not under the lock: it tells others.
        drop(self.take_lease());
    }

    /// The same, for whoever is to hold it instead.
    pub(super) fn take_lease(&self) -> Option<Lease> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.take()
    }

    /// How it came to be.
    #[must_use]
    pub fn origin(&self) -> Path {
        match self.path {
            Path::Fork if self.below().is_none() => Path::Cold,
            path => path,
        }
    }

    /// Whether somebody drives it by this handle.
    #[must_use]
    pub fn drives(&self) -> bool {
        !self.mailbox.is_closed()
    }

    /// Waits until its agent has been healthy, or it ends; whether it is there.
    pub async fn settled(&self) -> bool {
        let mut view = self.view.clone();
        let begun = |view: &View| {
            view.end.is_some()
                || !matches!(
                    view.phase,
                    Phase::Requested | Phase::Launching | Phase::Starting
                )
        };
        let seen = view.wait_for(begun).await;
        seen.is_ok_and(|view| view.end.is_none())
    }

    /// Stops every process of it where it is, until [`Self::thaw`]; waits until all stand still. One that is frozen already
    /// stays so for this cause too.
    pub async fn freeze(
        &self,
        cause: FreezeCause,
        reason: Option<String>,
    ) -> Result<(), NotFrozen> {
        let freeze = |answer| Command::Freeze {
            cause,
            reason,
            answer,
        };
        let gone = Err(NotFrozen::Refused(NoFreeze::Ending));
        ask(&self.mailbox, freeze).await.unwrap_or(gone)
    }

    /// Lets go of this cause's freeze; if that was the last one, waits until it runs again. One that is not frozen stays so.
    pub async fn thaw(&self, cause: FreezeCause) -> Result<(), NotThawed> {
        let thaw = |answer| Command::Thaw { cause, answer };
        let gone = Err(NotThawed::Refused(NoThaw::Ending));
        ask(&self.mailbox, thaw).await.unwrap_or(gone)
    }

    /// Ends it if it is idle, because others need its place; whether it was.
    pub async fn evict(&self) -> bool {
        ask(&self.mailbox, Command::Evict).await.unwrap_or(false)
    }

    /// What it may use of the host's memory while it runs, and what it holds while it is frozen or waits in a pool, bytes; and its
    /// idleness.
    #[must_use]
    pub fn weight(&self) -> Weight {
        let most = self.limited().memory.0;
        let view = self.view.borrow();
        let frozen = view.phase == Phase::Frozen;
        Weight {
            // Nothing is known of what a daemon before this one has frozen, and of what has just begun.
            committed: match self.account.memory_bytes() {
                // What its forks have left there is beside what its version may have.
                held if self.path == Path::Template && held > 0 => held,
                held if (frozen || self.path.is_nobodys()) && held > 0 => held.min(most),
                _ => most,
            },
            frozen,
            idle_since: view.idle_since,
            leaving: view.end.is_some(),
        }
    }

    /// Asks it to end; does not wait.
    pub async fn stop(&self, reason: EndReason) {
        // A driver that is gone has ended it already.
        let _ = self.mailbox.send(Command::Stop(reason)).await;
    }

    /// After [`Self::stop`]: waits until it takes no more work, and ends even if this daemon does. So a stop that was answered
    /// is not lost.
    pub async fn stopping(&self) {
        let mut view = self.view.clone();
        let told = view.wait_for(|view| {
            view.end.is_some() && view.told || matches!(view.phase, Phase::Ended | Phase::Failed)
        });
        // One that was found frozen hears it when it is thawed; and a shim that does not listen is killed all the same.
        let _ = tokio::time::timeout(TOLD_PATIENCE, told).await;
    }

    /// Waits until it has begun to end, and says how.
    pub async fn ending(&self) -> Option<End> {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| view.end.is_some()).await.ok()?;
        seen.end.clone()
    }

    /// Waits until it is in none of these phases (any more).
    pub async fn leaves(&self, phases: &[Phase]) {
        let mut view = self.view.clone();
        // An error means that the driver is gone, and the session with it.
        let _ = view.wait_for(|view| !phases.contains(&view.phase)).await;
    }

    /// Waits until nothing of it is left.
    pub async fn over(&self) {
        let mut view = self.view.clone();
        // An error means that the driver is gone, which is over too.
        let _ = view
            .wait_for(|view| matches!(view.phase, Phase::Ended | Phase::Failed))
            .await;
    }

    /// Its numbers, while it lives.
    pub async fn activity(&self) -> Option<Activity> {
        ask(&self.mailbox, Command::Inspect).await
    }
}
