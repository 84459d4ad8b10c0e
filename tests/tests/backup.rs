//! `agentcore backup`: made while everything goes on, restored as docs/backup.md says. What lives then and is not in it is
//! cleared away; what cannot be told to be this instance's is not. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, joined, session_name};
use e2e::{Daemon, Options, Result, ground, host, puppet, wait};
use proto::api::{CheckState, Doctor, Phase};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn count(client: &Client, id: &str) -> anyhow::Result<u64> {
    let answer = puppet::run(client, "agent", id, puppet::COUNT)?;
    answer.as_u64().context("a count")
}

#[test]
fn a_backup_is_made_under_load_and_what_it_does_not_know_is_cleared_away() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({}))?;
        let (known, busy) = (session_name("known"), session_name("busy"));
        ensure!(count(&client, &known)? == 1);
        let code = "import time\ndef events():\n    for n in range(30):\n        yield {'n': n}\n        time.sleep(0.05)\nanswer = events()";
        let stream = client.in_background("agent", &busy, &puppet::payload(code));
        wait::until_true(10, "the stream to run", || {
            Ok(client.session(&busy).is_ok_and(|busy| busy.in_flight == 1))
        })?;
        let file = daemon.dir().join("backup.db");
        let made = daemon.cli().arg("backup").arg(&file).output()?;
        ensure!(made.status.success(), "{made:?}");
        let whole = joined(stream)?.text()?;
        ensure!(
            whole.contains("\"n\": 29"),
            "the stream was disturbed: {whole}"
        );
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let again = daemon.cli().arg("backup").arg(&file).output()?;
        ensure!(again.status.code() == Some(4), "replaced a file: {again:?}");
        ensure!(
            !fs::read_dir(daemon.dir())?.flatten().any(|entry| entry
                .file_name()
                .to_string_lossy()
                .contains("agentcore-backup")),
            "half a file was left"
        );
        // What comes afterwards is not in it: a runtime, and a session.
        puppet::deploy(&client, "later", json!({}))?;
        let unknown = session_name("unknown");
        count(&client, &unknown)?;
        let orphan = client.session(&unknown)?;
        let shim = orphan.pid.context("pid")?;
        let strange = daemon.runtime_dir().join("sessions/somebodys notes");
        fs::write(&strange, "not ours")?;
        let dead = daemon.runtime_dir().join("sessions/sdeadbeefdeadbeef.sock");
        fs::write(&dead, "")?;
        daemon.kill()?;
        let state = daemon.state_dir().join("broker");
        for name in ["agentcore.db", "agentcore.db-wal", "agentcore.db-shm"] {
            fs::rename(state.join(name), daemon.dir().join(name))?;
        }
        let restored = state.join("agentcore.db");
        fs::copy(&file, &restored)?;
        let owner = host_owner(&state)?;
        std::os::unix::fs::chown(&restored, Some(owner.0), Some(owner.1))?;
        daemon.restart()?;
        let client = daemon.client();
        client.runtime("agent")?;
        ensure!(client.runtime("later").is_err(), "it was not in the backup");
        ensure!(
            count(&client, &known)? == 2,
            "a session of the backup was not adopted"
        );
        wait::until_true(10, "the session that no record knows to end", || {
            Ok(!host::alive(shim))
        })?;
        ensure!(!dead.exists(), "a dead session's socket is still there");
        ensure!(strange.exists(), "a stranger's file was removed");
        let doctor: Doctor = client.get("/v1/doctor")?;
        let leftovers = doctor.checks.iter().find(|check| check.name == "leftovers");
        let leftovers = leftovers.context("no check of leftovers")?;
        ensure!(
            leftovers.state == CheckState::Degraded && leftovers.detail.contains("somebodys notes"),
            "{leftovers:?}"
        );
        fs::remove_file(&strange)?;
        // Its uids are free again, and its name.
        ensure!(count(&client, &unknown)? == 1, "it is a new one");
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        Ok(())
    })
}

fn host_owner(path: &std::path::Path) -> anyhow::Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path)?;
    Ok((found.uid(), found.gid()))
}

