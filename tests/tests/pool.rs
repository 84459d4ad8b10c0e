//! Sessions that wait, started, for whoever comes: that a claimed one is its caller's as a new one is, that none is given twice or
//! after anybody was there, that they give way, and that nothing is left where nobody calls. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_problem, joined, session_name};
use e2e::http::Request;
use e2e::leaks::Snapshot;
use e2e::{Daemon, Options, Result, cgroup, ground, host, puppet, wait, warm};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{EndReason, Origin, Page, Phase, PoolState, Session, UsageRecord};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Waits until so many members are ready and none is on its way.
fn filled(client: &Client, runtime: &str, count: u32) -> anyhow::Result<Vec<Session>> {
    wait::until_true(60, &format!("{count} of {runtime} to wait"), || {
        let pool = warm::pool(client, runtime)?;
        Ok(pool.ready == count && pool.starting == 0)
    })?;
    members(client, runtime)
}

/// Waits until as many wait as are to, at least one.
fn full(client: &Client, runtime: &str) -> anyhow::Result<Vec<Session>> {
    wait::until_true(60, &format!("the pool of {runtime} to be full"), || {
        let pool = warm::pool(client, runtime)?;
        Ok(pool.ready > 0 && pool.ready == pool.target && pool.starting == 0)
    })?;
    members(client, runtime)
}

/// Members that are ready.
fn members(client: &Client, runtime: &str) -> anyhow::Result<Vec<Session>> {
    let mut all = client.sessions(&format!("pool=true&runtime={runtime}"))?;
    all.retain(|one| waits(one) && one.phase == Phase::Ready);
    Ok(all)
}

/// Whether it is nobody's.
fn waits(session: &Session) -> bool {
    session.owner.as_deref() == Some("daemon") && session.user_id.as_deref() == Some("pool")
}

/// The agent of a session: its shim's first child.
fn agent_of(session: &Session) -> anyhow::Result<Pid> {
    let shim = session.pid.context("no pid")?;
    let agent = host::agent(shim);
    Ok(Pid::from_raw(agent.context("no agent")?))
}

#[test]
fn a_claimed_session_is_its_callers_from_then_on() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "warm", json!({"pool": {"min": 2, "max": 2}}))?;
        let before = filled(&client, "warm", 2)?;
        ensure!(
            client.sessions("")?.is_empty(),
            "they are nobody's sessions, and are listed"
        );
        ensure!(client.runtime("warm")?.sessions == 0);
        // So that age and waiting can be told apart.
        std::thread::sleep(Duration::from_millis(1200));
        let id = session_name("warm");
        let count = puppet::run(&client, "warm", &id, puppet::COUNT)?;
        ensure!(count == json!(1), "somebody was there before: {count}");
        let session = client.session(&id)?;
        ensure!(
            warm::ids(&before).contains(session.id.as_str()),
            "it was not claimed: {session:?}"
        );
        ensure!(session.session_id.as_str() == id, "{session:?}");
        ensure!(!waits(&session), "{session:?}");
        let member = before.iter().find(|one| one.id == session.id);
        let member = member.context("the member")?;
        ensure!(
            session.pid == member.pid && session.uid_base == member.uid_base,
            "other processes: {session:?}"
        );
        ensure!(
            session.created_at > member.created_at,
            "its life does not begin with the claim: {session:?}"
        );
        // The same session again, and no other.
        ensure!(puppet::run(&client, "warm", &id, puppet::COUNT)? == json!(2));
        let log = puppet::run(&client, "warm", &id, "print('hello', flush=True)")?;
        ensure!(log.is_null());
        wait::until_true(10, "its line", || Ok(client.logs(&id)?.contains("hello")))?;
        // Replaced, by one that is not it.
        let after = filled(&client, "warm", 2)?;
        ensure!(!warm::ids(&after).contains(session.id.as_str()));
        ensure!(client.sessions("")?.len() == 1);
        let state = warm::pool(&client, "warm")?;
        ensure!((state.hits, state.misses) == (1, 0), "{state:?}");
        let metrics = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
        for sample in [
            "agentcore_session_start_seconds_count{path=\"pool\",agent=\"warm\"} 1",
            "agentcore_pool_hits_total{agent=\"warm\"} 1",
            "agentcore_pool_size{state=\"ready\",agent=\"warm\"} 2",
            "agentcore_pool_target{agent=\"warm\"} 2",
        ] {
            ensure!(metrics.contains(sample), "{sample} is not in\n{metrics}");
        }
        let ended = client.stop(&id)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        client
            .send(Request::new("DELETE", "/v1/runtimes/warm?wait=true"))?
            .expect(204)?;
        ensure!(
            cgroup::members_named(daemon.instance())
                .iter()
                .all(|pid| { host::title(*pid).contains("stager") })
        );
        Ok(())
    })
}

