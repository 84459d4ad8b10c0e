//! What a daemon finds of the one before it: sessions that live on are adopted, what is left of the others is cleared away.
//!
//! ```text
//! row of a live session ─▶ its version runs here still? ─▶ launcher: cgroup, uids and PID 1 are those of the row?
//!   ─▶ its shim knows the token and takes this daemon's epoch (later, if it is frozen)? ─▶ a driver of its own, as if this daemon had launched it
//!       └─ no, anywhere: killed, removed, recorded with the reason
//! what lives and is in no row ─▶ ended and removed, if it is where only this instance's sessions are; else left and told
//! ```
//!
//! A session is known by the names that were written down before it was made, and proven by what was noted when it was
//! launched: never by a process number alone. The launcher believes only what it sees itself (`launcher/service/foreign.rs`).

use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::fault::chain;
use crate::launcher::message::{AdoptOrder, Counters, OrderFault};
use crate::ledger::record::Subject;
use crate::owner::{Owner, Principal};
use crate::relay::link::Link;
use crate::session::driver::{self, Begun, Completions, Found, FoundFrozen, Lives, Running};
use crate::session::handle::{SessionHandle, SessionKey};
use crate::session::origin::Path;
use crate::store::{
    FrozenNote, Launched, LiveSession, SessionEnd, SessionRow, StoreError, Timestamp,
};
use crate::time::since_boot;
use nix::unistd::{SysconfVar, sysconf};
use proto::api::{EndReason, FreezeCause};
use proto::ids::{RuntimeId, SessionId, VersionNumber};
use proto::shim::{ExitCause, ExitRecord};
use session_core::spec::RuntimeSpec;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a start waits for what is left of an earlier daemon's sessions to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a shim may take to shake hands. It answers at once, on a host that is not starved.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// Looks after every session that had not ended when it was last heard of: those that live on are adopted before anybody is
/// served, so that nobody begins a second one of their ids.
pub async fn recover(broker: &Arc<Broker>) -> Result<(), StoreError> {
    let left = broker.store.live_sessions().await?;
    let mut versions = Versions::default();
    let mut adopting = JoinSet::new();
    let (templates, left): (Vec<_>, Vec<_>) = left
        .into_iter()
        .partition(|left| is_template(&left.session));
    for session in left {
        let version = versions.of(broker, &session);
        let broker = Arc::clone(broker);
        adopting.spawn(async move {
            let adopted = adopt(&broker, &session, version).await;
            (session, adopted)
        });
    }
    let mut burying = JoinSet::new();
    while let Some(tried) = adopting.join_next().await {
        match tried {
            Ok((session, Ok(()))) => {
                broker.metrics.adopted(true);
                tracing::info!(session_id = %session.session.id, "session adopted");
            }
            Ok((session, Err(why))) => {
                broker.metrics.adopted(false);
                broker.exits.forget(&session.session.id);
                let broker = Arc::clone(broker);
                burying.spawn(async move { bury(&broker, &session, why).await });
            }
            Err(panic) => tracing::error!(error = %panic, "a session was not adopted"),
        }
    }
    // After those below them, which would end with them.
    for template in templates {
        let version = versions.of(broker, &template);
        if let Err(why) = adopt_template(broker, &template, version).await {
            broker.exits.forget(&template.session.id);
            let broker = Arc::clone(broker);
            burying.spawn(async move { bury(&broker, &template, why).await });
        }
    }
    // Mostly milliseconds. What does not die in time keeps its row, and with that its id and uid range, until it has.
    let all = async { while burying.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        tracing::warn!(
            sessions = burying.len(),
            "sessions of an earlier daemon are still ending"
        );
        burying.detach_all();
    }
    clear_orphans(broker).await;
    Ok(())
}

/// Ends what lives of this instance and is in no row (the database is from a backup, or a launch was not written down), and
/// removes what it left. What cannot be told to be this instance's is left, and told (`agentcore doctor`).
async fn clear_orphans(broker: &Broker) {
    match broker.launcher.clear_orphans().await {
        Ok(found) => {
            for session in &found.ended {
                tracing::warn!(session_id = %session, "a session that no record knows is ended");
            }
            if found.files > 0 {
                tracing::info!(
                    files = found.files,
                    "files of sessions that are over removed"
                );
            }
            for stranger in &found.strangers {
                tracing::warn!(
                    what = stranger,
                    "not known to be this daemon's, and left alone"
                );
            }
            // Once, at the start.
            let _ = broker.strangers.set(found.strangers);
        }
        Err(fault) => {
            tracing::error!(fault = %fault, "what earlier daemons left was not looked for");
        }
    }
}

