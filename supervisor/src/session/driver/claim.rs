//! A pool's member on its way to a caller: its driver hands over what it drives, and another driver binds that to the caller.
//!
//! ```text
//! waits (Ready, spotless) ──HandOver──▶ [`Claimed`], a value ──spawn──▶ bound: row changed, shim has agreed ──▶ Ready
//!                                            └─dropped──▶ waits again
//! ```
//!
//! What was handed over is at every moment in exactly one hand: a driver's, or a [`Claimed`]'s. Nobody can use it between the two.

use super::super::handle::Limited;
use super::super::log::SessionLog;
use super::super::origin::Path;
use super::{Completion, Completions, Driver, completions};
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger::Account;
use crate::ledger::record::SavedMeter;
use crate::relay::link::{Link, ShimEvent};
use crate::session::boot;
use crate::templates::Lease;
use proto::api::Phase;
use proto::ids::SessionId;
use session_core::lifecycle::{Event, Health};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a driver drives, without whose it is.
#[derive(Debug)]
pub(super) struct HandedOver {
    pub(super) id: SessionId,
    pub(super) version: Arc<RuntimeVersion>,
    pub(super) uid_base: u32,
    pub(super) pid: Option<i32>,
    pub(super) log: Arc<SessionLog>,
    /// Of its waiting.
    pub(super) account: Arc<Account>,
    /// When it was launched.
    pub(super) since: Instant,
    pub(super) link: Arc<Link>,
    pub(super) events: mpsc::Receiver<ShimEvent>,
    pub(super) completions: Completions,
    /// Of the template that its agent is a fork of.
    pub(super) lease: Option<Lease>,
}

/// A pool's member that is nobody else's. Dropped, it waits again.
#[derive(Debug)]
pub struct Claimed {
    broker: Arc<Broker>,
    handed: Option<Box<HandedOver>>,
}

impl Claimed {
    /// For its new driver.
    pub(super) fn take(mut self) -> Option<Box<HandedOver>> {
        self.handed.take()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Without a runtime the daemon is over, and the next one ends what is nobody's.
        if let Some(handed) = self.handed.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            let version = Arc::clone(&handed.version);
            let handle = super::begin::wait_again(&self.broker, *handed);
            self.broker.pool.take_back(&self.broker, &version, handle);
        }
    }
}

/// What a new driver binds to its caller.
#[derive(Debug)]
pub struct Unbound {
    pub(super) link: Arc<Link>,
    pub(super) events: mpsc::Receiver<ShimEvent>,
    /// When it was launched.
    pub(super) since: Instant,
    /// What it used while it waited; absent if it goes on waiting.
    pub(super) waited: Option<SavedMeter>,
}

impl Driver {
    /// Hands everything over, if the session has waited for this and nobody was ever there.
    pub(super) fn hand_over(&mut self) -> Option<Claimed> {
        let handle = &self.handle;
        let spotless = handle.path == Path::Waiting
            && !self.touched
            && self.session.phase() == Phase::Ready
            && handle.limited() == Limited::of(&handle.version.spec.limits);
        if !spotless || self.over || self.events.is_none() {
            return None;
        }
        let uid_base = *handle.uid_base.get()?;
        let link = self.link.take()?;
        let handed = HandedOver {
            id: handle.id.clone(),
            version: Arc::clone(&handle.version),
            uid_base,
            pid: self.view.borrow().pid,
            log: Arc::clone(&handle.log),
            account: Arc::clone(&handle.account),
            since: handle.since,
            link,
            events: self.events.take()?,
            completions: std::mem::replace(&mut self.completions, completions()),
            lease: handle.take_lease(),
        };
        self.over = true;
        self.handed_over = true;
        Some(Claimed {
            broker: Arc::clone(&self.broker),
            handed: Some(Box::new(handed)),
        })
    }

    /// Takes over what was handed over. Its shim is heard again once it is bound: nothing may make it ready before.
    pub(super) fn bind(&mut self, unbound: Unbound) {
        self.link = Some(Arc::clone(&unbound.link));
        self.step(Event::Attached);
        let Some(meter) = unbound.waited else {
            self.events = Some(unbound.events);
            return self.step(Event::Health(Health::Healthy));
        };
        self.unheard = Some(unbound.events);
        let broker = Arc::clone(&self.broker);
        let handle = Arc::clone(&self.handle);
        let done = self.completions.0.clone();
        tokio::spawn(async move {
            let waited = unbound.since.elapsed();
            let bound = boot::bind(&broker, &handle, &unbound.link, (waited, meter)).await;
            let _ = done.send(Completion::Bound(Box::new(bound))).await;
        });
    }
}
