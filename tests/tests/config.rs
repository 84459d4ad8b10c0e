//! The daemon's configuration and its neighbours: precedence, faults, reload, two daemons side by side. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_problem, session_name};
use e2e::daemon::new_dir;
use e2e::http::Request;
use e2e::{Daemon, Options, Result, chaos, ground, leaks, wait};
use nix::sys::signal::Signal;
use proto::api::EndReason;
use serde_json::json;
use std::process::{Command, Output};
use std::time::Instant;

fn check(text: &str, env: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Output> {
    let dir = new_dir()?;
    let file = dir.join("agentcored.toml");
    std::fs::write(&file, text)?;
    let out = Command::new(e2e::places::binaries().join("agentcored"))
        .arg("--check-config")
        .arg("--config")
        .arg(&file)
        .args(args)
        .envs(env.iter().copied())
        .output()?;
    ensure!(!dir.join("state").exists());
    std::fs::remove_dir_all(dir)?;
    Ok(out)
}

fn said(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn check_config_tells_every_fault_with_file_and_line_and_exits_2() -> Result {
    ground!(Daemon);
    let good = check(
        "region = \"eu-west-9\"\n[limits]\nmax_sessions = 5\n",
        &[],
        &[],
    )?;
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    let bad = check(
        "regoin = \"x\"\n\n[limits]\nmax_sessions = \"many\"\nmax_sesions = 1\n[network]\nmode = \"wild\"\n",
        &[],
        &[],
    )?;
    let text = said(&bad);
    assert_eq!(bad.status.code(), Some(2), "{text}");
    for (key, line) in [
        ("regoin", 1),
        ("max_sessions", 4),
        ("max_sesions", 5),
        ("mode", 7),
    ] {
        ensure!(
            text.lines()
                .any(|l| l.contains(key) && l.contains(&format!("agentcored.toml:{line}"))),
            "{key} in line {line} is not told: {text}"
        );
    }
    let broken = check("this is not toml", &[], &[])?;
    assert_eq!(broken.status.code(), Some(2));
    ensure!(
        said(&broken).contains("agentcored.toml:1"),
        "{}",
        said(&broken)
    );
    let variable = check("", &[("AGENTCORED_LIMITS_MAX_SESSIONS", "many")], &[])?;
    assert_eq!(variable.status.code(), Some(2));
    ensure!(
        said(&variable).contains("AGENTCORED_LIMITS_MAX_SESSIONS"),
        "{}",
        said(&variable)
    );
    let flag = check("", &[], &["--listen", "nowhere"])?;
    assert_eq!(flag.status.code(), Some(2));
    let flag = check("", &[], &["--no-such-flag"])?;
    assert_eq!(flag.status.code(), Some(2));
    // TCP beyond loopback needs authentication.
    let open = check("auth = \"none\"\n", &[], &["--listen", "0.0.0.0:8080"])?;
    assert_eq!(open.status.code(), Some(2), "{}", said(&open));
    ensure!(said(&open).contains("loopback"), "{}", said(&open));
    Ok(())
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick()
        .config("[defaults]\nidle_timeout = 77")
        .env("AGENTCORED_REGION", "from-env-1");
    let options = Options {
        config: format!(
            "region = \"from-file-1\"\naccount = \"111111111111\"\n{}",
            options.config
        ),
        ..options
    };
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let runtime = chaos::deploy(&client, "arn", "sdk", json!({}))?;
        ensure!(
            runtime.arn.contains(":from-env-1:111111111111:"),
            "{}",
            runtime.arn
        );
        // --listen of the framework won over any default.
        ensure!(
            client.info()?.listen.iter().all(|l| !l.ends_with(":8080")),
            "{:?}",
            client.info()?.listen
        );
        Ok(())
    })
}

