//! Sessions whose agents are forks of a template: that each is its caller's own as a cold one is, that what cannot be forked is started
//! instead and said, that a template goes and comes without anybody's loss, and that nothing is left. Tier: root.
//!
//! The probes of the security bar in a forked session are in `isolation.rs`; what a fork must be to be let through is tested where it
//! is looked at (`sandbox`, `worker-shim`, `supervisor/tests/launcher`).

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Request;
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, cgroup, deploy, ground, host, puppet, venv, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{
    EndReason, LedgerCheck, Origin, Page, Phase, Session, Template, TemplateState, UsageRecord,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A daemon as it is installed: its sessions outlive it.
fn installed() -> Options {
    Options {
        dev: false,
        end_sessions: false,
        ..Options::quick()
    }
}

/// Forked for their callers, so without a pool, whose members come first.
fn auto() -> Value {
    json!({"fork": "auto", "pool": {"max": 0}})
}

fn template(client: &Client, runtime: &str) -> anyhow::Result<Template> {
    let found = client.runtime(runtime)?.template;
    found.context("the runtime says nothing of a template")
}

/// Waits until new sessions can be forked.
fn ready(client: &Client, runtime: &str) -> anyhow::Result<Template> {
    wait::until(60, &format!("a template of {runtime}"), || {
        let found = template(client, runtime)?;
        ensure!(
            found.reason.is_none() || found.state != TemplateState::None,
            "there will be none: {found:?}"
        );
        Ok((found.state == TemplateState::Ready).then_some(found))
    })
}

/// The sessions that are templates.
fn templates(client: &Client) -> anyhow::Result<Vec<Session>> {
    let mut all = client.sessions("pool=true&live=true")?;
    all.retain(|one| one.origin == Some(Origin::Template));
    Ok(all)
}

fn the_template(client: &Client) -> anyhow::Result<Session> {
    let mut all = templates(client)?;
    ensure!(all.len() == 1, "{all:?}");
    all.pop().context("one")
}

/// Begins a session by a call.
fn begin(client: &Client, runtime: &str) -> anyhow::Result<(String, Session)> {
    let id = session_name(runtime);
    let count = puppet::run(client, runtime, &id, COUNT)?;
    ensure!(count == json!(1), "somebody was there before: {count}");
    let session = client.session(&id)?;
    Ok((id, session))
}

/// The same of one that must be a fork.
fn forked(client: &Client, runtime: &str) -> anyhow::Result<(String, Session)> {
    let (id, session) = begin(client, runtime)?;
    ensure!(
        session.origin == Some(Origin::Fork),
        "not forked: {session:?}\n{}",
        client.logs(&id)?
    );
    Ok((id, session))
}

/// Deploys the puppet, has a first session of it, and waits for the template.
fn warm(client: &Client, runtime: &str, more: Value) -> Result {
    let mut config = auto();
    e2e::chaos::merge(&mut config, more);
    puppet::deploy(client, runtime, config)?;
    let (id, session) = begin(client, runtime)?;
    ensure!(session.origin == Some(Origin::Cold), "{session:?}");
    ready(client, runtime)?;
    client.stop(&id)?;
    Ok(())
}

/// The interpreter of a template: its shim's first child.
fn interpreter(template: &Session) -> anyhow::Result<i32> {
    let shim = template.pid.context("no pid")?;
    let first = host::children(shim).into_iter().next();
    first.context("no interpreter")
}

fn delete(client: &Client, runtime: &str) -> Result {
    let request = Request::new("DELETE", format!("/v1/runtimes/{runtime}?wait=true"));
    client.send(request)?.expect(204)?;
    Ok(())
}

/// Why sessions of a runtime are not forked is where people look: in its status, and among what the doctor finds.
fn said(daemon: &Daemon, runtime: &str, reason: &str) -> Result {
    for (words, line) in [
        (
            &["status", "-a", runtime][..],
            format!("new sessions are started, not forked: {reason}"),
        ),
        (&["doctor"], format!("{runtime}: {reason}")),
    ] {
        let out = daemon.cli().args(words).output()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.contains(&line), "{line} is not in\n{out}");
    }
    Ok(())
}

/// Waits until nothing but prepared launches is left of the daemon.
fn nothing_left(daemon: &Daemon) -> Result {
    wait::until_true(20, "every process to be gone", || {
        let members = cgroup::members_named(daemon.instance());
        Ok(members
            .iter()
            .all(|pid| host::title(*pid).contains("stager")))
    })
}

