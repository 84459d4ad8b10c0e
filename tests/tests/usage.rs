//! The ledger: what sessions and invocations used, whatever becomes of them and of their daemon; and that nobody changes it
//! unseen. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, session_name};
use e2e::{Daemon, Options, Result, cgroup, ground, host, puppet, task, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{
    BudgetState, EndReason, FreezeCause, InvocationRecord, LedgerCheck, Page, Phase, Task,
    TaskStatus, UsageRecord,
};
use proto::config::Period;
use serde_json::json;
use std::process::{Command, Output};

/// The same, in whose ledger is nothing of what waits (owner `daemon`): records are counted here, or those of a runtime are.
fn alone() -> Options {
    Options::installed().config("[template]\nfork = \"off\"\n[pool]\nmax = 0")
}

fn usage(client: &Client, query: &str) -> anyhow::Result<Vec<UsageRecord>> {
    let page: Page<UsageRecord> = client.get(&format!("/v1/usage?{query}"))?;
    Ok(page.items)
}

/// What is told of one session, by our name of it.
fn of_session(client: &Client, id: &str) -> anyhow::Result<UsageRecord> {
    let all = usage(client, "by=session&maxResults=1000")?;
    let found = all
        .into_iter()
        .find(|record| record.id.as_ref().is_some_and(|found| found.as_str() == id));
    found.with_context(|| format!("no usage of {id}"))
}

/// CPU seconds by the kernel's own counter of a session's cgroup.
fn counted(shim: i32) -> anyhow::Result<f64> {
    if let Some(nanos) = cgroup::value(shim, "cpuacct", &["cpuacct.usage"]) {
        return Ok(nanos.parse::<f64>()? / 1e9);
    }
    let stat = cgroup::value(shim, "cpu", &["cpu.stat"]).context("cpu.stat")?;
    let micros = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    Ok(micros.context("usage_usec")?.parse::<f64>()? / 1e6)
}

fn verify(daemon: &Daemon) -> anyhow::Result<(LedgerCheck, Output)> {
    let check = daemon.client().get("/v1/usage/verify")?;
    Ok((check, daemon.cli().args(["usage", "verify"]).output()?))
}

/// Burns so many CPU seconds.
fn burn(seconds: f64) -> String {
    format!(
        "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\nanswer = 1"
    )
}

#[test]
fn a_session_is_charged_what_its_cgroup_counted_though_its_daemon_is_killed() -> Result {
    ground!(Daemon, Python);
    Daemon::with(alone(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "busy", json!({}))?;
        let id = session_name("busy");
        puppet::run(&client, "busy", &id, &burn(1.5))?;
        puppet::run(
            &client,
            "busy",
            &id,
            "import time\nkept['x'] = bytearray(100_000_000)\ntime.sleep(2.5)\nanswer = 'y' * 5000",
        )?;
        let session = client.session(&id)?;
        let ours = session.id.as_str();
        let records: Vec<InvocationRecord> = wait::until(10, "both invocations on record", || {
            let page: Page<InvocationRecord> =
                client.get(&format!("/v1/usage/invocations?session={ours}"))?;
            Ok((page.items.len() == 2).then_some(page.items))
        })?;
        // The newest first. The one that burnt has most of what was burnt.
        let [slept, burnt] = records.as_slice() else {
            anyhow::bail!("{records:?}")
        };
        // A reading a second: of the second in which one ended and the next began, each has its share by time.
        ensure!(burnt.cpu_us > 900_000, "{burnt:?}");
        ensure!(slept.cpu_us < 700_000, "{slept:?}");
        ensure!(burnt.cpu_us + slept.cpu_us > 1_400_000, "{records:?}");
        ensure!(
            slept.wall_ms >= 2500 && slept.bytes_out >= 5000,
            "{slept:?}"
        );
        ensure!(slept.bytes_in > 50, "{slept:?}");

        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        puppet::run(&client, "busy", &id, &burn(0.5))?;
        // It lives, and its figures are there.
        let live = of_session(&client, ours)?;
        ensure!(live.live == 1 && live.sessions == 0, "{live:?}");
        // It has ended its work: what is counted from now until its end is next to nothing.
        let counter = counted(session.pid.context("pid")?)?;
        client.stop(&id)?;
        client.ended(&id, 20)?;
        let ended = of_session(&client, ours)?;
        let cpu = ended.used.cpu_seconds;
        ensure!(
            cpu >= counter && cpu <= counter * 1.01 + 0.1,
            "{cpu} s on record, {counter} s counted before its end: {ended:?}"
        );
        ensure!((ended.live, ended.sessions) == (0, 1), "{ended:?}");
        ensure!(ended.used.invocations == 3, "{ended:?}");
        ensure!(ended.used.bytes_out >= 5000, "{ended:?}");
        ensure!(ended.used.peak_bytes > 100_000_000, "{ended:?}");
        ensure!(ended.used.active_seconds > 4.0, "{ended:?}");
        ensure!(
            ended.used.wall_seconds >= ended.used.active_seconds,
            "{ended:?}"
        );
        // At least the 2.5 s with 100 MB.
        ensure!(ended.used.memory_gb_seconds > 0.25, "{ended:?}");
        ensure!(
            ended.used.memory_gb_seconds <= ended.used.memory_peak_gb_seconds
                && ended.used.memory_peak_gb_seconds <= ended.used.memory_aws_gb_seconds,
            "{ended:?}"
        );
        ensure!(ended.cost > 0.0 && ended.aws_cost > 0.0, "{ended:?}");
        let of = |query: &str| -> anyhow::Result<UsageRecord> {
            let mut found = usage(&client, query)?;
            ensure!(found.len() == 1, "{query}: {found:?}");
            found.pop().context("one")
        };
        for by in ["by=runtime", "by=user", "by=day", "by=day&runtime=busy"] {
            let sum = of(by)?;
            ensure!(
                (sum.used.cpu_seconds - cpu).abs() < 1e-6 && sum.sessions == 1,
                "{by}: {sum:?}"
            );
        }
        wait::until_true(10, "the last invocation to be on record", || {
            Ok(verify(daemon)?.0.invocations == 3)
        })?;
        let (check, said) = verify(daemon)?;
        ensure!(check.ok && check.sessions == 1, "{check:?}");
        ensure!(said.status.success(), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed_loses_no_invocation() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let mut client = daemon.client();
        puppet::deploy(&client, "counts", json!({}))?;
        let (lives, dies) = (session_name("lives"), session_name("dies"));
        let mut answered = [0; 2];
        for round in 0..3 {
            // As many as fit a second and some, so that some are on record and others are not.
            for call in 0..40 + 10 * round {
                let which = call % 2;
                let id = if which == 0 { &lives } else { &dies };
                puppet::run(&client, "counts", id, "answer = 1")?;
                answered[which] += 1;
            }
            daemon.kill()?;
            daemon.restart()?;
            client = daemon.client();
        }
        let sessions = [client.session(&lives)?, client.session(&dies)?];
        client.stop(&dies)?;
        for (session, answered) in sessions.iter().zip(answered) {
            let ours = session.id.as_str();
            let page: Page<InvocationRecord> = client.get(&format!(
                "/v1/usage/invocations?session={ours}&maxResults=1000"
            ))?;
            let recorded: u64 = page.items.iter().map(|record| record.count).sum();
            let counted = of_session(&client, ours)?.used.invocations;
            ensure!(
                (recorded, counted) == (answered, answered),
                "{answered} were answered, {recorded} are on record, {counted} were counted"
            );
        }
        client.stop(&lives)?;
        let (check, _) = verify(daemon)?;
        ensure!(check.ok, "{check:?}");
        Ok(())
    })
}

#[test]
fn idle_time_costs_nothing_here() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "rests", json!({}))?;
        let id = session_name("rests");
        puppet::run(&client, "rests", &id, "answer = 1")?;
        let ours = client.session(&id)?.id;
        let before = wait::until(10, "it to be idle", || {
            // Before its first round it is not known.
            let record = of_session(&client, ours.as_str()).ok();
            Ok(record.filter(|record| record.used.wall_seconds > 2.0))
        })?;
        wait::until_true(20, "three more seconds to pass", || {
            let record = of_session(&client, ours.as_str())?;
            Ok(record.used.wall_seconds > before.used.wall_seconds + 3.0)
        })?;
        let after = of_session(&client, ours.as_str())?;
        ensure!(
            (after.cost - before.cost).abs() < 1e-12,
            "{before:?} {after:?}"
        );
        ensure!(after.aws_cost > before.aws_cost, "{before:?} {after:?}");
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn every_end_has_its_last_record_also_without_a_daemon() -> Result {
    ground!(Daemon, Python);
    Daemon::with(alone(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "ends", json!({"resources": {"memory": "128M"}}))?;
        let (starves, killed) = (session_name("starves"), session_name("killed"));
        for id in [&starves, &killed] {
            puppet::run(&client, "ends", id, &burn(0.3))?;
        }
        let starving = client.session(&starves)?;
        let hunger = puppet::payload("kept['x'] = [bytearray(1 << 20) for _ in range(4096)]");
        let refused = client.send(Client::invocation("ends", &starves, &hunger))?;
        ensure!(refused.status == 424, "{}", refused.status);
        let ended = client.ended(starving.id.as_str(), 20)?;
        ensure!(
            ended.end_reason == Some(EndReason::OutOfMemory),
            "{ended:?}"
        );
        let record = of_session(&client, starving.id.as_str())?;
        ensure!(
            record.sessions == 1 && record.used.cpu_seconds >= 0.3,
            "{record:?}"
        );
        ensure!(
            (100_000_000..=140_000_000).contains(&record.used.peak_bytes),
            "{record:?}"
        );

        let dying = client.session(&killed)?;
        let shim = dying.pid.context("pid")?;
        wait::until_true(10, "its invocation to be on record", || {
            let ours = &dying.id;
            let page: Page<InvocationRecord> =
                client.get(&format!("/v1/usage/invocations?session={ours}"))?;
            Ok(page.items.len() == 1)
        })?;
        daemon.kill()?;
        kill(Pid::from_raw(shim), Signal::SIGKILL)?;
        wait::until_true(20, "its end", || Ok(!host::alive(shim)))?;
        daemon.restart()?;
        let client = daemon.client();
        let record = of_session(&client, dying.id.as_str())?;
        ensure!(record.sessions == 1 && record.live == 0, "{record:?}");
        ensure!(record.used.cpu_seconds >= 0.3, "{record:?}");
        ensure!(record.used.invocations == 1, "{record:?}");
        let (check, _) = verify(daemon)?;
        ensure!(check.ok && check.sessions == 2, "{check:?}");
        Ok(())
    })
}

