//! What all sessions may have together (`limits.sessions_*`) and how much each weighs against the others (`cpu_weight`): written
//! where the kernel reads it, changed while sessions run, and told in words where that cannot be. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_problem, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, cgroup, ground, puppet, wait};
use nix::sys::signal::Signal;
use proto::api::{EndReason, Origin, Phase, ResourcesChanged, Session, SessionLimits};
use serde_json::{Value, json};

/// A configuration with these limits.
fn waiting(limits: &str) -> Options {
    Options::quick().config(&format!("[limits]\n{limits}"))
}

/// The same, and nothing waits: what does takes memory of all sessions together.
fn options(limits: &str) -> Options {
    let nothing = "[template]\nfork = \"off\"\n[pool]\nmax = 0";
    Options::quick().config(&format!("{nothing}\n[limits]\n{limits}"))
}

fn cpu_is_v1() -> bool {
    let has_cpu = |h: &cgroup::Hierarchy| h.controllers.iter().any(|c| c == "cpu");
    cgroup::hierarchies().iter().any(|h| !h.v2 && has_cpu(h))
}

/// Puts other limits into the daemon's file, and has it read again.
fn reload(daemon: &Daemon, limits: &str) -> Result {
    write(daemon, limits)?;
    daemon.signal(Signal::SIGHUP)
}

fn write(daemon: &Daemon, limits: &str) -> Result {
    let file = daemon.dir().join("agentcored.toml");
    let text = std::fs::read_to_string(&file)?;
    let (before, _) = text.split_once("[limits]").context("no [limits]")?;
    Ok(std::fs::write(
        &file,
        format!("{before}[limits]\n{limits}\n"),
    )?)
}

/// A file of the instance's cgroup, which is the one above a session's: v2's name, then v1's.
fn of_all(session: &Session, controller: &str, files: [&str; 2]) -> anyhow::Result<String> {
    let pid = session.pid.context("pid")?;
    let own = cgroup::directory(pid, controller).with_context(|| format!("no {controller}"))?;
    let dir = own
        .parent()
        .context("a session's cgroup is below another")?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    ensure!(name.starts_with("agentcore-"), "{}", dir.display());
    let found = files
        .iter()
        .find_map(|file| std::fs::read_to_string(dir.join(file)).ok());
    Ok(found
        .with_context(|| format!("{files:?}"))?
        .trim()
        .to_owned())
}

const MEMORY: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];
const CPU: [&str; 2] = ["cpu.max", "cpu.cfs_quota_us"];
const WEIGHT: [&str; 2] = ["cpu.weight", "cpu.shares"];
const PIDS: [&str; 2] = ["pids.max", "pids.max"];

/// A weight as its file has it: v1 counts in 1024ths, rounded up.
fn weight(found: &str, weight: u32) -> bool {
    found == weight.to_string() || found == (weight * 1024).div_ceil(100).to_string()
}

fn quota(found: &str, microseconds: u32) -> bool {
    found.split(' ').next() == Some(&microseconds.to_string())
}

fn none(found: &str) -> bool {
    found.starts_with("max") || found == "-1" || found.parse().is_ok_and(|n: u64| n > 1 << 60)
}

