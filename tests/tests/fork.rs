//! Sessions whose agents are forks of a template: that each is its caller's own as a cold one is, that what cannot be forked is started
//! instead and said, and that nothing is left. Tier: root.
//!
//! What a template loads is in `template_loading.rs`, how it comes and goes in `template_life.rs`. The probes of the security bar in
//! a forked session are in `isolation.rs`; what a fork must be to be let through is tested where it is looked at (`sandbox`,
//! `worker-shim`, `supervisor/tests/launcher`).

use anyhow::{Context as _, ensure};
use e2e::client::{joined, session_name};
use e2e::http::Request;
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, deploy, ground, puppet, wait, warm};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, Origin, Phase, Session, TemplateState};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn a_forked_session_is_its_callers_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "own", json!({"environment": {"COLOUR": "blue"}}))?;
        let (one, first) = warm::forked(&client, "own")?;
        let (other, second) = warm::forked(&client, "own")?;
        ensure!(first.pid != second.pid && first.uid_base != second.uid_base);
        ensure!(
            client.live_sessions()?.len() == 2,
            "a template is listed as a session"
        );
        let of = warm::the_template(&client, "own")?;
        ensure!(of.owner.as_deref() == Some("daemon") && of.user_id.as_deref() == Some("template"));
        let look = "import os, socket\n\
            open('/tmp/mine', 'x').close()\n\
            answer = {'uid': os.getuid(), 'host': socket.gethostname(), 'pid': os.getpid(), 'colour': os.environ['COLOUR'],\n\
                'home': os.listdir(os.environ['HOME']), 'tmp': os.listdir('/tmp'), 'seen': len([p for p in os.listdir('/proc') if p.isdigit()])}";
        for (id, session) in [(&one, &first), (&other, &second)] {
            let seen = puppet::run(&client, "own", id, look)?;
            ensure!(seen["uid"] == 1000 && seen["colour"] == "blue", "{seen}");
            ensure!(
                seen["home"] == json!([]) && seen["tmp"] == json!(["mine"]),
                "{seen}"
            );
            // Its shim is another user's, and hidden.
            ensure!(seen["seen"] == 1 && seen["pid"] != 1, "{seen}");
            // What it writes is in its own log.
            let word = format!("of {}", session.id);
            puppet::run(&client, "own", id, &format!("print('{word}', flush=True)"))?;
            wait::until_true(10, "its line", || Ok(client.logs(id)?.contains(&word)))?;
        }
        ensure!(!client.logs(&one)?.contains(second.id.as_str()));
        ensure!(
            puppet::run(&client, "own", &one, puppet::COUNT)? == json!(2),
            "not the same session again"
        );
        // An agent that ends is told as that of any session.
        let gone = Client::invocation("own", &one, &puppet::payload("import os\nos._exit(3)"));
        client.send(gone)?.expect(424)?;
        let ended = client.ended(&one, 20)?;
        ensure!(
            ended.end_reason == Some(EndReason::AgentExited),
            "{ended:?}"
        );
        ensure!(
            puppet::run(&client, "own", &other, puppet::COUNT)? == json!(2),
            "the other is gone as well"
        );
        // Where people look.
        let metrics = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
        for sample in [
            "agentcore_session_start_seconds_count{path=\"fork\",agent=\"own\"} 2",
            "agentcore_session_start_seconds_count{path=\"cold\",agent=\"own\"} 1",
            "agentcore_templates{state=\"ready\",agent=\"own\"} 1",
        ] {
            ensure!(metrics.contains(sample), "{sample} is not in\n{metrics}");
        }
        let out = daemon.cli().args(["status", "-a", "own"]).output()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.contains("Template    ready; 2 of 2 forks came to be"),
            "{out}"
        );
        client.stop(&other)?;
        warm::delete(&client, "own")?;
        warm::nothing_left(daemon)
    })
}

