//! Output, joined commands and orphans: what else a shim does for its session. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Request;
use e2e::{Daemon, Options, Result, chaos, ground, host, wait};
use serde_json::json;

#[test]
fn logs_are_kept_whole_bounded_and_what_is_dropped_is_counted() -> Result {
    ground!(Daemon, Python);
    Daemon::with(
        Options::quick().config("[limits]\nlog_rate = \"64K\"\nlog_burst = \"64K\""),
        |daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "logs", "sdk", json!({}))?;
            let id = session_name("logs");
            client.invoke(
                "logs",
                &id,
                &json!({"do": "log", "lines": 20, "kind": "text", "to": "stdout"}),
            )?;
            client.invoke(
                "logs",
                &id,
                &json!({"do": "log", "lines": 20, "kind": "text", "to": "stderr"}),
            )?;
            let lines = wait::until(10, "the lines", || {
                let log = client.logs(&id)?;
                Ok((log.matches("flood 19").count() == 2).then_some(log))
            })?;
            ensure!(lines.matches("flood ").count() == 40, "{lines}");
            for kind in ["nul", "invalid_utf8", "ansi", "carriage", "unicode"] {
                client.invoke("logs", &id, &json!({"do": "log", "lines": 3, "kind": kind}))?;
            }
            let log = client.logs(&id)?;
            ensure!(
                !log.contains('\u{1b}') && !log.contains('\0'),
                "control characters reach the reader's terminal"
            );
            let before = host::rss(daemon.pid())?;
            client.invoke(
                "logs",
                &id,
                &json!({"do": "log", "seconds": 3, "bytes": 1000}),
            )?;
            client.invoke("logs", &id, &json!({"do": "log_line", "bytes": 64 << 20}))?;
            let session = wait::until(10, "dropped lines to be counted", || {
                let session = client.session(&id)?;
                Ok((session.log_lines_dropped > 1000).then_some(session))
            })?;
            let grown = host::rss(daemon.pid())?.saturating_sub(before);
            ensure!(
                grown < 16 << 20,
                "the broker grew by {grown} bytes; {session:?}"
            );
            let records: Vec<proto::api::LogRecord> = client
                .send(
                    Request::get(format!("/v1/sessions/{}/logs?tail=10", session.id))
                        .header("accept", "application/x-ndjson"),
                )?
                .expect(200)?
                .text()?
                .lines()
                .map(serde_json::from_str)
                .collect::<std::result::Result<_, _>>()?;
            ensure!(records.len() == 10, "{records:?}");
            let greedy = client.send(Request::get(format!(
                "/v1/sessions/{}/logs?tail=10001",
                session.id
            )))?;
            e2e::client::expect_problem(greedy, 400, "tail")?;
            client.invoke("logs", &id, &json!({"do": "close_output"}))?;
            ensure!(client.invoke("logs", &id, &json!({"do": "echo", "value": 1}))?["echo"] == 1);
            Ok(())
        },
    )
}

#[test]
fn orphans_are_reaped() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "orphans",
            "sdk",
            json!({"resources": {"pids": 256}}),
        )?;
        let id = session_name("orphans");
        for _ in 0..5 {
            client.invoke("orphans", &id, &json!({"do": "orphans", "count": 100}))?;
        }
        wait::until_true(10, "all orphans to be reaped", || {
            Ok(client.invoke("orphans", &id, &json!({"do": "zombies"}))?["zombies"] == 0)
        })
    })
}

#[test]
fn exec_joins_a_session_with_streams_and_the_commands_own_status() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "exec",
            "sdk",
            json!({"environment": {"COLOUR": "blue"}}),
        )?;
        let id = session_name("exec");
        client.invoke("exec", &id, &json!({"do": "echo"}))?;
        let run = |words: &[&str], input: &str| -> anyhow::Result<std::process::Output> {
            use std::io::Write as _;
            let mut command = daemon.cli();
            command
                .args(["exec", "-i", "-s", &id, "-a", "exec", "--"])
                .args(words);
            let mut child = command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().context("stdin")?;
            stdin.write_all(input.as_bytes())?;
            drop(stdin);
            Ok(child.wait_with_output()?)
        };
        let out = run(
            &["sh", "-c", "cat; echo $COLOUR; echo wrong >&2; pwd; exit 7"],
            "typed\n",
        )?;
        assert_eq!(String::from_utf8_lossy(&out.stdout), "typed\nblue\n/app\n");
        assert_eq!(String::from_utf8_lossy(&out.stderr), "wrong\n");
        assert_eq!(out.status.code(), Some(7));
        assert_eq!(
            run(&["sh", "-c", "kill -9 $$"], "")?.status.code(),
            Some(137)
        );
        assert_eq!(run(&["no-such-program"], "")?.status.code(), Some(127));
        assert_eq!(run(&["/app/main.py"], "")?.status.code(), Some(126));
        // It is in the same place as the agent, and not its parent.
        let seen = run(
            &[
                "sh",
                "-c",
                "id -u; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp:'; readlink /proc/self/ns/pid",
            ],
            "",
        )?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        ensure!(
            seen.contains("CapEff:\t0000000000000000")
                && seen.contains("NoNewPrivs:\t1")
                && seen.contains("Seccomp:\t2"),
            "{seen}"
        );
        // Large output whole, both streams closed when it ends.
        let out = run(&["sh", "-c", "head -c 5000000 /dev/zero"], "")?;
        assert_eq!(out.stdout.len(), 5_000_000);
        // What runs when the session ends, ends.
        let mut long = daemon.cli();
        let mut long = long
            .args(["exec", "-s", &id, "-a", "exec", "--", "sleep", "1000"])
            .spawn()?;
        wait::until_true(10, "the command to run", || {
            let pid = client.session(&id)?.pid.context("pid")?;
            Ok(host::processes(pid)
                .iter()
                .any(|p| host::title(*p).contains("sleep 1000")))
        })?;
        client.stop(&id)?;
        let status = wait::until(20, "the command to end", || Ok(long.try_wait()?))?;
        ensure!(!status.success(), "{status}");
        Ok(())
    })
}