/// How often this agent was called, itself included.
const COUNT: &str = "kept['n'] = kept.get('n', 0) + 1\nanswer = kept['n']";

#[test]
fn a_forked_session_is_its_callers_own() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        warm(&client, "own", json!({"environment": {"COLOUR": "blue"}}))?;
        let (one, first) = forked(&client, "own")?;
        let (other, second) = forked(&client, "own")?;
        ensure!(first.pid != second.pid && first.uid_base != second.uid_base);
        ensure!(
            client.live_sessions()?.len() == 2,
            "a template is listed as a session"
        );
        let of = the_template(&client)?;
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
            puppet::run(&client, "own", &one, COUNT)? == json!(2),
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
            puppet::run(&client, "own", &other, COUNT)? == json!(2),
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
        delete(&client, "own")?;
        nothing_left(daemon)
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
        e2e::deploy::python(&client, "dice", &source, auto())?;
        begin(&client, "dice")?;
        ready(&client, "dice")?;
        let draw = "import random, secrets, ssl, uuid, tempfile, os\n\
            answer = {'random': random.getrandbits(64), 'secrets': secrets.token_hex(8), 'uuid4': str(uuid.uuid4()), 'uuid1': str(uuid.uuid1()),\n\
                'ssl': ssl.RAND_bytes(8).hex(), 'tempfile': next(tempfile._get_candidate_names()), 'urandom': os.urandom(8).hex(), 'system': random.SystemRandom().getrandbits(64)}";
        let mut drawn = Vec::new();
        for _ in 0..3 {
            let (id, _) = forked(&client, "dice")?;
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
            e2e::deploy::python(&client, name, &source, auto())?;
            // Callers come and never notice; two, for some are seen by their fork only.
            let mut tried = 0;
            wait::until_true(60, &format!("{name}: the reason"), || {
                tried += 1;
                let (id, session) = begin(&client, name)?;
                ensure!(session.origin == Some(Origin::Cold), "{name}: {session:?}");
                client.stop(&id)?;
                Ok(template(&client, name)?.reason.is_some())
            })?;
            let found = template(&client, name)?;
            let told = found.reason.clone().unwrap_or_default();
            ensure!(told.contains(reason), "{name}: {told}");
            ensure!(found.forks == 0, "{name}: {found:?}");
            let out = daemon.cli().args(["status", "-a", name]).output()?;
            let out = String::from_utf8_lossy(&out.stdout).into_owned();
            ensure!(out.contains("started, not forked"), "{name}: {out}");
            if name == "threads" {
                let doctor: Value = client.get("/v1/doctor")?;
                ensure!(
                    doctor
                        .to_string()
                        .contains("threads: loading it has started threads"),
                    "{doctor}"
                );
            }
            delete(&client, name)?;
        }
        // One that cannot be loaded: its caller has its own traceback, from a session of its own.
        e2e::deploy::python(
            &client,
            "broken",
            "raise RuntimeError('of its own')",
            auto(),
        )?;
        for _ in 0..2 {
            let call = Client::invocation("broken", &session_name("broken"), &json!({}));
            let text = client.send(call)?.expect(424)?.text()?;
            ensure!(text.contains("of its own"), "{text}");
        }
        wait::until_true(30, "the reason", || {
            let reason = template(&client, "broken")?.reason.unwrap_or_default();
            Ok(reason.contains("of its own"))
        })?;
        wait::until_true(20, "the last template to be gone", || {
            Ok(templates(&client)?.is_empty())
        })
    })
}

/// The puppet with Starlette and uvicorn, which the built-in SDK is not: it has a route for the warm-up call.
const WITH_A_ROUTE: &str = r#"
import os, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

kept = {}

async def invoke(request):
    scope = {"kept": kept}
    exec((await request.json())["code"], scope)
    return JSONResponse(scope.get("answer"))

async def ping(request):
    return JSONResponse({"status": "Healthy"})

async def warm(request):
    WARM
    return Response(status_code=204)

routes = [Route("/invocations", invoke, methods=["POST"]), Route("/ping", ping), Route("/warm", warm, methods=["POST"])]
uvicorn.run(Starlette(routes=routes), host="0.0.0.0", port=8080)
"#;

