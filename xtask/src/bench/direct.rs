//! Agents run directly on this host, without us: what a session is compared with.

use super::subject::native_agent;
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::http::{Stream, Target};
use nix::sched::{CloneFlags, unshare};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two attempts to reach an agent that starts: well below what is measured.
const RETRY: Duration = Duration::from_micros(300);

/// How long an agent may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when it goes out of scope.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Waits for a listener, trying again quickly.
pub(crate) fn reach(port: u16) -> anyhow::Result<TcpStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => ensure!(
                Instant::now() < until,
                "nobody listens on port {port}: {error}"
            ),
        }
        std::thread::sleep(RETRY);
    }
}

/// The native agent on a loopback port.
pub(crate) struct Native {
    pub(crate) target: Target,
    _process: Running,
}

impl Native {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let process = Command::new(native_agent())
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .spawn()
            .context("start native-agent")?;
        let process = Running(process);
        reach(port)?;
        Ok(Self {
            target: Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _process: process,
        })
    }
}

/// uvicorn, as a developer runs the AWS SDK's application without anything of ours: `python3 -m uvicorn my_agent:app`.
pub(crate) struct Uvicorn {
    pub(crate) target: Target,
    _process: Running,
}

impl Uvicorn {
    /// In a folder that has the agent and its packages.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let process = Command::new("/usr/bin/python3")
            .args(["-m", "uvicorn", "my_agent:app", "--log-level", "warning"])
            .args(["--no-access-log", "--port", &port.to_string()])
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", "/tmp")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start uvicorn")?;
        let process = Running(process);
        reach(port)?;
        Ok(Self {
            target: Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _process: process,
        })
    }
}

/// `/usr/bin/python3 my_agent.py`, as a developer runs it.
pub(crate) struct Python {
    pub(crate) folder: PathBuf,
    pub(crate) path: Option<PathBuf>,
}

impl Python {
    /// From exec to the first byte of its first answer. The SDKs listen on port 8080, which may be taken on this host, so
    /// all of it happens on the loopback of a network namespace made for it.
    pub(crate) fn first_answer(&self, request: &[u8]) -> anyhow::Result<Duration> {
        self.apart(|| Ok(self.answer_here(request)?.0))
    }

    /// What `look` finds of its process once it has answered.
    pub(crate) fn after_first_answer<T: Send>(
        &self,
        request: &[u8],
        look: impl Fn(i32) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<T> {
        self.apart(|| {
            let (_, process) = self.answer_here(request)?;
            look(i32::try_from(process.0.id())?)
        })
    }

    fn apart<T: Send>(
        &self,
        measure: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let measured = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
                    let up = Command::new("ip")
                        .args(["link", "set", "lo", "up"])
                        .status()
                        .context("start ip")?;
                    ensure!(up.success(), "ip link set lo up: {up}");
                    measure()
                })
                .join()
        });
        measured.map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    }

    fn answer_here(&self, request: &[u8]) -> anyhow::Result<(Duration, Running)> {
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg("my_agent.py")
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", "/tmp")
            .env("LANG", "C.UTF-8")
            .env("DOCKER_CONTAINER", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(path) = &self.path {
            command.env("PYTHONPATH", path);
        }
        let began = Instant::now();
        let process = Running(command.spawn().context("start python3")?);
        let stream = reach(8080)?;
        let connected = began.elapsed();
        let timing = Wire::over(Stream::Tcp(stream)).call(request)?;
        Ok((connected + timing.first, process))
    }
}

/// A copy with times kept: Python compares them with those in its compiled files.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp -a {}", from.display());
    Ok(())
}

/// The same, if it is not there yet.
pub(crate) fn copy_once(from: &Path, to: &Path) -> anyhow::Result<()> {
    match to.exists() {
        true => Ok(()),
        false => copy_tree(from, to),
    }
}

/// What an agent is asked on the local wire.
pub(crate) fn request(session: &str, body: &[u8]) -> Vec<u8> {
    wire::post(
        "/invocations",
        &[(e2e::client::SESSION_HEADER, session)],
        body,
    )
}
