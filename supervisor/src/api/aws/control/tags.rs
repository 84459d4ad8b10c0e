//! Tags of runtimes and endpoints (contract §3.1).

use super::Answer;
use super::input::Input;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use serde_json::json;
use std::sync::Arc;

fn arn(input: &Input) -> &str {
    input.text("resourceArn").unwrap_or_default()
}

/// TagResource.
pub(super) async fn tag(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    broker.store.tag(arn(input), input.texts("tags")).await?;
    Ok(Answer::nothing())
}

/// UntagResource.
pub(super) async fn untag(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    broker
        .store
        .untag(arn(input), input.list("tagKeys"))
        .await?;
    Ok(Answer::nothing())
}

/// ListTagsForResource.
pub(super) async fn list(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let tags = broker.store.tags(arn(input)).await?;
    Ok(Answer::ok(json!({ "tags": tags })))
}
