//! Runtimes, versions, artifacts.

use super::*;

#[tokio::test]
async fn versions_count_up_and_stay_as_they_are() {
    let ground = Ground::new();
    let (one, two) = (ground.artifact('1').await, ground.artifact('2').await);
    let (first, created) = ground
        .store
        .put_runtime(put("agent", &one))
        .await
        .expect("put");
    assert!(created);
    assert_eq!(first.version, VersionNumber(1));
    assert_eq!(first.runtime_id.name(), "agent");
    assert_eq!(
        first.arn,
        format!(
            "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/{}",
            first.runtime_id
        )
    );
    let (second, created) = ground
        .store
        .put_runtime(put("agent", &two))
        .await
        .expect("put");
    assert!(!created);
    assert_eq!((second.version, &second.artifact), (VersionNumber(2), &two));
    assert_eq!(second.runtime_id, first.runtime_id);

    let ground = ground.reopened().await;
    assert_eq!(
        ground.store.runtime(&name("agent")).await.expect("there"),
        second
    );
    assert_eq!(
        ground
            .store
            .runtime_by_id(&first.runtime_id)
            .await
            .expect("there"),
        second
    );
    let old = ground
        .store
        .version(&name("agent"), VersionNumber(1))
        .await
        .expect("there");
    assert_eq!((old.artifact, old.config), (one, first.config));
    let missing = ground.store.version(&name("agent"), VersionNumber(3)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound(_))),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_runtime_needs_an_artifact_that_is_there() {
    let ground = Ground::new();
    let stranger = ArtifactId::parse("f".repeat(64)).expect("id");
    let refused = ground.store.put_runtime(put("agent", &stranger)).await;
    assert!(
        matches!(refused, Err(StoreError::NotFound(_))),
        "{refused:?}"
    );
    // Its savepoint was taken back: no runtime without a version is left.
    assert!(ground.store.runtime(&name("agent")).await.is_err());
    assert!(
        ground
            .store
            .runtimes(PageRequest::default())
            .await
            .expect("list")
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_deleted_name_is_free_at_once_and_its_runtime_is_another() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let old = ground.runtime("agent", &artifact).await;
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    assert!(ground.store.runtime(&name("agent")).await.is_err());
    assert!(ground.store.runtime_by_id(&old.runtime_id).await.is_err());
    assert!(
        ground
            .store
            .versions(&name("agent"), PageRequest::default())
            .await
            .is_err()
    );
    let again = ground.store.delete_runtime(&name("agent")).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))));
    let new = ground.runtime("agent", &artifact).await;
    assert_eq!(new.version, VersionNumber(1));
    assert_ne!(new.runtime_id, old.runtime_id);
}

#[tokio::test]
async fn an_artifact_stays_while_something_uses_it() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let in_use = ground.store.delete_artifact(&artifact).await;
    assert!(
        matches!(&in_use, Err(StoreError::Conflict(text)) if text.ends_with("version 1 of runtime agent"))
    );
    // A newer version does not free the older one's code.
    let newer = ground.artifact('2').await;
    ground.runtime("agent", &newer).await;
    assert!(ground.store.delete_artifact(&artifact).await.is_err());

    // A live session keeps the code of a deleted runtime.
    let live = ground
        .store
        .reserve_session(session("sess1", 1))
        .await
        .expect("reserved");
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    assert!(ground.store.delete_artifact(&artifact).await.is_err());
    ground
        .store
        .delete_artifact(&newer)
        .await
        .expect("nobody uses version 2");
    ground
        .store
        .end_session(&live.id, end(EndReason::Stopped))
        .await
        .expect("ended");
    ground.store.delete_artifact(&artifact).await.expect("free");
    assert!(matches!(
        ground.store.artifact(&artifact).await,
        Err(StoreError::NotFound(_))
    ));
}

#[tokio::test]
async fn putting_an_artifact_twice_keeps_the_first() {
    let ground = Ground::new();
    let id = ArtifactId::parse("a".repeat(64)).expect("id");
    let new = NewArtifact {
        id,
        packed_bytes: 10,
        unpacked_bytes: 20,
        entries: 3,
    };
    let (first, created) = ground.store.put_artifact(new.clone()).await.expect("put");
    let (second, again) = ground.store.put_artifact(new).await.expect("put");
    assert_eq!((created, again), (true, false));
    assert_eq!(first, second);
}
