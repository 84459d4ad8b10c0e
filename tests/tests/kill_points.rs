//! Broker, launcher or both are killed at random points, under load: the same agents afterwards, an answer or an error for every
//! caller, every acknowledged task once, nothing left. Tier: chaos and load.
//!
//! `AGENTCORE_KILL_POINTS` is how many (10), `AGENTCORE_SEED` what they are drawn from (printed; the time by default).

use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, host, puppet, task, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{Phase, Session, Task, TaskStatus};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sessions that are called all the time, that are Busy with work of their own, and that are frozen.
const CALLED: usize = 4;
const BUSY: usize = 2;
const FROZEN: usize = 2;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// xorshift64*: the same seed, the same draws.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

/// What callers have got.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    answers: AtomicU64,
    errors: AtomicU64,
    /// Answers that were wrong: there must be none.
    wrong: AtomicU64,
}

/// Calls one session again and again, in turns plainly and as a stream, until it is told to stop.
fn caller(client: Client, id: String, tally: Arc<Tally>) {
    let stream = "import time\ndef events():\n    for n in range(20):\n        yield {'n': n}\n        time.sleep(0.01)\nanswer = events()";
    let mut turn = 0_u64;
    while !tally.stop.load(Ordering::Relaxed) {
        turn += 1;
        let streams = turn.is_multiple_of(3);
        let code = if streams {
            stream.to_owned()
        } else {
            format!("answer = {turn}")
        };
        let answer = client
            .send(Client::invocation("agent", &id, &puppet::payload(&code)))
            .and_then(|answer| answer.expect(200)?.text());
        match answer {
            Ok(text) => {
                // What looks complete is.
                let right = if streams {
                    (0..20).all(|n| text.contains(&format!("\"n\": {n}")))
                } else {
                    text.trim() == turn.to_string()
                };
                let counter = if right { &tally.answers } else { &tally.wrong };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                tally.errors.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn processes(session: &Session) -> anyhow::Result<Vec<(i32, Option<u64>)>> {
    let shim = session.pid.context("no pid")?;
    let mut all: Vec<_> = host::processes(shim)
        .into_iter()
        .map(|pid| (pid, host::start_time(pid)))
        .collect();
    all.sort_unstable();
    ensure!(all.len() >= 2, "shim and agent: {all:?}");
    Ok(all)
}

/// Tasks of one point, with what they answer: one in the session that outlives every blow, two in sessions of their own.
fn submit(client: &Client, worker: &str, first: u64) -> anyhow::Result<Vec<(Task, u64)>> {
    let mut tasks = Vec::new();
    for number in first..first + 3 {
        // The agent counts its runs in its memory.
        let code = format!(
            "import time\nran = kept.setdefault('ran', [])\nran.append({number})\ntime.sleep(0.2)\nanswer = {number}"
        );
        let body = puppet::payload(&code).to_string();
        let mut submit = Request::post("/v1/runtimes/agent/tasks", body)
            .header("content-type", "application/json");
        if number == first {
            submit = submit.header(SESSION_HEADER, worker);
        }
        tasks.push((client.send(submit)?.expect(202)?.json()?, number));
    }
    Ok(tasks)
}

/// Every task has its one outcome. A task whose session lived on has succeeded, in one attempt and with one run of its agent,
/// unless no agent has got a byte of it: between RUNNING on disk and the order to the shim nobody knows, and it is LOST.
fn outcomes(client: &Client, worker: &str, tasks: &[(Task, u64)]) -> Result {
    let (mut here, mut lost) = (BTreeMap::new(), 0);
    for (submitted, number) in tasks {
        let done = wait::until(60, "its outcome", || {
            let now = task::get(client, submitted)?;
            Ok(now.status.is_final().then_some(now))
        })?;
        ensure!(done.attempts == 1, "{done:?}");
        match done.status {
            TaskStatus::Succeeded => {
                let answer = task::result(client, submitted)?;
                ensure!(answer == json!(number), "{answer} of {done:?}");
            }
            TaskStatus::Lost => {
                eprintln!("lost: {done:?}");
                lost += 1;
            }
            _ => ensure!(false, "{done:?}"),
        }
        if done.session_id.as_str() == worker {
            here.insert(*number, done.status);
        }
    }
    let ran = puppet::run(client, "agent", worker, "answer = kept.get('ran', [])")?;
    let ran: Vec<u64> = serde_json::from_value(ran)?;
    for (number, status) in &here {
        let times = ran.iter().filter(|ran| *ran == number).count();
        let promised = usize::from(*status == TaskStatus::Succeeded);
        ensure!(
            times == promised,
            "{number} is {status:?} and ran {times} times"
        );
    }
    eprintln!(
        "{} tasks, {} of them in one session, {lost} lost",
        tasks.len(),
        here.len()
    );
    // A blow hits that gap hardly ever.
    ensure!(
        lost <= 1 + tasks.len() / 50,
        "{lost} of {} were lost",
        tasks.len()
    );
    Ok(())
}

/// Kills broker, launcher or both, and starts the daemon again.
fn strike(daemon: &mut Daemon, who: u64) -> Result {
    match who {
        0 => daemon.kill()?,
        1 => {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            // The broker sees it and ends: the service manager starts both anew.
            daemon.exited(20)?;
        }
        _ => {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            // It may have noticed and gone already.
            daemon.kill().or_else(|_| daemon.exited(20).map(|_| ()))?;
        }
    }
    daemon.restart()
}

#[test]
fn sessions_and_callers_at_random_kill_points() -> Result {
    ground!(Daemon, Python);
    let points = from_env("AGENTCORE_KILL_POINTS").unwrap_or(10);
    let seed = from_env("AGENTCORE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    eprintln!("seed {seed}, {points} kill points (AGENTCORE_SEED, AGENTCORE_KILL_POINTS)");
    let options = Options {
        dev: false,
        end_sessions: false,
        ..Options::default()
    };
    Daemon::with(options, |daemon| {
        let mut random = Random(seed.max(1));
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({"resources": {"memory": "128M"}}))?;
        let names = |kind: &str, count: usize| -> Vec<String> {
            (0..count).map(|_| session_name(kind)).collect()
        };
        let (called, busy, frozen) = (
            names("called", CALLED),
            names("busy", BUSY),
            names("frozen", FROZEN),
        );
        let worker = session_name("worker");
        for id in called.iter().chain(&frozen).chain([&worker]) {
            puppet::run(&client, "agent", id, "answer = 1")?;
        }
        for id in &busy {
            puppet::run(&client, "agent", id, "app.add_async_task('long')")?;
            wait::until_true(10, "HealthyBusy", || {
                Ok(client.session(id)?.phase == Phase::Busy)
            })?;
        }
        for id in &frozen {
            let path = format!("/v1/sessions/{id}/freeze");
            client.send(Request::post(path, ""))?.expect(200)?;
        }
        let all = called.iter().chain(&busy).chain(&frozen).chain([&worker]);
        let all: Vec<&String> = all.collect();
        let mut before = BTreeMap::new();
        for id in &all {
            before.insert((*id).clone(), processes(&client.session(id)?)?);
        }
        let tally = Arc::new(Tally::default());
        let callers: Vec<_> = called
            .iter()
            .map(|id| {
                let (client, id, tally) = (client.clone(), id.clone(), Arc::clone(&tally));
                thread::spawn(move || caller(client, id, tally))
            })
            .collect();
        let mut tasks = Vec::new();
        let outcome = (0..points).try_for_each(|point| -> Result {
            // Acknowledged just before the blow, or not acknowledged at all.
            tasks.extend(submit(&client, &worker, 3 * point)?);
            thread::sleep(Duration::from_millis(random.below(600)));
            let who = random.below(3);
            let answered = tally.answers.load(Ordering::Relaxed);
            strike(daemon, who).with_context(|| format!("point {point}, {who} struck"))?;
            for id in &all {
                let now = client.session(id)?;
                ensure!(
                    processes(&now)? == before[*id],
                    "point {point}: the processes of {id} are others: {now:?}"
                );
            }
            for id in &frozen {
                let now = client.session(id)?;
                ensure!(now.phase == Phase::Frozen, "point {point}: {now:?}");
            }
            for id in &busy {
                let now = client.session(id)?;
                ensure!(now.phase == Phase::Busy, "point {point}: {now:?}");
            }
            wait::until_true(20, "callers to be answered again", || {
                Ok(tally.answers.load(Ordering::Relaxed) > answered + 5)
            })
        });
        tally.stop.store(true, Ordering::Relaxed);
        for caller in callers {
            // One that hangs is ended by the runner, which says so.
            ensure!(caller.join().is_ok(), "a caller panicked");
        }
        outcome?;
        eprintln!("{tally:?}");
        ensure!(tally.wrong.load(Ordering::Relaxed) == 0, "{tally:?}");
        outcomes(&client, &worker, &tasks)?;
        // Those that were made for a task have ended with it, whichever daemon that was.
        wait::until_true(60, "sessions of tasks to end", || {
            Ok(client.live_sessions()?.len() == all.len())
        })?;
        for id in &frozen {
            let path = format!("/v1/sessions/{id}/thaw");
            client.send(Request::post(path, ""))?.expect(200)?;
        }
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        Ok(())
    })
}
