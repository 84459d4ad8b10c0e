//! `agentcore status`: the runtime, its version, its sessions, and how to call it.

use super::Desk;
use crate::args::Target;
use crate::daemon::encode;
use crate::failure::Failure;
use crate::target;
use proto::api::{Info, Phase, PoolState, Runtime};
use serde_json::json;

/// Shows one runtime; without a name and with several to choose from, the list of them.
pub(super) async fn run(desk: &Desk, args: &Target) -> Result<(), Failure> {
    let (screen, daemon) = (&desk.screen, &desk.daemon);
    let name = target::runtime(daemon, args.agent.as_deref()).await?;
    let name = target::plain_name(&name);
    let runtime: Runtime = daemon
        .get(&format!("/v1/runtimes/{}", encode(name)))
        .await?;
    let sessions = target::sessions(daemon, Some(name)).await?;
    let live: Vec<_> = sessions
        .into_iter()
        .filter(|session| !matches!(session.phase, Phase::Ended | Phase::Failed))
        .collect();
    if screen.json {
        return screen.document(&json!({ "runtime": runtime, "sessions": live }));
    }
    if screen.quiet {
        return screen.line(runtime.name.as_str());
    }
    let info: Info = daemon.get("/v1/info").await?;
    let lines = [
        ("Runtime", runtime.name.to_string()),
        ("ARN", runtime.arn.clone()),
        ("Status", runtime.status.clone()),
        (
            "Version",
            format!("{} ({})", runtime.version, runtime.updated_at),
        ),
        ("Entrypoint", runtime.config.entrypoint.words().join(" ")),
        ("Sessions", live.len().to_string()),
    ];
    let pool = runtime.pool.as_ref().map(|pool| ("Pool", pooled(pool)));
    for (label, value) in lines.into_iter().chain(pool) {
        screen.line(format!("{label:<11} {value}"))?;
    }
    if !live.is_empty() {
        screen.line("")?;
        screen.line(super::session::table(&live))?;
    }
    screen.line("")?;
    screen.line(super::launch::how_to_call(desk, &info, &runtime))
}

/// What waits, and what it was good for.
fn pooled(pool: &PoolState) -> String {
    let mut text = format!("{} of {} ready", pool.ready, pool.target);
    if pool.starting > 0 {
        text.push_str(&format!(", {} starting", pool.starting));
    }
    let wanted = pool.hits + pool.misses;
    if wanted > 0 {
        let hits = pool.hits;
        text.push_str(&format!("; {hits} of {wanted} new sessions came from it"));
    }
    if let Some(failure) = &pool.failure {
        text.push_str(&format!("; the last one ended by itself: {failure}"));
    }
    text
}
