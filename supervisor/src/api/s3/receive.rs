//! A body on its way into a file: unframed, bounded in size and time, and held to every checksum that came with it.

use super::chunked::Chunked;
use super::{Asked, room};
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::objects::{Asker, Digest, Incoming, MAX_OBJECT};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use proto::code::ErrorCode;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long an upload may take, and for each [`PACE`] bytes one second more: as for bundles.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: u64 = 64 << 10;

/// Algorithms whose checksums are not verified here, and so not taken.
const NOT_VERIFIED: &[&str] = &[
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
];

/// Receives the whole body.
pub(super) async fn receive(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
    body: Body,
) -> Result<(Incoming, Digest), ApiError> {
    if asked
        .header("content-length")
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > MAX_OBJECT + (MAX_OBJECT >> 4))
    {
        return Err(crate::objects::ObjectError::TooLarge.into());
    }
    let signed = asked.header("x-amz-content-sha256").unwrap_or_default();
    let encoded = asked.header("content-encoding").unwrap_or_default();
    let framed = signed.starts_with("STREAMING-") || encoded.contains("aws-chunked");
    let mut chunked = framed.then(Chunked::default);
    let mut incoming = broker.objects.begin(&asker.principal, room(broker))?;
    let mut pieces = body.into_data_stream();
    let (began, mut bytes) = (Instant::now(), 0_u64);
    loop {
        let deadline = began + PATIENCE + Duration::from_secs(bytes / PACE);
        let piece = match timeout_at(deadline, pieces.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(_))) => return Err(crate::objects::ObjectError::Interrupted.into()),
            Err(_) => {
                return Err(ApiError::field(
                    "body",
                    format!("comes too slowly; {PACE} bytes a second are expected"),
                )
                .because("RequestTimeout"));
            }
        };
        bytes += piece.len() as u64;
        let data = match &mut chunked {
            None => vec![piece],
            Some(chunked) => chunked.feed(piece).map_err(broken)?,
        };
        for data in data {
            incoming = incoming.take(data).await?;
        }
    }
    let trailers = match chunked {
        None => Vec::new(),
        Some(chunked) => chunked.finish().map_err(broken)?,
    };
    let digest = incoming.digest();
    if let Some(length) = asked.header("x-amz-decoded-content-length")
        && length != digest.size.to_string()
    {
        return Err(bad("x-amz-decoded-content-length"));
    }
    let headers = asked
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let trailers = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in headers.chain(trailers) {
        verify(name, value, &digest)?;
    }
    Ok((incoming, digest))
}

/// A checksum in Base64, as S3 writes it.
pub(super) fn told(sum: &[u8]) -> String {
    STANDARD.encode(sum)
}

fn verify(name: &str, value: &str, digest: &Digest) -> Result<(), ApiError> {
    let right = match name {
        "content-md5" => value == told(&digest.md5),
        "x-amz-checksum-crc32" => value == told(&digest.crc32.to_be_bytes()),
        "x-amz-checksum-sha256" => value == told(&digest.sha256_bytes),
        // The signature covers this header; the body is only covered by it if they agree.
        "x-amz-content-sha256" if value.len() == 64 => value.eq_ignore_ascii_case(&digest.sha256),
        _ if NOT_VERIFIED.contains(&name) => {
            return Err(ApiError::new(
                ErrorCode::Validation,
                format!("{name} is not verified here; use CRC32 or SHA256"),
            )
            .because("NotImplemented"));
        }
        _ => true,
    };
    if right { Ok(()) } else { Err(bad(name)) }
}

fn bad(name: &str) -> ApiError {
    ApiError::field(name, "is not that of the body that came").because("BadDigest")
}

fn broken(error: super::chunked::Broken) -> ApiError {
    ApiError::new(ErrorCode::Validation, error.to_string()).because("IncompleteBody")
}