#[test]
fn ceilings_are_the_instances_and_follow_the_configuration() -> Result {
    ground!(Daemon, Python);
    let first = "sessions_memory = \"2G\"\nsessions_cpus = 2\nsessions_pids = 3000\nsessions_cpu_weight = 50";
    Daemon::with(waiting(first), |daemon| {
        let client = daemon.client();
        // More than all together is no session's.
        let too_much = json!({"resources": {"cpus": 3}});
        let refused = puppet::deploy(&client, "greedy", too_much);
        let refused = format!("{:#}", refused.expect_err("3 CPUs of 2"));
        ensure!(
            refused.contains("resources.cpus") && refused.contains("at most 2"),
            "{refused}"
        );
        puppet::deploy(
            &client,
            "bounded",
            json!({"resources": {"memory": "400M", "cpus": 1.5}}),
        )?;
        let id = session_name("bounded");
        let session = client.start("bounded", &id, &puppet::payload("answer = 1"))?;
        let all = |controller, files| of_all(&session, controller, files);
        ensure!(all("memory", MEMORY)? == (2u64 << 30).to_string());
        ensure!(quota(&all("cpu", CPU)?, 200_000), "{}", all("cpu", CPU)?);
        ensure!(weight(&all("cpu", WEIGHT)?, 50), "{}", all("cpu", WEIGHT)?);
        ensure!(all("pids", PIDS)? == "3000");
        // Another configuration, while the session runs.
        reload(
            daemon,
            "sessions_memory = \"1G\"\nsessions_cpus = 1.6\nsessions_cpu_weight = 200",
        )?;
        wait::until_true(10, "the new ceiling", || {
            Ok(quota(&all("cpu", CPU)?, 160_000))
        })?;
        ensure!(all("memory", MEMORY)? == (1u64 << 30).to_string());
        ensure!(none(&all("pids", PIDS)?), "it is not bounded any more");
        ensure!(weight(&all("cpu", WEIGHT)?, 200));
        // Less than is in use: refused in words, and all of it stays as it was.
        let hoard = "kept['x'] = bytearray(200 << 20)\nanswer = len(kept['x'])";
        puppet::run(&client, "bounded", &id, hoard)?;
        reload(daemon, "sessions_memory = \"100M\"\nsessions_cpus = 1.55")?;
        wait::until_true(10, "the refusal", || {
            Ok(daemon.log().contains("limits.sessions_memory is 100M"))
        })?;
        ensure!(all("memory", MEMORY)? == (1u64 << 30).to_string());
        ensure!(quota(&all("cpu", CPU)?, 160_000), "{}", all("cpu", CPU)?);
        let metrics = client.send(Request::get("/metrics"))?.text()?;
        ensure!(
            metrics.contains("agentcore_config_last_reload_successful 0"),
            "{metrics}"
        );
        puppet::run(&client, "bounded", &id, "answer = len(kept['x'])")?;
        // Fewer CPUs than one session has.
        reload(daemon, "sessions_cpus = 0.5")?;
        if cpu_is_v1() {
            wait::until_true(10, "the refusal", || {
                let log = daemon.log();
                Ok(log.contains("limits.sessions_cpus is 0.5") && log.contains("ceilings.cpus"))
            })?;
            ensure!(daemon.log().contains(session.id.as_str()), "whose it is");
            ensure!(quota(&all("cpu", CPU)?, 160_000), "{}", all("cpu", CPU)?);
            client
                .send(patch(
                    &format!("/v1/sessions/{id}/limits"),
                    &json!({"cpus": 0.4}),
                ))?
                .expect(200)?;
            daemon.signal(Signal::SIGHUP)?;
        }
        wait::until_true(10, "half a CPU for all", || {
            Ok(quota(&all("cpu", CPU)?, 50_000))
        })?;
        // A version that was within the ceiling is so no more; it is told, and served again when it is.
        let later = session_name("later");
        let call = || {
            client.send(Client::invocation(
                "bounded",
                &later,
                &puppet::payload("answer = 2"),
            ))
        };
        wait::until_true(10, "the version to be out of bounds", || {
            Ok(call()?.status >= 400)
        })?;
        reload(daemon, "")?;
        wait::until_true(10, "the ceiling to be gone", || Ok(none(&all("cpu", CPU)?)))?;
        ensure!(none(&all("memory", MEMORY)?));
        wait::until_true(10, "the version to be served", || Ok(call()?.status == 200))?;
        Ok(())
    })
}

