//! Members of a pool that are forks: that a version with a template has no others, that a claimed one is its caller's as any, and that
//! neither keeps the other when nobody comes, when one of them is lost, and when memory is short. Tier: root.
//!
//! Pools and templates by themselves are in `pool.rs` and `fork.rs`; the probes of such a session in `isolation.rs`.

use anyhow::{Context as _, ensure};
use e2e::client::{joined, session_name};
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, cgroup, ground, host, puppet, wait, warm};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, Origin, Phase, Session, TemplateState};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// So many wait at most, and are forks where that can be.
fn parked(members: u32) -> Value {
    json!({"fork": "auto", "pool": {"max": members}})
}

/// Of a runtime, what is nobody's and ready: templates, or members of its pool.
fn nobodys(client: &Client, runtime: &str, origin: Origin) -> anyhow::Result<Vec<Session>> {
    let mut all = client.sessions(&format!("pool=true&live=true&runtime={runtime}"))?;
    all.retain(|one| one.origin == Some(origin) && one.phase == Phase::Ready);
    Ok(all)
}

/// Whether its agent is a fork: it has one, which is no child of its shim.
fn is_fork(session: &Session) -> anyhow::Result<bool> {
    let shim = session.pid.context("no pid")?;
    Ok(host::children(shim).is_empty() && host::agent(shim).is_some())
}

/// Waits until as many wait as are to, at least one, and all of them are forks.
fn full(client: &Client, runtime: &str) -> anyhow::Result<Vec<Session>> {
    filled(client, runtime, true)
}

/// The same with forks, or without any.
fn filled(client: &Client, runtime: &str, forks: bool) -> anyhow::Result<Vec<Session>> {
    let what = format!("{runtime} to be full (of forks: {forks})");
    wait::until(60, &what, || {
        let state = warm::pool(client, runtime)?;
        let settled = state.ready > 0 && state.ready == state.target && state.starting == 0;
        if !settled {
            return Ok(None);
        }
        let members = nobodys(client, runtime, Origin::Waiting)?;
        for member in &members {
            // One that has just gone is neither.
            if is_fork(member).ok() != Some(forks) {
                return Ok(None);
            }
        }
        Ok((members.len() == usize::try_from(state.ready)?).then_some(members))
    })
}

/// The same of one that must have waited.
fn claim(client: &Client, runtime: &str, among: &[Session]) -> anyhow::Result<(String, Session)> {
    let (id, session) = puppet::begin(client, runtime)?;
    ensure!(
        session.origin == Some(Origin::Pool) && warm::ids(among).contains(session.id.as_str()),
        "not claimed: {session:?}\n{}",
        client.logs(&id)?
    );
    Ok((id, session))
}

