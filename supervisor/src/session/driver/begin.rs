//! A session's first moment in this daemon: made anew, or taken over from an earlier one. Either way it gets a handle for
//! everybody and the one task that owns it.

use super::super::handle::{Limited, MAILBOX, SessionHandle, SessionKey, View};
use super::super::log::SessionLog;
use super::super::notes::Notes;
use super::super::origin::{Origin, Path};
use super::claim::{HandedOver, Unbound};
use super::freezer::Freezer;
use super::{COMPLETIONS, Completion, Driver, Running};
use crate::admission::Permit;
use crate::api::session_header::fresh_session_id;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger::record::{SavedMeter, Subject};
use crate::ledger::{Account, Resumed};
use crate::owner::Owner;
use crate::progress::Scanner;
use crate::store::{FrozenNote, Memo};
use crate::templates::{Lease, Template};
use futures_util::stream::FuturesUnordered;
use proto::api::Phase;
use proto::ids::{ClientSessionId, EndpointName, SessionId};
use proto::shim::MAX_EXECS;
use session_core::lifecycle::Session;
use session_core::meter::Allocated;
use session_core::moment::Moment;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};

/// Makes a session and the task that owns it.
pub fn spawn(
    broker: &Arc<Broker>,
    origin: Origin,
    key: SessionKey,
    version: Arc<RuntimeVersion>,
    permit: Permit,
) -> Arc<SessionHandle> {
    let (id, path, start, lease) = match origin {
        Origin::Cold(id) => (id, Path::Cold, Start::Launch, None),
        Origin::Fork(id, lease) => (id, Path::Fork, Start::Launch, Some(lease)),
        Origin::Pool(claimed) => match claimed.take() {
            Some(mut handed) => {
                let lease = handed.lease.take();
                let id = handed.id.clone();
                (id, Path::Pool, Start::Claimed(handed), lease)
            }
            // It is taken once.
            None => (broker.slots.take(), Path::Cold, Start::Launch, None),
        },
    };
    let at = SystemTime::now();
    let begun = Begun {
        id,
        key,
        version,
        permit,
        at,
        launched_at: at,
        path,
        lease,
        template: None,
    };
    begin(broker, begun, start)
}

/// Makes the task that owns a session which an earlier daemon launched.
pub fn resume(broker: &Arc<Broker>, begun: Begun, found: Found) -> Arc<SessionHandle> {
    begin(broker, begun, Start::Found(Box::new(found)))
}

/// Makes a session that is nobody's and waits for whoever comes: of a fork, if there is a template for it.
pub fn wait(
    broker: &Arc<Broker>,
    id: SessionId,
    version: Arc<RuntimeVersion>,
    lease: Option<Lease>,
) -> Arc<SessionHandle> {
    let begun = Begun {
        lease,
        ..nobodys(broker, id, version)
    };
    let handle = begin(broker, begun, Start::Launch);
    broker.registry.wait(&handle);
    handle
}

/// Makes a template.
pub fn load(
    broker: &Arc<Broker>,
    template: Arc<Template>,
    version: Arc<RuntimeVersion>,
) -> Arc<SessionHandle> {
    let begun = of_template(broker, template, version);
    let handle = begin(broker, begun, Start::Launch);
    broker.registry.wait(&handle);
    handle
}

/// Takes a template over that an earlier daemon has launched, at that time and under that name of nobody's: it is on record so.
pub fn reload(
    broker: &Arc<Broker>,
    template: Arc<Template>,
    version: Arc<RuntimeVersion>,
    (at, client): (SystemTime, ClientSessionId),
    found: Found,
) -> Arc<SessionHandle> {
    let anew = of_template(broker, template, version);
    let begun = Begun {
        at,
        launched_at: at,
        key: SessionKey { client, ..anew.key },
        ..anew
    };
    let handle = begin(broker, begun, Start::Found(Box::new(found)));
    broker.registry.wait(&handle);
    handle
}

fn of_template(broker: &Broker, template: Arc<Template>, version: Arc<RuntimeVersion>) -> Begun {
    let nobodys = nobodys(broker, template.id.clone(), version);
    Begun {
        key: SessionKey {
            owner: Owner::template(),
            ..nobodys.key
        },
        path: Path::Template,
        template: Some(template),
        ..nobodys
    }
}

/// The same of one that was handed over and not used.
pub(super) fn wait_again(broker: &Arc<Broker>, mut handed: HandedOver) -> Arc<SessionHandle> {
    let begun = Begun {
        lease: handed.lease.take(),
        ..nobodys(broker, handed.id.clone(), Arc::clone(&handed.version))
    };
    let handle = begin(broker, begun, Start::Claimed(Box::new(handed)));
    broker.registry.wait(&handle);
    handle
}

