//! How templates come and go: one that dies, hangs, grows or is full is replaced, one that nobody is below gives way, and none of it
//! is any session's loss, or bill. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::http::Request;
use e2e::{
    Client, Daemon, Options, Result, cgroup, chaos, deploy, ground, host, puppet, wait, warm,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, LedgerCheck, Origin, Page, Phase, Template, UsageRecord};
use serde_json::json;

#[test]
fn a_template_that_dies_is_replaced_and_its_sessions_live_on() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "mortal", json!({}))?;
        let (id, _) = warm::forked(&client, "mortal")?;
        let old = warm::the_template(&client, "mortal")?;
        kill(warm::interpreter(&old)?, Signal::SIGKILL)?;
        // Whoever comes in that moment is served.
        let (next, _) = puppet::begin(&client, "mortal")?;
        ensure!(
            puppet::run(&client, "mortal", &id, puppet::COUNT)? == json!(2),
            "its session is gone"
        );
        warm::another(&client, &old)?;
        let (third, _) = warm::forked(&client, "mortal")?;
        // The old one stays for its sessions, and goes with them. (The second may be one: a fork is made ahead.)
        ensure!(client.session(old.id.as_str())?.phase == Phase::Ready);
        client.stop(&next)?;
        client.stop(&id)?;
        client.ended(old.id.as_str(), 20)?;
        // With its PID 1 its sessions end, which is told; their callers begin anew.
        let last = warm::the_template(&client, "mortal")?;
        kill(Pid::from_raw(last.pid.context("pid")?), Signal::SIGKILL)?;
        let ended = client.ended(&third, 20)?;
        ensure!(ended.end_reason == Some(EndReason::ShimDied), "{ended:?}");
        ensure!(puppet::run(&client, "mortal", &third, puppet::COUNT)? == json!(1));
        warm::delete(&client, "mortal")?;
        warm::nothing_left(daemon)
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
        let memory = json!({"resources": {"memory": "64M"}});
        warm::load(&client, "hungry", &source, memory)?;
        let (id, _) = warm::forked(&client, "hungry")?;
        let old = warm::the_template(&client, "hungry")?;
        kill(warm::interpreter(&old)?, Signal::SIGUSR1)?;
        warm::another(&client, &old)?;
        ensure!(
            puppet::run(&client, "hungry", &id, puppet::COUNT)? == json!(2),
            "its session is gone"
        );
        wait::until_true(20, "it to be out of memory", || {
            Ok(client.session(old.id.as_str())?.usage.oom_kills > 0)
        })?;
        warm::forked(&client, "hungry")?;
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
        let grace = json!({"lifecycle": {"stop_grace": 1}});
        warm::load(&client, "ill", &source, grace)?;
        let grows = warm::the_template(&client, "ill")?;
        kill(warm::interpreter(&grows)?, Signal::SIGUSR1)?;
        warm::another(&client, &grows)?;
        client.ended(grows.id.as_str(), 20)?;
        // It stands still, and so does the fork that it has made ahead.
        let hangs = warm::the_template(&client, "ill")?;
        for pid in host::tree(warm::interpreter(&hangs)?.as_raw()) {
            kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
        }
        let (id, session) = puppet::begin(&client, "ill")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let log = client.logs(&id)?;
        ensure!(log.contains("no fork came within"), "{log}");
        warm::another(&client, &hangs)?;
        client.ended(hangs.id.as_str(), 20)?;
        warm::forked(&client, "ill")?;
        Ok(())
    })
}

#[test]
fn templates_that_nobody_is_below_give_way_when_memory_is_short() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[admission]\nevict_after = 600");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "spare", json!({}))?;
        warm::deploy(&client, "held", json!({}))?;
        let (id, _) = warm::forked(&client, "held")?;
        let before = warm::templates(&client)?;
        ensure!(before.len() == 2, "{before:?}");
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains("evict_after = 600\n"), "{text}");
        let short = "evict_after = 600\nmemory_reserve = \"60T\"\n";
        std::fs::write(&file, text.replace("evict_after = 600\n", short))?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true(60, "the one to give way", || {
            let call = Client::invocation(
                "held",
                &session_name("more"),
                &puppet::payload(puppet::COUNT),
            );
            client.send(call)?;
            Ok(warm::templates(&client)?.len() == 1)
        })?;
        for one in before {
            let now = client.session(one.id.as_str())?;
            match one.runtime.as_str() {
                "held" => ensure!(now.phase == Phase::Ready, "{now:?}"),
                _ => ensure!(now.end_reason == Some(EndReason::Evicted), "{now:?}"),
            }
        }
        ensure!(puppet::run(&client, "held", &id, puppet::COUNT)? == json!(2));
        Ok(())
    })
}

