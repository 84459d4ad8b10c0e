//! One version's members, and what is known of its callers.

use crate::catalogue::RuntimeVersion;
use crate::failing::Failing;
use crate::session::handle::{End, SessionHandle};
use crate::templates::{Outlook, Template};
use proto::api::{Phase, PoolState};
use session_core::moment::Moment;
use session_core::pool::{Demand, Pressure, Wish, target};
use std::sync::Arc;
use std::time::Duration;

/// How long a start is believed to take before one is known.
const FIRST_LEAD: Duration = Duration::from_secs(1);

/// One that was there for so long did not fail at its start.
const WELL: Duration = Duration::from_secs(60);

/// What sizes depend on beside the shelf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) now: Moment,
    pub(super) unused_after: Duration,
}

#[derive(Debug)]
struct Member {
    handle: Arc<SessionHandle>,
    /// Its agent has been healthy, and its start is accounted for.
    ready: bool,
}

impl Member {
    /// Whether its agent is a fork of this one.
    fn is_of(&self, template: &Arc<Template>) -> bool {
        let below = self.handle.below();
        below.is_some_and(|of| Arc::ptr_eq(&of, template))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) version: Arc<RuntimeVersion>,
    /// Oldest first.
    members: Vec<Member>,
    demand: Demand,
    /// How long a start takes.
    lead: Option<Duration>,
    /// How many there are to be.
    share: u32,
    /// How starting members went, if it did not go well.
    failing: Option<Failing>,
    hits: u64,
    wanted: u64,
}

impl Shelf {
    pub(super) fn new(version: &Arc<RuntimeVersion>) -> Self {
        Self {
            version: Arc::clone(version),
            members: Vec::new(),
            demand: Demand::default(),
            lead: None,
            share: 0,
            failing: None,
            hits: 0,
            wanted: 0,
        }
    }

    /// A session was wanted.
    pub(super) fn arrived(&mut self, now: Moment) {
        self.wanted += 1;
        let lead = self.lead.unwrap_or(FIRST_LEAD);
        self.demand.arrived(now, lead, self.version.spec.pool.max);
    }

    /// A member for somebody who wants a session.
    pub(super) fn take(&mut self) -> Option<Arc<SessionHandle>> {
        let at = self.members.iter().position(|member| {
            member.ready && member.handle.drives() && member.handle.view().phase == Phase::Ready
        })?;
        Some(self.members.remove(at).handle)
    }

    /// One was claimed: whatever was wrong with starting them is not so any more.
    pub(super) fn hit(&mut self) {
        self.hits += 1;
        self.failing = None;
    }

    /// One that was taken is not wanted after all. It keeps its place, which is the oldest's.
    pub(super) fn put(&mut self, handle: Arc<SessionHandle>) {
        self.members.insert(
            0,
            Member {
                handle,
                ready: true,
            },
        );
    }

    /// One that others need the memory of: the newest, which is the first that does not serve yet, if one does not.
    pub(super) fn give(&mut self) -> Option<Arc<SessionHandle>> {
        self.members.pop().map(|member| member.handle)
    }

    /// This one is to end; whether it is here.
    pub(super) fn take_off(&mut self, handle: &Arc<SessionHandle>) -> bool {
        let before = self.members.len();
        self.members
            .retain(|member| !Arc::ptr_eq(&member.handle, handle));
        self.members.len() < before
    }

    /// How many there are.
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// One starts. The one whose place it takes, if all are taken: the oldest that is not a fork of its template.
    pub(super) fn begin(&mut self, handle: Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let template = handle.below();
        let replaced = template
            .filter(|_| !self.is_short())
            .and_then(|of| self.members.iter().position(|member| !member.is_of(&of)));
        let replaced = replaced.map(|at| self.members.remove(at).handle);
        self.members.push(Member {
            handle,
            ready: false,
        });
        replaced
    }

    /// One is ready, so long after it was begun.
    pub(super) fn ready(&mut self, handle: &Arc<SessionHandle>, took: Duration) {
        if let Some(member) = self.find(handle)
            && !member.ready
        {
            member.ready = true;
            // Half of what it was before: one slow start is no rule.
            self.lead = Some(self.lead.map_or(took, |lead| (lead + took) / 2));
        }
    }

