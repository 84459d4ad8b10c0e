//! Files and rows kept in step.

use super::make_zip::{file, zip};
use super::*;
use crate::store::{Names, StoreError};
use futures_util::{StreamExt, stream};
use proto::api::PutRuntime;
use std::time::Duration;

struct Shelf {
    ground: Ground,
    store: crate::store::Store,
    library: Library,
}

async fn shelf() -> Shelf {
    let ground = Ground::new();
    let names = Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    };
    let store = crate::store::Store::open(&ground.directory.path().join("agentcore.db"), names)
        .expect("opens");
    let library = open(&ground, &store).await;
    Shelf {
        ground,
        store,
        library,
    }
}

async fn open(ground: &Ground, store: &crate::store::Store) -> Library {
    let root = ground.directory.path().join("artifacts");
    Library::open(&root, store.clone(), Bounds::default())
        .await
        .expect("opens")
}

fn body(
    packed: &[u8],
) -> impl futures_util::Stream<Item = Result<bytes::Bytes, io::Error>> + use<> {
    let chunks: Vec<_> = packed
        .chunks(1000)
        .map(|c| Ok(bytes::Bytes::copy_from_slice(c)))
        .collect();
    stream::iter(chunks)
}

#[tokio::test]
async fn a_received_bundle_has_files_and_a_row() {
    let shelf = shelf().await;
    let packed = zip(&[file("a.py", &noise(50_000))]);
    let (artifact, new) = shelf.library.receive(body(&packed)).await.expect("sound");
    assert!(new);
    assert_eq!(artifact.packed_bytes, packed.len() as u64);
    assert_eq!(
        shelf
            .library
            .artifact(&artifact.artifact_id)
            .await
            .expect("row"),
        artifact
    );
    let found = shelf
        .library
        .file(&artifact.artifact_id, "a.py")
        .await
        .expect("asked");
    assert_eq!(found, Some(BundleFile { executable: false }));
    let (again, new) = shelf.library.receive(body(&packed)).await.expect("sound");
    assert_eq!((again, new), (artifact, false));
}

