//! The warm pool of a runtime.

use super::SessionStorage;
use super::faults::Faults;
use super::policy::PoolGrant;
use crate::pool::Bounds;
use proto::config::Pool;

/// The pool's bounds; worthless after a fault.
pub(super) fn resolve(
    asked: &Pool,
    grant: &PoolGrant,
    storage: Option<&SessionStorage>,
    faults: &mut Faults,
) -> Bounds {
    for (name, value) in [("pool.min", asked.min), ("pool.max", asked.max)] {
        if let Some(value) = value.filter(|value| *value > grant.ceiling) {
            let ceiling = grant.ceiling;
            faults.add(
                name,
                format!("must be at most {ceiling} (the operator's pool.total), is {value}"),
            );
        }
    }
    let asks = |value: Option<u32>| value.is_some_and(|value| value > 0);
    if storage.is_some() {
        for (name, value) in [("pool.min", asked.min), ("pool.max", asked.max)] {
            if asks(value) {
                faults.add(
                    name,
                    "asks for sessions that wait for their caller, and `storage` is mounted for one caller when a session is made; leave one of them out",
                );
            }
        }
        return Bounds::default();
    }
    // Who says one of the two means it, whatever the operator's default of the other is.
    let (min, max) = match (asked.min, asked.max) {
        (None, None) => (grant.bounds.min, grant.bounds.max),
        (Some(min), None) => (min, grant.bounds.max.max(min)),
        (None, Some(max)) => (grant.bounds.min.min(max), max),
        (Some(min), Some(max)) => (min, max),
    };
    if min > max {
        faults.add(
            "pool.min",
            format!("must be at most `pool.max`, which is {max}; is {min}"),
        );
    }
    Bounds { min, max }
}
