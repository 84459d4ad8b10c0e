//! The launch of one session, up to the handshake: names before things, then the sandbox, then the link.

use super::driver::{Completion, Running};
use super::fork::{self, Made};
use super::handle::SessionHandle;
use super::storage;
use crate::broker::Broker;
use crate::fault::chain;
use crate::launcher::message::{LaunchOrder, Limits, Lineage, OrderFault};
use crate::ledger::record::SavedMeter;
use crate::metrics::{Metrics, Stage};
use crate::relay::link::Link;
use crate::store::{ClaimedSession, StoreError};
use crate::templates::{NoFork, Template};
use nix::errno::Errno;
use proto::code::ErrorCode;
use proto::shim::{self, Boot, GENERATION, ShimLimits};
use sandbox::memfd;
use session_core::egress::AllowList;
use session_core::spec::{Forking, NetworkPolicy, RuntimeSpec};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a template lives: longer than anything below it.
pub(crate) const LONG: Duration = Duration::from_secs(10 * 366 * 86_400);

/// How much longer a template without a daemon lives than the sessions below it, which end in the same moment.
const LATER: Duration = Duration::from_secs(60);

/// Why a session could not be launched.
#[derive(Debug)]
pub struct LaunchFailure {
    /// A sentence for the caller.
    pub(super) detail: String,
    /// What it is for the caller, if it is not this daemon's fault.
    pub(super) code: Option<ErrorCode>,
}

impl From<String> for LaunchFailure {
    fn from(detail: String) -> Self {
        Self { detail, code: None }
    }
}

impl From<StoreError> for LaunchFailure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            // What is left of the id's last session is still being removed.
            StoreError::Conflict(_) => Some(ErrorCode::RetryableConflict),
            StoreError::Full(_) | StoreError::NoRoom(_) => Some(ErrorCode::StorageFull),
            _ => None,
        };
        Self {
            detail: chain(&error),
            code,
        }
    }
}

impl From<OrderFault> for LaunchFailure {
    fn from(fault: OrderFault) -> Self {
        let code = match fault {
            OrderFault::StorageFull(_) => Some(ErrorCode::StorageFull),
            OrderFault::StorageBusy => Some(ErrorCode::RetryableConflict),
            OrderFault::Host { errno, .. } if crowded(errno) => Some(ErrorCode::Throttled),
            // This daemon ends with its launcher, and both are started anew.
            OrderFault::Host { errno, .. } if errno == Errno::EPIPE as i32 => {
                Some(ErrorCode::Unavailable)
            }
            OrderFault::Refused(_)
            | OrderFault::MemoryInUse { .. }
            | OrderFault::CpusInUse { .. }
            | OrderFault::Step { .. }
            | OrderFault::Host { .. }
            | OrderFault::Unknown => None,
        };
        Self {
            detail: chain(&fault),
            code,
        }
    }
}

/// Whether this is for want of open files: load, which passes.
fn crowded(errno: i32) -> bool {
    [Errno::EMFILE, Errno::ENFILE].contains(&Errno::from_raw(errno))
}