#[test]
fn what_was_counted_and_said_is_known_to_the_next_daemon() -> Result {
    ground!(Daemon, Python);
    let options =
        Options::installed().config("[limits]\nlog_rate = \"16K\"\nlog_burst = \"16K\"\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({}))?;
        let id = session_name("talks");
        let code = "for n in range(20000): print('word', n)\nprint('last words')";
        puppet::run(&client, "agent", &id, code)?;
        wait::until_true(20, "lines to be dropped", || {
            Ok(client.session(&id)?.log_lines_dropped > 0)
        })?;
        // Written down once a second.
        std::thread::sleep(wait::seconds(2));
        let before = client.session(&id)?;
        // One that never answers its first health check.
        let mute = "import time\ntime.sleep(3600)\n";
        e2e::deploy::python(&client, "mute", mute, json!({}))?;
        let never = session_name("never");
        let call = client.in_background("mute", &never, &puppet::payload(""));
        wait::until_true(10, "it to begin", || {
            Ok(client
                .sessions("runtime=mute")?
                .iter()
                .any(|session| session.phase == Phase::Starting && session.pid.is_some()))
        })?;
        let unborn = client.sessions("runtime=mute")?;
        let unborn = unborn.first().context("listed")?.clone();
        daemon.kill()?;
        // Its caller has lost its daemon; how is no matter here.
        drop(call.join());
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(unborn.pid.context("pid")?),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        daemon.restart()?;
        let client = daemon.client();
        let after = client.session(&id)?;
        ensure!(
            after.log_lines_dropped >= before.log_lines_dropped,
            "{} became {}",
            before.log_lines_dropped,
            after.log_lines_dropped
        );
        let failed = client.ended(unborn.id.as_str(), 10)?;
        ensure!(failed.phase == Phase::Failed, "{failed:?}");
        // What it said before is told of a call that it fails now.
        let fails = Client::invocation("agent", &id, &puppet::payload("import os\nos._exit(3)"));
        let answer = client.send(fails)?.expect(424)?.text()?;
        ensure!(answer.contains("word"), "{answer}");
        Ok(())
    })
}

#[test]
fn a_daemon_of_another_binary_takes_the_sessions_over() -> Result {
    ground!(Daemon, Python);
    let binaries = e2e::places::scratch().join(format!("newer-{}", std::process::id()));
    let done = Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({}))?;
        let id = session_name("stays");
        ensure!(count(&client, &id)? == 1);
        let before = client.session(&id)?;
        let shim = before.pid.context("pid")?;
        let (began, program) = (
            host::start_time(shim),
            fs::read_link(format!("/proc/{shim}/exe"))?,
        );
        // The newer ones, elsewhere, as a package puts them in place of the older: other files of the same names.
        fs::create_dir_all(&binaries)?;
        for name in ["agentcored", "agentcore", "agentcore-shim"] {
            fs::copy(e2e::places::binaries().join(name), binaries.join(name))?;
        }
        // One byte more, so that it is another program.
        let newer = binaries.join("agentcore-shim");
        let mut bytes = fs::read(&newer)?;
        bytes.push(0);
        fs::write(&newer, bytes)?;
        daemon.kill()?;
        daemon.restart_with(Options {
            binaries: binaries.clone(),
            ..Options::installed()
        })?;
        let client = daemon.client();
        ensure!(count(&client, &id)? == 2, "memory lost");
        let after = client.session(&id)?;
        ensure!(after.pid == before.pid && host::start_time(shim) == began);
        ensure!(
            fs::read_link(format!("/proc/{shim}/exe"))? == program,
            "its shim is another program"
        );
        // A new session has the newer shim.
        let new = session_name("new");
        ensure!(count(&client, &new)? == 1);
        let size = |session: &str| -> anyhow::Result<u64> {
            let pid = client.session(session)?.pid.context("pid")?;
            Ok(fs::metadata(format!("/proc/{pid}/exe"))?.len())
        };
        ensure!(
            size(&new)? == size(&id)? + 1,
            "the new one has the older shim"
        );
        for id in [&id, &new] {
            client.stop(id)?;
        }
        Ok(())
    });
    fs::remove_dir_all(&binaries)?;
    done
}