/// Deploys that, and what it needs of PyPI; `warm` is one line.
fn with_a_route(client: &Client, name: &str, warm: &str, more: Value) -> Result {
    const NEEDED: [&str; 7] = [
        "anyio",
        "click",
        "h11",
        "idna",
        "starlette",
        "typing_extensions.py",
        "uvicorn",
    ];
    let packages = venv::packages(&venv::of("sdk-requirements.txt")?)?;
    let installed: Vec<String> = std::fs::read_dir(&packages)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let others = installed.iter().map(String::as_str);
    let others: Vec<&str> = others.filter(|one| !NEEDED.contains(one)).collect();
    let source = WITH_A_ROUTE.replace("WARM", warm);
    let files = [deploy::file("agent.py", source.as_bytes())];
    let bundle = deploy::zip_vendored(&packages, &others, &files)?;
    let mut config = auto();
    e2e::chaos::merge(&mut config, json!({"warmup": "/warm"}));
    e2e::chaos::merge(&mut config, more);
    deploy::bundle(client, bundle, &deploy::config(name, "agent.py", config)?)?;
    Ok(())
}

#[test]
fn what_the_warm_up_call_has_loaded_is_in_every_fork() -> Result {
    ground!(Daemon, Python, Registry);
    let warm =
        "kept.update(by=os.getpid(), drawn=os.urandom(8).hex(), times=kept.get('times', 0) + 1)";
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        with_a_route(&client, "warmed", warm, json!({}))?;
        let ask = "import os\nanswer = [kept.get('by'), kept.get('drawn'), kept.get('times'), os.getpid()]";
        // The version's own was made in a session that is thrown away, and none is made in one that is started.
        let (id, session) = begin(&client, "warmed")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let cold = puppet::run(&client, "warmed", &id, ask)?;
        ensure!(
            cold[0].is_null() && cold[1].is_null() && cold[2].is_null(),
            "{cold}"
        );
        ready(&client, "warmed")?;
        let template = host::number_inside(interpreter(&the_template(&client)?)?)?;
        let mut drawn = BTreeSet::new();
        for _ in 0..2 {
            let (id, _) = forked(&client, "warmed")?;
            let seen = puppet::run(&client, "warmed", &id, ask)?;
            ensure!(seen[0] == template && seen[3] != template, "{seen}");
            ensure!(seen[2] == 1, "{seen}");
            drawn.insert(seen[1].as_str().context("drawn")?.to_owned());
        }
        ensure!(drawn.len() == 1, "not of one call: {drawn:?}");
        Ok(())
    })
}

#[test]
fn a_warm_up_call_that_fails_in_the_template_only_is_said() -> Result {
    ground!(Daemon, Python, Registry);
    let port = server()?;
    let target = format!("127.0.0.1:{port}");
    // Sessions reach it, and that of the version's own warm-up call does; a template reaches nothing.
    let warm = format!(
        "import urllib.request; urllib.request.urlopen('http://{target}/', timeout=5).read()"
    );
    let options = Options::quick().config(&format!("[network]\nallow_private = [\"{target}\"]"));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let network = json!({"network": {"allow": [target]}});
        with_a_route(&client, "fetches", &warm, network)?;
        begin(&client, "fetches")?;
        let found = wait::until(60, "the reason", || {
            let found = template(&client, "fetches")?;
            Ok(found.reason.is_some().then_some(found))
        })?;
        let told = "the warm-up call POST /warm failed: ";
        let reason = found.reason.unwrap_or_default();
        ensure!(reason.starts_with(told), "{reason}");
        for _ in 0..2 {
            let (id, session) = begin(&client, "fetches")?;
            ensure!(session.origin == Some(Origin::Cold), "{session:?}");
            client.stop(&id)?;
        }
        said(daemon, "fetches", told)?;
        wait::until_true(20, "the template to be gone", || {
            Ok(templates(&client)?.is_empty())
        })
    })
}

