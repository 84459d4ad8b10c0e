//! What is known of one version's template: the one that new sessions are forked from, if it is there, and what is in the way.
//!
//! ```text
//!  Nothing ──wanted──▶ Starting ──ready──▶ Ready ──unused │ old │ grown │ lost │ not served──▶ (leaves; see [`super`])
//!     ▲                   └─refused: unfit, for good; else: failing, tried again later
//!     └───────────────────────────────────────────────────┴──nearly full──▶ ripe (leaves when the next is ready, or full)
//! ```
//!
//! One that is **ripe** is forked on until the next one is ready, so a crowd that fills one template finds another.

use super::template::Template;
use crate::catalogue::RuntimeVersion;
use crate::failing::Failing;
use crate::session::handle::SessionHandle;
use proto::api::{self, TemplateState};
use sandbox::share::LEFT_BY_A_FORK;
use session_core::moment::Moment;
use std::sync::Arc;
use std::time::Duration;

/// A template may come to hold so many times what it held when it was ready, and this much: more is a leak.
const GROWTH: u64 = 2;
const SLACK: u64 = 64 << 20;

/// What waits for a template to be made, rather than being made without one, waits so long at most. So do other templates.
const SOON: Duration = Duration::from_secs(10);

/// One that was there for so long did not fail at its start.
const WELL: Duration = Duration::from_secs(60);

/// A template and its session.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) template: Arc<Template>,
    pub(super) handle: Arc<SessionHandle>,
    since: Moment,
    /// Bytes, when it was ready and first read after that.
    held: Option<u64>,
}

impl Running {
    pub(super) fn new(template: Arc<Template>, handle: Arc<SessionHandle>, since: Moment) -> Self {
        Self {
            template,
            handle,
            since,
            held: None,
        }
    }

    /// Whether nothing is to be forked from it any more.
    fn is_done(&mut self) -> bool {
        self.template.leaves() || self.template.is_full() || self.has_grown()
    }

    /// Whether it holds far more than it did at first, and than those below it have left there.
    fn has_grown(&mut self) -> bool {
        let now = self.handle.account.memory_bytes();
        match self.held {
            Some(held) => {
                let left = LEFT_BY_A_FORK * u64::from(self.template.leases());
                now > GROWTH * held + SLACK + left
            }
            None => {
                self.held = (now > 0).then_some(now);
                false
            }
        }
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    Starting(Running),
    Ready(Running),
}

impl State {
    fn running(&self) -> Option<&Running> {
        match self {
            Self::Starting(running) | Self::Ready(running) => Some(running),
            Self::Nothing => None,
        }
    }

    fn into_running(self) -> Option<Running> {
        match self {
            Self::Starting(running) | Self::Ready(running) => Some(running),
            Self::Nothing => None,
        }
    }
}

/// What a new session would be made from.
#[derive(Debug, Clone)]
pub(crate) enum Outlook {
    /// Nothing: it is started.
    Cold,
    /// The same; but there is a template before long, if nothing goes wrong.
    Soon,
    /// This.
    Fork(Arc<Template>),
}

/// When templates go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    pub(super) now: Moment,
    pub(super) unused_after: Duration,
    pub(super) max_age: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) version: Arc<RuntimeVersion>,
    state: State,
    /// Nearly full: `state` is that of the next one.
    ripe: Option<Running>,
    /// When a session was last wanted.
    wanted: Option<Moment>,
    /// When one was first wanted of those that no template was begun for.
    sought: Option<Moment>,
    /// This version cannot be forked: why.
    unfit: Option<String>,
    failing: Option<Failing>,
    forks: u64,
    failed: u64,
}

impl Stand {
    pub(super) fn new(version: &Arc<RuntimeVersion>) -> Self {
        Self {
            version: Arc::clone(version),
            state: State::Nothing,
            ripe: None,
            wanted: None,
            sought: None,
            unfit: None,
            failing: None,
            forks: 0,
            failed: 0,
        }
    }

    /// A session was wanted.
    pub(super) fn want(&mut self, at: Moment) {
        self.wanted = self.wanted.max(Some(at));
        if matches!(self.state, State::Nothing) {
            self.sought.get_or_insert(at);
        }
    }

    /// What a session may be forked from.
    pub(super) fn ready_one(&self) -> Option<&Arc<Template>> {
        let ready = match &self.state {
            State::Ready(running) => Some(running),
            State::Starting(_) | State::Nothing => None,
        };
        let template = &ready.or(self.ripe.as_ref())?.template;
        let may = template.link().is_some() && !template.leaves() && !template.is_full();
        may.then_some(template)
    }

    /// The same, and whether it is worth waiting for.
    pub(super) fn outlook(&self, now: Moment) -> Outlook {
        if let Some(template) = self.ready_one() {
            return Outlook::Fork(Arc::clone(template));
        }
        let may = self.unfit.is_none() && Failing::tries(self.failing.as_ref(), now);
        // One is begun when there is a place for it, which may be never.
        let awaited = match &self.state {
            State::Starting(running) => Some(running.since),
            State::Nothing => self.sought.filter(|_| may),
            State::Ready(_) => None,
        };
        match awaited {
            Some(since) if now - since < SOON => Outlook::Soon,
            Some(_) | None => Outlook::Cold,
        }
    }

    /// Whether one is to be started now.
    pub(super) fn wants_one(&self, ages: &Ages) -> bool {
        let wanted = self
            .wanted
            .is_some_and(|wanted| ages.now - wanted < ages.unused_after);
        let may = self.unfit.is_none() && Failing::tries(self.failing.as_ref(), ages.now);
        matches!(self.state, State::Nothing) && wanted && may
    }

