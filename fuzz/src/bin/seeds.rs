//! Writes the seeds of the targets whose formats only our own crates can write. Called by `seeds.py`.

use proto::api::{EndReason, Usage};
use proto::ids::{ArtifactId, ClientSessionId, EndpointName, RuntimeName, SessionId, VersionNumber};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use supervisor::launcher::message::{Exited, FromLauncher, Order, Ordered, Replied, Reply};
use supervisor::owner::{Owner, Principal};
use supervisor::store::{
    Names, NewArtifact, NewSession, NewVersion, Quotas, SessionEnd, State, Store, UidBlock, VersionOf,
};

fn main() {
    let seeds = std::env::args().nth(1).expect("usage: seeds DIRECTORY");
    let seeds = Path::new(&seeds);
    for target in ["order", "database"] {
        fs::create_dir_all(seeds.join(target)).expect("made");
    }
    orders(&seeds.join("order"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(database(&seeds.join("database")));
}

fn session(id: &str) -> SessionId {
    SessionId::parse(id).expect("valid")
}

fn orders(to: &Path) {
    let orders = [
        ("kill", Order::Kill { session: session("s0123456789") }),
        ("usage", Order::Usage { session: session("s0123456789") }),
        ("remove", Order::Remove { session: session("s0123456789") }),
        ("probe", Order::Probe),
    ];
    for (name, order) in orders {
        let packet = postcard::to_stdvec(&Ordered { number: 300, order }).expect("writable");
        fs::write(to.join(name), packet).expect("written");
    }
    let exited = Exited { session: session("s0123456789"), code: Some(137), oom_kills: 1 };
    let told = [
        ("done", FromLauncher::Replied(Replied { number: 1, reply: Ok(Reply::Done) })),
        ("exited", FromLauncher::Exited(exited)),
    ];
    for (name, told) in told {
        fs::write(to.join(name), postcard::to_stdvec(&told).expect("writable")).expect("written");
    }
}

async fn database(to: &Path) {
    let path = to.join("filled");
    let _ = fs::remove_file(&path);
    let names = Names { region: "us-local-1".into(), account: "000000000000".into() };
    let store = Store::open(&path, names).expect("opens");
    let artifact = ArtifactId::parse("a".repeat(64)).expect("valid");
    let new = NewArtifact { id: artifact.clone(), packed_bytes: 1, unpacked_bytes: 2, entries: 3 };
    store.put_artifact(new).await.expect("put");
    let config = serde_json::json!({ "name": "agent", "entrypoint": "a.py" });
    let config = serde_json::from_value(config).expect("valid");
    let new = NewVersion {
        of: VersionOf::New,
        config,
        artifact,
        state: State::Ready,
        typed: None,
        tags: BTreeMap::new(),
        quotas: Quotas::BUILT_IN,
        once: None,
    };
    store.make_version(new, |_| serde_json::Value::Null).await.expect("made");
    for n in 0..2_u32 {
        let new = NewSession {
            id: session(&format!("sess{n}")),
            client_id: ClientSessionId::parse(format!("{n:033}")).expect("valid"),
            runtime: RuntimeName::parse("agent").expect("valid"),
            version: VersionNumber(1),
            endpoint: EndpointName::default_endpoint(),
            owner: Owner { principal: Principal::local(), user: None },
            boot_id: "boot".into(),
            token: "t".into(),
            uids: UidBlock { first: 1_000_000, width: 16, ranges: 4 },
        };
        store.reserve_session(new).await.expect("reserved");
    }
    let end = SessionEnd {
        reason: EndReason::Idle,
        was_ready: true,
        detail: None,
        usage: Usage::default(),
        egress_refused: 0,
        log_lines_dropped: 0,
    };
    store.end_session(&session("sess0"), end).await.expect("ended");
    store.close().await;
}