/// A failure of this daemon's own, from the error and all that it came from.
fn of_error(what: &str, error: &(dyn std::error::Error + 'static)) -> LaunchFailure {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let errno = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
        .next();
    LaunchFailure {
        detail: format!("{what}{}", chain(error)),
        code: errno.is_some_and(crowded).then_some(ErrorCode::Throttled),
    }
}

/// Launches and attaches. What was made is removed by the driver in any case.
pub(super) async fn launch(
    broker: &Arc<Broker>,
    handle: &SessionHandle,
    progress: &mpsc::Sender<Completion>,
) -> Result<Running, LaunchFailure> {
    let token = token();
    // Of a template, and of a pool's member, nobody waits for any part.
    let told = (!handle.path.is_nobodys()).then_some(&broker.metrics);
    let mut clock = Stages::begin(told);
    let below = handle.below();
    let kind = match (&handle.template, &below) {
        (Some(_), _) => shim::Origin::Template,
        (None, Some(_)) => shim::Origin::Fork,
        (None, None) => shim::Origin::Started,
    };
    let reserved = async {
        let reserved = broker.reserve(handle, &token).await;
        reserved.map_err(LaunchFailure::from)
    };
    // Made while the store's thread writes.
    let (uid_base, (boot, tree)) = tokio::try_join!(reserved, files(broker, handle, &token, kind))?;
    clock.over(Stage::Reserve);
    // Set once: a session is launched once.
    let _ = handle.uid_base.set(uid_base);
    let order = |lineage| LaunchOrder {
        session: handle.id.clone(),
        uid_base,
        limits: limits(&handle.version.spec, &lineage),
        storage: storage::order(handle),
        lineage,
    };
    let (boot, tree) = match below {
        None => (boot, tree),
        Some(template) => {
            let lineage = Lineage::Fork {
                template: template.id.clone(),
            };
            let made = Made {
                order: order(lineage),
                boot,
                tree,
                token: token.clone(),
            };
            match fork::launch(broker, handle, &template, made, progress).await {
                Ok(running) => {
                    broker.templates.forked(&handle.version);
                    clock.over(Stage::Fork);
                    return Ok(running);
                }
                Err(fork::Failed::Launch(failure)) => return Err(failure),
                Err(fork::Failed::Fork(why)) => not_forked(broker, handle, &template, &why),
            }
            files(broker, handle, &token, shim::Origin::Started).await?
        }
    };
    let lineage = match handle.template {
        Some(_) => Lineage::Template,
        None => Lineage::Host,
    };
    let launched = broker.launcher.launch(order(lineage), boot, tree).await?;
    clock.over(Stage::Launch);
    // The driver is there: it waits for this launch.
    let _ = progress.send(Completion::Pid(launched.pid)).await;
    broker.record_launch(handle, &launched, None);
    let (link, attached, events) =
        Link::attach(&broker.shim_socket(&handle.id), &token, broker.epoch)
            .await
            .map_err(|error| of_error("", &error))?;
    clock.over(Stage::Attach);
    Ok(Running {
        link,
        attached,
        events,
        early: Vec::new(),
    })
}

/// Says that a session is made without the template that it was to be a fork of.
fn not_forked(broker: &Broker, handle: &SessionHandle, template: &Arc<Template>, why: &NoFork) {
    tracing::warn!(session_id = %handle.id, template = %template.id, why = why.why(), "not forked; started instead");
    handle.log.note(&format!(
        "not forked from a template, started instead: {}",
        why.why()
    ));
    broker.metrics.fork_failed(&handle.version.name);
    let now = broker.clock.now();
    broker
        .templates
        .fork_failed(&handle.version, template, why, now);
    handle.rise();
}

/// What a shim is told, and what its agent is of.
async fn files(
    broker: &Broker,
    handle: &SessionHandle,
    token: &str,
    origin: shim::Origin,
) -> Result<(OwnedFd, OwnedFd), LaunchFailure> {
    let boot = boot(broker, handle, token, origin);
    let boot = serde_json::to_vec(&boot).map_err(|error| error.to_string())?;
    // It may take its time, see there.
    let boot = tokio::task::spawn_blocking(move || memfd::sealed(&boot)).await;
    let boot = boot.map_err(io::Error::from).flatten();
    let boot = boot.map_err(|error| of_error("memory file for the shim: ", &error))?;
    let tree = broker.artifacts.tree_dir(&handle.version.artifact).await;
    Ok((boot, tree.map_err(|error| of_error("", &error))?))
}

fn limits(spec: &RuntimeSpec, lineage: &Lineage) -> Limits {
    Limits {
        memory_bytes: spec.limits.memory.0.saturating_add(lineage.left_by_forks()),
        cpu_millis: spec.limits.cpus.0,
        pids: spec.limits.pids,
        cpu_weight: spec.limits.cpu_weight,
        tmp_bytes: spec.limits.tmp_size.0,
        nofile: spec.limits.open_files,
    }
}

/// Times of the parts of a start, one after the other.
struct Stages<'a> {
    metrics: Option<&'a Metrics>,
    began: Instant,
}

impl<'a> Stages<'a> {
    fn begin(metrics: Option<&'a Metrics>) -> Self {
        let began = Instant::now();
        Self { metrics, began }
    }

