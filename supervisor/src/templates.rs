//! Templates: sessions that serve nobody, have loaded a version's agent once, and make the agents of new sessions by forking.
//!
//! ```text
//!  a session is wanted ─▶ stand of its version ──Ready──▶ lease ─▶ a fork (session/fork.rs) ─▶ the session holds the lease to its end
//!  (a pool's member too)     │
//!                            │ nothing there: started behind the session, which is made without
//!  keeper ───────────────────┴─▶ start ▸ look after ▸ take down: unused, old, grown, lost, not served, memory is short
//!                                                          └─▶ leaves: ends when its last lease is given back
//! ```
//!
//! The pid namespaces of forked sessions are below their template's, and end with its PID 1. So a template is never ended, frozen
//! or told anything that ends it while a **lease** of it lives: whoever asks for that only makes it leave. It can still be killed, or die;
//! then its sessions end with it.
//!
//! A daemon forks only from templates of its own making. Those that it finds ([`Templates::find`]) it keeps for the sessions below
//! them, and ends them after those. docs/design.md, "Templates", has what can fail.
//!
//! Not for: the fork itself (`session/fork.rs`), and what a template must be to be forked (the bootstrap, and the launcher's look).

mod stand;
mod template;

pub(crate) use stand::Outlook;
pub use template::{Lease, Template};

use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger;
use crate::session::driver;
use crate::session::handle::{End, SessionHandle};
use proto::api::{self, EndReason};
use proto::ids::{RuntimeId, SessionId, VersionNumber};
use session_core::moment::Moment;
use session_core::spec::Forking;
use stand::{Ages, Running, Stand};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks while there is a stand.
const PAUSE: Duration = Duration::from_secs(1);

/// Templates that start at once, but for those that take long.
const AT_ONCE: usize = 1;

/// How long the start of a template waits for sessions that start: it is made behind the caller's.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a daemon that stops waits for its templates to end.
const GOODBYE: Duration = Duration::from_secs(5);

type Key = (RuntimeId, VersionNumber);

/// See the module.
#[derive(Debug, Default)]
pub struct Templates {
    stands: Mutex<Stands>,
    /// Rung when something may have to be done.
    ring: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Stands {
    of: HashMap<Key, Stand>,
    /// Those that nothing is forked from any more.
    leaving: Vec<Running>,
    /// Those of an earlier daemon, by name, from when a session below them is found.
    found: HashMap<SessionId, Arc<Template>>,
    /// The daemon stops.
    closed: bool,
}

/// Why a session was not forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoFork {
    /// The fork was not what it must be: no more of this version.
    Unfit(String),
    /// It did not come to pass; another template may do better.
    Failed(String),
}

impl NoFork {
    /// In words.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Unfit(why) | Self::Failed(why) => why,
        }
    }
}

#[derive(Debug, Default)]
struct Plan {
    start: Option<Arc<RuntimeVersion>>,
    stop: Vec<Arc<SessionHandle>>,
    /// Whether there is anything to look after.
    stands: bool,
}

impl Templates {
    /// A new session of this version was wanted then, by somebody: a template is worth having.
    pub fn wanted(&self, version: &Arc<RuntimeVersion>, at: Moment) {
        if !matches!(version.spec.fork, Forking::From(_)) {
            return;
        }
        let mut stands = self.stands();
        if stands.closed {
            return;
        }
        let key = (version.runtime.clone(), version.number);
        let stand = stands.of.entry(key);
        stand.or_insert_with(|| Stand::new(version)).want(at);
        self.ring.notify_one();
    }

    /// For a new session: what it may be forked from now.
    pub fn lease(&self, version: &RuntimeVersion) -> Option<Lease> {
        self.known(version, |stand| stand.ready_one().map(Template::lease))
            .flatten()
    }

    /// What a new session of this version would be made from, now and soon.
    pub(crate) fn outlook(&self, version: &RuntimeVersion, now: Moment) -> Outlook {
        let outlook = self.known(version, |stand| stand.outlook(now));
        outlook.unwrap_or(Outlook::Cold)
    }

    /// A session of this version has come of a fork.
    pub fn forked(&self, version: &RuntimeVersion) {
        self.known(version, Stand::forked);
    }

    /// A session was to come of a fork of this one, and did not.
    pub fn fork_failed(
        &self,
        version: &RuntimeVersion,
        template: &Arc<Template>,
        why: &NoFork,
        now: Moment,
    ) {
        let unfit = matches!(why, NoFork::Unfit(_));
        let lost = self.known(version, |stand| {
            stand.fork_failed();
            stand.lost(template, Some(why.why()), unfit, now)
        });
        self.leave(lost.flatten());
    }

    /// A template of an earlier daemon, for a session that was found below it.
    pub fn find(&self, id: &SessionId) -> Lease {
        let mut stands = self.stands();
        let found = stands.found.entry(id.clone());
        found
            .or_insert_with(|| Template::new(id.clone(), Arc::clone(&self.ring)))
            .lease()
    }

