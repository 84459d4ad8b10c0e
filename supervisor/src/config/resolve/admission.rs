//! Keys of admission: when new sessions wait, and whose place they get.

use super::Resolver;
use proto::units::MemoryBytes;
use session_core::admission::{Policy, Pressure};
use std::time::Duration;

impl Resolver<'_> {
    pub(super) fn admission(&mut self) -> Policy {
        let built_in = Policy::BUILT_IN;
        let second = Duration::from_secs(1);
        let evict_after = self.duration(
            "admission.evict_after",
            built_in.evict_after.unwrap_or_default(),
            Duration::ZERO..=1_209_600 * second,
        );
        let reserve = self.within(
            "admission.memory_reserve",
            MemoryBytes(built_in.memory_reserve),
            MemoryBytes(0)..=MemoryBytes(1 << 46),
        );
        let mut percent = |key, default| self.within(key, default, 0..=100);
        Policy {
            most_pressure: Pressure {
                memory: percent("admission.memory_pressure", built_in.most_pressure.memory),
                cpu: percent("admission.cpu_pressure", built_in.most_pressure.cpu),
                io: percent("admission.io_pressure", built_in.most_pressure.io),
            },
            memory_ratio: self.within(
                "admission.memory_ratio",
                built_in.memory_ratio,
                0.0..=10_000.0,
            ),
            memory_reserve: reserve.0,
            evict_after: Some(evict_after).filter(|after| !after.is_zero()),
        }
    }
}
