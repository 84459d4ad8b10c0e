//! `agentcore destroy`: the runtime of this folder (or the named one), gone.

use super::Desk;
use crate::args::Destroy;
use crate::failure::Failure;
use crate::target;

/// Deletes after asking. The folder itself is not touched.
pub(super) async fn run(desk: &Desk, args: &Destroy) -> Result<(), Failure> {
    let name = target::runtime(&desk.daemon, args.target.agent.as_deref()).await?;
    super::runtime::delete(desk, &name, args.yes).await
}
