//! `agentcore launch`: this folder's agent as a runtime's next version.
//!
//! Bundle ▸ upload, unless the daemon has these bytes already ▸ `PUT /v1/runtimes/{name}` ▸ wait until READY. [`deploy`]
//! is the part that `dev` and `doctor` share.

use super::Desk;
use crate::args::Launch;
use crate::bundle::pack::{Packed, pack};
use crate::bundle::{Entry, Kind, Selection};
use crate::daemon::{Body, DaemonError, encode};
use crate::failure::{Exit, Failure};
use crate::project::Project;
use crate::signer::CONTENT_SHA256;
use crate::vendor::interpreter::PythonVersion;
use crate::vendor::{self, VendorError};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use proto::api::{Artifact, Info, PutRuntime, Runtime};
use proto::config::{Language, RuntimeConfig};
use proto::ids::ArtifactId;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;

mod howto;

/// How long a version may take to become READY; making one is a matter of milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A version that is ready.
#[derive(Debug)]
pub(super) struct Deployed {
    /// The runtime as the daemon describes it.
    pub(super) runtime: Runtime,
    /// Whether the bundle had to be sent.
    pub(super) uploaded: bool,
}

/// Launches the folder and says how to call it.
pub(super) async fn run(desk: &Desk, args: &Launch) -> Result<(), Failure> {
    let mut project = Project::open(&args.file)?;
    project
        .config
        .environment
        .extend(args.environment.iter().cloned());
    let info: Info = desk.daemon.get("/v1/info").await?;
    let selection = Selection::of(&project.folder, project.language())?;
    remarks(desk, &project, &selection);
    let dependencies = dependencies(desk, &project, &info, args.force_rebuild_deps).await?;
    let packed = bundle(desk, &project, &selection, dependencies.as_deref())?;
    let deployed = deploy(desk, &project.config, &packed).await?;
    show(desk, &deployed, &packed, &info)
}

/// Things worth a word that are not wrong.
pub(super) fn remarks(desk: &Desk, project: &Project, selection: &Selection) {
    for file in &selection.secrets {
        desk.screen.note(format!(
            "{file} is left out of the bundle (it may hold secrets); `!{file}` in .agentcoreignore takes it in"
        ));
    }
    let unused = project.language() == Language::Python
        && project.config.requirements.is_none()
        && selection.find("requirements.txt").is_some();
    if unused {
        desk.screen.warn(
            "requirements.txt is there, but agentcore.toml has no `requirements`: nothing is installed from it",
        );
    }
    let node = project.language() == Language::Node
        && selection.find("package.json").is_some()
        && !project.folder.join("node_modules").exists();
    if node {
        desk.screen.warn("package.json is there, but no node_modules: run `npm ci` if the agent has dependencies");
    }
}

/// The archive of the project's requirements, if it has any.
pub(super) async fn dependencies(
    desk: &Desk,
    project: &Project,
    info: &Info,
    again: bool,
) -> Result<Option<PathBuf>, Failure> {
    let Some(requirements) = &project.config.requirements else {
        return Ok(None);
    };
    if project.language() != Language::Python {
        desk.screen.warn(format!(
            "{requirements} is for Python and this agent is not: it is left alone"
        ));
        return Ok(None);
    }
    let version = info.base.get("python3").map(String::as_str);
    let python = version.and_then(PythonVersion::parse).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            "the daemon's base has no Python, so this agent cannot run there",
        )
        .advice("install python3 on the daemon's host and restart it")
    })?;
    let file = project.folder.join(requirements);
    Ok(Some(
        vendor::dependencies(&desk.screen, &file, python, again).await?,
    ))
}

/// Packs the selected files over the dependencies.
pub(super) fn bundle(
    desk: &Desk,
    project: &Project,
    selection: &Selection,
    dependencies: Option<&Path>,
) -> Result<Packed, Failure> {
    check_entrypoint(project, selection)?;
    let stage = desk
        .screen
        .stage(format!("Bundling {}", project.folder.display()));
    let packed = pack(&selection.entries, dependencies, &vendor::cache()?);
    drop(stage);
    Ok(packed?)
}

/// A missing entrypoint is found out here rather than by the first caller.
fn check_entrypoint(project: &Project, selection: &Selection) -> Result<(), Failure> {
    let words = project.config.entrypoint.words();
    let first = words.first().map_or("", String::as_str);
    if first.is_empty() {
        return Err(Failure::usage("`entrypoint` in agentcore.toml is empty")
            .advice("name the agent's file: entrypoint = \"my_agent.py\""));
    }
    let executable = |entry: &Entry| match entry.kind {
        Kind::File { executable, .. } => executable,
        Kind::Link { .. } => true,
    };
    match (project.language(), selection.find(first)) {
        (Language::Python | Language::Node, None) => Err(Failure::usage(format!(
            "the entrypoint {first} is not in the bundle"
        ))
        .advice("correct `entrypoint`, or see whether .agentcoreignore leaves it out")),
        (Language::Binary, Some(entry)) if !executable(entry) => Err(Failure::usage(format!(
            "the entrypoint {first} is not executable"
        ))
        .advice(format!("chmod +x {}", entry.source.display()))),
        // A program that is not in the bundle may be one of the base (`bash`) or a console script of a dependency.
        (Language::Python | Language::Node | Language::Binary, _) => Ok(()),
    }
}

