//! Objects: put, given back whole or in part, deleted.

use super::receive::{receive, told};
use super::{Asked, VERSION_ID};
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::objects::{Asker, ObjectName, hex};
use crate::store::ObjectRow;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    LAST_MODIFIED,
};
use http::{Method, StatusCode};
use proto::code::ErrorCode;
use std::io::{self, SeekFrom};
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::ReaderStream;

/// How long an object may take to be read, and for each [`READ_PACE`] bytes one second more: as for uploads.
const READ_PATIENCE: Duration = Duration::from_secs(60);
const READ_PACE: u64 = 64 << 10;

/// Bytes read at a time.
const READ_PIECE: usize = 64 << 10;

/// Longest media type.
const MAX_TYPE: usize = 256;

/// What an object is called.
pub(super) fn name(asked: &Asked) -> Result<ObjectName, ApiError> {
    let content_type = asked.header("content-type").map(str::to_owned);
    if content_type
        .as_ref()
        .is_some_and(|kind| kind.len() > MAX_TYPE)
    {
        return Err(ApiError::field(
            "content-type",
            format!("must have at most {MAX_TYPE} bytes"),
        ));
    }
    Ok(ObjectName {
        bucket: asked.bucket.clone(),
        key: asked.key.clone(),
        content_type,
    })
}

/// PutObject.
pub(super) async fn put(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
    body: Body,
) -> Result<Response, ApiError> {
    for condition in ["if-none-match", "if-match"] {
        if asked.header(condition).is_some() {
            return Err(ApiError::new(
                ErrorCode::Validation,
                format!("objects are not put on condition here ({condition})"),
            )
            .because("NotImplemented"));
        }
    }
    let name = name(asked)?;
    let (incoming, digest) = receive(broker, asker, asked, body).await?;
    let row = broker
        .objects
        .publish(asker, name, incoming, hex(&digest.md5))
        .await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    set(headers, &row);
    if let Ok(sum) = told(&digest.crc32.to_be_bytes()).parse() {
        headers.insert("x-amz-checksum-crc32", sum);
        headers.insert(
            "x-amz-checksum-type",
            HeaderValue::from_static("FULL_OBJECT"),
        );
    }
    Ok(response)
}

/// GetObject and HeadObject.
pub(super) async fn get(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
) -> Result<Response, ApiError> {
    let missing = || {
        ApiError::not_found(format!(
            "there is no object {} in bucket {}",
            asked.key, asked.bucket
        ))
    };
    let row = broker
        .objects
        .find(asker, &asked.bucket, &asked.key)
        .await?
        .ok_or_else(missing)?;
    if asked
        .query("versionId")
        .is_some_and(|version| version != row.version)
    {
        return Err(missing().because("NoSuchVersion"));
    }
    if asked
        .header("if-match")
        .is_some_and(|etag| etag != "*" && etag.trim_matches('"') != row.etag)
    {
        return Err(
            ApiError::new(ErrorCode::Conflict, "the object has another ETag now")
                .because("PreconditionFailed"),
        );
    }
    let range = asked
        .header("range")
        .and_then(|range| parse_range(range, row.size));
    let (first, length) = range.unwrap_or((0, row.size));
    let mut response = if asked.method == Method::HEAD {
        StatusCode::OK.into_response()
    } else {
        let mut file = tokio::fs::File::from_std(broker.objects.file(&row)?);
        file.seek(SeekFrom::Start(first))
            .await
            .map_err(|error| ApiError::internal(&error))?;
        let end = Instant::now() + READ_PATIENCE + Duration::from_secs(length / READ_PACE);
        Body::from_stream(until(end, file.take(length))).into_response()
    };
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    set(headers, &row);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if range.is_some() {
        let text = format!("bytes {first}-{}/{}", first + length - 1, row.size);
        headers.extend(text.parse().ok().map(|text| (CONTENT_RANGE, text)));
    }
    let kind = row
        .content_type
        .as_deref()
        .unwrap_or("application/octet-stream");
    headers.extend(kind.parse().ok().map(|kind| (CONTENT_TYPE, kind)));
    let millis = u64::try_from(row.created_at.0).unwrap_or(0);
    let date = http_date(millis);
    headers.extend(date.parse().ok().map(|date| (LAST_MODIFIED, date)));
    Ok(response)
}