#[test]
fn what_waits_is_a_fork_and_its_claim_its_callers_own() -> Result {
    ground!(Daemon, Python);
    // Loading takes a second of CPU time.
    let source = format!(
        "import time\nuntil = time.process_time() + 1\nwhile time.process_time() < until: pass\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        let config = json!({
            "fork": "auto", "pool": {"max": 3}, "environment": {"COLOUR": "blue"},
            "resources": {"memory": "96M", "pids": 40, "tmp_size": "8M"},
        });
        e2e::deploy::python(&client, "parked", &source, config)?;
        let (first, session) = puppet::begin(&client, "parked")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        let members = full(&client, "parked")?;
        // While the template was made nobody waited for whom it would have been made in vain.
        let ever = client.sessions("pool=true&runtime=parked")?;
        ensure!(
            ever.len() == members.len() + 2,
            "more were made than these, their template and the first caller's: {ever:#?}"
        );
        let (id, session) = claim(&client, "parked", &members)?;
        ensure!(is_fork(&session)?);
        let look = "import os, resource\n\
            open('/tmp/mine', 'x').close()\n\
            answer = {'uid': os.getuid(), 'colour': os.environ['COLOUR'], 'home': os.listdir(os.environ['HOME']), 'tmp': os.listdir('/tmp'),\n\
                'size': os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize, 'seen': len([p for p in os.listdir('/proc') if p.isdigit()])}";
        let seen = puppet::run(&client, "parked", &id, look)?;
        ensure!(
            seen == json!({"uid": 1000, "colour": "blue", "home": [], "tmp": ["mine"], "size": 8 << 20, "seen": 1}),
            "{seen}"
        );
        // Every process of it is in its own cgroup, under its own limits, in its own namespaces.
        let shim = session.pid.context("pid")?;
        let agent = host::agent(shim).context("agent")?;
        ensure!(cgroup::of(agent) == cgroup::of(shim));
        let of = warm::the_template(&client, "parked")?.pid.context("pid")?;
        ensure!(cgroup::of(agent) != cgroup::of(of));
        let limit = cgroup::value(agent, "memory", &["memory.max", "memory.limit_in_bytes"]);
        ensure!(limit.as_deref() == Some("100663296"), "{limit:?}");
        let pids = cgroup::value(agent, "pids", &["pids.max"]);
        ensure!(pids.is_some_and(|pids| pids.parse::<u32>().is_ok()));
        let (mine, theirs) = (host::namespaces(agent)?, host::namespaces(of)?);
        for kind in ["pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            ensure!(mine[kind] != theirs[kind], "{kind}: {mine:?}");
        }
        let base = session.uid_base.context("uids")?;
        ensure!(host::uid(agent)? >= base && host::uid(agent)? < base + 65_536);
        // It is replaced, counted where people look, and ends as any.
        let again = full(&client, "parked")?;
        ensure!(!warm::ids(&again).contains(session.id.as_str()));
        let state = warm::pool(&client, "parked")?;
        ensure!((state.hits, state.misses) == (1, 1), "{state:?}");
        let made = client.runtime("parked")?.template.context("template")?;
        ensure!(made.failed == 0 && made.forks >= 2, "{made:?}");
        let ended = client.stop(&id)?;
        // The pool pays for its making, the template for what was loaded, and the caller for neither.
        let own = client.cpu_on_record(ended.id.as_str())?;
        let waited = client.cpu_on_record(&ended.id.as_str().replacen('s', "w", 1))?;
        ensure!(own < 0.6 && waited < 0.6, "{own} and {waited}");
        let whole = ended.usage.cpu_seconds;
        ensure!(
            (own + waited - whole).abs() < 0.002,
            "{own} and {waited} are not {whole}"
        );
        client.stop(&first)?;
        let delete = e2e::http::Request::new("DELETE", "/v1/runtimes/parked?wait=true");
        client.send(delete)?.expect(204)?;
        wait::until_true(20, "every process to be gone", || {
            let members = cgroup::members_named(daemon.instance());
            let mut titles = members.iter().map(|pid| host::title(*pid));
            Ok(titles.all(|title| title.contains("stager")))
        })
    })
}

#[test]
fn a_crowd_claims_what_waits_and_forks_the_rest() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(
            &client,
            "crowd",
            json!({"fork": "auto", "pool": {"min": 4, "max": 4}}),
        )?;
        // A floor alone makes no template: these were started, and are replaced once there is one.
        wait::until_true(60, "four that wait", || {
            Ok(warm::pool(&client, "crowd")?.ready == 4)
        })?;
        let cold = nobodys(&client, "crowd", Origin::Waiting)?;
        for member in &cold {
            ensure!(!is_fork(member)?, "{member:?}");
        }
        claim(&client, "crowd", &cold)?;
        let waiting = full(&client, "crowd")?;
        ensure!(warm::ids(&waiting).is_disjoint(&warm::ids(&cold)));
        for member in &cold {
            let now = client.session(member.id.as_str())?;
            let claimed = now.origin == Some(Origin::Pool);
            ensure!(
                claimed || now.end_reason == Some(EndReason::Idle),
                "{now:?}"
            );
        }
        let calls: Vec<_> = (0..20)
            .map(|number| {
                let id = session_name(&format!("crowd-{number}"));
                let call = client.in_background("crowd", &id, &puppet::payload(puppet::COUNT));
                (id, call)
            })
            .collect();
        let (mut claimed, mut pids) = (0, BTreeSet::new());
        for (id, call) in calls {
            let count: Value = joined(call)?.expect(200)?.json()?;
            ensure!(count == json!(1), "two callers are in one session: {count}");
            let session = client.session(&id)?;
            ensure!(
                pids.insert(session.pid) && is_fork(&session)?,
                "{session:?}"
            );
            match session.origin {
                Some(Origin::Pool) => claimed += 1,
                other => ensure!(other == Some(Origin::Fork), "{session:?}"),
            }
        }
        ensure!(claimed >= 4, "only {claimed} were claimed");
        // Many calls of one session that is not there yet: what the others took of members goes back, with what each holds.
        full(&client, "crowd")?;
        let id = session_name("one");
        let calls: Vec<_> = (0..12)
            .map(|_| client.in_background("crowd", &id, &puppet::payload(puppet::COUNT)))
            .collect();
        for call in calls {
            joined(call)?.expect(200)?;
        }
        let left = full(&client, "crowd")?;
        let of = warm::the_template(&client, "crowd")?;
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        // As long as they wait it is there, though nobody wants it; and without them it goes.
        client
            .send(e2e::http::Request::new(
                "DELETE",
                format!("/v1/sessions/{}", of.id),
            ))?
            .expect(202)?;
        full(&client, "crowd")?;
        for member in &left {
            client.ended(member.id.as_str(), 20)?;
        }
        client.ended(of.id.as_str(), 20)?;
        Ok(())
    })
}

