//! Any step on the way to a running agent that cannot be taken means: no session, an error that names the step, nothing left.
//! The steps are those that the daemon prints, so a new one is tested without anybody thinking of it. Each fails two dozen
//! times, eight at a time: the prepared places are fewer, so some of the eight have one and the others make their own. Tier:
//! root, fault-injection build.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, places};
use proto::api::{EndReason, Phase};
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

const AT_ONCE: usize = 8;
const ROUNDS: usize = 3;

/// A line of `--print-plan`.
struct Step {
    /// `place`, `launch` or `agent`.
    part: String,
    name: String,
}

impl Step {
    /// Who takes it: those of its storage only a session that has one.
    fn runtime(&self) -> &'static str {
        if self.name.starts_with("storage.") {
            "keeper"
        } else {
            "agent"
        }
    }
}

fn steps() -> anyhow::Result<Vec<Step>> {
    let out = Command::new(places::fault_binaries().join("agentcored"))
        .arg("--print-plan")
        .output()?;
    ensure!(out.status.success(), "--print-plan: {}", out.status);
    let steps: Vec<Step> = String::from_utf8(out.stdout)?
        .lines()
        .map(|line| {
            let (part, name) = line.split_once('\t').context("part and name")?;
            Ok(Step {
                part: part.to_owned(),
                name: name.to_owned(),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    for (part, least) in [("place", 14), ("launch", 100), ("agent", 13)] {
        let found = steps.iter().filter(|s| s.part == part).count();
        ensure!(found >= least, "only {found} steps of {part}");
    }
    Ok(steps)
}

/// No step fails closed unless all do.
fn all_close(outcomes: Vec<(String, Result)>) -> Result {
    let all = outcomes.len();
    let faults: Vec<_> = outcomes
        .into_iter()
        .filter_map(|(name, outcome)| Some(format!("{name}: {:#}", outcome.err()?)))
        .collect();
    ensure!(
        faults.is_empty(),
        "{} of {all} steps do not fail closed:\n{}",
        faults.len(),
        faults.join("\n")
    );
    let times = AT_ONCE * ROUNDS;
    println!("{all} steps, each failed {times} times: no session, nothing left");
    Ok(())
}

fn fails_many_times(client: &Client, step: &Step) -> Result {
    for _ in 0..ROUNDS {
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(|| fails(client, step)))
                .collect();
            calls.into_iter().try_for_each(|call| {
                call.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
            })
        })?;
    }
    Ok(())
}

fn fails(client: &Client, step: &Step) -> Result {
    let id = session_name("fails");
    let answer = client.send(Client::invocation(
        step.runtime(),
        &id,
        &json!({"do": "echo"}),
    ))?;
    ensure!(
        answer.status >= 400,
        "a session started without it: {}",
        answer.status
    );
    let text = answer.text()?;
    let agent = step.name.strip_prefix("agent.");
    // Two of the agent's steps are told in the words of the one who wrote its command.
    let told = match agent {
        None => step.name.clone(),
        Some("exec") => r#"cannot start \"/usr/bin/python3\": I/O error"#.to_owned(),
        Some("cwd") => r#"cannot start \"/usr/bin/python3\" in \"/app\": I/O error"#.to_owned(),
        Some(stage) => format!("step {stage} failed"),
    };
    ensure!(
        text.contains(&told),
        "the error does not say {told:?}: {text}"
    );
    let session = client.ended(&id, 10)?;
    let reason = match agent {
        None => EndReason::LaunchFailed,
        Some(_) => EndReason::AgentExited,
    };
    ensure!(
        session.phase == Phase::Failed && session.end_reason == Some(reason),
        "{session:?}"
    );
    Ok(())
}

/// Steps fail in sessions that are started for their callers; where there are others, those are made instead.
fn cold() -> Options {
    let cold = "[template]\nfork = \"off\"\n[pool]\nmax = 0";
    Options::quick().faults().config(cold)
}

#[test]
fn each_step_of_a_launch_that_fails_means_no_session_and_nothing_left() -> Result {
    ground!(Daemon, Faults, Python);
    let file = places::scratch().join(format!("fail-step-{}", std::process::id()));
    let variable = format!("@{}", file.display());
    let options = cold();
    let outcome = Daemon::with(options.env("AGENTCORED_FAIL_STEP", &variable), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let storage = json!({"storage": [{"mount": "/mnt/data", "size": "16M"}]});
        chaos::deploy(&client, "keeper", "sdk", storage)?;
        let fine = || {
            let id = session_name("fine");
            client.invoke("agent", &id, &json!({"do": "echo"}))?;
            client.stop(&id).map(drop)
        };
        fine()?;
        let before = Snapshot::steady(daemon)?;
        let mut outcomes = Vec::new();
        for step in steps()?.iter().filter(|s| s.part != "place") {
            fs::write(&file, &step.name)?;
            let failed = fails_many_times(&client, step);
            fs::write(&file, "")?;
            let outcome = failed.and_then(|()| before.settle(daemon));
            outcomes.push((step.name.clone(), outcome));
        }
        all_close(outcomes)?;
        fine()?;
        before.settle(daemon)
    });
    let _ = fs::remove_file(file);
    outcome
}

#[test]
fn each_step_of_a_place_that_fails_means_no_session_and_nothing_left() -> Result {
    ground!(Daemon, Faults, Python);
    let options = cold();
    Daemon::with(options.clone(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let mut outcomes = Vec::new();
        for step in steps()?.iter().filter(|s| s.part == "place") {
            let logged = daemon.log().len();
            daemon.terminate()?;
            // From the daemon's start, so that no place is left from better times.
            daemon.restart_with(options.clone().env("AGENTCORED_FAIL_STEP", &step.name))?;
            let outcome = places_fail(daemon, &client, step, logged);
            outcomes.push((step.name.clone(), outcome));
        }
        all_close(outcomes)
    })
}

/// What a daemon uses is looked at for this long.
const RATE: Duration = Duration::from_millis(500);

/// What cannot be prepared is neither tried again and again nor told again and again.
fn places_fail(daemon: &Daemon, client: &Client, step: &Step, logged: usize) -> Result {
    let before = Snapshot::steady(daemon)?;
    // From here on, so that what a start costs is not taken for trying again.
    let (began, spent) = (Instant::now(), spent(daemon)?);
    std::thread::sleep(RATE);
    let idle = self::spent(daemon)? - spent;
    let share = idle / began.elapsed().as_secs_f64();
    ensure!(share < 0.3, "idle, it uses {share:.2} processors");
    fails_many_times(client, step)?;
    before.settle(daemon)?;
    let log = daemon.log();
    let log = &log[logged..];
    let told = log.matches("no slot could be prepared").count();
    ensure!(told <= 1, "told {told} times:\n{log}");
    // What each failed launch says, and what a start says.
    let lines = log.lines().count();
    ensure!(
        lines < 40 + 4 * AT_ONCE * ROUNDS,
        "{lines} lines of log:\n{log}"
    );
    Ok(())
}

/// CPU seconds of broker and launcher so far.
fn spent(daemon: &Daemon) -> anyhow::Result<f64> {
    [daemon.pid(), daemon.launcher()?]
        .into_iter()
        .map(host::cpu_seconds)
        .sum()
}

#[test]
fn a_defect_of_the_task_that_owns_a_session_ends_it_and_leaves_nothing() -> Result {
    ground!(Daemon, Faults, Python);
    let options = cold();
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
