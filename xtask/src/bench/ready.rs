//! An invocation of a session that is ready, beside the same request through HAProxy to the same agent: one core for
//! client, daemon or proxy, shim and agent, one kept connection each.

use super::direct::Native;
use super::peers::Haproxy;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use super::{Effort, direct};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::host;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// This thread, and whatever it starts, on one processor until this is dropped.
struct Pinned {
    before: CpuSet,
    core: usize,
}

impl Pinned {
    fn to_last() -> anyhow::Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let core = (0..CpuSet::count())
            .rev()
            .find(|core| before.is_set(*core).unwrap_or(false))
            .context("no processor")?;
        let mut one = CpuSet::new();
        one.set(core)?;
        sched_setaffinity(this, &one)?;
        Ok(Self { before, core })
    }

    /// That a process is where we are, all its threads and descendants included.
    fn holds(&self, pid: i32) -> anyhow::Result<()> {
        for process in host::tree(pid) {
            for thread in host::tasks(process) {
                // It may have ended meanwhile.
                let Ok(status) = host::status(process, thread) else {
                    continue;
                };
                let allowed = status.get("Cpus_allowed_list").cloned().unwrap_or_default();
                ensure!(
                    allowed == self.core.to_string(),
                    "process {process} may run on {allowed}, not only on {}",
                    self.core
                );
            }
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was in force before, so it can be again.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

pub(crate) fn measure(
    subject: &mut Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    let pinned = Pinned::to_last()?;
    subject.restart("")?;
    let agent = Native::start()?;
    let proxy = Haproxy::start(subject.daemon().dir(), &agent.target)?;
    let session = session_name("ready");
    let through_us = wire::post(
        "/runtimes/native/invocations",
        &[(SESSION_HEADER, session.as_str())],
        BODY,
    );
    let plain = direct::request(&session, BODY);
    let mut ways = [
        (Wire::connect(&subject.tcp()?)?, &through_us),
        (Wire::connect(&proxy.target)?, &plain),
        (Wire::connect(&agent.target)?, &plain),
        (Wire::connect(&subject.unix())?, &through_us),
    ];
    let mut samples = [(); 4].map(|()| Samples::default());
    for (wire, request) in &mut ways {
        for _ in 0..effort.calls_per_block {
            wire.call(request)?;
        }
    }
    subject.rest()?;
    pinned.holds(subject.daemon().pid())?;
    for _ in 0..effort.blocks {
        for ((wire, request), samples) in ways.iter_mut().zip(&mut samples) {
            for _ in 0..effort.calls_per_block {
                samples.push_us(wire.call(request)?.whole);
            }
        }
    }
    let [ours, proxied, straight, over_unix] = samples;
    let name = "HAProxy to the same agent";
    let rows = [
        (
            "invocation of a ready session, over TCP",
            &ours,
            name,
            &proxied,
            Promise::RatioAtMost(3.0),
        ),
        (
            "… over the Unix socket",
            &over_unix,
            name,
            &proxied,
            Promise::Context,
        ),
        (
            "… over TCP",
            &ours,
            "the agent itself",
            &straight,
            Promise::Context,
        ),
    ];
    for (what, ours, name, theirs, promise) in rows {
        table.add(Row {
            what: what.to_owned(),
            unit: "µs",
            ours: ours.clone(),
            peer: Some(Peer {
                name: name.to_owned(),
                samples: theirs.clone(),
            }),
            promise,
        });
    }
    Ok(())
}