#[test]
fn what_is_nobodys_gives_way_to_fewer_cpus_for_all() -> Result {
    ground!(Daemon, Python);
    Daemon::with(waiting("sessions_cpus = 2"), |daemon| {
        let client = daemon.client();
        // It is to be found as it was, however long the others take.
        let config = json!({
            "resources": {"cpus": 1.5}, "pool": {"min": 2, "max": 2}, "lifecycle": {"freeze_after": 0},
        });
        puppet::deploy(&client, "ready", config)?;
        let nobodys = |origin: Origin| -> anyhow::Result<Vec<Session>> {
            let mut all = client.sessions("pool=true&live=true")?;
            all.retain(|one| one.origin == Some(origin) && one.phase == Phase::Ready);
            Ok(all)
        };
        // The first caller brings a template, of which two wait and a third is somebody's.
        let first = session_name("first");
        client.start("ready", &first, &puppet::payload("answer = 1"))?;
        client.stop(&first)?;
        let mut template = None;
        wait::until_true(60, "two forks that wait", || {
            let runtime = client.runtime("ready")?;
            let forks = runtime.template.map_or(0, |of| of.forks);
            template = nobodys(Origin::Template)?.pop();
            Ok(template.is_some() && forks >= 2 && nobodys(Origin::Waiting)?.len() == 2)
        })?;
        let template = template.context("a template")?;
        let id = session_name("mine");
        let mine = client.start("ready", &id, &puppet::payload("answer = 2"))?;
        ensure!(mine.origin == Some(Origin::Pool), "{mine:?}");
        wait::until_true(60, "another one to wait", || {
            Ok(nobodys(Origin::Waiting)?.len() == 2)
        })?;
        let waited = nobodys(Origin::Waiting)?;
        if cpu_is_v1() {
            // Nobody gives way to what is refused in the end.
            reload(daemon, "sessions_cpus = 0.5")?;
            wait::until_true(10, "the refusal", || {
                let log = daemon.log();
                Ok(log.contains("limits.sessions_cpus is 0.5") && log.contains(mine.id.as_str()))
            })?;
            ensure!(!daemon.log().contains("gives way"), "{}", daemon.log());
        }
        let path = format!("/v1/sessions/{id}/limits");
        let less = patch(&path, &json!({"cpus": 0.4}));
        client.send(less)?.expect(200)?;
        reload(daemon, "sessions_cpus = 0.5")?;
        wait::until_true(10, "half a CPU for all", || {
            Ok(quota(&of_all(&mine, "cpu", CPU)?, 50_000))
        })?;
        for one in &waited {
            let ended = client.ended(one.id.as_str(), 20)?;
            ensure!(
                matches!(ended.end_reason, Some(EndReason::Evicted | EndReason::Idle)),
                "{ended:?}"
            );
        }
        // What somebody has lives on, and so does what that is below, with no more than all have.
        ensure!(client.session(&id)?.phase == Phase::Ready);
        if cpu_is_v1() {
            let found = cgroup::value(template.pid.context("pid")?, "cpu", &CPU);
            ensure!(quota(&found.context("no cpu")?, 50_000));
            ensure!(
                daemon.log().contains("gives way to fewer CPUs"),
                "{}",
                daemon.log()
            );
        }
        client.stop(&id)?;
        client.ended(template.id.as_str(), 20)?;
        let metrics = client.send(Request::get("/metrics"))?.text()?;
        ensure!(
            metrics.contains("agentcore_config_last_reload_successful 1"),
            "{metrics}"
        );
        Ok(())
    })
}

#[test]
fn a_session_that_is_gone_is_in_nobodys_way() -> Result {
    ground!(Daemon, Python);
    let two = "sessions_cpus = 2";
    Daemon::with(options(two), |daemon| {
        let client = daemon.client();
        for (name, cpus) in [("small", 0.4), ("large", 1.5)] {
            puppet::deploy(&client, name, json!({"resources": {"cpus": cpus}}))?;
        }
        let stays = session_name("stays");
        let stays = client.start("small", &stays, &puppet::payload("answer = 1"))?;
        let all = || of_all(&stays, "cpu", CPU);
        for _ in 0..5 {
            let id = session_name("gone");
            let many = "import subprocess\n[subprocess.Popen(['sleep', '60']) for _ in range(20)]";
            // Its version is served again a moment after all have two CPUs again.
            wait::until_true(10, "the version to be served", || {
                let call = Client::invocation("large", &id, &puppet::payload(many));
                Ok(client.send(call)?.status == 200)
            })?;
            client.stop(&id)?;
            // The kernel may count its cgroup for a while.
            reload(daemon, "sessions_cpus = 0.5")?;
            wait::until_true(10, "half a CPU for all", || Ok(quota(&all()?, 50_000)))?;
            reload(daemon, two)?;
            wait::until_true(10, "two CPUs again", || Ok(quota(&all()?, 200_000)))?;
        }
        ensure!(!daemon.log().contains("not reloaded"), "{}", daemon.log());
        Ok(())
    })
}

