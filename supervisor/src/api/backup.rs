//! `POST /v1/backup`: a copy of the database, made and checked while everything goes on.
//!
//! The caller gets the bytes and puts them where it likes: the daemon would have to be let at that place, and what it may write
//! to, others may be able to read. There are sessions' tokens in it, so only operators get one.

use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::respond;
use crate::broker::Broker;
use crate::store::Copied;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use proto::code::ErrorCode;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use tokio_util::io::ReaderStream;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// The route.
#[utoipa::path(
    post,
    path = "/backup",
    operation_id = "makeBackup",
    summary = "A copy of the database, for `agentcore backup`",
    tag = "daemon",
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/vnd.sqlite3", description = "A SQLite database; `Repr-Digest` is its SHA-256 (RFC 9530)"),
        Refusals
    )
)]
pub async fn backup(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
) -> Response {
    respond(copy(&broker).await, &id)
}

async fn copy(broker: &Broker) -> Result<Response, ApiError> {
    // Each takes as much room as the database; until its caller has it, nobody else gets one.
    let turn = Arc::clone(&broker.backups)
        .try_lock_owned()
        .map_err(|_taken| {
            ApiError::new(
                ErrorCode::RetryableConflict,
                "another backup is being made; try again when it is done",
            )
        })?;
    let copied = broker
        .store
        .copy(&broker.ground.directory.join("copies"))
        .await?;
    let bytes = copied.bytes;
    let (file, digest) = tokio::task::spawn_blocking(move || digest(copied))
        .await
        .map_err(|error| ApiError::internal(&error))?
        .map_err(|error| ApiError::internal(&error))?;
    tracing::info!(bytes, "backup made");
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
    // The turn goes with the last piece.
    let body = Body::from_stream(pieces.inspect_ok(move |_| {
        let _ = &turn;
    }));
    let headers = [
        (CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (CONTENT_LENGTH, bytes.to_string()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    let digest = format!("sha-256=:{}:", STANDARD.encode(digest));
    Ok((headers, [("repr-digest", digest)], body).into_response())
}

fn digest(copied: Copied) -> io::Result<(File, [u8; 32])> {
    let mut file = copied.file;
    let mut sum = Sha256::new();
    let mut piece = vec![0; CHUNK];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        sum.update(piece.get(..read).unwrap_or_default());
    }
    file.rewind()?;
    Ok((file, sum.finalize().into()))
}