    pub(super) fn begin(&mut self, running: Running) {
        self.state = State::Starting(running);
        self.sought = None;
    }

    /// It can be forked: gives the one that it was made to follow.
    pub(super) fn ready(&mut self, template: &Arc<Template>, now: Moment) -> Option<Running> {
        let State::Starting(running) = &mut self.state else {
            return None;
        };
        if !Arc::ptr_eq(&running.template, template) {
            return None;
        }
        let mut running = Running {
            since: now,
            ..running.clone()
        };
        // It was just read: what it holds now is what it is to hold.
        running.has_grown();
        self.state = State::Ready(running);
        self.ripe.take()
    }

    /// It cannot be forked, or not any more. Of what happened before it was ready `unfit` says that it always will.
    pub(super) fn lost(
        &mut self,
        template: &Arc<Template>,
        why: Option<&str>,
        unfit: bool,
        now: Moment,
    ) -> Option<Running> {
        let running = self.take(template)?;
        let Some(why) = why else {
            return Some(running);
        };
        let runtime = &self.version.name;
        if unfit {
            tracing::warn!(%runtime, version = %self.version.number, why, "sessions of this version are not forked");
            self.unfit = Some(why.to_owned());
            return Some(running);
        }
        if now - running.since >= WELL {
            self.failing = None;
        }
        if Failing::note(&mut self.failing, why, now) {
            tracing::warn!(%runtime, version = %self.version.number, why, "a template is replaced");
        }
        Some(running)
    }

    /// A session has come of a fork.
    pub(super) fn forked(&mut self) {
        self.forks += 1;
        self.failing = None;
    }

    /// One was to.
    pub(super) fn fork_failed(&mut self) {
        self.failed += 1;
    }

    /// Takes down what is to go.
    pub(super) fn retire(&mut self, ages: &Ages, served: bool) -> Vec<Running> {
        if self.ripe.is_none()
            && let State::Ready(running) = &self.state
            && running.template.is_nearly_full()
        {
            self.ripe = std::mem::take(&mut self.state).into_running();
        }
        let wanted = self.wanted;
        let unused = |one: &Running| {
            let wanted = wanted.unwrap_or(one.since).max(one.since);
            one.template.leases() == 0 && ages.now - wanted >= ages.unused_after
        };
        let goes = |one: &mut Running| {
            let old = ages.now - one.since >= ages.max_age;
            unused(one) || old || !served || one.is_done()
        };
        let ready = match &mut self.state {
            State::Ready(running) => goes(running),
            // What it holds is looked at when it is ready.
            State::Starting(running) => !served || unused(running),
            State::Nothing => false,
        };
        let ripe = self.ripe.as_mut().is_some_and(goes);
        let ready = ready.then(|| std::mem::take(&mut self.state).into_running());
        let ripe = ripe.then(|| self.ripe.take());
        [ready, ripe].into_iter().flatten().flatten().collect()
    }

    /// One that nobody is below, for others who need its memory.
    pub(super) fn give(&mut self) -> Option<Running> {
        let spare = self.all().find(|one| one.template.leases() == 0)?;
        let template = Arc::clone(&spare.template);
        // Nor is it made again at once.
        self.wanted = None;
        self.take(&template)
    }

    /// How many are there that nobody is below.
    pub(super) fn spare(&self) -> usize {
        let spare = self.all().filter(|one| one.template.leases() == 0);
        spare.count()
    }

    pub(super) fn last_wanted(&self) -> Option<Moment> {
        self.wanted
    }

    fn take(&mut self, template: &Arc<Template>) -> Option<Running> {
        let it = |one: &Running| Arc::ptr_eq(&one.template, template);
        if self.ripe.as_ref().is_some_and(it) {
            return self.ripe.take();
        }
        let here = self.state.running().is_some_and(it);
        here.then(|| std::mem::take(&mut self.state).into_running())?
    }

    /// What is there, for ending it.
    pub(super) fn into_running(self) -> impl Iterator<Item = Running> {
        self.state.into_running().into_iter().chain(self.ripe)
    }

    fn all(&self) -> impl Iterator<Item = &Running> {
        self.state.running().into_iter().chain(&self.ripe)
    }

    /// How many are there, or start.
    pub(super) fn count(&self) -> usize {
        self.all().count()
    }

    /// Whether one starts that those of other versions wait for: not for one that hangs.
    pub(super) fn starts(&self, now: Moment) -> bool {
        matches!(&self.state, State::Starting(running) if now - running.since < SOON)
    }

    /// Nothing is there, and nothing is worth knowing.
    pub(super) fn is_over(&self, ages: &Ages, served: bool) -> bool {
        let unused = self
            .wanted
            .is_none_or(|wanted| ages.now - wanted >= ages.unused_after);
        self.count() == 0 && (!served || unused && self.unfit.is_none())
    }

    /// For people.
    pub(super) fn state(&self) -> api::Template {
        let failing = self
            .failing
            .as_ref()
            .map(|failing| failing.why().to_owned());
        api::Template {
            state: match (&self.state, &self.ripe) {
                (State::Ready(_), _) | (_, Some(_)) => TemplateState::Ready,
                (State::Starting(_), None) => TemplateState::Starting,
                (State::Nothing, None) => TemplateState::None,
            },
            reason: self.unfit.clone().or(failing),
            forks: self.forks,
            failed: self.failed,
        }
    }
}