fn nobodys(broker: &Broker, id: SessionId, version: Arc<RuntimeVersion>) -> Begun {
    let at = SystemTime::now();
    Begun {
        id,
        key: SessionKey {
            runtime: version.runtime.clone(),
            endpoint: EndpointName::default_endpoint(),
            client: fresh_session_id(),
            owner: Owner::pool(),
        },
        version,
        permit: broker.admission.nobodys(),
        at,
        launched_at: at,
        path: Path::Waiting,
        lease: None,
        template: None,
    }
}

/// What there is of a session when it gets its driver.
enum Start {
    /// Nothing.
    Launch,
    /// All of it, from an earlier daemon.
    Found(Box<Found>),
    /// All of it, from another driver.
    Claimed(Box<HandedOver>),
}

/// What a session is.
#[derive(Debug)]
pub struct Begun {
    /// Our name.
    pub id: SessionId,
    /// Its key on the wire.
    pub key: SessionKey,
    /// What it runs.
    pub version: Arc<RuntimeVersion>,
    /// Its places.
    pub permit: Permit,
    /// When it was asked for.
    pub at: SystemTime,
    /// When it was launched, or is to be; what its shim counts from.
    pub launched_at: SystemTime,
    /// How it came to be.
    pub path: Path,
    /// Of the template that its agent is, or is to be, a fork of.
    pub lease: Option<Lease>,
    /// If it is a template: that.
    pub template: Option<Arc<Template>>,
}

/// A session that is there already, taken over from the launcher and attached.
#[derive(Debug)]
pub struct Found {
    /// First host uid of its range.
    pub uid_base: u32,
    /// Host pid of its PID 1.
    pub pid: i32,
    /// How long that process has been there, as its caller's.
    pub age: Duration,
    /// CPU time that it used before, µs.
    pub cpu_before: u64,
    /// What was last written down of it.
    pub memo: Memo,
    /// How it is.
    pub lives: Lives,
    /// Its exit notice finds its way here since before it was taken over.
    pub completions: Completions,
}

/// How a session was found.
#[derive(Debug)]
pub enum Lives {
    /// Its shim has answered the handshake.
    Runs(Running),
    /// Nobody in it can answer.
    Frozen(FoundFrozen),
    /// Another driver of this daemon had it.
    Unbound(Box<Unbound>),
}

/// A session that was found frozen.
#[derive(Debug)]
pub struct FoundFrozen {
    /// Why, and since when.
    pub note: FrozenNote,
    /// For the handshake, once it is thawed.
    pub token: String,
}

/// Both ends of the queue of what comes back from effects, and from the launcher.
pub type Completions = (mpsc::Sender<Completion>, mpsc::Receiver<Completion>);

/// A queue for one session.
#[must_use]
pub fn completions() -> Completions {
    mpsc::channel(COMPLETIONS)
}

