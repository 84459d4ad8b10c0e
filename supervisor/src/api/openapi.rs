//! `GET /openapi.json`: what `/v1` takes and answers, from the routes and types themselves.

use proto::api::Problem;
use std::collections::BTreeMap;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, OpenApi, ToSchema as _};

/// The part of the description that no route says.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "AgentCore Runtime, self-hosted",
        description = "The daemon's own routes. The AWS wire is Amazon's to describe (docs/compatibility.md).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem))
)]
pub struct Description;

/// The answer to whatever an operation refuses or cannot do.
#[derive(Debug)]
pub struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let refusal = ResponseBuilder::new()
            .description("Refused or failed; what happened, and what to do")
            .content("application/problem+json", content)
            .build();
        BTreeMap::from([("default".to_owned(), refusal.into())])
    }
}
