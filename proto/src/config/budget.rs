//! How much may be used before somebody has to say that it may go on: of a runtime's configuration, and of the daemon's.

use super::is_default;
use crate::object::object;
use serde::{Deserialize, Serialize};

/// Whose budgets there are.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Of each session, for its life.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub session: Budget,
    /// Of all sessions of a caller and its user; in a runtime's configuration, of those of the runtime.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub user: Budget,
    /// Of all sessions of a runtime.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub runtime: Budget,
}

/// Amounts; what is absent is not bounded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// CPU time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Memory over time, plainly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_seconds: Option<f64>,
    /// Time that sessions were there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<f64>,
    /// By the daemon's own prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The amounts are there anew with each; absent means once and for all. Not of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
}

/// After what a budget begins anew (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// Midnight.
    Day,
    /// Midnight before a month's first day.
    Month,
}

impl Period {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// The largest amount of a budget.
const MOST: f64 = 1e15;

impl Budget {
    /// Each amount with its name.
    #[must_use]
    pub fn amounts(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("cpu_seconds", self.cpu_seconds),
            ("gb_seconds", self.gb_seconds),
            ("wall_seconds", self.wall_seconds),
            ("cost", self.cost),
        ]
    }

    /// Whether it bounds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.amounts().iter().all(|(_, amount)| amount.is_none())
    }

    /// What is wrong with it, with the name of the amount. `lifelong`: it is a session's.
    #[must_use]
    pub fn faults(&self, lifelong: bool) -> Vec<(&'static str, String)> {
        let bad = |amount: &f64| !(*amount > 0.0 && *amount <= MOST);
        let amounts = self.amounts().into_iter();
        let mut faults: Vec<_> = amounts
            .filter(|(_, amount)| amount.as_ref().is_some_and(bad))
            .map(|(name, _)| (name, format!("must be above 0 and at most {MOST}")))
            .collect();
        if self.per.is_some() && lifelong {
            faults.push((
                "per",
                "is not for a session's, which is for its life".to_owned(),
            ));
        } else if self.per.is_some() && self.is_empty() {
            faults.push(("per", "is of no amount; give one beside it".to_owned()));
        }
        faults
    }
}
