//! `agentcore backup FILE`: a copy of the daemon's database. The file is there when all of it is, checked and on disk.

use super::Desk;
use crate::daemon::{DaemonError, empty};
use crate::failure::{Exit, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Method;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What says which bytes were sent (RFC 9530).
const DIGEST: &str = "repr-digest";

/// Makes the file.
pub(super) async fn run(desk: &Desk, path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{} is there already", path.display()),
        )
        .advice("name a file that is not; a backup never replaces another"));
    }
    let local = |verb: &str, error: &io::Error| {
        Failure::new(
            Exit::Failed,
            format!("cannot {verb} {}: {error}", path.display()),
        )
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Before the daemon has any work with it. There are secrets in it.
    let mut file = tempfile::Builder::new()
        .prefix(".agentcore-backup-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(|error| local("write", &error))?;
    let daemon = &desk.daemon;
    let answer = daemon
        .call(daemon.request(Method::POST, "/v1/backup", empty()))
        .await?;
    let announced = answer.headers().get(DIGEST).cloned();
    let mut body = answer.into_body();
    let mut sum = Sha256::new();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| DaemonError::Broken {
            method: Method::POST,
            path: "/v1/backup".to_owned(),
            source: error.into(),
        })?;
        if let Ok(piece) = frame.into_data() {
            sum.update(&piece);
            bytes += piece.len();
            file.write_all(&piece)
                .map_err(|error| local("write", &error))?;
        }
    }
    let digest = format!("sha-256=:{}:", STANDARD.encode(sum.finalize()));
    if announced.is_none_or(|announced| announced.as_bytes() != digest.as_bytes()) {
        return Err(Failure::new(
            Exit::Failed,
            "what arrived is not what the daemon sent; nothing was kept",
        )
        .advice("try again"));
    }
    file.as_file()
        .sync_all()
        .map_err(|error| local("write", &error))?;
    file.persist_noclobber(path)
        .map_err(|error| local("make", &error.error))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| local("make", &error))?;
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&serde_json::json!({ "file": path, "bytes": bytes }));
    }
    screen.line(path.display().to_string())?;
    screen.note(format!(
        "{bytes} bytes: runtimes, keys, sessions, tasks as the database knows them. What is in files is not in it \
         (bundles, objects, results, session storage); docs/backup.md says how to restore it"
    ));
    Ok(())
}