#[test]
fn whoever_changes_a_record_or_cuts_the_end_off_is_seen() -> Result {
    ground!(Daemon, Python);
    for (sql, words) in [
        (
            "UPDATE usage_sessions SET cpu_us = 1 WHERE seq = 1",
            "sessions, record 1",
        ),
        ("DELETE FROM usage_sessions WHERE seq = 2", "cut off"),
    ] {
        Daemon::with(alone(), |daemon| {
            let client = daemon.client();
            puppet::deploy(&client, "honest", json!({}))?;
            for name in ["first", "second"] {
                let id = session_name(name);
                puppet::run(&client, "honest", &id, "answer = 1")?;
                client.stop(&id)?;
                client.ended(&id, 20)?;
            }
            // In order: a checkpoint knows of both.
            ensure!(daemon.terminate()?.success());
            daemon.tamper(sql)?;
            daemon.restart()?;
            let (check, said) = verify(daemon)?;
            ensure!(!check.ok, "not seen: {sql}");
            ensure!(said.status.code() == Some(1), "{said:?}");
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            ensure!(text.contains(words), "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn usage_is_shown_in_tables_json_and_csv_and_bad_questions_are_refused() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "shown", json!({}))?;
        let id = session_name("shown");
        puppet::run(&client, "shown", &id, "answer = 1")?;
        client.stop(&id)?;
        client.ended(&id, 20)?;
        let run = |args: &[&str]| -> anyhow::Result<String> {
            let output = daemon.cli().arg("usage").args(args).output()?;
            ensure!(output.status.success(), "{output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let table = run(&[])?;
        ensure!(
            table.contains("RUNTIME") && table.contains("shown"),
            "{table}"
        );
        ensure!(table.contains("AT AWS USD"), "{table}");
        let json: Vec<UsageRecord> = serde_json::from_str(&run(&["--by", "user", "--json"])?)?;
        ensure!(
            json.first().is_some_and(|first| first.owner.is_some()),
            "{json:?}"
        );
        let csv = run(&["--by", "session", "--csv"])?;
        let lines: Vec<&str> = csv.lines().collect();
        ensure!(
            lines.len() == 2 && lines[0].starts_with("runtime,id,"),
            "{csv}"
        );
        ensure!(lines[1].starts_with("shown,"), "{csv}");
        ensure!(run(&["--until", "2020-01-01", "-q"])?.trim().is_empty());
        let today = run(&["--by", "day", "-q"])?;
        ensure!(run(&["--since", today.trim(), "-q"])?.trim() == "shown");
        for (query, field) in [
            ("by=week", "by"),
            ("since=yesterday", "since"),
            ("since=2026-02-30", "since"),
            ("since=2026-02-02&until=2026-02-01", "until"),
            ("userId=x", "userId"),
            ("by=user&runtime=shown", "runtime"),
            ("by=runtime&owner=local", "owner"),
            ("runtime=..", "runtime"),
        ] {
            let answer = client.send(e2e::http::Request::get(format!("/v1/usage?{query}")))?;
            e2e::client::expect_problem(answer, 400, field)?;
        }
        Ok(())
    })
}

#[test]
fn a_budget_that_is_used_up_freezes_tells_why_and_goes_on_when_approved() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed().config("[budgets]\nsession = { cpu_seconds = 1.5 }\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "spends", json!({}))?;
        let id = session_name("spends");
        puppet::run(&client, "spends", &id, "answer = 1")?;
        // It is in the middle of its work when its budget ends.
        let endless = puppet::payload(&burn(1000.0));
        let working = client.in_background("spends", &id, &endless);
        let frozen = |client: &Client| -> anyhow::Result<bool> {
            Ok(client.session(&id)?.phase == Phase::Frozen)
        };
        wait::until_true(20, "it to be frozen", || frozen(&client))?;
        let session = client.session(&id)?;
        let shim = session.pid.context("pid")?;
        let stood = counted(shim)?;
        let refused = |client: &Client| -> Result {
            let call = Client::invocation("spends", &id, &puppet::payload("answer = 1"));
            let answer = client.send(call)?;
            let name = "ServiceQuotaExceededException";
            e2e::client::expect_aws_error(answer, 402, name, "of the session, cpu_seconds")?;
            Ok(())
        };
        refused(&client)?;
        // A restart changes nothing.
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        wait::until_true(10, "it to be held again", || {
            Ok(!client
                .get::<Page<BudgetState>>("/v1/budgets")?
                .items
                .is_empty())
        })?;
        ensure!(frozen(&client)?, "it runs after the restart");
        refused(&client)?;
        ensure!(
            (counted(shim)? - stood).abs() < 0.05,
            "it used CPU time while it was frozen"
        );
        let run = |args: &[&str]| -> anyhow::Result<Output> {
            Ok(daemon.cli().arg("budget").args(args).output()?)
        };
        let listed = run(&["list", "-q"])?;
        let key = String::from_utf8(listed.stdout)?;
        ensure!(key.trim() == session.id.as_str(), "{key}");
        let wrong = run(&["approve", "runtime", "spends"])?;
        ensure!(wrong.status.code() == Some(4), "{wrong:?}");
        let approved = run(&["approve", "session", key.trim()])?;
        ensure!(approved.status.success(), "{approved:?}");
        // Whether its agent goes on with work whose caller is gone is the agent's affair.
        let more = client.in_background("spends", &id, &endless);
        wait::until_true(30, "it to have used what was approved", || {
            let all: Page<BudgetState> = client.get("/v1/budgets")?;
            Ok(all.items.iter().any(|each| each.approvals == 1) && frozen(&client)?)
        })?;
        // What it had overrun the first time counts.
        let ran = counted(shim)?;
        ensure!(
            ran > 1.95,
            "it ran for {ran} s, {stood} s of it before the approval"
        );
        // Or it ends.
        client.stop(&id)?;
        let ended = client.ended(session.id.as_str(), 20)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        for caller in [working, more] {
            // Both have lost their answer, with their daemon or with their session.
            drop(e2e::client::joined(caller));
        }
        Ok(())
    })
}

const USER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id";

fn calls(runtime: &str, id: &str, user: &str, code: &str) -> e2e::http::Request {
    Client::invocation(runtime, id, &puppet::payload(code)).header(USER, user)
}

/// Whether a budget holds the session, by its runtime; what callers are told of why.
fn held(client: &Client, runtime: &str, id: &str) -> anyhow::Result<Option<String>> {
    let sessions = client.live_sessions()?;
    let found = sessions
        .into_iter()
        .find(|one| one.runtime.as_str() == runtime && one.session_id.as_str() == id);
    // One that is not there yet is not held.
    Ok(found
        .and_then(|found| found.frozen)
        .filter(|frozen| frozen.causes.contains(&FreezeCause::Budget))
        .map(|frozen| frozen.reason.unwrap_or_default()))
}

#[test]
fn a_runtimes_own_budget_holds_all_its_sessions_and_nobody_elses() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        // One that is stopped runs on for its grace, and its agent takes no notice.
        let thrifty = json!({
            "budget": {"runtime": {"cpu_seconds": 1.5, "per": "month"}},
            "lifecycle": {"stop_grace": 1},
        });
        puppet::deploy(&client, "thrifty", thrifty)?;
        puppet::deploy(&client, "free", json!({}))?;
        let (spends, waits, others) = (
            session_name("spends"),
            session_name("waits"),
            session_name("others"),
        );
        puppet::run(&client, "thrifty", &waits, "answer = 1")?;
        puppet::run(&client, "free", &others, &burn(1.6))?;
        // It is in the middle of its work when its runtime's budget ends.
        let spending = client.in_background("thrifty", &spends, &puppet::payload(&burn(1000.0)));
        for id in [&spends, &waits] {
            let why = wait::until(20, "it to be held", || held(&client, "thrifty", id))?;
            ensure!(
                why.starts_with("of the runtime, cpu_seconds: ") && why.ends_with("of 1.5 a month"),
                "{why}"
            );
            let answer = client.send(Client::invocation("thrifty", id, &puppet::payload("")))?;
            let name = "ServiceQuotaExceededException";
            e2e::client::expect_aws_error(answer, 402, name, "of the runtime, cpu_seconds")?;
        }
        puppet::run(&client, "free", &others, "answer = 1")?;
        // Who has used it up is gone; what it used is not.
        let spender = client.session(&spends)?.id;
        client.stop(&spends)?;
        client.ended(spender.as_str(), 20)?;
        drop(e2e::client::joined(spending));
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        wait::until_true(20, "the daemon to have looked", || {
            Ok(!client
                .get::<Page<BudgetState>>("/v1/budgets")?
                .items
                .is_empty())
        })?;
        ensure!(held(&client, "thrifty", &waits)?.is_some(), "it runs");
        let listed = daemon.cli().args(["budget", "list", "--json"]).output()?;
        let listed: Vec<BudgetState> = serde_json::from_slice(&listed.stdout)?;
        let [one] = listed.as_slice() else {
            anyhow::bail!("{listed:?}")
        };
        ensure!(
            (one.scope.as_str(), one.key.as_str()) == ("runtime", "thrifty")
                && one
                    .runtime
                    .as_ref()
                    .is_some_and(|name| name.as_str() == "thrifty")
                && one.per == Some(Period::Month)
                && one.used >= 1.5,
            "{one:?}"
        );
        let approve = |more: &[&str]| -> anyhow::Result<Output> {
            let approve = ["budget", "approve", "runtime", "thrifty"];
            Ok(daemon.cli().args(approve).args(more).output()?)
        };
        let wrong = approve(&["--runtime", "free"])?;
        ensure!(wrong.status.code() == Some(4), "{wrong:?}");
        let approved = approve(&["--runtime", "thrifty"])?;
        ensure!(approved.status.success(), "{approved:?}");
        wait::until_true(20, "it to run again", || {
            // What was used beyond an approved amount counts.
            approve(&[])?;
            Ok(held(&client, "thrifty", &waits)?.is_none())
        })?;
        puppet::run(&client, "thrifty", &waits, "answer = 1")?;
        client.stop(&waits)?;
        client.stop(&others)?;
        Ok(())
    })
}