#[test]
fn an_import_that_takes_long_is_waited_for_once() -> Result {
    ground!(Daemon, Python);
    let slow = Duration::from_secs(3);
    let source = format!("import time\ntime.sleep(3)\n{}", puppet::SOURCE);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::deploy::python(&client, "slow", &source, auto())?;
        let took = |origin| -> anyhow::Result<Duration> {
            let began = Instant::now();
            let (_, session) = begin(&client, "slow")?;
            let took = began.elapsed();
            ensure!(session.origin == Some(origin), "{session:?}");
            Ok(took)
        };
        let cold = took(Origin::Cold)?;
        ensure!(cold >= slow, "{cold:?}");
        ready(&client, "slow")?;
        for _ in 0..3 {
            let forked = took(Origin::Fork)?;
            ensure!(forked < slow / 2, "{forked:?}");
        }
        Ok(())
    })
}

#[test]
fn a_template_that_never_gets_ready_is_given_up_and_said() -> Result {
    ground!(Daemon, Python);
    let source = format!(
        "import sys, time\nif 'agentcore_template' in sys.modules:\n    time.sleep(10 ** 6)\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = Snapshot::steady(daemon)?;
        let mut config = auto();
        // A template has so long, and 35 s for learning what the first request imports.
        let lifecycle = json!({"lifecycle": {"start_timeout": 5, "stop_grace": 1}});
        e2e::chaos::merge(&mut config, lifecycle);
        e2e::deploy::python(&client, "stuck", &source, config)?;
        begin(&client, "stuck")?;
        let first = wait::until(20, "a template that starts", || {
            Ok(templates(&client)?.into_iter().next())
        })?;
        // Whoever comes meanwhile does not wait for it.
        let (id, session) = begin(&client, "stuck")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        client.stop(&id)?;
        // Nor does another runtime's template, for long.
        puppet::deploy(&client, "other", auto())?;
        begin(&client, "other")?;
        ready(&client, "other")?;
        ensure!(client.session(first.id.as_str())?.ended_at.is_none());
        delete(&client, "other")?;
        let ended = client.ended(first.id.as_str(), 60)?;
        ensure!(
            ended.end_reason == Some(EndReason::StartTimeout),
            "{ended:?}"
        );
        let reason = template(&client, "stuck")?.reason.unwrap_or_default();
        let within = "it was not ready to be forked within 40 s";
        ensure!(reason == within, "{reason}");
        let (_, session) = begin(&client, "stuck")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let found = template(&client, "stuck")?;
        ensure!((found.forks, found.failed) == (0, 0), "{found:?}");
        said(daemon, "stuck", &reason)?;
        delete(&client, "stuck")?;
        before.settle(daemon)
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
        e2e::deploy::python(&client, "dies", &source, auto())?;
        begin(&client, "dies")?;
        ready(&client, "dies")?;
        let (id, session) = begin(&client, "dies")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        ensure!(
            client.logs(&id)?.contains("not forked from a template"),
            "{}",
            client.logs(&id)?
        );
        let found = template(&client, "dies")?;
        ensure!((found.forks, found.failed) == (0, 1), "{found:?}");
        // It goes on as any session.
        ensure!(puppet::run(&client, "dies", &id, COUNT)? == json!(2));
        client.stop(&id)?;
        // Tried again, ever more rarely, for as long as somebody wants sessions.
        wait::until_true(30, "another template", || {
            Ok(template(&client, "dies")?.state == TemplateState::Ready)
        })?;
        delete(&client, "dies")?;
        before.settle(daemon)
    })
}

#[test]
fn a_template_that_dies_is_replaced_and_its_sessions_live_on() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm(&client, "mortal", json!({}))?;
        let (id, _) = forked(&client, "mortal")?;
        let old = the_template(&client)?;
        kill(Pid::from_raw(interpreter(&old)?), Signal::SIGKILL)?;
        // Whoever comes in that moment is served.
        let (next, _) = begin(&client, "mortal")?;
        ensure!(
            puppet::run(&client, "mortal", &id, COUNT)? == json!(2),
            "its session is gone"
        );
        wait::until_true(30, "another one", || {
            Ok(templates(&client)?
                .iter()
                .any(|one| one.id != old.id && one.phase == Phase::Ready))
        })?;
        let (third, _) = forked(&client, "mortal")?;
        // The old one stays for its sessions, and goes with them. (The second may be one: a fork is made ahead.)
        ensure!(client.session(old.id.as_str())?.phase == Phase::Ready);
        client.stop(&next)?;
        client.stop(&id)?;
        client.ended(old.id.as_str(), 20)?;
        // With its PID 1 its sessions end, which is told; their callers begin anew.
        let last = the_template(&client)?;
        kill(Pid::from_raw(last.pid.context("pid")?), Signal::SIGKILL)?;
        let ended = client.ended(&third, 20)?;
        ensure!(ended.end_reason == Some(EndReason::ShimDied), "{ended:?}");
        ensure!(puppet::run(&client, "mortal", &third, COUNT)? == json!(1));
        delete(&client, "mortal")?;
        nothing_left(daemon)
    })
}

