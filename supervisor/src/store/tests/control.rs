//! Versions on their way, endpoints, tokens, tags, objects.

use super::*;
use proto::api::Page;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn told(record: &VersionRecord) -> Value {
    json!(record.number.0)
}

fn endpoint(runtime: &proto::api::Runtime, name: &str, version: Option<u32>) -> NewEndpoint {
    NewEndpoint {
        runtime: runtime.runtime_id.clone(),
        name: EndpointName::parse(name).expect("name"),
        version: version.map(VersionNumber),
        description: None,
        new: None,
        tags: BTreeMap::new(),
        most: 2,
        once: None,
    }
}

impl Ground {
    /// Asks for a version of `agent` that is still to be made.
    async fn making(&self, of: VersionOf) -> Result<Done<(VersionRecord, bool)>, StoreError> {
        let artifact = ArtifactId::parse("e".repeat(64)).expect("id");
        let new = NewVersion {
            of,
            state: State::Making,
            ..new_version(put("agent", &artifact))
        };
        self.store.make_version(new, told).await
    }

    async fn served(&self) -> Option<u32> {
        let served = self.store.served(&name("agent")).await.expect("read");
        served.expect("there").default.map(|record| record.number.0)
    }
}

#[tokio::test]
async fn only_what_is_ready_is_served_and_nothing_changes_meanwhile() {
    let ground = Ground::new();
    let Done::Now((first, true)) = ground.making(VersionOf::New).await.expect("made") else {
        panic!("a new runtime");
    };
    assert_eq!(first.state.status(first.number), "CREATING");
    assert_eq!(ground.served().await, None);
    let id = &first.runtime;
    for refused in [
        ground.making(VersionOf::New).await.err(),
        ground.making(VersionOf::Existing(id.clone())).await.err(),
        ground.store.delete_runtime(&name("agent")).await.err(),
    ] {
        assert!(
            matches!(refused, Some(StoreError::Conflict(_))),
            "{refused:?}"
        );
    }
    // The next daemon finds it.
    let ground = ground.reopened().await;
    assert_eq!(
        ground.store.unfinished_versions().await.expect("read"),
        std::slice::from_ref(&first)
    );
    let finish = |number, state| ground.store.finish_version(id, number, state);
    finish(first.number, State::Ready).await.expect("finished");
    assert_eq!(ground.served().await, Some(1));
    // What is settled stays so.
    let late = State::Failed("late".to_owned());
    finish(first.number, late).await.expect("ignored");
    assert_eq!(ground.served().await, Some(1));

    let again = VersionOf::Existing(id.clone());
    ground.making(again).await.expect("made");
    let failed = State::Failed("no such file".to_owned());
    finish(VersionNumber(2), failed.clone())
        .await
        .expect("finished");
    assert_eq!(ground.served().await, Some(1));
    let runtime = ground.store.runtime(&name("agent")).await.expect("there");
    assert_eq!(
        (runtime.version, runtime.status.as_str()),
        (VersionNumber(2), "UPDATE_FAILED")
    );
    assert_eq!(runtime.failure.as_deref(), failed.failure());
    // Numbers are not given out again.
    ground
        .store
        .delete_version(id, VersionNumber(2), None, told)
        .await
        .expect("deleted");
    let Done::Now((third, _)) = ground
        .making(VersionOf::Existing(id.clone()))
        .await
        .expect("made")
    else {
        panic!("done before");
    };
    assert_eq!(third.number, VersionNumber(3));
}