#[test]
fn hangup_reloads_and_a_bad_file_changes_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        for name in ["first", "second"] {
            chaos::deploy(&client, name, "sdk", json!({}))?;
        }
        let body = json!({"do": "identity"}).to_string();
        let ask = || {
            client.send(
                Request::post("/invocations", body.clone())
                    .header("content-type", "application/json"),
            )
        };
        ask()?.expect(409)?;
        let file = daemon.dir().join("agentcored.toml");
        let before = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("default_runtime = \"second\"\n{before}"))?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true(10, "the new configuration", || Ok(ask()?.status == 200))?;
        std::fs::write(
            &file,
            format!("default_runtime = \"first\"\nnonsense = 1\n{before}"),
        )?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true(10, "the fault to be logged", || {
            Ok(daemon.log().contains("nonsense"))
        })?;
        ask()?.expect(200)?;
        Ok(())
    })
}

#[test]
fn two_daemons_live_side_by_side_and_share_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |one| {
        Daemon::with(Options::quick(), |two| {
            assert_ne!(one.instance(), two.instance());
            let mut bases = Vec::new();
            for daemon in [&*one, &*two] {
                let client = daemon.client();
                chaos::deploy(&client, "same", "sdk", json!({}))?;
                let session = client.start("same", &"s".repeat(40), &json!({"do": "count"}))?;
                bases.push(session.uid_base.context("uid_base")?);
            }
            ensure!(
                bases[0].abs_diff(bases[1]) >= 16,
                "uid ranges overlap: {bases:?}"
            );
            // Each sees its own session only, and the end of one does not touch the other.
            assert_eq!(one.client().live_sessions()?.len(), 1);
            two.terminate()?;
            assert_eq!(
                one.client()
                    .invoke("same", &"s".repeat(40), &json!({"do": "count"}))?["count"],
                2
            );
            Ok(())
        })
    })
}

#[test]
fn a_second_daemon_on_the_same_directories_exits_75_and_touches_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "kept", "sdk", json!({}))?;
        let id = session_name("kept");
        client.invoke("kept", &id, &json!({"do": "count"}))?;
        let before = leaks::Snapshot::steady(daemon)?;
        let other = new_dir()?;
        for (state, run) in [
            (daemon.state_dir(), daemon.runtime_dir()),
            (daemon.state_dir(), other.join("run")),
            (other.join("state"), daemon.runtime_dir()),
        ] {
            let out = Command::new(e2e::places::binaries().join("agentcored"))
                .args(["--dev", "--listen", "127.0.0.1:0", "--state-dir"])
                .arg(&state)
                .arg("--runtime-dir")
                .arg(&run)
                .arg("--config")
                .arg(daemon.dir().join("agentcored.toml"))
                .output()?;
            let text = said(&out);
            ensure!(out.status.code() == Some(75), "{}: {text}", out.status);
            ensure!(
                text.contains(&*daemon.dir().to_string_lossy()),
                "which directory is not told: {text}"
            );
        }
        std::fs::remove_dir_all(other)?;
        before.settle(daemon)?;
        assert_eq!(
            client.invoke("kept", &id, &json!({"do": "count"}))?["count"],
            2
        );
        Ok(())
    })
}

#[test]
fn term_finishes_calls_and_a_stale_lock_is_no_lock() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "term", "sdk", json!({}))?;
        let id = session_name("term");
        client.invoke("term", &id, &json!({"do": "echo"}))?;
        let call = client.in_background("term", &id, &json!({"do": "sleep", "seconds": 2}));
        wait::until_true(10, "the call to be in flight", || {
            Ok(client.session(&id)?.in_flight == 1)
        })?;
        let status = daemon.terminate()?;
        ensure!(status.code() == Some(0), "{status}");
        e2e::client::joined(call)?
            .expect(200)
            .context("a call in flight when TERM came")?;
        // Killed: lock files and sockets stay, and are no hindrance.
        daemon.restart()?;
        daemon.kill()?;
        daemon.restart()?;
        daemon
            .client()
            .invoke("term", &session_name("new"), &json!({"do": "echo"}))?;
        Ok(())
    })
}