#[test]
fn a_template_that_is_out_of_memory_is_lost_and_its_sessions_are_not() -> Result {
    ground!(Daemon, Python);
    // Told from outside: nothing that is loaded takes memory by itself. 64 MiB and a GiB for what forks leave there are its own.
    let source = format!(
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print(len(bytearray(1200 << 20))))\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let config = json!({"fork": "auto", "pool": {"max": 0}, "resources": {"memory": "64M"}});
        e2e::deploy::python(&client, "hungry", &source, config)?;
        begin(&client, "hungry")?;
        ready(&client, "hungry")?;
        let (id, _) = forked(&client, "hungry")?;
        let old = the_template(&client)?;
        kill(Pid::from_raw(interpreter(&old)?), Signal::SIGUSR1)?;
        wait::until_true(30, "another one", || {
            let ready = |one: &Session| one.id != old.id && one.phase == Phase::Ready;
            Ok(templates(&client)?.iter().any(ready))
        })?;
        ensure!(
            puppet::run(&client, "hungry", &id, COUNT)? == json!(2),
            "its session is gone"
        );
        wait::until_true(20, "it to be out of memory", || {
            Ok(client.session(old.id.as_str())?.usage.oom_kills > 0)
        })?;
        forked(&client, "hungry")?;
        client.stop(&id)?;
        client.ended(old.id.as_str(), 20)?;
        Ok(())
    })
}

#[test]
fn a_template_that_hangs_or_grows_is_replaced() -> Result {
    ground!(Daemon, Python);
    let source = format!(
        "import signal\nheld = []\nsignal.signal(signal.SIGUSR1, lambda *_: held.append(bytearray(200 << 20)))\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let config = json!({"fork": "auto", "pool": {"max": 0}, "lifecycle": {"stop_grace": 1}});
        e2e::deploy::python(&client, "ill", &source, config)?;
        begin(&client, "ill")?;
        ready(&client, "ill")?;
        let another = |old: &Session| {
            wait::until_true(30, "another one", || {
                let ready = |one: &Session| one.id != old.id && one.phase == Phase::Ready;
                Ok(templates(&client)?.iter().any(ready))
            })
        };
        let grows = the_template(&client)?;
        kill(Pid::from_raw(interpreter(&grows)?), Signal::SIGUSR1)?;
        another(&grows)?;
        client.ended(grows.id.as_str(), 20)?;
        // It stands still, and so does the fork that it has made ahead.
        let hangs = the_template(&client)?;
        for pid in host::tree(interpreter(&hangs)?) {
            kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
        }
        let (id, session) = begin(&client, "ill")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let log = client.logs(&id)?;
        ensure!(log.contains("no fork came within"), "{log}");
        another(&hangs)?;
        client.ended(hangs.id.as_str(), 20)?;
        forked(&client, "ill")?;
        Ok(())
    })
}

#[test]
fn templates_that_nobody_is_below_give_way_when_memory_is_short() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[admission]\nevict_after = 600");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        warm(&client, "spare", json!({}))?;
        warm(&client, "held", json!({}))?;
        let (id, _) = forked(&client, "held")?;
        let before = templates(&client)?;
        ensure!(before.len() == 2, "{before:?}");
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains("evict_after = 600\n"), "{text}");
        let short = "evict_after = 600\nmemory_reserve = \"60T\"\n";
        std::fs::write(&file, text.replace("evict_after = 600\n", short))?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true(60, "the one to give way", || {
            let call = Client::invocation("held", &session_name("more"), &puppet::payload(COUNT));
            client.send(call)?;
            Ok(templates(&client)?.len() == 1)
        })?;
        for one in before {
            let now = client.session(one.id.as_str())?;
            match one.runtime.as_str() {
                "held" => ensure!(now.phase == Phase::Ready, "{now:?}"),
                _ => ensure!(now.end_reason == Some(EndReason::Evicted), "{now:?}"),
            }
        }
        ensure!(puppet::run(&client, "held", &id, COUNT)? == json!(2));
        Ok(())
    })
}