#[tokio::test]
async fn a_body_that_fails_or_is_given_up_leaves_nothing() {
    let shelf = shelf().await;
    let packed = zip(&[file("a.py", &noise(50_000))]);
    let listing = || {
        let mut all = shelf.ground.all();
        all.retain(|path, _| !path.starts_with("agentcore.db"));
        all
    };
    let before = listing();
    let failing = body(&packed).chain(stream::iter([Err(io::Error::other("reset"))]));
    let failed = shelf.library.receive(failing).await;
    assert!(matches!(failed, Err(ArtifactError::Interrupted)));
    assert_eq!(listing(), before);
    // Dropped while more is expected, though all bytes have come.
    let endless = body(&packed).chain(stream::pending());
    let given_up = tokio::time::timeout(
        std::time::Duration::from_millis(200),
        shelf.library.receive(endless),
    );
    assert!(given_up.await.is_err());
    // The next one gets its place, and finds nothing of the other.
    let refused = shelf.library.receive(body(b"no archive")).await;
    assert!(matches!(
        refused,
        Err(ArtifactError::Refused {
            rule: Refusal::Format,
            ..
        })
    ));
    assert_eq!(listing(), before);
    assert!(
        shelf
            .store
            .artifacts(crate::store::PageRequest::default())
            .await
            .expect("list")
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn uploads_that_trickle_give_their_places_back() {
    let mut shelf = shelf().await;
    let root = shelf.ground.directory.path().join("artifacts");
    let bounds = Bounds {
        upload_time: Duration::from_millis(100),
        ..Bounds::default()
    };
    shelf.library = Library::open(&root, shelf.store.clone(), bounds)
        .await
        .expect("opens");
    let trickle = || {
        stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, io::Error>(bytes::Bytes::from_static(b"P")), ()))
        })
    };
    let packed = zip(&[file("a.py", b"1")]);
    // As many as there are places, and one that waits for them.
    let outcome = tokio::join!(
        shelf.library.receive(trickle()),
        shelf
            .library
            .receive(stream::pending::<Result<_, io::Error>>()),
        shelf.library.receive(body(&packed)),
    );
    for refused in [outcome.0, outcome.1] {
        assert!(
            matches!(
                refused,
                Err(ArtifactError::Refused {
                    rule: Refusal::Pace(_),
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    outcome.2.expect("its turn came");
}

#[tokio::test]
async fn a_refusal_ends_a_body_that_would_go_on() {
    let mut shelf = shelf().await;
    let root = shelf.ground.directory.path().join("artifacts");
    let bounds = Bounds {
        packed: 10_000,
        ..Bounds::default()
    };
    shelf.library = Library::open(&root, shelf.store.clone(), bounds)
        .await
        .expect("opens");
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(bytes::Bytes::from_static(&[0; 1000])));
    let refused = shelf.library.receive(endless).await;
    assert!(matches!(
        refused,
        Err(ArtifactError::Refused {
            rule: Refusal::Packed(10_000),
            ..
        })
    ));
}

#[tokio::test]
async fn deleting_asks_the_store_first() {
    let shelf = shelf().await;
    let packed = zip(&[file("a.py", b"1")]);
    let (artifact, _) = shelf.library.receive(body(&packed)).await.expect("sound");
    let id = artifact.artifact_id;
    let config = serde_json::json!({ "name": "agent", "entrypoint": "a.py" });
    let config = serde_json::from_value(config).expect("config");
    shelf
        .store
        .put_runtime(PutRuntime {
            artifact: id.clone(),
            config,
        })
        .await
        .expect("put");
    let in_use = shelf.library.delete(&id).await;
    assert!(matches!(
        in_use,
        Err(ArtifactError::Store(StoreError::Conflict(_)))
    ));
    shelf.library.tree_dir(&id).await.expect("still there");
    let name = proto::ids::RuntimeName::parse("agent").expect("name");
    shelf.store.delete_runtime(&name).await.expect("deleted");
    shelf.library.delete(&id).await.expect("free");
    assert!(shelf.library.tree_dir(&id).await.is_err());
    assert!(matches!(
        shelf.library.delete(&id).await,
        Err(ArtifactError::Store(StoreError::NotFound(_)))
    ));
}

#[tokio::test]
async fn files_without_a_row_are_removed_at_start() {
    let shelf = shelf().await;
    let (kept, _) = shelf
        .library
        .receive(body(&zip(&[file("a.py", b"1")])))
        .await
        .expect("sound");
    // Killed between the tree and the row.
    let lost = shelf
        .ground
        .upload(&zip(&[file("a.py", b"2")]))
        .expect("sound");
    let library = open(&shelf.ground, &shelf.store).await;
    library.tree_dir(&kept.artifact_id).await.expect("kept");
    assert!(library.tree_dir(&lost.id).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_and_deletions_of_the_same_bundle_end_consistently() {
    let shelf = shelf().await;
    let packed = zip(&[file("a.py", b"1")]);
    let (artifact, _) = shelf.library.receive(body(&packed)).await.expect("sound");
    let id = artifact.artifact_id;
    for _ in 0..30 {
        let (up, down) = (shelf.library.clone(), shelf.library.clone());
        let packed = packed.clone();
        let up = tokio::spawn(async move { up.receive(body(&packed)).await.map(|_| ()) });
        let gone = id.clone();
        let down = tokio::spawn(async move { down.delete(&gone).await });
        let up = up.await.expect("task");
        assert!(
            matches!(up, Ok(()) | Err(ArtifactError::Deleted(_))),
            "{up:?}"
        );
        let _ = down.await.expect("task");
        let row = shelf.store.artifact(&id).await.is_ok();
        assert_eq!(row, shelf.library.tree_dir(&id).await.is_ok());
    }
}