/// Makes `packed` the next version of the runtime, and waits until it is READY.
pub(super) async fn deploy(
    desk: &Desk,
    config: &RuntimeConfig,
    packed: &Packed,
) -> Result<Deployed, Failure> {
    let known: Option<Artifact> = desk
        .daemon
        .find(&format!("/v1/artifacts/{}", packed.artifact))
        .await?;
    let uploaded = known.is_none();
    if uploaded {
        upload(desk, packed).await?;
    }
    let body = PutRuntime {
        artifact: packed.artifact.clone(),
        config: config.clone(),
    };
    let path = format!("/v1/runtimes/{}", encode(config.name.as_str()));
    let (_, runtime): (_, Runtime) = desk.daemon.put(&path, &body).await?;
    let runtime = ready(desk, runtime, &path).await?;
    Ok(Deployed { runtime, uploaded })
}

async fn upload(desk: &Desk, packed: &Packed) -> Result<(), Failure> {
    let stage = desk.screen.transfer("Uploading", packed.bytes);
    let read_error = |source| VendorError::File {
        verb: "read",
        path: packed.file.path().to_owned(),
        source,
    };
    let mut file = tokio::fs::File::open(packed.file.path())
        .await
        .map_err(read_error)?;
    // One chunk on its way while the next is read.
    let (mut into, body) = Channel::<Bytes, std::io::Error>::new(1);
    let mut request = desk
        .daemon
        .request(Method::POST, "/v1/artifacts", Body::new(body.boxed()));
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(CONTENT_LENGTH, packed.bytes.into());
    // An artifact's id is its hash: a signature covers the bundle without reading it twice.
    let hash = HeaderValue::from_str(packed.artifact.as_str()).expect("hex is visible ASCII");
    headers.insert(CONTENT_SHA256, hash);
    let send = async {
        let mut sent = 0;
        loop {
            let mut chunk = vec![0; 256 * 1024];
            match file.read(&mut chunk).await {
                Ok(0) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    sent += length as u64;
                    // The daemon may answer (with a refusal) before it has read all.
                    if into.send_data(chunk.into()).await.is_err() {
                        return;
                    }
                    stage.at(sent);
                }
                Err(error) => return into.abort(error),
            }
        }
    };
    let call = async {
        let answer = desk.daemon.call(request).await?;
        desk.daemon
            .document::<Artifact>(Method::POST, "/v1/artifacts", answer)
            .await
    };
    // The sender ends by itself once the body is complete or the request is dropped.
    let (artifact, ()) = tokio::join!(call, send);
    same(&packed.artifact, &artifact?)
}

fn same(ours: &ArtifactId, theirs: &Artifact) -> Result<(), Failure> {
    if *ours == theirs.artifact_id {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "the upload was damaged on its way: sent {ours}, the daemon has {}",
            theirs.artifact_id
        ),
    )
    .advice("launch again"))
}

/// Waits for READY.
pub(super) async fn ready(desk: &Desk, first: Runtime, path: &str) -> Result<Runtime, Failure> {
    let wait = async {
        let mut runtime = first;
        loop {
            match runtime.status.as_str() {
                "READY" => return Ok(runtime),
                status if status.ends_with("FAILED") => {
                    return Err(Failure::new(
                        Exit::Failed,
                        format!(
                            "version {} of {} is {status}",
                            runtime.version, runtime.name
                        ),
                    ));
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    runtime = desk.daemon.get(path).await?;
                }
            }
        }
    };
    let waited = tokio::time::timeout(READY_WITHIN, wait).await;
    waited.unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::TimedOut,
            format!(
                "the version is not READY after {} s",
                READY_WITHIN.as_secs()
            ),
        )
        .advice("`agentcore status` tells when it is"))
    })
}

fn show(desk: &Desk, deployed: &Deployed, packed: &Packed, info: &Info) -> Result<(), Failure> {
    let (screen, runtime) = (&desk.screen, &deployed.runtime);
    if screen.json {
        return screen.document(&json!({
            "arn": runtime.arn,
            "name": runtime.name,
            "runtimeId": runtime.runtime_id,
            "version": runtime.version,
            "status": runtime.status,
            "artifactId": packed.artifact,
            "artifactBytes": packed.bytes,
            "files": packed.entries,
            "uploaded": deployed.uploaded,
        }));
    }
    if screen.quiet {
        return screen.line(&runtime.arn);
    }
    let sent = if deployed.uploaded {
        "uploaded"
    } else {
        "unchanged, not uploaded"
    };
    screen.line(format!(
        "{} version {} is {} ({} files, {}, {sent})",
        runtime.name,
        runtime.version,
        screen.paint(crate::screen::Tone::Good, &runtime.status),
        packed.entries,
        crate::table::bytes(packed.bytes),
    ))?;
    screen.line(&runtime.arn)?;
    screen.line("")?;
    screen.line(howto::text(desk.daemon.endpoint(), info, runtime))
}

/// How to call `runtime`, for `status`.
pub(super) fn how_to_call(desk: &Desk, info: &Info, runtime: &Runtime) -> String {
    howto::text(desk.daemon.endpoint(), info, runtime)
}

/// Deletes the runtime `name` (its sessions are stopped), and those `artifacts` that nothing else uses. What is gone
/// already, or was never made, is no failure.
pub(super) async fn withdraw<'a>(
    desk: &Desk,
    name: &str,
    artifacts: impl IntoIterator<Item = &'a ArtifactId>,
) -> Result<(), Failure> {
    // What was withdrawn is gone when we say so, its sessions too.
    let runtime = format!("/v1/runtimes/{}?wait=true", encode(name));
    match desk.daemon.delete(&runtime).await {
        Ok(()) => {}
        Err(DaemonError::Refused(refusal)) if refusal.status == 404 => {}
        Err(error) => return Err(error.into()),
    }
    for artifact in artifacts {
        let path = format!("/v1/artifacts/{artifact}");
        match desk.daemon.delete(&path).await {
            // Another runtime uses it, or it was collected.
            Ok(()) | Err(DaemonError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
