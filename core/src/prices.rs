//! What usage costs, by two price tables.
//!
//! - **Ours** charges a session for what it may use (its memory and CPU limits) while it is active, and a little for each
//!   invocation; nothing while it is idle or frozen.
//! - **AWS's** is its public rule (contract §6.2): CPU time that was used, and the highest memory so far, 128 MB at least, for as
//!   long as the session is there, idle or not. It tells what the same sessions would have cost there.

use crate::meter::Totals;

/// kB·s in a GB·h.
const KBS_PER_GB_HOUR: f64 = 1e6 * 3600.0;

/// Prices in one currency.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    /// Its name, for people.
    pub currency: String,
    /// A CPU for an hour of active time.
    pub cpu_hour: f64,
    /// A GB (10⁹ bytes) of memory for an hour of active time.
    pub memory_gb_hour: f64,
    /// A million invocations.
    pub million_invocations: f64,
    /// An hour of CPU time at AWS.
    pub aws_cpu_hour: f64,
    /// A GB for an hour there.
    pub aws_memory_gb_hour: f64,
}

impl Prices {
    /// By our table.
    #[must_use]
    pub fn cost(&self, used: &Totals) -> f64 {
        number(used.allocated_cpu_ms) / 3.6e6 * self.cpu_hour
            + number(used.allocated_memory_kbs) / KBS_PER_GB_HOUR * self.memory_gb_hour
            + number(used.invocations) / 1e6 * self.million_invocations
    }

    /// By AWS's.
    #[must_use]
    pub fn aws_cost(&self, used: &Totals) -> f64 {
        number(used.cpu_us) / 3.6e9 * self.aws_cpu_hour
            + number(used.memory_aws_kbs) / KBS_PER_GB_HOUR * self.aws_memory_gb_hour
    }
}

/// For sums that people read; 2^53 is far above what a machine can use.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
#[must_use]
pub fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_each() {
        let prices = Prices {
            currency: "USD".to_owned(),
            cpu_hour: 0.1,
            memory_gb_hour: 0.01,
            million_invocations: 0.2,
            aws_cpu_hour: 0.0895,
            aws_memory_gb_hour: 0.00945,
        };
        let used = Totals {
            wall_ms: 7_200_000,
            active_ms: 3_600_000,
            cpu_us: 1_800_000_000,
            memory_aws_kbs: 2 * 3_600_000_000,
            allocated_cpu_ms: 2 * 3_600_000,
            allocated_memory_kbs: 4 * 3_600_000_000,
            invocations: 500_000,
            ..Totals::default()
        };
        assert!((prices.cost(&used) - (0.2 + 0.04 + 0.1)).abs() < 1e-9);
        assert!((prices.aws_cost(&used) - (0.04475 + 0.0189)).abs() < 1e-9);
        let idle = Totals {
            wall_ms: 7_200_000,
            memory_kbs: 9,
            ..Totals::default()
        };
        assert!(prices.cost(&idle).abs() < 1e-12);
    }
}