    /// One has ended, or was handed over.
    pub(super) fn gone(&mut self, handle: &Arc<SessionHandle>, end: Option<&End>, now: Moment) {
        self.members
            .retain(|member| !Arc::ptr_eq(&member.handle, handle));
        let Some(end) = end else {
            return;
        };
        if end.by_itself() {
            // It was well for a while: nothing is wrong with starting them.
            if handle.since.elapsed() >= WELL {
                self.failing = None;
            }
            self.failed(&end.detail, now);
        }
    }

    fn failed(&mut self, why: &str, now: Moment) {
        if Failing::note(&mut self.failing, why, now) {
            let runtime = &self.version.name;
            tracing::warn!(%runtime, version = %self.version.number, why, "a session that waited in its pool ended");
        }
    }

    /// When one was last wanted.
    pub(super) fn last_wanted(&self) -> Option<Moment> {
        self.demand.last()
    }

    /// What it asks for.
    pub(super) fn wish(&self, sizes: &Sizes, pressure: Pressure) -> Wish {
        let bounds = self.version.spec.pool;
        Wish {
            min: bounds.min,
            target: target(
                &self.demand,
                sizes.now,
                bounds,
                sizes.unused_after,
                pressure,
            ),
        }
    }

    /// It may have so many; gives those that are too many, the ones that start first.
    pub(super) fn resize(&mut self, share: u32) -> Vec<Arc<SessionHandle>> {
        self.share = share;
        self.members.retain(|member| member.handle.drives());
        let most = usize::try_from(share).unwrap_or(usize::MAX);
        let mut surplus = self.members.len().saturating_sub(most);
        let mut stopped = Vec::new();
        for ready in [false, true] {
            self.members.retain(|member| {
                let goes = surplus > 0 && member.ready == ready;
                if goes {
                    surplus -= 1;
                    stopped.push(Arc::clone(&member.handle));
                }
                !goes
            });
        }
        stopped
    }

    /// Whether one is to be begun now: there are too few, or, one after the other, some that are not what the next one would be
    /// (they are below a template that leaves, or below none, and hold more memory).
    pub(super) fn wants_more(&self, now: Moment, outlook: &Outlook) -> bool {
        let wants = match outlook {
            // It is there sooner than one that is started without, or about as soon.
            Outlook::Soon => false,
            Outlook::Cold => self.is_short(),
            Outlook::Fork(template) => {
                let outdated = || self.members.iter().any(|member| !member.is_of(template));
                self.is_short() || self.share > 0 && self.starting() == 0 && outdated()
            }
        };
        wants && Failing::tries(self.failing.as_ref(), now)
    }

    /// Whether there are too few.
    pub(super) fn is_short(&self) -> bool {
        let most = usize::try_from(self.share).unwrap_or(usize::MAX);
        self.members.len() < most
    }

    /// How many start.
    pub(super) fn starting(&self) -> usize {
        self.members.iter().filter(|member| !member.ready).count()
    }

    /// Nothing waits, and nothing is to be expected.
    pub(super) fn is_over(&self, sizes: &Sizes) -> bool {
        let unused = self
            .demand
            .last()
            .is_none_or(|last| sizes.now - last >= sizes.unused_after);
        self.members.is_empty() && unused && self.version.spec.pool.min == 0
    }

    /// Another version's callers come here now.
    pub(super) fn inherit(&mut self, from: &Self) {
        if self.demand.last() < from.demand.last() {
            self.demand = from.demand.clone();
        }
        self.lead = self.lead.or(from.lead);
    }

    /// What is on it, for ending it.
    pub(super) fn into_members(self) -> impl Iterator<Item = Arc<SessionHandle>> {
        self.members.into_iter().map(|member| member.handle)
    }

    /// For people.
    pub(super) fn state(&self) -> PoolState {
        let starting = self.starting();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        PoolState {
            ready: count(self.members.len() - starting),
            starting: count(starting),
            target: self.share,
            hits: self.hits,
            misses: self.wanted.saturating_sub(self.hits),
            failure: self
                .failing
                .as_ref()
                .map(|failing| failing.why().to_owned()),
        }
    }

    fn find(&mut self, handle: &Arc<SessionHandle>) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| Arc::ptr_eq(&member.handle, handle))
    }
}