#[test]
fn forks_draw_numbers_of_their_own() -> Result {
    ground!(Daemon, Python);
    // Loaded, and drawn from, before the fork.
    let source = format!(
        "import random, secrets, ssl, uuid, tempfile\n\
         random.random(), secrets.token_hex(), uuid.uuid4(), uuid.uuid1(), ssl.RAND_bytes(8), next(tempfile._get_candidate_names())\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::load(&client, "dice", &source, json!({}))?;
        let draw = "import random, secrets, ssl, uuid, tempfile, os\n\
            answer = {'random': random.getrandbits(64), 'secrets': secrets.token_hex(8), 'uuid4': str(uuid.uuid4()), 'uuid1': str(uuid.uuid1()),\n\
                'ssl': ssl.RAND_bytes(8).hex(), 'tempfile': next(tempfile._get_candidate_names()), 'urandom': os.urandom(8).hex(), 'system': random.SystemRandom().getrandbits(64)}";
        let mut drawn = Vec::new();
        for _ in 0..3 {
            let (id, _) = warm::forked(&client, "dice")?;
            drawn.push(puppet::run(&client, "dice", &id, draw)?);
        }
        for (of, _) in drawn[0].as_object().context("an object")? {
            let values: BTreeSet<String> = drawn.iter().map(|one| one[of].to_string()).collect();
            ensure!(values.len() == 3, "{of}: {drawn:#?}");
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_forked_is_started_and_said() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = |first: &str| format!("{first}\n{}", puppet::SOURCE);
        let lies = |first: &str| {
            before(&format!(
                "try:\n    from agentcore_template import _system, _fitness\n    {first}\nexcept ImportError: pass"
            ))
        };
        for (name, source, reason) in [
            (
                "threads",
                before(
                    "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
                ),
                "threads",
            ),
            (
                "sockets",
                before("import socket\nkept_open = socket.socket()"),
                "a socket open",
            ),
            (
                "forks",
                before("import os, time\nif os.fork() == 0:\n    time.sleep(600)"),
                "another process",
            ),
            // That session never reaches a caller.
            (
                "caps",
                lies("_system.drop_capabilities = lambda: None"),
                "was not what it must be",
            ),
            (
                "filter",
                lies("_system.install_filter = lambda program: None"),
                "was not what it must be",
            ),
            (
                "stays",
                lies("_system.setns = lambda fd: None"),
                "drop a capability: Operation not permitted",
            ),
        ] {
            deploy::python(&client, name, &source, warm::forking())?;
            // Callers come and never notice; two, for some are seen by their fork only.
            let mut tried = 0;
            wait::until_true(60, &format!("{name}: the reason"), || {
                tried += 1;
                let (id, session) = puppet::begin(&client, name)?;
                ensure!(session.origin == Some(Origin::Cold), "{name}: {session:?}");
                client.stop(&id)?;
                Ok(warm::template(&client, name)?.reason.is_some())
            })?;
            let found = warm::template(&client, name)?;
            let told = found.reason.clone().unwrap_or_default();
            ensure!(told.contains(reason), "{name}: {told}");
            ensure!(found.forks == 0, "{name}: {found:?}");
            warm::said(daemon, name, &told)?;
            warm::delete(&client, name)?;
        }
        // One that cannot be loaded: its caller has its own traceback, from a session of its own.
        deploy::python(
            &client,
            "broken",
            "raise RuntimeError('of its own')",
            warm::forking(),
        )?;
        for _ in 0..2 {
            let call = Client::invocation("broken", &session_name("broken"), &json!({}));
            let text = client.send(call)?.expect(424)?.text()?;
            ensure!(text.contains("of its own"), "{text}");
        }
        wait::until_true(30, "the reason", || {
            let reason = warm::template(&client, "broken")?
                .reason
                .unwrap_or_default();
            Ok(reason.contains("of its own"))
        })?;
        wait::until_true(20, "the last template to be gone", || {
            Ok(warm::templates(&client)?.is_empty())
        })
    })
}

#[test]
fn a_fork_that_fails_is_its_callers_cold_session() -> Result {
    ground!(Daemon, Python);
    // Ends where only a fork comes by, before it serves.
    let dies = "import os\nif 'agentcore_template' in __import__('sys').modules:\n    from agentcore_template import _reseed\n    _reseed.reseed = lambda: os._exit(9)";
    let source = format!("{dies}\n{}", puppet::SOURCE);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = Snapshot::steady(daemon)?;
        warm::load(&client, "dies", &source, json!({}))?;
        let (id, session) = puppet::begin(&client, "dies")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        ensure!(
            client.logs(&id)?.contains("not forked from a template"),
            "{}",
            client.logs(&id)?
        );
        let found = warm::template(&client, "dies")?;
        ensure!((found.forks, found.failed) == (0, 1), "{found:?}");
        // It goes on as any session.
        ensure!(puppet::run(&client, "dies", &id, puppet::COUNT)? == json!(2));
        client.stop(&id)?;
        // Tried again, ever more rarely, for as long as somebody wants sessions.
        wait::until_true(30, "another template", || {
            Ok(warm::template(&client, "dies")?.state == TemplateState::Ready)
        })?;
        warm::delete(&client, "dies")?;
        before.settle(daemon)
    })
}