/// What is read, as its reader takes it: who takes longer than until `end` keeps no file open here, and gets a body that
/// does not look whole. A task reads, because nobody asks a body for more while its last piece is not written.
fn until(
    end: Instant,
    file: impl AsyncRead + Send + Unpin + 'static,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (pieces, mut taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut read = ReaderStream::with_capacity(file, READ_PIECE);
        let all = async {
            while let Some(piece) = read.next().await {
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        };
        if timeout_at(end, all).await.is_err() {
            // Where there is no room for it, the body ends short of its length.
            let _ = pieces.try_send(Err(io::ErrorKind::TimedOut.into()));
        }
    });
    stream::poll_fn(move |cx| taken.poll_recv(cx))
}

/// DeleteObject: what is not there is deleted already.
pub(super) async fn delete(
    broker: &Broker,
    asker: &Asker,
    asked: &Asked,
) -> Result<Response, ApiError> {
    broker
        .objects
        .delete(asker, &asked.bucket, &asked.key, asked.query("versionId"))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn set(headers: &mut HeaderMap, row: &ObjectRow) {
    let etag = format!("\"{}\"", row.etag);
    headers.extend(etag.parse().ok().map(|etag| (ETAG, etag)));
    headers.extend(row.version.parse().ok().map(|id| (VERSION_ID, id)));
}

/// First byte and length of the one range that is asked for; one that cannot be met is not asked for (RFC 9110 §14.2).
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if size == 0 {
        return None;
    }
    let (first, last) = match (first, last) {
        ("", suffix) => (
            size.saturating_sub(suffix.parse().ok().filter(|n| *n > 0)?),
            size - 1,
        ),
        (first, "") => (first.parse().ok()?, size - 1),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(size - 1)),
    };
    (first <= last).then(|| (first, last - first + 1))
}

/// RFC 9110 §5.6.7.
fn http_date(millis: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_keeps_no_file_open() {
        /// Endless, and tells when it is closed.
        struct File(#[expect(dead_code, reason = "held for its drop")] mpsc::Sender<()>);
        impl AsyncRead for File {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                buffer.initialize_unfilled().fill(7);
                buffer.advance(buffer.remaining());
                std::task::Poll::Ready(Ok(()))
            }
        }
        let (open, mut closed) = mpsc::channel(1);
        let begun = Instant::now();
        let mut body = Box::pin(until(begun + Duration::from_secs(70), File(open)));
        body.next().await.expect("a piece").expect("read");
        // It reads no more; nobody is asked for anything.
        assert_eq!(closed.recv().await, None);
        assert_eq!(begun.elapsed(), Duration::from_secs(70));
        // What was there already, and no end that could be taken for the object's.
        let mut pieces = 0;
        while let Some(piece) = body.next().await {
            assert_eq!(piece.expect("read before").len(), READ_PIECE);
            pieces += 1;
        }
        assert!(pieces <= 1);
    }

    #[test]
    fn ranges_stay_in_the_object() {
        for (text, wanted) in [
            ("bytes=0-3", Some((0, 4))),
            ("bytes=8-", Some((8, 2))),
            ("bytes=-3", Some((7, 3))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=9-100", Some((9, 1))),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-0", None),
            ("bytes=0-1,3-4", None),
            ("bytes=", None),
            ("0-1", None),
        ] {
            assert_eq!(parse_range(text, 10), wanted, "{text}");
        }
        assert_eq!(parse_range("bytes=0-0", 0), None);
    }
}
