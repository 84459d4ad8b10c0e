//! The daemon under measurement: the optimised build, in directories of its own, with the examples deployed as a user
//! deploys them.

use crate::build;
use anyhow::{Context as _, ensure};
use e2e::canaries::Canaries;
use e2e::http::Target;
use e2e::{Client, Daemon, Options, host, places, wait};
use std::path::{Path, PathBuf};

/// Launches that the daemon prepares ahead unless it is told otherwise (`limits.prepared_launches`).
const PREPARED: usize = 6;

/// What a prepared launch calls itself.
const STAGER: &str = "agentcored: stager";

pub(crate) struct Subject {
    daemon: Daemon,
}

/// Nothing is warm but what `config` asks for.
fn options(config: &str) -> Options {
    let mut options = Options {
        binaries: build::directory(true),
        ..Options::default()
    }
    .config("base = \"host\"")
    .config(config);
    for (section, off) in [("[template]", "fork = \"off\""), ("[pool]", "max = 0")] {
        if !config.contains(section) {
            options = options.config(&format!("{section}\n{off}"));
        }
    }
    options
}

impl Subject {
    /// Starts one whose TCP callers sign.
    pub(crate) fn checked() -> anyhow::Result<Self> {
        Self::with(Options {
            dev: false,
            ..options("listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"")
        })
    }

    /// Starts it and deploys `native`, `echo` and `aws_sdk`.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::with(options(""))
    }

    /// As [`Self::start`], with more configuration, in a directory of its own or in this one.
    pub(crate) fn with_more(config: &str, dir: Option<PathBuf>) -> anyhow::Result<Self> {
        Self::with(Options {
            dir,
            ..options(config)
        })
    }

    /// As [`Self::with_more`], with things around that no session may find.
    pub(crate) fn around(canaries: &Canaries, config: &str) -> anyhow::Result<Self> {
        Self::with(canaries.around(options(config)))
    }

    /// Starts one whose sessions outlive it.
    pub(crate) fn outlived() -> anyhow::Result<Self> {
        Self::with(Options {
            end_sessions: false,
            ..options("")
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Starts it again, until it answers.
    pub(crate) fn come_back(&mut self) -> anyhow::Result<()> {
        self.daemon.restart()
    }

    fn with(options: Options) -> anyhow::Result<Self> {
        let daemon = Daemon::start(options)?;
        let subject = Self { daemon };
        for name in ["native", "echo", "aws_sdk"] {
            subject.deploy(name)?;
        }
        Ok(subject)
    }

    /// Ends it and starts it again, with more configuration.
    pub(crate) fn restart(&mut self, config: &str) -> anyhow::Result<()> {
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon ended with {status}");
        self.daemon.restart_with(options(config))
    }

    /// Ends it and proves that nothing of it is left.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        self.daemon.end()
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn client(&self) -> Client {
        self.daemon.client()
    }

    pub(crate) fn unix(&self) -> Target {
        self.daemon.client().target
    }

    pub(crate) fn tcp(&self) -> anyhow::Result<Target> {
        Ok(self.daemon.tcp()?.target)
    }

    fn deploy(&self, name: &str) -> anyhow::Result<()> {
        let folder = self.folder(name);
        copy_files(&places::example(name), &folder)?;
        if name == "native" {
            std::fs::copy(native_agent(), folder.join("native-agent"))?;
        }
        let output = self
            .daemon
            .cli()
            .current_dir(&folder)
            .arg("launch")
            .output()
            .context("start agentcore")?;
        ensure!(
            output.status.success(),
            "agentcore launch of {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Where the sources of an example were deployed from.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.daemon.dir().join("agents").join(name)
    }

    /// The daemon's own unpacked copy of a runtime's bundle: the very files that its sessions see at `/app`.
    pub(crate) fn bundle(&self, name: &str) -> anyhow::Result<PathBuf> {
        let artifact = self.client().runtime(name)?.artifact;
        let mut queue = vec![self.daemon.state_dir()];
        while let Some(directory) = queue.pop() {
            if directory.join("my_agent.py").is_file() {
                if directory.to_string_lossy().contains(artifact.as_str()) {
                    return Ok(directory);
                }
                continue;
            }
            // A base is large, and no bundle.
            if directory.ends_with("bases") {
                continue;
            }
            let entries = std::fs::read_dir(&directory)
                .with_context(|| format!("read {}", directory.display()))?;
            queue.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        }
        anyhow::bail!("the bundle of {name} is not below the state directory")
    }

    /// Waits until the daemon has nothing to do: all prepared launches are parked.
    pub(crate) fn rest(&self) -> anyhow::Result<()> {
        wait::until_true(30, "the launcher to have its launches prepared", || {
            let parked = self.stagers()?.into_iter();
            Ok(parked.filter(|pid| host::state(*pid) == Some('S')).count() == PREPARED)
        })
    }

    /// The launcher's process.
    pub(crate) fn launcher(&self) -> anyhow::Result<i32> {
        self.daemon.launcher()
    }

    /// Processes of prepared launches.
    pub(crate) fn stagers(&self) -> anyhow::Result<Vec<i32>> {
        Ok(host::children(self.launcher()?)
            .into_iter()
            .filter(|pid| host::title(*pid) == STAGER)
            .collect())
    }

    /// What the daemon has to say when a measurement has failed.
    pub(crate) fn print_log(&self) {
        let log = self.daemon.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        eprintln!("---- agentcored\n{}", tail.join("\n"));
    }
}

/// The optimised build of `examples/native`.
pub(crate) fn native_agent() -> PathBuf {
    build::directory(true).join("native-agent")
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
