//! How long a session's first answer takes: request in to first byte out, a new session each time.

use super::direct::{self, Python};
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::{Effort, peers, wire};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::places;
use std::time::Duration;

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// Launches a session, stops it, and gives the time to the first byte of its first answer.
fn first_answer(subject: &Subject, runtime: &str) -> anyhow::Result<Duration> {
    let session = session_name(runtime);
    let request = wire::post(
        &format!("/runtimes/{runtime}/invocations"),
        &[(SESSION_HEADER, session.as_str())],
        BODY,
    );
    let took = wire::cold(&subject.unix(), &request)?;
    subject.client().stop(&session)?;
    Ok(took)
}

/// The `native` agent beside bubblewrap, runc and systemd-nspawn, which only run `true`.
pub(crate) fn native(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let mut runc = peers::Runc::prepare(subject.daemon().dir())?;
    let nspawn = peers::Nspawn::prepare(subject.daemon().dir())?;
    let mut samples = [(); 4].map(|()| Samples::default());
    for round in 0..effort.launches + WARM_UP {
        subject.rest()?;
        let times = [
            first_answer(subject, "native")?,
            peers::bwrap()?,
            runc.run()?,
            nspawn.run()?,
        ];
        if round < WARM_UP {
            continue;
        }
        for (samples, time) in samples.iter_mut().zip(times) {
            samples.push_ms(time);
        }
    }
    let [ours, bwrap, runc, nspawn] = samples;
    for (name, theirs, promise) in [
        (
            "bwrap --unshare-all … true",
            bwrap,
            Promise::RatioAtMost(1.2),
        ),
        ("runc run … true", runc, Promise::RatioAtMost(0.2)),
        ("systemd-nspawn … true", nspawn, Promise::Context),
    ] {
        table.add(Row {
            what: "launch, native agent".to_owned(),
            unit: "ms",
            ours: ours.clone(),
            peer: Some(Peer {
                name: name.to_owned(),
                samples: theirs,
            }),
            promise,
        });
    }
    Ok(())
}

/// Launches that only fill page caches and connection pools, ours and the peers'.
const WARM_UP: usize = 3;

/// As [`native`], by a daemon that prepares nothing: what a burst pays once it has used up the prepared launches.
pub(crate) fn exhausted(
    subject: &Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    let (mut ours, mut bwrap) = (Samples::default(), Samples::default());
    for round in 0..effort.launches / 2 + WARM_UP {
        let times = [first_answer(subject, "native")?, peers::bwrap()?];
        if round >= WARM_UP {
            ours.push_ms(times[0]);
            bwrap.push_ms(times[1]);
        }
    }
    table.add(Row {
        what: "launch, native agent, none prepared".to_owned(),
        unit: "ms",
        ours,
        peer: Some(Peer {
            name: "bwrap --unshare-all … true".to_owned(),
            samples: bwrap,
        }),
        promise: Promise::Context,
    });
    Ok(())
}

/// Python agents beside `/usr/bin/python3 my_agent.py` with the same files, both compiled ahead.
pub(crate) fn python(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let peers = subject.daemon().dir().join("peers");
    std::fs::create_dir_all(&peers)?;
    let builtin = peers.join("python");
    direct::copy_tree(&places::source().join("python"), &builtin)?;
    // A copy: what Python writes beside its modules must not reach the sessions' bundle.
    let vendored = peers.join("aws_sdk");
    direct::copy_tree(&subject.bundle("aws_sdk")?, &vendored)?;
    let cases = [
        (
            "launch, Python, built-in SDK",
            "echo",
            Python {
                folder: subject.folder("echo"),
                path: Some(builtin),
            },
        ),
        (
            "launch, Python, AWS SDK",
            "aws_sdk",
            Python {
                folder: vendored,
                path: None,
            },
        ),
    ];
    for (what, runtime, peer) in cases {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for round in 0..=effort.python_launches {
            subject.rest()?;
            let our_time = first_answer(subject, runtime)?;
            let their_time = peer.first_answer(&direct::request(&session_name("direct"), BODY))?;
            // The first round fills page caches, and compiles what the peer finds uncompiled.
            if round > 0 {
                ours.push_ms(our_time);
                theirs.push_ms(their_time);
            }
        }
        table.add(Row {
            what: what.to_owned(),
            unit: "ms",
            ours,
            peer: Some(Peer {
                name: "/usr/bin/python3 my_agent.py".to_owned(),
                samples: theirs,
            }),
            promise: Promise::RatioAtMost(1.3),
        });
    }
    Ok(())
}