fn begin(broker: &Arc<Broker>, begun: Begun, start: Start) -> Arc<SessionHandle> {
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let (pid, memo, uid_base, log, since) = match &start {
        Start::Launch => (None, None, None, None, None),
        Start::Found(found) => {
            let memo = Some(found.memo.clone());
            (Some(found.pid), memo, Some(found.uid_base), None, None)
        }
        Start::Claimed(handed) => {
            let log = Some(Arc::clone(&handed.log));
            let since = Some(handed.since);
            (handed.pid, None, Some(handed.uid_base), log, since)
        }
    };
    let (view, watcher) = watch::channel(View {
        phase: Phase::Requested,
        end: None,
        told: false,
        frozen: None,
        idle_since: None,
        pid,
    });
    let known = memo.is_some();
    let memo = memo.unwrap_or_default();
    let config = broker.config();
    let exchanges = config.limits.max_invocations_per_session;
    let exchanges = usize::try_from(exchanges).unwrap_or(Semaphore::MAX_PERMITS);
    let now = broker.clock.now();
    let (account, waited) = open_account(broker, &begun, &start, now);
    let new_log = || {
        Arc::new(SessionLog::new(
            broker.log_path(&begun.id),
            begun.launched_at,
            config.limits.log_rate.0,
            config.limits.log_burst.0,
        ))
    };
    let handle = Arc::new(SessionHandle {
        account,
        log: log.unwrap_or_else(new_log),
        id: begun.id,
        key: begun.key,
        meters: broker.metrics.of(&begun.version.name),
        limits: Mutex::new(Limited::of(&begun.version.spec.limits)),
        version: begun.version,
        uid_base: uid_base.map_or_else(OnceLock::new, OnceLock::from),
        created_at: begun.at,
        since: since.unwrap_or_else(tokio::time::Instant::now),
        path: begun.path,
        template: begun.template,
        lease: Mutex::new(begun.lease),
        egress_refused: AtomicU64::new(memo.egress_refused),
        egress_places: Arc::new(Semaphore::new(
            usize::try_from(config.network.max_connections).unwrap_or(256),
        )),
        lookups: crate::egress::Egress::lookups_of_a_session(),
        turns: Arc::new(Semaphore::new(1)),
        queue: AtomicU32::new(0),
        exchanges: Arc::new(Semaphore::new(exchanges)),
        processes: Arc::new(Semaphore::new(MAX_EXECS)),
        places: Arc::clone(&broker.work_places),
        was_ready: AtomicBool::new(memo.was_ready),
        mcp: Mutex::new(memo.mcp),
        mailbox,
        view: watcher,
    });
    if known {
        handle.log.recall(memo.log_lines_dropped);
    }
    if let Some(journal) = &broker.journal {
        journal.follow(&handle);
    }
    let policy = match begun.path {
        Path::Cold | Path::Pool | Path::Fork => handle.version.lifecycle_policy(&config),
        Path::Waiting => handle.version.waiting_policy(&config),
        Path::Template => handle.version.template_policy(&config),
    };
    let (session, completions, lives) = match start {
        Start::Launch => (Session::new(now, policy), completions(), None),
        Start::Found(found) => {
            let session = Session::adopted(now, found.age, policy);
            (session, found.completions, Some(found.lives))
        }
        Start::Claimed(handed) => {
            let unbound = Unbound {
                link: handed.link,
                events: handed.events,
                since: handed.since,
                waited,
            };
            let lives = Lives::Unbound(Box::new(unbound));
            (Session::new(now, policy), handed.completions, Some(lives))
        }
    };
    let mut permit = begun.permit;
    permit.begun();
    let starts = matches!(lives, None | Some(Lives::Unbound(_)));
    let driver = Driver {
        session,
        broker: Arc::clone(broker),
        handle: Arc::clone(&handle),
        view,
        link: None,
        linked_at: None,
        events: None,
        early: VecDeque::new(),
        work: FuturesUnordered::new(),
        kept: Vec::new(),
        progress: Scanner::default(),
        notes: Notes::default(),
        freezer: Freezer::default(),
        completions,
        permit,
        underway: starts.then(|| broker.slots.underway()),
        first_call: None,
        launching: None,
        touched: false,
        unheard: None,
        handed_over: false,
        in_a_row: 0,
        remains: false,
        unheard_until: None,
        over: false,
    };
    tokio::spawn(driver.run(commands, lives));
    handle
}

/// Its account, and what it used while it was nobody's, if it was.
fn open_account(
    broker: &Broker,
    begun: &Begun,
    start: &Start,
    now: Moment,
) -> (Arc<Account>, Option<SavedMeter>) {
    let version = &begun.version;
    let subject = Subject::new(
        begun.id.clone(),
        &begun.key,
        (version.name.clone(), version.number),
        begun.at.into(),
    );
    let allocated = Allocated {
        memory_bytes: version.spec.limits.memory.0,
        cpu_millis: version.spec.limits.cpus.0,
    };
    let ledger = &broker.ledger;
    let (account, waited) = match (start, begun.path) {
        (Start::Launch, Path::Waiting | Path::Template) => {
            (ledger.wait(subject, allocated, now), None)
        }
        (Start::Launch, Path::Cold | Path::Pool | Path::Fork) => {
            (ledger.begin(subject, allocated, now), None)
        }
        (Start::Claimed(handed), Path::Waiting | Path::Template) => {
            (Arc::clone(&handed.account), None)
        }
        (Start::Claimed(handed), Path::Cold | Path::Pool | Path::Fork) => {
            let (account, waited) = ledger.claim(&handed.account, subject, allocated, now);
            let untold = handed.account.untold(now);
            let meters = broker.metrics.of(&version.name);
            broker.metrics.used(&meters, &untold);
            (account, Some(waited))
        }
        (Start::Found(found), _) => {
            let active = match &found.lives {
                Lives::Runs(running) => running.attached.idle_ms == 0,
                Lives::Frozen(_) | Lives::Unbound(_) => false,
            };
            let found = Resumed {
                age: found.age,
                cpu_before: found.cpu_before,
                active,
            };
            (ledger.resume(subject, allocated, now, found), None)
        }
    };
    account.bound(version.config.budget);
    (account, waited)
}