#[test]
fn the_pool_pays_for_what_was_used_before_the_claim() -> Result {
    ground!(Daemon, Python);
    // A start that takes a second of CPU time.
    let source = format!(
        "import time\nuntil = time.process_time() + 1\nwhile time.process_time() < until: pass\n{}",
        puppet::SOURCE
    );
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::deploy::python(
            &client,
            "paid",
            &source,
            json!({"pool": {"min": 1, "max": 1}}),
        )?;
        filled(&client, "paid", 1)?;
        let id = session_name("paid");
        puppet::run(&client, "paid", &id, "answer = 1")?;
        let ended = client.stop(&id)?;
        let rows: Page<UsageRecord> = client.get("/v1/usage?by=session&maxResults=1000")?;
        let of = |id: &str| {
            let mut rows = rows.items.iter();
            let row = rows.find(|row| row.id.as_ref().is_some_and(|of| of.as_str() == id));
            row.map(|row| row.used.cpu_seconds)
                .with_context(|| format!("no record of {id}"))
        };
        let session = ended.id.as_str();
        let own = of(session)?;
        let waited = of(&session.replacen('s', "w", 1))?;
        ensure!(own < 0.6, "the caller pays for the start: {own}");
        ensure!(waited >= 0.9, "the pool does not: {waited}");
        let whole = ended.usage.cpu_seconds;
        ensure!(
            (own + waited - whole).abs() < 0.002,
            "{own} and {waited} are not {whole}"
        );
        let rows: Page<UsageRecord> = client.get("/v1/usage?by=runtime")?;
        let row = rows.items.first().context("a row")?;
        ensure!(
            row.sessions == 1,
            "waiting is counted as a session: {row:?}"
        );
        let check: Value = client.get("/v1/usage/verify")?;
        ensure!(check["ok"] == json!(true), "{check}");
        Ok(())
    })
}

#[test]
fn fifty_callers_at_once_have_fifty_sessions() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "race", json!({"pool": {"min": 5, "max": 5}}))?;
        for _ in 0..3 {
            let waiting = warm::ids(&filled(&client, "race", 5)?);
            let calls: Vec<_> = (0..50)
                .map(|number| {
                    let id = session_name(&format!("race-{number}"));
                    let call = client.in_background("race", &id, &puppet::payload(puppet::COUNT));
                    (id, call)
                })
                .collect();
            let mut sessions = BTreeSet::new();
            let mut names = Vec::new();
            for (id, call) in calls {
                let count: Value = joined(call)?.expect(200)?.json()?;
                ensure!(count == json!(1), "two callers are in one session: {count}");
                ensure!(sessions.insert(client.session(&id)?.id.to_string()));
                names.push(id);
            }
            ensure!(
                sessions.intersection(&waiting).count() == 5,
                "not all that waited were claimed"
            );
            for id in names {
                client.stop(&id)?;
            }
        }
        // Many calls of one session that is not there yet: one of them claims, and what the others took goes back.
        filled(&client, "race", 5)?;
        let id = session_name("one");
        let calls: Vec<_> = (0..20)
            .map(|_| client.in_background("race", &id, &puppet::payload(puppet::COUNT)))
            .collect();
        let mut counts = BTreeSet::new();
        for call in calls {
            let count: Value = joined(call)?.expect(200)?.json()?;
            counts.insert(count.as_u64().context("a number")?);
        }
        ensure!(counts == (1..=20).collect(), "{counts:?}");
        let left = filled(&client, "race", 5)?;
        ensure!(!warm::ids(&left).contains(client.session(&id)?.id.as_str()));
        ensure!(client.live_sessions()?.len() == 1);
        Ok(())
    })
}

