//! Admission by pressure: new sessions wait, idle ones give way, and only then is anybody refused, with the name of what is
//! short and when to come again. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_aws_error, joined, session_name};
use e2e::http::{Request, Response};
use e2e::{Daemon, Options, Result, deploy, ground, puppet, wait};
use nix::sys::signal::Signal;
use proto::api::{EndReason, Phase, Session};
use serde_json::json;
use std::time::{Duration, Instant};

/// The answer refuses a new session for want of `limit`, and says when to come again.
fn refused(answer: Response, limit: &str) -> Result {
    ensure!(answer.status == 429, "{}", answer.text()?);
    let again: u64 = answer.header("retry-after").context("no time")?.parse()?;
    ensure!((1..=60).contains(&again), "{again}");
    expect_aws_error(answer, 429, "ThrottlingException", limit)?;
    Ok(())
}

fn call(session: &str, code: &str) -> Request {
    Client::invocation("one", session, &puppet::payload(code))
}

fn begin(client: &Client, session: &str) -> anyhow::Result<Session> {
    client.start("one", session, &puppet::payload("answer = 1"))
}

/// A call that takes some seconds.
fn busy(
    client: &Client,
    session: &str,
) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<Response>>> {
    let code = puppet::payload("import time; time.sleep(6); answer = 1");
    let call = client.in_background("one", session, &code);
    wait::until_true(20, "the session to be busy", || {
        let live = client.live_sessions()?;
        Ok(live
            .iter()
            .any(|one| one.session_id.as_str() == session && one.in_flight == 1))
    })?;
    Ok(call)
}

#[test]
fn the_longest_idle_gives_its_place_and_those_that_work_keep_theirs() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config(
        "[limits]\nmax_sessions = 3\nadmission_wait = 4\n[admission]\nevict_after = 1\n[defaults]\nfreeze_after = 0",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "one", json!({}))?;
        let [older, younger, works, fourth, fifth] =
            ["older", "younger", "works", "fourth", "fifth"].map(session_name);
        begin(&client, &older)?;
        begin(&client, &younger)?;
        let call_of_works = busy(&client, &works)?;
        // Not yet idle for long enough, then the oldest one goes.
        client.send(call(&fourth, "answer = 1"))?.expect(200)?;
        let gone = client.ended(&older, 10)?;
        ensure!(
            gone.end_reason == Some(EndReason::Evicted)
                && gone.end_detail.is_some_and(|text| text.contains("idle")),
            "{:?}",
            gone.end_reason
        );
        ensure!(client.session(&younger)?.phase == Phase::Ready);
        joined(call_of_works)?.expect(200)?;
        // All of them work: waiting comes before refusing.
        let calls = [&younger, &works, &fourth].map(|session| busy(&client, session));
        let patience = Instant::now();
        refused(
            client.send(call(&fifth, "answer = 1"))?,
            "limits.max_sessions",
        )?;
        ensure!(
            patience.elapsed() > Duration::from_secs(3),
            "{:?}",
            patience.elapsed()
        );
        for call in calls {
            joined(call?)?.expect(200)?;
        }
        client.send(call(&fifth, "answer = 1"))?.expect(200)?;
        Ok(())
    })
}