/// Ends what the shims of adopted sessions have kept and nobody has claimed: no daemon on this state knows of it any more. To be
/// called once those who keep invocations have claimed theirs.
pub async fn cancel_unclaimed(broker: &Arc<Broker>) {
    for handle in broker.registry.all() {
        cancel_kept(&handle).await;
    }
}

async fn cancel_kept(handle: &SessionHandle) {
    for kept in handle.take_kept().await {
        tracing::warn!(
            session_id = %handle.id,
            invocation_id = kept.kept.id.0,
            "an invocation of an earlier daemon is nobody's, and is cancelled"
        );
        kept.cancel();
    }
}

/// Versions that sessions run, each compiled once. They need not be served any more.
#[derive(Default)]
struct Versions(HashMap<(RuntimeId, VersionNumber), Result<Arc<RuntimeVersion>, String>>);

impl Versions {
    fn of(&mut self, broker: &Broker, left: &LiveSession) -> Result<Arc<RuntimeVersion>, String> {
        let row = &left.session;
        let compile = || {
            let spec = RuntimeSpec::resolve(&left.config, &broker.host_policy());
            let spec = spec.map_err(|faults| {
                let mut faults = faults.iter();
                let first = faults.next().map(|fault| fault.message.as_str());
                format!("its version cannot run here now: {}", first.unwrap_or(""))
            })?;
            Ok(Arc::new(RuntimeVersion {
                runtime: row.runtime_id.clone(),
                name: row.runtime.clone(),
                number: row.version,
                config: left.config.clone(),
                artifact: left.artifact.clone(),
                spec,
            }))
        };
        let key = (row.runtime_id.clone(), row.version);
        self.0.entry(key).or_insert_with(compile).clone()
    }
}

/// Why a session is not adopted.
#[derive(Debug)]
enum NotAdopted {
    /// Nobody is left of it.
    Gone,
    /// Nor of anything else of that time.
    Rebooted,
    /// A sentence for its record.
    Because(String),
}

