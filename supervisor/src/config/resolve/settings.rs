//! Keys of what a session gets: the defaults, and the ceilings of what a runtime may ask for.

use super::Resolver;
use crate::launcher::message::Slice;
use proto::units::MemoryBytes;
use session_core::spec::Settings;

impl Resolver<'_> {
    pub(super) fn ceilings(&mut self, all: &Slice) -> Settings {
        let built_in = Settings::BUILT_IN_CEILINGS;
        Settings {
            memory: self.memory("ceilings.memory", built_in.memory),
            cpus: self.ceiling_of_cpus(all, built_in.cpus),
            pids: self.within("ceilings.pids", built_in.pids, 8..=4_194_304),
            cpu_weight: self.within("ceilings.cpu_weight", built_in.cpu_weight, 1..=10_000),
            tmp_size: self.memory("ceilings.tmp_size", built_in.tmp_size),
            idle_timeout: self.seconds(
                "ceilings.idle_timeout",
                built_in.idle_timeout,
                60..=1_209_600,
            ),
            max_lifetime: self.seconds(
                "ceilings.max_lifetime",
                built_in.max_lifetime,
                60..=1_209_600,
            ),
            start_timeout: self.seconds(
                "ceilings.start_timeout",
                built_in.start_timeout,
                1..=86_400,
            ),
            stop_grace: self.seconds("ceilings.stop_grace", built_in.stop_grace, 0..=3600),
            invocation_timeout: self.seconds(
                "ceilings.invocation_timeout",
                built_in.invocation_timeout,
                1..=1_209_600,
            ),
        }
    }

    /// Sessions need a little to live at all; below these they could not even start an interpreter.
    pub(super) fn memory(&mut self, key: &'static str, default: MemoryBytes) -> MemoryBytes {
        self.within(key, default, MemoryBytes::mib(1)..=MemoryBytes(1 << 46))
    }

    /// A default above its ceiling is a contradiction if both were typed; a ceiling typed below our own default pulls the
    /// default down with it.
    pub(super) fn defaults(&mut self, ceilings: &Settings) -> Settings {
        let built_in = Settings::BUILT_IN;
        let found = Settings {
            memory: self.memory("defaults.memory", built_in.memory.min(ceilings.memory)),
            cpus: self.or("defaults.cpus", built_in.cpus.min(ceilings.cpus)),
            pids: self.within(
                "defaults.pids",
                built_in.pids.min(ceilings.pids),
                8..=4_194_304,
            ),
            cpu_weight: self.within(
                "defaults.cpu_weight",
                built_in.cpu_weight.min(ceilings.cpu_weight),
                1..=10_000,
            ),
            tmp_size: self.memory(
                "defaults.tmp_size",
                built_in.tmp_size.min(ceilings.tmp_size),
            ),
            // The contract's minute binds what runtimes ask for, not what an operator gives to those that do not ask.
            idle_timeout: self.seconds(
                "defaults.idle_timeout",
                built_in.idle_timeout.min(ceilings.idle_timeout),
                1..=1_209_600,
            ),
            max_lifetime: self.seconds(
                "defaults.max_lifetime",
                built_in.max_lifetime.min(ceilings.max_lifetime),
                1..=1_209_600,
            ),
            start_timeout: self.seconds(
                "defaults.start_timeout",
                built_in.start_timeout.min(ceilings.start_timeout),
                1..=86_400,
            ),
            stop_grace: self.seconds(
                "defaults.stop_grace",
                built_in.stop_grace.min(ceilings.stop_grace),
                0..=3600,
            ),
            invocation_timeout: self.seconds(
                "defaults.invocation_timeout",
                built_in.invocation_timeout.min(ceilings.invocation_timeout),
                1..=1_209_600,
            ),
        };
        let over = [
            ("defaults.memory", found.memory > ceilings.memory),
            ("defaults.cpus", found.cpus > ceilings.cpus),
            ("defaults.pids", found.pids > ceilings.pids),
            (
                "defaults.cpu_weight",
                found.cpu_weight > ceilings.cpu_weight,
            ),
            ("defaults.tmp_size", found.tmp_size > ceilings.tmp_size),
            (
                "defaults.idle_timeout",
                found.idle_timeout > ceilings.idle_timeout,
            ),
            (
                "defaults.max_lifetime",
                found.max_lifetime > ceilings.max_lifetime,
            ),
            (
                "defaults.start_timeout",
                found.start_timeout > ceilings.start_timeout,
            ),
            (
                "defaults.stop_grace",
                found.stop_grace > ceilings.stop_grace,
            ),
            (
                "defaults.invocation_timeout",
                found.invocation_timeout > ceilings.invocation_timeout,
            ),
        ];
        for (key, _) in over.into_iter().filter(|(_, over)| *over) {
            self.fault(
                key,
                format!("is above `{}`", key.replace("defaults", "ceilings")),
            );
        }
        if found.idle_timeout > found.max_lifetime {
            self.fault(
                "defaults.idle_timeout",
                "must be less than or equal to `defaults.max_lifetime`",
            );
        }
        found
    }
}
