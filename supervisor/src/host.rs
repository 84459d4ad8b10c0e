//! What the host has left, as far as anybody can read it: memory, and the pressure of those who wait (PSI).
//!
//! Whether a session is let in depends on what this daemon's sessions wait for, because a neighbour's trouble is not theirs: where
//! there is a v2 hierarchy its own figures are asked for, elsewhere the host's. They come from the launcher, which has other things
//! to do while a crowd comes: nobody waits for them, and whoever asks gets the last ones. How many wait in pools depends on the
//! host's memory as a whole: they are nobody's, and give way to neighbours too.

use crate::broker::Broker;
use crate::meminfo::Meminfo;
use session_core::admission::Pressure;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a reading serves everyone.
const KEPT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// All of the host's memory, bytes.
    pub memory: Option<u64>,
    /// What of it is available.
    pub available: Option<u64>,
    /// Of this daemon's sessions, where it is told.
    pub pressure: Option<Pressure>,
    /// Share of the last ten seconds in which something on this host waited for memory, in percent.
    pub some_for_memory: Option<u32>,
    /// In which everything did.
    pub all_for_memory: Option<u32>,
}

impl Reading {
    /// For the size of pools.
    #[must_use]
    pub fn for_pools(&self) -> session_core::pool::Reading {
        session_core::pool::Reading {
            some: self.some_for_memory,
            full: self.all_for_memory,
            available: self.available.unwrap_or(0),
            // Without both, nothing is known.
            total: self.available.and(self.memory).unwrap_or(0),
        }
    }
}

/// The last reading, and when the next one may be begun.
#[derive(Debug, Default)]
pub struct Host(Mutex<(Option<Instant>, Reading)>);

impl Host {
    /// The last reading; begins another one if it is old.
    pub fn reading(self: &Arc<Self>, broker: &Arc<Broker>) -> Reading {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0.is_some_and(|at| at.elapsed() < KEPT) {
            return kept.1;
        }
        kept.0 = Some(Instant::now());
        let Meminfo {
            total, available, ..
        } = Meminfo::now();
        let memory = read("/proc/pressure/memory");
        kept.1 = Reading {
            memory: total,
            available,
            some_for_memory: avg10(&memory, "some "),
            all_for_memory: avg10(&memory, "full "),
            // Until there is something better.
            pressure: kept.1.pressure.or_else(everybodys),
        };
        let (host, broker) = (Arc::clone(self), Arc::clone(broker));
        tokio::spawn(async move {
            let own = broker.launcher.own_pressure().await.ok().flatten();
            let pressure = match own {
                Some(own) => Some(Pressure {
                    memory: own.memory_full / 100,
                    cpu: own.cpu / 100,
                    io: own.io_full / 100,
                }),
                None => everybodys(),
            };
            host.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .1
                .pressure = pressure;
        });
        kept.1
    }
}

/// Of everything on this host.
fn everybodys() -> Option<Pressure> {
    let of = |what: &str, line: &str| avg10(&read(&format!("/proc/pressure/{what}")), line);
    Some(Pressure {
        memory: of("memory", "full ")?,
        cpu: of("cpu", "some ")?,
        io: of("io", "full ")?,
    })
}

/// What is not there is empty.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `full avg10=1.25 avg60=…`, in whole percent.
fn avg10(text: &str, line: &str) -> Option<u32> {
    let line = text.lines().find_map(|each| each.strip_prefix(line))?;
    let value = line.split(' ').find_map(|word| word.strip_prefix("avg10="));
    let whole = value?.split('.').next()?;
    whole.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood_and_what_it_does_not_is_unknown() {
        let pressure = "some avg10=97.41 avg60=78.46 avg300=36.24 total=2\nfull avg10=3.99 avg60=0.32 avg300=0.36 total=2\n";
        assert_eq!(avg10(pressure, "some "), Some(97));
        assert_eq!(avg10(pressure, "full "), Some(3));
        assert_eq!(avg10("", "some "), None);
        assert_eq!(avg10("some avg10=nan", "some "), None);
        let reading = Reading {
            memory: Some(100),
            some_for_memory: Some(3),
            ..Reading::default()
        };
        assert_eq!(
            reading.for_pools(),
            session_core::pool::Reading {
                some: Some(3),
                ..Default::default()
            }
        );
    }
}
