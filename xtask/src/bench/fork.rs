//! What a new session of a Python agent costs whose imports are done: its first answer where it is forked when it is asked for
//! ("nothing parked"), and where a fork waits already ("parked"), beside plain Python to its first answer and `bwrap --unshare-all
//! true`. And what such a session holds for itself, beside an interpreter of its own.

use super::direct::{self, Python};
use super::pool::{BODY, call};
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::{Effort, memory, peers};
use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::{host, places, wait};
use proto::api::{Origin, Phase, Session, TemplateState};

/// Rounds that only fill caches.
const WARM_UP: usize = 3;

/// How many wait where some do.
const PARKED: u32 = 4;

/// The configuration where a template is ready and nothing is parked.
pub(crate) const FORKED: &str = "[template]\nfork = \"auto\"";

/// The configuration where forks wait.
pub(crate) fn parked() -> String {
    format!("{FORKED}\n[pool]\nmin = {PARKED}\nmax = {PARKED}\n")
}

/// A runtime, and the same agent without us.
struct Case {
    runtime: &'static str,
    what: &'static str,
    direct: Python,
}

fn case(subject: &Subject, runtime: &'static str, what: &'static str) -> anyhow::Result<Case> {
    let peers = subject.daemon().dir().join("forked-peers");
    std::fs::create_dir_all(&peers)?;
    let copy = peers.join(runtime);
    let direct = if runtime == "echo" {
        direct::copy_once(&places::source().join("python"), &copy)?;
        Python {
            folder: subject.folder("echo"),
            path: Some(copy),
        }
    } else {
        // A copy: what Python writes beside its modules must not reach the sessions' bundle.
        direct::copy_once(&subject.bundle(runtime)?, &copy)?;
        Python {
            folder: copy,
            path: None,
        }
    };
    Ok(Case {
        runtime,
        what,
        direct,
    })
}

/// With [`FORKED`].
pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    for (runtime, what) in [("aws_sdk", "AWS SDK"), ("echo", "built-in SDK")] {
        let case = case(subject, runtime, what)?;
        ready(subject, runtime)?;
        let [ours, python, bwrap] = rounds(subject, &case, effort, Origin::Fork, || {
            ready(subject, runtime)
        })?;
        let (to_python, to_bwrap) = match runtime {
            "aws_sdk" => (Promise::RatioAtMost(1.0 / 20.0), Promise::Context),
            _ => (Promise::Context, Promise::RatioAtMost(2.0)),
        };
        let what = format!("new session, {what}, template ready, nothing parked");
        add(
            table,
            &what,
            &ours,
            "/usr/bin/python3 my_agent.py",
            python,
            to_python,
        );
        add(
            table,
            &what,
            &ours,
            "bwrap --unshare-all … true",
            bwrap,
            to_bwrap,
        );
    }
    let case = case(subject, "aws_sdk", "AWS SDK")?;
    private(subject, &case, effort, table)
}

/// With [`parked`].
pub(crate) fn measure_parked(
    subject: &Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    for (runtime, what) in [("aws_sdk", "AWS SDK"), ("echo", "built-in SDK")] {
        let case = case(subject, runtime, what)?;
        ready(subject, runtime)?;
        let [ours, python, bwrap] = rounds(subject, &case, effort, Origin::Pool, || {
            waits(subject, runtime)
        })?;
        let (median, tail) = match runtime {
            "aws_sdk" => (
                Promise::RatioAtMost(1.0 / 100.0),
                Promise::TailAtMost(1.0 / 20.0),
            ),
            _ => (Promise::Context, Promise::Context),
        };
        let what = format!("new session, {what}, forks parked");
        let python3 = "/usr/bin/python3 my_agent.py";
        add(table, &what, &ours, python3, python.clone(), median);
        if runtime == "aws_sdk" {
            add(
                table,
                "… its p99 to the peer's p50",
                &ours,
                python3,
                python,
                tail,
            );
        }
        add(
            table,
            &what,
            &ours,
            "bwrap --unshare-all … true",
            bwrap,
            Promise::Context,
        );
    }
    Ok(())
}