#[test]
fn what_died_or_was_touched_is_never_handed_out() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "mortal", json!({"pool": {"min": 2, "max": 2}}))?;
        // Agents killed in the moment before a caller comes: the caller never notices.
        for round in 0..4 {
            let waiting = filled(&client, "mortal", 2)?;
            for member in &waiting {
                let agent = agent_of(member)?;
                kill(agent, Signal::SIGKILL)?;
                // All of its threads, and its shim has seen it: before that nobody can know, and a caller who comes in that
                // moment sees a session whose agent dies.
                wait::until_true(10, "it to be gone", || {
                    Ok(host::state(agent.as_raw()).is_none())
                })?;
            }
            let id = session_name(&format!("after-{round}"));
            let count = puppet::run(&client, "mortal", &id, puppet::COUNT)?;
            ensure!(count == json!(1));
            let session = client.session(&id)?;
            ensure!(
                !warm::ids(&waiting).contains(session.id.as_str()),
                "a dead one was handed out"
            );
            for member in &waiting {
                let ended = client.ended(member.id.as_str(), 20)?;
                // Claimed in the moment in which its shim had seen it and nobody else: then that did not come to pass.
                let refused = ended
                    .end_detail
                    .as_deref()
                    .is_some_and(|detail| detail.ends_with("cannot be used: the agent has ended"));
                ensure!(
                    ended.end_reason == Some(EndReason::AgentExited) || refused,
                    "{ended:?}"
                );
            }
            client.stop(&id)?;
        }
        let state = warm::pool(&client, "mortal")?;
        ensure!(
            state.failure.is_some_and(|why| why.contains("signal")),
            "not told why"
        );
        // Somebody runs a command in one, another one has other limits, and the shim of a third is killed.
        for touch in ["exec", "limits", "freeze"] {
            let waiting = filled(&client, "mortal", 2)?;
            for member in &waiting {
                let path = format!("/v1/sessions/{}", member.id);
                match touch {
                    "exec" => {
                        let out = daemon
                            .cli()
                            .args(["exec", "-s", member.id.as_str(), "--", "true"])
                            .output()?;
                        ensure!(out.status.success(), "{out:?}");
                    }
                    "limits" => {
                        let limits = json!({"pids": 100}).to_string();
                        let request = Request::new("PATCH", format!("{path}/limits"))
                            .header("content-type", "application/json")
                            .body(limits);
                        client.send(request)?.expect(200)?;
                    }
                    _ => {
                        for switch in ["freeze", "thaw"] {
                            let request = Request::post(format!("{path}/{switch}"), "");
                            client.send(request)?.expect(200)?;
                        }
                    }
                }
            }
            let id = session_name(touch);
            puppet::run(&client, "mortal", &id, puppet::COUNT)?;
            let session = client.session(&id)?;
            ensure!(
                !warm::ids(&waiting).contains(session.id.as_str()),
                "{touch}: it was handed out all the same"
            );
            client.stop(&id)?;
            // One that nobody wants any more is still there, and not counted for good.
            for member in waiting {
                client.ended(member.id.as_str(), 20)?;
            }
        }
        Ok(())
    })
}

/// An agent that answers how often it was called, in JavaScript.
const COUNT_IN_NODE: &str = "
let calls = 0;
require('node:http').createServer((request, response) => {
  request.resume();
  response.setHeader('content-type', 'application/json');
  response.end(request.url === '/ping' ? '{\"status\": \"Healthy\"}' : String(++calls));
}).listen(8080, '0.0.0.0');
";

/// Its pool is the one that the operator gives everybody: a first call fills it, and later ones have what waits there.
fn is_claimed(client: &Client, runtime: &str, payload: &Value, answer: &Value) -> Result {
    let call = || -> anyhow::Result<Session> {
        let id = session_name(runtime);
        let found = client.invoke(runtime, &id, payload)?;
        ensure!(found == *answer, "{found}");
        client.session(&id)
    };
    ensure!(call()?.origin == Some(Origin::Cold));
    let mut claimed = BTreeSet::new();
    for hits in 1..=3 {
        let waiting = full(client, runtime)?;
        let session = call()?;
        ensure!(session.origin == Some(Origin::Pool), "{session:?}");
        let member = waiting.iter().find(|one| one.id == session.id);
        ensure!(
            member.is_some_and(|member| member.pid == session.pid),
            "{session:?}"
        );
        ensure!(claimed.insert(session.id.to_string()), "given twice");
        let state = warm::pool(client, runtime)?;
        ensure!((state.hits, state.misses) == (hits, 1), "{state:?}");
    }
    full(client, runtime)?;
    Ok(())
}

