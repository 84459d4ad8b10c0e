//! What was asked and what came back, counted while it happens; [`super::balance`] looks at it afterwards.

use super::scene::locked;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// See the module.
#[derive(Default)]
pub(super) struct Books(Mutex<Pages>);

#[derive(Default)]
pub(super) struct Pages {
    /// (operation, what came of it) ▸ how often.
    pub(super) outcomes: BTreeMap<(&'static str, String), u64>,
    /// Tasks that were acknowledged.
    pub(super) tasks: Vec<Acknowledged>,
    /// What must not be.
    pub(super) wrong: Vec<String>,
}

/// A task that the daemon has promised to carry out.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) may_be_repeated: bool,
}

/// How many faults of a run are told in full.
const TOLD: usize = 40;

impl Books {
    pub(super) fn note(&self, operation: &'static str, outcome: impl Into<String>) {
        let mut pages = locked(&self.0);
        *pages
            .outcomes
            .entry((operation, outcome.into()))
            .or_default() += 1;
    }

    pub(super) fn acknowledged(&self, task: Acknowledged) {
        locked(&self.0).tasks.push(task);
    }

    /// Something that no fault excuses.
    pub(super) fn wrong(&self, what: String) {
        locked(&self.0).wrong.push(what);
    }

    pub(super) fn close(self) -> Pages {
        self.0
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Pages {
    /// Requests that were made.
    pub(super) fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((operation, outcome), count) in &self.outcomes {
            writeln!(f, "  {operation:<8} {outcome:<40} {count:>8}")?;
        }
        for wrong in self.wrong.iter().take(TOLD) {
            writeln!(f, "  WRONG: {wrong}")?;
        }
        if self.wrong.len() > TOLD {
            writeln!(f, "  … and {} more", self.wrong.len() - TOLD)?;
        }
        Ok(())
    }
}