#[test]
fn members_of_a_template_that_goes_are_replaced() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[template]\nmax_age = 600");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "moving", parked(2))?;
        let (kept, _) = puppet::begin(&client, "moving")?;
        let gone = |old: &[Session], of: &Session| -> anyhow::Result<Vec<Session>> {
            let new = wait::until(60, "others", || {
                let new = full(&client, "moving")?;
                Ok(warm::ids(&new).is_disjoint(&warm::ids(old)).then_some(new))
            })?;
            for member in old {
                let ended = client.ended(member.id.as_str(), 20)?;
                ensure!(!ended.pid.is_some_and(host::alive), "{ended:?}");
            }
            client.ended(of.id.as_str(), 20)?;
            claim(&client, "moving", &new)?;
            full(&client, "moving")
        };
        // It dies, and those below it wait on: whoever comes in that moment has one of them.
        let waiting = full(&client, "moving")?;
        let of = warm::the_template(&client, "moving")?;
        kill(warm::interpreter(&of)?, Signal::SIGKILL)?;
        let (id, _) = claim(&client, "moving", &waiting)?;
        let left: Vec<Session> = waiting
            .into_iter()
            .filter(|one| client.session(&id).is_ok_and(|mine| mine.id != one.id))
            .collect();
        full(&client, "moving")?;
        // That one lives as long as its session.
        ensure!(client.session(of.id.as_str())?.phase == Phase::Ready);
        ensure!(puppet::run(&client, "moving", &id, puppet::COUNT)? == json!(2));
        client.stop(&id)?;
        let waiting = gone(&left, &of)?;
        // With its PID 1 they die, and the next caller notices nothing.
        let of = warm::the_template(&client, "moving")?;
        kill(Pid::from_raw(of.pid.context("pid")?), Signal::SIGKILL)?;
        for member in &waiting {
            let ended = client.ended(member.id.as_str(), 20)?;
            ensure!(ended.end_reason == Some(EndReason::ShimDied), "{ended:?}");
        }
        puppet::begin(&client, "moving")?;
        let waiting = full(&client, "moving")?;
        // A new version: its template is made, and theirs with it, before anybody has called it.
        let of = warm::the_template(&client, "moving")?;
        let source =
            puppet::SOURCE.replace("scope.get(\"answer\")", "['second', scope.get('answer')]");
        e2e::deploy::python(&client, "moving", &source, parked(2))?;
        for member in &waiting {
            client.ended(member.id.as_str(), 30)?;
        }
        let new = full(&client, "moving")?;
        ensure!(new.iter().all(|one| one.version.0 == 2), "{new:?}");
        let second = session_name("second");
        let answer = client.invoke("moving", &second, &puppet::payload(puppet::COUNT))?;
        ensure!(answer == json!(["second", 1]), "{answer}");
        ensure!(warm::ids(&new).contains(client.session(&second)?.id.as_str()));
        client.stop(&second)?;
        // Sessions of the old one were below it.
        for session in client.live_sessions()? {
            if session.session_id.as_str() != kept {
                client.stop(session.id.as_str())?;
            }
        }
        client.ended(of.id.as_str(), 20)?;
        ensure!(puppet::run(&client, "moving", &kept, puppet::COUNT)? == json!(2));
        // Age: nobody has done anything.
        let waiting = full(&client, "moving")?;
        let of = warm::the_template(&client, "moving")?;
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains("max_age = 600\n"), "{text}");
        std::fs::write(&file, text.replace("max_age = 600\n", "max_age = 1\n"))?;
        daemon.signal(Signal::SIGHUP)?;
        for member in &waiting {
            client.ended(member.id.as_str(), 30)?;
        }
        client.ended(of.id.as_str(), 30)?;
        Ok(())
    })
}