#[test]
fn nobody_ends_or_freezes_a_template_that_sessions_are_below() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm(&client, "held", json!({"lifecycle": {"freeze_after": 1}}))?;
        let (id, session) = forked(&client, "held")?;
        let of = the_template(&client)?;
        let path = format!("/v1/sessions/{}", of.id);
        let frozen = client.send(Request::post(format!("{path}/freeze"), ""))?;
        ensure!(frozen.status == 409, "{}", frozen.status);
        client.send(Request::new("DELETE", &path))?.expect(202)?;
        // The session freezes as any, and thaws; the template does not.
        wait::until_true(20, "the session to be frozen", || {
            Ok(client.session(session.id.as_str())?.phase == Phase::Frozen)
        })?;
        ensure!(client.session(of.id.as_str())?.phase == Phase::Ready);
        ensure!(puppet::run(&client, "held", &id, COUNT)? == json!(2));
        // A new version: what was loaded of the old one stays as long as its session.
        let source = puppet::SOURCE.replace("scope.get(\"answer\")", "'second'");
        e2e::deploy::python(&client, "held", &source, auto())?;
        let new = session_name("second");
        ensure!(client.invoke("held", &new, &puppet::payload("answer = 1"))? == json!("second"));
        ready(&client, "held")?;
        ensure!(client.session(of.id.as_str())?.phase == Phase::Ready);
        ensure!(puppet::run(&client, "held", &id, COUNT)? == json!(3));
        client.stop(&id)?;
        client.ended(of.id.as_str(), 20)?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_comes_back_keeps_templates_for_their_sessions_only() -> Result {
    ground!(Daemon, Python);
    Daemon::with(installed(), |daemon| {
        let client = daemon.client();
        warm(&client, "again", json!({}))?;
        warm(&client, "unused", json!({}))?;
        let (id, before) = forked(&client, "again")?;
        let olds = templates(&client)?;
        ensure!(olds.len() == 2, "{olds:?}");
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let after = client.session(&id)?;
        ensure!(
            after.pid == before.pid && after.origin == Some(Origin::Fork),
            "{after:?}"
        );
        ensure!(puppet::run(&client, "again", &id, COUNT)? == json!(2));
        for old in &olds {
            let now = client.session(old.id.as_str())?;
            match old.runtime.as_str() {
                "again" => ensure!(now.phase == Phase::Ready && now.pid == old.pid, "{now:?}"),
                _ => ensure!(now.end_reason == Some(EndReason::DaemonLost), "{now:?}"),
            }
        }
        // Nothing is forked from one of another daemon's making.
        let (_, session) = begin(&client, "again")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        ready(&client, "again")?;
        let (second, _) = forked(&client, "again")?;
        let kept = olds.iter().find(|old| old.runtime.as_str() == "again");
        let kept = kept.context("the template")?.id.clone();
        // In order, too: what sessions are below lives on.
        daemon.terminate()?;
        daemon.restart()?;
        let client = daemon.client();
        ensure!(puppet::run(&client, "again", &id, COUNT)? == json!(3));
        ensure!(puppet::run(&client, "again", &second, COUNT)? == json!(2));
        client.stop(&id)?;
        client.ended(kept.as_str(), 20)?;
        ensure!(puppet::run(&client, "again", &second, COUNT)? == json!(3));
        // What it used is on record once, as whose it was from the first.
        let check: LedgerCheck = client.get("/v1/usage/verify")?;
        ensure!(check.ok && check.sessions > 0, "{check:?}");
        delete(&client, "again")?;
        delete(&client, "unused")?;
        nothing_left(daemon)
    })
}

/// Answers every request with a word.
fn server() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nword";
            // Who has gone does not want it.
            let _ = (&stream).write_all(answer);
        }
    });
    Ok(port)
}

