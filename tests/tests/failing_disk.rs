//! A disk that takes what is written and fails when it is to be kept: nobody knows then what is on it. The daemon says so, ends
//! without acknowledging anything more, and its sessions live on; the next one looks at all of the database first. Tier: root.

use anyhow::ensure;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::smalldisk::SmallDisk;
use e2e::{Client, Daemon, Options, Result, ground, host, puppet, task, wait};
use proto::api::{Task, TaskStatus};
use serde_json::json;

/// Counts in the agent's memory.
fn count(client: &Client, session: &str) -> anyhow::Result<serde_json::Value> {
    puppet::run(client, "worker", session, puppet::COUNT)
}

#[test]
fn a_daemon_whose_database_fails_ends_and_its_sessions_and_all_it_has_promised_do_not() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    let disk = SmallDisk::thin(256 << 20, 96 << 20)?;
    // The one place is taken, so that what is acknowledged meanwhile is on disk and nowhere else.
    let options = Options {
        dev: false,
        end_sessions: false,
        dir: Some(disk.path().to_owned()),
        ..Options::quick()
    };
    let options = options.config("[store]\nreserve = \"2M\"\n[tasks]\nconcurrency = 1\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "worker", json!({}))?;
        let session = session_name("stays");
        ensure!(count(&client, &session)? == 1);
        let work = "time.sleep(15)\nanswer = 'done'";
        let request = task::submission("worker", "", work).header(SESSION_HEADER, &session);
        let running: Task = client.send(request)?.expect(202)?.json()?;
        task::reaches(&client, &running, TaskStatus::Running)?;
        let shim = client.session(&session)?.pid.unwrap_or_default();
        let processes = || -> Vec<_> {
            let tree = host::processes(shim).into_iter();
            tree.map(|pid| (pid, host::start_time(pid))).collect()
        };
        let before = processes();
        ensure!(before.len() >= 2, "shim and agent: {before:?}");

        disk.fail()?;
        let mut promised: Vec<Task> = Vec::new();
        let refused = wait::until(60, "a submission to be refused", || {
            let submission = task::submission("worker", "", "answer = 'kept'");
            Ok(match client.send(submission) {
                Ok(answer) if answer.status == 202 => {
                    promised.push(answer.json()?);
                    None
                }
                Ok(answer) => Some(answer.status),
                // It is gone.
                Err(_) => Some(0),
            })
        })?;
        ensure!(matches!(refused, 0 | 500 | 503), "status {refused}");
        let status = daemon.exited(30)?;
        ensure!(status.code() == Some(1), "{status}");
        let log = daemon.log();
        ensure!(
            log.contains("the database failed") && log.contains("disk I/O error"),
            "it does not say why: {log}"
        );
        ensure!(processes() == before, "its processes are others");

        disk.mend()?;
        daemon.restart()?;
        ensure!(
            daemon.log().contains("checked from end to end"),
            "not checked: {}",
            daemon.log()
        );
        let client = daemon.client();
        ensure!(processes() == before, "its processes are others");
        ensure!(count(&client, &session)? == 2, "its memory is lost");
        let done = task::reaches(&client, &running, TaskStatus::Succeeded)?;
        ensure!(done.attempts == 1, "{done:?}");
        for one in &promised {
            task::reaches(&client, one, TaskStatus::Succeeded)?;
        }
        eprintln!("{} were acknowledged before it failed", promised.len());
        client.stop(&session)?;
        // One that was refused may be there as well: what a failed commit has written is not known. It runs then, once.
        wait::until_true(60, "all sessions to end", || {
            Ok(client.live_sessions()?.is_empty())
        })
    })
}
