//! What is warm: templates, what is forked from them, and pools, as the daemon tells of them and as a test prepares them.

use crate::client::Client;
use crate::http::Request;
use crate::{Daemon, Result, cgroup, chaos, host, puppet, wait};
use anyhow::{Context as _, ensure};
use nix::unistd::Pid;
use proto::api::{Origin, Phase, PoolState, Session, Template, TemplateState};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Forked for their callers, so without a pool, whose members come first.
#[must_use]
pub fn forking() -> Value {
    json!({"fork": "auto", "pool": {"max": 0}})
}

/// What a runtime says of its pool.
pub fn pool(client: &Client, runtime: &str) -> anyhow::Result<PoolState> {
    Ok(client.runtime(runtime)?.pool.unwrap_or_default())
}

/// What a runtime says of its template.
pub fn template(client: &Client, runtime: &str) -> anyhow::Result<Template> {
    let found = client.runtime(runtime)?.template;
    found.context("the runtime says nothing of a template")
}

/// Waits until new sessions can be forked.
pub fn forkable(client: &Client, runtime: &str) -> anyhow::Result<Template> {
    wait::until(60, &format!("a template of {runtime}"), || {
        let found = template(client, runtime)?;
        ensure!(
            found.reason.is_none() || found.state != TemplateState::None,
            "there will be none: {found:?}"
        );
        Ok((found.state == TemplateState::Ready).then_some(found))
    })
}

/// Deploys the puppet, has a first session of it, and waits for the template.
pub fn deploy(client: &Client, runtime: &str, more: Value) -> Result {
    load(client, runtime, puppet::SOURCE, more)
}

/// The same of a source that is the puppet's and something before it.
pub fn load(client: &Client, runtime: &str, source: &str, more: Value) -> Result {
    let mut config = forking();
    chaos::merge(&mut config, more);
    crate::deploy::python(client, runtime, source, config)?;
    let (id, session) = puppet::begin(client, runtime)?;
    ensure!(session.origin == Some(Origin::Cold), "{session:?}");
    forkable(client, runtime)?;
    client.stop(&id)?;
    Ok(())
}

/// Begins a session by a call, as [`puppet::begin`] does; it must be a fork.
pub fn forked(client: &Client, runtime: &str) -> anyhow::Result<(String, Session)> {
    let (id, session) = puppet::begin(client, runtime)?;
    ensure!(
        session.origin == Some(Origin::Fork),
        "not forked: {session:?}\n{}",
        client.logs(&id)?
    );
    Ok((id, session))
}

/// The sessions that are templates.
pub fn templates(client: &Client) -> anyhow::Result<Vec<Session>> {
    let mut all = client.sessions("pool=true&live=true")?;
    all.retain(|one| one.origin == Some(Origin::Template));
    Ok(all)
}

/// The one of this runtime that is ready.
pub fn the_template(client: &Client, runtime: &str) -> anyhow::Result<Session> {
    let mut all = templates(client)?;
    all.retain(|one| one.runtime.as_str() == runtime && one.phase == Phase::Ready);
    ensure!(all.len() == 1, "{all:?}");
    all.pop().context("one")
}

/// Waits until new sessions can be forked from another template than this one.
pub fn another(client: &Client, old: &Session) -> Result {
    wait::until_true(30, "another template", || {
        let ready = |one: &Session| one.id != old.id && one.phase == Phase::Ready;
        Ok(templates(client)?.iter().any(ready))
    })
}

/// The first child of a session's shim: its agent, or the interpreter of a template.
pub fn interpreter(of: &Session) -> anyhow::Result<Pid> {
    let shim = of.pid.context("no pid")?;
    let first = host::children(shim).into_iter().next();
    Ok(Pid::from_raw(first.context("no interpreter")?))
}

/// The daemon's names of sessions.
#[must_use]
pub fn ids(sessions: &[Session]) -> BTreeSet<String> {
    sessions.iter().map(|one| one.id.to_string()).collect()
}

/// Why sessions of a runtime are not forked is where people look: in its status, and among what the doctor finds.
pub fn said(daemon: &Daemon, runtime: &str, reason: &str) -> Result {
    for (words, line) in [
        (
            &["status", "-a", runtime][..],
            format!("new sessions are started, not forked: {reason}"),
        ),
        (&["doctor"], format!("{runtime}: {reason}")),
    ] {
        let out = daemon.cli().args(words).output()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.contains(&line), "{line} is not in\n{out}");
    }
    Ok(())
}

/// Deletes a runtime, and waits until it is gone.
pub fn delete(client: &Client, runtime: &str) -> Result {
    let request = Request::new("DELETE", format!("/v1/runtimes/{runtime}?wait=true"));
    client.send(request)?.expect(204)?;
    Ok(())
}

/// Waits until nothing but prepared launches is left of the daemon.
pub fn nothing_left(daemon: &Daemon) -> Result {
    wait::until_true(20, "every process to be gone", || {
        let members = cgroup::members_named(daemon.instance());
        Ok(members
            .iter()
            .all(|pid| host::title(*pid).contains("stager")))
    })
}