#[test]
fn native_agents_wait_as_well() -> Result {
    ground!(Daemon);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::deploy::native(&client)?;
        let echoed = json!({"echoed": 1});
        is_claimed(&client, "native", &echoed, &echoed)
    })
}

#[test]
fn agents_in_node_wait_as_well() -> Result {
    ground!(Daemon, Node);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let files = [e2e::deploy::file("agent.js", COUNT_IN_NODE.as_bytes())];
        let config = e2e::deploy::config("node", "agent.js", json!({}))?;
        e2e::deploy::bundle(&client, e2e::deploy::zip(&files)?, &config)?;
        is_claimed(&client, "node", &json!({}), &json!(1))
    })
}

#[test]
fn members_that_die_and_races_for_them_leave_nothing_behind() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        // Of one kind, so that what waits is the same before and after.
        let config = json!({"fork": "off", "pool": {"min": 3, "max": 3}});
        puppet::deploy(&client, "clean", config)?;
        filled(&client, "clean", 3)?;
        let id = session_name("clean");
        puppet::run(&client, "clean", &id, puppet::COUNT)?;
        client.stop(&id)?;
        filled(&client, "clean", 3)?;
        let before = Snapshot::steady(daemon)?;
        for round in 0..6 {
            let waiting = filled(&client, "clean", 3)?;
            match round % 3 {
                // They die while they wait: of their agents' end, and of their own.
                0 => {
                    for (number, member) in waiting.iter().enumerate() {
                        let shim = Pid::from_raw(member.pid.context("pid")?);
                        let pid = if number == 0 { shim } else { agent_of(member)? };
                        kill(pid, Signal::SIGKILL)?;
                    }
                }
                // More callers than members.
                1 => {
                    let calls: Vec<_> = (0..8)
                        .map(|_| {
                            let id = session_name("clean");
                            let call =
                                client.in_background("clean", &id, &puppet::payload(puppet::COUNT));
                            (id, call)
                        })
                        .collect();
                    for (id, call) in calls {
                        let count: Value = joined(call)?.expect(200)?.json()?;
                        ensure!(count == json!(1), "two callers are in one session: {count}");
                        client.stop(&id)?;
                    }
                }
                // Of many calls of one session one claims; and the member dies in that moment, or just before or after it.
                _ => {
                    let id = session_name("clean");
                    let calls: Vec<_> = (0..8)
                        .map(|_| {
                            client.in_background("clean", &id, &puppet::payload(puppet::COUNT))
                        })
                        .collect();
                    for member in &waiting {
                        // It may have gone back, or be gone.
                        if let Ok(agent) = agent_of(member) {
                            let _ = kill(agent, Signal::SIGKILL);
                        }
                    }
                    for call in calls {
                        let status = joined(call)?.status;
                        ensure!(status == 200 || status == 424, "{status}");
                    }
                }
            }
            let live = client.live_sessions()?;
            for session in &live {
                // One whose agent was killed may have ended by now.
                client.send(Request::new(
                    "DELETE",
                    format!("/v1/sessions/{}", session.id),
                ))?;
            }
            for session in waiting.iter().chain(&live) {
                client.ended(session.id.as_str(), 20)?;
            }
        }
        filled(&client, "clean", 3)?;
        before.settle(daemon)
    })
}

