//! Keys of the ledger: how long records are kept, and what usage costs.

use super::Resolver;
use crate::config::Keep;
use proto::config::{Budget, Budgets};
use session_core::prices::Prices;
use std::time::Duration;

/// The most that anything may cost.
const DEAREST: f64 = 1e6;

impl Resolver<'_> {
    pub(super) fn ledger(&mut self) -> Keep {
        let day = Duration::from_secs(86_400);
        Keep {
            keep: self.duration("ledger.keep", 366 * day, day..=366 * day),
            keep_invocations: self.duration("ledger.keep_invocations", 30 * day, day..=366 * day),
            max_invocations: self.within("ledger.max_invocations", 1_000_000, 1000..=1_000_000_000),
        }
    }

    pub(super) fn budgets(&mut self) -> Budgets {
        Budgets {
            session: self.budget("budgets.session", true),
            user: self.budget("budgets.user", false),
            runtime: self.budget("budgets.runtime", false),
        }
    }

    fn budget(&mut self, key: &'static str, lifelong: bool) -> Budget {
        self.checked(key, Budget::default(), |budget: &Budget| {
            let first = budget.faults(lifelong).into_iter().next();
            first.map_or(Ok(()), |(name, fault)| {
                Err(format!("has a bad {name}: it {fault}"))
            })
        })
    }

    pub(super) fn prices(&mut self) -> Prices {
        let currency = self.checked("prices.currency", "USD".to_owned(), |text: &String| {
            let plain = text.chars().all(|c| c.is_ascii_alphanumeric());
            if plain && (1..=8).contains(&text.len()) {
                Ok(())
            } else {
                Err("must be 1 to 8 letters or digits, such as \"USD\"".to_owned())
            }
        });
        Prices {
            currency,
            cpu_hour: self.within("prices.cpu_hour", 0.0895, 0.0..=DEAREST),
            memory_gb_hour: self.within("prices.memory_gb_hour", 0.009_45, 0.0..=DEAREST),
            million_invocations: self.within("prices.million_invocations", 0.2, 0.0..=DEAREST),
            aws_cpu_hour: self.within("prices.aws_cpu_hour", 0.0895, 0.0..=DEAREST),
            aws_memory_gb_hour: self.within("prices.aws_memory_gb_hour", 0.009_45, 0.0..=DEAREST),
        }
    }
}