/// The bytes that ask for a process.
fn exec_request(session: &str, argv: &[&str]) -> Vec<u8> {
    let body = json!({"argv": argv}).to_string();
    format!(
        "POST /v1/sessions/{session}/exec?runtime=exec HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
         upgrade: agentcore-exec\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn what_an_exec_leaves_behind_holds_nothing_of_the_daemons() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "exec", "sdk", json!({}))?;
        let id = session_name("grandchild");
        client.invoke("exec", &id, &json!({"do": "echo"}))?;
        let run = |script: &str| -> anyhow::Result<std::process::Output> {
            let mut command = daemon.cli();
            let words = ["exec", "-s", &id, "-a", "exec", "--", "sh", "-c", script];
            Ok(command.args(words).output()?)
        };
        let open = || -> anyhow::Result<usize> {
            let all = host::descriptors(daemon.pid())?;
            Ok(all
                .iter()
                .filter(|d| d.target.starts_with("socket") || d.target.starts_with("pipe"))
                .count())
        };
        run("true")?;
        // What the first one needed is closed by then.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let before = open()?;
        for script in [
            "sleep 9999 & echo out",
            "(while :; do echo more; done) & echo out",
        ] {
            let out = run(script)?;
            ensure!(out.status.success(), "{script}: {out:?}");
            ensure!(
                out.stdout.starts_with(b"out") || out.stdout.starts_with(b"more"),
                "{out:?}"
            );
        }
        wait::until_true(15, "the daemon's ends to be closed", || {
            Ok(open()? <= before)
        })
    })
}

#[test]
fn a_process_whose_caller_left_while_it_was_started_is_ended() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        use std::io::Write as _;
        let client = daemon.client();
        chaos::deploy(&client, "exec", "sdk", json!({}))?;
        let id = session_name("left");
        client.invoke("exec", &id, &json!({"do": "echo"}))?;
        let shim = client.session(&id)?.pid.context("pid")?;
        let pid = nix::unistd::Pid::from_raw(shim);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP)?;
        let mut caller = client.target.connect()?;
        caller.write_all(&exec_request(&id, &["sleep", "4242"]))?;
        // The order is with the shim by then; that the shim does not answer is what is tried.
        std::thread::sleep(std::time::Duration::from_millis(700));
        drop(caller);
        std::thread::sleep(std::time::Duration::from_millis(300));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT)?;
        // Orders are taken in their order: when this one is done, the other was begun.
        let mut after = daemon.cli();
        let after = after.args(["exec", "-s", &id, "-a", "exec", "--", "true"]);
        ensure!(after.status()?.success());
        wait::until_true(20, "the process without a caller to end", || {
            Ok(!host::processes(shim)
                .iter()
                .any(|p| host::title(*p).contains("sleep 4242")))
        })?;
        wait::until_true(20, "its work to be counted off", || {
            Ok(client.session(&id)?.in_flight == 0)
        })
    })
}

#[test]
fn an_exec_counts_as_a_connection_as_long_as_it_lasts() -> Result {
    ground!(Daemon, Python);
    // The listeners keep one place each for whoever comes next.
    let options = Options::default().config("[limits]\nmax_connections = 8");
    Daemon::with(options, |daemon| {
        use std::io::{Read as _, Write as _};
        let client = daemon.client();
        chaos::deploy(&client, "exec", "sdk", json!({}))?;
        let id = session_name("counted");
        client.invoke("exec", &id, &json!({"do": "echo"}))?;
        let answered = || -> anyhow::Result<bool> {
            let mut stream = client.target.connect()?;
            stream.set_read_timeout(wait::seconds(2))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
            Ok(stream.read(&mut [0; 16]).is_ok_and(|count| count > 0))
        };
        let mut execs = Vec::new();
        while answered()? {
            ensure!(execs.len() < 8, "{} execs took no place", execs.len());
            let mut stream = client.target.connect()?;
            stream.write_all(&exec_request(&id, &["sleep", "1000"]))?;
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            ensure!(
                head.ends_with(b" 101"),
                "{}",
                String::from_utf8_lossy(&head)
            );
            execs.push(stream);
        }
        ensure!(execs.len() > 4, "only {} execs", execs.len());
        drop(execs);
        wait::until_true(20, "the places to be free again", answered)
    })
}
