//! Figures for Prometheus: counted where things happen, read at `GET /metrics`.
//!
//! What is counted is an atomic or a short lock that only a scrape shares. Labels are bounded: a runtime's name is one of the
//! first [`MOST_AGENTS`], and `other` beyond; no id is ever a label (those belong in logs).

mod agent;
mod labels;
mod scrape;

pub use agent::{InFlight, OfAgent, OpenStream};
pub use labels::Stage;
pub use scrape::{CLASSIC, OPEN_METRICS, classic};

use crate::session::origin::Path;
use labels::{
    Adopted, Agent, Build, Cause, Decision, Ended, Invocation, Operation, Outcome, Request,
    Resource, Start, StartStage, State, StreamKind, TaskState,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use proto::api::{EndReason, FreezeCause};
use proto::ids::RuntimeName;
use session_core::meter::Totals;
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most runtimes that have figures of their own.
pub const MOST_AGENTS: usize = 200;

/// From half a millisecond to some two minutes, each bound twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

type Ratio = Gauge<f64, AtomicU64>;
type Seconds = Counter<f64, AtomicU64>;

/// All figures of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Names that have figures of their own.
    agents: Mutex<HashSet<RuntimeName>>,
    /// One scrape at a time: gauges of what is there now are set anew for each.
    scraping: Mutex<()>,
    requests: Family<Request, Counter>,
    request_seconds: Family<Operation, Histogram>,
    invocations: Family<Invocation, Counter>,
    invocation_seconds: Family<Agent, Histogram>,
    first_byte_seconds: Family<Agent, Histogram>,
    in_flight: Family<Agent, Gauge>,
    request_bytes: Family<Agent, Counter>,
    response_bytes: Family<Agent, Counter>,
    sessions: Family<State, Gauge>,
    start_seconds: Family<Start, Histogram>,
    stage_seconds: Family<StartStage, Histogram>,
    streams: Family<StreamKind, Gauge>,
    resumes: Family<Outcome, Counter>,
    tasks: Family<TaskState, Gauge>,
    queue_age: Ratio,
    ended: Family<Ended, Counter>,
    cpu_seconds: Family<Agent, Seconds>,
    memory_gb_seconds: Family<Agent, Seconds>,
    oom_kills: Family<Agent, Counter>,
    egress_denied: Family<Agent, Counter>,
    freezes: Family<Cause, Counter>,
    thaw_seconds: Histogram,
    reclaimed_bytes: Counter,
    admission: Family<Decision, Counter>,
    admission_seconds: Histogram,
    adopted: Family<Adopted, Counter>,
    prepared: Gauge,
    prepared_target: Gauge,
    prepared_misses: Counter,
    checkpoint: Ratio,
    pool_size: Family<State, Gauge>,
    pool_target: Family<Agent, Gauge>,
    pool_hits: Family<Agent, Counter>,
    pool_misses: Family<Agent, Counter>,
    reload_successful: Gauge,
    psi: Family<Resource, Ratio>,
}

impl Metrics {
    /// All zero. `commits`: what the store's writer observes.
    #[must_use]
    pub fn new(commits: &Histogram) -> Self {
        let mut registry = Registry::with_prefix("agentcore");
        let metrics = Self {
            agents: Mutex::default(),
            scraping: Mutex::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            invocations: Family::default(),
            invocation_seconds: Family::new_with_constructor(seconds),
            first_byte_seconds: Family::new_with_constructor(seconds),
            in_flight: Family::default(),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            sessions: Family::default(),
            start_seconds: Family::new_with_constructor(seconds),
            stage_seconds: Family::new_with_constructor(seconds),
            streams: Family::default(),
            resumes: Family::default(),
            tasks: Family::default(),
            queue_age: Ratio::default(),
            ended: Family::default(),
            cpu_seconds: Family::default(),
            memory_gb_seconds: Family::default(),
            oom_kills: Family::default(),
            egress_denied: Family::default(),
            freezes: Family::default(),
            thaw_seconds: seconds(),
            reclaimed_bytes: Counter::default(),
            admission: Family::default(),
            admission_seconds: seconds(),
            adopted: Family::default(),
            prepared: Gauge::default(),
            prepared_target: Gauge::default(),
            prepared_misses: Counter::default(),
            checkpoint: Ratio::default(),
            pool_size: Family::default(),
            pool_target: Family::default(),
            pool_hits: Family::default(),
            pool_misses: Family::default(),
            reload_successful: Gauge::default(),
            psi: Family::default(),
            registry: Registry::default(),
        };
        metrics.describe(&mut registry, commits);
        metrics.reload_successful.set(1);
        Self {
            registry,
            ..metrics
        }
    }

