//! Deployed runtimes, in memory: what an invocation looks up. The store has the truth; this is what each endpoint leads to,
//! put here after the store has it.

use proto::config::{Protocol, RuntimeConfig};
use proto::ids::{ArtifactId, EndpointName, RuntimeId, RuntimeName, VersionNumber};
use session_core::lifecycle::Policy;
use session_core::spec::RuntimeSpec;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// From TERM to KILL of a session that nobody has used.
const WAITING_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// One immutable version, compiled for this host.
#[derive(Debug)]
pub struct RuntimeVersion {
    /// Its runtime.
    pub runtime: RuntimeId,
    /// The runtime's name.
    pub name: RuntimeName,
    /// Its number.
    pub number: VersionNumber,
    /// As it was typed.
    pub config: RuntimeConfig,
    /// Its code.
    pub artifact: ArtifactId,
    /// What sessions are made of.
    pub spec: RuntimeSpec,
}

impl RuntimeVersion {
    /// Durations for the state machine.
    #[must_use]
    pub fn lifecycle_policy(&self, config: &crate::config::Config) -> Policy {
        let timeouts = &self.spec.timeouts;
        Policy {
            start_timeout: timeouts.start,
            idle_timeout: timeouts.idle,
            max_lifetime: timeouts.max_lifetime,
            stop_grace: timeouts.stop_grace,
            unhealthy_after: config.ping.unhealthy_after,
            freeze_after: timeouts.freeze_after,
        }
    }

    /// The same while it waits in its pool: nobody is idle there, or frozen for it, one that has
    /// grown old is replaced, and it has nothing to save.
    #[must_use]
    pub fn waiting_policy(&self, config: &crate::config::Config) -> Policy {
        let timeouts = &self.spec.timeouts;
        // Its shim counts from its launch until it is claimed.
        let age = config.pool.max_age.min(timeouts.max_lifetime / 2);
        Policy {
            idle_timeout: age,
            max_lifetime: age,
            stop_grace: timeouts.stop_grace.min(WAITING_GRACE),
            freeze_after: None,
            ..self.lifecycle_policy(config)
        }
    }
}

/// A runtime, and what its endpoints lead to.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// Its id.
    pub runtime: RuntimeId,
    /// What its newest version speaks, READY or not.
    pub protocol: Protocol,
    /// DEFAULT's version: the newest that is READY, if there is one and this host can run it.
    pub default: Option<Arc<RuntimeVersion>>,
    /// Versions of named endpoints; `None` is one that this host cannot run now.
    pub endpoints: BTreeMap<EndpointName, Option<Arc<RuntimeVersion>>>,
}

impl Deployed {
    /// What an endpoint leads to: `None` if there is no such endpoint, `Some(None)` if nothing there can take calls.
    #[must_use]
    pub fn endpoint(&self, name: &EndpointName) -> Option<Option<Arc<RuntimeVersion>>> {
        if *name == EndpointName::default_endpoint() {
            return Some(self.default.clone());
        }
        self.endpoints.get(name).cloned()
    }
}

/// What is deployed, by name.
#[derive(Debug, Default)]
pub struct Catalogue(RwLock<BTreeMap<RuntimeName, Deployed>>);

impl Catalogue {
    /// A runtime, by name.
    #[must_use]
    pub fn by_name(&self, name: &RuntimeName) -> Option<Deployed> {
        self.map().get(name).cloned()
    }

    /// By id.
    #[must_use]
    pub fn by_id(&self, id: &RuntimeId) -> Option<Deployed> {
        let name = RuntimeName::parse(id.name()).ok()?;
        self.by_name(&name).filter(|found| found.runtime == *id)
    }

    /// What the DEFAULT endpoints of all runtimes lead to, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<RuntimeVersion>> {
        self.map()
            .values()
            .filter_map(|deployed| deployed.default.clone())
            .collect()
    }

    /// Every version that some endpoint leads to.
    #[must_use]
    pub fn served(&self) -> BTreeMap<(RuntimeId, VersionNumber), Arc<RuntimeVersion>> {
        let map = self.map();
        let named = |deployed: &Deployed| -> Vec<Arc<RuntimeVersion>> {
            let endpoints = deployed.endpoints.values().flatten();
            endpoints.chain(&deployed.default).cloned().collect()
        };
        map.values()
            .flat_map(named)
            .map(|version| ((version.runtime.clone(), version.number), version))
            .collect()
    }

    /// Takes what is deployed now.
    pub fn put(&self, name: RuntimeName, deployed: Deployed) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, deployed);
    }

    /// Forgets a runtime.
    pub fn remove(&self, name: &RuntimeName) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    fn map(&self) -> RwLockReadGuard<'_, BTreeMap<RuntimeName, Deployed>> {
        // Nothing panics while it holds the lock; the map is whole in any case.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
