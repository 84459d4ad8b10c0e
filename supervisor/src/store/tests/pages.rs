//! Lists.

use super::*;

#[tokio::test]
async fn lists_page_without_gaps_or_repeats() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    for n in 0..7 {
        ground.runtime(&format!("agent{n}"), &artifact).await;
    }
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let request = PageRequest::parse(Some(3), token.as_deref()).expect("request");
        let page = ground.store.runtimes(request).await.expect("page");
        assert!(page.items.len() <= 3);
        seen.extend(page.items.iter().map(|runtime| runtime.name.to_string()));
        token = page.next_token;
        if token.is_none() {
            break;
        }
        // What is deleted behind the page moves nothing.
        let _ = ground.store.delete_runtime(&name("agent0")).await;
    }
    assert_eq!(
        seen,
        [
            "agent0", "agent1", "agent2", "agent3", "agent4", "agent5", "agent6"
        ]
    );
    // A full last page has no successor.
    let request = PageRequest::parse(Some(6), None).expect("request");
    assert_eq!(
        ground
            .store
            .runtimes(request)
            .await
            .expect("page")
            .next_token,
        None
    );
    for (max, token) in [
        (Some(0), None),
        (Some(1001), None),
        (None, Some("x")),
        (None, Some("n.x")),
    ] {
        let listed = match PageRequest::parse(max, token) {
            Ok(request) => ground
                .store
                .sessions(request, SessionFilter::default())
                .await
                .map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(
            matches!(listed, Err(StoreError::Invalid { .. })),
            "{max:?} {token:?}"
        );
    }
}
