//! What a template loads before it is forked: the agent's imports and what its warm-up call needs, once, without reaching anything;
//! and that a template which cannot do so is given up and said. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, chaos, deploy, ground, host, puppet, venv, wait, warm};
use proto::api::{EndReason, Origin};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

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
    let mut config = warm::forking();
    chaos::merge(&mut config, json!({"warmup": "/warm"}));
    chaos::merge(&mut config, more);
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
        let (id, session) = puppet::begin(&client, "warmed")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let cold = puppet::run(&client, "warmed", &id, ask)?;
        ensure!(
            cold[0].is_null() && cold[1].is_null() && cold[2].is_null(),
            "{cold}"
        );
        warm::forkable(&client, "warmed")?;
        let template = host::number_inside(
            warm::interpreter(&warm::the_template(&client, "warmed")?)?.as_raw(),
        )?;
        let mut drawn = BTreeSet::new();
        for _ in 0..2 {
            let (id, _) = warm::forked(&client, "warmed")?;
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
        puppet::begin(&client, "fetches")?;
        let found = wait::until(60, "the reason", || {
            let found = warm::template(&client, "fetches")?;
            Ok(found.reason.is_some().then_some(found))
        })?;
        let told = "the warm-up call POST /warm failed: ";
        let reason = found.reason.unwrap_or_default();
        ensure!(reason.starts_with(told), "{reason}");
        for _ in 0..2 {
            let (id, session) = puppet::begin(&client, "fetches")?;
            ensure!(session.origin == Some(Origin::Cold), "{session:?}");
            client.stop(&id)?;
        }
        warm::said(daemon, "fetches", told)?;
        wait::until_true(20, "the template to be gone", || {
            Ok(warm::templates(&client)?.is_empty())
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
        deploy::python(&client, "slow", &source, warm::forking())?;
        let took = |origin| -> anyhow::Result<Duration> {
            let began = Instant::now();
            let (_, session) = puppet::begin(&client, "slow")?;
            let took = began.elapsed();
            ensure!(session.origin == Some(origin), "{session:?}");
            Ok(took)
        };
        let cold = took(Origin::Cold)?;
        ensure!(cold >= slow, "{cold:?}");
        warm::forkable(&client, "slow")?;
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
        let mut config = warm::forking();
        // A template has so long, and 35 s for learning what the first request imports.
        let lifecycle = json!({"lifecycle": {"start_timeout": 5, "stop_grace": 1}});
        chaos::merge(&mut config, lifecycle);
        deploy::python(&client, "stuck", &source, config)?;
        puppet::begin(&client, "stuck")?;
        let first = wait::until(20, "a template that starts", || {
            Ok(warm::templates(&client)?.into_iter().next())
        })?;
        // Whoever comes meanwhile does not wait for it.
        let (id, session) = puppet::begin(&client, "stuck")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        client.stop(&id)?;
        // Nor does another runtime's template, for long.
        puppet::deploy(&client, "other", warm::forking())?;
        puppet::begin(&client, "other")?;
        warm::forkable(&client, "other")?;
        ensure!(client.session(first.id.as_str())?.ended_at.is_none());
        warm::delete(&client, "other")?;
        let ended = client.ended(first.id.as_str(), 60)?;
        ensure!(
            ended.end_reason == Some(EndReason::StartTimeout),
            "{ended:?}"
        );
        let reason = warm::template(&client, "stuck")?.reason.unwrap_or_default();
        let within = "it was not ready to be forked within 40 s";
        ensure!(reason == within, "{reason}");
        let (_, session) = puppet::begin(&client, "stuck")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let found = warm::template(&client, "stuck")?;
        ensure!((found.forks, found.failed) == (0, 0), "{found:?}");
        warm::said(daemon, "stuck", &reason)?;
        warm::delete(&client, "stuck")?;
        before.settle(daemon)
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
        deploy::python(&client, "client", &source, network)?;
        let ask = "answer = [at_import, fetch()]";
        let (id, session) = puppet::begin(&client, "client")?;
        ensure!(session.origin == Some(Origin::Cold));
        ensure!(puppet::run(&client, "client", &id, ask)? == json!(["word", "word"]));
        warm::forkable(&client, "client")?;
        let (id, _) = warm::forked(&client, "client")?;
        ensure!(puppet::run(&client, "client", &id, ask)? == json!(["refused", "word"]));
        Ok(())
    })
}