#[test]
fn a_forked_session_has_its_callers_storage() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let storage = json!({"storage": [{"mount": "/mnt/data", "size": "16M"}]});
        warm::deploy(&client, "kept", storage)?;
        let id = session_name("kept");
        let write = "open('/mnt/data/mine', 'x').write('of before')\nanswer = 1";
        puppet::run(&client, "kept", &id, write)?;
        ensure!(client.session(&id)?.origin == Some(Origin::Fork));
        client.stop(&id)?;
        let (other, _) = warm::forked(&client, "kept")?;
        let list = "import os\nanswer = sorted(name for name in os.listdir('/mnt/data') if name != 'lost+found')";
        ensure!(puppet::run(&client, "kept", &other, list)? == json!([]));
        ensure!(puppet::run(&client, "kept", &id, list)? == json!(["mine"]));
        ensure!(client.session(&id)?.origin == Some(Origin::Fork));
        Ok(())
    })
}

#[test]
fn forks_leave_nothing_behind() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "clean", json!({}))?;
        let (id, _) = warm::forked(&client, "clean")?;
        client.stop(&id)?;
        let before = Snapshot::steady(daemon)?;
        for round in 0..12 {
            let (id, session) = warm::forked(&client, "clean")?;
            match round % 3 {
                0 => {
                    client.stop(&id)?;
                }
                1 => {
                    let exit = puppet::payload("import os\nos._exit(0)");
                    client
                        .send(Client::invocation("clean", &id, &exit))?
                        .expect(424)?;
                }
                _ => kill(Pid::from_raw(session.pid.context("pid")?), Signal::SIGKILL)?,
            }
            client.ended(&id, 20)?;
        }
        ensure!(warm::template(&client, "clean")?.forks == 13);
        before.settle(daemon)
    })
}

#[test]
fn a_crowd_is_forked_and_each_has_a_session() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "crowd", json!({}))?;
        let calls: Vec<_> = (0..30)
            .map(|number| {
                let id = session_name(&format!("crowd-{number}"));
                let call = client.in_background("crowd", &id, &puppet::payload(puppet::COUNT));
                (id, call)
            })
            .collect();
        let mut pids = BTreeSet::new();
        for (id, call) in calls {
            let count: Value = joined(call)?.expect(200)?.json()?;
            ensure!(count == json!(1), "two callers are in one session: {count}");
            ensure!(pids.insert(client.session(&id)?.pid));
        }
        let found = warm::template(&client, "crowd")?;
        ensure!(found.forks == 30, "{found:?}");
        Ok(())
    })
}

#[test]
fn the_aws_sdk_unmodified_is_forked() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::default().config("[pool]\nmax = 0"), |daemon| {
        let client = daemon.client();
        let folder = daemon.dir().join("aws_sdk");
        let copy = ["-r", "--"].map(str::to_owned);
        let copied = std::process::Command::new("cp")
            .args(copy)
            .args([e2e::places::example("aws_sdk"), folder.clone()])
            .status()?;
        ensure!(copied.success());
        let launched = daemon.cli().current_dir(&folder).arg("launch").output()?;
        ensure!(launched.status.success(), "{launched:?}");
        let ask = |id: &str| -> anyhow::Result<Session> {
            let answer = client.invoke("aws_sdk", id, &json!({"x": 1}))?;
            ensure!(
                answer["echo"]["x"] == 1 && answer["session_id"] == id,
                "{answer}"
            );
            client.session(id)
        };
        ask(&session_name("first"))?;
        warm::forkable(&client, "aws_sdk")?;
        for _ in 0..3 {
            let id = session_name("sdk");
            let session = ask(&id)?;
            ensure!(
                session.origin == Some(Origin::Fork),
                "{session:?}\n{}",
                client.logs(&id)?
            );
            // Its background work shows as HealthyBusy.
            client.invoke("aws_sdk", &id, &json!({"background": 2}))?;
            wait::until_true(10, "HealthyBusy", || {
                Ok(client.session(&id)?.phase == Phase::Busy)
            })?;
            client.stop(&id)?;
        }
        Ok(())
    })
}
