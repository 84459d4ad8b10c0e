//! A subset of S3, enough for SDKs' own clients to upload bundles: `endpoint_url` is this daemon's address and `/s3`, with
//! path-style names below it (`/s3/{bucket}/{key}`), so that no bucket can stand in the way of another route.
//!
//! | | |
//! |---|---|
//! | `PUT`, `HEAD /s3/{bucket}` | every well-formed bucket name is there without being made |
//! | `GET /s3/{bucket}?list-type=2` | keys in order, by prefix |
//! | `PUT`, `GET`, `HEAD`, `DELETE /s3/{bucket}/{key}` | one version of each object; ranges; CRC32, SHA-256 and MD5 are verified |
//! | `POST …?uploads`, `PUT …?partNumber=&uploadId=`, `POST`, `DELETE …?uploadId=` | uploads in parts |
//!
//! Everything else that S3 knows is refused by its name, not ignored. Errors are S3's XML, with the status of our table.

mod bucket;
mod chunked;
mod object;
mod parts;
mod receive;
mod xml;

use super::authorize::{self, Presented};
use super::reply::ApiError;
use super::router::request_id;
use super::turn::turn;
use crate::broker::Broker;
use crate::objects::{MAX_KEY, Room, is_bucket};
use crate::permit::Action;
use crate::rates::Kind;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use proto::code::ErrorCode;
use std::sync::Arc;

/// The account that a caller expects a bucket to belong to.
const EXPECTED_OWNER: &str = "x-amz-expected-bucket-owner";

/// The version of an object.
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

/// Parameters of the query that an operation here takes; what a signature adds is not the operation's.
const PARAMETERS: &[&str] = &[
    "uploads",
    "uploadId",
    "partNumber",
    "list-type",
    "prefix",
    "max-keys",
    "start-after",
    "continuation-token",
    "encoding-type",
    "location",
    "versionId",
];

/// Headers that ask for something that is not done here.
const NOT_DONE: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-acl",
    "x-amz-tagging",
    "x-amz-server-side-encryption",
    "x-amz-object-lock-mode",
    "x-amz-website-redirect-location",
];

/// Whether a path is one of this subset.
#[must_use]
pub fn serves(path: &str) -> bool {
    path == "/s3" || path.starts_with("/s3/")
}

/// Whether a caller has anything to do here by this method, wherever: looked at before its body is waited for.
pub fn admitted(presented: &Presented, method: &Method) -> Result<(), ApiError> {
    let actions: &[Action] = match *method {
        Method::GET | Method::HEAD => &[Action::GET_OBJECT, Action::LIST_BUCKET],
        Method::DELETE => &[Action::DELETE_OBJECT, Action::PUT_OBJECT],
        _ => &[Action::PUT_OBJECT],
    };
    authorize::on_some_object(presented, actions, None)
}

/// What a bucket is there for.
const ON_BUCKETS: &[Action] = &[
    Action::LIST_BUCKET,
    Action::GET_OBJECT,
    Action::PUT_OBJECT,
    Action::DELETE_OBJECT,
];

/// A request, taken apart.
#[derive(Debug)]
struct Asked {
    method: Method,
    bucket: String,
    /// Empty: the bucket itself.
    key: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
}

impl Asked {
    /// A parameter of the query.
    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// A header, if it is text.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Everything below `/s3`.
pub async fn dispatch(
    State(broker): State<Arc<Broker>>,
    Extension(presented): Extension<Presented>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    match route(&broker, &presented, request).await {
        Ok(response) => response,
        Err(error) => refused(&error, &id),
    }
}

async fn route(
    broker: &Arc<Broker>,
    presented: &Presented,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    admitted(presented, &parts.method)?;
    let asked = asked(broker, &parts)?;
    let Asked { bucket, key, .. } = &asked;
    // At the rates of the control plane, which these files are for.
    let reads = matches!(asked.method, Method::GET | Method::HEAD);
    let kind = match (reads, key.is_empty()) {
        (true, true) => Kind::List,
        (true, false) => Kind::Get,
        (false, _) => Kind::Mutation,
    };
    turn(broker, kind, &presented.0).await?;
    let upload = asked.query("uploadId").is_some();
    let on = |action| authorize::on_object(broker, presented, action, bucket, key);
    match (asked.method.as_str(), key.is_empty()) {
        ("PUT" | "HEAD", true) => {
            authorize::on_some_object(presented, ON_BUCKETS, Some(bucket))?;
            bucket::there(broker, &asked)
        }
        ("GET", true) if asked.query("location").is_some() => {
            authorize::on_some_object(presented, ON_BUCKETS, Some(bucket))?;
            Ok(bucket::location(broker))
        }
        ("GET", true) => {
            let prefix = asked.query("prefix").unwrap_or_default();
            let asker = authorize::on_objects(broker, presented, bucket, prefix)?;
            bucket::list(broker, &asker, &asked).await
        }
        ("PUT" | "POST", false) => {
            let asker = on(Action::PUT_OBJECT)?;
            if upload && asked.method == Method::PUT {
                parts::put(broker, &asker, &asked, body).await
            } else if upload {
                parts::complete(broker, &asker, &asked, body).await
            } else if asked.method == Method::PUT {
                object::put(broker, &asker, &asked, body).await
            } else if asked.query("uploads").is_some() {
                parts::begin(broker, &asker, &asked)
            } else {
                Err(not_offered("POST"))
            }
        }
        // Of S3's users, who may put may also give up putting.
        ("DELETE", false) if upload => parts::abort(broker, &on(Action::PUT_OBJECT)?, &asked),
        ("GET" | "HEAD", false) => object::get(broker, &on(Action::GET_OBJECT)?, &asked).await,
        ("DELETE", false) => object::delete(broker, &on(Action::DELETE_OBJECT)?, &asked).await,
        (method, _) => Err(not_offered(method)),
    }
}

fn not_offered(method: &str) -> ApiError {
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("{method} is not offered here"),
    )
    .because("MethodNotAllowed")
}