#[test]
fn a_users_budget_in_a_runtime_holds_that_users_sessions_there() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed().config("[budgets]\nuser = { cpu_seconds = 4.5 }\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let short = json!({"stop_grace": 1});
        let daily = json!({
            "budget": {"user": {"cpu_seconds": 1.5, "per": "day"}},
            "lifecycle": short,
        });
        puppet::deploy(&client, "daily", daily)?;
        puppet::deploy(&client, "open", json!({"lifecycle": short}))?;
        let [hers, more, his, there] = ["hers", "more", "his", "there"].map(session_name);
        let run = |runtime: &str, id: &str, user: &str, code: &str| -> Result {
            client.send(calls(runtime, id, user, code))?.expect(200)?;
            Ok(())
        };
        let refused = |runtime: &str, id: &str, why: &str| -> Result {
            let answer = client.send(calls(runtime, id, "alice", "answer = 1"))?;
            let name = "ServiceQuotaExceededException";
            e2e::client::expect_aws_error(answer, 402, name, why)?;
            Ok(())
        };
        run("daily", &more, "alice", "answer = 1")?;
        run("daily", &his, "bob", "answer = 1")?;
        run("open", &there, "alice", "answer = 1")?;
        let spends = |runtime: &str, id: &str| {
            let (client, call) = (client.clone(), calls(runtime, id, "alice", &burn(1000.0)));
            std::thread::spawn(move || client.send(call))
        };
        let in_daily = spends("daily", &hers);
        for id in [&hers, &more] {
            let why = wait::until(20, "it to be held", || held(&client, "daily", id))?;
            ensure!(
                why.starts_with("of the user in the runtime daily, cpu_seconds: "),
                "{why}"
            );
            refused("daily", id, "of the user in the runtime daily")?;
        }
        ensure!(held(&client, "daily", &his)?.is_none(), "his is held");
        run("daily", &his, "bob", "answer = 1")?;
        // Elsewhere the operator's own budget is what bounds her.
        let in_open = spends("open", &there);
        let why = wait::until(20, "it to be held", || held(&client, "open", &there))?;
        ensure!(why.starts_with("of the user, cpu_seconds: "), "{why}");
        refused("open", &there, "of the user, cpu_seconds")?;
        run("daily", &his, "bob", "answer = 1")?;
        // One approval of both that bound her there.
        let all: Page<BudgetState> = client.get("/v1/budgets")?;
        ensure!(
            all.items.len() == 2 && all.items.iter().all(|one| one.scope == "user"),
            "{all:?}"
        );
        let key = all.items.first().context("one")?.key.as_str();
        client.stop(&hers)?;
        client.stop(&there)?;
        for caller in [in_daily, in_open] {
            // Both have lost their answer with their session.
            drop(e2e::client::joined(caller));
        }
        let approve = || -> anyhow::Result<Output> {
            let approve = ["budget", "approve", "user", key];
            Ok(daemon.cli().args(approve).output()?)
        };
        let approved = approve()?;
        ensure!(approved.status.success(), "{approved:?}");
        wait::until_true(20, "her other session to run again", || {
            // What was used beyond an approved amount counts.
            approve()?;
            Ok(held(&client, "daily", &more)?.is_none())
        })?;
        run("daily", &more, "alice", "answer = 1")?;
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        Ok(())
    })
}