#[test]
fn a_deployment_replaces_members_and_a_deletion_removes_them() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let config = json!({"pool": {"max": 3}});
        puppet::deploy(&client, "moving", config.clone())?;
        ensure!(
            warm::pool(&client, "moving")? == PoolState::default(),
            "nobody has come"
        );
        let id = session_name("first");
        puppet::run(&client, "moving", &id, puppet::COUNT)?;
        let old = full(&client, "moving")?;
        // Which version answers is part of the answer.
        let source = puppet::SOURCE.replace("scope.get(\"answer\")", "'second'");
        e2e::deploy::python(&client, "moving", &source, config)?;
        for member in &old {
            client.ended(member.id.as_str(), 20)?;
        }
        let new = full(&client, "moving")?;
        ensure!(new.iter().all(|one| one.version.0 == 2), "{new:?}");
        let second = session_name("second");
        let answer = client.invoke("moving", &second, &puppet::payload("answer = 'first'"))?;
        ensure!(answer == json!("second"), "{answer}");
        ensure!(
            warm::ids(&new).contains(client.session(&second)?.id.as_str()),
            "what was known of demand is lost"
        );
        // The first session is of the old version still.
        ensure!(puppet::run(&client, "moving", &id, puppet::COUNT)? == json!(2));
        let left = full(&client, "moving")?;
        client
            .send(Request::new("DELETE", "/v1/runtimes/moving?wait=true"))?
            .expect(204)?;
        for member in left {
            let ended = client.session(member.id.as_str())?;
            ensure!(ended.phase == Phase::Ended, "{ended:?}");
        }
        let unknown = client.send(Request::get("/v1/runtimes/moving"))?;
        expect_problem(unknown, 404, "moving")?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_comes_back_ends_what_nobody_claimed_and_adopts_the_rest() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        puppet::deploy(
            &client,
            "again",
            json!({"pool": {"min": 3, "max": 3}, "lifecycle": {"max_lifetime": 60}}),
        )?;
        let before = filled(&client, "again", 3)?;
        let id = session_name("claimed");
        puppet::run(&client, "again", &id, puppet::COUNT)?;
        let claimed = client.session(&id)?;
        ensure!(warm::ids(&before).contains(claimed.id.as_str()));
        daemon.kill()?;
        // What its owner leaves goes on: some were claimed, and the others are nobody's.
        daemon.restart()?;
        let client = daemon.client();
        let adopted = client.session(&id)?;
        ensure!(
            adopted.id == claimed.id && adopted.pid == claimed.pid,
            "{adopted:?}"
        );
        ensure!(adopted.created_at == claimed.created_at);
        ensure!(puppet::run(&client, "again", &id, puppet::COUNT)? == json!(2));
        for member in before.iter().filter(|one| one.id != claimed.id) {
            let ended = client.ended(member.id.as_str(), 20)?;
            ensure!(ended.end_reason == Some(EndReason::DaemonLost), "{ended:?}");
            let detail = ended.end_detail.unwrap_or_default();
            ensure!(detail.contains("nobody had claimed it"), "{detail}");
            ensure!(!ended.pid.is_some_and(host::alive));
        }
        let fresh = filled(&client, "again", 3)?;
        ensure!(warm::ids(&fresh).is_disjoint(&warm::ids(&before)));
        // In order, too.
        daemon.terminate()?;
        for member in &fresh {
            ensure!(
                !member.pid.is_some_and(host::alive),
                "a member outlives its daemon: {member:?}"
            );
        }
        daemon.restart()?;
        let client = daemon.client();
        ensure!(puppet::run(&client, "again", &id, puppet::COUNT)? == json!(3));
        client.stop(&id)?;
        client
            .send(Request::new("DELETE", "/v1/runtimes/again?wait=true"))?
            .expect(204)?;
        Ok(())
    })
}

#[test]
fn members_give_way_to_sessions() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[limits]\nmax_sessions = 4\nadmission_wait = 0");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "warm", json!({"pool": {"min": 4, "max": 4}}))?;
        puppet::deploy(&client, "cold", json!({"pool": {"max": 0}}))?;
        filled(&client, "warm", 4)?;
        // No place is free, as a process goes; every caller has one all the same, at once.
        let names: Vec<String> = (0..4).map(|_| session_name("cold")).collect();
        for name in &names {
            puppet::run(&client, "cold", name, puppet::COUNT)?;
        }
        filled(&client, "warm", 0)?;
        let fifth = Client::invocation(
            "warm",
            &session_name("fifth"),
            &puppet::payload(puppet::COUNT),
        );
        ensure!(client.send(fifth)?.status == 429, "more than max_sessions");
        client.stop(&names[0])?;
        let waiting = filled(&client, "warm", 1)?;
        let name = session_name("warm");
        puppet::run(&client, "warm", &name, puppet::COUNT)?;
        ensure!(warm::ids(&waiting).contains(client.session(&name)?.id.as_str()));
        ensure!(client.live_sessions()?.len() == 4);
        Ok(())
    })
}