#[test]
fn a_forked_session_reaches_what_it_may_and_its_template_nothing() -> Result {
    ground!(Daemon, Python);
    let port = server()?;
    let target = format!("127.0.0.1:{port}");
    // The client is made while the agent is loaded, and reads then where the way out is.
    let source = format!(
        "import os, urllib.request\n\
         opener = urllib.request.build_opener(urllib.request.ProxyHandler({{'http': os.environ['HTTP_PROXY']}}))\n\
         def fetch():\n    \
             try: return opener.open('http://{target}/', timeout=5).read().decode()\n    \
             except OSError as error: return 'refused'\n\
         at_import = fetch()\n{}",
        puppet::SOURCE.replace(
            "\"app\": app}",
            "\"app\": app, \"fetch\": fetch, \"at_import\": at_import}"
        )
    );
    let options = Options::quick().config(&format!("[network]\nallow_private = [\"{target}\"]"));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let network = json!({"fork": "auto", "pool": {"max": 0}, "network": {"allow": [target]}});
        e2e::deploy::python(&client, "client", &source, network)?;
        let ask = "answer = [at_import, fetch()]";
        let (id, session) = begin(&client, "client")?;
        ensure!(session.origin == Some(Origin::Cold));
        ensure!(puppet::run(&client, "client", &id, ask)? == json!(["word", "word"]));
        ready(&client, "client")?;
        let (id, _) = forked(&client, "client")?;
        ensure!(puppet::run(&client, "client", &id, ask)? == json!(["refused", "word"]));
        Ok(())
    })
}

#[test]
fn a_forked_session_has_its_callers_storage() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let storage = json!({"storage": [{"mount": "/mnt/data", "size": "16M"}]});
        warm(&client, "kept", storage)?;
        let id = session_name("kept");
        let write = "open('/mnt/data/mine', 'x').write('of before')\nanswer = 1";
        puppet::run(&client, "kept", &id, write)?;
        ensure!(client.session(&id)?.origin == Some(Origin::Fork));
        client.stop(&id)?;
        let (other, _) = forked(&client, "kept")?;
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
        warm(&client, "clean", json!({}))?;
        let (id, _) = forked(&client, "clean")?;
        client.stop(&id)?;
        let before = Snapshot::steady(daemon)?;
        for round in 0..12 {
            let (id, session) = forked(&client, "clean")?;
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
        ensure!(template(&client, "clean")?.forks == 13);
        before.settle(daemon)
    })
}

#[test]
fn a_crowd_is_forked_and_each_has_a_session() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm(&client, "crowd", json!({}))?;
        let calls: Vec<_> = (0..30)
            .map(|number| {
                let id = session_name(&format!("crowd-{number}"));
                let call = client.in_background("crowd", &id, &puppet::payload(COUNT));
                (id, call)
            })
            .collect();
        let mut pids = BTreeSet::new();
        for (id, call) in calls {
            let count: Value = e2e::client::joined(call)?.expect(200)?.json()?;
            ensure!(count == json!(1), "two callers are in one session: {count}");
            ensure!(pids.insert(client.session(&id)?.pid));
        }
        let found = template(&client, "crowd")?;
        ensure!(found.forks == 30, "{found:?}");
        Ok(())
    })
}

/// What the sessions of one template have in common is enough for so many; a crowd finds another one.
#[test]
fn a_template_carries_so_many_sessions_and_another_one_the_others() -> Result {
    ground!(Daemon, Python);
    const MOST: usize = 128;
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm(&client, "many", json!({"resources": {"memory": "256M"}}))?;
        let first = the_template(&client)?;
        for _ in 0..MOST {
            forked(&client, "many")?;
        }
        let filled = client.session(first.id.as_str())?.usage.memory_bytes;
        println!(
            "a template holds {} bytes, full {filled}",
            first.usage.memory_bytes
        );
        wait::until_true(30, "another one", || {
            let ready = |one: &Session| one.id != first.id && one.phase == Phase::Ready;
            Ok(templates(&client)?.iter().any(ready))
        })?;
        forked(&client, "many")?;
        ensure!(template(&client, "many")?.failed == 0);
        // With its PID 1 those below it end, and no others.
        kill(Pid::from_raw(first.pid.context("pid")?), Signal::SIGKILL)?;
        client.ended(first.id.as_str(), 20)?;
        wait::until_true(30, "those below it to end", || {
            Ok(client.live_sessions()?.len() <= 1 + MOST / 8)
        })?;
        ensure!(!client.live_sessions()?.is_empty(), "all were below one");
        Ok(())
    })
}