#[test]
fn a_bad_budget_is_refused_by_its_name() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let bundle = puppet::deploy(&client, "good", json!({}))?.artifact;
        for (budget, told) in [
            (json!({"session": {"cost": 0}}), "budget.session.cost"),
            (
                json!({"session": {"cost": 1, "per": "day"}}),
                "budget.session.per",
            ),
            (json!({"user": {"per": "month"}}), "budget.user.per"),
            (
                json!({"runtime": {"gb_seconds": -1}}),
                "budget.runtime.gb_seconds",
            ),
            (json!({"runtime": {"cost": 1, "per": "week"}}), "week"),
            (json!({"team": {"cost": 1}}), "team"),
        ] {
            let config = json!({"name": "bad", "entrypoint": "agent.py", "budget": budget});
            let body = json!({"artifact": bundle, "config": config});
            let request = e2e::http::Request::new("PUT", "/v1/runtimes/bad")
                .header("content-type", "application/json")
                .body(body.to_string());
            let answer = client.send(request)?;
            ensure!(answer.status == 400, "{budget}: {}", answer.status);
            let text = answer.text()?;
            ensure!(text.contains(told), "{budget}: {text}");
        }
        Ok(())
    })
}

/// Waits for the one record of a task, whose answer has so many bytes.
fn charged(client: &Client, task: &Task, bytes: u64) -> Result {
    let id = task.task_id.as_str();
    let records = wait::until(10, &format!("the record of {id}"), || {
        let page: Page<InvocationRecord> = client.get("/v1/usage/invocations?maxResults=1000")?;
        let mut items = page.items;
        items.retain(|record| record.task_id.as_deref() == Some(id));
        Ok((!items.is_empty()).then_some(items))
    })?;
    let [record] = records.as_slice() else {
        anyhow::bail!("{records:?}")
    };
    ensure!(
        record.bytes_out == bytes && record.bytes_in > 20,
        "{record:?}"
    );
    Ok(())
}

