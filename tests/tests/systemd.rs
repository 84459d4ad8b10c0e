//! The Debian package on a machine with systemd, from its installation to its purge. Tier: root, in the virtual machines only,
//! of cgroup v2 and of v1.
//!
//! One story in one test: what a machine goes through, each step on what the one before has left.

use anyhow::{Context as _, ensure};
use e2e::client::{joined, session_name};
use e2e::http::{Request, Target};
use e2e::{Client, Result, cgroup, chaos, ground, host, places, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

#[test]
fn the_package_installs_serves_restarts_upgrades_and_leaves_nothing() -> Result {
    ground!(Daemon, Disposable, Python);
    let before = ours()?;
    dpkg(&["-i", &package("agentcore.deb")])?;
    let client = Client {
        target: Target::Unix("/run/agentcore/api.sock".into()),
    };
    ready(&client)?;
    what_is_installed()?;
    as_a_newcomer()?;

    // What agents write is in the journal from the next start on, and what the launcher measures.
    let conf = "/etc/agentcore/conf.d/journal.toml";
    let log = "[log]\nsessions = true\nlevel = 'info,supervisor::launcher=debug'\n";
    fs::write(conf, log)?;
    output("systemctl", &["restart", "agentcored"])?;
    let session = Survivor::start(&client)?;
    session.lives_in_the_sessions_unit()?;
    restarts(&session)?;
    the_manager_is_told(&session)?;
    the_sessions_unit_is_handled(&session)?;
    reloads(&client)?;
    is_killed(&session)?;
    upgrades(&session)?;

    the_journal_knows_it(&session)?;

    let last = client.start("agent", &session_name("last"), &json!({"do": "echo"}))?;
    let last = last.pid.context("pid")?;
    dpkg(&["-r", "agentcore"])?;
    ensure!(!host::alive(last), "a session has outlived the package");
    for kept in [
        "/var/lib/agentcore/broker/agentcore.db",
        "/etc/agentcore/agentcored.toml",
    ] {
        ensure!(Path::new(kept).exists(), "removing took {kept}");
    }
    dpkg(&["-P", "agentcore"])?;
    let left: Vec<_> = ours()?
        .into_iter()
        .filter(|it| !before.contains(it))
        .collect();
    ensure!(left.is_empty(), "after the purge: {left:#?}");
    Ok(())
}

/// Programs, units, users, manual pages, completions.
fn what_is_installed() -> Result {
    for unit in ["agentcored.service", "agentcored.socket"] {
        ensure!(output("systemctl", &["is-enabled", unit])?.trim() == "enabled");
        ensure!(output("systemctl", &["is-active", unit])?.trim() == "active");
    }
    // No manual pages are read in this machine; that they are installed is seen below.
    let units = [
        "verify",
        "--man=no",
        "agentcored.service",
        "agentcored.socket",
        "agentcore-sessions.service",
        "agentcore.slice",
    ];
    let verified = said(Command::new("systemd-analyze").args(units))?;
    ensure!(verified.err.is_empty(), "{}", verified.err);
    let uid = host::uid(main_pid()?)?;
    let passwd = fs::read_to_string("/etc/passwd")?;
    let user = passwd
        .lines()
        .find(|l| l.split(':').nth(2) == Some(&uid.to_string()))
        .context("the broker's user")?;
    ensure!(user.starts_with("agentcore:"), "the broker runs as {user}");
    let files = output("dpkg", &["-L", "agentcore"])?;
    for file in [
        "/usr/share/man/man1/agentcore.1.gz",
        "/usr/share/man/man1/agentcore-session-stop.1.gz",
        "/usr/share/man/man5/agentcored.toml.5.gz",
        "/usr/share/man/man5/agentcore.toml.5.gz",
        "/usr/share/man/man8/agentcored.8.gz",
        "/usr/share/bash-completion/completions/agentcore",
        "/usr/share/zsh/vendor-completions/_agentcore",
        "/usr/share/fish/vendor_completions.d/agentcore.fish",
        "/usr/share/doc/agentcore/examples/echo/my_agent.py",
        "/etc/agentcore/conf.d",
    ] {
        ensure!(
            files.lines().any(|line| line == file),
            "{file} is not there"
        );
    }
    // As a shell has it: the function and what it is for.
    output(
        "bash",
        &[
            "-c",
            ". /usr/share/bash-completion/completions/agentcore && complete -p agentcore",
        ],
    )?;
    Ok(())
}

/// The first steps of the README, and the daemon's own look at the isolation, from inside a session.
fn as_a_newcomer() -> Result {
    // As the package has it, but this machine's dpkg installs no documents.
    let (example, folder) = (places::example("echo"), "/tmp/echo");
    output("cp", &["-r", &example.display().to_string(), folder])?;
    let agentcore = |words: &[&str]| {
        let mut command = Command::new("agentcore");
        command.args(words).current_dir(folder);
        // What it keeps for its user is no part of the package.
        command.env("AGENTCORE_CACHE", "/tmp/cache");
        Ok::<_, anyhow::Error>(said(&mut command)?.out)
    };
    agentcore(&["launch"])?;
    let answer = agentcore(&["invoke", r#"{"prompt": "Hello!"}"#])?;
    ensure!(answer.contains("Hello!"), "{answer}");
    // Both modules are on the path of the machine's own interpreter.
    let program = "import agentcore_client, bedrock_agentcore\n\
                   with agentcore_client.RuntimeClient('echo') as client:\n    print(client.invoke({'prompt': 'From Python'}))";
    let answer = output("/usr/bin/python3", &["-c", program])?;
    ensure!(answer.contains("From Python"), "{answer}");
    let found: Value = serde_json::from_str(&agentcore(&["--json", "doctor"])?)?;
    ensure!(found["ok"] == true, "doctor: {found:#}");
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// A session that all of it must leave alone.
struct Survivor<'a> {
    client: &'a Client,
    /// The caller's name of it.
    name: String,
    /// Ours.
    id: String,
    shim: i32,
    began: Option<u64>,
    /// Its cgroup, from the hierarchy's root.
    path: String,
    memory: String,
}

impl<'a> Survivor<'a> {
    fn start(client: &'a Client) -> anyhow::Result<Self> {
        chaos::deploy(client, "agent", "sdk", json!({}))?;
        let name = session_name("unit");
        let session = client.start("agent", &name, &json!({"do": "echo"}))?;
        let shim = session.pid.context("pid")?;
        let path = cgroup::of(shim).remove("").context("no unified cgroup")?;
        let mut survivor = Self {
            client,
            name,
            id: session.id.to_string(),
            shim,
            began: host::start_time(shim),
            path,
            memory: String::new(),
        };
        survivor.memory = survivor.memory_limit()?;
        ensure!(
            survivor.memory != "max" && survivor.memory.len() < 19,
            "the session has no limit of memory"
        );
        Ok(survivor)
    }

    fn memory_limit(&self) -> anyhow::Result<String> {
        let files = ["memory.max", "memory.limit_in_bytes"];
        cgroup::value(self.shim, "memory", &files).context("no limit of memory")
    }

    fn lives_in_the_sessions_unit(&self) -> Result {
        // On v1 beside it: there systemd would have the session's processes out of its cgroups.
        let v2 = cgroup::hierarchies().iter().all(|each| each.v2);
        let above = match v2 {
            true => "/agentcore.slice/agentcore-sessions.service/",
            false => "/agentcore-sessions/",
        };
        ensure!(
            self.path.starts_with(above) && self.path.contains(&self.id),
            "the session is in {}",
            self.path
        );
        Ok(())
    }

    /// The same processes, within the same limits.
    fn is_the_same(&self, after: &str) -> Result {
        ensure!(
            host::start_time(self.shim) == self.began,
            "{after}: the session is another, or gone"
        );
        ensure!(
            self.memory_limit()? == self.memory,
            "{after}: the session has lost its limits"
        );
        Ok(())
    }

    /// And the daemon knows it, and reaches its agent.
    fn answers(&self, after: &str) -> Result {
        self.is_the_same(after)?;
        ready(self.client)?;
        self.client
            .invoke("agent", &self.name, &json!({"do": "echo"}))
            .with_context(|| after.to_owned())?;
        let pid = self.client.session(&self.name)?.pid;
        ensure!(pid == Some(self.shim), "{after}: its PID 1 is {pid:?}");
        Ok(())
    }

    /// Calls, one after another, until they are stopped; each on a connection of its own, since one that is open is closed
    /// with its daemon.
    fn under_calls(&self, work: impl FnOnce() -> Result) -> Result {
        let stop = Arc::new(AtomicBool::new(false));
        let calls = self.calls(Arc::clone(&stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let answered = joined(calls)?;
        done?;
        ensure!(answered > 0, "no call was answered");
        Ok(())
    }

    fn calls(&self, stop: Arc<AtomicBool>) -> JoinHandle<anyhow::Result<u32>> {
        let (client, name) = (self.client.clone(), self.name.clone());
        std::thread::spawn(move || {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                client.invoke("agent", &name, &json!({"do": "echo"}))?;
                answered += 1;
            }
            Ok(answered)
        })
    }
}

/// Sessions go on, and calls that come meanwhile wait in the socket. A call in flight is finished first.
fn restarts(session: &Survivor<'_>) -> Result {
    session.under_calls(|| {
        for round in 0..2 {
            let before = main_pid()?;
            output("systemctl", &["restart", "agentcored"])?;
            ensure!(main_pid()? != before);
            session.is_the_same(&format!("restart {round}"))?;
        }
        Ok(())
    })?;
    let slow = json!({"do": "sleep", "seconds": 3});
    let call = session.client.in_background("agent", &session.name, &slow);
    wait::until_true(20, "the call to be in flight", || {
        Ok(session.client.session(&session.name)?.in_flight > 0)
    })?;
    output("systemctl", &["restart", "agentcored"])?;
    joined(call)?.expect(200).context("a call in flight")?;
    session.answers("the restart under a call")
}

/// `systemctl status` tells what there is.
fn the_manager_is_told(session: &Survivor<'_>) -> Result {
    let status = || output("systemctl", &["show", "-P", "StatusText", "agentcored"]);
    let sessions = session.client.live_sessions()?.len();
    let slow = json!({"do": "sleep", "seconds": 10});
    let call = session.client.in_background("agent", &session.name, &slow);
    wait::until_true(20, "the status to tell of a session and a call", || {
        let wanted = format!("serving; sessions: {sessions}, calls in flight: 1, tasks: 0 running");
        Ok(status()?.starts_with(&wanted))
    })?;
    joined(call)?.expect(200)?;
    Ok(())
}

/// What the daemons said of the session is found by its id, with fields of their own; and how it ended, by whom.
fn the_journal_knows_it(session: &Survivor<'_>) -> Result {
    let words = json!({"do": "log", "kind": "text", "lines": 1, "bytes": 40, "to": "stderr"});
    let client = session.client;
    client.invoke("agent", &session.name, &words)?;
    client.stop(&session.id)?;
    let entries = |words: &[&str]| -> anyhow::Result<Vec<Value>> {
        let mut all = vec!["-o", "json", "--no-pager"];
        all.extend(words);
        let lines = output("journalctl", &all)?;
        lines
            .lines()
            .map(|l| Ok(serde_json::from_str(l)?))
            .collect()
    };
    let its_own = format!("AGENTCORE_SESSION_ID={}", session.id);
    let adopted = entries(&[&its_own, "MESSAGE=session adopted"])?;
    let launched = entries(&[&its_own, "MESSAGE=launched"])?;
    ensure!(
        launched.len() == 1 && launched[0]["_UID"] == "0",
        "the launcher, which is root, has said: {launched:#?}"
    );
    // Restarted three times and once more with the sessions' unit, killed, upgraded.
    ensure!(adopted.len() >= 5, "{adopted:#?}");
    wait::until_true(20, "what the agent wrote to be in the journal", || {
        let its_words = entries(&[
            &its_own,
            "-t",
            "agentcore-session",
            "AGENTCORE_STREAM=stderr",
        ])?;
        Ok(its_words.iter().any(|entry| {
            let text = entry["MESSAGE"].as_str().unwrap_or_default();
            text.len() == 40 && entry["AGENTCORE_RUNTIME"] == "agent"
        }))
    })?;
    let ends = entries(&[&its_own, "AGENTCORE_RUNTIME=agent", "MESSAGE=session ends"])?;
    let [end] = ends.as_slice() else {
        anyhow::bail!("{ends:#?}");
    };
    ensure!(end["AGENTCORE_REASON"] == "Stopped", "{end:#}");
    ensure!(end["PRIORITY"] == "6" && end["SYSLOG_IDENTIFIER"] == "agentcored");
    ensure!(end["_SYSTEMD_UNIT"] == "agentcored.service", "{end:#}");
    Ok(())
}

/// It neither ends sessions nor takes their limits, whatever is done to it; and it can be started while they live, though
/// their cgroups are below its own.
fn the_sessions_unit_is_handled(session: &Survivor<'_>) -> Result {
    output("systemctl", &["daemon-reexec"])?;
    for verb in ["restart", "stop", "start"] {
        output("systemctl", &[verb, "agentcore-sessions"])?;
        session.is_the_same(&format!("{verb} of the sessions' unit"))?;
    }
    output("systemctl", &["start", "agentcored"])?;
    session.answers("the sessions' unit")
}

fn reloads(client: &Client) -> Result {
    let pid = main_pid()?;
    output("systemctl", &["reload", "agentcored"])?;
    let conf = Path::new("/etc/agentcore/conf.d/wrong.toml");
    fs::write(conf, "[limits]\nmax_body = \"many\"\n")?;
    ensure!(
        output("systemctl", &["reload", "agentcored"]).is_err(),
        "a configuration with a fault was taken"
    );
    fs::remove_file(conf)?;
    ready(client)?;
    ensure!(main_pid()? == pid, "a reload ended the daemon");
    Ok(())
}

/// It is started again by systemd.
fn is_killed(session: &Survivor<'_>) -> Result {
    let pid = main_pid()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    wait::until_true(60, "systemd to start it again", || {
        let now = main_pid()?;
        Ok(now != pid && now != 0)
    })?;
    session.answers("a kill")
}

/// The newer package takes the older one's place under calls: the daemon is another, its sessions are the same.
fn upgrades(session: &Survivor<'_>) -> Result {
    let before = main_pid()?;
    session.under_calls(|| dpkg(&["-i", &package("agentcore-newer.deb")]))?;
    ensure!(
        main_pid()? != before,
        "the upgrade left the old daemon running"
    );
    let version = output("dpkg-query", &["-W", "-f", "${Version}", "agentcore"])?;
    ensure!(version.ends_with("+newer"), "{version} is installed");
    session.answers("the upgrade")
}

/// Everything that bears our name: files, units, cgroups, processes.
fn ours() -> anyhow::Result<Vec<String>> {
    let files = output(
        "find",
        &["/", "/run", "-xdev", "-name", "*agentcore*", "-print"],
    )?;
    let units = output(
        "systemctl",
        &[
            "list-units",
            "--all",
            "--plain",
            "--no-legend",
            "*agentcore*",
        ],
    )?;
    let processes = host::all_pids()
        .into_iter()
        .map(host::title)
        .filter(|title| title.contains("agentcored") || title.starts_with("shim"));
    let cgroups = cgroup::named("agentcore").into_iter();
    Ok(files
        .lines()
        .chain(units.lines())
        .map(str::to_owned)
        .chain(processes)
        .chain(cgroups.map(|path| path.display().to_string()))
        .collect())
}

fn package(name: &str) -> String {
    // Beside the programs it was made of, see `xtask/src/test/vm.rs`; its own are in /usr.
    places::binaries().join(name).display().to_string()
}

fn dpkg(words: &[&str]) -> Result {
    let mut command = Command::new("dpkg");
    let said = said(command.args(words).env("DEBIAN_FRONTEND", "noninteractive"))?;
    // Such as a service that does not start. A directory with files of others stays, as it should, until the purge.
    let mut warnings = said.err.lines().filter(|line| line.contains("warning"));
    ensure!(
        warnings.all(|line| line.contains("not empty so not removed")),
        "{}",
        said.err
    );
    Ok(())
}

fn output(program: &str, words: &[&str]) -> anyhow::Result<String> {
    Ok(said(Command::new(program).args(words))?.out)
}

/// What a program says that succeeds.
struct Said {
    out: String,
    err: String,
}

fn said(command: &mut Command) -> anyhow::Result<Said> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}",
        output.status
    );
    Ok(Said { out, err })
}

fn main_pid() -> anyhow::Result<i32> {
    let pid = output(
        "systemctl",
        &["show", "--value", "-p", "MainPID", "agentcored"],
    )?;
    Ok(pid.trim().parse()?)
}

fn ready(client: &Client) -> Result {
    let up = wait::until_true(60, "the daemon to be ready", || {
        Ok(client
            .send(Request::get("/readyz"))
            .is_ok_and(|a| a.status == 200))
    });
    up.map_err(|error| {
        let journal = output(
            "journalctl",
            &["-u", "agentcored", "-n", "60", "--no-pager"],
        );
        error.context(journal.unwrap_or_default())
    })
}