/// How many bytes of objects there may be.
fn room(broker: &Broker) -> Room {
    let limits = &broker.config().limits;
    Room {
        all: limits.objects.0,
        each: limits.objects_per_caller.0,
    }
}

fn asked(broker: &Broker, parts: &http::request::Parts) -> Result<Asked, ApiError> {
    let rest = parts.uri.path().strip_prefix("/s3").unwrap_or_default();
    let rest = percent_decode_str(rest.trim_start_matches('/'))
        .decode_utf8()
        .map_err(|_| {
            ApiError::field("key", "is not UTF-8 after percent-decoding").because("InvalidURI")
        })?;
    let (bucket, key) = rest.split_once('/').unwrap_or((&rest, ""));
    if !is_bucket(bucket) {
        return Err(ApiError::field(
            "bucket",
            "must be 3 to 63 of a-z, 0-9, `.` and `-`, a letter or digit first and last",
        )
        .because("InvalidBucketName"));
    }
    if key.len() > MAX_KEY || key.contains('\0') {
        return Err(ApiError::field(
            "key",
            format!("must have at most {MAX_KEY} bytes and no NUL"),
        )
        .because("KeyTooLongError"));
    }
    let query: Vec<(String, String)> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let not_done = |what: &str| {
        ApiError::new(
            ErrorCode::Validation,
            format!("this daemon's S3 subset does not know {what}"),
        )
        .because("NotImplemented")
    };
    for (name, _) in &query {
        let signature = name.starts_with("X-Amz-") || name == "x-id";
        if !signature && !PARAMETERS.contains(&name.as_str()) {
            return Err(not_done(&format!("the parameter `{name}`")));
        }
    }
    for name in parts.headers.keys().map(HeaderName::as_str) {
        let meta = name.starts_with("x-amz-meta-") || name.starts_with("x-amz-grant-");
        if meta || NOT_DONE.contains(&name) {
            return Err(not_done(&format!("the header `{name}`")));
        }
    }
    let asked = Asked {
        method: parts.method.clone(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query,
        headers: parts.headers.clone(),
    };
    match asked.header(EXPECTED_OWNER) {
        Some(owner) if owner != broker.config().account => Err(ApiError::new(
            ErrorCode::AccessDenied,
            format!("buckets here belong to account {}", broker.config().account),
        )
        .because("AccessDenied")),
        Some(_) | None => Ok(asked),
    }
}

/// An error as S3 says it.
#[must_use]
pub fn refused(error: &ApiError, id: &str) -> Response {
    let name = error.reason.unwrap_or(match error.code {
        ErrorCode::NotFound => "NoSuchKey",
        ErrorCode::Unauthorized | ErrorCode::AccessDenied => "AccessDenied",
        ErrorCode::Throttled => "SlowDown",
        ErrorCode::Unavailable => "ServiceUnavailable",
        code if code.row().http >= 500 => "InternalError",
        _ => "InvalidRequest",
    });
    let text = xml::document(
        "Error",
        &[
            ("Code", name),
            ("Message", &error.message),
            ("RequestId", id),
        ],
    );
    error.answer(id, error.status().as_u16(), "application/xml", text)
}

/// An answer in XML.
fn answer(status: StatusCode, text: String) -> Response {
    let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/xml"))];
    (status, kind, Body::from(text)).into_response()
}
