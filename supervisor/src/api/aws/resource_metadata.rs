//! GetRuntimeProtectedResourceMetadata (RFC 9728): where a client gets tokens for a runtime. Anybody may ask; of a runtime that
//! takes no tokens there is nothing to tell, as of one that is not there.

use super::target::Target;
use crate::api::authorize;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use serde_json::json;

pub(super) fn show(
    broker: &Broker,
    found: Result<Target, ApiError>,
    head: &Parts,
) -> Result<Response, ApiError> {
    let nothing = || ApiError::not_found("there is no runtime here that takes bearer tokens");
    let version = found.map_err(|_| nothing())?.version;
    let authorizer = version.config.authorizer.as_ref().ok_or_else(nothing)?;
    let mut document = json!({
        "resource": authorize::resource(broker, &version, head),
        "authorization_servers": [authorizer.issuer()],
        "bearer_methods_supported": ["header"],
    });
    if let (Some(scopes), Some(members)) = (&authorizer.allowed_scopes, document.as_object_mut()) {
        members.insert("scopes_supported".to_owned(), json!(scopes));
    }
    Ok(Json(document).into_response())
}