#[tokio::test]
async fn a_runtime_of_the_same_name_is_another_one() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let old = ground.runtime("agent", &artifact).await;
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    ground.runtime("agent", &artifact).await;
    let of_old = VersionOf::Existing(old.runtime_id.clone());
    let refused = ground.making(of_old).await;
    assert!(
        matches!(refused, Err(StoreError::NotFound(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn quotas_are_kept() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let quotas = Quotas {
        runtimes: 1,
        versions: 2,
        endpoints: 0,
    };
    let make = |name: &str| {
        let new = NewVersion {
            of: VersionOf::Either,
            quotas,
            ..new_version(put(name, &artifact))
        };
        ground.store.make_version(new, told)
    };
    make("agent").await.expect("first");
    make("agent").await.expect("second");
    for name in ["agent", "other"] {
        let refused = make(name).await;
        assert!(
            matches!(refused, Err(StoreError::Quota(_))),
            "{name} {refused:?}"
        );
    }
}

#[tokio::test]
async fn endpoints_keep_their_version_and_hold_it() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let runtime = ground.runtime("agent", &artifact).await;
    let put = |name: &str, version| {
        ground
            .store
            .put_endpoint(endpoint(&runtime, name, version), |_| Value::Null)
    };
    let Done::Now((record, true)) = put("prod", None).await.expect("made") else {
        panic!("a new endpoint");
    };
    assert_eq!(
        (record.live, record.status),
        (Some(VersionNumber(1)), "READY")
    );
    ground.runtime("agent", &artifact).await;
    assert_eq!(ground.served().await, Some(2));
    let served = ground
        .store
        .served(&name("agent"))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(served.endpoints[0].1.number, VersionNumber(1));
    let delete = || {
        ground
            .store
            .delete_version(&runtime.runtime_id, VersionNumber(1), None, told)
    };
    assert!(matches!(delete().await, Err(StoreError::Conflict(_))));
    put("prod", Some(2)).await.expect("moved");
    delete().await.expect("free");
    for (name, version) in [("DEFAULT", None), ("late", Some(1))] {
        assert!(put(name, version).await.is_err(), "{name}");
    }
    put("second", None).await.expect("room");
    assert!(matches!(
        put("third", None).await,
        Err(StoreError::Quota(_))
    ));
    let names = |page: Page<EndpointRecord>| -> Vec<String> {
        page.items
            .iter()
            .map(|record| record.name.to_string())
            .collect()
    };
    let one = PageRequest::parse(Some(1), None).expect("page");
    let first = ground
        .store
        .endpoints(&runtime.runtime_id, one)
        .await
        .expect("list");
    let next = first.next_token.clone();
    assert_eq!(names(first), ["DEFAULT"]);
    let rest = PageRequest::parse(Some(2), next.as_deref()).expect("page");
    let rest = ground
        .store
        .endpoints(&runtime.runtime_id, rest)
        .await
        .expect("list");
    assert_eq!(
        (names(rest.clone()), rest.next_token),
        (vec!["prod".to_owned(), "second".to_owned()], None)
    );
}

#[tokio::test]
async fn a_token_is_good_for_one_request_of_one_caller() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let make = |caller: &str, digest: &str| {
        let once = Once {
            caller: caller.to_owned(),
            operation: "CreateAgentRuntime",
            token: "t".repeat(33),
            digest: digest.to_owned(),
        };
        let new = NewVersion {
            of: VersionOf::Either,
            once: Some(once),
            ..new_version(put("agent", &artifact))
        };
        ground.store.make_version(new, told)
    };
    assert!(matches!(make("a", "1").await, Ok(Done::Now(_))));
    assert_eq!(make("a", "1").await.expect("again"), Done::Before(json!(1)));
    assert!(matches!(make("a", "2").await, Err(StoreError::TokenReused)));
    // Another caller's token is another one.
    assert!(matches!(make("b", "2").await, Ok(Done::Now((record, false))) if record.number.0 == 2));
}

#[tokio::test]
async fn tags_and_endpoints_go_with_their_runtime() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let runtime = ground.runtime("agent", &artifact).await;
    let tags = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let arn = &runtime.arn;
    ground
        .store
        .tag(arn, tags(&[("a", "1")]))
        .await
        .expect("tagged");
    let new = NewEndpoint {
        tags: tags(&[("b", "2")]),
        ..endpoint(&runtime, "prod", None)
    };
    let Done::Now((record, _)) = ground
        .store
        .put_endpoint(new, |_| Value::Null)
        .await
        .expect("made")
    else {
        panic!("done before");
    };
    assert_eq!(
        ground.store.tags(&record.arn).await.expect("read"),
        tags(&[("b", "2")])
    );
    let many: BTreeMap<_, _> = (0..50).map(|n| (format!("k{n}"), String::new())).collect();
    assert!(matches!(
        ground.store.tag(arn, many).await,
        Err(StoreError::Quota(_))
    ));
    assert_eq!(
        ground.store.tags(arn).await.expect("read"),
        tags(&[("a", "1")])
    );
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    for gone in [
        arn,
        &record.arn,
        "arn:aws:s3:::a",
        "arn:aws:bedrock-agentcore:x:1:runtime/a",
    ] {
        assert!(
            matches!(ground.store.tags(gone).await, Err(StoreError::NotFound(_))),
            "{gone}"
        );
    }
}
