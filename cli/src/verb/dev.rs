//! `agentcore dev`: this folder's agent in a real session, served on localhost, reloaded when files change.
//!
//! The folder becomes a runtime of its own (`<name>_dev`), so that the deployed one is left alone. A small proxy serves
//! the local-dev wire for it; requests without a session header share one session. A change makes a new version, and the
//! next request begins a session on it. Ctrl-C deletes the runtime and with it everything that was made.

use super::Desk;
use super::launch::{bundle, dependencies, deploy, remarks, withdraw};
use crate::args::Dev;
use crate::bundle::Selection;
use crate::failure::{Exit, Failure};
use crate::project::Project;
use proto::api::Info;
use proto::config::RuntimeConfig;
use proto::ids::{ArtifactId, RuntimeName};
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use sticky::Sticky;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

mod proxy;
mod sticky;
mod watch;

/// First port that is tried, and how many after it.
const PORTS: std::ops::RangeInclusive<u16> = 8080..=8180;

/// Serves until it is interrupted.
pub(super) async fn run(desk: &Desk, args: &Dev) -> Result<(), Failure> {
    let interrupted = interrupt()?;
    let listener = listen(args.port).await?;
    let mut site = Site {
        desk: desk.clone(),
        args,
        artifacts: BTreeSet::new(),
        live: None,
    };
    let outcome = tokio::select! {
        outcome = site.serve(listener) => outcome,
        () = interrupted => Ok(()),
    };
    let cleaned = site.close().await;
    outcome?;
    cleaned
}

/// Resolves at Ctrl-C or SIGTERM. A second Ctrl-C ends the process at once, as without us.
fn interrupt() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn listen(port: Option<u16>) -> Result<TcpListener, Failure> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = port {
        return bind(port).await.map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot listen on port {port}: {error}"),
            )
            .advice("choose another, or leave -p out for the next free one")
        });
    }
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in PORTS {
        match bind(port).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "no port from {} to {} is free: {last}",
            PORTS.start(),
            PORTS.end()
        ),
    )
    .advice("choose one with -p"))
}

/// What `dev` has made so far.
#[derive(Debug)]
struct Site<'a> {
    desk: Desk,
    args: &'a Dev,
    /// Every bundle that was uploaded, to be deleted at the end.
    artifacts: BTreeSet<ArtifactId>,
    live: Option<Live>,
}

/// The version being served.
#[derive(Debug)]
struct Live {
    config: RuntimeConfig,
    artifact: ArtifactId,
}

impl Site<'_> {
    async fn serve(&mut self, listener: TcpListener) -> Result<(), Failure> {
        let first = Project::open(&self.args.file)?;
        let mut watch = watch::Watch::begin(&first)?;
        self.deploy(first).await?;
        let live = self.live.as_ref().expect("deployed the line before");
        let sticky = Arc::new(Sticky::new(self.desk.clone(), live.config.name.to_string()));
        self.announce(&listener, &live.config)?;
        let serving = proxy::serve(listener, Arc::clone(&sticky), live.config.path().into());
        tokio::pin!(serving);
        loop {
            tokio::select! {
                ended = &mut serving => return ended,
                () = watch.changed() => {}
            }
            // Requests go on being served by the old version meanwhile.
            let reloaded = tokio::select! {
                ended = &mut serving => return ended,
                reloaded = self.reload() => reloaded,
            };
            match reloaded {
                Ok(true) => {
                    self.desk
                        .screen
                        .note("-- reloaded; the next request begins a new session");
                    sticky.renew();
                }
                Ok(false) => {}
                // A half-written file, most likely: the old version goes on until the next change.
                Err(failure) => self.desk.screen.failure(&failure),
            }
        }
    }

    fn announce(&self, listener: &TcpListener, config: &RuntimeConfig) -> Result<(), Failure> {
        let port = listener.local_addr().map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot tell the port: {error}"))
        })?;
        let url = format!("http://{port}");
        let screen = &self.desk.screen;
        if screen.json {
            return screen.record(&json!({ "url": url, "runtime": config.name }));
        }
        if screen.quiet {
            return screen.line(url);
        }
        screen.line(format!(
            "Serving {} on {url}{} (Ctrl-C ends it)",
            config.name,
            config.path()
        ))
    }

    /// Makes the folder as it is now the next version; `false` if nothing that counts has changed.
    async fn reload(&mut self) -> Result<bool, Failure> {
        let project = Project::open(&self.args.file)?;
        self.deploy(project).await
    }

    async fn deploy(&mut self, mut project: Project) -> Result<bool, Failure> {
        let first = self.live.is_none();
        project
            .config
            .environment
            .extend(self.args.environment.iter().cloned());
        project.config.name = match &self.live {
            // A name changed under us takes effect with the next start.
            Some(live) => live.config.name.clone(),
            None => dev_name(&project.config.name),
        };
        let desk = &self.desk;
        let selection = Selection::of(&project.folder, project.language())?;
        let info: Info = desk.daemon.get("/v1/info").await?;
        if first {
            remarks(desk, &project, &selection);
        }
        let dependencies = dependencies(desk, &project, &info, false).await?;
        let packed = bundle(
            desk,
            &project,
            &selection,
            dependencies.as_deref().map(Path::new),
        )?;
        let same = self
            .live
            .as_ref()
            .is_some_and(|live| live.artifact == packed.artifact && live.config == project.config);
        if same {
            return Ok(false);
        }
        self.artifacts.insert(packed.artifact.clone());
        // From here on there may be something to delete, whatever comes of it.
        let before = self.live.replace(Live {
            config: project.config.clone(),
            artifact: packed.artifact.clone(),
        });
        if let Err(failure) = deploy(&self.desk, &project.config, &packed).await {
            // So that the next change is compared with what is really served.
            if before.is_some() {
                self.live = before;
            }
            return Err(failure);
        }
        Ok(true)
    }

    /// Deletes the runtime, its session and its bundles.
    async fn close(self) -> Result<(), Failure> {
        let Some(live) = self.live else { return Ok(()) };
        self.desk.screen.note("-- stopping");
        withdraw(&self.desk, live.config.name.as_str(), &self.artifacts).await
    }
}

fn dev_name(name: &RuntimeName) -> RuntimeName {
    // Names have at most 48 characters, all ASCII.
    let short: String = name.as_str().chars().take(44).collect();
    RuntimeName::parse(format!("{short}_dev"))
        .expect("a name with an allowed ending, at most 48 long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_names_fit() {
        for (name, dev) in [
            ("a".to_owned(), "a_dev".to_owned()),
            ("b".repeat(48), format!("{}_dev", "b".repeat(44))),
        ] {
            let name = RuntimeName::parse(name).expect("a name");
            assert_eq!(dev_name(&name).as_str(), dev);
        }
    }
}
