//! `agentcore budget list|approve`.

use super::Desk;
use crate::args::usage::BudgetVerb;
use crate::daemon::{empty, encode};
use crate::failure::Failure;
use crate::table::Table;
use hyper::Method;
use proto::api::BudgetState;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &BudgetVerb) -> Result<(), Failure> {
    match verb {
        BudgetVerb::List => list(desk).await,
        BudgetVerb::Approve { scope, key } => approve(desk, scope, key).await,
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
    let mut table = Table::new(["SCOPE", "KEY", "USED UP", "USED", "LIMIT", "APPROVED"]);
    for each in budgets {
        table.row([
            each.scope,
            each.key,
            each.measure,
            format!("{:.3}", each.used),
            each.limit.to_string(),
            each.approvals.to_string(),
        ]);
    }
    screen.line(table.text())
}

async fn approve(desk: &Desk, scope: &str, key: &str) -> Result<(), Failure> {
    let path = format!(
        "/v1/budgets/approve?scope={}&key={}",
        encode(scope),
        encode(key)
    );
    let request = desk.daemon.request(Method::POST, &path, empty());
    desk.daemon.call(request).await?;
    Ok(())
}
