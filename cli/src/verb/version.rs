//! `agentcore version`: of this command and of the daemon.

use super::Desk;
use crate::failure::Failure;
use proto::api::Info;
use serde_json::json;

/// Prints both; an unreachable daemon is a failure after the command's own version was printed.
pub(super) async fn run(desk: &Desk, client_only: bool) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let screen = &desk.screen;
    if client_only {
        return if screen.json {
            screen.document(&json!({ "client": { "version": own } }))
        } else if screen.quiet {
            screen.line(own)
        } else {
            screen.line(format!("agentcore {own}"))
        };
    }
    let info = desk.daemon.get::<Info>("/v1/info").await;
    if screen.json {
        screen.document(&json!({ "client": { "version": own }, "daemon": info.as_ref().ok() }))?;
    } else {
        screen.line(format!("agentcore  {own}"))?;
        if let Ok(info) = &info {
            screen.line(format!(
                "agentcored {} (instance {}, kernel {}, at {})",
                info.version,
                info.instance,
                info.kernel,
                desk.daemon.endpoint()
            ))?;
        }
    }
    Ok(info.map(|_| ())?)
}