    /// The same, to adopt it: `None` if nothing is below it.
    #[must_use]
    pub fn found(&self, id: &SessionId) -> Option<Arc<Template>> {
        self.stands().found.get(id).cloned()
    }

    /// It is adopted, and ends after those below it.
    pub fn adopted(&self, template: &Arc<Template>, handle: &Arc<SessionHandle>, now: Moment) {
        let running = Running::new(Arc::clone(template), Arc::clone(handle), now);
        self.leave(Some(running));
    }

    /// Something has changed that the keeper should look at.
    pub fn ring(&self) {
        self.ring.notify_one();
    }

    /// What there is of a runtime; `None` where nothing is to be forked. `serves`: the version that its callers get.
    #[must_use]
    pub fn state(
        &self,
        runtime: &RuntimeId,
        serves: Option<&RuntimeVersion>,
    ) -> Option<api::Template> {
        match &serves?.spec.fork {
            Forking::Off => None,
            Forking::Unfit(why) => Some(api::Template {
                reason: Some((*why).to_owned()),
                ..api::Template::default()
            }),
            Forking::From(_) => {
                let stands = self.stands();
                let of = stands.of.iter().filter(|((of, _), _)| of == runtime);
                let sum = of.map(|(_, stand)| stand.state()).reduce(sum);
                Some(sum.unwrap_or_default())
            }
        }
    }

    /// The same of all versions, for figures.
    #[must_use]
    pub fn states(&self) -> Vec<(Arc<RuntimeVersion>, api::Template)> {
        let stands = self.stands();
        let all = stands.of.values();
        all.map(|stand| (Arc::clone(&stand.version), stand.state()))
            .collect()
    }

    /// How many there are that nobody is below.
    #[must_use]
    pub fn spare(&self) -> u32 {
        let stands = self.stands();
        let spare = stands.of.values().map(Stand::spare).sum::<usize>();
        u32::try_from(spare).unwrap_or(u32::MAX)
    }

    /// Ends templates that nobody is below and that hold so many bytes together, or all.
    pub async fn give_way(&self, bytes: u64) -> Vec<Arc<SessionHandle>> {
        let given = {
            let mut stands = self.stands();
            let mut order: Vec<&mut Stand> = stands.of.values_mut().collect();
            order.sort_by_key(|stand| stand.last_wanted());
            let mut so_far = 0_u64;
            let mut given = Vec::new();
            for stand in order {
                if so_far < bytes
                    && let Some(running) = stand.give()
                {
                    so_far = so_far.saturating_add(running.handle.weight().committed);
                    given.push(running.handle);
                }
            }
            given
        };
        for handle in &given {
            handle.stop(EndReason::Evicted).await;
        }
        given
    }

    /// Forgets a runtime's. What was there leaves, and is given for waiting for it.
    pub fn retire(&self, runtime: &RuntimeId) -> Vec<Arc<SessionHandle>> {
        let mut stands = self.stands();
        let keys: Vec<Key> = stands
            .of
            .keys()
            .filter(|(of, _)| of == runtime)
            .cloned()
            .collect();
        for key in keys {
            let stand = stands.of.remove(&key);
            let running = stand.into_iter().flat_map(Stand::into_running);
            stands.leaving.extend(running);
        }
        let of = stands.leaving.iter();
        let handles = of
            .filter(|running| running.handle.key.runtime == *runtime)
            .map(|running| Arc::clone(&running.handle))
            .collect();
        self.ring.notify_one();
        handles
    }

    /// The daemon stops: ends those that nobody is below. The others are the next daemon's to keep.
    pub async fn close(&self) {
        let spare: Vec<Running> = {
            let mut stands = self.stands();
            stands.closed = true;
            let stands = &mut *stands;
            let all = stands
                .of
                .drain()
                .flat_map(|(_, stand)| stand.into_running());
            let all = all.chain(stands.leaving.drain(..));
            all.filter(|running| running.template.leases() == 0)
                .collect()
        };
        for running in &spare {
            running.handle.stop(EndReason::DaemonStopped).await;
        }
        let over = async {
            for running in &spare {
                running.handle.over().await;
            }
        };
        if tokio::time::timeout(GOODBYE, over).await.is_err() {
            tracing::warn!("templates are still ending; the next daemon ends them");
        }
    }