#[test]
fn members_give_way_when_memory_is_short_before_any_session_does() -> Result {
    ground!(Daemon, Python);
    // Two sessions of 512 MiB may be promised, and 8 MiB: less than one member holds.
    let most = f64::from(1032 << 20);
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = most / e2e::host::memory()? as f64;
    let options = Options::quick().config(&format!(
        "[limits]\nadmission_wait = 4\n[admission]\nevict_after = 1\nmemory_ratio = {ratio}\n[defaults]\nfreeze_after = 0",
    ));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let resources = json!({"resources": {"memory": "512M"}});
        puppet::deploy(&client, "cold", resources.clone())?;
        puppet::deploy(
            &client,
            "warm",
            json!({"resources": {"memory": "512M"}, "pool": {"min": 3, "max": 3}}),
        )?;
        // They count as what they hold, or there were two at most.
        let waiting = filled(&client, "warm", 3)?;
        let [first, second, third] = ["first", "second", "third"].map(session_name);
        puppet::run(&client, "cold", &first, puppet::COUNT)?;
        let idle = Instant::now();
        wait::until_true(
            10,
            "it to be idle for as long as it takes to give way",
            || Ok(idle.elapsed() > Duration::from_millis(1200)),
        )?;
        ensure!(
            warm::pool(&client, "warm")?.ready == 3,
            "none gave way for the first"
        );
        puppet::run(&client, "cold", &second, puppet::COUNT)?;
        ensure!(
            client.session(&first)?.phase == Phase::Ready,
            "it went first"
        );
        let mut evicted = 0;
        for member in &waiting {
            if client.session(member.id.as_str())?.phase != Phase::Ready {
                let ended = client.ended(member.id.as_str(), 10)?;
                ensure!(ended.end_reason == Some(EndReason::Evicted), "{ended:?}");
                evicted += 1;
            }
        }
        ensure!(evicted > 0, "there was room for all");
        // None is made anew that would have to go again: the next one takes the place of a session, and no member's.
        let known = warm::ids(&client.sessions("pool=true&runtime=warm")?);
        puppet::run(&client, "cold", &third, puppet::COUNT)?;
        let gone = client.ended(&first, 10)?;
        ensure!(gone.end_reason == Some(EndReason::Evicted), "{gone:?}");
        ensure!(
            warm::ids(&client.sessions("pool=true&runtime=warm")?) == known,
            "it was filled"
        );
        for id in [&second, &third] {
            client.stop(id)?;
        }
        filled(&client, "warm", 3)?;

        // A host without memory: all go, nobody is let in, and none is made until it has been well for a while.
        let reload = |from: &str, to: &str| -> anyhow::Result<()> {
            let file = daemon.dir().join("agentcored.toml");
            let text = std::fs::read_to_string(&file)?;
            ensure!(text.contains(from), "{text}");
            std::fs::write(&file, text.replace(from, to))?;
            daemon.signal(Signal::SIGHUP)
        };
        reload(
            "evict_after = 1\n",
            "evict_after = 600\nmemory_reserve = \"60T\"\n",
        )?;
        let waiting = members(&client, "warm")?;
        wait::until_true(60, "them to give way", || {
            let id = session_name("more");
            let call = Client::invocation("cold", &id, &puppet::payload(puppet::COUNT));
            let answer = client.send(call)?;
            if answer.status == 200 {
                // The daemon has not read its configuration yet; what it has made would be in the way of members later.
                client.stop(&id)?;
            }
            Ok(answer.status == 429 && warm::pool(&client, "warm")?.ready == 0)
        })?;
        for member in &waiting {
            let ended = client.ended(member.id.as_str(), 10)?;
            ensure!(ended.end_reason == Some(EndReason::Evicted), "{ended:?}");
        }
        ensure!(warm::pool(&client, "warm")?.starting == 0);
        reload("60T", "1M")?;
        wait::until_true(60, "callers to be let in", || {
            let id = session_name("again");
            let call = Client::invocation("cold", &id, &puppet::payload(puppet::COUNT));
            let served = client.send(call)?.status == 200;
            if served {
                client.stop(&id)?;
            }
            Ok(served)
        })?;
        filled(&client, "warm", 3)?;
        Ok(())
    })
}

