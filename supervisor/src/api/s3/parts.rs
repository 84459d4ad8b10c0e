//! Uploads in parts, which SDKs choose by themselves for what is larger than 8 MB.

use super::object::name;
use super::receive::{receive, told};
use super::{Asked, VERSION_ID, answer, room, xml};
use crate::api::input::bounded;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::objects::{Asker, MOST_PARTS, hex};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::ETAG;

/// Largest document that names parts.
const MAX_DOCUMENT: u64 = 1 << 20;

/// CreateMultipartUpload.
pub(super) fn begin(broker: &Broker, asker: &Asker, asked: &Asked) -> Result<Response, ApiError> {
    let id = broker
        .objects
        .begin_upload(&asker.principal, name(asked)?)?;
    let text = xml::document(
        "InitiateMultipartUploadResult",
        &[
            ("Bucket", &asked.bucket),
            ("Key", &asked.key),
            ("UploadId", &id),
        ],
    );
    Ok(answer(StatusCode::OK, text))
}

/// UploadPart.
pub(super) async fn put(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
    body: Body,
) -> Result<Response, ApiError> {
    let id = upload_id(broker, asker, asked)?;
    let number = asked
        .query("partNumber")
        .and_then(|number| number.parse().ok())
        .filter(|number| (1..=MOST_PARTS).contains(number))
        .ok_or_else(|| {
            ApiError::field("partNumber", format!("must be 1 to {MOST_PARTS}"))
                .because("InvalidArgument")
        })?;
    let (incoming, digest) = receive(broker, asker, asked, body).await?;
    broker.objects.put_part(&id, number, incoming)?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    let etag = format!("\"{}\"", hex(&digest.md5));
    headers.extend(etag.parse().ok().map(|etag| (ETAG, etag)));
    if let Ok(sum) = told(&digest.crc32.to_be_bytes()).parse() {
        headers.insert("x-amz-checksum-crc32", sum);
    }
    Ok(response)
}

/// CompleteMultipartUpload.
pub(super) async fn complete(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
    body: Body,
) -> Result<Response, ApiError> {
    let id = upload_id(broker, asker, asked)?;
    let parts = xml::parts(&bounded(body, MAX_DOCUMENT).await?)?;
    let row = broker
        .objects
        .complete_upload(asker, &id, parts, room(broker))
        .await?;
    let text = xml::document(
        "CompleteMultipartUploadResult",
        &[
            ("Bucket", &asked.bucket),
            ("Key", &asked.key),
            ("ETag", &format!("\"{}\"", row.etag)),
        ],
    );
    let mut response = answer(StatusCode::OK, text);
    let headers = response.headers_mut();
    headers.extend(row.version.parse().ok().map(|id| (VERSION_ID, id)));
    Ok(response)
}

/// AbortMultipartUpload.
pub(super) fn abort(broker: &Broker, asker: &Asker, asked: &Asked) -> Result<Response, ApiError> {
    broker
        .objects
        .abort_upload(&upload_id(broker, asker, asked)?);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn upload_id(broker: &Broker, asker: &Asker, asked: &Asked) -> Result<String, ApiError> {
    let id = asked.query("uploadId").unwrap_or_default().to_owned();
    broker
        .objects
        .require_upload(&asker.principal, &id, &asked.bucket, &asked.key)?;
    Ok(id)
}