#[test]
fn frozen_sessions_go_first_and_held_ones_never() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config(
        "[limits]\nmax_sessions = 3\nadmission_wait = 3\n[admission]\nevict_after = 1\n[defaults]\nfreeze_after = 1",
    );
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "one", json!({"lifecycle": {"freeze_after": 0}}))?;
        puppet::deploy(&client, "sleeps", json!({}))?;
        let [held, idle, asleep, new] = ["held", "idle", "asleep", "new"].map(session_name);
        begin(&client, &held)?;
        let freeze = |id: &str| client.send(Request::post(format!("/v1/sessions/{id}/freeze"), ""));
        freeze(&held)?.expect(200)?;
        begin(&client, &idle)?;
        client.start("sleeps", &asleep, &puppet::payload("answer = 1"))?;
        wait::until_true(20, "it to be frozen", || {
            Ok(client.session(&asleep)?.phase == Phase::Frozen)
        })?;
        // It is idle for a shorter time than the other one.
        client.send(call(&new, "answer = 1"))?.expect(200)?;
        let gone = client.ended(&asleep, 10)?;
        ensure!(gone.end_reason == Some(EndReason::Evicted), "{gone:?}");
        ensure!(client.session(&idle)?.phase == Phase::Ready);
        // The others are held, by an operator, and stay.
        for id in [&idle, &new] {
            freeze(id)?.expect(200)?;
        }
        let more = session_name("more");
        refused(
            client.send(call(&more, "answer = 1"))?,
            "limits.max_sessions",
        )?;
        ensure!(client.live_sessions()?.len() == 3);
        Ok(())
    })
}

#[test]
fn memory_is_promised_so_often_and_frozen_sessions_count_what_they_hold() -> Result {
    ground!(Daemon, Python);
    // Room for two and a half of 512 MiB.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = 2.5 * f64::from(512 << 20) / e2e::host::memory()? as f64;
    let options = Options::quick().config(&format!(
        "[limits]\nadmission_wait = 2\n[admission]\nevict_after = 600\nmemory_ratio = {ratio}\n[defaults]\nfreeze_after = 0",
    ));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "one", json!({"resources": {"memory": "512M"}}))?;
        puppet::deploy(&client, "large", json!({"resources": {"memory": "2G"}}))?;
        let [first, second, third] = ["first", "second", "third"].map(session_name);
        begin(&client, &first)?;
        begin(&client, &second)?;
        let answer = client.send(call(&third, "answer = 1"))?;
        refused(answer, "admission.memory_ratio")?;
        // Frozen, one holds some ten megabytes. (That is read once a second.)
        let freeze = Request::post(format!("/v1/sessions/{first}/freeze"), "");
        client.send(freeze)?.expect(200)?;
        client.send(call(&third, "answer = 1"))?.expect(200)?;
        // What could never be is refused at once.
        let patience = Instant::now();
        let large = Client::invocation("large", &session_name("large"), &puppet::payload(""));
        refused(client.send(large)?, "admission.memory_ratio")?;
        ensure!(patience.elapsed() < Duration::from_secs(1));
        Ok(())
    })
}

#[test]
fn memory_that_the_host_lacks_is_waited_for() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick()
        .config("[limits]\nadmission_wait = 1\n[admission]\nmemory_reserve = \"60T\"\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        // Its bundle is looked at in no session.
        puppet::deploy(&client, "one", json!({}))?;
        let id = session_name("waits");
        let answer = client.send(call(&id, "answer = 1"))?;
        refused(answer, "admission.memory_reserve")?;
        let metrics = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
        ensure!(
            metrics
                .lines()
                .any(|line| line.starts_with("agentcore_admission_total")
                    && line.contains("\"memory\"")),
            "{metrics}"
        );
        // The operator thinks better of it.
        let file = daemon.dir().join("agentcored.toml");
        let text = std::fs::read_to_string(&file)?.replace("60T", "1M");
        std::fs::write(&file, text)?;
        daemon.signal(Signal::SIGHUP)?;
        let answer = wait::until(10, "the new value to be in force", || {
            let answer = client.send(call(&id, "answer = 1"))?;
            Ok((answer.status == 200).then_some(answer))
        })?;
        answer.expect(200)?;
        Ok(())
    })
}

