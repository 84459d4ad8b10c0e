//! One template, as its driver, its keeper and its forks share it, and the leases of those who are below it.

use crate::relay::link::Link;
use proto::ids::SessionId;
use proto::shim::TemplateState;
use sandbox::share::SESSIONS;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

/// Forks that are made at once: they take turns in the interpreter anyhow, and its queue of orders is short.
const AT_ONCE: usize = 8;

/// How long a fork is waited for at least and at most, if no other one comes.
///
/// It takes 20 ms where there is nothing else to do, so at least fifty times that: a machine that is busier than this makes
/// the next template slower to load, and so waited for longer.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How long a template that took so long to load is waited for: no longer than a start would take instead.
fn patience(loading: Duration) -> Duration {
    let [least, most] = PATIENCE;
    loading.clamp(least, most)
}

/// See the module.
#[derive(Debug)]
pub struct Template {
    /// Its session.
    pub id: SessionId,
    /// Sessions below it, and those that may be soon.
    leases: AtomicU32,
    /// To its shim, once it can be forked.
    link: OnceLock<Arc<Link>>,
    said: watch::Sender<Option<TemplateState>>,
    begun: Instant,
    /// How long it took to load.
    loading: OnceLock<Duration>,
    /// Told of each fork of it that is there.
    came: watch::Sender<()>,
    leaves: AtomicBool,
    turns: Semaphore,
    /// The keeper's.
    ring: Arc<Notify>,
}

impl Template {
    pub(super) fn new(id: SessionId, ring: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            id,
            leases: AtomicU32::new(0),
            link: OnceLock::new(),
            said: watch::Sender::new(None),
            begun: Instant::now(),
            loading: OnceLock::new(),
            came: watch::Sender::new(()),
            leaves: AtomicBool::new(false),
            turns: Semaphore::new(AT_ONCE),
            ring,
        })
    }

    /// Its shim has said what has become of it.
    pub fn says(&self, state: TemplateState, link: Option<&Arc<Link>>) {
        if let (TemplateState::Ready, Some(link)) = (&state, link) {
            // It says so once for each link, and has one.
            let _ = self.link.set(Arc::clone(link));
            let _ = self.loading.set(self.begun.elapsed());
        }
        self.said.send_replace(Some(state));
    }

    /// Why it cannot be forked, if it has said so.
    pub(super) fn refusal(&self) -> Option<String> {
        match &*self.said.borrow() {
            Some(TemplateState::Refused { reason }) => Some(reason.clone()),
            Some(TemplateState::Ready) | None => None,
        }
    }

    /// Resolves when it cannot be forked (any more).
    pub(super) async fn refuses(&self) {
        let mut said = self.said.subscribe();
        let refused =
            |said: &Option<TemplateState>| matches!(said, Some(TemplateState::Refused { .. }));
        // The sender is in `self`.
        let _ = said.wait_for(refused).await;
    }

    /// To its shim, if it can be forked.
    #[must_use]
    pub fn link(&self) -> Option<Arc<Link>> {
        let ready = matches!(*self.said.borrow(), Some(TemplateState::Ready));
        self.link.get().filter(|_| ready).cloned()
    }

    /// A fork of it is there.
    pub fn came(&self) {
        self.came.send_replace(());
    }

    /// For whoever waits for a fork of it: resolves when none has come for longer than that is worth, and says how long. On a
    /// machine with much to do forks are slow, but they come. Who has not asked yet does not wait again.
    pub async fn hangs(&self) -> Duration {
        let mut came = self.came.subscribe();
        let [_, most] = PATIENCE;
        let patience = self.loading.get().map_or(most, |took| patience(*took));
        // In two halves: a daemon that stood still finds the first one over before it has read what came meanwhile.
        let half = patience / 2;
        while timeout(half, came.changed()).await.is_ok()
            || timeout(half, came.changed()).await.is_ok()
        {}
        self.said.send_replace(Some(TemplateState::Refused {
            reason: "it hangs".to_owned(),
        }));
        patience
    }

    /// A place among those who fork just now.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }

    /// How many sessions are below it, or may be soon.
    #[must_use]
    pub fn leases(&self) -> u32 {
        self.leases.load(Ordering::SeqCst)
    }

    /// So many are below it that another one is to be made.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.leases() >= SESSIONS / 8 * 7
    }

    /// No more sessions may be below it.
    pub(super) fn is_full(&self) -> bool {
        self.leases() >= SESSIONS
    }

    /// It is not to be forked any more, and ends when nobody is below it.
    pub fn leave(&self) {
        self.leaves.store(true, Ordering::SeqCst);
        self.ring.notify_one();
    }

    pub(super) fn leaves(&self) -> bool {
        self.leaves.load(Ordering::SeqCst)
    }

    /// For a session below it.
    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        self.leases.fetch_add(1, Ordering::SeqCst);
        Lease(Arc::clone(self))
    }
}

/// A session is below a template, or may be soon: while this lives that one does not end by anybody's wish.
#[derive(Debug)]
pub struct Lease(Arc<Template>);

impl Lease {
    /// Whose.
    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::SeqCst);
        self.0.ring.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_waited_for_no_longer_than_a_start_takes() {
        let ms = Duration::from_millis;
        assert_eq!(patience(ms(1800)), ms(1800));
        // It may have been made when there was less to do; and imports may take minutes.
        assert_eq!(patience(ms(300)), ms(1000));
        assert_eq!(patience(ms(60_000)), ms(5000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_template_hangs_when_none_of_its_forks_comes() {
        let id = SessionId::parse("stemplate").expect("id");
        let template = Template::new(id, Arc::default());
        template.loading.set(Duration::from_secs(2)).expect("once");
        let begun = Instant::now();
        let hangs = template.hangs();
        tokio::pin!(hangs);
        // Slow, each of them for somebody else.
        for _ in 0..4 {
            let soon = timeout(Duration::from_millis(1900), &mut hangs);
            soon.await.expect_err("one of them comes");
            assert_eq!(template.refusal(), None);
            template.came();
        }
        assert_eq!(hangs.await, Duration::from_secs(2));
        assert_eq!(begun.elapsed(), Duration::from_millis(4 * 1900 + 2000));
        // For those who wait for their turn.
        assert!(template.refusal().is_some());
    }

    #[test]
    fn it_is_forked_only_while_it_says_so_and_counts_who_is_below() {
        let id = SessionId::parse("stemplate").expect("id");
        let template = Template::new(id, Arc::default());
        assert!(template.link().is_none() && template.refusal().is_none());
        let leases = [template.lease(), template.lease()];
        assert_eq!(template.leases(), 2);
        drop(leases);
        assert_eq!(template.leases(), 0);
        template.says(
            TemplateState::Refused {
                reason: "threads".to_owned(),
            },
            None,
        );
        assert_eq!(template.refusal().as_deref(), Some("threads"));
        assert!(template.link().is_none());
    }
}
