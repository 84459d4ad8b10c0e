//! What was measured, one number per repetition.

use serde::Serialize;
use std::time::Duration;

/// Samples of one quantity, in the order in which they were taken.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In milliseconds.
    pub(crate) fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    /// In microseconds.
    pub(crate) fn push_us(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e6);
    }

    /// The smallest sample that `share` of all samples do not exceed; not a number without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        // Nearest rank, by counting instead of by casting.
        let mut seen = 0.0;
        let whole = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
        for value in &sorted {
            seen += 1.0;
            if seen >= share * whole {
                return *value;
            }
        }
        f64::NAN
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut samples = Samples::default();
        for value in [5.0, 1.0, 3.0, 2.0, 4.0] {
            samples.push(value);
        }
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 1e-9;
        assert!(close(samples.median(), 3.0));
        assert!(close(samples.quantile(0.99), 5.0));
        assert!(close(samples.quantile(0.0), 1.0));
        assert!(Samples::default().median().is_nan());
    }
}
