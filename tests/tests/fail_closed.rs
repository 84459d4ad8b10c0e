//! Any step of the plan that cannot be applied means: no session, an error that names the step, nothing left. The steps are
//! those that the daemon prints, so a new one is tested without anybody thinking of it. Tier: root, fault-injection build.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, chaos, ground, places};
use proto::api::{EndReason, Phase};
use serde_json::json;
use std::process::Command;

/// Names of the plan's steps, in order.
fn steps() -> anyhow::Result<Vec<String>> {
    let out = Command::new(places::fault_binaries().join("agentcored"))
        .arg("--print-plan")
        .output()?;
    ensure!(out.status.success(), "--print-plan: {}", out.status);
    let names: Vec<String> = String::from_utf8(out.stdout)?
        .lines()
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect();
    ensure!(names.len() >= 60, "only {} steps: {names:?}", names.len());
    Ok(names)
}

#[test]
fn each_step_that_fails_means_no_session_and_nothing_left() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults();
    Daemon::with(options.clone(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        client.invoke("agent", &session_name("fine"), &json!({"do": "echo"}))?;
        let mut faults = Vec::new();
        let names = steps()?;
        for name in &names {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_FAIL_STEP", name))?;
            if let Err(error) = fails(daemon, &client, name) {
                faults.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(
            faults.is_empty(),
            "{} of {} steps do not fail closed:\n{}",
            faults.len(),
            names.len(),
            faults.join("\n")
        );
        println!(
            "{} steps, each failed: no session, nothing left",
            names.len()
        );
        Ok(())
    })
}

fn fails(daemon: &Daemon, client: &Client, step: &str) -> Result {
    let before = Snapshot::steady(daemon)?;
    for _ in 0..2 {
        let id = session_name("fails");
        let answer = client.send(Client::invocation("agent", &id, &json!({"do": "echo"})))?;
        ensure!(
            answer.status >= 400,
            "a session started without it: {}",
            answer.status
        );
        let text = answer.text()?;
        ensure!(
            text.contains(step),
            "the error does not name the step: {text}"
        );
        let session = client.ended(&id, 10)?;
        ensure!(
            session.phase == Phase::Failed && session.end_reason == Some(EndReason::LaunchFailed),
            "{session:?}"
        );
    }
    before.settle(daemon)
}

#[test]
fn a_defect_of_the_task_that_owns_a_session_ends_it_and_leaves_nothing() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults();
    Daemon::with(
        options.env("AGENTCORED_FAIL_STEP", "driver.stop"),
        |daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "agent", "sdk", json!({}))?;
            let neighbour = session_name("neighbour");
            client.invoke("agent", &neighbour, &json!({"do": "echo"}))?;
            let before = Snapshot::steady(daemon)?;
            for _ in 0..3 {
                let id = session_name("orphan");
                client.invoke("agent", &id, &json!({"do": "echo"}))?;
                // Its driver panics over this.
                client.stop(&id)?;
                let session = client.ended(&id, 20)?;
                ensure!(
                    session.end_reason == Some(EndReason::DaemonLost),
                    "{session:?}"
                );
            }
            before.settle(daemon)?;
            ensure!(
                client.invoke("agent", &neighbour, &json!({"do": "echo", "value": 1}))?["echo"]
                    == 1
            );
            Ok(())
        },
    )
}

#[test]
fn twenty_failures_of_early_middle_and_late_steps_leave_nothing() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults();
    Daemon::with(options.clone(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        for step in ["idmap.uid", "rootfs.pivot", "seccomp.forbidden"] {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_FAIL_STEP", step))?;
            let before = Snapshot::steady(daemon)?;
            for _ in 0..3 {
                std::thread::scope(|scope| {
                    let calls: Vec<_> = (0..8)
                        .map(|_| {
                            scope.spawn(|| {
                                client.send(Client::invocation(
                                    "agent",
                                    &session_name("many"),
                                    &json!({}),
                                ))
                            })
                        })
                        .collect();
                    for call in calls {
                        let answer = call.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                        ensure!(answer.status >= 400, "{}", answer.status);
                    }
                    Ok(())
                })?;
            }
            before.settle(daemon).with_context(|| step)?;
        }
        Ok(())
    })
}

#[test]
fn the_ordinary_build_knows_no_fault_injection() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick()
        .env("AGENTCORED_FAIL_STEP", "rootfs.pivot")
        .env("AGENTCORED_ABLATE", "no_new_privs");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let session = client.start("agent", &session_name("plain"), &json!({"do": "echo"}))?;
        let shim = session.pid.context("pid")?;
        ensure!(e2e::host::status(shim, shim)?["NoNewPrivs"] == "1");
        Ok(())
    })
}