#[test]
fn a_member_whose_fork_fails_is_started() -> Result {
    ground!(Daemon, Python);
    // Ends where only a fork comes by, before it serves.
    let dies = "import os\nif 'agentcore_template' in __import__('sys').modules:\n    from agentcore_template import _reseed\n    _reseed.reseed = lambda: os._exit(9)";
    let source = format!("{dies}\n{}", puppet::SOURCE);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::deploy::python(&client, "dies", &source, parked(2))?;
        puppet::begin(&client, "dies")?;
        let member = wait::until(60, "one that was not forked", || {
            for member in nobodys(&client, "dies", Origin::Waiting)? {
                let log = client.logs(member.id.as_str())?;
                if log.contains("not forked from a template, started instead") {
                    return Ok(Some(member));
                }
            }
            Ok(None)
        })?;
        ensure!(!is_fork(&member)?);
        let found = client.runtime("dies")?.template.context("template")?;
        ensure!(found.forks == 0 && found.failed > 0, "{found:?}");
        // Whoever comes is served: by that one, or, where the next template has taken its place or is given up by now, by another.
        let (id, _) = wait::until(60, "one that was not forked to be claimed", || {
            let (id, session) = puppet::begin(&client, "dies")?;
            ensure!(!is_fork(&session)?, "{session:?}");
            let log = client.logs(&id)?;
            let tried = log.contains("not forked from a template, started instead");
            if tried && session.origin == Some(Origin::Pool) {
                return Ok(Some((id, session)));
            }
            client.stop(&id)?;
            Ok(None)
        })?;
        ensure!(puppet::run(&client, "dies", &id, puppet::COUNT)? == json!(2));
        ensure!(
            warm::pool(&client, "dies")?.failure.is_none(),
            "it is no failure of the pool"
        );
        Ok(())
    })
}

#[test]
fn what_cannot_be_forked_waits_started_and_the_reason_is_told() -> Result {
    ground!(Daemon, Python);
    let source = format!(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::deploy::python(&client, "threads", &source, parked(2))?;
        let (_, session) = puppet::begin(&client, "threads")?;
        ensure!(session.origin == Some(Origin::Cold), "{session:?}");
        // Each is replaced by one like it.
        let mut before = BTreeSet::new();
        for _ in 0..3 {
            let members = filled(&client, "threads", false)?;
            let (_, session) = claim(&client, "threads", &members)?;
            ensure!(!is_fork(&session)?, "{session:?}");
            ensure!(before.insert(session.id.to_string()));
        }
        let found = client.runtime("threads")?.template.context("template")?;
        let told = found.reason.as_deref().unwrap_or_default();
        ensure!(told.contains("loading it has started threads"), "{found:?}");
        ensure!((found.forks, found.failed) == (0, 0), "{found:?}");
        let pool = warm::pool(&client, "threads")?;
        ensure!((pool.hits, pool.misses) == (3, 1), "{pool:?}");
        ensure!(
            pool.failure.is_none(),
            "it is no failure of the pool: {pool:?}"
        );
        let out = daemon.cli().args(["status", "-a", "threads"]).output()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        for line in [
            "3 of 4 new sessions came from it",
            "started, not forked: loading it has started threads",
        ] {
            ensure!(out.contains(line), "{line} is not in\n{out}");
        }
        let doctor = client.get::<Value>("/v1/doctor")?.to_string();
        ensure!(
            doctor.contains("threads: loading it has started threads"),
            "{doctor}"
        );
        Ok(())
    })
}

#[test]
fn a_fork_that_died_waiting_is_never_handed_out_and_leaves_nothing() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(
            &client,
            "mortal",
            json!({"fork": "auto", "pool": {"min": 2, "max": 2}}),
        )?;
        let (id, _) = puppet::begin(&client, "mortal")?;
        client.stop(&id)?;
        full(&client, "mortal")?;
        let before = Snapshot::steady(daemon)?;
        for _ in 0..4 {
            let waiting = full(&client, "mortal")?;
            for member in &waiting {
                let agent = host::agent(member.pid.context("pid")?).context("agent")?;
                kill(Pid::from_raw(agent), Signal::SIGKILL)?;
                wait::until_true(10, "it to be gone", || Ok(host::state(agent).is_none()))?;
            }
            let (id, session) = puppet::begin(&client, "mortal")?;
            ensure!(
                !warm::ids(&waiting).contains(session.id.as_str()),
                "a dead one was handed out"
            );
            for member in &waiting {
                let ended = client.ended(member.id.as_str(), 20)?;
                // Claimed in the moment in which its shim had seen it and nobody else: then that did not come to pass.
                let detail = ended.end_detail.as_deref().unwrap_or_default();
                ensure!(
                    ended.end_reason == Some(EndReason::AgentExited)
                        || detail.ends_with("cannot be used: the agent has ended"),
                    "{ended:?}"
                );
            }
            client.stop(&id)?;
        }
        full(&client, "mortal")?;
        before.settle(daemon)
    })
}

