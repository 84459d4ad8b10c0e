//! Tier 2: a database in a temporary directory. (A full disk is tested where a small tmpfs can be mounted: `tests/`.)

mod control;
mod damage;
mod pages;
mod runtimes;
mod sessions;
mod tasks;
mod upkeep;
mod writing;

use super::*;
use crate::owner::{Owner, Principal};
use proto::api::{EndReason, FreezeCause, Phase, PutRuntime, Usage};
use proto::ids::{
    ArtifactId, ClientSessionId, EndpointName, RuntimeName, SessionId, VersionNumber,
};
use std::collections::HashSet;
use std::path::PathBuf;

struct Ground {
    directory: tempfile::TempDir,
    store: Store,
}

const UIDS: UidBlock = UidBlock {
    first: 1_000_000,
    width: 16,
    ranges: 4,
};

fn names() -> Names {
    Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    }
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agentcore.db")
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(&path(&directory), names()).expect("opens");
        Self { directory, store }
    }

    /// Drops the store and opens the same file again.
    async fn reopened(self) -> Self {
        let Self { directory, store } = self;
        store.close().await;
        let store = Store::open(&path(&directory), names()).expect("opens again");
        Self { directory, store }
    }

    async fn artifact(&self, digit: char) -> ArtifactId {
        let id = ArtifactId::parse(digit.to_string().repeat(64)).expect("id");
        let new = NewArtifact {
            id: id.clone(),
            packed_bytes: 1,
            unpacked_bytes: 2,
            entries: 3,
        };
        self.store.put_artifact(new).await.expect("put");
        id
    }

    async fn runtime(&self, name: &str, artifact: &ArtifactId) -> proto::api::Runtime {
        self.store
            .put_runtime(put(name, artifact))
            .await
            .expect("put")
            .0
    }
}

impl Store {
    /// Makes the runtime, or its next version, READY; whether the runtime is new.
    pub(crate) async fn put_runtime(
        &self,
        put: PutRuntime,
    ) -> Result<(proto::api::Runtime, bool), StoreError> {
        let name = put.config.name.clone();
        let new = NewVersion {
            of: VersionOf::Either,
            ..new_version(put)
        };
        let Done::Now((_, created)) = self.make_version(new, |_| serde_json::Value::Null).await?
        else {
            panic!("done without a token");
        };
        Ok((self.runtime(&name).await?, created))
    }
}

fn new_version(put: PutRuntime) -> NewVersion {
    NewVersion {
        of: VersionOf::New,
        config: put.config,
        artifact: put.artifact,
        state: State::Ready,
        typed: None,
        tags: std::collections::BTreeMap::new(),
        quotas: Quotas::BUILT_IN,
        once: None,
    }
}

fn put(name: &str, artifact: &ArtifactId) -> PutRuntime {
    let config =
        serde_json::json!({ "name": name, "entrypoint": "a.py", "resources": { "cpus": 0.5 } });
    PutRuntime {
        artifact: artifact.clone(),
        config: serde_json::from_value(config).expect("config"),
    }
}

fn name(text: &str) -> RuntimeName {
    RuntimeName::parse(text).expect("name")
}

fn session(id: &str, client: u32) -> NewSession {
    NewSession {
        id: SessionId::parse(id).expect("id"),
        client_id: ClientSessionId::parse(format!("client-session-of-the-store-tests-{client:04}"))
            .expect("id"),
        runtime: name("agent"),
        version: VersionNumber(1),
        endpoint: EndpointName::default_endpoint(),
        owner: Owner {
            principal: Principal::local(),
            user: None,
        },
        boot_id: "boot".into(),
        token: "ab".repeat(32),
        uids: UIDS,
    }
}

fn end(reason: EndReason) -> SessionEnd {
    SessionEnd {
        reason,
        was_ready: true,
        detail: Some("because".into()),
        usage: Usage {
            cpu_seconds: 1.5,
            memory_peak_bytes: 7,
            oom_kills: 1,
            ..Usage::default()
        },
        egress_refused: 3,
        log_lines_dropped: 4,
        record: None,
    }
}
