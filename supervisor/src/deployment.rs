//! From a version that is asked for to one that takes calls: bundle ▸ entrypoint ▸ language ▸ warm-up ▸ catalogue.
//!
//! `/v1` hands over a bundle that is unpacked, and waits; the AWS wire hands over an object's name, is answered at once and
//! asks again ([`Broker::make`] runs in a task of its own, and is taken up by the next daemon if this one stops).

mod warmup;

use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::{Deployed, RuntimeVersion};
use crate::store::{self, Done, NewVersion, State, StoreError, VersionOf, VersionRecord};
use proto::api::{PutRuntime, Runtime};
use proto::code::ErrorCode;
use proto::config::{Language, RuntimeConfig};
use proto::ids::{ArtifactId, RuntimeId, RuntimeName};
use session_core::spec::{BUNDLE, RuntimeSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to write down that a version was made.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

impl Broker {
    /// Loads what every runtime's endpoints lead to, and goes on making what an earlier daemon was making.
    pub async fn load_catalogue(self: &Arc<Self>) -> Result<(), StoreError> {
        self.refresh_catalogue().await?;
        for record in self.store.unfinished_versions().await? {
            self.make_in_background(record);
        }
        Ok(())
    }

    /// Brings the catalogue up to what the store says of every runtime, and to what this host grants.
    pub async fn refresh_catalogue(&self) -> Result<(), StoreError> {
        let mut token = None;
        loop {
            let request = store::PageRequest::parse(Some(1000), token.as_deref())?;
            let page = self.store.runtimes(request).await?;
            for runtime in page.items {
                self.refresh(&runtime.name).await?;
            }
            token = page.next_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Brings the catalogue up to what the store says of a runtime. A version that this host no longer grants is left out,
    /// with the reason in the log.
    pub async fn refresh(&self, name: &RuntimeName) -> Result<(), StoreError> {
        // One at a time: of two that read the store, the later one must also be the later one to write here.
        let _step = self.catalogue_step.lock().await;
        let Some(served) = self.store.served(name).await? else {
            self.catalogue.remove(name);
            self.pool.ring();
            return Ok(());
        };
        let runtime = served.runtime;
        let compiled = |record: VersionRecord| match self.compile(record) {
            Ok(version) => Some(Arc::new(version)),
            Err(error) => {
                tracing::error!(runtime = %name, reason = error.message, "version cannot run here now");
                None
            }
        };
        let deployed = Deployed {
            runtime,
            protocol: served.protocol,
            default: served.default.and_then(compiled),
            endpoints: served
                .endpoints
                .into_iter()
                .map(|(endpoint, record)| (endpoint, compiled(record)))
                .collect(),
        };
        self.catalogue.put(name.clone(), deployed);
        self.pool.ring();
        Ok(())
    }

    /// [`Self::refresh`], by id.
    pub async fn refresh_by_id(&self, id: &RuntimeId) -> Result<(), StoreError> {
        match RuntimeName::parse(id.name()) {
            Ok(name) => self.refresh(&name).await,
            // No id has a name that is none.
            Err(_) => Ok(()),
        }
    }

    /// `/v1`: makes a runtime or its next version of a bundle that is there, and waits until it takes calls.
    pub async fn deploy(self: &Arc<Self>, put: PutRuntime) -> Result<(Runtime, bool), ApiError> {
        // Refused before anything is written.
        let spec =
            RuntimeSpec::resolve(&put.config, &self.host_policy()).map_err(ApiError::fields)?;
        self.artifacts.artifact(&put.artifact).await?;
        if let Some(fault) = self.bundle_fault(&put.artifact, &spec).await? {
            return Err(ApiError::field("entrypoint", fault));
        }
        let name = put.config.name.clone();
        let new = NewVersion {
            of: VersionOf::Either,
            config: put.config,
            artifact: put.artifact,
            state: match spec.warmup {
                Some(_) => State::Making,
                None => State::Ready,
            },
            typed: None,
            tags: BTreeMap::new(),
            quotas: self.config().limits.quotas,
            once: None,
        };
        let made = self.store.make_version(new, |_| serde_json::Value::Null);
        let Done::Now((record, created)) = made.await? else {
            return Err(ApiError::new(ErrorCode::Internal, "done without a token"));
        };
        let number = record.number;
        if record.state == State::Making {
            // A task: a caller that goes away must not leave it half made.
            let making = self.make_in_background(record);
            let state = making
                .await
                .unwrap_or_else(|_| State::Failed("its making broke off".to_owned()));
            if let State::Failed(reason) = state {
                return Err(ApiError::new(
                    ErrorCode::AgentFailed,
                    format!("version {number} of runtime {name} is not served: {reason}"),
                ));
            }
        } else {
            self.refresh(&name).await?;
        }
        let runtime = self.store.runtime(&name).await?;
        let sessions = self.sessions_of(&runtime.runtime_id);
        tracing::info!(runtime = %name, version = %number, "deployed");
        Ok((
            Runtime {
                sessions,
                ..runtime
            },
            created,
        ))
    }

    /// Makes a version that the store has as such, and says how that ended.
    pub fn make_in_background(
        self: &Arc<Self>,
        record: VersionRecord,
    ) -> tokio::task::JoinHandle<State> {
        let broker = Arc::clone(self);
        tokio::spawn(async move { broker.make(record).await })
    }

    async fn make(self: &Arc<Self>, record: VersionRecord) -> State {
        let (runtime, number, name) = (record.runtime.clone(), record.number, record.name.clone());
        let state = match self.prepare(record).await {
            Ok(()) => State::Ready,
            Err(reason) => State::Failed(reason),
        };
        let finished = async {
            // Whoever asked for it was told that it is being made, so a full disk delays it only.
            while let Err(error) = self
                .store
                .finish_version(&runtime, number, state.clone())
                .await
            {
                if error.code() != ErrorCode::StorageFull || self.draining() {
                    return Err(error);
                }
                tokio::time::sleep(RECORD_PAUSE).await;
            }
            self.refresh(&name).await
        };
        match finished.await {
            Ok(()) => {
                tracing::info!(runtime = %name, version = %number, failure = state.failure(), "version made");
            }
            // It stays as it is in the store; the next daemon makes it.
            Err(error) => {
                tracing::error!(runtime = %name, version = %number, error = %crate::fault::chain(&error), "version made, but not recorded");
            }
        }
        state
    }

    /// Everything between MAKING and READY; the reason, for whoever deployed it, if it cannot be.
    async fn prepare(self: &Arc<Self>, record: VersionRecord) -> Result<(), String> {
        let spec = RuntimeSpec::resolve(&record.config, &self.host_policy())
            .map_err(|faults| ApiError::fields(faults).message)?;
        let told = |error: crate::artifacts::ArtifactError| crate::fault::chain(&error);
        if self.artifacts.artifact(&record.artifact).await.is_err() {
            let (received, _) = self
                .objects
                .unpack(&record.artifact, &self.artifacts)
                .await?;
            if received.artifact_id != record.artifact {
                return Err("the object changed while it was read".to_owned());
            }
        }
        if let Some(fault) = self
            .bundle_fault(&record.artifact, &spec)
            .await
            .map_err(told)?
        {
            return Err(format!(
                "The specified entrypoint could not be found or accessed in your artifact: {fault}"
            ));
        }
        if spec.warmup.is_some() {
            let version = self.compile(record).map_err(|error| error.message)?;
            warmup::run(self, Arc::new(version)).await?;
        }
        Ok(())
    }

    /// What a bundle lacks of what the command line needs.
    async fn bundle_fault(
        &self,
        artifact: &ArtifactId,
        spec: &RuntimeSpec,
    ) -> Result<Option<String>, crate::artifacts::ArtifactError> {
        let entry = &spec.entry_file;
        match self.artifacts.file(artifact, entry).await? {
            None => {
                return Ok(Some(format!(
                    "`{entry}` could not be found in the artifact"
                )));
            }
            Some(file) if spec.language == Language::Binary && !file.executable => {
                return Ok(Some(format!(
                    "`{entry}` is not executable in the artifact (chmod +x)"
                )));
            }
            Some(_) => {}
        }
        // Further words that name files of the bundle: a wrapper's script.
        for word in &spec.agent.argv {
            if let Some(file) = word
                .strip_prefix(BUNDLE)
                .and_then(|rest| rest.strip_prefix('/'))
                && file != entry
                && self.artifacts.file(artifact, file).await?.is_none()
            {
                return Ok(Some(format!("`{file}` could not be found in the artifact")));
            }
        }
        Ok(None)
    }

    /// What this host would not run of a configuration, field by field.
    #[must_use]
    pub fn faults(&self, config: &RuntimeConfig) -> Vec<proto::api::FieldFault> {
        RuntimeSpec::resolve(config, &self.host_policy())
            .err()
            .unwrap_or_default()
    }

    fn compile(&self, record: VersionRecord) -> Result<RuntimeVersion, ApiError> {
        let spec =
            RuntimeSpec::resolve(&record.config, &self.host_policy()).map_err(ApiError::fields)?;
        Ok(RuntimeVersion {
            runtime: record.runtime,
            name: record.name,
            number: record.number,
            config: record.config,
            artifact: record.artifact,
            spec,
        })
    }
}