#[test]
fn what_runs_keeps_no_daemon_from_starting() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        end_sessions: false,
        ..options("sessions_memory = \"1G\"")
    };
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "heavy", json!({"resources": {"memory": "400M"}}))?;
        let id = session_name("heavy");
        let session = client.start("heavy", &id, &puppet::payload("answer = 1"))?;
        puppet::run(&client, "heavy", &id, "kept['x'] = bytearray(200 << 20)")?;
        daemon.kill()?;
        write(daemon, "sessions_memory = \"100M\"")?;
        let again = Options {
            dev: false,
            end_sessions: false,
            ..self::options("sessions_memory = \"100M\"")
        };
        daemon.restart_with(again)?;
        let client = daemon.client();
        let kept = puppet::run(&client, "heavy", &id, "answer = len(kept['x'])")?;
        ensure!(kept == json!(200 << 20), "{kept}");
        ensure!(
            daemon.log().contains("limits.sessions_memory is 100M"),
            "{}",
            daemon.log()
        );
        ensure!(of_all(&session, "memory", MEMORY)? == (1u64 << 30).to_string());
        puppet::run(&client, "heavy", &id, "kept.clear()")?;
        wait::until_true(10, "the ceiling", || {
            daemon.signal(Signal::SIGHUP)?;
            Ok(of_all(&session, "memory", MEMORY)? == (100u64 << 20).to_string())
        })?;
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn sessions_that_want_more_than_all_may_have_end_and_say_why() -> Result {
    ground!(Daemon, Python);
    Daemon::with(options("sessions_memory = \"300M\""), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "pair", json!({"resources": {"memory": "400M"}}))?;
        let (one, two) = (session_name("one"), session_name("two"));
        client.start(
            "pair",
            &one,
            &puppet::payload("kept['x'] = bytearray(100 << 20)"),
        )?;
        let other = client.start("pair", &two, &puppet::payload("answer = 1"))?;
        let hoard = puppet::payload("kept['x'] = bytearray(220 << 20)\nanswer = len(kept['x'])");
        let answer = client.send(Client::invocation("pair", &two, &hoard))?;
        ensure!(
            answer.status >= 400,
            "320 MiB fit into 300: {}",
            answer.status
        );
        let ended = client.ended(other.id.as_str(), 20)?;
        ensure!(
            ended.end_reason == Some(EndReason::OutOfMemory),
            "{ended:?}"
        );
        let why = ended.end_detail.as_deref().unwrap_or_default();
        ensure!(why.contains("limits.sessions_memory"), "{why}");
        let kept = puppet::run(&client, "pair", &one, "answer = len(kept['x'])")?;
        ensure!(kept == json!(100 << 20), "the smaller one: {kept}");
        client.stop(&one)?;
        Ok(())
    })
}

fn patch(path: &str, body: &Value) -> Request {
    Request::new("PATCH", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

#[test]
fn a_weight_is_the_runtimes_and_changes_where_its_sessions_run() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        // Nobody weighs more than others unless the operator says so.
        let heavy = puppet::deploy(&client, "heavy", json!({"resources": {"cpu_weight": 101}}));
        let heavy = format!("{:#}", heavy.expect_err("beyond the ceiling"));
        ensure!(
            heavy.contains("resources.cpu_weight") && heavy.contains("at most 100"),
            "{heavy}"
        );
        puppet::deploy(&client, "batch", json!({"resources": {"cpu_weight": 20}}))?;
        puppet::deploy(&client, "usual", json!({}))?;
        let (batch, usual, later) = (
            session_name("batch"),
            session_name("usual"),
            session_name("later"),
        );
        let light = client.start("batch", &batch, &puppet::payload("answer = 1"))?;
        let plain = client.start("usual", &usual, &puppet::payload("answer = 1"))?;
        let of = |session: &Session, wanted: u32| -> Result {
            let pid = session.pid.context("pid")?;
            let found = cgroup::value(pid, "cpu", &WEIGHT).context("no cpu")?;
            ensure!(weight(&found, wanted), "{found} is not {wanted}");
            Ok(())
        };
        of(&light, 20)?;
        of(&plain, 100)?;
        let shown = |id: &str| client.get::<SessionLimits>(&format!("/v1/sessions/{id}/limits"));
        ensure!(shown(&batch)?.cpu_weight == Some(20) && shown(&usual)?.cpu_weight == Some(100));
        let path = format!("/v1/sessions/{batch}/limits");
        let changed: SessionLimits = client
            .send(patch(&path, &json!({"cpuWeight": 50})))?
            .expect(200)?
            .json()?;
        ensure!(changed.cpu_weight == Some(50), "{changed:?}");
        of(&light, 50)?;
        for wrong in [
            json!({"cpuWeight": 101}),
            json!({"cpuWeight": 0}),
            json!({"cpuWeight": "much"}),
        ] {
            expect_problem(client.send(patch(&path, &wrong))?, 400, "cpuWeight")?;
        }
        of(&light, 50)?;
        // All of a runtime, and those to come.
        let answer = client.send(patch(
            "/v1/runtimes/batch/resources",
            &json!({"cpuWeight": 7}),
        ))?;
        let outcome: ResourcesChanged = answer.expect(200)?.json()?;
        ensure!(
            outcome.changed.len() == 1 && outcome.unchanged.is_empty(),
            "{outcome:?}"
        );
        of(&light, 7)?;
        of(
            &client.start("batch", &later, &puppet::payload("answer = 1"))?,
            7,
        )?;
        of(&plain, 100)?;
        let out = daemon
            .cli()
            .args(["session", "limits", &batch, "--cpu-weight", "9", "--json"])
            .output()?;
        ensure!(out.status.success(), "{out:?}");
        of(&light, 9)?;
        for id in [&batch, &usual, &later] {
            client.stop(id)?;
        }
        Ok(())
    })
}