    fn describe(&self, to: &mut Registry, commits: &Histogram) {
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build::this()).set(1);
        to.register("build_info", "This daemon", build);
        let each = &self.requests;
        to.register(
            "requests",
            "Requests answered, by operation and status",
            each.clone(),
        );
        let each = &self.request_seconds;
        to.register(
            "request_seconds",
            "Time to the head of an answer",
            each.clone(),
        );
        let each = &self.invocations;
        to.register(
            "invocations",
            "Invocations answered by or for an agent, by status",
            each.clone(),
        );
        let each = &self.invocation_seconds;
        to.register(
            "invocation_duration_seconds",
            "Time of an invocation, its answer's body included",
            each.clone(),
        );
        let each = &self.first_byte_seconds;
        to.register(
            "time_to_first_byte_seconds",
            "Time from a ready session to the head of its agent's answer",
            each.clone(),
        );
        let each = &self.in_flight;
        to.register(
            "inflight_invocations",
            "Invocations in flight, streams included",
            each.clone(),
        );
        let each = &self.request_bytes;
        to.register(
            "request_bytes",
            "Bytes of invocations' bodies, as far as they were announced",
            each.clone(),
        );
        let each = &self.response_bytes;
        to.register(
            "response_bytes",
            "Bytes of agents' answers that were passed on",
            each.clone(),
        );
        let each = &self.sessions;
        to.register("sessions", "Live sessions", each.clone());
        let each = &self.start_seconds;
        to.register(
            "session_start_seconds",
            "Time from the wish for a session to its first healthy answer",
            each.clone(),
        );
        let each = &self.stage_seconds;
        to.register(
            "session_start_stage_seconds",
            "Time of the parts of a start: what is written down and made of files, the launcher's work, the shim's answer, the agent's",
            each.clone(),
        );
        let each = &self.streams;
        to.register(
            "streams_open",
            "Answers that are streams of events, and WebSockets and shells (sockets), open now",
            each.clone(),
        );
        let each = &self.resumes;
        to.register(
            "stream_resumes",
            "Clients that came back for the rest of a stream",
            each.clone(),
        );
        let each = &self.tasks;
        to.register(
            "tasks",
            "Tasks that wait for their turn, and tasks that have a session or are getting one",
            each.clone(),
        );
        to.register(
            "task_queue_age_seconds",
            "How long the task has waited that has waited longest since it may begin",
            self.queue_age.clone(),
        );
        let each = &self.ended;
        to.register("sessions_ended", "Sessions that are over", each.clone());
        let each = &self.cpu_seconds;
        to.register(
            "session_cpu_seconds",
            "CPU time of sessions, as the ledger has it",
            each.clone(),
        );
        let each = &self.memory_gb_seconds;
        to.register(
            "session_memory_gb_seconds",
            "Memory of sessions over time, GB (10^9 bytes) for a second, as the ledger has it",
            each.clone(),
        );
        let each = &self.oom_kills;
        to.register(
            "oom_kills",
            "Processes killed for want of memory, counted when their session is over",
            each.clone(),
        );
        let each = &self.egress_denied;
        to.register(
            "egress_denied",
            "Outbound connections refused by policy, counted when their session is over",
            each.clone(),
        );
        let each = &self.freezes;
        to.register("freezes", "Sessions frozen", each.clone());
        to.register(
            "thaw_seconds",
            "Time from a thaw's order to the session running again",
            self.thaw_seconds.clone(),
        );
        to.register(
            "reclaimed_bytes",
            "Memory of frozen sessions that was given back to the host",
            self.reclaimed_bytes.clone(),
        );
        let each = &self.admission;
        to.register(
            "admission",
            "New sessions that were wanted, and what was missing for those refused",
            each.clone(),
        );
        to.register(
            "admission_wait_seconds",
            "How long new sessions waited for their places and their turn",
            self.admission_seconds.clone(),
        );
        let each = &self.adopted;
        to.register(
            "adopted_sessions",
            "Sessions of the daemon before",
            each.clone(),
        );
        to.register(
            "prepared_launches_size",
            "Launches that are prepared",
            self.prepared.clone(),
        );
        to.register(
            "prepared_launches_target",
            "Launches that are to be prepared (limits.prepared_launches)",
            self.prepared_target.clone(),
        );
        to.register(
            "prepared_launches_misses",
            "Sessions that began when no launch was prepared",
            self.prepared_misses.clone(),
        );
        to.register(
            "ledger_last_checkpoint_timestamp_seconds",
            "When the ledger's last checkpoint was signed, since 1970; 0: none by this daemon",
            self.checkpoint.clone(),
        );
        to.register(
            "config_last_reload_successful",
            "1 if the configuration in force is the one on disk when it was last told to reload",
            self.reload_successful.clone(),
        );
        let each = &self.pool_size;
        to.register(
            "pool_size",
            "Sessions that wait for whoever comes, and those that are being started for it",
            each.clone(),
        );
        let each = &self.pool_target;
        to.register("pool_target", "How many are to wait", each.clone());
        let each = &self.pool_hits;
        to.register(
            "pool_hits",
            "New sessions of runtimes with a pool that one waited for",
            each.clone(),
        );
        let each = &self.pool_misses;
        to.register(
            "pool_misses",
            "New sessions of runtimes with a pool that found none",
            each.clone(),
        );
        let each = &self.psi;
        to.register(
            "psi_some_ratio",
            "Share of the last ten seconds in which something on this host waited",
            each.clone(),
        );
        to.register(
            "store_commit_seconds",
            "Time of a transaction of the database, its jobs included",
            commits.clone(),
        );
    }

    /// The label of a runtime.
    fn agent(&self, name: &RuntimeName) -> Agent {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if !agents.contains(name) {
            if agents.len() >= MOST_AGENTS {
                return Agent::other();
            }
            agents.insert(name.clone());
        }
        Agent::named(name)
    }

    /// The figures of a runtime's sessions.
    #[must_use]
    pub fn of(&self, name: &RuntimeName) -> Arc<OfAgent> {
        let agent = self.agent(name);
        Arc::new(OfAgent {
            in_flight: self.in_flight.get_or_create_owned(&agent),
            duration: self.invocation_seconds.get_or_create_owned(&agent),
            first_byte: self.first_byte_seconds.get_or_create_owned(&agent),
            request_bytes: self.request_bytes.get_or_create_owned(&agent),
            response_bytes: self.response_bytes.get_or_create_owned(&agent),
            invocations: self.invocations.clone(),
            streams: self.events(),
            agent,
        })
    }

    /// A request has been answered.
    pub fn requested(&self, operation: &'static str, status: u16, took: Duration) {
        let one = Request {
            operation,
            code: status,
        };
        self.requests.get_or_create(&one).inc();
        let operation = Operation { operation };
        let seconds = self.request_seconds.get_or_create(&operation);
        seconds.observe(took.as_secs_f64());
    }

    /// A session has become ready.
    pub fn started(&self, agent: &OfAgent, path: Path, took: Duration) {
        let start = Start {
            path: path.word(),
            agent: agent.agent.agent.clone(),
        };
        let seconds = self.start_seconds.get_or_create(&start);
        seconds.observe(took.as_secs_f64());
    }

    fn events(&self) -> Gauge {
        let events = StreamKind { kind: "events" };
        self.streams.get_or_create_owned(&events)
    }

    /// A stream of events that is read from what is kept is open.
    #[must_use]
    pub fn stream(&self) -> OpenStream {
        OpenStream::of(&self.events())
    }

    /// A client came back for the rest of a stream, and this is what it got.
    pub fn resumed(&self, result: &'static str) {
        self.resumes.get_or_create(&Outcome { result }).inc();
    }

    /// A part of a start took so long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        let seconds = self.stage_seconds.get_or_create(&StartStage::of(stage));
        seconds.observe(took.as_secs_f64());
    }

    /// What sessions of a runtime used that was not told here yet.
    pub fn used(&self, agent: &OfAgent, more: &Totals) {
        self.used_by(&agent.agent, more);
    }

    fn used_by(&self, agent: &Agent, more: &Totals) {
        // Both are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "sums of one daemon's life")]
        let (cpu, memory) = (more.cpu_us as f64 / 1e6, more.memory_kbs as f64 / 1e6);
        self.cpu_seconds.get_or_create(agent).inc_by(cpu);
        self.memory_gb_seconds.get_or_create(agent).inc_by(memory);
    }

    /// A new session was wanted of a runtime with a pool.
    pub fn claimed(&self, runtime: &RuntimeName, hit: bool) {
        let counter = if hit {
            &self.pool_hits
        } else {
            &self.pool_misses
        };
        counter.get_or_create(&self.agent(runtime)).inc();
    }

    /// A session is over.
    pub fn ended(&self, agent: &OfAgent, reason: EndReason, oom: u64, denied: u64) {
        self.ended.get_or_create(&Ended::of(reason)).inc();
        let agent = &agent.agent;
        self.oom_kills.get_or_create(agent).inc_by(oom);
        self.egress_denied.get_or_create(agent).inc_by(denied);
    }

    /// A session was frozen.
    pub fn froze(&self, causes: &[FreezeCause]) {
        for cause in causes {
            self.freezes.get_or_create(&Cause::of(*cause)).inc();
        }
    }

    /// A session runs again.
    pub fn thawed(&self, took: Duration) {
        self.thaw_seconds.observe(took.as_secs_f64());
    }

    /// Memory of a frozen session was given back.
    pub fn reclaimed(&self, bytes: u64) {
        self.reclaimed_bytes.inc_by(bytes);
    }

    /// A new session was admitted (`None`), or what it did not get.
    pub fn admitted(&self, missing: Option<&'static str>, waited: Duration) {
        let decision = Decision::of(missing);
        self.admission.get_or_create(&decision).inc();
        self.admission_seconds.observe(waited.as_secs_f64());
    }

    /// A session of an earlier daemon was adopted, or not.
    pub fn adopted(&self, adopted: bool) {
        self.adopted.get_or_create(&Adopted::of(adopted)).inc();
    }

    /// The configuration was read again.
    pub fn reloaded(&self, successful: bool) {
        self.reload_successful.set(i64::from(successful));
    }
}

#[cfg(test)]
mod tests;