impl From<String> for NotAdopted {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

impl From<&str> for NotAdopted {
    fn from(why: &str) -> Self {
        Self::Because(why.to_owned())
    }
}

async fn adopt(
    broker: &Arc<Broker>,
    left: &LiveSession,
    version: Result<Arc<RuntimeVersion>, String>,
) -> Result<(), NotAdopted> {
    let row = &left.session;
    if left.runtime_deleted {
        return Err("its runtime has been deleted".into());
    }
    if row.boot_id != broker.ground.boot_id {
        return Err(NotAdopted::Rebooted);
    }
    let (Some(launched), Some(token), Some(owner)) = (row.launched, &row.token, &row.owner) else {
        return Err("its launch was not over when the daemon that owned it ended".into());
    };
    if *owner == Owner::pool() {
        return Err("it waited in its pool, and nobody had claimed it".into());
    }
    if owner.principal == Principal::daemon() {
        return Err("it was a warm-up, which is made again".into());
    }
    let version = version?;
    let (completions, frozen) = take_over(broker, row, launched).await?;
    let lives = if frozen {
        // It cannot answer; its driver shakes hands when it thaws. One that another hand has frozen waits for an operator's.
        let by_hand = || FrozenNote {
            causes: vec![FreezeCause::Operator],
            at: Timestamp::now(),
            since_boot: Some(since_boot()),
            reason: Some("found frozen".to_owned()),
        };
        Lives::Frozen(FoundFrozen {
            note: row.frozen.clone().unwrap_or_else(by_hand),
            token: token.clone(),
        })
    } else {
        let running = attach(broker, &row.id, token).await?;
        if row.frozen.is_some() {
            // The daemon before came no further, or had thawed it.
            let forgotten = broker.store.session_frozen(&row.id, None).await;
            forgotten.map_err(|error| chain(&error))?;
        }
        Lives::Runs(running)
    };
    let key = SessionKey {
        runtime: row.runtime_id.clone(),
        endpoint: row.endpoint.clone(),
        client: row.client_id.clone(),
        owner: owner.clone(),
    };
    let begun = Begun {
        id: row.id.clone(),
        permit: broker.admission.adopt(&key),
        key: key.clone(),
        version,
        at: row.created_at.system_time(),
        launched_at: row.created_at.system_time() - left.waited,
        path: match left.template {
            Some(_) => Path::Fork,
            None => Path::Cold,
        },
        lease: left.template.as_ref().map(|id| broker.templates.find(id)),
        template: None,
    };
    let found = Found {
        uid_base: row.uid_base,
        pid: launched.pid,
        age: since_boot()
            .saturating_sub(ticks(launched.start_time))
            .saturating_sub(left.waited),
        cpu_before: left.waited_cpu_us,
        memo: left.memo.clone(),
        lives,
        completions,
    };
    let id = row.id.clone();
    let handle = broker
        .registry
        .find_or_insert(&key, || driver::resume(broker, begun, found));
    // Live rows have different keys, and nobody is served yet; if that should ever fail, it must not go unseen.
    if handle.id == id {
        // They may have been changed while it ran.
        if let Ok(enforced) = broker.launcher.limits(id).await {
            handle.note_limits(enforced, broker.clock.now());
        }
        Ok(())
    } else {
        Err("another session has its id".into())
    }
}

fn is_template(row: &SessionRow) -> bool {
    row.owner == Some(Owner::template())
}

/// Keeps a template for the sessions below it that were adopted; nothing is forked from it any more.
async fn adopt_template(
    broker: &Arc<Broker>,
    left: &LiveSession,
    version: Result<Arc<RuntimeVersion>, String>,
) -> Result<(), NotAdopted> {
    let row = &left.session;
    if row.boot_id != broker.ground.boot_id {
        return Err(NotAdopted::Rebooted);
    }
    let template = broker.templates.found(&row.id);
    let template = template.filter(|template| template.leases() > 0);
    let template = template.ok_or("it is a template, and no session is below it")?;
    let (Some(launched), Some(token)) = (row.launched, &row.token) else {
        return Err("its launch was not over when the daemon that owned it ended".into());
    };
    let (completions, frozen) = take_over(broker, row, launched).await?;
    if frozen {
        // By another hand: those below it could not end.
        let thawed = broker.launcher.thaw(row.id.clone()).await;
        thawed.map_err(|fault| chain(&fault))?;
    }
    let running = attach(broker, &row.id, token).await?;
    let found = Found {
        uid_base: row.uid_base,
        pid: launched.pid,
        age: since_boot().saturating_sub(ticks(launched.start_time)),
        cpu_before: 0,
        memo: left.memo.clone(),
        lives: Lives::Runs(running),
        completions,
    };
    let handle = driver::reload(
        broker,
        Arc::clone(&template),
        version?,
        (row.created_at.system_time(), row.client_id.clone()),
        found,
    );
    broker
        .templates
        .adopted(&template, &handle, broker.clock.now());
    tracing::info!(session_id = %row.id, sessions = template.leases(), "template kept for the sessions below it");
    Ok(())
}

/// So many clock ticks.
fn ticks(number: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let per_second = per_second.and_then(|ticks| u32::try_from(ticks).ok());
    Duration::from_secs(number) / per_second.unwrap_or(100)
}

/// Has the launcher look whether it is what was launched. What its driver will hear of it, and whether it is frozen.
async fn take_over(
    broker: &Broker,
    row: &SessionRow,
    launched: Launched,
) -> Result<(Completions, bool), NotAdopted> {
    let completions = driver::completions();
    // Before the launcher looks at it: its end must not be missed.
    broker.exits.register(row.id.clone(), completions.0.clone());
    let order = AdoptOrder {
        session: row.id.clone(),
        uid_base: row.uid_base,
        pid: launched.pid,
        start_time: launched.start_time,
        cgroup_inode: launched.cgroup_inode,
        template: is_template(row),
    };
    match broker.launcher.adopt(order).await {
        Ok(frozen) => Ok((completions, frozen)),
        Err(OrderFault::Unknown) => Err(NotAdopted::Gone),
        Err(other) => Err(NotAdopted::Because(chain(&other))),
    }
}

async fn attach(
    broker: &Arc<Broker>,
    session: &SessionId,
    token: &str,
) -> Result<Running, NotAdopted> {
    let socket = broker.shim_socket(session);
    let attach = Link::attach(&socket, token, broker.epoch);
    match tokio::time::timeout(HANDSHAKE, attach).await {
        Ok(Ok((link, attached, events))) => Ok(Running {
            link,
            attached,
            events,
            early: Vec::new(),
        }),
        Ok(Err(error)) => Err(chain(&error).into()),
        Err(_late) => Err("its shim does not answer".into()),
    }
}

/// Kills and removes what is left of a session, and records how it ended.
async fn bury(broker: &Arc<Broker>, left: &LiveSession, why: NotAdopted) {
    let row = &left.session;
    let removed = match broker.launcher.remove_to_the_end(row.id.clone()).await {
        Ok(removed) => removed,
        // The next daemon tries again.
        Err(_launcher_gone) => return,
    };
    let counters = removed
        .as_ref()
        .map_or_else(Counters::default, |removed| removed.usage);
    let usage = counters.to_api();
    let record = removed.and_then(|removed| removed.record);
    let record = record.and_then(|(cause, agent)| ExitRecord::from_numbers(cause, agent));
    let until_now = matches!(why, NotAdopted::Because(_));
    let (reason, detail) = ended(record.as_ref(), usage.oom_kills, why);
    let record = subject(row).map(|subject| {
        let ledger = &broker.ledger;
        ledger.bury((subject, left.waited_cpu_us), counters, reason, until_now)
    });
    let end = SessionEnd {
        reason,
        was_ready: left.memo.was_ready,
        detail: Some(detail),
        usage,
        egress_refused: left.memo.egress_refused,
        log_lines_dropped: left.memo.log_lines_dropped,
        record,
    };
    match broker.store.end_session(&row.id, end).await {
        Ok(_) => {
            // What is left of it goes with the orphans at the latest.
            let _ = broker.launcher.forget(row.id.clone()).await;
            tracing::info!(session_id = %row.id, ?reason, "ended a session of an earlier daemon");
        }
        Err(error) => {
            tracing::error!(session_id = %row.id, error = %chain(&error), "end of a session not recorded");
        }
    }
}

/// Whom a session is charged to.
fn subject(row: &SessionRow) -> Option<Subject> {
    let key = SessionKey {
        runtime: row.runtime_id.clone(),
        endpoint: row.endpoint.clone(),
        client: row.client_id.clone(),
        owner: row.owner.clone()?,
    };
    let version = (row.runtime.clone(), row.version);
    let subject = Subject::new(row.id.clone(), &key, version, row.created_at);
    Some(match key.owner.is_nobody() {
        true => subject.waiting(),
        false => subject,
    })
}

/// How a session ended that this daemon did not see end: its shim may have left word.
fn ended(record: Option<&ExitRecord>, oom_kills: u64, why: NotAdopted) -> (EndReason, String) {
    if oom_kills > 0 {
        let detail = "it was out of memory while no daemon was there".to_owned();
        return (EndReason::OutOfMemory, detail);
    }
    match record.map(|record| record.cause) {
        Some(ExitCause::AgentExited) => (
            EndReason::AgentExited,
            "the agent process ended while no daemon was there".to_owned(),
        ),
        Some(ExitCause::MaxLifetime) => (
            EndReason::MaxLifetime,
            "it reached its lifetime while no daemon was there".to_owned(),
        ),
        Some(ExitCause::Orphaned) => (
            EndReason::DaemonLost,
            "no daemon came for it in time (limits.orphan_timeout)".to_owned(),
        ),
        Some(ExitCause::Shutdown) => (
            EndReason::Stopped,
            "it was being ended when the daemon that owned it ended".to_owned(),
        ),
        None => match why {
            NotAdopted::Gone => (
                EndReason::ShimDied,
                "its processes were gone when the daemon came back".to_owned(),
            ),
            NotAdopted::Rebooted => (
                EndReason::DaemonLost,
                "the host was started anew".to_owned(),
            ),
            NotAdopted::Because(why) => (
                EndReason::DaemonLost,
                format!("the daemon that owned it is gone, and it could not be adopted: {why}"),
            ),
        },
    }
}