#[test]
fn while_calls_finish_it_is_alive_and_not_ready() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let callers = [daemon.client(), daemon.tcp()?];
        chaos::deploy(&client, "drains", "sdk", json!({}))?;
        let id = session_name("drains");
        client.invoke("drains", &id, &json!({"do": "echo"}))?;
        let call = client.in_background("drains", &id, &json!({"do": "sleep", "seconds": 6}));
        wait::until_true(10, "the call to be in flight", || {
            Ok(client.session(&id)?.in_flight == 1)
        })?;
        for caller in &callers {
            caller.send(Request::get("/readyz"))?.expect(200)?;
        }
        daemon.signal(Signal::SIGTERM)?;
        for caller in &callers {
            wait::until_true(5, "it to be not ready", || {
                Ok(caller.send(Request::get("/readyz"))?.status == 503)
            })?;
            caller.send(Request::get("/healthz"))?.expect(200)?;
            // New work is refused in words, also for a session that is there.
            let refused = caller.send(Client::invocation("drains", &id, &json!({"do": "echo"})))?;
            ensure!(refused.status == 503, "{}", refused.status);
            ensure!(refused.header("retry-after") == Some("1"));
            ensure!(refused.text()?.contains("is stopping"));
            expect_problem(caller.send(Request::get("/v1/sessions"))?, 503, "stopping")?;
        }
        client.send(Request::get("/metrics"))?.expect(200)?;
        ensure!(!call.is_finished(), "what is in flight goes on");
        let status = daemon.exited(30)?;
        ensure!(status.code() == Some(0), "{status}");
        e2e::client::joined(call)?.expect(200)?;
        Ok(())
    })
}

/// Processes of a session, each with the time at which it began.
fn processes(shim: i32) -> Vec<(i32, Option<u64>)> {
    e2e::host::processes(shim)
        .into_iter()
        .map(|pid| (pid, e2e::host::start_time(pid)))
        .collect()
}

#[test]
fn sessions_live_on_when_a_daemon_that_is_not_for_developers_is_told_to_stop() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "on", "sdk", json!({}))?;
        let id = session_name("on");
        let shim = client
            .start("on", &id, &json!({"do": "stray"}))?
            .pid
            .context("pid")?;
        let launcher = daemon.launcher()?;
        let before = processes(shim);
        ensure!(before.len() >= 3, "shim, agent and stray: {before:?}");
        let status = daemon.terminate()?;
        ensure!(status.code() == Some(0), "{status}");
        wait::until_true(10, "the launcher to follow its broker", || {
            Ok(!e2e::host::alive(launcher))
        })?;
        assert_eq!(
            processes(shim),
            before,
            "the same processes, each still there"
        );
        ensure!(before.iter().all(|(pid, _)| e2e::host::alive(*pid)));
        // The next daemon adopts it (`restore.rs`), and ends it like its own.
        daemon.restart()?;
        client.stop(&id)?;
        let session = client.ended(&id, 20)?;
        ensure!(
            session.end_reason == Some(EndReason::Stopped),
            "{session:?}"
        );
        ensure!(!before.iter().any(|(pid, _)| e2e::host::alive(*pid)));
        Ok(())
    })
}

#[test]
fn a_second_term_hurries() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "hurry", "sdk", json!({}))?;
        let id = session_name("hurry");
        let shim = client
            .start("hurry", &id, &json!({"do": "echo"}))?
            .pid
            .context("pid")?;
        let began = processes(shim);
        let call = client.in_background("hurry", &id, &json!({"do": "sleep", "seconds": 60}));
        wait::until_true(10, "the call to be in flight", || {
            Ok(client.session(&id)?.in_flight == 1)
        })?;
        daemon.signal(Signal::SIGTERM)?;
        wait::until_true(10, "the daemon to stop", || {
            Ok(client.send(Request::get("/readyz"))?.status == 503)
        })?;
        ensure!(
            !call.is_finished() && e2e::host::alive(daemon.pid()),
            "it waits for the call"
        );
        let hurried = Instant::now();
        let status = daemon.terminate()?;
        ensure!(status.code() == Some(0), "{status}");
        // The call would take a minute, and is waited for half of one.
        ensure!(
            hurried.elapsed() < wait::seconds(5),
            "{:?}",
            hurried.elapsed()
        );
        ensure!(
            e2e::client::joined(call).is_err(),
            "a call that was given up has no answer"
        );
        assert_eq!(processes(shim), began, "its session lives on all the same");
        daemon.restart()?;
        client.stop(&id)?;
        client.ended(&id, 20)?;
        Ok(())
    })
}

