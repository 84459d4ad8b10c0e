//! What was asked and what came back, counted while it happens; [`super::balance`] looks at it afterwards.

use super::scene::{RUNTIMES, locked};
use proto::api::{Origin, Phase, Session};
use proto::ids::{RuntimeName, SessionId};
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
    /// Sessions that were seen while they lived, by our id: of which runtime, and how it came to be.
    sessions: BTreeMap<SessionId, (RuntimeName, Origin)>,
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

    /// Takes down how those came to be that have. The first word counts: to a later daemon whoever was claimed is cold.
    pub(super) fn saw(&self, sessions: Vec<Session>) {
        let mut pages = locked(&self.0);
        for session in sessions {
            if let (Phase::Ready | Phase::Busy, Some(origin)) = (session.phase, session.origin) {
                let came = (session.runtime, origin);
                pages.sessions.entry(session.id).or_insert(came);
            }
        }
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

    /// Sessions of a runtime that came to be so.
    pub(super) fn origins(&self, runtime: &str, origin: Origin) -> usize {
        let seen = self.sessions.values();
        seen.filter(|(of, so)| of.as_str() == runtime && *so == origin)
            .count()
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((operation, outcome), count) in &self.outcomes {
            writeln!(f, "  {operation:<8} {outcome:<40} {count:>8}")?;
        }
        writeln!(f, "sessions that were seen alive, by runtime and origin:")?;
        for runtime in &RUNTIMES {
            write!(f, "  {:<8}", runtime.name)?;
            for origin in [Origin::Cold, Origin::Pool, Origin::Fork] {
                let count = self.origins(runtime.name, origin);
                write!(f, " {count:>8} {}", format!("{origin:?}").to_lowercase())?;
            }
            writeln!(f)?;
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
