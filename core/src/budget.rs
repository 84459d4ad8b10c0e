//! How much may be used before somebody has to say that it may go on.
//!
//! A budget has an amount for each of what it bounds. When one is used up its sessions freeze; each approval adds the same amount
//! once more. With a period, what was used before it and the approvals of earlier ones do not count. Whether it is reached depends
//! on nothing but what was used and how often it was approved, so it is asked anew every second and after every restart.

use crate::meter::Totals;
use crate::prices::{Prices, number};
use proto::config::{Budget, Period};
use std::fmt;

/// What is used up.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// `cpu_seconds`, `gb_seconds`, `wall_seconds` or `cost`.
    pub measure: &'static str,
    /// How much there was, approvals included.
    pub limit: f64,
    /// How much was used.
    pub used: f64,
    /// In which time.
    pub per: Option<Period>,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            measure,
            limit,
            used,
            per,
        } = self;
        write!(f, "{measure}: {used:.3} used of {limit}")?;
        match per {
            Some(Period::Day) => f.write_str(" a day"),
            Some(Period::Month) => f.write_str(" a month"),
            None => Ok(()),
        }
    }
}

/// What of a budget is used up first, if anything is, after so many approvals.
#[must_use]
pub fn reached(budget: &Budget, approvals: u32, used: &Totals, prices: &Prices) -> Option<Reached> {
    let used = [
        number(used.cpu_us) / 1e6,
        number(used.memory_kbs) / 1e6,
        number(used.wall_ms) / 1e3,
        prices.cost(used),
    ];
    let times = f64::from(approvals) + 1.0;
    let mut all = budget.amounts().into_iter().zip(used);
    all.find_map(|((measure, amount), used)| {
        let limit = amount? * times;
        (used >= limit).then_some(Reached {
            measure,
            limit,
            used,
            per: budget.per,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_approval_adds_the_same_again() {
        let prices = Prices {
            currency: "USD".to_owned(),
            cpu_hour: 3600.0,
            memory_gb_hour: 0.0,
            million_invocations: 0.0,
            aws_cpu_hour: 0.0,
            aws_memory_gb_hour: 0.0,
        };
        let budget = Budget {
            cpu_seconds: Some(2.0),
            cost: Some(10.0),
            ..Budget::default()
        };
        let cpu = |seconds: u64| Totals {
            cpu_us: seconds * 1_000_000,
            ..Totals::default()
        };
        let of =
            |budget: &Budget, approvals, used: &Totals| reached(budget, approvals, used, &prices);
        let reached = |approvals, used: &Totals| of(&budget, approvals, used);
        assert_eq!(reached(0, &cpu(1)), None);
        assert_eq!(
            reached(0, &cpu(2)).map(|reached| reached.to_string()),
            Some("cpu_seconds: 2.000 used of 2".to_owned())
        );
        assert_eq!(reached(1, &cpu(3)), None);
        assert!(reached(1, &cpu(4)).is_some());
        let dear = Totals {
            allocated_cpu_ms: 10_000,
            ..Totals::default()
        };
        assert_eq!(
            reached(0, &dear).map(|reached| reached.measure),
            Some("cost")
        );
        assert!(Budget::default().is_empty());
        assert_eq!(of(&Budget::default(), 0, &cpu(u64::MAX / 1_000_000)), None);
        let daily = Budget {
            per: Some(Period::Day),
            ..budget
        };
        assert_eq!(
            of(&daily, 0, &cpu(2)).map(|reached| reached.to_string()),
            Some("cpu_seconds: 2.000 used of 2 a day".to_owned())
        );
    }
}
