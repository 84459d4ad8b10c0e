//! Buckets: names only, so that every client finds the one that it expects.

use super::{Asked, answer, xml};
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::objects::Asker;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use proto::code::ErrorCode;

/// `PUT` and `HEAD`: it is there.
pub(super) fn there(broker: &Broker, asked: &Asked) -> Result<Response, ApiError> {
    let region = broker.config().region.clone();
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    if let Ok(region) = region.parse() {
        headers.insert("x-amz-bucket-region", region);
    }
    if asked.method == Method::PUT
        && let Ok(location) = format!("/{}", asked.bucket).parse()
    {
        headers.insert("location", location);
    }
    Ok(response)
}

/// `GET ?location`: where it is.
pub(super) fn location(broker: &Broker) -> Response {
    let region = &broker.config().region;
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<LocationConstraint>{region}</LocationConstraint>"
    );
    answer(StatusCode::OK, text)
}

/// `GET`: its keys.
pub(super) async fn list(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
) -> Result<Response, ApiError> {
    if asked.query("list-type") != Some("2") {
        return Err(ApiError::new(
            ErrorCode::Validation,
            "lists are of type 2 here (ListObjectsV2)",
        )
        .because("NotImplemented"));
    }
    let most: u16 = match asked.query("max-keys") {
        None => 1000,
        Some(text) => text
            .parse()
            .ok()
            .filter(|most| (1..=1000).contains(most))
            .ok_or_else(|| {
                ApiError::field("max-keys", "must be 1 to 1000").because("InvalidArgument")
            })?,
    };
    let prefix = asked.query("prefix").unwrap_or_default();
    let after = asked
        .query("continuation-token")
        .or(asked.query("start-after"))
        .unwrap_or_default();
    let mut rows = broker
        .objects
        .list(asker, &asked.bucket, prefix, after, most + 1)
        .await?;
    let more = rows.len() > usize::from(most);
    rows.truncate(usize::from(most));
    // Keys may hold what XML cannot: SDKs ask for percent-encoding, and undo it.
    let encode = |key: &str| match asked.query("encoding-type") {
        Some("url") => {
            percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        }
        Some(_) | None => key.to_owned(),
    };
    let mut contents = String::new();
    for row in &rows {
        let fields = xml::elements(&[
            ("Key", &encode(&row.key)),
            ("LastModified", &row.created_at.to_string()),
            ("ETag", &format!("\"{}\"", row.etag)),
            ("Size", &row.size.to_string()),
            ("StorageClass", "STANDARD"),
        ]);
        contents.push_str(&xml::elements(&[("<Contents>", &fields)]));
    }
    let mut fields = xml::elements(&[
        ("Name", &asked.bucket),
        ("Prefix", &encode(prefix)),
        ("KeyCount", &rows.len().to_string()),
        ("MaxKeys", &most.to_string()),
        ("IsTruncated", if more { "true" } else { "false" }),
    ]);
    if asked.query("encoding-type") == Some("url") {
        fields.push_str(&xml::elements(&[("EncodingType", "url")]));
    }
    if let Some(last) = rows.last().filter(|_| more) {
        fields.push_str(&xml::elements(&[("NextContinuationToken", &last.key)]));
    }
    fields.push_str(&contents);
    Ok(answer(
        StatusCode::OK,
        xml::elements(&[("<ListBucketResult>", &fields)]),
    ))
}