    /// What is to be done now.
    fn plan(&self, broker: &Broker, now: Moment) -> Plan {
        let bounds = broker.config().template;
        let served = broker.catalogue.served();
        let ages = Ages {
            now,
            unused_after: bounds.unused_after,
            max_age: bounds.max_age,
        };
        let mut stands = self.stands();
        let Stands {
            of,
            leaving,
            closed,
            ..
        } = &mut *stands;
        if *closed {
            return Plan::default();
        }
        for (key, stand) in of.iter_mut() {
            leaving.extend(stand.retire(&ages, served.contains_key(key)));
        }
        of.retain(|key, stand| !stand.is_over(&ages, served.contains_key(key)));
        leaving.retain(|running| running.handle.drives());
        let gone = |running: &&Running| running.template.leases() == 0;
        let stop = leaving.iter().filter(gone);
        let stop = stop.map(|running| Arc::clone(&running.handle)).collect();
        let living = of.values().map(Stand::count).sum::<usize>() + leaving.len();
        let room = living < usize::try_from(bounds.total).unwrap_or(usize::MAX);
        let starting = of.values().filter(|stand| stand.starts(ages.now)).count();
        let wants = of
            .values()
            .find(|stand| stand.wants_one(&ages))
            .filter(|_| room && starting < AT_ONCE);
        Plan {
            start: wants.map(|stand| Arc::clone(&stand.version)),
            stop,
            stands: !of.is_empty() || !leaving.is_empty(),
        }
    }

    fn leave(&self, running: Option<Running>) {
        self.stands().leaving.extend(running);
        self.ring.notify_one();
    }

    /// On a version's stand, if it is there.
    fn known<T>(&self, version: &RuntimeVersion, act: impl FnOnce(&mut Stand) -> T) -> Option<T> {
        let mut stands = self.stands();
        let stand = stands
            .of
            .get_mut(&(version.runtime.clone(), version.number));
        stand.map(act)
    }

    fn stands(&self) -> MutexGuard<'_, Stands> {
        // Nothing panics while it is held.
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of several versions of a runtime.
fn sum(one: api::Template, other: api::Template) -> api::Template {
    let state = match (one.state, other.state) {
        (api::TemplateState::None, state) | (state, api::TemplateState::None) => state,
        (api::TemplateState::Ready, _) | (_, api::TemplateState::Ready) => {
            api::TemplateState::Ready
        }
        (api::TemplateState::Starting, api::TemplateState::Starting) => {
            api::TemplateState::Starting
        }
    };
    api::Template {
        state,
        reason: one.reason.or(other.reason),
        forks: one.forks + other.forks,
        failed: one.failed + other.failed,
    }
}

/// Keeps all templates as they are to be, for as long as the daemon takes new sessions.
pub async fn keep(broker: Arc<Broker>) {
    let mut stands = true;
    loop {
        tokio::select! {
            () = broker.templates.ring.notified() => {}
            () = tokio::time::sleep(PAUSE), if stands => {}
            () = broker.stopping() => return,
        }
        let plan = broker.templates.plan(&broker, broker.clock.now());
        stands = plan.stands;
        for handle in plan.stop {
            handle.stop(EndReason::Idle).await;
        }
        let Some(version) = plan.start else {
            continue;
        };
        // A caller's session comes first, and the disk must have room for what is to end again.
        broker.slots.quiet(PATIENCE).await;
        let memory = version.spec.limits.memory;
        if broker.store.room().is_ok()
            && !broker.draining()
            && broker.admission.has_room_for_member(&broker, memory)
        {
            start(&broker, version);
        }
    }
}

fn start(broker: &Arc<Broker>, version: Arc<RuntimeVersion>) {
    let templates = &broker.templates;
    let template = Template::new(crate::slots::fresh_name(), Arc::clone(&templates.ring));
    let handle = driver::load(broker, Arc::clone(&template), Arc::clone(&version));
    let now = broker.clock.now();
    let running = Running::new(Arc::clone(&template), Arc::clone(&handle), now);
    if templates
        .known(&version, |stand| stand.begin(running.clone()))
        .is_none()
    {
        // Its version was deleted in this moment.
        templates.leave(Some(running));
    }
    tokio::spawn(look_after(Arc::clone(broker), version, template, handle));
}

/// Goes with a template from its start to where nothing is forked from it any more.
async fn look_after(
    broker: Arc<Broker>,
    version: Arc<RuntimeVersion>,
    template: Arc<Template>,
    handle: Arc<SessionHandle>,
) {
    let templates = &broker.templates;
    let was_ready = handle.settled().await;
    if was_ready {
        ledger::read_one(&broker, &handle.account).await;
        let now = broker.clock.now();
        let before = templates.known(&version, |stand| stand.ready(&template, now));
        templates.leave(before.flatten());
        // Its members are forked from it from now on.
        broker.pool.ring();
    }
    let why = tokio::select! {
        // What it says comes before it ends.
        biased;
        () = template.refuses() => template.refusal(),
        end = handle.ending() => end.filter(End::by_itself).map(|end| end.detail),
    };
    // One whose time was over is ended, and that it ends is no word about its program.
    let late = handle.view().end;
    let late = late.filter(|end| end.reason == EndReason::StartTimeout);
    let unfit = !was_ready && late.is_none() && template.refusal().is_some();
    let why = late.map(|end| end.detail).or(why);
    let now = broker.clock.now();
    let lost = templates.known(&version, |stand| {
        stand.lost(&template, why.as_deref(), unfit, now)
    });
    templates.leave(lost.flatten());
    broker.pool.ring();
}
