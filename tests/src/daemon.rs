//! A daemon of a test's own: made, watched and ended here, by pid, with nothing left behind.
//!
//! Each has its own state and runtime directories below [`places::scratch`], so several run side by side. Its log goes to a
//! file; when the test fails, that log and those of its sessions are printed. [`Daemon::end`] (or dropping it) sends TERM,
//! waits, and checks that no process, cgroup, mount or socket of the instance is there any more.

use crate::client::Client;
use crate::http::{Request, Target};
use crate::{cgroup, host, leaks, places, wait};
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--dev`.
    pub dev: bool,
    /// Text of its configuration file, put after what the framework needs.
    pub config: String,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
    /// Added to its command line.
    pub args: Vec<String>,
    /// Directory with the binaries.
    pub binaries: PathBuf,
    /// Command line that the daemon's is appended to (`nsenter …`); it must exec, not fork.
    pub wrap: Vec<String>,
    /// Directory for state, runtime, log; `None` makes a new one that is removed at the end.
    pub dir: Option<PathBuf>,
    /// Whether sessions end when the daemon does (`end_sessions_on_exit`).
    pub end_sessions: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dev: true,
            config: String::new(),
            env: Vec::new(),
            args: Vec::new(),
            binaries: places::binaries(),
            wrap: Vec::new(),
            dir: None,
            end_sessions: true,
        }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    dir: PathBuf,
    owns_dir: bool,
    options: Options,
    instance: String,
    keep: bool,
}

/// A new directory for one daemon.
pub fn new_dir() -> anyhow::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        clear_stale()?;
    }
    let dir = places::scratch().join(format!("{}-{number}", std::process::id()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// A configuration in which what waits goes after a second.
fn unused_at_once(text: &str, table: &str) -> String {
    let line = "unused_after = 1";
    let header = format!("[{table}]");
    let (mut out, mut within, mut found) = (String::new(), false, false);
    for one in text.lines() {
        if one.starts_with('[') {
            within = one == header;
            found |= within;
        } else if within && one.starts_with("unused_after") {
            continue;
        }
        out.push_str(one);
        out.push('\n');
        if one == header {
            out.push_str(line);
            out.push('\n');
        }
    }
    if !found {
        out.push_str(&format!("{header}\n{line}\n"));
    }
    out
}

/// Directories of test processes that are gone.
fn clear_stale() -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(places::scratch()) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid: Option<i32> = name.split_once('-').and_then(|(pid, _)| pid.parse().ok());
        if pid.is_some_and(|pid| host::start_time(pid).is_none()) {
            // Two tests may find the same one.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

impl Options {
    /// A daemon whose TCP callers sign.
    #[must_use]
    pub fn signed() -> Self {
        let options = Self {
            dev: false,
            ..Self::default()
        };
        options.config("listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"")
    }

    /// Health checks fast enough for a test.
    #[must_use]
    pub fn quick() -> Self {
        Self::default().config("[ping]\ninterval = 1\ntimeout = 1\nunhealthy_after = 3")
    }

    /// The same of a daemon as it is installed: not for developers, and its sessions outlive it.
    #[must_use]
    pub fn installed() -> Self {
        Self {
            dev: false,
            end_sessions: false,
            ..Self::quick()
        }
    }

    /// Adds lines to the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Adds a variable to the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The fault-injection build.
    #[must_use]
    pub fn faults(mut self) -> Self {
        self.binaries = places::fault_binaries();
        self
    }

    /// The command that would start it in `dir`, its configuration file written.
    pub fn command(&self, dir: &Path) -> anyhow::Result<Command> {
        for sub in ["state", "run"] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        // What every test wants, and what a test's own lines (tables come last in TOML) may follow.
        let mut text = String::new();
        if !self.config.contains("end_sessions_on_exit") {
            text.push_str(&format!("end_sessions_on_exit = {}\n", self.end_sessions));
        }
        // A file that sets its own base says so in a line that begins with it.
        if !self.config.lines().any(|l| l.starts_with("base")) {
            text.push_str(&format!(
                "base = \"{}\"\n",
                crate::base::shared()?.display()
            ));
        }
        text.push_str(&self.config);
        let file = dir.join("agentcored.toml");
        std::fs::write(&file, text)?;
        let program = self.binaries.join("agentcored");
        let mut command = match self.wrap.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .env_remove("AGENTCORE_ENDPOINT")
            .arg("--config")
            .arg(file)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--runtime-dir")
            .arg(dir.join("run"))
            .args(&self.args)
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null());
        if self.dev {
            command.arg("--dev");
            if !self.args.iter().any(|a| a == "--listen") {
                // A port of the kernel's choice: tests run side by side.
                command.args(["--listen", "127.0.0.1:0"]);
            }
        }
        Ok(command)
    }
}

impl Daemon {
    /// A daemon for developers, with everything at its default.
    pub fn dev() -> anyhow::Result<Self> {
        Self::start(Options::default())
    }

    /// Starts one and waits until it is ready.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let (dir, owns_dir) = match &options.dir {
            Some(dir) => (dir.clone(), false),
            None => (new_dir()?, true),
        };
        let mut daemon = Self {
            child: None,
            dir,
            owns_dir,
            options,
            instance: String::new(),
            keep: false,
        };
        daemon.launch()?;
        Ok(daemon)
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = self
            .options
            .command(&self.dir)?
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start agentcored")?;
        self.child = Some(child);
        let client = self.client();
        let ready = wait::until(60, "the daemon to be ready", || {
            if let Some(child) = self.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                anyhow::bail!("agentcored ended at once: {status}");
            }
            let answer = client.send(Request::get("/readyz"));
            Ok(answer.ok().filter(|a| a.status == 200))
        });
        if let Err(error) = ready {
            let log = self.log();
            self.abandon();
            return Err(error.context(format!("agentcored's log:\n{log}")));
        }
        self.instance = client.info()?.instance.as_str().to_owned();
        Ok(())
    }

    /// Runs a test on a daemon of its own: prints the logs if the test fails, and proves at the end that nothing is left.
    pub fn with(
        options: Options,
        test: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut daemon = Self::start(options)?;
        match test(&mut daemon) {
            Ok(()) if daemon.child.is_some() => daemon.end(),
            Ok(()) => Ok(()),
            Err(error) => {
                daemon.print_logs();
                daemon.keep = true;
                Err(error)
            }
        }
    }

    /// Starts it again on the same directories, after [`Daemon::kill`] or [`Daemon::terminate`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the daemon still runs");
        self.launch()
    }

    /// Restarts with other options (same directories).
    pub fn restart_with(&mut self, options: Options) -> anyhow::Result<()> {
        self.options = options;
        self.restart()
    }

    /// Its process id: the broker's.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child
            .as_ref()
            .and_then(|c| i32::try_from(c.id()).ok())
            .unwrap_or(0)
    }

    /// The launcher's process id.
    pub fn launcher(&self) -> anyhow::Result<i32> {
        let broker = self.pid();
        host::children(broker)
            .into_iter()
            .find(|pid| {
                host::name(*pid).contains("launcher") || host::title(*pid).contains("launcher")
            })
            .with_context(|| format!("the broker {broker} has no child titled launcher"))
    }

    /// Instance id: part of all names that it makes on the host.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its directory (`state/`, `run/`, `agentcored.toml`, `agentcored.log`).
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// State directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Changes one row of its database, as somebody would who has it and not the key.
    pub fn tamper(&self, sql: &str) -> crate::Result {
        let code = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1])\n\
            done = db.execute(sys.argv[2]).rowcount\n\
            db.commit()\n\
            assert done == 1, done\n";
        let done = Command::new("/usr/bin/python3")
            .args(["-c", code])
            .arg(self.state_dir().join("broker/agentcore.db"))
            .arg(sql)
            .output()?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    }

    /// Runtime directory.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("api.sock")
    }

    /// A caller over the Unix socket.
    #[must_use]
    pub fn client(&self) -> Client {
        Client {
            target: Target::Unix(self.socket()),
        }
    }

    /// A caller over TCP (`--dev`, or a `--listen`).
    pub fn tcp(&self) -> anyhow::Result<Client> {
        let listen = self.client().info()?.listen;
        let address = listen
            .iter()
            .find_map(|text| {
                let text = text.strip_prefix("http://").unwrap_or(text);
                text.parse().ok()
            })
            .with_context(|| format!("no TCP address among {listen:?}"))?;
        Ok(Client {
            target: Target::Tcp(address),
        })
    }

    /// The user's command, pointed at this daemon.
    #[must_use]
    pub fn cli(&self) -> Command {
        let mut command = Command::new(self.options.binaries.join("agentcore"));
        command
            .env(
                "AGENTCORE_ENDPOINT",
                format!("unix:{}", self.socket().display()),
            )
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("agentcored.log")
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// A signal to the broker.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        Ok(())
    }

    /// Gives a running daemon this configuration file.
    pub fn reconfigure(&self, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.dir.join("agentcored.toml"), text)?;
        self.signal(Signal::SIGHUP)
    }

    /// Members of pools without a floor, and templates that nobody is below, are unused at once and go. Gives the configuration
    /// file as it was.
    pub fn keep_nothing_waiting(&self) -> anyhow::Result<String> {
        let before = std::fs::read_to_string(self.dir.join("agentcored.toml"))?;
        let mut text = before.clone();
        for table in ["pool", "template"] {
            text = unused_at_once(&text, table);
        }
        self.reconfigure(&text)?;
        Ok(before)
    }

    /// SIGKILL to the broker, and waits until broker and launcher are gone. Sessions live on.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let launcher = self.launcher().ok();
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill()?;
        child.wait()?;
        if let Some(launcher) = launcher {
            wait::until_true(10, "the launcher to follow its broker", || {
                Ok(!host::alive(launcher))
            })?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself; its exit status.
    pub fn exited(&mut self, bound: u64) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("the daemon does not run")?;
        let status = wait::until(bound, "the daemon to end by itself", || {
            Ok(child.try_wait()?)
        })?;
        self.child = None;
        Ok(status)
    }

    /// SIGTERM, and waits for the end; its exit status.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let mut child = self.child.take().context("the daemon does not run")?;
        let ended = wait::until(60, "the daemon to end after SIGTERM", || {
            Ok(child.try_wait()?)
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended
    }

    /// Ends it as an operator would and proves that nothing of it is left.
    pub fn end(mut self) -> anyhow::Result<()> {
        let status = self.terminate()?;
        ensure!(
            status.success(),
            "the daemon ended with {status} (signal {:?}); its log:\n{}",
            status.signal(),
            self.log()
        );
        let left = leaks::of_instance(&self.instance, &self.runtime_dir(), &self.state_dir())?;
        ensure!(
            left.is_empty(),
            "left behind after the daemon's end: {left:#?}"
        );
        Ok(())
    }

    /// Ends everything of this instance by force.
    fn abandon(&mut self) {
        if let Some(mut child) = self.child.take() {
            // TERM first: with `end_sessions_on_exit` the daemon removes its own sessions.
            let _ = kill(
                Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)),
                Signal::SIGTERM,
            );
            let ended = wait::until(20, "the daemon to end", || Ok(child.try_wait()?));
            if ended.is_err() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if self.instance.is_empty() {
            return;
        }
        for pid in cgroup::members_named(&self.instance) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = wait::until_true(10, "killed sessions to be gone", || {
            Ok(cgroup::members_named(&self.instance).is_empty())
        });
        cgroup::remove_named(&self.instance);
        for mount in host::mounts_below(&self.dir) {
            let _ = nix::mount::umount2(mount.as_path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }

    /// Prints what a person needs to see why a test failed.
    fn print_logs(&self) {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(120)..];
        eprintln!(
            "---- agentcored ({}), last {} lines",
            self.instance,
            tail.len()
        );
        for line in tail {
            eprintln!("{line}");
        }
        if self.child.is_none() {
            return;
        }
        let client = self.client();
        for session in client.sessions("").unwrap_or_default().iter().rev().take(4) {
            eprintln!("---- session {} ({:?})", session.id, session.phase);
            if let Some(reason) = session.end_reason {
                eprintln!(
                    "ended: {reason:?} {}",
                    session.end_detail.as_deref().unwrap_or("")
                );
            }
            let log = client.logs(session.id.as_str()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.abandon();
        if !self.owns_dir {
            return;
        }
        if self.keep || std::thread::panicking() {
            // Log and configuration stay for the one who looks into them. The state directory does not: it would go on
            // holding the instance's block of uids.
            let _ = std::fs::remove_dir_all(self.state_dir());
            let _ = std::fs::remove_dir_all(self.runtime_dir());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
