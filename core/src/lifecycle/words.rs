//! What is said to a session's state machine, and what it answers.

use super::freeze::Holds;
use super::ladder::Quiet;
use proto::api::EndReason;
use std::time::Duration;

/// Durations of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// From creation to the first healthy answer.
    pub start_timeout: Duration,
    /// Idle time that ends it.
    pub idle_timeout: Duration,
    /// Age that ends it, never reset.
    pub max_lifetime: Duration,
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// How long `/ping` may fail without work in flight.
    pub unhealthy_after: Duration,
    /// Idle time, without computing, that freezes it; `None`: it is not.
    pub freeze_after: Option<Duration>,
}

/// What a health check said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Ready for work.
    Healthy,
    /// Background work.
    HealthyBusy,
    /// Failing.
    Unhealthy,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The shim answered the handshake.
    Attached,
    /// The shim of a session that is adopted answered the handshake, and its agent has been healthy. For so long it has had no
    /// work and no change of health.
    Found {
        /// Not believed beyond the session's age.
        idle: Duration,
    },
    /// A session that is adopted is frozen: its shim shakes hands when it thaws. Without holds it has been idle for at least so
    /// long.
    FoundFrozen {
        /// Who holds it.
        holds: Holds,
        /// Not believed beyond the session's age.
        idle: Duration,
    },
    /// Every process of a session that was to be frozen has stopped.
    Froze,
    /// They could not be stopped, and run.
    FreezeFailed,
    /// A frozen session runs again. One that was found frozen says [`Event::Attached`] or [`Event::Found`] instead.
    Thawed,
    /// To [`Effect::Weigh`]: what it has used of a CPU since it is idle, as far as that is known.
    Weighed(Option<Quiet>),
    /// The sandbox could not be made, or the handshake failed.
    LaunchFailed,
    /// A health report.
    Health(Health),
    /// An invocation, stream or exec wants to begin. Accepted only if the answer has no [`Refusal`].
    WorkBegins,
    /// One of them ended.
    WorkEnds,
    /// Somebody wants it to end.
    Stop(EndReason),
    /// The agent process ended by itself.
    AgentExited,
    /// A process of the session was killed for want of memory.
    OutOfMemory,
    /// The shim broke the protocol.
    ProtocolFault,
    /// PID 1 has ended, and every process of the session with it.
    Gone,
    /// The launcher has removed what was left.
    TornDown,
    /// Time has passed; see [`Session::deadline`].
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Tell watchers the new phase.
    Publish,
    /// Say `shutdown` to the shim, with this grace.
    Shutdown(Duration),
    /// Note who holds it, tell the launcher to freeze it; then [`Event::Froze`] or [`Event::FreezeFailed`].
    Freeze,
    /// Tell the launcher to thaw it, and its shim how long it stood still; then [`Event::Thawed`] and its like.
    Thaw,
    /// Note who holds it.
    NoteHolds,
    /// Look what it has used of a CPU since it is idle; then [`Event::Weighed`].
    Weigh,
    /// Count that from now on.
    WeighAnew,
    /// Tell the launcher to kill the cgroup.
    Kill,
    /// Tell the launcher to remove what is left; then [`Event::TornDown`].
    Remove,
    /// The session is over: record the end, give the permit back.
    Release,
}

/// Why work cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has not been healthy yet.
    NotReady,
    /// It is frozen for idleness: [`Session::thaw`] it, and wait for it.
    Asleep,
    /// It is frozen, and somebody holds it.
    Frozen(Holds),
    /// It is ending or over; the same id afterwards starts a new one.
    Ending,
}