    fn over(&mut self, stage: Stage) {
        if let Some(metrics) = self.metrics {
            metrics.stage(stage, self.began.elapsed());
        }
        self.began = Instant::now();
    }
}

/// Makes a session that waited in a pool its caller's, in the store and at its shim; nothing of it is used before both have
/// agreed. `waited`: how old it is, and what it used.
pub(super) async fn bind(
    broker: &Arc<Broker>,
    handle: &SessionHandle,
    link: &Link,
    (age, meter): (Duration, SavedMeter),
) -> Result<(), LaunchFailure> {
    let claimed = broker.store.claim_session(ClaimedSession {
        id: handle.id.clone(),
        client_id: handle.key.client.clone(),
        runtime: handle.version.name.clone(),
        endpoint: handle.key.endpoint.clone(),
        owner: handle.key.owner.clone(),
        at: handle.created_at.into(),
        waited: age,
        meter,
    });
    let (claimed, agreed) = tokio::join!(
        claimed,
        link.claim(handle.version.spec.timeouts.max_lifetime)
    );
    claimed?;
    agreed.map_err(|error| of_error("the session that waited cannot be used: ", &error))
}

fn boot(broker: &Broker, handle: &SessionHandle, token: &str, origin: shim::Origin) -> Boot {
    let config = broker.config();
    let spec = &handle.version.spec;
    let mut orphan_timeout = config.limits.orphan_timeout;
    let mut max_lifetime = spec.timeouts.max_lifetime;
    if origin == shim::Origin::Template {
        // Of those below it none outlives it: it goes after them, when this daemon or the next one says so.
        orphan_timeout += spec.timeouts.stop_grace + LATER;
        max_lifetime = LONG;
    }
    let egress = matches!(spec.network, NetworkPolicy::Outbound { .. });
    let mut agent = spec.agent.clone();
    if egress {
        let direct = direct(&config.network.allow_private);
        for name in ["NO_PROXY", "no_proxy"] {
            agent.env.insert(name.to_owned(), direct.clone());
        }
    }
    if let (shim::Origin::Template, Forking::From(argv)) = (origin, &spec.fork) {
        agent.argv.clone_from(argv);
    }
    Boot {
        generation: GENERATION,
        session: handle.id.clone(),
        token: token.to_owned(),
        epoch: broker.epoch,
        agent,
        wire: spec.wire.clone(),
        limits: ShimLimits {
            ping_interval_ms: millis(config.ping.interval),
            ping_timeout_ms: millis(config.ping.timeout),
            stop_grace_ms: millis(spec.timeouts.stop_grace),
            max_lifetime_ms: millis(max_lifetime),
            orphan_timeout_ms: millis(orphan_timeout),
            log_bytes_per_s: config.limits.log_rate.0,
            log_burst_bytes: config.limits.log_burst.0,
            // Behind the broker's own bound, with room for what the broker has given up and the shim still ends.
            max_invocations: 2 * config.limits.max_invocations_per_session,
            max_egress_backlog: config.network.max_connections,
        },
        egress,
        origin,
    }
}

/// What an agent's HTTP clients reach without the proxy: the session's own loopback. A name of it that the operator has
/// opened ([network] allow_private) means the host's, which only the proxy reaches.
fn direct(opened: &AllowList) -> String {
    ["localhost", "127.0.0.1", "::1"]
        .into_iter()
        .filter(|host| !opened.names_host(host))
        .collect::<Vec<_>>()
        .join(",")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// 256 random bits in hex: who shows it may attach.
fn token() -> String {
    format!(
        "{}{}",
        uuid::Uuid::new_v4().simple(),
        uuid::Uuid::new_v4().simple()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_name_that_the_operator_opened_goes_through_the_proxy() {
        let opened = |entries: &[&str]| AllowList::parse(entries.iter().copied()).expect("list");
        assert_eq!(direct(&opened(&[])), "localhost,127.0.0.1,::1");
        assert_eq!(
            direct(&opened(&["127.0.0.1:8999", "models.lan:443"])),
            "localhost,::1"
        );
        assert_eq!(direct(&opened(&["localhost:1", "[::1]:1"])), "127.0.0.1");
    }
}