#[test]
fn a_task_is_charged_for_its_answer_also_when_another_daemon_takes_it() -> Result {
    ground!(Daemon, Python, Command("renice"));
    Daemon::with(Options::installed(), |daemon| {
        let client = daemon.client();
        task::deploy(&client, "works", json!({}))?;
        let here = task::submit(&client, "works", "", "answer = 'y' * 7000")?;
        // It answers when it is told to, which can be done from outside and be seen from inside.
        let waits = "while os.getpriority(os.PRIO_PROCESS, os.getpid()) != 7: time.sleep(0.02)\nanswer = 'z' * 9000";
        let there = task::submit(&client, "works", "", waits)?;
        task::reaches(&client, &here, TaskStatus::Succeeded)?;
        charged(&client, &here, 7002)?;
        let running = task::reaches(&client, &there, TaskStatus::Running)?;
        let session = client.session(running.session.context("a session")?.as_str())?;
        let shim = session.pid.context("pid")?;
        let agent = host::agent(shim).context("an agent")?;
        daemon.kill()?;
        daemon.restart()?;
        let reniced = Command::new("renice")
            .args(["-n", "7", "-p", &agent.to_string()])
            .output()?;
        ensure!(reniced.status.success(), "{reniced:?}");
        let client = daemon.client();
        task::reaches(&client, &there, TaskStatus::Succeeded)?;
        charged(&client, &there, 9002)?;
        for session in client.live_sessions()? {
            // That of a task that is over ends by itself, perhaps just now.
            let _ = client.stop(session.id.as_str());
        }
        Ok(())
    })
}
