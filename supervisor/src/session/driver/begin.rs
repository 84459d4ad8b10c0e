//! A session's first moment in this daemon: made anew, or taken over from an earlier one. Either way it gets a handle for
//! everybody and the one task that owns it.

use super::super::handle::{Limited, MAILBOX, SessionHandle, SessionKey, View};
use super::super::log::SessionLog;
use super::super::notes::Notes;
use super::super::origin::{Origin, Path};
use super::freezer::Freezer;
use super::{COMPLETIONS, Completion, Driver, Running};
use crate::admission::Permit;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger::Account;
use crate::ledger::record::Subject;
use crate::progress::Scanner;
use crate::store::{FrozenNote, Memo};
use futures_util::stream::FuturesUnordered;
use proto::api::Phase;
use proto::ids::SessionId;
use proto::shim::MAX_EXECS;
use session_core::lifecycle::Session;
use session_core::meter::Allocated;
use session_core::moment::Moment;
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
    let path = origin.path();
    let Origin::Cold(id) = origin;
    let begun = Begun {
        id,
        key,
        version,
        permit,
        at: SystemTime::now(),
        path,
    };
    begin(broker, begun, None)
}

/// Makes the task that owns a session which an earlier daemon launched.
pub fn resume(broker: &Arc<Broker>, begun: Begun, found: Found) -> Arc<SessionHandle> {
    begin(broker, begun, Some(found))
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
    /// How it came to be.
    pub path: Path,
}

/// A session that is there already, taken over from the launcher and attached.
#[derive(Debug)]
pub struct Found {
    /// First host uid of its range.
    pub uid_base: u32,
    /// Host pid of its PID 1.
    pub pid: i32,
    /// How long that process has been there.
    pub age: Duration,
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

fn begin(broker: &Arc<Broker>, begun: Begun, found: Option<Found>) -> Arc<SessionHandle> {
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let (view, watcher) = watch::channel(View {
        phase: Phase::Requested,
        end: None,
        told: false,
        frozen: None,
        idle_since: None,
        pid: found.as_ref().map(|found| found.pid),
    });
    let memo = found.as_ref().map(|found| found.memo.clone());
    let known = memo.is_some();
    let memo = memo.unwrap_or_default();
    let config = broker.config();
    let exchanges = config.limits.max_invocations_per_session;
    let exchanges = usize::try_from(exchanges).unwrap_or(Semaphore::MAX_PERMITS);
    let now = broker.clock.now();
    let account = open_account(broker, &begun, found.as_ref(), now);
    let handle = Arc::new(SessionHandle {
        account,
        log: Arc::new(SessionLog::new(
            broker.log_path(&begun.id),
            begun.at,
            config.limits.log_rate.0,
            config.limits.log_burst.0,
        )),
        id: begun.id,
        key: begun.key,
        meters: broker.metrics.of(&begun.version.name),
        limits: Mutex::new(Limited::of(&begun.version.spec.limits)),
        version: begun.version,
        uid_base: OnceLock::new(),
        created_at: begun.at,
        path: begun.path,
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
    let policy = handle.version.lifecycle_policy(&config);
    let (session, completions, lives) = match found {
        None => (Session::new(now, policy), completions(), None),
        Some(found) => {
            let _ = handle.uid_base.set(found.uid_base);
            let session = Session::adopted(now, found.age, policy);
            (session, found.completions, Some(found.lives))
        }
    };
    let mut permit = begun.permit;
    permit.begun();
    let driver = Driver {
        session,
        broker: Arc::clone(broker),
        handle: Arc::clone(&handle),
        view,
        link: None,
        linked_at: None,
        events: None,
        work: FuturesUnordered::new(),
        kept: Vec::new(),
        progress: Scanner::default(),
        notes: Notes::default(),
        freezer: Freezer::default(),
        completions,
        permit,
        underway: lives.is_none().then(|| broker.slots.underway()),
        launching: None,
        in_a_row: 0,
        remains: false,
        unheard_until: None,
        over: false,
    };
    tokio::spawn(driver.run(commands, lives));
    handle
}

fn open_account(
    broker: &Broker,
    begun: &Begun,
    found: Option<&Found>,
    now: Moment,
) -> Arc<Account> {
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
    let account = match found {
        None => broker.ledger.begin(subject, allocated, now),
        Some(found) => {
            let active = match &found.lives {
                Lives::Runs(running) => running.attached.idle_ms == 0,
                Lives::Frozen(_) => false,
            };
            broker
                .ledger
                .resume(subject, allocated, now, (found.age, active))
        }
    };
    account.bound(version.config.budget);
    account
}