/// An agent that loads what is big of what its bundle has.
const BIG: &str = "
import importlib
for name in ('boto3', 'numpy', 'pandas', 'pydantic', 'langgraph.graph', 'langchain_aws'):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
from bedrock_agentcore import BedrockAgentCoreApp
app = BedrockAgentCoreApp()
@app.entrypoint
def invoke(payload):
    return 1
app.run()
";

/// What a template is given for its forks (`LEFT_BY_A_FORK` of `sandbox/src/share.rs`). `AGENTCORE_MEASURE` is a folder of packages to
/// look at it with: a large agent's.
#[test]
fn what_a_fork_leaves_with_its_template_is_less_than_that_is_given_for_it() -> Result {
    ground!(Daemon, Python);
    const FORKS: u64 = 16;
    let files = [deploy::file("main.py", BIG.as_bytes())];
    let bundle = match std::env::var_os("AGENTCORE_MEASURE") {
        Some(packages) => deploy::zip_vendored(packages.as_ref(), &["pip", "setuptools"], &files)?,
        None => deploy::zip(&files)?,
    };
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let mut config = auto();
        e2e::chaos::merge(
            &mut config,
            json!({
                "resources": {"memory": "1G"},
                // numpy starts threads otherwise, and a template has none.
                "environment": {"OPENBLAS_NUM_THREADS": "1"},
            }),
        );
        deploy::bundle(&client, bundle, &deploy::config("big", "main.py", config)?)?;
        let cold = session_name("big");
        client.invoke("big", &cold, &json!({}))?;
        ready(&client, "big")?;
        client.stop(&cold)?;
        let shim = the_template(&client)?.pid.context("pid")?;
        let held = || -> anyhow::Result<u64> {
            let files = ["memory.current", "memory.usage_in_bytes"];
            let text = cgroup::value(shim, "memory", &files).context("no memory")?;
            Ok(text.parse()?)
        };
        let alone = held()?;
        let mut own = 0;
        for _ in 0..FORKS {
            let session = client.start("big", &session_name("big"), &json!({}))?;
            ensure!(session.origin == Some(Origin::Fork), "{session:?}");
            let files = ["memory.current", "memory.usage_in_bytes"];
            let text = cgroup::value(session.pid.context("pid")?, "memory", &files);
            own += text.context("no memory")?.parse::<u64>()?;
        }
        let left = held()?.saturating_sub(alone) / FORKS;
        println!(
            "alone a template holds {alone} bytes, and {left} more for each fork, which hold {} themselves",
            own / FORKS
        );
        ensure!(left < 8 << 20, "{left}");
        Ok(())
    })
}

#[test]
fn a_runtime_that_nobody_calls_costs_no_process_and_its_template_is_nobodys_bill() -> Result {
    ground!(Daemon, Python);
    // A start that takes a second of CPU time.
    let source = format!(
        "import time\nuntil = time.process_time() + 1\nwhile time.process_time() < until: pass\n{}",
        puppet::SOURCE
    );
    let options = Options::quick()
        .config("[limits]\nprepared_launches = 0\n[pool]\nmax = 0\n[template]\nunused_after = 6");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        // The operator's default.
        e2e::deploy::python(&client, "rare", &source, json!({}))?;
        let (first, _) = begin(&client, "rare")?;
        client.stop(&first)?;
        ready(&client, "rare")?;
        let (id, session) = forked(&client, "rare")?;
        client.stop(&id)?;
        let of = the_template(&client)?;
        wait::until_true(40, "the last process to go", || {
            Ok(cgroup::members_named(daemon.instance()).is_empty())
        })?;
        let ended = client.ended(of.id.as_str(), 10)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        ensure!(template(&client, "rare")? == Template::default());
        let own = client.cpu_on_record(session.id.as_str())?;
        let loaded = client.cpu_on_record(&of.id.as_str().replacen('s', "w", 1))?;
        ensure!(own < 0.6, "the caller pays for the loading: {own}");
        ensure!(loaded >= 0.9, "the template does not: {loaded}");
        let rows: Page<UsageRecord> = client.get("/v1/usage?by=runtime")?;
        let row = rows.items.first().context("a row")?;
        ensure!(
            row.sessions == 2,
            "a template is counted as a session: {row:?}"
        );
        // And back.
        let (id, _) = begin(&client, "rare")?;
        ready(&client, "rare")?;
        client.stop(&id)?;
        forked(&client, "rare")?;
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
        ready(&client, "aws_sdk")?;
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
