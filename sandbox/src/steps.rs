//! Every named step between nothing and a running agent, in order: what `agentcored --print-plan` prints, and what the
//! fail-closed suite makes fail one by one. A step that is not listed here is one that no test makes fail, so whoever adds
//! a `strike` adds its name to the table that is read here.

use crate::plan::Plan;
use crate::{agent, cgroup, stager};

/// When a step is taken, which says how its failure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Ahead of the order: the place that a launch finds prepared, or makes itself.
    Place,
    /// With the order: it fails the launch.
    Launch,
    /// By the shim, once the session is launched: it fails the start of the agent.
    Agent,
}

impl Part {
    /// Stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Launch => "launch",
            Self::Agent => "agent",
        }
    }
}

/// All of them.
#[must_use]
pub fn all(plan: &Plan) -> Vec<(Part, &'static str)> {
    let [create, enter] = cgroup::Step::PLACE.map(cgroup::Step::name);
    let place = std::iter::once(create)
        .chain(plan.names_ahead())
        .chain([enter]);
    let limits = cgroup::Step::LAUNCH.map(cgroup::Step::name);
    let launch = limits
        .into_iter()
        .chain(plan.names_with_order())
        .chain(stager::STEPS);
    let of = |part| move |name| (part, name);
    place
        .map(of(Part::Place))
        .chain(launch.map(of(Part::Launch)))
        .chain(agent::STAGES.map(of(Part::Agent)))
        .collect()
}
