//! What a request carries, typed: path, query, JSON body. Whatever does not fit is refused with the name of its field, in
//! the shape of every other error of ours; axum's own extractors would answer in plain text.
//!
//! A JSON body is read leniently before it is refused: a faulty field is noted, taken out, and the rest is read again, so
//! that its sender learns all faults at once. Fields are named as in `agentcore.toml` (`resources.pids`).

use super::reply::ApiError;
use super::router::RequestId;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use proto::api::FieldFault;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use std::collections::BTreeSet;
use std::time::Duration;

/// Most faults of one body that are told; each costs one more reading of it.
const MAX_FAULTS: usize = 32;

/// The fault of a field that has to be there.
const MISSING: &str = "is missing";

/// A request that was refused before its operation saw it.
#[derive(Debug)]
pub struct Refused(Box<Response>);

impl Refused {
    fn new(parts: &Parts, error: &ApiError) -> Self {
        let id = parts.extensions.get::<RequestId>();
        Self(Box::new(
            error.problem(id.map_or("", |RequestId(id)| id.as_str())),
        ))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// The variable parts of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refused::new(parts, &path_fault(&rejection))),
        }
    }
}

fn path_fault(rejection: &PathRejection) -> ApiError {
    if let PathRejection::FailedToDeserializePathParams(fault) = rejection
        && let ErrorKind::InvalidUtf8InPathParam { key } = fault.kind()
    {
        return ApiError::field(key, "is not UTF-8 after percent-decoding");
    }
    ApiError::field("path", rejection.body_text())
}

/// The query string. Parameters that the operation does not know are other versions' and are left alone.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        query(parts.uri.query().unwrap_or_default())
            .map(Self)
            .map_err(|error| Refused::new(parts, &error))
    }
}

fn query<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    let pairs = form_urlencoded::parse(text.as_bytes());
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map_err(|fault| {
        let (name, message) = told(&segments(fault.path()), &fault.inner().to_string());
        ApiError::field(&name, message)
    })
}

/// How long the body of a control request may take to arrive; the largest is a megabyte.
const BODY_TIME: Duration = Duration::from_secs(30);

/// All of a body, if it is not too large and does not take too long.
pub async fn bounded(body: Body, max: u64) -> Result<bytes::Bytes, ApiError> {
    let read = axum::body::to_bytes(body, usize::try_from(max).unwrap_or(usize::MAX));
    tokio::time::timeout(BODY_TIME, read)
        .await
        .map_err(|_| {
            let seconds = BODY_TIME.as_secs();
            ApiError::field("body", format!("did not arrive within {seconds} s"))
        })?
        .map_err(|error| {
            // axum wraps it once.
            let too_large = std::error::Error::source(&error)
                .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            if too_large {
                ApiError::too_large(
                    "body",
                    format!("has more than {max} bytes, which is the most here"),
                )
            } else {
                ApiError::field("body", format!("broke off: {error}"))
            }
        })
}

/// A JSON body as far as it could be read.
#[derive(Debug)]
pub struct Reading<T> {
    /// What it says without its faulty fields; absent if one of those cannot be missing.
    pub value: Option<T>,
    faults: Vec<FieldFault>,
}

impl<T: DeserializeOwned> Reading<T> {
    /// Reads as much as fits. Only what is not JSON at all is an error here.
    pub fn of(text: &[u8]) -> Result<Self, ApiError> {
        // A structure could be read from a list too.
        if text.trim_ascii_start().first() == Some(&b'[') {
            return Err(ApiError::field("body", "must be a JSON object"));
        }
        let first = match serde_json::from_slice(text) {
            Ok(value) => {
                return Ok(Self {
                    value: Some(value),
                    faults: Vec::new(),
                });
            }
            Err(error) => error,
        };
        let mut tree: Value = serde_json::from_slice(text)
            .map_err(|error| ApiError::field("body", format!("is not JSON: {error}")))?;
        let mut faults = Vec::new();
        let mut removed = BTreeSet::new();
        let mut value = None;
        while faults.len() < MAX_FAULTS {
            let fault = match serde_path_to_error::deserialize(&tree) {
                Ok(read) => {
                    value = Some(read);
                    break;
                }
                Err(fault) => fault,
            };
            let path = segments(fault.path());
            let (name, message) = told(&path, &fault.inner().to_string());
            let missing = message == MISSING;
            // Missing only because it was taken out: that is told already.
            if !(missing && removed.contains(&name)) {
                faults.push(FieldFault {
                    name: name.clone(),
                    message,
                });
            }
            // Without it, or with a body that is no object, nothing more can be read.
            if missing || !take_out(&mut tree, &path) {
                break;
            }
            removed.insert(name);
        }
        if faults.is_empty() {
            // What a tree cannot show: a key that is given twice.
            let (name, message) = told(&[], &first.to_string());
            faults.push(FieldFault { name, message });
        }
        Ok(Self { value, faults })
    }

