//! `agentcore budget list|approve`.

use super::Desk;
use crate::args::usage::BudgetVerb;
use crate::daemon::{empty, encode};
use crate::failure::Failure;
use crate::table::Table;
use hyper::Method;
use proto::api::BudgetState;
use proto::config::Period;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &BudgetVerb) -> Result<(), Failure> {
    match verb {
        BudgetVerb::List => list(desk).await,
        BudgetVerb::Approve {
            scope,
            key,
            runtime,
        } => approve(desk, scope, key, runtime.as_deref()).await,
    }
}

async fn list(desk: &Desk) -> Result<(), Failure> {
    let screen = &desk.screen;
    let budgets: Vec<BudgetState> = desk.daemon.list("/v1/budgets").await?;
    if screen.json {
        return screen.document(&budgets);
    }
    if screen.quiet {
        return budgets.iter().try_for_each(|each| screen.line(&each.key));
    }
    let mut table = Table::new([
        "SCOPE", "KEY", "SET BY", "USED UP", "USED", "LIMIT", "PER", "APPROVED",
    ]);
    for each in budgets {
        table.row([
            each.scope,
            each.key,
            match each.runtime {
                Some(runtime) => runtime.to_string(),
                None => "the daemon".to_owned(),
            },
            each.measure,
            format!("{:.3}", each.used),
            each.limit.to_string(),
            each.per.map_or("", Period::word).to_owned(),
            each.approvals.to_string(),
        ]);
    }
    screen.line(table.text())
}

async fn approve(
    desk: &Desk,
    scope: &str,
    key: &str,
    runtime: Option<&str>,
) -> Result<(), Failure> {
    let mut path = format!(
        "/v1/budgets/approve?scope={}&key={}",
        encode(scope),
        encode(key)
    );
    if let Some(runtime) = runtime {
        path.push_str("&runtime=");
        path.push_str(&encode(runtime));
    }
    let request = desk.daemon.request(Method::POST, &path, empty());
    desk.daemon.call(request).await?;
    Ok(())
}
