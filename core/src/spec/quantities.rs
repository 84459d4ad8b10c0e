//! Limits and timeouts: the user's where he says, else the operator's default, never above the operator's ceiling.

use super::faults::Faults;
use super::{HostPolicy, Limits, Timeouts};
use proto::config::{Lifecycle, Resources};
use proto::units::{CpuMillis, MemoryBytes, Seconds};
use std::fmt::Display;

/// Least memory of a session: below it not even a small native agent and its shim start.
const MIN_MEMORY: MemoryBytes = MemoryBytes::mib(16);

/// Least size of a tmpfs.
const MIN_TMP: MemoryBytes = MemoryBytes::mib(1);

/// Fewest processes and threads: the shim, an agent with a few threads, one `exec`.
const MIN_PIDS: u32 = 8;

/// Least idle timeout and lifetime (contract §3.2).
const MIN_LIFETIME: Seconds = Seconds(60);

/// The longest idle time that freezes: as long as a session may live at all.
const MAX_FREEZE_AFTER: Seconds = Seconds(1_209_600);

/// A quantity that can be told to people.
trait Quantity: PartialOrd + Copy {
    fn told(self) -> String;
}

impl Quantity for MemoryBytes {
    fn told(self) -> String {
        self.to_string()
    }
}

impl Quantity for CpuMillis {
    fn told(self) -> String {
        self.cpus().to_string()
    }
}

impl Quantity for Seconds {
    fn told(self) -> String {
        format!("{} s", self.0)
    }
}

impl Quantity for u32 {
    fn told(self) -> String {
        self.to_string()
    }
}

/// The value asked for, or the default; a fault if it is out of bounds.
fn bounded<Q: Quantity>(
    name: &str,
    asked: Option<Q>,
    default: Q,
    (least, ceiling): (Q, Q),
    faults: &mut Faults,
) -> Q {
    let Some(asked) = asked else {
        return default;
    };
    let out_of = |what: &dyn Display| format!("must be {what}, is {}", asked.told());
    if asked < least {
        faults.add(name, out_of(&format_args!("at least {}", least.told())));
    } else if asked > ceiling {
        let told = ceiling.told();
        faults.add(
            name,
            out_of(&format_args!(
                "at most {told}, which is this host's ceiling"
            )),
        );
    }
    asked
}

/// The limits; worthless after a fault.
pub(super) fn limits(asked: &Resources, policy: &HostPolicy, faults: &mut Faults) -> Limits {
    let HostPolicy {
        defaults, ceilings, ..
    } = policy;
    Limits {
        memory: bounded(
            "resources.memory",
            asked.memory,
            defaults.memory,
            (MIN_MEMORY, ceilings.memory),
            faults,
        ),
        cpus: bounded(
            "resources.cpus",
            asked.cpus,
            defaults.cpus,
            (CpuMillis(10), ceilings.cpus),
            faults,
        ),
        pids: bounded(
            "resources.pids",
            asked.pids,
            defaults.pids,
            (MIN_PIDS, ceilings.pids),
            faults,
        ),
        cpu_weight: bounded(
            "resources.cpu_weight",
            asked.cpu_weight,
            defaults.cpu_weight,
            (1, ceilings.cpu_weight),
            faults,
        ),
        tmp_size: bounded(
            "resources.tmp_size",
            asked.tmp_size,
            defaults.tmp_size,
            (MIN_TMP, ceilings.tmp_size),
            faults,
        ),
        open_files: policy.open_files,
    }
}

/// The timeouts; worthless after a fault. Contract §3.5: only a lifetime M given ▸ idle = min(default, M); only an idle
/// time given ▸ the default lifetime; idle must not exceed the lifetime.
pub(super) fn timeouts(asked: &Lifecycle, policy: &HostPolicy, faults: &mut Faults) -> Timeouts {
    let HostPolicy {
        defaults, ceilings, ..
    } = policy;
    let mut take = |name, asked, default, least, ceiling| {
        bounded(name, asked, default, (least, ceiling), faults)
    };
    let max_lifetime = take(
        "lifecycle.max_lifetime",
        asked.max_lifetime,
        defaults.max_lifetime,
        MIN_LIFETIME,
        ceilings.max_lifetime,
    );
    let idle = take(
        "lifecycle.idle_timeout",
        asked.idle_timeout,
        defaults.idle_timeout.min(max_lifetime),
        MIN_LIFETIME,
        ceilings.idle_timeout,
    );
    let start = take(
        "lifecycle.start_timeout",
        asked.start_timeout,
        defaults.start_timeout,
        Seconds(1),
        ceilings.start_timeout,
    );
    let stop_grace = take(
        "lifecycle.stop_grace",
        asked.stop_grace,
        defaults.stop_grace,
        Seconds(0),
        ceilings.stop_grace,
    );
    let invocation = take(
        "lifecycle.invocation_timeout",
        asked.invocation_timeout,
        defaults.invocation_timeout,
        Seconds(1),
        ceilings.invocation_timeout,
    );
    let freeze_after = take(
        "lifecycle.freeze_after",
        asked.freeze_after,
        policy.freeze_after,
        Seconds(0),
        MAX_FREEZE_AFTER,
    );
    if idle > max_lifetime {
        faults.add(
            "lifecycle.idle_timeout",
            format!(
                "must be less than or equal to max_lifetime ({}), is {}",
                max_lifetime.told(),
                idle.told()
            ),
        );
    }
    Timeouts {
        idle: idle.duration(),
        max_lifetime: max_lifetime.duration(),
        start: start.duration(),
        stop_grace: stop_grace.duration(),
        invocation: invocation.duration(),
        freeze_after: Some(freeze_after.duration()).filter(|after| !after.is_zero()),
    }
}