#[test]
fn where_nobody_calls_both_end() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config(
        "[limits]\nprepared_launches = 0\n[template]\nfork = \"auto\"\nunused_after = 5\n[pool]\nmax = 3\nunused_after = 8",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        // The operator's defaults.
        puppet::deploy(&client, "rare", json!({}))?;
        let (first, _) = puppet::begin(&client, "rare")?;
        let members = full(&client, "rare")?;
        let of = warm::the_template(&client, "rare")?;
        let (id, _) = claim(&client, "rare", &members)?;
        for id in [&first, &id] {
            client.stop(id)?;
        }
        wait::until_true(60, "the last process to go", || {
            Ok(cgroup::members_named(daemon.instance()).is_empty())
        })?;
        let ended = client.ended(of.id.as_str(), 10)?;
        ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        let found = client.runtime("rare")?;
        ensure!(found.pool.is_none(), "its shelf is there");
        ensure!(
            found
                .template
                .is_some_and(|one| one.state == TemplateState::None)
        );
        // And back.
        puppet::begin(&client, "rare")?;
        let members = full(&client, "rare")?;
        claim(&client, "rare", &members)?;
        Ok(())
    })
}

#[test]
fn when_memory_is_short_members_go_first_and_then_their_template() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[admission]\nevict_after = 600");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "spare", parked(2))?;
        puppet::deploy(&client, "other", json!({"fork": "off", "pool": {"max": 0}}))?;
        let (id, _) = puppet::begin(&client, "spare")?;
        let members = full(&client, "spare")?;
        let of = warm::the_template(&client, "spare")?;
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?;
        let short = "evict_after = 600\nmemory_reserve = \"60T\"\n";
        std::fs::write(&file, text.replace("evict_after = 600\n", short))?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true(60, "both to give way", || {
            let call = Client::invocation(
                "other",
                &session_name("more"),
                &puppet::payload(puppet::COUNT),
            );
            client.send(call)?;
            Ok(nobodys(&client, "spare", Origin::Template)?.is_empty())
        })?;
        for one in members.iter().chain([&of]) {
            let ended = client.ended(one.id.as_str(), 10)?;
            ensure!(ended.end_reason == Some(EndReason::Evicted), "{ended:?}");
        }
        // No session has.
        ensure!(puppet::run(&client, "spare", &id, puppet::COUNT)? == json!(2));
        Ok(())
    })
}

#[test]
fn a_daemon_that_comes_back_keeps_the_template_for_what_was_claimed() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "again", parked(2))?;
        let (first, _) = puppet::begin(&client, "again")?;
        client.stop(&first)?;
        let before = full(&client, "again")?;
        let (id, claimed) = claim(&client, "again", &before)?;
        let before = full(&client, "again")?;
        let of = warm::the_template(&client, "again")?;
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        ensure!(puppet::run(&client, "again", &id, puppet::COUNT)? == json!(2));
        let adopted = client.session(&id)?;
        ensure!(
            adopted.pid == claimed.pid && adopted.origin == Some(Origin::Fork),
            "{adopted:?}"
        );
        for member in &before {
            let ended = client.ended(member.id.as_str(), 20)?;
            ensure!(ended.end_reason == Some(EndReason::DaemonLost), "{ended:?}");
        }
        let kept = client.session(of.id.as_str())?;
        ensure!(kept.phase == Phase::Ready && kept.pid == of.pid, "{kept:?}");
        client.stop(&id)?;
        client.ended(of.id.as_str(), 20)?;
        // In order: what waits ends, and with it their template.
        puppet::begin(&client, "again")?;
        let waiting = full(&client, "again")?;
        let of = warm::the_template(&client, "again")?;
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        daemon.terminate()?;
        for one in waiting.iter().chain([&of]) {
            ensure!(
                !one.pid.is_some_and(host::alive),
                "it outlives its daemon: {one:?}"
            );
        }
        daemon.restart()
    })
}
