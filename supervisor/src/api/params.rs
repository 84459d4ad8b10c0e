//! The query of a `/v1` route, typed; a parameter that does not fit is named, in an answer of our own form.

use super::reply::ApiError;
use super::router::RequestId;
use axum::extract::{FromRequestParts, Query};
use axum::response::Response;
use http::request::Parts;
use serde::de::DeserializeOwned;

/// As [`Query`], but its refusal is a problem of ours.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S, T> FromRequestParts<S> for Params<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|rejection| {
                let id = parts.extensions.get::<RequestId>();
                let id = id.map(|id| id.0.as_str()).unwrap_or_default();
                // `Failed to deserialize query string: maxResults: invalid digit found in string`
                let text = rejection.body_text();
                let mut words = text.splitn(3, ": ").skip(1);
                let name = words.next().unwrap_or("query");
                let message = words.next().unwrap_or("is not understood");
                ApiError::field(name, message).problem(id)
            })
    }
}