#[test]
fn sessions_that_wait_for_processors_keep_new_ones_out() -> Result {
    ground!(Daemon, Python);
    if !std::path::Path::new("/proc/pressure/cpu").exists() {
        println!("skipped: this kernel has no PSI");
        return Ok(());
    }
    let options =
        Options::quick().config("[limits]\nadmission_wait = 1\n[admission]\ncpu_pressure = 5\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "one", json!({"resources": {"cpus": 0.5}}))?;
        let id = session_name("spins");
        begin(&client, &id)?;
        // More threads than it has processor for: some of them wait all the time.
        let spin = "import subprocess, sys\n\
            code = 'import time\\nend = time.monotonic() + 40\\nwhile time.monotonic() < end: pass'\n\
            kept['all'] = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(4)]\n\
            answer = 1";
        client.send(call(&id, spin))?.expect(200)?;
        let answer = wait::until(30, "pressure", || {
            let new = session_name("new");
            let answer = client.send(call(&new, "answer = 1"))?;
            if answer.status == 200 {
                client.stop(&new)?;
                return Ok(None);
            }
            Ok(Some(answer))
        })?;
        refused(answer, "admission.cpu_pressure")?;
        // Whoever is there goes on.
        let stop = "[one.kill() for one in kept['all']]; answer = 1";
        client.send(call(&id, stop))?.expect(200)?;
        wait::until_true(60, "pressure to pass", || {
            let answer = client.send(call(&session_name("new"), "answer = 1"))?;
            Ok(answer.status == 200)
        })
    })
}

/// How many callers come at once (`AGENTCORE_CROWD`), for places for a fifth of them.
fn crowd() -> usize {
    let asked = std::env::var("AGENTCORE_CROWD").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn a_crowd_is_served_or_told_when_to_come_again_and_nothing_else() -> Result {
    ground!(Daemon);
    let callers = crowd();
    let places = callers / 5;
    let options = Options::default().config(&format!(
        "[limits]\nmax_sessions = {places}\nadmission_wait = 5\nmax_connections_per_user = 4096\nnew_session_rate = 0\n\
         [admission]\nevict_after = 2\nmemory_ratio = 0\n",
    ));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        deploy::native(&client)?;
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let began = Instant::now();
        let calls: Vec<_> = (0..callers)
            .map(|_| {
                let client = daemon.client();
                std::thread::spawn(move || -> anyhow::Result<(u16, Option<String>, String)> {
                    let id = session_name("crowd");
                    let answer = client.send(Client::invocation(
                        "native",
                        &id,
                        &json!({"prompt": "hello"}),
                    ))?;
                    let again = answer.header("retry-after").map(str::to_owned);
                    Ok((answer.status, again, answer.text()?))
                })
            })
            .collect();
        // Meanwhile the daemon, and the host, answer everybody else.
        let (probe, over) = (daemon.client(), std::sync::Arc::clone(&done));
        let watch = std::thread::spawn(move || -> anyhow::Result<Duration> {
            let mut slowest = Duration::ZERO;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let asked = Instant::now();
                probe.send(Request::get("/healthz"))?.expect(200)?;
                std::process::Command::new("true").status()?;
                slowest = slowest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(slowest)
        });
        let (mut served, mut sent_away) = (0, 0);
        for call in calls {
            match joined(call)? {
                (200, _, _) => served += 1,
                (429, Some(again), text) => {
                    let again: u64 = again.parse()?;
                    ensure!(
                        (1..=60).contains(&again) && text.contains("limits.max_sessions"),
                        "{text}"
                    );
                    sent_away += 1;
                }
                (status, _, text) => anyhow::bail!("{status}: {text}"),
            }
        }
        let took = began.elapsed();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let slowest = joined(watch)?;
        println!(
            "{callers} callers, {places} places: {served} served, {sent_away} to come again, in {took:?}; \
             /healthz and a process beside them took {slowest:?} at most"
        );
        ensure!(served >= places && served + sent_away == callers);
        ensure!(slowest < wait::seconds(3), "{slowest:?}");
        // And nothing of it is left in the way of the next one.
        let next = wait::until(30, "the next caller to be served", || {
            let id = session_name("after");
            let answer = client.send(Client::invocation("native", &id, &json!({})))?;
            Ok((answer.status == 200).then_some(answer))
        })?;
        next.expect(200)?;
        Ok(())
    })
}
