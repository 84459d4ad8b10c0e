//! The units of `systemd/`, installed as its README says, on a machine with systemd and cgroup v2. Tier: root, in the virtual
//! machine only.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Target;
use e2e::{Client, Result, cgroup, chaos, ground, host, places, wait};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn run(program: &str, words: &[&str]) -> anyhow::Result<Output> {
    let out = Command::new(program)
        .args(words)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(
        out.status.success(),
        "{program} {words:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out)
}

fn install(from: &Path, to: &str, mode: u32) -> Result {
    let to = Path::new(to);
    fs::create_dir_all(to.parent().context("parent")?)?;
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn install_all() -> Result {
    for (name, to) in [
        ("agentcored", "/usr/bin"),
        ("agentcore", "/usr/bin"),
        ("agentcore-shim", "/usr/lib/agentcore"),
    ] {
        install(
            &places::binaries().join(name),
            &format!("{to}/{name}"),
            0o755,
        )?;
    }
    let units = places::source().join("systemd");
    for name in [
        "agentcored.service",
        "agentcored.socket",
        "agentcore-sessions.service",
        "agentcore.slice",
    ] {
        install(
            &units.join(name),
            &format!("/usr/lib/systemd/system/{name}"),
            0o644,
        )?;
    }
    install(
        &units.join("agentcore.sysusers.conf"),
        "/usr/lib/sysusers.d/agentcore.conf",
        0o644,
    )?;
    install(
        &units.join("agentcore.tmpfiles.conf"),
        "/usr/lib/tmpfiles.d/agentcore.conf",
        0o644,
    )?;
    run("systemd-sysusers", &[])?;
    run("systemd-tmpfiles", &["--create"])?;
    run("systemctl", &["daemon-reload"])?;
    Ok(())
}

fn main_pid(unit: &str) -> anyhow::Result<i32> {
    let out = run("systemctl", &["show", "--value", "-p", "MainPID", unit])?;
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

fn ready(client: &Client) -> Result {
    let up = wait::until_true(60, "the daemon to be ready", || {
        Ok(client
            .send(e2e::http::Request::get("/readyz"))
            .is_ok_and(|a| a.status == 200))
    });
    up.map_err(|error| {
        let journal = Command::new("journalctl")
            .args(["-u", "agentcored", "-n", "60", "--no-pager"])
            .output();
        let journal = journal
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default();
        error.context(journal)
    })
}

#[test]
fn the_units_verify_start_restart_and_stop() -> Result {
    ground!(Daemon, Disposable, Python);
    install_all()?;
    let verified = run(
        "systemd-analyze",
        &[
            "verify",
            "--man=no",
            "agentcored.service",
            "agentcored.socket",
            "agentcore-sessions.service",
        ],
    )?;
    ensure!(
        verified.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    run("systemctl", &["start", "agentcored"])?;
    let client = Client {
        target: Target::Unix("/run/agentcore/api.sock".into()),
    };
    ready(&client)?;
    let broker = main_pid("agentcored")?;
    let uid = host::uid(broker)?;
    let passwd = fs::read_to_string("/etc/passwd")?;
    let user = passwd
        .lines()
        .find(|l| l.split(':').nth(2) == Some(&uid.to_string()))
        .context("the broker's user")?;
    ensure!(user.starts_with("agentcore:"), "the broker runs as {user}");

    chaos::deploy(&client, "agent", "sdk", json!({}))?;
    let id = session_name("unit");
    let session = client.start("agent", &id, &json!({"do": "echo"}))?;
    let shim = session.pid.context("pid")?;
    let path = cgroup::of(shim)
        .get("")
        .cloned()
        .context("no unified cgroup")?;
    ensure!(
        path.starts_with("/agentcore.slice/agentcore-sessions.service/"),
        "sessions are in {path}"
    );
    ensure!(path.contains(session.id.as_str()), "{path}");

    // A restart works, and systemd takes no session for a leftover of the daemon: it goes on, and calls that come meanwhile
    // wait in the socket.
    let began = host::start_time(shim);
    let stop = Arc::new(AtomicBool::new(false));
    let calls = {
        let (client, id, stop) = (client.clone(), id.clone(), Arc::clone(&stop));
        std::thread::spawn(move || -> anyhow::Result<u32> {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                // Each on a connection of its own: one that is open is closed with its daemon.
                client.invoke("agent", &id, &json!({"do": "echo"}))?;
                answered += 1;
            }
            Ok(answered)
        })
    };
    for round in 0..3 {
        let before = main_pid("agentcored")?;
        run("systemctl", &["restart", "agentcored"])?;
        ensure!(main_pid("agentcored")? != before);
        ensure!(
            host::start_time(shim) == began,
            "round {round}: the session is another, or gone"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let answered = e2e::client::joined(calls)?;
    ensure!(answered > 0, "no call was answered");
    let again = client.start("agent", &session_name("again"), &json!({"do": "echo"}))?;
    ensure!(host::alive(again.pid.context("pid")?));

    // Nor does the sessions' unit end them or take their limits, whatever is done to it; and it can be started while they
    // live, though their cgroups are below its own.
    let limit = || fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max"));
    let before = limit()?;
    ensure!(before.trim() != "max", "a session without a limit");
    run("systemctl", &["daemon-reexec"])?;
    for verb in ["restart", "stop", "start"] {
        run("systemctl", &[verb, "agentcore-sessions"])?;
        ensure!(
            host::start_time(shim) == began,
            "{verb} of the sessions' unit ended a session"
        );
        ensure!(
            limit()? == before,
            "{verb} of the sessions' unit took a session's limits"
        );
    }
    run("systemctl", &["start", "agentcored"])?;
    ready(&client)?;
    client.invoke("agent", &id, &json!({"do": "echo"}))?;
    run("systemctl", &["reload", "agentcored"])?;
    ensure!(client.info().is_ok(), "a reload ended the daemon");

    // Killed, it is started again by systemd; its sessions do not notice.
    let pid = main_pid("agentcored")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    wait::until_true(60, "systemd to start it again", || {
        Ok(main_pid("agentcored")? != pid && main_pid("agentcored")? != 0)
    })?;
    ready(&client)?;
    client.invoke("agent", &id, &json!({"do": "echo"}))?;
    let adopted = client.session(&id)?;
    ensure!(adopted.pid == Some(shim) && host::start_time(shim) == began);
    for session in client.live_sessions()? {
        client.stop(session.id.as_str())?;
    }
    run(
        "systemctl",
        &[
            "stop",
            "agentcored.socket",
            "agentcored",
            "agentcore-sessions",
        ],
    )?;
    let left: Vec<_> = host::all_pids()
        .into_iter()
        .map(host::title)
        .filter(|t| t.contains("agentcored") || t.contains("shim"))
        .collect();
    ensure!(left.is_empty(), "after the stop: {left:?}");
    Ok(())
}
