//! Broken rules, collected.

use proto::api::FieldFault;

/// Faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FieldFault>);

/// Most faults told: more would help nobody, and a hostile configuration must not grow its answer.
const MAX_FAULTS: usize = 64;

impl Faults {
    /// Adds one.
    pub(super) fn add(&mut self, name: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(FieldFault {
                name: name.into(),
                message: message.into(),
            });
        }
    }

    /// All of them, if there are any.
    pub(super) fn finish(self) -> Result<(), Vec<FieldFault>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }
}