#[test]
fn nobody_ends_or_freezes_a_template_that_sessions_are_below() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "held", json!({"lifecycle": {"freeze_after": 1}}))?;
        let (id, session) = warm::forked(&client, "held")?;
        let of = warm::the_template(&client, "held")?;
        let path = format!("/v1/sessions/{}", of.id);
        let frozen = client.send(Request::post(format!("{path}/freeze"), ""))?;
        ensure!(frozen.status == 409, "{}", frozen.status);
        client.send(Request::new("DELETE", &path))?.expect(202)?;
        // The session freezes as any, and thaws; the template does not.
        wait::until_true(20, "the session to be frozen", || {
            Ok(client.session(session.id.as_str())?.phase == Phase::Frozen)
        })?;
        ensure!(client.session(of.id.as_str())?.phase == Phase::Ready);
        ensure!(puppet::run(&client, "held", &id, puppet::COUNT)? == json!(2));
        // A new version: what was loaded of the old one stays as long as its session.
        let source = puppet::SOURCE.replace("scope.get(\"answer\")", "'second'");
        deploy::python(&client, "held", &source, warm::forking())?;
        let new = session_name("second");
        ensure!(client.invoke("held", &new, &puppet::payload("answer = 1"))? == json!("second"));
        warm::forkable(&client, "held")?;
        ensure!(client.session(of.id.as_str())?.phase == Phase::Ready);
        ensure!(puppet::run(&client, "held", &id, puppet::COUNT)? == json!(3));
        client.stop(&id)?;
        client.ended(of.id.as_str(), 20)?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_comes_back_keeps_templates_for_their_sessions_only() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "again", json!({}))?;
        warm::deploy(&client, "unused", json!({}))?;
        let (id, before) = warm::forked(&client, "again")?;
        let olds = warm::templates(&client)?;
        ensure!(olds.len() == 2, "{olds:?}");
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let after = client.session(&id)?;
        ensure!(
            after.pid == before.pid && after.origin == Some(Origin::Fork),
            "{after:?}"
        );
        ensure!(puppet::run(&client, "again", &id, puppet::COUNT)? == json!(2));
        for old in &olds {
            let now = client.session(old.id.as_str())?;
            match old.runtime.as_str() {
                "again" => ensure!(now.phase == Phase::Ready && now.pid == old.pid, "{now:?}"),
                _ => ensure!(now.end_reason == Some(EndReason::DaemonLost), "{now:?}"),
            }
        }
        // Nothing is forked from one of another daemon's making.
        let (_, session) = puppet::begin(&client, "again")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        warm::forkable(&client, "again")?;
        let (second, _) = warm::forked(&client, "again")?;
        let kept = olds.iter().find(|old| old.runtime.as_str() == "again");
        let kept = kept.context("the template")?.id.clone();
        // In order, too: what sessions are below lives on.
        daemon.terminate()?;
        daemon.restart()?;
        let client = daemon.client();
        ensure!(puppet::run(&client, "again", &id, puppet::COUNT)? == json!(3));
        ensure!(puppet::run(&client, "again", &second, puppet::COUNT)? == json!(2));
        client.stop(&id)?;
        client.ended(kept.as_str(), 20)?;
        ensure!(puppet::run(&client, "again", &second, puppet::COUNT)? == json!(3));
        // What it used is on record once, as whose it was from the first.
        let check: LedgerCheck = client.get("/v1/usage/verify")?;
        ensure!(check.ok && check.sessions > 0, "{check:?}");
        warm::delete(&client, "again")?;
        warm::delete(&client, "unused")?;
        warm::nothing_left(daemon)
    })
}

/// What the sessions of one template have in common is enough for so many; a crowd finds another one.
#[test]
fn a_template_carries_so_many_sessions_and_another_one_the_others() -> Result {
    ground!(Daemon, Python);
    const MOST: usize = 128;
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        warm::deploy(&client, "many", json!({"resources": {"memory": "256M"}}))?;
        let first = warm::the_template(&client, "many")?;
        for _ in 0..MOST {
            warm::forked(&client, "many")?;
        }
        let filled = client.session(first.id.as_str())?.usage.memory_bytes;
        println!(
            "a template holds {} bytes, full {filled}",
            first.usage.memory_bytes
        );
        warm::another(&client, &first)?;
        warm::forked(&client, "many")?;
        ensure!(warm::template(&client, "many")?.failed == 0);
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
        let mut config = warm::forking();
        chaos::merge(
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
        warm::forkable(&client, "big")?;
        client.stop(&cold)?;
        let shim = warm::the_template(&client, "big")?.pid.context("pid")?;
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
        deploy::python(&client, "rare", &source, json!({}))?;
        let (first, _) = puppet::begin(&client, "rare")?;
        client.stop(&first)?;
        warm::forkable(&client, "rare")?;
        let (id, session) = warm::forked(&client, "rare")?;
        client.stop(&id)?;
        let of = warm::the_template(&client, "rare")?;
        wait::until_true(40, "the last process to go", || {
            Ok(cgroup::members_named(daemon.instance()).is_empty())
        })?;
        let ended = client.ended(of.id.as_str(), 10)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        ensure!(warm::template(&client, "rare")? == Template::default());
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
        let (id, _) = puppet::begin(&client, "rare")?;
        warm::forkable(&client, "rare")?;
        client.stop(&id)?;
        warm::forked(&client, "rare")?;
        Ok(())
    })
}