fn add(
    table: &mut Table,
    what: &str,
    ours: &Samples,
    name: &str,
    theirs: Samples,
    promise: Promise,
) {
    table.add(Row {
        what: what.to_owned(),
        unit: "ms",
        ours: ours.clone(),
        peer: Some(Peer {
            name: name.to_owned(),
            samples: theirs,
        }),
        promise,
    });
}

/// First answers of sessions that come to be that way, and of their peers in turn: ours, plain Python, bubblewrap.
fn rounds(
    subject: &Subject,
    case: &Case,
    effort: Effort,
    origin: Origin,
    mut prepared: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<[Samples; 3]> {
    let mut all = [(); 3].map(|()| Samples::default());
    for round in 0..effort.launches + WARM_UP {
        prepared()?;
        subject.rest()?;
        let session = session_name(case.runtime);
        let ours = call(subject, case.runtime, &session)?;
        let made = subject.client().session(&session)?;
        ensure!(made.origin == Some(origin), "not {origin:?}: {made:?}");
        let times = [
            ours,
            case.direct
                .first_answer(&direct::request(&session_name("direct"), BODY))?,
            peers::bwrap()?,
        ];
        subject.client().stop(&session)?;
        if round >= WARM_UP {
            for (samples, time) in all.iter_mut().zip(times) {
                samples.push_ms(time);
            }
        }
    }
    Ok(all)
}

/// Memory that nobody else has: of a forked session, its shim included, and of an interpreter of its own, each after its first
/// answer.
fn private(
    subject: &Subject,
    case: &Case,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..effort.python_launches {
        ready(subject, case.runtime)?;
        let session = session_name("private");
        call(subject, case.runtime, &session)?;
        let made = subject.client().session(&session)?;
        ensure!(made.origin == Some(Origin::Fork), "not forked: {made:?}");
        let shim = made.pid.context("no pid")?;
        let agent = host::agent(shim).context("no agent")?;
        ours.push(memory::private(agent)? + memory::private(shim)?);
        subject.client().stop(&session)?;
        let request = direct::request(&session_name("direct"), BODY);
        theirs.push(case.direct.after_first_answer(&request, memory::private)?);
    }
    table.add(Row {
        what: format!(
            "private memory of a forked session, {}, shim included",
            case.what
        ),
        unit: "MiB",
        ours,
        peer: Some(Peer {
            name: "/usr/bin/python3 my_agent.py".to_owned(),
            samples: theirs,
        }),
        promise: Promise::RatioAtMost(0.25),
    });
    Ok(())
}

/// Waits until new sessions of it are forked. The first one is started, and a template behind it.
pub(crate) fn ready(subject: &Subject, runtime: &str) -> anyhow::Result<()> {
    let state = || -> anyhow::Result<TemplateState> {
        let found = subject.client().runtime(runtime)?.template;
        let found = found.context("its sessions are not forked")?;
        ensure!(found.reason.is_none(), "it has no template: {found:?}");
        Ok(found.state)
    };
    if state()? != TemplateState::Ready {
        let session = session_name("first");
        call(subject, runtime, &session)?;
        subject.client().stop(&session)?;
    }
    wait::until_true(60, "the template", || Ok(state()? == TemplateState::Ready))
}

/// Waits until the pool is full of forks.
fn waits(subject: &Subject, runtime: &str) -> anyhow::Result<()> {
    let forked = |member: &Session| {
        let shim = member.pid.filter(|shim| host::agent(*shim).is_some());
        shim.is_some_and(|shim| host::children(shim).is_empty())
    };
    wait::until_true(60, "forks that wait", || {
        let client = subject.client();
        let pool = client.runtime(runtime)?.pool.context("no pool")?;
        if pool.ready != PARKED || pool.starting != 0 {
            return Ok(false);
        }
        let mut members = client.sessions(&format!("pool=true&live=true&runtime={runtime}"))?;
        members.retain(|one| one.origin == Some(Origin::Waiting) && one.phase == Phase::Ready);
        Ok(!members.is_empty() && members.iter().all(forked))
    })
}
