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
        .chain([enter])
        .chain(plan.names_in_place());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{SessionSpec, compile};
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn names() -> Vec<&'static str> {
        let plan = compile(&SessionSpec {
            uid_base: 2_000_000_000,
            tmp_bytes: 64 << 20,
            nofile: 1024,
            nproc: 128,
            staging: PathBuf::from("/run/agentcore/staging"),
            storage: true,
            core_is_piped: false,
            filters: crate::seccomp::filters().expect("filters"),
            lineage: crate::plan::Lineage::Host,
        });
        let steps = all(&plan.expect("plan"));
        steps.into_iter().map(|(_, name)| name).collect()
    }

    /// The first string after each `mark` of a source.
    fn literals<'a>(source: &'a str, mark: &str) -> BTreeSet<&'a str> {
        source
            .split(mark)
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect()
    }

    #[test]
    fn every_step_of_the_sources_is_listed_once() {
        let names = names();
        let unique: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        let cgroup = literals(include_str!("cgroup/step.rs"), "=> \"");
        let stager = literals(include_str!("stager.rs"), "step(\"");
        assert!(cgroup.len() >= 8 && stager.len() >= 3);
        for name in cgroup.union(&stager) {
            assert!(unique.contains(name), "{name} is never made to fail");
        }
    }
}