#[test]
fn the_unix_socket_is_for_the_group_only() -> Result {
    ground!(Daemon, Command("setpriv"), Command("curl"));
    Daemon::with(Options::quick(), |daemon| {
        let (_, _, mode) = leaks::owner(&daemon.socket())?;
        ensure!(mode & 0o007 == 0, "the socket's mode is {mode:o}");
        let out = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "curl",
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--unix-socket",
            ])
            .arg(daemon.socket())
            .arg("http://localhost/v1/info")
            .output()?;
        let code = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(!out.status.success() || code == "403", "nobody got {code}");
        // Nor may others look into the state directory.
        let out = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "ls",
            ])
            .arg(daemon.state_dir())
            .output()?;
        ensure!(
            !out.status.success(),
            "the state directory is open to everybody"
        );
        Ok(())
    })
}

#[test]
fn the_broker_has_no_privilege_and_the_launcher_no_listener() -> Result {
    ground!(Daemon);
    Daemon::with(Options::quick(), |daemon| {
        let broker = daemon.pid();
        let launcher = daemon.launcher()?;
        for tid in e2e::host::tasks(broker) {
            let status = e2e::host::status(broker, tid)?;
            let uids: Vec<_> = status["Uid"].split_whitespace().collect();
            ensure!(
                uids.iter().all(|u| *u != "0"),
                "broker thread {tid} has uid {uids:?}"
            );
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                ensure!(
                    status[set].trim_start_matches('0').is_empty(),
                    "broker thread {tid}: {set} {}",
                    status[set]
                );
            }
            ensure!(
                status["NoNewPrivs"] == "1",
                "broker thread {tid} may gain privileges"
            );
            ensure!(
                status["Seccomp"] == "2",
                "broker thread {tid} is under no filter"
            );
            ensure!(
                status["Groups"].split_whitespace().all(|g| g != "0"),
                "{}",
                status["Groups"]
            );
        }
        assert_eq!(
            e2e::host::tasks(launcher).len(),
            1,
            "the launcher is single-threaded"
        );
        let sockets = |pid| -> anyhow::Result<Vec<String>> {
            Ok(e2e::host::descriptors(pid)?
                .into_iter()
                .filter(|d| d.target.starts_with("socket:"))
                .map(|d| d.target)
                .collect())
        };
        let tcp = std::fs::read_to_string("/proc/net/tcp")?
            + &std::fs::read_to_string("/proc/net/tcp6")?
            + &std::fs::read_to_string("/proc/net/unix")?;
        let listening: Vec<_> = sockets(launcher)?
            .into_iter()
            .filter(|s| {
                let inode = s.trim_start_matches("socket:[").trim_end_matches(']');
                tcp.lines().any(|l| {
                    l.split_whitespace().any(|w| w == inode)
                        && (l.contains(" 0A ") || l.contains("api.sock"))
                })
            })
            .collect();
        ensure!(
            listening.is_empty(),
            "the launcher holds listeners: {listening:?}"
        );
        for pid in [broker, launcher] {
            for d in e2e::host::descriptors(pid)? {
                ensure!(
                    d.cloexec || d.number <= 2,
                    "{pid}: descriptor {} ({}) would survive exec",
                    d.number,
                    d.target
                );
            }
            ensure!(
                !e2e::host::descriptors(launcher)?
                    .iter()
                    .any(|d| d.target.contains(".db")),
                "the launcher holds the database"
            );
        }
        Ok(())
    })
}