    /// The value, if neither reading nor `more` found a fault.
    pub fn finish(mut self, more: Vec<FieldFault>) -> Result<T, ApiError> {
        self.faults.extend(more);
        match self.value {
            Some(value) if self.faults.is_empty() => Ok(value),
            Some(_) | None => Err(ApiError::fields(self.faults)),
        }
    }
}

/// Keys down to a fault. A list is refused as a whole, so the way ends there.
fn segments(path: &serde_path_to_error::Path) -> Vec<String> {
    path.iter()
        .map_while(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// A field's name as in `agentcore.toml`, and its fault after it in a sentence.
fn told(path: &[String], fault: &str) -> (String, String) {
    let name = |path: &[String]| match path {
        [] => "body".to_owned(),
        [only] => only.clone(),
        [config, rest @ ..] if config == "config" => rest.join("."),
        path => path.join("."),
    };
    let quoted = |what: &str| {
        let rest = fault.strip_prefix(what)?;
        rest.strip_prefix('`')?.split_once('`')
    };
    if let Some((field, _)) = quoted("missing field ") {
        let whole: Vec<String> = path.iter().cloned().chain([field.to_owned()]).collect();
        return (name(&whole), MISSING.to_owned());
    }
    if let Some((field, _)) = quoted("duplicate field ") {
        let whole: Vec<String> = path.iter().cloned().chain([field.to_owned()]).collect();
        return (name(&whole), "is given twice".to_owned());
    }
    if let Some((_, expected)) = quoted("unknown field ") {
        return (name(path), format!("is not known here{expected}"));
    }
    (name(path), format!("cannot be taken: {fault}"))
}

/// Takes the field at `path` out of the tree; whether it was there.
fn take_out(tree: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let mut at = tree;
    for key in parents {
        match at.get_mut(key) {
            Some(next) => at = next,
            None => return false,
        }
    }
    at.as_object_mut()
        .is_some_and(|fields| fields.remove(last).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::api::PutRuntime;
    use serde::Deserialize;

    fn names(text: &str) -> Vec<String> {
        match Reading::<PutRuntime>::of(text.as_bytes()).and_then(|read| read.finish(Vec::new())) {
            Ok(_) => Vec::new(),
            Err(error) => error.fields.into_iter().map(|fault| fault.name).collect(),
        }
    }

    fn body(config: &str) -> String {
        format!(
            r#"{{"artifact": "{}", "config": {{"name": "a", {config}}}}}"#,
            "0".repeat(64)
        )
    }

    #[test]
    fn every_fault_of_a_body_is_told_with_its_path() {
        assert!(names(&body(r#""entrypoint": "a.py""#)).is_empty());
        let faulty = body(
            r#""entrypoint": "a.py", "memroy": 1, "resources": {"pids": -1, "memory": "lots"},
               "environment": {"A": 1, "B": "b"}, "network": {"allow": ["a", 2, 3]}"#,
        );
        let mut found = names(&faulty);
        found.sort();
        assert_eq!(
            found,
            [
                "environment.A",
                "memroy",
                "network.allow",
                "resources.memory",
                "resources.pids"
            ]
        );
    }

    #[test]
    fn what_is_left_can_be_checked_further() {
        let text = body(r#""entrypoint": "a.py", "resources": {"pids": -1}"#);
        let read = Reading::<PutRuntime>::of(text.as_bytes()).expect("JSON");
        let left = read.value.as_ref().expect("pids may be missing");
        assert_eq!(left.config.resources.pids, None);
        let more = vec![FieldFault {
            name: "entrypoint".to_owned(),
            message: "is not there".to_owned(),
        }];
        let error = read.finish(more).expect_err("two faults");
        assert_eq!(error.fields.len(), 2);
    }

    #[test]
    fn a_field_that_cannot_be_missing_is_told_once() {
        assert_eq!(names(&body(r#""entrypoint": 5"#)), ["entrypoint"]);
        assert_eq!(names(&body(r#""protocol": "HTTP""#)), ["entrypoint"]);
        assert_eq!(names("{}"), ["artifact"]);
    }

    #[test]
    fn what_is_no_object_or_no_json_is_the_bodys_fault() {
        for text in ["", "{", "[]", "null", "\u{0}", "{} {}", r#"{"a":"\ud800"}"#] {
            assert_eq!(names(text), ["body"], "{text:?}");
        }
        let twice = body(r#""entrypoint": "a.py", "entrypoint": "b.py""#);
        assert_eq!(names(&twice), ["entrypoint"]);
    }

    #[test]
    fn a_query_names_its_parameter() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[expect(dead_code, reason = "read for its faults")]
        struct Paging {
            max_results: Option<u32>,
        }
        for text in ["maxResults=x", "maxResults=", "maxResults=1&maxResults=2"] {
            let error = query::<Paging>(text).expect_err(text);
            assert_eq!(error.fields[0].name, "maxResults", "{text}");
        }
        query::<Paging>("maxResults=1&other=%ff").expect("others are left alone");
    }
}