#[test]
fn a_runtime_that_nobody_calls_costs_no_process() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config(
        "[limits]\nprepared_launches = 0\n[pool]\nmax = 4\nunused_after = 6\n[template]\nunused_after = 6\n[defaults]\nidle_timeout = 60",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        // The operator's default.
        puppet::deploy(&client, "rare", json!({}))?;
        let id = session_name("rare");
        puppet::run(&client, "rare", &id, puppet::COUNT)?;
        client.stop(&id)?;
        let waiting = full(&client, "rare")?;
        let instance = daemon.instance();
        ensure!(!cgroup::members_named(instance).is_empty());
        wait::until_true(30, "the last process to go", || {
            Ok(cgroup::members_named(instance).is_empty())
        })?;
        ensure!(client.runtime("rare")?.pool.is_none(), "its shelf is there");
        for member in waiting {
            let ended = client.ended(member.id.as_str(), 10)?;
            ensure!(ended.end_reason == Some(EndReason::Idle), "{ended:?}");
        }
        // And back.
        puppet::run(&client, "rare", &id, puppet::COUNT)?;
        full(&client, "rare")?;
        let second = session_name("second");
        puppet::run(&client, "rare", &second, puppet::COUNT)?;
        ensure!(warm::pool(&client, "rare")?.hits == 1);
        Ok(())
    })
}

#[test]
fn an_agent_that_does_not_start_is_tried_ever_more_rarely() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let source = "raise SystemExit('no key for the model')";
        e2e::deploy::python(
            &client,
            "broken",
            source,
            json!({"pool": {"min": 2, "max": 2}}),
        )?;
        wait::until_true(30, "the reason to be told", || {
            let pool = warm::pool(&client, "broken")?;
            Ok(pool.failure.is_some_and(|why| why.contains("exit")))
        })?;
        std::thread::sleep(Duration::from_secs(5));
        let tried = client.sessions("pool=true&runtime=broken")?.len();
        ensure!(tried <= 6, "{tried} were started within seconds");
        // A caller sees the agent's own words.
        let call = Client::invocation("broken", &session_name("broken"), &json!({}));
        let answer = client.send(call)?;
        ensure!(answer.status == 424, "{}", answer.status);
        ensure!(answer.text()?.contains("no key for the model"));
        Ok(())
    })
}

/// Everything at once: callers come and go, members are killed, versions change, the daemon is killed. Every caller has a
/// session of its own that nobody was in before.
#[test]
fn a_mix() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        ..Options::quick()
    };
    Daemon::with(options, |daemon| {
        let config = json!({"pool": {"min": 2, "max": 6}});
        puppet::deploy(&daemon.client(), "mix", config.clone())?;
        for round in 0..6 {
            let client = daemon.client();
            let calls: Vec<_> = (0..10)
                .map(|number| {
                    let id = session_name(&format!("mix-{round}-{number}"));
                    let call = client.in_background("mix", &id, &puppet::payload(puppet::COUNT));
                    (id, call)
                })
                .collect();
            for member in members(&client, "mix")?.iter().take(2) {
                // It may be gone, or somebody's, by now: then its caller's session ends, as sessions may.
                if let Ok(agent) = agent_of(member)
                    && waits(&client.session(member.id.as_str())?)
                {
                    let _ = kill(agent, Signal::SIGKILL);
                }
            }
            if round % 2 == 1 {
                puppet::deploy(&client, "mix", config.clone())?;
            }
            for (id, call) in calls {
                let answer = joined(call)?;
                match answer.status {
                    200 => {
                        let count: Value = answer.json()?;
                        ensure!(count == json!(1), "{id}: {count}");
                    }
                    // Killed after its claim, by this test.
                    424 => {}
                    other => anyhow::bail!("{other}: {}", answer.text()?),
                }
                if round % 3 != 2 {
                    client.send(Request::new(
                        "DELETE",
                        format!("/v1/sessions/{id}?wait=true"),
                    ))?;
                }
            }
            if round % 3 == 2 {
                daemon.kill()?;
                daemon.restart()?;
            }
        }
        let client = daemon.client();
        wait::until_true(60, "a pool as large as it is to be", || {
            let pool = warm::pool(&client, "mix")?;
            Ok(pool.ready == pool.target && pool.ready >= 2)
        })?;
        // Nothing is there but what is in a list.
        let listed = client.sessions("pool=true&live=true")?;
        let shims: BTreeSet<i32> = listed.iter().filter_map(|one| one.pid).collect();
        for pid in cgroup::members_named(daemon.instance()) {
            let title = host::title(pid);
            ensure!(
                !title.starts_with("shim:") || shims.contains(&pid),
                "{title} is nobody's"
            );
        }
        Ok(())
    })
}
