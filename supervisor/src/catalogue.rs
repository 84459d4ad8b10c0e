//! Deployed runtimes, in memory: what an invocation looks up. The store has the truth; this is its newest versions, put here
//! after the store has them.

use proto::config::RuntimeConfig;
use proto::ids::{ArtifactId, RuntimeId, RuntimeName, VersionNumber};
use session_core::lifecycle::Policy;
use session_core::spec::RuntimeSpec;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

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
        }
    }
}

/// Newest versions by name.
#[derive(Debug, Default)]
pub struct Catalogue(RwLock<BTreeMap<RuntimeName, Arc<RuntimeVersion>>>);

impl Catalogue {
    /// The newest version of a runtime, by name.
    #[must_use]
    pub fn by_name(&self, name: &RuntimeName) -> Option<Arc<RuntimeVersion>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// By id.
    #[must_use]
    pub fn by_id(&self, id: &RuntimeId) -> Option<Arc<RuntimeVersion>> {
        let name = RuntimeName::parse(id.name()).ok()?;
        self.by_name(&name).filter(|version| version.runtime == *id)
    }

    /// All, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<RuntimeVersion>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Takes a new newest version.
    pub fn put(&self, version: Arc<RuntimeVersion>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(version.name.clone(), version);
    }

    /// Forgets a runtime.
    pub fn remove(&self, name: &RuntimeName) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}
